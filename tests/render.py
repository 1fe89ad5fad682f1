"README.md and web pages, written from the notebooks through nbconvert: python tests/render.py readme|docs"
import re
import shutil
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import nbformat
from nbconvert import HTMLExporter, MarkdownExporter

ROOT = Path(__file__).resolve().parent.parent
NBS = ROOT/'nbs'
LINK = re.compile(r'(\]\(|(?:src|href)=")(?!\w+:|/|#|mailto:)([^)"\s]+)')


def load(path):
    "A notebook without the cells that the reader of a page should not see"
    nb = nbformat.read(path, as_version=4)
    nb.cells = [c for c in nb.cells if c.cell_type != 'raw' and not re.search(r'(?m)^#\|\s*hide\b', c.source)]
    for c in nb.cells:
        if c.cell_type == 'code': c.source = re.sub(r'(?m)^#\|.*\n?', '', c.source)
    nb.cells = [c for c in nb.cells if c.source.strip()]
    return nb


def relink(text, f):
    "Apply `f` to every relative link of markdown or HTML"
    return LINK.sub(lambda m: m[1] + f(m[2]), text)


def from_root(link):
    "A link that was relative to nbs/, relative to the repository instead"
    return link[3:] if link.startswith('../') else f'nbs/{link}'


def readme():
    "(Text of README.md, {path: bytes} of the pictures that its cells made)"
    text, res = MarkdownExporter().from_notebook_node(load(NBS/'index.ipynb'))
    pictures = {}
    for name, data in (res.get('outputs') or {}).items():
        pictures[NBS/'images'/f'index_{name}'] = data
        text = text.replace(f'({name})', f'(images/index_{name})')
    return relink(text.strip(), from_root) + '\n', pictures


def write_readme():
    text, pictures = readme()
    (ROOT/'README.md').write_text(text, encoding='utf-8')
    for path, data in pictures.items(): path.write_bytes(data)


def write_page(out, path):
    "The HTML page of one notebook"
    page, _ = HTMLExporter().from_notebook_node(load(path), resources=dict(metadata=dict(name=path.stem)))
    dest = (out/path.relative_to(ROOT)).with_suffix('.html')
    dest.parent.mkdir(parents=True, exist_ok=True)
    dest.write_text(relink(page, lambda o: re.sub(r'\.ipynb(?=#|$)', '.html', o)), encoding='utf-8')


def docs(out=ROOT/'_docs'):
    "One HTML page per notebook, links between notebooks turned into links between pages"
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(NBS, out/'nbs', ignore=shutil.ignore_patterns('*.ipynb', '.*', '_*', '*.py'))
    paths = [*sorted(NBS.rglob('*.ipynb')), *sorted((ROOT/'data_prep').glob('*.ipynb'))]
    paths = [path for path in paths if '.ipynb_checkpoints' not in path.parts]
    with ProcessPoolExecutor() as pool: list(pool.map(partial(write_page, out), paths))
    (out/'index.html').write_text('<meta http-equiv="refresh" content="0; url=nbs/index.html">\n')
    return out


if __name__ == '__main__':
    dict(readme=write_readme, docs=docs)[sys.argv[1]]()
