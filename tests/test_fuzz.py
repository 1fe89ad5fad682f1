"""Malformed input of every kind: taken whole, or refused with one line that says why

`REFERS_NB_TEST_FUZZ` is the number of inputs (2,000), `REFERS_NB_TEST_SEED` the seed. Every one is either accepted, and then each image file and each name of the table is accounted for, or an `InputError`;
nothing hangs, nothing is written outside the output folder, and the download stays as it was."""
import collections, csv, faulthandler, io, json, os, random, re, signal, struct, subprocess, sys, unicodedata, warnings, zipfile, zlib
from contextlib import contextmanager
from pathlib import Path

import numpy as np, pandas as pd, pytest
from PIL import Image
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless

from refers_nb.core import InputError
from refers_nb.data.store import ImageStore
from refers_nb.data.prepare import SOURCES, prepare, verify_checksums
from refers_nb.data.sources.vinbig import boxes
from refers_nb.data.sources.folder import folder
from refers_nb.data.sources.iu_xray import iu_xray
from refers_nb.data.sources.mimic_cxr import mimic_cxr
from radiograph_files import dataset
from test_sources import corona, indiana, lists, mimic, nih, openi, own, shen, vin

pytestmark = pytest.mark.skipif(not hasattr(signal, 'setitimer'), reason='needs signals, pipes and links')
csv.field_size_limit(10**7)
N,SEED = int(os.environ.get('REFERS_NB_TEST_FUZZ', 2000)),int(os.environ.get('REFERS_NB_TEST_SEED', 0))
COUNTS = collections.defaultdict(collections.Counter)

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
        signal.setitimer(signal.ITIMER_REAL, 0), signal.signal(signal.SIGALRM, old)
        faulthandler.cancel_dump_traceback_later()

def state(root, *but):
    "All that lies below a folder, with sizes and times of change"
    return {str(p): ((o := p.lstat()).st_mode, o.st_size, o.st_mtime_ns if not p.is_dir() else 0) for p in root.rglob('*') if not any(p.is_relative_to(b) for b in but)}

@pytest.fixture(scope='module', autouse=True)
def told():
    "Counts of what came out, on request (pytest -s)"
    yield
    COUNTS['all'] = sum((c for k,c in COUNTS.items() if ',' not in k), collections.Counter())
    for kind,c in COUNTS.items(): sys.stdout.write(f'\n{kind}: {sum(c.values())}: ' + ', '.join(f'{k} {n}' for k,n in c.most_common()))

def kind_of(e):
    "An error message without its names and numbers"
    text = re.sub(r'/\S*?(: |$)', '', str(e), count=1)
    return re.sub(r"\(.*|'.*|\d+.*", '', text)[:40].strip(' :;,') or 'names what is wrong first'

def attempt(kind, root, f, *names):
    "The result of `f`, or None where it refused; a refusal is one printable line that names the download or one of `names`"
    before = state(root)
    with quickly(), warnings.catch_warnings():
        warnings.simplefilter('ignore')
        try: res = f()
        except InputError as e:
            res,text = None,str(e)
            assert text and len(text) < 1500 and text.isprintable(), text
            assert any(str(o) in text for o in (root, *names)), text
            COUNTS[kind]['refused'] += 1
            COUNTS[f'{kind}, why']['refused: ' + kind_of(e)] += 1
        else: COUNTS[kind]['accepted'] += 1
    assert state(root) == before, 'the download was changed'
    return res

# ---- images

def originals(rng):
    "{name: bytes} of one picture of noise in every file type"
    x = np.random.default_rng(rng.randrange(2**32)).integers(0, 256, (44, 40))
    res = {}
    for ext,kw in dict(png={}, jpg=dict(quality=90), webp=dict(lossless=True), bmp={}, tif={}, tiff=dict(compression='tiff_lzw')).items():
        Image.fromarray(x.astype(np.uint8)).save(b := io.BytesIO(), {'jpg': 'JPEG', 'tif': 'TIFF'}.get(ext, ext.upper()), **kw)
        res[f'picture.{ext}'] = b.getvalue()
    Image.fromarray((x*250).astype(np.uint16)).save(b := io.BytesIO(), 'PNG')
    res['sixteen.png'] = b.getvalue()
    for o in (ExplicitVRLittleEndian, ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian, RLELossless): res[f'{o.keyword}.dcm'] = packed(dataset(x, syntax=o))
    return res

def packed(ds):
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = '1.2.3' # compressing draws another each time
    ds.save_as(b := io.BytesIO(), enforce_file_format=True)
    return b.getvalue()

