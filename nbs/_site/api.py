"Pages of the API, in MyST: signatures, docstrings, and the comment of every parameter"
import importlib
import inspect
import json
import re
from functools import cached_property

from fastcore.docments import docments
from fastcore.script import anno_parser

EMPTY = inspect.Parameter.empty
# Characters of a docstring or comment that markdown would take for its own
SPECIAL = re.compile(r'(`[^`]*`)|([\\*_<>\[\]$|#{}~])')


def escaped(text):
    "Text as markdown that shows just that text, but what stands in backticks"
    return SPECIAL.sub(lambda m: m[1].replace('|', '\\|') if m[1] else '\\' + m[2], str(text))


def in_code(text):
    "Text as code within a table"
    return '`' + str(text).replace('|', '\\|').replace('`', "'") + '`'


def value_text(value, most=60):
    "A default or a constant as one short line"
    if inspect.isfunction(value) or inspect.isclass(value): return value.__name__
    text = re.sub(r'\s+', ' ', repr(value))
    if ' at 0x' in text or len(text) > most: return '…'
    return text


def type_text(anno):
    "An annotation as it is written"
    if anno in (None, EMPTY): return ''
    if inspect.isclass(anno): return anno.__name__
    return str(anno).replace('typing.', '')
class Documented:
    "A definition and the object that it defines"
    def __init__(self, definition):
        self.definition = definition
        self.object = self.find()

    def find(self):
        "The object, looked up without calling anything"
        module = importlib.import_module(self.definition.owner)
        found = module
        for o in self.definition.name.split('.'): found = inspect.getattr_static(found, o)
        return found

    @property
    def kind(self):
        "Directive of Sphinx's domain of Python"
        if self.definition.kind != 'method': return self.definition.kind
        if isinstance(self.object, (property, cached_property)): return 'property'
        if isinstance(self.object, classmethod): return 'classmethod'
        return 'staticmethod' if isinstance(self.object, staticmethod) else 'method'

    @property
    def function(self):
        "What can be asked for its signature"
        o = self.object
        if type(o).__module__.startswith('plum'): return self.dispatched(o)
        if isinstance(o, (classmethod, staticmethod)): return o.__func__
        if isinstance(o, property): return o.fget
        return o.func if isinstance(o, cached_property) else o

    def dispatched(self, function):
        "The first method of a function of several that the module itself defines"
        found = [o.implementation for o in function.methods]
        own = [o for o in found if o.__module__ == self.definition.module]
        return min(own or found, key=lambda o: o.__code__.co_firstlineno)

    @property
    def parameters(self):
        "Name to `inspect.Parameter`, without self"
        try: found = dict(inspect.signature(self.function).parameters)
        except (TypeError, ValueError): return {}
        bound = self.kind in ('method', 'classmethod', 'property')
        if bound and found: found.pop(next(iter(found)))
        return found

    @cached_property
    def comments(self):
        "What docments knows: name to type, default and comment"
        try: return docments(self.function, full=True)
        except (TypeError, ValueError, OSError, SyntaxError): return {}

    def signature(self):
        "Name and arguments on one line"
        name = self.definition.name
        if self.kind in ('property', 'data'): return name
        parts = []
        star = False
        for o in self.parameters.values():
            text = {o.VAR_POSITIONAL: '*', o.VAR_KEYWORD: '**'}.get(o.kind, '') + o.name
            if o.kind == o.KEYWORD_ONLY and not star: parts.append('*')
            star = star or o.kind in (o.KEYWORD_ONLY, o.VAR_POSITIONAL)
            default = '' if o.default is EMPTY else f'={value_text(o.default, 30)}'
            parts.append(text + default.replace('…', '...'))
        return f'{name}({", ".join(parts)})'

    def table(self):
        "Parameters as a table of markdown; '' where there are none"
        comments = self.comments
        rows = []
        for name, o in self.parameters.items():
            default = '' if o.default is EMPTY else in_code(value_text(o.default))
            kind = type_text(o.annotation)
            comment = (comments.get(name) or {}).get('docment') or ''
            rows.append((in_code(name), in_code(kind) if kind else '', default, escaped(comment)))
        if not rows: return ''
        lines = ['| argument | type | default | meaning |', '|---|---|---|---|']
        lines += ['| ' + ' | '.join(re.sub(r'\s+', ' ', o) for o in row) + ' |' for row in rows]
        return '\n'.join(lines)

    def returns(self):
        "What comes back, in one line; '' where nothing is said"
        if inspect.isclass(self.object): return ''
        told = self.comments.get('return') or {}
        kind = type_text(told.get('anno'))
        comment = told.get('docment') or self.definition.returns
        if not kind and not comment: return ''
        return 'Returns: ' + ', '.join(o for o in (kind and in_code(kind), escaped(comment)) if o)

    def markdown(self):
        "The directive of one definition"
        d = self.definition
        directive = 'method' if self.kind in ('classmethod', 'staticmethod') else self.kind
        lines = [f':::{{py:{directive}}} {self.signature()}', f':module: {d.owner}']
        if directive != self.kind: lines.append(f':{self.kind}:')
        if self.kind == 'data': lines.append(f':value: {json.dumps(value_text(self.object, 90))}')
        body = [self.link()]
        if self.kind != 'data':
            parts = [self.table(), self.returns()] if self.kind != 'property' else [self.returns()]
            body = [escaped(self.definition.doc), *parts, *body]
        return '\n'.join([*lines, '', '\n\n'.join(o for o in body if o), ':::', ''])

    def link(self):
        "To the cell of the notebook that defines it"
        return f'[In the notebook](#{cell_of(self.definition)})'


def cell_of(definition):
    "Label of the cell to look at: that of the class of a method, a patch has its own"
    name = definition.name
    if not definition.patch: name = name.partition('.')[0]
    return cell_label(f'{definition.module}.{name}')


def cell_label(full):
    """Label of the cell of a notebook that defines a name

    Sphinx forgets capitals: their places come last, so that `Likeness` and `likeness` are two.
    """
    capitals = '.'.join(str(i) for i, o in enumerate(full) if o.isupper())
    return f'cell-{full}' + (f'-{capitals}' if capitals else '')


def module_page(module, title, notebook):
    "The page of one module: what it is, and everything public that it defines"
    lines = [f'# {module.name}', '', f'> {escaped(module.doc)}', '',
             f'Written from the notebook [{title}]({notebook}).', '',
             f':::{{py:module}} {module.name}', ':::', '']
    for o in module.definitions:
        if o.public: lines.append(Documented(o).markdown())
    return '\n'.join(lines)


def command_page(scripts):
    "Every command with its own help, as `--help` prints it; `scripts` is [project.scripts]"
    lines = ['# Commands', '', '> What `--help` prints of each command', '',
             'Arguments in, one call, words out: each command calls one function of the library. '
             'Defaults come from [settings.ini](settings.ini).', '']
    for name, place in sorted(scripts.items()):
        module, _, function = place.partition(':')
        f = getattr(importlib.import_module(module), function)
        f = inspect.unwrap(f)
        parser = anno_parser(f, prog=name)
        text = parser.format_help().rstrip()
        lines += [f'## {name}', '', f'Calls `{module}.{function}`.', '', '```text', text, '```', '']
    return '\n'.join(lines)
