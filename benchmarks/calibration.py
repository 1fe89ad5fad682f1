"""How true the probabilities of a classifier are on a real data set, before and after refers-calibrate.

    python benchmarks/calibration.py PREPARED OUT                      # a folder by refers-prep, with labels
    python benchmarks/calibration.py PREPARED OUT --findings effusion  # some of them
    python benchmarks/calibration.py PREPARED OUT --start CHECKPOINT   # default: imagenet

A classifier is fine-tuned on the training split. Its operating points are taken away again: `before` are the probabilities
as the network says them, with 0.5 as the threshold. Then it is calibrated on the validation split, and judged there on
patients that did not choose the calibration (cross-fitted). Both with 95 % intervals over patients; OUT/comparison.csv.
"""
import argparse
import os
from pathlib import Path

os.environ.setdefault('REFERS_NB_PROGRESS', '0')
from refers_nb.calibrate import comparison_text, recalibrate
from refers_nb.core import atomic
from refers_nb.training.finetune import finetune


def arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('prepared')
    p.add_argument('out')
    p.add_argument('--start', default='imagenet')
    p.add_argument('--findings', nargs='*')
    p.add_argument('--size', type=int, default=96)
    p.add_argument('--steps', type=int, default=400)
    p.add_argument('--bs', type=int, default=32)
    return p.parse_args()


def main():
    a = arguments()
    out = Path(a.out)
    how = dict(findings=a.findings, size=a.size, steps=a.steps, bs=a.bs)
    model = finetune(a.prepared, a.start, out/'run', **how).model
    model.facts = {k: v for k, v in (model.facts or {}).items() if k != 'operating'}
    res = recalibrate(model, a.prepared, split='valid')
    with atomic(out/'comparison.csv') as f: res.comparison.to_csv(f)
    print(comparison_text(res))
    numbers = res.comparison[['error_before', 'error_after']].astype(float)
    print(numbers.describe().loc[['count', 'mean', 'min', 'max']].round(4).to_string())


if __name__ == '__main__': main()
