"The site, from notebooks, modules and files: python nbs/_site/build.py [FOLDER]"
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from importlib import import_module
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parents[1])]

import nbformat  # noqa: E402

import api  # noqa: E402
import gallery  # noqa: E402
import library  # noqa: E402
import pages  # noqa: E402
from names import Names  # noqa: E402
from notebooks import NBS, ROOT, head, notebooks, read, relink  # noqa: E402

EXPLAIN = NBS/'explain'
MAP = EXPLAIN/'the_house.ipynb'
ABOUT = ('how_to_cite', 'limits')


def repository():
    "owner/name on GitHub, as its Actions or the remote tell it; None where nobody does"
    name = os.environ.get('GITHUB_REPOSITORY')
    if name: return name
    ask = ['git', 'remote', 'get-url', 'origin']
    told = subprocess.run(ask, cwd=ROOT, capture_output=True, text=True)
    m = re.search(r'github\.com[:/]([\w.-]+/[\w.-]+?)(?:\.git)?$', told.stdout.strip())
    return m[1] if m else None


def stage_notebooks(out, known, facts):
    "Every notebook as its page; what Sphinx does not know of it goes to `facts`"
    files = set()
    for path in notebooks():
        page = pages.page_of(path)
        module = known.of_notebook.get(path)
        nb = pages.staged(path, module, page, files)
        sources = [c.source for c in nb.cells if c.cell_type == 'code']
        scope, own_values = known.of_page(path, sources)
        facts['pages'][page] = dict(
            notebook=str(path.relative_to(ROOT)), scope=scope, own_values=sorted(own_values))
        if page == 'index': nb.cells.append(nbformat.v4.new_markdown_cell(front_tree()))
        pages.write(out/f'{page}.ipynb', nbformat.writes(nb))
    return files


def front_tree():
    entries = ['You want to ... <nbs/explain/you_want_to>', 'Tutorials <tutorials>',
               'Explain <explain>', 'Library <library>', 'Data sets <data>', 'API <api/index>',
               'Gallery <gallery>', 'About <about>']
    return pages.toctree(entries, ':hidden:')


def stage_lists(out, known):
    "The pages that lead to notebooks: tutorials, explanations, layers, data sets, about"
    every = [o for o in notebooks() if o != NBS/'index.ipynb']
    tutorials = pages.ordered([o for o in every if o.parent == NBS/'tutorials'], MAP)
    pages.write(out/'tutorials.md', pages.list_page(
        'Tutorials', 'From the first look to your own data.', tutorials))
    apart = {EXPLAIN/f'{o}.ipynb' for o in (*ABOUT, 'you_want_to')}
    explain = pages.ordered([o for o in every if o.parent == EXPLAIN and o not in apart], MAP)
    pages.write(out/'explain.md', pages.list_page(
        'Explain', 'What was measured, what was done differently, what a run costs.', explain))
    for name, digit in library.LAYERS.items():
        own = [o for o in every if o.parent == NBS and o.name[0] == digit]
        text = f'{pages.HOLDS[name]}\n\nRead upwards, or start where your question is.'
        page = pages.list_page(pages.TITLES[name], text, own, '../')
        pages.write(out/'layers'/f'{name}.md', page)
    lines = ['# Library', '', '> One notebook, one module, in layers from the ground up', '']
    lines += [f'- [{pages.TITLES[o]}](layers/{o}.md): {pages.HOLDS[o]}' for o in library.LAYERS]
    lines += ['- [Commands](commands.md): what `--help` prints of each', '',
              pages.toctree([*(f'layers/{o}' for o in library.LAYERS), 'commands'], ':hidden:')]
    pages.write(out/'library.md', '\n'.join(lines))
    sets = [o for o in every if o.parent.name == 'data_prep']
    pages.write(out/'data.md', pages.data_page(known.modules, sets))
    about = [EXPLAIN/f'{o}.ipynb' for o in ABOUT]
    lines = ['# About', '', *map(pages.line_of, about),
             '- [Contributing](CONTRIBUTING.md): where things go, and what is checked',
             '- [Changes](CHANGELOG.md): what came when', '',
             pages.toctree([*map(pages.page_of, about), 'CONTRIBUTING', 'CHANGELOG'], ':hidden:')]
    pages.write(out/'about.md', '\n'.join(lines))
    pages.write(out/'gallery.md', '# Gallery\n\n> Every figure, with the notebook that draws it\n\n'
                f'{gallery.PLACE}\n')


