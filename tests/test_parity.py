"The same numbers as elsewhere: the released model, `transformers`, `sentencepiece`, and one process in place of several"
import json, random, re, zlib
from pathlib import Path

import numpy as np, pytest, torch
from kills import run_fork
from transformers import BertConfig, BertModel

from refers_nb.core import InputError
from refers_nb.data.tokens import Tokenizer
from refers_nb.models.formats import from_released, released_layout
from refers_nb.models.refers import Refers, refers_config
from refers_nb.models.vision import to_layout
from refers_nb.training.losses import generation_loss, info_nce

HERE = Path(__file__).parent
VOCAB = HERE.parents[1]/'shared/data/refers_release/mimic_10k.model'
needs_vocabulary = pytest.mark.skipif(not VOCAB.exists(), reason=f'the released vocabulary ({VOCAB.name}) is not here')
slow = pytest.mark.slow

# Outputs of the released code for weights and inputs that are drawn by a formula
reference = json.loads((HERE/'reference_layout.json').read_text())


# The released model

def formula_weight(key, shape, salt):
    "A tensor of the parity numbers: near one for scales, small for biases, smaller for matrices"
    rng = np.random.default_rng(zlib.crc32((salt + key).encode()))
    x = rng.standard_normal(shape).astype('float32')
    if len(shape) > 1: x = .02*x
    elif key.endswith('weight'): x = 1 + .1*x
    else: x = .05*x
    return torch.from_numpy(x).float()


def formula_state(salt):
    "All weights of the released layout"
    state = {k: formula_weight(k, shape, salt) for k, shape in reference['keys'].items()}
    return state | {'textual.output.weight': state['textual.embedding.words.weight']}


def formula_inputs(case):
    "Images, tokens, report vectors, study vectors, drawn in this order"
    rng = np.random.default_rng(case['seed'])
    def draw(*shape): return torch.from_numpy(rng.standard_normal(shape).astype('float32'))
    images = draw(2, 3, 3, 224, 224)
    rng.integers(4, 10000, (2, 20))
    report = draw(6, 2304)
    return images, torch.tensor(case['tokens']), report, draw(6, 2304)


@pytest.mark.parametrize('i', [0, pytest.param(1, marks=slow)])
@torch.no_grad()
def test_released_numbers(i):
    case = reference['cases'][i]
    images, tokens, report, study = formula_inputs(case)
    model = from_released(dict(model=formula_state(case['salt'])))
    seen = {}
    model.vision.register_forward_hook(lambda m, x, o: seen.update(tokens=o))
    model.fusion.register_forward_hook(lambda m, x, o: seen.update(memory=o[0]))
    out = model((images, torch.ones(2, 3, dtype=torch.bool), tokens))

    assert not model.training and out.text_embeds is None
    assert model.vision.in_chans == 3 and model.config['fusion'] == 'gate'
    assert seen['tokens'].shape == (6, 197, 768)
    assert [*seen['memory'].shape] == case['memory_shape']
    assert [*out.image_embeds.shape] == case['study_global_shape']

    x = seen['tokens'].view(2, 3, 197, 768)
    entries = dict(
        cls_first8=x[:, :, 0, :8], patch100_first8=x[:, :, 101, :8],
        study_global_first8=out.image_embeds[:, :8],
        logits_step0_first8=out.logits[:, 0, :8], logits_step10_first8=out.logits[:, 10, :8],
        view_weight_patch0=out.view_weights[:, :, 0], view_weight_mean=out.view_weights.mean(2))
    for name, value in entries.items():
        np.testing.assert_allclose(value, case[name], rtol=0, atol=1e-4, err_msg=name)

    logits_norm = [logits[:n].norm() for logits, n in zip(out.logits, case['lengths'])]
    scalars = dict(
        feature_norm=x.norm(dim=(2, 3)), memory_norm=seen['memory'].norm(dim=(1, 2)),
        logits_norm=torch.stack(logits_norm), generation_loss=generation_loss(out.logits, tokens),
        info_nce_tau0_1_lambda0_75=info_nce(study, report))
    for name, value in scalars.items():
        np.testing.assert_allclose(value, case[name], rtol=1e-4, err_msg=name)


@pytest.fixture(scope='module')
def small():
    "A small state dict in the released layout without a report encoder, and the model that it was made of"
    torch.manual_seed(0)
    config = refers_config('tiny', vocab=60, size=32, in_chans=3, fusion='gate', decoder=dict(ff=96), max_len=20)
    model = Refers(dict(config, text=None)).eval()
    state = to_layout(model.state_dict(), released_layout())
    return state | {'textual.output.weight': state['textual.embedding.words.weight']}, model


def test_names_are_the_released_ones(small):
    assert small[0].keys() == reference['keys'].keys()


STRUCTURE = {
    'visual.vit.transformer.embeddings.patch_embeddings.weight',
    'visual.vit.transformer.embeddings.position_embeddings', 'fusion.fc1.weight',
    'textual.visual_projection.weight', 'textual.embedding.words.weight',
    'textual.embedding.positions.weight', 'textual.transformer.layers.0.linear1.weight',
    'textual.output.weight'}     # what the architecture is read from


def refused(state, words):
    "Weights that must be refused with these words"
    with pytest.raises(InputError, match=words): from_released(state)


@pytest.mark.parametrize('n', [2, pytest.param(12, marks=slow)])
def test_every_key_that_does_not_fit_is_named(small, n):
    state, _ = small
    others = sorted(state.keys() - STRUCTURE)
    for key in sorted(STRUCTURE) + random.Random(0).sample(others, n):
        name, other = re.escape(key), key[:-1] + '_'
        refused({k: v for k, v in state.items() if k != key}, f'missing .*{name}')
        refused(state | {key: torch.zeros(5, 1, 1, 1, 1)}, name)
        refused(state | {other: state[key]}, re.escape(other))


