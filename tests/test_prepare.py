"`prepare`: what it writes, what it refuses, the notebooks of data_prep, and the real sets where they are"
import hashlib, json, os

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from source_trees import (
    REPO, chex, corona, indiana, mimic, mont, nih, outlines, own, pad, pneumonia, real, shen, told, vin)

from refers_nb.core import InputError
from refers_nb.data.prepare import prepare, verify_checksums
from refers_nb.data.store import ImageStore
from refers_nb.data.studies import read_studies

def test_the_output_lies_outside_the_download(tmp_path):
    raw = own(tmp_path/'raw')
    for o in (raw, raw/'prepared', tmp_path/'raw'/'..'/'raw'/'x'):
        with pytest.raises(InputError, match='choose a folder outside'): prepare('folder', raw/'list.csv', o)
    assert sorted(o.name for o in raw.iterdir()) == ['list.csv', 'pictures']

def test_what_an_earlier_run_left_goes(tmp_path):
    raw, out = own(tmp_path/'raw'), tmp_path/'out'
    prepare('folder', raw, out, size=32)
    assert (out/'fractions.csv').exists()
    (out/'.tmp-0123456789ab-card.md').write_text('of a run that was killed')
    pd.read_csv(raw/'list.csv').drop(columns='effusion').to_csv(raw/'list.csv', index=False)
    prepare('folder', raw, out, size=32)
    assert not (out/'fractions.csv').exists() and not list(out.glob('.tmp-*'))

def test_no_image_can_be_read(tmp_path):
    raw = own(tmp_path/'raw')
    for o in raw.rglob('*.png'): o.write_text('no')
    with pytest.raises(InputError, match='none of the images can be read'):
        prepare('folder', raw, tmp_path/'out', size=32, max_rejected=1)

def sum_line(kind, i, path):
    "A line of a list of checksums: that of the file with byte `i`, under a path"
    return f'{getattr(hashlib, kind)(bytes([i])).hexdigest()}  {path}\n'

def test_checksums(tmp_path):
    for i in range(4): (tmp_path/f'{i}').write_bytes(bytes([i]))
    sums = tmp_path/'SUMS'
    lines = sum_line('sha256', 0, '0'), sum_line('md5', 1, './1'), sum_line('sha1', 9, '2'), sum_line('sha512', 3, '5')
    sums.write_text(''.join(lines))
    assert list(verify_checksums(sums)['status']) == ['ok', 'ok', 'changed', 'missing']
    with pytest.raises(InputError, match='2 of 4 files are not as listed; the first: 2'):
        prepare('covid', corona(tmp_path/'c'), tmp_path/'out', checksums=sums)
    for bad in ('nonsense', sum_line('md5', 0, '../x'), sum_line('md5', 0, '/x'), 'abc  file'):
        sums.write_text('\n' + bad)
        with pytest.raises(InputError, match='SUMS:2: '): verify_checksums(sums)
    sums.write_text('\n')
    with pytest.raises(InputError, match='no checksums in it'): verify_checksums(sums)

def odd_download(root):
    "Images of which the first is lost, one more is in no row, and two look alike; (folder, all paths as they were)"
    nih(root)
    png = sorted(root.rglob('*.png'))
    png[0].unlink()
    (root/'images_001'/'images'/'stray.png').write_bytes(png[1].read_bytes())
    shape = np.linspace(0, 255, 120*100).reshape(120, 100).astype(np.uint8)
    shape[30:60, 20:70] = 240
    shape[80:100, 50:60] = 10
    for i in (4, 29): Image.fromarray(shape).save(png[i])
    return root, png

def test_missing_extra_duplicates_and_fractions_are_written(tmp_path):
    raw, png = odd_download(tmp_path/'raw')
    out = tmp_path/'out'
    df = prepare('nih14', raw, out, size=64)
    gone = pd.read_csv(out/'missing.csv')
    stray = 'images_001/images/stray.png'
    assert gone.values.tolist() == [[png[0].name, 'named, not here'], [stray, 'here, not named']]
    pairs = pd.read_csv(out/'duplicates.csv')
    alike = [p for p in df['path'] if p.endswith((png[4].name, png[29].name))]
    assert pairs[['path_a', 'path_b']].values.tolist() == [alike]
    assert not pairs['same_patient'][0] and not pairs['same_split'][0]
    f = pd.read_csv(out/'fractions.csv')
    assert set(f['path']) == set(df['path'][df['split'] == 'train'])
    assert f['100%/0'].all() and (f['1%/0'] <= f['10%/0']).all()
    assert (out/'card.md').read_text().startswith('# nih14') and (out/'card.png').stat().st_size > 5000
    less = prepare('nih14', raw, out, size=64, copies='drop')
    assert len(less) == len(df) - 1 and alike[0] not in set(less['path']) and alike[1] in set(less['path'])
    with pytest.raises(InputError, match='keep or drop'): prepare('nih14', raw, out, copies='yes')

def shen_csv(root): return shen(root, texts=False)

