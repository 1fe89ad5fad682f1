"The experiment runner: killed, shared among processes, machines and shards, and what it refuses before it runs"
import json, os, re, shutil, signal, subprocess, sys, time
from pathlib import Path

import pandas as pd, pytest
from scipy.stats import sem, t as student

from refers_nb.core import InputError
from refers_nb.data.studies import label_names, patient_folds, read_studies
from refers_nb.evaluation import experiments
from refers_nb.evaluation.compare import efficiency_tests
from refers_nb.evaluation.experiments import efficiency_table, label_efficiency, plot_label_efficiency
from refers_nb.evaluation.fingerprint import fingerprint
from refers_nb.models.hub import save_checkpoint
from refers_nb.training.classifier import Classifier
from refers_nb.training.starts import encoder_from

WORK = """
import sys
from pathlib import Path
from refers_nb.evaluation.experiments import label_efficiency
def main():
    kwargs = eval(sys.argv[3])
    label_efficiency(Path(sys.argv[1]), dict(a='random', b='random'), sys.argv[2], **kwargs)
if __name__ == '__main__': main()
"""
FEW = dict(steps=4, bs=8, evals=1, size=32, arch=dict(name='test_vit', in_chans=1))
STARTS = dict(a='random', b='random')
TWO = dict(fractions=(.5, 1.), seeds=(0, 1))


@pytest.fixture(scope='module')
def phantoms(tmp_path_factory):
    "Prepared phantoms, and a table of eight trials of which four are trained here: `b` is `a` once more"
    from refers_nb.data.prepare import prepare
    d = tmp_path_factory.mktemp('trials')
    prepare('phantom', 60, d/'data', size=32, valid=.2, test=.5, workers=1)
    res = label_efficiency(d/'data', dict(a='random'), d/'whole', **TWO, **FEW)
    predictions = pd.read_parquet(d/'whole'/'predictions.parquet')
    return d/'data', twice(res), twice(predictions)


def twice(df): return pd.concat([df, df.assign(init='b')], ignore_index=True)


def of_a(df): return df[df['init'] == 'a']


def same(found, want): pd.testing.assert_frame_equal(found, want, rtol=1e-4, atol=1e-4)


def full(want): return want[want.fraction == 1.].reset_index(drop=True)


def times(folder): return {o: o.stat().st_mtime_ns for o in (folder/'trials').glob('*.json')}


# Stopped, and gone on

def test_a_run_that_fails_in_the_middle_goes_on_with_what_is_missing(phantoms, tmp_path, monkeypatch):
    data, want, predictions = phantoms
    real, ran = experiments.run_trial, []
    def failing(trial):
        if len(ran) == 2: raise OSError('no space left on device')
        ran.append(trial)
        real(trial)
    monkeypatch.setattr(experiments, 'run_trial', failing)
    one = dict(a='random')
    with pytest.raises(OSError, match='no space'): label_efficiency(data, one, tmp_path, **TWO, **FEW)
    monkeypatch.undo()
    done = times(tmp_path)
    assert len(done) == 2 and not (tmp_path/'results.csv').exists()
    same(label_efficiency(data, one, tmp_path, **TWO, **FEW), of_a(want))
    assert {o: t for o, t in times(tmp_path).items() if o in done} == done and len(times(tmp_path)) == 4
    same(pd.read_parquet(tmp_path/'predictions.parquet'), of_a(predictions))


def processes(word):
    "Process ids whose command line or environment holds `word`"
    res = []
    for p in Path('/proc').glob('[0-9]*'):
        try: text = (p/'cmdline').read_bytes() + (p/'environ').read_bytes()
        except OSError: continue
        if word.encode() in text and int(p.name) != os.getpid(): res.append(int(p.name))
    return res


def wait(until, seconds):
    "Until something is true, or the time is over"
    began = time.monotonic()
    while not until() and time.monotonic() - began < seconds: time.sleep(.02)


@pytest.mark.slow
@pytest.mark.skipif(not Path('/proc/self/environ').exists(), reason='looks for processes in /proc')
def test_two_processes_killed_leave_nobody_behind_and_the_next_call_goes_on(phantoms, tmp_path):
    data, want, predictions = phantoms
    args, mark = dict(TWO, jobs=2, **FEW), f'mark-{os.getpid()}'
    env = dict(os.environ, OMP_NUM_THREADS='1', REFERS_NB_TEST=mark)
    command = [sys.executable, '-c', WORK, str(data), str(tmp_path), repr(args)]
    p = subprocess.Popen(command, env=env, stderr=subprocess.DEVNULL)
    wait(lambda: len(times(tmp_path)) >= 3 or p.poll() is not None, 120)
    assert p.poll() is None and len(processes(mark)) >= 3, 'it was at work in two processes'
    p.send_signal(signal.SIGKILL)
    p.wait()
    wait(lambda: not processes(mark), 10)
    assert not processes(mark)
    done = times(tmp_path)
    assert 3 <= len(done) < 8 and not (tmp_path/'results.csv').exists()
    same(label_efficiency(data, STARTS, tmp_path, **dict(args, jobs=1)), want)
    assert {o: t for o, t in times(tmp_path).items() if o in done} == done and len(times(tmp_path)) == 8
    same(pd.read_parquet(tmp_path/'predictions.parquet'), predictions)


