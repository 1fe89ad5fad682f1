"DICOM of every kind: shown as the standard says, or refused with the path and a reason"
import copy, io, itertools, random, struct, warnings

import numpy as np
import pandas as pd
import pydicom
import pytest
from PIL import Image
from pydicom.filebase import DicomFileLike
from pydicom.filewriter import write_dataset
from pydicom.pixels import get_decoder
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian,
    JPEG2000Lossless, JPEGBaseline8Bit, JPEGLosslessSV1, JPEGLSLossless, RLELossless,
)
from radiograph_files import close, dataset, dicom, grey, jpeg, png, table

from refers_nb.core import InputError
from refers_nb.data.card import describe
from refers_nb.data.dicom import coded_sizes, dicom_view, show_dicom
from refers_nb.data.grey import resize, to_grey
from refers_nb.data.radiograph import read_radiograph
from refers_nb.data.store import ImageStore

SYNTAXES = [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian,
            DeflatedExplicitVRLittleEndian, RLELossless, JPEGLosslessSV1, JPEGLSLossless, JPEG2000Lossless]
CODINGS = [*itertools.product(SYNTAXES, (8, 12, 16), (False, True)), (JPEGBaseline8Bit, 8, False)]
CODINGS += [pytest.param(*o, marks=pytest.mark.slow) for o in itertools.product(SYNTAXES, (10,), (False, True))]
RULES = ['none', 'slope', 'falling', 'lut']
VOIS = ['none', 'LINEAR', 'LINEAR_EXACT', 'SIGMOID', 'lut']

def in_units(x, rule, lo, hi, bits, big):
    "Tags of a modality rule, and what the standard makes of the values `x` (C.11.1)"
    if rule == 'none': return {}, x
    if rule == 'lut':
        values = np.rint(np.sqrt(np.arange(hi-lo+1)/(hi-lo))*(2**bits-1)).astype(int)
        data = 'OW' if len(values) > 300 else 'US'
        return dict(ModalityLUTSequence=table(values, lo, bits, data, big)), values[x-lo]
    if rule == 'slope': a, b = 1 if bits == 16 else 2, -100
    if rule == 'falling': a, b = -1, lo + hi
    return dict(RescaleSlope=a, RescaleIntercept=b), a*x + b

def brightness(y, voi, bits, big):
    "Tags of the values of interest, and brightness 0 to 1 that the standard gives the values `y` (C.11.2)"
    lo, hi = int(y.min()), int(y.max())
    if voi == 'none': return {}, (y - lo)/(hi - lo)
    c = round(lo + .45*(hi - lo))
    w = round(.6*(hi - lo))
    if voi == 'lut':
        values = np.rint(np.linspace(0, 1, w)**2*(2**bits-1)).astype(int)
        first = c - w//2
        tags = dict(VOILUTSequence=table(values, first, bits, 'OW' if w > 300 else 'US', big))
        return tags, values[np.minimum(np.maximum(y - first, 0), w-1)]/(2**bits-1)
    tags = dict(WindowCenter=[c, lo], WindowWidth=[w, 7])
    if voi != 'LINEAR': tags['VOILUTFunction'] = voi
    if voi == 'SIGMOID': return tags, 1/(1 + np.exp(-4*(y - c)/w))
    if voi == 'LINEAR':
        low, high = c - .5 - (w-1)/2, c - .5 + (w-1)/2
        between = (y - (c - .5))/(w-1) + .5
    else:
        low, high = c - w/2, c + w/2
        between = (y - c)/w + .5
    return tags, np.select([y <= low, y > high], [0, 1], between)

WAYS = [*itertools.product(['MONOCHROME1', 'MONOCHROME2'], RULES, VOIS)]

@pytest.mark.parametrize('n', [
    pytest.param(10, id='some'), pytest.param(len(WAYS), id='all', marks=pytest.mark.slow)])
