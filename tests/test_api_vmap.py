"""vmap from outside: its parameters, trees and shapes, against a Python loop over plain NumPy."""

import functools
from collections import OrderedDict, namedtuple
from dataclasses import dataclass

import numpy as np
import pytest
from api_results import same

import nufunc as nf

RNG = np.random.default_rng(7)
A34 = RNG.standard_normal((3, 4))
B34 = RNG.standard_normal((3, 4))
A43 = RNG.standard_normal((4, 3))
A345 = RNG.standard_normal((3, 4, 5))
V3, V4 = RNG.standard_normal(3), RNG.standard_normal(4)
M44 = RNG.standard_normal((4, 4))
INTS = RNG.integers(0, 4, 3)
Pair = namedtuple("Pair", "left right")


def rebuild(like, parts):
    """A container like another one, holding other parts."""
    if isinstance(like, dict):
        return type(like)(zip(like, parts))
    return type(like)(*parts) if hasattr(like, "_fields") else type(like)(parts)


def children(tree):
    return list(tree.values()) if isinstance(tree, dict) else list(tree)


def pick(tree, dims, lane):
    """What one lane sees of an argument."""
    if dims is None or tree is None:
        return tree
    if isinstance(tree, (dict, list, tuple)):
        inner = [dims] * len(tree) if isinstance(dims, int) else children(dims)
        return rebuild(tree, [pick(t, d, lane) for t, d in zip(children(tree), inner)])
    return np.take(tree, lane, axis=dims)


def pile(results, dims):
    """The results of all lanes in one tree."""
    first = results[0]
    if dims is None or first is None:
        return first
    if isinstance(first, (dict, list, tuple)):
        inner = [dims] * len(first) if isinstance(dims, int) else children(dims)
        return rebuild(first, [pile(list(r), d) for r, d in zip(zip(*map(children, results)), inner)])
    return np.stack(results, axis=dims)


def loop(func, size, in_dims, out_dims, args):
    dims = (in_dims,) * len(args) if isinstance(in_dims, int) else in_dims
    return pile([func(*(pick(a, d, lane) for a, d in zip(args, dims))) for lane in range(size)], out_dims)


def write_into_buffer(x):
    buffer = np.zeros(2)
    buffer[0] = x[0]
    buffer[1] += x[1] * x[2]
    return buffer


def write_lane_into_unbatched_copy(x):
    total = V4.copy()
    total += x
    total[1:] *= x[:-1]
    return total


def python_loop(x):
    total = x[0]
    for element in x:
        total = total + element * element
    return total


def mask_write(x):
    y = x.copy()
    y[x < 0] = 0.0
    return y


def affine(params, x):
    return params["w"] @ x + params["b"]


