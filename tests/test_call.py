"""What a call leaves to the caller: `out=`, `bind`, donated arguments, arguments written in place, the leaf picker."""

import collections
import dataclasses
import gc
import sys
import threading
import tracemalloc
import weakref

import numpy as np
import pytest

import nufunc as nf
from nufunc.codegen import buffers

SCALE = 2.0
WEIGHTS = np.array([1.0, 2.0, 3.0])
POWER = 2


def compiles(call):
    before = nf.cache_info().compiles
    call()
    return nf.cache_info().compiles - before


def python_calls(call):
    """How many functions written in Python a call runs."""
    seen = []
    sys.setprofile(lambda frame, event, arg: seen.append(frame.f_code.co_name) if event == "call" else None)
    try:
        call()
    finally:
        sys.setprofile(None)
    return seen


def allocated(call):
    """The most bytes that a call holds at a time."""
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        result = call()
        return tracemalloc.get_traced_memory()[1] - before, result
    finally:
        tracemalloc.stop()


# -- out=


@pytest.mark.parametrize(
    ("func", "args", "make"),
    [
        (lambda x: x * 2, (np.arange(5.0),), lambda: np.empty(5)),
        (lambda x: x.sum(), (np.arange(5.0),), lambda: np.empty(())),
        (lambda x: np.sum(x) * 1.0, (3.0,), lambda: np.empty(())),
        (lambda x, y: {"a": x + y, "b": [x > y, (x * y).sum()]}, (np.arange(3.0), np.ones(3)),
         lambda: {"a": np.empty(3), "b": [np.empty(3, bool), np.empty(())]}),
        (lambda x: (x, None, x[::-1]), (np.arange(3.0),), lambda: (np.empty(3), None, np.empty(3))),
        (lambda x: x.astype(np.float32), (np.arange(6.0).reshape(2, 3),), lambda: np.empty((2, 3), np.float32)),
        (lambda x: x @ x, (np.arange(9.0).reshape(3, 3),), lambda: np.empty((3, 3))),
        (lambda x: x[:0], (np.arange(3.0),), lambda: np.empty(0)),
    ],
    ids=["array", "scalar", "number", "tree", "tuple", "f4", "dot", "empty"],
)  # fmt: skip
def test_out_takes_the_results_and_comes_back(func, args, make):
    compiled, want = nf.jit(func), nf.tree.leaves(nf.jit(func)(*args))
    for _ in range(3):  # the long way, then the short one
        out = make()
        assert compiled(*args, out=out) is out
        for got, expected in zip(nf.tree.leaves(out), want, strict=True):
            np.testing.assert_array_equal(got, expected)


def test_out_of_any_layout():
    func, x = nf.jit(lambda x: x * 3), np.arange(6.0).reshape(2, 3)
    for out in (np.empty((3, 2)).T, np.empty((2, 6))[:, ::2], np.empty((2, 3))[::-1]):
        for _ in range(2):
            out[:] = 0
            assert func(x, out=out) is out
            np.testing.assert_array_equal(out, x * 3)


def test_out_works_under_every_transform():
    x = np.array([1.0, 2.0])
    out = np.empty(2)
    nf.grad(lambda x: np.sum(x**3))(x, out=out)
    np.testing.assert_allclose(out, 3 * x**2)
    nf.vmap(lambda x: np.sin(x))(x, out=out)
    np.testing.assert_allclose(out, np.sin(x))
    square = np.empty((2, 2))
    nf.hessian(lambda x: np.sum(x**3))(x, out=square)
    np.testing.assert_allclose(square, np.diag(6 * x))


def test_out_allocates_no_results():
    func, x, out = nf.jit(lambda x: np.sin(x) + 1), np.ones(100_000), np.empty(100_000)
    func(x, out=out)
    func(x, out=out)
    peak, _ = allocated(lambda: func(x, out=out))
    assert peak < 10_000
    peak, _ = allocated(lambda: func(x))
    assert peak >= x.nbytes


def test_out_that_overlaps_an_argument_is_as_if_copied_first():
    func = nf.jit(lambda x, y: x[::-1] + y)
    for _ in range(3):
        memory = np.arange(8.0)
        x, out = memory[:4], memory[2:6]
        want = x[::-1] + 10.0
        func(x, np.full(4, 10.0), out=out)
        np.testing.assert_array_equal(out, want)
        x = np.arange(4.0)
        want = x[::-1] + x
        assert func(x, x, out=x) is x
        np.testing.assert_array_equal(x, want)


