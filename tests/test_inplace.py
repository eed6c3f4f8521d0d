"""In-place NumPy: every row of `inplace_samples` in NumPy and under every transform.

By default each row runs in jit or in one of the other ways, in turn; `-m slow` runs every row in every way.
"""

import numpy as np
import pytest
from inplace_samples import NOT_SMOOTH, ROWS
from inplace_ways import WAYS, check

NAMES = list(ROWS)
DERIVATIVES = ("grad", "jvp")
ORDER = ("jit", "vmap", "grad", "functionalize", "jit", "jvp", "fori_loop", "scan", "cond")


def smooth(name: str, way: str) -> bool:
    return name not in NOT_SMOOTH or way not in DERIVATIVES


@pytest.mark.parametrize("name", NAMES)
def test_row(name: str) -> None:
    way = ORDER[NAMES.index(name) % len(ORDER)]
    check(name, way if smooth(name, way) else "jit")


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_every_row(way: str) -> None:
    failed = {}
    for name in NAMES:
        if smooth(name, way):
            try:
                check(name, way)
            except Exception as error:  # noqa: BLE001  (all rows are to be seen)
                failed[name] = f"{type(error).__name__}: {error}"
    assert not failed, "\n".join(f"{name}: {what}" for name, what in failed.items())


def test_rows_write_in_place() -> None:
    """Almost all rows change an argument or a buffer, and run in NumPy."""
    from inplace_samples import arguments
    from inplace_ways import eager

    changed = 0
    for f in ROWS.values():
        given = arguments(0)
        _, final = eager(f, given)
        changed += any(not np.array_equal(a, b) for a, b in zip(given, final, strict=True))
    assert changed > 0.9 * len(ROWS)
