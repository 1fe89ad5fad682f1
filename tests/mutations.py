"""Files of this library that went wrong, and what opens them: python mutations.py KINDS BASE SEED FIRST COUNT

A process of its own works, for each kind, through inputs number FIRST to FIRST + COUNT of a series: what one input is follows from
KIND, SEED and its number alone. Each is taken, or refused by an `InputError` of one line that fits a screen, within
20 seconds; anything else ends the process with the number of the input and the damage. A line of the output for each
kind counts what came out and tells the peak of memory. `test_mutated` starts these processes."""
import faulthandler, json, os, random, resource, shutil, signal, struct, sys, warnings
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd

from refers_nb.core import InputError

SECONDS = 20

# ---- any file

def flipped(rng, x):
    "Some bytes changed, often near the beginning or the end"
    x = bytearray(x)
    for _ in range(rng.choice([1, 1, 3, 30])):
        if not x: break
        at = rng.choice([rng.randrange(len(x)), rng.randrange(min(len(x), 200)), -1 - rng.randrange(min(len(x), 200))])
        x[at] = rng.choice([0, 255, x[at] ^ (1 << rng.randrange(8)), rng.randrange(256)])
    return bytes(x)

def filled(rng, x):
    "A run of bytes lost, as on a bad disk"
    at = rng.randrange(len(x) + 1)
    n = rng.choice([4, 64, 4096])
    return x[:at] + rng.choice([b'\0', b'\xff'])*min(n, len(x) - at) + x[at + n:]

BYTES = {
    'cut': lambda rng, x: x[:rng.randrange(len(x) + 1)],
    'head lost': lambda rng, x: x[rng.randrange(1, 200):],
    'flip': flipped,
    'filled': filled,
    'empty': lambda rng, x: b'',
    'zeros': lambda rng, x: bytes(len(x)),
    'twice': lambda rng, x: x + x,
    'longer': lambda rng, x: x + rng.randbytes(rng.choice([1, 64, 5000])),
    'noise': lambda rng, x: rng.randbytes(rng.choice([1, 100, 5000])),
    'other': lambda rng, x: rng.choice([b'PK\3\4' + bytes(30), b'\x89PNG\r\n', b'<html>404</html>', b'\x80\x02}q.', b'null'])}
BYTE_KINDS = [*BYTES, 'cut', 'flip', 'flip', 'flip', 'filled']

def damaged_bytes(rng, path):
    "Damage the bytes of a file; what was done"
    how = rng.choice(BYTE_KINDS)
    path.write_bytes(BYTES[how](rng, path.read_bytes()))
    return how

# What takes the place of a file
INSTEAD = {
    'gone': lambda p: None,
    'folder': lambda p: p.mkdir(),
    'pipe': os.mkfifo,
    'loop': lambda p: p.symlink_to(p.name),
    'zero': lambda p: p.symlink_to('/dev/zero'),
    'nowhere': lambda p: p.symlink_to('nowhere')}

def replaced(rng, path):
    "Put something that is no file in the place of one; what it is"
    how = rng.choice([*INSTEAD])
    path.unlink()
    INSTEAD[how](path)
    return how

# ---- JSON

ODD = [None, True, False, -1, 0, 1, 99, 33, 2**31, 2**63, 10**30, .5, -1e308, float('nan'), float('inf'), '', 'x', 'phantom',
       'auto', '../../x', '/etc/passwd', 'hf-hub:x/y', 'a'*5000, '\0', '\u202e', 'ä', [], [1], [[]], {}, {'a': 1}, [None]*3,
       ['a', 'b'], list(range(2000))]

def places(x, prefix=()):
    "Yield the way to every value of nested dictionaries and lists"
    items = x.items() if isinstance(x, dict) else enumerate(x) if isinstance(x, list) else ()
    for k, o in items:
        yield (*prefix, k)
        yield from places(o, (*prefix, k))

