"Tables from predictions: the release in all its layouts, odd files, contradictions, tests against the definition, the paper's numbers; our own runs"
import json, os, re, shutil, signal, subprocess, sys, time
from pathlib import Path

import numpy as np, pandas as pd, pytest
from hypothesis import given, settings, strategies as st
from scipy.stats import norm, t as student
from sklearn.metrics import roc_auc_score

from refers_nb.cli import refers_evaluate
from refers_nb.core import InputError
from refers_nb.evaluation.experiments import efficiency_table, fingerprint, label_efficiency, plot_label_efficiency
from refers_nb.evaluation.compare import efficiency_tests, read_runs, run_metrics, run_tests, seed_tests
from refers_nb.evaluation.released import markdown_table, read_predictions, read_released, released, released_summary
from refers_nb.training.classifier import Classifier, encoder_from
from refers_nb.models.hub import save_checkpoint
from refers_nb.data.lists import NIH14, VINBIG
from refers_nb.evaluation.statistics import auroc_table, delong_test, holm, paired_seeds
from refers_nb.evaluation.calibration import metrics_table
from refers_nb.data.studies import label_names, patient_folds, read_studies

RELEASE = Path(__file__).resolve().parent.parent.parent/'shared'/'data'/'refers_release'
METHODS = dict(REFERS=2., C2L=1.4, ImageNet=.8)
COLUMNS = ['dataset', 'labels', 'method', 'finding', 'n', 'positives', 'auroc', 'low', 'high']


def simulated(n=120, findings=('Effusion', 'Edema'), seed=0, methods=METHODS):
    "Labels (n, c), and scores of each method"
    rng = np.random.default_rng(seed)
    y = (rng.random((n, len(findings))) < .3).astype(float)
    y[:2],y[2:4] = 1,0
    common = rng.normal(size=y.shape)
    return y,{m: (1/(1 + np.exp(1.5 - common - .5*rng.normal(size=y.shape) - g*y))).round(3) for m,g in methods.items()}


def write(folder, y, scores, findings=('Effusion', 'Edema'), line='{:.1f}\t{:.3f}\n'):
    "One folder a method, one file a finding"
    for m,s in scores.items():
        (folder/m).mkdir(parents=True, exist_ok=True)
        for j,f in enumerate(findings): (folder/m/f'{f}.txt').write_text(''.join(line.format(a, b) for a,b in zip(y[:, j], s[:, j])))
    return folder


# Layouts

@pytest.mark.parametrize('where,given,dataset,labels', [
    ('Results_of_fine-tuning/NIH ChestX-ray/data1', '.', 'NIH ChestX-ray', 1),
    ('Results_of_fine-tuning/NIH ChestX-ray/data10', 'Results_of_fine-tuning', 'NIH ChestX-ray', 10),
    ('Results_of_fine-tuning/NIH ChestX-ray/data100', 'Results_of_fine-tuning/NIH ChestX-ray', 'NIH ChestX-ray', 100),
    ('Results_of_fine-tuning/NIH ChestX-ray/data10', 'Results_of_fine-tuning/NIH ChestX-ray/data10', 'NIH ChestX-ray', 10),
    ('Results_of_fine-tuning/VinBigData Chest X-ray/code/data1', '.', 'VinBigData Chest X-ray', 1),
    ('VinBigData Chest X-ray/code/data1', 'VinBigData Chest X-ray/code', 'VinBigData Chest X-ray', 1),
    ('Shenzhen Tuberculosis/tuberculosis', 'Shenzhen Tuberculosis', 'Shenzhen Tuberculosis', 100),
    ('results_of_fine_tuning/Other set/task', '.', 'Other set', 100),
    ('My X-rays/10 %', '.', 'My X-rays', 10), ('My X-rays/10%', 'My X-rays', 'My X-rays', 10), ('a/My X-rays', 'a/My X-rays', 'My X-rays', 100)])
def test_data_set_share_and_method_come_from_the_folders(tmp_path, where, given, dataset, labels):
    y,s = simulated(40)
    write(tmp_path/'here'/where, y, s)
    t = released(tmp_path/'here'/given)
    assert list(t)[:9] == COLUMNS and len(t) == 9
    assert set(zip(t.dataset, t.labels)) == {(dataset, labels)} and t.method.tolist() == np.repeat(['REFERS', 'C2L', 'ImageNet'], 3).tolist()
    assert t.finding.tolist() == ['Edema', 'Effusion', 'mean']*3


def test_share_below_the_method_and_tasks_of_one_data_set(tmp_path):
    y,s = simulated(40)
    for share in (1, 10): write(tmp_path/'a'/'My set', y, {f'{m}/data{share}': o for m,o in s.items()})
    assert {(o.dataset, o.labels, *o.probs) for o in read_released(tmp_path/'a')} == {('My set', i, 'REFERS', 'C2L', 'ImageNet') for i in (1, 10)}
    for task,n in (('covid_others', 40), ('bacterial_viral', 30)):
        write(tmp_path/'b'/'COVID-19 Image Data Collection'/task, y[:n, :1], {m: o[:n, :1] for m,o in s.items() if (m, task) != ('REFERS', 'bacterial_viral')}, (task,))
    t = released(tmp_path/'b')
    assert set(zip(t.dataset, t.n)) == {('COVID-19 Image Data Collection/covid_others', 40), ('COVID-19 Image Data Collection/bacterial_viral', 30)}
    assert not t.duplicated(['dataset', 'labels', 'method', 'finding']).any()
    assert set(t.verdict[t.n == 30]) == {'no test'} and t.p[t.n == 30].isna().all()
    assert released(tmp_path/'b'/'COVID-19 Image Data Collection'/'covid_others').dataset.unique().tolist() == ['COVID-19 Image Data Collection']


