"""Convolutions by cuDNN, run by a stand-in of the library on host memory: against the primitive's own rule, the CPU."""

from __future__ import annotations

import functools
import itertools
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from cuda_device import HARDWARE
from fake_cudnn import ENGINES, Engine, FakeCudnn
from test_codegen_ops import BY_PRIMITIVE
from test_cuda_libraries import CONVS, HALVES, conv_attrs, device_call, numbers

import nufunc as nf
from nufunc.codegen.cuda import libraries, library_cudnn
from nufunc.codegen.cuda.library_steps import Lowered, Routine
from nufunc.ir import primitive
from nufunc.ir.errors import DeviceError, DeviceWarning
from nufunc.ir.prims.conv import _for_w, _for_x
from nufunc.ir.types import type_of
from nufunc.runtime.cuda import cudnn, nvidia

F = nf.nn.functional
TOLERANCES = {"float16": 4e-3, "bfloat16": 3e-2, "float32": 2e-4, "float64": 1e-9}


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeCudnn]:
    """cuDNN for all that it can do."""
    made = FakeCudnn()
    install(monkeypatch, made)
    yield made
    assert not made.problems, "\n".join(made.problems)


@pytest.fixture
def serving(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> FakeCudnn | None:
    """The same; on hardware the library itself."""
    if not HARDWARE:
        return request.getfixturevalue("fake")
    if cudnn.library() is None:
        pytest.skip("cuDNN is not installed")
    ask_for_all(monkeypatch)
    return None


def install(monkeypatch: pytest.MonkeyPatch, made: FakeCudnn) -> None:
    if HARDWARE:
        pytest.skip("stands in for hardware")
    found = cudnn.Library(made)
    monkeypatch.setattr(cudnn, "library", lambda: found)
    for name in ("_handles", "_plans"):
        monkeypatch.setattr(cudnn, name, {})
    ask_for_all(monkeypatch)


def ask_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library_cudnn, "SMALL", 0)
    monkeypatch.setattr(libraries, "_KEPT", {})
    monkeypatch.setenv("NUFUNC_CUDA_LIBRARIES", "nvidia")
    monkeypatch.delenv("NUFUNC_CUDA_TF32", raising=False)


@pytest.fixture
def simulated(monkeypatch: pytest.MonkeyPatch, fake: FakeCudnn) -> Iterator[FakeCudnn]:
    """A simulated device with cuDNN."""
    monkeypatch.setenv("NUFUNC_CUDA_SIMULATOR", "1")
    nf.clear_cache()
    yield fake
    nf.clear_cache()


def lowered(arrays: list[np.ndarray], attrs: dict[str, Any]) -> Lowered:
    operands = [type_of(a) for a in arrays]
    results = primitive.get("conv").infer(operands, attrs, ())
    return libraries.lowered("conv", operands, list(results), attrs, 7, True)


def operation(arrays: list[np.ndarray], attrs: dict[str, Any]) -> str | None:
    """What cuDNN does for a convolution; None: our own kernel does it."""
    steps = lowered(arrays, attrs).steps
    return next((s.numbers["convolution"].operation for s in steps if isinstance(s, Routine)), None)


def check(fake: FakeCudnn | None, arrays: list[np.ndarray], attrs: dict[str, Any]) -> str | None:
    """A call on a device, where cuDNN has an operation, is what the primitive's own rule gives."""
    found = operation(arrays, attrs)
    if found is None:
        return None
    before = fake.calls["cudnnBackendExecute"] if fake is not None else 0
    made, wanted, error = device_call("conv", arrays, attrs)
    assert not error
    assert fake is None or fake.calls["cudnnBackendExecute"] == before + 1
    assert (made[0].dtype, made[0].shape) == (wanted[0].dtype, wanted[0].shape)
    tolerance = TOLERANCES[made[0].dtype.name]
    x, y = (a.astype(np.float64) for a in (made[0], wanted[0]))
    np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance * max(1, np.abs(y).max(initial=0)))
    return found


@pytest.mark.parametrize("dtype", [np.float32, np.float64, *HALVES])
def test_forms(serving: FakeCudnn | None, dtype: Any) -> None:
    found = []
    for k, (x, w, out, window, left, right, rows) in enumerate(CONVS):
        arrays = [numbers(left, dtype, k), numbers(right, dtype, k + 1)]
        found.append(check(serving, arrays, conv_attrs(x, w, out, window, rows)))
    assert found[0:3] == ["fprop"] * 3
    assert found[3:5] == ["dgrad", "fprop"]  # zeros between; w is the image
    assert found[9:12] == ["wgrad", "wgrad", "dgrad"]