def nested_damage(rng, x, odd=ODD):
    "A value of nested dictionaries and lists replaced, lost, or added; what was done"
    ways = list(places(x))
    if not ways: return 'nothing'
    shallow = [o for o in ways if len(o) <= 2]
    way = rng.choice(rng.choice([ways, shallow]))
    parent = x
    for k in way[:-1]: parent = parent[k]
    how = rng.choice(['replace', 'replace', 'replace', 'lose', 'add', 'type'])
    name = '.'.join(map(str, way))[:80]
    if how == 'lose': del parent[way[-1]]
    elif how == 'add' and isinstance(parent, dict): parent[rng.choice(['x', '', 'auto_map', 'name'])] = rng.choice(odd)
    elif how == 'type' and isinstance(parent[way[-1]], (int, float, str)):
        parent[way[-1]] = rng.choice([str, lambda o: [o], lambda o: {'a': o}])(parent[way[-1]])
    else: parent[way[-1]] = rng.choice(odd)
    return f'{how} {name}'

def damaged_json(rng, path):
    "Damage a JSON file; what was done"
    if rng.random() < .3: return damaged_bytes(rng, path)
    x = json.loads(path.read_text(encoding='utf-8'))
    if rng.random() < .05: x, how = rng.choice(ODD), 'another value'
    else: how = ', '.join(nested_damage(rng, x) for _ in range(rng.choice([1, 1, 1, 3])))
    path.write_text(json.dumps(x), encoding='utf-8')
    return how

# ---- Parquet

def odd_cell(rng, df, column):
    "One cell, or all of them, replaced"
    value = rng.choice([None, '', -1, 2, .5, float('nan'), float('inf'), b'\xff', 'ä', 'a'*200_000, [1], {'a': 1}, True,
                        '../x', '/x', '\0', 10**20, pd.Timestamp('2020-01-01'), df[column].iloc[-1]])
    if rng.random() < .3: cells = [value]*len(df)
    else:
        cells = df[column].tolist()
        cells[rng.randrange(len(cells))] = value
    return df.assign(**{column: pd.Series(cells, index=df.index, dtype=object)})

COLUMN = {
    'lose': lambda rng, df, c: df.drop(columns=c),
    'rename': lambda rng, df, c: df.rename(columns={c: rng.choice(['x', '', 'label:', 'label:x', c.upper(), c + ' '])}),
    'bytes': lambda rng, df, c: df.assign(**{c: [str(o).encode() for o in df[c]]}),
    'text': lambda rng, df, c: df.assign(**{c: df[c].astype(str)}),
    'lists': lambda rng, df, c: df.assign(**{c: [[str(o)] for o in df[c]]}),
    'category': lambda rng, df, c: df.assign(**{c: df[c].astype('category')}),
    'shuffled': lambda rng, df, c: df.assign(**{c: rng.sample(df[c].tolist(), len(df))}),
    'missing': lambda rng, df, c: df.assign(**{c: None}),
    'index': lambda rng, df, c: df.set_index(c),
    'number': lambda rng, df, c: df.assign(**{c: rng.choice([0, 1, -1, .5, 2**40])}),
    'cell': odd_cell}
ROWS = {
    'no rows': lambda rng, df: df[:0],
    'one row': lambda rng, df: df[:1],
    'fewer rows': lambda rng, df: df[:rng.randrange(1, len(df))],
    'rows twice': lambda rng, df: pd.concat([df, df[:3]]),
    'order': lambda rng, df: df.sample(frac=1, random_state=rng.randrange(1000)),
    'columns': lambda rng, df: df[rng.sample(list(df), len(list(df)))]}

