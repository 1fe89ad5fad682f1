"The study table: errors name rows, splits keep patients together, fractions are nested, copies are found"
import subprocess, sys, time
from io import BytesIO
from pathlib import Path

import numpy as np, pandas as pd, pytest
from hypothesis import given, settings, strategies as st
from PIL import Image

from refers_nb.data import copies as copies_module, studies
from refers_nb.core import InputError
from refers_nb.phantom.phantoms import phantoms
from refers_nb.data.store import ImageStore
from refers_nb.data.studies import SECTIONS, SEXES, VIEWS, annotation_names, by_study, check_studies, label_fraction, label_names, read_studies, split_patients, standard_view, write_fractions, write_studies
from refers_nb.data.card import describe, plot_studies
from refers_nb.data.copies import duplicates

DATA = Path(__file__).resolve().parents[2]/'shared'/'data'

def table(n=12, per_patient=2, seed=0, findings=('a', 'b')):
    rng = np.random.default_rng(seed)
    df = pd.DataFrame(dict(patient=[f'p{i//per_patient}' for i in range(n)], study=[f's{i}' for i in range(n)], view='PA',
                           path=[f'{i}.png' for i in range(n)], report=[f'Report {i}.' for i in range(n)]))
    for f in findings: df[f'label:{f}'] = (rng.random(n) < .3).astype(float)
    return split_patients(df)

def full_table(n=12, seed=0, **kwargs):
    "A table with every column that one can have"
    rng,df = np.random.default_rng(seed),table(n, seed=seed, **kwargs)
    for c in ('chexpert:a', 'chexpert:b', 'negbio:a'): df[c] = rng.choice([1, 0, -1, np.nan], n)
    df['age'] = np.where(rng.random(n) < .2, np.nan, rng.integers(0, 121, n))
    return df.assign(sex=rng.choice(SEXES, n), sections=rng.choice(SECTIONS, n))

def broken(**cols):
    df = full_table()
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
    (broken(**{'label:a': (1, -1)}), '0, 1 or missing'), (broken(**{'chexpert:b': (7, 2)}), 'row 7'),
    (broken(**{'negbio:a': (7, .5)}), 'uncertain'), (broken(**{'negbio:a': (1, 'blank')}), "'blank'"),
    (broken(age=(2, 121)), 'row 2'), (broken(age=(3, -1)), '0 to 120'), (broken(age=(3, np.inf)), '0 to 120'),
    (broken(age=(3, '064Y')), "'064Y'"), (broken(sex=(4, 'female')), 'row 4'), (broken(sections=(5, 'history')), 'row 5'),
    (pd.concat([table(), table()[['view']]], axis=1), 'column view twice')])
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
    assert label_names(back) == ['a', 'b'] and annotation_names(back) == {}

def test_the_columns_that_a_table_may_have(tmp_path):
    df = full_table().astype({'age': 'object', 'chexpert:a': 'object'})
    df['sex'] = df['sex'].replace('', None)
    back = read_studies(write_studies(df, tmp_path))
    assert annotation_names(back) == dict(chexpert=['a', 'b'], negbio=['a']) and label_names(back) == ['a', 'b']
    assert {str(back[c].dtype) for c in ('age', 'chexpert:a', 'negbio:a', 'label:a')} == {'float32'}
    for c in ('age', 'chexpert:a', 'chexpert:b', 'negbio:a'): np.testing.assert_array_equal(back[c], df[c].astype('float32'))
    assert back['sex'].tolist() == df['sex'].fillna('').tolist() and back['sections'].tolist() == df['sections'].tolist()

@pytest.mark.parametrize('view,texts', dict(
    PA=['PA', 'pa', 'PA erect', 'P.A.', 'P-A', 'postero-anterior', 'POSTEROANTERIOR', 'Frontal', 'CHEST_PA', 'PA PA'],
    AP=['AP', 'AP Supine', 'AP ERECT', 'AP semi erect', 'AP_horizontal', 'antero-posterior', 'ANTERIOR-POSTERIOR', 'A/P',
        'Frontal AP', 'portable ap'],
    LATERAL=['LATERAL', 'LL', 'RL', 'L', 'l', 'LAT', 'lateral', 'left lateral', 'LLAT', 'XTABLE LATERAL', 'erect LAT',
             'latero-lateral'],
    OTHER=['PA LLD', 'AP RLD', 'LLD', 'left lateral decubitus', 'LAO', 'RAO', 'LPO', 'RPO', 'LLO', 'left anterior oblique',
           'SWIMMERS', 'AP AXIAL', 'Axial', 'Coronal', 'AP lordotic', 'COSTAL'],
    UNKNOWN=['', ' ', '--', 'UNKNOWN', 'chest', 'PA/LAT', 'AP\\PA', 'left', 'R', 'bilateral', 'map', 'palate', '2',
             None, np.nan, pd.NA, 3, ['PA']]).items())