HEADER = dict(Rows=[0, 1, 65535], Columns=[0, 1, 65535], BitsAllocated=[0, 7, 12, 32, 64, 65535], BitsStored=[0, 1, 15, 64], HighBit=[0, 63], SamplesPerPixel=[0, 2, 3, 65535], PixelRepresentation=[2, 255],
              PhotometricInterpretation=['', 'YBR_FULL', 'PALETTE COLOR', 'nonsense', 'MONOCHROME1'], NumberOfFrames=['0', '2', '-1', '99999999'], PlanarConfiguration=[7], WindowWidth=['0', '-5', '1e400'],
              WindowCenter=['nan'], RescaleSlope=['0', 'inf', '-1e300'], RescaleIntercept=['nan'], PixelPaddingValue=[0, 65535], PixelData=[b'', b'\0', b'\0'*10_000_001])

def odd_header(rng):
    "A DICOM file with one or two nonsensical or lacking tags"
    x = np.random.default_rng(rng.randrange(2**32)).integers(0, 4000, (44, 40))
    ds = dataset(x, syntax=rng.choice([ExplicitVRLittleEndian, ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian, RLELossless]))
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        for tag in rng.sample(list(HEADER), rng.choice([1, 1, 2])):
            if rng.random() < .3 and tag in ds: delattr(ds, tag)
            else:
                try: setattr(ds, tag, rng.choice(HEADER[tag]))
                except ValueError: pass # the writer refuses some
        try: return packed(ds)
        except Exception: return packed(dataset(x))[:200]

def png_chunk(kind, data): return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))

def bomb(rng):
    "A small file that claims to be huge"
    w,h = rng.choice([(60_000, 60_000), (2**31-1, 2**31-1), (1, 2**31-1), (20_000, 15_000)])
    kind = rng.choice(['png', 'text', 'bmp', 'webp', 'tif', 'jpg', 'deflated', 'rle'])
    x = np.zeros((44, 40), np.uint8)
    if kind == 'png': return 'png',b'\x89PNG\r\n\x1a\n' + png_chunk(b'IHDR', struct.pack('>IIBBBBB', w, h, 8, 0, 0, 0, 0)) + png_chunk(b'IDAT', zlib.compress(bytes(2_000_000))) + png_chunk(b'IEND', b'')
    if kind == 'text': return 'png',b'\x89PNG\r\n\x1a\n' + png_chunk(b'IHDR', struct.pack('>IIBBBBB', 4, 4, 8, 0, 0, 0, 0)) + png_chunk(b'zTXt', b'a\0\0' + zlib.compress(bytes(50_000_000))) + png_chunk(b'IEND', b'')
    if kind in ('deflated', 'rle'):
        ds = dataset(np.zeros((44, 40), int), syntax=DeflatedExplicitVRLittleEndian if kind == 'deflated' else RLELossless)
        ds.Rows = ds.Columns = min(w, 65535)
        return 'dcm',packed(ds)
    Image.fromarray(x).save(b := io.BytesIO(), {'jpg': 'JPEG', 'tif': 'TIFF'}.get(kind, kind.upper()))
    raw = bytearray(b.getvalue())
    if kind == 'bmp': raw[18:26] = struct.pack('<ii', w, h)
    if kind == 'jpg': at = raw.index(b'\xff\xc0'); raw[at+5:at+9] = b'\xff'*4
    if kind == 'tif': raw = raw.replace(struct.pack('<HHII', 256, 4, 1, 40), struct.pack('<HHII', 256, 4, 1, w)).replace(struct.pack('<HHII', 257, 4, 1, 44), struct.pack('<HHII', 257, 4, 1, h))
    if kind == 'webp': raw[26:30] = b'\xff'*4
    return kind,bytes(raw)

