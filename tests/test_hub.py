"Checkpoints: nothing but a whole one of the right kind is read, and writing survives a kill"
import copy as copying, http.server, inspect, json, os, pickle, shutil, signal, subprocess, sys, threading, time

import pytest, torch
from huggingface_hub import ModelHubMixin, PyTorchModelHubMixin
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import BertConfig, BertModel

from hub_server import COMMIT, Hub
from refers_nb.core import InputError
from refers_nb.data.tokens import EncoderTokenizer, Tokenizer
from refers_nb.models.hub import (
    checkpoint_config, copy_to_share, from_pretrained, load_checkpoint, refuse_pickle, save_checkpoint)
from refers_nb.models.refers import Refers, refers_config, refers_model
from refers_nb.models.vision import VisionEncoder
from refers_nb.training.classifier import Classifier

REPORTS = ['no acute disease', 'small left pleural effusion']*2


@pytest.fixture(scope='module')
def saved(tmp_path_factory):
    "A checkpoint of a tiny model: (folder, model, tokenizer)"
    tok = Tokenizer.train(REPORTS)
    torch.manual_seed(0)
    model = refers_model('nano', vocab=len(tok), size=32, k=2).eval()
    return save_checkpoint(model, tok, tmp_path_factory.mktemp('hub')/'a'), model, tok


@pytest.fixture
def copy(saved, tmp_path):
    "A copy of it to spoil"
    return shutil.copytree(saved[0], tmp_path/'copy')


def edit(folder, **changes):
    "Change values of config.json; a name with two underscores is a path"
    config = json.loads((folder/'config.json').read_text())
    for path, value in changes.items():
        *parents, last = path.split('__')
        part = config
        for name in parents: part = part[name]
        part[last] = value
    (folder/'config.json').write_text(json.dumps(config))


# Whole, and to the bit

def test_round_trip_is_exact(saved):
    folder, model, tok = saved
    back, tok2 = load_checkpoint(folder)
    assert not back.training and back.config == model.config
    for (name, a), b in zip(model.state_dict().items(), back.state_dict().values()):
        assert torch.equal(a, b), name
    assert tok2('left effusion').tolist() == tok('left effusion').tolist()
    assert tok2.max_len == tok.max_len
    assert '{' not in (folder/'README.md').read_text().split('## Architecture')[0]


def test_saving_twice_gives_the_same_bytes(saved, tmp_path):
    folder, model, tok = saved
    again = save_checkpoint(model, tok, tmp_path/'b')
    for path in folder.iterdir(): assert path.read_bytes() == (again/path.name).read_bytes(), path.name


# What does not fit is named

def test_every_wrong_key_is_named(copy):
    weights = copy/'model.safetensors'
    state = load_file(weights)
    state['fusion.extra'] = torch.zeros(2)
    state['fusion.norm.bias'] = torch.zeros(7)
    del state['text.proj.bias']
    save_file(state, weights)
    with pytest.raises(InputError) as e: load_checkpoint(copy)
    for words in ('missing text.proj.bias', 'unexpected fusion.extra', 'fusion.norm.bias (7,) instead of'):
        assert words in str(e.value)


@pytest.mark.parametrize('changes,word', [
    ({'architecture__vision__size': 64}, 'pos_embed'),
    ({'architecture__vision__name': 'vit_small_patch16_224'}, 'another architecture'),
    ({'architecture__vision__name': 'resnet18'}, 'resnet18'),
    ({'architecture__fusion': 'gate'}, 'missing fusion.gate'),
    ({'architecture__fusion': 'sum'}, 'fusion'),
    ({'architecture__decoder__colour': 1}, 'colour'),
    ({'architecture': {}}, 'describes no Refers'),
    ({'architecture': 'vit_tiny_patch16_224'}, 'not of refers_nb'),
    ({'class': 'Classifier'}, 'holds a Classifier'),
    ({'tokenizer__vocabulary': 3}, 'tokens'),
])
def test_another_architecture_is_named(copy, changes, word):
    edit(copy, **changes)
    with pytest.raises(InputError, match=word): load_checkpoint(copy)


