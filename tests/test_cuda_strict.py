"""What can go wrong between a program, CUDA's driver and other libraries, on the strict stand-in of the driver."""

import gc
import os
import queue
import subprocess
import sys
import threading
import weakref
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from cuda_device import HARDWARE
from fake_cuda import FakeCuda, installed, real

import nufunc as nf
from nufunc.runtime.cuda import devices, driver, hardware, interop
from nufunc.runtime.cuda.memory import scratch

pytestmark = pytest.mark.skipif(HARDWARE, reason="stands in for hardware")
X = np.random.default_rng(2).normal(size=(5, 3))
RESULT = real.CUresult


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest):
    monkeypatch.setenv("NUFUNC_CUDA_FALLBACK", "0")
    with installed(monkeypatch, FakeCuda(devices=getattr(request, "param", 1), total=1 << 26)) as made:
        yield made


class Theirs:
    """An array of another library, on a stream of its own."""

    def __init__(self, array, stream=1) -> None:
        self.array, self.stream = array, stream

    @property
    def __cuda_array_interface__(self):
        return self.array.__cuda_array_interface__ | {"stream": self.stream}


# -- the stand-in itself


def test_uses_in_no_order_are_found() -> None:
    with pytest.raises(AssertionError, match="in no order"), pytest.MonkeyPatch.context() as monkeypatch:
        with installed(monkeypatch, FakeCuda()):
            x = nf.to_device(X)
            other = x.device.driver.new_stream()
            x.device.driver.clear(x.address, 8, other)


def test_use_after_memory_was_given_back_is_found() -> None:
    with pytest.raises(AssertionError, match="uses memory that was given back"), pytest.MonkeyPatch.context() as m:
        with installed(m, FakeCuda()):
            one = nf.device().driver
            address = one.allocate(64, 0)
            one.free(address, 0)
            one.clear(address, 64, 0)


def test_what_is_late_is_seen(fake: FakeCuda) -> None:
    one = nf.device().driver
    address, line = one.allocate(64, 0), np.arange(8.0)
    one.upload(address, line, 0)
    line[:] = 7  # it was staged
    made = np.empty(8)
    one.download(made, address, 0)
    np.testing.assert_array_equal(made, np.arange(8.0))


# -- streams


def test_arrays_cross_streams_in_order(fake: FakeCuda) -> None:
    f, g = nf.jit(lambda x: np.tanh(x) * 2), nf.jit(lambda x: np.cumsum(np.cumsum(x) ** 2))
    streams = [nf.device().driver.new_stream() for _ in range(3)]
    x = nf.to_device(X)
    for k in range(12):
        with nf.device().on_stream(streams[k % 3]):
            y = f(x)
        z = g(y)
        with nf.device().on_stream(streams[(k + 1) % 3]):
            w = f(z) * y.reshape(-1)
        del y, z
    inner = np.tanh(X) * 2
    np.testing.assert_allclose(np.asarray(w), np.tanh(np.cumsum(np.cumsum(inner) ** 2)) * 2 * inner.reshape(-1))


def test_an_array_that_is_back_on_its_stream_takes_the_short_way(fake: FakeCuda) -> None:
    f, x = nf.jit(lambda x: np.tanh(x) * 2), nf.to_device(X)
    for _ in range(3):
        f(x)
    for stream in (nf.device().driver.new_stream() for _ in range(3)):
        with nf.device().on_stream(stream):
            f(x)
    assert len(x.block.others) == 1
    f(x)
    waits = fake.calls["cuStreamWaitEvent"]
    np.testing.assert_allclose(np.asarray(f(x)), np.tanh(X) * 2)
    assert fake.calls["cuStreamWaitEvent"] == waits


