"""What a compiled call does: one native entry, nothing stale, bounded caches, threads, in-place arguments."""

import gc
import sys
import threading
import weakref

import numpy as np
import pytest

import nufunc as nf

SCALE = 2.0
WEIGHTS = np.array([1.0, 2.0, 3.0])
POWER = 2


def loss(w, x):
    return np.sum(np.tanh(x @ w) ** 2)


def native_and_numpy_calls(call):
    """(names of native entries, names of NumPy's C functions) that a call runs."""
    native, other = [], []

    def profile(frame, event, arg):
        if event == "c_call":
            name = getattr(arg, "__name__", "")
            if type(getattr(arg, "__self__", None)).__name__ == "_State":
                native.append(name)
            elif (getattr(arg, "__module__", None) or "").startswith("numpy"):
                other.append(name)

    sys.setprofile(profile)
    try:
        call()
    finally:
        sys.setprofile(None)
    return native, other


@pytest.mark.parametrize(
    ("func", "args"),
    [
        (nf.grad(loss), (np.ones(3), np.eye(3))),
        (nf.vmap(nf.grad(loss), in_dims=(None, 0)), (np.ones(3), np.ones((5, 2, 3)))),
        (nf.hessian(loss), (np.ones(3), np.eye(3))),
        (nf.jit(lambda p: {"a": p["x"] * 2, "b": [p["y"].sum()]}), ({"x": np.ones(4), "y": np.ones((2, 2))},)),
        (nf.grad(lambda x: nf.fori_loop(0, 20, lambda i, c: np.sin(c) * x, x)), (0.5,)),
    ],
    ids=["grad", "vmap-grad", "hessian", "tree", "loop"],
)
def test_a_compiled_call_is_one_native_call_and_no_numpy_function(func, args):
    func(*args)
    native, other = native_and_numpy_calls(lambda: func(*args))
    assert len(native) == 1
    assert other == []


def test_results_follow_the_inputs():
    gradient = nf.grad(lambda x: np.sum(x**3))
    rng = np.random.default_rng(0)
    for _ in range(5):
        x = rng.standard_normal(4)
        np.testing.assert_allclose(gradient(x), 3 * x**2, rtol=1e-14)


def test_results_never_share_memory():
    same = nf.jit(lambda x: (x, x, x[1:]))
    x = np.arange(4.0)
    first, second = same(x), same(x)
    arrays = [x, *first, *second]
    assert not any(np.shares_memory(a, b) for i, a in enumerate(arrays) for b in arrays[:i])


# -- captures


def test_rebinding_a_global_is_seen_without_compiling_again():
    global SCALE, WEIGHTS
    func = nf.jit(lambda x: x * SCALE + WEIGHTS)
    x = np.ones(3)
    np.testing.assert_array_equal(func(x), x * 2.0 + [1, 2, 3])
    before = nf.cache_info().compiles
    old = SCALE, WEIGHTS
    try:
        SCALE, WEIGHTS = 5.0, np.array([10.0, 20.0, 30.0])
        np.testing.assert_array_equal(func(x), x * 5.0 + [10, 20, 30])
        WEIGHTS[0] = -1.0  # in place
        np.testing.assert_array_equal(func(x), x * 5.0 + [-1, 20, 30])
    finally:
        SCALE, WEIGHTS = old
    assert nf.cache_info().compiles == before


def test_a_captured_int_is_part_of_the_key():
    global POWER
    func = nf.grad(lambda x: np.sum(x**POWER))
    x = np.array([2.0, 3.0])
    np.testing.assert_allclose(func(x), 2 * x)
    try:
        POWER = 3
        np.testing.assert_allclose(func(x), 3 * x**2)
    finally:
        POWER = 2
    np.testing.assert_allclose(func(x), 2 * x)


def test_a_captured_array_may_change_its_shape_or_dtype():
    w = np.ones(3)
    func = nf.jit(lambda x: (x * w).sum())
    assert func(2.0) == 6.0
    w = np.ones((2, 2), np.float32)
    assert func(2.0) == 8.0


def test_closure_and_default_are_read_at_every_call():
    def make():
        k = np.array([1.0, 1.0])

        def func(x, *, b=np.zeros(2)):
            return x * k + b

        def change(value):
            nonlocal k
            k = value

        return nf.jit(func), func, change

    compiled, func, change = make()
    np.testing.assert_array_equal(compiled(np.ones(2)), [1, 1])
    change(np.array([3.0, 4.0]))
    np.testing.assert_array_equal(compiled(np.ones(2)), [3, 4])
    func.__kwdefaults__["b"] = np.array([1.0, 1.0])
    np.testing.assert_array_equal(compiled(np.ones(2)), [4, 5])


