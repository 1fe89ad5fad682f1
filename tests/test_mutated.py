"""Mutated stores, tables, records, predictions, settings, states and checkpoints: taken, or refused in one line

No exception but `InputError`, no hang over 20 seconds, no memory over 2 GB, no process that dies. `mutations` makes the
inputs and opens them, in processes of its own. `REFERS_NB_TEST_FUZZ` is the number of inputs of the long series (2,000
in all), `REFERS_NB_TEST_SEED` its seed; the short one is always the same."""
import collections, json, os, subprocess, sys
from pathlib import Path

import pytest

import mutations

HERE = Path(__file__).resolve().parent
MOST_MEMORY = 2*2**20 # kB
LONG = int(os.environ.get('REFERS_NB_TEST_FUZZ', 2000)), int(os.environ.get('REFERS_NB_TEST_SEED', 0))
LIGHT = 'stores', 'records', 'predictions', 'settings'
PART = 250 # inputs of one process

@pytest.fixture(scope='module')
def bases(tmp_path_factory):
    "A folder with the whole files of a kind, made when it is asked for"
    made = {}
    def base(kind):
        make = mutations.KINDS[kind][0]
        folder = tmp_path_factory.mktemp(kind)
        make(folder)
        made[kind] = folder
        return folder
    return base

def series(kind, base, seed, n):
    "Counts of what came out of the first `n` inputs of a series"
    counts = collections.Counter()
    env = dict(os.environ, OMP_NUM_THREADS='1', PYTHONPATH=os.pathsep.join([str(HERE.parent), str(HERE)]))
    for first in range(0, n, PART):
        count = min(PART, n - first)
        command = [sys.executable, str(HERE/'mutations.py'), kind, str(base), str(seed), str(first), str(count)]
        r = subprocess.run(command, capture_output=True, text=True, env=env, timeout=120 + 20*count)
        assert r.returncode == 0, f'{kind}, inputs {first} to {first + count} of seed {seed}: {r.stderr[-4000:]}'
        told = json.loads(r.stdout.splitlines()[-1])
        peak = told.pop('peak')
        assert peak < MOST_MEMORY, f'{kind}, inputs {first} to {first + count} of seed {seed}: {peak/2**20:.1f} GB'
        counts += told
    return counts

@pytest.mark.parametrize('kind', [
    pytest.param(o, marks=[] if o in LIGHT else pytest.mark.slow) for o in mutations.KINDS])
def test_a_short_series(kind, bases):
    counts = series(kind, bases(kind), 0, 25)
    assert counts['refused'] > 3 and counts['taken'] + counts['refused'] == 25, counts

@pytest.mark.slow
@pytest.mark.parametrize('kind', mutations.KINDS)
def test_a_long_series(kind, bases):
    n, seed = LONG
    counts = series(kind, bases(kind), seed, round(n/len(mutations.KINDS)))
    sys.stdout.write(f'\n{kind}: ' + ', '.join(f'{k} {v}' for k, v in counts.most_common()))
