"Pre-training: one table of defaults, one word for a start"
import inspect
import pytest
from refers_nb.core import InputError
from refers_nb.settings import KEYS, default, settings
from refers_nb.training.baselines import pretrain_images
from refers_nb.training.finetune import classifier_learner, finetune, finetune_learner
from refers_nb.training.pretrain import RefersArgs, RunArgs, pretrain, pretrain_learner
from refers_nb.comparison import shared_architecture
from refers_nb.models.refers import PRESETS
from refers_nb.settings import settings
from refers_nb.training.starts import encoder_from, preset_of, resolve_start


@pytest.mark.parametrize('section, function, keys', [
    ('pretrain', pretrain, {*KEYS['pretrain']}),
    ('pretrain', RefersArgs, {*KEYS['pretrain']}),
    ('pretrain', RunArgs, {*KEYS['pretrain']} - {'accum', 'tau', 'lam'}),
    ('pretrain', pretrain_images, {*KEYS['pretrain']} - {'accum', 'tau', 'lam'}),
    ('pretrain', pretrain_learner, {'accum', 'opt', 'lr', 'wd'}),
    ('finetune', finetune, {*KEYS['finetune']} - {'fractions', 'seeds'}),
    ('finetune', finetune_learner, {*KEYS['finetune']} - {'fractions', 'seeds'}),
    ('finetune', classifier_learner, {'opt', 'lr'}),
    ('run', pretrain, {'device', 'precision', 'seed'}),
    ('run', pretrain_images, {'device', 'precision', 'seed'}),
    ('run', finetune, {'device', 'precision', 'seed'})])
def test_every_default_of_a_function_is_that_of_the_settings(section, function, keys):
    params = inspect.signature(function).parameters
    found = {k: params[k].default for k in KEYS[section] if k in params and k not in ('workers', 'out')}
    assert found.keys() == keys
    assert found == {k: default(section, k) for k in keys}


def test_imagenet_is_looked_up_and_all_else_is_itself(tmp_path, monkeypatch):
    monkeypatch.setenv('REFERS_NB_WEIGHTS_VIT_SMALL', str(tmp_path/'vit.safetensors'))
    assert resolve_start('imagenet', 'small') == str(tmp_path/'vit.safetensors')
    assert resolve_start('imagenet') == str(settings().weights.vit_tiny)
    for start in ('random', 'vit_tiny_patch16_224', tmp_path): assert resolve_start(start) == str(start)
    with pytest.raises(InputError, match='start is None'): resolve_start(None)
    with pytest.raises(InputError, match="preset is 'huge'"): resolve_start('imagenet', 'huge')
    assert [preset_of(f'vit_{o}_patch16_224') for o in ('tiny', 'small', 'base')] == ['tiny', 'small', 'base']
    assert preset_of('test_vit') == 'nano'
    with pytest.raises(InputError, match='vit.safetensors'):
        encoder_from('imagenet', 32, dict(name='vit_small_patch16_224'))


def test_the_encoder_learns_slower_from_weights_than_from_random(monkeypatch):
    monkeypatch.setenv('REFERS_NB_WEIGHTS_VIT_TINY', 'vit_tiny_patch16_224.augreg_in21k_ft_in1k')
    assert (RunArgs().vision_lr, RunArgs().weights) == (.2, 'vit_tiny_patch16_224.augreg_in21k_ft_in1k')
    assert (RunArgs(start='random').vision_lr, RunArgs(start='random').weights) == (1., None)
    assert RunArgs(start='random', vision_lr=.5).vision_lr == .5

@pytest.mark.parametrize('preset', PRESETS)
def test_a_comparison_takes_the_encoder_of_any_preset(preset):
    arch, _ = shared_architecture('random', None, settings(pretrain_preset=preset))
    assert arch['name'] == PRESETS[preset]['vision']['name']
