"""Run as a program: functions of `__main__`, transformed, in workers of every kind. Prints ok if all went well."""

import concurrent.futures
import multiprocessing
import subprocess
import sys

import numpy as np

import nufunc as nf

SCALE = 3.0


@nf.jit
def scaled(x):
    return np.sin(x) * SCALE


@nf.grad
def slope(x):
    return np.sum(helper(x))


def helper(x):
    return x**2 * SCALE


def loaded(x):
    """The result in a worker, and how many compilations it took from the cache."""
    return scaled(x).sum(), nf.cache_info().loaded


WORKER = """
import pickle, sys
f, x = pickle.load(sys.stdin.buffer)
print(f(x).tolist())
"""


def main() -> None:
    rows = [np.linspace(0.0, 1.0, 5) + k for k in range(4)]
    want = [scaled(x) for x in rows]
    slopes = [slope(x) for x in rows]
    for method in ("spawn", "fork"):
        context = multiprocessing.get_context(method)
        with context.Pool(1) as pool:
            for f, expected in ((scaled, want), (slope, slopes), (nf.vmap(scaled), want)):
                np.testing.assert_array_equal(pool.map(f, rows), expected)
        with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
            (_, count), *_ = pool.map(loaded, rows)
            assert count >= (method == "spawn"), (method, count)
    try:
        import cloudpickle
    except ImportError:
        pass
    else:  # as Dask, Ray and joblib do: the worker does not know this program
        for f, expected in ((scaled, want), (slope, slopes)):
            done = subprocess.run(
                [sys.executable, "-c", WORKER], input=cloudpickle.dumps((f, rows[0])), capture_output=True, check=True
            )
            np.testing.assert_allclose(eval(done.stdout), expected[0], rtol=1e-15)
    try:
        import joblib
    except ImportError:
        pass
    else:
        made = joblib.Parallel(n_jobs=2)(joblib.delayed(f)(rows[0]) for f in (scaled, slope, nf.jit(helper)))
        for result, expected in zip(made, (want[0], slopes[0], rows[0] ** 2 * SCALE), strict=True):
            np.testing.assert_allclose(result, expected, rtol=1e-15)
    print("ok")


if __name__ == "__main__":
    main()
