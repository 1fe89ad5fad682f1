"Indiana: both layouts, index terms, and the real collection where it is"
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from source_trees import indiana, openi, real, told

from refers_nb.core import InputError
from refers_nb.data.card import describe
from refers_nb.data.report import clean, report_text, sentences, swap_sides, unescaped
from refers_nb.data.sources.iu_xray import MESH, VIEW_HINTS, iu_xray, mesh_findings

@pytest.mark.parametrize('deep', ['', 'archive/release'])
def test_indiana(tmp_path, deep):
    df = iu_xray(indiana(tmp_path, deep=deep))
    assert len(df) == 22 and df['study'].nunique() == 11 and df.attrs['root'] == str(tmp_path)
    assert df['report'][0] == 'Heart size of 1 is. No effusion. No acute disease.'
    assert (df['report'] == '').sum() == 2, 'a study without a report is kept'
    assert told(df, '1 study has a report but no image'), 'a study without an image is told of'
    assert set(df['view']) == {'PA', 'LATERAL'} and {Path(p).suffix for p in df['path']} == {'.png', '.webp'}
    assert df['label:abnormal'].isna().sum() == 6 and df['label:cardiomegaly'].sum() == 6
    assert set(df['split']) == {'train', 'valid', 'test'}

def test_indiana_with_its_split(tmp_path):
    indiana(tmp_path)
    split = pd.DataFrame(dict(uid=range(1, 11), split=['train']*7 + ['val']*3))
    split.to_csv(tmp_path/'split.csv', index=False)
    df = iu_xray(tmp_path)
    assert df['split'].value_counts().to_dict() == dict(train=14, valid=6)
    assert told(df, '2 images are in no split')

def test_mesh():
    normal = mesh_findings('normal')
    assert set(normal.values()) == {0} and list(normal) == ['abnormal', *MESH]
    for o in ('No Indexing', 'Technical Quality of Image Unsatisfactory ', '', None, np.nan):
        assert all(np.isnan(v) for v in mesh_findings(o).values())
    assert mesh_findings('Technical Quality of Image Unsatisfactory ;Opacity/lung')['opacity'] == 1
    granuloma = dict(abnormal=1, cardiomegaly=0, effusion=0, opacity=0, atelectasis=0)
    assert mesh_findings('Calcified Granuloma/lung') == granuloma
    assert mesh_findings('Pulmonary Atelectasis/base/bilateral;Pleural Effusion/left')['atelectasis'] == 1

def test_indiana_by_openi(tmp_path):
    csv = iu_xray(indiana(tmp_path/'csv'))
    xml = iu_xray(openi(tmp_path/'xml'))
    cols = ['study', 'report', 'sections', *(c for c in csv if c.startswith('label:'))]
    pd.testing.assert_frame_equal(csv[cols], xml[cols], check_exact=True)
    assert set(xml['view']) == {'PA', 'LATERAL'} and told(xml, 'guessed')
    assert set(iu_xray(tmp_path/'xml', guess_views=False)['view']) == {'UNKNOWN'}
    known = pd.read_csv(tmp_path/'csv'/'indiana_projections.csv')
    known['filename'] = known['filename'].str.replace('4001', '2001').str.replace('3001', '1001')
    known.to_csv(tmp_path/'xml'/'indiana_projections.csv', index=False)
    other = {'PA': 'LATERAL', 'LATERAL': 'PA'} # the other way round, told by hand
    assert [other[o] for o in iu_xray(tmp_path/'xml')['view']] == list(xml['view'])

def bomb():
    "A report that would grow to gigabytes"
    entities = ''.join(f'<!ENTITY {chr(98+i)} "{f"&{chr(97+i)};"*20}">' for i in range(8))
    return f'<!DOCTYPE x [<!ENTITY a "{"b"*1000}">{entities}]><eCitation><uId id="CXR4"/>&i;</eCitation>'

def test_openi_reports_that_cannot_be_read_are_told_of(tmp_path):
    folder = openi(tmp_path)/'ecgen-radiology'
    (folder/'3.xml').write_text('<eCitation><uId id="CXR3"/>')
    (folder/'4.xml').write_text(bomb())
    df = iu_xray(tmp_path)
    assert df['study'].nunique() == 9 and told(df, '2 report files cannot be read', '3.xml')
    assert len(df.attrs['extra']) == 4, 'their images are in no row'
    for o in folder.iterdir(): o.write_text('no')
    with pytest.raises(InputError, match='no report of Open-i can be read'): iu_xray(tmp_path)

# ---- the real collection, where it is

def real_reports(): return pd.read_csv(real('iu_xray')/'indiana_reports.csv').fillna('')

def test_real_indiana():
    df = iu_xray(real('iu_xray'))
    assert (len(df), df['study'].nunique()) == (6677, 3450)
    assert df.drop_duplicates('study')['split'].value_counts().to_dict() == dict(train=3072, valid=378)
    views = df.groupby('study').size().value_counts()
    assert views.index.min() == 1 and (views.index * views).sum() == 6677 and views[2] > 2700
    assert (df['report'] != '').all() and not df['report'].str.contains('XXXX').any()
    assert df.attrs['notes'] and describe(df)

SIDES = {'left', 'right', 'leftward', 'rightward', 'dextroscoliosis', 'levoscoliosis', 'dextrocurvature',
         'levocurvature', 'dextroconvex', 'levoconvex'}

def test_real_reports_are_mirrored_word_by_word():
    r = real_reports()
    texts = [report_text(a, b) for a, b in zip(r['findings'], r['impression'])]
    assert len(texts) == 3450 and sum(map(bool, texts)) == 3450
    changed = 0
    for text in [*texts, *r['findings'], *r['impression']]:
        mirrored = swap_sides(text)
        assert swap_sides(mirrored) == text
        before = re.findall(r'\w+|\W+', text)
        after = re.findall(r'\w+|\W+', mirrored)
        assert len(before) == len(after)
        assert all(a == b or a.lower() in SIDES for a, b in zip(before, after))
        assert not any(a == b and a.lower() in {'left', 'right'} for a, b in zip(before, after))
        changed += text != mirrored
    assert changed > 1000

def test_real_reports_lose_no_word_and_cleaning_twice_is_cleaning_once():
    r = real_reports()
    for findings, impression in zip(r['findings'], r['impression']):
        text = report_text(findings, impression)
        assert clean(text) == text and ' '.join(sentences(text)) == text
        rays = re.sub(r'\b([xX])-X{3,}', r'\1 ray', unescaped(f'{findings} {impression}'))
        words = ' '.join(re.findall(r'\w+', rays))
        want = re.findall(r'\w+', re.sub(r"(?<![A-Za-z])X{3,}('[a-z]+)?(?![a-z])", ' ', words))
        got = re.findall(r'\w+', text)
        assert [w for w in got if w not in 'st'] == [w for w in want if w not in 'st']

def test_real_views_guessed_from_names_are_mostly_right():
    p = pd.read_csv(real('iu_xray')/'indiana_projections.csv')
    guess = p['filename'].str.extract(r'-(\d+)\.dcm')[0].map(VIEW_HINTS)
    view = p['projection'].map(dict(Frontal='PA', Lateral='LATERAL'))
    right = guess.dropna() == view[guess.notna()]
    assert .84 < guess.notna().mean() < .87 and .93 < right.mean() < .95
