"""Device arrays and calls on a device as a user meets them, on devices of host memory (NUFUNC_CUDA_SIMULATOR)."""

import copy
import ctypes
import operator
import pickle
import threading
from dataclasses import dataclass
from types import SimpleNamespace
from weakref import WeakValueDictionary

import numpy as np
import pytest
from cuda_device import HARDWARE, STRICT, strict

import nufunc as nf
from nufunc.runtime.cuda import arrays, devices

RNG = np.random.default_rng(0)
W, X = RNG.normal(size=(3, 4)), RNG.normal(size=(5, 3))


@pytest.fixture(autouse=True)
def simulated(monkeypatch: pytest.MonkeyPatch):
    """Two devices of host memory, new ones for each test, or NVIDIA's."""
    if STRICT:
        with strict(monkeypatch):
            yield
        return
    if HARDWARE:
        yield
        return
    monkeypatch.setenv("NUFUNC_CUDA_SIMULATOR", "2")
    monkeypatch.setattr(devices, "_DEVICES", {})
    monkeypatch.setattr(arrays, "_LAYOUTS", WeakValueDictionary())
    nf.clear_cache()
    yield
    assert not devices.CURRENT.entered


def loss(w, x):
    return np.sum(np.tanh(x @ w) ** 2)


def counts(index: int = 0):
    if HARDWARE:
        pytest.skip("hardware does not count")
    return nf.device(index).driver.counts


def on(*arrays):
    return tuple(nf.to_device(a) for a in arrays)


def same(result, expected):
    """Trees of device arrays equal trees of NumPy's, up to rounding."""
    leaves, wanted = nf.tree.leaves(result), nf.tree.leaves(expected)
    assert len(leaves) == len(wanted)
    for leaf, want in zip(leaves, wanted, strict=True):
        assert isinstance(leaf, nf.DeviceArray)
        assert (leaf.shape, leaf.dtype) == (np.shape(want), np.asarray(want).dtype)
        np.testing.assert_allclose(np.asarray(leaf), want, rtol=1e-12, atol=1e-13)


# -- arrays


def test_an_array_knows_what_it_is() -> None:
    x = nf.to_device(X)
    assert (x.shape, x.dtype, x.ndim, x.size, x.nbytes, len(x)) == ((5, 3), np.float64, 2, 15, 120, 5)
    assert x.device is nf.device("cuda:0")
    assert x.strides == X.strides
    assert repr(nf.to_device(np.array([1.5, 2.0]))) == "DeviceArray([1.5, 2. ], dtype=float64, device='cuda:0')"


def test_other_shapes_are_views_where_those_of_numpy_are() -> None:
    base = np.arange(48.0)
    whole, plain = np.s_[...], (0, 1, 2)
    for index, axes, shape in [
        (np.s_[:, ::2, :], plain, (4, 8)), (np.s_[::-1], plain, (2, 2, 12)), (np.s_[::-1, ::-1, ::-1], plain, -1),
        (np.s_[:, :, 1:2], (2, 0, 1), (3, 4)), (np.s_[:, :1, ::2], plain, (8, 1)), (np.s_[:, 1:, :], plain, (2, -1)),
        (whole, (1, 0, 2), (-1, 4)), (np.s_[:, ::2], (0, 2, 1), -1), (whole, (2, 1, 0), (4, 12)),
    ]:  # fmt: skip
        space = nf.to_device(base)
        wanted = base.reshape(4, 3, 4)[index].transpose(axes).reshape(shape)
        found = space.reshape(4, 3, 4)[index].transpose(axes).reshape(shape)
        np.testing.assert_array_equal(np.asarray(found), wanted)
        found[...] = -1.0
        assert np.any(np.asarray(space) == -1.0) == np.shares_memory(wanted, base), (index, axes, shape)


def test_matrices_are_transposed_and_conversions_may_be_none() -> None:
    x = nf.to_device(np.arange(12.0).reshape(2, 2, 3))
    same(x.mT, np.arange(12.0).reshape(2, 2, 3).swapaxes(-1, -2))
    x.mT[0, 2, 1] = -1.0
    assert float(x[0, 1, 2]) == -1.0
    with pytest.raises(ValueError, match="at least two axes"):
        _ = x[0, 0].mT
    assert x.astype("f8", copy=False) is x
    assert x.astype("f8") is not x
    assert x.astype("f4", copy=False).dtype == np.float32


def test_values_come_back() -> None:
    x = nf.to_device(X)
    np.testing.assert_array_equal(x.copy_to_host(), X)
    np.testing.assert_array_equal(np.asarray(x), X)
    assert np.asarray(x, np.float32).dtype == np.float32
    out = np.empty_like(X)
    assert x.copy_to_host(out) is out
    np.testing.assert_array_equal(out, X)
    assert (float(x[1, 2]), x[1, 2].item(), x.tolist()) == (X[1, 2], X[1, 2], X.tolist())
    assert int(nf.to_device(7)) == 7
    assert bool(nf.to_device(True))
    with pytest.raises(TypeError, match=r"float\(\) takes an array of one element"):
        float(x)
    with pytest.raises(ValueError, match=r"bool\(\) takes an array of one element"):
        bool(nf.to_device(X) > 0)
    with pytest.raises(ValueError, match="out is float64"):
        x.copy_to_host(np.empty(3))


@pytest.mark.parametrize("dtype", ["?", "i1", "u2", "i4", "u8", "f2", "f4", "f8", "c8", "c16"])
def test_dtypes_go_there_and_back(dtype: str) -> None:
    x = (RNG.normal(size=(2, 3)) * 3).astype(dtype)
    np.testing.assert_array_equal(np.asarray(nf.to_device(x)), x)
    np.testing.assert_array_equal(np.asarray(nf.to_device(x)[:, ::2].copy()), x[:, ::2])


def test_other_dtypes_are_refused() -> None:
    with pytest.raises(nf.DTypeError, match="datetime64"):
        nf.to_device(np.zeros(2, "M8[s]"))
    with pytest.raises(TypeError, match="to_device takes arrays"):
        nf.to_device("text")


