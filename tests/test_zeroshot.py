"Zero-shot and search: prompts, scores, retrieval with repeated reports, an index that is exact, files that are not what they should be"
import numpy as np, pandas as pd, pytest, torch
from hypothesis import given, settings, strategies as st

from memory import Store
from refers_nb.data.labeller import CHEXPERT_FINDINGS
from refers_nb.core import InputError
from refers_nb.phantom.body import PHANTOM_FINDINGS
from refers_nb.models.refers import Refers, refers_config
from refers_nb.evaluation.represent import chance_rank, embed_studies, retrieval, study_vectors, text_vectors
from refers_nb.data.lists import NIH14, VINBIG
from refers_nb.data.tokens import Tokenizer
from refers_nb.evaluation.zeroshot import PLAIN, PROMPTS, WRAP, Prompts, finding_prompts, prompt_vector, prompts, study_labels, zero_shot, zero_shot_scores
from refers_nb.evaluation.search import SearchIndex, show_hits

TEXTS = ['Left pleural effusion.', 'No pleural effusion. The lungs are clear.', 'Cardiomegaly.', 'Right pleural effusion.']


def make(n=24, seed=0):
    "Studies of one or two views (lateral first), every third without a report, labels known for most"
    rng = np.random.default_rng(seed)
    rows = [dict(patient=f'p{i//2}', study=f's{i}', view=v, path=f'{i}{v}.png', report='' if i%3 == 2 else TEXTS[i%4], split='valid' if i%2 else 'train')
            | {'label:effusion': [0., 1., np.nan][i%5%3], 'label:cardiomegaly': float(i%4 < 2 and v == 'PA')}
            for i in range(n) for v in (['LATERAL', 'PA'] if i%2 else ['PA'])]
    df = pd.DataFrame(rows)
    return df,Store(rng.integers(0, 255, (len(df), 32, 32), dtype=np.uint8), df.path)


@pytest.fixture(autouse=True)
def exact(monkeypatch):
    "float32 wherever the tests run"
    monkeypatch.setattr('refers_nb.evaluation.represent.get_dtype', lambda *_: torch.float32)


@pytest.fixture(scope='module')
def data(): return make()


@pytest.fixture(scope='module')
def model():
    torch.manual_seed(0)
    tok = Tokenizer.train([f(o) for _ in range(2) for p in PROMPTS.values() for o in [*p.present, *p.absent] for f in (str, WRAP.absent.format)])
    return Refers(refers_config('tiny', vocab=len(tok), size=32, k=2)).eval(),tok


# Prompts

@pytest.mark.parametrize('finding', dict.fromkeys([*CHEXPERT_FINDINGS, *NIH14, *VINBIG, *PHANTOM_FINDINGS, 'abnormal', 'cardiomegaly', 'effusion', 'opacity', 'atelectasis']))
def test_every_finding_of_the_data_sets_has_prompts(finding):
    p = prompts(finding)
    for os in p: assert len(os) >= 3 and len(set(os)) == len(os) and all(o[0].isupper() and o.endswith('.') and '{' not in o for o in os)
    assert not set(p.present) & set(p.absent)
    assert prompts(finding.upper().replace(' ', '_')) == p


def test_sides_stay_apart():
    l,r,both = (prompts(f'{o}effusion') for o in ('left ', 'right ', ''))
    assert all('left' in o.lower() and 'right' not in o.lower() for o in l.present) and l.absent == r.absent == both.absent
    assert [o.lower().replace('left', 'right') for o in l.present] == [o.lower() for o in r.present]
    assert not any('left' in o.lower() or 'right' in o.lower() for o in both.present)


def test_no_finding_is_the_opposite_of_abnormal():
    assert prompts('No Finding') == Prompts(*reversed(prompts('abnormal')))


@pytest.mark.parametrize('finding', ['dextrocardia', 'left', 'left normal', '', 'upper effusion', 'left no finding'])
def test_an_unknown_finding_tells_how_to_give_own_prompts(finding):
    with pytest.raises(InputError, match=r'no prompts for .*own=\{.*cardiomegaly'): prompts(finding)


