"Images of one's own: tables in any format, what their columns mean, and paths that lead nowhere else"
import pandas as pd
import pytest
from source_trees import image, own, told

from refers_nb.core import InputError
from refers_nb.data.sources.folder import folder
from refers_nb.data.studies import label_names

@pytest.fixture
def table(tmp_path):
    "A folder of images, and a function that writes its table anew, with some columns changed; it returns the folder"
    own(tmp_path)
    base = pd.read_csv(tmp_path/'list.csv')
    def write(without=(), **columns):
        base.drop(columns=list(without)).assign(**columns).to_csv(tmp_path/'list.csv', index=False)
        return tmp_path
    return write

def test_folder(tmp_path):
    df = folder(own(tmp_path))
    assert len(df) == 30 and df['patient'].nunique() == 15 and set(df['view']) == {'PA', 'LATERAL'}
    assert label_names(df) == ['effusion']
    assert df['report'][3] == 'Lungs of 3 are clear.' and set(df['sections']) == {'findings'}
    assert set(df['sex']) == {'F'} and df['age'].eq(40).all()

@pytest.mark.parametrize('ext,sep', [('csv', ','), ('csv', ';'), ('tsv', '\t'), ('parquet', ''), ('xlsx', '')])
def test_folder_in_other_formats(tmp_path, ext, sep):
    want = folder(own(tmp_path))
    df = pd.read_csv(tmp_path/'list.csv')
    (tmp_path/'list.csv').unlink()
    if ext == 'parquet': df.to_parquet(tmp_path/'t.parquet')
    elif ext == 'xlsx':
        pytest.importorskip('openpyxl')
        df.to_excel(tmp_path/'t.xlsx', index=False)
    else: df.to_csv(tmp_path/f't.{ext}', sep=sep, index=False, encoding='utf-8-sig')
    pd.testing.assert_frame_equal(folder(tmp_path), want)

def test_folder_with_the_path_alone(tmp_path):
    names = [f'{"äö"[i % 2]}{i}' for i in range(9)]
    for i, o in enumerate(names[:8]): image(tmp_path/'a b'/f'{o}.png', i)
    pd.DataFrame({'File Name': [f'{o}.jpg' for o in names]}).to_csv(tmp_path/'x.csv', index=False)
    df = folder(tmp_path)
    assert len(df) == 8 and df['study'].nunique() == 8 and df.attrs['missing'] == ['ä8.jpg']
    assert set(df['view']) == {'UNKNOWN'} and told(df, 'an image counts as a patient')

def test_findings_of_a_folder(table):
    columns = dict(a=['yes', 'No', '']*10, b=[1, 0, -1]*10, c=['x', 'y', 'x|y']*10, d=range(30))
    root = table(['effusion'], **columns)
    df = folder(root)
    assert label_names(df) == ['a', 'b'] and df['label:a'].isna().sum() == 10 and df['label:b'].isna().sum() == 10
    assert told(df, '10 findings are uncertain') and told(df, 'c, d')
    df = folder(root, labels='a;c')
    assert label_names(df) == ['a', 'x', 'y'] and df['label:x'].sum() == 20

def test_findings_and_patients_that_are_not_clear(table):
    bad = {'label:b': [1, 'maybe', 0]*10}
    with pytest.raises(InputError, match="row 1: label:b is 'maybe'"): folder(table(['effusion'], **bad))
    two = {'Subject ID': 1, 'pid': 2}
    with pytest.raises(InputError, match='both be the patient'): folder(table(['effusion', 'patient'], **two))

def test_two_columns_of_one_finding(table):
    root = table(diagnosis=['effusion', 'normal']*15)
    with pytest.raises(InputError, match="two columns tell of 'effusion'"): folder(root, labels='effusion;diagnosis')

def test_the_index_of_a_table_is_a_column(tmp_path):
    pd.read_csv(own(tmp_path)/'list.csv').set_index('path').to_parquet(tmp_path/'list.parquet')
    (tmp_path/'list.csv').unlink()
    assert len(folder(tmp_path)) == 30

def test_paths_of_a_folder(tmp_path, table):
    def paths(*first): return table(path=[*first, *(f'pictures/{i}.png' for i in range(len(first), 30))])
    assert len(folder(paths(str(tmp_path/'pictures'/'0.png'), 'pictures\\1.png', './pictures/2.png'))) == 30
    for bad in ('/etc/passwd', '../x.png', 'C:\\a.png', ''):
        with pytest.raises(InputError, match='row 0: the path'): folder(paths(bad))
    with pytest.raises(InputError, match='same path more than once'): folder(paths('pictures/1.png'))

def test_tables_that_are_none(tmp_path, table):
    with pytest.raises(InputError, match='no such file'): folder(tmp_path/'none.csv')
    with pytest.raises(InputError, match='no table'): folder(tmp_path/'pictures')
    with pytest.raises(InputError, match='no column with file names'): folder(table(['path']))
