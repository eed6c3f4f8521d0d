"""Programs that use threads in ways that have ended or hung processes; tests/test_threads.py runs them.

    python tests/thread_programs.py SCENARIO...

prints a line `SCENARIO ok` for each. Kernels are written with the emission helpers of `nufunc.codegen.threads`.
"""

import ctypes
import functools
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from llvmlite import ir

from nufunc.codegen import backend, threads
from nufunc.codegen.wrapper import ArgSpec, CallSpec, Entry, ResultSpec, declare_plan, emit_wrapper
from nufunc.runtime.threading import get_num_threads, set_num_threads

F64, I32, I64, POINTER = ir.DoubleType(), ir.IntType(32), ir.IntType(64), ir.PointerType()
SIZE = 100_003
TASKS = 16
Fill = Callable[[ir.IRBuilder, ir.Function], Any]


def item(b: ir.IRBuilder, array: Any, index: int) -> Any:
    return b.load(b.gep(array, [I64(index)], source_etype=POINTER), typ=POINTER)


def element(b: ir.IRBuilder, array: Any, index: Any) -> Any:
    return b.gep(array, [index], source_etype=F64)


def stack(b: ir.IRBuilder, words: int) -> Any:
    slot = b.alloca(ir.ArrayType(I64, words))
    slot.type = POINTER  # llvmlite gives memory that it defines a typed pointer
    return slot


def count(b: ir.IRBuilder, start: Any, stop: Any, state: Any, step: Callable[[Any, Any], Any]) -> Any:
    """for i in start..stop: state = step(i, state); start < stop."""
    before, block = b.block, b.function.append_basic_block()
    b.branch(block)
    b.position_at_end(block)
    i, carried = b.phi(I64), b.phi(state.type)
    i.add_incoming(start, before)
    carried.add_incoming(state, before)
    new, following = step(i, carried), b.add(i, I64(1))
    i.add_incoming(following, b.block)
    carried.add_incoming(new, b.block)
    after = b.function.append_basic_block()
    b.cbranch(b.icmp_signed("<", following, stop), block, after)
    b.position_at_end(after)
    return new


def square_body(module: ir.Module) -> ir.Function:
    """y[i] = x[i]^2 of a task's part."""
    body = threads.declare_body(module, "square")
    b = ir.IRBuilder(body.append_basic_block())
    x, y = threads.unpack(b, body.args[0], [POINTER, POINTER])
    start, stop = threads.chunk(b, body.args[1], body.args[2], SIZE, unit=8)

    def step(i: Any, state: Any) -> Any:
        value = b.load(element(b, x, i), typ=F64)
        b.store(b.fmul(value, value), element(b, y, i))
        return state

    count(b, start, stop, I64(0), step)
    b.ret_void()
    return body


def sum_body(module: ir.Module) -> ir.Function:
    """partial[task] = the sum of a task's part of x."""
    body = threads.declare_body(module, "sum")
    b = ir.IRBuilder(body.append_basic_block())
    x, partial = threads.unpack(b, body.args[0], [POINTER, POINTER])
    start, stop = threads.chunk(b, body.args[1], body.args[2], SIZE)
    total = count(b, start, stop, F64(0.0), lambda i, s: b.fadd(s, b.load(element(b, x, i), typ=F64)))
    b.store(total, element(b, partial, body.args[1]))
    b.ret_void()
    return body


def squares_and_sum(b: ir.IRBuilder, plan: ir.Function) -> None:
    """x -> x^2, sum(x^2): an elementwise region, then a reduction whose partial results are added in order."""
    x, y, result = item(b, plan.args[0], 0), item(b, plan.args[1], 0), item(b, plan.args[1], 1)
    launch = item(b, plan.args[3], 0)
    data, partial = stack(b, 2), stack(b, TASKS)
    threads.pack(b, data, [x, y])
    threads.emit_region(b, launch, square_body(b.module), data, TASKS)
    threads.pack(b, data, [y, partial])
    threads.emit_region(b, launch, sum_body(b.module), data, TASKS)
    step = lambda i, s: b.fadd(s, b.load(element(b, partial, i), typ=F64))
    b.store(count(b, I64(0), I64(TASKS), F64(0.0), step), result)


