"""Malformed input of every kind: taken whole, or refused with one line that says why

Every input is either accepted, and then each image file and each name of the table is accounted for, or an
`InputError`; nothing hangs, nothing is written outside the output folder, and the download stays as it was. `damage`
makes the inputs. `REFERS_NB_TEST_FUZZ` is the number of inputs of the long series (600; where
readers change, try 2,000), `REFERS_NB_TEST_SEED` its seed; the short one is always the same."""
import collections, csv, faulthandler, hashlib, io, json, os, random, re, shutil, signal, subprocess, sys
import unicodedata, warnings, zlib
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from damage import ODD, damaged, odd_entry, odd_parquet, originals, text_damage, xml_damage, zip_damage
from PIL import Image
from source_trees import (
    chex, corona, indiana, lists, mimic, mont, nih, openi, outlines, own, pad, pneumonia, shen, vin)

from refers_nb.core import InputError
from refers_nb.data.prepare import SOURCES, prepare, verify_checksums
from refers_nb.data.sources.folder import folder
from refers_nb.data.sources.iu_xray import iu_xray
from refers_nb.data.sources.mimic_cxr import mimic_cxr
from refers_nb.data.sources.rsna import rsna_boxes
from refers_nb.data.sources.vinbig import boxes
from refers_nb.data.store import ImageStore

pytestmark = pytest.mark.skipif(not hasattr(signal, 'setitimer'), reason='needs signals, pipes and links')
csv.field_size_limit(10**7)
COUNTS = collections.defaultdict(collections.Counter)
# Number of inputs and seed: a short series that is always the same, and a long one on request
SHORT = (120, 0)
LONG = (int(os.environ.get('REFERS_NB_TEST_FUZZ', 600)), int(os.environ.get('REFERS_NB_TEST_SEED', 0)))
series = pytest.mark.parametrize('n,seed', [
    pytest.param(*SHORT, id='short'), pytest.param(*LONG, id='long', marks=pytest.mark.slow)])

class Hang(BaseException):
    "No `Exception`, so that nothing under test takes it for a damaged file"

@contextmanager
def quickly(seconds=20):
    "A hang becomes an error; should even that fail, the process dies with its stack"
    def ring(*_): raise Hang(f'over {seconds} s')
    old = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    faulthandler.dump_traceback_later(6*seconds, exit=True)
    try: yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
        faulthandler.cancel_dump_traceback_later()

def state(root, *but):
    "All that lies below a folder, with sizes and times of change"
    res = {}
    for p in root.rglob('*'):
        if any(p.is_relative_to(b) for b in but): continue
        info = p.lstat()
        res[str(p)] = info.st_mode, info.st_size, 0 if p.is_dir() else info.st_mtime_ns
    return res

@pytest.fixture(scope='module', autouse=True)
def counts():
    "Counts of what came out, on request (pytest -s)"
    yield
    COUNTS['all'] = sum((c for k, c in COUNTS.items() if ',' not in k), collections.Counter())
    for kind, c in COUNTS.items():
        each = ', '.join(f'{k} {n}' for k, n in c.most_common())
        sys.stdout.write(f'\n{kind}: {sum(c.values())}: {each}')

def kind_of(e):
    "An error message without its names and numbers"
    text = re.sub(r'/\S*?(: |$)', '', str(e), count=1)
    return re.sub(r"\(.*|'.*|\d+.*", '', text)[:40].strip(' :;,') or 'names what is wrong first'

def check_refusal(e, *names):
    "A refusal is one printable line that names the download or another file"
    text = str(e)
    assert text and len(text) < 1500 and text.isprintable(), text
    assert any(str(o) in text for o in names), text

def attempt(kind, root, f, *names):
    "The result of `f`, or None where it refused in a line that names the download or one of `names`"
    before = state(root)
    res = None
    with quickly(), warnings.catch_warnings():
        warnings.simplefilter('ignore')
        try:
            res = f()
            COUNTS[kind]['accepted'] += 1
        except InputError as e:
            check_refusal(e, root, *names)
            COUNTS[kind]['refused'] += 1
            COUNTS[f'{kind}, why']['refused: ' + kind_of(e)] += 1
    assert state(root) == before, 'the download was changed'
    return res

# ---- images

