"""Samples of sorting, sets, statistics, histograms, padding, sampled values, polynomials and windows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy_sample_arrays import CUBE, F32, I8, POS, SPECIAL, UNIT, ZERO_D, B, C, F, G, I, J, Sample, V, W, one

TIES = np.array([[3.0, 1.0, 2.0, 1.0, 3.0], [2.0, 2.0, 5.0, -1.0, 0.5], [0.0, -0.0, 4.0, 4.0, 4.0]])
GAPS = np.where(CUBE > 0.9, np.nan, CUBE)
LONG = np.sort(np.concatenate([F.ravel(), G.ravel()]))
NAN_C = np.array([3 + 1j, 1, 2, complex(1, np.nan), complex(np.nan, 2), 3, complex(np.nan, 1), 3 - 1j, 1])
NUMBERS = np.array([3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5])
OTHER = np.array([5, 8, 1, 7, 3])
T = np.linspace(0.0, 1.0, 6) ** 2
BYTES = np.array([[2, 7, 200], [23, 0, 255]], dtype=np.uint8)


def size(np_: Any, count: int) -> dict[str, int]:
    """The argument that NumPy does not have, where the namespace needs it."""
    return {"size": count} if type(np_).__name__ == "Namespace" else {}


def sorting() -> Iterator[Sample]:
    for axis in (-1, 0, None):
        yield from one("sort", TIES, axis)
        yield from one("argsort", TIES, axis, kind="stable")
    for kind in ("quicksort", "heapsort", "mergesort", "stable"):
        yield from one("sort", F, kind=kind)
    yield from one("sort", F, stable=True)
    yield from one("argsort", TIES, axis=0, stable=True)
    for x in (I, I8, F32, B, SPECIAL, C, NAN_C):
        yield from one("sort", x)
        yield from one("argsort", x, kind="stable")
    yield from one("sort", C, axis=0)
    yield from one("sort_complex", F32)
    yield from one("sort_complex", I8)
    yield from one("sort_complex", NAN_C)
    yield Sample("lexsort", lambda np, x, y: np.lexsort((x, y)), (F[0], np.array([1.0, 0.0, 1.0, 0.0])))
    yield from one("lexsort", TIES)
    yield Sample("lexsort axis", lambda np, x, y: np.lexsort([x, y], axis=0), (I, J))
    for name in ("partition", "argpartition"):
        for kth, axis in ((2, -1), ((0, 2), -1), (-1, 0), (5, None)):
            yield Sample(
                f"{name} kth={kth} axis={axis}",
                lambda np, x, name=name, kth=kth, axis=axis: _kept(np, name, x, kth, axis),
                (F,),
            )
    for side in ("left", "right"):
        for x in (TIES[1], np.array(2.0), np.array([0.0, np.nan, 9.0])):
            yield from one("searchsorted", np.array([1.0, 2.0, 2.0, 3.0, np.nan]), x, side)
        yield from one("searchsorted", LONG, F, side)
        yield from one("searchsorted", NUMBERS[np.argsort(NUMBERS)], I, side)
        yield from one("searchsorted", np.sort(NAN_C), NAN_C, side)
    yield Sample("searchsorted sorter", lambda np, a, v: np.searchsorted(a, v, sorter=np.argsort(a)), (F.ravel(), V))
    for right in (False, True):
        yield from one("digitize", F, np.array([-1.0, 0.0, 0.5, 1.0]), right)
        yield from one("digitize", F, np.array([1.0, 0.5, 0.0, -1.0]), right)
    yield Sample("x.sort()", lambda np, x: (x.sort(), x)[1], (F,))


def _kept(np: Any, name: str, x: Any, kth: Any, axis: Any) -> Any:
    """What NumPy promises of a partition: the elements at kth."""
    result = getattr(np, name)(x, kth, axis)
    chosen = np.take(result, np.asarray(kth), -1 if axis is None else axis)
    if name == "partition":
        return chosen
    if axis is None:
        return np.take(x, chosen)
    return np.take_along_axis(x, chosen if np.ndim(kth) else np.expand_dims(chosen, axis), axis)


def sets() -> Iterator[Sample]:
    whole = {"return_index": True, "return_inverse": True, "return_counts": True}
    n = len(np.unique(TIES))
    yield Sample("unique", lambda np, x: np.unique(x, **size(np, n)), (TIES,))
    yield Sample("unique all", lambda np, x: np.unique(x, **whole, **size(np, n)), (TIES,))
    yield Sample("unique nan", lambda np, x: np.unique(x, **size(np, 10)), (np.append(SPECIAL, np.nan),))
    yield Sample(
        "unique nans", lambda np, x: np.unique(x, equal_nan=False, **size(np, 11)), (np.append(SPECIAL, np.nan),)
    )
    rows = np.array([[1, 0, 2], [0, 5, 1], [1, 0, 2], [0, 4, 9]])
    yield Sample("unique rows", lambda np, x: np.unique(x, axis=0, **whole, **size(np, 3)), (rows,))
    yield Sample("unique columns", lambda np, x: np.unique(x, axis=1, **whole, **size(np, 3)), (rows,))
    yield Sample("unique of a line by axis", lambda np, x: np.unique(x, axis=0, **size(np, 7)), (NUMBERS,))
    planar = NAN_C[[0, 1, 2, 5, 7, 8]]
    yield Sample("unique complex", lambda np, x: np.unique(x, return_counts=True, **size(np, 5)), (planar,))
    for name in ("unique_all", "unique_counts", "unique_inverse", "unique_values"):
        yield Sample(name, lambda np, x, name=name: _sorted_set(np, name, x), (NUMBERS,))
    yield Sample("union1d", lambda np, x, y: np.union1d(x, y, **size(np, 9)), (NUMBERS, OTHER))
    yield Sample("intersect1d", lambda np, x, y: np.intersect1d(x, y, **size(np, 3)), (NUMBERS, OTHER))
    yield Sample(
        "intersect1d indices",
        lambda np, x, y: np.intersect1d(x, y, return_indices=True, **size(np, 3)), (NUMBERS, OTHER),
    )  # fmt: skip
    yield Sample("setdiff1d", lambda np, x, y: np.setdiff1d(x, y, **size(np, 4)), (NUMBERS, OTHER))
    yield Sample("setdiff1d unique", lambda np, x, y: np.setdiff1d(x, y, True, **size(np, 2)), (OTHER, NUMBERS))
    yield Sample("setxor1d", lambda np, x, y: np.setxor1d(x, y, **size(np, 6)), (NUMBERS, OTHER))
    yield from one("isin", I, J)
    yield from one("isin", I, J, invert=True)
    yield from one("isin", I, np.arange(40), kind="table")
    yield from one("isin", F, np.concatenate([F[0], LONG[::2]]))
    trues, first, numbers = int(B.sum()), int(B[0].sum()), int((I != 0).sum())
    for name in ("nonzero", "argwhere", "flatnonzero", "where"):
        yield Sample(f"{name} of bools", lambda np, x, name=name: getattr(np, name)(x, **size(np, trues)), (B,))
    yield Sample("nonzero of numbers", lambda np, x: np.nonzero(x, **size(np, numbers)), (I,))
    yield Sample("extract by bools", lambda np, m, x: np.extract(m, x, **size(np, trues)), (B, F))
    yield Sample("compress by bools", lambda np, m, x: np.compress(m, x, 1, **size(np, first)), (B[0], F))


def _sorted_set(np: Any, name: str, x: Any) -> Any:
    """NumPy's order of what these give is not defined; sorted it is."""
    result = getattr(np, name)(x, **size(np, 7))
    if name == "unique_values":
        return np.sort(result)
    if name == "unique_counts":
        return result.values[np.argsort(result.values)], result.counts[np.argsort(result.values)]
    return result.values[result.inverse_indices]


