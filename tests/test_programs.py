"""Everyday NumPy programs, written without a thought of tracing: eager, compiled, differentiated and mapped."""

import copy
import enum
import math
import os
import types
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest

import nufunc as nf

RNG = np.random.default_rng(0)
PROGRAMS: list[Any] = []


def program(*args: Any, differentiable: bool = True) -> Callable[[Any], Any]:
    """A program with its arguments; differentiable in the first."""

    def register(f: Any) -> Any:
        PROGRAMS.append(pytest.param(f, args, differentiable, id=f.__name__))
        return f

    return register


def numbers(result: Any) -> list[np.ndarray]:
    """The arrays of a result."""
    return [np.asarray(x) for x in nf.tree.leaves(result)]


def same(got: Any, expected: Any, tolerance: float = 1e-9) -> None:
    for x, y in zip(numbers(got), numbers(expected), strict=True):
        assert x.shape == y.shape
        assert x.dtype == y.dtype
        np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance)


@program(RNG.normal(size=(8, 2)), 0.1, 0.5)
def kalman(zs, q, r):
    F = np.array([[1.0, 0, 1, 0], [0, 1, 0, 1], [0, 0, 1, 0], [0, 0, 0, 1]])
    H = np.zeros((2, 4))
    H[0, 0] = 1
    H[1, 1] = 1
    Q = q * np.eye(4)
    R = r * np.eye(2)
    x = np.zeros(4)
    P = np.eye(4) * 10.0
    ll = 0
    out = []
    for z in zs:
        x = F @ x
        P = F @ P @ F.T + Q
        y = z - H @ x
        S = H @ P @ H.T + R
        K = P @ H.T @ np.linalg.inv(S)
        x = x + K @ y
        P = (np.eye(4) - K @ H) @ P
        ll += -0.5 * (y @ np.linalg.solve(S, y) + np.log(np.linalg.det(S)) + 2 * np.log(2 * np.pi))
        out.append(x[:2])
    return ll, np.array(out)


@program(RNG.normal(size=(40, 2)), RNG.normal(size=(3, 2)))
def kmeans(X, C):
    C = C.copy()
    k = len(C)
    for _ in range(5):
        d = ((X[:, None, :] - C[None, :, :]) ** 2).sum(axis=-1)
        lab = d.argmin(axis=1)
        for j in range(k):
            m = lab == j
            C[j] = (X * m[:, None]).sum(0) / max(m.sum(), 1)
    return C, lab


@program(np.zeros(4), RNG.normal(size=(32, 4)), (RNG.random(32) > 0.5).astype(float))
def logreg(w, X, y, lr=0.1, batch=8):
    w = w.copy()
    n = X.shape[0]
    for _ in range(3):
        for i in range(0, n, batch):
            xb, yb = X[i : i + batch], y[i : i + batch]
            p = 1 / (1 + np.exp(-(xb @ w)))
            g = xb.T @ (p - yb) / len(yb)
            w -= lr * g
    return w


@program(RNG.normal(size=(6, 7)), RNG.normal(size=(3, 3)))
def conv(im, k):
    h, w = im.shape
    kh, kw = k.shape
    out = np.zeros((h - kh + 1, w - kw + 1))
    for i in range(kh):
        for j in range(kw):
            out += k[i, j] * im[i : i + out.shape[0], j : j + out.shape[1]]
    return np.maximum(out, 0), out.max()


@program(RNG.normal(size=6), np.linspace(0.1, 4.9, 11))
def spline(y, xq):
    n = len(y)
    x = np.arange(n, dtype=float)
    h = np.diff(x)
    A = np.zeros((n, n))
    b = np.zeros(n)
    A[0, 0] = A[-1, -1] = 1
    for i in range(1, n - 1):
        A[i, i - 1] = h[i - 1]
        A[i, i] = 2 * (h[i - 1] + h[i])
        A[i, i + 1] = h[i]
        b[i] = 3 * ((y[i + 1] - y[i]) / h[i] - (y[i] - y[i - 1]) / h[i - 1])
    c = np.linalg.solve(A, b)
    d = (c[1:] - c[:-1]) / (3 * h)
    bb = (y[1:] - y[:-1]) / h - h * (2 * c[:-1] + c[1:]) / 3
    j = np.clip(np.searchsorted(x, xq) - 1, 0, n - 2)
    dx = xq - x[j]
    return y[j] + bb[j] * dx + c[j] * dx**2 + d[j] * dx**3


