"A step of several batches is that of one large batch: gradient, weights, ranks, resuming; patches left out, layers computed twice"
import json
from pathlib import Path
import pytest
import torch
from fastai.callback.core import Callback, CancelFitException
from fastai.callback.fp16 import MixedPrecision
from kills import history, killed_after, run_fork
from safetensors.torch import load_file

from refers_nb.core import InputError
from refers_nb.data.given import image_store
from refers_nb.data.loaders import Augment, study_dls
from refers_nb.data.prepare import prepare
from refers_nb.data.studies import label_names, read_studies
from refers_nb.data.terms import inverse_document_frequency
from refers_nb.data.told import report_labels
from refers_nb.data.tokens import Tokenizer
from refers_nb.models.hub import load_checkpoint
from refers_nb.models.refers import refers_model
from refers_nb.models.savings import drop_patches, KeptBytes, recompute
from refers_nb.runs import diff_args
from refers_nb.training.accumulate import LargeBatch
from refers_nb.training.callbacks import Checkpoint
from refers_nb.training.losses import RefersLoss
from refers_nb.training.pretrain import pretrain, RefersArgs
from refers_nb.training.reports import pretrain_learner
from refers_nb.training.step import CountOps, NonFiniteLoss

STILL = Augment(32, (1., 1.), ratio=(1., 1.), light=0., rotate=0.)


pytestmark = pytest.mark.usefixtures('alone_and_silent')


@pytest.fixture(scope='module')
def table(tmp_path_factory):
    "60 training studies of one or two views"
    folder = tmp_path_factory.mktemp('large')/'prep'
    prepare('phantom', 75, folder, size=32, seed=3, valid=.2, test=0)
    return folder


class Watch(Callback):
    "Keep gradients before each step, as clipped, and end after some steps"
    order = 99
    run_valid = False

    def __init__(self, steps): self.steps = steps

    def before_fit(self): self.grads, self.losses = [], []

    def before_step(self):
        named = [*self.model.named_parameters(), *self.loss_func.named_parameters()]
        self.grads.append({k.removeprefix('module.'): p.grad.clone() for k, p in named if p.grad is not None})

    def after_step(self): self.losses.append(self.loss.clone())

    def after_batch(self):
        if len(self.grads) == self.steps: raise CancelFitException


def make(table, bs, accum=1, dropout=0., opt='paper', clip=1., change=lambda model: None, loss=(), **how):
    "A learner whose batches follow the same order whatever their size"
    df = read_studies(table)
    df.loc[df['study'].isin(df['study'].unique()[::5]), 'report'] = 'The lungs are clear.'
    tok = Tokenizer.train(df['report'], 1000, max_len=150)
    if 'labels' in loss: df = report_labels(df)
    findings = label_names(df) if 'labels' in loss else []
    dls = study_dls(df, image_store(table), tok, 32, 2, bs, seed=0, flip=0., augment=STILL, findings=findings)
    torch.manual_seed(0)
    rates = dict(dropout=dropout)
    model = refers_model('nano', vocab=len(tok), size=32, k=2, max_len=150, text=rates, decoder=rates, **how)
    change(model)
    idf = inverse_document_frequency(tok, map(tok, df['report']))
    head = torch.nn.Linear(model.fusion.out_dim, len(findings)) if findings else None
    crit = RefersLoss(learn_tau=True, pad_id=tok.pad_id, idf=idf, head=head, **dict(loss))
    return pretrain_learner(dls, model, crit, vision_lr=1., opt=opt, clip=clip, accum=accum)


def fitted(learn, steps=3, lr=.05, **how):
    "What `Watch` saw"
    watch = Watch(steps)
    with learn.no_bar(), learn.no_logging(): learn.fit(1, lr=lr, cbs=[watch], **how)
    return watch


# The large batch

