"""jit, transform and functionalize from outside: arguments of every kind, writes, and forms of decorators."""

import functools
from collections import OrderedDict, namedtuple
from dataclasses import dataclass

import numpy as np
import pytest
from api_results import same

import nufunc as nf

RNG = np.random.default_rng(19)
X, Y = RNG.standard_normal((2, 4))
A, M = RNG.standard_normal((3, 4)), RNG.standard_normal((4, 4))
Pair = namedtuple("Pair", "left right")


@dataclass
class State:
    position: np.ndarray
    speed: np.ndarray


TREES = {
    "dict": {"w": A, "b": {"c": X}},
    "list": [A, [X, Y]],
    "tuple": (A, (X,)),
    "namedtuple": Pair(X, Pair(Y, A)),
    "OrderedDict": OrderedDict(z=X, a=Y),
    "None": {"x": X, "none": None},
    "empty containers": {"x": X, "none": (), "nothing": {}},
    "scalars": (np.float64(2.0), np.float32(3.0), np.int64(4)),
    "dtypes": [X.astype(t) for t in (np.float32, np.int64, np.int8, np.uint16, np.complex64, np.bool_)],
}


@pytest.mark.parametrize("name", TREES)
def test_trees_pass_through(name):
    same(nf.jit(lambda tree: tree)(TREES[name]), TREES[name])


def test_dataclass():
    got = nf.jit(lambda s, dt: State(s.position + dt * s.speed, s.speed))(State(X, Y), 0.5)
    assert type(got) is State
    same((got.position, got.speed), (X + 0.5 * Y, Y))


VIEWS = {
    "contiguous": A,
    "transposed": A.T,
    "reversed": A[::-1, ::-1],
    "every second": A[:, ::2],
    "fortran": np.asfortranarray(A),
    "broadcast": np.broadcast_to(X, (3, 4)),
    "0-d": np.array(1.5),
    "empty": np.zeros((0, 4)),
    "unaligned": np.frombuffer(b"\0" + A.tobytes(), dtype=np.uint8)[1:].view(np.float64).reshape(3, 4),
}


@pytest.mark.parametrize("name", VIEWS)
def test_any_memory_layout(name):
    x = VIEWS[name]
    same(nf.jit(lambda x: np.exp(x) * 2 - x)(x), np.exp(x) * 2 - x)
    same(nf.jit(lambda x: x.sum())(x), x.sum())


def test_read_only_arguments():
    x = X.copy()
    x.flags.writeable = False
    same(nf.jit(lambda x: x + 1)(x), X + 1)


def test_signatures_of_one_function():
    """Shapes, dtypes and trees may change from call to call."""
    double = nf.jit(lambda x: x * 2)
    for x in (X, A, X.astype(np.float32), np.arange(3), np.array(2.0), np.zeros((2, 0)), A.T, X):
        same(double(x), x * 2)


@pytest.mark.parametrize(("value", "kind"), [(3, "i"), (2.5, "f"), (1 + 2j, "c"), (True, "b")])
def test_python_scalars_are_weak(value, kind):
    """A Python number takes the array's precision, as in NumPy."""
    x = np.arange(1, 4, dtype=np.float32)
    expected = x * value
    assert expected.dtype == (np.complex64 if kind == "c" else np.float32)
    same(nf.jit(lambda x, s: x * s)(x, value), expected)


def test_numpy_scalars_are_strong():
    x = np.arange(1, 4, dtype=np.float32)
    same(nf.jit(lambda x, s: x * s)(x, np.float64(2.5)), x * np.float64(2.5))
    same(nf.jit(lambda x, s: x * s)(x, np.array(2.5)), x * np.array(2.5))


def test_static_values_steer_python():
    def func(x, power, mode, flag=False):
        for _ in range(power):
            x = x * 2
        if mode == "negate":
            x = -x
        return x if flag else x + 1

    compiled = nf.jit(func)
    for args in ((X, 2, "negate"), (X, 3, "negate"), (X, 3, "keep"), (X, 0, "keep", True)):
        same(compiled(*args), func(*args))


def test_static_argnums_and_argnames():
    def func(x, shape, *, order):
        return x.reshape(shape) if order == "C" else x.reshape(shape).T

    compiled = nf.jit(func, static_argnums=1, static_argnames="order")
    same(compiled(A, (4, 3), order="C"), A.reshape(4, 3))
    same(compiled(A, (2, 6), order="T"), A.reshape(2, 6).T)
    same(nf.jit(func, static_argnums=(1,), static_argnames=("order",))(A, (4, 3), order="C"), A.reshape(4, 3))

    repeat = nf.jit(lambda x, n: sum(x * i for i in range(int(n))), static_argnames=["n"])
    same(repeat(X, n=3), X * 3)
    same(repeat(X, 4), X * 6)