@program(np.array([0.3, -0.2, -1.0]), RNG.normal(size=(7, 2)), RNG.normal(size=7))
def gp(theta, X, y):
    ls, sf, sn = np.exp(theta)
    sq = np.sum(X**2, 1)[:, None] + np.sum(X**2, 1)[None] - 2 * X @ X.T
    K = sf**2 * np.exp(-0.5 * np.maximum(sq, 0) / ls**2) + sn**2 * np.eye(len(X))
    L = np.linalg.cholesky(K)
    a = np.linalg.solve(L.T, np.linalg.solve(L, y))
    return 0.5 * y @ a + np.log(np.diag(L)).sum() + len(X) / 2 * math.log(2 * math.pi)


class Layer:
    activation = staticmethod(np.tanh)
    scale = 0.5

    def __init__(self, W, b):
        self.W, self.b = W, b

    @property
    def n_out(self):
        return self.W.shape[1]

    def __call__(self, x):
        return self.activation(x @ self.W + self.b) * self.scale


class Relu(Layer):
    @staticmethod
    def activation(z):
        return np.where(z > 0, z, 0.01 * z)

    def __call__(self, x):
        h = super().__call__(x)
        return h / self.n_out


class Net:
    def __init__(self, layers):
        self.layers = layers

    def __call__(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


W1, b1, W2, b2 = RNG.normal(size=(3, 4)), RNG.normal(size=4), RNG.normal(size=(4, 2)), RNG.normal(size=2)


@program(RNG.normal(size=(3, 4)), RNG.normal(size=(5, 3)))
def net_local(W, x):
    net = Net([Layer(W, b1), Relu(W2, np.zeros(2))])
    return net(x).mean()


@dataclass
class State:
    pos: np.ndarray
    vel: np.ndarray
    mass: float = 2.0
    log: list = field(default_factory=list)

    def step(self, dt):
        d = self.pos[:, None] - self.pos[None]
        r2 = (d**2).sum(-1) + 1e-2
        acc = -(d / r2[..., None] ** 1.5).sum(1) * self.mass
        self.vel += dt * acc
        self.pos += dt * self.vel
        self.log.append(self.energy)
        return self

    @property
    def energy(self):
        return 0.5 * self.mass * np.sum(self.vel**2)


@program(RNG.normal(size=(4, 2)), RNG.normal(size=(4, 2)))
def nbody(p, v):
    s = State(p.copy(), v.copy())
    for _ in range(5):
        s.step(0.01)
    s2 = replace(s, mass=3.0)
    return s.pos, np.array(s.log), s2.energy


@program(RNG.normal(size=(8, 9)))
def heat(u):
    u = u.copy()
    for _ in range(10):
        un = u.copy()
        u[1:-1, 1:-1] = (
            un[1:-1, 1:-1]
            + 0.1 * (un[2:, 1:-1] - 2 * un[1:-1, 1:-1] + un[:-2, 1:-1])
            + 0.1 * (un[1:-1, 2:] - 2 * un[1:-1, 1:-1] + un[1:-1, :-2])
        )
        u[0, :] = 0
        u[-1] = u[-2]
        u[:, 0] = u[:, 1]
        u[:, -1] = 1.0
    return u


@program(RNG.normal(size=8))
def gs(u):
    u = u.copy()
    for _ in range(3):
        for i in range(1, len(u) - 1):
            u[i] = 0.5 * (u[i - 1] + u[i + 1]) - 0.01 * u[i]
    return u


@program(RNG.normal(size=5), RNG.normal(size=6))
def dtw(a, b):
    n, m = len(a), len(b)
    D = np.full((n + 1, m + 1), np.inf)
    D[0, 0] = 0
    for i in range(1, n + 1):
        for j in range(1, m + 1):
            cost = abs(a[i - 1] - b[j - 1])
            D[i, j] = cost + min(D[i - 1, j], D[i, j - 1], D[i - 1, j - 1])
    return D[n, m]


@program(RNG.normal(size=(6, 4)))
def stats(x):
    m = x > 0
    cnt = m.sum(axis=0)
    mean = np.where(m, x, 0).sum(0) / np.maximum(cnt, 1)
    var = (np.where(m, x - mean, 0.0) ** 2).sum(0) / np.maximum(cnt - 1, 1)
    x = x.copy()
    x[~m] = 0
    x[x > 1] *= 0.5
    z = (x - x.mean()) / x.std(ddof=1)
    return mean, var, z, np.median(x, axis=1), np.ptp(x)


@program(RNG.normal(size=12))
def iir(x):
    y = np.zeros_like(x)
    b, a = [0.2, 0.3, 0.1], [1, -0.5, 0.25]
    for n in range(len(x)):
        for i, bi in enumerate(b):
            if n - i >= 0:
                y[n] += bi * x[n - i]
        for j in range(1, len(a)):
            if n >= j:
                y[n] -= a[j] * y[n - j]
    ac = np.array([np.dot(y[: len(y) - k], y[k:]) for k in range(4)])
    w = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(len(y)) / (len(y) - 1))
    k = np.arange(len(y))
    dft = np.exp(-2j * np.pi * k[:, None] * k / len(y)) @ (y * w)
    return y, ac, np.abs(dft) ** 2


