"""The short way of a call: a generated Python function that picks the leaves and calls the native entry."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import optree

from nufunc.runtime.executable import Executable
from nufunc.runtime.outs import matching_outs
from nufunc.runtime.signatures import Input, Static
from nufunc.runtime.subgraph import Slot
from nufunc.tracer import tree
from nufunc.tracer.np_random import is_generator

Front = Callable[[Any, tuple[Any, ...], dict[str, Any]], Any]


class _Unpicked(Exception):
    """A tree that only the general way can take apart."""


class _Writer:
    """Collects the lines of one generated function."""

    def __init__(self, signatures: Sequence[Input | Static | None]) -> None:
        self.signatures = iter(signatures)  # None: a leaf of `out`, an array that the native entry checks
        self.lines: list[str] = []
        self.names: dict[str, Any] = {}
        self.leaves: list[str] = []
        self.generators: list[str] = []

    def constant(self, value: Any) -> str:
        name = f"c{len(self.names)}"
        self.names[name] = value
        return name

    def require(self, condition: str) -> None:
        self.lines.append(f"if not ({condition}): return NotImplemented")

    def local(self, expression: str) -> str:
        name = f"v{len(self.lines)}"
        self.lines.append(f"{name} = {expression}")
        return name

    def pick(self, value: Any, name: str) -> None:
        """Lines that check the structure of `value`, which the variable `name` holds, and pick its leaves."""
        kind = type(value)
        if value is None:
            self.require(f"{name} is None")
        elif kind is dict:
            self._dict(value, name)
        elif kind in (list, tuple):
            self.require(f"type({name}) is {kind.__name__} and len({name}) == {len(value)}")
            self._items(value, name)
        elif optree.is_namedtuple_class(kind):
            self.require(f"type({name}) is {self.constant(kind)}")
            self._items(value, name)
        elif dataclasses.is_dataclass(kind) and _by_fields(kind):
            self._dataclass(value, name)
        elif tree.structure(value).is_leaf():
            self._leaf(value, name)
        else:
            self._registered(value, name)

    def _items(self, items: Sequence[Any], name: str) -> None:
        for i, item in enumerate(items):
            self.pick(item, self.local(f"{name}[{i}]"))

    def _dict(self, value: dict[Any, Any], name: str) -> None:
        if not all(type(key) in (str, int) for key in value):
            raise _Unpicked
        self.require(f"type({name}) is dict and len({name}) == {len(value)}")
        keys = sorted(value) if len({type(key) for key in value}) == 1 else list(value)  # as optree orders them
        for key in keys:
            self.pick(value[key], self.local(f"{name}[{key!r}]"))

    def _dataclass(self, value: Any, name: str) -> None:
        self.require(f"type({name}) is {self.constant(type(value))}")
        if hasattr(value, "__dict__"):  # what is no field may hide an attribute of the class
            self.require(f"len({name}.__dict__) == {len(value.__dict__)}")
        for f in dataclasses.fields(value):
            self.pick(getattr(value, f.name), self.local(f"{name}.{f.name}"))

    def _registered(self, value: Any, name: str) -> None:
        """A node of a class that `nf.tree.register` knows, taken apart by the function registered for it."""
        handler = _handler(type(value))
        if handler is None or handler.namespace != tree.NAMESPACE:  # deques and the like
            raise _Unpicked
        children, aux, *_ = handler.flatten_func(value)
        items = tuple(children)
        self.require(f"type({name}) is {self.constant(type(value))}")
        parts = self.local(f"{self.constant(handler.flatten_func)}({name})")
        self.require(f"{parts}[1] == {self.constant(aux)}")
        inner = self.local(f"tuple({parts}[0])")
        self.require(f"len({inner}) == {len(items)}")
        self._items(items, inner)

    def _leaf(self, value: Any, name: str) -> None:
        sig = next(self.signatures)
        if sig is None or isinstance(sig, Input):
            self.leaves.append(name)
        elif is_generator(value):
            self.require(f"type({name}) is {self.constant(type(value))}")
            self.generators.append(name)
        elif type(value) in (int, bool, str):
            self.require(f"type({name}) is {type(value).__name__} and {name} == {self.constant(value)}")
        else:
            self.require(f"{name} is {self.constant(value)}")


def _handler(kind: type) -> Any:
    """How optree takes objects of a class apart; None for leaves."""
    return optree.register_pytree_node.get(kind, namespace=tree.NAMESPACE)


def _by_fields(kind: type) -> bool:
    """Whether a dataclass is the tree of its fields, and not registered with functions of the user's own."""
    handler = _handler(kind)
    return handler is None or handler.flatten_func.__module__ == tree.__name__


