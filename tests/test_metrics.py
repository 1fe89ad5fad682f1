"Metrics of written reports: words against independent counts, findings against hand-labelled sentences, phantoms and, where they lie beside the repository, real reports"
import math, random
from collections import Counter
from pathlib import Path

import numpy as np, pandas as pd, pytest, torch
from hypothesis import given, settings, strategies as st
from sklearn.metrics import precision_recall_fscore_support

from labelled_sentences import HELD_OUT, SENTENCES, SHORT, read
from refers_nb.data.labeller import CHEXPERT_FINDINGS, label_report, label_reports, statements
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
said = lambda text: {k: v for k,v in label_report(text).items() if k != 'No Finding'}

def test_there_are_enough_sentences_of_every_finding():
    s,h = read(SENTENCES),read(HELD_OUT)
    assert len(s) >= 140 and len(h) == 30 and not {o for o,_ in s} & {o for o,_ in h}
    values = Counter((f, v) for _,want in s for f,v in want.items())
    assert all(values[f, 1] + values[f, 0] >= 3 for f in SHORT.values()) and sum(n for (_,v),n in values.items() if v == -1) >= 25

@pytest.mark.parametrize('text,want', read(SENTENCES), ids=lambda o: o[:50] if isinstance(o, str) else '')
def test_sentences(text, want):
    assert said(text) == want
    assert said(text.lower()) == said(text.upper()) == want

def test_held_out_sentences():
    wrong = [text for text,want in read(HELD_OUT) if said(text) != want]
    assert wrong == ['Biapical pleural thickening is symmetric and probably scarring.']

@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from([o for o,_ in read(SENTENCES) + read(HELD_OUT)]), min_size=1, max_size=6))
def test_a_report_says_what_its_sentences_say(parts):
    rank = [0, -1, 1]
    want = {}
    for o in parts:
        for f,v in said(o).items(): want[f] = max(want.get(f, 0), v, key=rank.index)
    for sep in (' ', '\n'): assert said(sep.join(parts)) == want == said(sep.join(parts[::-1]))

PIECES = ['no ', 'without ', 'effusion', ' or ', 'and ', ', ', '. ', 'heart ', 'normal ', 'enlarged ', 'lungs ', 'clear ', 'may be ', 'cannot be excluded', 'versus ', '/', 'not seen', 'resolved ',
          'with ', 'PNEUMONIA', 'atelectasis ', 'is ', 'vs. ', 'borderline ', 'blunting ', '\n', 'no change ', '?', '-', '1.5', 'ä', '\x00']
@settings(max_examples=400, deadline=None)
@given(st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=4)), max_size=30).map(''.join))
def test_any_text_is_read(text):
    got = label_report(text)
    assert set(got.values()) <= {-1, 0, 1} and list(got) == [f for f in CHEXPERT_FINDINGS if f in got]
    assert ('No Finding' in got) == any(c.isalnum() or c == '_' for c in text)
    if got: assert got['No Finding'] == 0 or all(v == 0 for f,v in got.items() if f not in ('No Finding', 'Support Devices'))
    assert all(s == s.strip(' ,') and s for s in statements(text))

@pytest.mark.parametrize('unit', ['no ', 'a, ', 'heart ', 'may be ', 'x', 'opacity or ', '/', '. ', 'normal ', ', and the ', 'is ', 'no effusion or edema is seen, ', 'near ', 'history of '])
def test_long_texts_are_read_in_linear_time(unit): # anything quadratic would take hours
    text = unit*(1_000_000//len(unit)) + 'pneumothorax.'
    assert isinstance(label_report(text), dict)

def test_no_finding_and_silence():
    assert label_report('') == label_report(' .\n') == {}
    assert label_report('No acute disease.') == {'No Finding': 1}
    assert label_report('Emphysema.') == {'No Finding': 0} and label_report('No emphysema.') == {'No Finding': 1}
    assert label_report('PICC in the SVC. Lungs are clear.')['No Finding'] == 1 and label_report('Possible effusion.')['No Finding'] == 0
    with pytest.raises(InputError, match='must be text'): label_report(float('nan'))
    df = label_reports(pd.Series(['Effusion.', ''], index=[7, 3]))
    assert list(df.index) == [7, 3] and list(df.columns) == CHEXPERT_FINDINGS and (df.dtypes == 'float32').all() and df.loc[3].isna().all()
    assert label_reports([]).shape == (0, 14)

@pytest.mark.parametrize('seed', [1, 2])
def test_phantom_reports_are_read_as_they_were_drawn(seed):
    body = anatomy(Dice(seed, np.arange(1500)))
    rows,rnd = facts(body),random.Random(seed)
    reports = [findings_impression(write_report(rnd, o, ap, unmentioned=0)) for o,ap in zip(rows, body.ap.ravel())]
    drawn = pd.DataFrame([{o[0].split()[-1]: 1 for o in r} for r in rows]).fillna(0)
    p = labels_from(label_reports(reports), 'positive', 'negative')
    names = dict(cardiomegaly='Cardiomegaly', effusion='Pleural Effusion', pneumothorax='Pneumothorax', nodule='Lung Lesion', edema='Edema', atelectasis='Atelectasis', device='Support Devices')
    for k,f in names.items():
        t,y = drawn[k] == 1,p[f] == 1
        assert (t & y).sum()/y.sum() >= .98 and (t & y).sum()/t.sum() >= .98 and t.sum() > 100, f
    t,y = drawn['consolidation'] == 1,p[['Consolidation', 'Lung Opacity', 'Pneumonia']].max(axis=1) == 1
    alone = drawn[['edema', 'atelectasis', 'nodule', 'effusion']].sum(axis=1) == 0
    assert (t & y & alone).sum()/(y & alone).sum() >= .98 and (t & y).sum()/t.sum() >= .98
    healthy = drawn[[*names, 'consolidation']].drop(columns='device').sum(axis=1) == 0
    assert (label_reports(reports).loc[~healthy, 'No Finding'] == 0).all(), 'a drawn finding is never missed by all phrases at once'

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

def test_real_reports_agree_with_their_index_terms():
    df = indiana()
    p = labels_from(label_reports(df['report']), 'positive', 'negative')
    p['abnormal'] = 1 - p['No Finding']
    names = dict(abnormal=('abnormal', .97, .93), cardiomegaly=('Cardiomegaly', .9, .98), effusion=('Pleural Effusion', .8, .97), atelectasis=('Atelectasis', .8, .98), opacity=('Lung Opacity', .55, .93))
    for k,(f,precision,recall) in names.items():
        known = df[f'label:{k}'].notna()
        t,y = df.loc[known, f'label:{k}'] == 1,p.loc[known, f] == 1
        assert (t & y).sum()/y.sum() > precision and (t & y).sum()/t.sum() > recall, k

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
