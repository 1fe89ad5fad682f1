"""AUROC intervals of 14 findings on 22,433 images: DeLong against a bootstrap with scikit-learn, as a ratio measured in one run.

Labels are as rare as in NIH ChestX-ray14, scores rounded to three digits as in the released predictions, so there are
ties. A 1,000-fold bootstrap through scikit-learn takes minutes; `--reps` of its draws are timed and the time is scaled
to 1,000. Our own bootstrap is timed whole. Intervals of all three are compared.

    python benchmarks/delong.py
    python benchmarks/delong.py --reps 1000     # nothing scaled
"""
import argparse, json, time
import numpy as np
from sklearn.metrics import roc_auc_score
from refers_nb.evaluation.statistics import auroc_table, bootstrap_auroc, bootstrap_interval


def timed(f, runs=1):
    "Median seconds of a call, and its last result"
    seconds = []
    for _ in range(runs):
        start = time.perf_counter()
        res = f()
        seconds.append(time.perf_counter() - start)
    return np.median(seconds), res


def drawn(rng, images, findings):
    "Labels, scores, and as many patients per image as in the test list of NIH"
    y = (rng.random((images, findings)) < np.geomspace(.003, .2, findings)).astype(float)
    p = (1/(1 + np.exp(2 - rng.normal(size=y.shape) - 1.2*y))).round(3)
    return y, p, np.sort(rng.integers(images*6187//22433, size=images))


def sklearn_draws(rng, y, p, reps):
    "A bootstrap by scikit-learn"
    for _ in range(reps):
        i = rng.integers(len(y), size=len(y))
        for j in range(y.shape[1]): roc_auc_score(y[i, j], p[i, j])


def main():
    a = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    a.add_argument('--images', type=int, default=22433)
    a.add_argument('--findings', type=int, default=14)
    a.add_argument('--reps', type=int, default=20, help='draws of scikit-learn that are timed')
    a.add_argument('--runs', type=int, default=5, help='timed runs of DeLong')
    a = a.parse_args()
    rng = np.random.default_rng(0)
    y, p, patients = drawn(rng, a.images, a.findings)
    table = auroc_table(y, p)                                                  # and warm up
    assert np.allclose(table['auroc'][:-1], [roc_auc_score(*o) for o in zip(y.T, p.T)])
    delong_s, _ = timed(lambda: auroc_table(y, p), a.runs)
    by_patient_s, _ = timed(lambda: auroc_table(y, p, patients), a.runs)
    sklearn_s = timed(lambda: sklearn_draws(rng, y, p, a.reps))[0]*1000/a.reps
    boot_s, draws = timed(lambda: bootstrap_auroc(y, p, reps=1000))
    off = np.abs(bootstrap_interval(draws) - table[['low', 'high']].to_numpy().T)
    print(json.dumps(dict(
        images=a.images, findings=a.findings,
        delong_s=delong_s, delong_by_patient_s=by_patient_s,
        timed_draws_of_sklearn=a.reps, sklearn_bootstrap_1000_s=sklearn_s, our_bootstrap_1000_s=boot_s,
        ratio=sklearn_s/delong_s, ratio_by_patient=sklearn_s/by_patient_s, ratio_of_bootstraps=sklearn_s/boot_s,
        ends_differ_at_most=off.max(), ends_differ_in_the_mean=off.mean()), indent=1))


if __name__ == '__main__': main()
