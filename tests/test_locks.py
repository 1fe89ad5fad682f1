"A folder that one process at a time writes to: whoever dies lets go, and nothing of others is touched"
import os, signal, subprocess, sys, threading
import pytest
from refers_nb.core import InputError
from refers_nb.locks import clear_left_overs, file_lock, own_folder

pytest.importorskip('fcntl')

HOLD = '''
import sys, time
from refers_nb.locks import own_folder
with own_folder(sys.argv[1], shared=sys.argv[2] == 'shared'):
    print('writing', flush=True)
    time.sleep(60)
'''


@pytest.fixture
def holder():
    "Starts processes that hold a folder, and ends those that are left"
    started = []
    def hold(out, how='alone'):
        p = subprocess.Popen([sys.executable, '-c', HOLD, str(out), how], stdout=subprocess.PIPE, text=True)
        started.append(p)
        assert p.stdout.readline() == 'writing\n'
        return p
    yield hold
    for p in started:
        p.kill()
        p.wait()
        p.stdout.close()


def taken(out, shared=False):
    "Whether somebody else has a folder"
    try:
        with own_folder(out, shared): return False
    except InputError as e:
        assert 'another process is writing' in str(e) and '\n' not in str(e)
        return True


@pytest.mark.parametrize('how', [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_second_process_is_refused_until_the_first_has_ended(tmp_path, holder, how):
    out = tmp_path/'run'
    p = holder(out)
    assert taken(out) and taken(out, shared=True)
    p.send_signal(how)
    p.wait()
    assert not taken(out)


def test_shards_share_and_nobody_takes_the_whole(tmp_path, holder):
    first, second = holder(tmp_path, 'shared'), holder(tmp_path, 'shared')
    assert taken(tmp_path) and not taken(tmp_path, shared=True)
    first.kill()
    first.wait()
    assert taken(tmp_path)
    second.kill()
    second.wait()
    assert not taken(tmp_path)


def test_the_file_of_a_lock_that_was_left_means_nothing(tmp_path):
    for content in ('', '4711', 'x'*5000):
        (tmp_path/'.lock').write_text(content)
        assert not taken(tmp_path) and not (tmp_path/'.lock').exists()


def test_a_forked_child_does_not_hold_what_its_parent_has(tmp_path):
    with own_folder(tmp_path):
        r, w = os.pipe()
        pid = os.fork()
        if not pid:
            os.close(w)
            os.read(r, 1)                       # lives until the test lets it go
            os._exit(0)
        os.close(r)
    assert not taken(tmp_path)
    os.close(w)
    os.waitpid(pid, 0)


def test_another_thread_is_another_writer_and_the_same_one_is_not(tmp_path):
    found = []
    with own_folder(tmp_path), own_folder(tmp_path/'..'/tmp_path.name):
        thread = threading.Thread(target=lambda: found.append(taken(tmp_path)))
        thread.start()
        thread.join()
    assert found == [True] and not taken(tmp_path)


def test_an_owner_that_fails_lets_go_and_leaves_no_empty_folder(tmp_path):
    out = tmp_path/'a'/'b'
    for error in (KeyboardInterrupt, OSError, InputError):
        with pytest.raises(error):
            with own_folder(out): raise error
        assert not out.exists() and not taken(out)
    with own_folder(out): (out/'x').touch()
    assert [o.name for o in out.iterdir()] == ['x']


def test_only_what_we_were_writing_is_cleared_and_only_by_the_owner(tmp_path, holder):
    ours = ['.tmp-0123456789ab-state.pt', '.tmp-ffffffffffff-history.csv']
    others = ['.tmp-state.pt', '.tmp-0123456789AB-state.pt', '.tmp-0123-a.csv', 'tmp-0123456789ab-a', '.tmp-0123456789ab-']
    for o in (*ours, *others): (tmp_path/o).touch()
    clear_left_overs(tmp_path, 'state.pt')
    assert not (tmp_path/ours[0]).exists() and (tmp_path/ours[1]).exists()
    with own_folder(tmp_path, shared=True): assert (tmp_path/ours[1]).exists()
    p = holder(tmp_path/'x')
    (tmp_path/'x'/ours[0]).touch()
    assert taken(tmp_path/'x') and (tmp_path/'x'/ours[0]).exists()
    p.kill()
    p.wait()
    assert not taken(tmp_path/'x') and not (tmp_path/'x'/ours[0]).exists()
    with own_folder(tmp_path): pass
    assert sorted(o.name for o in tmp_path.iterdir() if o.is_file()) == sorted(others)


@pytest.mark.parametrize('name', [b'caf\xe9', b'\xff\xfe', b'a\x80b'])
def test_a_path_that_is_not_utf_8_is_refused_before_anything_is_made(tmp_path, name):
    out = tmp_path/os.fsdecode(name)
    with pytest.raises(InputError, match='not UTF-8'):
        with own_folder(out): pass
    assert not list(tmp_path.iterdir())


def test_a_system_without_locks_goes_on_with_a_warning(tmp_path, monkeypatch):
    import fcntl
    def none(*args): raise OSError(38, 'Function not implemented')
    monkeypatch.setattr(fcntl, 'flock', none)
    with pytest.warns(UserWarning, match='no file locks here'):
        with own_folder(tmp_path): pass


def test_a_lock_whose_file_was_removed_meanwhile_is_taken_anew(tmp_path):
    with file_lock(tmp_path/'lock', 'taken'):
        (tmp_path/'lock').unlink()              # as `ImageStore.build` does with its folder
        with file_lock(tmp_path/'lock', 'taken'): assert (tmp_path/'lock').exists()
    assert not (tmp_path/'lock').exists()
