"Every tutorial teaches alone: three exercises, each with a folded answer that checks itself"
import ast
import json
from pathlib import Path

import pytest

TUTORIALS = sorted((Path(__file__).resolve().parent.parent/'nbs'/'tutorials').glob('*.ipynb'))
each_tutorial = pytest.mark.parametrize('path', TUTORIALS, ids=lambda o: o.stem)


def tagged(path, tag):
    "(place, cell) of the cells that have a tag"
    cells = json.loads(path.read_text(encoding='utf-8'))['cells']
    return [(i, o) for i, o in enumerate(cells) if tag in o['metadata'].get('tags', [])]


def checks(source):
    "Whether some code asserts something, by `assert`, a `test_...` or `expect_fail`"
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Assert): return True
        name = node.func.id if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) else ''
        if name.startswith('test_') or name == 'expect_fail': return True
    return False


@each_tutorial
def test_three_exercises_and_their_answers(path):
    exercises, answers = tagged(path, 'exercise'), tagged(path, 'answer')
    assert (len(exercises), len(answers)) == (3, 3)
    assert [i + 1 for i, _ in exercises] == [i for i, _ in answers], 'an answer follows its exercise'
    for _, cell in exercises: assert cell['cell_type'] == 'markdown'


@each_tutorial
def test_answers_are_folded_and_check_themselves(path):
    "They run with the page, since nbdev-test runs every cell"
    for _, cell in tagged(path, 'answer'):
        source = ''.join(cell['source'])
        assert cell['cell_type'] == 'code'
        assert cell['metadata']['jupyter']['source_hidden'], 'an answer is folded'
        assert checks(source), source
        assert '#| eval: false' not in source
