"""Modules as functions of their state: functional_call, stacks of models, batch norm without state, rearrange."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np

from nufunc.ir.errors import ArgumentError, ArgumentTypeError, MutationError, ShapeError
from nufunc.nn.module import Module
from nufunc.nn.torch_program import is_torch_module, torch_module
from nufunc.tracer.array import Array
from nufunc.tracer.containers import original_type
from nufunc.tracer.standins import attribute_names, guard_identities, original_of
from nufunc.tracer.usercode import user_location
from nufunc.tracer.view import active_session, rebuilt_type

M = TypeVar("M")


# -- functional_call


def functional_call(
    module: Any,
    parameter_and_buffer_dicts: Mapping[str, Any] | Sequence[Mapping[str, Any]],
    args: Any = None,
    kwargs: Mapping[str, Any] | None = None,
    *,
    tie_weights: bool = True,
    strict: bool = False,
) -> Any:
    """module(*args, **kwargs) with the arrays in the dicts in the place of its own parameters and buffers.

    module : an `nf.nn.Module`, or a torch.nn.Module (see `nf.nn.from_torch`); it is not changed.
    parameter_and_buffer_dicts : a dict from dotted names (as in `named_parameters`) to arrays, or several dicts
    without common keys. What is missing is the module's own. args : the arguments; anything but a tuple is one
    argument. Updates of buffers (the running statistics of batch norm), in place or by assignment, are made in the
    arrays of the dicts. Other attributes that `forward` assigns are assigned to the module; in traced code that is an
    error.

    tie_weights : names of one array in the module get one value; different values for them are a ValueError.
    strict : every name must be given, and no other.

    >>> import numpy as np, nufunc as nf
    >>> layer = nf.nn.Linear(2, 1)
    >>> nf.functional_call(layer, {"weight": np.array([[1., 2.]]), "bias": np.zeros(1)}, np.array([3., 4.]))
    array([11.])
    """
    arguments = () if args is None else args if isinstance(args, tuple) else (args,)
    if is_torch_module(original_of(module)):
        module = torch_module(module, arguments, dict(kwargs or {}))
    _check_module(module, "functional_call")
    values = _merged(parameter_and_buffer_dicts)
    values = _checked_names(module, values, tie_weights, strict)
    made: list[_Copy] = []
    result = _with_values(module, values, made)(*arguments, **(kwargs or {}))
    for copied in made:
        _keep_assignments(copied, values)
    return result


def _check_module(module: Any, what: str) -> None:
    if not issubclass(original_type(type(original_of(module))), Module):
        raise ArgumentTypeError(f"{what}: expected an nf.nn.Module, got {type(module).__name__}", user_location())


def _merged(dicts: Any) -> dict[str, Any]:
    if isinstance(dicts, Mapping):
        return dict(dicts)
    if not isinstance(dicts, list | tuple) or not all(isinstance(d, Mapping) for d in dicts):
        found = type(dicts).__name__
        if isinstance(dicts, list | tuple):
            found = f"{found} of {', '.join(type(d).__name__ for d in dicts)}"
        raise ArgumentError(
            f"Expected parameter_and_buffer_dicts to be a dict, or a list/tuple of dicts, but got {found}",
            user_location(),
        )
    keys = [key for d in dicts for key in d]
    twice = sorted({key for key in keys if keys.count(key) > 1}) if len(set(keys)) != len(keys) else []
    if twice:
        raise ArgumentError(
            f"{twice} appeared in multiple dictionaries; behavior of functional call is ambiguous", user_location()
        )
    return {key: value for d in dicts for key, value in d.items()}


def _names(module: Any) -> dict[str, Any]:
    """Every dotted name of a parameter or buffer, tied ones each, with the module's own array."""
    own = original_of(module)
    return dict(
        [*own.named_parameters(remove_duplicate=False), *own.named_buffers(remove_duplicate=False)]
    )


def _checked_names(module: Any, values: dict[str, Any], tie_weights: bool, strict: bool) -> dict[str, Any]:
    """The values for all names that they stand for."""
    own = _names(module)
    groups: dict[int, list[str]] = {}
    for name, array in own.items():
        groups.setdefault(id(array), []).append(name)
    if tie_weights:
        guard_identities(module, groups.values())
        for names in groups.values():
            given = [name for name in names if name in values]
            if len({id(values[name]) for name in given}) > 1:
                raise ArgumentError(
                    f"functional_call got multiple values for keys {sorted(given)}, which are tied. Consider using "
                    "tie_weights=False",
                    user_location(),
                )
            if given:
                values.update(dict.fromkeys(names, values[given[0]]))
    if strict:
        unexpected, missing = sorted(set(values) - set(own)), sorted(set(own) - set(values))
        problems = [f"Unexpected key(s): {', '.join(map(repr, unexpected))}."] if unexpected else []
        problems += [f"Missing key(s): {', '.join(map(repr, missing))}."] if missing else []
        if problems:
            listed = "\n\t".join(problems)
            raise ArgumentError(
                f"Error(s) in reparametrizing for {type(original_of(module)).__name__}:\n\t{listed}", user_location()
            )
    return values


