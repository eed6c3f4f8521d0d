"""Plans: control flow, loops that work in place, errors, and the buffer plan."""

import numpy as np
import pytest

from nufunc.codegen import buffers
from nufunc.codegen.compile import compile_graph, lower
from nufunc.codegen.plan import Plan
from nufunc.ir import ArrayType, Builder, interpret
from nufunc.ir.errors import BoundsError, LinAlgError, Location
from nufunc.ir.verify import verify
from nufunc.passes.fuse import fuse

F8, I8 = np.dtype(np.float64), np.dtype(np.int64)


def vec(*shape, dtype=F8):
    return ArrayType(shape, np.dtype(dtype))


def region(types, build, name="region"):
    b = Builder(name)
    return b.build(build(b, *(b.param(t) for t in types)))


def check(graph, *arguments, rtol=1e-12):
    """Compiled, twice, equals interpreted; gives the entry."""
    grouped = verify(fuse(verify(graph)))
    entry = compile_graph(grouped)
    arguments = [np.asarray(a) for a in arguments]
    before = [a.copy() for a in arguments]
    got, again = entry.slow(*arguments), entry.slow(*arguments)
    for x, y, want in zip(got, again, interpret.run(graph, before), strict=True):
        assert x.dtype == want.dtype
        np.testing.assert_array_equal(x, y)
        np.testing.assert_allclose(x, want, rtol=rtol, atol=1e-13)
    for a, old in zip(arguments, before):
        np.testing.assert_array_equal(a, old)  # inputs are never written
    return entry


def counter_loop(n, types, body):
    """while i < n: i, carry = i + 1, body(i, carry)."""
    carry = [vec(dtype=I8), *types]
    cond = region(carry, lambda b, i, *c: [b.lt(i, b.scalar(n, I8))], "cond")

    def step(b, i, *c):
        return [b.add(i, b.scalar(1, I8)), *body(b, i, *c)]

    return {"regions": (cond, region(carry, step, "body")), "num_cond": 0, "num_body": 0}


@pytest.mark.parametrize("n", [0, 1, 7])
@pytest.mark.parametrize("size", [1, 3, 2000])
def test_while(n, size):
    b = Builder()
    x = b.param(vec(size))
    loop = counter_loop(n, [x.type, x.type], lambda b, i, u, v: [b.add(v, b.sin(u)), u])
    check(
        b.build(b.emit("while", [b.scalar(0, I8), x, x], {"num_cond": 0, "num_body": 0}, loop["regions"])),
        np.linspace(0, 1, size),
    )


def test_while_whose_carry_is_updated_in_place():
    b = Builder()
    x = b.param(vec(5000))

    def body(b, i, buffer):
        last = b.dynamic_slice(buffer, i, sizes=(1,))
        new = b.add(last, b.filled(1.5, vec(1)))
        return [b.dynamic_update(buffer, new, b.add(i, b.scalar(1, I8)))]

    loop = counter_loop(4999, [x.type], body)
    graph = b.build(b.emit("while", [b.scalar(0, I8), x], {"num_cond": 0, "num_body": 0}, loop["regions"]))
    entry = check(graph, np.arange(5000.0))
    assert not any(n.copies is not None for n in entry.lowered.nests)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("length", [0, 1, 6])
def test_scan(length, reverse):
    b = Builder()
    w, c, xs = b.param(vec(3)), b.param(vec(3)), b.param(vec(length, 3))

    def body(b, w, c, x):
        new = b.tanh(b.add(b.mul(c, w), x))
        return [new, b.mul(new, new), new]

    inner = region([w.type, c.type, vec(3)], body)
    attrs = {"length": length, "reverse": reverse, "num_consts": 1, "num_carry": 1}
    rng = np.random.default_rng(0)
    graph = b.build(b.emit("scan", [w, c, xs], attrs, [inner]))
    check(graph, rng.normal(size=3), rng.normal(size=3), rng.normal(size=(length, 3)))


