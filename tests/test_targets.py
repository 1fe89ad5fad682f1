"The four target sets of the paper and the lists of its release: small trees, and the real ones where they are"
import numpy as np
import pandas as pd
import pytest
from source_trees import DATA, corona, lists, nih, real, shen, told, vin

from refers_nb.core import InputError
from refers_nb.data.lists import NIH14, VINBIG, list_differences, listed, released_lists
from refers_nb.data.prepare import prepare
from refers_nb.data.sources.covid import covid
from refers_nb.data.sources.nih14 import nih14, nih14_labels
from refers_nb.data.sources.raw import age_in_years, standard_sex
from refers_nb.data.sources.shenzhen import shenzhen, shenzhen_reading
from refers_nb.data.sources.vinbig import boxes, vinbig, vinbig_labels
from refers_nb.data.studies import label_names

def splits(df): return df['split'].value_counts().to_dict()

# ---- ChestX-ray14

def test_nih(tmp_path):
    df = nih14(nih(tmp_path))
    assert len(df) == 30 and (df['split'] == 'test').sum() == 6 and (df['split'] == 'valid').sum() in (2, 4)
    assert [c[6:] for c in df if c.startswith('label:')] == NIH14
    assert df['label:Hernia'].sum() == 10 and df['label:Mass'].sum() == 10
    assert df.groupby('patient').size().eq(2).all()

BOX_HEADER = 'Image Index,Finding Label,Bbox [x,y,w,h],,,\n'

def test_nih_boxes(tmp_path):
    df = nih14(nih(tmp_path))
    name = df['path'][4].split('/')[-1]
    rows = f'{name},Infiltrate,10.5,20,30,40,,,\n99999999_000.png,Mass,1,2,3,4,,,\n'
    (tmp_path/'BBox_List_2017.csv').write_text(BOX_HEADER + rows)
    b = boxes('nih14', tmp_path, df)
    assert b.drop(columns='path').values.tolist() == [['Infiltration', '', 10.5, 20, 40.5, 60]]
    assert b['path'][0] == df['path'][4]
    assert boxes('covid', tmp_path, df) is None

def test_lists_and_boxes_that_are_none(tmp_path):
    raw = nih(tmp_path/'raw')
    (raw/'BBox_List_2017.csv').write_text(BOX_HEADER + '00000000_000.png,Mass,1,2,-3,4,,,\n')
    with pytest.raises(InputError, match='BBox_List_2017.csv: row 0: no box'): prepare('nih14', raw, tmp_path/'out')
    assert not (tmp_path/'out').exists(), 'told before hours of decoding'
    (raw/'test_list.txt').write_text('nothing.png')
    with pytest.raises(InputError, match='test_list.txt: names no image'): nih14(raw)
    (raw/'test_list.txt').write_bytes('00000000_000.png'.encode('utf-16'))
    with pytest.raises(InputError, match='test_list.txt: byte 0 is not UTF-8'): nih14(raw)

def test_real_nih():
    df = nih14(real('nih_chestxray14'))
    assert len(df) == 781 and splits(df) == dict(train=704, valid=77)
    assert df.groupby('patient')['split'].nunique().max() == 1 and df['label:Pneumonia'].sum() == 406

@pytest.mark.slow
def test_real_test_list_of_nih_is_rebuilt_but_for_37():
    found = nih14_labels(real('nih_chestxray14'))
    rows = released_lists(real('refers_release'), 'nih14')
    test = rows[rows['split'] == 'test']
    differ = list_differences(found, test)
    assert test.shape == (22_433, 15) and differ.sum() == 37 and differ['Pneumonia'] == 18
    patient = pd.Series(found.index.str[:8], index=found.index)
    split = listed(patient.index.to_series(), rows)
    valid, test, rest = (set(patient[o]) for o in (split == 'valid', split == 'test', split.isna()))
    assert len(found) == 112_120
    assert not valid & test and not rest & valid and not rest & test, 'the split is by patient'

# ---- VinBigData

@pytest.mark.parametrize('dcm', [False, True])
def test_vinbig(tmp_path, dcm):
    df = vinbig(vin(tmp_path, dcm=dcm))
    assert len(df) == 20 and label_names(df) == VINBIG and df.attrs['extra'] == ['test/ff.png']
    assert list(df['view']) == (['PA']*3 + ['AP'] + ['PA']*16 if dcm else ['PA']*20)
    n = {rule: vinbig_labels(tmp_path, rule).sum(axis=1) for rule in ('any', 'majority', 'all')}
    assert (n['any'] == 1).all() and (n['majority'] == 1).all(), 'two of three readers of each image drew its finding'
    assert n['all'].sum() == 0
    b = boxes('vinbig', tmp_path, df)
    assert len(b) == 40 and set(b['finding']) == set(VINBIG) and b.loc[0, ['x0', 'y0', 'y1']].tolist() == [1, 2, 40]
    with pytest.raises(InputError, match='any, majority, all'): vinbig(tmp_path, rule='two')