# Whoever runs them, the numbers are the same

@pytest.mark.slow
def test_two_workers_of_dask_give_the_rows_of_one_process(phantoms, tmp_path, monkeypatch):
    distributed = pytest.importorskip('distributed')
    from joblib import parallel_config
    data, want, _ = phantoms
    monkeypatch.setenv('OMP_NUM_THREADS', '1')
    monkeypatch.chdir(data.parent)
    local = distributed.LocalCluster(n_workers=2, threads_per_worker=2, dashboard_address=':0')
    with local as cluster, distributed.Client(cluster), parallel_config(backend='dask'):
        res = label_efficiency('data', STARTS, tmp_path, fractions=(1.,), seeds=(0, 1), **FEW)   # a relative path
        with pytest.raises(InputError, match='no labels for gout'):
            label_efficiency(data, dict(a='random'), tmp_path/'x', findings=['gout'], **FEW)
    same(res, full(want))
    rows = [json.loads((o/'trials'/'a_1_0.json').read_text()) for o in (tmp_path, data.parent/'whole')]
    assert rows[0]['fingerprint'] == rows[1]['fingerprint']


def test_threads_do_not_share_random_numbers(phantoms, tmp_path, monkeypatch):
    from joblib import parallel_config
    data, want, _ = phantoms
    monkeypatch.chdir(tmp_path)
    (tmp_path/'random').mkdir()                             # is not what is meant by the start of this name
    with parallel_config(backend='threading', n_jobs=2):
        res = label_efficiency(data, STARTS, tmp_path, fractions=(1.,), seeds=(0, 1), **FEW)
    same(res, full(want))


def test_shards_together_are_the_whole(phantoms, tmp_path):
    data, want, predictions = phantoms
    def call(shard): return label_efficiency(data, dict(a='random'), tmp_path, shard=shard, **TWO, **FEW)
    none = call('5/5')                                      # more shards than trials
    assert len(none) == 0 and none.attrs['trials'] == 4
    parts = [call(f'{i}/3') for i in (3, 1)]
    assert [len(o) for o in parts] == [1, 3] and parts[0].attrs['trials'] == 4
    assert not (tmp_path/'results.csv').exists()
    same(call('2/3'), of_a(want))
    same(pd.read_csv(tmp_path/'results.csv'), of_a(want))
    same(pd.read_parquet(tmp_path/'predictions.parquet'), of_a(predictions))
    assert len(call('4/4')) == 4                            # nothing to do


def test_several_sets_are_tables_of_their_own(phantoms, tmp_path):
    data, want, _ = phantoms
    one = dict(fractions=(1.,), seeds=(0, 1, 2))
    two = ['edema', 'consolidation']
    sets = dict(b=data, a=dict(table=data, findings=two, steps={1.: 5}))
    with pytest.warns(UserWarning, match='gone is left out: .*no checkpoint'):
        res = label_efficiency(sets, dict(a='random', gone=tmp_path/'gone'), tmp_path/'two', **one, **FEW)
    assert list(res) == ['dataset', 'init', 'fraction', 'seed', 'auroc']
    assert res.dataset.tolist() == ['b']*3 + ['a']*3 and res.init.eq('a').all()
    same(pd.read_csv(tmp_path/'two'/'results.csv'), res)
    alone = label_efficiency(data, dict(a='random'), tmp_path/'two'/'b', **one, **FEW)   # found done
    same(alone, res[res.dataset == 'b'].drop(columns='dataset'))
    assert set(pd.read_parquet(tmp_path/'two'/'a'/'predictions.parquet').label) == set(two)
    row = json.loads((tmp_path/'two'/'a'/'trials'/'a_1_0.json').read_text())
    assert row['fingerprint'] == fingerprint(data, 'random', fraction=1., seed=0, **dict(FEW, steps=5), findings=two)
    table, fig = efficiency_table(res), plot_label_efficiency(res)
    assert table.index.tolist() == [('b', 'a'), ('a', 'a')] and [o.get_title() for o in fig.axes] == ['b', 'a']
    x = res[res.dataset == 'b'].auroc
    assert table.loc[('b', 'a'), '100%'] == f'{x.mean():.3f} ± {x.std():.3f}'
    band = fig.axes[0].collections[0].get_paths()[0].vertices[:, 1]
    assert (band.min(), band.max()) == pytest.approx(student.interval(.95, 2, x.mean(), sem(x)))


