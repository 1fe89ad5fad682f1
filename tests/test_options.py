"Options out of their range, whatever the command: one line, exit code 1 or 2, nothing written"
from functools import partial

import pandas as pd
import pytest

from refers_nb.core import InputError
from refers_nb.data.prepare import prepare, source_options, SOURCES, typed_options
from refers_nb.data.sources.phantom import phantom_studies
from refers_nb.data.studies import read_studies, split_patients, write_studies


@pytest.fixture(scope='module')
def call(call):
    "The same without progress"
    return partial(call, REFERS_NB_PROGRESS='0')


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp('options')/'data'
    prepare('phantom', 30, folder, size=32, workers=0, valid=.2, test=.2)
    return folder


def refused(call, out, word, *args):
    code, said, err = call(*args)
    assert code in (1, 2) and said == '', (code, said, err)
    last = err.strip().splitlines()
    assert 'Traceback' not in err and word in last[-1] and len(last[-1]) <= 1300, err
    if code == 1: assert len([o for o in last if 'warn' not in o.lower()]) == 1, err
    assert not out.exists() or not list(out.rglob('*.parquet')), 'something was written'


@pytest.mark.parametrize('options, word', [
    (['--size', 0], 'size is 0'), (['--size', -16], 'size is -16'), (['--size', 10**6], 'size is'), (['--size', 'x'], 'invalid int'),
    (['--max-rejected', -1], 'max_rejected is'), (['--max-rejected', 'nan'], 'max_rejected is nan'), (['--max-rejected', 2], 'max_rejected'),
    (['--workers', -1], 'workers = -1'), (['--workers', 'many'], 'workers = many'), (['--workers', 10**9], 'workers'),
    (['--copies', 'all'], 'copies'), (['--resize-mode', 'stretch'], 'resize_mode'), (['--options', 'valid=1.5'], 'valid'),
    (['--options', 'valid=-.1'], 'valid = -.1'), (['--options', 'valid=yes'], 'valid = yes'), (['--options', 'seed=1.5'], 'seed = 1.5'),
    (['--options', 'seed=-1'], 'seed = -1'), (['--options', 'test=nan'], 'test = nan'), (['--options', 'valid=.6,test=.6'], 'more than'),
    (['--options', 'seed=1,seed=2'], 'given twice'), (['--options', 'size=64'], "no option 'size'"), (['--options', 'n=3'], "no option 'n'"),
    (['--options', 'raw=x'], "no option 'raw'"), (['--options', 'kw=x'], "no option 'kw'"), (['--options', '=3'], 'name=value')])
def test_of_preparation(call, tmp_path, options, word):
    refused(call, tmp_path/'x', word, 'refers-prep', 'phantom', 12, tmp_path/'x', *options)

@pytest.mark.parametrize('n', [0, -5, 9, '1e3', 10**9, 10**15, 'nan', ''])
def test_of_numbers_of_phantoms(call, tmp_path, n):
    refused(call, tmp_path/'x', 'phantom', 'refers-prep', 'phantom', n, tmp_path/'x')

def test_options_of_a_source_are_converted_as_it_annotates_them(call, tmp_path):
    code, *_ = call('refers-prep', 'phantom', 20, tmp_path/'o', '--size', 16, '--options', 'valid=.3, test=0, seed=7')
    assert code == 0
    df = read_studies(tmp_path/'o')
    assert df['patient'].str.startswith('7-').all()
    assert df.drop_duplicates('patient')['split'].value_counts().to_dict() == dict(train=14, valid=6)
    assert typed_options('iu_xray', dict(guess_views='off')) == dict(guess_views=False)
    assert typed_options('folder', dict(labels='no')) == dict(labels='no')
    assert typed_options('vinbig', dict(rule='any', lists='yes')) == dict(rule='any', lists='yes')
    assert typed_options('phantom', dict(seed=3, valid='1e-1')) == dict(seed=3, valid=.1)
    with pytest.raises(InputError, match='guess_views = perhaps: expected yes or no'):
        typed_options('iu_xray', dict(guess_views='perhaps'))
    for source in SOURCES: assert not {'raw', 'out', 'n', 'size'} & source_options(source).keys()

