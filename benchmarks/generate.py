"""Writing reports of 100 tokens: with the key-value cache against recomputing, as a ratio measured in one run.

Both ways write the same reports (checked) over the memory of the same studies, in turn; the encoder is timed apart. Every report is kept from
ending before its 100th token, so that both do all the work.

    python benchmarks/generate.py                          # tiny at 160 pixels, 16 studies of two views
    python benchmarks/generate.py --preset base --size 224 --views 3 --bs 4
"""
import argparse, json, statistics, time, warnings
warnings.filterwarnings('ignore')
import torch
from refers_nb.core import get_device
from refers_nb.evaluation.generate import write
from refers_nb.models.refers import refers_model

def timed(f, dev):
    "Seconds that a call takes, and what it gives"
    if dev.type=='cuda': torch.cuda.synchronize()
    start = time.perf_counter(); res = f()
    if dev.type=='cuda': torch.cuda.synchronize()
    return time.perf_counter()-start, res

def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('--preset', default='tiny'); p.add_argument('--size', type=int, default=160); p.add_argument('--views', type=int, default=2)
    p.add_argument('--vocab', type=int, default=3000); p.add_argument('--bs', type=int, default=16, help='studies a batch'); p.add_argument('--tokens', type=int, default=100)
    p.add_argument('--beams', type=int, default=4, help='also time a beam search of this width, with the cache')
    p.add_argument('--reps', type=int, default=3, help='timed runs of each, taken in turn'); p.add_argument('--device', default='auto')
    a = p.parse_args()
    dev = get_device(a.device)
    torch.manual_seed(0)
    model = refers_model(a.preset, vocab=a.vocab, size=a.size, k=a.views, max_len=a.tokens).to(dev).eval()
    views,mask = torch.randn(a.bs, a.views, 1, a.size, a.size, device=dev),torch.ones(a.bs, a.views, dtype=torch.bool, device=dev)
    with torch.no_grad():
        encode = lambda: model.fusion(model.encode_image(views, mask), mask)
        encode(); encode_s,(memory,_,w) = timed(encode, dev)
    seen = mask.repeat_interleave(w.shape[-1], dim=1)
    one = lambda cache, **kwargs: timed(lambda: write(model.decoder, memory, seen, min_len=a.tokens, max_len=a.tokens, cache=cache, **kwargs), dev)
    for cache in (True, False): one(cache)                                         # warm up
    times = []
    for _ in range(a.reps):                                                        # in turn: noise hits both
        (fast,(x,_)),(slow,(y,_)) = one(True),one(False)
        assert torch.equal(x, y) and x.shape[1]==a.tokens-1, 'the cache changed a report'
        times.append((fast, slow))
    fast,slow = (statistics.median(o) for o in zip(*times))
    beam = statistics.median(one(True, beams=a.beams)[0] for _ in range(a.reps))
    n = a.bs*(a.tokens-1)
    print(json.dumps(dict(preset=a.preset, size=a.size, views=a.views, bs=a.bs, tokens=a.tokens, device=dev.type, threads=torch.get_num_threads(),
        encode_s=encode_s, cached_s=fast, uncached_s=slow, ratio=statistics.median(s/f for f,s in times), tokens_per_s=n/fast, reports_per_s=a.bs/fast,
        **{f'beam_{a.beams}_s': beam, f'beam_{a.beams}_reports_per_s': a.bs/beam}), indent=1))

if __name__=='__main__': main()
