"""refers-predict on a folder of DICOM files of many codings, some of them broken: time, memory, rows, rejects.

    python benchmarks/predict.py                       # 1,000 files of 2,500 x 2,048 pixels, 50 broken; minutes to draw
    python benchmarks/predict.py --height 256 --width 208 --files 1000

The classifier is a ViT-Ti/16 of 224 pixels with random weights: what it says means nothing, what it costs does. The
command runs in a process of its own, as a terminal starts it; the memory is the largest of that process and of any one
of its workers (Linux counts it), for a tenth of the files and for all of them.
"""
import argparse, os, subprocess, sys, tempfile, time
from pathlib import Path

import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parent.parent/'tests'))
from dicom_folder import BREAKS, CODINGS, dicom_folder
from refers_nb.models.hub import save_checkpoint
from refers_nb.training.classifier import Classifier

CHILD = '''
import resource
from refers_nb.answers import refers_predict
refers_predict()
own, workers = (resource.getrusage(o).ru_maxrss/1024 for o in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
print(f'MEMORY {own:.0f} {workers:.0f}')
'''


def arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--files', type=int, default=1000)
    p.add_argument('--broken', type=int, default=50)
    p.add_argument('--height', type=int, default=2500)
    p.add_argument('--width', type=int, default=2048)
    p.add_argument('--workers', type=int, default=os.cpu_count())
    p.add_argument('--folder', help='where the files are drawn, and kept; default: a temporary folder')
    return p.parse_args()


def ask(script, model, films, out, workers, *more):
    "Seconds, MiB of the command and of its largest worker, what it said"
    begin = time.monotonic()
    cmd = [sys.executable, '-W', 'ignore', script, model, *films, '--out', out, '--workers', workers, *more]
    p = subprocess.run([*map(str, cmd)], capture_output=True, text=True)
    if p.returncode: raise SystemExit(p.stderr[-2000:])
    memory = [o for o in p.stdout.splitlines() if o.startswith('MEMORY')][0].split()[1:]
    return time.monotonic() - begin, *memory, p.stdout.splitlines()[0]


def main():
    a = arguments()
    with tempfile.TemporaryDirectory() as tmp:
        tmp = Path(tmp)
        films = Path(a.folder or tmp/'films')
        script = tmp/'refers-predict'
        script.write_text(CHILD)
        if not films.exists(): dicom_folder(films, a.files, a.broken, a.height, a.width)
        vision = dict(name='vit_tiny_patch16_224', size=224, in_chans=1)
        clf = Classifier(dict(vision=vision, findings=[f'finding {i}' for i in range(14)], frozen=False))
        model = save_checkpoint(clf, None, tmp/'model', dict(data=dict(stored=256, resize_mode='letterbox')))
        print(f'{a.files} files, {len(CODINGS)} codings, {a.height} x {a.width} pixels, {a.broken} broken '
              f'({", ".join(BREAKS)}), {a.workers} workers of {os.cpu_count()} cores')
        for some in (sorted(films.iterdir())[:1], [films]):
            seconds, own, worker, said = ask(script, model, some, tmp/'answers.csv', a.workers)
            table = pd.read_csv(tmp/'answers.csv', keep_default_na=False)
            rejected = (table['rejected'] != '').sum()
            print(f'{len(table):,} rows, {rejected} rejected, {seconds:.0f} s ({len(table)/seconds:.1f} films a second); '
                  f'{own} MiB, a worker {worker} MiB')
        print(table['rejected'][table['rejected'] != ''].str[:60].value_counts().to_string())


if __name__ == '__main__': main()
