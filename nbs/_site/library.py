"What the library defines, where, and which notebook tells it: read from the text of the modules"
import ast
import re
from dataclasses import dataclass, field
from pathlib import Path

from notebooks import ROOT

PACKAGE = ROOT/'refers_nb'
# The comment after the parenthesis that closes the arguments of a function
RETURNS = re.compile(r'(?m)^\s*\)(?:\s*->[^#\n]*)?:\s*#\s*(.+)$')
# Layers from the ground up, with the first digit of their notebooks
LAYERS = dict(ground='0', data='1', models='2', training='3', evaluation='4', use='5')


@dataclass
class Definition:
    "A function, class, method or constant"
    module:str  # Dotted name of the module whose text defines it
    name:str    # Its name there, a method as `Class.method`
    owner:str   # Dotted name of the module that its class is of; a patch may be elsewhere
    kind:str    # 'function', 'class', 'method' or 'data'
    public:bool # Whether its name begins with no underscore
    doc:str = ''     # Its docstring
    returns:str = '' # The comment after the parenthesis that closes its arguments
    patch:bool = False # Whether it is written outside of its class

    @property
    def full(self): return f'{self.owner}.{self.name}'


@dataclass
class Module:
    "A module that was written from a notebook"
    name:str                # Dotted name
    notebook:Path           # Its source
    doc:str                 # Its subtitle
    definitions:list = field(default_factory=list) # In the order of the text
    imported:dict = field(default_factory=dict)    # Names it takes from this library: full names


def dotted(path):
    "refers_nb/data/store.py as refers_nb.data.store"
    parts = path.relative_to(ROOT).with_suffix('').parts
    return '.'.join(parts[:-1] if parts[-1] == '__init__' else parts)


def absolute(node, package):
    "The module that a `from` statement names"
    above = package.split('.')
    if not node.level: return node.module or ''
    kept = above[:len(above) - node.level + 1]
    return '.'.join([*kept, *([node.module] if node.module else [])])


def imports(tree, package):
    "Name to full name of what a text imports from this library, also inside its functions"
    found = {}
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom): continue
        module = absolute(node, package)
        if not module.startswith('refers_nb'): continue
        for o in node.names: found[o.asname or o.name] = f'{module}.{o.name}'
    return found


def patched(node):
    "Names of the classes that a function is patched onto"
    decorators = [ast.unparse(o) for o in node.decorator_list]
    if not any(re.match(r'patch\b', o) for o in decorators): return []
    args = node.args.posonlyargs + node.args.args
    if not args or args[0].annotation is None: return []
    return re.findall(r'\w+', ast.unparse(args[0].annotation))


def is_public(name):
    return not any(o.startswith('_') for o in name.split('.'))


def methods(node):
    return [o for o in node.body if isinstance(o, (ast.FunctionDef, ast.AsyncFunctionDef))]


def assigned(targets):
    "Names that an assignment gives a value, one or several; not those whose parts it changes"
    found = [o for t in targets for o in ast.walk(t) if isinstance(o, ast.Name)]
    return [o.id for o in found if isinstance(o.ctx, ast.Store)]


def return_comment(node, lines):
    "What the closing parenthesis of a function says of what it gives back"
    head = '\n'.join(lines[node.lineno - 1:node.body[0].lineno - 1])
    m = RETURNS.search(head)
    return m[1].strip() if m else ''


def defined(tree, module, imported, exported, lines):
    "Yield a `Definition` for everything that a module defines"
    def owner_of(cls): return imported.get(cls, f'{module}.{cls}').rpartition('.')[0]

    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            doc = ast.get_docstring(node) or ''
            yield Definition(module, node.name, module, 'class', is_public(node.name), doc)
            for o in methods(node):
                name = f'{node.name}.{o.name}'
                told = ast.get_docstring(o) or '', return_comment(o, lines)
                yield Definition(module, name, module, 'method', is_public(name), *told)
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            classes = patched(node)
            told = ast.get_docstring(node) or '', return_comment(node, lines)
            for cls in classes:
                name = f'{cls}.{node.name}'
                owner, public = owner_of(cls), is_public(name)
                yield Definition(module, name, owner, 'method', public, *told, patch=True)
            if not classes:
                public = is_public(node.name)
                yield Definition(module, node.name, module, 'function', public, *told)
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for name in assigned(targets):
                if name in exported: yield Definition(module, name, module, 'data', True)


def exported_names(tree):
    "Content of `__all__`"
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == '__all__':
            return ast.literal_eval(node.value)
    return []


def read_module(path):
    "A `Module`, or None for a text that no notebook wrote"
    text = path.read_text(encoding='utf-8')
    source = re.search(r'File to edit: (\S+\.ipynb)', text)
    if not source or path.name == '_modidx.py': return None
    tree = ast.parse(text)
    name = dotted(path)
    imported = imports(tree, name.rpartition('.')[0])
    notebook = (path.parent/source[1]).resolve()
    module = Module(name, notebook, ast.get_docstring(tree) or '', imported=imported)
    seen = set()
    for o in defined(tree, name, imported, exported_names(tree), text.splitlines()):
        if o.full not in seen: module.definitions.append(o)
        seen.add(o.full)
    return module


def modules():
    "Every module by its dotted name, in the order of their notebooks"
    found = [o for o in map(read_module, sorted(PACKAGE.rglob('*.py'))) if o]
    return {o.name: o for o in sorted(found, key=lambda o: o.notebook.name)}


def reexported():
    "Names that `refers_nb.all` and the packages pass on: full names"
    paths = [PACKAGE/'all.py', *PACKAGE.rglob('__init__.py')]
    res = {}
    for path in paths:
        package = dotted(path) if path.name == '__init__.py' else 'refers_nb'
        tree = ast.parse(path.read_text(encoding='utf-8'))
        res[dotted(path)] = imports(tree, package)
    return res


def layer(module):
    "Key of `LAYERS` for a module, by the number of its notebook"
    digit = module.notebook.name[0]
    return next(name for name, o in LAYERS.items() if o == digit)
