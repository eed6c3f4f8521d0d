"""Layers, losses and models as modules of NumPy arrays, with torch's names, shapes and defaults."""

from nufunc.nn import init
from nufunc.nn.containers import ModuleDict, ModuleList, Sequential
from nufunc.nn.linear import Bilinear, Identity, Linear
from nufunc.nn.module import Module, Parameter

__all__ = [
    "Bilinear",
    "Identity",
    "Linear",
    "Module",
    "ModuleDict",
    "ModuleList",
    "Parameter",
    "Sequential",
    "init",
]
