"Radiographs of every kind of file: read right, or refused with the path and a reason"
import copy, io, itertools, os, socket, struct, sys, time, warnings

import numpy as np, pydicom, pytest
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels import get_decoder
from pydicom.sequence import Sequence
from pydicom.uid import (ComputedRadiographyImageStorage, DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ExplicitVRLittleEndian,
    ImplicitVRLittleEndian, JPEG2000Lossless, JPEGBaseline8Bit, JPEGLosslessSV1, JPEGLSLossless, RLELossless)

import refers_nb.data.radiograph as R
from refers_nb.core import InputError
from refers_nb.data.store import ImageStore, _each
from refers_nb.data.radiograph import check_paths, dicom_view, image_hash, load_radiograph, read_radiograph, resize, to_grey

@pytest.fixture
def grey():
    "A smooth 8-bit picture that uses all of 0 to 255"
    y,x = np.mgrid[0:1:90j, 0:1:70j]
    v = np.sin(3*x) + np.cos(2*y)
    return to_grey(v)

def close(a, b, most=1): return a.shape == b.shape and np.abs(a.astype(int)-b).max() <= most

# ---- ordinary files

@pytest.mark.parametrize('ext,kw,most', [('png', {}, 0), ('bmp', {}, 0), ('tiff', {}, 0), ('webp', dict(lossless=True), 0), ('webp', dict(quality=95), 12), ('jpg', dict(quality=95), 8)])
def test_formats(tmp_path, grey, ext, kw, most):
    Image.fromarray(grey).save(tmp_path/f'a.{ext}', **kw)
    assert close(read_radiograph(tmp_path/f'a.{ext}'), grey, most)

@pytest.mark.parametrize('ext', ['webp', 'dcm.png'])
def test_the_content_counts_and_not_the_name(tmp_path, grey, ext):
    Image.fromarray(grey).save(tmp_path/f'x.{ext}', format='PNG')
    assert close(read_radiograph(tmp_path/f'x.{ext}'), grey, 0)

@pytest.mark.parametrize('top', [1023, 4095, 16383, 65535])
@pytest.mark.parametrize('low', [0, 500])
def test_16_bit_png_is_scaled_by_its_range_and_not_clipped(tmp_path, grey, top, low):
    x = low + grey.astype(np.float64)/255*(top-low)
    Image.fromarray(np.rint(x).astype(np.uint16)).save(tmp_path/'a.png')
    res = read_radiograph(tmp_path/'a.png')
    assert close(res, grey) and (res == 255).mean() < .1 and len(np.unique(res)) > 200

def test_other_modes(tmp_path, grey):
    im = Image.fromarray(grey)
    made = {'rgb': im.convert('RGB'), 'rgba': im.convert('RGBA'), 'la': im.convert('LA'), 'p': im.convert('P')}
    for k,o in made.items():
        o.save(tmp_path/f'{k}.png')
        assert close(read_radiograph(tmp_path/f'{k}.png'), grey), k
    im.convert('1').save(tmp_path/'one.png')
    assert set(np.unique(read_radiograph(tmp_path/'one.png'))) == {0, 255}
    Image.fromarray(grey.astype(np.float32)/1000).save(tmp_path/'f.tiff')
    assert close(read_radiograph(tmp_path/'f.tiff'), grey)
    Image.fromarray(grey.astype(np.int32)*1000-70000).save(tmp_path/'i.tiff')
    assert close(read_radiograph(tmp_path/'i.tiff'), grey)
    im.convert('CMYK').save(tmp_path/'cmyk.jpg', quality=98)
    assert read_radiograph(tmp_path/'cmyk.jpg').shape == grey.shape

def test_transparent_is_black(tmp_path, grey):
    a = np.full_like(grey, 255); a[:20] = 0
    Image.merge('LA', [Image.fromarray(grey), Image.fromarray(a)]).save(tmp_path/'a.png')
    res = read_radiograph(tmp_path/'a.png')
    assert (res[:20] == 0).all() and close(res[20:], grey[20:])
    p = Image.fromarray(grey).convert('P')
    p.save(tmp_path/'p.png', transparency=int(np.array(p)[0, 0]))
    assert read_radiograph(tmp_path/'p.png')[0, 0] == 0

def test_turned_by_exif(tmp_path, grey):
    exif = Image.Exif(); exif[0x0112] = 6 # the camera was turned by 90 degrees
    Image.fromarray(grey).save(tmp_path/'a.jpg', exif=exif, quality=95)
    assert close(read_radiograph(tmp_path/'a.jpg'), np.rot90(grey, -1), 8)
    Image.fromarray(grey).save(tmp_path/'a.tiff', tiffinfo={0x0112: 6}, compression='tiff_lzw')
    assert close(read_radiograph(tmp_path/'a.tiff'), np.rot90(grey, -1), 0)
    Image.fromarray(grey).save(tmp_path/'b.tiff', tiffinfo={0x0112: 6})
    with pytest.raises(InputError, match='save it compressed'): read_radiograph(tmp_path/'b.tiff')

