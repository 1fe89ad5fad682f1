"Small downloads in the layout of each release, with invented content; and the real ones, where they are"
import hashlib, json, zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from radiograph_files import dicom

from refers_nb.data.labeller import CHEXPERT_FINDINGS
from refers_nb.data.lists import LISTED, RELEASED, VINBIG

REPO = Path(__file__).resolve().parent.parent
DATA = REPO.parent/'shared'/'data'

def real(name):
    "Folder of a real download; the test is skipped where it is not here"
    if not (DATA/name).is_dir(): pytest.skip(f'../shared/data/{name} is not here')
    return DATA/name

def told(df, *words):
    "Whether one note of a table has all these words"
    return any(all(o in note for o in words) for note in df.attrs['notes'])

def image(path, seed=0, shape=(50, 40)):
    "Write an image of noise"
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 255, shape, dtype=np.uint8)
    Image.fromarray(noise).save(path)

# ---- Indiana, in both layouts

INDEX_TERMS = ['normal', 'Cardiomegaly/mild;Opacity/lung/base/left', 'Pleural Effusion/right', 'No Indexing']

def indiana_report(i, n):
    "(MeSH, findings, impression) of study i of n; the last but one says nothing"
    mesh = INDEX_TERMS[i % 4]
    if i == n-1: return mesh, '', ''
    return mesh, f'Heart size of {i} is XXXX. No effusion', 'No acute disease.'

def indiana(root, n=12, deep=''):
    "A small tree in the layout of the CSV release; the last study has no image, the one before no report"
    reports = []
    projections = []
    for i in range(1, n+1):
        mesh, findings, impression = indiana_report(i, n)
        reports.append(dict(uid=i, MeSH=mesh, Problems='', image='PA and lateral', indication='Cough', comparison='',
                            findings=findings, impression=impression))
        for view, number in (('Frontal', 4001), ('Lateral', 3001)):
            name = f'{i}_IM-000{i}-{number}.dcm'
            projections.append(dict(uid=i, filename=name+'.png', projection=view))
            ext = '.webp' if i % 2 else '.png'
            if i < n: image(root/deep/'images'/(name + ext), i)
    pd.DataFrame(reports).to_csv(root/deep/'indiana_reports.csv', index=False)
    pd.DataFrame(projections).to_csv(root/deep/'indiana_projections.csv', index=False)
    return root

OPENI = '''<?xml version="1.0" encoding="utf-8"?>
<eCitation><meta type="rr"/><uId id="CXR{i}"/><pmcId id="{i}"/><MedlineCitation><Article><Abstract>
<AbstractText Label="COMPARISON"/><AbstractText Label="INDICATION">Cough &amp; fever</AbstractText>
<AbstractText Label="FINDINGS">{findings}</AbstractText><AbstractText Label="IMPRESSION">{impression}</AbstractText>
</Abstract></Article></MedlineCitation><MeSH>{terms}<automatic>heart</automatic></MeSH>
{images}</eCitation>'''
OPENI_IMAGE = '<parentImage id="{o}"><figureId>F1</figureId><url>/hadoop/{o}.jpg</url></parentImage>'

def openi(root, n=12):
    "The studies of `indiana` as Open-i has them: XML reports and images with other names"
    (root/'ecgen-radiology').mkdir(parents=True)
    for i in range(1, n+1):
        mesh, findings, impression = indiana_report(i, n)
        names = [f'CXR{i}_{i}_IM-000{i}-{o}' for o in (1001, 2001)]
        terms = ''.join(f'<major>{o}</major>' for o in mesh.split(';'))
        images = ''.join(OPENI_IMAGE.format(o=o) for o in names)
        text = OPENI.format(i=i, findings=findings, impression=impression, terms=terms, images=images)
        (root/'ecgen-radiology'/f'{i}.xml').write_text(text)
        for o in names:
            if i < n: image(root/'NLMCXR_png'/f'{o}.png', i)
    return root

# ---- MIMIC-CXR

