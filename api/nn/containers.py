"""Modules that hold other modules: Sequential, ModuleList, ModuleDict."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar

from nufunc.ir.errors import ArgumentTypeError
from nufunc.nn.module import Module
from nufunc.tracer.usercode import user_location

__nufunc_traceable__ = True

N = TypeVar("N", bound="_Numbered")


class _Numbered(Module):
    """Modules in order, by number and by slice."""

    def _part(self, names: list[str]) -> Any:
        """The same container with the children of these names."""
        raise NotImplementedError

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[Any]:
        return iter([getattr(self, name) for name in self._modules])

    def __getitem__(self, index: int | slice) -> Any:
        names = list(self._modules)
        return self._part(names[index]) if isinstance(index, slice) else getattr(self, names[index])

    def __setitem__(self, index: int, module: Module) -> None:
        self.add_module(list(self._modules)[index], module)

    def append(self: N, module: Module) -> N:
        """Add a module at the end."""
        self.add_module(str(len(self)), module)
        return self


class Sequential(_Numbered):
    """Modules called one after the other; made of modules, or of one dict of named modules.

    >>> import numpy as np, nufunc as nf
    >>> nf.nn.Sequential(nf.nn.Linear(3, 8), nf.nn.Tanh(), nf.nn.Linear(8, 1))(np.ones(3)).shape
    (1,)
    """

    def __init__(self, *modules: Any) -> None:
        super().__init__()
        named = modules[0].items() if len(modules) == 1 and isinstance(modules[0], Mapping) else enumerate(modules)
        for name, module in named:
            self.add_module(str(name), module)

    def forward(self, x: Any) -> Any:
        for name in self._modules:
            x = getattr(self, name)(x)
        return x

    def _part(self, names: list[str]) -> Sequential:
        return type(self)({name: getattr(self, name) for name in names})


class ModuleList(_Numbered):
    """A list of modules, which are children by their numbers."""

    def __init__(self, modules: Iterable[Module] = ()) -> None:
        super().__init__()
        self.extend(modules)

    def extend(self, modules: Iterable[Module]) -> ModuleList:
        """Add modules at the end."""
        for module in modules:
            self.append(module)
        return self

    def _part(self, names: list[str]) -> ModuleList:
        return ModuleList([getattr(self, name) for name in names])

    def __repr__(self) -> str:
        return _grouped(self)


class ModuleDict(Module):
    """A dict of modules, which are children by their keys."""

    def __init__(self, modules: Mapping[str, Module] | None = None) -> None:
        super().__init__()
        for name, module in (modules or {}).items():
            self[name] = module

    def __getitem__(self, key: str) -> Any:
        if key not in self._modules:
            raise KeyError(key)
        return getattr(self, key)

    def __setitem__(self, key: str, module: Module) -> None:
        if not isinstance(key, str):
            raise ArgumentTypeError(f"ModuleDict: keys are strings, got {type(key).__name__}", user_location())
        self.add_module(key, module)

    def __contains__(self, key: object) -> bool:
        return key in self._modules

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._modules))

    def keys(self) -> list[str]:
        """The keys."""
        return list(self._modules)

    def values(self) -> list[Any]:
        """The modules."""
        return [getattr(self, name) for name in self._modules]

    def items(self) -> list[tuple[str, Any]]:
        """(key, module) pairs."""
        return list(zip(self.keys(), self.values(), strict=True))


def _grouped(modules: ModuleList) -> str:
    """The list with runs of equal texts in one line, as torch writes it."""
    lines: list[str] = []
    texts = [repr(m) for m in modules]
    start = 0
    while start < len(texts):
        end = start
        while end + 1 < len(texts) and texts[end + 1] == texts[start]:
            end += 1
        label = f"({start})" if start == end else f"({start}-{end})"
        count = "" if start == end else f"{end - start + 1} x "
        lines += f"{label}: {count}{texts[start]}".split("\n")
        start = end + 1
    inner = "\n".join(f"  {line}" for line in lines)
    return f"ModuleList(\n{inner}\n)" if lines else "ModuleList()"
