"Foreign weights of an encoder: data only, and silence only where all fits"
import pytest, torch
from hypothesis import HealthCheck, given, settings as hyp, strategies as st

from refers_nb.core import InputError
from refers_nb.models.formats import from_finetuned, from_released
from refers_nb.models.refers import refers_model
from refers_nb.models.vision import mismatch, read_weights, vision_encoder


class Trap:
    def __init__(self, path): self.path = path
    def __reduce__(self): return open, (str(self.path), 'w')


@pytest.mark.parametrize('read', [from_released, from_finetuned, read_weights])
def test_a_foreign_file_holds_data_only(tmp_path, read):
    path = tmp_path/'refers.pth'
    mark = tmp_path/'executed'
    torch.save({'model': {'w': torch.zeros(2)}, 'optimizer': Trap(mark)}, path)
    with pytest.raises(InputError, match='nothing in it was executed'): read(path)
    assert not mark.exists()
    torch.save({'model': {'w': torch.zeros(2), 'name': 'refers'}}, path)
    with pytest.raises(InputError, match='not a flat dictionary'): read(path)


SIZES = st.dictionaries(st.sampled_from('abcd'), st.integers(1, 3))

@hyp(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(SIZES, SIZES)
def test_mismatch_is_silent_only_when_all_fits(want, have):
    states = [{k: torch.zeros(n) for k, n in sizes.items()} for sizes in (want, have)]
    assert (mismatch(*states) == '') == (want == have)


@pytest.mark.parametrize('build', [
    lambda start: vision_encoder('test_vit', 32, start),
    lambda start: refers_model('tiny', start, vocab=20, size=32, k=1)])
def test_none_and_the_word_random_are_the_same_start(build):
    "Every way to ask for random weights draws the same numbers"
    states = []
    for start in ('random', None, ''):
        torch.manual_seed(0)
        states.append(build(start).state_dict())
    for other in states[1:]:
        assert all(torch.equal(a, b) for a, b in zip(states[0].values(), other.values()))
