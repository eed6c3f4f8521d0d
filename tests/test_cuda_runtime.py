"""Memory, recorded runs, streams and errors of devices: on host memory, and on a stand-in of NVIDIA's driver."""

import gc
import os
import subprocess
import sys
import threading
import weakref

import numpy as np
import pytest
from fake_cuda import FakeCuda, has_driver, installed, real

import nufunc as nf
from nufunc.codegen.cuda.kernels import Kernel
from nufunc.codegen.cuda.plan import device_program
from nufunc.codegen.cuda.program import Copy, Operand, Place, Program
from nufunc.codegen.loops import Buffer
from nufunc.ir.types import ArrayType
from nufunc.runtime import pipeline
from nufunc.runtime.cuda import hardware
from nufunc.runtime.cuda.execute import MAX_GRAPHS, Machine
from nufunc.runtime.cuda.memory import Pool, no_memory, rounded
from nufunc.runtime.cuda.simulated import SimulatedDriver
from nufunc.runtime.function import Transformed

F64 = np.dtype(np.float64)


@pytest.fixture
def driver() -> SimulatedDriver:
    return SimulatedDriver()


@pytest.fixture
def pool(driver: SimulatedDriver) -> Pool:
    return Pool(driver, 1 << 20)


def machine_for(function, *values, driver=None, pool=None) -> Machine:
    program, _ = Transformed((), function).program_of(values, {})
    made = device_program(pipeline.grouped(program.graph, []), program.name)
    return Machine(made, driver, pool)


def held(pool: Pool, array: np.ndarray):
    block = pool.take(array.nbytes, 0)
    pool.driver.upload(block.address, array, 0)
    return block


def value(driver: SimulatedDriver, address: int, shape) -> np.ndarray:
    array = np.empty(shape)
    driver.download(array, address, 0)
    return array


# -- memory


def test_fresh_memory_is_poison(driver: SimulatedDriver, pool: Pool) -> None:
    block = pool.take(24, 0)
    assert block.address % 256 == 0
    assert np.isnan(value(driver, block.address, 3)).all()
    driver.upload(block.address, np.ones(3), 0)
    address = block.address
    del block
    again = pool.take(24, 0)
    assert again.address == address
    assert np.isnan(value(driver, address, 3)).all()
    assert driver.counts["allocate"] == 1


def test_use_of_memory_that_is_nobodys_is_found(driver: SimulatedDriver, pool: Pool) -> None:
    block = pool.take(64, 0)
    address = block.address
    with pytest.raises(nf.DeviceError, match=r"use of 1024 bytes at .* 512 bytes of device memory"):
        value(driver, address, 128)
    del block
    with pytest.raises(nf.DeviceError, match="after it was given back"):
        value(driver, address, 1)
    with pytest.raises(nf.DeviceError, match="address 0"):
        driver.clear(0, 8, 0)
    one = pool.take(512, 0)
    with pytest.raises(nf.DeviceError, match="overlaps its source"):
        driver.copy(one.address + 8, one.address, 64, 0)


def test_blocks_are_reused_by_size_and_stream(driver: SimulatedDriver, pool: Pool) -> None:
    first = pool.take(100, 0)
    address = first.address
    del first
    other = pool.take(100, 5)
    assert other.address != address
    assert pool.take(300, 0).address == address
    assert pool.used == 512
    assert pool.kept == 512


def test_a_block_that_other_streams_use_waits_for_them(driver: SimulatedDriver, pool: Pool) -> None:
    block = pool.take(8, 0)
    block.others = (7,)
    del block
    assert driver.counts["wait"] == 1


def test_what_is_kept_has_a_limit() -> None:
    driver = SimulatedDriver()
    pool = Pool(driver, 2048)
    blocks = [pool.take(512, 0) for _ in range(8)]
    blocks.clear()
    assert pool.kept <= 2048
    assert driver.counts["free"] == 4
    pool.trim()
    assert (pool.kept, pool.allocated, driver.used) == (0, 0, 0)


def test_memory_is_given_back_before_there_is_none() -> None:
    driver = SimulatedDriver(size=4096)
    pool = Pool(driver, 1 << 20)
    small = [pool.take(512, 0) for _ in range(6)]
    small.clear()
    assert pool.take(4096, 0).size == 4096
    with pytest.raises(nf.DeviceMemoryError, match=r"no memory left for 8.0 KiB: .* of 4.0 KiB are free") as caught:
        pool.take(8192, 0)
    assert isinstance(caught.value, nf.OutOfMemoryError)


