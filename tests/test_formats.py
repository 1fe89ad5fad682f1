"Encoders for others: what is no ViT of `transformers` is refused, and nothing is left behind"
import pytest

from refers_nb.core import InputError
from refers_nb.models.formats import save_hf
from refers_nb.models.vision import VisionEncoder


@pytest.mark.parametrize('name', ['vit_small_patch14_reg4_dinov2', 'deit3_small_patch16_224',
                                  'vit_base_patch16_clip_224', 'beit_base_patch16_224'])
def test_what_is_no_vit_of_transformers_is_refused(tmp_path, name):
    folder = tmp_path/'mine'
    folder.mkdir()
    enc = VisionEncoder(name, size=28 if '14' in name else 32)
    with pytest.raises(InputError, match='no ViTModel'): save_hf(enc, folder)
    assert not any(folder.iterdir())
