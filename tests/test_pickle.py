"""Transformed and compiled functions leave the process and compute the same elsewhere."""

import copy
import functools
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pickle_functions as functions
import pytest

import nufunc as nf
from nufunc.runtime import stored

HERE = Path(__file__).parent
X = np.linspace(0.5, 1.5, 4)


def through_pickle(obj: Any) -> Any:
    return pickle.loads(pickle.dumps(obj))


def through_cloudpickle(obj: Any) -> Any:
    cloudpickle = pytest.importorskip("cloudpickle")
    return pickle.loads(cloudpickle.dumps(obj))


WAYS: dict[str, Callable[[Any], Any]] = {
    "pickle": through_pickle, "cloudpickle": through_cloudpickle, "copy": copy.copy, "deepcopy": copy.deepcopy,
}  # fmt: skip
ways = pytest.mark.parametrize("way", WAYS)


def agree(a: Any, b: Any) -> None:
    assert nf.tree.structure(a) == nf.tree.structure(b)
    for x, y in zip(nf.tree.leaves(a), nf.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


MODEL = functions.Model(np.arange(4.0))
FUNCTIONS: dict[str, Callable[..., Any]] = {
    "decorated": functions.decorated,
    "decorated twice": lambda x: functions.stacked(np.stack([x, x])),
    "grad": nf.grad(functions.plain),
    "grad of decorated": nf.grad(functions.in_main_too, argnums=1),
    "vmap of grad": nf.vmap(nf.grad(functions.plain)),
    "hessian": nf.hessian(functions.plain),
    "options": nf.jit(functions.plain, fastmath=True),
    "partial": nf.jit(functools.partial(functions.in_main_too, scale=5.0)),
    "decorated method": MODEL.forward,
    "method under grad": nf.grad(MODEL.loss),
    "decorated method under vmap": nf.vmap(MODEL.slope),
    "decorated method under jit": nf.jit(MODEL.slope),
    "custom jvp": nf.grad(functions.with_jvp),
    "custom vjp": nf.grad(functions.with_vjp),
    "ufunc": nf.jit(np.sin),
}
ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "grad of decorated": (2.0, 3.0), "vmap of grad": (np.stack([X, X]),), "custom jvp": (0.3,), "custom vjp": (0.3,),
    "decorated method under vmap": (np.stack([X, X]),),
}  # fmt: skip


@ways
@pytest.mark.parametrize("name", [n for n in FUNCTIONS if n != "decorated twice"])
def test_functions(name: str, way: str) -> None:
    function, args = FUNCTIONS[name], ARGUMENTS.get(name, (X,))
    want = function(*args)
    again = WAYS[way](function)  # after a call: what was compiled for it stays behind
    agree(again(*args), want)
    assert repr(again) == repr(function)


def test_by_name_they_are_the_same_objects() -> None:
    for function in (functions.decorated, functions.stacked, functions.with_jvp, functions.with_vjp):
        assert through_pickle(function) is function
    assert through_pickle(MODEL.forward).func.__self__ is not MODEL
    assert through_pickle(nf.grad(functions.decorated)).func is functions.decorated.func


def test_what_has_no_name_is_an_error_of_pickle() -> None:
    with pytest.raises((pickle.PicklingError, AttributeError)):
        pickle.dumps(nf.grad(lambda x: x))
    shift = 2.0
    again = through_cloudpickle(nf.grad(lambda x: np.sum(x**2 * shift)))
    np.testing.assert_array_equal(again(X), 4 * X)


@ways
def test_pullbacks_and_linear_maps(way: str) -> None:
    _, pull = nf.vjp(lambda a, b: {"c": np.sin(a) * b, "d": a @ b}, X, X)
    cotangent = {"c": np.ones(4), "d": 2.0}
    want = pull(cotangent)
    again = WAYS[way](pull)
    agree(again(cotangent), want)
    agree(nf.vmap(again)({"c": np.ones((2, 4)), "d": np.full(2, 2.0)})[0], np.stack([want[0]] * 2))
    _, push = nf.linearize(functions.plain, X)
    agree(WAYS[way](push)(np.ones(4)), push(np.ones(4)))


def test_a_deep_copy_of_a_pullback_has_arrays_of_its_own() -> None:
    _, pull = nf.vjp(functions.plain, X.copy())
    other = copy.deepcopy(pull)
    assert not any(np.shares_memory(a, b) for a, b in zip(pull.residuals, other.residuals, strict=True))


