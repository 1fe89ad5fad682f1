"Every encoder that people have, as a start: opened with the numbers of its own library, trained, saved, opened again"
import json, warnings

import pandas as pd, pytest, timm, torch
from safetensors.torch import load_file, save_file

from refers_nb.core import InputError
from refers_nb.data.given import image_store
from refers_nb.data.prepare import prepare
from refers_nb.data.studies import read_studies
from refers_nb.evaluation.attend import rollout
from refers_nb.evaluation.experiments import efficiency_table, label_efficiency
from refers_nb.evaluation.represent import probe
from refers_nb.models.examples import difference, example, EXAMPLES
from refers_nb.models.hub import checkpoint_config, load_checkpoint
from refers_nb.models.opening import folder_facts, open_start, start_arguments
from refers_nb.models.refers import Refers, refers_model
from refers_nb.models.savings import drop_patches, recompute
from refers_nb.models.schema import check_schema, VisionNumbers
from refers_nb.models.vision import vision_encoder, VisionEncoder
from refers_nb.training.baselines import pretrain_images
from refers_nb.training.classifier import Classifier
from refers_nb.training.finetune import classifier_groups, finetune, layer_groups
from refers_nb.training.pretrain import pretrain
from refers_nb.training.starts import encoder_from

LARGE = 'siglip_hf', 'openai_clip'         # 86 million parameters
SMALL = [o for o in EXAMPLES if o not in LARGE]
each = pytest.mark.parametrize('name', [*SMALL, *(pytest.param(o, marks=pytest.mark.slow) for o in LARGE)])
CONVOLUTIONS = 'test_resnet', 'convnext_atto', 'densenet121', 'swin_tiny_patch4_window7_224'


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    "Phantoms with labels and reports"
    folder = tmp_path_factory.mktemp('starts')/'data'
    prepare('phantom', 30, folder, size=64, valid=.3, test=.3, workers=1)
    return folder


@pytest.fixture
def resnet(tmp_path):
    "A small file of weights that tells its architecture when asked for it"
    torch.manual_seed(0)
    torch.save(timm.create_model('test_resnet').state_dict(), tmp_path/'net.pth')
    return tmp_path/'net.pth'


QUICK = 'normed_mean', 'convnext'       # the tutorial of starts trains some, too
trained = pytest.mark.parametrize(
    'name', [pytest.param(o, marks=() if o in QUICK else pytest.mark.slow) for o in EXAMPLES])


