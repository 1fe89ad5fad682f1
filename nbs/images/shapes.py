"Draw model_shapes.png, batch_shapes.png and delong_shares.png: python nbs/images/shapes.py"
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle
from PIL import Image

from refers_nb.evaluation.statistics import delong
from refers_nb.phantom import phantoms

INK, SOFT, PALE = '#1f2933', '#66727f', '#e4e7eb'
IMAGE, TEXT, CLASS = '#2f6f9f', '#b4632b', '#c9a227'


def canvas(width, height):
    "An empty drawing, 20 units to the inch"
    fig, ax = plt.subplots(figsize=(width/20, height/20), dpi=160)
    fig.subplots_adjust(0, 0, 1, 1)
    ax.set(xlim=(0, width), ylim=(0, height), aspect='equal')
    ax.axis('off')
    return fig, ax


def save(fig, name):
    "Few colours, so that the file is small"
    dest = Path(__file__).with_name(name)
    fig.savefig(dest, dpi=160)
    image = Image.open(dest).convert('RGB').quantize(96, dither=Image.Dither.NONE)
    image.save(dest, optimize=True)


def pale(color, share=.16):
    "A colour mixed with white"
    return 1 - share*(1 - np.array(plt.matplotlib.colors.to_rgb(color)))


def note(ax, x, y, text, color=SOFT, size=7.5, **kw):
    ax.text(x, y, text, color=color, size=size,
            **dict(dict(ha='center', va='center', linespacing=1.3), **kw))


def shape(ax, x, y, text, **kw):
    "The shape of a tensor, in type"
    note(ax, x, y, text, INK, 7.5, family='monospace', **kw)


def part(ax, x, y, w, h, text, color):
    "A part of the model, its lower left corner at (x, y)"
    ax.add_patch(FancyBboxPatch((x, y), w, h, boxstyle='round,pad=0,rounding_size=1.4',
                                lw=1.1, ec=color, fc=pale(color)))
    note(ax, x + w/2, y + h/2, text, INK, 8, weight='bold')


def arrow(ax, *points, color=SOFT):
    "An arrow along straight lines"
    for a, b in zip(points[:-2], points[1:-1]): ax.plot(*zip(a, b), color=color, lw=1.2)
    ax.add_patch(FancyArrowPatch(*points[-2:], arrowstyle='-|>', mutation_scale=8, lw=1.2,
                                 color=color, shrinkA=0, shrinkB=0))


def cells(ax, x, y, n, color, side=2.2, first=None, dashed=False):
    "A row of n square cells; the first may have a colour of its own"
    for i in range(n):
        fill = first if first and i == 0 else color
        look = dict(ec=SOFT, fc='white', ls=':') if dashed else dict(ec='white', fc=fill)
        ax.add_patch(Rectangle((x + i*side, y), side, side, lw=.7, **look))


def film(ax, x, y, side, pixels=None):
    "A radiograph, or the place of one that does not exist"
    if pixels is None:
        ax.add_patch(Rectangle((x, y), side, side, fc='#f5f7fa', ec=SOFT, lw=.8, ls='--'))
        note(ax, x + side/2, y + side/2, 'no such\nview', size=6.5)
        return
    ax.imshow(pixels, cmap='gray', extent=(x, x + side, y, y + side), vmin=0, vmax=255, zorder=3)


