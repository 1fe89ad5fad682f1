"RSNA and SIIM-ACR: DICOM of challenges with boxes and masks; whose images they are; tables that contradict themselves"
import json

import numpy as np
import pandas as pd
import pytest
from source_trees import mrm, outlines, pneumonia, siim_name, told

from refers_nb.core import InputError
from refers_nb.data.prepare import prepare
from refers_nb.data.sources.rsna import rsna, rsna_boxes
from refers_nb.data.sources.siim import SIDE, mask_shares, rle_mask, rle_runs, siim, siim_masks
from refers_nb.data.studies import label_names

def splits(df): return df['split'].value_counts().to_dict()

# ---- RSNA

def test_rsna_with_the_mapping(tmp_path):
    df = rsna(pneumonia(tmp_path))
    assert len(df) == 20 and label_names(df) == ['Pneumonia'] and df['label:Pneumonia'].sum() == 6
    assert sorted(set(df['patient']), key=int) == [str(i) for i in range(1, 11)], 'as nih14 has them'
    assert df.groupby('patient')['split'].nunique().max() == 1 and df['study'].nunique() == 20
    assert set(df['view']) == {'PA', 'AP'} and df.attrs['extra'] == ['stage_2_test_images/ffff.png']
    assert told(df, 'Patients are those of ChestX-ray14')

def test_rsna_without_the_mapping_and_with_less_of_it(tmp_path):
    raw = pneumonia(tmp_path, mapping=False)
    df = rsna(raw)
    assert df['patient'].nunique() == 20 and told(df, 'An image counts as a patient', 'mappings_2018.json')
    some = [dict(subset_img_id=df['study'][0], img_id='00000007_001.png')]
    (raw/'pneumonia-challenge-dataset-mappings_2018.json').write_text(json.dumps(some))
    df = rsna(raw)
    assert df['patient'][0] == '7' and told(df, '19 images are not in the mapping')

def test_rsna_classes(tmp_path):
    raw = pneumonia(tmp_path)
    df = rsna(raw, classes=True)
    assert label_names(df) == ['Pneumonia', 'No Lung Opacity / Not Normal', 'Normal']
    labels = df.filter(like='label:')
    assert (labels.sum(axis=1) == 1).all()
    info = raw/'stage_2_detailed_class_info.csv'
    info.write_text(info.read_text().replace('Lung Opacity\n', 'Lung opacities\n'))
    with pytest.raises(InputError, match="unknown class"): rsna(raw, classes=True)
    info.unlink()
    with pytest.raises(InputError, match='no stage_2_detailed_class_info.csv'): rsna(raw, classes=True)
    assert len(rsna(raw)) == 20

def test_rsna_boxes(tmp_path):
    raw, out = pneumonia(tmp_path/'raw'), tmp_path/'out'
    df = prepare('rsna', raw, out, size=32)
    drawn = pd.read_csv(out/'boxes.csv')
    assert len(drawn) == 9 and set(drawn['finding']) == {'Pneumonia'} and set(drawn['path']) <= set(df['path'])
    assert drawn[['x0', 'y0', 'x1', 'y1']].iloc[0].tolist() == [5, 6, 15, 18]
    assert 'RSNA' in (out/'card.md').read_text() and len(pd.read_csv(out/'rejected.csv')) == 0

@pytest.mark.parametrize('line, words', [
    ('x,,,,,2', 'Target is not 0 or 1'), ('x,,,,,', 'no Target'), ('x,1,2,3,4,0', 'a box where Target is 0'),
    ('00000000-0000-4000-8000-000000000000,1,2,3,4,1', 'with Target 0 and 1')])
def test_rsna_rows_that_cannot_be(tmp_path, line, words):
    raw = pneumonia(tmp_path, 4)
    with open(raw/'stage_2_train_labels.csv', 'a') as f: f.write(line + '\n')
    with pytest.raises(InputError, match=words) as e: rsna(raw)
    assert '\n' not in str(e.value) and 'stage_2_train_labels.csv' in str(e.value)

def test_rsna_box_that_is_none(tmp_path):
    raw = pneumonia(tmp_path, 6)
    df = rsna(raw)
    with open(raw/'stage_2_train_labels.csv', 'a') as f: f.write('x,,,,,1\n')
    with pytest.raises(InputError, match='no box'): rsna_boxes(raw, df)

@pytest.mark.parametrize('text', ['{}', '[7]', '[{"subset_img_id": "a"}]', '[{"subset_img_id": "a", "img_id": "x.png"}]', '['])
def test_rsna_mapping_that_is_none(tmp_path, text):
    raw = pneumonia(tmp_path, 4)
    (raw/'pneumonia-challenge-dataset-mappings_2018.json').write_text(text)
    with pytest.raises(InputError, match='mappings_2018.json'): rsna(raw)