@pytest.mark.parametrize('syntax,bits,signed', CODINGS, ids=lambda o: getattr(o, 'keyword', None))
def test_every_kind_of_dicom_is_shown_as_the_standard_says(tmp_path, syntax, bits, signed, n):
    "Every coding with some of the ways to show it, others for each; with all of them in the slow series"
    lo, hi = (-2**(bits-1), 2**(bits-1)-1) if signed else (0, 2**bits-1)
    x = np.rint(np.linspace(lo, hi, 40*36)).astype(int).reshape(40, 36)
    if syntax == JPEGBaseline8Bit: x = np.array(Image.open(io.BytesIO(jpeg(x.astype(np.uint8))))).astype(int)
    big = syntax == ExplicitVRBigEndian
    plain = dataset(x, bits, signed, syntax)
    drawn = random.Random(f'{syntax} {bits} {signed}')
    for photometric, rule, voi in drawn.sample(WAYS, n):
        units, y = in_units(x, rule, lo, hi, bits, big)
        tags, wanted = brightness(y, voi, bits, big)
        ds = copy.deepcopy(plain)
        tags |= units | dict(PhotometricInterpretation=photometric)
        for keyword, v in tags.items(): setattr(ds, keyword, v)
        ds.save_as(tmp_path/'a.dcm', enforce_file_format=True)
        if photometric == 'MONOCHROME1': wanted = 1 - wanted
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
    colour = dict(photometric='RGB', SamplesPerPixel=3, PlanarConfiguration=0)
    p = dicom(tmp_path/'a.dcm', np.stack([grey]*3, -1), bits=8, **colour)
    assert close(read_radiograph(p), grey)
    p = dicom(tmp_path/'b.dcm', np.concatenate([grey, grey[::-1]]), bits=8, Rows=len(grey), NumberOfFrames=2)
    assert close(read_radiograph(p), grey)

def test_dicom_without_preamble(tmp_path, grey):
    p = dicom(tmp_path/'a.dcm', grey, bits=8, syntax=ImplicitVRLittleEndian)
    ds = pydicom.dcmread(p)
    b = io.BytesIO()
    fp = DicomFileLike(b)
    fp.is_little_endian = fp.is_implicit_VR = True
    write_dataset(fp, ds)
    (tmp_path/'bare.dcm').write_bytes(b.getvalue())
    assert close(read_radiograph(tmp_path/'bare.dcm'), grey)

@pytest.mark.parametrize('kind', ['empty', 'cut', 'no pixels', 'words', 'palette'])
def test_damaged_dicom(tmp_path, grey, kind):
    photometric = 'PALETTE COLOR' if kind == 'palette' else 'MONOCHROME2'
    p = dicom(tmp_path/'a.dcm', grey, bits=8, photometric=photometric)
    whole = p.read_bytes()
    if kind == 'no pixels':
        ds = pydicom.dcmread(p)
        del ds.PixelData
        ds.save_as(p)
    content = dict(empty=b'', cut=whole[:-2000], words=b'words, not DICOM '*40)
    if kind in content: p.write_bytes(content[kind])
    with pytest.raises(InputError, match='a.dcm'): read_radiograph(p)

COMPRESSED = [RLELossless, JPEGBaseline8Bit, JPEGLosslessSV1, JPEGLSLossless, JPEG2000Lossless]

@pytest.mark.parametrize('syntax', COMPRESSED, ids=lambda o: o.keyword)
def test_a_compression_without_a_decoder_says_what_to_install(tmp_path, grey, monkeypatch, syntax):
    p = dicom(tmp_path/'a.dcm', grey, bits=8, syntax=syntax)
    read_radiograph(p)
    monkeypatch.setattr(get_decoder(syntax), '_available', {})
    monkeypatch.setattr(get_decoder(syntax), '_unavailable', {'pylibjpeg': ('pylibjpeg>=2.0', 'numpy')})
    advice = r"a\.dcm: .*no decoder is installed \(pip install 'refers_nb\[dicom\]'"
    with pytest.raises(InputError, match=advice): read_radiograph(p)

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

OVERLAY = {'0010': ('US', 90), '0011': ('US', 70), '0040': ('CS', 'G'), '0050': ('SS', [1, 1])}

def add_overlay(ds, **elements):
    "Elements of the overlay group 6000 by their numbers"
    for number, (vr, v) in elements.items(): ds.add_new(0x60000000 + int(number, 16), vr, v)

