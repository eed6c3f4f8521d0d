"""Tapes and checkpoints: the text form, the verifier, who owns the memory, and what derivatives keep."""

import gc
import subprocess
import sys
import threading
import tracemalloc

import numpy as np
import pytest

import nufunc as nf
from nufunc.ir.errors import DTypeError, VerifyError
from nufunc.ir.interpret import run
from nufunc.ir.text import parse_graph, print_graph
from nufunc.ir.types import ArrayType, parse_type, tape_of
from nufunc.ir.verify import verify
from nufunc.passes.dead_code import eliminate_dead_code
from nufunc.passes.simplify import simplify
from nufunc.passes.transpose import vjp

SQUARES = """
graph @f(%0: f64[2], %1: f64[]) stage=pure {
  %2: f64[2], %3: tape(f64[2])[], %4: i64[] = record{num_body=0, num_cond=1}(%1, %0) [graph @cond(%7: f64[], %8: f64[2]) stage=pure {
      %9: f64[] = reduce_sum{axes=(0,)}(%8)
      %10: b1[] = lt(%9, %7)
      return %10
    },
    graph @body(%11: f64[2]) stage=pure {
      %12: f64[2] = mul(%11, %11)
      return %12, %11
    }]
  %5: f64[2] = full{dtype=f64, shape=(2,), value=0.0}()
  %6: f64[2] = replay{num_carry=1, num_consts=0, reverse=true}(%4, %5, %3) [graph @sum(%13: f64[2], %14: f64[2]) stage=pure {
      %15: f64[2] = add(%13, %14)
      return %15
    }]
  return %2, %6, %4
}
"""  # noqa: E501


def iterated(x, n):
    """n steps on a vector."""
    return nf.while_loop(lambda s: s[0] < n, lambda s: (s[0] + 1, np.sin(s[1]) * x + 0.1 * x), (0, x))[1].sum()


def stepped(x, n: int):
    """The same for a number of steps that is known."""
    return nf.fori_loop(0, n, lambda i, v: np.sin(v) * x + 0.1 * x, x).sum()


# -- types, text, verifier


@pytest.mark.parametrize("text", ["tape(f64[3])[]", "tape(i64[])[8,2]", "tape(tape(c64[0,2])[4])[1]"])
def test_types_are_read_as_they_are_printed(text: str) -> None:
    assert str(parse_type(text)) == text
    assert parse_type(text) == parse_type(text)
    assert hash(parse_type(text)) == hash(parse_type(text))


def test_tapes_are_types_of_their_own() -> None:
    tape = tape_of(ArrayType((3,), np.dtype(np.float64)))
    assert tape != ArrayType((), np.dtype(object))
    assert str(tape.batched(4)) == "tape(f64[3])[4]"
    assert tape.inexact
    assert not tape_of(ArrayType((), np.dtype(np.int64))).inexact
    with pytest.raises(ValueError, match="not a type"):
        parse_type("tape(f64[3]")


def test_loops_on_tapes_have_a_text_form_and_run() -> None:
    graph = verify(parse_graph(SQUARES))
    assert print_graph(graph).strip() == SQUARES.strip()
    last, total, count = run(graph, [np.array([2.0, 3.0]), np.array(100.0)])
    np.testing.assert_array_equal(last, [256, 6561])
    np.testing.assert_array_equal(total, [2 + 4 + 16, 3 + 9 + 81])
    assert count == 3


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("(%4, %5, %3)", "(%5, %5, %3)", "number of iterations"),
        ("(%4, %5, %3)", "(%4, %5, %5)", "takes a tape"),
        ("%3: tape(f64[2])[]", "%3: tape(f64[])[]", "inference gives"),
    ],
)  # fmt: skip
def test_wrong_loops_are_refused(old: str, new: str, message: str) -> None:
    with pytest.raises(VerifyError, match=message):
        verify(parse_graph(SQUARES.replace(old, new)))


def test_arithmetic_on_tapes_is_refused() -> None:
    from nufunc.ir.builder import Builder

    b = Builder()
    tape = b.param(tape_of(ArrayType((), np.dtype(np.float64))))
    with pytest.raises(DTypeError, match=r"tape\(f64"):
        b.add(tape, tape)


