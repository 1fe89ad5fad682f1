"""The pointing game on phantoms: how often the peak of a map falls on the drawn finding, against chance and others.

    python benchmarks/pointing.py OUT                    # from the ImageNet weights of settings.ini, about five minutes a seed on one core
    python benchmarks/pointing.py OUT --start random     # a network that sees little points at little
    python benchmarks/pointing.py OUT --seeds 0,1,2      # pooled; each seed draws its own phantoms, for training and for the game

For every seed: pre-training from reports, a classifier of findings fine-tuned on the labels, then the maps of both on phantoms that
nothing was trained or chosen on. A hit is a peak whose patch has its centre in the box (margin 0). Goes on where it was stopped.
"""
import argparse, sys, warnings
from pathlib import Path
warnings.filterwarnings('ignore')
import numpy as np, pandas as pd, torch
from refers_nb.evaluation.attend import finding_attention, occlusion, pointing_game, rollout, wilson, word_attention, word_gradient, word_places
from refers_nb.training.pretrain import PHANTOM_RECIPE
from refers_nb.data.sources.phantom import phantom_set
from refers_nb.core import InputError, atomic
from refers_nb.settings import settings
from refers_nb.data.loaders import Augment
from refers_nb.training.classifier import Classifier
from refers_nb.training.finetune import finetune
from refers_nb.models.hub import load_checkpoint
from refers_nb.training.metrics import auroc
from refers_nb.phantom.phantoms import phantoms
from refers_nb.training.pretrain import pretrain
from refers_nb.models.refers import Refers
from refers_nb.data.report import findings_impression

SAID = dict(cardiomegaly='cardiomegaly enlarged enlargement', effusion='effusion effusions fluid', pneumothorax='pneumothorax', nodule='nodule nodular',
            consolidation='consolidation infiltrate pneumonia opacification', edema='edema', atelectasis='atelectasis',
            device='pacemaker central tube sternotomy')     # words that name a finding of the phantoms

def trained(out, seed, a):
    "Model, tokenizer and classifier of a seed; nothing is trained twice"
    start = settings().weights.vit_tiny if a.start=='imagenet' else a.start
    phantom_set(out/'data', a.size, train=(a.studies, 100+seed), valid=(200, 200+seed))
    checkpoint = pretrain(out/'data', out/'pretrain', 'tiny', start=start, size=a.size, epochs=a.epochs, vocab=1000, seed=seed,
                          tensorboard=False, **PHANTOM_RECIPE)
    tuned = out/f'finetune-{a.steps}'
    if not (tuned/'model').exists():
        finetune(out/'data', checkpoint, tuned, size=a.size, steps=a.steps, evals=4, lr=2e-4, seed=seed, augment=False)
    return *load_checkpoint(checkpoint, Refers), load_checkpoint(tuned/'model', Classifier)[0]

def named(words, finding):
    "Of the words of a report with their places: the sentence up to the word that first affirms the finding, of the right side"
    side,sentence = finding.split()[0] if ' ' in finding else None,[]
    for o in [*words, ('.', [])]:
        if o[0] not in '.;': sentence.append(o); continue
        have = [w for w,_ in sentence]
        at = [i for i,w in enumerate(have) if w in SAID[finding.split()[-1]].split()]
        if at and 'no' not in have and (side is None or side in have): return sentence[:at[0]+1]
        sentence = []

def in_parts(f, n, size=32): return torch.cat([f(np.arange(n)[i:i+size]) for i in range(0, n, size)])

def encoder_maps(vision, clf, front, boxes):
    "{name: maps by finding} of the encoder"
    blank,ill = Classifier(clf.config).eval(),{f: sorted(set(o.image)) for f,o in boxes.groupby('finding')}
    def ask(clf):
        maps = {f: torch.zeros(len(front), *clf.vision.grid) for f in ill}
        for f,o in ill.items(): maps[f][o] = in_parts(lambda i: finding_attention(clf, front[o][i], f), len(o))
        return maps
    def bare(x):
        with torch.autocast('cpu', torch.bfloat16): return clf(x).float()
    covered = in_parts(lambda i: occlusion(bare, front[i], clf.vision.patch), len(front))      # (n, f, gh, gw)
    gh,gw = vision.grid
    y,x = np.mgrid[:gh, :gw]
    middle = np.repeat(-((y-gh/2+.5)**2 + (x-gw/2+.5)**2)[None], len(front), 0)
    return {'finding: gradient': ask(clf), 'finding: covering': dict(zip(clf.config['findings'], covered.transpose(0, 1))),
            'finding: rollout': in_parts(lambda i: rollout(clf.vision, front[i]), len(front)),
            'finding: gradient, untrained': ask(blank), 'middle of the image': middle}

