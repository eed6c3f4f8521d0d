"""Bound: a call with its arguments, to be made again and again on what the same arrays hold by then."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nufunc.ir.errors import ArgumentTypeError
from nufunc.runtime.front import call_lines, define
from nufunc.runtime.outs import matching_outs
from nufunc.runtime.signatures import Input, Static
from nufunc.tracer import tree
from nufunc.tracer.usercode import user_location

if TYPE_CHECKING:
    from nufunc.runtime.function import Found, Transformed


class Bound:
    """What `bind` returns. It keeps the arrays alive; containers among the arguments are those of the binding."""

    def __init__(self, function: Transformed, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        self._function, self._out = function, out
        call = function._described(args, kwargs)
        self._names = function._leaf_names(call)
        self._signatures = call.signatures
        _, self._args, self._kwargs = tree.unflatten(call.spec, call.leaves)
        self._adopt(function._found(call))

    def __repr__(self) -> str:
        return f"<bound {self._function!r}>"

    def __reduce__(self) -> Any:
        return Bound, (self._function, self._args, self._kwargs, self._out)

    def __call__(self) -> Any:
        result = self._run()
        return self._long_way() if result is NotImplemented else result

    def _adopt(self, found: Found) -> None:
        executable = self._executable = found.executable
        outs = [] if self._out is None else matching_outs(executable, self._out)
        inputs = {f"x{k}": value for k, value in enumerate(found.values[: len(executable.positions)])}
        given = {f"y{k}": array for k, array in enumerate(outs)}
        drawn = {f"g{k}": generator for k, generator in enumerate(found.generators)}
        names = {"fn": self._function.func, "out": self._out, **inputs, **given, **drawn}
        lines = call_lines(executable, names, list(inputs), None if self._out is None else list(given), list(drawn))
        self._run = define("def bound():", lines, names)

    def _long_way(self) -> Any:
        """Where the entry does not take the arrays as they are: strided ones, overlapping ones; where captured
        constants have changed; and where arrays can no longer be used."""
        call = self._function._described(self._args, self._kwargs)
        for name, now, then in zip(self._names, call.signatures, self._signatures, strict=True):
            if now != then:
                raise ArgumentTypeError(
                    f"argument {name} of {self._function!r} was bound as {described(then)} and is "
                    f"{described(now)} now; bind again",
                    user_location(),
                )
        found = self._function._found(call)
        if found.executable is not self._executable:
            self._adopt(found)
        outs = [] if self._out is None else matching_outs(found.executable, self._out)
        results = found.executable.run(found.drawn(self._function.func), outs)
        return found.executable.unflatten(results) if self._out is None else self._out


def described(sig: Input | Static) -> str:
    """How messages call a signature."""
    if isinstance(sig, Static):
        return f"the static {sig.cls.__name__} {getattr(sig.value, 'value', sig.value)!r}"
    if sig.kind != "array":
        return f"a NumPy scalar {sig.type}" if sig.kind == "scalar" else f"a {sig.kind}"
    text = str(sig.type) + ("" if sig.strides is None else f" with strides {sig.strides}, in elements")
    return text if sig.device is None else f"{text} on cuda:{sig.device}"
