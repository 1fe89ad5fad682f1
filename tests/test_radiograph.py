"Radiographs of ordinary files, their size and their paths: read right, or refused with the path and a reason"
import gzip
import os
import struct

import imagehash
import numpy as np
import pytest
from PIL import Image
from radiograph_files import close, dicom, grey, png, png_chunk, tiff

import refers_nb.data.radiograph as R
from refers_nb.core import InputError
from refers_nb.data.grey import image_hash, resize, to_grey
from refers_nb.data.radiograph import check_paths, load_radiograph, read_radiograph
from refers_nb.data.store import ImageStore

# ---- ordinary files

FORMATS = [('png', {}, 0), ('bmp', {}, 0), ('tiff', {}, 0), ('webp', dict(lossless=True), 0),
           ('webp', dict(quality=95), 12), ('jpg', dict(quality=95), 8)]

@pytest.mark.parametrize('ext,kw,most', FORMATS)
def test_formats(tmp_path, grey, ext, kw, most):
    Image.fromarray(grey).save(tmp_path/f'a.{ext}', **kw)
    assert close(read_radiograph(tmp_path/f'a.{ext}'), grey, most)

@pytest.mark.parametrize('ext', ['webp', 'dcm.png'])
def test_the_content_counts_and_not_the_name(tmp_path, grey, ext):
    Image.fromarray(grey).save(tmp_path/f'x.{ext}', format='PNG')
    assert close(read_radiograph(tmp_path/f'x.{ext}'), grey, 0)
    assert close(read_radiograph(dicom(tmp_path/f'y.{ext}', grey, bits=8)), grey, 0)

@pytest.mark.parametrize('top', [1023, 4095, 16383, 65535])
@pytest.mark.parametrize('low', [0, 500])
def test_16_bit_png_is_scaled_by_its_range_and_not_clipped(tmp_path, grey, top, low):
    x = low + grey.astype(np.float64)/255*(top-low)
    Image.fromarray(np.rint(x).astype(np.uint16)).save(tmp_path/'a.png')
    res = read_radiograph(tmp_path/'a.png')
    assert close(res, grey) and (res == 255).mean() < .1 and len(np.unique(res)) > 200

def test_other_modes(tmp_path, grey):
    im = Image.fromarray(grey)
    for mode in ('RGB', 'RGBA', 'LA', 'P'):
        im.convert(mode).save(tmp_path/f'{mode}.png')
        assert close(read_radiograph(tmp_path/f'{mode}.png'), grey), mode
    im.convert('1').save(tmp_path/'one.png')
    assert set(np.unique(read_radiograph(tmp_path/'one.png'))) == {0, 255}
    Image.fromarray(grey.astype(np.float32)/1000).save(tmp_path/'f.tiff')
    assert close(read_radiograph(tmp_path/'f.tiff'), grey)
    Image.fromarray(grey.astype(np.int32)*1000-70000).save(tmp_path/'i.tiff')
    assert close(read_radiograph(tmp_path/'i.tiff'), grey)
    im.convert('CMYK').save(tmp_path/'cmyk.jpg', quality=98)
    assert read_radiograph(tmp_path/'cmyk.jpg').shape == grey.shape

def test_transparent_is_black(tmp_path, grey):
    a = np.full_like(grey, 255)
    a[:20] = 0
    Image.merge('LA', [Image.fromarray(grey), Image.fromarray(a)]).save(tmp_path/'a.png')
    res = read_radiograph(tmp_path/'a.png')
    assert (res[:20] == 0).all() and close(res[20:], grey[20:])
    p = Image.fromarray(grey).convert('P')
    p.save(tmp_path/'p.png', transparency=int(np.array(p)[0, 0]))
    assert read_radiograph(tmp_path/'p.png')[0, 0] == 0

