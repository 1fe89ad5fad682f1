"What loading on MIMIC's scale rests on: the batches are those of the plain formula, tokens are made once, the disk is told in time"
import mmap
import multiprocessing
import pickle

import numpy as np
import pandas as pd
import pytest
import torch

from memory import Store
from refers_nb.core import InputError
from refers_nb.data import ahead
from refers_nb.data.ahead import read_ahead, row_ranges
from refers_nb.data.items import LabelItems, StudyItems, plain_items, some_sentences
from refers_nb.data.kept import KeptTokens
from refers_nb.data.loaders import SeededLoader, StudyLoader
from refers_nb.data.report import sentences, swap_sides
from refers_nb.data.studies import LONGEST_REPORT, by_study, cut_reports
from refers_nb.data.tokens import Tokenizer
from small_studies import make

SEED, K, BS = 3, 2, 5


class Counted(Tokenizer):
    "A tokenizer that counts what it encodes, in all processes together"
    def __init__(self, *args):
        super().__init__(*args)
        self.calls = multiprocessing.Value('i', 0)

    def __call__(self, text):
        with self.calls.get_lock(): self.calls.value += 1
        return super().__call__(text)


@pytest.fixture
def loaded():
    "A training loader of 20 studies, of which some name a side"
    df, store = make(30)
    df['split'] = 'train'
    tok = Counted.train(df['report'], 300)
    items = StudyItems(df, store, tok, K, train=True, seed=SEED)
    return StudyLoader(items, BS, augment=lambda x, gen: x, train=True, seed=SEED), df, store


def plain_item(df, store, tok, name, place, epoch):
    "Views and tokens of a study as the method says it, and whether they are mirrored; nothing is kept"
    rows = df[df['study'] == name]
    rows = rows.iloc[np.argsort(['PA LATERAL'.split().index(o) for o in rows['view']], kind='stable')]
    rng = np.random.default_rng((SEED, epoch, place))
    at = rng.permutation(store.rows(rows['path']))[:K]
    views = np.zeros((K, 1, *store.images.shape[1:]), np.uint8)
    views[:len(at), 0] = store.images[at]
    report = rows['report'].iloc[0]
    flipped = rng.random() < .5
    if flipped: views, report = views[..., ::-1], swap_sides(report)
    return torch.from_numpy(views.copy()), tok.hf.encode(report).ids, flipped


@pytest.mark.parametrize('workers', [0, 2])
def test_batches_are_those_of_the_plain_formula_and_tokens_are_made_once(loaded, workers):
    dl, df, store = loaded
    dl = dl.new(dl.dataset, train=True, num_workers=workers, seed=SEED)
    tok, names = dl.dataset.tok, dl.dataset.studies
    asked, before = set(), []
    for epoch in range(4):
        batches = list(dl)
        order = np.random.default_rng((SEED, epoch)).permutation(len(names))
        assert len(batches) == len(names)//BS == 4
        for batch, idxs in zip(batches, order.reshape(-1, BS)):
            for views, mask, ids, i in zip(*batch, idxs):
                want, tokens, flipped = plain_item(df, store, tok, names[i], i, epoch)
                asked.add((i, flipped))
                assert torch.equal(views.as_subclass(torch.Tensor), want)
                assert mask.sum() == min(K, (df['study'] == names[i]).sum())
                assert ids[ids != tok.pad_id].tolist() == tokens
        assert tok.calls.value == len(asked)
        before.append(len(asked))
    assert before[0] == len(names) < before[-1] <= 2*len(names)    # both mirrored and not: two texts at most


@pytest.mark.parametrize('workers', [0, 2])
def test_labels_go_with_their_report(loaded, workers):
    dl, df, store = loaded
    rng = np.random.default_rng(0)
    truth = {o: rng.choice([0, 1, np.nan], 2) for o in df['study'].unique()}
    for i, name in enumerate(('nodule', 'edema')): df[f'label:{name}'] = [truth[o][i] for o in df['study']]
    items = StudyItems(df, store, dl.dataset.tok, K, train=True, seed=SEED, findings=['edema', 'nodule'], drop_sentences=.5)
    dl = dl.new(items, train=True, num_workers=workers, seed=SEED)
    for epoch in range(2):
        batches = list(dl)
        order = np.random.default_rng((SEED, epoch)).permutation(len(items))
        for batch, idxs in zip(batches, order.reshape(-1, BS)):
            want = np.stack([truth[items.studies[i]][::-1] for i in idxs])
            np.testing.assert_array_equal(batch[2].labels.numpy(), want)
    assert items.new_empty().labels.shape == (0, 2)
    with pytest.raises(InputError, match='left lung names a side'): StudyItems(df, store, None, findings=['left lung'])
    with pytest.raises(KeyError): StudyItems(df, store, None, findings=['of another table'])