def test_an_overlay_in_unused_bits_is_not_shown(tmp_path, grey):
    x = grey*16.
    y = x.copy()
    y[10:20, 10:40] += 4096 # drawn in bit 12
    ds = dataset(y, bits=12)
    add_overlay(ds, **{**OVERLAY, '0100': ('US', 16), '0102': ('US', 12)})
    ds.save_as(tmp_path/'a.dcm', enforce_file_format=True)
    assert (read_radiograph(tmp_path/'a.dcm') == read_radiograph(dicom(tmp_path/'b.dcm', x))).all()

def test_of_several_windows_the_first_counts_and_nonsense_is_none(tmp_path, grey):
    x = grey*16.
    one = dict(WindowCenter=2000, WindowWidth=1000)
    wanted = read_radiograph(dicom(tmp_path/'a.dcm', x, **one))
    several = dict(WindowCenter=[2000, 50, 3000], WindowWidth=[1000, 20, 9],
                   WindowCenterWidthExplanation=['NORMAL', 'A', 'B'])
    assert (read_radiograph(dicom(tmp_path/'b.dcm', x, **several)) == wanted).all()
    ds = dataset(x)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        ds.add_new('WindowCenter', 'LO', 'none')
        ds.add_new('WindowWidth', 'DS', '')
        ds.save_as(tmp_path/'c.dcm', enforce_file_format=True)
        assert close(read_radiograph(tmp_path/'c.dcm'), grey)

@pytest.mark.parametrize('signed,pad', [(False, 0), (False, 4095), (True, -2000), (True, 2047)])
@pytest.mark.parametrize('photometric', ['MONOCHROME1', 'MONOCHROME2'])
def test_padding_of_any_value_is_black(tmp_path, grey, signed, pad, photometric):
    v = 255-grey if photometric == 'MONOCHROME1' else grey
    x = v*10. + 500 - 2000*signed
    x[:10] = pad
    tags = dict(photometric=photometric, PixelPaddingValue=pad)
    res = read_radiograph(dicom(tmp_path/'a.dcm', x, 12, signed, **tags))
    assert (res[:10] == 0).all() and close(res[10:], to_grey(grey[10:]))
    x[10:20] = pad + (1 if pad < 1000 else -1) # a range of values
    tags['PixelPaddingRangeLimit'] = int(x[10, 0])
    res = read_radiograph(dicom(tmp_path/'b.dcm', x, 12, signed, **tags))
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
    # the same twelve bits, read as the header says
    y = np.where(x >= 2048, x-4096, x) if signed else (x-2048) & 4095
    assert close(read_radiograph(tmp_path/'a.dcm'), to_grey(y))

def test_a_table_of_8_bits_with_4096_entries(tmp_path):
    x = np.tile(np.arange(4096), (4, 1))
    values = np.rint(np.sqrt(np.arange(4096)/4095)*255)
    p = dicom(tmp_path/'a.dcm', x, VOILUTSequence=table(values, bits=8))
    assert close(read_radiograph(p), values[None].repeat(4, 0))
    ds = dataset(x, VOILUTSequence=table(values, bits=8))
    ds.VOILUTSequence[0].add_new('LUTData', 'OW', values.astype(np.uint8).tobytes()) # one byte an entry
    ds.save_as(tmp_path/'b.dcm', enforce_file_format=True)
    assert close(read_radiograph(tmp_path/'b.dcm'), values[None].repeat(4, 0))
    ds.VOILUTSequence[0].LUTDescriptor = [2001, 0, 8] # odd, and values beyond the end take the last entry
    ds.VOILUTSequence[0].add_new('LUTData', 'OW', values[:2001].astype(np.uint8).tobytes() + b'\0')
    ds.save_as(tmp_path/'c.dcm', enforce_file_format=True)
    assert (np.diff(read_radiograph(tmp_path/'c.dcm').astype(int)) >= 0).all()

def test_a_table_wider_than_the_image_is_not_stretched(tmp_path):
    x = np.tile(np.arange(1000, 2000), (4, 1))
    p = dicom(tmp_path/'a.dcm', x, VOILUTSequence=table(np.arange(4096), bits=12))
    assert close(read_radiograph(p), x*(255/4095))

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
    with pytest.raises(InputError, match=f'a.dcm: the private transfer syntax {uid}'):
        read_radiograph(tmp_path/'a.dcm')

