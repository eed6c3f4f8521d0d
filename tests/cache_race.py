"""Run as a program: processes that race for one cache and are killed at random moments. Prints ok if all went well."""

import os
import random
import signal
import sys
import time

import numpy as np

import nufunc as nf
from nufunc.runtime import stored
from nufunc.runtime.disk_cache import DISK

PROCESSES = 8
PROGRAMS = {
    "sine": (lambda x: np.sin(x) * 2, lambda x: np.sin(x) * 2),
    "gradient": (nf.grad(lambda x: np.sum(x**3)), lambda x: 3 * x**2),
    "cumulative": (lambda x: np.cumsum(x), np.cumsum),
    "product": (lambda x: np.outer(x, x) @ x, lambda x: np.outer(x, x) @ x),
}


def work(seed: int) -> None:
    """Compile or load the programs in some order, and look at the results."""
    nf.clear_cache()
    names = list(PROGRAMS)
    random.Random(seed).shuffle(names)
    for name in names:
        mine, theirs = PROGRAMS[name]
        x = np.linspace(0.1, 1.0, 5 + seed % 3)
        np.testing.assert_allclose(nf.jit(mine)(x), theirs(x), rtol=1e-13)


def child(seed: int) -> int:
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work(seed)
            status = 0
        finally:
            os._exit(status)
    return pid


def main() -> None:
    work(0)  # Numba is imported here, once
    DISK.clear()
    rng = random.Random(5)
    loaded = 0
    for turn in range(4):
        pids = [child(PROCESSES * turn + k) for k in range(PROCESSES)]
        victims = set(rng.sample(pids, PROCESSES // 2)) if turn < 3 else set()
        for pid in victims:
            time.sleep(rng.uniform(0, 0.1))
            os.kill(pid, signal.SIGKILL)
        for pid in pids:
            _, status = os.waitpid(pid, 0)
            assert pid in victims or status == 0, status
        if turn == 1:  # what lies there is damaged while they read it
            for file in DISK.entries()[::2]:
                path = os.path.join(os.environ["NUFUNC_CACHE_DIR"], file.key + ".nufunc")
                os.truncate(path, file.size // 2)
    damaged = [s for s in DISK.entries(check=True) if s.problem]
    assert not damaged, damaged
    nf.clear_cache()
    before = nf.cache_info().loaded
    work(0)
    loaded = nf.cache_info().loaded - before
    assert loaded == len(PROGRAMS), loaded
    print("ok")


if __name__ == "__main__":
    import warnings

    warnings.simplefilter("ignore", nf.CacheWarning)  # of the damaged files
    stored._edited = stored._hashed_edited = lambda: False  # what is edited meanwhile is not asked here
    sys.exit(main())
