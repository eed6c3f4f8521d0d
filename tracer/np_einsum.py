"""einsum and tensordot: equations read here, contracted pairwise with the primitive `dot`, smallest result
first.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from nufunc.ir.errors import DTypeError, ShapeError, UnsupportedError
from nufunc.ir.graph import Value
from nufunc.ir.types import BOOL
from nufunc.tracer.array import Array, check_dtype
from nufunc.tracer.np_core import as_array, builder, fail, finish, normal_axis, out_of, result_dtype, value_of
from nufunc.tracer.np_views import einsum_view

Labels = tuple[str, ...]
Term = tuple[Value, Labels]

_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"


def einsum(
    *operands: Any,
    out: Any = None,
    dtype: Any = None,
    order: str = "K",
    casting: str = "safe",
    optimize: Any = False,
) -> Array:
    """numpy.einsum of any equation, in either of its two notations."""
    if isinstance(operands[0], str):
        equation, arrays = operands[0], [as_array(x) for x in operands[1:]]
    else:
        equation, arrays = _interleaved(operands)
    inputs, output = parse_equation(equation, [x.ndim for x in arrays])
    target = out_of(out)
    outputs = [] if target is None else [as_array(target).dtype]  # NumPy computes in what fits the result too
    kind = result_dtype(*[x.dtype for x in arrays], *outputs) if dtype is None else check_dtype(dtype)
    if len(arrays) == 1 and out_of(out) is None and kind == arrays[0].dtype:
        shown = einsum_view(arrays[0], inputs[0], output)
        if shown is not None:
            return shown
    b = builder()
    terms = [_diagonal_labels(b.astype(value_of(x), kind), labels) for x, labels in zip(arrays, inputs)]
    extents = _extents(terms)
    terms = [_without_units(term, extents) for term in terms]
    value, labels = _contract_all(terms, set(output), _steps(operands, arrays, optimize))
    missing = [label for label in output if label not in labels]
    if missing:
        raise fail(
            ShapeError,
            f"einstein sum subscripts string included output subscript {missing[0]!r} which never appeared "
            "in an input",
        )
    value = b.transposed(value, [labels.index(label) for label in output])
    return finish(value, out, "einsum")


def einsum_path(*operands: Any, optimize: Any = "greedy", einsum_call: bool = False) -> Any:
    """NumPy's, on operands of these shapes: a path depends on nothing else."""
    shaped: Any = [np.broadcast_to(np.zeros(()), x.shape) if type(x) is Array else x for x in operands]
    return np.einsum_path(*shaped, optimize=optimize)


def _interleaved(operands: tuple[Any, ...]) -> tuple[str, list[Array]]:
    """einsum(x, [0, 1], y, [1, 2], [0, 2]) as an equation."""
    names = _LETTERS

    def letters(labels: Any) -> str:
        for label in labels:
            if label is not Ellipsis and not isinstance(label, (int, np.integer)):
                raise fail(DTypeError, "each subscript must be either an integer or an ellipsis")
            if label is not Ellipsis and not 0 <= label < len(names):
                raise fail(ShapeError, f"subscript is not within the valid range [0, {len(names)})")
        return "".join("..." if label is Ellipsis else names[int(label)] for label in labels)

    pairs = len(operands) // 2
    arrays = [as_array(x) for x in operands[: 2 * pairs : 2]]
    equation = ",".join(letters(labels) for labels in operands[1 : 2 * pairs : 2])
    if len(operands) % 2:
        equation += "->" + letters(operands[-1])
    return equation, arrays


def parse_equation(equation: str, ndims: list[int]) -> tuple[list[Labels], Labels]:
    """Labels of each operand and of the result; the axes of an ellipsis are labelled from the right: '.0',
    '.1', ...
    """
    text = equation.replace(" ", "")
    left, arrow, right = text.partition("->")
    subscripts = left.split(",")
    if len(subscripts) != len(ndims):
        raise fail(
            ShapeError,
            f"einsum equation {equation!r} has {len(subscripts)} operands, but {len(ndims)} were given",
        )
    inputs = [_labels(part, ndim, equation) for part, ndim in zip(subscripts, ndims)]
    seen = [label for labels in inputs for label in labels]
    dots = sorted({label for label in seen if label[0] == "."}, key=lambda label: -int(label[1:]))
    if arrow:
        before, ellipsis, after = right.partition("...")
        output = (*before, *(dots if ellipsis else ()), *after)
        wrong = [c for c in output if c not in seen]
        if wrong:
            raise fail(
                ShapeError,
                f"einstein sum subscripts string included output subscript {wrong[0]!r} which never "
                "appeared in an input",
            )
        if dots and not ellipsis:
            raise fail(
                ShapeError,
                "output had too few broadcast dimensions: the equation lacks an ellipsis in the output",
            )
        if len(set(output)) != len(output):
            raise fail(ShapeError, "einstein sum subscripts string includes output subscript multiple times")
    else:
        output = (*dots, *sorted(c for c in set(seen) if c[0] != "." and seen.count(c) == 1))
    return inputs, tuple(output)


