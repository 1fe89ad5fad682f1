"Metrics of written reports: words against independent counts, findings against scikit-learn and, where they lie beside the repository, real reports"
import math, random
from collections import Counter
from pathlib import Path

import numpy as np, pandas as pd, pytest, torch
from sklearn.metrics import precision_recall_fscore_support

from refers_nb.data.labeller import CHEXPERT_FINDINGS, label_reports
from refers_nb.evaluation.clinical import clinical_f1, compare_writers
from refers_nb.core import InputError
from refers_nb.evaluation.clinical import baseline_reports, cider_d, report_metrics, report_words
from refers_nb.data.report import check_reports
from refers_nb.phantom.film import Dice, anatomy
from refers_nb.phantom.wording import facts, write_report
from refers_nb.data.report import findings_impression
from refers_nb.data.sources.iu_xray import iu_xray
from refers_nb.data.labeller import labels_from

DATA = Path(__file__).resolve().parent.parent.parent/'shared'/'data'

def some(n, seed=0, **kw):
    rnd,body = random.Random(seed),anatomy(Dice(seed, np.arange(n)))
    return [findings_impression(write_report(rnd, o, ap, **kw)) for o,ap in zip(facts(body), body.ap.ravel())]

@pytest.mark.parametrize('uncertain', ['positive', 'negative'])
def test_clinical_f1_is_that_of_scikit_learn(uncertain):
    true = some(200)
    written = true[100:] + true[:100]
    got = clinical_f1(written, true, uncertain)
    p,t = (labels_from(label_reports(o), uncertain, 'negative')[CHEXPERT_FINDINGS] for o in (written, true))
    want = pd.DataFrame(precision_recall_fscore_support(t.values, p.values, average=None, zero_division=np.nan), index=['precision', 'recall', 'f1', 'support'], columns=CHEXPERT_FINDINGS).T
    pd.testing.assert_frame_equal(got.loc[CHEXPERT_FINDINGS], want, check_dtype=False, check_names=False)
    micro = precision_recall_fscore_support(t.values[:, 1:], p.values[:, 1:], average='micro')[:3]
    assert np.allclose(got.loc['micro', ['precision', 'recall', 'f1']].astype(float), micro)
    on = want.iloc[1:][want['support'].iloc[1:] > 0]
    assert got.loc['macro', 'f1'] == pytest.approx(on['f1'].fillna(0).mean()) and got.loc['micro', 'support'] == want['support'].iloc[1:].sum()

def test_rules_for_uncertain_findings():
    true,written = ['Possible effusion.', 'Effusion.', 'No effusion.'],['Effusion.', 'Possible effusion.', 'No effusion.']
    f = lambda rule: clinical_f1(written, true, rule).loc['Pleural Effusion'].tolist()
    assert f('positive') == [1, 1, 1, 2] and f('negative') == [0, 0, 0, 1]
    gone = clinical_f1(written, true, 'missing').loc['Pleural Effusion']
    assert gone['support'] == 0 and gone[['precision', 'recall', 'f1']].isna().all()
    with pytest.raises(InputError, match='uncertain'): clinical_f1(written, true, 'perhaps')

def test_a_perfect_writer_and_one_that_is_mute():
    true = some(60)
    for writer,score in ((true, 1), (['']*60, 0)):
        f = clinical_f1(writer, true)
        assert f.loc['micro', 'f1'] == f.loc['macro', 'f1'] == score
    df = compare_writers(dict(same=true, mute=['']*60), true)
    assert df.loc['same', ['BLEU-4', 'ROUGE-L', 'micro F1', 'abnormal F1']].tolist() == pytest.approx([1]*4) and df.loc['mute'].eq(0).all()

@pytest.mark.parametrize('f', [check_reports, report_metrics, cider_d, clinical_f1])
def test_bad_lists(f):
    with pytest.raises(InputError, match='1 written and 2 true'): f(['a'], ['a', 'b'])
    with pytest.raises(InputError, match='0 written and 0 true'): f([], [])
    with pytest.raises(InputError, match='true report 1'): f(['a', 'b'], ['a', ''])
    with pytest.raises(InputError, match='written report 0'): f([float('nan'), 'b'], ['a', 'b'])

