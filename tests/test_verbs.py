"What one does with a Learner of fastai, done with ours: a table of verbs, each run on every kind of Learner"
import pickle
from dataclasses import dataclass
from pathlib import Path
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import timm
import torch
from fastai.callback.fp16 import MixedPrecision
from fastai.callback.progress import CSVLogger, ShowGraphCallback
from fastai.callback.schedule import ParamScheduler, SchedNo
from fastai.callback.tensorboard import TensorBoardCallback
from fastai.callback.tracker import EarlyStoppingCallback, SaveModelCallback
from fastai.callback.training import GradientAccumulation
from fastai.interpret import Interpretation
from fastai.learner import load_learner
from fastai.torch_core import to_detach, to_float
from PIL import Image
from refers_nb.core import InputError
from refers_nb.data.loaders import LabelDataLoaders, StudyDataLoaders
from refers_nb.data.prepare import prepare
from refers_nb.data.report import swap_sides
from refers_nb.data.store import ImageStore
from refers_nb.data.studies import read_studies
from refers_nb.data.tokens import EncoderTokenizer, TensorReport, Tokenizer
from refers_nb.data.views import Views
from refers_nb.models.generate import generate
from refers_nb.models.refers import Output, Refers, refers_config
from refers_nb.training.callbacks import setup_progress
from refers_nb.training.classifier import Classifier, MaskedBCE
from refers_nb.training.finetune import classifier_learner
from refers_nb.training.losses import RefersLoss
from refers_nb.training.reports import pretrain_learner, RefersLists, WriteReports
from radiograph_files import dicom

plt.switch_backend('agg')
pytestmark = pytest.mark.filterwarnings('ignore')


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    "Forty phantom studies"
    folder = tmp_path_factory.mktemp('verbs')/'data'
    prepare('phantom', 40, folder, size=32, valid=.3, test=.2, workers=1)
    return folder


@pytest.fixture(scope='module')
def film(folder):
    "The path of an image"
    df = read_studies(folder)
    return Path(df.attrs['root'])/df['path'].iloc[0]


@dataclass
class Kind:
    "One kind of Learner: how it is made, and what the verbs give"
    make:object    # (folder, path) -> Learner
    preds:object   # get_preds' predictions -> number of items
    said:object    # What `predict` gives, looked at
    items:object   # Items of a new loader: (film) -> list
    lists:int      # Lists of parameters


def make_classifier(folder, path):
    torch.manual_seed(0)
    dls = LabelDataLoaders.from_table(folder, size=32, bs=8, path=path)
    arch = dict(name='test_vit', in_chans=1)
    return classifier_learner(dls, Classifier.from_start('random', dls.vocab, size=32, arch=arch))


def classifier_said(learn, said):
    names, present, probs = said
    assert list(probs.index) == learn.dls.vocab and probs.between(0, 1).all()
    assert names == list(probs.index[probs > .5]) == list(present.index[present])


def make_reports(folder, path):
    torch.manual_seed(0)
    dls = StudyDataLoaders.from_table(folder, vocab=400, max_len=24, size=32, k=2, bs=8, path=path)
    part = dict(width=64, heads=2)
    config = refers_config(
        vocab=len(dls.vocab), size=32, k=2, max_len=24, text=part | dict(depth=1), decoder=part | dict(ff=64))
    config['vision']['name'] = 'test_vit'                        # timm's own for tests
    return pretrain_learner(dls, Refers(config))


def vectors(preds):
    "Studies whose vectors were given, with or without those of their reports"
    study, *text = [preds] if isinstance(preds, torch.Tensor) else preds
    assert study.ndim == 2 and all(o.shape == study.shape for o in text)
    return len(study)


def report_said(learn, said): assert isinstance(said, str) and len(said.splitlines()) <= 1


KINDS = dict(
    classifier=Kind(make_classifier, len, classifier_said, lambda film: [film]*3, 2),
    reports=Kind(make_reports, vectors, report_said, lambda film: [film, [film, film], [film]], 3))


@pytest.fixture(params=KINDS)
def kind(request): return KINDS[request.param]


@pytest.fixture
def learn(kind, folder, tmp_path):
    "A Learner that has not learnt yet"
    learn = kind.make(folder, tmp_path)
    with learn.no_bar(), learn.no_logging(): yield learn
    plt.close('all')


def weights(learn): return {k: v.clone() for k, v in learn.model.state_dict().items()}


def same(a, b): return all(torch.equal(a[k], b[k]) for k in a)


def rates(learn): return np.array(learn.recorder.lrs)


# Training

