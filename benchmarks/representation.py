"""What a frozen model knows: retrieval, findings asked for in words, linear probes, written reports.

    python benchmarks/representation.py PREPARED CHECKPOINT --against imagenet,random --writing

Prints, for held-out studies,

- recall@1, @5, @10 both ways (the very pair, and any report of the same words) with chance,
- the AUROC of findings that are asked for in words, without a label,
- the AUROC of a logistic regression on frozen class tokens of frontal images, for the checkpoint and
  for each other start at the same image size,
- with --writing BLEU, ROUGE-L, CIDEr-D and clinical F1 of written reports (greedy, beam, sampled with temperature
  0.7 and 1, the best of eight sampled ones) beside the most frequent training report and that of the nearest training
  study; some minutes.
"""
import argparse, sys, warnings
from pathlib import Path
warnings.filterwarnings('ignore')
import pandas as pd
import torch
from refers_nb.core import InputError, atomic
from refers_nb.data.store import ImageStore
from refers_nb.data.studies import read_studies
from refers_nb.evaluation.generate import WRITERS, evaluate_writing
from refers_nb.evaluation.represent import probe, retrieval
from refers_nb.evaluation.zeroshot import zero_shot
from refers_nb.models.hub import load_checkpoint
from refers_nb.training.starts import encoder_from, preset_of, resolve_start


def arguments():
    "Of the command line"
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('table', help='folder by refers-prep')
    p.add_argument('checkpoint', help='folder by refers-pretrain')
    p.add_argument('--against', default='imagenet,random',
                   help='other starts, comma between: imagenet, random, timm name or path')
    p.add_argument('--writing', action='store_true', help='also write reports')
    p.add_argument('--split', default='valid')
    p.add_argument('--out', help='write the tables as CSV into this folder')
    return p.parse_args()


def probes(vision, against, df, store, split):
    "AUROC of linear probes, a row for each start, with its mean"
    encoders = {'reports': vision}
    arch = dict(name=vision.name, in_chans=vision.in_chans)
    for start in filter(None, against.split(',')):
        weights = resolve_start(start, preset_of(vision.name))
        encoders[start] = encoder_from(weights, vision.size, arch)
    res = pd.DataFrame({k: probe(encoder, df, store, split=split) for k, encoder in encoders.items()}).T
    res.insert(0, 'mean', res.mean(axis=1))
    return res


def main():
    a = arguments()
    df = read_studies(a.table)
    store = ImageStore(a.table)
    model, tok = load_checkpoint(a.checkpoint)
    tables = {
        'retrieval': retrieval(model, tok, df, store, a.split),
        'zero_shot': zero_shot(model, tok, df, store, split=a.split),
        'probe': probes(model.vision, a.against, df, store, a.split),
    }
    if a.writing:
        torch.manual_seed(0)
        draw = dict(sample=True, top_p=.95)
        writers = WRITERS | {'sampled, bold': draw | dict(temperature=.7), 'sampled': draw, 'best of 8': draw | dict(best_of=8)}
        tables['writing'] = evaluate_writing(model, tok, df, store, a.split, writers=writers)
    for t in tables.values(): sys.stdout.write(t.round(3).to_string() + '\n\n')
    if not a.out: return
    for name, t in tables.items():
        with atomic(Path(a.out)/f'{name}.csv') as f: t.to_csv(f)


if __name__ == '__main__':
    try: main()
    except InputError as e: sys.exit(f'representation: {e}')
