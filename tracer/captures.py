"""Captures: the guarded paths by which a traced function reached what it did not get as an argument.

A path starts at the called function object, so that fresh closures over the same code share one record. Each
thing reached is either an *input* (an array or a float: its current value is read at every call) or *guarded*
(everything else: a cached compilation may be used only while the guard holds). `Captures.compile` turns the
record into one straight Python function that checks all guards and returns the inputs.
"""

from __future__ import annotations

import keyword
import operator
import sys
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

WEAK = "weak"  # a Python float or complex: takes part in promotion by kind only
STRONG = "strong"  # an array or a NumPy scalar

# What reading a path can raise when the thing is no longer there; anything else is the user's own error.
GONE = (KeyError, AttributeError, IndexError, TypeError, ValueError)


class Path:
    """How to reach an object again from the function that is called: a parent path and one constant step.

    Paths are interned under their parent (`child` returns the same object for the same step), so a set of
    paths is a tree and the compiled reader reads each shared prefix once.
    """

    __slots__ = ("_children", "key", "kind", "label", "parent")

    def __init__(self, parent: Path | None, kind: str, key: object = None, label: str = "") -> None:
        self.parent = parent
        self.kind = kind
        self.key = key
        self.label = label
        self._children: dict[tuple[str, type, object], Path] = {}

    @staticmethod
    def root() -> Path:
        """The path of the called function itself."""
        return Path(None, "root")

    @staticmethod
    def module(name: str) -> Path:
        """The path of an imported module, for imports inside a function."""
        return Path(None, "module", name)

    @staticmethod
    def constant(value: object, label: str = "") -> Path:
        """The path of an object that the caller's own key holds by identity: a static argument, a class."""
        return Path(None, "constant", value, label or getattr(value, "__name__", "") or type(value).__name__)

    def child(self, kind: str, key: object = None, label: str = "") -> Path:
        """The path one step further: `kind` is one of the names in `_STEPS`."""
        step = (kind, type(key), key)
        found = self._children.get(step)
        if found is None:
            found = self._children[step] = Path(self, kind, key, label)
        return found

    def attr(self, name: str) -> Path:
        return self.child("attr", name)

    def item(self, key: object) -> Path:
        return self.child("item", key)

    def steps(self) -> tuple[tuple[str, object], ...]:
        """The steps from the root, each (kind, key)."""
        before = self.parent.steps() if self.parent is not None else ()
        return before if self.kind == "root" else (*before, (self.kind, self.key))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Path) and self.steps() == other.steps()

    def __hash__(self) -> int:
        return hash(tuple(kind for kind, _ in self.steps()))

    def __repr__(self) -> str:
        return f"<Path {source(self)}>"


class _Step(NamedTuple):
    read: Callable[[Any, Any], object]
    emit: str  # Python text with {v} for the parent's value and {k} for the key


_STEPS: dict[str, _Step] = {
    "global": _Step(lambda v, k: v.__globals__[k], "{v}.__globals__[{k}]"),
    "cell": _Step(lambda v, k: v.__closure__[k].cell_contents, "{v}.__closure__[{k}].cell_contents"),
    "default": _Step(lambda v, k: v.__defaults__[k], "{v}.__defaults__[{k}]"),
    "kwdefault": _Step(lambda v, k: v.__kwdefaults__[k], "{v}.__kwdefaults__[{k}]"),
    "attr": _Step(getattr, "getattr({v}, {k})"),
    "member": _Step(lambda v, k: v.__dict__[k], "{v}.__dict__[{k}]"),
    "item": _Step(lambda v, k: v[k], "{v}[{k}]"),
    # Subclasses may define __getitem__: these two look at the container itself.
    "dict item": _Step(dict.__getitem__, "dict.__getitem__({v}, {k})"),
    "list item": _Step(list.__getitem__, "list.__getitem__({v}, {k})"),
    "type": _Step(lambda v, _: type(v), "type({v})"),
    "base": _Step(lambda v, k: v.__bases__[k], "{v}.__bases__[{k}]"),
}


