"What can go wrong with a file: damage of every kind, drawn by a `random.Random`"
import io, os, re, struct, warnings, zipfile, zlib
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless
from radiograph_files import dataset

def flipped(rng, x, places):
    "Bytes with one bit changed at each place that `places` draws"
    x = bytearray(x)
    for at in places: x[at()] ^= 1 << rng.randrange(8)
    return bytes(x)

def anywhere(rng, x, times):
    "`times` functions that draw a place in `x`"
    return [lambda: rng.randrange(len(x))]*times

# ---- images

PIL_NAMES = dict(png='PNG', jpg='JPEG', webp='WEBP', bmp='BMP', tif='TIFF', tiff='TIFF')
PIL_OPTIONS = dict(
    png={}, jpg=dict(quality=90), webp=dict(lossless=True), bmp={}, tif={}, tiff=dict(compression='tiff_lzw'))
SYNTAXES = [ExplicitVRLittleEndian, ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian, RLELossless]

def noise(rng, most):
    "Values of a small picture, below `most`"
    return np.random.default_rng(rng.randrange(2**32)).integers(0, most, (44, 40))

def encoded(x, kind, **kw):
    "Bytes of a picture as PIL writes it"
    Image.fromarray(x).save(b := io.BytesIO(), PIL_NAMES[kind], **kw)
    return b.getvalue()

def packed(ds):
    "Bytes of a DICOM dataset"
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = '1.2.3' # compressing draws another each time
    ds.save_as(b := io.BytesIO(), enforce_file_format=True)
    return b.getvalue()

def originals(rng):
    "{name: bytes} of one picture of noise in every file type"
    x = noise(rng, 256)
    res = {f'picture.{ext}': encoded(x.astype(np.uint8), ext, **kw) for ext, kw in PIL_OPTIONS.items()}
    res['sixteen.png'] = encoded((x*250).astype(np.uint16), 'png')
    for o in SYNTAXES: res[f'{o.keyword}.dcm'] = packed(dataset(x, syntax=o))
    return res

HEADER = dict(
    Rows=[0, 1, 65535], Columns=[0, 1, 65535], BitsAllocated=[0, 7, 12, 32, 64, 65535], BitsStored=[0, 1, 15, 64],
    HighBit=[0, 63], SamplesPerPixel=[0, 2, 3, 65535], PixelRepresentation=[2, 255],
    PhotometricInterpretation=['', 'YBR_FULL', 'PALETTE COLOR', 'nonsense', 'MONOCHROME1'],
    NumberOfFrames=['0', '2', '-1', '99999999'], PlanarConfiguration=[7], WindowWidth=['0', '-5', '1e400'],
    WindowCenter=['nan'], RescaleSlope=['0', 'inf', '-1e300'], RescaleIntercept=['nan'],
    PixelPaddingValue=[0, 65535], PixelData=[b'', b'\0', b'\0'*10_000_001])

def odd_header(rng):
    "A DICOM file with one or two nonsensical or lacking tags"
    x = noise(rng, 4000)
    ds = dataset(x, syntax=rng.choice(SYNTAXES))
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        for tag in rng.sample(list(HEADER), rng.choice([1, 1, 2])):
            if rng.random() < .3 and tag in ds:
                delattr(ds, tag)
                continue
            try: setattr(ds, tag, rng.choice(HEADER[tag]))
            except ValueError: pass # the writer refuses some
        try: return packed(ds)
        except Exception: return packed(dataset(x))[:200]

def png_chunk(kind, data):
    "A part of a PNG file"
    return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))

def png_bomb(w, h, kind, data):
    "A PNG file of a claimed size with one compressed part"
    size = png_chunk(b'IHDR', struct.pack('>IIBBBBB', w, h, 8, 0, 0, 0, 0))
    return b'\x89PNG\r\n\x1a\n' + size + png_chunk(kind, data) + png_chunk(b'IEND', b'')

def dicom_bomb(side, syntax):
    "A compressed DICOM file of a claimed size"
    ds = dataset(np.zeros((44, 40), int), syntax=syntax)
    ds.Rows = ds.Columns = min(side, 65535)
    return packed(ds)

def tiff_tag(number, value): return struct.pack('<HHII', number, 4, 1, value)

