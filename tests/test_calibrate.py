"Operating points: found by rules, kept in the checkpoint, told in the card, found again for another hospital"
import json

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit
from sklearn.metrics import roc_curve

from answering import FINDINGS, command, hospital, refused, run
from refers_nb.calibrate import recalibrate
from refers_nb.models.hub import checkpoint_config
from refers_nb.predict import load_classifier, predict
from refers_nb.training.operating import (
    best_cut, cross_fitted, fit_scale, operating_points, points_of, rates, read_rule)
from refers_nb.training.reliability import calibration_error, error_interval, patient_draws

CPU = dict(device='cpu', precision='fp32')


def scores(n, seed, share=.3):
    "Labels, and overconfident scores with ties"
    rng = np.random.default_rng(seed)
    y = (rng.random(n) < share).astype(float)
    return y, expit(3*rng.normal(1.2*y - .6, 1)).round(2)


@pytest.mark.parametrize('seed', range(5))
def test_rules_agree_with_scikit_learn(seed):
    y, p = scores(300, seed)
    r = rates(y, p, np.ones((1, 300)))
    fpr, tpr, _ = roc_curve(y, p, drop_intermediate=False)
    def reached(rule):
        called = p >= r.cuts[best_cut(r, read_rule(rule))[0]]
        return called[y == 1].mean(), 1 - called[y == 0].mean(), called.sum()
    sens, spec, _ = reached('youden')
    assert sens + spec - 1 == pytest.approx((tpr - fpr).max())
    sens, spec, _ = reached('sensitivity=0.8')
    assert sens >= .8 and spec == pytest.approx((1 - fpr[tpr >= .8 - 1e-12]).max())
    sens, spec, _ = reached('specificity=0.9')
    assert spec >= .9 - 1e-12 and sens == pytest.approx(tpr[1 - fpr >= .9 - 1e-12].max())
    gaps = np.abs(np.subtract.outer(p, np.unique(p)) >= 0).sum(0) - y.sum()
    assert abs(reached('prevalence')[2] - y.sum()) <= np.abs(gaps).min()


def test_draws_of_patients_count_as_copies_of_their_films():
    y, p = scores(120, 3)
    who = np.arange(120)//3
    w = next(patient_draws(who, 8, seed=1))
    assert (w.reshape(8, 40, 3) == w.reshape(8, 40, 3)[..., :1]).all() and (w.sum(1) == 120).all()
    for row in w:
        copied = np.repeat(np.arange(120), row.astype(int))
        r, direct = rates(y, p, row[None]), rates(y[copied], p[copied], np.ones((1, 120)))
        rule = read_rule('youden')
        a, b = r.cuts[best_cut(r, rule)[0]], direct.cuts[best_cut(direct, rule)[0]]
        assert ((p[copied] >= a) == (p[copied] >= b)).all()
    low, high = error_interval(y, p, who)
    assert low < high and error_interval(y*np.nan, p, who) is None


@pytest.mark.parametrize('method', ['auto', 'platt', 'temperature'])
def test_calibration_keeps_the_order_and_is_judged_by_other_patients(method):
    y, p = scores(500, 4, .5 if method == 'temperature' else .3)      # a temperature mends no prevalence
    who = np.arange(500)//2
    scale = fit_scale(y, p, who, method)
    assert (np.diff(scale(p)[np.argsort(p, kind='stable')]) >= 0).all() and scale.slope > 0
    after = cross_fitted(y, p, who, method)
    assert calibration_error(y, after) < calibration_error(y, p)
    first = cross_fitted(y, p, who, method)
    changed = cross_fitted(y, np.where(who == 7, 1 - p, p), who, method)
    other = who != 7
    assert not np.allclose(first[other], changed[other])          # film of 7 calibrates others
    assert np.isfinite(first).all()