TRAININGS = {
    'fit': lambda learn: learn.fit(1),
    'fit with a rate': lambda learn: learn.fit(1, 1e-4),
    'fit with a slice': lambda learn: learn.fit(1, slice(1e-5, 1e-3)),
    'fit_one_cycle': lambda learn: learn.fit_one_cycle(1),
    'fit_one_cycle with a slice': lambda learn: learn.fit_one_cycle(1, slice(1e-5, 1e-3)),
    'fit_flat_cos': lambda learn: learn.fit_flat_cos(1),
    'fine_tune': lambda learn: learn.fine_tune(1)}

@pytest.mark.parametrize('how', TRAININGS)
def test_trains(learn, how):
    before = weights(learn)
    TRAININGS[how](learn)
    assert not same(before, weights(learn))
    assert np.isfinite(np.array(learn.recorder.values[-1][:2], float)).all()


def test_the_schedule_is_the_learners_own(learn):
    learn.fit(2)
    own = rates(learn)
    assert own.argmax() not in (0, len(own) - 1) and own[-1] < own.max()/2
    peak = learn.max_lrs[-1]
    assert own.max() <= peak
    learn.fit(1, 1e-4)
    assert set(rates(learn)) == {1e-4}
    learn.fit(1, cbs=ParamScheduler({'lr': SchedNo(3e-5, 3e-5)}))
    assert set(rates(learn)) == {3e-5}
    learn.add_cb(ParamScheduler({'lr': SchedNo(2e-5, 2e-5)}))
    learn.fit(1)
    assert set(rates(learn)) == {2e-5}


def test_freezing_counts_the_lists_of_the_splitter(kind, learn):
    lists = [list(o) for o in learn.splitter(learn.model)]
    assert len(lists) == kind.lists
    def learns(): return [all(p.requires_grad for p in o) for o in lists]
    def rests(): return [not any(p.requires_grad for p in o) for o in lists]
    learn.freeze()
    assert learns() == [False]*(kind.lists - 1) + [True] and rests()[:-1] == [True]*(kind.lists - 1)
    before = weights(learn)
    learn.fit(1)
    moved = {k for k, v in weights(learn).items() if not torch.equal(v, before[k])}
    last = {id(p) for p in lists[-1]}
    assert moved and all(id(p) in last for k, p in learn.model.named_parameters() if k in moved)
    learn.freeze_to(1)
    assert rests()[0] and all(learns()[1:])
    learn.unfreeze()
    assert all(learns())
    learn.fit(1)


@pytest.mark.parametrize('given', [slice(1e-3), slice(1e-5, 1e-3), 'list', 2e-4], ids=str)
def test_rates_are_told_by_list(kind, learn, given):
    n = kind.lists
    if given == 'list': given = [10.**-(i + 3) for i in range(n)]
    learn.fit(1, given)
    if given == slice(1e-3): want = [1e-4]*(n - 1) + [1e-3]
    elif isinstance(given, slice): want = np.geomspace(1e-5, 1e-3, n)
    else: want = given if isinstance(given, list) else [given]*n
    assert [o['lr'] for o in learn.opt.hypers] == pytest.approx(np.repeat(want, 2))


def test_weight_decay_spares_norms_and_biases(kind, learn):
    learn.fit(1, wd=.3)
    assert [o['wd'] for o in learn.opt.hypers] == [.3, 0.]*kind.lists


def test_lr_find_leaves_the_model_as_it_was(learn):
    before = weights(learn)
    found = learn.lr_find(num_it=12, show_plot=False)
    assert found.valley > 0 and same(before, weights(learn))


@pytest.mark.parametrize('how', ['to_bf16', 'to_fp16', 'to_fp32'])
def test_precision(learn, how):
    seen = set()
    hook = next(m for m in learn.model.modules() if isinstance(m, torch.nn.Linear)).register_forward_hook(
        lambda module, args, out: seen.add(out.dtype))
    assert getattr(learn, how)() is learn
    learn.fit(1)
    hook.remove()
    assert seen == {getattr(torch, dict(to_bf16='bfloat16', to_fp16='float16', to_fp32='float32')[how])}
    learn.to_fp32().fit(1)


# Callbacks of fastai

def test_callbacks_of_fastai(learn, tmp_path):
    cbs = [SaveModelCallback(), EarlyStoppingCallback(patience=3), CSVLogger(), GradientAccumulation(16)]
    learn.fit(2, cbs=cbs)
    assert len(pd.read_csv(tmp_path/'history.csv')) == 2
    assert (tmp_path/'models/model.pth').exists()


def test_early_stopping_stops(learn):
    learn.fit(5, 0., cbs=EarlyStoppingCallback(patience=1))
    assert len(learn.recorder.values) == 2


