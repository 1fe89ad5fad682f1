"Commands and demo: help at once, the whole way on small phantoms, one clear line and exit code 1 on bad input"
import inspect, json, os, subprocess, sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from fastcore.docments import docments

from refers_nb import cli
from refers_nb.core import InputError
from refers_nb.demo import demo

COMMANDS = ['refers-demo', 'refers-prep', 'refers-pretrain', 'refers-finetune', 'refers-evaluate', 'refers-report']
BIN = Path(sys.executable).parent


def clean_environment(**more):
    "The environment without settings of this library"
    return {k: v for k, v in os.environ.items() if not k.startswith('REFERS_NB_')} | more


def run(*args, timeout=240):
    "Exit code, output and error lines of a command, as a process"
    env = clean_environment(OMP_NUM_THREADS='1', PYTHONWARNINGS='ignore')
    p = subprocess.run([BIN/args[0], *map(str, args[1:])], capture_output=True, text=True, timeout=timeout,
                       env=env, cwd='/')
    return p.returncode, p.stdout, p.stderr


def refused(command, result, word):
    "The command ended with exit code 1, one line that holds `word`, and no traceback"
    code, out, err = result
    assert code == 1 and out == '', (code, out, err)
    assert len(err.strip().splitlines()) == 1 and word in err and err.startswith(command), err


@pytest.fixture(scope='module')
def data(tmp_path_factory, call):
    "Prepared phantoms and a checkpoint made from them, through the commands"
    folder = tmp_path_factory.mktemp('cli')
    code, out, err = call('refers-prep', 'phantom', 60, folder/'data', '--size', 32)
    assert code == 0 and 'effusion' in out, err
    code, out, err = call('refers-pretrain', folder/'data', folder/'pre', '--start', 'random', '--size', 32,
                          '--epochs', 1, '--bs', 16, '--preset', 'nano')
    assert code == 0 and out.strip().endswith('checkpoint'), err
    return folder


@pytest.mark.parametrize('command', COMMANDS)
def test_help_is_complete(command):
    code, out, err = run(command, '--help')
    assert code == 0 and out.startswith(f'usage: {command}') and not err
    function = getattr(cli, command.replace('-', '_'))
    docs = docments(function)
    for p in inspect.signature(function).parameters: assert docs[p], f'{command}: {p} is not explained'


def test_commands_are_there_before_anything_heavy():
    heavy = "{'torch', 'fastai', 'pandas', 'matplotlib', 'transformers'}"
    code = f'import sys; from refers_nb.cli import *; print(*{heavy} & sys.modules.keys())'
    p = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert (p.returncode, p.stdout.strip()) == (0, ''), p.stdout + p.stderr


def test_finetune_one_classifier(data, call):
    out = data/'one'
    code, text, err = call('refers-finetune', data/'data', data/'pre'/'checkpoint', out, '--fractions', 1,
                           '--seeds', 4, '--steps', 3, '--bs', 8)
    assert code == 0 and 'macro AUROC' in text, err
    p = pd.read_parquet(out/'predictions.parquet')
    assert {'image', 'patient', 'label', 'probability'} <= set(p) and p.probability.between(0, 1).all()
    rec = json.loads((out/'run.json').read_text())
    assert rec['status'] == 'finished' and rec['seed'] == 4 and 'versions' in rec
    config = json.loads((out/'model'/'config.json').read_text())
    assert config['architecture']['vision']['size'] == 32                        # as pre-trained


def test_options_reach_the_classifier_and_are_passed_only_if_given(data, monkeypatch):
    "What is not given is no argument, so that cells of earlier comparisons keep their fingerprint"
    from refers_nb.cli import refers_finetune
    from refers_nb.data.studies import read_studies
    args = dict(fractions='1', seeds='0', steps=2, bs=8, size=32, device='cpu')
    refers_finetune(str(data/'data'), 'random', str(data/'options'), **args,
                    balance=True, layer_decay=.7, tta=True, views='study')
    rec = json.loads((data/'options'/'run.json').read_text())['args']
    assert (rec['balance'], rec['layer_decay'], rec['tta'], rec['views']) == (True, .7, True, 'study')
    df = read_studies(data/'data')
    p = pd.read_parquet(data/'options'/'predictions.parquet')
    assert set(p.image) == set(df.study[df.split == 'test']) and not p.duplicated(['image', 'label']).any()
    seen = {}
    monkeypatch.setattr('refers_nb.training.finetune.finetune', lambda *a, **kw: seen.update(kw))
    refers_finetune(str(data/'data'), 'random', str(data/'plain'), **args)
    assert not {'balance', 'layer_decay', 'tta'} & set(seen) and seen['views'] == 'frontal'


