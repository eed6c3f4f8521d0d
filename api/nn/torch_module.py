"""TorchModule: the arrays of a torch module in a tree of modules, and a forward that runs its exported graph."""

from __future__ import annotations

from typing import Any

from nufunc.nn import aten, aten_layers
from nufunc.nn.module import Module, Parameter

__nufunc_traceable__ = True


class TorchModule(Module):
    """What `from_torch` makes. Names of parameters and buffers are torch's."""

    def __init__(self, name: str, program: Any, states: list[tuple[str, Any]]) -> None:
        super().__init__()
        self._name, self._program = name, program
        for path, value in states:
            *parents, last = path.split(".")
            owner: Module = self
            for part in parents:
                if part not in owner._modules:
                    owner.add_module(part, Module())
                owner = getattr(owner, part)
            if isinstance(value, Parameter):
                owner.register_parameter(last, value)
            else:
                owner.register_buffer(last, value)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        program = self._program
        env: dict[str, Any] = dict(zip(program.inputs, program.leaves(args, kwargs), strict=True))
        for name, path in program.states.items():
            value: Any = self
            for part in path.split("."):
                value = getattr(value, part)
            env[name] = value
        for step in program.steps:
            operation = getattr(aten_layers if step.layer else aten, step.op)
            env[step.result] = operation(*step.args(env), **step.kwargs(env))
        return program.result(env)

    def extra_repr(self) -> str:
        return f"from torch's {self._name}"
