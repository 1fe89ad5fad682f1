"The site: names lead to definitions, everything has a page, no link is dead, nothing is fetched"
import ast
import contextlib
import importlib
import inspect
import io
import json
import os
import re
import shlex
import sys
from pathlib import Path

import nbformat
import pytest
from fastcore.script import anno_parser
from filelock import FileLock

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT/'nbs'/'_site'))

import api  # noqa: E402
import build  # noqa: E402
import library  # noqa: E402
import links  # noqa: E402
import names  # noqa: E402
import pages  # noqa: E402
from notebooks import LINK, NBS, head, notebooks, read, slug  # noqa: E402


@pytest.fixture(scope='module')
def known():
    return names.Names()


def prose(path):
    return '\n'.join(c.source for c in read(path).cells if c.cell_type == 'markdown')


# Names

@pytest.mark.parametrize('text, full', [
    ('info_nce', 'refers_nb.training.losses.info_nce'),
    ('info_nce(study, text)', 'refers_nb.training.losses.info_nce'),
    ('RefersArgs.record', None),
    ('RunArgs.record', 'refers_nb.training.pretrain.RunArgs.record'),
    ('refers_nb.data.store', 'refers_nb.data.store'),
    ('refers_nb.phantom.phantoms', 'refers_nb.phantom.phantoms'),
    ('bs', None), ('labels', None), ('two words', None), ('predict', None)])
def test_name_leads_to_its_definition(known, text, full):
    assert known.find(text) == full


def test_name_is_looked_for_where_the_page_is_first(known):
    notebook = NBS/'34_classifier.ipynb'
    cell = 'from refers_nb.all import *\npretrain = 1\nx = info_nce'
    scope, own = known.of_page(notebook, [cell])
    assert scope['info_nce'] == 'refers_nb.training.losses.info_nce'
    assert scope['pretrain_learner'] == 'refers_nb.training.reports.pretrain_learner'    # passed on
    assert 'pretrain' in own and 'info_nce' not in own
    full = 'refers_nb.predict.predict'
    assert known.find('predict', {'predict': full}) == full


def test_links_stay_out_of_links_headings_and_blocks():
    code = '<code class="docutils literal notranslate"><span class="pre">x</span></code>'
    url = {'x': 'there'}.get
    linked = f'<a class="name" href="there">{code}</a>'
    assert names.link_prose(f'<p>{code}</p>', url) == f'<p>{linked}</p>'
    for tag in ('a', 'h2', 'pre', 'dt'):
        text = f'<{tag}>{code}</{tag}>'
        assert names.link_prose(text, url) == text
    assert names.link_code('<span class="n">y</span>', url) == '<span class="n">y</span>'
    assert 'href="there"' in names.link_code('<span class="n">x</span>', url)


def test_every_exported_name_is_known(known):
    for module in known.modules.values():
        path = ROOT/(module.name.replace('.', '/') + '.py')
        exported = library.exported_names(ast.parse(path.read_text(encoding='utf-8')))
        for o in exported: assert known.follow(f'{module.name}.{o}'), f'{module.name}.{o}'


def test_every_definition_has_one_cell(known):
    for module in known.modules.values():
        nb = pages.staged(module.notebook, module, 'nbs/x', set())
        text = '\n'.join(c.source for c in nb.cells if c.cell_type == 'markdown')
        labels = re.findall(r'(?m)^\((cell-.+)\)=$', text)
        assert len(labels) == len({o.lower() for o in labels}), module.name
        wanted = {api.cell_of(o) for o in module.definitions if o.public}
        assert wanted <= set(labels), f'{module.name}: {wanted - set(labels)}'


def test_fragments_are_those_of_the_site():
    assert slug('How the notebooks are organised') == 'how-the-notebooks-are-organised'
    assert slug("The paper's `tau`, fixed?") == 'the-papers-tau-fixed'