def bomb(rng):
    "(extension, bytes) of a small file that claims to be huge"
    w, h = rng.choice([(60_000, 60_000), (2**31-1, 2**31-1), (1, 2**31-1), (20_000, 15_000)])
    kind = rng.choice(['png', 'text', 'bmp', 'webp', 'tif', 'jpg', 'deflated', 'rle'])
    if kind == 'png': return 'png', png_bomb(w, h, b'IDAT', zlib.compress(bytes(2_000_000)))
    if kind == 'text': return 'png', png_bomb(4, 4, b'zTXt', b'a\0\0' + zlib.compress(bytes(50_000_000)))
    if kind == 'deflated': return 'dcm', dicom_bomb(w, DeflatedExplicitVRLittleEndian)
    if kind == 'rle': return 'dcm', dicom_bomb(w, RLELossless)
    raw = bytearray(encoded(np.zeros((44, 40), np.uint8), kind))
    if kind == 'bmp': raw[18:26] = struct.pack('<ii', w, h)
    if kind == 'webp': raw[26:30] = b'\xff'*4
    if kind == 'tif':
        raw = raw.replace(tiff_tag(256, 40), tiff_tag(256, w))
        raw = raw.replace(tiff_tag(257, 44), tiff_tag(257, h))
    if kind == 'jpg':
        at = raw.index(b'\xff\xc0')
        raw[at+5:at+9] = b'\xff'*4
    return kind, bytes(raw)

def no_image(rng):
    "The content of a file that only has the name of an image"
    return rng.choice([
        b'', b'\0'*132 + b'DICM', b'<html>404 Not Found</html>', b'version https://git-lfs.github.com/spec/v1\n',
        rng.randbytes(3000), b'\x89PNG\r\n\x1a\n', b'GIF89a' + rng.randbytes(50)])

def damaged(rng):
    "(kind of damage, extension, bytes, whether it must be refused) of one file"
    how = rng.choice(['cut', 'flip', 'flip', 'splice', 'header', 'header', 'bomb', 'filled', 'other'])
    if how == 'header': return how, 'dcm', odd_header(rng), False
    if how == 'bomb': return how, *bomb(rng), False
    files = originals(rng)
    name = rng.choice(list(files))
    ext = name.split('.')[1]
    x = files[name]
    if how == 'other': return how, ext, no_image(rng), True
    if how == 'cut':
        at = rng.randrange(len(x))
        return how, ext, x[:at], at < .85*len(x)
    if how == 'flip':
        often_early = [lambda: rng.randrange(rng.choice([len(x), min(len(x), 400)]))]
        x = flipped(rng, x, often_early*rng.choice([1, 3, 30]))
    if how == 'splice':
        other = files[rng.choice(list(files))]
        x = x[:rng.randrange(len(x))] + other[rng.randrange(len(other)):]
    if how == 'filled':
        at = rng.randrange(len(x))
        n = rng.choice([4, 64, 2000])
        x = x[:at] + rng.choice([b'\0', b'\xff', b'%PDF'])*n + x[at+n:]
    return how, ext, x, False

# ---- text files

class Text:
    "A text file, and the row and cell of it that go wrong"
    def __init__(self, rng, x, names):
        self.rng, self.x, self.names = rng, x, names
        self.lines = x.decode().split('\n')[:-1]
        self.row = rng.randrange(len(self.lines))
        self.other = rng.randrange(1, max(2, len(self.lines)))
        self.cells = self.lines[self.row].split(',')
        self.col = rng.randrange(len(self.cells))

    @property
    def header(self): return self.lines[0]
    @property
    def cell(self): return self.cells[self.col]
    @property
    def other_line(self): return self.lines[self.other % len(self.lines)]

    def joined(self, lines):
        "Lines as text"
        return '\n'.join([*lines, ''])

    def with_lines(self, *new):
        "The text with other lines in place of the row"
        return self.joined([*self.lines[:self.row], *new, *self.lines[self.row+1:]])

    def with_cell(self, new):
        "The text with another cell in place of the one"
        return self.with_lines(','.join([*self.cells[:self.col], new, *self.cells[self.col+1:]]))

    def one_of(self, *some):
        "The text with one of some cells"
        return self.with_cell(self.rng.choice(some))

