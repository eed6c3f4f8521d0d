"""Convolutions on a device: contractions with windows, by a kernel of our own.

cuDNN is not asked: nvmath-python does not bind it. The kernel's tiles read x where the windows meet it, so that nothing
is copied; the derivatives are convolutions too (Note [Convolution as a trilinear form] in ir/prims/conv.py).
"""

from __future__ import annotations

from nufunc.codegen.cuda.contraction import Contraction, Letters, Side, Window
from nufunc.codegen.cuda.library_products import contract, summed_in
from nufunc.codegen.cuda.library_steps import Lowered
from nufunc.codegen.strided import row_major


def lower_conv(made: Lowered) -> None:
    """Rows are what w alone has, columns what x alone has and the places of windows."""
    attrs, (x, w), out = made.attrs, made.operands, made.results[0]
    window = attrs["window"]
    steps = {
        name: dict(zip(attrs[name], row_major(type_.shape), strict=True))
        for name, type_ in zip("xw", (x, w), strict=True)
    }
    made_of = dict(zip(attrs["out"], row_major(out.shape), strict=True))
    extents = {
        letter: extent
        for letters, type_ in zip((attrs["x"], attrs["w"], attrs["out"]), (x, w, out), strict=True)
        for letter, extent in zip(letters, type_.shape, strict=True)
    }
    kernel = dict(zip(attrs["w"], w.shape, strict=True))

    def plain(letters: str, inside: tuple[bool, bool, bool]) -> Letters:
        """Letters of no window that are (or are not) in x, w and out."""
        places = attrs["x"], attrs["w"], attrs["out"]
        return tuple(
            (f"v_{n}", extents[n]) for n in letters
            if n not in window and inside == tuple(n in names for names in places)
        )  # fmt: skip

    windows = tuple(
        Window(
            f"p_{n}", f"k_{n}", attrs["stride"][k], attrs["dilation"][k], attrs["spread"][k], attrs["offset"][k],
            x.shape[attrs["x"].index(n)], steps["x"][n],
        )
        for k, n in enumerate(window)
    )  # fmt: skip
    columns = tuple(
        (f"p_{n}", out.shape[k]) if n in window else (f"v_{n}", extents[n])
        for k, n in enumerate(attrs["out"])
        if n in window or n not in attrs["w"]
    )
    summed = (
        *plain(attrs["x"], (True, True, False)),
        *((f"k_{n}", kernel[n]) for n in attrs["w"] if n in window),
    )
    name = lambda n, one: f"{one}_{n}" if n in window else f"v_{n}"
    form = Contraction(
        summed_in(out.dtype), plain(attrs["out"], (True, True, True)), plain(attrs["out"], (False, True, True)),
        columns, summed,
        Side({name(n, "k"): step for n, step in steps["w"].items()}),
        Side({name(n, "q"): step for n, step in steps["x"].items()}, windows),
        {name(n, "p"): step for n, step in made_of.items()}, (w.size, x.size, out.size), out.dtype,
    )  # fmt: skip
    contract(made, form, made.operand(1), made.operand(0), made.result(0), "conv")