@pytest.mark.parametrize(
    "key", [1, -1, slice(1, 4), (slice(None), 1), (slice(None, None, -2), slice(1, None)), (..., None), (None, 2, ...),
            (4, 2), (slice(3, 3), 0)], ids=str
)  # fmt: skip
def test_slices_are_views(key) -> None:
    x = nf.to_device(X)
    view = x[key]
    assert view.block is x.block
    np.testing.assert_array_equal(np.asarray(view), X[key])
    np.testing.assert_array_equal(np.asarray(view.copy()), X[key])
    assert view.copy().block is not x.block


def test_views_of_views() -> None:
    x = nf.to_device(X)
    np.testing.assert_array_equal(np.asarray(x.T[1:, ::-1][:, 2]), X.T[1:, ::-1][:, 2])
    np.testing.assert_array_equal(np.asarray(x.reshape(3, 5)), X.reshape(3, 5))
    np.testing.assert_array_equal(np.asarray(x.T.reshape(-1)), X.T.reshape(-1))
    np.testing.assert_array_equal(np.asarray(x.transpose(1, 0)[0]), X[:, 0])
    np.testing.assert_array_equal([np.asarray(row) for row in x], X)
    with pytest.raises(IndexError, match="index 7 is out of bounds"):
        x[7]
    with pytest.raises(ValueError, match="cannot reshape"):
        x.reshape(4, 4)


def test_assignments_write_through_views() -> None:
    x, want = nf.to_device(X), X.copy()
    for target in (x, want):
        target[1] = 2.0
        target[:, 2][::2] = np.arange(3.0)
        target[3:] = target[:2]
    np.testing.assert_array_equal(np.asarray(x), want)
    x[[0, 2]] = -1.0
    x[np.array([True, False, False, False, True]), 1] = 9.0
    want[[0, 2]] = -1.0
    want[[0, 4], 1] = 9.0
    np.testing.assert_array_equal(np.asarray(x), want)


def test_keys_of_arrays() -> None:
    x = nf.to_device(X)
    index = np.array([4, 0, 4])
    np.testing.assert_array_equal(np.asarray(x[index]), X[index])
    np.testing.assert_array_equal(np.asarray(x[nf.to_device(index), 1:]), X[index, 1:])
    np.testing.assert_array_equal(np.asarray(x[x[:, 0] > 0]), X[X[:, 0] > 0])


WRITES = {
    "+=": lambda x, y: operator.iadd(x[1], y),
    "-= number": lambda x, y: operator.isub(x[:, ::2], 2),
    "*=": lambda x, y: operator.imul(x, y[:3]),
    "/=": lambda x, y: operator.itruediv(x[::-1], 4.0),
    "//=": lambda x, y: operator.ifloordiv(x[1:], 2),
    "%=": lambda x, y: operator.imod(x, 3),
    "**=": lambda x, y: operator.ipow(x[2], 2),
    "overlapping +=": lambda x, y: operator.iadd(x[1:], x[:-1]),
    "fill": lambda x, y: x[:, 1].fill(7),
    "sort": lambda x, y: x.sort(axis=0),
    "sort of a view": lambda x, y: x[:, 0].sort(),
    "put": lambda x, y: x.put([0, 4], [9.0, 8.0]),
    "swapaxes": lambda x, y: operator.iadd(x.swapaxes(0, 1)[0], 1.0),
    "squeeze": lambda x, y: operator.iadd(x[:1].squeeze(0), 1.0),
    "view": lambda x, y: operator.iadd(x.view(np.int64)[1, 1:], 1),
    "bytes": lambda x, y: x.view(np.uint8)[0, ::8].fill(1),
    "reshape": lambda x, y: operator.iadd(x.reshape(-1)[3:7], y[0]),
    "np.add, out": lambda x, y: np.add(x[0], y, out=x[1]),
    "np.sum, out": lambda x, y: np.sum(x, axis=0, out=x[1]),
    "mean, out": lambda x, y: x.mean(axis=0, out=x[2]),
    "np.copyto": lambda x, y: np.copyto(x[1], y),
    "np.fill_diagonal": lambda x, y: np.fill_diagonal(x, 5.0),
}


@pytest.mark.parametrize("name", WRITES)
def test_writes_reach_the_memory_that_numpy_writes(name: str) -> None:
    wanted, x = X.copy(), nf.to_device(X)
    WRITES[name](wanted, X[1] + 0.5)
    before = x
    WRITES[name](x, nf.to_device(X[1] + 0.5))
    assert x is before
    np.testing.assert_allclose(np.asarray(x), wanted, rtol=1e-15)


def test_writes_that_numpy_refuses() -> None:
    x = nf.to_device(np.arange(3))
    with pytest.raises(TypeError, match="same_kind"):
        x += 0.5
    with pytest.raises((ValueError, TypeError)):
        x += np.ones((2, 3), int)
    with pytest.raises(ValueError, match="negative"):
        x **= -1
    np.testing.assert_array_equal(np.asarray(x), [0, 1, 2])
    mask = nf.to_device(np.array([True, False]))
    with pytest.raises(TypeError, match="same_kind"):
        mask **= 2
    y = nf.to_device(np.arange(3.0))
    y += np.arange(3)
    y **= 2
    np.testing.assert_array_equal(np.asarray(y), [0.0, 4.0, 16.0])
    host = np.ones(3)
    host += y
    np.testing.assert_array_equal(host, [1.0, 5.0, 17.0])


METHODS = {
    "clip": lambda x: x.clip(-1, 1),
    "round": lambda x: x.round(1),
    "dot": lambda x: x.dot(x.T),
    "take": lambda x: x.take([0, 4]),
    "repeat": lambda x: x.repeat(2, axis=1),
    "trace": lambda x: x.trace(),
    "diagonal": lambda x: x.diagonal(1),
    "argsort": lambda x: x.argsort(axis=0),
    "flatten": lambda x: x[:, ::2].flatten(),
    "cumprod": lambda x: x.cumprod(axis=1),
    "dtype": lambda x: x.sum(axis=0, dtype=complex),
    "divmod": lambda x: divmod(x, 3)[0],
    "rdivmod": lambda x: divmod(2.0, x)[1],
    "where": lambda x: x.max(axis=1, where=x > 0, initial=-1.0),
    "compress": lambda x: x.compress([True, False, True], axis=1),
    "searchsorted": lambda x: np.sort(x[:, 0]).searchsorted(0.5),
}


