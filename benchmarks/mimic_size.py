"""MIMIC-CXR's size: the start of a run, memory, batches a second warm and cold, and two evaluations of its length.

    python benchmarks/mimic_size.py                                     # 25 GB in ./mimic_size, removed afterwards
    python benchmarks/mimic_size.py --studies 3000 --images 5000 --valid 300 --batches 8
    python benchmarks/mimic_size.py --before FOLDER --reps 3            # also another copy of the library, in turn

The images are phantoms, shifted and with noise in their two lowest bits, so that no file system compresses them; the reports are
the phantoms', with sentences added up to a drawn length. The store is written by the library's own `Staging`, the table by
`write_studies`. Every measurement is a process of its own. Cold: the pages of `images.npy` are dropped from this machine's cache
(posix_fadvise) before the process maps it; what lies below, such as the cache of a virtual machine's host, is out of reach. Warm: the
same batches once more. Augmentation is left out: it is the device's work. Memory is the share of all processes together that is not
the file's own pages (Pss_Anon and Pss_Shmem). Of several repetitions, taken in turn, the best counts.
"""
import argparse, itertools, json, os, random, re, shutil, subprocess, sys, time
from pathlib import Path

import numpy as np

DRIFT = 12 # pixels by which an image may be shifted, either way


def arguments():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('--folder', default='mimic_size', help='a new folder for the store; removed afterwards')
    p.add_argument('--images', type=int, default=377_110)
    p.add_argument('--studies', type=int, default=227_000)
    p.add_argument('--valid', type=int, default=1_800, help='studies of the validation split')
    p.add_argument('--words', type=int, default=70, help='words of a report, in the median')
    p.add_argument('--size', type=int, default=256)
    p.add_argument('--bs', type=int, default=128)
    p.add_argument('--batches', type=int, default=60, help='timed batches of each loader')
    p.add_argument('--workers', type=int, nargs='+', default=[0, 1, 2, 4])
    p.add_argument('--reps', type=int, default=1, help='repetitions, taken in turn')
    p.add_argument('--before', help='folder with another copy of refers_nb, measured in turn with this one')
    p.add_argument('--keep', action='store_true', help='leave the folder, or take the one that is there')
    p.add_argument('--child', help='of this script itself: what to measure')
    p.add_argument('--begun', type=float, help='of this script itself')
    return p.parse_args()


# --- the collection

def study_sizes(rng, images, studies):
    "Images of each study: one each, the others dealt at random"
    return 1 + np.bincount(rng.integers(studies, size=images - studies), minlength=studies)


def long_report(rnd, report, words):
    "A phantom's report with more sentences that are true of anybody, up to a number of words"
    from refers_nb.phantom.wording import COMPARISONS, NORMAL_HEART, phrase, REMARKS
    length = report.count(' ') + 1
    more = []
    while length < words:
        more.append(phrase(rnd, rnd.choice((COMPARISONS, NORMAL_HEART, REMARKS))))
        length += more[-1].count(' ') + 1
    return f"{report} {'. '.join(more)}." if more else report


def drawn_reports(n, median):
    "Reports whose lengths are spread like those of a hospital (log-normal, a sixth above 1.6 times the median)"
    from refers_nb.data.report import findings_impression
    from refers_nb.phantom.body import anatomy, Dice
    from refers_nb.phantom.wording import facts, write_report
    known = facts(anatomy(Dice(0, range(512))))
    words = np.random.default_rng(1).lognormal(np.log(median), .47, n).astype(int)
    for i in range(n):
        rnd = random.Random(i)
        yield long_report(rnd, findings_impression(write_report(rnd, known[i % 512])), words[i])


