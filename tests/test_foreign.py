"Files of others: nothing runs, waits, asks the network or fills the memory, and what is wrong is named"
import base64
import json
import os
import shutil
import socket
import subprocess
import sys
import threading

import pytest
import torch
from safetensors.torch import load_file, save_file

from refers_nb.core import atomic, InputError
from refers_nb.data.tokens import Tokenizer
from refers_nb.foreign import check_file, hub_silence, tensor_table
from refers_nb.models.formats import from_released, save_hf, save_timm
from refers_nb.models.hub import copy_to_share, load_checkpoint, load_encoder, save_checkpoint
from refers_nb.models.modelcard import redact_text
from refers_nb.models.refers import refers_model
from refers_nb.models.textenc import ReportEncoder
from refers_nb.models.vision import read_weights, vision_encoder, VisionEncoder
from refers_nb.training.starts import encoder_from, is_checkpoint


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    "Whoever asks the network fails the test"
    def connect(*args, **kwargs): raise AssertionError('the network was asked')
    monkeypatch.setattr(socket, 'getaddrinfo', connect)


@pytest.fixture(scope='module')
def saved(tmp_path_factory):
    "A checkpoint of a tiny model, and its weights"
    tok = Tokenizer.train(['clear lungs', 'mild edema, small left effusion']*2)
    torch.manual_seed(0)
    folder = save_checkpoint(refers_model('nano', vocab=len(tok), size=32, k=1), tok, tmp_path_factory.mktemp('foreign')/'a')
    return folder, load_file(folder/'model.safetensors')


@pytest.fixture
def copy(saved, tmp_path):
    "A copy of it to spoil"
    return shutil.copytree(saved[0], tmp_path/'copy')


def edit(path, change):
    "Change what a file of JSON says"
    told = json.loads(path.read_text())
    change(told)
    path.write_text(json.dumps(told))


# What a configuration may say

CONFIGS = {
    'hf-hub': lambda c: c['vision'].update(name='hf-hub:owner/encoder'),
    'local-dir': lambda c: c['vision'].update(name='local-dir:/srv/encoder'),
    'timm_wrapper': lambda c: c['text'].update(hf=dict(model_type='timm_wrapper', architecture='vit')),
    'kernels': lambda c: c['text'].update(hf=dict(model_type='bert', attn_implementation='owner/kernels')),
    'auto_map': lambda c: c['text'].update(hf=dict(model_type='bert', auto_map=dict(AutoModel='m.M'))),
    'a name': lambda c: c.update(text=dict(name='owner/encoder', pool='cls')),
    'backbone': lambda c: c['text'].update(hf=dict(model_type='distilbert', backbone='resnet50')),
    'negative': lambda c: c['decoder'].update(width=-192),
    'float': lambda c: c.update(vocab=300.5),
    'truth': lambda c: c['vision'].update(in_chans=True),
    'null': lambda c: c.update(max_len=None),
    'list': lambda c: c.update(vision=[]),
    'nan': lambda c: c['decoder'].update(dropout=float('nan')),
    'heads': lambda c: c['decoder'].update(heads=7),
    'views': lambda c: c.update(k=10**7),
    'layers': lambda c: c['text'].update(depth=50_000),
    'padding': lambda c: c.update(pad_id=10**5),
    'unknown': lambda c: c.update(plugins=['a.b']),
}


@pytest.mark.parametrize('change', CONFIGS.values(), ids=CONFIGS)
def test_a_configuration_says_numbers_within_limits(copy, change):
    edit(copy/'config.json', lambda c: change(c['architecture']))
    with pytest.raises(InputError, match='that this version can build') as e: load_checkpoint(copy)
    assert '\n' not in str(e.value) and len(str(e.value)) < 500


TOLD = {
    'format': lambda c: c.update(format='1'),
    'no format': lambda c: c.pop('format'),
    'tokenizer': lambda c: c.update(tokenizer=dict(vocabulary='300')),
    'training': lambda c: c.update(training='yes'),
    'stored': lambda c: c.update(training=dict(data=dict(stored=0))),
    'resize_mode': lambda c: c.update(training=dict(data=dict(resize_mode='stretch'))),
    'x': lambda c: c.update({'x'*10**6: 1}),
    'task': lambda c: c.update(training=dict(task=['mae'])),
}


@pytest.mark.parametrize('name', TOLD)
def test_what_is_told_of_a_checkpoint_has_a_type(copy, name):
    edit(copy/'config.json', TOLD[name])
    with pytest.raises(InputError, match='config.json: ') as e: load_encoder(copy)
    assert name.split()[-1] in str(e.value) and len(str(e.value)) < 500