@pytest.mark.parametrize("name", METHODS)
def test_methods_are_those_of_numpy(name: str) -> None:
    same(METHODS[name](nf.to_device(X)), METHODS[name](X))


BY_VALUE = {
    "unique": np.unique, "nonzero": lambda x: x.nonzero(), "extract": lambda x: np.extract(x > 0, x),
    "setdiff1d": lambda x: np.setdiff1d(x, [1.0]), "bincount": lambda x: np.bincount((x.ravel() > 0).astype(int)),
}  # fmt: skip


@pytest.mark.parametrize("name", BY_VALUE)
def test_lengths_that_values_decide_come_from_the_host(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NUFUNC_CUDA_FALLBACK", raising=False)
    with pytest.warns(nf.DeviceWarning, match="computed on the host"):
        found = BY_VALUE[name](nf.to_device(X))
    same(found, BY_VALUE[name](X))
    monkeypatch.setenv("NUFUNC_CUDA_FALLBACK", "0")
    with pytest.raises(NotImplementedError, match=r"np\.|mask"):
        BY_VALUE[name](nf.to_device(X))


def test_who_shares_memory() -> None:
    x = nf.to_device(X)
    assert np.shares_memory(x, x[1:])
    assert np.may_share_memory(x[0], x[0].reshape(1, -1))
    assert not np.shares_memory(x[::2], x[1::2])
    assert np.may_share_memory(x[:, ::2], x[:, 1::2])
    assert not np.shares_memory(x, x.copy())
    assert not np.may_share_memory(x, X)


def test_operators_compute_on_the_device() -> None:
    (x,) = on(X)
    for made, want in (
        (x + 1, X + 1), (2.0 * x, 2 * X), (x - X, X * 0), (x @ X.T, X @ X.T), (-x, -X), (abs(x), abs(X)), (x**2, X**2),
        (x > 0, X > 0), (X / (x + 10), X / (X + 10)), (x.sum(axis=0), X.sum(0)), (x.mean(), X.mean()), (x // 2, X // 2),
        (x.astype("f4"), X.astype("f4")),
    ):  # fmt: skip
        same(made, want)
    i = nf.to_device(np.arange(4))
    same([i & 2, i << 1, 3 - i, ~i], [np.arange(4) & 2, np.arange(4) << 1, 3 - np.arange(4), ~np.arange(4)])
    same([np.sin(x), np.add(X, x), X * x, np.maximum(x, 0)], [np.sin(X), X + X, X * X, np.maximum(X, 0)])
    same([np.concatenate([x, x]), np.zeros_like(x), np.add.reduce(x)], [np.concatenate([X, X]), X * 0, X.sum(0)])
    y = nf.to_device(np.zeros_like(X))
    assert np.tanh(x, out=y) is y
    same([y, np.where(x > 0, x, y)], [np.tanh(X), np.where(X > 0, X, np.tanh(X))])
    with pytest.raises(OverflowError):
        nf.to_device(np.zeros(2, np.int8)) + 1000


def test_copies_and_pickles() -> None:
    two_devices()
    x = nf.to_device(X, "cuda:1")
    for other in (copy.deepcopy(x), pickle.loads(pickle.dumps(x))):
        assert other.device is x.device
        assert other.block is not x.block
        np.testing.assert_array_equal(np.asarray(other), X)


# -- devices


def two_devices() -> None:
    if HARDWARE and len(nf.devices()) < 2:
        pytest.skip("this takes two devices")


@pytest.mark.skipif(HARDWARE, reason="of the simulator")
def test_devices_have_names_and_memory() -> None:
    assert [str(d) for d in nf.devices()] == ["cuda:0", "cuda:1"]
    one = nf.device("cuda:1")
    assert one is nf.device(1)
    assert one.name == "simulated device 1"
    before = one.memory.used
    x = nf.to_device(np.zeros(1000), one)
    assert one.memory.used == before + 8192
    del x
    assert one.memory.used == before
    assert one.memory.kept >= 8192
    one.trim()
    assert one.memory.kept == 0
    assert nf.to_device(nf.to_device(X), "cpu").tolist() == X.tolist()


@pytest.mark.skipif(HARDWARE, reason="of the simulator")
def test_names_that_are_none() -> None:
    with pytest.raises(nf.NoDeviceError, match="no CUDA device has the number 7: there are 2"):
        nf.device("cuda:7")
    with pytest.raises(ValueError, match='expected "cuda"'):
        nf.device("tpu")
    with pytest.raises(TypeError, match="device takes a name"):
        nf.device(1.5)


def test_trees_move() -> None:
    two_devices()
    tree = nf.to_device({"a": X, "b": [1.0, (W, None)]}, "cuda:1")
    assert tree["b"][1][0].device.index == 1
    back = nf.to_device(tree, "cpu")
    np.testing.assert_array_equal(back["b"][1][0], W)


# -- calls: where results are


def test_device_arrays_give_device_arrays() -> None:
    w, x = on(W, X)
    f = nf.jit(loss)
    for _ in range(4):
        same(f(w, x), loss(W, X))
    assert counts()["record"] >= 1
    assert counts()["replay"] == 3


def test_numpy_arrays_give_numpy_arrays() -> None:
    f = nf.jit(loss, target="cuda")
    for _ in range(3):
        made = f(W, X)
        assert isinstance(made, np.floating)
        np.testing.assert_allclose(made, loss(W, X), rtol=1e-12)
    assert counts()["launch"] > 0
    g = nf.transform(nf.grad, target="cuda")(loss)
    np.testing.assert_allclose(g(W, X), nf.grad(loss)(W, X), rtol=1e-12)


def test_a_context_sends_calls_to_a_device() -> None:
    two_devices()
    f = nf.jit(loss)
    want = f(W, X)
    with nf.device("cuda:1") as where:
        assert where.index == 1
        np.testing.assert_allclose(f(W, X), want, rtol=1e-12)
        launches = counts(1)["launch"]
        assert launches > 0
        f(W, X)
        assert counts(1)["launch"] > launches
        with nf.device("cpu"):
            launches = counts(1)["launch"]
            assert f(W, X) == want
            assert counts(1)["launch"] == launches
        same(f(*on(W, X)), want)
    launches = counts(1)["launch"]
    assert f(W, X) == want
    assert counts(1)["launch"] == launches


def test_a_context_is_of_its_thread() -> None:
    f, results = nf.jit(lambda x: x + 1), []
    f(X)
    with nf.device("cuda:0"):
        thread = threading.Thread(target=lambda: results.append(f(X)))
        thread.start()
        thread.join()
    np.testing.assert_array_equal(results[0], X + 1)
    assert counts()["launch"] == 0


def test_hosts_arrays_and_numbers_among_device_arrays() -> None:
    (w,) = on(W)
    f = nf.jit(lambda w, x, a, b: np.tanh(x @ w) * a + b)
    for a in (2.0, 3.0):
        same(f(w, X, a, np.float64(1.5)), np.tanh(X @ W) * a + 1.5)
    uploads = counts()["upload"]
    f(w, X, 4.0, np.float64(1.5))
    assert counts()["upload"] == uploads + 2  # the array, and the numbers together


@pytest.mark.parametrize(
    "number", [2.5, 1 - 2j, *(np.dtype(t).type(1.5) for t in ("f2", "f4", "f8", "c8", "c16")), np.bool_(True),
               *(np.dtype(t).type(-3) for t in ("i1", "i2", "i4", "i8")),
               *(np.dtype(t).type(200) for t in ("u1", "u2", "u4", "u8")), np.array(7.0), np.arange(2, dtype="i4"),
               np.arange(4.0), np.arange(8.0)[::2], np.zeros((0, 4))],
    ids=lambda x: f"{type(x).__name__}{getattr(x, 'shape', '')}",
)  # fmt: skip
def test_numbers_of_every_kind_go_along(number) -> None:
    (w,) = on(W)
    f = nf.jit(lambda w, n: (w.sum() + n, n))
    for _ in range(3):  # the long way, then a run that is recorded, and one that is replayed
        made = f(w, number)
        want = W.sum() + number, number
        for a, b in zip(made, want, strict=True):
            assert a.dtype == np.asarray(b).dtype
            np.testing.assert_allclose(np.asarray(a), b, rtol=1e-3 if a.dtype.itemsize < 4 else 1e-6)


def test_devices_do_not_mix() -> None:
    two_devices()

    def f(a, b):
        return a + b

    with pytest.raises(ValueError, match=r"f: argument 0 \('a'\) is on cuda:0 and argument 1 \('b'\) on cuda:1"):
        nf.jit(f)(nf.to_device(X, 0), nf.to_device(X, 1))
    with pytest.raises(ValueError, match=r"argument 0 \('a'\) is on cuda:0, but target='cpu'"):
        nf.jit(f, target="cpu")(nf.to_device(X), X)
    c = nf.to_device(X, 1)
    with pytest.raises(ValueError, match=r"is on cuda:0 and .*'c'.* on cuda:1"):
        nf.jit(lambda a: a + c)(nf.to_device(X))


# -- every transform


def test_transforms() -> None:
    w, x = on(W, X)
    v = RNG.normal(size=W.shape)
    for made, want in (
        (nf.grad(loss)(w, x), nf.grad(loss)(W, X)),
        (nf.grad(loss, argnums=(0, 1))(w, x), nf.grad(loss, argnums=(0, 1))(W, X)),
        (nf.value_and_grad(loss)(w, x), nf.value_and_grad(loss)(W, X)),
        (nf.vmap(nf.grad(loss), in_dims=(None, 0))(w, x), nf.vmap(nf.grad(loss), in_dims=(None, 0))(W, X)),
        (nf.jacrev(lambda w: np.tanh(X @ w))(w), nf.jacrev(lambda w: np.tanh(X @ w))(W)),
        (nf.jacfwd(lambda w: np.tanh(X @ w))(w), nf.jacfwd(lambda w: np.tanh(X @ w))(W)),
        (nf.hessian(loss)(w, x), nf.hessian(loss)(W, X)),
        (nf.jvp(loss, (w, x), (nf.to_device(v), x)), nf.jvp(loss, (W, X), (v, X))),
        (nf.hvp(lambda w: loss(w, X), (w,), (v,)), nf.hvp(lambda w: loss(w, X), (W,), (v,))),
        (nf.functionalize(loss)(w, x), loss(W, X)),
    ):
        same(made, want)


def test_pullbacks_hold_what_is_on_the_device() -> None:
    w, x = on(W, X)
    out, pullback = nf.vjp(lambda w: np.tanh(x @ w), w)
    assert all(isinstance(r, nf.DeviceArray) for r in nf.tree.leaves(pullback))
    ct = RNG.normal(size=out.shape)
    want = nf.vjp(lambda w: np.tanh(X @ w), W)[1](ct)
    same(pullback(ct), want)
    same(pullback(nf.to_device(ct)), want)
    same(copy.deepcopy(pullback)(ct), want)
    value, pushforward = nf.linearize(lambda w: np.tanh(X @ w), w)
    same(pushforward(w), nf.linearize(lambda w: np.tanh(X @ w), W)[1](W))
    same(value, np.tanh(X @ W))


@dataclass
class Model:
    w: object
    scale: float


def test_trees_and_captures() -> None:
    w, x = on(W, X)

    def f(m, x):
        return {"y": np.tanh(x @ m.w) * m.scale, "z": (x.sum(), None)}

    same(nf.jit(f)(Model(w, 2.0), x), {"y": np.tanh(X @ W) * 2, "z": (X.sum(), None)})
    scale = nf.to_device(3.0)
    g = nf.jit(lambda x: x * scale)
    same([g(X), g(x)], [X * 3, X * 3])
    scale[...] = 5.0
    same(g(x), X * 5)
    scale = 7.0
    same(g(x), X * 7)


def test_optimizers_step_on_the_device() -> None:
    def train(params, x):
        adam = nf.optim.adam(0.1)
        state = adam.init(params)
        for _ in range(3):
            params, state = adam.update(nf.grad(lambda p: loss(p["w"], x))(params), state, params)
        return params["w"]

    same(train({"w": nf.to_device(W)}, nf.to_device(X)), train({"w": W}, X))


def test_modules() -> None:
    model = nf.nn.Sequential(nf.nn.Linear(3, 4), nf.nn.Tanh(), nf.nn.Linear(4, 1))
    params = dict(model.named_parameters())

    def cost(params, x):
        return np.mean(nf.functional_call(model, params, (x,)) ** 2)

    there = nf.to_device({k: np.asarray(p) for k, p in params.items()})
    value, grads = nf.value_and_grad(cost)(there, nf.to_device(X))
    want = nf.value_and_grad(cost)({k: np.asarray(p) for k, p in params.items()}, X)
    same((value, grads), want)


# -- arguments that are written


def test_writes_in_place() -> None:
    x, want = nf.to_device(X), X.copy()

    def step(u):
        u[1:-1] += 0.1 * (u[2:] + u[:-2] - 2 * u[1:-1])

    f = nf.jit(step)
    for _ in range(3):
        f(x)
        step(want)
    np.testing.assert_allclose(np.asarray(x), want, rtol=1e-13)
    host = X.copy()
    with nf.device("cuda:0"):
        for _ in range(3):
            f(host)
    np.testing.assert_allclose(host, want, rtol=1e-13)


def test_writes_to_views_reach_the_whole() -> None:
    x, want = nf.to_device(X), X.copy()

    def f(u):
        u *= 2.0

    nf.jit(f)(x[::2, 1:])
    f(want[::2, 1:])
    np.testing.assert_array_equal(np.asarray(x), want)


def test_writes_to_arrays_that_overlap() -> None:
    x, want = nf.to_device(X), X.copy()

    def f(u, v):
        u *= 2.0
        u += v
        return u.sum() + v.sum()

    for _ in range(2):
        same(nf.jit(f)(x[1:], x[:-1]), f(want[1:], want[:-1]))
        same(x, want)
        same(nf.jit(f)(x[::-1, 1], x[:, 1]), f(want[::-1, 1], want[:, 1]))
        same(x, want)
    bits = nf.from_dlpack(x.__dlpack__())
    with pytest.raises(nf.MutationError, match=r"is donated argument 0 \('u'\), whose memory overlaps"):
        nf.jit(lambda u, v: u + v, donate_argnums=0)(x, bits)


def test_read_only_memory_is_not_written() -> None:
    x = nf.to_device(X)
    x.readonly = True

    def f(u):
        u += 1

    with pytest.raises(ValueError, match="assignment destination is read-only"):
        nf.jit(f)(x)
    with pytest.raises(ValueError, match="read-only"):
        x[0] = 1.0
    with pytest.raises(ValueError, match="read-only"):
        nf.jit(lambda x: x + 1)(nf.to_device(X), out=x)


def test_donated_memory_is_used_again() -> None:
    f = nf.jit(lambda p, g: p - 0.1 * g, donate_argnums=0)
    p, g = nf.to_device(np.ones(1000)), nf.to_device(np.ones(1000))
    address = p.address
    used = nf.device().memory.used
    for _ in range(5):
        p = f(p, g)
        assert p.address == address
    assert nf.device().memory.used <= used + 512
    np.testing.assert_allclose(np.asarray(p), 0.5)


def test_results_go_where_they_are_wanted() -> None:
    two_devices()
    w, x = on(W, X)
    f = nf.jit(lambda w, x: (np.tanh(x @ w), w.sum()))
    out = nf.to_device(np.zeros((5, 4))), np.zeros(())
    for _ in range(3):
        assert f(w, x, out=out) is out
    same(out[0], np.tanh(X @ W))
    np.testing.assert_allclose(out[1], W.sum())
    strided = nf.to_device(np.zeros((4, 5))).T
    nf.jit(lambda w, x: np.tanh(x @ w))(w, x, out=strided)
    same(strided, np.tanh(X @ W))
    nf.jit(lambda x: x[::-1] * 2)(x, out=x)
    same(x, X[::-1] * 2)
    with pytest.raises(ValueError, match="share memory"):
        f(w, x, out=(strided, strided[0, 0]))
    with pytest.raises(ValueError, match="out is on cuda:1"):
        nf.jit(lambda x: x + 1)(x, out=nf.to_device(X, 1))


def test_bound_calls() -> None:
    x, y = nf.to_device(X), nf.to_device(np.zeros((5, 3)))
    step = nf.jit(lambda x: x * 2).bind(x, out=y)
    step()
    x[0] = 1.0
    assert step() is y
    same(y, np.asarray(x) * 2)
    again = nf.jit(lambda x: x * 2).bind(x)
    same([again(), again()], [np.asarray(x) * 2] * 2)


def test_strided_arguments() -> None:
    x = nf.to_device(X)
    f = nf.jit(lambda a: np.cumsum(a * 2, axis=0))
    for view, want in ((x.T, X.T), (x[::-1], X[::-1]), (x[:, ::2], X[:, ::2]), (x[1:, 1], X[1:, 1])):
        for _ in range(2):
            same(f(view), np.cumsum(want * 2, axis=0))


# -- what is special in functions


def test_control_flow() -> None:
    def newton(x):
        return nf.while_loop(lambda s: np.abs(s * s - x) > 1e-12, lambda s: 0.5 * (s + x / s), x)

    x = nf.to_device(2.0)
    same(nf.jit(newton)(x), np.sqrt(2.0))

    def steps(x):
        return nf.scan(lambda c, y: (c * 0.5 + y, c), x[0], x)[1].sum()

    same(nf.grad(steps)(nf.to_device(X[:, 0])), nf.grad(steps)(X[:, 0]))
    branch = nf.jit(lambda x: nf.cond(x.sum() > 0, lambda x: x * 2, lambda x: -x, x))
    same([branch(nf.to_device(X)), branch(nf.to_device(-X))], [branch(X), branch(-X)])


def test_derivatives_of_loops_of_unknown_length() -> None:
    def f(x):
        return nf.while_loop(lambda s: np.sum(s) < 100.0, lambda s: s * np.tanh(s) * 3, x).sum()

    x = np.array([1.0, 2.0])
    same(nf.grad(f)(nf.to_device(x)), nf.grad(f)(x))


def test_what_a_device_cannot_do_is_done_by_the_host() -> None:
    def f(x):
        return nf.while_loop(lambda s: np.sum(s) < 100.0, lambda s: s * np.tanh(s) * 3, x)

    x = np.array([1.0, 2.0])
    want, back = nf.vjp(f, x)
    with pytest.warns(nf.DeviceWarning, match="vjp_fn runs on the host, between copies from and to cuda:0: tapes"):
        same(back(nf.to_device(want)), back(want))
    same(back(nf.to_device(want)), back(want))  # known by now
    with nf.device("cuda:0"), pytest.warns(nf.DeviceWarning, match="f runs on the host"):
        np.testing.assert_allclose(nf.vjp(f, x)[0], want)


def test_pullbacks_of_loops_of_unknown_length_stay_on_the_device() -> None:
    def f(x):
        return nf.while_loop(lambda s: np.sum(s) < 100.0, lambda s: s * np.tanh(s) * 3, x)

    for value in (np.array([1.0, 2.0]), np.array([3.0, 0.5]), np.array([200.0, 1.0])):
        x = nf.to_device(value)
        (out, pullback), (want, back) = nf.vjp(f, x), nf.vjp(f, value)
        same(out, want)
        same(pullback(out), back(want))
        same(copy.deepcopy(pullback)(out), back(want))
        same(nf.vmap(lambda c: pullback(c))(nf.to_device(np.eye(2))), nf.vmap(lambda c: back(c))(np.eye(2)))
    with pytest.raises(TypeError, match="holds tapes"):
        pickle.dumps(pullback)
    each = nf.vmap(lambda s: nf.while_loop(lambda s: s < 9.0, lambda s: s * 1.5, s))
    lanes, plain = nf.vjp(each, nf.to_device(X[:, 0] ** 2)), nf.vjp(each, X[:, 0] ** 2)
    same(lanes[1](lanes[0]), plain[1](plain[0]))


def test_random_numbers_are_those_of_the_host() -> None:
    key = nf.to_device(nf.random.key(3))
    same(nf.random.normal(key, (4,)), nf.random.normal(nf.random.key(3), (4,)))
    f = nf.jit(lambda x, rng: x + rng.normal(size=3))
    same(f(nf.to_device(X), np.random.default_rng(1)), X + np.random.default_rng(1).normal(size=3))


def test_python_is_called_back_with_host_arrays() -> None:
    seen = []

    def double(a):
        seen.append(type(a))
        return a * 2

    f = nf.jit(lambda x: nf.pure_callback(double, nf.spec((5, 3)), np.tanh(x)) + 1)
    for _ in range(2):
        same(f(nf.to_device(X)), np.tanh(X) * 2 + 1)
    assert seen == [np.ndarray] * 2
    f = nf.jit(lambda x: nf.pure_callback(np.sum, nf.spec((), float), x) * 2)
    same(f(nf.to_device(X)), X.sum() * 2)


def test_static_arguments_and_outputs() -> None:
    f = nf.jit(lambda x, n: (x**n, n), static_argnums=1)
    made, n = f(nf.to_device(X), 3)
    assert n == 3
    same(made, X**3)


def test_results_that_are_arguments_or_constants_are_copies() -> None:
    x = nf.to_device(X)
    f = nf.jit(lambda x: (x, x, np.arange(3.0)))
    a, b, c = f(x)
    same((a, b, c), (X, X, np.arange(3.0)))
    assert len({x.address, a.address, b.address}) == 3
    c[0] = 5.0
    same(f(x)[2], np.arange(3.0))


def test_empty_arrays() -> None:
    f = nf.jit(lambda x: (x * 2, x.sum()))
    for _ in range(3):
        same(f(nf.to_device(np.zeros((0, 3)))), (np.zeros((0, 3)), 0.0))


# -- failures


def test_a_failed_check_is_raised_when_its_result_is_looked_at() -> None:
    f = nf.jit(lambda x, i: x[i])
    x, bad, good = on(X, np.array([9]), np.array([1]))
    made = f(x, bad)
    with pytest.raises(nf.BoundsError, match=r"axis of size 5\n  File .*test_cuda_api.py") as caught:
        np.asarray(made)
    assert caught.value.location.function.endswith("<lambda>")
    lengths = set()
    for _ in range(3):
        with pytest.raises(nf.BoundsError) as caught:
            made.copy_to_host()  # it stays wrong
        lengths.add(len(caught.traceback))
    assert len(lengths) == 1  # the frames of one look, not of all
    for _ in range(3):
        same(f(x, good), X[[1]])


def test_results_of_failed_calls_are_no_arguments() -> None:
    f, double = nf.jit(lambda x, i: x[i]), nf.jit(lambda x: x * 2)
    x, bad, good = on(X, np.array([9]), np.array([1]))
    same(double(f(x, good)), 2 * X[[1]])
    same(double(f(x, good)), 2 * X[[1]])
    made, target = f(x, bad), nf.to_device(np.zeros((1, 3)))
    target[...] = made  # before anybody knows
    with pytest.raises(nf.BoundsError):
        np.asarray(made)
    for use in (double, lambda r: r + 1, lambda r: np.stack([r, r]), lambda r: r[:1].sum(), lambda r: r.astype("f4")):
        with pytest.raises(nf.BoundsError):
            use(made)
    y = nf.to_device(np.zeros((1, 3)))
    with pytest.raises(nf.BoundsError):
        y[...] = made
    same(y, np.zeros((1, 3)))
    with pytest.raises(nf.BoundsError):
        np.asarray(target)
    same(double(f(x, good)), 2 * X[[1]])


def test_a_failed_check_is_raised_by_synchronize_or_the_next_call() -> None:
    f = nf.jit(lambda x, i: x[i])
    x, bad, good = on(X, np.array([9]), np.array([1]))
    f(x, bad)
    with pytest.raises(IndexError):
        nf.synchronize()
    nf.synchronize()
    f(x, bad)
    nf.device().driver.synchronize(0)  # the next call raises where the host has been told by then
    with pytest.raises(IndexError):
        f(x, good)
    same(f(x, good), X[[1]])


def test_a_failed_check_is_raised_at_once_for_arrays_of_the_host() -> None:
    f = nf.jit(lambda x, i: x[i], target="cuda")
    with pytest.raises(IndexError, match="axis of size 5"):
        f(X, np.array([9]))
    np.testing.assert_array_equal(f(X, np.array([1])), X[[1]])

    def write(u, i):
        u += u[i]

    u = X.copy()
    with pytest.raises(IndexError):
        nf.jit(write, target="cuda")(u, np.array([9]))
    np.testing.assert_array_equal(u, X)


def test_singular_matrices() -> None:
    made = nf.jit(np.linalg.solve)(*on(np.zeros((2, 2)), np.ones(2)))
    with pytest.raises(np.linalg.LinAlgError):
        np.asarray(made)


@pytest.mark.skipif(HARDWARE, reason="of the simulator")
def test_memory_runs_out() -> None:
    with pytest.raises(nf.DeviceMemoryError, match=r"no memory left for 32.0 GiB: 16.0 GiB of 16.0 GiB are free") as e:
        nf.jit(lambda x: np.zeros(1 << 32) + x)(nf.to_device(1.0))
    assert isinstance(e.value, MemoryError)


# -- other libraries


class Theirs:
    """An array of another library: that has nothing but the interface."""

    def __init__(self, array, **changes) -> None:
        self.array, self.changes = array, changes

    @property
    def __cuda_array_interface__(self):
        return {**self.array.__cuda_array_interface__, **self.changes}


class Tensor(Theirs):
    """As torch's: a dtype that is none of NumPy's, and nothing else but the interface."""

    dtype = object()


def test_results_go_to_arrays_of_other_libraries() -> None:
    f = nf.jit(lambda x: x * 2)
    x, place = nf.to_device(X), nf.to_device(np.zeros_like(X))
    out = Tensor(place)
    assert f(x, out=out) is out
    same(place, X * 2)
    with pytest.raises(ValueError, match="out is read-only"):
        f(x, out=Tensor(place, data=(place.address, True)))
    with pytest.raises(ValueError, match="returns an array of shape"):
        f(x, out=Tensor(place[0]))
    with pytest.raises(TypeError, match="of dtype float64 here, got float32"):
        f(x, out=Tensor(place.astype("f4")))
    with pytest.raises(TypeError, match=r"expected an array .*, got Other"):
        f(x, out=type("Other", (), {"shape": X.shape, "dtype": X.dtype})())
    with pytest.raises(TypeError, match="got DeviceArray on a device, and the call runs on the host"):
        f(X, out=place)


def test_arrays_of_others_are_taken_as_they_are() -> None:
    x = nf.to_device(X)
    f = nf.jit(lambda x: np.tanh(x).sum(axis=0))
    uploads = counts()["upload"]
    for theirs in (Theirs(x), Theirs(x, stream=None), Theirs(x, version=2), Theirs(x.T)):
        want = np.tanh(np.asarray(theirs.array)).sum(axis=0)
        same(f(theirs), want)
    assert counts()["upload"] == uploads
    captured = Theirs(x)
    same(nf.jit(lambda y: y * captured)(X), X * X)
    assert nf.to_device(Theirs(x)).address == x.address
    same(x + Theirs(x), X + X)


def test_streams_of_others_are_respected() -> None:
    x = nf.to_device(X)
    waits = counts()["wait"]
    nf.jit(lambda x: x + 1)(Theirs(x, stream=99))
    assert counts()["wait"] > waits
    with pytest.raises(TypeError, match="stream 0 is ambiguous"):
        nf.jit(lambda x: x + 1)(Theirs(x, stream=0))


def test_read_only_and_masked_arrays_of_others() -> None:
    x = nf.to_device(X)

    def f(u):
        u += 1

    with pytest.raises(ValueError, match="read-only"):
        nf.jit(f)(Theirs(x, data=(x.address, True)))
    nf.jit(f)(Theirs(x))
    same(x, X + 1)
    with pytest.raises(TypeError, match="mask"):
        nf.to_device(Theirs(x, mask=x))
    with pytest.raises(TypeError, match="no multiple of their items"):
        nf.jit(lambda x: x + 1)(Theirs(x, data=(x.address + 4, False), shape=(14,), strides=None))


@pytest.mark.skipif(HARDWARE, reason="of the simulator")
def test_the_interface_of_ours() -> None:
    x = nf.to_device(X)
    given = x.T.__cuda_array_interface__
    assert given["shape"] == (3, 5)
    assert given["strides"] == X.T.strides
    assert (given["typestr"], given["version"], given["stream"]) == ("<f8", 3, 1)
    data = np.frombuffer((ctypes.c_char * 120).from_address(given["data"][0]), np.float64)
    np.testing.assert_array_equal(data.reshape(5, 3), X)


@pytest.mark.skipif(HARDWARE, reason="of the simulator")
def test_dlpack_there_and_back() -> None:
    x = nf.to_device(X)
    np.testing.assert_array_equal(np.from_dlpack(x), X)
    np.testing.assert_array_equal(np.from_dlpack(x.T[1:]), X.T[1:])
    for version in (None, (1, 0)):
        back = nf.from_dlpack(x.__dlpack__(max_version=version))
        assert back.address == x.address
        same(back, X)
    host = np.arange(6.0).reshape(2, 3)
    shared = nf.from_dlpack(host)
    host[0, 0] = 7.0
    same(nf.jit(lambda a: a * 2)(shared), host * 2)


def test_dlpack_capsules_are_used_once_and_let_go() -> None:
    from nufunc.runtime.cuda import interop

    x = nf.to_device(X)
    held = len(interop._HELD)
    capsule = x.__dlpack__()
    assert len(interop._HELD) == held + 1
    taken = nf.from_dlpack(capsule)
    with pytest.raises(TypeError, match="used once"):
        nf.from_dlpack(capsule)
    del taken, capsule
    nf.synchronize()  # until then the device may use it
    assert len(interop._HELD) == held
    unused = x.__dlpack__(max_version=(1, 1))
    del unused
    assert len(interop._HELD) == held
    x.readonly = True
    with pytest.raises(BufferError, match="read-only"):
        x.__dlpack__()
    assert nf.from_dlpack(x.__dlpack__(max_version=(1, 0))).readonly
    with pytest.raises(BufferError, match="cannot be handed"):
        x.__dlpack__(max_version=(1, 0), dl_device=(2, 5))


@pytest.mark.skipif(HARDWARE, reason="of the simulator")
def test_streams_order_calls() -> None:
    x = nf.to_device(X)
    f = nf.jit(lambda x: x * 2)
    stream = SimpleNamespace(cuda_stream=77)  # as torch's
    with nf.device(0).on_stream(stream):
        y = f(x)
        waits = counts()["wait"]
        assert waits > 0
        z = f(y)
        assert counts()["wait"] == waits
    same([f(z), z], [X * 8, X * 4])
    assert nf.device(0).lasting[77] is stream
    with pytest.raises(TypeError, match="CUDA stream"), nf.device(0).on_stream("fast"):
        pass


# -- looking inside


def test_stages_and_costs() -> None:
    w, x = on(W, X)
    f = nf.jit(nf.grad(loss))
    text = nf.dump(f, w, x, stage="device")
    assert "program loss(f64[3,4], f64[5,3])" in text
    assert "cuda.grid(1)" in nf.dump(f, w, x, stage="loops")
    lowered = nf.jit(nf.grad(loss), target="cuda").lower(nf.spec((3, 4)), nf.spec((5, 3)))
    assert "program loss" in lowered.as_text("device")
    assert lowered.cost().flops == nf.jit(nf.grad(loss)).lower(W, X).cost().flops
    np.testing.assert_allclose(lowered.compile()(W, X), nf.grad(loss)(W, X), rtol=1e-12)
    with pytest.raises(ValueError, match="'asm' is one of programs for the host"):
        lowered.as_text("asm")
    assert "program loss" in nf.dump(loss, W, X, stage="device")  # what it would be
    there = nf.jit(nf.grad(loss)).lower(nf.spec((3, 4), device="cuda:0"), nf.spec((5, 3), device="cuda:0")).compile()
    same(there(w, x), nf.grad(loss)(W, X))
    limited = nf.jit(nf.vmap(nf.grad(loss), in_dims=(None, 0)), max_bytes=2000)
    same(limited(w, nf.to_device(X[:, None])), nf.vmap(nf.grad(loss), in_dims=(None, 0))(W, X[:, None]))


def test_hardware_with_libraries_of_others() -> None:
    """CuPy's, torch's and JAX's arrays, where they and a device are there."""
    if not HARDWARE or STRICT:
        pytest.skip("takes a device")
    f = nf.jit(lambda x: np.tanh(x) * 2)
    for name in ("cupy", "torch", "jax"):
        try:
            module = __import__(name)
        except ImportError:
            continue
        if name == "jax":
            module.config.update("jax_enable_x64", True)
        theirs = module.tensor(X, device="cuda") if name == "torch" else (
            module.asarray(X) if name == "cupy" else module.numpy.asarray(X)
        )
        made = f(theirs)
        same(made, np.tanh(X) * 2)
        back = module.from_dlpack(made) if name != "jax" else module.dlpack.from_dlpack(made)
        host = back.cpu().numpy() if name == "torch" else back.get() if name == "cupy" else np.asarray(back)
        np.testing.assert_allclose(host, np.tanh(X) * 2, rtol=1e-12)


def test_explain_tells_of_devices() -> None:
    f = nf.jit(lambda a: a * 2)
    f(X)
    assert "on cuda:0" in str(nf.explain(f, nf.to_device(X)))
    with nf.device("cuda:0"):
        assert "it runs on cuda:0, and ran on the host" in str(nf.explain(f, X))
    f(nf.to_device(X))
    found = nf.explain(f, nf.to_device(X))
    assert (found.found, found.place) == ("memory", "cuda:0")
    assert " on cuda:0: found in memory" in str(found)
    assert "switched off by NUFUNC_CACHE" in str(found)
    assert nf.explain(f, X).place == "cpu"
    x = nf.to_device(X)
    captures = nf.jit(lambda a: a * x)
    captures(X)
    assert nf.explain(captures, X).place == "cuda:0"


def test_verify_runs_on_the_device() -> None:
    w, x = on(W, X)
    assert "machine code @loss: right" in nf.verify(nf.grad(loss), w, x)


def test_threads_share_a_function() -> None:
    w, x = on(W, X)
    f, want, wrong = nf.jit(nf.grad(loss)), nf.grad(loss)(W, X), []

    def work() -> None:
        wrong.extend(k for k in range(10) if not np.allclose(np.asarray(f(w, x)), want, rtol=1e-12))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_nans_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    x = nf.to_device(-X)
    with nf.debug_nans(), pytest.raises(nf.NaNError):
        nf.jit(lambda x: np.log(x) * 0 + np.log(-x))(x)
    monkeypatch.undo()
