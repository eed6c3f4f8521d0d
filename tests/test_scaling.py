"""Compile time grows with the size of the program, not faster: counted in calls, so that no clock is asked."""

import gc
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import nufunc as nf
from nufunc.ir.builder import Builder
from nufunc.ir.errors import Location
from nufunc.ir.graph import Graph
from nufunc.ir.types import ArrayType
from nufunc.passes.dead_code import eliminate_dead_code
from nufunc.passes.functionalize import functionalize
from nufunc.passes.fuse import fuse
from nufunc.passes.linearize import linearize
from nufunc.passes.simplify import simplify
from nufunc.passes.transpose import transpose
from nufunc.passes.vmap import vmap
from nufunc.runtime import function, pipeline
from nufunc.tracer.trace import Trace
from nufunc.tracer.usercode import _lines

VECTOR = ArrayType((8,), np.dtype(np.float64))
ROWS = ArrayType((4, 8), np.dtype(np.float64))


@pytest.fixture(autouse=True)
def nothing_else_is_counted(monkeypatch):
    """No verification, and no graphs printed and parsed back, as these tests otherwise do now and then."""
    monkeypatch.setenv("NUFUNC_VERIFY", "0")
    monkeypatch.setitem(Builder.build.__globals__, "ROUND_TRIP", 0)


