"`refers-prep` killed at any moment and started again leaves what an uninterrupted run leaves, byte for byte"
import os, random, shutil, signal, subprocess, sys, time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from kills import by_exception, changes_of
from PIL import Image
from source_trees import indiana

from refers_nb.data.prepare import prepare

pytestmark = pytest.mark.skipif(not hasattr(os, 'killpg'), reason='needs process groups and SIGKILL')
COMMAND = [sys.executable, str(Path(sys.executable).parent/'refers-prep'), 'iu_xray']
KILLS = int(os.environ.get('REFERS_NB_TEST_KILLS', 3))
SEED = os.environ.get('REFERS_NB_TEST_SEED', 0)
FILES = {'images.npy', 'index.parquet', 'rejected.csv', 'studies.parquet', 'missing.csv', 'duplicates.csv',
         'fractions.csv', 'card.md', 'card.png'}


def download(root, n, height=60):
    "About 2n noise radiographs in the layout of Indiana, one damaged, one missing, two alike"
    indiana(root, n)
    for i, p in enumerate(sorted((root/'images').iterdir())):
        p.unlink()
        noise = np.random.default_rng(i).integers(0, 255, (height, height*4//5 + i % 9), dtype=np.uint8)
        Image.fromarray(noise).save(p.with_suffix('.png'), compress_level=1)
    png = sorted((root/'images').iterdir())
    png[3].write_bytes(png[3].read_bytes()[:png[3].stat().st_size//2])
    png[5].unlink()
    shutil.copy(png[8], png[11])
    return root


def content(out): return {p.name: p.read_bytes() for p in out.iterdir() if p.name != 'run.json'}


def assert_same(out, whole):
    "A folder holds the files of an uninterrupted run"
    now = content(out)
    assert set(now) == set(whole)
    assert not [o for o in whole if now[o] != whole[o]]


# ---- killed in this process, by an exception

class Prepare:
    "A preparation in this process, whenever it is called"
    def __init__(self, raw, out): self.raw, self.out = raw, out
    def __call__(self):
        prepare('iu_xray', self.raw, self.out, size=32, workers=0, max_rejected=.1)
        import matplotlib.pyplot as plt
        plt.close('all')


def whole_run(tmp_path):
    "A preparation, and what it leaves when nothing interrupts it"
    raw = download(tmp_path/'raw', 9)
    Prepare(raw, tmp_path/'ref')()
    whole = content(tmp_path/'ref')
    assert set(whole) == FILES
    return Prepare(raw, tmp_path/'out'), whole


def killed_and_completed(run, k, whole):
    "Kill a new preparation before its k-th change of files, if it has so many, and run it again"
    shutil.rmtree(run.out, ignore_errors=True)
    if not by_exception(k, run): return False
    run()
    assert_same(run.out, whole)
    return True


def test_killed_before_some_changes(tmp_path):
    run, whole = whole_run(tmp_path)
    assert sum(killed_and_completed(run, k, whole) for k in (3, 14, 36)) == 3


@pytest.mark.slow
def test_killed_before_every_change(tmp_path):
    "But `fsync`, before which the files are those before the change that follows it"
    run, whole = whole_run(tmp_path)
    moments = [k for k, name in enumerate(changes_of(run)) if name != 'fsync']
    assert len(moments) > 36
    for k in moments: assert killed_and_completed(run, k, whole)


# ---- the command, killed by a signal with all its processes

def start(raw, out):
    "The command in a process group of its own; nothing of it is read, since orphaned workers would keep a pipe open"
    env = dict(os.environ, OMP_NUM_THREADS='1', REFERS_NB_PROGRESS='0')
    return subprocess.Popen([*COMMAND, str(raw), str(out), '--size', '48', '--workers', '2'], env=env,
                            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)


def wait_for(file, p):
    "Wait until a process has made a file"
    while p.poll() is None and not file.exists(): time.sleep(.01)


def kill(p):
    "Kill a command with all its processes; whether it was still running"
    if p.poll() is not None: return False
    os.killpg(p.pid, signal.SIGKILL)
    return p.wait() == -signal.SIGKILL


def test_the_command_killed_once(tmp_path):
    raw, out = download(tmp_path/'raw', 20, height=600), tmp_path/'out'
    p = start(raw, out)
    wait_for(out/'unfinished'/'lock', p)
    assert kill(p)
    assert not (out/'studies.parquet').exists()
    assert start(raw, out).wait() == 0
    prepare('iu_xray', raw, tmp_path/'ref', size=48, workers=0)
    assert_same(out, content(tmp_path/'ref'))


@pytest.mark.slow
def test_the_command_killed_at_random_moments(tmp_path):
    "The moments are spread over the time in which the first run wrote, by a fixed seed"
    raw, out = download(tmp_path/'raw', 50, height=800), tmp_path/'out'
    rng = random.Random(SEED)
    began = time.monotonic()
    p = start(raw, out)
    wait_for(out, p)
    quiet = time.monotonic() - began # imports and tables
    assert p.wait() == 0
    took = time.monotonic() - began
    whole = content(out)
    assert FILES == set(whole)
    assert len(pd.read_parquet(out/'index.parquet')) == 96
    assert len(pd.read_csv(out/'duplicates.csv')) == 1
    shutil.rmtree(out)
    killed = 0
    for _ in range(5*KILLS):
        if killed == KILLS: break
        p = start(raw, out)
        try: assert p.wait(rng.uniform(quiet, took)) == 0
        except subprocess.TimeoutExpired: killed += kill(p)
        if rng.random() < .2: shutil.rmtree(out, ignore_errors=True) # so that later kills meet early stages too
        elif (out/'studies.parquet').exists(): shutil.rmtree(out)    # a run that came to its end
    assert killed == KILLS
    assert start(raw, out).wait() == 0
    assert_same(out, whole)
