"""docs/numpy.md lists what traced code may use of NumPy; this test keeps it true (NUFUNC_UPDATE_GOLDEN=1 writes it)."""

import os
import textwrap
from pathlib import Path

import numpy as np
import pytest
import scipy.fft
import scipy.linalg
import scipy.special

import nufunc as nf
from nufunc.tracer.np_fft import BY_NAME
from nufunc.tracer.np_special import SPECIAL
from nufunc.tracer.sp_fft import FFT
from nufunc.tracer.sp_linalg import LINALG

PAGE = Path(__file__).parent.parent / "docs" / "numpy.md"


INTRODUCTION = (
    "# NumPy in traced code",
    """What follows is generated from the traced namespace. A function that is not there yet raises an error that says
    so when it is given a traced value; on concrete values NumPy itself runs. Methods and operators of arrays follow the
    functions. What each form of them gives stands in [coverage.md](coverage.md), derivatives where there is a choice in
    [derivatives.md](derivatives.md).""",
    """Where the length of a result depends on the data (`unique`, `nonzero`, `flatnonzero`, `argwhere`, `where(mask)`,
    `extract`, `compress`, `union1d`, `intersect1d`, `setdiff1d`, `setxor1d`), traced code gives it:
    `np.unique(x, size=n)` has the first n values, and behind the last one `fill_value` (by default the first value; for
    positions 0). `np.bincount(i, length=n)` has n places, or `minlength` where only that is given.""",
    """What is found out only when the program runs is an IndexError then: a number beyond the length of a `bincount`,
    levels of `np.quantile` outside of [0, 1], weights of it that are negative or all zero, lines of NaN for
    `np.nanargmax`. Leading coefficients of polynomials that happen to be zero are kept (`np.polymul`,
    `np.polydiv`, `np.roots`, `np.poly1d`, `np.polynomial`).""",
    """bfloat16 is the dtype of ml_dtypes (`pip install "nufunc[bfloat16]"`; `nf.bfloat16` is its scalar type), and
    follows NumPy's rules for float16: Python's numbers leave it as it is, with bool, int8 and uint8 it stays bfloat16,
    with float16 and 16-bit integers it gives float32, with longer integers float64, and otherwise the wider dtype.
    NumPy itself has no such rules for it and gives float32 for `x * 2.0`, and it refuses `np.finfo(x.dtype)`, which
    traced code may use. Operations compute in float32 and round once, to the nearest and to even; sums, means, norms
    and products of matrices add in float32, running sums too; conversions are those of ml_dtypes to the bit (from
    float64 by way of float32). `numpy.linalg` has none of it but norms, as it has none of float16.""",
)


def functions(namespace, module):
    """(supported, not supported) names of the functions of a NumPy module."""
    names = [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and callable(value) and not isinstance(value, type)
    ]
    supported = [n for n in names if n in vars(namespace) and not getattr(vars(namespace)[n], "unsupported", False)]
    return sorted(supported), sorted(set(names) - set(supported))


def page():
    sections = []
    for title, namespace, module in (
        ("numpy", nf.numpy, np),
        ("numpy.linalg", nf.numpy.linalg, np.linalg),
    ):
        yes, no = functions(namespace, module)
        for head, names in ((f"`{title}`, on traced values", yes), (f"`{title}`, not yet", no)):
            sections.append(f"## {head}\n\n" + "\n".join(textwrap.wrap(" ".join(names), 118, break_on_hyphens=False)))
    transforms = "\n".join(textwrap.wrap(" ".join(sorted(BY_NAME)), 118))
    sections.insert(4, "## `numpy.fft`, on traced values\n\n" + transforms)
    for module, rules in ((scipy.special, SPECIAL), (scipy.linalg, LINALG), (scipy.fft, FFT)):
        names = textwrap.wrap(" ".join(sorted(n for n in rules if hasattr(module, n))), 118)
        sections.append(f"## `{module.__name__}`, on traced values\n\n" + "\n".join(names))
    intro = ["\n".join(textwrap.wrap(" ".join(text.split()), 118, break_on_hyphens=False)) for text in INTRODUCTION]
    return "\n\n".join([*intro, *sections]) + "\n"


def test_the_page_lists_what_there_is():
    text = page()
    if os.environ.get("NUFUNC_UPDATE_GOLDEN"):
        PAGE.write_text(text)
    assert PAGE.read_text() == text


@pytest.mark.parametrize("name", functions(nf.numpy, np)[1][:40:8])
def test_what_is_listed_as_missing_says_so(name):
    with pytest.raises((nf.UnsupportedError, TypeError, ValueError)) as caught:
        nf.jit(lambda x: getattr(np, name)(x))(np.ones(3))
    assert isinstance(caught.value, nf.NufuncError)
    assert name in str(caught.value)