def test_readers_of_vinbig_are_counted_and_not_their_boxes(tmp_path):
    cols = ['image_id', 'class_name', 'rad_id']
    rows = [('a', 'Nodule/Mass', 'R1')]*4 + [('a', 'No finding', 'R2'), ('a', 'No finding', 'R3')]
    rows += [('b', 'ILD', 'R1'), ('c', 'ILD', 'R1'), ('c', 'ILD', 'R2')]
    pd.DataFrame(rows, columns=cols).to_csv(tmp_path/'train.csv', index=False)
    found = [vinbig_labels(tmp_path, rule) for rule in ('any', 'majority', 'all')]
    assert [o.loc['a', 'Nodule/Mass'] for o in found] == [1, 0, 0]
    assert [o.loc['b', 'ILD'] for o in found] == [1, 1, 1] and [o.loc['c', 'ILD'] for o in found] == [1, 1, 1]
    pd.DataFrame([('a', 'Tumour', 'R1')], columns=cols).to_csv(tmp_path/'train.csv', index=False)
    with pytest.raises(InputError, match="unknown finding 'Tumour'"): vinbig_labels(tmp_path)

def test_a_box_without_a_corner(tmp_path):
    df = vinbig(vin(tmp_path))
    rows = pd.read_csv(tmp_path/'train.csv')
    rows.loc[1, 'x_max'] = None
    rows.to_csv(tmp_path/'train.csv', index=False)
    with pytest.raises(InputError, match='row 1: no box'): boxes('vinbig', tmp_path, df)

def test_real_lists_of_vinbig_are_rebuilt_exactly():
    found = vinbig_labels(real('vinbigdata'))
    rows = released_lists(real('refers_release'), 'vinbig')
    assert len(rows) == 15_000 and set(rows.index.str[:-4]) == set(found.index)
    assert splits(rows) == dict(train=10_500, valid=1_500, test=3_000)
    assert list_differences(found, rows).sum() == 0
    assert list_differences(vinbig_labels(DATA/'vinbigdata', 'majority'), rows).sum() > 1000, 'the rule matters'

# ---- Shenzhen

READINGS = {
    'Male 45yrs\nnormal': ('M', 45, 'normal'),
    'female, 27yrs\n1. Bilateral PTB.\n2. Left pleural effusion.\n':
        ('F', 27, '1. Bilateral PTB. 2. Left pleural effusion.'),
    'Female 24 yrs\r\n\r\nPTB in the right upper field\r\n': ('F', 24, 'PTB in the right upper field'),
    'male37yrs\tnormal': ('M', 37, 'normal'),
    'Male  6 months\nsecondary PTB  in the right upper field': ('M', .5, 'secondary PTB in the right upper field'),
    '': ('', None, '')}

@pytest.mark.parametrize('text', READINGS)
def test_readings(text):
    o = shenzhen_reading(text)
    sex, age, findings = READINGS[text]
    assert (standard_sex(pd.Series([o['sex']]))[0], o['findings']) == (sex, findings)
    years = age_in_years(pd.Series([o['age']]))[0]
    assert years == pytest.approx(np.nan if age is None else age, nan_ok=True)

def test_shenzhen(tmp_path):
    a = shenzhen(shen(tmp_path/'a'))
    b = shenzhen(shen(tmp_path/'b', texts=False))
    pd.testing.assert_frame_equal(a, b)
    assert len(a) == 24 and a['label:tuberculosis'].sum() == 12
    assert a['age'].between(21, 44).all() and set(a['sex']) == {'F', 'M'}
    (tmp_path/'a'/'ClinicalReadings'/'CHNCXR_0001_0.txt').write_text('Male 21yrs\nBilateral PTB')
    assert told(shenzhen(tmp_path/'a'), '1 reading contradicts')

def test_real_lists_of_shenzhen():
    rows = released_lists(real('refers_release'), 'shenzhen')
    readings = pd.read_csv(real('shenzhen')/'shenzhen_metadata.csv').set_index('study_id')
    assert set(rows.index) == set(readings.index)
    assert (rows['tuberculosis'].values == rows.index.str[-5].astype(int)).all()
    says_normal = readings['findings'].str.strip() == 'normal'
    assert (says_normal[rows.index].values == (rows['normal'] == 1).values).all()

