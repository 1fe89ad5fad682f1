"Studies asked in words: answers like those of Python, vectors that are kept, sheets, and bad input of both commands"
import json
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from refers_nb import ask
from refers_nb.ask import ask_studies, check_words, plain_name, read_words
from refers_nb.core import InputError
from refers_nb.data.sources.phantom import phantom_set
from refers_nb.data.store import ImageStore
from refers_nb.data.studies import read_studies, write_studies
from refers_nb.data.tokens import EncoderTokenizer, Tokenizer
from refers_nb.evaluation.search import SearchIndex
from refers_nb.evaluation.statistics import auroc_table
from refers_nb.evaluation.zeroshot import PROMPTS, WRAP, study_labels, zero_shot_scores
from refers_nb.models.hub import load_checkpoint, save_checkpoint
from refers_nb.models.refers import Refers, refers_config
from refers_nb.models.vision import VisionEncoder
from refers_nb.training.classifier import Classifier

EXACT = dict(device='cpu', precision='fp32')


@pytest.fixture(scope='module')
def call(call): return partial(call, REFERS_NB_PROGRESS='0', REFERS_NB_RUN_PRECISION='fp32')


@pytest.fixture(scope='module')
def place(tmp_path_factory):
    "Phantoms, a model that reads and has learnt nothing, one without a report encoder, and a classifier"
    folder = tmp_path_factory.mktemp('ask')
    df = phantom_set(folder/'data', 32, train=(30, 1), valid=(30, 2))
    torch.manual_seed(0)
    sentences = [o for p in PROMPTS.values() for o in [*p.present, *p.absent]]
    tok = Tokenizer.train([*df.report, *(text for o in sentences for text in (o, WRAP.absent.format(o)))]*2)
    config = refers_config('nano', vocab=len(tok), size=32, k=2)
    save_checkpoint(Refers(config), tok, folder/'refers')
    save_checkpoint(Refers(dict(config, text=None)), tok, folder/'mute')
    save_checkpoint(Refers(config), None, folder/'wordless')
    save_checkpoint(Classifier.on(VisionEncoder('test_vit', size=32), ['effusion']), None, folder/'classifier')
    return folder


@pytest.fixture
def table(place, tmp_path):
    "A copy of the prepared folder that a test may spoil"
    return shutil.copytree(place/'data', tmp_path/'data', ignore=shutil.ignore_patterns('search'))


# Answers

def test_search_says_what_the_index_says(place, tmp_path, call):
    words, absent = 'Left pleural effusion.', 'No pleural effusion.'
    code, out, err = call('refers-search', place/'refers', place/'data', words, '--absent', absent, '--n', 5,
                          '--out', tmp_path/'new'/'hits.png', '--cache', tmp_path/'cache')
    assert code == 0, err
    model, tok = load_checkpoint(place/'refers')
    df, store = read_studies(place/'data'), ImageStore(place/'data')
    wanted = SearchIndex.build(model, tok, df, store, precision='fp32').by_words(model, tok, words, absent, k=5)
    lines = out.splitlines()
    assert lines[0].split() == ['study', 'patient', 'path', 'score'] and len(lines) == 6
    assert [o.split()[0] for o in lines[1:]] == wanted.study.tolist()
    assert [o.split()[2] for o in lines[1:]] == wanted.path.tolist()
    np.testing.assert_allclose([float(o.split()[3]) for o in lines[1:]], wanted.score, atol=6e-4)
    with Image.open(tmp_path/'new'/'hits.png') as im: assert im.format == 'PNG' and min(im.size) > 100
    assert not (place/'data'/'search').exists()


def test_reports_are_told_only_when_asked_for_and_cut(place, tmp_path, call):
    df = read_studies(place/'data')
    args = 'refers-search', place/'refers', place/'data', 'Cardiomegaly.', '--n', 60, '--cache', tmp_path
    beginnings = {o[:40] for o in df.report if len(o) > 40}
    silent, told = call(*args)[1], call(*args, '--reports')[1]
    assert beginnings and not any(o in silent for o in beginnings)
    assert all(o in told for o in beginnings)
    asked = ask_studies(place/'refers', place/'data', cache=tmp_path, **EXACT)
    assert asked.find('Cardiomegaly.', n=60, reports=True).report.str.len().max() <= 120
    long = asked.df.assign(report='word ' * 100)
    asked.df = long
    assert asked.find('Cardiomegaly.', n=1, reports=True).report[0].endswith('...')