def test_what_lies_beside_is_not_taken_for_predictions(tmp_path):
    y,s = simulated(40)
    write(tmp_path/'Results_of_fine-tuning'/'Set'/'data1', y, s)
    for o in ('LICENSE', 'DataProcessed/Set/test.txt', 'Fine-tune/requirements.txt', 'Results_of_fine-tuning/.DS_Store', 'Results_of_fine-tuning/Set/data1/.ipynb_checkpoints/x.txt',
              'Results_of_fine-tuning/Set/data1/REFERS/README.txt', 'Results_of_fine-tuning/Set/auc.txt', 'Results_of_fine-tuning/Set/data1/REFERS/curve.png'):
        (tmp_path/o).parent.mkdir(parents=True, exist_ok=True); (tmp_path/o).write_text('not a prediction')
    t = released(tmp_path)
    assert set(zip(t.dataset, t.method)) == {('Set', m) for m in METHODS}
    note, = t.attrs['notes']
    assert 'auc.txt' in note and 'README.txt' in note and 'auc.txt' in released_summary(t)


def test_other_case_spelling_and_spaces_are_one_finding_and_one_method(tmp_path):
    y,s = simulated(60)
    write(tmp_path/'Set', y, s)
    d = tmp_path/'Set'
    (d/'C2L'/'Effusion.txt').rename(d/'C2L'/'effusion.TXT'); (d/'ImageNet'/'Edema.txt').rename(d/'ImageNet'/'EDEMA .tsv'); (d/'REFERS').rename(d/'Refers')
    t = released(d)
    want = {m: roc_auc_score(y[:, 0], o[:, 0]) for m,o in s.items()}
    found = t[t.finding == 'Effusion'].set_index('method').auroc
    assert found['Refers'] == pytest.approx(want['REFERS']) and found['C2L'] == pytest.approx(want['C2L'])
    assert t.finding.nunique() == 3 and t.verdict[t.method == 'Refers'].eq('').all() and t.p[t.method == 'C2L'].notna().all()
    (d/'C2L'/'Effusion.txt').write_text((d/'C2L'/'effusion.TXT').read_text())
    with pytest.raises(InputError, match='same finding'): released(d)
    (d/'C2L'/'Effusion.txt').unlink(); write(d, y, dict(refers=s['REFERS']))
    with pytest.raises(InputError, match='same method'): released(d)


@pytest.mark.parametrize('make,word', [(lambda d: d.mkdir(), 'no files of predictions'), (lambda d: None, 'is no folder'), (lambda d: d.write_text('x'), 'is no folder'),
    (lambda d: write(d/'NIH ChestX-ray'/'data5', *simulated(20)), 'data5 is no share')])
def test_folders_that_cannot_be_read(tmp_path, make, word):
    make(tmp_path/'x')
    with pytest.raises(InputError, match=word): released(tmp_path/'x')


# Files

PLAIN = '0.0\t0.25\n1.0\t0.5\n0.0\t1.0\n'

@pytest.mark.parametrize('text', [PLAIN, PLAIN.replace('\t', ' '), PLAIN.replace('\n', '\r\n'), PLAIN.strip(), '\ufeff' + PLAIN, 'label\tprobability\n' + PLAIN, 'label prob\r\n' + PLAIN.replace('\n', ' \r\n'),
    '\n\n' + PLAIN.replace('\n', '\n\n'), PLAIN.replace('\t', ',').replace('.0,', ','), PLAIN.replace('\t', ' \t  '), '0\t2.5e-1\n1 5E-01\n0e0\t1.000e+00\n', PLAIN.replace('\n', '\r'), '"0","0.25"\n"1","0.5"\n"0","1"\n'])
def test_a_file_in_other_clothes_is_the_same_file(tmp_path, text):
    (tmp_path/'f.txt').write_bytes(text.encode())
    assert read_predictions(tmp_path/'f.txt').tolist() == [[0, 1, 0], [.25, .5, 1]]


@pytest.mark.parametrize('text,line,word', [('0 .1\n1 x\n', 2, 'expected a label and a probability'), ('0 .1\n1\n', 2, 'expected a label'), ('0 .1 3\n', 1, 'expected a label'), ('0 .1\n1 .2 .3\n', 2, 'expected a label'),
    ('0.25 1\n', 1, 'neither 0 nor 1; expected label'), ('0 .1\n\n2 .1\n', 3, 'neither'), ('0 .1\n1 1.5\n', 2, 'not between 0 and 1'), ('0 nan\n', 1, 'not between'), ('0 inf\n', 1, 'not between'),
    ('label prob\nlabel prob\n', 2, 'expected'), ('0 .1\nlabel prob\n', 2, 'expected'), ('word\n0 .1\n', 1, 'expected'), ('0 .1\n1 .2\x00\n', 2, 'expected')])
def test_a_bad_line_is_named(tmp_path, text, line, word):
    (tmp_path/'f.txt').write_text(text)
    with pytest.raises(InputError, match=rf'f\.txt:{line}: .*{word}'): read_predictions(tmp_path/'f.txt')


@pytest.mark.parametrize('data,word', [(b'', 'no predictions'), (b'\n \n', 'no predictions'), (b'label prob\n', 'no predictions'), (b'\xff\xfe0\x00 \x00', 'not UTF-8')])
def test_a_file_without_predictions_is_named(tmp_path, data, word):
    (tmp_path/'f.txt').write_bytes(data)
    with pytest.raises(InputError, match=rf'f\.txt: .*{word}'): read_predictions(tmp_path/'f.txt')


