"""Stand-ins of captured containers: copies of the same kind, items by path, mutators that raise."""

from __future__ import annotations

import collections
import functools
import types
from collections.abc import Callable
from types import FunctionType
from typing import TYPE_CHECKING, Any

from nufunc.ir.errors import MutationError, UnguardedCaptureError
from nufunc.tracer.captures import Path, source
from nufunc.tracer.usercode import user_location

if TYPE_CHECKING:
    from nufunc.tracer.view import Session

CONTAINERS = (list, tuple, dict, set, collections.deque, types.MappingProxyType)
ORIGINAL = "__nufunc_original__"

# The end of the message of every change that tracing would perform once.
LOST = (
    "inside a traced function: that would happen while tracing only, not at later calls; "
    "build the new value and return it instead"
)
_MISSING = object()
_NODES = (dict, list, collections.OrderedDict, collections.defaultdict, collections.deque)
_LEAVES = frozenset((int, bool, str, bytes, type(None)))


def original_type(cls: type) -> type:
    """The user's class of a rebuilt class, of a stand-in's class or of a captured container's class."""
    original: type = vars(cls).get(ORIGINAL, cls)
    return original


class Changeable:
    """Mixin of the stand-ins of containers that could be changed in place."""

    __slots__ = ()


_MUTATORS: dict[type, str] = {
    list: "append extend insert remove pop clear sort reverse __setitem__ __delitem__ __iadd__ __imul__",
    dict: "__setitem__ __delitem__ pop popitem clear update __ior__ move_to_end subtract",
    set: "add discard remove pop clear update __iand__ __ior__ __isub__ __ixor__ difference_update "
    "intersection_update symmetric_difference_update",
    collections.deque: "append appendleft extend extendleft insert remove pop popleft clear rotate reverse "
    "__setitem__ __delitem__ __iadd__ __imul__",
}


def stores_the_same(base: Any, container: Any, name: str, args: tuple[Any, ...]) -> bool:
    """Whether a change is the end of `container[key] += x`, which has written to the array that is the item."""
    if name != "__setitem__" or isinstance(args[0], slice):
        return False
    if issubclass(base, dict):
        return dict.get(container, args[0], _MISSING) is args[1]  # __getitem__ would ask __missing__
    try:
        return base.__getitem__(container, args[0]) is args[1]
    except (IndexError, TypeError):
        return False


def _refusal(base: type, kind: str, name: str) -> Callable[..., Any]:
    def refuse(self: Any, *args: Any, **kwargs: Any) -> Any:
        if stores_the_same(base, self, name, args):
            return None
        raise MutationError(
            f"a captured {kind} ({source(self._nufunc_path)}) is changed ({name}) {LOST}",
            user_location(),
        )

    refuse.__name__ = name
    return refuse


def _setdefault(self: Any, key: object, default: object = None) -> Any:
    return self[key] if key in self else self.__setitem__(key, default)


def _changeable(cls: type) -> type:
    return next(base for base in _MUTATORS if issubclass(cls, base))


def mutators(cls: type) -> list[str]:
    """The names of the methods of a container class that change the container."""
    return [name for name in _MUTATORS[_changeable(cls)].split() if hasattr(cls, name)]


def _refusals(cls: type) -> dict[str, Any]:
    base = _changeable(cls)
    namespace: dict[str, Any] = {name: _refusal(base, cls.__name__, name) for name in mutators(cls)}
    if issubclass(cls, dict):
        namespace["setdefault"] = _setdefault
    return namespace


# Methods of sets whose answer has an order.
_ORDERED = (
    "__iter__ __and__ __rand__ __or__ __ror__ __sub__ __rsub__ __xor__ __rxor__ "
    "copy union intersection difference symmetric_difference"
).split()


def _by_original(name: str) -> Callable[..., Any]:
    """A method of a captured set that asks the original: the order of a set is that of its insertions and removals,
    which a copy does not have. Items of sets are hashable, so none of them is an array.
    """

    def call(self: Any, *args: Any) -> Any:
        return getattr(self._nufunc_set, name)(*[getattr(a, "_nufunc_set", a) for a in args])

    call.__name__ = name
    return call


def _fill_set(new: Any, obj: set[Any], path: Path) -> None:
    """The items where C code looks for them, in the order of the original as far as insertions alone give it."""
    set.update(new, obj)
    if not _same_order(new, obj):
        set.clear(new)
        for item in obj:
            set.add(new, item)
    if hasattr(type(new), "_nufunc_set"):
        new._nufunc_set = obj
    elif not _same_order(new, obj):
        raise UnguardedCaptureError(
            f"{source(path)} is a {type(obj).__qualname__} whose items have an order that comes from removals or "
            "collisions: it cannot be kept while tracing; capture a tuple or a sorted list of them",
            user_location(),
        )


def _same_order(new: Any, obj: set[Any]) -> bool:
    return all(a is b for a, b in zip(set.__iter__(new), set.__iter__(obj), strict=True))


