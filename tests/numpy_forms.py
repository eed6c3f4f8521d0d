"""The forms of NumPy that count, read from numpy_forms.txt, and the checks that decide about each."""

from __future__ import annotations

import builtins
import itertools
import math
import re
import symtable
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy_harness as harness
import scipy.fft
import scipy.linalg
import scipy.special

import nufunc as nf
from nufunc.ir import interpret
from nufunc.ir.graph import Graph
from nufunc.passes.functionalize import functionalize
from nufunc.passes.jvp import jvp
from nufunc.passes.transpose import vjp
from nufunc.passes.vmap import vmap
from nufunc.tracer import dispatch
from nufunc.tracer.array import Array
from nufunc.tracer.np_selection import Selection

TABLE = Path(__file__).parent / "numpy_forms.txt"


def _arrays() -> dict[str, np.ndarray]:
    """The arrays of the table by name."""
    rng = np.random.default_rng(11)
    normal = lambda *shape: rng.normal(size=shape)
    x, y = normal(3, 4), normal(3, 4) + 0.1
    p, q = rng.uniform(0.3, 2.5, (3, 4)), rng.uniform(0.4, 2.0, (3, 4))
    i, j = rng.integers(-5, 6, (3, 4)), rng.integers(1, 5, (3, 4))
    special = np.array([0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, np.nan, 2.5, -2.5, 0.5, 1.5, 1e-310, 1e30])
    root = normal(3, 3)
    m = root @ root.T + 2 * np.eye(3)
    b, b2 = rng.random((3, 4)) < 0.5, rng.random((3, 4)) < 0.5
    z, z2 = normal(3, 4) + 1j * normal(3, 4), normal(3, 4) + 1j * normal(3, 4)
    n = x.copy()
    n[0, 1] = n[2, 3] = np.nan
    zm = normal(3, 3) + 1j * normal(3, 3) + 3 * np.eye(3)
    u = rng.uniform(0.05, 0.95, (3, 4))
    zero = np.zeros((3, 4))
    small = lambda a, dtype: a.astype(dtype)
    return {
        "x": x, "y": y, "p": p, "q": q, "u": u, "g": rng.uniform(1.3, 3.0, (3, 4)), "v": normal(4), "w": normal(4),
        "pv": p[0] + 0.2, "t": normal(3), "k": normal(3, 1), "s": np.array(0.7), "c": normal(2, 3, 4),
        "e": np.zeros((0, 4)), "l": normal(12), "n": n, "f": special, "fr": special[::-1].copy(), "m": m,
        "a": root + 3 * np.eye(3), "mb": np.stack([m, m + np.eye(3)]), "o4": np.sort(normal(4)),
        "o3": np.sort(normal(3)), "i": i, "j": j, "j2": rng.integers(1, 5, (3, 4)), "iv": np.array([2, 0, 3, 1]),
        "iv2": np.array([1, 3, 2]), "i8": small(i, np.int8), "i8b": small(j, np.int8), "u8": small(j, np.uint8),
        "u8b": small(j[::-1], np.uint8), "i16": small(i, np.int16), "u16": small(j, np.uint16),
        "i32": small(i, np.int32), "u32": small(j, np.uint32), "u64": small(j, np.uint64), "j32": small(j, np.int32),
        "h": small(x, np.float32), "h2": small(y, np.float32), "p32": small(p, np.float32),
        "q32": small(q, np.float32), "us": small(u, np.float32), "m32": small(m, np.float32), "b": b, "b2": b2,
        "bv": np.array([True, False, True, True]), "bt3": np.array([True, False, True]), "z": z, "z2": z2,
        "z64": small(z, np.complex64), "zv": z[0].copy(), "zm": zm, "zh": zm @ zm.conj().T + np.eye(3),
        "x16": small(x, np.float16), "idx": np.array([0, 2, 1, 2]), "idy": np.array([3, 0, 1, 1]), "ir": np.array(2),
        "lidx": np.array([1, 7, 11]), "oidx": np.array([0, 3, 7]), "zero": zero, "xbig": x.astype(">f8"),
        "ibig": i.astype(">i4"), "zbig": z.astype(">c16"),
    }  # fmt: skip