CHILD = '''
import json, resource, sys, warnings
resource.setrlimit(resource.RLIMIT_AS, (6*2**30, 6*2**30))
from refers_nb.data.prepare import prepare
df = prepare('folder', sys.argv[1], sys.argv[2], size=32, workers=0, max_rejected=1)
high = next(o for o in open('/proc/self/status') if o.startswith('VmHWM'))
print(json.dumps(dict(peak=int(high.split()[1]))))
'''

def write_images(raw, made, whole):
    "Damaged images and whole ones with their table; the names of the first"
    (raw/'images').mkdir(parents=True)
    names = [f'images/{i}.{ext}' for i, (_, ext, _, _) in enumerate(made)]
    for name, (_, _, x, _) in zip(names, made): (raw/name).write_bytes(x)
    for name, x in whole.items(): (raw/name).write_bytes(x)
    pd.DataFrame(dict(path=[*names, *whole])).to_csv(raw/'table.csv', index=False)
    return names

@series
def test_images(tmp_path, n, seed):
    "In a process of its own, with a limit of memory: a decoder that crashes would take the tests with it"
    rng = random.Random(seed)
    raw, out = tmp_path/'raw', tmp_path/'out'
    made = [damaged(rng) for _ in range(round(.55*n))]
    whole = {f'images/whole-{k}': x for k, x in originals(rng).items()}
    names = write_images(raw, made, whole)
    before = state(tmp_path, out)
    command = [sys.executable, '-c', CHILD, str(raw), str(out)]
    r = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert r.returncode == 0, r.stderr[-3000:]
    assert state(tmp_path, out) == before
    reasons = pd.read_csv(out/'rejected.csv').set_index('path')['reason']
    df = pd.read_parquet(out/'studies.parquet')
    store = ImageStore(out)
    assert list(df['path']) == list(store.index['path'])
    assert sorted([*df['path'], *reasons.index]) == sorted([*names, *whole])
    assert set(whole) <= set(df['path']) and all(store[k].std() > 30 for k in whole)
    for o in reasons: assert o.strip() and '\n' not in o and len(o) <= 300 and str(tmp_path) not in o, o
    assert (store.index[['height', 'width']] > 0).all(axis=None)
    for name, (how, _, _, must) in zip(names, made):
        rejected = name in reasons.index
        assert rejected or not must, (name, how)
        for kind in ('images', f'images, {how}'): COUNTS[kind]['rejected' if rejected else 'accepted'] += 1
    COUNTS['images, process'] += collections.Counter(json.loads(r.stdout))

# ---- tables

def nih_with_boxes(root):
    "`nih` with eight boxes"
    nih(root, 16)
    rows = [f'{i//2:08d}_{i%2:03d}.png,Mass,{i},2,3,4,,,\n' for i in range(8)]
    (root/'BBox_List_2017.csv').write_text('Image Index,Finding Label,Bbox [x,y,w,h],,,\n' + ''.join(rows))
    return root

def corona_with_split(root):
    "`corona` with split and labels"
    corona(root)
    rows = [f"{i}.jpg,{['train', 'val', 'train', 'test'][i//2 % 4]},{i//4 % 2}\n" for i in range(16)]
    (root/'split.csv').write_text('filename,refers_split,covid\n' + ''.join(rows))
    return root

def indiana_with_split(root):
    "`indiana` with a split"
    indiana(root)
    rows = [f"{i},{['train', 'val'][i % 2]}\n" for i in range(1, 13)]
    (root/'split.csv').write_text('uid,split\n' + ''.join(rows))
    return root

def vin_with_lists(root):
    "`vin` with the lists of the release, in which one image is not"
    rows = [(f'{i:032x}.png', [int(j == i) for j in range(14)]) for i in range(9)]
    lists(vin(root, 10), 'vinbig', dict(train=rows[:6], val=rows[6:8], test=rows[8:]))
    return root

def shen_with_lists(root):
    "`shen` with the lists of the release, in which one image is not"
    rows = [(f'CHNCXR_{i:04d}_{int(i > 6)}.png', (int(i <= 6), int(i > 6))) for i in range(1, 12)]
    lists(shen(root, 12), 'shenzhen', dict(train=rows[:8], val=rows[8:10], test=rows[10:]))
    return root

@dataclass
class Tree:
    "A download and how it goes wrong"
    make:callable    # Writes it to a folder
    source:str       # Which reader it is for
    damage:list      # Files that are damaged in turn
    table:str = None # File with the names of the images
    column:str = ''  # Its column
    lists:bool = False # Whether the lists of the release lie beside it

