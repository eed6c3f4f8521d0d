"""Control flow on devices: programs of control nodes, alone, nested, derived and batched, against the CPU."""

import gc

import numpy as np
import pytest
from control_samples import LANES, POINT, PROGRAMS
from cuda_machine import device_run, driven
from cuda_native import NativeMachine
from test_control_samples import ours, weighted

import nufunc as nf
from nufunc.codegen.cuda import control_choice, control_tapes
from nufunc.codegen.cuda.program import Branch, Call, Copy, Launch, Repeat

DIRECTION = np.array([0.5, -1.0, 0.25])
WAYS = {
    "value": (lambda f: f, POINT),
    "jvp": (lambda f: lambda x: nf.jvp(f, (x,), (DIRECTION,)), POINT),
    "vmap": (nf.vmap, np.outer(LANES, POINT)),
    "grad": (lambda f: nf.grad(weighted(np, f)), POINT),
    "vmap_grad": (lambda f: nf.vmap(nf.grad(weighted(np, f))), np.outer(LANES, POINT)),
    "hessian": (lambda f: nf.hessian(weighted(np, f)), POINT),
}
MAPPED = ("newton", "both_bounds_from_data", "while_in_a_scan", "switch_in_a_while")  # those looked at under vmap


def compared(function, *arguments, races=False):
    """The device program of a function, whose results are the CPU's."""
    program, found = device_run(function, *arguments, races=races)
    wanted = [np.asarray(leaf) for leaf in nf.tree.leaves(nf.jit(function)(*arguments))]
    for got, want in zip(found, wanted, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-11, atol=1e-13)
        assert (got.dtype, got.shape) == (want.dtype, want.shape)
    return program


NESTED = ("while_in_a_scan", "whiles_in_a_while", "whiles_of_each_item", "newton")  # whose further ways are looked at
TAPES = [(name, "grad") for name in sorted(PROGRAMS)] + [(n, way) for n in NESTED for way in ("vmap_grad", "hessian")]


@pytest.mark.parametrize(("name", "way"), TAPES)
def test_derivatives_of_samples(name, way):
    transform, argument = WAYS[way]
    function = transform(ours(name))
    _, found, driver = driven(function, argument)
    wanted = [np.asarray(leaf) for leaf in nf.tree.leaves(nf.jit(function)(argument))]
    for got, want in zip(found, wanted, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-10, atol=1e-12)
    gc.collect()
    assert driver.used == 0  # tapes have given their memory back


@pytest.mark.parametrize("name", ["newton", "scan_in_a_while", "whiles_in_a_while", "cond_in_a_while"])
@pytest.mark.parametrize("most", [2, 4096])
def test_tapes_of_threads(name, most, monkeypatch):
    """Where the room for tapes was too little, the host drives the loops."""
    monkeypatch.setattr(control_tapes, "_FEWEST_ITEMS", 1)
    monkeypatch.setattr(control_tapes, "_MOST_ITEMS", most)
    transform, argument = WAYS["vmap_grad"]
    function = transform(ours(name))
    program, found, driver = driven(function, argument)
    for got, want in zip(found, nf.tree.leaves(nf.jit(function)(argument)), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-10, atol=1e-12)
    (branch,) = (s for s in program.steps if isinstance(s, Branch))
    assert branch.branches[0] == ()
    assert (driver.counts["launch"] < 10) == (most > 2)


def kinds(program):
    return [type(s).__name__ for s in program.walk()]


@pytest.mark.parametrize("way", ["value", "vmap"])
@pytest.mark.parametrize("name", sorted(PROGRAMS))
def test_samples(name, way):
    transform, argument = WAYS[way]
    assert compared(transform(ours(name)), argument, races=way == "value").replayable


@pytest.mark.parametrize("mode", [None, "block"])
@pytest.mark.parametrize("name", sorted(PROGRAMS))
def test_other_ways_to_run_samples(name, mode, monkeypatch):
    chosen = control_choice.mode
    monkeypatch.setattr(control_choice, "mode", lambda node: mode if chosen(node) else None)
    transform, argument = WAYS["vmap" if name in MAPPED else "value"]
    compared(transform(ours(name)), argument)


BIG = np.linspace(-1, 1, 40_000).reshape(200, 200)


@pytest.mark.parametrize("length", [0, 1, 2, 5, 6])
@pytest.mark.parametrize("reverse", [False, True])
def test_scans_change_places(length, reverse):
    def function(x, items):
        return nf.scan(lambda c, z: (np.sin(c.T * z), c[0] * z), x, items, reverse=reverse)

    program = compared(function, BIG, np.linspace(0, 2, length))
    assert program.replayable
    copies = [s.nbytes for s in program.walk() if type(s).__name__ == "Copy"]
    assert copies.count(BIG.nbytes) == (length != 1)  # what it begins with