def test_untied_words_are_told(small):
    with pytest.warns(UserWarning, match='textual.output.weight differs'):
        from_released(small[0] | {'textual.output.weight': torch.zeros(60, 192)})


# transformers

@torch.no_grad()
def test_report_encoder_is_that_of_transformers(small):
    torch.manual_seed(1)
    bert = BertModel(BertConfig(vocab_size=90, hidden_size=128, num_hidden_layers=2, num_attention_heads=2,
                                intermediate_size=200)).eval()
    fc = torch.nn.Linear(128, 3*192)
    text = {f'contrastive_bert.text_encoder.{k}': v for k, v in bert.state_dict().items()}
    text |= {f'contrastive_bert.fc.{k}': v for k, v in fc.state_dict().items()}
    text['contrastive_bert.text_encoder.embeddings.position_ids'] = torch.arange(512)[None]
    model = from_released(small[0] | text)
    views, mask = torch.randn(2, 3, 3, 32, 32), torch.ones(2, 3, dtype=torch.bool)
    report = torch.randint(4, 60, (2, 12))
    own_tokens = torch.randint(4, 90, (2, 30))
    own_tokens[1, 20:] = 0
    out = model(views, mask, report, own_tokens)
    pooled = bert(input_ids=own_tokens, attention_mask=(own_tokens != 0).long()).pooler_output
    torch.testing.assert_close(out.text_embeds, fc(pooled), atol=1e-5, rtol=0)
    torch.testing.assert_close(out.logits, small[1](views, mask, report).logits)


# sentencepiece

@needs_vocabulary
@pytest.mark.parametrize('text,ids', [      # by sentencepiece 0.2.3, after lower-casing and stripping accents
    ('Small left pleural effusion; no pneumothorax.', [1, 433, 163, 120, 105, 9979, 119, 155, 9929, 2]),
    ('Épithélium of a 5 mm² nodule × 3,   unchanged  since 12:30',
     [1, 38, 1829, 5, 753, 60, 44, 4, 1067, 2016, 9966, 1465, 9909, 9999, 833, 9945, 307, 639, 6876, 2]),
    ('Dextrocardia?  日本語 implant', [1, 6175, 9587, 9969, 9909, 0, 3932, 2])])
def test_released_vocabulary(text, ids, tmp_path):
    tok = Tokenizer.from_sentencepiece(VOCAB)
    tok.save(tmp_path/'tokenizer.json')
    again = Tokenizer.load(tmp_path/'tokenizer.json')
    assert len(tok) == 10_000
    assert tok(text).tolist() == ids == again(text).tolist()


# One process in place of several

RANKS = '''
import sys, torch, torch.distributed as dist
from collections import namedtuple
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from refers_nb.training.losses import RefersLoss
Out = namedtuple('Out', 'logits image_embeds text_embeds')
folder, worlds = sys.argv[1], [int(o) for o in sys.argv[2:]]

class Model(nn.Module):
    "Two towers and a decoder of one layer each"
    def __init__(self):
        super().__init__()
        self.see, self.words, self.out = nn.Linear(6, 16), nn.Embedding(30, 16), nn.Linear(16, 30)
    def forward(self, x, report):
        s = self.see(x)
        w = self.words(report)*(report != 0)[..., None]
        return Out(self.out(w.cumsum(1) + s[:, None]), s, w.sum(1).tanh())

def batch():
    "Eight studies with reports of different lengths, two of them equal"
    x, report = torch.randn(8, 6), torch.randint(4, 30, (8, 12))
    for i, n in enumerate((12, 3, 5, 5, 9, 4, 5, 2)): report[i, n:] = 0
    report[6] = report[2]                                   # on two ranks
    return x, report

def step(rank, world):
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model, crit = Model(), RefersLoss(learn_tau=True)
    x, report = batch()
    if world > 1:
        meeting = f'file://{folder}/rendezvous{world}'
        dist.init_process_group('gloo', init_method=meeting, rank=rank, world_size=world)
        model = DistributedDataParallel(model)
    x, report = x.chunk(world)[rank], report.chunk(world)[rank]
    report = report[:, :(report != 0).sum(1).max()]         # every rank as long as its own longest report
    loss = crit(model(x, report), report)
    loss.backward()
    grads = {k.removeprefix('module.'): p.grad for k, p in model.named_parameters()}
    grads['log_tau'] = crit.log_tau.grad
    torch.save(dict(loss=loss.detach(), parts=crit.parts, grads=grads), f'{folder}/{world}-{rank}.pt')
    if world > 1: dist.destroy_process_group()

fork = torch.multiprocessing.get_context('fork')            # imports are paid once; nothing has run before the forks
for world in worlds:
    ranks = [fork.Process(target=step, args=(r, world), daemon=True) for r in range(world)]
    for p in ranks: p.start()
    for p in ranks: p.join()
    if any(p.exitcode for p in ranks): sys.exit(f'a rank of {world} failed')
'''


@pytest.mark.parametrize('world', [2, pytest.param(4, marks=slow)])
def test_ranks_learn_as_one_process(tmp_path, world):
    "Loss and gradients of gloo ranks are those of one process with the whole batch"
    run = run_fork(RANKS, tmp_path, '1', world)
    assert run.returncode == 0, run.stderr
    def result(name): return torch.load(tmp_path/f'{name}.pt', weights_only=True)
    one = result('1-0')
    assert all(grad.abs().max() > 1e-3 for grad in one['grads'].values())
    for rank in range(world):
        torch.testing.assert_close(result(f'{world}-{rank}'), one, atol=1e-5, rtol=0)
