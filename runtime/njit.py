"""Compiled functions inside code that Numba compiles: what Numba is told of them.

Note [Calls from njit]
For Numba a compiled function is a dispatcher, made here: njit code that checks its arguments and calls the C function
at its address (`nufunc.codegen.native`). Numba asks an object that it does not know for `_numba_type_`. Addresses make
the calling code dynamic, so that Numba does not cache it on disk. Code that Numba has compiled may outlive every Python
reference to a compiled function, so what it calls is kept for good.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from nufunc.ir.errors import BoundsError, DomainError, LinAlgError
from nufunc.ir.types import is_half
from nufunc.runtime.function import Transformed
from nufunc.runtime.lowered import Compiled
from nufunc.runtime.signatures import Spec

if TYPE_CHECKING:
    from nufunc.codegen.ahead import Parameter
    from nufunc.codegen.native import NativeFunction

_KEPT: list[NativeFunction] = []
_DISPATCHERS: dict[Any, Any] = {}  # also for good, since Numba knows dispatchers by weak references


def numba_type(function: Transformed | Compiled) -> Any:
    """Numba's type of a function of ours."""
    from numba import types

    return types.Dispatcher(_dispatcher(function))


def _dispatcher(function: Transformed | Compiled) -> Any:
    if function not in _DISPATCHERS:
        make: Callable[[Any], Any] = _compiled_dispatcher if isinstance(function, Compiled) else _transformed_dispatcher
        _DISPATCHERS[function] = make(function)
    return _DISPATCHERS[function]


def _transformed_dispatcher(function: Transformed) -> Any:
    """Compiles for numbers as they come; arrays have shapes that Numba's types do not tell."""
    import numba
    from numba import TypingError, types
    from numba.extending import overload

    def stub(*args: Any) -> Any:
        raise NotImplementedError

    @overload(stub)
    def choose(*args: Any) -> Any:
        specs = []
        for k, given in enumerate(args):
            plain = types.unliteral(given)
            if not isinstance(plain, types.Number | types.Boolean):
                raise TypingError(
                    f"{function!r}: argument {k} is {given}; for other things than numbers call a function that was "
                    "compiled for their shapes: f.lower(nf.spec(shape, dtype), ...).compile()"
                )
            specs.append(Spec((), np.dtype(str(plain))))
        inner = _dispatcher(function.lower(*specs).compile())

        def call(*args: Any) -> Any:  # with the annotations of `choose`, which Numba compares
            return inner(*args)

        return call

    return numba.njit(lambda *args: stub(*args))


def _compiled_dispatcher(compiled: Compiled) -> Any:
    import numba

    native = compiled.native()
    _KEPT.append(native)
    entry = native.entry
    names = [f"x{k}" for k in range(len(entry.inputs))]
    scope: dict[str, Any] = {"np": np}
    lines = [f"def call({', '.join(names)}):"]
    for k, p in enumerate(entry.inputs):
        if not p.by_value:
            scope[f"checked{k}"] = _checked(p, repr(compiled))
            lines.append(f"    x{k} = checked{k}(x{k})")
    if native.scalar_address is not None:
        result = entry.results[0]
        assert result is not None
        scope["invoke"] = _invoke(native.scalar_address, entry.inputs, result.dtype, compiled)
        lines.append(f"    return invoke({', '.join(names)})")
    else:
        made = []
        for k, r in enumerate(entry.results):
            if r is not None:
                scope[f"dtype{k}"] = r.dtype.type
                lines.append(f"    y{k} = np.empty({r.shape!r}, dtype{k})")
                made.append(k)
        new = [r for r in entry.results if r is not None]
        scope["invoke"] = _invoke(native.address, [*entry.inputs, *new], None, compiled)
        lines.append(f"    code = invoke({', '.join([*names, *(f'y{k}' for k in made)])})")
        lines.append("    if code != 0:")
        for code, text in entry.errors.items():
            if code:
                scope[f"error{abs(code)}"] = _exception(compiled, code)
                lines.append(f"        if code == {code}: raise error{abs(code)}({text!r})")
        lines.append("        raise RuntimeError('unknown error')")
        given = []
        for k, (r, spec) in enumerate(zip(entry.results, entry.lowered.spec.results, strict=True)):
            if spec.returned:
                name = f"y{k}" if r is not None else f"x{spec.source}"
                given.append(f"{name}[()]" if spec.shape == () else name)
        lines.append(f"    return {given[0] if len(given) == 1 else '(' + ', '.join(given) + ')'}")
    exec("\n".join(lines), scope)
    return numba.njit(scope["call"])


