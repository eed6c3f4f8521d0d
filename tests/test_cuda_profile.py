"""Profiles and reports of functions on devices: rows, counts, shares, and what the driver is asked for."""

import json
import re
from dataclasses import replace

import fake_cuda
import numpy as np
import pytest
from cuda_device import device

import nufunc as nf
from nufunc.codegen.cuda.kernels import Kernel
from nufunc.codegen.cuda.work import accesses
from nufunc.codegen.loops import Buffer
from nufunc.runtime.cuda import measure
from nufunc.runtime.cuda.devices import device_of

__all__ = ["device"]
W, X, Y = np.linspace(-1, 1, 30), np.linspace(0, 1, 3000).reshape(100, 30), np.linspace(1, 2, 100)


def loss(w, x, y):
    return np.mean((np.tanh(x @ w) - y) ** 2)


def on_device(*arrays):
    return tuple(nf.to_device(a) for a in arrays)


def test_a_row_per_step_with_the_numbers_of_cost():
    arguments = on_device(W, X, Y)
    f = nf.value_and_grad(loss)
    found = nf.profile(f, *arguments, seconds=0.02)
    assert [row.kernel.name for row in found.rows] == ["dot", "tanh+sub+add+mul+reduce_sum+div", "dot"]
    assert all(row.seconds > 0 and row.kernel.times == 1 for row in found.rows)
    cost = f.lower(*arguments).cost()
    assert sum(r.kernel.flops for r in found.rows) == cost.flops
    assert found.rows[0].kernel.flops == 2 * 100 * 30
    assert found.rows[0].kernel.bytes_read == X.nbytes + W.nbytes
    assert found.rows[1].kernel.transcendentals == 100
    assert found.rows[1].kernel.bytes_read == 2 * 800
    assert {row.kernel.location.line for row in found.rows} == {loss.__code__.co_firstlineno + 1}
    assert found.rows[1].by in nf.dump(f, *arguments, stage="device")
    assert sum(row.seconds for row in found.rows) <= found.clocked * 1.5 + 1e-3


def test_what_is_told_of_the_device():
    found = nf.profile(nf.value_and_grad(loss), *on_device(W, X, Y), seconds=0.02)
    there = found.device
    assert there is not None
    assert there.bandwidth > 0
    assert there.queued > 0
    assert there.replayed is not None
    assert (there.uploaded, there.downloaded, there.again) == (0, 0, 0)
    assert there.allocations >= 2
    assert there.memory >= 8 + W.nbytes
    assert there.peak == there.memory + W.nbytes + X.nbytes + Y.nbytes
    text = str(found)
    assert "of copy" in text
    assert "replayed as a graph" in text
    assert ("simulated: kernels run in Python" in text) == device_of(0).driver.simulated
    line = next(line for line in text.splitlines() if "tanh" in line)
    assert found.rows[1].by in line
    assert f"test_cuda_profile.py:{loss.__code__.co_firstlineno + 1}" in line


def test_arrays_of_the_host_are_copied_there_and_back():
    with nf.device("cuda:0"):
        found = nf.profile(nf.value_and_grad(loss), W, X, Y, seconds=0.01)
    assert found.device is not None
    assert found.device.uploaded == W.nbytes + X.nbytes + Y.nbytes
    assert found.device.downloaded == 8 + W.nbytes


def test_the_cpu_has_no_device():
    found = nf.profile(loss, W, X, Y, seconds=0.01)
    assert found.device is None
    assert "of copy" not in str(found)
    assert "device" not in str(found)


def looped(steps):
    return lambda a: nf.fori_loop(0, steps, lambda i, c: np.linalg.solve(np.sin(c) + 9 * np.eye(8), a), a)