@pytest.mark.parametrize('source,make,name,column', [
    ('iu_xray', indiana, 'indiana_reports.csv', 'MeSH'), ('iu_xray', indiana, 'indiana_projections.csv', 'uid'),
    ('nih14', nih, 'Data_Entry_2017.csv', 'Patient ID'), ('covid', corona, 'metadata.csv', 'modality'),
    ('vinbig', vin, 'train.csv', 'rad_id'), ('shenzhen', shen_csv, 'shenzhen_metadata.csv', 'findings'),
    ('chexpert', chex, 'train.csv', 'Frontal/Lateral'), ('rsna', pneumonia, 'stage_2_train_labels.csv', 'Target'),
    ('siim', outlines, 'train-rle.csv', 'EncodedPixels'),
    ('padchest', pad, 'PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv', 'MethodLabel')])
def test_bad_tables_of_a_download(tmp_path, source, make, name, column):
    table = make(tmp_path/'raw')/name
    whole = table.read_text()
    header, rest = whole.split('\n', 1)
    def fails(words):
        with pytest.raises(InputError, match=words) as e: prepare(source, tmp_path/'raw', tmp_path/'out')
        assert '\n' not in str(e.value)
    table.write_text(header.replace(column, 'something') + '\n' + rest)
    fails(f'lacks the column {column}')
    for bad in (b'', whole.encode('utf-16'), (whole + 'a,b,"unclosed' + ',c'*40).encode()):
        table.write_bytes(bad)
        fails('not a CSV file')
    table.unlink()
    fails('tell how each download is laid out')
    assert not (tmp_path/'out').exists()

def test_prepare_twice_and_with_bad_images(tmp_path):
    raw, out = indiana(tmp_path/'raw', 30), tmp_path/'out'
    bad = sorted((raw/'images').iterdir())[4]
    bad.write_bytes(bad.read_bytes()[:100])
    df = prepare('iu_xray', raw, out, size=32)
    store = ImageStore(out)
    assert len(df) == len(store) == 57 and list(store.index['path']) == list(df['path'])
    rejected = (out/'rejected.csv').read_text()
    assert f'images/{bad.name}' in rejected and str(tmp_path) not in rejected
    record = json.loads((out/'run.json').read_text())
    assert record['status'] == 'finished' and record['rejected'] == 1
    pd.testing.assert_frame_equal(read_studies(out, files=True), df)
    stamp = os.stat(out/'images.npy').st_mtime_ns
    pd.testing.assert_frame_equal(prepare('iu_xray', raw, out, size=32), df)
    assert os.stat(out/'images.npy').st_mtime_ns == stamp
    assert told(df, '1 image could not be read')

def test_phantoms_take_the_same_road(tmp_path):
    pytest.importorskip('refers_nb.phantom')
    df = prepare('phantom', '20', tmp_path, size=64, seed=3)
    assert df['study'].nunique() == 20 and set(df['split']) == {'train', 'valid', 'test'}
    assert (df['report'] != '').all()
    with pytest.raises(InputError, match='number of studies'): prepare('phantom', 'images/', tmp_path)

# ---- the notebooks of data_prep

MAKERS = dict(
    mimic_cxr=mimic, iu_xray=indiana, nih14=nih, vinbig=vin, shenzhen=shen, covid=corona,
    chexpert=chex, rsna=pneumonia, siim=outlines, padchest=pad, montgomery=mont)

@pytest.mark.parametrize('name', MAKERS)
def test_the_notebook_runs_and_is_stored_without_outputs(tmp_path, monkeypatch, name):
    nb = json.loads((REPO/'data_prep'/f'{name}.ipynb').read_text())
    cells = [c for c in nb['cells'] if c['cell_type'] == 'code']
    assert not any(c['outputs'] or c['execution_count'] for c in cells)
    MAKERS[name](tmp_path/'raw')
    monkeypatch.setenv('MPLBACKEND', 'agg')
    monkeypatch.setenv(f'REFERS_NB_DATA_{name.upper()}', str(tmp_path/'raw'))
    monkeypatch.setenv('REFERS_NB_RUN_OUT', str(tmp_path/'runs'))
    monkeypatch.setenv('REFERS_NB_RUN_WORKERS', '0')
    import matplotlib
    matplotlib.use('agg')
    names = {}
    for c in cells: exec(''.join(c['source']), names)
    assert len(ImageStore(tmp_path/'runs'/'prepared'/name)) == len(names['df'])

# ---- the real sets, where they are

@pytest.mark.slow
@pytest.mark.parametrize('source,name,n', [
    ('iu_xray', 'iu_xray', 6677), ('nih14', 'nih_chestxray14', 781), ('covid', 'covid19_image_data', 476)])
def test_real_prepare(tmp_path, source, name, n):
    df = prepare(source, real(name), tmp_path, size=64)
    store = ImageStore(tmp_path)
    some = store.images[::50]
    assert len(df) == len(store) == n and (some.reshape(len(some), -1).std(1) > 1).all()
    assert len(pd.read_csv(tmp_path/'rejected.csv')) == 0