def _exception(compiled: Compiled, code: int) -> type[Exception]:
    """The built-in class of an error; Numba raises no others with a message."""
    if code < 0:
        return MemoryError
    error = compiled.native().entry.lowered.error(code)
    kinds = {BoundsError: IndexError, DomainError: ValueError, LinAlgError: ValueError}
    return next((plain for own, plain in kinds.items() if isinstance(error, own)), RuntimeError)


def _checked(parameter: Parameter, label: str) -> Any:
    """A function for njit code: the array, C-contiguous, if it is of the right type and shape."""
    from numba import TypingError, from_dtype, types
    from numba.extending import overload

    shape, written = parameter.shape, parameter.written
    if is_half(parameter.dtype):
        raise TypingError(f"{label}: {parameter.about} is {parameter.dtype}, which Numba does not compute with")
    about = f"{label}: {parameter.about} must be {parameter.dtype} of shape {shape}"
    message = f"{about}, got another shape"

    dtype = parameter.dtype.type

    def stub(x: Any) -> Any:
        raise NotImplementedError

    def number(x: Any) -> Any:
        array = np.empty((), dtype)
        array[()] = x
        return array

    @overload(stub)
    def check(x: Any) -> Any:
        fits = isinstance(x, types.Array) and (x.dtype, x.ndim) == (from_dtype(parameter.dtype), len(shape))
        if not shape and not written and types.unliteral(x) == from_dtype(parameter.dtype):
            return number
        if not fits:
            raise TypingError(f"{about}, got {x}")
        if written and (x.layout != "C" or not x.mutable):
            raise TypingError(f"{label}: {parameter.about} is written in place and must be C-contiguous, got {x}")

        def same(x: Any) -> Any:
            if x.shape != shape:
                raise ValueError(message)
            return x

        def contiguous(x: Any) -> Any:
            if x.shape != shape:
                raise ValueError(message)
            return np.ascontiguousarray(x)

        return same if x.layout == "C" else contiguous

    return stub


def _invoke(address: int, parameters: Sequence[Parameter], returned: np.dtype | None, compiled: Compiled) -> Any:
    """The call of the C function at an address: with numbers and arrays, and a workspace of its own. It gives a number
    of the dtype `returned`, or the function's code."""
    from llvmlite import ir
    from numba import TypingError, from_dtype, types
    from numba.extending import intrinsic

    wanted = [from_dtype(p.dtype) for p in parameters]
    label, name = repr(compiled), compiled.native().entry.name
    answer = types.int32 if returned is None else from_dtype(returned)

    def typed(context: Any, *given: Any) -> Any:
        kinds = []
        for p, want, got in zip(parameters, wanted, given, strict=True):
            plain = types.unliteral(got)
            if not p.by_value:
                kinds.append(got)
                continue
            if plain != want and not _widens(plain, want, types):
                raise TypingError(f"{label}: {p.about} must be {want}, got {got}; convert it")
            kinds.append(want)

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            values = []
            for p, kind, value in zip(parameters, signature.args, args, strict=True):
                if not p.by_value:
                    array = context.make_array(kind)(context, builder, value)
                    values.append(builder.bitcast(array.data, ir.IntType(8).as_pointer()))
                elif p.dtype.kind in "iub" and p.dtype.itemsize < 4:  # the register's whole 32 bits count
                    extend = builder.sext if p.dtype.kind == "i" else builder.zext
                    values.append(extend(value, ir.IntType(32)))
                else:
                    values.append(value)
            if returned is None:
                values.append(ir.Constant(ir.IntType(8).as_pointer(), None))
            data = context.get_data_type(answer)
            function = ir.FunctionType(data, [v.type for v in values])
            pointer = context.add_dynamic_addr(builder, address, info=name)
            return builder.call(builder.bitcast(pointer, function.as_pointer()), values)

        return answer(*kinds), generate

    # an intrinsic has the parameters that its function names
    scope: dict[str, Any] = {"typed": typed}
    all_names = ", ".join(["context", *(f"x{k}" for k in range(len(parameters)))])
    exec(f"def invoke({all_names}): return typed({all_names})", scope)
    return intrinsic(scope["invoke"])


def _widens(given: Any, want: Any, types: Any) -> bool:
    """Whether Numba's type of a number may be converted without loss, or is an integer where a float is wanted."""
    if not isinstance(given, types.Integer | types.Float | types.Boolean):
        return False
    if isinstance(want, types.Float):
        return not isinstance(given, types.Float) or given.bitwidth <= want.bitwidth
    if isinstance(want, types.Integer) and isinstance(given, types.Integer):
        return bool(given.bitwidth <= want.bitwidth and (given.signed == want.signed or want.signed))
    return False


