"""lower, compile and cost: texts of stages, calls of one signature, numbers against programs worked out by hand."""

import gc
import tracemalloc

import numpy as np
import pytest

import nufunc as nf
from nufunc.ir.text import parse_graph
from nufunc.runtime.pipeline import STAGES

OFFSET = np.array([1.0, 2.0, 3.0])


def matmul(a, b):
    return a @ b


# -- texts


def test_every_stage_has_its_text():
    lowered = nf.vmap(nf.grad(lambda w, x: np.tanh(w @ x)), in_dims=(None, 0)).lower(nf.spec(3), nf.spec((5, 3)))
    for stage in ("traced", "functionalized", "transposed", "vmapped", "whole", "grouped", "loops", "asm"):
        assert stage in STAGES
        assert lowered.as_text(stage), stage
    assert "define i32" in lowered.as_text("llvm")
    assert parse_graph(lowered.as_text()).output_types[0].shape == (5, 3)
    whole = lowered.as_text(None)
    assert "# traced" in whole
    assert "# grouped" in whole
    with pytest.raises(ValueError, match=r"unknown stage 'nothing'.*traced"):
        lowered.as_text("nothing")
    compiled = lowered.compile()
    assert compiled.as_text("asm") == lowered.as_text("asm")
    assert compiled.as_text() == lowered.as_text("simplified")


def test_lowering_runs_and_compiles_nothing():
    before = nf.cache_info()
    lowered = nf.jit(matmul).lower(nf.spec((3, 4)), nf.spec((4, 5)))
    lowered.cost()
    lowered.as_text("loops")
    assert nf.cache_info() == before
    with pytest.raises(nf.ShapeError):
        nf.jit(matmul).lower(nf.spec((3, 4)), nf.spec((5, 4)))


# -- compiled functions


def test_a_compiled_function_takes_its_signature_only():
    lowered = nf.jit(lambda p, x, n: {k: v * x**n for k, v in p.items()}).lower(
        {"a": nf.spec(3), "b": nf.spec((2, 3), np.float32)}, 1.0, 2
    )
    compiled = lowered.compile()
    a, b = np.arange(3.0), np.ones((2, 3), np.float32)
    before = nf.cache_info().compiles
    for _ in range(3):
        result = compiled({"a": a, "b": b}, 3.0, 2)
        np.testing.assert_array_equal(result["a"], a * 9)
        np.testing.assert_array_equal(result["b"], b * 9)
        for args, words in [
            (({"a": a, "b": b}, 3.0, 3), "'n'.*static int 2.*static int 3"),
            (({"a": a, "b": b}, np.float64(3.0), 2), "'x'.*a float.*NumPy scalar f64"),
            (({"a": a, "b": b.astype(float)}, 3.0, 2), r"'p'\)\['b'\].*f32\[2,3\].*f64\[2,3\]"),
            (({"a": np.ones(4), "b": b}, 3.0, 2), r"'p'\)\['a'\].*f64\[3\].*f64\[4\]"),
            (({"a": a, "b": np.ones((3, 2), np.float32).T}, 3.0, 2), r"\['b'\].*f32\[2,3\] with strides \(1, 2\)"),
            (({"a": a}, 3.0, 2), "structure"),
            (({"a": a, "b": b}, 3.0), "structure"),
        ]:
            with pytest.raises(TypeError, match=words) as caught:
                compiled(*args)
            assert isinstance(caught.value, nf.NufuncError)
    assert nf.cache_info().compiles == before


def test_calls_use_what_was_compiled_ahead():
    func = nf.jit(lambda x: np.sin(x) + OFFSET)
    compiled = func.lower(nf.spec(3)).compile()
    before = nf.cache_info().compiles
    np.testing.assert_allclose(func(np.ones(3)), np.sin(1) + OFFSET)
    np.testing.assert_allclose(compiled(np.ones(3)), np.sin(1) + OFFSET)
    out = np.empty(3)
    assert compiled(np.ones(3), out=out) is out
    np.testing.assert_allclose(out, np.sin(1) + OFFSET)
    assert compiled.bind(np.ones(3), out=out)() is out
    assert nf.cache_info().compiles == before
    assert func.lower(nf.spec(3)).compile().executable is compiled.executable


def test_a_compiled_function_refuses_other_captures():
    factor = 2

    def scale(x):
        return x * factor

    func = nf.jit(scale)
    compiled = func.lower(nf.spec(2)).compile()
    np.testing.assert_array_equal(compiled(np.ones(2)), [2, 2])
    factor = 3
    with pytest.raises(nf.UnguardedCaptureError, match=r"scale.*lower it again"):
        compiled(np.ones(2))
    np.testing.assert_array_equal(func(np.ones(2)), [3, 3])


