"""Stand-ins for captured containers, user classes and instances: alike outside, handing out stand-ins.

Containers are copies of a subclass whose mutators raise. A user class is *rebuilt*: a class of the same name
whose bases are rebuilt too and whose methods, properties and class attributes are handed out by the session
when first used, so that objects created inside a traced function run instrumented. A captured instance is an
object of a subclass of the rebuilt class that reads its attributes from the original, by path, and refuses
assignments. Inside a traced function a user class always is its rebuilt form, so `isinstance` and
`type(self)(...)` agree; `original_type` leads back for results that leave.
"""

from __future__ import annotations

import abc
import collections
import copyreg
import enum
import functools
import types
from collections.abc import Callable
from types import FunctionType
from typing import TYPE_CHECKING, Any

import numpy as np

from nufunc.ir.errors import MutationError, UnguardedCaptureError
from nufunc.tracer.captures import Path, source
from nufunc.tracer.usercode import is_user_class, user_location

if TYPE_CHECKING:
    from nufunc.tracer.view import Session

CONTAINERS = (list, tuple, dict, set, collections.deque, types.MappingProxyType)

# The end of the message of every change that tracing would perform once.
LOST = (
    "inside a traced function: that would happen while tracing only, not at later calls; "
    "build the new value and return it instead"
)
_LEAVES = frozenset((int, bool, str, bytes, type(None)))
_ORIGINAL = "__nufunc_original__"
_HEAP_TYPE, _BASE_TYPE = 1 << 9, 1 << 10  # flags of a type: made by a class statement; may be subclassed


def original_type(cls: type) -> type:
    """The user's class of a rebuilt class, of a stand-in's class or of a captured container's class."""
    return vars(cls).get(_ORIGINAL, cls)


# -- containers


class Changeable:
    """Mixin of the stand-ins of containers that could be changed in place."""

    __slots__ = ()


_MUTATORS = {
    list: "append extend insert remove pop clear sort reverse __setitem__ __delitem__ __iadd__ __imul__",
    dict: "__setitem__ __delitem__ pop popitem clear update __ior__ move_to_end subtract",
    set: "add discard remove pop clear update __iand__ __ior__ __isub__ __ixor__ difference_update "
    "intersection_update symmetric_difference_update",
    collections.deque: "append appendleft extend extendleft insert remove pop popleft clear rotate reverse "
    "__setitem__ __delitem__ __iadd__ __imul__",
}


def _refusal(kind: str, name: str) -> Callable[..., Any]:
    def refuse(self: Any, *args: object, **kwargs: object) -> Any:
        raise MutationError(
            f"a captured {kind} ({source(self._nufunc_path)}) is changed ({name}) {LOST}",
            user_location(),
        )

    refuse.__name__ = name
    return refuse


def _setdefault(self: Any, key: object, default: object = None) -> Any:
    return self[key] if key in self else self.__setitem__(key, default)


def _refusals(cls: type) -> dict[str, Any]:
    base = next(base for base in _MUTATORS if issubclass(cls, base))
    names = [name for name in _MUTATORS[base].split() if hasattr(cls, name)]
    namespace: dict[str, Any] = {name: _refusal(cls.__name__, name) for name in names}
    if base is dict:
        namespace["setdefault"] = _setdefault
    return namespace


@functools.lru_cache(maxsize=256)
def _captured_class(cls: type) -> type:
    """The subclass of a library container class whose mutators raise; copies of it are plain again."""

    def reduce(self: Any, protocol: object = None) -> tuple[Any, ...]:
        return cls, (list(self.items()) if isinstance(self, dict) else list(self),)

    namespace = {"__slots__": ("_nufunc_path",), _ORIGINAL: cls, "__reduce_ex__": reduce, **_refusals(cls)}
    return type(cls.__name__, (cls, Changeable), namespace)


def content(container: Any) -> list[Any]:
    """The items of a container stand-in as they are stored, to compare by identity."""
    if isinstance(container, dict):
        return [*dict.keys(container), *dict.values(container)]
    if isinstance(container, set):
        return sorted(set.__iter__(container), key=id)
    return list(list.__iter__(container) if isinstance(container, list) else iter(container))


