"""Several processes against one: the same steps of the same global batch, as a ratio measured in one run.

    python benchmarks/ranks.py                      # two processes of one thread each, against one of one thread
    python benchmarks/ranks.py --ranks 4 --preset small --bs 64

The processes share each batch and exchange gradients by gloo, as `torchrun refers-pretrain` does on a machine without GPUs. One
process and several are measured in turn; the efficiency is the time of one, divided by that of several and by their number. More
processes than cores measure the cores.
"""
import argparse, os, statistics, subprocess, sys, tempfile, warnings
from pathlib import Path
warnings.filterwarnings('ignore')

ENV = dict(OMP_NUM_THREADS='1', REFERS_NB_PROGRESS='0')


def arguments():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('--ranks', type=int, default=2, help='processes')
    p.add_argument('--preset', default='tiny')
    p.add_argument('--bs', type=int, default=32, help='studies of a batch, of all processes')
    p.add_argument('--size', type=int, default=96, help='image side, pixels')
    p.add_argument('--steps', type=int, default=10, help='timed steps')
    p.add_argument('--reps', type=int, default=3, help='repetitions, taken in turn')
    p.add_argument('--child', help='of this script itself: folder with the phantoms')
    return p.parse_args()


def child(a):
    "Print the seconds of a step, measured on rank 0"
    import torch
    from refers_nb.data.given import image_store
    from refers_nb.data.studies import read_studies
    from refers_nb.data.tokens import Tokenizer
    from refers_nb.ranks import is_first, ranks
    from refers_nb.training.distributed import over_ranks
    from refers_nb.training.plan import time_steps
    from refers_nb.training.pretrain import RefersArgs, refers_run_learner
    torch.set_num_threads(1)
    args = RefersArgs(preset=a.preset, start='random', size=a.size, bs=a.bs, device='cpu', least_patients=0)
    df = read_studies(a.child)
    with ranks('cpu'):
        torch.manual_seed(0)
        tok = Tokenizer.load(Path(a.child)/'tokenizer.json')
        learn = refers_run_learner(args, df, image_store(a.child), tok)
        learn.schedule(learn.max_lrs)
        timed = time_steps(over_ranks(learn), epochs=1 + a.steps, n=a.steps)
        if is_first(): print(timed.seconds)


def seconds(a, folder, n):
    "Of a step in `n` processes"
    start = ['-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', str(n)] if n > 1 else []
    own = ['--child', folder, '--preset', a.preset, '--bs', a.bs, '--size', a.size, '--steps', a.steps]
    res = subprocess.run([sys.executable, '-W', 'ignore', *start, __file__, *map(str, own)],
                         env=os.environ | ENV, stdout=subprocess.PIPE, text=True, check=True)
    return float(res.stdout.split()[-1])


def main():
    a = arguments()
    if a.child: return child(a)
    from refers_nb.data.prepare import prepare
    from refers_nb.data.studies import read_studies
    from refers_nb.data.tokens import Tokenizer
    with tempfile.TemporaryDirectory() as folder:
        prepare('phantom', max(2*a.bs, 100), folder, size=a.size, seed=3, valid=.1, test=0)
        Tokenizer.train(read_studies(folder).drop_duplicates('study')['report'], 1000, max_len=64).save(Path(folder)/'tokenizer.json')
        turns = [(seconds(a, folder, 1), seconds(a, folder, a.ranks)) for _ in range(a.reps)]
    one, several = map(statistics.median, zip(*turns))
    efficiency = statistics.median(x/y/a.ranks for x, y in turns)
    print(f'{a.preset}, batches of {a.bs} at {a.size} pixels: {one:.3f} s a step in one process of one thread, '
          f'{several:.3f} s in {a.ranks}, efficiency {efficiency:.0%}')


if __name__ == '__main__': main()
