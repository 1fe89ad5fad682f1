"Where it looks: nothing is changed by looking, tables are what they claim to be, the game is fair"
from copy import deepcopy

import matplotlib
matplotlib.use('Agg')
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import binomtest
from timm.utils import AttentionExtract

from refers_nb.evaluation.attend import (
    attention_tables, evaluating, finding_attention, gradient_attention, match_attention, occlusion, plot_words,
    pointing_game, rollout, show_maps, view_weights, wilson, word_attention, word_gradient, word_maps, word_places,
)
from refers_nb.core import InputError
from refers_nb.training.classifier import Classifier
from refers_nb.phantom.phantoms import phantoms
from refers_nb.models.refers import Refers, refers_config
from refers_nb.data.report import findings_impression
from refers_nb.data.tokens import Tokenizer
from refers_nb.models.vision import VisionEncoder

NAMES = ['vit_tiny_patch16_224', 'vit_little_patch16_reg4_gap_256', 'deit_tiny_distilled_patch16_224']
MASK = torch.tensor([[1, 1, 1], [1, 0, 0], [0, 1, 1]]).bool()


@pytest.fixture(scope='module')
def clf():
    torch.manual_seed(0)
    vision = dict(name='vit_tiny_patch16_224', size=64)
    return Classifier(dict(vision=vision, findings=['effusion', 'nodule'], frozen=False))


@pytest.fixture(scope='module', params=['attention', 'gate'])
def study(request):
    "A model, views, mask and reports"
    torch.manual_seed(0)
    model = Refers(refers_config('tiny', vocab=300, size=64, k=3, fusion=request.param, decoder=dict(depth=2)))
    for o in model.parameters(): o.data += .02*torch.randn_like(o)       # away from the zeros of the start
    report = torch.randint(4, 300, (3, 12))
    report[:, 0],report[1, 9:] = 1,0
    return model,torch.randn(3, 3, 1, 64, 64),MASK,report


def state(model):
    "All that looking could leave behind"
    modules, parameters = [*model.modules()], [*model.parameters()]
    hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in modules)
    return (hooks, [m.training for m in modules], [getattr(m, 'fused_attn', None) for m in modules],
            [p.grad for p in parameters], [p.requires_grad for p in parameters], torch.get_rng_state().tolist())


def same(a, b): return all(torch.equal(x, y) for x,y in zip(a, b))


# Nothing is changed

def test_looking_changes_nothing(clf):
    model,x = deepcopy(clf).train(),torch.randn(2, 1, 64, 64)
    model.vision.vit.blocks[3].eval()                                    # a mixture of modes
    model.vision.vit.blocks[5].attn.fused_attn = False                   # and of switches
    was,weights,out = state(model),deepcopy(model.state_dict()),model(x)
    rollout(model.vision, x); finding_attention(model, x, 'nodule')
    assert state(model) == was and torch.equal(model(x), out)
    assert same(model.state_dict().values(), weights.values())


def test_looking_at_a_study_changes_nothing(study):
    model,views,mask,report = study
    model.train(); model.decoder.eval()
    was,weights = state(model),deepcopy(model.state_dict())
    match_attention(model, views, mask, report)
    word_attention(model, views, mask, report)
    view_weights(model, views, mask)
    word_gradient(model, views, mask, report, [[3], [2, 4], [5]])
    assert state(model) == was and same(model.state_dict().values(), weights.values())
    model.eval()
    with torch.no_grad():
        a = model(views, mask, report)
        match_attention(model, views, mask, report); word_attention(model, views, mask, report)
        assert same(a, model(views, mask, report))


def test_everything_is_put_back_after_an_error(clf):
    good,bad = torch.randn(1, 1, 64, 64),torch.randn(1, 5, 64, 64)
    was = state(clf.train())
    with pytest.raises(ZeroDivisionError), attention_tables(clf.vision): 1/0
    with pytest.raises(RuntimeError), attention_tables(clf.vision): clf(bad)
    with pytest.raises(ZeroDivisionError): gradient_attention(clf.vision, good, lambda t: 1/0)
    with pytest.raises(ZeroDivisionError), evaluating(clf): 1/0
    assert state(clf) == was


