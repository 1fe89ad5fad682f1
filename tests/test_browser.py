"""Notebooks in JupyterLab, and the site, in a real browser: `make browser`, one notebook by `make browser ONLY=quickstart`

Pictures of every screen lie in _browser/ afterwards.
"""
import json
import threading
import zlib
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import nbformat
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


@pytest.fixture
def opened(request, lab, page):
    "A notebook in JupyterLab, with its kernel"
    path = request.param
    notebook = OpenNotebook(page, lab, f'{name(path)}.ipynb', SCREENS/name(path))
    yield notebook
    notebook.close()


def touch_all(notebook):
    "Move every control of a notebook; a line for each that changes no figure"
    page = notebook.page
    outputs = page.locator('.jp-OutputArea', has=page.locator('.interact')).all()
    assert outputs, 'no control was drawn'
    dead = [name for o in outputs for name in touch(page, o)]
    notebook.keep_screen('touched')
    return [f'a control without effect: {o}' for o in dead]


@pytest.mark.parametrize('opened', OPENED, ids=name, indirect=True)
def test_notebook_runs_and_can_be_read(opened, request):
    opened.choose_kernel()
    errors = opened.run_all()
    opened.keep_screen('end')
    assert not errors, errors
    minded = opened.read()
    if request.node.callspec.params['opened'] in TOUCHED: minded += touch_all(opened)
    assert not minded, '\n'.join(minded)


# One cell for each thing that a reader would mind, and what is said of it
FLAWS = {
    'px wider than its place: x = ': "x = '" + 'a'*150 + "'",
    'px wider than its place: a1': "HTML('<pre style=\"white-space: pre\">a1' + ' b'*200 + '</pre>')",
    'a picture is of one colour': "Image.new('L', (200, 100), 200)",
    'is shown at': "Image.radial_gradient('L').resize((3000, 100))",
    'text of 6 px: so small': "HTML('<b style=\"font-size: 6px\">so small</b>')",
    'a bar stands at 3 of 10': "HTML('<progress value=3 max=10></progress>')",
    'a bar is left: 30%': "print(' 30%|███       | 3/10')"}


@pytest.fixture
def flawed(lab):
    "A notebook that has all flaws, and ends with an error"
    code = ['from IPython.display import HTML', 'from PIL import Image', *FLAWS.values(), '1/0']
    cells = [nbformat.v4.new_code_cell(o) for o in code]
    cells.append(nbformat.v4.new_markdown_cell('```\n' + 'word '*40 + '\n```'))
    path = lab.folder/'flawed.ipynb'
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    yield path
    path.unlink()


def test_flaws_are_seen(flawed, lab, page):
    notebook = OpenNotebook(page, lab, flawed.name, SCREENS/'flawed')
    notebook.choose_kernel()
    errors = notebook.run_all()
    minded = '\n'.join(notebook.read())
    notebook.close()
    assert errors == ['ZeroDivisionError: division by zero']
    for words in [*FLAWS, 'lines of code are broken: word word']: assert words in minded


# The site that `make docs` builds

class Quiet(SimpleHTTPRequestHandler):
    "A server of files that writes no log"
    def log_message(self, *args): pass


@pytest.fixture(scope='session')
def site():
    "Address of the site, served as any server of files would"
    if not (SITE/'index.html').exists(): pytest.skip('NO SITE: `make docs` builds it in _docs/')
    server = ThreadingHTTPServer(('127.0.0.1', 0), partial(Quiet, directory=SITE))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f'http://127.0.0.1:{server.server_port}'
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def reader(site, page):
    "A page of the site, whose mistakes are collected"
    page.mistakes = []
    page.on('pageerror', lambda error: page.mistakes.append(str(error)))
    page.on('response', lambda r: r.status >= 400 and page.mistakes.append(f'{r.status} {r.url}'))
    def failed(request):
        "What the next page interrupts is aborted, and no mistake"
        if request.failure != 'net::ERR_ABORTED': page.mistakes.append(f'failed: {request.url}')

    page.on('requestfailed', failed)
    (SCREENS/'site').mkdir(parents=True, exist_ok=True)
    page.goto(f'{site}/index.html')
    yield page
    assert not page.mistakes


def keep_screen(page, name):
    page.screenshot(path=SCREENS/'site'/f'{name}.jpg', type='jpeg', quality=70)


def place(name):
    "The address of a Python name in the inventory that Sphinx writes"
    with open(SITE/'objects.inv', 'rb') as f:
        for _ in range(4): f.readline()
        lines = zlib.decompress(f.read()).decode().splitlines()
    for line in lines:
        full, _, _, address, *_ = line.split(' ')
        if full == name: return address.replace('$', name)


def test_search_of_the_site_finds_infonce(site, reader):
    keep_screen(reader, 'front')
    reader.goto(f'{site}/search.html')
    field = reader.locator('input[name=q]:visible').first
    field.fill('InfoNCE')
    field.press('Enter')
    results = reader.locator('#search-results li a')
    results.first.wait_for(timeout=30_000)
    keep_screen(reader, 'search')
    reader.goto(reader.evaluate('o => o.href', results.first.element_handle()))
    assert 'InfoNCE' in reader.locator('body').inner_text()


def test_site_shows_the_arguments_of_pretrain(site, reader):
    reader.goto(f"{site}/{place('refers_nb.training.pretrain.pretrain')}")
    entry = reader.locator('dl', has=reader.locator('[id="refers_nb.training.pretrain.pretrain"]'))
    entry.scroll_into_view_if_needed()
    keep_screen(reader, 'pretrain')
    text = entry.inner_text()
    for argument in ('table', 'out', 'preset', 'workers', 'save_every', 'dry_run'): assert argument in text


def test_no_page_of_the_site_is_wider_than_the_screen(site, reader):
    "The front page, a notebook, a page of the API; bright and dark"
    notebook = next(SITE.rglob('quickstart.html')).relative_to(SITE).as_posix()
    api = place('refers_nb.training.pretrain.pretrain').partition('#')[0]
    for address in ('index.html', notebook, api):
        for theme in ('light', 'dark'):
            reader.emulate_media(color_scheme=theme)
            reader.goto(f'{site}/{address}')
            keep_screen(reader, f'{address.replace("/", "_")}_{theme}')
            over = reader.evaluate('document.documentElement.scrollWidth - window.innerWidth')
            assert over <= 1, f'{address} is {over} px too wide'