@settings(max_examples=60, deadline=None)
@given(st.text(alphabet='01.5-e ,\t\nnax"', max_size=30))
def test_any_text_is_read_or_refused(tmp_path_factory, text):
    "The fast and the slow way agree, whatever is in the file"
    p = tmp_path_factory.mktemp('t')/'f.txt'
    p.write_text(text)
    try: x = read_predictions(p)
    except InputError: return
    rows = [re.split(r'[\s,"]+', o.strip(' \t,"')) for o in text.split('\n') if o.strip(' \t,"')]
    rows = rows[len(rows) - x.shape[1]:]
    assert np.array_equal(x.T, np.array(rows, float), equal_nan=True) and set(x[0][~np.isnan(x[0])]) <= {0, 1} and ((0 <= x[1]) & (x[1] <= 1)).all()


def test_contradictions_are_named_with_file_and_line(tmp_path):
    y,s = simulated(50)
    d = write(tmp_path/'Set', y, s)
    lines = (d/'C2L'/'Edema.txt').read_text().splitlines()
    other = [('1.0' if o[0] == '0' else '0.0') + o[3:] for o in lines]
    (d/'C2L'/'Edema.txt').write_text('label prob\n\n' + '\n'.join([*lines[:7], *other[7:9], *lines[9:]]))
    with pytest.raises(InputError, match=r'C2L/Edema\.txt:10: label \d, but \d in .*REFERS/Edema\.txt:8; 2 of 50'): released(d)
    (d/'C2L'/'Edema.txt').write_text('\n'.join(lines[:-1]))
    with pytest.raises(InputError, match=r'C2L/Edema\.txt: 49 predictions, but .*REFERS/Edema\.txt has 50'): released(d)
    for m in METHODS: (d/m/'Edema.txt').write_text('\n'.join((d/m/'Edema.txt').read_text().splitlines()[:40]))
    with pytest.raises(InputError, match=r'REFERS/Effusion\.txt: 50 predictions, but .*REFERS/Edema\.txt has 40'): released(d)


# The table

def test_numbers_are_those_of_scikit_learn_and_the_definition(tmp_path):
    y,s = simulated()
    t = released(write(tmp_path/'Set', y, s)).set_index(['method', 'finding'])
    for m,o in s.items():
        for j,f in enumerate(('Effusion', 'Edema')):
            row = t.loc[m, f]
            assert row.auroc == pytest.approx(roc_auc_score(y[:, j], o[:, j])) and (row.n, row.positives) == (120, y[:, j].sum()) and row.patients is pd.NA
            assert row.low < row.auroc < row.high
        assert t.loc[(m, 'mean'), 'auroc'] == pytest.approx(t.loc[m].auroc[:2].mean()) and t.loc[(m, 'mean'), 'positives'] == y.sum()
    win = {m: np.sign(o[y[:, 0] == 1, 0][:, None] - o[y[:, 0] == 0, 0])/2 + .5 for m,o in s.items()}
    d = win['REFERS'] - win['C2L']
    se = np.sqrt(d.mean(1).var(ddof=1)/d.shape[0] + d.mean(0).var(ddof=1)/d.shape[1])
    row = t.loc['C2L', 'Effusion']
    assert row.difference == pytest.approx(d.mean()) and row.p == pytest.approx(2*norm.sf(abs(d.mean())/se))
    findings,means = t[(t.index.get_level_values(1) != 'mean')],t.xs('mean', level=1)
    assert np.allclose(findings.p_holm, holm(findings.p), equal_nan=True) and np.allclose(means.p_holm, holm(means.p), equal_nan=True)
    assert means.verdict['ImageNet'] == 'REFERS better' and means.verdict['REFERS'] == ''
    assert '| Set | 100 % | ImageNet |' in released_summary(t.reset_index()) and 'Differences of means: ' in released_summary(t.reset_index())


def test_the_verdict_follows_the_sign_and_the_level(tmp_path):
    y,s = simulated(methods=dict(REFERS=.5, Better=3., Same=.5))
    s['Same'] = s['REFERS']
    d = write(tmp_path/'Set', y, s)
    v = released(d).query("finding == 'mean'").set_index('method')
    assert v.verdict['Better'] == 'REFERS worse' and v.difference['Better'] < 0 and v.p['Same'] == 1 and v.verdict['Same'] == 'not significant'
    assert set(released(d, level=1e-300).verdict) == {'', 'not significant'}
    assert released(d, reference='better').verdict[1:].str.contains('better better').any() and released(d, reference='x').verdict.eq('no test').all()


def test_a_missing_file_is_named_and_the_comparison_is_over_what_both_have(tmp_path):
    y,s = simulated(100, ('A', 'B', 'C'))
    d = write(tmp_path/'Set', y, s, ('A', 'B', 'C'))
    (d/'C2L'/'B.txt').unlink(); (d/'REFERS'/'C.txt').unlink()
    t = released(d).set_index(['method', 'finding'])
    assert np.isnan(t.loc[('C2L', 'B'), 'auroc']) and t.loc[('C2L', 'B'), 'note'] == 'no file' and t.loc[('C2L', 'mean'), 'note'] == 'without B'
    assert t.loc[('C2L', 'mean'), 'auroc'] == pytest.approx(t.loc['C2L'].auroc[['A', 'C']].mean())
    assert t.loc[('C2L', 'mean'), 'difference'] == pytest.approx(t.loc[('C2L', 'A'), 'difference']) == pytest.approx(t.loc[('REFERS', 'A'), 'auroc'] - t.loc[('C2L', 'A'), 'auroc'])
    assert any('C2L has no file for B' in o for o in t.attrs['notes']) and 'without B' in released_summary(t.reset_index())


def test_a_finding_of_one_kind_is_nan_and_out_of_the_mean(tmp_path):
    y,s = simulated(80)
    y[:, 1] = 0
    t = released(write(tmp_path/'Set', y, s)).set_index(['method', 'finding'])
    assert t.xs('Edema', level=1).auroc.isna().all() and t.loc[('C2L', 'mean'), 'auroc'] == t.loc[('C2L', 'Effusion'), 'auroc']
    assert t.loc[('C2L', 'mean'), 'p'] == pytest.approx(t.loc[('C2L', 'Effusion'), 'p'])


