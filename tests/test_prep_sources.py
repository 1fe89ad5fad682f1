"`refers-prep` for the sets that others report on: cards with their terms, rejects, options as text, one line on bad input"
import pandas as pd
import pytest
from source_trees import chex, mont, outlines, pad, pneumonia

SETS = dict(
    chexpert=(chex, 'uncertain=positive,blank=negative', 'Stanford'), rsna=(pneumonia, 'classes=yes', 'Shih'),
    siim=(outlines, 'least=0.001', 'Kaggle'), padchest=(pad, 'findings=cardiomegaly|rib fracture,pediatric=no', 'Bustos'),
    montgomery=(mont, '', 'Jaeger'))

@pytest.mark.parametrize('source', SETS)
def test_prepared_from_a_terminal(call, tmp_path, source):
    make, options, terms = SETS[source]
    raw, out = make(tmp_path/'raw'), tmp_path/'out'
    images = [o for o in sorted(raw.rglob('*')) if o.suffix in ('.jpg', '.dcm', '.png') and 'Mask' not in str(o)]
    bad = images[1]
    bad.write_bytes(bad.read_bytes()[:60])
    code, shown, err = call('refers-prep', source, raw, out, '--size', 32, '--max-rejected', .2, '--workers', 1,
                            *(['--options', options] if options else []))
    assert code in (0, None), err
    assert f'# {source}' in shown and terms in shown and 'could not be read' in shown
    rejected = pd.read_csv(out/'rejected.csv')
    assert rejected['path'].tolist() == [bad.relative_to(raw).as_posix()] and (out/'studies.parquet').exists()

@pytest.mark.parametrize('source, options, words', [
    ('chexpert', 'official=dev', 'expected test or valid'), ('chexpert', 'rule=any', "no option 'rule'"),
    ('rsna', 'classes=perhaps', 'option classes'), ('siim', 'least=much', 'option least'), ('siim', 'share=1', 'give lists'),
    ('padchest', 'findings=nothing', 'no image has the label'), ('montgomery', 'lists=x', "no option 'lists'")])
def test_bad_options_are_one_line(call, tmp_path, source, options, words):
    raw = SETS[source][0](tmp_path/'raw')
    code, _, err = call('refers-prep', source, raw, tmp_path/'out', '--options', options)
    assert code not in (0, None) and words in err and len(err.strip().splitlines()) == 1
    assert not (tmp_path/'out'/'studies.parquet').exists()