@pytest.mark.parametrize('labels,note', [([0]*40, 'negatives only'), ([1]*40, 'positives only'), ([np.nan]*40, 'no labels'),
                                         ([1] + [0]*39, '1 patients of the rarer kind'), ([1]*4 + [0]*36, 'few patients'), ([1, 1, 0] + [np.nan]*37, 'not calibrated: 1')])
def test_few_labels_are_told(labels, note):
    p = np.linspace(.9, .1, 40)
    o = operating_points(np.array(labels, float)[:, None], p[:, None], np.arange(40), ['x'])['findings']['x']
    assert note in o['note'] and 0 <= o['threshold'] <= 1 and np.isfinite([o['slope'], o['intercept']]).all()
    json.dumps(o, allow_nan=False)
    assert np.isfinite(points_of(dict(findings=dict(x=o)), ['x']).calibrated(p[:, None])).all()


def test_a_perfect_split_is_not_believed_beyond_its_size():
    y = np.repeat([0., 1], 20)
    p = np.where(y == 1, 1 - 1e-9, 1e-9)
    assert .9 < fit_scale(y, p, np.arange(40))(p).max() < .99


def test_fine_tuning_keeps_points_that_are_those_of_validation(run):
    from refers_nb.data.studies import read_studies
    config = checkpoint_config(run/'run'/'model')
    kept = config['training']['operating']
    df = read_studies(run/'data')
    valid = df[(df.split == 'valid') & (df['view'] != 'LATERAL')]
    assert kept['films'] == len(valid) and kept['patients'] == valid.patient.nunique() and kept['rule'] == 'youden'
    assert (config['training']['data']['stored'], config['training']['data']['resize_mode']) == (48, 'letterbox')
    said = predict(run/'run', run/'data', **CPU).set_index('path').loc[valid.path]
    for name in FINDINGS:
        o, t = kept['findings'][name], valid[f'label:{name}'].to_numpy()
        if o['note'].endswith('only'): continue
        called = said[f'decision:{name}'].to_numpy() == 1
        assert called[t == 1].mean() == pytest.approx(o['sensitivity']) and 1 - called[t == 0].mean() == pytest.approx(o['specificity'])
        assert o['positives'] == t.sum()
    card = (run/'run'/'model'/'README.md').read_text()
    assert '## Operating points' in card and '| cardiomegaly | 0.' in card and '"slope"' not in card


@pytest.fixture(scope='module')
def second(run):
    "Another hospital: films with labels to calibrate by, and others to judge by"
    return dict(few=hospital(run/'few', 900, 21), many=hospital(run/'many', 1500, 22))


def on_others(model, run, many):
    table = predict(model, run/'many', **CPU)
    return table.set_index(table['path'].str.split('/').str[-1]).loc[many['path']]


@pytest.mark.parametrize('rule', ['prevalence', pytest.param('youden', marks=pytest.mark.slow)])
def test_another_hospital(run, second, rule):
    "Calibration error at most 0.05, predicted positives within a fifth of the true number, on films of other patients"
    res = recalibrate(run/'run', run/'few'/'labels.csv', rule, **CPU)
    before, after = (on_others(o, run, second['many']) for o in (run/'run', res.model))
    for name in FINDINGS[:2]:
        t = second['many'][name].to_numpy()
        p, q = (o[f'probability:{name}'].to_numpy() for o in (before, after))
        assert calibration_error(t, q) <= .05 < .08 < calibration_error(t, p)
        assert abs(q.sum()/t.sum() - 1) < .2 < abs(p.sum()/t.sum() - 1)
        called = after[f'decision:{name}'].sum()
        if rule == 'prevalence': assert abs(called/t.sum() - 1) < .2, (name, called, t.sum())
        row = res.comparison.loc[name]
        assert row['error_after'] < row['error_before'] and row['threshold_interval'][0] <= row['threshold_after'] <= row['threshold_interval'][1]
    assert any('edema: not calibrated again: no labels' in o for o in res.notes)
    old = load_classifier(run/'run').facts['operating']['findings']['edema']
    assert res.model.facts['operating']['findings']['edema']['threshold'] == old['threshold']