ARRAYS = _arrays()
_MODULES = {"special": scipy.special, "linalg": scipy.linalg, "fft": scipy.fft, "math": math}
_BUILTINS = ("max", "min", "sum")


@dataclass(frozen=True)
class Form:
    """One line of the table after its alternatives are chosen: `call(np, *args)` gives the result."""

    code: str
    section: str
    names: tuple[str, ...]
    tags: frozenset[str]
    refuses: str = ""
    rtol: float = 1e-12
    args: tuple[np.ndarray, ...] = field(default=(), repr=False, compare=False)

    @property
    def name(self) -> str:
        return self.code

    def __repr__(self) -> str:
        return self.code

    def call(self, np_: Any, *arrays: Any) -> Any:
        return _function(self.code, self.names)(np_, *arrays)


def expand(text: str) -> Iterator[str]:
    """A line for each choice of alternatives: {one|another}."""
    depth, start, bars = 0, -1, []
    for at, letter in enumerate(text):
        if letter == "{":
            if depth == 0:
                start, bars = at, []
            depth += 1
        elif letter == "|" and depth == 1 and text[at - 1] != "\\":
            bars.append(at)
        elif letter == "}":
            depth -= 1
            if depth == 0 and bars:
                ends = [start, *bars, at]
                for low, high in itertools.pairwise(ends):
                    for rest in expand(text[at + 1 :]):
                        for option in expand(text[low + 1 : high]):
                            yield text[:start] + option + rest
                return
    yield text


def forms() -> list[Form]:
    """All forms, each once."""
    found: dict[str, Form] = {}
    section = ""
    for line in TABLE.read_text().splitlines():
        if line.startswith("## "):
            section = line[3:]
        elif line and not line.startswith("#"):
            text, _, notes = line.partition("  # ")
            tags, _, refuses = notes.partition("refuses:")
            words = frozenset(t.strip() for t in tags.split(",") if t.strip())
            rtol = next((float(t[5:]) for t in words if t.startswith("rtol=")), 1e-12)
            for code in expand(text):
                code = code.replace("\\|", "|").replace("(, ", "(")
                names = _operands(code)
                args = tuple(ARRAYS[name] for name in names)
                found.setdefault(code, Form(code, section, names, words, refuses.strip(), rtol, args))
    return list(found.values())


def _source(code: str, names: tuple[str, ...]) -> str:
    *statements, last = _split(code)
    inner = "".join(f"    {part}\n" for part in statements)
    return f"def call({', '.join(('np', *names))}):\n{inner}    return {last}\n"


def _split(code: str) -> list[str]:
    return [part.strip() for part in code.split("; ")]


def _operands(code: str) -> tuple[str, ...]:
    """The table's arrays that a form reads, in the order of the table."""

    def free(table: symtable.SymbolTable) -> set[str]:
        names = {sym.get_name() for sym in table.get_symbols() if sym.is_global()}
        return names.union(*(free(child) for child in table.get_children()))

    used = free(symtable.symtable(_source(code, ()), code, "exec"))
    return tuple(name for name in ARRAYS if name in used)


_MADE: dict[tuple[str, tuple[str, ...], bool], Callable[..., Any]] = {}


def _function(code: str, names: tuple[str, ...]) -> Callable[..., Any]:
    def call(np_: Any, *arrays: Any) -> Any:
        traced = np_ is not np
        made = _MADE.get((code, names, traced))
        if made is None:
            swap = dispatch.swap if traced else lambda obj: obj
            scope: dict[str, Any] = {name: swap(module) for name, module in _MODULES.items()}
            scope.update((name, swap(getattr(builtins, name))) for name in _BUILTINS)
            exec(compile(_source(code, names), f"<{code}>", "exec"), scope)
            made = _MADE[code, names, traced] = scope["call"]
        return made(np_, *arrays)

    return call