def damaged_parquet(rng, path):
    "Damage a Parquet file; what was done"
    if rng.random() < .4: return damaged_bytes(rng, path)
    df = pd.read_parquet(path)
    how = rng.choice([*COLUMN, *ROWS, 'cell', 'cell', 'attrs'])
    column = rng.choice(list(df))
    if how == 'attrs':
        attrs = json.loads(json.dumps(df.attrs))
        done = nested_damage(rng, attrs, [o for o in ODD if o == o])
        df.attrs = attrs if isinstance(attrs, dict) else {}
        how = f'attrs, {done}'
    elif how in ROWS: df = ROWS[how](rng, df)
    else:
        attrs = df.attrs
        df = COLUMN[how](rng, df, column)
        df.attrs = attrs
        how = f'{how} {column}'
    try: df.to_parquet(path)
    except Exception: return damaged_bytes(rng, path) # such a file cannot be written
    return how

# ---- arrays

def other_array(rng, x):
    "Another array in the place of the images"
    return rng.choice([
        lambda: x[:-1], lambda: x[::-1], lambda: np.concatenate([x, x[:1]]), lambda: x[:, :-1], lambda: x[..., :-8],
        lambda: x.astype(np.float32), lambda: x.astype(np.int8), lambda: x.astype('>u2'), lambda: x.reshape(len(x), -1),
        lambda: np.asfortranarray(x), lambda: x[:, None], lambda: np.array(3), lambda: x[:0], lambda: x.astype(bool),
        lambda: np.roll(x, 1, 0), lambda: x[:, :16, :16], lambda: np.array([{}]*len(x), object),
        lambda: np.zeros(len(x), [('a', 'u1'), ('b', 'f4')])])()

def odd_header(rng, x):
    "Bytes of an array file whose header says something else"
    header = rng.choice(["{'descr': '|u1', 'fortran_order': False, 'shape': (%d, %d, %d), }" % (n, h, w) for n, h, w in (
        (2**31, 32, 32), (10**9, 10**9, 10**9), (1, 1, 1), (-1, 32, 32), (0, 0, 0), (32, 28, 32))] + [
        "{'descr': '|O', 'fortran_order': False, 'shape': (28, 32, 32), }", "{'descr': '|u1'}", '('*500, "__import__('os')",
        "{'descr': ['a', ('b', 'c')], 'fortran_order': 1, 'shape': 'x'}"]).encode()
    return b'\x93NUMPY\x01\0' + struct.pack('<H', len(header) + 1) + header + b'\n' + x[128:]

def damaged_array(rng, path):
    "Damage a NumPy file; what was done"
    how = rng.choice(['bytes', 'array', 'header'])
    if how == 'bytes': return damaged_bytes(rng, path)
    if how == 'header': path.write_bytes(odd_header(rng, path.read_bytes()))
    else:
        x = np.load(path)
        with open(path, 'wb') as f: np.save(f, other_array(rng, x), allow_pickle=True)
    return how

def damaged_csv(rng, path):
    "Damage a CSV file; what was done"
    if rng.random() < .5: return damaged_bytes(rng, path)
    lines = path.read_text().split('\n')
    at = rng.randrange(len(lines))
    cells = lines[at].split(',')
    cells[rng.randrange(len(cells))] = rng.choice(['', 'nan', '-1', 'x', '"', '1e400', 'a,b', '\0', 'ä'*1000])
    lines[at] = ','.join(cells)
    if rng.random() < .2: lines = rng.sample(lines, len(lines))
    path.write_text('\n'.join(lines))
    return 'cell'

# ---- weights and states

