"""Baselines: losses against plain loops, equal budgets, kill and resume, what cannot be had or is wrong"""
import json, shutil
import numpy as np
import pandas as pd
import pytest
import torch
from kills import history
from safetensors.torch import load_file
from refers_nb.comparison import named_starts, shared_architecture
from refers_nb.core import InputError
from refers_nb.data.prepare import prepare
from refers_nb.data.studies import read_studies, write_studies
from refers_nb.data.told import report_labels
from refers_nb.models.formats import save_timm
from refers_nb.models.hub import checkpoint_config, load_encoder
from refers_nb.settings import settings
from refers_nb.training.baselines import (
    TASKS, baseline, baselines, images_of, method_of, pretrain_images)
from refers_nb.training.callbacks import Checkpoint
from refers_nb.training.finetune import finetune
from refers_nb.training.pretext import (
    MaskedAutoencoder, nt_xent, patches, restoration_loss, swap_squares)
from refers_nb.training.starts import encoder_from

ARGS = dict(preset='nano', start='random', size=32, bs=16, epochs=2, save_every=2, precision='fp32', device='cpu',
            tensorboard=False)

@pytest.fixture(autouse=True)
def silent(monkeypatch): monkeypatch.setenv('REFERS_NB_PROGRESS', '0')

@pytest.fixture(scope='module')
def table(tmp_path_factory):
    d = tmp_path_factory.mktemp('phantoms')/'prep'
    prepare('phantom', 120, d, size=32, seed=3, valid=.2, test=0)
    return d

@pytest.fixture(scope='module')
def runs(table):
    "Every image-based method, run once"
    return {o: pretrain_images(table, table.parent/o, o, **ARGS) for o in TASKS}

def plain_nt_xent(z, tau):
    "Equation 1 of Chen et al. 2020, pair by pair"
    z = [o/np.linalg.norm(o) for n in range(len(z)) for o in z[n]]
    terms = []
    for i in range(len(z)):
        s = [np.exp(z[i] @ z[j]/tau) for j in range(len(z)) if j != i]
        terms.append(-np.log(np.exp(z[i] @ z[i ^ 1]/tau)/sum(s)))
    return np.mean(terms)

@pytest.mark.parametrize('n,tau', [(2, .1), (5, .2), (9, .5)])
def test_nt_xent_is_the_papers(n, tau):
    z = torch.randn(n, 2, 6, generator=torch.Generator().manual_seed(n))
    assert nt_xent(z, tau).item() == pytest.approx(plain_nt_xent(z.numpy(), tau), rel=1e-5)
    assert nt_xent(z, tau).item() == pytest.approx(nt_xent(z.flip(1), tau).item(), rel=1e-6)

def test_swapped_squares_keep_every_pixel_that_a_single_swap_moves():
    torch.manual_seed(0)
    x = torch.arange(2*3*256.).view(2, 3, 16, 16)
    y = swap_squares(x, pairs=1, side=3)
    for a, b in zip(x, y):
        moved = (a != b).any(0)
        apart = moved.sum() == 18                              # the two squares do not overlap
        if apart: assert sorted(a.flatten().tolist()) == sorted(b.flatten().tolist())
        assert ((a != b) == moved).all(), 'channels move together'
    assert torch.equal(swap_squares(x, pairs=0), x)
    assert not torch.equal(y[0] - x[0], y[1] - x[1]), 'every image has swaps of its own'

def test_patches_are_in_the_order_of_the_tokens():
    x = torch.zeros(1, 1, 32, 32)
    x[0, 0, 16:, :16] = 1
    conv = encoder_from('random', 32).vit.patch_embed
    with torch.no_grad(): tokens = conv(x)
    assert patches(x, 16).mean(-1)[0].tolist() == [0, 0, 1, 0]
    assert not torch.allclose(tokens[0, 2], tokens[0, 0]) and torch.allclose(tokens[0, 1], tokens[0, 0])

def test_a_masked_autoencoder_does_not_see_what_is_masked():
    torch.manual_seed(0)
    vision = dict(name='vit_tiny_patch16_224', size=64)
    model = MaskedAutoencoder(dict(vision=vision, width=96, depth=1, heads=3, mask_ratio=.75)).eval()

    def restored(x):
        torch.manual_seed(1)
        with torch.no_grad(): return model(x)

    x = torch.randn(1, 1, 64, 64)
    a = restored(x)
    spoilt = x.clone()
    for p in a.mask[0].nonzero().flatten().tolist():           # masked patches only
        top, left = p//4*16, p % 4*16
        spoilt[..., top:top + 16, left:left + 16] += 5
    b = restored(spoilt)
    assert torch.equal(a.mask, b.mask) and a.mask.sum() == 12
    assert torch.allclose(a.pixels, b.pixels, atol=1e-5)
    elsewhere = a._replace(pixels=a.pixels + 7*(1 - a.mask[..., None]))
    assert restoration_loss(elsewhere, None) == restoration_loss(a, None)

