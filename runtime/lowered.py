"""Lowered and Compiled: one compilation in the hands of the user, before and after there is machine code."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

from nufunc.ir.errors import ArgumentError, ArgumentTypeError
from nufunc.runtime import pipeline
from nufunc.runtime.bound import Bound, described
from nufunc.runtime.compilation import lower_program
from nufunc.runtime.executable import Executable, Program
from nufunc.tracer.usercode import user_location

if TYPE_CHECKING:
    from nufunc.codegen.compile import Lowered as Module
    from nufunc.codegen.counts import Cost
    from nufunc.runtime.function import Call, Transformed


class Lowered:
    """The program of a function for one signature. `f.lower(*args)` makes it; the arguments' values play no part."""

    def __init__(self, function: Transformed, call: Call, program: Program, record: pipeline.Record) -> None:
        self._function, self._call, self._program, self._record = function, call, program, record

    def __repr__(self) -> str:
        return f"<lowered {self._function!r}>"

    def __reduce__(self) -> Any:
        from nufunc.runtime.portable import reduced_lowered

        return reduced_lowered(self)

    def __copy__(self) -> Lowered:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Lowered:
        return self

    @cached_property
    def _module(self) -> Module:
        with pipeline.recording(self._record):
            return lower_program(self._program)

    @cached_property
    def _compiled(self) -> Compiled:
        return Compiled(self, self._function._adopted(self._call, self._program, lambda: self._module))

    def as_text(self, stage: str | None = "simplified") -> str:
        """The text of a stage, as `nf.dump` names them; of all up to the loop nests for None. A stage that is passed
        several times (once per transform) gives several texts; "llvm" and "asm" compile first.
        """
        if stage is not None and stage not in pipeline.STAGES:
            raise ArgumentError(f"as_text: unknown stage {stage!r}; the stages are {', '.join(pipeline.STAGES)}")
        if stage in ("llvm", "asm"):
            entry = self.compile().executable.entry
            return str(entry.llvm() if stage == "llvm" else entry.assembly())
        if stage in (None, "grouped", "fusion", "loops"):
            _ = self._module  # records these
        if stage is None:
            return "\n\n".join(f"# {name}\n{text}" for name, text in self._record.entries)
        return "\n\n".join(text for name, text in self._record.entries if name == stage)

    def cost(self) -> Cost:
        """Flops, bytes moved and bytes needed, in all and by kernel; nothing is compiled or run."""
        from nufunc.codegen.counts import count

        return count(self._module.grouped, self._module.spec, self._module.copied)

    def compile(self) -> Compiled:
        """Machine code for it, which later calls of the function with such arguments use too."""
        return self._compiled


class Compiled:
    """A function compiled for one signature. Arguments of another raise ArgumentTypeError and never compile."""

    def __init__(self, lowered: Lowered, executable: Executable) -> None:
        self._lowered, self.executable = lowered, executable

    def __repr__(self) -> str:
        return f"<compiled {self._lowered._function!r}>"

    def __reduce__(self) -> Any:
        from nufunc.runtime.portable import reduced_compiled

        return reduced_compiled(self)

    def __copy__(self) -> Compiled:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Compiled:
        return self

    def as_text(self, stage: str | None = "simplified") -> str:
        """As `Lowered.as_text`."""
        return self._lowered.as_text(stage)

    def cost(self) -> Cost:
        """As `Lowered.cost`."""
        return self._lowered.cost()

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        function = self._lowered._function
        for front in self.executable.fronts.values():
            result = front(function.func, args, kwargs)
            if result is not NotImplemented:
                return result
        return self._long_way(*args, **kwargs)

    def _long_way(self, /, *args: Any, **kwargs: Any) -> Any:
        self._check(args, kwargs)
        return self._lowered._function._run(self.executable, args, kwargs)

    def bind(self, /, *args: Any, **kwargs: Any) -> Bound:
        """As `bind` of the function itself, for arguments of this signature."""
        self._check(args, kwargs)
        return self._lowered._function.bind(*args, **kwargs)

    def _check(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        function, want = self._lowered._function, self._lowered._call
        call = function._described(args, function._split_out(kwargs)[1])
        if call.spec != want.spec:
            raise ArgumentTypeError(
                f"{self!r} takes arguments of the structure {want.spec}, got {call.spec}", user_location()
            )
        for name, got, wanted in zip(function._leaf_names(call), call.signatures, want.signatures, strict=True):
            if got != wanted:
                raise ArgumentTypeError(
                    f"argument {name} of {self!r}: compiled for {described(wanted)}, got {described(got)}",
                    user_location(),
                )
