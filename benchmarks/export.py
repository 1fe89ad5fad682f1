"""A classifier in onnxruntime against the same in PyTorch, on the CPU: the ratio of their times, in one run.

Both compute in float32 with the same threads, on the same images, and take turns, so that what else the machine does meets
both. A ratio above 1 means that onnxruntime is faster.

    python benchmarks/export.py                                  # ViT-Ti and ViT-B, 224 pixels
    python benchmarks/export.py --names vit_small_patch16_224 --size 160
"""
import argparse
import statistics
import sys
import tempfile
import time
import warnings
from pathlib import Path
warnings.filterwarnings('ignore')
import torch
from refers_nb.export import export_onnx, exported_model, onnx_session
from refers_nb.models.hub import save_checkpoint
from refers_nb.models.vision import VisionEncoder
from refers_nb.training.classifier import Classifier

FINDINGS = [f'finding {i}' for i in range(14)]


def seconds(f):
    "Of one call"
    start = time.perf_counter()
    f()
    return time.perf_counter() - start


def measure(name, size, batches, rounds, folder):
    "Print one line for each size of a batch"
    torch.manual_seed(0)
    model = Classifier.on(VisionEncoder(name, size=size), FINDINGS)
    data = dict(stored=256, resize_mode='letterbox')
    checkpoint = save_checkpoint(model, None, folder/name, dict(data=data))
    began = time.perf_counter()
    facts = export_onnx(checkpoint, folder/f'{name}.onnx')
    took = time.perf_counter() - began
    net = exported_model(checkpoint)
    session = onnx_session(folder/f'{name}.onnx')
    print(f'{name}: {facts["bytes"]/1e6:.1f} MB, written in {took:.1f} s, differs by {facts["difference"]:.1e} at most')
    for n in batches:
        image = torch.rand(n, 1, size, size)*2 - 1
        given = dict(image=image.numpy())
        def ours():
            with torch.inference_mode(): net(image)
        def theirs(): session.run(None, given)
        for f in (ours, theirs): f()
        times = [(seconds(ours), seconds(theirs)) for _ in range(rounds)]
        a, b = (statistics.median(o) for o in zip(*times))
        ratio = statistics.median(x/y for x, y in times)
        print(f'  batch {n:3}: PyTorch {n/a:7.1f} images per second, onnxruntime {n/b:7.1f}, ratio {ratio:.2f}')


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--names', nargs='+', default=['vit_tiny_patch16_224', 'vit_base_patch16_224'])
    parser.add_argument('--size', type=int, default=224)
    parser.add_argument('--batches', type=int, nargs='+', default=[1, 16])
    parser.add_argument('--rounds', type=int, default=9)
    parser.add_argument('--threads', type=int, default=0, help='default: as PyTorch chooses')
    args = parser.parse_args()
    if args.threads: torch.set_num_threads(args.threads)
    print(f'{torch.get_num_threads()} threads, Python {sys.version.split()[0]}, torch {torch.__version__}')
    with tempfile.TemporaryDirectory() as folder:
        for name in args.names: measure(name, args.size, args.batches, args.rounds, Path(folder))


if __name__ == '__main__': main()
