"""The intermediate representation: types, graphs, primitives, builder, text, verifier and NumPy interpreter."""

from nufunc.ir import prims  # registers every primitive
from nufunc.ir.builder import Builder
from nufunc.ir.errors import Location, NufuncError
from nufunc.ir.graph import Graph, Node, Value
from nufunc.ir.types import ArrayType, type_of

__all__ = ["ArrayType", "Builder", "Graph", "Location", "Node", "NufuncError", "Value", "prims", "type_of"]
