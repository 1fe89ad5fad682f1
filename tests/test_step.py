"What a training step reads on the host, that nothing else of it has changed, losses looked at late, and a compiled model"
import sys, time
from pathlib import Path
import pytest
import torch
from fastai.callback.core import Callback, CancelFitException
from fastai.callback.schedule import combine_scheds, SchedCos, SchedLin
from fastai.learner import AvgSmoothLoss
from kills import killed_after
from safetensors.torch import load_file

from refers_nb.data.given import image_store
from refers_nb.data.items import StudyItems
from refers_nb.data.loaders import study_dls
from refers_nb.data.prepare import prepare
from refers_nb.data.studies import read_studies
from refers_nb.data.tokens import Tokenizer
from refers_nb.data.views import Views
from refers_nb.models.refers import Refers, refers_model
from refers_nb.models.textenc import ReportEncoder
from refers_nb.training import step as step_module
from refers_nb.training.callbacks import Checkpoint, fuse_attention, setup_progress
from refers_nb.training.losses import RefersLoss
from refers_nb.training.optim import WarmupCosine
from refers_nb.training.pretrain import pretrain, RefersArgs
from refers_nb.training.reports import pretrain_learner
from refers_nb.training.step import Compile, CountOps, NonFiniteLoss, StopOnNonFinite
from refers_nb.training.tensorboard import TensorBoardLogger
from refers_nb.runs import diff_args

MIXED = torch.bfloat16


pytestmark = pytest.mark.usefixtures('alone_and_silent')


@pytest.fixture(autouse=True)
def fresh_compiler():
    "No program of another test"
    yield
    torch.compiler.reset()


@pytest.fixture(scope='module')
def table(tmp_path_factory):
    "60 studies of one or two views"
    folder = tmp_path_factory.mktemp('steps')/'prep'
    prepare('phantom', 75, folder, size=32, seed=3, valid=.2, test=0)
    return folder


def make(table, preset='nano', max_len=32, **kwargs):
    "A Learner, the same for the same arguments"
    df = read_studies(table)
    tok = Tokenizer.train(df['report'][df['split'] == 'train'], 300, max_len=max_len, least=0)
    torch.manual_seed(0)
    dls = study_dls(df, image_store(table), tok, 32, 2, 8, path=table.parent)
    return setup_progress(pretrain_learner(dls, preset, **kwargs))


# Reads

class AsOnGpu(Callback):
    "Look at the losses when a GPU would"
    def before_fit(self): self.stop_on_non_finite.late = True


@pytest.mark.parametrize('kwargs', [{}, dict(dtype=MIXED), dict(opt='paper'), dict(accum=2)], ids=str)
@pytest.mark.parametrize('preset', ['nano', pytest.param('tiny', marks=pytest.mark.slow)])
def test_a_step_reads_nothing_of_what_is_computed(table, tmp_path, preset, kwargs):
    "Of items and nonzeros together 2 at most; on a GPU only the loss of the step before, which has been copied"
    counter = CountOps(3)                                       # with `accum` the end of a step
    logs = Checkpoint(tmp_path/'s.pt', every=10**6), TensorBoardLogger(tmp_path/'tb')
    make(table, preset, **kwargs).fit(1, cbs=[counter, *logs])
    assert counter.counts['all'] > 1000 and counter.counts['item'] + counter.counts['nonzero'] <= 2
    late = CountOps(3)
    make(table, preset, **kwargs).fit(1, cbs=[late, AsOnGpu(), Checkpoint(tmp_path/'t.pt', every=10**6)])
    assert late.counts['item'] <= 1 and late.counts['nonzero'] == 0


def test_a_training_step_has_logits_for_words_only(table):
    "And the loss and the gradient of a table of logits for all places"
    class Look(Callback):
        def after_loss(self):
            report = self.yb[0]
            words = (report[:, 1:] != self.dls.train.dataset.tok.pad_id).sum().item()
            if not self.training: assert self.pred.logits.shape[:2] == report.shape
            else: shares.append(len(self.pred.logits)/report[:, 1:].numel())
            if self.training: assert len(self.pred.logits) == words
    class AllPlaces(Callback):
        order = -10                                             # after `TeacherForcing`
        run_valid = False
        def before_batch(self): self.learn.xb = self.xb[:-1]
    losses, shares = [], []
    for cb in (Look(), AllPlaces()):
        learn = make(table, max_len=100)
        learn.fit(2, cbs=cb)
        losses.append([*map(float, learn.recorder.losses), *learn.recorder.values[-1]])
    assert losses[0] == pytest.approx(losses[1], abs=1e-4) and min(shares) < .9