def test_spellings_of_views(view, texts):
    assert {str(o): standard_view(o) for o in texts} == {str(o): view for o in texts}
    assert standard_view(view) == view

@given(st.one_of(st.text(), st.none(), st.floats(), st.lists(st.text()),
    st.builds('{} {}'.format, st.text('pal-_/. 1', max_size=4), st.sampled_from(['PA', 'ap', 'Lat', 'LLD', 'frontal', 'l', 'oblique']))))
def test_every_text_has_a_view_whatever_its_case_and_spacing(text):
    view = standard_view(text)
    assert view in VIEWS
    if isinstance(text, str) and text.isascii():
        assert standard_view(text.lower()) == standard_view(f'  {text.upper()}_') == view

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

def test_fractions_on_disk(tmp_path):
    df = table(60)
    got = pd.read_csv(write_fractions(df, tmp_path, (.1, .5), (0, 3)), dtype={'patient': 'str'})
    train = (df['split'] == 'train').values
    assert list(got) == ['path', 'patient', '10%/0', '50%/0', '10%/3', '50%/3']
    assert got['path'].tolist() == df['path'][train].tolist()
    for f in (.1, .5):
        for s in (0, 3): assert (got[f'{100*f:g}%/{s}'] == label_fraction(df, f, s)[train]).all()
    before = (tmp_path/'fractions.csv').read_bytes()
    with pytest.raises(InputError): write_fractions(df.assign(split='test'), tmp_path)
    with pytest.raises(InputError): write_fractions(df, tmp_path/'other.csv', (.1, 2))
    assert [o.name for o in tmp_path.iterdir()] == ['fractions.csv'] and (tmp_path/'fractions.csv').read_bytes() == before

def test_by_study_holds_every_row_once():
    df = table(20).assign(study=[f's{i % 7}' for i in range(20)])
    s = by_study(df)
    assert sorted(np.concatenate(s['rows'].tolist())) == list(range(20)) and list(s['study']) == [f's{i}' for i in range(7)]
    for _,o in s.iterrows(): assert set(df['study'].iloc[o['rows']]) == {o['study']}

def brute(h, bits):
    "All pairs of positions whose hashes differ in at most `bits` bits"
    return [[i, j] for i in range(len(h)) for j in range(i+1, len(h)) if bin(h[i] ^ h[j]).count('1') <= bits]

@settings(max_examples=80, deadline=None)
@given(st.lists(st.integers(0, 2**64-1), max_size=4), st.integers(0, 12),
       st.lists(st.tuples(st.integers(0, 3), st.sets(st.integers(0, 63), max_size=14)), max_size=40))
def test_look_alikes_are_those_of_a_comparison_of_all_with_all(seeds, bits, changed):
    h = seeds + [seeds[i] ^ sum(1 << o for o in at) for i,at in changed if i < len(seeds)]
    pairs,notes = copies_module._candidates(np.array(h, np.uint64), bits)
    assert pairs.tolist() == brute(h, bits) and not notes

def test_a_crowd_of_equal_hashes_is_no_crowd_of_pairs():
    h = np.array([5]*3000 + [7]*50 + [2**64-1]*2, np.uint64)
    pairs,notes = copies_module._candidates(h, 2)
    assert len(pairs) == 2999 + 50 + 50*49//2 + 1 and '2,999 images share' in notes[0]
    assert set(pairs.ravel()) == set(range(3052))

def test_a_crowd_of_near_hashes_is_cut_short(monkeypatch):
    h = np.arange(256, dtype=np.uint64) # all of them equal in 56 bits
    pairs,notes = copies_module._candidates(h, 6)
    assert pairs.tolist() == brute(h.tolist(), 6) and not notes
    monkeypatch.setattr(copies_module, '_CROWD', 2)
    fewer,notes = copies_module._candidates(h, 6)
    assert 0 < len(fewer) and set(map(tuple, fewer)) < set(map(tuple, pairs)) and 'too many neighbours' in notes[0]