# Split lists

def nih(folder, off=0):
    "Predictions of 90 images of 30 patients, with the list that names them"
    y,s = simulated(90, NIH14, methods=dict(REFERS=2., C2L=1.))
    write(folder/'Results_of_fine-tuning'/'NIH ChestX-ray'/'data10', y, s, NIH14)
    lists = folder/'DataProcessed'/'NIH_ChestX-ray'
    lists.mkdir(parents=True)
    y = y.copy(); y[:off, 3] = 1 - y[:off, 3]
    rows = [f'images_001/{i//3:08d}_{i%3:03d}.png ' + ' '.join(f'{o:.0f}' for o in r) for i,r in enumerate(y)]
    (lists/'test.txt').write_text('\n'.join(rows)); (lists/'val.txt').write_text('images_001/00009999_000.png ' + '0 '*14)
    return y,s


def test_image_names_and_patients_come_from_the_list(tmp_path):
    y,s = nih(tmp_path)
    a, = read_released(tmp_path)
    assert a.images[:2].tolist() == ['00000000_000.png', '00000000_001.png'] and a.patients[3] == '00000001' and a.labels == 10 and not a.notes
    t,g = released(tmp_path),np.arange(90)//3
    assert set(t.patients) == {30}
    order = [sorted(NIH14).index(o) for o in NIH14]
    want = auroc_table(y[:, np.argsort(order)], s['C2L'][:, np.argsort(order)], g)
    assert np.allclose(t[t.method == 'C2L'][['auroc', 'low', 'high']], want[['auroc', 'low', 'high']])
    p = delong_test(y, s['REFERS'], s['C2L'], g)
    assert t.p.iloc[-1] == pytest.approx(p.p['mean'])
    (tmp_path/'DataProcessed').rename(tmp_path/'lists')
    assert released(tmp_path).patients.isna().all() and set(released(tmp_path, tmp_path/'lists').patients) == {30}


def test_lists_that_are_not_there(tmp_path):
    write(tmp_path/'Set', *simulated(20))
    with pytest.raises(InputError, match='gone is no folder; give DataProcessed'): released(tmp_path/'Set', tmp_path/'gone')


def test_a_list_with_other_labels_names_nothing_and_says_so(tmp_path):
    nih(tmp_path, off=4)
    a, = read_released(tmp_path)
    assert a.images is None and a.patients is None and '4 labels are not those of the test list' in a.notes[0]


# Our own runs

def long(y, p, patients=None, findings=('Effusion', 'Edema'), **keys):
    "Predictions as `finetune` writes them"
    n,c = y.shape
    patients = np.arange(n)//2 if patients is None else patients
    cols = dict(image=np.repeat([f'i{o}.png' for o in range(n)], c), patient=np.repeat([f'p{o}' for o in patients], c), label=list(findings)*n, target=y.ravel(), probability=p.ravel(), split='test')
    return pd.DataFrame(cols | keys)


@pytest.fixture
def runs(tmp_path):
    "Two files of one run each, and one with two starts, two shares and three seeds"
    y,s = simulated(100)
    y[::9, 1] = np.nan
    for name,m in (('a', 'REFERS'), ('b', 'C2L')):
        (tmp_path/name).mkdir(); long(y, s[m]).sample(frac=1, random_state=0).to_parquet(tmp_path/name/'predictions.parquet', index=False)
    rng = np.random.default_rng(1)
    cells = [long(y, np.clip(s[m] + .1*rng.normal(size=y.shape), 0, 1), init=i, fraction=f, seed=k) for f in (.1, 1.) for k in range(3) for i,m in (('refers', 'REFERS'), ('random', 'ImageNet'))]
    pd.concat(cells).to_parquet(tmp_path/'cells.parquet', index=False)
    return tmp_path,y,s


def test_two_files_are_compared_image_by_image(runs):
    d,y,s = runs
    a = read_runs([d/'a', d/'b'/'predictions.parquet'])
    assert [o.name for o in a] == ['a', 'b'] and set(a[0].targets) == {'Effusion', 'Edema'}
    t,m,g = run_tests(a).set_index('finding'),run_metrics(a).set_index(['run', 'finding']),np.arange(100)//2
    want,p = metrics_table(y, s['C2L'], g, ['Effusion', 'Edema']),delong_test(y, s['REFERS'], s['C2L'], g, ['Effusion', 'Edema'])
    for f in ('Effusion', 'Edema', 'mean'):
        assert m.loc[('b', f), ['n', 'auroc', 'low', 'high', 'average_precision', 'ece']].tolist() == pytest.approx(want.loc[f, ['n', 'auroc', 'low', 'high', 'average_precision', 'ece']].tolist())
        assert t.loc[f, ['difference', 'p', 'p_holm']].tolist() == pytest.approx(p.loc[f, ['difference', 'p', 'p_holm']].tolist())
    assert run_tests(a, 'b').difference.tolist() == pytest.approx((-t.difference).tolist()) and seed_tests(m.reset_index()).empty


def test_starts_are_compared_within_share_and_seed_and_across_seeds(runs):
    d,y,s = runs
    a = read_runs([d/'cells.parquet'])
    m,t = run_metrics(a),run_tests(a)
    assert len(a) == 12 and len(t) == 6*3 and set(zip(t.a, t.b)) == {('refers', 'random')}
    e = seed_tests(m).set_index('fraction')
    for f in (.1, 1.):
        x = m[(m.finding == 'mean') & (m.fraction == f)].pivot(index='seed', columns='run', values='auroc')
        want = paired_seeds(x['refers'], x['random'])
        assert e.loc[f, ['difference', 'p', 'p_sign']].tolist() == pytest.approx(want[['difference', 'p', 'p_sign']].tolist()) and e.seeds[f] == 3
    assert seed_tests(m, 'random').difference.tolist() == pytest.approx((-e.difference).tolist())
    with pytest.raises(InputError, match='no run is called gone'): run_tests(a, 'gone')


