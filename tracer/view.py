"""The view: a copy of the user's plain-NumPy function in which all that it reaches is a traced stand-in.

`instrument(fn, hooks)` re-creates the function over a view of its globals (a dict subclass whose misses are
filled with stand-ins), with new closure cells and defaults, lazily and recursively for the user functions,
methods, classes and modules that it reaches. Every thing reached is recorded in `Captures` as an input or
behind a guard. Nothing global is patched, so several threads may trace at once.

What is looked up in which interpreter (CPython 3.11 to 3.14): LOAD_GLOBAL asks globals of a dict subclass
through PyObject_GetItem, so `__missing__` runs, and its specialised forms require an exact dict. LOAD_NAME
in class bodies reads the raw storage and then asks `__builtins__` through PyObject_GetItem, hence the view
of the builtins, which looks into the globals first. IMPORT_NAME takes `__import__` from there. STORE_GLOBAL
writes the raw storage: what was written is found when the call ends (`unseen`), so only an
assignment that was executed is an error.

User code is what `usercode.is_user_code` says. Library functions are called as they are, but one that
returns an array or a float from plain arguments raises `UnguardedCaptureError`, except for the pure modules
of the standard library (`library.checked`).
"""

from __future__ import annotations

import builtins
import collections.abc
import enum
import functools
import io
import random
import sys
import threading
import types
from collections.abc import Callable
from types import CellType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any, Protocol

import numpy as np
import optree

from nufunc.ir.errors import UnguardedCaptureError
from nufunc.tracer import containers, staging, standins
from nufunc.tracer.captures import STRONG, WEAK, Captures, Path, defaults_shape, source
from nufunc.tracer.containers import original_type
from nufunc.tracer.library import checked, without_clock
from nufunc.tracer.module_view import ModuleView
from nufunc.tracer.np_random import is_generator
from nufunc.tracer.unseen import Unseen, is_dunder
from nufunc.tracer.usercode import is_own, is_user_class, is_user_code, user_location

__all__ = [
    "GlobalsView",
    "Hooks",
    "Session",
    "active_session",
    "instrument",
    "is_instrumented",
    "rebuilt_type",
    "session_of",
    "user_location",
]


class Hooks(Protocol):
    """What the tracer tells the view."""

    def swap(self, obj: Any) -> Any:
        """The traced stand-in of a NumPy, math, SciPy or builtin object; `obj` itself where there is none."""

    def array(self, value: Any, path: Path) -> Any:
        """The stand-in of a captured ndarray or NumPy scalar."""

    def number(self, value: Any, path: Path) -> Any:
        """The stand-in of a captured Python float or complex."""


def instrument(fn: Any, hooks: Hooks) -> tuple[Callable[..., Any], Captures]:
    """A copy of a callable that reaches traced stand-ins, and the (still empty) record of what it reaches.

    fn: a user function, a bound method, a functools.partial, a callable object of a user class.
    The record fills while the copy runs. At the end of each call of the copy, an assignment to a global, a
    captured nonlocal, a function or class attribute, or a captured container that happened unseen raises
    `MutationError`. A function that is instrumented already (made inside a traced function) is returned as
    it is.
    """
    if is_instrumented(fn):
        return fn, Captures()
    session = Session(hooks)
    standin = session.hand_out(fn, Path.root())

    def traced(*args: Any, **kwargs: Any) -> Any:
        with session:
            result = standin(*args, **kwargs)
        session.unseen.check()
        return result

    traced.__name__ = getattr(fn, "__name__", type(fn).__name__)
    traced.__nufunc_session__ = session  # type: ignore[attr-defined]
    return traced, session.captures


def session_of(traced: Callable[..., Any]) -> Session | None:
    """The session of a copy made by `instrument`."""
    return getattr(traced, "__nufunc_session__", None)


class _Active(threading.local):
    def __init__(self) -> None:
        self.sessions: list[Session] = []


_ACTIVE = _Active()


def active_session() -> Session | None:
    """The session of the innermost instrumented call, or `with session:` block, of this thread."""
    return _ACTIVE.sessions[-1] if _ACTIVE.sessions else None


def rebuilt_type(cls: type) -> Any:
    """The instrumented form of a user class in the active session, for arguments; else the class itself."""
    session = active_session()
    if session is None or not (is_user_class(cls) and standins.can_rebuild(cls)):
        return cls
    return session.class_for(cls)


