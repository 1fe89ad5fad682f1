"The labeller against hand-labelled sentences, phantoms and, where they lie beside the repository, real reports"
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st

from labelled_sentences import HELD_OUT, SENTENCES, SHORT, read
from refers_nb.core import InputError
from refers_nb.data.labeller import (
    CHEXPERT_FINDINGS, label_report, label_reports, labels_from, statements)
from refers_nb.data.report import findings_impression
from refers_nb.data.sources.iu_xray import iu_xray
from refers_nb.phantom.body import Dice, anatomy
from refers_nb.phantom.wording import facts, write_report

DATA = Path(__file__).resolve().parents[2]/'shared'/'data'


def said(text):
    "What a report says of each finding, without the conclusion"
    return {f: value for f,value in label_report(text).items() if f != 'No Finding'}


# Sentences

def test_there_are_enough_sentences_of_every_finding():
    sentences, held_out = read(SENTENCES), read(HELD_OUT)
    assert len(sentences) >= 140
    assert len(held_out) == 30
    assert not {o for o,_ in sentences} & {o for o,_ in held_out}
    values = Counter((f, value) for _,want in sentences for f,value in want.items())
    assert all(values[f, 1] + values[f, 0] >= 3 for f in SHORT.values())
    assert sum(n for (_,value),n in values.items() if value == -1) >= 25


@pytest.mark.parametrize('text,want', read(SENTENCES), ids=lambda o: o[:50] if isinstance(o, str) else '')
def test_sentences(text, want):
    assert said(text) == want
    assert said(text.lower()) == said(text.upper()) == want


def test_held_out_sentences():
    wrong = [text for text,want in read(HELD_OUT) if said(text) != want]
    assert wrong == ['Biapical pleural thickening is symmetric and probably scarring.']


ALL_SENTENCES = [text for text,_ in read(SENTENCES) + read(HELD_OUT)]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(ALL_SENTENCES), min_size=1, max_size=6))
def test_a_report_says_what_its_sentences_say(parts):
    rank = [0, -1, 1]
    want = {}
    for sentence in parts:
        for f,value in said(sentence).items(): want[f] = max(want.get(f, 0), value, key=rank.index)
    for sep in (' ', '\n'):
        assert said(sep.join(parts)) == want
        assert said(sep.join(parts[::-1])) == want


# Any text

PIECES = [
    'no ', 'without ', 'effusion', ' or ', 'and ', ', ', '. ', 'heart ', 'normal ', 'enlarged ', 'lungs ', 'clear ',
    'may be ', 'cannot be excluded', 'versus ', '/', 'not seen', 'resolved ', 'with ', 'PNEUMONIA', 'atelectasis ',
    'is ', 'vs. ', 'borderline ', 'blunting ', '\n', 'no change ', '?', '-', '1.5', 'ä', '\x00']


@settings(max_examples=400, deadline=None)
@given(st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=4)), max_size=30).map(''.join))
def test_any_text_is_read(text):
    got = label_report(text)
    assert set(got.values()) <= {-1, 0, 1}
    assert list(got) == [f for f in CHEXPERT_FINDINGS if f in got]
    assert ('No Finding' in got) == any(c.isalnum() or c == '_' for c in text)
    assert not got or 'No Finding' in got
    if got.get('No Finding') == 1:
        assert all(value == 0 for f,value in got.items() if f not in ('No Finding', 'Support Devices'))
    assert all(s and s == s.strip(' ,') for s in statements(text))


UNITS = [
    'no effusion or edema is seen, ',
    *(pytest.param(o, marks=pytest.mark.slow) for o in (
        ', and the ', 'no ', 'may be ', 'a, ', 'heart ', 'x', 'opacity or ', '/', '. ', 'normal ', 'is ', 'near ', 'history of '))]


