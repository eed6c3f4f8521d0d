"""Lowered and compiled functions outside of the process that made them: by their graph, without the function.

Note [Without the function]
A compiled function needs the user's function for what it captures and for its parameters' names alone. Outside it has
the values that were captured when it was pickled, in a `Carried` that stands where the function stood.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from nufunc.ir.errors import ArgumentTypeError, UnguardedCaptureError, UnsupportedError
from nufunc.runtime import pipeline
from nufunc.runtime.compilation import executable_given, executable_of
from nufunc.runtime.executable import Executable, Program
from nufunc.runtime.function import Call, Found, Transformed, with_inputs
from nufunc.runtime.overlap import Pattern
from nufunc.runtime.residuals import GraphFunction
from nufunc.runtime.signatures import Itself, Static
from nufunc.runtime.stored import packed
from nufunc.runtime.transform import Transform
from nufunc.tracer import tree

if TYPE_CHECKING:
    from nufunc.runtime.lowered import Compiled, Lowered


class Carried:
    """The name and the parameters of a function that is not here."""

    by_identity = True  # no two of these share compilations

    def __init__(self, name: str, qualname: str, parameters: list[tuple[str, Any, bool]] | None) -> None:
        self.__name__, self.__qualname__, self.parameters = name, qualname, parameters
        if parameters is not None:
            self.__signature__ = inspect.Signature(
                [inspect.Parameter(n, kind, default=None if optional else inspect.Parameter.empty)
                 for n, kind, optional in parameters]
            )  # fmt: skip

    def __reduce__(self) -> Any:
        return Carried, (self.__name__, self.__qualname__, self.parameters)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise UnsupportedError(
            f"{self.__name__} was pickled as compiled code, without its source: it cannot be traced again"
        )


def _carried(func: Callable[..., Any]) -> Carried:
    name = getattr(func, "__name__", type(func).__name__)
    try:
        given = inspect.signature(func).parameters.values()
    except (TypeError, ValueError):  # some C functions
        parameters = None
    else:
        parameters = [(p.name, p.kind, p.default is not p.empty) for p in given]
    return Carried(name, getattr(func, "__qualname__", name), parameters)


class Held:
    """Reads what a function captured, when it was pickled."""

    def __init__(self, values: tuple[Any, ...]) -> None:
        self.values = values

    def __call__(self, func: Any) -> tuple[Any, ...]:
        return self.values


def _no_failure(func: Any) -> str | None:
    return None


class Restored(Transformed):
    """A transformed function that is known by its program for one signature."""

    def __init__(self, transforms: tuple[Transform, ...], func: Callable[..., Any], program: Program) -> None:
        super().__init__(transforms, func)
        self.program = program
        self.executable: Executable | None = None

    def __reduce__(self) -> Any:
        return Restored, (self.transforms, self.func, self.program)

    def _found(self, call: Call, overlaps: Pattern = ()) -> Found:
        if overlaps:
            raise UnsupportedError(f"{self._name} writes to an array that overlaps another, and its source is not here")
        executable = self._adopted(call, self.program, None)
        return with_inputs(executable, call, executable.captured(self.func) or ())

    def _adopted(self, call: Call, program: Program, lower: Callable[[], Any] | None) -> Executable:
        if self.executable is None:
            self.executable = executable_of(program, lower)
        return self.executable


def _portable(function: Transformed, program: Program) -> Restored:
    """A function as it is pickled with one of its programs."""
    if isinstance(function, Restored):
        return function
    if program.draws is not None:
        raise UnsupportedError(f"{program.name} draws from a random generator, and cannot be pickled as compiled code")
    captured = program.captured(function.func)
    if captured is None:
        raise UnguardedCaptureError(f"what {program.name} captures is not what it was compiled for; lower it again")
    alone = replace(program, read=Held(captured), failure=_no_failure, anchors=(), generators=())
    func = function.func if isinstance(function.func, GraphFunction) else _carried(function.func)
    return Restored(function.transforms, func, alone)


def reduced_lowered(lowered: Lowered) -> Any:
    """What `Lowered.__reduce__` returns."""
    for sig in lowered._call.signatures:
        if isinstance(sig, Static) and isinstance(sig.value, Itself):
            raise ArgumentTypeError(
                f"{lowered!r} cannot be pickled: it is for one {sig.cls.__name__} object, which has no equal elsewhere"
            )
    function = _portable(lowered._function, lowered._program)
    return lowered_again, (function, lowered._call.spec, lowered._call.signatures, lowered._record.entries)


def lowered_again(
    function: Restored, spec: tree.TreeDef, signatures: list[Any], entries: Sequence[tuple[str, str]]
) -> Lowered:
    from nufunc.runtime.lowered import Lowered

    record = pipeline.Record()
    record.entries = list(entries)
    return Lowered(function, Call((), {}, [], spec, signatures), function.program, record)


def reduced_compiled(compiled: Compiled) -> Any:
    """What `Compiled.__reduce__` returns."""
    return compiled_again, (compiled._lowered, packed(compiled.executable))


def compiled_again(lowered: Lowered, code: tuple[str, bytes] | None) -> Compiled:
    """With its machine code, if that is for this machine and these versions."""
    function = lowered._function
    assert isinstance(function, Restored)
    function.executable = executable_given(lowered._program, lambda: lowered._module, code)
    return lowered.compile()