def test_the_bar_counts_what_is_found_done(phantoms, tmp_path, monkeypatch, capsys):
    def call(seeds): label_efficiency(phantoms[0], dict(a='random'), tmp_path, fractions=(1.,), seeds=seeds, **FEW)
    call((0, 1))
    monkeypatch.setenv('REFERS_NB_PROGRESS', '1')
    call((0, 1, 2))
    assert re.search(r'fine-tuning: +67%.* 2/3', capsys.readouterr().err.split('\r')[1])


def test_a_log_file_tells_each_trial_with_the_time_that_is_left(phantoms, tmp_path, monkeypatch, capsys):
    monkeypatch.delenv('REFERS_NB_PROGRESS', raising=False)
    def call(seeds): label_efficiency(phantoms[0], dict(a='random'), tmp_path, fractions=(1.,), seeds=seeds, **FEW)
    call((0, 1))
    call((0, 1, 2))
    lines = [o for o in capsys.readouterr().err.splitlines() if o.startswith('fine-tuning')]
    assert [re.match(r'fine-tuning: (\d of \d) done after [\d:]+, [\d:]+ left', o)[1] for o in lines] == [
        '1 of 2', '2 of 2', '3 of 3']


# What is refused

def test_a_table_is_written_by_one_call_or_by_shards(phantoms, tmp_path, monkeypatch):
    import fcntl
    def call(shard=None): return label_efficiency(phantoms[0], dict(a='random'), tmp_path, shard=shard, **TWO, **FEW)
    def other(kind):
        "The lock of another process"
        f = open(tmp_path/'.lock', 'w')
        fcntl.flock(f, kind)
        return f
    with other(fcntl.LOCK_EX):
        for shard in (None, '1/2'):
            with pytest.raises(InputError, match='another process is writing'): call(shard)
    (tmp_path/'trials').mkdir()
    own, foreign = ('.tmp-0123456789ab-a_0.5_0.json', '.tmp-0123456789ab-a_0.5_1.json')
    for o in (own, foreign): (tmp_path/'trials'/o).touch()
    with other(fcntl.LOCK_SH):
        with pytest.raises(InputError, match='another process is writing'): call()
        assert len(call('1/4')) == 1                        # beside another shard
        assert [o.name for o in (tmp_path/'trials').glob('.tmp-*')] == [foreign]
    assert len(call()) == 4 and not list((tmp_path/'trials').glob('.tmp-*'))


@pytest.mark.parametrize('change,word', [
    (dict(shard='0/2'), 'as in 2/8'),
    (dict(shard='3/2'), 'as in 2/8'),
    (dict(shard='two'), 'as in 2/8'),
    (dict(table={}), 'no data set'),
    (dict(table={'a/b': 1}), 'name of a data set'),
    (dict(table=dict(a=dict(steps=3))), 'data set a: no table'),
    (dict(starts={'a b': 'random'}), 'name of a start'),
    (dict(starts=dict(a=None)), 'there is none'),
    (dict(starts=dict(a='/nowhere/x')), 'no checkpoint'),
    (dict(findings=['gout']), 'no labels for gout'),
    (dict(seeds=(0, 0, 1)), 'given twice'),
    (dict(fractions=(1., 1)), 'given twice')])
def test_what_cannot_be_run_is_said_before_anything_runs(phantoms, tmp_path, change, word):
    args = dict(table=phantoms[0], starts=dict(a='random'), out=tmp_path/'x', **FEW) | change
    with pytest.raises(InputError, match=word): label_efficiency(**args)
    assert not (tmp_path/'x').exists()


def test_starts_of_a_comparison_are_alike(phantoms, tmp_path):
    data, *_ = phantoms
    save_checkpoint(Classifier.on(encoder_from('random', 48, FEW['arch']), ['x']), None, tmp_path/'own')
    starts = dict(own=tmp_path/'own', random='random')
    few = {k: v for k, v in FEW.items() if k != 'size'}
    with pytest.raises(InputError, match=r'own is test_vit at 48 pixels, '
                                         r'random is test_vit at 224 pixels. Give size='):
        label_efficiency(data, starts, tmp_path/'out', (1.,), (0,), **few)
    assert not list((tmp_path/'out').rglob('*.json'))
    res = label_efficiency(data, starts, tmp_path/'out', (1.,), (0,), **FEW)
    assert res['init'].tolist() == ['own', 'random']