# ---- COVID-19

def test_covid(tmp_path):
    df = covid(corona(tmp_path))
    assert len(df) == 12 and set(df['view']) == {'PA', 'AP', 'LATERAL'}
    assert not df['report'].str.contains('SARS').any() and (df['report'] == 'Fever.').any()
    assert df['label:COVID-19'].fillna(-1).value_counts().to_dict() == {1: 8, 0: 2, -1: 2}

def test_covid_tells_of_ct_and_checks_its_split(tmp_path):
    df = covid(corona(tmp_path))
    assert told(df, '4 images are of another modality') and df.attrs['extra'] == []
    (tmp_path/'split.csv').write_text('filename,refers_split,covid\n0.jpg,train,perhaps\n')
    with pytest.raises(InputError, match=r"split.csv: 0.jpg: covid is 'perhaps'"): covid(tmp_path)

def test_real_covid():
    df = covid(real('covid19_image_data'))
    assert len(df) == 476 and splits(df) == dict(train=402, valid=74)
    assert df['label:COVID-19'].sum() == 337
    assert not df['report'].str.contains('covid|sars|coronavirus', case=False).any()

def test_real_lists_of_covid():
    assert len(released_lists(real('refers_release'), 'covid')) == 929
    df = covid(real('covid19_image_data'), lists=DATA/'refers_release')
    assert len(df) == 476
    pd.testing.assert_frame_equal(df, covid(real('covid19_image_data')))

# ---- lists of the release

def test_lists_give_the_split_of_vinbig(tmp_path):
    found = vinbig_labels(vin(tmp_path/'vin'))
    rows = [(f'{i}.png', o) for i, o in zip(found.index, found.values)]
    d = lists(tmp_path, 'vinbig', dict(train=rows[:10], val=rows[10:14], test=rows[14:18]))
    df = vinbig(tmp_path/'vin', lists=d)
    assert splits(df) == dict(train=10, valid=4, test=4) and told(df, '2 images are in no split')

def test_lists_give_the_split_of_shenzhen(tmp_path):
    rows = [(f'CHNCXR_{i:04d}_{int(i > 12)}.png', (int(i <= 12), int(i > 12))) for i in range(1, 22)]
    d = lists(tmp_path, 'shenzhen', dict(train=rows[:19], valid=rows[19:20], test=rows[20:]))
    assert splits(shenzhen(shen(tmp_path/'shen'), lists=d)) == dict(train=19, valid=1, test=1)

def test_lists_give_the_split_and_labels_of_covid(tmp_path):
    train = [('0.jpg', (0, 1)), ('1.jpg', (0, 1))]
    d = lists(tmp_path, 'covid', dict(train=train, val=[('4.jpg', (1, 0))], test=[('9.jpg', (0, 1))]))
    df = covid(corona(tmp_path/'cov'), lists=d)
    assert list(df['split']) == ['train', 'train', 'valid', 'test'] and list(df['label:COVID-19']) == [1, 1, 0, 1]

def test_lists_give_the_split_of_nih(tmp_path):
    found = nih14_labels(nih(tmp_path/'nih'))
    rows = [(f'images_001/{i}', found.loc[i].astype(int)) for i in found.index]
    d = lists(tmp_path, 'nih14', dict(val=rows[:4], test=rows[4:10]))
    assert splits(nih14(tmp_path/'nih', lists=d)) == dict(train=20, valid=4, test=6)

def test_lists_that_are_none(tmp_path):
    d = lists(tmp_path, 'shenzhen', dict(train=[('a.png', (1, 0)), ('b.png', (1, 2))]))
    with pytest.raises(InputError, match=r'train.txt:2'): released_lists(d, 'shenzhen')
    lists(tmp_path, 'shenzhen', dict(train=[('a.png', (1, 0))], test=[('a.png', (1, 0))]))
    with pytest.raises(InputError, match='listed twice'): released_lists(d, 'shenzhen')
    lists(tmp_path, 'shenzhen', dict(test=[], other=[('c.png', (1, 0))]))
    with pytest.raises(InputError, match='train.txt, val.txt'): released_lists(d, 'shenzhen')
    with pytest.raises(InputError, match='no list of covid'): released_lists(d/'x', 'covid')
    with pytest.raises(InputError, match='lists of nih14'): released_lists(d, 'iu_xray')
