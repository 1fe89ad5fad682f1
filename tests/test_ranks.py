"Several processes train what one would: steps, validation, resuming with another number of them, and their ends"
import contextlib, functools, json, os, signal, subprocess, sys, time
from pathlib import Path
import pytest
import torch
from kills import run_ranks_in_forks
from safetensors.torch import load_file

from refers_nb.core import InputError
from refers_nb.data.prepare import prepare
from refers_nb.data.studies import read_studies
from refers_nb.locks import own_folder
from refers_nb.training import baselines as baselines_module, pretrain as pretrain_module

HERE = Path(__file__).parent
SCRIPT = Path(sys.executable).parent
RUN = ['--preset', 'nano', '--start', 'random', '--size', 32, '--bs', 8, '--n-views', 2, '--vocab', 300, '--precision', 'fp32',
       '--device', 'cpu', '--least-patients', 0]
ENV = dict(os.environ, OMP_NUM_THREADS='1', REFERS_NB_PROGRESS='0')


@pytest.fixture(scope='module')
def table(tmp_path_factory):
    folder = tmp_path_factory.mktemp('phantoms')/'prep'
    prepare('phantom', 60, folder, size=32, seed=3, valid=.2, test=0)
    return folder


@pytest.fixture(scope='module')
def found(table):
    "What so many processes leave"
    out = table.parent/'ranked'
    out.mkdir()
    @functools.cache
    def run(n):
        program = compile((HERE/'ranked.py').read_text(), 'ranked.py', 'exec')
        for o in run_ranks_in_forks(n, program, table, out): assert o.returncode == 0, o.stderr
        return torch.load(out/f'{n}.pt', weights_only=True)
    return run


RANKS = pytest.mark.parametrize('n', [2, pytest.param(4, marks=pytest.mark.slow)])

@RANKS
@pytest.mark.parametrize('run', ['both', 'parts', 'classifier'])
def test_ranks_are_one_process(found, n, run):
    "20 steps of SGD: losses, weights and temperature differ by rounding"
    one, several = found(1)[run], found(n)[run]
    assert len(one['losses']) >= 20
    for part in ('losses', 'weights', 'loss'):
        torch.testing.assert_close(several[part], one[part], atol=1e-5, rtol=0)
    torch.testing.assert_close(several['valid'], one['valid'], atol=1e-5, rtol=0)


@RANKS
def test_ranks_are_one_process_with_adamw(found, n):
    "AdamW divides by the size of the gradient: rounding of a tiny one becomes a share of the learning rate, 5e-4"
    one, several = found(1)['adamw'], found(n)['adamw']
    torch.testing.assert_close(several['losses'], one['losses'], atol=1e-5, rtol=0)
    torch.testing.assert_close(several['weights'], one['weights'], atol=5e-5, rtol=0)


@RANKS
def test_validation_is_that_of_one_process_to_the_last_digit(found, n):
    assert found(n)['still']['valid'] == found(1)['still']['valid']
    assert len(found(1)['still']['valid']) == 4                        # loss, its two parts, recall


def test_the_runs_learn_something(found):
    "The tests above can fail"
    both, parts = (found(1)[o] for o in ('both', 'parts'))
    assert both['losses'][-1] < both['losses'][0] - .1
    assert both['loss']['log_tau'] != parts['loss']['log_tau']
    assert not torch.equal(both['losses'][:5], parts['losses'][:5])


# Commands

def start(*args, out=subprocess.PIPE):
    "A command of the library in a process group of its own"
    name, *rest = map(str, args)
    return subprocess.Popen([sys.executable, SCRIPT/name, *rest], stdout=out, stderr=subprocess.PIPE, text=True, env=ENV,
                            start_new_session=True)


def ended(process, timeout=120):
    "Exit code, and what it said on stderr"
    try: _, said = process.communicate(timeout=timeout)
    finally:
        if process.poll() is None: os.killpg(process.pid, signal.SIGKILL)
    return process.returncode, said


