"Images that are in a table twice: those of a comparison of all with all, in crowds too"
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st

from refers_nb.core import InputError
from refers_nb.data import copies as copies_module
from refers_nb.data.copies import candidate_pairs, duplicates
from refers_nb.data.store import ImageStore
from study_tables import table_with_copies

DATA = Path(__file__).resolve().parents[2]/'shared'/'data'


# Hashes

def brute(h, bits):
    "All pairs of positions whose hashes differ in at most `bits` bits"
    pairs = [[i, j] for i in range(len(h)) for j in range(i + 1, len(h))]
    return [[i, j] for i,j in pairs if bin(h[i] ^ h[j]).count('1') <= bits]


@settings(max_examples=80, deadline=None)
@given(st.lists(st.integers(0, 2**64 - 1), max_size=4), st.integers(0, 12),
       st.lists(st.tuples(st.integers(0, 3), st.sets(st.integers(0, 63), max_size=14)), max_size=40))
def test_look_alikes_are_those_of_a_comparison_of_all_with_all(seeds, bits, changed):
    variants = [seeds[i] ^ sum(1 << bit for bit in at) for i,at in changed if i < len(seeds)]
    h = seeds + variants
    pairs, notes = candidate_pairs(np.array(h, np.uint64), bits)
    assert pairs.tolist() == brute(h, bits)
    assert not notes


def test_a_crowd_of_equal_hashes_is_no_crowd_of_pairs():
    h = np.array([5]*3000 + [7]*50 + [2**64 - 1]*2, np.uint64)
    pairs, notes = candidate_pairs(h, 2)
    assert len(pairs) == 2999 + 50 + 50*49//2 + 1
    assert '2,999 images share' in notes[0]
    assert set(pairs.ravel()) == set(range(3052))


def test_a_crowd_of_near_hashes_is_cut_short(monkeypatch):
    h = np.arange(256, dtype=np.uint64) # all of them equal in 56 bits
    pairs, notes = candidate_pairs(h, 6)
    assert pairs.tolist() == brute(h.tolist(), 6)
    assert not notes
    monkeypatch.setattr(copies_module, '_CROWD', 2)
    fewer, notes = candidate_pairs(h, 6)
    assert 0 < len(fewer)
    assert set(map(tuple, fewer)) < set(map(tuple, pairs))
    assert 'too many neighbours' in notes[0]


# Images

@pytest.fixture(scope='module')
def copies(tmp_path_factory):
    return table_with_copies(tmp_path_factory.mktemp('copies'))


def test_copies_are_found_and_blank_images_are_linked_to_one(copies):
    df, store = copies
    found = duplicates(df[:32], store)
    assert found[['path_a', 'path_b']].values.tolist() == [['4.png', '30.jpg'], ['9.png', '31.png']]
    assert found['same_patient'].tolist() == [False, True]
    assert found['same_split'].tolist() == [True, False]
    assert found['distance'].max() <= 8
    assert found['correlation'].min() > .9
    assert found['correlation'][1] == pytest.approx(1, abs=1e-4)
    everything = duplicates(df, store)
    blank = everything['path_b'].str.startswith('blank')
    assert len(everything) == 2 + 149
    assert set(everything['path_a'][blank]) == {'blank0.png'}
    assert len(duplicates(df[32:92], store)) == 60*59//2 # below a hundred, each with each


def as_sets(pairs):
    return {frozenset(o) for o in pairs[['path_a', 'path_b']].values.tolist()}


def test_thresholds_of_copies(copies):
    df, store = copies
    df = df[:32]
    everything = duplicates(df, store, 12, -1)
    assert everything.attrs['candidates'] == len(everything) > 2
    for bits,alike in ((12, .5), (8, .8), (2, -1), (0, .99)):
        within = (everything['distance'] <= bits) & (everything['correlation'] >= alike)
        want = everything[within].reset_index(drop=True)
        pd.testing.assert_frame_equal(duplicates(df, store, bits, alike), want)
    mixed = df.sample(frac=1, random_state=0)
    assert as_sets(duplicates(mixed, store, 12, -1)) == as_sets(everything)
    for bits in (-1, 13):
        with pytest.raises(InputError, match='0 to 12'): duplicates(df, store, bits)
    with pytest.raises(InputError, match='not in the image store'):
        duplicates(df.assign(path=df['path'] + 'x'), store)


def test_copies_on_real_radiographs(tmp_path):
    files = sorted((DATA/'covid19_image_data'/'images').glob('*')) if DATA.is_dir() else []
    if not files: pytest.skip('../shared/data/covid19_image_data is not here')
    df = pd.DataFrame(dict(path=[o.name for o in files])).assign(patient='', split='train')
    found = duplicates(df, ImageStore.build(df, files[0].parent, tmp_path, workers=1))
    names = {frozenset(Path(o).stem for o in pair) for pair in found[['path_a', 'path_b']].values}
    assert names == {frozenset(['AR-1', 'AR-2']), frozenset(['2-chest-filmc', '7-fatal-covid19'])}
    assert len(duplicates(df, ImageStore(tmp_path), 4, .9)) == 1
