"""One pre-training step: ours against a plain one, as a ratio measured in one run.

The plain step is written here on its own, the way the method is first written down: one forward of the vision transformer
for each of three views, float32, the matching loss as a loop over the batch. Both steps have the same sizes (preset `base`:
ViT-B/16 at 224 pixels, BERT-base, decoder L1 H1024 A16 F4096), the same batch and the same optimiser.

    python benchmarks/step.py                 # base, batch 4, three views
    python benchmarks/step.py --bs 64         # on a GPU also: images per second, peak memory, share of the matrix rate
    python benchmarks/step.py --count         # no time: what a step of a training run asks for, preset `tiny`, phantoms
"""
import argparse
import json
import os
import statistics
import tempfile
import time
import warnings
warnings.filterwarnings('ignore')
import timm
import torch
import torch.nn.functional as F
from torch import nn
from transformers import BertConfig, BertModel
from refers_nb.core import get_device, get_dtype
from refers_nb.models.refers import Output, refers_groups, refers_model
from refers_nb.training.callbacks import fuse_attention
from refers_nb.training.losses import RefersLoss
from refers_nb.training.optim import adamw
from refers_nb.training.rate import matrix_rate, wait

VOCAB = 10_000


class Plain(nn.Module):
    "The method in plain PyTorch, one view after the other"
    def __init__(self, d=768, w=1024):
        super().__init__()
        self.vit = timm.create_model('vit_base_patch16_224', num_classes=0)
        self.gates = nn.ModuleList([nn.Linear(3*d, 1) for _ in range(3)])
        self.memory = nn.Linear(d, w)
        self.words = nn.Embedding(VOCAB, w)
        self.positions = nn.Embedding(100, w)
        self.norm = nn.LayerNorm(w)
        self.decoder = nn.TransformerDecoderLayer(w, 16, 4096, activation='gelu', batch_first=True)
        self.bert = BertModel(BertConfig(vocab_size=VOCAB))
        self.proj = nn.Linear(d, 3*d)

    def fuse(self, tokens):
        "Memory (bs, 3*p, w) from the tokens of three views, each (bs, 1+p, d)"
        patches = [o[:, 1:] + o[:, :1] for o in tokens]
        joint = torch.cat(patches, -1)                                            # (bs, p, 3*d)
        weighted = [o*torch.sigmoid(gate(joint)) for o, gate in zip(patches, self.gates)]
        return self.memory(torch.cat(weighted, 1))

    def write(self, report, memory):
        "Logits (bs, t, v)"
        t = report.shape[1]
        causal = nn.Transformer.generate_square_subsequent_mask(t, device=report.device)
        x = self.norm(self.words(report) + self.positions.weight[:t])             # (bs, t, w)
        return self.decoder(x, memory, tgt_mask=causal) @ self.words.weight.T

    def forward(self, views, report):
        "Logits, study vectors and report vectors"
        tokens = [self.vit.forward_features(views[:, i]) for i in range(3)]       # three forwards
        logits = self.write(report, self.fuse(tokens))
        text = self.proj(self.bert(report, attention_mask=(report != 0).long()).pooler_output)
        return logits, torch.cat([o[:, 0] for o in tokens], 1), text


def plain_loss(logits, study, text, report, tau=.1, lam=.75):
    "Both losses, matching as a loop over the batch"
    loss = F.cross_entropy(logits[:, :-1].transpose(1, 2), report[:, 1:], ignore_index=0)
    for i in range(len(study)):
        there = torch.stack([F.cosine_similarity(study[i], o, dim=0) for o in text])/tau
        back = torch.stack([F.cosine_similarity(o, text[i], dim=0) for o in study])/tau
        match = lam*there.log_softmax(0)[i] + (1 - lam)*back.log_softmax(0)[i]
        loss = loss - match/len(study)
    return loss


def plain_step(dev, views, report):
    "A function that makes one step of the plain model"
    model = Plain().to(dev).train()
    opt = torch.optim.AdamW(model.parameters(), lr=1e-4)
    views = views.expand(-1, -1, 3, -1, -1)                                       # grey as three channels
    def step():
        loss = plain_loss(*model(views, report), report)
        loss.backward()
        opt.step()
        opt.zero_grad()
        return loss.item()
    return step


