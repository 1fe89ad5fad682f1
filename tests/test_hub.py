"Checkpoints: nothing but a whole one of the right kind is read, and writing survives a kill"
import base64, hashlib, http.server, json, os, pickle, shutil, signal, subprocess, sys, threading, time, urllib.parse

import pytest, torch
from hypothesis import HealthCheck, given, settings as hyp, strategies as st
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import BertConfig, BertModel

from refers_nb.core import InputError
from refers_nb.models.hub import checkpoint_config, load_checkpoint, own_tensors, refuse_pickle, save_checkpoint
from refers_nb.models.formats import from_finetuned, from_released, save_hf
from refers_nb.models.refers import refers_model
from refers_nb.data.tokens import EncoderTokenizer, Tokenizer
from refers_nb.models.vision import VisionEncoder, mismatch, read_weights


@pytest.fixture(scope='module')
def saved(tmp_path_factory):
    "A checkpoint of a tiny model: (folder, model, tokenizer)"
    tok = Tokenizer.train(['no acute disease', 'small left pleural effusion']*2)
    torch.manual_seed(0)
    model = refers_model('tiny', vocab=len(tok), size=32, k=2).eval()
    return save_checkpoint(model, tok, tmp_path_factory.mktemp('hub')/'a'),model,tok


@pytest.fixture
def copy(saved, tmp_path):
    "A copy of it to spoil"
    return shutil.copytree(saved[0], tmp_path/'copy')


def edit(folder, **changes):
    "Change values of config.json; a name with two underscores is a path"
    config = json.loads((folder/'config.json').read_text())
    for k,v in changes.items():
        *parents,last = k.split('__')
        d = config
        for p in parents: d = d[p]
        d[last] = v
    (folder/'config.json').write_text(json.dumps(config))


def test_round_trip_is_exact(saved):
    folder,model,tok = saved
    back,tok2 = load_checkpoint(folder)
    assert not back.training and back.config == model.config
    for (k,a),b in zip(model.state_dict().items(), back.state_dict().values()): assert torch.equal(a, b), k
    assert tok2('left effusion').tolist() == tok('left effusion').tolist() and tok2.max_len == tok.max_len
    assert '{' not in (folder/'README.md').read_text().split('## Architecture')[0]


def test_saving_twice_gives_the_same_bytes(saved, tmp_path):
    folder,model,tok = saved
    again = save_checkpoint(model, tok, tmp_path/'b')
    for o in folder.iterdir(): assert o.read_bytes() == (again/o.name).read_bytes(), o.name


