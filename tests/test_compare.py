"Our own runs, compared image by image and across seeds: against scikit-learn and against the tests one by one"
import json

import numpy as np, pandas as pd, pytest

from drawn_predictions import METHODS, long_table, simulated
from refers_nb.cli import refers_evaluate
from refers_nb.core import InputError
from refers_nb.evaluation.calibration import metrics_table
from refers_nb.evaluation.compare import efficiency_tests, run_metrics, run_tests, seed_tests
from refers_nb.evaluation.predictions import read_runs
from refers_nb.evaluation.released import markdown_table
from refers_nb.evaluation.statistics import delong_test, holm, paired_seeds, seed_patient_test


@pytest.fixture
def runs(tmp_path):
    "Two files of one run each, and one with two starts, two shares and three seeds"
    y, s = simulated(100)
    y[::9, 1] = np.nan
    for name, method in (('a', 'REFERS'), ('b', 'C2L')):
        (tmp_path/name).mkdir()
        shuffled = long_table(y, s[method]).sample(frac=1, random_state=0)
        shuffled.to_parquet(tmp_path/name/'predictions.parquet', index=False)
    rng = np.random.default_rng(1)
    parts = []
    for f in (.1, 1.):
        for k in range(3):
            for start, method in (('refers', 'REFERS'), ('random', 'ImageNet')):
                p = np.clip(s[method] + .1*rng.normal(size=y.shape), 0, 1)
                parts.append(long_table(y, p, init=start, fraction=f, seed=k))
    pd.concat(parts).to_parquet(tmp_path/'trials.parquet', index=False)
    return tmp_path, y, s


def test_two_files_are_compared_image_by_image(runs):
    d, y, s = runs
    a = read_runs([d/'a', d/'b'/'predictions.parquet'])
    assert [o.name for o in a] == ['a', 'b'] and set(a[0].targets) == {'Effusion', 'Edema'}
    t = run_tests(a).set_index('finding')
    m = run_metrics(a).set_index(['run', 'finding'])
    patients, findings = np.arange(100)//2, ['Effusion', 'Edema']
    want = metrics_table(y, s['C2L'], patients, findings)
    p = delong_test(y, s['REFERS'], s['C2L'], patients, findings)
    measures = ['n', 'auroc', 'low', 'high', 'average_precision', 'ece']
    tested = ['difference', 'p', 'p_holm']
    for f in (*findings, 'mean'):
        assert m.loc[('b', f), measures].tolist() == pytest.approx(want.loc[f, measures].tolist())
        assert t.loc[f, tested].tolist() == pytest.approx(p.loc[f, tested].tolist())
    assert run_tests(a, 'b').difference.tolist() == pytest.approx((-t.difference).tolist())
    assert seed_tests(m.reset_index()).empty


def test_starts_are_compared_within_share_and_seed_and_across_seeds(runs):
    d, y, s = runs
    a = read_runs([d/'trials.parquet'])
    m, t = run_metrics(a), run_tests(a)
    assert len(a) == 12 and len(t) == 6*3 and set(zip(t.a, t.b)) == {('refers', 'random')}
    e = seed_tests(m).set_index('fraction')
    tested = ['difference', 'p', 'p_sign']
    for f in (.1, 1.):
        x = m[(m.finding == 'mean') & (m.fraction == f)].pivot(index='seed', columns='run', values='auroc')
        want = paired_seeds(x['refers'], x['random'])
        assert e.loc[f, tested].tolist() == pytest.approx(want[tested].tolist()) and e.seeds[f] == 3
    assert seed_tests(m, 'random').difference.tolist() == pytest.approx((-e.difference).tolist())
    with pytest.raises(InputError, match='no run is called gone'): run_tests(a, 'gone')


def test_everything_is_written(runs, capsys):
    d = runs[0]
    refers_evaluate('predictions', d/'a', d/'b', out=d/'out')
    written = ['metrics.csv', 'reliability.png', 'report.md', 'roc.png', 'run.json', 'seeds.csv', 'tests.csv']
    assert sorted(o.name for o in (d/'out').iterdir()) == written
    out, report = capsys.readouterr().out, (d/'out'/'report.md').read_text()
    assert out.startswith('# 2 runs, 100 images of 50 patients')
    assert report.startswith(out.strip()) and '![](roc.png)' in report
    assert len(pd.read_csv(d/'out'/'metrics.csv')) == 6
    assert json.loads((d/'out'/'run.json').read_text())['status'] == 'finished'
    for o in ('roc.png', 'reliability.png'):
        data = (d/'out'/o).read_bytes()
        assert data[:4] == b'\x89PNG' and len(data) > 10_000
    refers_evaluate('predictions', d/'trials.parquet', reference='random')
    assert '| random | refers |' in capsys.readouterr().out


