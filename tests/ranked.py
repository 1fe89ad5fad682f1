"""Short trainings in as many processes as start it, and what came of them: `torchrun tests/ranked.py TABLE OUT`

Each training is one of `RUNS`. OUT gets, for each, the losses of its steps, its weights and its validation. `test_ranks.py`
compares what one, two and four processes leave."""
import sys
from pathlib import Path
import pandas as pd
import torch
from refers_nb.data.given import image_store
from refers_nb.data.studies import read_studies
from refers_nb.ranks import is_first, n_ranks, ranks
from refers_nb.training.classifier import Classifier
from refers_nb.training.distributed import over_ranks
from refers_nb.training.finetune import finetune_learner
from refers_nb.training.pretrain import RefersArgs, refers_run_learner, run_tokenizer

BASE = dict(preset='nano', start='random', size=32, bs=8, n_views=3, vocab=300, max_len=32, least_patients=0, dropout=0.,
            epochs=4, precision='fp32', device='cpu') # 24 steps
SGD = dict(opt='paper', lr=.01)                               # one gradient that differs by rounding moves no weight far
RUNS = dict(
    # masked equal and similar reports, learned tau
    both=dict(clip=.5, near=.5, drop_sentences=.3, with_labels=1., rare_words=1., **SGD),
    adamw=dict(clip=.5, freeze=1),                            # a layer of the report encoder stays as it is
    # a step in two parts
    parts=dict(bs=4, accum=2, clip=10., mask_same=False, learn_tau=False, with_labels=1., rare_words=1., **SGD),
    still=dict(lr=1e-12, wd=0., clip=1e-9, epochs=1))         # no weight moves: the same validation to the last digit


def studies(table):
    "Studies of one to three views, every fourth with the report of the study before it"
    df = read_studies(table)
    df['view'] = df['view'].astype(str)
    names = df['study'].drop_duplicates().tolist()
    third = df[df['study'].isin(names[::3])].drop_duplicates('study').assign(view='OTHER')
    reports = df.drop_duplicates('study').set_index('study')['report']
    for before, name in zip(names, names[1:]):
        if names.index(name) % 4 == 0: df.loc[df['study'] == name, 'report'] = reports[before]
    return pd.concat([df, third], ignore_index=True)


def outcome(learn):
    "What a training has done"
    return dict(losses=torch.stack([torch.as_tensor(o) for o in learn.recorder.losses]),
                weights=dict(learn.model.state_dict()), loss=dict(learn.loss_func.state_dict()),
                valid=[float(o) for o in learn.recorder.values[-1]][1:])


def pretrained(table, out, changes):
    "A pre-training of some epochs of six steps"
    args = RefersArgs(**BASE | changes)
    torch.manual_seed(args.seed)
    df = studies(table)
    tok = run_tokenizer(out, df, args.vocab, args.max_len, least=args.least_patients)
    learn = refers_run_learner(args, df, image_store(table), tok)
    learn.schedule(learn.max_lrs, args.warmup)
    with learn.no_bar(), learn.no_logging(): over_ranks(learn).fit(args.epochs)
    return outcome(learn)


def finetuned(table):
    "A classifier, some of its labels missing"
    df = read_studies(table)
    for i, name in enumerate(o for o in df if o.startswith('label:')): df.loc[df.index % 5 == i, name] = float('nan')
    learn = finetune_learner(df, store=image_store(table), steps=20, evals=2, bs=8, size=32, opt='sgd', device='cpu',
                             precision='fp32', arch=dict(name='test_vit'))
    with learn.no_bar(), learn.no_logging(): over_ranks(learn).fit(learn.n_epochs)
    return outcome(learn)


if __name__ == '__main__':
    table, out = map(Path, sys.argv[1:])
    torch.set_num_threads(1)
    with ranks('cpu'):
        found = {name: pretrained(table, out/name, changes) for name, changes in RUNS.items()}
        found['classifier'] = finetuned(table)
        if is_first(): torch.save(found, out/f'{n_ranks()}.pt')