def test_every_wrong_key_is_named(copy):
    f = copy/'model.safetensors'
    state = load_file(f)
    state['fusion.extra'] = torch.zeros(2)
    state['fusion.norm.bias'] = torch.zeros(7)
    del state['text.proj.bias']
    save_file(state, f)
    with pytest.raises(InputError) as e: load_checkpoint(copy)
    for o in ('missing text.proj.bias', 'unexpected fusion.extra', 'fusion.norm.bias (7,) instead of'): assert o in str(e.value)


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
    f = copy/name
    whole = f.read_bytes()
    if how == 'gone': f.unlink()
    else: f.write_bytes({'empty': b'', 'cut': whole[:len(whole)//2], 'noise': os.urandom(len(whole))}[how])
    with pytest.raises(InputError, match=name): load_checkpoint(copy)


class Trap:
    def __init__(self, path): self.path = path
    def __reduce__(self): return open, (str(self.path), 'w')


@pytest.mark.parametrize('name', ['a.pt', 'a.pth', 'a.bin', 'a.ckpt', 'a.pkl', 'noextension', 'folder.safetensors'])
def test_a_pickle_is_refused_and_not_run(tmp_path, name):
    f,mark = tmp_path/name,tmp_path/'executed'
    torch.save({'w': Trap(mark)}, f)
    for read in (load_checkpoint, checkpoint_config, refuse_pickle):
        with pytest.raises(InputError, match='pickle'): read(f)
    f.write_bytes(pickle.dumps(Trap(mark)))
    with pytest.raises(InputError): load_checkpoint(f)
    assert not mark.exists()


@pytest.mark.parametrize('read', [from_released, from_finetuned, read_weights])
def test_a_foreign_file_holds_data_only(tmp_path, read):
    f,mark = tmp_path/'refers.pth',tmp_path/'executed'
    torch.save({'model': {'w': torch.zeros(2)}, 'optimizer': Trap(mark)}, f)
    with pytest.raises(InputError, match='nothing in it was executed'): read(f)
    assert not mark.exists()
    torch.save({'model': {'w': torch.zeros(2), 'name': 'refers'}}, f)
    with pytest.raises(InputError, match='not a flat dictionary'): read(f)


@pytest.mark.parametrize('name', ['vit_small_patch14_reg4_dinov2', 'deit3_small_patch16_224', 'vit_base_patch16_clip_224', 'beit_base_patch16_224'])
def test_what_is_no_vit_of_transformers_is_refused(tmp_path, name):
    (tmp_path/'mine').mkdir()
    with pytest.raises(InputError, match='no ViTModel'): save_hf(VisionEncoder(name, size=28 if '14' in name else 32), tmp_path/'mine')
    assert not any((tmp_path/'mine').iterdir())


def test_a_checkpoint_of_a_named_report_encoder_opens_without_it(tmp_path):
    BertModel(BertConfig(vocab_size=40, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64)).save_pretrained(tmp_path/'bert')
    model = refers_model('tiny', vocab=40, size=32, k=2, text=dict(name=str(tmp_path/'bert'), pool='cls')).eval()
    save_checkpoint(model, None, tmp_path/'c')
    shutil.rmtree(tmp_path/'bert')
    back,_ = load_checkpoint(tmp_path/'c')
    report = torch.randint(4, 40, (3, 9))
    with torch.no_grad(): assert torch.equal(back.text(report), model.text(report))
    assert str(tmp_path) not in (tmp_path/'c/config.json').read_text()


def test_a_pickle_in_the_place_of_the_weights(copy, tmp_path):
    mark = tmp_path/'executed'
    torch.save({'w': Trap(mark)}, copy/'model.safetensors')
    with pytest.raises(InputError, match='safetensors'): load_checkpoint(copy)
    (copy/'model.safetensors').rename(copy/'pytorch_model.bin')
    with pytest.raises(InputError, match='pytorch_model.bin, a pickle'): load_checkpoint(copy)
    assert not mark.exists()


def test_a_folder_with_other_files_is_not_replaced(saved, tmp_path):
    (tmp_path/'notes.txt').write_text('mine')
    with pytest.raises(InputError, match='notes.txt'): save_checkpoint(*saved[1:], tmp_path)
    assert (tmp_path/'notes.txt').read_text() == 'mine'


@hyp(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.sampled_from('abcd'), st.integers(1, 3)), st.dictionaries(st.sampled_from('abcd'), st.integers(1, 3)))
def test_mismatch_is_silent_only_when_all_fits(a, b):
    a,b = ({k: torch.zeros(n) for k,n in o.items()} for o in (a, b))
    fits = {k: v.shape for k,v in a.items()} == {k: v.shape for k,v in b.items()}
    assert (mismatch(a, b) == '') == fits


SAVER = '''
import sys, torch
from pathlib import Path
from torch import nn
from refers_nb.models.hub import save_checkpoint
class Toy(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config,self.w = config,nn.Parameter(torch.full((300_000,), float(config['i'])))
i = 0
while True:
    i += 1
    save_checkpoint(Toy(dict(i=i)), None, Path(sys.argv[1])/'c')
    if i == 3: sys.stdout.write('go\\n'); sys.stdout.flush()
'''

class Toy(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config,self.w = config,nn.Parameter(torch.zeros(300_000))


def stopped(pid):
    "Freeze a process and wait until it stands still"
    os.kill(pid, signal.SIGSTOP)
    os.waitid(os.P_PID, pid, os.WSTOPPED)


def test_killed_while_writing_a_whole_checkpoint_is_left(tmp_path):
    run,seen,last = tmp_path/'run',tmp_path/'seen',0
    p = subprocess.Popen([sys.executable, '-W', 'ignore', '-c', SAVER, run], stdout=subprocess.PIPE, text=True)
    try:
        assert p.stdout.readline() == 'go\n'
        for i in range(30):                    # frozen at any moment, the disk is what a kill would leave
            time.sleep(i*.0007)
            stopped(p.pid)
            shutil.copytree(run, seen)
            os.kill(p.pid, signal.SIGCONT)
            model,_ = load_checkpoint(seen/'c', Toy)
            assert (model.w == model.config['i']).all() and model.config['i'] >= last
            last = model.config['i']
            shutil.rmtree(seen)
    finally: p.kill(); p.wait()
    model,_ = load_checkpoint(run/'c', Toy)
    assert (model.w == model.config['i']).all() and model.config['i'] >= last


def test_between_the_two_renames_the_old_one_is_found(saved, tmp_path):
    folder = save_checkpoint(*saved[1:], tmp_path/'c')
    folder.rename(tmp_path/'.c.old')                          # where a kill between the renames leaves it
    (tmp_path/'.c.new').mkdir()
    assert load_checkpoint(tmp_path/'c')[0].config == saved[1].config
    save_checkpoint(*saved[1:], tmp_path/'c')
    assert sorted(o.name for o in tmp_path.iterdir()) == ['c']


# Sharing: the real client of huggingface_hub, against a hub on this machine

class Hub(http.server.BaseHTTPRequestHandler):
    "As much of the Hugging Face hub as one model repository needs; `repos` maps a name to (private, {path: content})"
    repos,protocol_version = {},'HTTP/1.1'
    def log_message(self, *args): pass

    def answer(self, code, body=b'', **headers):
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(code)
        for k,v in {'Content-Length': len(body), **headers}.items(): self.send_header(k, str(v))
        self.end_headers()
        if self.command != 'HEAD': self.wfile.write(body)

    def refused(self):
        "The hub shows private repositories only to those who may see them"
        if self.headers.get('authorization') == 'Bearer hf_right': return False
        self.answer(401, {'error': 'Invalid username or password.'}, **{'X-Error-Code': 'RepoNotFound'})
        return True

    def do_POST(self):
        body,path = self.rfile.read(int(self.headers['Content-Length'])),urllib.parse.unquote(self.path)
        if path == '/api/validate-yaml': return self.answer(200, {'errors': [], 'warnings': []})
        if self.refused(): return
        if path == '/api/repos/create':
            o = json.loads(body)
            name = f"{o['organization']}/{o['name']}" if o.get('organization') else o['name']
            new = name not in self.repos
            if new: self.repos[name] = o.get('private', o.get('visibility') == 'private'),{}
            return self.answer(200 if new else 409, {'url': f'http://{self.headers["host"]}/{name}', 'error': 'You already created this model repo'})
        _,_,_,owner,name,what,_ = path.split('?')[0].split('/')
        if what == 'preupload':
            return self.answer(200, {'files': [{'path': o['path'], 'uploadMode': 'regular', 'shouldIgnore': False} for o in json.loads(body)['files']]})
        for o in map(json.loads, body.splitlines()):
            if o['key'] == 'deletedFile': del self.repos[f'{owner}/{name}'][1][o['value']['path']]
            if o['key'] == 'file': self.repos[f'{owner}/{name}'][1][o['value']['path']] = base64.b64decode(o['value']['content'])
        self.answer(200, {'success': True, 'commitOid': 'c'*40, 'commitUrl': f'http://{self.headers["host"]}/{owner}/{name}/commit/{"c"*40}'})

    def do_GET(self):
        path = urllib.parse.unquote(self.path).split('?')[0].strip('/').split('/')
        if self.refused(): return
        owner,name = path[2:4] if path[0] == 'api' else path[:2]
        if f'{owner}/{name}' not in self.repos: return self.answer(404, {'error': 'Repository not found'}, **{'X-Error-Code': 'RepoNotFound'})
        files = self.repos[f'{owner}/{name}'][1]
        if path[0] == 'api' and 'tree' in path:
            return self.answer(200, [{'type': 'file', 'path': k, 'size': len(v), 'oid': hashlib.sha1(v).hexdigest()} for k,v in files.items()])
        if path[0] == 'api': return self.answer(200, {'id': f'{owner}/{name}', 'sha': 'c'*40, 'siblings': [{'rfilename': o} for o in files], 'private': True})
        content = files['/'.join(path[4:])]
        self.answer(200, content, ETag=f'"{hashlib.sha1(content).hexdigest()}"', **{'X-Repo-Commit': 'c'*40})
    do_HEAD = do_GET


SHARE = '''
import sys
from refers_nb.core import InputError
from refers_nb.models.hub import from_pretrained, push_to_hub
folder,token = sys.argv[1:]
print(push_to_hub(folder, 'me/mine', token=token))
model,tok = from_pretrained('me/mine', token=token)
print(sum(p.double().abs().sum().item() for p in model.parameters()), tok('left effusion').tolist(), model.training)
again,_ = from_pretrained('me/mine', local_files_only=True)
print(push_to_hub(folder, 'me/mine', token=token))
for call in (lambda: push_to_hub(folder, 'me/mine', token='hf_wrong'), lambda: from_pretrained('me/other', token=token), lambda: from_pretrained('me/mine', revision='v9', local_files_only=True)):
    try: call()
    except InputError as e: print(str(e).splitlines()[0])
'''


def test_without_a_network_the_hub_is_a_sentence(saved):
    code = "import sys; from refers_nb.core import InputError; from refers_nb.models.hub import push_to_hub\ntry: push_to_hub(sys.argv[1], 'me/mine', token='x')\nexcept InputError as e: print(e)"
    env = os.environ | dict(HF_ENDPOINT='http://127.0.0.1:9', PYTHONWARNINGS='ignore')
    p = subprocess.run([sys.executable, '-c', code, saved[0]], capture_output=True, text=True, env=env, timeout=120)
    assert p.returncode == 0 and 'me/mine cannot be written on the Hugging Face hub; it needs a network' in p.stdout, p.stderr


def test_the_vocabulary_of_a_report_encoder_is_part_of_a_checkpoint(saved, tmp_path):
    "Missing it is an error; one that lies there by accident is not read; the card keeps the terms of the data"
    tok = Tokenizer.train(['no acute disease', 'small left pleural effusion']*2)
    hf = type(tok.hf).from_str(tok.hf.to_str()); hf.enable_padding(pad_id=0, pad_token='[PAD]')
    tok.encoder_tokenizer,told = EncoderTokenizer(hf),dict(data=dict(source='folder', terms='mine alone'))
    folder = save_checkpoint(saved[1], tok, tmp_path/'c', told)
    assert load_checkpoint(folder)[1].encoder_tokenizer('left effusion').tolist() == tok('left effusion').tolist()
    assert told['data']['terms'] == 'mine alone' and 'mine alone' in (folder/'README.md').read_text()
    shutil.copy(folder/'words.json', tmp_path/'words.json')
    (folder/'words.json').unlink()
    with pytest.raises(InputError, match='no words.json'): load_checkpoint(folder)
    plain = shutil.copytree(saved[0], tmp_path/'plain')
    shutil.copy(tmp_path/'words.json', plain)
    assert load_checkpoint(plain)[1].encoder_tokenizer is None


def test_a_checkpoint_goes_to_the_hub_and_comes_back(saved, tmp_path):
    "Private, only its own files, the same weights, later without a network; a wrong token and an unknown name are told"
    folder = shutil.copytree(saved[0], tmp_path/'c')
    (folder/'patients.csv').write_text('name\n')
    Hub.repos = {'me/mine': (True, {'words.json': b'of an earlier model'})}
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        env = os.environ | dict(HF_ENDPOINT=f'http://127.0.0.1:{server.server_port}', HF_HOME=str(tmp_path/'hf'), HF_HUB_DISABLE_XET='1', HF_HUB_DISABLE_PROGRESS_BARS='1', PYTHONWARNINGS='ignore')
        for o in ('HF_HUB_OFFLINE', 'HF_TOKEN', 'TRANSFORMERS_OFFLINE'): env.pop(o, None)
        p = subprocess.run([sys.executable, '-c', SHARE, folder, 'hf_right'], capture_output=True, text=True, env=env, timeout=180)
        server.shutdown()
    assert p.returncode == 0, p.stderr
    first,weights,second,*errors = p.stdout.splitlines()
    assert first.endswith('/me/mine/commit/' + 'c'*40) and second == first
    total,rest = weights.split(' ', 1)
    assert float(total) == sum(o.double().abs().sum().item() for o in saved[1].parameters()) and rest == f"{saved[2]('left effusion').tolist()} False"
    private,files = Hub.repos['me/mine']
    assert private and {k: v for k,v in files.items() if k != '.gitattributes'} == {o.name: o.read_bytes() for o in saved[0].iterdir()}
    assert 'me/mine cannot be written' in errors[0] and 'hf auth login' in errors[0] and 'no checkpoint me/other' in errors[1] and 'no checkpoint me/mine' in errors[2]