def read(fn: object, path: Path) -> object:
    """The object that `path` leads to from the function object `fn`; raises one of `GONE` if it is gone."""
    if path.parent is None:
        if path.kind == "root":
            return fn
        return sys.modules[str(path.key)] if path.kind == "module" else path.key
    return _STEPS[path.kind].read(read(fn, path.parent), path.key)


def source(path: Path) -> str:
    """How a person would name the thing: "global 'w'", "closure variable 'xi'", "model.layers[0].weight"."""
    if path.kind == "global":
        return f"global {path.key!r}"
    if path.kind == "cell":
        return f"closure variable {path.label or path.key!r}"
    if path.kind in ("default", "kwdefault"):
        return f"default of {path.label or path.key!r}"
    return _expression(path)


def _expression(path: Path) -> str:
    kind, key, parent = path.kind, path.key, path.parent
    if parent is None:
        return {"root": "the function", "module": str(key)}.get(kind, path.label)
    if kind == "global":
        return str(key)
    if kind in ("cell", "default", "kwdefault"):
        return path.label or str(key)
    if kind == "attr" and key == "__self__":
        return "self" if parent.kind == "root" else f"{_expression(parent)}.__self__"
    if kind in ("attr", "member"):
        owner = _expression(parent)
        return owner if key in ("__func__", "__dict__", "__wrapped__") else f"{owner}.{key}"
    if kind in ("item", "dict item", "list item"):
        if parent.kind == "attr" and parent.key == "__dict__" and parent.parent is not None:
            return f"{_expression(parent.parent)}.{key}"
        return f"{_expression(parent)}[{key!r}]"
    return f"type({_expression(parent)})" if kind == "type" else f"{_expression(parent)}.__bases__[{key}]"


def same(left: Any, right: Any) -> bool:
    """Equality of static values including their types: 1, 1.0 and True differ."""
    kind = type(left)
    if kind is not type(right):
        return False
    if kind is tuple or kind is list:
        return len(left) == len(right) and all(map(same, left, right))
    if kind is dict:
        return same(list(left.items()), list(right.items()))
    if kind is set or kind is frozenset:  # their order is part of what a program sees
        return same(list(left), list(right))
    return left is right or bool(left == right)


def defaults_shape(fn: Any) -> tuple[int, tuple[str, ...]]:
    """How many positional defaults a function has and which keyword-only ones."""
    return len(fn.__defaults__ or ()), tuple(fn.__kwdefaults__ or ())


def _same_defaults(now: tuple[Any, ...], then: tuple[Any, ...]) -> bool:
    # A function that had no defaults was given all arguments: defaults that it gets later change nothing.
    return all(not old or new == old for new, old in zip(now, then))


class Guard(NamedTuple):
    """One condition on the thing at a path.

    kind      holds while
    is        it is the same object as `value`
    value     it has the type of `value` and equals it
    type      its type is `value`
    len       its length is `value`
    keys      its keys are `value`, in that order
    code      it is a function of code object `value[0]`, with defaults of the shape `value[1:]` if it had any
    absent    its module has no global named `value` (a builtin was reached)
    no attr   its instance dictionary has no `value` (a class attribute was reached)
    alias     it is the same object as the one at the path `value`
    distinct  no two of the objects at the paths in `value` are the same
    globals   its globals are those of the function at the path `value`
    """

    kind: str
    value: Any


_HOLDS: dict[str, Callable[[Any, Any, object], bool]] = {
    "is": lambda v, k, fn: v is k,
    "value": lambda v, k, fn: same(v, k),
    "type": lambda v, k, fn: type(v) is k,
    "len": lambda v, k, fn: len(v) == k,
    "keys": lambda v, k, fn: same(tuple(v), k),
    "code": lambda v, k, fn: v.__code__ is k[0] and _same_defaults(defaults_shape(v), k[1:]),
    "absent": lambda v, k, fn: k not in v.__globals__,
    "no attr": lambda v, k, fn: k not in v.__dict__,
    "alias": lambda v, k, fn: v is read(fn, k),
    "distinct": lambda v, k, fn: len({id(read(fn, path)) for path in k}) == len(k),
    "globals": lambda v, k, fn: v.__globals__ is read(fn, k).__globals__,  # type: ignore[attr-defined]
}


