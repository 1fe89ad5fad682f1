"Reports that are written for a data set: each belongs to its study, and stands beside what needs no model"
import numpy as np
import pandas as pd
import pytest
import torch

from memory import Store
from refers_nb.core import InputError
from refers_nb.data.loaders import Augment
from refers_nb.evaluation.clinical import report_metrics
from refers_nb.evaluation.generate import evaluate_writing, generate_all, written_reports
from refers_nb.models.generate import generate
from small_studies import tiny_writer


@pytest.fixture(scope='module')
def model(): return tiny_writer()


LETTERS = 'abcdefghijkl'

@pytest.fixture(scope='module')
def studies():
    "12 training studies, and 5 others that are copies of some of them; one of each has no report"
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (24, 32, 32), dtype=np.uint8)
    copies = [7, 2, 11, 2, 0]
    reports = [f'report number {o}.' for o in LETTERS]
    reports[4], reports[9] = '', reports[0]
    rows = [(f't{i:02}', 'train', v, f't{i}{v}', reports[i]) for i in range(12) for v in ('LATERAL', 'PA')]
    true = [f'true report {j}' for j in range(5)]
    true[1] = ''
    rows += [(f'v{j}', 'valid', v, f'v{j}{v}', true[j]) for j in range(5) for v in ('PA', 'LATERAL')]
    df = pd.DataFrame(rows, columns=['study', 'split', 'view', 'path', 'report'])
    df['patient'] = df['study']
    both = np.concatenate([images, *[images[[2*i+1, 2*i]] for i in copies]])
    return df.sample(frac=1, random_state=0), Store(both, df['path']), copies


def test_every_report_belongs_to_its_study(model, studies):
    df,store,copies = studies
    w = written_reports(*model, df, store, writers={'greedy': {}, 'two': dict(beams=2)}, bs=3, precision='fp32')
    assert list(w) == ['true', 'greedy', 'two', 'most frequent', 'nearest']
    assert sorted(w.index) == ['v0', 'v2', 'v3', 'v4']
    assert set(w['most frequent']) == {'report number a.'}
    for name,row in w.iterrows():
        j = int(name[1])
        assert row['true'] == f'true report {j}' and row['nearest'] == f'report number {LETTERS[copies[j]]}.'
        x = torch.from_numpy(store.images[store.rows([f'v{j}PA', f'v{j}LATERAL'])])[:, None]
        views = Augment(32)(x)[None]
        one = generate(model[0], views, torch.ones(1, 2, dtype=torch.bool), model[1], precision='fp32')
        assert one.texts == [row['greedy']]
    everyone = generate_all(*model, df[df['split']=='valid'], store, precision='fp32')
    assert len(everyone) == 5 and everyone[w.index].tolist() == w['greedy'].tolist()


def test_scores_stand_beside_those_of_the_baselines(model, studies):
    df,store,_ = studies
    w = written_reports(*model, df, store, precision='fp32')
    scores = evaluate_writing(*model, df, store, precision='fp32')
    assert list(scores.index) == ['greedy', 'beam 4', 'most frequent', 'nearest']
    for k in scores.index:
        want = report_metrics(w[k], w['true'])
        pd.testing.assert_series_equal(scores.loc[k, :'CIDEr-D'], want, check_names=False)
    with pytest.raises(InputError, match="split 'test' has a report"): written_reports(*model, df, store, 'test')
