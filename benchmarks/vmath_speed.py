"""Measures the speed of elementwise functions beside NumPy, SciPy and JAX, interleaved in one process on one core.

    python benchmarks/vmath_speed.py [--write] [NAME...]

prints (with --write: stores as benchmarks/results/vmath.md) nanoseconds per element, the least of many repeats.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})

import jax
import jax.numpy as jnp
import jax.scipy.special as jsp
import numpy as np
import scipy.special as special

import nufunc as nf

jax.config.update("jax_enable_x64", True)
N, ROUNDS = 100_000, 40

# name: (NumPy's function, JAX's, interval of the arguments, number of arguments)
CASES: dict[str, tuple[Callable[..., Any], Callable[..., Any] | None, tuple[float, float], int]] = {
    "exp": (np.exp, jnp.exp, (-5, 5), 1),
    "exp2": (np.exp2, jnp.exp2, (-5, 5), 1),
    "expm1": (np.expm1, jnp.expm1, (-2, 2), 1),
    "log": (np.log, jnp.log, (0.01, 10), 1),
    "log2": (np.log2, jnp.log2, (0.01, 10), 1),
    "log10": (np.log10, jnp.log10, (0.01, 10), 1),
    "log1p": (np.log1p, jnp.log1p, (-0.9, 3), 1),
    "sin": (np.sin, jnp.sin, (-10, 10), 1),
    "cos": (np.cos, jnp.cos, (-10, 10), 1),
    "tan": (np.tan, jnp.tan, (-10, 10), 1),
    "asin": (np.arcsin, jnp.arcsin, (-1, 1), 1),
    "acos": (np.arccos, jnp.arccos, (-1, 1), 1),
    "atan": (np.arctan, jnp.arctan, (-4, 4), 1),
    "atan2": (np.arctan2, jnp.arctan2, (-2, 2), 2),
    "sinh": (np.sinh, jnp.sinh, (-4, 4), 1),
    "cosh": (np.cosh, jnp.cosh, (-4, 4), 1),
    "tanh": (np.tanh, jnp.tanh, (-4, 4), 1),
    "asinh": (np.arcsinh, jnp.arcsinh, (-4, 4), 1),
    "acosh": (np.arccosh, jnp.arccosh, (1, 4), 1),
    "atanh": (np.arctanh, jnp.arctanh, (-0.99, 0.99), 1),
    "sqrt": (np.sqrt, jnp.sqrt, (0, 10), 1),
    "cbrt": (np.cbrt, jnp.cbrt, (-10, 10), 1),
    "hypot": (np.hypot, jnp.hypot, (-3, 3), 2),
    "pow": (np.power, jnp.power, (0.01, 4), 2),
    "erf": (special.erf, jsp.erf, (-4, 4), 1),
    "erfc": (special.erfc, jsp.erfc, (-4, 6), 1),
    "erfinv": (special.erfinv, jsp.erfinv, (-0.999, 0.999), 1),
    "erfcinv": (special.erfcinv, None, (0.01, 1.99), 1),
    "ndtr": (special.ndtr, jsp.ndtr, (-4, 4), 1),
    "ndtri": (special.ndtri, jsp.ndtri, (0.001, 0.999), 1),
    "expit": (special.expit, jsp.expit, (-5, 5), 1),
    "logit": (special.logit, jsp.logit, (0.01, 0.99), 1),
    "log_expit": (special.log_expit, jax.nn.log_sigmoid, (-5, 5), 1),
    "logaddexp": (np.logaddexp, jnp.logaddexp, (-5, 5), 2),
    "gammaln": (special.gammaln, jsp.gammaln, (0.1, 20), 1),
    "digamma": (special.digamma, jsp.digamma, (0.1, 20), 1),
    "gamma": (special.gamma, jsp.gamma, (0.1, 20), 1),
    "erfcx": (special.erfcx, None, (-3, 10), 1),
    "log_ndtr": (special.log_ndtr, jsp.log_ndtr, (-10, 5), 1),
    "gammainc": (special.gammainc, jsp.gammainc, (0.1, 20), 2),
    "zeta": (special.zeta, jsp.zeta, (1.1, 10), 2),
    "i0e": (special.i0e, jsp.i0e, (-20, 20), 1),
    "i1e": (special.i1e, jsp.i1e, (-20, 20), 1),
    "sinc": (np.sinc, jnp.sinc, (-5, 5), 1),
}


def _call(function: Callable[..., Any], args: list[Any]) -> float:
    start = time.perf_counter()
    result = function(*args)
    if hasattr(result, "block_until_ready"):
        result.block_until_ready()
    return time.perf_counter() - start


def _compiled(function: Callable[..., Any], count: int) -> Callable[..., Any]:
    """A function of plain NumPy for nufunc, which traces Python functions."""
    return nf.jit((lambda x: function(x)) if count == 1 else (lambda x, y: function(x, y)))


def measured(name: str, dtype: str) -> list[float | None]:
    """Nanoseconds per element of nufunc, NumPy or SciPy, and JAX."""
    theirs, jaxs, (low, high), count = CASES[name]
    rng = np.random.default_rng(0)
    args = [rng.uniform(low, high, N).astype(dtype) for _ in range(count)]
    runs: list[tuple[Callable[..., Any], list[Any]] | None] = [
        (_compiled(theirs, count), args),
        (theirs, args),
        None if jaxs is None else (jax.jit(jaxs), [jnp.asarray(a) for a in args]),
    ]
    best = [float("inf")] * 3
    for _ in range(ROUNDS):
        for k, run in enumerate(runs):
            if run is not None:
                best[k] = min(best[k], _call(*run))
    return [None if run is None else 1e9 * b / N for run, b in zip(runs, best, strict=True)]


def table(names: list[str]) -> str:
    lines = [
        "| function | type | nufunc ns | NumPy ns | JAX ns | of NumPy | of JAX |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for name in names:
        for dtype in ("float64", "float32"):
            ours, numpys, jaxs = measured(name, dtype)
            assert ours is not None
            assert numpys is not None
            beside = ("", "") if jaxs is None else (f"{jaxs:.2f}", f"{ours / jaxs:.2f}")
            cells = (name, dtype, f"{ours:.2f}", f"{numpys:.2f}", beside[0], f"{ours / numpys:.2f}", beside[1])
            lines.append("| " + " | ".join(cells) + " |")
            print(lines[-1], flush=True)
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    chosen = [a for a in sys.argv[1:] if not a.startswith("--")] or list(CASES)
    text = table(chosen)
    if "--write" in sys.argv:
        head = f"""# Speed of elementwise functions

`python benchmarks/vmath_speed.py --write`: nanoseconds per element at {N:,} elements on one core, the least of
{ROUNDS} interleaved calls, results allocated. NumPy {np.__version__}, JAX {jax.__version__}. The last two columns are
nufunc's time over the other's: below 1 nufunc is faster. NumPy's functions of AVX-512 may be 4 ulp off, nufunc's are
within 2 (see vmath_ulp.md).

"""
        (Path(__file__).parent / "results" / "vmath.md").write_text(head + text)
