"Search: an index that is exact, answers, files that are not what they should be"
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings, strategies as st
from safetensors.numpy import save_file

from small_studies import data, exact, model   # fixtures
from refers_nb.core import InputError
from refers_nb.evaluation.search import SearchIndex, show_hits
from refers_nb.evaluation.zeroshot import zero_shot_scores
from refers_nb.models.refers import Refers


# The index

def table(n, **more): return pd.DataFrame(dict(study=[f's{i}' for i in range(n)]) | more)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 300), st.integers(1, 320), st.integers(1, 400), st.integers(0, 10**6))
def test_nearest_is_exact_with_ties_in_order(n, k, chunk, seed):
    "Vectors of ±1/4: products are exact in any order, and most of them are equal"
    v = np.random.default_rng(seed).choice([-.25, .25], (n, 16)).astype(np.float32)
    q = np.concatenate([v[:3], v[:1]*2])
    score,at = SearchIndex(v, table(n)).nearest(q, k, chunk)
    sim = q@v.T
    want = np.argsort(-sim, axis=1, kind='stable')[:, :k]
    assert (at == want).all() and (score == np.take_along_axis(sim, want, 1)).all()


def test_nearest_of_100_000_against_double_precision():
    rng = np.random.default_rng(1)
    v = rng.normal(size=(100_000, 192)).astype(np.float32)
    index = SearchIndex(v, table(len(v)))
    q = rng.normal(size=(4, 192))
    score,at = index.nearest(q, 100)
    sim = q@(v/np.linalg.norm(v.astype(float), axis=1, keepdims=True)).T
    best = -np.sort(-sim, axis=1)[:, :100]
    np.testing.assert_allclose(score, best, atol=1e-5)
    np.testing.assert_allclose(np.take_along_axis(sim, at, 1), best, atol=1e-5)
    assert all(len(set(o)) == 100 for o in at)


@pytest.mark.parametrize('v,df,match', [
    (np.ones((3, 2)), table(2), 'expected one row per study'),
    (np.ones(3), table(3), 'expected one row per study'),
    (np.ones((0, 2)), table(0), 'expected one row'),
    (np.array([[1, 0], [0, 0]]), table(2), 'row 1 is zero or not finite'),
    (np.array([[1, np.nan]]), table(1), 'row 0 is zero or not finite'),
    (np.ones((2, 2)), pd.DataFrame(dict(study=['a', 'a'])), 'study a is in the index twice')])
def test_what_is_no_index(v, df, match):
    with pytest.raises(InputError, match=match): SearchIndex(v, df)


@pytest.mark.parametrize('q,k,match', [
    (np.ones(3), 1, 'have 2 numbers'), (np.ones((1, 1, 2)), 1, 'have 2 numbers'), (np.ones(2), 0, 'at least 1'),
    ([np.nan, 1], 1, 'not finite')])
def test_what_is_no_question(q, k, match):
    with pytest.raises(InputError, match=match): SearchIndex(np.eye(2), table(2)).nearest(q, k)


def test_answers(data, model):
    (df,store),(m,tok) = data,model
    index = SearchIndex.build(m, tok, df, store)
    assert len(index) == 24 and 'report' not in index.studies
    assert index.studies.set_index('study').path['s1'] == '1PA.png'
    hits = index.by_words(m, tok, 'Cardiomegaly.', 'No cardiomegaly.', k=5)
    p = zero_shot_scores(m, tok, df, store, ['x'], {'x': ('Cardiomegaly.', 'No cardiomegaly.')}).x
    best = p.sort_values(ascending=False, kind='stable').index[:5]
    assert list(hits.study) == list(best) and hits.score.is_monotonic_decreasing
    near = index.by_study('s4', 30)
    assert len(near) == 22 and not set(near.patient) & {'p2'}
    same = index.by_image(m, [store.images[store.at[o]] for o in ('1PA.png', '1LATERAL.png')])
    assert same.study[0] == 's1' and same.score[0] == pytest.approx(1, abs=1e-4)
    assert index.by_image(m, store.images[store.at['0PA.png']], 1).study[0] == 's0'
    for bad in (np.zeros((32, 32)), np.zeros((3, 32, 32), np.uint8), np.zeros((1, 1, 32, 32), np.uint8)):
        with pytest.raises(InputError, match='expected at most 2 views'): index.by_image(m, bad)
    with pytest.raises(InputError, match="no study 'x'"): index.by_study('x')
    assert [o.get_title() for o in show_hits(hits, store, list('abcde'), cols=3).flat] == [*'abcde', '']


def test_study_to_study_needs_no_words(data, model):
    m, tok = model
    mute = Refers(dict(m.config, text=None)).eval()
    index = SearchIndex.build(mute, tok, *data)
    assert len(index.by_study('s0', 3)) == 3
    with pytest.raises(InputError, match='no report encoder'): index.by_words(mute, tok, 'Cardiomegaly.')


def test_another_model_is_refused(data, model):
    (df,store),(m,tok) = data,model
    index = SearchIndex.build(m, tok, df, store)
    torch.manual_seed(1)
    other = Refers(m.config).eval()
    for ask in (lambda: index.by_words(other, tok, 'Cardiomegaly.'), lambda: index.by_image(other, store.images[0])):
        with pytest.raises(InputError, match='another model'): ask()


def test_saved_and_read_to_the_bit(tmp_path, data, model):
    index = SearchIndex.build(*model, *data)
    again = SearchIndex.load(index.save(tmp_path/'a'))
    assert (again.vectors == index.vectors).all() and again.mark == index.mark
    pd.testing.assert_frame_equal(again.studies, index.studies)
    pd.testing.assert_frame_equal(again.by_study('s3'), index.by_study('s3'))


def spoil(folder, how):
    "One of the two files of an index is not what it should be"
    v, t = folder/'vectors.safetensors', folder/'studies.parquet'
    if how == 'gone': t.unlink()
    if how == 'short': v.write_bytes(v.read_bytes()[:-100])
    if how == 'noise': t.write_bytes(b'PAR1' + b'\x00'*50)
    if how == 'flip': v.write_bytes(v.read_bytes()[:-1] + bytes([v.read_bytes()[-1] ^ 1]))
    if how == 'foreign': save_file(dict(weights=np.eye(3)), v)
    if how == 'mixed':
        SearchIndex(np.eye(3)[::-1], table(3)).save(folder/'b')
        (folder/'b'/t.name).replace(t)


@pytest.mark.parametrize('how,match', [
    ('gone', 'no studies.parquet'), ('short', 'can be read'), ('noise', 'can be read'), ('flip', 'different saves'),
    ('mixed', 'different saves'), ('foreign', 'can be read')])
def test_spoiled_files(tmp_path, how, match):
    SearchIndex(np.eye(3), table(3)).save(tmp_path)
    SearchIndex.load(tmp_path)
    spoil(tmp_path, how)
    with pytest.raises(InputError, match=match): SearchIndex.load(tmp_path)