def test_a_record_without_readers_of_its_tapes_is_a_while() -> None:
    graph = parse_graph(SQUARES)
    trimmed = eliminate_dead_code(graph.replace(outputs=graph.outputs[:1]))
    assert [n.prim for n in trimmed.nodes] == ["while"]


def prims(graph) -> list[str]:
    return [n.prim for n in graph.walk()]


def test_the_derivative_keeps_the_carry_where_that_is_less() -> None:
    """The body has two residuals of the carry's size, so the carry alone is kept, and nothing that stays."""
    graph = parse_graph(nf.dump(iterated, np.ones(3), np.array(2), stage="simplified"))
    both = simplify(vjp(graph, [True, False]))
    (record,) = [n for n in both.nodes if n.prim == "record"]
    assert [str(r.type) for r in record.results if "tape" in str(r.type)] == ["tape(f64[3])[]"]
    (replay,) = [n for n in both.nodes if n.prim == "replay"]
    assert prims(replay.regions[0]).count("sin") == 1


def test_the_derivative_keeps_residuals_where_they_are_less() -> None:
    """Of a matrix product only a number is needed, not the matrix that is carried."""

    def f(x, n):
        def body(s):
            return s[0] + 1, s[1] @ s[1] * 0.1, s[2] * np.tanh(s[2]) + x

        return nf.while_loop(lambda s: s[0] < n, body, (0, np.outer(np.ones(9), np.ones(9)), x))[2]

    graph = parse_graph(nf.dump(f, 1.0, np.array(2), stage="simplified"))
    (record,) = [n for n in simplify(vjp(graph, [True, False])).nodes if n.prim == "record"]
    assert {str(r.type) for r in record.results if "tape" in str(r.type)} <= {"tape(f64[])[]"}


# -- memory


def growth(call, times: int = 6) -> int:
    """Bytes more after some calls, what LLVM and Python keep for themselves apart."""
    call()
    call()
    tracemalloc.start()
    try:
        call()
        gc.collect()
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(times):
            call()
        gc.collect()
        return tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()


def test_tapes_are_freed() -> None:
    """Each tape here has 80 KB or more; with the call, with the pullback, and after an error."""
    x, n = np.full(10, 0.7), np.array(1000)
    gradient = nf.grad(iterated)
    lanes = nf.vmap(gradient, in_dims=(0, 0))
    many, counts = np.full((64, 10), 0.7), np.arange(64) * 20
    nested = nf.grad(lambda x, n: nf.fori_loop(0, 3, lambda i, v: v + nf.grad(iterated)(v, n), x).sum())
    pullback = nf.jit(lambda x, n: nf.vjp(lambda y: iterated(y, n), x)[1])
    of_lanes = nf.vmap(lambda x, n: nf.vjp(lambda y: iterated(y, n), x)[1])
    wrong = lambda x, i: nf.while_loop(lambda s: s[0] < 1000, lambda s: (s[0] + 1, s[1] * x * x[i]), (0, x))[1].sum()
    failing = nf.grad(wrong)

    def fails() -> None:
        with pytest.raises(IndexError):
            failing(x, np.array(99))

    for call in (
        lambda: gradient(x, n), lambda: lanes(many, counts), lambda: nested(x, n), lambda: pullback(x, n)(1.0),
        lambda: of_lanes(many, counts), fails,
    ):  # fmt: skip
        assert growth(call) < 50_000


def test_a_loop_frees_the_tapes_of_each_iteration() -> None:
    """A hundred steps of gradient descent through a loop of unknown length need the memory of one."""
    x, n = np.full(100, 0.01), np.array(500)
    descent = nf.jit(lambda x, n: nf.fori_loop(0, 100, lambda i, v: v - 1e-9 * nf.grad(iterated)(v, n), x))
    descent(x, n)
    tracemalloc.start()
    try:
        descent(x, n)
        assert tracemalloc.get_traced_memory()[1] < 5 * 500 * 100 * 8
    finally:
        tracemalloc.stop()