def test_loops_of_the_host_count_their_runs():
    found = nf.profile(looped(6), *on_device(np.ones((8, 8)) + np.eye(8)), seconds=0.01)
    rows = {row.kernel.name: row for row in found.rows}
    assert rows["solve"].kernel.times == 6
    assert rows["solve"].kernel.flops == 6 * (2 * 8**3 // 3 + 2 * 8**3)
    assert rows["solve"].depth == 1
    assert rows["scan"].depth == 0
    assert rows["scan"].kernel.flops == 0
    assert rows["sin+eq+convert+mul+add"].kernel.transcendentals == 6 * 64
    assert rows["sin+eq+convert+mul+add"].kernel.bytes_written == 6 * 512


def test_steps_in_long_loops_are_timed_for_a_while_only(monkeypatch):
    monkeypatch.setattr(measure, "_TIMED", 2)
    found = nf.profile(looped(12), *on_device(np.ones((8, 8)) + np.eye(8)), seconds=0.01)
    solve = next(row for row in found.rows if row.kernel.name == "solve")
    assert solve.kernel.times == 12
    assert solve.seconds > 0


def test_a_loop_of_the_device_knows_its_condition_and_is_not_replayed():
    def doubled(a):
        return nf.while_loop(lambda c: np.linalg.eigvalsh(c)[-1] < 1e3, lambda c: c * 2.0, a)

    found = nf.profile(doubled, *on_device(np.eye(40)), seconds=0.01)
    rows = {row.kernel.name: row.kernel for row in found.rows}
    assert rows["eigh"].times == 11  # 1, 2, 4, ... 1024
    assert rows["mul"].times == 10
    assert found.device is not None
    assert found.device.replayed is None
    assert "not replayed" in str(found)


def test_kernels_that_work_together():
    found = nf.profile(lambda a: np.cumsum(a), *on_device(np.ones(4_000)), seconds=0.01)
    assert len(found.rows) > 1
    assert {row.kernel.name for row in found.rows} == {"cumsum"}
    assert len({row.by for row in found.rows}) == len(found.rows)
    assert sorted(row.kernel.flops for row in found.rows)[:-1] == [0] * (len(found.rows) - 1)
    assert max(row.kernel.flops for row in found.rows) == 4_000
    assert max(row.kernel.bytes_read for row in found.rows) >= 32_000
    assert sum(row.kernel.bytes_written for row in found.rows) >= 32_000


def test_host_steps_and_arguments_that_are_written():
    @nf.jit
    def filled(u, v):
        u[2:5] = 7.0
        return nf.pure_callback(lambda a: a * 2, nf.spec(10), v).sum()

    u, v = on_device(np.ones(8), np.ones(10))
    found = nf.profile(filled, u, v, seconds=0.01)
    (host,) = [row for row in found.rows if row.kernel.name.startswith("host")]
    assert host.kernel.library
    assert (host.kernel.bytes_read, host.kernel.bytes_written) == (80, 80)
    np.testing.assert_array_equal(np.asarray(u), np.ones(8))
    assert found.device is not None
    assert found.device.memory <= 4 * 512  # blocks have at least 512 bytes; copies of what is written do not count


def test_what_fails_is_raised():
    with pytest.raises(IndexError):
        nf.profile(lambda a, i: a[i], *on_device(np.ones(4), np.array([9])), seconds=0.01)


def test_programs_that_the_host_runs_say_so():
    def tapes(x):
        step = lambda c: c * np.tanh(c) * 3
        return nf.vjp(lambda x: nf.while_loop(lambda c: c.sum() < 100.0, step, x), x)[1]

    with nf.device("cuda:0"), pytest.raises(NotImplementedError, match="of unknown length"):
        nf.profile(tapes, np.ones(3))


def test_accesses_are_those_of_the_text():
    source = """def k(a, b, c, d, e, f, error):
    i = cuda.grid(1)
    if aligned(16, a, e):
        x, y = load_vec(a, i, 2)
        store_vec(b, i, (x, y))
    c[i] += a[i]
    cuda.atomic.add(d, i, x)
    f[i] = 1.0
"""
    buffer = Buffer("x", np.dtype(np.float64), 8, True)
    made = Kernel("k", source, (buffer,) * 4 + (replace(buffer, written=False), buffer), 0, 1, 1)
    read, written = accesses(made)
    assert read == {0, 2, 3}
    assert written == {1, 2, 3, 5}


def test_a_report(tmp_path):
    path = tmp_path / "page.html"
    profile = nf.report(nf.value_and_grad(loss), *on_device(W, X, Y), path=path, seconds=0.02)
    data = json.loads(re.search(r'id="data">(.*?)</script>', path.read_text(), re.DOTALL)[1].replace("<\\/", "</"))
    assert [k["name"] for k in data["kernels"]] == [row.kernel.name for row in profile.rows]
    assert [k["by"] for k in data["kernels"]] == [row.by for row in profile.rows]
    assert data["copy"] == data["machine"]["bandwidth"] == profile.device.bandwidth
    assert "replayed as a graph" in {label for _, label in data["tiles"]}
    assert {"simplified", "grouped", "loops", "device"} <= {stage["name"] for stage in data["stages"]}
    assert data["files"][0]["path"] == __file__
    memory = data["memory"]
    assert memory["blocks"]
    assert all(b["offset"] >= 0 and b["offset"] + b["size"] <= memory["size"] for b in memory["blocks"])


def test_events_of_the_driver(monkeypatch):
    with fake_cuda.installed(monkeypatch, fake_cuda.FakeCuda()) as made:
        monkeypatch.setenv("NUFUNC_CUDA_LIBRARIES", "own")
        monkeypatch.setattr(measure, "_LARGE", 1 << 12)
        monkeypatch.setattr(measure, "_FEWEST", 1)
        x = nf.to_device(np.linspace(0, 1, 600).reshape(20, 30))
        found = nf.profile(lambda x: np.tanh(x @ x.T).sum(), x, seconds=0.0)
        assert found.device is not None
        assert not found.device.simulated
        assert found.device.name == "cuda:0, Fake device"
        assert [row.kernel.name for row in found.rows][:1] == ["dot"]
        assert all(row.seconds >= 1e-3 for row in found.rows)  # marks of the stand-in are a millisecond apart
        assert found.device.replayed is not None
        assert made.calls["cuEventElapsedTime"] > 4
        created, recorded = made.calls["cuEventCreate"], made.calls["cuEventRecord"]
        assert recorded > created  # events are used again
        copies = made.calls["cuMemcpyDtoDAsync"]
        assert copies > 7  # those that keep the device busy while the host queues, too
        driver = device_of(0).driver
        assert len(driver._marks) == len({int(event) for event in driver._marks})
