"Settings from odd files and places, files under failure and kill, commands as processes"
import json, os, signal, stat, subprocess, sys, time
from pathlib import Path

import pytest
from hypothesis import given, settings as hyp, strategies as st

from refers_nb import core
from refers_nb.core import InputError, atomic, get_dtype
from refers_nb.settings import KEYS, read_settings, settings, settings_text
from refers_nb.runs import run_record

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def clean(tmp_path, monkeypatch):
    "An empty folder to work in, without settings of its own or of the environment"
    for o in list(os.environ):
        if o.startswith('REFERS_NB_'): monkeypatch.delenv(o)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_shipped_file_is_the_built_in_defaults(clean):
    assert (ROOT/'settings.ini').read_text() == settings_text()
    write(clean/'settings.ini', settings_text())
    a = settings()
    (clean/'settings.ini').unlink()
    b = settings()
    for s in KEYS: assert getattr(a, s) == getattr(b, s)
    assert len(a.where) == sum(map(len, KEYS.values())) and not b.where


def test_every_key_is_explained_above_it():
    lines = settings_text().splitlines()
    for n,o in enumerate(lines):
        if '=' in o and not o.startswith('#'): assert lines[n-1].startswith('# ') and len(lines[n-1]) > 10, o


@pytest.mark.parametrize('text, line, says', [
    ('[run]\n\n# a comment\ndevise = cpu\n', 4, "unknown key 'devise'"),
    ('[rum]\nseed = 1\n', 1, 'unknown section [rum]'),
    ('[DEFAULT]\n', 1, 'unknown section [DEFAULT]'),
    ('[run]\nseed = many\n', 2, 'seed = many: expected a whole number'),
    ('[run]\nseed = -1\n', 2, 'expected a whole number from 0'),
    ('[run]\nworkers = some\n', 2, 'expected a whole number'),
    ('[run]\ndevice = gpu\n', 2, 'expected auto, cpu'),
    ('[run]\nprecision = fp16\n', 2, 'expected one of auto'),
    ('[pretrain]\nlr = nan\n', 2, 'expected a number'),
    ('[pretrain]\nbs = 1\n', 2, 'expected a whole number from 2'),
    ('[finetune]\nlinear = perhaps\n', 2, 'expected yes or no'),
    ('[finetune]\nfractions = 0.1, 2\n', 2, 'expected a number from 0 to 1'),
    ('[finetune]\nseeds =\n', 2, 'expected a whole number'),
    ('[weights]\nvit_tiny =\n', 2, 'expected a timm model name or a path'),
    ('[run]\nseed 1\n', 2, 'not of the form key = value'),
    ('seed = 1\n', 1, 'before the first [section]'),
    ('[run]\nseed = 1\n[data]\n[run]\nseed = 2\n', 5, 'was set before, at mine.ini:2'),
])
def test_errors_name_file_and_line(clean, text, line, says):
    with pytest.raises(InputError) as e: settings(write(clean/'mine.ini', text))
    assert f'mine.ini:{line} ' in str(e.value) and says in str(e.value)


def test_a_file_that_is_not_text_or_not_there(clean):
    (clean/'s.ini').write_bytes(b'[run]\nout = \xff\xfe\n')
    with pytest.raises(InputError, match='cannot read the settings file'): settings(clean/'s.ini')
    with pytest.raises(InputError, match='cannot read the settings file'): settings(clean/'none.ini')
    with pytest.raises(InputError, match='cannot read the settings file'): settings(clean)


def test_paths_are_relative_to_their_file_and_know_home(clean, monkeypatch):
    monkeypatch.setenv('HOME', str(clean/'home'))
    f = write(clean/'a'/'settings.ini', '[data]\niu_xray = ../b   # beside\nnih14 = ~/nih\ncovid = /abs\n[weights]\nvit_tiny = w/m.safetensors\n')
    s = settings(f)
    assert s.data.iu_xray.resolve() == (clean/'b').resolve()
    assert s.data.nih14 == clean/'home'/'nih' and s.data.covid == Path('/abs')
    assert s.weights.vit_tiny == (clean/'a').resolve()/'w'/'m.safetensors'
    assert s.weights.vit_base == 'vit_base_patch16_224.augreg_in21k_ft_in1k'
    assert settings(run_out='here').run.out == Path.cwd()/'here'


def test_bom_crlf_and_comments(clean):
    (clean/'settings.ini').write_bytes('\ufeff; first\r\n[ run ]\r\nseed=3;4\r\n'.encode())
    with pytest.raises(InputError, match='settings.ini:3'): settings()
    (clean/'settings.ini').write_bytes('\ufeff; first\r\n[ run ]\r\n  seed=3 ; four\r\n'.encode())
    read_settings.cache_clear()
    assert settings().run.seed == 3