def damaged_weights(rng, path):
    "Damage a safetensors file; what was done"
    if rng.random() < .4: return damaged_bytes(rng, path)
    x = path.read_bytes()
    n = int.from_bytes(x[:8], 'little')
    header = json.loads(x[8:8 + n])
    data = bytearray(x[8 + n:])
    name = rng.choice([o for o in header if o != '__metadata__'])
    entry = header[name]
    how = rng.choice(['dtype', 'shape', 'nan', 'lose', 'rename', 'offsets', 'nested'])
    if how == 'dtype': entry['dtype'] = rng.choice(['I32', 'F16', 'BF16', 'BOOL', 'U8', 'F64', 'F8_E4M3', 'X'])
    if how == 'shape': entry['shape'] = rng.choice([[], [1], entry['shape'][::-1], [2**40], [-1], entry['shape'] + [1]])
    if how == 'lose': del header[name]
    if how == 'rename': header[name + '.x'] = header.pop(name)
    if how == 'offsets': entry['data_offsets'] = rng.choice([[0, 4], [4, 0], [0, 2**40], [-4, 0], []])
    if how == 'nested': nested_damage(rng, header)
    if how == 'nan':
        at = entry['data_offsets'][0]
        data[at:at + 4] = struct.pack('<f', rng.choice([float('nan'), float('inf'), 1e38]))
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack('<Q', len(text)) + text + data)
    return f'{how} {name}'

def odd_tensor(rng, x):
    "A tensor that is not the one"
    import torch
    return rng.choice([lambda: x*float('nan'), lambda: x.double(), lambda: x.flatten()[:1], lambda: x[None], lambda: None,
                       lambda: 3, lambda: x > 0, lambda: torch.zeros(0), lambda: x.tolist()])()

def damaged_state(rng, path):
    "Damage the state of a run; what was done"
    import torch
    if rng.random() < .25: return damaged_bytes(rng, path)
    state = torch.load(path, weights_only=True)
    ways = list(places(state))
    way = rng.choice(rng.choice([ways, [o for o in ways if len(o) <= 2]]))
    parent = state
    for k in way[:-1]: parent = parent[k]
    old = parent[way[-1]]
    if isinstance(old, torch.Tensor) and rng.random() < .7:
        parent[way[-1]] = odd_tensor(rng, old)
        how = 'tensor ' + '.'.join(map(str, way))
    else: how = nested_damage(rng, state)
    try: torch.save(state, path)
    except Exception: return damaged_bytes(rng, path)
    return how

# ---- settings

SETTING = ['[run]', '[pretrain]', '[finetune]', '[data]', '[weights]', '[x]', '[]', '[run', 'seed = 1', 'seed = -1', 'lr = inf',
           'lr = 1e-3', 'epochs = 0', 'size = 33', 'device = cuda:999', 'device = banana', 'seeds =', 'seeds = 1,,2', 'out = ~x/y',
           'fractions = nan', 'workers = 10000000', 'bs = 1e3', 'seed = 99999999999999999999', 'linear = maybe', 'a', '=', '= 1',
           'out = \0', 'vit_tiny = hf-hub:x', '# für', 'seed = ٣', 'steps = ' + '9'*6000, 'x'*100_000, 'tau = 0', '\ufeff[run]']
ENCODINGS = ['utf-8', 'utf-8', 'utf-8', 'latin-1', 'utf-16', 'utf-16-le', 'utf-16-be', 'utf-32', 'utf-8-sig', 'utf-7']

def damaged_settings(rng, path):
    "Write some settings; what was done"
    lines = path.read_text().split('\n') if rng.random() < .3 else []
    for o in rng.sample(SETTING, rng.randrange(1, 6)): lines.insert(rng.randrange(len(lines) + 1), o)
    encoding = rng.choice(ENCODINGS)
    path.write_bytes(rng.choice(['\n', '\n', '\r\n', '\r']).join(lines).encode(encoding, 'replace'))
    if rng.random() < .2: return damaged_bytes(rng, path)
    return f'{encoding}: {lines}'[:200]

# ---- what opens them

def use_store(base):
    "Open a store and read it; build it again"
    from refers_nb.data.loaders import LabelItems
    from refers_nb.data.store import ImageStore
    from refers_nb.data.studies import read_studies
    df = read_studies(base/'prep')
    store = ImageStore(base/'prep')
    assert store.images.dtype == np.uint8 and store.images.shape == (len(store.index), store.size, store.size)
    items = LabelItems(df, store)
    for i in range(len(items)): items[i]

