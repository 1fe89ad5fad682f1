"Sources: the real layouts at small scale, bad downloads, and the real sets where they lie beside the repository"
import hashlib, json, os, zipfile
from pathlib import Path

import numpy as np, pandas as pd, pytest
from PIL import Image

from refers_nb.core import InputError
from refers_nb.data.store import ImageStore
from refers_nb.data.report import clean, report_text, sentences, swap_sides
from refers_nb.data.sources.locate import locate
from refers_nb.data.sources.raw import EXPECTED
from refers_nb.data.sources.iu_xray import MESH, iu_xray, mesh_findings
from refers_nb.data.lists import NIH14, VINBIG, list_differences, listed, released_lists
from refers_nb.data.prepare import SOURCES, prepare, verify_checksums
from refers_nb.data.sources.vinbig import boxes, vinbig, vinbig_labels
from refers_nb.data.sources.covid import covid
from refers_nb.data.sources.folder import folder
from refers_nb.data.sources.mimic_cxr import mimic_cxr
from refers_nb.data.sources.nih14 import nih14, nih14_labels
from refers_nb.data.sources.shenzhen import shenzhen, shenzhen_reading
from refers_nb.data.studies import annotation_names, check_studies, label_names, read_studies
from refers_nb.data.card import describe

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

def openi(root, n=12):
    "The studies of `indiana` as Open-i has them: XML reports and images with other names"
    (root/'ecgen-radiology').mkdir(parents=True)
    for i in range(1, n+1):
        mesh = ['normal', 'Cardiomegaly/mild;Opacity/lung/base/left', 'Pleural Effusion/right', 'No Indexing'][i % 4].split(';')
        findings = '' if i == n-1 else f'Heart size of {i} is XXXX. No effusion'
        names = [f'CXR{i}_{i}_IM-000{i}-{o}' for o in (1001, 2001)]
        text = f'''<?xml version="1.0" encoding="utf-8"?>
<eCitation><meta type="rr"/><uId id="CXR{i}"/><pmcId id="{i}"/><MedlineCitation><Article><Abstract>
<AbstractText Label="COMPARISON"/><AbstractText Label="INDICATION">Cough &amp; fever</AbstractText>
<AbstractText Label="FINDINGS">{findings}</AbstractText><AbstractText Label="IMPRESSION">{'' if i == n-1 else 'No acute disease.'}</AbstractText>
</Abstract></Article></MedlineCitation><MeSH>{''.join(f'<major>{o}</major>' for o in mesh)}<automatic>heart</automatic></MeSH>
{''.join(f'<parentImage id="{o}"><figureId>F1</figureId><url>/hadoop/{o}.jpg</url></parentImage>' for o in names)}</eCitation>'''
        (root/'ecgen-radiology'/f'{i}.xml').write_text(text)
        for o in names:
            if i < n: image(root/'NLMCXR_png'/f'{o}.png', i)
    return root

CHEXPERT = ['Atelectasis', 'Cardiomegaly', 'Consolidation', 'Edema', 'Enlarged Cardiomediastinum', 'Fracture', 'Lung Lesion', 'Lung Opacity', 'No Finding', 'Pleural Effusion',
            'Pleural Other', 'Pneumonia', 'Pneumothorax', 'Support Devices']

def mimic(root, n=24, packed=True):
    "A small tree in the layout of MIMIC-CXR-JPG, invented: two studies a patient, two images a study, a fifth without ViewPosition, reports in several styles, one missing"
    rows,found,members = [],[],{}
    styles = ['                                 FINAL REPORT\n EXAMINATION:  CHEST (PA AND LAT)\n\n FINDINGS:  Heart {} is large.\n\n IMPRESSION:\n \n Cardiomegaly.\n',
              ' WET READ: ___ 8:51 PM\n  No change.\n ______________________________________________________________________________\n                                 FINAL REPORT\n IMPRESSION:  Heart {} is large.  Cardiomegaly.\n',
              ' AP CHEST, ___\n\n Heart {} is large.  Cardiomegaly.\n']
    for i in range(n):
        pid,study = f'1{i % 3}{i//2:06d}',f'5{i:07d}'
        pid = f'10{i//2:06d}' if i < n//2 else f'11{i//2:06d}'
        for k in range(2):
            dicom = hashlib.sha1(f'{i}-{k}'.encode()).hexdigest()
            rows.append(dict(dicom_id=dicom, subject_id=pid, study_id=study, PerformedProcedureStepDescription='CHEST (PA AND LAT)', ViewPosition='' if (2*i+k) % 5 == 0 else ['PA', 'LATERAL', 'AP', 'LL', 'LAO'][i % 5],
                             Rows=2544, Columns=3056, StudyDate=21800506, StudyTime=213014.531, ViewCodeSequence_CodeMeaning=['postero-anterior', ''][i % 2], PatientOrientationCodeSequence_CodeMeaning='Erect',
                             split='test' if i < 2 else 'validate' if i < 4 else 'train'))
            image(root/'files'/f'p{pid[:2]}'/f'p{pid}'/f's{study}'/f'{dicom}.jpg', 2*i+k)
        found.append(dict(subject_id=pid, study_id=study) | {c: [1.0, 0.0, -1.0, None][(i+j) % 4] for j,c in enumerate(CHEXPERT)})
        if i != 5: members[f'files/p{pid[:2]}/p{pid}/s{study}.txt'] = styles[i % 3].format(i)
    meta,found = pd.DataFrame(rows),pd.DataFrame(found)
    meta.drop(columns='split').to_csv(root/'mimic-cxr-2.0.0-metadata.csv.gz', index=False)
    meta[['dicom_id', 'study_id', 'subject_id', 'split']].to_csv(root/'mimic-cxr-2.0.0-split.csv.gz', index=False)
    found.to_csv(root/'mimic-cxr-2.0.0-chexpert.csv.gz', index=False)
    found.replace({1.0: 0.0}).to_csv(root/'mimic-cxr-2.0.0-negbio.csv.gz', index=False)
    if packed:
        with zipfile.ZipFile(root/'mimic-cxr-reports.zip', 'w', zipfile.ZIP_DEFLATED) as z:
            for k,o in members.items(): z.writestr(k, o)
    else:
        for k,o in members.items():
            (root/k).parent.mkdir(parents=True, exist_ok=True)
            (root/k).write_text(o)
    return root

