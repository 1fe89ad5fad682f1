"Files under failure and kill, commands as processes, precision"
import os, signal, stat, subprocess, sys, time
import pytest
from refers_nb import core
from refers_nb.core import SCREEN, InputError, atomic, get_device, get_dtype, one_line, shortened


def test_atomic_failure_keeps_the_old_file(tmp_path):
    f = tmp_path/'x.txt'
    f.write_text('old')
    with pytest.raises(KeyboardInterrupt):
        with atomic(f) as p:
            p.write_text('half')
            raise KeyboardInterrupt
    assert f.read_text() == 'old' and [o.name for o in tmp_path.iterdir()] == ['x.txt']


def test_atomic_nothing_written_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        with atomic(tmp_path/'x.txt'): pass
    assert not list(tmp_path.iterdir())


def test_atomic_makes_folders_and_keeps_usual_permissions(tmp_path):
    with atomic(tmp_path/'a'/'b'/'x.npy') as p:
        assert p.suffix == '.npy' and p.parent == tmp_path/'a'/'b'
        p.write_bytes(b'1')
    plain = tmp_path/'plain'
    plain.write_bytes(b'1')
    written = tmp_path/'a'/'b'/'x.npy'
    assert stat.S_IMODE(written.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)


FOREVER = '''
import sys
from pathlib import Path
from refers_nb.core import atomic
target = Path(sys.argv[1])
n = 0
while True:
    n += 1
    with atomic(target) as p:
        with p.open('w') as o:
            for _ in range(200): o.write(f'{n:08d}' * 100)
    if n == 1:
        sys.stdout.write('ready\\n')
        sys.stdout.flush()
'''


def kill_while_writing(target, delay):
    "Start a process that writes `target` again and again; kill it some time after the first"
    process = subprocess.Popen([sys.executable, '-c', FOREVER, str(target)], stdout=subprocess.PIPE)
    process.stdout.readline()
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    process.wait()
    text = target.read_text()
    assert len(text) == 200*800 and text == text[:8]*20000


def test_atomic_under_kill(tmp_path):
    "Killed while it writes, the file holds the old content or the new, never a part"
    for delay in (.013, .031): kill_while_writing(tmp_path/'x.txt', delay)


@pytest.mark.slow
def test_atomic_under_kill_at_any_moment(tmp_path):
    "The same at eight moments"
    for i in range(8): kill_while_writing(tmp_path/'x.txt', .01 + .007*i)


def run_command(raises, debug=''):
    "A console script that raises, in a process of its own"
    code = f'from refers_nb.core import *\n@cli_errors\ndef command(): raise {raises}\ncommand()'
    env = dict(os.environ, REFERS_NB_DEBUG=debug)
    return subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, env=env)


@pytest.mark.parametrize('raises, code, says', [
    ("InputError('a table\\nwithout rows')", 1, 'command: a table without rows\n'),
    ("FileNotFoundError(2, 'No such file or directory', 'x.csv')", 1,
     'command: No such file or directory: x.csv\n'),
    ("KeyboardInterrupt()", 130, 'command: stopped\n')])
def test_commands_end_in_one_line(raises, code, says):
    r = run_command(raises)
    assert (r.returncode, r.stdout, r.stderr) == (code, '', says)


@pytest.mark.parametrize('raises, says', [
    ("OSError(28, 'No space left on device')", 'No space left on device; free some space'),
    ("OSError(122, 'Disk quota exceeded', 'x/state.pt')", 'Disk quota exceeded: x/state.pt; free some space'),
    ("OSError(30, 'Read-only file system', b'x')", 'Read-only file system'),
    ("OSError('5000 requested and 0 written')", 'No space left'),
    ("MemoryError()", 'out of memory'),
    ("__import__('concurrent.futures.process').futures.process.BrokenProcessPool('gone')", 'a worker process was killed'),
    ("RuntimeError('DataLoader worker (pid 3) is killed by signal: Killed.')", 'DataLoader worker (pid 3) is killed'),
    ("Exception('No space left on device (os error 28)')", 'No space left on device'),
    ("__import__('shutil').Error([('a', 'b', 'c')])", 'REFERS_NB_DEBUG=1 shows where'),
    ("'\\udcff'.encode()", 'give a plain name')])
def test_what_is_no_bug_is_one_line(raises, says):
    r = run_command(raises)
    assert r.returncode == 1 and says in r.stderr and len(r.stderr.splitlines()) == 1, r.stderr


def full_disk(how):
    "Writing to a full disk with each library; what `writing` makes of it"
    if how == 'torch':
        import torch
        torch.save(torch.zeros(10**5), '/dev/full')
    if how == 'numpy':
        import numpy as np
        np.zeros(10**5).tofile('/dev/full')
    if how == 'pandas':
        import pandas as pd
        pd.DataFrame(dict(a=range(10**5))).to_csv('/dev/full')
    if how == 'pyarrow':
        import pyarrow as pa
        from pyarrow import parquet
        with pa.OSFile('/dev/full', 'wb') as f: parquet.write_table(pa.table(dict(a=list(range(10**5)))), f)
    if how == 'tokenizers':
        from tokenizers import Tokenizer, models
        Tokenizer(models.BPE()).save('/dev/full')
    if how == 'python':
        with open('/dev/full', 'w') as f: f.write('x'*10**5)


