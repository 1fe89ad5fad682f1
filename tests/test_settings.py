"Settings from odd files and places"
import importlib, inspect, os
from pathlib import Path
import pytest
from hypothesis import given, settings as hyp, strategies as st
from refers_nb.core import InputError, SCREEN
from refers_nb.settings import KEYS, check_number, check_values, default, read_settings, settings, settings_text

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
    for above, line in zip(lines, lines[1:]):
        if line.startswith('#') or '=' not in line: continue
        assert above.startswith('# ') and len(above) > 10, line


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
    for path in (clean/'s.ini', clean/'none.ini', clean):
        with pytest.raises(InputError, match='cannot read the settings file'): settings(path)


def test_paths_are_relative_to_their_file_and_know_home(clean, monkeypatch):
    monkeypatch.setenv('HOME', str(clean/'home'))
    f = write(clean/'a'/'settings.ini', '''[data]
iu_xray = ../b   # beside
nih14 = ~/nih
covid = /abs
[weights]
vit_tiny = w/m.safetensors
''')
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


@pytest.mark.parametrize('section', ['pretrain', 'finetune'])
def test_defaults_of_the_file_are_those_of_the_function(section, clean):
    "Who calls the function and who calls the command run the same thing"
    function = getattr(importlib.import_module(f'refers_nb.training.{section}'), section)
    theirs = {k: o.default for k, o in inspect.signature(function).parameters.items()}
    ours = vars(getattr(settings(), section))
    both = [k for k in ours if theirs.get(k, None) not in (None, inspect.Parameter.empty)]
    assert len(both) >= 3
    assert {k: ours[k] for k in both} == {k: theirs[k] for k in both}


def test_the_table_of_defaults_is_what_settings_gives(clean):
    s = settings()
    for section, keys in KEYS.items():
        for key in keys:
            value = default(section, key)
            given = getattr(getattr(s, section), key)
            assert given == (Path.cwd()/value if isinstance(value, Path) else value)
    assert default('pretrain', 'epochs') == 12 and default('finetune', 'fractions') == (.01, .1, 1)
    with pytest.raises(KeyError): default('pretrain', 'epoch')


@pytest.mark.parametrize('encoding', ['latin-1', 'cp1252', 'utf-16', 'utf-16-le', 'utf-16-be', 'utf-32'])
@pytest.mark.parametrize('text', ['# für uns\n[pretrain]\nepochs = 1\n', '[run]\nout = Läufe\n', ' [ finetune ]\nbs = 8 # groß\n'])
def test_settings_in_another_encoding_are_no_file_of_others(clean, encoding, text):
    (clean/'settings.ini').write_bytes(text.encode(encoding))
    (clean/'below').mkdir()
    for folder in (clean, clean/'below'):
        os.chdir(folder)
        with pytest.raises(InputError, match='settings.ini: .*UTF-8'): settings()
    (clean/'settings.ini').write_bytes(text.encode('utf-8-sig'))
    settings()


def test_what_is_no_settings_file_is_passed_over(clean):
    for content in (b'[DEFAULT]\nname = \xfc\n', b'\xff\xfe[\0x\0]\0', b'[runner]\n', b'', bytes(2000), b'run]\n# [run]'):
        (clean/'settings.ini').write_bytes(content)
        assert settings().pretrain.epochs == 12
    (clean/'settings.ini').unlink()
    os.mkfifo(clean/'settings.ini')
    assert settings().pretrain.epochs == 12
    with pytest.raises(InputError, match='it is no file'): settings(clean/'settings.ini')
    (clean/'a').mkdir()
    (clean/'a'/'settings.ini').mkdir()
    os.chdir(clean/'a')
    assert settings().pretrain.epochs == 12


@pytest.mark.parametrize('content, says', [
    (b'[run]\nseed = 1\0\n', 'NUL'), (b'[run]\nout = \xe4\n', 'line 2 is not UTF-8'),
    (b'[run]\nout = ~nobody-of-this-name/x\n', 'nobody here has that home'), (b'[run]\rseed = x\r', 's.ini:2 '),
    (b'[run]\nseed = 9223372036854775808\n', 'from 0 to 9,223,372,036,854,775,807'), (b'[pretrain]\nlr = inf\n', 'expected a number'),
    (b'[pretrain]\nsize = 31\n', 'from 32 to 2,048'), (b'[pretrain]\nepochs = 10000000\n', 'from 1 to 1,000,000'),
    (b'[run]\nworkers = 5000\n', 'from 0 to 1,024'), (b'[finetune]\nsteps = 0\n', 'from 1'),
    (b'[pretrain]\nwd = -inf\n', 'expected a number'), (b'[run]\ndevice = cuda:12345\n', 'expected auto'),
    (b'[run]\nseed = ' + b'9'*100_000 + b'\n', 'expected a whole number')])
def test_what_a_settings_file_may_not_say(clean, content, says):
    (clean/'s.ini').write_bytes(content)
    with pytest.raises(InputError) as e: settings(clean/'s.ini')
    assert says in str(e.value) and len(str(e.value)) <= SCREEN


def test_arguments_of_functions_are_in_the_same_limits():
    check_values('pretrain', dict(epochs=1, lr=1e-3, other=-1, size=None, start='random'))
    check_values('finetune', dict(fractions=(.1, 1), seeds=[0, 1], linear=True))
    for values in (dict(epochs=0), dict(lr=float('nan')), dict(lr=float('inf')), dict(bs=1), dict(tau='x'), dict(preset='huge'),
                   dict(size=64.5), dict(warmup=2), dict(accum=True)):
        with pytest.raises(InputError, match=f'{[*values][0]} is '): check_values('pretrain', values)
    for value in (-1, 1.01, float('nan'), float('inf'), 'x', None):
        if value is None: check_number('share', None, float, 0, 1)
        else:
            with pytest.raises(InputError, match='share is'): check_number('share', value, float, 0, 1)