def calls(run: Callable[[], Any]) -> int:
    """How many Python and C functions a run calls, once caches are warm."""
    run()
    count = 0

    def profile(frame: Any, event: str, argument: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    before = sys.getprofile()
    gc.collect()
    gc.disable()  # finalizers would be counted
    sys.setprofile(profile)
    try:
        run()
    finally:
        sys.setprofile(before)
        gc.enable()
    return count


def traced(f: Callable[..., Any], *types: ArrayType) -> Graph:
    with Trace("f") as trace:
        return trace.finish([f(*(trace.param(t) for t in types))])


def straight(n: int) -> Callable[[Any], Any]:
    """A function of about n elementwise operations in a row."""

    def f(x):
        y = x
        for i in range(n // 4):
            y = np.sin(y) * x + y * 0.5 if i % 2 else (y - x) / 3.0 + x
        return y

    return f


def setitems(n: int) -> Callable[[Any, Any], Any]:
    """A Python loop of n writes to elements."""

    def f(x, y):
        for i in range(n):
            y[i] = x[i % 8] * 2
        return y

    return f


def grows_linearly(count: Callable[[int], int], n: int) -> bool:
    small, large = count(n), count(2 * n)
    return large < 2.3 * small


def test_tracing_is_linear():
    assert grows_linearly(lambda n: calls(lambda: traced(straight(n), VECTOR)), 400)


def test_an_operation_is_traced_with_few_calls():
    """A guard against work per node that creeps in: sin, mul, add and the like with a location each."""
    n = 800
    graph = traced(straight(n), VECTOR)
    assert calls(lambda: traced(straight(n), VECTOR)) < 100 * len(graph.nodes)


PASSES: dict[str, Callable[[Graph], Callable[[], Any]]] = {
    "functionalize": lambda g: lambda: functionalize(g.replace()),
    "simplify": lambda g: lambda: simplify(functionalize(g.replace())),
    "linearize": lambda g: _linearize(g),
    "transpose": lambda g: _transpose(g),
    "vmap": lambda g: _vmap(g),
    "dead code": lambda g: _dead_code(g),
}


def _linearize(g: Graph) -> Callable[[], Any]:
    pure = functionalize(g)
    return lambda: linearize(pure, [True])


def _transpose(g: Graph) -> Callable[[], Any]:
    lin = linearize(functionalize(g), [True])
    return lambda: transpose(lin.linear, lin.num_residuals)


def _vmap(g: Graph) -> Callable[[], Any]:
    pure = functionalize(g)
    return lambda: vmap(pure, 4, [0], [0])


def _dead_code(g: Graph) -> Callable[[], Any]:
    pure = functionalize(g)
    return lambda: eliminate_dead_code(pure.replace())


@pytest.mark.parametrize("name", PASSES)
def test_passes_are_linear_in_a_straight_line(name):
    assert grows_linearly(lambda n: calls(PASSES[name](traced(straight(n), VECTOR))), 400)


@pytest.mark.parametrize("transform", [nf.jit, nf.grad], ids=["jit", "grad"])
def test_writes_in_a_python_loop_are_linear(transform):
    def whole(n: int) -> Graph:
        def f(x, y):
            return (setitems(n)(x, y.copy()) ** 2).sum()

        return pipeline.whole(traced(transform(f), VECTOR, ArrayType((n,), np.dtype(np.float64))))

    assert grows_linearly(lambda n: calls(lambda: whole(n)), 60)


def recurrence(n: int) -> Callable[[Any], Any]:
    """Each element from the one before."""

    def f(x):
        out = np.zeros(n)
        out[0] = x[0]
        for i in range(1, n):
            out[i] = out[i - 1] * 0.5 + x[i % 8]
        return out

    return f


def scalars(n: int) -> Callable[[Any], Any]:
    """An array from a list of as many scalars, each computed from the one before."""

    def f(x):
        found = [x[0]]
        for i in range(1, n):
            found.append(found[-1] * 0.5 + x[i % 8])
        return np.array(found)

    return f


@pytest.mark.parametrize("make", [recurrence, scalars])
def test_code_of_elements_that_depend_on_each_other_is_made_in_linear_time(make):
    def text(n: int) -> str:
        return nf.jit(make(n)).lower(np.ones(8))._module.text

    assert grows_linearly(lambda n: calls(lambda: text(n)), 100)
    assert len(text(200)) < 2.3 * len(text(100))
    # LLVM's time is quadratic in the number of accesses to memory between two fences
    assert max(part.count("call ") for part in text(400).split("fence ")) < 200


# -- nests of control flow


def nest(kind: str, depth: int) -> Callable[[Any], Any]:
    """A function of loops or branches, each in the body of the one around it."""

    def run(k: int, c: Any, x: Any) -> Any:
        def body(c):
            return np.sin(c) * x if k == 1 else run(k - 1, c * 2, x) + x

        def write(i, c):
            c[0] = c[1]
            part = c[2:]
            part += 1.0
            return body(c)

        match kind:
            case "scan":
                return nf.scan(lambda c, _: (body(c), c[0]), c, None, length=3)[0]
            case "fori":
                return nf.fori_loop(0, 3, lambda i, c: body(c) * i, c)
            case "write":
                return nf.fori_loop(0, 3, write, c.copy())
            case "map":
                return nf.map(lambda r: body(x * r), c).sum(0)
            case "cond":
                return nf.cond(c[0] > 0, body, lambda c: c * 3, c)
            case _:
                return nf.while_loop(lambda s: s[0] < 3, lambda s: (s[0] + 1, body(s[1])), (np.int64(0), c))[1]

    return lambda x: run(depth, x * 1.0, x).sum()


TRANSFORMS: dict[str, tuple[Callable[[Any], Any], ArrayType]] = {
    "jit": (nf.jit, VECTOR),
    "grad": (nf.grad, VECTOR),
    "vmap": (nf.vmap, ROWS),
    "vmap of grad": (lambda f: nf.vmap(nf.grad(f)), ROWS),
}


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("kind", ["scan", "fori", "write", "map", "cond", "while"])
def test_nests_are_compiled_in_time_linear_in_their_depth(kind, transform):
    if kind == "while" and "grad" in transform:
        pytest.skip("no reverse mode through an unknown number of iterations")
    apply, type = TRANSFORMS[transform]

    def count(depth: int) -> int:
        return calls(lambda: pipeline.whole(traced(apply(nest(kind, depth)), type)))

    two, four, six = count(2), count(4), count(6)
    assert six - four < 1.5 * (four - two)


def test_derivatives_of_a_deep_nest():
    def f(x):
        def run(k, c):
            return nf.fori_loop(0, 2, lambda i, c: c + x if k == 1 else run(k - 1, c) * 1.0, c)

        return run(5, x * 0.0).sum()

    np.testing.assert_array_equal(nf.grad(f)(np.ones(3)), np.full(3, 2.0**5))
    np.testing.assert_array_equal(nf.vmap(nf.grad(f))(np.ones((2, 3))), np.full((2, 3), 2.0**5))


def test_what_is_clean_already_is_left_alone():
    graph = simplify(functionalize(traced(nest("scan", 3), VECTOR)))
    assert simplify(graph) is graph
    assert eliminate_dead_code(graph) is graph
    copied = eliminate_dead_code(graph.replace())
    assert copied.nodes == graph.nodes


# -- locations


def test_locations_in_a_long_function_are_those_of_its_lines():
    lines = ["def f(here):"] + [f"    a{i} = here(\n        {i}\n    )" for i in range(300)]
    lines.append("    for i in range(3): here(-1)")
    scope: dict[str, Any] = {}
    exec(compile("\n".join(lines), "long_function.py", "exec"), scope)
    found = []

    def here(number: int) -> None:
        frame = sys._getframe(1)
        found.append((_lines(frame.f_code).at(frame), frame.f_lineno))

    scope["f"](here)
    assert len(found) == 303
    assert all(at == Location("long_function.py", line, "f") for at, line in found)


# -- the long way of a call


@pytest.fixture
def fronts(monkeypatch):
    """The executables that fronts are generated for."""
    made = []
    original = function.make_front

    def make(executable, *args):
        made.append(executable)
        return original(executable, *args)

    monkeypatch.setattr(function, "make_front", make)
    return made


def test_strided_arrays_do_not_generate_code_at_each_call(fronts):
    f = nf.jit(lambda x, y: x * 2 + y)
    x = np.arange(16.0).reshape(4, 4)
    for _ in range(5):
        np.testing.assert_array_equal(f(x[:, ::2], x[:, 1::2]), x[:, ::2] * 2 + x[:, 1::2])
    assert len(fronts) == 1


def test_methods_and_fresh_closures_share_their_front(fronts):
    class Model:
        def __init__(self, w):
            self.w = w

        @nf.jit
        def apply(self, x):
            return x * self.w

    for w in (2.0, 3.0):
        model = Model(np.full(3, w))
        for _ in range(3):
            np.testing.assert_array_equal(model.apply(np.ones(3)), np.full(3, w))
    assert len(fronts) == 1
    hits = nf.cache_info().hits
    np.testing.assert_array_equal(Model(np.full(3, 4.0)).apply(np.ones(3)), np.full(3, 4.0))
    assert nf.cache_info().hits == hits  # by the front, though the method was bound anew

    def scaled(a):
        return nf.grad(lambda x: (x * a).sum())

    for a in (1.0, 2.0, 3.0):
        np.testing.assert_array_equal(scaled(np.full(3, a))(np.ones(3)), np.full(3, a))
    assert len(fronts) == 2


def test_pullbacks_share_their_front(fronts):
    for a in (1.0, 2.0, 3.0):
        _, pullback = nf.vjp(lambda x: np.sin(x), np.full(3, a))
        np.testing.assert_allclose(pullback(np.ones(3))[0], np.cos(np.full(3, a)))
    assert len(fronts) == 2


def test_a_subclass_does_not_take_the_front_of_its_base():
    class Base:
        scale = 2.0

        @nf.jit
        def apply(self, x):
            return x * self.scale

    class Other(Base):
        scale = 5.0

    for _ in range(2):
        assert Base().apply(np.float64(3.0)) == 6.0
        assert Other().apply(np.float64(3.0)) == 15.0


# -- garbage collection and import


def test_no_collection_while_compiling_and_then_as_before():
    assert gc.isenabled()
    assert nf.jit(lambda x: x + int(gc.isenabled()))(np.zeros(())) == 0
    assert gc.isenabled()

    def wrong(x):
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        nf.jit(wrong)(np.ones(2))
    assert gc.isenabled()
    gc.disable()
    try:
        nf.jit(lambda x: x + 2)(np.ones(2))
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_import_brings_little():
    code = (
        "import sys, numpy; before = set(sys.modules); import nufunc; new = set(sys.modules) - before; "
        "print(*sorted(new))"
    )
    new = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    heavy = {"numpy.random", "numpy.fft", "numba", "llvmlite", "json", "decimal", "fractions", "ctypes", "urllib.parse"}
    assert not heavy & set(new)
    assert not [name for name in new if name.startswith("nufunc.codegen")]


def test_parts_of_numpy_that_are_imported_late_have_stand_ins():
    with pytest.raises(nf.TraceError, match=r"np\.random"):
        nf.jit(lambda x: x + np.random.rand(3))(np.ones(3))
    np.testing.assert_allclose(nf.jit(lambda x: np.fft.fft(x))(np.ones(3)), [3, 0, 0], atol=1e-15)


def test_long_chains_of_reads_by_index():
    """Each reads through all before it: what that costs is known once per value."""


    def sorted_by(keys):
        order = np.argsort(keys[0], kind="stable")
        for key in keys[1:]:
            order = order[np.argsort(key[order], kind="stable")]
        return order

    lowered = nf.jit(sorted_by).lower(nf.spec((600, 5)))
    assert len(fuse(lowered._program.graph).nodes) >= 600