@pytest.mark.parametrize('fusion, loss, clip', [
    ('attention', {}, 1e9), ('attention', {}, .1), ('gate', dict(mask_same=False), .1), ('attention', dict(near=.3), .1),
    ('attention', dict(gen=0.), 1e9), ('attention', dict(match=0.), 1e9), ('gate', dict(labels=3.), 1e9),
    ('attention', dict(rare=1.), 1e9)])
def test_gradient_and_weights_are_those_of_the_large_batch(table, fusion, loss, clip):
    runs = []
    for bs, accum in ((16, 1), (4, 4)):
        learn = make(table, bs, accum, clip=clip, fusion=fusion, loss=loss)
        start = {k: v.clone() for k, v in learn.model.state_dict().items()}
        runs.append((fitted(learn), learn.model.state_dict(), learn.loss_func.log_tau, learn.recorder))
    (large, weights, tau, recorder), (parts, part_weights, part_tau, part_recorder) = runs
    assert len(large.grads) == len(parts.grads) == 3
    for a, b in zip(large.grads, parts.grads):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=0)
    norm = torch.cat([o.flatten() for k, o in large.grads[0].items() if k != 'log_tau']).norm()
    assert norm > 1 if clip > 1 else norm == pytest.approx(clip, rel=1e-3)
    if loss.get('match') != 0: assert large.grads[0]['log_tau'].abs() > 1e-4
    torch.testing.assert_close(weights, part_weights, atol=1e-5, rtol=0)
    torch.testing.assert_close(tau, part_tau, atol=1e-5, rtol=0)
    torch.testing.assert_close(large.losses, parts.losses, atol=1e-5, rtol=0)
    torch.testing.assert_close(torch.stack(list(recorder.losses)), torch.stack(list(part_recorder.losses)), atol=1e-5, rtol=0)
    assert max((weights[k] - start[k]).abs().max() for k in start) > 1e-4


def test_parts_have_reports_of_other_lengths_and_equal_ones(table):
    "What the test above is about is in its data"
    learn = make(table, 4)
    reports = [batch[2] for batch in learn.dls.train]
    assert len({o.shape[1] for o in reports}) > 2
    texts = [tuple(o[o > 0].tolist()) for batch in reports for o in batch]
    groups = [texts[i:i + 16] for i in range(0, 48, 16)]
    assert any(len({*o}) < len(o) for o in groups)


def test_without_a_report_encoder_words_count_alike(table):
    "Parts whose reports have different numbers of words"
    def deaf(model): model.text = None
    grads = [fitted(make(table, bs, accum, change=deaf, loss=dict(match=0.)), 1).grads[0] for bs, accum in ((16, 1), (4, 4))]
    torch.testing.assert_close(*grads, atol=1e-5, rtol=0)


def test_adding_gradients_is_something_else(table):
    "The test above can fail"
    from fastai.callback.training import GradientAccumulation
    whole = fitted(make(table, 16, clip=1e9), 1).grads[0]
    learn = make(table, 4, clip=1e9)
    learn.add_cb(GradientAccumulation(16))
    added = fitted(learn, 1).grads[0]
    assert max((whole[k] - added[k]).abs().max() for k in whole) > 1e-2


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_in_lower_precision_too(table, dtype):
    "As near as the type allows: of float16 the scale must have gone from all parts of the gradient"
    grads = []
    for bs, accum in ((16, 1), (4, 4)):
        learn = make(table, bs, accum, clip=1.).to_precision(dtype)
        grads.append(torch.cat([o.flatten() for o in fitted(learn, 1).grads[0].values()]))
    assert torch.nn.functional.cosine_similarity(*grads, dim=0) > .999
    assert grads[1].norm() == pytest.approx(grads[0].norm().item(), rel=.02)


def test_fastais_own_autocast_is_refused(table):
    learn = make(table, 4, 4)
    learn.add_cb(MixedPrecision(enabled=False))
    with pytest.raises(InputError, match='accum does not go with MixedPrecision'): fitted(learn)