def test_values_play_no_part_in_lowering():
    x = np.ones(3)
    compiled = nf.jit(lambda x: x + 1).lower(x).compile()
    np.testing.assert_array_equal(x, np.ones(3))
    np.testing.assert_array_equal(compiled(np.full(3, 5.0)), [6, 6, 6])


# -- costs


def cost(func, *args):
    return nf.jit(func).lower(*args).cost()


@pytest.mark.parametrize(("m", "n", "k"), [(3, 4, 5), (64, 48, 80), (1, 7, 300), (257, 129, 65)])
def test_a_product_is_two_flops_per_term(m, n, k):
    found = cost(matmul, nf.spec((m, k)), nf.spec((k, n)))
    assert found.flops == 2 * m * n * k
    assert found.transcendentals == 0
    assert found.argument_bytes == 8 * (m * k + k * n)
    assert found.output_bytes == 8 * m * n
    assert found.num_kernels + found.num_library_calls == 1


@pytest.mark.parametrize(
    ("func", "shapes", "flops", "transcendentals", "read", "written"),
    [
        (lambda a, b: a + b, [(50, 30), (50, 30)], 1500, 0, 24_000, 12_000),
        (lambda a, b: a + b, [(50, 30), (30,)], 1500, 0, 12_240, 12_000),
        (lambda a: -a * 2 - 1, [(100,)], 300, 0, 800, 800),
        (lambda a: np.exp(a), [(100,)], 0, 100, 800, 800),
        (lambda a: np.exp(a) / (1 + np.sin(a)), [(100,)], 200, 200, 800, 800),
        (lambda a: a.sum(), [(40, 25)], 1000, 0, 8000, 8),
        (lambda a: a**5, [(100,)], 300, 0, 800, 800),
        (lambda a: a[10:20] * 2.0, [(1000,)], 10, 0, 80, 80),
        (lambda a: a.T + 0.0, [(20, 30)], 600, 0, 4800, 4800),
        (lambda a: a > 0.5, [(100,)], 100, 0, 800, 100),
        (lambda a: (a * 1j) * (a + 2j), [(10,)], 6 * 20 + 2 * 10, 0, 80, 160),
        (lambda a: np.arange(100) * 2, [(3,)], 0, 0, 800, 800),
        (lambda a: a, [(30,)], 0, 0, 240, 240),
        (lambda a: nf.fori_loop(0, 7, lambda i, c: c * a, a), [(100,)], 700, 0, 7 * 1600, 7 * 800),
        (lambda a: nf.map(lambda r: r * 2, a), [(20, 3)], 60, 0, 480, 480),
    ],
    ids=["add", "broadcast", "fused", "exp", "mixed", "sum", "power", "slice", "transpose", "compare", "complex",
         "integers", "identity", "loop", "map"],
)  # fmt: skip
def test_kernels_are_counted_by_hand(func, shapes, flops, transcendentals, read, written):
    found = cost(func, *map(nf.spec, shapes))
    assert (found.flops, found.transcendentals) == (flops, transcendentals)
    assert (found.bytes_read, found.bytes_written) == (read, written)
    assert not found.unbounded


