"Locating images: each name finds its own image or none"
import os

from source_trees import image

from refers_nb.data.sources.locate import locate

def found(names, root):
    "Paths by name in their order, - where there is none"
    return list(locate(names, root).fillna('-'))

def test_names_are_found_by_path_name_and_stem_and_the_rest_is_extra(tmp_path):
    for o in ('a/1.png', 'b/1.png', 'b/2.webp', 'c/3.dcm.png', '.hidden/4.png', 'a/._1.png'): image(tmp_path/o)
    (tmp_path/'c/5.txt').write_text('x')
    os.symlink(tmp_path/'a', tmp_path/'b'/'loop')
    os.symlink(tmp_path, tmp_path/'a'/'up')
    names = ['b/1.png', '1.png', '2.png', '3.dcm', '4.png', None, '', '9.png']
    assert found(names, tmp_path) == ['b/1.png', 'a/1.png', 'b/2.webp', 'c/3.dcm.png', '-', '-', '-', '-']
    assert locate(names, tmp_path).attrs['extra'] == []
    assert locate(['1.png'], tmp_path).attrs['extra'] == ['b/1.png', 'b/2.webp', 'c/3.dcm.png']

def test_a_lost_image_is_not_replaced_by_another_of_its_name(tmp_path):
    for o in ('p1/view2.png', 'p2/view1.webp', 'p3/view1.png', '1.2.840.png'): image(tmp_path/o)
    (tmp_path/'1.2.840.113.7.dcm').write_bytes(b'')
    names = ['p1/view1.png', 'p2/view1.png', 'p3/view1.png', './p1//view2.png',
             '1.2.840.113.7', '1.2.840.113.8', '1.2.840.jpg', 'p9/view2.png']
    assert found(names, tmp_path) == ['-', 'p2/view1.webp', 'p3/view1.png', 'p1/view2.png',
                                      '1.2.840.113.7.dcm', '-', '1.2.840.png', '-']
    assert locate(names, tmp_path).attrs['extra'] == []
    image(tmp_path/'p4'/'view1.png')
    one_or_two = ['x/view2.jpg', 'x/view1.png']
    assert found(one_or_two, tmp_path) == ['p1/view2.png', '-'], 'one file of that name will do, two are a question'
