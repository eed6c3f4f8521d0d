"""What NumPy does to arrays in place and nufunc does not: refused with words that say what to do instead."""

import numpy as np
import pytest

import nufunc as nf
from nufunc.ir.errors import NufuncError

REFUSED = {
    "x.shape = 12": (NotImplementedError, "made outside of the function: use x = x.reshape"),
    "v = x.T; v.shape = -1": (ValueError, "Incompatible shape for in-place modification"),
    "v = np.zeros(3); v.shape = (2, 2)": (ValueError, "cannot reshape array of size 3"),
    "v = x * 1; v.resize((2, 6))": (NotImplementedError, "use np.resize"),
    "v = x * 1; v.dtype = np.int64": (NotImplementedError, r"use x.view\(dtype\)"),
    "v = x * 1; v.strides = (8, 24)": (NotImplementedError, "use slices and transpose"),
    "np.lib.stride_tricks.as_strided(y, (3, 2), (8, 8))": (NotImplementedError, "sliding_window_view"),
    "x.setflags(write=False)": (NotImplementedError, "broadcast_to"),
    "x.byteswap(inplace=True)": (NotImplementedError, "byte order"),
    "x.getfield(np.float32)": (NotImplementedError, r"x.view\(dtype\)"),
    "x.setfield(1.0, np.float32)": (NotImplementedError, r"x.view\(dtype\)"),
    "np.nditer(x, op_flags=['readwrite'])": (NotImplementedError, "np.ndindex"),
    "x.sort(axis=None)": (TypeError, "NoneType"),
    "x.partition(1, axis=None)": (TypeError, "NoneType"),
    "np.modf.at(y, [0])": (ValueError, "Only single output ufuncs"),
    "np.add.at(y, [0])": (ValueError, "second operand needed"),
    "np.sin.at(y, [0], 1.0)": (ValueError, "ufunc is unary"),
    "np.broadcast_to(y, (3, 4))[0] = 1": (ValueError, "read-only"),
    "np.diagonal(x)[0] = 1": (ValueError, "read-only"),
    "x.T.view(np.float32)": (ValueError, "the last axis must be contiguous"),
    "x[:, :3].view(complex)": (ValueError, "must be a divisor of the total size in bytes"),
    "np.array(y[0]).view(np.int32)": (ValueError, "only supported if the itemsize is unchanged"),
    "x.view('S8')": (TypeError, "dtype .S8 is not supported"),
}


@pytest.mark.parametrize("code", REFUSED)
def test_refused(code):
    space = {"np": np}
    exec(f"def f(x, y):\n    {code}\n    return x\n", space)
    kind, words = REFUSED[code]
    x, y = np.arange(12.0).reshape(3, 4), np.arange(4.0)
    with pytest.raises(kind, match=words) as caught:
        nf.jit(space["f"])(x, y)
    assert isinstance(caught.value, NufuncError) or kind is TypeError
    np.testing.assert_array_equal(x, np.arange(12.0).reshape(3, 4))


def test_an_array_that_changes_its_shape_keeps_its_views():
    def f(x):
        v = x * 2
        rows = [v[0], v.T[1:]]
        v.shape = (2, 6)
        rows[0] += 1
        v[1, :2] = 7
        return v, *rows

    x = np.arange(12.0).reshape(3, 4)
    for found, expected in zip(nf.jit(f)(x), f(x), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_views_as_other_numbers_are_differentiated_where_they_can_be():
    def f(x):
        z = x.view(complex)
        z *= 1j
        v = z.view(float)
        v[::2] *= 3
        return np.sum(v**2 * np.arange(1.0, 5.0)) + np.sum(np.abs(z) ** 2)

    x = np.array([1.0, 2, 3, 4])
    found = nf.grad(lambda x: f(x.copy()))(x)
    h = 1e-6
    expected = [(f(x + h * e) - f(x - h * e)) / (2 * h) for e in np.eye(4)]
    np.testing.assert_allclose(found, expected, rtol=1e-7)


def test_bytes_that_are_written_leave_the_derivative_of_the_others():
    def f(x):
        w = x * x
        w.view(np.uint8)[0] ^= 1
        w.view(np.int32)[3] ^= 2**20
        return np.sum(w * np.arange(1.0, 4.0))

    x = np.array([1.0, 2.0, 3.0])
    np.testing.assert_allclose(nf.grad(f)(x), [0.0, 0.0, 18.0])