def test_finetune_comparison(data, call):
    out = data/'many'
    args = ('refers-finetune', data/'data', data/'pre'/'checkpoint', out, '--fractions', '0.5,1', '--seeds', '0',
            '--against', 'random', '--steps', 2, '--bs', 8)
    code, text, err = call(*args)
    assert code == 0, err
    res = pd.read_csv(out/'results.csv')
    assert list(res) == ['init', 'fraction', 'seed', 'auroc']
    assert set(res.init) == {'refers', 'random'} and len(res) == 4
    p = pd.read_parquet(out/'predictions.parquet')
    assert p.groupby(['init', 'fraction', 'seed']).ngroups == 4
    assert (out/'label_efficiency.png').read_bytes()[:4] == b'\x89PNG'
    t = pd.read_csv(out/'tests.csv')
    assert t.a.eq('refers').all() and t.b.eq('random').all() and t.fraction.tolist() == [.5, 1]
    assert t.seeds.eq(1).all() and t.verdict.eq('no test').all()                 # one seed
    one = out/'trials'/'random_1_0.json'
    before = one.stat().st_mtime_ns
    assert call(*args)[0] == 0 and one.stat().st_mtime_ns == before


def test_a_comparison_grows_and_is_never_replaced(data, call):
    out = data/'grown'
    args = ['refers-finetune', data/'data', 'random', out, '--fractions', '1', '--steps', 2, '--bs', 8, '--size', 32]
    assert call(*args, '--seeds', '0')[0] == 0                        # one classifier, kept
    refused('refers-finetune', call(*args, '--seeds', '0,1'), 'another kind (finetune, now comparison)')
    args[3] = out = data/'grown2'
    assert call(*args, '--seeds', '0,1')[0] == 0
    before = {o: o.stat().st_mtime_ns for o in (out/'trials').iterdir()}
    refused('refers-finetune', call(*args, '--seeds', '1,2'), 'seeds was [0, 1], now [1, 2]')
    refused('refers-finetune', call(*args, '--seeds', '0,1', '--lr', '1e-3'), 'lr was')
    refused('refers-finetune', call(*args, '--seeds', '0,1', '--balance'), 'balance was None, now True')
    other = [*args[:2], data/'pre'/'checkpoint', *args[3:]]
    refused('refers-finetune', call(*other, '--seeds', '0,1'), 'weights was')
    assert call(*args, '--seeds', '0,1,2')[0] == 0
    assert {o: o.stat().st_mtime_ns for o in before} == before and len(pd.read_csv(out/'results.csv')) == 3
    refused('refers-pretrain', call('refers-pretrain', data/'data', out, '--start', 'random'), 'another kind (comparison')


def test_a_report_and_a_prepared_folder_have_owners_too(data, call):
    run = data/'for_report'
    tune = ('--fractions', 1, '--seeds', 0, '--steps', 2, '--bs', 8, '--size', 32)
    assert call('refers-finetune', data/'data', 'random', run, *tune)[0] == 0
    out = data/'report'
    args = 'refers-evaluate', 'predictions', run, '--out', out
    assert call(*args)[0] == 0 and call(*args)[0] == 0
    refused('refers-evaluate', call(*args, '--table', data/'data'), 'table was None')
    refused('refers-evaluate', call('refers-evaluate', 'predictions', run, '--out', data/'pre'), 'another kind (pretrain')
    refused('refers-prep', call('refers-prep', 'phantom', 24, run), 'holds another run, not phantom')
    refused('refers-finetune', call('refers-finetune', data/'data', 'random', data/'data', *tune), 'another kind (prepare')


@pytest.mark.slow
def test_finetune_several_sets_in_shards(data, call):
    out, table = data/'sets', data/'data'
    args = ['refers-finetune', f'a={table},b={table}', data/'pre'/'checkpoint', out, '--against', 'random,gone/gone',
            '--fractions', '1', '--seeds', '0,1', '--steps', 2, '--bs', 8, '--findings', 'cardiomegaly,consolidation']
    none = call(*args, '--shard', '9/9')
    one, two = (call(*args, '--shard', o) for o in ('1/2', '2/2'))
    whole = call(*args, '--jobs', 1)
    assert [o[0] for o in (one, two, whole)] == [0]*3, (one, two, whole)
    last = 'trials are done; the last shard to end writes the tables'
    assert none[0] == 0 and none[1].strip().endswith(f'0 of 8 {last}')
    assert one[1].strip().endswith(f'4 of 8 {last}') and 'gone is left out: ' in one[1] and two[1] == whole[1]
    written = ['a', 'b', 'label_efficiency.png', 'parts', 'results.csv', 'run.json', 'tests.csv']
    assert sorted(o.name for o in out.iterdir()) == written
    for i in (1, 2):
        assert json.loads((out/'parts'/f'{i}-of-2'/'run.json').read_text())['status'] == 'finished'
    res = pd.read_csv(out/'results.csv')
    t = pd.read_csv(out/'tests.csv')
    assert list(res)[0] == list(t)[0] == 'dataset' and len(res) == 8 and t.dataset.tolist() == ['a', 'b']
    mean = res.groupby(['dataset', 'init']).auroc.mean()
    assert t.difference.tolist() == pytest.approx([mean[o, 'refers'] - mean[o, 'random'] for o in 'ab'])