def test_tapes_stay_where_they_are() -> None:
    def halved(x):
        return nf.while_loop(lambda s: np.sum(s) > 1, lambda s: s * 0.5 * s, x)

    _, pull = nf.vjp(halved, X)
    with pytest.raises(nf.ArgumentTypeError, match="tapes"):
        pickle.dumps(pull)
    agree(copy.deepcopy(pull)(np.ones(4)), pull(np.ones(4)))


@ways
def test_compiled_functions(way: str) -> None:
    weights = np.arange(4.0)

    def f(x, n, y=None, *, power=2):  # local: no pickle finds it by name
        return {"sum": np.sum(x**power * weights) * n, "out": x[::-1] if y is None else y * x}

    lowered = nf.jit(f, static_argnums=1).lower(X, 3, y=X, power=2)
    compiled = lowered.compile()
    want = compiled(X, 3, y=X, power=2)
    for again in (WAYS[way](compiled), WAYS[way](lowered).compile()):
        for _ in range(2):
            agree(again(X, 3, y=X, power=2), want)
        with pytest.raises(nf.ArgumentTypeError, match="argument 0 \\('x'\\)"):
            again(np.ones(3), 3, y=X, power=2)
        with pytest.raises(nf.ArgumentTypeError, match="static int 3"):
            again(X, 4, y=X, power=2)
        out = {"sum": np.empty(()), "out": np.empty(4)}
        agree(again(X, 3, y=X, power=2, out=out), want)
        agree(again.bind(X, 3, y=X, power=2)(), want)
        assert again.as_text("simplified") == compiled.as_text("simplified")
        assert again.cost().flops == compiled.cost().flops
        assert repr(again) == repr(compiled)
        agree(WAYS[way](again)(X, 3, y=X, power=2), want)


def test_two_restored_functions_are_two() -> None:
    pair = [through_pickle(nf.jit(lambda x, k=k: x * k).lower(X).compile()) for k in (2.0, 3.0)]
    for again, k in zip(pair, (2.0, 3.0), strict=True):
        np.testing.assert_array_equal(again(X), X * k)
        np.testing.assert_array_equal(again.bind(X)(), X * k)


def test_captured_arrays_are_those_of_the_pickling() -> None:
    state = np.zeros(4)

    def count(x):
        state[:] += x
        return state.sum()

    compiled = nf.jit(count).lower(X).compile()
    compiled(X)
    again = through_pickle(compiled)
    assert again(X) == pytest.approx(2 * X.sum())
    assert again(X) == pytest.approx(3 * X.sum())
    np.testing.assert_array_equal(state, X)


@ways
def test_bound_calls(way: str) -> None:
    out = np.zeros(4)
    bound = functions.decorated.bind(X, out=out)
    bound()
    np.testing.assert_array_equal(WAYS[way](bound)() if way != "copy" else bound(), np.sin(X) * 2)


def test_unpicklable_compilations_say_why() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(nf.UnsupportedError, match="random generator"):
        pickle.dumps(nf.jit(lambda x: x + rng.normal(size=4)).lower(X))

    class Setting:
        factor = 2.0

    with pytest.raises(nf.ArgumentTypeError, match="one Setting object"):
        pickle.dumps(nf.jit(lambda x, s: x * s.factor).lower(X, Setting()))


@ways
def test_modules_and_optimizers(way: str) -> None:
    net = nf.nn.Sequential(nf.nn.Linear(4, 3), nf.nn.Tanh(), nf.nn.BatchNorm1d(3), nf.nn.Linear(3, 1))
    net.eval()
    batch = np.stack([X, X + 1, X + 2])
    again = WAYS[way](net)
    np.testing.assert_array_equal(again(batch), net(batch))
    params = dict(net.named_parameters())
    apply = lambda p: np.sum(nf.functional_call(net, p, (batch,)) ** 2)
    apply_again = lambda p: np.sum(nf.functional_call(again, p, (batch,)) ** 2)
    agree(nf.grad(apply_again)(params), nf.grad(apply)(params))
    f, state, buffers = nf.make_functional_with_buffers(net)
    agree(WAYS[way](f)(state, buffers, batch), f(state, buffers, batch))
    if way == "copy":
        return
    optimizer = nf.optim.adamw(nf.optim.warmup_cosine(1e-2, 5, 100))
    held = optimizer.init(params)
    gradient = nf.grad(apply)(params)
    agree(WAYS[way](optimizer).update(gradient, held, params), optimizer.update(gradient, held, params))
    agree(WAYS[way](held), held)


