"Reports: no text, however odd, breaks cleaning, mirroring, sections or sentences"
import re

from hypothesis import given, settings, strategies as st

from refers_nb.report import clean, findings_impression, report_text, sections, sentences, swap_sides

PIECES = ['left', 'Right', 'LEFT', 'upright', 'leftover', 'lEft', 'dextroscoliosis', 'XXXX', '___', 'x-XXXX', '[**Name**]', '(', ')', '.', ',', ' ', '  ', '\n', '\n\n', ';',
          '1.', '2.5 cm', 'Dr.', 'p.m.', '?', '-', '/', 'FINDINGS:', 'IMPRESSION:', 'Findings:', 'COMPARISON:', 'FINAL REPORT', 'INDICATION:', 'Clear lungs', 'No effusion.', 'ä', '\x00']
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
    heads = r'(?:findings|impression|comparison|indication|final report)[ \t]*:|final report'
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
