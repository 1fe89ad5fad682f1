"Files that were changed since they were written: a store, a table, a record, predictions, a state"
import json, os, shutil

import numpy as np
import pandas as pd
import pytest

from refers_nb.core import InputError
from refers_nb.data.checked import check_text, has_rows, read_images, read_parquet, read_record
from refers_nb.data.prepare import described, prepare
from refers_nb.data.store import ImageStore
from refers_nb.data.studies import LONGEST_REPORT, check_studies, cut_reports, read_studies, write_studies
from refers_nb.foreign import check_file
from study_tables import table


@pytest.fixture(scope='module')
def prepared(tmp_path_factory):
    "Phantoms, prepared; and others of the same number and size"
    d = tmp_path_factory.mktemp('prepared')
    for name, seed in dict(one=5, other=6).items():
        prepare('folder', made(d/f'raw-{name}', seed), d/name, size=32, workers=0)
    return d

def made(folder, seed):
    "A folder of eleven pictures with their table"
    from PIL import Image
    from refers_nb.phantom import phantoms
    folder.mkdir()
    ph = phantoms(11, size=40, seed=seed)
    for i, img in enumerate(ph.frontal): Image.fromarray(img).save(folder/f'{i}.png')
    pd.DataFrame(dict(path=[f'{i}.png' for i in range(11)], report='Clear lungs.')).to_csv(folder/'t.csv', index=False)
    return folder

@pytest.fixture
def copy(prepared, tmp_path):
    shutil.copytree(prepared/'one', tmp_path/'store')
    return tmp_path/'store'


# Stores

def save(path, x):
    with open(path, 'wb') as f: np.save(f, x, allow_pickle=True)

@pytest.mark.parametrize('change', [
    lambda x: x[:-1], lambda x: np.concatenate([x, x[:2]]), lambda x: x[:, :, :30], lambda x: x.transpose(1, 0, 2),
    lambda x: x.astype('i1'), lambda x: x.astype('f8'), lambda x: x.astype(bool), lambda x: np.asfortranarray(x),
    lambda x: x[:, None], lambda x: x.reshape(len(x), -1), lambda x: x[:, 4:20, 4:20], lambda x: np.roll(x, 3, 0),
    lambda x: x[::-1], lambda x: 255 - x, lambda x: x*0, lambda x: np.where(np.arange(11)[:, None, None] > 3, x, 0).astype('u1'), lambda x: np.array([dict()]*len(x), object), lambda x: np.float32(1)])
def test_images_that_are_not_those_of_the_build(copy, change):
    x = np.load(copy/'images.npy')
    save(copy/'images.npy', change(x))
    with pytest.raises(InputError, match='build the store again|images.npy'): ImageStore(copy)
    assert len(ImageStore.build(*rebuild(copy))) == 11
    assert (np.load(copy/'images.npy') == x).all()

def rebuild(folder):
    "Arguments with which the folder was built"
    df = read_studies(folder)
    return df, df.attrs['root'], folder, 32

@pytest.mark.parametrize('change', [
    lambda x: x[:200], lambda x: x[:-1], lambda x: x + b'\0', lambda x: b'', lambda x: bytes(len(x)), lambda x: x[64:],
    lambda x: x.replace(b"'|u1'", b"'<f4'"), lambda x: x.replace(b'(11, 32, 32)', b'(11, 16, 64)'),
    lambda x: x.replace(b'False', b'True '), lambda x: b'PK\3\4' + x, lambda x: x.replace(b'(11,', b'(99,')])
def test_bytes_of_images_that_were_lost(copy, change):
    x = (copy/'images.npy').read_bytes()
    (copy/'images.npy').write_bytes(change(x))
    with pytest.raises(InputError, match='images.npy'): ImageStore(copy)
    ImageStore.build(*rebuild(copy))
    assert (copy/'images.npy').read_bytes() == x

def test_no_python_object_of_a_store_is_read(copy):
    class Evil:
        def __reduce__(self): return os.system, (f'touch {copy}/executed',)
    save(copy/'images.npy', np.array([Evil()]*11, object))
    with pytest.raises(InputError, match='Python objects|objects'): ImageStore(copy)
    assert not (copy/'executed').exists()

def test_images_of_another_store_are_told_by_their_fingerprints(prepared, copy):
    shutil.copy(prepared/'other'/'images.npy', copy/'images.npy')
    with pytest.raises(InputError, match='do not belong together .image 0 is not that of 0.png'): ImageStore(copy)

@pytest.mark.parametrize('change', [
    lambda df: df[:-1], lambda df: df.sample(frac=1, random_state=0), lambda df: df.drop(columns='path'),
    lambda df: df.drop(columns='phash'), lambda df: df.drop(columns='bytes'), lambda df: df.assign(path='0.png'),
    lambda df: df.assign(path=df['path'].str.encode('utf-8')), lambda df: df.assign(path=df['path'].where(df.index > 1)),
    lambda df: df.assign(path=[['a']]*11), lambda df: df.assign(phash=df['phash'].astype(float)),
    lambda df: df.assign(phash=df['phash'].tolist()[::-1]), lambda df: df.assign(mtime_ns='now')])
