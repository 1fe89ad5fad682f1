"""What a frozen model knows: retrieval on held-out studies, and linear probes beside other starts.

    python benchmarks/representation.py PREPARED CHECKPOINT --against imagenet,random

Prints recall@1, @5, @10 both ways (the very pair, and any report of the same words) with chance, and the AUROC of a logistic
regression on frozen class tokens of frontal images, for the checkpoint and for each other start at the same image size.
"""
import argparse, sys, warnings
from pathlib import Path
warnings.filterwarnings('ignore')
import pandas as pd
from refers_nb.core import InputError, atomic, settings
from refers_nb.finetune import encoder_from
from refers_nb.hub import load_checkpoint
from refers_nb.radiograph import ImageStore
from refers_nb.represent import probe, retrieval
from refers_nb.studies import read_studies

def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('table', help='folder by refers-prep'); p.add_argument('checkpoint', help='folder by refers-pretrain')
    p.add_argument('--against', default='imagenet,random', help='other starts, comma between: imagenet, random, timm name or path')
    p.add_argument('--split', default='valid'); p.add_argument('--out', help='write the two tables as CSV into this folder')
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
    for t in (found, probes): sys.stdout.write(t.round(3).to_string()+'\n\n')
    if a.out:
        for name,t in (('retrieval', found), ('probe', probes)):
            with atomic(Path(a.out)/f'{name}.csv') as f: t.to_csv(f)

if __name__=='__main__':
    try: main()
    except InputError as e: sys.exit(f'representation: {e}')