def build_store(base):
    "Build a store over what is there: it is whole afterwards, but for a hole that no stamp and no fingerprint tells"
    from refers_nb.data.store import ImageStore
    from refers_nb.data.studies import read_studies
    df = read_studies(base/'whole')
    store = ImageStore.build(df, df.attrs['root'], base/'prep', 32, workers=0)
    whole = np.load(base/'whole'/'images.npy')
    assert (store.images == whole).mean() > .7, 'more than a hole on the disk is other images'

def use_table(base):
    "Read a study table, and what training does with one"
    from refers_nb.data.card import describe
    from refers_nb.data.loaders import label_dls, study_dls
    from refers_nb.data.store import ImageStore
    from refers_nb.data.studies import label_fraction, read_studies
    from refers_nb.data.tokens import Tokenizer
    df = read_studies(base/'prep')
    store = ImageStore(base/'prep')
    tok = Tokenizer.train(df['report'][df['report'] != ''], 300)
    study_dls(df, store, tok, size=32, k=2, bs=4).one_batch()
    label_dls(df, store, size=32, bs=4, mask=label_fraction(df, .5)).one_batch()
    describe(df, store)

def use_record(base):
    "Whoever reads a record"
    from refers_nb.data.prepare import described
    from refers_nb.data.sources.phantom import phantom_set
    told = described(base/'prep')
    assert all(isinstance(o, str) for o in told.values())
    phantom_set(base/'set', 32, train=(8, 1))

def use_predictions(base):
    "Evaluate predictions beside others, and as a table of starts"
    from refers_nb.evaluation.compare import efficiency_tests, evaluate_runs
    evaluate_runs([base/'runs'/'predictions.parquet', base/'runs'/'other.parquet'])
    efficiency_tests(base/'runs', 'a')

def use_settings(base):
    "Find settings from a folder and read them"
    from refers_nb import settings as module
    module.read_settings.cache_clear()
    here = os.getcwd()
    os.chdir(base/'settings')
    try: found = module.find_settings()
    finally: os.chdir(here)
    if found is None: return
    module.settings(found)
    module.settings(base/'settings'/'settings.ini')

def line_learner(path):
    "A small learner with a state, as the lesson of the callbacks has it"
    import torch
    from fastai.data.core import DataLoaders
    from torch import nn
    from refers_nb.data.loaders import SeededLoader
    from refers_nb.training.callbacks import Checkpoint, ResumableLearner
    from refers_nb.training.step import StopOnNonFinite
    from refers_nb.training.optim import adamw, paper_sgd, warmup_cosine
    class Points:
        n_inp, epoch = 1, 0
        x = torch.linspace(-1, 1, 32)[:, None]
        def __len__(self): return 32
        def __getitem__(self, i): return self.x[i], 3*self.x[i]
        def collate(self, items): return tuple(map(torch.stack, zip(*items)))
        def augmented(self, b, augment, gen): return b
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(1, 8), nn.LayerNorm(8), nn.Linear(8, 1))
    dls = DataLoaders(*(SeededLoader(Points(), bs=8, train=o) for o in (True, False)))
    opt = paper_sgd if 'sgd' in path.name else adamw
    learn = ResumableLearner(dls, net, nn.MSELoss(), opt, cbs=[StopOnNonFinite()])
    learn.recorder.add_time = False
    return learn, [warmup_cosine(1e-2), Checkpoint(path, every=3, args=dict(lr=.01))]

def fit_line(path, stop=None):
    "Three epochs of four steps, perhaps stopped after one"
    from fastai.callback.core import Callback, CancelFitException
    class Stop(Callback):
        order = 95
        run_valid = False
        def after_batch(self):
            if self.train_iter == stop: raise CancelFitException()
    learn, cbs = line_learner(path)
    with learn.no_bar(), learn.no_logging(): learn.fit(3, cbs=[*cbs, Stop()])
    return learn

