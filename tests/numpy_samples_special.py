"""Samples of scipy.special, called as `special.name` of the namespace's SciPy."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import scipy.special
from numpy_sample_arrays import F32, I8, POS, UNIT, B, F, I, J, Sample

ABOVE = POS + 1.5
EDGES = np.array([0.0, -0.0, 1.0, -1.0, 0.5, 2.0, -2.5, 40.0, np.inf, -np.inf, np.nan])


def function(name: str, *args: Any, rtol: float = 1e-12, rough: bool = False, **options: Any) -> Sample:
    """special.name(*args, **options) with the arrays among args traced. `rough`: no derivative, at least not here."""
    traced = tuple(a for a in args if isinstance(a, np.ndarray))
    called = getattr(scipy.special, name)

    def call(np_: Any, *arrays: Any) -> Any:
        rest = iter(arrays)
        operands = [next(rest) if isinstance(a, np.ndarray) else a for a in args]
        if type(np_).__name__ != "Namespace":
            return called(*operands, **options)
        from nufunc.tracer import dispatch

        return dispatch.swap(called)(*operands, **options)

    shown = [f"{a.dtype}{list(a.shape)}" if isinstance(a, np.ndarray) else repr(a) for a in args]
    shown += [f"{k}={v!r}" for k, v in options.items()]
    return Sample(f"special.{name}({', '.join(shown)}){' rough' if rough else ''}", call, traced, rtol)


_UNARY = (
    "j0 j1 y0 y1 k0 k1 k0e k1e i0 i1 i0e i1e exp1 expi spence dawsn erfi erf erfc erfcx gamma gammaln loggamma digamma "
    "rgamma gammasgn exprel cosm1 expit log_expit logit entr ndtr log_ndtr exp10 expm1 log1p cbrt ellipe sindg cosdg "
    "tandg"
).split()
_BINARY = (
    "jv yv iv ive kv kve beta betaln binom poch xlogy xlog1py rel_entr kl_div huber pseudo_huber boxcox boxcox1p "
    "inv_boxcox inv_boxcox1p agm gammainc gammaincc struve owens_t hyp0f1 kn yn"
).split()


_ORDERED = "jv yv iv ive kv kve gammainc gammaincc struve hyp0f1".split()  # by a first operand without derivative


def unary() -> Iterator[Sample]:
    for name in _UNARY:
        yield function(name, UNIT, rtol=2e-12)
        yield function(name, UNIT.astype(np.float32), rtol=2e-6)
    for name in "erf erfc gammasgn rgamma exprel expit ndtr dawsn cosm1 j0 j1".split():
        yield function(name, np.array([0.0, 1.0, -1.0, 0.5, 2.0, -2.5, 40.0, -40.0]), rtol=1e-11, rough=True)
    for name in "erf exprel k0 y0 spence exp1 gammaln".split():
        yield function(name, EDGES, rtol=1e-11)
    yield function("erf", I8, rtol=2e-6)
    yield function("gamma", J)
    yield function("erf", B, rtol=2e-6)
    yield function("erf", np.array(0.5))
    for name in ("ellipk", "ellipkm1", "erfinv", "erfcinv", "ndtri"):
        yield function(name, UNIT, rtol=1e-11)
    for name in ("sici", "shichi", "fresnel"):
        yield function(name, POS)
    yield Sample(
        "special.erf(out=)", lambda np_, x: _out(np_, x), (F,),
    )  # fmt: skip


def _out(np_: Any, x: Any) -> Any:
    result = np_.zeros(x.shape)
    swapped: Any = scipy.special.erf
    if type(np_).__name__ == "Namespace":
        from nufunc.tracer import dispatch

        swapped = dispatch.swap(swapped)
    swapped(x, out=result)
    return result


def several() -> Iterator[Sample]:
    for name in _BINARY:
        if name not in ("kn", "yn"):
            yield function(name, UNIT, POS, rtol=1e-10, rough=name in _ORDERED)
        yield function(name, 2, POS, rtol=1e-10)
    yield function("xlogy", 2.0, POS.astype(np.float32), rtol=2e-6)
    yield function("boxcox", np.array([0.0, 1.0, 2.0, 0.5]), np.array([0.5, 0.0, -1.0, 0.0]), rough=True)
    yield function("huber", -1.0, F, rough=True)
    yield function("pseudo_huber", 0.0, F)
    ends = np.array([1.0, -2.0, 0.0, 3.0, 1e-300, np.inf]), np.array([4.0, -3.0, 2.0, -1.0, 1e300, 1.0])
    yield function("agm", *ends, rough=True)
    yield function("expn", 3, POS)
    yield function("expn", J, POS)
    for name in "eval_chebyt eval_chebyu eval_hermite eval_hermitenorm eval_laguerre eval_legendre".split():
        yield function(name, 3, UNIT)
        yield function(name, J, UNIT)
    yield function("eval_jacobi", 3, 0.5, 1.5, UNIT)
    yield function("betainc", POS, ABOVE, UNIT, rtol=1e-11, rough=True)
    yield function("betaincinv", POS, ABOVE, UNIT, rtol=1e-10, rough=True)
    yield function("gammaincinv", POS, UNIT, rtol=1e-10, rough=True)
    yield function("hyp2f1", 0.5, POS, 2.0, UNIT, rtol=1e-10, rough=True)
    yield function("hyp1f1", 0.5, POS, F, rtol=1e-10, rough=True)
    yield function("ellipkinc", POS[0] / 3, UNIT[0])
    yield function("ellipeinc", POS[0] / 3, UNIT[0])
    yield function("polygamma", 1, POS, rtol=1e-11)
    yield function("polygamma", 3, POS, rtol=1e-11)
    for n in (1, 2, 4):
        yield function("polygamma", n, np.array([-0.3, -2.6, 0.2, 0.49, -7.5]), rtol=1e-10)
        yield function("polygamma", n, np.array([0.0, -1.0, -5.0, np.inf, np.nan]), rough=True)
    yield function("betaincc", POS, ABOVE, UNIT, rtol=1e-10, rough=True)
    yield function("zeta", ABOVE, 2.0, rtol=1e-11)
    yield function("zeta", ABOVE, rtol=1e-11)


def others() -> Iterator[Sample]:
    for kw in ({}, {"axis": 0}, {"axis": (0, 1)}, {"axis": 1, "keepdims": True}, {"axis": 1, "return_sign": True}):
        yield function("logsumexp", F, **kw)
    yield Sample("special.logsumexp(b=)", function("logsumexp", F, 1, POS).call, (F, POS))
    yield function("logsumexp", F, 0, np.where(G_SIGNED, 1.0, -2.0), False, True)
    for name in ("softmax", "log_softmax"):
        for kw in ({}, {"axis": 0}, {"axis": (0, 1)}):
            yield function(name, F, **kw)
        yield function(name, F32, axis=1, rtol=2e-6)
    yield function("factorial", J)
    yield function("factorial", np.array([0.0, 1.5, 3.0, -1.0]), rough=True)
    yield function("comb", 7, J)
    yield function("comb", J, 2, repetition=True)
    yield function("perm", 7, J)
    yield function("multigammaln", ABOVE, 3)
    yield function("diric", F, 4)
    for k in (0, -1, 1):
        yield function("lambertw", F, k, rtol=1e-11)
    yield function("lambertw", np.array([0.0, 1.0, -1 / 3, 1e-9, 1e20, -0.1, 2j, np.inf]), rtol=1e-9)
    yield function("round", F * 3)
    yield function("erf", I)


G_SIGNED = np.array([[True, False, True, True], [False, True, True, False], [True, True, False, True]])


def samples() -> Iterator[Sample]:
    for group in (unary, several, others):
        yield from group()
