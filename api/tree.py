"""Pytrees: flatten, unflatten, map, leaves, structure, register."""

from nufunc.tracer.tree import flatten, leaves, map, register, structure, unflatten

__all__ = ["flatten", "leaves", "map", "register", "structure", "unflatten"]