class Model:
    def __init__(self, w):
        self.w = w
        self.layers = [np.ones(2), np.full(2, 2.0)]

    def loss(self, x):
        return np.sum(self.w * x * self.layers[1])

    @nf.grad
    def gradient(self, x):
        return np.sum(self.w * x**2)


def test_methods_see_the_attributes_of_today():
    model = Model(np.array([1.0, 2.0]))
    gradient = nf.grad(model.loss)
    x = np.ones(2)
    np.testing.assert_array_equal(gradient(x), [2, 4])
    model.w = np.array([5.0, 5.0])
    model.layers[1] = np.ones(2)
    np.testing.assert_array_equal(gradient(x), [5, 5])


def test_a_decorated_method_binds():
    model = Model(np.array([1.0, 2.0]))
    np.testing.assert_array_equal(model.gradient(np.ones(2)), [2, 4])
    np.testing.assert_array_equal(Model(np.array([3.0, 3.0])).gradient(np.ones(2)), [6, 6])


def test_ten_thousand_fresh_lambdas_compile_once_in_flat_memory():
    w = np.ones(3)
    data = np.random.default_rng(0).standard_normal((10_000, 3))

    def step(w, row):
        return nf.grad(lambda v: np.sum(v * row) ** 2)(w)

    w = step(w, data[0])
    before = nf.cache_info()
    gc.collect()
    objects = len(gc.get_objects())
    for row in data:
        g = step(np.ones(3), row)
    np.testing.assert_allclose(g, 2 * row.sum() * row)
    after = nf.cache_info()
    gc.collect()
    assert after.compiles == before.compiles
    assert after.entries == before.entries
    assert len(gc.get_objects()) < objects + 1000


def test_a_transformed_function_dies_with_its_last_reference():
    func = nf.jit(lambda x: x + 1)
    func(np.ones(2))
    alive = weakref.ref(func)
    del func
    gc.collect()
    assert alive() is None


# -- arguments


def test_python_scalars_are_weak_and_floats_do_not_recompile():
    func = nf.jit(lambda x, s: x * s)
    x = np.ones(2, np.float32)
    assert func(x, 2.0).dtype == np.float32
    before = nf.cache_info().compiles
    np.testing.assert_array_equal(func(x, 3.0), [3, 3])
    assert nf.cache_info().compiles == before
    assert func(x, np.float64(2.0)).dtype == np.float64
    assert func(x, 2).dtype == np.float32


@pytest.mark.parametrize(
    "make",
    [
        lambda a: a[::2, ::-1],
        lambda a: np.asfortranarray(a),
        lambda a: a.astype(">f8"),
        lambda a: a.T.copy().T,
        lambda a: np.lib.stride_tricks.as_strided(a, a.shape, (0, 8)),
        lambda a: np.frombuffer(b"\0" + a.tobytes(), np.uint8)[1:].view(a.dtype).reshape(a.shape),
        lambda a: a[:0],
    ],
    ids=["strided", "fortran", "big-endian", "transposed", "broadcast", "misaligned", "empty"],
)
def test_every_memory_layout_works(make):
    x = make(np.random.default_rng(1).standard_normal((4, 6)))
    func = nf.grad(lambda x: np.sum(np.sin(x) * x.T.reshape(-1)[: x.size].reshape(x.shape)))
    value = nf.jit(lambda x: np.sin(x).ravel() + 1)
    np.testing.assert_allclose(value(x), np.sin(x).ravel() + 1, rtol=1e-14)
    assert func(x).shape == x.shape
    assert func(x).dtype == np.float64


def test_read_only_arguments_are_read():
    x = np.arange(3.0)
    x.flags.writeable = False
    np.testing.assert_array_equal(nf.jit(lambda x: x * 2)(x), [0, 2, 4])


def test_static_arguments_and_keywords():
    func = nf.jit(lambda x, n, flip=False: (x[::-1] if flip else x) ** n)
    x = np.arange(3.0)
    np.testing.assert_array_equal(func(x, 2), x**2)
    np.testing.assert_array_equal(func(x, 3, flip=True), x[::-1] ** 3)
    np.testing.assert_array_equal(func(x, n=2, flip=True), x[::-1] ** 2)


# -- writing in place


