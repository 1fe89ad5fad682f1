"""Could something else make more of few reports? Rows that are more than an argument of `pretrain`, and one learning curve.

    python benchmarks/suspects.py PREPARED OUT --start imagenet --epochs 6         # a folder by refers-prep

`both` is the row of that name in `ablation.py`. Every other row sees as many studies in as many steps, and differs in this:

- `moving average`: not trained; the weights are the average over the steps of `both` (decay 0.98)
- `masked images`: three quarters of every image are masked and painted by a small decoder, as a third part of the loss
  (MRM, arXiv 2301.13155; the masked autoencoder of `34b_pretext.ipynb` on the encoder that reads the whole images)
- `rare words`, `with labels`: the rows of these names in `ablation.py`, here with few labels, too
- `half the studies`, `a quarter of the studies`: of that share of the patients, drawn by the seed, twice and four times
  the passes. The vocabulary is theirs, too

Judged as in `ablation.py`, by a linear probe from 1 and 10 % of the labels (mean of ten draws, the same for all rows), and by
the best recall@10 of all passes. A row that is stopped begins again; a finished one is read. Several processes may share OUT
if `--seeds` or `--rows` keep them apart.
"""
import gc, os, sys, time, warnings
from pathlib import Path
os.environ.setdefault('REFERS_NB_PROGRESS', '0')
warnings.filterwarnings('ignore')
import numpy as np
import pandas as pd
import torch
from fastai.callback.core import Callback
from timm.utils import ModelEmaV3
from tqdm.auto import tqdm
import ablation
from ablation import arguments, summary
from refers_nb.core import InputError, atomic
from refers_nb.data.given import image_store
from refers_nb.data.studies import label_fraction, label_names, read_studies
from refers_nb.evaluation.represent import class_tokens, probe
from refers_nb.models.hub import load_checkpoint, save_checkpoint
from refers_nb.training.callbacks import history_table
from refers_nb.training.metrics import linear_probe
from refers_nb.training.pretext import MaskedAutoencoder, restoration_loss
from refers_nb.training.pretrain import RefersArgs, refers_run_learner, run_tokenizer
from refers_nb.training.reports import RefersLists

PARTS = {'half the studies': 1/2, 'a quarter of the studies': 1/4}
AVERAGE = 'moving average'
DRAWS = 10


class MovingAverage(Callback):
    "An average of the weights over the steps"
    run_valid = False
    def __init__(self, model, decay=.98): self.ema = ModelEmaV3(model, decay)

    def after_step(self):
        "Go a little way to the new weights"
        self.ema.update(self.model)


class MaskedImages(Callback):
    "A third part of the loss: paint what is masked in the images of the batch"
    run_valid = False
    def __init__(self, model, weight=1., mask_ratio=.75):
        vision = model.config['vision']
        self.weight = weight
        self.painter = MaskedAutoencoder(dict(vision=vision, mask_ratio=mask_ratio, width=96, depth=2, heads=3))
        del self.painter.vision
        self.painter.__dict__['vision'] = model.vision       # the model's own, and a part of the model alone

    def after_loss(self):
        "Add it to what is differentiated"
        views, mask = self.xb[:2]
        images = views.flatten(0, 1)[mask.flatten()].as_subclass(torch.Tensor)   # (n, 1, h, w)
        self.learn.loss_grad = self.loss_grad + self.weight*restoration_loss(self.painter(images), None)


def paint(learn):
    "Masked images as a third part of the loss"
    cb = MaskedImages(learn.model)
    learn.loss_func.painter = cb.painter                     # so that its decoder is trained
    learn.splitter = RefersLists(learn.model, learn.loss_func)
    learn.add_cb(cb)


CHANGES = {'masked images': paint}
ROWS = 'both', 'rare words', 'with labels', *CHANGES, *PARTS


def some_patients(df, share, seed):
    "The table with a share of the training patients; validation is whole"
    train = df['split'] == 'train'
    patients = df.loc[train, 'patient'].unique()
    drawn = np.random.default_rng(seed).permutation(patients)[:round(share*len(patients))]
    return df[~train | df['patient'].isin(drawn)]


def judged(model, learn, df, store):
    "Linear probe, recall@10 and generation loss of held-out studies"
    learn.model = model
    names = ['valid_loss', *[o.name for o in learn.metrics]]
    values = dict(zip(names, learn.validate()))
    return dict(auroc=probe(model.vision, df, store).mean(), recall=values['recall@10'], gen=values['gen'])