def test_items_of_adamw_are_its_counters_in_main_memory(table):
    "One for each weight. Here they lie in main memory; on a GPU the fused kernel reads them where they are"
    counter, learn = CountOps(), make(table)
    learn.fit(1, cbs=counter)
    states = learn.opt.opt.state
    assert counter.counts['step counters of AdamW'] == len(states) > 100
    assert all(o['step'].device.type == 'cpu' for o in states.values())


def test_the_counter_sees_reads(table):
    "A callback that asks for the loss, and one that takes a mask, are seen"
    class Asks(Callback):
        run_valid = False
        def after_loss(self): self.loss.item(), self.xb[1][self.xb[1]]
    plain, asked = CountOps(), CountOps()
    make(table).fit(1, cbs=plain)
    make(table).fit(1, cbs=[asked, Asks()])
    assert asked.counts['item'] == plain.counts['item'] + 1
    assert asked.counts['nonzero'] == plain.counts['nonzero'] + 1


# The same results as by the formulas that read on the host

def encode_by_mask(self, views, mask, places=None):
    x = self.vision(views[mask])
    return x.new_zeros(*mask.shape, *x.shape[1:]).index_put((mask,), x)


def augmented_by_mask(self, b, augment, gen):
    views, mask, *reports = b
    x = augment(views.as_subclass(torch.Tensor)[mask], gen)
    out = x.new_zeros(*mask.shape, *x.shape[1:])
    out[mask] = x
    return Views(out), mask, *reports


def combined_rates(self, pos):
    import numpy as np
    lr = np.atleast_1d(np.asarray(self.lrs, float))
    return combine_scheds([self.warmup, 1 - self.warmup], [SchedLin(lr*.01, lr), SchedCos(lr, lr*0)])(pos)


class Watch(Callback):
    "Keep the losses; end after some steps"
    order = 99
    run_valid = False

    def __init__(self, steps): self.steps = steps
    def before_fit(self): self.losses, self.rates = [], []

    def after_batch(self):
        self.losses.append(self.loss.item())
        self.rates.append([float(o['lr']) for o in self.opt.hypers])
        if self.train_iter == self.steps: raise CancelFitException


def trained(table, tmp_path, **kwargs):
    "Everything that five steps leave"
    watch, learn = Watch(5), make(table, **kwargs)
    (tmp_path/'s.pt').unlink(missing_ok=True)
    learn.fit(1, cbs=[Checkpoint(tmp_path/'s.pt', every=10**6), watch])
    state = {**learn.model.state_dict(), **learn.loss_func.state_dict()}
    return state, watch.losses, watch.rates, [float(o) for o in learn.recorder.losses]


@pytest.mark.parametrize('kwargs', [{}, dict(opt='paper')], ids=str)
def test_five_steps_are_bit_for_bit_those_of_the_formulas_that_read(table, tmp_path, monkeypatch, kwargs):
    now = trained(table, tmp_path, **kwargs)
    monkeypatch.setattr(Refers, 'encode_image', encode_by_mask)
    monkeypatch.setattr(StudyItems, 'augmented', augmented_by_mask)
    monkeypatch.setattr(ReportEncoder, 'attention_mask', lambda self, mask: mask.long())
    monkeypatch.setattr(WarmupCosine, '__call__', combined_rates)
    monkeypatch.setattr(step_module, 'SmoothLoss', AvgSmoothLoss)
    was = trained(table, tmp_path, **kwargs)
    assert len(now[1]) == 5 and len(set(now[1])) == 5
    assert now[1:] == was[1:]
    assert now[0].keys() == was[0].keys() and all(torch.equal(now[0][k], was[0][k]) for k in now[0])


@pytest.mark.parametrize('implementation', ['sdpa', 'eager'])
def test_report_vectors_are_those_of_the_mask_that_transformers_makes(implementation):
    "Reports with padding, without, and with nothing else"
    torch.manual_seed(0)
    text = refers_model('nano', vocab=300, size=32, max_len=32).text.eval()
    text.bert.set_attn_implementation(implementation)
    padded = torch.tensor([[5, 6, 7, 0, 0], [4, 5, 6, 7, 8]])
    for report in (padded, padded[1:], torch.cat([padded, torch.zeros_like(padded[:1])])):
        own = text(report)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ReportEncoder, 'attention_mask', lambda self, mask: mask.long())
            assert torch.equal(own, text(report))