# Encoder

@pytest.mark.parametrize('name', NAMES)
def test_tables_are_those_of_timm(name):
    enc,x = VisionEncoder(name, size=64).eval(),torch.randn(2, 1, 64, 64)
    with attention_tables(enc) as hooks, torch.no_grad(): enc(x)
    plain = deepcopy(enc.vit)
    for m in plain.modules():
        if hasattr(m, 'fused_attn'): m.fused_attn = False
    with torch.no_grad(): want = AttentionExtract(plain, method='hook')(x)
    assert len(hooks.stored) == len(want) == len(enc.vit.blocks)
    for a,b in zip(hooks.stored, want.values()):
        assert torch.allclose(a, b, atol=1e-6) and torch.allclose(a.sum(-1), torch.ones(a.shape[:-1]), atol=1e-5)


def test_rollout_is_the_product_of_the_paper(clf):
    x = torch.randn(2, 1, 64, 64)
    with attention_tables(clf.vision) as hooks, torch.no_grad(): clf(x)
    want = torch.eye(17)
    for o in hooks.stored: want = (.5*o.mean(1) + .5*torch.eye(17)) @ want
    got = rollout(clf.vision, x)
    assert torch.allclose(want.sum(-1), torch.ones(2, 17), atol=1e-5)
    assert torch.allclose(got.flatten(1), want[:, 0, 1:]/want[:, 0, 1:].sum(1, keepdim=True), atol=1e-5)


@pytest.mark.parametrize('name', [*NAMES, 'vit_base_patch16_siglip_224'])
def test_maps_of_encoders_with_and_without_class_token(name):
    enc,x = VisionEncoder(name, size=64).eval(),torch.randn(2, 1, 64, 64)
    for o in (rollout(enc, x), gradient_attention(enc, x, lambda t: t[:, 0].square().sum(1))):
        assert o.shape == (2, 4, 4) and (o >= 0).all() and o.isfinite().all() and o.sum() > 0 and not o.requires_grad


def test_gradient_attention_explains_the_score_it_was_given(clf):
    x = torch.randn(3, 1, 64, 64)
    ask = lambda f, x=x: gradient_attention(clf.vision, x, f)
    a,b = (finding_attention(clf, x, o) for o in ('effusion', 'nodule'))
    assert not torch.allclose(a, b) and torch.allclose(a, ask(lambda t: clf.head(t[:, 0])[:, 0]))
    assert torch.allclose(ask(lambda t: t[:, 0, 0] + 5), ask(lambda t: t[:, 0, 0]))      # a constant explains nothing
    assert torch.equal(ask(lambda t: 0*t[:, 0, 0]), torch.zeros(3, 4, 4))
    alone = finding_attention(clf, x[1:2], 'effusion')
    assert torch.allclose(alone, a[1:2], rtol=1e-3, atol=1e-8)                           # each image for itself


def test_a_frozen_classifier_can_be_asked(clf):
    x,frozen = torch.randn(2, 1, 64, 64),Classifier(dict(clf.config, frozen=True))
    frozen.load_state_dict(clf.state_dict())
    with torch.no_grad():
        assert torch.allclose(finding_attention(frozen, x, 'nodule'), finding_attention(clf, x, 'nodule'))
    with pytest.raises(InputError, match="'hernia' is none of the findings of this classifier: effusion, nodule"):
        finding_attention(clf, x, 'hernia')


def test_attention_that_cannot_be_read_is_an_error():
    class Other(torch.nn.Module): vit,name = torch.nn.Linear(2, 2),'other'
    with pytest.raises(InputError, match='`other` has no attention'), attention_tables(Other()): pass