def test_scan_in_place():
    def function(x):
        def body(k, u):
            u[k + 1] += 0.5 * u[k]
            return u

        return nf.fori_loop(0, 100, body, x * 2)

    program = compared(function, BIG)
    (loop,) = (s for s in program.steps if isinstance(s, Repeat))
    assert not any(isinstance(s, Copy) for s in loop.body)


def field(y):
    a, b, c = y[:, 0], y[:, 1], y[:, 2]
    return np.stack([10 * (b - a), a * (28 - c) - b, a * b - 8 / 3 * c], axis=1)


def half_steps(y):
    def step(_, y):
        middle = y + 0.0005 * field(y)
        return y + 0.001 * field(middle)

    return nf.fori_loop(0, 8, step, y)


def columns_first(y):
    return nf.scan(lambda c, z: (np.sin(c) * z + c[0], np.sum(z)), y, np.stack([y, 2 * y, 3 * y]))


def neighbours(y):
    return nf.fori_loop(0, 4, lambda _, u: u + 0.1 * np.roll(u, 1), y)


def over_all(y):
    return nf.fori_loop(0, 4, lambda _, u: u * 0.5 + np.mean(u), y)


def in_place(y):
    def body(k, u):
        u[:, 1] += 0.25 * u[:, 0] * k
        return u

    return nf.fori_loop(0, 5, body, y * 1.0)


def counted(y):
    return nf.while_loop(lambda s: s[0] < 6, lambda s: (s[0] + 1, s[1] * s[0] - y), (0, y))


ROWS = np.linspace(-1, 1, 900).reshape(300, 3)
SPLIT = {
    "half_steps": (half_steps, ROWS), "its_gradient": (nf.grad(lambda y: np.sum(half_steps(y))), ROWS),
    "counted": (counted, ROWS), "in_place": (in_place, ROWS), "lanes_last": (in_place, ROWS.reshape(3, 300).T),
    "vmapped": (nf.vmap(lambda y: nf.scan(lambda c, z: (c * z, c + z), y[0], y)), ROWS),
}  # fmt: skip
TOGETHER = {"neighbours": (neighbours, ROWS), "over_all": (over_all, ROWS), "columns_first": (columns_first, ROWS.T)}


@pytest.mark.parametrize("name", sorted(SPLIT))
def test_loops_of_lanes(name):
    function, argument = SPLIT[name]
    program = compared(function, np.ascontiguousarray(argument), races=True)
    loops = [k for k in program.kernels if "for lane" in k.source]
    assert loops
    assert all(k.blocks > 1 for k in loops)
    assert not any(isinstance(s, Repeat) for s in program.walk())


@pytest.mark.parametrize("name", sorted(TOGETHER))
def test_loops_without_lanes(name):
    function, argument = TOGETHER[name]
    program = compared(function, np.ascontiguousarray(argument), races=True)
    assert not any("for lane" in k.source for k in program.kernels)


def recurrent(w, u, v, b, xs, h, target):
    """Loss of a recurrent network over a batch."""
    last, _ = nf.scan(lambda h, x: (np.tanh(x @ u + h @ w + b), None), h, xs)
    return np.sum((last @ v - target) ** 2)


SIZES = ((24, 24), (6, 24), (24, 3), (24,), (9, 16, 6), (16, 24), (16, 3))


@pytest.mark.parametrize("mode", ["rows", None])
def test_recurrent_network(mode, monkeypatch):
    """Products of items, gradients of weights and of items leave the loops, whose rows are then blocks."""
    if mode is None:
        monkeypatch.setattr(control_choice, "mode", lambda node: None)
    rng = np.random.default_rng(0)
    arguments = [rng.normal(size=s) * 0.3 for s in SIZES]
    program = compared(nf.grad(recurrent, argnums=tuple(range(6))), *arguments, races=True)
    loops = [s for s in program.walk() if isinstance(s, Repeat)]
    if mode == "rows":
        assert not loops
        assert [k.blocks for k in program.kernels if k.name.startswith("scan")] == [16, 16]
    else:
        assert [sum(isinstance(s, Call | Launch) for s in loop.body) for loop in loops] == [4, 4]


def test_sums_leave_loops():
    """Those of parts of a group and of items as they are; a carry that is read stays."""

    def function(x, items):
        def step(c, z):
            total, squares, read = c
            squares = squares + np.sum(np.sin(z) ** 2, axis=0)
            return (total + np.sum(z), squares, read * 0.5 + 0.1 * np.max(read)), np.sin(z)

        return nf.scan(step, (x[0, 0], x[0], x), items)

    x = np.linspace(-1, 1, 12).reshape(3, 4)
    compared(function, x, np.linspace(0, 2, 10 * 15).reshape(10, 3, 5)[:, :, :4] + 0)
    big = np.linspace(-1, 1, 300 * 300).reshape(300, 300)
    compared(function, big, np.stack([big * k + 0.5 for k in range(9)]))


