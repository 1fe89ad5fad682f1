"What tests of commands share; and Ctrl-C reaches what they start, also where they run in the background"
import contextlib, io, os, runpy, signal, sys
from pathlib import Path

import pytest

BIN = Path(sys.executable).parent

# A shell has its background jobs ignore SIGINT, and what they start inherits that
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def alone_and_silent(monkeypatch):
    "One thread, as in the processes that are killed; no bars"
    import torch
    monkeypatch.setenv('REFERS_NB_PROGRESS', '0')
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope='module')
def call():
    "Exit code, output and error lines of a command, in this process, from the script that pip installed"
    patch = pytest.MonkeyPatch()
    for o in [*os.environ]:
        if o.startswith('REFERS_NB_'): patch.delenv(o)
    def command(*args, **env):
        out, err, code = io.StringIO(), io.StringIO(), 0
        to_text = contextlib.ExitStack()
        to_text.enter_context(contextlib.redirect_stdout(out))
        to_text.enter_context(contextlib.redirect_stderr(err))
        with patch.context() as p, to_text:
            p.chdir('/')
            for name, value in env.items(): p.setenv(name, value)
            p.setattr(sys, 'argv', [str(BIN/args[0]), *map(str, args[1:])])
            try: runpy.run_path(sys.argv[0], run_name='__main__')
            except SystemExit as e: code = e.code or 0
        return code, out.getvalue(), err.getvalue()
    yield command
    patch.undo()