def test_one_loop_after_the_other_needs_the_memory_of_one() -> None:
    def six(x, n):
        for _ in range(6):
            x = x - 1e-3 * nf.grad(iterated)(x, n)
        return x

    x, n, descent = np.full(100, 0.5), np.array(1000), nf.jit(six)
    descent(x, n)
    tracemalloc.start()
    try:
        descent(x, n)
        assert tracemalloc.get_traced_memory()[1] < 2 * 1024 * 100 * 8
    finally:
        tracemalloc.stop()


OUT_OF_MEMORY = """
import resource
import numpy as np
import nufunc as nf

def f(x, n):
    return nf.while_loop(lambda s: s[0] < n, lambda s: (s[0] + 1, np.sin(s[1]) * x), (0, x))[1].sum()

x, few, many = np.ones(1000), np.array(10), np.array(10**9)
calls = [(nf.grad(f), x), (nf.jit(lambda x, n: nf.vjp(lambda y: f(y, n), x)[1]), x)]
lanes = nf.vmap(nf.grad(f))
for call, x in calls:
    call(x, few)
lanes(np.ones((64, 1000)), np.full(64, 10))
now = int(open("/proc/self/statm").read().split()[0]) * 4096
resource.setrlimit(resource.RLIMIT_AS, (now + (100 << 20),) * 2)
for call, x in [*calls, (lambda x, n: lanes(x, np.full(64, int(n))), np.ones((64, 1000)))]:
    try:
        call(x, many)
    except MemoryError as error:
        assert isinstance(error, nf.NufuncError) and "in f" in str(error), str(error)
    else:
        raise AssertionError("no error")
    call(x, few)
print("done")
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the limit and /proc are Linux's")
def test_no_memory_is_a_memory_error() -> None:
    done = subprocess.run([sys.executable, "-c", OUT_OF_MEMORY], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout == "done\n"


def test_the_number_of_iterations_has_no_limit_but_memory() -> None:
    step = lambda s, x: (s[0] + 1, s[1] + np.sin(x * s[1] / s[1]) * 1e-6)
    f = nf.grad(lambda x, n: nf.while_loop(lambda s: s[0] < n, lambda s: step(s, x), (0, x))[1])
    np.testing.assert_allclose(f(0.5, np.array(1_000_000)), 1 + np.cos(0.5), rtol=1e-9)


# -- pullbacks that hold tapes


def test_a_pullback_is_called_often_and_from_threads() -> None:
    x = np.array([0.3, 0.7, 1.1])
    value, pullback = nf.vjp(lambda x: iterated(x, np.array(50)), x)
    expected = nf.grad(lambda x: stepped(x, 50))(x)
    np.testing.assert_allclose(value, nf.jit(lambda x: stepped(x, 50))(x), rtol=1e-14)
    found: list[np.ndarray] = []
    threads = [threading.Thread(target=lambda: found.extend(pullback(1.0)[0] for _ in range(20))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 60
    for gradient in found:
        np.testing.assert_allclose(gradient, expected, rtol=1e-13)


def test_pullbacks_pass_through_transforms_and_copies() -> None:
    xs, counts = np.array([[0.3, 0.7], [1.1, 0.2], [0.9, 0.5]]), np.array([3, 0, 40])
    expected = np.stack([nf.grad(lambda x, n=int(n): stepped(x, n))(x) for x, n in zip(xs, counts, strict=True)])
    pullbacks = nf.vmap(lambda x, n: nf.vjp(lambda y: iterated(y, n), x)[1])(xs, counts)
    pull = nf.vmap(lambda p, c: p(c)[0], in_dims=(0, 0))
    np.testing.assert_allclose(pull(pullbacks, np.ones(3)), expected, rtol=1e-13)
    copies = nf.tree.map(np.copy, pullbacks)
    del pullbacks
    gc.collect()
    passed = nf.jit(lambda p: (p, p))(copies)
    np.testing.assert_allclose(pull(passed[1], np.ones(3)), expected, rtol=1e-13)
    inside = nf.jit(lambda c: nf.vmap(lambda p, c: p(c)[0], in_dims=(0, None))(passed[0], c))
    np.testing.assert_allclose(inside(2.0), 2 * expected, rtol=1e-13)


def test_no_lanes() -> None:
    none = np.zeros(0)
    run_ = lambda x: nf.while_loop(lambda v: v < 9.0, lambda v: v * 2.0 + x, x)
    assert nf.vmap(nf.grad(run_))(none).shape == (0,)
    pullbacks = nf.vmap(lambda x: nf.vjp(run_, x)[1])(none)
    assert nf.vmap(lambda p, c: p(c)[0], in_dims=(0, 0))(pullbacks, none).shape == (0,)


def test_linear_functions_hold_tapes_too() -> None:
    x, v = np.array([0.3, 0.7]), np.array([1.0, -2.0])
    f = lambda x: nf.while_loop(lambda s: s[0] < 9, lambda s: (s[0] + 1, np.sin(s[1]) * x), (0, x))[1]
    _, push = nf.linearize(f, x)
    np.testing.assert_allclose(push(v), nf.jvp(f, (x,), (v,))[1], rtol=1e-14)
    np.testing.assert_allclose(nf.jacrev(f)(x), nf.jacfwd(f)(x), rtol=1e-13)
    np.testing.assert_allclose(nf.jacrev(f, chunk_size=1)(x), nf.jacfwd(f)(x), rtol=1e-13)


def test_forward_mode_needs_no_tape() -> None:
    f = lambda x, n: nf.jvp(lambda y: iterated(y, n), (x,), (x,))
    text = nf.dump(f, np.ones(2), np.array(3), stage="simplified")
    assert "tape(" not in text


@pytest.mark.parametrize("dtype", [np.float32, np.complex64, np.complex128])
def test_other_dtypes(dtype: type) -> None:
    x = np.array([0.3, 0.7]).astype(dtype) * (1 + 0.2j if np.dtype(dtype).kind == "c" else 1)
    by = lambda loop: nf.grad(lambda x: np.sum(np.abs(loop(x)) ** 2))(x)
    steps = lambda x: nf.fori_loop(0, 6, lambda i, v: np.sin(v) * x, x)
    unknown = lambda x: nf.while_loop(lambda s: s[0] < 6, lambda s: (s[0] + 1, np.sin(s[1]) * x), (0, x))[1]
    found = by(unknown)
    assert found.dtype == dtype
    np.testing.assert_allclose(found, by(steps), rtol=1e-5 if np.dtype(dtype).itemsize < 16 else 1e-12)


def test_without_the_native_wrapper() -> None:
    program = (
        "import numpy as np, nufunc as nf\n"
        "f = lambda x: nf.while_loop(lambda v: v < 9.0, lambda v: v * x, x)\n"
        "value, pullback = nf.vjp(f, 2.0)\n"
        "print(float(nf.grad(f)(2.0)), float(pullback(1.0)[0]), float(nf.grad(nf.grad(f))(2.0)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, env={"NUFUNC_NO_NATIVE_CALL": "1"}
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["32.0", "32.0", "48.0"]


# -- compile time and checkpoints


def chain(x, length: int, policy: str | None):
    step = lambda i, v: v + 0.01 * np.sin(v) * np.cos(v + 0.5) / (i + 1)
    return nf.checkpoint(lambda v: nf.fori_loop(0, length, step, v).sum(), policy)(x)


def test_what_is_compiled_does_not_depend_on_the_length() -> None:
    texts = [
        nf.jit(nf.grad(lambda x, n=n: chain(x, n, "all"))).lower(np.ones(4)).as_text("grouped") for n in (10**3, 10**6)
    ]
    assert len(texts[0].splitlines()) == len(texts[1].splitlines())


def test_segments_need_memory_for_the_square_root_of_the_length() -> None:
    def arena(length: int, policy: str) -> int:
        return nf.jit(nf.grad(lambda x: chain(x, length, policy))).lower(np.ones(4)).cost().arena_bytes

    for length in (100, 10_000, 1_000_000):
        step = arena(1000, "all") // 1000  # bytes that a step keeps
        assert arena(length, "all") >= length * 4 * 8
        assert arena(length, "sqrt") <= 2.2 * length**0.5 * step + 2000


@pytest.mark.parametrize("length", [1, 4, 17, 103])
def test_segments_of_every_length(length: int) -> None:
    x = np.array([0.3, 1.0])
    for transform in (nf.value_and_grad, nf.hessian) if length == 17 else (nf.value_and_grad,):
        whole, parts = (transform(lambda x, p=p: chain(x, length, p))(x) for p in ("all", "sqrt"))
        for part, one in zip(parts, whole, strict=True):
            np.testing.assert_allclose(part, one, rtol=1e-12)


def counted(f, x, prim: str) -> int:
    return nf.dump(f, x, stage="simplified").count(f" {prim}(")


def test_a_checkpoint_computes_again_what_it_does_not_save() -> None:
    x = np.ones(3)

    def f(x):
        return np.sum(np.exp(nf.checkpoint_name(np.sin(x), "wave") * x))

    values = lambda policy: nf.value_and_grad(nf.checkpoint(f, policy))
    assert counted(values("all"), x, "exp") == 1
    assert counted(values(None), x, "exp") == 2
    assert counted(values(None), x, "sin") == 2
    assert counted(values("none"), x, "sin") == 2
    assert counted(values(["wave"]), x, "sin") == 1
    assert counted(values(["wave"]), x, "exp") == 2
    assert counted(values(["other"]), x, "sin") == 2
    for policy in ("all", None, ["wave"]):
        np.testing.assert_allclose(values(policy)(x)[1], nf.grad(f)(x), rtol=1e-14)


def test_checkpoints_write_and_decorate() -> None:
    @nf.checkpoint(policy="none")
    def scaled(x, y):
        y += np.sin(x)
        return x * y

    def f(x):
        y = np.zeros(3)
        return scaled(x, y) + y

    x = np.array([0.1, 0.2, 0.3])
    np.testing.assert_allclose(nf.jit(f)(x), x * np.sin(x) + np.sin(x), rtol=1e-15)
    expected = np.sin(x) + x * np.cos(x) + np.cos(x)
    np.testing.assert_allclose(nf.grad(lambda x: f(x).sum())(x), expected, rtol=1e-14)
    assert nf.checkpoint_name(3.0, "outside") == 3.0


def test_unknown_policies_are_refused() -> None:
    with pytest.raises(nf.ArgumentError, match="policy is None"):
        nf.checkpoint(np.sin, policy="everything")


# -- nests


def regions_traced(depth: int) -> int:
    from nufunc.tracer import control

    count, init = [0], control._Region.__init__

    def counting(self, *args):
        count[0] += 1
        init(self, *args)

    def nest(depth, x):
        return nf.fori_loop(0, 2, lambda i, c: nest(depth - 1, c + 0) + c, 0) + x if depth else x * np.float32(0.5)

    control._Region.__init__ = counting
    try:
        found = nf.jit(lambda x: nest(depth, x))(np.float32(1))
    finally:
        control._Region.__init__ = init
    assert found.dtype == np.float64
    return count[0]


def test_nests_of_weak_carries_are_traced_a_fixed_number_of_times() -> None:
    assert [regions_traced(depth) for depth in (1, 2, 5)] == [2, 4, 10]


def test_lanes_record_and_replay_in_one_map() -> None:
    """Elementwise work between the loop and its derivative goes along; what shares values between lanes does not."""
    loop = lambda x: nf.while_loop(lambda v: v < 50.0, lambda v: v * (1.2 + x * x), x + 1)
    xs = np.linspace(0.1, 0.9, 7)
    apart = nf.value_and_grad(lambda x: np.sin(loop(x)) ** 2)
    together = nf.vmap(apart)
    found, expected = together(xs), [apart(float(x)) for x in xs]
    np.testing.assert_allclose(found, np.transpose(expected), rtol=1e-12)
    text = nf.dump(together, xs, stage="simplified")
    assert (text.count("= map{"), text.count("tape(f64[])[7]")) == (1, 0)
    mixed = lambda v: np.sum(np.sort(nf.vmap(loop)(v)) * xs)
    assert nf.dump(nf.grad(mixed), xs, stage="simplified").count("= map{") == 2
    order = np.argsort([loop(float(x)) for x in xs])
    weights = np.empty(7)
    weights[order] = xs
    np.testing.assert_allclose(nf.grad(mixed)(xs), weights * nf.vmap(nf.grad(loop))(xs), rtol=1e-12)
