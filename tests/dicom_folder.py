"A folder of DICOM files of many codings, some of them broken, drawn from phantoms"
import itertools
import random
from pathlib import Path

import numpy as np
from PIL import Image
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian,
    JPEG2000Lossless, JPEGBaseline8Bit, JPEGLosslessSV1, JPEGLSLossless, RLELossless,
)
from radiograph_files import dicom

from refers_nb.phantom import phantoms

SYNTAXES = [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian,
            RLELossless, JPEGLosslessSV1, JPEGLSLossless, JPEG2000Lossless]
CODINGS = [*itertools.product(SYNTAXES, (8, 12, 16), (False, True)), (JPEGBaseline8Bit, 8, False)]


def values(grey, bits, signed):
    "An 8-bit picture as stored values of so many bits"
    x = np.rint(grey/255*(2**bits - 1)).astype(int)
    return x - 2**(bits - 1) if signed else x


def draw(path, grey, coding, inverted=False):
    "One film as DICOM"
    syntax, bits, signed = coding
    x = values(255 - grey if inverted else grey, bits, signed)
    return dicom(path, x, bits, signed, syntax, 'MONOCHROME1' if inverted else 'MONOCHROME2')


def spoil(path, how):
    "Break a file: empty, cut, words, its pixels overwritten, or sizes that it does not have"
    content = path.read_bytes()
    if how == 'empty': content = b''
    elif how == 'cut': content = content[:max(len(content)//3, 140)]
    elif how == 'words': content = b'this is no film at all, but a note about one\n'*20
    elif how == 'noise': content = random.Random(len(content)).randbytes(2000)
    else: content = content[:132] + b'\xff'*200
    path.write_bytes(content)

BREAKS = 'empty', 'cut', 'words', 'noise', 'header'


def film_of(i, coding, height, width, seed):
    "Phantom number i as a picture; where Python itself codes it, smaller"
    if coding[0] == JPEGLosslessSV1: height, width = min(height, 640), min(width, 512)
    film = phantoms(1, size=128, seed=seed, start=i).frontal[0]
    return np.array(Image.fromarray(film).resize((width, height)))


def dicom_folder(out, n, broken, height=256, width=208, seed=5):
    """Write `n` files in folders of 100, `broken` of them spoilt; the numbers of these

    Every fifth is MONOCHROME1, some have no ending. Each coding comes three times, with another picture; what is more are copies.
    """
    out = Path(out)
    bad = sorted(random.Random(seed).sample(range(n), broken))
    drawn = []
    for i in range(n):
        path = out/f'{i//100:02d}'/(f'{i:05d}.dcm' if i % 7 else f'1.2.840.{i:05d}')
        path.parent.mkdir(parents=True, exist_ok=True)
        k = i % (3*len(CODINGS))
        if i == k:
            coding = CODINGS[i % len(CODINGS)]
            drawn.append(draw(path, film_of(i, coding, height, width, seed), coding, inverted=i % 5 == 0).read_bytes())
        else: path.write_bytes(drawn[k])
        if i in bad: spoil(path, BREAKS[bad.index(i) % len(BREAKS)])
    return bad