def test_no_old_table_beside_new_trials(phantoms, tmp_path):
    data, *_ = phantoms
    args = data, dict(a='random'), tmp_path, (1.,), (0, 1)
    label_efficiency(*args, **FEW)
    label_efficiency(*args, **dict(FEW, steps=2), shard='1/2')
    assert not (tmp_path/'results.csv').exists() and not (tmp_path/'predictions.parquet').exists()
    with pytest.raises(InputError, match='no results.csv'): efficiency_tests(tmp_path, 'a')
    (tmp_path/'trials'/'a_1_0.json').write_text('')         # a power cut
    (tmp_path/'trials'/'a_1_1.parquet').unlink(missing_ok=True)
    assert len(label_efficiency(*args, **dict(FEW, steps=2))) == 2 and (tmp_path/'results.csv').exists()


@pytest.mark.parametrize('name, spoil', [
    ('a.parquet', lambda x: b''), ('a.parquet', lambda x: bytes(len(x))), ('a.parquet', lambda x: x[:-9]),
    ('a.json', lambda x: b''), ('a.json', lambda x: b'[1]'), ('a.json', lambda x: bytes(len(x))), ('a.json', lambda x: b'{"fingerprint": "k"}'),
    ('a.json', lambda x: x.replace(b'0.75', b'"x"')), ('a.json', lambda x: x.replace(b'"seed": 0', b'"seed": 7'))])
def test_an_empty_cell_after_a_power_cut_is_not_done(tmp_path, name, spoil):
    trial = experiments.Trial('', 'a', 1., 0, None, 'random', {}, tmp_path/'a.json', 'k')
    assert trial.done() is None
    row = dict(init='a', fraction=1., seed=0, auroc=.75)
    (tmp_path/'a.json').write_text(json.dumps(row | dict(fingerprint='k')))
    pd.DataFrame(dict(image=['x'])).to_parquet(tmp_path/'a.parquet')
    assert trial.done() == row
    (tmp_path/name).write_bytes(spoil((tmp_path/name).read_bytes()))
    assert trial.done() is None
    (tmp_path/name).unlink()
    assert trial.done() is None


def test_a_cell_that_is_lost_is_run_again(phantoms, tmp_path):
    args = phantoms[0], dict(a='random'), tmp_path, (1.,), (0,)
    want = label_efficiency(*args, **FEW)
    (tmp_path/'trials'/'a_1_0.parquet').write_bytes(b'')
    same(label_efficiency(*args, **FEW), want)
    assert len(pd.read_parquet(tmp_path/'predictions.parquet'))


def test_a_trial_knows_the_images_behind_its_table(phantoms, tmp_path):
    data, *_ = phantoms
    other = tmp_path/'other'
    shutil.copytree(data, other)
    assert fingerprint(data, 'random') == fingerprint(other, 'random')
    index = pd.read_parquet(other/'index.parquet')
    index.assign(height=index['height'] + 1).to_parquet(other/'index.parquet')
    assert fingerprint(data, 'random') != fingerprint(other, 'random')
    df = read_studies(data)
    assert fingerprint(df, 'random', store=data) != fingerprint(df, 'random', store=other)


# Cross-validation

def test_parts_of_a_cross_validation_are_tested_as_such(phantoms, tmp_path):
    data, *_ = phantoms
    df = read_studies(data)
    finding = label_names(df)[0]
    folds = patient_folds(df, finding, 3, valid=.25)
    assert sorted(pd.concat([o[o['split'] == 'test'] for o in folds])['path']) == sorted(df['path'])
    sets = dict(x=dict(table=folds, store=data))
    res = label_efficiency(sets, STARTS, tmp_path, (1.,), (0, 1, 2), findings=[finding], **FEW)
    p = pd.read_parquet(tmp_path/'x'/'predictions.parquet')
    tested = [set(o.loc[(o['split'] == 'test') & (o['view'] != 'LATERAL'), 'path']) for o in folds]
    assert p.groupby('seed')['image'].unique().map(set).tolist() == tested
    t = efficiency_tests(tmp_path, 'a').iloc[0]
    assert t['dataset'] == 'x' and t['seeds'] == 3
    assert t['difference'] == pytest.approx(0, abs=1e-4), 'the same start twice'
    first = p[p['seed'] == 0]
    mixed = pd.concat([first, first.assign(seed=1).iloc[1:], p[p['seed'] == 2]])
    mixed.to_parquet(tmp_path/'x'/'predictions.parquet')
    with pytest.raises(InputError, match='some of the same patients'): efficiency_tests(tmp_path, 'a')
    assert len(res) == 6


@pytest.mark.parametrize('args,word', [
    (dict(finding='effusions'), 'no labels for effusions'),
    (dict(k=1), '1 folds of'),
    (dict(valid=0), 'valid is 0'),
    (dict(valid=.7), 'valid is 0.7'),
    (dict(k=30), '240 patients for these')])
def test_folds_that_cannot_be(phantoms, args, word):
    df = read_studies(phantoms[0])
    with pytest.raises(InputError, match=word): patient_folds(df, **dict(finding=label_names(df)[0]) | args)