def statistics() -> Iterator[Sample]:
    for name in ("median", "nanmedian"):
        for x in (CUBE, GAPS):
            for kw in ({}, {"axis": 1}, {"axis": (0, 2)}, {"axis": -1, "keepdims": True}, {"keepdims": True}):
                yield from one(name, x, **kw)
        for x in (I, F32, V, ZERO_D, C):
            if x is not C or name == "median":
                yield from one(name, x, rtol=1e-6 if x is F32 else 1e-12)
    methods = (
        "inverted_cdf averaged_inverted_cdf closest_observation interpolated_inverted_cdf hazen weibull linear "
        "median_unbiased normal_unbiased lower higher midpoint nearest"
    )
    for method in methods.split():
        for name, q in (("quantile", 0.3), ("nanquantile", [0.0, 0.45, 1.0])):
            yield from one(name, GAPS if name[0] == "n" else CUBE, q, axis=1, method=method)
        yield from one("percentile", TIES, np.array([0.0, 25.0, 62.5, 100.0]), axis=1, method=method)
        yield from one("quantile", I, [0.0, 0.5, 0.9], method=method)
    for name in ("quantile", "nanquantile"):
        yield from one(name, CUBE, 0.25)
        yield from one(name, GAPS, [0.25, 0.5, 0.1], axis=(0, 2), keepdims=True)
        yield from one(name, F32, 0.7, axis=0, rtol=1e-6)
        yield from one(name, F32, np.array([0.7, 0.1]), axis=0, rtol=1e-6)
        yield from one(name, F, 0, axis=0)
        yield from one(name, F, [0, 1], axis=0)
        for w in (POS, POS.astype(np.float32), J):
            yield Sample(
                f"{name} weights {w.dtype}",
                lambda np, x, w, name=name: _weighted(np, name, x, [0.1, 0.5, 1.0], w, 1), (F, w),
            )  # fmt: skip
        w = np.array([0.5, 2.0, 1.0]) if name[0] == "n" else np.array([0.0, 2.0, 1.0])
        if name == "quantile":
            yield Sample("quantile axis weights", lambda np, x, w: _weighted(np, "quantile", x, 0.4, w, 0), (F, w))
        all_ = lambda np, x, w, name=name: _weighted(np, name, x, 0.4, w, None)
        yield Sample(f"{name} weights of all", all_, (F, POS))
    for name in ("percentile", "nanpercentile"):
        yield from one(name, GAPS, 40, axis=-1)
        yield from one(name, F32, 40, rtol=1e-6)
        yield from one(name, I, (25, 75), axis=0, keepdims=True)
    yield Sample("quantile, traced level", lambda np, x, q: np.quantile(x, q, axis=1), (F, UNIT[0]))
    yield Sample("percentile out", lambda np, x: np.percentile(x, 30, axis=1, out=np.zeros(3)), (F,))
    yield Sample("median out", lambda np, x: np.median(x, axis=1, out=np.zeros(3)), (F,))
    yield from one("average", F)
    yield from one("average", I, axis=1, returned=True)
    yield from one("average", F, returned=True)
    yield from one("average", F32, axis=0, keepdims=True, rtol=1e-6)
    yield Sample("average weights", lambda np, x, w: np.average(x, 1, w, True, keepdims=True), (F, POS))
    yield Sample("average weights of axes", lambda np, x, w: np.average(x, (2, 0), w), (CUBE, POS.T[:, :2].copy()))
    yield Sample("average of ints", lambda np, x, w: np.average(x, 0, w), (I, np.array([1, 2, 3])))
    covs: tuple[dict[str, Any], ...] = (
        {}, {"bias": True}, {"ddof": 0}, {"ddof": 2}, {"rowvar": False}, {"fweights": [1, 2, 1, 3]},
        {"aweights": [0.5, 1.0, 0.2, 2.0]}, {"fweights": [1, 2, 1, 3], "aweights": [0.5, 1.0, 0.2, 2.0]},
        {"aweights": [0.5, 1.0, 0.2, 2.0], "ddof": 0}, {"dtype": np.float32},
    )  # fmt: skip
    for kw in covs:
        if kw.get("rowvar", True):
            yield from one("cov", F, rtol=1e-5 if "dtype" in kw else 1e-12, **kw)
        else:
            yield from one("cov", F.T.copy(), **kw)
            yield from one("cov", F.T.copy(), G.T.copy(), **kw)
    for x in (V, C, F32, I):
        yield from one("cov", x, rtol=1e-6 if x is F32 else 1e-12)
        yield from one("corrcoef", x, rtol=1e-6 if x is F32 else 1e-12)
    yield from one("cov", V, W)
    yield from one("cov", F, G)
    yield Sample("cov aweights", lambda np, x, w: np.cov(x, aweights=w), (F, POS[0]))
    yield from one("corrcoef", F, G)
    yield from one("corrcoef", F, rowvar=False)
    for name in ("nansum", "nanprod", "nanmean", "nanvar", "nanstd", "nanmax", "nanmin"):
        for kw in ({}, {"axis": 1}, {"axis": (0, 2), "keepdims": True}):
            yield from one(name, GAPS, **kw)
        yield from one(name, I)
        yield Sample(f"{name}(where=)", lambda np, x, m, name=name: _masked(np, name, x, m), (GAPS[0], B))
    yield from one("nanvar", GAPS, axis=0, ddof=1)
    yield from one("nanmax", NAN_C)
    yield from one("nanmin", NAN_C.reshape(3, 3), axis=1)
    yield Sample("clip(where=)", lambda np, x, m: np.clip(x, -0.5, 0.5, out=np.zeros((3, 4)), where=m), (F, B))
    yield Sample("clip(dtype=)", lambda np, x: np.clip(x, -1, 0.5, dtype=np.float64), (F32,), 1e-6)
    for name in ("nanargmax", "nanargmin"):
        for kw in ({}, {"axis": 1}, {"axis": -1, "keepdims": True}):
            yield from one(name, GAPS, **kw)
        yield from one(name, I, axis=0)
    for name in ("nancumsum", "nancumprod"):
        yield from one(name, GAPS)
        yield from one(name, GAPS, axis=1)
        yield from one(name, I, axis=0, dtype=float)