CHEXPERT = [
    'Atelectasis', 'Cardiomegaly', 'Consolidation', 'Edema', 'Enlarged Cardiomediastinum', 'Fracture', 'Lung Lesion',
    'Lung Opacity', 'No Finding', 'Pleural Effusion', 'Pleural Other', 'Pneumonia', 'Pneumothorax', 'Support Devices']
STYLES = ['''                                 FINAL REPORT
 EXAMINATION:  CHEST (PA AND LAT)

 FINDINGS:  Heart {} is large.

 IMPRESSION:
 
 Cardiomegaly.
''', ''' WET READ: ___ 8:51 PM
  No change.
 ______________________________________________________________________________
                                 FINAL REPORT
 IMPRESSION:  Heart {} is large.  Cardiomegaly.
''', ''' AP CHEST, ___

 Heart {} is large.  Cardiomegaly.
''']

def mimic_rows(root, n):
    "Metadata of 2n images with their split; the images are written"
    rows = []
    for i in range(n):
        subject = f'10{i//2:06d}' if i < n//2 else f'11{i//2:06d}'
        study = f'5{i:07d}'
        split = 'test' if i < 2 else 'validate' if i < 4 else 'train'
        for k in range(2):
            name = hashlib.sha1(f'{i}-{k}'.encode()).hexdigest()
            view = '' if (2*i+k) % 5 == 0 else ['PA', 'LATERAL', 'AP', 'LL', 'LAO'][i % 5]
            rows.append(dict(
                dicom_id=name, subject_id=subject, study_id=study,
                PerformedProcedureStepDescription='CHEST (PA AND LAT)', ViewPosition=view,
                Rows=2544, Columns=3056, StudyDate=21800506, StudyTime=213014.531,
                ViewCodeSequence_CodeMeaning=['postero-anterior', ''][i % 2],
                PatientOrientationCodeSequence_CodeMeaning='Erect', split=split))
            image(root/'files'/f'p{subject[:2]}'/f'p{subject}'/f's{study}'/f'{name}.jpg', 2*i+k)
    return pd.DataFrame(rows)

def mimic(root, n=24, packed=True):
    """A small tree in the layout of MIMIC-CXR-JPG: two studies per patient, two images per study

    A fifth has no ViewPosition; reports come in several styles, and one is missing."""
    meta = mimic_rows(root, n)
    studies = meta.drop_duplicates('study_id')[['subject_id', 'study_id']].reset_index(drop=True)
    found = studies.copy()
    for j, c in enumerate(CHEXPERT): found[c] = [[1.0, 0.0, -1.0, None][(i+j) % 4] for i in range(n)]
    reports = {}
    for i, o in studies.iterrows():
        path = f"files/p{o['subject_id'][:2]}/p{o['subject_id']}/s{o['study_id']}.txt"
        if i != 5: reports[path] = STYLES[i % 3].format(i)
    meta.drop(columns='split').to_csv(root/'mimic-cxr-2.0.0-metadata.csv.gz', index=False)
    splits = meta[['dicom_id', 'study_id', 'subject_id', 'split']]
    splits.to_csv(root/'mimic-cxr-2.0.0-split.csv.gz', index=False)
    found.to_csv(root/'mimic-cxr-2.0.0-chexpert.csv.gz', index=False)
    found.replace({1.0: 0.0}).to_csv(root/'mimic-cxr-2.0.0-negbio.csv.gz', index=False)
    if packed:
        with zipfile.ZipFile(root/'mimic-cxr-reports.zip', 'w', zipfile.ZIP_DEFLATED) as z:
            for path, o in reports.items(): z.writestr(path, o)
        return root
    for path, o in reports.items():
        (root/path).parent.mkdir(parents=True, exist_ok=True)
        (root/path).write_text(o)
    return root

# ---- the four target sets