def plain(form: Form) -> Callable[..., Any]:
    """The form as a user would write it, for nf.jit."""
    scope: dict[str, Any] = {"np": np, **_MODULES}
    source = _source(form.code, form.names).replace("def call(np, ", "def call(").replace("def call(np)", "def call()")
    exec(compile(source, f"<{form.code}>", "exec"), scope)
    return scope["call"]


# -- results


def leaves(results: Any) -> list[Any]:
    """Results of a form in one list."""
    if isinstance(results, (list, tuple)):
        return [leaf for part in results for leaf in leaves(part)]
    return [results]


def expected(form: Form, arrays: Any) -> list[Any]:
    """NumPy's results on copies of these arrays."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        return leaves(form.call(np, *[np.array(a, copy=True, order="K") for a in arrays]))


def traced(form: Form, arrays: Any) -> tuple[Graph, list[Any]]:
    """The graph before functionalize, and the results: Arrays or concrete values."""
    held: list[Any] = []

    def call(np_: Any, *operands: Any) -> Any:
        held.extend(leaves(form.call(np_, *operands)))
        for result in held:
            if type(result) is Selection:
                result._refuse()
        return tuple(held)

    graph, _ = harness.trace(call, *arrays)
    return graph, held


def _native(a: np.ndarray) -> np.ndarray:
    return a.astype(a.dtype.newbyteorder("="), order="K")


def values(graph: Graph, flat: list[Any], arrays: Any) -> list[Any]:
    found = iter(interpret.run(graph, [_native(np.array(a, copy=True, order="K")) for a in arrays]))
    return [next(found) if isinstance(r, Array) else r for r in flat]


def compare(actual: list[Any], wanted: list[Any], rtol: float, types: bool = True, signs: bool = True) -> str:
    """What differs, or nothing."""
    if len(actual) != len(wanted):
        return f"{len(actual)} results, not {len(wanted)}"
    for a, w in zip(actual, wanted):
        if not isinstance(w, (np.ndarray, np.generic, bool, int, float, complex)):
            if not (a == w or repr(a) == repr(w)):
                return f"{a!r}, not {w!r}"
            continue
        a, w = np.asarray(a), np.asarray(w)
        if a.shape != w.shape:
            return f"shape {a.shape}, not {w.shape}"
        if types and a.dtype != w.dtype.newbyteorder("="):
            return f"dtype {a.dtype}, not {w.dtype}"
        if w.dtype.kind in "fc":
            close = max(rtol, {2: 2e-3, 4: 1e-5}.get(w.dtype.itemsize // (1 + (w.dtype.kind == "c")), 0.0))
            if not np.allclose(a, w, rtol=close, atol=close, equal_nan=True):
                return f"values differ: {_short(a)}, not {_short(w)}"
            if signs and w.dtype.kind == "f" and not np.array_equal(np.signbit(a[w == 0]), np.signbit(w[w == 0])):
                return "signs of zeros differ"
        elif not np.array_equal(a, w):
            return f"values differ: {_short(a)}, not {_short(w)}"
    return ""


def _short(a: np.ndarray) -> str:
    return np.array2string(a.ravel()[:6], precision=4, separator=",").replace("\n", "")


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:200]


# -- checks: each says what is wrong, "" where nothing is and None where the question does not arise


def tolerance(form: Form, arrays: Any) -> float:
    single = any(a.dtype in (np.float32, np.complex64) for a in arrays)
    return max(form.rtol, 1e-5) if single else form.rtol


def forward(form: Form, arrays: Any = None) -> str:
    """Values, shapes, dtypes and the kind of scalars against NumPy."""
    arrays = form.args if arrays is None else arrays
    try:
        wanted = expected(form, arrays)
    except Exception as error:  # noqa: BLE001 - NumPy's refusal, of any kind
        return f"NumPy refuses it: {_said(error)}"
    try:
        graph, flat = traced(form, arrays)
        actual = values(graph, flat, arrays)
    except Exception as error:  # noqa: BLE001 - recorded in the page
        return _said(error)
    if "nan" in form.tags:
        return compare([np.shape(a) for a in actual], [np.shape(w) for w in wanted], 0)
    for a, w in zip(flat, wanted):
        if isinstance(a, Array) and not a.shape and a.scalar != isinstance(w, (np.generic, bool, int, float, complex)):
            return "a scalar where NumPy gives a 0-d array" if a.scalar else "a 0-d array where NumPy gives a scalar"
    return compare(actual, wanted, tolerance(form, arrays))


def _pure(form: Form, arrays: Any) -> tuple[Graph, list[int]]:
    """The pure graph of the results, and which of the form's results they are."""
    graph, flat = traced(form, arrays)
    pure = functionalize(graph)
    return pure.replace(outputs=pure.outputs[: sum(isinstance(r, Array) for r in flat)], updates=()), [
        k for k, r in enumerate(flat) if isinstance(r, Array)
    ]


