"Predictions of several methods, drawn; in the layout of the release, and as `finetune` writes them"
import numpy as np, pandas as pd

METHODS = dict(REFERS=2., C2L=1.4, ImageNet=.8)


def simulated(n=120, findings=('Effusion', 'Edema'), seed=0, methods=METHODS):
    "Labels (n, c), and scores of each method"
    rng = np.random.default_rng(seed)
    y = (rng.random((n, len(findings))) < .3).astype(float)
    y[:2], y[2:4] = 1, 0
    common = rng.normal(size=y.shape)
    scores = {}
    for method, gain in methods.items():
        logit = common + .5*rng.normal(size=y.shape) + gain*y - 1.5
        scores[method] = (1/(1 + np.exp(-logit))).round(3)
    return y, scores


def write(folder, y, scores, findings=('Effusion', 'Edema'), line='{:.1f}\t{:.3f}\n'):
    "One folder per method, one file per finding"
    for method, s in scores.items():
        (folder/method).mkdir(parents=True, exist_ok=True)
        for j, finding in enumerate(findings):
            text = ''.join(line.format(a, b) for a, b in zip(y[:, j], s[:, j]))
            (folder/method/f'{finding}.txt').write_text(text)
    return folder


def long_table(y, p, patients=None, findings=('Effusion', 'Edema'), **columns):
    "Predictions as `finetune` writes them; two images per patient unless `patients` says otherwise"
    n, c = y.shape
    patients = np.arange(n)//2 if patients is None else patients
    return pd.DataFrame(dict(
        image=np.repeat([f'i{o}.png' for o in range(n)], c),
        patient=np.repeat([f'p{o}' for o in patients], c),
        label=list(findings)*n,
        target=y.ravel(),
        probability=p.ravel(),
        split='test',
    ) | columns)
