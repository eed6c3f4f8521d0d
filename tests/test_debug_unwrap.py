"""nf.debug_unwrap: a description of a traced value, and without compilation its numbers."""

import os
import subprocess
import sys

import numpy as np
import pytest

import nufunc as nf

X = np.arange(6.0).reshape(2, 3)


def test_an_array_is_itself() -> None:
    for value in (X, 2.5, [1, 2]):
        assert nf.debug_unwrap(value) is value


def test_the_description_names_type_levels_and_line(capsys) -> None:
    def f(x):
        y = x * 2
        whole, inner = nf.debug_unwrap(y), nf.debug_unwrap(y, recurse=False)
        print(whole.shape, whole.dtype, whole.type, whole.levels, inner.levels, whole.location.file == __file__)
        return np.sum(y)

    nf.vmap(nf.grad(f))(X)
    assert capsys.readouterr().out == "(3,) float64 f64[3] ('grad', 'vmap(size=2)') ('grad',) True\n"


def test_the_description_is_read_only() -> None:
    def f(x):
        nf.debug_unwrap(x).levels = ()
        return x

    with pytest.raises(AttributeError):
        nf.jit(f)(X)


NUMBERS = """
import numpy as np, nufunc as nf
X = np.arange(6.0).reshape(2, 3)

def f(x, w):
    x = x.copy()
    x[0] += w
    shown = nf.debug_unwrap(x)
    print(shown.tolist(), nf.debug_unwrap(x[1:]).tolist(), shown.flags.writeable)
    return np.sum(x ** 2)

assert nf.jit(f)(X[0], 5.0) == 30.0
nf.vmap(nf.grad(f), in_dims=(1, None))(X[:, :2], 5.0)

def loop(x):
    def body(i, c):
        print(type(nf.debug_unwrap(c)).__name__)
        return c + x[i]
    return nf.fori_loop(0, 2, body, 0.0)

nf.jit(loop)(X[0])
"""
SHOWN = """[5.0, 1.0, 2.0] [1.0, 2.0] False
[[5.0, 3.0], [6.0, 4.0]] [[3.0], [4.0]] False
TracedValue
"""


def test_without_compilation_the_numbers_show() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", NUMBERS],
        capture_output=True, text=True, timeout=120, env={**os.environ, "NUFUNC_NOJIT": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == SHOWN