MIMIC = [f'mimic-cxr-2.0.0-{o}.csv.gz' for o in ('metadata', 'split', 'chexpert', 'negbio')]
VIN_LISTS = [f'DataProcessed/VinBigData_Chest_X-ray/{o}.txt' for o in ('train', 'test')]
READING_AND_LIST = ['ClinicalReadings/CHNCXR_0003_0.txt', 'DataProcessed/Shenzhen_Tuberculosis/val.txt']
PAD_CSV = 'PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv'
TREES = dict(
    mimic=Tree(lambda o: mimic(o, 8), 'mimic_cxr', MIMIC, MIMIC[0], 'dicom_id'),
    indiana=Tree(indiana_with_split, 'iu_xray', ['indiana_reports.csv', 'indiana_projections.csv', 'split.csv'],
                 'indiana_projections.csv', 'filename'),
    nih=Tree(nih_with_boxes, 'nih14', ['Data_Entry_2017.csv', 'test_list.txt', 'BBox_List_2017.csv'],
             'Data_Entry_2017.csv', 'Image Index'),
    vin=Tree(vin_with_lists, 'vinbig', ['train.csv', *VIN_LISTS], 'train.csv', 'image_id', lists=True),
    shen=Tree(lambda o: shen(o, 12, texts=False), 'shenzhen', ['shenzhen_metadata.csv'],
              'shenzhen_metadata.csv', 'study_id'),
    texts=Tree(shen_with_lists, 'shenzhen', READING_AND_LIST, lists=True),
    corona=Tree(corona_with_split, 'covid', ['metadata.csv', 'split.csv'], 'metadata.csv', 'filename'),
    chex=Tree(lambda o: chex(o, 8, 2, 2), 'chexpert', ['train.csv', 'valid.csv', 'groundtruth.csv'], 'train.csv', 'Path'),
    rsna=Tree(lambda o: pneumonia(o, 8), 'rsna', ['stage_2_train_labels.csv'], 'stage_2_train_labels.csv', 'patientId'),
    siim=Tree(lambda o: outlines(o, 8), 'siim', ['train-rle.csv'], 'train-rle.csv', 'ImageId'),
    pad=Tree(lambda o: pad(o, 10), 'padchest', [PAD_CSV], PAD_CSV, 'ImageID'),
    mont=Tree(lambda o: mont(o, 8), 'montgomery', ['ClinicalReadings/MCUCXR_0003_0.txt']),
    own=Tree(lambda o: own(o, 12), 'folder', ['list.csv'], 'list.csv', 'path'))

def read(tree, root):
    "The study table of a tree"
    kw = dict(lists=root/'DataProcessed') if tree.lists else {}
    return SOURCES[tree.source](root, **kw)

def read_with_boxes(tree, root):
    "The same; the boxes are read too, since they may be what is damaged"
    df = read(tree, root)
    rsna_boxes(root, df) if tree.source == 'rsna' else boxes(tree.source, root, df)
    return df

def bare(name):
    "A file name without folders and extension"
    name = unicodedata.normalize('NFC', name).replace('\\', '/')
    return re.sub(r'\.[A-Za-z]\w+$', '', name.rpartition('/')[2])

def in_notes(df, words):
    "The number that a note with these words tells"
    return sum(int(o.split()[0].replace(',', '')) for o in df.attrs['notes'] if words in o)

IMAGE = re.compile(r'\.(png|jpe?g|webp|dcm|dicom|tiff?|bmp)$', re.I)

def images_below(root):
    "Paths of the ordinary image files below a folder, links followed, each folder once"
    res = set()
    seen = set()
    for where, dirs, files in os.walk(root, followlinks=True):
        if os.path.realpath(where) in seen:
            dirs.clear()
            continue
        seen.add(os.path.realpath(where))
        dirs[:] = sorted(o for o in dirs if o[0] != '.')
        for o in files:
            path = os.path.join(where, o)
            if o[0] != '.' and os.path.isfile(path) and IMAGE.search(o): res.add(os.path.relpath(path, root))
    return res

def names_in(table, col):
    "The names in a column of a table, read by other means than the library's"
    text = table.decode('utf-8-sig')
    text = re.sub(r'\A(?:[ \t]*\r?\n)+', '', text) # lines without a word before the header do not count
    rows = csv.DictReader(io.StringIO(text, newline=''))
    return {r[col].strip() for r in rows if any(isinstance(o, str) and o.strip() for o in r.values())}