@program(RNG.normal(size=(4, 4)))
def lu(A):
    A = A + 5 * np.eye(4)
    n = A.shape[0]
    L = np.eye(n)
    U = A.copy()
    for k in range(n - 1):
        for i in range(k + 1, n):
            L[i, k] = U[i, k] / U[k, k]
            U[i, k:] -= L[i, k] * U[k, k:]
    return L, U, np.prod(np.diag(U))


@program(RNG.normal(size=6))
def swaps(x):
    x = x.copy()
    x[0], x[-1] = x[-1], x[0]
    x[1:], x[:-1] = x[:-1], x[1:].copy()
    x[::2], x[1::2] = x[1::2] + 1, x[::2] * 2
    y = x.reshape(2, 3)
    y[0] += 10
    y.T[1] *= -1
    z = y.ravel()
    z[3] = 0
    return x, y


def weighted(f: Any, weights: list[np.ndarray]) -> Any:
    """The scalar function sum(weights * results)."""

    def total(*args: Any) -> Any:
        results = f(*args)
        flat = results if isinstance(results, tuple) else (results,)
        return sum(np.sum(w * x) for w, x in zip(weights, flat, strict=True))

    return total


@pytest.mark.parametrize(("f", "args", "differentiable"), PROGRAMS)
def test_compiled(f: Any, args: tuple[Any, ...], differentiable: bool) -> None:
    given = copy.deepcopy(args)
    compiled = nf.jit(f)
    expected = f(*copy.deepcopy(args))
    for _ in range(2):
        same(compiled(*given), expected)
    same(given, args)


@pytest.mark.parametrize(("f", "args", "differentiable"), PROGRAMS)
def test_mapped(f: Any, args: tuple[Any, ...], differentiable: bool) -> None:
    lanes = [
        [a * (1 + 0.01 * k) if isinstance(a, float) or a.dtype.kind == "f" else a for a in args]
        for k in range(3)
    ]
    expected = [numbers(f(*lane)) for lane in copy.deepcopy(lanes)]
    got = numbers(nf.vmap(f)(*[np.stack(column) for column in zip(*lanes, strict=True)]))
    for x, rows in zip(got, zip(*expected, strict=True), strict=True):
        np.testing.assert_allclose(x, np.stack(rows), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("f", "args", "differentiable"), [p for p in PROGRAMS if p.values[2]])
def test_gradient(f: Any, args: tuple[Any, ...], differentiable: bool) -> None:
    x, rest = args[0], args[1:]
    rng = np.random.default_rng(1)
    weights = [
        rng.normal(size=y.shape) if y.dtype.kind == "f" else np.zeros(y.shape) for y in numbers(f(*args))
    ]
    scalar = weighted(f, weights)
    direction = rng.normal(size=np.shape(x))
    step = 1e-6
    slope = (scalar(x + step * direction, *rest) - scalar(x - step * direction, *rest)) / (2 * step)
    got = np.sum(nf.grad(scalar)(x, *rest) * direction)
    np.testing.assert_allclose(got, slope, rtol=2e-5, atol=2e-6)