def wait_for(path, process):
    "Until a run has left a file"
    while not path.exists():
        assert process.poll() is None, process.stderr.read()
        time.sleep(.05)


def children(process):
    "The ranks of a command: process numbers by rank"
    res = {}
    for status in Path('/proc').glob('[0-9]*/environ'):
        try:
            env = dict(o.partition('=')[::2] for o in status.read_text().split('\0'))
            parent = (status.parent/'stat').read_text().rpartition(')')[2].split()[1]
        except OSError: continue
        if 'RANK' in env and int(parent) == process.pid: res[int(env['RANK'])] = int(status.parent.name)
    return res


def pretrain(table, out, *more): return start('refers-pretrain', table, out, *RUN, *more)


SCRIPT_OF_FORK = "import runpy, sys; del sys.argv[0]; runpy.run_path(sys.argv[0], run_name='__main__')"


def in_two_forks(name, *args):
    "The larger exit code of a command in two ranks, and what they said"
    both = run_ranks_in_forks(2, SCRIPT_OF_FORK, SCRIPT/name, *args)
    return max(o.returncode for o in both), ''.join(o.stderr for o in both)


@pytest.mark.slow
def test_stopped_on_four_goes_on_with_two_and_then_with_one(table, tmp_path, call):
    "A signal to the command reaches all ranks, which save; another number of them goes on at the same batch"
    out, more = tmp_path/'run', ['--epochs', 10]
    for n, number, code in ((4, signal.SIGTERM, 143), (2, signal.SIGUSR1, 138)):
        before = (out/'state.pt').stat().st_mtime_ns if (out/'state.pt').exists() else 0
        run = pretrain(table, out, *more, '--gpus', n)
        wait_for(out/'state.pt', run)
        while (out/'state.pt').stat().st_mtime_ns == before: time.sleep(.05)
        os.kill(run.pid, number)
        assert ended(run) == (code, 'refers-pretrain: stopped\n')
        state = torch.load(out/'state.pt', weights_only=True)
        assert 0 < state['train_iter'] < 60
    assert call('refers-pretrain', table, out, *RUN, *more)[0] == 0
    history = (out/'history.csv').read_text().splitlines()
    assert len(history) == 11 and load_file(out/'checkpoint'/'model.safetensors')


@pytest.mark.skipif(not Path('/proc').exists(), reason='finds the ranks in /proc')
def test_a_killed_rank_ends_all_with_one_line_and_the_run_goes_on(table, tmp_path):
    out = tmp_path/'run'
    run = pretrain(table, out, '--epochs', 40, '--gpus', 2)
    wait_for(out/'state.pt', run)
    os.kill(children(run)[1], signal.SIGKILL)
    began = time.monotonic()
    code, said = ended(run)
    assert code == 137 and time.monotonic() - began < 30
    assert said.startswith('refers-pretrain: rank 1 was killed (SIGKILL)') and said.count('\n') == 1
    assert torch.load(out/'state.pt', weights_only=True)['train_iter'] > 0


@pytest.mark.slow
@pytest.mark.skipif(not Path('/proc').exists(), reason='finds the ranks in /proc')
def test_torchrun_starts_them_again(table, tmp_path):
    "`--max-restarts`: a rank is killed, the run ends well"
    out = tmp_path/'run'
    command = ['--standalone', '--nproc-per-node', 2, '--max-restarts', 1, '--no-python', '--', SCRIPT/'refers-pretrain']
    run = start('torchrun', *command, table, out, *RUN, '--epochs', 8)
    wait_for(out/'state.pt', run)
    os.kill(children(run)[1], signal.SIGKILL)
    code, said = ended(run)
    assert code == 0, said
    assert (out/'checkpoint').exists() and len((out/'history.csv').read_text().splitlines()) == 9


