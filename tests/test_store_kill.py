"The image store killed at any moment and built again is the store of an uninterrupted build, byte for byte"
import os, random, signal, subprocess, sys, time
from pathlib import Path

import numpy as np, pandas as pd, pytest
from PIL import Image

import refers_nb.data.store as R
from refers_nb.core import InputError
from refers_nb.data.radiograph import image_hash, load_radiograph
from refers_nb.data.store import ImageStore

FILES = ('images.npy', 'index.parquet', 'rejected.csv')
pytestmark = pytest.mark.skipif(not hasattr(os, 'fork'), reason='kills need fork and SIGKILL')

def content(out): return {o: (Path(out)/o).read_bytes() for o in FILES}

def write(path, seed, side=60):
    x = np.random.default_rng(seed).integers(0, 255, (side, side+seed % 7), dtype=np.uint8)
    Image.fromarray(x).save(path)

def tree(root, n, bad=(), **kw):
    "n image files below root, some of them damaged"
    root.mkdir()
    names = [f'{i}.png' for i in range(n)]
    for i,o in enumerate(names):
        write(root/o, i, **kw)
        if i in bad: (root/o).write_bytes((root/o).read_bytes()[:200])
    return names

def until_call(k, f):
    "Run f in a child that is killed at its k-th system call that changes files; the child's wait status"
    pid = os.fork()
    if pid: return os.waitpid(pid, 0)[1]
    try:
        left = [k]
        def counted(g):
            def run(*args, **kw):
                if left[0] == 0: os.kill(os.getpid(), signal.SIGKILL)
                left[0] -= 1
                return g(*args, **kw)
            return run
        for o in ('replace', 'fsync', 'truncate', 'unlink', 'rmdir'): setattr(os, o, counted(getattr(os, o)))
        f()
        os._exit(0)
    except BaseException: os._exit(1)

def walk_all_kills(build, reset, expected):
    "Kill `build` before every single change of a file; after each, the store opens whole or says it is unfinished, and a build completes it"
    k = 0
    while True:
        reset()
        status = until_call(k, build)
        if not os.WIFSIGNALED(status): break
        out = build.out
        try: assert len(ImageStore(out)) > 0
        except InputError as e: assert 'build' in str(e)
        build()
        assert content(out) == expected, f'killed before change {k}'
        assert not (out/'unfinished').exists()
        k += 1
    assert status == 0
    return k

class Build:
    def __init__(self, names, root, out): self.names,self.root,self.out = names,root,Path(out)
    def __call__(self): return ImageStore.build(self.names, self.root, self.out, size=32, workers=0, max_rejected=.2)

def fresh(out):
    import shutil
    shutil.rmtree(out, ignore_errors=True)

def test_killed_before_every_change_of_a_new_store(tmp_path, monkeypatch):
    names = tree(tmp_path/'raw', 40, bad=(3, 17))
    Build(names, tmp_path/'raw', tmp_path/'ref')()
    monkeypatch.setattr(R._Work, 'write', each_write_synced(R._Work.write))
    b = Build(names, tmp_path/'raw', tmp_path/'out')
    assert walk_all_kills(b, lambda: fresh(b.out), content(tmp_path/'ref')) > 15

def test_killed_before_every_change_of_a_rebuild(tmp_path):
    names = tree(tmp_path/'raw', 30)
    b = Build(names, tmp_path/'raw', tmp_path/'out')
    b()
    before = content(b.out)
    write(tmp_path/'raw'/names[7], 99)
    Build(names, tmp_path/'raw', tmp_path/'ref')()
    expected = content(tmp_path/'ref')
    assert expected != before
    def reset():
        fresh(b.out), b.out.mkdir()
        for o,x in before.items(): (b.out/o).write_bytes(x)
    assert walk_all_kills(b, reset, expected) > 10

def each_write_synced(write):
    def run(self, *args):
        write(self, *args)
        self.sync()
    return run

PROGRAM = '''
import os, signal, sys
import refers_nb.data.store as R
root,out,n,kill = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
write,written = R._Work.write, [0]
def dying(self, *args):
    "Write one batch from the workers; before batch number `kill` the process dies, the batches before it being in the journal or not"
    if written[0] == kill: os.kill(os.getpid(), signal.SIGKILL)
    write(self, *args)
    if written[0] % 2: self.sync()
    written[0] += 1
R._Work.write = dying
R.ImageStore.build([f'{i}.png' for i in range(n)], root, out, size=48, workers=2)
'''