def damaged(rng):
    "(kind of damage, extension, bytes, whether it must be refused) of one file"
    how = rng.choice(['cut', 'flip', 'flip', 'splice', 'header', 'header', 'bomb', 'filled', 'other'])
    if how == 'header': return how,'dcm',odd_header(rng),False
    if how == 'bomb': return how,*bomb(rng),False
    files = originals(rng)
    name = rng.choice(list(files))
    ext,x = name.split('.')[1],bytearray(files[name])
    if how == 'cut':
        at = rng.randrange(len(x))
        return how,ext,bytes(x[:at]),at < .85*len(x)
    if how == 'flip':
        for _ in range(rng.choice([1, 3, 30])): x[rng.randrange(rng.choice([len(x), min(len(x), 400)]))] ^= 1 << rng.randrange(8)
    if how == 'splice':
        y = files[rng.choice(list(files))]
        x = x[:rng.randrange(len(x))] + y[rng.randrange(len(y)):]
    if how == 'filled':
        a,n = rng.randrange(len(x)),rng.choice([4, 64, 2000])
        x[a:a+n] = rng.choice([b'\0', b'\xff', b'%PDF'])*n
    if how == 'other': x = rng.choice([b'', b'\0'*132 + b'DICM', b'<html>404 Not Found</html>', b'version https://git-lfs.github.com/spec/v1\n', rng.randbytes(3000), b'\x89PNG\r\n\x1a\n', b'GIF89a' + rng.randbytes(50)])
    return how,ext,bytes(x),how == 'other'

CHILD = '''
import json, resource, sys, warnings
resource.setrlimit(resource.RLIMIT_AS, (6*2**30, 6*2**30))
from refers_nb.data.prepare import prepare
df = prepare('folder', sys.argv[1], sys.argv[2], size=32, workers=0, max_rejected=1)
print(json.dumps(dict(peak=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)))
'''

def test_images(tmp_path):
    "In a process of its own, with a limit of memory: a decoder that crashes would take the tests with it"
    rng,n,raw,out = random.Random(SEED),round(.55*N),tmp_path/'raw',tmp_path/'out'
    (raw/'images').mkdir(parents=True)
    made = [damaged(rng) for _ in range(n)]
    for i,(_,ext,x,_) in enumerate(made): (raw/'images'/f'{i}.{ext}').write_bytes(x)
    whole = {f'images/whole-{k}': x for k,x in originals(rng).items()}
    for k,x in whole.items(): (raw/k).write_bytes(x)
    names = [f'images/{i}.{o[1]}' for i,o in enumerate(made)] + list(whole)
    pd.DataFrame(dict(path=names)).to_csv(raw/'table.csv', index=False)
    before = state(tmp_path, out)
    r = subprocess.run([sys.executable, '-c', CHILD, str(raw), str(out)], capture_output=True, text=True, timeout=300)
    assert r.returncode == 0, r.stderr[-3000:]
    assert state(tmp_path, out) == before
    bad = pd.read_csv(out/'rejected.csv').set_index('path')['reason']
    df,store = pd.read_parquet(out/'studies.parquet'),ImageStore(out)
    assert list(df['path']) == list(store.index['path']) and sorted([*df['path'], *bad.index]) == sorted(names)
    assert set(whole) <= set(df['path']) and all(store[k].std() > 30 for k in whole)
    assert all(o.strip() and '\n' not in o and len(o) <= 300 and str(tmp_path) not in o for o in bad), list(bad)
    assert (store.index[['height', 'width']] > 0).all(axis=None)
    for name,(how,_,_,must) in zip(names, made):
        assert name in bad.index or not must, (name, how)
        COUNTS['images']['rejected' if name in bad.index else 'accepted'] += 1
        COUNTS[f'images, {how}']['rejected' if name in bad.index else 'accepted'] += 1
    COUNTS['images, process'] += collections.Counter(json.loads(r.stdout))

# ---- tables

NAMES = dict(mimic_cxr='dicom_id', iu_xray='filename', nih14='Image Index', vinbig='image_id', shenzhen='study_id', covid='filename', folder='path')

def nih_with_boxes(root):
    nih(root, 16)
    (root/'BBox_List_2017.csv').write_text('Image Index,Finding Label,Bbox [x,y,w,h],,,\n' + ''.join(f'{i//2:08d}_{i%2:03d}.png,Mass,{i},2,3,4,,,\n' for i in range(8)))
    return root

def corona_with_split(root):
    corona(root)
    (root/'split.csv').write_text('filename,refers_split,covid\n' + ''.join(f"{i}.jpg,{['train', 'val', 'train', 'test'][i//2 % 4]},{i//4 % 2}\n" for i in range(16)))
    return root

def indiana_with_split(root):
    indiana(root)
    (root/'split.csv').write_text('uid,split\n' + ''.join(f"{i},{['train', 'val'][i % 2]}\n" for i in range(1, 13)))
    return root

def with_lists(source, make, rows):
    "A download beside lists of the release"
    def run(root):
        make(root)
        lists(root, source, rows)
        return root
    return run

