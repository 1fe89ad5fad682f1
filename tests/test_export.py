"ONNX files: the same answers for every batch, ten lines without this library, places that are not ours, bad input"
import hashlib
import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip('onnxruntime')

from refers_nb import export
from refers_nb.core import InputError
from refers_nb.data.augment import Augment
from refers_nb.data.radiograph import load_radiograph
from refers_nb.export import (
    TOLERANCE, export_onnx, exported_model, largest_difference, onnx_session, told_by)
from refers_nb.models.hub import save_checkpoint
from refers_nb.models.vision import VisionEncoder
from refers_nb.training.classifier import Classifier
from small_studies import tiny_writer

ROOT = Path(__file__).resolve().parent.parent
FINDINGS = ['cardiomegaly', 'left effusion', 'right effusion']


@pytest.fixture(scope='module')
def call(call): return partial(call, REFERS_NB_PROGRESS='0')


def classifier(folder, stored=64, resize_mode='letterbox', size=32, name='test_vit', **facts):
    "A classifier that has learnt nothing, with weights large enough for its answers to differ"
    torch.manual_seed(0)
    model = Classifier.on(VisionEncoder(name, size=size), FINDINGS)
    with torch.no_grad(): model.head.weight.normal_(std=1)
    data = dict(stored=stored, resize_mode=resize_mode) if stored else {}
    return save_checkpoint(model, None, folder, dict(data=data, **facts))


@pytest.fixture(scope='module', autouse=True)
def once():
    "The same network is translated once: that takes PyTorch seconds"
    kept, translate = {}, export.translated
    def translated(net):
        if sum(o.numel()*o.element_size() for o in net.state_dict().values()) > export.LARGEST: return translate(net)
        state = hashlib.sha256(b''.join(o.numpy().tobytes() for o in net.state_dict().values())).hexdigest()
        key = net.what, net.vision.name, state
        if key not in kept: kept[key] = translate(net)
        return kept[key]
    with pytest.MonkeyPatch.context() as p:
        p.setattr(export, 'translated', translated)
        yield


@pytest.fixture(scope='module')
def place(tmp_path_factory):
    "A classifier, a model that has read reports, and pictures of many shapes"
    folder = tmp_path_factory.mktemp('export')
    classifier(folder/'classifier')
    save_checkpoint(*tiny_writer(), folder/'refers')
    rng = np.random.default_rng(0)
    for w, h in ((64, 64), (200, 130), (90, 301), (31, 40)):
        smooth = Image.fromarray(rng.integers(0, 255, (9, 7), dtype=np.uint8)).resize((w, h), Image.Resampling.BICUBIC)
        smooth.save(folder/f'{w}x{h}.png')
    Image.fromarray(rng.integers(0, 255, (60, 50, 3), dtype=np.uint8)).save(folder/'colour.png')
    Image.fromarray(rng.integers(0, 255, (40, 30), dtype=np.uint8)).resize((700, 900)).save(folder/'large.jpg')
    return folder


# The same answers

@pytest.mark.parametrize('what, names', [
    ('classifier', ['probabilities', 'logits']), ('encoder', ['features']), ('both', ['probabilities', 'logits', 'features'])])
def test_every_answer_has_a_name_and_any_batch(place, what, names):
    facts = export_onnx(place/'classifier', place/f'{what}.onnx', what)
    session = onnx_session(place/f'{what}.onnx')
    assert facts['outputs'] == names == [o.name for o in session.get_outputs()]
    assert [o.name for o in session.get_inputs()] == ['image'] and session.get_inputs()[0].shape[1:] == [1, 32, 32]
    net = exported_model(place/'classifier', what)
    assert largest_difference(place/f'{what}.onnx', net, (1, 2, 3, 16, 65)) < TOLERANCE
    probs = dict(zip(names, session.run(None, {'image': np.zeros((5, 1, 32, 32), np.float32)})))
    if what != 'encoder': np.testing.assert_allclose(probs['probabilities'], 1/(1 + np.exp(-probs['logits'])), atol=1e-6)
    if what != 'classifier': assert probs['features'].shape == (5, 64)


def test_a_calibration_that_is_kept_is_in_the_probabilities(tmp_path):
    point = dict(method='platt', slope=.5, intercept=-1., threshold=.2, positives=40, negatives=60)
    folder = classifier(tmp_path/'m', operating=dict(
        rule='youden', unit='image', tta=False, split='valid', films=100, patients=90, findings=dict(cardiomegaly=point)))
    facts = export_onnx(folder, tmp_path/'m.onnx')
    assert facts['points'] == {FINDINGS[0]: dict(slope=.5, intercept=-1., threshold=.2)} | {o: dict(slope=1., intercept=0., threshold=.5) for o in FINDINGS[1:]}
    assert facts['operating'] == dict(rule='youden', unit='image', tta=False, split='valid', films=100)
    image = np.random.default_rng(0).normal(size=(4, 1, 32, 32)).astype(np.float32)
    probs, logits = onnx_session(tmp_path/'m.onnx').run(None, dict(image=image))
    scaled = logits*[.5, 1, 1] + [-1, 0, 0]
    np.testing.assert_allclose(probs, 1/(1 + np.exp(-scaled)), atol=1e-6)


