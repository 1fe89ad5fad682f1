"Tables as they come: packed, with any separator, blanks in the header, and damaged"
import bz2, gzip, io, lzma, zipfile

import pandas as pd
import pytest

from refers_nb.core import InputError
from refers_nb.data.sources import tables
from refers_nb.data.sources.tables import csv_column, csv_separator, read_csv, read_table

ROWS = [['image', 'patient', 'note'], ['a.png', '0012', 'x'], ['b.png', '7', '']]

def text(sep=',', rows=ROWS): return '\n'.join(sep.join(o) for o in rows) + '\n'

def zipped(**members):
    "An archive"
    data = io.BytesIO()
    with zipfile.ZipFile(data, 'w') as z:
        for name, o in members.items(): z.writestr(name.replace('__', '/').replace('_dot_', '.'), o)
    return data.getvalue()

def read(path, data):
    "What a file of these bytes holds"
    path.write_bytes(data)
    return read_table(path)

@pytest.mark.parametrize('sep', [',', ';', '\t', '|'])
@pytest.mark.parametrize('pack', [bytes, gzip.compress, bz2.compress, lzma.compress, lambda o: zipped(t_dot_csv=o)])
@pytest.mark.parametrize('start', ['', '\ufeff', '\n \n'])
def test_separators_packed_or_not(tmp_path, sep, pack, start):
    df = read(tmp_path/'t.csv.any', pack((start + text(sep)).encode()))
    assert df.columns.tolist() == ROWS[0] and df['patient'].tolist() == ['0012', '7'] and pd.isna(df['note'][1])

@pytest.mark.parametrize('header', ['sep=;', 'SEP=;', '"sep=;"', '\ufeffsep=;', 'sep=;;;'])
def test_the_line_of_excel(tmp_path, header):
    df = read(tmp_path/'t.csv', (header + '\r\n' + text(';').replace('\n', '\r\n')).encode())
    assert df.columns.tolist() == ROWS[0] and len(df) == 2

def test_commas_within_quoted_names_part_nothing(tmp_path):
    df = read(tmp_path/'t.csv', b'"a, b, c";image\n1;x.png\n')
    assert df.columns.tolist() == ['a, b, c', 'image']
    assert csv_separator(tmp_path/'t.csv') == (';', False)

def test_blanks_in_the_header_are_no_part_of_names(tmp_path):
    (tmp_path/'t.csv').write_text(' uid , split\xa0,\u200bnote\n1,train,x\n', encoding='utf-8')
    assert csv_column(tmp_path/'t.csv', 'uid', 'split').to_dict() == {'1': 'train'}
    with pytest.raises(InputError, match="column 'a' twice"): read(tmp_path/'t.csv', b'a, a ,b\n1,2,3\n')
    assert read(tmp_path/'t.csv', b'a,,b, \n1,2,3,4\n').shape == (1, 4)

def test_archives(tmp_path):
    path = tmp_path/'t.csv.zip'
    with zipfile.ZipFile(path, 'w') as z:
        for name in ('data/', '__MACOSX/data/._t.csv', 'data/.DS_Store', 'data/readme.md'): z.writestr(name, b'')
        z.writestr('data/t.csv', text())
    assert len(read_table(path)) == 2
    with zipfile.ZipFile(path, 'a') as z: z.writestr('data/u.csv', text())
    with pytest.raises(InputError, match='data/t.csv, data/u.csv in it'): read_table(path)
    with pytest.raises(InputError, match='nothing in it'): read(path, zipped())
    with pytest.raises(InputError, match='call it .xlsx'): read(path, zipped(xl__workbook_dot_xml='x'))

@pytest.mark.parametrize('pack', [bytes, gzip.compress])
def test_damage_is_one_line_that_names_the_file(tmp_path, pack):
    path = tmp_path/'t.csv'
    for data, words in (
        (text().encode() + b'c.png,\xff\n', 'byte 47 is not UTF-8'), (b'a\0b\n1\n', 'NUL bytes'), (b'a,b\n1,2,3\n', 'not a CSV'),
        (b'a,b\n1,2\n"3,4\n', 'not a CSV'), (b'', 'not a CSV'), (b'a,b\n', 'no rows below')):
        with pytest.raises(InputError, match=words) as e: read(path, pack(data))
        assert str(path) in str(e.value) and str(e.value).isprintable()
    path.write_bytes(gzip.compress(text().encode()*100)[:-20])
    with pytest.raises(InputError, match='not a CSV file'): read_table(path)

def test_what_unpacks_to_more_than_a_table_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, 'LARGEST_TABLE', 10**6)
    with pytest.raises(InputError, match='is it a table'): read(tmp_path/'t.csv.gz', gzip.compress(b'a,b\n' + b'1,2\n'*10**6))

def test_a_table_in_parts_is_the_same_table(tmp_path, monkeypatch):
    data = ('a,b\n' + ''.join(f'{i},"x\n{i}"\n' for i in range(1000))).encode()
    whole = read(tmp_path/'t.csv', data)
    monkeypatch.setattr(tables, 'ROWS_AT_A_TIME', 7)
    pd.testing.assert_frame_equal(read_csv(tmp_path/'t.csv'), whole)
    with pytest.raises(InputError, match='not a CSV file'): read(tmp_path/'t.csv', data + b'1,2,3\n')
