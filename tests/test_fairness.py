"Subgroups and shortcuts against scikit-learn, loops over pairs and the bootstrap, and on the pneumonia images of NIH"
from pathlib import Path

import matplotlib; matplotlib.use('Agg')
import numpy as np, pandas as pd, pytest
from hypothesis import given, settings, strategies as st
from sklearn.metrics import roc_auc_score

from refers_nb.cli import refers_evaluate
from refers_nb.core import InputError
from refers_nb.evaluation.compare import run_fairness
from refers_nb.evaluation.predictions import read_runs
from refers_nb.evaluation.fairness import (
    known_and_training, known_of, plot_shortcuts, plot_subgroups, shortcut_scores, shortcut_table, stratified,
    stratified_auroc, subgroup_table, subgroup_tests,
)
from refers_nb.data.sources.nih14 import nih14
from refers_nb.evaluation.statistics import delong, holm
from refers_nb.data.studies import write_studies

NIH = Path(__file__).resolve().parents[2]/'shared'/'data'/'nih_chestxray14'
nan = np.nan


def make(patients=300, seed=0):
    "Study table of patients with one to three images; AP goes with an effusion, and edema is known of two thirds"
    rng = np.random.default_rng(seed)
    own = np.repeat(np.arange(patients), rng.integers(1, 4, patients))
    n = len(own)
    sick = rng.random(n) < .4
    df = pd.DataFrame(dict(
        patient=[f'p{i}' for i in own],
        study=[f's{i}' for i in own],
        path=[f'{i}.png' for i in range(n)],
        report='',
        view=np.where(rng.random(n) < np.where(sick, .7, .3), 'AP', 'PA'),
        sex=rng.choice(['F', 'M', ''], patients)[own],
        age=rng.uniform(5, 95, patients)[own],
        split=rng.choice(['train', 'valid', 'test'], patients)[own]))
    df.loc[rng.random(n) < .1, 'view'] = 'UNKNOWN'
    df['label:effusion'] = sick.astype(float)
    df['label:edema'] = np.where(rng.random(n) < .33, nan, rng.integers(0, 2, n))
    score = np.stack([sick + .8*(df['view'] == 'AP') + rng.normal(size=n), rng.normal(size=n)], 1)
    return df, df[['label:effusion', 'label:edema']].rename(columns=lambda o: o[6:]), score


@pytest.fixture(scope='module')
def data(): return make()


# What is known

def test_groups_are_those_of_the_table(data):
    df, _, _ = data
    k = known_of(df, ages=(18, 65))
    assert list(k) == ['projection', 'sex', 'age'] and k.index.tolist() == df.path.tolist()
    for row,(_,o) in zip(df.itertuples(), k.iterrows()):
        assert o['projection'] == ('' if row.view == 'UNKNOWN' else row.view) and o['sex'] == row.sex
        assert o['age'] == ('0 to 17' if row.age < 18 else '18 to 64' if row.age < 65 else '65 and over')
    half = known_of(df.assign(age=df.age.where(df.index % 2 == 0), sex=''))
    assert 'sex' not in half and ((half.age == '') == (np.arange(len(df)) % 2 == 1)).all()
    assert list(known_of(df.drop(columns=['age', 'sex']))) == ['projection']
    by = known_of(df, by='study').projection
    for s, g in df.groupby('study'): assert by[s] == ' and '.join(sorted(set(g.view) - {'UNKNOWN'}))


def test_numbers_become_fifths_and_text_stays(data):
    df = data[0].assign(light=np.r_[nan, np.arange(len(data[0]) - 1)], hospital='A')
    k = known_of(df, more=['light', 'hospital'])
    assert k.light.iloc[0] == '' and k.light.iloc[[1, -1]].tolist() == ['1 of 5', '5 of 5']
    assert (k.light[1:].value_counts() - (len(df) - 1)/5).abs().max() < 1 and set(k.hospital) == {'A'}
    with pytest.raises(InputError, match='no column scanner'): known_of(df, more=['scanner'])


# Subgroups

