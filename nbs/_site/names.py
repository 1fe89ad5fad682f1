"""Which definition a name on a page means

A name is looked for in the module that the page tells, then in what it imports, then
everywhere if it is defined once.
"""
import ast
import re
from collections import defaultdict
from html import unescape

import library

CALL = re.compile(r'([A-Za-z_]\w*(?:\.\w+)*)(?:\(.*\))?', re.S)
INLINE = re.compile(r'(?s)<a\b.*?</a>|<h\d.*?</h\d>|<pre\b.*?</pre>|<dt\b.*?</dt>'
                    r'|<code class="docutils literal notranslate">(.*?)</code>')
TOKEN = re.compile(r'(?s)<a\b.*?</a>|<span class="(n|nf|nc|bp)">(\w+)</span>')
# What Pygments marks and the style shows like any text, and the frame of code in prose
PLAIN = re.compile(r'<span class="(?:n|p|w|pre)">([^<]*)</span>')
# Words that text sets in code and that mean an argument or a column, though a function has the name
NOT_MEANT = {'label', 'labels', 'numbers', 'ranks', 'settings', 'size', 'split', 'views', 'told',
             'difference', 'within'}


def statements(source):
    "The tree of a cell, or nothing where IPython would have to read it"
    text = re.sub(r'(?m)^(\s*)[%!].*$', r'\1pass', source)
    try: return ast.parse(text)
    except SyntaxError: return ast.parse('')


def stored(tree):
    "Names that a text gives a value of its own"
    nodes = list(ast.walk(tree))
    names = [o for o in nodes if isinstance(o, ast.Name) and isinstance(o.ctx, ast.Store)]
    return {o.id for o in names} | {o.arg for o in nodes if isinstance(o, ast.arg)}


class Names:
    "The definitions of the library, by name"
    def __init__(self):
        self.modules = library.modules()
        self.passed_on = library.reexported()
        self.known = {}
        self.short = defaultdict(set)
        self.of_notebook = {o.notebook: o for o in self.modules.values()}
        for module in self.modules.values():
            for o in module.definitions:
                if not o.public: continue
                self.known[o.full] = module.name
                if o.kind != 'method' or '.' in o.name: self.short[o.name].add(o.full)

    def follow(self, full, depth=5):
        "The full name under which something is defined, whoever passes it on"
        if full in self.known: return full
        module, _, name = full.rpartition('.')
        passed = self.passed_on.get(module, {})
        if module in self.modules: passed = passed | self.modules[module].imported
        if depth and name in passed: return self.follow(passed[name], depth - 1)
        return full if full in self.modules else None

    def imported_by(self, tree):
        "Names that a notebook's cell takes from the library: full names"
        taken = library.imports(tree, 'refers_nb')
        found = {k: self.follow(v) for k, v in taken.items() if k != '*'}
        for node in ast.walk(tree):
            if not isinstance(node, ast.ImportFrom) or node.names[0].name != '*': continue
            if node.module in self.modules:
                found |= {o.name: o.full for o in self.modules[node.module].definitions
                          if o.public and o.kind != 'method'}
            found |= {k: self.follow(v) for k, v in self.passed_on.get(node.module, {}).items()}
        return {k: v for k, v in found.items() if v}

    def of_page(self, notebook, cells):
        "(names of its module and imports: full names, names that its code gives another value)"
        module = self.of_notebook.get(notebook)
        scope = {}
        own_values = set()
        for source in cells:
            tree = statements(source)
            scope |= self.imported_by(tree)
            own_values |= stored(tree)
        if module:
            scope |= {o.name: o.full for o in module.definitions if o.public}
            own_values -= {o.name for o in module.definitions if o.kind == 'data'}
        return scope, own_values

    def find(self, text, scope=()):
        "The full name that a text in code means; None if it is none, or could be several"
        m = CALL.fullmatch(text)
        if not m or text in NOT_MEANT and text not in scope: return None
        name = m[1]
        if name in scope: return scope[name]
        if name in self.modules: return name
        if name.startswith('refers_nb.'): return self.follow(name)
        first, _, rest = name.partition('.')
        if rest and first in scope and f'{scope[first]}.{rest}' in self.known:
            return f'{scope[first]}.{rest}'
        found = self.short[name] if name in self.short else ()
        return next(iter(found)) if len(found) == 1 else None

    def place(self, full):
        "(page, fragment) of a definition or module"
        if full in self.modules: return f'api/{full}', f'module-{full}'
        return f'api/{self.known[full]}', full


def text_of(html):
    "What a reader sees of a piece of HTML"
    return unescape(re.sub(r'<[^>]+>', '', html))


def link_prose(html, address):
    "Link every name that prose sets in code; `address` gives the URL of a text, or None"
    def linked(m):
        url = m[1] and address(text_of(m[1]))
        return f'<a class="name" href="{url}">{m[0]}</a>' if url else m[0]
    return INLINE.sub(linked, html)


def link_code(html, address):
    "Link every name of a notebook's code that the page's module defines or imports"
    def linked(m):
        url = m[2] and address(m[2])
        return f'<a class="name" href="{url}">{m[0]}</a>' if url else m[0]
    return TOKEN.sub(linked, html)


def slim(html):
    "A page without marks that nobody sees: a sixth of its size"
    return PLAIN.sub(r'\1', html)
