"""Lowered and Compiled: one compilation in the hands of the user, before and after there is machine code."""

from __future__ import annotations

import re
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from nufunc.ir.errors import ArgumentError, ArgumentTypeError, UnguardedCaptureError
from nufunc.runtime import pipeline
from nufunc.runtime.bound import Bound, described
from nufunc.runtime.compilation import lower_program
from nufunc.runtime.executable import Executable, Program
from nufunc.runtime.signatures import Input, Static
from nufunc.tracer import tree
from nufunc.tracer.usercode import user_location

if TYPE_CHECKING:
    from nufunc.codegen.compile import Lowered as Module
    from nufunc.codegen.counts import Cost
    from nufunc.codegen.native import NativeFunction
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
        if self._program.device is not None and stage in ("llvm", "asm", "ptx"):
            from nufunc.runtime.cuda.compiled import machine_text

            module: Any = self._module
            return machine_text(module, self._program, stage)
        if self._program.device is None and stage in ("device", "ptx"):
            from nufunc.runtime.cuda.compiled import text_for_any_device

            return text_for_any_device(self._program, stage)
        if stage in ("llvm", "asm"):
            entry = self.compile().executable.entry
            return str(entry.llvm() if stage == "llvm" else entry.assembly())
        if stage in (None, "grouped", "fusion", "loops", "device"):
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

    @property
    def _numba_type_(self) -> Any:
        from nufunc.runtime.njit import numba_type

        return numba_type(self)

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
        args, kwargs = self._fitting(args, kwargs)
        return self._lowered._function._run(self.executable, args, kwargs)

    def native(self) -> NativeFunction:
        """The C function, compiled when it is first asked for; see `address`."""
        return self._native

    @cached_property
    def _native(self) -> NativeFunction:
        from nufunc.codegen.native import NativeFunction
        from nufunc.runtime.ahead import entry_point

        program = self._lowered._program
        captured = program.captured(self._lowered._function.func)
        if captured is None:
            raise UnguardedCaptureError(f"what {self!r} captures is not what it was compiled for; lower it again")
        name = re.sub(r"\W", "", program.name) or "f"
        return NativeFunction(entry_point(name, program, captured, repr(self._lowered._function), "a C function"))

    @property
    def address(self) -> int:
        """The address of the function as a C function, for ctypes, cffi and other languages.

        It is declared as `prototype` says: inputs (numbers by value, arrays by pointer to C-contiguous data), memory
        for each result, and a workspace or NULL; it returns 0 or the code of an error, as functions of `nf.aot.compile`
        do. What the function captures has its values of the time when the address was first asked for. The address
        holds as long as this object lives. It may be called without the GIL, by several threads at once.

        >>> import ctypes, numpy as np, nufunc as nf
        >>> f = nf.jit(lambda x: np.tanh(x).sum()).lower(nf.spec(3)).compile()
        >>> f.prototype
        'int32_t lambda(const double *x, double *result, void *workspace)'
        >>> call = ctypes.CFUNCTYPE(ctypes.c_int32, *[ctypes.c_void_p] * 3)(f.address)
        >>> x, result = np.zeros(3), np.ones(())
        >>> call(x.ctypes.data, result.ctypes.data, None), result
        (0, array(0.))
        """
        return self._native.address

    @property
    def prototype(self) -> str:
        """How the C function at `address` is declared."""
        return self._native.entry.prototype()

    def low_level_callable(self, signature: str | None = None) -> Any:
        """A `scipy.LowLevelCallable`, which SciPy calls without Python.

        signature : what SciPy's function asks for; by default "double (double)" for a function of one number,
            "double (int, double *)" for one of several, "int (double *, npy_intp, double *, void *)" for one from a
            vector to a number (ndimage.generic_filter) and "int (double *, npy_intp, double *, npy_intp, void *)" for
            one from a vector to a vector (generic_filter1d). Numbers are doubles. An error makes the result NaN, or
            ends SciPy's call with an error.

        >>> import numpy as np, nufunc as nf, scipy.integrate
        >>> f = nf.jit(lambda x: np.exp(-x * x)).lower(nf.spec(())).compile()
        >>> round(scipy.integrate.quad(f.low_level_callable(), -10, 10)[0] ** 2, 9)
        3.141592654
        """
        from nufunc.runtime.native import low_level_callable

        return low_level_callable(self, signature)

    def gufunc(self) -> np.ufunc:
        """A NumPy ufunc whose core dimensions are this function's shapes: it broadcasts over all axes in front of them,
        and takes `out=`, `axes=`, `dtype=` and the like, as every ufunc. What the function captures has its values of
        now. The ufunc, and its code, stay for as long as the process.

        >>> import numpy as np, nufunc as nf
        >>> u = nf.jit(lambda w, x: np.tanh(x @ w)).lower(nf.spec(3), nf.spec((2, 3))).compile().gufunc()
        >>> u.signature
        '(3),(2,3)->(2)'
        >>> u(np.zeros(3), np.ones((5, 1, 2, 3))).shape
        (5, 1, 2)
        """
        from nufunc.runtime.native import gufunc

        return gufunc(self)

    def bind(self, /, *args: Any, **kwargs: Any) -> Bound:
        """As `bind` of the function itself, for arguments of this signature."""
        args, kwargs = self._fitting(args, kwargs)
        return self._lowered._function.bind(*args, **kwargs)

    def _fitting(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments, if they are of this signature; numbers as arrays without axes, where these are wanted."""
        function, want = self._lowered._function, self._lowered._call
        call = function._described(args, function._split_out(kwargs)[1])
        if call.spec != want.spec:
            raise ArgumentTypeError(
                f"{self!r} takes arguments of the structure {want.spec}, got {call.spec}", user_location()
            )
        if want.signatures != call.signatures:
            leaves = [*map(_as_array, call.leaves, want.signatures)]
            _, args, changed = tree.unflatten(call.spec, leaves)
            kwargs = {**kwargs, **changed}
            call = function._described(args, changed)
        for name, got, wanted in zip(function._leaf_names(call), call.signatures, want.signatures, strict=True):
            if got != wanted:
                raise ArgumentTypeError(
                    f"argument {name} of {self!r}: compiled for {described(wanted)}, got {described(got)}",
                    user_location(),
                )
        return args, kwargs


def _as_array(leaf: Any, wanted: Input | Static) -> Any:
    if isinstance(wanted, Input) and wanted.kind == "array" and not wanted.type.shape:
        array = np.asarray(leaf)
        if isinstance(leaf, float | complex | np.generic) and array.dtype == wanted.type.dtype:
            return array
    return leaf
