"Reports: no text, however odd, breaks cleaning, mirroring, sections or sentences"
import re, textwrap
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st

from mimic_styles import STYLES
from refers_nb.data.report import (
    HEADINGS, LONGEST_TEXT, clean, findings_impression, is_unsectioned, read_report, report_text, sections, sentences,
    swap_sides, unescaped, used_sections)

# Any text

PIECES = [
    'left', 'Right', 'LEFT', 'upright', 'leftover', 'lEft', 'dextroscoliosis', 'XXXX', '___', 'x-XXXX', '[**Name**]',
    '(', ')', '.', ',', ' ', '  ', '\n', '\n\n', ';', '1.', '2.5 cm', 'Dr.', 'p.m.', '?', '-', '/', 'FINDINGS:',
    'IMPRESSION:', 'Findings:', 'COMPARISON:', 'FINAL REPORT', 'INDICATION:', 'FINDINGS/IMPRESSION:', 'findings:',
    'WET READ:', 'ADDENDUM', '\n\nCHEST, TWO VIEWS:', '\n\nAP CHEST, 5:30 A.M., ___\n\n', 'LUNGS:', '_'*12, '\r\n',
    '\xa0', 'Clear lungs', 'No effusion.', 'ä', '\x00']
text = st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=4)), max_size=30).map(''.join)


def words(*texts):
    "How often each word occurs"
    return Counter(re.findall(r'[^\W_]+', ' '.join(texts)))


@settings(max_examples=400, deadline=None)
@given(text)
def test_cleaning_twice_is_cleaning_once(t):
    cleaned = clean(t)
    assert clean(cleaned) == cleaned
    assert '\n' not in cleaned and cleaned == cleaned.strip()
    assert not re.search(r'(?<![A-Za-z])XXXX(?![a-z])', cleaned)


SIDED = re.compile(r'\b(left|right)(wards?|most)?\b|\b(dextro|levo)(scoliosis|curvature|convex)\b', re.I)


@settings(max_examples=400, deadline=None)
@given(text)
def test_mirroring_twice_is_the_text(t):
    mirrored = swap_sides(t)
    assert swap_sides(mirrored) == t
    assert SIDED.sub('', mirrored) == SIDED.sub('', t)


@settings(max_examples=400, deadline=None)
@given(text)
def test_sections_hold_every_word_once_and_in_no_other_place(t):
    heads = r'\b(findings|impression|comparison|indication|(final\s+)?report|wet\s+read|addendum)\b'
    def without_headings(s): return words(re.sub(heads, ' ', s, flags=re.I))
    assert without_headings(' '.join(sections(t).values())) == without_headings(t)


@settings(max_examples=400, deadline=None)
@given(text)
def test_sentences_put_together_are_the_text(t):
    t = clean(t)
    assert ' '.join(sentences(t)) == t
    assert all(sentences(t))


# Layouts, made up

def test_styles_of_reports():
    both = 'The heart is large. No effusion. Cardiomegaly.'
    for t in (
        'FINDINGS: The heart is large.  No effusion. IMPRESSION: Cardiomegaly.',
        'Findings:\nThe heart is large.\nNo effusion.\n\nConclusion:\nCardiomegaly.',
        'FINAL REPORT\n HISTORY: cough.\n\nFINDINGS:\n\n The heart is large. No effusion.\n\nOPINION: Cardiomegaly.',
        'EXAM: CHEST\n\nCOMPARISON: None.\n\nThe heart is large. No effusion.\n\nIMPRESSION: Cardiomegaly.',
        'The heart is large. No effusion. Cardiomegaly.'):
        assert findings_impression(t) == both, t
    assert findings_impression('IMPRESSION: Cardiomegaly.') == 'Cardiomegaly.'
    assert findings_impression('INDICATION: cough') == ''
    assert findings_impression('') == ''
    assert report_text(None, float('nan')) == ''
    assert report_text('Large heart', None) == 'Large heart'


each_style = pytest.mark.parametrize('s', STYLES, ids=lambda s: s['style'][:60])