def test_default_streams_of_threads_are_told_apart(fake: FakeCuda) -> None:
    """Memory that one thread gives back on its stream is not another's at once."""
    f, x, wrong = nf.jit(lambda x: np.tanh(x) * 2), nf.to_device(X), []
    numbers = set()

    def work() -> None:
        with nf.device().on_stream(2):
            numbers.add(nf.device().stream)
            for k in range(4):
                y = f(x)
                z = f(y)
                del y
                if not np.allclose(np.asarray(z), np.tanh(np.tanh(X) * 2) * 2):
                    wrong.append(k)
            kept.append(z)

    kept: list[nf.DeviceArray] = []
    for _ in range(3):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert not wrong
    assert len(numbers) == 3
    made = [f(z) for z in kept]  # of streams whose threads have ended
    np.testing.assert_allclose(np.asarray(made[0]), np.asarray(made[2]))
    with nf.device().on_stream(2):
        assert driver.here(nf.device().stream) == 2
        assert f(x).__cuda_array_interface__["stream"] == 1


def test_arrays_of_others_are_used_after_their_stream(fake: FakeCuda) -> None:
    f, x = nf.jit(lambda x: np.tanh(x) * 2), nf.to_device(X)
    one = nf.device().driver
    side = one.new_stream()
    for stream in (1, 2, side):
        for _ in range(3):
            one.wait(side, 0)
            one.clear(x.address, 8, side)  # theirs writes
            made = f(Theirs(x, side if stream == side else one.wait(0, side) or stream))
        want = np.tanh(X) * 2
        want[0, 0] = 0
        np.testing.assert_allclose(np.asarray(made), want)


def test_memory_that_another_library_was_given_waits_for_it(fake: FakeCuda) -> None:
    """What it queues between the capsule and its end runs before the memory is another's."""
    one, x = nf.device().driver, nf.to_device(X)
    theirs = one.new_stream()
    capsule = x.__dlpack__(stream=theirs)
    y = x + 1  # which waits for them, as of now
    address, copied = x.address, one.allocate(X.nbytes, theirs)
    one.copy(copied, address, X.nbytes, theirs)
    del x, capsule
    there = [nf.to_device(X * k) for k in range(3)]
    assert address in [z.address for z in there]
    for k, z in enumerate(there):
        np.testing.assert_array_equal(np.asarray(z), X * k)
    np.testing.assert_array_equal(np.asarray(y), X + 1)
    seen = np.empty_like(X)
    one.download(seen, copied, theirs)
    np.testing.assert_array_equal(seen, X)


def test_streams_that_their_owners_destroyed_are_waited_for(fake: FakeCuda) -> None:
    x = nf.to_device(X)
    theirs = nf.device().driver.new_stream()
    capsule = x.__dlpack__(stream=theirs)
    del capsule
    assert theirs in x.block.others
    fake.destroy_stream(theirs)
    before = fake.calls["cuCtxSynchronize"]
    np.testing.assert_array_equal(np.asarray(x), X)
    assert fake.calls["cuCtxSynchronize"] == before + 1
    del x
    gc.collect()
    np.testing.assert_array_equal(np.asarray(nf.to_device(X)), X)


def test_streams_that_are_captured_are_refused(fake: FakeCuda) -> None:
    stream = nf.device().driver.new_stream()
    fake.do_cuStreamBeginCapture(stream, real.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_RELAXED)
    with pytest.raises(ValueError, match="being captured"), nf.device().on_stream(stream):
        pass
    fake.do_cuStreamEndCapture(stream)
    with nf.device().on_stream(stream):
        np.testing.assert_array_equal(np.asarray(nf.to_device(X)), X)


def test_streams_of_numba(fake: FakeCuda) -> None:
    import ctypes

    assert devices.number_of_stream(SimpleNamespace(handle=ctypes.c_void_p(0))) == 0
    assert devices.number_of_stream(SimpleNamespace(handle=ctypes.c_void_p(77))) == 77


def test_pullbacks_of_loops_on_another_stream(fake: FakeCuda) -> None:
    def f(x):
        return nf.while_loop(lambda s: np.sum(s) < 100.0, lambda s: s * np.tanh(s) * 3, x)

    start = np.array([1.0, 2.0])
    out, pullback = nf.vjp(f, nf.to_device(start))
    want = nf.vjp(f, start)
    ones = nf.to_device(np.ones(2))
    with nf.device().on_stream(nf.device().driver.new_stream()):
        (made,) = pullback(ones)
    np.testing.assert_allclose(np.asarray(made), want[1](np.ones(2))[0])
    np.testing.assert_allclose(np.asarray(out), want[0])