def test_scan_with_large_carries_that_change_places():
    b = Builder()
    x, y = b.param(vec(1000)), b.param(vec(1000))
    inner = region([x.type, y.type], lambda b, u, v: [v, b.add(u, v)])
    attrs = {"length": 5, "reverse": False, "num_consts": 0, "num_carry": 2}
    check(b.build(b.emit("scan", [x, y], attrs, [inner])), np.ones(1000), np.arange(1000.0))


def test_map_of_a_cond():
    b = Builder()
    xs = b.param(vec(8))
    branch = lambda f: region([vec()], lambda b, x: [f(b, x)])

    def body(b, x):
        test = b.gt(x, b.scalar(0.0, F8))
        return b.emit("cond", [test, x], {}, [branch(lambda b, x: b.exp(x)), branch(lambda b, x: b.mul(x, x))])

    inner = region([vec()], body)
    check(b.build(b.emit("map", [xs], {"length": 8, "num_consts": 0}, [inner])), np.linspace(-1, 1, 8))


@pytest.mark.parametrize("index", [-3, 0, 1, 2, 9])
def test_cond_with_three_branches(index):
    b = Builder()
    i, x = b.param(vec(dtype=I8)), b.param(vec(100))
    branches = [region([x.type], f) for f in (lambda b, x: [x], lambda b, x: [b.neg(x)], lambda b, x: [b.sqrt(x)])]
    check(b.build(b.emit("cond", [i, x], {}, branches)), np.int64(index), np.arange(100.0))


def test_outputs_that_are_parameters_constants_or_equal():
    b = Builder()
    x = b.param(vec(3, 4))
    c = b.const(np.arange(6.0))
    y = b.exp(x)
    flat = b.reshape(y, shape=(12,))
    check(b.build([x, c, y, y, flat, b.reshape(x, shape=(4, 3)), b.filled(2.0, vec(2, 2))]), np.ones((3, 4)))


def test_update_in_place_only_where_the_base_dies():
    b = Builder()
    x, v = b.param(vec(10)), b.param(vec(3))
    base = b.exp(x)
    one = b.update(base, v, start=(2,), stop=(5,), step=(1,))
    two = b.update(one, b.neg(v), start=(1,), stop=(7,), step=(2,))
    kept = b.update(base, v, start=(0,), stop=(3,), step=(1,))
    check(b.build([two, kept, base]), np.linspace(0, 1, 10), np.array([1.0, 2.0, 3.0]))


def test_update_that_reads_its_base_under_another_name():
    b = Builder()
    x = b.param(vec(6, 4))
    base = b.exp(x)
    flat = b.reshape(base, shape=(24,))
    value = b.reshape(b.flip(flat, axes=(0,)), shape=(6, 4))
    new = b.update(base, b.mul(value, value), start=(0, 0), stop=(6, 4), step=(1, 1))
    check(b.build([new]), np.linspace(0, 1, 24).reshape(6, 4))
    b = Builder()
    x = b.param(vec(6, 4))
    base = b.exp(x)
    flat = b.reshape(base, shape=(24,))
    start = b.scalar(1, I8)
    part = b.dynamic_slice(flat, start, sizes=(23,))
    low = b.reshape(b.slice(part, start=(0,), stop=(12,), step=(1,)), shape=(3, 4))
    check(b.build([b.update(base, low, start=(1, 0), stop=(4, 4), step=(1, 1))]), np.linspace(0, 1, 24).reshape(6, 4))


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int8, np.int64, np.bool_])
@pytest.mark.parametrize("count", [2, 3, 4, 5])
@pytest.mark.parametrize("n", [1, 7, 50, 64])
def test_columns_taken_apart_and_put_together(dtype, count, n):
    b = Builder()
    x = b.param(vec(n, count, dtype=dtype))
    column = lambda k: b.slice(x, start=(0, k), stop=(n, k + 1), step=(1, 1))
    columns = [b.bit_not(column(k)) if dtype is np.bool_ else b.add(column(k), column(k)) for k in range(count)]
    data = np.random.default_rng(0).integers(0, 2, (n, count)).astype(dtype)
    check(b.build([b.concat(*reversed(columns), axis=1)]), data)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(1_000_003,), (1000, 1001), (3, 70_001)])