def is_instrumented(fn: Any) -> bool:
    """Whether a callable is a copy already, or was made by one."""
    if isinstance(fn, FunctionType):
        return type(fn.__globals__) is GlobalsView or hasattr(fn, "__nufunc_session__")
    if isinstance(fn, MethodType):
        return is_instrumented(fn.__func__)
    if isinstance(fn, functools.partial):
        return is_instrumented(fn.func)
    cls = fn if isinstance(fn, type) else type(fn)
    return original_type(cls) is not cls


class GlobalsView(dict[str, Any]):
    """The globals of re-created functions: the stand-ins handed out so far; asks the session for others."""

    __slots__ = ("base", "builtins", "given", "path", "session")

    def __init__(self, session: Session, fn: Any, path: Path) -> None:
        self.session = session
        self.base: dict[str, Any] = fn.__globals__
        self.builtins: dict[str, Any] = fn.__builtins__
        self.path = path
        view = _BuiltinsView(__import__=self._import, __build_class__=builtins.__build_class__)
        view.globals = self
        # C code reads these two from the raw storage: what a view holds before anything is asked of it.
        super().__init__(__builtins__=view, __name__=self.base.get("__name__", "__main__"))
        self.given: dict[str, Any] = {}

    def __missing__(self, name: str) -> Any:
        if name in self.base:
            standin = self.session.hand_out(self.base[name], self.path.child("global", name))
        else:
            self.session.captures.guard(self.path, "absent", name)
            builtin = self.builtins[name]  # the KeyError becomes Python's own NameError
            standin = self.session.hooks.swap(builtin)
        self[name] = self.given[name] = standin
        return standin

    def get(self, name: str, default: Any = None) -> Any:
        try:
            return self[name]
        except KeyError:
            return default

    def __contains__(self, name: object) -> bool:
        if super().__contains__(name):
            return True
        if isinstance(name, str) and not is_dunder(name):
            if name in self.base:
                self[name]  # whether it is there depends on what is: guarded by handing it out
            else:
                self.session.captures.guard(self.path, "absent", name)
        return name in self.base

    def _import(
        self, name: str, globals: Any = None, locals: Any = None, fromlist: Any = (), level: int = 0
    ) -> Any:
        """`import` inside a function: the module's stand-in."""
        module = builtins.__import__(name, self.base, None, fromlist, level)
        if isinstance(fromlist, list):  # C code that imports while this frame is the innermost
            return module
        return self.session.hand_out(module, self.session.module_path(module))


class _BuiltinsView(dict[str, Any]):
    """The `__builtins__` of a view: asks the globals first (see the module's docstring)."""

    __slots__ = ("globals",)
    globals: GlobalsView

    def __missing__(self, name: str) -> Any:
        return self.globals[name]


