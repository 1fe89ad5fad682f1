"""Notebooks in JupyterLab, and the site, in a real browser: `make browser`, one notebook by `make browser ONLY=quickstart`

Pictures of every screen lie in _browser/ afterwards.
"""
import json
import subprocess
import sys
import time
import zlib
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

import pytest

pytest.importorskip('playwright', reason='NO BROWSER TESTS: pip install playwright, or `make browser`')

from lab import ROOT, Lab, OpenNotebook, browser_page, chromium, touch

pytestmark = pytest.mark.browser
SCREENS = ROOT/'_browser'
SITE = ROOT/'_docs'


def source(path):
    cells = json.loads(path.read_text(encoding='utf-8'))['cells']
    return '\n'.join(''.join(o['source']) for o in cells if o['cell_type'] == 'code')


def name(path):
    return path.relative_to(ROOT/'nbs').with_suffix('').as_posix()


NOTEBOOKS = [o for o in sorted((ROOT/'nbs').rglob('*.ipynb')) if '.ipynb_checkpoints' not in o.parts]
TOUCHED = [o for o in NOTEBOOKS if 'interact(' in source(o)]
TUTORIALS = [o for o in NOTEBOOKS if o.parent.name == 'tutorials' or o.stem == 'index']
OPENED = TUTORIALS + [o for o in TOUCHED if o not in TUTORIALS]


@pytest.fixture(scope='session')
def executable():
    return chromium() or pytest.skip('NO CHROMIUM: `make browser` says what to install')


@pytest.fixture
def page(executable):
    with browser_page(executable) as page: yield page


@pytest.fixture(scope='session')
def lab(executable, tmp_path_factory):
    lab = Lab(tmp_path_factory.mktemp('lab'))
    yield lab
    lab.close()


@pytest.mark.parametrize('path', OPENED, ids=name)
def test_notebook_runs_and_can_be_read(path, lab, page):
    notebook = OpenNotebook(page, lab, f'{name(path)}.ipynb', SCREENS/name(path))
    notebook.choose_kernel()
    errors = notebook.run_all()
    minded = notebook.read()
    assert not errors
    assert not minded, '\n'.join(minded)
    if path not in TOUCHED: return
    outputs = page.locator('.jp-OutputArea', has=page.locator('.interact')).all()
    assert outputs, 'no control was drawn'
    dead = [touch(page, o) for o in outputs]
    page.screenshot(path=SCREENS/name(path)/'touched.jpg', type='jpeg', quality=70)
    assert not any(dead), f'without effect on the figure: {dead}'