def test_a_model_that_reads_reports_is_an_encoder(place):
    facts = export_onnx(place/'refers', place/'refers.onnx', stored=64, resize_mode='crop')
    assert facts['what'] == 'encoder' and facts['findings'] == [] and facts['film']['resize_mode'] == 'crop'


@pytest.mark.slow
@pytest.mark.parametrize('name, size', [('vit_tiny_patch16_224', 224), ('vit_small_patch14_dinov2', 112), ('deit3_small_patch16_224', 96)])
def test_encoders_of_timm(tmp_path, name, size):
    folder = classifier(tmp_path/'m', name=name, size=size)
    assert export_onnx(folder, tmp_path/'m.onnx', 'both')['difference'] < TOLERANCE


def test_it_is_one_file_that_tells_nothing_of_this_machine(place):
    folder = place/'alone'
    facts = export_onnx(place/'classifier', folder/'film.onnx')
    assert sorted(o.name for o in folder.iterdir()) == ['film.json', 'film.onnx']
    content = (folder/'film.onnx').read_bytes()
    said = (folder/'film.json').read_text()
    assert json.loads(said) == facts and facts['sha256'] == hashlib.sha256(content).hexdigest()
    for word in (str(ROOT), str(place), sys.prefix, 'site-packages', '.py', Path.home().name + '/'):
        assert word.encode() not in content and word not in said, word
    inside = told_by(folder/'film.onnx')
    assert inside == {k: v for k, v in facts.items() if k not in ('difference', 'bytes', 'sha256')}


# Without this library

def ten_lines():
    "The cell of the notebook that needs onnxruntime, NumPy and Pillow alone"
    cells = json.loads((ROOT/'nbs'/'53_export.ipynb').read_text(encoding='utf-8'))['cells']
    texts = [''.join(o['source']) for o in cells]
    found = [o for o in texts if o.startswith('# Needs onnxruntime, NumPy and Pillow')]
    assert len(found) == 1
    return found[0]


ALONE = '''
import sys
class Without:
    "A finder that does not find PyTorch and this library, as if they were not installed"
    def __init__(self, finder): self.finder = finder
    def find_spec(self, name, path=None, target=None):
        blocked = name.split('.')[0] in ('torch', 'refers_nb', 'timm', 'fastai', 'onnx', 'scipy')
        return None if blocked else self.finder.find_spec(name, path, target)
    def __getattr__(self, o): return getattr(self.finder, o)
sys.meta_path[:] = [Without(o) for o in sys.meta_path]
given = sys.argv[1:]
'''
REPEATED = '''
out = given[0]
for picture in given[1:]:
    exec(LINES)
    print(json.dumps(dict(zip(facts['findings'], map(float, answers[0][0])))))
assert not {'torch', 'refers_nb', 'onnx'} & set(sys.modules)
'''


@pytest.mark.parametrize('resize_mode', ['letterbox', 'crop', 'squash'])
def test_ten_lines_give_our_probabilities(tmp_path, place, resize_mode):
    folder = classifier(tmp_path/'m', 96, resize_mode)
    export_onnx(folder, tmp_path/'m.onnx')
    pictures = [*sorted(place.glob('*.png')), place/'large.jpg']
    code = f'{ALONE}\nLINES = {ten_lines()!r}\n{REPEATED}'
    r = subprocess.run([sys.executable, '-c', code, tmp_path/'m.onnx', *pictures], capture_output=True, text=True, cwd='/')
    assert r.returncode == 0, r.stderr
    found = np.array([list(json.loads(o).values()) for o in r.stdout.splitlines()])
    films = np.stack([load_radiograph(o, 96, resize_mode) for o in pictures])
    model = exported_model(folder)
    with torch.no_grad(): wanted = model(Augment(32)(torch.from_numpy(films)[:, None]))[0].numpy()
    assert found.shape == wanted.shape == (6, 3) and wanted.std() > .05
    np.testing.assert_allclose(found, wanted, atol=1e-4)


# Places

def test_a_file_of_ours_is_replaced_and_others_are_not(place, tmp_path):
    out = tmp_path/'film.onnx'
    export_onnx(place/'classifier', out)
    first = export_onnx(place/'classifier', out, 'encoder')
    assert told_by(out)['what'] == 'encoder' and json.loads(out.with_suffix('.json').read_text()) == first
    whole = out.read_bytes()
    out.with_suffix('.json').write_text('{"mine": 1}')
    with pytest.raises(InputError, match='film.json was not written by'): export_onnx(place/'classifier', out)
    out.with_suffix('.json').write_text('no JSON')
    with pytest.raises(InputError, match='cannot be read as JSON'): export_onnx(place/'classifier', out)
    assert out.read_bytes() == whole
    for content in (b'', b'text', os.urandom(300), (place/'64x64.png').read_bytes()):
        other = tmp_path/'other.onnx'
        other.write_bytes(content)
        with pytest.raises(InputError, match='was not written by refers-export'): export_onnx(place/'classifier', other)
        assert other.read_bytes() == content


