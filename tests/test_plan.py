"The paper's values in one table, and a run planned: counts, nothing written, the errors of the run itself"
import inspect
import re

import pytest
from fastcore.docments import docments

from refers_nb import cli
from refers_nb.core import InputError
from refers_nb.data.prepare import prepare
from refers_nb.locks import file_lock
from refers_nb.settings import KEYS
from refers_nb.training.baselines import baseline, ImagesArgs, pretrain_images
from refers_nb.training.paper import PAPER, paper_epochs, preset_args
from refers_nb.training.plan import plan_text
from refers_nb.training.pretrain import pretrain, RefersArgs, RunArgs

SMALL = dict(preset='nano', start='random', size=32, bs=8, vocab=300, device='cpu', tensorboard=False)
FLAGS = ['--preset', 'nano', '--start', 'random', '--size', 32, '--bs', 8, '--device', 'cpu']

# What the paper and the released code say, written down once more
TOLD = dict(
    preset='base', start='imagenet', size=224, n_views=3, bs=128, accum=1, flip=.5, drop_path=0, scale=.05, light=.4,
    rotate=0, fusion='gate', text=dict(name='emilyalsentzer/Bio_ClinicalBERT', pool='cls'), freeze=6, vocab=10_000,
    max_len=100, dropout=.1, opt='paper', lr=.003, vision_lr=1, text_lr=.0003/.003, wd=.0001, clip=10,
    warmup=10_000/400_000, tau=.1, learn_tau=False, lam=.75, gen=1, match=1, mask_same=False)
WORDS = {'none': 0, 'fixed': False, 'they are': False}


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp('plan')/'data'
    return folder, prepare('phantom', 50, folder, size=32, workers=0, valid=.2, test=.1, seed=3)


def snapshot(folder):
    return {o: (o.stat().st_mtime_ns, o.stat().st_size) for o in [folder, *folder.rglob('*')]}


def test_the_table_is_what_the_paper_and_its_code_say():
    values = {k: value for k, (value, _) in PAPER.items()}
    assert values.keys() == TOLD.keys()
    for name, value in TOLD.items(): assert values[name] == (pytest.approx(value) if type(value) is float else value), name
    assert all(re.match('paper|code|said in the code', source) for _, source in PAPER.values())
    arguments = {*inspect.signature(RefersArgs).parameters} | {*inspect.signature(RunArgs).parameters}
    assert arguments - values.keys() == {'epochs', 'least_patients', 'seed', 'device', 'precision',
                                         'checkpointing', 'compile', 'patch_drop', 'near', 'drop_sentences',
                                         'shuffle_sentences', 'with_labels', 'rare_words'}


def comments():
    "Yield (argument, what stands behind '(paper: ')"
    for function in (RunArgs.__init__, RefersArgs.__init__, cli.refers_pretrain):
        for name, text in docments(function).items(): yield from ((name, o) for o in re.findall(r'\(paper: ([^)]+)\)', text or ''))
    for name, key in KEYS['pretrain'].items(): yield from ((name, o) for o in re.findall(r'\(paper: ([^)]+)\)', key.doc))


def test_every_comment_about_the_paper_agrees_with_the_table():
    found = list(comments())
    assert len({name for name, _ in found}) > 15
    for name, text in found:
        name = {'pool': 'text', 'learn_tau': 'learn_tau'}.get(name, name)
        value = PAPER[name][0]
        word = re.split(r', ', text)[0]
        if name == 'text': assert word == value['pool']
        elif word in WORDS: assert value == WORDS[word], (name, text)
        elif isinstance(value, str): assert word == value, (name, text)
        else: assert float(word.replace(',', '')) == pytest.approx(value), (name, text)


@pytest.mark.parametrize('given', [dict(lr=1e-3, bs=16), dict(fusion='attention', mask_same=True, tau=.2), dict(start='random', text={}, freeze=2)])
def test_what_is_given_beside_the_paper_wins(given):
    args = vars(RefersArgs(**preset_args('paper', given)))
    for name, value in given.items(): assert args[name] == value
    rest = {k: value for k, (value, _) in PAPER.items() if k not in given and k not in ('start', 'text')}
    assert {k: args[k] for k in rest} == rest
    assert args['text'] == given.get('text', PAPER['text'][0])


