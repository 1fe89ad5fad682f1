"Metrics of written reports: words by independent counts, findings by scikit-learn, real reports where they are at hand"
import math
from collections import Counter
from pathlib import Path

import numpy as np, pandas as pd, pytest, torch
from sklearn.metrics import precision_recall_fscore_support

from refers_nb.core import InputError
from refers_nb.data.labeller import CHEXPERT_FINDINGS, label_reports, labels_from
from refers_nb.data.report import findings_impression
from refers_nb.data.sources.iu_xray import iu_xray
from refers_nb.evaluation.clinical import (
    baseline_reports, check_reports, cider_d, clinical_f1, compare_writers, report_metrics, report_words,
)
from refers_nb.phantom.phantoms import phantoms

DATA = Path(__file__).resolve().parent.parent.parent/'shared'/'data'


def some(n, seed=0):
    "Reports of phantoms"
    return [findings_impression(o) for o in phantoms(n, size=32, seed=seed).reports]


# Findings

@pytest.mark.parametrize('uncertain', ['positive', 'negative'])
def test_clinical_f1_is_that_of_scikit_learn(uncertain):
    true = some(120)
    written = true[60:] + true[:60]
    got = clinical_f1(written, true, uncertain)
    p = labels_from(label_reports(written), uncertain, 'negative')[CHEXPERT_FINDINGS]
    t = labels_from(label_reports(true), uncertain, 'negative')[CHEXPERT_FINDINGS]
    rows = precision_recall_fscore_support(t.values, p.values, average=None, zero_division=np.nan)
    want = pd.DataFrame(rows, index=['precision', 'recall', 'f1', 'support'], columns=CHEXPERT_FINDINGS).T
    pd.testing.assert_frame_equal(got.loc[CHEXPERT_FINDINGS], want, check_dtype=False, check_names=False)
    micro = precision_recall_fscore_support(t.values[:, 1:], p.values[:, 1:], average='micro')[:3]
    assert np.allclose(got.loc['micro', ['precision', 'recall', 'f1']].astype(float), micro)
    findings = want.iloc[1:]
    there = findings[findings['support'] > 0]
    assert got.loc['macro', 'f1'] == pytest.approx(there['f1'].fillna(0).mean())
    assert got.loc['micro', 'support'] == findings['support'].sum()


def test_rules_for_uncertain_findings():
    true = ['Possible effusion.', 'Effusion.', 'No effusion.']
    written = ['Effusion.', 'Possible effusion.', 'No effusion.']
    def effusion(rule): return clinical_f1(written, true, rule).loc['Pleural Effusion']
    assert effusion('positive').tolist() == [1, 1, 1, 2] and effusion('negative').tolist() == [0, 0, 0, 1]
    gone = effusion('missing')
    assert gone['support'] == 0 and gone[['precision', 'recall', 'f1']].isna().all()
    with pytest.raises(InputError, match='uncertain'): clinical_f1(written, true, 'perhaps')


def test_a_perfect_writer_and_one_that_is_mute():
    true = some(60)
    mute = ['']*60
    for writer, score in ((true, 1), (mute, 0)):
        f = clinical_f1(writer, true)
        assert f.loc['micro', 'f1'] == f.loc['macro', 'f1'] == score
    df = compare_writers(dict(same=true, mute=mute), true)
    best = df.loc['same', ['BLEU-4', 'ROUGE-L', 'micro F1', 'abnormal F1']]
    assert best.tolist() == pytest.approx([1]*4) and df.loc['mute'].eq(0).all()


@pytest.mark.parametrize('f', [check_reports, report_metrics, cider_d, clinical_f1])
def test_bad_lists(f):
    with pytest.raises(InputError, match='1 written and 2 true'): f(['a'], ['a', 'b'])
    with pytest.raises(InputError, match='0 written and 0 true'): f([], [])
    with pytest.raises(InputError, match='true report 1'): f(['a', 'b'], ['a', ''])
    with pytest.raises(InputError, match='written report 0'): f([float('nan'), 'b'], ['a', 'b'])


# Words

def ngrams(words, n): return Counter(tuple(words[i:i + n]) for i in range(len(words) - n + 1))