@each_style
def test_styles_of_a_hospital(s):
    secs = sections(s['text'])
    assert clean(secs.get('findings')) == s['findings']
    assert clean(secs.get('impression')) == s['impression']
    assert findings_impression(s['text']) == report_text(s['findings'], s['impression'])
    assert used_sections(s['text']).split() == [k for k in ('findings', 'impression') if s[k]]


@each_style
def test_styles_lose_no_word_and_double_none(s):
    everything = words(s['text'].lower())
    kept = words(' '.join(sections(s['text']).values()).lower())
    headings = {w for names in HEADINGS.values() for w in re.split(r'\W', names)}
    stamps = re.findall(r'^(?:WET READ|PROVISIONAL).*', s['text'], re.M)
    stamp = set(re.findall(r'\w+', ' '.join(stamps).lower()))
    assert not kept - everything
    assert set(everything - kept) <= headings | stamp | {'and', 's', 'pfi'}
    assert not words(report_text(s['findings'], s['impression']).lower()) - everything


def test_styles_are_many_and_different():
    assert len(STYLES) == 75
    assert len({s['style'] for s in STYLES}) == 75
    assert len({s['text'] for s in STYLES}) == 75
    assert sum(not s['findings'] for s in STYLES) >= 4
    assert sum(not s['impression'] for s in STYLES) >= 10


def test_layout_of_lines_does_not_matter():
    for s in STYLES:
        t = s['text']
        windows = t.replace('\r\n', '\n').replace('\n', '\r\n')
        indented = ''.join(f'   {line}' for line in t.splitlines(True))
        for other in (windows, t.replace('  ', '\t'), t.replace(' ', '\xa0'), indented):
            assert sections(other) == sections(t), s['style']


# Headings as hospitals type them

def parts_of(text):
    "Findings and impression of a report"
    secs = sections(text)
    return secs.get('findings', ''), secs.get('impression', '')


@pytest.mark.parametrize('findings,impression', [
    ('CHEST FINDINGS:', 'OVERALL IMPRESSION:'), ('PERTINENT FINDINGS:', 'ATTENDING CONCLUSION:'),
    ('TWO VIEW CHEST FINDINGS:', 'RADIOLOGIST IMPRESSION:'), ('Imaging findings:', 'Final impression:'),
    ('FINDNGS:', 'IMPRESION:'), ('FINDINSG:', 'IMPERSSION:'), ('Findigs:', 'Conlusion:'),
    ('FINAL FINDINGS AND OBSERVATIONS:', 'FINAL IMPRESION:')])
@pytest.mark.parametrize('joint', ['\n\n', '\n', ' '])
def test_words_and_slips_in_headings(findings, impression, joint):
    if joint == ' ' and findings[1].islower(): findings, impression = findings.upper(), impression.upper()
    text = f'HISTORY: Cough.{joint}{findings} Clear lungs.{joint}{impression} Normal chest.'
    assert parts_of(text) == ('Clear lungs.', 'Normal chest.')


@pytest.mark.parametrize('heading', [
    'PRELIMINARY FINDINGS', 'PRELIM IMPRESSION', 'Provisional impression', 'RESIDENT IMPRESSION', 'PFI',
    'OVERNIGHT IMPRESSION', 'PRELIMINARY INTERPRETATION'])
def test_a_preliminary_reading_counts_only_where_nothing_else_does(heading):
    final = 'FINDINGS: Clear.\n\nIMPRESSION: Normal.'
    assert findings_impression(f'{heading}: Edema.\n\n{final}') == 'Clear. Normal.'
    assert findings_impression(f'{heading}: Edema.\n\nLungs are clear.\n\nIMPRESSION: Normal.') == 'Lungs are clear. Normal.'
    assert findings_impression(f'INDICATION: Fall.\n\n{heading}: Edema.') == 'Edema.'


@pytest.mark.parametrize('heading', [
    'CLINICAL IMPRESSION', 'Admitting diagnosis', 'PREVIOUS IMPRESSION', 'PRIOR FINDINGS', 'CLINICAL HX', 'REFERENCE FILM',
    'COMPARISON EXAMS', 'PRIOR STUDY', 'COMPARSION', 'COMPARISIONS', 'Comparrison', 'COMAPRISON', 'INDCATION', 'TECHNIQE',
    'COMPARISON STUDEIS', 'Reference exam', 'HSITORY'])
