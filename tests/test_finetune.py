"Fine-tuning: budget, nested and missing labels, selection, starts; the labels can be seen by a linear layer"
import json, shutil
import numpy as np
import pandas as pd
import pytest
import torch
from fastai.callback.core import Callback
from safetensors.torch import save_file
from memory import Store
from refers_nb.core import InputError
from refers_nb.evaluation.experiments import (
    efficiency_table, label_efficiency, plot_label_efficiency)
from refers_nb.evaluation.fingerprint import fingerprint
from refers_nb.models.hub import load_checkpoint, save_checkpoint
from refers_nb.training.classifier import Classifier, mirror_places, positive_weights, predict
from refers_nb.runs import run_record
from refers_nb.training.digests import finetune_args
from refers_nb.training.finetune import (
    KeepBest, default_steps, finetune, finetune_learner, labelled, study_means)
from refers_nb.training.losses import masked_bce
from refers_nb.training.metrics import macro_auroc
from refers_nb.training.starts import encoder_from

NANO = dict(name='test_vit', in_chans=1)
SMALL = dict(size=32, bs=8, steps=6, evals=2, device='cpu', precision='fp32', arch=NANO)


def make(n=90, seed=0):
    "Table and store: `bright` is a bright patch, `noise` a coin with a third of its labels missing"
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 60, (n, 32, 32), dtype=np.uint8)
    y = rng.integers(0, 2, n)
    x[y == 1, 4:20, 4:20] += 120
    df = pd.DataFrame(dict(
        patient=[f'p{i//2}' for i in range(n)], study=[f's{i}' for i in range(n)], view='PA',
        path=[f'{i}.png' for i in range(n)], report='', split=np.repeat(['train', 'valid', 'test'], n//3)))
    df['label:bright'] = y.astype(float)
    df['label:noise'] = np.where(rng.random(n) < .33, np.nan, rng.integers(0, 2, n))
    return df, Store(x, df['path'])


@pytest.fixture(scope='module')
def data(): return make()


def test_it_learns_and_is_tested_on_the_test_split(data):
    df, store = data
    res = finetune(df, 'random', store=store, **{**SMALL, 'steps': 30})
    assert res.split == 'test' and res.auroc['bright'] > .95
    assert set(res.predictions.image) == set(df.path[df.split == 'test'])
    p = res.predictions.pivot(index='image', columns='label')
    assert macro_auroc(p['target'], p['probability']) == pytest.approx(res.macro)
    want = df.set_index('path').loc[p.index, 'label:noise'].to_numpy()
    assert np.array_equal(p['target']['noise'].to_numpy(float), want, equal_nan=True)


def test_without_a_test_split_the_validation_split_is_reported(data):
    df, store = data
    df = df[df.split != 'test'].reset_index(drop=True)
    res = finetune(df, store=store, **SMALL)
    assert res.split == 'valid' and set(res.predictions.image) == set(df.path[df.split == 'valid'])


def test_the_same_seed_gives_the_same_numbers(data):
    df, store = data
    a,b,c = (finetune(df, store=store, seed=s, **SMALL) for s in (1, 1, 2))
    assert a.predictions.equals(b.predictions) and not a.predictions.equals(c.predictions)


@pytest.mark.parametrize('fraction', [.1, 1.])
def test_the_budget_does_not_depend_on_the_fraction(data, fraction):
    df, store = data
    seen = []
    learn = finetune_learner(df, store=store, fraction=fraction, **SMALL)
    learn.model.register_forward_hook(lambda m,i,o: seen.append(len(o)) if m.training else None)
    with learn.no_bar(), learn.no_logging(): learn.fit(learn.n_epochs)
    assert seen == [8]*6
    assert learn.info['images'] == pytest.approx(30*fraction, abs=2)


def test_all_images_are_seen_before_one_comes_again(data):
    df, store = data
    dl = finetune_learner(df, store=store, **SMALL).dls.train
    drawn = [i for e in range(4) for i in dl.at(e).get_idxs()]
    n = len(dl.dataset)
    for k in range(len(drawn)//n): assert sorted(drawn[k*n:(k+1)*n]) == list(range(n))
    assert drawn[:n] != drawn[n:2*n]


def test_validation_and_test_images_never_train(data):
    df, store = data
    rows = finetune_learner(df, store=store, **SMALL).dls.train.dataset.rows
    assert set(rows) <= set(np.flatnonzero(df.split == 'train'))


def test_the_best_epoch_is_kept(data, monkeypatch):
    df, store = data
    scores = iter([.6, .9, .3, .2])
    monkeypatch.setattr('refers_nb.training.finetune.macro_auroc', lambda *a: next(scores, .5))
    learn = finetune_learner(df, store=store, **{**SMALL, 'steps': 8, 'evals': 4})
    states = []
    class Watch(Callback):
        order = 99
        def after_epoch(self): states.append({k: v.clone() for k, v in self.model.state_dict().items()})
    with learn.no_bar(), learn.no_logging(): learn.fit(4, cbs=[KeepBest(), Watch()])
    now = learn.model.state_dict()
    assert all(torch.equal(now[k], states[1][k]) for k in now)
    assert not torch.equal(now['head.weight'], states[3]['head.weight'])


def test_a_finding_that_cannot_be_measured_is_nan_and_does_not_stop_the_run(data):
    df, store = data
    df = df.assign(**{'label:never': 0.})
    res = finetune(df, store=store, **SMALL)
    assert np.isnan(res.auroc['never'])
    assert res.macro == pytest.approx(res.auroc[['bright', 'noise']].mean())
    with pytest.warns(UserWarning, match='nothing to select by, the last weights stay'):
        res = finetune(df, store=store, findings=['never'], patience=1, **SMALL)
    assert np.isnan(res.macro) and len(res.history) == 2


nan = np.nan

@pytest.mark.parametrize('scores, patience, epochs', [
    ([.6, .9, .3, .2, .1], 2, 4),
    ([.6, nan, nan, .5, .4], 2, 5),
    pytest.param([.6, .5, .7, .6, .8], 2, 5, marks=pytest.mark.slow),
    pytest.param([nan]*4 + [.5], 1, 5, marks=pytest.mark.slow),
    ([.6, .5, .7, .6, .8], 1, 2)])
def test_it_stops_after_worse_epochs_only_and_loses_none_of_the_history(data, tmp_path, monkeypatch, scores, patience, epochs):
    df, store = data
    rest = iter(scores)
    monkeypatch.setattr('refers_nb.training.finetune.macro_auroc', lambda *a: next(rest, .5))
    res = finetune(df, out=tmp_path, store=store, patience=patience, **{**SMALL, 'steps': 5, 'evals': 5})
    assert np.array_equal(res.history.auroc, scores[:epochs], equal_nan=True)
    assert np.array_equal(pd.read_csv(tmp_path/'history.csv').auroc, scores[:epochs], equal_nan=True)


def test_positives_weigh_as_much_as_negatives_of_the_labels_in_use(data):
    df, store = data
    df = df.assign(**{'label:never': 0.})
    learn = finetune_learner(df, store=store, fraction=.5, balance=True, **SMALL)
    used = df.iloc[learn.dls.train.dataset.rows]
    assert 10 <= len(used) < 30 and (used.split == 'train').all()
    hand = [(used[c] == 0).sum()/(used[c] == 1).sum() for c in ('label:bright', 'label:noise')] + [1.]
    assert learn.loss_func.weight.tolist() == pytest.approx(hand)
    assert positive_weights(used[['label:bright', 'label:noise', 'label:never']].to_numpy()).tolist() == pytest.approx(hand)
    y = torch.tensor(used[['label:bright', 'label:noise', 'label:never']].to_numpy()).float()
    z = torch.randn(len(used), 3)
    p = 1/(1 + np.exp(-z.numpy().astype(float)))
    terms = np.where(y == 1, -np.array(hand)*np.log(p), -np.log(1 - p))[np.isfinite(y.numpy())]
    assert learn.loss_func(z, y).item() == pytest.approx(terms.sum()/len(terms), rel=1e-4)
    assert finetune_learner(df, store=store, **SMALL).loss_func.weight is None


@pytest.mark.parametrize('opt, head', [
    ('adamw', 3e-2), pytest.param('sgd', 1e-3, marks=pytest.mark.slow)])
def test_layers_learn_at_rates_counted_by_hand(data, opt, head):
    "Every parameter, by its name; at the peak of the schedule"
    df, store = data
    args = SMALL | dict(steps=20, arch=None)    # twelve layers
    learn = finetune_learner(df, store=store, lr=1e-3, layer_decay=.5, opt=opt, **args)
    peak = {}
    class Watch(Callback):
        order = 99
        def before_step(self):
            for group, hypers in zip(self.opt.param_lists, self.opt.hypers):
                for p in group: peak[id(p)] = max(hypers['lr'], peak.get(id(p), 0))
    with learn.no_bar(), learn.no_logging(): learn.fit(2, cbs=Watch())
    def want(name):
        parts = name.split('.')
        if parts[0] == 'head': return head
        if parts[2] == 'blocks': return 1e-3*.5**(11 - int(parts[3]))
        return 1e-3 if parts[2] == 'norm' else 1e-3*.5**12
    named = dict(learn.model.named_parameters())
    assert len(peak) == len(named)
    for k, p in named.items(): assert peak[id(p)] == pytest.approx(want(k), rel=.02), k


def test_without_layer_decay_nothing_changes(data):
    df, store = data
    off = dict(layer_decay=1., balance=False, tta=False)
    a = finetune(df, store=store, **SMALL).predictions
    b = finetune(df, store=store, **SMALL, **off).predictions
    assert a.equals(b)
    for bad in (0, 1.5):
        with pytest.raises(InputError, match='layer_decay is'):
            finetune_learner(df, store=store, layer_decay=bad, **SMALL)
    with pytest.raises(InputError, match='linear leaves'):
        finetune_learner(df, store=store, layer_decay=.5, linear=True, **SMALL)


def test_an_image_and_its_mirror_image_are_averaged_side_by_side(data):
    df, store = data
    df = df.rename(columns={'label:noise': 'label:left noise'}).assign(**{'label:right noise': 0.})
    learn = finetune_learner(df, store=store, **SMALL)
    torch.nn.init.normal_(learn.model.head.weight)
    dl = learn.dls.loaders[-1]
    found, t = predict(learn.model, dl, tta=True)
    with torch.no_grad():
        x = torch.cat([b[0] for b in dl])
        plain = learn.model(x).sigmoid().numpy()
        flipped = learn.model(torch.flip(x, [3])).sigmoid().numpy()
    at = {o: i for i,o in enumerate(learn.model.config['findings'])}
    pairs = dict([('bright', 'bright'), ('left noise', 'right noise'), ('right noise', 'left noise')])
    for o, other in pairs.items():
        mean = (plain[:, at[o]] + flipped[:, at[other]])/2
        assert np.allclose(found[:, at[o]], mean, atol=1e-6)
    labels = df.loc[df['split'] == 'test', [f'label:{o}' for o in at]]
    assert np.array_equal(t, labels.to_numpy('float32'), equal_nan=True)
    assert mirror_places(['a', 'left b', 'c', 'right b']) == [0, 3, 2, 1]
    with pytest.raises(InputError, match='the mirror image of left noise shows right noise'):
        finetune(df.drop(columns='label:right noise'), store=store, tta=True, **SMALL)


def test_studies_get_the_mean_over_their_images(data):
    df, store = data
    df = df.assign(study=[f's{i//3}' for i in range(len(df))], patient=[f'p{i//3}' for i in range(len(df))],
                   view=['PA', 'LATERAL', 'LATERAL']*30)
    one = finetune(df, store=store, views='study', **SMALL)
    every = finetune(df, store=store, views='all', **SMALL)
    rows = every.predictions.merge(df[['path', 'study']], left_on='image', right_on='path')
    want = rows.groupby(['study', 'label']).agg(probability=('probability', 'mean'), target=('target', 'max'))
    have = one.predictions.set_index(['image', 'label']).loc[want.index]
    assert np.allclose(have['probability'], want['probability'], atol=1e-6)
    assert np.array_equal(have['target'], want['target'], equal_nan=True)
    wide = want.unstack()
    assert one.macro == pytest.approx(macro_auroc(wide['target'], wide['probability']))
    assert len(one.predictions) == 10*2


def test_studies_select_by_the_mean_over_their_images(data):
    df, store = data
    df = df.assign(study=[f's{i//3}' for i in range(len(df))], view=['PA', 'LATERAL', 'LATERAL']*30)
    frontal = finetune_learner(df, store=store, **SMALL)
    learn = finetune_learner(df, store=store, views='study', **SMALL)
    assert frontal.dls.train.n < learn.dls.train.n == 30
    with learn.no_bar(), learn.no_logging(): learn.fit(1)
    p, t = predict(learn.model, learn.dls.valid)
    _, p, t = study_means(df.loc[df['split'] == 'valid', 'study'], p, t)
    assert learn.recorder.values[-1][-1] == pytest.approx(macro_auroc(t, p), abs=1e-6)


@pytest.mark.parametrize('opt', ['adamw', 'sgd'])
def test_linear_leaves_the_encoder_alone(data, opt):
    df, store = data
    torch.manual_seed(0)
    learn = finetune_learner(df, store=store, linear=True, opt=opt, **SMALL)
    before = {k: v.clone() for k, v in learn.model.state_dict().items()}
    with learn.no_bar(), learn.no_logging(): learn.fit(2)
    after = learn.model.state_dict()
    moved = {k.split('.')[0] for k in after if not torch.equal(after[k], before[k])}
    assert moved == {'head'}


def test_a_missing_label_gives_no_gradient():
    logits = torch.randn(5, 3, requires_grad=True)
    y = torch.tensor([[1., np.nan, 0.]]).repeat(5, 1)
    masked_bce(logits, y).backward()
    assert (logits.grad[:, 1] == 0).all() and (logits.grad[:, [0, 2]] != 0).all()
    assert masked_bce(logits, torch.full((5, 3), np.nan)).item() == 0


def test_everything_is_written_and_the_classifier_comes_back(data, tmp_path):
    df, store = data
    res = finetune(df, 'random', tmp_path, store=store, fraction=.5, seed=3, **SMALL)
    written = sorted(o.name for o in tmp_path.iterdir())
    assert written == ['auroc.csv', 'history.csv', 'model', 'predictions.parquet', 'run.json']
    run = json.loads((tmp_path/'run.json').read_text())
    assert run['status'] == 'finished' and run['seed'] == 3
    assert run['auroc']['mean'] == pytest.approx(res.macro)
    columns = list(pd.read_parquet(tmp_path/'predictions.parquet'))
    assert columns == ['image', 'patient', 'label', 'target', 'probability', 'split']
    model, tok = load_checkpoint(tmp_path/'model', Classifier)
    dl = finetune_learner(df, store=store, **SMALL).dls.loaders[-1]
    probs, _ = predict(model, dl)
    assert tok is None and np.allclose(probs.ravel(), res.predictions.probability, atol=1e-6)


def test_starts(data, tmp_path):
    df, store = data
    enc = encoder_from('random', 32)
    clf = Classifier.on(enc, ['a'])
    folder = save_checkpoint(clf, None, tmp_path/'c')
    a = encoder_from(folder)
    b = encoder_from(folder, size=64)
    assert a.size == 32
    assert all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), enc.state_dict().values()))
    assert b.size == 64 and b.vit.pos_embed.shape[1] == 17
    assert all(p.requires_grad for p in a.parameters())
    save_file(enc.vit.state_dict(), tmp_path/'timm.safetensors')
    c = encoder_from(tmp_path/'timm.safetensors', 32)
    assert torch.equal(c.vit.cls_token, enc.vit.cls_token)


@pytest.mark.parametrize('start, word', [
    ('{}/nothing', 'no checkpoint'),
    ('{}', 'no config.json|no model.safetensors'),
    ('{}/a.pth', 'pickle'),
    ('{}/other.safetensors', 'do not fit'),
    ('{}/broken.safetensors', 'cannot be read'),
    ('vit_imaginary', 'vit_imaginary')])
def test_bad_starts_are_named(tmp_path, start, word):
    torch.save({}, tmp_path/'a.pth')
    save_file({'w': torch.zeros(1)}, tmp_path/'other.safetensors')
    (tmp_path/'broken.safetensors').write_bytes(b'12')
    with pytest.raises(InputError, match=word): encoder_from(start.format(tmp_path), 32)


def test_bad_tables_are_named(data):
    df, store = data
    bad = {'label:<finding>': df.drop(columns=['label:bright', 'label:noise']),
           'split valid': df[df['split'] != 'valid'],
           'split train': df.assign(view='LATERAL')}
    for word, table in bad.items():
        with pytest.raises(InputError, match=word): labelled(table)
    with pytest.raises(InputError, match='image store'): finetune(df)
    with pytest.raises(InputError, match='fraction is 2'): finetune(df, store=store, fraction=2, **SMALL)
    assert len(labelled(df.assign(view='LATERAL'), views='all')[0]) == len(df)


def test_a_diverged_run_stops_and_says_so(data, tmp_path):
    df, store = data
    with pytest.raises(InputError, match='loss is'):
        finetune(df, out=tmp_path, store=store, lr=1e30, wd=0., **{**SMALL, 'steps': 40})
    assert json.loads((tmp_path/'run.json').read_text())['status'] == 'failed'


def test_default_steps_grow_with_labels():
    n = [default_steps(3000, 32, f) for f in (.01, .1, 1.)]
    assert n == sorted(n) and n[0] >= 50 and n[2] == round(10*3000/32)


def test_grid_resumes_cell_by_cell_and_reruns_what_changed(data, tmp_path, monkeypatch):
    df, store = data
    args = {k: v for k, v in SMALL.items() if k != 'steps'} | dict(fractions=(.5, 1.), seeds=(0, 1))
    starts = dict(one='random', two='random')
    calls, stopped = [], []

    def fake(table, start, fraction, seed, **kw):
        "Interrupted once, before the fourth classifier"
        if len(calls) == 3 and not stopped:
            stopped.append(1)
            raise KeyboardInterrupt
        calls.append((start, fraction, seed, kw['steps']))
        return type('Result', (), dict(macro=fraction, predictions=pd.DataFrame(dict(a=[1]))))

    def table(steps): return label_efficiency(df, starts, tmp_path, store=store, steps=steps, **args)

    monkeypatch.setattr('refers_nb.evaluation.experiments.finetune', fake)
    with pytest.raises(KeyboardInterrupt): table(4)
    res = table(4)
    assert len(calls) == 8 and len(set(calls)) == 4 and len(res) == 8
    table(4)
    assert len(calls) == 8
    table({.5: 4, 1.: 5})
    assert len(calls) == 12 and {c[3] for c in calls[8:]} == {5}
    assert pd.read_csv(tmp_path/'results.csv').equals(res)
    assert list(efficiency_table(res).columns) == ['50%', '100%']
    assert plot_label_efficiency(res).get_xscale() == 'log'


def test_fingerprint_follows_the_weights_and_not_their_place(data, tmp_path):
    df, _ = data
    clf = Classifier.on(encoder_from('random', 32), ['a'])
    a, b = (save_checkpoint(clf, None, tmp_path/o) for o in 'ab')
    other = Classifier.on(encoder_from('random', 32), ['a'])
    c = save_checkpoint(other, None, tmp_path/'c')
    assert fingerprint(df, a) == fingerprint(df, b) != fingerprint(df, c)


# A folder belongs to one run

@pytest.fixture(scope='module')
def tuned(data, tmp_path_factory):
    "A fine-tuning that is done: its folder, its arguments, and what it gave"
    df, store = data
    out = tmp_path_factory.mktemp('tuned')/'run'
    args = dict(store=store, seed=3, tta=False, **SMALL)
    return out, args, finetune(df, 'random', out, **args)


def stamps(out): return {o.name: o.stat().st_mtime_ns for o in out.rglob('*')}


def test_the_same_call_returns_what_is_there(data, tuned):
    out, args, res = tuned
    before = stamps(out)
    again = finetune(data[0], 'random', out, **args, workers=0)
    assert stamps(out) == before and again.macro == res.macro and again.split == res.split
    assert again.auroc.equals(res.auroc) and again.predictions.equals(res.predictions)
    assert again.history.equals(res.history) and repr(again) == repr(res)
    own = res.model.state_dict()
    assert all(torch.equal(v, own[k]) for k, v in again.model.state_dict().items())


@pytest.mark.parametrize('change, says', [
    (dict(seed=4), 'seed was 3, now 4'),
    (dict(tta=True), 'tta was False, now True'),
    (dict(patience=2), 'patience was None, now 2'),
    (dict(layer_decay=.5), 'layer_decay was None, now 0.5'),
    (dict(fraction=.5), 'fraction was None, now 0.5'),
    (dict(lr=1e-3), 'lr was'),
    (dict(findings=['bright']), 'findings was')])
def test_another_call_replaces_nothing(data, tuned, change, says):
    out, args, _ = tuned
    before = stamps(out)
    with pytest.raises(InputError) as e: finetune(data[0], 'random', out, **args | change)
    assert says in str(e.value) and 'Choose another folder' in str(e.value) and stamps(out) == before


def test_other_data_and_other_weights_are_another_run(data, tuned, tmp_path):
    df, _ = data
    out, args, res = tuned
    with pytest.raises(InputError, match='data_digest was'): finetune(df.iloc[:-1], 'random', out, **args)
    save_checkpoint(res.model, None, tmp_path/'c')
    with pytest.raises(InputError, match='start_digest was'): finetune(df, tmp_path/'c', out, **args)
    gone = {k: v for k, v in args.items() if k != 'seed'}
    with pytest.raises(InputError, match='seed was 3, now None'): finetune(df, 'random', out, **gone)


def test_what_a_kill_has_left_is_cleared_and_the_run_begins_again(data, tuned, tmp_path):
    out, args, res = tuned
    new = tmp_path/'run'
    shutil.copytree(out, new)
    (new/'.tmp-0123456789ab-predictions.parquet').touch()
    (new/'model'/'model.safetensors').unlink()
    shutil.rmtree(new/'model')
    again = finetune(data[0], 'random', new, **args)
    assert again.macro == res.macro and stamps(new).keys() == stamps(out).keys()


def test_a_folder_that_could_not_take_the_model_is_told_before_the_training(data, tmp_path, monkeypatch):
    monkeypatch.setattr('refers_nb.training.finetune.fit_classifier', lambda *a: pytest.fail('it trains'))
    df, store = data
    (tmp_path/'model').mkdir()
    (tmp_path/'model'/'notes.txt').touch()
    run_record(tmp_path, finetune_args(df, 'random', patience=None, tta=False, store=store, **SMALL))
    with pytest.raises(InputError, match='notes.txt'): finetune(df, 'random', tmp_path, store=store, **SMALL)
