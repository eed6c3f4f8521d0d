"""bfloat16 on devices: arrays, calls, other libraries, and training in mixed precision."""

from __future__ import annotations

import copy
import pickle
import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from cuda_device import HARDWARE, STRICT, device  # noqa: F401  (a fixture)

import nufunc as nf
from nufunc.ir.types import bfloat16

BF = bfloat16()
F4, F8 = np.dtype(np.float32), np.dtype(np.float64)
RNG = np.random.default_rng(0)
X = np.linspace(-2, 3, 12).reshape(3, 4).astype(BF)
simulated = pytest.mark.skipif(HARDWARE, reason="of the simulator")


def same(made: Any, want: Any, rtol: float = 0.0) -> None:
    assert isinstance(made, nf.DeviceArray)
    made, want = np.asarray(made), np.asarray(want)
    assert (made.dtype, made.shape) == (want.dtype, want.shape)
    wide = F8 if made.dtype == BF else made.dtype
    np.testing.assert_allclose(made.astype(wide), want.astype(wide), rtol=rtol, atol=rtol)


def test_arrays() -> None:
    x = nf.to_device(X)
    assert (x.dtype, x.nbytes, x.itemsize, x.strides) == (BF, 24, 2, (8, 2))
    same(x, X)
    assert "dtype=bfloat16" in repr(x)
    assert (float(x[0, 0]), x[2, 3].item(), x.tolist()[0][0], f"{x[0, 0]:.1f}") == (-2.0, 3.0, -2.0, "-2.0")
    same(pickle.loads(pickle.dumps(x)), X)
    same(copy.deepcopy(x), X)
    same(x[1:, ::2], X[1:, ::2])
    same(x.T.reshape(2, 6), X.T.reshape(2, 6))
    same(x.astype(np.float32), X.astype(F4))
    same(x.astype(np.int32), X.astype(np.int32))
    same(nf.to_device(np.array([1.5, 3.0, 1e39, np.pi])).astype(BF), np.array([1.5, 3.0, np.inf, np.pi]).astype(BF))
    own = np.empty_like(X)
    assert x.copy_to_host(own) is own
    assert own.tobytes() == X.tobytes()
    other = X.copy()
    for array in (x, other):
        array[1, ::2] = 0.1
        array[0] = array[2] * nf.bfloat16(2)
    same(x, other)


