"""NumPy's rules about dtypes, promotion, casting and limits, with bfloat16 among them.

bfloat16 takes the place of float16 in the rules: it meets Python numbers, bools and whole numbers of 8 bits as
bfloat16, float16 and whole numbers of 16 bits as float32, longer ones as float64. NumPy knows no rule for a foreign
dtype and a Python number; as float16 does, bfloat16 stays what it is, where NumPy with ml_dtypes computes in float32 or
float64.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from nufunc.ir.types import FLOAT16, FLOAT32, bfloat16, is_bfloat16, is_half

_SCALAR = ("ml_dtypes", "bfloat16")


def _is_bfloat16(given: Any) -> bool:
    return isinstance(given, np.dtype) and is_bfloat16(given)


def _dtype(given: Any) -> Any:
    """The types of numbers that need a rule here, as their dtypes."""
    ours = isinstance(given, type) and (given is np.float16 or (given.__module__, given.__name__) == _SCALAR)
    return np.dtype(given) if ours else given


def _meet(given: Sequence[Any]) -> tuple[list[Any], Callable[[Any], Any]]:
    """The given without bfloat16, and what to make of the dtypes that NumPy answers."""
    given = [_dtype(g) for g in given]
    if not any(map(_is_bfloat16, given)):
        return given, lambda found: found
    both = any(isinstance(g, np.dtype) and g == FLOAT16 for g in given)
    met = FLOAT32 if both else bfloat16()
    return [FLOAT16 if _is_bfloat16(g) else g for g in given], lambda found: met if found == FLOAT16 else found


def result_type(*given: Any) -> np.dtype:
    """numpy.result_type of dtypes and Python's number types, or numbers."""
    asked, answered = _meet(given)
    return answered(np.result_type(*asked))


def promote_types(first: Any, second: Any) -> np.dtype:
    """numpy.promote_types."""
    return result_type(np.dtype(first), np.dtype(second))


def can_cast(source: Any, target: Any, casting: Any = "safe") -> bool:
    """numpy.can_cast of dtypes; the two dtypes of 16 bits hold different numbers of one kind."""
    source, target = _dtype(source), _dtype(target)
    if _is_bfloat16(source) != _is_bfloat16(target):
        other = source if _is_bfloat16(target) else target
        if isinstance(other, np.dtype) and other == FLOAT16:
            return casting in ("same_kind", "unsafe")
    return np.can_cast(_meet([source])[0][0], _meet([target])[0][0], casting)


def resolve_dtypes(ufunc: np.ufunc, given: Sequence[Any], **options: Any) -> tuple[np.dtype, ...]:
    """`ufunc.resolve_dtypes(given, **options)`; the dtypes of a signature decide where there are any."""
    wanted = [_dtype(s) for s in options.get("signature") or ()]
    asked, answered = _meet(given)
    if answered(FLOAT16) == FLOAT32:  # float16 and bfloat16 together
        asked = [FLOAT32 if isinstance(a, np.dtype) and a == FLOAT16 else a for a in asked]
    if any(isinstance(w, np.dtype) and is_half(w) for w in wanted):
        wanted, answered = _meet(wanted)
        options = {**options, "signature": tuple(wanted)}
    return tuple(map(answered, ufunc.resolve_dtypes(tuple(asked), **options)))


def issubdtype(first: Any, second: Any) -> bool:
    """numpy.issubdtype; bfloat16 is a np.floating as float16 is one."""
    first, second = _dtype(first), _dtype(second)
    if _is_bfloat16(second):
        return _is_bfloat16(first)
    return np.issubdtype(np.floating if _is_bfloat16(first) else first, second)


def isdtype(dtype: Any, kind: Any) -> bool:
    """numpy.isdtype, of bfloat16 too."""
    kinds = kind if isinstance(kind, tuple) else (kind,)
    if not any(map(_is_bfloat16, map(_dtype, (dtype, *kinds)))):
        return np.isdtype(dtype, kind)
    if not _is_bfloat16(_dtype(dtype)):
        kinds = tuple(k for k in kinds if not _is_bfloat16(_dtype(k)))
        return bool(kinds) and np.isdtype(dtype, kinds)
    return any(k in ("real floating", "numeric") or _is_bfloat16(_dtype(k)) for k in kinds)


def finfo(dtype: Any) -> Any:
    """numpy.finfo of a dtype, or of something that has one."""
    found = getattr(dtype, "dtype", dtype)
    found = _dtype(found if isinstance(found, np.dtype) else dtype)
    if not _is_bfloat16(found):
        return np.finfo(found)
    import ml_dtypes

    return ml_dtypes.finfo(found)