def said_once(result, line):
    "The command was refused by one of its ranks, in one line"
    code, said = result
    return code == 1 and line in said and said.count('\n') == 1


def test_what_cannot_be_is_said_once(table, tmp_path):
    own = table, tmp_path/'run', *RUN, '--epochs', 1
    assert said_once(ended(start('refers-pretrain', *own, '--gpus', 2, '--bs', 9)), 'bs 9 cannot be shared equally by 2 processes')
    assert said_once(in_two_forks('refers-pretrain', *own, '--epochs', 0), 'epochs')


def test_what_one_process_does_is_refused_by_several(table, tmp_path, monkeypatch):
    for module in (pretrain_module, baselines_module): monkeypatch.setattr(module, 'n_ranks', lambda: 2)
    with pytest.raises(InputError, match='mae is trained by one process'):
        baselines_module.baseline('mae', table, tmp_path/'run', preset='nano', start='random', size=32)
    with pytest.raises(InputError, match='a dry run needs one process'):
        pretrain_module.pretrain(table, tmp_path/'run', preset='nano', start='random', size=32, dry_run=True)
    assert not (tmp_path/'run').exists()


def test_a_folder_belongs_to_one_run(table, tmp_path):
    "The first rank is refused, and the others end with it"
    with own_folder(tmp_path/'run'):
        res = in_two_forks('refers-pretrain', table, tmp_path/'run', *RUN, '--epochs', 1)
    assert said_once(res, 'another process is writing to this folder')


@pytest.mark.slow
def test_one_classifier_on_two_ranks(table, tmp_path):
    "It is written once; several classifiers are refused"
    common = ['--steps', 4, '--bs', 8, '--size', 32, '--device', 'cpu', '--precision', 'fp32', '--fractions', 1]
    code, said = ended(start('refers-finetune', table, 'random', tmp_path/'one', *common, '--gpus', 2, '--seeds', 0))
    assert code == 0, said
    record = json.loads((tmp_path/'one'/'run.json').read_text())
    assert (record['status'], record['ranks'], record['hosts']) == ('finished', 2, 1)
    res = in_two_forks('refers-finetune', table, 'random', tmp_path/'two', *common, '--seeds', '0,1')
    assert said_once(res, 'each on a GPU of its own')


SRUN = '''#!/bin/bash
# two processes that are told who they are, and the largest of their codes, as Slurm does it; the others are
# asked to end as soon as one has ended badly
while [[ $1 == -* ]]; do flags+=" $1"; shift; done
for i in 0 1; do SLURM_PROCID=$i SLURM_LOCALID=$i SLURM_NTASKS=2 "$@" & ranks+=($!); done
code=0
for _ in "${ranks[@]}"; do
    wait -n; found=$?
    if ((found > code)); then code=$found; fi
    if ((found)) && [[ $flags == *--kill-on-bad-exit=1* ]]; then kill -TERM "${ranks[@]}" 2> /dev/null; fi
done
exit $code
'''
SCONTROL = '''#!/bin/bash
if [ "$1" = show ]; then echo localhost; else echo "$@" >> requeued; fi
'''


@pytest.fixture
def slurm(tmp_path):
    "The script of the page, in a folder with stand-ins for what it calls"
    page = json.loads((HERE.parent/'nbs'/'explain'/'from_a_laptop_to_a_cluster.ipynb').read_text())
    text = '\n'.join(''.join(o['source']) for o in page['cells'])
    script = next(o for o in text.split('```') if '#SBATCH' in o).removeprefix('bash\n')
    flags = '--preset paper --workers 2'
    assert flags in script
    (tmp_path/'job.sh').write_text(script.replace(flags, ' '.join(map(str, RUN)) + ' --epochs 8'))
    for name, words in (('srun', SRUN), ('scontrol', SCONTROL)):
        (tmp_path/'bin'/name).parent.mkdir(exist_ok=True)
        (tmp_path/'bin'/name).write_text(words)
        (tmp_path/'bin'/name).chmod(0o755)
    return tmp_path


