"""Parallel regions: never a dead or hung process, the same bits at any number of threads, none for small work."""

import ctypes
import functools
import itertools
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from llvmlite import ir

from nufunc.codegen import backend, threads
from nufunc.ir.errors import ArgumentError, ArgumentTypeError, NufuncError
from nufunc.runtime.threading import get_num_threads, set_num_threads

PROGRAMS = Path(__file__).with_name("thread_programs.py")
ALIVE = (
    "bits",
    "regions_in_regions",
    "many_python_threads",
    "masks",
    "threads_that_run",
    "errors",
    "fork",
    "fork_inside_regions",
    "multiprocessing_fork",
)
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")


def run(*scenarios: str, layer: str = "default", count: int = 4) -> list[str]:
    """The scenarios that went well in a process of its own, up to the first that did not."""
    environment = {**os.environ, "NUMBA_NUM_THREADS": str(count)}
    if layer == "pool":
        environment["NUFUNC_THREADING_LAYER"] = layer
    else:
        environment["NUMBA_THREADING_LAYER"] = layer
    command = [sys.executable, str(PROGRAMS), *scenarios]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    lines = [line for line in done.stdout.splitlines() if line.endswith(" ok")]  # TBB writes of forks to stdout
    if done.returncode:
        lines.append(f"ended with {done.returncode}: {done.stderr[-3000:]}")
    return lines


@functools.cache
def starts(layer: str) -> bool:
    """Whether Numba can load this threading layer here."""
    program = "import numba; numba.get_num_threads()"
    environment = {**os.environ, "NUMBA_THREADING_LAYER": layer}
    return subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True).returncode == 0


@pytest.fixture(params=["omp", "tbb", "workqueue", "pool"])
def layer(request: pytest.FixtureRequest) -> str:
    if request.param == "pool" and sys.platform == "win32":
        pytest.skip("the pool's threads are POSIX threads")
    if request.param != "pool" and not starts(request.param):
        pytest.skip(f"numba has no {request.param} here")
    return str(request.param)


@needs_fork
def test_no_use_ends_or_hangs_the_process(layer: str) -> None:
    assert run(*ALIVE, layer=layer) == [f"{name} ok" for name in ALIVE]


@needs_fork
def test_a_child_that_forks_before_the_start_has_threads(layer: str) -> None:
    assert run("fork_before_the_start", layer=layer) == ["fork_before_the_start ok"]


@needs_fork
def test_a_child_starts_no_threads_where_numba_lost_its_own(layer: str) -> None:
    assert run("fork_after_numba_started", layer=layer) == ["fork_after_numba_started ok"]


def test_the_interpreter_ends_while_threads_work(layer: str) -> None:
    assert run("daemon_exit", layer=layer) == ["daemon_exit ok"]


def test_one_thread_starts_no_layer() -> None:
    wanted = ("one_thread", "bits", "errors")
    assert run(*wanted, count=1) == [f"{name} ok" for name in wanted]


def test_an_absent_layer_is_an_error_that_names_it() -> None:
    program = (
        "import sys; sys.modules['numba.np.ufunc.tbbpool'] = None\n"
        "from nufunc.codegen import backend, threads\n"
        "try: threads.launch_address()\n"
        "except backend.BackendError as error: print(error)\n"
    )
    environment = {**os.environ, "NUMBA_NUM_THREADS": "2", "NUMBA_THREADING_LAYER": "tbb"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert done.stdout.startswith("numba's threading layer did not start"), done.stderr


def test_plans_without_regions_start_nothing() -> None:
    program = (
        "import numpy as np, nufunc as nf, sys\n"
        "assert float(nf.grad(lambda x: np.sum(x * x))(np.ones(3))[0]) == 2.0\n"
        "import numba\n"
        "try: numba.threading_layer()\n"
        "except ValueError: print('none')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "none", done.stderr


def test_the_number_of_threads_is_checked() -> None:
    before = get_num_threads()
    assert before >= 1
    for wrong in (0, -1, 10**6):
        with pytest.raises(ArgumentError, match="between 1 and"):
            set_num_threads(wrong)
    for other in (1.0, "2", None):
        with pytest.raises(ArgumentTypeError, match="is an integer"):
            set_num_threads(other)  # type: ignore[arg-type]
    assert issubclass(ArgumentError, (NufuncError, ValueError))
    assert get_num_threads() == before


def test_small_work_is_one_task_and_tasks_do_not_depend_on_threads() -> None:
    assert threads.tasks_for(0) == threads.tasks_for(threads.PARALLEL_WORK - 1) == 1
    assert threads.tasks_for(threads.PARALLEL_WORK) >= 2
    assert threads.tasks_for(1e12) == threads.MAX_TASKS
    counts = [threads.tasks_for(10**k) for k in range(3, 10)]
    assert counts == sorted(counts)


@pytest.mark.parametrize("unit", [1, 8, 16])
def test_chunks_cover_a_range_once(unit: int) -> None:
    extents = (0, 1, 7, 8, 63, 64, 100, 4099)
    chunks = compiled_chunks(extents, unit)
    for extent, tasks in itertools.product(extents, (1, 2, 5, 16, 64)):
        parts = [chunks[extent](task, tasks) for task in range(tasks)]
        assert parts[0][0] == 0
        assert parts[-1][1] == extent
        assert all(a[1] == b[0] for a, b in itertools.pairwise(parts))
        assert all(start % unit == 0 or start == extent for start, _ in parts)
        sizes = [-(-(stop - start) // unit) for start, stop in parts]
        assert max(sizes) - min(sizes) <= 1


def compiled_chunks(extents: tuple[int, ...], unit: int) -> dict[int, Callable[[int, int], tuple[int, int]]]:
    """`threads.chunk` for each extent, as machine code: (task, tasks) -> (start, stop)."""
    word, pointer = ir.IntType(64), ir.PointerType()
    module = ir.Module("chunks")
    for extent in extents:
        function = ir.Function(module, ir.FunctionType(ir.VoidType(), [word, word, pointer]), f"chunk{extent}")
        b = ir.IRBuilder(function.append_basic_block())
        task, tasks, out = function.args
        for index, bound in enumerate(threads.chunk(b, task, tasks, extent, unit)):
            b.store(bound, b.gep(out, [word(index)], source_etype=word))
        b.ret_void()
    executable = backend.compile_module(str(module), "chunks")
    kind = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p)

    def call(extent: int, task: int, tasks: int) -> tuple[int, int]:
        out = (ctypes.c_int64 * 2)()
        kind(executable.address(f"chunk{extent}"))(task, tasks, ctypes.addressof(out))
        return out[0], out[1]

    return {extent: functools.partial(call, extent) for extent in extents}
