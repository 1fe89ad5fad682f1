"The pages of the site before Sphinx reads them: notebooks, lists of notebooks, data sets, files"
import ast
import re
from pathlib import Path

import nbformat

import library
from api import cell_label, escaped
from notebooks import (
    ANSWER, DIRECTIVE, LINK, ROOT, WIDGET, head, read, relink, slug, visible)

FILE = re.compile(r'`((?:benchmarks|tests|nbs/images|\.github/workflows)/[\w./-]+\.\w+'
                  r'|settings\.ini|constraints\.txt|pyproject\.toml|Makefile)`')
HERE = re.compile(r'\]\(#([^)\s]+)\)')    # a link within the page
LANGUAGES = {'.py': 'python', '.ini': 'ini', '.toml': 'toml', '.yml': 'yaml', '.cff': 'yaml'}
ROOT_PAGES = ('CONTRIBUTING.md', 'CHANGELOG.md')
TITLES = dict(
    ground='Ground', data='Data', models='Models', training='Training', evaluation='Evaluation',
    use='Use: commands')
HOLDS = dict(
    ground='What has nothing to do with learning: errors, files, settings, runs, and phantoms, '
           'drawn studies with true reports. Imports nothing above.',
    data='Files, reports, study tables, image stores, loaders, and one module for each data set. '
         'Imports the ground.',
    models='Modules of torch, files of weights, how reports are written. '
           'Imports the ground and data.',
    training='Losses, metrics, optimisers, callbacks, Learners, baselines. Imports what is below.',
    evaluation='Statistics, fairness, written reports, representations, experiments. '
               'Imports what is below.',
    use='What commands call, and the commands: arguments in, one call, words out. '
        'Imports everything; nobody imports the commands.')


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding='utf-8')


def page_of(path):
    "Name of the page of a notebook or file of the repository, without suffix"
    path = path.relative_to(ROOT)
    if path == Path('nbs/index.ipynb'): return 'index'
    if path.suffix == '.ipynb' or path.name in ROOT_PAGES: return str(path.with_suffix(''))
    if path.name == 'README.md': return 'index'
    return f'files/{path}'


def target(link, folder, page, files):
    "A link of a notebook as a link of its page; what is no notebook gets a page, noted in `files`"
    place, _, fragment = link.partition('#')
    path = (folder/place).resolve() if place else None
    if path is None: return f'#{slug(fragment.replace("-", " "))}'
    up = '../'*page.count('/')
    if path.suffix in ('.png', '.svg', '.jpg'): return up + str(path.relative_to(ROOT))
    if not path.exists() or path.is_dir(): return link
    if path.suffix != '.ipynb' and path.name not in (*ROOT_PAGES, 'README.md'): files.add(path)
    name = page_of(path)
    suffix = '.ipynb' if path.suffix == '.ipynb' or name == 'index' else '.md'
    return up + name + suffix + (f'#{slug(fragment.replace("-", " "))}' if fragment else '')


def defined_names(source):
    "Full names below its module of what a cell defines: functions, classes, patches, constants"
    try: tree = ast.parse(re.sub(r'(?m)^(\s*)[%!].*$', r'\1pass', source))
    except SyntaxError: return []
    names = []
    for o in tree.body:
        if isinstance(o, ast.ClassDef): names.append(o.name)
        elif isinstance(o, (ast.FunctionDef, ast.AsyncFunctionDef)):
            names += [f'{cls}.{o.name}' for cls in library.patched(o)] or [o.name]
        elif isinstance(o, ast.Assign):
            names += library.assigned(o.targets)
    return names


def prepare_outputs(cell, link):
    "Take away what needs a kernel; `link` makes a relative link one of the page"
    def finished(o): return re.sub(r'\.(?:ipynb|md)(?=#|$)', '.html', link(o))
    for o in cell.outputs:
        data = o.get('data', {})
        if WIDGET in data and any(k.startswith('image/') or k == 'text/html' for k in data):
            data.pop(WIDGET)
        for mime in ('text/markdown', 'text/html'):
            if mime in data: data[mime] = relink(data[mime], finished)
    shown = lambda o: WIDGET not in o.get('data', {})
    cell.outputs = [o for o in cell.outputs if shown(o)]


def display_metadata(cell, heading):
    "What MyST-NB should know of a cell: the text in place of its figure, whether it is folded"
    tags = set(cell.metadata.get('tags', []))
    shown = dict(image=dict(alt=f'Figure: {re.sub("[`*$]", "", heading)}'))
    if ANSWER in tags:
        tags.add('hide-cell')
        shown |= dict(code_prompt_show='Show the answer', code_prompt_hide='Hide the answer')
    elif cell.metadata.get('jupyter', {}).get('source_hidden'): tags.add('hide-input')
    return dict(tags=sorted(tags), mystnb=shown)


