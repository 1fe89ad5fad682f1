"What a run writes down about itself, and what its next start makes of it"
import io, json, os, platform, signal, subprocess, sys, threading, time
import pytest
from refers_nb.core import InputError, Terminated
from refers_nb.runs import (
    FORMAT, Stop, bar_class, check_owner, completed_checkpoint, diff_args, one_at_a_time, progress, read_record,
    run_once, run_record)


def test_run_record_tells_how_a_run_ended(tmp_path):
    rec = run_record(tmp_path, dict(seed=1, path=tmp_path), preset='tiny')
    d = json.loads((tmp_path/'run.json').read_text())
    assert d['status'] == 'running' and d['preset'] == 'tiny' and d['seed'] == 1 and 'end' not in d
    assert {'torch', 'timm', 'transformers', 'refers_nb'} <= set(d['versions'])
    rec.finish(auroc=.8)
    d = json.loads((tmp_path/'run.json').read_text())
    assert d['status'] == 'finished' and d['end'] >= d['start'] and d['auroc'] == .8
    for error,status in ((ValueError('no'), 'failed'), (KeyboardInterrupt(), 'stopped'), (Terminated(), 'stopped')):
        with pytest.raises(type(error)):
            with run_record(tmp_path, {}): raise error
        assert json.loads((tmp_path/'run.json').read_text())['status'] == status


def test_run_record_names_no_machine(tmp_path):
    run_record(tmp_path, {})
    if len(platform.node()) > 3: assert platform.node() not in (tmp_path/'run.json').read_text()


def test_progress_is_silent_where_no_terminal_is():
    code = '''
from refers_nb.runs import progress
assert sum(progress(range(5), desc="adding")) == 10
'''
    def run(**env):
        "The process without our environment variables, but for `env`"
        bare = {k: v for k, v in os.environ.items() if not k.startswith('REFERS_NB_')}
        command = [sys.executable, '-c', code]
        return subprocess.run(command, capture_output=True, text=True, env=bare | env)
    quiet = run()
    assert (quiet.returncode, quiet.stderr) == (0, '')
    assert 'adding' in run(REFERS_NB_PROGRESS='1').stderr


@pytest.fixture
def finished(tmp_path):
    "The folder of a run that is done"
    run_record(tmp_path, dict(start='random', n_views=2)).finish()
    (tmp_path/'checkpoint').mkdir()
    return tmp_path


def test_a_run_that_is_done_is_found(finished):
    assert completed_checkpoint(finished, dict(start='random', n_views=2)) == finished/'checkpoint'
    with pytest.raises(InputError, match='other arguments: n_views was 2, now 3'):
        completed_checkpoint(finished, dict(start='random', n_views=3))
    assert completed_checkpoint(finished/'elsewhere', {}) is None


@pytest.mark.parametrize('found, says', [
    (None, 'an older version of refers_nb (format none, now 1)'),
    (0, 'an older version of refers_nb (format 0, now 1)'),
    (FORMAT + 1, 'a newer version of refers_nb (format 2, now 1)')])
def test_a_run_of_another_version_is_told_so_in_one_line(finished, found, says):
    "Whatever its arguments: those of an older run had other names"
    record = json.loads((finished/'run.json').read_text())
    record['args'] = dict(weights='random', k=2)
    record['format'] = found
    if found is None: del record['format']
    (finished/'run.json').write_text(json.dumps(record))
    with pytest.raises(InputError) as e:
        completed_checkpoint(finished, dict(start='random', n_views=2))
    assert f'{finished} was written by {says}: choose another folder, or delete it' == str(e.value)


def test_an_argument_that_a_run_did_not_know_counts_as_off():
    assert diff_args(dict(lr=.1), dict(lr=.1, ema=False, resume=None)) == ''
    assert diff_args(dict(lr=.1), dict(lr=.1, ema=True)) == 'ema was None, now True'


def test_one_at_a_time_keeps_threads_apart():
    inside = []
    most = []
    def task():
        with one_at_a_time():
            inside.append(1)
            time.sleep(.01)
            most.append(len(inside))
            inside.pop()
    threads = [threading.Thread(target=task) for _ in range(4)]
    for o in threads: o.start()
    for o in threads: o.join()
    assert most == [1]*4


# A record that somebody may have damaged

@pytest.mark.parametrize('content', [
    b'', b'junk', b'{"status": "finis', b'[1, 2]', b'null', b'"finished"', b'{"args": [1]}', b'{"args": "lr"}',
    b'\xff\xfe{}', b'['*100_000, b'{"args": {}, "format": 1}garbage'])
def test_a_damaged_record_is_told_in_one_line(finished, content):
    (finished/'run.json').write_bytes(content)
    for call in (lambda: read_record(finished), lambda: completed_checkpoint(finished, {}),
                 lambda: check_owner(finished, {}, 'pretrain')):
        with pytest.raises(InputError, match='run.json is damaged') as e: call()
        assert '\n' not in str(e.value) and len(str(e.value)) < 500


def test_a_record_that_is_no_file_is_not_opened(finished):
    (finished/'run.json').unlink()
    with pytest.raises(InputError, match='but no run.json'): completed_checkpoint(finished, {})
    (finished/'run.json').mkdir()
    with pytest.raises(InputError, match='is damaged'): completed_checkpoint(finished, {})
    (finished/'run.json').rmdir()
    os.mkfifo(finished/'run.json')                          # reading it would wait for ever
    with pytest.raises(InputError, match='is damaged'): completed_checkpoint(finished, {})