def test_without_a_trained_report_encoder_nothing_is_frozen():
    assert preset_args('paper', dict(text=None))['freeze'] == 0
    images = preset_args('paper', dict(task='mae'), {*inspect.signature(ImagesArgs).parameters})
    assert images['size'] == 224 and not {'freeze', 'text', 'tau', 'vocab'} & images.keys()


@pytest.mark.parametrize('studies, bs, accum', [(222_000, 128, 1), (222_000, 32, 4), (3000, 128, 1), (5, 128, 1), (10**9, 2, 1)])
def test_the_passes_make_the_steps_of_the_paper(studies, bs, accum):
    epochs = paper_epochs(studies, bs, accum)
    per_pass = -(-max(1, studies//bs)//accum)
    assert epochs == 1 or epochs*per_pass <= 400_000 < (epochs + 1)*per_pass


def test_the_command_passes_on_the_paper_and_what_is_given(monkeypatch, call, tmp_path):
    seen = []
    monkeypatch.setattr('refers_nb.training.baselines.baseline', lambda *args, **kwargs: seen.append(kwargs))
    own = {'seed', 'device', 'precision', 'workers', 'dry_run'}
    def recipe(*args, **env):
        code, _, err = call('refers-pretrain', tmp_path, tmp_path/'o', *args, **env)
        assert code == 0, err
        return {k: v for k, v in seen.pop().items() if k not in own}
    assert recipe('--preset', 'paper') == dict(preset='paper')
    env = dict(REFERS_NB_PRETRAIN_LR='0.5', REFERS_NB_PRETRAIN_BS='7')
    assert recipe('--preset', 'paper', '--bs', 9, '--text', 'none', '--freeze', 0, **env) == dict(preset='paper', bs=9, text=None, freeze=0)
    usual = recipe('--text', 'x', '--vocab', 50, **env)
    assert (usual['lr'], usual['bs'], usual['preset'], usual['vocab']) == (.5, 7, 'tiny', 50)
    assert usual['text'] == dict(name='x', pool='cls')


@pytest.mark.parametrize('bs, epochs, k', [(8, 2, 1), (4, 5, 2), (100, 3, 3)])
def test_the_figures_are_right(data, tmp_path, bs, epochs, k):
    folder, df = data
    args = SMALL | dict(bs=bs, epochs=epochs, n_views=k, dropout=0.)
    plan = pretrain(folder, tmp_path/'o', **args, dry_run=True)
    assert not [*tmp_path.iterdir()]
    for split, name in dict(train='training', valid='validation').items():
        rows = df[(df['split'] == split) & (df['report'] != '')]
        assert (plan[f'{name} studies'], plan[f'{name} images']) == (rows['study'].nunique(), len(rows))
    steps = max(1, plan['training studies']//bs)
    assert (plan['steps per epoch'], plan['epochs'], plan['steps']) == (steps, epochs, steps*epochs)
    assert plan['timed steps'] == min(10, steps*epochs - 1)
    assert plan['hours, estimated'] == pytest.approx(plan['seconds per step']*steps*epochs/3600)
    assert plan['device'] == 'cpu' and plan['memory, GB'] > .1 and 'this process' in plan['memory is the']
    assert plan['start'] == 'random' and plan['folder'] == 'free'
    assert 'estimates from' in plan_text(plan)


def test_a_run_after_its_plan_is_the_run_without(data, tmp_path):
    folder, _ = data
    args = SMALL | dict(epochs=1)
    plan = pretrain(folder, tmp_path/'a', **args, dry_run=True)
    one, two = (pretrain(folder, tmp_path/o, **args) for o in 'ab')
    assert (one/'model.safetensors').read_bytes() == (two/'model.safetensors').read_bytes()
    from refers_nb.models.hub import load_checkpoint
    model, tok = load_checkpoint(one)
    assert plan['vocabulary'] == len(tok)
    assert plan['parameters'] == sum(p.numel() for p in model.parameters())
    before = snapshot(tmp_path)
    again = pretrain(folder, tmp_path/'a', **args, dry_run=True)
    assert 'finished' in again['folder']
    with pytest.raises(InputError, match='epochs was 1, now 2'): pretrain(folder, tmp_path/'a', **args | dict(epochs=2), dry_run=True)
    assert snapshot(tmp_path) == before


def test_a_folder_that_somebody_writes_to(data, tmp_path):
    folder, _ = data
    for args in (dict(), dict(dry_run=True)):
        with file_lock(tmp_path/'.lock', 'taken'), pytest.raises(InputError, match='another process') as e: pretrain(folder, tmp_path, **SMALL, **args)
        assert str(tmp_path) in str(e.value)
    (tmp_path/'.lock').touch()                  # left behind by a process that was killed
    assert pretrain(folder, tmp_path, **SMALL, epochs=1, dry_run=True)['folder'] == 'free'
    assert (tmp_path/'.lock').exists()


@pytest.mark.parametrize('flags', [
    ['--size', 33], ['--bs', 1], ['--accum', 50, '--epochs', 1], ['--tau', 0], ['--preset', 'huge'], ['--seed', -1], ['--freeze', 99], ['--vocab', 0],
    ['--method', 'mae', '--tau', .1], ['--method', 'none']])
def test_bad_options_are_the_errors_of_the_run(call, data, tmp_path, flags):
    said = []
    for name, more in dict(run=[], plan=['--dry-run']).items():
        code, out, err = call('refers-pretrain', data[0], tmp_path/name, *FLAGS, *flags, *more)
        assert code == 1 and not out, (code, out)
        said.append([o for o in err.splitlines() if o.startswith('refers-pretrain')])
    assert said[0] == said[1] and len(said[1]) == 1
    assert not (tmp_path/'plan').exists()


def test_bad_places_are_the_errors_of_the_run(call, data, tmp_path):
    (tmp_path/'file').write_text('')
    for table, out in ((tmp_path/'nowhere', tmp_path/'o'), (data[0], tmp_path/'file'), (data[0], tmp_path/'file'/'o')):
        results = [call('refers-pretrain', table, out, *FLAGS, *more) for more in ([], ['--dry-run'])]
        assert [code for code, *_ in results] == [1, 1]
        assert results[0][2] == results[1][2]


def test_what_is_missing_is_said_and_the_rest_is_planned(call, data, tmp_path):
    code, out, err = call('refers-pretrain', data[0], tmp_path/'o', *FLAGS, '--start', tmp_path/'vit.pth', '--text', tmp_path/'bert',
                          '--freeze', 6, '--epochs', 1, '--dry-run')
    assert code == 0, err
    lines = {o[:22].strip(): o[22:].strip() for o in out.splitlines()}
    for name, word in {'start': 'vit.pth; not to be had', 'report encoder': 'bert; not to be had'}.items(): assert word in lines[name]
    assert int(lines['steps'].replace(',', '')) > 0 and not [*tmp_path.iterdir()]


@pytest.mark.parametrize('method', ['mae', 'simclr', 'matching'])
def test_other_methods_are_planned_too(data, tmp_path, method):
    folder, df = data
    args = {k: v for k, v in SMALL.items() if k != 'vocab'}
    plan = baseline(method, folder, tmp_path/'o', **args, epochs=2, dry_run=True)
    assert plan['training images'] == (df['split'] == 'train').sum()
    assert plan['steps'] == 2*plan['steps per epoch'] and not [*tmp_path.iterdir()]


def test_the_paper_on_images_alone(data, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr('refers_nb.training.baselines.plan_of', lambda args, *_: seen.append(args))
    pretrain_images(data[0], tmp_path/'o', 'context', preset='paper', start='random', bs=8, dry_run=True)
    args = seen[0]
    assert (args.preset, args.size, args.opt, args.wd, args.bs, args.vision_lr) == ('base', 224, 'paper', 1e-4, 8, 1.)
    assert args.epochs == paper_epochs(data[1][data[1]['split'] == 'train']['study'].nunique(), 8)


def test_the_help_tells_both(call):
    code, out, _ = call('refers-pretrain', '--help')
    out = ' '.join(out.split())
    assert code == 0 and '--dry-run' in out and 'paper: all of its values' in out and 'Bio_ClinicalBERT' in out