@pytest.mark.parametrize('path,value', [
    (('vocab',), 2_000_000), (('max_len',), 30_000), (('vision', 'size'), 4096), (('decoder', 'ff'), 30_000),
    (('decoder', 'depth'), 60), (('vision', 'name'), 'vit_giant_patch14_224')])
def test_a_model_larger_than_its_file_is_never_made(copy, path, value, monkeypatch):
    "The shapes are compared on the device `meta`, before a number is drawn"
    def change(c):
        for name in path[:-1]: c = c[name]
        c[path[-1]] = value
    edit(copy/'config.json', lambda c: change(c['architecture']))
    made = []
    plain = torch.nn.Module.__init__
    def init(self, *args, **kwargs):
        made.append(torch.empty(1).device.type)
        plain(self, *args, **kwargs)
    monkeypatch.setattr(torch.nn.Module, '__init__', init)
    with pytest.raises(InputError, match='another architecture|must be a multiple of 14'): load_checkpoint(copy)
    assert set(made) == {'meta'}


def test_a_report_encoder_of_a_folder_runs_no_code(tmp_path):
    (tmp_path/'theirs.py').write_text(f'open({str(tmp_path/"executed")!r}, "w")')
    auto_map = dict(AutoConfig='theirs.C', AutoModel='theirs.M')
    for kind in ('bert', 'theirs', 'gpt2', None):
        (tmp_path/'config.json').write_text(json.dumps(dict(model_type=kind, auto_map=auto_map, vocab_size=300)))
        with pytest.raises(InputError, match='No report encoder'): ReportEncoder(out=8, name=tmp_path)
    assert not (tmp_path/'executed').exists()


# What a file is

def as_pipe(path): os.mkfifo(path)
def as_zeros(path): path.symlink_to('/dev/zero')
def as_nothing(path): path.symlink_to(path.parent/'nowhere')
def as_circle(path): path.symlink_to(path)
def as_folder(path): path.mkdir()
def as_terabyte(path):
    with path.open('wb') as f: f.truncate(2**40)
def as_socket(path):
    here = os.getcwd()
    os.chdir(path.parent)                      # the name of a socket may have 107 characters
    try: socket.socket(socket.AF_UNIX).bind(path.name)
    finally: os.chdir(here)

KINDS = as_pipe, as_zeros, as_nothing, as_circle, as_folder, as_terabyte, as_socket


@pytest.mark.parametrize('name', ['config.json', 'tokenizer.json', 'model.safetensors'])
@pytest.mark.parametrize('become', KINDS)
def test_what_is_no_plain_file_of_its_size_is_not_opened(copy, become, name):
    (copy/name).unlink()
    become(copy/name)
    with pytest.raises(InputError, match=name): load_checkpoint(copy)
    if name != 'tokenizer.json':
        with pytest.raises(InputError): encoder_from(copy)


@pytest.mark.parametrize('name', ['w.safetensors', 'w.pth', 'w.npz', 'tokenizer.json'])
@pytest.mark.parametrize('become', KINDS)
def test_nor_are_single_files(tmp_path, become, name):
    become(tmp_path/name)
    with pytest.raises(InputError):
        if name == 'tokenizer.json': Tokenizer.load(tmp_path/name)
        else: vision_encoder('test_vit', 32, tmp_path/name)


@pytest.mark.parametrize('name', ['config.json', 'tokenizer.json', 'model.safetensors'])
def test_what_may_not_be_read_is_not_missing(copy, name, monkeypatch):
    allowed = os.access
    monkeypatch.setattr(os, 'access', lambda path, mode: not str(path).endswith(name) and allowed(path, mode))
    with pytest.raises(InputError, match=f'{name} may not be read'): load_checkpoint(copy)
    with pytest.raises(InputError, match='may not be read'): check_file(copy/name)


@pytest.mark.skipif(os.geteuid() == 0, reason='the superuser may read everything')
def test_a_closed_folder_is_told_as_that(copy):
    copy.chmod(0)
    try:
        with pytest.raises(InputError, match='may not be read'): load_checkpoint(copy)
    finally: copy.chmod(0o755)


# What the numbers are

VALUES = {
    'NaN in one': lambda k, v: v*torch.nan if k == 'decoder.positions.weight' else v,
    'infinite': lambda k, v: v - torch.inf if k.endswith('norm1.bias') else v,
    'one NaN': lambda k, v: v.index_fill(0, torch.tensor([3]), torch.nan) if k == 'decoder.bias' else v,
    'whole': lambda k, v: (v*1000).short() if k == 'fusion.query.weight' else v,
    'truths': lambda k, v: v > 0,
    'eight bits': lambda k, v: v.to(torch.float8_e5m2),
    'far away': lambda k, v: v*1e12,
}