def test_arguments_written_in_place_are_written_back():
    @nf.jit
    def relax(u, v):
        u[1:-1] += v
        u[0] = -1.0
        return u.sum()

    u = np.zeros(5)
    assert relax(u, 2.0) == 5.0
    np.testing.assert_array_equal(u, [-1, 2, 2, 2, 0])
    relax(u[::-1], 1.0)
    np.testing.assert_array_equal(u, [-1, 3, 3, 3, -1])


def test_captured_arrays_written_in_place_are_written_back():
    buffer = np.zeros(3)

    @nf.jit
    def fill(x):
        buffer[:] = x * 2

    fill(np.arange(3.0))
    np.testing.assert_array_equal(buffer, [0, 2, 4])


def test_read_only_targets_raise_numpys_error():
    x = np.zeros(3)
    x.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        nf.jit(_set_first)(x)


def _set_first(x):
    x[0] = 1.0
    return x


def test_overlapping_targets_of_other_elements_are_refused_before_anything_changes():
    x = np.arange(4.0)

    @nf.jit
    def shift(a, b):
        a[:] = b

    with pytest.raises(nf.NufuncError, match="overlaps"):
        shift(x[1:], x[:-1].view(np.int64))
    np.testing.assert_array_equal(x, np.arange(4.0))


def test_writing_to_a_differentiated_argument_is_refused_with_its_name():
    def func(values):
        values *= 2.0
        return values.sum()

    with pytest.raises(nf.MutationError, match="values"):
        nf.grad(func)(np.ones((2, 2)))


def test_local_buffers_are_free_under_every_transform():
    def func(x):
        out = np.zeros(3)
        for i in range(3):
            out[i] = x[i] ** (i + 1)
        out[1:] += out[:-1]
        return out

    x = np.array([2.0, 3.0, 4.0])
    want = np.array([[1.0, 0, 0], [1, 6, 0], [0, 6, 48]])
    np.testing.assert_allclose(nf.jacrev(func)(x), want)
    np.testing.assert_allclose(nf.jacfwd(func)(x), want)
    np.testing.assert_allclose(nf.vmap(func)(np.stack([x, x]))[1], func(x))


# -- threads


def test_many_threads_call_and_compile_at_once():
    results = {}

    def work(i):
        func = nf.grad(lambda x: np.sum(np.exp(x) * i))
        for n in (3, 4, 5):
            x = np.full(n, 0.1 * i)
            for _ in range(50):
                out = func(x)
            results[i, n] = np.abs(out - i * np.exp(x)).max()

    threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(results) == 18
    assert max(results.values()) < 1e-12


class Version:
    """Equal where the numbers are, whatever else differs."""

    def __init__(self, number, scale):
        self.number, self.scale = number, scale

    def __eq__(self, other):
        return self.number == other.number

    def __hash__(self):
        return hash(self.number)


def test_equal_objects_are_not_the_same_object():
    func = nf.jit(lambda x, v: x * v.scale)
    x = np.ones(2)
    np.testing.assert_array_equal(func(x, Version(1, 2)), [2, 2])
    np.testing.assert_array_equal(func(x, Version(1, 3)), [3, 3])


def test_static_zeros_of_either_sign_differ():
    func = nf.jit(lambda x, s: np.copysign(x, s), static_argnums=1)
    x = np.ones(2)
    np.testing.assert_array_equal(func(x, 0.0), [1, 1])
    np.testing.assert_array_equal(func(x, -0.0), [-1, -1])


def test_a_pullback_may_be_an_argument():
    x = np.array([0.0, 1.0])
    _, pullback = nf.vjp(np.sin, x)
    call = nf.jit(lambda v, c: v(c)[0])
    for _ in range(2):
        np.testing.assert_allclose(call(pullback, np.ones(2)), np.cos(x))
    rows = nf.vmap(lambda v, c: v(c)[0], in_dims=(None, 0))(pullback, np.eye(2))
    np.testing.assert_allclose(rows, np.diag(np.cos(x)))


def test_a_traced_function_may_wait_for_a_thread_that_compiles():
    results, tracing, compiled = [], threading.Event(), threading.Event()

    def work():
        tracing.wait(60)
        results.append(nf.jit(lambda y: y * 3)(np.ones(2)))
        compiled.set()

    def outer(x):
        tracing.set()
        return x + 1 if compiled.wait(60) else x

    thread = threading.Thread(target=work)
    thread.start()
    np.testing.assert_array_equal(nf.jit(outer)(np.ones(2)), [2, 2])
    thread.join()
    np.testing.assert_array_equal(results, [[3, 3]])