def draw_model(ph, i):
    "bs, k, p, d, t, v through encoder, fusion, decoder and report encoder"
    fig, ax = canvas(160, 92)
    for row, pixels in enumerate((ph.frontal[i], ph.lateral[i], None)):
        film(ax, 5, 71 - 15*row, 13, pixels)
        cells(ax, 44, 76.4 - 15*row, 7, IMAGE, first=CLASS, dashed=pixels is None)
    note(ax, 11.5, 88.3, 'views', INK, 8.5, weight='bold')
    shape(ax, 11.5, 36.5, '(bs, k, 1, h, w)')
    part(ax, 22.5, 57, 17, 14, 'radiograph\ntransformer', IMAGE)
    arrow(ax, (18.6, 64), (22.5, 64))
    arrow(ax, (39.5, 64), (43.4, 64))
    note(ax, 51.8, 88.3, 'tokens', INK, 8.5, weight='bold')
    shape(ax, 51.8, 83.6, '(bs, k, 1+p, d)')
    note(ax, 45.1, 73.4, '$g_i$', CLASS, 9)
    note(ax, 54.4, 73.4, '$f_i^1 \\dots f_i^P$', IMAGE, 9)

    part(ax, 66, 58, 13, 12, 'view\nfusion', IMAGE)
    arrow(ax, (60, 64), (66, 64))
    arrow(ax, (79, 64), (84, 64))
    cells(ax, 84.5, 62.9, 12, IMAGE)
    cells(ax, 84.5 + 12*2.2, 62.9, 6, IMAGE, dashed=True)
    note(ax, 104, 72, 'memory $M$', INK, 8.5, weight='bold')
    shape(ax, 104, 68, '(bs, k*p, d)')
    note(ax, 104, 59.8, 'what the mask hides is not read', size=7)

    part(ax, 129, 58, 14, 12, 'report\ndecoder', TEXT)
    arrow(ax, (124.4, 64), (129, 64))
    note(ax, 136, 88.3, 'logits', INK, 8.5, weight='bold')
    shape(ax, 136, 84.6, '(bs, t, v)')
    for r in range(4): cells(ax, 128.3, 75.3 + 1.9*r, 8, pale(TEXT, .3 + .18*r), side=1.9)
    arrow(ax, (136, 70), (136, 74.8))
    note(ax, 150.8, 79.2, '$L_{gen}$', TEXT, 9.5)
    note(ax, 150.8, 64, 'writes the\nnext token', size=7)

    note(ax, 11.5, 26.8, 'report', INK, 8.5, weight='bold')
    cells(ax, 3.6, 19, 7, TEXT)
    shape(ax, 11.5, 15.6, '(bs, t)')
    part(ax, 44, 14, 15, 12, 'report\nencoder', TEXT)
    arrow(ax, (20, 20), (44, 20))
    arrow(ax, (28, 20), (28, 30.5), (148, 30.5), (148, 54), (136, 54), (136, 58), color=TEXT)
    note(ax, 67, 32.6, 'the words so far', TEXT, 7.5)
    arrow(ax, (59, 20), (78, 20))
    cells(ax, 79, 18.9, 6, TEXT)
    note(ax, 96, 22.2, '$r$', TEXT, 10)
    shape(ax, 86, 15.6, '(bs, s)')
    arrow(ax, (72.5, 58), (72.5, 48.5), (78, 48.5), color=CLASS)
    cells(ax, 79, 47.4, 6, CLASS)
    note(ax, 96, 50.7, '$s$', '#8f7110', 10)
    shape(ax, 86, 44, '(bs, s)')
    note(ax, 86, 40.4, 's is d (attention) or k*d (gate)', size=7)

    arrow(ax, (93, 20), (107, 20), (107, 17), (113, 17))
    arrow(ax, (93, 48.5), (107, 48.5), (107, 20.5), (113, 20.5))
    rng = np.random.default_rng(0)
    sim = .1 + .25*rng.random((6, 6))
    sim[np.diag_indices(6)] = .9
    ax.imshow(sim, cmap='Blues', extent=(114, 130, 9, 25), vmin=0, vmax=1.1, zorder=3)
    note(ax, 122, 27.4, 'cosines', INK, 8.5, weight='bold')
    shape(ax, 122, 5.8, '(bs, bs)')
    note(ax, 140, 17, '$L_{match}$', TEXT, 9.5)
    note(ax, 80, 1.9, 'paper: bs 128, k 3, p 196, d 768, t up to 100, v 10,000', size=7.5)
    save(fig, 'model_shapes.png')


def draw_batch(ph, some):
    "Four studies, a short report to each, as a batch: views, mask, report"
    fig, ax = canvas(160, 84)
    k, side = 3, 14
    for x, title, text in ((25, 'views', '(bs, k, 1, h, w)'), (62, 'mask', '(bs, k)'),
                           (116, 'report', '(bs, t)')):
        note(ax, x, 79.6, title, INK, 9, weight='bold', va='baseline')
        shape(ax, x, 76.3, text)
    longest = max(len(text.split()) for text in some) + 2
    for row, (text, i) in enumerate(some.items()):
        words = text.split()
        y = 58 - 18*row
        has = [True, bool(ph.has_lateral[i]), False]
        films = [ph.frontal[i], ph.lateral[i] if has[1] else None, None]
        for j in range(k):
            film(ax, 3 + 15*j, y, side, films[j])
            ax.add_patch(Rectangle((55 + 5*j, y + 5), 4.4, 4.4, fc=IMAGE if has[j] else 'white',
                                   ec=IMAGE if has[j] else SOFT, lw=.8, ls='-' if has[j] else '--'))
            note(ax, 57.2 + 5*j, y + 7.1, str(int(has[j])), 'white' if has[j] else SOFT, 8)
        tokens = ['[start]', *words, '[end]'] + ['[pad]']*longest
        for j in range(longest):
            w = 80/longest
            special = tokens[j].startswith('[')
            fill = pale(CLASS, .35) if special else pale(TEXT, .25)
            if tokens[j] == '[pad]': fill = '#f5f7fa'
            ax.add_patch(Rectangle((76 + w*j, y + 4.2), w - .5, 5.8, fc=fill, ec='none'))
            note(ax, 76 + w*j + w/2 - .25, y + 6.3, tokens[j], SOFT if special else INK, 6.8,
                 family='monospace', va='baseline')
    save(fig, 'batch_shapes.png')


