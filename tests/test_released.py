"Tables from released predictions: all layouts, odd files, contradictions, tests against the definition, the paper's numbers"
import re
from pathlib import Path

import numpy as np, pandas as pd, pytest
from hypothesis import given, settings, strategies as st
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from drawn_predictions import METHODS, simulated, write
from refers_nb.cli import refers_evaluate
from refers_nb.core import InputError
from refers_nb.data.lists import NIH14, VINBIG
from refers_nb.evaluation.release_files import read_predictions, read_released
from refers_nb.evaluation.released import released, released_summary
from refers_nb.evaluation.statistics import auroc_table, delong_test, holm

RELEASE = Path(__file__).resolve().parent.parent.parent/'shared'/'data'/'refers_release'
COLUMNS = ['dataset', 'labels', 'method', 'finding', 'n', 'positives', 'auroc', 'low', 'high']


# Layouts

@pytest.mark.parametrize('where,given,dataset,labels', [
    ('Results_of_fine-tuning/NIH ChestX-ray/data1', '.', 'NIH ChestX-ray', 1),
    ('Results_of_fine-tuning/NIH ChestX-ray/data10', 'Results_of_fine-tuning', 'NIH ChestX-ray', 10),
    ('Results_of_fine-tuning/NIH ChestX-ray/data100', 'Results_of_fine-tuning/NIH ChestX-ray', 'NIH ChestX-ray', 100),
    ('Results_of_fine-tuning/NIH ChestX-ray/data10', 'Results_of_fine-tuning/NIH ChestX-ray/data10', 'NIH ChestX-ray', 10),
    ('Results_of_fine-tuning/VinBigData Chest X-ray/code/data1', '.', 'VinBigData Chest X-ray', 1),
    ('VinBigData Chest X-ray/code/data1', 'VinBigData Chest X-ray/code', 'VinBigData Chest X-ray', 1),
    ('Shenzhen Tuberculosis/tuberculosis', 'Shenzhen Tuberculosis', 'Shenzhen Tuberculosis', 100),
    ('results_of_fine_tuning/Other set/task', '.', 'Other set', 100),
    ('My X-rays/10 %', '.', 'My X-rays', 10),
    ('My X-rays/10%', 'My X-rays', 'My X-rays', 10),
    ('a/My X-rays', 'a/My X-rays', 'My X-rays', 100)])
def test_data_set_share_and_method_come_from_the_folders(tmp_path, where, given, dataset, labels):
    y, s = simulated(40)
    write(tmp_path/'here'/where, y, s)
    t = released(tmp_path/'here'/given)
    assert list(t)[:9] == COLUMNS and len(t) == 9
    assert set(zip(t.dataset, t.labels)) == {(dataset, labels)}
    assert t.method.tolist() == np.repeat(['REFERS', 'C2L', 'ImageNet'], 3).tolist()
    assert t.finding.tolist() == ['Edema', 'Effusion', 'mean']*3


def test_share_below_the_method_and_tasks_of_one_data_set(tmp_path):
    y, s = simulated(40)
    for share in (1, 10):
        write(tmp_path/'a'/'My set', y, {f'{m}/data{share}': o for m, o in s.items()})
    found = {(o.dataset, o.labels, *o.probs) for o in read_released(tmp_path/'a')}
    assert found == {('My set', i, 'REFERS', 'C2L', 'ImageNet') for i in (1, 10)}
    covid = tmp_path/'b'/'COVID-19 Image Data Collection'
    write(covid/'covid_others', y[:, :1], {m: o[:, :1] for m, o in s.items()}, ('covid_others',))
    without = {m: o[:30, :1] for m, o in s.items() if m != 'REFERS'}
    write(covid/'bacterial_viral', y[:30, :1], without, ('bacterial_viral',))
    t = released(tmp_path/'b')
    assert set(zip(t.dataset, t.n)) == {(f'{covid.name}/covid_others', 40), (f'{covid.name}/bacterial_viral', 30)}
    assert not t.duplicated(['dataset', 'labels', 'method', 'finding']).any()
    assert set(t.verdict[t.n == 30]) == {'no test'} and t.p[t.n == 30].isna().all()
    assert released(covid/'covid_others').dataset.unique().tolist() == [covid.name]


