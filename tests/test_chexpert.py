"CheXpert: invented trees in its layout, both of its small parts, the lists of MRM, and tables that are damaged"
import numpy as np
import pandas as pd
import pytest
from source_trees import chex, image, mrm, told

from refers_nb.core import InputError
from refers_nb.data.labeller import CHEXPERT_FINDINGS
from refers_nb.data.prepare import prepare
from refers_nb.data.sources.chexpert import chexpert, chexpert_places
from refers_nb.data.sources.raw import EXPECTED
from refers_nb.data.studies import annotation_names, label_names

RULES = dict(missing=None, positive=1, negative=0)

def splits(df): return df['split'].value_counts().to_dict()

def test_chexpert(tmp_path):
    df = chexpert(chex(tmp_path))
    assert len(df) == 44 and df['study'].nunique() == 44 and df['patient'].nunique() == 22
    assert label_names(df) == CHEXPERT_FINDINGS
    assert annotation_names(df) == dict(chexpert=CHEXPERT_FINDINGS, radiologists=CHEXPERT_FINDINGS)
    assert df['view'].value_counts().to_dict() == dict(AP=15, PA=15, LATERAL=14)
    assert df.groupby('patient')['split'].nunique().max() == 1
    assert (df['split'] == 'test').sum() == 4 and set(df['patient'][df['split'] == 'test']) == {'patient64541', 'patient64542'}
    assert set(df['sex']) == {'F', 'M'} and df['age'].min() == 40 and (df['report'] == '').all()
    assert told(df, f"{EXPECTED['chexpert']:,}", '44 are here') and told(df, 'valid.csv is the test part')

def test_the_four_states_of_a_finding_stay_four(tmp_path):
    df = chexpert(chex(tmp_path))
    train = df[df['chexpert:Edema'].notna() | df['path'].str.contains('train/')]
    said = train['chexpert:Edema'].fillna(9).value_counts().to_dict()
    assert said == {1: 10, 0: 10, -1: 10, 9: 10}
    people = df[df['path'].str.contains('valid/')]
    assert people['chexpert:Edema'].isna().all() and set(people['radiologists:Edema']) == {0, 1}
    assert (people['label:Edema'] == people['radiologists:Edema']).all()

@pytest.mark.parametrize('uncertain', RULES)
@pytest.mark.parametrize('blank', RULES)
def test_labels_by_rule(tmp_path, uncertain, blank):
    df = chexpert(chex(tmp_path, 8), uncertain=uncertain, blank=blank)
    df = df[df['path'].str.contains('train/')]
    want = [RULES[blank] if np.isnan(o) else RULES[uncertain] if o == -1 else o for o in df['chexpert:Edema']]
    assert [None if np.isnan(o) else o for o in df['label:Edema']] == want
    assert told(chexpert(tmp_path, uncertain=uncertain, blank=blank),
                f'an uncertain finding counts as {uncertain}, one that is not mentioned as {blank}')

def test_what_valid_csv_is(tmp_path):
    raw = chex(tmp_path, tests=3)
    auto = chexpert(raw)
    assert len(auto) == 50 and splits(auto) == dict(train=40, test=6, valid=4)
    assert set(auto['view'][auto['split'] == 'test']) == {'UNKNOWN', 'LATERAL'}
    as_test = chexpert(raw, official='test')
    assert splits(as_test)['test'] == 4 and told(as_test, '6 images are in no split and left out')
    assert splits(chexpert(raw, official='valid')) == splits(auto)
    (raw/'groundtruth.csv').unlink()
    dealt = chexpert(raw, official='valid')
    assert splits(dealt)['valid'] == 4 and splits(dealt)['test'] == 4 and told(dealt, 'a tenth of the training patients')
    for o in (auto, as_test, dealt): assert o.groupby('patient')['split'].nunique().max() == 1

def test_labels_of_the_test_set_by_image_and_of_studies_that_are_not_here(tmp_path):
    raw = chex(tmp_path, tests=2)
    truth = pd.read_csv(raw/'groundtruth.csv')
    for i, o in enumerate(truth['Study']): (raw/o.split('/', 1)[1]/'view2_lateral.jpg').unlink()
    by_image = truth.assign(Path=truth['Study'] + '/view1_frontal.jpg').drop(columns='Study')
    (raw/'groundtruth.csv').unlink()
    by_image.to_csv(raw/'test_labels.csv', index=False)
    df = chexpert(raw)
    assert (df['split'] == 'test').sum() == 2
    by_image.drop(columns='Path').to_csv(raw/'test_labels.csv', index=False)
    with pytest.raises(InputError, match='lacks a column Study or Path'): chexpert(raw)

def test_the_full_release_has_folders_of_other_names(tmp_path):
    raw = chex(tmp_path/'a', 12)
    before = chexpert(raw)
    (raw/'CheXpert-v1.0 batch 2 (train 1)').mkdir()
    (raw/'train').rename(raw/'CheXpert-v1.0 batch 2 (train 1)'/'train 1')
    (raw/'valid').rename(raw/'CheXpert-v1.0 batch 1 (validate & csv)')
    df = chexpert(raw)
    assert list(df['study']) == list(before['study']) and not df.attrs['missing'] and not df.attrs['extra']