def test_prompts_are_kept_by_what_labels_reports():
    "What affirms a finding is read as present, what denies it never is, by the labeller of reports"
    from refers_nb.data.labeller import label_report
    for name in ('Cardiomegaly', 'Pleural Effusion', 'Pneumothorax', 'Atelectasis', 'Edema', 'Consolidation', 'Pneumonia', 'Fracture', 'Lung Opacity', 'Lung Lesion',
                 'Support Devices'):
        p = prompts(name)
        said = [label_report(o).get(name) for o in p.present]
        assert said.count(1) >= len(said)/2, (name, list(zip(p.present, said)))
        assert all(label_report(o).get(name) != 1 for o in p.absent), name


# Scores

def test_a_prompt_vector_is_a_difference_of_means(model):
    m,tok = model
    a,b = ['Cardiomegaly.', 'Enlarged heart.'],['No cardiomegaly.']
    want = text_vectors(m, tok, [f'{o} {o}' for o in a]).mean(0) - text_vectors(m, tok, [WRAP.absent.format(b[0])])[0]
    np.testing.assert_allclose(prompt_vector(m, tok, a, b), want, atol=1e-6)
    np.testing.assert_allclose(prompt_vector(m, tok, a[0], wrap=PLAIN), text_vectors(m, tok, a[0])[0], atol=1e-6)
    np.testing.assert_allclose(prompt_vector(m, tok, a, b, PLAIN), -prompt_vector(m, tok, b, a, PLAIN), atol=1e-6)


def test_scores_are_the_stated_function(data, model):
    (df,store),(m,tok) = data,model
    own = {'mine': (['Left pleural effusion.'], ['Right pleural effusion.'])}
    p = zero_shot_scores(m, tok, df, store, ['mine', 'effusion'], own, PLAIN, tau=.1)
    names,v = study_vectors(m, tok, df, store)
    assert list(p.index) == names and set(names) == set(df.study) and list(p) == ['mine', 'effusion']
    t = text_vectors(m, tok, own['mine'][0] + own['mine'][1])
    np.testing.assert_allclose(p['mine'], torch.softmax(v@t.T/.1, 1)[:, 0], rtol=1e-4)   # one prompt each: the softmax of the two
    q = zero_shot_scores(m, tok, df, store, ['mine'], {'mine': own['mine'][::-1]}, PLAIN, tau=.1)
    np.testing.assert_allclose(q['mine'], 1 - p['mine'], rtol=1e-4)
    assert list(zero_shot_scores(m, tok, df, store, own=own)) == ['effusion', 'cardiomegaly', 'mine']


def test_auroc_of_prompts_that_know_the_answer(data, model, monkeypatch):
    "Study vectors made of the labels and prompts made to match: AUROC 1, and 0 with the prompts exchanged"
    (df,store),(m,tok) = data,model
    own = {'effusion': (['Yes.'], ['No.']), 'cardiomegaly': (['No.'], ['Yes.'])}
    y = study_labels(df)
    e = dict(zip(('Yes.', 'No.'), torch.eye(2)))
    monkeypatch.setattr('refers_nb.evaluation.zeroshot.text_vectors', lambda m, tok, texts: torch.stack([e[o] for o in texts]))
    monkeypatch.setattr('refers_nb.evaluation.zeroshot.study_vectors', lambda m, tok, d, s: (list(y.index[::-1]), torch.stack([e['Yes.' if y.loc[o, 'effusion'] == 1 else 'No.'] for o in y.index[::-1]])))
    df = df.assign(split='valid')
    res = zero_shot(m, tok, df, store, own=own, wrap=PLAIN)
    assert res.loc['effusion', 'auroc'] == 1 and res.loc['effusion', 'studies'] == y.effusion.notna().sum() < len(y)
    assert res.loc['effusion', 'present'] == (y.effusion == 1).sum() and res.loc['cardiomegaly', 'studies'] == len(y)
    assert zero_shot(m, tok, df, store, own={**own, 'effusion': own['effusion'][::-1]}, wrap=PLAIN).loc['effusion', 'auroc'] == 0


