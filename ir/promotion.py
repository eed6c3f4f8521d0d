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


def _is_bfloat16(given: Any) -> bool:
    return isinstance(given, np.dtype) and is_bfloat16(given)


def _dtype(given: Any) -> Any:
    """A NumPy type as its dtype."""
    return np.dtype(given) if isinstance(given, type) and issubclass(given, np.generic) else given


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


def finfo(dtype: Any) -> Any:
    """numpy.finfo of a dtype, or of something that has one."""
    found = getattr(dtype, "dtype", dtype)
    found = _dtype(found if isinstance(found, np.dtype) else dtype)
    if not _is_bfloat16(found):
        return np.finfo(found)
    import ml_dtypes

    return ml_dtypes.finfo(found)