def test_zeroshot_writes_scores_areas_and_a_sheet(place, tmp_path, call):
    names = 'Cardiomegaly', 'left effusion', 'hernia'
    code, out, err = call('refers-zeroshot', place/'refers', place/'data', '--findings', ', '.join(names),
                          '--out', tmp_path/'scores.csv', '--cache', tmp_path/'cache')
    assert code == 0, err
    model, tok = load_checkpoint(place/'refers')
    df, store = read_studies(place/'data'), ImageStore(place/'data')
    wanted = zero_shot_scores(model, tok, df, store, list(names), precision='fp32')
    found = pd.read_csv(tmp_path/'scores.csv').set_index('study')
    assert list(found) == ['patient', 'split', 'path', *names] and 'report' not in found
    np.testing.assert_allclose(found[list(names)], wanted.loc[found.index], atol=1e-5)
    y = study_labels(df).loc[wanted.index, ['cardiomegaly', 'left effusion']]
    patients = df.drop_duplicates('study').set_index('study').patient.loc[wanted.index]
    areas = auroc_table(y, wanted[['Cardiomegaly', 'left effusion']].to_numpy(), patients)
    for name in y:
        line = next(o for o in out.splitlines() if o.lower().startswith(name))
        numbers = [float(o) for o in line.split()[-5:]]
        np.testing.assert_allclose(numbers, areas.loc[name], atol=6e-4)
    assert not any(o.startswith('hernia') for o in out.splitlines())
    assert '30 of 60 studies are of split train' in out
    with Image.open(tmp_path/'scores.png') as im: assert im.format == 'PNG' and min(im.size) > 200


def test_zeroshot_of_one_split_as_parquet_with_prompts_of_ones_own(place, tmp_path, call):
    (tmp_path/'own.json').write_text(json.dumps({'big heart': [['Cardiomegaly.'], ['No cardiomegaly.']]}))
    code, out, err = call('refers-zeroshot', place/'refers', place/'data', '--findings', 'big heart', '--prompts', tmp_path/'own.json',
                          '--split', 'valid', '--out', tmp_path/'s.parquet', '--sheet', tmp_path/'x.png', '--cache', tmp_path/'cache')
    assert code == 0 and out.strip() == 'no labels of these findings to measure with', err
    assert len(pd.read_parquet(tmp_path/'s.parquet')) == 30
    assert (tmp_path/'x.png').exists() and not (tmp_path/'s.png').exists()


def test_labels_are_the_findings_by_default(place, tmp_path, call):
    code, out, err = call('refers-zeroshot', place/'refers', place/'data', '--split', 'valid', '--cache', tmp_path)
    assert code == 0 and 'left effusion' in out and 'split train' not in out, err
    assert {o.suffix for o in tmp_path.iterdir()} == {''}


def test_the_sheet_has_highest_and_lowest(place, tmp_path):
    import matplotlib
    matplotlib.use('Agg')
    asked = ask_studies(place/'refers', place/'data', cache=tmp_path, **EXACT)
    scores = asked.scores(['cardiomegaly', 'hernia'])
    axs = asked.extremes(scores, 3)
    assert axs.shape == (2, 6)
    titles = [float(o.get_title().split()[0]) for o in axs[0]]
    ordered = scores.cardiomegaly.sort_values(ascending=False).to_numpy()
    np.testing.assert_allclose(titles, [*ordered[:3], *ordered[-3:]], atol=6e-3)
    assert all(o.get_title().endswith(('present', 'absent')) for o in axs[0])
    assert not any(o.get_title().endswith(('present', 'absent')) for o in axs[1])
    assert [o.texts[0].get_text() for o in axs[:, 0]] == ['cardiomegaly', 'hernia']
    assert asked.extremes(scores.head(1), 3).shape == (2, 2)


# What is kept

def count_builds(monkeypatch):
    "A list that grows with every index that is built"
    built = []
    build = SearchIndex.build
    def counted(*args, **kwargs):
        built.append(1)
        return build(*args, **kwargs)
    monkeypatch.setattr(ask.SearchIndex, 'build', counted)
    return built