def stage_front_files(out, files):
    "CONTRIBUTING and CHANGELOG, whose links are relative to the top of the repository"
    for name in pages.ROOT_PAGES:
        page = name.removesuffix('.md')
        text = (ROOT/name).read_text(encoding='utf-8')
        files |= {ROOT/o for o in pages.FILE.findall(text) if (ROOT/o).is_file()}
        pages.write(out/name, relink(text, lambda o: pages.target(o, ROOT, page, files)))


def api_text(module):
    "The page of a module; runs in a process of its own"
    title = head(module.notebook)[0]
    return api.module_page(module, title, f'../{pages.page_of(module.notebook)}.ipynb')


def stage_api(out, known, facts):
    import_module('refers_nb.all')
    pages.write(out/'api'/'index.md', pages.api_index(known.modules))
    modules = list(known.modules.values())
    with ProcessPoolExecutor(2) as pool:
        for module, text in zip(modules, pool.map(api_text, modules, chunksize=8)):
            pages.write(out/'api'/f'{module.name}.md', text)
            scope, _ = known.of_page(module.notebook, ())
            facts['pages'][f'api/{module.name}'] = dict(scope=scope)
    os.environ['COLUMNS'] = '100'
    project = (ROOT/'pyproject.toml').read_text(encoding='utf-8')
    scripts = dict(re.findall(r'(?m)^(refers-\w+) = "(.+)"$', project))
    facts['commands'] = sorted(scripts)
    files = {ROOT/'settings.ini'}
    text = api.command_page(scripts)
    pages.write(out/'commands.md', relink(text, lambda o: pages.target(o, ROOT, 'commands', files)))
    return files


def stage_static(out):
    "The style, pictures, and the one file of MathJax that is needed"
    static = out/'_static'
    static.mkdir(parents=True)
    shutil.copy(HERE/'site.css', static)
    mathjax = Path(import_module('sphinx-mathjax-offline').__file__).parent
    shutil.copy(mathjax/'static'/'mathjax'/'tex-svg.js', static)
    scripts = shutil.ignore_patterns('*.py', '__pycache__')
    shutil.copytree(NBS/'images', out/'nbs'/'images', ignore=scripts, dirs_exist_ok=True)


def stage(out):
    "Write everything that Sphinx reads into a folder"
    known = Names()
    facts = dict(repository=repository(), pages={})
    files = stage_notebooks(out, known, facts)
    stage_lists(out, known)
    stage_front_files(out, files)
    files |= stage_api(out, known, facts)
    for path in files: pages.file_page(path, out)
    facts['files'] = sorted(pages.page_of(o) for o in files)
    stage_static(out)
    pages.write(out/'site.json', json.dumps(facts))


def add_downloads(out):
    "The notebooks themselves, to be run: as they are in the repository, without outputs"
    for path in notebooks():
        nb = read(path)
        for c in nb.cells:
            if c.cell_type == 'code': c.outputs, c.execution_count = [], None
        pages.write(out/'notebooks'/path.relative_to(ROOT), nbformat.writes(nb))


def build(out=ROOT/'_docs', strict=False):
    "The whole site; `strict` makes an error of every warning"
    out = Path(out).resolve()
    with tempfile.TemporaryDirectory() as scratch:
        source, made = Path(scratch)/'source', Path(scratch)/'site'    # myst-nb also writes beside `made`
        stage(source)
        options = ['-W', '--keep-going'] if strict else []
        command = [sys.executable, '-m', 'sphinx', '-q', '-j', '2', '-b', 'html', *options,
                   '-c', str(HERE), '-D', f'html_static_path={source/"_static"}',
                   '-d', str(Path(scratch)/'doctrees'), str(source), str(made)]
        env = os.environ | dict(PYTHONWARNINGS='ignore')
        code = subprocess.run(command, env=env).returncode
        if code: sys.exit(f'Sphinx ended with {code}; what it says stands above')
        shutil.rmtree(out, ignore_errors=True)
        shutil.move(made, out)
    for o in (out/'_static').rglob('*.html'): o.unlink()    # a template of the theme
    shutil.rmtree(out/'_sources', ignore_errors=True)
    add_downloads(out)
    gallery.fill(out)
    return out


if __name__ == '__main__':
    began = time.time()
    out = build(*sys.argv[1:2])
    size = sum(o.stat().st_size for o in out.rglob('*') if o.is_file())/2**20
    n = len(list(out.rglob('*.html')))
    print(f'{n} pages, {size:.1f} MB, {time.time() - began:.0f} s: {out/"index.html"}')