@pytest.mark.parametrize('options, word', [
    (['--seed', 2**64], 'seed'), (['--seed', 2**63], 'seed'), (['--seed', -1], 'seed'), (['--vocab', -5], 'vocab is -5'),
    (['--vocab', 0], 'vocab is 0'), (['--vocab', 10**12], 'vocab is'), (['--device', 'cuda:999'], 'cuda:999'), (['--device', 'tpu'], 'device'),
    (['--device', ''], 'device'), (['--precision', 'fp8'], 'precision'), (['--lr', 'inf'], 'lr = inf'), (['--lr', 'nan'], 'lr = nan'),
    (['--lr', -1], 'lr = -1'), (['--wd', 'inf'], 'wd = inf'), (['--size', 33], 'take 32 or 48'), (['--size', 0], 'size = 0'),
    (['--size', 10**7], 'size'), (['--bs', 0], 'bs = 0'), (['--bs', 10**9], 'bs'), (['--epochs', 0], 'epochs = 0'), (['--epochs', -1], 'epochs'),
    (['--epochs', 10**400], 'epochs'), (['--accum', 0], 'accum'), (['--accum', 1000], 'take a smaller accum or bs'),
    (['--accum', 4, '--bs', 16], 'take a smaller accum or bs'), (['--warmup', 1.5], 'warmup'), (['--tau', 0], 'tau'), (['--tau', 'inf'], 'tau'),
    (['--lam', 2], 'lam'), (['--n-views', 0], 'n_views'), (['--n-views', 10**6], 'n_views'), (['--workers', -1], 'workers'),
    (['--freeze', -1], 'freeze'), (['--freeze', 99], 'freeze'), (['--opt', 'lion'], 'opt'), (['--preset', 'huge'], 'preset'),
    (['--method', 'x'], 'method'), (['--lr', 'fast'], 'invalid float')])
def test_of_pretraining(call, data, tmp_path, options, word):
    given = dict(zip(options[::2], options[1::2]))
    args = {'--start': 'random', '--size': 32, '--bs': 8, '--epochs': 1, '--device': 'cpu'} | given
    refused(call, tmp_path/'x', word, 'refers-pretrain', data, tmp_path/'x', *[o for pair in args.items() for o in pair])
    assert not (tmp_path/'x'/'checkpoint').exists()

@pytest.mark.parametrize('options, word', [
    (['--fractions', 0], 'fraction'), (['--fractions', 2], 'fractions'), (['--fractions', 'nan'], 'fractions'), (['--fractions', ''], 'fractions'),
    (['--fractions', '1,1'], 'given twice'), (['--seeds', ''], 'seeds'), (['--seeds', -1], 'seeds'), (['--seeds', 2**64], 'seeds'),
    (['--seeds', '0,0'], 'given twice'), (['--findings', 'effusion,edema,effusion'], 'effusion is given twice'), (['--size', 0], 'size is 0'),
    (['--size', 33], 'multiple of 16'), (['--size', -32], 'size is'), (['--steps', 0], 'steps'), (['--steps', 10**12], 'steps'), (['--bs', 0], 'bs'),
    (['--bs', 10**12], 'bs'), (['--lr', 'inf'], 'lr'), (['--lr', -1], 'lr'), (['--patience', 0], 'patience is 0'), (['--patience', -3], 'patience'),
    (['--layer-decay', 0.0], 'layer_decay'), (['--layer-decay', 'nan'], 'layer_decay'), (['--layer-decay', 1.5], 'layer_decay'),
    (['--jobs', 0], 'jobs is 0'), (['--jobs', 10**9], 'jobs'), (['--shard', '0/0'], 'shard'), (['--views', 'side'], 'views'),
    (['--device', 'cuda:999'], 'cuda:999'), (['--precision', 'int8'], 'precision')])