def test_what_lies_beside_is_not_taken_for_predictions(tmp_path):
    y, s = simulated(40)
    write(tmp_path/'Results_of_fine-tuning'/'Set'/'data1', y, s)
    beside = [
        'LICENSE', 'DataProcessed/Set/test.txt', 'Fine-tune/requirements.txt',
        'Results_of_fine-tuning/.DS_Store', 'Results_of_fine-tuning/Set/auc.txt',
        'Results_of_fine-tuning/Set/data1/.ipynb_checkpoints/x.txt',
        'Results_of_fine-tuning/Set/data1/REFERS/README.txt',
        'Results_of_fine-tuning/Set/data1/REFERS/curve.png']
    for o in beside:
        (tmp_path/o).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path/o).write_text('not a prediction')
    t = released(tmp_path)
    assert set(zip(t.dataset, t.method)) == {('Set', m) for m in METHODS}
    note, = t.attrs['notes']
    assert 'auc.txt' in note and 'README.txt' in note and 'auc.txt' in released_summary(t)


def test_other_case_spelling_and_spaces_are_one_finding_and_one_method(tmp_path):
    y, s = simulated(60)
    d = write(tmp_path/'Set', y, s)
    (d/'C2L'/'Effusion.txt').rename(d/'C2L'/'effusion.TXT')
    (d/'ImageNet'/'Edema.txt').rename(d/'ImageNet'/'EDEMA .tsv')
    (d/'REFERS').rename(d/'Refers')
    t = released(d)
    want = {m: roc_auc_score(y[:, 0], o[:, 0]) for m, o in s.items()}
    found = t[t.finding == 'Effusion'].set_index('method').auroc
    assert found['Refers'] == pytest.approx(want['REFERS']) and found['C2L'] == pytest.approx(want['C2L'])
    assert t.finding.nunique() == 3 and t.verdict[t.method == 'Refers'].eq('').all()
    assert t.p[t.method == 'C2L'].notna().all()
    (d/'C2L'/'Effusion.txt').write_text((d/'C2L'/'effusion.TXT').read_text())
    with pytest.raises(InputError, match='same finding'): released(d)
    (d/'C2L'/'Effusion.txt').unlink()
    write(d, y, dict(refers=s['REFERS']))
    with pytest.raises(InputError, match='same method'): released(d)


@pytest.mark.parametrize('make,word', [
    (lambda d: d.mkdir(), 'no files of predictions'),
    (lambda d: None, 'is no folder'),
    (lambda d: d.write_text('x'), 'is no folder'),
    (lambda d: write(d/'NIH ChestX-ray'/'data5', *simulated(20)), 'data5 is no share')])
def test_folders_that_cannot_be_read(tmp_path, make, word):
    make(tmp_path/'x')
    with pytest.raises(InputError, match=word): released(tmp_path/'x')


# Files

PLAIN = '0.0\t0.25\n1.0\t0.5\n0.0\t1.0\n'

@pytest.mark.parametrize('text', [
    PLAIN,
    PLAIN.replace('\t', ' '),
    PLAIN.replace('\n', '\r\n'),
    PLAIN.strip(),
    '\ufeff' + PLAIN,
    'label\tprobability\n' + PLAIN,
    'label prob\r\n' + PLAIN.replace('\n', ' \r\n'),
    '\n\n' + PLAIN.replace('\n', '\n\n'),
    PLAIN.replace('\t', ',').replace('.0,', ','),
    PLAIN.replace('\t', ' \t  '),
    '0\t2.5e-1\n1 5E-01\n0e0\t1.000e+00\n',
    PLAIN.replace('\n', '\r'),
    '"0","0.25"\n"1","0.5"\n"0","1"\n'])
def test_a_file_in_other_clothes_is_the_same_file(tmp_path, text):
    (tmp_path/'f.txt').write_bytes(text.encode())
    assert read_predictions(tmp_path/'f.txt').tolist() == [[0, 1, 0], [.25, .5, 1]]


@pytest.mark.parametrize('text,line,word', [
    ('0 .1\n1 x\n', 2, 'expected a label and a probability'),
    ('0 .1\n1\n', 2, 'expected a label'),
    ('0 .1 3\n', 1, 'expected a label'),
    ('0 .1\n1 .2 .3\n', 2, 'expected a label'),
    ('0.25 1\n', 1, 'neither 0 nor 1; expected label'),
    ('0 .1\n\n2 .1\n', 3, 'neither'),
    ('0 .1\n1 1.5\n', 2, 'not between 0 and 1'),
    ('0 nan\n', 1, 'not between'),
    ('0 inf\n', 1, 'not between'),
    ('label prob\nlabel prob\n', 2, 'expected'),
    ('0 .1\nlabel prob\n', 2, 'expected'),
    ('word\n0 .1\n', 1, 'expected'),
    ('0 .1\n1 .2\x00\n', 2, 'expected')])
