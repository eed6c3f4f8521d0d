"""Convolution of any form as one primitive, closed under differentiation, transposition and batching.

Note [Convolution as a trilinear form]
Axes have letters, as in einsum: `conv{x="nchw", w="ochw", out="nohw", window="hw"}`. A letter of both operands alone is
summed over, one of an operand and the result is free, one of all three is a batch axis (a group). The letters in
`window` stand in all three with extents of their own; along each, element q of x, k of w and p of the result meet where

    q * spread == p * stride + k * dilation - offset

and 0 <= q < the extent of x: outside there is padding by zeros. So `offset` is the padding in front, `spread` is what
others call the dilation of the input, and `extent` is the result's. The relation is symmetric in q, p and k up to
signs: the cotangents of x and w are the same sum over other letters, and are convolutions that exchange the roles of
the three arrays. Batching adds a letter.
"""

from __future__ import annotations

import itertools
import math

import numpy as np

from nufunc.ir.builder import Builder
from nufunc.ir.errors import DTypeError, ShapeError, VerifyError
from nufunc.ir.graph import Attrs, Value
from nufunc.ir.primitive import Primitive, register
from nufunc.ir.prims.kinds import (
    NUMBERS,
    Arrays,
    Batched,
    Dims,
    Maybe,
    Maybes,
    Regions,
    Types,
    Values,
    linear_transpose,
    need_count,
    need_dtype,
    summed_terms,
)
from nufunc.ir.types import ArrayType

NUMBERS_OF_WINDOW = ("stride", "dilation", "spread", "offset", "extent")  # one for each letter of `window`
LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"


def _infer(types: Types, attrs: Attrs, regions: Regions) -> tuple[ArrayType, ...]:
    need_count("conv", types, 2)
    x, w = types
    need_dtype("conv", x, NUMBERS)
    if x.dtype != w.dtype:
        raise DTypeError(f"conv: operands of different dtypes: {x}, {w}")
    _need_letters(types, attrs)
    window = attrs["window"]
    known = dict(zip(window, attrs["extent"], strict=True))
    for letters, type in zip((attrs["x"], attrs["w"]), types, strict=True):
        for letter, n in zip(letters, type.shape, strict=True):
            if letter not in window and known.setdefault(letter, n) != n:
                raise ShapeError(f"conv: axis {letter!r} has {known[letter]} and {n} elements: {x}, {w}")
    return (x.with_shape(tuple(known[letter] for letter in attrs["out"])),)


def _need_letters(types: Types, attrs: Attrs) -> None:
    names = [attrs["x"], attrs["w"], attrs["out"]]
    for letters, type in zip(names, types, strict=False):
        if len(letters) != type.ndim:
            raise ShapeError(f"conv: {type} has {type.ndim} axes, {letters!r} names {len(letters)}")
    for k, letters in enumerate(names):
        if len(set(letters)) != len(letters):
            raise ShapeError(f"conv: an axis is named twice in {letters!r}")
        others = [set(n) for j, n in enumerate(names) if j != k]
        if not set(letters) <= others[0] | others[1] or not set(attrs["window"]) <= set(letters):
            raise ShapeError(f"conv: letters {names} do not fit together, with window {attrs['window']!r}")
    for name in NUMBERS_OF_WINDOW:
        if len(attrs[name]) != len(attrs["window"]):
            raise VerifyError(f"conv: {name} {attrs[name]} does not fit the window {attrs['window']!r}")
    if any(n < 1 for n in attrs["spread"]) or 0 in (*attrs["stride"], *attrs["dilation"]):
        raise VerifyError("conv: spread is positive, stride and dilation are not zero")
    if any(n < 0 for n in attrs["extent"]):
        raise ShapeError(f"conv: the window {attrs['window']!r} does not fit into {types[0]}")


def conv_steps(types: Types, attrs: Attrs) -> int:
    """Products that are summed for one element of the result, those with padding included."""
    kernel = (types[1].shape[attrs["w"].index(n)] for n in attrs["window"])
    return math.prod(kernel) * math.prod(types[0].shape[k] for k, n in enumerate(attrs["x"]) if n not in attrs["out"])