def vin(root, n=20, dcm=False):
    "A small tree in the layout of VinBigData: three readers an image"
    rows = []
    for i in range(n):
        for r in range(3):
            if (i+r) % 3: rows.append(dict(image_id=f'{i:032x}', class_name=VINBIG[i % 14], class_id=0, rad_id=f'R{r+8}', x_min=1, y_min=2, x_max=30+r, y_max=40))
            else: rows.append(dict(image_id=f'{i:032x}', class_name='No finding', class_id=14, rad_id=f'R{r+8}', x_min=None, y_min=None, x_max=None, y_max=None))
        if dcm:
            from radiograph_files import dicom
            (root/'train').mkdir(parents=True, exist_ok=True)
            dicom(root/'train'/f'{i:032x}.dicom', np.random.default_rng(i).integers(0, 4000, (50, 40)), **(dict(ViewPosition='AP') if i == 3 else {}))
        else: image(root/'train'/f'{i:032x}.png', i)
    image(root/'test'/'ff.png')
    pd.DataFrame(rows).to_csv(root/'train.csv', index=False)
    return root

READINGS = {'Male 45yrs\nnormal': ('M', 45, 'normal'), 'female, 27yrs\n1. Bilateral PTB.\n2. Left pleural effusion.\n': ('F', 27, '1. Bilateral PTB. 2. Left pleural effusion.'),
            'Female 24 yrs\r\n\r\nPTB in the right upper field\r\n': ('F', 24, 'PTB in the right upper field'), 'male37yrs\tnormal': ('M', 37, 'normal'),
            'Male  6 months\nsecondary PTB  in the right upper field': ('M', .5, 'secondary PTB in the right upper field'), '': ('', None, '')}

