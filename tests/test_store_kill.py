"The image store killed at any moment and built again is the store of an uninterrupted build, byte for byte"
import os, random, shutil, signal, subprocess, sys, time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from kills import by_exception, by_signal
from PIL import Image

import refers_nb.data.radiograph as radiograph
import refers_nb.data.store as R
from refers_nb.core import InputError
from refers_nb.data.grey import image_hash
from refers_nb.data.radiograph import load_radiograph
from refers_nb.data.store import ImageStore

FILES = ('images.npy', 'index.parquet', 'rejected.csv')
KILLS = int(os.environ.get('REFERS_NB_TEST_KILLS', 4))
SEED = os.environ.get('REFERS_NB_TEST_SEED', 0)
pytestmark = pytest.mark.skipif(not hasattr(os, 'fork'), reason='kills need fork and SIGKILL')


def content(out): return {o: (Path(out)/o).read_bytes() for o in FILES}


def write(path, seed, side=60):
    "An image file of noise"
    x = np.random.default_rng(seed).integers(0, 255, (side, side + seed % 7), dtype=np.uint8)
    Image.fromarray(x).save(path)


def tree(root, n, bad=(), **kw):
    "n image files below root, some of them damaged; their names"
    root.mkdir()
    names = [f'{i}.png' for i in range(n)]
    for i, o in enumerate(names):
        write(root/o, i, **kw)
        if i in bad: (root/o).write_bytes((root/o).read_bytes()[:200])
    return names


class Build:
    "A build in this process, whenever it is called"
    def __init__(self, names, root, out): self.names, self.root, self.out = names, root, Path(out)
    def __call__(self):
        return ImageStore.build(self.names, self.root, self.out, size=32, workers=0, max_rejected=.2)


# ---- killed before a change of a file

def complete_after_kill(build, k, killed, expected):
    "Kill a build before change number k, if it has so many: what it left opens whole or says so, and is completed"
    if not killed(k, build): return False
    try: assert len(ImageStore(build.out)) > 0
    except InputError as e: assert 'build' in str(e)
    build()
    assert content(build.out) == expected, f'killed before change {k}'
    assert not (build.out/'unfinished').exists()
    return True


def walk_all_kills(build, reset, killed, expected):
    "Kill a build before every single change of a file; how many there are"
    k = 0
    reset()
    while complete_after_kill(build, k, killed, expected):
        k += 1
        reset()
    return k


def new_store(tmp_path, monkeypatch):
    "A build where nothing is, which journals each batch; how to begin again, and what it should give"
    names = tree(tmp_path/'raw', 40, bad=(3, 17))
    Build(names, tmp_path/'raw', tmp_path/'ref')()
    write_batch = R.Staging.write
    def write_and_sync(self, batch):
        write_batch(self, batch)
        self.sync()
    monkeypatch.setattr(R.Staging, 'write', write_and_sync)
    out = tmp_path/'out'
    return Build(names, tmp_path/'raw', out), lambda: shutil.rmtree(out, ignore_errors=True), content(tmp_path/'ref')


def changed_store(tmp_path, monkeypatch):
    "A build over a finished store of which one file has changed"
    names = tree(tmp_path/'raw', 30)
    build = Build(names, tmp_path/'raw', tmp_path/'out')
    build()
    before = content(build.out)
    write(tmp_path/'raw'/names[7], 99)
    Build(names, tmp_path/'raw', tmp_path/'ref')()
    expected = content(tmp_path/'ref')
    assert expected != before
    def reset():
        shutil.rmtree(build.out)
        build.out.mkdir()
        for o, x in before.items(): (build.out/o).write_bytes(x)
    return build, reset, expected


each_kind = pytest.mark.parametrize('kind,at_least', [(new_store, 15), (changed_store, 10)], ids=['new', 'changed'])


@each_kind
def test_killed_before_every_change(tmp_path, monkeypatch, kind, at_least):
    build, reset, expected = kind(tmp_path, monkeypatch)
    assert walk_all_kills(build, reset, by_exception, expected) > at_least