CASES = {
    "one argument": (lambda x: x * 2 + 1, (A34,), 0, 0),
    "scalars of lanes": (lambda x: x * x, (V3,), 0, 0),
    "int for every argument": (lambda x, y: x @ y, (A34, B34), 0, 0),
    "int for every argument, axis 1": (lambda x, y: x @ y, (A43, B34.T), 1, 0),
    "second not mapped": (lambda x, w: w @ x, (A34, M44), (0, None), 0),
    "first not mapped": (lambda w, x: w @ x, (M44, A34), (None, 0), 0),
    "different axes": (lambda x, y: x * y, (A43, B34), (1, 0), 0),
    "negative axis": (lambda x, y: x * y, (A43, B34), (-1, -2), 0),
    "middle axis": (lambda x: x.sum(axis=1), (A345.swapaxes(0, 1),), (1,), 0),
    "last axis": (lambda x: x - x.mean(), (A345.transpose(1, 2, 0),), -1, 0),
    "nested tuple": (lambda p, x: p[0] @ x + p[1][0], ((M44, (A34,)), B34), ((None, (0,)), 0), 0),
    "nested list": (lambda p, x: p[0] @ x + p[1], ([M44, A34], B34), ([None, 0], 0), 0),
    "dict": (affine, ({"w": M44, "b": A43}, B34), ({"w": None, "b": 1}, 0), 0),
    "prefix of a dict": (affine, ({"w": A345[:, :, :4], "b": A34}, B34), (0, 0), 0),
    "prefix None of a dict": (affine, ({"w": M44, "b": V4}, B34), (None, 0), 0),
    "namedtuple": (lambda p: p.left - p.right, (Pair(A34, V4),), (Pair(0, None),), 0),
    "None inside": (lambda p: p["x"] * 3, ({"x": A34, "none": None},), 0, 0),
    "static string": (lambda x, how: getattr(np, how)(x), (A34, "cos"), (0, None), 0),
    "static int": (lambda x, n: x**n, (A34, 3), (0, None), 0),
    "out axis 1": (lambda x: x * 2, (A34,), 0, 1),
    "out axis -1": (lambda x: x * 2, (A345,), 0, -1),
    "out axis -2": (lambda x: x * 2, (A345,), 0, -2),
    "out axes of a tuple": (lambda x: (x, x[:, None] * x), (A34,), 0, (1, 2)),
    "one out axis of a tuple": (lambda x: (x, 2 * x), (A34,), 0, 1),
    "out axes of a dict": (lambda x: {"a": x, "b": -x}, (A34,), 0, {"a": 0, "b": 1}),
    "out prefix": (lambda x: {"a": (x, -x), "b": x}, (A34,), 0, {"a": 1, "b": 0}),
    "out None of what is not mapped": (lambda x, y: (x + y, y * 2), (A34, V4), (0, None), (0, None)),
    "tuple of one result": (lambda x: (x,), (A34,), 0, (1,)),
    "list result": (lambda x: [x, x.sum()], (A34,), 0, 0),
    "namedtuple result": (lambda x: Pair(x, x.sum()), (A34,), 0, 0),
    "OrderedDict result": (lambda x: OrderedDict(z=x, a=-x), (A34,), 0, 0),
    "None in the result": (lambda x: {"a": x, "b": None}, (A34,), 0, 0),
    "constant result": (lambda x: np.ones(3), (A34,), 0, 0),
    "constant result, axis 1": (lambda x: np.arange(5), (A34,), 0, 1),
    "argument given back": (lambda x, y: y, (A34, V4), (0, None), 0),
    "in and out axes": (lambda x: x, (A345,), 2, 0),
    "reduction": (lambda x: x.sum(axis=0), (A345,), 0, 0),
    "reduction over a negative axis": (lambda x: x.max(axis=-1), (A345,), 0, 0),
    "reduction over all": (lambda x: np.mean(x), (A345,), 1, 0),
    "keepdims": (lambda x: x - x.mean(axis=-1, keepdims=True), (A345,), 0, 0),
    "transpose": (lambda x: x.T, (A345,), 0, 0),
    "reshape": (lambda x: x.reshape(-1), (A345,), 1, 0),
    "broadcast with a capture": (lambda x: x + M44, (A34,), 0, 0),
    "matmul of lanes": (lambda x, y: x @ y, (A345, RNG.standard_normal((3, 5, 2))), 0, 0),
    "matrix and vector": (lambda x, y: x @ y, (A345, RNG.standard_normal(5)), (0, None), 0),
    "einsum": (lambda x, y: np.einsum("ij,j->i", x, y), (A345, RNG.standard_normal((3, 5))), 0, 0),
    "where": (lambda x: np.where(x > 0, x, 0.1 * x), (A34,), 0, 0),
    "masked write": (mask_write, (A34,), 0, 0),
    "index per lane": (lambda x, i: x[i], (A34, INTS), 0, 0),
    "row of a table per lane": (lambda i: M44[i], (INTS,), 0, 0),
    "concatenate": (lambda x, y: np.concatenate([x, y]), (A34, V4), (0, None), 0),
    "stack": (lambda x: np.stack([x, x * x], axis=1), (A34,), 0, 0),
    "sort": (lambda x: np.sort(x), (A34,), 0, 0),
    "argmax": (lambda x: np.argmax(x), (A34,), 0, 0),
    "cumulative sum": (lambda x: np.cumsum(x), (A34,), 0, 0),
    "slices": (lambda x: x[1:] - x[:-1], (A34,), 0, 0),
    "reversed": (lambda x: x[::-1], (A34,), 0, 0),
    "solve": (np.linalg.solve, (RNG.standard_normal((3, 4, 4)) + 4 * np.eye(4), A34), 0, 0),
    "python loop": (python_loop, (A34,), 0, 0),
    "buffer written": (write_into_buffer, (A34,), 0, 0),
    "lane into an unbatched copy": (write_lane_into_unbatched_copy, (A34,), 0, 0),
    "comparison": (lambda x: x > 0, (A34,), 0, 0),
    "one lane": (lambda x: x * 2, (A34[:1],), 0, 0),
}
CHUNKED = ["out axes of a tuple", "dict", "constant result", "python loop", "out axis -1"]
DTYPES = [np.float64, np.float32, np.int64, np.int32, np.uint8, np.bool_, np.complex128]
SIZES = {"one lane": 1, "in and out axes": 5, "reduction over all": 4, "reshape": 4}


@pytest.mark.parametrize("name", CASES)
def test_vmap_is_a_loop(name):
    func, args, in_dims, out_dims = CASES[name]
    same(nf.vmap(func, in_dims, out_dims)(*args), loop(func, SIZES.get(name, 3), in_dims, out_dims, args))


@pytest.mark.parametrize("chunk_size", [None, 1, 2, 3, 5, 100])
@pytest.mark.parametrize("name", CHUNKED)
def test_chunks_change_nothing(name, chunk_size):
    func, args, in_dims, out_dims = CASES[name]
    got = nf.vmap(func, in_dims=in_dims, out_dims=out_dims, chunk_size=chunk_size)(*args)
    same(got, loop(func, 3, in_dims, out_dims, args))


@pytest.mark.parametrize("dtype", DTYPES)
def test_dtypes_are_kept(dtype):
    x = (np.arange(12).reshape(3, 4) % 2).astype(dtype)
    same(nf.vmap(lambda row: row[::-1])(x), x[:, ::-1])