def test_occlusion_finds_the_pixels_that_count():
    x = torch.rand(3, 1, 64, 64) + 1
    def score(x):
        "The brightest pixel of one place, and its opposite"
        top = x[:, 0, 20:30, 50:60].amax((1, 2))
        return torch.stack([top, -top], 1)
    drop = occlusion(score, x)
    assert drop.shape == (3, 2, 4, 4)
    want = torch.zeros(4, 4).bool(); want[1, 3] = True
    assert ((drop[:, 0] > 0) == want).all() and ((drop[:, 1] < 0) == want).all()
    with pytest.raises(InputError, match='64 x 64 pixels are not a multiple of squares of 24'):
        occlusion(lambda x: x, x, side=24)


# Studies

def test_view_that_does_not_exist_gets_nothing(study):
    model,views,mask,report = study
    noisy = views.clone(); noisy[~mask] = 1e3
    of_word = lambda *args: word_gradient(*args, [[3], [2, 4], [5]])
    for f in (match_attention, word_attention, of_word):
        a,b = f(model, views, mask, report),f(model, noisy, mask, report)
        assert torch.allclose(a, b, atol=1e-6)
        a = a.transpose(1, 2) if f is word_attention else a              # (bs, k, ...)
        assert (a[~mask] == 0).all() and (a[mask].flatten(1).sum(1) > 0).all()
    w,share = view_weights(model, views, mask)
    assert w.shape == (3, 3, 4, 4) and (w[~mask] == 0).all() and (share[~mask] == 0).all()
    assert torch.allclose(share.sum(1), torch.ones(3))
    assert share[1, 0].item() == pytest.approx(1, abs=1e-6)               # sums of floats, in two orders
    with torch.no_grad(): out = model.eval()(views, mask, report)
    assert torch.equal(w.flatten(2), out.view_weights)


def test_rows_of_words_sum_to_one_by_head_and_layer(study):
    model,views,mask,report = study
    mean,heads,first = (word_attention(model, views, mask, report, **o) for o in ({}, dict(heads=True), dict(layer=0)))
    assert mean.shape == (3, 11, 3, 4, 4) and heads.shape == (3, 3, 11, 3, 4, 4)
    assert not torch.allclose(mean, first, atol=1e-4)
    assert torch.allclose(heads.sum((-3, -2, -1)), torch.ones(3, 3, 11), atol=1e-5)
    assert torch.allclose(heads.mean(1), mean, atol=1e-6)


def test_words_are_what_the_fused_attention_used(study):
    model,views,mask,report = study
    model.eval()
    cross,seen = model.decoder.layers[-1].cross,{}
    hooks = [cross.kv.register_forward_hook(lambda m, i, o: seen.update(kv=o)),
             cross.out.register_forward_pre_hook(lambda m, i: seen.update(o=i[0]))]
    with torch.no_grad(): model(views, mask, report)
    for h in hooks: h.remove()
    v = seen['kv'].chunk(2, -1)[1].unflatten(-1, (cross.heads, -1)).transpose(1, 2)      # (bs, heads, k*p, w/heads)
    w = word_attention(model, views, mask, report, heads=True).flatten(-3)
    assert torch.allclose((w @ v).transpose(1, 2).flatten(2), seen['o'][:, :-1], atol=1e-4)


def test_a_row_belongs_to_the_next_word(study):
    model,views,mask,report = study
    other = report.clone(); other[:, 6] = (other[:, 6] - 3) % 296 + 4
    was, now = (word_attention(model, views, mask, o) for o in (report, other))
    moved = (was - now).abs().amax((-3, -2, -1))
    assert (moved[:, :6] == 0).all() and (moved[:, 6] > 0).all(), 'word 6 is written by row 5, and read from row 6 on'