def test_donated_arguments():
    x = X.copy()
    same(nf.jit(lambda x, y: x + y, donate_argnums=0)(x, Y), X + Y)


def test_defaults_and_keyword_arguments():
    def func(x, *rest, scale=2.0, **more):
        return scale * x + sum(rest) + more.get("shift", 0.0)

    compiled = nf.jit(func)
    same(compiled(X), 2 * X)
    same(compiled(X, Y, X, scale=3.0), 3 * X + Y + X)
    same(compiled(X, shift=np.ones(4)), 2 * X + 1)
    same(compiled(x=X, scale=np.float64(0.5)), 0.5 * X)


def test_order_of_keyword_arguments_does_not_matter():
    compiled = nf.jit(lambda *, a, b: a - b)
    same(compiled(a=X, b=Y), X - Y)
    same(compiled(b=Y, a=X), X - Y)


def test_numpy_functions_themselves():
    same(nf.jit(np.sin)(X), np.sin(X))
    same(nf.jit(np.linalg.inv)(M), np.linalg.inv(M))


class Model:
    shift = 1.0

    def __init__(self, weights):
        self.weights = weights

    @nf.jit
    def forward(self, x):
        return self.weights @ x

    def plain(self, x, scale=1.0):
        return scale * (self.weights @ x) + self.shift

    def __call__(self, x):
        return self.plain(x)


def test_methods():
    model, other = Model(M), Model(2 * M)
    same(model.forward(X), M @ X)
    same(other.forward(X), 2 * M @ X)
    same(Model.forward(model, X), M @ X)
    same(nf.jit(model.plain)(X, scale=2.0), 2 * (M @ X) + 1)
    same(nf.jit(model)(X), M @ X + 1)
    same(nf.jit(functools.partial(model.plain, scale=3.0))(X), 3 * (M @ X) + 1)


def test_name_docstring_and_decorators():
    @nf.jit
    def bare(x):
        """What it computes."""
        return x + 1

    @nf.jit(static_argnames="n")
    def configured(x, n=2):
        return x**n

    assert (bare.__name__, bare.__doc__) == ("bare", "What it computes.")
    same(bare(X), X + 1)
    same(configured(X), X**2)


def test_jit_of_jit():
    inner = nf.jit(lambda x: np.sin(x))
    same(nf.jit(lambda x: inner(x) + inner(2 * x))(X), np.sin(X) + np.sin(2 * X))
    same(nf.grad(nf.jit(nf.jit(lambda x: inner(x).sum())))(X), np.cos(X))


# ---- transform ----


def squared_error(w, x):
    return (w @ x) ** 2


def test_transform_lists_the_outermost_first():
    @nf.transform(nf.vmap(in_dims=(None, 0)), nf.grad, target="cpu")
    def per_sample(w, x):
        """One gradient for each sample."""
        return (w @ x) ** 2

    same(per_sample(X, A), 2 * (A @ X)[:, None] * A)
    assert (per_sample.__name__, per_sample.__doc__) == ("per_sample", "One gradient for each sample.")


TRANSFORMS = {
    "one": ((nf.grad,), (X, Y), 2 * (X @ Y) * Y),
    "configured": ((nf.grad(argnums=1),), (X, Y), 2 * (X @ Y) * X),
    "jacobian of grad": ((nf.jacfwd, nf.grad), (X, Y), 2 * np.outer(Y, Y)),
    "vmap of hessian": ((nf.vmap(in_dims=(None, 0)), nf.hessian), (X, A), 2 * A[:, :, None] * A[:, None]),
    "value": ((nf.vmap(in_dims=(None, 0)), nf.value_and_grad), (X, A),
              ((A @ X) ** 2, 2 * (A @ X)[:, None] * A)),
    "jit outside": ((nf.jit, nf.vmap(in_dims=(None, 0))), (X, A), (A @ X) ** 2),
    "twice vmap": ((nf.vmap(in_dims=(0, None)), nf.vmap(in_dims=(None, 0))), (A, A), (A @ A.T) ** 2),
}


@pytest.mark.parametrize("name", TRANSFORMS)
def test_transform_is_the_nesting_of_calls(name):
    transforms, args, expected = TRANSFORMS[name]
    same(nf.transform(*transforms)(squared_error)(*args), expected)


# ---- writes ----


def scale_in_place(x):
    x *= 2.0
    return x.sum()


def write_slices(x, y):
    x[1:] = y[:-1]
    x[0] += 10.0
    y[y > 0] = 0.0


def write_through_view(m):
    m.T[0] = 7.0
    m.reshape(-1)[-1] = -1.0
    m[:2, :2] -= m[1:3, 1:3].T
    return m @ m.T


def fill_dict(state):
    state["a"][:] = state["b"] * 2
    state["b"].fill(1.0)
    return state["a"].sum()