def test_everything_is_written(runs, capsys):
    d = runs[0]
    refers_evaluate('predictions', d/'a', d/'b', out=d/'out')
    assert sorted(o.name for o in (d/'out').iterdir()) == ['metrics.csv', 'reliability.png', 'report.md', 'roc.png', 'run.json', 'seeds.csv', 'tests.csv']
    out,report = capsys.readouterr().out,(d/'out'/'report.md').read_text()
    assert out.startswith('# 2 runs, 100 images of 50 patients') and report.startswith(out.strip()) and '![](roc.png)' in report
    assert len(pd.read_csv(d/'out'/'metrics.csv')) == 6 and json.loads((d/'out'/'run.json').read_text())['status'] == 'finished'
    for o in ('roc.png', 'reliability.png'): assert (d/'out'/o).read_bytes()[:4] == b'\x89PNG' and (d/'out'/o).stat().st_size > 10_000
    refers_evaluate('predictions', d/'cells.parquet', reference='random')
    assert '| random | refers |' in capsys.readouterr().out
    assert markdown_table(pd.DataFrame(dict(a=['x|y', None], b=[.12345, 1.23456e-9], c=[1, 2], d=[np.nan, 0.]))) == '| a | b | c | d |\n| --- | --- | --- | --- |\n| x\\|y | 0.1235 | 1 |  |\n|  | 1.2e-09 | 2 | 0.0000 |'


def test_runs_that_cannot_be_compared_are_named(runs):
    d,y,s = runs
    df = pd.read_parquet(d/'a'/'predictions.parquet')
    bad = {'other findings: Edema': df[df.label != 'Edema'], 'other images: 1 are in one of them, i5.png': df[df.image != 'i5.png'], 'two predictions of': pd.concat([df, df[:1]]), 'no column patient': df.drop(columns='patient'),
           'other labels: i3.png, Effusion': df.assign(target=df.target.where((df.image != 'i3.png') | (df.label != 'Effusion'), 1 - df.target))}
    for word,o in bad.items():
        o.to_parquet(d/'bad.parquet')
        with pytest.raises(InputError, match=word): read_runs([d/'a', d/'bad.parquet'])
    (d/'bad.parquet').write_text('no parquet')
    for paths,word in (([d/'bad.parquet'], 'not a Parquet file'), ([d/'gone'], 'no such file'), ([], 'at least one'), ([d/'a', d/'a'], 'two runs are called a')):
        with pytest.raises(InputError, match=word): read_runs(paths)


# The experiment runner

WORK = """
import sys
from pathlib import Path
from refers_nb.evaluation import experiments as evaluate
def main():
    kwargs = eval(sys.argv[3])
    evaluate.label_efficiency(Path(sys.argv[1]), dict(a='random', b='random'), sys.argv[2], **kwargs)
if __name__ == '__main__': main()
"""
FEW = dict(steps=4, bs=8, evals=1, size=32)


@pytest.fixture(scope='module')
def phantoms(tmp_path_factory):
    "Prepared phantoms, and one table of eight cells, trained here"
    from refers_nb.data.prepare import prepare
    d = tmp_path_factory.mktemp('cells')
    prepare('phantom', 60, d/'data', size=32, valid=.2, test=.5, workers=1)
    res = label_efficiency(d/'data', dict(a='random', b='random'), d/'whole', fractions=(.5, 1.), seeds=(0, 1), **FEW)
    return d/'data',res,pd.read_parquet(d/'whole'/'predictions.parquet')


def same(found, want):
    pd.testing.assert_frame_equal(found, want, rtol=1e-4, atol=1e-4)


def processes(word):
    "Process ids whose command line or environment holds `word`"
    res = []
    for p in Path('/proc').glob('[0-9]*'):
        try: text = (p/'cmdline').read_bytes() + (p/'environ').read_bytes()
        except OSError: continue
        if word.encode() in text and int(p.name) != os.getpid(): res.append(int(p.name))
    return res


@pytest.mark.skipif(not Path('/proc/self/environ').exists(), reason='looks for processes in /proc')
def test_two_processes_killed_leave_nobody_behind_and_the_next_call_goes_on(phantoms, tmp_path):
    data,want,predictions = phantoms
    args,mark = dict(fractions=(.5, 1.), seeds=(0, 1), jobs=2, **FEW),f'mark-{os.getpid()}'
    env = dict(os.environ, OMP_NUM_THREADS='1', REFERS_NB_TEST=mark)
    p = subprocess.Popen([sys.executable, '-c', WORK, str(data), str(tmp_path), repr(args)], env=env, stderr=subprocess.DEVNULL)
    cells = lambda: {o: o.stat().st_mtime_ns for o in (tmp_path/'cells').glob('*.json')}
    began = time.monotonic()
    while len(cells()) < 3 and p.poll() is None and time.monotonic() - began < 120: time.sleep(.02)
    assert p.poll() is None and len(processes(mark)) >= 3, 'it was at work in two processes'
    p.send_signal(signal.SIGKILL); p.wait()
    began = time.monotonic()
    while processes(mark) and time.monotonic() - began < 10: time.sleep(.2)
    assert not processes(mark)
    done = cells()
    assert 3 <= len(done) < 8 and not (tmp_path/'results.csv').exists()
    same(label_efficiency(data, dict(a='random', b='random'), tmp_path, **(args | dict(jobs=1))), want)
    assert {o: t for o,t in cells().items() if o in done} == done and len(cells()) == 8
    same(pd.read_parquet(tmp_path/'predictions.parquet'), predictions)