class BothPasses(LargeBatch):
    "Keep what the model gave in both passes"
    def before_fit(self): self.seen = {False: [], True: []}

    def after_pred(self):
        self.seen[self.replays].append([o.detach().clone() for o in self.pred])
        super().after_pred()


def test_batch_normalisation_is_refused(table):
    "A part of the batch would be normalised by itself"
    learn = make(table, 4, 4, change=lambda model: model.vision.add_module('norm', torch.nn.BatchNorm2d(3)))
    with pytest.raises(InputError, match='vision.norm normalises over the images of a batch'): fitted(learn)


@pytest.mark.slow
def test_the_second_pass_draws_what_the_first_drew(table):
    "With dropout everywhere, patches and layers left out, layers computed twice, and under autocast"
    def change(model): recompute(drop_patches(model, .5))
    for dtype in (torch.float32, torch.bfloat16):
        learn = make(table, 4, dropout=.3, drop_path=.3, change=change).to_precision(dtype)
        passes = BothPasses(3)
        learn.add_cb(passes)
        fitted(learn)
        first, second = passes.seen[False], passes.seen[True]
        assert len(first) == len(second) == 9
        for a, b in zip(first, second):
            assert all(torch.equal(x, y) for x, y in zip(a, b))
        assert not torch.equal(first[0][1], first[1][1])


def test_memory_is_that_of_one_part(table):
    peaks = {}
    for bs, accum in ((16, 1), (4, 4)):
        learn = make(table, bs, accum)
        with KeptBytes(learn.model) as kept: fitted(learn, 2)
        peaks[accum] = kept.peak
    assert peaks[4] < .3*peaks[1]


# The end of an epoch, numbers that are none

def test_the_last_step_of_an_epoch_takes_what_is_left(table):
    learn = make(table, 8, 4)
    n = len(learn.dls.train)
    assert n % 4
    steps = []
    class Count(Callback):
        order = 99
        def before_step(self): steps.append(self.train_iter)
    with learn.no_bar(), learn.no_logging(): learn.fit(2, lr=.01, cbs=Count())
    ends = [*range(3, n - 1, 4), n - 1]
    assert steps == ends + [n + o for o in ends]
    assert len(learn.recorder.losses) == len(steps) and learn.train_iter == 2*n


class Spoil(Callback):
    "Make the views of one batch infinite"
    order = -15
    run_valid = False
    def __init__(self, batch): self.batch = batch
    def before_batch(self):
        if self.train_iter == self.batch: self.learn.xb = (self.xb[0]*float('inf'), *self.xb[1:])


@pytest.mark.parametrize('batch', [0, 1, 3, 5])
def test_a_loss_that_is_none_is_told_where_it_is(table, batch):
    "The batch itself, not the last one of its step; the weights are those after the steps before"
    good = make(table, 4, 4)
    if batch > 3: fitted(good, 1)
    before = good.model.state_dict()
    learn = make(table, 4, 4)
    silent = learn.no_bar(), learn.no_logging()
    with pytest.raises(NonFiniteLoss, match=f'step {batch} .*batch {batch} of studies') as e, silent[0], silent[1]:
        learn.fit(1, lr=.05, cbs=[Spoil(batch)])
    names = learn.dls.train.dataset.studies
    assert all(str(names[i]) in str(e.value) for i in learn.dls.train.batch_idxs(0, batch))
    after = learn.model.state_dict()
    assert torch.is_grad_enabled() and all(torch.equal(before[k], after[k]) for k in before)


def test_looked_at_late_a_batch_of_a_step_still_stops_it(table):
    "As on a GPU: the loss of one batch is looked at in the next, and the step is not taken"
    learn = make(table, 4, 4)
    before = {k: v.clone() for k, v in learn.model.state_dict().items()}
    learn.stop_on_non_finite.late = True
    with pytest.raises(NonFiniteLoss, match='step 1 .*batch 1 of studies'), learn.no_bar(), learn.no_logging():
        learn.fit(1, lr=.05, cbs=[Spoil(1)])
    after = learn.model.state_dict()
    assert torch.is_grad_enabled() and all(torch.equal(before[k], after[k]) for k in before)