class Input(NamedTuple):
    """A captured array or number: where it is read, its kind (`WEAK` or `STRONG`) and its Python type."""

    path: Path
    kind: str
    type: type


class Captures:
    """What one trace reached, in the order in which it was reached (an owner before its attributes)."""

    def __init__(self) -> None:
        self.entries: list[tuple[Path, Guard | Input]] = []
        self._seen: set[tuple[int, str, object]] = set()

    @property
    def inputs(self) -> list[Input]:
        """The captured arrays and numbers, in the order of `read_inputs`."""
        return [entry for _, entry in self.entries if isinstance(entry, Input)]

    @property
    def guards(self) -> list[tuple[Path, Guard]]:
        """The conditions, each with the path of the thing that it is about."""
        return [(path, entry) for path, entry in self.entries if isinstance(entry, Guard)]

    def add_input(self, path: Path, kind: str, value: object) -> None:
        self.entries.append((path, Input(path, kind, type(value))))

    def guard(self, path: Path, kind: str, value: object = None) -> None:
        """Record a condition once."""
        mark = (id(path), kind, value if kind in ("absent", "no attr", "distinct") else id(value))
        if mark not in self._seen:
            self._seen.add(mark)
            self.entries.append((path, Guard(kind, value)))

    def failure(self, fn: object) -> str | None:
        """The first condition that does not hold for the function object `fn`, in words; None if all hold."""
        for path, entry in self.entries:
            try:
                value = read(fn, path)
                if isinstance(entry, Input):
                    holds = type(value) is entry.type
                else:
                    holds = _HOLDS[entry.kind](value, entry.value, fn)
            except GONE:
                return f"{source(path)} is no longer there"
            if not holds:
                what = "type" if isinstance(entry, Input) else entry.kind
                values = ""
                if isinstance(entry, Guard) and entry.kind == "value":
                    values = f": it was {entry.value!r:.60} and is {value!r:.60}"
                return f"{source(path)} has changed ({what}){values}"
        return None

    def check(self, fn: object) -> bool:
        """Whether every static thing reached from `fn` is still what it was."""
        return self.failure(fn) is None

    def read_inputs(self, fn: object) -> list[object]:
        """The current captured arrays and numbers."""
        return [read(fn, entry.path) for entry in self.inputs]

    def compile(self) -> Callable[[object], tuple[Any, ...] | None]:
        """A generated function of the called function object: None if a guard fails, else the inputs."""
        emitter = _Emitter()
        results = []
        for path, entry in self.entries:
            value = emitter.value(path)
            if isinstance(entry, Input):
                emitter.require(f"type({value}) is {emitter.constant(entry.type)}")
                results.append(value)
            else:
                emitter.require(_condition(emitter, value, entry))
        return emitter.function(results, none_if_gone=True)


def compile_reader(paths: Iterable[Path]) -> Callable[[object], tuple[Any, ...]]:
    """A generated function of the called function object that returns the objects at `paths`, without guards.

    It raises one of `GONE` where an object is no longer there.
    """
    emitter = _Emitter()
    return emitter.function([emitter.value(path) for path in paths], none_if_gone=False)