VIN = with_lists('vinbig', lambda o: vin(o, 10), {s: [(f'{i:032x}.png', [int(j == i) for j in range(14)]) for i in range(*r)] for s,r in dict(train=(0, 6), val=(6, 8), test=(8, 9)).items()})
SHEN = with_lists('shenzhen', lambda o: shen(o, 12), {s: [(f'CHNCXR_{i:04d}_{int(i > 6)}.png', (int(i <= 6), int(i > 6))) for i in range(*r)] for s,r in dict(train=(1, 9), val=(9, 11), test=(11, 12)).items()})
# builder, source, the files that are damaged, the table of names, options
TREES = dict(
    mimic=(lambda o: mimic(o, 8), 'mimic_cxr', ['mimic-cxr-2.0.0-metadata.csv.gz', 'mimic-cxr-2.0.0-split.csv.gz', 'mimic-cxr-2.0.0-chexpert.csv.gz', 'mimic-cxr-2.0.0-negbio.csv.gz'], 'mimic-cxr-2.0.0-metadata.csv.gz', ()),
    indiana=(indiana_with_split, 'iu_xray', ['indiana_reports.csv', 'indiana_projections.csv', 'split.csv'], 'indiana_projections.csv', ()),
    nih=(nih_with_boxes, 'nih14', ['Data_Entry_2017.csv', 'test_list.txt', 'BBox_List_2017.csv'], 'Data_Entry_2017.csv', ()),
    vin=(VIN, 'vinbig', ['train.csv', 'DataProcessed/VinBigData_Chest_X-ray/train.txt', 'DataProcessed/VinBigData_Chest_X-ray/test.txt'], 'train.csv', ('lists',)),
    shen=(lambda o: shen(o, 12, texts=False), 'shenzhen', ['shenzhen_metadata.csv'], 'shenzhen_metadata.csv', ()),
    texts=(SHEN, 'shenzhen', ['ClinicalReadings/CHNCXR_0003_0.txt', 'DataProcessed/Shenzhen_Tuberculosis/val.txt'], None, ('lists',)),
    corona=(corona_with_split, 'covid', ['metadata.csv', 'split.csv'], 'metadata.csv', ()),
    own=(lambda o: own(o, 12), 'folder', ['list.csv'], 'list.csv', ()))

def text_damage(rng, x, names):
    "(kind, bytes) of a text file that went wrong"
    lines = x.decode().split('\n')[:-1]
    i,k = rng.randrange(len(lines)),rng.randrange(1, max(2, len(lines)))
    cells = lines[i].split(',')
    c = rng.randrange(len(cells))
    def line(o, at=i): return '\n'.join([*lines[:at], *([o] if o is not None else []), *lines[at+1:], ''])
    def cell(o): return line(','.join([*cells[:c], o, *cells[c+1:]]))
    how = rng.choice(['cut', 'flip', 'utf-16', 'utf-16-le', 'latin-1', 'nul', 'bom', 'missing cells', 'extra cell', 'extra cell in all', 'open quote', 'quotes', 'header twice', 'empty lines', 'header only',
                      'huge cell', 'row twice', 'row twice', 'rows differ', 'no row', 'path', 'name', 'value', 'value', 'value', 'returns', 'shuffled', 'empty', 'no header', 'noise'])
    if how == 'cut': return how,x[:rng.randrange(len(x))]
    if how == 'flip':
        x = bytearray(x)
        for _ in range(rng.choice([1, 5, 50])): x[rng.randrange(len(x))] ^= 1 << rng.randrange(8)
        return how,bytes(x)
    if how == 'noise': return how,rng.randbytes(400)
    if how == 'latin-1': return how,cell('Müller').encode('latin-1')
    text = dict(nul=lambda: cell(rng.choice(['\0', 'a\0b', cells[c] + '\0'])), bom=lambda: '\ufeff' + x.decode(), empty=lambda: rng.choice(['', '\n', '\n\n\n', ' ', ',,,\n']))
    text |= {'missing cells': lambda: line(','.join(cells[:c])), 'extra cell': lambda: line(','.join([*cells[:c], 'x', *cells[c:]])), 'extra cell in all': lambda: '\n'.join([lines[0]] + [o + ',x' for o in lines[1:]] + ['']),
             'open quote': lambda: cell('"' + cells[c]), 'quotes': lambda: cell(rng.choice(['""', '"""', '"a""b"', '"a\nb"', '"a,b"', 'a"b"c', "'a,b'"])),
             'header twice': lambda: '\n'.join([lines[0] + ',' + lines[0].split(',')[rng.randrange(len(lines[0].split(',')))]] + [o + ',1' for o in lines[1:]] + ['']),
             'empty lines': lambda: '\n'.join([*lines[:i], rng.choice(['', '', ',' * (len(cells)-1), '  ']), *lines[i:], '', '', '']), 'header only': lambda: lines[0] + rng.choice(['', '\n']),
             'huge cell': lambda: cell(rng.choice(['a', '9', 'ä ', '"a', '. (', '\t']) * 300_000), 'row twice': lambda: '\n'.join([*lines, lines[k % len(lines)], '']),
             'rows differ': lambda: '\n'.join([*lines, lines[k % len(lines)].rpartition(',')[0] + ',0', '']), 'no row': lambda: line(None), 'returns': lambda: x.decode().replace('\n', rng.choice(['\r\n', '\r', '\n\n', ';'])),
             'path': lambda: cell(rng.choice(['/etc/passwd', '../../outside.png', '..', 'C:\\x.png', '\\\\host\\x.png', 'images', '/', '~/x.png', 'file:///etc/passwd', 'a/../../../b.png', '.'])),
             'name': lambda: cell(rng.choice(['ä.png', 'a\u0308.png', '🫁.png', 'x'*5000 + '.png', '"a\nb.png"', 'nan', 'None', '-', ' ' + cells[c] + ' ', cells[c].upper(), '\u202e.png'])),
             'value': lambda: cell(rng.choice(['', '-1', '0.5', '1e400', 'inf', 'nan', 'maybe', '2', '999', 'Tumour', 'test', 'train', 'X-ray', rng.choice(names), 'x|y', 'CT', '٣'])),
             'shuffled': lambda: '\n'.join([lines[0], *rng.sample(lines[1:], len(lines)-1), '']), 'no header': lambda: '\n'.join([*lines[1:], ''])}
    return how,(text[how]() if how in text else x.decode()).encode(how if how.startswith('utf') else 'utf-8')