def longest_common(a, b):
    "Length of the longest common subsequence, row by row"
    row = [0]*(len(b) + 1)
    for x in a:
        above = row[:]
        for j, y in enumerate(b, 1):
            row[j] = above[j - 1] + 1 if x == y else max(above[j], row[j - 1])
    return row[-1]


def test_bleu_and_rouge_count_words_as_their_papers_do():
    true = some(40, seed=3)
    written = [o[:len(o)*3//4] for o in true[20:] + true[:20]]
    got = report_metrics(written, true)
    w = [report_words(o) for o in written]
    t = [report_words(o) for o in true]
    brevity = min(0, 1 - sum(map(len, t))/sum(map(len, w)))
    logs = []
    for n in (1, 2, 3, 4):
        hits = sum(sum((ngrams(a, n) & ngrams(b, n)).values()) for a, b in zip(w, t))
        logs.append(math.log(hits/sum(len(a) - n + 1 for a in w)))
        assert got[f'BLEU-{n}'] == pytest.approx(math.exp(brevity + sum(logs)/n))
    f1 = [2*longest_common(a, b)/(len(a) + len(b)) for a, b in zip(w, t)]
    assert got['ROUGE-L'] == pytest.approx(np.mean(f1))


def test_cider_rewards_what_is_rare_once():
    true = ['the lungs are clear today', 'the lungs are clear and the heart is large', 'there is a left effusion here']
    assert cider_d(true, true) == pytest.approx(10)
    def alone(text): return cider_d([text, '', ''], ['a large left effusion', *true[1:]])
    assert alone('left effusion') > alone('large') > alone('the') == 0
    assert alone('left effusion left effusion left effusion') < alone('left effusion'), 'repeating does not pay'
    order = [2, 0, 1]
    w = ['left effusion', 'clear lungs', 'large heart']
    assert cider_d(w, true) == pytest.approx(cider_d([w[i] for i in order], [true[i] for i in order]))


# Several writers

def test_baselines(seed=0):
    rng = np.random.default_rng(seed)
    reports = [f'report {i % 7}' for i in range(50)] + ['', float('nan')]
    a, b = rng.normal(size=(52, 5)), rng.normal(size=(600, 5))
    got = baseline_reports(reports, a, torch.tensor(b))
    cosine = (b @ a[:50].T)/np.linalg.norm(a[:50], axis=1)
    assert got['nearest'] == [reports[i] for i in cosine.argmax(1)] and got['most frequent'] == ['report 0']*600
    assert got == baseline_reports(reports, 3*a, b/7), 'lengths of vectors do not count'
    with pytest.raises(InputError, match='contain NaN'): baseline_reports(reports, a*np.nan, b)
    with pytest.raises(InputError, match='of one width'): baseline_reports(reports, a, b[:, :4])
    with pytest.raises(InputError, match='no training report'): baseline_reports(['', ' '], a[:2], b)


def test_writers_are_compared_by_place_and_not_by_the_index_of_a_series():
    true = ['There is a large left pleural effusion.', 'The heart is enlarged.', 'No acute disease. Lungs are clear.']
    want = compare_writers(dict(same=true), true)
    assert want.loc['same', 'abnormal F1'] == 1
    pd.testing.assert_frame_equal(compare_writers(dict(same=true), pd.Series(true, index=[7, 3, 'a'])), want)


def test_real_most_frequent_report():
    if not (DATA/'iu_xray').is_dir(): pytest.skip(f'no real data here: {DATA/"iu_xray"}')
    df = iu_xray(DATA/'iu_xray').drop_duplicates('study')
    df = df[df['report'] != '']
    train = df.loc[df['split'] == 'train', 'report'].tolist()
    valid = df.loc[df['split'] == 'valid', 'report'].tolist()
    often = baseline_reports(train, np.ones((len(train), 1)), np.ones((len(valid), 1)))['most frequent']
    row = compare_writers({'most frequent': often}, valid).iloc[0].round(3)
    assert len(valid) == 378
    assert row[['BLEU-1', 'BLEU-4', 'ROUGE-L', 'CIDEr-D']].tolist() == [.216, .066, .337, .169]
    assert row[['micro F1', 'macro F1', 'abnormal F1']].eq(0).all()