def test_long_sums_are_as_accurate_as_numpys(dtype, shape):
    b = Builder()
    x = b.param(vec(*shape, dtype=dtype))
    axis = len(shape) - 1
    entry = compile_graph(
        fuse(b.build([b.reduce_sum(x, axes=tuple(range(len(shape)))), b.reduce_sum(x, axes=(axis,))]))
    )
    data = np.random.default_rng(0).uniform(0, 1, shape).astype(dtype)
    exact = data.astype(np.longdouble)
    whole, parts = entry.slow(data)
    eps = np.finfo(dtype).eps
    assert abs(whole - exact.sum()) <= 16 * eps * exact.sum()
    assert (np.abs(parts - exact.sum(axis)) <= 16 * eps * exact.sum(axis)).all()


def test_nothing_and_scalars():
    b = Builder()
    x, s, i = b.param(vec(0, 3)), b.param(vec()), b.param(vec(0, dtype=I8))
    wide = b.broadcast(s, shape=(0, 3), dims=())
    values = [
        b.add(x, wide), b.reduce_sum(x, axes=(0,)), b.reduce_sum(x, axes=(1,)), b.reduce_prod(x, axes=(0, 1)),
        b.cumsum(x, axis=0, reverse=False), b.concat(x, x, axis=1), b.transpose(x, perm=(1, 0)), b.exp(s),
        b.dot(x, x, contract=((0,), (0,)), batch=((), ())), b.reshape(x, shape=(3, 0)), b.reduce_sum(s, axes=()),
        b.pad(x, low=(1, 0), high=(1, 0), interior=(0, 0)), b.sort(x, axis=0),
        b.reduce_max(b.concat(s_row(b, s), axis=0), axes=(0,)),
        b.gather(b.broadcast(s, shape=(4,), dims=()), i, axes=(0,), mode="error"),
    ]  # fmt: skip
    check(b.build(values), np.zeros((0, 3)), np.float64(0.5), np.zeros(0, np.int64))


def s_row(b, s):
    return b.reshape(s, shape=(1,))


def test_index_error_carries_the_users_line():
    b = Builder()
    x, i = b.param(vec(5)), b.param(vec(4, dtype=I8))
    b.loc = Location("model.py", 7, "f")
    y = b.gather(x, i, axes=(0,), mode="error")
    entry = compile_graph(fuse(b.build([b.sin(y)])))
    np.testing.assert_allclose(entry.slow(np.arange(5.0), np.array([0, 4, 1, 1]))[0], np.sin([0.0, 4, 1, 1]))
    for bad in (5, -1, 2**62):
        with pytest.raises(BoundsError, match=r"model\.py") as caught:
            entry.slow(np.arange(5.0), np.array([0, 1, bad, 1]))
        assert isinstance(caught.value, IndexError)


@pytest.mark.parametrize("name", ["cholesky", "solve"])
def test_unsolvable_matrices_are_errors(name):
    b = Builder()
    a = b.param(vec(2, 3, 3))
    x = b.cholesky(a) if name == "cholesky" else b.solve(a, a)
    entry = compile_graph(fuse(b.build([x])))
    good = np.stack([np.eye(3), 2 * np.eye(3)])
    assert np.isfinite(entry.slow(good)[0]).all()
    with pytest.raises(LinAlgError, match="not positive definite" if name == "cholesky" else "Singular"):
        entry.slow(np.stack([np.eye(3), np.zeros((3, 3))]))


def frames_of(frame):
    yield frame
    for inner in frame.frames.values():
        for f in inner:
            yield from frames_of(f)