def flip_text(t): return flipped(t.rng, t.x, anywhere(t.rng, t.x, t.rng.choice([1, 5, 50])))
def nul(t): return t.one_of('\0', 'a\0b', t.cell + '\0')
def missing_cells(t): return t.with_lines(','.join(t.cells[:t.col]))
def extra_cell(t): return t.with_lines(','.join([*t.cells[:t.col], 'x', *t.cells[t.col:]]))
def extra_cell_in_all(t): return t.joined([t.header, *(o + ',x' for o in t.lines[1:])])
def quotes(t): return t.one_of('""', '"""', '"a""b"', '"a\nb"', '"a,b"', 'a"b"c', "'a,b'")
def huge_cell(t): return t.with_cell(t.rng.choice(['a', '9', 'ä ', '"a', '. (', '\t'])*300_000)
def rows_differ(t): return t.joined([*t.lines, t.other_line.rpartition(',')[0] + ',0'])
def returns(t): return t.x.decode().replace('\n', t.rng.choice(['\r\n', '\r', '\n\n', ';']))
def shuffled(t): return t.joined([t.header, *t.rng.sample(t.lines[1:], len(t.lines)-1)])

def header_twice(t):
    "A column that is there twice"
    columns = t.header.split(',')
    twice = columns[t.rng.randrange(len(columns))]
    return t.joined([f'{t.header},{twice}', *(o + ',1' for o in t.lines[1:])])

def empty_lines(t):
    "Lines without a word"
    empty = t.rng.choice(['', '', ','*(len(t.cells)-1), '  '])
    return t.joined([*t.lines[:t.row], empty, *t.lines[t.row:], '', ''])

def odd_path(t):
    "A path that leads elsewhere"
    return t.one_of('/etc/passwd', '../../outside.png', '..', 'C:\\x.png', '\\\\host\\x.png', 'images', '/', '~/x.png',
                    'file:///etc/passwd', 'a/../../../b.png', '.')

def odd_name(t):
    "A name that few expect"
    return t.one_of('ä.png', 'a\u0308.png', '🫁.png', 'x'*5000 + '.png', '"a\nb.png"', 'nan', 'None', '-',
                    f' {t.cell} ', t.cell.upper(), '\u202e.png')

def odd_value(t):
    "A value that belongs elsewhere"
    return t.one_of('', '-1', '0.5', '1e400', 'inf', 'nan', 'maybe', '2', '999', 'Tumour', 'test', 'train', 'X-ray',
                    t.rng.choice(t.names or ['x']), 'x|y', 'CT', '٣')

TEXT_DAMAGE = {
    'cut': lambda t: t.x[:t.rng.randrange(len(t.x))],
    'flip': flip_text,
    'utf-16': lambda t: t.x.decode().encode('utf-16'),
    'utf-16-le': lambda t: t.x.decode().encode('utf-16-le'),
    'latin-1': lambda t: t.with_cell('Müller').encode('latin-1'),
    'nul': nul,
    'bom': lambda t: '\ufeff' + t.x.decode(),
    'missing cells': missing_cells,
    'extra cell': extra_cell,
    'extra cell in all': extra_cell_in_all,
    'open quote': lambda t: t.with_cell('"' + t.cell),
    'quotes': quotes,
    'header twice': header_twice,
    'empty lines': empty_lines,
    'header only': lambda t: t.header + t.rng.choice(['', '\n']),
    'huge cell': huge_cell,
    'row twice': lambda t: t.joined([*t.lines, t.other_line]),
    'rows differ': rows_differ,
    'no row': lambda t: t.with_lines(),
    'path': odd_path,
    'name': odd_name,
    'value': odd_value,
    'returns': returns,
    'shuffled': shuffled,
    'empty': lambda t: t.rng.choice(['', '\n', '\n\n\n', ' ', ',,,\n']),
    'no header': lambda t: t.joined(t.lines[1:]),
    'noise': lambda t: t.rng.randbytes(400)}
TEXT_WEIGHTS = {'row twice': 2, 'value': 3}
TEXT_KINDS = [k for k in TEXT_DAMAGE for _ in range(TEXT_WEIGHTS.get(k, 1))]