def account(df, root, names=()):
    "Each image file and each name of the table is a row, missing, extra, or in a note that counts it"
    files = images_below(root)
    rows = set(df['path'])
    extra = set(df.attrs['extra'])
    dropped = in_notes(df, 'in no split')
    other = sum(in_notes(df, o) for o in ('of another modality', 'marked EXCLUDE', 'lung mask'))
    assert len(df) and df['path'].is_unique and rows <= files and not rows & extra
    untold = len(files) - len(rows) - len(df.attrs['extra'])
    assert dropped <= untold <= dropped + other, 'an image file that nothing tells of'
    here = {bare(p) for p in rows}
    lost = [o for o in names if bare(o) not in here and o not in df.attrs['missing']]
    assert len(lost) <= dropped + other, f'names that nothing tells of: {lost[:5]}'

def account_tree(df, tree, root):
    "`account` with the table as it lies there"
    names = names_in(unpacked(root/tree.table), tree.column) if tree.table else ()
    account(df, root, names)

@pytest.fixture(scope='module')
def trees(tmp_path_factory):
    "Each small download once; a test puts back what it damaged"
    base = tmp_path_factory.mktemp('trees')
    (base/'outside.png').write_bytes(b'not to be touched')
    return {k: o.make(base/k) for k, o in TREES.items()}

def unpacked(path):
    "Content of a file that may be compressed"
    return zlib.decompress(path.read_bytes(), 31) if path.suffix == '.gz' else path.read_bytes()

def put(path, x):
    "Write a file, compressed where its name says so"
    if path.suffix == '.gz':
        z = zlib.compressobj(1, wbits=31)
        x = z.compress(x) + z.flush()
    path.write_bytes(x)

def check_store(kind, tree, root, out, df):
    "Now and then the whole way: table and store agree"
    kw = dict(lists=root/'DataProcessed') if tree.lists else {}
    def run(): return prepare(tree.source, root, out, size=16, workers=0, max_rejected=.5, **kw)
    res = attempt(kind + ', prepare', root, run, out)
    if res is None: return
    assert list(res['path']) == list(ImageStore(out).index['path']) and set(res['path']) <= set(df['path'])
    gone = pd.read_csv(out/'missing.csv', keep_default_na=False)
    assert len(gone) == len(df.attrs['missing']) + len(df.attrs['extra'])

def damage_file(rng, file, names):
    "Damage a text file where it lies; (kind, the text)"
    how, x = text_damage(rng, unpacked(file), names)
    put(file, x)
    if file.suffix == '.gz' and rng.random() < .1:
        how = 'cut gz'
        packed = file.read_bytes()
        file.write_bytes(packed[:rng.randrange(len(packed))])
    return how, x

def check_tree(tree, root, file, how, store=None):
    "A damaged tree is refused, or all of it is accounted for, and where `store` is a folder prepared whole"
    df = attempt('tables', root, lambda: read_with_boxes(tree, root), file)
    COUNTS[f'tables, {how}']['refused' if df is None else 'accepted'] += 1
    if df is None: return
    account_tree(df, tree, root)
    if store: check_store('tables', tree, root, store, df)

@pytest.mark.parametrize('name', TREES)
@series
def test_tables(trees, tmp_path, name, n, seed):
    tree = TREES[name]
    root = trees[name]
    rng = random.Random(f'{seed} {name}')
    with quickly(): account_tree(read(tree, root), tree, root)
    images = [p.name for p in root.rglob('*.[pj][np]g')]
    for i in range(round(.3*n/len(TREES))):
        file = root/tree.damage[i % len(tree.damage)]
        whole = file.read_bytes()
        how, x = damage_file(rng, file, images)
        store = None if i % 40 else tmp_path/'out'
        try: check_tree(tree, root, file, how, store)
        except BaseException as e: raise AssertionError(f'{name}, {file.name}, {how}, number {i}: {x[:300]!r}') from e
        finally: file.write_bytes(whole)

def test_a_header_below_lines_without_a_word_is_found(trees):
    "What the library reads, the reader of this test reads too"
    tree, root = TREES['nih'], trees['nih']
    table = root/tree.table
    whole = table.read_bytes()
    for empty in (b'  \n', b'\n\n', b'\r\n \t\n'):
        table.write_bytes(empty + whole)
        account_tree(read(tree, root), tree, root)
    table.write_bytes(whole)