def test_missing_photometric_interpretation(tmp_path, grey):
    ds = dataset(grey, 8)
    del ds.PhotometricInterpretation
    ds.save_as(tmp_path/'a.dcm', enforce_file_format=True)
    with pytest.raises(InputError, match='whether large values are bright'): read_radiograph(tmp_path/'a.dcm')
    for shape, wanted in (('IDENTITY', grey), ('INVERSE', 255-grey)):
        ds.PresentationLUTShape = shape
        ds.save_as(tmp_path/'a.dcm', enforce_file_format=True)
        assert close(read_radiograph(tmp_path/'a.dcm'), wanted)

HEADERS = [ExplicitVRLittleEndian, ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian,
           ExplicitVRBigEndian, JPEG2000Lossless]

@pytest.mark.parametrize('syntax', [RLELossless, JPEGLSLossless], ids=lambda o: o.keyword)
def test_the_mark_of_jpeg_2000_within_the_pixels_of_another_coding_is_chance(tmp_path, syntax):
    x = np.tile([0xff, 0x4f, 0xff, 0x51, 1, 2, 3, 4], 32).reshape(16, 16).astype(np.uint8)
    assert read_radiograph(dicom(tmp_path/'a.dcm', x, 8, syntax=syntax)).shape == (16, 16)
    assert not [*coded_sizes(b'\0'*64 + b'\xff\x4f\xff\x51' + bytes(60))]
    whole = b'\xff\x4f\xff\x51\0\x29\0\0' + struct.pack('>II', 640, 480) + bytes(24) + struct.pack('>H', 3) + bytes(20)
    assert [*coded_sizes(whole)] == [*coded_sizes(b'\0\0\0\x0cjP  ' + bytes(40) + whole)] == [(640, 480, 3)]


@pytest.mark.parametrize('syntax', HEADERS, ids=lambda o: o.keyword)
def test_view_of_a_header(tmp_path, grey, syntax):
    lateral = dicom(tmp_path/'a.dcm', grey, 8, syntax=syntax, ViewPosition='LL', PatientName='Doe')
    assert dicom_view(lateral) == 'LL'
    assert dicom_view(dicom(tmp_path/'a.dcm', grey, 8, syntax=syntax)) == ''

UNREADABLE = [None, b'', b'words, not DICOM '*40, bytes(128) + b'DICM' + bytes(range(256))]

@pytest.mark.parametrize('content', UNREADABLE, ids=['missing', 'empty', 'words', 'nonsense'])
def test_no_view_where_there_is_no_readable_header(tmp_path, grey, content):
    if content is not None: (tmp_path/'a.dcm').write_bytes(content)
    assert dicom_view(tmp_path/'a.dcm') == ''
    Image.fromarray(grey).save(tmp_path/'a.png')
    assert dicom_view(tmp_path/'a.png') == ''

