"Fine-tuning: same budget, nested labels, missing labels, selection, starts; on images whose labels a linear layer can see"
import json

import numpy as np, pandas as pd, pytest, torch

from memory import Store
from refers_nb.core import InputError
from refers_nb.evaluate import efficiency_table, fingerprint, label_efficiency, plot_label_efficiency
from refers_nb.finetune import (BudgetLoader, Classifier, default_steps, encoder_from, finetune, finetune_learner, labelled,
                                masked_bce, predict)
from refers_nb.hub import load_checkpoint, save_checkpoint
from refers_nb.metrics import macro_auroc

SMALL = dict(size=32, bs=8, steps=6, evals=2, device='cpu', precision='fp32')


def make(n=90, seed=0):
    "Table and store: `bright` is a bright patch, `noise` a coin with a third of its labels missing"
    rng = np.random.default_rng(seed)
    x,y = rng.integers(0, 60, (n, 32, 32), dtype=np.uint8),rng.integers(0, 2, n)
    x[y == 1, 4:20, 4:20] += 120
    df = pd.DataFrame(dict(patient=[f'p{i//2}' for i in range(n)], study=[f's{i}' for i in range(n)], view='PA',
                           path=[f'{i}.png' for i in range(n)], report='', split=np.repeat(['train', 'valid', 'test'], n//3)))
    df['label:bright'] = y.astype(float)
    df['label:noise'] = np.where(rng.random(n) < .33, np.nan, rng.integers(0, 2, n))
    return df,Store(x, df.path)


@pytest.fixture(scope='module')
def data(): return make()


def test_it_learns_and_is_tested_on_the_test_split(data):
    df,store = data
    res = finetune(df, 'random', store=store, **{**SMALL, 'steps': 30})
    assert res.split == 'test' and res.auroc['bright'] > .95
    assert set(res.predictions.image) == set(df.path[df.split == 'test'])
    p = res.predictions.pivot(index='image', columns='label')
    assert macro_auroc(p['target'], p['probability']) == pytest.approx(res.macro)
    want = df.set_index('path').loc[p.index, 'label:noise'].to_numpy()
    assert np.array_equal(p['target']['noise'].to_numpy(float), want, equal_nan=True)


def test_without_a_test_split_the_validation_split_is_reported(data):
    df,store = data
    df = df[df.split != 'test'].reset_index(drop=True)
    res = finetune(df, store=store, **SMALL)
    assert res.split == 'valid' and set(res.predictions.image) == set(df.path[df.split == 'valid'])


def test_the_same_seed_gives_the_same_numbers(data):
    df,store = data
    a,b,c = (finetune(df, store=store, seed=s, **SMALL) for s in (1, 1, 2))
    assert a.predictions.equals(b.predictions) and not a.predictions.equals(c.predictions)


@pytest.mark.parametrize('fraction', [.1, 1.])
def test_the_budget_does_not_depend_on_the_fraction(data, fraction):
    df,store = data
    seen = []
    learn = finetune_learner(df, store=store, fraction=fraction, **SMALL)
    learn.model.register_forward_hook(lambda m,i,o: seen.append(len(o)) if m.training else None)
    with learn.no_bar(), learn.no_logging(): learn.fit(learn.n_epochs, cbs=learn.sched)
    assert seen == [8]*6
    assert learn.info['images'] == pytest.approx(30*fraction, abs=2)


def test_all_images_are_seen_before_one_comes_again(data):
    df,store = data
    dl = finetune_learner(df, store=store, **SMALL).dls.train
    drawn = [i for e in range(4) for i in dl.at(e).get_idxs()]
    n = len(dl.dataset)
    for k in range(len(drawn)//n): assert sorted(drawn[k*n:(k+1)*n]) == list(range(n))
    assert drawn[:n] != drawn[n:2*n]


def test_validation_and_test_images_never_train(data):
    df,store = data
    rows = finetune_learner(df, store=store, **SMALL).dls.train.dataset.rows
    assert set(rows) <= set(np.flatnonzero(df.split == 'train'))


def test_the_best_epoch_is_kept(data, monkeypatch):
    df,store = data
    scores = iter([.6, .9, .3, .2])
    monkeypatch.setattr('refers_nb.finetune.macro_auroc', lambda *a: next(scores, .5))
    learn = finetune_learner(df, store=store, **{**SMALL, 'steps': 8, 'evals': 4})
    from refers_nb.finetune import KeepBest
    from fastai.callback.core import Callback
    states = []
    class Watch(Callback):
        order = 99
        def after_epoch(self): states.append({k: v.clone() for k,v in self.model.state_dict().items()})
    with learn.no_bar(), learn.no_logging(): learn.fit(4, cbs=[learn.sched, KeepBest(), Watch()])
    now = learn.model.state_dict()
    assert all(torch.equal(now[k], states[1][k]) for k in now) and not torch.equal(now['head.weight'], states[3]['head.weight'])


def test_a_finding_that_cannot_be_measured_is_nan_and_does_not_stop_the_run(data):
    df,store = data
    df = df.assign(**{'label:never': 0.})
    res = finetune(df, store=store, **SMALL)
    assert np.isnan(res.auroc['never']) and res.macro == pytest.approx(res.auroc[['bright', 'noise']].mean())
    res = finetune(df, store=store, findings=['never'], **SMALL)
    assert np.isnan(res.macro) and len(res.history) == 2


@pytest.mark.parametrize('opt', ['adamw', 'sgd'])
def test_linear_leaves_the_encoder_alone(data, opt):
    df,store = data
    torch.manual_seed(0)
    learn = finetune_learner(df, store=store, linear=True, opt=opt, **SMALL)
    before = {k: v.clone() for k,v in learn.model.state_dict().items()}
    with learn.no_bar(), learn.no_logging(): learn.fit(2, cbs=learn.sched)
    moved = {k.split('.')[0] for k,v in learn.model.state_dict().items() if not torch.equal(v, before[k])}
    assert moved == {'head'}


def test_a_missing_label_gives_no_gradient():
    logits = torch.randn(5, 3, requires_grad=True)
    y = torch.tensor([[1., np.nan, 0.]]).repeat(5, 1)
    masked_bce(logits, y).backward()
    assert (logits.grad[:, 1] == 0).all() and (logits.grad[:, [0, 2]] != 0).all()
    assert masked_bce(logits, torch.full((5, 3), np.nan)).item() == 0


def test_everything_is_written_and_the_classifier_comes_back(data, tmp_path):
    df,store = data
    res = finetune(df, 'random', tmp_path, store=store, fraction=.5, seed=3, **SMALL)
    assert sorted(o.name for o in tmp_path.iterdir()) == ['auroc.csv', 'history.csv', 'model', 'predictions.parquet', 'run.json']
    run = json.loads((tmp_path/'run.json').read_text())
    assert run['status'] == 'finished' and run['seed'] == 3 and run['auroc']['mean'] == pytest.approx(res.macro)
    assert list(pd.read_parquet(tmp_path/'predictions.parquet'))[:5] == ['image', 'patient', 'label', 'target', 'probability']
    model,tok = load_checkpoint(tmp_path/'model', Classifier)
    dl = finetune_learner(df, store=store, **SMALL).dls.loaders[-1]
    probs,_ = predict(model, dl)
    assert tok is None and np.allclose(probs.ravel(), res.predictions.probability, atol=1e-6)


def test_starts(data, tmp_path):
    df,store = data
    enc = encoder_from('random', 32)
    clf = Classifier.on(enc, ['a'])
    folder = save_checkpoint(clf, None, tmp_path/'c')
    a,b = encoder_from(folder),encoder_from(folder, size=64)
    assert a.size == 32 and all(torch.equal(x, y) for x,y in zip(a.state_dict().values(), enc.state_dict().values()))
    assert b.size == 64 and b.vit.pos_embed.shape[1] == 17
    assert all(p.requires_grad for p in a.parameters())
    from safetensors.torch import save_file
    save_file(enc.vit.state_dict(), tmp_path/'timm.safetensors')
    c = encoder_from(tmp_path/'timm.safetensors', 32)
    assert torch.equal(c.vit.cls_token, enc.vit.cls_token)


@pytest.mark.parametrize('start,word', [
    ('{}/nothing', 'no checkpoint'), ('{}', 'no config.json|no model.safetensors'), ('{}/a.pth', 'pickle'),
    ('{}/other.safetensors', 'do not fit'), ('{}/broken.safetensors', 'cannot be read'), ('vit_imaginary', 'vit_imaginary')])
def test_bad_starts_are_named(tmp_path, start, word):
    from safetensors.torch import save_file
    torch.save({}, tmp_path/'a.pth')
    save_file({'w': torch.zeros(1)}, tmp_path/'other.safetensors')
    (tmp_path/'broken.safetensors').write_bytes(b'12')
    with pytest.raises(InputError, match=word): encoder_from(start.format(tmp_path), 32)


def test_bad_tables_are_named(data):
    df,store = data
    for bad,word in [(df.drop(columns=['label:bright', 'label:noise']), 'label:<finding>'), (df[df.split != 'valid'], 'split valid'),
                     (df.assign(view='LATERAL'), 'split train')]:
        with pytest.raises(InputError, match=word): labelled(bad)
    with pytest.raises(InputError, match='image store'): finetune(df)
    with pytest.raises(InputError, match='fraction 2'): finetune(df, store=store, fraction=2, **SMALL)
    assert len(labelled(df.assign(view='LATERAL'), views='all')[0]) == len(df)


def test_a_diverged_run_stops_and_says_so(data, tmp_path):
    df,store = data
    with pytest.raises(InputError, match='loss is'): finetune(df, out=tmp_path, store=store, lr=1e30, wd=0., **{**SMALL, 'steps': 40})
    assert json.loads((tmp_path/'run.json').read_text())['status'] == 'failed'


def test_default_steps_grow_with_labels():
    n = [default_steps(3000, 32, f) for f in (.01, .1, 1.)]
    assert n == sorted(n) and n[0] >= 50 and n[2] == round(10*3000/32)


def test_grid_resumes_cell_by_cell_and_reruns_what_changed(data, tmp_path, monkeypatch):
    df,store = data
    calls,args = [],{k: v for k,v in SMALL.items() if k != 'steps'} | dict(fractions=(.5, 1.), seeds=(0, 1))
    def fake(table, start, fraction, seed, **kw):
        if len(calls) == 3 and not stopped: stopped.append(1); raise KeyboardInterrupt
        calls.append((start, fraction, seed, kw['steps']))
        return type('R', (), dict(macro=fraction, predictions=pd.DataFrame(dict(a=[1]))))
    stopped = []
    monkeypatch.setattr('refers_nb.evaluate.finetune', fake)
    starts = dict(one='random', two='random')
    with pytest.raises(KeyboardInterrupt): label_efficiency(df, starts, tmp_path, store=store, steps=4, **args)
    res = label_efficiency(df, starts, tmp_path, store=store, steps=4, **args)
    assert len(calls) == 8 and len(set(calls)) == 4 and len(res) == 8
    label_efficiency(df, starts, tmp_path, store=store, steps=4, **args)
    assert len(calls) == 8
    label_efficiency(df, starts, tmp_path, store=store, steps={.5: 4, 1.: 5}, **args)
    assert len(calls) == 12 and {c[3] for c in calls[8:]} == {5}
    assert pd.read_csv(tmp_path/'results.csv').equals(res)
    assert list(efficiency_table(res).columns) == ['50%', '100%']
    assert plot_label_efficiency(res).get_xscale() == 'log'


def test_fingerprint_follows_the_weights_and_not_their_place(data, tmp_path):
    df,_ = data
    clf = Classifier.on(encoder_from('random', 32), ['a'])
    a,b = (save_checkpoint(clf, None, tmp_path/o) for o in 'ab')
    c = save_checkpoint(Classifier.on(encoder_from('random', 32), ['a']), None, tmp_path/'c')
    assert fingerprint(df, a) == fingerprint(df, b) != fingerprint(df, c)