@pytest.mark.parametrize("nbytes", [0, 1, 511, 513, 5000, 100_000, 10**6, (1 << 26) - 1, 10**9])
def test_sizes_are_rounded_a_little(nbytes: int) -> None:
    size = rounded(nbytes)
    assert nbytes <= size <= max(512, nbytes + max(512, nbytes // 15))
    assert size % 512 == 0
    assert rounded(size) == size


def test_the_message_of_no_memory() -> None:
    assert "no memory left for 3.0 GiB: 512.0 MiB of 80.0 GiB are free" in str(no_memory(3 << 30, 1 << 29, 80 << 30))


# -- runs


def test_runs_are_recorded_and_replayed(driver: SimulatedDriver, pool: Pool) -> None:
    x = np.arange(6.0)
    machine = machine_for(lambda x: np.tanh(x).sum() * x, x, driver=driver, pool=pool)
    given, out = held(pool, x), pool.take(48, 0)
    for k in range(4):
        driver.upload(given.address, x + k, 0)
        machine.run([given.address], [out.address], 0)
        np.testing.assert_allclose(value(driver, out.address, 6), np.tanh(x + k).sum() * (x + k))
    assert driver.counts["record"] == 1
    assert driver.counts["replay"] == 3


def test_few_recorded_runs_are_kept_and_strange_ones_not_made(driver: SimulatedDriver, pool: Pool) -> None:
    x = np.arange(6.0)
    machine = machine_for(lambda x: x * 2, x, driver=driver, pool=pool)
    given = held(pool, x)
    outs = [pool.take(48, 0) for _ in range(30)]

    def run(out) -> None:
        machine.run([given.address], [out.address], 0)
        np.testing.assert_array_equal(value(driver, out.address, 6), x * 2)

    for out in (*outs, *outs):  # whose addresses come back after too many others
        run(out)
    assert not machine.graphs
    for out in outs:
        for _ in range(3):
            run(out)
    assert len(machine.graphs) == MAX_GRAPHS
    assert driver.counts["record"] == len(outs)
    assert driver.counts["update"] == len(outs) - MAX_GRAPHS
    for _ in range(3):  # known by now
        run(outs[-1])
    assert driver.counts["record"] == len(outs)


def test_recorded_runs_are_of_their_stream_and_share_its_workspace(driver: SimulatedDriver, pool: Pool) -> None:
    x = np.arange(6.0)
    machine = machine_for(lambda x: np.cumsum(np.cumsum(x) ** 2), x, driver=driver, pool=pool)
    given, out, further = held(pool, x), pool.take(48, 0), pool.take(48, 0)
    for stream in (0, 0, 9, 9):
        machine.run([given.address], [out.address], stream)
    for _ in range(2):
        machine.run([given.address], [further.address], 0)
    np.testing.assert_allclose(value(driver, out.address, 6), np.cumsum(np.cumsum(x) ** 2))
    assert driver.counts["wait"] == 1  # for the constants
    first, other, last = machine.graphs.values()
    assert first.held is last.held is not None
    assert (other.held.stream, other.held is first.held) == (9, False)


def test_memory_of_recorded_runs_is_given_up_before_there_is_none() -> None:
    driver = SimulatedDriver(size=1 << 16)
    pool = Pool(driver, 1 << 20)
    x = np.arange(600.0)
    machine = machine_for(lambda x: np.cumsum(np.sort(x)), x, driver=driver, pool=pool)
    given, out = held(pool, x), pool.take(4800, 0)
    for _ in range(3):
        machine.run([given.address], [out.address], 0)
    assert machine.graphs
    kept = pool.used
    large = pool.take((1 << 16) - pool.used + 512, 0)
    assert not machine.graphs
    assert pool.used < kept + large.size
    del large
    machine.run([given.address], [out.address], 0)
    np.testing.assert_allclose(value(driver, out.address, 600), np.cumsum(x))
    pool.trim()
    assert not machine.workspaces


def test_constants_are_uploaded_once(driver: SimulatedDriver, pool: Pool) -> None:
    x = np.ones(5)
    machine = machine_for(lambda x: x + np.array([3.0, 1.0, 4.0, 1.0, 5.0]), x, driver=driver, pool=pool)
    assert len(machine.program.constants) == 1
    uploads = driver.counts["upload"]
    given, out = held(pool, x), pool.take(40, 0)
    for _ in range(3):
        machine.run([given.address], [out.address], 0)
    np.testing.assert_array_equal(value(driver, out.address, 5), [4.0, 2.0, 5.0, 2.0, 6.0])
    assert driver.counts["upload"] == uploads + 1  # that of `given`


def test_equal_kernels_are_loaded_once(driver: SimulatedDriver) -> None:
    source = "def k(x, y, error):\n    y[cuda.grid(1)] = x[cuda.grid(1)] + 1.0\n"
    make = lambda: Kernel("k", source, (Buffer("x", F64, 4), Buffer("y", F64, 4, written=True)), 0, 1, 4)
    assert driver.load(make()) is driver.load(make())


def test_copies_between_places(driver: SimulatedDriver, pool: Pool) -> None:
    kind = ArrayType((2,), F64)
    between = Place("workspace", 0, 16)
    steps = Copy(between, Place("constant"), 16), Copy(Place("output"), between, 16)
    program = Program("f", (), (Operand(Place("output"), kind),), (np.array([3.0, 4.0]),), 64, steps)
    machine, out = Machine(program, driver, pool), pool.take(16, 0)
    for _ in range(3):
        machine.run([], [out.address], 0)
        np.testing.assert_array_equal(value(driver, out.address, 2), [3.0, 4.0])
    assert driver.counts["copy"] == 6


def test_workspace_returns(driver: SimulatedDriver, pool: Pool) -> None:
    x = np.arange(600.0)
    machine = machine_for(lambda x: np.cumsum(np.sort(x)), x, driver=driver, pool=pool)
    used = pool.used
    given, out = held(pool, x), pool.take(4800, 0)
    for _ in range(5):
        machine.run([given.address], [out.address], 0)
    kept = pool.used
    for _ in range(5):
        machine.run([given.address], [out.address], 0)
    assert pool.used == kept
    del machine, given, out
    gc.collect()
    assert pool.used <= used


# -- NVIDIA's driver

W, X = np.random.default_rng(1).normal(size=(3, 4)), np.random.default_rng(2).normal(size=(5, 3))


def loss(w, x):
    return np.sum(np.tanh(x @ w) ** 2)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch):
    """Hardware whose driver is the stand-in."""
    with installed(monkeypatch, FakeCuda(devices=1, total=1 << 26)) as made:
        yield made


def test_calls_through_the_driver(fake: FakeCuda) -> None:
    w, x = nf.to_device((W, X))
    f = nf.jit(nf.grad(loss))
    want = nf.grad(loss)(W, X)
    for _ in range(5):
        np.testing.assert_allclose(np.asarray(f(w, x)), want, rtol=1e-12)
    assert fake.calls["cuGraphLaunch"] == 4
    assert fake.calls["cuGraphInstantiate"] == fake.calls["cuGraphDestroy"] >= 1
    assert (nf.device().name, nf.device().capability) == ("Fake device", (8, 0))


def test_a_replayed_call_is_one_call_of_the_driver(fake: FakeCuda) -> None:
    w, x = nf.to_device((W, X))
    f = nf.jit(nf.grad(loss))
    for _ in range(4):
        made = f(w, x)
    before = sum(fake.calls.values())
    for _ in range(10):
        made = f(w, x)
    assert sum(fake.calls.values()) == before + 10
    np.testing.assert_allclose(np.asarray(made), nf.grad(loss)(W, X), rtol=1e-12)


def check_new_addresses(f) -> None:
    """Calls of tanh(x) * 2 with more addresses than graphs are kept."""
    there = [nf.to_device(X + k) for k in range(14)]
    for k, x in enumerate(there):
        for _ in range(3):
            np.testing.assert_allclose(np.asarray(f(x)), np.tanh(X + k) * 2, rtol=1e-12)


def test_changed_addresses_update_graphs(fake: FakeCuda) -> None:
    f = nf.jit(lambda x: np.tanh(x) * 2)
    check_new_addresses(f)
    assert fake.calls["cuGraphExecUpdate"] >= 1
    assert fake.calls["cuGraphInstantiate"] == MAX_GRAPHS


def test_graphs_are_not_changed_where_another_thread_may_use_them(fake: FakeCuda) -> None:
    f = nf.jit(lambda x: np.tanh(x) * 2)
    done = threading.Event()
    other = threading.Thread(target=done.wait)
    other.start()
    try:
        check_new_addresses(f)
    finally:
        done.set()
        other.join()
    assert fake.calls["cuGraphExecUpdate"] == 0
    assert fake.calls["cuGraphInstantiate"] > MAX_GRAPHS
    assert fake.calls["cuGraphExecDestroy"] >= fake.calls["cuGraphInstantiate"] - MAX_GRAPHS - 1


def test_a_run_that_cannot_be_recorded_is_queued(fake: FakeCuda) -> None:
    fake.fail["cuStreamBeginCapture"] = real.CUresult.CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED
    f = nf.jit(lambda x: np.tanh(x) * 2)
    x = nf.to_device(X)
    f(x)
    with pytest.warns(nf.DeviceWarning, match="cannot be recorded"):
        made = f(x)
    for result in (made, f(x)):
        np.testing.assert_allclose(np.asarray(result), np.tanh(X) * 2, rtol=1e-12)
    assert not fake.calls["cuGraphLaunch"]


def test_a_graph_that_cannot_be_changed_is_made_anew(fake: FakeCuda) -> None:
    fake.fail["cuGraphExecUpdate"] = real.CUresult.CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE
    check_new_addresses(nf.jit(lambda x: np.tanh(x) * 2))
    assert fake.calls["cuGraphExecUpdate"] > fake.calls["cuGraphExecDestroy"] >= 1


def test_memory_goes_back_to_the_system(fake: FakeCuda) -> None:
    x = nf.to_device(np.zeros(100_000))
    device, before = nf.device(), fake.calls["cuMemFreeAsync"]
    del x
    device.trim()
    assert fake.calls["cuMemFreeAsync"] > before
    assert fake.calls["cuMemPoolTrimTo"] == 1
    assert (device.memory.kept, device.memory.used) == (0, 0)


def test_large_arrays_travel_in_pieces(fake: FakeCuda) -> None:
    big = np.random.default_rng(0).integers(0, 255, 9_500_001, np.uint8)
    there = nf.to_device(big)
    np.testing.assert_array_equal(np.asarray(there), big)
    assert fake.calls["cuMemcpyDtoHAsync"] == 3


def test_the_ring_of_uploads_goes_round(fake: FakeCuda) -> None:
    rng = np.random.default_rng(0)
    for _ in range(40):
        some = rng.normal(size=100_000)
        np.testing.assert_array_equal(np.asarray(nf.to_device(some)), some)
    assert fake.calls["cuEventSynchronize"] >= 4


def test_checks_and_streams_through_the_driver(fake: FakeCuda) -> None:
    f = nf.jit(lambda x, i: x[i])
    x, bad, good = nf.to_device((X, np.array([9]), np.array([1])))
    for _ in range(3):
        made = f(x, bad)
        with pytest.raises(IndexError, match="axis of size 5"):
            np.asarray(made)
        np.testing.assert_array_equal(np.asarray(f(x, good)), X[[1]])
    with nf.device().on_stream(0x99):
        np.testing.assert_array_equal(np.asarray(f(x, good)), X[[1]])
    assert fake.calls["cuStreamWaitEvent"] >= 1
    np.testing.assert_array_equal(np.asarray(x[::2, 1].copy()), X[::2, 1])


def test_memory_of_others_is_held_until_its_last_use_has_run(fake: FakeCuda) -> None:
    class Theirs:
        def __init__(self, array) -> None:
            self.array = array

        @property
        def __cuda_array_interface__(self):
            return self.array.__cuda_array_interface__

    x, f = nf.to_device(X), nf.jit(lambda x: x * 2)
    fake.busy = True
    for _ in range(3):
        theirs = Theirs(x)
        alive = weakref.ref(theirs)
        made = f(theirs)
        del theirs
        assert alive() is not None
    np.testing.assert_array_equal(np.asarray(made), X * 2)
    fake.busy = False
    f(Theirs(x))
    assert alive() is None


def test_threads_enter_the_context(fake: FakeCuda) -> None:
    x, results = nf.to_device(X), []
    f = nf.jit(lambda x: x * 2)
    f(x)
    entered = fake.calls["cuCtxSetCurrent"]
    thread = threading.Thread(target=lambda: results.append(np.asarray(f(x))))
    thread.start()
    thread.join()
    np.testing.assert_array_equal(results[0], X * 2)
    assert fake.calls["cuCtxSetCurrent"] == entered + 1


def test_no_memory_on_the_device(fake: FakeCuda) -> None:
    with pytest.raises(nf.DeviceMemoryError, match=r"no memory left for .* of 64.0 MiB are free"):
        nf.jit(lambda x: np.zeros(1 << 24) + x)(nf.to_device(1.0))


@pytest.mark.parametrize(
    ("result", "kind", "words"),
    [("CUDA_ERROR_ILLEGAL_ADDRESS", nf.LostDeviceError, "start another one"),
     ("CUDA_ERROR_LAUNCH_FAILED", nf.LostDeviceError, "CUDA_ERROR_LAUNCH_FAILED"),
     ("CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES", nf.LaunchError, r"launch of loop_0 \(1 blocks of \d+ threads\)"),
     ("CUDA_ERROR_UNKNOWN", nf.DeviceError, "CUDA_ERROR_UNKNOWN")],
)  # fmt: skip
def test_launches_that_fail(fake: FakeCuda, result: str, kind: type, words: str) -> None:
    fake.fail["cuLaunchKernel"] = getattr(real.CUresult, result)
    with pytest.raises(kind, match=words):
        nf.jit(lambda x: x * 2)(nf.to_device(X))


def test_code_that_the_driver_refuses(fake: FakeCuda) -> None:
    fake.fail["cuModuleLoadData"] = real.CUresult.CUDA_ERROR_NO_BINARY_FOR_GPU
    with pytest.raises(nf.DriverTooOldError, match="no code for this device"):
        nf.jit(lambda x: x * 2)(nf.to_device(X))
    fake.fail["cuModuleLoadDataEx"] = real.CUresult.CUDA_ERROR_UNSUPPORTED_PTX_VERSION
    with pytest.raises(nf.DriverTooOldError, match="the driver refuses the code of copy"):
        nf.to_device(X)[:, 1].copy()


@pytest.mark.skipif(has_driver(), reason="the stand-in needs a machine without NVIDIA's driver")
def test_drivers_that_do_not_start() -> None:
    too_old = FakeCuda(version=11040)
    with pytest.raises(nf.DriverTooOldError, match=r"the NVIDIA driver supports CUDA 11.4, but"):
        hardware.started(too_old)
    for name, kind, words in (
        ("CUDA_ERROR_NO_DEVICE", nf.NoDeviceError, "finds no CUDA device"),
        ("CUDA_ERROR_SYSTEM_DRIVER_MISMATCH", nf.DriverTooOldError, "does not fit"),
        ("CUDA_ERROR_SYSTEM_NOT_READY", nf.NoDriverError, "does not start: CUDA_ERROR_SYSTEM_NOT_READY"),
    ):
        fake = FakeCuda()
        fake.fail["cuInit"] = getattr(real.CUresult, name)
        with pytest.raises(kind, match=words):
            hardware.started(fake)
    with pytest.raises(nf.NoDriverError, match=r"libcuda.so.1 was not found"):
        hardware.started(real)


@pytest.mark.skipif(has_driver(), reason="there is a driver")
def test_without_a_driver_the_error_says_so() -> None:
    code = (
        "import numpy as np, nufunc as nf\n"
        "assert nf.devices() == []\n"
        "nf.synchronize()\n"
        "try: nf.jit(lambda x: x + 1, target='cuda')(np.ones(2))\n"
        "except nf.NoDriverError as error: print(error)\n"
    )
    env = {k: v for k, v in os.environ.items() if k != "NUFUNC_CUDA_SIMULATOR"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)
    assert done.stdout.startswith("no NVIDIA driver: libcuda.so.1 was not found")


def test_a_forked_process_is_told(fake: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    x = nf.to_device(X)
    monkeypatch.setattr(hardware, "_FORKED", [True])
    with pytest.raises(nf.DeviceError, match="'spawn' or 'forkserver'"):
        np.asarray(x)


@pytest.mark.skipif(has_driver(), reason="the stand-in needs a machine without NVIDIA's driver")
def test_several_devices_set_their_context(monkeypatch: pytest.MonkeyPatch) -> None:
    two = FakeCuda(devices=2)
    monkeypatch.setattr(hardware, "api", lambda: two)
    first, second = (hardware.HardwareDriver(k) for k in range(2))
    for driver, context in ((first, 0x77), (second, 0x78), (first, 0x77)):
        driver.memory()
        assert two.current is None  # as it was before
        with driver.entered():
            assert two.current == context
            second.memory()
            assert two.current == context


def test_compiled_kernels_are_kept_on_disk(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nufunc.codegen.cuda import codes
    from nufunc.codegen.cuda import compile as compiler
    from nufunc.runtime.cuda import kept

    monkeypatch.setenv("NUFUNC_CACHE", "1")
    monkeypatch.setenv("NUFUNC_CACHE_DIR", str(tmp_path))
    made = []
    code = codes.Code("module", "k", "// ptx", b"cubin", 8, 0)
    monkeypatch.setattr(compiler, "_compile", lambda kernels, capability: made.append(capability) or [code])
    source = "def k(x, y, error):\n    y[cuda.grid(1)] = x[cuda.grid(1)] * 3.0\n"
    kernel = Kernel("k", source, (Buffer("x", F64, 4), Buffer("y", F64, 4, written=True)), 0, 1, 4)
    for _ in range(2):
        codes.CODES.clear()
        assert compiler.compiled(kernel, (8, 0), kept.STORE) == code
    assert made == [(8, 0)]
    compiler.compiled(kernel, (9, 0), kept.STORE)
    assert made == [(8, 0), (9, 0)]