# A loss that is no number

class Poison(Callback):
    "A loss that is no number, at one step"
    order = -9
    run_valid = False

    def __init__(self, step, late):
        self.step, self.late = step, late

    def before_fit(self): self.stop_on_non_finite.late = self.late

    def after_loss(self):
        if self.train_iter != self.step: return
        self.learn.loss_grad = self.loss_grad*float('nan')
        self.learn.loss = self.loss_grad.clone()


def stopped(table, tmp_path, step, late, every=10**6):
    "The Learner that was stopped, and the message"
    learn = make(table)
    cbs = [Checkpoint(tmp_path/'s.pt', every=every), Poison(step, late)]
    with pytest.raises(NonFiniteLoss) as e: learn.fit(1, cbs=cbs)
    return learn, str(e.value)


def names_of(learn, batch):
    "How the message tells the studies of a batch"
    dl = learn.dls.train
    return ', '.join(str(dl.dataset.studies[i]) for i in dl.batch_idxs(0, batch)[:8])


def is_finite(state): return all(x.isfinite().all() for x in state.values() if x.is_floating_point())


@pytest.mark.parametrize('late', [False, True])
def test_the_message_is_of_the_step_whose_loss_it_was(table, tmp_path, late):
    learn, message = stopped(table, tmp_path, 2, late)
    assert f'the loss is nan at step 2 (epoch 0, batch 2 of studies {names_of(learn, 2)}). ' in message
    assert learn.train_iter == 2 + late                         # one step late at most
    told = 'No state was saved after it' if late else 'No weight was changed'
    assert told in message and is_finite(learn.model.state_dict()) == (not late)


@pytest.mark.parametrize('late', [False, True])
@pytest.mark.parametrize('step, saved', [(1, None), (2, 2), (3, 2)])
def test_no_state_is_saved_after_it(table, tmp_path, monkeypatch, late, step, saved):
    "A state is due after every second step, also right after the step that was bad; a slow disk is waited for"
    write_file = Checkpoint.write_file
    monkeypatch.setattr(Checkpoint, 'write_file', lambda self, state: (time.sleep(.3), write_file(self, state)))
    learn, _ = stopped(table, tmp_path, step, late, every=2)
    if saved is None:
        assert not (tmp_path/'s.pt').exists()
        return
    state = torch.load(tmp_path/'s.pt', weights_only=True)
    assert state['train_iter'] == saved and is_finite(state['model']) and is_finite(state['loss'])


@pytest.mark.parametrize('late', [False, True])
def test_the_last_step_of_an_epoch_has_none_after_it(table, tmp_path, late):
    "It stops before validation and state"
    last = len(make(table).dls.train) - 1
    learn, message = stopped(table, tmp_path, last, late)
    assert f'at step {last} ' in message and not (tmp_path/'s.pt').exists()
    assert not learn.recorder.values


