"""One or several sample rows per primitive: operands, attributes, an independent reference.

From these rows the checks of every part are generated: inference, evaluation, derivatives, batching, kernels.
An operand is written `f64[3,4]`, with a domain behind it where the default will not do: `f64[3] pos`. Domains
stand in `_DOMAINS`, `_made` and `_reals`; integers also take a range, `i64[3] 0:5`. Values depend only on the
row and on `seed`.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import op_samples_linalg
import op_samples_special
import scipy.special

from nufunc.ir import Builder
from nufunc.ir.graph import Graph
from nufunc.ir.prims.scipy_special import RULES as SCIPY
from nufunc.ir.types import DTYPES_BY_NAME, ArrayType

Reference = Callable[..., Any]


@dataclass(frozen=True)
class Sample:
    """A row of the table."""

    prim: str
    specs: tuple[str, ...]
    attrs: dict[str, Any] = field(default_factory=dict)
    reference: Reference | None = (
        None  # independent of `evaluate`; None where that is NumPy's function itself
    )
    smooth: bool = True  # False: at or near a kink or a pole, no comparison of derivatives with differences
    rtol: float = 1e-12  # of `evaluate` against the reference; float32 rows use at least 1e-5
    regions: Callable[[], tuple[Graph, ...]] = tuple
    batch: bool = True  # False: no check of the batching rule (the rows of special values, for speed)

    @property
    def id(self) -> str:
        attrs = ",".join(f"{k}={v}" for k, v in self.attrs.items())
        return f"{self.prim}({'; '.join(self.specs)}){{{attrs}}}".replace(" ", "_")

    @property
    def types(self) -> list[ArrayType]:
        return [_parsed(spec)[0] for spec in self.specs]

    def operands(self, seed: int = 0) -> list[np.ndarray]:
        """Arrays for the operands, the same ones for the same seed."""
        rng = np.random.default_rng([zlib.crc32(self.id.encode()), seed])
        return [_made(spec, rng) for spec in self.specs]

    def graph(self) -> Graph:
        """A graph of this one node (stage *traced* for views and writes, *grouped* for fused ones)."""
        traced = self.prim.startswith("view_") or self.prim == "write"
        b = Builder(self.prim, "traced" if traced else "grouped" if self.prim == "fused" else "pure")
        params = [b.param(type) for type in self.types]
        results = b.emit(self.prim, params, self.attrs, self.regions())
        return b.build(results or params[:1])


# -- operands

_FLOAT_SPECIAL = (
    0.0,
    -0.0,
    np.inf,
    -np.inf,
    np.nan,
    1.0,
    -1.0,
    0.5,
    -0.5,
    1.5,
    2.5,
    -2.5,
    3.7,
    -3.7,
    1e-310,
    1e30,
    -1e30,
)
_DOMAINS: dict[str, tuple[float, float]] = {
    "pos": (0.3, 2.5), "unit": (-0.9, 0.9), "above": (1.2, 3.0), "wide": (-30.0, 30.0), "small": (-0.5, 0.5),
    "tiny": (1e-6, 1e-5), "half": (0.55, 0.56), "pos2": (0.01, 1.95), "1to300": (1.0, 300.0), "inner": (0.05, 0.95),
}  # fmt: skip


def _parsed(spec: str) -> tuple[ArrayType, str]:
    head, _, domain = spec.partition(" ")
    name, _, shape = head.rstrip("]").partition("[")
    return ArrayType(tuple(int(n) for n in shape.split(",") if n), DTYPES_BY_NAME[name]), domain


def special_values(dtype: np.dtype) -> np.ndarray:
    """Values at which functions are delicate: zeros, infinities, NaN, ties of rounding, ends of ranges."""
    if dtype.kind == "f":
        with np.errstate(all="ignore"):
            return np.array(_FLOAT_SPECIAL).astype(dtype)
    if dtype.kind in "iu":
        info = np.iinfo(dtype)
        return np.array(
            [v for v in (0, 1, 2, 3, 7, -1, -2, -7, info.min, info.max, info.max - 1) if v >= info.min], dtype
        )
    raise AssertionError(f"there are no special values of {dtype}")


def _made(spec: str, rng: np.random.Generator) -> np.ndarray:
    type, domain = _parsed(spec)
    shape, dtype = type.shape, type.dtype
    if domain in (
        "special",
        "special_outer",
    ):  # outer: each value is repeated, to meet all values of the other operand
        values = special_values(dtype)
        index = np.arange(type.size)
        return values[(index // len(values) if domain == "special_outer" else index) % len(values)].reshape(
            shape
        )
    if domain == "true":
        return np.ones(shape, bool)
    if dtype.kind == "b":
        return rng.random(shape) < 0.5 if shape else np.array(rng.random() < 0.5)
    if dtype.kind in "iu":
        low, high = (int(n) for n in domain.split(":")) if domain else (0 if dtype.kind == "u" else -5, 6)
        return np.asarray(rng.integers(low, high, shape)).astype(dtype)
    if dtype.kind == "c":
        x = _reals(shape, domain, rng) + 1j * _reals(shape, domain, rng)
    else:
        x = _reals(shape, domain, rng)
    if domain == "spd":
        x = x @ np.conj(np.swapaxes(x, -1, -2)) + np.eye(shape[-1])
    if domain == "regular":
        x = x + 4 * np.eye(shape[-1])
    return np.asarray(x).astype(dtype)


def _reals(shape: tuple[int, ...], domain: str, rng: np.random.Generator) -> np.ndarray:
    if domain == "ties":
        return np.asarray(rng.integers(0, 3, shape)).astype(np.float64)
    if domain == "zeros":  # about a third of the elements are zero
        return rng.uniform(0.3, 2.0, shape) * (rng.random(shape) < 0.7)
    if domain in _DOMAINS:
        return np.asarray(rng.uniform(*_DOMAINS[domain], shape))
    x = rng.uniform(0.1, 2.0, shape)  # away from 0
    return np.asarray(x * np.where(rng.random(shape) < 0.5, -1.0, 1.0))


# -- the table

SAMPLES: list[Sample] = []


def _row(prim: str, *specs: str, reference: Reference | None = None, **options: Any) -> None:
    SAMPLES.append(Sample(prim, specs, options.pop("attrs", {}), reference, **options))


def _rows(prim: str, many: Sequence[Sequence[str]], **options: Any) -> None:
    for specs in many:
        _row(prim, *specs, **options)


def _count(*dtypes: str) -> int:
    return max(len(special_values(DTYPES_BY_NAME[d])) for d in dtypes)


def _unary(
    prim: str, domain: str = "", complexes: bool = True, reference: Reference | None = None, **options: Any
) -> None:
    """The usual rows of a function of one inexact operand."""
    tail = f" {domain}" if domain else ""
    for head in (
        "f64[3,4]",
        "f64[]",
        "f64[0,3]",
        "f64[1]",
        "f32[5]",
        *(("c128[4]", "c64[2]") if complexes else ()),
    ):
        _row(prim, head + tail, reference=reference, **options)
    for dtype in ("f64", "f32"):
        spec = f"{dtype}[{_count(dtype)}] special"
        _row(prim, spec, reference=reference, **{**options, "smooth": False, "batch": False})


def _binary(prim: str, dtypes: Sequence[str], first: str = "", second: str = "", **options: Any) -> None:
    """The usual rows of a function of two operands of one type."""
    a, b = (f" {d}" if d else "" for d in (first, second))
    for dtype in dtypes:
        kind = DTYPES_BY_NAME[dtype].kind
        x, y = (a, b) if kind in "fc" else ("", "")
        shapes = ("3,4", "", "0,3", "1,1") if dtype == dtypes[0] else ("5",)
        for shape in shapes:
            _row(prim, f"{dtype}[{shape}]{x}", f"{dtype}[{shape}]{y}", **options)
        if kind in "iuf":
            n = _count(dtype) ** 2
            row = {**options, "smooth": False, "batch": False}
            _row(prim, f"{dtype}[{n}] special_outer", f"{dtype}[{n}] special", **row)


ALL_INTS = ("i64", "i8", "i16", "i32", "u8", "u16", "u32", "u64")

# elementwise, two operands
for _name in ("add", "mul"):
    _binary(_name, ("f64", "f32", "c128", "b1", *ALL_INTS))
_binary("sub", ("f64", "f32", "c128", *ALL_INTS))
_binary("div", ("f64", "f32", "c128", "c64"))
for _name in ("floor_div", "mod", "fmod"):
    _binary(_name, ("f64", "f32", *ALL_INTS))
_binary("pow", ("f64", "f32", "c128"), first="pos")
_row("pow", "i64[6] -3:4", "i64[6] 0:5")
_row("pow", "u8[6] 0:9", "u8[6] 0:9")
for _name in ("maximum", "minimum"):
    _binary(_name, ("f64", "f32", "b1", *ALL_INTS))
for _name in ("fmax", "fmin"):
    _binary(_name, ("f64", "f32", "i64", "u8"))
for _name in ("atan2", "copysign", "nextafter", "hypot"):
    _binary(_name, ("f64", "f32"))
for _name in ("bit_and", "bit_or", "bit_xor"):
    _binary(_name, ("i64", "b1", *ALL_INTS[1:]))
_row("gcd", "i64[3,4]", "i64[3,4]")
_row("gcd", "i8[7]", "i8[7] 1:9")
_row("gcd", "u32[7] 0:30", "u32[7] 0:30")
for _name in ("shift_left", "shift_right"):
    _binary(_name, ALL_INTS)
    _row(_name, "i32[20] -9:9", "i32[20] 0:40")
for _name in ("eq", "ne", "lt", "le", "gt", "ge"):
    _binary(_name, ("f64", "f32", "b1", *ALL_INTS))
    _row(_name, "c128[30] ties", "c128[30] ties")
    _row(_name, "f64[20] ties", "f64[20] ties")

# select
_rows(
    "select", [("b1[3,4]", "f64[3,4]", "f64[3,4]"), ("b1[]", "f64[]", "f64[]"), ("b1[0]", "f64[0]", "f64[0]")]
)
_rows("select", [("b1[5]", f"{d}[5]", f"{d}[5]") for d in ("f32", "c128", "i64", "u8", "b1")])


# elementwise, one operand
def _numbers(prim: str, dtypes: Sequence[str], **options: Any) -> None:
    for dtype in dtypes:
        _row(prim, f"{dtype}[4]", **options)
        if DTYPES_BY_NAME[dtype].kind in "iu":
            _row(prim, f"{dtype}[{_count(dtype)}] special", batch=False, **options)


for _name in ("neg", "abs", "sign"):
    _unary(_name)
    _numbers(_name, ALL_INTS)
_row("abs", "b1[4]")
for _name in ("exp", "exp2", "expm1", "sin", "cos", "sinh", "cosh", "tanh", "asinh", "atan"):
    _unary(_name)
_unary("tan", "unit")
_unary("sqrt", "pos")
_unary("cbrt", complexes=False)
for _name in ("log", "log2", "log10", "log1p"):
    _unary(_name, "pos")
for _name in ("asin", "acos", "atanh"):
    _unary(_name, "unit")
_unary("acosh", "above")
_row("acosh", "c128[8]")  # both sides of the branch cut
_unary("erf", complexes=False, reference=scipy.special.erf)
_unary("erfc", complexes=False, reference=scipy.special.erfc)
_unary("erfcx", complexes=False, reference=scipy.special.erfcx)
_row("erfcx", "f64[20] wide", reference=scipy.special.erfcx, smooth=False)
for _name in ("i0e", "i1e"):
    _unary(_name, complexes=False, reference=getattr(scipy.special, _name))
    _row(_name, "f64[20] wide", reference=getattr(scipy.special, _name))
_unary("erfinv", "unit", complexes=False, reference=scipy.special.erfinv)
_row("erfcinv", "f64[20] pos2", reference=scipy.special.erfcinv)
_unary("erfcinv", "pos2", complexes=False, reference=scipy.special.erfcinv)
for _name in ("gammainc", "gammaincc"):
    for _spec in ("f64[3,4] pos", "f64[] pos", "f64[0,3] pos", "f32[5] pos"):
        _row(_name, _spec, _spec, reference=getattr(scipy.special, _name), rtol=1e-13)
    _row(_name, "f64[30] 1to300", "f64[30] 1to300", reference=getattr(scipy.special, _name), rtol=1e-11, smooth=False)
for _spec in ("f64[3,4] pos", "f64[] pos", "f64[0,3] pos", "f32[5] pos"):
    _row("betainc", _spec, _spec, _spec.replace("pos", "inner"), reference=scipy.special.betainc, rtol=1e-13)
_row("betainc", *("f64[30] 1to300",) * 2, "f64[30] inner", reference=scipy.special.betainc, rtol=1e-11, smooth=False)


def _lgamma(x: np.ndarray) -> np.ndarray:
    """SciPy's, but C's at -inf, and right for denormal numbers."""
    tiny = np.abs(x) < 1e-300
    inner = np.where(tiny, -np.log(np.abs(x)), scipy.special.gammaln(np.where(tiny, 1, x)))
    return np.where(np.isinf(x), np.inf, inner)


_unary("gamma", "pos", complexes=False, reference=scipy.special.gamma)
_row("gamma", "f64[20] wide", reference=scipy.special.gamma, rtol=1e-11, smooth=False)
_unary("lgamma", "pos", complexes=False, reference=_lgamma, rtol=1e-11)
_row("lgamma", "f64[20] wide", reference=scipy.special.gammaln, rtol=1e-10, smooth=False)
_unary("digamma", "pos", complexes=False, reference=scipy.special.digamma, rtol=1e-10)
_row("digamma", "f64[20] small", reference=scipy.special.digamma, rtol=1e-10, smooth=False)
_row("digamma", "f64[20] wide", reference=scipy.special.digamma, rtol=1e-10, smooth=False)
_unary("logistic", complexes=False, reference=scipy.special.expit)
_row("logistic", "f64[20] wide", reference=scipy.special.expit)
for _name in ("floor", "ceil", "trunc", "rint", "signbit"):
    _unary(_name, complexes=False)
for _name in ("isnan", "isinf", "isfinite"):
    _unary(_name)
_numbers("bit_not", ("b1", *ALL_INTS))
_unary("stop_gradient", reference=lambda x: x)
_numbers("stop_gradient", ("i64", "b1"), reference=lambda x: x)

for _y in (-3, -1, 0, 1, 2, 3, 7):
    _row("integer_pow", "f64[3,4]", attrs={"y": _y}, reference=lambda x, y=_y: x ** np.float64(y), rtol=1e-11)
    _row(
        "integer_pow", "c128[3]", attrs={"y": _y}, reference=lambda x, y=_y: np.exp(y * np.log(x)), rtol=1e-11
    )
_row("integer_pow", "f64[]", attrs={"y": 3}, reference=lambda x: x * x * x)
_row("integer_pow", "f32[5]", attrs={"y": 4}, reference=lambda x: x * x * x * x)
_row("integer_pow", "f64[2,0]", attrs={"y": 2}, reference=lambda x: x * x)
_row("integer_pow", "i8[7]", attrs={"y": 5}, reference=lambda x: x * x * x * x * x)
_row("integer_pow", "u64[7]", attrs={"y": 0}, reference=np.ones_like)
_row("integer_pow", "b1[4]", attrs={"y": 2}, reference=lambda x: x)
for _y in (-2, 0, 2, 3):
    _row("integer_pow", f"f64[{_count('f64')}] special", attrs={"y": _y}, smooth=False, batch=False)

# conversion and complex parts
_CONVERTED = ("b1", "i8", "u8", "i64", "f32", "f64", "c64", "c128")
for _from in _CONVERTED:
    for _to in _CONVERTED:
        _dtype = DTYPES_BY_NAME[_to]
        if DTYPES_BY_NAME[_from].kind == "c" and _dtype.kind in "iuf":
            _cast = lambda x, d=_dtype: np.real(x).astype(d)
        else:
            _cast = lambda x, d=_dtype: x.astype(d)
        # A float outside the range of unsigned integers has no defined conversion.
        _spec = f"{_from}[4]" + (" pos" if _to == "u8" and _from[0] in "fc" else "")
        _row("convert", _spec, attrs={"dtype": _dtype}, reference=_cast)
_row("convert", "f64[]", attrs={"dtype": np.dtype(np.float32)}, reference=np.float32)
_row("convert", "f64[0,2]", attrs={"dtype": np.dtype(np.int64)}, reference=lambda x: x.astype(np.int64))
for _from, _to in (
    ("i64", "f64"), ("f64", "i64"), ("u64", "i64"), ("f32", "i32"), ("i32", "f32"), ("u8", "i8"), ("f64", "u64"),
):  # fmt: skip
    for _shape in ("[3,2]", "[]", "[0]"):
        _dtype = DTYPES_BY_NAME[_to]
        _row("bitcast", _from + _shape, attrs={"dtype": _dtype}, reference=lambda x, d=_dtype: x.view(d))
        _row("view_bitcast", _from + _shape, attrs={"dtype": _dtype}, reference=lambda x, d=_dtype: x.view(d))
for _part, _function in (("view_real", np.real), ("view_imag", np.imag)):
    _rows(_part, [("c128[3,2]",), ("c128[]",), ("c64[4]",), ("c128[0]",)], reference=_function)
for _offset in (0, 1, -1, 5):
    for _spec in ("f64[3,4]", "i64[2,4,3]", "c64[2,2]", "f64[0,3]"):
        _row(
            "view_diagonal", _spec, attrs={"offset": _offset},
            reference=lambda x, k=_offset: np.diagonal(x, k, -2, -1),
        )  # fmt: skip
_rows("real", [("c128[3,2]",), ("c128[]",), ("c64[4]",), ("c128[0]",)], reference=np.real)
_rows("imag", [("c128[3,2]",), ("c128[]",), ("c64[4]",), ("c128[0]",)], reference=np.imag)
_rows("conj", [("c128[3,2]",), ("c128[]",), ("c64[4]",), ("c128[0]",)], reference=np.conj)
_rows(
    "complex",
    [(f"{t}", f"{t}") for t in ("f64[3,2]", "f64[]", "f32[4]", "f64[0]")],
    reference=lambda x, y: x + 1j * y,
)

# create
for _value, _to in ((2.5, "f64"), (True, "b1"), (-3, "i8"), (1 + 2j, "c128"), (float("nan"), "f32")):
    for _shape in ((), (2, 3), (0,)):
        _dtype = DTYPES_BY_NAME[_to]
        _row(
            "full",
            attrs={"value": _value, "shape": _shape, "dtype": _dtype},
            reference=lambda v=_value, s=_shape, d=_dtype: np.broadcast_to(np.array(v, d), s),
        )
for _to in ("i64", "f64", "u8", "c128"):
    for _shape, _axis in (((4,), 0), ((2, 3), 1), ((2, 3), 0), ((0, 2), 0), ((3, 1, 2), 2)):
        _dtype = DTYPES_BY_NAME[_to]
        _row(
            "iota",
            attrs={"shape": _shape, "dtype": _dtype, "axis": _axis},
            reference=lambda s=_shape, d=_dtype, a=_axis: np.indices(s)[a].astype(d),
        )


# layout
def _layouts(prim: str, specs: Sequence[str], attrs: dict[str, Any], reference: Reference) -> None:
    """Rows of a layout primitive, and of the view of the same meaning where there is one."""
    _row(prim, *specs, attrs=attrs, reference=reference)
    if prim in ("slice", "transpose", "reshape", "broadcast", "flip"):
        _row(f"view_{prim}", *specs, attrs=attrs, reference=reference)


for _spec, _shape in (
    ("f64[3,4]", (2, 6)), ("f64[]", (1, 1)), ("f64[1]", ()), ("f64[0,3]", (3, 0, 2)), ("c64[6]", (3, 2)),
    ("b1[4]", (2, 2)), ("i32[2,3]", (6,)), ("f64[2,3]", (2, 3)),
):  # fmt: skip
    _layouts(
        "reshape",
        [_spec],
        {"shape": _shape},
        lambda x, s=_shape: np.array(x.ravel().tolist(), x.dtype).reshape(s),
    )
for _spec, _perm in (
    ("f64[3,4]", (1, 0)), ("f64[]", ()), ("f64[2,3,4]", (2, 0, 1)), ("f32[2,0,3]", (1, 2, 0)),
    ("c128[2,1,3]", (0, 2, 1)),
    ("i8[2,3]", (0, 1)), ("f64[2,3,2,2]", (3, 1, 0, 2)),
):  # fmt: skip
    _layouts(
        "transpose", [_spec], {"perm": _perm},
        lambda x, p=_perm: np.moveaxis(x, p, range(x.ndim)),
    )  # fmt: skip
for _spec, _shape, _dims in (
    ("f64[]", (2, 3), ()), ("f64[3]", (2, 3), (1,)), ("f64[2]", (2, 3), (0,)),
    ("f64[1,3]", (4, 2, 3), (1, 2)),
    ("f64[2,3]", (2, 3), (0, 1)), ("f32[1]", (0, 2), (0,)), ("c128[2]", (2, 0), (0,)),
    ("b1[2]", (2, 2), (1,)),
    ("f64[1,1]", (1, 5, 1), (0, 1)), ("f64[0]", (2, 0), (1,)),
):  # fmt: skip
    _layouts(
        "broadcast", [_spec], {"shape": _shape, "dims": _dims},
        lambda x, s=_shape, d=_dims: x.reshape([x.shape[d.index(a)] if a in d else 1 for a in range(len(s))])
        + np.zeros(s, x.dtype),
    )  # fmt: skip
for _spec, _start, _stop, _step in (
    ("f64[5,4]", (1, 0), (5, 4), (2, 3)), ("f64[5]", (2,), (2,), (1,)), ("f64[]", (), (), ()),
    ("f64[6]", (0,), (6,), (1,)),
    ("f64[7,2]", (1, 1), (6, 2), (4, 1)), ("c64[4]", (1,), (3,), (1,)), ("i64[4]", (0,), (4,), (3,)),
    ("f64[0,3]", (0, 1), (0, 3), (1, 1)), ("f64[1,3]", (0, 0), (1, 3), (5, 2)),
):  # fmt: skip
    _at = {"start": _start, "stop": _stop, "step": _step}
    _layouts(
        "slice", [_spec], _at,
        lambda x, a=_start, z=_stop, s=_step: x[np.ix_(*map(np.arange, a, z, s))] if x.ndim else x,
    )  # fmt: skip
for _spec, _axes in (
    ("f64[3,4]", (0, 1)),
    ("f64[3,4]", (1,)),
    ("f64[]", ()),
    ("f32[0,2]", (0,)),
    ("i16[5]", (0,)),
):
    _layouts(
        "flip", [_spec], {"axes": _axes},
        lambda x, axes=_axes: x[tuple(np.s_[::-1] if a in axes else np.s_[:] for a in range(x.ndim))],
    )  # fmt: skip


def _padded(x: np.ndarray, low: Sequence[int], high: Sequence[int], interior: Sequence[int]) -> np.ndarray:
    for axis, inner in enumerate(interior):
        x = np.insert(
            x, np.repeat(np.arange(1, max(x.shape[axis], 1)), inner), np.zeros((), x.dtype), axis=axis
        )
    return np.pad(x, list(zip(low, high))) if x.ndim else x


for _spec, _low, _high, _interior in (
    ("f64[3,2]", (1, 0), (0, 2), (0, 0)), ("f64[3,2]", (0, 1), (2, 0), (2, 1)), ("f64[]", (), (), ()),
    ("f64[0,2]", (1, 0), (2, 0), (3, 0)), ("f64[1]", (1,), (1,), (4,)), ("b1[3]", (1,), (0,), (1,)),
    ("c128[2]", (0,), (1,), (0,)),
    ("i32[3]", (0,), (0,), (0,)),
):  # fmt: skip
    _layouts(
        "pad", [_spec], {"low": _low, "high": _high, "interior": _interior},
        lambda x, a=_low, z=_high, i=_interior: _padded(x, a, z, i),
    )  # fmt: skip
for _specs, _axis in (
    (("f64[2,3]", "f64[1,3]"), 0), (("f64[2,3]", "f64[2,0]", "f64[2,2]"), 1), (("f64[4]",), 0),
    (("i8[2]", "i8[2]"), 0),
    (("c64[1,2,2]", "c64[1,2,2]"), 2), (("b1[0]", "b1[2]"), 0),
):  # fmt: skip
    _layouts(
        "concat", _specs, {"axis": _axis},
        lambda *xs, axis=_axis: np.moveaxis(
            np.array([row for x in xs for row in np.moveaxis(x, axis, 0)], xs[0].dtype), 0, axis
        ),
    )  # fmt: skip


# index
def _stored(x: np.ndarray, index: Any, value: Any) -> np.ndarray:
    out = x.copy()
    out[index] = value
    return out


for _base, _value, _start, _stop, _step in (
    ("f64[5,4]", "f64[2,2]", (1, 0), (5, 4), (2, 3)), ("f64[5]", "f64[0]", (2,), (2,), (1,)),
    ("f64[]", "f64[]", (), (), ()),
    ("f32[3]", "f32[3]", (0,), (3,), (1,)), ("c128[4]", "c128[2]", (1,), (3,), (1,)),
    ("i64[4]", "i64[2]", (0,), (4,), (3,)),
    ("b1[1,2]", "b1[1,1]", (0, 1), (1, 2), (1, 1)),
):  # fmt: skip
    _row(
        "update", _base, _value, attrs={"start": _start, "stop": _stop, "step": _step},
        reference=lambda x, v, a=_start, z=_stop, s=_step: _stored(x, tuple(map(slice, a, z, s)), v),
    )  # fmt: skip


def _clamped(x: np.ndarray, starts: Sequence[np.ndarray], sizes: Sequence[int]) -> tuple[slice, ...]:
    lows = [int(np.clip(s, 0, n - size)) for s, n, size in zip(starts, x.shape, sizes)]
    return tuple(slice(low, low + size) for low, size in zip(lows, sizes))


for _specs, _sizes in (
    (("f64[5,4]", "i64[] 0:6", "i64[] -2:4"), (2, 3)), (("f64[4]", "i64[] 0:4"), (0,)), (("f64[]",), ()),
    (("f32[3]", "i64[] 0:3"), (1,)), (("c128[4]", "i64[] 0:3"), (2,)), (("i64[4]", "i64[] 3:9"), (4,)),
    (("b1[2,1]", "i64[] 0:2", "i64[] 0:1"), (1, 1)),
):  # fmt: skip
    _row(
        "dynamic_slice", *_specs, attrs={"sizes": _sizes},
        reference=lambda x, *i, sizes=_sizes: x[_clamped(x, i, sizes)],
    )  # fmt: skip
_rows(
    "dynamic_update",
    [
        ("f64[5,4]", "f64[2,3]", "i64[] 0:6", "i64[] -2:4"), ("f64[4]", "f64[0]", "i64[] 0:4"),
        ("f64[]", "f64[]"),
        ("f32[3]", "f32[1]", "i64[] 0:3"), ("c128[4]", "c128[2]", "i64[] 0:3"),
        ("i64[4]", "i64[4]", "i64[] 3:9"),
    ],
    reference=lambda x, v, *i: _stored(x, _clamped(x, i, v.shape), v),
)  # fmt: skip


def _positions(x: np.ndarray, indices: Sequence[np.ndarray], axes: Sequence[int], mode: str):
    """Pairs of a position in the gathered array and the one in x that it stands for."""
    rest = [a for a in range(x.ndim) if a not in axes]
    for s in np.ndindex(indices[0].shape):
        for r in np.ndindex(*(x.shape[a] for a in rest)):
            at = dict(zip(rest, r)) | {
                a: int(np.clip(i[s], 0, x.shape[a] - 1)) if mode == "clip" else int(i[s])
                for a, i in zip(axes, indices)
            }
            yield (*s, *r), tuple(at[a] for a in range(x.ndim))


def _gathered(x: np.ndarray, *indices: np.ndarray, axes: Sequence[int], mode: str) -> np.ndarray:
    rest = tuple(n for a, n in enumerate(x.shape) if a not in axes)
    out = np.zeros(indices[0].shape + rest, x.dtype)
    for there, here in _positions(x, indices, axes, mode):
        out[there] = x[here]
    return out


def _scattered(
    x: np.ndarray, value: np.ndarray, *indices: np.ndarray, axes: Sequence[int], mode: str, add: bool
):
    out = x.copy()
    for there, here in _positions(x, indices, axes, mode):
        out[here] = out[here] + value[there] if add else value[there]
    return out


for _x, _indices, _axes, _mode, _value in (
    ("f64[5]", ("i64[7] 0:5",), (0,), "error", "f64[7]"),
    ("f64[5]", ("i64[] 0:5",), (0,), "error", "f64[]"),
    ("f64[3,4,2]", ("i64[2,3] 0:4",), (1,), "error", "f64[2,3,3,2]"),
    ("f64[3,4]", ("i64[5] 0:3", "i64[5] 0:4"), (0, 1), "error", "f64[5]"),
    ("f64[3,2,4]", ("i64[5] -2:9", "i64[5] -2:9"), (0, 2), "clip", "f64[5,2]"),
    ("f64[3,4]", ("i64[0] 0:1",), (0,), "clip", "f64[0,4]"),
    ("f64[0,4]", ("i64[0] 0:1",), (0,), "error", "f64[0,4]"),
    ("f64[1,3]", ("i64[1] 0:1",), (0,), "error", "f64[1,3]"),
    ("f32[4]", ("i64[3] 0:4",), (0,), "error", "f32[3]"),
    ("c128[4]", ("i64[6] 0:4",), (0,), "clip", "c128[6]"),
    ("i64[4]", ("i64[6] 0:4",), (0,), "error", "i64[6]"),
    ("b1[4,2]", ("i64[3] 0:2",), (1,), "error", "b1[3,4]"),
):
    _where = {"axes": _axes, "mode": _mode}
    _row("gather", _x, *_indices, attrs=_where, reference=lambda *v, w=_where: _gathered(*v, **w))
    for _name in ("scatter_set", "scatter_add"):
        _row(
            _name, _x, _value, *_indices, attrs=_where,
            reference=lambda *v, w=_where, add=_name == "scatter_add": _scattered(*v, **w, add=add),
        )  # fmt: skip


# reduce
def _folded(function: Callable[[Any, Any], Any], first: Any) -> Reference:
    """A reduction element by element."""

    def reference(x: np.ndarray, axes: Sequence[int]) -> np.ndarray:
        kept = [a for a in range(x.ndim) if a not in axes]
        moved = x.transpose(*kept, *axes).reshape([*(x.shape[a] for a in kept), -1 if x.size else 0])
        out = np.full(moved.shape[:-1], first if first is not None else 0, x.dtype)
        for place in np.ndindex(out.shape):
            items = list(moved[place])
            start = np.asarray(first, x.dtype)[()] if first is not None else items[0]
            for item in items:
                start = function(start, item)
            out[place] = start
        return out

    return reference


_REDUCED = (
    ("f64[3,4]", (0, 1)),
    ("f64[3,4]", (1,)),
    ("f64[2,3,4]", (0, 2)),
    ("f64[]", ()),
    ("f64[1]", (0,)),
    ("f64[2,3]", ()),
)
_EMPTY = (("f64[0,3]", (0,)), ("f64[2,0]", (1,)))
for _name, _fold, _kinds in (
    ("reduce_sum", _folded(lambda a, b: a + b, 0), ("f32", "c128", "i8", "u64", "b1")),
    ("reduce_prod", _folded(lambda a, b: a * b, 1), ("f32", "c128", "i8", "u64", "b1")),
    ("reduce_max", _folded(lambda a, b: np.maximum(a, b), None), ("f32", "i8", "u64", "b1")),
    ("reduce_min", _folded(lambda a, b: np.minimum(a, b), None), ("f32", "i8", "u64", "b1")),
):
    _extreme = _name in ("reduce_max", "reduce_min")
    for _spec, _axes in (
        *_REDUCED,
        *(() if _extreme else _EMPTY),
        ("f64[0,3]", (1,)),
        *((f"{d}[4,3]", (0,)) for d in _kinds),
    ):
        _row(_name, _spec, attrs={"axes": _axes}, reference=lambda x, f=_fold, a=_axes: f(x, a))
    _row(_name, f"f64[{_count('f64')}] special", attrs={"axes": (0,)}, smooth=False, batch=False)
_row("reduce_prod", "f64[4,3] zeros", attrs={"axes": (0,)})
_row("reduce_prod", "f64[3,4] zeros", attrs={"axes": (0, 1)})
_row("reduce_max", "f64[4,5] ties", attrs={"axes": (1,)}, smooth=False)
for _name, _fold in (("reduce_and", lambda a, b: a and b), ("reduce_or", lambda a, b: a or b)):
    for _spec, _axes in (
        ("b1[3,4]", (1,)),
        ("b1[3,4]", (0, 1)),
        ("b1[0,2]", (0,)),
        ("b1[]", ()),
        ("b1[1]", (0,)),
    ):
        _reference = _folded(_fold, _name == "reduce_and")
        _row(_name, _spec, attrs={"axes": _axes}, reference=lambda x, f=_reference, a=_axes: f(x, a))
for _name, _fold, _first in (
    ("reduce_and", lambda a, b: a & b, -1), ("reduce_or", lambda a, b: a | b, 0), ("reduce_xor", lambda a, b: a ^ b, 0),
):  # fmt: skip
    for _spec, _axes in (("i64[3,4]", (1,)), ("i8[3,40]", (0, 1)), ("i32[0,2]", (0,)), ("i8[5]", (0,))):
        _reference = _folded(_fold, _first)
        _row(_name, _spec, attrs={"axes": _axes}, reference=lambda x, f=_reference, a=_axes: f(x, a))
_row("reduce_xor", "b1[3,4]", attrs={"axes": (1,)}, reference=lambda x: np.logical_xor.reduce(x, axis=1))
for _name, _better in (("argmax", np.greater), ("argmin", np.less)):
    for _spec, _axis in (
        ("f64[3,4]", 1), ("f64[3,4]", 0), ("f64[1]", 0), ("f32[5] ties", 0), ("i64[2,6]", 1), ("b1[5]", 0),
        ("f64[0,3]", 1),
        ("u8[5]", 0),
    ):  # fmt: skip
        _row(
            _name, _spec, attrs={"axis": _axis},
            reference=lambda x, axis=_axis, better=_better: np.apply_along_axis(
                lambda row: next(i for i, v in enumerate(row) if not better(row, v).any()), axis, x
            ) if x.size else np.zeros(np.delete(x.shape, axis), np.int64),
        )  # fmt: skip
    _row(_name, f"f64[{_count('f64')}] special", attrs={"axis": 0}, smooth=False, batch=False)

for _name, _ufunc, _kinds in (
    ("cumsum", np.add, ("f32", "c128", "i8", "b1")), ("cumprod", np.multiply, ("f32", "c128", "i8", "b1")),
    ("cummax", np.maximum, ("f32", "i8", "b1")), ("cummin", np.minimum, ("f32", "i8", "b1")),
):  # fmt: skip

    def _running(x: np.ndarray, ufunc: np.ufunc, axis: int, reverse: bool) -> np.ndarray:
        rows = list(np.moveaxis(x, axis, 0))
        for i in range(1, len(rows)) if not reverse else range(len(rows) - 2, -1, -1):
            rows[i] = ufunc(rows[i + 1] if reverse else rows[i - 1], rows[i])
        return np.moveaxis(np.array(rows, x.dtype).reshape(np.moveaxis(x, axis, 0).shape), 0, axis)

    for _spec, _axis in (
        ("f64[5]", 0), ("f64[3,4]", 0), ("f64[3,4]", 1), ("f64[1]", 0), ("f64[0,2]", 0), ("f64[2,0]", 0),
        ("f64[2,9,2] zeros", 1), *((f"{d}[6]", 0) for d in _kinds),
    ):  # fmt: skip
        for _reverse in (False, True):
            _kink = _spec.endswith("zeros") and _name in ("cummax", "cummin")
            _row(
                _name, _spec, attrs={"axis": _axis, "reverse": _reverse}, smooth=not _kink,
                reference=lambda x, u=_ufunc, a=_axis, r=_reverse: _running(x, u, a, r),
            )  # fmt: skip
    _row(
        _name, f"f64[{_count('f64')}] special", attrs={"axis": 0, "reverse": False}, smooth=False, batch=False
    )
for _little in (False, True):
    _order = "little" if _little else "big"
    for _spec in ("b1[8]", "b1[3,16]", "b1[2,3,80]", "b1[0,8]", "b1[2,0]"):
        _row(
            "pack_bits", _spec, attrs={"little": _little},
            reference=lambda x, o=_order: np.packbits(x, axis=-1, bitorder=o),
        )  # fmt: skip
    for _spec in ("u8[1]", "u8[3,5]", "u8[2,3,9]", "u8[0,2]"):
        _row(
            "unpack_bits", _spec, attrs={"little": _little},
            reference=lambda x, o=_order: np.unpackbits(x, axis=-1, bitorder=o),
        )  # fmt: skip
for _name, _ufunc in (("cumand", np.bitwise_and), ("cumor", np.bitwise_or), ("cumxor", np.bitwise_xor)):
    for _spec, _axis in (("i64[5]", 0), ("i32[3,4]", 0), ("u8[3,4]", 1), ("b1[7]", 0), ("i8[0,2]", 0)):
        for _reverse in (False, True):
            _row(
                _name, _spec, attrs={"axis": _axis, "reverse": _reverse},
                reference=lambda x, u=_ufunc, a=_axis, r=_reverse: _running(x, u, a, r),
            )  # fmt: skip


# library
def _einsum(x: np.ndarray, y: np.ndarray, contract: Any, batch: Any) -> np.ndarray:
    names = iter(range(52))
    x_names, y_names = [next(names) for _ in range(x.ndim)], [next(names) for _ in range(y.ndim)]
    for i, j in (*zip(*contract), *zip(*batch)):
        y_names[j] = x_names[i]
    used = (*(x_names[i] for i in contract[0]), *(x_names[i] for i in batch[0]))
    out = [
        *(x_names[i] for i in batch[0]),
        *(n for n in x_names if n not in used),
        *(n for n in y_names if n not in used),
    ]
    return np.einsum(x, x_names, y, y_names, out)


for _x, _y, _contract, _batch in (
    ("f64[3,4]", "f64[4,2]", ((1,), (0,)), ((), ())),
    ("f64[4]", "f64[4]", ((0,), (0,)), ((), ())),
    ("f64[3,4]", "f64[4]", ((1,), (0,)), ((), ())),
    ("f64[3]", "f64[2]", ((), ()), ((), ())),
    ("f64[]", "f64[]", ((), ()), ((), ())),
    ("f64[2,3,4]", "f64[2,4,5]", ((2,), (1,)), ((0,), (0,))),
    ("f64[4,3,2,5]", "f64[5,6,4,3]", ((0, 3), (2, 0)), ((1,), (3,))),
    ("f64[2,3,4,2]", "f64[4,2,2,3]", ((2, 0), (0, 2)), ((1, 3), (3, 1))),
    ("f64[3,2]", "f64[3,2]", ((0, 1), (0, 1)), ((), ())),
    ("f64[3,2]", "f64[3,2]", ((), ()), ((0, 1), (0, 1))),
    ("f64[3,0]", "f64[0,2]", ((1,), (0,)), ((), ())),
    ("f64[0,3]", "f64[3,2]", ((1,), (0,)), ((), ())),
    ("f64[1,1]", "f64[1,4]", ((1,), (0,)), ((), ())),
    ("f32[3,4]", "f32[4,2]", ((1,), (0,)), ((), ())),
    ("c128[3,4]", "c128[2,4]", ((1,), (1,)), ((), ())),
    ("i64[3,4]", "i64[4,2]", ((1,), (0,)), ((), ())),
    ("i8[3,4]", "i8[4,2]", ((1,), (0,)), ((), ())),
    ("b1[3,4]", "b1[4,2]", ((1,), (0,)), ((), ())),
):
    _how = {"contract": _contract, "batch": _batch}
    _row("dot", _x, _y, attrs=_how, reference=lambda x, y, h=_how: _einsum(x, y, **h))

def _summed_convolution(x: np.ndarray, w: np.ndarray, how: dict[str, Any]) -> np.ndarray:
    """conv by its definition: all indices of x, w and the result, one after the other."""
    letters = sorted({*how["x"], *how["w"], *how["out"]} - set(how["window"]))
    sizes = {**dict(zip(how["x"], x.shape)), **dict(zip(how["w"], w.shape))}
    sizes |= dict(zip(how["window"], how["extent"]))
    result = np.zeros([sizes[n] for n in how["out"]], x.dtype)
    kernel = [w.shape[how["w"].index(n)] for n in how["window"]]
    for place in np.ndindex(*(sizes[n] for n in letters), *how["extent"], *kernel):
        at = dict(zip(letters, place))
        p, k = place[len(letters) : len(letters) + len(kernel)], place[len(letters) + len(kernel) :]
        q = [
            (i * s + j * d - o, spread)
            for i, j, s, d, o, spread in zip(p, k, *(how[n] for n in ("stride", "dilation", "offset", "spread")))
        ]
        if any(v % spread for v, spread in q):
            continue
        of_x = {**at, **{n: v // spread for n, (v, spread) in zip(how["window"], q)}}
        if any(not 0 <= of_x[n] < x.shape[how["x"].index(n)] for n in how["window"]):
            continue
        of_w, of_out = {**at, **dict(zip(how["window"], k))}, {**at, **dict(zip(how["window"], p))}
        product = x[tuple(of_x[n] for n in how["x"])] * w[tuple(of_w[n] for n in how["w"])]
        result[tuple(of_out[n] for n in how["out"])] += product
    return result


def _conv(x: str, w: str, letters: str, window: str, *numbers: tuple[int, ...]) -> None:
    """A row of conv; numbers: stride, dilation, spread, offset, extent."""
    names = dict(zip(("x", "w", "out"), letters.replace("->", ",").split(",")))
    values = dict(zip(("stride", "dilation", "spread", "offset", "extent"), numbers))
    how = {**names, "window": window, **values}
    _row("conv", x, w, attrs=how, reference=lambda x, w: _summed_convolution(x, w, how))


for _dtype in ("f64", "f32", "c128", "i64"):
    _conv(f"{_dtype}[2,3,5]", f"{_dtype}[4,3,3]", "ncx,ocx->nox", "x", (1,), (1,), (1,), (1,), (5,))
_conv("f64[2,2,4,5]", "f64[3,2,2,3]", "nchw,ochw->nohw", "hw", (2, 1), (1, 2), (1, 1), (1, 2), (3, 5))
_conv("f64[4,4,3]", "f64[4,2,2]", "ghw,ghw->ghw", "hw", (1, 1), (1, 1), (1, 1), (0, 0), (3, 2))  # depthwise
_conv("f64[1,4,2,4]", "f64[4,3,2,3]", "ngcx,gocx->ngox", "x", (1,), (1,), (1,), (1,), (4,))
_conv("f64[2,3,3]", "f64[2,3,3]", "ncx,ocx->nox", "x", (1,), (-1,), (2,), (-3,), (7,))  # the transpose of a stride
_conv("f64[2,3,5]", "f64[2,4,4]", "ncx,nox->ocx", "x", (1,), (1,), (1,), (1,), (4,))  # the gradient of a kernel
_conv("f64[2,3,2,3]", "f64[4,3,1,2]", "nchw,ochw->nohw", "hw", (1, 1), (1, 1), (2, 1), (0, 1), (4, 4))  # zeros between
_conv("f64[3,6]", "f64[3,2]", "cx,cx->x", "x", (-2,), (3,), (1,), (-5,), (3,))
_conv("f64[2,2]", "f64[3,2]", "cx,ox->cox", "x", (3,), (2,), (2,), (4,), (4,))
_conv("f64[0,3]", "f64[2,2]", "nx,ox->nox", "x", (1,), (1,), (1,), (0,), (2,))
_conv("f64[2,3,1]", "f64[4,3,1]", "ncx,ocx->nox", "x", (1,), (1,), (1,), (0,), (1,))


def _windows_of(x: np.ndarray, how: dict[str, Any]) -> Any:
    """(window's index, elements of x that stand in it as (number, place)) for every window."""
    rank = len(how["kernel"])
    for window in np.ndindex(*x.shape[: x.ndim - rank], *how["extent"]):
        lead, p = window[: x.ndim - rank], window[x.ndim - rank :]
        found = []
        for number, k in enumerate(np.ndindex(*how["kernel"])):
            at = [i * s + j * d - o for i, j, s, d, o in zip(p, k, how["stride"], how["dilation"], how["offset"])]
            if all(0 <= q < n for q, n in zip(at, x.shape[x.ndim - rank :])):
                found.append((number, (*lead, *at)))
        yield window, found


def _window_maxima(x: np.ndarray, how: dict[str, Any], number: np.dtype) -> tuple[np.ndarray, ...]:
    shape = (*x.shape[: x.ndim - len(how["kernel"])], *how["extent"])
    best, which = np.zeros(shape, x.dtype), np.zeros(shape, number)
    for window, elements in _windows_of(x, how):
        largest = max(elements, key=lambda e: (x[e[1]], -e[0]))
        best[window], which[window] = x[largest[1]], largest[0]
    return best, which


def _taken(x: np.ndarray, number: np.ndarray, how: dict[str, Any]) -> np.ndarray:
    result = np.zeros(number.shape, x.dtype)
    for window, elements in _windows_of(x, how):
        result[window] = sum(x[at] for k, at in elements if k == number[window])
    return result


def _put(value: np.ndarray, number: np.ndarray, how: dict[str, Any]) -> np.ndarray:
    result = np.zeros(how["shape"], value.dtype)
    for window, elements in _windows_of(result, how):
        for k, at in elements:
            result[at] += value[window] * (k == number[window])
    return result


for _spec, _shape, *_numbers in (
    ("f64[2,6]", "2,3", (2,), (2,), (1,), (0,), (3,)),
    ("f64[2,4,5] ties", "2,2,3", (3, 3), (2, 2), (1, 1), (1, 1), (2, 3)),
    ("f64[7]", "4", (3,), (2,), (2,), (2,), (4,)),
    ("f32[3,4]", "3,3", (2,), (1,), (1,), (0,), (3,)),
    ("i64[6]", "3", (2,), (2,), (1,), (0,), (3,)),
    ("f64[1,300]", "1,2", (280,), (20,), (1,), (0,), (2,)),
    ("f64[0,4]", "0,2", (2,), (2,), (1,), (0,), (2,)),
):
    _how = dict(zip(("kernel", "stride", "dilation", "offset", "extent"), _numbers))
    _index = "u8" if int(np.prod(_how["kernel"])) <= 256 else "i32"
    _smooth = "ties" not in _spec
    _row(
        "window_argmax", _spec, attrs=_how, smooth=_smooth,
        reference=lambda x, h=_how, d=DTYPES_BY_NAME[_index]: _window_maxima(x, h, d),
    )  # fmt: skip
    _value, _which = f"{_spec.partition('[')[0]}[{_shape}]", f"{_index}[{_shape}] 0:2"
    _row("window_take", _spec, _which, attrs=_how, reference=lambda x, n, h=_how: _taken(x, n, h))
    _into = {"shape": tuple(int(n) for n in _spec.partition("[")[2].partition("]")[0].split(",")), **_how}
    _row("window_put", _value, _which, attrs=_into, reference=lambda x, n, h=_into: _put(x, n, h))


def _insertion_order(row: np.ndarray) -> list[int]:
    return sorted(range(len(row)), key=lambda i: (bool(np.isnan(row[i])), 0 if np.isnan(row[i]) else row[i]))


for _spec, _axis in (
    ("f64[5]", 0), ("f64[3,4]", 0), ("f64[3,4]", 1), ("f64[8] ties", 0), ("f64[0]", 0), ("f64[1]", 0),
    ("f32[2,6]", 1),
    ("i64[7]", 0), ("u8[7]", 0), ("b1[6]", 0), (f"f64[{_count('f64')}] special", 0),
):  # fmt: skip
    _smooth = "ties" not in _spec and "special" not in _spec
    _row(
        "sort", _spec, attrs={"axis": _axis}, smooth=_smooth,
        reference=lambda x, axis=_axis: np.apply_along_axis(lambda r: r[_insertion_order(r)], axis, x)
        if x.size else x,
    )  # fmt: skip
    _row(
        "argsort", _spec, attrs={"axis": _axis}, smooth=_smooth,
        reference=lambda x, axis=_axis: np.apply_along_axis(lambda r: np.array(_insertion_order(r)), axis, x)
        if x.size else np.zeros(x.shape, np.int64),
    )  # fmt: skip

_MATRICES = (
    "f64[3,3]",
    "f64[2,4,4]",
    "f64[1,1]",
    "f64[0,0]",
    "f64[0,2,2]",
    "f32[3,3]",
    "c128[3,3]",
    "c128[2,2,2]",
    "f64[2,1,3,3]",
)


def _cholesky(a: np.ndarray) -> np.ndarray:
    """Cholesky and Banachiewicz' recurrence, entry by entry."""
    low = np.zeros_like(a)
    for i in range(a.shape[-1]):
        for j in range(i + 1):
            rest = a[..., i, j] - np.einsum("...k,...k->...", low[..., i, :j], np.conj(low[..., j, :j]))
            low[..., i, j] = np.sqrt(rest) if i == j else rest / low[..., j, j]
    return low


def _laplace(a: np.ndarray) -> np.ndarray:
    """The determinant by expansion along the first row."""
    n = a.shape[-1]
    if n == 0:
        return np.ones(a.shape[:-2], a.dtype)
    minors = (np.delete(np.delete(a, 0, -2), j, -1) for j in range(n))
    return sum((-1) ** j * a[..., 0, j] * _laplace(m) for j, m in enumerate(minors))


for _spec in _MATRICES:
    _row("cholesky", f"{_spec} spd", reference=_cholesky, rtol=1e-10)
    _row("det", f"{_spec} regular", reference=_laplace, rtol=1e-10)
    _row(
        "slogdet", f"{_spec} regular", rtol=1e-10,
        reference=lambda a: (_laplace(a) / np.abs(_laplace(a)), np.log(np.abs(_laplace(a)))),
    )  # fmt: skip
_row("det", "f64[3,3]", reference=_laplace, rtol=1e-10)


def _inverted(a: np.ndarray, right: np.ndarray) -> np.ndarray:
    return np.einsum("...ij,...jk->...ik", np.linalg.inv(a), right)


for _spec, _columns in zip(_MATRICES, (2, 3, 1, 2, 2, 1, 2, 0, 2), strict=True):
    _right = f"{_spec.rpartition(',')[0]},{_columns}]"
    _row("solve", f"{_spec} regular", _right, reference=_inverted, rtol=1e-10)
    for _lower in (False, True):
        for _trans in (False, True):
            for _unit in (False, True):
                if _spec != "f64[3,3]" and _lower == _unit:  # all eight for one shape, four for the others
                    continue

                def _triangle(
                    a: np.ndarray, right: np.ndarray, lower=_lower, trans=_trans, unit=_unit
                ) -> np.ndarray:
                    a = np.tril(a) if lower else np.triu(a)
                    if unit:
                        a = a * (1 - np.eye(a.shape[-1])) + np.eye(a.shape[-1])
                    return _inverted(np.swapaxes(a, -1, -2) if trans else a, right)

                _how = {"lower": _lower, "trans": _trans, "unit": _unit}
                _row(
                    "triangular_solve",
                    f"{_spec} regular",
                    _right,
                    attrs=_how,
                    reference=_triangle,
                    rtol=1e-10,
                )


# control, write and fused: one row each shows that the record works; their rules are tested with the passes
def _region(types: Sequence[str], body: Callable[..., Sequence[Any]]) -> Graph:
    b = Builder("body")
    return b.build(body(b, *(b.param(_parsed(t)[0]) for t in types)))


def _branches() -> tuple[Graph, ...]:
    return tuple(_region(["f64[3]"], lambda b, x, f=f: [getattr(b, f)(x)]) for f in ("sin", "cos", "neg"))


_row(
    "cond", "i64[] -1:5", "f64[3]", regions=_branches, batch=False,
    reference=lambda i, x: (np.sin, np.cos, np.negative)[int(np.clip(i, 0, 2))](x),
)  # fmt: skip
_row(
    "cond", "b1[]", "f64[3]", regions=lambda: _branches()[:2], batch=False,
    reference=lambda i, x: np.cos(x) if i else np.sin(x),
)  # fmt: skip
_row(
    "while", "f64[]", "f64[] pos", attrs={"num_cond": 0, "num_body": 1}, batch=False,
    regions=lambda: (
        _region(["f64[]"], lambda b, x: [b.lt(x, b.like(x, 10))]),
        _region(["f64[]", "f64[]"], lambda b, c, x: [b.add(x, b.abs(c))]),
    ),
    reference=lambda c, x: next(v for v in (x + k * abs(c) for k in range(200)) if v >= 10),
)  # fmt: skip
_row(
    "scan", "f64[2]", "f64[2]", "f64[4,2]", batch=False,
    attrs={"length": 4, "reverse": False, "num_consts": 1, "num_carry": 1},
    regions=lambda: (_region(["f64[2]"] * 3, lambda b, c, s, x: [b.add(s, b.mul(c, x)), b.mul(s, x)]),),
    reference=lambda c, s, xs: (s + (c * xs).sum(0), xs * (s + np.cumsum(c * xs, 0) - c * xs)),
)  # fmt: skip
_row(
    "map", "f64[2]", "f64[4,2]", batch=False, attrs={"length": 4, "num_consts": 1},
    regions=lambda: (_region(["f64[2]"] * 2, lambda b, c, x: [b.mul(c, b.sin(x))]),),
    reference=lambda c, xs: c * np.sin(xs),
)  # fmt: skip
_row(
    "fused", "f64[3]", "f64[3]", attrs={"kind": "loop"}, batch=False,
    regions=lambda: (_region(["f64[3]"] * 2, lambda b, x, y: [b.add(b.sin(x), y), b.mul(x, y)]),),
    reference=lambda x, y: (np.sin(x) + y, x * y),
)  # fmt: skip
_rows(
    "write",
    [("f64[2,3]", "f64[2,3]"), ("f64[]", "f64[]"), ("i8[0]", "i8[0]")],
    reference=lambda x, v: v,
    batch=False,
)


def _rotated(x: int, by: int) -> int:
    return (x << by | x >> (32 - by)) & 0xFFFFFFFF


def _threefry(key: np.ndarray, counter: np.ndarray) -> np.ndarray:
    """Threefry-2x32 word by word, in Python's integers."""

    def block(key: int, counter: int) -> int:
        keys = [key >> 32, key & 0xFFFFFFFF]
        keys.append(keys[0] ^ keys[1] ^ 0x1BD11BDA)
        x, y = (counter >> 32) + keys[0], (counter & 0xFFFFFFFF) + keys[1]
        for number in range(20):
            x = (x + y) & 0xFFFFFFFF
            y = _rotated(y & 0xFFFFFFFF, (13, 15, 26, 6, 17, 29, 16, 24)[number % 8]) ^ x
            if number % 4 == 3:
                group = number // 4 + 1
                x, y = x + keys[group % 3], y + keys[(group + 1) % 3] + group
        return (x & 0xFFFFFFFF) << 32 | y & 0xFFFFFFFF

    blocks = [block(int(k), int(c)) for k, c in zip(key.flat, counter.flat, strict=True)]
    return np.array(blocks, np.uint64).reshape(key.shape)


for _shape in ("3,4", "", "0,3", "1", "67"):
    _row("threefry2x32", f"u64[{_shape}]", f"u64[{_shape}]", reference=_threefry)
for _spec in ("f64[3,4] pos", "f64[] pos", "f64[0,3] pos", "f32[5] pos"):
    for _log in (False, True):
        # the derivative is that at a fixed level of the distribution, not that of the function
        _row("gamma_sample", _spec, _spec, attrs={"log": _log}, reference=lambda a, x: x, smooth=False)

for _prim, _operands, _how, _options in op_samples_linalg.rows():
    _row(_prim, *_operands, attrs=_how, **_options)

for _operands, _options in op_samples_special.rows():
    _row("scipy", *_operands, **_options)

def parameters(sample: Sample) -> int:
    """How many operands come first that have no derivative."""
    if sample.prim == "scipy":
        return sum(slope is None for slope in SCIPY[sample.attrs["function"]].slopes)
    return 0
