"""Stand-ins of user classes and of captured instances: they look like the originals and run instrumented.

A user class is *rebuilt*: a class of the same name whose bases are rebuilt too and whose methods, properties
and class attributes are handed out by the session when first used, so that objects created inside a traced
function run instrumented. A captured instance is an object of the rebuilt class with a `_State`: it reads
its attributes from the original, by path, and refuses assignments. Inside a traced function a user class
always is its rebuilt form, so `isinstance`, `type(a) is type(b)` and `type(self)(...)` agree;
`original_type` leads back for results.

A captured instance of a library class is an object of a subclass: instance attributes by path, but methods
run on the original, uninstrumented, and may not return arrays or floats.
"""

from __future__ import annotations

import abc
import collections
import copyreg
import enum
import functools
import sys
import types
import typing
from collections.abc import Callable, Iterable, Sequence
from types import FunctionType
from typing import TYPE_CHECKING, Any

import numpy as np

from nufunc.ir.errors import MutationError, UnguardedCaptureError
from nufunc.tracer.captures import Path, source
from nufunc.tracer.containers import LOST, ORIGINAL, is_plain_namedtuple, mutators, original_type, stores_the_same
from nufunc.tracer.library import checked
from nufunc.tracer.usercode import is_user_class, user_location

if TYPE_CHECKING:
    from nufunc.tracer.view import Session

_STATE = "__nufunc_state__"
_PATH = "__nufunc_class_path__"  # the member of a rebuilt class that says how its original is reached
_HEAP_TYPE, _BASE_TYPE = 1 << 9, 1 << 10  # flags of a type: made by a class statement; may be subclassed
_METACLASSES = (type, abc.ABCMeta, type(typing.Protocol))


# -- rebuilt classes


class _Quiet:
    """First base of every rebuilt root class: library bases must not hear of the rebuilt subclass again."""

    __slots__ = ()

    def __init_subclass__(cls, **kwargs: object) -> None:
        return


class _Rebuilt(_Quiet):
    """First base of rebuilt classes whose instances may be stand-ins of captured ones: with a `_State`."""

    __slots__ = ()

    def __getattribute__(self, name: str) -> Any:
        state = _state(self)
        return super().__getattribute__(name) if state is None else _attribute(self, state, name)

    def __setattr__(self, name: str, value: object) -> None:
        state = _state(self)
        if state is not None and state.cache.get(name, state) is value:
            return  # the end of `self.w += x`, which has written to the array
        _refuse(self, f"attribute {name!r} of ", "assigned")
        super().__setattr__(name, value)

    def __delattr__(self, name: str) -> None:
        _refuse(self, f"attribute {name!r} of ", "deleted")
        super().__delattr__(name)

    def __reduce_ex__(self, protocol: Any) -> Any:
        # A copy of a stand-in is an ordinary object with the attributes that the stand-in hands out.
        if _state(self) is None:
            return super().__reduce_ex__(protocol)
        items = dict.items(self) if isinstance(self, dict) else None
        values = list.__iter__(self) if isinstance(self, list) else None
        return copyreg.__newobj__, (type(self),), dict(self.__dict__), values, items  # type: ignore[attr-defined]


def _state(obj: Any) -> _State | None:
    state: _State | None = object.__getattribute__(obj, "__dict__").get(_STATE)
    return state


def _refuse(obj: Any, what: str, done: str) -> None:
    state = _state(obj)
    if state is not None:
        name = type(obj).__qualname__
        raise MutationError(
            f"{what}a captured {name} ({source(state.path)}) is {done} {LOST}", user_location()
        )


@functools.lru_cache(maxsize=8)
def _container_base(base: type) -> type:
    """`_Rebuilt` for user classes derived from a container class: changes of a stand-in are refused."""

    def guarded(name: str) -> Callable[..., Any]:
        original = getattr(base, name)

        def change(self: Any, *args: Any, **kwargs: Any) -> Any:
            if not stores_the_same(base, self, name, args):
                _refuse(self, "", f"changed ({name})")
            return original(self, *args, **kwargs)

        return change

    return type(
        "_Rebuilt", (_Rebuilt,), {"__slots__": (), **{name: guarded(name) for name in mutators(base)}}
    )


