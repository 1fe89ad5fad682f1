"""Random kills over all commands that write: what is left and completed is, byte for byte, what an undisturbed run leaves.

    python benchmarks/kills.py 300 1              # so many kills, by a seed; an hour or two on two cores
    python benchmarks/kills.py 20 7 --work DIR    # keep the folders there; undisturbed runs found there are not made again

A command is started in a session of its own and gets SIGKILL, SIGTERM or SIGINT at a random moment, alone or with all its
processes; sometimes it is started and killed again; then it is started until it ends by itself, and its folder is compared.
Left out of the comparison are records (`run.json`, times), states of training (`state.pt`: its weights are in the
checkpoint) and TensorBoard. SIGTERM and SIGINT must end a command with one line, no traceback, and code 143 or 130. A signal
in Python's own start, before the command begins, is counted apart. Exit code 1 where anything differed.
"""
import argparse, collections, json, os, random, shutil, signal, subprocess, sys, tempfile, time
from pathlib import Path

import pandas as pd

SIGNALS = signal.SIGKILL, signal.SIGTERM, signal.SIGINT
CODES = {signal.SIGTERM: 143, signal.SIGINT: 130}
NOT_COMPARED = {'run.json', 'state.pt', 'tensorboard'}
STUDIES = 40
NEEDED = ['prep', 'refers', 'finetune'] # others start from what these leave
EARLY = 'before the command began'


def arguments():
    "What the terminal says"
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('kills', type=int, nargs='?', default=20)
    p.add_argument('seed', type=int, nargs='?', default=0)
    p.add_argument('--work', type=Path, help='folder to work in, and to keep; default: one that goes')
    p.add_argument('--only', default='', help='names of commands, comma between')
    return p.parse_args()


def commands(work):
    "Name of a run to its command; OUT stands for the folder to write"
    data, ready = work/'raw'/'list.csv', work/'whole'
    train = ['--start', 'random', '--size', 32, '--bs', 8, '--epochs', 4, '--device', 'cpu', '--precision', 'fp32']
    tune = ['--steps', 60, '--bs', 8, '--device', 'cpu', '--precision', 'fp32', '--size', 32]
    methods = {o: ['refers-pretrain', ready/'prep', 'OUT', '--method', o, *train] for o in ('refers', 'mae', 'context', 'simclr')}
    start = ready/'refers'/'checkpoint'
    image = next((work/'raw').glob('*/*.png'), work/'raw')
    return dict(
        prep=['refers-prep', 'folder', data, 'OUT', '--size', 48, '--workers', 2],
        **methods,
        finetune=['refers-finetune', ready/'prep', start, 'OUT', '--fractions', 1, '--seeds', 0, *tune],
        table=['refers-finetune', ready/'prep', start, 'OUT', '--fractions', '0.5,1', '--seeds', '0,1',
               '--against', 'random', *tune],
        jobs=['refers-finetune', ready/'prep', start, 'OUT', '--fractions', 1, '--seeds', '0,1,2', '--jobs', 2, *tune],
        evaluate=['refers-evaluate', 'predictions', ready/'finetune', '--table', ready/'prep', '--out', 'OUT'],
        report=['refers-report', start, image, '--max-len', 12, '--attention', 'OUT/looks.png'],
        demo=['refers-demo', '--out', 'OUT', '--studies', 24, '--labelled', 60, '--epochs', 1, '--steps', 2, '--seeds', 1])


def draw(work):
    "Phantoms as a download: their files are older than every run, as those of a download are"
    from refers_nb.data.prepare import prepare
    if (work/'raw'/'list.csv').exists(): return
    df = prepare('phantom', STUDIES, work/'drawn', size=48, valid=.2, test=.2, workers=1)
    shutil.copytree(work/'drawn'/'png', work/'raw'/'png', dirs_exist_ok=True)
    df = df.assign(path='png/' + df['path'])
    df.columns = [o.removeprefix('label:') for o in df.columns]
    df.to_csv(work/'raw'/'list.csv', index=False)