def test_mixed_precision(learn): learn.fit(1, cbs=MixedPrecision())


def test_tensorboard(learn, tmp_path):
    learn.fit(1, cbs=TensorBoardCallback(tmp_path/'logs', trace_model=False, log_preds=True))
    assert list((tmp_path/'logs').iterdir())


def test_tensorboard_draws_the_model(learn, tmp_path):
    learn.fit(1, cbs=TensorBoardCallback(tmp_path/'logs', trace_model=True, log_preds=False))
    assert list((tmp_path/'logs').iterdir())


def test_graph(kind, folder, tmp_path):
    learn = kind.make(folder, tmp_path)
    with learn.no_logging(): learn.fit(1, cbs=ShowGraphCallback())


def test_plot_loss(learn):
    learn.fit(2)
    assert learn.recorder.plot_loss(skip_start=0).lines


# What comes of it

def test_validate(learn):
    values = learn.validate()
    assert np.isfinite(values[0]) and len(values) == 1 + len(learn.metrics)


def test_get_preds(kind, learn):
    n = len(learn.dls.valid_ds)
    preds, targets = learn.get_preds()
    assert kind.preds(preds) == n == len(targets)
    preds, targets, decoded, losses = learn.get_preds(with_loss=True, with_decoded=True)
    assert losses.shape == (n,) and losses.isfinite().all() and len(decoded) == n
    inputs, preds, targets = learn.get_preds(ds_idx=0, with_input=True)
    assert kind.preds(preds) == len(learn.dls.train_ds)


def test_losses_of_items_do_not_depend_on_the_batch(learn):
    one = learn.get_preds(with_loss=True)[-1]
    again = learn.get_preds(with_loss=True)[-1]
    assert torch.equal(one, again)


def test_predictions_leave_the_training_as_it_was(kind, folder, tmp_path):
    "Looking at the training split draws nothing that the training would draw"
    found = []
    for looks in (False, True):
        learn = kind.make(folder, tmp_path)
        with learn.no_bar(), learn.no_logging():
            torch.manual_seed(0)
            learn.fit(1)
            if looks:
                learn.get_preds(ds_idx=0)
                learn.show_results(ds_idx=0)
            torch.manual_seed(1)
            learn.fit(1)
        found.append(weights(learn))
    assert same(*found)


def test_predict_in_every_way(kind, learn, film):
    grey = np.array(Image.open(film).convert('L'))
    ways = [film, str(film), grey, Image.open(film), torch.from_numpy(grey), [film, film], np.stack([grey]*3, -1)]
    said = [learn.predict(o) for o in ways]
    for o in said: kind.said(learn, o)
    assert len({str(o) for o in said}) == 1


def test_predict_of_bad_input(learn, film, tmp_path):
    (tmp_path/'words.png').write_text('no image')
    wrong = [tmp_path/'words.png', tmp_path/'gone.png', tmp_path, np.zeros(5), 7, None, [], np.zeros((0, 4)), b'bytes']
    for o in wrong:
        with pytest.raises(InputError) as e: learn.predict(o)
        assert len(str(e.value).splitlines()) == 1
    learn.predict(film)                                          # as ready as ever


def test_shows(learn):
    learn.dls.show_batch()
    learn.show_batch(max_n=2)
    learn.show_results(max_n=3)
    learn.show_results(ds_idx=0)
    assert plt.get_fignums()


def test_new_loaders(kind, learn, film):
    dl = learn.dls.test_dl(kind.items(film))
    assert len(dl.dataset) == 3
    preds, targets = learn.get_preds(dl=dl)
    assert kind.preds(preds) == 3
    assert len(learn.dls.valid.new().dataset) == len(learn.dls.valid_ds)
    assert not len(learn.dls.new_empty().valid_ds)


def test_summary(learn): assert 'Total params' in str(learn.summary())


def test_save_and_load(learn):
    learn.fit(1)
    learn.save('one')
    kept = weights(learn)
    learn.fit(1)
    assert not same(kept, weights(learn))
    learn.load('one')
    assert same(kept, weights(learn))
    with pytest.raises(InputError, match='no such file'): learn.load('two')


@pytest.mark.parametrize('frozen', [False, True])
def test_export(kind, learn, folder, film, tmp_path, frozen):
    learn.fit(1)
    if frozen: learn.freeze()
    said = learn.predict(film)
    learn.export()
    assert str(learn.predict(film)) == str(said)
    assert frozen == any(not p.requires_grad for o in learn.splitter(learn.model) for p in o) or not frozen
    again = load_learner(tmp_path/'export.pkl')
    with again.no_bar(), again.no_logging(): assert str(again.predict(film)) == str(said)
    kind.said(again, again.predict(film))
    written = (tmp_path/'export.pkl').read_bytes()
    df = read_studies(folder)
    for text in [*df['report'].str[:40], *df['path'], df.attrs['root']]: assert text.encode() not in written