def nested(b: ir.IRBuilder, plan: ir.Function) -> None:
    """Every task of a region runs a region of its own; each inner task adds 1 at its place."""
    inner = threads.declare_body(b.module, "inner")
    n = ir.IRBuilder(inner.append_basic_block())
    y, first = threads.unpack(n, inner.args[0], [POINTER, I64])
    place = element(n, y, n.add(first, inner.args[1]))
    n.store(n.fadd(n.load(place, typ=F64), F64(1.0)), place)
    n.ret_void()
    outer = threads.declare_body(b.module, "outer")
    o = ir.IRBuilder(outer.append_basic_block())
    y, launch = threads.unpack(o, outer.args[0], [POINTER, POINTER])
    data = stack(o, 2)
    threads.pack(o, data, [y, o.mul(outer.args[1], I64(TASKS))])
    threads.emit_region(o, launch, inner, data, TASKS)
    o.ret_void()
    y, launch = item(b, plan.args[1], 0), item(b, plan.args[3], 0)
    count(b, I64(0), I64(TASKS * TASKS), I64(0), lambda i, s: (b.store(F64(0.0), element(b, y, i)), s)[1])
    data = stack(b, 2)
    threads.pack(b, data, [y, launch])
    threads.emit_region(b, launch, outer, data, TASKS)


def failing(b: ir.IRBuilder, plan: ir.Function) -> Any:
    """Tasks from the sixth on fail, with code 100 + task."""
    body = threads.declare_body(b.module, "failing")
    f = ir.IRBuilder(body.append_basic_block())
    (word,) = threads.unpack(f, body.args[0], [POINTER])
    late = f.icmp_signed(">=", body.args[1], I64(5))
    code = f.select(late, f.add(f.trunc(body.args[1], I32), I32(100)), I32(0))
    threads.record_error(f, word, body.args[1], code)
    f.ret_void()
    data, word = stack(b, 1), stack(b, 1)
    b.store(I64(threads.NO_ERROR), word)
    threads.pack(b, data, [word])
    launch = item(b, plan.args[3], 0)
    threads.emit_region(b, launch, body, data, 5)
    good = threads.first_error(b, word)
    threads.emit_region(b, launch, body, data, TASKS)
    return b.add(b.mul(good, I32(1000)), threads.first_error(b, word))


def compiled(name: str, spec: CallSpec, fill: Fill) -> Entry:
    """`fill` emits the plan and returns its error code or None."""
    module = ir.Module(name)
    plan = declare_plan(module, name)
    b = ir.IRBuilder(plan.append_basic_block())
    code = fill(b, plan)
    b.ret(I32(0) if code is None else code)
    emit_wrapper(module, plan, spec, name)
    executable = backend.compile_module(str(module), name)
    raised = lambda code: ArithmeticError(f"code {code}")
    return Entry(executable, name, spec, [threads.launch_address()], on_error=raised)


VECTOR = ResultSpec((SIZE,), np.dtype(float))
SPEC = CallSpec((ArgSpec((SIZE,), np.dtype(float)),), (VECTOR, ResultSpec((), np.dtype(float))), release_gil=True)
X = np.random.default_rng(0).normal(size=SIZE)


@functools.cache
def plan() -> Entry:
    return compiled("squares", SPEC, squares_and_sum)


