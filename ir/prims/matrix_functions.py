"""Functions of matrices as composites: matfun (exp, log, sqrt) and its Fréchet derivative.

Note [Functions of matrices]: the derivative of f at a along e is the upper right block of f([[a, e], [0, a]]) (Mathias,
"A chain rule for matrix functions and applications", 1996); `frechet` is that block, linear in e. Its transpose is the
same at the transpose of a, and its own derivative follows from the same identity for the larger matrix, so that
two primitives are closed under differentiation of any order.

exp: Padé approximants with scaling and squaring (Al-Mohy and Higham, "A new scaling and squaring algorithm for the
matrix exponential", 2009). sqrt: on the Schur form, column by column (Björck and Hammarling, "A Schur method for the
square root of a matrix", 1983). log: square roots until the Schur form is near the identity, then the Padé approximant
as partial fractions (Higham, "Functions of Matrices", 2008, chapter 11). A root or logarithm of a real matrix is real
or an error; of a singular matrix that has none it is NaN.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from nufunc.ir.builder import Builder
from nufunc.ir.graph import Attrs, Value
from nufunc.ir.prims.composite import composite, loop
from nufunc.ir.prims.kinds import (
    Maybe,
    Maybes,
    Regions,
    Types,
    Values,
    axis_index,
    linear_transpose,
    need_count,
    need_same,
)
from nufunc.ir.prims.library import matmul
from nufunc.ir.prims.matrices import (
    adjoint,
    block,
    diagonal,
    eye,
    need_square,
    part,
    rows_and_columns,
    swapped,
)
from nufunc.ir.types import BOOL, FLOAT64, INT64, ArrayType, is_complex, real_dtype

_HALVINGS = 100  # square roots that a logarithm takes at most
_NEAR = 0.25  # from the identity, where the approximant of degree _NODES is exact to rounding
_NODES = 7


# -- exp


def _per_matrix(b: Builder, v: Value, a: Value) -> Value:
    """A number per matrix, in all its entries."""
    return b.broadcast(v, shape=a.shape, dims=tuple(range(a.ndim - 2)))


def _one_norm(b: Builder, a: Value) -> Value:
    return b.reduce_max(b.reduce_sum(b.abs(a), axes=(a.ndim - 2,)), axes=(a.ndim - 2,))


def _combined(b: Builder, terms: list[tuple[float, Value]]) -> Value:
    total: Value | None = None
    for factor, x in terms:
        total = b.added(total, b.mul(x, b.like(x, factor)))
    assert total is not None
    return total


def _exp(b: Builder, a: Value) -> Value:
    single = real_dtype(a.dtype).itemsize == 4
    degree, reach = (7, 3.925724783138660) if single else (13, 4.25)
    norm = b.astype(_one_norm(b, a), FLOAT64)
    steps = b.ceil(b.log2(b.div(norm, b.like(norm, reach))))
    wanted = b.bit_and(b.gt(steps, b.like(steps, 0)), b.isfinite(steps))
    steps = b.select(wanted, steps, b.zeros(steps.type))
    scale = b.astype(b.exp2(b.neg(steps)), a.dtype)
    power = _pade(b, b.mul(a, _per_matrix(b, scale, a)), degree)
    most = b.reduce_max(steps, axes=tuple(range(steps.ndim))) if steps.ndim else steps

    def square(inner: Builder, values: Values) -> Values:
        _, count, step, x = values
        more = inner.lt(inner.broadcast_to(step, count.shape), count)
        squared = inner.select(_per_matrix(inner, more, x), matmul(inner, x, x), x)
        return [inner.add(step, inner.like(step, 1)), squared]

    start = b.scalar(0.0, FLOAT64)
    return loop(b, "squaring", lambda c, v: c.lt(v[2], v[0]), square, [most, steps], [start, power])[1]


def _pade(b: Builder, a: Value, degree: int) -> Value:
    """The approximant of exp of this degree, numerator and denominator from even and odd powers."""
    c = [float(math.factorial(2 * degree - j) // math.factorial(degree - j) // math.factorial(j)) for j in range(14)
         if j <= degree]  # fmt: skip
    one = eye(b, a.type)
    two = matmul(b, a, a)
    four = matmul(b, two, two)
    six = matmul(b, two, four)
    odd = _combined(b, [(c[7], six), (c[5], four), (c[3], two), (c[1], one)])
    even = _combined(b, [(c[6], six), (c[4], four), (c[2], two), (c[0], one)])
    if degree == 13:
        odd = b.add(matmul(b, six, _combined(b, [(c[13], six), (c[11], four), (c[9], two)])), odd)
        even = b.add(matmul(b, six, _combined(b, [(c[12], six), (c[10], four), (c[8], two)])), even)
    odd = matmul(b, a, odd)
    return b.solve(b.sub(even, odd), b.add(even, odd))


# -- sqrt and log, on the Schur form


def _triangular_root(b: Builder, t: Value) -> Value:
    """The square root of each upper triangular matrix: per column j, (r + r_jj) x = t_j above the diagonal. Columns
    stand along the first axis meanwhile."""
    n = t.shape[-1]
    roots = b.sqrt(diagonal(b, t))
    least = _threshold(b, b.abs(t))
    columns = b.moved(t, t.ndim - 1, 0)
    body = Builder("column")
    params = [body.param(v.type) for v in (roots, least, columns, roots)]
    params.append(body.param(ArrayType((), INT64)))
    region = body.build([_root_column(body, params)])
    numbers = b.iota(shape=(n,), dtype=INT64, axis=0)
    attrs = {"length": n, "reverse": False, "num_consts": 2, "num_carry": 1}
    made = b.emit("scan", (roots, least, b.zeros(columns.type), columns, numbers), attrs, (region,))[0]
    return b.moved(made, 0, t.ndim - 1)


def _threshold(b: Builder, size: Value) -> Value:
    """What counts as nothing beside the entries of a matrix."""
    most = b.reduce_max(size, axes=(size.ndim - 2, size.ndim - 1))
    return b.mul(most, b.like(most, 1e3 * float(np.finfo(size.dtype).eps)))


def _root_column(b: Builder, params: Values) -> Value:
    """The root with its j-th column, from (roots of the diagonal, threshold, the columns before it, column of t, j)."""
    roots, least, done, column, j = params
    here = axis_index(b, column.shape, column.ndim - 1)
    number = b.broadcast_to(j, column.shape)
    above, on = b.lt(here, number), b.eq(here, number)
    own = b.reduce_sum(b.select(on, roots, b.zeros(roots.type)), axes=(roots.ndim - 1,))
    own = b.broadcast(own, shape=roots.shape, dims=tuple(range(roots.ndim - 1)))
    pivots = b.select(above, b.add(roots, own), b.like(roots, 1))
    none = b.eq(pivots, b.zeros(pivots.type))
    side = b.select(above, column, b.zeros(column.type))
    x = _substituted(b, b.select(none, b.like(pivots, 1), pivots), done, side)
    over = b.gt(b.abs(x), b.broadcast(least, shape=x.shape, dims=tuple(range(x.ndim - 1))))
    x = b.select(b.bit_and(none, over), b.like(x, float("nan")), x)
    made = b.select(above, x, b.select(on, roots, b.zeros(roots.type)))
    rest = [b.scalar(0, INT64)] * column.ndim
    return b.dynamic_update(done, b.reshaped(made, (1, *made.shape)), j, *rest)


def _substituted(b: Builder, pivots: Value, columns: Value, side: Value) -> Value:
    """The solution for upper triangles with these columns, the first axis, and these pivots: from the last row on."""
    n, rest = side.shape[-1], side.shape[:-1]
    c = Builder("row")
    divisors, left, column, i = (c.param(t) for t in (pivots.type, side.type, side.type, ArrayType((), INT64)))
    zero = c.scalar(0, INT64)
    part_ = lambda v: c.dynamic_slice(v, *[zero] * len(rest), i, sizes=(*rest, 1))
    found = c.broadcast(c.div(part_(left), part_(divisors)), shape=side.shape, dims=tuple(range(side.ndim)))
    here = axis_index(c, side.shape, side.ndim - 1)
    number = c.broadcast_to(i, side.shape)
    below = c.select(c.eq(here, number), found, left)
    region = c.build([c.select(c.lt(here, number), c.sub(left, c.mul(found, column)), below)])
    attrs = {"length": n, "reverse": True, "num_consts": 1, "num_carry": 1}
    numbers = b.iota(shape=(n,), dtype=INT64, axis=0)
    return b.emit("scan", (pivots, side, columns, numbers), attrs, (region,))[0]


def _turned_back(b: Builder, a: Value, z: Value, middle: Value, what: str) -> Value:
    """z m z^H; for a real matrix a its real part, which must be all of it."""
    x = matmul(b, z, matmul(b, middle, adjoint(b, z)))
    if is_complex(a.dtype):
        return x
    axes = tuple(range(x.ndim))
    largest = b.reduce_max(b.abs(b.real(x)), axes=axes)
    rest = b.reduce_max(b.abs(b.imag(x)), axes=axes)
    bound = b.mul(largest, b.like(largest, 10 * math.sqrt(np.finfo(a.dtype).eps)))
    fine = b.bit_not(b.gt(rest, bound))
    message = f"the principal {what} of a real matrix is not real; pass it as complex"
    return b.require(b.real(x), fine, message=message)


def _by_schur(b: Builder, a: Value, of_triangle: Callable[[Builder, Value], Value], what: str) -> Value:
    """A function of a, from that of a triangle: of the real one, where all matrices have positive eigenvalues alone."""

    def complex_(c: Builder, given: Value) -> Value:
        t, z = c.schur(given, real=False)
        return _turned_back(c, given, z, of_triangle(c, t), what)

    if is_complex(a.dtype):
        return complex_(b, a)
    t, z = b.schur(a, real=True)
    rows, columns = rows_and_columns(b, t)
    zero = b.zeros(t.type)
    off = b.select(b.gt(rows, columns), b.eq(t, zero), b.filled(True, t.type.with_dtype(BOOL)))
    fine = b.bit_and(off, b.select(b.eq(rows, columns), b.gt(t, zero), b.filled(True, t.type.with_dtype(BOOL))))
    triangular = b.reduce_and(fine, axes=tuple(range(t.ndim)))
    regions = []
    for real in (False, True):
        inner = Builder("real" if real else "complex")
        inner.loc = b.loc
        given, triangle, basis = (inner.param(v.type) for v in (a, t, z))
        if real:
            turned = matmul(inner, of_triangle(inner, triangle), swapped(inner, basis))
            regions.append(inner.build([matmul(inner, basis, turned)]))
        else:
            regions.append(inner.build([complex_(inner, given)]))
    return b.emit("cond", (triangular, a, t, z), {}, regions)[0]


def _sqrt(b: Builder, a: Value) -> Value:
    return _by_schur(b, a, _triangular_root, "square root")


def _far(b: Builder, t: Value) -> Value:
    norm = _one_norm(b, b.sub(t, eye(b, t.type)))
    return b.gt(norm, b.like(norm, _NEAR))


def _log(b: Builder, a: Value) -> Value:
    return _by_schur(b, a, _triangular_log, "logarithm")


def _triangular_log(b: Builder, t: Value) -> Value:
    """By roots until it is near the identity, and an integral there."""
    def goes_on(c: Builder, values: Values) -> Value:
        step, _, x = values
        far = _far(c, x)
        some = c.reduce_or(far, axes=tuple(range(far.ndim))) if far.ndim else far
        return c.bit_and(some, c.lt(step, c.like(step, _HALVINGS)))

    def halve(c: Builder, values: Values) -> Values:
        step, count, x = values
        far = _far(c, x)
        more = c.add(count, c.astype(far, count.dtype))
        return [c.add(step, c.like(step, 1)), more, c.select(_per_matrix(c, far, x), _triangular_root(c, x), x)]

    zeros = b.zeros(ArrayType(t.shape[:-2], real_dtype(t.dtype)))
    _, count, near = loop(b, "halving", goes_on, halve, [], [b.scalar(0, INT64), zeros, t])
    x, one = b.sub(near, eye(b, near.type)), eye(b, near.type)
    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
    total: Value | None = None
    for node, weight in zip((nodes + 1) / 2, weights / 2):
        lower = b.add(one, b.mul(x, b.like(x, float(node))))
        term = b.triangular_solve(lower, b.mul(x, b.like(x, float(weight))), lower=False, trans=False, unit=False)
        total = b.added(total, term)
    assert total is not None
    factor = b.select(_far(b, near), b.like(count, float("nan")), b.exp2(count))
    return b.mul(total, _per_matrix(b, b.astype(factor, total.dtype), total))


_FUNCTIONS: dict[str, Callable[[Builder, Value], Value]] = {"exp": _exp, "log": _log, "sqrt": _sqrt}


def _matfun_infer(types: Types, attrs: Attrs, regions: Regions) -> tuple[ArrayType, ...]:
    need_count("matfun", types, 1)
    need_square("matfun", types[0])
    return (types[0],)


def _matfun_body(b: Builder, operands: Values, attrs: Attrs) -> list[Value]:
    (a,) = operands
    return [_FUNCTIONS[attrs["name"]](b, a) if a.type.size else b.reshaped(a, a.shape)]


def _matfun_jvp(b: Builder, primals: Values, tangents: Maybes, results: Values, attrs: Attrs) -> list[Maybe]:
    return [None if tangents[0] is None else b.frechet(primals[0], tangents[0], **attrs)]


composite("matfun", _matfun_infer, _matfun_body, _matfun_jvp, attrs=("name",))


# -- frechet


def _frechet_infer(types: Types, attrs: Attrs, regions: Regions) -> tuple[ArrayType, ...]:
    need_count("frechet", types, 2)
    need_square("frechet", types[0])
    need_same("frechet", types)
    return (types[1],)


def _corner(b: Builder, a: Value) -> Value:
    """The upper right quarter."""
    n = a.shape[-1] // 2
    return part(b, a, (0, n), (n, 2 * n))


def _frechet_body(b: Builder, operands: Values, attrs: Attrs) -> list[Value]:
    """The direction is made as large as the matrix first, so that it keeps its digits beside it."""
    a, e = operands
    if not a.type.size:
        return [b.reshaped(e, e.shape)]
    of_a, of_e = (b.reduce_max(b.abs(x), axes=(x.ndim - 2, x.ndim - 1)) for x in (a, e))
    one = b.like(of_a, 1)
    zero = b.zeros(of_a.type)
    of_a, of_e = (b.select(b.gt(x, zero), x, one) for x in (of_a, of_e))
    up, down = b.div(of_a, of_e), b.div(of_e, of_a)
    large = b.mul(e, _per_matrix(b, b.astype(up, a.dtype), e))
    result = _corner(b, b.matfun(block(b, [[a, large], [b.zeros(a.type), a]]), **attrs))
    return [b.mul(result, _per_matrix(b, b.astype(down, a.dtype), result))]


def _frechet_jvp(b: Builder, primals: Values, tangents: Maybes, results: Values, attrs: Attrs) -> list[Maybe]:
    (a, e), (ta, te) = primals, tangents
    out = None if te is None else b.frechet(a, te, **attrs)
    if ta is not None:
        zeros = b.zeros(a.type)
        larger = b.frechet(block(b, [[a, e], [zeros, a]]), block(b, [[ta, zeros], [zeros, ta]]), **attrs)
        out = b.added(out, _corner(b, larger))
    return [out]


composite(
    "frechet", _frechet_infer, _frechet_body, _frechet_jvp, attrs=("name",),
    transpose=linear_transpose(
        lambda b, ct, operands, types, attrs: [None, b.frechet(swapped(b, operands[0]), ct, **attrs)]
    ),
)  # fmt: skip