def use_state(base):
    "Go on from both states: the same weights as a run that was never stopped, or a refusal"
    import torch
    for name in ('adamw', 'sgd'):
        learn = fit_line(base/'states'/f'{name}.pt')
        whole = torch.load(base/'states'/f'{name}-whole', weights_only=True)
        same = all(torch.equal(o, whole[k]) for k, o in learn.model.state_dict().items())
        if not same: SEEN['other weights'] = SEEN.get('other weights', 0) + 1

def use_checkpoint(base):
    "Open a checkpoint, as a model and as a start"
    from refers_nb.models.hub import load_checkpoint, load_encoder
    model, tok = load_checkpoint(base/'checkpoint')
    tok.decode(tok('No pleural effusion.'))
    load_encoder(base/'checkpoint')

def make_prep(base):
    "Two prepared folders alike"
    from refers_nb.data.prepare import prepare
    prepare('phantom', 20, base/'prep', size=32, workers=0, seed=3, valid=.2, test=.2)
    shutil.copytree(base/'prep', base/'whole')

def make_records(base):
    "A prepared folder and a set of phantoms, which find their records"
    from refers_nb.data.sources.phantom import phantom_set
    make_prep(base)
    phantom_set(base/'set', 32, train=(8, 1))

def make_runs(base):
    "Predictions of two starts, two shares and two seeds; and those of another program"
    rng = np.random.default_rng(0)
    parts, rows = [], []
    images = np.repeat([f'{i}.png' for i in range(30)], 2)
    target = rng.integers(0, 2, 60).astype(float)
    for init in 'ab':
        for seed in (0, 1):
            parts.append(pd.DataFrame(dict(
                image=images, patient=[f'p{i//4}' for i in range(60)], label=['effusion', 'edema']*30, target=target,
                probability=rng.random(60), split='test', init=init, fraction=1., seed=seed)))
            rows.append(dict(init=init, fraction=1., seed=seed, auroc=rng.random()))
    (base/'runs').mkdir()
    pd.concat(parts).to_parquet(base/'runs'/'predictions.parquet', index=False)
    parts[0].drop(columns=['init', 'fraction', 'seed']).to_parquet(base/'runs'/'other.parquet', index=False)
    pd.DataFrame(rows).to_csv(base/'runs'/'results.csv', index=False)

def make_settings(base):
    "Settings of this library, outside of any folder with others"
    from refers_nb.settings import settings_text
    (base/'settings').mkdir()
    (base/'settings'/'settings.ini').write_text(settings_text())

def make_states(base):
    "States of two runs that were stopped, and the weights of those that were not"
    import torch
    (base/'states').mkdir()
    for name in ('adamw', 'sgd'):
        whole = fit_line(base/'states'/f'whole-{name}.pt')
        torch.save(whole.model.state_dict(), base/'states'/f'{name}-whole')
        fit_line(base/'states'/f'{name}.pt', stop=7)

def make_checkpoint(base):
    "A small model that has learned nothing, with its tokenizer"
    from refers_nb.data.tokens import Tokenizer
    from refers_nb.models.hub import save_checkpoint
    from refers_nb.models.refers import Refers, refers_config
    tok = Tokenizer.train(['No pleural effusion.', 'Left pleural effusion.']*4, 300)
    model = Refers(refers_config('nano', vocab=len(tok), size=32, k=2, text=dict(depth=1)))
    save_checkpoint(model, tok, base/'checkpoint', dict(start='random'), 'A model for tests.')