@each_kind
def test_killed_by_a_signal(tmp_path, monkeypatch, kind, at_least):
    build, reset, expected = kind(tmp_path, monkeypatch)
    reset()
    assert complete_after_kill(build, at_least - 3, by_signal, expected)


@pytest.mark.slow
@each_kind
def test_killed_by_a_signal_before_every_change(tmp_path, monkeypatch, kind, at_least):
    build, reset, expected = kind(tmp_path, monkeypatch)
    assert walk_all_kills(build, reset, by_signal, expected) > at_least


# ---- several processes

PROGRAM = '''
import os, signal, sys
import refers_nb.data.radiograph as radiograph
import refers_nb.data.store as R
root, out, n, kill, who = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5]
write, written = R.Staging.write, [0]
def dying(self, batch):
    "Write a batch; before batch number `kill` the process or its group dies, every other batch being in the journal"
    if written[0] == kill: os.kill(os.getpid() if who == 'parent' else 0, signal.SIGKILL)
    write(self, batch)
    if written[0] % 2: self.sync()
    written[0] += 1
R.Staging.write = dying
R.ImageStore.build([f'{i}.png' for i in range(n)], root, out, size=48, workers=2)
'''


def start(root, out, n, kill=-1, who='parent'):
    "A build by two processes in a group of their own; nothing of it is read, since orphaned workers keep pipes open"
    cmd = [sys.executable, '-c', PROGRAM, str(root), str(out), str(n), str(kill), who]
    return subprocess.Popen(cmd, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def test_killed_with_several_processes(tmp_path):
    "First the parent alone, then all; the third build completes the store"
    n, raw = 96, tmp_path/'raw'
    names = tree(raw, n, side=100)
    ImageStore.build(names, raw, tmp_path/'ref', size=48, workers=0)
    assert start(raw, tmp_path/'out', n, kill=2).wait() == -signal.SIGKILL
    assert start(raw, tmp_path/'out', n, kill=1, who='all').wait() == -signal.SIGKILL
    with pytest.raises(InputError, match='build'): ImageStore(tmp_path/'out')
    assert start(raw, tmp_path/'out', n).wait() == 0
    assert content(tmp_path/'out') == content(tmp_path/'ref')


@pytest.mark.slow
def test_killed_at_random_moments_with_several_processes(tmp_path):
    n, rng = 160, random.Random(SEED)
    names = tree(tmp_path/'raw', n, side=300)
    ImageStore.build(names, tmp_path/'raw', tmp_path/'ref', size=48, workers=0)
    killed = 0
    for _ in range(KILLS):
        code = start(tmp_path/'raw', tmp_path/'out', n, rng.randrange(3)).wait()
        assert code in (0, -signal.SIGKILL)
        killed += code != 0
    assert start(tmp_path/'raw', tmp_path/'out', n).wait() == 0
    assert content(tmp_path/'out') == content(tmp_path/'ref')
    assert killed


@pytest.mark.slow
def test_killed_at_random_times_with_all_its_processes(tmp_path):
    "Whenever the kill comes, and whether it comes before the end or not: the next build completes the store"
    n, rng = 160, random.Random(SEED)
    tree(tmp_path/'raw', n, bad=(5,), side=300)
    begun = time.monotonic()
    assert start(tmp_path/'raw', tmp_path/'ref', n).wait() == 0
    whole = time.monotonic() - begun
    for _ in range(KILLS):
        p = start(tmp_path/'raw', tmp_path/'out', n)
        try: p.wait(timeout=whole*rng.random())
        except subprocess.TimeoutExpired: os.killpg(p.pid, signal.SIGKILL)
        assert p.wait() in (0, -signal.SIGKILL)
        try: assert len(ImageStore(tmp_path/'out')) == n-1
        except InputError as e: assert 'build' in str(e)
        if (tmp_path/'out'/'index.parquet').exists() and rng.random() < .5: shutil.rmtree(tmp_path/'out')
    assert start(tmp_path/'raw', tmp_path/'out', n).wait() == 0
    assert content(tmp_path/'out') == content(tmp_path/'ref')


# ---- built again

def test_only_what_changed_is_decoded_again(tmp_path, monkeypatch):
    raw, out = tmp_path/'raw', tmp_path/'out'
    names = tree(raw, 20)
    decoded = []
    decode = radiograph.decode_radiograph
    def counted(path, *args):
        decoded.append(Path(path).name)
        return decode(path, *args)
    monkeypatch.setattr(radiograph, 'decode_radiograph', counted)
    def build(names=names, size=32, **kw):
        "Build the store; what was decoded for it"
        decoded.clear()
        ImageStore.build(names, raw, out, size=size, workers=0, **kw)
        return sorted(decoded)
    def stamps(): return {o: os.stat(out/o).st_mtime_ns for o in FILES}

    assert build() == sorted(names)
    before = stamps()
    assert build() == []
    assert stamps() == before, 'nothing changed, nothing written'
    write(raw/'4.png', 77)
    assert build() == ['4.png']
    write(raw/'new.png', 78)
    assert build(['new.png', *names]) == ['new.png']
    index = ImageStore(out).index
    assert list(index['path']) == ['new.png', *names]
    for o in index.itertuples(): # taken over or new: the facts are those of the file
        assert (o.height, o.width) == np.array(Image.open(raw/o.path)).shape
        assert o.phash == image_hash(load_radiograph(raw/o.path, 32))
    assert build(names[:5]) == [], 'fewer images: none decoded'
    assert len(ImageStore(out)) == 5
    assert len(build()) == 15
    assert build(resize_mode='crop') == sorted(names)
    assert build(resize_mode='crop', size=48) == sorted(names)


def test_a_store_of_an_earlier_version_is_built_again_and_that_is_told(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv('REFERS_NB_PROGRESS', raising=False)
    names = tree(tmp_path/'raw', 6)
    build = Build(names, tmp_path/'raw', tmp_path/'out')
    build()
    expected = content(build.out)
    old = pd.read_parquet(build.out/'index.parquet')[['path', 'bytes', 'mtime_ns']]
    old.attrs = dict(size=32, fit='letterbox', version=R.STORE_VERSION - 1)
    old.to_parquet(build.out/'index.parquet', index=False)
    assert len(ImageStore(build.out)) == 6 # it can still be read
    assert 'version' not in capsys.readouterr().err
    build()
    told = f'{build.out}: an image store of another version; every radiograph is decoded again\n'
    assert told in capsys.readouterr().err
    assert content(build.out) == expected


def test_a_store_without_images_is_no_store_of_other_parameters(tmp_path):
    (tmp_path/'raw').mkdir()
    def build(size): return ImageStore.build(['none.png'], tmp_path/'raw', tmp_path/'out', size=size, max_rejected=1)
    assert (build(32).size, build(48).size) == (32, 48)


def test_two_builds_at_once_are_refused(tmp_path):
    pytest.importorskip('fcntl')
    names = tree(tmp_path/'raw', 3)
    with R.build_lock(tmp_path/'out'), pytest.raises(InputError, match='another process'):
        ImageStore.build(names, tmp_path/'raw', tmp_path/'out', size=32)


def test_a_store_in_the_making_and_a_mixed_one_do_not_open(tmp_path):
    names = tree(tmp_path/'raw', 4)
    with pytest.raises(InputError, match='no finished image store'): ImageStore(tmp_path/'out')
    ImageStore.build(names, tmp_path/'raw', tmp_path/'out', size=32)
    ImageStore.build(names[:2], tmp_path/'raw', tmp_path/'two', size=32)
    (tmp_path/'two'/'images.npy').replace(tmp_path/'out'/'images.npy')
    with pytest.raises(InputError, match='do not belong together'): ImageStore(tmp_path/'out')
    ImageStore.build(names, tmp_path/'raw', tmp_path/'out', size=32) # and a build mends it
    assert len(ImageStore(tmp_path/'out')) == 4
