"""Mutated stores, tables, records, predictions, settings, states and checkpoints: taken, or refused in one line

No exception but `InputError`, no hang over 20 seconds, no memory over 2 GB, no process that dies. `mutations` makes the
inputs and opens them, in processes of its own. `REFERS_NB_TEST_FUZZ` is the number of inputs of the long series (600
in all; where readers change, try 2,000), `REFERS_NB_TEST_SEED` its seed; the short one is always the same."""
import collections, json, os, subprocess, sys
from pathlib import Path

import pytest

import mutations

HERE = Path(__file__).resolve().parent
MOST_MEMORY = 2*2**20 # kB
LONG = int(os.environ.get('REFERS_NB_TEST_FUZZ', 600)), int(os.environ.get('REFERS_NB_TEST_SEED', 0))
LIGHT = 'stores', 'records', 'predictions', 'settings'
PART = 250 # inputs of one process

@pytest.fixture(scope='module')
def bases(tmp_path_factory):
    "A folder with a folder for each kind; the whole files of a kind are made when it is asked for"
    folder = tmp_path_factory.mktemp('whole')
    def base(*kinds):
        for kind in kinds:
            if (folder/kind).exists(): continue
            (folder/kind).mkdir()
            mutations.KINDS[kind][0](folder/kind)
        return folder
    return base

def part(kinds, base, seed, first, count):
    "What came out of some inputs of the series of each kind, which one process works through"
    env = dict(os.environ, OMP_NUM_THREADS='1', PYTHONPATH=os.pathsep.join([str(HERE.parent), str(HERE)]))
    command = [sys.executable, str(HERE/'mutations.py'), ','.join(kinds), str(base), str(seed), str(first), str(count)]
    r = subprocess.run(command, capture_output=True, text=True, env=env, timeout=120 + 20*count*len(kinds))
    which = f'{", ".join(kinds)}, inputs {first} to {first + count} of seed {seed}'
    assert r.returncode == 0, f'{which}: {r.stderr[-4000:]}'
    told = [collections.Counter(json.loads(o)) for o in r.stdout.splitlines()[-len(kinds):]]
    for o in told:
        peak = o.pop('peak')
        assert peak < MOST_MEMORY, f'{which}: {peak/2**20:.1f} GB'
    return dict(zip(kinds, told))

@pytest.fixture(scope='module')
def light(bases):
    "What came out of a short series of each light kind"
    return part(LIGHT, bases(*LIGHT), 0, 0, 25)

@pytest.mark.parametrize('kind', LIGHT)
def test_a_short_series(kind, light):
    counts = light[kind]
    assert counts['refused'] >= 4 and counts['taken'] + counts['refused'] == 25, counts

@pytest.mark.slow
@pytest.mark.parametrize('kind', mutations.KINDS)
def test_a_long_series(kind, bases):
    n, seed = LONG
    n = round(n/len(mutations.KINDS))
    counts = collections.Counter()
    for first in range(0, n, PART): counts += part([kind], bases(kind), seed, first, min(PART, n - first))[kind]
    sys.stdout.write(f'\n{kind}: ' + ', '.join(f'{k} {v}' for k, v in counts.most_common()))
    least = 0 if kind == 'builds' else .1*n   # what a build has left damaged is made anew
    assert counts['refused'] >= least and counts['taken'] + counts['refused'] == n, counts