def test_rsna_lists_of_mrm(tmp_path):
    raw = pneumonia(tmp_path/'raw')
    names = [f'stage_2_train_images/{o.stem}.dcm' for o in sorted((raw/'stage_2_train_images').iterdir())]
    rows = [(o, (int(i % 3 == 2),)) for i, o in enumerate(names)]
    d = mrm(tmp_path, 'rsna', dict(train_1=rows[:2], train_list=rows[:11], val_list=rows[11:14], test_list=rows[14:]))
    df = rsna(raw, lists=d)
    assert splits(df) == dict(train=11, valid=3, test=6) and df['patient'].nunique() == 20
    assert told(df, '1 patient of ChestX-ray14 is in two parts') and not told(df, 'not as in the files')
    assert splits(rsna(raw, lists=d, share=1)) == dict(train=2, valid=3, test=6)
    with pytest.raises(InputError, match='no train_10.txt of rsna'): rsna(raw, lists=d, share=10)

# ---- SIIM-ACR

def test_siim(tmp_path):
    raw = outlines(tmp_path)
    df = siim(raw)
    assert len(df) == 18 and df['label:Pneumothorax'].sum() == 6 and set(df['view']) == {'PA', 'AP'}
    assert df['patient'].nunique() == 18 and told(df, 'an image counts as one')
    assert df['study'][0] == siim_name(0), 'numbers with dots between are no extension'
    assert siim(raw, least=.001)['label:Pneumothorax'].isna().sum() == 3, 'of the six, those of one outline'

def test_siim_second_stage_and_images_without_a_row(tmp_path):
    raw = outlines(tmp_path)
    lines = (raw/'train-rle.csv').read_text().replace(', ', ',').splitlines()
    (raw/'train-rle.csv').unlink()
    (raw/'stage_2_train.csv').write_text('\n'.join(lines[:-3]) + '\n')
    df = siim(raw)
    assert len(df) < 18 and df.attrs['extra'] and told(df, 'in no row of the table and not used')

def test_masks_are_decoded_as_the_challenge_codes_them():
    "Against a mask coded pixel by pixel"
    rng = np.random.default_rng(0)
    want = np.zeros((SIDE, SIDE), bool)
    for _ in range(20):
        y, x = rng.integers(0, SIDE - 60, 2)
        want[y:y+rng.integers(1, 60), x:x+rng.integers(1, 60)] = True
    flat = np.concatenate([[False], want.T.ravel(), [False]])
    edges = np.flatnonzero(flat[1:] != flat[:-1])
    text = ' '.join(map(str, np.diff(edges, prepend=0)))
    assert (rle_mask([text]) == want).all()
    both = mask_shares(pd.Series([[text, text], [text], []]))
    assert np.allclose(both, [want.mean(), want.mean(), 0])

@pytest.mark.parametrize('text', ['1 2 3', '1 -2', 'a b', '1.5 2', f'{SIDE**2} 1', '9'*30 + ' 1', f'0 {SIDE**2} 1 1', '-1 -1'])
def test_masks_that_are_none_name_their_row(tmp_path, text):
    with pytest.raises(InputError, match='expected -1, or pairs'): rle_runs(text, 'row 0')
    raw = outlines(tmp_path, 4)
    with open(raw/'train-rle.csv', 'a') as f: f.write(f'new, {text}\n')
    with pytest.raises(InputError, match=r'train-rle.csv: row \d+: EncodedPixels'): siim_masks(raw)

def test_siim_refuses_contradictions_and_options(tmp_path):
    raw = outlines(tmp_path, 4)
    for kw in (dict(least=2), dict(least=-1), dict(share=7)):
        with pytest.raises(InputError): siim(raw, **kw)
    with open(raw/'train-rle.csv', 'a') as f: f.write(f'{siim_name(0)}, -1\n')
    with pytest.raises(InputError, match='has an outline and a row that says there is none'): siim(raw)
    with pytest.raises(InputError, match='no train-rle.csv'): siim(raw/'dicom-images-train')

def test_siim_lists_of_mrm_and_card(tmp_path):
    raw = outlines(tmp_path/'raw')
    rows = [(siim_name(i), ()) for i in range(18)]
    d = mrm(tmp_path, 'siim', dict(train_1=rows[:1], train_list=rows[:9], val_list=rows[9:12], test_list=rows[12:]))
    assert splits(siim(raw, lists=d)) == dict(train=9, valid=3, test=6)
    df = prepare('siim', raw, tmp_path/'out', size=32, lists=d, share='1')
    assert splits(df) == dict(train=1, valid=3, test=6) and 'SIIM' in (tmp_path/'out'/'card.md').read_text()