# -- what plain code does that is easily overlooked

X = np.arange(3.0)


class Base:
    rate = 2.0
    act = np.tanh

    def scaled(self, x: Any) -> Any:
        return x * self.rate

    @property
    def factor(self) -> float:
        return self.rate + 1

    def activated(self, x: Any) -> Any:
        return self.act(x) * self.factor


def test_class_attributes_that_appear_later_are_seen() -> None:
    class Derived(Base):
        pass

    thing = Derived()
    calls = [
        lambda x: thing.scaled(x),
        lambda x: thing.activated(x),
        lambda x: x * getattr(thing, "extra", 1.0),
    ]
    compiled = [nf.jit(f) for f in calls]

    def agree() -> None:
        for f, g in zip(calls, compiled, strict=True):
            same(g(X), f(X))

    agree()
    for name, value in (
        ("rate", 5.0),
        ("extra", 3.0),
        ("factor", property(lambda self: 11.0)),
        ("act", staticmethod(np.exp)),
        ("scaled", lambda self, x: x - 1),
    ):
        setattr(Derived, name, value)
        agree()
        delattr(Derived, name)
        agree()


def test_a_ufunc_as_class_attribute_binds_no_self() -> None:
    same(nf.jit(lambda x: Base().act(x) + Base.act(x))(X), 2 * np.tanh(X))


def test_type_and_hasattr_answer_as_in_the_untraced_program() -> None:
    def f(x: Any, s: Any) -> Any:
        return [
            type(x) is np.ndarray, type(s) is float, type(x[0]) is np.float64, type(type(x)) is type,
            isinstance(int, type), hasattr(s, "__len__"), hasattr(x, "__len__"), hasattr(x[0], "__iter__"),
            isinstance(x[0], (list, tuple)), isinstance(x, Iterable), isinstance(x[0], Iterable),
        ]  # fmt: skip

    from collections.abc import Iterable

    assert nf.jit(f)(X, 0.5) == f(X, 0.5)
    assert nf.jit(lambda x: any(x > 1) + any(x > 0))(X) == 2


class Model:
    def __init__(self) -> None:
        self.rate, self.shift, self.weights = 1.0, 2, np.ones(3)

    def __call__(self, x: Any) -> Any:
        return x * self.rate + self.shift * self.weights


def test_objects_as_arguments_are_read_at_each_call() -> None:
    def f(models: Any, x: Any) -> Any:
        return sum(model(x) for model in models)

    models = [Model(), Model()]
    compiled = nf.jit(f)
    same(compiled(models, X), f(models, X))
    for name, value in (
        ("rate", 5.0),
        ("shift", 7),
        ("weights", X),
        ("weights", np.ones(3, np.float32)),
        ("rate", 3),
    ):
        setattr(models[1], name, value)
        same(compiled(models, X), f(models, X))
    models[0].weights[0] = 100
    same(compiled(models, X), f(models, X))
    assert nf.jit(lambda m, x: (m, m(x)))(models[0], X)[0] is models[0]


def test_a_change_of_an_argument_container_is_not_lost_in_silence() -> None:
    def returned(params: Any) -> Any:
        params["w"] = params["w"] * 2
        params["b"] -= 1
        return params

    def lost(params: Any) -> Any:
        params["w"] = params["w"] * 2
        return params["w"].sum()

    same(nf.jit(returned)({"w": X.copy(), "b": X.copy()}), {"w": X * 2, "b": X - 1})
    for transformed in (nf.jit(lost), nf.grad(lost), nf.jit(lambda p: nf.grad(lost)(p))):
        with pytest.raises(nf.NufuncError, match="changes a dict that it got as an argument") as caught:
            transformed({"w": X.copy()})
        assert "test_programs.py" in str(caught.value)
    # a function that is merely called shares the container, as in Python

    def shares(x: Any) -> Any:
        params = {"w": x.copy()}
        return nf.jit(lost)(params), params["w"]

    same(nf.jit(shares)(X), (X.sum() * 2, X * 2))