def test_values_that_live_at_the_same_time_never_share_memory():
    b = Builder()
    x = b.param(vec(40, 40))
    live = [x]
    rng = np.random.default_rng(1)
    for k in range(30):
        p, q = (live[i] for i in rng.integers(0, len(live), 2))
        new = b.dot(p, q, contract=((1,), (0,)), batch=((), ()))
        live.append(new if k % 3 else b.cumsum(new, axis=0, reverse=False))
        live = live[-6:]
    graph = b.build([live[-1], live[-3]])
    grouped = fuse(graph)
    plan = plan_of(grouped)
    count = 0
    for frame in frames_of(plan.frame):
        placed = [(frame.offset[v], frame.offset[v] + v.type.nbytes, *frame.life[v]) for v in frame.offset]
        for k, (low, high, first, last) in enumerate(placed):
            for low2, high2, first2, last2 in placed[:k]:
                count += 1
                assert high <= low2 or high2 <= low or last < first2 or last2 < first
    assert count > 50
    assert plan.workspace < 20 * 40 * 40 * 8  # memory is used again
    check(graph, rng.normal(size=(40, 40)) / 40, rtol=1e-9)


def plan_of(grouped):
    from llvmlite import ir

    from nufunc.codegen.wrapper import declare_plan

    return Plan(grouped, declare_plan(ir.Module("m"), "m"), 64, True)


def test_scratch_memory_is_aligned():
    assert buffers.aligned(1) == 64
    assert buffers.aligned(64) == 64


def test_lowered_is_deterministic():
    b = Builder()
    x = b.param(vec(50, 20))
    s = b.reduce_sum(b.exp(x), axes=(1,))
    graph = fuse(b.build([s, b.log(s)]))
    assert lower(graph, "f").text == lower(graph, "f").text


@pytest.mark.parametrize("seed", range(12))
def test_random_writes_to_carries(seed):
    """Updates of carries, in place where the old value dies and not where it is read later."""
    rng = np.random.default_rng(seed)
    rows, columns = (6, 9) if seed % 2 else (40, 35)  # small carries and large ones
    body = Builder("body")
    types = (vec(dtype=I8), vec(rows, columns), vec(rows, columns), vec(columns))
    k, first, second, x = (body.param(t) for t in types)
    carries = [first, second]
    seen = [first]
    for _ in range(int(rng.integers(2, 6))):
        which = int(rng.integers(2))
        base = carries[which]
        start = (int(rng.integers(rows - 2)), int(rng.integers(columns - 2)))
        shape = (int(rng.integers(1, rows - start[0] + 1)), int(rng.integers(1, columns - start[1] + 1)))
        if rng.random() < 0.3:
            row = body.reshaped(body.mul(x, body.like(x, 0.5)), (1, columns))
            carries[which] = body.dynamic_update(base, row, k, body.scalar(0, I8))
        else:
            source = seen[int(rng.integers(len(seen)))] if rng.random() < 0.5 else carries[int(rng.integers(2))]
            low = (int(rng.integers(rows - shape[0] + 1)), int(rng.integers(columns - shape[1] + 1)))
            stop = tuple(a + n for a, n in zip(low, shape))
            read = body.slice(source, start=low, stop=stop, step=(1, 1))
            value = body.sin(body.add(read, body.like(read, 0.1))) if rng.random() < 0.7 else read
            end = tuple(a + n for a, n in zip(start, shape))
            carries[which] = body.update(base, value, start=start, stop=end, step=(1, 1))
        if rng.random() < 0.4:
            seen.append(carries[which])
    total = body.reduce_sum(body.mul(*(seen[int(rng.integers(len(seen)))] for _ in range(2))), axes=(0,))
    if rng.random() < 0.3:
        carries.reverse()
    inner = body.build([body.add(k, body.scalar(1, I8)), *carries, total])
    b = Builder()
    start = [b.param(vec(rows, columns)), b.param(vec(rows, columns)), b.param(vec(7, columns))]
    zero = b.scalar(0, I8)
    attrs = {"length": 7, "reverse": bool(seed % 3), "num_consts": 0, "num_carry": 3}
    _, *results = b.emit("scan", (zero, *start), attrs, (inner,))
    graph = b.build([*results, *(start[:1] if seed % 4 else [])])
    arguments = [rng.normal(size=v.shape) for v in start]
    check(graph, *arguments, rtol=1e-12)
