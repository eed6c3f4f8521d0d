"""Module and Parameter: named arrays in a tree of objects, with torch's registration, names and state dictionaries."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np

from nufunc.ir.errors import ArgumentError, ArgumentTypeError, UnsupportedError
from nufunc.ir.types import bfloat16, dtype_from, kind_of
from nufunc.nn.tensors import array_of
from nufunc.tracer.tree import register_object
from nufunc.tracer.usercode import user_location

__nufunc_traceable__ = True  # plain NumPy code: traced like the user's

M = TypeVar("M", bound="Module")


class Parameter:
    """Marks an array as a parameter where it is assigned to an attribute of a Module, which then holds the array
    itself.

    data : an array, or what np.asarray makes one of; it is not copied. Two attributes that are assigned Parameters of
    one array are tied. requires_grad : False leaves it out of `named_parameters(trainable=True)`.

    >>> import numpy as np, nufunc as nf
    >>> class Scale(nf.nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.factor = nf.nn.Parameter(np.ones(3))
    ...     def forward(self, x):
    ...         return self.factor * x
    >>> [name for name, _ in Scale().named_parameters()]
    ['factor']
    """

    def __init__(self, data: Any, requires_grad: bool = True) -> None:
        self.data = data if _is_array(data) else np.asarray(data)
        self.requires_grad = requires_grad

    def __repr__(self) -> str:
        return f"Parameter({self.data!r})"


def _is_array(x: Any) -> bool:
    return isinstance(x, np.ndarray) or (hasattr(x, "shape") and hasattr(x, "dtype"))


class RemovableHandle:
    """Takes a hook away again: by `remove`, or at the end of a with statement."""

    def __init__(self, module: Module, kind: str) -> None:
        self.module, self.kind = module, kind

    def remove(self) -> None:
        """Forget the hook."""
        kept = tuple(entry for entry in getattr(self.module, self.kind) if entry[0] is not self)
        object.__setattr__(self.module, self.kind, kept)

    def __enter__(self) -> RemovableHandle:
        return self

    def __exit__(self, *exception: object) -> None:
        self.remove()


class IncompatibleKeys(NamedTuple):
    """What `load_state_dict(strict=False)` did not find a place, or a value, for."""

    missing_keys: list[str]
    unexpected_keys: list[str]


class Module:
    """The base of layers and models, as torch.nn.Module: subclasses make their parts in `__init__`, after
    `super().__init__()`, and say in `forward` what a call computes, in plain NumPy.

    Attributes that are assigned a `Parameter` are parameters, those that are assigned a Module are its children; arrays
    registered with `register_buffer` are state that is not trained. All are NumPy arrays. A module may be called as
    it is, captured by a traced function, or be an argument: it is a tree whose leaves are its arrays.

    >>> import numpy as np, nufunc as nf
    >>> class Net(nf.nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.hidden = nf.nn.Linear(3, 8)
    ...         self.out = nf.nn.Linear(8, 1)
    ...     def forward(self, x):
    ...         return self.out(np.tanh(self.hidden(x)))
    >>> net = Net()
    >>> params = dict(net.named_parameters())
    >>> loss = lambda params, x: nf.functional_call(net, params, x).sum()
    >>> {name: g.shape for name, g in nf.grad(loss)(params, np.ones((5, 3))).items()}
    {'hidden.weight': (8, 3), 'hidden.bias': (8,), 'out.weight': (1, 8), 'out.bias': (1,)}
    """

    __nufunc_traceable__ = True  # a model is traced, wherever its class is defined
    __constants__: tuple[str, ...] = ()  # attributes that hold numbers which are part of a compilation, not its inputs
    _forward_pre_hooks: tuple[Any, ...] = ()  # (handle, hook, with_kwargs)
    _forward_hooks: tuple[Any, ...] = ()
    training: bool
    _parameters: dict[str, bool]  # name -> whether it is trained; the arrays are attributes
    _buffers: dict[str, bool]  # name -> whether it is part of the state dictionary
    _modules: dict[str, None]

    if TYPE_CHECKING:  # parts that are registered by name

        def __getattr__(self, name: str) -> Any: ...

    def __init__(self) -> None:
        for name, value in (("training", True), ("_parameters", {}), ("_buffers", {}), ("_modules", {})):
            object.__setattr__(self, name, value)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        register_object(cls, _split, _joined)

    # -- registration

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, Parameter):
            self.register_parameter(name, value)
        elif isinstance(value, Module):
            self.add_module(name, value)
        else:
            names = self.__dict__
            for kind in ("_parameters", "_buffers"):
                if name in names.get(kind, ()) and not (value is None or _is_array(value)):
                    what = "parameter" if kind == "_parameters" else "buffer"
                    raise ArgumentTypeError(
                        f"cannot assign {type(value).__name__} as {what} {name!r} of {type(self).__name__}: expected "
                        "an array or None",
                        user_location(),
                    )
            if name in names.get("_modules", ()) and value is not None:
                raise ArgumentTypeError(
                    f"cannot assign {type(value).__name__} as child module {name!r} of {type(self).__name__}: "
                    "expected a Module or None",
                    user_location(),
                )
            super().__setattr__(name, value)

    def __delattr__(self, name: str) -> None:
        for kind in ("_parameters", "_buffers", "_modules"):
            self.__dict__[kind].pop(name, None)
        super().__delattr__(name)

    def _registry(self, kind: str, name: str) -> dict[str, Any]:
        """The register of a kind, for a new name in it."""
        if "_modules" not in self.__dict__:
            raise ArgumentError(
                f"{type(self).__name__}: call super().__init__() before anything is assigned", user_location()
            )
        if not isinstance(name, str) or not name or "." in name:
            raise ArgumentError(f"names of parameters, buffers and modules have no '.', got {name!r}", user_location())
        for other in ("_parameters", "_buffers", "_modules"):
            if other != kind:
                self.__dict__[other].pop(name, None)
        registry: dict[str, Any] = self.__dict__[kind]
        return registry

    def register_parameter(self, name: str, param: Parameter | None) -> None:
        """Add a parameter; None keeps the name without an array (a layer without bias)."""
        if param is not None and not isinstance(param, Parameter):
            raise ArgumentTypeError(
                f"register_parameter: {name!r} must be a Parameter or None, got {type(param).__name__}",
                user_location(),
            )
        self._registry("_parameters", name)[name] = param is None or param.requires_grad
        super().__setattr__(name, None if param is None else param.data)

    def register_buffer(self, name: str, tensor: Any, persistent: bool = True) -> None:
        """Add an array that is state, but no parameter; persistent=False leaves it out of the state dictionary."""
        if tensor is not None and not _is_array(tensor):
            raise ArgumentTypeError(
                f"register_buffer: {name!r} must be an array or None, got {type(tensor).__name__}", user_location()
            )
        self._registry("_buffers", name)[name] = bool(persistent)
        super().__setattr__(name, tensor)

    def add_module(self, name: str, module: Module | None) -> None:
        """Add a child; None keeps the name."""
        if module is not None and not isinstance(module, Module):
            raise ArgumentTypeError(
                f"add_module: {name!r} must be a Module or None, got {type(module).__name__}", user_location()
            )
        self._registry("_modules", name)[name] = None
        super().__setattr__(name, module)

    register_module = add_module

    # -- walking

    def named_modules(self, prefix: str = "", remove_duplicate: bool = True) -> Iterator[tuple[str, Module]]:
        """(dotted name, module) for this module and all below it, each object once unless told otherwise."""
        seen: set[int] = set()

        def walk(module: Module, prefix: str) -> Iterator[tuple[str, Module]]:
            if remove_duplicate and id(module) in seen:
                return
            seen.add(id(module))
            yield prefix, module
            for name, child in module._children():
                yield from walk(child, f"{prefix}.{name}" if prefix else name)

        yield from walk(self, prefix)

    def _children(self) -> Iterator[tuple[str, Module]]:
        for name in self._modules:
            child = getattr(self, name)
            if child is not None:
                yield name, child

    def modules(self) -> Iterator[Module]:
        """This module and all below it."""
        for _, module in self.named_modules():
            yield module

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """(name, child) for each child, each object once."""
        seen: set[int] = set()
        for name, child in self._children():
            if id(child) not in seen:
                seen.add(id(child))
                yield name, child

    def children(self) -> Iterator[Module]:
        """The children."""
        for _, child in self.named_children():
            yield child

    def _named(
        self, kind: str, prefix: str, recurse: bool, remove_duplicate: bool, wanted: Callable[[bool], bool]
    ) -> Iterator[tuple[str, Any]]:
        seen: set[int] = set()
        for path, module in self.named_modules(prefix, remove_duplicate) if recurse else [(prefix, self)]:
            for name, flag in getattr(module, kind).items():
                array = getattr(module, name)
                if array is None or not wanted(flag) or (remove_duplicate and id(array) in seen):
                    continue
                seen.add(id(array))
                yield (f"{path}.{name}" if path else name), array

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True, trainable: bool | None = None
    ) -> Iterator[tuple[str, Any]]:
        """(dotted name, array) for each parameter; tied ones once. `trainable`: only those that are trained, or only
        those that are frozen.
        """
        yield from self._named(
            "_parameters", prefix, recurse, remove_duplicate, lambda flag: trainable in (None, flag)
        )

    def parameters(self, recurse: bool = True) -> Iterator[Any]:
        """The parameters."""
        for _, array in self.named_parameters(recurse=recurse):
            yield array

    def named_buffers(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Any]]:
        """(dotted name, array) for each buffer."""
        yield from self._named("_buffers", prefix, recurse, remove_duplicate, lambda _: True)

    def buffers(self, recurse: bool = True) -> Iterator[Any]:
        """The buffers."""
        for _, array in self.named_buffers(recurse=recurse):
            yield array

    def get_submodule(self, target: str) -> Module:
        """The module of a dotted name; "" is this one."""
        module: Any = self
        for name in target.split(".") if target else ():
            if name not in getattr(module, "_modules", {}):
                raise AttributeError(f"{type(module).__name__} has no module {name!r}")
            module = getattr(module, name)
        found: Module = module
        return found

    def get_parameter(self, target: str) -> Any:
        """The parameter of a dotted name."""
        return self._get("_parameters", target, "parameter")

    def get_buffer(self, target: str) -> Any:
        """The buffer of a dotted name."""
        return self._get("_buffers", target, "buffer")

    def _get(self, kind: str, target: str, what: str) -> Any:
        path, _, name = target.rpartition(".")
        module = self.get_submodule(path)
        if name not in getattr(module, kind):
            raise AttributeError(f"{type(module).__name__} has no {what} {name!r}")
        return getattr(module, name)

    # -- state

    def _entries(self, prefix: str = "") -> Iterator[tuple[str, Module, str]]:
        """(dotted name, module, attribute) for what is in the state dictionary, in torch's order."""
        for path, module in self.named_modules(prefix, remove_duplicate=False):
            names = [*module._parameters, *(name for name, persistent in module._buffers.items() if persistent)]
            for name in names:
                if getattr(module, name) is not None:
                    yield (f"{path}.{name}" if path else name), module, name

    def state_dict(self, prefix: str = "") -> dict[str, Any]:
        """Dotted names -> the arrays themselves, of parameters and persistent buffers."""
        return {key: getattr(module, name) for key, module, name in self._entries(prefix.rstrip("."))}

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True) -> IncompatibleKeys:
        """Copy values into the module's own arrays, converting dtypes; torch tensors on the CPU are taken as they are.

        Shapes must agree, and with `strict` the keys too; else nothing is changed and ArgumentError lists what is
        wrong.
        """
        if not isinstance(state_dict, Mapping):
            raise ArgumentTypeError(
                f"load_state_dict: expected a dict of arrays, got {type(state_dict).__name__}", user_location()
            )
        entries = list(self._entries())
        keys = {key for key, _, _ in entries}
        missing = [key for key, _, _ in entries if key not in state_dict]
        unexpected = [key for key in state_dict if key not in keys]
        problems = []
        if strict:
            problems += [f"Missing key(s) in state_dict: {_quoted(missing)}."] if missing else []
            problems += [f"Unexpected key(s) in state_dict: {_quoted(unexpected)}."] if unexpected else []
        copies = []
        for key, module, name in entries:
            if key in state_dict:
                own, value = getattr(module, name), array_of(state_dict[key])
                copies.append((own, value))
                if own.shape != value.shape:
                    problems.append(
                        f"size mismatch for {key}: copying an array of shape {value.shape} from state_dict, the shape "
                        f"in the current model is {own.shape}."
                    )
        if problems:
            listed = "\n\t".join(problems)
            raise ArgumentError(
                f"Error(s) in loading state_dict for {type(self).__name__}:\n\t{listed}", user_location()
            )
        for own, value in copies:
            own[...] = value
        return IncompatibleKeys(missing, unexpected)

    # -- modes and conversions, which all give the module back

    def train(self: M, mode: bool = True) -> M:
        """Set the training mode of this module and all below it."""
        for module in self.modules():
            object.__setattr__(module, "training", bool(mode))
        return self

    def eval(self: M) -> M:
        """Leave the training mode."""
        return self.train(False)

    def requires_grad_(self: M, requires_grad: bool = True) -> M:
        """Say of all parameters whether they are trained: see `named_parameters(trainable=True)`."""
        for module in self.modules():
            for name in module._parameters:
                module._parameters[name] = bool(requires_grad)
        return self

    def apply(self: M, fn: Callable[[Module], Any]) -> M:
        """Call fn on every module below this one, children first, and on this one."""
        for child in self.children():
            child.apply(fn)
        fn(self)
        return self

    def to(self: M, dtype: Any) -> M:
        """Convert the floating-point parameters and buffers to a dtype; tied arrays stay tied.

        There is no device to name: arrays are NumPy's.
        """
        try:
            wanted = dtype_from(dtype)
        except TypeError:
            raise ArgumentError(
                f"to: expected a dtype, got {dtype!r}; modules hold NumPy arrays, there are no devices to move them to",
                user_location(),
            ) from None
        if kind_of(wanted) not in "fc":
            raise ArgumentError(f"to: expected a floating-point or complex dtype, got {wanted}", user_location())
        made: dict[int, Any] = {}
        for module in self.modules():
            for name in (*module._parameters, *module._buffers):
                array = getattr(module, name)
                if array is not None and kind_of(array.dtype) in "fc" and array.dtype != wanted:
                    if id(array) not in made:
                        made[id(array)] = array, array.astype(wanted)
                    object.__setattr__(module, name, made[id(array)][1])
        return self

    def float(self: M) -> M:
        """Convert to float32."""
        return self.to(np.float32)

    def double(self: M) -> M:
        """Convert to float64."""
        return self.to(np.float64)

    def half(self: M) -> M:
        """Convert to float16."""
        return self.to(np.float16)

    def bfloat16(self: M) -> M:
        """Convert to bfloat16."""
        return self.to(bfloat16())

    # -- calls and text

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What a call computes."""
        raise NotImplementedError(f"{type(self).__name__} defines no forward")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not self._forward_pre_hooks and not self._forward_hooks:
            return self.forward(*args, **kwargs)
        for _, hook, with_kwargs in self._forward_pre_hooks:
            if not with_kwargs:
                found = hook(self, args)
                if found is not None:
                    args = found if isinstance(found, tuple) else (found,)
                continue
            found = hook(self, args, kwargs)
            if found is not None:
                args, kwargs = found
        result = self.forward(*args, **kwargs)
        for _, hook, with_kwargs in self._forward_hooks:
            found = hook(self, args, kwargs, result) if with_kwargs else hook(self, args, result)
            if found is not None:
                result = found
        return result

    def register_forward_pre_hook(
        self, hook: Callable[..., Any], *, prepend: bool = False, with_kwargs: bool = False
    ) -> RemovableHandle:
        """Call hook(module, args) before every call of the module; what it returns, a tuple or one value, takes the
        place of args. With with_kwargs hook(module, args, kwargs) may return (args, kwargs).

        Hooks are part of what is traced: one that changes things outside of the arrays works in plain calls alone.
        """
        return self._hooked("_forward_pre_hooks", hook, prepend, with_kwargs)

    def register_forward_hook(
        self, hook: Callable[..., Any], *, prepend: bool = False, with_kwargs: bool = False
    ) -> RemovableHandle:
        """Call hook(module, args, result) after every call of the module; what it returns takes the place of the
        result. With with_kwargs it is hook(module, args, kwargs, result). See `register_forward_pre_hook`.

        >>> import numpy as np, nufunc as nf
        >>> layer = nf.nn.Linear(3, 2)
        >>> handle = layer.register_forward_hook(lambda module, args, result: np.tanh(result))
        >>> float(np.abs(layer(100 * np.ones(3))).max()) <= 1
        True
        >>> handle.remove()
        """
        return self._hooked("_forward_hooks", hook, prepend, with_kwargs)

    def _hooked(self, kind: str, hook: Callable[..., Any], prepend: bool, with_kwargs: bool) -> RemovableHandle:
        handle = RemovableHandle(self, kind)
        entry = (handle, hook, with_kwargs)
        hooks = getattr(self, kind)
        object.__setattr__(self, kind, (entry, *hooks) if prepend else (*hooks, entry))
        return handle

    def register_full_backward_hook(self, *args: Any, **kwargs: Any) -> RemovableHandle:
        """There is no backward pass of a module to hook into: always an error."""
        raise UnsupportedError(
            f"{type(self).__name__}: there are no backward hooks, since gradients are functions here; change a "
            "derivative with nf.custom_vjp, and look at one in what nf.grad or nf.vjp returns",
            user_location(),
        )

    register_backward_hook = register_full_backward_pre_hook = register_full_backward_hook

    def extra_repr(self) -> str:
        """What stands in the parentheses of a layer's text."""
        return ""

    def __repr__(self) -> str:
        extra = self.extra_repr()
        lines = extra.split("\n") if extra else []
        children = [f"({name}): {_indented(repr(getattr(self, name)))}" for name in self._modules]
        if not children:
            return f"{type(self).__name__}({extra})" if len(lines) <= 1 else _block(type(self).__name__, lines)
        return _block(type(self).__name__, [*lines, *children])


def _quoted(names: list[str]) -> str:
    return ", ".join(f'"{name}"' for name in names)


def _indented(text: str) -> str:
    first, *rest = text.split("\n")
    return "\n".join([first, *(f"  {line}" for line in rest)])


def _block(name: str, lines: list[str]) -> str:
    return "\n".join([f"{name}(", *(f"  {line}" for line in lines), ")"])


# -- modules as trees


class _Rest:
    """What of a module is no leaf: compared by value, as far as that goes."""

    def __init__(self, names: tuple[str, ...], attributes: dict[str, Any]) -> None:
        self.names, self.attributes = names, attributes

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Rest) and (self.names, self.attributes) == (other.names, other.attributes)

    def __hash__(self) -> int:
        return hash((self.names, frozenset(self.attributes)))


def _split(module: Module) -> tuple[tuple[Any, ...], Any, tuple[str, ...]]:
    """The arrays and child modules of a module, and the rest of it. A tied array is one leaf for each of its names."""
    rest = vars(module).copy()
    names = (*module._parameters, *module._buffers, *module._modules)
    found = [rest.pop(name) for name in names]
    others = [name for name, value in rest.items() if isinstance(value, np.ndarray)]
    if others:
        others.sort()
        found += [rest.pop(name) for name in others]
        names = (*names, *others)
    return tuple(found), _Rest(names, rest), names


def _joined(cls: type, rest: _Rest, children: Any) -> Any:
    module: Any = object.__new__(cls)
    attributes = vars(module)
    attributes.update(zip(rest.names, children, strict=True))
    for name, value in rest.attributes.items():
        # registers are the module's own: a copy may gain names
        attributes[name] = dict(value) if type(value) is dict else value
    return module


register_object(Module, _split, _joined)

__all__ = ["IncompatibleKeys", "Module", "Parameter", "RemovableHandle"]
