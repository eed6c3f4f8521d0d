"""Looking inside: dump and spec."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from nufunc.ir.errors import ArgumentError
from nufunc.runtime import pipeline
from nufunc.runtime.function import Transformed
from nufunc.runtime.signatures import Spec


def spec(shape: int | tuple[int, ...], dtype: Any = np.float64) -> Spec:
    """The shape and dtype of an argument without values, for `dump`.

    >>> import nufunc as nf
    >>> nf.spec((8, 3))
    spec((8, 3), float64)
    """
    return Spec((shape,) if isinstance(shape, int) else tuple(shape), np.dtype(dtype))


def dump(func: Callable[..., Any], *args: Any, stage: str | None = None, **kwargs: Any) -> str:
    """The text of the steps by which `func` is compiled for these arguments.

    Parameters
    ----------
    func : a function, transformed or not.
    args, kwargs : arguments as for a call; `nf.spec(shape, dtype)` may stand for an array.
    stage : one of "traced", "functionalized", "tangents", "linearized", "linear", "transposed", "vmapped", "jacobian",
        "whole", "pure", "simplified", "grouped", "fusion", "loops", "llvm", "asm"; None for all. A stage that is passed
        several times (once per transform) gives several texts. "fusion" says why neighbours do not share a kernel.

    Returns
    -------
    str, with a headline before each text. Graphs can be read back with `nufunc.ir.text.parse_graph`.

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
    transformed = func if isinstance(func, Transformed) else Transformed((), func)
    texts = transformed.stages(args, kwargs)
    return "\n\n".join(f"# {name}\n{text}" for name, text in texts if stage in (None, name))
