"""Run by `make wheel` with the Python of a clean environment: the installed library is complete and works alone.

python -I installed.py REPOSITORY
"""
import importlib
import pkgutil
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import refers_nb

here = Path(refers_nb.__file__).resolve().parent
repository = Path(sys.argv[1]).resolve()
assert Path(sys.prefix).resolve() in here.parents, f'{here} is not the installed library'


def dotted(path):
    "The import name of a file of the repository"
    parts = path.relative_to(repository).with_suffix('').parts
    return '.'.join(parts[:-1] if parts[-1] == '__init__' else parts)


found = {o.name for o in pkgutil.walk_packages(refers_nb.__path__, 'refers_nb.')} | {'refers_nb'}
expected = {dotted(o) for o in (repository/'refers_nb').rglob('*.py')}
assert found == expected, f'in the wheel only {found - expected}, in the repository only {expected - found}'
for o in sorted(found): importlib.import_module(o)

scripts = [o for o in entry_points(group='console_scripts') if o.value.startswith('refers_nb.')]
assert scripts, 'no commands'
for o in scripts:
    r = subprocess.run([Path(sys.prefix)/'bin'/o.name, '--help'], capture_output=True, text=True)
    assert r.returncode == 0 and r.stdout, f'{o.name} --help: exit code {r.returncode}\n{r.stderr}'
sys.stdout.write(f'wheel: {len(found)} modules import, {len(scripts)} commands answer, nothing but the library is needed\n')
