"""What a frozen model knows: retrieval on held-out studies, findings asked for in words, linear probes beside other starts, written reports.

    python benchmarks/representation.py PREPARED CHECKPOINT --against imagenet,random --writing

Prints recall@1, @5, @10 both ways (the very pair, and any report of the same words) with chance, and the AUROC of a logistic
regression on frozen class tokens of frontal images, for the checkpoint and for each other start at the same image size. Between them the
AUROC of findings that are asked for in words, without a label. With --writing also BLEU, ROUGE-L, CIDEr-D and clinical F1 of written reports (greedy, beam, sampled)
beside the most frequent training report and that of the nearest training study; some minutes.
"""
import argparse, sys, warnings
from pathlib import Path
warnings.filterwarnings('ignore')
import pandas as pd, torch
from refers_nb.core import InputError, atomic
from refers_nb.settings import settings
from refers_nb.training.starts import encoder_from
from refers_nb.evaluation.generate import WRITERS, evaluate_writing
from refers_nb.models.hub import load_checkpoint
from refers_nb.data.store import ImageStore
from refers_nb.evaluation.represent import probe, retrieval
from refers_nb.data.studies import read_studies
from refers_nb.evaluation.zeroshot import zero_shot

def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('table', help='folder by refers-prep'); p.add_argument('checkpoint', help='folder by refers-pretrain')
    p.add_argument('--against', default='imagenet,random', help='other starts, comma between: imagenet, random, timm name or path')
    p.add_argument('--writing', action='store_true', help='also write reports')
    p.add_argument('--split', default='valid'); p.add_argument('--out', help='write the tables as CSV into this folder')
    a = p.parse_args()
    df,store = read_studies(a.table),ImageStore(a.table)
    model,tok = load_checkpoint(a.checkpoint)
    vision = model.vision
    found = retrieval(model, tok, df, store, a.split)
    starts = {'reports': vision}
    for o in filter(None, a.against.split(',')):
        where = settings().weights.__dict__[f'vit_{vision.name.split("_")[1]}'] if o=='imagenet' else o
        starts[o] = encoder_from(where, vision.size, dict(name=vision.name, in_chans=vision.in_chans))
    probes = pd.DataFrame({k: probe(e, df, store, split=a.split) for k,e in starts.items()}).T
    probes.insert(0, 'mean', probes.mean(axis=1))
    tables = dict(retrieval=found, zero_shot=zero_shot(model, tok, df, store, split=a.split), probe=probes)
    if a.writing:
        torch.manual_seed(0)
        writers = WRITERS | dict(sampled=dict(sample=True, temperature=.7, top_p=.95))
        tables['writing'] = evaluate_writing(model, tok, df, store, a.split, writers=writers)
    for t in tables.values(): sys.stdout.write(t.round(3).to_string()+'\n\n')
    if a.out:
        for name,t in tables.items():
            with atomic(Path(a.out)/f'{name}.csv') as f: t.to_csv(f)

if __name__=='__main__':
    try: main()
    except InputError as e: sys.exit(f'representation: {e}')
