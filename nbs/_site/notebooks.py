"Notebooks as a reader of pages should see them: without hidden cells, directives and machinery"
import re
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parents[2]
NBS = ROOT/'nbs'

# A relative link of markdown or HTML: what stands before it, and where it leads
LINK = re.compile(r'(\]\(|(?:src|href)=")(?!\w+:|/|#|mailto:)([^)"\s]+)')
DIRECTIVE = re.compile(r'(?m)^#\|.*\n?')
# Widgets need a kernel: the page shows the figure that is stored beside them
WIDGET = 'application/vnd.jupyter.widget-view+json'
ANSWER = 'answer'       # the tag of a cell that is folded


def notebooks(root=ROOT):
    "Every notebook of the repository, in the order of their names"
    found = [*(root/'nbs').rglob('*.ipynb'), *(root/'data_prep').glob('*.ipynb')]
    hidden = lambda o: any(p.startswith(('.', '_')) for p in o.relative_to(root).parts)
    return sorted(o for o in found if not hidden(o))


def read(path):
    return nbformat.read(path, as_version=4)


def visible(cell):
    "Whether a reader should see a cell"
    return cell.cell_type != 'raw' and not re.search(r'(?m)^#\|\s*hide\b', cell.source)


def load(path):
    "A notebook without the cells that the reader of a page should not see"
    nb = read(path)
    nb.cells = [c for c in nb.cells if visible(c)]
    for c in nb.cells:
        if c.cell_type == 'code': c.source = DIRECTIVE.sub('', c.source)
    nb.cells = [c for c in nb.cells if c.source.strip()]
    return nb


def relink(text, f):
    "Apply `f` to every relative link of markdown or HTML"
    return LINK.sub(lambda m: m[1] + f(m[2]), text)


def head(path):
    "Title and subtitle of a notebook: its first line, and the one that begins with >"
    source = read(path).cells[0].source
    title = re.search(r'(?m)^# (.+)$', source)
    subtitle = re.search(r'(?m)^> (.+)$', source)
    return title[1].strip() if title else path.stem, subtitle[1].strip() if subtitle else ''


def slug(heading):
    "The fragment of a heading, as the site makes it; JupyterLab keeps capitals"
    text = re.sub(r'[^\w\- ]', '', heading.strip().lower())
    return text.replace(' ', '-')