def test_two_workers_of_dask_give_the_rows_of_one_process(phantoms, tmp_path, monkeypatch):
    distributed = pytest.importorskip('distributed')
    from joblib import parallel_config
    data,want,_ = phantoms
    monkeypatch.setenv('OMP_NUM_THREADS', '1'); monkeypatch.chdir(data.parent)
    with distributed.LocalCluster(n_workers=2, threads_per_worker=2, dashboard_address=':0') as cluster, distributed.Client(cluster), parallel_config(backend='dask'):
        res = label_efficiency('data', dict(a='random', b='random'), tmp_path, fractions=(1.,), seeds=(0, 1), **FEW)       # a relative path
        with pytest.raises(InputError, match='no labels for gout'): label_efficiency(data, dict(a='random'), tmp_path/'x', findings=['gout'], **FEW)
    same(res, want[want.fraction == 1.].reset_index(drop=True))
    assert json.loads((tmp_path/'cells'/'a_1_0.json').read_text())['fingerprint'] == json.loads((data.parent/'whole'/'cells'/'a_1_0.json').read_text())['fingerprint']


def test_threads_do_not_share_random_numbers(phantoms, tmp_path, monkeypatch):
    from joblib import parallel_config
    data,want,_ = phantoms
    monkeypatch.chdir(tmp_path); (tmp_path/'random').mkdir()                             # is not what is meant by the start of this name
    with parallel_config(backend='threading', n_jobs=2): res = label_efficiency(data, dict(a='random', b='random'), tmp_path, fractions=(1.,), seeds=(0, 1), **FEW)
    same(res, want[want.fraction == 1.].reset_index(drop=True))


def test_parts_together_are_the_whole(phantoms, tmp_path):
    data,want,predictions = phantoms
    call = lambda **kw: label_efficiency(data, dict(a='random', b='random'), tmp_path, fractions=(.5, 1.), seeds=(0, 1), **FEW, **kw)
    none = call(shard='9/9')                                                             # more parts than cells
    assert len(none) == 0 and none.attrs['cells'] == 8
    parts = [call(shard=f'{i}/3') for i in (3, 1)]
    assert [len(o) for o in parts] == [2, 5] and parts[0].attrs['cells'] == 8 and not (tmp_path/'results.csv').exists()
    same(call(shard='2/3'), want)
    same(pd.read_csv(tmp_path/'results.csv'), want); same(pd.read_parquet(tmp_path/'predictions.parquet'), predictions)
    assert len(call(shard='8/8')) == 8                                                   # nothing to do


def test_several_sets_are_tables_of_their_own(phantoms, tmp_path):
    data,want,_ = phantoms
    one = dict(fractions=(1.,), seeds=(0, 1, 2))
    with pytest.warns(UserWarning, match='gone is left out: .*no checkpoint'):
        res = label_efficiency(dict(b=data, a=dict(table=data, findings=['edema', 'consolidation'], steps={1.: 5})), dict(a='random', gone=tmp_path/'gone'), tmp_path/'two', **one, **FEW)
    assert list(res) == ['dataset', 'init', 'fraction', 'seed', 'auroc'] and res.dataset.tolist() == ['b']*3 + ['a']*3 and res.init.eq('a').all()
    same(pd.read_csv(tmp_path/'two'/'results.csv'), res)
    alone = label_efficiency(data, dict(a='random'), tmp_path/'two'/'b', **one, **FEW)                      # found done: a set's folder is a table's folder
    same(alone, res[res.dataset == 'b'].drop(columns='dataset'))
    assert set(pd.read_parquet(tmp_path/'two'/'a'/'predictions.parquet').label) == {'edema', 'consolidation'}
    cell = json.loads((tmp_path/'two'/'a'/'cells'/'a_1_0.json').read_text())
    assert cell['fingerprint'] == fingerprint(data, 'random', fraction=1., seed=0, **(FEW | dict(steps=5)), findings=['edema', 'consolidation'])
    table,fig = efficiency_table(res),plot_label_efficiency(res)
    assert table.index.tolist() == [('b', 'a'), ('a', 'a')] and [o.get_title() for o in fig.axes] == ['b', 'a']
    x = res[res.dataset == 'b'].auroc
    assert table.loc[('b', 'a'), '100%'] == f'{x.mean():.3f} ± {x.std():.3f}'
    low,high = fig.axes[0].collections[0].get_paths()[0].vertices[:, 1].min(),fig.axes[0].collections[0].get_paths()[0].vertices[:, 1].max()
    assert (low, high) == pytest.approx(student.interval(.95, 2, x.mean(), x.std()/np.sqrt(3)))


def test_the_bar_counts_what_is_found_done(phantoms, tmp_path, monkeypatch, capsys):
    data = phantoms[0]
    call = lambda seeds: label_efficiency(data, dict(a='random'), tmp_path, fractions=(1.,), seeds=seeds, **FEW)
    call((0, 1))
    monkeypatch.setenv('REFERS_NB_PROGRESS', '1')
    call((0, 1, 2))
    assert re.search(r'fine-tuning: +67%.* 2/3', capsys.readouterr().err.split('\r')[1])


@pytest.mark.parametrize('change,word', [(dict(shard='0/2'), 'as in 2/8'), (dict(shard='3/2'), 'as in 2/8'), (dict(shard='two'), 'as in 2/8'), (dict(table={}), 'no data set'), (dict(table={'a/b': 1}), 'name of a data set'),
    (dict(table=dict(a=dict(steps=3))), 'data set a: no table'), (dict(starts={'a b': 'random'}), 'name of a start'), (dict(starts=dict(a=None)), 'there is none'), (dict(starts=dict(a='/nowhere/x')), 'no checkpoint'),
    (dict(findings=['gout']), 'no labels for gout'), (dict(seeds=(0, 0, 1)), 'given twice'), (dict(fractions=(1., 1)), 'given twice')])