def bare(name): return re.sub(r'\.[A-Za-z]\w+$', '', unicodedata.normalize('NFC', name).replace('\\', '/').rpartition('/')[2])

def in_notes(df, words):
    "The number that a note with these words tells"
    return sum(int(o.split()[0].replace(',', '')) for o in df.attrs['notes'] if words in o)

def images_below(root):
    "Paths of the ordinary image files below a folder, links followed, each folder once"
    res,seen = set(),set()
    for folder,dirs,files in os.walk(root, followlinks=True):
        if os.path.realpath(folder) in seen: dirs.clear(); continue
        seen.add(os.path.realpath(folder))
        dirs[:] = sorted(o for o in dirs if o[0] != '.')
        res |= {os.path.relpath(os.path.join(folder, o), root) for o in files if o[0] != '.' and os.path.isfile(os.path.join(folder, o)) and re.search(r'\.(png|jpe?g|webp|dcm|dicom|tiff?|bmp)$', o, re.I)}
    return res

def account(df, root, table=None, col=None):
    "Each image file and each name of the table is a row, missing, extra, or in a note that counts it"
    files,rows = images_below(root),set(df['path'])
    dropped = in_notes(df, 'in no split')
    other = in_notes(df, 'of another modality')
    assert len(df) and df['path'].is_unique and rows <= files and not rows & set(df.attrs['extra'])
    assert len(files) - len(rows) - len(df.attrs['extra']) <= dropped + other, 'an image file that nothing tells of'
    assert len(files) - len(rows) - len(df.attrs['extra']) >= dropped
    if table is None: return
    text = io.StringIO(table.decode('utf-8-sig'), newline='')
    named = {r[col].strip() for r in csv.DictReader(text) if any(isinstance(o, str) and o.strip() for o in r.values())}
    lost = [o for o in named if bare(o) not in {bare(p) for p in rows} and o not in df.attrs['missing']]
    assert len(lost) <= dropped + other, f'names that nothing tells of: {lost[:5]}'

@pytest.fixture(scope='module')
def trees(tmp_path_factory):
    "Each small download once; a test puts back what it damaged"
    base = tmp_path_factory.mktemp('trees')
    (base/'outside.png').write_bytes(b'not to be touched')
    return {k: o[0](base/k) for k,o in TREES.items()}

def unpacked(path): return zlib.decompress(path.read_bytes(), 31) if path.suffix == '.gz' else path.read_bytes()

def put(path, x):
    if path.suffix == '.gz':
        z = zlib.compressobj(1, wbits=31)
        x = z.compress(x) + z.flush()
    path.write_bytes(x)