def test_out_that_overlaps_a_capture_is_as_if_copied_first():
    w = np.arange(4.0)
    func = nf.jit(lambda x: w[::-1] * x)
    for _ in range(3):
        want = w[::-1] * 2.0
        func(2.0, out=w)
        np.testing.assert_array_equal(w, want)


def test_an_error_leaves_out_as_it_was_in_the_long_way():
    func = nf.jit(lambda x, i: x[i] * 2)
    x, out = np.arange(4.0), np.zeros(2)[::-1]
    with pytest.raises(IndexError):
        func(x, np.array([0, 9]), out=out)
    np.testing.assert_array_equal(out, [0, 0])


@pytest.mark.parametrize(
    ("out", "error", "words"),
    [
        ((np.empty(3), np.empty(4)), ValueError, r"out\[1\].*\(3,\).*\(4,\)"),
        ((np.empty(3), np.empty(3, np.float32)), TypeError, r"out\[1\].*float64.*float32"),
        ((np.empty(3), [1.0, 2.0, 3.0]), TypeError, "tree like the result"),
        ((np.empty(3), 1.0), TypeError, r"out\[1\].*float"),
        (np.empty((2, 3)), TypeError, "tree like the result"),
        ((np.empty(3), np.ma.masked_array(np.empty(3))), TypeError, r"out\[1\].*MaskedArray"),
        ((np.empty(3), np.broadcast_to(np.zeros(1), 3)), ValueError, r"out\[1\].*read-only"),
        ((np.empty(4)[:3], np.empty(4)), ValueError, r"out\[1\]"),
    ],
    ids=["shape", "dtype", "list", "number", "array", "masked", "read-only", "second shape"],
)
def test_an_out_that_does_not_fit_is_named(out, error, words):
    func = nf.jit(lambda x: (x + 1, x - 1))
    func(np.ones(3), out=(np.empty(3), np.empty(3)))
    with pytest.raises(error, match=words) as caught:
        func(np.ones(3), out=out)
    assert isinstance(caught.value, nf.NufuncError)
    with pytest.raises(error, match=words):
        func.bind(np.ones(3), out=out)


def test_outs_may_not_share_memory():
    func, memory = nf.jit(lambda x: (x + 1, x - 1)), np.empty(6)
    with pytest.raises(ValueError, match=r"out\[1\] and out\[0\] share memory"):
        func(np.ones(3), out=(memory[:3], memory[2:5]))
    func(np.ones(3), out=(memory[::2], memory[1::2]))
    np.testing.assert_array_equal(memory, [2, 0, 2, 0, 2, 0])


def test_static_results_must_be_equal():
    func = nf.jit(lambda x, n: (x * n, n))
    out = np.empty(2)
    for _ in range(3):
        out[:] = 0
        assert func(np.ones(2), 3, out=(out, 3))[0] is out
        np.testing.assert_array_equal(out, [3, 3])
        with pytest.raises(ValueError, match=r"out\[1\].*3.*got 4"):
            func(np.ones(2), 3, out=(out, 4))


def test_a_functions_own_out_is_its_own():
    def add(x, out):
        out += x
        return out.sum()

    func, buffer = nf.jit(add), np.ones(2)
    assert func(np.ones(2), out=buffer) == 4.0
    np.testing.assert_array_equal(buffer, [2, 2])
    assert func(np.ones(2), buffer) == 6.0
    options = nf.jit(lambda x, **options: x + options["out"])
    np.testing.assert_array_equal(options(np.ones(2), out=np.ones(2)), [2, 2])


def test_out_of_none_is_no_out():
    np.testing.assert_array_equal(nf.jit(lambda x: x + 1)(np.ones(2), out=None), [2, 2])


def test_out_inside_a_traced_function_writes_there():
    double = nf.jit(lambda x: x * 2)

    @nf.jit
    def outer(x):
        buffer = np.zeros(3)
        same = double(x, out=buffer)
        return buffer + same

    np.testing.assert_array_equal(outer(np.ones(3)), [4, 4, 4])
    with pytest.raises(ValueError, match=r"out.*shape"):
        nf.jit(lambda x: double(x, out=np.zeros(2)))(np.ones(3))