def test_vectors_are_made_once_for_both_commands(place, table, call, monkeypatch):
    built = count_builds(monkeypatch)
    first = call('refers-search', place/'refers', table, 'Cardiomegaly.')
    again = call('refers-search', place/'refers', table, 'Cardiomegaly.')
    zero = call('refers-zeroshot', place/'refers', table, '--findings', 'effusion')
    assert first == again and first[0] == zero[0] == 0 and len(built) == 1
    assert len(list((table/'search').iterdir())) == 1
    call('refers-search', place/'refers', table, 'Cardiomegaly.', '--split', 'valid')
    assert len(built) == 2


def test_other_weights_tables_images_and_precisions_have_vectors_of_their_own(place, table, monkeypatch):
    built = count_builds(monkeypatch)
    def made(checkpoint=place/'refers', **more):
        before = len(built)
        ask_studies(checkpoint, table, **EXACT | more).index
        return len(built) > before
    assert made() and not made()
    assert made(precision='bf16')
    torch.manual_seed(1)
    model, tok = load_checkpoint(place/'refers')
    other = save_checkpoint(Refers(model.config), tok, table.parent/'other')
    assert made(other) and not made(other)
    df = read_studies(table)
    write_studies(df.iloc[:-1], table)
    assert made() and not made()
    index = pd.read_parquet(table/'index.parquet')
    index['mtime_ns'] += 1
    attrs = pd.read_parquet(table/'index.parquet').attrs
    index.attrs = attrs
    index.to_parquet(table/'index.parquet')
    assert made()


def test_a_damaged_index_is_made_again(place, table, monkeypatch):
    built = count_builds(monkeypatch)
    asked = ask_studies(place/'refers', table, **EXACT)
    wanted = asked.index.vectors
    file = next((table/'search').rglob('vectors.safetensors'))
    file.write_bytes(file.read_bytes()[:-8])
    again = ask_studies(place/'refers', table, **EXACT).index.vectors
    assert len(built) == 2 and (again == wanted).all()
    ask_studies(place/'refers', table, **EXACT).index
    assert len(built) == 2


def test_a_table_that_cannot_be_written_beside_is_searched_all_the_same(place, table, call):
    (table/'search').write_text('in the way')
    code, out, err = call('refers-search', place/'refers', table, 'Cardiomegaly.', '--n', 3)
    assert code == 0 and len(out.splitlines()) == 4 and 'vectors are not kept' in err
    refused(call('refers-search', place/'refers', table, 'Cardiomegaly.', '--cache', table/'search'), 'search')


# Words

def test_words_that_no_report_had(place):
    _, tok = load_checkpoint(place/'refers')
    assert read_words(tok, 'Cardiomegaly.') == {'Cardiomegaly': True}
    assert check_words(tok, 'Left pleural effusion.') == []
    assert check_words(tok, 'Left pleural effusion, qxzwvk') == ['qxzwvk']
    for text in ('qxzwvk', '心脏肥大', '...', ' ', '12 4', '🫁'):
        with pytest.raises(InputError, match='say it in others'): check_words(tok, text)


def test_words_of_a_report_encoder_with_its_own_vocabulary():
    from tokenizers import Tokenizer as HF, models, normalizers, pre_tokenizers
    vocab = {o: i for i, o in enumerate(['[PAD]', '[UNK]', 'effusion', 'car', '##dio', 'x', '##y'])}
    hf = HF(models.WordPiece(vocab, unk_token='[UNK]'))
    hf.normalizer, hf.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.BertPreTokenizer()
    hf.enable_padding()
    tok = Tokenizer.train(['effusion']*2)
    tok.encoder_tokenizer = EncoderTokenizer(hf)
    assert read_words(tok, 'Effusion cardio xy mass') == dict(Effusion=True, cardio=True, xy=False, mass=False)


@pytest.mark.parametrize('name', ['Pleural_Effusion', 'pleural effusion', ' PLEURAL  effusion'])
def test_spellings_of_a_finding(name): assert plain_name(name) == 'pleural effusion'


# Bad input

def refused(result, word):
    code, out, err = result
    assert code == 1 and out == '' and len(err.strip().splitlines()) == 1 and word in err and 'refers-' in err[:8], (code, out, err)