def test_an_index_that_was_changed(copy, change):
    df = pd.read_parquet(copy/'index.parquet')
    changed = change(df)
    changed.attrs = df.attrs
    changed.to_parquet(copy/'index.parquet')
    with pytest.raises(InputError, match='again|no column'): ImageStore(copy)
    assert len(ImageStore.build(*rebuild(copy))) == 11
    assert ImageStore(copy).paths.tolist() == df['path'].tolist()

@pytest.mark.parametrize('attrs', [dict(size=48), dict(size='32'), dict(size=None), dict(size=32, resize_mode=['crop'])])
def test_an_index_that_tells_of_another_store(copy, attrs):
    df = pd.read_parquet(copy/'index.parquet')
    df.attrs = attrs
    df.to_parquet(copy/'index.parquet')
    with pytest.raises(InputError, match='build the store again'): ImageStore(copy)

@pytest.mark.parametrize('content', ['', 'not,a,list\n', 'path,reason\n"', '\0', b'\xff\xfe'])
def test_a_list_of_rejected_files_that_is_none_is_written_anew(copy, content):
    right = (copy/'rejected.csv').read_bytes()
    (copy/'rejected.csv').write_bytes(content if isinstance(content, bytes) else content.encode())
    assert len(ImageStore.build(*rebuild(copy))) == 11
    assert (copy/'rejected.csv').read_bytes() == right

@pytest.mark.parametrize('name', ['images.npy', 'index.parquet', 'rejected.csv'])
def test_a_folder_in_the_place_of_a_file_is_told(copy, name):
    (copy/name).unlink()
    (copy/name/'below').mkdir(parents=True)
    with pytest.raises(InputError, match=f'{name}: a folder; move it away'): ImageStore.build(*rebuild(copy))
    shutil.rmtree(copy/name)
    assert len(ImageStore.build(*rebuild(copy))) == 11

def test_a_device_in_the_place_of_a_list_is_replaced(copy):
    for target in ('/dev/zero', 'nowhere', 'rejected.csv'):
        (copy/'rejected.csv').unlink()
        (copy/'rejected.csv').symlink_to(target)
        assert len(ImageStore.build(*rebuild(copy))) == 11
        assert (copy/'rejected.csv').read_text() == 'path,reason\n' and not (copy/'rejected.csv').is_symlink()

@pytest.mark.parametrize('ready', [
    {'../../run.json': 'images.npy'}, {'x': '../run.json'}, {'x.npy': 'images.npy'}, [], {'a': 1, 'b': 2, 'c': 3}, 'x', None])
def test_a_commit_moves_nothing_but_the_files_of_a_store(copy, ready):
    (copy/'unfinished').mkdir()
    (copy/'unfinished'/'commit').write_text(json.dumps(ready))
    before = {p: p.read_bytes() for p in copy.iterdir() if p.is_file()}
    with pytest.raises(InputError, match='damaged'): ImageStore.build(*rebuild(copy))
    assert {p: p.read_bytes() for p in copy.iterdir() if p.is_file()} == before

@pytest.mark.parametrize('size', [0, -3, 4097, 10**12, 2.5, 'x', True, float('nan')])
def test_sizes_that_no_store_has(copy, size):
    df, root, *_ = rebuild(copy)
    with pytest.raises(InputError, match='size is'): ImageStore.build(df, root, copy.parent/'new', size)
    for share in (-1, 1.5, float('nan'), 'x'):
        with pytest.raises(InputError, match='max_rejected is'):
            ImageStore.build(df, root, copy.parent/'new', 32, max_rejected=share)
    assert not (copy.parent/'new').exists()


# Tables

def stored(folder, df, **attrs):
    "A study table, written by others"
    df = df.copy()
    df.attrs = attrs
    df.to_parquet(folder/'studies.parquet')
    return folder

@pytest.mark.parametrize('column', ['patient', 'study', 'path', 'report', 'split', 'view'])
@pytest.mark.parametrize('kind', [str.encode, lambda o: [o], lambda o: {'a': o}])
def test_text_that_is_no_text(tmp_path, column, kind):
    df = table()
    with pytest.raises(InputError, match=f'{column} must be text'):
        read_studies(stored(tmp_path, df.assign(**{column: df[column].map(kind)})))

@pytest.mark.parametrize('values', [[[1]]*12, [b'x']*12, [{'a': 1}]*12, [pd.Timestamp('2020-01-01')]*12])
def test_labels_that_are_no_numbers(tmp_path, values):
    with pytest.raises(InputError, match='a label is 0, 1 or missing'):
        read_studies(stored(tmp_path, table().assign(**{'label:a': values})))

