"What a run writes down about itself, and what its next start makes of it"
import json, os, platform, subprocess, sys, threading, time
import pytest
from refers_nb.core import InputError
from refers_nb.runs import FORMAT, completed_checkpoint, diff_args, one_at_a_time, run_record


def test_run_record_tells_how_a_run_ended(tmp_path):
    rec = run_record(tmp_path, dict(seed=1, path=tmp_path), preset='tiny')
    d = json.loads((tmp_path/'run.json').read_text())
    assert d['status'] == 'running' and d['preset'] == 'tiny' and d['seed'] == 1 and 'end' not in d
    assert {'torch', 'timm', 'transformers', 'refers_nb'} <= set(d['versions'])
    rec.finish(auroc=.8)
    d = json.loads((tmp_path/'run.json').read_text())
    assert d['status'] == 'finished' and d['end'] >= d['start'] and d['auroc'] == .8
    for error,status in ((ValueError('no'), 'failed'), (KeyboardInterrupt(), 'stopped')):
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