def test_killed_at_random_moments_with_several_processes(tmp_path):
    n,rng = 160,random.Random(os.environ.get('REFERS_NB_TEST_SEED', 0))
    tree(tmp_path/'raw', n, side=300)
    ImageStore.build([f'{i}.png' for i in range(n)], tmp_path/'raw', tmp_path/'ref', size=48, workers=0)
    cmd = [sys.executable, '-c', PROGRAM, str(tmp_path/'raw'), str(tmp_path/'out'), str(n)]
    quiet,killed = dict(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL),0    # orphaned workers keep pipes open
    for _ in range(int(os.environ.get('REFERS_NB_TEST_KILLS', 4))):
        code = subprocess.run([*cmd, str(rng.randrange(3))], **quiet).returncode
        assert code in (0, -signal.SIGKILL)
        killed += code != 0
    subprocess.run([*cmd, '-1'], check=True, **quiet)
    assert content(tmp_path/'out') == content(tmp_path/'ref')
    assert killed

def test_killed_at_random_times_with_all_its_processes(tmp_path):
    "Whenever the kill comes, and whether it comes before the end or not: the next build completes the store"
    n,rng = 160,random.Random(os.environ.get('REFERS_NB_TEST_SEED', 0))
    tree(tmp_path/'raw', n, bad=(5,), side=300)
    start = lambda out: subprocess.Popen([sys.executable, '-c', PROGRAM, str(tmp_path/'raw'), str(tmp_path/out), str(n), '-1'], start_new_session=True,
                                         stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    begun = time.monotonic()
    assert start('ref').wait() == 0
    whole = time.monotonic()-begun
    for _ in range(int(os.environ.get('REFERS_NB_TEST_KILLS', 4))):
        p = start('out')
        try: p.wait(timeout=whole*rng.random())
        except subprocess.TimeoutExpired: os.killpg(p.pid, signal.SIGKILL)
        assert p.wait() in (0, -signal.SIGKILL)
        try: assert len(ImageStore(tmp_path/'out')) == n-1
        except InputError as e: assert 'build' in str(e)
        if (tmp_path/'out'/'index.parquet').exists() and rng.random() < .5: fresh(tmp_path/'out')
    assert start('out').wait() == 0
    assert content(tmp_path/'out') == content(tmp_path/'ref')

def test_only_what_changed_is_decoded_again(tmp_path, monkeypatch):
    names = tree(tmp_path/'raw', 20)
    build = lambda names=names, **kw: ImageStore.build(names, tmp_path/'raw', tmp_path/'out', **{'size': 32, 'workers': 0, **kw})
    decoded = []
    pixels = R._pixels
    monkeypatch.setattr(R, '_pixels', lambda p, *a: (decoded.append(Path(p).name), pixels(p, *a))[1])
    def what():
        res = sorted(decoded)
        decoded.clear()
        return res
    build(); assert what() == sorted(names)
    stamps = {o: os.stat(tmp_path/'out'/o).st_mtime_ns for o in FILES}
    build(); assert what() == []
    assert stamps == {o: os.stat(tmp_path/'out'/o).st_mtime_ns for o in FILES}, 'nothing changed, nothing written'
    write(tmp_path/'raw'/'4.png', 77)
    build(); assert what() == ['4.png']
    write(tmp_path/'raw'/'new.png', 78)
    build(['new.png', *names]); assert what() == ['new.png']
    index = ImageStore(tmp_path/'out').index
    assert list(index['path']) == ['new.png', *names]
    for p,h,w,phash in zip(index['path'], index['height'], index['width'], index['phash']): # taken over or new: those of the file
        assert (h, w) == np.array(Image.open(tmp_path/'raw'/p)).shape and phash == image_hash(load_radiograph(tmp_path/'raw'/p, 32))
    what()
    build(names[:5]); assert what() == [] # fewer images: none decoded
    assert len(ImageStore(tmp_path/'out')) == 5
    build(); assert len(what()) == 15
    build(resize_mode='crop'); assert what() == sorted(names)
    build(resize_mode='crop', size=48); assert what() == sorted(names)

def test_a_store_of_an_earlier_version_is_built_again(tmp_path):
    names = tree(tmp_path/'raw', 6)
    b = Build(names, tmp_path/'raw', tmp_path/'out')
    b()
    expected = content(b.out)
    old = pd.read_parquet(b.out/'index.parquet')[['path', 'bytes', 'mtime_ns']]
    old.attrs = dict(size=32, resize_mode='letterbox', version=1)
    old.to_parquet(b.out/'index.parquet', index=False)
    assert len(ImageStore(b.out)) == 6 # it can still be read
    b()
    assert content(b.out) == expected

def test_a_store_without_images_is_no_store_of_other_parameters(tmp_path):
    (tmp_path/'raw').mkdir()
    build = lambda size: ImageStore.build(['none.png'], tmp_path/'raw', tmp_path/'out', size=size, max_rejected=1)
    assert (build(32).size, build(48).size) == (32, 48)

def test_two_builds_at_once_are_refused(tmp_path):
    pytest.importorskip('fcntl')
    names = tree(tmp_path/'raw', 3)
    with R._lock(tmp_path/'out'), pytest.raises(InputError, match='another process'):
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
