"""Writing reports of 100 tokens: with the key-value cache against recomputing, as a ratio measured in one run.

Both ways write the same reports (checked) over the memory of the same studies, in turn; the encoder is timed apart.
Every report is kept from ending before its 100th token, so that both do all the work.

    python benchmarks/generate.py                          # tiny at 160 pixels, 16 studies of two views
    python benchmarks/generate.py --preset base --size 224 --views 3 --bs 4
"""
import argparse
import json
import statistics
import time
import warnings
from functools import partial
warnings.filterwarnings('ignore')
import torch
from refers_nb.core import get_device
from refers_nb.models.generate import write
from refers_nb.models.refers import refers_model


def wait(dev):
    "Until the device has done all it was told"
    if dev.type == 'cuda': torch.cuda.synchronize()


def timed(f, dev):
    "Seconds that a call takes, and what it gives"
    wait(dev)
    start = time.perf_counter()
    res = f()
    wait(dev)
    return time.perf_counter() - start, res


def arguments():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('--preset', default='tiny')
    p.add_argument('--size', type=int, default=160)
    p.add_argument('--views', type=int, default=2)
    p.add_argument('--vocab', type=int, default=3000)
    p.add_argument('--bs', type=int, default=16, help='studies per batch')
    p.add_argument('--tokens', type=int, default=100)
    p.add_argument('--beams', type=int, default=4, help='also time a beam search of this width, with the cache')
    p.add_argument('--reps', type=int, default=3, help='timed runs of each, taken in turn')
    p.add_argument('--device', default='auto')
    return p.parse_args()


def compare(writing, dev, reps, length):
    "Seconds with and without the cache, in turn, so that noise hits both; both must write the same"
    times = []
    for _ in range(reps):
        fast, (cached, _) = timed(partial(writing, cache=True), dev)
        slow, (plain, _) = timed(partial(writing, cache=False), dev)
        assert torch.equal(cached, plain) and cached.shape[1] == length, 'the cache changed a report'
        times.append((fast, slow))
    return times


def main():
    a = arguments()
    dev = get_device(a.device)
    torch.manual_seed(0)
    model = refers_model(a.preset, vocab=a.vocab, size=a.size, k=a.views, max_len=a.tokens).to(dev).eval()
    views = torch.randn(a.bs, a.views, 1, a.size, a.size, device=dev)
    mask = torch.ones(a.bs, a.views, dtype=torch.bool, device=dev)
    def encode(): return model.fusion(model.encode_image(views, mask), mask)
    with torch.no_grad():
        encode()                                                                  # warm up
        encode_s, (memory, _, weights) = timed(encode, dev)
    seen = mask.repeat_interleave(weights.shape[-1], dim=1)
    writing = partial(write, model.decoder, memory, seen, min_len=a.tokens, max_len=a.tokens)
    for cache in (True, False): writing(cache=cache)                              # warm up
    times = compare(writing, dev, a.reps, a.tokens - 1)
    fast, slow = (statistics.median(o) for o in zip(*times))
    beam_search = partial(writing, cache=True, beams=a.beams)
    beam = statistics.median(timed(beam_search, dev)[0] for _ in range(a.reps))
    words = a.bs*(a.tokens - 1)
    res = dict(preset=a.preset, size=a.size, views=a.views, bs=a.bs, tokens=a.tokens, device=dev.type,
               threads=torch.get_num_threads(), encode_s=encode_s, cached_s=fast, uncached_s=slow,
               ratio=statistics.median(s/f for f, s in times), tokens_per_s=words/fast,
               reports_per_s=a.bs/fast)
    res |= {f'beam_{a.beams}_s': beam, f'beam_{a.beams}_reports_per_s': a.bs/beam}
    print(json.dumps(res, indent=1))


if __name__ == '__main__': main()