def _labels(part: str, ndim: int, equation: str) -> Labels:
    before, ellipsis, after = part.partition("...")
    named = before + after
    if not all(c in _LETTERS for c in named):
        raise fail(
            ShapeError, f"invalid subscript in einsum equation {equation!r}: subscripts must be letters"
        )
    rest = ndim - len(named)
    if rest < 0 or (rest and not ellipsis):
        raise fail(
            ShapeError,
            f"einstein sum subscripts {part!r} do not fit an operand of {ndim} dimensions in equation "
            f"{equation!r}",
        )
    return (*before, *(f".{i}" for i in reversed(range(rest))), *after)


def _diagonal_labels(value: Value, labels: Labels) -> Term:
    """An operand without repeated labels: its diagonal."""
    b = builder()
    names = list(labels)
    while len(set(names)) != len(names):
        label = next(c for c in names if names.count(c) > 1)
        i = names.index(label)
        j = names.index(label, i + 1)
        n = value.shape[i]
        if value.shape[j] != n:
            raise fail(
                ShapeError,
                f"dimensions in operand for collapsing index {label!r} don't match ({n} != {value.shape[j]})",
            )
        rest = [k for k in range(value.ndim) if k not in (i, j)]
        value = b.transposed(value, (*rest, i, j))
        lead = value.shape[:-2]
        value = b.reshape(value, shape=(*lead, n * n))
        value = b.slice(value, start=(0,) * value.ndim, stop=value.shape, step=(*(1,) * len(lead), n + 1))
        names = [names[k] for k in rest] + [label]
    return value, tuple(names)


def _extents(terms: list[Term]) -> dict[str, int]:
    extents: dict[str, int] = {}
    for value, labels in terms:
        for label, n in zip(labels, value.shape):
            known = extents.get(label, 1)
            if n != 1 and known not in (1, n):
                raise fail(
                    ShapeError,
                    f"operands could not be broadcast together: label {label!r} has extents {known} and {n}",
                )
            extents[label] = n if known == 1 else known
    return extents


def _without_units(term: Term, extents: dict[str, int]) -> Term:
    """Axes of extent one that broadcast against longer ones are dropped."""
    value, labels = term
    kept = [i for i, label in enumerate(labels) if not (value.shape[i] == 1 and extents[label] != 1)]
    return builder().reshaped(value, [value.shape[i] for i in kept]), tuple(labels[i] for i in kept)


def _steps(operands: tuple[Any, ...], arrays: list[Array], optimize: Any) -> list[tuple[int, ...]]:
    """The contractions that `optimize` asks NumPy for; none where it leaves them to us."""
    unlike = len({x.dtype for x in arrays}) > 1 and any(x.dtype.kind in "biu" for x in arrays)
    if optimize is not False and len(arrays) > 2 and unlike:  # NumPy adds them up in the dtype of each pair
        message = "np.einsum with optimize= of whole numbers or bools among others; convert them to one dtype"
        raise fail(UnsupportedError, message)
    if isinstance(optimize, (bool, type(None))) or len(arrays) < 3:
        return []
    shapes = iter(np.broadcast_to(np.zeros(()), x.shape) for x in arrays)
    lists = not isinstance(operands[0], str)
    given: Any = [next(shapes) if (k % 2 == 0 and k < 2 * len(arrays) if lists else k) else x
                  for k, x in enumerate(operands)]  # fmt: skip
    return list(np.einsum_path(*given, optimize=optimize)[0][1:])


def _contract_all(terms: list[Term], output: set[str], steps: Sequence[tuple[int, ...]] = ()) -> Term:
    terms = list(terms)
    for step in steps:
        chosen = [terms.pop(k) for k in sorted(step, reverse=True)][::-1]
        needed = output.union(*[labels for _, labels in terms])
        terms.append(_contract_all(chosen, needed))
    while len(terms) > 1:
        if len(terms) == 2:
            i, j = 0, 1
        else:
            i, j = min(
                itertools.combinations(range(len(terms)), 2), key=lambda pair: _cost(terms, pair, output)
            )
        y, x = terms.pop(j), terms.pop(i)
        needed = output.union(*[labels for _, labels in terms])
        terms.insert(i, contract_pair(x, y, needed))
    return _summed(terms[0], output)


