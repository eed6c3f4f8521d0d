"""The short way of a call: a generated Python function that picks the leaves and calls the native entry."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from nufunc.runtime.executable import Executable
from nufunc.runtime.residuals import GraphFunction
from nufunc.runtime.signatures import Input, Static
from nufunc.runtime.subgraph import Slot
from nufunc.tracer import tree

Front = Callable[[Any, tuple[Any, ...]], Any]


class _Writer:
    """Collects the lines of one generated function."""

    def __init__(self, signatures: list[Input | Static], miss: Any) -> None:
        self.signatures = iter(signatures)
        self.lines: list[str] = []
        self.names: dict[str, Any] = {"MISS": miss}
        self.leaves: list[str] = []

    def constant(self, value: Any) -> str:
        name = f"c{len(self.names)}"
        self.names[name] = value
        return name

    def require(self, condition: str) -> None:
        self.lines.append(f"if not ({condition}): return MISS")

    def pick(self, value: Any, expression: str) -> bool:
        """Lines that check the structure of `value` under `expression` and pick its leaves; False if that is too
        much.
        """
        kind = type(value)
        if value is None:
            self.require(f"{expression} is None")
            return True
        if kind in (dict, list, tuple):
            return self._container(value, expression, kind)
        if hasattr(kind, "_fields") and isinstance(value, tuple):
            self.require(f"type({expression}) is {self.constant(kind)}")
            return all(self.pick(item, self._local(f"{expression}[{i}]")) for i, item in enumerate(value))
        if dataclasses.is_dataclass(kind) and kind is not GraphFunction:
            self.require(f"type({expression}) is {self.constant(kind)}")
            names = [f.name for f in dataclasses.fields(kind)]
            if hasattr(value, "__dict__"):  # what is no field may hide an attribute of the class
                self.require(f"len({expression}.__dict__) == {len(value.__dict__)}")
            return all(self.pick(getattr(value, n), self._local(f"{expression}.{n}")) for n in names)
        if not tree.structure(value).is_leaf():
            return False
        sig = next(self.signatures)
        if isinstance(sig, Input):
            self.leaves.append(expression)
        elif kind in (int, bool, str):
            self.require(f"type({expression}) is {kind.__name__} and {expression} == {self.constant(value)}")
        else:
            self.require(f"{expression} is {self.constant(value)}")
        return True

    def _container(self, value: Any, expression: str, kind: type) -> bool:
        self.require(f"type({expression}) is {kind.__name__} and len({expression}) == {len(value)}")
        if kind is dict:
            if not all(type(k) in (str, int) for k in value):
                return False
            keys = sorted(value) if len({type(k) for k in value}) == 1 else list(value)
            return all(self.pick(value[k], self._local(f"{expression}[{k!r}]")) for k in keys)
        return all(self.pick(item, self._local(f"{expression}[{i}]")) for i, item in enumerate(value))

    def _local(self, expression: str) -> str:
        name = f"v{len(self.lines)}"
        self.lines.append(f"{name} = {expression}")
        return name


def make_front(
    executable: Executable,
    held: int,
    args: tuple[Any, ...],
    signatures: list[Input | Static],
    miss: Any,
) -> Front | None:
    """A function of the called function and the argument tuple: the result, or `miss` where anything differs from
    these arguments.

    `held` is how many leaves the function itself brings (residuals); they come before those of the arguments. None
    where the arguments' trees hold nodes that only the general way can take apart.
    """
    writer = _Writer(signatures[held:], miss)
    writer.leaves += [f"fn.residuals[{i}]" for i in range(held)]
    names = [f"a{i}" for i in range(len(args))]
    for name, arg in zip(names, args, strict=True):
        if not writer.pick(arg, name):
            return None
    picked = [f"    {line}" for line in writer.lines]
    unpack = f"        {', '.join(names)}{',' if len(names) == 1 else ''} = args" if names else "        pass"
    leaves = list(writer.leaves)
    if executable.anchors or len(executable.inputs) > len(executable.positions):
        picked += [f"    k = {writer.constant(executable.read)}(fn)", "    if k is None: return MISS"]
        if len(executable.inputs) > len(executable.positions):
            leaves.append("*k")
    call = f"{writer.constant(executable.entry.fast)}({', '.join(leaves)})"
    text = "\n".join(
        [
            "def front(fn, args):",
            f"    if len(args) != {len(names)}: return MISS",
            "    try:",
            unpack,
            *[f"    {line}" for line in picked],
            "    except (KeyError, AttributeError, IndexError, TypeError): return MISS",
            f"    r = {call}",
            *_result_lines(executable, writer),
        ]
    )
    scope: dict[str, Any] = dict(writer.names)
    exec(compile(text, "<nufunc front>", "exec"), scope)
    front: Front = scope["front"]
    return front


def _result_lines(executable: Executable, writer: _Writer) -> list[str]:
    """Turn what the entry returned into the function's result tree."""
    count = len(executable.graph.outputs)
    slots = [x for x in executable.leaves if isinstance(x, Slot)]
    if executable.structure.is_leaf() and slots:
        return ["    return r"]
    lines = ["    if r is MISS: return MISS"]
    if count == 1:
        lines.append("    r = (r,)")
    plain = _expression(executable, writer)
    if plain is None:
        plain = f"{writer.constant(executable.unflatten)}(r)"
    return [*lines, f"    return {plain}"]


def _expression(executable: Executable, writer: _Writer) -> str | None:
    """A display that builds the result tree from `r`, if it consists of tuples, lists and dicts."""
    items = iter([f"r[{x.index}]" if isinstance(x, Slot) else writer.constant(x) for x in executable.leaves])

    def build(node: Any) -> str:
        if node is _LEAF:
            return next(items)
        if node is None:
            return "None"
        if type(node) is dict:
            # leaves come by sorted key, whatever the order of the display
            texts = {k: build(node[k]) for k in sorted(node)}
            return "{" + ", ".join(f"{k!r}: {texts[k]}" for k in node) + "}"
        inner = ", ".join(build(child) for child in node)
        return f"[{inner}]" if type(node) is list else f"({inner}{',' if len(node) == 1 else ''})"

    skeleton = tree.unflatten(executable.structure, [_LEAF] * len(executable.leaves))
    return build(skeleton) if _is_plain(skeleton) else None


class _Leaf:
    """Stands for a leaf in a skeleton."""


_LEAF = _Leaf()


def _is_plain(node: Any) -> bool:
    if node is _LEAF or node is None:
        return True
    if type(node) is dict:
        return all(type(k) is str for k in node) and all(map(_is_plain, node.values()))
    return type(node) in (list, tuple) and all(map(_is_plain, node))