def test_links_become_links_between_pages():
    files = set()
    link = lambda o: pages.target(o, NBS/'tutorials', 'nbs/tutorials/x', files)
    assert link('quickstart.ipynb') == '../../nbs/tutorials/quickstart.ipynb'
    assert link('../20_vision.ipynb#For-others') == '../../nbs/20_vision.ipynb#for-others'
    assert link('../index.ipynb') == '../../index.ipynb'
    assert link('../../settings.ini') == '../../files/settings.ini.md'
    assert files == {ROOT/'settings.ini'}


def test_colab_opens_the_repository_that_publishes(monkeypatch):
    monkeypatch.setenv('GITHUB_REPOSITORY', 'somebody/refers_nb')
    assert build.repository() == 'somebody/refers_nb'


def test_answers_are_folded_and_widgets_left_to_jupyter():
    cell = nbformat.v4.new_code_cell('1', metadata=dict(tags=['answer']))
    shown = pages.display_metadata(cell, 'A `heading`')
    assert 'hide-cell' in shown['tags'] and 'answer' in shown['mystnb']['code_prompt_show']
    assert shown['mystnb']['image']['alt'] == 'Figure: A heading'
    new = lambda **data: nbformat.v4.new_output('display_data', data)
    html = '<a href="x.ipynb#y">x</a>'
    cell.outputs = [new(**{pages.WIDGET: {}, 'text/plain': 'w'}), new(**{'text/html': html})]
    pages.prepare_outputs(cell, lambda o: f'up/{o}')
    assert [o.data for o in cell.outputs] == [{'text/html': '<a href="up/x.html#y">x</a>'}]


# What pages say

def test_map_names_every_notebook():
    guide = NBS/'explain'/'the_house.ipynb'
    linked = {(guide.parent/o.split('#')[0]).resolve() for _, o in LINK.findall(prose(guide))}
    expected = {o for o in notebooks() if NBS in o.parents} - {guide, NBS/'index.ipynb'}
    missing = sorted(o.name for o in expected - linked)
    assert not missing, f'not in {guide.name}: {missing}'


def test_notebooks_have_a_title_and_a_subtitle():
    for path in notebooks(): assert all(head(path)), path


def commands_of(path):
    "Commands that a page sets in code, without what stands for files and folders"
    for o in re.findall(r'`(refers-[a-z]+ [^`]+)`', prose(path)): yield shlex.split(o)


@pytest.mark.parametrize('page', ['you_want_to', 'the_real_run'])
def test_commands_that_are_told_can_be_parsed(page):
    path = NBS/'explain'/f'{page}.ipynb'
    scripts = dict(re.findall(r'(?m)^(refers-\w+) = "(.+)"$', (ROOT/'pyproject.toml').read_text()))
    told = list(commands_of(path))
    told += [shlex.split(o, comments=True) for o in re.findall(r'(?m)^refers-.*$', prose(path))]
    assert told
    for command, *args in told:
        module, _, function = scripts[command].partition(':')
        f = inspect.unwrap(getattr(importlib.import_module(module), function))
        with contextlib.redirect_stderr(io.StringIO()) as err:
            try: anno_parser(f, prog=command).parse_args(args)
            except SystemExit: pytest.fail(f'{command} {args}: {err.getvalue()}')


def test_citation_is_valid():
    import yaml
    told = yaml.safe_load((ROOT/'CITATION.cff').read_text(encoding='utf-8'))
    version = re.search(r"__version__ = '(.+)'", (ROOT/'refers_nb/__init__.py').read_text())[1]
    assert told['version'] == version
    assert told['preferred-citation']['doi'] in prose(NBS/'explain'/'how_to_cite.ipynb')
    assert {'cff-version', 'message', 'title', 'authors', 'license'} <= set(told)


# The site itself

@pytest.fixture(scope='module')
def site(tmp_path_factory):
    "What `make docs` makes, with an error for every warning; built by one process of pytest, looked at by all"
    own = tmp_path_factory.getbasetemp()
    folder = own.parent if 'PYTEST_XDIST_WORKER' in os.environ else own
    with FileLock(folder/'site.lock'):
        if not (folder/'site').exists(): build.build(folder/'in_the_making', strict=True).rename(folder/'site')
    return folder/'site'


def article(page):
    return links.parsed(page).find('.//article')


@pytest.mark.slow
def test_no_link_is_dead(site):
    assert not links.dead_links(site)


