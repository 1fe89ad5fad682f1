"""What each part of the method is worth: the same pre-training without it, several seeds, one table.

    python benchmarks/ablation.py PREPARED OUT --start WEIGHTS      # a folder by refers-prep
    python benchmarks/ablation.py phantoms OUT                      # phantoms and the recipe of refers-demo

Every row sees the same studies for the same number of steps, and differs from `both` (two views, attention) in one argument. A study with fewer
views leaves places empty: phantoms have two at most, so there `three views` repeats `both`. Judged on the validation split: AUROC
of a linear probe (mean of the findings), recall@10 (mean of both directions, equal reports count) and the generation loss of a
written token. `gain` is the difference from `both` of the same seed, mean and standard deviation over the seeds.
Goes on where it was stopped; several processes may share OUT if `--seeds` or `--rows` keep them apart.
"""
import argparse, gc, os, sys, warnings
from pathlib import Path
os.environ.setdefault('REFERS_NB_PROGRESS', '0')
warnings.filterwarnings('ignore')
import pandas as pd
from tqdm.auto import tqdm
from refers_nb.training.pretrain import PHANTOM_RECIPE
from refers_nb.data.sources.phantom import phantom_set
from refers_nb.core import InputError, atomic
from refers_nb.models.hub import load_checkpoint
from refers_nb.training.pretrain import pretrain
from refers_nb.data.store import ImageStore
from refers_nb.evaluation.represent import probe
from refers_nb.data.studies import read_studies

ROWS = {'both': {}, 'generation only': dict(match=0.), 'matching only': dict(gen=0.), 'gate': dict(fusion='gate'),
        'three views': dict(n_views=3), 'one view': dict(n_views=1)}

def measure(folder, name, seed, table, df, store, epochs, args):
    "Train one row with one seed, and judge it"
    where = folder/f'{name.replace(" ", "_")}-{seed}'
    checkpoint = pretrain(table, where, 'tiny', epochs=epochs, seed=seed, tensorboard=False, save_every=10**9, **args | ROWS[name])
    if not (where/'row.csv').exists():
        gc.collect()                                     # a learner holds itself
        model,_ = load_checkpoint(checkpoint)
        got,lost = pd.read_csv(where/'history.csv').iloc[-1],float('nan')
        row = dict(row=name, seed=seed, auroc=probe(model.vision, df, store).mean(),
                   recall=got['recall@10'] if ROWS[name].get('match', 1) else lost, gen=got['gen'] if ROWS[name].get('gen', 1) else lost)
        with atomic(where/'row.csv') as f: pd.DataFrame([row]).to_csv(f, index=False)
    return pd.read_csv(where/'row.csv')

def summary(runs):
    "Mean and standard deviation over the seeds, and the difference from `both` of the same seed"
    base = runs[runs.row=='both'].set_index('seed')
    runs = runs.assign(gain=runs.auroc - runs.seed.map(base.auroc), recall_gain=runs.recall - runs.seed.map(base.recall))
    res = runs.groupby('row', sort=False)[['auroc', 'gain', 'recall', 'recall_gain', 'gen']].agg(['mean', 'std'])
    res.insert(0, 'seeds', runs.groupby('row').size())
    return res

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('prepared', help='folder by refers-prep, or phantoms'); p.add_argument('out')
    p.add_argument('--start', help='weights the encoder starts from; default: random')
    p.add_argument('--size', type=int, default=96); p.add_argument('--epochs', type=int, default=5)
    p.add_argument('--seeds', default='0,1,2'); p.add_argument('--rows', default='', help='some rows, + between; default: all')
    a = p.parse_args()
    out,args = Path(a.out),dict(size=a.size, start=a.start or 'random', max_len=64)
    if a.prepared=='phantoms':
        a.prepared,args = out/'phantoms',args | dict(size=64) | PHANTOM_RECIPE
        phantom_set(a.prepared, 64, train=(4000, 1), valid=(400, 2))
    df,store = read_studies(a.prepared),ImageStore(a.prepared)
    rows = a.rows.split('+') if a.rows else [*ROWS]
    if bad := set(rows)-{*ROWS}: raise InputError(f'no row {bad}: {", ".join(ROWS)}')
    todo = [(name, int(seed)) for seed in a.seeds.split(',') for name in rows]
    runs = pd.concat([measure(out, name, seed, a.prepared, df, store, a.epochs, args) for name,seed in tqdm(todo, desc='ablation')])
    res = summary(runs)
    with atomic(out/'ablation.csv') as f: res.to_csv(f)
    sys.stdout.write(f'{res.round(3).to_string()}\n')

if __name__=='__main__':
    try: main()
    except InputError as e: sys.exit(f'ablation: {e}')