def test_a_study_has_what_one_of_its_images_shows(data):
    y = study_labels(data[0])
    assert y.cardiomegaly['s1'] == 1 and y.cardiomegaly['s3'] == 0 and len(y) == 24 and np.isnan(y.effusion['s2'])


@pytest.mark.parametrize('call,match', [
    (lambda *a: zero_shot_scores(*a, ['dextrocardia']), 'no prompts for'),
    (lambda *a: zero_shot_scores(*a, ['x'], {'x': 'Cardiomegaly.'}), 'expected two lists'),
    (lambda *a: zero_shot_scores(*a, ['x'], {'x': ([], ['No.'])}), 'at least one sentence'),
    (lambda *a: zero_shot_scores(*a, ['x'], {'x': (['  '], ['No.'])}), 'text 0 of 2 is empty'),
    (lambda *a: zero_shot(*a, ['edema']), 'no column label:edema')])
def test_what_cannot_be_asked(data, model, call, match):
    with pytest.raises(InputError, match=match): call(*model, *data)


def test_without_a_report_encoder_nothing_is_read(data, model):
    m,tok = model
    mute = Refers(dict(m.config, text=None)).eval()
    with pytest.raises(InputError, match='no report encoder'): text_vectors(mute, tok, 'Cardiomegaly.')
    index = SearchIndex.build(mute, tok, *data)      # study to study needs no words
    assert len(index.by_study('s0', 3)) == 3
    with pytest.raises(InputError, match='no report encoder'): index.by_words(mute, tok, 'Cardiomegaly.')


# Vectors and retrieval

def test_a_study_vector_is_that_of_its_views_frontal_first(data, model):
    (df,store),(m,tok) = data,model
    names,v = study_vectors(m, tok, df, store)
    one = {s: study_vectors(m, tok, df[df.study == s], store)[1][0] for s in ('s1', 's2')}
    for s,o in one.items(): torch.testing.assert_close(v[names.index(s)], o, atol=1e-4, rtol=0)
    torch.testing.assert_close(v.norm(dim=1), torch.ones(len(v)))
    other = study_vectors(m, tok, df.assign(report=''), store, bs=5)
    assert other[0] == names and torch.allclose(other[1], v, atol=1e-4)


def test_embedded_studies_are_those_with_reports_in_one_order(data, model):
    (df,store),(m,tok) = data,model
    study,text,reports = embed_studies(m, tok, df, store)
    names,v = study_vectors(m, tok, df, store)
    told = [o for o in names if df[df.study == o].report.iloc[0]]
    assert len(study) == len(text) == 16 and reports == [df[df.study == o].report.iloc[0].lower() for o in told]
    torch.testing.assert_close(study, v[[names.index(o) for o in told]], atol=1e-4, rtol=0)
    torch.testing.assert_close(text, text_vectors(m, tok, reports), atol=1e-4, rtol=0)
    with pytest.raises(InputError, match='no study with a report'): embed_studies(m, tok, df.assign(report=' '), store)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=40))
