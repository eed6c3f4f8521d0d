"""PlainEntry: a grouped graph run as readable Python loops instead of machine code (NUFUNC_NOJIT=1), for debugging."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from nufunc.codegen.emit_text import run_grouped
from nufunc.codegen.wrapper import MISS
from nufunc.ir.graph import Graph


class PlainEntry:
    """Has the methods of a native entry that calls need; every call takes the long way."""

    def __init__(self, grouped: Graph, scalars: Sequence[bool]) -> None:
        self.grouped = grouped
        self.scalars = scalars

    def fast(self, *args: Any) -> Any:
        return MISS

    def slow(self, *args: Any) -> list[Any]:
        """The results for these inputs, in any memory layout."""
        arrays = [np.array(a, p.dtype, order="C") for a, p in zip(args, self.grouped.params, strict=True)]
        out = run_grouped(self.grouped, arrays)
        return [o[()] if scalar and o.shape == () else np.array(o) for o, scalar in zip(out, self.scalars, strict=True)]
