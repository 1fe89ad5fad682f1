"What tests of radiographs share: a picture, and DICOM files of every kind"
import io, struct, zlib

import numpy as np
import pytest
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import (
    ComputedRadiographyImageStorage, ExplicitVRBigEndian, ExplicitVRLittleEndian, JPEGBaseline8Bit,
    JPEGLosslessSV1,
)

from refers_nb.data.grey import to_grey

@pytest.fixture
def grey():
    "A smooth 8-bit picture that uses all of 0 to 255"
    y, x = np.mgrid[0:1:90j, 0:1:70j]
    v = np.sin(3*x) + np.cos(2*y)
    return to_grey(v)

def close(a, b, most=1):
    "Whether two images differ by at most so many grey levels"
    return a.shape == b.shape and np.abs(a.astype(int) - b).max() <= most

DTYPES = {(8, False): np.uint8, (8, True): np.int8, (16, False): np.uint16, (16, True): np.int16}

def dtype(bits, signed):
    "The NumPy type of stored values"
    return DTYPES[8 if bits <= 8 else 16, signed]

def jpeg(x):
    "A lossy JPEG"
    b = io.BytesIO()
    Image.fromarray(x).save(b, format='JPEG', quality=95)
    return b.getvalue()

def segment(marker, body):
    "A segment of a JPEG file"
    return struct.pack('>BBH', 0xff, marker, len(body) + 2) + body

def lossless_jpeg(x, bits):
    "ISO 10918-1 process 14, predictor 1, of unsigned values; all Huffman codes have five bits"
    x = x.astype(np.int64)
    out = []
    for r, row in enumerate(x):
        before = [2**(bits-1) if r == 0 else x[r-1, 0], *row[:-1]]
        for d in ((row - before + 2**15) % 2**16 - 2**15).tolist():
            n = abs(d).bit_length()
            out.append(f'{n:05b}')
            if 0 < n < 16: out.append(f'{d if d > 0 else d + 2**n - 1:0{n}b}')
    code = ''.join(out)
    n_bytes = -(-len(code)//8)
    code = int(code.ljust(8*n_bytes, '1'), 2).to_bytes(n_bytes, 'big')
    code = code.replace(b'\xff', b'\xff\x00')
    table = bytes([0, 0, 0, 0, 0, 17] + [0]*11 + list(range(17)))
    frame = struct.pack('>BHHBBBB', bits, *x.shape, 1, 1, 0x11, 0)
    scan = bytes([1, 1, 0, 1, 0, 0])
    head = b'\xff\xd8' + segment(0xc3, frame) + segment(0xc4, table) + segment(0xda, scan)
    return head + code + b'\xff\xd9'

def dataset(x, bits=12, signed=False, syntax=ExplicitVRLittleEndian, photometric='MONOCHROME2', **tags):
    "A DICOM dataset with the values `x`, coded as `syntax` says"
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian if syntax.is_encapsulated else syntax
    ds.SOPClassUID = ComputedRadiographyImageStorage
    ds.SOPInstanceUID = '1.2.3'
    ds.Rows, ds.Columns = x.shape[:2]
    ds.SamplesPerPixel = 1
    ds.PixelRepresentation = int(signed)
    ds.BitsAllocated = 8 if bits <= 8 else 16
    ds.BitsStored = bits
    ds.HighBit = bits-1
    ds.PhotometricInterpretation = photometric
    x = x.astype(dtype(bits, signed))
    byte_order = '>' if syntax == ExplicitVRBigEndian else '<'
    ds.PixelData = x.astype(x.dtype.newbyteorder(byte_order)).tobytes()
    ds['PixelData'].VR = 'OB' if bits <= 8 else 'OW'
    if syntax == JPEGBaseline8Bit: put_frame(ds, jpeg(x), syntax)
    elif syntax == JPEGLosslessSV1:
        unsigned = x.astype(np.int64) & (2**bits-1)
        put_frame(ds, lossless_jpeg(unsigned, bits), syntax)
    elif syntax.is_encapsulated: ds.compress(syntax, x)
    for keyword, v in tags.items(): setattr(ds, keyword, v)
    return ds

def put_frame(ds, frame, syntax):
    "Put an image that is coded already into a dataset"
    ds.file_meta.TransferSyntaxUID = syntax
    ds.PixelData = encapsulate([frame])
    ds['PixelData'].VR = 'OB'
    ds['PixelData'].is_undefined_length = True

def dicom(path, x, *args, **kw):
    "Write a `dataset`; its path"
    dataset(x, *args, **kw).save_as(path, enforce_file_format=True)
    return path

def table(values, first=0, bits=16, data='US', big=False):
    "A modality or VOI table; `first` is the value that gets the first entry"
    lut = Dataset()
    lut.add_new('LUTDescriptor', 'SS' if first < 0 else 'US', [len(values) % 2**16, first, bits])
    lut.ModalityLUTType = 'US'
    raw = np.asarray(values).astype('>u2' if big else '<u2').tobytes()
    lut.add_new('LUTData', data, raw if data == 'OW' else [int(v) for v in values])
    return Sequence([lut])

def png_chunk(kind, data):
    "A part of a PNG file"
    return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))