def test_interpretation(learn):
    found = Interpretation.from_learner(learn)
    losses, rows = found.top_losses(3)
    assert losses.tolist() == sorted(losses.tolist(), reverse=True)
    found.plot_top_losses(3)
    found.show_results([0, 1])
    inputs, preds, targets, decoded, again = found[rows]
    assert torch.equal(again, losses)
    whole = learn.get_preds(with_loss=True)[-1]
    assert torch.allclose(whole[rows], losses)


# Classifiers alone

def test_data_block(folder, tmp_path):
    "A classifier learns from fastai's own loaders, too"
    from fastai.data.block import DataBlock
    from fastai.data.transforms import ColReader
    from refers_nb.data.blocks import FindingsBlock, RadiographBlock
    from refers_nb.data.given import labelled
    df, findings = labelled(folder)
    block = DataBlock(
        (RadiographBlock(32, 32), FindingsBlock(findings)), get_x=ColReader('path', pref=df.attrs['root'] + '/'),
        get_y=lambda row: row, splitter=lambda df: [list(df.index[df['split'] == o]) for o in ('train', 'valid')])
    dls = block.dataloaders(df, bs=8, num_workers=0, path=tmp_path)
    learn = classifier_learner(dls, Classifier.from_start('random', findings, size=32))
    with learn.no_bar(), learn.no_logging(): learn.fit(1)
    preds, targets, losses = learn.get_preds(with_loss=True)
    assert preds.shape == targets.shape and losses.isfinite().all()


@pytest.fixture
def classifier(folder, tmp_path):
    learn = make_classifier(folder, tmp_path)
    torch.manual_seed(4)
    torch.nn.init.normal_(learn.model.head.weight)              # so that it has an opinion
    with learn.no_bar(), learn.no_logging(): yield learn


def test_a_list_of_views_is_averaged(classifier, folder):
    store = ImageStore(folder)
    one, other = (classifier.predict(store[i])[2] for i in range(2))
    both = classifier.predict([store[0], store[1]])[2]
    assert both.to_numpy() == pytest.approx(((one + other)/2).to_numpy(), abs=1e-5)


def test_predict_reads_as_preparation_does(classifier, folder):
    df = read_studies(folder)
    store = ImageStore(folder)
    dl = classifier.dls.valid
    probs, _ = classifier.get_preds()
    for i in range(3):
        path = dl.items['path'].iloc[i]
        said = classifier.predict(Path(df.attrs['root'])/path)[2]
        assert said.to_numpy() == pytest.approx(probs[i].numpy(), abs=1e-5)
        assert np.array_equal(dl.dataset[i][0][0], store[path])


@pytest.mark.parametrize('mode', ['I;16', 'RGB', 'RGBA', 'LA', 'P', '1', 'I', 'F'])
def test_every_kind_of_picture(classifier, tmp_path, mode):
    x = np.random.default_rng(0).integers(0, 256, (50, 40), np.uint8)
    im = Image.fromarray(x.astype(np.uint16)*200) if mode == 'I;16' else Image.fromarray(x).convert(mode)
    path = tmp_path/('film.tif' if mode in 'IF' else 'film.png')
    im.save(path)
    by_path, by_image = classifier.predict(path)[2], classifier.predict(Image.open(path))[2]
    assert by_path.to_numpy() == pytest.approx(by_image.to_numpy(), abs=1e-6)
    if mode == 'I;16': assert classifier.predict(x.astype(np.uint16)*200)[2].equals(by_path)
    if mode == 'RGB': assert classifier.predict(np.array(im))[2].equals(by_path)


def test_a_photograph_on_its_side_is_turned_upright(classifier, tmp_path):
    x = np.random.default_rng(0).integers(0, 256, (50, 40), np.uint8)
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(x).save(tmp_path/'turned.png', exif=exif)
    upright = np.rot90(x, -1)
    want = classifier.predict(upright)[2]
    for o in (tmp_path/'turned.png', Image.open(tmp_path/'turned.png')): assert classifier.predict(o)[2].equals(want)


def test_tta_swaps_the_sides(classifier):
    from refers_nb.training.classifier import mirror_places, predict
    probs, targets = classifier.tta()
    want, _ = predict(classifier.model, classifier.dls.valid, tta=True)
    assert probs.numpy() == pytest.approx(want, abs=1e-6)
    (mirrored, plain), _ = classifier.tta(beta=None)
    assert torch.equal(plain, classifier.get_preds()[0])
    assert torch.equal(classifier.tta(use_max=True)[0], torch.maximum(mirrored, plain))
    assert mirror_places(classifier.findings) != list(range(len(classifier.findings)))