def test_a_report_is_written_as_the_table_would_give_it(data, call):
    "From files, with the size and the fit that the checkpoint remembers; the figure on request, and what it is not"
    from refers_nb.data.store import ImageStore
    from refers_nb.data.studies import read_studies
    from refers_nb.evaluation.generate import generate_all
    from refers_nb.models.hub import checkpoint_config, load_checkpoint
    df = read_studies(data/'data')
    checkpoint = data/'pre'/'checkpoint'
    study = df[df.groupby('study').path.transform('size') == 2].study.iloc[0]
    of = df[df.study == study].sort_values('view', key=lambda o: o == 'LATERAL')
    files = [Path(df.attrs['root'])/o for o in of.path]
    code, text, err = call('refers-report', checkpoint, *files, '--beams', 1, '--max-len', 20,
                           '--attention', data/'looks.png')
    assert code == 0, err
    report, said = text.strip().split('\n\n')
    assert 'not for clinical use' in said and (data/'looks.png').read_bytes()[:4] == b'\x89PNG'
    training = checkpoint_config(checkpoint)['training']
    assert training['data']['source'] == 'phantom' and 0 < training['metrics']['temperature'] < 1
    assert (training['data']['stored'], training['data']['resize_mode']) == (32, 'letterbox')
    model, tok = load_checkpoint(checkpoint)
    store = ImageStore(data/'data')
    assert report == generate_all(model, tok, of, store, max_len=20)[study]
    drawn = generate_all(model, tok, of, store, max_len=20, sample=True, top_p=.95, best_of=3)[study]
    assert call('refers-report', checkpoint, *files, '--best-of', 3, '--max-len', 20)[1].startswith(drawn)
    assert str(data) not in (checkpoint/'README.md').read_text()


def test_settings_reach_the_commands(data, tmp_path, call):
    path = tmp_path/'settings.ini'
    x = tmp_path/'x'
    path.write_text(f'[data]\nnih14 = {tmp_path}/none\n[finetune]\nstpes = 3\n')
    result = call('refers-finetune', data/'data', 'random', x, REFERS_NB_SETTINGS=str(path))
    refused('refers-finetune', result, 'settings.ini:4')
    path = tmp_path/'other.ini'
    path.write_text(f'[data]\nnih14 = {tmp_path}/none\n')
    refused('refers-prep', call('refers-prep', 'nih14', '-', x, REFERS_NB_SETTINGS=str(path)), 'none')
    refused('refers-prep', call('refers-prep', 'covid', '-', x, REFERS_NB_SETTINGS=str(path)), '[data]')