class _Copy(NamedTuple):
    """A module in which values stand, with what its attributes were before the call."""

    module: Any
    copy: Any
    prefix: str
    attributes: dict[str, Any]


def _with_values(module: Any, values: Mapping[str, Any], made: list[_Copy], prefix: str = "") -> Any:
    """A copy of the module that holds these values; the other arrays are shared. Listed in `made` with its children."""
    new = object.__new__(rebuilt_type(type(module)))
    own = original_of(module)
    for name in attribute_names(module):
        full = prefix + name
        if full in values:
            value = values[full]
            if name in own._buffers:
                _make_writable(value)
        else:
            value = getattr(module, name)
            inside = f"{full}."
            # children of a module that is no stand-in have to become such as traced code runs
            if name in own._modules and value is not None and (
                own is module or any(key.startswith(inside) for key in values)
            ):
                value = _with_values(value, values, made, inside)
        object.__setattr__(new, name, value)
    made.append(_Copy(module, new, prefix, dict(vars(new))))
    return new


def _keep_assignments(copied: _Copy, values: Mapping[str, Any]) -> None:
    """Write what `forward` assigned to buffers into the arrays that they were, and set other attributes."""
    own = original_of(copied.module)
    for name, value in list(vars(copied.copy).items()):
        before = copied.attributes.get(name)
        if name in copied.attributes and before is value:
            continue
        full = copied.prefix + name
        if name in own._buffers and before is not None and value is not None:
            if isinstance(before, np.generic):
                raise ArgumentError(
                    f"functional_call: the buffer {full!r} is updated, but is a NumPy scalar; pass an array (of a "
                    "stack: buffer[i, ...])",
                    user_location(),
                )
            before[...] = value
        elif own is copied.module and active_session() is None and full not in values:
            setattr(own, name, value)
        else:
            raise MutationError(
                f"functional_call: forward assigns {full!r} of {type(own).__name__}, which would be lost: return the "
                "value, or make it a buffer",
                user_location(),
            )


def _make_writable(buffer: Any) -> None:
    """A lane of a stack of 0-d buffers is a NumPy scalar, which `+=` would replace: let it be a 0-d array."""
    if type(buffer) is Array and buffer.scalar and not buffer.weak:
        buffer.scalar = False


# -- stacks of models


def stack_module_state(models: Sequence[Module]) -> tuple[dict[str, Any], dict[str, Any]]:
    """(parameters, buffers) of several models of one class, each name's arrays stacked along a new axis 0.

    >>> import numpy as np, nufunc as nf
    >>> models = [nf.nn.Linear(2, 3) for _ in range(5)]
    >>> params, buffers = nf.stack_module_state(models)
    >>> call = lambda params, x: nf.functional_call(models[0], params, x)
    >>> nf.vmap(call, in_dims=(0, None))(params, np.ones(2)).shape
    (5, 3)
    """
    models = list(models)
    _check_models(models, "stack_module_state")
    states = []
    for walk in ("named_parameters", "named_buffers"):
        named = [dict(getattr(model, walk)()) for model in models]
        stacked = {}
        for name in named[0]:
            arrays = [state[name] for state in named]
            shapes = {np.shape(a) for a in arrays}
            if len(shapes) > 1:
                raise ShapeError(
                    f"stack_module_state: all models must have {name!r} of one shape, got {sorted(shapes)}",
                    user_location(),
                )
            stacked[name] = np.stack(arrays)
        states.append(stacked)
    return states[0], states[1]


def _check_models(models: Sequence[Any], what: str) -> None:
    if not models:
        raise ArgumentError(f"{what}: Expected at least one model, got 0.", user_location())
    for model in models:
        _check_module(model, what)
    if len({model.training for model in models}) > 1:
        raise ArgumentError(f"{what}: Expected all models to have the same training/eval mode.", user_location())
    if len({type(original_of(model)) for model in models}) > 1:
        raise ArgumentError(f"{what}: Expected all models to be of the same class.", user_location())
    trained = [tuple(dict(m.named_parameters(trainable=True))) for m in models]
    if len(set(trained)) > 1:
        raise ArgumentError(
            f"{what}: Expected the parameters of all models to have the same requires_grad.", user_location()
        )


