"""State dictionaries in files: save and load, as .npz or .safetensors."""

from __future__ import annotations

import os
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from nufunc.ir.errors import ArgumentError, ArgumentTypeError, UnsupportedError
from nufunc.ir.types import bfloat16
from nufunc.nn.module import Module
from nufunc.nn.tensors import array_of
from nufunc.tracer.usercode import user_location


def save(state: Module | Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Write the state dictionary of a module, or a dict from names to arrays, to a file.

    path : its ending says the form: ".npz", or ".safetensors" (needs the package safetensors: the extra `nn`). A file
    of that name is replaced as a whole.

    >>> import numpy as np, nufunc as nf, tempfile, os
    >>> layer, other = nf.nn.Linear(2, 3), nf.nn.Linear(2, 3)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     nf.nn.save(layer, os.path.join(folder, "layer.npz"))
    ...     _ = other.load_state_dict(nf.nn.load(os.path.join(folder, "layer.npz")))
    >>> bool((other.weight == layer.weight).all())
    True
    """
    target = Path(path)
    write = {".npz": _write_npz, ".safetensors": _write_safetensors}[_ending(target, "save")]
    if not isinstance(state, Module | Mapping):
        raise ArgumentTypeError(
            f"save: expected a module or a dict of arrays, got {type(state).__name__}", user_location()
        )
    arrays = {name: array_of(a) for name, a in (state.state_dict() if isinstance(state, Module) else state).items()}
    for name, array in arrays.items():
        if not isinstance(name, str) or array.dtype.hasobject:
            raise ArgumentTypeError(f"save: {name!r} must be the name of an array of numbers", user_location())
    handle, temporary = tempfile.mkstemp(dir=target.parent, suffix=target.suffix)
    os.close(handle)
    try:
        write(temporary, arrays)
        os.replace(temporary, target)
    except BaseException:
        os.unlink(temporary)
        raise


def load(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """The dict from names to arrays in a file that `save` wrote, for `load_state_dict`; also any other .npz, and what
    torch users save as .safetensors. Nothing is unpickled.
    """
    source = Path(path)
    if _ending(source, "load") == ".safetensors":
        return dict(_safetensors().load_file(source))
    with np.load(source, allow_pickle=False) as data:
        return {name: _numbers(data[name]) for name in data.files}


def _numbers(array: np.ndarray) -> np.ndarray:
    """An array of a .npz, where bfloat16 is two bytes without a name, and nothing else that modules hold is."""
    return array.view(bfloat16()) if array.dtype == np.dtype("V2") else array


def _ending(path: Path, what: str) -> str:
    if path.suffix not in (".npz", ".safetensors"):
        raise ArgumentError(f"{what}: the name must end in .npz or .safetensors, got {path.name!r}", user_location())
    return path.suffix


def _write_npz(path: str, arrays: Mapping[str, np.ndarray]) -> None:
    # np.savez takes names as keywords, and so none that is called "file"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, array, allow_pickle=False)


def _write_safetensors(path: str, arrays: Mapping[str, np.ndarray]) -> None:
    _safetensors().save_file({name: np.array(a, order="C") for name, a in arrays.items()}, path)


def _safetensors() -> Any:
    try:
        from safetensors import numpy
    except ImportError:
        raise UnsupportedError(
            "files that end in .safetensors need the package safetensors: pip install 'nufunc[nn]'", user_location()
        ) from None
    return numpy


__all__ = ["load", "save"]