def test_chance_rank_is_the_median_of_random_orders(groups):
    g,rng = np.array(groups),np.random.default_rng(0)
    first = np.concatenate([[1 + int(np.argmax(g[rng.permutation(len(g))] == o)) for o in g] for _ in range(2000//len(g) + 50)])
    at = chance_rank(g)
    assert (first < at).mean() < .5 + .05 and (first <= at).mean() > .5 - .05


def test_chance_of_the_table_knows_repeated_reports(data, model):
    r = retrieval(*model, *data).median_rank
    assert r['exact', 'chance'] == 4 and 1 <= r['equal', 'chance'] < 4      # 8 studies with a report, 4 texts at most
    assert chance_rank(np.arange(7)) == 4 and chance_rank(np.zeros(5)) == 1


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
    (np.ones((3, 2)), table(2), 'expected one row a study'), (np.ones(3), table(3), 'expected one row a study'), (np.ones((0, 2)), table(0), 'expected one row'),
    (np.array([[1, 0], [0, 0]]), table(2), 'row 1 is zero or not finite'), (np.array([[1, np.nan]]), table(1), 'row 0 is zero or not finite'),
    (np.ones((2, 2)), pd.DataFrame(dict(study=['a', 'a'])), 'study a is in the index twice')])
def test_what_is_no_index(v, df, match):
    with pytest.raises(InputError, match=match): SearchIndex(v, df)


@pytest.mark.parametrize('q,k,match', [(np.ones(3), 1, 'have 2 numbers'), (np.ones((1, 1, 2)), 1, 'have 2 numbers'), (np.ones(2), 0, 'at least 1'), ([np.nan, 1], 1, 'not finite')])
def test_what_is_no_question(q, k, match):
    with pytest.raises(InputError, match=match): SearchIndex(np.eye(2), table(2)).nearest(q, k)


def test_answers(data, model):
    (df,store),(m,tok) = data,model
    index = SearchIndex.build(m, tok, df, store)
    assert len(index) == 24 and index.studies.set_index('study').path['s1'] == '1PA.png' and 'report' not in index.studies
    hits = index.by_words(m, tok, 'Cardiomegaly.', 'No cardiomegaly.', k=5)
    p = zero_shot_scores(m, tok, df, store, ['x'], {'x': ('Cardiomegaly.', 'No cardiomegaly.')}).x
    assert list(hits.study) == list(p.sort_values(ascending=False, kind='stable').index[:5]) and hits.score.is_monotonic_decreasing
    near = index.by_study('s4', 30)
    assert len(near) == 22 and not set(near.patient) & {'p2'}
    same = index.by_image(m, [store.images[store.at[o]] for o in ('1PA.png', '1LATERAL.png')])
    assert same.study[0] == 's1' and same.score[0] == pytest.approx(1, abs=1e-4)
    assert index.by_image(m, store.images[store.at['0PA.png']], 1).study[0] == 's0'
    for bad in (np.zeros((32, 32)), np.zeros((3, 32, 32), np.uint8), np.zeros((1, 1, 32, 32), np.uint8)):
        with pytest.raises(InputError, match='expected at most 2 views'): index.by_image(m, bad)
    with pytest.raises(InputError, match="no study 'x'"): index.by_study('x')
    assert [o.get_title() for o in show_hits(hits, store, list('abcde'), cols=3).flat] == [*'abcde', '']


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
    v,t = folder/'vectors.safetensors',folder/'studies.parquet'
    if how == 'gone': t.unlink()
    if how == 'short': v.write_bytes(v.read_bytes()[:-100])
    if how == 'noise': t.write_bytes(b'PAR1' + b'\x00'*50)
    if how == 'flip': v.write_bytes(v.read_bytes()[:-1] + bytes([v.read_bytes()[-1] ^ 1]))
    if how == 'mixed': SearchIndex(np.eye(3)[::-1], table(3)).save(folder/'b'); (folder/'b'/t.name).replace(t)
    if how == 'foreign': from safetensors.numpy import save_file; save_file(dict(weights=np.eye(3)), v)


@pytest.mark.parametrize('how,match', [('gone', 'no studies.parquet'), ('short', 'can be read'), ('noise', 'can be read'), ('flip', 'different saves'),
                                       ('mixed', 'different saves'), ('foreign', 'can be read')])
def test_spoiled_files(tmp_path, how, match):
    SearchIndex(np.eye(3), table(3)).save(tmp_path)
    SearchIndex.load(tmp_path)
    spoil(tmp_path, how)
    with pytest.raises(InputError, match=match): SearchIndex.load(tmp_path)
