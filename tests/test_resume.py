"""Pre-training killed with SIGKILL, also while its state is written, ends with the weights of a run that was never killed."""
import os, signal, subprocess, sys, time
import pytest, torch
from refers_nb.data.prepare import prepare

ARGS = dict(preset='tiny', start='random', size=32, bs=8, epochs=2, n_views=2, vocab=300, save_every=2, precision='fp32', device='cpu', tensorboard=False)
RUN = """
import sys, os, signal, torch
torch.set_num_threads(1)
from refers_nb.training import callbacks, pretrain
table,out,kill,where = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
save,step,n = torch.save, callbacks.Checkpoint.after_batch, [0]
def dying_save(obj, f, *a, **k):
    n[0] += where=='save'
    if where=='save' and n[0]==kill:                    # half a file is on the disk when the kill comes
        save(obj, f, *a, **k); size = os.path.getsize(f); os.truncate(f, size//2)
        os.kill(os.getpid(), signal.SIGKILL)
    return save(obj, f, *a, **k)
torch.save = dying_save
def dying_step(self):
    step(self)
    n[0] += where=='step'
    if where=='step' and n[0]==kill: os.kill(os.getpid(), signal.SIGKILL)
callbacks.Checkpoint.after_batch = dying_step
if where=='step': torch.save = save
pretrain.pretrain(table, out, **ARGS)
""".replace('ARGS', repr(ARGS))

def run(table, out, kill=0, where='step'):
    return subprocess.run([sys.executable, '-c', RUN, str(table), str(out), str(kill), where], capture_output=True, text=True,
                          env=dict(os.environ, OMP_NUM_THREADS='1'), timeout=300)

@pytest.fixture(scope='module')
def table(tmp_path_factory):
    d = tmp_path_factory.mktemp('phantoms')
    prepare('phantom', 60, d/'prep', size=32, seed=3, valid=.2, test=0)
    return d/'prep'

@pytest.fixture(scope='module')
def whole(table):
    out = table.parent/'whole'
    r = run(table, out)
    assert r.returncode==0, r.stderr[-2000:]
    return out

def weights(out):
    from safetensors.torch import load_file
    return load_file(out/'checkpoint'/'model.safetensors')

@pytest.mark.parametrize('where,kills', [('step', (1, 4, 5)), ('save', (1, 3, 2)), ('step', (7, 2))])
def test_killed_and_resumed_is_bit_for_bit(table, whole, tmp_path, where, kills):
    out = tmp_path/'run'
    for kill in kills:
        r = run(table, out, kill, where)
        assert r.returncode==-signal.SIGKILL, r.stderr[-2000:]
        assert not (out/'checkpoint').exists()
    r = run(table, out)
    assert r.returncode==0, r.stderr[-2000:]
    a,b = weights(whole),weights(out)
    assert a.keys()==b.keys()
    assert all(torch.equal(a[k], b[k]) for k in a), [k for k in a if not torch.equal(a[k], b[k])][:5]
    assert (out/'history.csv').read_text()==(whole/'history.csv').read_text()
    assert not list(out.glob('.tmp-*')), 'a half-written file was left behind'

def test_a_finished_run_returns_at_once_and_is_not_overwritten(table, whole):
    from refers_nb.core import InputError
    from refers_nb.training.pretrain import pretrain
    before = (whole/'checkpoint'/'model.safetensors').stat().st_mtime_ns
    assert pretrain(table, whole, **ARGS)==whole/'checkpoint'
    assert (whole/'checkpoint'/'model.safetensors').stat().st_mtime_ns==before
    with pytest.raises(InputError, match='epochs was 2, now 3'): pretrain(table, whole, **ARGS|dict(epochs=3))

def test_other_arguments_do_not_continue_a_run(table, tmp_path):
    from refers_nb.core import InputError
    from refers_nb.training.pretrain import pretrain
    r = run(table, tmp_path/'run', 5)
    assert r.returncode==-signal.SIGKILL and (tmp_path/'run'/'state.pt').exists()
    with pytest.raises(InputError, match='bs was 8, now 4'): pretrain(table, tmp_path/'run', **ARGS|dict(bs=4))

def test_nan_in_the_loss_names_step_and_studies_and_keeps_the_state(table, tmp_path):
    from refers_nb.training import pretrain as P
    from refers_nb.training.callbacks import NonFiniteLoss
    class Spoil(P.Callback):
        order = -30
        def before_batch(self):
            if self.training and self.train_iter==4: self.learn.xb = (self.xb[0]*float('nan'), self.xb[1])
    make = P.pretrain_learner
    try:
        P.pretrain_learner = lambda *a, **k: make(*a, **k, cbs=[Spoil()])
        with pytest.raises(NonFiniteLoss, match=r'step 4 .*studies'): P.pretrain(table, tmp_path/'run', **ARGS)
    finally: P.pretrain_learner = make
    state = torch.load(tmp_path/'run'/'state.pt', weights_only=True)
    assert state['train_iter']==4
    assert all(torch.isfinite(v).all() for v in state['model'].values() if v.is_floating_point())
