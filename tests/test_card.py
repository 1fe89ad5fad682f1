"The data card: it counts what there is, and draws it"
import subprocess, sys
from io import BytesIO

import pytest

from refers_nb.data.card import describe, plot_studies
from refers_nb.data.studies import COLUMNS, check_studies
from study_tables import full_table, table, table_with_copies


@pytest.fixture(scope='module')
def copies(tmp_path_factory):
    return table_with_copies(tmp_path_factory.mktemp('copies'))


def lines(card):
    "{first cell: the others} of all tables of a card"
    cells = ([x.strip() for x in o.split('|')[1:-1]] for o in card.splitlines() if o.startswith('|'))
    return {first: others for first,*others in cells}


def test_describe_counts():
    df = table()
    df.attrs['notes'] = ['Something to know.']
    text = describe(df)
    assert lines(text)['images'][-1] == '12'
    assert '- Something to know.' in text
    assert text._repr_markdown_() == text
    assert f"{int(df['label:a'].sum())} of 12" in text
    for o in ('age, years', 'patients F', 'without findings', 'uncertain', 'pixels', 'copies'): assert o not in text


def table_of_studies():
    "Forty images of twenty studies, with everything that a table may hold"
    df = full_table(40).assign(
        study=[f's{i//2}' for i in range(40)], view='AP', report=['word '*(i//2 % 7) for i in range(40)])
    first = df.drop_duplicates('study')
    for c in ('age', 'sex', 'sections'): df[c] = df['study'].map(first.set_index('study')[c])
    return df, first


def test_describe_tells_what_is_known():
    df, first = table_of_studies()
    got = {k: v[-1] for k,v in lines(describe(check_studies(df))).items()}
    words = first['report'][first['report'] != ''].str.split().str.len()
    assert got['words in a report'] == f'{words.median():,.0f} ({words.min()} to {words.max()})'
    assert got['studies with a report'] == str(len(words)) == '17'
    assert got['reports without findings'] == str((first['sections'] == 'impression').sum())
    assert got['reports without impression'] == str((first['sections'] == 'findings').sum())
    assert got['studies without an age'] == str(first['age'].isna().sum())
    assert got['age, years'].startswith(f"{first['age'].median():,.0f} (")
    assert sum(int(got[f'patients {o}']) for o in ('F', 'M', 'of unknown sex')) == 20
    assert 'view PA' not in got
    assert got['view AP'] == '40'


def test_describe_counts_doubt():
    df, _ = table_of_studies()
    said = df['chexpert:b']
    counts = [(said == value).sum() for value in (1, 0, -1)] + [said.isna().sum()]
    assert lines(describe(check_studies(df)))['b'] == [str(o) for o in counts]


def test_describe_tells_of_copies_and_sizes(copies):
    text = describe(*copies)
    assert '151 pairs of images look like copies' in text
    assert '149 images share' in text
    assert lines(text)['original width, pixels'][-1].endswith('(60 to 128)')


def test_describe_lines_up_in_a_terminal():
    for part in describe(check_studies(full_table(30))).split('\n\n'):
        assert len({len(o) for o in part.splitlines()}) == 1


@pytest.mark.parametrize('keep,panels', [
    ((), 1), (('report',), 2), (('report', 'age'), 3), (('label:a', 'age', 'sex'), 3),
    (('chexpert:a', 'report', 'age', 'sex'), 4)])
def test_a_figure_has_a_panel_for_what_there_is(keep, panels):
    df = full_table(24)
    if 'report' not in keep: df['report'] = ''
    df = df[[c for c in df if c in COLUMNS or c in keep]]
    fig = plot_studies(df)
    assert len(fig.axes) == panels
    assert tuple(fig.get_size_inches()) <= (8, 4)
    fig.savefig(BytesIO())


def test_a_figure_shows_the_original_sizes(copies):
    assert len(plot_studies(*copies).axes) == 2


def test_a_figure_needs_no_backend():
    code = '''
import sys, io, pandas as pd
from refers_nb.data.card import plot_studies
df = pd.DataFrame(dict(patient=['1'], study=['1'], view='PA', path=['1'], report='a b', split='train', age=5))
plot_studies(df).savefig(io.BytesIO())
assert 'matplotlib.pyplot' not in sys.modules'''
    subprocess.run([sys.executable, '-c', code], check=True, timeout=300)
