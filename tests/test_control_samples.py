"""The table of programs with control flow: against NumPy lane by lane, central differences, and JAX under all chains.

JAX has no reverse mode through loops of unknown length, but its forward mode gives the same derivatives.
"""

import itertools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from control_samples import LANES, POINT, PROGRAMS, Plain
from random_loops import check_derivatives, random_source
from random_programs import RandomChooser

import nufunc as nf

Function = Callable[[Any], Any]
DIRECTION = np.array([0.5, -1.0, 0.25])
NAMES = sorted(PROGRAMS)


def ours(name: str) -> Function:
    return lambda x: joined(np, PROGRAMS[name](nf, np, x))


def plain(name: str) -> Function:
    return lambda x: joined(np, PROGRAMS[name](Plain, np, x))


def joined(xp: Any, result: Any) -> Any:
    """All results as one vector."""
    leaves = result if isinstance(result, tuple) else (result,)
    return xp.concatenate([xp.ravel(leaf) for leaf in leaves]) if len(leaves) > 1 else leaves[0]


def weighted(xp: Any, function: Function) -> Function:
    def scalar(x: Any) -> Any:
        y = xp.ravel(function(x))
        return xp.sum(y * xp.linspace(1.0, 2.0, y.shape[0]))

    return scalar


def difference(function: Function, x: np.ndarray, direction: np.ndarray, step: float = 1e-4) -> Any:
    """Central differences of the fourth order."""
    f = lambda k: np.asarray(function(x + k * step * direction))
    return (8 * (f(1) - f(-1)) - (f(2) - f(-2))) / (12 * step)


def close(found: Any, expected: Any, rtol: float = 1e-9) -> None:
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=rtol, atol=rtol * max(1.0, float(np.abs(expected).max(initial=0))))


def check_further(name: str, lanes: np.ndarray, gradients: np.ndarray) -> None:
    """One of the ways that are left, by turns."""
    f, reference = weighted(np, ours(name)), plain(name)
    turn = NAMES.index(name) % 3
    if turn == 0:
        close(nf.vmap(ours(name))(lanes), np.stack([reference(lane) for lane in lanes]), 1e-12)
    elif turn == 1:
        close(nf.jvp(f, (lanes[0],), (DIRECTION,))[1], gradients[0] @ DIRECTION, 1e-7)
    else:
        close(nf.vjp(f, lanes[0])[1](np.float64(2.0))[0], 2 * gradients[0], 1e-7)


@pytest.mark.parametrize("name", NAMES)
def test_values_and_derivatives_are_those_of_numpy(name: str) -> None:
    f, reference = weighted(np, ours(name)), weighted(np, plain(name))
    lanes = POINT * LANES[:2, None]
    gradients = np.stack([[difference(reference, x, e) for e in np.eye(3)] for x in lanes])
    value, gradient = nf.value_and_grad(f)(lanes[0])
    close(value, reference(lanes[0]), 1e-12)
    close(gradient, gradients[0], 1e-7)
    close(nf.vmap(nf.grad(f))(lanes), gradients, 1e-7)
    check_further(name, lanes, gradients)


# -- random programs; `python tests/fuzz.py --loops 1000` is the long run


@pytest.mark.parametrize("seed", [11])
def test_random_nests(seed: int) -> None:
    assert check_derivatives(random_source(RandomChooser(seed), depth=2), seed)


def test_random_nests_are_not_trivial() -> None:
    sources = [random_source(RandomChooser(seed)) for seed in range(100)]
    for construct in ("while_loop", "fori_loop", "scan", "cond", "map", "checkpoint"):
        assert sum(f"flow.{construct}(" in source for source in sources) > 10, construct


# -- chains of transforms, against JAX


def jax_flow() -> Any:
    jax = pytest.importorskip("jax")
    jax.config.update("jax_enable_x64", True)
    lax = jax.lax
    return SimpleNamespace(
        cond=lax.cond, switch=lax.switch, while_loop=lax.while_loop, fori_loop=lax.fori_loop, scan=lax.scan,
        map=lax.map, checkpoint=Plain.checkpoint, checkpoint_name=Plain.checkpoint_name,
    )  # fmt: skip


TRANSFORMS = ("jvp", "grad", "vmap")
CHAINS = [chain for depth in (1, 2, 3) for chain in itertools.product(TRANSFORMS, repeat=depth)]


def nufunc_step(step: str, f: Function) -> Function:
    if step == "jvp":
        return lambda x: nf.jvp(f, (x,), (DIRECTION,))[1]
    if step == "grad":
        return nf.grad(weighted(np, f))
    return lambda x: nf.vmap(f)(x * LANES[:2, None])


def jax_step(step: str, f: Function) -> Function:
    import jax
    import jax.numpy as jnp

    if step == "jvp":
        return lambda x: jax.jvp(f, (x,), (jnp.asarray(DIRECTION),))[1]
    if step == "grad":
        return jax.jacfwd(weighted(jnp, f))
    return lambda x: jax.vmap(f)(x * LANES[:2, None])


def check(name: str, chain: tuple[str, ...]) -> None:
    """`chain` is innermost first."""
    flow = jax_flow()
    import jax
    import jax.numpy as jnp

    f: Function = ours(name)
    reference: Function = lambda x: joined(jnp, PROGRAMS[name](flow, jnp, x))
    for step in chain:
        f, reference = nufunc_step(step, f), jax_step(step, reference)
    close(nf.jit(f)(POINT), jax.jit(reference)(POINT), 1e-8)


DEALT = [(name, CHAINS[(7 * k) % len(CHAINS)]) for k, name in enumerate(NAMES[::4])]


@pytest.mark.parametrize(("name", "chain"), DEALT, ids=lambda v: v if isinstance(v, str) else ".".join(v))
def test_chain(name: str, chain: tuple[str, ...]) -> None:
    check(name, chain)


@pytest.mark.slow
@pytest.mark.parametrize("chain", CHAINS, ids=".".join)
@pytest.mark.parametrize("name", NAMES)
def test_whole_table(name: str, chain: tuple[str, ...]) -> None:
    check(name, chain)