def staged(path, module, page, files):
    """A notebook as Sphinx should read it

    Links lead to pages, every cell that defines something has a label, figures have a text in
    their place.
    """
    def link(o): return target(o, path.parent, page, files)
    nb = read(path)
    cells = []
    labelled = set()
    heading = head(path)[0]
    for c in filter(visible, nb.cells):
        if c.cell_type == 'markdown':
            files |= {ROOT/o for o in FILE.findall(c.source) if (ROOT/o).is_file()}
            found = re.findall(r'(?m)^#+ (.+)$', c.source)
            if found: heading = found[-1].strip()
            c.source = relink(c.source, link)
            c.source = HERE.sub(lambda m: f'](#{slug(m[1].replace("-", " "))})', c.source)
            cells.append(c)
            continue
        exported = re.search(r'(?m)^#\|\s*exporti?\b', c.source)
        c.source = DIRECTIVE.sub('', c.source)
        if not c.source.strip(): continue
        names = defined_names(c.source) if module and exported else []
        names = [o for o in names if library.is_public(o) and o not in labelled]
        labelled |= set(names)
        if names:
            labels = '\n'.join(f'({cell_label(f"{module.name}.{o}")})=' for o in names)
            cells.append(nbformat.v4.new_markdown_cell(labels))
        c.metadata = nbformat.from_dict(display_metadata(c, heading))
        prepare_outputs(c, link)
        cells.append(c)
    nb.cells = cells
    nb.metadata.pop('widgets', None)
    return nb


def toctree(entries, *options):
    return '\n'.join(['```{toctree}', *options, '', *entries, '```', ''])


def line_of(path, up=''):
    "A notebook in a list: its title as a link, and what it promises"
    title, subtitle = head(path)
    link = f'{up}{page_of(path)}.ipynb'
    text = relink(subtitle, lambda o: '')
    return f'- [{escaped(title)}]({link}): {text}' if text else f'- [{escaped(title)}]({link})'


def list_page(title, text, paths, up=''):
    "A page that lists notebooks, and the tree below it; `up` leads to the top of the site"
    tree = toctree([f'/{page_of(o)}' for o in paths], ':hidden:')
    return '\n'.join([f'# {title}', '', text, '', *(line_of(o, up) for o in paths), '', tree])


def ordered(paths, guide):
    "Paths in the order in which a notebook links to them; what it does not link comes last"
    text = '\n'.join(c.source for c in read(guide).cells if c.cell_type == 'markdown')
    places = [(guide.parent/o.split('#')[0]).resolve() for _, o in LINK.findall(text)]
    rank = {o: i for i, o in reversed(list(enumerate(places)))}
    return sorted(paths, key=lambda o: (rank.get(o, len(rank) + len(places)), o.name))


def data_page(modules, paths):
    "The data sets: what each is, who may use it, the notebook that prepares it, and the module"
    from refers_nb.data.prepare import SOURCES, TERMS
    lines = ['# Data sets', '',
             '> From the raw download to a study table, an image store and a data card', '',
             'Each set has a notebook that says where to get it and what is in it, stored without '
             'outputs: nothing of a patient is in this repository. `refers-prep NAME RAW OUT` '
             'prepares it, in the layout of its public download.', '',
             '| name | data set | module | terms |', '|---|---|---|---|']
    for name in SOURCES:
        path = ROOT/'data_prep'/f'{name}.ipynb'
        module = modules[f'refers_nb.data.sources.{name}']
        title = head(path if path.exists() else module.notebook)[0]
        if path.exists(): title = f'[{title}]({page_of(path)}.ipynb)'
        told = f'[{module.notebook.stem}]({page_of(module.notebook)}.ipynb)'
        lines.append(f'| `{name}` | {title} | {told} | {escaped(TERMS.get(name, ""))} |')
    lines += ['', '## What comes out', '',
              'A prepared folder holds a study table, an image store, and a data card: counts, '
              'sizes, prevalence, ages, copies, and what was missing. '
              '[The data card](nbs/13b_card.ipynb) shows one of phantoms, '
              '[the study table](nbs/13_studies.ipynb) says what its columns mean, and '
              '[preparation](nbs/16_prepare.ipynb) is the call. Your own images and a spreadsheet '
              'go the same way: [your own data](nbs/tutorials/your_own_data.ipynb).', '',
              '## Notebooks', '', *map(line_of, paths), '',
              toctree([page_of(o) for o in paths], ':hidden:')]
    return '\n'.join(lines)


def api_index(modules):
    "Modules by layer"
    lines = ['# API', '', '> Every module, class and function, with the comment of each parameter',
             '', '`from refers_nb.all import *` gives a notebook what it needs of all of them.', '']
    for name in library.LAYERS:
        lines += [f'## {TITLES[name]}', '', HOLDS[name], '']
        own = [o for o in modules.values() if library.layer(o) == name]
        lines += [f'- [`{o.name}`]({o.name}.md): {escaped(o.doc)}' for o in own]
        short = [f'{o.name.removeprefix("refers_nb.")} <{o.name}>' for o in own]   # for the side
        lines += ['', toctree(short, ':hidden:')]
    return '\n'.join(lines)


def file_page(path, out):
    "A file of the repository as a page"
    name = str(path.relative_to(ROOT))
    language = LANGUAGES.get(path.suffix, 'make' if path.name == 'Makefile' else 'text')
    source = out/'files'/name
    write(source, path.read_text(encoding='utf-8'))
    write(out/'files'/f'{name}.md', '\n'.join([
        '---', 'orphan: true', '---', f'# {name}', '', f'```{{literalinclude}} {source.name}',
        f':language: {language}', '```', '']))
