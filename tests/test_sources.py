"Sources: the real layouts at small scale, bad downloads, and the real sets where they lie beside the repository"
import json, os
from pathlib import Path

import numpy as np, pandas as pd, pytest
from PIL import Image

from refers_nb.core import InputError
from refers_nb.radiograph import ImageStore
from refers_nb.report import clean, report_text, sentences, swap_sides
from refers_nb.sources import MESH, NIH14, SOURCES, covid, iu_xray, mesh_findings, nih14, prepare
from refers_nb.studies import check_studies, describe, read_studies

REPO = Path(__file__).resolve().parent.parent
DATA = REPO.parent/'shared'/'data'

def image(path, seed=0, shape=(50, 40)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, shape, dtype=np.uint8)).save(path)

def indiana(root, n=12, deep=''):
    "A small tree in the layout of the CSV release; the last study has no image, the one before no report"
    rows,proj = [],[]
    for i in range(1, n+1):
        mesh = ['normal', 'Cardiomegaly/mild;Opacity/lung/base/left', 'Pleural Effusion/right', 'No Indexing'][i % 4]
        findings = '' if i == n-1 else f'Heart size of {i} is XXXX. No effusion'
        rows.append(dict(uid=i, MeSH=mesh, Problems='', image='PA and lateral', indication='Cough', comparison='', findings=findings, impression='' if i == n-1 else 'No acute disease.'))
        for view,number in (('Frontal', 4001), ('Lateral', 3001)):
            name = f'{i}_IM-000{i}-{number}.dcm'
            proj.append(dict(uid=i, filename=name+'.png', projection=view))
            if i < n: image(root/deep/'images'/(name + ('.webp' if i % 2 else '.png')), i)
    pd.DataFrame(rows).to_csv(root/deep/'indiana_reports.csv', index=False)
    pd.DataFrame(proj).to_csv(root/deep/'indiana_projections.csv', index=False)
    return root