def test_out_with_keywords_takes_the_short_way():
    func, x, out = nf.jit(lambda x, *, a, b: x * a + b), np.ones(3), np.empty(3)
    for call in (lambda: func(x, a=2.0, b=x), lambda: func(x, b=x, a=2.0, out=out)):
        call()
        assert len(python_calls(call)) <= 5
    np.testing.assert_array_equal(out, [3, 3, 3])


# -- bind


def test_a_bound_call_reads_the_arrays_of_today():
    x, y = np.ones(3), np.arange(3.0)
    call = nf.jit(lambda p, s: {"sum": p["x"] + p["y"], "scaled": p["x"] * s}).bind({"x": x, "y": y}, 3.0)
    for value in (1.0, 5.0):
        x[:] = value
        result = call()
        np.testing.assert_array_equal(result["sum"], x + y)
        np.testing.assert_array_equal(result["scaled"], x * 3)
    first, second = call(), call()
    assert not np.shares_memory(first["sum"], second["sum"])


def test_a_bound_call_is_one_python_function_and_allocates_nothing_with_out():
    x, out = np.ones(50_000), np.empty(50_000)
    call = nf.jit(lambda x: np.sqrt(x) + 1).bind(x, out=out)
    assert call() is out
    assert python_calls(call) == ["__call__", "bound", "read_captures"]
    x[:] = 4.0
    peak, _ = allocated(call)
    assert peak < 10_000
    np.testing.assert_array_equal(out, np.full(50_000, 3.0))


def test_a_bound_call_writes_its_arguments_in_place():
    u = np.zeros(4)

    @nf.jit
    def step(u, v):
        u[1:] += v
        return u.sum()

    call = step.bind(u, 2.0)
    assert [float(call()) for _ in range(3)] == [6.0, 12.0, 18.0]
    np.testing.assert_array_equal(u, [0, 6, 6, 6])


def test_a_bound_call_reads_captures_each_time():
    global SCALE, WEIGHTS, POWER
    x = np.ones(3)
    call = nf.jit(lambda x: x * SCALE + WEIGHTS**POWER).bind(x)
    old = SCALE, WEIGHTS, POWER
    try:
        np.testing.assert_array_equal(call(), 2.0 + np.array([1, 4, 9]))
        SCALE, WEIGHTS = 5.0, np.array([1.0, 1.0, 2.0])
        np.testing.assert_array_equal(call(), 5.0 + np.array([1, 1, 4]))
        POWER = 3  # static: another compilation
        np.testing.assert_array_equal(call(), 5.0 + np.array([1, 1, 8]))
        WEIGHTS = np.array([1.0, 1.0, 2.0], np.float32)
        np.testing.assert_array_equal(call(), 5.0 + np.array([1, 1, 8]))
    finally:
        SCALE, WEIGHTS, POWER = old


def test_bound_arrays_of_any_layout():
    x, out = np.arange(12.0).reshape(3, 4), np.empty((6, 2))[::2]
    call = nf.jit(lambda x: x * 2).bind(x[:, ::2], out=out)
    for value in (1.0, 2.0):
        x[:] = value
        np.testing.assert_array_equal(call(), np.full((3, 2), 2 * value))


def test_a_resized_array_is_refused_by_name():
    x, y = np.ones(4), np.ones(4)
    call = nf.jit(lambda p, y: p["x"] + y).bind({"x": x}, y)
    np.testing.assert_array_equal(call(), np.full(4, 2.0))
    x.resize(6, refcheck=False)
    with pytest.raises(nf.ArgumentTypeError, match=r"'p'\)\['x'\].*f64\[4\].*f64\[6\] now"):
        call()
    out = np.empty(4)
    call = nf.jit(lambda y: y + 1).bind(y, out=out)
    call()
    out.resize(2, refcheck=False)
    with pytest.raises(nf.ShapeError, match="out"):
        call()


def test_a_bound_call_keeps_its_arrays_and_lets_them_go():
    class Watched(np.ndarray):
        pass

    x = np.ones(3)
    call = nf.jit(lambda x: x + 1).bind(x)
    alive = weakref.ref(x)
    del x
    gc.collect()
    np.testing.assert_array_equal(call(), [2, 2, 2])
    del call
    gc.collect()
    assert alive() is None