def start(command, out):
    "Start a command in a session of its own, by a script of its name as pip installs one"
    out.parent.mkdir(parents=True, exist_ok=True)
    name, *args = [str(o).replace('OUT', str(out)) for o in command]
    script = out.parent/name
    function = name.replace('-', '_')
    script.write_text(f'from refers_nb.cli import {function}\n{function}()\n')
    env = dict(os.environ, OMP_NUM_THREADS='1', REFERS_NB_PROGRESS='0', PYTHONWARNINGS='ignore')
    with open(out.parent/f'{out.name}.err', 'w') as err:
        return subprocess.Popen([sys.executable, script, *args], env=env, stdout=subprocess.DEVNULL, stderr=err,
                                start_new_session=True)


def errors(out): return (out.parent/f'{out.name}.err').read_text(errors='replace')


def comparable(path, drawn):
    "The bytes of a file; where its run has drawn the images, without the times at which it did"
    if drawn and path.name == 'index.parquet': return pd.read_parquet(path).drop(columns='mtime_ns').to_csv().encode()
    if drawn and path.parent.name == 'trials' and path.suffix == '.json':
        return json.dumps(json.loads(path.read_text()) | dict(fingerprint='')).encode()
    return path.read_bytes()


def content(out):
    "{path: bytes} of what is compared"
    files = [o for o in sorted(out.rglob('*')) if o.is_file() and not NOT_COMPARED & set(o.relative_to(out).parts)]
    return {str(o.relative_to(out)): comparable(o, out.name == 'demo') for o in files}


def undisturbed(name, command, out):
    "Run a command to its end; seconds until it writes, and in all"
    began = time.monotonic()
    p = start(command, out)
    quiet = None
    while p.poll() is None:
        if quiet is None and out.exists(): quiet = time.monotonic() - began
        time.sleep(.02)
    if p.returncode: sys.exit(f'{name} ended with {p.returncode} though nobody disturbed it: {errors(out)[-2000:]}')
    took = time.monotonic() - began
    return min(quiet or took, took), took


def signalled(p, number, all_of_it):
    "Send a signal; whether the process was still there, and the code with which it ended"
    if p.poll() is not None: return False, p.returncode
    if all_of_it: os.killpg(p.pid, number)
    else: p.send_signal(number)
    try: p.wait(60)
    except subprocess.TimeoutExpired:
        os.killpg(p.pid, signal.SIGKILL)
        return True, 'did not end within a minute'
    if number == signal.SIGKILL: clear(p)
    return True, p.returncode


def clear(p):
    "End the processes that a killed one has left: they would end by themselves within seconds"
    try: os.killpg(p.pid, signal.SIGKILL)
    except ProcessLookupError: pass


def fault(number, code, said):
    "What is wrong with the end of a command that was asked to end; '' for nothing"
    if number == signal.SIGKILL or code == 0: return ''        # it was about to end by itself
    began = 'in command\n' in said or 'Traceback' not in said
    if code == -number or not began: return EARLY
    if 'Traceback' in said: return 'a traceback: ' + said[-1500:]
    if code != CODES[number]: return f'code {code}: {said[-500:]}'
    return ''