def test_a_bad_line_is_named(tmp_path, text, line, word):
    (tmp_path/'f.txt').write_text(text)
    with pytest.raises(InputError, match=rf'f\.txt:{line}: .*{word}'): read_predictions(tmp_path/'f.txt')


@pytest.mark.parametrize('data,word', [
    (b'', 'no predictions'),
    (b'\n \n', 'no predictions'),
    (b'label prob\n', 'no predictions'),
    (b'\xff\xfe0\x00 \x00', 'not UTF-8')])
def test_a_file_without_predictions_is_named(tmp_path, data, word):
    (tmp_path/'f.txt').write_bytes(data)
    with pytest.raises(InputError, match=rf'f\.txt: .*{word}'): read_predictions(tmp_path/'f.txt')


@settings(max_examples=60, deadline=None)
@given(st.text(alphabet='01.5-e ,\t\nnax"', max_size=30))
def test_any_text_is_read_or_refused(tmp_path_factory, text):
    "The fast and the slow way agree, whatever is in the file"
    p = tmp_path_factory.mktemp('t')/'f.txt'
    p.write_text(text)
    try: x = read_predictions(p)
    except InputError: return
    rows = [re.split(r'[\s,"]+', o.strip(' \t,"')) for o in text.split('\n') if o.strip(' \t,"')]
    rows = rows[len(rows) - x.shape[1]:]
    assert np.array_equal(x.T, np.array(rows, float), equal_nan=True)
    assert set(x[0][~np.isnan(x[0])]) <= {0, 1} and ((0 <= x[1]) & (x[1] <= 1)).all()


def test_contradictions_are_named_with_file_and_line(tmp_path):
    y, s = simulated(50)
    d = write(tmp_path/'Set', y, s)
    file = d/'C2L'/'Edema.txt'
    lines = file.read_text().splitlines()
    other = [('1.0' if o[0] == '0' else '0.0') + o[3:] for o in lines]
    file.write_text('label prob\n\n' + '\n'.join([*lines[:7], *other[7:9], *lines[9:]]))
    with pytest.raises(InputError, match=r'C2L/Edema\.txt:10: label \d, but \d in .*REFERS/Edema\.txt:8; 2 of 50'):
        released(d)
    file.write_text('\n'.join(lines[:-1]))
    with pytest.raises(InputError, match=r'C2L/Edema\.txt: 49 predictions, but .*REFERS/Edema\.txt has 50'):
        released(d)
    for m in METHODS:
        p = d/m/'Edema.txt'
        p.write_text('\n'.join(p.read_text().splitlines()[:40]))
    with pytest.raises(InputError, match=r'REFERS/Effusion\.txt: 50 predictions, but .*REFERS/Edema\.txt has 40'):
        released(d)


# The table

def test_numbers_are_those_of_scikit_learn_and_the_definition(tmp_path):
    y, s = simulated()
    t = released(write(tmp_path/'Set', y, s)).set_index(['method', 'finding'])
    for m, o in s.items():
        for j, f in enumerate(('Effusion', 'Edema')):
            row = t.loc[m, f]
            assert row.auroc == pytest.approx(roc_auc_score(y[:, j], o[:, j]))
            assert (row.n, row.positives) == (120, y[:, j].sum()) and row.patients is pd.NA
            assert row.low < row.auroc < row.high
        mean = t.loc[(m, 'mean')]
        assert mean.auroc == pytest.approx(t.loc[m].auroc[:2].mean()) and mean.positives == y.sum()
    wins = {m: np.sign(o[y[:, 0] == 1, 0][:, None] - o[y[:, 0] == 0, 0])/2 + .5 for m, o in s.items()}
    d = wins['REFERS'] - wins['C2L']
    se = np.sqrt(d.mean(1).var(ddof=1)/d.shape[0] + d.mean(0).var(ddof=1)/d.shape[1])
    row = t.loc['C2L', 'Effusion']
    assert row.difference == pytest.approx(d.mean()) and row.p == pytest.approx(2*norm.sf(abs(d.mean())/se))
    findings = t[t.index.get_level_values(1) != 'mean']
    means = t.xs('mean', level=1)
    assert np.allclose(findings.p_holm, holm(findings.p), equal_nan=True)
    assert np.allclose(means.p_holm, holm(means.p), equal_nan=True)
    assert means.verdict['ImageNet'] == 'REFERS better' and means.verdict['REFERS'] == ''
    summary = released_summary(t.reset_index())
    assert '| Set | 100 % | ImageNet |' in summary and 'Differences of means: ' in summary