def test_turned_by_exif(tmp_path, grey):
    exif = Image.Exif()
    exif[0x0112] = 6 # the camera was turned by 90 degrees
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
    content = {'empty': b'', 'cut': whole[:len(whole)//2], 'header only': whole[:20],
               'text': b'no image at all, only words '*20}
    if kind in content: p.write_bytes(content[kind])
    else: p.unlink()
    if kind == 'folder': p.mkdir()
    with pytest.raises(InputError) as e: read_radiograph(p)
    message = str(e.value)
    assert str(p) in message
    assert len(message) > len(str(p)) + 5
    assert '\n' not in message

def test_a_flat_image_is_black():
    assert (to_grey(np.full((3, 3), 700.)) == 0).all() and (to_grey(np.full((3, 3), np.nan)) == 0).all()
    assert to_grey(np.array([[0, np.inf, np.nan, 10]])).tolist() == [[0, 0, 0, 255]]

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
    x = np.zeros((50, 100), np.uint8)
    x[:, 25:75] = 255
    assert (resize(x, 50, 'crop') == 255).all()

def test_unknown_resize_mode():
    with pytest.raises(InputError, match='letterbox, crop or squash'): resize(np.zeros((4, 4), np.uint8), 8, 'stretch')

# ---- more than 8 bits in several channels

def with_alpha(x, opaque=True):
    "Channels of 16 bits and one more: opaque, or transparent in its upper half"
    alpha = np.full_like(x[..., :1], 65535)
    if not opaque: alpha[:len(x)//2] = 0
    return np.concatenate([x, alpha], -1)

@pytest.mark.parametrize('top', [1023, 4095, 65535])
@pytest.mark.parametrize('mode', ['RGB', 'RGBA', 'LA'])
def test_16_bits_in_several_channels_are_all_used(tmp_path, grey, mode, top):
    x = np.rint(grey/255*top).astype(np.uint16)
    one = read_radiograph(png(tmp_path/'one.png', x, bits=16))
    several = np.repeat(x[..., None], 1 if mode == 'LA' else 3, -1)
    if mode.endswith('A'): several = with_alpha(several)
    assert close(read_radiograph(png(tmp_path/'a.png', several, mode, 16)), one)

@pytest.mark.parametrize('packed', [False, True])
@pytest.mark.parametrize('order', ['<', '>'])
@pytest.mark.parametrize('alpha', [None, 0, 1, 2])
def test_tiff_of_16_bits_in_several_channels(tmp_path, grey, alpha, order, packed):
    x = np.repeat(grey[..., None].astype(np.uint16)*16, 3, -1)
    if alpha is not None: x = with_alpha(x)
    assert close(read_radiograph(tiff(tmp_path/'a.tif', x, order=order, packed=packed, alpha=alpha)), grey)

def test_colours_of_16_bits_weigh_as_those_of_8(tmp_path, grey):
    rgb = np.stack([grey, grey[::-1], np.roll(grey, 20)], -1)
    eight = read_radiograph(png(tmp_path/'a.png', rgb, 'RGB'))
    sixteen = read_radiograph(png(tmp_path/'b.png', rgb.astype(np.uint16)*257, 'RGB', 16))
    assert close(sixteen, to_grey(eight), 2)

def test_transparency_of_16_bits_is_black_and_does_not_count(tmp_path, grey):
    x = grey[..., None].astype(np.uint16)*16
    x[:45] += 30000
    for mode, n in (('LA', 1), ('RGBA', 3)):
        res = read_radiograph(png(tmp_path/'a.png', with_alpha(np.repeat(x, n, -1), False), mode, 16))
        assert (res[:45] == 0).all() and close(res[45:], to_grey(grey[45:]))

def test_channels_that_lie_apart_are_refused_where_they_would_be_garbled(tmp_path, grey):
    x = np.repeat(grey[..., None].astype(np.uint16)*16, 3, -1)
    with pytest.raises(InputError, match='lie apart'): read_radiograph(tiff(tmp_path/'a.tif', x, t284=2))

# ---- polarity and kinds of numbers

VALUES = {'uint8': 1, 'uint16': 16, 'int16': 60, 'uint32': 16_000_000, 'int32': 1000, 'float32': .01}

@pytest.mark.parametrize('packed', [False, True])
@pytest.mark.parametrize('order', ['<', '>'])
@pytest.mark.parametrize('kind', VALUES)
def test_tiff_of_all_numbers_is_read_right_or_refused(tmp_path, grey, kind, order, packed):
    x = grey*float(VALUES[kind])
    if kind.startswith('int'): x -= 100*VALUES[kind]
    for white_is_zero in (False, True):
        y = x.max() + x.min() - x if white_is_zero else x
        p = tiff(tmp_path/'a.tif', y.astype(kind), white_is_zero, order, packed)
        try: res = read_radiograph(p)
        except InputError as e:
            assert 'save it as PNG' in str(e) and (white_is_zero or kind == 'uint32')
            continue
        assert close(res, grey)

def test_pillows_own_tiff_whose_white_is_zero(tmp_path, grey):
    for name, x in (('8', grey), ('16', grey.astype(np.uint16)*200), ('float', grey/np.float32(7))):
        im = Image.fromarray(x.max() - x)
        im.save(tmp_path/f'{name}.tif', tiffinfo={262: 0})
        if name != '8': assert close(read_radiograph(tmp_path/f'{name}.tif'), grey), name

# ---- transparency

@pytest.mark.parametrize('bits', [2, 4, 8, 16])
def test_a_transparent_grey_level_is_black(tmp_path, grey, bits):
    x = grey.astype(int) >> (8 - min(bits, 8))
    if bits == 16: x = x*16
    key = int(np.median(x))
    res = read_radiograph(png(tmp_path/'a.png', x, bits=bits, chunks=png_chunk(b'tRNS', struct.pack('>H', key))))
    assert (res[x == key] == 0).all()
    seen = x != key
    assert close(res[seen], np.rint(255*x[seen]/(2**bits - 1) if bits < 16 else to_grey(x)[seen]))

def test_a_transparent_colour_of_16_bits_is_black(tmp_path, grey):
    x = np.repeat(grey[..., None].astype(int)*16, 3, -1)
    key = struct.pack('>HHH', *[int(x[40, 40, 0])]*3)
    res = read_radiograph(png(tmp_path/'a.png', x, 'RGB', 16, png_chunk(b'tRNS', key)))
    assert res[40, 40] == 0 and close(res[x[..., 0] != x[40, 40, 0]], grey[x[..., 0] != x[40, 40, 0]])

def bitmap(path, x, alpha):
    "Write a BMP with a fourth byte for transparency; its path"
    h, w = x.shape
    pixels = np.stack([x, x, x, np.full_like(x, alpha)], -1)[::-1].tobytes()
    masks = struct.pack('<4I', 0xff0000, 0xff00, 0xff, 0xff000000)
    head = struct.pack('<IiiHHIIiiII', 108, w, h, 1, 32, 3, len(pixels), 2835, 2835, 0, 0) + masks + b'BGRs' + bytes(48)
    path.write_bytes(b'BM' + struct.pack('<IHHI', 122 + len(pixels), 0, 0, 122) + head + pixels)
    return path

def test_what_is_transparent_everywhere_is_shown(tmp_path, grey):
    assert close(read_radiograph(bitmap(tmp_path/'a.bmp', grey, 0)), grey, 0)
    assert close(read_radiograph(bitmap(tmp_path/'a.bmp', grey, 255)), grey, 0)
    nothing = np.zeros_like(grey)
    for mode, channels in (('LA', [grey, nothing]), ('RGBA', [grey, grey, grey, nothing])):
        assert close(read_radiograph(png(tmp_path/'a.png', np.stack(channels, -1), mode)), grey, 0)
    palette = png_chunk(b'PLTE', bytes(np.arange(256).repeat(3).astype(np.uint8))) + png_chunk(b'tRNS', bytes(256))
    assert close(read_radiograph(png(tmp_path/'a.png', grey, 'P', chunks=palette)), grey, 0)

# ---- pixels that are not square

@pytest.mark.parametrize('ext', ['png', 'jpg', 'tif'])
def test_two_resolutions_make_a_picture_square(tmp_path, grey, ext):
    Image.fromarray(grey).save(tmp_path/f'a.{ext}', dpi=(200, 100))
    assert read_radiograph(tmp_path/f'a.{ext}').shape == (180, 70)
    Image.fromarray(grey).save(tmp_path/f'a.{ext}', dpi=(100, 150))
    assert read_radiograph(tmp_path/f'a.{ext}').shape == (90, 105)
    Image.fromarray(grey).save(tmp_path/f'a.{ext}', dpi=(100, 100))
    assert close(read_radiograph(tmp_path/f'a.{ext}'), grey, 8)

def test_the_ratio_of_a_png_and_of_a_turned_photograph(tmp_path, grey):
    ratio = png_chunk(b'pHYs', struct.pack('>IIB', 3, 1, 0))
    assert read_radiograph(png(tmp_path/'a.png', grey, chunks=ratio)).shape == (270, 70)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(grey).save(tmp_path/'a.jpg', exif=exif, dpi=(200, 100))
    assert read_radiograph(tmp_path/'a.jpg').shape == (70, 180)
    thin = png_chunk(b'pHYs', struct.pack('>IIB', 99, 1, 0))
    with pytest.raises(InputError, match='99 times as high as wide'):
        read_radiograph(png(tmp_path/'a.png', grey, chunks=thin))

# ---- told apart by content

@pytest.mark.parametrize('name', ['a.dcm', 'a', '6154', 'a.ima', 'a.jfif', 'a.gz'])
def test_a_name_decides_nothing(tmp_path, grey, name):
    Image.fromarray(grey).save(tmp_path/name, format='PNG')
    picture = (tmp_path/name).read_bytes()
    film = dicom(tmp_path/name, grey, bits=8).read_bytes()
    for content in (picture, film, film[132:], gzip.compress(picture), gzip.compress(film)):
        (tmp_path/name).write_bytes(content)
        assert close(read_radiograph(tmp_path/name), grey, 0)
    for content in (b'words, no image '*20, gzip.compress(b'words, no image '*20)):
        (tmp_path/name).write_bytes(content)
        with pytest.raises(InputError): read_radiograph(tmp_path/name)

# ---- paths

BAD_PATHS = ['/etc/passwd', '../a.png', 'a/../../b.png', '..', 'C:\\a.png', 'C:a.png', '\\\\host\\a.png', '\\a.png',
             'a\\..\\b.png', '', ' ', None, 3.0, float('nan'), 'a\0.png', 'a\n.png', '\udc80.png']

@pytest.mark.parametrize('bad', BAD_PATHS)
def test_paths_that_leave_the_root_are_refused(tmp_path, bad):
    with pytest.raises(InputError, match='row 1'): check_paths(['fine.png', bad])
    with pytest.raises(InputError): ImageStore.build(['fine.png', bad], tmp_path, tmp_path/'out')
    assert not (tmp_path/'out').exists()

def test_odd_but_good_paths():
    good = ['a b.png', 'ä/中.png', 'a\u00a0b.png', '👩\u200d⚕.png', 'a..b/c...png', 'x/.hidden.png',
            '1_IM-0001-4001.dcm.png']
    assert check_paths(good) == good

def test_hash_is_that_of_the_imagehash_package(grey):
    h = imagehash.phash(Image.fromarray(grey))
    assert image_hash(grey) == sum(int(b) << (63-i) for i,b in enumerate(h.hash.ravel())) < 2**64

def test_a_pipe_is_no_radiograph(tmp_path):
    if not hasattr(os, 'mkfifo'): pytest.skip('no pipes here')
    os.mkfifo(tmp_path/'a.png')
    with pytest.raises(InputError, match='pipe'): read_radiograph(tmp_path/'a.png')

def test_a_decoder_that_panics_costs_one_image(tmp_path, grey, monkeypatch):
    class PanicException(BaseException): "As decoders in Rust raise it"
    for i in range(3): Image.fromarray(grey).save(tmp_path/f'{i}.png')
    real = R.read_picture
    def panic(path, *args):
        if path.name == '1.png': raise PanicException('index out of \x00 bounds')
        return real(path, *args)
    monkeypatch.setattr(R, 'read_picture', panic)
    names = [f'{i}.png' for i in range(3)]
    store = ImageStore.build(names, tmp_path, tmp_path/'out', size=32, workers=1, max_rejected=.5)
    assert len(store) == 2
    assert 'index out of  bounds' in (tmp_path/'out'/'rejected.csv').read_text()
    def interrupt(*_): raise KeyboardInterrupt
    monkeypatch.setattr(R, 'read_picture', interrupt)
    with pytest.raises(KeyboardInterrupt): read_radiograph(tmp_path/'0.png')
