"Encoders and tokenizers for others: opened without this library; what is no ViT of `transformers` is refused"
import json, os, subprocess, sys

import pytest, torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import import_protobuf

from refers_nb.core import InputError
from refers_nb.data.prepare import prepare
from refers_nb.data.tokens import SPECIALS, Tokenizer
from refers_nb.models.formats import save_hf, save_timm
from refers_nb.models.hub import save_checkpoint
from refers_nb.models.refers import Refers, refers_config
from refers_nb.models.vision import VisionEncoder
from refers_nb.training.classifier import Classifier
from refers_nb.training.finetune import finetune
from refers_nb.training.starts import encoder_from

REPORTS = ['No acute disease. Heart size is normal.', 'Small left pleural effusion; épithélium?', '', 'a b '*60]


@pytest.mark.parametrize('name', ['vit_small_patch14_reg4_dinov2', 'deit3_small_patch16_224',
                                  'vit_base_patch16_clip_224', 'beit_base_patch16_224'])
def test_what_is_no_vit_of_transformers_is_refused(tmp_path, name):
    folder = tmp_path/'mine'
    folder.mkdir()
    enc = VisionEncoder(name, size=28 if '14' in name else 32)
    with pytest.raises(InputError, match='no ViTModel'): save_hf(enc, folder)
    assert not any(folder.iterdir())


def train_a_little(model, x):
    "Every weight moves, those of the norms and the biases too"
    opt = torch.optim.Adam(model.parameters(), .003)
    for _ in range(4):
        model(x).square().mean().backward()
        opt.step()
        opt.zero_grad()
    return model.eval()


@pytest.fixture(scope='module')
def given(tmp_path_factory):
    "A folder of every kind, what was put into it, and what it answers"
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp('given')
    tok = Tokenizer.train(REPORTS*2, max_len=40)
    model = Refers(refers_config('tiny', vocab=len(tok), size=48, k=2, max_len=40, in_chans=1))
    model.tokenizer = tok
    x = torch.randn(3, 1, 48, 48)
    before = model.vision(x)
    train_a_little(model.vision, x)
    model.eval().save_pretrained(folder/'refers')
    model.vision.save_pretrained(folder/'timm')
    model.vision.save_pretrained(folder/'vit', library='transformers')
    save_file(dict(x=x), folder/'x.safetensors')
    with torch.no_grad(): features = model.vision(x)
    assert (features - before).abs().max() > .1
    return folder, model, features


PLAIN = '''
import json, socket, sys

class Without:
    "This library is not installed"
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] == 'refers_nb': raise ImportError('refers_nb is not here')

class NoNetwork(socket.socket):
    def __init__(self, *args, **kwargs): raise OSError('no network here')

sys.meta_path.insert(0, Without())
socket.socket = NoNetwork
sys.path[:] = [o for o in sys.path if o.rstrip('/') != sys.argv[2]]
import timm, torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, ViTModel
folder = sys.argv[1]
x = load_file(f'{folder}/x.safetensors')['x']
by_timm = timm.create_model(f'local-dir:{folder}/timm', pretrained=True).eval()
by_hf = ViTModel.from_pretrained(f'{folder}/vit', add_pooling_layer=False).eval()
tok = AutoTokenizer.from_pretrained(f'{folder}/refers')
with torch.no_grad(): out = dict(timm=by_timm.forward_features(x), hf=by_hf(x).last_hidden_state)
save_file({k: v.contiguous() for k, v in out.items()}, f'{folder}/out.safetensors')
ids = [tok(o, truncation=True).input_ids for o in json.loads(sys.argv[3])]
assert 'refers_nb' not in sys.modules
try: import refers_nb
except ImportError: sys.stdout.write(json.dumps(ids))
'''


def test_opened_where_this_library_is_not_installed(given):
    "By timm, by ViTModel, by AutoTokenizer; without a network, and without a setting of Python"
    folder, model, features = given
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    p = subprocess.run([sys.executable, '-I', '-W', 'ignore', '-c', PLAIN, str(folder), root, json.dumps(REPORTS)],
                       capture_output=True, text=True, env=os.environ | dict(HF_HUB_OFFLINE='1'), cwd='/', timeout=120)
    assert p.returncode == 0, p.stderr[-2000:]
    assert json.loads(p.stdout) == [model.tokenizer(o).tolist() for o in REPORTS]
    for name, there in load_file(folder/'out.safetensors').items():
        assert (there - features).abs().max() < 1e-5, name