def test_the_verdict_follows_the_sign_and_the_level(tmp_path):
    y, s = simulated(methods=dict(REFERS=.5, Better=3., Same=.5))
    s['Same'] = s['REFERS']
    d = write(tmp_path/'Set', y, s)
    t = released(d)
    v = t[t.finding == 'mean'].set_index('method')
    assert v.verdict['Better'] == 'REFERS worse' and v.difference['Better'] < 0
    assert v.p['Same'] == 1 and v.verdict['Same'] == 'not significant'
    assert set(released(d, level=1e-300).verdict) == {'', 'not significant'}
    assert released(d, reference='better').verdict[1:].str.contains('better better').any()
    assert released(d, reference='x').verdict.eq('no test').all()


def test_a_missing_file_is_named_and_the_comparison_is_over_what_both_have(tmp_path):
    y, s = simulated(100, ('A', 'B', 'C'))
    d = write(tmp_path/'Set', y, s, ('A', 'B', 'C'))
    (d/'C2L'/'B.txt').unlink()
    (d/'REFERS'/'C.txt').unlink()
    t = released(d).set_index(['method', 'finding'])
    assert np.isnan(t.loc[('C2L', 'B'), 'auroc']) and t.loc[('C2L', 'B'), 'note'] == 'no file'
    mean = t.loc[('C2L', 'mean')]
    assert mean.note == 'without B' and mean.auroc == pytest.approx(t.loc['C2L'].auroc[['A', 'C']].mean())
    of_a = t.loc[('REFERS', 'A'), 'auroc'] - t.loc[('C2L', 'A'), 'auroc']
    assert mean.difference == pytest.approx(t.loc[('C2L', 'A'), 'difference']) == pytest.approx(of_a)
    assert any('C2L has no file for B' in o for o in t.attrs['notes'])
    assert 'without B' in released_summary(t.reset_index())


def test_a_finding_of_one_kind_is_nan_and_out_of_the_mean(tmp_path):
    y, s = simulated(80)
    y[:, 1] = 0
    t = released(write(tmp_path/'Set', y, s)).set_index(['method', 'finding'])
    assert t.xs('Edema', level=1).auroc.isna().all()
    assert t.loc[('C2L', 'mean'), 'auroc'] == t.loc[('C2L', 'Effusion'), 'auroc']
    assert t.loc[('C2L', 'mean'), 'p'] == pytest.approx(t.loc[('C2L', 'Effusion'), 'p'])


# Split lists

def nih(folder, off=0):
    "Predictions of 90 images of 30 patients, with the list that names them; `off` labels differ there"
    y, s = simulated(90, NIH14, methods=dict(REFERS=2., C2L=1.))
    write(folder/'Results_of_fine-tuning'/'NIH ChestX-ray'/'data10', y, s, NIH14)
    listed = y.copy()
    listed[:off, 3] = 1 - listed[:off, 3]
    names = [f'images_001/{i//3:08d}_{i%3:03d}.png' for i in range(90)]
    rows = [f'{name} ' + ' '.join(f'{o:.0f}' for o in r) for name, r in zip(names, listed)]
    lists = folder/'DataProcessed'/'NIH_ChestX-ray'
    lists.mkdir(parents=True)
    (lists/'test.txt').write_text('\n'.join(rows))
    (lists/'val.txt').write_text('images_001/00009999_000.png ' + '0 '*14)
    return y, s


def test_image_names_and_patients_come_from_the_list(tmp_path):
    y, s = nih(tmp_path)
    a, = read_released(tmp_path)
    assert a.images[:2].tolist() == ['00000000_000.png', '00000000_001.png']
    assert a.patients[3] == '00000001' and a.labels == 10 and not a.notes
    t = released(tmp_path)
    patients = np.arange(90)//3
    assert set(t.patients) == {30}
    by_name = np.argsort([sorted(NIH14).index(o) for o in NIH14])
    want = auroc_table(y[:, by_name], s['C2L'][:, by_name], patients)
    ends = ['auroc', 'low', 'high']
    assert np.allclose(t[t.method == 'C2L'][ends], want[ends])
    p = delong_test(y, s['REFERS'], s['C2L'], patients)
    assert t.p.iloc[-1] == pytest.approx(p.p['mean'])
    (tmp_path/'DataProcessed').rename(tmp_path/'lists')
    assert released(tmp_path).patients.isna().all()
    assert set(released(tmp_path, tmp_path/'lists').patients) == {30}


