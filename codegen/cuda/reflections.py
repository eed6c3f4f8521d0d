"""QR of small matrices and of stacks of them by kernels of our own, with LAPACK's reflections, and so with its signs.

See Note [Teams] in `small_matrices`. Every thread computes the norm of a column for itself, which takes no longer than
what each then does: a column of the matrix, or of q, belongs to one thread.
"""

from __future__ import annotations

from collections.abc import Callable

from nufunc.codegen.cuda.library_steps import Lower, Lowered, not_empty
from nufunc.codegen.cuda.program import Place
from nufunc.codegen.cuda.small_matrices import Matrices, Writer, launch, started
from nufunc.codegen.loops import Buffer


def reflect(w: Writer, x: Matrices, tau: Callable[[str], str]) -> None:
    """The upper triangle becomes r, below stand the reflections without their leading ones."""
    m, n, real = x.rows, x.columns, w.real_type
    with w.inside(f"for k in range({min(m, n)}):"):
        w.barrier()
        _norm(w, x)
        w.line(f"alpha = {x('k', 'k')}")
        w.line(f"factor = {w.type}(0)")
        w.line("beta = alpha")
        w.line(f"scale = {w.type}(1)")
        imaginary = " or alpha.imag != 0" if w.dtype.kind == "c" else ""
        with w.inside(f"if rest != 0{imaginary}:"):
            if w.dtype.kind == "c":
                w.line(f"size = {real}(hypot(hypot(alpha.real, alpha.imag), rest))")
                w.line("size = size if alpha.real < 0 else -size")
                w.line(f"factor = {w.type}(complex((size - alpha.real) / size, -alpha.imag / size))")
                w.line(f"beta = {w.type}(complex(size, {real}(0)))")
            else:
                w.line(f"size = {real}(hypot(alpha, rest))")
                w.line("beta = size if alpha < 0 else -size")
                w.line("factor = (beta - alpha) / beta")
            w.line(f"scale = {w.type}(1) / (alpha - beta)")
        w.barrier()
        with w.inside(w.each("i", "k + 1", str(m))):
            w.line(f"{x('i', 'k')} = {x('i', 'k')} * scale")
        w.one(f"{tau('k')} = factor", f"{x('k', 'k')} = beta")
        w.barrier()
        with w.inside(w.each("c", "k + 1", str(n))):
            _applied(w, x, x, "k", w.conj("factor"))
    w.barrier()


def _norm(w: Writer, x: Matrices) -> None:
    """rest: the length of column k below row k, without overflow."""
    m, real = x.rows, w.real_type
    parts = ("real", "imag") if w.dtype.kind == "c" else ()
    texts = [f"{x('i', 'k')}.{part}" for part in parts] or [x("i", "k")]
    w.line(f"most = {real}(0)")
    with w.inside(f"for i in range(k + 1, {m}):"):
        for text in texts:
            w.line(f"own = abs({text})")
            w.line("most = most if own <= most else own")  # NaN stays
    w.line(f"rest = {real}(0)")
    with w.inside("if most != 0:"):
        with w.inside(f"for i in range(k + 1, {m}):"):
            for text in texts:
                w.line(f"own = {text} / most")
                w.line("rest = rest + own * own")
        w.line(f"rest = most * {real}(sqrt(rest))")


def _applied(w: Writer, v: Matrices, q: Matrices, k: str, factor: str) -> None:
    """Column c of q, reflected by column k of v."""
    w.line(f"total = {q(k, 'c')}")
    with w.inside(f"for i in range({k} + 1, {q.rows}):"):
        w.line(f"total = total + {w.conj(v('i', k))} * {q('i', 'c')}")
    w.line(f"total = {factor} * total")
    w.line(f"{q(k, 'c')} = {q(k, 'c')} - total")
    with w.inside(f"for i in range({k} + 1, {q.rows}):"):
        w.line(f"{q('i', 'c')} = {q('i', 'c')} - {v('i', k)} * total")


def _worked(made: Lowered, w: Writer, m: int, n: int) -> tuple[Matrices, list[tuple[Buffer, Place]]]:
    """The matrix in memory that nobody else reads."""
    type_ = made.operands[0]
    x = w.brought("s", "a", m, n, "work")
    return x, [(Buffer("work", type_.dtype, type_.size, written=True), made.area(type_.nbytes))] if x.base else []


def _qr(made: Lowered) -> None:
    w, count, m, n = started(made)
    x, more = _worked(made, w, m, n)
    k = min(m, n)
    if w.team.alone:
        w.array("factors", k, w.type)
        tau: Callable[[str], str] = lambda i: f"factors[{i}]"
    else:
        size = count * k
        more.append((Buffer("factors", w.dtype, size, written=True), made.area(size * w.dtype.itemsize)))
        tau = lambda i: f"factors[item * {k} + {i}]"
    reflect(w, x, tau)
    vectors = made.attrs["vectors"]
    rows = made.results[-1].shape[-2]
    r = Matrices("y" if vectors else "x", rows, n, f"item * {rows * n} + ")
    with w.pairs(("0", str(rows)), ("0", str(n))):
        w.line(f"{r('i', 'j')} = {x('i', 'j')} if i <= j else {w.type}(0)")
    if vectors:
        columns = made.results[0].shape[-1]
        q = Matrices("x", m, columns, f"item * {m * columns} + ")
        with w.inside(w.each("c", "0", str(columns))):
            with w.inside(f"for i in range({m}):"):
                w.line(f"{q('i', 'c')} = {w.type}(1) if i == c else {w.type}(0)")
            with w.inside(f"for step in range({k}):"):
                w.line(f"k = {k - 1} - step")
                _applied(w, x, q, "k", tau("k"))
    launch(made, w, *more)


def _householder(made: Lowered) -> None:
    w, _, m, n = started(made)
    x, more = _worked(made, w, m, n)
    k = min(m, n)
    reflect(w, x, lambda i: f"y[item * {k} + {i}]")
    with w.pairs(("0", str(n)), ("0", str(m))):
        w.line(f"x[item * {m * n} + i * {m} + j] = {x('j', 'i')}")
    launch(made, w, *more)


LOWER: dict[str, Lower] = {"qr": not_empty(_qr), "householder": not_empty(_householder)}