def test_bind_of_methods_pullbacks_and_static_arguments():
    class Model:
        def __init__(self):
            self.w = np.array([1.0, 2.0])

        @nf.jit(static_argnums=1)
        def apply(self, n):
            return self.w * n

    model = Model()
    call = model.apply.bind(3)
    np.testing.assert_array_equal(call(), [3, 6])
    model.w = np.array([5.0, 5.0])
    np.testing.assert_array_equal(call(), [15, 15])


def test_bind_is_for_outside():
    with pytest.raises(nf.TraceError, match="bind"):
        nf.jit(lambda x: nf.jit(lambda y: y).bind(x)())(np.ones(2))


def test_threads_call_one_bound_function():
    x = np.random.default_rng(0).standard_normal(30_000)
    call = nf.jit(lambda x: np.sort(np.sin(x) * 2)[::-1]).bind(x)
    want, wrong = np.sort(np.sin(x) * 2)[::-1], []

    def work():
        wrong.extend(k for k in range(20) if not np.allclose(call(), want, rtol=1e-12))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong


# -- donated arguments


@pytest.mark.parametrize("n", [3, 8, 1001, 100_003])
def test_a_donated_array_becomes_the_result(n):
    step = nf.jit(lambda p, g: p - 0.5 * g, donate_argnums=0)
    for _ in range(3):
        p, g = np.arange(float(n)), np.ones(n)
        result = step(p, g)
        assert result is p
        np.testing.assert_array_equal(result, np.arange(float(n)) - 0.5)
        np.testing.assert_array_equal(g, np.ones(n))


def test_donation_allocates_nothing():
    step, p, g = nf.jit(lambda p, g: np.sin(p) * g, donate_argnums=(0,)), np.ones(100_000), np.full(100_000, 0.5)
    step(p.copy(), g)
    peak, result = allocated(lambda: step(p, g))
    assert peak < 10_000
    np.testing.assert_allclose(result, np.sin(1.0) * 0.5)


def test_a_tree_of_donated_arrays_with_broadcasts_and_several_results():
    def update(params, grads, rate):
        new = {k: params[k] - rate * grads[k] for k in params}
        return new, rate * 2

    rng = np.random.default_rng(0)
    shapes = {"w": (7, 33), "b": (33,), "c": ()}
    step = nf.jit(update, donate_argnums=0)
    for _ in range(3):
        params = {k: rng.standard_normal(s) for k, s in shapes.items()}
        params["c"] = np.array(1.5)
        grads = {k: np.asarray(rng.standard_normal(s)) for k, s in shapes.items()}
        want, _ = update({k: v.copy() for k, v in params.items()}, grads, 0.1)
        new, doubled = step(params, grads, 0.1)
        for k in shapes:
            np.testing.assert_allclose(new[k], want[k], rtol=1e-14)
        assert new["w"] is params["w"]
        assert new["b"] is params["b"]
        assert doubled == 0.2


@pytest.mark.parametrize(
    "func",
    [
        lambda x, y: x[::-1] + y,
        lambda x, y: x - x.sum() * y,
        lambda x, y: np.cumsum(x) * y,
        lambda x, y: (x * y, x + y),
        lambda x, y: (x + y).astype(np.float64) + np.roll(x, 1),
        lambda x, y: np.where(x > y, y, x),
        lambda x, y: nf.fori_loop(0, 5, lambda i, c: c + x * y, x),
        lambda x, y: x,
        lambda x, y: (y, x),
        lambda x, y: np.concatenate([x[3:], y[:3]]),
        lambda x, y: np.sort(x) + y,
    ],
)
def test_donation_never_changes_a_result(func):
    rng = np.random.default_rng(1)
    for argnums in (0, 1, (0, 1)):
        step = nf.jit(func, donate_argnums=argnums)
        for _ in range(3):
            x, y = rng.standard_normal(1003), rng.standard_normal(1003)
            want = nf.tree.leaves(nf.jit(func)(x, y))
            for got, expected in zip(nf.tree.leaves(step(x.copy(), y.copy())), want, strict=True):
                np.testing.assert_array_equal(got, expected)


