"The repository is in step with itself: notebooks, modules, README, packaging"
import ast, base64, filecmp, json, os, re, shutil, subprocess, sys
from importlib.metadata import requires
from pathlib import Path

import pytest
from render import LINK, readme

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted(o for d in ('nbs', 'data_prep') for o in (ROOT/d).rglob('*.ipynb') if '.ipynb_checkpoints' not in o.parts)
MODULES = sorted(o for o in (ROOT/'refers_nb').glob('*.py') if o.stem not in ('__init__', '_modidx'))
MACHINE_PATH = re.compile(r'(?<![\w.])/(?:home|Users|root|tmp|mnt|var/folders)/\w|[A-Z]:\\+Users\\|'
                          + '|'.join(re.escape(str(o)) for o in {ROOT, ROOT.parent, Path.home()} if len(o.parts) > 1))
name = lambda o: str(o.relative_to(ROOT))
each_notebook = pytest.mark.parametrize('path', NOTEBOOKS, ids=name)
each_module = pytest.mark.parametrize('path', MODULES, ids=name)


def cells(path): return json.loads(path.read_text(encoding='utf-8'))['cells']


def outputs(path):
    "Yield (mime type, content) of every stored output"
    for c in cells(path):
        for o in c.get('outputs', []):
            if o['output_type'] == 'error': yield 'error', '\n'.join(o['traceback'])
            elif o['output_type'] == 'stream': yield 'text/plain', ''.join(o['text'])
            else:
                for mime,data in o['data'].items(): yield mime, data if isinstance(data, str) else ''.join(map(str, data))


def source_of(module):
    "The notebook that the header of a module names"
    m = re.search(r'File to edit: (\S+\.ipynb)', module.read_text())
    return (module.parent/m[1]).resolve() if m else None


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
    changed = [str(o.relative_to(tmp_path)) for o in files
               if not (ROOT/o.relative_to(tmp_path)).exists() or not filecmp.cmp(o, ROOT/o.relative_to(tmp_path), shallow=False)]
    assert not changed, f'run nbdev-clean and nbdev-export: {changed}'


@each_module
def test_module_has_its_notebook(path):
    nb = source_of(path)
    assert nb is not None and nb.exists(), f'{path.name} was written from {nb}, which does not exist: delete or rename the module'
    assert re.fullmatch(r'\d\d_' + path.stem, nb.stem), f'{nb.name} should be called NN_{path.stem}'


def test_notebook_has_its_module():
    exps = {m[1] for o in NOTEBOOKS for c in cells(o) if (m := re.search(r'(?m)^#\|\s*default_exp\s+(\S+)', ''.join(c['source'])))}
    assert exps == {o.stem for o in MODULES}


@each_module
def test_imports_point_downwards(path):
    number = {o.stem: int(source_of(o).stem[:2]) for o in MODULES}
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.ImportFrom): continue
        base = node.module or ''
        if node.level: used = [base.split('.')[0]] if base else [a.name for a in node.names]
        elif base == 'refers_nb': used = [a.name for a in node.names]
        else: used = [base.split('.')[1]] if base.startswith('refers_nb.') else []
        for o in used:
            assert o not in number or number[o] < number[path.stem], f'{path.stem} ({number[path.stem]}) imports {o} ({number[o]})'


# What is stored in notebooks

@each_notebook
def test_notebook_is_small_and_tells_nothing_of_its_author(path):
    assert path.stat().st_size <= 400 * 1024, 'over 400 KB'
    for mime,data in outputs(path):
        assert mime != 'error' and 'Traceback (most recent call last)' not in data, 'a stored traceback'
        size = len(base64.b64decode(data)) if mime in ('image/png', 'image/jpeg') else len(data) if mime == 'image/svg+xml' else 0
        assert size <= 80 * 1024, f'an image of {size / 1024:.0f} KB, at most 80'
        if mime not in ('image/png', 'image/jpeg'): assert not (m := MACHINE_PATH.search(data)), f'a path of one machine: {data[max(m.start() - 20, 0):m.end() + 30]}'


@pytest.mark.parametrize('path', [o for o in NOTEBOOKS if o.parent.name == 'data_prep'], ids=name)
def test_data_prep_is_stored_without_outputs(path):
    assert not list(outputs(path)), 'real studies may not be stored: nbdev-clean --clear-all'


@each_notebook
def test_links_between_notebooks_lead_somewhere(path):
    for c in cells(path):
        if c['cell_type'] != 'markdown': continue
        for _,link in LINK.findall(''.join(c['source'])):
            assert (path.parent/link.split('#')[0]).exists(), f'{link} does not exist'


# README, packaging

def test_readme_is_written_from_the_index():
    text,pictures = readme()
    assert (ROOT/'README.md').read_text() == text, 'run make readme'
    for o,data in pictures.items(): assert o.read_bytes() == data, 'run make readme'


def test_links_of_the_readme_lead_somewhere():
    links = [o for _,o in LINK.findall((ROOT/'README.md').read_text())]
    assert any(o.endswith(('.png', '.svg')) for o in links), 'no picture of the method'
    for o in links: assert (ROOT/o.split('#')[0]).exists(), f'{o} does not exist'


def test_pictures_are_small():
    for o in (ROOT/'nbs').rglob('*'):
        if o.suffix in ('.png', '.svg', '.jpg') and '.ipynb_checkpoints' not in o.parts: assert o.stat().st_size <= 80 * 1024, name(o)


def test_constraints_name_versions_and_no_place():
    lines = [o for o in (ROOT/'constraints.txt').read_text().splitlines() if o and not o.startswith('#')]
    for o in lines: assert re.fullmatch(r'[\w.-]+==[\w.]+( ; python_version >= "3\.\d+")?', o), o
    pinned = {re.sub(r'[-_.]+', '-', o.split('==')[0]).lower() for o in lines}
    wanted = {re.sub(r'[-_.]+', '-', re.match(r'[\w.-]+', o)[0]).lower() for o in requires('refers_nb') or []}
    assert wanted <= pinned, f'not pinned: {wanted - pinned}'


def test_nothing_of_one_machine_in_tracked_files():
    files = subprocess.run(['git', 'ls-files', '-z'], cwd=ROOT, capture_output=True, text=True)
    if files.returncode: pytest.skip('not a git repository')
    for o in filter(None, files.stdout.split('\0')):
        path = ROOT/o
        if not path.exists() or path.suffix in ('.png', '.jpg', '.webp', '.npy', '.parquet', '.ipynb') or path == Path(__file__): continue
        m = re.search(r'/(?:home|Users|root)/\w+/', path.read_text(encoding='utf-8', errors='replace'))
        assert not m, f'{o}: {m[0]}'


# What an import brings along

BLOCKED = 'nbdev execnb ghapi build jupyterlab jupyter_server jupyter_client jupyter_core notebook ipykernel nbconvert nbformat nbclient pytest _pytest hypothesis'

def test_library_imports_without_the_tools_of_development():
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
for o in sorted(o.name for o in pkgutil.iter_modules(refers_nb.__path__)): importlib.import_module('refers_nb.' + o)
assert not blocked & set(sys.modules), blocked & set(sys.modules)
'''
    r = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True)
    assert r.returncode == 0, r.stderr[-2000:]


def test_core_is_light():
    code = "import sys, refers_nb.core; assert not {'torch', 'fastai', 'pandas', 'numpy', 'matplotlib'} & set(sys.modules)"
    assert subprocess.run([sys.executable, '-c', code], cwd=ROOT).returncode == 0