# -- the legacy family


class FunctionalModule:
    """A model as a function of its state: what the `make_functional` family returns. Call it as
    f(params, *args, **kwargs), or as f(params, buffers, *args, **kwargs) where it has buffers.
    """

    def __init__(self, model: Module, names: tuple[tuple[str, ...], ...]) -> None:
        self.model, self.names = model, names

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        count = len(self.names)
        values: dict[str, Any] = {}
        for names, state in zip(self.names, args[:count], strict=True):
            if len(names) != len(state):
                raise ArgumentError(
                    f"expected {len(names)} arrays of state, as the model had, got {len(state)}", user_location()
                )
            values.update(zip(names, state, strict=True))
        return functional_call(self.model, values, tuple(args[count:]), kwargs)

    # -- what the globals view needs: the model's own arrays are replaced, but the rest of it is read as it is

    @property
    def __nufunc_parts__(self) -> tuple[Any, ...]:
        return (self.model,)

    @property
    def __nufunc_key__(self) -> Any:
        return self.names

    def __nufunc_rebind__(self, parts: tuple[Any, ...]) -> FunctionalModule:
        return FunctionalModule(parts[0], self.names)


def make_functional(model: Module, disable_autograd_tracking: bool = False) -> tuple[FunctionalModule, tuple[Any, ...]]:
    """(f, params) with f(params, *args) = model(*args), for a model without buffers: `functional_call` in the form of
    the former functorch. disable_autograd_tracking changes nothing here: arrays track nothing.

    >>> import numpy as np, nufunc as nf
    >>> f, params = nf.make_functional(nf.nn.Linear(2, 3))
    >>> f(params, np.ones(2)).shape, [p.shape for p in params]
    ((3,), [(3, 2), (3,)])
    """
    _check_module(model, "make_functional")
    if next(iter(model.buffers()), None) is not None:
        raise ArgumentError(
            "make_functional(model): `model` has buffers. Please use make_functional_with_buffers(model) instead.",
            user_location(),
        )
    params = dict(model.named_parameters())
    return FunctionalModule(copy.deepcopy(model), (tuple(params),)), tuple(params.values())


def make_functional_with_buffers(
    model: Module, disable_autograd_tracking: bool = False
) -> tuple[FunctionalModule, tuple[Any, ...], tuple[Any, ...]]:
    """(f, params, buffers) with f(params, buffers, *args) = model(*args); see `make_functional`."""
    _check_module(model, "make_functional_with_buffers")
    params, buffers = dict(model.named_parameters()), dict(model.named_buffers())
    function = FunctionalModule(copy.deepcopy(model), (tuple(params), tuple(buffers)))
    return function, tuple(params.values()), tuple(buffers.values())


def combine_state_for_ensemble(
    models: Sequence[Module],
) -> tuple[FunctionalModule, tuple[Any, ...], tuple[Any, ...]]:
    """(f, params, buffers) of several models of one class, with the state stacked along axis 0, to be called under
    nf.vmap(f, in_dims=(0, 0, None)).
    """
    models = list(models)
    _check_models(models, "combine_state_for_ensemble")
    params, buffers = stack_module_state(models)
    function = FunctionalModule(copy.deepcopy(models[0]), (tuple(params), tuple(buffers)))
    return function, tuple(params.values()), tuple(buffers.values())


# -- batch norm


def replace_all_batch_norm_modules_(root: M) -> M:
    """Have every batch norm below root, and root itself, normalise by its batch alone, without running statistics;
    gives root. Changes it in place: vmap over examples cannot update one set of statistics from many lanes.
    """
    from nufunc.nn.norm import BatchNorm, InstanceNorm

    _check_module(root, "replace_all_batch_norm_modules_")
    for module in root.modules():  # type: ignore[attr-defined]
        if isinstance(module, BatchNorm) and not isinstance(module, InstanceNorm) and module.track_running_stats:
            module.track_running_stats = False
            for name in ("running_mean", "running_var", "num_batches_tracked"):
                setattr(module, name, None)
    return root


# -- rearrange


INSIDE = "(...)"  # the ellipsis in parentheses, whose axes are merged
_AXIS = re.compile(r"\s*(?:(\.\.\.)|([A-Za-z_]\w*)|(\d+)|([()]))")


