"What tests of vectors share: studies in memory, and a small model that has learned nothing"
import numpy as np
import pandas as pd
import pytest
import torch

from memory import Store
from refers_nb.data.tokens import Tokenizer
from refers_nb.evaluation.zeroshot import PROMPTS, WRAP
from refers_nb.models.refers import Refers, refers_config

TEXTS = ['Left pleural effusion.', 'No pleural effusion. The lungs are clear.', 'Cardiomegaly.', 'Right pleural effusion.']


def make(n=24, seed=0):
    "Studies of one or two views (lateral first), every third without a report, labels known for most"
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(n):
        for view in ['LATERAL', 'PA'] if i % 2 else ['PA']:
            row = dict(patient=f'p{i//2}', study=f's{i}', view=view, path=f'{i}{view}.png',
                       report='' if i % 3 == 2 else TEXTS[i % 4], split='valid' if i % 2 else 'train')
            row['label:effusion'] = [0., 1., np.nan][i % 5 % 3]
            row['label:cardiomegaly'] = float(i % 4 < 2 and view == 'PA')
            rows.append(row)
    df = pd.DataFrame(rows)
    return df, Store(rng.integers(0, 255, (len(df), 32, 32), dtype=np.uint8), df.path)


@pytest.fixture(autouse=True)
def exact(monkeypatch):
    "float32 wherever the tests run"
    monkeypatch.setattr('refers_nb.evaluation.represent.get_dtype', lambda *_: torch.float32)


@pytest.fixture(scope='module')
def data(): return make()


@pytest.fixture(scope='module')
def model():
    torch.manual_seed(0)
    sentences = [o for p in PROMPTS.values() for o in [*p.present, *p.absent]]
    texts = [text for o in sentences for text in (o, WRAP.absent.format(o))]
    tok = Tokenizer.train(texts*2)
    return Refers(refers_config('nano', vocab=len(tok), size=32, k=2)).eval(), tok


def tiny_writer():
    "A model of three views that writes, and its tokenizer; it has learned nothing"
    torch.manual_seed(0)
    tok = Tokenizer.train(['no effusion. the heart is large.', 'left effusion, no oedema']*4, vocab=300, max_len=20)
    m = Refers(refers_config('nano', vocab=len(tok), size=32, k=3, max_len=20)).eval()
    with torch.no_grad(): m.decoder.words.weight *= 6
    return m,tok