def test_headings_that_are_not_about_these_images(heading):
    text = f'{heading}: Edema last week.\n\nLungs are clear.\n\nIMPRESSION: Normal.'
    assert parts_of(text) == ('Lungs are clear.', 'Normal.')


def test_the_end_of_a_section():
    for end in ('END OF IMPRESSION.', 'End of impression', '*** END OF IMPRESSION ***', 'END OF FINDINGS:', 'END OF REPORT'):
        assert parts_of(f'FINDINGS: Clear.\n\nIMPRESSION: Normal.\n\n{end}\n') == ('Clear.', 'Normal.')
    assert parts_of('IMPRESSION: Normal. END OF IMPRESSION: FINDINGS: Clear.') == ('Clear.', 'Normal.')


@pytest.mark.parametrize('text', [
    'history: cough. findings: clear. impression: normal.', 'Indication: cough; findings: clear. conclusion: normal.',
    'history: cough findings: clear. impression: normal.', 'CLINICAL INFORMATION: cough. comparison: none. findings: clear. impression: normal.',
    'Chest radiograph of today. findings: clear. impression: normal.'])
def test_small_headings_within_a_line(text):
    assert parts_of(text) == ('clear.', 'normal.') or parts_of(text) == ('Chest radiograph of today. clear.', 'normal.')


@pytest.mark.parametrize('text', [
    'FINDINGS: There are two\nfindings: a nodule and a scar.', 'FINDINGS: Broad differential diagnosis: edema or infection.',
    'FINDINGS: COMPRESSION: none. LUNGS: clear.', 'FINDINGS: No comparison: first film.',
    'FINDINGS: Contusion: none.\nIndentation: slight.'])
def test_words_with_a_colon_that_are_no_headings(text):
    assert sections(text) == dict(findings=' '.join(text.split())[10:])


@pytest.mark.parametrize('line', ['&lt;br/&gt;', '<BR>', '\\n', '\\r\\n', '_x000D_\n', '<br />\\n', '</p><p>', '&#13;&#10;', '\\.br\\'])
def test_line_breaks_that_an_export_has_escaped(line):
    text = line.join(['HISTORY: Cough', 'FINDINGS: Nodule &lt; 5&nbsp;mm, &amp;gt; 3 mm', 'IMPRESSION:', 'Scar'])
    assert parts_of(text) == ('Nodule < 5 mm, > 3 mm', 'Scar')
    assert clean(f'Nodule{line}of 5 mm.') == 'Nodule of 5 mm.'


def test_what_only_looks_escaped_stays():
    for o in ('Nodule <5 mm and >3 mm.', 'R&D; A&P view.', 'left\\right', 'x < b > c', '5 &of 6'):
        assert clean(o) == o
        assert unescaped(unescaped(o)) == unescaped(o)


def test_a_text_without_known_headings_is_kept_whole():
    assert read_report('BEFUND: Frei. BEURTEILUNG: Normal.') == ('BEFUND: Frei. BEURTEILUNG: Normal.', 'findings')
    assert [is_unsectioned(o) for o in ('BEFUND: Frei.', '', '___', 'HISTORY: Cough.', 'Clear.')] == [True, False, False, False, True]


# Layouts, with real sections