def test_order_argument_environment_file_default(clean, monkeypatch):
    assert settings().run.seed == 0
    write(clean/'settings.ini', '[run]\nseed = 1\n')
    assert settings().run.seed == 1
    monkeypatch.setenv('REFERS_NB_RUN_SEED', '2')
    assert settings().run.seed == 2
    assert settings(run_seed=None).run.seed == 2
    s = settings(run_seed=3)
    assert s.run.seed == 3 and s.where['run.seed'] == 'argument'


def test_environment_and_arguments_are_checked(clean, monkeypatch):
    with pytest.raises(InputError, match="argument run_device: device = gpu"): settings(run_device='gpu')
    with pytest.raises(InputError, match="unknown setting 'seed'"): settings(seed=1)
    with pytest.raises(InputError, match="unknown key 'sede'"): settings(run_sede=1)
    monkeypatch.setenv('REFERS_NB_PRETRAIN_LR', 'fast')
    with pytest.raises(InputError, match='environment variable REFERS_NB_PRETRAIN_LR'): settings()
    monkeypatch.delenv('REFERS_NB_PRETRAIN_LR')
    monkeypatch.setenv('REFERS_NB_RUN_DEVISE', 'cpu')
    with pytest.raises(InputError, match="REFERS_NB_RUN_DEVISE: unknown key 'devise'"): settings()


def test_the_nearest_file_of_ours_counts(clean, monkeypatch):
    write(clean/'settings.ini', '[run]\nseed = 1\n')
    write(clean/'a'/'settings.ini', '[DEFAULT]\nlib_name = other\n')
    (clean/'a'/'b').mkdir()
    monkeypatch.chdir(clean/'a'/'b')
    assert settings().run.seed == 1
    monkeypatch.setenv('REFERS_NB_SETTINGS', str(write(clean/'other.ini', '[run]\nseed = 5\n')))
    assert settings().run.seed == 5
    assert settings(clean/'settings.ini').run.seed == 1
    monkeypatch.setenv('REFERS_NB_SETTINGS', str(clean/'gone.ini'))
    with pytest.raises(InputError, match='gone.ini'): settings()


def test_a_file_is_read_once(clean, monkeypatch):
    f = write(clean/'settings.ini', '[run]\nseed = 1\n')
    settings(f)
    f.write_text('[run]\nseed = 2\n')
    assert settings(f).run.seed == 1


@hyp(max_examples=60, deadline=None)
@given(st.text(max_size=80))
def test_any_text_is_read_or_refused(tmp_path_factory, text):
    f = tmp_path_factory.mktemp('s')/'s.ini'
    f.write_bytes(f'[run]\n{text}'.encode('utf-8', 'replace'))
    try: settings(f)
    except InputError as e: assert 's.ini' in str(e)


def test_settings_show_themselves(clean):
    s = settings(run_seed=9)
    assert '| run.seed | 9 | argument |' in s._repr_markdown_() and 'run.seed' in repr(s)


# Files

def test_atomic_failure_keeps_the_old_file(tmp_path):
    f = write(tmp_path/'x.txt', 'old')
    with pytest.raises(KeyboardInterrupt):
        with atomic(f) as p:
            p.write_text('half')
            raise KeyboardInterrupt
    assert f.read_text() == 'old' and [o.name for o in tmp_path.iterdir()] == ['x.txt']


def test_atomic_nothing_written_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        with atomic(tmp_path/'x.txt'): pass
    assert not list(tmp_path.iterdir())


def test_atomic_makes_folders_and_keeps_usual_permissions(tmp_path):
    with atomic(tmp_path/'a'/'b'/'x.npy') as p:
        assert p.suffix == '.npy' and p.parent == tmp_path/'a'/'b'
        p.write_bytes(b'1')
    (tmp_path/'plain').write_bytes(b'1')
    assert stat.S_IMODE((tmp_path/'a/b/x.npy').stat().st_mode) == stat.S_IMODE((tmp_path/'plain').stat().st_mode)


