"The state of a run that is not what it should be: refused in a line, whatever is wrong with it"
import copy, math

import pytest
import torch

from mutations import fit_line
from refers_nb.core import InputError

NAN = float('nan')


@pytest.fixture(scope='module', autouse=True)
def silent():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('REFERS_NB_PROGRESS', '0')
        yield


@pytest.fixture(scope='module', params=['adamw', 'sgd'])
def stopped(request, tmp_path_factory):
    "States of a run that was stopped in its second epoch, and the weights of one that was not"
    folder = tmp_path_factory.mktemp(request.param)
    path = folder/f'{request.param}.pt'
    whole = fit_line(folder/f'whole-{request.param}.pt').model.state_dict()
    fit_line(path, stop=7)
    return request.param, torch.load(path, weights_only=True), whole


def at(state, *way):
    for k in way[:-1]: state = state[k]
    return state, way[-1]

def put(*way, to):
    "A change: something else in a place of a state"
    def change(state):
        parent, k = at(state, *way)
        parent[k] = to(parent[k]) if callable(to) else to
    return change

def lose(*way):
    "A change: a part less"
    def change(state):
        parent, k = at(state, *way)
        del parent[k]
    return change


CHANGES = dict(
    {f'without {o}': lose(o) for o in ('args', 'place', 'train_iter', 'model', 'opt', 'loss', 'smooth_loss', 'values')},
    **{f'{o} is None': put(o, to=None) for o in ('args', 'place', 'train_iter', 'model', 'opt', 'smooth_loss', 'values')},
    **{f'epoch {o!r}': put('place', 'epoch', to=o) for o in (99, -1, 2, 3, 4, '1', 1., True, None, NAN, [1])},
    **{f'batch {o!r}': put('place', 'batch', to=o) for o in (99, -1, 0, '2', 1.5, None)},
    **{f'step {o!r}': put('train_iter', to=o) for o in (0, 99, -6, '6', 6., None, NAN)},
    **{f'done {o!r}': put('place', 'pct', to=o) for o in (0, 1, NAN, math.inf, 'half', None)},
    **{f'table {i}': put('values', to=o) for i, o in enumerate(([], [[1., 2.]]*3, [[1.]], [['a', 'b']], 'x', [None], [[1, 2]]))},
    **{'place lost': put('place', to={}), 'no weights': put('model', to={}), 'a weight less': lose('model', '0.weight'),
       'a weight more': put('model', 'x', to=torch.zeros(1)), 'another shape': put('model', '0.weight', to=lambda x: x.T),
       'NaN': put('model', '0.bias', to=lambda x: x*NAN), 'infinite': put('model', '1.weight', to=lambda x: x/0),
       'whole numbers': put('model', '0.weight', to=lambda x: x.int()), 'doubles': put('model', '0.weight', to=lambda x: x.double()),
       'no tensor': put('model', '0.weight', to=3), 'a loss': put('loss', 'tau', to=torch.ones(1)),
       'mean': put('smooth_loss', 'val', to='x'), 'count': put('smooth_loss', 'count', to=-1), 'no optimiser': put('opt', to={}),
       'format': put('format', to=99), 'a list': put('args', to=[1]), 'other arguments': put('args', to={'lr': 1})})
OPTIMISER = dict(
    adamw={
        'a moment less': lose('opt', 'state', 0, 'exp_avg'), 'NaN': put('opt', 'state', 1, 'exp_avg', to=lambda x: x*NAN),
        'shape': put('opt', 'state', 0, 'exp_avg_sq', to=lambda x: x[:1]), 'decay': put('opt', 'param_groups', 0, 'weight_decay', to=9.),
        'groups': put('opt', 'param_groups', to=lambda o: o[:1]), 'betas lost': lose('opt', 'param_groups', 0, 'betas')},
    sgd={
        'NaN': put('opt', 'state', 0, 'grad_avg', to=lambda x: x*NAN),
        'hypers': put('opt', 'hypers', to=[]), 'decay': put('opt', 'hypers', 0, 'wd', to=1.), 'no slow weights': lose('opt', 'slow_weights'),
        'slow weights': put('opt', 'slow_weights', to=lambda o: o[:1]), 'count': lose('opt', 'count')})


def refused(stopped, tmp_path, change):
    name, state, _ = stopped
    state = copy.deepcopy(state)
    change(state)
    torch.save(state, tmp_path/f'{name}.pt')
    with pytest.raises(InputError) as e: fit_line(tmp_path/f'{name}.pt')
    assert len(str(e.value)) <= 1200 and f'{name}.pt' in str(e.value)


@pytest.mark.parametrize('what', CHANGES)
def test_a_state_that_does_not_fit(stopped, tmp_path, what):
    refused(stopped, tmp_path, CHANGES[what])


@pytest.mark.parametrize('name, what', [(name, what) for name in OPTIMISER for what in OPTIMISER[name]])
def test_an_optimiser_that_does_not_fit(stopped, tmp_path, name, what):
    if name == stopped[0]: refused(stopped, tmp_path, OPTIMISER[name][what])


def test_the_state_itself_is_resumed_to_the_same_weights(stopped, tmp_path):
    name, state, whole = stopped
    torch.save(state, tmp_path/f'{name}.pt')
    again = fit_line(tmp_path/f'{name}.pt').model.state_dict()
    assert all(torch.equal(again[k], o) for k, o in whole.items())