def test_what_is_kept_is_bounded_and_stays_in_its_process(loaded):
    dl, *_ = loaded
    (plain, mirrored), = dl.dataset.kept
    n, tok = len(dl.dataset), dl.dataset.tok
    assert plain.stored.nbytes == mirrored.stored.nbytes == n*(1 + tok.max_len)*2
    list(dl)
    assert plain.stored.any() and mirrored.stored.any()
    again = pickle.loads(pickle.dumps(KeptTokens(Tokenizer(tok.hf, tok.max_len), ['one', 'two'])))
    assert not again.stored.any() and again[1].tolist() == tok.hf.encode('two').ids


def test_a_row_that_is_half_written_is_no_report():
    tok = Tokenizer.train(['no effusion']*4, 300)
    kept = KeptTokens(tok, ['no effusion', 'effusion'])
    want = [tok(o).tolist() for o in kept.texts]
    assert [kept[i].tolist() for i in (0, 1)]*2 == want*2
    whole = kept.stored.copy()
    for i in range(2):
        for place in np.flatnonzero(whole[i]):
            kept.stored[:] = whole
            kept.stored[i, place] = 0
            assert kept[i].tolist() == want[i] and np.array_equal(kept.stored, whole)


def test_large_vocabularies_and_long_texts():
    class Wide:
        "What `KeptTokens` asks of a tokenizer"
        max_len, largest_id = 4, 70_000
        def __call__(self, text): return torch.tensor([70_000, *range(len(text))])
    kept = KeptTokens(Wide(), ['', 'abc', 'longer than it says'])
    for _ in range(2): assert [kept[i].tolist() for i in range(3)] == [[70_000, *range(n)] for n in (0, 3, 19)]
    assert kept.stored.dtype == np.uint32 and not kept.stored[2].any()
    Wide.largest_id = 2**16 - 2
    assert KeptTokens(Wide(), []).stored.dtype == np.uint16


class Told:
    "Items that note what they are asked and told"
    def __init__(self, n): self.n, self.log = n, []
    def __len__(self): return self.n
    def announce(self, idxs): self.log.append(('announce', *idxs))
    def __getitem__(self, i):
        self.log.append(('read', i))
        return torch.tensor([i])
    def collate(self, items): return (torch.stack(items),)
    def augmented(self, b, augment, gen): return b


@pytest.mark.parametrize('n', [1, 4, 9, 12])
def test_the_next_batch_is_announced_before_one_is_read(n):
    dl = SeededLoader(Told(n), bs=4)
    assert [i for x, in dl for i in x.ravel().tolist()] == list(range(n))
    batches = [list(range(i, min(i + 4, n))) for i in range(0, n, 4)]
    want = [('announce', *batches[0])]
    for now, following in zip(batches, [*batches[1:], None]):
        if following: want.append(('announce', *following))
        want += [('read', i) for i in now]
    assert dl.dataset.log == want


def test_items_announce_the_rows_that_they_show(loaded, monkeypatch):
    dl, df, store = loaded
    said = []
    monkeypatch.setattr('refers_nb.data.items.read_ahead', lambda images, rows: said.append(sorted(map(int, rows))))
    i = next(i for i, rows in enumerate(dl.dataset.rows) if len(rows) == 2)
    dl.dataset.announce([i])
    LabelItems(df, store).announce([7, 2])
    assert said == [sorted(store.rows(df['path'][df['study'] == dl.dataset.studies[i]])), [2, 7]]


def test_ranges_hold_the_rows_and_nothing_but_the_rest_of_a_page():
    rng = np.random.default_rng(0)
    for _ in range(40):
        width, offset = int(rng.integers(1, 2*mmap.PAGESIZE)), int(rng.integers(300))
        rows = rng.integers(60, size=rng.integers(0, 20))
        asked = set()
        for start, length in row_ranges(rows, width, offset).tolist():
            assert start % mmap.PAGESIZE == 0 and length > 0
            asked |= set(range(start, start + length))
        needed = {offset + int(row)*width + i for row in rows for i in range(width)}
        assert needed <= asked
        assert len(asked - needed) < mmap.PAGESIZE*max(1, len(set(rows.tolist())))