def test_donated_arrays_that_cannot_be_used_are_refused():
    step = nf.jit(lambda p, g: p - g, donate_argnums=0)
    p = np.ones(3)
    p.flags.writeable = False
    for _ in range(2):
        with pytest.raises(ValueError, match=r"donated array is read-only.*'p'"):
            step(p, np.ones(3))
        memory = np.arange(5.0)
        with pytest.raises(nf.MutationError, match=r"'p'.*overlaps.*'g'"):
            step(memory[:3], memory[1:4])
        np.testing.assert_array_equal(memory, np.arange(5.0))
        q = np.ones(3)
        with pytest.raises(nf.MutationError, match="overlaps"):
            step(q, q)
        step(np.ones(3), np.ones(3))


def test_donated_arrays_of_another_layout_are_only_read():
    step = nf.jit(lambda p, g: p - g, donate_argnums=0)
    p = np.arange(6.0)
    np.testing.assert_array_equal(step(p[::2], np.ones(3)), [-1, 1, 3])
    np.testing.assert_array_equal(p, np.arange(6.0))


def test_donation_and_out_exclude_each_other():
    step = nf.jit(lambda p: p + 1, donate_argnums=0)
    with pytest.raises(ValueError, match="donate_argnums"):
        step(np.ones(3), out=np.empty(3))
    np.testing.assert_array_equal(nf.jit(lambda p: p.sum(), donate_argnums=0)(np.ones(3), out=np.empty(())), 3)


def test_an_argument_is_static_or_donated():
    with pytest.raises(ValueError, match=r"static_argnums.*donate_argnums"):
        nf.jit(lambda x: x, static_argnums=0, donate_argnums=0)


# -- arguments that are written in place


def test_writing_in_place_takes_the_short_way_without_copies():
    @nf.jit
    def relax(u, v):
        u[1:-1] += v
        u *= 2.0

    u = np.zeros(100_000)
    relax(u, 1.0)
    assert len(python_calls(lambda: relax(u, 1.0))) <= 4
    peak, _ = allocated(lambda: relax(u, 1.0))
    assert peak < 10_000
    want = np.zeros(100_000)
    for _ in range(3):
        want[1:-1] += 1.0
        want *= 2.0
    np.testing.assert_array_equal(u, want)


def test_arguments_change_places():
    @nf.jit
    def swap(a, b):
        c = a.copy()
        a[:] = b
        b[:] = c

    a, b = np.arange(1003.0), -np.arange(1003.0)
    for _ in range(2):
        x, y = a.copy(), b.copy()
        swap(x, y)
        np.testing.assert_array_equal(x, b)
        np.testing.assert_array_equal(y, a)


def test_a_call_that_fails_leaves_its_arguments_as_they_were():
    @nf.jit
    def write(u, x, i):
        u += 1.0
        u[:2] = x[i]

    u, x = np.zeros(4), np.arange(3.0)
    for _ in range(2):
        with pytest.raises(IndexError):
            write(u, x, np.array([0, 7]))
        np.testing.assert_array_equal(u, np.zeros(4))
    write(u, x, np.array([1, 2]))
    np.testing.assert_array_equal(u, [1, 2, 1, 1])


def test_results_and_written_arguments_are_apart():
    @nf.jit
    def both(u):
        u += 1.0
        return u, u * 2

    u = np.zeros(3)
    for k in range(1, 4):
        same, double = both(u)
        np.testing.assert_array_equal(u, np.full(3, float(k)))
        np.testing.assert_array_equal(same, u)
        np.testing.assert_array_equal(double, 2 * u)
        assert not np.shares_memory(same, u)


def test_large_temporaries_are_overwritten_where_they_die():
    x = np.random.default_rng(0).standard_normal((300, 401))
    func = nf.jit(lambda x: np.sort(np.sin(np.sort(x) * 2)))
    np.testing.assert_allclose(func(x), np.sort(np.sin(np.sort(x) * 2)), rtol=1e-12)
    mine = func.lower(x).cost().arena_bytes
    limit = buffers.OVERWRITE
    try:
        buffers.OVERWRITE = 1 << 60
        assert func.lower(x).cost().arena_bytes >= mine + x.nbytes
    finally:
        buffers.OVERWRITE = limit


# -- the leaf picker


Pair = collections.namedtuple("Pair", "a b")


@dataclasses.dataclass
class Point:
    x: object
    y: object


class Box:
    def __init__(self, items, label):
        self.items, self.label = items, label


