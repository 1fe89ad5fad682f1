"`refers-prep` killed at any moment and started again leaves what an uninterrupted run leaves, byte for byte"
import os, random, shutil, signal, subprocess, sys, time
from pathlib import Path

import numpy as np, pandas as pd, pytest
from PIL import Image

from test_sources import indiana

pytestmark = pytest.mark.skipif(not hasattr(os, 'killpg'), reason='needs process groups and SIGKILL')
COMMAND = [sys.executable, str(Path(sys.executable).parent/'refers-prep'), 'iu_xray']
FILES = {'images.npy', 'index.parquet', 'rejected.csv', 'studies.parquet', 'missing.csv', 'duplicates.csv', 'fractions.csv', 'card.md', 'card.png'}

def start(raw, out):
    "The command in a process group of its own; nothing of it is read, since workers that outlive it would keep a pipe open"
    env = dict(os.environ, OMP_NUM_THREADS='1', REFERS_NB_PROGRESS='0')
    return subprocess.Popen([*COMMAND, str(raw), str(out), '--size', '48', '--workers', '2'], env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)

def download(root):
    "About 150 noise radiographs of a real size in the layout of Indiana, one damaged, one missing, two alike"
    n = 76
    indiana(root, n)
    for i,p in enumerate(sorted((root/'images').iterdir())):
        p.unlink()
        Image.fromarray(np.random.default_rng(i).integers(0, 255, (1000, 820 + i % 9), dtype=np.uint8)).save(p.with_suffix('.png'), compress_level=1)
    png = sorted((root/'images').iterdir())
    png[3].write_bytes(png[3].read_bytes()[:5000]), png[5].unlink(), shutil.copy(png[8], png[30])
    return root

def content(out): return {p.name: p.read_bytes() for p in out.iterdir() if p.name != 'run.json'}

def test_killed_at_random_moments(tmp_path):
    "The moments are spread over the time in which the first run wrote, by a fixed seed; whether a kill comes before the end does not matter"
    raw,out,rng = download(tmp_path/'raw'),tmp_path/'out',random.Random(os.environ.get('REFERS_NB_TEST_SEED', 0))
    began,p = time.monotonic(),start(raw, out)
    while p.poll() is None and not out.exists(): time.sleep(.02)
    quiet = time.monotonic()-began # imports and tables
    assert p.wait() == 0
    took,whole = time.monotonic()-began,content(out)
    assert FILES == set(whole) and len(pd.read_parquet(out/'index.parquet')) == 148 and len(pd.read_csv(out/'duplicates.csv')) == 1
    shutil.rmtree(out)
    left = 0
    for _ in range(int(os.environ.get('REFERS_NB_TEST_KILLS', 3))):
        p = start(raw, out)
        try: assert p.wait(rng.uniform(quiet, took)) == 0
        except subprocess.TimeoutExpired:
            os.killpg(p.pid, signal.SIGKILL)
            assert p.wait() == -signal.SIGKILL
            left += out.exists()
        if rng.random() < .2: shutil.rmtree(out, ignore_errors=True) # so that later kills meet early stages too
    assert start(raw, out).wait() == 0
    sys.stdout.write(f'\n{left} kills in a folder with something in it; an uninterrupted run takes {took:.1f} s')
    now = content(out)
    assert set(now) == set(whole) and not [k for k in whole if now[k] != whole[k]]