def can_rebuild(cls: type) -> bool:
    """Whether a user class can be rebuilt: exceptions must stay catchable, enums stay themselves."""
    return (
        (type(cls) in _METACLASSES or (is_user_class(type(cls)) and _solid_base(type(cls)) is type))
        and not issubclass(cls, BaseException | enum.Enum | np.ndarray | type)
        and not is_plain_namedtuple(cls)
        and original_type(cls) is cls
    )


# Made anew by the class statement, or must not run twice.
_LEFT_OUT = frozenset("__dict__ __weakref__ __init_subclass__ __del__ __abstractmethods__ _abc_impl".split())
_AS_THEY_ARE = frozenset(("__annotate__", "__annotate_func__", "__annotations_cache__", "__class_getitem__"))
_CALLED = (FunctionType, staticmethod, classmethod, functools.cached_property, functools.partialmethod)


def rebuild_class(session: Session, cls: type, path: Path) -> type:
    """The class with its user bases rebuilt and its members handed out on first use."""
    bases = tuple(
        session.hand_out(base, path.child("base", index)) if is_user_class(base) else base
        for index, base in enumerate(cls.__bases__)
    )
    if not any(issubclass(base, _Quiet) for base in bases):
        bases = (_first_base(cls), *(base for base in bases if base is not object))
    namespace: dict[str, Any] = {ORIGINAL: cls, _PATH: path}
    for name, member in vars(cls).items():
        if name not in _LEFT_OUT and not isinstance(member, types.MemberDescriptorType):
            namespace[name] = _member(session, cls, name, member, path)
    slots = namespace.pop("__slots__", None)
    if issubclass(cls, tuple):
        namespace["__slots__"] = ()
    new = _new_class(type(cls), cls.__name__, bases, namespace)
    if slots is not None:
        # Instances need a dictionary for their state: the slots become ordinary attributes, the name stays.
        type.__setattr__(new, "__slots__", slots)
    session.remember(cls, new, path)
    session.unseen.classes.append((new, dict(vars(new))))
    return new


def _guard_lookup(session: Session, cls: type, name: str, definer: type | None) -> None:
    """Guard that `name`, looked up in the rebuilt class `cls`, is found in `definer`'s original, or nowhere.

    A class before it that gets the name later would hide it. (One that has it already was passed over by super.)
    """
    for base in cls.__mro__:
        original = original_type(base)
        if original is definer:
            return
        path = vars(base).get(_PATH)
        if path is not None and name not in vars(original):
            session.captures.guard(path, "no attr", name)


def _first_base(cls: type) -> type:
    base = _solid_base(cls)
    if issubclass(base, tuple) or any(
        "__getattribute__" in vars(b) and is_user_class(b) for b in cls.__mro__
    ):
        return _Quiet  # immutable; or never a stand-in (see user_standin)
    return _container_base(base) if base in _CONTAINER_BASES else _Rebuilt


_CONTAINER_BASES = (dict, list, set, collections.deque, collections.OrderedDict, collections.defaultdict)


def _new_class(metaclass: type, name: str, bases: tuple[type, ...], namespace: dict[str, Any]) -> type:
    """A class made without the metaclass's own code, whose results the namespace already holds."""
    make: Any = abc.ABCMeta.__new__ if issubclass(metaclass, abc.ABCMeta) else type.__new__
    made: type = make(metaclass, name, bases, namespace)
    return made


def _solid_base(cls: type) -> type:
    """The innermost base that is not made by a class statement: C code may expect its layout to be filled."""
    return next(base for base in cls.__mro__ if not base.__flags__ & _HEAP_TYPE)


def _member(session: Session, cls: type, name: str, member: Any, path: Path) -> Any:
    where = path.child("member", name)
    if name in _AS_THEY_ARE:
        return member
    if isinstance(member, property):
        return _lazy_property(session, cls, name, member, where)
    if isinstance(member, _CALLED):
        return _Member(session, cls, name, member, where)
    if hasattr(type(member), "__nufunc_parts__"):
        # A decorated method: the same transform of its stand-in.
        return _Member(session, cls, name, member, where)
    if name.startswith("__") and name.endswith("__"):
        return member
    if hasattr(type(member), "__get__"):
        if not is_user_class(type(member)):
            return member  # the field getters of named tuples and the like
        return (_DataMember if hasattr(type(member), "__set__") else _Member)(session, cls, name, member, where)
    return _Member(session, cls, name, member, where)