def quietly(f, *args, **kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', UserWarning)
        return f(*args, **kwargs)


# Opened

TOLD = dict(       # architecture, channels, patch, pooling; what the file was drawn from
    dinov2=('vit_small_patch14_dinov2', 3, None, None), dinov2_hf=('vit_small_patch14_dinov2', 1, None, None),
    dinov2_registers_hf=('vit_small_patch14_reg4_dinov2', 3, None, None),
    dinov3_hf=('vit_small_patch16_dinov3_qkvb', 3, None, 'token'), siglip_hf=('vit_base_patch16_siglip_224', 1, None, 'map'),
    openai_clip=('vit_base_patch32_clip_quickgelu_224', 3, None, None), open_clip_trunk=('vit_tiny_patch16_224', 3, None, None),
    masked_autoencoder=('vit_tiny_patch16_224', 3, None, None), normed_mean=('vit_tiny_patch16_224', 1, None, 'avg'),
    eva_x=('eva02_tiny_patch14_224', 1, 16, 'avg'), eva02=('eva02_tiny_patch14_224', 3, None, 'avg'),
    swin=('swin_tiny_patch4_window7_224', 3, None, None), convnext=('convnext_atto', 3, None, None),
    resnet50=('resnet50', 3, None, None), densenet121=('densenet121', 1, None, None),
    hybrid=('vit_tiny_r_s16_p8_224', 3, None, None))

@each
def test_opened_with_the_numbers_of_its_own_library(tmp_path, name):
    drawn = example(name, tmp_path)
    enc = quietly(open_start, drawn.path, drawn.size)
    assert difference(enc, drawn) < 1e-5
    assert (enc.name, enc.in_chans, enc.options.get("patch"), enc.pool) == TOLD[name]
    mean, std = (torch.tensor(o) for o in drawn.tones)
    if enc.mean is None: assert mean.unique().item() == std.unique().item() == .5
    else: assert torch.allclose(torch.tensor(enc.mean), mean) and torch.allclose(torch.tensor(enc.std), std)
    assert enc(torch.randn(2, 1, drawn.size, drawn.size)).shape == (2, 1 + enc.grid[0]*enc.grid[1], enc.width)
    assert quietly(start_arguments, drawn.path) == {k: v for k, v in enc.arguments.items() if k != 'size'}


@pytest.mark.parametrize('name, words', [
    ('dinov2', ['mask_token']), pytest.param('openai_clip', ['logit_scale', 'transformer.resblocks.0.ln_1.weight', 'visual.proj'], marks=pytest.mark.slow),
    ('open_clip_trunk', ['logit_scale', 'visual.head.proj.weight']), ('masked_autoencoder', ['decoder_embed.weight']),
    ('eva_x', ['lm_head.weight', 'rope.freqs_cos']), ('swin', ['omni_heads.0.weight']), ('densenet121', ['op_threshs'])])
def test_what_is_left_out_is_said(tmp_path, name, words):
    drawn = example(name, tmp_path)
    with pytest.warns(UserWarning, match='no part of the encoder') as told: enc = open_start(drawn.path, drawn.size)
    assert set(words) <= set(enc.start.dropped)
    assert any(words[0] in str(o.message) for o in told)


def test_another_image_size_is_no_obstacle(tmp_path):
    "Positions are resized, windows shrink, convolutions take any"
    for name in ('dinov2_registers_hf', 'eva_x', 'swin', 'convnext', 'hybrid'):
        drawn = example(name, tmp_path)
        enc = quietly(open_start, drawn.path, 2*drawn.size)
        assert enc(torch.randn(1, 1, enc.size, enc.size)).shape[1] == 1 + (enc.size//enc.patch)**2


def test_open_clip_itself(tmp_path):
    "Names and numbers of the library, not those that we think it has"
    open_clip = pytest.importorskip('open_clip')
    torch.manual_seed(0)
    vision = dict(image_size=64, patch_size=32, width=768, layers=12, head_width=64)
    text = dict(context_length=8, vocab_size=32, width=64, heads=2, layers=1)
    own = open_clip.CLIP(embed_dim=32, vision_cfg=vision, text_cfg=text, quick_gelu=True).eval()
    save_file({k: v.contiguous() for k, v in own.state_dict().items()}, tmp_path/'clip.safetensors')
    enc = quietly(open_start, tmp_path/'clip.safetensors', 64).eval()
    x = torch.randn(2, 1, 64, 64)
    with torch.no_grad():
        ours = enc(x)[:, 0] @ own.visual.proj
        theirs = own.encode_image(enc.as_learnt(x))
    assert (ours - theirs).abs().max() < 1e-5*theirs.abs().max().clamp(min=1)


# Trained, saved, opened again

def same_weights(a, b):
    "To the last bit; what they answer may differ in the last digit, with the place of a tensor in memory"
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@trained
@torch.no_grad()
def test_some_steps_saved_and_opened_again(tmp_path, data, name):
    "By us, bit for bit; and by timm without us, to the same tokens"
    drawn = example(name, tmp_path)
    how = dict(findings=['cardiomegaly'], size=drawn.size, steps=3, evals=1, bs=4, lr=1e-4)
    with torch.enable_grad(): res = quietly(finetune, data, drawn.path, tmp_path/'run', **how)
    assert res.history['train_loss'].notna().all()
    before = quietly(open_start, drawn.path, drawn.size).vit
    assert any(not torch.equal(a, b) for a, b in zip(before.parameters(), res.model.vision.vit.parameters()))
    again, _ = load_checkpoint(tmp_path/'run'/'model', Classifier)
    assert again.vision.arguments == res.model.vision.arguments and same_weights(again, res.model)
    x = torch.randn(2, 1, drawn.size, drawn.size)
    torch.testing.assert_close(again(x), res.model.eval()(x))
    enc = quietly(encoder_from, tmp_path/'run'/'model').eval()
    assert same_weights(enc, again.vision)
    torch.testing.assert_close(enc(x), again.vision(x))
    folder = enc.save_pretrained(tmp_path/'timm')
    theirs = timm.create_model(f'local-dir:{folder}', pretrained=True).eval()
    assert same_weights(theirs, enc.vit)
    learnt = enc.as_learnt(x)
    torch.testing.assert_close(theirs.forward_features(learnt), enc.vit.forward_features(learnt))
    back = quietly(encoder_from, folder, drawn.size).eval()
    assert (back(x)[:, 0] - enc(x)[:, 0]).abs().max() < 1e-4*enc(x).abs().max()


@pytest.mark.parametrize('name', ['test_vit', *CONVOLUTIONS, 'vit_little_patch16_reg4_gap_256', 'vit_tiny_r_s16_p8_224'])
def test_frozen_and_by_layers(name):
    clf = Classifier(dict(vision=dict(name=name, size=64), findings=['a'], frozen=True))
    state = {k: v.clone() for k, v in clf.vision.state_dict().items()}
    clf.train()(torch.randn(2, 1, 64, 64)).sum().backward()
    assert all(torch.equal(v, state[k]) for k, v in clf.vision.state_dict().items()), 'statistics have moved'
    assert [len(o) for o in classifier_groups(clf)] == [2]
    groups = layer_groups(clf.vision)
    flat = [id(p) for o in groups for p in o]
    assert len(groups) > 3 and sorted(flat) == sorted(map(id, clf.vision.vit.parameters()))


@pytest.mark.parametrize('name', CONVOLUTIONS)
def test_reports_teach_convolutions(name):
    "Fusion, decoder, gradient to every weight; memory of the map's places"
    model = refers_model('nano', vocab=40, size=64, k=2, max_len=9)
    config = dict(model.config, vision=dict(name=name, size=64))
    model = Refers(config).train()
    views, mask = torch.randn(3, 2, 1, 64, 64), torch.tensor([[True, True], [True, False], [True, True]])
    out = model(views, mask, torch.randint(4, 40, (3, 9)))
    assert out.view_weights.shape == (3, 2, 4) and out.logits.shape == (3, 9, 40)
    (out.logits.square().mean() + out.image_embeds.square().mean()).backward()
    assert all(p.grad is not None for p in model.vision.parameters())


def test_pre_training_follows_its_start(tmp_path, data, resnet):
    "The encoder of the file, with its images, in the checkpoint; a crop is a crop to it, too"
    how = dict(preset='nano', size=64, bs=8, epochs=1, vocab=200, tensorboard=False)
    named = dict(how, start=tmp_path/'mae.pth')
    drawn = example('masked_autoencoder', tmp_path)
    drawn.path.rename(tmp_path/'mae.pth')
    folder = quietly(pretrain, data, tmp_path/'reports', **named)
    vision = checkpoint_config(folder)['architecture']['vision']
    assert vision['name'] == 'vit_tiny_patch16_224' and vision['mean'] == [.485, .456, .406] and vision['in_chans'] == 3
    assert load_checkpoint(folder)[0].vision.mean == vision['mean']
    crops = quietly(pretrain_images, data, tmp_path/'crops', 'simclr', preset='nano', size=64, bs=8, epochs=1,
                    tensorboard=False, start=tmp_path/'mae.pth')
    assert checkpoint_config(crops)['architecture']['vision']['std'] == vision['std']
    with pytest.raises(InputError, match='painted grey'):
        quietly(pretrain_images, data, tmp_path/'paint', 'context', preset='nano', size=64, bs=8, epochs=1,
                tensorboard=False, start=tmp_path/'mae.pth')


def test_probe_of_a_convolution(data):
    df = read_studies(data)
    areas = probe(VisionEncoder('test_resnet', 64), df, image_store(data), ['cardiomegaly'])
    assert areas.between(0, 1).all()


# Images as the encoder expects them

def test_nothing_changes_where_images_are_those_of_a_batch():
    "To the bit, and in the configuration"
    plain = VisionEncoder('test_vit', 32)
    same = VisionEncoder('test_vit', 32, mean=[.5], std=[.5])
    same.load_state_dict(plain.state_dict())
    x = torch.randn(2, 1, 32, 32)
    assert torch.equal(plain(x), same(x)) and plain.as_learnt(x) is x and same.as_learnt(x) is x
    assert plain.arguments == dict(name='test_vit', size=32, in_chans=1)
    assert plain.state_dict().keys() == VisionEncoder('test_vit', 32, 3, mean=[.1]*3, std=[.2]*3).state_dict().keys()


def test_grey_is_seen_by_three_channels():
    enc = VisionEncoder('test_vit', 32, in_chans=3, mean=[.485, .456, .406], std=[.229, .224, .225])
    grey = torch.randint(0, 256, (2, 1, 32, 32))
    x = grey/127.5 - 1
    expected = torch.stack([(grey[:, 0]/255 - m)/s for m, s in zip(enc.mean, enc.std)], 1)
    assert torch.allclose(enc.as_learnt(x), expected, atol=1e-6)
    assert torch.equal(enc(x), enc(x.expand(-1, 3, -1, -1)))
    xrv = VisionEncoder('test_resnet', 32, mean=[.5], std=[1/2048])
    assert torch.equal(xrv.as_learnt(x), x*1024)


@pytest.mark.parametrize('wrong, words', [
    (dict(mean=[.5]), 'give both'), (dict(mean=[.5], std=[0.]), 'more than 0'), (dict(mean=[.5, .5], std=[1., 1.]), 'not 2'),
    (dict(mean=['x'], std=[1.]), 'valid number'), (dict(pool='max'), "'token', 'avg' or 'map'"), (dict(patch=0), 'greater than'),
    (dict(mean=[.5]*3, std=[.5]*3), '1 or 1 numbers')])
def test_a_checkpoint_cannot_ask_for_anything(wrong, words):
    with pytest.raises(InputError, match=words): check_schema(dict(name='test_vit') | wrong, VisionNumbers, 'config')


def test_configurations_are_believed_with_care(tmp_path):
    told = dict(pretrained_cfg=dict(mean='__import__("os")', std=[True]), architecture=['a'])
    (tmp_path/'config.json').write_text(json.dumps(told))
    (tmp_path/'preprocessor_config.json').write_text(json.dumps(dict(image_mean=[.1, .2], image_std=None)))
    assert folder_facts(tmp_path) == dict(name=['a'])
    state = timm.create_model('test_vit', num_classes=0).state_dict()
    save_file(state, tmp_path/'model.safetensors')
    assert encoder_from(tmp_path, 32, dict(name='test_vit')).mean is None


def test_the_reader_knows_better(tmp_path):
    "Mean and deviation, where neither file nor layout tells them"
    drawn = example('normed_mean', tmp_path)
    enc = encoder_from(drawn.path, 64, dict(mean=[.4978], std=[.2449]))
    assert (enc.mean, enc.std, enc.in_chans) == ([.4978], [.2449], 1)


# What does not fit

def test_patches_are_never_resized(tmp_path):
    drawn = example('eva_x', tmp_path)
    enc = quietly(vision_encoder, 'eva02_tiny_patch14_224', 64, drawn.path)
    assert enc.patch == 16 and enc.options.get("patch") == 16
    state = timm.create_model('vit_tiny_patch16_224', num_classes=0, patch_size=8).state_dict()
    save_file(state, tmp_path/'eight.safetensors')
    assert encoder_from(tmp_path/'eight.safetensors', 64).patch == 8


@pytest.mark.parametrize('name, size, sides', [('eva02_tiny_patch14_224', 160, '154 or 168'), ('test_vit', 40, '32 or 48'),
                                               ('resnet18', 20, '32'), ('swin_tiny_patch4_window7_224', 112, '96 or 128')])
def test_the_next_sides_that_fit_are_named(name, size, sides):
    with pytest.raises(InputError, match=f'must be a multiple of .*; take {sides}$'): VisionEncoder(name, size)


@pytest.mark.parametrize('name', ['naflexvit_base_patch16_gap', 'xcit_nano_12_p8_224', 'mobilenetv3_small_100', 'levit_128'])
def test_what_cannot_be_had_is_one_line(name):
    with pytest.raises(InputError, match=f'No encoder `{name}`') as e: VisionEncoder(name, 224)
    assert '\n' not in str(e.value) and len(str(e.value)) < 400


def test_what_fits_nothing_says_what_to_give(tmp_path):
    state = timm.create_model('test_vit', num_classes=0).state_dict()
    save_file({f'odd.{k}': v for k, v in state.items()}, tmp_path/'odd.safetensors')
    with pytest.raises(InputError, match='give arch=dict'): encoder_from(tmp_path/'odd.safetensors', 32)
    drawn = example('dinov2_hf', tmp_path)
    path = drawn.path/'model.safetensors'
    state = load_file(path)
    key = next(k for k in state if '.3.norm1.weight' in k)
    save_file({k: v for k, v in state.items() if k != key} | {'odd.weight': torch.zeros(2)}, path, metadata={'format': 'pt'})
    with pytest.raises(InputError, match=r'missing blocks\.3\.norm1\.weight; unexpected odd\.weight'):
        open_start(drawn.path, 56)
    torch.save({'state_dict': {}}, tmp_path/'empty.pth')
    with pytest.raises(InputError, match='holds no weights'): encoder_from(tmp_path/'empty.pth')


@pytest.mark.parametrize('name', CONVOLUTIONS)
def test_what_needs_a_transformer_says_so(name):
    model = refers_model('nano', vocab=40, size=64, k=1)
    model = Refers(dict(model.config, vision=dict(name=name, size=64)))
    with pytest.raises(InputError, match='no attention that can be read'): rollout(model.vision, torch.randn(1, 1, 64, 64))
    with pytest.raises(InputError, match='cannot leave out patches'): drop_patches(model, .5)
    assert drop_patches(model, 0) is model and recompute(model) is model


# By command, and side by side

def test_unlike_encoders_in_one_table(call, tmp_path, data, resnet):
    starts = dict(net=str(resnet), vit='random')
    how = dict(fractions=[1.], seeds=[0], steps=2, evals=1, bs=4, size=64, findings=['cardiomegaly'],
               arch=dict(name='test_resnet'))
    small = tmp_path/'vit.safetensors'
    save_file(timm.create_model('test_vit', num_classes=0).state_dict(), small)
    starts = dict(net=str(resnet), vit=str(small))
    with pytest.raises(InputError, match='--unlike'): label_efficiency(data, starts, tmp_path/'a', **how)
    res = label_efficiency(data, starts, tmp_path/'b', unlike=True, **how)
    assert dict(zip(res['init'], res['encoder'])) == dict(net='test_resnet', vit='test_vit')
    assert (res['parameters'] > 1e5).all() and (res['images_per_second'] > 0).all()
    assert {'encoder', 'parameters', 'images_per_second'} <= set(efficiency_table(res))
    assert 'parameters' in pd.read_csv(tmp_path/'b'/'results.csv')
    again = label_efficiency(data, starts, tmp_path/'b', unlike=True, **how)
    assert again['images_per_second'].tolist() == res['images_per_second'].tolist()


def test_the_command_takes_a_file_by_its_path(call, tmp_path, data):
    drawn = example('densenet121', tmp_path)
    few = ['--fractions', 1, '--seeds', 0, '--steps', 2, '--bs', 4, '--size', 64, '--findings', 'cardiomegaly']
    code, said, err = call('refers-finetune', data, drawn.path, tmp_path/'one', *few, REFERS_NB_PROGRESS='0')
    assert code == 0 and 'macro AUROC' in said, err
    vision = checkpoint_config(tmp_path/'one'/'model')['architecture']['vision']
    assert vision == dict(name='densenet121', size=64, in_chans=1, mean=[.5], std=[1/2048])
    few = [*few, '--against', 'random', '--unlike']
    small = example('convnext', tmp_path).path
    code, said, err = call('refers-finetune', data, small, tmp_path/'two', *few, REFERS_NB_PROGRESS='0')
    assert code == 0 and 'images_per_second' in said and 'vit_tiny' in said, err