def text_damage(rng, x, names):
    "(kind, bytes) of a text file that went wrong"
    t = Text(rng, x, names)
    how = rng.choice(TEXT_KINDS)
    damaged = TEXT_DAMAGE[how](t)
    return how, damaged if isinstance(damaged, bytes) else damaged.encode()

# ---- reports of Open-i

def xml_bomb():
    "A document type whose entity `i` would grow to gigabytes"
    entities = ''.join(f'<!ENTITY {chr(98+i)} "{f"&{chr(97+i)};"*20}">' for i in range(8))
    return f'<!DOCTYPE x [<!ENTITY a "{"b"*1000}">{entities}]>'

OUTSIDE = '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]><eCitation>'
XML_DAMAGE = [
    lambda o: o.replace('encoding="utf-8"', 'encoding="utf-16"'),
    lambda o: o.replace('utf-8', 'klingon'),
    lambda o: o.replace('utf-8', 'iso-2022-jp'),
    lambda o: o.replace('<eCitation>', xml_bomb() + '<eCitation>&i;'),
    lambda o: o.replace('<eCitation>', OUTSIDE).replace('FINDINGS">', 'FINDINGS">&a;'),
    lambda o: o.replace('<eCitation>', '<eCitation>' + '<a>'*60_000),
    lambda o: o.replace('<eCitation>', '<!DOCTYPE x SYSTEM "http://localhost:9/x.dtd"><eCitation>'),
    lambda o: o.replace('"CXR', '"CXR&#10;'),
    lambda o: re.sub('<uId id="CXR[0-9]+"/>', '<uId id="CXR5"/>', o),
    lambda o: re.sub('<uId.*?/>', '', o),
    lambda o: re.sub('<parentImage.*</parentImage>', '', o),
    lambda o: o.replace('IM-', '../../IM-'),
    lambda o: o.replace('FINDINGS', 'findings '),
    lambda o: o.replace('FINDINGS">', 'FINDINGS">' + 'a. '*500_000),
    lambda o: o.replace('FINDINGS">', 'FINDINGS">\u202eä\u0308'),
    lambda o: '',
    lambda o: '\ufeff' + o,
    lambda o: '<html/>',
    lambda o: o + o]

def xml_damage(rng, x):
    "The bytes of a report that went wrong"
    if rng.random() < .7: return rng.choice(XML_DAMAGE)(x.decode()).encode()
    if rng.random() < .5: return x[:rng.randrange(len(x))]
    return flipped(rng, x, anywhere(rng, x, rng.choice([1, 10])))

# ---- archives

MEMBERS = ['../../escape.txt', '/escape.txt', 'files/p10/p10000000/../../../s50000000.txt', 'C:\\escape.txt',
           'files/p10/', 'ä'*200]