def test_of_finetuning(call, data, tmp_path, options, word):
    given = dict(zip(options[::2], options[1::2]))
    args = {'--fractions': '.5,1', '--seeds': '0', '--size': 32, '--bs': 8, '--steps': 2, '--device': 'cpu'} | given
    refused(call, tmp_path/'x', word, 'refers-finetune', data, 'random', tmp_path/'x', *[o for pair in args.items() for o in pair])

@pytest.mark.parametrize('options, word', [
    (['--studies', 0], 'studies is 0'), (['--studies', -5], 'studies'), (['--labelled', 3], 'labelled'), (['--epochs', 0], 'epochs'),
    (['--steps', -1], 'steps'), (['--seeds', 0], 'seeds is 0'), (['--seeds', 10**7], 'seeds'), (['--studies', 10**12], 'studies')])
def test_of_the_demo(call, tmp_path, options, word):
    refused(call, tmp_path/'x', word, 'refers-demo', '--out', tmp_path/'x', *options)
    assert not (tmp_path/'x').exists()

@pytest.mark.parametrize('options, word', [
    (['--beams', 0], 'beams is 0'), (['--beams', -1], 'beams'), (['--max-len', 0], 'max_len is 0'), (['--max-len', -5], 'max_len'),
    (['--no-repeat', -1], 'no_repeat'), (['--best-of', 0], 'best_of is 0'), (['--stored', 0], 'stored is 0'), (['--stored', 10**9], 'stored')])
def test_of_a_report(call, tmp_path, options, word):
    refused(call, tmp_path/'x', word, 'refers-report', tmp_path, tmp_path/'a.png', *options)

def test_a_long_argument_gives_a_short_line(call, data, tmp_path):
    for args in (('refers-prep', 'x'*100_000, 3, tmp_path/'x'), ('refers-finetune', data, 'random', tmp_path/'x', '--findings', 'y,'*60_000),
                 ('refers-prep', 'phantom', 12, tmp_path/'x', '--options', 'z=1,'*40_000), ('refers-evaluate', 'predictions', 'p'*90_000)):
        refused(call, tmp_path/'x', '', *args)

def test_phantoms_and_splits_as_functions(tmp_path):
    for args in (dict(valid=-1), dict(test=float('nan')), dict(valid=.7, test=.7), dict(seed=-1), dict(seed=1.5), dict(size=8),
                 dict(n=0), dict(n=10**9), dict(size=10**5)):
        with pytest.raises(InputError): phantom_studies(tmp_path/'png', **dict(n=12) | args)
    assert not (tmp_path/'png').exists()
    with pytest.raises(InputError, match='valid is'): split_patients(pd.DataFrame(dict(patient=list('abc'))), valid=2)


# A split that is not there

def without(data, folder, split):
    "The prepared folder without a split"
    import shutil
    shutil.copytree(data, folder)
    df = read_studies(folder)
    write_studies(df[df['split'] != split], folder, df.attrs['root'])
    return folder

@pytest.mark.parametrize('method', ['refers', 'matching', 'generation', 'labels', 'simclr', 'mae', 'context'])
@pytest.mark.parametrize('split', ['valid', 'train'])
def test_a_pretraining_without_a_split_says_so(call, data, tmp_path, method, split):
    folder = without(data, tmp_path/'data', split)
    refused(call, tmp_path/'x', f'split {split}' if split == 'valid' else 'no ', 'refers-pretrain', folder, tmp_path/'x', '--method', method,
            '--start', 'random', '--size', 32, '--bs', 4, '--epochs', 1, '--device', 'cpu')

@pytest.mark.parametrize('split', ['valid', 'train'])
def test_a_finetuning_without_a_split_says_so(call, data, tmp_path, split):
    folder = without(data, tmp_path/'data', split)
    refused(call, tmp_path/'x', f'no labelled image in split {split}', 'refers-finetune', folder, 'random', tmp_path/'x',
            '--size', 32, '--fractions', 1, '--seeds', 0, '--steps', 2)
    empty = tmp_path/'out'
    refused(call, empty, f'split {split}', 'refers-finetune', folder, 'random', empty, '--size', 32, '--fractions', '.5,1', '--seeds', 0)