def _weighted(np: Any, name: str, x: Any, q: Any, w: Any, axis: Any) -> Any:
    return getattr(np, name)(x, q, axis=axis, weights=w, method="inverted_cdf")


def _masked(np: Any, name: str, x: Any, mask: Any) -> Any:
    mask = mask | (np.arange(4) < 1)
    more = {"initial": 0.5} if name in ("nansum", "nanprod", "nanmax", "nanmin") else {}
    return getattr(np, name)(x, axis=0, where=mask, **more)


def histograms() -> Iterator[Sample]:
    edges = np.array([-1.0, -0.2, 0.0, 0.7, 1.1])
    for bins in (5, edges):
        yield from one("histogram", F, bins)
        yield from one("histogram", F, bins, density=True)
    yield Sample("histogram weights", lambda np, x, w: np.histogram(x, 5, weights=w), (F, POS))
    yield Sample("histogram weights edges", lambda np, x, w, e: np.histogram(x, e, weights=w), (F, POS, edges))
    yield Sample("histogram complex weights", lambda np, x, w, e: np.histogram(x, e, weights=w), (F, C, edges))
    yield from one("histogram", I)
    yield from one("histogram", I, 4, (-2, 3))
    yield from one("histogram", F32, 4, range=(-1.0, 1.0), rtol=1e-6)
    yield from one("histogram", np.full(5, 2.5), 3)
    yield from one("histogram", np.array([0.0, 0.1, 0.2, 0.3, 0.30000000000000004, 0.6, 0.9, 1.0]), 10)
    yield Sample("histogram, weights and density", lambda np, x, w: np.histogram(x, 3, None, True, w), (F, J))
    yield from one("histogram_bin_edges", F, 4)
    yield from one("histogram_bin_edges", I, 4, (0, 10))
    yield Sample("histogramdd", lambda np, x: _flat(np.histogramdd(x, 3)), (F,))
    yield Sample("histogramdd range", lambda np, x: _flat(np.histogramdd(x, (2, 3, 4), [(-1, 1)] * 3)), (F.T.copy(),))
    yield Sample("histogram2d", lambda np, x, y: np.histogram2d(x, y, 3), (F.ravel(), G.ravel()))
    x, y = F.ravel(), G.ravel()
    yield Sample("histogram2d edges", lambda np, x, y, e: np.histogram2d(x, y, e, density=True), (x, y, edges))
    yield Sample(
        "histogram2d weights", lambda np, x, y, w: np.histogram2d(x, y, [2, [-1.0, 0.0, 2.0]], weights=w),
        (F.ravel(), G.ravel(), POS.ravel()),
    )  # fmt: skip
    yield from one("bincount", NUMBERS, minlength=10)
    yield Sample("bincount weights", lambda np, x, w: np.bincount(x, w, 10), (NUMBERS, LONG[: len(NUMBERS)]))