def runs(words, n): return Counter(tuple(words[i:i+n]) for i in range(len(words)-n+1))

def test_bleu_and_rouge_count_words_as_their_papers_do():
    true = some(40, seed=3)
    written = [o[:len(o)*3//4] for o in true[20:] + true[:20]]
    got = report_metrics(written, true)
    w,t = ([report_words(o) for o in x] for x in (written, true))
    brevity,logs = min(0, 1 - sum(map(len, t))/sum(map(len, w))),[]
    for n in (1, 2, 3, 4):
        hit = sum(sum((runs(a, n) & runs(b, n)).values()) for a,b in zip(w, t))
        logs.append(math.log(hit/sum(len(a)-n+1 for a in w)))
        assert got[f'BLEU-{n}'] == pytest.approx(math.exp(brevity + sum(logs)/n))
    def lcs(a, b):
        row = [0]*(len(b)+1)
        for x in a:
            last = 0
            for j,y in enumerate(b, 1): last,row[j] = row[j],last+1 if x == y else max(row[j], row[j-1])
        return row[-1]
    assert got['ROUGE-L'] == pytest.approx(np.mean([2*lcs(a, b)/(len(a)+len(b)) for a,b in zip(w, t)]))

def test_cider_rewards_what_is_rare_once():
    true = ['the lungs are clear today', 'the lungs are clear and the heart is large', 'there is a left effusion here']
    assert cider_d(true, true) == pytest.approx(10)
    def alone(text): return cider_d([text, '', ''], ['a large left effusion', *true[1:]])
    assert alone('left effusion') > alone('large') > alone('the') == 0
    assert alone('left effusion left effusion left effusion') < alone('left effusion'), 'repeating does not pay'
    order = [2, 0, 1]
    w = ['left effusion', 'clear lungs', 'large heart']
    assert cider_d(w, true) == pytest.approx(cider_d([w[i] for i in order], [true[i] for i in order]))

def test_baselines(seed=0):
    rng = np.random.default_rng(seed)
    reports = [f'report {i % 7}' for i in range(50)] + ['', float('nan')]
    a,b = rng.normal(size=(52, 5)),rng.normal(size=(600, 5))
    got = baseline_reports(reports, a, torch.tensor(b))
    cos = (b @ a[:50].T)/np.linalg.norm(a[:50], axis=1)
    assert got['nearest'] == [reports[i] for i in cos.argmax(1)] and got['most frequent'] == ['report 0']*600
    assert got == baseline_reports(reports, 3*a, b/7), 'lengths of vectors do not count'
    with pytest.raises(InputError, match='contain NaN'): baseline_reports(reports, a*np.nan, b)
    with pytest.raises(InputError, match='of one width'): baseline_reports(reports, a, b[:, :4])
    with pytest.raises(InputError, match='no training report'): baseline_reports(['', ' '], a[:2], b)

def indiana():
    if not (DATA/'iu_xray').is_dir(): pytest.skip(f'no real data here: {DATA/"iu_xray"}')
    df = iu_xray(DATA/'iu_xray').drop_duplicates('study')
    return df[df['report'] != ''].reset_index(drop=True)

def test_real_most_frequent_report():
    df = indiana()
    train,valid = (df.loc[df['split'] == s, 'report'].tolist() for s in ('train', 'valid'))
    often = baseline_reports(train, np.ones((len(train), 1)), np.ones((len(valid), 1)))['most frequent']
    row = compare_writers({'most frequent': often}, valid).iloc[0].round(3)
    assert len(valid) == 378 and row[['BLEU-1', 'BLEU-4', 'ROUGE-L', 'CIDEr-D']].tolist() == [.216, .066, .337, .169] and row[['micro F1', 'macro F1', 'abnormal F1']].eq(0).all()


def test_writers_are_compared_by_place_and_not_by_the_index_of_a_series():
    true = ['There is a large left pleural effusion.', 'The heart is enlarged.', 'No acute disease. Lungs are clear.']
    want = compare_writers(dict(same=true), true)
    assert want.loc['same', 'abnormal F1'] == 1
    pd.testing.assert_frame_equal(compare_writers(dict(same=true), pd.Series(true, index=[7, 3, 'a'])), want)