def out_parameter(x, y):
    np.add(x, 1.0, out=y)
    np.multiply(y, x, out=y)


WRITES = {
    "scaled": (scale_in_place, (X,)),
    "slices": (write_slices, (X, Y)),
    "view": (write_through_view, (A[:, :3],)),
    "contiguous view": (write_through_view, (M,)),
    "tree": (fill_dict, ({"a": X, "b": Y},)),
    "out": (out_parameter, (X, Y)),
}


def copies(tree):
    return {k: copies(v) for k, v in tree.items()} if isinstance(tree, dict) else np.array(tree)


@pytest.mark.parametrize("wrap", [nf.jit, nf.functionalize, nf.functionalize(remove="mutations_and_views")],
                         ids=["jit", "functionalize", "no views"])
@pytest.mark.parametrize("name", WRITES)
def test_writes_to_arguments_reach_the_caller(name, wrap):
    func, args = WRITES[name]
    eager, traced = [copies(a) for a in args], [copies(a) for a in args]
    expected = func(*eager)
    got = wrap(func)(*traced)
    if expected is None:
        assert got is None
    else:
        np.testing.assert_allclose(got, expected, rtol=1e-12)
    for t, e in zip(traced, eager):
        same(t, e)


def test_writes_to_overlapping_arguments():
    def func(x, y):
        x[:] = x + 1.0
        y[:] = y * 2.0

    eager, traced = np.arange(5.0), np.arange(5.0)
    func(eager[:4], eager[1:])
    if not refused(lambda: nf.jit(func)(traced[:4], traced[1:]), traced):
        same(traced, eager)


def refused(call, *arrays):
    """Whether a call was refused as a write that cannot be honoured; then it has changed nothing."""
    before = [array.copy() for array in arrays]
    try:
        call()
    except nf.MutationError:
        for array, copy in zip(arrays, before):
            np.testing.assert_array_equal(array, copy)
        return True
    return False


def test_the_same_array_twice():
    def func(x, y):
        x += 1.0
        return y * 2

    eager, traced = X.copy(), X.copy()
    func(eager, eager)
    if not refused(lambda: same(nf.jit(func)(traced, traced), eager * 2), traced):
        same(traced, eager)
    same(nf.jit(func)(X.copy(), X.copy()), X * 2)


def test_a_write_to_a_captured_array_is_never_lost():
    """It reaches the array, as in NumPy, or is refused; it does not vanish."""
    log = np.zeros(4)

    def func(x):
        log[:] = log + x
        return x * 2

    traced = nf.jit(func)
    if not refused(lambda: (traced(X), traced(Y)), log):
        same(log, X + Y)


def test_vmap_and_grad_of_functionalize():
    def func(x):
        y = np.zeros(2)
        y[0] = x[0] * x[1]
        view = y[:1]
        view += x[2]
        return y.sum()

    expected = np.array([X[1], X[0], 1.0, 0.0])
    same(nf.grad(nf.functionalize(func))(X), expected)
    same(nf.vmap(nf.functionalize(func))(A), A[:, 0] * A[:, 1] + A[:, 2])
    same(nf.functionalize(nf.grad(func))(X), expected)
    same(nf.functionalize(func)(X), X[0] * X[1] + X[2])


# ---- results ----


def test_results_are_new_arrays():
    x = X.copy()
    compiled = nf.jit(lambda x: (x, x[1:], x.T, np.zeros(3), np.asarray(x)))
    first, second = compiled(x), compiled(x)
    for one, other in zip(first, second):
        assert not np.shares_memory(one, x)
        assert not np.shares_memory(one, other)
    first[3][:] = 9.0
    same(compiled(x)[3], np.zeros(3))
    assert all(part.flags.writeable for part in first)


def test_results_outlive_the_function():
    result = nf.jit(lambda x: x * 2)(X)
    same(result, 2 * X)


def test_exceptions_of_the_function_pass_through():
    class Stop(Exception):
        pass

    def func(x):
        raise Stop("enough")

    with pytest.raises(Stop, match="enough"):
        nf.jit(func)(X)


def test_an_error_leaves_the_function_usable():
    compiled = nf.jit(lambda x, y: x + y)
    with pytest.raises(nf.NufuncError):
        compiled(X, np.ones(3))
    same(compiled(X, Y), X + Y)


def test_python_control_flow_on_shapes():
    def func(x):
        if x.ndim == 2 and x.shape[0] > 2:
            return x.sum(axis=0)
        return x[: len(x) // 2]

    for x in (A, X, A[:2]):
        same(nf.jit(func)(x), func(x))


def test_many_arguments_and_results():
    arrays = [np.full(3, float(i)) for i in range(60)]
    got = nf.jit(lambda *xs: [x * i for i, x in enumerate(xs)])(*arrays)
    same(got, [x * i for i, x in enumerate(arrays)])