nf.tree.register(Box, lambda b: (b.items, b.label), lambda label, items: Box(list(items), label))


@dataclasses.dataclass
class Reversed:
    """A dataclass that is registered with an order of its own."""

    x: object
    y: object


nf.tree.register(Reversed, lambda r: ((r.y, r.x), None), lambda _, c: Reversed(*reversed(list(c))))
ONE = np.ones(3)


def total(t):
    return sum((k + 1) * np.sum(leaf) for k, leaf in enumerate(nf.tree.leaves(t)))


@pytest.mark.parametrize(
    ("value", "others"),
    [
        ({"a": ONE, "b": ONE}, [{"a": ONE, "b": ONE, "c": ONE}, {"a": ONE}, {"a": ONE, "c": ONE}, [ONE, ONE],
                                collections.OrderedDict(a=ONE, b=ONE), None]),
        ((ONE, ONE), [(ONE,), (ONE, ONE, ONE), [ONE, ONE], Pair(ONE, ONE), ONE]),
        ([ONE, None], [[ONE, ONE], [None, ONE], [ONE], (ONE, None)]),
        (Pair(ONE, ONE), [(ONE, ONE), Pair(ONE, (ONE,)), Pair(None, ONE)]),
        (Point(ONE, [ONE]), [Point(ONE, ONE), Pair(ONE, [ONE]), Point([ONE], ONE)]),
        (Box([ONE, ONE], "l"), [Box([ONE, ONE], "m"), Box([ONE], "l"), [ONE, ONE]]),
        (Reversed(ONE, 2 * ONE), [Point(ONE, ONE), Reversed(None, ONE)]),
        ({"n": 3, "x": ONE}, [{"n": 4, "x": ONE}, {"n": True, "x": ONE}, {"n": 3.0, "x": ONE}]),
        ({"a": ONE}, [{"a": ONE.astype(np.float32)}, {"a": np.ones(4)}, {"a": np.ones((3, 1))}, {"a": 1.0}]),
    ],
    ids=["dict", "tuple", "list", "namedtuple", "dataclass", "registered", "reversed", "static", "leaves"],
)  # fmt: skip
def test_the_short_way_takes_its_own_trees_only(value, others):
    func = nf.jit(lambda t: total(t))
    assert func(value) == total(value)
    (front,) = func._fronts
    assert front(func.func, (value,), {}) == total(value)
    assert len(python_calls(lambda: func(value))) <= 8
    for other in others:
        assert front(func.func, (other,), {}) is NotImplemented
        assert func(other) == total(other)
    assert front(func.func, (value, value), {}) is NotImplemented
    assert front(func.func, (), {}) is NotImplemented
    assert front(func.func, (value,), {"x": 1}) is NotImplemented
    assert front(func.func, (), {"t": value}) is NotImplemented


def test_the_short_way_of_keywords():
    func = nf.jit(lambda x, *, a=1.0, flip=False: (-x if flip else x) * a)
    x = np.arange(3.0)
    np.testing.assert_array_equal(func(x, a=2.0, flip=True), -2 * x)
    (front,) = func._fronts
    np.testing.assert_array_equal(front(func.func, (x,), {"flip": True, "a": 3.0}), -3 * x)
    for kwargs in ({}, {"a": 2.0}, {"a": 2.0, "flip": False}, {"a": 2.0, "flip": 1}, {"a": x, "flip": True},
                   {"a": 2.0, "flop": True}, {"a": 2.0, "flip": True, "z": 1}):  # fmt: skip
        assert front(func.func, (x,), kwargs) is NotImplemented
    np.testing.assert_array_equal(func(x), x)


def test_results_are_built_as_the_function_returned_them():
    func = nf.jit(lambda x: {"p": Pair(x, [x + 1]), "q": Point(x * 2, None), "r": ()})
    for _ in range(3):
        result = func(np.ones(2))
        assert type(result["p"]) is Pair
        assert type(result["q"]) is Point
        np.testing.assert_array_equal(result["q"].x, [2, 2])
        np.testing.assert_array_equal(result["p"].b[0], [2, 2])
    pairs = nf.jit(lambda x: Pair(x, (x + 1,)))
    for _ in range(3):
        result = pairs(np.ones(2))
        assert type(result) is Pair
        np.testing.assert_array_equal(result.b[0], [2, 2])