def make_front(
    executable: Executable,
    held: int,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    signatures: Sequence[Input | Static],
    out: Any = None,
) -> Front | None:
    """A function of the called function, its arguments and keyword arguments (with `out` among these, if it is given):
    the result, or NotImplemented where anything differs from the arguments given here.

    `held` is how many leaves the function itself brings (residuals); they come before those of the arguments. None
    where the arguments' trees hold nodes that only the general way can take apart.
    """
    places = [None if isinstance(x, Slot) else Static(type(x), x) for x in executable.leaves]
    writer = _Writer([*signatures[held:], *(places if out is not None else ())])
    writer.leaves += [f"fn.residuals[{i}]" for i in range(held)]
    names = [f"a{i}" for i in range(len(args))]
    try:
        for name, arg in zip(names, args, strict=True):
            writer.pick(arg, name)
        for key in sorted(kwargs):
            writer.pick(kwargs[key], writer.local(f"kwargs[{key!r}]"))
        inputs, writer.leaves = writer.leaves, []
        if out is not None:
            writer.lines.append("out = kwargs['out']")
            writer.pick(out, "out")
    except _Unpicked:
        return None
    keywords = len(kwargs) + (out is not None)
    other = f"len(kwargs) != {keywords}" if keywords else "kwargs"
    lines = [f"if len(args) != {len(names)} or {other}: return NotImplemented"]
    lines += ["try:"] if names or writer.lines else []
    lines += [f"    {', '.join(names)}, = args"] if names else []
    lines += [f"    {line}" for line in writer.lines]
    if len(lines) > 1:
        lines.append("except (KeyError, AttributeError, IndexError, TypeError, ValueError): return NotImplemented")
    outs = writer.leaves if out is not None else None
    lines += call_lines(executable, writer.names, inputs, outs, writer.generators)
    return define("def front(fn, args, kwargs):", lines, writer.names)


def call_lines(
    executable: Executable,
    names: dict[str, Any],
    inputs: Sequence[str],
    outs: Sequence[str] | None,
    generators: Sequence[str] = (),
) -> list[str]:
    """Lines that read what the function `fn` captures, draw random numbers from its `generators`, call the entry and
    return the result, or `out`, or NotImplemented."""
    writer = _Writer(())
    writer.names = names
    lines, inputs = [], list(inputs)
    if executable.anchors or len(executable.inputs) > len(executable.positions):
        lines += [f"k = {writer.constant(executable.read)}(fn)", "if k is None: return NotImplemented"]
        if len(executable.inputs) > len(executable.positions):
            inputs.append("*k")
    if executable.draws is not None:  # only once nothing can miss any more: a draw cannot be taken back
        given = f"{writer.constant(executable.draws)}(fn, [{', '.join(generators)}])"
        lines += [
            f"values = [{', '.join(inputs)}]",
            f"if not {writer.constant(executable.fits)}(values): return NotImplemented",
            f"values += {given}",
        ]
        inputs = ["*values"]
    entry = executable.entry
    call = f"{writer.constant(entry.fast if outs is None else entry.into)}({', '.join([*inputs, *(outs or ())])})"
    missed = "NotImplemented"
    if executable.draws is not None:
        given = "None" if outs is None else "out"
        missed = f"{writer.constant(_finished)}({writer.constant(executable)}, values, {given})"
    if outs is not None:
        return [*lines, f"return {missed} if {call} is NotImplemented else out"]
    slots = [x for x in executable.leaves if isinstance(x, Slot)]
    if executable.structure.is_leaf() and slots and executable.draws is None:
        return [*lines, f"return {call}"]
    lines += [f"r = {call}", f"if r is NotImplemented: return {missed}"]
    if executable.num_results == 1:
        lines.append("r = (r,)")
    return [*lines, f"return {_display(executable, writer)}"]


def _finished(executable: Executable, values: Sequence[Any], out: Any) -> Any:
    """What a call returns for inputs that fit."""
    outs = () if out is None else matching_outs(executable, out)
    results = executable.run(values, outs)
    return executable.unflatten(results) if out is None else out


def define(head: str, lines: Sequence[str], names: Mapping[str, Any]) -> Any:
    """The function of this text."""
    scope = dict(names)
    text = "\n".join([head, *(f"    {line}" for line in lines)])
    exec(compile(text, "<nufunc front>", "exec"), scope)
    return scope[head.split("(")[0].removeprefix("def ")]


def _display(executable: Executable, writer: _Writer) -> str:
    """An expression that builds the result tree from `r`."""
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
        inner = "".join(f"{build(child)}, " for child in node)
        if type(node) is list:
            return f"[{inner}]"
        return f"({inner})" if type(node) is tuple else f"{writer.constant(type(node))}({inner})"

    skeleton = tree.unflatten(executable.structure, [_LEAF] * len(executable.leaves))
    return build(skeleton) if _is_plain(skeleton) else f"{writer.constant(executable.unflatten)}(r)"


class _Leaf:
    """Stands for a leaf in a skeleton."""


_LEAF = _Leaf()


def _is_plain(node: Any) -> bool:
    """Whether a tree consists of tuples, lists, namedtuples and dicts with names."""
    if node is _LEAF or node is None:
        return True
    if type(node) is dict:
        return all(type(k) is str for k in node) and all(map(_is_plain, node.values()))
    plain = type(node) in (list, tuple) or optree.is_namedtuple_class(type(node))
    return plain and all(map(_is_plain, node))
