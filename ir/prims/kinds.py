"""Defaults by kind: the checks, evaluations and rules that most primitives of a kind share.

Note [Complex pairing]: rules are bilinear, nothing is conjugated. A cotangent ct and a tangent t of one value
pair as Re(sum(ct * t)). Under this pairing the transpose of a C-linear map is its plain transpose, and the
maps between real and complex have these: real: ct -> complex(ct, 0); imag: ct -> complex(0, -ct);
conj: ct -> conj(ct); complex(re, im): ct -> (real(ct), -imag(ct)); real to complex: ct -> real(ct). The
conjugations that a user's convention asks for happen once, at the boundary of grad and vjp.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from nufunc.ir.builder import Builder
from nufunc.ir.errors import DTypeError, ShapeError, VerifyError
from nufunc.ir.graph import Attrs, Graph, Value
from nufunc.ir.primitive import Batch, Jvp, Primitive, Transpose, register
from nufunc.ir.types import BOOL, ArrayType, kind_of, real_dtype

Types = Sequence[ArrayType]
Regions = Sequence[Graph]
Arrays = Sequence[np.ndarray]
Values = Sequence[Value]
Maybe = Value | None  # None: a symbolic zero
Maybes = Sequence[Maybe]
Dims = Sequence[int | None]
Batched = tuple[Values, Dims]

BOOLS, INTS, FLOATS, COMPLEXES = "b", "iu", "f", "c"
ANY = BOOLS + INTS + FLOATS + COMPLEXES
NUMBERS = INTS + FLOATS + COMPLEXES
REALS = INTS + FLOATS
INEXACT = FLOATS + COMPLEXES
_WORDS = ((BOOLS, "bool"), (INTS, "integer"), (FLOATS, "float"), (COMPLEXES, "complex"))


# -- checks


def shown(types: Types) -> str:
    """Types for an error message: `f64[3], f64[4]`."""
    return ", ".join(str(t) for t in types)


def need_count(prim: str, types: Types, count: int) -> None:
    if len(types) != count:
        raise VerifyError(f"{prim} takes {count} operands, not {len(types)}: {shown(types)}")


def need_dtype(prim: str, type: ArrayType, kinds: str) -> None:
    if kind_of(type.dtype) not in kinds:
        words = ", ".join(word for codes, word in _WORDS if codes in kinds)
        raise DTypeError(f"{prim} does not accept {type}; it accepts {words}")


def need_same(prim: str, types: Types) -> None:
    """All operands have one shape and one dtype."""
    if types.count(types[0]) == len(types):  # compares by identity first, and most types are one object
        return
    need_same_shape(prim, types)
    if any(t.dtype != types[0].dtype for t in types):
        raise DTypeError(f"{prim}: operands of different dtypes: {shown(types)}")


def need_same_shape(prim: str, types: Types) -> None:
    if any(t.shape != types[0].shape for t in types):
        raise ShapeError(f"{prim}: operands of different shapes: {shown(types)}")


def need_axis(prim: str, axis: int, type: ArrayType) -> None:
    if not 0 <= axis < type.ndim:
        raise ShapeError(f"{prim}: there is no axis {axis} in {type}, which has {type.ndim} axes")


def need_axes(prim: str, axes: Sequence[int], type: ArrayType) -> None:
    """Axes that exist, in increasing order."""
    for axis in axes:
        need_axis(prim, axis, type)
    if list(axes) != sorted(set(axes)):
        raise ShapeError(f"{prim}: axes {tuple(axes)} of {type} must be increasing and each named once")


def need_lengths(prim: str, type: ArrayType, **lists: Sequence[Any]) -> None:
    """One entry per axis in each of the attributes."""
    for name, entries in lists.items():
        if len(entries) != type.ndim:
            raise ShapeError(f"{prim}: {name}={tuple(entries)} needs one entry per axis of {type}")


# -- evaluation


def exact(out: Any, dtype: np.dtype) -> np.ndarray:
    """A result of NumPy as an array of exactly this dtype (0-d results of ufuncs are scalars)."""
    return np.asarray(out).astype(dtype, copy=False)


def fresh(out: Any) -> np.ndarray:
    """A copy in C order: results of pure primitives never alias operands, which a trace may write to."""
    return np.array(out, order="C")


# -- small things that rules use


def axis_index(b: Builder, shape: Sequence[int], axis: int) -> Value:
    """The i64 index along an axis."""
    return b.iota(shape=tuple(shape), dtype=np.dtype(np.int64), axis=axis)


def summed_terms(b: Builder, terms: Maybes) -> Maybe:
    total: Maybe = None
    for term in terms:
        total = b.added(total, term)
    return total


def instantiated(b: Builder, tangents: Maybes, primals: Values) -> list[Value]:
    """Tangents with symbolic zeros made into arrays."""
    return [b.zeros(x.type) if t is None else t for t, x in zip(tangents, primals)]


def batched(b: Builder, size: int, x: Value, dim: int | None) -> Value:
    """`x` with a leading batch axis, repeated where it has none."""
    if dim is not None:
        return x
    return b.broadcast(x, shape=(size, *x.shape), dims=tuple(range(1, x.ndim + 1)))


def shifted(axes: Sequence[int]) -> tuple[int, ...]:
    """Axes behind a new leading batch axis."""
    return tuple(a + 1 for a in axes)


# -- rules by kind


def linear_jvp(name: str, linear: int | None = None) -> Jvp:
    """The jvp of a primitive linear in its first `linear` operands (default: all): itself on tangents."""

    def jvp(b: Builder, primals: Values, tangents: Maybes, results: Values, attrs: Attrs) -> Maybes:
        count = len(primals) if linear is None else linear
        if all(t is None for t in tangents[:count]):
            return [None] * len(results)
        return b.emit(name, [*instantiated(b, tangents[:count], primals), *primals[count:]], attrs)

    return jvp


def linear_transpose(rule: Callable[..., Maybes]) -> Transpose:
    """A transpose for one result, from `rule(b, ct, operands, types, attrs)`; zero stays zero."""

    def transpose(b: Builder, cotangents: Maybes, operands: Maybes, types: Types, attrs: Attrs) -> Maybes:
        (ct,) = cotangents
        if ct is None:
            return [None] * len(types)
        given = rule(b, ct, operands, types, attrs)
        return [g if o is None else None for g, o in zip(given, operands, strict=True)]

    return transpose


def batch_all(name: str) -> Batch:
    """Batching for primitives that do not look at leading axes: all operands get the batch axis."""

    def batch(b: Builder, size: int, operands: Values, dims: Dims, attrs: Attrs) -> Batched:
        results = b.emit(name, [batched(b, size, x, d) for x, d in zip(operands, dims)], attrs)
        return results, [0] * len(results)

    return batch


def batch_shifted(name: str, shift: Callable[[int, Attrs], dict[str, Any]]) -> Batch:
    """Batching where attributes name axes or shapes: `shift(size, attrs)` are those with the new axis."""

    def batch(b: Builder, size: int, operands: Values, dims: Dims, attrs: Attrs) -> Batched:
        values = [batched(b, size, x, d) for x, d in zip(operands, dims)]
        results = b.emit(name, values, {**attrs, **shift(size, attrs)})
        return results, [0] * len(results)

    return batch


# -- elementwise


def _result_dtype(result: str, dtype: np.dtype) -> np.dtype:
    if result == "bool":
        return BOOL
    return real_dtype(dtype) if result == "real" else dtype


def elementwise(
    name: str,
    function: Callable[..., Any],
    kinds: str,
    arity: int,
    *,
    result: str = "same",
    jvp: Jvp | None = None,
    transpose: Transpose | None = None,
    differentiable: bool = True,
    commutative: bool = False,
    cheap: bool = False,
) -> Primitive:
    """A primitive on operands of one type, evaluated by a function; result: "same", "bool" or "real"."""

    def infer(types: Types, attrs: Attrs, regions: Regions) -> tuple[ArrayType, ...]:
        need_count(name, types, arity)
        need_dtype(name, types[0], kinds)
        need_same(name, types)
        return (
            (types[0],) if result == "same" else (types[0].with_dtype(_result_dtype(result, types[0].dtype)),)
        )

    def evaluate(arrays: Arrays, attrs: Attrs, regions: Regions) -> list[np.ndarray]:
        with np.errstate(all="ignore"):
            return [exact(function(*arrays), _result_dtype(result, arrays[0].dtype))]

    return register(
        Primitive(
            name, "elementwise", infer, evaluate, jvp, transpose, batch_all(name),
            differentiable=differentiable, commutative=commutative, cheap=cheap,
        )
    )  # fmt: skip


def unary(
    name: str,
    function: Callable[..., Any],
    kinds: str = INEXACT,
    *,
    jvp: Callable[..., Maybe] | None = None,
    transpose: Callable[..., Value] | None = None,
    **options: Any,
) -> Primitive:
    """Elementwise with one operand; `jvp(b, t, x, y)` gets tangent, operand, result; `transpose(b, ct)`."""

    def full_jvp(b: Builder, primals: Values, tangents: Maybes, results: Values, attrs: Attrs) -> Maybes:
        (t,), (x,), (y,) = tangents, primals, results
        return [None if t is None else jvp(b, t, x, y)]  # type: ignore[misc]

    rule = (
        None
        if transpose is None
        else linear_transpose(lambda b, ct, operands, types, attrs: [transpose(b, ct)])
    )
    return elementwise(name, function, kinds, 1, jvp=full_jvp if jvp else None, transpose=rule, **options)


def binary(
    name: str,
    function: Callable[..., Any],
    kinds: str,
    *,
    jvp: tuple[Callable[..., Maybe] | None, Callable[..., Maybe] | None] | None = None,
    transpose: Callable[..., Maybes] | None = None,
    **options: Any,
) -> Primitive:
    """Elementwise with two operands; `jvp` holds, for each of them, `(b, t, x, y, result)` -> its share."""

    def full_jvp(b: Builder, primals: Values, tangents: Maybes, results: Values, attrs: Attrs) -> Maybes:
        x, y = primals
        terms = [
            None if t is None or share is None else share(b, t, x, y, results[0])
            for t, share in zip(tangents, jvp, strict=True)  # type: ignore[arg-type]
        ]
        return [summed_terms(b, terms)]

    rule = None if transpose is None else linear_transpose(transpose)
    return elementwise(name, function, kinds, 2, jvp=full_jvp if jvp else None, transpose=rule, **options)