def check_store(kind, root, source, out, kw, df):
    "Now and then the whole way: table and store agree"
    res = attempt(kind + ', prepare', root, lambda: prepare(source, root, out, size=16, workers=0, max_rejected=.5, **kw), out)
    if res is None: return
    assert list(res['path']) == list(ImageStore(out).index['path']) and set(res['path']) <= set(df['path'])
    gone = pd.read_csv(out/'missing.csv', keep_default_na=False)
    assert len(gone) == len(df.attrs['missing']) + len(df.attrs['extra'])

@pytest.mark.parametrize('name', TREES)
def test_tables(trees, tmp_path, name):
    _,source,damage,table,options = TREES[name]
    root,rng = trees[name],random.Random(f'{SEED} {name}')
    kw = {o: root/'DataProcessed' for o in options}
    with quickly(): account(SOURCES[source](root, **kw), root, table and unpacked(root/table), NAMES[source])
    names = [p.name for p in root.rglob('*.[pj][np]g')]
    for i in range(round(.3*N/len(TREES))):
        file = root/damage[i % len(damage)]
        whole = file.read_bytes()
        how,x = text_damage(rng, unpacked(file), names)
        put(file, x)
        if file.suffix == '.gz' and rng.random() < .1: how,_ = 'cut gz',file.write_bytes(file.read_bytes()[:rng.randrange(file.stat().st_size)])
        try:
            df = attempt('tables', root, lambda: (d := SOURCES[source](root, **kw), boxes(source, root, d))[0], file)
            COUNTS[f'tables, {how}']['refused' if df is None else 'accepted'] += 1
            if df is not None:
                account(df, root, table and unpacked(root/table), NAMES[source])
                if i % 40 == 0: check_store('tables', root, source, tmp_path/'out', kw, df)
        except BaseException as e: raise AssertionError(f'{name}, {file.name}, {how}, number {i}: {x[:300]!r}') from e
        finally: file.write_bytes(whole)

# ---- reports of Open-i, archives, lists of checksums, Parquet

BOMB = '<!DOCTYPE x [<!ENTITY a "' + 'b'*1000 + '">' + ''.join(f'<!ENTITY {chr(98+i)} "{f"&{chr(97+i)};"*20}">' for i in range(8)) + ']>'
XML = [lambda o: o.replace('encoding="utf-8"', 'encoding="utf-16"'), lambda o: o.replace('utf-8', 'klingon'), lambda o: o.replace('utf-8', 'iso-2022-jp'), lambda o: o.replace('<eCitation>', BOMB + '<eCitation>&i;'),
       lambda o: o.replace('<eCitation>', '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]><eCitation>').replace('FINDINGS">', 'FINDINGS">&a;'), lambda o: o.replace('<eCitation>', '<eCitation>' + '<a>'*60_000), lambda o: o.replace('<eCitation>', '<!DOCTYPE x SYSTEM "http://localhost:9/x.dtd"><eCitation>'),
       lambda o: o.replace('"CXR', '"CXR&#10;'), lambda o: re.sub('<uId id="CXR[0-9]+"/>', '<uId id="CXR5"/>', o), lambda o: re.sub('<uId.*?/>', '', o), lambda o: re.sub('<parentImage.*</parentImage>', '', o), lambda o: o.replace('IM-', '../../IM-'),
       lambda o: o.replace('FINDINGS', 'findings '), lambda o: o.replace('FINDINGS">', 'FINDINGS">' + 'a. '*500_000), lambda o: o.replace('FINDINGS">', 'FINDINGS">\u202eä\u0308'), lambda o: '', lambda o: '\ufeff' + o, lambda o: '<html/>', lambda o: o + o]

def test_reports_in_xml(tmp_path):
    root,rng = openi(tmp_path/'raw'),random.Random(f'{SEED} xml')
    files = sorted((root/'ecgen-radiology').iterdir())
    whole = {p: p.read_bytes() for p in files}
    for i in range(round(.05*N)):
        some = rng.sample(files, rng.choice([1, 1, 3, 12]))
        for p in some:
            x = whole[p]
            if rng.random() < .7: x = rng.choice(XML)(x.decode()).encode()
            elif rng.random() < .5: x = x[:rng.randrange(len(x))]
            else:
                x = bytearray(x)
                for _ in range(rng.choice([1, 10])): x[rng.randrange(len(x))] ^= 1 << rng.randrange(8)
            p.write_bytes(x)
        df = attempt('xml', root, lambda: iu_xray(root))
        if df is not None:
            account(df, root)
            assert not df['report'].str.contains('root:').any() and df['report'].str.len().max() < 2_000_000
            told = in_notes(df, 'cannot be read and left out')
            assert df['study'].nunique() + told + in_notes(df, 'a report but no image') <= len(files)
        for p in some: p.write_bytes(whole[p])