def test_nothing_is_read_from_the_device(table):
    "In the batch that sets aside, and in the one that ends a step"
    for step in (5, 7):
        learn = make(table, 4, 4, opt='adamw')
        learn.stop_on_non_finite.late = True
        count = CountOps(step)
        learn.add_cb(count)
        fitted(learn)
        assert count.counts[['item', 'nonzero']].sum() <= 2, count.counts


def test_an_error_in_the_model_leaves_gradients_switched_on(table):
    learn = make(table, 4, 4)
    def stop(*_): raise KeyboardInterrupt
    hook = learn.model.vision.register_forward_hook(stop)
    with pytest.raises(KeyboardInterrupt): fitted(learn)
    assert torch.is_grad_enabled()
    hook.remove()
    assert len(fitted(learn).grads) == 3


# Runs

ARGS = dict(preset='nano', start='random', size=32, bs=8, epochs=2, n_views=2, vocab=300, max_len=32, save_every=1,
            precision='fp32', device='cpu', tensorboard=False, accum=3, patch_drop=.5, checkpointing=True, drop_path=.1)


@pytest.fixture(scope='module')
def whole(table):
    "A run that was never killed"
    out = table.parent/'whole'
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('REFERS_NB_PROGRESS', '0')
        torch.set_num_threads(1)
        pretrain(table, out, **ARGS)
    return out


def weights(out): return load_file(out/'checkpoint'/'model.safetensors')


@pytest.mark.parametrize('n', [5, 10, *[pytest.param(o, marks=pytest.mark.slow) for o in (2, 7, 8)]])
def test_a_killed_run_goes_on_exactly(table, whole, tmp_path, n):
    "Killed after a batch: in a step, after one, after the smaller step that ends an epoch"
    with killed_after(n, Checkpoint, 'after_batch'): pretrain(table, tmp_path/'o', **ARGS)
    state = tmp_path/'o'/'state.pt'
    batches = json.loads((whole/'run.json').read_text())['steps']//2
    if state.exists():
        place = torch.load(state, weights_only=True)['place']
        assert place['batch'] % 3 == 0 or place['batch'] == batches
    pretrain(table, tmp_path/'o', **ARGS)
    a, b = weights(whole), weights(tmp_path/'o')
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert history(tmp_path/'o') == history(whole)


def test_states_are_saved_although_steps_and_saves_do_not_meet(table, tmp_path, monkeypatch):
    "Every 4 batches, with steps of 3: after the batches 6 and at the end of each epoch"
    saved = []
    monkeypatch.setattr(Checkpoint, 'save', lambda self, next_epoch=None, wait=True: saved.append(self.train_iter))
    pretrain(table, tmp_path/'o', **ARGS | dict(save_every=4, epochs=1))
    batches = json.loads((tmp_path/'o'/'run.json').read_text())['steps']
    assert batches == 7 and saved == [6, 7, 7]


def test_layers_computed_twice_change_no_bit(table, whole, tmp_path):
    pretrain(table, tmp_path/'o', **ARGS | dict(checkpointing=False))
    a, b = weights(whole), weights(tmp_path/'o')
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert history(tmp_path/'o') == history(whole)


def test_patches_left_out_change_what_is_learnt_and_not_what_is_saved(table, whole, tmp_path):
    pretrain(table, tmp_path/'o', **ARGS | dict(patch_drop=0.))
    a, b = weights(whole), weights(tmp_path/'o')
    assert a.keys() == b.keys() and any(not torch.equal(a[k], b[k]) for k in a)
    configs = [json.loads((o/'checkpoint'/'config.json').read_text()) for o in (whole, tmp_path/'o')]
    for o in configs: del o['training']
    assert configs[0] == configs[1]
    model, _ = load_checkpoint(whole/'checkpoint')
    tokens = model.train().vision(torch.zeros(1, 1, 32, 32))
    assert tokens.shape[1] == 1 + 4                             # 32 pixels, patches of 16