@pytest.mark.parametrize('spoil', VALUES.values(), ids=VALUES)
def test_numbers_of_no_model_are_named(saved, copy, spoil):
    save_file({k: spoil(k, v) for k, v in saved[1].items()}, copy/'model.safetensors')
    for read in (load_checkpoint, encoder_from):
        if read is encoder_from and spoil is VALUES['whole']: continue       # it is not in the encoder
        with pytest.raises(InputError, match='no floating point in|is not finite|reaches'): read(copy)


@pytest.mark.parametrize('kind', ['float64', 'bfloat16', 'float16'])
def test_other_precisions_open(saved, copy, kind):
    save_file({k: v.to(getattr(torch, kind)) for k, v in saved[1].items()}, copy/'model.safetensors')
    assert load_checkpoint(copy)[0].decoder.bias.dtype == torch.float32


@pytest.mark.parametrize('was,called', [('F16', 'BF16'), ('BF16', 'F16'), ('F16', 'I16'), ('F32', 'U32')])
def test_a_kind_that_is_only_called_so_is_refused(saved, copy, was, called):
    kinds = dict(F16=torch.float16, BF16=torch.bfloat16, F32=torch.float32)
    weights = copy/'model.safetensors'
    save_file({k: v.to(kinds[was]) for k, v in saved[1].items()}, weights)
    whole = weights.read_bytes()
    n = int.from_bytes(whole[:8], 'little')
    header = whole[8:8 + n].replace(f'"{was}"'.encode(), f'"{called}"'.encode())
    weights.write_bytes(len(header).to_bytes(8, 'little') + header + whole[8 + n:])
    with pytest.raises(InputError, match='another 16-bit kind|no floating point'): load_checkpoint(copy)


def header_of(entries, size):
    "A file of safetensors with this table"
    text = json.dumps(entries) if isinstance(entries, dict) else entries
    return len(text).to_bytes(8, 'little') + text.encode() + bytes(size)

