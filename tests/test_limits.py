"What one file may cost: memory and time of files that claim too much, in processes of their own"
import gzip, json, struct, subprocess, sys, zlib

import pytest
from PIL import Image
from pydicom.encaps import get_frame
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, JPEG2000Lossless, JPEGBaseline8Bit, JPEGLosslessSV1,
    JPEGLSLossless, RLELossless,
)
from radiograph_files import dataset, dicom, grey, png, png_chunk, put_frame, tiff

import refers_nb.data.limits as L
from refers_nb.core import InputError
from refers_nb.data.dicom import coded_sizes, dicom_view
from refers_nb.data.limits import check_pixels, open_content, time_limit, unpacked
from refers_nb.data.radiograph import read_radiograph
from refers_nb.data.store import ImageStore

SYNTAXES = [ExplicitVRLittleEndian, DeflatedExplicitVRLittleEndian, RLELossless, JPEG2000Lossless, JPEGLSLossless,
            JPEGLosslessSV1, JPEGBaseline8Bit]

def film(syntax, grey, **tags):
    "A dataset of a kind that the syntax can hold"
    return dataset(grey if syntax == JPEGBaseline8Bit else grey*16, 8 if syntax == JPEGBaseline8Bit else 12, syntax=syntax, **tags)

def claims(root, grey):
    "Small DICOM files whose headers, or whose images themselves, claim too much"
    huge = dict(Rows=65535, Columns=65535), dict(Rows=1, Columns=65535, SamplesPerPixel=65535)
    for i, syntax in enumerate(SYNTAXES):
        for k, tags in enumerate(huge): film(syntax, grey, **tags).save_as(root/f'{i}-{k}.dcm', enforce_file_format=True)
    for syntax in (JPEG2000Lossless, JPEGLSLossless, JPEGLosslessSV1, JPEGBaseline8Bit):
        ds = film(syntax, grey)
        raw = bytearray(ds.PixelData)
        if syntax == JPEG2000Lossless: at = raw.index(b'\xff\x4f\xff\x51') + 8
        else: at = next(i for i in range(len(raw)) if raw[i] == 255 and raw[i+1] in (0xc0, 0xc3, 0xf7)) + 5
        raw[at:at+8] = b'\0\0\xff\xff'*2 if syntax == JPEG2000Lossless else b'\xff'*4 + raw[at+4:at+8]
        ds.PixelData = bytes(raw)
        ds.save_as(root/f'inside {syntax.keyword}.dcm', enforce_file_format=True)

def zeros(megabytes, wbits):
    "Packed zeros"
    stream = zlib.compressobj(1, wbits=wbits)
    return b''.join(stream.compress(bytes(2**20)) for _ in range(megabytes)) + stream.flush()