def rearrange(array: Any, pattern: str, **axes_lengths: int) -> Any:
    """Reshape, transpose, split and merge axes as a pattern says: "b (h w) c -> b c h w" with h=4.

    Names stand for axes, parentheses for axes that are merged, "..." for any number of axes, 1 for an axis of length 1.

    >>> import numpy as np, nufunc as nf
    >>> nf.rearrange(np.arange(6.), "(a b) -> b a", a=2)
    array([[0., 3.],
           [1., 4.],
           [2., 5.]])
    """
    if not isinstance(pattern, str) or pattern.count("->") != 1:
        raise ArgumentError(f"rearrange: the pattern must be 'left -> right', got {pattern!r}", user_location())
    left, right = (_groups(side, pattern) for side in pattern.split("->"))
    shape = np.shape(array)
    if ["..."] in left:
        at = left.index(["..."])
        between = [[f"...{k}"] for k in range(len(shape) - len(left) + 1)]
        left = [*left[:at], *between, *left[at + 1 :]]
        right = [g for group in right for g in (between if group == ["..."] else [_spread(group, between)])]
    if any(INSIDE in group or "..." in group for group in left):
        raise ArgumentError(f"rearrange: '...' on the left stands alone and once, got {pattern!r}", user_location())
    if any(INSIDE in group or "..." in group for group in right):
        raise ArgumentError(f"rearrange: '...' on the right alone in {pattern!r}", user_location())
    if len(left) != len(shape):
        raise ShapeError(
            f"rearrange: the pattern {pattern!r} has {len(left)} axes on the left, the array {len(shape)}",
            user_location(),
        )
    lengths = _lengths(left, shape, axes_lengths, pattern)
    source = [name for group in left for name in group if name != "1"]
    target = [name for group in right for name in group if name != "1"]
    if sorted(source) != sorted(target) or len(set(source)) != len(source):
        raise ArgumentError(
            f"rearrange: the sides of {pattern!r} must have the same names, each once on a side", user_location()
        )
    flat = np.reshape(array, [lengths[name] for name in source])
    moved = np.transpose(flat, [source.index(name) for name in target])
    sizes = []
    for group in right:
        size = 1
        for name in group:
            size *= lengths.get(name, 1)
        sizes.append(size)
    return np.reshape(moved, sizes)


def _spread(group: list[str], between: list[list[str]]) -> list[str]:
    return [name for item in group for name in ([b[0] for b in between] if item == INSIDE else [item])]


def _groups(side: str, pattern: str) -> list[list[str]]:
    """The axes of one side, each the names that are merged in it."""
    groups: list[list[str]] = []
    inside: list[str] | None = None
    at = 0
    side = side.rstrip()
    while at < len(side):
        match = _AXIS.match(side, at)
        if match is None or (match[3] is not None and match[3] != "1"):
            raise ArgumentError(f"rearrange: {side[at:].strip()!r} in {pattern!r} is no axis", user_location())
        at = match.end()
        if match[4] == "(" and inside is None:
            inside = []
        elif match[4] == ")" and inside is not None:
            groups.append(inside)
            inside = None
        elif match[4]:
            raise ArgumentError(f"rearrange: parentheses in {pattern!r} do not pair up", user_location())
        else:
            name = match[1] or match[2] or "1"
            if inside is None:
                groups.append([name])
            else:
                inside.append(INSIDE if name == "..." else name)
    if inside is not None:
        raise ArgumentError(f"rearrange: parentheses in {pattern!r} do not pair up", user_location())
    return groups


def _lengths(
    left: Iterable[list[str]], shape: Sequence[int], given: Mapping[str, int], pattern: str
) -> dict[str, int]:
    """The length of each name."""
    lengths = dict(given)
    for group, size in zip(left, shape, strict=True):
        known = 1
        open_names = []
        for name in group:
            if name in lengths:
                known *= lengths[name]
            elif name != "1":
                open_names.append(name)
        if len(open_names) > 1:
            raise ArgumentError(
                f"rearrange: give the length of all but one of {open_names} in {pattern!r}", user_location()
            )
        if open_names and known and size % known == 0:
            lengths[open_names[0]] = size // known
        elif open_names or size != known:
            raise ShapeError(
                f"rearrange: an axis of length {size} cannot be {' '.join(group) or '1'} with "
                f"{ {n: lengths[n] for n in group if n in lengths} } in {pattern!r}",
                user_location(),
            )
    unused = sorted(set(given) - {name for group in left for name in group})
    if unused:
        raise ArgumentError(f"rearrange: {unused} are no axes of {pattern!r}", user_location())
    return lengths


__all__: list[str] = [
    "combine_state_for_ensemble",
    "functional_call",
    "make_functional",
    "make_functional_with_buffers",
    "rearrange",
    "replace_all_batch_norm_modules_",
    "stack_module_state",
]
