"The lists of MRM beside those of REFERS: which file counts for which share, and what cannot be"
import pytest
from source_trees import lists, mrm, nih, told

from refers_nb.core import InputError
from refers_nb.data.lists import LISTED, list_part, listed_name, released_lists
from refers_nb.data.prepare import prepare
from refers_nb.data.sources.nih14 import nih14

def row(i, *present): return f'{i//2:08d}_{i%2:03d}.png', [int(j in present) for j in range(14)]

def nih_lists(root):
    "Lists of MRM of the 30 images of `nih`: single images, as they are"
    rows = [row(i) for i in range(30)]
    return mrm(root, 'nih14', dict(train_1=rows[4:6], train_10=rows[4:10], train_list=rows[4:20], val_list=rows[20:24],
                                   test_list=rows[24:]))

def splits(df): return df['split'].value_counts().to_dict()

@pytest.mark.parametrize('share, train', [(1, 2), (10, 6), (100, 16)])
def test_a_share_is_the_training_part(tmp_path, share, train):
    d = nih_lists(tmp_path)
    for place in (d, d.parent, d/'NIH_ChestX-ray'):
        df = nih14(nih(tmp_path/'nih'), lists=place, share=share)
        assert splits(df) == dict(train=train, valid=4, test=6)
    assert told(df, f'{30 - 10 - train} images are in no split') == (train < 20)
    assert told(df, f'Split of MRM, {share} %')

def test_the_labels_of_the_download_count(tmp_path):
    rows = [row(i, 13) for i in range(30)]
    d = mrm(tmp_path, 'nih14', dict(train_list=rows[:20], val_list=rows[20:24], test_list=rows[24:]))
    assert told(nih14(nih(tmp_path/'nih'), lists=d), 'labels of its lists are not as in the files')

def test_the_command_takes_a_share(tmp_path):
    df = prepare('nih14', nih(tmp_path/'nih'), tmp_path/'out', size=32, lists=nih_lists(tmp_path), share='1')
    assert splits(df) == dict(train=2, valid=4, test=6)
    with pytest.raises(InputError, match='option share = few'):
        prepare('nih14', tmp_path/'nih', tmp_path/'x', lists=tmp_path, share='few')

def test_lists_of_refers_have_no_share(tmp_path):
    rows = [row(i) for i in range(30)]
    d = lists(tmp_path, 'nih14', dict(val=rows[20:24], test=rows[24:]))
    assert splits(nih14(nih(tmp_path/'nih'), lists=d)) == dict(train=20, valid=4, test=6)
    with pytest.raises(InputError, match='no train_1.txt of nih14; MRM has such lists'): nih14(tmp_path/'nih', lists=d, share=1)
    with pytest.raises(InputError, match='give lists=DatasetsSplits'): nih14(tmp_path/'nih', share=1)

@pytest.mark.parametrize('name, share, part', [
    ('train.txt', 100, 'train'), ('train_list.txt', 100, 'train'), ('TRAIN_1.TXT', 1, 'train'), ('train_10.txt', 1, None),
    ('train_1.txt', 100, None), ('train.txt', 10, None), ('val.txt', 1, 'valid'), ('val_list.txt', 10, 'valid'),
    ('valid.txt', 100, 'valid'), ('test_list.txt', 100, 'test')])
def test_what_a_list_is(tmp_path, name, share, part): assert list_part(tmp_path/name, share) == part

@pytest.mark.parametrize('name', ['train_5.txt', 'val_1.txt', 'test_10.txt', 'iscovid_test.txt', 'train-list.txt', 'lists.txt'])
def test_names_that_tell_nothing(tmp_path, name):
    d = nih_lists(tmp_path)
    (d/'NIH_ChestX-ray'/name).write_text('')
    with pytest.raises(InputError, match='the lists are named'): released_lists(d, 'nih14')

def test_lists_that_are_none(tmp_path):
    d = nih_lists(tmp_path)
    for source in ('covid', 'siim', 'chexpert'):
        with pytest.raises(InputError, match=f'no list of {source}'): released_lists(d, source)
    with pytest.raises(InputError, match='there are lists of nih14'): released_lists(d, 'padchest')
    d = mrm(tmp_path, 'chexpert', dict(train_1=[('a/patient1/study1/view1_frontal.jpg', (1, 0, 0, 0))]))
    with pytest.raises(InputError, match='train_1.txt:1: expected a file name and 5 times 0 or 1'):
        released_lists(d, 'chexpert', 1)
    d = mrm(tmp_path, 'siim', dict(train_list=[('1.2.3', ())], val_list=[('1.2.3', ())]))
    with pytest.raises(InputError, match='1.2.3 is listed twice'): released_lists(d, 'siim')

def test_names_of_images():
    assert listed_name('x/train/patient00001/study2/view1_frontal.jpg', 'chexpert') == 'patient00001-study2-view1_frontal.jpg'
    assert listed_name('stage_2_train_images\\aa.dcm', 'rsna') == 'aa.dcm'
    assert set(LISTED) == {'nih14', 'vinbig', 'shenzhen', 'covid', 'chexpert', 'rsna', 'siim'}