def test_a_word_is_explained_by_its_probability_after_the_words_before_it(study):
    model,views,mask,report = study
    places = [[3], [2, 4], [11]]
    got = word_gradient(model, views, mask, report, places)
    later = report.clone()
    later[0, 4:] = 7
    later[1, 5:] = 9
    same = word_gradient(model, views, mask, later, places)
    assert torch.allclose(same[:2], got[:2], rtol=1e-3, atol=1e-8), 'later words explain nothing'
    other = report.clone()
    other[0, 3] = (other[0, 3] - 3) % 296 + 4
    moved = word_gradient(model, views, mask, other, places)
    assert not torch.allclose(moved[0], got[0], rtol=1e-2, atol=1e-8), 'another word, another map'
    def score(tokens):
        "The second study, one view, the long way round"
        x = torch.zeros(1, 3, *tokens.shape[1:]).index_put((torch.tensor([0]), torch.tensor([0])), tokens)
        memory,_,w = model.fusion(x, mask[1:2])
        p = model.decoder(report[1:2, :5], memory, mask[1:2].repeat_interleave(w.shape[-1], 1)).softmax(-1)
        return (p[:, 1, report[1, 2]]*p[:, 3, report[1, 4]]).log()
    with evaluating(model): want = gradient_attention(model.vision, views[1, :1], score)
    assert torch.allclose(got[1, 0], want[0], rtol=1e-3, atol=1e-8)
    with pytest.raises(InputError, match='place 0 is the start'):
        word_gradient(model, views, mask, report, [[1], [0, 2], [1]])


def test_match_needs_a_report_encoder_and_reads_the_report(study):
    model,views,mask,report = study
    a,b = match_attention(model, views, mask, report),match_attention(model, views, mask, report.flip(0))
    assert a.shape == (3, 3, 4, 4) and not torch.allclose(a, b)
    mute = Refers(dict(model.config, text=None))
    with pytest.raises(InputError, match='no report encoder'): match_attention(mute, views, mask, report)
    if model.config['fusion'] == 'attention':
        turned = match_attention(model, views.flip(1), mask.flip(1), report).flip(1)
        assert torch.allclose(a, turned, rtol=1e-2, atol=1e-3*float(a.max()))


# Words and drawings

@pytest.fixture(scope='module')
def tok(): return Tokenizer.train([findings_impression(o) for o in phantoms(60, size=32, seed=1).reports], vocab=400)


def test_words_cover_the_report(tok):
    texts = [findings_impression(o) for o in phantoms(20, size=32, seed=9).reports]
    for text in (*texts, '3.5 cm line\n\nLeft-sided PICC, unseenword!'):
        report = tok(text)
        words,places = zip(*word_places(tok, report))
        joined = lambda o: ''.join(o.split())
        assert joined(''.join(words)) == joined(tok.decode(report)) and all(o.strip() for o in words)
        assert sum(places, []) == sorted(set(sum(places, []))) and 0 not in sum(places, [])
        assert all(o.isalnum() or not any(c.isalnum() for c in o) or len(p) == 1 for o,p in zip(words, places))
    assert {'unseenword', 'picc'} <= set(words)


def test_a_word_has_the_mean_map_of_its_pieces(tok):
    report = tok('No pneumothorax. Unseenword.')
    maps = torch.rand(len(report)-1, 2, 4, 4)
    words,m = word_maps(tok, report, maps)
    places = dict(word_places(tok, report))['unseenword']
    assert len(places) > 1 and torch.equal(m[words.index('unseenword')], maps[[i-1 for i in places]].mean(0))
    assert torch.equal(m[words.index('no')], maps[0]), 'the first word was written while reading the start'


@pytest.mark.parametrize('n', [1, 3, 7])
def test_figures_are_small_and_share_their_scale(tok, n):
    maps = torch.rand(n, 4, 4)
    axs = show_maps(torch.randint(0, 255, (n, 1, 32, 32), dtype=torch.uint8), maps, boxes=[[(1, 2, 3, 4)]]*n)
    w,h = axs[0].figure.get_size_inches()
    assert w <= 8 and h <= 4 and all(o.images[1].get_clim() == pytest.approx((0, float(maps.max()))) for o in axs)
    box = axs[0].patches[0]
    assert (box.get_xy(), box.get_width(), box.get_height()) == ((1, 2), 2, 2)
    report = tok('Left pleural effusion. No pneumothorax. The heart is normal.')
    word = torch.rand(len(report)-1, 3, 4, 4)
    axs = plot_words(tok, torch.rand(3, 1, 32, 32)*2-1, torch.tensor([True, False, True]), report, word, n=n)
    w,h = axs[0, 0].figure.get_size_inches()
    assert axs.shape == (2, n) and w <= 8 and h <= 4 and len({o.images[1].get_clim() for o in axs.flat}) == 1
    plt.close('all')


