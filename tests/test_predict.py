"A classifier applied to files of every kind: bad ones are rows, tables are whole, unlike films are noticed"
import json, os, signal, time

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image, ImageDraw
from safetensors.torch import load_file, save_file

from answering import FINDINGS, refused, run, command
from dicom_folder import CODINGS, dicom_folder, draw
from refers_nb.core import InputError
from refers_nb.data.studies import read_studies
from refers_nb.evaluation.attend import finding_attention
from refers_nb.models.hub import load_checkpoint, save_checkpoint
from refers_nb.phantom import phantoms
from refers_nb.predict import answers, Answerer, ask_about, load_classifier, looked_at, predict
from refers_nb.training.classifier import Classifier

CPU = dict(device='cpu', precision='fp32')


def names(table): return [os.path.basename(o) for o in table['path']]


def test_dicom_of_every_coding_and_broken_files(run, command, tmp_path):
    "Every file is a row, the broken ones with a reason and no number; inverted photometric is no inverted film"
    bad = dicom_folder(tmp_path/'films', 2*len(CODINGS) + 10, 10, 96, 80)
    out = tmp_path/'a.csv'
    code, text, err = command('refers-predict', run/'run', tmp_path/'films', '--out', out, '--workers', 2)
    assert code == 0 and 'not for clinical use' in text, err
    table = pd.read_csv(out, keep_default_na=False)
    assert len(table) == 2*len(CODINGS) + 10
    broken = table[table.rejected != '']
    assert [int(o.removesuffix('.dcm')[-5:]) for o in names(broken)] == bad and f'{len(bad)} with files that cannot' in text
    assert set(broken['probability:edema']) == set(broken['decision:edema']) == {''}
    good = table[table.rejected == '']
    p = good['probability:edema'].astype(float)
    assert p.between(0, 1).all() and ((p >= good['threshold:edema'].astype(float)) == (good['decision:edema'].astype(int) == 1)).all()


def test_the_coding_makes_no_difference(run, tmp_path):
    film = np.array(Image.fromarray(phantoms(1, size=64, seed=3).frontal[0]).resize((70, 80)))
    for i, coding in enumerate(CODINGS): draw(tmp_path/f'{i:02d}', film, coding, inverted=i % 2 == 1)
    Image.fromarray(film).save(tmp_path/'zz.png')
    table = predict(run/'run', tmp_path, **CPU)
    for o in FINDINGS: assert np.ptp(table[f'probability:{o}']) < .03, o


def test_answers_are_those_of_fine_tuning(run):
    "From the store, from the files, on the Learner, by study, with bs 1 and 64"
    from refers_nb.training.finetune import finetune_learner
    model = load_classifier(run/'run')
    columns = [f'probability:{o}' for o in FINDINGS]
    stored = predict(model, run/'data', **CPU).set_index('path')
    files = predict(model, run/'data'/'png', bs=1, **CPU)
    files = files.set_index(pd.Index([f'{o}' for o in names(files)]))
    assert np.allclose(files.loc[[os.path.basename(o) for o in stored.index], columns], stored[columns], atol=1e-5)
    said = pd.read_parquet(run/'run'/'predictions.parquet').pivot(index='image', columns='label', values='probability')
    assert np.allclose(Answerer(model, **CPU).points.calibrated(said[FINDINGS].to_numpy()), stored.loc[said.index, columns], atol=1e-5)
    learn = finetune_learner(run/'data', run/'run'/'model', findings=FINDINGS, **CPU)
    own = learn.predict_files(run/'data'/'png', precision='fp32')
    assert len(own) == len(files) and (own['threshold:edema'] == .5).all()         # a new head, without points
    df = read_studies(run/'data')
    by_study = predict(model, run/'data', by='study', **CPU).set_index('study')
    assert set(by_study.index) == set(df.study) and by_study['images'].sum() == (df['view'] != 'LATERAL').sum()