def _active(arrays: Any) -> list[bool]:
    """Operands that are varied: those of double precision."""
    return [a.dtype.kind in "fc" and a.dtype.itemsize >= 8 * (1 + (a.dtype.kind == "c")) and a.size > 0 for a in arrays]


def _direction(a: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A tangent; of symmetric matrices a symmetric one, as functions that read one triangle only need it."""
    if a.ndim >= 2 and a.shape[-1] == a.shape[-2] and np.allclose(a, np.conj(np.swapaxes(a, -1, -2))):
        d = rng.normal(size=a.shape) + (1j * rng.normal(size=a.shape) if a.dtype.kind == "c" else 0)
        return np.asarray(d + np.conj(np.swapaxes(d, -1, -2))).astype(a.dtype.newbyteorder("="))
    d = rng.normal(size=a.shape) + (1j * rng.normal(size=a.shape) if a.dtype.kind == "c" else 0)
    return np.asarray(d).astype(a.dtype.newbyteorder("="))


def derivatives(form: Form) -> str | None:
    """jvp and vjp against central differences of NumPy's function."""
    arrays = form.args
    active = _active(arrays)
    if form.refuses or {"rough", "nan", "constant"} & form.tags or not any(active):
        return None
    try:
        base = expected(form, arrays)
        graph, which = _pure(form, arrays)
    except Exception as error:  # noqa: BLE001 - recorded in the page
        return _said(error)
    smooth = [k for k in which if np.asarray(base[k]).dtype.kind in "fc"]
    if not smooth:
        return None
    rng = np.random.default_rng(5)
    tangents = [_direction(a, rng) for a, on in zip(arrays, active) if on]
    single = any(np.asarray(a).dtype in (np.float32, np.complex64) for a in (*arrays, *(base[k] for k in smooth)))
    slopes = _slopes(form, tangents, active, smooth, 3e-3 if single else 1e-6)
    rtol, atol = (2e-2, 2e-2) if single else (3e-5, 3e-6)
    operands = [_native(a) for a in arrays]
    try:
        found = interpret.run(jvp(graph, active), [*operands, *tangents])[len(which) :]
        if len(found) != len(smooth):
            return f"{len(found)} tangents for {len(smooth)} results"
        for tangent, slope in zip(found, slopes):
            known = np.isfinite(slope)
            if not np.allclose(tangent[known], slope[known], rtol=rtol, atol=atol):
                return f"jvp gives {_short(tangent)}, differences {_short(slope)}"
        cotangents = [np.where(np.isfinite(t), _direction(np.asarray(t), rng), 0).astype(t.dtype) for t in found]
        gradients = interpret.run(vjp(graph, active), [*operands, *cotangents])[-sum(active) :]
    except Exception as error:  # noqa: BLE001 - recorded in the page
        return _said(error)
    if not all(np.isfinite(t).all() for t in found):
        return ""  # the transpose of what is infinite is compared nowhere
    one = sum(np.sum(c * t).real for c, t in zip(cotangents, found))
    two = sum(np.sum(d * t).real for d, t in zip(gradients, tangents))
    if not np.isclose(one, two, rtol=1e-4 if single else 1e-8, atol=1e-4 if single else 1e-8):
        return f"vjp gives {two}, jvp {one}"
    return ""


def _slopes(form: Form, tangents: list[np.ndarray], active: list[bool], which: list[int], step: float) -> list[Any]:
    """Central differences of NumPy's results along the tangents."""
    ends = []
    for sign in (1, -1):
        rest = iter(tangents)
        ends.append(expected(form, [a + sign * step * next(rest) if on else a for a, on in zip(form.args, active)]))
    with np.errstate(all="ignore"):
        return [(np.asarray(ends[0][k]) - np.asarray(ends[1][k])) / (2 * step) for k in which]


def lane(a: np.ndarray) -> np.ndarray:
    """Another lane's array: smaller numbers of the same signs and order; ints and bools reversed."""
    if a.dtype.kind in "fc":
        return (a * a.dtype.type(0.9)).astype(a.dtype)
    return a[::-1].copy() if a.ndim else a


def batched(form: Form, everything: bool = False) -> str | None:
    """vmap over each operand alone and over all, at 0 and at -1, against a loop over the lanes."""
    arrays = [_native(a) for a in form.args]
    if form.refuses or {"nan", "not vmap"} & form.tags or not arrays:
        return None
    count = len(arrays)
    subsets = [tuple(n == k for n in range(count)) for k in range(count)] + [(True,) * count] * (count > 1)
    if everything:
        subsets = [s for s in itertools.product((False, True), repeat=count) if any(s)]
    try:
        graph, which = _pure(form, arrays)
        if not which:
            return None
        for mapped in subsets:
            others = [lane(a) if on else a for a, on in zip(arrays, mapped)]
            single = [[loop[k] for k in which] for loop in (expected(form, arrays), expected(form, others))]
            if any(np.shape(one) != np.shape(two) for one, two in zip(*single)):
                continue
            wanted = [np.stack([one, two]) for one, two in zip(*single)]
            for last in (False, True):
                dims = [(a.ndim if last else 0) if on else None for a, on in zip(arrays, mapped)]
                outs = [np.ndim(r) if last else 0 for r in single[0]]
                operands = [
                    a if d is None else np.stack([a, o], axis=d) for a, o, d in zip(arrays, others, dims)
                ]
                actual = interpret.run(vmap(graph, 2, dims, outs), operands)
                target = [np.moveaxis(w, 0, d) for w, d in zip(wanted, outs)]
                wrong = compare(actual, target, max(tolerance(form, arrays), 1e-10), types=False)
                if wrong:
                    return f"in_dims {dims}: {wrong}"
    except Exception as error:  # noqa: BLE001 - recorded in the page
        return _said(error)
    return ""


def _as_single(a: np.ndarray) -> np.ndarray:
    return a.astype({"float64": np.float32, "complex128": np.complex64}.get(str(a.dtype), a.dtype))


def _variant(form: Form, change: Callable[[np.ndarray], np.ndarray], rtol: float, without: str) -> str | None:
    """The form with other arrays, unless a tag says that these do not fit it."""
    if form.refuses or not form.args or {"nan", without} & form.tags:
        return None
    arrays = [change(a) for a in form.args]
    try:
        wanted = expected(form, arrays)
    except Exception:  # noqa: BLE001 - NumPy refuses these; so should we, but need not
        return None
    try:
        actual = values(*traced(form, arrays), arrays)
    except Exception as error:  # noqa: BLE001 - recorded in the page
        return _said(error)
    return compare(actual, wanted, rtol)


def single_precision(form: Form) -> str | None:
    """The same in float32."""
    if not any(a.dtype in (np.float64, np.complex128) for a in form.args):
        return None
    return _variant(form, _as_single, max(form.rtol, 2e-4), "not float32")


def empty(form: Form) -> str | None:
    """The same with no rows."""
    if not all(a.ndim for a in form.args):
        return None
    return _variant(form, lambda a: a[:0], max(form.rtol, 1e-12), "not empty")


def zero_dim(form: Form) -> str | None:
    """The same with 0-d arrays."""
    first = lambda a: a.reshape(-1)[:1].reshape(()) if a.size else a
    return _variant(form, first, tolerance(form, form.args), "not 0-d")


def is_refused(form: Form) -> str:
    """For a form marked so: that it is refused, and by a clear error."""
    try:
        graph, flat = traced(form, form.args)
        values(graph, flat, form.args)
    except Exception as error:  # noqa: BLE001 - looked at here
        good = type(error).__module__.startswith("nufunc") or isinstance(
            error, (TypeError, ValueError, IndexError, OverflowError)
        )
        return "" if good and str(error) else f"not a clear error: {_said(error)}"
    return "it is not refused"


def compiled(form: Form) -> str:
    """The form under nf.jit, as a user would write it."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        wanted = expected(form, form.args)
        if any(not isinstance(w, (np.ndarray, np.generic, bool)) for w in wanted):
            return ""
        try:
            actual = leaves(nf.jit(plain(form))(*[np.array(a, copy=True, order="K") for a in form.args]))
        except Exception as error:  # noqa: BLE001 - shown by the test
            return _said(error)
    if "nan" in form.tags:
        return compare([np.shape(a) for a in actual], [np.shape(w) for w in wanted], 0)
    # zeros that LAPACK computes, and sums of few elements, may have either sign
    exact = not form.section.endswith(("algebra", "linalg")) and "any zero" not in form.tags
    return compare(actual, wanted, max(tolerance(form, form.args), 1e-11), signs=exact)


def derivatives_of_second_order(form: Form) -> str | None:
    """The jvp of the vjp against central differences of the vjp."""
    arrays = [_native(a) for a in form.args]
    active = _active(arrays)
    if form.refuses or {"rough", "nan", "constant"} & form.tags or not any(active):
        return None
    if any(a.dtype in (np.float32, np.complex64) for a in arrays):
        return None
    try:
        graph, _ = _pure(form, arrays)
        if not any(v.dtype.kind in "fc" for v in graph.outputs) or any(v.dtype.itemsize == 4 for v in graph.outputs):
            return None
        rng = np.random.default_rng(6)
        backward = vjp(graph, active)
        cotangents = [
            _direction(np.ones(v.shape, v.dtype), rng) for v in graph.outputs if v.dtype.kind in "fc"
        ]
        flags = [*active, *[False] * len(cotangents)]
        tangents = [_direction(a, rng) for a, on in zip(arrays, active) if on]
        count = sum(active)
        found = interpret.run(jvp(backward, flags), [*arrays, *cotangents, *tangents])[-count:]
        ends = []
        for step in (1e-6, -1e-6):
            rest = iter(tangents)
            moved = [a + step * next(rest) if on else a for a, on in zip(arrays, active)]
            ends.append(interpret.run(backward, [*moved, *cotangents])[-count:])
    except Exception as error:  # noqa: BLE001 - shown by the test
        return _said(error)
    for k, tangent in enumerate(found):
        with np.errstate(all="ignore"):
            slope = (ends[0][k] - ends[1][k]) / 2e-6
        known = np.isfinite(slope)
        if not np.allclose(tangent[known], slope[known], rtol=1e-4, atol=1e-4):
            return f"second derivative {_short(tangent)}, differences {_short(slope)}"
    return ""


FORMS = forms()
CALLABLE = re.compile(r"(?:np|special|linalg|fft)(?:\.\w+)+")