def test_words_to_show_are_found(tok):
    report,views = tok('Left pleural effusion.'),torch.rand(1, 1, 32, 32)
    maps = torch.rand(len(report)-1, 1, 4, 4)
    axs = plot_words(tok, views, torch.tensor([True]), report, maps, ['effusion', 'left'])
    assert [o.get_title() for o in axs[0]] == ['effusion', 'left']
    assert np.allclose(axs[0, 1].images[1].get_array(), word_maps(tok, report, maps)[1][0, 0])
    with pytest.raises(InputError, match="'nodule' is not in the report: left pleural effusion"):
        plot_words(tok, views, [True], report, maps, ['nodule'])
    plt.close('all')


# The game

def rows(*o): return pd.DataFrame(o, columns=['image', 'finding', 'x0', 'y0', 'x1', 'y1'])


def test_wilson_is_that_of_scipy():
    for k,n in ((0, 7), (3, 7), (7, 7), (40, 100)):
        want = binomtest(k, n).proportion_ci(.95, 'wilson')
        assert wilson(k, n) == pytest.approx((want.low, want.high), abs=1e-4)


def test_peaks_in_boxes_are_hits():
    maps = np.zeros((3, 4, 4)); maps[0, 0, 3] = maps[1, 2, 1] = maps[2, 3, 3] = 1
    b = rows((0, 'a', 48, 0, 64, 16), (1, 'a', 16, 32, 32, 48), (2, 'a', 0, 0, 16, 16))
    r = pointing_game(maps, b, 64).loc['a']
    assert r['n'] == 3 and r['hits'] == pytest.approx(2/3) and r['chance'] == pytest.approx(1/16) and r['others'] == 0
    swapped = pointing_game(maps[[1, 0, 2]], b, 64).loc['a']
    assert swapped['hits'] == 0 and swapped['others'] == pytest.approx(2/6)
    assert pointing_game(maps, b, (64, 64)).equals(pointing_game(maps, b, 64))


def test_several_boxes_are_one_and_the_margin_costs_chance():
    maps = np.zeros((1, 4, 4)); maps[0, 1, 1] = 1
    b = rows((0, 'a', 0, 0, 10, 10), (0, 'a', 17, 17, 22, 22))
    r = pointing_game(maps, b, 64)
    a = r.loc['a']
    assert a['n'] == 1 and a['hits'] == 0 and a['chance'] == 1/16 and np.isnan(a['others'])
    r = pointing_game(maps, b, 64, margin=.5)
    assert r.loc['a', 'hits'] == 1 and r.loc['a', 'chance'] == 2/16


@pytest.mark.parametrize('margin', [0., .5])
def test_a_map_that_says_nothing_scores_by_chance(margin):
    ph = phantoms(60, size=32, seed=5)
    b = ph.boxes.rename(columns={'study': 'image'})
    r = pointing_game(np.ones((60, 4, 4)), b, 32, margin)
    assert np.allclose(r['hits'], r['chance']) and np.allclose(r['others'].dropna(), r['chance'][r['others'].notna()])
    rng = np.random.default_rng(0)
    noise = pointing_game(rng.random((60, 4, 4)), b, 32, margin).loc['all']
    assert noise['low'] < noise['chance'] < noise['high']


def test_chance_of_a_fine_map_is_the_area_of_the_boxes():
    b = phantoms(40, size=32, seed=5).boxes.rename(columns={'study': 'image'})
    r = pointing_game(np.ones((40, 32, 32)), b, 32)
    area = (b.x1 - b.x0)*(b.y1 - b.y0)/32**2
    by_finding = area.groupby(b.finding).mean()
    assert np.allclose(r['chance'].drop('all'), by_finding[r.index.drop('all')])
    assert r.loc['all', 'n'] == len(b) and r.loc['all', 'chance'] == pytest.approx(area.mean())