@pytest.mark.parametrize(
    "f", [lambda x: {1, 2}, lambda x: (v for v in x), lambda x: lambda: x, lambda x: Holder(x)]
)
def test_results_that_would_be_one_object_at_every_call_are_refused(f: Any) -> None:
    with pytest.raises(TypeError, match="the function returns an object of type"):
        nf.jit(f)(X)


class Holder:
    def __init__(self, value: Any) -> None:
        self.value = value


@dataclass
class Plain:
    w: np.ndarray
    k = 2.0  # no field: it has no type


def test_an_attribute_that_is_no_field_is_not_passed_over() -> None:
    f = nf.jit(lambda d: d.w * d.k)
    d = Plain(X)
    same(f(d), X * 2)
    d.k = 5.0
    with pytest.raises(TypeError, match="'k' of a Plain hides"):
        f(d)


def test_augmented_assignment_writes_to_captured_arrays() -> None:
    class Body:
        def __init__(self) -> None:
            self.place, self.speed, self.log = np.zeros(3), np.ones(3), {"n": np.zeros(1)}

        def step(self, dt: float) -> Any:
            self.place += dt * self.speed
            self.speed *= 0.9
            self.log["n"] += 1
            return self.place.sum()

    compiled, eager = Body(), Body()
    step = nf.jit(compiled.step)
    for _ in range(3):
        same(step(0.1), eager.step(0.1))
    same((compiled.place, compiled.speed, compiled.log["n"]), (eager.place, eager.speed, eager.log["n"]))


class Order(enum.IntEnum):
    LINEAR = 1
    SQUARE = 2


class Step(float, enum.Enum):
    HALF = 0.5


def test_members_of_number_enums_are_numbers() -> None:
    order = Order.SQUARE
    for f in (
        lambda x: x**order + Step.HALF,
        lambda x: x.astype(np.int8) * order,
        lambda x: x.astype(np.float32) * Step.HALF,
        lambda x: np.array([order, x[order]]),
        lambda x: np.where(x > order, order, Step.HALF),
    ):
        same(nf.jit(f)(X), f(X))
    same(nf.jit(lambda x, n: x**n)(X, Order.SQUARE), X**2)


def test_names_that_appear_later_are_seen() -> None:
    settings = types.ModuleType("settings")
    settings.__file__ = __file__
    scope: dict[str, Any] = {"settings": settings, "__name__": "program"}
    text = """
def missing(x):
    try:
        return x * later
    except NameError:
        return x
def looked_up(x): return x * globals().get("later", 2.0)
def asked(x): return x * 2 if "later" in globals() else x
def attribute(x): return x * getattr(settings, "later", 2.0)
def has(x): return x * 3 if hasattr(settings, "later") else x
"""
    exec(text, scope)
    functions = [scope[name] for name in ("missing", "looked_up", "asked", "attribute", "has")]
    compiled = [nf.jit(f) for f in functions]
    for change in (lambda: None, lambda: scope.update(later=3.0), lambda: vars(settings).update(later=5.0)):
        change()
        for f, g in zip(functions, compiled, strict=True):
            same(g(X), f(X))


@pytest.mark.parametrize(
    ("f", "made"),
    [
        (lambda x, it: x * next(it), lambda: iter([1.0, 2.0])),
        (lambda x, rng: x + rng.rand(), lambda: np.random.RandomState(0)),
    ],
)
def test_iterators_and_legacy_generators_as_arguments_are_refused(f: Any, made: Any) -> None:
    with pytest.raises(nf.NufuncError, match=r"argument 1 \('(it|rng)'\) is a .*done once, while tracing"):
        nf.jit(f)(X, made())


def test_the_environment_is_not_baked_in(monkeypatch):
    monkeypatch.setenv("NUFUNC_TEST_SCALE", "3")
    for func in (
        lambda x: x * int(os.environ.get("NUFUNC_TEST_SCALE")),
        lambda x: x * int(os.environ["NUFUNC_TEST_SCALE"]),
        lambda x: x * int(os.getenv("NUFUNC_TEST_SCALE")),
    ):
        with pytest.raises(nf.UnguardedCaptureError, match="pass it as an argument"):
            nf.jit(func)(np.ones(2))