def _lazy_property(session: Session, cls: type, name: str, member: property, path: Path) -> property:
    def lazy(which: str, fn: Any) -> Any:
        if fn is None:
            return None

        def accessor(self: Any, *args: Any) -> Any:
            _guard_lookup(session, type(self), name, cls)
            return session.hand_out(fn, path.attr(which))(self, *args)

        return accessor

    return property(
        lazy("fget", member.fget), lazy("fset", member.fset), lazy("fdel", member.fdel), member.__doc__
    )


_UNRESOLVED = object()


class _Member:
    """A class member that asks the session for its stand-in when it is first looked up."""

    def __init__(self, session: Session, definer: type, name: str, member: Any, path: Path) -> None:
        self.session = session
        self.definer = definer
        self.name = name
        self.member = member
        self.path = path
        self.owner: type | None = None
        self.standin: Any = _UNRESOLVED
        self.asked: set[type] = set()  # the classes through which it was looked up

    def __set_name__(self, owner: type, name: str) -> None:
        self.owner = owner

    def look_up(self, cls: type) -> Any:
        """The stand-in, with the guards of a lookup in the rebuilt class `cls`."""
        if cls not in self.asked:
            self.asked.add(cls)
            _guard_lookup(self.session, cls, self.name, self.definer)
        if self.standin is _UNRESOLVED:
            self.standin = self._resolve()
        return self.standin

    def __get__(self, obj: Any, owner: type | None = None) -> Any:
        cls = type(obj) if owner is None else owner
        standin = self.look_up(cls)
        # np.tanh as a class attribute binds no self, though its stand-in, a Python function, would.
        binds = hasattr(type(self.member), "__get__") and hasattr(type(standin), "__get__")
        return type(standin).__get__(standin, obj, cls) if binds else standin

    def _resolve(self) -> Any:
        hand_out, member, path = self.session.hand_out, self.member, self.path
        if isinstance(member, staticmethod | classmethod):
            return type(member)(hand_out(member.__func__, path.attr("__func__")))
        if isinstance(member, functools.cached_property):
            cached: Any = functools.cached_property(hand_out(member.func, path.attr("func")))
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

    def __get__(self, obj: Any, owner: type | None = None) -> Any:
        standin = self.look_up(type(obj) if owner is None else owner)
        return type(standin).__get__(standin, obj, owner)

    def __set__(self, obj: Any, value: Any) -> None:
        standin = self.look_up(type(obj))
        type(standin).__set__(standin, obj, value)


# -- captured instances of user classes


class _State:
    """What a stand-in of an instance knows: the original, its path, and what it has handed out."""

    __slots__ = ("cache", "original", "path", "session")

    def __init__(self, session: Session, original: Any, path: Path) -> None:
        self.session = session
        self.original = original
        self.path = path
        self.cache: dict[str, Any] = {}


def user_instance(session: Session, obj: Any, path: Path) -> Any:
    """The stand-in of a captured instance of a user class."""
    session.captures.guard(path, "type", type(obj))
    return user_standin(session, obj, path)


def user_standin(session: Session, obj: Any, path: Path) -> Any:
    """The stand-in without a guard of its own, and without items if it is a container."""
    cls = type(obj)
    if not can_rebuild(cls):
        raise _unguarded(path, f"is of class {cls.__qualname__}, a special class that is not looked into")
    plain: Any = session.hand_out(cls, path.child("type"))
    if not issubclass(plain, _Rebuilt):
        raise _unguarded(path, f"is of class {cls.__qualname__}, which defines __getattribute__")
    base = _solid_base(cls)
    new = (base if base in _CONTAINER_BASES else object).__new__(plain)
    attributes = object.__getattribute__(new, "__dict__")
    attributes[_STATE] = _State(session, obj, path)
    session.unseen.instances.append((attributes, path))
    return session.remember(obj, new, path)


def _unguarded(path: Path, what: str) -> UnguardedCaptureError:
    return UnguardedCaptureError(
        f"{source(path)} {what}: what it holds cannot be looked up again at the next call; pass the "
        "values that are used as arguments instead",
        user_location(),
    )


