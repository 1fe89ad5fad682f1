"The study table: errors name rows, splits keep patients together, fractions are nested"
import time

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st

from refers_nb.core import InputError
from refers_nb.data.grey import image_hash
from refers_nb.data.store import ImageStore
from refers_nb.data.studies import (
    SECTIONS, SEXES, VIEWS, annotation_names, by_study, check_studies, label_fraction, label_names,
    read_studies, split_patients, standard_view, write_fractions, write_studies)
from study_tables import full_table, table


# Checks

def broken(**columns):
    "A table with one wrong value: column=(row, value)"
    df = full_table()
    for column,(row,value) in columns.items():
        df[column] = df[column].astype('object')
        df.loc[row, column] = value
    return df


@pytest.mark.parametrize('df,words', [
    (table().drop(columns='report'), 'lacks the column report'),
    (table().drop(columns=['view', 'path']), 'columns view, path'),
    (table().iloc[:0], 'no rows'),
    (broken(view=(3, 'pa')), 'row 3'),
    (broken(split=(5, 'val')), 'row 5'),
    (broken(patient=(2, None)), 'no patient'),
    (broken(patient=(2, ' ')), 'an empty patient'),
    (broken(path=(4, None)), 'no path'),
    (broken(path=(4, '0.png')), 'same path'),
    (broken(path=(4, '/x/0.png')), 'is absolute'),
    (broken(path=(4, '../0.png')), 'leads out'),
    (broken(study=(4, 's0')), 's0'),
    (broken(**{'label:a': (1, 2)}), 'row 1'),
    (broken(**{'label:a': (1, 'yes')}), "'yes'"),
    (broken(**{'label:a': (1, -1)}), '0, 1 or missing'),
    (broken(**{'chexpert:b': (7, 2)}), 'row 7'),
    (broken(**{'negbio:a': (7, .5)}), 'uncertain'),
    (broken(**{'negbio:a': (1, 'blank')}), "'blank'"),
    (broken(age=(2, 121)), 'row 2'),
    (broken(age=(3, -1)), '0 to 120'),
    (broken(age=(3, np.inf)), '0 to 120'),
    (broken(age=(3, '064Y')), "'064Y'"),
    (broken(sex=(4, 'female')), 'row 4'),
    (broken(sections=(5, 'history')), 'row 5'),
    (pd.concat([table(), table()[['view']]], axis=1), 'column view twice')])
