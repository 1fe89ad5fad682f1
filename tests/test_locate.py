"Locating images: each name finds its own image or none"
import os
import unicodedata

import pytest
from source_trees import image

from refers_nb.data.sources.locate import image_files, locate

def found(names, root):
    "Paths by name in their order, - where there is none"
    return list(locate(names, root).fillna('-'))

def lay(root, *paths):
    "Write images"
    for i, o in enumerate(paths): image(root/o, i)
    return root

def test_names_are_found_by_path_name_and_stem_and_the_rest_is_extra(tmp_path):
    lay(tmp_path, 'a/1.png', 'b/1.png', 'b/2.webp', 'c/3.dcm.png', '.hidden/4.png', 'a/._1.png')
    (tmp_path/'c/5.txt').write_text('x')
    os.symlink(tmp_path/'a', tmp_path/'b'/'loop')
    os.symlink(tmp_path, tmp_path/'a'/'up')
    names = ['b/1.png', '1.png', '2.png', '3.dcm', '4.png', None, '', '9.png']
    assert found(names, tmp_path) == ['b/1.png', 'a/1.png', 'b/2.webp', 'c/3.dcm.png', '-', '-', '-', '-']
    assert locate(names, tmp_path).attrs['extra'] == []
    two = locate(['1.png'], tmp_path)
    assert two.isna().all() and two.attrs['doubtful'] == ['1.png'], 'nobody knows which of two'
    assert two.attrs['extra'] == ['a/1.png', 'b/1.png', 'b/2.webp', 'c/3.dcm.png']

def test_a_lost_image_is_not_replaced_by_another_of_its_name(tmp_path):
    lay(tmp_path, 'p1/view2.png', 'p2/view1.webp', 'p3/view1.png', '1.2.840.png')
    (tmp_path/'1.2.840.113.7.dcm').write_bytes(b'')
    names = ['p1/view1.png', 'p2/view1.png', 'p3/view1.png', './p1//view2.png',
             '1.2.840.113.7', '1.2.840.113.8', '1.2.840.jpg', 'p9/view2.png']
    assert found(names, tmp_path) == ['-', 'p2/view1.webp', 'p3/view1.png', 'p1/view2.png',
                                      '1.2.840.113.7.dcm', '-', '1.2.840.png', '-']
    assert locate(names, tmp_path).attrs['extra'] == []

@pytest.mark.parametrize('names,files', [
    (['p1/s1/frontal.png', 'p2/s1/lateral.png'], ['p7/s1/frontal.png', 'p2/s1/lateral.png']),
    (['cases/anna/1.jpg', 'cases/bert/2.jpg'], ['cases/carl/1.png', 'cases/bert/2.png']),
    (['train/NORMAL/1.png', 'train/NORMAL/2.png'], ['test/NORMAL/1.png', 'train/NORMAL/2.png']),
    (['P1\\A.PNG', 'P2\\B.PNG'], ['q1/a.png', 'p2/b.png']),
    (['/data/me/cxr/p1/s1/a.png', '/data/me/cxr/p2/s1/b.png'], ['p3/s1/a.png', 'p2/s1/b.png']),
    (['p1/a', 'p2/b'], ['p9/a.png', 'p2/b.png']),
    (['p1/view1.png', 'p2/view2.png'], ['view1.png', 'p2/view2.png'])])
def test_no_image_of_another_folder(tmp_path, names, files):
    "The second name has its file, the first has lost it: one of that name lies elsewhere and no row names it"
    lay(tmp_path, *files)
    assert found(names, tmp_path) == ['-', files[1]]
    assert found(names[:1], tmp_path) == ['-']

@pytest.mark.parametrize('names,files', [
    (['release/train/p1/a.png', 'release/train/p2/a.png'], ['train/p1/a.png', 'train/p2/a.png']),
    (['mnt/data/x/p1/s1/a.jpg', 'mnt/data/x/p2/s1/a.jpg'], ['p1/s1/a.webp', 'p2/s1/a.webp']),
    (['p1/a.png', 'p2/a.png'], ['unpacked/files/p1/a.png', 'unpacked/files/p2/a.png']),
    (['pictures/1.png', 'pictures/2.png'], ['1.png', '2.png']),
    (['P1\\S1\\A.PNG', 'P2\\S1\\A.PNG'], ['x/p1/s1/a.png', 'x/p2/s1/a.png']),
    (['D:\\cxr\\p1\\a.png', 'D:\\cxr\\p2\\a.png'], ['p1/a.png', 'p2/a.png']),
    (['./p1/IMG 1.JPG', 'p2/Größe.jpg'], ['p1/img 1.jpg', f"p2/{unicodedata.normalize('NFD', 'größe')}.png"]),
    (['train/p1/a.png', 'valid/p1/a.png'], ['x/train/p1/a.png', 'x/valid/p1/a.png'])])
def test_one_path_may_go_on_where_the_other_begins(tmp_path, names, files):
    lay(tmp_path, *files)
    assert found(names, tmp_path) == files
    assert locate(names, tmp_path).attrs == dict(extra=[], doubtful=[])

def test_the_folder_in_which_we_stand_tells_nothing(tmp_path):
    root = lay(tmp_path/'Set-1', 'a.png', 'sub/b.png')
    assert found(['Set-1/a.png', 'Set-1/sub/b.png', 'x/y/Set-1/sub/b.jpg'], root) == ['a.png', 'sub/b.png', '-']
    assert found(['old/set-1/a.png', 'Set-2/c.png'], root) == ['a.png', '-']

def test_the_longest_common_end_counts_and_equal_ones_are_a_question(tmp_path):
    lay(tmp_path, 'x/p1/a.png', 'x/train/p1/a.png', 'y/p2/b.png', 'z/p2/b.png')
    assert found(['train/p1/a.png', 'p2/b.png'], tmp_path) == ['x/train/p1/a.png', '-']
    one_file = locate(['A/q/p1/a.png', 'B/q/p1/a.png'], lay(tmp_path/'other', 'p1/a.png'))
    assert one_file.isna().all() and len(one_file.attrs['doubtful']) == 2, 'which of the two is it?'

def test_one_image_in_two_formats_will_do_for_a_bare_name(tmp_path):
    lay(tmp_path, 'train/a.jpg', 'train/a.png')
    assert found(['a'], tmp_path) == ['train/a.jpg']
    assert found(['a.png'], tmp_path) == ['train/a.png']

def test_a_file_that_no_extension_makes_an_image_counts_where_it_is_named(tmp_path):
    names = ['CR/6154', 'CR/1.2.840.113', 'x.ima', 'x.jfif', 'list.csv', 'notes.txt']
    for o in names:
        (tmp_path/'dump'/o).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path/'dump'/o).write_bytes(b'?')
    assert image_files(tmp_path) == []
    assert found(names, tmp_path/'dump') == [*names[:4], '-', '-']
    assert found(['6154', 'CR/615', 'cr/6155', 'X'], tmp_path) == ['dump/CR/6154', '-', '-', '-']
    assert locate(['x.ima'], tmp_path).attrs['extra'] == []
