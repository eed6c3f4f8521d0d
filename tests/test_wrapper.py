"""The native call wrapper and Entry: what is accepted, what comes back, and that nothing leaks."""

import contextlib
import ctypes
import gc
import itertools
import sys
import threading
import tracemalloc
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from llvmlite import ir

from nufunc.codegen import abi, backend, callspec
from nufunc.codegen.wrapper import MISS, ArgSpec, CallSpec, Entry, ResultSpec, declare_plan, emit_wrapper
from nufunc.ir.errors import ArgumentError, ArgumentTypeError, DTypeError

F64, I8, I32, I64, POINTER = ir.DoubleType(), ir.IntType(8), ir.IntType(32), ir.IntType(64), ir.PointerType()
Fill = Callable[[ir.IRBuilder, ir.Function], Any]


class PlanError(ArithmeticError):
    """Raised for a plan's error code."""


def item(b: ir.IRBuilder, array: Any, index: int) -> Any:
    return b.load(b.gep(array, [I64(index)], source_etype=POINTER), typ=POINTER)


def compile_entry(spec: CallSpec, fill: Fill, **options: Any) -> Entry:
    """Compile a plan whose body `fill` emits; it returns the error code or None."""
    module = ir.Module("test")
    plan = declare_plan(module, "t")
    b = ir.IRBuilder(plan.append_basic_block())
    code = fill(b, plan)
    b.ret(I32(0) if code is None else code)
    emit_wrapper(module, plan, spec, "t")
    return Entry(backend.compile_module(str(module), "test"), "t", spec, **options)


def copy_plan(sizes: list[int]) -> Fill:
    """Copies input k to output k, `sizes[k]` bytes."""

    def fill(b: ir.IRBuilder, plan: ir.Function) -> None:
        for k, size in enumerate(sizes):
            source, target = item(b, plan.args[0], k), item(b, plan.args[1], k)
            for at in range(size):
                byte = b.load(b.gep(source, [I64(at)], source_etype=I8), typ=I8)
                b.store(byte, b.gep(target, [I64(at)], source_etype=I8))

    return fill


def copy_entry(*args: ArgSpec, scalar: bool = False, **options: Any) -> Entry:
    results = tuple(ResultSpec(a.shape, a.dtype, scalar=scalar) for a in args)
    sizes = [int(np.prod(a.shape)) * a.dtype.itemsize for a in args]
    return compile_entry(CallSpec(args, results, **options), copy_plan(sizes))