def expected() -> float:
    """The sum as its tasks make it, in NumPy."""
    squares, total = X * X, 0.0
    for task in range(TASKS):
        part = squares[SIZE * task // TASKS : SIZE * (task + 1) // TASKS]
        total += float(np.cumsum(part)[-1])
    return total


def check() -> None:
    """A call's results, to the last bit."""
    y, total = plan().fast(X)
    assert np.array_equal(y, X * X)
    assert float(total) == expected(), (float(total).hex(), expected().hex())


def child(function: Callable[[], None], fork: Callable[[], int] = os.fork) -> None:
    """Run in a forked child; raise unless it ends well within 30 s."""
    pid = fork()
    if pid == 0:
        signal.alarm(30)  # a child that hangs ends
        function()
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    assert status == 0, f"the child ended with status {status}"


def launch(function: Callable[[int], None], tasks: int) -> None:
    """A region of Python code, as no plan has it; it looks at the threads that run it."""
    pointer, word = ctypes.c_void_p, ctypes.c_int64
    body = ctypes.CFUNCTYPE(None, pointer, word, word)(lambda data, task, tasks: function(task))
    native = ctypes.CFUNCTYPE(None, pointer, pointer, word)(threads.launch_address())
    native(ctypes.cast(body, pointer), None, tasks)


# -- scenarios


def bits() -> None:
    for n in range(1, get_num_threads() + 1):
        set_num_threads(n)
        for _ in range(50):
            check()


def regions_in_regions() -> None:
    spec = CallSpec((), (ResultSpec((TASKS * TASKS,), np.dtype(float)),), release_gil=True)
    entry = compiled("nested", spec, nested)
    for _ in range(20):
        assert np.array_equal(entry.fast(), np.ones(TASKS * TASKS))


def many_python_threads() -> None:
    done = []

    def work(k: int) -> None:
        for n in range(60):
            set_num_threads(1 + (n + k) % threads.threads().limit)
            check()
        done.append(k)

    workers = [threading.Thread(target=work, args=(k,)) for k in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert sorted(done) == list(range(8))
    check()


def masks() -> None:
    """Each thread's own number, which a region leaves as it was."""
    limit = threads.threads().limit
    set_num_threads(limit)
    check()
    assert get_num_threads() == limit
    set_num_threads(limit - 1)
    check()
    assert get_num_threads() == limit - 1
    seen = []
    worker = threading.Thread(target=lambda: seen.append(get_num_threads()))
    worker.start()
    worker.join()
    assert seen == [limit]
    set_num_threads(limit)
    launch(lambda task: None, 2)  # with fewer threads than the mask allows
    assert get_num_threads() == limit


def threads_that_run() -> None:
    """Several threads take part, at most as many as the mask says, and every task runs once."""
    seen: list[tuple[int, int]] = []

    def record(task: int) -> None:
        time.sleep(0.02)
        seen.append((task, threading.get_ident()))

    for mask in range(1, threads.threads().limit + 1):
        set_num_threads(mask)
        seen.clear()
        launch(record, 13)
        assert sorted(task for task, _ in seen) == list(range(13))
        used = {ident for _, ident in seen}
        assert (len(used) == 1) if mask == 1 else (2 <= len(used) <= mask), (mask, used)


def errors() -> None:
    """The first task that fails decides which error it is."""
    entry = compiled("failing", CallSpec((), (), release_gil=True), failing)
    for _ in range(100):
        with pytest.raises(ArithmeticError, match="code 105"):
            entry.fast()
        check()


def fork() -> None:
    check()

    def grandchild() -> None:
        check()
        child(check)
        assert get_num_threads() == 1

    for _ in range(3):
        child(grandchild)
        check()


def fork_inside_regions() -> None:
    """Forks while other Python threads are in regions."""
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            check()

    workers = [threading.Thread(target=work) for _ in range(2)]
    for worker in workers:
        worker.start()
    for _ in range(10):
        child(check)
    stop.set()
    for worker in workers:
        worker.join(60)
        assert not worker.is_alive()


def pooled(_: int) -> float:
    check()
    return float(plan().fast(X)[1])


def multiprocessing_fork() -> None:
    check()
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map_async(pooled, range(6)).get(60) == [expected()] * 6
    check()


def fork_before_the_start() -> None:
    """A child that starts the threads itself uses them; the parent's start comes later."""
    assert threads._threads is None

    def first() -> None:
        threads_that_run()
        check()

    child(first)
    first()


def fork_after_numba_started() -> None:
    """Numba's own threads were lost in the fork: the child starts none."""
    import numba

    numba.get_num_threads()

    def first() -> None:
        check()
        assert threads.threads().limit == 1
        set_num_threads(numba.config.NUMBA_NUM_THREADS)
        assert get_num_threads() == 1

    child(first)
    check()


def one_thread() -> None:
    """With NUMBA_NUM_THREADS=1 no layer is started."""
    import numba

    check()
    assert threads.threads().layer == ""
    assert get_num_threads() == 1
    set_num_threads(1)
    with pytest.raises(ValueError, match="not initialized"):
        numba.threading_layer()


def daemon_exit() -> None:
    """The process ends while daemon threads are in regions."""

    def work() -> None:
        while True:
            check()

    for _ in range(3):
        threading.Thread(target=work, daemon=True).start()
    time.sleep(0.3)


if __name__ == "__main__":
    signal.alarm(300)
    for scenario in sys.argv[1:]:
        globals()[scenario]()
        print(scenario, "ok", flush=True)
