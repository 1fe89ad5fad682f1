"Reports: no text, however odd, breaks cleaning, mirroring, sections or sentences"
import re, textwrap
from collections import Counter
from pathlib import Path

import pandas as pd, pytest
from hypothesis import given, settings, strategies as st

from mimic_styles import STYLES
from refers_nb.data.report import HEADINGS, clean, findings_impression, report_text, sections, sentences, swap_sides, used_sections

PIECES = ['left', 'Right', 'LEFT', 'upright', 'leftover', 'lEft', 'dextroscoliosis', 'XXXX', '___', 'x-XXXX', '[**Name**]', '(', ')', '.', ',', ' ', '  ', '\n', '\n\n', ';',
          '1.', '2.5 cm', 'Dr.', 'p.m.', '?', '-', '/', 'FINDINGS:', 'IMPRESSION:', 'Findings:', 'COMPARISON:', 'FINAL REPORT', 'INDICATION:', 'FINDINGS/IMPRESSION:', 'findings:', 'WET READ:', 'ADDENDUM',
          '\n\nCHEST, TWO VIEWS:', '\n\nAP CHEST, 5:30 A.M., ___\n\n', 'LUNGS:', '_'*12, '\r\n', '\xa0', 'Clear lungs', 'No effusion.', 'ä', '\x00']
text = st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=4)), max_size=30).map(''.join)

@settings(max_examples=400, deadline=None)
@given(text)
def test_cleaning_twice_is_cleaning_once(t):
    c = clean(t)
    assert clean(c) == c and '\n' not in c and c == c.strip() and not re.search(r'(?<![A-Za-z])XXXX(?![a-z])', c)

@settings(max_examples=400, deadline=None)
@given(text)
def test_mirroring_twice_is_the_text(t):
    m = swap_sides(t)
    assert swap_sides(m) == t
    other = lambda s: re.sub(r'\b(left|right)(wards?|most)?\b|\b(dextro|levo)(scoliosis|curvature|convex)\b', '', s, flags=re.I)
    assert other(m) == other(t)

@settings(max_examples=400, deadline=None)
@given(text)
def test_sections_hold_every_word_once_and_in_no_other_place(t):
    heads = r'findings|impression|comparison|indication|final\s+report|wet\s+read|addendum'
    words = lambda s: sorted(re.findall(r'[^\W_]+', re.sub(heads, ' ', s, flags=re.I)))
    assert words(' '.join(sections(t).values())) == words(t)

@settings(max_examples=400, deadline=None)
@given(text)
def test_sentences_put_together_are_the_text(t):
    t = clean(t)
    assert ' '.join(sentences(t)) == t and all(sentences(t))

def test_styles_of_reports():
    both = 'The heart is large. No effusion. Cardiomegaly.'
    for t in ('FINDINGS: The heart is large.  No effusion. IMPRESSION: Cardiomegaly.',
              'Findings:\nThe heart is large.\nNo effusion.\n\nConclusion:\nCardiomegaly.',
              'FINAL REPORT\n HISTORY: cough.\n\nFINDINGS:\n\n The heart is large. No effusion.\n\nOPINION: Cardiomegaly.',
              'EXAM: CHEST\n\nCOMPARISON: None.\n\nThe heart is large. No effusion.\n\nIMPRESSION: Cardiomegaly.',
              'The heart is large. No effusion. Cardiomegaly.'):
        assert findings_impression(t) == both, t
    assert findings_impression('IMPRESSION: Cardiomegaly.') == 'Cardiomegaly.'
    assert findings_impression('INDICATION: cough') == '' and findings_impression('') == ''
    assert report_text(None, float('nan')) == '' and report_text('Large heart', None) == 'Large heart'

@pytest.mark.parametrize('s', STYLES, ids=lambda s: s['style'][:60])
def test_styles_of_a_hospital(s):
    secs = sections(s['text'])
    assert (clean(secs.get('findings')), clean(secs.get('impression'))) == (s['findings'], s['impression'])
    assert findings_impression(s['text']) == report_text(s['findings'], s['impression'])
    assert used_sections(s['text']).split() == [k for k in ('findings', 'impression') if s[k]]

@pytest.mark.parametrize('s', STYLES, ids=lambda s: s['style'][:60])
def test_styles_lose_no_word_and_double_none(s):
    words = lambda t: Counter(re.findall(r'[^\W_]+', t.lower()))
    text,kept = words(s['text']),words(' '.join(sections(s['text']).values()))
    heads = {w for names in HEADINGS.values() for w in re.split(r'\W', names)}
    stamp = set(re.findall(r'\w+', ' '.join(re.findall(r'^(?:WET READ|PROVISIONAL).*', s['text'], re.M)).lower()))
    assert not kept - text and set(text - kept) <= heads | stamp | {'and', 's', 'pfi'}
    assert not words(report_text(s['findings'], s['impression'])) - text