def test_atomic_under_kill(tmp_path):
    "Killed at any moment of writing, the file holds the old content or the new, never a part"
    code = '''
import sys
from pathlib import Path
from refers_nb.core import atomic
f,n = Path(sys.argv[1]),0
while True:
    n += 1
    with atomic(f) as p:
        with p.open('w') as o:
            for _ in range(200): o.write(f'{n:08d}' * 100)
    if n == 1: sys.stdout.write('ready\\n'); sys.stdout.flush()
'''
    f = tmp_path/'x.txt'
    for i in range(8):
        proc = subprocess.Popen([sys.executable, '-c', code, str(f)], stdout=subprocess.PIPE)
        proc.stdout.readline()
        time.sleep(.01 + .007*i)
        proc.send_signal(signal.SIGKILL); proc.wait()
        text = f.read_text()
        assert len(text) == 200*800 and text == text[:8]*20000


# Runs and commands

def test_run_record_tells_how_a_run_ended(tmp_path):
    rec = run_record(tmp_path, dict(seed=1, path=tmp_path), preset='tiny')
    d = json.loads((tmp_path/'run.json').read_text())
    assert d['status'] == 'running' and d['preset'] == 'tiny' and d['seed'] == 1 and 'end' not in d
    assert {'torch', 'timm', 'transformers', 'refers_nb'} <= set(d['versions'])
    rec.finish(auroc=.8)
    d = json.loads((tmp_path/'run.json').read_text())
    assert d['status'] == 'finished' and d['end'] >= d['start'] and d['auroc'] == .8
    for error,status in ((ValueError('no'), 'failed'), (KeyboardInterrupt(), 'stopped')):
        with pytest.raises(type(error)):
            with run_record(tmp_path, {}): raise error
        assert json.loads((tmp_path/'run.json').read_text())['status'] == status


def test_run_record_names_no_machine(tmp_path):
    import platform
    run_record(tmp_path, {})
    if len(platform.node()) > 3: assert platform.node() not in (tmp_path/'run.json').read_text()


@pytest.mark.parametrize('raises, code, says', [
    ("InputError('a table\\nwithout rows')", 1, 'command: a table without rows\n'),
    ("FileNotFoundError(2, 'No such file or directory', 'x.csv')", 1, 'command: No such file or directory: x.csv\n'),
    ("KeyboardInterrupt()", 130, 'command: stopped\n')])
def test_commands_end_in_one_line(raises, code, says):
    src = f'from refers_nb.core import *\n@cli_errors\ndef command(): raise {raises}\ncommand()'
    env = {k: v for k,v in os.environ.items() if k != 'REFERS_NB_DEBUG'}
    r = subprocess.run([sys.executable, '-c', src], capture_output=True, text=True, env=env)
    assert (r.returncode, r.stdout, r.stderr) == (code, '', says)


def test_bugs_of_commands_keep_their_traceback():
    for raises,env in (("KeyError('x')", {}), ("InputError('x')", dict(REFERS_NB_DEBUG='1'))):
        src = f'from refers_nb.core import *\n@cli_errors\ndef command(): raise {raises}\ncommand()'
        r = subprocess.run([sys.executable, '-c', src], capture_output=True, text=True, env=dict(os.environ, **env))
        assert r.returncode == 1 and 'Traceback' in r.stderr


def test_progress_is_silent_where_no_terminal_is(clean):
    src = 'from refers_nb.runs import progress\nassert sum(progress(range(5), desc="adding")) == 10'
    quiet = subprocess.run([sys.executable, '-c', src], capture_output=True, text=True)
    loud = subprocess.run([sys.executable, '-c', src], capture_output=True, text=True, env=dict(os.environ, REFERS_NB_PROGRESS='1'))
    assert (quiet.returncode, quiet.stderr) == (0, '') and 'adding' in loud.stderr


def test_precision_follows_the_processor(monkeypatch):
    import torch
    monkeypatch.setattr(core, 'cpu_has_bf16', lambda: True)
    assert get_dtype('auto', 'cpu') is torch.bfloat16 and get_dtype('fp32', 'cpu') is torch.float32
    monkeypatch.setattr(core, 'cpu_has_bf16', lambda: False)
    assert get_dtype('auto', 'cpu') is torch.float32 and get_dtype('bf16', 'cpu') is torch.bfloat16
    assert get_dtype('auto', 'mps') is torch.float32
    with pytest.raises(InputError): get_dtype('half')


@pytest.mark.parametrize('section', ['pretrain', 'finetune'])
def test_defaults_of_the_file_are_those_of_the_function(section, clean):
    "Who calls the function and who calls the command run the same thing"
    import importlib, inspect
    params = inspect.signature(getattr(importlib.import_module(f'refers_nb.training.{section}'), section)).parameters
    ours = vars(getattr(settings(), section))
    both = [k for k in ours if k in params and params[k].default not in (None, inspect.Parameter.empty)]
    assert len(both) >= 3
    assert {k: ours[k] for k in both} == {k: params[k].default for k in both}
