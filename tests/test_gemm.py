"""Own matrix products: all layouts and shapes against sums of longer precision, with the stated error bound."""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from llvmlite import ir

from nufunc.codegen import backend, gemm, gemm_blocks, gemm_shape
from nufunc.codegen.loading import PASSES

HOST = backend.target()
PLAIN = replace(HOST, has_fma=False)
NARROW = replace(HOST, vector_bits=256)
OPTIMISE = backend.Optimise(level=3, passes=PASSES)
F4, F8 = np.dtype(np.float32), np.dtype(np.float64)
P, N = ctypes.c_void_p, ctypes.c_int64

Shape = tuple[int, int, int]
Ranges = tuple[tuple[int, ...], tuple[int, ...]]  # of rows and of columns


def strides(layout: str, rows: int, columns: int) -> tuple[int, int]:
    """Element strides: N row-major, T transposed, L row-major in longer rows, S neither axis adjacent."""
    table = {"N": (columns, 1), "T": (1, rows), "L": (columns + 3, 1), "S": (2 * columns + 1, 2)}
    return table[layout]


def placed(values: np.ndarray, steps: tuple[int, int], shift: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """A copy with these strides, `shift` elements into its memory, among NaN; and that memory from its start on."""
    rows, columns = values.shape
    span = 1 + max(rows - 1, 0) * steps[0] + max(columns - 1, 0) * steps[1]
    memory = np.full(span + shift + 64, np.nan, values.dtype)
    view = np.lib.stride_tricks.as_strided(
        memory[shift:], values.shape, [s * values.itemsize for s in steps], writeable=True
    )
    view[...] = values
    return view, memory[shift:]


class Products:
    """Products compiled into one module, as functions of NumPy matrices."""

    def __init__(self, target: backend.Target = HOST) -> None:
        self.target, self.module, self.specs = target, ir.Module("products"), []  # type: ignore[var-annotated]

    def add(self, dtype: np.dtype, shape: Shape, layouts: str = "NN", **options: Any) -> int:
        m, n, k = shape
        a, b = strides(layouts[0], m, k), strides(layouts[1], k, n)
        spec = gemm.product_spec(self.target, dtype, shape, a, b, n + options.pop("c_extra", 0))
        function = gemm.product_function(self.module, spec, **options)
        name = f"entry{len(self.specs)}"
        outer = ir.Function(self.module, function.function_type, name)
        builder = ir.IRBuilder(outer.append_basic_block())
        builder.call(function, list(outer.args))
        builder.ret_void()
        self.specs.append((spec, (a, b), name, options.get("part")))
        return len(self.specs) - 1

    def compile(self) -> Products:
        self.code = backend.compile_module(str(self.module), "products", OPTIMISE)
        return self

    def __call__(
        self, index: int, a: np.ndarray, b: np.ndarray, c: np.ndarray | None = None, ranges: list[Ranges] | None = None
    ) -> np.ndarray:
        spec, (a_steps, b_steps), name, part = self.specs[index]
        function = ctypes.CFUNCTYPE(None, *[P] * 4, *[N] * (4 if part else 0))(self.code.address(name))
        (_, at_a), (_, at_b) = placed(a, a_steps), placed(b, b_steps)
        start = np.full((spec.m, spec.n), np.nan, spec.dtype) if c is None else c
        result, at_c = placed(start, (spec.c_stride, 1))
        size, guard = gemm.kernel(spec, part).scratch, 4096
        scratch = np.full(size + 64 + guard, 255, np.uint8)  # all ones are NaN
        base = scratch.ctypes.data + -scratch.ctypes.data % 64
        args = [at_a.ctypes.data, at_b.ctypes.data, at_c.ctypes.data, base]
        for rows, columns in ranges if ranges is not None else [((), ())]:
            function(*args, *rows, *columns)
        assert (scratch[base - scratch.ctypes.data + size :] == 255).all(), "wrote past the scratch memory"
        values = result.copy()
        result[...] = np.nan
        assert np.isnan(at_c.base).all(), "wrote outside C"
        return values


def matrices(dtype: np.dtype, shape: Shape, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng([seed, *shape])
    m, n, k = shape
    return rng.standard_normal((m, k)).astype(dtype), rng.standard_normal((k, n)).astype(dtype)


def check(got: np.ndarray, a: np.ndarray, b: np.ndarray, c: np.ndarray | None = None) -> None:
    """Within the bound of Note [Matrix products] of the product in extended precision."""
    longer = np.longdouble if a.dtype == F8 else np.float64
    exact = a.astype(longer) @ b.astype(longer)
    size = np.abs(a).astype(longer) @ np.abs(b).astype(longer)
    if c is not None:
        exact, size = exact + c, size + np.abs(c)
    k = a.shape[1]
    blocks = -(-max(k, 1) // gemm_shape.KC)
    steps = min(k, gemm_shape.KC) + blocks + 1
    bound = steps * np.finfo(a.dtype).eps * size
    assert got.shape == exact.shape
    assert (np.abs(got - exact) <= bound).all(), f"{a.shape} {b.shape}: {np.abs(got - exact).max()}"


SMALL = [
    (1, 1, 1),
    (1, 1, 37),
    (1, 9, 5),
    (9, 1, 5),
    (3, 3, 3),
    (4, 4, 4),
    (5, 7, 9),
    (13, 17, 11),
    (2, 40, 70),
    (40, 2, 70),
]
ODD = [(64, 64, 64), (31, 65, 33), (100, 3, 3), (130, 50, 70), (29, 130, 300), (4, 200, 150), (200, 3, 150)]


@pytest.mark.parametrize("dtype", [F4, F8])
@pytest.mark.parametrize("layouts", ["".join(p) for p in itertools.product("NTLS", repeat=2)])
def test_layouts_and_shapes(dtype: np.dtype, layouts: str) -> None:
    shapes = SMALL + ODD if layouts in ("NN", "NT", "TN") else SMALL[3:8:2] + ODD[1::3]
    products = Products()
    indices = [products.add(dtype, shape, layouts, c_extra=i % 2) for i, shape in enumerate(shapes)]
    products.compile()
    for index, shape in zip(indices, shapes, strict=True):
        a, b = matrices(dtype, shape)
        check(products(index, a, b), a, b)


@pytest.mark.parametrize("dtype", [F4, F8])
@pytest.mark.parametrize("shape", [(5, 7, 9), (3, 40, 70), (70, 1, 40), (1, 1, 50), (60, 70, 80)])
def test_reversed_and_repeated_operands(dtype: np.dtype, shape: Shape) -> None:
    """Strides below zero and of zero, as views in a plan have them; only pointers and strides know."""
    (m, n, k), item = shape, dtype.itemsize
    a, b = matrices(dtype, shape)
    cases = [
        (a[::-1, ::-1], b[:, ::-1]),
        (a[:, ::-1], b[::-1]),
        (np.broadcast_to(a[:1], (m, k)), np.broadcast_to(b[:, :1], (k, n))),
        (np.broadcast_to(a[:, :1], (m, k)), np.broadcast_to(b[:1], (k, n))),
        (np.broadcast_to(a[0, 0], (m, k)), np.broadcast_to(b[0, 0], (k, n))),
    ]
    module, sizes = ir.Module("views"), []
    for x, y in cases:
        steps = [tuple(s // item for s in v.strides) for v in (x, y)]
        spec = gemm.product_spec(HOST, dtype, (m, n, k), *steps, n)
        function = gemm.product_function(module, spec)
        function.linkage = ""
        sizes.append((function.name, gemm.kernel(spec).scratch))
    code = backend.compile_module(str(module), "views", OPTIMISE)
    for (x, y), (name, size) in zip(cases, sizes, strict=True):
        scratch, c = np.empty(size + 64, np.uint8), np.full((m, n), np.nan, dtype)
        pointers = [x.ctypes.data, y.ctypes.data, c.ctypes.data, scratch.ctypes.data + -scratch.ctypes.data % 64]
        ctypes.CFUNCTYPE(None, P, P, P, P)(code.address(name))(*pointers)
        check(c, x, y)


@pytest.mark.parametrize("dtype", [F4, F8])
@pytest.mark.parametrize("layouts", ["NN", "TT", "NT"])
def test_many_blocks(dtype: np.dtype, layouts: str) -> None:
    shape = (101, 170, 777)
    products = Products()
    plain, added = products.add(dtype, shape, layouts), products.add(dtype, shape, layouts, accumulate=True)
    products.compile()
    a, b = matrices(dtype, shape)
    check(products(plain, a, b), a, b)
    c = np.random.default_rng(1).standard_normal((101, 170)).astype(dtype)
    check(products(added, a, b, c), a, b, c)


@pytest.fixture
def small_caches(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Blocks so small that middling matrices are packed and cut in every direction."""
    sizes = {"KC": 64, "MC_BYTES": 8 << 10, "NC_BYTES": 64 << 10, "IN_PLACE_BYTES": 2048, "CROWDED_BYTES": 1024}
    for name, value in {**sizes, "FEW": 0}.items():
        monkeypatch.setattr(gemm_shape, name, value)
    monkeypatch.setattr(gemm_blocks, "PREFETCH_BYTES", 0)
    gemm_shape.blocking.cache_clear()
    yield
    gemm_shape.blocking.cache_clear()


@pytest.mark.usefixtures("small_caches")
@pytest.mark.parametrize("dtype", [F4, F8])
@pytest.mark.parametrize("layouts", ["NN", "TN", "NT", "SS", "TT"])
def test_blocks_in_every_direction(dtype: np.dtype, layouts: str) -> None:
    shapes = [(93, 500, 150), (31, 65, 201), (300, 20, 70)]
    products = Products()
    indices = [products.add(dtype, shape, layouts) for shape in shapes]
    parts = products.add(dtype, shapes[0], layouts, part=(93, 500), accumulate=True)
    products.compile()
    cut = gemm_shape.blocking(products.specs[0][0], (93, 500))
    assert cut.pack_a
    assert cut.pack_b
    assert min(-(-93 // cut.rows) / cut.mc, 500 / cut.columns / cut.nc, 150 / cut.kc) > 1
    for index, shape in zip(indices, shapes, strict=True):
        a, b = matrices(dtype, shape)
        check(products(index, a, b), a, b)
    a, b = matrices(dtype, shapes[0])
    tile, columns = cut.rows, (0, 500)
    ranges = [((2 * tile, 93), columns), ((0, tile), columns), ((tile, 2 * tile), columns)]
    zeros = np.zeros((93, 500), dtype)
    whole = products(parts, a, b, zeros, ranges=[((0, 93), columns)])
    assert (products(parts, a, b, zeros, ranges=ranges) == whole).all()


@pytest.mark.parametrize("dtype", [F4, F8])
@pytest.mark.parametrize("shape", [(0, 3, 4), (3, 0, 4), (3, 4, 0), (1, 1, 0), (5, 1, 0), (50, 60, 0), (0, 0, 0)])
def test_empty(dtype: np.dtype, shape: Shape) -> None:
    products = Products()
    plain, added = products.add(dtype, shape), products.add(dtype, shape, accumulate=True)
    products.compile()
    a, b = matrices(dtype, shape)
    c = np.random.default_rng(0).standard_normal(shape[:2]).astype(dtype)
    assert (products(plain, a, b) == np.zeros(shape[:2], dtype)).all()
    expected = c.copy()
    assert (products(added, a, b, c) == expected).all()


@pytest.mark.parametrize("dtype", [F4, F8])
def test_accumulate(dtype: np.dtype) -> None:
    shapes = [
        (7, 5, 3),
        (64, 48, 32),
        (100, 1, 60),
        (1, 100, 60),
        (33, 2, 80),
        (2, 33, 80),
        (1, 1, 500),
        (60, 70, 1),
    ]
    products = Products()
    cases = [(shape, layouts) for shape in shapes for layouts in ("NN", "TN", "NT")]
    indices = [products.add(dtype, shape, layouts, accumulate=True) for shape, layouts in cases]
    products.compile()
    for index, (shape, _) in zip(indices, cases, strict=True):
        a, b = matrices(dtype, shape)
        c = np.random.default_rng(2).standard_normal(shape[:2]).astype(dtype)
        check(products(index, a, b, c), a, b, c)


def bounds(extent: int, unit: int) -> list[tuple[int, int]]:
    ends = [*range(0, extent, unit), extent]
    return list(itertools.pairwise(ends))


@pytest.mark.parametrize("dtype", [F4, F8])
@pytest.mark.parametrize("layouts", ["NN", "TN", "NT"])
@pytest.mark.parametrize(
    "shape", [(100, 150, 300), (1000, 1, 40), (50, 3, 64), (3, 50, 64), (41, 9, 2), (300, 260, 600)]
)
def test_parts_change_no_bit(dtype: np.dtype, layouts: str, shape: Shape) -> None:
    """Parts of any number of tiles, those read in place and those packed."""
    products, (m, n, _) = Products(), shape
    whole = products.add(dtype, shape, layouts)
    spec = products.specs[whole][0]
    cuts = []
    for rows, columns in itertools.product((1, 3), (1, 2)):
        units = gemm.kernel(spec).units
        part = min(m, rows * units[0]), min(n, columns * units[1])
        ranges = itertools.product(bounds(m, part[0]), bounds(n, part[1]))
        cuts.append((products.add(dtype, shape, layouts, part=part), list(ranges)[::-1]))
    products.compile()
    a, b = matrices(dtype, shape)
    expected = products(whole, a, b)
    check(expected, a, b)
    for parts, ranges in cuts:
        assert (products(parts, a, b, ranges=[*ranges, ((0, 0), (0, n))]) == expected).all()


def test_grids_divide_where_little_is_packed_twice() -> None:
    """Few rows: ranges of columns, so that the larger matrix is packed once; many rows: ranges of rows."""
    wide = gemm.product_spec(HOST, F4, (64, 4096, 512), (512, 1), (4096, 1), 4096)
    tall = gemm.product_spec(HOST, F4, (4096, 96, 512), (512, 1), (96, 1), 96)
    (rows, columns), part = gemm.grid(wide, 8, 1e6)
    assert columns > rows
    assert part[0] * rows >= 64
    assert part[1] * columns >= 4096
    (rows, columns), _ = gemm.grid(tall, 8, 1e6)
    assert rows > columns
    assert gemm.grid(tall, 8, 1e6, along=0)[0][1] == 1
    assert gemm.grid(wide, 1, 1e6)[0] == (1, 1)


@pytest.mark.parametrize("target", [PLAIN, NARROW, replace(NARROW, has_fma=False), replace(HOST, vector_bits=128)])
@pytest.mark.parametrize("dtype", [F4, F8])
def test_other_processors(target: backend.Target, dtype: np.dtype) -> None:
    shapes = [(5, 7, 9), (64, 64, 64), (31, 65, 33), (130, 1, 70), (3, 50, 70), (60, 50, 300)]
    cases = [(shape, layouts) for shape in shapes for layouts in ("NN", "NT", "TN")]
    products = Products(target)
    indices = [products.add(dtype, shape, layouts) for shape, layouts in cases]
    assert ("llvm.fma" in str(products.module)) == target.has_fma
    products.compile()
    for index, (shape, _) in zip(indices, cases, strict=True):
        a, b = matrices(dtype, shape)
        check(products(index, a, b), a, b)


def test_one_definition_per_kind() -> None:
    products = Products()
    for _ in range(2):
        products.add(F8, (64, 64, 64))
    products.add(F8, (512, 512, 512))
    products.add(F8, (512, 768, 1024))
    names = [f.name for f in products.module.functions]
    assert len([name for name in names if name.startswith("nf.gemm")]) == 3
    assert len(names) == len(set(names))


def test_nan_and_infinity_travel() -> None:
    products = Products()
    index = products.add(F8, (6, 5, 4))
    products.compile()
    a, b = matrices(F8, (6, 5, 4))
    a[2, 1], b[3, 4] = np.nan, np.inf
    got = products(index, a, b)
    assert np.isnan(got[2]).all()
    assert np.isinf(np.delete(got[:, 4], 2)).all()
    assert np.isfinite(np.delete(got, 2, axis=0)[:, :4]).all()


def test_other_dtypes_are_refused() -> None:
    with pytest.raises(ValueError, match="float32 and float64"):
        gemm.product_spec(HOST, np.dtype(np.int64), (2, 2, 2), (2, 1), (2, 1), 2)