def container(session: Session, obj: Any, path: Path) -> Any:
    """The stand-in of a captured list, tuple, dict, set or deque, guarded by structure, its items by path."""
    cls = type(obj)
    if cls is tuple and all(type(item) in _LEAVES for item in obj):
        session.captures.guard(path, "value", obj)
        return obj
    user = is_user_class(cls) and can_rebuild(cls) and not _is_plain_namedtuple(cls)
    if isinstance(obj, tuple):
        return _tuple(session, obj, path, user)
    if cls is types.MappingProxyType:
        session.captures.guard(path, "type", cls)
        return types.MappingProxyType(dict(_dict_items(session, obj, path)))
    if user:
        new = _user_standin(session, obj, path)
    else:
        captured = _captured_class(cls)
        new = captured.__new__(captured)
        captured._nufunc_path.__set__(new, path)  # type: ignore[attr-defined]
        session.remember(obj, new, path)
    leaves = type(obj) in (list, dict, set) and all(
        type(item) in _LEAVES for item in (obj.values() if cls is dict else obj)
    )
    if leaves or isinstance(obj, set):
        session.captures.guard(path, "value", cls(obj) if leaves else obj.copy())
    else:
        session.captures.guard(path, "type", cls)
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
        set.update(new, obj)
    else:
        if not leaves:
            session.captures.guard(path, "len", len(obj))
        kind = "list item" if isinstance(obj, list) else "item"
        base_append: Any = list.append if isinstance(obj, list) else collections.deque.append
        for index, item in enumerate(obj):
            base_append(new, item if leaves else session.hand_out(item, path.child(kind, index)))


def _dict_items(session: Session, obj: Any, path: Path) -> Any:
    session.captures.guard(path, "keys", tuple(obj))
    kind = "item" if type(obj) in (dict, types.MappingProxyType) else "dict item"
    for key, item in list(obj.items() if kind == "item" else dict.items(obj)):
        yield key, session.hand_out(item, path.child(kind, key))


def _is_plain_namedtuple(cls: type) -> bool:
    return cls.__bases__ == (tuple,) and "_fields" in vars(cls) and not _own_functions(cls)


def _own_functions(cls: type) -> bool:
    generated = ("__new__", "_make", "_replace", "_asdict", "__repr__", "__getnewargs__", "__replace__")
    own = (member for name, member in vars(cls).items() if name not in generated)
    return any(isinstance(member, FunctionType) for member in own)


def _tuple(session: Session, obj: Any, path: Path, user: bool) -> Any:
    cls = type(obj)
    session.captures.guard(path, "type", cls)
    session.captures.guard(path, "len", len(obj))
    items = [session.hand_out(item, path.item(index)) for index, item in enumerate(tuple.__iter__(obj))]
    if cls is tuple:
        return tuple(items)
    standin_class: Any = session.hand_out(cls, path.child("type")) if user else cls
    return session.remember(obj, tuple.__new__(standin_class, items), path)


# -- classes


def can_rebuild(cls: type) -> bool:
    """Whether a user class can be rebuilt: exceptions must stay catchable, enums stay themselves."""
    return (
        type(cls) in (type, abc.ABCMeta)
        and not issubclass(cls, BaseException | enum.Enum | np.ndarray | type)
        and original_type(cls) is cls
    )


# Made anew by the class statement, or must not run twice.
_LEFT_OUT = frozenset(
    (
        "__dict__",
        "__weakref__",
        "__init_subclass__",
        "__del__",
        "__abstractmethods__",
        "_abc_impl",
        "__classcell__",
    )
)
_CALLED = (FunctionType, staticmethod, classmethod, functools.cached_property, functools.partialmethod)
_AS_THEY_ARE = frozenset(("__annotate__", "__annotate_func__", "__annotations_cache__", "__class_getitem__"))


def rebuild_class(session: Session, cls: type, path: Path) -> type:
    """The class with its user bases rebuilt and its members handed out on first use."""
    bases = tuple(
        session.hand_out(base, path.child("base", index)) if is_user_class(base) else base
        for index, base in enumerate(cls.__bases__)
    )
    namespace: dict[str, Any] = {}
    for name, member in vars(cls).items():
        if name not in _LEFT_OUT and not isinstance(member, types.MemberDescriptorType):
            namespace[name] = _member(session, name, member, path)
    namespace[_ORIGINAL] = cls
    new = type(cls)(cls.__name__, bases, namespace)
    session.remember(cls, new, path)
    given = dict(vars(new))
    session.classes.append((new, given, path))
    for member in namespace.values():
        if isinstance(member, _Member):
            member.given = given
    return new


def _member(session: Session, name: str, member: Any, path: Path) -> Any:
    where = path.child("member", name)
    if name in _AS_THEY_ARE:
        return member
    if isinstance(member, property):
        return _lazy_property(session, member, where)
    if isinstance(member, _CALLED):
        return _Member(session, name, member, where)
    if name.startswith("__") and name.endswith("__"):
        return member
    if hasattr(type(member), "__get__"):
        if not is_user_class(type(member)):
            return member  # the field getters of named tuples and the like
        return (_DataMember if hasattr(type(member), "__set__") else _Member)(session, name, member, where)
    return _Member(session, name, member, where)