@pytest.mark.parametrize("own", [False, True])
def test_threads_share_functions_and_arrays(fake: FakeCuda, own: bool) -> None:
    """Each on a stream, the default one or its own, handing arrays on to the others."""
    f, g = nf.jit(lambda x: np.tanh(x) * 2), nf.jit(lambda x, a: np.cumsum(np.cumsum(x) ** 2)[:5] * a)
    x = nf.to_device(X)
    ready: queue.Queue = queue.Queue()
    wrong: list[object] = []

    def work(number: int) -> None:
        try:
            with nf.device().on_stream(nf.device().driver.new_stream() if own else 2 if number % 2 else 0):
                for k in range(8):
                    ready.put((k, f(x), g(x, float(k))))
                    j, y, z = ready.get()
                    made = np.asarray(f(y)), np.asarray(z)
                    del y, z
                    want = np.tanh(np.tanh(X) * 2) * 2, np.cumsum(np.cumsum(X) ** 2)[:5] * j
                    if not all(np.allclose(a, b) for a, b in zip(made, want, strict=True)):
                        wrong.append(j)
        except Exception as error:  # noqa: BLE001
            wrong.append(error)

    f(x), g(x, 1.0)
    fake.switching = True
    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# -- recordings


def test_an_interrupted_recording_ends(fake: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    f, x = nf.jit(lambda x: np.tanh(x) * 2), nf.to_device(X)
    f(x)
    launch = hardware.HardwareDriver.launch

    def interrupted(self, function, addresses, stream):
        if stream == self.recording_stream:
            raise KeyboardInterrupt
        launch(self, function, addresses, stream)

    monkeypatch.setattr(hardware.HardwareDriver, "launch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        f(x)
    assert not fake.captures
    assert not fake.graphs
    monkeypatch.setattr(hardware.HardwareDriver, "launch", launch)
    for _ in range(3):
        f(x)
    np.testing.assert_allclose(np.asarray(f(x)), np.tanh(X) * 2)
    assert fake.calls["cuGraphLaunch"] == 3


def test_a_recording_interrupted_as_it_begins_ends(fake: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    f, x = nf.jit(lambda x: np.tanh(x) * 2), nf.to_device(X)
    f(x)
    begin = FakeCuda.do_cuStreamBeginCapture

    def interrupted(self, stream, mode):
        begin(self, stream, mode)
        raise KeyboardInterrupt

    monkeypatch.setattr(FakeCuda, "do_cuStreamBeginCapture", interrupted)
    with pytest.raises(KeyboardInterrupt):
        f(x)
    assert not fake.captures
    monkeypatch.setattr(FakeCuda, "do_cuStreamBeginCapture", begin)
    np.testing.assert_allclose(np.asarray(f(x)), np.tanh(X) * 2)


def test_finalizers_run_while_a_run_is_recorded(fake: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    """What dies in between gives memory back on its own streams."""
    f, x = nf.jit(lambda x: np.tanh(x) * 2), nf.to_device(X)
    f(x)
    side = nf.device().driver.new_stream()
    dying = [nf.to_device(X), Theirs(nf.to_device(X))]
    with nf.device().on_stream(side):
        dying.append(f(dying[0]))
        dying.append(interop.adopted(dying[1]))
    launch = hardware.HardwareDriver.launch

    def launched(self, function, addresses, stream):
        if stream == self.recording_stream:
            dying.clear()
        launch(self, function, addresses, stream)

    monkeypatch.setattr(hardware.HardwareDriver, "launch", launched)
    for _ in range(6):
        made = f(x)
    assert not dying
    np.testing.assert_allclose(np.asarray(made), np.tanh(X) * 2)
    assert fake.calls["cuGraphLaunch"] >= 2


def test_a_first_run_that_failed_is_no_first_run(fake: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    f, x = nf.jit(lambda x: np.tanh(x) * 2), nf.to_device(X)
    fake.fail["cuLaunchKernel"] = RESULT.CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES
    with pytest.raises(nf.LaunchError):
        f(x)
    fake.fail.clear()
    for _ in range(2):
        f(x)
    assert fake.calls["cuStreamBeginCapture"] == 1


def test_no_memory_for_a_graph(fake: FakeCuda) -> None:
    f, x = nf.jit(lambda x: np.tanh(x) * 2), nf.to_device(X)
    f(x)
    fake.fail["cuGraphInstantiate"] = RESULT.CUDA_ERROR_OUT_OF_MEMORY
    np.testing.assert_allclose(np.asarray(f(x)), np.tanh(X) * 2)
    fake.fail.clear()
    for _ in range(2):
        np.testing.assert_allclose(np.asarray(f(x)), np.tanh(X) * 2)
    assert fake.calls["cuGraphLaunch"] >= 1


def test_graphs_of_functions_that_are_gone_are_destroyed(fake: FakeCuda) -> None:
    x = nf.to_device(X)
    for k in range(6):
        f = nf.jit(lambda x, k=k: np.tanh(x) * k)
        for _ in range(3):
            f(x)
        del f
        nf.clear_cache()
        gc.collect()
    nf.device().trim()
    assert not fake.executables
    assert not fake.graphs


def test_many_calls_with_new_addresses_leave_nothing_behind(fake: FakeCuda) -> None:
    f, x = nf.jit(lambda x, a: np.tanh(x) * a), nf.to_device(X)
    some = [nf.to_device(X + k) for k in range(40)]
    for k in range(60):
        f(some[k % 40], float(k))
    events, graphs, memory = len(fake.events), len(fake.executables), nf.device().memory.used
    for k in range(400):
        made = f(some[k * 7 % 40], float(k))
    np.testing.assert_allclose(np.asarray(made), np.tanh(X + 399 * 7 % 40) * 399.0)
    assert (len(fake.events), len(fake.executables)) == (events, graphs)
    assert nf.device().memory.used <= memory + 1024
    assert not fake.graphs
    assert len(x.device.driver._held) == 0


# -- memory and errors


def test_memory_of_others_is_let_go_when_somebody_waits(fake: FakeCuda) -> None:
    f = nf.jit(lambda x: x * 2)
    theirs = Theirs(nf.to_device(X))
    alive = weakref.ref(theirs)
    fake.busy = True
    made = f(theirs)
    del theirs
    assert alive() is not None
    np.testing.assert_array_equal(np.asarray(made), X * 2)
    assert alive() is None


@pytest.mark.parametrize("fake", [1, 2], indirect=True)
def test_a_device_that_broke_stays_quiet_in_finalizers(fake: FakeCuda) -> None:
    f, x = nf.jit(lambda x: x * 2), nf.to_device(X)
    with nf.device().on_stream(nf.device().driver.new_stream()):
        there = [f(x), f(Theirs(x)), interop.adopted(Theirs(x))]
    there.append(x)
    fake.broken = RESULT.CUDA_ERROR_ILLEGAL_ADDRESS
    with pytest.raises(nf.LostDeviceError, match="start another one"):
        np.asarray(there[0])
    with pytest.raises(nf.LostDeviceError):
        f(x)
    there.clear()
    del x
    gc.collect()  # what is raised in a finalizer fails the test
    fake.broken = None


@pytest.mark.parametrize("fake", [1, 2], indirect=True)
def test_a_forked_process_lets_go_quietly(fake: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    f, x = nf.jit(lambda x: x * 2), nf.to_device(X)
    with nf.device().on_stream(nf.device().driver.new_stream()):
        there = [f(x), interop.adopted(Theirs(x))]
    there.append(x)
    del x
    with monkeypatch.context() as forked:
        forked.setattr(hardware, "_FORKED", [True])
        with pytest.raises(nf.DeviceError, match="'spawn'"):
            f(there[0])
        there.clear()
        gc.collect()


def test_arrays_that_others_hold_until_the_process_has_ended() -> None:
    code = (
        "import sys, numpy as np, nufunc as nf\n"
        "np.later = [np.from_dlpack(nf.to_device(np.arange(5.0))) for _ in range(20)]\n"
        "sys.theirs = [nf.from_dlpack(np.arange(5.0)) for _ in range(20)]\n"
        "sys.capsules = [nf.to_device(np.arange(5.0)).__dlpack__() for _ in range(20)]\n"
    )
    env = os.environ | {"NUFUNC_CUDA_SIMULATOR": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)
    assert done.stderr == ""


def test_workspaces_of_streams_that_come_and_go(fake: FakeCuda) -> None:
    f, x = nf.jit(lambda x: np.cumsum(np.cumsum(x) ** 2)), nf.to_device(X)
    for _ in range(20):
        with nf.device().on_stream(nf.device().driver.new_stream()):
            for _ in range(3):
                f(x)
    (machine,) = (m for m in nf.device().pool.users if m.graphs)
    assert len(machine.workspaces) <= len(machine.graphs) <= 8


def test_errors_of_memory_are_errors_of_memory(fake: FakeCuda) -> None:
    fake.fail["cuModuleLoadData"] = RESULT.CUDA_ERROR_OUT_OF_MEMORY
    with pytest.raises(nf.DeviceMemoryError, match="load loop_0: CUDA_ERROR_OUT_OF_MEMORY"):
        nf.jit(lambda x: x * 2)(nf.to_device(X))


def test_arrays_that_only_cycles_hold_make_room(fake: FakeCuda) -> None:
    x = nf.to_device(np.zeros(5 << 20))  # 40 of 64 MiB
    cycle: list[object] = [x]
    cycle.append(cycle)
    del x, cycle
    assert np.asarray(nf.to_device(np.ones(5 << 20))).all()


def test_memory_that_libraries_work_in_makes_room(fake: FakeCuda) -> None:
    kept = [nf.to_device(np.zeros(5 << 17)) for _ in range(10)]  # 50 of 64 MiB
    kept.clear()
    one = nf.device().driver
    one.free(scratch(one, 40 << 20, 0), 0)
    with pytest.raises(nf.DeviceMemoryError):
        scratch(one, 80 << 20, 0)


def test_interrupted_downloads_do_not_meet_the_next(fake: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    big = np.random.default_rng(0).integers(0, 255, 9_500_001, np.uint8)
    x, land = nf.to_device(big), hardware.Landing._land

    def interrupted(self, *args):
        raise KeyboardInterrupt

    monkeypatch.setattr(hardware.Landing, "_land", interrupted)
    with pytest.raises(KeyboardInterrupt):
        np.asarray(x)
    monkeypatch.setattr(hardware.Landing, "_land", land)
    with nf.device().on_stream(nf.device().driver.new_stream()):
        np.testing.assert_array_equal(np.asarray(x), big)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["api", "random"])
def test_device_arrays_on_the_stand_in(name: str) -> None:
    """What is tested of device arrays, with a driver whose work is late."""
    where = Path(__file__).with_name(f"test_cuda_{name}.py")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-n0", str(where)]
    env = os.environ | {"NUFUNC_TEST_DEVICE": "strict"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env, cwd=where.parent.parent)
    assert done.returncode == 0, done.stdout[-4000:]


def test_capsules_of_the_hosts_memory_are_refused(fake: FakeCuda) -> None:
    with pytest.raises(TypeError, match="not on a CUDA device"):
        nf.from_dlpack(X.__dlpack__())


def test_a_second_device_keeps_to_its_context(monkeypatch: pytest.MonkeyPatch) -> None:
    with installed(monkeypatch, FakeCuda(devices=2, total=1 << 26)) as two:
        f = nf.jit(lambda x: np.cumsum(np.tanh(x)) * 2)
        first, second = nf.to_device(X, 0), nf.to_device(X, 1)
        assert two.current is None
        two.do_cuCtxSetCurrent(0x78)  # as another library does
        for _ in range(4):
            made = f(first), f(second)
        assert two.current == 0x78
        with pytest.raises(ValueError, match="is on cuda:0"):
            nf.jit(lambda x, y: x + y)(first, second)
        first[0] = second[1]
        for one in made:
            np.testing.assert_allclose(np.asarray(one), np.cumsum(np.tanh(X)) * 2)
        np.testing.assert_array_equal(np.asarray(first)[0], X[1])