def test_the_log_shows_the_steps_before_it(table, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    learn, log = make(table), TensorBoardLogger(tmp_path/'tb')
    with pytest.raises(NonFiniteLoss): learn.fit(1, cbs=[log, Poison(3, False)])
    log.writer.flush()
    events = EventAccumulator(str(tmp_path/'tb')).Reload()
    assert [o.step for o in events.Scalars('train/loss')] == [1, 2, 3]


# A compiled model

def batch(n, t):
    "A batch with `n` views and reports of `t` tokens"
    g = torch.Generator().manual_seed(n)
    mask = torch.zeros(8, 2, dtype=torch.bool)
    mask.flatten()[torch.randperm(16, generator=g)[:n]] = True
    mask[:, 0] = True
    report = torch.randint(4, 300, (8, t), generator=g)
    report[0, t - 3:] = 0
    return torch.randn(8, 2, 1, 32, 32, generator=g), mask, report, None, mask.flatten().nonzero()[:, 0]


def gradient(model, crit, forward, b):
    "Of a step"
    torch.manual_seed(0)
    model.zero_grad()
    crit(forward(*b), b[2]).backward()
    return {k: p.grad.clone() for k, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize('fused', [True, False])
def test_the_whole_model_is_one_graph_for_batches_of_all_sizes(fused):
    "No break; the same gradient to the bit"
    torch.manual_seed(0)
    model = refers_model('nano', vocab=300, size=32, max_len=32, k=2)
    fuse_attention(model, fused)
    torch.compiler.reset()
    graphs = []
    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward
    compiled = torch.compile(model.forward, fullgraph=True, backend=backend)
    crit = RefersLoss()
    for n, t in ((3, 12), (5, 20), (12, 17)):
        b = batch(n, t)
        for o in (b[2], b[4]): torch._dynamo.maybe_mark_dynamic(o, o.ndim - 1)
        own, plain = gradient(model, crit, compiled, b), gradient(model, crit, model, b)
        assert all(torch.equal(own[k], plain[k]) for k in plain)
    assert len(graphs) == 1


def test_a_compiled_run_is_the_same_and_leaves_the_model_as_it_was(table):
    "With all of the compiler but its own kernels: the same losses, metrics and names of weights"
    plain, own = make(table), make(table, cbs=[Compile('aot_eager')])
    for learn in (plain, own):
        torch.manual_seed(0)
        learn.fit(1)
    assert [list(map(float, o)) for o in own.recorder.values] == [list(map(float, o)) for o in plain.recorder.values]
    a, b = own.model.state_dict(), plain.model.state_dict()
    assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
    assert 'forward' not in vars(own.model)


@pytest.mark.slow
def test_a_compiled_run_goes_on_after_an_error(table, tmp_path):
    "The wrapper of a fit that has ended in the middle is not wrapped again"
    learn = make(table, cbs=[Compile('eager')], dtype=MIXED)
    with pytest.raises(NonFiniteLoss): learn.fit(1, cbs=Poison(1, False))
    compile = learn.compile
    first = compile.own
    learn.fit(1)
    assert compile.own is first and 'forward' not in vars(learn.model)


ARGS = dict(preset='nano', start='random', size=32, bs=8, epochs=1, n_views=2, vocab=300, max_len=32, save_every=2,
            precision='fp32', device='cpu', tensorboard=False)


def test_compile_is_part_of_what_a_run_is(table):
    now = RefersArgs(preset='nano', start='random').record(table)
    was = {k: v for k, v in now.items() if k != 'compile'}
    assert now['compile'] is False and not diff_args(was, now)
    assert 'compile' in diff_args(was, now | dict(compile=True))


def check_killed_run(table, tmp_path):
    "A compiled run that is killed goes on to the weights of one that was not"
    pretrain(table, tmp_path/'whole', **ARGS, compile=True)
    with killed_after(5, Checkpoint, 'after_batch'): pretrain(table, tmp_path/'o', **ARGS, compile=True)
    torch.compiler.reset()                                      # as a new process
    pretrain(table, tmp_path/'o', **ARGS, compile=True)
    a, b = (load_file(tmp_path/o/'checkpoint'/'model.safetensors') for o in ('whole', 'o'))
    assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.slow
def test_a_killed_compiled_run_goes_on_exactly(table, tmp_path, monkeypatch):
    monkeypatch.setattr('refers_nb.training.pretrain.Compile', lambda: Compile('aot_eager'))
    check_killed_run(table, tmp_path)
    pretrain(table, tmp_path/'plain', **ARGS)
    a, b = (load_file(tmp_path/o/'checkpoint'/'model.safetensors') for o in ('whole', 'plain'))
    assert all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.slow
def test_a_killed_run_of_compiled_kernels_goes_on_exactly(table, tmp_path):
    check_killed_run(table, tmp_path)


def test_the_flag_reaches_the_run(call, table, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr('refers_nb.training.baselines.baseline', lambda *_, **recipe: seen.append(recipe))
    assert call('refers-pretrain', table, tmp_path/'o', '--compile')[0] == 0
    assert call('refers-pretrain', table, tmp_path/'o')[0] == 0
    assert seen[0]['compile'] is True and 'compile' not in seen[1]
    code, _, err = call('refers-pretrain', table, tmp_path/'o', '--method', 'mae', '--compile')
    assert code == 1 and '--compile is for methods that read reports' in err


# Counts for people

@pytest.mark.slow
def test_the_benchmark_prints_counts(monkeypatch, capsys):
    monkeypatch.setattr(sys, 'path', [str(Path(__file__).parent.parent/'benchmarks'), *sys.path])
    import step
    monkeypatch.setattr(sys, 'argv', ['step.py', '--count', '--preset', 'nano', '--device', 'cpu'])
    step.main()
    rows = {line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.splitlines() if line.strip()}
    for item, nonzero in zip(rows['item'], rows['nonzero'], strict=True): assert int(item) + int(nonzero) <= 2
    assert int(rows['casts'][1]) > int(rows['casts'][0])        # fp32, then bf16