def word_rows(tok, report, boxes):
    "Boxes of the findings that the reports name, an image each; the study, the word's places and those of its sentence so far"
    parts,asked = [],[]
    for (i,f),b in boxes.groupby(['image', 'finding'], sort=False):
        if not (said := named(word_places(tok, report[i]), f)): continue
        parts.append(b.assign(image=len(asked)))
        asked.append((i, said[-1][1], sum((o for _,o in said), [])))
    return pd.concat(parts, ignore_index=True), *map(list, zip(*asked))

def word_games(model, tok, views, mask, report, boxes):
    "{name: (maps of the frontal view, boxes)} of the written word"
    boxes,of,word,phrase = word_rows(tok, report, boxes)
    blank = Refers(model.config).eval()
    def gradient(model, places):
        def some(i):
            at = [of[j] for j in i]
            return word_gradient(model, views[at], mask[at], report[at], [places[j] for j in i])[:, 0]
        return in_parts(some, len(of))
    def attention(model):
        table = in_parts(lambda i: word_attention(model, views[i], mask[i], report[i])[:, :, 0], len(views))   # (n, t-1, gh, gw)
        return torch.stack([table[i, [j-1 for j in o]].mean(0) for i,o in zip(of, word)])
    maps = {'word: gradient': gradient(model, word), 'word and its sentence so far: gradient': gradient(model, phrase),
            'word: cross-attention': attention(model), 'word: gradient, untrained': gradient(blank, word),
            'word: cross-attention, untrained': attention(blank)}
    return {k: (m, boxes) for k,m in maps.items()}

def play(out, seed, a):
    "Tables of a seed: the game, a row a map and finding; AUROC by finding of the classifier on the same phantoms"
    model,tok,clf = trained(out, seed, a)
    ph,plain = phantoms(a.test, size=a.size, seed=300+seed),Augment(a.size)
    views = torch.stack([plain(torch.from_numpy(o)[:, None]) for o in (ph.frontal, ph.lateral)], 1).as_subclass(torch.Tensor)
    mask = torch.stack([torch.ones(len(ph)).bool(), torch.from_numpy(ph.has_lateral)], 1)
    report = tok.pad([tok(findings_impression(o)) for o in ph.reports]).as_subclass(torch.Tensor)
    boxes = ph.boxes.rename(columns={'study': 'image'})
    torch.manual_seed(seed)
    games = {k: (m, boxes) for k,m in encoder_maps(model.vision, clf, views[:, 0], boxes).items()}
    games |= word_games(model, tok, views, mask, report, boxes)
    res = pd.concat({k: pointing_game(m, b, a.size) for k,(m,b) in games.items()}, names=['map', 'finding'])
    with torch.no_grad(): seen = auroc(ph.labels[clf.config['findings']].to_numpy(float), clf(views[:, 0]).numpy())
    return res.drop(columns=['low', 'high']), pd.Series(seen, index=clf.config['findings'], name='AUROC')

def pooled(tables):
    "Seeds as one game: rates weighed by n, interval by Wilson, hits over chance"
    all_ = pd.concat(tables)
    sums = all_[['hits', 'chance', 'others']].mul(all_['n'], axis=0).assign(n=all_['n']).groupby(level=[0, 1], sort=False).sum()
    res = sums[['hits', 'chance', 'others']].div(sums['n'], axis=0)
    low,high = wilson(sums['hits'], sums['n'])
    return pd.DataFrame(dict(n=sums['n'], hits=res['hits'], low=low, high=high, chance=res['chance'], others=res['others'],
                             times=res['hits']/res['chance'], times_low=low/res['chance']))

def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('out', help='folder of the runs'); p.add_argument('--start', default='imagenet', help='imagenet, random, timm name or path')
    p.add_argument('--seeds', default='0', help='comma between'); p.add_argument('--size', type=int, default=96, help='image side, pixels')
    p.add_argument('--studies', type=int, default=3000); p.add_argument('--epochs', type=int, default=3, help='of pre-training')
    p.add_argument('--steps', type=int, default=240, help='of fine-tuning'); p.add_argument('--test', type=int, default=300, help='studies of the game, a seed')
    a = p.parse_args()
    tables,seen = [],[]
    for seed in map(int, a.seeds.split(',')):
        out = Path(a.out)/f'seed{seed}'
        res,areas = play(out, seed, a)
        with atomic(out/'pointing.csv') as f: res.to_csv(f)
        tables.append(res); seen.append(areas)
    res = pooled(tables)
    of = lambda k: res.xs(k, level='finding')
    by = pd.DataFrame({k: res.loc[k, 'hits'] for k in res.index.unique('map') if ',' not in k}).drop('all')
    by.insert(0, 'chance', res.loc['finding: gradient', 'chance']); by.insert(0, 'AUROC', pd.concat(seen, axis=1).mean(axis=1))
    for t in (of('all').astype({'n': int}).round(3), by.round(2).T): sys.stdout.write(t.to_string()+'\n\n')

if __name__=='__main__':
    try: main()
    except InputError as e: sys.exit(f'pointing: {e}')