def our_step(dev, views, report, dtype):
    "A function that makes one step of our model"
    model = refers_model('base', vocab=VOCAB).to(dev).train()
    crit = RefersLoss().to(dev)
    opt = adamw(refers_groups(model), lr=1e-4)
    mask = torch.ones(views.shape[:2], dtype=torch.bool, device=dev)
    mixed = dtype != torch.float32
    if mixed: fuse_attention(model, dev.type != 'cpu')
    def step():
        with torch.autocast(dev.type, dtype, enabled=mixed): out = model(views, mask, report)
        loss = crit(Output(*[o.float() for o in out]), report)
        loss.backward()
        opt.step()
        opt.zero_grad()
        return loss.item()
    return step


def timed(step, dev):
    "Seconds of one step"
    wait(dev)
    start = time.perf_counter()
    step()
    wait(dev)
    return time.perf_counter() - start


def gpu_figures(step, seconds, dev, dtype):
    "Peak memory of a step, its rate, and its share of the rate of matrix products"
    from torch.utils.flop_counter import FlopCounterMode
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    step()
    peak = torch.cuda.max_memory_allocated()/2**30
    with FlopCounterMode(display=False) as counter: step()
    rate = matrix_rate(dev, dtype)
    own_rate = counter.get_total_flops()/seconds
    return dict(peak_gib=peak, matrix_tflops=rate/1e12, step_tflops=own_rate/1e12, share=own_rate/rate)


def show_profile(step, dev):
    "Print where the time of a step goes"
    from torch.profiler import profile
    with profile() as prof: step()
    order = f'self_{dev.type}_time_total'
    print(prof.key_averages().table(sort_by=order, row_limit=25, max_name_column_width=50))


def phantom_loaders(folder, size, bs, dev):
    "Loaders of phantoms that are drawn for it"
    from refers_nb.data.loaders import StudyDataLoaders
    from refers_nb.data.prepare import prepare
    prepare('phantom', 60, folder, size=size, seed=3, valid=.2, test=0)
    return StudyDataLoaders.from_table(folder, vocab=300, max_len=32, size=size, k=3, bs=bs, device=dev)


def step_counts(preset, dev, precisions, size=64, bs=8):
    "Operations of one step of a training run and of loading the batch after it, a column for each precision"
    import pandas as pd
    from refers_nb.training.callbacks import setup_progress
    from refers_nb.training.reports import pretrain_learner
    from refers_nb.training.step import CountOps
    os.environ['REFERS_NB_PROGRESS'] = '0'
    columns = {}
    with tempfile.TemporaryDirectory() as scratch:
        for precision in precisions:
            dls = phantom_loaders(os.path.join(scratch, precision), size, bs, dev)
            learn = pretrain_learner(dls, preset, dtype=get_dtype(precision, dev))
            counter = CountOps()
            setup_progress(learn).fit(1, cbs=counter)
            columns[precision] = counter.counts
    return pd.DataFrame(columns)


def arguments():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('--bs', type=int, default=4, help='studies per batch, three views each')
    p.add_argument('--reps', type=int, default=5, help='timed steps of each, taken in turn')
    p.add_argument('--device', default='auto')
    p.add_argument('--precision', default='auto')
    p.add_argument('--profile', action='store_true', help='also print where the time of our step goes')
    p.add_argument('--count', action='store_true', help='only print what a step asks for: reads, casts, norms, operations')
    p.add_argument('--preset', default='tiny', help='of the model whose step is counted')
    return p.parse_args()


def main():
    a = arguments()
    dev = get_device(a.device)
    if a.count:
        print(step_counts(a.preset, dev, ['fp32', 'bf16']).to_string())
        return
    dtype = get_dtype(a.precision, dev)
    torch.manual_seed(0)
    views = torch.randn(a.bs, 3, 1, 224, 224, device=dev)
    report = torch.randint(4, VOCAB, (a.bs, 100), device=dev)
    plain = plain_step(dev, views, report)
    ours = our_step(dev, views, report, dtype)
    for step in (plain, ours): step()                                             # warm up
    times = [(timed(plain, dev), timed(ours, dev)) for _ in range(a.reps)]        # in turn: noise hits both
    plain_s, our_s = (statistics.median(o) for o in zip(*times))
    res = dict(bs=a.bs, device=dev.type, threads=torch.get_num_threads(), precision=str(dtype),
               plain_s=plain_s, ours_s=our_s, ratio=statistics.median(x/y for x, y in times),
               images_per_s=3*a.bs/our_s)
    if dev.type == 'cuda':
        del plain, step                                                           # frees its memory
        res.update(gpu_figures(ours, our_s, dev, dtype))
    print(json.dumps(res, indent=1))
    if a.profile: show_profile(ours, dev)


if __name__ == '__main__': main()