def test_a_large_jpeg_is_decoded_smaller_but_not_too_small(tmp_path):
    y,x = np.mgrid[0:1:1600j, 0:1:1200j]
    big = to_grey(np.sin(5*x)*np.cos(4*y))
    Image.fromarray(big).convert('RGB').save(tmp_path/'a.jpg', quality=95)
    small = read_radiograph(tmp_path/'a.jpg', at_least=256)
    assert 256 <= min(small.shape) < 600
    assert close(load_radiograph(tmp_path/'a.jpg', 128), resize(read_radiograph(tmp_path/'a.jpg'), 128), 6)

@pytest.mark.parametrize('ext', ['png', 'jpg', 'webp', 'tiff', 'bmp'])
@pytest.mark.parametrize('kind', ['empty', 'cut', 'header only', 'text', 'missing', 'folder'])
def test_damaged_files_are_refused_with_path_and_reason(tmp_path, grey, ext, kind):
    p = tmp_path/f'a.{ext}'
    Image.fromarray(grey).save(p)
    whole = p.read_bytes()
    content = dict(empty=b'', cut=whole[:len(whole)//2], text=b'no image at all, only words '*20).get(kind, whole[:20])
    if kind in ('missing', 'folder'): p.unlink()
    if kind == 'folder': p.mkdir()
    elif kind != 'missing': p.write_bytes(content)
    with pytest.raises(InputError) as e: read_radiograph(p)
    assert str(p) in str(e.value) and len(str(e.value)) > len(str(p)) + 5 and '\n' not in str(e.value)

def test_a_flat_image_is_black():
    assert (to_grey(np.full((3, 3), 700.)) == 0).all() and (to_grey(np.full((3, 3), np.nan)) == 0).all()
    assert to_grey(np.array([[0, np.inf, np.nan, 10]])).tolist() == [[0, 0, 0, 255]]

# ---- DICOM

DTYPES = {(8, False): np.uint8, (8, True): np.int8, (16, False): np.uint16, (16, True): np.int16}

def dtype(bits, signed): return DTYPES[8 if bits <= 8 else 16, signed]

def jpeg(x):
    b = io.BytesIO()
    Image.fromarray(x).save(b, format='JPEG', quality=95)
    return b.getvalue()

def lossless_jpeg(x, bits):
    "ISO 10918-1 process 14, predictor 1, of unsigned values; all Huffman codes have five bits"
    segment = lambda marker,body: struct.pack('>BBH', 0xff, marker, len(body)+2) + body
    x,out = x.astype(np.int64),[]
    for r,row in enumerate(x):
        before = [2**(bits-1) if r == 0 else x[r-1, 0], *row[:-1]]
        for d in ((row-before+2**15) % 2**16 - 2**15).tolist():
            n = abs(d).bit_length()
            out.append(f'{n:05b}' + (f'{d if d > 0 else d+2**n-1:0{n}b}' if 0 < n < 16 else ''))
    code = ''.join(out)
    code = int(code + '1'*(-len(code) % 8), 2).to_bytes(-(-len(code)//8), 'big').replace(b'\xff', b'\xff\x00')
    table = bytes([0, 0, 0, 0, 0, 17] + [0]*11 + list(range(17)))
    return b''.join([b'\xff\xd8', segment(0xc3, struct.pack('>BHHBBBB', bits, *x.shape, 1, 1, 0x11, 0)), segment(0xc4, table),
                     segment(0xda, bytes([1, 1, 0, 1, 0, 0])), code, b'\xff\xd9'])

def dataset(x, bits=12, signed=False, syntax=ExplicitVRLittleEndian, photometric='MONOCHROME2', **tags):
    "A DICOM dataset with the values `x`, coded as `syntax` says"
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian if syntax.is_encapsulated else syntax
    ds.SOPClassUID, ds.SOPInstanceUID = ComputedRadiographyImageStorage, '1.2.3'
    ds.Rows, ds.Columns, ds.SamplesPerPixel, ds.PixelRepresentation = *x.shape[:2], 1, int(signed)
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PhotometricInterpretation = 8 if bits <= 8 else 16, bits, bits-1, photometric
    x = x.astype(dtype(bits, signed))
    ds.PixelData = x.astype(x.dtype.newbyteorder('>' if syntax == ExplicitVRBigEndian else '<')).tobytes()
    ds['PixelData'].VR = 'OB' if bits <= 8 else 'OW'
    by_hand = {JPEGBaseline8Bit: lambda: jpeg(x), JPEGLosslessSV1: lambda: lossless_jpeg(x.astype(np.int64) & (2**bits-1), bits)}
    if syntax in by_hand: put_frame(ds, by_hand[syntax](), syntax)
    elif syntax.is_encapsulated: ds.compress(syntax, x)
    for k,v in tags.items(): setattr(ds, k, v)
    return ds

def put_frame(ds, frame, syntax):
    ds.file_meta.TransferSyntaxUID, ds.PixelData = syntax, encapsulate([frame])
    ds['PixelData'].VR, ds['PixelData'].is_undefined_length = 'OB', True

def dicom(path, x, *args, **kw):
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

SYNTAXES = [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian, RLELossless, JPEGBaseline8Bit,
            JPEGLosslessSV1, JPEGLSLossless, JPEG2000Lossless]
CODINGS = [(s, b, signed) for s in SYNTAXES for b in (8, 10, 12, 16) for signed in (False, True) if s != JPEGBaseline8Bit or (b == 8 and not signed)]

def in_units(x, rule, lo, hi, bits, big):
    "Tags of a modality rule, and what the standard makes of the values `x` (C.11.1)"
    if rule == 'none': return {},x
    if rule == 'slope': a,b = (1 if bits == 16 else 2),-100
    if rule == 'falling': a,b = -1,lo+hi
    if rule != 'lut': return dict(RescaleSlope=a, RescaleIntercept=b),a*x+b
    values = np.rint(np.sqrt(np.arange(hi-lo+1)/(hi-lo))*(2**bits-1)).astype(int)
    return dict(ModalityLUTSequence=table(values, lo, bits, 'OW' if len(values) > 300 else 'US', big)),values[x-lo]

def brightness(y, voi, bits, big):
    "Tags of the values of interest, and brightness 0 to 1 that the standard gives the values `y` (C.11.2)"
    lo,hi = int(y.min()),int(y.max())
    c,w = round(lo + .45*(hi-lo)),round(.6*(hi-lo))
    if voi == 'none': return {},(y-lo)/(hi-lo)
    if voi == 'lut':
        values,first = np.rint(np.linspace(0, 1, w)**2*(2**bits-1)).astype(int),c-w//2
        return dict(VOILUTSequence=table(values, first, bits, 'OW' if w > 300 else 'US', big)),values[np.minimum(np.maximum(y-first, 0), w-1)]/(2**bits-1)
    tags = dict(WindowCenter=[c, lo], WindowWidth=[w, 7])
    if voi != 'LINEAR': tags['VOILUTFunction'] = voi
    if voi == 'SIGMOID': return tags,1/(1+np.exp(-4*(y-c)/w))
    low,high,res = (c-.5-(w-1)/2, c-.5+(w-1)/2, (y-(c-.5))/(w-1)+.5) if voi == 'LINEAR' else (c-w/2, c+w/2, (y-c)/w+.5)
    return tags,np.select([y <= low, y > high], [0, 1], res)

@pytest.mark.parametrize('syntax,bits,signed', CODINGS, ids=lambda o: getattr(o, 'keyword', None))
def test_every_kind_of_dicom_is_shown_as_the_standard_says(tmp_path, syntax, bits, signed):
    lo,hi = (-2**(bits-1), 2**(bits-1)-1) if signed else (0, 2**bits-1)
    x = np.rint(np.linspace(lo, hi, 40*36)).astype(int).reshape(40, 36)
    if syntax == JPEGBaseline8Bit: x = np.array(Image.open(io.BytesIO(jpeg(x.astype(np.uint8))))).astype(int)
    big,plain = syntax == ExplicitVRBigEndian,dataset(x, bits, signed, syntax)
    for photometric,rule,voi in itertools.product(['MONOCHROME1', 'MONOCHROME2'], ['none', 'slope', 'falling', 'lut'], ['none', 'LINEAR', 'LINEAR_EXACT', 'SIGMOID', 'lut']):
        units,y = in_units(x, rule, lo, hi, bits, big)
        tags,wanted = brightness(y, voi, bits, big)
        ds = copy.deepcopy(plain)
        for k,v in dict(units, **tags, PhotometricInterpretation=photometric).items(): setattr(ds, k, v)
        ds.save_as(tmp_path/'a.dcm', enforce_file_format=True)
        if photometric == 'MONOCHROME1': wanted = 1-wanted
        # two decoders of lossy JPEG may differ by one stored value, which the steepest table turns into 16
        diff = np.abs(read_radiograph(tmp_path/'a.dcm') - 255*wanted).max()
        assert diff <= (1 if syntax != JPEGBaseline8Bit else 17), (photometric, rule, voi, diff)

def test_a_window_wider_than_the_image_is_not_stretched(tmp_path):
    x = np.tile(np.arange(1000, 2000), (4, 1))
    row = read_radiograph(dicom(tmp_path/'a.dcm', x, WindowCenter=2048, WindowWidth=4096))[0]
    assert 60 <= row[0] <= 64 and 122 <= row[-1] <= 126

def test_an_impossible_window_is_no_window(tmp_path, grey):
    assert close(read_radiograph(dicom(tmp_path/'a.dcm', grey*16., WindowCenter=0, WindowWidth=0)), grey)

def test_padding_is_black_and_does_not_count_for_the_range(tmp_path, grey):
    x = 500 + grey*10.
    x[:10] = 4000
    res = read_radiograph(dicom(tmp_path/'a.dcm', x, PixelPaddingValue=4000))
    assert (res[:10] == 0).all() and close(res[10:], to_grey(x[10:]))

def test_colour_and_several_frames(tmp_path, grey):
    p = dicom(tmp_path/'a.dcm', np.stack([grey]*3, -1), bits=8, photometric='RGB', SamplesPerPixel=3, PlanarConfiguration=0)
    assert close(read_radiograph(p), grey)
    p = dicom(tmp_path/'b.dcm', np.concatenate([grey, grey[::-1]]), bits=8, Rows=len(grey), NumberOfFrames=2)
    assert close(read_radiograph(p), grey)

def test_dicom_without_preamble(tmp_path, grey):
    p = dicom(tmp_path/'a.dcm', grey, bits=8, syntax=ImplicitVRLittleEndian)
    ds = pydicom.dcmread(p)
    b = io.BytesIO()
    from pydicom.filewriter import write_dataset
    from pydicom.filebase import DicomFileLike
    fp = DicomFileLike(b); fp.is_little_endian, fp.is_implicit_VR = True, True
    write_dataset(fp, ds)
    (tmp_path/'bare.dcm').write_bytes(b.getvalue())
    assert close(read_radiograph(tmp_path/'bare.dcm'), grey)

@pytest.mark.parametrize('kind', ['empty', 'cut', 'no pixels', 'words', 'palette'])
def test_damaged_dicom(tmp_path, grey, kind):
    p = dicom(tmp_path/'a.dcm', grey, bits=8, **(dict(PhotometricInterpretation='PALETTE COLOR') if kind == 'palette' else {}))
    whole = p.read_bytes()
    if kind == 'no pixels':
        ds = pydicom.dcmread(p); del ds.PixelData; ds.save_as(p)
    elif kind != 'palette': p.write_bytes(dict(empty=b'', cut=whole[:-2000], words=b'words, not DICOM '*40)[kind])
    with pytest.raises(InputError, match='a.dcm'): read_radiograph(p)

@pytest.mark.parametrize('syntax', [RLELossless, JPEGBaseline8Bit, JPEGLosslessSV1, JPEGLSLossless, JPEG2000Lossless], ids=lambda o: o.keyword)
def test_a_compression_without_a_decoder_says_what_to_install(tmp_path, grey, monkeypatch, syntax):
    p = dicom(tmp_path/'a.dcm', grey, bits=8, syntax=syntax)
    read_radiograph(p)
    monkeypatch.setattr(get_decoder(syntax), '_available', {})
    monkeypatch.setattr(get_decoder(syntax), '_unavailable', {'pylibjpeg': ('pylibjpeg>=2.0', 'numpy')})
    with pytest.raises(InputError, match=r"a\.dcm: .*no decoder is installed \(pip install 'refers_nb\[dicom\]'"): read_radiograph(p)

# what is found in real files

@pytest.mark.parametrize('signed', [False, True])
def test_a_header_that_claims_too_few_bits(tmp_path, grey, signed):
    x = grey*60. - 6000*signed # 14 bits
    assert close(read_radiograph(dicom(tmp_path/'a.dcm', x, 16, signed, BitsStored=12, HighBit=11)), grey)

def test_values_in_the_upper_bits_of_a_word(tmp_path):
    x = np.tile(np.arange(4096), (4, 1))
    tags = dict(BitsStored=12, WindowCenter=1024, WindowWidth=2048)
    right = read_radiograph(dicom(tmp_path/'a.dcm', x, HighBit=11, **tags))
    upper = read_radiograph(dicom(tmp_path/'b.dcm', x*16, HighBit=15, **tags))
    wrong = read_radiograph(dicom(tmp_path/'c.dcm', x, HighBit=15, **tags)) # says upper, stores lower
    assert (right == upper).all() and (right == wrong).all() and right[0, 500] < 70 < 250 < right[0, 2100]

def test_signed_values_without_sign_bits(tmp_path):
    x = np.tile(np.arange(-2048, 2048), (4, 1))
    assert close(read_radiograph(dicom(tmp_path/'a.dcm', x & 4095, 12, True)), to_grey(x))

def test_an_overlay_in_unused_bits_is_not_shown(tmp_path, grey):
    x = grey*16.
    y = x.copy(); y[10:20, 10:40] += 4096 # drawn in bit 12
    ds = dataset(y, bits=12)
    for e,vr,v in ((0x0010, 'US', 90), (0x0011, 'US', 70), (0x0040, 'CS', 'G'), (0x0050, 'SS', [1, 1]), (0x0100, 'US', 16), (0x0102, 'US', 12)): ds.add_new(0x60000000+e, vr, v)
    ds.save_as(tmp_path/'a.dcm', enforce_file_format=True)
    assert (read_radiograph(tmp_path/'a.dcm') == read_radiograph(dicom(tmp_path/'b.dcm', x))).all()

def test_of_several_windows_the_first_counts_and_nonsense_is_none(tmp_path, grey):
    x,one = grey*16.,dict(WindowCenter=2000, WindowWidth=1000)
    wanted = read_radiograph(dicom(tmp_path/'a.dcm', x, **one))
    several = dict(WindowCenter=[2000, 50, 3000], WindowWidth=[1000, 20, 9], WindowCenterWidthExplanation=['NORMAL', 'A', 'B'])
    assert (read_radiograph(dicom(tmp_path/'b.dcm', x, **several)) == wanted).all()
    ds = dataset(x)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        ds.add_new('WindowCenter', 'LO', 'none'), ds.add_new('WindowWidth', 'DS', '')
        ds.save_as(tmp_path/'c.dcm', enforce_file_format=True)
        assert close(read_radiograph(tmp_path/'c.dcm'), grey)

@pytest.mark.parametrize('signed,pad', [(False, 0), (False, 4095), (True, -2000), (True, 2047)])
@pytest.mark.parametrize('photometric', ['MONOCHROME1', 'MONOCHROME2'])
def test_padding_of_any_value_is_black(tmp_path, grey, signed, pad, photometric):
    v = 255-grey if photometric == 'MONOCHROME1' else grey
    x = v*10. + 500 - 2000*signed
    x[:10] = pad
    res = read_radiograph(dicom(tmp_path/'a.dcm', x, 12, signed, photometric=photometric, PixelPaddingValue=pad))
    assert (res[:10] == 0).all() and close(res[10:], to_grey(grey[10:]))
    x[10:20] = pad + (1 if pad < 1000 else -1) # a range of values
    res = read_radiograph(dicom(tmp_path/'b.dcm', x, 12, signed, photometric=photometric, PixelPaddingValue=pad, PixelPaddingRangeLimit=int(x[10, 0])))
    assert (res[:20] == 0).all() and close(res[20:], to_grey(grey[20:]))

def test_negative_padding_written_as_an_unsigned_number(tmp_path, grey):
    x = grey*10. - 1000
    x[:10] = -2000
    ds = dataset(x, 16, True)
    ds.add_new('PixelPaddingValue', 'US', 2**16-2000)
    ds.save_as(tmp_path/'a.dcm', enforce_file_format=True)
    res = read_radiograph(tmp_path/'a.dcm')
    assert (res[:10] == 0).all() and close(res[10:], to_grey(grey[10:]))

@pytest.mark.parametrize('signed', [False, True])
def test_jpeg_2000_that_disagrees_with_its_header_about_signs(tmp_path, signed):
    x = np.rint(np.linspace(0, 4095, 64*64)).astype(int).reshape(64, 64)
    ds = dataset(x - 2048*(not signed), 12, not signed, JPEG2000Lossless) # in the code stream
    ds.PixelRepresentation = int(signed)                                  # in the header
    ds.save_as(tmp_path/'a.dcm', enforce_file_format=True)
    y = np.where(x >= 2048, x-4096, x) if signed else (x-2048) & 4095     # the same twelve bits, read as the header says
    assert close(read_radiograph(tmp_path/'a.dcm'), to_grey(y))

def test_a_table_of_8_bits_with_4096_entries(tmp_path):
    x,values = np.tile(np.arange(4096), (4, 1)),np.rint(np.sqrt(np.arange(4096)/4095)*255)
    assert close(read_radiograph(dicom(tmp_path/'a.dcm', x, VOILUTSequence=table(values, bits=8))), values[None].repeat(4, 0))
    ds = dataset(x, VOILUTSequence=table(values, bits=8))
    ds.VOILUTSequence[0].add_new('LUTData', 'OW', values.astype(np.uint8).tobytes()) # one byte an entry
    ds.save_as(tmp_path/'b.dcm', enforce_file_format=True)
    assert close(read_radiograph(tmp_path/'b.dcm'), values[None].repeat(4, 0))
    ds.VOILUTSequence[0].LUTDescriptor = [2001, 0, 8] # odd, and values beyond the end take the last entry
    ds.VOILUTSequence[0].add_new('LUTData', 'OW', values[:2001].astype(np.uint8).tobytes() + b'\0')
    ds.save_as(tmp_path/'c.dcm', enforce_file_format=True)
    assert (np.diff(read_radiograph(tmp_path/'c.dcm').astype(int)) >= 0).all()

def test_a_table_wider_than_the_image_is_not_stretched(tmp_path):
    x,values = np.tile(np.arange(1000, 2000), (4, 1)),np.arange(4096)
    assert close(read_radiograph(dicom(tmp_path/'a.dcm', x, VOILUTSequence=table(values, bits=12))), x*(255/4095))

def test_padding_among_the_values(tmp_path, grey):
    x = grey*10. + 500
    x[:10] = 1505
    res = read_radiograph(dicom(tmp_path/'a.dcm', x, PixelPaddingValue=1505))
    assert (res[:10] == 0).all() and close(res[10:], to_grey(grey[10:]))

@pytest.mark.parametrize('implicit', [False, True])
@pytest.mark.parametrize('uid', ['1.2.840.113619.5.2', '1.2.276.0.7230010.3.1.9'])
def test_a_private_transfer_syntax_is_named(tmp_path, grey, uid, implicit):
    ds = dataset(grey, 8)
    ds.file_meta.TransferSyntaxUID = uid
    ds.save_as(tmp_path/'a.dcm', implicit_vr=implicit, little_endian=True, enforce_file_format=True)
    with pytest.raises(InputError, match=f'a.dcm: the private transfer syntax {uid}'): read_radiograph(tmp_path/'a.dcm')

def test_missing_photometric_interpretation(tmp_path, grey):
    for shape,wanted in (('IDENTITY', grey), ('INVERSE', 255-grey), (None, None)):
        ds = dataset(grey, 8)
        del ds.PhotometricInterpretation
        if shape: ds.PresentationLUTShape = shape
        ds.save_as(tmp_path/'a.dcm', enforce_file_format=True)
        if shape: assert close(read_radiograph(tmp_path/'a.dcm'), wanted)
        else:
            with pytest.raises(InputError, match='whether large values are bright'): read_radiograph(tmp_path/'a.dcm')

@pytest.mark.parametrize('syntax', [ExplicitVRLittleEndian, ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, JPEG2000Lossless])
def test_view_of_a_header(tmp_path, grey, syntax):
    assert dicom_view(dicom(tmp_path/'a.dcm', grey, 8, syntax=syntax, ViewPosition='LL', PatientName='Doe')) == 'LL'
    assert dicom_view(dicom(tmp_path/'a.dcm', grey, 8, syntax=syntax)) == ''

@pytest.mark.parametrize('content', [None, b'', b'words, not DICOM '*40, bytes(128) + b'DICM' + bytes(range(256))])
def test_no_view_where_there_is_no_readable_header(tmp_path, grey, content):
    if content is not None: (tmp_path/'a.dcm').write_bytes(content)
    assert dicom_view(tmp_path/'a.dcm') == ''
    Image.fromarray(grey).save(tmp_path/'a.png')
    assert dicom_view(tmp_path/'a.png') == ''

def test_nothing_of_a_header_gets_into_a_store(tmp_path, grey):
    mark,raw = 'Zq7Secret',tmp_path/'raw'
    raw.mkdir()
    for i in range(6):
        ds = dataset(grey*16., PatientName=f'{mark}^A', PatientID=mark, PatientBirthDate='19000101', StudyDescription=mark, InstitutionName=mark, AccessionNumber=mark,
                     ImageComments=mark, OtherPatientIDs=[mark, mark])
        block = ds.private_block(0x0011, f'{mark} INC', create=True)
        block.add_new(1, 'LO', mark), block.add_new(2, 'OB', mark.encode())
        letters = np.packbits(np.tile(np.frombuffer(mark.encode(), np.uint8), 90*70//72+1)[:90*70//8+1], bitorder='little')
        for e,vr,v in ((0x0010, 'US', 90), (0x0011, 'US', 70), (0x0022, 'LO', mark), (0x0040, 'CS', 'G'), (0x0050, 'SS', [1, 1]), (0x0100, 'US', 1), (0x0102, 'US', 0),
                       (0x1500, 'LO', mark), (0x3000, 'OW', letters.tobytes() + mark.encode()[:8])): ds.add_new(0x60000000+e, vr, v)
        if i == 4: ds.PixelData = ds.PixelData[:-500]           # rejected, with a reason
        if i == 5: ds.PhotometricInterpretation = 'PALETTE COLOR'
        ds.save_as(raw/f'{i}.dcm', enforce_file_format=True)
        assert mark.encode() in (raw/f'{i}.dcm').read_bytes()
    plain = read_radiograph(dicom(tmp_path/'plain.dcm', grey*16.))
    with pytest.raises(InputError): ImageStore.build([f'{i}.dcm' for i in range(6)], raw, tmp_path/'out', size=90)
    files = [o for o in (tmp_path/'out').rglob('*') if o.is_file()] # also what an unfinished build leaves
    store = ImageStore.build([f'{i}.dcm' for i in range(6)], raw, tmp_path/'done', size=90, max_rejected=.5)
    files += [o for o in (tmp_path/'done').rglob('*') if o.is_file()]
    assert len(store) == 4 and len(files) >= 6 and (store[0] == resize(plain, 90)).all()
    for o in files:
        content = o.read_bytes().lower()
        for code in ('utf-8', 'utf-16-le', 'utf-32-le'): assert mark.lower().encode(code) not in content, o.name

# ---- one size

@pytest.mark.parametrize('shape', [(64, 64), (100, 37), (37, 100), (1, 300), (300, 1), (1, 1), (31, 33)])
@pytest.mark.parametrize('resize_mode', ['letterbox', 'crop', 'squash'])
def test_resize_gives_the_size_and_keeps_a_flat_image_flat(shape, resize_mode):
    res = resize(np.full(shape, 200, np.uint8), 48, resize_mode)
    assert res.shape == (48, 48) and res.dtype == np.uint8 and set(np.unique(res)) <= {0, 200} and 200 in res
    if resize_mode != 'letterbox': assert (res == 200).all()

def test_letterbox_keeps_proportions_and_centre(grey):
    res = resize(np.full((90, 60), 255, np.uint8), 90)
    assert (res == 255).sum() == 90*60 and (res[:, 15:75] == 255).all()
    assert (resize(grey, 90)[:, 10:80] == grey).all()

def test_crop_takes_the_centre():
    x = np.zeros((50, 100), np.uint8); x[:, 25:75] = 255
    assert (resize(x, 50, 'crop') == 255).all()

def test_unknown_fit():
    with pytest.raises(InputError, match='letterbox, crop or squash'): resize(np.zeros((4, 4), np.uint8), 8, 'stretch')

# ---- paths and the store

BAD_PATHS = ['/etc/passwd', '../a.png', 'a/../../b.png', '..', 'C:\\a.png', 'C:a.png', '\\\\host\\a.png', '\\a.png', 'a\\..\\b.png', '', ' ', None, 3.0, float('nan'), 'a\0.png', 'a\n.png', '\udc80.png']

@pytest.mark.parametrize('bad', BAD_PATHS)
def test_paths_that_leave_the_root_are_refused(tmp_path, bad):
    with pytest.raises(InputError, match='row 1'): check_paths(['fine.png', bad])
    with pytest.raises(InputError): ImageStore.build(['fine.png', bad], tmp_path, tmp_path/'out')
    assert not (tmp_path/'out').exists()

def test_odd_but_good_paths():
    good = ['a b.png', 'ä/中.png', 'a\u00a0b.png', '👩\u200d⚕.png', 'a..b/c...png', 'x/.hidden.png', '1_IM-0001-4001.dcm.png']
    assert check_paths(good) == good

def test_store_counts_rejected_and_stops_beyond_the_share(tmp_path, grey):
    for i in range(10): Image.fromarray(grey).save(tmp_path/f'{i}.png')
    (tmp_path/'3.png').write_bytes(b''), (tmp_path/'5.png').write_bytes((tmp_path/'5.png').read_bytes()[:300]), (tmp_path/'8.png').unlink()
    names = [f'{i}.png' for i in range(10)]
    with pytest.raises(InputError, match='3 of 10 radiographs cannot be read') as e: ImageStore.build(names, tmp_path, tmp_path/'out', size=32)
    assert '3.png (the file is empty)' in str(e.value)
    with pytest.raises(InputError): ImageStore(tmp_path/'out')
    store = ImageStore.build(names, tmp_path, tmp_path/'out', size=32, max_rejected=.3)
    lines = (tmp_path/'out'/'rejected.csv').read_text().splitlines()
    assert len(store) == 7 and [o.split(',')[0] for o in lines] == ['path', '3.png', '5.png', '8.png']
    assert str(tmp_path) not in '\n'.join(lines)
    assert [store.row(o) for o in ('4.png', '9.png')] == [3, 6]
    with pytest.raises(InputError, match='8.png is not in the image store'): store.row('8.png')

def test_store_in_processes_is_the_store_of_one(tmp_path, grey):
    for i in range(70): Image.fromarray(np.roll(grey, i)).save(tmp_path/f'{i}.png')
    names = [f'{i}.png' for i in range(70)]
    one = ImageStore.build(names, tmp_path, tmp_path/'one', size=40, workers=1)
    two = ImageStore.build(names, tmp_path, tmp_path/'two', size=40, workers=2)
    for o in ('images.npy', 'index.parquet', 'rejected.csv'): assert (tmp_path/'one'/o).read_bytes() == (tmp_path/'two'/o).read_bytes()
    assert (one[5] == load_radiograph(tmp_path/'5.png', 40)).all() and (two['69.png'] == one[69]).all() and two[[3, 4]].shape == (2, 40, 40)
    import pickle
    assert (pickle.loads(pickle.dumps(two))[7] == one[7]).all()

def test_progress_and_rejected_files_are_told(tmp_path, grey, monkeypatch, capsys):
    for i in range(10): Image.fromarray(grey).save(tmp_path/f'{i}.png')
    build = lambda n: ImageStore.build([f'{i}.png' for i in range(n)], tmp_path, tmp_path/'out', size=32, workers=1, max_rejected=.5)
    monkeypatch.setenv('REFERS_NB_PROGRESS', '1')
    build(8)
    err = capsys.readouterr().err
    assert 'radiographs: 100%' in err and '8/8' in err and ' images' in err and 'cannot be read' not in err
    (tmp_path/'9.png').write_bytes(b'')
    build(10)
    err = capsys.readouterr().err
    assert '10/10' in err and f"1 of 10 radiographs cannot be read; the reasons are in {tmp_path/'out'/'rejected.csv'}\n" in err
    monkeypatch.setenv('REFERS_NB_PROGRESS', '0')
    build(9), build(10)
    assert capsys.readouterr().err == ''

def test_no_more_jobs_are_handed_out_than_are_read(tmp_path):
    "A reader that is slower than the processes: what waits is bounded"
    made,jobs = [],iter(range(60))
    def numbered():
        for i in jobs:
            made.append(i)
            yield i,
    done = []
    for o in _each(abs, numbered(), 2):
        assert len(made) - len(done) <= 4
        if len(done) == 10: time.sleep(.5) # they would run on
        done.append(o)
    assert sorted(done) == list(range(60)) == made

def test_store_of_a_dask_cluster_is_the_store_of_one(tmp_path, grey, monkeypatch, capsys):
    distributed = pytest.importorskip('distributed')
    raw = tmp_path/'raw'
    raw.mkdir()
    for i in range(70): Image.fromarray(np.roll(grey, i)).save(raw/f'{i}.png')
    (raw/'33.png').write_bytes(b'')
    names = [f'{i}.png' for i in range(70)]
    monkeypatch.chdir(tmp_path) # a relative root, which the workers do not share
    ImageStore.build(names, 'raw', 'one', size=40, workers=1)
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=':0') as cluster:
        with pytest.raises(InputError, match='has no workers'), distributed.LocalCluster(n_workers=0, dashboard_address=':0') as empty:
            ImageStore.build(names, 'raw', 'none', size=40, workers=empty.scheduler_address)
        ImageStore.build(names, 'raw', 'two', size=40, workers=cluster.scheduler_address)
        ImageStore.build(names, 'raw', 'two', size=40, workers=cluster.scheduler_address) # nothing to do
    for o in ('images.npy', 'index.parquet', 'rejected.csv'): assert (tmp_path/'one'/o).read_bytes() == (tmp_path/'two'/o).read_bytes()
    assert '1 of 70 radiographs cannot be read' in capsys.readouterr().err

def test_scheduler_that_is_not_there(tmp_path, grey, monkeypatch):
    Image.fromarray(grey).save(tmp_path/'a.png')
    build = lambda workers: ImageStore.build(['a.png'], tmp_path, tmp_path/'out', size=32, workers=workers)
    with socket.socket() as s: # taken, but nobody listens
        s.bind(('127.0.0.1', 0))
        with pytest.raises(InputError, match='no Dask scheduler answers there'): build(f'tcp://127.0.0.1:{s.getsockname()[1]}')
    for o in ('', 'two', 'tcp://nowhere', 'tcp://127.0.0.1:port'):
        with pytest.raises(InputError, match='no Dask scheduler answers there'): build(o)
    monkeypatch.setitem(sys.modules, 'distributed', None)
    with pytest.raises(InputError, match=r"pip install 'refers_nb\[cluster\]'"): build('tcp://127.0.0.1:8786')
    assert len(build(1)) == 1

def test_index_has_the_shape_in_the_file_and_a_hash(tmp_path):
    y,x = np.mgrid[0:1:1600j, 0:1:1200j]
    big = to_grey(np.sin(5*x)*np.cos(4*y))
    turned = Image.Exif(); turned[0x0112] = 6
    im = Image.fromarray(big)
    im.save(tmp_path/'a.jpg', quality=95), im.save(tmp_path/'turned.jpg', quality=95, exif=turned), im.save(tmp_path/'a.png'), im.save(tmp_path/'turned.webp', exif=turned, lossless=True)
    im.save(tmp_path/'turned.tiff', tiffinfo={0x0112: 6}, compression='tiff_lzw')
    dicom(tmp_path/'a.dcm', big*16.)
    names = ['a.jpg', 'turned.jpg', 'a.png', 'turned.webp', 'turned.tiff', 'a.dcm']
    store = ImageStore.build(names, tmp_path, tmp_path/'out', size=64)
    index = store.index
    assert list(index) == ['path', 'bytes', 'mtime_ns', 'height', 'width', 'phash']
    assert [str(o) for o in index.dtypes[1:]] == ['int64', 'int64', 'int32', 'int32', 'uint64']
    assert list(zip(index['height'], index['width'])) == [(1200, 1600) if 'turned' in o else (1600, 1200) for o in names]
    assert index['phash'].tolist() == [image_hash(o) for o in store]
    assert all((image_hash(store[0]) ^ image_hash(store[i])).bit_count() <= 6 for i in (2, 5))

def test_hash_is_that_of_the_imagehash_package(grey):
    import imagehash
    h = imagehash.phash(Image.fromarray(grey))
    assert image_hash(grey) == sum(int(b) << (63-i) for i,b in enumerate(h.hash.ravel())) < 2**64

def test_a_pipe_is_no_radiograph(tmp_path):
    if not hasattr(os, 'mkfifo'): pytest.skip('no pipes here')
    os.mkfifo(tmp_path/'a.png')
    with pytest.raises(InputError, match='pipe'): read_radiograph(tmp_path/'a.png')

@pytest.mark.parametrize('tags', [dict(RescaleSlope='1e40', RescaleIntercept='0'), dict(RescaleSlope='1', RescaleIntercept='-1e300')])
def test_a_rescale_rule_without_usable_numbers_is_refused(tmp_path, grey, tags):
    with pytest.raises(InputError, match='Rescale'): read_radiograph(dicom(tmp_path/'a.dcm', grey*16., **tags))

def test_a_decoder_that_panics_costs_one_image(tmp_path, grey, monkeypatch):
    class PanicException(BaseException): "As decoders in Rust raise it"
    for i in range(3): Image.fromarray(grey).save(tmp_path/f'{i}.png')
    real = R._picture
    def picture(path, *args):
        if path.name == '1.png': raise PanicException('index out of \x00 bounds')
        return real(path, *args)
    monkeypatch.setattr(R, '_picture', picture)
    store = ImageStore.build([f'{i}.png' for i in range(3)], tmp_path, tmp_path/'out', size=32, workers=1, max_rejected=.5)
    assert len(store) == 2 and 'index out of  bounds' in (tmp_path/'out'/'rejected.csv').read_text()
    monkeypatch.setattr(R, '_picture', lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt): read_radiograph(tmp_path/'0.png')

def test_the_pool_leaves_room_for_joblib():
    from joblib import Parallel, delayed
    assert sorted(_each(abs, [(-1,), (-2,)], 2)) == [1, 2]
    assert Parallel(n_jobs=2)(delayed(abs)(o) for o in (-3, -4)) == [3, 4]
    assert sorted(_each(abs, [(-5,)], 2)) == [5]