def _lazy_property(session: Session, member: property, path: Path) -> property:
    def lazy(which: str, fn: Any) -> Any:
        if fn is None:
            return None
        return lambda *args: session.hand_out(fn, path.attr(which))(*args)

    return property(
        lazy("fget", member.fget), lazy("fset", member.fset), lazy("fdel", member.fdel), member.__doc__
    )


class _Member:
    """A class member that asks the session for its stand-in when it is first looked up."""

    def __init__(self, session: Session, name: str, member: Any, path: Path) -> None:
        self.session = session
        self.name = name
        self.member = member
        self.path = path
        self.owner: type | None = None
        self.given: dict[str, Any] | None = None

    def __set_name__(self, owner: type, name: str) -> None:
        self.owner = owner

    def __get__(self, obj: Any, owner: type | None = None) -> Any:
        standin = self._resolve()
        if self.owner is not None and self.given is not None:
            type.__setattr__(self.owner, self.name, standin)  # type: ignore[call-arg]
            self.given[self.name] = standin
        get = getattr(type(standin), "__get__", None)
        return standin if get is None else get(standin, obj, owner)

    def _resolve(self) -> Any:
        hand_out, member, path = self.session.hand_out, self.member, self.path
        if isinstance(member, staticmethod | classmethod):
            return type(member)(hand_out(member.__func__, path.attr("__func__")))
        if isinstance(member, functools.cached_property):
            cached = functools.cached_property(hand_out(member.func, path.attr("func")))
            cached.__set_name__(self.owner or object, self.name)
            return cached
        if isinstance(member, functools.partialmethod):
            function = hand_out(member.func, path.attr("func"))
            arguments = hand_out(member.args, path.attr("args"))
            keywords = hand_out(member.keywords, path.attr("keywords"))
            return functools.partialmethod(function, *arguments, **keywords)
        return hand_out(member, path)


class _DataMember(_Member):
    """A descriptor of a user class that defines `__set__` too."""

    def __set__(self, obj: Any, value: Any) -> None:
        standin = self._resolve()
        type(standin).__set__(standin, obj, value)


# -- instances


class _State:
    """What a stand-in of an instance knows: the original, its path, and what it has handed out."""

    __slots__ = ("cache", "original", "path", "plain", "session")

    def __init__(self, session: Session, original: Any, path: Path, plain: type) -> None:
        self.session = session
        self.original = original
        self.path = path
        self.plain = plain  # the class that makes ordinary objects
        self.cache: dict[str, Any] = {}


def user_instance(session: Session, obj: Any, path: Path) -> Any:
    """The stand-in of a captured instance of a user class."""
    if not can_rebuild(type(obj)):
        return session.as_it_is(obj, path)
    session.captures.guard(path, "type", type(obj))
    return _user_standin(session, obj, path)


def _user_standin(session: Session, obj: Any, path: Path) -> Any:
    cls = type(obj)
    for base in cls.__mro__:
        if "__getattribute__" in vars(base) and is_user_class(base):
            raise UnguardedCaptureError(
                f"{source(path)} is of class {cls.__qualname__}, which defines __getattribute__: what it "
                "reaches cannot be looked up again at the next call; pass it as an argument instead",
                user_location(),
            )
    plain = session.hand_out(cls, path.child("type"))
    standin_class = _instance_class(plain, _attribute_of_user)
    return _make(session, obj, path, plain, standin_class)


def library_instance(session: Session, obj: Any, path: Path) -> Any:
    """The stand-in of an instance of a library class: attributes by path, methods run on the original."""
    cls = type(obj)
    if not hasattr(obj, "__dict__") or type(cls) not in (type, abc.ABCMeta) or isinstance(obj, Callable):  # type: ignore[arg-type]
        return session.as_it_is(obj, path)
    if cls is not types.SimpleNamespace and (
        not cls.__flags__ & _BASE_TYPE
        or cls.__getattribute__ is not object.__getattribute__
        or _solid_base(cls) is not object
    ):
        return session.as_it_is(obj, path)
    session.captures.guard(path, "type", cls)
    return _make(session, obj, path, cls, _instance_class(cls, _attribute_of_library))


def _solid_base(cls: type) -> type:
    """The innermost base that is not made by a class statement: C code may expect its layout to be filled."""
    return next(base for base in cls.__mro__ if not base.__flags__ & _HEAP_TYPE)


def _make(session: Session, obj: Any, path: Path, plain: type, standin_class: Any) -> Any:
    base = _solid_base(plain)
    filled = base in (dict, list, set, collections.deque, types.SimpleNamespace)
    new = (base if filled else object).__new__(standin_class)
    standin_class._nufunc_state.__set__(new, _State(session, obj, path, plain))
    return session.remember(obj, new, path)


