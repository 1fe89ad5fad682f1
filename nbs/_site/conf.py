"Sphinx's settings of the site; `build.py` makes the pages that it reads, and site.json beside them"
import json
import sys
from functools import lru_cache
from pathlib import Path

from sphinx.search.en import SearchEnglish

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import names  # noqa: E402

project = 'refers_nb'
author = 'The refers_nb contributors'
copyright = 'The refers_nb contributors, Apache-2.0'
extensions = ['myst_nb', 'sphinx_copybutton', 'sphinx.ext.mathjax']
language = 'en'
add_module_names = False
python_display_short_literal_types = True
suppress_warnings = ['myst.header', 'mystnb.unknown_mime_type', 'misc.highlighting_failure',
                     'config.cache']

# Stored outputs are shown, nothing runs
nb_execution_mode = 'off'
nb_merge_streams = True
nb_ipywidgets_js = {}
nb_render_text_lexer = 'none'
myst_enable_extensions = ['dollarmath', 'amsmath', 'colon_fence']
myst_heading_anchors = 4
myst_dmath_double_inline = True

html_theme = 'pydata_sphinx_theme'
html_title = 'refers_nb'
html_css_files = ['site.css']
html_favicon = 'favicon.svg'
html_copy_source = False
html_show_sourcelink = False
html_last_updated_fmt = None
html_sidebars = {'gallery': []}     # nothing stands beside it
templates_path = [str(HERE/'templates')]
# One file, without fonts or a network
mathjax_path = 'tex-svg.js'
mathjax3_config = dict(options=dict(enableMenu=False))
html_theme_options = dict(
    logo=dict(text='refers_nb'),
    header_links_before_dropdown=7,
    navbar_align='left',
    navbar_persistent=['search-button'],
    navbar_end=['theme-switcher'],
    article_header_end=['notebook-buttons.html'],
    show_nav_level=1,
    collapse_navigation=True,
    navigation_depth=3,
    show_toc_level=2,
    footer_start=['copyright'],
    footer_end=['sphinx-version'],
    back_to_top_button=True,
)


def page_names(app):
    "What `build.py` noted of each page: its notebook, its names"
    if not hasattr(app, 'site_facts'):
        app.site_facts = json.loads((Path(app.srcdir)/'site.json').read_text(encoding='utf-8'))
        app.site_names = names.Names()
    return app.site_facts, app.site_names


def link_names(app, pagename, templatename, context, doctree):
    "Every name in code leads to its definition, every file of the repository to its page"
    facts, known = page_names(app)
    page = facts['pages'].get(pagename, {})
    context['notebook'] = page.get('notebook')
    context['repository'] = facts['repository']
    if 'body' not in context or pagename.startswith('files/'): return
    scope = page.get('scope', {})
    own_values = set(page.get('own_values', ()))
    to = context['pathto']

    def url(full):
        name, fragment = known.place(full)
        if name != pagename: return f'{to(name)}#{fragment}'
        return None if fragment.startswith('module-') else f'#{fragment}'

    def in_prose(text):
        first = text.split()[0] if text.strip() else ''
        if first in facts['commands']: return f'{to("commands")}#{first}'
        if f'files/{text}' in facts['files']: return to(f'files/{text}')
        full = known.find(text, scope)
        return url(full) if full else None

    def in_code(name):
        if name in own_values or name not in scope: return None
        return url(scope[name])

    body = names.link_prose(context['body'], in_prose)
    if page.get('notebook'): body = names.link_code(body, in_code)
    context['body'] = names.slim(body)


def setup(app):
    app.connect('builder-inited', page_names)    # once, before the processes that write begin
    app.connect('html-page-context', link_names)
    SearchEnglish.stem = lru_cache(None)(SearchEnglish.stem)    # else a tenth of the time
    return dict(parallel_read_safe=True, parallel_write_safe=True)