def test_every_method_sees_as_many_images_in_as_many_steps(table, tmp_path, runs):
    both = baseline('matching', table, tmp_path/'matching', vocab=200, **ARGS)
    records = [json.loads((o.parent/'run.json').read_text()) for o in (*runs.values(), both)]
    assert len({o['steps'] for o in records}) == 1
    seen = [o['images_seen'] for o in records]
    assert max(seen)/min(seen) < 1.05, seen
    n, steps = images_of(read_studies(table), n_views=2, bs=16)
    assert records[0]['steps'] == 2*steps and seen[0] == 2*n*steps

def test_labels_beside_reports_are_said_everywhere(table, tmp_path):
    recipe = dict(vocab=200, with_labels=10.) | ARGS
    run = baseline('refers', table, tmp_path/'both', **recipe)
    history = pd.read_csv(run.parent/'history.csv')
    assert history['labels'].between(0, np.log(2)).all()
    total = history['gen'] + history['match'] + 10*history['labels']
    np.testing.assert_allclose(history['valid_loss'], total, rtol=1e-4)
    assert method_of(run) == 'refers+labels'
    assert 'by labels that a program read' in (run/'README.md').read_text()
    alone = baseline('matching', table, tmp_path/'alone', **recipe)
    assert method_of(alone) == 'matching+labels'
    plain = load_encoder(baseline('refers', table, tmp_path/'plain', **recipe | dict(with_labels=0.))).vit.state_dict()
    told = load_encoder(run).vit.state_dict()
    assert not any(torch.equal(plain[k], told[k]) for k in told if k.endswith('qkv.weight'))
    assert set(named_starts(str(run), str(alone), shared_architecture(str(run), 32, settings())[0])) == {
        'refers+labels', 'matching+labels'}

def test_every_run_moves_its_encoder_and_names_its_method(runs, table, tmp_path):
    torch.manual_seed(0)
    for task, run in runs.items():
        history = pd.read_csv(run.parent/'history.csv')
        valid_loss = history['valid_loss']
        assert np.isfinite(valid_loss).all() and valid_loss.iloc[-1] < valid_loss.iloc[0], task
        assert method_of(run) == task
        a = load_encoder(run).vit.state_dict()
        b = load_encoder(runs['mae' if task != 'mae' else 'simclr']).vit.state_dict()
        assert a.keys() == b.keys() and not all(torch.equal(a[k], b[k]) for k in a)
        assert str(table) not in (run/'README.md').read_text()
    res = finetune(table, runs['simclr'], steps=2, bs=4, evals=1, size=32, device='cpu')
    assert 0 <= res.macro <= 1

@pytest.mark.parametrize('task', ['mae', pytest.param('simclr', marks=pytest.mark.slow)])
def test_killed_and_resumed_is_bit_for_bit(task, table, runs, tmp_path, monkeypatch):
    class Killed(BaseException): pass
    step = Checkpoint.after_batch
    count = 0
    def dying(self):
        nonlocal count
        step(self)
        count += 1
        if count in (3, 8): raise Killed()
    monkeypatch.setattr(Checkpoint, 'after_batch', dying)
    out = tmp_path/'run'
    for _ in range(2):
        with pytest.raises(Killed): pretrain_images(table, out, task, **ARGS)
    assert not (out/'checkpoint').exists() and (out/'state.pt').exists()
    done = pretrain_images(table, out, task, **ARGS)
    a, b = (load_file(o/'model.safetensors') for o in (done, runs[task]))
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert history(out) == history(runs[task].parent)

@pytest.mark.parametrize('task', ['mae', 'context'])
def test_killed_before_the_validation_the_same_squares_are_asked_for(task, table, runs, tmp_path, monkeypatch):
    class Killed(BaseException): pass
    saved = Checkpoint.after_train
    count = 0
    def dying(self):
        nonlocal count
        saved(self)
        count += 1
        if count in (1, 3): raise Killed()
    monkeypatch.setattr(Checkpoint, 'after_train', dying)
    out = tmp_path/'run'
    for _ in range(2):
        torch.manual_seed(len(list(tmp_path.iterdir())) + 99)   # whatever was drawn before
        with pytest.raises(Killed): pretrain_images(table, out, task, **ARGS)
    done = pretrain_images(table, out, task, **ARGS)
    for name in ('model.safetensors', 'config.json', 'README.md'):
        assert (done/name).read_bytes() == (runs[task]/name).read_bytes(), name
    assert history(out) == history(runs[task].parent)

