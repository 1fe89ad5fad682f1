"""The pointing game on phantoms: how often the peak of a map falls on the drawn finding, against chance and others.

    python benchmarks/pointing.py OUT                    # from the ImageNet weights of settings.ini, minutes per seed
    python benchmarks/pointing.py OUT --start random     # a network that sees little points at little
    python benchmarks/pointing.py OUT --seeds 0,1,2      # pooled; each seed draws phantoms of its own

For every seed: pre-training from reports, a classifier of findings fine-tuned on the labels, then the maps
of both on phantoms that nothing was trained or chosen on. A hit is a peak whose patch has its centre in the
box (margin 0). Goes on where it was stopped.
"""
import argparse, sys, warnings
from pathlib import Path
warnings.filterwarnings('ignore')
import numpy as np
import pandas as pd
import torch
from refers_nb.core import InputError, atomic, cpu_has_bf16
from refers_nb.data.loaders import Augment
from refers_nb.data.report import findings_impression
from refers_nb.data.sources.phantom import phantom_set
from refers_nb.evaluation.attend import (
    finding_attention, occlusion, pointing_game, rollout, wilson, word_attention, word_gradient, word_places,
)
from refers_nb.models.hub import load_checkpoint
from refers_nb.models.refers import Refers
from refers_nb.phantom.phantoms import phantoms
from refers_nb.training.classifier import Classifier
from refers_nb.training.finetune import finetune
from refers_nb.training.metrics import auroc
from refers_nb.training.pretrain import PHANTOM_RECIPE, pretrain

# Words that name a finding of the phantoms
SAID = {
    'cardiomegaly': ['cardiomegaly', 'enlarged', 'enlargement'],
    'effusion': ['effusion', 'effusions', 'fluid'],
    'pneumothorax': ['pneumothorax'],
    'nodule': ['nodule', 'nodular'],
    'consolidation': ['consolidation', 'infiltrate', 'pneumonia', 'opacification'],
    'edema': ['edema'],
    'atelectasis': ['atelectasis'],
    'device': ['pacemaker', 'central', 'tube', 'sternotomy'],
}


# Networks

def trained(out, seed, a):
    "Model, tokenizer and classifier of a seed; nothing is trained twice"
    phantom_set(out/'data', a.size, train=(a.studies, 100 + seed), valid=(200, 200 + seed))
    recipe = PHANTOM_RECIPE | dict(start=a.start, size=a.size, epochs=a.epochs, vocab=1000, seed=seed)
    checkpoint = pretrain(out/'data', out/'pretrain', 'tiny', tensorboard=False, **recipe)
    tuned = out/f'finetune-{a.steps}'
    if not (tuned/'model').exists():
        finetune(out/'data', checkpoint, tuned, size=a.size, steps=a.steps, evals=4, lr=2e-4, seed=seed, augment=False)
    model, tok = load_checkpoint(checkpoint, Refers)
    clf, _ = load_checkpoint(tuned/'model', Classifier)
    return model, tok, clf


def in_batches(f, n, size=32):
    "What `f` gives for the places 0 to n, some at a time"
    return torch.cat([f(np.arange(n)[i:i+size]) for i in range(0, n, size)])


# Maps of the encoder

def maps_of_findings(clf, front, ill):
    "{finding: maps (n, gh, gw)} by gradient, for the studies that have it"
    maps = {}
    for finding, at in ill.items():
        maps[finding] = torch.zeros(len(front), *clf.vision.grid)
        maps[finding][at] = in_batches(lambda i: finding_attention(clf, front[at][i], finding), len(at))
    return maps


def maps_by_covering(clf, front):
    "{finding: maps (n, gh, gw)} by covering one patch after the other"
    def score(x):
        with torch.autocast('cpu', torch.bfloat16, enabled=cpu_has_bf16()): return clf(x).float()
    covered = in_batches(lambda i: occlusion(score, front[i], clf.vision.patch), len(front))      # (n, f, gh, gw)
    return dict(zip(clf.config['findings'], covered.transpose(0, 1)))


def middle_of_the_image(grid, n):
    "Maps (n, gh, gw) whose peak is in the middle"
    gh, gw = grid
    y, x = np.mgrid[:gh, :gw]
    return np.repeat(-((y - gh/2 + .5)**2 + (x - gw/2 + .5)**2)[None], n, 0)


def encoder_maps(clf, front, boxes):
    "{name: maps, by finding or for all}"
    blank = Classifier(clf.config).eval()
    ill = {f: sorted(set(o.image)) for f, o in boxes.groupby('finding')}
    return {
        'finding: gradient': maps_of_findings(clf, front, ill),
        'finding: covering': maps_by_covering(clf, front),
        'finding: rollout': in_batches(lambda i: rollout(clf.vision, front[i]), len(front)),
        'finding: gradient, untrained': maps_of_findings(blank, front, ill),
        'middle of the image': middle_of_the_image(clf.vision.grid, len(front)),
    }


# Maps of words

def affirmed(words, finding):
    "Of a report's words with their places: the sentence up to the word that first affirms the finding, of its side"
    side = finding.split()[0] if ' ' in finding else None
    names = SAID[finding.split()[-1]]
    sentence = []
    for word, places in [*words, ('.', [])]:
        if word not in '.;':
            sentence.append((word, places))
            continue
        said = [o for o, _ in sentence]
        at = [i for i, o in enumerate(said) if o in names]
        if at and 'no' not in said and (side is None or side in said): return sentence[:at[0]+1]
        sentence = []