def test_operators() -> None:
    """As those of the host, compiled: Python's numbers are weak."""
    x = nf.to_device(X)
    wide = X.astype(F4)
    same(x + 1, (wide + 1).astype(BF))
    same(2.5 * x, (wide * 2.5).astype(BF))
    same(x / 3, (wide / 3).astype(BF))
    same(-x**2, (-(wide**2)).astype(BF))
    same(x // 1, (wide // 1).astype(BF))
    same(x < 0.5, wide < 0.5)
    same(x + x.astype(np.float32), wide + wide)
    same(x.sum(axis=0), wide.sum(axis=0).astype(BF))
    same(x.mean(), wide.mean().astype(BF), 2.0**-8)
    same(x.max(axis=1), wide.max(axis=1).astype(BF))
    same(x.argmax(axis=1), wide.argmax(axis=1))
    same(np.exp(x), np.exp(wide).astype(BF), 2.0**-7)
    same(np.concatenate([x, x]), np.concatenate([X, X]))
    same(x[np.array([2, 0])], X[[2, 0]])
    same(x @ x.T, (wide @ wide.T).astype(BF), 2.0**-7)


@pytest.mark.parametrize("where", ["device", "target", "context"])
def test_calls_with_numbers(where: str) -> None:
    """Numbers of bfloat16 travel with the others; calls take the short way from the second on."""
    target = {"target": "cuda"} if where == "target" else {}
    f = nf.jit(lambda x, scale, shift: x * scale + shift, **target)
    for k in range(3):
        scale, shift = nf.bfloat16(k + 0.5), float(k)
        product = (X.astype(F4) * F4.type(scale)).astype(BF)
        want = (product.astype(F4) + F4.type(shift)).astype(BF)
        if where == "device":
            same(f(nf.to_device(X), scale, shift), want)
        elif where == "target":
            assert f(X, scale, shift).tobytes() == want.tobytes()
        else:
            with nf.device("cuda:0"):
                assert f(X, scale, shift).tobytes() == want.tobytes()


# -- other libraries


class Theirs:
    """An array of another library."""

    def __init__(self, array: nf.DeviceArray, dtype: Any, **changes: Any) -> None:
        self.array, self.changes = array, changes
        if dtype is not None:
            self.dtype = dtype

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {**self.array.__cuda_array_interface__, **self.changes}


def test_the_interface_has_no_bfloat16() -> None:
    x = nf.to_device(X)
    assert not hasattr(x, "__cuda_array_interface__")
    with pytest.raises(AttributeError, match="use DLPack"):
        _ = x.__cuda_array_interface__


def test_two_bytes_of_others_are_what_they_say() -> None:
    bits = nf.to_device(X.view(np.uint16))
    for dtype in (BF, ml_dtypes.bfloat16, "torch.bfloat16"):
        theirs = Theirs(bits, dtype, typestr="<V2")
        same(nf.jit(lambda x: x * 2)(theirs), (X.astype(F4) * 2).astype(BF))
        assert nf.to_device(theirs).address == bits.address
    with pytest.raises(TypeError, match=r"V2.*not supported"):
        nf.to_device(Theirs(bits, None, typestr="<V2"))
    with pytest.raises(TypeError, match=r"V4.*not supported"):
        nf.to_device(Theirs(nf.to_device(X.view(np.uint32)), BF, typestr="<V4"))


@simulated
def test_dlpack_there_and_back() -> None:
    x = nf.to_device(X)
    for array, want in ((x, X), (x.T[1:], X.T[1:])):
        for version in (None, (1, 0)):
            back = nf.from_dlpack(array.__dlpack__(max_version=version))
            assert back.address == array.address
            same(back, want)


@simulated
def test_torch_shares_memory() -> None:
    torch = pytest.importorskip("torch")
    x = nf.to_device(X)
    theirs = torch.from_dlpack(x)
    assert theirs.dtype == torch.bfloat16
    np.testing.assert_array_equal(theirs.float().numpy(), X.astype(F4))
    theirs[0, 0] = 9.0
    assert float(x[0, 0]) == 9.0
    back = nf.from_dlpack(torch.arange(5, dtype=torch.bfloat16).__dlpack__())
    same(back * 3, np.arange(0, 15, 3).astype(BF))


@simulated
def test_jax_takes_our_arrays() -> None:
    jax = pytest.importorskip("jax")
    x = nf.to_device(X)
    theirs = jax.dlpack.from_dlpack(x)
    assert theirs.dtype == BF
    np.testing.assert_array_equal(np.asarray(theirs).view(np.uint16), X.view(np.uint16))
    same(nf.from_dlpack(theirs.__dlpack__()), X)


def test_hardware_with_libraries_of_others() -> None:
    """CuPy's, torch's and JAX's arrays of bfloat16, where they and a device are there."""
    if not HARDWARE or STRICT:
        pytest.skip("takes a device")
    f = nf.jit(lambda x: x * 2)
    want = (X.astype(F4) * 2).astype(BF)
    for name in ("cupy", "torch", "jax"):
        try:
            module = __import__(name)
        except ImportError:
            continue
        if name == "torch":
            theirs = module.tensor(X.astype(F4), device="cuda").to(module.bfloat16)
        else:
            theirs = module.asarray(X) if name == "cupy" else module.numpy.asarray(X)
        made = f(theirs)
        same(made, want)
        back = module.dlpack.from_dlpack(made) if name == "jax" else module.from_dlpack(made)
        host = back.float().cpu().numpy() if name == "torch" else back.get() if name == "cupy" else np.asarray(back)
        np.testing.assert_array_equal(np.asarray(host).astype(F4), want.astype(F4))


# -- functions

MATRIX = RNG.normal(size=(20, 24)).astype(BF)
SQUARE = RNG.normal(size=(24, 24)).astype(BF)
IMAGES, KERNELS = RNG.normal(size=(2, 3, 8, 8)).astype(BF), RNG.normal(size=(4, 3, 3, 3)).astype(BF)


def softmax(x: Any) -> Any:
    y = np.exp(x - x.max(axis=1, keepdims=True))
    return y / y.sum(axis=1, keepdims=True)


def added(x: Any) -> Any:
    y = x.copy()
    np.add.at(y, (np.array([1, 5, 1, 1]),), 1.5)
    y[np.array([2, 3])] = 7
    return y


PROGRAMS = {
    "softmax": softmax,
    "transpose": lambda x: x.T.copy(),
    "running sums": lambda x: np.cumsum(x, axis=1),
    "order": lambda x: (np.sort(x, axis=0), np.argsort(x, axis=1, kind="stable"), np.argmax(x, axis=0)),
    "writes": added,
    "products": lambda x: (x @ x.T, x @ x[0], np.einsum("ij,ij->i", x, x), x[:4] @ x[:4].T),
    "convolution": lambda x: nf.nn.functional.conv2d(IMAGES * x[0, 0], KERNELS, padding=1),
    "scan": lambda x: nf.scan(lambda c, row: (np.tanh(SQUARE @ c + row), c), x[0], x),
    "scan's gradient": nf.grad(lambda x: (nf.scan(lambda c, r: (np.tanh(SQUARE @ c + r), c), x[0], x)[1] ** 2).mean()),
    "lanes": nf.vmap(lambda r: nf.while_loop(lambda s: s.sum() < 99, lambda s: s * 1.5 + 1, np.abs(r))),
    "lanes' gradient": nf.vmap(
        nf.grad(lambda r: nf.while_loop(lambda s: s.sum() < 99, lambda s: s * 1.5 + r * r, np.abs(r) + 1).sum())
    ),
    "branch": lambda x: nf.cond(x.sum() > 0, lambda v: v * 2, lambda v: -v, x),
}


@pytest.mark.parametrize("way", ["own", "host"])
@pytest.mark.parametrize("name", PROGRAMS)
def test_like_the_host(monkeypatch: pytest.MonkeyPatch, name: str, way: str) -> None:
    monkeypatch.setenv("NUFUNC_CUDA_LIBRARIES", way)
    f = nf.jit(PROGRAMS[name])
    made, want = f(nf.to_device(MATRIX)), f(MATRIX)
    for m, w in zip(*((r if isinstance(r, tuple) else (r,)) for r in (made, want)), strict=True):
        same(m, w, 2.0**-6)


def test_long_sums_do_not_stop() -> None:
    """In bfloat16 256 + 1 is 256: what is added up is float32."""
    ones = np.ones((4, 2048), BF)
    x = nf.to_device(ones)
    same(x.sum(axis=1), np.full(4, 2048).astype(BF))
    same(x @ x.T, np.full((4, 4), 2048).astype(BF))
    same(x[:2, :512] @ x[0, :512], np.full(2, 512).astype(BF))
    same(nf.jit(lambda x: nf.fori_loop(0, 2, lambda i, c: c * 0 + x[:, :300] @ x[0, :300], x[:, 0]))(x),
         np.full(4, 300).astype(BF))  # fmt: skip


def loss(params: Any, x: Any, y: Any) -> Any:
    """Master weights are float32, the network computes in bfloat16."""
    first, bias, second = (p.astype(nf.bfloat16) for p in params)
    hidden = np.tanh(x.astype(nf.bfloat16) @ first + bias)
    return np.mean(((hidden @ second).astype(np.float32) - y) ** 2)


@pytest.mark.parametrize("way", ["own", "host"])
def test_training_in_mixed_precision(monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    monkeypatch.setenv("NUFUNC_CUDA_LIBRARIES", way)
    params = (
        (RNG.normal(size=(12, 16)) * 0.3).astype(F4), np.zeros(16, F4), (RNG.normal(size=(16, 3)) * 0.3).astype(F4),
    )  # fmt: skip
    x, y = RNG.normal(size=(32, 12)).astype(F4), RNG.normal(size=(32, 3)).astype(F4)
    per_sample = nf.jit(nf.vmap(nf.grad(loss), in_dims=(None, 0, 0)))
    rows = x[:, None, :], y[:, None, :]
    wanted = per_sample(params, *rows)
    for made, want in zip(per_sample(*nf.to_device((params, *rows))), wanted, strict=True):
        same(made, want, 2.0**-6)

    @nf.jit
    def step(params: Any, x: Any, y: Any) -> Any:
        value, slopes = nf.value_and_grad(loss)(params, x, y)
        return value, tuple(p - np.float32(0.1) * s for p, s in zip(params, slopes))

    here, there = params, nf.to_device(params)
    given = nf.to_device((x, y))
    values = []
    for _ in range(5):
        value, here = step(here, x, y)
        made, there = step(there, *given)
        assert all(p.dtype == F4 for p in there)
        np.testing.assert_allclose(float(made), float(value), rtol=0.02)
        values.append(float(made))
    assert values[-1] < values[0]


def test_what_is_counted() -> None:
    """As much as for float16."""
    f = nf.jit(lambda x: np.tanh(x @ x.T) + 1)
    costs = [f.lower(nf.to_device(MATRIX.astype(dtype))).cost() for dtype in (BF, np.float16)]
    assert costs[0].flops == costs[1].flops > 2 * 20 * 20 * 24
    assert costs[0].transcendentals == costs[1].transcendentals == 400
    assert costs[0].peak_bytes == costs[1].peak_bytes


def test_programs_are_shown_with_their_type() -> None:
    text = str(nf.dump(lambda x: x @ x.T, nf.to_device(MATRIX), stage="device"))
    assert "bf16[20,20] = dot(input0: bf16[20,24]" in text
