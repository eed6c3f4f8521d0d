"""MISS, apart from all that brings Numba's code generator: what native entries and fronts return."""

from __future__ import annotations


class _Miss:
    """The type of MISS."""

    def __repr__(self) -> str:
        return "MISS"


MISS = _Miss()
"""Returned, with nothing done, for arguments that something was not compiled for."""