def test_the_command_writes_another_folder_or_replaces(run, second, command, tmp_path):
    import shutil
    table = run/'few'/'labels.csv'
    code, text, err = command('refers-calibrate', run/'run', table, '--out', tmp_path/'b', '--rule', 'sensitivity=0.9', '--workers', 1)
    assert code == 0 and '| cardiomegaly | ' in text and ' to 0.' in text and text.strip().endswith('b'), err
    old, new = load_classifier(run/'run'), load_classifier(tmp_path/'b')
    for a, b in zip(old.state_dict().values(), new.state_dict().values()): assert (a == b).all()
    kept = new.facts['operating']
    assert kept['rule'] == 'sensitivity=0.9' and kept['findings']['cardiomegaly']['sensitivity'] >= .9
    assert set(new.films) == set(old.films) and 'found again' in (tmp_path/'b'/'README.md').read_text()
    refused('refers-calibrate', command('refers-calibrate', run/'run', table, '--out', tmp_path/'b'), 'there already')
    shutil.copytree(run/'run', tmp_path/'run')
    assert command('refers-calibrate', tmp_path/'run', table, '--replace', '--workers', 1)[0] == 0
    assert load_classifier(tmp_path/'run').facts['operating']['split'] == 'all'
    assert sorted(o.name for o in tmp_path.iterdir()) == ['b', 'run']
    shutil.rmtree(tmp_path/'b')


def test_bad_input_is_one_line(run, second, command, tmp_path):
    few = second['few']
    def write(name, df): df.to_csv(run/'few'/name, index=False); return run/'few'/name
    healthy = write('healthy.csv', few[(few[FINDINGS[:2]] == 0).all(axis=1)])
    other = write('other.csv', few.rename(columns={o: f'{o} of old' for o in FINDINGS[:2]}))
    gone = write('gone.csv', few.assign(path='gone.png').head(1))
    turned = write('turned.csv', few.assign(**{o: 1 - few[o] for o in FINDINGS[:2]}))
    table, x, model = run/'few'/'labels.csv', ('--out', tmp_path/'x'), run/'run'
    bad = [((model, table), '--replace'), ((model, table, *x, '--replace'), '--replace'), ((tmp_path/'no', table, *x), 'no checkpoint'),
           ((model, tmp_path/'no.csv', *x), 'no.csv'), ((model, healthy, *x), 'negatives only'), ((model, other, *x), 'no labels of'),
           ((model, gone, *x), ''), ((model, turned, *x), 'AUROC'), ((model, table, *x, '--rule', 'f1'), 'youden, prevalence'),
           ((model, table, *x, '--rule', 'sensitivity=2'), 'sensitivity=2'), ((model, table, *x, '--method', 'isotonic'), 'isotonic'),
           ((model, table, *x, '--split', 'new'), "split 'new'"), (('owner/name', table, '--replace'), 'no folder of this machine'),
           ((model, table, '--out', run/'data'), 'there already')]
    for args, word in bad: refused('refers-calibrate', command('refers-calibrate', *args), word)
    assert not list(tmp_path.iterdir())


def test_a_few_films_are_told_as_few(run, second):
    sick = second['few'][second['few']['cardiomegaly'] == 1].head(4)
    well = second['few'][second['few']['cardiomegaly'] == 0].head(30)
    pd.concat([sick, well]).to_csv(run/'few'/'handful.csv', index=False)
    res = recalibrate(run/'run', run/'few'/'handful.csv', **CPU)
    assert any('cardiomegaly: 4 patients' in o and 'wide' in o for o in res.notes)
    point = res.model.facts['operating']['findings']['cardiomegaly']
    assert point['method'] == 'platt' and np.diff(point['sensitivity_interval'])[0] >= 0
