"""A table of one's own images with millions of rows: seconds and memory from the CSV to the study table.

    python benchmarks/large_table.py                  # 5 million rows, 1,000 images that are here
    python benchmarks/large_table.py --rows 500000 --here 100000

The images that are here are empty files: a study table is made of names, and nothing is decoded. The reading runs in a process
of its own, whose largest resident memory Linux counts. A progress bar shows where it is (REFERS_NB_PROGRESS=1 without a terminal).
"""
import argparse, subprocess, sys, tempfile
from pathlib import Path

import numpy as np

CHILD = '''
import re, sys, time
from pathlib import Path
from refers_nb.data.sources.folder import folder
from refers_nb.data.sources.tables import read_table
file = Path(sys.argv[1])
def peak():
    return int(re.search(r'VmHWM:\\s+(\\d+)', Path('/proc/self/status').read_text())[1])/1024
before = peak()
def told(what, f):
    start, cpu = time.perf_counter(), time.process_time()
    result = f(file)
    took, cpu = time.perf_counter() - start, time.process_time() - cpu
    print(f'{what}: {took:.1f} s, {cpu:.1f} s of them computing; {peak() - before:.0f} MiB beyond the library', flush=True)
    return result
n = len(told('read', read_table))
df = told('study table', folder)
print(f"{n:,} rows, {len(df):,} images, {len(df.attrs['missing']):,} missing")
'''

def write_table(path, n):
    "Images of patients, two findings, age and sex, as a release would have them"
    rng = np.random.default_rng(0)
    with open(path, 'w') as f:
        f.write('path,patient,view,age,sex,edema,pneumonia\n')
        for first in range(0, n, 100_000):
            age = rng.integers(18, 95, 100_000)
            found = rng.integers(0, 2, (100_000, 2))
            rows = range(first, min(first + 100_000, n))
            f.writelines(
                f'files/p{i//4:07d}/s{i//2:08d}/{i:09d}.png,{i//4},PA,{a},F,{x},{y}\n'
                for i, a, (x, y) in zip(rows, age, found))

def write_images(root, n, every):
    "Empty files for some rows"
    for i in range(0, n*every, every):
        path = root/f'files/p{i//4:07d}/s{i//2:08d}/{i:09d}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()

def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('--rows', type=int, default=5_000_000)
    p.add_argument('--here', type=int, default=1000, help='images that lie there')
    args = p.parse_args()
    with tempfile.TemporaryDirectory() as tmp:
        root = Path(tmp)
        write_table(root/'list.csv', args.rows)
        write_images(root, args.here, args.rows//args.here)
        print(f'{(root/"list.csv").stat().st_size/1e6:.0f} MB', flush=True)
        subprocess.run([sys.executable, '-c', CHILD, str(root/'list.csv')], check=True)

if __name__ == '__main__': main()