def test_a_study_is_the_mean_of_its_images(run, tmp_path):
    "Rows of one study stand together, even where the table mixes them; unreadable ones are told and left out"
    for i, film in enumerate(phantoms(4, size=48, seed=4).frontal): Image.fromarray(film).save(tmp_path/f'{i}.png')
    rows = [('0.png', 'b'), ('1.png', 'a'), ('2.png', 'b'), ('gone.png', 'a'), ('none.png', 'c'), ('3.png', '')]
    pd.DataFrame(rows, columns=['File', 'Exam']).to_csv(tmp_path/'list.csv', index=False)
    model = load_classifier(run/'run')
    a = predict(model, tmp_path/'list.csv', **CPU).set_index('path')
    b = predict(model, tmp_path/'list.csv', by='study', **CPU).set_index('study')
    assert list(a.index) == [o for o, _ in rows] and list(b.index) == ['b', 'a', 'c', '3.png']
    points = Answerer(model, **CPU).points
    col = [f'probability:{o}' for o in FINDINGS]
    raw = 1/(1 + np.exp(-(np.log(a[col]/(1 - a[col])) - points.intercept)/points.slope))
    expected = points.calibrated(raw.loc[['0.png', '2.png']].mean().to_numpy()[None])
    assert np.allclose(b.loc['b', col].astype(float), expected, atol=1e-3)
    assert b.loc['a', 'rejected'].startswith('1 of 2 images') and pd.notna(b.loc['a', col[0]])
    assert b.loc['c', 'rejected'].startswith('1 of 1 images') and pd.isna(b.loc['c', col[0]])
    assert b['images'].tolist() == [2, 2, 1, 1]


def test_parts_change_nothing(run, monkeypatch, tmp_path):
    "Neither the size of a part nor the number of processes; the rows keep the order of the files"
    dicom_folder(tmp_path/'films', 40, 4, 96, 80)
    model = load_classifier(run/'run')
    whole = predict(model, tmp_path/'films', **CPU)
    monkeypatch.setattr('refers_nb.predict.PART', 7)
    again = predict(model, tmp_path/'films', workers=2, bs=5, **CPU)
    assert whole['path'].tolist() == sorted(whole['path']) and again['rejected'].tolist() == whole['rejected'].tolist()
    p = [o for o in whole if o.startswith('probability')]
    assert np.allclose(whole[p].astype(float), again[p].astype(float), atol=1e-5, equal_nan=True)


def test_maps_show_what_speaks_for_the_likeliest_finding(run, command, tmp_path):
    data = run/'data'/'png'
    films = sorted(data.glob('*pa.png'))[:3]
    out = tmp_path/'a.parquet'
    code, text, err = command('refers-predict', run/'run', *films, '--out', out, '--maps', tmp_path/'maps', '--workers', 1)
    assert code == 0, err
    table = pd.read_parquet(out)
    assert sorted(table['map']) == sorted(o.name for o in (tmp_path/'maps').iterdir())
    with Image.open(tmp_path/'maps'/table['map'][0]) as im: assert im.format == 'PNG' and min(im.size) > 200
    model = load_classifier(run/'run')
    x = Answerer(model, **CPU).batch(torch.from_numpy(np.stack([np.array(Image.open(o)) for o in films]))[:, None])
    for i, j in enumerate([0, 2, 1]):
        one = looked_at(model, x, [j]*3)[i]
        assert torch.allclose(one, finding_attention(model, x, FINDINGS[j])[i], atol=1e-6)
    assert command('refers-predict', run/'run', *films, '--out', out, '--maps', tmp_path/'maps', '--workers', 1)[0] == 0
    (tmp_path/'maps'/'mine.txt').touch()
    refused('refers-predict', command('refers-predict', run/'run', *films, '--out', out, '--maps', tmp_path/'maps'), 'mine.txt')


def test_an_encoder_without_attention_says_so_before_anything_is_read(run, monkeypatch, command, tmp_path):
    def no_layer(vision): return iter(())
    kind = type(load_classifier(run/'run').vision.vit)
    monkeypatch.setattr(kind, 'modules', no_layer)
    result = command('refers-predict', run/'run', run/'data'/'png', '--out', tmp_path/'a.csv', '--maps', tmp_path/'maps')
    refused('refers-predict', result, 'no attention')
    assert not list(tmp_path.iterdir())