def test_every_group_is_scored_as_if_alone(data):
    df, y, s = data
    t = subgroup_table(y, s, known_of(df), df.patient).set_index(['known', 'group', 'finding'])
    for c, col in dict(projection='view', sex='sex').items():
        for g, rows in df.groupby(col).groups.items():
            g = 'unknown' if g in ('', 'UNKNOWN') else g
            for j, f in enumerate(y):
                k = y[f][rows].notna().to_numpy()
                assert t.loc[(c, g, f), 'auroc'] == pytest.approx(roc_auc_score(y[f][rows][k], s[rows, j][k]))
                assert t.loc[(c, g, f), 'n'] == k.sum() and t.loc[(c, g, f), 'positives'] == (y[f][rows] == 1).sum()
    assert ((t.low < t.auroc) & (t.auroc < t.high)).all() and (t.note == '').all()
    everybody = t.xs('all', level='known').xs('all', level='group').auroc
    assert everybody['mean'] == pytest.approx(np.mean([everybody[f] for f in y]))


def test_a_group_without_an_auroc_says_why(data):
    df, y, s = data
    y, k = y.copy(), known_of(df)
    ap = (k.projection == 'AP').to_numpy()
    y.loc[ap, 'edema'] = 0
    y.loc[(k.projection == 'PA').to_numpy(), 'edema'] = nan
    t = subgroup_table(y, s, k[['projection']], df.patient).set_index(['group', 'finding'])
    assert t.note['AP', 'edema'] == 'negatives only' and t.note['PA', 'edema'] == 'no labels'
    assert t.note['AP', 'mean'] == '1 of 2 findings'
    assert np.isnan(t.auroc['AP', 'edema']) and t.auroc['AP', 'mean'] == t.auroc['AP', 'effusion']
    one = np.where(np.arange(len(df)) == np.flatnonzero(ap)[0], 1., 0.)
    assert 'one patient of a kind' in subgroup_table(one, s[:, 0], k, df.patient, ['x']).note.tolist()
    tests = subgroup_tests(y, s, k[['projection']], df.patient).set_index('finding')
    assert np.isnan(tests.p['edema']) and tests.p['mean'] == pytest.approx(tests.p['effusion'])
    with pytest.raises(InputError, match='give one row for each'): subgroup_table(y, s, k[1:])


def variance(y, s):
    "DeLong's variance from all pairs"
    w = np.sign(s[y == 1][:, None] - s[y == 0])/2 + .5
    return w.mean(1).var(ddof=1)/len(w) + w.mean(0).var(ddof=1)/w.shape[1]


def test_groups_of_different_patients_are_tested_as_independent_samples():
    df, y, s = make(seed=1)
    first = df.drop_duplicates('patient').index
    y, s, sex = y.effusion[first].to_numpy(), s[first, 0], df.sex[first].to_numpy()
    t = subgroup_tests(y, s, pd.DataFrame(dict(sex=sex)), names=['effusion']).iloc[0]
    f, m = sex == 'F',sex == 'M'
    d = roc_auc_score(y[f], s[f]) - roc_auc_score(y[m], s[m])
    se = np.sqrt(variance(y[f], s[f]) + variance(y[m], s[m]))
    from scipy.stats import norm
    assert (t.a, t.b) == ('F', 'M') and t.difference == pytest.approx(d) and t.p == pytest.approx(2*norm.sf(abs(d)/se))
    assert (t.high - t.low)/2/norm.ppf(.975) == pytest.approx(se)


def drawn(df, value, reps=400, seed=0):
    "Standard deviation of a number over draws of patients"
    rng = np.random.default_rng(seed)
    rows = list(df.reset_index().groupby('patient').groups.values())
    draws = (rng.integers(len(rows), size=len(rows)) for _ in range(reps))
    return np.std([value(np.concatenate([rows[i] for i in o])) for o in draws])


