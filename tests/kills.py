"A function killed at its k-th change of files: by an exception, or by a signal in a process of its own"
import contextlib, os, signal
from unittest import mock

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