class Series:
    "Kills of runs, and what came of them"
    def __init__(self, work, runs, rng):
        self.work, self.runs, self.rng = work, runs, rng
        self.times, self.whole = {}, {}
        self.sent, self.compared = collections.Counter(), collections.Counter()
        self.late, self.early, self.wrong = 0, 0, []

    def prepare(self, name):
        "The undisturbed run"
        out = self.work/'whole'/name
        if name == 'report': out.mkdir(parents=True, exist_ok=True)
        quiet, took = self.times[name] = undisturbed(name, self.runs[name], out)
        self.whole[name] = content(out)
        print(f'{name}: writes after {quiet:.1f} s, done after {took:.1f} s, {len(self.whole[name])} files', flush=True)

    def killed(self, name):
        "How often a run was killed, and a draw between equals"
        return sum(self.sent[name, o] for o in SIGNALS), self.rng.random()

    def moment(self, name):
        "When to kill: mostly while it writes"
        quiet, took = self.times[name]
        return self.rng.uniform(.9*quiet, took) if self.rng.random() < .9 else self.rng.uniform(0, took)

    def kill(self, name, out):
        "Start a run and kill it; whether it was still there"
        number, all_of_it = self.rng.choice(SIGNALS), self.rng.random() < .3
        began = time.monotonic()
        p = start(self.runs[name], out)
        try: p.wait(self.moment(name))
        except subprocess.TimeoutExpired: pass
        took = time.monotonic() - began
        was_there, code = signalled(p, number, all_of_it)
        if not was_there:
            self.late += 1
            quiet, before = self.times[name]                   # the machine is faster now, or less was left to do
            self.times[name] = min(quiet, .8*took), max(.8*before, took)
            if code: self.wrong.append(f'{name} ended by itself with {code}: {errors(out)[-1500:]}')
            return False
        self.sent[name, number] += 1
        found = fault(number, code, errors(out))
        if found == EARLY: self.early += 1
        elif found: self.wrong.append(f'{name} by {number.name}: {found}')
        return True

    def complete(self, name, out):
        "Start a run until it ends by itself, and compare"
        before = len(self.wrong)
        code = start(self.runs[name], out).wait()
        if code: self.wrong.append(f'{name}, started again, ended with {code}: {errors(out)[-1500:]}')
        now, want = content(out), self.whole[name]
        odd = [o for o in sorted(now.keys() | want.keys()) if now.get(o) != want.get(o)]
        if odd and not code: self.wrong.append(f'{name}: not as undisturbed: {odd[:10]}')
        self.compared[name] += 1
        if len(self.wrong) > before: shutil.copytree(out, self.work/'wrong'/f'{name}-{before}', dirs_exist_ok=True)
        shutil.rmtree(out)

    def told(self, kills):
        "Where the series is"
        print(f'{sum(self.sent.values())} of {kills} kills, {sum(self.compared.values())} runs completed, '
              f'{len(self.wrong)} wrong', flush=True)

    def report(self, chosen, seed):
        "Counts by command and signal"
        print(f'\n{"":10}' + ''.join(f'{o.name:>10}' for o in SIGNALS) + f'{"completed":>11}')
        for name in chosen:
            counts = ''.join(f'{self.sent[name, o]:10}' for o in SIGNALS)
            print(f'{name:10}{counts}{self.compared[name]:11}')
        print(f'{sum(self.sent.values())} kills, of which {self.early} before the command began; {self.late} more came '
              f'after the end; {len(self.wrong)} wrong; seed {seed}')
        for o in self.wrong: print('\nWRONG', o)


def main():
    "Undisturbed runs first, then kills, then what they have left"
    a = arguments()
    signal.signal(signal.SIGINT, signal.default_int_handler)   # a background job is deaf to it, and so are its children
    work = (a.work or Path(tempfile.mkdtemp(prefix='kills'))).absolute()
    work.mkdir(parents=True, exist_ok=True)
    draw(work)
    series = Series(work, commands(work), random.Random(a.seed))
    chosen = [o for o in a.only.split(',') if o] or list(series.runs)
    for name in series.runs:
        if name in NEEDED + chosen: series.prepare(name)
    while sum(series.sent.values()) < a.kills:
        name = min(chosen, key=series.killed)                  # of which there were the fewest kills
        out = work/'killed'/name
        if name == 'report': out.mkdir(parents=True, exist_ok=True)
        while series.kill(name, out) and series.rng.random() < .5 and sum(series.sent.values()) < a.kills: pass
        series.complete(name, out)
        series.told(a.kills)
    series.report(chosen, a.seed)
    if not a.work: shutil.rmtree(work)
    sys.exit(bool(series.wrong))


if __name__ == '__main__': main()