def test_patients_in_both_groups_are_drawn_together():
    "Twins, one AP and one PA: the error of the difference is the one that patients drawn at random show"
    rng, n = np.random.default_rng(3),250
    own = np.tile(np.arange(n), 2)
    y, s = (rng.random(n) < .4)[own].astype(float), rng.normal(size=n)[own] + .5*rng.normal(size=2*n)
    s += y
    view = np.repeat(['AP', 'PA'], n)
    df = pd.DataFrame(dict(patient=own))
    def gap(i): return np.subtract(*(roc_auc_score(y[i][view[i] == v], s[i][view[i] == v]) for v in ('AP', 'PA')))
    width = lambda p: (t := subgroup_tests(y, s, pd.DataFrame(dict(view=view)), p).iloc[0]).high - t.low
    true = 2*1.96*drawn(df, gap)
    assert width(own) == pytest.approx(true, rel=.12) and width(None) > 1.5*true


def test_holm_runs_over_findings_and_pairs_and_separately_over_means(data):
    df, y, s = data
    t = subgroup_tests(y, s, known_of(df), df.patient)
    mean = t.finding == 'mean'
    assert len(t) == (1 + 1 + 3)*3 and set(t.known) == {'projection', 'sex', 'age'}
    for o in (mean, ~mean): assert np.allclose(t.p_holm[o], holm(t.p[o]))
    assert not (set(t.a) | set(t.b)) & {'', 'unknown'}
    assert subgroup_tests(y, s, known_of(df)[['sex']].assign(sex='F')).empty


# Within groups

labels = st.sampled_from([0., 1., nan])
groups = st.sampled_from(['a', 'b', ''])
small = st.lists(st.tuples(labels, st.integers(0, 3), groups, st.integers(0, 5)), min_size=2, max_size=25)

@settings(max_examples=80, deadline=None)
@given(small)
def test_only_pairs_within_a_group_count(rows):
    y, s, g, pid = map(np.array, zip(*rows))
    sick, healthy = np.flatnonzero(y == 1), np.flatnonzero(y == 0)
    wins = [.5 + np.sign(s[i] - s[j])/2 for i in sick for j in healthy if g[i] == g[j] != '']
    t = stratified_auroc(y, s, g, pid, ['x']).loc['x']
    known = (g != '') & ~np.isnan(y)
    assert t['n'] == known.sum() and (np.isnan(t.auroc) if not wins else t.auroc == pytest.approx(np.mean(wins)))
    every = (y[known] == 1).sum()*(y[known] == 0).sum()
    assert np.isnan(t.pairs) if not every else t.pairs == pytest.approx(len(wins)/every)


def test_one_group_is_delong(data):
    df, y, s = data
    a, b = stratified(y, s, ['x']*len(y), df.patient), delong(y, s, df.patient)
    assert np.allclose(a.auroc, b.auroc) and np.allclose(a.contributions, b.contributions)


def test_the_error_within_groups_is_that_of_patients_drawn_at_random(data):
    df, y, s = data
    g, t = df['view'].replace('UNKNOWN', '').to_numpy(str), y.to_numpy()
    draws = drawn(df, lambda i: stratified(t[i], s[i], g[i]).auroc[0])
    assert np.sqrt(stratified(t, s, g, df.patient).variance[0]) == pytest.approx(draws, rel=.12)


# Shortcuts

def test_rates_of_the_training_images_are_learnt_and_nothing_else(data):
    df, y, _ = data
    k, train = known_of(df), (df.split == 'train').to_numpy()
    s = shortcut_scores(k[train], y[train], k)
    assert list(s) == ['projection', 'sex', 'age', 'together']
    for c in ('projection', 'sex', 'age'):
        rates = y.effusion[train].groupby(k[c][train].to_numpy()).mean()
        said = pd.Series(s[c][:, 0]).groupby(k[c].to_numpy()).agg(['min', 'max'])
        assert np.allclose(said['min'], said['max']) and (said['min'] - rates[said.index]).abs().max() < .03
    three = pd.DataFrame(dict(projection=['LATERAL', 'AP', 'PA']))
    new = shortcut_scores(k[train][['projection']], y[train], three)['projection'][:, 0]
    assert new[2] < new[0] < new[1] and 'together' not in shortcut_scores(k[train][['sex']], y[train], k)


