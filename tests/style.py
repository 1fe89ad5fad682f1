"""How dense the code is, measured on the generated modules: python tests/style.py [FOLDER ...]

The figures follow from reading, they are no aim of their own: a line that is wrapped in the middle of a thought, or a helper
that is public only in name, is worse than what it replaces.
"""
import ast
import re
import statistics
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LIMITS = dict(over_100=5, over_120=1, private=30, several=1.5, cell=14, module=450)


def modules(folder=ROOT/'refers_nb'):
    "The modules that were written from notebooks"
    return [o for o in sorted(folder.rglob('*.py')) if o.name not in ('_modidx.py', '__init__.py', 'all.py')]


def is_dunder(name):
    return name.startswith('__') and name.endswith('__')


def functions(tree):
    "Names of all functions and methods, nested ones too, without those that Python itself calls"
    defs = [o for o in ast.walk(tree) if isinstance(o, (ast.FunctionDef, ast.AsyncFunctionDef))]
    return [o.name for o in defs if not is_dunder(o.name)]


def assigns_several(node):
    "Whether a statement assigns several things at once: `a, b = x, y` or `a = b = x`"
    if not isinstance(node, ast.Assign): return False
    return len(node.targets) > 1 or isinstance(node.targets[0], ast.Tuple)


def cell_lengths(text):
    "Lines of each exported cell that defines something, imports left out"
    lengths = []
    for cell in re.split(r'(?m)^# %% .*$', text)[1:]:
        defines = any(not isinstance(o, (ast.Import, ast.ImportFrom)) for o in ast.parse(cell).body)
        if defines: lengths.append(sum(bool(o.strip()) for o in cell.splitlines()))
    return lengths


def measure(paths):
    "Shares in percent, the median length of a cell, and the lines of the longest module"
    lines, names, cells, several = [], [], [], 0
    for path in paths:
        text = path.read_text(encoding='utf-8')
        tree = ast.parse(text)
        lines += [o for o in text.splitlines() if o.strip()]
        names += functions(tree)
        cells += cell_lengths(text)
        several += sum(map(assigns_several, ast.walk(tree)))
    share = lambda n, of: round(100*n/max(of, 1), 2)
    return dict(
        over_100=share(sum(len(o) > 100 for o in lines), len(lines)),
        over_120=share(sum(len(o) > 120 for o in lines), len(lines)),
        private=share(sum(o.startswith('_') for o in names), len(names)),
        several=share(several, len(lines)),
        cell=statistics.median(cells or [0]),
        module=max((o.read_text(encoding='utf-8').count('\n') for o in paths), default=0),
    )


if __name__ == '__main__':
    for folder in sys.argv[1:] or [ROOT/'refers_nb']:
        paths = modules(Path(folder))
        rows = {str(o.relative_to(folder)): measure([o]) for o in paths} | {'all': measure(paths)}
        width = max(map(len, rows))
        sys.stdout.write(f'{"":{width}}' + ''.join(f'{o:>10}' for o in LIMITS) + '\n')
        for name, row in rows.items():
            sys.stdout.write(f'{name:{width}}' + ''.join(f'{row[o]:>10g}' for o in LIMITS) + '\n')
        sys.stdout.write(f'{"at most":{width}}' + ''.join(f'{o:>10g}' for o in LIMITS.values()) + '\n')