def _evaluate(arrays: Arrays, attrs: Attrs, regions: Regions) -> list[np.ndarray]:
    """A sum over the elements of the kernel, or where these are fewer an element of the result at a time."""
    x, w = arrays
    window = attrs["window"]
    (type,) = _infer([ArrayType(a.shape, a.dtype) for a in arrays], attrs, regions)
    result = np.zeros(type.shape, type.dtype)
    kernel = [w.shape[attrs["w"].index(letter)] for letter in window]
    by_kernel = math.prod(kernel) <= math.prod(attrs["extent"])
    steps = kernel if by_kernel else attrs["extent"]
    fixed, kept = ("w", "out") if by_kernel else ("out", "w")
    names = {n: attrs[n] for n in ("x", "w", "out")}
    names[fixed] = "".join(letter for letter in names[fixed] if letter not in window)
    for place in itertools.product(*(range(n) for n in steps)):
        picks: dict[str, dict[str, np.ndarray | int]] = {"x": {}, "w": {}, "out": {}}
        for axis, letter in enumerate(window):
            q, other = _meetings(attrs, axis, x.shape[attrs["x"].index(letter)], kernel[axis], place[axis], by_kernel)
            picks["x"][letter], picks[kept][letter], picks[fixed][letter] = q, other, place[axis]
        with np.errstate(all="ignore"):
            part = np.einsum(
                _picked(x, attrs["x"], picks["x"]), [*map(_number, names["x"])],
                _picked(w, attrs["w"], picks["w"]), [*map(_number, names["w"])],
                [*map(_number, names["out"])], optimize=type.dtype.kind in "fc",
            )  # fmt: skip
            places = (picks["out"].get(n, np.arange(m)) for n, m in zip(attrs["out"], type.shape, strict=True))
            where = np.ix_(*map(np.atleast_1d, places))
            result[where] += part.reshape(result[where].shape)
    return [result]


def _number(letter: str) -> int:
    return LETTERS.index(letter)


def _meetings(
    attrs: Attrs, axis: int, n: int, kernel: int, place: int, by_kernel: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Along one axis, the elements of x that meet element `place` of the kernel, and those of the result (or, not
    `by_kernel`, the other way round)."""
    stride, dilation, spread, offset = (attrs[name][axis] for name in NUMBERS_OF_WINDOW[:4])
    along = np.arange(attrs["extent"][axis] if by_kernel else kernel)
    q = along * stride + place * dilation - offset if by_kernel else place * stride + along * dilation - offset
    met = (q % spread == 0) & (q >= 0) & (q < n * spread)
    return q[met] // spread, along[met]


def _picked(array: np.ndarray, letters: str, picks: dict[str, np.ndarray | int]) -> np.ndarray:
    for axis in range(len(letters) - 1, -1, -1):
        if letters[axis] in picks:
            array = array.take(picks[letters[axis]], axis=axis)
    return array


def _jvp(b: Builder, primals: Values, tangents: Maybes, results: Values, attrs: Attrs) -> list[Maybe]:
    (x, w), (tx, tw) = primals, tangents
    terms = [None if tx is None else b.conv(tx, w, **attrs), None if tw is None else b.conv(x, tw, **attrs)]
    return [summed_terms(b, terms)]


def _for_x(types: Types, attrs: Attrs) -> Attrs:
    """The convolution of the cotangent with w that gives that of x."""
    made: dict[str, list[int]] = {name: [] for name in NUMBERS_OF_WINDOW}
    for axis, letter in enumerate(attrs["window"]):
        stride, dilation, spread, offset = (attrs[name][axis] for name in NUMBERS_OF_WINDOW[:4])
        sign = 1 if stride > 0 else -1
        numbers = (sign * spread, -sign * dilation, sign * stride, -sign * offset)
        for name, number in zip(NUMBERS_OF_WINDOW, (*numbers, types[0].shape[attrs["x"].index(letter)]), strict=True):
            made[name].append(number)
    letters = {"x": attrs["out"], "w": attrs["w"], "out": attrs["x"], "window": attrs["window"]}
    return {**letters, **{name: tuple(numbers) for name, numbers in made.items()}}


def _for_w(types: Types, attrs: Attrs) -> Attrs:
    """The convolution of x with the cotangent that gives that of w."""
    kernel = tuple(types[1].shape[attrs["w"].index(letter)] for letter in attrs["window"])
    return {
        **attrs, "w": attrs["out"], "out": attrs["w"],
        "stride": attrs["dilation"], "dilation": attrs["stride"], "extent": kernel,
    }  # fmt: skip


def _transpose(b: Builder, ct: Value, operands: Maybes, types: Types, attrs: Attrs) -> list[Maybe]:
    x, w = operands
    return [
        None if w is None else b.conv(ct, w, **_for_x(types, attrs)),
        None if x is None else b.conv(x, ct, **_for_w(types, attrs)),
    ]


def _batch(b: Builder, size: int, operands: Values, dims: Dims, attrs: Attrs) -> Batched:
    taken = {*attrs["x"], *attrs["w"], *attrs["out"]}
    letter = next((n for n in LETTERS if n not in taken), None)
    if letter is None:
        raise VerifyError("conv: there are more axes than letters")
    names = {name: letter + attrs[name] for name, dim in zip("xw", dims, strict=True) if dim is not None}
    return [b.conv(*operands, **{**attrs, **names, "out": letter + attrs["out"]})], [0]


register(
    Primitive(
        "conv", "library", _infer, _evaluate, _jvp, linear_transpose(_transpose), _batch,
        attrs=("x", "w", "out", "window", *NUMBERS_OF_WINDOW),
    )
)  # fmt: skip