def _instance_class(plain: Any, attribute: Callable[[Any, _State, str], Any]) -> type:
    """The class of the stand-ins of instances of `plain`: one per rebuilt class, so one per trace."""
    found = vars(plain).get("__nufunc_standin__")
    return found if found is not None and plain in found.__bases__ else _new_instance_class(plain, attribute)


def _new_instance_class(plain: Any, attribute: Callable[[Any, _State, str], Any]) -> type:
    def getattribute(self: Any, name: str) -> Any:
        return attribute(self, state_of(self), name)

    def refuse(self: Any, name: str, value: object = None) -> None:
        raise MutationError(
            f"attribute {name!r} of a captured {plain.__qualname__} ({source(state_of(self).path)}) is "
            f"assigned {LOST}",
            user_location(),
        )

    def new(cls: type, *args: Any, **kwargs: Any) -> Any:
        return plain(*args, **kwargs)  # type(self)(...): an ordinary object

    def reduce(self: Any, protocol: object = None) -> tuple[Any, ...]:
        return copyreg.__newobj__, (plain,), dict(self.__dict__)  # type: ignore[attr-defined]

    namespace: dict[str, Any] = {
        "__slots__": ("_nufunc_state",),
        "__getattribute__": getattribute,
        "__setattr__": refuse,
        "__delattr__": refuse,
        "__new__": new,
        "__qualname__": plain.__qualname__,
        "__module__": plain.__module__,
        _ORIGINAL: original_type(plain),
    }
    if "__reduce_ex__" not in vars(plain):
        namespace["__reduce_ex__"] = reduce
    if issubclass(plain, (list, dict, set, collections.deque)):
        namespace.update(_refusals(plain))
        namespace["_nufunc_path"] = property(lambda self: state_of(self).path)
    made: Any = type(plain)(plain.__name__, (plain,), namespace)
    state_of = made._nufunc_state.__get__
    return made


def _attribute_of_user(self: Any, state: _State, name: str) -> Any:
    cache = state.cache
    if name in cache:
        return cache[name]
    if name == "__dict__":
        standin = cache[name] = _attributes(state)
        return standin
    if name == "__class__":
        return state.plain
    if name.startswith(("__", "_nufunc_")) and (name.endswith("__") or name == "_nufunc_path"):
        return object.__getattribute__(self, name)
    original, path, session = state.original, state.path, state.session
    member = next((vars(base)[name] for base in type(original).__mro__ if name in vars(base)), None)
    if isinstance(member, types.MemberDescriptorType):
        standin = cache[name] = session.hand_out(member.__get__(original), path.attr(name))
        return standin
    if hasattr(type(member), "__set__"):
        return object.__getattribute__(self, name)  # a property: runs instrumented
    attributes = getattr(original, "__dict__", None)
    if attributes is not None:
        if name in attributes:
            standin = cache[name] = session.hand_out(attributes[name], path.attr(name))
            return standin
        session.captures.guard(path, "no attr", name)
    if isinstance(member, functools.cached_property):
        function = session.hand_out(member.func, _owner_path(state, name).attr("func"))
        standin = cache[name] = function(self)
        return standin
    # A method or class attribute; an AttributeError leads to the user's __getattr__.
    return object.__getattribute__(self, name)


def _owner_path(state: _State, name: str) -> Path:
    """The path of the class member `name` of an instance's class or of the base that defines it."""
    path, cls = state.path.child("type"), type(state.original)
    while name not in vars(cls):
        index = next(i for i, base in enumerate(cls.__bases__) if any(name in vars(b) for b in base.__mro__))
        path, cls = path.child("base", index), cls.__bases__[index]
    return path.child("member", name)


def _attributes(state: _State) -> Any:
    """The instance dictionary of a stand-in: as a captured dict."""
    attributes = vars(state.original)
    return state.session.hand_out(attributes, state.path.attr("__dict__"))


def _attribute_of_library(self: Any, state: _State, name: str) -> Any:
    cache, original = state.cache, state.original
    if name in cache:
        return cache[name]
    if name == "__dict__":
        standin = cache[name] = _attributes(state)
        return standin
    if name == "__class__":
        return state.plain
    if name in vars(original):
        standin = cache[name] = state.session.hand_out(vars(original)[name], state.path.attr(name))
        return standin
    value = getattr(original, name)
    if isinstance(value, np.ndarray | np.generic | float | complex):
        raise UnguardedCaptureError(
            f"{source(state.path.attr(name))} is computed by library code ({type(original).__qualname__}): "
            "that would be done once, while tracing; pass it as an argument instead",
            user_location(),
        )
    from nufunc.tracer.view import checked

    return checked(value) if callable(value) and not isinstance(value, type) else value
