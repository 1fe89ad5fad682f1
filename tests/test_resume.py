"A pre-training that is killed, also while its state is written, ends with the weights of one that was never killed"
import json, os, signal, subprocess, sys
import pytest
import torch
from kills import history, killed_after, run_fork
from safetensors.torch import load_file
from refers_nb.core import InputError
from refers_nb.data.prepare import prepare
from refers_nb.training import pretrain as pretrain_module
from refers_nb.training.callbacks import Checkpoint, PlainTensors
from refers_nb.training.pretrain import pretrain
from refers_nb.training.step import NonFiniteLoss

ARGS = dict(preset='nano', start='random', size=32, bs=8, epochs=2, n_views=2, vocab=300, max_len=32,
            save_every=2, precision='fp32', device='cpu', tensorboard=False)

# A process that is killed after its n-th step, or when half of its n-th state is on the disk
DYING_RUN = f"""
import os, signal, sys, torch
torch.set_num_threads(1)
from refers_nb.training.callbacks import Checkpoint
from refers_nb.training.pretrain import pretrain
from refers_nb.training.step import NonFiniteLoss
table, out, where, n = *sys.argv[1:4], int(sys.argv[4])
save, step = torch.save, Checkpoint.after_batch
count = 0

def dying_save(obj, path):
    global count
    save(obj, path)
    count += 1
    if count < n: return
    os.truncate(path, os.path.getsize(path)//2)
    os.kill(os.getpid(), signal.SIGKILL)

def dying_step(self):
    global count
    step(self)
    count += 1
    if count == n: os.kill(os.getpid(), signal.SIGKILL)

def stopped_step(self):
    "The signal comes in the middle of a step"
    global count
    count += 1
    if count == n: os.kill(os.getpid(), getattr(signal, where))
    step(self)

if where == 'save': torch.save = dying_save
elif where == 'step': Checkpoint.after_batch = dying_step
else: Checkpoint.after_batch = stopped_step
pretrain(table, out, **{ARGS!r})
"""


pytestmark = pytest.mark.usefixtures('alone_and_silent')


@pytest.fixture(scope='module')
def table(tmp_path_factory):
    d = tmp_path_factory.mktemp('phantoms')
    prepare('phantom', 60, d/'prep', size=32, seed=3, valid=.2, test=0)
    return d/'prep'


@pytest.fixture(scope='module')
def whole(table):
    "A run that was never killed"
    out = table.parent/'whole'
    pretrain(table, out, **ARGS)
    return out


def run_fresh(program, *args):
    "Run the text of a program in a new interpreter"
    return subprocess.run([sys.executable, '-W', 'ignore', '-c', program, *map(str, args)], text=True,
                          capture_output=True, env=dict(os.environ, OMP_NUM_THREADS='1'), timeout=300)


def kill_process(table, out, where, n, run=run_fork):
    "Start the run in a process of its own, which ends by SIGKILL"
    r = run(DYING_RUN, table, out, where, n)
    assert r.returncode == -signal.SIGKILL, r.stderr[-2000:]