def test_a_finding_that_training_knows_one_kind_of_is_not_scored(data):
    df, y, s = data
    k, train = known_of(df), (df.split == 'train').to_numpy()
    alone = shortcut_scores(k[train], y[train].assign(edema=0.), k)
    assert all(np.isnan(o[:, 1]).all() and not np.isnan(o[:, 0]).any() for o in alone.values())
    t = shortcut_table(y, s, k, alone, df.patient).set_index(['known', 'finding'])
    edema = t.xs('edema', level='finding')
    assert edema[['alone', 'model', 'within']].isna().all(axis=None) and edema.n['sex'] == 0
    assert t.alone['sex', 'mean'] == t.alone['sex', 'effusion']


def test_the_table_puts_side_by_side_what_can_be_computed_one_by_one(data):
    df, y, s = data
    test, train = ((df.split == o).to_numpy() for o in ('test', 'train'))
    k = known_of(df)
    alone = shortcut_scores(k[train], y[train], k[test])
    t = shortcut_table(y[test], s[test], k[test], alone, df.patient[test]).set_index(['known', 'finding'])
    for c in ('projection', 'sex', 'age', 'together'):
        row = t.loc[(c, 'effusion')]
        assert row['alone'] == pytest.approx(roc_auc_score(y.effusion[test], alone[c][:, 0]))
        assert row['model'] == pytest.approx(roc_auc_score(y.effusion[test], s[test, 0]))
        assert row['alone_low'] < row['alone'] < row['alone_high']
        assert row['within_low'] < row['within'] < row['within_high']
    both = (k[test].projection + '/' + k[test].sex + '/' + k[test].age).where((k[test] != '').all(axis=1), '')
    assert t.within['together', 'effusion'] == pytest.approx(stratified(y[test], s[test], both.to_numpy(str)).auroc[0])
    one = t.loc[('projection', 'effusion')]
    assert one.within < one.model, 'it gets something from the projection'
    fixed = shortcut_table(y[test], alone['projection'], k[test], alone).set_index(['known', 'finding'])
    assert fixed.within['projection', 'effusion'] == .5                               # all ties
    for ax in (plot_shortcuts(t.reset_index()), plot_subgroups(subgroup_table(y, s, k), 'edema')):
        assert ax.get_xlabel().startswith('AUROC')
    with pytest.raises(InputError, match='no finding gout'): plot_shortcuts(t.reset_index(), 'gout')


# Predictions of runs

def predictions(df, y, s, by='path'):
    "As `finetune` writes them"
    n, c = y.shape
    p = 1/(1 + np.exp(-s))
    return pd.DataFrame(dict(
        image=np.repeat(df[by], c),
        patient=np.repeat(df.patient, c),
        label=list(y)*n,
        target=y.to_numpy().ravel(),
        probability=p.ravel()))


def test_runs_meet_their_table_by_image_or_by_study(data):
    df, y, s = data
    test = df.split == 'test'
    own, train, labels = known_and_training(df, df.path[test][::-1], list(y))
    assert own.index.tolist() == df.path[test][::-1].tolist() and set(train.index) == set(df.path[df.split == 'train'])
    want = df.set_index('path').loc[train.index][['label:effusion', 'label:edema']]
    assert np.array_equal(labels, want, equal_nan=True)
    own, train, labels = known_and_training(df, df.study[test].unique(), list(y))
    first = own.index[0]
    assert set(train.index) <= set(df.study[df.split == 'train'])
    assert own.loc[first, 'projection'] == known_of(df, 'study').projection[first]
    assert np.array_equal(labels[:, 0], df.groupby('study')['label:effusion'].max()[train.index])
    fold = df.path[(df.split == 'train') & (df.index % 2 == 0)]                    # the table knows it as training
    own, train, labels = known_and_training(df, fold, list(y))
    who = lambda paths: set(df.set_index('path').patient[paths])
    assert len(train) and len(labels) == len(train) and not who(train.index) & who(own.index)
    for images, findings, word in (
            (['nowhere.png'], ['effusion'], 'nowhere.png for example'), (df.path, ['gout'], 'no labels for gout')):
        with pytest.raises(InputError, match=word): known_and_training(df, images, findings)


