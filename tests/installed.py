"""Run by `make wheel` with the Python of a clean environment: the installed library is complete and works alone.

python -I installed.py REPOSITORY
"""
import importlib, pkgutil, subprocess, sys
from importlib.metadata import entry_points
from pathlib import Path

import refers_nb

here,repo = Path(refers_nb.__file__).resolve().parent,Path(sys.argv[1]).resolve()
assert Path(sys.prefix).resolve() in here.parents, f'{here} is not the installed library'
names = sorted(o.name for o in pkgutil.iter_modules(refers_nb.__path__))
expected = sorted(o.stem for o in (repo/'refers_nb').glob('*.py') if o.stem != '__init__')
assert names == expected, f'in the wheel {names}, in the repository {expected}'
for o in names: importlib.import_module(f'refers_nb.{o}')

scripts = [o for o in entry_points(group='console_scripts') if o.value.startswith('refers_nb.')]
assert scripts, 'no commands'
for o in scripts:
    r = subprocess.run([Path(sys.prefix)/'bin'/o.name, '--help'], capture_output=True, text=True)
    assert r.returncode == 0 and r.stdout, f'{o.name} --help: exit code {r.returncode}\n{r.stderr}'
sys.stdout.write(f'wheel: {len(names)} modules import, {len(scripts)} commands answer, nothing but the library is needed\n')
