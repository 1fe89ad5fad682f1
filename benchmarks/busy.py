"""A step of pre-training on a machine that is busy: what another process costs, by how idle threads wait.

    python benchmarks/busy.py                       # all cores, with none and one other process
    python benchmarks/busy.py --others 0 1 2

The threads of a step meet many times. One that is there first may look again and again whether the others have come (active), or
sleep until they have (passive); on a core that another process shares, looking takes the time of whoever is waited for. Measured in
turn are torch's own way, that of our commands (three thousand looks), OMP_WAIT_POLICY=PASSIVE, and one thread. The other processes count, and do nothing else.
"""
import argparse, itertools, os, statistics, subprocess, sys, tempfile, warnings
warnings.filterwarnings('ignore')

SETTINGS = {'as torch is': {}, 'as commands are': dict(GOMP_SPINCOUNT='3000'), 'passive': dict(OMP_WAIT_POLICY='PASSIVE'),
            'one thread': dict(OMP_NUM_THREADS='1')}


def arguments():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('--others', type=int, nargs='+', default=[0, 1], help='other processes that are busy')
    p.add_argument('--reps', type=int, default=3, help='repetitions, taken in turn')
    p.add_argument('--child', help='of this script itself: folder with the phantoms')
    return p.parse_args()


def child(folder):
    "Print the seconds of a step of the tiny preset, on phantoms"
    from refers_nb.training.pretrain import PHANTOM_RECIPE, pretrain
    plan = pretrain(folder, f'{folder}/run', 'tiny', dry_run=True, **PHANTOM_RECIPE | dict(size=64, epochs=5))
    print(plan['seconds per step'])


def seconds(folder, setting, others):
    "Of a step, beside some other processes"
    env = {k: v for k, v in os.environ.items() if not k.startswith(('OMP_', 'GOMP_'))}
    env |= dict(REFERS_NB_PROGRESS='0') | SETTINGS[setting]
    busy = [subprocess.Popen([sys.executable, '-c', 'while True: pass']) for _ in range(others)]
    try:
        res = subprocess.run([sys.executable, '-W', 'ignore', __file__, '--child', folder], env=env,
                             stdout=subprocess.PIPE, text=True, check=True)
    finally:
        for o in busy:
            o.kill()
            o.wait()
    return float(res.stdout.split()[-1])


def main():
    a = arguments()
    if a.child: return child(a.child)
    import pandas as pd
    from refers_nb.data.sources.phantom import phantom_set
    with tempfile.TemporaryDirectory() as folder:
        phantom_set(folder, 64, train=(400, 1), valid=(40, 2))
        cases = list(itertools.product(SETTINGS, a.others))
        found = {o: [] for o in cases}
        for _, (setting, others) in itertools.product(range(a.reps), cases):
            found[setting, others].append(seconds(folder, setting, others))
            print('.', end='', file=sys.stderr, flush=True)
    table = pd.Series({o: statistics.median(v) for o, v in found.items()}).unstack()
    table.columns = [f'{o} others, s a step' for o in table.columns]
    for name in table.columns[1:]: table[name.replace('s a step', 'times')] = table[name]/table[table.columns[0]]
    print(table.loc[list(SETTINGS)].round(3).to_string())


if __name__ == '__main__': main()
