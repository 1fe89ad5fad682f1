"""Label efficiency of every start in one table: no pre-training, ImageNet, radiographs alone, labels from reports, reports.

    python benchmarks/baselines.py OUT                                         # phantoms, three fractions, five seeds
    python benchmarks/baselines.py OUT --reports DIR --sets a=DIR,b=DIR ...    # folders by refers-prep
    python benchmarks/baselines.py OUT --reports iu --sets iu=iu,nih=nih,covid=covid --folds nih,covid \\
        --findings nih=Pneumonia --steps iu=100/100/300,nih=100,covid=60 \\
        --imagenet WEIGHTS --start imagenet --size 160 --epochs 12 --seeds 4    # the real table of the results

All pre-trainings have the same encoder, the same start (`--start`), the same number of images seen and of steps, and the
default learning rates of this library; all fine-tunings the same steps. Two rows of one set differ in the start alone.
`--steps` and `--findings` may be given by set: `--steps iu=100/100/200,nih=100` (one number, or one per fraction),
`--findings nih=Pneumonia`. Sets in `--folds` are cut into `--parts` by patient; a seed tests one of them.
Goes on where it was stopped; OUT/results.csv holds a row per cell, OUT/tests.csv the tests against REFERS, OUT/report.md
both for people.
"""
import argparse, os, time, warnings
from pathlib import Path
warnings.filterwarnings('ignore')
import matplotlib
matplotlib.use('Agg')
from refers_nb.core import atomic
from refers_nb.data.sources.phantom import phantom_set
from refers_nb.data.studies import label_names, patient_folds, read_studies
from refers_nb.evaluation.compare import efficiency_tests
from refers_nb.evaluation.experiments import efficiency_table, label_efficiency, plot_label_efficiency
from refers_nb.evaluation.released import markdown_table
from refers_nb.runs import run_record
from refers_nb.training.baselines import BASELINES, baselines
from refers_nb.training.pretrain import PHANTOM_RECIPE

FRACTIONS = .01, .1, 1.
CROPS = dict(simclr=dict(scale=.3, light=.3, rotate=10.))     # without crops its task is trivial

def pairs(text):
    "{name: value} of `name=value,name=value`"
    return dict(o.split('=', 1) for o in text.split(',') if o)

def phantoms(a):
    "Reports and labels of phantoms, by PHANTOM_RECIPE"
    data = a.out/'data'
    phantom_set(data/'reports', 64, train=(4000, 1), valid=(200, 2))
    phantom_set(data/'labels', 64, train=(2000, 3), valid=(133, 4), test=(400, 5))
    labels = dict(table=data/'labels', steps=50, size=64, lr=3e-5, head_lr=1e-2, augment=False, evals=2)
    recipe = PHANTOM_RECIPE | dict(size=64, epochs=a.epochs or 5, changes=CROPS)
    return data/'reports', dict(phantoms=labels), recipe

def given(a, seeds):
    "Real sets"
    steps, findings = pairs(a.steps), pairs(a.findings)
    sets = {}
    for name, folder in pairs(a.sets).items():
        numbers = [int(o) for o in steps.get(name, '').split('/') if o]
        options = dict(table=folder, size=a.size, steps=numbers[0] if numbers else None)
        if len(numbers) > 1: options['steps'] = dict(zip(FRACTIONS, numbers))
        if name in findings: options['findings'] = findings[name].split('/')
        if name in a.folds.split(','):
            df = read_studies(folder)
            finding = options.get('findings', label_names(df))[0]
            options |= dict(table=patient_folds(df, finding, a.parts)[:len(seeds)], store=folder)
        sets[name] = options
    return a.reports, sets, dict(size=a.size, epochs=a.epochs or 8, drop_path=.1)

def arguments():
    "What the terminal says"
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('out', type=Path)
    p.add_argument('--reports')
    p.add_argument('--sets', default='')
    p.add_argument('--methods', default=','.join(BASELINES))
    p.add_argument('--imagenet', default='imagenet')
    p.add_argument('--start', default='random', choices=['random', 'imagenet'])
    p.add_argument('--size', type=int, default=128)
    p.add_argument('--epochs', type=int)
    p.add_argument('--seeds', type=int)
    p.add_argument('--jobs', type=int, default=os.cpu_count())
    p.add_argument('--folds', default='')
    p.add_argument('--parts', type=int, default=5)
    p.add_argument('--steps', default='')
    p.add_argument('--findings', default='')
    return p.parse_args()

def main():
    "Pre-train, fine-tune, test and write"
    a = arguments()
    seeds = range(a.seeds or (3 if a.sets else 5))
    begin = time.monotonic()
    with run_record(a.out, vars(a) | dict(out=str(a.out))):
        reports, sets, recipe = given(a, seeds) if a.sets else phantoms(a)
        starts = baselines(reports, a.out/'runs', a.methods.split(','), a.imagenet, a.start,
                           jobs=a.jobs, tensorboard=False, **recipe)
        half = time.monotonic()
        res = label_efficiency(sets, starts['start'].dropna().to_dict(), a.out, FRACTIONS, seeds, jobs=a.jobs)
        tests = efficiency_tests(a.out, 'refers')
    pretraining, finetuning = (half - begin)/60, (time.monotonic() - half)/60
    tables = starts.drop(columns='start'), efficiency_table(res), tests
    text = [markdown_table(o.reset_index()) for o in tables]
    text.append(f'Pre-training {pretraining:.1f} minutes, fine-tuning {finetuning:.1f}; '
                'what was found done on the disk is not counted.')
    text = '\n\n'.join(text)
    with atomic(a.out/'tests.csv') as f: tests.to_csv(f, index=False)
    with atomic(a.out/'report.md') as f: f.write_text(text + '\n')
    figure = plot_label_efficiency(res).figure
    with atomic(a.out/'label_efficiency.png') as f: figure.savefig(f, dpi=110, format='png')
    print(text)

if __name__ == '__main__': main()
