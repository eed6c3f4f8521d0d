"""Ahead of time: compiled functions as a C library that needs no Python (`nf.aot.compile`, `python -m nufunc.aot`)."""

from __future__ import annotations

import argparse
import importlib
import inspect
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from nufunc.inspection import spec
from nufunc.ir.errors import ArgumentError, ArgumentTypeError, NufuncError
from nufunc.ir.types import parse_type
from nufunc.runtime import ahead
from nufunc.runtime.ahead import Built
from nufunc.runtime.signatures import Spec
from nufunc.tracer.usercode import user_location

__all__ = ["Built", "compile"]

Functions = Callable[..., Any] | Mapping[str, Callable[..., Any] | tuple[Callable[..., Any], Sequence[Any]]]


def compile(
    func: Functions, /, *specs: Any, out: str | os.PathLike[str] = "model", name: str | None = None,
    target: Literal["cpu", "cuda"] = "cpu", cpu: str = "native", capability: tuple[int, int] = (8, 0),
    embed: bool = False, blas: str | None = None, lapack: str | None = None, link: bool = True,
) -> Built:  # fmt: skip
    """Compile functions for given shapes into a folder: a C library, its header, an example and a Python loader.

    Parameters
    ----------
    func : a function, transformed or not; or a dict of name -> function, or name -> (function, specs), for several in
        one library. Alone it is called `name` in C, in a dict `name_key`.
    specs : for each argument an `nf.spec(shape, dtype)`, an array, a number, or a tree of these. Strings, bools and
        Python ints are constants of the library; floats and arrays give shape and dtype only.
    out : the folder; it is made if need be.
    name : of the library, a C identifier; by default that of the folder.
    target : "cpu", or "cuda": kernels as PTX (and cubin, where nvJitLink is installed) for devices from `capability`
        on, and for each function a manifest that says how to launch them; no device is needed. Factorisations, and
        loops of unknown length over large arrays, are errors; products of matrices are plain sums.
    cpu : what the code is for: "native", this machine; "x86-64", "x86-64-v2", "x86-64-v3" (AVX2), "x86-64-v4"
        (AVX-512); "aarch64" (with link=False on other machines).
    embed : bool. What the functions capture (arrays and floats) becomes part of the library, with its values of now;
        by default it becomes further parameters, behind the arguments.
    blas, lapack : names of libraries to link, as in `-lopenblas`, for what needs such routines: products of complex
        matrices (blas); eigenvalues, singular values and the like (lapack). Real products and Cholesky, LU and
        triangular solves need neither.
    link : bool. False writes the object file and leaves the library to the user's linker.

    Returns
    -------
    Built, with the paths of what was written. For a library `model`: `libmodel.so` (or .dylib), `model.o`, `model.h`,
    `example.c`, `manifest.json`, and `__init__.py`, which makes the folder a Python package that needs NumPy alone.

    Notes
    -----
    Functions are plain C, keep no state, call no Python and may run side by side; see the header. Arguments are flat:
    the leaves of trees, in their order. Calls run on one thread, unless the program gives the library a `parallel_for`.

    Raises
    ------
    UnsupportedError : callbacks, NumPy's generators, FFTs, what has no code without SciPy, or a library or linker that
        is missing, by name. ArgumentError : an unknown cpu, a name that C does not accept.

    Examples
    --------
    >>> import numpy as np, nufunc as nf, sys, tempfile
    >>> def loss(w, x):
    ...     return np.sum(np.tanh(x @ w) ** 2)
    >>> folder = tempfile.mkdtemp()
    >>> functions = {"value": loss, "grad": nf.grad(loss)}
    >>> built = nf.aot.compile(functions, nf.spec(3), nf.spec((5, 3)), out=folder + "/nf_example")
    >>> built.functions
    ('nf_example_value', 'nf_example_grad')
    >>> sys.path.insert(0, folder)
    >>> import nf_example
    >>> nf_example.nf_example_grad(np.zeros(3), np.ones((5, 3)))
    array([0., 0., 0.])
    """
    if target not in ("cpu", "cuda"):
        raise ArgumentError(f"aot.compile: target must be 'cpu' or 'cuda', got {target!r}", user_location())
    functions = func if isinstance(func, Mapping) else {"": func}
    if not functions:
        raise ArgumentError("aot.compile: no function was given", user_location())
    pairs = {}
    for key, given in functions.items():
        own, wanted = given if isinstance(given, tuple) else (given, specs)
        if not callable(own):
            raise ArgumentTypeError(f"aot.compile takes functions, got {type(own).__name__}", user_location())
        pairs[key] = own, wanted
    folder = Path(out)
    library = folder.name if name is None else name
    if target == "cuda":
        return ahead.build_cuda(pairs, library, folder, capability=capability, embed=embed)
    return ahead.build(pairs, library, folder, cpu=cpu, embed=embed, blas=blas, lapack=lapack, link=link)


def _spec(text: str) -> Spec:
    try:
        type_ = parse_type(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no type, as f64[100,3] or i32[]") from None
    return spec(type_.shape, type_.dtype)


def _check_count(function: Callable[..., Any], specs: Sequence[Spec]) -> None:
    """Raise ArgumentTypeError where a function does not take as many arguments."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # some C functions do not tell
        return
    try:
        signature.bind(*specs)
    except TypeError as error:
        raise ArgumentTypeError(f"{len(specs)} times --spec for the arguments {signature}: {error}") from None


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m nufunc.aot", description="Compile a function into a C library that needs no Python."
    )
    parser.add_argument("function", help="module:function; transformed functions of the module are fine")
    parser.add_argument(
        "--spec", action="append", default=[], type=_spec, metavar="TYPE", help='of each argument, as "f64[100,3]"'
    )
    parser.add_argument("--out", default="model", metavar="DIR", help="the folder to write (default: model)")
    parser.add_argument("--name", help="of the library (default: that of the folder)")
    parser.add_argument("--cpu", default="native", help="native, x86-64-v2, x86-64-v3, x86-64-v4, aarch64, ...")
    parser.add_argument("--cuda", metavar="X.Y", help="kernels for CUDA devices of this compute capability, as 8.0")
    parser.add_argument("--embed", action="store_true", help="make captured arrays part of the library")
    parser.add_argument("--blas", metavar="LIB", help="a library with BLAS, as in -lopenblas")
    parser.add_argument("--lapack", metavar="LIB", help="a library with LAPACK")
    parser.add_argument("--object-only", action="store_true", help="do not link")
    given = parser.parse_args(arguments)
    module, _, attribute = given.function.partition(":")
    if not attribute:
        parser.error(f"{given.function!r} is not of the form module:function")
    major, _, minor = (given.cuda or "8.0").partition(".")
    if not (major.isdigit() and minor.isdigit()):
        parser.error(f"--cuda takes a compute capability, as 8.0, got {given.cuda!r}")
    capability = int(major), int(minor)
    sys.path.insert(0, "")
    try:
        function: Any = importlib.import_module(module)
        for part in attribute.split("."):
            function = getattr(function, part)
        if callable(function):
            _check_count(function, given.spec)
        built = compile(
            function, *given.spec, out=given.out, name=given.name, target="cuda" if given.cuda else "cpu",
            cpu=given.cpu, capability=capability, embed=given.embed, blas=given.blas, lapack=given.lapack,
            link=not given.object_only,
        )  # fmt: skip
    except (ImportError, AttributeError, NufuncError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(built.library or built.object_file or built.folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