# kind: what makes it, what opens it, and the files that are damaged, each by one of some ways
KINDS = dict(
    stores=(make_prep, use_store, {'prep/images.npy': damaged_array, 'prep/index.parquet': damaged_parquet}),
    builds=(make_prep, build_store, {'prep/images.npy': damaged_array, 'prep/index.parquet': damaged_parquet,
                                     'prep/rejected.csv': damaged_csv}),
    tables=(make_prep, use_table, {'prep/studies.parquet': damaged_parquet}),
    records=(make_records, use_record, {'prep/run.json': damaged_json, 'set/run.json': damaged_json}),
    predictions=(make_runs, use_predictions, {'runs/predictions.parquet': damaged_parquet, 'runs/other.parquet': damaged_parquet,
                                              'runs/results.csv': damaged_csv}),
    settings=(make_settings, use_settings, {'settings/settings.ini': damaged_settings}),
    states=(make_states, use_state, {'states/adamw.pt': damaged_state, 'states/sgd.pt': damaged_state}),
    checkpoints=(make_checkpoint, use_checkpoint, {'checkpoint/config.json': damaged_json,
                 'checkpoint/model.safetensors': damaged_weights, 'checkpoint/tokenizer.json': damaged_json}))
SEEN = {}

class Hang(BaseException):
    "No `Exception`, so that nothing under test takes it for a damaged file"

@contextmanager
def quickly():
    """A hang becomes an error; should even that fail, the process dies with its stack

    Seconds of the processor count, since the machine may be busy with other work, and six times as many of waiting."""
    def ring(*_): raise Hang(f'over {SECONDS} s')
    for name in (signal.SIGPROF, signal.SIGALRM): signal.signal(name, ring)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    signal.setitimer(signal.ITIMER_REAL, 6*SECONDS)
    faulthandler.dump_traceback_later(9*SECONDS, exit=True)
    try: yield
    finally:
        for clock in (signal.ITIMER_PROF, signal.ITIMER_REAL): signal.setitimer(clock, 0)
        faulthandler.cancel_dump_traceback_later()

def remove(path):
    "Remove whatever is there"
    if path.is_dir() and not path.is_symlink(): shutil.rmtree(path)
    else: path.unlink(missing_ok=True)

def attempt(use, base):
    "Whether what is there was taken or refused"
    with quickly(), warnings.catch_warnings():
        warnings.simplefilter('ignore')
        try: use(base)
        except InputError as e:
            text = str(e)
            assert text and len(text) <= 1500 and text.isprintable(), f'no line of a screen: {text[:3000]!r}'
            return 'refused'
    return 'taken'

def one_input(kind, base, seed, number):
    "Damage one file, open it, and put everything back"
    _, use, files = KINDS[kind]
    rng = random.Random(f'{kind} {seed} {number}')
    name = rng.choice([*files])
    victim = base/name
    kept = base/'kept'
    shutil.rmtree(kept, ignore_errors=True)
    shutil.copytree(victim.parent, kept)
    how = replaced(rng, victim) if rng.random() < .03 else files[name](rng, victim)
    try: said = attempt(use, base)
    except BaseException as e:
        raise AssertionError(f'{kind} {number} of seed {seed}: {name}, {how}: {type(e).__name__}') from e
    finally:
        shutil.rmtree(victim.parent)
        shutil.move(kept, victim.parent)
    SEEN[said] = SEEN.get(said, 0) + 1

def peak_memory():
    "Most memory of this process, kB; `ru_maxrss` would count what its parent had when it was forked"
    lines = Path('/proc/self/status').read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith('VmHWM'))

def work(kind, base, seed, first, count):
    "Work through a part of a series"
    assert attempt(KINDS[kind][1], base) == 'taken', f'the whole files of {kind} are not taken'
    SEEN.clear()
    for number in range(first, first + count): one_input(kind, base, seed, number)
    print(json.dumps(SEEN | dict(peak=peak_memory())), flush=True)

def main(kinds, base, seed, first, count):
    "Work through a part of the series of each kind, whose whole files lie in folders of their names"
    os.environ['REFERS_NB_PROGRESS'] = '0'
    faulthandler.enable()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for kind in kinds.split(','): work(kind, Path(base)/kind, seed, int(first), int(count))

if __name__ == '__main__': main(*sys.argv[1:])
