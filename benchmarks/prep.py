"""The image store: how near preparation comes to the decoders' own speed, how it scales, and what stays flat.

    python benchmarks/prep.py                # phantoms of 2,500 x 2,048 pixels, about two minutes
    python benchmarks/prep.py --height 3056 --width 2544 --files 8

Each share sets two sides beside each other in the same process on the same files: a decoder alone, from the file to a
full-size array (Pillow to grey, `pixel_array` of pydicom), and all of preparation: read, tones, shrink, hash.
The best of several rounds counts on both sides. Run it with OMP_NUM_THREADS=1 on a quiet machine.
"""
import argparse, os, subprocess, sys, tempfile, time
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
from PIL import Image
from pydicom.dataset import FileMetaDataset
from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian, JPEG2000Lossless

from refers_nb.data.jobs import run_jobs
from refers_nb.data.radiograph import load_radiograph
from refers_nb.data.store import build_lock, commit, Decoded, decode_files, ImageStore, Staging, StoreSpec
from refers_nb.phantom.phantoms import phantoms


def parse():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('--height', type=int, default=2500, help='of the source images, pixels')
    p.add_argument('--width', type=int, default=2048)
    p.add_argument('--size', type=int, default=256, help='side of the images in the store, pixels')
    p.add_argument('--files', type=int, default=4, help='different images of each kind')
    p.add_argument('--rounds', type=int, default=3, help='the best of so many rounds counts')
    p.add_argument('--studies', type=int, default=377_110, help='rows of the large store')
    p.add_argument('--many', type=int, default=20_000, help='files of the large build whose memory is measured')
    return p.parse_args()


def dicom(path, x, syntax):
    "Write 12-bit values with a window"
    ds = pydicom.Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID = DigitalXRayImageStorageForPresentation
    ds.SOPInstanceUID = '1.2.3'
    ds.Rows, ds.Columns = x.shape
    ds.SamplesPerPixel, ds.PixelRepresentation = 1, 0
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, 12, 11
    ds.PhotometricInterpretation = 'MONOCHROME2'
    ds.WindowCenter, ds.WindowWidth = 2048, 4096
    ds.PixelData = x.tobytes()
    if syntax != ExplicitVRLittleEndian: ds.compress(syntax, x)
    ds.save_as(path, enforce_file_format=True)


WRITERS = {
    'JPEG':             ('jpg',  lambda p, x: eight(x).save(p, quality=95)),
    'PNG':              ('png',  lambda p, x: eight(x).save(p)),
    'PNG, 16 bits':     ('png',  lambda p, x: Image.fromarray(x).save(p)),
    'WebP':             ('webp', lambda p, x: eight(x).save(p, quality=90)),
    'DICOM':            ('dcm',  lambda p, x: dicom(p, x, ExplicitVRLittleEndian)),
    'DICOM, JPEG 2000': ('dcm',  lambda p, x: dicom(p, x, JPEG2000Lossless)),
}


def eight(x):
    "12 bits as an 8-bit picture"
    return Image.fromarray(np.rint(x/16).clip(0, 255).astype(np.uint8))


def sources(root, args):
    "Files of each kind: enlarged phantoms with the noise of a detector, 12 bits"
    rng = np.random.default_rng(0)
    files = {kind: [] for kind in WRITERS}
    for i, o in enumerate(phantoms(args.files, size=512, seed=1).frontal):
        x = np.array(Image.fromarray(o).resize((args.width, args.height), Image.Resampling.BICUBIC))*16.
        x = np.rint(x + rng.normal(0, 24, x.shape)).clip(0, 4095).astype(np.uint16)
        for kind, (ext, write) in WRITERS.items():
            name = f"{kind.replace(', ', '_').replace(' ', '')}{i}.{ext}"
            write(root/name, x)
            files[kind].append(name)
    return files


def decoder(path):
    "The decoder alone, to an array of full size"
    if path.suffix == '.dcm': return pydicom.dcmread(path).pixel_array
    with Image.open(path) as im: return np.asarray(im if im.mode[0] in 'LI' else im.convert('L'))


def decode_all(root, names):
    "Pixels of some files"
    return sum(decoder(root/o).size for o in names)


def best(rounds, *fs):
    "Least time of each function, taken in turns"
    times = [[] for _ in fs]
    for _ in range(rounds):
        for t, f in zip(times, fs):
            start = time.perf_counter()
            f()
            t.append(time.perf_counter() - start)
    return [min(t) for t in times]


def shares(root, files, args):
    "How much of the time of preparation is the decoder's"
    spec = StoreSpec(args.size, 'letterbox')
    print(f'{"one core":18} {"MB a file":>9} {"decoder ms":>11} {"prepared ms":>12} {"images/s":>9} {"share":>6}')
    for kind, names in files.items():
        n = len(names)
        alone, whole = best(args.rounds, partial(decode_all, root, names),
                            partial(decode_files, root, names, range(n), spec))
        mb = sum((root/o).stat().st_size for o in names)/n/1e6
        print(f'{kind:18} {mb:9.1f} {1e3*alone/n:11.1f} {1e3*whole/n:12.1f} {n/whole:9.1f} {alone/whole:6.0%}')


