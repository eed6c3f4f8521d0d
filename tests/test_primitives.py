"""Every rule of every primitive, generated from the rows of op_samples.py."""

import itertools

import numpy as np
import pytest
from op_samples import SAMPLES, Sample, parameters

from nufunc.ir import Builder, primitive
from nufunc.ir.graph import Graph
from nufunc.ir.interpret import run
from nufunc.ir.types import ArrayType, is_complex, is_inexact, type_of

ALL = primitive.all_primitives()
RULELESS = ("control", "derived", "custom", "host", "view", "write", "fused")  # rules of whole passes, or none
BILINEAR = {
    "mul": [(0,), (1,)],
    "dot": [(0,), (1,)],
    "conv": [(0,), (1,)],
    "div": [(0,)],
    "solve": [(1,)],
    "triangular_solve": [(1,)],
    "frechet": [(1,)],
}
UNDIFFERENTIATED = ("hessenberg", "householder", "schur")  # their rules say so
STEP = 1e-6


def rows(condition):
    chosen = [s for s in SAMPLES if condition(s)]
    return pytest.mark.parametrize("sample", chosen, ids=[s.id for s in chosen])


def tolerance(sample: Sample, *arrays: np.ndarray) -> float:
    single = any(a.dtype in (np.float32, np.complex64) for a in arrays)
    return max(sample.rtol, 1e-5) if single else sample.rtol


def evaluated(sample: Sample, operands: list[np.ndarray]) -> list[np.ndarray]:
    record = primitive.get(sample.prim)
    return list(record.evaluate([o.copy() for o in operands], sample.attrs, sample.regions()))


# -- completeness


def test_every_primitive_has_a_row() -> None:
    # what transforms make: test_tapes.py; what holds the user's code: test_custom.py
    made = {name for name, record in ALL.items() if record.kind in ("derived", "custom", "host")}
    missing = sorted(set(ALL) - {s.prim for s in SAMPLES} - made)
    assert not missing, f"tests/op_samples.py needs a _row(...) for {missing}"


@pytest.mark.parametrize("name", sorted(ALL))
def test_every_primitive_has_its_rules(name: str) -> None:
    record = ALL[name]
    if record.kind in (*RULELESS, "create"):
        return
    assert record.batch is not None, f"{name} needs batch=..., such as batch_all or batch_shifted"
    inexact = any(is_inexact(t.dtype) for s in SAMPLES if s.prim == name for t in s.types)
    if record.differentiable and inexact:
        assert record.jvp is not None, f"{name} needs jvp=..., or differentiable=False if that is zero"
    if record.kind == "layout":
        assert record.transpose is not None, f"{name} is linear and needs a transpose rule"
    assert not (record.jvp and not record.differentiable), f"{name} has a jvp that nothing will call"


def test_linear_primitives_have_transposes() -> None:
    linear = {
        "add", "sub", "neg", "mul", "div", "select", "convert", "real", "imag", "conj", "complex",
        "reduce_sum", "cumsum", "update", "dynamic_slice", "dynamic_update", "gather", "scatter_set",
        "scatter_add", "dot", "conv", "window_take", "window_put", "solve",
        "triangular_solve", "reshape", "transpose", "broadcast", "slice", "flip", "pad", "concat",
        "tape_add", "tape_join", "tape_split", "named", "require", "frechet", "fft", "rfft", "irfft",
    }  # fmt: skip
    assert {n for n, r in ALL.items() if r.transpose is not None} == linear


# -- infer and evaluate


@rows(lambda s: True)
def test_infer_gives_the_types_of_evaluate(sample: Sample) -> None:
    operands = sample.operands()
    assert [type_of(o) for o in operands] == sample.types
    inferred = primitive.get(sample.prim).infer(sample.types, sample.attrs, sample.regions())
    results = evaluated(sample, operands)
    assert all(type(r) is np.ndarray for r in results)
    assert [type_of(r) for r in results] == list(inferred)


@rows(lambda s: s.reference is not None)
def test_evaluate_agrees_with_the_reference(sample: Sample) -> None:
    for seed in range(3):
        operands = sample.operands(seed)
        with np.errstate(all="ignore"):
            expected = sample.reference(*(o.copy() for o in operands))
        results = run(sample.graph(), [o.copy() for o in operands])
        expected = expected if isinstance(expected, tuple) else (expected,)
        for result, wanted in zip(results, expected, strict=True):
            rtol = tolerance(sample, *operands, result)
            if result.dtype.kind in "fc":
                np.testing.assert_allclose(result, wanted, rtol=rtol, atol=rtol)
            else:
                np.testing.assert_array_equal(result, wanted)