@pytest.mark.parametrize('name', ['timm', 'vit', 'refers'])
def test_and_read_back_to_the_bit(given, name):
    folder, model, features = given
    x = load_file(folder/'x.safetensors')['x']
    for enc in (encoder_from(folder/name, size=48), Classifier.from_start(folder/name, ['edema'], size=48).vision):
        for k, v in enc.state_dict().items(): assert torch.equal(v, model.vision.state_dict()[k]), k
        with torch.no_grad(): assert torch.equal(enc.eval()(x), features)


@pytest.mark.parametrize('name', ['vit_tiny_patch16_224', 'test_vit'])
@pytest.mark.parametrize('chans', [1, 3])
def test_one_verb_for_both(tmp_path, name, chans):
    enc = VisionEncoder(name, size=32, in_chans=chans)
    pairs = dict(timm=save_timm, transformers=save_hf)
    for library, function in pairs.items():
        a, b = enc.save_pretrained(tmp_path/library, library), function(enc, tmp_path/f'{library} by function')
        assert {o.name for o in a.iterdir()} == {o.name for o in b.iterdir()}
        for o in a.iterdir(): assert o.read_bytes() == (b/o.name).read_bytes()
    assert json.loads((enc.save_pretrained(tmp_path/'c', mean=.4)/'config.json').read_text())['pretrained_cfg']['mean'] == [.4]*chans
    for library in ('', 'keras', None):
        with pytest.raises(InputError, match='one of timm, transformers'): enc.save_pretrained(tmp_path/'d', library)


# Tokenizers

def of_sentencepiece(path, max_len):
    "A vocabulary as the released one, in which an unknown piece shares its id with padding"
    proto = import_protobuf().ModelProto()
    proto.trainer_spec.model_type = 2
    pieces = ['▁n', '▁no', 'us', 'ef', 'eff', *sorted(set('▁noleftusiacud.s'))]
    for o in ['<unk>', *SPECIALS[1:], *pieces]: proto.pieces.add(piece=o, score=0., type=1)
    path.write_bytes(proto.SerializeToString())
    return Tokenizer.from_sentencepiece(path, max_len)


@pytest.mark.parametrize('kind', ['trained', 'of several patients', 'sentencepiece'])
@pytest.mark.parametrize('max_len', [8, 100])
def test_auto_tokenizer_gives_the_same_ids(tmp_path, kind, max_len):
    if kind == 'sentencepiece': tok = of_sentencepiece(tmp_path/'m.model', max_len)
    else: tok = Tokenizer.train(REPORTS*3, max_len=max_len, patients=range(12) if kind != 'trained' else None, least=2)
    model = Refers(refers_config('nano', vocab=len(tok), size=32, k=1, max_len=max_len))
    theirs = AutoTokenizer.from_pretrained(save_checkpoint(model, tok, tmp_path/'c'), local_files_only=True)
    assert isinstance(theirs, PreTrainedTokenizerFast) and theirs.is_fast
    assert len(theirs) == len(tok) and theirs.model_max_length == max_len
    roles = theirs.pad_token_id, theirs.bos_token_id, theirs.eos_token_id, theirs.mask_token_id
    assert roles == (tok.pad_id, tok.sos_id, tok.eos_id, tok.mask_id)
    texts = [*REPORTS, 'ZZZ 123 ~', '[EOS] left [PAD]', 'one\ntwo\tthree  four', 'left effusion']
    batch = theirs(texts, truncation=True, padding=True, return_tensors='pt')
    ours = tok.batch(texts)[0]
    assert batch.input_ids.tolist() == ours.tolist()
    assert batch.attention_mask.sum(1).tolist() == [len(tok(o)) for o in texts]
    assert [theirs.decode(o, skip_special_tokens=True).strip() for o in ours[:2]] == [tok.decode(o) for o in ours[:2]]


def test_a_classifier_has_no_tokenizer(tmp_path):
    folder = Classifier.from_start('random', ['edema'], size=32).save_pretrained(tmp_path/'c')
    assert not [o for o in folder.iterdir() if 'tokenizer' in o.name]


def test_fine_tuning_starts_from_any_of_them(given, tmp_path):
    "The same start in three formats: the same predictions, bit for bit"
    prepare('phantom', 24, tmp_path/'data', size=48, valid=.3, test=.3, workers=1)
    how = dict(findings=['cardiomegaly'], size=48, steps=3, evals=1, bs=4, seed=0)
    probs = [finetune(tmp_path/'data', start=given[0]/o, **how).predictions['probability'].tolist()
             for o in ('refers', 'timm', 'vit')]
    assert probs[0] == probs[1] == probs[2]