def test_a_foreign_onnx_file_is_kept(place, tmp_path):
    import onnx
    from onnx import TensorProto, helper
    x, y = (helper.make_tensor_value_info(o, TensorProto.FLOAT, [1]) for o in 'xy')
    model = helper.make_model(helper.make_graph([helper.make_node('Identity', ['x'], ['y'])], 'g', [x], [y]))
    onnx.save(model, tmp_path/'foreign.onnx')
    before = (tmp_path/'foreign.onnx').read_bytes()
    with pytest.raises(InputError, match='choose another name'): export_onnx(place/'classifier', tmp_path/'foreign.onnx')
    assert (tmp_path/'foreign.onnx').read_bytes() == before


def test_what_fails_leaves_the_old_file(place, tmp_path, monkeypatch):
    out = tmp_path/'film.onnx'
    export_onnx(place/'classifier', out)
    whole = {o.name: o.read_bytes() for o in tmp_path.iterdir()}
    with monkeypatch.context() as p:
        p.setattr(export, 'largest_difference', lambda *_: .01)
        with pytest.raises(InputError, match='differs from PyTorch by 0.01'): export_onnx(place/'classifier', out, 'both')
    with monkeypatch.context() as p:
        p.setattr(export, 'LARGEST', 1000)
        with pytest.raises(InputError, match='one ONNX file holds 1,000'): export_onnx(place/'classifier', out, 'both')
    assert {o.name: o.read_bytes() for o in tmp_path.iterdir()} == whole


def test_a_wrong_translation_is_seen(place, tmp_path):
    "A file of other weights is not within the tolerance"
    net = exported_model(place/'classifier')
    export_onnx(place/'classifier', tmp_path/'film.onnx')
    assert largest_difference(tmp_path/'film.onnx', net) < TOLERANCE
    with torch.no_grad(): net.head.bias += .01
    assert largest_difference(tmp_path/'film.onnx', net) == pytest.approx(.01, rel=.1)


def test_two_at_a_time_is_one_too_many(place, tmp_path):
    from refers_nb.locks import file_lock
    with file_lock(tmp_path/'.film.onnx.lock', 'held'):
        with pytest.raises(InputError, match='another process'): export_onnx(place/'classifier', tmp_path/'film.onnx')
    assert list(tmp_path.iterdir()) == []


# Bad input

def refused(result, word, command='refers-export'):
    code, out, err = result
    assert code == 1 and out == '' and len(err.strip().splitlines()) == 1, (code, out, err)
    assert word in err and err.startswith(command), err


def test_bad_input_is_one_line(place, tmp_path, call):
    unsaid = classifier(tmp_path/'unsaid', stored=None)
    (tmp_path/'file').write_text('x')
    (tmp_path/'folder.onnx').mkdir()
    (tmp_path/'weights.pt').write_bytes(b'\x80\x02')
    model, out = place/'classifier', tmp_path/'new'/'film.onnx'
    bad = [((tmp_path/'gone', out), 'no checkpoint'),
           ((tmp_path/'weights.pt', out), 'pickle'),
           ((tmp_path, out), 'is no checkpoint'),
           ((place/'64x64.png', out), 'is a file'),
           ((place/'refers', out, '--what', 'classifier'), 'holds a Refers, which knows no findings'),
           ((place/'refers', out, '--what', 'both'), 'knows no findings'),
           ((place/'refers', out), 'does not say how its films were stored'),
           ((unsaid, out), '--stored'),
           ((model, out, '--what', 'decoder'), "what is 'decoder'"),
           ((model, out, '--resize-mode', 'stretch'), "'stretch'"),
           ((model, out, '--stored', 0), 'stored is 0'),
           ((model, tmp_path/'film'), 'ends in .onnx'),
           ((model, tmp_path/'film.pt'), 'ends in .onnx'),
           ((model, tmp_path/'folder.onnx'), 'is a folder'),
           ((model, tmp_path/'file'/'film.onnx'), 'file')]
    for args, word in bad: refused(call('refers-export', *args), word)
    assert not (tmp_path/'new').exists()
    assert call('refers-export', model)[0] == 2


def test_a_folder_that_is_missing_is_made(place, tmp_path, call):
    code, out, err = call('refers-export', place/'classifier', tmp_path/'a'/'b'/'film.onnx')
    assert code == 0 and 'findings: cardiomegaly' in out and 'not for clinical use' in out, err
    assert sorted(o.name for o in (tmp_path/'a'/'b').iterdir()) == ['film.json', 'film.onnx']


@pytest.mark.skipif(not Path('/proc/self').exists(), reason='there is no /proc, where nobody may make a file')
def test_a_folder_that_cannot_be_written(place, call):
    refused(call('refers-export', place/'classifier', '/proc/film.onnx'), '/proc')


@pytest.mark.parametrize('missing', ['onnx', 'onnxruntime', 'onnxscript'])
def test_without_the_extra(place, tmp_path, call, monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    refused(call('refers-export', place/'classifier', tmp_path/'film.onnx'), "pip install 'refers_nb[onnx]'")
    assert list(tmp_path.iterdir()) == []