@pytest.mark.skipif(not os.path.exists('/dev/full'), reason='needs /dev/full')
@pytest.mark.parametrize('how', ['torch', 'numpy', 'pandas', 'pyarrow', 'tokenizers', 'python'])
def test_a_full_disk_names_the_file_whichever_library_writes(how):
    with pytest.raises(OSError) as e:
        with core.writing('out/file'): full_disk(how)
    said = core.reason(e.value)
    assert 'No space left on device: ' in said and 'free some space' in said
    assert said.split(': ')[1].startswith(('out/file', '/dev/full'))


COMMAND = '''
import os, sys, time
from refers_nb.core import cli_errors, say
@cli_errors
def refers_show():
    say('epoch 1', sys.stdout)
    if 'cwd' in sys.argv: os.getcwd()
    if 'wait' in sys.argv: time.sleep(60)
    sys.stdout.write('done ' * int(sys.argv[1]))
    if 'file' in sys.argv:
        with open('written', 'w') as f: f.write('whole')
refers_show()
'''


def shell(line, cwd):
    "A line of bash in which SHOW is a command"
    line = line.replace('SHOW', f'{sys.executable} -c "$PROGRAM"')
    env = dict(os.environ, PROGRAM=COMMAND)
    return subprocess.run(['bash', '-c', line], env=env, cwd=cwd, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize('line, code, says', [
    ('SHOW 1 > /dev/full', 1, 'No space left on device'),
    ('SHOW 1 file >&-', 0, ''),
    ('SHOW 1 file 2>&-', 0, ''),
    ('SHOW 1 file <&- >&- 2>&-', 0, ''),
    ('SHOW 1 cwd 2>&- | cat; exit ${PIPESTATUS[0]}', 0, ''),
    ('mkdir gone; cd gone; rmdir ../gone; SHOW 1 cwd', 1, 'the working folder is gone')])
def test_whoever_listens_or_not_a_command_ends_in_one_line(tmp_path, line, code, says):
    r = shell(line, tmp_path)
    own = [o for o in r.stderr.splitlines() if not o.startswith('shell-init')]
    assert r.returncode == code and len(own) == bool(says) and says in r.stderr, (r.returncode, r.stderr)
    if 'file' in line and not code: assert (tmp_path/'written').read_text() == 'whole'


@pytest.mark.parametrize('words', [1, 1000, 100_000])
def test_a_reader_that_has_gone_is_told_at_the_end(words):
    r, w = os.pipe()
    os.close(r)
    p = subprocess.run([sys.executable, '-c', COMMAND, str(words)], stdout=w, stderr=subprocess.PIPE, text=True)
    os.close(w)
    assert p.returncode == 1 and len(p.stderr.splitlines()) == 1
    assert 'Broken pipe' in p.stderr and 'whoever read the output has gone' in p.stderr


@pytest.mark.parametrize('number, code', [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_a_command_in_one_line(number, code):
    p = subprocess.Popen([sys.executable, '-c', COMMAND, '1', 'wait'], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert p.stdout.readline() == 'epoch 1\n'
    p.send_signal(number)
    out, err = p.communicate(timeout=60)
    assert (p.returncode, out, err) == (code, '', 'refers-show: stopped\n')


@pytest.mark.parametrize('raises, debug', [
    ("KeyError('x')", ''),
    ("OSError('x')", ''),
    ("InputError('x')", '1')])
def test_bugs_of_commands_keep_their_traceback(raises, debug):
    r = run_command(raises, debug)
    assert r.returncode == 1 and 'Traceback' in r.stderr


def test_precision_follows_the_processor(monkeypatch):
    import torch
    monkeypatch.setattr(core, 'cpu_has_bf16', lambda: True)
    assert get_dtype('auto', 'cpu') is torch.bfloat16 and get_dtype('fp32', 'cpu') is torch.float32
    monkeypatch.setattr(core, 'cpu_has_bf16', lambda: False)
    assert get_dtype('auto', 'cpu') is torch.float32 and get_dtype('bf16', 'cpu') is torch.bfloat16
    assert get_dtype('auto', 'mps') is torch.float32
    with pytest.raises(InputError): get_dtype('half')


@pytest.mark.parametrize('text', [
    'x'*532_728, ', '.join(map(str, range(100_000))), 'ab '*50_000, '\n'*5000 + 'end', 'ä'*3000, '\x1b[2J'*900, '\u202e'*700,
    '\udcff'*800, '\0'*2000, 'path/'*1000 + ': gone'])
def test_a_message_never_exceeds_a_screen(text):
    import pickle
    said = str(InputError(f'a.csv: row 3: {text}; save it again'))
    assert len(said) <= SCREEN and said.isprintable() and said.startswith('a.csv: row 3: ') and said.endswith('; save it again')
    assert str(InputError(said)) == said == str(pickle.loads(pickle.dumps(InputError(said))))
    assert len(one_line(OSError(36, 'File name too long', text))) <= SCREEN


def test_a_short_message_stays_as_it_is():
    for text in ('', 'a  b', "a 'b\\n' c", 'ünïcode – …', 'x'*300, 'a '*590):
        assert str(InputError(text)) == text
    assert shortened('a'*100, 100) == 'a'*100 and len(shortened('a'*10**6, 300)) <= 300
    assert 'characters' in shortened('a'*101, 100)


@pytest.mark.parametrize('name', ['cuda:999', 'cuda:9999', 'cuda:99999', 'cuda:-1', 'cuda:', 'cuda:x', 'banana', '', 'CPU', 'cpu:0',
                                  'cuda:٣', None, 'cuda: 0', 7])
def test_devices_that_are_not_there(name):
    with pytest.raises(InputError, match='device '): get_device(name)
