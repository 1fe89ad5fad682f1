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

def lay(root, rows, name='list.csv', **kwargs):
    "Images and their table; the images that the table names are written"
    df = pd.DataFrame(rows)
    for i, o in enumerate(df['path'].unique()): image(root/o, i)
    df.to_csv(root/name, index=False, **kwargs)
    return root/name

def test_the_folder_may_be_named_in_the_paths(tmp_path):
    root = tmp_path/'Xray-2.0'
    for i in range(3): image(root/f'valid/case{i}/a.jpg', i)
    for start in ('Xray-2.0/', 'xray-2.0\\', 'home/me/Xray-2.0/', './Xray-2.0/'):
        names = [f'{start}valid/case{i}/a.jpg' for i in range(3)]
        pd.DataFrame(dict(Path=names)).to_csv(root/'t.csv', index=False)
        assert list(folder(root/'t.csv')['path']) == [f'valid/case{i}/a.jpg' for i in range(3)]

def test_a_lost_image_takes_no_label_elsewhere(tmp_path):
    for o in ('p2/v.png', 'p7/w.png', 'p8/w.png'): image(tmp_path/o)
    pd.DataFrame(dict(path=['p1/w.png', 'p2/v.png', 'w.png'], e=[1, 0, 1])).to_csv(tmp_path/'t.csv', index=False)
    df = folder(tmp_path/'t.csv')
    assert list(df['path']) == ['p2/v.png'] and df.attrs['missing'] == ['p1/w.png', 'w.png']
    assert told(df, '1 name fits several files')
    image(tmp_path/'other'/'p9'/'w.png')
    pd.DataFrame(dict(path=['p1/w.png'])).to_csv(tmp_path/'other'/'t.csv', index=False)
    with pytest.raises(InputError, match='none of the images .* alike from their ends'): folder(tmp_path/'other'/'t.csv')

@pytest.mark.parametrize('a,b,sure', [
    ('Ju\u0308rgen{}', 'J\xfcrgen{}', True), (' P{}', 'P{} ', True), ('\u200bP{}', 'P{}', True), ('A\xa0{}', 'A {}', True),
    ('p{}', 'P{}', False), ('00{}', '{}', False), ('{}.0', '0{}', False), ("'{}", '{}', False), ('１{}', '1{}', False)])
