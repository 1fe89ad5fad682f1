"Predictions from anywhere: evaluated, or refused with the row that is wrong"
import numpy as np
import pandas as pd
import pytest

from drawn_predictions import long_table, simulated
from refers_nb.core import InputError
from refers_nb.evaluation.compare import efficiency_tests, evaluate_runs, read_results
from refers_nb.evaluation.predictions import read_predictions_table, read_runs


def predictions(n=40, **columns):
    "Predictions of one start"
    y, scores = simulated(n)
    return long_table(y, scores['REFERS'], **columns)

def first(df, column, value):
    "The table with another value in its fourth row"
    cells = df[column].tolist()
    cells[3] = value
    return df.assign(**{column: pd.Series(cells, dtype=object)})

@pytest.mark.parametrize('column, value, says', [
    ('probability', np.nan, 'row 3: probability is'), ('probability', None, 'row 3: probability is'),
    ('probability', -.01, 'row 3: probability is -0.01'), ('probability', 3.7, 'of a logit x'),
    ('probability', np.inf, 'row 3: probability is inf'), ('probability', 'high', 'row 3'), ('probability', b'x', 'row'),
    ('target', -1., 'row 3: target is -1.0; expected 0, 1, or nothing'), ('target', 2, 'row 3: target is 2'),
    ('target', .5, 'row 3: target is 0.5'), ('target', 'yes', "target is 'yes'"),
    ('image', None, 'row 3: image is'), ('image', [1], 'row'), ('label', None, 'row 3: label is'),
    ('label', b'x', 'row'), ('image', {'a': 1}, 'row')])
def test_a_row_that_cannot_be_evaluated_is_named(tmp_path, column, value, says):
    df = first(predictions(), column, value)
    try: df.to_parquet(tmp_path/'p.parquet')
    except Exception: # pyarrow writes no column of several kinds
        same = pd.Series([value]*len(df), dtype=object)
        df.assign(**{column: same}).to_parquet(tmp_path/'p.parquet')
        says = f'{column} is'
    with pytest.raises(InputError, match=says): evaluate_runs([tmp_path/'p.parquet'])

@pytest.mark.parametrize('change, says', [
    (lambda df: df[:0], 'no predictions in it'), (lambda df: df.drop(columns='target'), 'no column target'),
    (lambda df: df.rename(columns={'label': 'finding'}), 'no column label; it has image, patient, finding'),
    (lambda df: pd.concat([df, df[:1]]), 'two predictions of'),
    (lambda df: df.assign(patient=[f'p{i}' for i in range(len(df))]), 'is of two patients'),
    (lambda df: df.assign(label=[f'f{i}' for i in range(len(df))], fraction='all'), 'fraction is .all.'),
    (lambda df: df.assign(init=None), 'init is None')])
def test_files_of_another_program(tmp_path, change, says):
    change(predictions()).to_parquet(tmp_path/'p.parquet')
    with pytest.raises(InputError, match=says): read_runs([tmp_path/'p.parquet'])

def test_a_file_that_was_cut_or_is_none(tmp_path):
    predictions().to_parquet(tmp_path/'p.parquet')
    whole = (tmp_path/'p.parquet').read_bytes()
    for x in (whole[:-30], whole[:100], b'', bytes(len(whole)), b'image,patient', whole[50:]):
        (tmp_path/'p.parquet').write_bytes(x)
        with pytest.raises(InputError, match='p.parquet: not a Parquet file.*expected predictions by refers-finetune'):
            read_predictions_table(tmp_path/'p.parquet')

def test_what_is_unusual_and_right_is_evaluated(tmp_path):
    def text(df):
        df.to_parquet(tmp_path/'p.parquet')
        return evaluate_runs([tmp_path/'p.parquet'])
    df = predictions()
    usual = text(df)
    assert text(df.assign(target=df['target'].astype(bool))) == usual
    assert text(df.assign(target=df['target'].astype(int).astype(str))) == usual
    assert text(df.assign(probability=df['probability'].astype('float32'))).splitlines()[0] == usual.splitlines()[0]
    assert text(df.assign(image=df['image'].astype('category'), label=df['label'].astype('category'))) == usual
    assert '40 images of 40 patients' in text(df.assign(patient=None))
    one_kind = text(df.assign(target=1.))
    assert one_kind.startswith('# 1 runs') and 'mean' in one_kind
    seeds = read_runs([tmp_path/'p.parquet'])
    assert np.isnan(seeds[0].seed)
    pd.concat([df.assign(seed=np.nan), df.assign(seed=2)]).to_parquet(tmp_path/'p.parquet')
    assert [o.seed for o in read_runs([tmp_path/'p.parquet'])][1] == 2

@pytest.mark.parametrize('content', [
    '', 'init,fraction\n', 'init,fraction,seed,auroc\n', 'init,fraction,seed,auroc\na,1,0,high\n', '\0', '"',
    'init,fraction,seed,auroc\na,1,0,.5\na,1,0,.6\n'])
def test_a_table_of_results_that_is_none(tmp_path, content):
    (tmp_path/'results.csv').write_text(content)
    with pytest.raises(InputError, match='results.csv: .*again'): read_results(tmp_path)
    with pytest.raises(InputError, match='results.csv'): efficiency_tests(tmp_path, 'a')
