"""Samples of indexing, of writes through views, and of operators."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy_sample_arrays import CUBE, F32, I8, ZERO_D, B, C, F, G, I, J, Sample, V, W, one


def indexing() -> Iterator[Sample]:
    keys: dict[str, Any] = {
        "1": 1, "-1": -1, "1, 2": (1, 2), "1:": slice(1, None), "::-1": slice(None, None, -1),
        "::2, 1": (slice(None, None, 2), 1),
        "..., 0": (Ellipsis, 0), "None": None, ":, None, 1:3": (slice(None), None, slice(1, 3)),
        "...": Ellipsis, "()": (),
        "5:1": slice(5, 1), "-2::-1, ::3": (slice(-2, None, -1), slice(None, None, 3)), "0, ...": (0,
        Ellipsis),
        "1, 2, ...": (1, 2, Ellipsis), "10:": slice(10, None), "3:0:-2": (slice(None), slice(3, 0, -2)),
    }  # fmt: skip
    for shown, key in keys.items():
        yield Sample(f"x[{shown}]", lambda np, x, key=key: x[key], (F,))
        yield Sample(f"x[{shown}] = y", lambda np, x, key=key: _set(x, key, 2.5), (F,))
        yield Sample(f"x[{shown}] += y", lambda np, x, key=key: _augment(x, key), (F,))
    fancy: dict[str, Callable[[Any], Any]] = {
        "[0, 2, 0]": lambda np: [0, 2, 0], "[[0, 1], [2, -1]]": lambda np: np.array([[0, 1], [2, -1]]),
        "[0, 1], [1, -1]": lambda np: ([0, 1], [1, -1]), ":, [1, 3]": lambda np: (slice(None), [1, 3]),
        "1, [0, 2]": lambda np: (1, [0, 2]), "[0, 2], 1": lambda np: ([0, 2], 1),
        "[[0], [2]], [1, 3]": lambda np: ([[0], [2]], [1, 3]),
        "[0, 2], 1:": lambda np: ([0, 2], slice(1, None)), "None, [0, 1]": lambda np: (None, [0, 1]),
        "[]": lambda np: [], "..., [1, 2]": lambda np: (Ellipsis, [1, 2]),
    }  # fmt: skip
    for shown, make in fancy.items():
        yield Sample(f"x[{shown}]", lambda np, x, make=make: x[make(np)], (F,))
        yield Sample(f"x[{shown}] = y", lambda np, x, make=make: _set(x, make(np), 2.5), (F,))
    cube: dict[str, Any] = {
        "[0, 1], :, [1, 2]": ([0, 1], slice(None), [1, 2]), ":, [0, 2], [1, 2]": (slice(None), [0, 2], [1,
        2]),
        "0, :, [1, 2]": (0, slice(None), [1, 2]), "0, [1, 2]": (0, [1, 2]), ":, 1, [1, 2]": (slice(None), 1,
        [1, 2]),
        "[0, 1], None, [1, 2]": ([0, 1], None, [1, 2]), ":, :, [[0, 1], [2, 3]]": (slice(None), slice(None),
        [[0, 1], [2, 3]]),
        "[0, 1], ..., 2": ([0, 1], Ellipsis, 2), "1:, [0, 2], ::2": (slice(1, None), [0, 2], slice(None,
        None, 2)),
    }  # fmt: skip
    for shown, key in cube.items():
        yield Sample(f"cube[{shown}]", lambda np, x, key=key: x[key], (CUBE,))
        yield Sample(
            f"cube[{shown}] = y",
            lambda np, x, key=key: _set(x, key, np.arange(x[key].size).reshape(x[key].shape)),
            (CUBE,),
        )
    i, k = np.array(2), np.array(-1)
    traced: dict[str, Callable[..., Any]] = {
        "i": lambda i, k: i, "i, 1": lambda i, k: (i, 1), "1, i": lambda i, k: (1, i), ":, i": lambda i,
        k: (slice(None), i),
        "i, k": lambda i, k: (i, k), "i, ...": lambda i, k: (i, Ellipsis), "i - 1": lambda i, k: i - 1,
        "i, 1:3": lambda i, k: (i, slice(1, 3)),
        "i - 1 : i + 1": lambda i, k: slice(i - 1, i + 1), "1, i - 1 : i + 1": lambda i, k: (1, slice(i - 1,
        i + 1)),
        "k, i - 2 : i": lambda i, k: (k, slice(i - 2, i)), "i, [0, 2]": lambda i, k: (i, [0, 2]),
        "i - 2 : i, k + 1 : k + 4": lambda i, k: (slice(i - 2, i), slice(k + 1, k + 4)),
    }  # fmt: skip
    for shown, make in traced.items():
        yield Sample(f"x[{shown}] traced", lambda np, x, i, k, make=make: x[make(i[()], k[()])], (F, i, k))
        yield Sample(
            f"x[{shown}] = y traced",
            lambda np, x, i, k, make=make: _set(x, make(i[()], k[()]), 2.5),
            (F, i, k),
        )
        yield Sample(
            f"x[{shown}] += y traced",
            lambda np, x, i, k, make=make: _augment(x, make(i[()], k[()])),
            (F, i, k),
        )
    yield Sample("row = x[i]; row[1:] *= 2", lambda np, x, i: _row(np, x, i[()]), (F, i))
    yield Sample("row = x[0-d array] is a copy", _row, (F, i))
    yield Sample("x[i], x[j] = x[j], x[i]", _swap_rows, (F, i, k))
    yield Sample(
        "x[index array traced]", lambda np, x, j: (x[j], x[:, j], x[j, j]), (F, np.array([0, -1, 2]))
    )
    yield Sample(
        "x[index array traced] = y",
        lambda np, x, j, v: _set(x, (slice(None), j), v),
        (F, np.array([0, -1, 2]), F[:, :3]),
    )
    yield Sample("x[mask traced] = y", lambda np, x: _set(x, x > 0, 0.0), (F,))
    yield Sample("x[rows traced] = y", lambda np, x, m: _set(x, m, np.arange(4.0)), (F, B[:, 0]))
    yield Sample("x[:, columns traced] = y", lambda np, x, m: _set(x, (slice(None), m), x[:, :1]), (F, B[0]))
    yield Sample("x[mask] += y traced", lambda np, x: _augment(x, x > 0), (F,))
    yield Sample("x[mask] = f(x[mask])", _masked_update, (F,))
    yield Sample(
        "x[mask].sum()", lambda np, x: (x[x > 0].sum(), x[x > 0].mean(), np.exp(x[x < 0]).max()), (F,)
    )
    yield Sample(
        "x[static mask]",
        lambda np, x: (x[np.array([True, False, True])], x[:, np.array([False, True, True, False])]),
        (F,),
    )
    yield Sample(
        "x[static mask] = y",
        lambda np, x: _set(x, np.array([True, False, True]), np.arange(8.0).reshape(2, 4)),
        (F,),
    )
    for axis in (0, 1, -1, None):
        yield from one("take", F, [0, 2, -1], axis=axis)
    yield from one("take", F, [[0, 1], [2, 2]], axis=0)
    yield from one("take", F, 1, axis=1)
    yield from one("take", F, [5, -9], mode="wrap")
    yield from one("take", F, [50, -9], mode="clip")
    yield Sample("take_along_axis", lambda np, x: np.take_along_axis(x, np.argsort(x, axis=1), axis=1), (F,))
    yield Sample("put_along_axis", _put_along, (F,))
    yield Sample("add.at", _add_at, (V, np.array([0, 1, 0, 3]), W))
    yield Sample("subtract.at", _subtract_at, (F, np.array([0, 2, 0])))
    yield Sample("flat", _flat, (F,))
    yield Sample("item assignment casts", lambda np, x: _set(x, 0, 2.7), (I,))
    yield Sample("views alias", _views_alias, (F,))
    yield Sample("transposed views alias", _transposed_views, (CUBE,))
    yield Sample("reshape of a transpose copies", _reshape_copies, (F,))
    yield Sample("fill", _fill, (F,))
    yield Sample("in place", _in_place, (F, G))
    yield Sample("in place of scalars rebinds", _rebinds, (F,))
    yield Sample("out=", _out, (F, G))
    yield Sample("where= and out=", _where_out, (F, B))
    yield Sample("copyto", _copyto, (F, B))
    yield Sample("real and imag set", _complex_parts, (C,))
    yield Sample("sort in place", _sort, (F,))
    yield Sample("contains", lambda np, x: np.where(np.any(x == 0.5), 1, 2), (F,))


def _set(x: Any, key: Any, value: Any) -> Any:
    x[key] = value
    return x


def _augment(x: Any, key: Any) -> Any:
    x[key] += 1.5
    x[key] *= 2
    return x


def _row(np: Any, x: Any, i: Any) -> Any:
    row = x[i]
    row[1:] *= 2
    x[:, 1] = 7
    return x, row + 0, row[1:] + 0


def _swap_rows(np: Any, x: Any, i: Any, k: Any) -> Any:
    held = x[i].copy()
    x[i] = x[0]
    x[0] = held
    return x


def _masked_update(np: Any, x: Any) -> Any:
    mask = x < 0
    x[mask] = np.exp(x[mask]) * 3
    return x


def _put_along(np: Any, x: Any) -> Any:
    np.put_along_axis(x, np.argmax(x, axis=1, keepdims=True), 99.0, axis=1)
    return x


def _add_at(np: Any, x: Any, i: Any, v: Any) -> Any:
    np.add.at(x, i, v)
    return x


def _subtract_at(np: Any, x: Any, i: Any) -> Any:
    np.subtract.at(x, (i, 1), 2.0)
    return x


def _flat(np: Any, x: Any) -> Any:
    first = x.flat[3]
    x.flat[1:3] = -1.0
    x.flat[-1] = first
    return x


def _views_alias(np: Any, x: Any) -> Any:
    a, b = x[1:], x.T
    c = x.reshape(-1)
    a[0, 0] = 5.0
    b[3] += 1.0
    c[::5] = 0.0
    x[:, 1] = -x[:, 1]
    return x, a + 0, b + 0, c + 0, x[::-1, ::2][1:]


def _transposed_views(np: Any, x: Any) -> Any:
    y = x.transpose(2, 0, 1)[1:3]
    y[:, 0] = 1.0
    z = np.moveaxis(x, 0, -1)
    z[0, 0, :] += 10
    np.squeeze(x[:1])[0] = 3.0
    x.swapaxes(0, 1)[2, 1] *= 2
    return x, y + 0


def _reshape_copies(np: Any, x: Any) -> Any:
    r = x.T.reshape(-1)
    r[0] = 100.0
    s = (x.T + 1).reshape(-1)
    s[0] = 50.0
    t = x[:, ::2].reshape(-1)
    t[1] = 70.0
    return x, r, s, t


def _fill(np: Any, x: Any) -> Any:
    x[1:].fill(3)
    return x


def _in_place(np: Any, x: Any, y: Any) -> Any:
    v = x[0]
    x += y
    x -= 1
    x *= y[:1]
    x /= 2
    x **= 2
    x //= 0.1
    x %= 3
    np.negative(x, out=x)
    return x, v + 0


def _rebinds(np: Any, x: Any) -> Any:
    total = x.sum()
    before = total
    total += 1
    element = x[0, 0]
    element *= 2
    zero_d = np.zeros(())
    alias = zero_d
    zero_d += 4
    return total, before, element, alias + 0, x


def _out(np: Any, x: Any, y: Any) -> Any:
    result = np.zeros((3, 4))
    np.add(x, y, out=result)
    np.multiply(result, 2, result)
    total = np.empty(4)
    returned = np.sum(x, axis=0, out=total)
    x.cumsum(axis=1, out=y)
    return result, total, returned + 0, y


def _where_out(np: Any, x: Any, m: Any) -> Any:
    result = np.full((3, 4), 9.0)
    np.sqrt(x, out=result, where=m)
    return result


def _copyto(np: Any, x: Any, m: Any) -> Any:
    np.copyto(x, 3.0, where=m)
    y = np.zeros_like(x)
    np.copyto(y, x[0])
    return x, y


def _complex_parts(np: Any, z: Any) -> Any:
    z.real = 1.0
    z.imag = z.imag * 2
    return z


def _sort(np: Any, x: Any) -> Any:
    x.sort(axis=0)
    return x


def operators() -> Iterator[Sample]:
    yield Sample(
        "arithmetic",
        lambda np, x, y: (x + y, x - 1, 2 * x, 1 / y, x // y, x % y, -x, +x, abs(x), x**2, 2.0**x),
        (F, G),
    )
    yield Sample(
        "logic",
        lambda np, x, y: (x < y, x >= 0, (x > 0) & (y > 0), ~(x > 0), (x > 0) | True, x == y, x != y),
        (F, G),
    )
    yield Sample(
        "ints",
        lambda np, x, y: (x & y, x | 1, x ^ y, x << 2, x >> 1, ~x, x**2, x / y, 7 // y, 7 % y, x * 1.5),
        (I, J),
    )
    yield Sample(
        "weak scalars",
        lambda np, x: (x + 1, x * 2.0, x / 2, 2 - x, x**2, x > 0.1, np.where(x > 0, x, 0)),
        (F32,),
    )
    yield Sample("weak into small ints", lambda np, x: (x + 1, x * 2, x - 3, x // 2, x * 2.0), (I8,))
    yield Sample(
        "strong scalars", lambda np, x: (x + np.float64(1), x * np.float32(2), x + np.int64(3)), (F32,)
    )
    yield Sample(
        "scalars", lambda np, x: (x[0, 0] + 1, x.sum() * 2, x[0, 0] ** 2, x[0, 0] > 0, abs(x[1, 1])), (F32,)
    )
    yield Sample("0-d", lambda np, x: (x + 1, np.sin(x), x.reshape(()), x[()], x.sum()), (ZERO_D,))
    yield Sample("divmod", lambda np, x, y: divmod(x, y), (I, J))
    yield Sample(
        "complex", lambda np, z: (z * 1j, abs(z), z.real, z.imag, z.conj(), z**2, z / 2, z == z), (C,)
    )
    yield Sample("lists", lambda np, x: (x + [1, 2, 3, 4], [1, 2, 3, 4] * x), (V,))
    yield Sample(
        "methods",
        lambda np, x: (
            x.sum(),
            x.mean(0),
            x.max(axis=1),
            x.argmax(),
            x.cumsum(),
            x.std(),
            x.clip(0, 1),
            x.round(1),
            x.dot(x.T),
            x.prod(),
            x.any(),
            x.all(1),
            x.ptp() if hasattr(x, "ptpx") else x.min(),
            x.repeat(2),
            x.take([0]),
            x.trace(),
            x.diagonal(),
            x.squeeze(),
            x.var(ddof=1),
        ),
        (F,),
    )
    yield Sample(
        "strided order", lambda np, x: ((x.T + 1).ravel(order="C"), np.exp(x.T).copy(), (x.T * x.T).T), (F,)
    )
