"Commands as processes: help at once, the whole way on small phantoms, one clear line and exit code 1 on bad input"
import json, os, subprocess, sys
from pathlib import Path

import pandas as pd, pytest, torch

COMMANDS = ['refers-demo', 'refers-prep', 'refers-pretrain', 'refers-finetune', 'refers-evaluate', 'refers-report']
BIN = Path(sys.executable).parent


def run(*args, timeout=240, **env):
    "Exit code, output and error lines of a command"
    env = {k: v for k,v in os.environ.items() if not k.startswith('REFERS_NB_')} | {'OMP_NUM_THREADS': '1', 'PYTHONWARNINGS': 'ignore'} | env
    p = subprocess.run([BIN/args[0], *map(str, args[1:])], capture_output=True, text=True, timeout=timeout, env=env, cwd=env.get('HERE', '/'))
    return p.returncode,p.stdout,p.stderr


DRIVER = '''
import contextlib, io, json, runpy, sys
results = []
for sys.argv in json.load(sys.stdin):
    out,err,code = io.StringIO(),io.StringIO(),0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try: runpy.run_path(sys.argv[0], run_name='__main__')
        except SystemExit as e: code = e.code or 0
    results.append([code, out.getvalue(), err.getvalue()])
json.dump(results, sys.stdout)
'''

def run_all(commands):
    "What `run` gives, of several commands in one process, which imports everything once"
    env = {k: v for k,v in os.environ.items() if not k.startswith('REFERS_NB_')} | {'OMP_NUM_THREADS': '1', 'PYTHONWARNINGS': 'ignore'}
    text = json.dumps([[str(BIN/c[0]), *map(str, c[1:])] for c in commands])
    p = subprocess.run([sys.executable, '-c', DRIVER], input=text, capture_output=True, text=True, timeout=400, env=env, cwd='/')
    assert p.returncode == 0, p.stderr
    return json.loads(p.stdout)


def refused(*args, word, result=None, **env):
    "The command ends with exit code 1, one line that holds `word`, and no traceback"
    code,out,err = result or run(*args, **env)
    assert code == 1 and out == '', (code, out, err)
    assert len(err.strip().splitlines()) == 1 and word in err and err.startswith(args[0]), err


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    "Prepared phantoms and a checkpoint made from them, through the commands"
    folder = tmp_path_factory.mktemp('cli')
    code,out,err = run('refers-prep', 'phantom', 60, folder/'data', '--size', 32)
    assert code == 0 and 'effusion' in out, err
    code,out,err = run('refers-pretrain', folder/'data', folder/'pre', '--start', 'random', '--size', 32, '--epochs', 1, '--bs', 16)
    assert code == 0 and out.strip().endswith('checkpoint'), err
    return folder


@pytest.mark.parametrize('command', COMMANDS)
def test_help_is_complete_and_imports_nothing_heavy(command):
    code,out,err = run(command, '--help')
    assert code == 0 and out.startswith(f'usage: {command}') and not err
    name = command.replace('-', '_')
    code = f'import sys; from refers_nb.cli import {name}; sys.exit("torch" in sys.modules or "fastai" in sys.modules or "pandas" in sys.modules)'
    assert subprocess.run([sys.executable, '-c', code]).returncode == 0
    import inspect
    from fastcore.docments import docments
    from refers_nb import cli
    docs = docments(getattr(cli, name))
    for p in inspect.signature(getattr(cli, name)).parameters: assert docs[p], f'{command}: {p} is not explained'


def test_finetune_one_classifier(data):
    out = data/'one'
    code,text,err = run('refers-finetune', data/'data', data/'pre'/'checkpoint', out, '--fractions', 1, '--seeds', 4, '--steps', 3, '--bs', 8)
    assert code == 0 and 'macro AUROC' in text, err
    p = pd.read_parquet(out/'predictions.parquet')
    assert {'image', 'patient', 'label', 'probability'} <= set(p) and p.probability.between(0, 1).all()
    rec = json.loads((out/'run.json').read_text())
    assert rec['status'] == 'finished' and rec['seed'] == 4 and 'versions' in rec
    assert json.loads((out/'model'/'config.json').read_text())['architecture']['vision']['size'] == 32   # as pre-trained


def test_options_reach_the_classifier_and_are_passed_only_if_given(data, monkeypatch):
    "What is not given is no argument, so that trials of earlier comparisons keep their fingerprint"
    from refers_nb.cli import refers_finetune
    from refers_nb.data.studies import read_studies
    args = dict(fractions='1', seeds='0', steps=2, bs=8, size=32, device='cpu')
    refers_finetune(str(data/'data'), 'random', str(data/'options'), **args, balance=True, layer_decay=.7, tta=True, views='study')
    rec = json.loads((data/'options'/'run.json').read_text())['args']
    assert (rec['balance'], rec['layer_decay'], rec['tta'], rec['views']) == (True, .7, True, 'study')
    df,p = read_studies(data/'data'),pd.read_parquet(data/'options'/'predictions.parquet')
    assert set(p.image) == set(df.study[df.split == 'test']) and not p.duplicated(['image', 'label']).any()
    seen = {}
    monkeypatch.setattr('refers_nb.training.finetune.finetune', lambda *a, **kw: seen.update(kw))
    refers_finetune(str(data/'data'), 'random', str(data/'plain'), **args)
    assert not {'balance', 'layer_decay', 'tta'} & set(seen) and seen['views'] == 'frontal'