def _cost(terms: list[Term], pair: tuple[int, int], output: set[str]) -> tuple[int, int]:
    """The size of the result less the sizes of the operands, then the work."""
    i, j = pair
    needed = output.union(*[labels for k, (_, labels) in enumerate(terms) if k not in pair])
    extents = {label: n for value, labels in (terms[i], terms[j]) for label, n in zip(labels, value.shape)}
    result = math.prod(n for label, n in extents.items() if label in needed)
    operands = math.prod(terms[i][0].shape) + math.prod(terms[j][0].shape)
    return result - operands, math.prod(extents.values())


def _summed(term: Term, needed: set[str]) -> Term:
    """Labels that nothing else needs are summed away."""
    value, labels = term
    axes = tuple(i for i, label in enumerate(labels) if label not in needed)
    if not axes:
        return term
    b = builder()
    reduced = b.emit("reduce_or" if value.dtype == BOOL else "reduce_sum", (value,), {"axes": axes})[0]
    return reduced, tuple(label for label in labels if label in needed)


def contract_pair(x: Term, y: Term, needed: set[str]) -> Term:
    """The product of two operands, summed over the labels that nothing else needs."""
    x = _summed(x, needed | set(y[1]))
    y = _summed(y, needed | set(x[1]))
    shared = [label for label in x[1] if label in y[1]]
    batch = [label for label in shared if label in needed]
    contract = [label for label in shared if label not in needed]
    free = [[label for label in labels if label not in shared] for labels in (x[1], y[1])]
    labels = (*batch, *free[0], *free[1])
    b = builder()
    if not contract:
        shape = tuple(dict(zip(x[1] + y[1], x[0].shape + y[0].shape))[label] for label in labels)
        return b.mul(*[_spread(term, labels, shape) for term in (x, y)]), labels
    pairs = [
        tuple(tuple(term[1].index(label) for label in chosen) for term in (x, y))
        for chosen in (contract, batch)
    ]
    return dot_values(x[0], y[0], pairs[0], pairs[1]), labels


def _spread(term: Term, labels: Labels, shape: tuple[int, ...]) -> Value:
    """An operand transposed and broadcast to the axes `labels`."""
    value, own = term
    b = builder()
    order = sorted(range(len(own)), key=lambda i: labels.index(own[i]))
    value = b.transposed(value, order)
    dims = tuple(labels.index(own[i]) for i in order)
    return value if value.shape == shape else b.broadcast(value, shape=shape, dims=dims)


def dot_values(x: Value, y: Value, contract: Any, batch: Any = ((), ())) -> Value:
    """The primitive dot; bool products are sums of ands."""
    b = builder()
    if x.dtype == BOOL:
        wide = [b.astype(v, np.dtype(np.float32)) for v in (x, y)]  # sums of ones never become zero
        return b.astype(b.dot(*wide, contract=contract, batch=batch), BOOL)
    return b.dot(x, y, contract=contract, batch=batch)


def tensordot(a: Any, b: Any, axes: Any = 2) -> Array:
    x, y = as_array(a), as_array(b)
    if isinstance(axes, (int, np.integer)):
        count = int(axes)
        pairs: tuple[Any, Any] = (range(x.ndim - count, x.ndim), range(count))
    else:
        first, second = axes
        pairs = (
            first if isinstance(first, (list, tuple)) else (first,),
            second if isinstance(second, (list, tuple)) else (second,),
        )
    left = tuple(normal_axis(i, x.ndim) for i in pairs[0])
    right = tuple(normal_axis(i, y.ndim) for i in pairs[1])
    if len(left) != len(right) or any(x.shape[i] != y.shape[j] for i, j in zip(left, right)):
        raise fail(
            ShapeError, f"shape-mismatch for sum: shapes {x.shape} and {y.shape} over axes {left} and {right}"
        )
    labels = [f"x{i}" for i in range(x.ndim)], [f"y{j}" for j in range(y.ndim)]
    for i, j in zip(left, right):
        labels[1][j] = labels[0][i]
    kind = result_dtype(x.dtype, y.dtype)
    bld = builder()
    terms = [(bld.astype(value_of(v), kind), tuple(names)) for v, names in zip((x, y), labels)]
    contracted = {labels[0][i] for i in left}
    needed = (set(labels[0]) | set(labels[1])) - contracted
    value, _ = contract_pair(terms[0], terms[1], needed)
    return finish(value, None, "tensordot", scalar=False)