@pytest.mark.parametrize('unit', UNITS)
def test_long_texts_are_read_in_linear_time(unit):
    "Anything quadratic would take hours"
    text = unit*(1_000_000//len(unit)) + 'pneumothorax.'
    assert isinstance(label_report(text), dict)


def test_no_finding_and_silence():
    assert label_report('') == label_report(' .\n') == {}
    assert label_report('No acute disease.') == {'No Finding': 1}
    assert label_report('Emphysema.') == {'No Finding': 0}
    assert label_report('No emphysema.') == {'No Finding': 1}
    assert label_report('PICC in the SVC. Lungs are clear.')['No Finding'] == 1
    assert label_report('Possible effusion.')['No Finding'] == 0
    with pytest.raises(InputError, match='must be text'): label_report(float('nan'))


def test_a_table_of_reports():
    df = label_reports(pd.Series(['Effusion.', ''], index=[7, 3]))
    assert list(df.index) == [7, 3]
    assert list(df.columns) == CHEXPERT_FINDINGS
    assert (df.dtypes == 'float32').all()
    assert df.loc[3].isna().all()
    assert label_reports([]).shape == (0, 14)


# Whole reports

NAMES = dict(
    cardiomegaly='Cardiomegaly', effusion='Pleural Effusion', pneumothorax='Pneumothorax', nodule='Lung Lesion',
    edema='Edema', atelectasis='Atelectasis', device='Support Devices')


def precision_recall(true, read):
    "Precision and recall of what was read, two boolean columns"
    hits = (true & read).sum()
    return hits/read.sum(), hits/true.sum()


@pytest.mark.parametrize('seed', [1, pytest.param(2, marks=pytest.mark.slow)])
def test_phantom_reports_are_read_as_they_were_drawn(seed):
    body = anatomy(Dice(seed, np.arange(1500)))
    rows = facts(body)
    rnd = random.Random(seed)
    reports = [findings_impression(write_report(rnd, o, ap, unmentioned=0))
               for o,ap in zip(rows, body.ap.ravel())]
    drawn = pd.DataFrame([{o[0].split()[-1]: 1 for o in r} for r in rows]).fillna(0)
    annotations = label_reports(reports)
    labels = labels_from(annotations, 'positive', 'negative')
    for phantom_finding,finding in NAMES.items():
        true = drawn[phantom_finding] == 1
        assert true.sum() > 100, finding
        assert min(precision_recall(true, labels[finding] == 1)) >= .98, finding

    # A consolidation may be written as an opacity, and other findings may be called opacities as well
    true = drawn['consolidation'] == 1
    opaque = labels[['Consolidation', 'Lung Opacity', 'Pneumonia']].max(axis=1) == 1
    alone = drawn[['edema', 'atelectasis', 'nodule', 'effusion']].sum(axis=1) == 0
    assert precision_recall(true & alone, opaque & alone)[0] >= .98
    assert precision_recall(true, opaque)[1] >= .98

    healthy = drawn[[*NAMES, 'consolidation']].drop(columns='device').sum(axis=1) == 0
    missed = annotations.loc[~healthy, 'No Finding'] != 0
    assert not missed.any(), 'a drawn finding is never missed by all phrases at once'


TERMS = dict( # index term of the Indiana collection -> finding, least precision and recall
    abnormal=('abnormal', .97, .93),
    cardiomegaly=('Cardiomegaly', .9, .98),
    effusion=('Pleural Effusion', .8, .97),
    atelectasis=('Atelectasis', .8, .98),
    opacity=('Lung Opacity', .55, .93))


def test_real_reports_agree_with_their_index_terms():
    if not (DATA/'iu_xray').is_dir(): pytest.skip(f'no real data here: {DATA/"iu_xray"}')
    df = iu_xray(DATA/'iu_xray').drop_duplicates('study')
    df = df[df['report'] != ''].reset_index(drop=True)
    labels = labels_from(label_reports(df['report']), 'positive', 'negative')
    labels['abnormal'] = 1 - labels['No Finding']
    for term,(finding,least_precision,least_recall) in TERMS.items():
        known = df[f'label:{term}'].notna()
        true = df.loc[known, f'label:{term}'] == 1
        precision, recall = precision_recall(true, labels.loc[known, finding] == 1)
        assert precision > least_precision, term
        assert recall > least_recall, term