def test_the_command_adds_subgroups_and_shortcuts(data, tmp_path, capsys):
    df, y, s = data
    write_studies(df, tmp_path/'table')
    test = df.split == 'test'
    (tmp_path/'run').mkdir()
    predictions(df[test], y[test], s[test]).to_parquet(tmp_path/'run'/'predictions.parquet')
    refers_evaluate('predictions', tmp_path/'run', out=tmp_path/'out', table=str(tmp_path/'table'))
    out = capsys.readouterr().out
    assert '## Subgroups' in out and '## What is known alone' in out
    for o in ('subgroups', 'subgroup_tests', 'shortcuts'): assert o in {f.stem for f in (tmp_path/'out').glob('*.csv')}
    for o in ('subgroups', 'shortcuts'): assert (tmp_path/'out'/f'{o}.png').read_bytes()[:4] == b'\x89PNG'
    t = pd.read_csv(tmp_path/'out'/'subgroups.csv', keep_default_na=False)
    want = subgroup_table(y[test], s[test], known_of(df)[test.to_numpy()], df.patient[test])
    assert np.allclose(t.auroc.astype(float), want.auroc)
    assert t.group.tolist() == want.group.tolist() and set(t.run) == {'run'}
    refers_evaluate('predictions', tmp_path/'run', table=str(tmp_path/'table'))
    assert '## Subgroups' in capsys.readouterr().out
    write_studies(df[~test], tmp_path/'other')
    for what, path, table, word in (
            ('predictions', tmp_path/'run', str(tmp_path/'other'), 'not in the study table'),
            ('released', tmp_path, 'x', '--table is for')):
        with pytest.raises(SystemExit): refers_evaluate(what, path, out=None, table=table)
        assert word in capsys.readouterr().err


def test_runs_of_studies(data, tmp_path):
    df, y, s = data
    first = df[df.split == 'test'].drop_duplicates('study')
    predictions(first, y.loc[first.index], s[first.index], by='study').to_parquet(tmp_path/'p.parquet')
    res = run_fairness(read_runs([tmp_path/'p.parquet']), df)
    assert 'AP and PA' in set(res['subgroups'].group) and len(res['shortcuts']) == 4*3


# Real images

@pytest.mark.slow
def test_pneumonia_images_of_nih_are_confounded_with_the_projection():
    "In the 781 images the sick are more often PA; in the whole release it is the other way round"
    if not NIH.is_dir(): pytest.skip('../shared/data/nih_chestxray14 is not here')
    df = nih14(NIH)
    y, k = df[['label:Pneumonia']].rename(columns=lambda o: o[6:]), known_of(df)
    sick, pa = y.Pneumonia == 1,(df['view'] == 'PA').to_numpy()
    wins = (np.sign(pa[sick][:, None]*1. - pa[~sick])/2 + .5).mean()
    alone = shortcut_scores(k, y, k)
    table = shortcut_table(y, alone['projection'], k, alone, df.patient).set_index(['known', 'finding'])
    t = table.loc[('projection', 'Pneumonia')]
    assert len(df) == 781 and t['alone'] == pytest.approx(wins) == pytest.approx(.604, abs=.001)
    assert t['alone_low'] > .55 and t['within'] == .5
    valid = (df.split == 'valid').to_numpy()
    own, train, labels = known_and_training(df, df.path[valid], ['Pneumonia'])
    score = shortcut_scores(train, labels, own)['projection'][:, 0]
    assert roc_auc_score(sick[valid], score) == pytest.approx(roc_auc_score(sick[valid], pa[valid]))
    full = pd.read_csv(next(NIH.glob('Data_Entry_2017*')), usecols=['Finding Labels', 'View Position'])
    named, ap = full['Finding Labels'].str.contains('Pneumonia'), full['View Position'] == 'AP'
    assert ap[named].mean() > ap[~named].mean() + .1 and pa[sick].mean() > pa[~sick].mean() + .1