def draw_delong():
    "Pairs of sick and healthy images, and what each image contributes"
    sick = np.array([.9, .75, .7, .5, .3])
    healthy = np.array([.65, .5, .45, .35, .25, .15, .1])
    wins = np.sign(sick[:, None] - healthy)/2 + .5
    m, n = wins.shape
    V10, V01 = wins.mean(1), wins.mean(0)
    variance = V10.var(ddof=1)/m + V01.var(ddof=1)/n
    found = delong(np.r_[np.ones(m), np.zeros(n)], np.r_[sick, healthy])
    assert np.allclose([found.auroc[0], found.variance[0]], [wins.mean(), variance])

    fig, ax = canvas(160, 84)
    x0, y0, side = 26, 26, 8
    colors = {0.: '#f1f3f5', .5: pale(IMAGE, .45), 1.: IMAGE}
    for i, j in np.ndindex(m, n):
        x, y = x0 + side*j, y0 + side*(m - 1 - i)
        ax.add_patch(Rectangle((x, y), side, side, fc=colors[wins[i, j]], ec='white', lw=1.5))
        note(ax, x + side/2, y + side/2, {0.: '0', .5: '½', 1.: '1'}[wins[i, j]],
             'white' if wins[i, j] == 1 else INK, 8)
    right, top = x0 + side*n, y0 + side*m
    label = 'healthy images $Y_j$, by their score'
    note(ax, x0 + side*n/2, top + 9.8, label, INK, 9, weight='bold')
    for j, o in enumerate(healthy): note(ax, x0 + side*(j + .5), top + 3.2, f'{o:.2f}', size=8)
    label = 'sick images $X_i$,\nby their score'
    note(ax, 7, y0 + side*m/2, label, INK, 9, weight='bold', rotation=90)
    for i, o in enumerate(sick): note(ax, x0 - 5, y0 + side*(m - .5 - i), f'{o:.2f}', size=8)

    note(ax, right + 15.5, top + 9.8, '$V_{10}(X_i)$: mean of a row', TEXT, 9)
    for i, v in enumerate(V10):
        y = y0 + side*(m - .5 - i)
        ax.barh(y, 20, left=right + 4, height=4.4, color=PALE)
        ax.barh(y, 20*v, left=right + 4, height=4.4, color=TEXT)
        note(ax, right + 29.5, y, f'{v:.2f}', TEXT, 8)
    note(ax, x0 - 13.5, y0 - 9, '$V_{01}(Y_j)$:\nmean of a\ncolumn', '#8f7110', 9)
    for j, v in enumerate(V01):
        x = x0 + side*(j + .5)
        ax.bar(x, -14, bottom=y0 - 2.5, width=4.4, color=PALE)
        ax.bar(x, -14*v, bottom=y0 - 2.5, width=4.4, color=CLASS)
        note(ax, x, y0 - 19.4, f'{v:.2f}', '#8f7110', 8)

    x = 137
    note(ax, x, 63, 'mean of all cells', size=8)
    note(ax, x, 57.5, f'$\\hat\\theta$ = AUROC = {wins.mean():.2f}', INK, 10.5)
    note(ax, x, 46, 'how far the bars scatter', size=8)
    note(ax, x, 39.5, f'$\\frac{{\\mathrm{{var}}\\,V_{{10}}}}{{m}} + '
         f'\\frac{{\\mathrm{{var}}\\,V_{{01}}}}{{n}}$ = {variance:.4f}', INK, 11)
    note(ax, x, 28.5, 'its square root', size=8)
    note(ax, x, 23, f'standard error {variance**.5:.2f}', INK, 10)
    ax.set(xlim=(0, 160), ylim=(0, 84))
    save(fig, 'delong_shares.png')


def with_findings(ph, lateral, *findings):
    "The first study with these findings alone, with or without a lateral view"
    found = ph.labels.apply(lambda row: set(row.index[row > 0]), axis=1)
    fits = [o == set(findings) and has == lateral for o, has in zip(found, ph.has_lateral)]
    return fits.index(True)


if __name__ == '__main__':
    drawn = phantoms(800, size=128, seed=3)
    draw_model(drawn, with_findings(drawn, True, 'right effusion'))
    draw_batch(drawn, {
        'mild pulmonary edema .': with_findings(drawn, True, 'edema'),
        'normal chest .': with_findings(drawn, False),
        'the heart is enlarged .': with_findings(drawn, True, 'cardiomegaly'),
        'left pleural effusion .': with_findings(drawn, False, 'left effusion')})
    draw_delong()