def test_one_patient_however_written(tmp_path, a, b, sure):
    names = [(a, b)[i % 2].format(1 + i//2) for i in range(16)]
    rows = dict(path=[f'{i}.png' for i in range(16)], patient=names)
    df = folder(lay(tmp_path, rows))
    assert df['patient'].nunique() == 8 and df.groupby('patient')['split'].nunique().max() == 1
    assert bool(told(df, '8 patient ids differ')) is not sure
    file = lay(tmp_path, rows | dict(split=['train', 'test']*8), 't2.csv')
    if sure:
        with pytest.raises(InputError, match='is in train and in test'): folder(file)
    else: assert told(folder(file), '8 patients may be in two splits')

def test_what_cannot_be_read_is_counted_over_the_rows_that_stay(tmp_path):
    ages = ['>89', '90+', '45,5', '13 weeks', 'adult', '30-40', '', 'unknown']
    sexes = ['W', 'weiblich', 'männlich', 'X', 'O', 'f', '', 'n/a']
    rows = dict(path=[f'{i}.png' for i in range(8)], age=ages, sex=sexes, eff=[1, -1, -1, 0, 1, 0, -1, 1])
    file = lay(tmp_path, rows)
    df = folder(file)
    assert df['age'].fillna(-1).tolist() == [90, 90, 45.5, .25, -1, -1, -1, -1]
    assert df['sex'].tolist() == ['F', 'F', 'M', '', '', 'F', '', '']
    assert told(df, '2 ages are not', "'adult'") and told(df, '2 entries for the sex', "'X'")
    assert told(df, '3 findings are uncertain')
    for i in (1, 3, 4): (tmp_path/f'{i}.png').unlink()
    df = folder(file)
    assert told(df, '1 age is not', "'30-40'") and not told(df, 'entries for the sex') and told(df, '2 findings')

@pytest.mark.parametrize('cells,want', [
    (["('mass', 'scar')", "['scar']", "[]"], ['mass', 'scar']), (['["Mass"]', "['mass' 'scar']", ''], ['Mass', 'scar']),
    (['mass; scar', 'scar', 'MASS'], ['mass', 'scar']), (['mass, old', 'old', 'scar'], ['mass', 'old', 'scar']),
    (['mass|scar, old', 'scar, old', ''], ['mass', 'scar, old']), (["[\"Kerley's lines\"]", '[mass, scar]', '[mass]'], ["Kerley's lines", 'mass', 'scar'])])
def test_words_and_lists_as_findings(tmp_path, cells, want):
    df = folder(lay(tmp_path, dict(path=['a.png', 'b.png', 'c.png'], words=cells)), labels='words')
    assert [o.lower() for o in label_names(df)] == [o.lower() for o in want]

def test_many_different_lists_are_findings_and_sentences_are_none(tmp_path):
    words = [f'sign {i}' for i in range(9)]
    lists = [[words[i % 9], words[i//9 % 9]] for i in range(70)]
    rows = dict(path=[f'{i}.png' for i in range(70)])
    file = lay(tmp_path, rows | dict(found=list(map(str, lists)), said=[f'Film {i} shows it.' for i in range(70)]))
    assert len(label_names(folder(file, labels='found'))) == 9
    with pytest.raises(InputError, match="row 0: said is 'Film 0 shows it.'"): folder(file, labels='said')
    pd.DataFrame(rows | dict(found=lists)).to_parquet(tmp_path/'t.parquet')
    df = folder(tmp_path/'t.parquet', labels='found')
    assert len(label_names(df)) == 9 and df['label:sign 1'].sum() == sum('sign 1' in o for o in lists)

def test_columns_that_are_no_findings(tmp_path):
    rows = {'': [0, 1, 1], 'path': list('abc'), 'SeriesNumber': [1, 0, 1], 'Columns': [1, 1, 0], 'visit_id': [0, 1, 0],
            'BurnedInAnnotation': ['NO', 'YES', 'NO'], 'flag': [1, 1, 1], 'Hernia': [0, 0, 0], 'No Finding': [1, 0, 0],
            'support devices': [0, 1, 0], 'tumor': ['0,0', '1,0', '']}
    rows['path'] = [f'{o}.png' for o in rows['path']]
    file = lay(tmp_path, rows)
    df = folder(file)
    assert label_names(df) == ['Hernia', 'No Finding', 'support devices', 'tumor']
    assert df['label:tumor'].fillna(-1).tolist() == [0, 1, -1]
    assert told(df, '6 columns of 0 and 1 taken for no finding', 'visit_id', 'flag')
    assert label_names(folder(file, labels='flag')) == ['flag']

def test_equal_rows_count_once_and_different_ones_are_refused(tmp_path):
    rows = dict(no=[1, 2, 3, 4], path=['a.png', 'b.png', 'b.png', 'c.png'], e=[1, 0, 0, 1])
    df = folder(lay(tmp_path, rows))
    assert len(df) == 3 and told(df, '1 row is equal to an earlier one')
    with pytest.raises(InputError, match='same path more than once'): folder(lay(tmp_path, rows | dict(e=[1, 0, 1, 1])))

def test_reports_without_known_headings_are_counted(tmp_path):
    reports = ['Clear.', 'BEFUND: Frei.', 'HISTORY: Cough.', 'FINDINGS: Clear &lt;br/&gt;IMPRESSION: Normal.', '', 'IMPRESION: Old.']
    df = folder(lay(tmp_path, dict(path=[f'{i}.png' for i in range(6)], report=reports)))
    assert df['report'].tolist() == ['Clear.', 'BEFUND: Frei.', '', 'Clear. Normal.', '', 'Old.']
    assert told(df, '2 reports have no heading that is known') and told(df, '1 report has neither')

def test_one_sheet_of_several(tmp_path):
    pytest.importorskip('openpyxl')
    for o in 'ab': image(tmp_path/f'{o}.png')
    images = pd.DataFrame(dict(Filename=['a.png', 'b.png'], e=['1', '0']))
    about = pd.DataFrame(dict(word=['effusion'], meaning=['fluid']))
    def write(**sheets):
        with pd.ExcelWriter(tmp_path/'t.xlsx') as f:
            for name, df in sheets.items(): df.to_excel(f, sheet_name=name, index=False)
        return tmp_path/'t.xlsx'
    df = folder(write(legend=about, images=images, empty=pd.DataFrame()))
    assert len(df) == 2 and told(df, "Sheet 'images' is read; not read: legend.")
    with pytest.raises(InputError, match='several sheets'): folder(write(one=images, two=images))
    levels = pd.MultiIndex.from_tuples([('image', ''), ('label', 'mass')])
    two = pd.DataFrame([['a.png', 1], ['b.png', 0]], columns=levels)
    two.to_excel(tmp_path/'t.xlsx')
    with pytest.raises(InputError, match='t.xlsx.*(second line|has it|column)'): folder(tmp_path/'t.xlsx')
    two.to_parquet(tmp_path/'t.parquet')
    assert label_names(folder(tmp_path/'t.parquet')) == ['mass']