def shen(root, n=24, texts=True):
    rows = []
    for i in range(1, n+1):
        name,reading = f'CHNCXR_{i:04d}_{int(i > n//2)}',['normal', 'Bilateral PTB'][int(i > n//2)]
        image(root/'CXR_png'/f'{name}.png', i)
        rows.append(dict(study_id=f'{name}.png', sex=['Male', 'Female'][i % 2], age=20+i, findings=reading))
        if texts:
            (root/'ClinicalReadings').mkdir(exist_ok=True)
            (root/'ClinicalReadings'/f'{name}.txt').write_text(f"{rows[-1]['sex']} {20+i}yrs\n{reading}\n")
    if not texts: pd.DataFrame(rows).to_csv(root/'shenzhen_metadata.csv', index=False)
    return root

def own(root, n=30):
    rows = [dict(path=f'pictures/{i}.png', patient=f'p{i//2}', study=f's{i}', view=['PA', 'lateral'][i % 2], report=f'FINDINGS: Lungs of {i} are clear.', effusion=i % 2, age=40, sex='f') for i in range(n)]
    for i in range(n): image(root/'pictures'/f'{i}.png', i)
    pd.DataFrame(rows).to_csv(root/'list.csv', index=False)
    return root

@pytest.mark.parametrize('deep', ['', 'archive/release'])
def test_indiana(tmp_path, deep):
    df = iu_xray(indiana(tmp_path, deep=deep))
    assert len(df) == 22 and df['study'].nunique() == 11 and df.attrs['root'] == str(tmp_path)
    assert df['report'][0] == 'Heart size of 1 is. No effusion. No acute disease.'
    assert (df['report'] == '').sum() == 2, 'a study without a report is kept'
    assert any('1 study has a report but no image' in o for o in df.attrs['notes']), 'a study without an image is told of'
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

def test_indiana_by_openi(tmp_path):
    csv,xml = iu_xray(indiana(tmp_path/'csv')),iu_xray(openi(tmp_path/'xml'))
    cols = ['study', 'report', 'sections', *(c for c in csv if c.startswith('label:'))]
    pd.testing.assert_frame_equal(csv[cols], xml[cols], check_exact=True)
    assert set(xml['view']) == {'PA', 'LATERAL'} and any('guessed' in o for o in xml.attrs['notes'])
    assert set(iu_xray(tmp_path/'xml', guess_views=False)['view']) == {'UNKNOWN'}
    pd.read_csv(tmp_path/'csv'/'indiana_projections.csv').assign(filename=lambda o: o['filename'].str.replace('4001', '2001').str.replace('3001', '1001')).to_csv(tmp_path/'xml'/'indiana_projections.csv', index=False)
    told = iu_xray(tmp_path/'xml') # the other way round, told by hand
    assert [{'PA': 'LATERAL', 'LATERAL': 'PA'}[o] for o in told['view']] == list(xml['view'])

def test_openi_reports_that_cannot_be_read_are_told_of(tmp_path):
    openi(tmp_path)
    (tmp_path/'ecgen-radiology'/'3.xml').write_text('<eCitation><uId id="CXR3"/>')
    bomb = '<!DOCTYPE x [<!ENTITY a "' + 'b'*1000 + '">' + ''.join(f'<!ENTITY {chr(98+i)} "{f"&{chr(97+i)};"*20}">' for i in range(8)) + ']><eCitation><uId id="CXR4"/>&i;</eCitation>'
    (tmp_path/'ecgen-radiology'/'4.xml').write_text(bomb)
    df = iu_xray(tmp_path)
    assert df['study'].nunique() == 9 and any('2 report files cannot be read' in o and '3.xml' in o for o in df.attrs['notes'])
    assert len(df.attrs['extra']) == 4, 'their images are in no row'
    for o in (tmp_path/'ecgen-radiology').iterdir(): o.write_text('no')
    with pytest.raises(InputError, match='no report of Open-i can be read'): iu_xray(tmp_path)

@pytest.mark.parametrize('packed', [True, False])
def test_mimic(tmp_path, packed):
    df = mimic_cxr(mimic(tmp_path, packed=packed))
    assert len(df) == 48 and df['study'].nunique() == 24 and df['patient'].nunique() == 12
    assert df.drop_duplicates('study')['split'].value_counts().to_dict() == dict(train=20, test=2, valid=2)
    assert (df['report'] == '').sum() == 2 and any('1 study of the table has no report' in o for o in df.attrs['notes'])
    ok = df[df['report'] != '']
    assert all(ok['report'].str.contains('is large. Cardiomegaly.', regex=False)) and not ok['report'].str.contains('No change').any()
    assert set(df['view']) == {'PA', 'LATERAL', 'AP', 'OTHER', 'UNKNOWN'} and any('10 images without ViewPosition; the view code tells it for 6' in o for o in df.attrs['notes'])
    assert annotation_names(df) == dict(chexpert=CHEXPERT, negbio=CHEXPERT)
    one = df.drop_duplicates('study')['chexpert:Edema']
    assert sorted(one.fillna(9)) == [-1]*6 + [0]*6 + [1]*6 + [9]*6
    assert (df['negbio:Edema'] == 1).sum() == 0
    assert (df['label:Edema'].fillna(-1).values == df['chexpert:Edema'].map({1: 1, 0: 0}).fillna(-1).values).all()

def test_mimic_labels_by_rule(tmp_path):
    mimic(tmp_path)
    raw = mimic_cxr(tmp_path)['chexpert:Edema']
    for unsure,u in (('missing', None), ('positive', 1), ('negative', 0)):
        for blank,b in (('missing', None), ('positive', 1), ('negative', 0)):
            got = mimic_cxr(tmp_path, uncertain=unsure, blank=blank)['label:Edema']
            want = [b if np.isnan(o) else u if o == -1 else o for o in raw]
            assert [None if np.isnan(o) else o for o in got] == want
    assert (mimic_cxr(tmp_path, labels='negbio')['label:Edema'] == 1).sum() == 0
    for kw in (dict(labels='expert'), dict(uncertain='maybe'), dict(blank='')):
        with pytest.raises(InputError, match='expected'): mimic_cxr(tmp_path, **kw)

def test_mimic_with_less_than_all(tmp_path):
    raw = mimic(tmp_path/'raw')
    for o in ('negbio', 'split'): (raw/f'mimic-cxr-2.0.0-{o}.csv.gz').unlink()
    gone = sorted(raw.rglob('*.jpg'))[:6]
    for o in gone: o.unlink()
    z = raw/'mimic-cxr-reports.zip'
    z.rename(tmp_path/'elsewhere.zip')
    df = mimic_cxr(raw, reports=tmp_path/'elsewhere.zip')
    assert len(df) == 42 and {o.stem for o in gone} == set(df.attrs['missing']) and list(annotation_names(df)) == ['chexpert']
    assert any('patients dealt at random' in o for o in df.attrs['notes']) and df.groupby('patient')['split'].nunique().max() == 1
    assert any(f"{EXPECTED['mimic_cxr']:,}" in o for o in df.attrs['notes'])
    assert (mimic_cxr(raw)['report'] == '').all(), 'without the archive'
    with pytest.raises(InputError, match='no such archive'): mimic_cxr(raw, reports=tmp_path/'nowhere.zip')
    bad = bytearray((tmp_path/'elsewhere.zip').read_bytes())
    z.write_bytes(bad[:2000])
    with pytest.raises(InputError, match='not a zip archive'): mimic_cxr(raw)
    at = zipfile.ZipFile(tmp_path/'elsewhere.zip').infolist()[-1].header_offset + 62 # the content of the last member
    bad[at:at+40] = bytes(40)
    z.write_bytes(bad)
    assert any('1 report cannot be read' in o for o in mimic_cxr(raw).attrs['notes'])
    (raw/'mimic-cxr-2.0.0-chexpert.csv.gz').unlink()
    df = mimic_cxr(raw)
    assert not label_names(df) and not annotation_names(df) and any('No file of chexpert labels' in o for o in df.attrs['notes'])

def test_members_of_the_archive_that_are_no_reports_are_not_touched(tmp_path):
    raw = mimic(tmp_path/'raw')
    with zipfile.ZipFile(raw/'mimic-cxr-reports.zip', 'a') as z:
        for o in ('../../escape.txt', '/abs.txt', 'files/p10/p10000000/../../../s50000005.txt', 'files\\p10\\x.txt', 'a/b/files/p10/p10000002/s50000005.txt'): z.writestr(o, 'FINDINGS: Secret.')
        z.writestr('files/p10/p10000002/s50000005.txt', 'FINDINGS: ' + 'a '*600_000)
    df = prepare('mimic_cxr', raw, tmp_path/'out', size=32)
    assert not df['report'].str.contains('Secret').any() and df['report'].str.len().max() < 100
    assert sorted(o.name for o in tmp_path.iterdir()) == ['out', 'raw'] and not list(tmp_path.rglob('escape.txt'))

def test_mimic_ids_that_lead_out(tmp_path):
    raw = mimic(tmp_path)
    p = raw/'mimic-cxr-2.0.0-metadata.csv.gz'
    df = pd.read_csv(p, dtype='str')
    df.loc[3, 'dicom_id'] = '../../../../../etc/passwd'
    df.to_csv(p, index=False)
    with pytest.raises(InputError, match='leads out'): mimic_cxr(raw)
    df.loc[3, 'dicom_id'] = None
    df.to_csv(p, index=False)
    with pytest.raises(InputError, match='row 3: no dicom_id'): mimic_cxr(raw)

@pytest.mark.parametrize('dcm', [False, True])
def test_vinbig(tmp_path, dcm):
    df = vinbig(vin(tmp_path, dcm=dcm))
    assert len(df) == 20 and label_names(df) == VINBIG and df.attrs['extra'] == ['test/ff.png']
    assert list(df['view']) == (['PA']*3 + ['AP'] + ['PA']*16 if dcm else ['PA']*20)
    n = {rule: vinbig_labels(tmp_path, rule).sum(axis=1) for rule in ('any', 'majority', 'all')}
    assert (n['any'] == 1).all() and (n['majority'] == 1).all() and n['all'].sum() == 0, 'two of three readers of each image drew its finding'
    b = boxes('vinbig', tmp_path, df)
    assert len(b) == 40 and set(b['finding']) == set(VINBIG) and b.loc[0, ['x0', 'y0', 'y1']].tolist() == [1, 2, 40]
    with pytest.raises(InputError, match='any, majority, all'): vinbig(tmp_path, rule='two')

def test_readers_of_vinbig_are_counted_and_not_their_boxes(tmp_path):
    rows = [('a', 'Nodule/Mass', 'R1')]*4 + [('a', 'No finding', 'R2'), ('a', 'No finding', 'R3'), ('b', 'ILD', 'R1'), ('c', 'ILD', 'R1'), ('c', 'ILD', 'R2')]
    pd.DataFrame(rows, columns=['image_id', 'class_name', 'rad_id']).to_csv(tmp_path/'train.csv', index=False)
    res = {r: vinbig_labels(tmp_path, r) for r in ('any', 'majority', 'all')}
    assert [res[r].loc['a', 'Nodule/Mass'] for r in res] == [1, 0, 0] and [res[r].loc['b', 'ILD'] for r in res] == [1, 1, 1] and [res[r].loc['c', 'ILD'] for r in res] == [1, 1, 1]
    pd.DataFrame([('a', 'Tumour', 'R1')], columns=['image_id', 'class_name', 'rad_id']).to_csv(tmp_path/'train.csv', index=False)
    with pytest.raises(InputError, match="unknown finding 'Tumour'"): vinbig_labels(tmp_path)

def test_nih_boxes(tmp_path):
    df = nih14(nih(tmp_path))
    name = df['path'][4].split('/')[-1]
    (tmp_path/'BBox_List_2017.csv').write_text(f'Image Index,Finding Label,Bbox [x,y,w,h],,,\n{name},Infiltrate,10.5,20,30,40,,,\n99999999_000.png,Mass,1,2,3,4,,,\n')
    b = boxes('nih14', tmp_path, df)
    assert b.drop(columns='path').values.tolist() == [['Infiltration', '', 10.5, 20, 40.5, 60]] and b['path'][0] == df['path'][4]
    assert boxes('covid', tmp_path, df) is None

@pytest.mark.parametrize('text', READINGS)
def test_readings(text):
    o = shenzhen_reading(text)
    from refers_nb.data.sources.raw import age_in_years, standard_sex
    sex,age,findings = READINGS[text]
    assert (standard_sex(pd.Series([o['sex']]))[0], o['findings']) == (sex, findings)
    assert age_in_years(pd.Series([o['age']]))[0] == (pytest.approx(age) if age is not None else pytest.approx(np.nan, nan_ok=True))

def test_shenzhen(tmp_path):
    a,b = shenzhen(shen(tmp_path/'a')),shenzhen(shen(tmp_path/'b', texts=False))
    pd.testing.assert_frame_equal(a, b)
    assert len(a) == 24 and a['label:tuberculosis'].sum() == 12 and a['age'].between(21, 44).all() and set(a['sex']) == {'F', 'M'}
    (tmp_path/'a'/'ClinicalReadings'/'CHNCXR_0001_0.txt').write_text('Male 21yrs\nBilateral PTB')
    assert any('1 reading contradicts' in o for o in shenzhen(tmp_path/'a').attrs['notes'])

def lists(root, source, rows):
    "Released lists of a data set: {split: [(name, values)]}"
    from refers_nb.data.lists import RELEASED
    where = root/'DataProcessed'/RELEASED[source][0]
    where.mkdir(parents=True, exist_ok=True)
    for split,o in rows.items(): (where/f'{split}.txt').write_text(''.join(f"{n} {' '.join(map(str, v))}\n" for n,v in o))
    return root/'DataProcessed'

def test_lists_give_the_split(tmp_path):
    v = vinbig_labels(vin(tmp_path/'vin'))
    rows = [(f'{i}.png', o) for i,o in zip(v.index, v.values)]
    d = lists(tmp_path, 'vinbig', dict(train=rows[:10], val=rows[10:14], test=rows[14:18]))
    df = vinbig(tmp_path/'vin', lists=d)
    assert df['split'].value_counts().to_dict() == dict(train=10, valid=4, test=4) and any('2 images are in no split' in o for o in df.attrs['notes'])
    d = lists(tmp_path, 'shenzhen', dict(train=[(f'CHNCXR_{i:04d}_{int(i > 12)}.png', (int(i <= 12), int(i > 12))) for i in range(1, 20)], valid=[('CHNCXR_0020_1.png', (0, 1))], test=[('CHNCXR_0021_1.png', (0, 1))]))
    assert shenzhen(shen(tmp_path/'shen'), lists=d)['split'].value_counts().to_dict() == dict(train=19, valid=1, test=1)
    d = lists(tmp_path, 'covid', dict(train=[('0.jpg', (0, 1)), ('1.jpg', (0, 1))], val=[('4.jpg', (1, 0))], test=[('9.jpg', (0, 1))]))
    df = covid(corona(tmp_path/'cov'), lists=d)
    assert list(df['split']) == ['train', 'train', 'valid', 'test'] and list(df['label:COVID-19']) == [1, 1, 0, 1]
    found = nih14_labels(nih(tmp_path/'nih'))
    some = [(f'images_001/{i}', found.loc[i].astype(int)) for i in found.index]
    d = lists(tmp_path, 'nih14', dict(val=some[:4], test=some[4:10]))
    assert nih14(tmp_path/'nih', lists=d)['split'].value_counts().to_dict() == dict(train=20, valid=4, test=6)

def test_lists_that_are_none(tmp_path):
    d = lists(tmp_path, 'shenzhen', dict(train=[('a.png', (1, 0)), ('b.png', (1, 2))]))
    with pytest.raises(InputError, match=r'train.txt:2'): released_lists(d, 'shenzhen')
    lists(tmp_path, 'shenzhen', dict(train=[('a.png', (1, 0))], test=[('a.png', (1, 0))]))
    with pytest.raises(InputError, match='listed twice'): released_lists(d, 'shenzhen')
    lists(tmp_path, 'shenzhen', dict(test=[], other=[('c.png', (1, 0))]))
    with pytest.raises(InputError, match='train.txt, val.txt'): released_lists(d, 'shenzhen')
    with pytest.raises(InputError, match='no list of covid'): released_lists(d/'x', 'covid')
    with pytest.raises(InputError, match='lists of nih14'): released_lists(d, 'iu_xray')

def test_folder(tmp_path):
    df = folder(own(tmp_path))
    assert len(df) == 30 and df['patient'].nunique() == 15 and set(df['view']) == {'PA', 'LATERAL'} and label_names(df) == ['effusion']
    assert df['report'][3] == 'Lungs of 3 are clear.' and set(df['sections']) == {'findings'} and set(df['sex']) == {'F'} and df['age'].eq(40).all()

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
    for i in range(8): image(tmp_path/f'a b/{"äö"[i % 2]}{i}.png', i)
    pd.DataFrame({'File Name': [f'{"äö"[i % 2]}{i}.jpg' for i in range(9)]}).to_csv(tmp_path/'x.csv', index=False)
    df = folder(tmp_path)
    assert len(df) == 8 and df['study'].nunique() == 8 and df.attrs['missing'] == ['ä8.jpg'] and set(df['view']) == {'UNKNOWN'}
    assert any('an image counts as a patient' in o for o in df.attrs['notes'])

def test_findings_of_a_folder(tmp_path):
    own(tmp_path)
    base = pd.read_csv(tmp_path/'list.csv').drop(columns='effusion')
    def table(**cols):
        base.assign(**cols).to_csv(tmp_path/'list.csv', index=False)
        return tmp_path
    df = folder(table(a=['yes', 'No', '']*10, b=[1, 0, -1]*10, c=['x', 'y', 'x|y']*10, d=range(30)))
    assert label_names(df) == ['a', 'b'] and df['label:a'].isna().sum() == 10 and df['label:b'].isna().sum() == 10
    assert any('10 findings are uncertain' in o for o in df.attrs['notes']) and any('c, d' in o for o in df.attrs['notes'])
    df = folder(tmp_path, labels='a;c')
    assert label_names(df) == ['a', 'x', 'y'] and df['label:x'].sum() == 20
    with pytest.raises(InputError, match="row 1: label:b is 'maybe'"): folder(table(**{'label:b': [1, 'maybe', 0]*10}))
    base = base.drop(columns='patient')
    with pytest.raises(InputError, match='both be the patient'): folder(table(**{'Subject ID': 1, 'pid': 2}))

def test_paths_of_a_folder(tmp_path):
    own(tmp_path)
    df = pd.read_csv(tmp_path/'list.csv')
    def paths(*first):
        df.assign(path=[*first, *df['path'][len(first):]]).to_csv(tmp_path/'list.csv', index=False)
        return tmp_path
    assert len(folder(paths(str(tmp_path/'pictures'/'0.png'), 'pictures\\1.png', './pictures/2.png'))) == 30
    for bad in ('/etc/passwd', '../x.png', 'C:\\a.png', ''):
        with pytest.raises(InputError, match='row 0: the path'): folder(paths(bad))
    with pytest.raises(InputError, match='same path more than once'): folder(paths('pictures/1.png'))
    with pytest.raises(InputError, match='no such file'): folder(tmp_path/'none.csv')
    with pytest.raises(InputError, match='no table'): folder(tmp_path/'pictures')
    df.drop(columns='path').to_csv(tmp_path/'list.csv', index=False)
    with pytest.raises(InputError, match='no column with file names'): folder(tmp_path)

def test_names_are_found_by_path_name_and_stem_and_the_rest_is_extra(tmp_path):
    for o in ('a/1.png', 'b/1.png', 'b/2.webp', 'c/3.dcm.png', '.hidden/4.png', 'a/._1.png', 'c/5.txt'): image(tmp_path/o) if o.endswith(('png', 'webp')) else (tmp_path/o).write_text('x')
    os.symlink(tmp_path/'a', tmp_path/'b'/'loop'), os.symlink(tmp_path, tmp_path/'a'/'up')
    got = locate(['b/1.png', '1.png', '2.png', '3.dcm', '4.png', None, '', '9.png'], tmp_path)
    assert list(got.fillna('-')) == ['b/1.png', 'a/1.png', 'b/2.webp', 'c/3.dcm.png', '-', '-', '-', '-'] and got.attrs['extra'] == []
    assert locate(['1.png'], tmp_path).attrs['extra'] == ['b/1.png', 'b/2.webp', 'c/3.dcm.png']

def test_a_lost_image_is_not_replaced_by_another_of_its_name(tmp_path):
    for o in ('p1/view2.png', 'p2/view1.webp', 'p3/view1.png', '1.2.840.113.7.dcm', '1.2.840.png'): image(tmp_path/o) if o[-3:] != 'dcm' else (tmp_path/o).write_bytes(b'')
    names = ['p1/view1.png', 'p2/view1.png', 'p3/view1.png', './p1//view2.png', '1.2.840.113.7', '1.2.840.113.8', '1.2.840.jpg', 'p9/view2.png']
    got = locate(names, tmp_path)
    assert list(got.fillna('-')) == ['-', 'p2/view1.webp', 'p3/view1.png', 'p1/view2.png', '1.2.840.113.7.dcm', '-', '1.2.840.png', '-'] and got.attrs['extra'] == []
    image(tmp_path/'p4'/'view1.png')
    assert list(locate(['x/view2.jpg', 'x/view1.png'], tmp_path).fillna('-')) == ['p1/view2.png', '-'], 'one file of that name will do, two are a question'

def test_tables_of_which_nothing_may_be_taken_silently(tmp_path):
    indiana(tmp_path)
    def fails(name, text, words):
        whole = (tmp_path/name).read_text() if (tmp_path/name).exists() else None
        (tmp_path/name).write_text(text(whole) if callable(text) else text)
        with pytest.raises(InputError, match=words) as e: iu_xray(tmp_path)
        assert name in str(e.value) and str(e.value).isprintable()
        (tmp_path/name).write_text(whole) if whole else (tmp_path/name).unlink()
    shifted = lambda o: '\n'.join(x + ',x'*(i > 0) for i,x in enumerate(o.splitlines()))
    fails('indiana_projections.csv', shifted, 'not a CSV file')
    fails('indiana_projections.csv', lambda o: o.splitlines()[0], 'no rows below the header')
    fails('indiana_projections.csv', lambda o: o + ',x.png,Frontal\n', 'row 24: no uid')
    fails('indiana_projections.csv', lambda o: o.replace('3_IM-0003-4001.dcm.png,', '"3_IM-0003-4001.dcm.png,').replace('9_IM-0009-4001', '"9_IM-0009-4001'), 'row 4: filename .*quotation mark')
    fails('indiana_reports.csv', lambda o: o + '7,normal,,,,,Other words.,\n', "uid '7' has two rows that differ")
    fails('split.csv', 'uid,split,split\n1,train,test\n', "the column 'split' twice")
    fails('split.csv', 'uid,split\n1,train\n1,test\n', "uid '1' has two rows that differ")
    r = pd.read_csv(tmp_path/'indiana_reports.csv')
    pd.concat([r[r['uid'] != 4], r[r['uid'] == 6]]).to_csv(tmp_path/'indiana_reports.csv', index=False)
    df = iu_xray(tmp_path)
    assert any('2 images have no row among the reports' in o for o in df.attrs['notes']) and df.loc[df['study'] == '4', 'label:abnormal'].isna().all()

def test_covid_tells_of_ct_and_checks_its_split(tmp_path):
    df = covid(corona(tmp_path))
    assert any('4 images are of another modality' in o for o in df.attrs['notes']) and df.attrs['extra'] == []
    (tmp_path/'split.csv').write_text('filename,refers_split,covid\n0.jpg,train,perhaps\n')
    with pytest.raises(InputError, match=r"split.csv: 0.jpg: covid is 'perhaps'"): covid(tmp_path)

def test_lists_and_boxes_that_are_none(tmp_path):
    raw = nih(tmp_path/'raw')
    (raw/'BBox_List_2017.csv').write_text('Image Index,Finding Label,Bbox [x,y,w,h],,,\n00000000_000.png,Mass,1,2,-3,4,,,\n')
    with pytest.raises(InputError, match='BBox_List_2017.csv: row 0: no box'): prepare('nih14', raw, tmp_path/'out')
    assert not (tmp_path/'out').exists(), 'told before hours of decoding'
    (raw/'test_list.txt').write_text('nothing.png')
    with pytest.raises(InputError, match='test_list.txt: names no image'): nih14(raw)
    (raw/'test_list.txt').write_bytes('00000000_000.png'.encode('utf-16'))
    with pytest.raises(InputError, match='test_list.txt: byte 0 is not UTF-8'): nih14(raw)
    df = vinbig(vin(tmp_path/'vin'))
    rows = pd.read_csv(tmp_path/'vin'/'train.csv')
    rows.assign(x_max=rows['x_max'].where(rows.index != 1)).to_csv(tmp_path/'vin'/'train.csv', index=False)
    with pytest.raises(InputError, match='row 1: no box'): boxes('vinbig', tmp_path/'vin', df)

@pytest.mark.parametrize('sex,want', [('Male', 'M'), ('f', 'F'), ('WOMAN', 'F'), ('missing', ''), ('Mixed', ''), ('0', ''), (None, '')])
def test_sexes(sex, want):
    from refers_nb.data.sources.raw import standard_sex
    assert list(standard_sex(pd.Series([sex, 'F']))) == [want, 'F']

def test_pipes_and_devices_are_not_opened(tmp_path):
    "A reader of a pipe waits for ever; a device never ends"
    raw = openi(tmp_path/'raw')
    png = sorted((raw/'NLMCXR_png').iterdir())
    png[0].unlink(), os.mkfifo(png[0])
    png[1].unlink(), os.symlink('/dev/zero', png[1])
    os.mkfifo(raw/'ecgen-radiology'/'0.xml'), os.symlink('loop', raw/'loop')
    (raw/'SUMS').write_text(f"{'0'*64}  NLMCXR_png/{png[0].name}\n")
    df = iu_xray(raw)
    assert len(df) == 20 and {o.stem for o in png[:2]} < set(df.attrs['missing']) and any('1 report file cannot be read' in o for o in df.attrs['notes'])
    assert list(verify_checksums(raw/'SUMS')['status']) == ['missing']

def test_the_output_lies_outside_the_download(tmp_path):
    raw = own(tmp_path/'raw')
    for o in (raw, raw/'prepared', tmp_path/'raw'/'..'/'raw'/'x'):
        with pytest.raises(InputError, match='choose a folder outside'): prepare('folder', raw/'list.csv', o)
    assert sorted(o.name for o in raw.iterdir()) == ['list.csv', 'pictures']

def test_what_an_earlier_run_left_goes(tmp_path):
    raw,out = own(tmp_path/'raw'),tmp_path/'out'
    prepare('folder', raw, out, size=32)
    assert (out/'fractions.csv').exists()
    (out/'.tmp-0123456789ab-card.md').write_text('of a run that was killed')
    df = pd.read_csv(raw/'list.csv').drop(columns='effusion')
    df.to_csv(raw/'list.csv', index=False)
    prepare('folder', raw, out, size=32)
    assert not (out/'fractions.csv').exists() and not list(out.glob('.tmp-*'))

def test_no_image_can_be_read(tmp_path):
    raw = own(tmp_path/'raw')
    for o in raw.rglob('*.png'): o.write_text('no')
    with pytest.raises(InputError, match='none of the images can be read'): prepare('folder', raw, tmp_path/'out', size=32, max_rejected=1)

def test_two_columns_of_one_finding(tmp_path):
    df = pd.read_csv(own(tmp_path)/'list.csv')
    df.assign(diagnosis=['effusion', 'normal']*15).to_csv(tmp_path/'list.csv', index=False)
    with pytest.raises(InputError, match="two columns tell of 'effusion'"): folder(tmp_path, labels='effusion;diagnosis')
    df.set_index('path').to_parquet(tmp_path/'list.parquet')
    (tmp_path/'list.csv').unlink()
    assert len(folder(tmp_path)) == 30, 'the index of a table is a column'

def test_checksums(tmp_path):
    for i in range(4): (tmp_path/f'{i}').write_bytes(bytes([i]))
    line = lambda kind, i, p: f'{getattr(hashlib, kind)(bytes([i])).hexdigest()}  {p}\n'
    (tmp_path/'SUMS').write_text(line('sha256', 0, '0') + line('md5', 1, './1') + line('sha1', 9, '2') + line('sha512', 3, '5'))
    assert list(verify_checksums(tmp_path/'SUMS')['status']) == ['ok', 'ok', 'changed', 'missing']
    with pytest.raises(InputError, match='2 of 4 files are not as listed; the first: 2'): prepare('covid', corona(tmp_path/'c'), tmp_path/'out', checksums=tmp_path/'SUMS')
    for bad in ('nonsense', line('md5', 0, '../x'), line('md5', 0, '/x'), 'abc  file'):
        (tmp_path/'SUMS').write_text('\n' + bad)
        with pytest.raises(InputError, match='SUMS:2: '): verify_checksums(tmp_path/'SUMS')
    (tmp_path/'SUMS').write_text('\n')
    with pytest.raises(InputError, match='no checksums in it'): verify_checksums(tmp_path/'SUMS')

def test_missing_extra_duplicates_and_fractions_are_written(tmp_path):
    raw = nih(tmp_path/'raw')
    png = sorted(raw.rglob('*.png'))
    png[0].unlink()
    (raw/'images_001'/'images'/'stray.png').write_bytes(png[1].read_bytes())
    shape = np.linspace(0, 255, 120*100).reshape(120, 100).astype(np.uint8)
    shape[30:60, 20:70] = 240; shape[80:100, 50:60] = 10
    for i in (4, 29): Image.fromarray(shape).save(png[i])
    df = prepare('nih14', raw, tmp_path/'out', size=64)
    gone = pd.read_csv(tmp_path/'out'/'missing.csv')
    assert gone.values.tolist() == [[png[0].name, 'named, not here'], ['images_001/images/stray.png', 'here, not named']]
    pairs = pd.read_csv(tmp_path/'out'/'duplicates.csv')
    at = [p for p in df['path'] if p.endswith((png[4].name, png[29].name))]
    assert pairs[['path_a', 'path_b']].values.tolist() == [at] and not pairs['same_patient'][0] and not pairs['same_split'][0]
    f = pd.read_csv(tmp_path/'out'/'fractions.csv')
    assert set(f['path']) == set(df['path'][df['split'] == 'train']) and f['100%/0'].all() and (f['1%/0'] <= f['10%/0']).all()
    assert (tmp_path/'out'/'card.md').read_text().startswith('# nih14') and (tmp_path/'out'/'card.png').stat().st_size > 5000
    less = prepare('nih14', raw, tmp_path/'out', size=64, copies='drop')
    assert len(less) == len(df) - 1 and at[0] not in set(less['path']) and at[1] in set(less['path'])
    with pytest.raises(InputError, match='keep or drop'): prepare('nih14', raw, tmp_path/'out', copies='yes')

@pytest.mark.parametrize('source,make,name,column', [('iu_xray', indiana, 'indiana_reports.csv', 'MeSH'), ('iu_xray', indiana, 'indiana_projections.csv', 'uid'),
                                                     ('nih14', nih, 'Data_Entry_2017.csv', 'Patient ID'), ('covid', corona, 'metadata.csv', 'modality'), ('vinbig', vin, 'train.csv', 'rad_id'),
                                                     ('shenzhen', lambda o: shen(o, texts=False), 'shenzhen_metadata.csv', 'findings')])
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
    assert any('1 image could not be read' in o for o in df.attrs['notes'])

def test_phantoms_take_the_same_road(tmp_path):
    pytest.importorskip('refers_nb.phantom')
    df = prepare('phantom', '20', tmp_path, size=64, seed=3)
    assert df['study'].nunique() == 20 and set(df['split']) == {'train', 'valid', 'test'} and (df['report'] != '').all()
    with pytest.raises(InputError, match='number of studies'): prepare('phantom', 'images/', tmp_path)

@pytest.mark.parametrize('name,make', [('mimic_cxr', mimic), ('iu_xray', indiana), ('nih14', nih), ('vinbig', vin), ('shenzhen', shen), ('covid', corona)])
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

def test_real_lists_of_vinbig_are_rebuilt_exactly():
    found,lists = vinbig_labels(real('vinbigdata')),released_lists(real('refers_release'), 'vinbig')
    assert len(lists) == 15_000 and set(lists.index.str[:-4]) == set(found.index) and lists['split'].value_counts().to_dict() == dict(train=10_500, valid=1_500, test=3_000)
    assert list_differences(found, lists).sum() == 0
    assert list_differences(vinbig_labels(DATA/'vinbigdata', 'majority'), lists).sum() > 1000, 'the rule matters'

def test_real_test_list_of_nih_is_rebuilt_but_for_37():
    found,lists = nih14_labels(real('nih_chestxray14')),released_lists(real('refers_release'), 'nih14')
    test = lists[lists['split'] == 'test']
    d = list_differences(found, test)
    assert test.shape == (22_433, 15) and d.sum() == 37 and d['Pneumonia'] == 18
    pid = pd.Series(found.index.str[:8], index=found.index)
    split = listed(pid.index.to_series(), lists)
    parts = [set(pid[split == s]) for s in ('valid', 'test')]
    rest = set(pid[split.isna()])
    assert len(found) == 112_120 and not parts[0] & parts[1] and not rest & parts[0] and not rest & parts[1], 'the split is by patient'

def test_real_lists_of_shenzhen_and_covid():
    s,c = (released_lists(real('refers_release'), o) for o in ('shenzhen', 'covid'))
    rows = pd.read_csv(real('shenzhen')/'shenzhen_metadata.csv').set_index('study_id')
    assert set(s.index) == set(rows.index) and (s['tuberculosis'].values == s.index.str[-5].astype(int)).all()
    assert ((rows['findings'].str.strip() == 'normal')[s.index].values == (s['normal'] == 1).values).all()
    df = covid(real('covid19_image_data'), lists=DATA/'refers_release')
    assert len(df) == 476 and len(c) == 929
    pd.testing.assert_frame_equal(df, covid(real('covid19_image_data')))

def test_real_views_guessed_from_names_are_mostly_right():
    from refers_nb.data.sources.iu_xray import VIEW_HINTS
    p = pd.read_csv(real('iu_xray')/'indiana_projections.csv')
    guess = p['filename'].str.extract(r'-(\d+)\.dcm')[0].map(VIEW_HINTS)
    right = guess.dropna() == p['projection'].map(dict(Frontal='PA', Lateral='LATERAL'))[guess.notna()]
    assert .84 < guess.notna().mean() < .87 and .93 < right.mean() < .95

@pytest.mark.parametrize('source,name,n', [('iu_xray', 'iu_xray', 6677), ('nih14', 'nih_chestxray14', 781), ('covid', 'covid19_image_data', 476)])
def test_real_prepare(tmp_path, source, name, n):
    df = prepare(source, real(name), tmp_path, size=64)
    store = ImageStore(tmp_path)
    assert len(df) == len(store) == n and (store.images[::50].reshape(len(store.images[::50]), -1).std(1) > 1).all()
    assert len(pd.read_csv(tmp_path/'rejected.csv')) == 0
