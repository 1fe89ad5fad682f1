"The repository is in step with itself: notebooks, modules, layers, README, pages, packaging"
import ast
import base64
import filecmp
import json
import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import requires
from pathlib import Path

import nbformat
import pytest
from pyflakes.api import check
from pyflakes.reporter import Reporter

import style
from render import LINK, readme

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted(o for d in ('nbs', 'data_prep') for o in (ROOT/d).rglob('*.ipynb') if '.ipynb_checkpoints' not in o.parts)
MODULES = style.modules()
INITS = sorted((ROOT/'refers_nb').rglob('__init__.py'))

HOME_PATH = r'(?<![\w.])/(?:home|Users|root|tmp|mnt|var/folders)/\w|[A-Z]:\\+Users\\'
OWN_PATHS = [re.escape(str(o)) for o in {ROOT, ROOT.parent, Path.home()} if len(o.parts) > 1]
MACHINE_PATH = re.compile('|'.join([HOME_PATH, *OWN_PATHS]))

# A bar that was half drawn, or the speed that one prints; numbers with all their digits, as no reader wants them
PROGRESS = re.compile(r'[█▏▎▍▌▋▊▉]|\d(?:it/s|s/it)\b|<progress|\r')
RAW_FLOATS = re.compile(r'[\[(](?:\s*-?\d+\.\d{6,}(?:e-?\d+)?\s*,){2,}')

# Layers from the ground up. A module may import from its own layer and from those before it.
LAYERS = ['ground', 'data', 'models', 'training', 'evaluation', 'use']
USE = {f'refers_nb.{o}' for o in 'answers ask calibrate cli comparison demo export films predict terminal'.split()}
COMMANDS = {f'refers_nb.{o}' for o in 'answers cli terminal'.split()}


def name(path):
    return str(path.relative_to(ROOT))


each_notebook = pytest.mark.parametrize('path', NOTEBOOKS, ids=name)
each_module = pytest.mark.parametrize('path', MODULES, ids=name)


def cells(path):
    return json.loads(path.read_text(encoding='utf-8'))['cells']


def outputs(path):
    "Yield (mime type, content) of every stored output; what went to stderr has the type 'stderr'"
    for cell in cells(path):
        for o in cell.get('outputs', []):
            if o['output_type'] == 'error':
                yield 'error', '\n'.join(o['traceback'])
            elif o['output_type'] == 'stream':
                yield 'stderr' if o['name'] == 'stderr' else 'text/plain', ''.join(o['text'])
            else:
                for mime, data in o['data'].items():
                    yield mime, data if isinstance(data, str) else ''.join(map(str, data))


def source_of(module):
    "The notebook that the header of a module names"
    m = re.search(r'File to edit: (\S+\.ipynb)', module.read_text(encoding='utf-8'))
    return (module.parent/m[1]).resolve() if m else None


def dotted(path):
    "refers_nb/data/store.py as refers_nb.data.store"
    return '.'.join(path.relative_to(ROOT).with_suffix('').parts)


def layer(module):
    "Place in `LAYERS` of a dotted name"
    if module in USE: return LAYERS.index('use')
    package = module.split('.')[1]
    return LAYERS.index(package) if package in LAYERS else 0


def number(module_path):
    "Number and letter of the notebook of a module, in the order of reading"
    return re.match(r'\d\d[a-z]?', source_of(module_path).stem)[0]