def word_rows(tok, report, boxes):
    "Boxes of the findings that reports name, one image each; the study, places of the word and of its sentence"
    parts, studies, word, sentence = [], [], [], []
    for (i, finding), b in boxes.groupby(['image', 'finding'], sort=False):
        said = affirmed(word_places(tok, report[i]), finding)
        if not said: continue
        parts.append(b.assign(image=len(studies)))
        studies.append(i)
        word.append(said[-1][1])
        sentence.append(sum((places for _, places in said), []))
    return pd.concat(parts, ignore_index=True), studies, word, sentence


def word_games(model, tok, views, mask, report, boxes):
    "{name: maps of the frontal view} of the written words, and their boxes"
    boxes, studies, word, sentence = word_rows(tok, report, boxes)
    blank = Refers(model.config).eval()
    def gradient(model, places):
        "What speaks for the words"
        def some(i):
            at = [studies[j] for j in i]
            return word_gradient(model, views[at], mask[at], report[at], [places[j] for j in i])[:, 0]
        return in_batches(some, len(studies))
    def attention(model):
        "Where the decoder looked for the words"
        def some(i): return word_attention(model, views[i], mask[i], report[i])[:, :, 0]
        table = in_batches(some, len(views))                                              # (n, t-1, gh, gw)
        return torch.stack([table[i, [j - 1 for j in places]].mean(0) for i, places in zip(studies, word)])
    maps = {
        'word: gradient': gradient(model, word),
        'word and its sentence so far: gradient': gradient(model, sentence),
        'word: cross-attention': attention(model),
        'word: gradient, untrained': gradient(blank, word),
        'word: cross-attention, untrained': attention(blank),
    }
    return maps, boxes


# The game

def play(out, seed, a):
    "Of a seed: the game, one row for each map and finding; AUROC by finding of the classifier, same phantoms"
    model, tok, clf = trained(out, seed, a)
    ph = phantoms(a.test, size=a.size, seed=300 + seed)
    plain = Augment(a.size)
    images = [plain(torch.from_numpy(o)[:, None]) for o in (ph.frontal, ph.lateral)]
    views = torch.stack(images, 1).as_subclass(torch.Tensor)                              # (n, 2, 1, h, w)
    mask = torch.stack([torch.ones(len(ph)).bool(), torch.from_numpy(ph.has_lateral)], 1)
    report = tok.pad([tok(findings_impression(o)) for o in ph.reports]).as_subclass(torch.Tensor)
    boxes = ph.boxes.rename(columns={'study': 'image'})

    torch.manual_seed(seed)
    of_encoder = encoder_maps(clf, views[:, 0], boxes)
    of_words, word_boxes = word_games(model, tok, views, mask, report, boxes)
    games = {k: pointing_game(m, boxes, a.size) for k, m in of_encoder.items()}
    games |= {k: pointing_game(m, word_boxes, a.size) for k, m in of_words.items()}
    res = pd.concat(games, names=['map', 'finding']).drop(columns=['low', 'high'])

    findings = clf.config['findings']
    with torch.no_grad(): areas = auroc(ph.labels[findings].to_numpy(float), clf(views[:, 0]).numpy())
    return res, pd.Series(areas, index=findings, name='AUROC')


def pooled(tables):
    "Seeds as one game: rates weighed by n, interval by Wilson, hits over chance"
    table = pd.concat(tables)
    rates = ['hits', 'chance', 'others']
    weighed = table[rates].mul(table['n'], axis=0).assign(n=table['n'])
    sums = weighed.groupby(level=[0, 1], sort=False).sum()
    res = sums[rates].div(sums['n'], axis=0)
    res.insert(0, 'n', sums['n'])
    low, high = wilson(sums['hits'], sums['n'])
    res.insert(2, 'low', low)
    res.insert(3, 'high', high)
    return res.assign(times=res['hits']/res['chance'], times_low=low/res['chance'])


def by_finding(res, areas):
    "Hits of the trained maps by finding, beside AUROC and chance"
    trained_maps = [k for k in res.index.unique('map') if ',' not in k]
    table = pd.DataFrame({k: res.loc[k, 'hits'] for k in trained_maps}).drop('all')
    table.insert(0, 'chance', res.loc['finding: gradient', 'chance'])
    table.insert(0, 'AUROC', pd.concat(areas, axis=1).mean(axis=1))
    return table.T


def arguments():
    "Of the command line"
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('out', help='folder of the runs')
    p.add_argument('--start', default='imagenet', help='imagenet, random, timm name or path')
    p.add_argument('--seeds', default='0', help='comma between')
    p.add_argument('--size', type=int, default=96, help='image side, pixels')
    p.add_argument('--studies', type=int, default=3000, help='to learn from')
    p.add_argument('--epochs', type=int, default=3, help='of pre-training')
    p.add_argument('--steps', type=int, default=240, help='of fine-tuning')
    p.add_argument('--test', type=int, default=300, help='studies of the game, for each seed')
    return p.parse_args()


def main():
    a = arguments()
    tables, areas = [], []
    for seed in map(int, a.seeds.split(',')):
        out = Path(a.out)/f'seed{seed}'
        table, of_seed = play(out, seed, a)
        with atomic(out/'pointing.csv') as f: table.to_csv(f)
        tables.append(table)
        areas.append(of_seed)
    res = pooled(tables)
    over_all = res.xs('all', level='finding').astype({'n': int})
    for t in (over_all.round(3), by_finding(res, areas).round(2)): sys.stdout.write(t.to_string() + '\n\n')


if __name__ == '__main__':
    try: main()
    except InputError as e: sys.exit(f'pointing: {e}')