@pytest.mark.parametrize('name', ['model.safetensors', 'config.json', 'tokenizer.json'])
@pytest.mark.parametrize('how', ['gone', 'empty', 'cut', 'noise'])
def test_damaged_files(copy, name, how):
    path = copy/name
    whole = path.read_bytes()
    damaged = dict(empty=b'', cut=whole[:len(whole)//2], noise=os.urandom(len(whole)))
    if how == 'gone': path.unlink()
    else: path.write_bytes(damaged[how])
    with pytest.raises(InputError, match=name): load_checkpoint(copy)


# Nothing is executed

class Trap:
    def __init__(self, path): self.path = path
    def __reduce__(self): return open, (str(self.path), 'w')


@pytest.mark.parametrize('name', ['a.pt', 'a.pth', 'a.bin', 'a.ckpt', 'a.pkl', 'noextension', 'folder.safetensors'])
def test_a_pickle_is_refused_and_not_run(tmp_path, name):
    path = tmp_path/name
    mark = tmp_path/'executed'
    torch.save({'w': Trap(mark)}, path)
    for read in (load_checkpoint, checkpoint_config, refuse_pickle):
        with pytest.raises(InputError, match='pickle'): read(path)
    path.write_bytes(pickle.dumps(Trap(mark)))
    with pytest.raises(InputError): load_checkpoint(path)
    assert not mark.exists()


def test_a_pickle_in_the_place_of_the_weights(copy, tmp_path):
    mark = tmp_path/'executed'
    torch.save({'w': Trap(mark)}, copy/'model.safetensors')
    with pytest.raises(InputError, match='safetensors'): load_checkpoint(copy)
    (copy/'model.safetensors').rename(copy/'pytorch_model.bin')
    with pytest.raises(InputError, match='pytorch_model.bin, a pickle'): load_checkpoint(copy)
    assert not mark.exists()


# Report encoders that came by name

def test_a_checkpoint_of_a_named_report_encoder_opens_without_it(tmp_path):
    config = BertConfig(vocab_size=40, hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
                        intermediate_size=64)
    BertModel(config).save_pretrained(tmp_path/'bert')
    text = dict(name=str(tmp_path/'bert'), pool='cls')
    model = refers_model('nano', vocab=40, size=32, k=2, text=text).eval()
    save_checkpoint(model, None, tmp_path/'c')
    shutil.rmtree(tmp_path/'bert')
    back, _ = load_checkpoint(tmp_path/'c')
    report = torch.randint(4, 40, (3, 9))
    with torch.no_grad(): assert torch.equal(back.text(report), model.text(report))
    assert str(tmp_path) not in (tmp_path/'c/config.json').read_text()


def test_the_vocabulary_of_a_report_encoder_is_part_of_a_checkpoint(saved, tmp_path):
    "Missing it is an error; one that lies there by accident is not read; the card keeps the terms of the data"
    tok = Tokenizer.train(REPORTS)
    hf = type(tok.hf).from_str(tok.hf.to_str())
    hf.enable_padding(pad_id=0, pad_token='[PAD]')
    tok.encoder_tokenizer = EncoderTokenizer(hf)
    training = dict(data=dict(source='folder', terms='mine alone'))
    folder = save_checkpoint(saved[1], tok, tmp_path/'c', training)
    own = load_checkpoint(folder)[1].encoder_tokenizer
    assert own('left effusion').tolist() == tok('left effusion').tolist()
    assert training['data']['terms'] == 'mine alone' and 'mine alone' in (folder/'README.md').read_text()
    shutil.move(folder/'words.json', tmp_path/'words.json')
    with pytest.raises(InputError, match='no words.json'): load_checkpoint(folder)
    plain = shutil.copytree(saved[0], tmp_path/'plain')
    shutil.copy(tmp_path/'words.json', plain)
    assert load_checkpoint(plain)[1].encoder_tokenizer is None


# Writing: whole or not at all

def test_a_folder_with_other_files_is_not_replaced(saved, tmp_path):
    (tmp_path/'notes.txt').write_text('mine')
    with pytest.raises(InputError, match='notes.txt'): save_checkpoint(*saved[1:], tmp_path)
    assert (tmp_path/'notes.txt').read_text() == 'mine'


class Toy(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        self.w = nn.Parameter(torch.full((300_000,), float(config['i'])))


SAVER = '''
import sys, torch
from pathlib import Path
from torch import nn
from refers_nb.models.hub import save_checkpoint

class Toy(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        self.w = nn.Parameter(torch.full((300_000,), float(config['i'])))

i = 0
while True:
    i += 1
    save_checkpoint(Toy(dict(i=i)), None, Path(sys.argv[1])/'c')
    if i == 3:
        sys.stdout.write('go\\n')
        sys.stdout.flush()
'''


def freeze_process(pid):
    "Stop a process and wait until it stands still"
    os.kill(pid, signal.SIGSTOP)
    os.waitid(os.P_PID, pid, os.WSTOPPED)


def whole_checkpoint(folder, last):
    "The number of a checkpoint, which is whole and no older than the last one seen"
    model, _ = load_checkpoint(folder, Toy)
    assert (model.w == model.config['i']).all() and model.config['i'] >= last
    return model.config['i']


def check_killed_writer(tmp_path, moments):
    "Freeze a process that writes one checkpoint after the other: the disk is what a kill would leave"
    run, seen = tmp_path/'run', tmp_path/'seen'
    last = 0
    writer = subprocess.Popen([sys.executable, '-W', 'ignore', '-c', SAVER, run], stdout=subprocess.PIPE,
                              text=True)
    try:
        assert writer.stdout.readline() == 'go\n'
        for pause in moments:
            time.sleep(pause)
            freeze_process(writer.pid)
            shutil.copytree(run, seen)
            os.kill(writer.pid, signal.SIGCONT)
            last = whole_checkpoint(seen/'c', last)
            shutil.rmtree(seen)
    finally:
        writer.kill()
        writer.wait()
    whole_checkpoint(run/'c', last)


def test_killed_while_writing_a_whole_checkpoint_is_left(tmp_path):
    check_killed_writer(tmp_path, [i*.003 for i in range(6)])


@pytest.mark.slow
def test_killed_at_any_moment_a_whole_checkpoint_is_left(tmp_path):
    check_killed_writer(tmp_path, [i*.0007 for i in range(30)])


def test_between_the_two_renames_the_old_one_is_found(saved, tmp_path):
    folder = save_checkpoint(*saved[1:], tmp_path/'c')
    folder.rename(tmp_path/'.c.old')                          # where a kill between the renames leaves it
    (tmp_path/'.c.new').mkdir()
    assert load_checkpoint(tmp_path/'c')[0].config == saved[1].config
    save_checkpoint(*saved[1:], tmp_path/'c')
    assert sorted(o.name for o in tmp_path.iterdir()) == ['c']


# The verbs of Hugging Face

@pytest.fixture(scope='module')
def classifier():
    torch.manual_seed(1)
    return Classifier.from_start('random', ['edema', 'nodule'], size=32).eval()


def same_files(a, b): return {o.name: o.read_bytes() for o in a.iterdir()} == {o.name: o.read_bytes() for o in b.iterdir()}


def test_the_model_alone(saved, classifier, tmp_path):
    "In evaluation mode, to the bit, with what a next checkpoint needs; the same folder as by the function"
    folder, model, tok = saved
    back = Refers.from_pretrained(str(folder))
    assert isinstance(back, Refers) and isinstance(back, PyTorchModelHubMixin) and not back.training
    assert back.config == model.config and back.tokenizer('left').tolist() == tok('left').tolist()
    for (name, a), b in zip(model.state_dict().items(), back.state_dict().values()): assert torch.equal(a, b), name
    assert same_files(back.save_pretrained(tmp_path/'a'), folder)
    assert same_files(model.save_pretrained(tmp_path/'b', tokenizer=tok), folder)
    pair = from_pretrained(folder)
    assert isinstance(pair, tuple) and pair[1]('left').tolist() == tok('left').tolist()
    again = Classifier.from_pretrained(classifier.save_pretrained(tmp_path/'c'))
    x = torch.randn(2, 1, 32, 32)
    with torch.no_grad(): assert torch.equal(again(x), classifier(x))
    assert again.config == classifier.config and again.tokenizer is None and not again.training


def test_the_terms_of_the_data_go_from_checkpoint_to_checkpoint(classifier, tmp_path):
    training = dict(data=dict(source='folder', terms='mine alone'), metrics=dict(auroc=.75), epochs=3)
    a = classifier.save_pretrained(tmp_path/'a', training=training, text='A first one.')
    back = Classifier.from_pretrained(a)
    b = back.save_pretrained(tmp_path/'b')
    assert back.facts == training and checkpoint_config(b) == checkpoint_config(a)
    assert 'mine alone' in (b/'README.md').read_text() and 'A first one.' in (a/'README.md').read_text()
    assert 'not recorded' in back.save_pretrained(tmp_path/'b', training={}).joinpath('README.md').read_text()


@pytest.mark.parametrize('cls', [Refers, Classifier])
def test_nothing_else_changes_by_the_verbs(cls, classifier):
    config = classifier.config if cls is Classifier else refers_config('nano', vocab=50, size=32)
    model = cls(config)
    assert not [o for o in vars(model) if 'hub' in o] and model.config == config
    assert [*inspect.signature(cls).parameters] == ['config']
    for other in (copying.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert [*other.state_dict()] == [*model.state_dict()] and other.config == config
        assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters()))
    with torch.device('meta'): assert all(o.is_meta for o in cls(config=config).parameters())


def test_what_the_mixin_itself_would_write_is_ours(saved, tmp_path):
    "Its own save_pretrained, and its hooks"
    folder, model, tok = saved
    model = Refers.from_pretrained(folder)
    ModelHubMixin.save_pretrained(model, tmp_path/'a')
    assert same_files(tmp_path/'a', folder)
    assert (folder/'README.md').read_text().endswith(model.generate_model_card().text)
    other = ModelHubMixin.from_pretrained.__func__(Refers, folder)
    assert torch.equal(other.fusion.norm.weight, model.fusion.norm.weight) and other.config == model.config


def test_a_folder_with_other_files_is_not_saved_into(classifier, tmp_path):
    (tmp_path/'notes.txt').write_text('mine')
    with pytest.raises(InputError, match='notes.txt'): classifier.save_pretrained(tmp_path)
    for wrong in ('config', 'model_card_kwargs', 'private', 'library'):
        with pytest.raises(TypeError, match=wrong): classifier.save_pretrained(tmp_path/'a', **{wrong: {}})
    assert [o.name for o in tmp_path.iterdir()] == ['notes.txt']


def of_timm(path): VisionEncoder('test_vit', size=32).save_pretrained(path)
def of_transformers(path): VisionEncoder('test_vit', size=32).save_pretrained(path, 'transformers')
def of_bert(path): BertModel(BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1)).save_pretrained(path)
def of_nothing(path): path.mkdir()


def of_pickles(path):
    path.mkdir()
    (path/'config.json').write_text('{}')
    torch.save({}, path/'pytorch_model.bin')


def a_pickle(path): torch.save({}, path)
def a_pipe(path): path.mkdir(); os.mkfifo(path/'config.json'); os.mkfifo(path/'model.safetensors')


@pytest.mark.parametrize('cls', [Refers, Classifier])
@pytest.mark.parametrize('make, says', [
    (of_timm, 'is not of refers_nb'), (of_transformers, 'is not of refers_nb'), (of_bert, 'is not of refers_nb'),
    (of_nothing, 'is no checkpoint'), (of_pickles, 'pytorch_model.bin, a pickle'), (a_pickle, 'is a pickle'),
    (a_pipe, 'named pipe'), (str, 'no checkpoint at')])
def test_what_is_no_checkpoint_is_refused_in_a_line(tmp_path, cls, make, says):
    make(tmp_path/'c')
    with pytest.raises(InputError, match=says) as e: cls.from_pretrained(tmp_path/'c')
    assert len(str(e.value).splitlines()) == 1


def test_a_model_of_another_class_is_refused_in_a_line(saved, classifier, tmp_path):
    wrong = [(Classifier, saved[0], 'holds a Refers, not a Classifier'),
             (Refers, classifier.save_pretrained(tmp_path/'c'), 'holds a Classifier, not a Refers')]
    for cls, folder, says in wrong:
        with pytest.raises(InputError, match=says) as e: cls.from_pretrained(folder)
        assert len(str(e.value).splitlines()) == 1


@pytest.mark.parametrize('name', ['nobody/nothing', 'nothing', 'a/b/c', '../up', ''])
def test_what_is_not_here_is_told_without_a_network(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as e:
        Refers.from_pretrained(name, local_files_only=True, cache_dir=tmp_path/'cache')
    assert len(str(e.value).splitlines()) == 1


def test_no_code_of_others(copy):
    "Neither named in the configuration, nor in what a tokenizer file tells; what is shared is written anew"
    edit(copy, auto_map={'AutoModel': 'theirs.Model'})
    with pytest.raises(InputError, match='auto_map'): Refers.from_pretrained(copy)


def test_what_a_tokenizer_file_tells_is_written_anew_for_sharing(saved, copy, tmp_path):
    told = dict(auto_map={'AutoTokenizer': ['theirs.T', None]}, name_or_path='/data/clinic/run')
    (copy/'tokenizer_config.json').write_text(json.dumps(told))
    assert Refers.from_pretrained(copy).tokenizer.max_len == saved[2].max_len     # it is not read here
    (tmp_path/'shared').mkdir()
    copy_to_share(copy, tmp_path/'shared')
    assert same_files(tmp_path/'shared', saved[0])


def test_a_checkpoint_without_it_opens_as_ever(saved, copy, tmp_path):
    (copy/'tokenizer_config.json').unlink()
    assert Refers.from_pretrained(copy).tokenizer('left').tolist() == saved[2]('left').tolist()
    (tmp_path/'shared').mkdir()
    copy_to_share(copy, tmp_path/'shared')
    assert same_files(tmp_path/'shared', saved[0])
    os.mkfifo(copy/'tokenizer_config.json')
    with pytest.raises(InputError, match='named pipe'): Refers.from_pretrained(copy)


# Sharing: the real client of huggingface_hub, against a hub on this machine

OFFLINE = '''
import sys
from refers_nb.core import InputError
from refers_nb.models.hub import push_to_hub
try: push_to_hub(sys.argv[1], 'me/mine', token='x')
except InputError as e: print(e)
'''


@pytest.mark.slow
def test_without_a_network_the_hub_is_a_sentence(saved):
    env = os.environ | dict(HF_ENDPOINT='http://127.0.0.1:9', PYTHONWARNINGS='ignore')
    p = subprocess.run([sys.executable, '-c', OFFLINE, saved[0]], capture_output=True, text=True, env=env,
                       timeout=120)
    words = 'me/mine cannot be written on the Hugging Face hub; it needs a network'
    assert p.returncode == 0 and words in p.stdout, p.stderr


SHARE = '''
import sys
from functools import partial
from refers_nb.core import InputError
from refers_nb.models.hub import from_pretrained, push_to_hub
folder, token = sys.argv[1:]
print(push_to_hub(folder, 'me/mine', token=token))
model, tok = from_pretrained('me/mine', token=token)
total = sum(p.double().abs().sum().item() for p in model.parameters())
print(total, tok('left effusion').tolist(), model.training)
again, _ = from_pretrained('me/mine', local_files_only=True)
print(push_to_hub(folder, 'me/mine', token=token))
wrong = [partial(push_to_hub, folder, 'me/mine', token='hf_wrong'),
         partial(from_pretrained, 'me/other', token=token),
         partial(from_pretrained, 'me/mine', revision='v9', local_files_only=True)]
for call in wrong:
    try: call()
    except InputError as e: print(str(e).splitlines()[0])
'''


def share(folder, home, script=SHARE):
    "What the client says, against a hub in this process"
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        env = os.environ | dict(HF_ENDPOINT=f'http://127.0.0.1:{server.server_port}', HF_HOME=str(home),
                                HF_HUB_DISABLE_XET='1', HF_HUB_DISABLE_PROGRESS_BARS='1',
                                PYTHONWARNINGS='ignore')
        for name in ('HF_HUB_OFFLINE', 'HF_TOKEN', 'TRANSFORMERS_OFFLINE'): env.pop(name, None)
        p = subprocess.run([sys.executable, '-c', script, folder, Hub.token], capture_output=True, text=True,
                           env=env, timeout=180)
        server.shutdown()
    assert p.returncode == 0, p.stderr
    return p.stdout.splitlines()


@pytest.mark.slow
def test_a_checkpoint_goes_to_the_hub_and_comes_back(saved, tmp_path):
    "Private, only its own files, the same weights, later without a network; a wrong token and an unknown name are told"
    folder = shutil.copytree(saved[0], tmp_path/'c')
    (folder/'patients.csv').write_text('name\n')
    Hub.repos = {'me/mine': (True, {'words.json': b'of an earlier model'})}
    first, weights, second, *errors = share(folder, tmp_path/'hf')
    assert first.endswith(f'/me/mine/commit/{COMMIT}') and second == first

    _, model, tok = saved
    total, rest = weights.split(' ', 1)
    assert float(total) == sum(o.double().abs().sum().item() for o in model.parameters())
    assert rest == f"{tok('left effusion').tolist()} False"

    private, files = Hub.repos['me/mine']
    there = {k: v for k, v in files.items() if k != '.gitattributes'}
    assert private and there == {o.name: o.read_bytes() for o in saved[0].iterdir()}

    assert 'me/mine cannot be written' in errors[0] and 'hf auth login' in errors[0]
    assert 'no checkpoint me/other' in errors[1] and 'no checkpoint me/mine' in errors[2]


VERBS = '''
import sys
from refers_nb.core import InputError
from refers_nb.models.refers import Refers
folder, token = sys.argv[1:]
model = Refers.from_pretrained(folder)
print(model.push_to_hub('me/mine', token=token, commit_message='First'))
there = Refers.from_pretrained('me/mine', token=token)
total = sum(p.double().abs().sum().item() for p in there.parameters())
print(total, there.tokenizer('left effusion').tolist(), there.training)
again = Refers.from_pretrained('me/mine', token=token, force_download=True)
print(model.save_pretrained(folder, push_to_hub=True, repo_id='me/mine', token=token))
for call in (lambda: model.push_to_hub('me/mine', token='hf_wrong'),
             lambda: Refers.from_pretrained('me/other', token=token)):
    try: call()
    except InputError as e: print(e)
'''


def test_the_verbs_reach_the_hub(saved, tmp_path):
    Hub.repos = {}
    folder = shutil.copytree(saved[0], tmp_path/'c')
    first, weights, second, *errors = share(folder, tmp_path/'hf', VERBS)
    assert first.endswith(f'/me/mine/commit/{COMMIT}') and second == first
    total, rest = weights.split(' ', 1)
    assert float(total) == sum(o.double().abs().sum().item() for o in saved[1].parameters())
    assert rest == f"{saved[2]('left effusion').tolist()} False"
    private, files = Hub.repos['me/mine']
    assert private and {k: v for k, v in files.items() if k != '.gitattributes'} == {o.name: o.read_bytes() for o in saved[0].iterdir()}
    assert len(errors) == 2 and 'me/mine cannot be written' in errors[0] and 'no checkpoint me/other' in errors[1]


@pytest.mark.parametrize('lost', ['no key', 'null'])
def test_a_configuration_without_the_tokenizer_that_is_there_is_damaged(copy, lost):
    config = json.loads((copy/'config.json').read_text())
    config['tokenizer'] = None
    if lost == 'no key': del config['tokenizer']
    (copy/'config.json').write_text(json.dumps(config))
    with pytest.raises(InputError, match='says nothing of a tokenizer, and there is a tokenizer.json'): load_checkpoint(copy)
