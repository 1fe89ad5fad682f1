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
    with tempfile.TemporaryFile('w+') as out, tempfile.TemporaryFile('w+') as err:
        pid = os.fork()
        if not pid: child(program, args, out, err)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        for f in (out, err): f.seek(0)
        return subprocess.CompletedProcess([program, *args], code, out.read(), err.read())


def child(program, args, out, err):
    "What the fork does: the program as a main module, then its end"
    code = 1
    try:
        for f, number, name in ((out, 1, 'stdout'), (err, 2, 'stderr')):
            os.dup2(f.fileno(), number)
            setattr(sys, name, f)
        os.environ['TOKENIZERS_PARALLELISM'] = 'false'   # else a fork is warned on stderr
        sys.argv = ['-c', *map(str, args)]
        exec(program, dict(__name__='__main__'))
        code = 0
    except SystemExit as e: code = e.code if isinstance(e.code, int) else e.code is not None
    except BaseException: traceback.print_exc()
    finally:
        out.flush()
        err.flush()
        os._exit(code)