class Session:
    """One trace: the stand-ins handed out so far, by identity of the original, and the captures."""

    def __init__(self, hooks: Hooks) -> None:
        self.hooks = hooks
        self.captures = Captures()
        # By id, with the original, so that the id stays its own.
        self._memo: dict[int, tuple[object, Any, Path]] = {}
        self._views: dict[int, GlobalsView] = {}
        self._modules: dict[str, Path] = {}
        self.unseen = Unseen()

    # -- handing out

    def hand_out(self, obj: Any, path: Path) -> Any:
        """The stand-in of what `path` leads to; recorded as an input or behind a guard."""
        swapped = self.hooks.swap(obj)
        if swapped is not obj:
            self.captures.guard(path, "is", obj)
            return swapped
        kind = type(obj)
        if kind in _STATIC:
            self.captures.guard(path, "value", obj)
            return obj
        if kind is float or kind is complex:
            self.captures.add_input(path, WEAK, obj)
            return self.hooks.number(obj, path)
        known = self._memo.get(id(obj))
        if known is not None:
            if known[2] is not path:
                self.captures.guard(path, "alias", known[2])
            return known[1]
        handler = _HANDLERS.get(kind)
        if handler is None:
            handler = next((found for base, found in _BY_BASE if isinstance(obj, base)), Session._instance)
        return handler(self, obj, path)

    def class_for(self, cls: type) -> Any:
        """The instrumented form of a user class, to rebuild arguments of it; `original_type` undoes it."""
        return self.hand_out(cls, Path.constant(cls))

    def module_path(self, module: ModuleType) -> Path:
        """The path of an imported module: one per module, so that importing again adds no guard."""
        name = module.__name__
        listed = sys.modules.get(name) is module
        return self._modules.setdefault(name, Path.module(name) if listed else Path.constant(module))

    def adopt(self, obj: Any) -> Any:
        """An argument of a user class as an object of the rebuilt class, so that its methods are traced."""
        return standins.adopt(self, obj)

    def __enter__(self) -> Session:
        _ACTIVE.sessions.append(self)
        return self

    def __exit__(self, *_: object) -> None:
        _ACTIVE.sessions.pop()

    def remember(self, obj: object, standin: Any, path: Path) -> Any:
        self._memo[id(obj)] = (obj, standin, path)
        return standin

    def original_of(self, standin: Any) -> tuple[Any] | None:
        """The object that a stand-in of this session stands for, held by identity from now on; None if there is none.
        """
        for obj, known, path in self._memo.values():
            if known is standin:
                self.captures.guard(path, "is", obj)
                return (obj,)
        return None

    def as_it_is(self, obj: Any, path: Path) -> Any:
        self.captures.guard(path, "is", obj)
        return obj

    def _by_value(self, obj: Any, path: Path) -> Any:
        self.captures.guard(path, "value", obj)
        return obj

    def _array(self, obj: Any, path: Path) -> Any:
        self.captures.add_input(path, STRONG, obj)
        return self.remember(obj, self.hooks.array(obj, path), path)

    # -- functions

    def _function(self, fn: FunctionType, path: Path) -> Any:
        if is_instrumented(fn):
            return fn
        if is_user_code(fn):
            return self._recreate(fn, path, self._view(fn, path))
        if "registry" in vars(fn) and "dispatch" in vars(fn):
            return self._singledispatch(fn, path)
        wrapped = getattr(fn, "__wrapped__", None)
        if isinstance(wrapped, FunctionType) and is_user_code(wrapped):
            # What a library decorator made of a user function: library globals, the user's function in a
            # cell.
            return self._recreate(fn, path, None)
        self.captures.guard(path, "is", fn)
        return self.remember(fn, checked(fn), path)

    def _view(self, fn: FunctionType, path: Path) -> GlobalsView:
        view = self._views.get(id(fn.__globals__))
        if view is None:
            view = self._views[id(fn.__globals__)] = GlobalsView(self, fn, path)
            self.unseen.namespace(view, view.given)
        elif view.path is not path:
            self.captures.guard(path, "globals", view.path)
        return view

    def _recreate(self, fn: FunctionType, path: Path, view: GlobalsView | None) -> FunctionType:
        code = fn.__code__
        self.captures.guard(path, "code", (code, *defaults_shape(fn)))
        cells = tuple(CellType() for _ in code.co_freevars)
        namespace = fn.__globals__ if view is None else view
        new = self._staged(code, view, cells) if view is not None else None
        new = new or FunctionType(code, namespace, fn.__name__, None, cells or None)
        new.__name__ = fn.__name__
        new.__qualname__ = fn.__qualname__
        new.__doc__ = fn.__doc__
        self.remember(fn, new, path)  # before the cells: a closure may hold itself
        self.unseen.codes.append((view, code))
        for index, (cell, old, name) in enumerate(zip(cells, fn.__closure__ or (), code.co_freevars)):
            try:
                content = old.cell_contents
            except ValueError:  # not assigned yet: reading it is Python's own NameError
                continue
            if view is None and not isinstance(content, FunctionType):
                cell.cell_contents = content  # the library's own state
                continue
            cell.cell_contents = self.hand_out(content, path.child("cell", index, name))
            self.unseen.cells.append((cell, cell.cell_contents, code, name))
        if fn.__defaults__:
            names = code.co_varnames[code.co_argcount - len(fn.__defaults__) : code.co_argcount]
            # nufunc's own layers and optimizers are what they are: their defaults never change
            own = is_own(fn.__globals__.get("__name__"))
            new.__defaults__ = tuple(
                value if own else self.hand_out(value, path.child("default", index, names[index]))
                for index, value in enumerate(fn.__defaults__)
            )
        if fn.__kwdefaults__:
            new.__kwdefaults__ = {
                name: self.hand_out(value, path.child("kwdefault", name, name))
                for name, value in fn.__kwdefaults__.items()
            }
        for name, value in vars(fn).items():
            setattr(new, name, self.hand_out(value, path.attr(name)))
        self.unseen.functions.append((new, dict(vars(new)), path))
        return new

    def _staged(self, code: CodeType, view: GlobalsView, cells: tuple[CellType, ...]) -> FunctionType | None:
        """The function whose control flow is staged, if that was asked for."""
        staged = staging.replacement(code)
        if staged is code:
            return None
        view[staging.HELPERS] = staging.helpers()
        named = dict(zip(code.co_freevars, cells))
        closure = tuple(named[name] for name in staged.co_freevars)
        return FunctionType(staged, view, None, None, closure or None)

    def running_codes(self) -> list[CodeType]:
        """The code of every user function that was reached."""
        return [code for _, code in self.unseen.codes]

    def _singledispatch(self, fn: Any, path: Path) -> Any:
        self.captures.guard(path, "type", type(fn))
        registry = self.hand_out(fn.registry, path.attr("registry"))
        new = self.remember(fn, functools.singledispatch(registry[object]), path)
        for cls, implementation in registry.items():
            new.register(cls, implementation)
            if is_user_class(cls) and standins.can_rebuild(cls):
                new.register(self.class_for(cls), implementation)
        return new

    def _method(self, method: MethodType, path: Path) -> Any:
        function = self.hand_out(method.__func__, path.attr("__func__"))
        return MethodType(function, self.hand_out(method.__self__, path.attr("__self__")))

    def _builtin(self, fn: Any, path: Path) -> Any:
        owner = fn.__self__
        if owner is None or isinstance(owner, ModuleType | type):
            self.captures.guard(path, "is", fn)
            return checked(fn)
        # A bound method of an object, such as w.dot: that of the object's stand-in.
        self.captures.guard(path, "type", type(fn))
        self.captures.guard(path.attr("__name__"), "value", fn.__name__)
        return getattr(self.hand_out(owner, path.attr("__self__")), fn.__name__)

    def _partial(self, fn: Any, path: Path) -> Any:
        self.captures.guard(path, "type", type(fn))
        function = self.hand_out(fn.func, path.attr("func"))
        arguments = self.hand_out(fn.args, path.attr("args"))
        return type(fn)(function, *arguments, **self.hand_out(fn.keywords, path.attr("keywords")))

    def _vectorize(self, fn: Any, path: Path) -> Any:
        """What np.vectorize made of a function."""
        self.captures.guard(path, "type", type(fn))
        names = ("pyfunc", "otypes", "excluded", "cache", "signature")
        parts = {name: self.hand_out(getattr(fn, name), path.attr(name)) for name in names}
        return self.hooks.swap(np.vectorize)(**parts)

    def _poly1d(self, polynomial: Any, path: Path) -> Any:
        """A polynomial by its coefficients, which are inputs as other arrays are."""
        self.captures.guard(path, "type", type(polynomial))
        self.captures.guard(path.attr("variable"), "value", polynomial.variable)
        made = self.hooks.swap(np.poly1d)(self.hand_out(polynomial.coeffs, path.attr("coeffs")))
        return self.remember(polynomial, made, path)

    def _series(self, series: Any, path: Path) -> Any:
        """A series of numpy.polynomial by its coefficients, and by its ends where these are its own."""
        self.captures.guard(path, "type", type(series))
        own = [name for name in ("domain", "window") if name in vars(series)]
        ends = {name: self.hand_out(getattr(series, name), path.attr(name)) for name in own}
        coefficients = self.hand_out(series.coef, path.attr("coef"))
        return self.remember(series, self.hooks.swap(type(series))(coefficients, **ends), path)

    def _lru_cache(self, fn: Any, path: Path) -> Any:
        if not (isinstance(fn.__wrapped__, FunctionType) and is_user_code(fn.__wrapped__)):
            return self.as_it_is(fn, path)
        self.captures.guard(path, "type", type(fn))
        return self.hand_out(fn.__wrapped__, path.attr("__wrapped__"))

    # -- modules, classes, instances, containers

    def _module(self, module: ModuleType, path: Path) -> Any:
        self.captures.guard(path, "is", module)
        return self.remember(module, ModuleView(self, module, path), path)

    def _class(self, cls: type, path: Path) -> Any:
        self.captures.guard(path, "is", cls)
        if not is_user_class(cls):
            return without_clock(cls)
        if not standins.can_rebuild(cls):
            return cls
        return standins.rebuild_class(self, cls, path)

    def _container(self, obj: Any, path: Path) -> Any:
        cls = type(obj)
        user = standins.user_standin if is_user_class(cls) and standins.can_rebuild(cls) else None
        standin = containers.container(self, obj, path, user)
        if not isinstance(standin, tuple | types.MappingProxyType):
            self.unseen.containers.append((standin, containers.content(standin), path))
        return standin

    def _unguarded(self, obj: Any, path: Path) -> Any:
        what = (
            "draws from it"
            if type(obj).__module__.startswith(("numpy.random", "random"))
            else "each step of it"
        )
        raise UnguardedCaptureError(
            f"{source(path)} is a {type(obj).__name__}: {what} would be done once, while tracing, and the "
            "same values used at every later call; pass the values as an argument instead",
            user_location(),
        )

    def _instance(self, obj: Any, path: Path) -> Any:
        cls = type(obj)
        if hasattr(cls, "__cuda_array_interface__") and on_device(obj):
            return self._array(obj, path)
        if hasattr(cls, "__nufunc_parts__"):
            return self._transform(obj, path)
        if is_generator(obj) and hasattr(self.hooks, "generator"):
            self.captures.guard(path, "type", cls)
            return self.remember(obj, self.hooks.generator(path), path)
        if cls.__module__.startswith("numpy.random"):
            return self._unguarded(obj, path)
        if cls.__module__.startswith("numpy.polynomial.") and hasattr(cls, "basis"):
            return self._series(obj, path)
        if isinstance(obj, collections.abc.Iterator) and not isinstance(obj, io.IOBase):
            return self._unguarded(obj, path)
        if original_type(cls) is not cls:
            return obj
        if is_user_class(cls):
            return standins.user_instance(self, obj, path)
        if is_own(cls.__module__):
            return self.as_it_is(obj, path)
        return standins.library_instance(self, obj, path)

    def _transform(self, obj: Any, path: Path) -> Any:
        """A transformed function (nf.grad(loss) in a global): the same of the instrumented functions.

        Protocol: `__nufunc_parts__`, the tuple of objects it is made of; `__nufunc_key__`, a hashable that
        says all else about it; `__nufunc_rebind__(parts)`, the same transform of other parts.
        """
        self.captures.guard(path, "type", type(obj))
        self.captures.guard(path.attr("__nufunc_key__"), "value", obj.__nufunc_key__)
        parts = self.hand_out(obj.__nufunc_parts__, path.attr("__nufunc_parts__"))
        return self.remember(obj, obj.__nufunc_rebind__(parts), path)


