"Zero-shot: prompts, scores, and the vectors and retrieval they rest on, with repeated reports"
import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from small_studies import data, exact, model   # fixtures
from refers_nb.core import InputError
from refers_nb.data.labeller import CHEXPERT_FINDINGS
from refers_nb.data.lists import NIH14, VINBIG
from refers_nb.evaluation.represent import chance_rank, embed_studies, retrieval, study_vectors, text_vectors
from refers_nb.evaluation.zeroshot import (
    PLAIN, WRAP, Prompts, prompt_vector, prompts, study_labels, zero_shot, zero_shot_scores,
)
from refers_nb.models.refers import Refers
from refers_nb.phantom.body import PHANTOM_FINDINGS


# Prompts

INDIANA = ['abnormal', 'cardiomegaly', 'effusion', 'opacity', 'atelectasis']


@pytest.mark.parametrize('finding', dict.fromkeys([*CHEXPERT_FINDINGS, *NIH14, *VINBIG, *PHANTOM_FINDINGS, *INDIANA]))
def test_every_finding_of_the_data_sets_has_prompts(finding):
    p = prompts(finding)
    for sentences in p:
        assert len(sentences) >= 3 and len(set(sentences)) == len(sentences)
        assert all(o[0].isupper() and o.endswith('.') and '{' not in o for o in sentences)
    assert not set(p.present) & set(p.absent)
    assert prompts(finding.upper().replace(' ', '_')) == p


def test_sides_stay_apart():
    l,r,both = (prompts(f'{o}effusion') for o in ('left ', 'right ', ''))
    assert all('left' in o.lower() and 'right' not in o.lower() for o in l.present)
    assert l.absent == r.absent == both.absent
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
    for name in ('Cardiomegaly', 'Pleural Effusion', 'Pneumothorax', 'Atelectasis', 'Edema', 'Consolidation',
                 'Pneumonia', 'Fracture', 'Lung Opacity', 'Lung Lesion', 'Support Devices'):
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
    of_two = torch.softmax(v @ t.T/.1, 1)[:, 0]                            # one prompt each: the softmax of the two
    np.testing.assert_allclose(p['mine'], of_two, rtol=1e-4)
    q = zero_shot_scores(m, tok, df, store, ['mine'], {'mine': own['mine'][::-1]}, PLAIN, tau=.1)
    np.testing.assert_allclose(q['mine'], 1 - p['mine'], rtol=1e-4)
    assert list(zero_shot_scores(m, tok, df, store, own=own)) == ['effusion', 'cardiomegaly', 'mine']


def test_auroc_of_prompts_that_know_the_answer(data, model, monkeypatch):
    "Study vectors made of the labels and prompts made to match: AUROC 1, and 0 with the prompts exchanged"
    (df,store),(m,tok) = data,model
    own = {'effusion': (['Yes.'], ['No.']), 'cardiomegaly': (['No.'], ['Yes.'])}
    y = study_labels(df)
    vector = dict(zip(('Yes.', 'No.'), torch.eye(2)))
    def texts_by_word(m, tok, texts): return torch.stack([vector[o] for o in texts])
    def studies_by_label(m, tok, d, s):
        names = list(y.index[::-1])
        return names, torch.stack([vector['Yes.' if y.loc[o, 'effusion'] == 1 else 'No.'] for o in names])
    monkeypatch.setattr('refers_nb.evaluation.zeroshot.text_vectors', texts_by_word)
    monkeypatch.setattr('refers_nb.evaluation.zeroshot.study_vectors', studies_by_label)
    df = df.assign(split='valid')
    res = zero_shot(m, tok, df, store, own=own, wrap=PLAIN)
    assert res.loc['effusion', 'auroc'] == 1 and res.loc['effusion', 'studies'] == y.effusion.notna().sum() < len(y)
    assert res.loc['effusion', 'present'] == (y.effusion == 1).sum() and res.loc['cardiomegaly', 'studies'] == len(y)
    exchanged = own | dict(effusion=own['effusion'][::-1])
    assert zero_shot(m, tok, df, store, own=exchanged, wrap=PLAIN).loc['effusion', 'auroc'] == 0


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
    def first_hit(o): return 1 + int(np.argmax(g[rng.permutation(len(g))] == o))
    first = np.concatenate([[first_hit(o) for o in g] for _ in range(2000//len(g) + 50)])
    at = chance_rank(g)
    assert (first < at).mean() < .5 + .05 and (first <= at).mean() > .5 - .05


def test_chance_of_the_table_knows_repeated_reports(data, model):
    r = retrieval(*model, *data).median_rank
    assert r['exact', 'chance'] == 4 and 1 <= r['equal', 'chance'] < 4      # 8 studies with a report, 4 texts at most
    assert chance_rank(np.arange(7)) == 4 and chance_rank(np.zeros(5)) == 1
