"Radiographs of every kind of file: read right, or refused with the path and a reason"
import io

import numpy as np, pydicom, pytest
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ComputedRadiographyImageStorage, DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless

from refers_nb.core import InputError
from refers_nb.radiograph import ImageStore, check_paths, load_radiograph, read_radiograph, resize, to_grey

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

def dicom(path, x, bits=12, signed=False, syntax=ExplicitVRLittleEndian, photometric='MONOCHROME2', **tags):
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID, ds.SOPClassUID, ds.SOPInstanceUID = syntax, ComputedRadiographyImageStorage, '1.2.3'
    ds.Rows, ds.Columns, ds.SamplesPerPixel, ds.PixelRepresentation = *x.shape[:2], 1, int(signed)
    wide = 8 if bits <= 8 else 16
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PhotometricInterpretation = wide, bits, bits-1, photometric
    x = x.astype({(8, False): np.uint8, (8, True): np.int8, (16, False): np.uint16, (16, True): np.int16}[wide, signed])
    if syntax == RLELossless: ds.PixelData = x.tobytes(); ds.compress(RLELossless, x)
    else: ds.PixelData = x.tobytes()
    for k,v in tags.items(): setattr(ds, k, v)
    ds.save_as(path, enforce_file_format=True)
    return path

@pytest.mark.parametrize('photometric', ['MONOCHROME1', 'MONOCHROME2'])
@pytest.mark.parametrize('syntax', [ExplicitVRLittleEndian, ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian, RLELossless])
@pytest.mark.parametrize('bits,signed', [(8, False), (10, False), (12, False), (12, True), (16, False), (16, True)])
def test_dicom_of_every_kind_looks_the_same(tmp_path, grey, photometric, syntax, bits, signed):
    v = grey/255
    if photometric == 'MONOCHROME1': v = 1-v
    x = np.rint(v*(2**bits-1)) - (2**(bits-1) if signed else 0)
    assert close(read_radiograph(dicom(tmp_path/'a.dcm', x, bits, signed, syntax, photometric)), grey)

@pytest.mark.parametrize('photometric', ['MONOCHROME1', 'MONOCHROME2'])
@pytest.mark.parametrize('function', [None, 'LINEAR', 'LINEAR_EXACT', 'SIGMOID'])
@pytest.mark.parametrize('slope,intercept', [(1, 0), (2, -1000), (.5, 3)])
def test_window_after_modality_rule(tmp_path, photometric, function, slope, intercept):
    x = np.tile(np.arange(4096), (4, 1))
    tags = dict(RescaleSlope=slope, RescaleIntercept=intercept, WindowCenter=[slope*2000+intercept, 1], WindowWidth=[slope*800, 2])
    if function: tags['VOILUTFunction'] = function
    row = read_radiograph(dicom(tmp_path/'a.dcm', x, photometric=photometric, **tags))[0].astype(int)
    if photometric == 'MONOCHROME1': row = 255-row
    assert (np.diff(row) >= 0).all() and abs(row[2000]-127.5) <= 2
    if function == 'SIGMOID': assert row[0] <= 1 and row[-1] >= 254 and 20 < row[1600] < 40
    else: assert (row[:1590] == 0).all() and (row[2410:] == 255).all() and abs(row[1800]-63.75) <= 2

def test_a_window_wider_than_the_image_is_not_stretched(tmp_path):
    x = np.tile(np.arange(1000, 2000), (4, 1))
    row = read_radiograph(dicom(tmp_path/'a.dcm', x, WindowCenter=2048, WindowWidth=4096))[0]
    assert 60 <= row[0] <= 64 and 122 <= row[-1] <= 126

def test_an_impossible_window_is_no_window(tmp_path, grey):
    assert close(read_radiograph(dicom(tmp_path/'a.dcm', grey*16., WindowCenter=0, WindowWidth=0)), grey)

def test_voi_table_and_modality_table(tmp_path):
    def table(values, keyword, first=0):
        lut = Dataset()
        lut.LUTDescriptor = [len(values), first, 16]
        lut.add_new('LUTData', 'US', [int(v) for v in values])
        if keyword == 'ModalityLUTSequence': lut.ModalityLUTType = 'US'
        return {keyword: Sequence([lut])}
    x,square = np.tile(np.arange(256), (3, 1)),np.arange(256)**2
    for keyword in ('VOILUTSequence', 'ModalityLUTSequence'):
        row = read_radiograph(dicom(tmp_path/f'{keyword}.dcm', x, bits=8, **table(square, keyword)))[0]
        assert close(row[None], to_grey(square[None])), keyword

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

def test_a_compression_without_a_decoder_says_what_to_install(tmp_path, grey):
    from pydicom.encaps import encapsulate
    from pydicom.pixels import get_decoder
    from pydicom.uid import JPEGLosslessSV1
    if get_decoder(JPEGLosslessSV1).is_available: pytest.skip('a decoder for lossless JPEG is installed')
    p = dicom(tmp_path/'a.dcm', grey, bits=8)
    ds = pydicom.dcmread(p)
    ds.file_meta.TransferSyntaxUID, ds.PixelData = JPEGLosslessSV1, encapsulate([b'\xff\xd8' + bytes(100)])
    ds['PixelData'].is_undefined_length = True
    ds.save_as(p)
    with pytest.raises(InputError, match='pip install'): read_radiograph(p)

# ---- one size

@pytest.mark.parametrize('shape', [(64, 64), (100, 37), (37, 100), (1, 300), (300, 1), (1, 1), (31, 33)])
@pytest.mark.parametrize('fit', ['letterbox', 'crop', 'squash'])
def test_resize_gives_the_size_and_keeps_a_flat_image_flat(shape, fit):
    res = resize(np.full(shape, 200, np.uint8), 48, fit)
    assert res.shape == (48, 48) and res.dtype == np.uint8 and set(np.unique(res)) <= {0, 200} and 200 in res
    if fit != 'letterbox': assert (res == 200).all()

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
    good = ['a b.png', 'ä/中.png', 'a..b/c...png', 'x/.hidden.png', '1_IM-0001-4001.dcm.png']
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