def test_numbers_in_the_place_of_text_are_their_digits():
    df = check_studies(table().assign(patient=range(12), study=range(12)))
    assert df['patient'].tolist() == df['study'].tolist() == [str(i) for i in range(12)]
    assert check_studies(table().assign(report=np.nan))['report'].eq('').all()

@pytest.mark.parametrize('root', [3, None, ['a'], {'a': 'b'}, True])
def test_a_root_that_is_no_folder(tmp_path, root):
    with pytest.raises(InputError, match='its root is'): read_studies(stored(tmp_path, table(), root=root))

def test_notes_that_are_none(tmp_path):
    for notes in ('x', 3, [1], {'a': 1}):
        with pytest.raises(InputError, match='its notes are'): read_studies(stored(tmp_path, table(), notes=notes))

def test_reports_are_cut_and_counted(tmp_path):
    df = table()
    df['report'] = ['a. '*(LONGEST_REPORT*60), *['Clear.']*10, 'b'*(LONGEST_REPORT + 1)]
    with pytest.warns(UserWarning, match='2 of the reports: longer than 100,000 characters and cut there'):
        write_studies(df, tmp_path)
    assert read_studies(tmp_path)['report'].str.len().max() == LONGEST_REPORT
    same, n = cut_reports(table().assign(report='c'*LONGEST_REPORT))
    assert n == 0 and same['report'].str.len().eq(LONGEST_REPORT).all()
    assert cut_reports(table()[:0])[1] == 0

def test_a_long_report_of_a_download_is_told_in_the_notes(tmp_path):
    made(tmp_path/'raw', 1)
    df = pd.read_csv(tmp_path/'raw'/'t.csv')
    df.loc[3, 'report'] = 'FINDINGS: ' + 'Clear lungs. '*100_000
    df.to_csv(tmp_path/'raw'/'t.csv', index=False)
    with pytest.warns(UserWarning, match='a report of 1,300,009 characters is read up to its 300,000th'):
        out = prepare('folder', tmp_path/'raw', tmp_path/'out', size=16, workers=0)
    assert '1 report is longer than 100,000 characters and cut there.' in out.attrs['notes']
    assert out['report'].str.len().max() == LONGEST_REPORT

def test_text_in_no_encoding_is_refused_when_it_is_read(tmp_path):
    path = tmp_path/'t.parquet'
    pd.DataFrame(dict(a=['qwertz', 'other'])).to_parquet(path, compression=None)
    path.write_bytes(path.read_bytes().replace(b'qwertz', b'qw\xff\xfetz'))
    with pytest.raises(InputError, match='not a Parquet file that can be read'): read_parquet(path)
    check_text(pd.DataFrame(dict(a=['ä', None], b=[1, 2])))

def test_small_files_that_would_fill_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr('refers_nb.data.checked.MOST_CELLS', 10**6)
    pd.DataFrame(dict(a=np.zeros(2*10**6, np.int8))).to_parquet(tmp_path/'bomb.parquet')
    assert (tmp_path/'bomb.parquet').stat().st_size < 10**5
    with pytest.raises(InputError, match='2,000,000 rows of 1 columns are too many'): read_parquet(tmp_path/'bomb.parquet')


# Records and files

@pytest.mark.parametrize('content', [b'', b'{', b'[]', b'3', b'null', b'\0'*30, b'\xff\xfe{', b'{"a": 1', b'['*100_000])
def test_records_that_are_none(tmp_path, content):
    (tmp_path/'run.json').write_bytes(content)
    with pytest.raises(InputError, match='run.json: damaged'): read_record(tmp_path/'run.json')
    with pytest.raises(InputError, match='make the folder anew'): described(tmp_path)

@pytest.mark.parametrize('record', [
    {}, {'args': {'source': ['x']}}, {'source': {'a': 1}}, {'source': 7}, {'args': {'source': None}}])
def test_a_record_that_tells_nothing(tmp_path, record):
    (tmp_path/'run.json').write_text(json.dumps(record))
    assert described(tmp_path) == dict(source='not recorded', terms='not recorded')

def test_what_is_no_file_is_not_opened(tmp_path):
    os.mkfifo(tmp_path/'pipe')
    (tmp_path/'loop').symlink_to('loop')
    for name in ('pipe', 'loop', '.', 'gone', 'a'*5000, 'a\0b'):
        for f in (read_parquet, read_images, read_record):
            with pytest.raises(InputError): f(tmp_path/name)
    for name in ('/dev/zero', '/dev/null'):
        with pytest.raises(InputError, match='a device'): read_record(name)
    assert not has_rows(tmp_path/'gone') and not has_rows(tmp_path)

@pytest.mark.skipif(os.geteuid() == 0, reason='root may read everything')
def test_a_file_that_may_not_be_read_is_not_called_missing(tmp_path):
    (tmp_path/'t').write_text('x')
    os.chmod(tmp_path/'t', 0)
    with pytest.raises(InputError, match='may not be read'): check_file(tmp_path/'t', what='a table')