def test_styles_are_many_and_different():
    assert len(STYLES) == 75 == len({s['style'] for s in STYLES}) == len({s['text'] for s in STYLES})
    assert sum(not s['findings'] for s in STYLES) >= 4 and sum(not s['impression'] for s in STYLES) >= 10

def test_layout_of_lines_does_not_matter():
    for s in STYLES:
        for other in (s['text'].replace('\r\n', '\n').replace('\n', '\r\n'), s['text'].replace('  ', '\t'), s['text'].replace(' ', '\xa0'), ''.join(f'   {o}' for o in s['text'].splitlines(True))):
            assert sections(other) == sections(s['text']), s['style']

LAYOUTS = dict( # how a hospital's system might have set the same sections
    same_line='{rule}\n EXAMINATION:  CHEST (PA AND LAT)\n\n INDICATION:  {indication}\n\n COMPARISON:  {comparison}\n\n FINDINGS:  {findings}\n\n IMPRESSION:  {impression}\n',
    next_line='FINAL REPORT\nHISTORY:\n{indication}\nCOMPARISON:\n{comparison}\nFINDINGS:\n{findings}\nCONCLUSION:\n{impression}\n',
    blank_line='{rule}\n Indication:\n\n {indication}\n\n Comparison:\n\n {comparison}\n\n Findings:\n\n {findings}\n\n Impression:\n\n {impression}\n',
    title='{rule}\n REASON FOR EXAM:  {indication}\n\n COMPARISON:  {comparison}\n\n PA AND LATERAL CHEST RADIOGRAPHS, ___:  {findings}\n\n IMPRESSION:  {impression}\n',
    no_heading='{rule}\n CHEST RADIOGRAPH\n\n INDICATION:  {indication}\n\n COMPARISON:  {comparison}\n\n {findings}\n\n IMPRESSION:  {impression}\n')

@pytest.mark.parametrize('layout', LAYOUTS)
def test_real_sections_come_back_from_any_layout(layout):
    path = Path(__file__).resolve().parents[2]/'shared'/'data'/'iu_xray'/'indiana_reports.csv'
    if not path.exists(): pytest.skip('../shared/data/iu_xray is not here')
    rows = pd.read_csv(path, dtype='str').fillna('').to_dict('records')
    assert len(rows) == 3450
    rule = 'WET READ: ___ ___ 8:51 PM\n  No pneumothorax.\n ' + '_'*78 + '\n' + ' '*33 + 'FINAL REPORT'
    words = lambda *t: Counter(re.findall(r'[^\W_]+', ' '.join(t)))
    own = re.compile(r'\b(?:exam|history|indication|comparison|findings|impression|XXXX):', re.I) # a few cells hold a whole report or repeat their heading
    assert sum(any(own.search(t) for t in o.values()) for o in rows) == 13
    missed = 0
    for i,row in enumerate(rows):
        parts = {k: textwrap.fill(' '.join(row[k].split()), 56 + i%25, break_long_words=False, break_on_hyphens=False).replace('\n', '\n ') or '___'
                 for k in ('indication', 'comparison', 'findings', 'impression')}
        text = LAYOUTS[layout].format(rule=rule, **parts)
        secs = sections(text)
        missed += any(clean(secs.get(k)) != clean(row[k]) for k in ('findings', 'impression'))
        if any(own.search(o) for o in row.values()): continue
        assert [clean(secs.get(k)) for k in parts] == [clean(row[k]) for k in parts]
        assert not words(*parts.values()) - words(*secs.values()), 'a word is lost'
        assert not words(*secs.values()) - words(text), 'a word is doubled'
        assert findings_impression(text) == report_text(row['findings'], row['impression'])
        assert used_sections(text).split() == [k for k in ('findings', 'impression') if clean(row[k])]
    assert missed <= 1 # its impression holds a whole report

PARTS = [' ', '\n', '\t\n', '\xa0', ':', '_', '.', '(', '[**', '(. ', ',. ', '? - ', 'A. ', '1. ', 'X', 'FINDINGS: a\n', 'FINDINGS AND ', 'FINDINGS (', 'WET READ: ___ 8:51 PM\n',
         'CHEST\n\n', 'CHEST VIEW ', 'A :\n', 'history\n', '_____________\n', 'left ']

@pytest.mark.parametrize('part', PARTS, ids=repr)
def test_a_megabyte_of_anything_is_read_in_linear_time(part):
    "A pattern that starts again at every character would take 10**12 steps here, and this test would not end"
    t = part*(10**6//len(part)) + 'Q'
    assert clean(t).endswith('Q') and ' '.join(sentences(t)).endswith('Q')
    assert ' '.join(sections(t).values()).count('Q') == 1 and swap_sides(swap_sides(t)) == t
    assert findings_impression(t).endswith('Q') or 'Q' in ' '.join(v for k,v in sections(t).items() if k not in ('findings', 'impression'))