def drawn_table(a):
    "Study table: patients of about three studies, 14 labels"
    import pandas as pd
    rng = np.random.default_rng(0)
    sizes = study_sizes(rng, a.images, a.studies)
    patient = np.sort(rng.integers(max(a.studies*2//7, 3), size=a.studies))
    split = np.full(a.studies, 'train', object)
    split[patient <= patient[a.valid - 1]] = 'valid'
    split[patient == patient[-1]] = 'test'
    of = np.repeat(np.arange(a.studies), sizes)
    place = np.arange(a.images) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    path = [f'files/p{p//1000}/p{p:08d}/s{s:08d}/{i:032x}.jpg' for i, (p, s) in enumerate(zip(patient[of], of))]
    reports = np.array(list(drawn_reports(a.studies, a.words)), object)
    df = pd.DataFrame(dict(
        patient=patient[of].astype(str), study=of.astype(str), view=np.array(['PA', 'LATERAL', 'AP', 'OTHER'])[place % 4],
        path=path, report=reports[of], split=split[of]))
    labels = np.where(rng.random((a.studies, 14)) < .5, np.nan, rng.random((a.studies, 14)) < .2)
    return df.assign(**{f'label:finding {j}': labels[of, j] for j in range(14)})


def drawn_images(rng, films, n):
    "Phantoms, shifted and with noise, uint8 (n, size, size)"
    images = films[rng.integers(len(films), size=n)]
    for i, (y, x) in enumerate(rng.integers(-DRIFT, DRIFT + 1, (n, 2))): images[i] = np.roll(images[i], (y, x), (0, 1))
    noise = np.frombuffer(rng.bytes(images.size), np.uint8).reshape(images.shape)
    return images ^ (noise & 3)


def write_store(out, paths, size):
    "An image store by the writer of `ImageStore.build`, without files to decode"
    import pandas as pd
    from refers_nb.data.grey import image_hash
    from refers_nb.data.radiograph import Decoded
    from refers_nb.data.store import commit, Staging, StoreSpec
    from refers_nb.phantom.phantoms import phantoms
    n = len(paths)
    (out/'unfinished').mkdir(parents=True)
    stamps = pd.DataFrame(dict(path=pd.Series(paths, dtype='str'), bytes=1_500_000, mtime_ns=1))
    staging = Staging(out, stamps, StoreSpec(size, 'letterbox'))
    films = phantoms(256, size=size).frontal
    rng = np.random.default_rng(2)
    compared = set(np.linspace(0, n - 1, 8).astype(int).tolist())   # the rows whose fingerprints are looked at
    for first in range(0, n, 512):
        rows = np.arange(first, min(first + 512, n))
        images = drawn_images(rng, films, len(rows))
        facts = np.tile(np.uint64([2500, 2048, 0, 0]), (len(rows), 1))
        for i in compared & set(rows.tolist()): facts[i - first, 2] = image_hash(images[i - first])
        staging.write(Decoded(rows, images, facts, {}))
    staging.sync()
    staging.finish()
    commit(out)
    shutil.rmtree(out/'unfinished')


def make(a):
    "The prepared folder"
    from refers_nb.data.studies import write_studies
    out = Path(a.folder)
    start = time.perf_counter()
    df = drawn_table(a)
    write_studies(df, out)
    told = time.perf_counter()
    write_store(out, df['path'].tolist(), a.size)
    words = df.drop_duplicates('study')['report'].str.count(' ') + 1
    gb = sum(o.stat().st_size for o in out.iterdir())/1e9
    print(f'{len(df):,} images, {a.studies:,} studies, {gb:.1f} GB; reports of {words.median():.0f} words in the median, '
          f'{words.quantile(.95):.0f} at 95 %; table made in {told - start:.0f} s, store in {time.perf_counter() - told:.0f} s', flush=True)


# --- what one process measures

def memory():
    "MiB of this process and its children that are not pages of a file; pages that they share count once"
    here = Path('/proc/self/task')
    pids = [os.getpid(), *(int(pid) for o in here.iterdir() for pid in (o/'children').read_text().split())]
    total = 0
    for pid in pids:
        try: text = Path(f'/proc/{pid}/smaps_rollup').read_text()
        except OSError: continue                                    # it has just ended
        total += sum(map(int, re.findall(r'Pss_(?:Anon|Shmem):\s+(\d+)', text)))
    return total/1024


def disk_bytes():
    "Bytes that this machine has read from its disks"
    return int(re.search(r'pgpgin (\d+)', Path('/proc/vmstat').read_text())[1])*1024


def drop_cache(path):
    "Have a file read from the disk again"
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    finally: os.close(fd)


def as_loaded(b):
    "A batch as loading processes give it, not augmented"
    return getattr(b, 'parts', b)


def loaders(a, workers=0, seconds=None):
    "Loaders of the folder; `seconds` notes when each part of the start was done"
    note = (lambda name: None) if seconds is None else (lambda name: seconds.update({name: time.time() - a.begun}))
    from refers_nb.data.loaders import study_dls
    from refers_nb.data.store import ImageStore
    from refers_nb.data.studies import read_studies
    from refers_nb.data.tokens import Tokenizer
    note('imported')
    df = read_studies(a.folder)
    note('table read')
    store = ImageStore(a.folder)
    note('store opened')
    tok = Tokenizer.load(Path(a.folder)/'tokenizer.json')
    dls = study_dls(df, store, tok, a.size, bs=a.bs, workers=workers)
    for dl in dls.loaders: dl.after_batch = as_loaded
    note('loaders made')
    return dls


def child_vocabulary(a):
    "Train the vocabulary as a run does"
    from refers_nb.data.studies import read_studies
    from refers_nb.training.plan import resident_peak
    from refers_nb.training.pretrain import run_tokenizer
    df = read_studies(a.folder)
    start = time.perf_counter()
    run_tokenizer(Path(a.folder), df, 10_000, 100)
    return {'vocabulary learnt, s': time.perf_counter() - start, 'vocabulary: largest memory, MiB': resident_peak()/2**20}


def child_start(a):
    "Seconds from the start of the process to the first batch"
    seconds = {}
    drop_cache(Path(a.folder)/'images.npy')
    dls = loaders(a, seconds=seconds)
    next(iter(dls.train))
    seconds['first batch'] = time.time() - a.begun
    ends = [0, *seconds.values()]
    parts = {f'start: {name}, s': after - before for (name, after), before in zip(seconds.items(), ends)}
    return parts | {'start: together, s': seconds['first batch'], 'start: memory, MiB': memory()}


def pass_through(dl, n):
    "Seconds of `n` batches, images in them, and memory when a tenth and when all were through"
    dl.at(0)
    start = time.perf_counter()
    images, held = 0, []
    for i, (views, mask, *reports) in enumerate(itertools.islice(dl, n), 1):
        images += int(mask.sum())
        if i in (max(1, n//10), n): held.append(memory())
    return time.perf_counter() - start, images, held


def child_load(a):
    "Batches a second with a number of loading processes, cold and then warm"
    workers, = a.workers
    file = Path(a.folder)/'images.npy'
    drop_cache(file)
    dl = loaders(a, workers).train
    drop_cache(file)
    res = {}
    for heat in ('cold', 'warm'):
        read = disk_bytes()
        seconds, images, held = pass_through(dl, a.batches)
        res[f'{heat}, {workers} workers: batches a second'] = a.batches/seconds
        res[f'{heat}, {workers} workers: read from the disk, times its images'] = (disk_bytes() - read)/(images*a.size**2)
        res[f'{heat}, {workers} workers: memory at a tenth, MiB'], res[f'{heat}, {workers} workers: memory at the end, MiB'] = held
    return res


def child_evaluate(a):
    "Retrieval on the validation split, and DeLong's table on the test images of NIH"
    import torch
    from refers_nb.evaluation.statistics import auroc_table
    from refers_nb.training.metrics import recall_at, text_groups
    dls = loaders(a)
    texts = [tuple(dls.valid.dataset[i][2].tolist()) for i in range(len(dls.valid.dataset))]
    gen = torch.Generator().manual_seed(0)
    study, text = (torch.nn.functional.normalize(torch.randn(len(texts), 768, generator=gen)) for _ in range(2))
    start = time.perf_counter()
    recall_at(study @ text.T, ks=(10,), groups=text_groups(texts))
    recall = time.perf_counter() - start
    rng = np.random.default_rng(0)
    y = (rng.random((22_433, 14)) < .05).astype(float)
    p = (1/(1 + np.exp(2 - rng.normal(size=y.shape) - y))).round(3)
    start = time.perf_counter()
    auroc_table(y, p)
    return {f'recall@10 of {len(texts):,} studies, s': recall, "DeLong's table, 14 x 22,433, s": time.perf_counter() - start}


# --- together

def measure(a, what, workers=0, library=None):
    "What a process of its own finds"
    env = dict(os.environ, REFERS_NB_PROGRESS='0')
    if library: env['PYTHONPATH'] = str(Path(library).resolve())
    args = ['--folder', a.folder, '--bs', a.bs, '--size', a.size, '--batches', a.batches, '--workers', workers,
            '--child', what, '--begun', time.time()]
    res = subprocess.run([sys.executable, '-W', 'ignore', __file__, *map(str, args)], env=env, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(res.stdout.splitlines()[-1])


def best(name, values):
    "The best of repetitions: the most of a rate, the least of anything else"
    return max(values) if name.endswith('a second') else min(values)


def show(found):
    "One table, a column for each library"
    import pandas as pd
    table = pd.DataFrame({lib: {k: best(k, v) for k, v in o.items()} for lib, o in found.items()})
    print(table.map(lambda x: '' if x != x else f'{x:,.3g}' if x < 1000 else f'{x:,.0f}').to_string())


def main():
    a = arguments()
    if a.child: return print(json.dumps(globals()[f'child_{a.child}'](a)))
    folder = Path(a.folder)
    there = folder.exists()
    if there and not a.keep: sys.exit(f'{folder} is there: name a new folder, or take it with --keep')
    libraries = {'now': None} | ({'before': a.before} if a.before else {})
    found = {name: {} for name in libraries}
    try:
        if not there: make(a)
        if not (folder/'tokenizer.json').exists():
            for name, library in reversed(libraries.items()):
                (folder/'tokenizer.json').unlink(missing_ok=True)
                found[name] |= {k: [v] for k, v in measure(a, 'vocabulary', library=library).items()}
        tasks = [('start', 0), *(('load', n) for n in a.workers), ('evaluate', 0)]
        for _, (what, workers), (name, library) in itertools.product(range(a.reps), tasks, libraries.items()):
            for k, v in measure(a, what, workers, library).items(): found[name].setdefault(k, []).append(v)
            print('.', end='', file=sys.stderr, flush=True)
        show(found)
    finally:
        if not a.keep: shutil.rmtree(folder, ignore_errors=True)


if __name__ == '__main__': main()
