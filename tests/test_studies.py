"The study table: what is wrong with one is said by row, splits keep patients together, fractions are nested"
import time

import numpy as np, pandas as pd, pytest
from hypothesis import given, settings, strategies as st

from refers_nb.core import InputError
from refers_nb.studies import by_study, check_studies, describe, label_fraction, label_names, read_studies, split_patients, write_studies

def table(n=12, per_patient=2, seed=0, findings=('a', 'b')):
    rng = np.random.default_rng(seed)
    df = pd.DataFrame(dict(patient=[f'p{i//per_patient}' for i in range(n)], study=[f's{i}' for i in range(n)], view='PA',
                           path=[f'{i}.png' for i in range(n)], report=[f'Report {i}.' for i in range(n)]))
    for f in findings: df[f'label:{f}'] = (rng.random(n) < .3).astype(float)
    return split_patients(df)

def broken(**cols):
    df = table()
    for c,(row,v) in cols.items():
        df[c] = df[c].astype('object')
        df.loc[row, c] = v
    return df

@pytest.mark.parametrize('df,words', [
    (table().drop(columns='report'), 'lacks the column report'), (table().drop(columns=['view', 'path']), 'columns view, path'),
    (table().iloc[:0], 'no rows'), (broken(view=(3, 'pa')), 'row 3'), (broken(split=(5, 'val')), 'row 5'),
    (broken(patient=(2, None)), 'no patient'), (broken(patient=(2, ' ')), 'an empty patient'), (broken(path=(4, None)), 'no path'),
    (broken(path=(4, '0.png')), 'same path'), (broken(path=(4, '/x/0.png')), 'is absolute'), (broken(path=(4, '../0.png')), 'leads out'),
    (broken(study=(4, 's0')), 's0'), (broken(**{'label:a': (1, 2)}), 'row 1'), (broken(**{'label:a': (1, 'yes')}), "'yes'"),
    (broken(**{'label:a': (1, -1)}), '0, 1 or missing')])
def test_a_broken_table_is_an_error_that_names_the_place(tmp_path, df, words):
    with pytest.raises(InputError, match=words): check_studies(df)
    with pytest.raises(InputError): write_studies(df, tmp_path)
    assert not list(tmp_path.iterdir())

def test_a_patient_in_two_splits():
    df = table()
    df['split'] = ['train', 'test'] + ['train']*10
    with pytest.raises(InputError, match='patient p0 is in train and in test') as e: check_studies(df)
    assert 'row 0' in str(e.value) and 'row 1' in str(e.value)

def test_one_study_one_patient_and_one_report():
    df = table()
    with pytest.raises(InputError, match='different reports'): check_studies(df.assign(study='x', patient='p', split='train'))
    with pytest.raises(InputError, match='study x is of patients p0, p1'): check_studies(df.assign(study='x', report='', split='train'))

def test_a_study_without_a_report_is_kept_with_an_empty_one(tmp_path):
    df = table()
    df.loc[3, 'report'] = None
    write_studies(df, tmp_path)
    assert read_studies(tmp_path)['report'][3] == '' and len(read_studies(tmp_path)) == 12

def test_round_trip_and_roots(tmp_path):
    df = table()
    df.loc[0, 'label:a'] = np.nan
    for root in ('', 'images', str(tmp_path/'elsewhere')):
        p = write_studies(df, tmp_path/'t.parquet', root)
        back = read_studies(p)
        assert back.attrs['root'].rstrip('/.') == str(tmp_path/root).rstrip('/.')
        pd.testing.assert_frame_equal(back, check_studies(df))
    assert label_names(back) == ['a', 'b']

def test_files_that_are_gone(tmp_path):
    write_studies(table(), tmp_path)
    for i in range(12): (tmp_path/f'{i}.png').write_bytes(b'x')
    read_studies(tmp_path, files=True)
    (tmp_path/'7.png').unlink()
    with pytest.raises(InputError, match="row 7: path '7.png'"): read_studies(tmp_path, files=True)
    with pytest.raises(InputError, match='no such study table'): read_studies(tmp_path/'gone')
    (tmp_path/'bad.parquet').write_bytes(b'PAR1 no')
    with pytest.raises(InputError, match='not a Parquet file'): read_studies(tmp_path/'bad.parquet')

def test_an_index_that_is_not_counted_from_0_changes_nothing():
    df = table()
    odd = df.set_index(pd.Index(list('lkjihgfedcba')))
    pd.testing.assert_frame_equal(check_studies(odd), check_studies(df))
    assert (label_fraction(odd, .5) == label_fraction(df, .5)).all()
    pd.testing.assert_frame_equal(by_study(odd), by_study(df))

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
    for i,p in enumerate((.4, rare, 0)): df[f'label:{i}'] = np.where(rng.random(n) < missing, np.nan, rng.random(n) < p)
    train = (df['split'] == 'train').values
    masks = [label_fraction(df, f, seed) for f in (.01, .1, .5, 1)]
    for small,big in zip(masks, masks[1:]): assert not (small & ~big).any()
    assert (masks[-1] == train).all()
    for m in masks:
        assert m.any() and not (m & ~train).any()
        assert not set(df['patient'][m]) & set(df['patient'][train & ~m])
        for c in (f'label:{i}' for i in range(3)):
            for v in (0, 1):
                if (df[c][train] == v).any(): assert (df[c][m] == v).any()

def test_a_fraction_has_about_its_size():
    df = table(3000, 1)
    n = (df['split'] == 'train').sum()
    assert [label_fraction(df, f).sum() for f in (.01, .1, 1)] == [round(n*.01), round(n*.1), n]
    for f in (0, -1, 1.5):
        with pytest.raises(InputError): label_fraction(df, f)

def test_by_study_holds_every_row_once():
    df = table(20).assign(study=[f's{i % 7}' for i in range(20)])
    s = by_study(df)
    assert sorted(np.concatenate(s['rows'].tolist())) == list(range(20)) and list(s['study']) == [f's{i}' for i in range(7)]
    for _,o in s.iterrows(): assert set(df['study'].iloc[o['rows']]) == {o['study']}

def test_describe_counts():
    df = table()
    df.attrs['notes'] = ['Something to know.']
    text = describe(df)
    assert '| images |' in text and '- Something to know.' in text and text._repr_markdown_() == text
    assert f"{int(df['label:a'].sum())} of 12" in text

def test_a_table_of_the_size_of_mimic_opens_in_seconds(tmp_path):
    n = 377_110
    df = table(n, 2, findings=[str(i) for i in range(14)])
    df['report'] = 'Heart size is normal. Lungs are clear. No effusion in study ' + df['study'] + '.'
    write_studies(df, tmp_path)
    start = time.perf_counter()
    read_studies(tmp_path)
    assert time.perf_counter()-start < float(os_factor())*3

def os_factor():
    "Patience on a machine that others use at the same time"
    import os
    return os.environ.get('REFERS_NB_TEST_PATIENCE', 3)