def test_starts_of_the_command_are_named_by_how_they_were_taught(runs, tmp_path):
    s = settings(pretrain_preset='tiny')
    mae, simclr = str(runs['mae']), str(runs['simclr'])
    arch, size = shared_architecture(mae, None, s)
    assert size == 32 and arch == dict(name='test_vit', in_chans=1), 'as the checkpoint, not the settings'
    assert list(named_starts(mae, f'{simclr}, random', arch)) == ['mae', 'simclr', 'random']
    again = tmp_path/'again'/'checkpoint'
    shutil.copytree(mae, again)
    assert list(named_starts(mae, str(again), arch)) == ['mae', 'again']
    with pytest.raises(InputError, match='two starts are called mae'): named_starts(mae, mae, arch)

def test_a_finished_run_is_not_overwritten(table, runs):
    out = runs['mae'].parent
    assert pretrain_images(table, out, 'mae', **ARGS) == runs['mae']
    with pytest.raises(InputError, match='epochs was 2, now 3'):
        pretrain_images(table, out, 'mae', **ARGS | dict(epochs=3))
    other = table.parent/'other'
    write_studies(read_studies(table).iloc[1:], other)
    with pytest.raises(InputError, match='other arguments: table_digest was'):
        pretrain_images(other, out, 'mae', **ARGS)
    with pytest.raises(InputError, match="task was 'mae', now 'context'"):
        pretrain_images(table, out, 'context', **ARGS)

def test_labels_come_from_reports_alone(table):
    df = read_studies(table)
    told = report_labels(df)
    own = [o for o in df if o.startswith('label:') and o.removeprefix('label:').islower()]
    assert not any(o in told for o in own), 'labels of the table are gone'
    labels = [o for o in told if o.startswith('label:')]
    train = told[told['split'] == 'train'][labels]
    assert len(labels) > 3 and ((train == 1).sum() >= 10).all() and ((train == 0).sum() >= 10).all()
    one_silent = df.assign(report=np.where(df['study'] == df['study'].iloc[0], '', df['report']))
    assert len(report_labels(one_silent)) < len(df)
    with pytest.raises(InputError, match='no finding is told'):
        report_labels(df.assign(report='The heart is normal.'))
    with pytest.raises(InputError, match='no study with a report in split train'): images_of(df.assign(report=''))

def test_what_cannot_be_had_is_a_row_without_paths(table, tmp_path):
    methods = 'random', 'imagenet', 'mae'
    res = baselines(table, tmp_path, methods, imagenet='vit_imaginary', **ARGS | dict(epochs=1))
    assert res.loc['imagenet', 'note'].startswith('not to be had')
    assert pd.isna(res.loc['imagenet', 'start'])
    assert res.loc['random', 'start'] == 'random' and res.loc['mae', 'steps'] > 0
    assert tuple(pd.read_csv(tmp_path/'baselines.csv')['method']) == methods
    hidden = tmp_path/'secret'/'weights.safetensors'
    res = baselines(table, tmp_path, ('imagenet',), imagenet=str(hidden), **ARGS)
    note = res.loc['imagenet', 'note']
    assert 'weights.safetensors' in note and 'secret' not in note

def test_what_is_wrong_is_an_error(table, tmp_path):
    with pytest.raises(InputError, match="'moco' is no method"): baselines(table, tmp_path, ('moco',))
    with pytest.raises(InputError, match='no pre-training takes colour'):
        baseline('mae', table, tmp_path/'x', colour=1)
    with pytest.raises(InputError, match='method is'): baseline('random', table, tmp_path/'x')
    with pytest.raises(InputError, match="changes of 'simclar'"):
        baselines(table, tmp_path, ('simclr',), changes=dict(simclar=dict(scale=.5)))
    with pytest.raises(InputError, match='start is'): baselines(table, tmp_path, start='photographs')
    with pytest.raises(InputError, match='task is'): pretrain_images(table, tmp_path/'x', 'jigsaw')
    with pytest.raises(InputError, match='opt is'): pretrain_images(table, tmp_path/'x', 'mae', opt='adam')

def test_starts_from_given_weights(table, tmp_path):
    weights = tmp_path/'timm'
    arch = dict(name='test_vit', in_chans=1)
    save_timm(encoder_from('random', 32, arch), weights)
    args = {k: v for k, v in ARGS.items() if k != 'start'} | dict(epochs=1, lr=0.)
    methods = 'imagenet', 'context'
    res = baselines(table, tmp_path/'runs', methods, weights, start='imagenet', **args)
    a = encoder_from(weights, 32, arch).state_dict()
    b = load_encoder(res.loc['context', 'start']).state_dict()
    assert all(torch.equal(a[k], b[k]) for k in a), 'at a learning rate of 0 the weights stay'
    assert checkpoint_config(res.loc['context', 'start'])['training']['start'] == 'timm'