def imported(path):
    "Modules of this library that a module imports, by dotted name, also inside its functions"
    package = dotted(path).split('.')[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if isinstance(node, ast.Import):
            yield from (o.name for o in node.names if o.name.startswith('refers_nb.'))
        if not isinstance(node, ast.ImportFrom): continue
        above = package[:len(package) - node.level + 1] if node.level else []
        base = '.'.join([*above, *([node.module] if node.module else [])])
        if not base.startswith('refers_nb'): continue
        yield from ({base} | {f'{base}.{o.name}' for o in node.names}) & {dotted(o) for o in MODULES}


# Notebooks and modules

def test_clean_and_export_change_nothing(tmp_path):
    "On a copy, so that it can be run in the middle of an edit and spoils nothing"
    for o in ('nbs', 'data_prep', 'refers_nb', 'pyproject.toml', 'README.md', 'settings.ini'):
        src = ROOT/o
        if src.is_dir(): shutil.copytree(src, tmp_path/o, ignore=shutil.ignore_patterns('__pycache__', '.ipynb_checkpoints'))
        else: shutil.copy(src, tmp_path/o)
    env = dict(os.environ, PATH=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    for cmd in (['nbdev-clean'], ['nbdev-clean', '--fname', 'data_prep'], ['nbdev-export']):
        r = subprocess.run(cmd, cwd=tmp_path, env=env, capture_output=True, text=True)
        assert r.returncode == 0, f'{cmd}: {r.stderr[-2000:]}'
    files = [o for o in tmp_path.rglob('*') if o.suffix in ('.ipynb', '.py') and '__pycache__' not in o.parts]
    changed = []
    for o in files:
        here = ROOT/o.relative_to(tmp_path)
        if not here.exists() or not filecmp.cmp(o, here, shallow=False): changed.append(str(o.relative_to(tmp_path)))
    assert not changed, f'run nbdev-clean and nbdev-export: {changed}'


@each_module
def test_module_has_its_notebook(path):
    nb = source_of(path)
    assert nb is not None and nb.exists(), f'{path.name} was written from {nb}, which does not exist: delete or rename the module'
    assert re.fullmatch(r'\d\d[a-z]?_' + path.stem, nb.stem), f'{nb.name} should be called NN_{path.stem}'


def test_notebook_has_its_module():
    exports = set()
    for path in NOTEBOOKS:
        for cell in cells(path):
            if m := re.search(r'(?m)^#\|\s*default_exp\s+(\S+)', ''.join(cell['source'])): exports.add(f'refers_nb.{m[1]}')
    assert exports == {dotted(o) for o in MODULES}


@each_module
def test_imports_point_downwards(path):
    "To lower layers, and within a layer to notebooks with a lower number; nobody imports the commands"
    numbers = {dotted(o): number(o) for o in MODULES}
    own = dotted(path)
    for other in imported(path):
        assert layer(other) <= layer(own), f'{own} imports {other}, which lies in a higher layer'
        assert numbers[other] < numbers[own], f'{own} ({numbers[own]}) imports {other} ({numbers[other]})'
        assert other not in COMMANDS, f'{own} imports the commands'


def test_layers_are_told():
    "Every package says what it may hold, the first one shows the map"
    for path in INITS: assert ast.get_docstring(ast.parse(path.read_text(encoding='utf-8'))), f'{name(path)} has no docstring'
    text = (ROOT/'refers_nb/__init__.py').read_text(encoding='utf-8')
    for o in LAYERS[1:-1]: assert f'`refers_nb.{o}`' in text


@pytest.mark.parametrize('path', [*MODULES, *INITS], ids=name)
def test_nothing_is_imported_or_assigned_for_nothing(path, capsys):
    if path.name == '__init__.py' and path.parent.name == 'phantom': return      # it passes names on
    check(path.read_text(encoding='utf-8'), name(path), Reporter(sys.stdout, sys.stdout))
    found = capsys.readouterr().out.splitlines()
    found = [o for o in found if 'redefinition of unused' not in o]     # methods by `@patch`, of several classes
    assert not found, found


@pytest.mark.parametrize('figure', style.LIMITS)
def test_code_can_be_read(figure):
    "python tests/style.py shows the figures of each module"
    assert style.measure(MODULES)[figure] <= style.LIMITS[figure]


# What is stored in notebooks

@each_notebook
def test_notebook_is_valid(path):
    "As nbformat sees it: JupyterLab and the pages need that"
    nbformat.validate(nbformat.read(path, as_version=4))


@each_notebook
def test_notebook_is_small_and_tells_nothing_of_its_author(path):
    assert path.stat().st_size <= 400 * 1024, 'over 400 KB'
    for mime, data in outputs(path):
        assert mime != 'error' and 'Traceback (most recent call last)' not in data, 'a stored traceback'
        is_image = mime in ('image/png', 'image/jpeg')
        size = len(base64.b64decode(data)) if is_image else len(data) if mime == 'image/svg+xml' else 0
        assert size <= 80 * 1024, f'an image of {size / 1024:.0f} KB, at most 80'
        if is_image: continue
        m = MACHINE_PATH.search(data)
        assert not m, f'a path of one machine: {data[max(m.start() - 20, 0):m.end() + 30]}'


@each_notebook
def test_outputs_are_worth_reading(path):
    for mime, data in outputs(path):
        assert mime != 'stderr', f'stored stderr: {data[:200]}'
        if mime.startswith('image/'): continue
        assert not (m := PROGRESS.search(data)), f'the remains of a progress bar: {data[max(m.start() - 40, 0):m.end() + 40]!r}'
        assert not (m := RAW_FLOATS.search(data)), f'a raw list of numbers: {data[m.start():m.end() + 20]!r}'


@pytest.mark.parametrize('path', [o for o in NOTEBOOKS if o.parent.name == 'data_prep'], ids=name)
def test_data_prep_is_stored_without_outputs(path):
    assert not list(outputs(path)), 'real studies may not be stored: nbdev-clean --clear-all'


@each_notebook
def test_links_between_notebooks_lead_somewhere(path):
    for cell in cells(path):
        if cell['cell_type'] != 'markdown': continue
        for _, link in LINK.findall(''.join(cell['source'])):
            assert (path.parent/link.split('#')[0]).exists(), f'{link} does not exist'


@each_notebook
def test_notebooks_that_are_named_exist(path):
    "A file name in the prose or in a comment, link or not"
    known = {o.name for o in NOTEBOOKS}
    for cell in cells(path):
        for o in re.findall(r'\b\d\d[a-z]?_\w+\.ipynb', ''.join(cell['source'])): assert o in known, f'{o} does not exist'


# README, pages, packaging

def test_readme_is_written_from_the_index():
    text, pictures = readme()
    assert (ROOT/'README.md').read_text(encoding='utf-8') == text, 'run make readme'
    for o, data in pictures.items(): assert o.read_bytes() == data, 'run make readme'


@pytest.mark.parametrize('file', ['README.md', 'CONTRIBUTING.md', 'CHANGELOG.md'])
def test_links_of_the_front_pages_lead_somewhere(file):
    links = [o for _, o in LINK.findall((ROOT/file).read_text(encoding='utf-8'))]
    for o in links: assert (ROOT/o.split('#')[0]).exists(), f'{o} does not exist'
    if file == 'README.md': assert any(o.endswith(('.png', '.svg')) for o in links), 'no picture of the method'


def test_pictures_are_small():
    for o in (ROOT/'nbs').rglob('*'):
        if '.ipynb_checkpoints' in o.parts or o.suffix not in ('.png', '.svg', '.jpg'): continue
        assert o.stat().st_size <= 80 * 1024, name(o)


def test_constraints_name_versions_and_no_place():
    lines = [o for o in (ROOT/'constraints.txt').read_text().splitlines() if o and not o.startswith('#')]
    for o in lines: assert re.fullmatch(r'[\w.-]+==[\w.]+( ; python_version >= "3\.\d+")?', o), o
    pinned = {re.sub(r'[-_.]+', '-', o.split('==')[0]).lower() for o in lines}
    wanted = {re.sub(r'[-_.]+', '-', re.match(r'[\w.-]+', o)[0]).lower() for o in requires('refers_nb') or []}
    assert wanted <= pinned, f'not pinned: {wanted - pinned}'


def test_workflow_runs_what_the_makefile_has():
    "It cannot be run here, but it can be read, and its targets exist"
    import yaml
    workflows = [yaml.safe_load(o.read_text(encoding='utf-8')) for o in (ROOT/'.github/workflows').glob('*.yml')]
    targets = re.findall(r'(?m)^([a-z-]+):', (ROOT/'Makefile').read_text(encoding='utf-8'))
    jobs = [job for workflow in workflows for job in workflow['jobs'].values()]
    commands = [step.get('run', '') for job in jobs for step in job['steps']]
    used = re.findall(r'\bmake ([a-z-]+)', '\n'.join([*commands, (ROOT/'.ci/run').read_text(encoding='utf-8')]))
    assert {'test', 'test-slow', 'docs'} <= set(used) <= set(targets)


def test_nothing_of_one_machine_in_tracked_files():
    files = subprocess.run(['git', 'ls-files', '-z'], cwd=ROOT, capture_output=True, text=True)
    if files.returncode: pytest.skip('not a git repository')
    for o in filter(None, files.stdout.split('\0')):
        path = ROOT/o
        binary = path.suffix in ('.png', '.jpg', '.webp', '.npy', '.parquet', '.ipynb')
        if binary or not path.exists() or path == Path(__file__): continue
        m = re.search(r'/(?:home|Users|root)/\w+/', path.read_text(encoding='utf-8', errors='replace'))
        assert not m, f'{o}: {m[0]}'


# What an import brings along

BLOCKED = ('nbdev execnb ghapi build jupyterlab jupyter_server jupyter_client jupyter_core notebook ipykernel '
           'nbconvert nbformat nbclient pytest _pytest hypothesis pyflakes sphinx myst_nb myst_parser docutils lxml')


FOR_NOTEBOOKS = ('np pd plt torch Path InputError phantoms prepare read_studies ImageStore study_dls label_dls '
                 'refers_model pretrain finetune')


def test_library_imports_without_the_tools_of_development_and_all_has_what_a_notebook_needs():
    code = f'''
import importlib, pkgutil, sys
blocked = set({BLOCKED!r}.split())
class Without:
    "A finder that does not find what is blocked, as if it were not installed"
    def __init__(self, finder): self.finder = finder
    def find_spec(self, name, path=None, target=None):
        return None if name.split('.')[0] in blocked else self.finder.find_spec(name, path, target)
    def __getattr__(self, o): return getattr(self.finder, o)
sys.meta_path[:] = [Without(o) for o in sys.meta_path]
import refers_nb
assert not any(o in sys.modules for o in ('torch', 'fastai', 'pandas')), 'the package itself should be light'
for o in sorted(o.name for o in pkgutil.walk_packages(refers_nb.__path__, 'refers_nb.')): importlib.import_module(o)
assert not blocked & set(sys.modules), blocked & set(sys.modules)
from refers_nb.all import *
for o in {FOR_NOTEBOOKS!r}.split(): assert o in globals(), o + ' is not in refers_nb.all'
'''
    r = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True)
    assert r.returncode == 0, r.stderr[-2000:]


@pytest.mark.parametrize('module', ['core', 'settings', 'runs', 'cli', 'answers', 'terminal'])
def test_the_ground_is_light(module):
    code = f"import sys, refers_nb.{module}; assert not {{'torch', 'fastai', 'pandas', 'numpy', 'matplotlib'}} & set(sys.modules)"
    assert subprocess.run([sys.executable, '-c', code], cwd=ROOT).returncode == 0
