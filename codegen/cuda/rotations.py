"""Eigenvalues of small Hermitian matrices, and of stacks of them, by Jacobi's rotations in a kernel of our own.

See Note [Teams] in `small_matrices`. Sweeps go through all pairs of rows in order; each rotation makes one entry zero,
and once what is beside the diagonal has become as small as rounding it vanishes. Values are sorted by their ranks.
"""

from __future__ import annotations

import numpy as np

from nufunc.codegen.cuda.library_steps import Lower, Lowered, count_of, not_empty
from nufunc.codegen.cuda.program import Place
from nufunc.codegen.cuda.small_matrices import Matrices, Writer, launch, started
from nufunc.codegen.loops import Buffer

SWEEPS = 40  # after which a matrix has failed


def is_small(made: Lowered) -> bool:
    shape = made.operands[0].shape
    return shape[-1] <= 16 or (shape[-1] <= 32 and count_of(shape) >= 16)


def _place(made: Lowered, w: Writer, name: str, n: int, more: list[tuple[Buffer, Place]]) -> Matrices:
    """A square matrix for the team to work on."""
    if w.fits(n * n):
        w.array(name, n * n, w.type)
        return Matrices(name, n, n)
    size = made.operands[0].size
    more.append((Buffer(name, w.dtype, size, written=True), made.area(size * w.dtype.itemsize)))
    return Matrices(name, n, n, f"item * {n * n} + ")


def _eigh(made: Lowered) -> None:
    w, _, n, _ = started(made)
    more: list[tuple[Buffer, Place]] = []
    x = _place(made, w, "s", n, more)
    v = _place(made, w, "v", n, more) if made.attrs["vectors"] else None
    a = Matrices("a", n, n, f"item * {n * n} + ")
    with w.pairs(("0", str(n)), ("0", str(n))):
        here = "j <= i" if made.attrs["lower"] else "i <= j"
        w.line(f"own = {a('i', 'j')} if {here} else {w.conj(a('j', 'i'))}")
        if w.dtype.kind == "c":
            w.line(f"own = {w.type}(complex(own.real, {w.real_type}(0))) if i == j else own")
        w.line(f"{x('i', 'j')} = own")
        if v is not None:
            w.line(f"{v('i', 'j')} = {w.type}(1) if i == j else {w.type}(0)")
    w.line("sweep = 0")
    w.line("done = False")
    with w.inside(f"while sweep < {SWEEPS} and not done:"):
        w.line("sweep = sweep + 1")
        w.barrier()
        _measured(w, x)
        with w.inside("if not done:"):
            _sweep(w, x, v)
    w.one("if not done:", *("    " + text for text in w.fail()))
    w.barrier()
    _sorted(w, x, v)
    launch(made, w, *more)


def _square(w: Writer, text: str) -> str:
    return f"({text}.real * {text}.real + {text}.imag * {text}.imag)" if w.dtype.kind == "c" else f"{text} * {text}"


def _measured(w: Writer, x: Matrices) -> None:
    """done: what is beside the diagonal is nothing, or not a number."""
    w.line(f"beside = {w.real_type}(0)")
    w.line(f"whole = {w.real_type}(0)")
    with w.inside(f"for i in range({x.rows}):"), w.inside(f"for j in range({x.rows}):"):
        w.line(f"own = {x('i', 'j')}")
        w.line(f"square = {_square(w, 'own')}")
        w.line("whole = whole + square")
        w.line(f"beside = beside + (square if i != j else {w.real_type}(0))")
    limit = float(np.finfo(w.real).eps) ** 2 / 16
    w.line(f"done = not (beside > whole * {w.real_type}({limit!r}))")


def _sweep(w: Writer, x: Matrices, v: Matrices | None) -> None:
    n, real = x.rows, w.real_type
    with w.inside(f"for p in range({n - 1}):"), w.inside(f"for q in range(p + 1, {n}):"):
        w.barrier()
        w.line(f"entry = {x('p', 'q')}")
        part = ".real" if w.dtype.kind == "c" else ""
        w.line(f"difference = {x('q', 'q')}{part} - {x('p', 'p')}{part}")
        if w.dtype.kind == "c":
            w.line(f"size = {real}(hypot(entry.real, entry.imag))")
        else:
            w.line("size = abs(entry)")
        w.barrier()
        with w.inside("if size != 0:"):
            w.line("phase = entry / size")
            w.line("ratio = difference / (size + size)")
            w.line(f"tangent = {real}(1) / (abs(ratio) + {real}(sqrt({real}(1) + ratio * ratio)))")
            w.line("tangent = -tangent if ratio < 0 else tangent")
            w.line(f"cosine = {real}(1) / {real}(sqrt({real}(1) + tangent * tangent))")
            w.line("sine = tangent * cosine")
            with w.inside(w.each("i", "0", str(n))):
                for m in (x, *([] if v is None else [v])):
                    _turned(w, m("i", "p"), m("i", "q"), w.conj("phase"))
            w.barrier()
            with w.inside(w.each("i", "0", str(n))):
                _turned(w, x("p", "i"), x("q", "i"), "phase")
            w.barrier()
            w.one(f"{x('p', 'q')} = {w.type}(0)", f"{x('q', 'p')} = {w.type}(0)")


def _turned(w: Writer, p: str, q: str, phase: str) -> None:
    w.line(f"first = {p}")
    w.line(f"second = {phase} * {q}")
    w.line(f"{p} = cosine * first - sine * second")
    w.line(f"{q} = sine * first + cosine * second")


def _sorted(w: Writer, x: Matrices, v: Matrices | None) -> None:
    n, part = x.rows, ".real" if w.dtype.kind == "c" else ""
    with w.inside(w.each("i", "0", str(n))):
        w.line(f"value = {x('i', 'i')}{part}")
        w.line("rank = 0")
        w.line("known = True")
        with w.inside(f"for j in range({n}):"):
            w.line(f"other = {x('j', 'j')}{part}")
            w.line("known = known and other == other")
            w.line("rank = rank + (1 if other < value or (other == value and j < i) else 0)")
        w.line("rank = rank if known else i")
        w.line(f"x[item * {n} + rank] = value")
        if v is not None:
            with w.inside(f"for j in range({n}):"):
                w.line(f"y[item * {n * n} + j * {n} + rank] = {v('j', 'i')}")


LOWER: dict[str, Lower] = {"eigh": not_empty(_eigh)}