def _attribute(self: Any, state: _State, name: str) -> Any:
    """An attribute of a captured instance of a user class."""
    cache = state.cache
    if name in cache:
        return cache[name]
    if name == "__dict__":
        standin = cache[name] = _attributes(state)
        return standin
    if name.startswith("__") and name.endswith("__"):
        return object.__getattribute__(self, name)
    original, path, session = state.original, state.path, state.session
    definer = next((base for base in type(original).__mro__ if name in vars(base)), None)
    member = None if definer is None else vars(definer)[name]
    if type(member) is not types.MemberDescriptorType and name not in getattr(original, "__dict__", ()):
        _guard_lookup(session, type(self), name, definer)
    if isinstance(member, types.MemberDescriptorType):
        standin = cache[name] = session.hand_out(member.__get__(original), path.attr(name))
        return standin
    if hasattr(type(member), "__set__"):
        return object.__getattribute__(self, name)  # a property: runs instrumented
    attributes = getattr(original, "__dict__", None)
    if attributes is not None:
        if name in attributes:
            standin = cache[name] = _attribute_value(state, name, attributes[name])
            return standin
        session.captures.guard(path, "no attr", name)
    if isinstance(member, functools.cached_property):
        function = session.hand_out(member.func, _member_path(state, name).attr("func"))
        standin = cache[name] = function(self)
        return standin
    # A method or class attribute; an AttributeError leads to the user's __getattr__.
    return object.__getattribute__(self, name)


def _attribute_value(state: _State, name: str, value: Any) -> Any:
    """An attribute of the instance itself; the numbers that its class lists in `__constants__` are part of the key."""
    path = state.path.attr(name)
    if name in getattr(type(state.original), "__constants__", ()) and _is_number(value):
        state.session.captures.guard(path, "value", value)
        return value
    return state.session.hand_out(value, path)


def _is_number(value: Any) -> bool:
    """Whether a value is a float or complex number, or a tuple of numbers."""
    if type(value) is tuple:
        return all(type(item) in (int, float, complex) for item in value)
    return type(value) in (float, complex)


def _member_path(state: _State, name: str) -> Path:
    """The path of the class member `name` of an instance's class or of the base that defines it."""
    path, cls = state.path.child("type"), type(state.original)
    while name not in vars(cls):
        index = next(i for i, base in enumerate(cls.__bases__) if any(name in vars(b) for b in base.__mro__))
        path, cls = path.child("base", index), cls.__bases__[index]
    return path.child("member", name)


def _attributes(state: _State) -> Any:
    """The instance dictionary of a stand-in: as a captured dict."""
    if not hasattr(state.original, "__dict__"):
        raise AttributeError(f"{type(state.original).__name__!r} object has no attribute '__dict__'")
    return state.session.hand_out(vars(state.original), state.path.attr("__dict__"))


def as_original(obj: Any) -> Any:
    """An object of the user's own class with the attributes and items of one of the rebuilt class.

    What is no object of a rebuilt class is returned as it is.
    """
    cls: Any = original_type(type(obj))
    return obj if cls is type(obj) or not issubclass(type(obj), _Quiet) else _converted(obj, cls)


def original_of(obj: Any) -> Any:
    """The user's object that a stand-in of a captured instance stands for; any other object itself."""
    if isinstance(obj, _Rebuilt):
        state = _state(obj)
    else:
        slot = type(obj).__dict__.get("_nufunc_state")  # of a stand-in of a library class
        state = None if slot is None else slot.__get__(obj)
    return obj if state is None else state.original


def attribute_names(obj: Any) -> list[str]:
    """The names of an object's own attributes; those of a captured instance are guarded."""
    state = _state(obj) if isinstance(obj, _Rebuilt) else None
    if state is None:
        return list(vars(obj))
    names = list(vars(state.original))
    state.session.captures.guard(state.path.attr("__dict__"), "keys", tuple(names))
    return names


def guard_identities(obj: Any, groups: Iterable[Sequence[str]]) -> None:
    """Guard, for a captured instance, that what the dotted names of a group lead to is one object, another one for each
    group.
    """
    state = _state(obj) if isinstance(obj, _Rebuilt) else None
    if state is None:
        return
    captures, firsts = state.session.captures, []
    for names in groups:
        first, *others = (_below(state.path, name) for name in names)
        firsts.append(first)
        for other in others:
            captures.guard(other, "alias", first)
    if len(firsts) > 1:
        captures.guard(state.path, "distinct", tuple(firsts))


def _below(path: Path, name: str) -> Path:
    for part in name.split("."):
        path = path.attr(part)
    return path