def test_arguments_that_are_off_are_those_of_older_runs(table):
    now = RefersArgs(preset='nano', start='random').record(table)
    younger = 'patch_drop', 'checkpointing', 'near', 'drop_sentences', 'shuffle_sentences', 'with_labels', 'rare_words'
    was = {k: v for k, v in now.items() if k not in younger}
    assert len(was) == len(now) - len(younger)
    assert not diff_args(was, now)
    assert 'patch_drop' in diff_args(was, now | dict(patch_drop=.5))


def test_a_plan_times_whole_steps(table, tmp_path):
    plan = pretrain(table, tmp_path/'o', **ARGS | dict(epochs=3), dry_run=True)
    assert plan['steps taken as one'] == 3 and plan['steps'] == 3*plan['steps per epoch'] == 21
    assert plan['timed steps'] == 12 and not [*tmp_path.iterdir()]


def test_a_step_is_not_longer_than_an_epoch(table, tmp_path):
    with pytest.raises(InputError, match='a step takes 8 batches, a pass over the studies has 7'):
        pretrain(table, tmp_path/'o', **ARGS | dict(accum=8))


@pytest.mark.parametrize('flags', [['--patch-drop', .5], ['--checkpointing'], ['--near', .5], ['--shuffle-sentences'], ['--gen', .1],
                                   ['--rare-words', 1.], ['--with-labels', 1.]])
def test_flags_reach_the_run(call, table, tmp_path, flags, monkeypatch):
    seen = []
    monkeypatch.setattr('refers_nb.training.baselines.baseline', lambda *_, **recipe: seen.append(recipe))
    assert call('refers-pretrain', table, tmp_path/'o', *flags)[0] == 0
    name = flags[0].strip('-').replace('-', '_')
    assert seen[0][name] == (flags[1] if flags[1:] else True)
    code, _, err = call('refers-pretrain', table, tmp_path/'o', '--method', 'mae', *flags)
    assert code == 1 and f'{flags[0]} is for methods that read reports' in err


def test_matching_alone_has_no_weight_of_writing(call, table, tmp_path):
    code, _, err = call('refers-pretrain', table, tmp_path/'o', '--method', 'matching', '--gen', .1)
    assert code == 1 and '--gen is for methods that write reports' in err


@pytest.mark.parametrize('rate', [-.1, 1, 'half', float('nan')])
def test_shares_that_are_none(table, tmp_path, rate):
    with pytest.raises(InputError, match='patch_drop'): pretrain(table, tmp_path/'o', **ARGS | dict(patch_drop=rate))


# Patches and layers

