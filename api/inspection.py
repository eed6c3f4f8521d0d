"""Looking inside: the text of each step, what it costs, whether it is right."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from nufunc.ir.errors import ArgumentError
from nufunc.ir.types import dtype_from
from nufunc.runtime import oracle, pipeline
from nufunc.runtime import profile as profiling
from nufunc.runtime import report as reporting
from nufunc.runtime.function import Transformed
from nufunc.runtime.parsed import ParsedFunction
from nufunc.runtime.parsed import parse as parsed
from nufunc.runtime.profile import Profile
from nufunc.runtime.signatures import Spec


def spec(shape: int | tuple[int, ...], dtype: Any = np.float64, device: Any = None) -> Spec:
    """The shape and dtype of an argument without values, for `dump` and `lower`; `device` says on which device it is.

    >>> import nufunc as nf
    >>> nf.spec((8, 3))
    spec((8, 3), float64)
    """
    where = None
    if device is not None:
        from nufunc.runtime.cuda import devices

        where = getattr(devices.device(device), "index", None)
    return Spec((shape,) if isinstance(shape, int) else tuple(shape), dtype_from(dtype), where)


def dump(func: Callable[..., Any], *args: Any, stage: str | None = None, **kwargs: Any) -> str:
    """The text of the steps by which `func` is compiled for these arguments.

    Parameters
    ----------
    func : a function, transformed or not.
    args, kwargs : arguments as for a call; `nf.spec(shape, dtype)` may stand for an array.
    stage : one of "traced", "functionalized", "tangents", "linearized", "linear", "transposed", "vmapped", "jacobian",
        "whole", "pure", "simplified", "grouped", "fusion", "loops", "llvm", "asm"; None for all. A stage that is passed
        several times (once per transform) gives several texts. "fusion" says why neighbours do not share a kernel.
        "device" is the program for a CUDA device, and "ptx" its kernels (with the packages of `nufunc[cuda]`): also for
        functions of the host, and without a device, but only when asked for. Programs for a device have neither "llvm"
        nor "asm".

    Returns
    -------
    str, with a headline before each text. Graphs can be read back, and run, with `nf.parse`.

    Examples
    --------
    >>> import numpy as np, nufunc as nf
    >>> print(nf.dump(lambda x: np.sin(x), nf.spec(3), stage="pure").split(" loc")[0])
    # pure
    graph @<lambda>(%0: f64[3]) stage=pure {
      %1: f64[3] = sin(%0)
    """
    if stage is not None and stage not in pipeline.STAGES:
        raise ArgumentError(f"dump: unknown stage {stage!r}; the stages are {', '.join(pipeline.STAGES)}")
    if stage in ("device", "ptx"):
        return f"# {stage}\n{_transformed(func).lower(*args, **kwargs).as_text(stage)}"
    texts = _transformed(func).stages(args, kwargs)
    return "\n\n".join(f"# {name}\n{text}" for name, text in texts if stage in (None, name))


def parse(text: str) -> ParsedFunction:
    """The function that a graph describes: any stage of `dump` up to "grouped", as it is or edited.

    Parameters
    ----------
    text : str, one graph, in the grammar of `nufunc.ir.text`, with or without the headline of `dump`.

    Returns
    -------
    A function of the graph's parameters, arrays of exactly their shapes and dtypes (Python numbers for scalars), that
    gives an array, or a tuple of arrays. All transforms apply to it. Parameters that the graph writes in place are
    written to.

    Raises
    ------
    ParseError : the text is no graph; it names the line. VerifyError : the graph is not legal in its stage.

    Examples
    --------
    >>> import numpy as np, nufunc as nf
    >>> text = nf.dump(lambda x: np.sin(x) * 2.0, nf.spec(3), stage="simplified")
    >>> f = nf.parse(text.replace("sin(", "cos("))
    >>> f(np.zeros(3))
    array([2., 2., 2.])
    >>> nf.grad(lambda x: f(x).sum())(np.zeros(3))
    array([-0., -0., -0.])
    """
    return parsed(text)


def profile(func: Callable[..., Any], *args: Any, seconds: float = 0.3, **kwargs: Any) -> Profile:
    """Where the time of a call goes: time, flops and bytes of each kernel, with the user's lines that it is for. Of a
    function on a device: of each launch, copy and library call.

    Parameters
    ----------
    func : a function, transformed or not.
    args, kwargs : arguments as for a call. Arrays that the function writes in place are copied first.
    seconds : about how long to run it, in all.

    Returns
    -------
    Profile, whose str is a table: `rows` of a kernel or library call each, with `seconds` (per call), `kernel` (name,
    times, flops, transcendentals, bytes_read, bytes_written, locations), `flops_per_second`, `bytes_per_second`. What
    is counted is said at `Lowered.cost`; `times` are measured, so loops count as often as they ran. Bytes come out of
    caches as well, so rates above the memory's are no error.

    Notes
    -----
    The clock is read before and after each kernel, which takes some 50 nanoseconds: kernels of loops with tiny bodies
    seem slower than they are. `Profile.seconds` is measured without. What runs on several threads inside a loop over
    lanes is one row.

    On a device its own clock is read, around steps that are queued one by one; `Profile.device` tells what a call
    takes that is replayed as a graph, the bandwidth of a copy, and memory. A step seems longer by a microsecond or two.

    Examples
    --------
    >>> import numpy as np, nufunc as nf
    >>> found = nf.profile(lambda a: np.tanh(a @ a).sum(), np.ones((200, 200)), seconds=0.01)
    >>> [row.kernel.name for row in found.rows]
    ['dot', 'tanh+reduce_sum']
    >>> found.rows[0].kernel.flops
    16000000
    """
    return profiling.profile(_transformed(func), args, kwargs, seconds)


def report(
    func: Callable[..., Any], *args: Any, path: str | os.PathLike[str] = "report.html", seconds: float = 0.3,
    **kwargs: Any,
) -> Profile:  # fmt: skip
    """Write a page that shows how `func` is compiled for these arguments and where its time goes.

    The page is one file that needs no network: the user's lines shaded by their share of the time, the table of
    kernels, a roofline, the temporaries in memory over the steps, and any two stages of `dump` side by side. A click
    on a line, a kernel or a node marks what belongs to it in all of them. For a device it shows its bandwidth and its
    roof, and what queueing and replaying a call take.

    Parameters
    ----------
    func, args, kwargs, seconds : as for `profile`.
    path : the file to write.

    Returns
    -------
    The Profile that the page shows.

    Examples
    --------
    >>> import numpy as np, nufunc as nf, os, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     page = os.path.join(folder, "report.html")
    ...     _ = nf.report(nf.grad(lambda x: np.sum(np.tanh(x))), np.ones(100), path=page, seconds=0.01)
    ...     os.path.getsize(page) > 10_000
    True
    """
    return reporting.report(_transformed(func), args, kwargs, Path(path), seconds)


def verify(func: Callable[..., Any], *args: Any, **kwargs: Any) -> str:
    """Compile `func` for these arguments and test each step on the way: derivatives against differences, transposes
    against the linear graph, vmapped graphs against single lanes, rewritten graphs and machine code against the NumPy
    interpreter.

    Parameters
    ----------
    func : a function, transformed or not.
    args, kwargs : arguments as for a call; nothing is written to them.

    Returns
    -------
    str, a line per step: what was right, and what could not be tested, with the reason. Derivatives of what is computed
    in single precision, and rules of the user's, are not tested.

    Raises
    ------
    VerifyError : a step is wrong. It names the pass, and the first primitive (or kernel) that is wrong by itself with
        the user's line.

    Examples
    --------
    >>> import numpy as np, nufunc as nf
    >>> print(nf.verify(nf.grad(lambda x: np.sum(np.sin(x))), np.ones(3)).splitlines()[2])
    linearize @<lambda>: right
    """
    rows = oracle.verify(_transformed(func), args, kwargs).rows
    return "\n".join(f"{name} @{graph}: {outcome}" for name, graph, outcome in rows)


def _transformed(func: Callable[..., Any]) -> Transformed:
    return func if isinstance(func, Transformed) else Transformed((), func)