def test_factorisations_and_sorts():
    n = 30
    solved = cost(np.linalg.solve, nf.spec((n, n)), nf.spec((n, 4)))
    assert solved.flops == 2 * n**3 // 3 + 2 * n * n * 4
    assert cost(lambda a: np.linalg.cholesky(a), nf.spec((5, n, n))).flops == 5 * (n**3 // 3)
    assert cost(lambda a: np.sort(a), nf.spec(n)).flops == 0


def test_branches_count_the_dearer_one_and_while_loops_once():
    branch = cost(lambda a, p: nf.cond(p, lambda x: x * 2 + 1, lambda x: x, a), nf.spec(100), nf.spec((), bool))
    assert branch.flops == 200
    loop = cost(lambda a: nf.while_loop(lambda c: c[0] < 10.0, lambda c: c * 2 + 1, a), nf.spec(100))
    assert loop.unbounded
    assert loop.flops == 1 + 200
    assert "counted once" in str(loop)


def test_rows_name_the_users_lines():
    def program(a, b):
        c = a @ b
        return np.sort(np.tanh(c), axis=0)

    found = cost(program, nf.spec((300, 200)), nf.spec((200, 400)))
    first = program.__code__.co_firstlineno
    lines = {row.location.line - first for row in found.rows}
    assert lines == {1, 2}
    assert all(row.location.file == __file__ for row in found.rows)
    assert f"{__file__}:{first + 1}" in str(found)
    assert found.flops == sum(row.flops for row in found.rows) == 2 * 300 * 200 * 400
    assert found.transcendentals == 300 * 400


def test_donated_and_written_arguments_need_no_output():
    x, g = np.ones(1000), np.ones(1000)
    plain = nf.jit(lambda x, g: x - g).lower(x, g).cost()
    donated = nf.jit(lambda x, g: x - g, donate_argnums=0).lower(x, g).cost()
    assert plain.output_bytes == 8000
    assert donated.output_bytes == 0
    assert donated.peak_bytes == plain.peak_bytes - 8000

    def write(x, g):
        x -= g

    assert nf.jit(write).lower(x, g).cost().peak_bytes == 16_000


def sorted_twice(x):
    return np.sort(np.cumsum(np.sort(x, axis=0), axis=1), axis=0)


def gradient(w, x):
    return np.sum(np.tanh(np.tanh(x @ w) @ w.T) ** 2)


@pytest.mark.parametrize(
    ("func", "shapes"),
    [
        (nf.jit(matmul), [(300, 200), (200, 400)]),
        (nf.jit(sorted_twice), [(200, 301)]),
        (nf.grad(gradient), [(200, 150), (400, 200)]),
        (nf.vmap(nf.grad(gradient), in_dims=(None, 0)), [(20, 15), (400, 40, 20)]),
        (nf.jit(lambda x: nf.fori_loop(0, 3, lambda i, c: np.sin(c[::-1]), x)), [(300, 300)]),
        (nf.jit(lambda x: x.sum()), [(300, 300)]),
    ],
    ids=["product", "sorts", "grad", "vmap-grad", "loop", "sum"],
)
def test_the_peak_is_what_a_call_allocates(func, shapes):
    rng = np.random.default_rng(0)
    args = [rng.standard_normal(s) for s in shapes]
    compiled = func.lower(*args).compile()
    found = compiled.cost()
    assert found.argument_bytes == sum(a.nbytes for a in args)
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        result = compiled(*args)  # the first call: its workspace is new
        peak = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    assert found.output_bytes == sum(np.asarray(r).nbytes for r in nf.tree.leaves(result))
    python_objects = 200_000
    assert found.output_bytes + found.arena_bytes <= peak + 16 * 1024  # a small arena is on the stack
    assert peak <= found.output_bytes + found.arena_bytes + python_objects


def test_captured_arrays_and_constants_are_counted():
    found = cost(lambda x: x + OFFSET, nf.spec(3))
    assert found.argument_bytes == 48
    assert found.constant_bytes == 0
    made = cost(lambda x: x + np.array([1.0, 5.0, 2.0]), nf.spec(3))
    assert made.peak_bytes == made.argument_bytes + made.output_bytes + made.constant_bytes + made.arena_bytes


# -- temporaries within a limit


@pytest.mark.parametrize(
    ("transformed", "shapes"),
    [
        (nf.vmap(nf.grad(lambda w, x: np.sum(np.tanh(x @ w) ** 2)), in_dims=(None, 0)), [(30,), (1000, 50, 30)]),
        (nf.jacrev(lambda x: np.cumsum(np.sin(np.outer(x, x)), axis=1).sum(1)), [(40,)]),
        (nf.hessian(lambda x: np.sum(np.cumsum(np.sin(np.outer(x, x)), axis=0) ** 2)), [(20,)]),
    ],
    ids=["vmap", "jacrev", "hessian"],
)
def test_chunks_keep_temporaries_within_a_limit(transformed, shapes):
    rng = np.random.default_rng(0)
    args = [rng.standard_normal(s) for s in shapes]
    whole = transformed.lower(*args).cost().arena_bytes
    limit = whole // 5
    limited = nf.jit(transformed, max_bytes=limit)
    found = limited.lower(*args).cost()
    assert 0 < found.arena_bytes <= limit
    np.testing.assert_allclose(limited(*args), transformed(*args), rtol=1e-9, atol=1e-12)
    roomy = nf.jit(transformed, max_bytes=whole)
    assert roomy.lower(*args).cost() == nf.jit(transformed).lower(*args).cost()


def test_what_does_not_fit_says_where():
    func = nf.jit(sorted_twice, max_bytes=1000)
    with pytest.raises(nf.ArgumentError, match=r"max_bytes=1,000 allows less.*test_lowered.py") as caught:
        func(np.ones((200, 301)))
    assert "bytes" in str(caught.value)
    mapped = nf.jit(nf.vmap(sorted_twice), max_bytes=1000)
    with pytest.raises(nf.ArgumentError, match=r"with one lane at a time"):
        mapped(np.ones((3, 200, 301)))
    assert func(np.ones((3, 2))).shape == (3, 2)
    for wrong in (-1, 1.5, True):
        with pytest.raises(nf.ArgumentError, match="max_bytes"):
            nf.jit(sorted_twice, max_bytes=wrong)