@pytest.mark.parametrize('name', ['checkpoint', 'model', 'state.pt', 'predictions.parquet', 'results.csv', 'report.md',
                                  'studies.parquet', 'trials'])
def test_whatever_is_worth_keeping_has_an_owner(tmp_path, name):
    run_record(tmp_path, dict(lr=.1), kind='finetune').finish('failed')
    check_owner(tmp_path, dict(lr=.2), 'finetune')          # it failed at once: nothing is lost
    (tmp_path/name).touch()
    check_owner(tmp_path, dict(lr=.1), 'finetune')
    with pytest.raises(InputError, match='other arguments: lr was 0.1, now 0.2'):
        check_owner(tmp_path, dict(lr=.2), 'finetune')
    with pytest.raises(InputError, match=r'another kind \(finetune, now demo\)'): check_owner(tmp_path, {}, 'demo')


@pytest.mark.parametrize('was, now, says', [
    (dict(seeds=[0]), dict(seeds=(0, 1)), ''),
    (dict(seeds=[0, 1]), dict(seeds=(1, 2)), 'seeds was [0, 1], now [1, 2]'),
    (dict(data=dict(a='1')), dict(data=dict(a='1', b='2')), ''),
    (dict(data=dict(a='1')), dict(data=dict(a='3', b='2')), 'data was'),
    (dict(lr=.1, balance=True), dict(lr=.1), 'balance was True, now None'),
    (dict(lr=.1, jobs=2), dict(lr=.1, jobs=4), ''),
    (dict(lr=.1, tta=False), dict(lr=.1), ''),
    ({c: 1 for c in 'abcdefghij'}, {c: 2 for c in 'abcdefghij'}, 'and 4 more')])
def test_what_makes_another_run(tmp_path, was, now, says):
    run_record(tmp_path, was)
    (tmp_path/'results.csv').touch()
    def check(): check_owner(tmp_path, now, 'comparison', grows=('seeds', 'data'), ignore=('jobs',))
    if not says: return check()
    with pytest.raises(InputError) as e: check()
    assert says in str(e.value) and 'Choose another folder' in str(e.value)


def test_a_run_is_done_once(tmp_path):
    done = []
    def train():
        done.append(1)
        return 'made'
    assert run_once(tmp_path, lambda: None, train) == 'made'
    assert run_once(tmp_path, lambda: 'found', train) == 'found' and done == [1]
    found = [None, 'found by another process meanwhile']
    assert run_once(tmp_path, lambda: found.pop(0), train).startswith('found') and done == [1]


# Signals

@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_a_signal_waits_for_the_step_and_a_second_one_does_not(number):
    def end(*args): raise Terminated
    other = signal.SIGTERM if number == signal.SIGINT else signal.SIGINT
    before = {o: signal.signal(o, end) for o in (number, other)}
    try:
        with pytest.raises(Terminated), Stop() as stop:
            stop.holding = True
            signal.raise_signal(number)
            assert stop.signal == number
            stop.obey()
        with pytest.raises(Terminated), Stop() as stop:
            stop.holding = True
            signal.raise_signal(number)
            signal.raise_signal(number)                                         # sent twice: to the group, and by torchrun
            assert stop.holding and stop.signal == number
            stop.since -= 2
            with pytest.raises(Terminated): signal.raise_signal(number)
            assert not stop.holding
            raise Terminated
        with pytest.raises(Terminated), Stop() as stop:
            stop.holding = True
            signal.raise_signal(number)
            signal.raise_signal(other)
            pytest.fail('another signal waited')
        with pytest.raises(Terminated), Stop(): signal.raise_signal(number)     # nothing to wait for
        with pytest.raises(Terminated), Stop() as stop:                         # what the signal has broken
            stop.holding = True
            signal.raise_signal(number)
            raise RuntimeError('a loader has lost its workers')
        assert signal.getsignal(number) is end
    finally:
        for o, handler in before.items(): signal.signal(o, handler)


def test_an_ignored_signal_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Stop() as stop:
            signal.raise_signal(signal.SIGINT)
            assert stop.signal is None and signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally: signal.signal(signal.SIGINT, before)


# Where long work is

def test_a_log_file_gets_a_line_for_each_long_step(monkeypatch):
    monkeypatch.delenv('REFERS_NB_PROGRESS', raising=False)
    log = io.StringIO()
    monkeypatch.setattr(sys, 'stderr', log)
    with progress(total=4, desc='fine-tuning', initial=1, each=True) as bar:
        for _ in range(3): bar.update()
    lines = log.getvalue().splitlines()
    assert [o.split(' done')[0] for o in lines] == [f'fine-tuning: {i} of 4' for i in (2, 3, 4)]
    assert all('left' in o and '\r' not in o for o in lines)
    assert sum(progress(range(1000))) == 499500 and log.getvalue().splitlines() == lines, 'short steps: a line a minute'
    monkeypatch.setenv('REFERS_NB_PROGRESS', '0')
    for _ in progress(range(3), each=True): pass
    assert log.getvalue().splitlines() == lines


@pytest.mark.parametrize('stream', [None, io.StringIO()])
def test_nobody_listening_ends_no_work(monkeypatch, stream):
    monkeypatch.delenv('REFERS_NB_PROGRESS', raising=False)
    if stream is not None: stream.close()
    monkeypatch.setattr(sys, 'stderr', stream)
    assert sum(progress(range(5), each=True)) == 10
    assert bar_class().__name__ == 'Lines'
