"What tests of answers share: a small classifier of phantoms in a run folder, commands as scripts, hospitals that differ"
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from refers_nb.data.prepare import prepare
from refers_nb.phantom import phantoms
from refers_nb.training.finetune import finetune

FINDINGS = ['cardiomegaly', 'left effusion', 'edema']


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    "Folder with `data` (prepared phantoms) and `run` (a classifier that has learnt a little)"
    patch = pytest.MonkeyPatch()
    patch.setenv('REFERS_NB_PROGRESS', '0')
    folder = tmp_path_factory.mktemp('answers')
    prepare('phantom', 300, folder/'data', size=48, workers=1)
    finetune(folder/'data', 'random', folder/'run', findings=FINDINGS, size=48, steps=60, bs=32, evals=2,
             arch=dict(name='test_vit'), lr=1e-3, device='cpu', precision='fp32')
    yield folder
    patch.undo()


@pytest.fixture(scope='module')
def command(tmp_path_factory, call):
    "Call a command of `refers_nb.answers` by a script like that of pip; exit code, output and error lines"
    folder = tmp_path_factory.mktemp('bin')
    for name in ('refers-predict', 'refers-calibrate'):
        function = name.replace('-', '_')
        (folder/name).write_text(f'from refers_nb.answers import {function}\n{function}()\n')
    def run(name, *args, **env): return call(folder/name, *args, REFERS_NB_PROGRESS='0', **env)
    return run


def refused(command, result, *words):
    "The command ended with exit code 1, one line that holds the words, and no traceback"
    code, out, err = result
    assert code == 1 and out == '', (code, out, err)
    assert len(err.strip().splitlines()) == 1 and err.startswith(command), err
    for word in words: assert word in err, err


def hospital(out, n, seed, keep=.4, findings=FINDINGS[:2], bright=40, size=48):
    "Brighter, flatter phantoms of which only some of the sick are kept, as PNG files with labels.csv; the labels"
    ph = phantoms(n, size=size, seed=seed)
    sick = ph.labels[findings].any(axis=1).to_numpy()
    rows = np.flatnonzero(~sick | (np.random.default_rng(seed).random(n) < keep))
    out.mkdir()
    for i in rows: Image.fromarray((bright + (1 - bright/200)*ph.frontal[i]).clip(0, 255).astype(np.uint8)).save(out/f'{i}.png')
    df = pd.DataFrame(dict(path=[f'{i}.png' for i in rows], patient=[f'p{i}' for i in rows]))
    df = df.join(ph.labels[findings].iloc[rows].reset_index(drop=True))
    df.to_csv(out/'labels.csv', index=False)
    return df
