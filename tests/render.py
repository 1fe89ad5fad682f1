"README.md, written from nbs/index.ipynb through nbconvert: python tests/render.py readme"
import sys
from pathlib import Path

from nbconvert import MarkdownExporter

ROOT = Path(__file__).resolve().parent.parent
NBS = ROOT/'nbs'
sys.path.insert(0, str(NBS/'_site'))

from notebooks import LINK, load, relink  # noqa: E402, F401


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


if __name__ == '__main__':
    dict(readme=write_readme)[sys.argv[1]]()