def few_labels(vision, df, store):
    "AUROC of linear probes from few labels of frontal images, mean of the findings and of the draws"
    frontal = df[df['view'] != 'LATERAL']
    train, test = (frontal[frontal['split'] == o] for o in ('train', 'valid'))
    x = class_tokens(vision, store, store.rows(pd.concat([train, test])['path']))
    x_train, x_test = x[:len(train)], x[len(train):]
    columns = [f'label:{o}' for o in label_names(df)]

    def of_draw(fraction, draw):
        "AUROC from one choice of patients"
        known = label_fraction(train, fraction, draw)
        patients = train['patient'].to_numpy()[known]
        return linear_probe(x_train[known], train[columns][known], x_test, test[columns], patients=patients).mean()

    return {f'auroc {100*o:g} %': np.mean([of_draw(o, i) for i in range(DRAWS)]) for o in (.01, .1)}


def from_few_labels(folder, df, store):
    "The same of a checkpoint, kept beside it"
    kept = folder/'few_labels.csv'
    if not kept.exists():
        model, _ = load_checkpoint(folder/'checkpoint')
        with atomic(kept) as f: pd.DataFrame([few_labels(model.vision, df, store)]).to_csv(f, index=False)
    return pd.read_csv(kept)


def train(folder, name, seed, df, store, epochs, args):
    "Train one row with one seed and judge it: rows of a table, two with the moving average"
    folder.mkdir(parents=True, exist_ok=True)
    share = PARTS.get(name, 1)
    epochs = round(epochs/share)
    args = RefersArgs(preset='tiny', seed=seed, epochs=epochs, **args | ablation.ROWS.get(name, {}))
    studies = some_patients(df, share, seed) if share < 1 else df
    torch.manual_seed(seed)
    tok = run_tokenizer(folder, studies, args.vocab, args.max_len, least=args.least_patients)
    learn = refers_run_learner(args, studies, store, tok)
    if name in CHANGES: CHANGES[name](learn)
    if name == 'both':
        average = MovingAverage(learn.model)
        learn.add_cb(average)
    learn.schedule(learn.max_lrs, args.warmup)
    began = time.time()
    with learn.no_bar(), learn.no_logging(): learn.fit(epochs)
    facts = dict(seed=seed, epochs=epochs, studies=len(learn.dls.train.dataset), minutes=(time.time() - began)/60)
    history = history_table(learn.recorder)
    history.to_csv(folder/'history.csv')
    facts |= dict(best=history['recall@10'].max(), lowest_match=history['match'].min(), match=history['match'].iloc[-1])
    save_checkpoint(learn.model, tok, folder/'checkpoint')
    if name == 'both': learn.remove_cb(average)
    rows = [dict(row=name) | facts | judged(learn.model, learn, df, store)]
    if name == 'both':
        averaged = judged(average.ema.module, learn, df, store)
        rows.append(dict(row=AVERAGE) | facts | averaged | dict(best=None, lowest_match=None, match=None))
    return pd.DataFrame(rows)


def measured(folder, df, store, **kwargs):
    "A row, trained where it is not there yet"
    kept = folder/'row.csv'
    if not kept.exists():
        rows = train(folder, df=df, store=store, **kwargs)
        with atomic(kept) as f: rows.to_csv(f, index=False)
        gc.collect()                                         # a learner holds itself
    return pd.read_csv(kept).join(from_few_labels(folder, df, store))   # not of the average, which has no checkpoint


def main():
    "Train, judge and compare all rows"
    a = arguments(__doc__, ROWS)
    args = dict(size=a.size, start=a.start, max_len=64)
    df, store = read_studies(a.prepared), image_store(a.prepared)
    runs = []
    for name, seed in tqdm(a.todo, desc='suspects'):
        folder = a.out/f'{name.replace(" ", "_")}-{seed}'
        runs.append(measured(folder, df, store, name=name, seed=seed, epochs=a.epochs, args=args))
    judged = 'auroc', 'auroc 1 %', 'auroc 10 %', 'recall'
    res = summary(pd.concat(runs), judged, ('best', 'gen', 'lowest_match', 'match', 'studies', 'minutes'))
    with atomic(a.out/'suspects.csv') as f: res.to_csv(f)
    sys.stdout.write(f'{res.round(3).to_string()}\n')


if __name__ == '__main__':
    try: main()
    except InputError as e: sys.exit(f'suspects: {e}')