def marked(grey, mark):
    "A dataset that holds a mark in names, numbers, private elements and an overlay"
    ds = dataset(grey*16., PatientName=f'{mark}^A', PatientID=mark, PatientBirthDate='19000101',
                 StudyDescription=mark, InstitutionName=mark, AccessionNumber=mark, ImageComments=mark,
                 OtherPatientIDs=[mark, mark])
    block = ds.private_block(0x0011, f'{mark} INC', create=True)
    block.add_new(1, 'LO', mark)
    block.add_new(2, 'OB', mark.encode())
    letters = np.tile(np.frombuffer(mark.encode(), np.uint8), 90*70//72+1)[:90*70//8+1]
    drawing = np.packbits(letters, bitorder='little').tobytes() + mark.encode()[:8]
    add_overlay(ds, **OVERLAY, **{'0100': ('US', 1), '0102': ('US', 0)})
    add_overlay(ds, **{'0022': ('LO', mark), '1500': ('LO', mark), '3000': ('OW', drawing)})
    return ds

def test_nothing_of_a_header_gets_into_a_store(tmp_path, grey):
    mark, raw = 'Zq7Secret', tmp_path/'raw'
    names = [f'{i}.dcm' for i in range(6)]
    raw.mkdir()
    for i, name in enumerate(names):
        ds = marked(grey, mark)
        if i == 4: ds.PixelData = ds.PixelData[:-500] # rejected, with a reason
        if i == 5: ds.PhotometricInterpretation = 'PALETTE COLOR'
        ds.save_as(raw/name, enforce_file_format=True)
        assert mark.encode() in (raw/name).read_bytes()
    plain = read_radiograph(dicom(tmp_path/'plain.dcm', grey*16.))
    with pytest.raises(InputError): ImageStore.build(names, raw, tmp_path/'out', size=90)
    files = [o for o in (tmp_path/'out').rglob('*') if o.is_file()] # also what an unfinished build leaves
    store = ImageStore.build(names, raw, tmp_path/'done', size=90, max_rejected=.5)
    files += [o for o in (tmp_path/'done').rglob('*') if o.is_file()]
    assert len(store) == 4
    assert len(files) >= 6
    assert (store[0] == resize(plain, 90)).all()
    for o in files:
        content = o.read_bytes().lower()
        for code in ('utf-8', 'utf-16-le', 'utf-32-le'):
            assert mark.lower().encode(code) not in content, o.name


@pytest.mark.parametrize('slope,intercept', [('1e40', '0'), ('1', '-1e300')])
def test_a_rescale_rule_without_usable_numbers_is_refused(tmp_path, grey, slope, intercept):
    p = dicom(tmp_path/'a.dcm', grey*16., RescaleSlope=slope, RescaleIntercept=intercept)
    with pytest.raises(InputError, match='Rescale'): read_radiograph(p)


# ---- windows and tables that show nothing

def missed(path):
    "The image, and whether the header's own window was passed over"
    shown = show_dicom(path)
    with warnings.catch_warnings():
        warnings.simplefilter('error' if not shown.window_missed else 'ignore')
        assert (read_radiograph(path) == shown.image).all()
    return shown.image, shown.window_missed

WINDOWS = [(9000, 500), (-3000, 400), (4070, 8), (30, 4), (32768, 65536), (2100, 2), (1e9, 1e9)]

@pytest.mark.parametrize('kind', ['LINEAR', 'LINEAR_EXACT', 'SIGMOID'])
@pytest.mark.parametrize('centre,width', WINDOWS)
@pytest.mark.parametrize('photometric', ['MONOCHROME1', 'MONOCHROME2'])
def test_a_window_that_shows_nothing_is_passed_over(tmp_path, grey, centre, width, kind, photometric):
    tags = dict(WindowCenter=centre, WindowWidth=width, VOILUTFunction=kind, photometric=photometric)
    img, passed_over = missed(dicom(tmp_path/'a.dcm', grey*16., **tags))
    assert passed_over and close(img, 255 - grey if photometric == 'MONOCHROME1' else grey)

def test_the_next_window_that_shows_the_film_counts(tmp_path, grey):
    x = grey*16.
    wanted, passed_over = missed(dicom(tmp_path/'a.dcm', x, WindowCenter=2000, WindowWidth=3000))
    assert not passed_over
    for centres, widths in (([9000, 2000], [500, 3000]), ([-50, 9000, 2000], [9, 500, 3000])):
        p = dicom(tmp_path/'b.dcm', x, WindowCenter=centres, WindowWidth=widths)
        assert missed(p)[1] and (missed(p)[0] == wanted).all()
    beyond = table(np.arange(1000)*4, 9000, 12)
    p = dicom(tmp_path/'c.dcm', x, VOILUTSequence=beyond, WindowCenter=2000, WindowWidth=3000)
    assert missed(p)[1] and (missed(p)[0] == wanted).all()

@pytest.mark.parametrize('values,first', [(np.arange(1000), 9000), (np.arange(1000), -9000), (np.full(4096, 7), 0),
                                          (np.zeros(4096), 0)])
def test_a_table_that_shows_nothing_is_passed_over(tmp_path, grey, values, first):
    img, passed_over = missed(dicom(tmp_path/'a.dcm', grey*16., VOILUTSequence=table(values, first, 12)))
    assert passed_over and close(img, grey)

def test_a_flat_film_stays_flat(tmp_path, grey):
    for tags in (dict(WindowCenter=1000, WindowWidth=100), dict(WindowCenter=9000, WindowWidth=100), {}):
        img, passed_over = missed(dicom(tmp_path/'a.dcm', np.full_like(grey, 200)*5., **tags))
        assert not passed_over and len(np.unique(img)) == 1

def emptied(ds, how):
    "Take away what a table in a header needs"
    for item in (o for k in ('VOILUTSequence', 'ModalityLUTSequence') for o in ds.get(k, [])):
        if how == 'no data': del item.LUTData
        if how == 'no numbers': item.add_new('LUTData', 'US', [])
        if how == 'no bytes': item.add_new('LUTData', 'OW', b'')
        if how == 'no descriptor': del item.LUTDescriptor
        if how == 'half a descriptor': item.add_new('LUTDescriptor', 'US', [4096])
        if how == 'nothing': item.clear()

@pytest.mark.parametrize('how', ['no data', 'no numbers', 'no bytes', 'no descriptor', 'half a descriptor', 'nothing'])
@pytest.mark.parametrize('keyword', ['VOILUTSequence', 'ModalityLUTSequence'])
def test_a_table_that_is_not_whole_is_none(tmp_path, grey, keyword, how):
    for tags in ({}, dict(WindowCenter=2000, WindowWidth=3000)):
        wanted = read_radiograph(dicom(tmp_path/'a.dcm', grey*16., **tags))
        ds = dataset(grey*16., **tags, **{keyword: table(np.arange(4096)[::-1], 0, 12)})
        emptied(ds, how)
        ds.save_as(tmp_path/'b.dcm', enforce_file_format=True)
        img, passed_over = missed(tmp_path/'b.dcm')
        assert not passed_over and (img == wanted).all()

def test_missed_windows_are_told_in_index_and_card(tmp_path, grey):
    names = [f'{i}.dcm' for i in range(6)]
    for i, name in enumerate(names):
        dicom(tmp_path/name, np.roll(grey, 9*i, 0)*16., WindowCenter=9000 if i % 3 == 0 else 2000, WindowWidth=3000)
    store = ImageStore.build(names, tmp_path, tmp_path/'out', size=64)
    assert store.index['window_missed'].tolist() == [True, False, False]*2
    df = pd.DataFrame(dict(patient=names, study=names, view='PA', path=names, report='', split='train'))
    card = describe(df, store)
    line = next(o for o in card.splitlines() if 'window passed over' in o)
    assert [o.strip() for o in line.strip('|').split('|')[1:]] == ['2', '2']
    with pytest.warns(UserWarning, match='0.dcm: its window shows nothing'): read_radiograph(tmp_path/'0.dcm')

# ---- unused bits

def foreign_bits(shape):
    "What the four bits above twelve may hold: everywhere, anywhere, in some places"
    rng = np.random.default_rng(3)
    rows = np.arange(shape[0])[:, None]
    some = np.zeros(shape, int)
    some[3, 5:9] = 8
    return dict(all=np.full(shape, 15), noise=rng.integers(0, 16, shape), lines=(rows % 7 == 0)*5 + np.zeros(shape, int),
                half=(rows < 40)*15 + np.zeros(shape, int), some=some)

@pytest.mark.parametrize('kind', ['all', 'noise', 'lines', 'half', 'some'])
@pytest.mark.parametrize('signed', [False, True])
def test_unused_bits_may_hold_anything(tmp_path, grey, signed, kind):
    meant = grey.astype(int)*16 - 2048*signed
    foreign = foreign_bits(grey.shape)[kind]
    words = {11: (meant & 4095) | foreign << 12, 15: (meant & 4095) << 4 | foreign,
             13: (meant & 4095) << 2 | (foreign & 3) | (foreign & 12) << 12}
    for tags in ({}, dict(WindowCenter=2000 - 2048*signed, WindowWidth=3000)):
        wanted = read_radiograph(dicom(tmp_path/'a.dcm', meant, 12, signed, **tags))
        for high_bit, x in words.items():
            x = np.where(x >= 2**15, x - 2**16, x) if signed else x
            p = dicom(tmp_path/'b.dcm', x, 16, signed, BitsStored=12, HighBit=high_bit, **tags)
            assert close(missed(p)[0], wanted), high_bit
            assert not missed(p)[1]

@pytest.mark.parametrize('bits,stored', [(10, 8), (13, 10), (16, 12), (16, 15)])
def test_too_small_a_claim_still_loses_nothing(tmp_path, grey, bits, stored):
    x = grey.astype(int)*(2**bits//256)
    assert close(read_radiograph(dicom(tmp_path/'a.dcm', x, 16, BitsStored=stored, HighBit=stored - 1)), grey)

def test_padding_beyond_the_stored_bits_says_nothing_of_them(tmp_path, grey):
    for signed, pad in ((False, 65535), (False, 5000), (True, -30000), (True, 32767)):
        x = grey*8. + 10
        x[:10] = pad
        tags = dict(BitsStored=13 if signed else 12, PixelPaddingValue=pad)
        res = read_radiograph(dicom(tmp_path/'a.dcm', x, 16, signed, HighBit=tags['BitsStored'] - 1, **tags))
        assert (res[:10] == 0).all() and close(res[10:], to_grey(grey[10:])), pad

# ---- one rule of brightness

def test_8_bits_without_a_window_are_those_of_a_png(tmp_path, grey):
    pale = 60 + grey.astype(int)*120//255
    wanted = read_radiograph(png(tmp_path/'a.png', pale))
    assert (wanted.min(), wanted.max()) == (60, 180)
    colour = dict(photometric='RGB', SamplesPerPixel=3, PlanarConfiguration=0)
    kinds = dict(
        unsigned=dataset(pale, 8), signed=dataset(pale - 128, 8, True), words=dataset(pale, 12, BitsStored=8, HighBit=7),
        slope=dataset(pale, 8, RescaleSlope=2, RescaleIntercept=-100), rle=dataset(pale, 8, syntax=RLELossless),
        colour=dataset(np.stack([pale]*3, -1), 8, **colour), turned=dataset(255 - pale, 8, photometric='MONOCHROME1'),
        window=dataset(pale, 8, WindowCenter=2048, WindowWidth=4096))
    for kind, ds in kinds.items():
        ds.save_as(tmp_path/'a.dcm', enforce_file_format=True)
        assert (show_dicom(tmp_path/'a.dcm').image == wanted).all(), kind

@pytest.mark.parametrize('top', [900, 4095])
def test_more_bits_without_a_window_are_those_of_a_png(tmp_path, grey, top):
    x = 100 + np.rint(grey/255*(top - 100)).astype(int)
    wanted = read_radiograph(png(tmp_path/'a.png', x, bits=16))
    assert close(read_radiograph(dicom(tmp_path/'a.dcm', x)), wanted, 0)
    colour = dict(photometric='RGB', SamplesPerPixel=3, PlanarConfiguration=0)
    assert close(read_radiograph(dicom(tmp_path/'a.dcm', np.stack([x]*3, -1), **colour)), wanted)

# ---- pixels that are not square

RATIOS = [(dict(PixelAspectRatio=[2, 1]), (180, 70)), (dict(PixelSpacing=['0.3', '0.2']), (135, 70)),
          (dict(ImagerPixelSpacing=[.1, .2]), (90, 140)), (dict(PixelSpacing=[.2, .2], PixelAspectRatio=[2, 1]), (90, 70)),
          (dict(PixelSpacing=[0, 0], PixelAspectRatio=[1, 3]), (90, 210)), (dict(PixelSpacing=[-1, 1]), (90, 70))]

@pytest.mark.parametrize('tags,shape', RATIOS)
def test_pixels_are_square(tmp_path, grey, tags, shape):
    shown = show_dicom(dicom(tmp_path/'a.dcm', grey*16., **tags))
    assert shown.image.shape == shape and shown.shape == (90, 70)
    with pytest.raises(InputError, match='times as high as wide'):
        read_radiograph(dicom(tmp_path/'a.dcm', grey*16., PixelAspectRatio=[1, 100]))
