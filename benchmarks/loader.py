"""Studies a second from the image store against decoding the files for every sample.

    python benchmarks/loader.py                      # phantoms, written as PNG of 512 pixels
    python benchmarks/loader.py --prepared FOLDER    # what refers-prep made, with its own files

Both sides give the same uint8 arrays (k, size, size) of the same studies in the same random order; that is checked first.
Decoding is done in as many threads as there are cores, reading from the store in one.
"""
import argparse, os, tempfile, time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from refers_nb.data.store import ImageStore
from refers_nb.data.radiograph import load_radiograph
from refers_nb.data.sources.phantom import phantom_studies
from refers_nb.data.studies import by_study, read_studies


def parse():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('--prepared', help='folder with studies.parquet and the image store; default: phantoms')
    p.add_argument('--studies', type=int, default=48, help='studies to draw (of phantoms: also to write)')
    p.add_argument('--file-size', type=int, default=512, help='side of the phantom PNG files')
    p.add_argument('--seconds', type=float, default=4, help='time for each side')
    p.add_argument('--views', type=int, default=2, help='views per study')
    p.add_argument('--workers', type=int, default=os.cpu_count(), help='threads that decode')
    return p.parse_args()


def prepared(args, tmp):
    "Study table and image store"
    if args.prepared: return read_studies(args.prepared), ImageStore(args.prepared)
    df = phantom_studies(tmp/'png', args.studies, size=args.file_size)
    return df, ImageStore.build(df, tmp/'png', tmp/'store', size=256, workers=args.workers)


def rate(f, studies, seconds):
    "Studies a second of `f` over shuffled studies, for about `seconds`"
    rng = np.random.default_rng(0)
    n, spent = 0, 0
    start = time.perf_counter()
    while spent < seconds:
        for i in rng.permutation(len(studies))[:8]:
            f(studies[i])
            n += 1
        spent = time.perf_counter() - start
    return n/spent


def main():
    args = parse()
    with tempfile.TemporaryDirectory() as tmp, ThreadPoolExecutor(max(args.workers, 1)) as pool:
        df, store = prepared(args, Path(tmp))
        resize_mode = store.index.attrs['resize_mode']
        root = Path(df.attrs['root'])
        paths = df['path'].tolist()
        at = store.rows(df['path'])
        studies = [o[:args.views] for o in by_study(df)['rows']]
        def load(i): return load_radiograph(root/paths[i], store.size, resize_mode)
        def decode(rows): return np.stack(list(pool.map(load, rows)))
        def read(rows): return store[at[rows]]
        for rows in studies[:20]: assert (decode(rows) == read(rows)).all(), 'the two sides give different pixels'
        files = rate(decode, studies, args.seconds)
        stored = rate(read, studies, args.seconds)
        kinds = ', '.join(sorted({Path(p).suffix for p in paths}))
        print(f'{len(studies):,} studies, up to {args.views} views of {store.size} pixels, from {kinds} files; '
              'same pixels on both sides')
        print(f'decoding the files ({args.workers} threads): {files:10,.0f} studies/s')
        print(f'image store (1 thread):        {stored:10,.0f} studies/s')
        print(f'ratio:                         {stored/files:10.1f}')


if __name__ == '__main__': main()
