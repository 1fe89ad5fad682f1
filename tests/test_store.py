"The image store: what it holds, what it rejects, and who builds it"
import os, pickle, socket, sys, time

import numpy as np
import pytest
from joblib import Parallel, delayed
from PIL import Image
from radiograph_files import dicom, grey

import refers_nb.data.store as S
from refers_nb.core import InputError
from refers_nb.data.grey import image_hash, to_grey
from refers_nb.data.jobs import run_jobs
from refers_nb.data.radiograph import load_radiograph
from refers_nb.data.store import ImageStore

FILES = ('images.npy', 'index.parquet', 'rejected.csv')

def pictures(root, grey, n):
    "Files 0.png, 1.png ... with the picture rolled; their names"
    root.mkdir(exist_ok=True)
    names = [f'{i}.png' for i in range(n)]
    for i, name in enumerate(names): Image.fromarray(np.roll(grey, i)).save(root/name)
    return names

def assert_same_files(a, b):
    "Two stores are alike, byte for byte"
    for o in FILES: assert (a/o).read_bytes() == (b/o).read_bytes(), o

def test_store_counts_rejected_and_stops_beyond_the_share(tmp_path, grey):
    names = pictures(tmp_path, grey, 10)
    (tmp_path/'3.png').write_bytes(b'')
    (tmp_path/'5.png').write_bytes((tmp_path/'5.png').read_bytes()[:300])
    (tmp_path/'8.png').unlink()
    with pytest.raises(InputError, match='3 of 10 radiographs cannot be read') as e:
        ImageStore.build(names, tmp_path, tmp_path/'out', size=32)
    assert '3.png (the file is empty)' in str(e.value)
    with pytest.raises(InputError): ImageStore(tmp_path/'out')
    store = ImageStore.build(names, tmp_path, tmp_path/'out', size=32, max_rejected=.3)
    lines = (tmp_path/'out'/'rejected.csv').read_text().splitlines()
    assert len(store) == 7
    assert [o.split(',')[0] for o in lines] == ['path', '3.png', '5.png', '8.png']
    assert str(tmp_path) not in '\n'.join(lines)
    assert [store.row(o) for o in ('4.png', '9.png')] == [3, 6]
    with pytest.raises(InputError, match='8.png is not in the image store'): store.row('8.png')

def test_store_in_processes_is_the_store_of_one(tmp_path, grey):
    names = pictures(tmp_path, grey, 70)
    one = ImageStore.build(names, tmp_path, tmp_path/'one', size=40, workers=1)
    two = ImageStore.build(names, tmp_path, tmp_path/'two', size=40, workers=2)
    assert_same_files(tmp_path/'one', tmp_path/'two')
    assert (one[5] == load_radiograph(tmp_path/'5.png', 40)).all()
    assert (two['69.png'] == one[69]).all()
    assert two[[3, 4]].shape == (2, 40, 40)
    assert (pickle.loads(pickle.dumps(two))[7] == one[7]).all()

def test_progress_and_rejected_files_are_told(tmp_path, grey, monkeypatch, capsys):
    names = pictures(tmp_path, grey, 10)
    def build(n): ImageStore.build(names[:n], tmp_path, tmp_path/'out', size=32, workers=1, max_rejected=.5)
    monkeypatch.setenv('REFERS_NB_PROGRESS', '1')
    build(8)
    err = capsys.readouterr().err
    assert 'radiographs: 100%' in err and '8/8' in err and ' images' in err
    assert 'cannot be read' not in err
    (tmp_path/'9.png').write_bytes(b'')
    build(10)
    err = capsys.readouterr().err
    assert '10/10' in err
    assert f"1 of 10 radiographs cannot be read; the reasons are in {tmp_path/'out'/'rejected.csv'}\n" in err
    monkeypatch.setenv('REFERS_NB_PROGRESS', '0')
    build(9)
    build(10)
    assert capsys.readouterr().err == ''

def test_no_more_jobs_are_handed_out_than_are_read(tmp_path):
    "A reader that is slower than the processes: what waits is bounded"
    made, done = [], []
    def numbered():
        for i in range(60):
            made.append(i)
            yield (i,)
    for o in run_jobs(abs, numbered(), 2):
        assert len(made) - len(done) <= 4
        if len(done) == 10: time.sleep(.5) # they would run on
        done.append(o)
    assert sorted(done) == list(range(60)) == made

