"""Rows of op_samples for what SciPy computes: operands with which each function is smooth, at orders and degrees."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import scipy.special

_POSITIVE = (
    "j0 j1 y0 y1 k0 k1 k0e k1e exp1 expi spence dawsn erfi sici.0 sici.1 shichi.0 shichi.1 fresnel.0 fresnel.1 rgamma "
    "exprel loggamma sindg cosdg tandg cotdg"
).split()
_PLAIN = "j0 j1 dawsn erfi sici.0 shichi.0 fresnel.0 fresnel.1 exprel rgamma sindg cosdg tandg".split()
_INNER = "ellipk ellipe ellipkm1".split()
_ORDERS = "jv yv iv ive kv kve struve poch beta betaln owens_t".split()
_DEGREES = "eval_chebyt eval_chebyu eval_hermite eval_hermitenorm eval_laguerre eval_legendre expn".split()
_SPECIAL = "j0 j1 y0 k0 k0e exp1 spence ellipk rgamma gammasgn exprel".split()


def _reference(name: str) -> Any:
    function, _, part = name.partition(".")
    whole = getattr(scipy.special, function)

    def call(*operands: np.ndarray) -> Any:
        wide = [o.astype(float) for o in operands]
        if part == "whole" or function.startswith("eval_hermite"):
            wide[0] = wide[0].astype(int)
        result = whole(*wide)
        return np.asarray(result[int(part)] if part.isdecimal() else result).astype(operands[0].dtype)

    return call


def rows() -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    """Operands, and options with attributes and reference."""

    def row(name: str, *specs: str, **options: Any) -> tuple[tuple[str, ...], dict[str, Any]]:
        return specs, {"attrs": {"function": name}, "reference": _reference(name), **options}

    for name in _POSITIVE:
        yield row(name, "f64[3,4] pos")
        yield row(name, "f32[5] pos")
    yield row("j0", "f64[] pos")
    yield row("j0", "f64[0,3] pos")
    yield row("gammasgn", "f64[12] wide", smooth=False)
    for name in _PLAIN:
        yield row(name, "f64[12]", smooth=name != "rgamma")
    for name in _INNER:
        yield row(name, "f64[3,4] inner")
    for name in _SPECIAL:
        yield row(name, "f64[17] special", smooth=False, batch=False)
    for name in _ORDERS:
        yield row(name, "f64[3,4] pos", "f64[3,4] pos")
    yield row("binom", "f64[6] above", "f64[6] inner")
    for name in _DEGREES:
        yield row(name, "f64[12] ties", "f64[12] inner")
    for name in ("eval_chebyt", "eval_chebyu", "eval_laguerre", "eval_legendre"):
        yield row(f"{name}.whole", "f64[12] ties", "f64[12] inner")
    for form in ("", ".whole"):
        yield row(f"eval_genlaguerre{form}", "f64[12] ties", "f64[12] pos", "f64[12] inner")
        yield row(f"eval_gegenbauer{form}", "f64[12] ties", "f64[12] pos", "f64[12] inner")
        yield row(f"eval_jacobi{form}", "f64[12] ties", "f64[12] pos", "f64[12] pos", "f64[12] inner")
    for name in ("ellipkinc", "ellipeinc"):
        yield row(name, "f64[6] pos2", "f64[6] inner")
    for name in ("gammaincinv", "gammainccinv"):
        yield row(name, "f64[6] pos", "f64[6] inner")
    for name in ("betaincinv", "betainccinv"):
        yield row(name, "f64[6] pos", "f64[6] pos", "f64[6] inner")
    yield row("hyp0f1", "f64[6] pos", "f64[6] pos")
    yield row("hyp1f1", "f64[6] pos", "f64[6] pos", "f64[6]")
    yield row("hyp2f1", "f64[6] pos", "f64[6] pos", "f64[6] pos", "f64[6] inner")
    yield row("hyperu", "f64[6] pos", "f64[6] inner", "f64[6] above", rtol=1e-9)