ROWS_OF_CONV = BY_PRIMITIVE["conv"]


def test_table(serving: FakeCudnn | None) -> None:
    assert len(ROWS_OF_CONV) > 10
    found = []
    for row in ROWS_OF_CONV:
        operands = row.operands()
        if operands[0].dtype.name in TOLERANCES and row.reference is not None:
            found.append(check(serving, operands, dict(row.attrs)))
    assert {"fprop", "dgrad", "wgrad"} <= set(found)


SPATIAL = ["h", "hw", "dhw"]
LAYOUTS = [  # x, w and the result with "." for the window
    ("nc.", "oc.", "no."), ("n.c", ".co", "n.o"), ("c.", "oc.", "o."), ("gc.", "goc.", "go."), ("g.", "g.", "g."),
    ("ngc.", "goc.", "ngo."), ("gnc.", "goc.", "gno."), ("anc.", "oc.", "ano."), ("nac.", "oc.", "nao."),
    ("cn.", "co.", "on."), ("nc.", "aoc.", "ano."), ("nc.", "aoc.", "nao."), ("abc.", "aboc.", "abo."),
]  # fmt: skip
EXTENTS = {"n": 3, "c": 2, "o": 4, "g": 2, "a": 2, "b": 3}


def generated(window: str, seed: int) -> Iterator[tuple[list[np.ndarray], dict[str, Any]]]:
    random = np.random.default_rng(seed)
    for x, w, out in LAYOUTS:
        names = [text.replace(".", window) for text in (x, w, out)]
        kernel = dict(zip(window, random.integers(1, 4, len(window)), strict=True))
        rows, image = [], {}
        for n in window:
            stride, dilation, offset, rest = (int(random.integers(*r)) for r in ((1, 4), (1, 3), (0, 4), (0, 3)))
            extent = int(random.integers(2, 5))
            reach = (extent - 1) * stride + (int(kernel[n]) - 1) * dilation + 1
            image[n] = max(1, reach - offset - int(random.integers(0, 3))) + rest
            rows.append((stride, dilation, 1, offset, extent))
        shape = lambda text, own: tuple(int(own[n]) if n in window else EXTENTS[n] for n in text)
        left, right = shape(names[0], image), shape(names[1], kernel)
        dtype = np.float64 if seed % 2 else np.float32
        yield [numbers(left, dtype, seed), numbers(right, dtype, seed + 1)], conv_attrs(*names, window, rows)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("window", SPATIAL)
def test_generated(serving: FakeCudnn | None, window: str, seed: int) -> None:
    """Layouts, groups, strides, dilations, padding of any kind; with the convolutions for both cotangents."""
    found = []
    for arrays, attrs in generated(window, seed):
        found.append(check(serving, arrays, attrs))
        types = [type_of(a) for a in arrays]
        (result,) = primitive.get("conv").infer(types, attrs, ())
        ct = numbers(result.shape, result.dtype, seed + 2)
        found.append(check(serving, [ct, arrays[1]], _for_x(types, attrs)))
        found.append(check(serving, [arrays[0], ct], _for_w(types, attrs)))
    assert {"fprop", "dgrad", "wgrad"} <= set(found)
    assert found.count(None) < len(found) // 3


def test_padding(fake: FakeCudnn) -> None:
    """In front and behind, as the extents say; where the result ends early, the image does."""
    for offset, extent, n, want in (
        (1, 9, 9, (1, 1, 9)), (2, 9, 9, (2, 0, 9)), (0, 9, 9, (0, 2, 9)), (0, 4, 9, (0, 0, 6)), (3, 13, 9, (3, 3, 9)),
    ):  # fmt: skip
        arrays = [numbers((2, 3, n), np.float32), numbers((4, 3, 3), np.float32)]
        attrs = conv_attrs("nch", "och", "noh", "h", [(1, 1, 1, offset, extent)])
        made = lowered(arrays, attrs)
        found = made.steps[0].numbers["convolution"]
        assert (found.pre[1], found.post[1], found.image.shape[3]) == want
        assert found.image.strides[:2] == (3 * n, n)
    strided = conv_attrs("nch", "och", "noh", "h", [(2, 1, 1, 1, 5)])
    (step,) = lowered([numbers((2, 3, 10), np.float32), numbers((4, 3, 3), np.float32)], strided).steps
    assert (step.numbers["convolution"].pre, step.numbers["convolution"].post) == ((0, 1), (0, 1))