def test_an_image_that_is_lost_is_named_by_its_place(tmp_path):
    raw = chex(tmp_path, 12)
    (raw/'train'/'patient00003'/'study1'/'view1_frontal.jpg').unlink()
    image(raw/'train'/'patient00003'/'study1'/'view9_frontal.jpg')
    df = chexpert(raw)
    assert df.attrs['missing'] == ['patient00003/study1/view1_frontal.jpg']
    assert df.attrs['extra'] == ['train/patient00003/study1/view9_frontal.jpg']

def mrm_rows(*places): return [(f'CheXpert-v1.0-small/{o}', (0, 1, 0, 0, 0)) for o in places]

def test_lists_of_mrm(tmp_path):
    raw = chex(tmp_path/'raw', tests=1)
    one = 'train/patient00000/study1/view1_frontal.jpg'
    same_patient, other = 'train/patient00000/study2/view1_frontal.jpg', 'train/patient00003/study1/view1_frontal.jpg'
    d = mrm(tmp_path, 'chexpert', dict(
        train_1=mrm_rows(one), train_10=mrm_rows(one, 'train/patient00004/study2/view1_frontal.jpg'),
        val_list=mrm_rows(same_patient, other), test_list=mrm_rows('valid/patient64541/study1/view1_frontal.jpg')))
    df = chexpert(raw, lists=d, share=1)
    assert splits(df) == dict(train=1, valid=1, test=1) and told(df, '1 validation image is of a patient who is trained on')
    assert told(df, 'Split of MRM, 1 % of the training images') and not df['path'].str.startswith('test/').any()
    assert splits(chexpert(raw, lists=d, share=10)) == dict(train=2, valid=1, test=1)
    whole = chexpert(raw, lists=d)
    assert splits(whole)['train'] == 40 - 2, 'all of train.csv that the others leave'
    with pytest.raises(InputError, match='give one of them'): chexpert(raw, lists=d, official='test')
    with pytest.raises(InputError, match='give lists'): chexpert(raw, share=1)

def spoil(raw, column, value, row=3):
    "Write a value into train.csv"
    df = pd.read_csv(raw/'train.csv', dtype='str')
    df.loc[row, column] = value
    df.to_csv(raw/'train.csv', index=False)

@pytest.mark.parametrize('column, value, words', [
    ('Edema', '2', "row 3: Edema is '2'; expected 1, 0, -1 or nothing"), ('Edema', 'yes', "row 3: Edema is 'yes'"),
    ('Path', 'view1_frontal.jpg', 'row 3: .* is no path such as'), ('Path', None, 'row 3: no Path'),
    ('Path', 'train/patient00000/study1/view1_frontal.jpg', None)])
def test_damaged_rows(tmp_path, column, value, words):
    raw = chex(tmp_path)
    spoil(raw, column, value)
    with pytest.raises(InputError, match=words or 'is in two of its tables') as e: chexpert(raw)
    assert '\n' not in str(e.value)

def test_other_bad_input(tmp_path):
    raw = chex(tmp_path)
    for kw in (dict(official='dev'), dict(uncertain='maybe'), dict(blank=''), dict(share=5)):
        with pytest.raises(InputError, match='expected'): chexpert(raw, **kw)
    table = pd.read_csv(raw/'train.csv')
    table.drop(columns='Fracture').to_csv(raw/'train.csv', index=False)
    with pytest.raises(InputError, match='lacks the column Fracture'): chexpert(raw)
    (raw/'train.csv').unlink()
    with pytest.raises(InputError, match='no train.csv'): chexpert(raw)
    with pytest.raises(InputError, match='leads nowhere|is no path'): chexpert_places(pd.Series(['../../etc/passwd']), 'x')

def test_odd_ages_sexes_and_directions(tmp_path):
    raw = chex(tmp_path)
    spoil(raw, 'Sex', 'Unknown', 0)
    spoil(raw, 'AP/PA', 'LL', 1)
    spoil(raw, 'AP/PA', None, 3)
    spoil(raw, 'Age', '411', 4)
    df = chexpert(raw).set_index('study')
    assert df['sex'].iloc[0] == '' and list(df['view'].iloc[[1, 3]]) == ['UNKNOWN']*2 and np.isnan(df['age'].iloc[4])

def test_prepared(tmp_path):
    raw, out = chex(tmp_path/'raw', 24), tmp_path/'out'
    bad = raw/'train'/'patient00001'/'study1'/'view2_lateral.jpg'
    bad.write_bytes(bad.read_bytes()[:100])
    df = prepare('chexpert', raw, out, size=32, blank='negative')
    assert len(df) == 27 and 'patient00001' in (out/'rejected.csv').read_text()
    card = (out/'card.md').read_text()
    assert 'Stanford' in card and 'images by chexpert' in card and 'images by radiologists' in card