def test_bad_input_is_one_line(place, tmp_path, call):
    empty = tmp_path/'empty'
    shutil.copytree(place/'data', empty)
    read_studies(empty).iloc[:0].to_parquet(empty/'studies.parquet')
    alone = tmp_path/'alone'/'studies.parquet'
    alone.parent.mkdir()
    shutil.copy(place/'data'/'studies.parquet', alone)
    (tmp_path/'folder.png').mkdir()
    (tmp_path/'file').write_text('x')
    (tmp_path/'p.json').write_text('{"a": ["Yes.", "No."]}')
    good, data, cache = place/'refers', place/'data', ('--cache', tmp_path/'cache')
    both = [((tmp_path/'gone', data), 'no checkpoint'),
            ((place/'classifier', data), 'holds a Classifier, not a Refers'),
            ((place/'mute', data), 'has no report encoder'),
            ((place/'wordless', data), 'has no tokenizer'),
            ((good, tmp_path/'gone'), 'no such study table'),
            ((good, empty), 'no rows'),
            ((good, alone), 'no finished image store')]
    for args, word in both:
        refused(call('refers-search', *args, 'Cardiomegaly.', *cache), word)
        refused(call('refers-zeroshot', *args, '--findings', 'effusion', *cache), word)
    search = [(('qxzwvk',), 'none of its words'), (('',), 'it has no words'), (('Cardiomegaly.', '--absent', '??'), 'it has no words'),
              (('Cardiomegaly.', '--n', 0), 'n is 0'), (('Cardiomegaly.', '--split', 'all of them'), 'expected train'),
              (('Cardiomegaly.', '--split', 'test'), 'no study in split test'), (('Cardiomegaly.', '--device', 'abacus'), 'abacus'),
              (('Cardiomegaly.', '--out', tmp_path/'x.jpg'), 'ends in .png'), (('Cardiomegaly.', '--out', tmp_path/'folder.png'), 'is a folder'),
              (('Cardiomegaly.', '--out', tmp_path/'file'/'x.png'), 'cannot be written'), (('Cardiomegaly.', '--out', '/proc/none/x.png'), 'cannot be written'),
              (('Cardiomegaly.', '--out', '/proc/x.png'), 'cannot be written')]
    for args, word in search: refused(call('refers-search', good, data, *args, *cache), word)
    zero = [(('--findings', 'gout'), "no prompts for 'gout'"), (('--findings', 'effusion', '--out', tmp_path/'x.xlsx'), '.csv or .parquet'),
            (('--prompts', tmp_path/'p.json'), 'expected {"finding"'), (('--prompts', tmp_path/'gone.json'), 'gone.json'),
            (('--prompts', tmp_path/'file'), 'JSON'), (('--findings', 'effusion', '--n', 0), 'n is 0'),
            (('--findings', 'effusion', '--out', tmp_path/'x.csv', '--sheet', tmp_path/'x.csv'), 'ends in .png')]
    for args, word in zero: refused(call('refers-zeroshot', good, data, *args, *cache), word)
    assert not (tmp_path/'cache').exists() and not list(tmp_path.glob('x.*')), 'something was made for a question that cannot be asked'


def test_a_table_without_labels_wants_findings(place, table, call):
    df = read_studies(table)
    write_studies(df[[o for o in df if not o.startswith('label:')]], table)
    refused(call('refers-zeroshot', place/'refers', table), 'name the findings')


def test_images_that_are_missing_or_broken(place, table, call):
    df = read_studies(table)
    write_studies(df.assign(path=['gone.png', *df.path[1:]]), table)
    refused(call('refers-search', place/'refers', table, 'Cardiomegaly.'), 'gone.png is not in the image store')
    write_studies(df, table)
    images = table/'images.npy'
    images.write_bytes(images.read_bytes()[:5000])
    refused(call('refers-search', place/'refers', table, 'Cardiomegaly.'), 'images.npy')
    refused(call('refers-zeroshot', place/'refers', table), 'images.npy')


@pytest.mark.parametrize('command', ['refers-export', 'refers-search', 'refers-zeroshot'])
def test_help_is_complete(call, command):
    import inspect
    from fastcore.docments import docments
    from refers_nb import terminal
    code, out, err = call(command, '--help')
    assert code == 0 and out.startswith(f'usage: {command}') and not err
    function = getattr(terminal, command.replace('-', '_'))
    docs = docments(function)
    for p in inspect.signature(function).parameters: assert docs[p], f'{command}: {p} is not explained'