def with_members(rng, x, huge):
    "An archive with members that nobody expects"
    method = rng.choice([zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
    with zipfile.ZipFile(b := io.BytesIO(x), 'a', method) as z, warnings.catch_warnings():
        warnings.simplefilter('ignore') # names that are there twice
        names = z.namelist()
        for _ in range(3):
            name = rng.choice([*MEMBERS, rng.choice(names), '\u202e.txt'])
            z.writestr(name, 'FINDINGS: ' + 'Secret. '*(2_000_000//8 if huge else 3))
    return b.getvalue()

def zip_damage(rng, x):
    "The bytes of an archive that went wrong, or another archive"
    how = rng.choice(['cut', 'flip', 'flip', 'encrypted', 'members', 'bomb', 'method', 'none'])
    if how == 'cut': return x[:rng.randrange(len(x))]
    if how == 'none': return rng.choice([b'', b'PK\5\6' + bytes(18), rng.randbytes(500)])
    if how in ('members', 'bomb'): return with_members(rng, x, how == 'bomb')
    if how == 'flip':
        either_end = [lambda: rng.randrange(rng.choice([len(x), 300]))*rng.choice([1, -1])]
        return flipped(rng, x, either_end*rng.choice([1, 10, 100]))
    x = bytearray(x)
    for m in list(re.finditer(b'PK\1\2', x)):
        if how == 'encrypted': x[m.start()+8] = 1
        else: x[m.start()+10] = rng.choice([1, 9, 12, 14, 99])
    return bytes(x)

# ---- tables in Parquet

PARQUET_DAMAGE = [
    lambda o: o.set_index('path'),
    lambda o: o.assign(path=range(12)),
    lambda o: o.assign(path=[b'\xff']*12),
    lambda o: o.assign(report=[['a', 'b']]*12),
    lambda o: o.assign(age=pd.Timestamp('2020-01-01')),
    lambda o: o.assign(**{'': 1}),
    lambda o: o[:0],
    lambda o: o.assign(path=None),
    lambda o: o.rename(columns={'effusion': 'label:'}),
    lambda o: o.assign(Path='x'),
    lambda o: o.set_axis(range(8), axis=1),
    lambda o: o.set_index([0]*12 if 0 in o else o['study']),
    lambda o: o.assign(view=7.5, sex=True)]

def odd_parquet(rng, df, path):
    "Write a table of 12 rows that may be odd, to a file that may be damaged"
    if rng.random() < .5: df = rng.choice(PARQUET_DAMAGE)(df)
    df.to_parquet(path)
    x = path.read_bytes()
    if rng.random() < .5:
        if rng.random() < .3: x = x[:rng.randrange(len(x))]
    elif rng.random() < .7: x = flipped(rng, x, anywhere(rng, x, 1))
    path.write_bytes(x)

# ---- names, links and pipes

NAMES = [b'\xff\xfe.png', b'a\nb.png', '🫁.png', 'a\u0308.png', 'ä.png', b'x'*251 + b'.png', b' .png', b'-rf.png',
         b'\x1b[31m.png', '\u202egnp.png', b'\xed\xa0\x80.png', b'.png', b'%s.png', b"';--.png"]
FOLDERS = ['d', '🫁', 'a\u0308', b'd\xff', b'd\n', 'd.png', 'd'*200]
TABLES = ('.csv', '.txt', '.xml', '.gz', '.zip')

def below(root, name, *folders):
    "Path of a name of text or bytes below a folder, which is made"
    parts = [o if isinstance(o, bytes) else o.encode() for o in (*folders, name)]
    p = Path(os.fsdecode(os.path.join(os.fsencode(root), *parts)))
    p.parent.mkdir(parents=True, exist_ok=True)
    return p

# What takes the place of a file: a function of (its path, a folder outside)
INSTEAD = {
    'pipe': lambda p, outside: os.mkfifo(p),
    'broken': lambda p, outside: os.symlink('nowhere', p),
    'loop': lambda p, outside: os.symlink(p.name, p),
    'zero': lambda p, outside: os.symlink('/dev/zero', p),
    'outside': lambda p, outside: os.symlink(outside/'a.png', p),
    'folder': lambda p, outside: os.mkdir(p)}
ODD = ['name', 'folder name', 'pipe', 'broken', 'loop', 'zero', 'outside', 'up', 'folder', 'outside folder', 'socket']

def some_file(rng, root):
    "(a file of a download, an image more often than a table; its first image)"
    files = sorted(p for p in root.rglob('*') if p.is_file() and not p.is_symlink())
    images = [p for p in files if p.suffix in ('.png', '.jpg', '.dcm')] or files
    tables = [p for p in files if p.suffix in TABLES]
    return rng.choice(images if rng.random() < .6 or not tables else tables), images[0]

def odd_entry(rng, root, outside, what):
    "Put something odd into a download"
    victim, first = some_file(rng, root)
    if what in INSTEAD:
        victim.unlink()
        INSTEAD[what](victim, outside)
    elif what == 'name': below(root, rng.choice(NAMES)).write_bytes(first.read_bytes())
    elif what == 'folder name':
        folders = rng.choice(FOLDERS), rng.choice([b'b', b'\xff', b'n\nl'])
        os.rename(victim, below(root, os.path.basename(os.fsencode(victim)), *folders))
    elif what == 'up':
        os.symlink(rng.choice([root, root.parent/'raw', '.']), below(root, 'up.png'))
        os.symlink('..', below(root, 'up', 'inner'))
    elif what == 'outside folder': os.symlink(outside, below(root, 'elsewhere'))
    elif what == 'socket':
        os.mknod(below(root, 'socket.png'), 0o140600)
        for o in ('pipe.csv', 'pipe.xml', 'CHNCXR_0009_0.txt'): os.mkfifo(below(root, o))
