"""A torch.nn.Module as a Module of this package: torch.export gives its graph, which runs on NumPy arrays."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nufunc.ir.errors import ArgumentTypeError, UnsupportedError
from nufunc.nn.module import Parameter
from nufunc.nn.tensors import array_of, dtype_of, tensor_of
from nufunc.nn.torch_module import TorchModule
from nufunc.tracer.standins import original_of
from nufunc.tracer.usercode import user_location
from nufunc.tracer.view import active_session

_MADE: Any = weakref.WeakKeyDictionary()  # torch module -> {signature: TorchModule}


@dataclass(frozen=True)
class _Ref:
    """The value of a node, by its name."""

    name: str


@dataclass(frozen=True)
class Step:
    """One operation: the name of its function in `aten` or `aten_layers`, its arguments with `_Ref` for values."""

    op: str
    layer: bool  # whether it stands in `aten_layers`
    result: str
    arguments: tuple[Any, ...]
    named: Mapping[str, Any]

    def args(self, env: Mapping[str, Any]) -> list[Any]:
        """The positional arguments with values in place."""
        return [_filled(a, env) for a in self.arguments]

    def kwargs(self, env: Mapping[str, Any]) -> dict[str, Any]:
        """The named arguments with values in place."""
        return {name: _filled(a, env) for name, a in self.named.items()}


def _filled(x: Any, env: Mapping[str, Any]) -> Any:
    if isinstance(x, _Ref):
        return env[x.name]
    return [_filled(item, env) for item in x] if isinstance(x, list) else x


class Program:
    """The steps of an exported graph; inputs and outputs by the names of their nodes."""

    def __init__(
        self, steps: Sequence[Step], states: Mapping[str, str], inputs: Sequence[str], output: Any,
        in_spec: Any, out_spec: Any,
    ) -> None:  # fmt: skip
        self.steps, self.states, self.inputs, self.output = tuple(steps), dict(states), tuple(inputs), output
        self._in_spec, self._out_spec = in_spec, out_spec

    def leaves(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
        """The leaves of a call's arguments, of the structure that was exported."""
        from torch.utils import _pytree

        found, spec = _pytree.tree_flatten((args, kwargs))
        if spec != self._in_spec:
            raise ArgumentTypeError(
                f"the torch module was exported for arguments of the structure {self._in_spec}, got {spec}",
                user_location(),
            )
        return list(found)

    def result(self, env: Mapping[str, Any]) -> Any:
        """The module's result."""
        from torch.utils import _pytree

        return _pytree.tree_unflatten([_filled(x, env) for x in self.output], self._out_spec)


def is_torch_module(x: Any) -> bool:
    """Whether x is a torch.nn.Module; torch is not imported for it."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(x, torch.nn.Module)


def from_torch(module: Any, *args: Any, **kwargs: Any) -> TorchModule:
    """A torch.nn.Module as an `nf.nn.Module`: its parameters and buffers as NumPy arrays of the same names, which share
    their memory with torch's, and its computation for arguments like these examples.

    Needs torch (the extra `torch`). args, kwargs : NumPy arrays or torch tensors of the shapes and dtypes of later
    calls. The modes (train, eval) of the moment are part of the result. Operations that are not known raise
    UnsupportedError with their names.
    """
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(module, torch.nn.Module):
        raise ArgumentTypeError(
            f"from_torch: expected a torch.nn.Module, got {type(module).__name__}", user_location()
        )
    tensor = lambda x: tensor_of(x) if isinstance(x, np.ndarray) else x
    examples = tuple(_mapped(tensor, a) for a in args)
    named = {k: _mapped(tensor, v) for k, v in kwargs.items()}
    with torch.no_grad():
        exported = torch.export.export(module, examples, named, strict=False)
    return TorchModule(type(module).__name__, _program(exported), _states(module, exported))


def _mapped(f: Callable[[Any], Any], x: Any) -> Any:
    from torch.utils import _pytree

    return _pytree.tree_map(f, x)


def torch_module(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> TorchModule:
    """`from_torch`, once for each module, its modes, and the shapes and dtypes of its arguments.

    module : a torch module, or what stands for a captured one in a traced function, whose modes are then guarded.
    """
    from torch.utils import _pytree

    own = original_of(module)
    if own is not module:
        _guard_modes(module)
        session = active_session()
        assert session is not None
        session.original_of(module)
        module = own
    leaves, spec = _pytree.tree_flatten((args, kwargs))
    shapes = tuple((tuple(x.shape), np.dtype(x.dtype).name) if hasattr(x, "shape") else x for x in leaves)
    key = (str(spec), shapes, tuple(m.training for m in module.modules()))
    known = _MADE.setdefault(module, {})
    if key not in known:
        empty = [
            tensor_of(np.zeros(x.shape, x.dtype)) if hasattr(x, "shape") else x for x in leaves
        ]
        examples, named = _pytree.tree_unflatten(empty, spec)
        known[key] = from_torch(module, *examples, **named)
    found: TorchModule = known[key]
    return found


def _guard_modes(module: Any) -> None:
    """Reads the modes of a captured module, so that they are guarded."""
    _ = module.training
    for child in module._modules.values():
        if child is not None:
            _guard_modes(child)


# -- from an exported program


def _states(module: Any, exported: Any) -> list[tuple[str, Any]]:
    """(dotted name, Parameter or array) of every parameter, buffer and constant."""
    found: list[tuple[str, Any]] = []
    for name, p in module.named_parameters(remove_duplicate=False):
        found.append((name, Parameter(array_of(p), p.requires_grad)))
    for name, b in module.named_buffers(remove_duplicate=False):
        found.append((name, array_of(b)))
    taken = {name for name, _ in found}
    for name, value in exported.constants.items():
        if name not in taken and hasattr(value, "detach"):
            found.append((name, array_of(value)))
    return found


def _program(exported: Any) -> Program:
    from torch.export.graph_signature import InputKind

    from nufunc.nn import aten, aten_layers

    states, inputs = {}, []
    for spec in exported.graph_signature.input_specs:
        if spec.kind is InputKind.USER_INPUT:
            inputs.append(spec.arg.name)
        else:
            states[spec.arg.name] = spec.target
    steps, missing = [], set()
    output: list[Any] = []
    for node in exported.graph.nodes:
        if node.op == "output":
            output = [_argument(x) for x in node.args[0]]
        elif node.op == "call_function":
            op = str(node.target).removeprefix("aten.").replace(".", "_")
            op = "getitem" if "getitem" in op else op
            layer = hasattr(aten_layers, op)
            if not layer and not hasattr(aten, op):
                missing.add(str(node.target))
            named = {k: _argument(v) for k, v in node.kwargs.items()}
            steps.append(Step(op, layer, node.name, tuple(_argument(a) for a in node.args), named))
    if missing:
        raise UnsupportedError(
            f"the torch module uses operations that are not supported: {', '.join(sorted(missing))}", user_location()
        )
    mutated = {spec.arg.name for spec in exported.graph_signature.output_specs if "USER_OUTPUT" not in str(spec.kind)}
    output = [x for x in output if not (isinstance(x, _Ref) and x.name in mutated)]
    call = exported.call_spec
    return Program(steps, states, inputs, output, call.in_spec, call.out_spec)


def _argument(x: Any) -> Any:
    import torch

    if isinstance(x, torch.fx.Node):
        return _Ref(x.name)
    if isinstance(x, list | tuple):
        return [_argument(item) for item in x]
    if isinstance(x, torch.dtype):
        return dtype_of(x)
    if isinstance(x, torch.device | torch.memory_format | torch.layout):
        return None
    return x