def nih(root, n=30):
    "A small tree in the layout of ChestX-ray14: two images per patient, the last six in the test list"
    rows = []
    for i in range(n):
        name = f'{i//2:08d}_{i%2:03d}.png'
        finding = ['No Finding', 'Hernia', 'Edema|Mass'][i % 3]
        rows.append({'Image Index': name, 'Finding Labels': finding, 'Follow-up #': i % 2, 'Patient ID': i//2,
                     'Patient Age': 50, 'Patient Gender': 'F', 'View Position': ['PA', 'AP'][i % 2]})
        image(root/f'images_{1 + i//16:03d}'/'images'/name, i)
    header, *lines = pd.DataFrame(rows).to_csv(index=False).splitlines()
    header += ',OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],'
    lines = [header, *(o + ',2500,2048,0.1,0.1,' for o in lines)]
    (root/'Data_Entry_2017.csv').write_text('\n'.join(lines) + '\n')
    names = [o['Image Index'] for o in rows]
    (root/'test_list.txt').write_text('\n'.join(names[-6:]))
    (root/'train_val_list.txt').write_text('\n'.join(names[:-6]))
    return root

def corona(root):
    "A small clone of the COVID-19 Image Data Collection: 16 images, each fourth of them CT"
    rows = []
    for i in range(16):
        rows.append(dict(
            patientid=i//2, offset=i % 2,
            finding=['COVID-19', 'Klebsiella', 'COVID-19, ARDS', 'todo'][i//2 % 4],
            view=['PA', 'AP Supine', 'L', 'Axial'][i % 4], modality='CT' if i % 4 == 3 else 'X-ray',
            date='2020', filename=f'{i}.jpg', clinical_notes=['Fever.', 'Known SARS-CoV-2.', None][i % 3]))
        image(root/'images'/f'{i}.jpg')
    pd.DataFrame(rows).to_csv(root/'metadata.csv', index=False)
    return root

def vin_row(i, reader):
    "What a radiologist says of image i: nothing, or one box"
    about = dict(image_id=f'{i:032x}', class_name='No finding', class_id=14, rad_id=f'R{reader+8}',
                 x_min=None, y_min=None, x_max=None, y_max=None)
    if (i+reader) % 3 == 0: return about
    return about | dict(class_name=VINBIG[i % 14], class_id=0, x_min=1, y_min=2, x_max=30+reader, y_max=40)

def vin(root, n=20, dcm=False):
    "A small tree in the layout of VinBigData: three readers per image"
    (root/'train').mkdir(parents=True, exist_ok=True)
    for i in range(n):
        if not dcm:
            image(root/'train'/f'{i:032x}.png', i)
            continue
        noise = np.random.default_rng(i).integers(0, 4000, (50, 40))
        tags = dict(ViewPosition='AP') if i == 3 else {}
        dicom(root/'train'/f'{i:032x}.dicom', noise, **tags)
    image(root/'test'/'ff.png')
    rows = [vin_row(i, reader) for i in range(n) for reader in range(3)]
    pd.DataFrame(rows).to_csv(root/'train.csv', index=False)
    return root

def shen(root, n=24, texts=True):
    "A small tree in the layout of Shenzhen, the second half with tuberculosis; readings as texts or in the CSV"
    rows = []
    for i in range(1, n+1):
        ill = int(i > n//2)
        name = f'CHNCXR_{i:04d}_{ill}'
        image(root/'CXR_png'/f'{name}.png', i)
        rows.append(dict(study_id=f'{name}.png', sex=['Male', 'Female'][i % 2], age=20+i,
                         findings=['normal', 'Bilateral PTB'][ill]))
    if not texts:
        pd.DataFrame(rows).to_csv(root/'shenzhen_metadata.csv', index=False)
        return root
    (root/'ClinicalReadings').mkdir(exist_ok=True)
    for o in rows:
        file = (root/'ClinicalReadings'/o['study_id']).with_suffix('.txt')
        file.write_text(f"{o['sex']} {o['age']}yrs\n{o['findings']}\n")
    return root

def lists(root, source, rows):
    "Released lists of a data set: {split: [(name, values)]}"
    where = root/'DataProcessed'/RELEASED[source][0]
    where.mkdir(parents=True, exist_ok=True)
    for split, o in rows.items():
        lines = [f"{name} {' '.join(map(str, values))}\n" for name, values in o]
        (where/f'{split}.txt').write_text(''.join(lines))
    return root/'DataProcessed'

# ---- sets that others report on

def chex_row(part, i, values):
    "A row of train.csv or valid.csv: patient i//2, study i%2, a lateral view in every third"
    view = 'view2_lateral' if i % 3 == 2 else 'view1_frontal'
    path = f'CheXpert-v1.0-small/{part}/patient{i//2:05d}/study{i%2 + 1}/{view}.jpg'
    about = dict(Path=path, Sex=['Female', 'Male'][i//2 % 2], Age=40 + i//2)
    about['Frontal/Lateral'] = 'Lateral' if i % 3 == 2 else 'Frontal'
    about['AP/PA'] = '' if i % 3 == 2 else ['AP', 'PA', 'AP'][i % 3]
    return about | values

def chex(root, n=40, valid=4, tests=0):
    """A small tree in the layout of CheXpert-v1.0-small: two studies per patient

    The findings of the training part go through 1, 0, -1 and blank; those of the others are 1 or 0."""
    four = [1.0, 0.0, -1.0, None]
    train = [chex_row('train', i, {c: four[(i + j) % 4] for j, c in enumerate(CHEXPERT_FINDINGS)}) for i in range(n)]
    start = 2*64541
    people = [chex_row('valid', start + i, {c: float((i + j) % 2) for j, c in enumerate(CHEXPERT_FINDINGS)})
              for i in range(valid)]
    for part, rows in dict(train=train, valid=people).items():
        for i, o in enumerate(rows): image(root/o['Path'].split('/', 1)[1], i + 1000*(part == 'valid'))
        pd.DataFrame(rows).to_csv(root/f'{part}.csv', index=False)
    truth = []
    for i in range(tests):
        study = f'test/patient{64741 + i:05d}/study1'
        for view in ('view1_frontal', 'view2_lateral'): image(root/study/f'{view}.jpg', 2000 + i)
        truth.append(dict(Study=f'CheXpert-v1.0/{study}') | {c: (i + j) % 2 for j, c in enumerate(CHEXPERT_FINDINGS)})
    if tests: pd.DataFrame(truth).to_csv(root/'groundtruth.csv', index=False)
    return root

def pneumonia(root, n=20, mapping=True):
    "A small tree in the layout of RSNA: DICOM, every third with one box or two, two images per patient of NIH"
    rows, classes, entries = [], [], []
    for i in range(n):
        name = f'{i:08x}-0000-4000-8000-{i:012x}'
        noise = np.random.default_rng(i).integers(0, 255, (50, 40))
        path = root/'stage_2_train_images'/f'{name}.dcm'
        path.parent.mkdir(parents=True, exist_ok=True)
        dicom(path, noise, 8, ViewPosition=['PA', 'AP'][i % 2])
        kind = ['Normal', 'No Lung Opacity / Not Normal', 'Lung Opacity'][i % 3]
        none = dict(patientId=name, x=None, y=None, width=None, height=None, Target=0)
        boxes = [none | dict(x=5. + k, y=6., width=10., height=12., Target=1) for k in range(1 + i % 2)]
        rows += boxes if i % 3 == 2 else [none]
        classes += [{'patientId': name, 'class': kind}]*(len(boxes) if i % 3 == 2 else 1)
        entries.append(dict(subset_img_id=name, img_id=f'{i//2 + 1:08d}_{i%2:03d}.png', SOPInstanceUID=f'1.2.{i}'))
    image(root/'stage_2_test_images'/'ffff.png')
    pd.DataFrame(rows).to_csv(root/'stage_2_train_labels.csv', index=False)
    pd.DataFrame(classes).to_csv(root/'stage_2_detailed_class_info.csv', index=False)
    if mapping: (root/'pneumonia-challenge-dataset-mappings_2018.json').write_text(json.dumps(entries))
    return root

def siim_name(i):
    "The name of image i of SIIM"
    return f'1.2.276.0.7230010.3.1.4.8323329.{i + 300}.15178751{60 + i}.{490940 + i}'

def outlines(root, n=18):
    "A small tree in the layout of SIIM: every third image with an outline, every sixth with two"
    rows = []
    for i in range(n):
        name = siim_name(i)
        noise = np.random.default_rng(i).integers(0, 255, (50, 40))
        path = root/'dicom-images-train'/f'1.2.276.{i}'/f'1.2.277.{i}'/f'{name}.dcm'
        path.parent.mkdir(parents=True, exist_ok=True)
        dicom(path, noise, 8, ViewPosition=['PA', 'AP'][i % 2])
        rows += [f'{name}, {10_000*(k + 1)} 300 700 300' for k in range(1 + i % 2)] if i % 3 == 0 else [f'{name}, -1']
    (root/'train-rle.csv').write_text('ImageId, EncodedPixels\n' + '\n'.join(rows) + '\n')
    return root

PAD_LABELS = ["['normal']", "['cardiomegaly', 'pleural effusion']", "['unchanged']", "[' Rib fracture', 'cardiomegaly']", '[]']

def pad(root, n=25, packed=False):
    "A small tree in the layout of PadChest: two images per study, images of 16 bits in folders by number"
    rows = []
    for i in range(n):
        study = i//2
        rows.append(dict(
            ImageID=f'2168401113669640128{i:04d}_02-094-{i:03d}.png', ImageDir=study % 55, StudyDate_DICOM=20140301,
            StudyID=f's{study}', PatientID=f'p{study//2}', PatientBirth=float(1940 + study), PatientSex_DICOM='FM'[study % 2],
            ViewPosition_DICOM='', Projection=['PA', 'L', 'AP_horizontal', 'L', 'COSTAL'][i % 5],
            Pediatric='PED' if study == 3 else 'No', ReportID=study, Report=f'cardiomegali {study} . sin hallazg .',
            MethodLabel=['Physician', 'RNN_model'][study % 2], Labels=PAD_LABELS[study % 5], Localizations='[]'))
        noise = np.random.default_rng(i).integers(0, 65535, (50, 40)).astype(np.uint16)
        path = root/str(study % 55)/rows[-1]['ImageID']
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise).save(path)
    name = 'PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv' + '.gz'*packed
    pd.DataFrame(rows).to_csv(root/name)
    return root

def mont(root, n=16):
    "A small tree in the layout of Montgomery, the second half with tuberculosis, with both masks"
    (root/'ClinicalReadings').mkdir(parents=True, exist_ok=True)
    for i in range(1, n+1):
        name = f'MCUCXR_{i:04d}_{int(i > n//2)}'
        image(root/'CXR_png'/f'{name}.png', i)
        for side in ('left', 'right'): image(root/'ManualMask'/f'{side}Mask'/f'{name}.png', i)
        said = ['normal', 'Cavity in the right upper lobe.'][int(i > n//2)]
        text = f"Patient's Sex: {'FM'[i % 2]} \nPatient's Age: {20+i:03d}Y\n{said}\n"
        (root/'ClinicalReadings'/f'{name}.txt').write_text(text)
    return root

def mrm(root, source, rows):
    "Lists of MRM of a data set: {name of the list: [(name, values)]}"
    where = root/'DatasetsSplits'/LISTED[source][0]
    where.mkdir(parents=True, exist_ok=True)
    for part, o in rows.items():
        lines = [' '.join([name, *map(str, values)]) + '\n' for name, values in o]
        (where/f'{part}.txt').write_text(''.join(lines))
    return root/'DatasetsSplits'

# ---- images of one's own

def own(root, n=30):
    "A folder of images with a table: two images per patient"
    rows = []
    for i in range(n):
        rows.append(dict(
            path=f'pictures/{i}.png', patient=f'p{i//2}', study=f's{i}', view=['PA', 'lateral'][i % 2],
            report=f'FINDINGS: Lungs of {i} are clear.', effusion=i % 2, age=40, sex='f'))
        image(root/'pictures'/f'{i}.png', i)
    pd.DataFrame(rows).to_csv(root/'list.csv', index=False)
    return root