@pytest.fixture(scope='module')
def copies(tmp_path_factory):
    "30 phantoms, a re-coded copy of number 4 with another patient, an exact one of number 9, and 150 blank images"
    d,ph = tmp_path_factory.mktemp('copies'),phantoms(30, size=128, seed=3)
    for i,o in enumerate(ph.frontal): Image.fromarray(o).save(d/f'{i}.png')
    Image.fromarray(ph.frontal[4]).resize((70, 70)).save(d/'30.jpg', quality=70)
    Image.fromarray(ph.frontal[9]).save(d/'31.png')
    for i in range(150): Image.new('L', (60 + i%2, 50)).save(d/f'blank{i}.png')
    paths = [f'{i}.png' for i in range(30)] + ['30.jpg', '31.png'] + [f'blank{i}.png' for i in range(150)]
    df = pd.DataFrame(dict(patient=[f'p{i}' for i in range(182)], study=[f's{i}' for i in range(182)], view='PA', path=paths,
                           report='', split=['train']*31 + ['test']*151))
    df.loc[31, 'patient'] = 'p9'
    return df,ImageStore.build(df, d, d/'store', 128, workers=1)

def test_copies_are_found_and_blank_images_are_linked_to_one(copies):
    df,store = copies
    res = duplicates(df[:32], store)
    assert res[['path_a', 'path_b']].values.tolist() == [['4.png', '30.jpg'], ['9.png', '31.png']]
    assert res['same_patient'].tolist() == [False, True] and res['same_split'].tolist() == [True, False]
    assert res['distance'].max() <= 8 and res['correlation'].min() > .9 and res['correlation'][1] == pytest.approx(1, abs=1e-4)
    everything = duplicates(df, store)
    blank = everything['path_b'].str.startswith('blank')
    assert len(everything) == 2 + 149 and set(everything['path_a'][blank]) == {'blank0.png'}
    assert len(duplicates(df[32:92], store)) == 60*59//2 # below a hundred, each with each

def test_thresholds_of_copies(copies):
    df,store = copies
    df = df[:32]
    everything = duplicates(df, store, 12, -1)
    assert everything.attrs['candidates'] == len(everything) > 2
    for bits,alike in ((12, .5), (8, .8), (2, -1), (0, .99)):
        want = everything[(everything['distance'] <= bits) & (everything['correlation'] >= alike)].reset_index(drop=True)
        pd.testing.assert_frame_equal(duplicates(df, store, bits, alike), want)
    mixed = df.sample(frac=1, random_state=0)
    sets = lambda t: {frozenset(o) for o in t[['path_a', 'path_b']].values.tolist()}
    assert sets(duplicates(mixed, store, 12, -1)) == sets(everything)
    for bits in (-1, 13):
        with pytest.raises(InputError, match='0 to 12'): duplicates(df, store, bits)
    with pytest.raises(InputError, match='not in the image store'): duplicates(df.assign(path=df['path'] + 'x'), store)

def test_copies_on_real_radiographs(tmp_path):
    files = sorted((DATA/'covid19_image_data'/'images').glob('*')) if DATA.is_dir() else []
    if not files: pytest.skip('../shared/data/covid19_image_data is not here')
    df = pd.DataFrame(dict(path=[o.name for o in files])).assign(patient='', split='train')
    res = duplicates(df, ImageStore.build(df, files[0].parent, tmp_path, workers=1))
    assert {frozenset(Path(o).stem for o in p) for p in res[['path_a', 'path_b']].values} == {
        frozenset(['AR-1', 'AR-2']), frozenset(['2-chest-filmc', '7-fatal-covid19'])}
    assert len(duplicates(df, ImageStore(tmp_path), 4, .9)) == 1

def lines(card):
    "{first cell: the others} of all tables of a card"
    cells = ([x.strip() for x in o.split('|')[1:-1]] for o in card.splitlines() if o.startswith('|'))
    return {k: v for k,*v in cells}

def test_describe_counts():
    df = table()
    df.attrs['notes'] = ['Something to know.']
    text = describe(df)
    assert lines(text)['images'][-1] == '12' and '- Something to know.' in text and text._repr_markdown_() == text
    assert f"{int(df['label:a'].sum())} of 12" in text
    for o in ('age, years', 'patients F', 'without findings', 'uncertain', 'pixels', 'copies'): assert o not in text