def test_a_broken_table_is_an_error_that_names_the_place(tmp_path, df, words):
    with pytest.raises(InputError, match=words): check_studies(df)
    with pytest.raises(InputError): write_studies(df, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_patient_in_two_splits():
    df = table()
    df['split'] = ['train', 'test'] + ['train']*10
    with pytest.raises(InputError, match='patient p0 is in train and in test') as e: check_studies(df)
    assert 'row 0' in str(e.value)
    assert 'row 1' in str(e.value)


def test_one_study_one_patient_and_one_report():
    df = table()
    with pytest.raises(InputError, match='different reports'):
        check_studies(df.assign(study='x', patient='p', split='train'))
    with pytest.raises(InputError, match='study x is of patients p0, p1'):
        check_studies(df.assign(study='x', report='', split='train'))


def test_files_that_are_gone(tmp_path):
    write_studies(table(), tmp_path)
    for i in range(12): (tmp_path/f'{i}.png').write_bytes(b'x')
    read_studies(tmp_path, files=True)
    (tmp_path/'7.png').unlink()
    with pytest.raises(InputError, match="row 7: path '7.png'"): read_studies(tmp_path, files=True)
    with pytest.raises(InputError, match='no such study table'): read_studies(tmp_path/'gone')
    (tmp_path/'bad.parquet').write_bytes(b'PAR1 no')
    with pytest.raises(InputError, match='not a Parquet file'): read_studies(tmp_path/'bad.parquet')


# On disk

def test_a_study_without_a_report_is_kept_with_an_empty_one(tmp_path):
    df = table()
    df.loc[3, 'report'] = None
    write_studies(df, tmp_path)
    back = read_studies(tmp_path)
    assert back['report'][3] == ''
    assert len(back) == 12


def test_round_trip_and_roots(tmp_path):
    df = table()
    df.loc[0, 'label:a'] = np.nan
    for root in ('', 'images', str(tmp_path/'elsewhere')):
        path = write_studies(df, tmp_path/'t.parquet', root)
        back = read_studies(path)
        assert back.attrs['root'].rstrip('/.') == str(tmp_path/root).rstrip('/.')
        pd.testing.assert_frame_equal(back, check_studies(df))
    assert label_names(back) == ['a', 'b']
    assert annotation_names(back) == {}


def test_the_columns_that_a_table_may_have(tmp_path):
    df = full_table().astype({'age': 'object', 'chexpert:a': 'object'})
    df['sex'] = df['sex'].replace('', None)
    back = read_studies(write_studies(df, tmp_path))
    assert annotation_names(back) == dict(chexpert=['a', 'b'], negbio=['a'])
    assert label_names(back) == ['a', 'b']
    assert {str(back[c].dtype) for c in ('age', 'chexpert:a', 'negbio:a', 'label:a')} == {'float32'}
    for c in ('age', 'chexpert:a', 'chexpert:b', 'negbio:a'):
        np.testing.assert_array_equal(back[c], df[c].astype('float32'))
    assert back['sex'].tolist() == df['sex'].fillna('').tolist()
    assert back['sections'].tolist() == df['sections'].tolist()


def test_an_index_that_is_not_counted_from_0_changes_nothing():
    df = table()
    odd = df.set_index(pd.Index(list('lkjihgfedcba')))
    pd.testing.assert_frame_equal(check_studies(odd), check_studies(df))
    assert (label_fraction(odd, .5) == label_fraction(df, .5)).all()
    pd.testing.assert_frame_equal(by_study(odd), by_study(df))


# Views

@pytest.mark.parametrize('view,texts', dict(
    PA=['PA', 'pa', 'PA erect', 'P.A.', 'P-A', 'postero-anterior', 'POSTEROANTERIOR', 'Frontal', 'CHEST_PA', 'PA PA'],
    AP=['AP', 'AP Supine', 'AP ERECT', 'AP semi erect', 'AP_horizontal', 'antero-posterior', 'ANTERIOR-POSTERIOR',
        'A/P', 'Frontal AP', 'portable ap'],
    LATERAL=['LATERAL', 'LL', 'RL', 'L', 'l', 'LAT', 'lateral', 'left lateral', 'LLAT', 'XTABLE LATERAL',
             'erect LAT', 'latero-lateral'],
    OTHER=['PA LLD', 'AP RLD', 'LLD', 'left lateral decubitus', 'LAO', 'RAO', 'LPO', 'RPO', 'LLO',
           'left anterior oblique', 'SWIMMERS', 'AP AXIAL', 'Axial', 'Coronal', 'AP lordotic', 'COSTAL'],
    UNKNOWN=['', ' ', '--', 'UNKNOWN', 'chest', 'PA/LAT', 'AP\\PA', 'left', 'R', 'bilateral', 'map', 'palate', '2',
             None, np.nan, pd.NA, 3, ['PA']]).items())
def test_spellings_of_views(view, texts):
    assert {str(o): standard_view(o) for o in texts} == {str(o): view for o in texts}
    assert standard_view(view) == view


WRITTEN_VIEWS = st.builds(
    '{} {}'.format, st.text('pal-_/. 1', max_size=4),
    st.sampled_from(['PA', 'ap', 'Lat', 'LLD', 'frontal', 'l', 'oblique']))


@given(st.one_of(st.text(), st.none(), st.floats(), st.lists(st.text()), WRITTEN_VIEWS))
def test_every_text_has_a_view_whatever_its_case_and_spacing(text):
    view = standard_view(text)
    assert view in VIEWS
    if isinstance(text, str) and text.isascii():
        assert standard_view(text.lower()) == view
        assert standard_view(f'  {text.upper()}_') == view


# Splits and fractions

def test_splits_do_not_depend_on_the_order_of_rows():
    df = table(200, 3)
    other = split_patients(df.sample(frac=1, random_state=1)).sort_index()
    pd.testing.assert_frame_equal(df, other)
    assert split_patients(df, seed=1)['split'].ne(df['split']).any()


@settings(max_examples=60, deadline=None)
@given(st.integers(3, 150), st.integers(1, 5), st.integers(0, 9), st.floats(.001, .02), st.floats(0, .5))
def test_fractions_are_nested_by_patient_and_hold_every_finding(n, per, seed, rare, missing):
    rng = np.random.default_rng(seed)
    df = table(n, per, seed, findings=())
    for i,p in enumerate((.4, rare, 0)):
        df[f'label:{i}'] = np.where(rng.random(n) < missing, np.nan, rng.random(n) < p)
    train = (df['split'] == 'train').values
    masks = [label_fraction(df, f, seed) for f in (.01, .1, .5, 1)]
    for small,big in zip(masks, masks[1:]): assert not (small & ~big).any()
    assert (masks[-1] == train).all()
    for mask in masks:
        assert mask.any()
        assert not (mask & ~train).any()
        assert not set(df['patient'][mask]) & set(df['patient'][train & ~mask])
        for c in ('label:0', 'label:1', 'label:2'):
            for value in (0, 1):
                if (df[c][train] == value).any(): assert (df[c][mask] == value).any()


def test_a_fraction_has_about_its_size():
    df = table(3000, 1)
    n = (df['split'] == 'train').sum()
    assert [label_fraction(df, f).sum() for f in (.01, .1, 1)] == [round(n*.01), round(n*.1), n]
    for f in (0, -1, 1.5):
        with pytest.raises(InputError): label_fraction(df, f)


def test_fractions_on_disk(tmp_path):
    df = table(60)
    got = pd.read_csv(write_fractions(df, tmp_path, (.1, .5), (0, 3)), dtype={'patient': 'str'})
    train = (df['split'] == 'train').values
    assert list(got) == ['path', 'patient', '10%/0', '50%/0', '10%/3', '50%/3']
    assert got['path'].tolist() == df['path'][train].tolist()
    for f in (.1, .5):
        for seed in (0, 3):
            assert (got[f'{100*f:g}%/{seed}'] == label_fraction(df, f, seed)[train]).all()
    before = (tmp_path/'fractions.csv').read_bytes()
    with pytest.raises(InputError): write_fractions(df.assign(split='test'), tmp_path)
    with pytest.raises(InputError): write_fractions(df, tmp_path/'other.csv', (.1, 2))
    assert [o.name for o in tmp_path.iterdir()] == ['fractions.csv']
    assert (tmp_path/'fractions.csv').read_bytes() == before


def test_by_study_holds_every_row_once():
    df = table(20).assign(study=[f's{i % 7}' for i in range(20)])
    studies = by_study(df)
    assert sorted(np.concatenate(studies['rows'].tolist())) == list(range(20))
    assert list(studies['study']) == [f's{i}' for i in range(7)]
    for _,o in studies.iterrows(): assert set(df['study'].iloc[o['rows']]) == {o['study']}


# A table of the size of MIMIC-CXR, and a tenth of it

def reports_of(visit, rng):
    "A report of 60 words for every visit, no two alike"
    words = 'the heart is normal in size no pleural effusion mild left basal opacity stable since prior'.split()
    texts = [' '.join(np.array(words)[rng.integers(len(words), size=60)]) for _ in range(5000)]
    return np.array(texts, object)[visit % 5000] + ' ' + visit.astype('str')


@pytest.mark.parametrize('n', [37_711, pytest.param(377_110, marks=pytest.mark.slow)])
def test_a_table_of_the_size_of_mimic_opens_in_seconds(tmp_path, n):
    rng = np.random.default_rng(0)
    df = table(n, findings=[str(i) for i in range(14)])
    visit = pd.Series(np.arange(n)//2)
    df['patient'] = 'p' + (10_000_000 + visit//3).astype('str')
    df['study'] = 's' + (50_000_000 + visit).astype('str')
    df['report'] = reports_of(visit, rng)
    df['view'] = np.array(VIEWS)[rng.integers(3, size=n)]
    names = pd.Series([f'{i*2654435761 % 2**32:08x}-{i:08x}-02aa804e-bde0afdd.jpg' for i in range(n)])
    df['path'] = 'files/p10/' + df['patient'] + '/' + df['study'] + '/' + names
    df = split_patients(df)
    for program in ('chexpert', 'negbio'):
        for i in range(14): df[f'{program}:{i}'] = rng.choice([1, 0, -1, np.nan], n)
    df['age'] = rng.integers(18, 91, n)
    df['sex'] = np.array(SEXES)[rng.integers(3, size=n)]
    df['sections'] = np.array(SECTIONS)[rng.integers(4, size=n)]
    write_studies(df, tmp_path)
    flat = np.zeros((2, 2), np.uint8)
    index = df[['path']].assign(
        bytes=1, mtime_ns=1, height=np.int32(2544), width=np.int32(3056),
        phash=np.uint64(image_hash(flat)))
    index.to_parquet(tmp_path/'index.parquet', index=False)
    np.save(tmp_path/'images.npy', np.zeros((n, 2, 2), np.uint8))
    start = time.process_time()       # of the processor: what runs beside does not count
    back = read_studies(tmp_path)
    store = ImageStore(tmp_path)
    assert time.process_time() - start < 9
    assert len(back) == len(store) == n
    assert len(label_names(back)) == 14
    assert len(annotation_names(back)['negbio']) == 14