@pytest.fixture(params=["native", "python"])
def road(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways in which `Entry.fast` can work."""
    monkeypatch.setenv("NUFUNC_NO_NATIVE_CALL", "1" if request.param == "python" else "0")
    return str(request.param)


def test_this_interpreter_has_the_native_road() -> None:
    assert abi.abi_ok()
    entry = copy_entry(ArgSpec((3,), np.float64))
    assert entry.native
    assert type(entry.fast) is type(len)


def test_the_variable_turns_it_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUFUNC_NO_NATIVE_CALL", "1")
    assert not copy_entry(ArgSpec((3,), np.float64)).native


def test_unknown_layout_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(abi, "DATA", abi.DIMS)
    assert not abi.abi_ok.__wrapped__()


INTEGERS = "bool int8 uint8 int16 uint16 int32 uint32 int64 uint64".split()
DTYPES = [*INTEGERS, "float16", "float32", "float64", "complex64", "complex128"]


@pytest.mark.parametrize("dtype", DTYPES)
def test_arrays_of_every_dtype(dtype: str, road: str) -> None:
    x = np.arange(6).reshape(2, 3).astype(dtype)
    entry = copy_entry(ArgSpec((2, 3), dtype))
    for result in (entry.fast(x), *entry.slow(x), *entry.plain(x), *entry.slow(x.T.copy().T)):
        assert type(result) is np.ndarray
        assert result.dtype == x.dtype
        assert result.flags.carray
        np.testing.assert_array_equal(result, x)
        assert not np.shares_memory(result, x)


@pytest.mark.parametrize("dtype", DTYPES)
def test_numpy_scalars_in_and_out(dtype: str, road: str) -> None:
    x = np.dtype(dtype).type(1)
    entry = copy_entry(ArgSpec((), dtype, "scalar"), scalar=True)
    for result in (entry.fast(x), *entry.slow(x), *entry.plain(x)):
        assert type(result) is type(x)
        assert result == x
    assert entry.fast(np.asarray(x)) is MISS
    assert entry.fast(1) is MISS


@pytest.mark.parametrize(
    ("kind", "values", "others"),
    [
        ("float", [1.5, -0.0, float("inf")], [1, True, np.float64(1.5), np.array(1.5), 1j, None]),
        ("complex", [1 + 2j, -3j], [1.0, np.complex128(1), np.array(1j), "1"]),
        ("bool", [True, False], [0, 1, np.True_, np.array(True), None]),
    ],
)
def test_python_numbers(kind: str, values: list[Any], others: list[Any], road: str) -> None:
    entry = copy_entry(ArgSpec((), {"float": "f8", "complex": "c16", "bool": "?"}[kind], kind))
    for value in values:
        for result in (entry.fast(value), *entry.slow(value), *entry.plain(value)):
            assert type(result) is np.ndarray
            assert result.shape == ()
            assert result.tobytes() == np.array(value).tobytes()
    for other in others:
        assert entry.fast(other) is MISS
        with pytest.raises(ArgumentTypeError, match="argument 0"):
            entry.slow(other)


def test_several_arguments_of_all_kinds(road: str) -> None:
    specs = (
        ArgSpec((), "?", "bool"),
        ArgSpec((2,), "f4"),
        ArgSpec((), "f8", "float"),
        ArgSpec((), "?", "bool"),
        ArgSpec((), "i2", "scalar"),
    )
    entry = copy_entry(*specs)
    args = (True, np.array([1, 2], "f4"), 2.5, False, np.int16(-7))
    for results in (entry.fast(*args), entry.slow(*args), entry.plain(*args)):
        assert [r.tolist() for r in results] == [True, [1.0, 2.0], 2.5, False, -7]
        assert [r.dtype for r in results] == [s.dtype for s in specs]
    assert type(entry.fast(*args)) is tuple


class Subclass(np.ndarray[Any, Any]):
    pass


def misaligned(shape: tuple[int, ...]) -> np.ndarray:
    raw = np.zeros(8 * int(np.prod(shape)) + 1, np.uint8)
    array = raw[1:].view(np.float64).reshape(shape)
    array[...] = np.arange(array.size).reshape(shape)
    assert not array.flags.aligned
    return array


def not_native() -> np.ndarray:
    return np.arange(6.0).reshape(2, 3).astype(np.dtype(np.float64).newbyteorder())


MATRIX = np.arange(6.0).reshape(2, 3)
OTHER_LAYOUTS = {
    "fortran": np.asfortranarray(MATRIX),
    "strided": np.repeat(MATRIX, 2, axis=1)[:, ::2],
    "reversed": np.ascontiguousarray(MATRIX[:, ::-1])[:, ::-1],
    "broadcast": np.broadcast_to(np.arange(3.0), (2, 3)),
    "misaligned": misaligned((2, 3)),
    "byteswapped": not_native(),
}
REFUSED = {
    "f4": MATRIX.astype("f4"),
    "i8": MATRIX.astype("i8"),
    "object": MATRIX.astype(object),
    "transposed": MATRIX.T.copy(),
    "flat": MATRIX.ravel(),
    "deeper": MATRIX[None],
    "longer": np.zeros((2, 4)),
    "subclass": MATRIX.view(Subclass),
    "masked": np.ma.masked_array(MATRIX),
    "none": None,
    "list": [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]],
    "float": 1.0,
    "type": np.ndarray,
}


@pytest.mark.parametrize("name", OTHER_LAYOUTS)
def test_other_layouts_miss_and_take_the_slow_road(name: str, road: str) -> None:
    entry, x = copy_entry(ArgSpec((2, 3), "f8")), OTHER_LAYOUTS[name]
    count = sys.getrefcount(x)
    assert entry.fast(x) is MISS
    for result in (*entry.slow(x), *entry.plain(x)):
        np.testing.assert_array_equal(result, x)
    del result
    assert sys.getrefcount(x) == count


@pytest.mark.parametrize("name", REFUSED)
def test_other_objects_miss_and_are_refused(name: str, road: str) -> None:
    entry, x = copy_entry(ArgSpec((2, 3), "f8"), ArgSpec((2, 3), "f8")), REFUSED[name]
    count = sys.getrefcount(x)
    for args in ((x, MATRIX), (MATRIX, x)):
        assert entry.fast(*args) is MISS
        with pytest.raises(ArgumentTypeError, match=f"argument {1 - (args[0] is x)}"):
            entry.slow(*args)
    del args
    assert name in ("none", "type") or sys.getrefcount(x) == count


def test_wrong_counts_and_keywords(road: str) -> None:
    entry = copy_entry(ArgSpec((2, 3), "f8"), ArgSpec((), "f8", "float"))
    for args in ((), (MATRIX,), (MATRIX, 1.0, 1.0)):
        assert entry.fast(*args) is MISS
        with pytest.raises(ArgumentTypeError, match=f"expected 2 arguments, got {len(args)}"):
            entry.slow(*args)
    with pytest.raises(TypeError, match="keyword"):
        entry.fast(MATRIX, 1.0, x=3)


def test_axes_of_extent_one_and_empty_arrays_accept_any_stride(road: str) -> None:
    one = np.lib.stride_tricks.as_strided(np.arange(3.0), (1, 3, 1), (808, 8, 8008))
    entry = copy_entry(ArgSpec((1, 3, 1), "f8"))
    np.testing.assert_array_equal(entry.fast(one), one)
    empty = np.zeros((4, 6, 3))[::2, 6:, ::-1]
    entry = copy_entry(ArgSpec((2, 0, 3), "f8"))
    assert entry.fast(empty).shape == (2, 0, 3)
    assert entry.fast(np.zeros((2, 0, 3))).shape == (2, 0, 3)
    assert entry.fast(np.zeros((0, 2, 3))) is MISS


def test_zero_dimensional_arrays_and_readonly_ones(road: str) -> None:
    entry = copy_entry(ArgSpec((), "f8"))
    x = np.array(2.5)
    x.flags.writeable = False
    result = entry.fast(x)
    assert type(result) is np.ndarray
    assert result.shape == ()
    assert result == 2.5
    assert result.flags.writeable


def test_the_other_int64_misses_or_runs_but_is_right(road: str) -> None:
    entry = copy_entry(ArgSpec((3,), "i8"))
    for dtype in (np.dtype("l"), np.dtype("q")):
        x = np.arange(3).astype(dtype)
        result = entry.fast(x)
        assert result is MISS or result.tolist() == [0, 1, 2]
        assert entry.slow(x)[0].tolist() == [0, 1, 2]
    scalar = copy_entry(ArgSpec((), "i8", "scalar"), scalar=True)
    assert [scalar.slow(np.dtype(char).type(-5)) for char in "lq"] == [[-5], [-5]]


def test_results_are_fresh_and_their_number_decides_the_form(road: str) -> None:
    entry = copy_entry(ArgSpec((3,), "f8"))
    x = np.arange(3.0)
    first, second = entry.fast(x), entry.fast(x)
    first[:] = 9
    assert second.tolist() == [0, 1, 2]
    assert x.tolist() == [0, 1, 2]
    alone = copy_entry(ArgSpec((3,), "f8"), tuple_result=True).fast(x)
    assert type(alone) is tuple
    assert len(alone) == 1
    nothing = compile_entry(CallSpec((ArgSpec((3,), "f8"),), ()), lambda b, plan: None)
    assert nothing.fast(x) == ()
    assert nothing.slow(x) == []


def error_entry(results: int, **options: Any) -> Entry:
    """Copies the first number to every result and fails with the code that the second gives."""

    def fill(b: ir.IRBuilder, plan: ir.Function) -> Any:
        value = b.load(item(b, plan.args[0], 0), typ=F64)
        for k in range(results):
            b.store(value, item(b, plan.args[1], k))
        return b.fptosi(b.load(item(b, plan.args[0], 1), typ=F64), I32)

    number = ArgSpec((), "f8", "float")
    spec = CallSpec((number, number), tuple(ResultSpec((), "f8", k == 1) for k in range(results)), **options)
    return compile_entry(spec, fill, on_error=lambda code: PlanError(f"site {code}"))


@pytest.mark.parametrize("options", [{}, {"release_gil": True}, {"workspace": 100}, {"workspace": 100_000}])
def test_error_codes_become_exceptions(options: dict[str, Any], road: str) -> None:
    entry = error_entry(3, **options)
    assert [float(r) for r in entry.fast(1.5, 0.0)] == [1.5] * 3
    for call in (entry.fast, entry.slow, entry.plain):
        with pytest.raises(PlanError, match="site 7"):
            call(1.5, 7.0)
    assert [float(r) for r in entry.fast(2.5, 0.0)] == [2.5] * 3


def test_on_error_may_raise_by_itself_and_has_a_default(road: str) -> None:
    entry = error_entry(1)
    spec, executable = entry.spec, None

    def refuse(code: int) -> BaseException:
        raise KeyError(code)

    module = ir.Module("test")
    plan = declare_plan(module, "t")
    ir.IRBuilder(plan.append_basic_block()).ret(I32(3))
    emit_wrapper(module, plan, spec, "t")
    executable = backend.compile_module(str(module), "test")
    with pytest.raises(KeyError, match="3"):
        Entry(executable, "t", spec, on_error=refuse).fast(1.0, 1.0)
    with pytest.raises(backend.BackendError, match="code 3"):
        Entry(executable, "t", spec).fast(1.0, 1.0)


def test_a_callback_may_leave_its_exception() -> None:
    """A negative code: the exception is set already."""

    def fill(b: ir.IRBuilder, plan: ir.Function) -> Any:
        kind = ir.FunctionType(ir.VoidType(), [POINTER, POINTER])
        function = b.load(plan.args[3], typ=ir.PointerType(kind))
        b.call(function, [item(b, plan.args[3], 1), item(b, plan.args[3], 2)])
        return I32(-1)

    message = ctypes.create_string_buffer(b"from below")
    externs = [abi.python_address("PyErr_SetString"), id(LookupError), ctypes.addressof(message)]
    entry = compile_entry(CallSpec((), (ResultSpec((3,), "f8"),)), fill, externs=externs, keep=message)
    for call in (entry.fast, entry.plain):
        with pytest.raises(LookupError, match="from below"):
            call()


@pytest.mark.parametrize(
    "size", [1, 64, 1000, callspec.STACK_WORKSPACE, callspec.STACK_WORKSPACE + 1, 1 << 20]
)
@pytest.mark.parametrize("release_gil", [False, True])
def test_workspace_is_aligned_and_writable(size: int, release_gil: bool, road: str) -> None:
    def fill(b: ir.IRBuilder, plan: ir.Function) -> None:
        address = b.ptrtoint(plan.args[2], I64)
        for at in (0, size - 1):
            b.store(I8(7), b.gep(plan.args[2], [I64(at)], source_etype=I8))
        b.store(b.and_(address, I64(63)), item(b, plan.args[1], 0))

    spec = CallSpec((), (ResultSpec((), "i8"),), workspace=size, release_gil=release_gil)
    entry = compile_entry(spec, fill)
    assert entry.fast() == 0
    assert entry.plain() == [0]


def test_a_workspace_beyond_the_kept_size_is_allocated_per_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nufunc.codegen.wrapper_emitter.KEPT_WORKSPACE", 1 << 15)
    x = np.arange(4.0)
    entry = copy_entry(ArgSpec((4,), "f8"), workspace=1 << 16)
    assert all(np.array_equal(entry.fast(x), x) for _ in range(100))


def squares_with_workspace(count: int) -> Fill:
    """Squares by way of the workspace, in two loops: calls that shared one would disturb each other."""

    def fill(b: ir.IRBuilder, plan: ir.Function) -> None:
        source, target, workspace = item(b, plan.args[0], 0), item(b, plan.args[1], 0), plan.args[2]
        for from_, to, square in ((source, workspace, True), (workspace, target, False)):
            before, loop, after = b.block, b.append_basic_block(), b.append_basic_block()
            b.branch(loop)
            b.position_at_end(loop)
            index = b.phi(I64)
            index.add_incoming(I64(0), before)
            value = b.load(b.gep(from_, [index], source_etype=F64), typ=F64)
            b.store(b.fmul(value, value) if square else value, b.gep(to, [index], source_etype=F64))
            following = b.add(index, I64(1))
            index.add_incoming(following, loop)
            b.cbranch(b.icmp_signed("<", following, I64(count)), loop, after)
            b.position_at_end(after)

    return fill


@pytest.mark.parametrize("workspace", [16_000, 400_000])
def test_threads_hammer_one_entry(workspace: int, road: str) -> None:
    count = workspace // 8
    spec = CallSpec((ArgSpec((count,), "f8"),), (ResultSpec((count,), "f8"),), workspace, release_gil=True)
    entry = compile_entry(spec, squares_with_workspace(count))
    wrong: list[int] = []

    def work(seed: int) -> None:
        x = np.random.default_rng(seed).normal(size=count)
        if not all(np.array_equal(call(x), x * x) for call in [entry.fast] * 150):
            wrong.append(seed)
        if not np.array_equal(entry.plain(x)[0], x * x):
            wrong.append(seed)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def outcomes(road: str) -> Iterator[tuple[Callable[..., Any], tuple[Any, ...]]]:
    x = np.arange(3.0)
    yield copy_entry(ArgSpec((3,), "f8")).fast, (x,)
    yield copy_entry(ArgSpec((3,), "f8")).fast, (x[::-1],)
    yield copy_entry(ArgSpec((3,), "f8"), ArgSpec((), "f8", "float")).fast, (x, 1.25)
    yield copy_entry(ArgSpec((), "f8", "float"), scalar=True).fast, (1.25,)
    yield copy_entry(ArgSpec((3,), "f8"), workspace=100_000, release_gil=True).fast, (x,)
    yield error_entry(3).fast, (1.0, 3.0)
    yield error_entry(2, workspace=100_000, release_gil=True).fast, (1.0, 3.0)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("which", range(7))
def test_a_hundred_thousand_calls_leave_nothing(which: int) -> None:
    call, args = next(itertools.islice(outcomes("native"), which, None))
    watched = [*args, np.dtype("f8"), MISS, PlanError]

    def many(count: int) -> None:
        for _ in range(count):
            with contextlib.suppress(PlanError):
                call(*args)

    def resident_kilobytes() -> int:
        gc.collect()
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * 4

    many(5_000)
    before = resident_kilobytes()  # collects first: what other tests left holds references to the dtype
    counts = [sys.getrefcount(x) for x in watched]
    many(100_000)
    after = resident_kilobytes()
    assert max(abs(sys.getrefcount(x) - c) for x, c in zip(watched, counts, strict=True)) < 50
    assert after - before < 1024


class Held:
    pass


@pytest.mark.parametrize("last", ["entry", "fast"])
def test_everything_lives_as_long_as_the_last_user(last: str, road: str) -> None:
    held = Held()
    spec = CallSpec((ArgSpec((3,), "f8"),), (ResultSpec((3,), "f8"),), workspace=1 << 20)
    module = ir.Module("test")
    plan = declare_plan(module, "t")
    b = ir.IRBuilder(plan.append_basic_block())
    copy_plan([24])(b, plan)
    b.ret(I32(0))
    emit_wrapper(module, plan, spec, "t")
    executable = backend.compile_module(str(module), "test")
    code, watch = weakref.ref(executable.code), weakref.ref(held)
    entry: Entry | None = Entry(executable, "t", spec, keep=held)
    fast = entry.fast if last == "fast" else None
    executable.close()
    del executable, held
    if last == "fast":
        entry = None
    gc.collect()
    x = np.arange(3.0)
    call = fast if entry is None else entry.fast
    np.testing.assert_array_equal(call(x), x)
    assert code() is not None
    assert watch() is not None
    del call, entry, fast
    gc.collect()
    assert code() is None
    assert watch() is None


def test_a_cycle_through_on_error_is_collected() -> None:
    class Owner:
        entry: Entry

        def error(self, code: int) -> BaseException:
            return PlanError(code)

    owner = Owner()
    spec = CallSpec((), (ResultSpec((), "f8"),))
    owner.entry = compile_entry(spec, lambda b, plan: I32(1), on_error=owner.error)
    with pytest.raises(PlanError):
        owner.entry.fast()
    watch = weakref.ref(owner)
    del owner
    gc.collect()
    assert watch() is None


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_entries_made_and_dropped_leave_nothing() -> None:
    x = np.arange(3.0)

    def some(count: int) -> None:
        for _ in range(count):
            assert copy_entry(ArgSpec((3,), "f8"), workspace=1 << 16).fast(x)[2] == 2

    def resident_kilobytes() -> int:
        gc.collect()
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * 4

    some(20)
    before = resident_kilobytes()
    some(60)
    assert resident_kilobytes() - before < 60 * 20


def test_a_module_with_a_wrapper_holds_no_address() -> None:
    """Equal specs give the same text, no number becomes a pointer, and it runs from loaded object code."""
    texts = []
    for _ in range(2):
        module, spec = ir.Module("test"), CallSpec((ArgSpec((3,), "f8"),), (ResultSpec((3,), "f8"),))
        plan = declare_plan(module, "t")
        b = ir.IRBuilder(plan.append_basic_block())
        copy_plan([24])(b, plan)
        b.ret(I32(0))
        emit_wrapper(module, plan, spec, "t")
        texts.append(str(module))
    assert texts[0] == texts[1]
    assert "inttoptr" not in texts[0]
    executable = backend.load_object(backend.compile_module(texts[0], "a").object_code, "b")
    x = np.arange(3.0)
    np.testing.assert_array_equal(Entry(executable, "t", spec).fast(x), x)


def test_out_of_memory_is_an_exception_that_leaks_nothing() -> None:
    huge = CallSpec((), (ResultSpec((3,), "f8"), ResultSpec((1 << 45,), "f8")))
    entry = compile_entry(huge, lambda b, plan: None)
    f64 = np.dtype("f8")
    count = sys.getrefcount(f64)
    for _ in range(1000):
        with pytest.raises(MemoryError):
            entry.fast()
    assert abs(sys.getrefcount(f64) - count) < 50
    large = compile_entry(CallSpec((), (ResultSpec((3,), "f8"),), workspace=1 << 48), lambda b, plan: None)
    for _ in range(1000):
        with pytest.raises(MemoryError):
            large.fast()
    assert abs(sys.getrefcount(f64) - count) < 50


def standing_entry(**options: Any) -> Entry:
    """Copies the second argument to the first, and both to new results; returns the first argument too."""
    specs = (ArgSpec((3,), "f8"), ArgSpec((3,), "f8"), ArgSpec((), "f8", "float"))

    def fill(b: ir.IRBuilder, plan: ir.Function) -> None:
        for target, source in ((1, 0), (0, 1)):  # the new result is the first argument as it was
            for at in range(24):
                byte = b.load(b.gep(item(b, plan.args[0], source), [I64(at)], source_etype=I8), typ=I8)
                b.store(byte, b.gep(item(b, plan.args[1], target), [I64(at)], source_etype=I8))

    results = (ResultSpec((3,), "f8", source=0, **options), ResultSpec((3,), "f8"))
    return compile_entry(CallSpec(specs, results), fill)


def test_results_stand_in_arguments(road: str) -> None:
    entry = standing_entry()
    x, y = np.arange(3.0), np.full(3, 7.0)
    counts = sys.getrefcount(x), sys.getrefcount(y)
    first, second = entry.fast(x, y, 1.0)
    assert first is x
    assert x.tolist() == [7, 7, 7]
    assert second.tolist() == [0, 1, 2]
    del first
    assert (sys.getrefcount(x), sys.getrefcount(y)) == counts
    hidden = standing_entry(returned=False)
    x = np.arange(3.0)
    assert hidden.fast(x, y, 1.0).tolist() == [0, 1, 2]
    assert x.tolist() == [7, 7, 7]


def test_slow_changes_nothing_and_returns_all(road: str) -> None:
    for entry in (standing_entry(), standing_entry(returned=False)):
        for x in (np.arange(3.0), np.arange(6.0)[::2] / 2, np.broadcast_to(4.0, 3)):
            before = x.copy()
            for results in (entry.slow(x, np.full(3, 7.0), 1.0), entry.plain(x, x, 1.0)):
                assert len(results) == 2
                np.testing.assert_array_equal(results[1], before)
            np.testing.assert_array_equal(x, before)


def test_arguments_that_are_written_are_writable_and_apart(road: str) -> None:
    entry, memory = standing_entry(), np.arange(7.0)
    fixed = np.arange(3.0)
    fixed.flags.writeable = False
    for x, y in ((fixed, memory[:3]), (memory[:3], memory[:3]), (memory[:3], memory[2:5]), (memory[2:5], memory[:3])):
        assert entry.fast(x, y, 1.0) is MISS
    assert memory.tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert entry.fast(memory[:3], memory[3:6], 1.0)[1].tolist() == [0, 1, 2]
    assert memory.tolist() == [3, 4, 5, 3, 4, 5, 6]
    assert entry.fast(np.zeros(3), fixed, 1.0)[0].tolist() == [0, 1, 2]


def test_into_writes_results_where_it_is_told(road: str) -> None:
    entry = copy_entry(ArgSpec((3,), "f8"), ArgSpec((), "f8", "float"), workspace=100_000)
    x, out, number = np.arange(3.0), np.empty(3), np.empty(())
    counts = [sys.getrefcount(a) for a in (x, out, number)]
    for _ in range(3):
        out[:] = -1
        assert entry.into(x, 2.5, out, number) == ()
        assert (out.tolist(), number.tolist()) == ([0, 1, 2], 2.5)
    assert [sys.getrefcount(a) for a in (x, out, number)] == counts
    memory = np.zeros(4)
    fixed = np.empty(3)
    fixed.flags.writeable = False
    for args in (
        (x, 2.5, x, number), (memory[:3], 2.5, memory[1:], number), (x, 2.5, fixed, number), (x, 2.5, out),
        (x, 2.5, memory[::2], number), (x, 2.5, np.empty(3, "f4"), number), (x, 2.5, out, out[:1].reshape(())),
        (x, 2.5, number, out), (x, 2.5, None, number),
    ):  # fmt: skip
        assert entry.into(*args) is MISS
    assert x.tolist() == [0, 1, 2]


def test_hundreds_of_outs_are_told_apart(road: str) -> None:
    count = 150
    specs = [ArgSpec((k % 3,), "f8") for k in range(count)]
    entry = copy_entry(*specs)
    inputs = [np.full(k % 3, float(k)) for k in range(count)]
    outs = [np.empty(k % 3) for k in range(count)]
    assert entry.into(*inputs, *outs) == ()
    assert all(np.array_equal(a, b) for a, b in zip(inputs, outs, strict=True))
    assert entry.into(*inputs, *outs[:-1], outs[2]) is MISS
    assert entry.into(*inputs, *outs[:-1], inputs[5]) is MISS


def test_overlapping_calls_share_a_free_list() -> None:
    """A block per overlapping call is made once, and is freed with the last owner."""
    size, inside = 1 << 20, threading.Barrier(3)

    def fill(b: ir.IRBuilder, plan: ir.Function) -> Any:
        kind = ir.FunctionType(ir.VoidType(), [])
        b.call(b.load(plan.args[3], typ=ir.PointerType(kind)), [])

    meet = ctypes.CFUNCTYPE(None)(lambda: inside.wait(60) and None)
    address = ctypes.cast(meet, ctypes.c_void_p).value
    assert address is not None
    spec = CallSpec((), (ResultSpec((), "f8"),), workspace=size, release_gil=True)
    tracemalloc.start()
    try:
        entry: Entry | None = compile_entry(spec, fill, externs=[address], keep=meet)
        gc.collect()
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(3):
            threads = [threading.Thread(target=entry.fast) for _ in range(3)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            held = tracemalloc.get_traced_memory()[0] - before
            assert round(held / size) == 3  # small objects come and go besides
        entry = None
        gc.collect()
        assert round((tracemalloc.get_traced_memory()[0] - before) / size) == 0
    finally:
        tracemalloc.stop()


def test_specs_refuse_what_cannot_be() -> None:
    with pytest.raises(ArgumentError, match="stands in an argument"):
        ResultSpec((3,), "f8", returned=False)
    with pytest.raises(DTypeError, match=r"dtype\('<U2'\)"):
        ArgSpec((3,), "<U2")
    with pytest.raises(DTypeError, match=r"dtype\('>f8'\)"):
        ResultSpec((3,), ">f8")
    with pytest.raises(DTypeError, match=r"longdouble|float128"):
        ArgSpec((3,), np.longdouble)
    with pytest.raises(ArgumentError, match="has no shape"):
        ArgSpec((3,), "f8", "float")
    with pytest.raises(ArgumentError, match="cannot be float32"):
        ArgSpec((), "f4", "float")
    with pytest.raises(ArgumentError, match="scalar result"):
        ResultSpec((3,), "f8", scalar=True)