def test_tta_without_the_other_side(folder, tmp_path):
    dls = LabelDataLoaders.from_table(folder, size=32, bs=8)
    sided = next(o for o in dls.vocab if 'left' in o)
    dls = LabelDataLoaders.from_table(folder, findings=[sided], size=32, bs=8, path=tmp_path)
    learn = classifier_learner(dls, Classifier.from_start('random', [sided], size=32))
    with pytest.raises(InputError, match='which is not among'): learn.tta()


def test_tables_as_new_items(classifier, folder, tmp_path):
    "Rows of the store, rows that are files, rows without labels"
    df = read_studies(folder)
    rows = df[df['split'] == 'valid']
    preds, targets = classifier.get_preds(dl=classifier.dls.test_dl(rows, with_labels=True))
    elsewhere = rows.assign(path=[f'./{o}' for o in rows['path']])       # not so in the store: read as files
    elsewhere.attrs['root'] = df.attrs['root']
    again, same_targets = classifier.get_preds(dl=classifier.dls.test_dl(elsewhere, with_labels=True))
    assert torch.allclose(preds, again, atol=1e-5) and torch.equal(targets.nan_to_num(-1), same_targets.nan_to_num(-1))
    bare = rows[['path']]
    assert torch.allclose(classifier.get_preds(dl=classifier.dls.test_dl(bare))[0], preds, atol=1e-5)
    with pytest.raises(InputError, match='No labels for'): classifier.dls.test_dl(bare, with_labels=True)
    with pytest.raises(InputError, match='has a column path, image or images'):
        classifier.dls.test_dl(pd.DataFrame(dict(file=['a.png'])))


def test_bad_tables(folder):
    df = read_studies(folder)
    store = ImageStore(folder)
    bare = df.drop(columns=[o for o in df if o.startswith('label:')])
    wrong = [
        ((bare, store), 'no label:<finding> columns'), ((df,), 'give the image store'),
        ((df.drop(columns='split'), store), 'split'), ((df[df['split'] == 'train'], store), 'valid'),
        ((folder/'nowhere',), 'no such study table')]
    for args, words in wrong:
        with pytest.raises(InputError, match=words) as e: LabelDataLoaders.from_table(*args)
        assert len(str(e.value).splitlines()) == 1


def test_weights_of_another_architecture(classifier, folder, tmp_path):
    classifier.save('tiny')
    for model in (Classifier.from_start('random', ['effusion'], size=32),
                  Classifier.from_start('random', classifier.findings, size=48)):
        other = classifier_learner(classifier.dls, model)
        with pytest.raises(InputError, match='another model') as e: other.load('tiny')
        assert len(str(e.value).splitlines()) == 1


def test_the_loss_of_an_image():
    loss = MaskedBCE(reduction='none')
    logits = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    targets = torch.tensor([[1, 0, 1], [0, torch.nan, 1], [torch.nan]*3, [1, 1, torch.nan]])
    each = loss(logits, targets)
    assert each[2] == 0
    for i in (0, 1, 3): assert each[i] == pytest.approx(MaskedBCE()(logits[i:i + 1], targets[i:i + 1]).item())
    with pytest.raises(InputError, match="'mean' or 'none'"): MaskedBCE(reduction='sum')(logits, targets)


def test_the_script_of_a_newcomer(folder, tmp_path):
    "From a table to a folder that timm opens, by nothing that a user of fastai does not know"
    dls = LabelDataLoaders.from_table(folder, findings=['cardiomegaly', 'edema'], size=32, bs=8, path=tmp_path)
    dls.show_batch()
    learn = classifier_learner(dls, Classifier.from_start('random', dls.vocab, size=32))
    with learn.no_bar(), learn.no_logging():
        learn.fine_tune(1, learn.lr_find(num_it=12, show_plot=False).valley)
        learn.show_results()
        Interpretation.from_learner(learn).plot_top_losses(2)
        x = np.random.default_rng(0).integers(0, 4096, (60, 50), np.uint16)
        names, present, probability = learn.predict(dicom(tmp_path/'film.dcm', x))
    assert [*probability.index] == ['cardiomegaly', 'edema'] and set(names) <= {*dls.vocab}
    learn.export()
    model = learn.model.cpu().eval()
    again = Classifier.from_pretrained(model.save_pretrained(tmp_path/'classifier'))
    encoder = model.vision.save_pretrained(tmp_path/'for_timm')
    there = timm.create_model(f'local-dir:{encoder}', pretrained=True).eval()
    images = dls.valid.one_batch()[0].cpu().as_subclass(torch.Tensor)
    with torch.no_grad():
        assert torch.equal(again(images), model(images))
        assert torch.allclose(there.forward_features(images), model.vision(images), atol=1e-5)