def nih(root, n=30):
    rows = [dict(zip(['Image Index', 'Finding Labels', 'Follow-up #', 'Patient ID', 'Patient Age', 'Patient Gender', 'View Position'],
                     [f'{i//2:08d}_{i%2:03d}.png', ['No Finding', 'Hernia', 'Edema|Mass'][i % 3], i % 2, i//2, 50, 'F', ['PA', 'AP'][i % 2]])) for i in range(n)]
    for i,o in enumerate(rows): image(root/f'images_{1 + i//16:03d}'/'images'/o['Image Index'], i)
    text = pd.DataFrame(rows).to_csv(index=False).splitlines()
    text = [text[0] + ',OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],'] + [o + ',2500,2048,0.1,0.1,' for o in text[1:]]
    (root/'Data_Entry_2017.csv').write_text('\n'.join(text) + '\n')
    (root/'test_list.txt').write_text('\n'.join(o['Image Index'] for o in rows[-6:]))
    (root/'train_val_list.txt').write_text('\n'.join(o['Image Index'] for o in rows[:-6]))
    return root

def corona(root):
    rows = [dict(patientid=i//2, offset=i % 2, finding=['COVID-19', 'Klebsiella', 'COVID-19, ARDS', 'todo'][i//2 % 4], view=['PA', 'AP Supine', 'L', 'Axial'][i % 4],
                 modality='CT' if i % 4 == 3 else 'X-ray', date='2020', filename=f'{i}.jpg', clinical_notes=['Fever.', 'Known SARS-CoV-2.', None][i % 3]) for i in range(16)]
    for o in rows: image(root/'images'/o['filename'])
    pd.DataFrame(rows).to_csv(root/'metadata.csv', index=False)
    return root

@pytest.mark.parametrize('deep', ['', 'archive/release'])
def test_indiana(tmp_path, deep):
    df = iu_xray(indiana(tmp_path, deep=deep))
    assert len(df) == 22 and df['study'].nunique() == 11 and df.attrs['root'] == str(tmp_path)
    assert df['report'][0] == 'Heart size of 1 is. No effusion. No acute disease.'
    assert (df['report'] == '').sum() == 2, 'a study without a report is kept'
    assert any('1 studies have a report but no image' in o for o in df.attrs['notes']), 'a study without an image is told of'
    assert set(df['view']) == {'PA', 'LATERAL'} and {Path(p).suffix for p in df['path']} == {'.png', '.webp'}
    assert df['label:abnormal'].isna().sum() == 6 and df['label:cardiomegaly'].sum() == 6
    assert set(df['split']) == {'train', 'valid', 'test'}

def test_indiana_with_its_split(tmp_path):
    indiana(tmp_path)
    pd.DataFrame(dict(uid=range(1, 11), split=['train']*7 + ['val']*3)).to_csv(tmp_path/'split.csv', index=False)
    df = iu_xray(tmp_path)
    assert df['split'].value_counts().to_dict() == dict(train=14, valid=6)
    assert any('2 images are in no split' in o for o in df.attrs['notes'])

def test_mesh():
    f = mesh_findings
    assert set(f('normal').values()) == {0} and list(f('normal')) == ['abnormal', *MESH]
    for o in ('No Indexing', 'Technical Quality of Image Unsatisfactory ', '', None, np.nan): assert all(np.isnan(v) for v in f(o).values())
    assert f('Technical Quality of Image Unsatisfactory ;Opacity/lung')['opacity'] == 1
    assert f('Calcified Granuloma/lung') == dict(abnormal=1, cardiomegaly=0, effusion=0, opacity=0, atelectasis=0)
    assert f('Pulmonary Atelectasis/base/bilateral;Pleural Effusion/left')['atelectasis'] == 1

def test_nih(tmp_path):
    df = nih14(nih(tmp_path))
    assert len(df) == 30 and (df['split'] == 'test').sum() == 6 and (df['split'] == 'valid').sum() in (2, 4)
    assert [c[6:] for c in df if c.startswith('label:')] == NIH14
    assert df['label:Hernia'].sum() == 10 and df['label:Mass'].sum() == 10 and df.groupby('patient').size().eq(2).all()

def test_covid(tmp_path):
    df = covid(corona(tmp_path))
    assert len(df) == 12 and set(df['view']) == {'PA', 'AP', 'LATERAL'}
    assert not df['report'].str.contains('SARS').any() and (df['report'] == 'Fever.').any()
    assert df['label:COVID-19'].fillna(-1).value_counts().to_dict() == {1: 8, 0: 2, -1: 2}

@pytest.mark.parametrize('source,make,name,column', [('iu_xray', indiana, 'indiana_reports.csv', 'MeSH'), ('iu_xray', indiana, 'indiana_projections.csv', 'uid'),
                                                     ('nih14', nih, 'Data_Entry_2017.csv', 'Patient ID'), ('covid', corona, 'metadata.csv', 'modality')])
def test_bad_tables_of_a_download(tmp_path, source, make, name, column):
    p = make(tmp_path/'raw')/name
    whole = p.read_text()
    def fails(words):
        with pytest.raises(InputError, match=words) as e: prepare(source, tmp_path/'raw', tmp_path/'out')
        assert '\n' not in str(e.value)
    head,rest = whole.split('\n', 1)
    p.write_text(head.replace(column, 'something') + '\n' + rest); fails(f'lacks the column {column}')
    p.write_bytes(b''); fails('not a CSV file')
    p.write_bytes(whole.encode('utf-16')); fails('not a CSV file')
    p.write_text(whole + 'a,b,"unclosed' + ',c'*40); fails('not a CSV file')
    p.unlink(); fails('tell how each download is laid out')
    assert not (tmp_path/'out').exists()

def test_no_images_and_no_folder(tmp_path):
    raw = nih(tmp_path/'raw')
    for o in raw.rglob('*.png'): o.unlink()
    with pytest.raises(InputError, match='none of the images'): nih14(raw)
    with pytest.raises(InputError, match='no such folder'): nih14(tmp_path/'nowhere')
    with pytest.raises(InputError, match='unknown source'): prepare('mimic', raw, tmp_path/'out')

def test_a_split_with_a_patient_on_both_sides_is_refused(tmp_path):
    nih(tmp_path)
    names = [f'{i//2:08d}_{i%2:03d}.png' for i in range(30)]
    pd.DataFrame({'Image Index': names, 'refers_split': ['train', 'val']*15}).to_csv(tmp_path/'split.csv', index=False)
    with pytest.raises(InputError, match='patient 0 is in train and in valid'): nih14(tmp_path)
    pd.DataFrame({'Image Index': names, 'refers_split': 'tain'}).to_csv(tmp_path/'split.csv', index=False)
    with pytest.raises(InputError, match="unknown split 'tain'"): nih14(tmp_path)

def test_prepare_twice_and_with_bad_images(tmp_path):
    raw,out = indiana(tmp_path/'raw', 30),tmp_path/'out'
    bad = sorted((raw/'images').iterdir())[4]
    bad.write_bytes(bad.read_bytes()[:100])
    df = prepare('iu_xray', raw, out, size=32)
    store = ImageStore(out)
    assert len(df) == len(store) == 57 and list(store.index['path']) == list(df['path'])
    assert f'images/{bad.name}' in (out/'rejected.csv').read_text() and str(tmp_path) not in (out/'rejected.csv').read_text()
    record = json.loads((out/'run.json').read_text())
    assert record['status'] == 'finished' and record['rejected'] == 1
    pd.testing.assert_frame_equal(read_studies(out, files=True), df)
    stamp = os.stat(out/'images.npy').st_mtime_ns
    pd.testing.assert_frame_equal(prepare('iu_xray', raw, out, size=32), df)
    assert os.stat(out/'images.npy').st_mtime_ns == stamp
    assert any('1 images could not be read' in o for o in df.attrs['notes'])

def test_phantoms_take_the_same_road(tmp_path):
    pytest.importorskip('refers_nb.phantom')
    df = prepare('phantom', '20', tmp_path, size=64, seed=3)
    assert df['study'].nunique() == 20 and set(df['split']) == {'train', 'valid', 'test'} and (df['report'] != '').all()
    with pytest.raises(InputError, match='number of studies'): prepare('phantom', 'images/', tmp_path)

@pytest.mark.parametrize('name,make', [('iu_xray', indiana), ('nih14', nih), ('covid', corona)])
def test_the_notebook_runs_and_is_stored_without_outputs(tmp_path, monkeypatch, name, make):
    nb = json.loads((REPO/'data_prep'/f'{name}.ipynb').read_text())
    cells = [c for c in nb['cells'] if c['cell_type'] == 'code']
    assert not any(c['outputs'] or c['execution_count'] for c in cells)
    make(tmp_path/'raw')
    monkeypatch.setenv('MPLBACKEND', 'agg')
    monkeypatch.setenv(f'REFERS_NB_DATA_{name.upper()}', str(tmp_path/'raw'))
    monkeypatch.setenv('REFERS_NB_RUN_OUT', str(tmp_path/'runs'))
    monkeypatch.setenv('REFERS_NB_RUN_WORKERS', '0')
    import matplotlib; matplotlib.use('agg')
    names = {}
    for c in cells: exec(''.join(c['source']), names)
    assert len(ImageStore(tmp_path/'runs'/'prepared'/name)) == len(names['df'])

# ---- the real sets, where they are

def real(name):
    if not (DATA/name).is_dir(): pytest.skip(f'../shared/data/{name} is not here')
    return DATA/name

def test_real_indiana():
    df = iu_xray(real('iu_xray'))
    assert (len(df), df['study'].nunique()) == (6677, 3450)
    assert df.drop_duplicates('study')['split'].value_counts().to_dict() == dict(train=3072, valid=378)
    views = df.groupby('study').size().value_counts()
    assert views.index.min() == 1 and (views.index * views).sum() == 6677 and views[2] > 2700
    assert (df['report'] != '').all() and not df['report'].str.contains('XXXX').any()
    assert df.attrs['notes'] and describe(df)

def test_real_reports_are_mirrored_word_by_word():
    r = pd.read_csv(real('iu_xray')/'indiana_reports.csv')
    texts = [report_text(a, b) for a,b in zip(r['findings'], r['impression'])]
    assert len(texts) == 3450 and sum(map(bool, texts)) == 3450
    sides = {'left', 'right', 'leftward', 'rightward', 'dextroscoliosis', 'levoscoliosis', 'dextrocurvature', 'levocurvature', 'dextroconvex', 'levoconvex'}
    import re
    changed = 0
    for t in [*texts, *r['findings'].fillna(''), *r['impression'].fillna('')]:
        m = swap_sides(t)
        assert swap_sides(m) == t
        a,b = re.findall(r'\w+|\W+', t),re.findall(r'\w+|\W+', m)
        assert len(a) == len(b) and all(x == y or x.lower() in sides for x,y in zip(a, b))
        assert not any(x == y and x.lower() in {'left', 'right'} for x,y in zip(a, b))
        changed += t != m
    assert changed > 1000

def test_real_reports_lose_no_word_and_cleaning_twice_is_cleaning_once():
    import re
    r = pd.read_csv(real('iu_xray')/'indiana_reports.csv').fillna('')
    for f,i in zip(r['findings'], r['impression']):
        t = report_text(f, i)
        assert clean(t) == t and ' '.join(sentences(t)) == t
        before = re.findall(r'\w+', re.sub(r"\bx-X{3,}", 'x ray', re.sub(r"\bX-X{3,}", 'X ray', f'{f} {i}')))
        before = [w for w in before if w]
        want = re.findall(r'\w+', re.sub(r"(?<![A-Za-z])X{3,}('[a-z]+)?(?![a-z])", ' ', ' '.join(before)))
        got = re.findall(r'\w+', t)
        assert [w for w in got if w not in 'st'] == [w for w in want if w not in 'st']

def test_real_nih():
    df = nih14(real('nih_chestxray14'))
    assert len(df) == 781 and df['split'].value_counts().to_dict() == dict(train=704, valid=77)
    assert df.groupby('patient')['split'].nunique().max() == 1 and df['label:Pneumonia'].sum() == 406

def test_real_covid():
    df = covid(real('covid19_image_data'))
    assert len(df) == 476 and df['split'].value_counts().to_dict() == dict(train=402, valid=74)
    assert df['label:COVID-19'].sum() == 337 and not df['report'].str.contains('covid|sars|coronavirus', case=False).any()

@pytest.mark.parametrize('source,name,n', [('iu_xray', 'iu_xray', 6677), ('nih14', 'nih_chestxray14', 781), ('covid', 'covid19_image_data', 476)])
def test_real_prepare(tmp_path, source, name, n):
    df = prepare(source, real(name), tmp_path, size=64)
    store = ImageStore(tmp_path)
    assert len(df) == len(store) == n and (store.images[::50].reshape(len(store.images[::50]), -1).std(1) > 1).all()
    assert len(pd.read_csv(tmp_path/'rejected.csv')) == 0
