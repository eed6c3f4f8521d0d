"""The memory of large results: whose it is, that it comes back, and that nothing outlives it."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator

import numpy as np
import pytest

import nufunc as nf
from nufunc.codegen import result_pool
from nufunc.codegen.callspec import POOLED_RESULT

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="there is no pool")

COUNT = POOLED_RESULT // 8


@pytest.fixture(autouse=True)
def empty_pool() -> Iterator[None]:
    before = nf.set_result_cache(0)
    nf.set_result_cache(result_pool.LIMIT)
    yield
    nf.set_result_cache(0)
    nf.set_result_cache(before)


def doubled() -> object:
    return nf.jit(lambda x: x * 2.0)


def place(array: np.ndarray) -> int:
    return int(array.__array_interface__["data"][0])


def test_results_own_their_memory_and_are_aligned() -> None:
    x = np.arange(float(COUNT))
    y = doubled()(x)
    assert y.base is None
    assert y.flags.owndata
    assert y.flags.carray
    assert place(y) % 64 == 0
    np.testing.assert_array_equal(y, x * 2)
    small = doubled()(x[:10])
    assert small.flags.owndata
    assert result_pool.kept() == 0


@pytest.mark.parametrize("count", [COUNT, 3 * COUNT + 17, 10 * COUNT])
def test_a_dead_result_is_used_again(count: int) -> None:
    f, x = doubled(), np.arange(float(count))
    y = f(x)
    where = place(y)
    assert result_pool.kept() == 0
    del y
    assert result_pool.kept() >= x.nbytes
    y = f(x + 1.0)
    assert place(y) == where
    assert result_pool.kept() == 0
    view = y[::2]
    del y  # the view keeps it
    assert result_pool.kept() == 0
    z = f(x)
    assert place(z) != where
    np.testing.assert_array_equal(view, (x + 1.0)[::2] * 2)
    np.testing.assert_array_equal(z, x * 2)


def test_what_is_kept_is_bounded() -> None:
    f, x = doubled(), np.arange(float(COUNT))
    many = [f(x) for _ in range(2 * result_pool.SLOTS)]
    del many
    assert x.nbytes * result_pool.SLOTS <= result_pool.kept() <= 1.2 * x.nbytes * result_pool.SLOTS
    assert nf.set_result_cache(3 * x.nbytes + 3 * 4096) == result_pool.LIMIT
    assert 2 * x.nbytes <= result_pool.kept() <= 3 * x.nbytes + 3 * 4096
    large = np.zeros(4 * COUNT)
    f(large)  # more than the limit: not kept
    assert result_pool.kept() <= 3 * x.nbytes + 3 * 4096
    assert nf.set_result_cache(0) == 3 * x.nbytes + 3 * 4096
    assert result_pool.kept() == 0
    f(x)
    assert result_pool.kept() == 0


def test_resizing_and_reshaping() -> None:
    x = np.arange(float(COUNT))
    y = doubled()(x)
    y.resize((3, COUNT))
    np.testing.assert_array_equal(y[0], x * 2)
    assert not y[1:].any()
    assert y.flags.owndata
    y.resize((5,))
    np.testing.assert_array_equal(y, x[:5] * 2)
    y.resize((COUNT + 1,))
    np.testing.assert_array_equal(y[:5], x[:5] * 2)
    y.dtype = np.float32
    y.shape = (2, COUNT + 1)
    del y
    assert result_pool.kept() > 0


def test_other_arrays_are_numpys_own() -> None:
    get_handler_name = pytest.importorskip("numpy._core.multiarray").get_handler_name
    y = doubled()(np.zeros(COUNT))
    assert get_handler_name(y) == "nufunc"
    assert get_handler_name(np.zeros(COUNT)) == get_handler_name() == "default_allocator"


def test_results_of_failed_calls_come_back() -> None:
    def inverse(a: np.ndarray) -> np.ndarray:
        return np.linalg.inv(a)

    f, n = nf.jit(inverse), 400
    with pytest.raises(np.linalg.LinAlgError):
        f(np.zeros((n, n)))
    assert result_pool.kept() >= n * n * 8


def test_threads_share_the_pool() -> None:
    f, x = doubled(), np.arange(float(COUNT))
    wrong: list[float] = []

    def work(shift: float) -> None:
        for _ in range(50):
            y = f(x + shift)
            if not np.array_equal(y, (x + shift) * 2):
                wrong.append(shift)

    workers = [threading.Thread(target=work, args=(float(k),)) for k in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


@pytest.mark.parametrize("wrong", [-1, 1 << 62])
def test_wrong_limits(wrong: int) -> None:
    with pytest.raises(nf.ArgumentError, match="max_bytes is between"):
        nf.set_result_cache(wrong)
    with pytest.raises(TypeError, match="max_bytes is an integer"):
        nf.set_result_cache(1.5)  # type: ignore[arg-type]


PROGRAM = """
import os, sys
import numpy as np
import nufunc as nf
f = nf.jit(lambda x: x + 1.0)
x = np.zeros(400_000)
y = f(x)
del f
nf.clear_cache()
f = nf.jit(lambda x: x + 2.0)
f(x)                                   # kept
child = os.fork()
if child == 0:
    z = f(x)
    good = (z == 2).all() and (y == 1).all()
    del z
    os._exit(0 if good and (f(x) == 2).all() else 1)
assert os.waitpid(child, 0)[1] == 0
z = f(x)
assert (z == 2).all() and (y == 1).all()
sys.kept_to_the_end = [y, z]           # freed after the modules
print("done")
"""


def test_forks_and_results_that_outlive_everything() -> None:
    found = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=120)
    assert (found.returncode, found.stdout, found.stderr) == (0, "done\n", "")