def _flat(result: Any) -> tuple[Any, ...]:
    return result[0], *result[1]


def padding() -> Iterator[Sample]:
    for mode in ("edge", "linear_ramp", "maximum", "mean", "median", "minimum", "reflect", "symmetric", "wrap"):
        for x, width in ((F, 2), (F, ((1, 0), (3, 6))), (I, (2, 3)), (V, (9, 7))):
            yield from one("pad", x, width, mode)
    for mode in ("reflect", "symmetric"):
        for x, width in ((F, ((1, 4), (3, 7))), (I, 2), (V, (9, 7)), (F[:, :1].copy(), ((0, 1), (2, 2)))):
            yield from one("pad", x, width, mode, reflect_type="odd")
    for mode in ("maximum", "mean", "median", "minimum"):
        yield from one("pad", F, 3, mode, stat_length=2)
        yield from one("pad", I, 3, mode, stat_length=((1, 2), (3, 9)))
    yield from one("pad", F, ((1, 2), (3, 0)), constant_values=((1.0, 2.0), (3.0, 4.0)))
    yield from one("pad", I, 1, constant_values=(5, 6))
    yield from one("pad", F, {1: (1, 2), 0: 3}, "edge")
    yield from one("pad", F, 2, "linear_ramp", end_values=((1.0, 2.0), (3.0, 4.0)))
    yield from one("pad", I, 3, "linear_ramp", end_values=7)
    yield from one("pad", F, 0, "wrap")
    yield Sample("pad, traced constant", lambda np, x, v: np.pad(x, 1, constant_values=v[0]), (F, V))
    yield Sample("pad empty", lambda np, x: np.pad(x, 2, "empty")[2:-2, 2:-2], (F,))
    yield Sample("pad by a function", lambda np, x: np.pad(x, 2, _fill, filler=3.0), (F,))


