"""The boundscheck option: indices that are known only when the function runs, checked or clipped into the array."""

import numpy as np
import pytest

import nufunc as nf

X = np.arange(5.0)


def pick(x, i):
    return x[i] * 2


def test_indices_are_checked_unless_told_otherwise():
    with pytest.raises(IndexError, match="out of bounds"):
        nf.jit(pick)(X, np.int64(7))
    np.testing.assert_array_equal(nf.jit(pick)(X, np.array([1, -1])), [2.0, 8.0])


def test_without_checks_they_are_clipped():
    unchecked = nf.jit(pick, boundscheck=False)
    np.testing.assert_array_equal(unchecked(X, np.array([1, -1, 7, 3])), [2.0, 8.0, 8.0, 6.0])
    assert 'mode="error"' not in nf.dump(unchecked, X, np.array([1]), stage="traced")
    with pytest.raises(IndexError):  # the other compilation keeps its checks
        nf.jit(pick)(X, np.array([9]))


def test_static_indices_are_checked_always():
    with pytest.raises(IndexError, match="out of bounds"):
        nf.jit(lambda x: x[9], boundscheck=False)(X)


def test_it_counts_inside_other_functions_and_for_writes():
    @nf.jit(boundscheck=False)
    def inner(x, i):
        x = x.copy()
        x[i] = 0.0
        return x

    assert nf.grad(lambda x: inner(x, np.argmax(x) + 9).sum())(X).tolist() == [1, 1, 1, 1, 0]
    with pytest.raises(IndexError):
        nf.jit(lambda x: inner(x, 0)[np.argmax(x) + 9])(X)


def test_a_wrong_option_is_refused():
    with pytest.raises(TypeError, match="boundscheck"):
        nf.jit(pick, boundscheck="no")


def _loop(x, n):
    total = 0.0
    for k in range(n):
        total += x[k]
    return total


def _write(x, i):
    x = x.copy()
    x[i] = 1.0
    return x


_MANY = np.zeros(1000, int)
_MANY[[300, 400, 401]] = 8, -9, 11
_TASKS = np.zeros(1_500_000, int)  # enough for several tasks
_TASKS[[700_000, 1_400_000]] = -7, 8


@pytest.mark.parametrize(
    ("f", "args"),
    [
        (pick, (X, np.int64(7))),
        (pick, (X, np.int64(-6))),
        (pick, (X, _MANY)),
        (pick, (X, -_MANY.astype(np.int8))),
        (pick, (X, _MANY.astype(np.uint8))),
        (lambda x, i: np.sin(x[i]), (X, _TASKS)),
        (lambda x, i: x[i].sum(), (X, -_TASKS)),
        (lambda x, i, j: x[i, j], (np.ones((3, 5)), np.array([0, 1]), np.array([2, -6]))),
        (lambda x, i: np.take(x, i, axis=1), (np.ones((3, 5)), np.array([2, -6]))),
        (_write, (X, np.int64(-6))),
        (_write, (X, _MANY)),
        (_loop, (X, 9)),
    ],
)
def test_the_message_names_the_index_as_numpy_does(f, args):
    with pytest.raises(IndexError, match="out of bounds") as wanted:
        f(*args)
    number = str(wanted.value).split(" is ")[0]
    compiled = nf.jit(f)
    for _ in range(2):
        with pytest.raises(nf.BoundsError, match=rf"^{number} is out of bounds for .* size 5"):
            compiled(*args)
    with pytest.raises(nf.BoundsError, match=f"^({number} is|index) out of"):  # never another number
        nf.vmap(f, in_dims=(0, *(None for _ in args[1:])))(np.stack([args[0]] * 3), *args[1:])


def test_each_thread_gets_its_own_index():
    from concurrent.futures import ThreadPoolExecutor

    compiled = nf.jit(pick)

    def number(i):
        try:
            compiled(X, np.array([0, i]))
        except IndexError as error:
            return int(str(error).split()[1])
        return None

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(number, range(5, 205))) == list(range(5, 205))


@pytest.mark.parametrize(("position", "message"), [(7, "index 7 is out of bounds"), (-2, "index out of bounds")])
def test_a_position_is_never_another_number(position, message):
    """Positions below zero do not count from the end here; the message names none that it does not know."""
    with pytest.raises(nf.BoundsError, match=f"^{message} for an axis of size 6"):
        nf.jit(lambda i: np.unravel_index(i, (2, 3)))(np.array([1, position]))