def test_finetune_comparison(data):
    args = ('refers-finetune', data/'data', data/'pre'/'checkpoint', data/'many', '--fractions', '0.5,1', '--seeds', '0', '--against', 'random',
            '--steps', 2, '--bs', 8)
    code,text,err = run(*args)
    assert code == 0, err
    res = pd.read_csv(data/'many'/'results.csv')
    assert list(res) == ['init', 'fraction', 'seed', 'auroc'] and set(res.init) == {'refers', 'random'} and len(res) == 4
    p = pd.read_parquet(data/'many'/'predictions.parquet')
    assert p.groupby(['init', 'fraction', 'seed']).ngroups == 4
    assert (data/'many'/'label_efficiency.png').read_bytes()[:4] == b'\x89PNG'
    t = pd.read_csv(data/'many'/'tests.csv')
    assert t.a.eq('refers').all() and t.b.eq('random').all() and t.fraction.tolist() == [.5, 1] and t.seeds.eq(1).all() and t.verdict.eq('no test').all()   # one seed
    before = (data/'many'/'trials'/'random_1_0.json').stat().st_mtime_ns
    assert run(*args)[0] == 0 and (data/'many'/'trials'/'random_1_0.json').stat().st_mtime_ns == before


def test_finetune_several_sets_in_parts(data):
    out,table = data/'sets',data/'data'
    args = ['refers-finetune', f'a={table},b={table}', data/'pre'/'checkpoint', out, '--fractions', '1', '--seeds', '0,1', '--against', 'random,gone/gone', '--steps', 2, '--bs', 8,
            '--findings', 'cardiomegaly,consolidation']
    none,one,two,whole = run_all([[*args, '--part', '9/9'], [*args, '--part', '1/2'], [*args, '--part', '2/2'], [*args, '--jobs', 1]])
    assert [o[0] for o in (one, two, whole)] == [0]*3, (one, two, whole)
    assert none[0] == 0 and none[1].strip().endswith('0 of 8 trials are done; the last shard to end writes the tables')
    assert one[1].strip().endswith('4 of 8 trials are done; the last shard to end writes the tables') and 'gone is left out: ' in one[1] and two[1] == whole[1]
    assert sorted(o.name for o in out.iterdir()) == ['a', 'b', 'label_efficiency.png', 'parts', 'results.csv', 'run.json', 'tests.csv']
    assert {json.loads((out/'parts'/f'{i}-of-2'/'run.json').read_text())['status'] for i in (1, 2)} == {'finished'}
    res,t = pd.read_csv(out/'results.csv'),pd.read_csv(out/'tests.csv')
    assert list(res)[0] == list(t)[0] == 'dataset' and len(res) == 8 and t.dataset.tolist() == ['a', 'b']
    mean = res.groupby(['dataset', 'init']).auroc.mean()
    assert t.difference.tolist() == pytest.approx([mean[o, 'refers'] - mean[o, 'random'] for o in 'ab'])


def test_a_report_is_written_as_the_table_would_give_it(data):
    "From files, with the size and the fit that the checkpoint remembers; the figure on request, and what it is not"
    from refers_nb.evaluation.generate import generate_all
    from refers_nb.models.hub import checkpoint_config, load_checkpoint
    from refers_nb.data.store import ImageStore
    from refers_nb.data.studies import read_studies
    df,store = read_studies(data/'data'),ImageStore(data/'data')
    study = df[df.groupby('study').path.transform('size')==2].study.iloc[0]
    of = df[df.study==study].sort_values('view', key=lambda o: o=='LATERAL')
    files = [Path(df.attrs['root'])/o for o in of.path]
    code,text,err = run('refers-report', data/'pre'/'checkpoint', *files, '--beams', 1, '--max-len', 20, '--attention', data/'looks.png')
    assert code == 0, err
    report,said = text.strip().split('\n\n')
    assert 'not for clinical use' in said and (data/'looks.png').read_bytes()[:4] == b'\x89PNG'
    told = checkpoint_config(data/'pre'/'checkpoint')['training']
    assert told['data']['source'] == 'phantom' and (told['data']['stored'], told['data']['resize_mode']) == (32, 'letterbox') and 0 < told['metrics']['temperature'] < 1
    model,tok = load_checkpoint(data/'pre'/'checkpoint')
    assert report == generate_all(model, tok, of, store, max_len=20)[study]
    assert str(data) not in (data/'pre'/'checkpoint'/'README.md').read_text()


