"""PlainEntry: a grouped graph run as readable Python loops instead of machine code (NUFUNC_NOJIT=1), for debugging."""

from __future__ import annotations

from typing import Any

import numpy as np

from nufunc.codegen.callspec import CallSpec
from nufunc.codegen.emit_text import run_grouped
from nufunc.ir.graph import Graph


class PlainEntry:
    """Has the methods of a native entry that calls need; every call takes the long way."""

    def __init__(self, grouped: Graph, spec: CallSpec) -> None:
        self.grouped, self.spec = grouped, spec

    def fast(self, *args: Any) -> Any:
        return NotImplemented

    into = fast

    def slow(self, *args: Any) -> list[Any]:
        """The results for these inputs, in any memory layout."""
        arrays = [np.array(a, p.dtype, order="C") for a, p in zip(args, self.grouped.params, strict=True)]
        out = run_grouped(self.grouped, arrays)
        return [o[()] if r.scalar else np.array(o) for o, r in zip(out, self.spec.results, strict=True)]