@pytest.mark.parametrize('fusion', ['attention', 'gate'])
@pytest.mark.parametrize('name', ['test_vit', 'vit_tiny_patch16_224', 'vit_medium_patch16_reg4_gap_256'])
def test_all_that_follows_takes_the_patches_that_are_left(fusion, name):
    from refers_nb.models.refers import Refers, refers_config
    config = refers_config('nano', vocab=50, size=64, k=2, fusion=fusion)
    config['vision']['name'] = name
    model = drop_patches(Refers(config), .5).train()
    p = model.vision.grid[0]*model.vision.grid[1]
    mask = torch.tensor([[True, True], [True, False], [True, True]])
    views, report = torch.randn(3, 2, 1, 64, 64), torch.randint(4, 50, (3, 9))
    torch.manual_seed(1)
    out = model(views, mask, report)
    assert out.view_weights.shape == (3, 2, p//2) and not out.view_weights[1, 1].any()
    torch.manual_seed(1)
    assert torch.equal(model(views, mask, report).view_weights, out.view_weights)
    torch.manual_seed(2)
    assert not torch.equal(model(views, mask, report).view_weights, out.view_weights)
    out.logits.sum().backward()
    assert model.eval()(views, mask, report).view_weights.shape == (3, 2, p)


def test_the_gate_compares_the_same_places():
    "Every patch carries its number: what is left is the same in all images and in order"
    model = drop_patches(refers_model('nano', vocab=50, size=64, k=2, fusion='gate'), .5)
    numbers = torch.arange(17.).expand(6, -1)[..., None]        # a class token and 16 patches
    left = model.vision.vit.patch_drop.train()(numbers)[..., 0]
    assert left.shape == (6, 9) and (left == left[0]).all() and (left[0].diff() > 0).all() and left[0, 0] == 0
    assert isinstance(drop_patches(model, 0).vision.vit.patch_drop, torch.nn.Identity)


def test_frozen_layers_of_the_report_encoder_and_checkpointing():
    grads = []
    for on in (False, True):
        torch.manual_seed(0)
        model = refers_model('nano', vocab=50, size=32, k=1, freeze=1).train()
        recompute(model, on)
        batch = torch.randn(2, 1, 1, 32, 32), torch.ones(2, 1, dtype=torch.bool), torch.randint(4, 50, (2, 6))
        out = model(*batch)
        (out.logits.logsumexp(-1).mean() + out.text_embeds.pow(2).mean()).backward()
        grads.append({k: p.grad for k, p in model.named_parameters() if p.requires_grad})
    assert any(k.startswith('text.bert') for k in grads[0]) and not model.text.bert.get_input_embeddings()._forward_hooks
    for k in grads[0]: assert torch.equal(grads[0][k], grads[1][k]) if grads[0][k] is not None else grads[1][k] is None
    assert not recompute(model, False).vision.vit.grad_checkpointing and not model.decoder.grad_checkpointing


# Several processes

RANKS = '''
import sys, torch, torch.distributed as dist
sys.path.insert(0, sys.argv[1])
from test_accumulate import fitted, make
from refers_nb.models.savings import recompute
from refers_nb.training.distributed import over_ranks
from refers_nb.training.step import Compile

def work(table, folder, rank, world, bs, accum, name):
    torch.set_num_threads(1)
    if world > 1: dist.init_process_group('gloo', init_method=f'file://{folder}/meet', rank=rank, world_size=world)
    learn = over_ranks(make(table, bs, accum))
    if name == 'compiled':
        recompute(learn.model)
        learn.add_cb(Compile('aot_eager'))
    watch = fitted(learn)
    torch.save(dict(weights=learn.model.state_dict(), tau=learn.loss_func.log_tau.detach(), losses=watch.losses,
                    grads=watch.grads), f'{folder}/{name}-{rank}.pt')
    if world > 1: dist.destroy_process_group()

table, folder = sys.argv[2:4]
fork = torch.multiprocessing.get_context('fork')
for world, *what in ((1, 16, 1, 'one'), (2, 8, 2, 'parts'), (2, 16, 1, 'compiled')):
    ranks = [fork.Process(target=work, args=(table, folder, r, world, *what), daemon=True) for r in range(world)]
    for p in ranks: p.start()
    for p in ranks: p.join()
    if any(p.exitcode for p in ranks): sys.exit(f'a rank of {what} failed')
'''


@pytest.mark.slow
def test_parts_of_ranks_are_one_batch(table, tmp_path):
    "Two processes learn as one with the whole batch: each with two parts, or as a program that computes layers twice"
    run = run_fork(RANKS, Path(__file__).parent, table, tmp_path)
    assert run.returncode == 0, run.stderr[-3000:]
    one = torch.load(tmp_path/'one-0.pt', weights_only=True)
    for name in ('parts', 'compiled'):
        for rank in range(2):
            ranked = torch.load(tmp_path/f'{name}-{rank}.pt', weights_only=True)
            torch.testing.assert_close(ranked, one, atol=1e-5, rtol=0)