def gated(w, u, b, xs):
    """A network with long and short memory."""
    size = u.shape[0]
    gate = lambda x: 1 / (1 + np.exp(-x))

    def step(state, x):
        h, cell = state
        g = x @ w + h @ u + b
        cell = gate(g[:, size : 2 * size]) * cell + gate(g[:, :size]) * np.tanh(g[:, 3 * size :])
        h = gate(g[:, 2 * size : 3 * size]) * np.tanh(cell)
        return (h, cell), h

    zeros = np.zeros((xs.shape[1], size))
    return np.sum(nf.scan(step, (zeros, zeros), xs)[1] ** 2)


def test_parts_of_rows():
    """Accesses that only a test keeps inside of a lane's part (the gradient of a slice)."""
    rng = np.random.default_rng(0)
    arguments = [rng.normal(size=s) * 0.3 for s in ((6, 32), (8, 32), (32,), (9, 12, 6))]
    program = compared(nf.grad(gated, argnums=(0, 1, 2, 3)), *arguments, races=True)
    assert [k.blocks for k in program.kernels if k.name.startswith("scan")] == [12, 12]


def test_a_kernel_has_so_many_parameters():
    """A loop over more arrays than fit is driven by the host."""

    def function(xs):
        step = lambda _, xs: [np.roll(x, 1) * 0.9 + y for x, y in zip(xs, xs[1:] + xs[:1])]
        return nf.fori_loop(0, 3, step, xs)

    few, many = ([np.linspace(k, 1, 9) for k in range(count)] for count in (20, 260))
    assert [len(k.buffers) for k in compared(function, few).kernels if k.name.startswith("scan")]
    assert max(len(k.buffers) for k in compared(function, many).kernels) < 500


def weights(x):
    e = np.exp(x - np.max(x, axis=-1, keepdims=True) if x.dtype.kind != "c" else x)
    return e / np.sum(e, axis=-1, keepdims=True)


def rows_of_a_loop(x, y):
    return nf.scan(lambda c, _: (weights(c * 1.5) - np.mean(c, axis=-1, keepdims=True), None), x, None, length=5)[0], y


def mean_of_a_loop(x, y):
    """All threads know a number for which the row is gone through twice."""
    step = lambda c, _: ((c[0] * 0.5, np.sin(c[1]) + np.sum(weights(c[0]) * c[0])), None)
    return nf.scan(step, (x, y), None, length=5)[0]


def result_of_a_loop(x, y):
    """The same where what is read again is a result."""

    def step(c, _):
        e = np.exp(c[0] * 0.3)
        return (e / 3, np.sin(c[1]) + np.sum(e / np.sum(e) * c[0])), None

    return nf.scan(step, (x, y), None, length=5)[0]


@pytest.mark.parametrize("dtype", ["f8", "c16", "f4", "f2"])
@pytest.mark.parametrize("function", [rows_of_a_loop, mean_of_a_loop, result_of_a_loop])
def test_what_a_phase_keeps_for_another(function, dtype):
    rng = np.random.default_rng(0)
    for size, others in ((20, 3), (40, 3)) if function is rows_of_a_loop else ((20, 3), (40, 200), (300, 40)):
        shape = (3, size) if function is rows_of_a_loop else (size,)
        arguments = [rng.normal(size=s).astype(dtype) for s in (shape, (others,))]
        program, found = device_run(function, *arguments, races=True)
        assert any(k.name.startswith("scan") for k in program.kernels)
        if size == 20:  # few threads, which are code of this processor
            found = [*found, *NativeMachine(program, arguments).run()]
        digits = {"f8": 1e-11, "c16": 1e-11, "f4": 1e-4, "f2": 2e-2}[dtype]
        wanted = nf.jit(function)(*arguments)
        assert np.isfinite(wanted[1]).all()
        for k, got in enumerate(found):
            np.testing.assert_allclose(got, wanted[k % 2], rtol=digits, atol=digits)


def test_all_threads_have_the_same_zero():
    """The extremes of both zeros have no fixed sign, but threads must go the same way."""

    def function(x, y):
        def step(c, _):
            largest = np.max(c[0])
            return (c[0] * -1, np.where(np.signbit(largest), c[1] + 1, c[1] * 2)), None

        return nf.scan(step, (x, y), None, length=4)[0]

    x = np.where(np.arange(64) % 3 == 0, 0.0, -0.0)
    _, found = device_run(function, x, np.ones(100), races=True)
    assert len(set(found[1].tolist())) == 1
