"MIMIC-CXR: invented trees in its layout, with less than all, and with an archive that was tampered with"
import zipfile

import numpy as np
import pandas as pd
import pytest
from source_trees import CHEXPERT, mimic, told

from refers_nb.core import InputError
from refers_nb.data.prepare import prepare
from refers_nb.data.sources.mimic_cxr import mimic_cxr
from refers_nb.data.sources.raw import EXPECTED
from refers_nb.data.studies import annotation_names, label_names

@pytest.mark.parametrize('packed', [True, False])
def test_mimic(tmp_path, packed):
    df = mimic_cxr(mimic(tmp_path, packed=packed))
    assert len(df) == 48 and df['study'].nunique() == 24 and df['patient'].nunique() == 12
    assert df.drop_duplicates('study')['split'].value_counts().to_dict() == dict(train=20, test=2, valid=2)
    assert (df['report'] == '').sum() == 2 and told(df, '1 study of the table has no report')
    reports = df['report'][df['report'] != '']
    assert all(reports.str.contains('is large. Cardiomegaly.', regex=False))
    assert not reports.str.contains('No change').any()
    assert set(df['view']) == {'PA', 'LATERAL', 'AP', 'OTHER', 'UNKNOWN'}
    assert told(df, '10 images without ViewPosition; the view code tells it for 6')

def test_mimic_annotations(tmp_path):
    df = mimic_cxr(mimic(tmp_path))
    assert annotation_names(df) == dict(chexpert=CHEXPERT, negbio=CHEXPERT)
    one = df.drop_duplicates('study')['chexpert:Edema']
    assert sorted(one.fillna(9)) == [-1]*6 + [0]*6 + [1]*6 + [9]*6
    assert (df['negbio:Edema'] == 1).sum() == 0
    certain = df['chexpert:Edema'].map({1: 1, 0: 0})
    assert (df['label:Edema'].fillna(-1).values == certain.fillna(-1).values).all()

RULES = dict(missing=None, positive=1, negative=0)

@pytest.mark.parametrize('uncertain', RULES)
@pytest.mark.parametrize('blank', RULES)
def test_mimic_labels_by_rule(tmp_path, uncertain, blank):
    df = mimic_cxr(mimic(tmp_path), uncertain=uncertain, blank=blank)
    want = [RULES[blank] if np.isnan(o) else RULES[uncertain] if o == -1 else o for o in df['chexpert:Edema']]
    assert [None if np.isnan(o) else o for o in df['label:Edema']] == want

def test_mimic_labels_of_negbio_and_of_nobody(tmp_path):
    mimic(tmp_path)
    assert (mimic_cxr(tmp_path, labels='negbio')['label:Edema'] == 1).sum() == 0
    for kw in (dict(labels='expert'), dict(uncertain='maybe'), dict(blank='')):
        with pytest.raises(InputError, match='expected'): mimic_cxr(tmp_path, **kw)

def test_mimic_with_less_than_all(tmp_path):
    raw = mimic(tmp_path/'raw')
    for o in ('negbio', 'split'): (raw/f'mimic-cxr-2.0.0-{o}.csv.gz').unlink()
    gone = sorted(raw.rglob('*.jpg'))[:6]
    for o in gone: o.unlink()
    (raw/'mimic-cxr-reports.zip').rename(tmp_path/'elsewhere.zip')
    df = mimic_cxr(raw, reports=tmp_path/'elsewhere.zip')
    assert len(df) == 42 and {o.stem for o in gone} == set(df.attrs['missing'])
    assert list(annotation_names(df)) == ['chexpert']
    assert told(df, 'patients dealt at random') and df.groupby('patient')['split'].nunique().max() == 1
    assert told(df, f"{EXPECTED['mimic_cxr']:,}")
    assert (mimic_cxr(raw)['report'] == '').all(), 'without the archive'
    with pytest.raises(InputError, match='no such archive'): mimic_cxr(raw, reports=tmp_path/'nowhere.zip')
    (raw/'mimic-cxr-2.0.0-chexpert.csv.gz').unlink()
    df = mimic_cxr(raw)
    assert not label_names(df) and not annotation_names(df) and told(df, 'No file of chexpert labels')

def test_a_damaged_archive(tmp_path):
    archive = mimic(tmp_path)/'mimic-cxr-reports.zip'
    whole = archive.read_bytes()
    last = zipfile.ZipFile(archive).infolist()[-1]
    archive.write_bytes(whole[:2000])
    with pytest.raises(InputError, match='not a zip archive'): mimic_cxr(tmp_path)
    at = last.header_offset + 62 # its content
    archive.write_bytes(whole[:at] + bytes(40) + whole[at+40:])
    assert told(mimic_cxr(tmp_path), '1 report cannot be read')

STRANGERS = ['../../escape.txt', '/abs.txt', 'files/p10/p10000000/../../../s50000005.txt', 'files\\p10\\x.txt',
             'a/b/files/p10/p10000002/s50000005.txt']

def test_members_of_the_archive_that_are_no_reports_are_not_touched(tmp_path):
    raw = mimic(tmp_path/'raw')
    with zipfile.ZipFile(raw/'mimic-cxr-reports.zip', 'a') as z:
        for o in STRANGERS: z.writestr(o, 'FINDINGS: Secret.')
        z.writestr('files/p10/p10000002/s50000005.txt', 'FINDINGS: ' + 'a '*600_000)
    df = prepare('mimic_cxr', raw, tmp_path/'out', size=32)
    assert not df['report'].str.contains('Secret').any() and df['report'].str.len().max() < 100
    assert sorted(o.name for o in tmp_path.iterdir()) == ['out', 'raw'] and not list(tmp_path.rglob('escape.txt'))

def test_mimic_ids_that_lead_out(tmp_path):
    raw = mimic(tmp_path)
    meta = raw/'mimic-cxr-2.0.0-metadata.csv.gz'
    df = pd.read_csv(meta, dtype='str')
    df.loc[3, 'dicom_id'] = '../../../../../etc/passwd'
    df.to_csv(meta, index=False)
    with pytest.raises(InputError, match='leads out'): mimic_cxr(raw)
    df.loc[3, 'dicom_id'] = None
    df.to_csv(meta, index=False)
    with pytest.raises(InputError, match='row 3: no dicom_id'): mimic_cxr(raw)
