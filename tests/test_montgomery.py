"Montgomery: an invented tree in its layout; masks that bear the names of images; odd readings"
import pytest
from source_trees import mont, told

from refers_nb.core import InputError
from refers_nb.data.prepare import prepare
from refers_nb.data.sources.montgomery import montgomery, montgomery_masks, montgomery_reading

def test_montgomery(tmp_path):
    df = montgomery(mont(tmp_path))
    assert len(df) == 16 and df['label:tuberculosis'].sum() == 8 and df['age'].iloc[0] == 21
    assert set(df['sex']) == {'F', 'M'} and all(df['path'].str.startswith('CXR_png/')) and not df.attrs['extra']
    assert told(df, '138', '16 are here')
    masks = montgomery_masks(tmp_path, df)
    assert masks.notna().all().all() and masks['left'].str.contains('leftMask').all()

def test_a_mask_never_stands_in_for_an_image(tmp_path):
    mont(tmp_path)
    for folder in ('CXR_png', 'ManualMask/leftMask'): (tmp_path/folder/'MCUCXR_0003_0.png').unlink()
    df = montgomery(tmp_path)
    assert df.attrs['missing'] == ['MCUCXR_0003_0'] and not df['path'].str.contains('Mask').any()

@pytest.mark.parametrize('inside', ['MontgomerySet', 'a/b'])
def test_one_folder_deeper(tmp_path, inside):
    mont(tmp_path/inside)
    df = montgomery(tmp_path)
    assert len(df) == 16 and all(df['path'].str.startswith(f'{inside}/CXR_png/'))
    assert montgomery_masks(tmp_path, df).notna().all().all()

@pytest.mark.parametrize('text, sex, age, findings', [
    ("Patient's Sex: F \nPatient's Age: 027Y\nnormal", 'F', '027Y', 'normal'),
    ("patient's sex: M\r\nPATIENT'S AGE: 6 months\r\nTB,\r\nleft.", 'M', '6 months', 'TB, left.'),
    ('normal', '', '', 'normal'), ('', '', '', ''), ("Patient's Sex: \nPatient's Age: \n\n", '', '', ''),
    ("Patient's Age: 40\nscar", '', '40', 'scar')])
def test_readings(text, sex, age, findings):
    assert montgomery_reading(text) == dict(sex=sex, age=age, findings=findings)

def test_bad_input(tmp_path):
    raw = mont(tmp_path)
    (raw/'ClinicalReadings'/'MCUCXR_0099.txt').write_text('normal')
    with pytest.raises(InputError, match='does not end in _0 or _1'): montgomery(raw)
    with pytest.raises(InputError, match='no MCUCXR_'): montgomery(raw/'CXR_png')

def test_readings_that_contradict(tmp_path):
    raw = mont(tmp_path)
    (raw/'ClinicalReadings'/'MCUCXR_0016_1.txt').write_text("Patient's Sex: F\nPatient's Age: 030Y\nNormal.\n")
    assert told(montgomery(raw), '1 reading contradicts')

def test_prepared(tmp_path):
    df = prepare('montgomery', mont(tmp_path/'raw'), tmp_path/'out', size=32)
    assert len(df) == 16 and 'Jaeger' in (tmp_path/'out'/'card.md').read_text()
