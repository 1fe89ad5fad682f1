"Written reports: the cache against the whole, beam search against all reports, and rules that hold for any model"
import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from PIL import Image

from small_studies import tiny_writer
from refers_nb.core import InputError
from refers_nb.data.loaders import Augment
from refers_nb.models.decoder import ReportDecoder, attention_weights
from refers_nb.models.generate import (
    EOS, PAD, SOS, beam_search, file_views, generate, logits_processors, write)
from refers_nb.models.refers import Refers, refers_config

V,D = 40,16


def decoder(depth=1, seed=0, sharp=8., **kwargs):
    "A decoder whose choices are far from equal, as a trained one's are"
    torch.manual_seed(seed)
    dec = ReportDecoder(D, V, width=32, heads=4, ff=48, depth=depth, **{'max_len': 24, **kwargs}).eval()
    with torch.no_grad():
        dec.words.weight *= sharp
        dec.bias.normal_()
    return dec


def memories(n, s=12, seed=0, views=3):
    "Memory (n, s, d), and where it exists: one to three views of a study"
    g = torch.Generator().manual_seed(seed)
    seen = torch.arange(views)<torch.randint(1, views+1, (n, 1), generator=g)
    return 3*torch.randn(n, s, D, generator=g), seen.repeat_interleave(s//views, 1)


# The cache

SEEDS = st.integers(0, 10**6)
SIZES = st.lists(st.integers(1, 5), min_size=1, max_size=8)


@given(seed=SEEDS, depth=st.integers(1, 3), n=st.integers(1, 4), k=st.integers(1, 3), sizes=SIZES, fused=st.booleans())
@settings(max_examples=60, deadline=None)
@torch.no_grad()
def test_every_step_of_the_cache_is_that_of_the_whole(seed, depth, n, k, sizes, fused):
    dec = decoder(depth, seed, sharp=1., max_len=40)
    memory, seen = memories(n, seed=seed)
    t = sum(sizes)
    for o in dec.modules():
        if hasattr(o, 'fused_attn'): o.fused_attn = fused
    report = torch.randint(3, V, (n*k, t), generator=torch.Generator().manual_seed(seed))
    length = torch.randint(1, t + 1, (n*k, 1), generator=torch.Generator().manual_seed(seed+1))
    report[torch.arange(t) >= length] = PAD
    whole = dec(report, memory.repeat_interleave(k, 0), seen.repeat_interleave(k, 0))
    past = dec.prefill(memory, seen)
    for a,part in zip(itertools.accumulate(sizes, initial=0), report.split(sizes, 1)):
        torch.testing.assert_close(dec.decode_step(part, past), whole[:, a:a+part.shape[1]], atol=1e-5, rtol=0)
    noisy = memory.masked_fill(~seen[..., None], 1e3)
    torch.testing.assert_close(dec.decode_step(report, dec.prefill(noisy, seen)), whole, atol=1e-5, rtol=0)


@torch.no_grad()
def test_rows_of_the_cache_can_change_places():
    dec,(memory,seen) = decoder(2),memories(2)
    report,order = torch.randint(3, V, (6, 8)),torch.tensor([2, 0, 0, 4, 5, 3])
    past = dec.prefill(memory, seen)
    dec.decode_step(report[:, :5], past)
    past.words.reorder_cache(order)
    mixed = torch.cat([report[order, :5], report[:, 5:]], 1)
    whole = dec(mixed, memory.repeat_interleave(3, 0), seen.repeat_interleave(3, 0))
    torch.testing.assert_close(dec.decode_step(report[:, 5:], past), whole[:, 5:], atol=1e-5, rtol=0)


WAYS = [dict(), dict(beams=4), dict(beams=3, length_penalty=0.), dict(sample=True, seed=3, top_p=.9),
        dict(repetition=1.3, no_repeat=2, min_len=12)]


@pytest.mark.parametrize('how', WAYS)
@pytest.mark.parametrize('depth', [1, pytest.param(2, marks=pytest.mark.slow)])
def test_the_same_reports_with_and_without_the_cache(how, depth):
    for seed in range(4):
        dec = decoder(depth, seed)
        memory, seen = memories(5, seed=seed)
        a, logp_a = write(dec, memory, seen, cache=True, **how)
        b, logp_b = write(dec, memory, seen, cache=False, **how)
        assert a.tolist() == b.tolist()
        torch.testing.assert_close(logp_a, logp_b, atol=1e-4, rtol=0)


@pytest.mark.parametrize('how', [dict(), dict(beams=4), dict(beams=4, length_penalty=2., repetition=1.2),
                                 dict(sample=True, temperature=2.)])
@torch.no_grad()
def test_log_probabilities_are_those_of_reading_the_report(how):
    dec,(memory,seen) = decoder(2),memories(6)
    ids,logp = write(dec, memory, seen, **how)
    said = torch.cat([torch.full_like(ids[:, :1], SOS), ids[:, :-1]], 1)
    want = dec(said, memory, seen).log_softmax(-1).gather(2, ids[..., None])[..., 0]
    torch.testing.assert_close(logp, want.masked_fill(ids==PAD, 0), atol=1e-4, rtol=0)


# Beam search

WORDS,LIMIT = (4, 5, 6),6                                       # of 2 to 6 tokens, start and end included


def language(seed, n=3):
    "Log-probabilities of the next token that depend on the last two (n, 7, 7, 7), and their `step`"
    t = (2*torch.randn(n, 7, 7, 7, generator=torch.Generator().manual_seed(seed))).log_softmax(-1)
    def step(ids, rows):
        before = ids[:, -2] if ids.shape[1]>1 else torch.zeros_like(ids[:, -1])
        return t[torch.arange(len(ids))//(len(ids)//n), before, ids[:, -1]]
    return t,step


def value(t, words, penalty):
    "Score of a report: sum of log-probabilities over a power of its length; an end at the limit is free"
    ids = [0, SOS, *words, EOS]
    steps = [t[a, b, c].item() for a,b,c in zip(ids, ids[1:], ids[2:])]
    if len(words)==LIMIT-2: steps[-1] = 0.
    return sum(steps)/len(steps)**penalty


@pytest.mark.parametrize('seed', range(6))
@pytest.mark.parametrize('penalty', [0., .6, 1., 2.])
def test_beam_search_against_all_reports(seed, penalty):
    t,step = language(seed)
    everything = [o for k in range(LIMIT-1) for o in itertools.product(WORDS, repeat=k)]
    best = [max(everything, key=lambda o: value(t[i], o, penalty)) for i in range(len(t))]
    words = lambda ids: [tuple(o for o in r if o>3) for r in ids.tolist()]
    wide = words(beam_search(step, 3, logits_processors(LIMIT), len(everything), penalty, LIMIT)[0])
    values = lambda reports: [value(t[i], o, penalty) for i, o in enumerate(reports)]
    assert values(wide) == pytest.approx(values(best), abs=1e-5)
    for beams in (1, 2, 5):
        some = words(beam_search(step, 3, logits_processors(LIMIT), beams, penalty, LIMIT)[0])
        assert all(a <= b + 1e-6 for a, b in zip(values(some), values(best)))


def test_a_beam_of_one_is_greedy_and_a_beam_finds_what_greedy_misses():
    better = 0
    for seed in range(10):
        t,step = language(seed)
        ids,_ = beam_search(step, 3, logits_processors(LIMIT), 1, 1., LIMIT)
        for i,row in enumerate(ids.tolist()):
            known,want = [0, SOS],[]
            while not want or want[-1]!=EOS:
                p = t[i, known[-2], known[-1]].clone()
                p[[0, 1, 3]] = -torch.inf
                want.append(EOS if len(want) == LIMIT - 2 else p.argmax().item())
                known.append(want[-1])
            assert [o for o in row if o!=PAD] == want
        wide,_ = beam_search(step, 3, logits_processors(LIMIT), 8, 1., LIMIT)
        got = [[value(t[i], [o for o in r if o>3], 1.) for i,r in enumerate(x.tolist())] for x in (ids, wide)]
        better += sum(b>a+1e-6 for a,b in zip(*got))
    assert better >= 3


def test_long_reports_are_favoured_by_the_length_penalty():
    lengths = []
    for penalty in (0., 1., 3.):
        found = [beam_search(language(s)[1], 3, logits_processors(LIMIT), 121, penalty, LIMIT)[0] for s in range(8)]
        lengths.append(sum((o!=PAD).sum().item() for o in found))
    assert lengths[0] < lengths[1] < lengths[2]


@pytest.mark.parametrize('beams', [1, 4])
def test_a_report_does_not_depend_on_its_batch(beams):
    dec,(memory,seen) = decoder(2),memories(6)
    together,_ = write(dec, memory, seen, beams=beams, repetition=1.2)
    for i in range(6):
        alone,_ = write(dec, memory[i:i+1], seen[i:i+1], beams=beams, repetition=1.2)
        assert [o for o in together[i].tolist() if o] == alone[0].tolist()


# Rules

@given(seed=SEEDS, sample=st.booleans(), beams=st.sampled_from([1, 2, 5]), max_len=st.integers(2, 24),
       min_len=st.integers(0, 24), repetition=st.sampled_from([1., 1.5, 5.]), no_repeat=st.integers(0, 3),
       penalty=st.sampled_from([0., 1., 2.]))
@settings(max_examples=80, deadline=None)
def test_every_report_ends_once_within_its_limits(
        seed, sample, beams, max_len, min_len, repetition, no_repeat, penalty):
    dec = decoder(1, seed, sharp=2.)
    memory, seen = memories(3, seed=seed)
    min_len = min(min_len, max_len)
    how = dict(beams=1 if sample else beams, sample=sample, seed=seed, length_penalty=penalty)
    rules = dict(max_len=max_len, min_len=min_len, repetition=repetition, no_repeat=no_repeat)
    ids, logp = write(dec, memory, seen, **how, **rules)
    assert ids.shape == logp.shape and ids.shape[1] < max_len
    assert (logp <= 0).all() and (logp[ids == PAD] == 0).all() and logp.isfinite().all()
    for row in ids.tolist():
        n = row.index(EOS) + 1
        assert row[n:] == [PAD]*(len(row) - n) and not set(row[:n-1]) & {PAD, SOS, EOS, 3}
        assert min_len <= n + 1 <= max_len
        runs = [tuple(row[i:i+no_repeat]) for i in range(n - no_repeat + 1)] if no_repeat else []
        assert len(set(runs)) == len(runs)


def test_a_report_that_may_not_go_on_ends():
    dec,(memory,seen) = decoder(max_len=60),memories(2)
    for beams in (1, 3):                                        # 36 words, none twice: 50 tokens cannot be had
        ids,_ = write(dec, memory, seen, min_len=50, no_repeat=1, beams=beams)
        assert (ids==EOS).sum(1).tolist() == [1, 1] and ids.shape[1] == 37


@pytest.mark.parametrize('least', [0, 2, 3, 5])
def test_a_report_is_no_longer_than_its_least_length_asks(least):
    "In a language that wants to end at once"
    logp = torch.tensor([0, 0, 5., 0, 1, 0, 0]).log_softmax(-1)
    for beams in (1, 3):
        step = lambda ids, rows: logp.repeat(len(ids), 1)
        ids, _ = beam_search(step, 2, logits_processors(LIMIT, least), beams, 1., LIMIT)
        assert ids.shape[1]+1 == max(least, 2)


def test_drawn_words_follow_their_probabilities():
    t,step = language(1, n=1)
    n = 4000
    big = lambda ids, rows: t[0, torch.zeros_like(ids[:, -1]), ids[:, -1]]
    processors = logits_processors(3, temperature=2., top_k=3)
    ids, _ = beam_search(big, n, processors, max_len=3, gen=torch.Generator().manual_seed(0))
    p = t[0, 0, SOS].clone()
    p[[0, 1, 3]] = -torch.inf
    p[p<p.topk(3)[0][-1]] = -torch.inf
    share = torch.bincount(ids[:, 0], minlength=7)/n
    torch.testing.assert_close(share, (p/2).softmax(-1), atol=.03, rtol=0)
    assert (share>0).sum() == 3


def test_seeds():
    dec,(memory,seen) = decoder(sharp=1.),memories(4)
    draw = lambda s, **kwargs: write(dec, memory, seen, sample=True, seed=s, **kwargs)[0].tolist()
    assert draw(1) == draw(1) != draw(2)
    assert draw(1, top_k=1) == write(dec, memory, seen)[0].tolist() == draw(2, temperature=1e-4) == draw(3, top_p=1e-6)


@pytest.mark.parametrize('bad,says', [
    (dict(max_len=30), 'knows 24 places'), (dict(max_len=1), 'start and end are two'),
    (dict(min_len=25), 'after the least'), (dict(beams=0), '0 beams'), (dict(top_p=.5), 'top_p is for sampling'),
    (dict(sample=True, top_p=1.5), 'at most 1'),
    (dict(repetition=0.), 'above 0'), (dict(sample=True, beams=2), 'has one')])
def test_what_cannot_be_is_said(bad, says):
    with pytest.raises(InputError, match=says): write(decoder(), *memories(2), **bad)


# The model

@pytest.fixture(scope='module')
def model(): return tiny_writer()


@pytest.mark.parametrize('own_words', [False, True])
def test_of_several_reports_the_one_that_matches_best(own_words):
    torch.manual_seed(2)
    _, tok = tiny_writer()
    m = Refers(refers_config('nano', vocab=len(tok), size=32, max_len=20)).eval()
    m.decoder.words.weight.data *= 8
    if own_words: tok.encoder_tokenizer = tok                       # as of a report encoder with a vocabulary of its own
    views, mask = torch.randn(5, 3, 1, 32, 32), torch.arange(3) < torch.tensor([[1], [2], [3], [1], [2]])
    how = dict(sample=True, seed=3, precision='fp32')
    with torch.no_grad(): study = m.fusion(m.encode_image(views, mask), mask)[1]
    drawn = generate(m, views.repeat_interleave(6, 0), mask.repeat_interleave(6, 0), tok, **how)
    best = generate(m, views, mask, tok, best_of=6, attention=True, **how)
    for i in range(5):
        texts = drawn.texts[6*i:6*i + 6]
        with torch.no_grad(): reports = torch.stack([m.encode_text(*tok.batch([o]))[0] for o in texts])
        j = torch.cosine_similarity(study[i][None], reports).argmax().item()
        assert len(set(texts)) > 1 and best.texts[i] == texts[j]
        assert best.tokens[i].tolist() == drawn.tokens[6*i + j].tolist()
        torch.testing.assert_close(best.logp[i], drawn.logp[6*i + j], atol=1e-4, rtol=0)
    assert best.attention.shape == (*best.tokens.shape, 3*4)
    once = generate(m, views, mask, tok, **how)
    assert once.tokens.tolist() == generate(m, views, mask, tok, best_of=1, **how).tokens.tolist()
    for best_of in (0, -1):
        with pytest.raises(InputError, match='at least one report'): generate(m, views, mask, tok, best_of=best_of)
    with pytest.raises(InputError, match='is for sampling'): generate(m, views, mask, tok, best_of=2)


@pytest.mark.parametrize('fusion', ['attention', 'gate'])
def test_one_to_three_views(fusion, model):
    torch.manual_seed(1)
    m, tok = model
    if fusion == 'gate': m = Refers(refers_config('tiny', vocab=len(tok), size=32, fusion='gate', max_len=20))
    views = torch.randn(4, 3, 1, 32, 32)
    for n in (1, 2, 3):
        out = generate(m, views[:, :n], torch.ones(4, n, dtype=torch.bool), tok, precision='fp32', attention=True)
        full = generate(m, views, (torch.arange(3) < n).expand(4, 3), tok, precision='fp32')
        assert out.tokens.tolist() == full.tokens.tolist() and out.attention.shape == (*out.tokens.shape, 3*4)
        assert out.attention[..., n*4:].eq(0).all() and out.texts == [tok.decode(o) for o in out.tokens]
        torch.testing.assert_close(out.attention.sum(-1), torch.ones(out.tokens.shape), atol=1e-5, rtol=0)
    with pytest.raises(InputError, match='4 views per study'):
        generate(m, torch.randn(1, 4, 1, 32, 32), torch.ones(1, 4, dtype=torch.bool), tok)


def test_attention_is_that_of_the_step(model):
    "Memory that a step does not look at does not change it"
    m,tok = model
    out = generate(m, torch.randn(2, 3, 1, 32, 32), torch.ones(2, 3, dtype=torch.bool), tok, attention=True)
    assert (out.attention>0).all() and out.attention.std()>0
    memory,seen = memories(2)
    dec = decoder(2)
    report = torch.randint(4, V, (2, 6))
    with torch.no_grad():
        layer = dec.layers[0]
        cross, mask, x = layer.cross, seen[:, None, None], dec.embed(report)
        k, v = cross.project_keys_values(dec.memory(memory))
        h = layer.norms[0](x + layer.attn(x, x, causal=True))
        w = attention_weights(cross.split_heads(cross.q(h)), k, mask)
        by_hand = cross.out((w @ v).transpose(1, 2).flatten(2))
        torch.testing.assert_close(by_hand, cross(h, dec.memory(memory), mask), atol=1e-5, rtol=0)
        tables = dec.attention(report, memory, seen)
    assert tables.shape == (2, 2, 4, 6, 12) and tables[..., ~seen[0]][:, 0].eq(0).all()
    torch.testing.assert_close(tables[0], w)


# Files

def test_reports_of_files(model, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32), dtype=np.uint8)
    for i, o in enumerate(images): Image.fromarray(o).save(tmp_path/f'{i}.png')
    views, mask = file_views(model[0], [tmp_path/'0.png', tmp_path/'1.png'], stored=32)
    torch.testing.assert_close(views[0], Augment(32)(torch.from_numpy(images)[:, None]))
    assert mask.tolist() == [[True, True]] and len(generate(model[0], views, mask, model[1]).texts) == 1
    (tmp_path/'1.png').write_bytes(b'no image')
    bad_files = [([], '0 images'), ([tmp_path/'0.png']*4, '4 images.*one to 3'),
                 ([tmp_path/'0.png', tmp_path/'1.png'], '1.png'), (tmp_path/'2.png', '2.png')]
    for bad, says in bad_files:
        with pytest.raises(InputError, match=says): file_views(model[0], bad)