def test_own_kernel_for_what_is_odd(fake: FakeCudnn, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = conv_attrs("nch", "och", "noh", "h", [(1, 1, 1, 1, 9)])
    arrays = [numbers((2, 3, 9), np.float32), numbers((4, 3, 3), np.float32)]
    assert operation(arrays, plain) == "fprop"
    for dtype in (np.complex64, np.int32):
        assert operation([a.astype(dtype) for a in arrays], plain) is None
    assert operation([arrays[0][:, :, :0], arrays[1]], plain) is None
    assert check(fake, arrays, conv_attrs("nch", "och", "noh", "h", [(2, 1, 1, -2, 3)])) == "wgrad"  # of w
    assert operation(arrays, conv_attrs("nch", "och", "noh", "h", [(2, 2, 1, -2, 2)])) is None  # begins inside of x
    four = conv_attrs("nabcd", "oabcd", "noabcd", "abcd", [(1, 1, 1, 0, 2)] * 4)
    assert operation([numbers((1, 3, 3, 3, 3), np.float32), numbers((1, 2, 2, 2, 2), np.float32)], four) is None
    mixed = conv_attrs("nhw", "ohw", "nohw", "hw", [(2, 1, 1, 0, 2), (2, -1, 1, -1, 2)])
    assert operation([numbers((1, 4, 4), np.float32), numbers((1, 2, 2), np.float32)], mixed) is None
    monkeypatch.setattr(library_cudnn, "SMALL", 1 << 22)
    monkeypatch.setattr(libraries, "_KEPT", {})
    assert operation(arrays, plain) is None


# -- which engine


def test_engines(fake: FakeCudnn, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first one that is deterministic, as precise as asked for, and works in the memory that there is."""
    attrs = conv_attrs("nch", "och", "noh", "h", [(1, 1, 1, 1, 9)])
    for dtype, tf32, notes in (
        (np.float32, "", (9,)), (np.float32, "1", (0,)), (np.float64, "", (0,)), (np.float16, "", (0,)),
    ):  # fmt: skip
        monkeypatch.setenv("NUFUNC_CUDA_TF32", tf32)
        check(fake, [numbers((2, 3, 9), dtype), numbers((4, 3, 3), dtype)], attrs)
        assert fake.notes[-1] == notes
    assert len(fake.descriptors) == 4 * 8  # a plan, its engine, the graph, the operation, window, and tensors
    made = fake.calls["cudnnBackendCreateDescriptor"]
    check(fake, [numbers((2, 3, 9), np.float64), numbers((4, 3, 3), np.float64)], attrs)
    assert fake.calls["cudnnBackendCreateDescriptor"] == made + 1  # the plan is there: only pointers are new
    assert fake.calls["cudnnCreate"] == 1


def test_engines_of_last_resort(monkeypatch: pytest.MonkeyPatch) -> None:
    made = FakeCudnn(ENGINES[:4])
    install(monkeypatch, made)
    attrs = conv_attrs("nch", "och", "noh", "h", [(1, 1, 1, 1, 9)])
    arrays = [numbers((2, 3, 9), np.float32), numbers((4, 3, 3), np.float32)]
    check(made, arrays, attrs)
    assert made.notes == [()]
    assert not made.problems


@pytest.mark.parametrize("engines", [(), (Engine(supported=False), Engine((4,)), Engine(workspace=1 << 50))])
def test_own_kernel_where_cudnn_has_none(monkeypatch: pytest.MonkeyPatch, engines: tuple[Engine, ...]) -> None:
    made = FakeCudnn(engines, engines)
    install(monkeypatch, made)
    arrays = [numbers((2, 3, 9), np.float32), numbers((4, 3, 3), np.float32)]
    attrs = conv_attrs("nch", "och", "noh", "h", [(1, 1, 1, 1, 9)])
    (got,), (wanted,), error = device_call("conv", arrays, attrs)
    assert not error
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)
    assert not made.calls["cudnnBackendExecute"]
    assert not made.descriptors  # all were given back
    assert not made.problems


def test_not_installed_or_not_usable(monkeypatch: pytest.MonkeyPatch) -> None:
    made = FakeCudnn()
    install(monkeypatch, made)
    arrays = [numbers((2, 3, 9), np.float32), numbers((4, 3, 3), np.float32)]
    attrs = conv_attrs("nch", "och", "noh", "h", [(1, 1, 1, 1, 9)])
    monkeypatch.setattr(made, "cudnnCreate", lambda target: 1001)
    monkeypatch.setattr(cudnn, "_LIBRARIES", [None])
    with pytest.warns(DeviceWarning, match="cuDNN cannot be used: CUDNN_STATUS_1001 in cudnnCreate"):
        (got,), (wanted,), _ = device_call("conv", arrays, attrs)
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)
    monkeypatch.setattr(cudnn, "library", lambda: None)
    monkeypatch.setattr(cudnn, "_plans", {})
    (got,), (wanted,), _ = device_call("conv", arrays, attrs)
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)


def test_failures_say_what_failed(fake: FakeCudnn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fake, "cudnnBackendExecute", lambda handle, plan, pack: 5000)
    fake.said = b"for a test"
    arrays = [numbers((2, 3, 9), np.float16), numbers((4, 3, 3), np.float16)]
    with pytest.raises(DeviceError, match=r"cuDNN fails in fprop of float16: CUDNN_STATUS_5000 in .* for a test"):
        device_call("conv", arrays, conv_attrs("nch", "och", "noh", "h", [(1, 1, 1, 1, 9)]))


# -- whole functions


def loss(x: Any, w: Any, v: Any) -> Any:
    y = np.tanh(F.conv2d(x, w, stride=2, padding=1))
    return np.sum(F.conv2d(y, v, dilation=2, padding=2, groups=2) ** 2)


X, W, V = (numbers(shape, np.float64, 9) for shape in ((3, 2, 9, 8), (4, 2, 3, 3), (4, 2, 3, 3)))


def same(made: Any, wanted: Any) -> None:
    for x, y in zip(made, wanted, strict=True):
        np.testing.assert_allclose(np.asarray(x), np.asarray(y), rtol=1e-9, atol=1e-9)


def test_gradients(simulated: FakeCudnn) -> None:
    gradient = nf.grad(loss, argnums=(0, 1, 2))
    same(nf.jit(gradient, target="cuda")(X, W, V), gradient(X, W, V))
    assert {k: simulated.calls[k] for k in ("fprop", "dgrad", "wgrad")} == {"fprop": 2, "dgrad": 2, "wgrad": 2}


def test_gradients_of_samples(simulated: FakeCudnn) -> None:
    """Each has kernels of its own, which makes groups."""
    gradient = nf.vmap(nf.grad(lambda x, w, v: loss(x[None], w, v), argnums=(1, 2)), in_dims=(0, None, None))
    same(nf.jit(gradient, target="cuda")(X, W, V), gradient(X, W, V))
    assert simulated.calls["wgrad"] == 2


def test_ensembles_and_curvature(simulated: FakeCudnn) -> None:
    w, v = (np.stack([a, a[::-1], 2 * a]) for a in (W, V))
    ensemble = nf.vmap(nf.grad(loss, argnums=1), in_dims=(None, 0, 0))
    same([nf.jit(ensemble, target="cuda")(X, w, v)], [ensemble(X, w, v)])
    curvature = lambda x, w, v: nf.jvp(nf.grad(lambda w: loss(x, w, v)), (w,), (w,))[1]
    same([nf.jit(curvature, target="cuda")(X, W, V)], [curvature(X, W, V)])


def test_memory_that_is_not_aligned(simulated: FakeCudnn) -> None:
    """Slices of device arrays may begin anywhere; cuDNN gets copies."""
    x, w = nf.to_device((np.concatenate([X[:1].ravel()[:1], X.ravel()]), W))
    inside = nf.jit(lambda x, w: F.conv2d(x, w))
    same([inside(x[1:].reshape(X.shape), w)], [F.conv2d(X, W)])
    assert simulated.calls["fprop"] == 1


def test_workspace(simulated: FakeCudnn) -> None:
    """All convolutions of a program work in the same part of its workspace, as large as the largest plan wants."""
    simulated.engines[3] = (Engine(workspace=1000), Engine(workspace=1 << 16))
    x, w, v = nf.to_device((X, W, V))
    gradient = nf.grad(loss, argnums=(0, 1, 2))
    for _ in range(2):
        same(nf.jit(gradient)(x, w, v), gradient(X, W, V))
        assert len(simulated.workspaces) == 6
        assert len(set(simulated.workspaces)) == 1
        simulated.workspaces.clear()
        simulated.engines[3] = simulated.engines[3][1:]
        cudnn._plans.clear()
        nf.clear_cache()


def test_dump_and_profile_say_who(simulated: FakeCudnn, monkeypatch: pytest.MonkeyPatch) -> None:
    conv = nf.jit(lambda x, w: F.conv2d(x, w), target="cuda")
    assert "by cudnn" in nf.dump(lambda x, w: F.conv2d(x, w), X, W, stage="device")
    assert "cudnn" in str(nf.profile(conv, X, W))
    nf.clear_cache()
    monkeypatch.setattr(cudnn, "library", lambda: None)
    monkeypatch.setattr(cudnn, "_plans", {})
    monkeypatch.setattr(cudnn, "_handles", {})
    assert "cudnn" not in str(nf.profile(conv, X, W))


def together(*works: Any) -> None:
    """Functions in threads of their own, which take turns all the time."""
    failures: list[BaseException] = []

    def run(work: Any) -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001
            failures.append(error)

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=run, args=(work,)) for work in works]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    assert not failures


def test_threads(fake: FakeCudnn) -> None:
    """The library is used by one thread at a time."""
    attrs = conv_attrs("nch", "och", "noh", "h", [(1, 1, 1, 1, 9)])

    def work(number: int) -> None:
        for k in range(4):
            arrays = [numbers((2 + k, 3, 9), np.float64, number), numbers((4, 3, 3), np.float64, k)]
            same(*device_call("conv", arrays, attrs)[:2])

    together(*(functools.partial(work, k) for k in range(4)))
    assert (fake.calls["cudnnCreate"], fake.calls["fprop"]) == (1, 16)


def test_threads_share_a_function(simulated: FakeCudnn) -> None:
    gradient = nf.jit(nf.grad(loss, argnums=(1, 2)), target="cuda")
    wanted = nf.grad(loss, argnums=(1, 2))(X, W, V)

    def work() -> None:
        for _ in range(4):
            same(gradient(X, W, V), wanted)

    together(*[work] * 3)


# -- recorded runs, through the driver's stand-in


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch, fake: FakeCudnn) -> Any:
    pytest.importorskip("cuda.bindings.driver")
    from fake_cuda import FakeCuda, installed

    made = FakeCuda()

    def queued(stream: int, run: Any) -> None:
        if stream in made.captures:
            made.library(stream, run)
        else:
            made.settle()
            run()

    fake.queued, fake.capturing = queued, lambda: bool(made.captures)
    monkeypatch.setattr(nvidia, "module", lambda name: None)
    with installed(monkeypatch, made):
        yield made


def test_recorded(driver: Any, fake: FakeCudnn) -> None:
    """The plans are built before the first run, and nothing but the runs themselves while one is recorded."""
    gradient = nf.jit(nf.grad(loss, argnums=(0, 1, 2)))
    x, w, v = nf.to_device((X, W, V))
    wanted = nf.grad(loss, argnums=(0, 1, 2))(X, W, V)
    for _ in range(5):
        same(gradient(x, w, v), wanted)
    assert driver.calls["cuGraphLaunch"] == 3
    assert fake.calls["cudnnCreate"] == 1
    other = nf.to_device((X + 1, W, V))
    same(gradient(*other), nf.grad(loss, argnums=(0, 1, 2))(X + 1, W, V))


def test_operations_are_a_kind_each() -> None:
    """Of all forms, those with nothing read backwards and the axes in cuDNN's order are taken."""
    for stride, dilation in itertools.product((1, 2), (1, 2)):
        extent = (12 + 2 - 2 * dilation - 1) // stride + 1
        arrays = [numbers((3, 4, 12, 12), np.float32), numbers((5, 4, 3, 3), np.float32)]
        attrs = conv_attrs("nchw", "ochw", "nohw", "hw", [(stride, dilation, 1, 1, extent)] * 2)
        types = [type_of(a) for a in arrays]
        ct = numbers((3, 5, extent, extent), np.float32)
        for operands, how, want in (
            (arrays, attrs, "fprop"), ([ct, arrays[1]], _for_x(types, attrs), "dgrad"),
            ([arrays[0], ct], _for_w(types, attrs), "wgrad"),
        ):  # fmt: skip
            made = Lowered("conv", tuple(map(type_of, operands)), primitive.get("conv").infer(
                [type_of(a) for a in operands], how, ()), how)  # fmt: skip
            roles = library_cudnn.roles(made)
            assert roles is not None
            assert roles.backwards is False
            names = {getattr(roles, role): name for role, name in library_cudnn.OPERATIONS.items()}
            assert names["out"] == want