@pytest.mark.slow
def test_nothing_is_fetched_from_elsewhere(site):
    assert not links.fetched(site)


@pytest.mark.slow
def test_everything_has_a_page(site, known):
    for path in notebooks(): assert (site/f'{pages.page_of(path)}.html').exists(), path
    for o in known.modules: assert (site/'api'/f'{o}.html').exists(), o
    lists = 'index tutorials explain library data gallery commands CHANGELOG search'
    for o in lists.split(): assert (site/f'{o}.html').exists(), o
    for o in library.LAYERS: assert (site/'layers'/f'{o}.html').exists(), o


@pytest.mark.slow
def test_site_is_small(site):
    assert sum(o.stat().st_size for o in site.rglob('*') if o.is_file()) <= 40*2**20


@pytest.mark.slow
def test_api_tells_every_argument_with_its_comment(site):
    from refers_nb.training.pretrain import pretrain
    page = links.parsed(site/'api'/'refers_nb.training.pretrain.html')
    entry = page.get_element_by_id('refers_nb.training.pretrain.pretrain').getparent()
    rows = {r[0].text_content(): r[3].text_content() for r in entry.findall('.//tbody/tr')}
    assert list(rows) == list(inspect.signature(pretrain).parameters)
    assert 'Prepared folder' in rows['table']
    assert rows['tau'] == 'Temperature at the start (paper: 0.1)'
    assert 'Returns' in entry.text_content()


@pytest.mark.slow
def test_search_knows_what_is_looked_for(site):
    text = (site/'searchindex.js').read_text(encoding='utf-8')
    index = json.loads(text[len('Search.setIndex('):text.rindex(')')])
    found = lambda word: {index['docnames'][i] for i in index['terms'][word]} \
        if isinstance(index['terms'][word], list) else {index['docnames'][index['terms'][word]]}
    assert 'nbs/30_losses' in found('infonc')            # InfoNCE, as the search cuts words
    assert 'refers_nb.training.pretrain' in str(index['objects'].keys())


@pytest.mark.slow
def test_names_in_a_notebook_lead_to_the_api(site):
    page = article(site/'nbs'/'tutorials'/'quickstart.html')
    linked = {o.get('href') for o in page.findall('.//a[@class="name"]')}
    module = 'refers_nb.training.pretrain'
    assert f'../../api/{module}.html#{module}.pretrain' in linked
    page = article(site/'nbs'/'30_losses.html')
    defined = page.xpath('.//span[@class="nf"]/parent::a/@href')
    assert defined[0].endswith('#refers_nb.training.losses.generation_loss')


@pytest.mark.slow
def test_notebook_pages_have_their_buttons(site):
    page = links.parsed(site/'nbs'/'30_losses.html')
    download = page.find('.//a[@class="download-notebook"]').get('href')
    nb = read((site/'nbs'/download).resolve())
    assert [c.source for c in nb.cells] == [c.source for c in read(NBS/'30_losses.ipynb').cells]
    assert 'colab' in page.find('.//a[@class="open-in-colab"]').get('href')
    for o in ('left-prev', 'right-next', 'theme-switch-button'):
        assert page.xpath(f'//*[contains(@class, "{o}")]'), o


@pytest.mark.slow
def test_stored_figures_are_shown(site):
    gallery = article(site/'gallery.html')
    shown = gallery.xpath('.//div[@class="gallery"]/a/img/@src')
    stored = sum(m in o.get('data', {}) for path in notebooks() for c in read(path).cells
                 for o in c.get('outputs', []) for m in ('image/png', 'image/jpeg'))
    assert len(shown) >= .9*stored > 0
    assert all((site/o).is_file() for o in shown)
    images = list(article(site/'nbs'/'30_losses.html').iter('img'))
    assert images and all(o.get('alt', '').startswith('Figure') for o in images)


@pytest.mark.slow
def test_equations_are_set(site):
    page = article(site/'nbs'/'tutorials'/'read_the_paper.html')
    assert page.xpath('.//*[contains(@class, "math")]') and (site/'_static'/'tex-svg.js').is_file()