@pytest.mark.slow
def test_store_of_a_dask_cluster_is_the_store_of_one(tmp_path, grey, monkeypatch, capsys):
    distributed = pytest.importorskip('distributed')
    monkeypatch.delenv('REFERS_NB_PROGRESS', raising=False)
    names = pictures(tmp_path/'raw', grey, 70)
    (tmp_path/'raw'/'33.png').write_bytes(b'')
    monkeypatch.chdir(tmp_path) # a relative root, which the workers do not share
    ImageStore.build(names, 'raw', 'one', size=40, workers=1)
    with distributed.LocalCluster(n_workers=0, dashboard_address=':0') as empty:
        with pytest.raises(InputError, match='has no workers'):
            ImageStore.build(names, 'raw', 'none', size=40, workers=empty.scheduler_address)
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=':0') as cluster:
        ImageStore.build(names, 'raw', 'two', size=40, workers=cluster.scheduler_address)
        ImageStore.build(names, 'raw', 'two', size=40, workers=cluster.scheduler_address) # nothing to do
    assert_same_files(tmp_path/'one', tmp_path/'two')
    assert '1 of 70 radiographs cannot be read' in capsys.readouterr().err

def test_scheduler_that_is_not_there(tmp_path, grey, monkeypatch):
    Image.fromarray(grey).save(tmp_path/'a.png')
    def build(workers): return ImageStore.build(['a.png'], tmp_path, tmp_path/'out', size=32, workers=workers)
    with socket.socket() as s: # taken, but nobody listens
        s.bind(('127.0.0.1', 0))
        with pytest.raises(InputError, match='no Dask scheduler answers there'):
            build(f'tcp://127.0.0.1:{s.getsockname()[1]}')
    for o in ('', 'two', 'tcp://nowhere', 'tcp://127.0.0.1:port'):
        with pytest.raises(InputError, match='no Dask scheduler answers there'): build(o)
    monkeypatch.setitem(sys.modules, 'distributed', None)
    with pytest.raises(InputError, match=r"pip install 'refers_nb\[cluster\]'"): build('tcp://127.0.0.1:8786')
    assert len(build(1)) == 1

def test_index_has_the_shape_in_the_file_and_a_hash(tmp_path):
    y,x = np.mgrid[0:1:1600j, 0:1:1200j]
    big = to_grey(np.sin(5*x)*np.cos(4*y))
    turned = Image.Exif()
    turned[0x0112] = 6
    im = Image.fromarray(big)
    im.save(tmp_path/'a.jpg', quality=95)
    im.save(tmp_path/'a.png')
    im.save(tmp_path/'turned.jpg', quality=95, exif=turned)
    im.save(tmp_path/'turned.webp', exif=turned, lossless=True)
    im.save(tmp_path/'turned.tiff', tiffinfo={0x0112: 6}, compression='tiff_lzw')
    dicom(tmp_path/'a.dcm', big*16.)
    names = ['a.jpg', 'turned.jpg', 'a.png', 'turned.webp', 'turned.tiff', 'a.dcm']
    store = ImageStore.build(names, tmp_path, tmp_path/'out', size=64)
    index = store.index
    assert list(index) == ['path', 'bytes', 'mtime_ns', 'height', 'width', 'phash', 'window_missed']
    assert [str(o) for o in index.dtypes[1:]] == ['int64', 'int64', 'int32', 'int32', 'uint64', 'bool']
    shapes = [(1200, 1600) if 'turned' in o else (1600, 1200) for o in names]
    assert list(zip(index['height'], index['width'])) == shapes
    assert index['phash'].tolist() == [image_hash(o) for o in store]
    assert all((image_hash(store[0]) ^ image_hash(store[i])).bit_count() <= 6 for i in (2, 5))

def test_a_file_that_ends_its_process_is_rejected(tmp_path, grey, monkeypatch):
    "Its worker dies with all that it was to do; the others' files are none the worse"
    names = pictures(tmp_path, grey, 70)
    (tmp_path/'deadly.png').write_bytes(b'x')
    names[40:40] = ['deadly.png']
    real = S.decode_files
    def decode_files(root, paths, rows, spec):
        if 'deadly.png' in paths: os._exit(1)
        return real(root, paths, rows, spec)
    monkeypatch.setattr(S, 'decode_files', decode_files)
    store = ImageStore.build(names, tmp_path, tmp_path/'out', size=32, workers=2, max_rejected=.1)
    assert list(store.index['path']) == [o for o in names if o != 'deadly.png']
    assert (store['69.png'] == load_radiograph(tmp_path/'69.png', 32)).all()
    assert 'deadly.png,"its decoder crashed' in (tmp_path/'out'/'rejected.csv').read_text()

def test_the_pool_leaves_room_for_joblib():
    assert sorted(run_jobs(abs, [(-1,), (-2,)], 2)) == [1, 2]
    assert Parallel(n_jobs=2)(delayed(abs)(o) for o in (-3, -4)) == [3, 4]
    assert sorted(run_jobs(abs, [(-5,)], 2)) == [5]