@functools.lru_cache(maxsize=256)
def _captured_class(cls: Any) -> type:
    """The subclass of a library container class whose mutators raise; copies of it are plain again."""

    def reduce(self: Any, protocol: object = None) -> tuple[Any, ...]:
        return cls, (list(self.items()) if isinstance(self, dict) else list(self),)

    slots = ("_nufunc_path", "_nufunc_set") if cls is set else ("_nufunc_path",)
    namespace = {"__slots__": slots, ORIGINAL: cls, "__reduce_ex__": reduce, **_refusals(cls)}
    if cls is set:
        namespace |= {name: _by_original(name) for name in _ORDERED} | {"__copy__": _by_original("copy")}
    return types.new_class(cls.__name__, (cls, Changeable), exec_body=lambda body: body.update(namespace))


def is_captured_node(obj: Any) -> bool:
    """Whether obj stands for a captured list, dict or deque of no user class: a node of trees."""
    return isinstance(obj, Changeable) and original_type(type(obj)) in _NODES


def plain(obj: Any) -> Any:
    """A captured list, dict or deque as a plain one of the same items; anything else itself."""
    if not is_captured_node(obj):
        return obj
    cls: Any = original_type(type(obj))
    if cls is collections.defaultdict:
        return cls(obj.default_factory, obj)
    return cls(obj, obj.maxlen) if cls is collections.deque else cls(obj)


def content(container: Any) -> list[Any]:
    """The items of a container stand-in as they are stored, to compare by identity."""
    if isinstance(container, dict):
        return [*dict.keys(container), *dict.values(container)]
    if isinstance(container, set):
        return sorted(set.__iter__(container), key=id)
    return list(list.__iter__(container) if isinstance(container, list) else iter(container))


def container(session: Session, obj: Any, path: Path, user: Callable[..., Any] | None) -> Any:
    """The stand-in of a captured list, tuple, dict, set or deque, guarded by structure, its items by path.

    user: makes the (empty) stand-in of an instance of a user class; None if the class is not the user's.
    """
    cls: Any = type(obj)
    if cls is tuple and all(type(item) in _LEAVES for item in obj):
        session.captures.guard(path, "value", obj)
        return obj
    if isinstance(obj, tuple):
        return _tuple(session, obj, path, user is not None)
    if cls is types.MappingProxyType:
        session.captures.guard(path, "type", cls)
        return types.MappingProxyType(dict(_dict_items(session, obj, path)))
    if user is not None:
        new = user(session, obj, path)
    else:
        captured: Any = _captured_class(cls)
        new = captured.__new__(captured)
        captured._nufunc_path.__set__(new, path)
        session.remember(obj, new, path)
    leaves = cls in (list, dict) and all(type(item) in _LEAVES for item in (obj.values() if cls is dict else obj))
    if leaves:
        session.captures.guard(path, "value", cls(obj))
    else:
        session.captures.guard(path, "type", cls)
        if isinstance(obj, set):  # its order is part of what a program sees
            session.captures.guard(path, "keys", tuple(set.__iter__(obj)))
    _fill(session, new, obj, path, leaves)
    return new


def _fill(session: Session, new: Any, obj: Any, path: Path, leaves: bool) -> None:
    if isinstance(obj, dict):
        if isinstance(obj, collections.defaultdict):
            new.__init__(obj.default_factory)
        items = dict.items(obj) if leaves else _dict_items(session, obj, path)
        base = collections.OrderedDict if isinstance(obj, collections.OrderedDict) else dict
        for key, item in items:
            base.__setitem__(new, key, item)
    elif isinstance(obj, set):
        _fill_set(new, obj, path)
    else:
        if not leaves:
            session.captures.guard(path, "len", len(obj))
        kind = "list item" if isinstance(obj, list) else "item"
        base_append: Any = list.append if isinstance(obj, list) else collections.deque.append
        for index, item in enumerate(list.__iter__(obj) if isinstance(obj, list) else iter(obj)):
            base_append(new, item if leaves else session.hand_out(item, path.child(kind, index)))


def _dict_items(session: Session, obj: Any, path: Path) -> Any:
    session.captures.guard(path, "keys", tuple(obj))
    kind = "item" if type(obj) in (dict, types.MappingProxyType) else "dict item"
    for key, item in list(obj.items() if kind == "item" else dict.items(obj)):
        yield key, session.hand_out(item, path.child(kind, key))


def is_plain_namedtuple(cls: type) -> bool:
    """Whether a class is a named tuple without methods of its own: nothing in it needs tracing."""
    return cls.__bases__ == (tuple,) and "_fields" in vars(cls) and not _own_functions(cls)


def _own_functions(cls: type) -> bool:
    generated = ("__new__", "_make", "_replace", "_asdict", "__repr__", "__getnewargs__", "__replace__")
    own = (member for name, member in vars(cls).items() if name not in generated)
    return any(isinstance(member, FunctionType) for member in own)


def _tuple(session: Session, obj: Any, path: Path, user: bool) -> Any:
    cls = type(obj)
    if not (cls is tuple or user or hasattr(cls, "_fields")):
        return session.as_it_is(obj, path)  # sys.version_info and the like
    session.captures.guard(path, "type", cls)
    session.captures.guard(path, "len", len(obj))
    items = [session.hand_out(item, path.item(index)) for index, item in enumerate(tuple.__iter__(obj))]
    if cls is tuple:
        return tuple(items)
    standin_class: Any = session.hand_out(cls, path.child("type")) if user else cls
    return session.remember(obj, tuple.__new__(standin_class, items), path)