def adopt(session: Session, obj: Any) -> Any:
    """An object of the rebuilt class with the attributes and items of an argument of a user class.

    What is no object of a class that can be rebuilt is returned as it is.
    """
    cls = type(obj)
    return _converted(obj, session.class_for(cls)) if is_user_class(cls) and can_rebuild(cls) else obj


def _converted(obj: Any, cls: Any) -> Any:
    if isinstance(obj, tuple):
        return tuple.__new__(cls, obj)
    base: Any = _solid_base(cls)
    new = (base if base in _CONTAINER_BASES else object).__new__(cls)
    if isinstance(obj, dict):
        dict.update(new, dict.items(obj))
    elif isinstance(obj, list):
        list.extend(new, list.__iter__(obj))
    names = {*copyreg._slotnames(original_type(type(obj))), *getattr(obj, "__dict__", ())}  # type: ignore[attr-defined]
    for name in names:
        if hasattr(obj, name):
            object.__setattr__(new, name, getattr(obj, name))
    return new


# -- captured instances of library classes

# C types of the standard library that hold numbers: what is read from them could not be followed.
_NUMBER_HOLDERS = frozenset(("array", "mmap", "ctypes", "_ctypes"))


def library_instance(session: Session, obj: Any, path: Path) -> Any:
    """The stand-in of an instance of a library class: attributes by path, methods run on the original."""
    cls: Any = type(obj)
    if hasattr(obj, "__dict__") and _can_stand_in(cls):
        session.captures.guard(path, "type", cls)
        base: Any = cls if cls is types.SimpleNamespace else object
        new: Any = base.__new__(_library_class(cls))
        type(new)._nufunc_state.__set__(new, _State(session, obj, path))
        return session.remember(obj, new, path)
    top = cls.__module__.partition(".")[0]
    foreign = top not in sys.stdlib_module_names and not callable(obj)
    if foreign or top in _NUMBER_HOLDERS or isinstance(obj, bytearray | memoryview):
        raise _unguarded(path, f"is a {cls.__qualname__} of library code")
    return session.as_it_is(obj, path)


def _can_stand_in(cls: type) -> bool:
    if cls is types.SimpleNamespace:
        return True
    getter: Any = cls.__getattribute__
    plain = getter is object.__getattribute__ and _solid_base(cls) is object
    return plain and bool(cls.__flags__ & _BASE_TYPE) and type(cls) in _METACLASSES


@functools.lru_cache(maxsize=256)
def _library_class(cls: Any) -> Any:
    """The subclass of a library class whose instances are stand-ins."""

    def getattribute(self: Any, name: str) -> Any:
        return _attribute_of_library(state_of(self), name)

    def refuse(self: Any, name: str, value: object = None) -> None:
        raise MutationError(
            f"attribute {name!r} of a captured {cls.__qualname__} ({source(state_of(self).path)}) is "
            f"assigned {LOST}",
            user_location(),
        )

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        state = state_of(self)
        return checked(state.original)(*args, **kwargs)

    namespace: dict[str, Any] = {
        "__slots__": ("_nufunc_state",),
        "__getattribute__": getattribute,
        "__setattr__": refuse,
        "__delattr__": refuse,
        "__qualname__": cls.__qualname__,
        "__module__": cls.__module__,
        ORIGINAL: cls,
    }
    if callable(cls.__dict__.get("__call__")):
        namespace["__call__"] = call
    bases = (cls, _Quiet) if cls is types.SimpleNamespace else (_Quiet, cls)
    made: Any = _new_class(type(cls), cls.__name__, bases, namespace)
    state_of = made._nufunc_state.__get__
    return made


def _attribute_of_library(state: _State, name: str) -> Any:
    cache, original = state.cache, state.original
    if name in cache:
        return cache[name]
    if name == "__dict__":
        standin = cache[name] = _attributes(state)
        return standin
    if name in vars(original):
        standin = cache[name] = state.session.hand_out(vars(original)[name], state.path.attr(name))
        return standin
    value = getattr(original, name)
    if isinstance(value, np.ndarray | np.generic | float | complex):
        where = source(state.path.attr(name))
        raise UnguardedCaptureError(
            f"{where} is computed by library code ({type(original).__qualname__}): that would be done "
            "once, while tracing; pass it as an argument instead",
            user_location(),
        )
    return checked(value) if callable(value) and not isinstance(value, type) else value