LAYOUTS = dict( # how a hospital's system might have set the same sections
    same_line='''{rule}
 EXAMINATION:  CHEST (PA AND LAT)

 INDICATION:  {indication}

 COMPARISON:  {comparison}

 FINDINGS:  {findings}

 IMPRESSION:  {impression}
''',
    next_line='''FINAL REPORT
HISTORY:
{indication}
COMPARISON:
{comparison}
FINDINGS:
{findings}
CONCLUSION:
{impression}
''',
    blank_line='''{rule}
 Indication:

 {indication}

 Comparison:

 {comparison}

 Findings:

 {findings}

 Impression:

 {impression}
''',
    title='''{rule}
 REASON FOR EXAM:  {indication}

 COMPARISON:  {comparison}

 PA AND LATERAL CHEST RADIOGRAPHS, ___:  {findings}

 IMPRESSION:  {impression}
''',
    no_heading='''{rule}
 CHEST RADIOGRAPH

 INDICATION:  {indication}

 COMPARISON:  {comparison}

 {findings}

 IMPRESSION:  {impression}
''')
RULE = 'WET READ: ___ ___ 8:51 PM\n  No pneumothorax.\n ' + '_'*78 + '\n' + ' '*33 + 'FINAL REPORT'
OWN_HEADING = re.compile( # a few cells hold a whole report or repeat their heading
    r'\b(?:exam|history|indication|comparison|findings|impression|XXXX):', re.I)
SECTIONS = ('indication', 'comparison', 'findings', 'impression')


def real_rows():
    path = Path(__file__).resolve().parents[2]/'shared'/'data'/'iu_xray'/'indiana_reports.csv'
    if not path.exists(): pytest.skip('../shared/data/iu_xray is not here')
    rows = pd.read_csv(path, dtype='str').fillna('').to_dict('records')
    assert len(rows) == 3450
    return rows


def broken_lines(cell, width):
    "A cell in lines of a report; where it is empty, the mark of a field that was taken out"
    lines = textwrap.fill(' '.join(cell.split()), width, break_long_words=False, break_on_hyphens=False)
    return lines.replace('\n', '\n ') or '___'


@pytest.mark.parametrize('every', [10, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize('layout', LAYOUTS)
def test_real_sections_come_back_from_any_layout(layout, every):
    rows = real_rows()
    assert sum(any(OWN_HEADING.search(t) for t in row.values()) for row in rows) == 13
    missed = 0
    for i,row in list(enumerate(rows))[::every]:
        parts = {k: broken_lines(row[k], 56 + i % 25) for k in SECTIONS}
        t = LAYOUTS[layout].format(rule=RULE, **parts)
        secs = sections(t)
        missed += any(clean(secs.get(k)) != clean(row[k]) for k in ('findings', 'impression'))
        if any(OWN_HEADING.search(o) for o in row.values()): continue
        assert [clean(secs.get(k)) for k in parts] == [clean(row[k]) for k in parts]
        said = map(unescaped, parts.values())
        assert not words(*said) - words(*secs.values()), 'a word is lost'
        assert not words(*secs.values()) - words(t), 'a word is doubled'
        assert findings_impression(t) == report_text(row['findings'], row['impression'])
        assert used_sections(t).split() == [k for k in ('findings', 'impression') if clean(row[k])]
    assert missed <= 1 # its impression holds a whole report


# Long texts

FAST_PARTS = [' ', '[**', 'CHEST\n\n']
SLOW_PARTS = [
    'FINDINGS (', 'WET READ: ___ 8:51 PM\n', '(. ', '\n', '\t\n', '\xa0', ':', '_', '.', '(', ',. ', '? - ', 'A. ', '1. ', 'X', 'FINDINGS: a\n', 'FINDINGS AND ',
    'CHEST VIEW ', 'A :\n', 'history\n', '_____________\n', 'left ']


@pytest.mark.parametrize('part', [
    *FAST_PARTS, *(pytest.param(o, marks=pytest.mark.slow) for o in SLOW_PARTS)], ids=repr)
def test_the_longest_text_of_anything_is_read_in_linear_time(part):
    "A pattern that starts again at every character would take 10**11 steps here, and this test would not end"
    t = part*(LONGEST_TEXT//len(part) - 1) + 'Q'
    assert clean(t).endswith('Q')
    assert ' '.join(sentences(t)).endswith('Q')
    assert swap_sides(swap_sides(t)) == t
    secs = sections(t)
    assert ' '.join(secs.values()).count('Q') == 1
    others = ' '.join(v for k,v in secs.items() if k not in ('findings', 'impression'))
    assert findings_impression(t).endswith('Q') or 'Q' in others