def test_settings_reach_the_commands(data, tmp_path):
    (tmp_path/'settings.ini').write_text(f'[data]\nnih14 = {tmp_path}/none\n[finetune]\nstpes = 3\n')
    refused('refers-finetune', data/'data', 'random', tmp_path/'x', word='settings.ini:4', REFERS_NB_SETTINGS=str(tmp_path/'settings.ini'))
    (tmp_path/'settings.ini').write_text(f'[data]\nnih14 = {tmp_path}/none\n')
    refused('refers-prep', 'nih14', '-', tmp_path/'x', word='none', REFERS_NB_SETTINGS=str(tmp_path/'settings.ini'))
    refused('refers-prep', 'covid', '-', tmp_path/'x', word='[data]', REFERS_NB_SETTINGS=str(tmp_path/'settings.ini'))


def test_bad_input_is_one_line(data, tmp_path):
    torch.save({'w': torch.zeros(1)}, tmp_path/'encoder.pth')
    (tmp_path/'noise.parquet').write_bytes(b'no parquet')
    table,ckpt,x = data/'data',data/'pre'/'checkpoint',tmp_path/'x'
    bad = [(('refers-prep', 'mimic', tmp_path, x), 'mimic'),
           (('refers-prep', 'nih14', tmp_path/'gone', x), 'gone'),
           (('refers-prep', 'phantom', 'many', x), 'many'),
           (('refers-pretrain', tmp_path/'gone', x, '--start', 'random'), 'gone'),
           (('refers-pretrain', tmp_path/'noise.parquet', x, '--start', 'random'), 'noise.parquet'),
           (('refers-pretrain', table, x, '--start', tmp_path/'encoder.pth'), 'encoder.pth'),
           (('refers-pretrain', table, x, '--start', 'random', '--method', 'jigsaw'), "'jigsaw'"),
           (('refers-pretrain', table, x, '--start', 'random', '--method', 'mae', '--tau', '0.1'), 'read reports'),
           (('refers-finetune', table, tmp_path/'encoder.pth', x), 'pickle'),
           (('refers-finetune', table, tmp_path/'gone', x), 'no checkpoint'),
           (('refers-finetune', table, ckpt, x, '--findings', 'gout'), 'gout'),
           (('refers-finetune', table, ckpt, x, '--fractions', '2'), 'fractions'),
           (('refers-finetune', f'a={table},a={table}', ckpt, x), 'every name once'),
           (('refers-finetune', f'a={table},{table}', ckpt, x), 'name=DIR'),
           (('refers-finetune', f'a={table},b={tmp_path}/gone', ckpt, x), 'gone'),
           (('refers-finetune', table, ckpt, x, '--part', '9/8'), 'as in 2/8'),
           (('refers-finetune', table, ckpt, x, '--jobs', '0'), 'jobs is 0'),
           (('refers-finetune', table, tmp_path/'gone', x, '--against', 'random'), 'no checkpoint'),
           (('refers-finetune', table, ckpt, x, '--opt', 'lion'), 'lion'),
           (('refers-report', tmp_path/'gone', tmp_path/'a.png'), 'no checkpoint'),
           (('refers-report', ckpt, tmp_path/'a.png'), 'a.png'),
           (('refers-report', ckpt, tmp_path/'noise.parquet'), 'noise.parquet'),
           (('refers-report', ckpt), '0 images'),
           (('refers-report', ckpt, *[next((table/'png').glob('*.png'))]*3), '3 images')]
    *results,few = run_all([args for args,_ in bad] + [('refers-finetune', table)])
    for (args,word),res in zip(bad, results): refused(*args, word=word, result=res)
    assert few[0] == 2                                               # an argument too few is argparse's to explain


def test_demo_writes_what_it_says_and_goes_on(tmp_path):
    args = ('refers-demo', '--out', tmp_path/'d', '--studies', 24, '--labelled', 60, '--epochs', 1, '--steps', 1, '--seeds', 1)
    code,text,err = run(*args)
    assert code == 0 and 'refers' in text, err
    res = pd.read_csv(tmp_path/'d'/'results.csv')
    assert list(res) == ['init', 'fraction', 'seed', 'auroc'] and set(res.init) == {'refers', 'random'}
    assert sorted(set(res.fraction)) == [.01, .1, 1.] and len(res) == 6 and res.auroc.between(0, 1).all()
    assert (tmp_path/'d'/'label_efficiency.png').stat().st_size > 5000 and (tmp_path/'d'/'checkpoint'/'model.safetensors').exists()
    splits = {}
    for name in ('reports', 'labels'):
        df = pd.read_parquet(tmp_path/'d'/'data'/name/'studies.parquet')
        for s,g in df.groupby('split'): splits[name, s] = set(g.patient.str.split('-').str[0])
    assert len(set.union(*splits.values())) == sum(map(len, splits.values())) == 5           # every part has a seed of its own
    files = [tmp_path/'d'/o for o in ('checkpoint/model.safetensors', 'trials/random_1_0.json', 'data/labels/images.npy')]
    before = [o.stat().st_mtime_ns for o in files]
    again,other = run_all([args, (*args, '--epochs', 2)])
    assert again[0] == 0 and [o.stat().st_mtime_ns for o in files] == before
    assert other[0] == 1 and 'other arguments' in other[2].splitlines()[-1] and (tmp_path/'d'/'results.csv').exists()