def test_lists_that_are_not_there(tmp_path):
    write(tmp_path/'Set', *simulated(20))
    with pytest.raises(InputError, match='gone is no folder; give DataProcessed'):
        released(tmp_path/'Set', tmp_path/'gone')


def test_a_list_with_other_labels_names_nothing_and_says_so(tmp_path):
    nih(tmp_path, off=4)
    a, = read_released(tmp_path)
    assert a.images is None and a.patients is None and '4 labels are not those of the test list' in a.notes[0]


# The command (the notebook of the command line runs it as a process)

def test_the_command_writes_the_table_and_says_what_is_significant(tmp_path, capsys):
    y, s = simulated(60)
    write(tmp_path/'Set'/'data10', y, s)
    refers_evaluate('released', tmp_path/'Set', out=tmp_path/'new'/'t.csv')
    out, err = capsys.readouterr()
    assert out.startswith('| data set |') and 'Differences of means' in out and not err
    t = pd.read_csv(tmp_path/'new'/'t.csv', keep_default_na=True)
    assert list(t)[:9] == COLUMNS and set(t.labels) == {10} and t.labels.dtype == int
    want = released(tmp_path/'Set').replace('', None).astype(dict(patients=float))
    pd.testing.assert_frame_equal(t, want, check_dtype=False)


@pytest.mark.parametrize('args,word', [
    (('released',), 'one folder'),
    (('released', 'a', 'b'), 'one folder'),
    (('released', 'gone'), 'gone is no folder'),
    (('imaginary', 'a'), 'imaginary: expected'),
    (('predictions',), 'one or more runs'),
    (('predictions', 'gone.parquet'), 'no such file')])
def test_the_command_refuses_in_one_line(capsys, args, word):
    with pytest.raises(SystemExit) as e: refers_evaluate(*args)
    out, err = capsys.readouterr()
    assert e.value.code == 1 and not out and len(err.splitlines()) == 1
    assert word in err and err.startswith('refers-evaluate: ')


# The release itself

VINBIG_SET = 'VinBigData Chest X-ray'
TB_SET = 'Shenzhen Tuberculosis'
COVID_SET = 'COVID-19 Image Data Collection/covid_others'
VIRAL_SET = 'COVID-19 Image Data Collection/bacterial_viral'
NAMES = ['REFERS', 'C2L', 'TransVW', 'MG', 'CR', 'ImageNet']
PAPER = {
    VINBIG_SET: (3000, 1, [.8109, .7511, .7360, .7069, .6811, .6956]),
    TB_SET: (132, 100, [.9790, .9553, .9420, .9487, .9266, .9445]),
    COVID_SET: (172, 100, [.8215, .7773, .7606, .7601, .7456, .7533])}

def test_the_papers_numbers():
    if not RELEASE.is_dir(): pytest.skip(f'the release (../shared/data/{RELEASE.name}) is not here')
    t = released(RELEASE)
    mean = t[t.finding == 'mean'].set_index(['dataset', 'method'])
    for d, (n, labels, want) in PAPER.items():
        for m, v in zip(NAMES, want):
            assert abs(mean.auroc[d, m] - v) <= 1e-4 and (mean.n[d, m], mean.labels[d, m]) == (n, labels)
    assert (mean.low < mean.auroc).all() and (mean.auroc < mean.high).all() and t.note.eq('').all()
    vin = {re.sub(r'\W', '', o).lower() for o in t.finding[t.dataset == VINBIG_SET]}
    assert vin == {re.sub(r'\W', '', o).lower() for o in [*VINBIG, 'mean']}
    # Clear where 3,000 images are, open where 132 or 172 are
    others = mean[mean.index.get_level_values(1) != 'REFERS']
    verdicts = others.groupby('dataset').verdict.unique().map(list).to_dict()
    assert verdicts == {VINBIG_SET: ['REFERS better'], TB_SET: ['not significant'],
                        COVID_SET: ['not significant'], VIRAL_SET: ['no test']}
    sets = {o.dataset: o for o in read_released(RELEASE)}
    assert sets[VINBIG_SET].images[0] == '7c3fb9bf622d400c454d0a6b39a1b484.png'
    assert sets[TB_SET].images[0] == 'CHNCXR_0262_0.png'
    assert sets[COVID_SET].images is not None and sets[VIRAL_SET].images is None