@rows(lambda s: ALL[s.prim].kind not in ("view", "write"))
def test_evaluate_leaves_its_operands_alone(sample: Sample) -> None:
    operands = sample.operands()
    copies = [o.copy() for o in operands]
    results = primitive.get(sample.prim).evaluate(operands, sample.attrs, sample.regions())
    for operand, copy in zip(operands, copies):
        np.testing.assert_array_equal(operand, copy)
        assert not any(np.may_share_memory(operand, r) for r in results)


@rows(lambda s: ALL[s.prim].kind == "view")
def test_views_alias_their_operand(sample: Sample) -> None:
    (x,) = sample.operands()
    record = primitive.get(sample.prim)
    (view,) = record.evaluate([x], sample.attrs, ())
    np.testing.assert_array_equal(view, sample.reference(x))
    assert np.may_share_memory(view, x) or not view.size
    x[...] = np.ones((), x.dtype)
    np.testing.assert_array_equal(view, sample.reference(x))


def test_write_stores_in_place() -> None:
    x, value = np.zeros((2, 3)), np.arange(6.0).reshape(2, 3)
    assert list(primitive.get("write").evaluate([x[::-1], value], {}, ())) == []
    np.testing.assert_array_equal(x, value[::-1])


# -- derivatives


def emitted(sample: Sample, rule, *groups: list[ArrayType]) -> Graph:
    """A graph whose parameters are the groups one after the other; `rule(b, *groups)` gives its outputs."""
    b = Builder(sample.prim)
    values = [[b.param(t) for t in group] for group in groups]
    return b.build(rule(b, *values))


def jvp_graph(sample: Sample, active: tuple[int, ...]) -> tuple[Graph, list[int]]:
    """(operands, tangents of the active ones) -> tangents of results, and the numbers of those results."""
    record, kept = primitive.get(sample.prim), []

    def rule(b: Builder, operands, given):
        tangents = [None] * len(operands)
        for i, t in zip(active, given):
            tangents[i] = t
        results = b.emit(sample.prim, operands, sample.attrs)
        out = record.jvp(b, operands, tangents, results, sample.attrs)
        assert len(out) == len(results)
        kept.extend(i for i, t in enumerate(out) if t is not None)
        assert all(out[i].type == results[i].type for i in kept)
        return [out[i] for i in kept]

    return emitted(sample, rule, sample.types, [sample.types[i] for i in active]), kept


def inexact_operands(sample: Sample) -> tuple[int, ...]:
    first = parameters(sample)
    return tuple(i for i, t in enumerate(sample.types) if is_inexact(t.dtype) and i >= first)


def inexact_results(sample: Sample) -> bool:
    results = primitive.get(sample.prim).infer(sample.types, sample.attrs, sample.regions())
    return any(is_inexact(t.dtype) for t in results)


def has_jvp(sample: Sample) -> bool:
    ruled = ALL[sample.prim].jvp is not None and sample.prim not in UNDIFFERENTIATED
    return ruled and bool(inexact_operands(sample)) and inexact_results(sample)


def subsets(indices: tuple[int, ...]) -> list[tuple[int, ...]]:
    return [c for n in range(1, len(indices) + 1) for c in itertools.combinations(indices, n)]


def in_double(sample: Sample) -> bool:
    """Whether operands and results are precise enough for differences."""
    return not any(
        t.dtype in (np.float32, np.complex64) for t in (*sample.types, *sample.graph().output_types)
    )


def directions(sample: Sample, active: tuple[int, ...], seed: int = 7) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    out = []
    for i in active:
        type = sample.types[i]
        t = rng.uniform(-1, 1, type.shape)
        t = t + 1j * rng.uniform(-1, 1, type.shape) if is_complex(type.dtype) else t
        if sample.prim in ("cholesky", "eigh"):
            t = t + np.conj(np.swapaxes(t, -1, -2))
        out.append(np.asarray(t).astype(type.dtype))
    return out


def moved(operands, active, tangents, step):
    out = list(operands)
    for i, t in zip(active, tangents):
        out[i] = operands[i] + step * t
    return out


@rows(lambda s: has_jvp(s) and s.smooth and in_double(s))
def test_jvp_agrees_with_differences(sample: Sample) -> None:
    operands = sample.operands()
    for active in subsets(inexact_operands(sample)):
        tangents = directions(sample, active)
        above = evaluated(sample, moved(operands, active, tangents, STEP))
        below = evaluated(sample, moved(operands, active, tangents, -STEP))
        graph, kept = jvp_graph(sample, active)
        found = dict(zip(kept, run(graph, [*operands, *tangents])))
        for i, (high, low) in enumerate(zip(above, below)):
            if is_inexact(high.dtype):
                wanted = (high - low) / (2 * STEP)
                np.testing.assert_allclose(found.get(i, np.zeros_like(wanted)), wanted, rtol=2e-6, atol=1e-7)