def _fill(line: Any, width: tuple[int, int], axis: int, kwargs: dict[str, Any]) -> None:
    line[: width[0]] = kwargs["filler"] * (axis + 1)
    line[-width[1] :] = line[width[0]]


def sampled() -> Iterator[Sample]:
    xp, fp = np.array([-1.0, -0.2, 0.5, 1.4]), np.array([2.0, -1.0, 0.3, 0.9])
    for kw in ({}, {"left": -7.0}, {"left": 1.0, "right": 9.0}, {"period": 2.6}):
        yield from one("interp", F, xp, fp, **kw)
    yield from one("interp", np.array([-1.0, 0.5, 1.4, np.nan, 9.0]), xp, fp)
    yield from one("interp", 0.25, xp, fp)
    yield from one("interp", F, xp, fp + 1j * xp)
    yield from one("interp", F, xp[:1], fp[:1])
    yield from one("interp", F, np.array([1.4, -0.2, 0.5]), fp[:3], period=2.0)
    yield from one("ediff1d", F)
    yield from one("ediff1d", I, to_end=[8, 9], to_begin=-1)
    for edge in (1, 2):
        yield from one("gradient", F, edge_order=edge)
        yield from one("gradient", T, T + np.arange(6), edge_order=edge)
        yield Sample(
            f"gradient coordinates {edge}", lambda np, f, t, edge=edge: np.gradient(f, 0.5, t, edge_order=edge),
            (F, np.array([0.0, 1.0, 1.5, 4.0])),
        )  # fmt: skip
        yield from one("gradient", F, [0.0, 2.0, 3.0, 7.0], axis=1, edge_order=edge)
        yield from one("gradient", I, 2.0, axis=-1, edge_order=edge)
    yield from one("gradient", CUBE, 0.1, 0.2, axis=(2, 1))
    yield from one("gradient", F32, 0.5, axis=0, rtol=1e-6)
    yield from one("unwrap", 4 * F)
    yield from one("unwrap", 4 * F, axis=0)
    yield from one("unwrap", 4 * F, discont=4.0)
    yield from one("unwrap", 4 * F, period=5.0)
    yield from one("unwrap", np.array([0, 3, 7, 2, 9]), period=4)
    yield from one("unwrap", np.array([0, 3, 7, 2, 9]), period=5)
    yield from one("diff", F, prepend=0.0)
    yield Sample("diff edges", lambda np, x, y: np.diff(x, 2, 0, prepend=y, append=y[:1]), (F, G))
    grid = np.array([0.0, 1.0, 3.0])
    yield Sample("trapezoid of coordinates", lambda np, y, x: np.trapezoid(y, x, axis=0), (F, grid))
    yield from one("trapezoid", F, G)
    yield from one("trapezoid", I, dx=0.5, axis=0)
    for name in ("cumulative_sum", "cumulative_prod"):
        yield from one(name, F, axis=1, include_initial=True)
        yield from one(name, I, axis=0, dtype=np.float32)
        yield from one(name, V)
    yield from one("ptp", F, axis=0, keepdims=True)
    yield from one("ptp", I)