def test_old_checkpoints_answer_with_a_note(run, command, tmp_path):
    "Neither thresholds, nor a summary of films, nor how images were stored"
    model, _ = load_checkpoint(run/'run'/'model', Classifier)
    model.films = None
    save_checkpoint(model, None, tmp_path/'old')
    png = next((run/'data'/'png').glob('*.png'))
    code, text, err = command('refers-predict', tmp_path/'old', png, '--out', tmp_path/'a.csv', '--stored', 48, '--workers', 1)
    assert code == 0 and 'no thresholds: 0.5' in err and 'no summary of its films' in err, err
    table = pd.read_csv(tmp_path/'a.csv')
    assert set(table[[f'threshold:{o}' for o in FINDINGS]].iloc[0]) == {.5}


def test_mirror_images_are_looked_at_when_asked(run, tmp_path):
    from refers_nb.data.report import swap_sides
    model = load_classifier(run/'run')
    assert swap_sides('left effusion') not in FINDINGS
    with pytest.raises(InputError, match='mirror image of left effusion'): predict(model, run/'data'/'png', tta=True, **CPU)


def test_bad_input_is_one_line(run, command, tmp_path):
    png = next((run/'data'/'png').glob('*.png'))
    (tmp_path/'mine.csv').write_text('a,b\n')
    (tmp_path/'empty').mkdir()
    (tmp_path/'list.csv').write_text('path\n../../secret.png\n')
    (tmp_path/'words.csv').write_text('name\nx\n')
    torch.save({}, tmp_path/'m.pth')
    a, ok = run/'run', ('--out', tmp_path/'a.csv')
    bad = [((a, png), '--out FILE'), ((a, *ok), 'expected image files'),
           ((tmp_path/'gone', png, *ok), 'no checkpoint'), ((tmp_path/'m.pth', png, *ok), 'pickle'),
           ((run/'data', png, *ok), 'no'), ((a, tmp_path/'gone.png', *ok), 'no such file or folder'),
           ((a, tmp_path/'empty', *ok), 'no image in'), ((a, tmp_path/'list.csv', *ok), 'leads out of'),
           ((a, tmp_path/'words.csv', *ok), 'no column with file names'),
           ((a, png, '--out', tmp_path/'a.txt'), '.csv or .parquet'), ((a, png, '--out', tmp_path/'mine.csv'), 'no table of answers'),
           ((a, png, '--out', tmp_path), 'expected a file'), ((a, png, *ok, '--by', 'patient'), "'image' or 'study'"),
           ((a, png, *ok, '--by', 'study'), 'tells no studies'), ((a, png, *ok, '--maps', tmp_path/'mine.csv'), 'is a file'),
           ((a, png, *ok, '--bs', 0), 'bs is 0'), ((a, png, *ok, '--resize-mode', 'fold'), 'letterbox, crop or squash'),
           ((a, png, *ok, '--device', 'tpu'), 'device'), ((a, png, *ok, '--workers', -1), 'workers'),
           ((a, png, *ok, '--tta'), 'mirror image')]
    for args, word in bad: refused('refers-predict', command('refers-predict', *args), word)
    assert not (tmp_path/'a.csv').exists() and (tmp_path/'mine.csv').read_text() == 'a,b\n'


def test_damaged_checkpoints_are_refused_in_one_line(run, tmp_path):
    model, _ = load_checkpoint(run/'run'/'model', Classifier)
    where = save_checkpoint(model, None, tmp_path/'m', model.facts)
    config = json.loads((where/'config.json').read_text())
    for change in (dict(threshold=7), dict(slope=0), dict(slope='1'), dict(run='rm')):
        other = json.loads(json.dumps(config))
        other['training']['operating']['findings']['edema'] |= change
        (where/'config.json').write_text(json.dumps(other))
        with pytest.raises(InputError, match='operating.findings.edema'): load_classifier(where)
    (where/'config.json').write_text(json.dumps(config))
    films = load_file(where/'films.safetensors')
    wrong = [{k: v for k, v in films.items() if k != 'tones.mean'}, films | {'features.mean': torch.zeros(3)},
             films | {'tones.scale': -films['tones.scale']}, {'x': torch.zeros(2)}]
    for o in wrong:
        save_file(o, where/'films.safetensors')
        with pytest.raises(InputError, match='films.safetensors'): load_classifier(where)
    (where/'films.safetensors').write_bytes(b'no tensors')
    with pytest.raises(InputError, match='films.safetensors'): load_classifier(where)


