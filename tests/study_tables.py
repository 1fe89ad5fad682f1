"Study tables that tests share: small ones, with and without the columns that may be there, and one with copies"
import numpy as np
import pandas as pd
from PIL import Image

from refers_nb.data.store import ImageStore
from refers_nb.data.studies import SECTIONS, SEXES, split_patients
from refers_nb.phantom.phantoms import phantoms


def table(n=12, per_patient=2, seed=0, findings=('a', 'b')):
    "A study table with one image per study"
    rng = np.random.default_rng(seed)
    df = pd.DataFrame(dict(
        patient=[f'p{i//per_patient}' for i in range(n)], study=[f's{i}' for i in range(n)], view='PA',
        path=[f'{i}.png' for i in range(n)], report=[f'Report {i}.' for i in range(n)]))
    for f in findings: df[f'label:{f}'] = (rng.random(n) < .3).astype(float)
    return split_patients(df)


def full_table(n=12, seed=0, **kwargs):
    "A table with every column that one can have"
    rng = np.random.default_rng(seed)
    df = table(n, seed=seed, **kwargs)
    for c in ('chexpert:a', 'chexpert:b', 'negbio:a'): df[c] = rng.choice([1, 0, -1, np.nan], n)
    df['age'] = np.where(rng.random(n) < .2, np.nan, rng.integers(0, 121, n))
    return df.assign(sex=rng.choice(SEXES, n), sections=rng.choice(SECTIONS, n))


def table_with_copies(folder):
    "30 phantoms, a re-coded copy of number 4 with another patient, an exact one of number 9, and 150 blank images"
    films = phantoms(30, size=128, seed=3).frontal
    for i,film in enumerate(films): Image.fromarray(film).save(folder/f'{i}.png')
    Image.fromarray(films[4]).resize((70, 70)).save(folder/'30.jpg', quality=70)
    Image.fromarray(films[9]).save(folder/'31.png')
    for i in range(150): Image.new('L', (60 + i % 2, 50)).save(folder/f'blank{i}.png')
    paths = [f'{i}.png' for i in range(30)] + ['30.jpg', '31.png'] + [f'blank{i}.png' for i in range(150)]
    df = pd.DataFrame(dict(
        patient=[f'p{i}' for i in range(182)], study=[f's{i}' for i in range(182)], view='PA', path=paths,
        report='', split=['train']*31 + ['test']*151))
    df.loc[31, 'patient'] = 'p9'
    return df, ImageStore.build(df, folder, folder/'store', 128, workers=1)
