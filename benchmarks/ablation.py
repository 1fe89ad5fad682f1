"""What each part of the method is worth: the same pre-training without it, several seeds, one table.

    python benchmarks/ablation.py PREPARED OUT --start WEIGHTS      # a folder by refers-prep
    python benchmarks/ablation.py phantoms OUT                      # phantoms, by PHANTOM_RECIPE

Every row sees the same studies for the same number of steps, and differs from `both` (two views, attention) in one
argument, in `some sentences` in two. `a tenth of writing`: the weight of the generation loss. `similar reports`: two
reports whose words are more alike than 0.3 are no negatives of each other. `some sentences`: three in ten are left out,
and they change places. `with labels`: the findings that a program reads in the report are named, too, with the weight 10.
`rare words`: in the generation loss a token counts 1 + log(reports / reports with it).
A study with fewer views leaves places empty: phantoms have two at most, so there `three views` repeats `both`.
`half the patches` leaves out every second patch while it trains; `half the patches, same time` does so for as many passes
as take the time of `both`, by steps of the two that are timed in turns before (OUT/same_time.csv). Alone on the machine,
for this: `minutes` says what each row took, unless it was stopped in between.
Judged on the validation split: AUROC of a linear probe (mean of the findings), recall@10 (mean of both directions, equal
reports count) and the generation loss per written token. `gain` is the difference from `both` of the same seed, mean and
standard deviation over the seeds.
Goes on where it was stopped; several processes may share OUT if `--seeds` or `--rows` keep them apart.
"""
import argparse, gc, os, sys, warnings
from pathlib import Path
os.environ.setdefault('REFERS_NB_PROGRESS', '0')
warnings.filterwarnings('ignore')
import pandas as pd
from tqdm.auto import tqdm
from refers_nb.core import InputError, atomic
from refers_nb.data.sources.phantom import phantom_set
from refers_nb.data.store import ImageStore
from refers_nb.data.studies import read_studies
from refers_nb.evaluation.represent import probe
from refers_nb.models.hub import load_checkpoint
from refers_nb.runs import read_record
from refers_nb.training.pretrain import PHANTOM_RECIPE, pretrain

ROWS = {
    'both': {},
    'generation only': dict(match=0.),
    'matching only': dict(gen=0.),
    'gate': dict(fusion='gate'),
    'three views': dict(n_views=3),
    'one view': dict(n_views=1),
    'a tenth of writing': dict(gen=.1),
    'similar reports': dict(near=.3),
    'some sentences': dict(drop_sentences=.3, shuffle_sentences=True),
    'with labels': dict(with_labels=10.),
    'rare words': dict(rare_words=1.),
    'longer warm-up': dict(warmup=.2),
    'half the patches': dict(patch_drop=.5),
    'half the patches, same time': dict(patch_drop=.5)}
SAME_TIME = ', same time'

def passes(out, name, table, epochs, args):
    "Passes of a row; of one that is to take the time of `both`, by the fastest of three plans each"
    if not name.endswith(SAME_TIME): return epochs
    timed = out/'same_time.csv'
    if not timed.exists():
        def seconds(row):
            "Of a step"
            return pretrain(table, out/'plan', 'tiny', epochs=epochs, dry_run=True, **args | ROWS[row])['seconds per step']
        turns = pd.DataFrame([{row: seconds(row) for row in ('both', name)} for _ in range(3)])
        timed.parent.mkdir(parents=True, exist_ok=True)
        with atomic(timed) as f: turns.to_csv(f, index=False)
    best = pd.read_csv(timed).min()
    return max(1, round(epochs*best['both']/best[name]))

def minutes(folder):
    "How long a run took"
    run = read_record(folder)
    return (pd.Timestamp(run['end']) - pd.Timestamp(run['start'])).total_seconds()/60

def measure(out, name, seed, table, epochs, args):
    "Train one row with one seed, and judge it"
    folder = out/f'{name.replace(",", "").replace(" ", "_")}-{seed}'
    epochs = passes(out, name, table, epochs, args)
    args = args | ROWS[name]
    checkpoint = pretrain(table, folder, 'tiny', epochs=epochs, seed=seed, tensorboard=False, save_every=10**9, **args)
    if not (folder/'row.csv').exists():
        gc.collect()                                     # a learner holds itself
        model, _ = load_checkpoint(checkpoint)
        last = pd.read_csv(folder/'history.csv').iloc[-1]
        row = dict(row=name, seed=seed, epochs=epochs, minutes=minutes(folder))
        row['auroc'] = probe(model.vision, read_studies(table), ImageStore(table)).mean()
        row['recall'] = last['recall@10'] if args.get('match', 1) else float('nan')
        row['gen'] = last['gen'] if args.get('gen', 1) else float('nan')
        with atomic(folder/'row.csv') as f: pd.DataFrame([row]).to_csv(f, index=False)
    return pd.read_csv(folder/'row.csv')

def summary(runs, judged=('auroc', 'recall'), others=('gen', 'minutes')):
    "Mean and standard deviation over the seeds; of what is judged also the difference from `both` of the same seed"
    base = runs[runs['row'] == 'both'].set_index('seed')
    gains = {f'{o} gain': runs[o] - runs['seed'].map(base[o]) for o in judged}
    pairs = [column for o in judged for column in (o, f'{o} gain')]
    res = runs.assign(**gains).groupby('row', sort=False)[[*pairs, *others]].agg(['mean', 'std'])
    res.insert(0, 'epochs', runs.groupby('row')['epochs'].mean())
    res.insert(0, 'seeds', runs.groupby('row').size())
    return res

def arguments(description=__doc__, rows=ROWS):
    "What the terminal says; `todo` is each row with each seed"
    p = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('prepared', help='folder by refers-prep, or phantoms')
    p.add_argument('out', type=Path)
    p.add_argument('--start', default='random', help='what the encoder starts from; default: random')
    p.add_argument('--size', type=int, default=96)
    p.add_argument('--epochs', type=int, default=5)
    p.add_argument('--seeds', default='0,1,2')
    p.add_argument('--rows', default='+'.join(rows), help='some rows, + between; default: all')
    a = p.parse_args()
    asked = a.rows.split('+')
    unknown = set(asked) - set(rows)
    if unknown: raise InputError(f'no row {unknown}: {", ".join(rows)}')
    a.todo = [(name, int(seed)) for seed in a.seeds.split(',') for name in asked]
    return a

def main():
    "Train, judge and compare all rows"
    a = arguments()
    table = a.prepared
    args = dict(size=a.size, start=a.start, max_len=64)
    if a.prepared == 'phantoms':
        table = a.out/'phantoms'
        args |= dict(size=64) | PHANTOM_RECIPE
        phantom_set(table, 64, train=(4000, 1), valid=(400, 2))
    runs = [measure(a.out, name, seed, table, a.epochs, args) for name, seed in tqdm(a.todo, desc='ablation')]
    res = summary(pd.concat(runs))
    with atomic(a.out/'ablation.csv') as f: res.to_csv(f)
    sys.stdout.write(f'{res.round(3).to_string()}\n')

if __name__ == '__main__':
    try: main()
    except InputError as e: sys.exit(f'ablation: {e}')