def test_a_killed_run_leaves_no_half_table_and_starts_clean(run, command, tmp_path):
    "SIGKILL when some rows are written: no table, and what was half written is cleared by the next run"
    films = tmp_path/'films'
    films.mkdir()
    film = next((run/'data'/'png').glob('*.png'))
    for i in range(60): os.link(film, films/f'{i}.png')
    out = tmp_path/'answers'/'a.csv'
    args = 'refers-predict', run/'run', films, '--out', out, '--workers', 1
    pid = os.fork()
    if not pid:
        from refers_nb import predict as module
        ask = module.Answerer.ask
        def slow(self, step):
            time.sleep(.5)
            return ask(self, step)
        module.PART, module.Answerer.ask = 5, slow
        command(*args)
        os._exit(0)
    end = time.monotonic() + 60
    def written(): return sum(o.stat().st_size for o in out.parent.glob('.tmp-*'))
    while not written() and time.monotonic() < end: time.sleep(.05)
    os.kill(pid, signal.SIGKILL)
    assert os.WIFSIGNALED(os.waitpid(pid, 0)[1]), 'it had ended'
    assert not out.exists() and written()
    assert command(*args)[0] == 0
    assert [o.name for o in out.parent.iterdir()] == ['a.csv'] and len(pd.read_csv(out)) == 60


def odd_films(kind, n, size=96):
    "Images that are no frontal films"
    rng = np.random.default_rng(1)
    ph = phantoms(n*3, size=size, seed=31)
    if kind == 'films': return list(ph.frontal[:n])
    if kind == 'inverted': return list(255 - ph.frontal[:n])
    if kind == 'lateral': return list(ph.lateral[ph.has_lateral][:n])
    if kind == 'text':
        def page():
            im = Image.new('L', (size, int(size*1.4)), 250)
            for y in range(5, im.size[1] - 8, 10): ImageDraw.Draw(im).text((4, y), 'no acute disease, clear lungs', fill=10)
            return np.array(im)
        return [page() for _ in range(n)]
    f = np.hypot(*np.meshgrid(np.fft.fftfreq(size), np.fft.fftfreq(size))) + 1/size
    textures = [np.fft.ifft2(np.fft.fft2(rng.normal(size=(size, size)))/f**1.2).real for _ in range(n)]
    return [(120 + 50*o/o.std()).clip(0, 255).astype(np.uint8) for o in textures]


@pytest.mark.parametrize('kind,least,most', [('films', 0, .15), ('inverted', .9, 1), ('lateral', .5, 1), ('text', .9, 1), ('photograph', .9, 1)])
def test_unlike_films_are_noticed(run, tmp_path, kind, least, most):
    for i, o in enumerate(odd_films(kind, 40)): Image.fromarray(o).save(tmp_path/f'{i}.png')
    share = predict(run/'run', tmp_path, **CPU)['unlike'].ne('').mean()
    assert least <= share <= most, share


def test_memory_does_not_grow_with_the_films(run, monkeypatch, tmp_path):
    "What one part holds is gone when the next one comes: names of files apart, nothing is kept"
    import tracemalloc
    film = run/'data'/'png'/os.listdir(run/'data'/'png')[0]
    for i in range(600): os.link(film, tmp_path/f'{i:04d}.png')
    answerer = Answerer(load_classifier(run/'run'), **CPU)
    given = ask_about(answerer, tmp_path)
    monkeypatch.setattr('refers_nb.predict.PART', 50)
    held = []
    tracemalloc.start()
    try:
        for table in answers(answerer, given, workers=1): held.append(tracemalloc.get_traced_memory()[0])
    finally: tracemalloc.stop()
    assert len(held) == 12 and held[-1] < 1.2*held[2] + 2**20