def test_what_cannot_be_run_is_said_before_anything_runs(phantoms, tmp_path, change, word):
    args = dict(table=phantoms[0], starts=dict(a='random'), out=tmp_path/'x', **FEW) | change
    with pytest.raises(InputError, match=word): label_efficiency(**args)
    assert not (tmp_path/'x').exists()


def test_starts_of_a_comparison_are_alike(phantoms, tmp_path):
    data,*_ = phantoms
    save_checkpoint(Classifier.on(encoder_from('random', 48), ['x']), None, tmp_path/'own')
    few = {k: v for k,v in FEW.items() if k != 'size'}
    with pytest.raises(InputError, match=r'own is vit_tiny_patch16_224 at 48 pixels, random is vit_tiny_patch16_224 at 224 pixels. Give size='):
        label_efficiency(data, dict(own=tmp_path/'own', random='random'), tmp_path/'out', (1.,), (0,), **few)
    assert not list((tmp_path/'out').rglob('*.json'))
    res = label_efficiency(data, dict(own=tmp_path/'own', random='random'), tmp_path/'out', (1.,), (0,), **FEW)
    assert res['init'].tolist() == ['own', 'random']


def test_no_old_table_beside_new_cells(phantoms, tmp_path):
    data,*_ = phantoms
    args = data,dict(a='random'),tmp_path,(1.,),(0, 1)
    label_efficiency(*args, **FEW)
    label_efficiency(*args, **dict(FEW, steps=2), shard='1/2')
    assert not (tmp_path/'results.csv').exists() and not (tmp_path/'predictions.parquet').exists()
    with pytest.raises(InputError, match='no results.csv'): efficiency_tests(tmp_path, 'a')
    (tmp_path/'cells'/'a_1_0.json').write_text('')                       # a power cut
    (tmp_path/'cells'/'a_1_1.parquet').unlink(missing_ok=True)
    assert len(label_efficiency(*args, **dict(FEW, steps=2))) == 2 and (tmp_path/'results.csv').exists()


def test_a_cell_knows_the_images_behind_its_table(phantoms, tmp_path):
    data,*_ = phantoms
    shutil.copytree(data, tmp_path/'other')
    assert fingerprint(data, 'random') == fingerprint(tmp_path/'other', 'random')
    index = pd.read_parquet(tmp_path/'other'/'index.parquet')
    index.assign(height=index['height'] + 1).to_parquet(tmp_path/'other'/'index.parquet')
    assert fingerprint(data, 'random') != fingerprint(tmp_path/'other', 'random')
    df = read_studies(data)
    assert fingerprint(df, 'random', store=data) != fingerprint(df, 'random', store=tmp_path/'other')


def test_parts_of_a_cross_validation_are_tested_as_such(phantoms, tmp_path):
    data,*_ = phantoms
    finding = label_names(df := read_studies(data))[0]
    folds = patient_folds(df, finding, 3, valid=.25)
    assert sorted(pd.concat([o[o['split'] == 'test'] for o in folds])['path']) == sorted(df['path'])
    res = label_efficiency(dict(x=dict(table=folds, store=data)), dict(a='random', b='random'), tmp_path, (1.,), (0, 1, 2), findings=[finding], **FEW)
    p = pd.read_parquet(tmp_path/'x'/'predictions.parquet')
    assert p.groupby('seed')['image'].unique().map(set).tolist() == [set(o.loc[(o['split'] == 'test') & (o['view'] != 'LATERAL'), 'path']) for o in folds]
    t = efficiency_tests(tmp_path, 'a').iloc[0]
    assert t['dataset'] == 'x' and t['seeds'] == 3 and t['difference'] == pytest.approx(0, abs=1e-4), 'the same start twice'
    mixed = pd.concat([p[p['seed'] == 0], p[p['seed'] == 0].assign(seed=1).iloc[1:], p[p['seed'] == 2]])
    mixed.to_parquet(tmp_path/'x'/'predictions.parquet')
    with pytest.raises(InputError, match='some of the same patients'): efficiency_tests(tmp_path, 'a')
    assert len(res) == 6


@pytest.mark.parametrize('args,word', [((dict(finding='effusions')), 'no labels for effusions'), (dict(k=1), '1 folds of'), (dict(valid=0), 'valid is 0'), (dict(valid=.7), 'valid is 0.7'), (dict(k=30), '240 patients for these')])
def test_folds_that_cannot_be(phantoms, args, word):
    df = read_studies(phantoms[0])
    with pytest.raises(InputError, match=word): patient_folds(df, **dict(finding=label_names(df)[0]) | args)