def polynomials() -> Iterator[Sample]:
    p, q = np.array([1.0, -2.0, 0.5, 3.0]), np.array([2.0, 1.0])
    for name in ("polyadd", "polysub", "polymul", "polydiv"):
        yield from one(name, p, q)
        yield from one(name, q, p)
    yield from one("polyadd", NUMBERS, OTHER)
    yield from one("polymul", p, 2.0)
    yield from one("polydiv", p, np.array([3.0]))
    for m in (0, 1, 2, 5):
        yield from one("polyder", p, m)
    yield from one("polyder", NUMBERS)
    yield from one("polyint", p)
    yield from one("polyint", p, 2, [1.0, 2.0])
    yield from one("polyint", p, 3, 4.0)
    yield from one("polyval", p, F)
    yield from one("polyval", p, C)
    yield from one("poly", V)
    yield from one("poly", J[0])
    yield from one("vander", V, 3)
    yield from one("vander", V, increasing=True)


def windows() -> Iterator[Sample]:
    for name in ("bartlett", "blackman", "hamming", "hanning"):
        yield Sample(name, lambda np, x, name=name: getattr(np, name)(4) * x, (F,))
    yield Sample("kaiser", lambda np, x: np.kaiser(4, 3.0) * x, (F,))
    yield Sample("kaiser, traced", lambda np, x: np.kaiser(7, x[0]), (V,))
    yield Sample("logspace", lambda np, x: np.logspace(x[0], 2.0, 4), (V,))
    yield Sample("logspace bases", lambda np, x: np.logspace(0.0, x, 4, base=[2.0, 3.0, 5.0, 7.0], axis=-1), (V,))
    yield Sample("logspace open", lambda np, x: np.logspace(x, 1.0, 3, endpoint=False, base=2.0), (V,))
    yield Sample("geomspace", lambda np, x: np.geomspace(x, 3.0, 5), (POS,))
    yield Sample("geomspace open", lambda np, x: np.geomspace(-x, -3.0, 4, endpoint=False, axis=1), (POS,))
    for kw in ({}, {"axis": 0}, {"axis": 1, "bitorder": "little"}):
        yield from one("packbits", np.tile(B, (1, 3)), **kw)
        yield from one("unpackbits", BYTES, **kw)
    yield from one("packbits", I)
    for count in (5, -3, 60):
        yield from one("unpackbits", BYTES, count=count)
    yield from one("real_if_close", F)


def samples() -> Iterator[Sample]:
    for group in (sorting, sets, statistics, histograms, padding, sampled, polynomials, windows):
        yield from group()