def packed(root, grey):
    "Small files that unpack to more than a radiograph has"
    whole = dicom(root/'small.dcm', grey, 8, syntax=DeflatedExplicitVRLittleEndian).read_bytes()
    head = whole[:144 + struct.unpack('<I', whole[140:144])[0]]
    (root/'deflated.dcm').write_bytes(head + zeros(260, -15))
    (root/'gzip.dcm').write_bytes(zeros(260, 31))
    (root/'small.dcm').unlink()
    runs = b'\x81\0'*2**22 # half a gigabyte
    ds = dataset(grey*16)
    put_frame(ds, struct.pack('<16I', 2, 64, 64 + len(runs)//2, *[0]*13) + runs, RLELossless)
    ds.save_as(root/'runs.dcm', enforce_file_format=True)

def pictures(root, grey):
    "Pictures that are too large, or say so"
    def png_of(name, w, h, mode=0, bits=8):
        head = struct.pack('>IIBBBBB', w, h, bits, mode, 0, 0, 0)
        parts = png_chunk(b'IHDR', head) + png_chunk(b'IDAT', zeros(70, 15)) + png_chunk(b'IEND', b'')
        (root/name).write_bytes(b'\x89PNG\r\n\x1a\n' + parts)
    png_of('high.png', 1, 2**31 - 1)
    png_of('square.png', 9000, 9000)
    png_of('deep.png', 6000, 6000, mode=6, bits=16)
    tiff(root/'tile.tif', grey, packed=True, t322=2**30, t323=2**30)
    tiff(root/'wide.tif', grey, packed=True, t256=2**28)
    Image.new('L', (8300, 8300)).save(root/'large.jpg')
    (root/'a.bmp').write_bytes(b'BM' + struct.pack('<IHHI', 99, 0, 0, 54)
                               + struct.pack('<IiiHHIIiiII', 40, 60000, 60000, 1, 24, 0, 0, 0, 0, 0, 0) + bytes(99))

CHILD = '''
import json, resource, sys, warnings
from pathlib import Path
from refers_nb.core import InputError
from refers_nb.data.dicom import dicom_view
from refers_nb.data.radiograph import read_radiograph
warnings.simplefilter('ignore')
resource.setrlimit(resource.RLIMIT_AS, (6*2**30,)*2)
said = {}
for p in sorted(Path(sys.argv[1]).iterdir()):
    dicom_view(p)
    try: said[p.name] = str(read_radiograph(p).shape)
    except InputError as e: said[p.name] = str(e)
use = resource.getrusage(resource.RUSAGE_SELF)
high = next(o for o in Path("/proc/self/status").read_text().splitlines() if o.startswith("VmHWM"))
print(json.dumps([said, int(high.split()[1])/2**20, use.ru_utime + use.ru_stime]))
'''

@pytest.mark.parametrize('make', [claims, packed, pictures])
def test_what_claims_too_much_is_refused_before_it_costs_anything(tmp_path, grey, make):
    make(tmp_path, grey)
    run = subprocess.run([sys.executable, '-c', CHILD, tmp_path], capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr[-2000:]
    said, gigabytes, seconds = json.loads(run.stdout)
    assert len(said) == len(list(tmp_path.iterdir()))
    for name, text in said.items(): assert text.startswith(f'{tmp_path/name}: '), (name, text)
    if make is claims: assert all('it claims' in o for o in said.values()), said
    assert gigabytes < 1.5 and seconds < 60

def test_limits_are_limits(tmp_path):
    check_pixels(8192, 8192, 4)
    for claim in ((8193, 8192), (2**31, 2**31), (8192, 8192, 5)):
        with pytest.raises(InputError, match='it claims'): check_pixels(*claim)
    with pytest.raises(InputError, match='unpacks to more than 256 MB'): unpacked(zeros(257, -15))
    with pytest.raises(InputError, match='cut short'): unpacked(zeros(1, -15)[:-1])
    with open(tmp_path/'sparse', 'wb') as f: f.truncate(L.MAX_BYTES + 1)
    with pytest.raises(InputError, match='the file has more than'):
        with open_content(tmp_path/'sparse'): pass

def test_what_gzip_packed_and_lost_is_refused(tmp_path, grey):
    png(tmp_path/'a.png', grey)
    whole = gzip.compress((tmp_path/'a.png').read_bytes())
    for content in (whole[:-9], whole[:200], whole[:50] + b'?' + whole[51:], gzip.compress(whole), gzip.compress(b'')):
        (tmp_path/'a.png').write_bytes(content)
        with pytest.raises(InputError, match='a.png: '): read_radiograph(tmp_path/'a.png')

def test_sizes_of_coded_images(grey):
    for syntax in (JPEG2000Lossless, JPEGLSLossless, JPEGLosslessSV1, JPEGBaseline8Bit):
        ds = film(syntax, grey)
        frame = get_frame(ds.PixelData, 0, number_of_frames=1)
        assert list(coded_sizes(frame)) == [(70, 90, 1)], syntax.keyword
    for content in (b'', b'\xff\xd8', b'\xff\xd8\xff', b'\xff\x4f\xff\x51\0', b'\xff\xd8' + b'\xff'*50): list(coded_sizes(content))

# ---- time

def test_time_is_limited_in_any_thread_and_only_within(monkeypatch):
    import threading
    said = []
    def work(seconds):
        try:
            with time_limit(seconds):
                while True:
                    try: sum(range(1000))
                    except Exception: pass
        except InputError as e: said.append(str(e))
    for target in (work, lambda seconds: threading.Thread(target=work, args=[seconds])):
        other = target(.03)
        if other is not None:
            other.start()
            other.join()
    assert said == ['reading it takes more than 0.03 seconds']*2
    for _ in range(200):
        with time_limit(.001): pass
    sum(range(10**6)) # nothing comes later

def endless(root, grey):
    "A DICOM file whose header has millions of entries, packed"
    whole = dicom(root/'endless.dcm', grey, 8, syntax=DeflatedExplicitVRLittleEndian).read_bytes()
    head = whole[:144 + struct.unpack('<I', whole[140:144])[0]]
    entries = b''.join(struct.pack('<HH2sH', 9, 0x1000 + i, b'CS', 0) for i in range(5000))*40
    stream = zlib.compressobj(1, wbits=-15)
    (root/'endless.dcm').write_bytes(head + stream.compress(entries) + stream.flush())

@pytest.mark.parametrize('workers', [0, 1])
def test_a_file_that_takes_too_long_is_rejected(tmp_path, grey, monkeypatch, workers):
    monkeypatch.setattr(L, 'MAX_SECONDS', .2)
    endless(tmp_path, grey)
    names = ['endless.dcm', *(f'{i}.png' for i in range(3))]
    for name in names[1:]: png(tmp_path/name, grey)
    store = ImageStore.build(names, tmp_path, tmp_path/'out', size=32, workers=workers, max_rejected=.5)
    assert len(store) == 3
    assert 'endless.dcm,reading it takes more than 0.2 seconds' in (tmp_path/'out'/'rejected.csv').read_text()
    assert dicom_view(tmp_path/'endless.dcm') == ''