class _Emitter:
    """Writes the text of a reader: one local variable per path, prefixes first."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.names: dict[int, str] = {}
        self.namespace: dict[str, object] = {"same": same, "is_": operator.is_, "modules": sys.modules}

    def constant(self, value: object) -> str:
        if value is None or type(value) in (int, str, bool, bytes):
            return repr(value)
        name = f"k{len(self.namespace)}"
        self.namespace[name] = value
        return name

    def value(self, path: Path) -> str:
        """The name of the local variable that holds the object at `path`."""
        name = self.names.get(id(path))
        if name is not None:
            return name
        if path.parent is None:
            if path.kind == "root":
                text = "fn"
            else:
                text = f"modules[{path.key!r}]" if path.kind == "module" else self.constant(path.key)
        else:
            text = self._step(self.value(path.parent), path)
        name = self.names[id(path)] = f"v{len(self.names)}"
        self.lines.append(f"{name} = {text}")
        return name

    def globals_of(self, path: Path) -> str:
        """The name of the local variable that holds the globals of the function at `path`."""
        name = self.names.get(-id(path))
        if name is None:
            owner = self.value(path)
            name = self.names[-id(path)] = f"v{len(self.names)}"
            self.lines.append(f"{name} = {owner}.__globals__")
        return name

    def _step(self, owner: str, path: Path) -> str:
        key = path.key
        if path.kind == "global" and path.parent is not None:
            return f"{self.globals_of(path.parent)}[{self.constant(key)}]"
        if path.kind == "attr" and isinstance(key, str) and key.isidentifier() and not keyword.iskeyword(key):
            return f"{owner}.{key}"
        return _STEPS[path.kind].emit.format(v=owner, k=self.constant(key))

    def require(self, condition: str) -> None:
        self.lines.append(f"if not ({condition}): return None")

    def function(self, results: list[str], none_if_gone: bool) -> Callable[[object], Any]:
        body = [*self.lines, f"return ({', '.join(results)}{',' if results else ''})"]
        if none_if_gone:
            # KeyError and so on mean that something reached before is gone: a failed guard.
            body = ["try:", *(f"    {line}" for line in body), "except gone:", "    return None"]
            self.namespace["gone"] = GONE
        text = "def read_captures(fn):\n" + "".join(f"    {line}\n" for line in body)
        exec(compile(text, "<nufunc captures>", "exec"), self.namespace)
        return self.namespace["read_captures"]  # type: ignore[return-value]


def _simple(emitter: _Emitter, value: str, expected: object) -> str | None:
    """The text of `same` for a dict of names and bools or None, as a module's registers are, and for a tuple or list of
    names; None for others. `same` would take most of a call of a compiled model."""
    kind = type(expected)
    if isinstance(expected, dict) and kind is dict and all(type(key) is str for key in expected):
        values = list(expected.values())
        if not values:
            return f"type({value}) is dict and not {value}"
        if all(v is None or type(v) is bool for v in values):
            keys, found = emitter.constant(list(expected)), emitter.constant(values)
            return f"type({value}) is dict and [*{value}] == {keys} and all(map(is_, {value}.values(), {found}))"
    if isinstance(expected, tuple | list) and kind in (tuple, list) and all(type(item) is str for item in expected):
        return f"type({value}) is {kind.__name__} and {value} == {emitter.constant(expected)}"
    return None


def _condition(emitter: _Emitter, value: str, guard: Guard) -> str:
    """The Python text of a guard on the local variable `value`."""
    kind, expected = guard
    if kind == "is" or (kind == "value" and (expected is None or isinstance(expected, bool))):
        return f"{value} is {emitter.constant(expected)}"
    if kind == "value" and type(expected) in (int, str, bytes):
        return f"type({value}) is {type(expected).__name__} and {value} == {emitter.constant(expected)}"
    if kind == "value":
        return _simple(emitter, value, expected) or f"same({value}, {emitter.constant(expected)})"
    if kind == "type":
        return f"type({value}) is {emitter.constant(expected)}"
    if kind == "len":
        return f"len({value}) == {expected}"
    if kind == "keys":
        if all(type(key) is str for key in expected):  # which equals nothing else
            return f"[*{value}] == {emitter.constant(list(expected))}"
        return f"same(tuple({value}), {emitter.constant(expected)})"
    if kind == "code":
        code, count, names = expected
        conditions = [f"{value}.__code__ is {emitter.constant(code)}"]
        if count:
            conditions.append(f"len({value}.__defaults__ or ()) == {count}")
        if names:
            conditions.append(f"tuple({value}.__kwdefaults__ or ()) == {names!r}")
        return " and ".join(conditions)
    if kind == "absent":
        return f"{emitter.constant(expected)} not in {value}.__globals__"
    if kind == "no attr":
        return f"{emitter.constant(expected)} not in {value}.__dict__"
    if kind == "distinct":
        return f"len({{{', '.join(f'id({emitter.value(path)})' for path in expected)}}}) == {len(expected)}"
    if kind == "alias":
        return f"{value} is {emitter.value(expected)}"
    return f"{value}.__globals__ is {emitter.globals_of(expected)}"