@rows(lambda s: has_jvp(s) and not (s.smooth and in_double(s)))
def test_jvp_of_other_rows_has_the_right_types(sample: Sample) -> None:
    operands = sample.operands()
    for active in subsets(inexact_operands(sample)):
        tangents = directions(sample, active)
        graph, _ = jvp_graph(sample, active)
        results = run(graph, [*operands, *tangents])
        assert [type_of(r) for r in results] == list(graph.output_types)
        if sample.smooth:
            assert all(np.isfinite(r).all() for r in results)


@rows(has_jvp)
def test_jvp_without_tangents_is_zero(sample: Sample) -> None:
    record, b = primitive.get(sample.prim), Builder()
    operands = [b.param(t) for t in sample.types]
    results = b.emit(sample.prim, operands, sample.attrs)
    out = record.jvp(b, operands, [None] * len(operands), results, sample.attrs)
    assert list(out) == [None] * len(results)


def linear_subsets(sample: Sample) -> list[tuple[int, ...]]:
    return BILINEAR.get(sample.prim) or subsets(inexact_operands(sample))


def paired(x: np.ndarray, y: np.ndarray) -> float:
    """See Note [Complex pairing] in ir/prims/kinds.py."""
    return float(np.real(np.sum(x.astype(np.complex128) * y)))


def transpose_graph(sample: Sample, active: tuple[int, ...]) -> Graph:
    """(operands, cotangent) -> cotangents of the active operands."""
    record = primitive.get(sample.prim)

    def rule(b: Builder, operands, cotangents):
        known = [None if i in active else o for i, o in enumerate(operands)]
        out = record.transpose(b, cotangents, known, sample.types, sample.attrs)
        assert [i for i, ct in enumerate(out) if ct is not None] == list(active)
        assert all(out[i].type == sample.types[i] for i in active)
        return [out[i] for i in active]

    return emitted(sample, rule, sample.types, sample.graph().output_types)


@rows(lambda s: ALL[s.prim].transpose is not None and bool(inexact_operands(s)) and inexact_results(s))
def test_transpose_pairs_with_the_jvp(sample: Sample) -> None:
    operands = sample.operands()
    (type,) = sample.graph().output_types
    rng = np.random.default_rng(3)
    ct = rng.uniform(-1, 1, type.shape) + (
        1j * rng.uniform(-1, 1, type.shape) if is_complex(type.dtype) else 0
    )
    ct = np.asarray(ct).astype(type.dtype)
    for active in linear_subsets(sample):
        tangents = directions(sample, active)
        graph, _ = jvp_graph(sample, active)
        (forward,) = run(graph, [*operands, *tangents])
        back = run(transpose_graph(sample, active), [*operands, ct])
        single = any(a.dtype in (np.float32, np.complex64) for a in (*operands, ct))
        finite = np.isfinite(forward)
        if (
            not finite.all()
        ):  # rows of special values: only the elementwise pairs that are finite can be summed
            continue
        wanted, found = paired(ct, forward), sum(paired(c, t) for c, t in zip(back, tangents))
        np.testing.assert_allclose(
            found, wanted, rtol=1e-4 if single else 1e-9, atol=1e-4 if single else 1e-9
        )


@rows(lambda s: ALL[s.prim].transpose is not None)
def test_transpose_of_zero_is_zero(sample: Sample) -> None:
    b = Builder()
    operands = [None] * len(sample.types)
    out = primitive.get(sample.prim).transpose(b, [None], operands, sample.types, sample.attrs)
    assert list(out) == [None] * len(operands)


# -- batching


@rows(lambda s: ALL[s.prim].batch is not None and s.batch and bool(s.specs))
def test_batch_is_a_stack_of_slices(sample: Sample) -> None:
    record, size = primitive.get(sample.prim), 3
    lanes = [sample.operands(seed) for seed in range(size)]
    for active in subsets(tuple(range(len(sample.specs)))):
        inner = [[lane[i] if i in active else lanes[0][i] for i in range(len(lane))] for lane in lanes]
        outer = [np.stack([lane[i] for lane in lanes]) if i in active else o for i, o in enumerate(lanes[0])]
        b = Builder()
        values = [b.param(type_of(o)) for o in outer]
        dims = [0 if i in active else None for i in range(len(outer))]
        results, out_dims = record.batch(b, size, values, dims, sample.attrs)
        assert all(d in (0, None) for d in out_dims)
        found = run(b.build(results), outer)
        expected = [evaluated(sample, operands) for operands in inner]
        for k, (result, dim) in enumerate(zip(found, out_dims, strict=True)):
            wanted = np.stack([e[k] for e in expected])
            if dim is None:
                result = np.broadcast_to(result, wanted.shape)
            assert type_of(result) == type_of(wanted)
            exact = result.dtype.kind not in "fc" or ALL[sample.prim].kind in ("layout", "index")
            rtol = 0 if exact else max(tolerance(sample, result), 1e-12)
            np.testing.assert_allclose(result, wanted, rtol=rtol, atol=rtol)