# ---- reports of Open-i, archives, lists of checksums, Parquet

@series
def test_reports_in_xml(tmp_path, n, seed):
    root = openi(tmp_path/'raw')
    rng = random.Random(f'{seed} xml')
    files = sorted((root/'ecgen-radiology').iterdir())
    whole = {p: p.read_bytes() for p in files}
    for _ in range(round(.05*n)):
        some = rng.sample(files, rng.choice([1, 1, 3, 12]))
        for p in some: p.write_bytes(xml_damage(rng, whole[p]))
        df = attempt('xml', root, lambda: iu_xray(root))
        for p in some: p.write_bytes(whole[p])
        if df is None: continue
        account(df, root)
        assert not df['report'].str.contains('root:').any() and df['report'].str.len().max() < 2_000_000
        told = in_notes(df, 'cannot be read and left out') + in_notes(df, 'a report but no image')
        assert df['study'].nunique() + told <= len(files)

@series
def test_archives(tmp_path, n, seed):
    root = mimic(tmp_path/'raw', 8)
    rng = random.Random(f'{seed} zip')
    archive = root/'mimic-cxr-reports.zip'
    whole = archive.read_bytes()
    full = mimic_cxr(root).set_index('path')['report']
    for _ in range(round(.03*n)):
        archive.write_bytes(zip_damage(rng, whole))
        df = attempt('archives', root, lambda: mimic_cxr(root))
        assert not list(tmp_path.rglob('*escape*')) and not Path('/escape.txt').exists()
        if df is None: continue
        account(df, root)
        empty = int((df.drop_duplicates('study')['report'] == '').sum())
        told = in_notes(df, 'no report') + in_notes(df, 'cannot be read from')
        assert empty == told, 'a report that is lost, and nothing tells of it'
        assert df['report'].str.len().max() < 100
        for path, o in df.set_index('path')['report'].items(): assert o in ('', full[path]) or 'Secret' in o

@series
def test_lists_of_checksums(tmp_path, n, seed):
    root = own(tmp_path/'raw', 12)
    rng = random.Random(f'{seed} sums')
    images = sorted(root.rglob('*.png'))
    lines = [f'{hashlib.sha256(p.read_bytes()).hexdigest()}  {p.relative_to(root)}\n' for p in images]
    for _ in range(round(.015*n)):
        _, x = text_damage(rng, ''.join(lines).encode(), ['pictures/0.png'])
        (root/'SUMS').write_bytes(x)
        o = attempt('checksums', root, lambda: verify_checksums(root/'SUMS'))
        assert o is None or len(o) and set(o['status']) <= {'ok', 'changed', 'missing'}

@series
def test_parquet(tmp_path, n, seed):
    root = own(tmp_path/'raw', 12)
    rng = random.Random(f'{seed} parquet')
    base = pd.read_csv(root/'list.csv')
    (root/'list.csv').unlink()
    for _ in range(round(.015*n)):
        odd_parquet(rng, base, root/'list.parquet')
        df = attempt('parquet', root, lambda: folder(root))
        if df is not None: account(df, root)

# ---- names, links, pipes

def check_case(tree, root, store=None):
    "A download with odd entries is refused, or all of it is accounted for"
    df = attempt('names and links', root, lambda: read(tree, root))
    if df is None: return
    account(df, root)
    if store: check_store('names and links', tree, root, store, df)

@series
def test_names_links_and_pipes(trees, tmp_path, n, seed):
    rng = random.Random(f'{seed} names')
    outside = tmp_path/'outside'
    outside.mkdir()
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(outside/'a.png')
    known = {k: (o, trees[k]) for k, o in TREES.items()}
    known['openi'] = Tree(openi, 'iu_xray', []), openi(tmp_path/'openi')
    for i in range(round(.04*n)):
        name = list(known)[i % len(known)]
        tree, origin = known[name]
        root = tmp_path/'case'/'raw'
        shutil.copytree(origin, root, symlinks=True)
        what = rng.sample(ODD, rng.choice([1, 1, 3]))
        for o in what: odd_entry(rng, root, outside, o)
        before = state(outside)
        store = None if i % 16 else tmp_path/'out'
        try: check_case(tree, root, store)
        except BaseException as e: raise AssertionError(f'{name}, {what}, number {i}') from e
        assert state(outside) == before
        shutil.rmtree(tmp_path/'case')
