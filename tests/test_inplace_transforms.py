"""What is written to arguments and captured arrays under each transform: written back, or an error that names it."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import nufunc as nf

X = np.array([1.0, 2.0, 3.0])


def doubled(x: Any) -> Any:
    before = x.copy()
    x *= 2.0
    return np.sum(before * x)


def scaled_into(x: Any, out: Any) -> Any:
    np.multiply(x, 3.0, out=out)
    return np.sum(out * x)


def test_vmap_writes_mapped_arguments_back() -> None:
    x, y = np.arange(6.0).reshape(2, 3), np.arange(6.0).reshape(3, 2)

    def f(a, b):
        a[1:] += b[:-1]
        b[...] = 0
        return a.sum()

    expected, other = x.copy(), y.copy()
    sums = [f(expected[k], other[:, k]) for k in range(2)]
    np.testing.assert_array_equal(nf.vmap(f, in_dims=(0, 1))(x, y), sums)
    np.testing.assert_array_equal(x, expected)
    np.testing.assert_array_equal(y, other)


def test_vmap_in_chunks_writes_back() -> None:
    x = np.arange(15.0).reshape(5, 3)
    expected = x.copy()
    out = nf.vmap(doubled, chunk_size=2)(x)
    np.testing.assert_array_equal(out, [doubled(row) for row in expected])
    np.testing.assert_array_equal(x, expected)


def test_vmap_of_nothing_written_back_is_a_lane_of_constants() -> None:
    x = np.ones((2, 3))

    def f(a):
        a[...] = 4.0
        return a.sum()

    np.testing.assert_array_equal(nf.vmap(f)(x), [12.0, 12.0])
    np.testing.assert_array_equal(x, np.full((2, 3), 4.0))


def test_vmap_refuses_writes_to_what_lanes_share() -> None:
    x, shared = np.ones((2, 3)), np.zeros(3)

    def captured(a):
        shared[...] += a
        return a.sum()

    def argument(a, b):
        b += a
        return b.sum()

    with pytest.raises(nf.MutationError, match=r"enclosing scope.*conflict"):
        nf.vmap(captured)(x)
    with pytest.raises(nf.MutationError, match=r"argument 1 \('b'\).*conflict"):
        nf.vmap(argument, in_dims=(0, None))(x, shared)
    np.testing.assert_array_equal(shared, np.zeros(3))


@pytest.mark.parametrize(
    "run",
    [
        lambda f, x: nf.jvp(f, (x,), (np.ones(3),)),
        lambda f, x: nf.linearize(f, x),
        lambda f, x: nf.jacfwd(f)(x),
        lambda f, x: nf.functionalize(f)(x),
        lambda f, x: nf.jit(f)(x),
        lambda f, x: nf.checkpoint(f)(x),
    ],
)
def test_forward_transforms_write_the_primal_back(run: Callable[..., Any]) -> None:
    x = X.copy()
    run(doubled, x)
    np.testing.assert_array_equal(x, 2 * X)


@pytest.mark.parametrize(
    "run",
    [
        lambda f, x: nf.grad(f)(x),
        lambda f, x: nf.value_and_grad(f)(x),
        lambda f, x: nf.vjp(f, x),
        lambda f, x: nf.jacrev(f)(x),
        lambda f, x: nf.hessian(f)(x),
    ],
)
def test_reverse_transforms_refuse_writes_to_what_is_differentiated(run: Callable[..., Any]) -> None:
    x = X.copy()
    with pytest.raises(nf.MutationError, match=r"argument 0 \('x'\).*differentiated"):
        run(doubled, x)
    np.testing.assert_array_equal(x, X)


def test_values_and_derivatives_are_of_what_was_there_before() -> None:
    x = X.copy()
    value, tangent = nf.jvp(doubled, (x,), (np.ones(3),))
    np.testing.assert_allclose([value, tangent], [2 * np.sum(X**2), 4 * np.sum(X)])
    x = X.copy()
    value, push = nf.linearize(doubled, x)
    np.testing.assert_allclose([value, push(np.ones(3))], [2 * np.sum(X**2), 4 * np.sum(X)])
    x = X.copy()
    np.testing.assert_allclose(nf.jacfwd(doubled)(x), 4 * X)


@pytest.mark.parametrize("transform", [nf.grad, nf.jacrev, nf.value_and_grad])
def test_gradients_write_other_arguments_back(transform: Callable[..., Any]) -> None:
    out = np.zeros(3)
    transform(scaled_into)(X, out)
    np.testing.assert_array_equal(out, 3 * X)


def test_gradients_write_captured_arrays_back() -> None:
    log = np.zeros(2)

    def loss(x):
        log[0] += 1.0
        log[1] = np.sum(x)
        return np.sum(x**2)

    step = nf.jit(nf.grad(loss))
    for _ in range(3):
        np.testing.assert_array_equal(step(X), 2 * X)
    np.testing.assert_array_equal(log, [3.0, 6.0])
    np.testing.assert_allclose(nf.vjp(loss, X)[1](1.0)[0], 2 * X)
    assert log[0] == 4.0


def test_second_order_of_writes() -> None:
    def f(x):
        buf = np.zeros(3)
        buf[:] = x**3
        buf[1:] += buf[:-1]
        return np.sum(buf)

    np.testing.assert_allclose(nf.hessian(f)(X), np.diag([12.0, 24.0, 18.0]))


def test_lanes_of_gradients_write_back() -> None:
    x, out = np.arange(6.0).reshape(2, 3), np.zeros((2, 3))
    np.testing.assert_allclose(nf.vmap(nf.grad(scaled_into))(x, out), 6 * x)
    np.testing.assert_array_equal(out, 3 * x)


def test_one_array_under_two_names_is_refused_under_a_transform() -> None:
    x = np.arange(6.0).reshape(2, 3)

    def f(a, b):
        a += b
        return b.sum()

    def outer(z):
        return nf.vmap(f)(z, z[::-1])

    with pytest.raises(nf.MutationError, match=r"shares memory with its argument 1 \('b'\)"):
        nf.jit(outer)(x)
    with pytest.raises(nf.MutationError):
        nf.vmap(f)(x, x[::-1])
    np.testing.assert_array_equal(x, np.arange(6.0).reshape(2, 3))


def test_results_are_of_before_the_write_back() -> None:
    """A result that is what an argument held, and two arguments that change places."""

    def swap(a, b):
        old = a.copy()
        a[...] = b
        b[...] = old
        return old, a.copy()

    for run in (nf.jit(swap), nf.functionalize(swap), nf.jit(nf.functionalize(nf.functionalize(swap)))):
        x, y = X.copy(), X[::-1].copy()
        old, new = run(x, y)
        np.testing.assert_array_equal(old, X)
        np.testing.assert_array_equal(new, X[::-1])
        np.testing.assert_array_equal(x, X[::-1])
        np.testing.assert_array_equal(y, X)


def test_functionalize_keeps_aliases_of_arguments() -> None:
    def f(a, b):
        a[:2] += 1
        b *= 2
        return a.sum()

    def outer(z):
        return nf.functionalize(f)(z, z[1:]), z

    z = X.copy()
    total, left = nf.jit(outer)(z)
    expected = X.copy()
    assert f(expected, expected[1:]) == total
    np.testing.assert_array_equal(z, expected)
    np.testing.assert_array_equal(left, expected)


# -- overlapping arguments and captures under jit


def shifted(a: Any, b: Any) -> Any:
    a[1:] += b[:-1]
    b *= 2
    return a.sum(), b.copy()


WINDOWS: dict[str, Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]] = {
    "same": lambda s: (s, s), "shifted": lambda s: (s[:6], s[2:8]), "reversed": lambda s: (s, s[::-1]),
    "interleaved": lambda s: (s[::2], s[1::2]), "strided": lambda s: (s[::2], s[:5]), "apart": lambda s: (s[:4], s[6:]),
    "wider": lambda s: (s[1:6], s[:8:2]),
}  # fmt: skip


@pytest.mark.parametrize("windows", WINDOWS)
def test_overlapping_arguments(windows: str) -> None:
    run = nf.jit(shifted)
    run(np.arange(4.0), np.arange(4.0))  # another compilation, whose short way must not be taken
    for _ in range(2):
        space, expected = np.arange(10.0), np.arange(10.0)
        a, b = WINDOWS[windows](space)
        if a.shape != b.shape:
            b = b[: a.size]
            a = a[: b.size]
        c, d = WINDOWS[windows](expected)
        c, d = c[: a.size], d[: b.size]
        total, copied = run(a, b)
        want = shifted(c, d)
        assert total == want[0]
        np.testing.assert_array_equal(copied, want[1])
        np.testing.assert_array_equal(space, expected)


def test_overlapping_matrices() -> None:
    def f(a, b, c):
        a += b.T
        c[0] = a[1] * 2
        b[...] -= 1
        return a

    space, expected = np.arange(16.0).reshape(4, 4), np.arange(16.0).reshape(4, 4)
    found = nf.jit(f)(space[:3, :3], space[1:, 1:], space[::2, 1:])
    np.testing.assert_array_equal(found, f(expected[:3, :3], expected[1:, 1:], expected[::2, 1:]))
    np.testing.assert_array_equal(space, expected)


def test_an_argument_over_a_captured_array() -> None:
    space = np.arange(8.0)

    def f(a):
        space[2:] += a[0]
        a[:3] = space[:3]
        return space

    expected = space.copy()

    def plain(a, s):
        s[2:] += a[0]
        a[:3] = s[:3]

    found = nf.jit(f)(space[4:])
    plain(expected[4:], expected)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(space, expected)


def test_read_only_members_of_an_overlap() -> None:
    space = np.arange(6.0)
    fixed = space[2:]
    fixed.flags.writeable = False

    def reads(a, b):
        a[...] = 2 * b
        return b.sum()

    def writes(a, b):
        b += a
        return b.sum()

    expected = space.copy()
    want = reads(expected[:4], expected[2:])
    assert nf.jit(reads)(space[:4], fixed) == want
    np.testing.assert_array_equal(space, expected)
    with pytest.raises(ValueError, match="read-only"):
        nf.jit(writes)(space[:4], fixed)
    np.testing.assert_array_equal(space, expected)


def test_nothing_changes_where_the_program_raises() -> None:
    def f(a, b, k):
        a += 1.0
        b[k] = 0.0
        return a

    for make in (lambda: (np.zeros(3), np.zeros(3)), lambda: (lambda s: (s[:3], s[1:]))(np.zeros(4))):
        a, b = make()
        with pytest.raises(IndexError):
            nf.jit(f)(a, b, np.array(7))
        np.testing.assert_array_equal(a, np.zeros(3))


def test_read_only_arguments_raise_as_in_numpy() -> None:
    x = np.broadcast_to(np.ones(3), (2, 3))
    with pytest.raises(ValueError, match="read-only"):
        nf.jit(doubled)(x)
    with pytest.raises(ValueError, match="read-only"):
        nf.vmap(doubled)(x)


def test_lists_of_arguments_are_copied_by_value() -> None:
    arrays = [np.zeros(2), np.ones(2)]
    before = copy.deepcopy(arrays)

    def f(xs):
        xs[0][1] = xs[1][0]
        return xs[0]

    np.testing.assert_array_equal(nf.jit(f)(arrays), [0.0, 1.0])
    np.testing.assert_array_equal(arrays[0], [0.0, 1.0])
    np.testing.assert_array_equal(arrays[1], before[1])


def test_values_for_a_mask_must_be_as_many() -> None:
    def f(x, v):
        x[x > 1.5] = v
        return x

    np.testing.assert_array_equal(nf.jit(f)(X.copy(), np.array([7.0, 8.0])), [1.0, 7.0, 8.0])
    for count in (0, 3):
        with pytest.raises(IndexError):
            nf.jit(f)(X.copy(), np.arange(float(count)))


@pytest.mark.parametrize("dim", [0, 1, 2])
@pytest.mark.parametrize("order", ["C", "F"])
def test_lanes_lie_in_memory_as_slices_do(dim: int, order: str) -> None:
    """What is a view of a lane, and what a copy, depends on its strides."""

    def f(a):
        line = a.ravel()
        line[:2] = 0.0
        a.reshape(-1)[3] = 5.0
        return line.sum(), a * 1.0

    x = np.asarray(np.arange(24.0).reshape(2, 3, 4), order=order)
    expected = x.copy(order="K")
    rows = [f(lane) for lane in np.moveaxis(expected, dim, 0)]
    sums, whole = nf.vmap(f, in_dims=dim)(x)
    np.testing.assert_array_equal(sums, [r[0] for r in rows])
    np.testing.assert_array_equal(whole, np.stack([r[1] for r in rows]))
    np.testing.assert_array_equal(x, expected)