def scaling(root, files, args, tmp):
    "A whole build in one and in two processes that have started"
    names = []
    for i in range(96): # links have paths of their own: each is decoded
        o = files['PNG'][i % args.files]
        names.append(f'link{i}.png')
        os.symlink(root/o, root/names[-1])
    def build(workers):
        out = Path(tempfile.mkdtemp(dir=tmp))
        return ImageStore.build(names, root, out, args.size, workers=workers)
    batches = [(root, names[i:i + 16]) for i in range(0, len(names), 16)]
    def decode_in_one(): return [decode_all(*o) for o in batches]
    def decode_in_two(): return list(run_jobs(decode_all, batches, 2))
    one, two, bare1, bare2 = best(2*args.rounds, partial(build, 1), partial(build, 2), decode_in_one, decode_in_two)
    start = os.times()
    store = build(2)
    end = os.times()
    parent = end.user + end.system - start.user - start.system
    print(f'\nbuild of {len(names)} PNG: {one:.2f} s in one process, {two:.2f} s in two: {one/two:.2f} times '
          f'(decoders alone on this machine now: {bare1/bare2:.2f} times); of that the parent computes {parent:.2f} s')
    rng = np.random.default_rng(0)
    picks = [names[i] for i in rng.permutation(len(names))[:16]]
    rows = store.rows(picks)
    def read_rows(): return [np.array(store[int(i)]) for i in np.tile(rows, 50)]
    def load_files(): return [load_radiograph(root/o, args.size) for o in picks]
    read, load = best(args.rounds, read_rows, load_files)
    read = read/50/len(picks)
    load = load/len(picks)
    print(f'an image: {1e6*read:.0f} us from the store, {1e3*load:.1f} ms from its PNG: {load/read:,.0f} times')


def mimic_paths(rng, n):
    "Paths as long as those of MIMIC-CXR"
    h = rng.bytes(20*n).hex()
    def name(i): return '-'.join(h[40*i + j:40*i + j + 8] for j in range(0, 40, 8))
    paths = [f'files/p{10+i%10}/p{10_000_000+i//4}/s{50_000_000+i//2}/{name(i)}.jpg' for i in range(n)]
    return pd.Series(paths, dtype='str')


def large_store(out, n, size=16):
    "A store of noise, written and finished by the code that writes and finishes every store"
    rng = np.random.default_rng(0)
    paths = mimic_paths(rng, n)
    stamps = dict(bytes=rng.integers(10**5, 10**6, n), mtime_ns=rng.integers(0, 2**60, n))
    with build_lock(out):
        staging = Staging(out, pd.DataFrame(dict(path=paths) | stamps), StoreSpec(size, 'letterbox'))
        for rows in np.array_split(np.arange(n), -(-n//4096)):
            k = len(rows)
            shape = [np.full(k, 3056), np.full(k, 2544)]
            facts = np.stack([*shape, rng.integers(0, 2**63, k), np.zeros(k, int)], 1)
            images = rng.integers(0, 256, (k, size, size), dtype=np.uint8)
            staging.write(Decoded(rows, images, facts.astype(np.uint64), {}))
        staging.sync()
        staging.finish()
        commit(out)
    return paths


def flatness(args, tmp):
    "What a store of many images costs beside a small one"
    print()
    for n in (1000, args.studies):
        paths = large_store(tmp/f's{n}', n)
        open_ms = 1e3*best(args.rounds, partial(ImageStore, tmp/f's{n}'))[0]
        store = ImageStore(tmp/f's{n}')
        first = 1e3*best(1, partial(store.row, paths[0]))[0]
        rows = np.random.default_rng(1).integers(0, n, 20_000).tolist()
        picks = paths.iloc[rows[:2000]].tolist()
        def read_images(): return [np.array(store[i]) for i in rows]
        def find_paths(): return [store.row(o) for o in picks]
        at, look = best(args.rounds, read_images, find_paths)
        print(f'store of {n:7,}: opened in {open_ms:5.1f} ms, first path found in {first:5.1f} ms; '
              f'then an image takes {1e6*at/len(rows):.1f} us, a path {1e6*look/len(picks):.0f} us')


CHILD = '''
import re, sys
from pathlib import Path
from refers_nb.data.store import ImageStore
if __name__ == '__main__':
    n,root,out,size,workers = int(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5])
    ImageStore.build([f'{i}.png' for i in range(n)], root, out, size=size, workers=workers)
    print(re.search(r'VmHWM:\\s+(\\d+)', Path('/proc/self/status').read_text())[1])
'''

def memory(args, tmp):
    "Largest resident memory of the process that builds (Linux counts it)"
    if not Path('/proc/self/status').exists(): return
    root = tmp/'many'
    root.mkdir()
    for i, o in enumerate(phantoms(100, size=64, seed=2).frontal): Image.fromarray(o).save(root/f'{i}.png')
    for i in range(100, args.many): os.link(root/f'{i % 100}.png', root/f'{i}.png')
    for workers, n in ((1, args.many//10), (1, args.many), (2, args.many)):
        cmd = [sys.executable, '-c', CHILD, str(n), str(root), tempfile.mkdtemp(dir=tmp), str(args.size), str(workers)]
        peak = int(subprocess.run(cmd, check=True, capture_output=True, text=True).stdout)/1024
        print(f'build of {n:6,} files, {n*args.size**2/1e6:6,.0f} MB of images, workers={workers}: '
              f'{peak:.0f} MiB at most')


def main():
    args = parse()
    with tempfile.TemporaryDirectory() as tmp:
        tmp = Path(tmp)
        root = tmp/'files'
        root.mkdir()
        files = sources(root, args)
        shares(root, files, args)
        scaling(root, files, args, tmp)
        flatness(args, tmp)
        memory(args, tmp)


if __name__ == '__main__': main()