def test_a_mapped_file_is_asked_for_its_rows_alone(tmp_path, monkeypatch):
    np.save(tmp_path/'images.npy', np.arange(40*64*64, dtype=np.uint8).reshape(40, 64, 64))
    images = np.load(tmp_path/'images.npy', mmap_mode='r')
    asked = []
    monkeypatch.setattr(ahead, 'row_ranges', lambda *args: asked.append(args) or row_ranges(*args))
    read_ahead(images, [39, 0])
    read_ahead(np.array(images), [0])                      # in memory
    assert asked == [([39, 0], 64*64, images.offset)]


def test_studies_are_those_of_pandas():
    rng = np.random.default_rng(0)
    df = pd.DataFrame(dict(study=rng.integers(40, size=99).astype(str), view='PA'))
    df = df.assign(patient='p' + df['study'], split='train', report='r' + df['study'])
    groups = df.reset_index().groupby('study', sort=False)['index'].agg(list)
    found = by_study(df)
    assert found['study'].tolist() == groups.index.tolist()
    assert [o.tolist() for o in found['rows']] == groups.tolist()
    assert (found['report'] == 'r' + found['study']).all() and (found['patient'] == 'p' + found['study']).all()
    assert by_study(df[:0]).columns.tolist() == found.columns.tolist() and not len(by_study(df[:0]))


@pytest.mark.parametrize('texts', [
    ['short', None, 3, b'b'*(LONGEST_REPORT + 1), ['a']], ['short', 'a'*(LONGEST_REPORT + 5), None], ['short', '', 'b']])
def test_only_texts_are_cut(texts):
    for dtype in ('object', 'str'):
        if dtype == 'str' and not all(isinstance(o, (str, type(None))) for o in texts): continue
        df, n = cut_reports(pd.DataFrame(dict(report=pd.Series(texts, dtype=dtype))))
        long = [isinstance(o, str) and len(o) > LONGEST_REPORT for o in texts]
        want = [o[:LONGEST_REPORT] if is_long else o for o, is_long in zip(texts, long)]
        assert n == sum(long)
        pd.testing.assert_series_equal(df['report'], pd.Series(want, dtype=dtype, name='report'))


def test_items_of_images_in_memory_have_nothing_to_announce():
    df, _ = make(4)
    store = Store(np.zeros((len(df), 8, 8), np.uint8), df['path'])
    LabelItems(df, store).announce([0, 1])


@pytest.mark.parametrize('workers', [0, 2])
def test_sentences_are_drawn_by_seed_epoch_and_study(loaded, workers):
    dl, df, store = loaded
    train = df[df['split'] == 'train']
    def loader(**how):
        items = StudyItems(train, store, dl.dataset.tok, K, train=True, seed=SEED, flip=0., drop_sentences=.5,
                           shuffle_sentences=True)
        return StudyLoader(items, BS, augment=lambda x, gen: x, train=True, seed=SEED, **how)
    def read(dl): return [[dl.dataset.tok.decode(o) for batch in dl for o in batch[2]] for _ in range(3)]
    one = loader()
    epochs = read(one)
    assert read(loader(num_workers=workers)) == epochs and epochs[0] != epochs[1]
    tok, texts = one.dataset.tok, one.dataset.reports
    def said(texts): return [o.rstrip('.') for text in texts for o in text.split('. ')]
    told = said([tok.decode(tok(o)) for o in texts])
    drawn = said([text for texts in epochs for text in texts])
    assert set(drawn) == set(told) and 3*len(texts) <= len(drawn) < 3*len(told)
    held_out = plain_items(one.dataset)
    assert [tok.decode(held_out[i][2]) for i in range(len(texts))] == [tok.decode(tok(o)) for o in texts]


def test_one_sentence_always_stays(loaded):
    rng = np.random.default_rng(0)
    said = 'The heart is large. The lungs are clear. No effusion.'
    assert {some_sentences(said, rng, drop=1.) for _ in range(50)} == set(sentences(said))
    assert sorted(sentences(some_sentences(said, rng, shuffle=True))) == sorted(sentences(said))
    assert some_sentences('clear', rng, .9, True) == 'clear'