def test_a_reader_is_given_away_with_its_tokenizer(reports, tmp_path):
    "A Learner of reports writes a folder from which the same reports are written"
    model = Refers.from_pretrained(reports.model.save_pretrained(tmp_path/'reader'))
    views, mask, _ = reports.dls.valid.one_batch()
    want = generate(reports.model, views, mask, reports.tok).texts
    assert generate(model, views, mask, model.tokenizer).texts == want
    learn = pretrain_learner(reports.dls, model)
    assert learn.model.tokenizer is reports.tok


def test_shows_what_is_wrong_in_red(classifier):
    axs = classifier.show_results(max_n=4, shuffle=False)
    colours = {text.get_color() for ax in axs[0].figure.axes for text in ax.texts}
    assert {'red', 'green'} <= colours


def test_mistakes_of_findings(classifier):
    from refers_nb.training.interpret import MultiLabelInterpretation
    found = MultiLabelInterpretation.from_learner(classifier)
    table = found.confusion()
    assert set(table.sum(axis=1)) == {len(classifier.dls.valid_ds)}
    wrong = found.mistakes(10_000)
    assert len(wrong) == table[['missed', 'false alarm']].to_numpy().sum()
    sure = (wrong['probability'] - wrong['label']).abs()
    assert (sure > .5).all() and sure.is_monotonic_decreasing
    found.plot_mistakes(4)
    found.plot_confusion()
    plt.close('all')


def test_loaders_of_any_kind_make_new_ones(folder):
    "A loader with a budget of steps gives a plain one, once through all images"
    from refers_nb.training.finetune import finetune_dls, image_store, labelled
    df, findings = labelled(folder)
    dls = finetune_dls(df, image_store(folder), findings, fraction=.5, bs=8, steps=3, size=32)
    assert isinstance(dls, LabelDataLoaders) and len(dls.train) == 3
    plain = dls.train.new()
    assert sum(len(x) for x, _ in plain) == len(dls.train_ds)
    assert dls.train.dataset.epoch == 0 and dls.train.dataset.train


# Reports alone

@pytest.fixture(scope='module')
def reports(folder, tmp_path_factory):
    "A Learner of reports that has read the studies twice"
    learn = setup_progress(make_reports(folder, tmp_path_factory.mktemp('reports')))
    learn.loss_func.log_tau.requires_grad_()
    learn.fit(2)
    return learn


def cosines(vectors):
    study, text = (torch.nn.functional.normalize(o, dim=-1) for o in vectors)
    return study @ text.T


def test_the_loss_of_a_study(reports):
    "Its own words, and its two questions of who belongs to whom; their means are the parts"
    _, targets, losses = reports.get_preds(with_loss=True)
    loss, dl = reports.loss_func, reports.dls.valid
    batch = dl.one_batch()
    plain = [o.as_subclass(torch.Tensor) for o in batch]
    reports.model.eval()
    with torch.no_grad():
        out = reports.model(*plain)
        whole, parts = loss(out, plain[2]), dict(loss.parts)
        with reports.loss_not_reduced(): each = loss(out, plain[2])
    assert torch.allclose(each, losses[:dl.bs], atol=1e-4) and loss.reduction == 'mean'
    words = (plain[2][:, 1:] != 0).sum(1)
    logp = out.logits[:, :-1].log_softmax(-1).gather(2, plain[2][:, 1:, None])[..., 0]
    gen = -(logp*(plain[2][:, 1:] != 0)).sum(1)/words
    match = each - gen
    assert match.mean().item() == pytest.approx(parts['match'].item(), abs=1e-5)
    assert ((gen*words).sum()/words.sum()).item() == pytest.approx(parts['gen'].item(), abs=1e-5)
    assert whole.item() == pytest.approx(parts['gen'].item() + parts['match'].item(), abs=1e-5)


@pytest.mark.parametrize('how', [{}, dict(beams=3), dict(max_len=8)], ids=str)
def test_what_is_decoded_is_what_is_written(reports, how):
    dl = reports.dls.valid
    (study, text), given, decoded, losses = reports.get_preds(
        with_decoded=True, with_loss=True, cbs=WriteReports(**how))
    texts = [o for b in dl for o in generate(reports.model, *b[:2], reports.tok, **how).texts]
    assert [reports.tok.decode(o) for o in decoded] == texts
    assert [reports.tok.decode(o) for o in given] == [reports.tok.decode(reports.tok(o)) for o in dl.dataset.reports]
    assert isinstance(decoded, TensorReport) and isinstance(given, TensorReport)