def test_bad_input_is_one_line(data, tmp_path, call):
    torch.save({'w': torch.zeros(1)}, tmp_path/'encoder.pth')
    (tmp_path/'noise.parquet').write_bytes(b'no parquet')
    table, ckpt, x = data/'data', data/'pre'/'checkpoint', tmp_path/'x'
    random = ('--start', 'random')
    png = next((table/'png').glob('*.png'))
    bad = [(('refers-prep', 'mimic', tmp_path, x), 'mimic'),
           (('refers-prep', 'nih14', tmp_path/'gone', x), 'gone'),
           (('refers-prep', 'phantom', 'many', x), 'many'),
           (('refers-prep', 'phantom', 60, x, '--options', 'rule'), 'expected name=value'),
           (('refers-pretrain', tmp_path/'gone', x, *random), 'gone'),
           (('refers-pretrain', tmp_path/'noise.parquet', x, *random), 'noise.parquet'),
           (('refers-pretrain', table, x, '--start', tmp_path/'encoder.pth'), 'encoder.pth'),
           (('refers-pretrain', table, x, *random, '--method', 'jigsaw'), "'jigsaw'"),
           (('refers-pretrain', table, x, *random, '--method', 'mae', '--tau', '0.1'), 'read reports'),
           (('refers-finetune', table, tmp_path/'encoder.pth', x), 'do not fit'),
           (('refers-finetune', table, tmp_path/'gone', x), 'no checkpoint'),
           (('refers-finetune', table, ckpt, x, '--findings', 'gout'), 'gout'),
           (('refers-finetune', table, ckpt, x, '--fractions', '2'), 'fractions'),
           (('refers-finetune', f'a={table},a={table}', ckpt, x), 'every name once'),
           (('refers-finetune', f'a={table},{table}', ckpt, x), 'name=DIR'),
           (('refers-finetune', f'a={table},b={tmp_path}/gone', ckpt, x), 'gone'),
           (('refers-finetune', table, ckpt, x, '--shard', '9/8'), 'as in 2/8'),
           (('refers-finetune', table, ckpt, x, '--jobs', '0'), 'jobs is 0'),
           (('refers-finetune', table, tmp_path/'gone', x, '--against', 'random'), 'no checkpoint'),
           (('refers-finetune', table, ckpt, x, '--against', ckpt), 'two starts are called'),
           (('refers-finetune', table, ckpt, x, '--opt', 'lion'), 'lion'),
           (('refers-evaluate', 'all', table), 'released or predictions'),
           (('refers-evaluate', 'predictions'), 'one or more runs'),
           (('refers-evaluate', 'released', table, table), 'one folder of the release'),
           (('refers-report', tmp_path/'gone', tmp_path/'a.png'), 'no checkpoint'),
           (('refers-report', ckpt, tmp_path/'a.png'), 'a.png'),
           (('refers-report', ckpt, tmp_path/'noise.parquet'), 'noise.parquet'),
           (('refers-report', ckpt), '0 images'),
           (('refers-report', ckpt, *[png]*3), '3 images')]
    for args, word in bad: refused(args[0], call(*args), word)
    assert call('refers-finetune', table)[0] == 2                    # an argument too few is argparse's to explain


@pytest.mark.slow
def test_demo_writes_what_it_says_and_goes_on(tmp_path, call):
    "As a command, then as the function that it calls"
    out = tmp_path/'d'
    command = ('refers-demo', '--out', out, '--studies', 24, '--labelled', 60, '--epochs', 1, '--steps', 1, '--seeds', 1)
    args = dict(studies=24, labelled=60, epochs=1, steps=1, seeds=(0,))
    code, text, err = call(*command)
    assert code == 0 and 'refers' in text, err
    res = pd.read_csv(out/'results.csv')
    assert list(res) == ['init', 'fraction', 'seed', 'auroc'] and set(res.init) == {'refers', 'random'}
    assert sorted(set(res.fraction)) == [.01, .1, 1.] and len(res) == 6 and res.auroc.between(0, 1).all()
    assert (out/'label_efficiency.png').stat().st_size > 5000
    parts = {}
    for name in ('reports', 'labels'):
        df = pd.read_parquet(out/'data'/name/'studies.parquet')
        for s, g in df.groupby('split'): parts[name, s] = set(g.patient.str.split('-').str[0])
    assert len(set.union(*parts.values())) == sum(map(len, parts.values())) == 5      # every part has its own seed
    files = [out/o for o in ('checkpoint/model.safetensors', 'trials/random_1_0.json', 'data/labels/images.npy')]
    before = [o.stat().st_mtime_ns for o in files]
    assert call(*command)[0] == 0
    pd.testing.assert_frame_equal(demo(out, **args), res)
    assert [o.stat().st_mtime_ns for o in files] == before
    with pytest.raises(InputError, match='other arguments'): demo(out, **args | dict(epochs=2))
    code, _, err = call(*command, '--epochs', 2)
    assert code == 1 and 'other arguments' in err.splitlines()[-1] and (out/'results.csv').exists()


@pytest.mark.slow
def test_the_whole_way_as_processes(tmp_path):
    "Commands as a terminal starts them"
    data, pre, tuned = tmp_path/'data', tmp_path/'pre', tmp_path/'tuned'
    assert run('refers-prep', 'phantom', 60, data, '--size', 32)[0] == 0
    code, out, err = run('refers-pretrain', data, pre, '--start', 'random', '--size', 32, '--epochs', 1, '--bs', 16,
                         '--preset', 'nano')
    assert code == 0 and out.strip().endswith(str(pre/'checkpoint')), err
    code, out, err = run('refers-finetune', data, pre/'checkpoint', tuned, '--fractions', 1, '--seeds', 0,
                         '--steps', 3, '--bs', 8)
    assert code == 0 and out.startswith('macro AUROC'), err
    code, out, err = run('refers-evaluate', 'predictions', tuned, '--out', tmp_path/'report')
    assert code == 0 and (tmp_path/'report'/'report.md').exists(), err
    code, out, err = run('refers-report', pre/'checkpoint', next((data/'png').glob('*.png')), '--max-len', 12)
    assert code == 0 and out.strip().endswith(cli.CAUTION), err