def test_arrays_from_pickles_are_read_where_they_lie() -> None:
    x = through_pickle(X)  # its dtype is another object than that of other arrays
    np.testing.assert_array_equal(functions.decorated(x), np.sin(X) * 2)
    y = through_pickle(X)

    @nf.jit
    def double(x):
        x *= 2

    double(y)
    np.testing.assert_array_equal(y, X * 2)


# -- other processes


@pytest.fixture
def installed_long_ago(monkeypatch: pytest.MonkeyPatch) -> None:
    """Code does not travel from a process that began within seconds of the installation, whose sources it may not have
    read as they stand."""
    monkeypatch.setattr(stored, "_edited", lambda: False)


ELSEWHERE = """
import pickle, sys
things = pickle.load(open(sys.argv[1], "rb"))
for name, (thing, args) in things.items():
    print(name, *(x.tolist() for x in (thing(*args) if isinstance(thing(*args), tuple) else (thing(*args),))))
    if hasattr(thing, "executable"):
        print(thing.executable.origin.how, "numba" in sys.modules)
"""


def elsewhere(file: Path, **environment: str) -> list[str]:
    settings = {**os.environ, **environment}
    command = [sys.executable, "-W", "error", "-c", ELSEWHERE, str(file)]
    done = subprocess.run(command, env=settings, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.usefixtures("installed_long_ago")
def test_compiled_functions_call_python_functions_by_name(tmp_path: Path) -> None:
    compiled = nf.jit(functions.calls_back).lower(X).compile()
    mapped = nf.vmap(functions.calls_back_once).lower(np.stack([X, -X])).compile()
    file = tmp_path / "calling"
    file.write_bytes(pickle.dumps({"f": (compiled, (X,)), "g": (mapped, (np.stack([X, -X]),))}))
    lines = elsewhere(file, PYTHONPATH=str(HERE))
    assert lines == [
        f"f {(X[::-1] * 2).tolist()}", "unpickled False",
        f"g {np.stack([X[::-1] * 2, X[::-1] * -2]).tolist()}", "unpickled False",
    ]  # fmt: skip
    with pytest.raises((AttributeError, pickle.PicklingError), match="lambda"):
        pickle.dumps(nf.jit(lambda x: nf.pure_callback(lambda x: x, nf.spec(4), x)).lower(X).compile())


@pytest.mark.usefixtures("installed_long_ago")
def test_compiled_functions_take_their_code_along(tmp_path: Path) -> None:
    compiled = nf.jit(lambda x: np.tanh(x) * 3).lower(X).compile()
    file = tmp_path / "compiled"
    file.write_bytes(pickle.dumps({"f": (compiled, (X,))}))
    want = f"f {compiled(X).tolist()}"
    assert elsewhere(file) == [want, "unpickled False"]
    other = elsewhere(file, NUMBA_CPU_NAME="generic", NUMBA_CPU_FEATURES="")
    assert other[1] == "compiled True"
    np.testing.assert_allclose(eval(other[0][2:]), compiled(X), rtol=1e-15)
    assert elsewhere(file, NUFUNC_NOJIT="1")[1].startswith("interpreted")


def test_functions_in_another_process(tmp_path: Path) -> None:
    _, pull = nf.vjp(functions.plain, X)
    things = {
        "decorated": (functions.decorated, (X,)), "grad": (nf.grad(functions.plain), (X,)),
        "method": (MODEL.forward, (X,)), "custom": (nf.grad(functions.with_vjp), (0.5,)), "pull": (pull, (1.0,)),
    }  # fmt: skip
    file = tmp_path / "functions"
    file.write_bytes(pickle.dumps(things))
    path = os.pathsep.join([str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])])
    lines = elsewhere(file, PYTHONPATH=path)
    for line, (name, (function, args)) in zip(lines, things.items(), strict=True):
        results = function(*args)
        results = results if isinstance(results, tuple) else (results,)
        assert line == " ".join([name, *(str(np.asarray(r).tolist()) for r in results)])


def test_pools_of_processes(tmp_path: Path) -> None:
    settings = {**os.environ, "NUFUNC_CACHE": "1", "NUFUNC_CACHE_DIR": str(tmp_path)}
    program = HERE / "pickle_pools.py"
    done = subprocess.run([sys.executable, str(program)], env=settings, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] == "ok"
