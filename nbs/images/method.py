"Draw method.png, the picture of the method in index.ipynb: python nbs/images/method.py"
import textwrap
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from PIL import Image

from refers_nb.phantom import phantoms

INK, SOFT, IMAGE, TEXT, LATER = '#1f2933', '#7b8794', '#2f6f9f', '#b4632b', '#3f7f5f'
fig,ax = plt.subplots(figsize=(8, 3.9), dpi=128) # 1024 pixels: JupyterLab shows them all
ax.set(xlim=(0, 160), ylim=(0, 78), aspect='equal'); ax.axis('off')
fig.subplots_adjust(0, 0, 1, 1)


def box(x, y, w, h, text, color, fill=.12, size=7.5, weight='bold', **kw):
    "A labelled box with its lower left corner at (x, y)"
    rgb = np.array(plt.matplotlib.colors.to_rgb(color))
    ax.add_patch(FancyBboxPatch((x, y), w, h, boxstyle='round,pad=0,rounding_size=1.4', lw=1.1, ec=color, fc=1 - fill*(1 - rgb), **kw))
    ax.text(x + w/2, y + h/2, text, ha='center', va='center', size=size, color=INK, weight=weight, linespacing=1.25)


def arrow(*points, color=SOFT, dashed=False):
    "An arrow along straight lines through `points`"
    for a,b in zip(points[:-2], points[1:-1]): ax.plot(*zip(a, b), color=color, lw=1.3, solid_capstyle='round', ls='--' if dashed else '-')
    ax.add_patch(FancyArrowPatch(*points[-2:], arrowstyle='-|>', mutation_scale=8, lw=1.3, color=color, shrinkA=0, shrinkB=0, ls='--' if dashed else '-'))


def note(x, y, text, color=SOFT, size=6.5, **kw): ax.text(x, y, text, color=color, size=size, **dict(dict(ha='center', va='center', linespacing=1.3), **kw))


def film(x, y, side, pixels):
    ax.imshow(pixels, cmap='gray', extent=(x, x + side, y, y + side), zorder=3, vmin=0, vmax=255)
    ax.add_patch(plt.Rectangle((x, y), side, side, fill=False, ec='white', lw=.8, zorder=4))


# One study: its views and its report
ph = phantoms(1500, size=160, seed=3)
wanted = {'right effusion', 'consolidation'}


def told(i):
    "Findings and impression of a phantom's report"
    return [o for o in ph.reports[i].split('\n\n') if o.startswith(('FINDINGS', 'IMPRESSION'))]


shown = [i for i in range(1500) if ph.has_lateral[i] and set(ph.labels.columns[ph.labels.iloc[i] > 0]) == wanted]
i = min(shown, key=lambda i: len(''.join(told(i))))
ax.add_patch(FancyBboxPatch((2, 4), 38, 66, boxstyle='round,pad=0,rounding_size=1.6', lw=.9, ec='#cbd2d9', fc='#f5f7fa'))
note(21, 73.4, 'one study', INK, 7.5, weight='bold')
film(4.5, 49, 16, ph.frontal[i]); film(21.5, 49, 16, ph.lateral[i])
note(12.5, 46.4, 'frontal', size=7); note(29.5, 46.4, 'lateral', size=7)
ax.add_patch(FancyBboxPatch((4.5, 10), 33, 33, boxstyle='square,pad=0', lw=.7, ec='#cbd2d9', fc='white'))
report = '\n'.join(textwrap.fill(o, 23) for o in told(i))
ax.text(6.3, 41, report, size=6.5, family='monospace', color=INK, va='top', linespacing=1.45)
note(21, 7, 'free text, no labels', TEXT, 6.8, style='italic')

# Writing: views -> tokens -> fused -> words
box(48, 49, 23, 16, 'radiograph\ntransformer', IMAGE)
box(83, 52, 16, 10, 'view\nfusion', IMAGE)
box(109, 52, 20, 10, 'report\ndecoder', TEXT)
arrow((40, 57), (48, 57)); arrow((71, 57), (83, 57)); arrow((99, 57), (109, 57)); arrow((129, 57), (135, 57))
note(77, 59.8, 'patch\ntokens', size=6.6)
for j,(w,c) in enumerate([('moderate', INK), ('right-sided', INK), ('effusion', INK), ('…?', TEXT)]):
    ax.text(137, 62.5 - 3.9*j, w, size=6.8, family='monospace', color=c, va='center', weight='bold' if c == TEXT else None)
note(119, 68.4, 'writing: the next word of the report', TEXT, 6.9, weight='bold')
note(119, 49.2, '$L_{gen}$', TEXT, 7.2)

# Matching: study and report embeddings of the batch
box(48, 12, 23, 16, 'report\nencoder', TEXT)
arrow((40, 20), (48, 20))
arrow((59.5, 49), (59.5, 38.5), (91, 38.5), (91, 34.6)); note(78.5, 41.2, 'class tokens: the study embedding', size=6.6)
arrow((71, 20), (79.5, 20)); note(75.2, 22.6, 'report', size=6.6)
rng = np.random.default_rng(0)
sim = .05 + .3*rng.random((6, 6)); sim[np.diag_indices(6)] = .75 + .25*rng.random(6)
ax.imshow(sim, cmap='Blues', extent=(80, 102, 8, 30), vmin=0, vmax=1.1, zorder=3)
for k in range(7):
    ax.plot([80 + k*22/6]*2, [8, 30], color='white', lw=.8, zorder=4); ax.plot([80, 102], [8 + k*22/6]*2, color='white', lw=.8, zorder=4)
note(91, 32.3, 'studies', IMAGE, 6.8); note(104, 19, 'reports', TEXT, 6.8, rotation=-90)
note(91, 4.7, 'matching: each study to its own report   $L_{match}$', IMAGE, 6.9, weight='bold')

# Afterwards: the encoder with few labels
box(114, 15, 22, 17, 'same encoder\n+ one linear\nlayer', LATER)
arrow((71, 52), (74.5, 52), (74.5, 45), (125, 45), (125, 32), color=LATER, dashed=True)
note(141.4, 40.6, 'then: fine-tune with\n1, 10 or 100 % of the labels', LATER, 6.6, weight='bold')
arrow((136, 23.5), (142, 23.5), color=LATER)
for j,(w,p) in enumerate([('right effusion', .92), ('consolidation', .8), ('nodule', .1)]):
    y = 29 - 6*j
    ax.text(143.5, y, w, size=6.4, color=INK, va='center')
    ax.barh(y - 2.6, 14*p, left=143.5, height=1.5, color=LATER, zorder=3); ax.barh(y - 2.6, 14, left=143.5, height=1.5, color='#e4e7eb')

dest = Path(__file__).with_name('method.png')
fig.savefig(dest, dpi=128) # 1024 pixels: JupyterLab shows them all
Image.open(dest).convert('RGB').quantize(128, dither=Image.Dither.NONE).save(dest, optimize=True)
