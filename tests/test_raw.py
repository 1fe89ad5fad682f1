"What every source shares: damaged tables are refused, splits are checked, odd files are not opened"
import os

import pandas as pd
import pytest
from source_trees import indiana, nih, openi, told

from refers_nb.core import InputError
from refers_nb.data.prepare import prepare, verify_checksums
from refers_nb.data.sources.iu_xray import iu_xray
from refers_nb.data.sources.nih14 import nih14
from refers_nb.data.sources.raw import standard_sex

def shifted(text):
    "A CSV with a cell too many in each row but the first"
    header, *rows = text.splitlines()
    return '\n'.join([header, *(o + ',x' for o in rows)])

def unclosed(text):
    "A CSV in which a quotation mark is closed only some rows later"
    for o in ('3_IM-0003-4001.dcm.png,', '9_IM-0009-4001'): text = text.replace(o, f'"{o}')
    return text

def refused(path, text, words):
    "A table beside the others is refused in one line that names it"
    path.write_text(text)
    with pytest.raises(InputError, match=words) as e: iu_xray(path.parent)
    assert path.name in str(e.value) and str(e.value).isprintable()

@pytest.mark.parametrize('damage,words', [
    (shifted, 'not a CSV file'),
    (lambda o: o.splitlines()[0], 'no rows below the header'),
    (lambda o: o + ',x.png,Frontal\n', 'row 24: no uid'),
    (unclosed, 'row 4: filename .*quotation mark')])
def test_tables_of_which_nothing_may_be_taken_silently(tmp_path, damage, words):
    table = indiana(tmp_path)/'indiana_projections.csv'
    refused(table, damage(table.read_text()), words)

def test_rows_of_one_key_that_differ(tmp_path):
    reports = indiana(tmp_path)/'indiana_reports.csv'
    whole = reports.read_text()
    refused(reports, whole + '7,normal,,,,,Other words.,\n', "uid '7' has two rows that differ")
    reports.write_text(whole)
    refused(tmp_path/'split.csv', 'uid,split,split\n1,train,test\n', "the column 'split' twice")
    refused(tmp_path/'split.csv', 'uid,split\n1,train\n1,test\n', "uid '1' has two rows that differ")

def test_rows_that_are_equal_count_once_and_those_that_lack_are_told_of(tmp_path):
    reports = indiana(tmp_path)/'indiana_reports.csv'
    r = pd.read_csv(reports)
    pd.concat([r[r['uid'] != 4], r[r['uid'] == 6]]).to_csv(reports, index=False)
    df = iu_xray(tmp_path)
    assert told(df, '2 images have no row among the reports')
    assert df.loc[df['study'] == '4', 'label:abnormal'].isna().all()

@pytest.mark.parametrize('sex,want', [
    ('Male', 'M'), ('f', 'F'), ('WOMAN', 'F'), ('missing', ''), ('Mixed', ''), ('0', ''), (None, '')])
def test_sexes(sex, want): assert list(standard_sex(pd.Series([sex, 'F']))) == [want, 'F']

def test_pipes_and_devices_are_not_opened(tmp_path):
    "A reader of a pipe waits for ever; a device never ends"
    raw = openi(tmp_path/'raw')
    png = sorted((raw/'NLMCXR_png').iterdir())
    for o in png[:2]: o.unlink()
    os.mkfifo(png[0])
    os.symlink('/dev/zero', png[1])
    os.mkfifo(raw/'ecgen-radiology'/'0.xml')
    os.symlink('loop', raw/'loop')
    (raw/'SUMS').write_text(f"{'0'*64}  NLMCXR_png/{png[0].name}\n")
    df = iu_xray(raw)
    assert len(df) == 20 and {o.stem for o in png[:2]} < set(df.attrs['missing'])
    assert told(df, '1 report file cannot be read')
    assert list(verify_checksums(raw/'SUMS')['status']) == ['missing']

def test_no_images_and_no_folder(tmp_path):
    raw = nih(tmp_path/'raw')
    for o in raw.rglob('*.png'): o.unlink()
    with pytest.raises(InputError, match='none of the images'): nih14(raw)
    with pytest.raises(InputError, match='no such folder'): nih14(tmp_path/'nowhere')
    with pytest.raises(InputError, match='unknown source'): prepare('mimic', raw, tmp_path/'out')

def test_a_split_with_a_patient_on_both_sides_is_refused(tmp_path):
    nih(tmp_path)
    names = [f'{i//2:08d}_{i%2:03d}.png' for i in range(30)]
    def split(parts):
        df = pd.DataFrame({'Image Index': names, 'refers_split': parts})
        df.to_csv(tmp_path/'split.csv', index=False)
    split(['train', 'val']*15)
    with pytest.raises(InputError, match='patient 0 is in train and in valid'): nih14(tmp_path)
    split('tain')
    with pytest.raises(InputError, match="unknown split 'tain'"): nih14(tmp_path)