def job(folder):
    "The script, as Slurm starts it"
    told = dict(SLURM_JOB_NODELIST='localhost', SLURM_JOB_ID=str(os.getpid()), SLURM_CPUS_PER_TASK='1')
    path = f'{folder/"bin"}:{SCRIPT}:{os.environ["PATH"]}'
    return subprocess.Popen(['bash', 'job.sh'], cwd=folder, env=ENV | told | dict(PATH=path), stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True, start_new_session=True)


@pytest.mark.slow
@pytest.mark.skipif(not Path('/proc').exists(), reason='finds the ranks in /proc')
def test_the_slurm_script_of_the_page(table, slurm):
    "Before its time is up it saves its state and has itself queued again; then it goes on"
    (slurm/'mimic').mkdir()
    (slurm/'mimic'/'prepared').symlink_to(table)
    out = slurm/'runs'/'mimic'
    run = job(slurm)
    wait_for(out/'state.pt', run)
    ranks = subprocess.run(['pgrep', '-g', str(run.pid), '-f', 'bin/refers-pretrain'], capture_output=True, text=True)
    assert len(ranks.stdout.split()) == 2
    for pid in ranks.stdout.split(): os.kill(int(pid), signal.SIGUSR1)
    code, said = ended(run)
    assert code == 138 and said.count('refers-pretrain: stopped') == 1, said
    assert (slurm/'requeued').read_text().split()[0] == 'requeue'
    assert 0 < torch.load(out/'state.pt', weights_only=True)['train_iter'] < 48
    assert ended(job(slurm)) == (0, '')
    assert json.loads((out/'run.json').read_text())['ranks'] == 2


def test_ranks_meet_for_the_device_of_the_settings(call, table, tmp_path, monkeypatch):
    "Without --device it is theirs; one GPU cannot be shared"
    seen = []
    def meet(device):
        seen.append(device)
        return contextlib.nullcontext()
    monkeypatch.setattr('refers_nb.ranks.ranks', meet)
    monkeypatch.setenv('REFERS_NB_RUN_DEVICE', 'cpu')
    for more in ([], ['--device', 'auto']):
        call('refers-pretrain', table, tmp_path/'o', '--method', 'nothing', *more)
    assert seen == ['cpu', 'auto']
    monkeypatch.undo()
    code, said = ended(start('refers-pretrain', table, tmp_path/'o', '--device', 'cuda:1', '--gpus', 2))
    assert code == 1 and said.count('take --device cuda') == 1, said


def test_images_that_cannot_be_shared_are_told_with_a_batch_that_can(table, tmp_path):
    "The number of images follows from --bs; who gave that should not be told of another"
    res = in_two_forks('refers-pretrain', table, tmp_path/'o', *RUN, '--method', 'labels', '--epochs', 1, '--bs', 9)
    n, _ = baselines_module.images_of(read_studies(table), 2, 9)
    assert n % 2, 'another seed of the phantoms is needed'
    assert said_once(res, f'a batch of 9 studies stands for {n} images')


ENDS = '''
import atexit, os, signal
from refers_nb.core import cli_errors, Terminated
@cli_errors
def refers_pretrain(): raise Terminated(signal.SIGUSR1)
atexit.register(os.kill, os.getpid(), signal.SIGTERM)           # as Slurm, where another rank has ended first
refers_pretrain()
'''

@pytest.mark.parametrize('told, code', [({}, -signal.SIGTERM), (dict(RANK='1'), 128 + signal.SIGUSR1)])
def test_a_rank_that_ends_by_a_signal_keeps_its_code(told, code):
    env = {k: v for k, v in ENV.items() if k != 'RANK'} | told
    assert subprocess.run([sys.executable, '-c', ENDS], env=env, stderr=subprocess.DEVNULL).returncode == code