def zip_damage(rng, x):
    "The bytes of an archive that went wrong, or another archive"
    how = rng.choice(['cut', 'flip', 'flip', 'encrypted', 'members', 'bomb', 'method', 'none'])
    if how == 'cut': return x[:rng.randrange(len(x))]
    if how == 'none': return rng.choice([b'', b'PK\5\6' + bytes(18), rng.randbytes(500)])
    x = bytearray(x)
    if how == 'flip':
        for _ in range(rng.choice([1, 10, 100])): x[rng.randrange(rng.choice([len(x), 300])) * rng.choice([1, -1])] ^= 1 << rng.randrange(8)
    if how in ('encrypted', 'method'):
        for at in [m.start() for m in re.finditer(b'PK\1\2', x)]: x[at+8 if how == 'encrypted' else at+10] = 1 if how == 'encrypted' else rng.choice([1, 9, 12, 14, 99])
    if how in ('flip', 'encrypted', 'method'): return bytes(x)
    with zipfile.ZipFile(b := io.BytesIO(bytes(x)), 'a', rng.choice([zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])) as z, warnings.catch_warnings():
        warnings.simplefilter('ignore') # names that are there twice
        names = z.namelist()
        for _ in range(3):
            name = rng.choice(['../../escape.txt', '/escape.txt', 'files/p10/p10000000/../../../s50000000.txt', 'C:\\escape.txt', 'files/p10/', 'ä'*200, rng.choice(names), '\u202e.txt'])
            z.writestr(name, 'FINDINGS: ' + 'Secret. '*(2_000_000//8 if how == 'bomb' else 3))
    return b.getvalue()

def test_archives(tmp_path):
    root,rng = mimic(tmp_path/'raw', 8),random.Random(f'{SEED} zip')
    z = root/'mimic-cxr-reports.zip'
    whole,full = z.read_bytes(),mimic_cxr(root).set_index('path')['report']
    for _ in range(round(.03*N)):
        z.write_bytes(zip_damage(rng, whole))
        df = attempt('archives', root, lambda: mimic_cxr(root))
        assert not list(tmp_path.rglob('*escape*')) and not Path('/escape.txt').exists()
        if df is None: continue
        account(df, root)
        one = df.drop_duplicates('study')
        empty = int((one['report'] == '').sum())
        assert empty == in_notes(df, 'no report') + in_notes(df, 'cannot be read from'), 'a report that is lost, and nothing tells of it'
        same = df.set_index('path')['report']
        assert df['report'].str.len().max() < 100 and all(o in ('', full[p]) or 'Secret' in o for p,o in same.items())

def test_lists_of_checksums(tmp_path):
    import hashlib
    root,rng = own(tmp_path/'raw', 12),random.Random(f'{SEED} sums')
    whole = ''.join(f'{hashlib.sha256(p.read_bytes()).hexdigest()}  {p.relative_to(root)}\n' for p in sorted(root.rglob('*.png'))).encode()
    for _ in range(round(.015*N)):
        (root/'SUMS').write_bytes(text_damage(rng, whole, ['pictures/0.png'])[1])
        o = attempt('checksums', root, lambda: verify_checksums(root/'SUMS'))
        assert o is None or len(o) and set(o['status']) <= {'ok', 'changed', 'missing'}

def test_parquet(tmp_path):
    root,rng = own(tmp_path/'raw', 12),random.Random(f'{SEED} parquet')
    base = pd.read_csv(root/'list.csv')
    (root/'list.csv').unlink()
    odd = [lambda o: o.set_index('path'), lambda o: o.assign(path=range(12)), lambda o: o.assign(path=[b'\xff']*12), lambda o: o.assign(report=[['a', 'b']]*12), lambda o: o.assign(age=pd.Timestamp('2020-01-01')), lambda o: o.assign(**{'': 1}),
           lambda o: o[:0], lambda o: o.assign(path=None), lambda o: o.rename(columns={'effusion': 'label:'}), lambda o: o.assign(Path='x'), lambda o: o.set_axis(range(8), axis=1), lambda o: o.set_index([0]*12 if 0 in o else o['study']), lambda o: o.assign(view=7.5, sex=True)]
    for _ in range(round(.015*N)):
        rng.choice(odd)(base).to_parquet(root/'list.parquet') if rng.random() < .5 else base.to_parquet(root/'list.parquet')
        x = bytearray((root/'list.parquet').read_bytes())
        if rng.random() < .5: x = x[:rng.randrange(len(x))] if rng.random() < .3 else x
        elif rng.random() < .7: x[rng.randrange(len(x))] ^= 1 << rng.randrange(8)
        (root/'list.parquet').write_bytes(x)
        df = attempt('parquet', root, lambda: folder(root))
        if df is not None: account(df, root)

# ---- names, links, pipes

ODD = ['name', 'folder name', 'pipe', 'broken', 'loop', 'zero', 'outside', 'up', 'folder', 'outside folder', 'socket']

def odd_entry(rng, root, outside, what):
    "Put something odd into a download"
    def at(name, *parts):
        p = Path(os.fsdecode(os.path.join(os.fsencode(root), *map(os.fsencode, parts), name if isinstance(name, bytes) else name.encode())))
        p.parent.mkdir(parents=True, exist_ok=True)
        return p
    files = sorted(p for p in root.rglob('*') if p.is_file() and not p.is_symlink())
    images,tables = [p for p in files if p.suffix in ('.png', '.jpg')],[p for p in files if p.suffix in ('.csv', '.txt', '.xml', '.gz', '.zip')]
    victim = rng.choice(images if rng.random() < .6 or not tables else tables)
    names = [b'\xff\xfe.png', b'a\nb.png', '🫁.png', 'a\u0308.png', 'ä.png', b'x'*251 + b'.png', b' .png', b'-rf.png', b'\x1b[31m.png', '\u202egnp.png', b'\xed\xa0\x80.png', b'.png', b'%s.png', b"';--.png"]
    def replace(make): victim.unlink(), make(victim)
    if what == 'name': at(rng.choice(names)).write_bytes(images[0].read_bytes())
    if what == 'folder name': os.rename(victim, at(os.path.basename(os.fsencode(victim)), rng.choice(['d', '🫁', 'a\u0308', b'd\xff', b'd\n', 'd.png', 'd'*200]), rng.choice([b'b', b'\xff', b'n\nl'])))
    if what == 'pipe': replace(os.mkfifo)
    if what == 'broken': replace(lambda p: os.symlink('nowhere', p))
    if what == 'loop': replace(lambda p: os.symlink(p.name, p))
    if what == 'zero': replace(lambda p: os.symlink('/dev/zero', p))
    if what == 'outside': replace(lambda p: os.symlink(outside/'a.png', p))
    if what == 'up': os.symlink(rng.choice([root, root.parent/'raw', '.']), at('up.png')), os.symlink('..', at('up', 'inner'))
    if what == 'folder': replace(os.mkdir)
    if what == 'outside folder': os.symlink(outside, at('elsewhere'))
    if what == 'socket': os.mknod(at('socket.png'), 0o140600), os.mkfifo(at('pipe.csv')), os.mkfifo(at('pipe.xml')), os.mkfifo(at('CHNCXR_0009_0.txt'))

def test_names_links_and_pipes(trees, tmp_path):
    import shutil
    rng = random.Random(f'{SEED} names')
    (tmp_path/'outside').mkdir()
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(tmp_path/'outside'/'a.png')
    makers = {k: (o[1], o[4]) for k,o in TREES.items()} | dict(openi=('iu_xray', ()))
    openi(trees_root := tmp_path/'openi')
    for i in range(round(.04*N)):
        name = list(makers)[i % len(makers)]
        source,options = makers[name]
        root = tmp_path/'case'/'raw'
        shutil.copytree(trees_root if name == 'openi' else trees[name], root, symlinks=True)
        what = rng.sample(ODD, rng.choice([1, 1, 3]))
        for o in what: odd_entry(rng, root, tmp_path/'outside', o)
        kw = {o: root/'DataProcessed' for o in options}
        before = state(tmp_path/'outside')
        try:
            df = attempt('names and links', root, lambda: SOURCES[source](root, **kw))
            if df is not None:
                account(df, root)
                if i % 16 == 0: check_store('names and links', root, source, tmp_path/'out', kw, df)
        except BaseException as e: raise AssertionError(f'{name}, {what}, number {i}') from e
        assert state(tmp_path/'outside') == before
        shutil.rmtree(tmp_path/'case')