def on_device(obj: Any) -> bool:
    """Whether an object of another library is an array on a CUDA device; those of the host have no interface."""
    return getattr(obj, "__cuda_array_interface__", None) is not None


def register_array(cls: type) -> None:
    """Captured objects of this class are inputs, as arrays are."""
    _HANDLERS[cls] = Session._array


_STATIC = frozenset(
    (int, bool, str, bytes, type(None), type(...), type(NotImplemented), range, slice, frozenset, optree.PyTreeSpec)
)  # the items of a frozenset cannot be arrays; its floats are static
_HANDLERS: dict[type, Callable[[Session, Any, Path], Any]] = {
    np.ndarray: Session._array,
    FunctionType: Session._function,
    MethodType: Session._method,
    types.BuiltinFunctionType: Session._builtin,
    functools.partial: Session._partial,
    np.vectorize: Session._vectorize,
    np.poly1d: Session._poly1d,
    functools._lru_cache_wrapper: Session._lru_cache,
    ModuleType: Session._module,
    list: Session._container,
    tuple: Session._container,
    dict: Session._container,
}
# Asked in this order for all other types.
_BY_BASE: tuple[tuple[Any, Callable[[Session, Any, Path], Any]], ...] = (
    ((np.ndarray, np.generic), Session._array),
    (type, Session._class),
    (ModuleType, Session._module),
    (functools.partial, Session._partial),
    (enum.Enum, Session.as_it_is),
    (np.dtype, Session._by_value),
    (random.Random, Session._unguarded),
    ((float, complex), Session._unguarded),
    ((int, str, bytes), Session._by_value),
    (containers.CONTAINERS, Session._container),
)
assert sys.implementation.name == "cpython", "the view of globals relies on CPython's lookups"
