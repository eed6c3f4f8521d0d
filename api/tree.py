"""Pytrees: flatten, unflatten, map, leaves, structure, ravel, register."""

from nufunc.raveling import ravel
from nufunc.tracer.tree import flatten, leaves, map, register, structure, unflatten

__all__ = ["flatten", "leaves", "map", "ravel", "register", "structure", "unflatten"]