@pytest.mark.parametrize("view", [
    lambda a: a[:, ::2], lambda a: a[::-1], lambda a: np.asfortranarray(a), lambda a: a.T.copy().T,
    lambda a: np.broadcast_to(a[0], (3, 4)),
])
def test_any_memory_layout(view):
    x = view(A34)
    same(nf.vmap(np.cumsum)(x), np.cumsum(x, axis=1))


def test_nested():
    outer = nf.vmap(nf.vmap(lambda x, y: x * y, (None, 0)), (0, None))
    same(outer(V3, V4), np.outer(V3, V4))
    deep = nf.vmap(nf.vmap(nf.vmap(lambda x: x + 1, out_dims=0), in_dims=1), in_dims=-1, out_dims=1)
    same(deep(A345), np.transpose(A345, (1, 2, 0)) + 1)


def test_nested_with_captured_outer_lane():
    got = nf.vmap(lambda x: nf.vmap(lambda y: x @ M44 @ y)(A34))(B34)
    same(got, B34 @ M44 @ A34.T)


def test_no_lanes():
    empty = nf.vmap(lambda x: (x.sum(), np.outer(x, x)))(np.zeros((0, 4)))
    assert [part.shape for part in empty] == [(0,), (0, 4, 4)]


def test_keyword_arguments_are_not_mapped():
    scale = RNG.standard_normal((3, 4))
    same(nf.vmap(lambda x, *, scale: x @ scale.T)(A34, scale=scale), A34 @ scale.T)
    same(nf.vmap(lambda x, power=2: x**power)(A34, power=3), A34**3)
    same(nf.vmap(lambda x, power=2: x**power)(A34), A34**2)


def test_positional_variadic_arguments():
    same(nf.vmap(lambda *xs: sum(xs))(A34, B34, A34), 2 * A34 + B34)


@dataclass
class State:
    position: np.ndarray
    speed: np.ndarray


def test_dataclass():
    moved = nf.vmap(lambda s: State(s.position + s.speed, -s.speed))(State(A34, B34))
    assert type(moved) is State
    same(moved.position, A34 + B34)
    same(moved.speed, -B34)


def test_name_and_docstring_are_kept():
    def model(x):
        """What it computes."""
        return x

    wrapped = nf.vmap(model)
    assert (wrapped.__name__, wrapped.__doc__) == ("model", "What it computes.")
    assert wrapped.__wrapped__ is model


def test_decorator_bare_and_configured():
    @nf.vmap
    def double(x):
        return 2 * x

    @nf.vmap(in_dims=(None, 1), out_dims=1)
    def apply(w, x):
        return w @ x

    same(double(A34), 2 * A34)
    same(apply(M44, A43), M44 @ A43)


class Model:
    def __init__(self, weights):
        self.weights = weights

    def __call__(self, x):
        return self.weights @ x

    def forward(self, x, scale=1.0):
        return scale * (self.weights @ x)


def test_methods_callables_and_partials():
    model = Model(M44)
    same(nf.vmap(model)(A34), A34 @ M44.T)
    same(nf.vmap(model.forward)(A34, scale=2.0), 2 * A34 @ M44.T)
    same(nf.vmap(functools.partial(model.forward, scale=3.0))(A34), 3 * A34 @ M44.T)
    model.weights = 2 * M44
    same(nf.vmap(model)(A34), 2 * A34 @ M44.T)


def test_numpy_functions_themselves():
    same(nf.vmap(np.sin)(A34), np.sin(A34))
    same(nf.vmap(np.dot)(A34, B34), np.sum(A34 * B34, axis=1))


def test_results_share_no_memory_with_arguments():
    x = A34.copy()
    for func in (lambda r: r, lambda r: r[::2], lambda r: r.T):
        assert not np.shares_memory(nf.vmap(func)(x), x)


def test_inputs_are_not_changed():
    x, before = A34.copy(), A34.copy()
    nf.vmap(mask_write)(x)
    np.testing.assert_array_equal(x, before)


@pytest.mark.parametrize("randomness", ["error", "same", "different"])
def test_randomness_leaves_plain_functions_alone(randomness):
    same(nf.vmap(lambda x: x + 1, randomness=randomness)(A34), A34 + 1)


def test_python_branches_on_static_values():
    def norm(x, kind):
        if kind == "max":
            return np.abs(x).max()
        return np.sqrt((x * x).sum())

    same(nf.vmap(norm, in_dims=(0, None))(A34, "max"), np.abs(A34).max(axis=1))
    same(nf.vmap(norm, in_dims=(0, None))(A34, "two"), np.linalg.norm(A34, axis=1))


def test_numpy_scalars_are_results_like_arrays():
    mapped, known, total = nf.vmap(lambda x: (x, np.float32(2), np.sum(np.ones(3))))(np.arange(4.0))
    assert mapped.shape == known.shape == total.shape == (4,)
    assert known.dtype == np.float32
    assert (known == 2).all()
    assert (total == 3).all()
    assert nf.vmap(lambda x: (x, np.float32(2)), out_dims=(0, None))(np.arange(4.0))[1] == 2