def test_get_preds_of_what_is_asked_for(reports):
    n = len(reports.dls.valid_ds)
    (views, mask), (study, text), given = reports.get_preds(with_input=True)
    assert isinstance(views, Views) and views.shape[:2] == mask.shape == (n, 2)
    assert reports.get_preds(act=cosines)[0].shape == (n, n)
    none, _, losses = reports.get_preds(with_preds=False, with_targs=False, with_loss=True)
    assert none is None and len(losses) == n
    loss = reports.loss_func
    assert loss.decodes(loss.activation((study, text))).tolist() == cosines((study, text)).argmax(1).tolist()
    with pytest.raises(InputError, match='without report vectors'): loss.decodes(study)


def test_studies_without_a_report(reports, folder):
    "Have the vectors that they have with one, and no others"
    (study, _), given = reports.get_preds()
    items = reports.dls.valid_ds.items.drop(columns='report')
    alone, nothing = reports.get_preds(dl=reports.dls.test_dl(items))
    assert torch.allclose(alone, study, atol=1e-5) and nothing is None
    _, _, written = reports.get_preds(dl=reports.dls.test_dl(items), with_decoded=True)
    assert len(written) == len(items)
    with pytest.raises(InputError, match='no training study of the table has a report'):
        StudyDataLoaders.from_table(read_studies(folder).assign(report=''), ImageStore(folder))


def test_more_views_than_the_model_has(reports, film):
    for item in ([film]*3, [film]*5, []):
        with pytest.raises(InputError, match='give one to 2 for this model'): reports.predict(item)
    assert reports.predict([film]) == reports.predict(film)


def test_a_study_in_the_mirror(reports):
    "Views and words change sides; cosines are the means of both"
    (mirrored, plain), given = reports.tta(beta=None)
    for beta in (0., .3, 1.):
        vectors, _ = reports.tta(beta=beta)
        assert torch.allclose(cosines(vectors), beta*cosines(plain) + (1 - beta)*cosines(mirrored), atol=1e-5)
    items = reports.dls.valid_ds
    views, mask, report = next(iter(reports.dls.valid))
    swapped = reports.tok.batch([swap_sides(reports.tok.decode(o)) for o in report])[0]
    with torch.no_grad():
        out = reports.model.eval()(*(o.as_subclass(torch.Tensor) for o in (views.flip(-1), mask, swapped)))
    assert torch.allclose(out.image_embeds, mirrored[0][:len(views)], atol=1e-5)
    assert torch.allclose(out.text_embeds, mirrored[1][:len(views)], atol=1e-5)
    sided = [o for o in items.reports if swap_sides(o) != o]
    assert sided and not torch.allclose(*(o[1] for o in (mirrored, plain)))


def test_the_temperature_is_kept(folder, tmp_path):
    learn = setup_progress(make_reports(folder, tmp_path))
    learn.loss_func.log_tau.requires_grad_()
    learn.splitter = RefersLists(learn.model, learn.loss_func)
    tau = learn.loss_func.tau.item()
    learn.lr_find(num_it=12, show_plot=False)
    assert learn.loss_func.tau.item() == tau
    learn.save('before')
    learn.fit(1)
    assert learn.loss_func.tau.item() != tau
    learn.export()
    again = setup_progress(load_learner(tmp_path/'export.pkl'))
    assert again.loss_func.tau.item() == learn.loss_func.tau.item()
    assert again.splitter.loss is again.loss_func
    learn.load('before', with_opt=False)
    assert learn.loss_func.tau.item() == tau


def test_lists_are_found_again(folder, tmp_path):
    "Also what is frozen at present; and what a model is made with frozen stays so"
    learn = setup_progress(make_reports(folder, tmp_path))
    still = [p for o in learn.model.text.bert.encoder.layer for p in o.parameters()]
    for p in still: p.requires_grad_(False)
    learn.splitter = RefersLists(learn.model, learn.loss_func)
    sizes = [len(o) for o in learn.splitter(learn.model)]
    learn.freeze()
    assert [len(o) for o in learn.splitter(learn.model)] == sizes
    learn.fit(1, reset_opt=True)
    learn.unfreeze()
    assert not any(p.requires_grad for p in still)


@pytest.mark.parametrize('changed, says', [
    (dict(vocab=300), 'tokenizer of the model'), (dict(k=1), 'takes 1 views'), (dict(max_len=8), 'and 8 tokens')])