def test_maps_by_finding_and_maps_that_are_not_finite():
    maps = np.zeros((2, 4, 4)); maps[:, 0, 0] = 1
    b = rows((0, 'a', 0, 0, 16, 16), (1, 'b', 0, 0, 16, 16))
    r = pointing_game(dict(a=torch.tensor(maps), b=torch.tensor(maps[:, ::-1].copy())), b, 64)
    assert r['hits'].tolist() == [1, 0, .5] and r.index.tolist() == ['a', 'b', 'all']
    maps[1, 2, 2] = np.nan
    with pytest.raises(InputError, match='a map of b is not finite'): pointing_game(maps, b, 64)


@pytest.fixture(scope='module')
def squares():
    """Images, of which half have a bright square somewhere, so that only looking at it can tell; which ones; the boxes;
    a classifier that has learned it from the first 192"""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    x,y = torch.randn(256, 1, 64, 64)*.1,torch.from_numpy(rng.integers(0, 2, 256)).float()
    at = rng.integers(0, 4, (256, 2))*16
    for i in range(256):
        if y[i]: x[i, 0, at[i, 0]:at[i, 0]+16, at[i, 1]:at[i, 1]+16] += 1
    model = Classifier(dict(vision=dict(name='vit_tiny_patch16_224', size=64), findings=['square'], frozen=False))
    opt = torch.optim.AdamW(model.parameters(), 3e-4)
    for step in range(40):
        i = torch.from_numpy(rng.integers(0, 192, 32))
        loss = torch.nn.functional.binary_cross_entropy_with_logits(model(x[i])[:, 0], y[i])
        opt.zero_grad()
        loss.backward()
        opt.step()
    model.eval()
    with torch.no_grad(): right = (model(x[192:])[:, 0] > 0) == y[192:].bool()
    assert right.float().mean() > .9, 'it has to have learned'
    boxes = [(i, 'square', at[i, 1], at[i, 0], at[i, 1] + 16, at[i, 0] + 16) for i in range(256) if y[i]]
    return x, y, rows(*boxes), model


@pytest.mark.slow
def test_a_network_that_must_look_is_seen_looking(squares):
    "Own maps hit, the maps of others do not"
    x,_,b,model = squares
    for maps in (finding_attention(model, x, 'square'), occlusion(model, x)[:, 0]):
        r = pointing_game(maps, b, 64).loc['square']
        assert r['low'] > 2*r['chance'] and r['low'] > r['others'], r.to_dict()


@pytest.mark.slow
def test_a_decoder_that_must_look_is_seen_looking(squares):
    "Its report says whether there is a square, after a word that says nothing: the gradient of the word points at it"
    x,y,b,clf = squares
    report = torch.tensor([[1, 5, 7, 2], [1, 5, 6, 2]])[y.long()]          # 6: there is one, 7: there is none
    torch.manual_seed(0)
    model = Refers(dict(refers_config('tiny', vocab=8, size=64, k=1, max_len=4), text=None)).eval()
    model.vision.load_state_dict(clf.vision.state_dict())
    ones = torch.ones(256, 1, dtype=torch.bool)
    with torch.no_grad(): tokens = model.encode_image(x[:, None], ones)
    def logits(at): return model.decoder(report[at], model.fusion(tokens[at], ones[at])[0])[:, 1]
    opt = torch.optim.AdamW([*model.fusion.parameters(), *model.decoder.parameters()], 1e-3)
    for step in range(60):
        loss = torch.nn.functional.cross_entropy(logits(slice(192)), report[:192, 2])
        opt.zero_grad()
        loss.backward()
        opt.step()
    with torch.no_grad(): right = logits(slice(192, None)).argmax(-1) == report[192:, 2]
    assert right.float().mean() > .9, 'it has to have learned'
    maps = word_gradient(model, x[:, None], ones, report, [[2]]*256)[:, 0]
    r = pointing_game(maps, b, 64).loc['square']
    assert r['low'] > 2*r['chance'] and r['low'] > r['others'], r.to_dict()