def kill_here(table, out, where, n):
    "Start the run in this process and end it by an exception"
    def half(obj, path): os.truncate(path, os.path.getsize(path)//2)
    place = (torch, 'save', half) if where == 'save' else (Checkpoint, 'after_batch')
    with killed_after(n, *place): pretrain(table, out, **ARGS)


def check_same(whole, out):
    "Weights and history are equal, and nothing half-written is left"
    a = load_file(whole/'checkpoint'/'model.safetensors')
    b = load_file(out/'checkpoint'/'model.safetensors')
    assert a.keys() == b.keys()
    different = [k for k in a if not torch.equal(a[k], b[k])]
    assert not different, different[:5]
    assert history(out) == history(whole)
    assert not list(out.glob('.tmp-*')), 'a half-written file was left behind'


@pytest.mark.parametrize('kill', [
    kill_here, pytest.param(kill_process, marks=pytest.mark.slow)])
@pytest.mark.parametrize('where, kills', [
    ('step', (1, 4, 5)),
    ('save', (1, 3, 2)),
    pytest.param('step', (7, 2), marks=pytest.mark.slow)])
def test_killed_again_and_again_is_bit_for_bit(table, whole, tmp_path, kill, where, kills):
    out = tmp_path/'run'
    for n in kills:
        kill(table, out, where, n)
        assert not (out/'checkpoint').exists()
    pretrain(table, out, **ARGS)
    check_same(whole, out)


@pytest.mark.parametrize('where, n, run', [
    ('step', 5, run_fork),
    pytest.param('save', 3, run_fresh, marks=pytest.mark.slow)])
def test_killed_by_the_system_is_bit_for_bit(table, whole, tmp_path, where, n, run):
    out = tmp_path/'run'
    kill_process(table, out, where, n, run)
    assert (out/'state.pt').exists() and not (out/'checkpoint').exists()
    assert len(list(out.glob('.tmp-*'))) == (where == 'save'), 'half a file is on the disk'
    pretrain(table, out, **ARGS)
    check_same(whole, out)


def test_a_finished_run_returns_at_once_and_is_not_overwritten(table, whole):
    weights = whole/'checkpoint'/'model.safetensors'
    before = weights.stat().st_mtime_ns
    assert pretrain(table, whole, **ARGS) == whole/'checkpoint'
    assert weights.stat().st_mtime_ns == before
    with pytest.raises(InputError, match='epochs was 2, now 3'):
        pretrain(table, whole, **ARGS | dict(epochs=3))


def test_what_other_arguments_or_versions_left_is_not_continued(table, tmp_path):
    out = tmp_path/'run'
    kill_here(table, out, 'step', 5)
    with pytest.raises(InputError, match='bs was 8, now 4'):
        pretrain(table, out, **ARGS | dict(bs=4))
    state = torch.load(out/'state.pt', weights_only=True)
    for version in (None, state['format'] - 1, state['format'] + 1):
        torch.save(state | dict(format=version), out/'state.pt')
        with pytest.raises(InputError, match=r'state.pt was written by .* version') as e:
            pretrain(table, out, **ARGS)
        assert '\n' not in str(e.value)
    del state['format']
    torch.save(state, out/'state.pt')
    with pytest.raises(InputError, match='an older version'): pretrain(table, out, **ARGS)


def test_nan_in_the_loss_names_step_and_studies_and_keeps_the_state(table, tmp_path, monkeypatch):
    class Spoil(PlainTensors):
        order = -30
        def before_batch(self):
            if not self.training or self.train_iter != 4: return
            views, *rest = self.xb
            self.learn.xb = (views*float('nan'), *rest)

    make = pretrain_module.pretrain_learner
    monkeypatch.setattr(pretrain_module, 'pretrain_learner', lambda *a, **k: make(*a, **k, cbs=[Spoil()]))
    with pytest.raises(NonFiniteLoss, match=r'step 4 .*studies'): pretrain(table, tmp_path/'run', **ARGS)
    state = torch.load(tmp_path/'run'/'state.pt', weights_only=True)
    assert state['train_iter'] == 4
    for weights in state['model'].values():
        assert not weights.is_floating_point() or torch.isfinite(weights).all()


# The run as a command runs it
COMMAND = DYING_RUN.replace('\npretrain(', '\nfrom refers_nb.core import cli_errors\n@cli_errors\ndef refers_pretrain(): pretrain(')
COMMAND += 'refers_pretrain()\n'


@pytest.mark.parametrize('name, n, code, run', [
    ('SIGTERM', 5, 143, run_fork),
    pytest.param('SIGINT', 3, 130, run_fresh, marks=pytest.mark.slow),
    pytest.param('SIGTERM', 1, 143, run_fork, marks=pytest.mark.slow)])
def test_asked_to_stop_it_saves_its_state_and_goes_on_bit_for_bit(table, whole, tmp_path, name, n, code, run):
    out = tmp_path/'run'
    r = run(COMMAND, table, out, name, n)
    assert (r.returncode, r.stderr) == (code, 'refers-pretrain: stopped\n')
    assert torch.load(out/'state.pt', weights_only=True)['train_iter'] == n, 'no step is lost'
    assert json.loads((out/'run.json').read_text())['status'] == 'stopped' and not (out/'.lock').exists()
    pretrain(table, out, **ARGS)
    check_same(whole, out)


def test_what_the_end_needs_is_read_at_the_start(table, tmp_path, monkeypatch):
    def train(*args): raise AssertionError('it trains')
    monkeypatch.setattr(Checkpoint, 'before_fit', train)
    record = (table/'run.json').read_bytes()
    try:
        for content in (record[:50], b'[]', b'{"args": 3}', b''):
            (table/'run.json').write_bytes(content)
            with pytest.raises(InputError, match='run.json is damaged'): pretrain(table, tmp_path/'run', **ARGS)
    finally: (table/'run.json').write_bytes(record)


@pytest.mark.parametrize('change, says', [
    (lambda s: s['place'].update(epoch=99), 'epoch 99, batch . is no place in this run'),
    (lambda s: s['place'].update(epoch=-1), 'cannot be resumed from'),
    (lambda s: s['place'].update(batch='1'), 'cannot be resumed from'),
    (lambda s: s['place'].pop('batch'), 'cannot be resumed from'),
    (lambda s: s['values'].append([1.]), 'cannot be resumed from'),
    (lambda s: s.pop('model'), 'it has no model'),
    (lambda s: s.update(opt=[1]), 'it has no opt'),
    (lambda s: s.update(train_iter='4'), 'it has no train_iter'),
    (lambda s: s['model'].popitem(), 'cannot be resumed from'),
    (lambda s: s['opt'].clear(), 'cannot be resumed from'),
    (lambda s: s['smooth_loss'].clear(), 'cannot be resumed from')])
def test_a_state_with_other_content_is_not_continued(table, tmp_path_factory, change, says):
    out = tmp_path_factory.getbasetemp()/'state'
    if not out.exists(): kill_here(table, out, 'step', 5)
    whole_state = (out/'state.pt').read_bytes()
    state = torch.load(out/'state.pt', weights_only=True)
    change(state)
    torch.save(state, out/'state.pt')
    try:
        with pytest.raises(InputError, match=says) as e: pretrain(table, out, **ARGS)
        assert '\n' not in str(e.value)
    finally: (out/'state.pt').write_bytes(whole_state)


def test_a_folder_of_another_kind_is_left_alone(table, tmp_path):
    from refers_nb.runs import run_record
    for kind, name in dict(finetune='predictions.parquet', comparison='trials', prepare='studies.parquet').items():
        out = tmp_path/kind
        run_record(out, dict(lr=1), kind=kind).finish()
        (out/name).touch()
        before = (out/'run.json').read_bytes()
        with pytest.raises(InputError, match=f'another kind .{kind}, now pretrain'): pretrain(table, out, **ARGS)
        assert (out/'run.json').read_bytes() == before and not (out/'tokenizer.json').exists()