def test_a_model_that_does_not_fit_the_loaders(reports, changed, says):
    config = refers_config('tiny', **dict(vocab=len(reports.tok), size=32, k=2, max_len=24) | changed)
    with pytest.raises(InputError, match=says): pretrain_learner(reports.dls, Refers(config))


def test_weights_of_another_reader(reports):
    path = reports.save('two_epochs')
    other = pretrain_learner(reports.dls, 'tiny')
    with pytest.raises(InputError, match='another model') as e: other.load(path)
    assert len(str(e.value).splitlines()) == 1


BERT = dict(model_type='bert', hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64)

@pytest.mark.parametrize('encoder', ['none', 'its own pieces'])
def test_other_report_encoders(folder, tmp_path, film, encoder):
    "A model without one has vectors of studies alone; one with pieces of its own reads these"
    dls = StudyDataLoaders.from_table(folder, vocab=400, max_len=24, size=32, k=2, bs=8, path=tmp_path)
    own = Tokenizer.train(read_studies(folder)['report'], 320).hf
    own.enable_padding(pad_id=0, pad_token='[PAD]')
    text = None
    if encoder != 'none':
        for dl in dls.loaders: dl.dataset.tok.encoder_tokenizer = EncoderTokenizer(own, 30)
        text = dict(hf=BERT | dict(vocab_size=own.get_vocab_size()))
    config = refers_config('tiny', vocab=len(dls.vocab), size=32, k=2, max_len=24) | dict(text=text)
    config['vision']['name'] = 'test_vit'
    loss = RefersLoss(match=0. if text is None else 1.)
    learn = setup_progress(pretrain_learner(dls, Refers(config), loss))
    learn.metrics = learn.metrics[:2] if text is None else learn.metrics
    learn.fit(1)
    preds, _, decoded, losses = learn.get_preds(with_decoded=True, with_loss=True)
    n = len(dls.valid_ds)
    assert vectors(preds) == len(decoded) == len(losses) == n
    assert isinstance(preds, torch.Tensor) == (text is None)
    assert vectors(learn.tta()[0]) == n
    report_said(learn, learn.predict(film))
    learn.show_results(max_n=2)
    Interpretation.from_learner(learn).plot_top_losses(2)
    assert 'Total params' in str(learn.summary())
    learn.export()
    report_said(learn, load_learner(tmp_path/'export.pkl').predict(film))


HALVES = {
    'to_fp16': lambda learn: learn.to_fp16().fit(1),
    'to_bf16': lambda learn: learn.to_bf16().fit(1),
    'in fit': lambda learn: learn.fit(1, cbs=MixedPrecision()),
    'as a class': lambda learn: learn.add_cb(MixedPrecision).fit(1),
    'twice': lambda learn: learn.to_fp16().to_fp32().to_bf16().fit(1)}

@pytest.mark.parametrize('how', HALVES)
def test_half_precision_without_report_vectors(folder, tmp_path, film, how):
    "A model without a report encoder learns; what it gives has 32 bits, and it is exported as ever"
    dls = StudyDataLoaders.from_table(folder, vocab=400, max_len=24, size=32, k=2, bs=8, path=tmp_path)
    config = refers_config('nano', vocab=len(dls.vocab), size=32, k=2, max_len=24) | dict(text=None)
    learn = setup_progress(pretrain_learner(dls, Refers(config), RefersLoss(match=0.)))
    seen = []
    hook = learn.loss_func.register_forward_hook(lambda loss, args, out: seen.append(args[0]))
    HALVES[how](learn)
    hook.remove()
    assert all(o.logits.dtype == torch.float32 and o.text_embeds is None for o in seen) and seen
    assert vectors(learn.get_preds()[0]) == len(dls.valid_ds)
    learn.export()
    report_said(learn, load_learner(tmp_path/'export.pkl').predict(film))
    learn.to_fp32().fit(1)
    assert not [cb for cb in learn.cbs if isinstance(cb, MixedPrecision)]


def test_half_precision_of_studies_without_a_report(folder, tmp_path):
    learn = setup_progress(make_reports(folder, tmp_path)).to_fp16()
    items = learn.dls.valid_ds.items.drop(columns='report')
    alone, nothing = learn.get_preds(dl=learn.dls.test_dl(items))
    assert vectors(alone) == len(items) and nothing is None


def test_outputs_are_tuples_that_fastai_makes_anew():
    out = Output(torch.zeros(2, dtype=torch.half), torch.ones(2), torch.ones(2), torch.ones(2))
    for o in (to_float(out), to_detach(out), pickle.loads(pickle.dumps(out)), out._replace(text_embeds=None)):
        assert type(o) is Output and o.image_embeds.tolist() == [1, 1]
    assert to_float(out).logits.dtype == torch.float32