def test_the_tests_of_a_table_are_those_of_its_predictions(tmp_path):
    "Two data sets; two starts against one, a seed that one of them lacks, and Holm over four comparisons"
    from refers_nb.evaluation.statistics import seed_patient_test
    rng,sets,F = np.random.default_rng(3),{},('Effusion', 'Edema', 'Hernia')
    for name in ('x', 'y'):
        y,s = simulated(160, F, len(sets), methods=METHODS | dict(C2L=1.95))
        y[::7, 1] = np.nan
        y[:, 2] = (np.arange(160) == 9) if name == 'y' else y[:, 2]                       # one positive: an AUROC, but no error
        noisy = {(i, f, k): np.clip(s[m] + .15*rng.normal(size=y.shape), 0, 1) for f in (.1, 1.) for k in range(4) for i,m in (('refers', 'REFERS'), ('c2l', 'C2L'), ('random', 'ImageNet')) if (i, k) != ('c2l', 3)}
        (tmp_path/name).mkdir()
        pd.concat([long(y, p, findings=F, init=i, fraction=f, seed=k) for (i,f,k),p in noisy.items()]).to_parquet(tmp_path/name/'predictions.parquet', index=False)
        sets[name] = y,noisy
    with pytest.raises(InputError, match='no results.csv'): efficiency_tests(tmp_path, 'refers')
    pd.DataFrame([dict(dataset=n, init=i, fraction=f, seed=k, auroc=.5) for n,(_,o) in sets.items() for i,f,k in o]).to_csv(tmp_path/'results.csv', index=False)
    res = efficiency_tests(tmp_path, 'refers')
    assert list(res) == ['dataset', 'fraction', 'a', 'b', 'difference', 'low', 'high', 'p', 'p_holm', 'seeds', 'verdict', 'without'] and len(res) == 8
    for o in res.itertuples():
        c,(y,noisy) = 2 if o.dataset == 'y' else 3,sets[o.dataset]
        want = seed_patient_test(y[:, :c], *([noisy[i, o.fraction, k][:, :c] for k in range(o.seeds)] for i in ('refers', o.b)), np.arange(160)//2).loc['mean']
        assert o.a == 'refers' and o.seeds == (3 if o.b == 'c2l' else 4) and (o.difference, o.low, o.high, o.p) == pytest.approx(tuple(want[['difference', 'low', 'high', 'p']]))
        assert o.verdict == ('not significant' if o.p_holm >= .05 else 'refers better' if o.difference > 0 else 'refers worse')
    assert res.without.tolist() == ['']*4 + ['Hernia']*4
    for _,g in res.groupby('dataset'): assert g.p_holm.tolist() == pytest.approx(holm(g.p).tolist())
    assert {'not significant', 'refers better'} == set(res.verdict)
    back = efficiency_tests(tmp_path, 'random').query("b == 'refers'")
    assert back.difference.tolist() == pytest.approx((-res[res.b == 'random'].difference).tolist()) and set(back.verdict) == {'random worse'}


# The command (notebook 46 runs it as a process)

def test_the_command_writes_the_table_and_says_what_is_significant(tmp_path, capsys):
    y,s = simulated(60)
    write(tmp_path/'Set'/'data10', y, s)
    refers_evaluate('released', tmp_path/'Set', out=tmp_path/'new'/'t.csv')
    out,err = capsys.readouterr()
    assert out.startswith('| data set |') and 'Differences of means' in out and not err
    t = pd.read_csv(tmp_path/'new'/'t.csv', keep_default_na=True)
    assert list(t)[:9] == COLUMNS and set(t.labels) == {10} and t.labels.dtype == int
    pd.testing.assert_frame_equal(t, released(tmp_path/'Set').replace('', None).astype(dict(patients=float)), check_dtype=False)


@pytest.mark.parametrize('args,word', [(('released',), 'one folder'), (('released', 'a', 'b'), 'one folder'), (('released', 'gone'), 'gone is no folder'), (('imaginary', 'a'), 'imaginary: expected'),
                                       (('predictions',), 'one or more runs'), (('predictions', 'gone.parquet'), 'no such file')])
def test_the_command_refuses_in_one_line(capsys, args, word):
    with pytest.raises(SystemExit) as e: refers_evaluate(*args)
    out,err = capsys.readouterr()
    assert e.value.code == 1 and not out and len(err.splitlines()) == 1 and word in err and err.startswith('refers-evaluate: ')


# The release itself

PAPER = {'VinBigData Chest X-ray': (3000, 1, dict(REFERS=.8109, C2L=.7511, TransVW=.7360, MG=.7069, CR=.6811, ImageNet=.6956)),
         'Shenzhen Tuberculosis': (132, 100, dict(REFERS=.9790, C2L=.9553, TransVW=.9420, MG=.9487, CR=.9266, ImageNet=.9445)),
         'COVID-19 Image Data Collection/covid_others': (172, 100, dict(REFERS=.8215, C2L=.7773, TransVW=.7606, MG=.7601, CR=.7456, ImageNet=.7533))}

def test_the_papers_numbers():
    if not RELEASE.is_dir(): pytest.skip(f'the release (../shared/data/{RELEASE.name}) is not here')
    t = released(RELEASE)
    mean = t[t.finding == 'mean'].set_index(['dataset', 'method'])
    for d,(n,labels,want) in PAPER.items():
        for m,v in want.items(): assert abs(mean.auroc[d, m] - v) <= 1e-4 and (mean.n[d, m], mean.labels[d, m]) == (n, labels)
    assert (mean.low < mean.auroc).all() and (mean.auroc < mean.high).all() and t.note.eq('').all()
    vin = {re.sub(r'\W', '', o).lower() for o in t.finding[t.dataset == 'VinBigData Chest X-ray']}
    assert vin == {re.sub(r'\W', '', o).lower() for o in [*VINBIG, 'mean']}
    # Clear where 3,000 images are, open where 132 or 172 are
    verdicts = mean[mean.index.get_level_values(1) != 'REFERS'].groupby('dataset').verdict.unique().map(list).to_dict()
    assert verdicts == {'VinBigData Chest X-ray': ['REFERS better'], 'Shenzhen Tuberculosis': ['not significant'],
                        'COVID-19 Image Data Collection/covid_others': ['not significant'], 'COVID-19 Image Data Collection/bacterial_viral': ['no test']}
    sets = {o.dataset: o for o in read_released(RELEASE)}
    assert sets['VinBigData Chest X-ray'].images[0] == '7c3fb9bf622d400c454d0a6b39a1b484.png' and sets['Shenzhen Tuberculosis'].images[0] == 'CHNCXR_0262_0.png'
    assert sets['COVID-19 Image Data Collection/covid_others'].images is not None and sets['COVID-19 Image Data Collection/bacterial_viral'].images is None
