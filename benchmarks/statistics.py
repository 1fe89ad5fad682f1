"""AUROC intervals of 14 findings on 22,433 images: DeLong against a bootstrap with scikit-learn, as a ratio measured in one run.

Labels are as rare as in NIH ChestX-ray14, scores rounded to three digits as in the released predictions, so there are ties. A 1,000-fold bootstrap through scikit-learn
takes minutes; `--reps` of its draws are timed and the time is scaled to 1,000. Our own bootstrap is timed whole. Intervals of all three are compared.

    python benchmarks/statistics.py
    python benchmarks/statistics.py --reps 1000     # nothing scaled
"""
import argparse, json, sys, time
from pathlib import Path
sys.path[:] = [o for o in sys.path if Path(o).resolve()!=Path(__file__).resolve().parent]   # or this file would stand for Python's own `statistics`

def timed(f):
    start = time.perf_counter(); res = f()
    return time.perf_counter()-start, res

def main():
    import numpy as np
    from sklearn.metrics import roc_auc_score
    from refers_nb.training.metrics import auroc
    from refers_nb.evaluation.statistics import auroc_table, bootstrap_auroc, bootstrap_interval
    a = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    a.add_argument('--images', type=int, default=22433); a.add_argument('--findings', type=int, default=14)
    a.add_argument('--reps', type=int, default=20, help='draws of scikit-learn that are timed'); a.add_argument('--runs', type=int, default=5, help='timed runs of DeLong')
    a = a.parse_args()
    rng = np.random.default_rng(0)
    y = (rng.random((a.images, a.findings)) < np.geomspace(.003, .2, a.findings)).astype(float)
    p = (1/(1+np.exp(2-rng.normal(size=y.shape)-1.2*y))).round(3)
    patients = np.sort(rng.integers(a.images*6187//22433, size=a.images))     # as many patients an image as in the NIH test list
    def with_sklearn():
        for _ in range(a.reps):
            i = rng.integers(a.images, size=a.images)
            for j in range(a.findings): roc_auc_score(y[i, j], p[i, j])
    table = auroc_table(y, p)                                                  # and warm up
    assert np.allclose(table.auroc[:-1], [roc_auc_score(*o) for o in zip(y.T, p.T)])
    delong_s,by_patient_s = (np.median([timed(lambda: auroc_table(y, p, o))[0] for _ in range(a.runs)]) for o in (None, patients))
    sklearn_s = timed(with_sklearn)[0]*1000/a.reps
    boot_s,draws = timed(lambda: bootstrap_auroc(y, p, reps=1000))
    off = np.abs(bootstrap_interval(draws)-table[['low', 'high']].to_numpy().T)
    print(json.dumps(dict(images=a.images, findings=a.findings, delong_s=delong_s, delong_by_patient_s=by_patient_s, timed_draws_of_sklearn=a.reps, sklearn_bootstrap_1000_s=sklearn_s,
        our_bootstrap_1000_s=boot_s, ratio=sklearn_s/delong_s, ratio_by_patient=sklearn_s/by_patient_s, ratio_of_bootstraps=sklearn_s/boot_s, ends_differ_at_most=off.max(), ends_differ_in_the_mean=off.mean()), indent=1))

if __name__=='__main__': main()
else:                                                                          # a script of this folder asked for Python's own
    del sys.modules[__name__]
    import statistics
