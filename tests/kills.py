"A function killed at its k-th change of files, by an exception or by a signal in a process of its own; forks that run a program"
import contextlib, os, signal, subprocess, sys, tempfile, traceback
from unittest import mock
import pandas as pd

CHANGES = ('replace', 'fsync', 'truncate', 'unlink', 'rmdir') # functions of `os` that change files or make sure of it


class Killed(BaseException):
    "What a killed function raises"


@contextlib.contextmanager
def dying(k, die):
    "Count the changes of files; the k-th and all that follow call `die` instead"
    left = [k]
    def counted(change):
        def run(*args, **kw):
            if left[0] == 0: die()
            left[0] -= 1
            return change(*args, **kw)
        return run
    with contextlib.ExitStack() as stack:
        for o in CHANGES: stack.enter_context(mock.patch.object(os, o, counted(getattr(os, o))))
        yield


@contextlib.contextmanager
def killed_after(n, owner, name, last=lambda *args: None):
    "What runs inside is ended by `Killed` after the n-th call of a method or function, and after `last`; it must come so far"
    call, count = getattr(owner, name), 0
    def dying(*args):
        nonlocal count
        call(*args)
        count += 1
        if count < n: return
        last(*args)
        raise Killed
    with mock.patch.object(owner, name, dying):
        try: yield
        except Killed: return
    raise AssertionError(f'{name} was called {count} times, not {n}')


def history(run):
    "The table of a run, without the rates, which are other ones each time"
    table = pd.read_csv(run/'history.csv', dtype=str)
    return table.drop(columns=['images/s', 'matrix share']).to_csv()


def by_exception(k, f):
    "Run `f` until its k-th change of files, after which it changes nothing; whether it came so far"
    def die(): raise Killed
    try:
        with dying(k, die): f()
    except Killed: return True
    return False


def changes_of(f):
    "The names of the changes of files that a function makes, in their order"
    names = []
    def noted(name, change):
        def run(*args, **kw):
            names.append(name)
            return change(*args, **kw)
        return run
    with contextlib.ExitStack() as stack:
        for o in CHANGES: stack.enter_context(mock.patch.object(os, o, noted(o, getattr(os, o))))
        f()
    return names


def by_signal(k, f):
    "The same in a child that kills itself; what it had not written yet is lost, too"
    pid = os.fork()
    if pid:
        status = os.waitpid(pid, 0)[1]
        assert status == 0 or os.WIFSIGNALED(status), f'the child failed: {status}'
        return os.WIFSIGNALED(status)
    try:
        with dying(k, lambda: os.kill(os.getpid(), signal.SIGKILL)): f()
        os._exit(0)
    except BaseException: os._exit(1)


def run_fork(program, *args):
    "Run the text of a program in a fork of this process, whose imports are paid already; as `subprocess.run` tells it"
    return Fork(program, args).ended()


def run_ranks_in_forks(n, program, *args):
    "The same as `n` ranks that meet at this process, as at the agent of `torchrun`; one result each"
    from torch.distributed import TCPStore
    place = TCPStore('localhost', 0, is_master=True, wait_for_workers=False)
    told = dict(WORLD_SIZE=n, MASTER_ADDR='localhost', MASTER_PORT=place.port,
                TORCHELASTIC_USE_AGENT_STORE=True, TORCHELASTIC_RESTART_COUNT=0)
    forks = [Fork(program, args, dict(told, RANK=i, LOCAL_RANK=i)) for i in range(n)]
    return [o.ended() for o in forks]


class Fork:
    "A fork of this process that runs the text of a program as a main module, and ends"
    def __init__(self, program, args, env={}):
        self.args = [program, *args]
        self.out, self.err = tempfile.TemporaryFile('w+'), tempfile.TemporaryFile('w+')
        self.pid = os.fork()
        if not self.pid: child(program, args, env, self.out, self.err)

    def ended(self):
        "Wait for its end; what came of it"
        code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        said = []
        for f in (self.out, self.err):
            f.seek(0)
            said.append(f.read())
            f.close()
        return subprocess.CompletedProcess(self.args, code, *said)


def child(program, args, env, out, err):
    "What the fork does"
    code = 1
    try:
        for f, number, name in ((out, 1, 'stdout'), (err, 2, 'stderr')):
            os.dup2(f.fileno(), number)
            setattr(sys, name, f)
        os.environ['TOKENIZERS_PARALLELISM'] = 'false'   # else a fork is warned on stderr
        os.environ.update({k: str(v) for k, v in env.items()})
        if 'torch' in sys.modules: sys.modules['torch'].set_num_threads(1)   # the others have not been forked
        sys.argv = ['-c', *map(str, args)]
        exec(program, dict(__name__='__main__'))
        code = 0
    except SystemExit as e: code = e.code if isinstance(e.code, int) else e.code is not None
    except BaseException: traceback.print_exc()
    finally:
        out.flush()
        err.flush()
        os._exit(code)