COLOUR_TYPES = dict(L=0, RGB=2, P=3, LA=4, RGBA=6)

def png(path, x, mode='L', bits=8, chunks=b''):
    "Write integers (h, w) or (h, w, channels) as a PNG of any depth, with further chunks before the pixels; its path"
    x = np.asarray(x)
    if bits < 8: rows = [np.packbits((row[:, None] >> np.arange(bits)[::-1]) & 1) for row in x]
    else: rows = x.astype('>u2' if bits == 16 else np.uint8)
    head = struct.pack('>IIBBBBB', x.shape[1], x.shape[0], bits, COLOUR_TYPES[mode], 0, 0, 0)
    pixels = zlib.compress(b''.join(b'\0' + row.tobytes() for row in rows), 1)
    parts = png_chunk(b'IHDR', head) + chunks + png_chunk(b'IDAT', pixels) + png_chunk(b'IEND', b'')
    path.write_bytes(b'\x89PNG\r\n\x1a\n' + parts)
    return path

SAMPLE_FORMATS = dict(u=1, i=2, f=3)

def tiff(path, x, white_is_zero=False, order='<', packed=False, alpha=None, **tags):
    "Write values (h, w) or (h, w, channels) of any type as a TIFF of one strip; its path"
    h, w, n = *x.shape[:2], x.shape[2] if x.ndim == 3 else 1
    pixels = x.astype(x.dtype.newbyteorder(order)).tobytes()
    if packed: pixels = zlib.compress(pixels)
    photometric = 2 if n > 2 else int(not white_is_zero)
    entries = {256: [w], 257: [h], 258: [8*x.itemsize]*n, 259: [8 if packed else 1], 262: [photometric],
               273: None, 277: [n], 278: [h], 279: [len(pixels)], 339: [SAMPLE_FORMATS[x.dtype.kind]]*n}
    if alpha is not None: entries[338] = [alpha]
    entries |= {int(tag[1:]): [v] for tag, v in tags.items()}
    after = 8 + 2 + 12*len(entries) + 4
    further = b''
    ifd = struct.pack(order + 'H', len(entries))
    for tag in sorted(entries):
        values = entries[tag] or [after + 64]
        data = struct.pack(f'{order}{len(values)}I', *values) # all of them 4 bytes long
        if len(values) > 1:
            further += data
            data = struct.pack(order + 'I', after + len(further) - len(data))
        ifd += struct.pack(order + 'HHI', tag, 4, len(values)) + data
    mark = b'II*\0' if order == '<' else b'MM\0*'
    parts = [mark, struct.pack(order + 'I', 8), ifd, bytes(4), further.ljust(64, b'\0'), pixels]
    path.write_bytes(b''.join(parts))
    return path