def test_a_table_as_markdown():
    df = pd.DataFrame(dict(a=['x|y', None], b=[.12345, 1.23456e-9], c=[1, 2], d=[np.nan, 0.]))
    lines = ['| a | b | c | d |', '| --- | --- | --- | --- |', '| x\\|y | 0.1235 | 1 |  |', '|  | 1.2e-09 | 2 | 0.0000 |']
    assert markdown_table(df) == '\n'.join(lines)


def test_runs_that_cannot_be_compared_are_named(runs):
    d, y, s = runs
    df = pd.read_parquet(d/'a'/'predictions.parquet')
    one = (df.image == 'i3.png') & (df.label == 'Effusion')
    bad = {
        'other findings: Edema': df[df.label != 'Edema'],
        'other images: 1 are in one of them, i5.png': df[df.image != 'i5.png'],
        'two predictions of': pd.concat([df, df[:1]]),
        'no column patient': df.drop(columns='patient'),
        'other labels: i3.png, Effusion': df.assign(target=df.target.where(~one, 1 - df.target))}
    for word, o in bad.items():
        o.to_parquet(d/'bad.parquet')
        with pytest.raises(InputError, match=word): read_runs([d/'a', d/'bad.parquet'])
    (d/'bad.parquet').write_text('no parquet')
    for paths, word in (([d/'bad.parquet'], 'not a Parquet file'), ([d/'gone'], 'no such file'),
                        ([], 'at least one'), ([d/'a', d/'a'], 'two runs are called a')):
        with pytest.raises(InputError, match=word): read_runs(paths)


# Tables of label efficiency

FINDINGS = ('Effusion', 'Edema', 'Hernia')
STARTS = dict(refers='REFERS', c2l='C2L', random='ImageNet')

def write_set(folder, rng, seed, rare):
    "Predictions of three starts, two shares and four seeds, of which c2l lacks one; labels and scores by start, share, seed"
    y, s = simulated(160, FINDINGS, seed, methods=METHODS | dict(C2L=1.95))
    y[::7, 1] = np.nan
    if rare: y[:, 2] = np.arange(160) == 9                        # one positive: an AUROC, but no error
    noisy = {}
    for f in (.1, 1.):
        for k in range(4):
            for start, method in STARTS.items():
                if (start, k) == ('c2l', 3): continue
                noisy[start, f, k] = np.clip(s[method] + .15*rng.normal(size=y.shape), 0, 1)
    folder.mkdir()
    parts = [long_table(y, p, findings=FINDINGS, init=i, fraction=f, seed=k) for (i, f, k), p in noisy.items()]
    pd.concat(parts).to_parquet(folder/'predictions.parquet', index=False)
    return y, noisy


def test_the_tests_of_a_table_are_those_of_its_predictions(tmp_path):
    "Two data sets; two starts against one, a seed that one of them lacks, and Holm over four comparisons"
    rng = np.random.default_rng(3)
    sets = {name: write_set(tmp_path/name, rng, i, rare=name == 'y') for i, name in enumerate(('x', 'y'))}
    with pytest.raises(InputError, match='no results.csv'): efficiency_tests(tmp_path, 'refers')
    rows = [dict(dataset=n, init=i, fraction=f, seed=k, auroc=.5) for n, (_, o) in sets.items() for i, f, k in o]
    pd.DataFrame(rows).to_csv(tmp_path/'results.csv', index=False)
    res = efficiency_tests(tmp_path, 'refers')
    columns = 'dataset fraction a b difference low high p p_holm seeds verdict without'.split()
    assert list(res) == columns and len(res) == 8
    tested = ['difference', 'low', 'high', 'p']
    for o in res.itertuples():
        y, noisy = sets[o.dataset]
        c = 2 if o.dataset == 'y' else 3
        both = ([noisy[i, o.fraction, k][:, :c] for k in range(o.seeds)] for i in ('refers', o.b))
        want = seed_patient_test(y[:, :c], *both, np.arange(160)//2).loc['mean']
        assert o.a == 'refers' and o.seeds == (3 if o.b == 'c2l' else 4)
        assert (o.difference, o.low, o.high, o.p) == pytest.approx(tuple(want[tested]))
        better = 'refers better' if o.difference > 0 else 'refers worse'
        assert o.verdict == ('not significant' if o.p_holm >= .05 else better)
    assert res.without.tolist() == ['']*4 + ['Hernia']*4
    for _, g in res.groupby('dataset'): assert g.p_holm.tolist() == pytest.approx(holm(g.p).tolist())
    assert {'not significant', 'refers better'} == set(res.verdict)
    back = efficiency_tests(tmp_path, 'random').query("b == 'refers'")
    assert back.difference.tolist() == pytest.approx((-res[res.b == 'random'].difference).tolist())
    assert set(back.verdict) == {'random worse'}
