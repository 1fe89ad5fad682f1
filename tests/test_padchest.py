"PadChest: an invented tree in its layout; lists of words that are no lists; which labels become columns"
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from source_trees import pad, told

from refers_nb.core import InputError
from refers_nb.data.prepare import prepare
from refers_nb.data.sources.padchest import padchest, padchest_rows, word_list
from refers_nb.data.store import ImageStore
from refers_nb.data.studies import label_names

COMMON = ['cardiomegaly', 'pleural effusion', 'rib fracture']

def table_of(raw):
    "The CSV of a tree, and its path"
    path = next(raw.glob('PADCHEST*'))
    return pd.read_csv(path, dtype='str', index_col=0).reset_index(drop=True), path

@pytest.mark.parametrize('packed', [False, True])
def test_padchest(tmp_path, packed):
    df = padchest(pad(tmp_path, packed=packed))
    assert len(df) == 25 and df['study'].nunique() == 13 and df['patient'].nunique() == 7
    assert label_names(df) == COMMON and df.groupby('patient')['split'].nunique().max() == 1
    assert df['view'].value_counts().to_dict() == dict(LATERAL=10, PA=5, AP=5, OTHER=5)
    assert df['age'].iloc[0] == 74 and set(df['sex']) == {'F', 'M'}
    assert df['report'].iloc[0].startswith('cardiomegali 0') and set(df['sections']) == {'findings'}
    assert told(df, 'Spanish') and told(df, 'with no word that counts')

def test_images_together_and_partly_here(tmp_path):
    raw = pad(tmp_path/'raw')
    flat = tmp_path/'flat'
    flat.mkdir()
    for o in raw.rglob('*.png'): o.rename(flat/o.name)
    next(raw.glob('PADCHEST*')).rename(flat/'PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv')
    assert len(padchest(flat)) == 25
    gone = sorted(flat.glob('*.png'))[:4]
    for o in gone: o.unlink()
    df = padchest(flat)
    assert df.attrs['missing'] == [o.name for o in gone] and label_names(df) == COMMON, 'by the CSV, not by what is here'

def test_an_image_without_a_word_on_what_is_seen_has_no_label(tmp_path):
    raw = pad(tmp_path)
    df = padchest(raw)
    words = padchest_rows(raw).set_index('ImageID')['words']
    silent = df['path'].map(lambda o: set(words[o.split('/')[-1]]) <= {'unchanged'})
    assert (df['label:cardiomegaly'].isna() == silent).all() and 0 < silent.sum() < 25
    assert (df['label:cardiomegaly'][~silent] == 1).sum() == df['path'].map(
        lambda o: 'cardiomegaly' in words[o.split('/')[-1]]).sum()

def test_options(tmp_path):
    raw = pad(tmp_path)
    assert label_names(padchest(raw, findings='all')) == COMMON
    assert label_names(padchest(raw, findings='Rib  Fracture|cardiomegaly')) == ['rib fracture', 'cardiomegaly']
    people = padchest(raw, physician=True)
    assert people['label:cardiomegaly'].isna().sum() > padchest(raw)['label:cardiomegaly'].isna().sum()
    grown = padchest(raw, pediatric=False)
    assert len(grown) == 23 and told(grown, '2 images of children are left out') and not grown.attrs['extra']
    for findings, words in (('cardiomegalia', "no image has the label 'cardiomegalia'; the nearest are cardiomegaly"),
                            ('cardiomegaly|cardiomegaly', 'named twice'), ('normal', 'no image has'), ('', 'no image has')):
        with pytest.raises(InputError, match=words): padchest(raw, findings=findings)

def test_options_from_the_command_line(tmp_path):
    df = prepare('padchest', pad(tmp_path/'raw'), tmp_path/'out', size=32, findings='cardiomegaly|rib fracture',
                 physician='yes', pediatric='no')
    assert label_names(df) == ['cardiomegaly', 'rib fracture'] and len(df) == 23
    store = ImageStore(tmp_path/'out')
    assert store.images.std() > 10, 'images of 16 bits are stretched'
    assert 'research use only' in (tmp_path/'out'/'card.md').read_text()
    with pytest.raises(InputError, match='option physician'): prepare('padchest', tmp_path/'raw', tmp_path/'x', physician='perhaps')

BAD = ["__import__('os').system('true')", "['a' 'b']", "['a',, 'b']", "['a", "a', 'b'", "('a',)", "{'a'}", "[a]", "[1]", "['a'] + ['b']",
       "['a\\'b']", 'normal', '[' * 20_000, "['" + 'a' * 20_000, "[" + "'a', " * 5_000]

@pytest.mark.parametrize('text', BAD, ids=range(len(BAD)))
def test_a_list_that_is_none_is_refused_and_never_run(tmp_path, text):
    with pytest.raises(InputError, match='row 2: Labels is') as e: word_list(text, 'row 2: Labels')
    assert len(str(e.value)) < 300 and '\n' not in str(e.value)
    raw = pad(tmp_path, 4)
    df, path = table_of(raw)
    df.loc[2, 'Labels'] = text
    df.to_csv(path)
    with pytest.raises(InputError, match='row 2: Labels is'): padchest(raw)

@pytest.mark.parametrize('text, want', [
    ('[]', []), ('[ ]', []), ("['a']", ['a']), ("['a', 'b c ']", ['a', 'b c']), ('["nipple\'s shadow"]', ["nipple's shadow"]),
    ("['', 'NSG  Tube',]", ['', 'nsg tube']), ("['a',\n 'b']", ['a', 'b'])])
def test_lists(text, want): assert word_list(text, '') == want

def test_damaged_rows(tmp_path):
    raw = pad(tmp_path)
    whole, path = table_of(raw)
    for column, value, words in (('ImageID', whole['ImageID'][0], 'has two rows'), ('PatientID', '', 'row 5: no PatientID')):
        df = whole.copy()
        df.loc[5, column] = value
        df.to_csv(path)
        with pytest.raises(InputError, match=words): padchest(raw)
    whole.drop(columns='MethodLabel').to_csv(path)
    with pytest.raises(InputError, match='lacks the column MethodLabel'): padchest(raw)

def test_odd_rows(tmp_path):
    raw = pad(tmp_path)
    df, path = table_of(raw)
    df.loc[0, ['PatientBirth', 'PatientSex_DICOM', 'Report', 'Labels']] = ['', 'None', '', '']
    df.loc[1, ['Projection', 'Report']] = ['EXCLUDE', 'otro inform .']
    df.loc[2, 'StudyDate_DICOM'] = 'never'
    df.to_csv(path)
    table = padchest(raw)
    assert told(table, '1 image is marked EXCLUDE') and len(table) == 24
    first = table.iloc[0]
    assert np.isnan(first['age']) and first['sex'] == '' and first['report'] == 'otro inform.', 'the text of its study'
    assert np.isnan(first['label:cardiomegaly'])

def test_damaged_images_are_rejected_with_a_reason(tmp_path):
    raw = pad(tmp_path/'raw')
    bad = sorted(raw.rglob('*.png'))[3]
    bad.write_bytes(bad.read_bytes()[:200])
    df = prepare('padchest', raw, tmp_path/'out', size=32)
    rejected = pd.read_csv(tmp_path/'out'/'rejected.csv')
    assert len(df) == 24 and rejected['path'].tolist() == [bad.relative_to(raw).as_posix()]
    assert Image.open(sorted(raw.rglob('*.png'))[0]).mode.startswith('I')
