"Which reports count as the same for the matching loss"
import pytest
import torch
import torch.nn.functional as F

from refers_nb.core import InputError
from refers_nb.data.terms import inverse_document_frequency, tfidf_cosine
from refers_nb.data.tokens import Tokenizer
from refers_nb.models.refers import Output
from refers_nb.training.losses import RefersLoss
from refers_nb.training.pretrain import RefersArgs

TEXTS = ['The lungs are clear.', 'Lungs clear.', 'Large effusion on the left.', 'Scoliosis. The lungs are clear.',
         'The lungs are clear.', 'Left effusion.']


@pytest.fixture
def read():
    "Tokens (6, t), and their weights"
    tok = Tokenizer.train(TEXTS*3, 300)
    return tok.batch(TEXTS)[0], inverse_document_frequency(tok, map(tok, TEXTS))


def by_hand(report, idf):
    "The cosine of two bags of weighted words, pair by pair"
    bags = [{i: float(idf[i]) for i in set(o.tolist())} for o in report]
    def dot(a, b): return sum(a[i]*b[i] for i in a.keys() & b.keys())
    return torch.tensor([[dot(a, b)/(dot(a, a)*dot(b, b))**.5 for b in bags] for a in bags])


def test_likeness_is_that_of_weighted_words(read):
    report, idf = read
    alike = tfidf_cosine(report, idf)
    torch.testing.assert_close(alike, by_hand(report, idf))
    assert alike[0, 4] == pytest.approx(1) and alike[0, 1] > .3 > alike[0, 2]
    assert not idf[:4].any() and (idf >= 0).all()
    longer = F.pad(report, (0, 5))
    torch.testing.assert_close(tfidf_cosine(longer, idf), alike)


def losses(report, **how):
    "The matching loss as it trains, and as it judges"
    crit = RefersLoss(gen=0., **how)
    torch.manual_seed(0)
    out = Output(torch.zeros(6, report.shape[1], 300), *torch.randn(2, 6, 8), None)
    trains = crit.match_loss(out, report)
    with torch.no_grad(): return trains, crit.match_loss(out, report), out


def expected(out, same):
    "InfoNCE, row by row and column by column"
    s, r = (F.normalize(o, dim=-1) for o in (out.image_embeds, out.text_embeds))
    e = torch.exp(s @ r.T/.1)
    kept = e*(~same | torch.eye(6, dtype=torch.bool))
    own = e.diagonal()
    return -.75*(own/kept.sum(1)).log().mean() - .25*(own/kept.sum(0)).log().mean()


def test_similar_reports_are_no_negatives_while_something_learns(read):
    report, idf = read
    equal = (report[:, None] == report).all(-1)
    similar = by_hand(report, idf) > .3
    assert equal.sum() == 8 and similar.sum() > 10
    trains, judges, out = losses(report, near=.3, idf=idf)
    torch.testing.assert_close(trains, expected(out, similar))
    torch.testing.assert_close(judges, expected(out, equal))
    plain, plain_judges, _ = losses(report)
    torch.testing.assert_close(plain, judges)
    torch.testing.assert_close(plain_judges, judges)


def test_what_near_needs_is_said(read):
    with pytest.raises(InputError, match='idf'): RefersLoss(near=.3)
    with pytest.raises(InputError, match='mask_same=True'): RefersLoss(near=.3, idf=read[1], mask_same=False)
    with pytest.raises(InputError, match='near'): RefersArgs(near=2.)


def test_rare_words_count_more_while_something_learns(read):
    "And only then: a validation loss can be compared with that of any other run"
    report, idf = read
    crit, plain = RefersLoss(rare=2., idf=idf), RefersLoss()
    out = Output(torch.randn(*report.shape, len(idf)), None, None, None)
    trains = crit.gen_loss(out, report)
    with torch.no_grad(): torch.testing.assert_close(crit.gen_loss(out, report), plain.gen_loss(out, report))
    wanted = report[:, 1:]
    logP = out.logits[:, :-1].log_softmax(-1).gather(-1, wanted[..., None])[..., 0]
    weight = (1 + 2*idf)[wanted]*(wanted != 0)
    torch.testing.assert_close(trains, -(weight*logP).sum()/weight.sum())
    with pytest.raises(InputError, match='rare needs idf'): RefersLoss(rare=1.)
    with pytest.raises(InputError, match='rare_words'): RefersArgs(rare_words=-1.)


def test_the_weights_are_no_part_of_a_state(read):
    crit = RefersLoss(near=.3, idf=read[1])
    crit.load_state_dict(RefersLoss().state_dict())
    assert crit.state_dict().keys() == {'log_tau'}