def entry(a, b): return dict(dtype='F32', shape=[(b - a)//4], data_offsets=[a, b])

@pytest.mark.parametrize('content', [
    header_of(dict(a=entry(0, 40), b=entry(20, 60)), 60), header_of(dict(a=entry(0, 40), b=entry(44, 84)), 84),
    header_of('{"a": %s, "a": %s}' % ((json.dumps(entry(0, 40)),)*2), 40), header_of(dict(a=entry(0, 4000)), 40),
    header_of(dict(a=dict(dtype='F32', shape=[2**40, 2**40], data_offsets=[0, 40])), 40),
    (2**60).to_bytes(8, 'little') + b'{}', b'', b'\x80', header_of('{', 0), header_of('[]', 0)])
def test_a_table_that_lies_is_refused(tmp_path, content):
    path = tmp_path/'w.safetensors'
    path.write_bytes(content)
    for read in (tensor_table, read_weights):
        with pytest.raises(InputError, match='cannot be read'): read(path)


@pytest.mark.parametrize('state', [
    {'w': torch.zeros(1).expand(10**5, 10**5)}, {'w': torch.zeros(3).to_sparse()}, {'w': torch.zeros(2, device='meta')},
    {1: torch.zeros(2)}, [torch.zeros(2)], {'w': torch.full((2,), torch.inf)}])
def test_a_file_of_pytorch_holds_plain_tensors(tmp_path, state):
    torch.save(state, tmp_path/'w.pth')
    with pytest.raises(InputError, match='w.pth'): read_weights(tmp_path/'w.pth')


def test_a_released_file_with_one_layer_far_away_is_refused():
    vit = 'visual.vit.transformer.'
    state = {f'{vit}embeddings.patch_embeddings.weight': torch.zeros(192, 3, 16, 16),
             f'{vit}embeddings.position_embeddings': torch.zeros(1, 17, 192),
             'textual.embedding.words.weight': torch.zeros(50, 64),
             'textual.embedding.positions.weight': torch.zeros(20, 64),
             'textual.visual_projection.weight': torch.zeros(64, 192), 'fusion.fc1.weight': torch.zeros(1, 576),
             'textual.transformer.layers.0.linear1.weight': torch.zeros(64, 64),
             'textual.transformer.layers.9999.linear1.weight': torch.zeros(64, 64)}
    with pytest.raises(InputError, match='missing textual.transformer.layers.1'): from_released(state)


# Tokenizers

def chain(*parts): return dict(type='Sequence', normalizers=list(parts))

TOKENIZERS = {
    'growth': lambda t: t.update(normalizer=chain(*[dict(type='Replace', pattern=dict(String='a'), content='aa')]*16)),
    'regex': lambda t: t.update(normalizer=chain(dict(type='Replace', pattern=dict(Regex='(a|aa)+$'), content='')),),
    'prepend': lambda t: t.update(normalizer=dict(type='Prepend', prepend='y'*10**4)),
    'decoder': lambda t: t.update(decoder=dict(type='Sequence', decoders=[dict(type='Fuse')])),
    'split': lambda t: t.update(pre_tokenizer=dict(type='Split', pattern=dict(Regex='.'), behavior='Isolated', invert=False)),
    'fixed': lambda t: t.update(padding=dict(strategy=dict(Fixed=10**8), direction='Left', pad_to_multiple_of=None,
                                             pad_id=0, pad_type_id=0, pad_token='[PAD]')),
    'multiple': lambda t: t.update(padding=dict(strategy='BatchLongest', direction='Left', pad_to_multiple_of=10**8,
                                                pad_id=0, pad_type_id=0, pad_token='[PAD]')),
    'length': lambda t: t['truncation'].update(max_length=10**7),
    'short': lambda t: t['truncation'].update(max_length=3),
    'number': lambda t: t['model']['vocab'].update({[*t['model']['vocab']][9]: 70_000}),
    'truth': lambda t: t['model']['vocab'].update({[*t['model']['vocab']][9]: True}),
    'around': lambda t: t['post_processor']['special_tokens']['[EOS]'].update(ids=[7]),
    'piece': lambda t: t['model']['vocab'].update({'z'*10**5: len(t['model']['vocab'])}),
    'chance': lambda t: t['model'].update(dropout=.1),
    'prefix': lambda t: t['model'].update(continuing_subword_prefix='@@@@@'),
    'table': lambda t: t.update(normalizer=dict(type='Precompiled', precompiled_charsmap=base64.b64encode(
        b'\4\0\0\0\0\4\0\0' + b'abc\0').decode())),
    'no table': lambda t: t.update(normalizer=dict(type='Precompiled', precompiled_charsmap='')),
    'part': lambda t: t.update(normalizer=7),
    'vocabulary': lambda t: t['model'].update(vocab=[1, 2, 3]),
}


@pytest.mark.parametrize('change', TOKENIZERS.values(), ids=TOKENIZERS)
def test_a_tokenizer_does_nothing_but_tokenize(copy, change, capfd):
    edit(copy/'tokenizer.json', change)
    with pytest.raises(InputError, match='tokenizer.json') as e: load_checkpoint(copy)
    assert '\n' not in str(e.value) and len(str(e.value)) < 500
    assert 'panicked' not in capfd.readouterr().err


def test_a_name_of_few_patients_is_no_piece():
    "In any case, with a sign before it, and only where few have it; what is common stays as it was"
    texts, patients = [], []
    for i in range(60):
        name = 'Dr. Ypsilanti-Köhler' if i % 10 == 0 else 'dr. everyman'
        texts += [f'No acute disease. {name}, signed by {name.upper()}', f'(no edema) {name}']
        patients += [f'p{i//20 if i % 10 == 0 else i}']*2
    pieces = ' '.join(Tokenizer.train(texts, patients=patients).hf.get_vocab())
    assert 'everyman' in pieces and 'acute' in pieces
    assert not any(o in pieces for o in ('ypsil', 'lanti', 'kohl', 'ohler'))
    assert 'kohler' in ' '.join(Tokenizer.train(texts, patients=patients, least=3).hf.get_vocab())
    every = Tokenizer.train(texts)
    assert Tokenizer.train(texts, patients=patients, least=1).hf.to_str() == every.hf.to_str()
    assert every('(no edema) dr.').tolist() == Tokenizer.train(texts, patients=patients, least=3)('(no edema) dr.').tolist()


# What is written

def mode(path): return path.stat().st_mode & 0o777


@pytest.mark.parametrize('mask', [0o022, 0o027, 0o002])
def test_files_may_be_read_as_the_umask_says(tmp_path, mask):
    tok = Tokenizer.train(['clear'])
    model = refers_model('nano', vocab=len(tok), size=32, k=1)
    was = os.umask(mask)
    try:
        folder = save_checkpoint(model, tok, tmp_path/'c')
        save_hf(model.vision, tmp_path/'hf')
        save_timm(model.vision, tmp_path/'timm')
        with atomic(tmp_path/'any') as p: save_file({'a': torch.zeros(1)}, p)
    finally: os.umask(was)
    files = [*folder.iterdir(), *(tmp_path/'hf').iterdir(), *(tmp_path/'timm').iterdir(), tmp_path/'any']
    assert {mode(o) for o in files} == {0o666 & ~mask}
    assert {mode(tmp_path/o) for o in ('c', 'hf', 'timm')} == {0o777 & ~mask}


@pytest.mark.parametrize('text,shared', [
    ('see /data/mimic/files/p10/a.jpg.', 'see a.jpg.'), ('~/runs/x/checkpoint and PA/AP', 'checkpoint and PA/AP'),
    (r'C:\Users\me\vit.pth', 'vit.pth'), ('https://arxiv.org/abs/2111.03452', 'https://arxiv.org/abs/2111.03452'),
    ('and/or, 1/2, 100 %', 'and/or, 1/2, 100 %'), (f'on {socket.gethostname()}x', f'on {socket.gethostname()}x')])
def test_text_to_share_holds_no_places(text, shared):
    assert redact_text(text) == shared


def test_what_is_shared_says_nothing_of_the_machine(copy, tmp_path):
    host = socket.gethostname()
    edit(copy/'config.json', lambda c: c['training'].update(table='/srv/hospital/prep', text=dict(name='/models/our bert')))
    with (copy/'README.md').open('a') as f: f.write(f'Trained on {host} from /srv/hospital/prep.\n')
    out = tmp_path/'out'
    out.mkdir()
    copy_to_share(copy, out)
    told = json.loads((out/'config.json').read_text())['training']
    assert told['table'] == 'prep' and told['text']['name'] == 'our bert'
    assert '/srv' not in (out/'README.md').read_text()
    if len(host) >= 4 and host != 'localhost': assert host not in (out/'README.md').read_text()
    assert load_checkpoint(out)[1] is not None


# A network that is not there

FETCH = '''
import sys
from refers_nb.core import InputError
from refers_nb.data.tokens import EncoderTokenizer
from refers_nb.models.textenc import ReportEncoder
from refers_nb.models.vision import fetch_timm
calls = [lambda: fetch_timm('vit_tiny_patch16_224.augreg_in21k_ft_in1k'), lambda: ReportEncoder(out=3, name='owner/encoder'),
         lambda: EncoderTokenizer.of('owner/encoder')]
for i in map(int, sys.argv[1:]):
    try: calls[i]()
    except InputError as e: print(e)
'''


@pytest.mark.parametrize('calls', ['0', pytest.param('12', marks=pytest.mark.slow)])
def test_a_hub_that_does_not_answer_is_asked_once(tmp_path, calls):
    asked = []
    with socket.socket() as server:
        server.bind(('127.0.0.1', 0))
        server.listen()
        def hang_up():
            while True:
                try: connection, _ = server.accept()
                except OSError: return
                asked.append(1)
                connection.close()
        threading.Thread(target=hang_up, daemon=True).start()
        env = os.environ | dict(HF_ENDPOINT=f'http://127.0.0.1:{server.getsockname()[1]}', HF_HOME=str(tmp_path))
        for name in ('HF_HUB_OFFLINE', 'TRANSFORMERS_OFFLINE'): env.pop(name, None)
        p = subprocess.run([sys.executable, '-W', 'ignore', '-c', FETCH, *calls], capture_output=True, text=True, env=env)
    assert p.returncode == 0 and [o[:3] for o in p.stdout.splitlines()] == ['No ']*len(calls), p.stderr
    assert len(calls) <= len(asked) <= 2*len(calls)     # a connection that breaks is tried again by the client, a question is not


def test_a_hub_is_not_asked_for_a_folder(tmp_path):
    "The fixture forbids the network: a folder that lacks its weights is told by itself"
    (tmp_path/'config.json').write_text(json.dumps(dict(model_type='bert', vocab_size=50, hidden_size=24)))
    with pytest.raises(InputError, match='No report encoder'): ReportEncoder(out=3, name=str(tmp_path))
    assert not is_checkpoint(tmp_path) and hub_silence('not a name')


@pytest.mark.parametrize('name', ['hf-hub:owner/vit', 'local-dir:x', '../vit', 'vit_tiny_patch16_224.a.b', '', None, 7])
def test_an_architecture_is_a_name_of_timm(name):
    with pytest.raises(InputError, match='no such architecture'): VisionEncoder(name)