def test_describe_tells_what_is_known(copies):
    df = full_table(40).assign(study=[f's{i//2}' for i in range(40)], view='AP', report=['word '*(i//2 % 7) for i in range(40)])
    first = df.drop_duplicates('study')
    for c in ('age', 'sex', 'sections'): df[c] = df['study'].map(first.set_index('study')[c])
    got = lines(describe(check_studies(df)))
    words = first['report'][first['report'] != ''].str.split().str.len()
    assert got['words in a report'][-1] == f'{words.median():,.0f} ({words.min()} to {words.max()})'
    assert got['studies with a report'][-1] == str(len(words)) == '17'
    assert got['reports without findings'][-1] == str((first['sections'] == 'impression').sum())
    assert got['reports without impression'][-1] == str((first['sections'] == 'findings').sum())
    assert got['studies without an age'][-1] == str(first['age'].isna().sum())
    assert got['age, years'][-1].startswith(f"{first['age'].median():,.0f} (")
    assert sum(int(got[f'patients {o}'][-1]) for o in ('F', 'M', 'of unknown sex')) == 20
    assert got['b'] == [str((df['chexpert:b'] == v).sum()) for v in (1, 0, -1)] + [str(df['chexpert:b'].isna().sum())]
    assert 'view PA' not in got and got['view AP'][-1] == '40'
    df,store = copies
    text = describe(df, store)
    assert '151 pairs of images look like copies' in text and '149 images share' in text
    assert lines(text)['original width, pixels'][-1].endswith('(60 to 128)')

def test_describe_lines_up_in_a_terminal():
    for part in describe(check_studies(full_table(30))).split('\n\n'): assert len({len(o) for o in part.splitlines()}) == 1

@pytest.mark.parametrize('keep,panels', [((), 1), (('report',), 2), (('report', 'age'), 3), (('label:a', 'age', 'sex'), 3),
                                         (('chexpert:a', 'report', 'age', 'sex'), 4)])
def test_a_figure_has_a_panel_for_what_there_is(copies, keep, panels):
    df = full_table(24)
    df = df.assign(report=df['report'] if 'report' in keep else '')
    df = df[[c for c in df if c in studies.COLUMNS or c in keep]]
    fig = plot_studies(df)
    assert len(fig.axes) == panels and tuple(fig.get_size_inches()) <= (8, 4)
    fig.savefig(BytesIO())
    assert len(plot_studies(*copies).axes) == 2

def test_a_figure_needs_no_backend():
    code = ('import sys, io, pandas as pd\nfrom refers_nb.data.card import plot_studies\n'
            "df = pd.DataFrame(dict(patient=['1'], study=['1'], view='PA', path=['1'], report='a b', split='train', age=5))\n"
            "plot_studies(df).savefig(io.BytesIO())\nassert 'matplotlib.pyplot' not in sys.modules")
    subprocess.run([sys.executable, '-c', code], check=True, timeout=300)

def test_a_table_of_the_size_of_mimic_opens_in_seconds(tmp_path):
    n,rng = 377_110,np.random.default_rng(0)
    df,visit = table(n, findings=[str(i) for i in range(14)]),pd.Series(np.arange(n)//2)
    words = np.array('the heart is normal in size no pleural effusion mild left basal opacity stable since prior'.split())
    texts = np.array([' '.join(words[rng.integers(len(words), size=60)]) for _ in range(5000)], object)
    df['patient'],df['study'] = 'p' + (10_000_000 + visit//3).astype('str'),'s' + (50_000_000 + visit).astype('str')
    df['report'],df['view'] = texts[visit % 5000] + ' ' + visit.astype('str'),np.array(VIEWS)[rng.integers(3, size=n)]
    names = pd.Series([f'{i*2654435761 % 2**32:08x}-{i:08x}-02aa804e-bde0afdd.jpg' for i in range(n)])
    df['path'] = 'files/p10/' + df['patient'] + '/' + df['study'] + '/' + names
    df = split_patients(df)
    for c in (f'{k}:{i}' for k in ('chexpert', 'negbio') for i in range(14)): df[c] = rng.choice([1, 0, -1, np.nan], n)
    df['age'],df['sex'] = rng.integers(18, 91, n),np.array(SEXES)[rng.integers(3, size=n)]
    df['sections'] = np.array(SECTIONS)[rng.integers(4, size=n)]
    write_studies(df, tmp_path)
    index = df[['path']].assign(bytes=1, mtime_ns=1, height=np.int32(2544), width=np.int32(3056),
                                phash=rng.integers(0, 2**64, n, np.uint64))
    index.to_parquet(tmp_path/'index.parquet', index=False)
    np.save(tmp_path/'images.npy', np.zeros((n, 2, 2), np.uint8))
    start = time.perf_counter()
    back,store = read_studies(tmp_path),ImageStore(tmp_path)
    took = time.perf_counter()-start
    assert took < float(os_factor())*3
    assert len(back) == len(store) == n and len(label_names(back)) == 14 and len(annotation_names(back)['negbio']) == 14

def os_factor():
    "Patience on a machine that others use at the same time"
    import os
    return os.environ.get('REFERS_NB_TEST_PATIENCE', 3)
