"""The text of a kernel rewritten for one host process: threads become generators, indices are checked.

Note [Simulated text]
`cuda.threadIdx.x` and its like become parameters, a barrier becomes `yield LINE`, and an operation of a warp
`yield (LINE, name, arguments...)`, whose value is what the thread is resumed with; whoever runs the threads of a block
resumes them in turn. NumPy refuses an index beyond the end of an array but takes a negative one from its end, so an
index that could be negative is compared with 0 first. Most cannot be: they are sums and products of what loops over
ranges give. Lines keep their numbers, so that tracebacks show the text as it was emitted.
"""

from __future__ import annotations

import ast
import ctypes
import ctypes.util
import functools
import itertools
import linecache
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from nufunc.codegen.text_scalars import PLAIN, of_bfloat16
from nufunc.ir.errors import UnsupportedError
from nufunc.ir.types import kind_of

PARAMETERS = ("_thread", "_block", "_threads", "_blocks", "_grid", "_size", "_shared")
_REGISTERS = {
    "cuda.threadIdx.x": "_thread", "cuda.blockIdx.x": "_block", "cuda.blockDim.x": "_threads",
    "cuda.gridDim.x": "_blocks",
}  # fmt: skip
_FENCES = ("cuda.threadfence", "cuda.threadfence_block", "cuda.threadfence_system")
OF_BLOCKS = ("syncthreads_count", "syncthreads_and", "syncthreads_or")
OF_WARPS = (
    "shfl_sync", "shfl_up_sync", "shfl_down_sync", "shfl_xor_sync", "all_sync", "any_sync", "eq_sync", "ballot_sync",
    "match_any_sync", "syncwarp",
)  # fmt: skip
_POISON = 0x5A  # every byte of integers that nobody has written

_numbers = itertools.count()


@dataclass(frozen=True)
class Text:
    """A kernel's text as a function of its buffers, the error word and `PARAMETERS`. With `barriers` or `warps` it is
    a generator. Where neither is there and `strides`, any number of threads and blocks does the same; where `spans`,
    any number of blocks."""

    function: Callable[..., Any]
    file: str
    barriers: bool
    warps: bool
    strides: bool
    spans: bool
    shared: tuple[tuple[Any, np.dtype], ...]


def poisoned(shape: Any, dtype: np.dtype) -> np.ndarray:
    """Memory with contents that nobody may rely on: NaN, or an odd integer."""
    if kind_of(dtype) in "fc":
        return np.full(shape, np.nan, dtype)
    fresh = np.empty(shape, dtype)
    fresh.view(np.uint8).fill(1 if dtype.kind == "b" else _POISON)
    return fresh


@functools.lru_cache(maxsize=4096)
def rewritten(source: str, name: str, checked: bool) -> Text:
    """The text of a kernel for simulation."""
    tree = ast.parse(source)
    function = next(s for s in tree.body if isinstance(s, ast.FunctionDef) and s.name == name)
    rewriter = _Rewriter(_never_negative(function) if checked else None)
    function.body = [rewriter.visit(statement) for statement in function.body]
    if rewriter.yields:  # also where no thread comes to a barrier
        function.body.append(ast.parse("if False: yield").body[0])
    function.args.args += [ast.arg(p) for p in PARAMETERS]
    file = f"<nufunc kernel {next(_numbers)}: {name}>"
    linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
    names = {**PLAIN, **(of_bfloat16() if "bfloat16" in source else {}), **OPERATIONS}
    exec(compile(ast.fix_missing_locations(tree), file, "exec"), names)
    shared = tuple((eval(shape, names), np.dtype(eval(dtype, names))) for shape, dtype in rewriter.shared)
    used = rewriter.used
    return Text(
        names[name], file, rewriter.barriers, rewriter.warps, "_size" in used and not used & {"_thread", "_block"},
        bool(used & {"_size", "_blocks"}), shared,
    )  # fmt: skip


def dotted(node: ast.expr) -> str:
    """`a.b.c` of names and attributes; "" of anything else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        inner = dotted(node.value)
        return f"{inner}.{node.attr}" if inner else ""
    return ""


class _Rewriter(ast.NodeTransformer):
    """See Note [Simulated text]."""

    def __init__(self, never_negative: frozenset[str] | None) -> None:
        self.never_negative = never_negative
        self.barriers = self.warps = False
        self.used: set[str] = set()
        self.shared: list[tuple[Any, Any]] = []
        self.count = 0

    @property
    def yields(self) -> bool:
        return self.barriers or self.warps

    def name(self, name: str, node: ast.AST) -> ast.expr:
        self.used.add(name)
        return ast.copy_location(ast.Name(name, ast.Load()), node)

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        text = dotted(node)
        if text in _REGISTERS:
            return self.name(_REGISTERS[text], node)
        if text == "cuda.laneid":
            lane = ast.BinOp(self.name("_thread", node), ast.Mod(), ast.Constant(32))
            return ast.copy_location(lane, node)
        if text == "cuda.warpsize":
            return ast.copy_location(ast.Constant(32), node)
        if text.startswith("cuda."):
            raise UnsupportedError(f"the simulator of kernels has no {text}")
        return self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        text = dotted(node.func)
        if not text.startswith("cuda."):
            return self.generic_visit(node)
        word = text.removeprefix("cuda.")
        if word in ("grid", "gridsize"):
            return self.name("_grid" if word == "grid" else "_size", node)
        if word == "shared.array":
            shape, dtype = (compile(ast.Expression(a), "<shared>", "eval") for a in node.args)
            self.shared.append((shape, dtype))
            number = ast.Constant(len(self.shared) - 1)
            return ast.copy_location(ast.Subscript(self.name("_shared", node), number, ast.Load()), node)
        arguments = [self.visit(a) for a in node.args]
        if word == "syncthreads":
            self.barriers = True
            return ast.copy_location(ast.Yield(ast.Constant(node.lineno)), node)
        if word in OF_BLOCKS or word in OF_WARPS:
            self.warps = True
            line, name = ast.Constant(node.lineno), ast.Constant(word)
            return ast.copy_location(ast.Yield(ast.Tuple([line, name, *arguments], ast.Load())), node)
        if text in _FENCES:
            return ast.copy_location(ast.Constant(None), node)
        operation = "_" + word.replace(".", "_")
        if operation not in OPERATIONS:
            raise UnsupportedError(f"the simulator of kernels has no {text}")
        return ast.copy_location(ast.Call(self.name(operation, node), arguments, []), node)

    def visit_Subscript(self, node: ast.Subscript) -> ast.AST:
        node = ast.Subscript(self.visit(node.value), self.visit(node.slice), node.ctx, **_place(node))
        if self.never_negative is None:
            return node
        if isinstance(node.slice, ast.Tuple):
            node.slice.elts = [self.not_negative(e) for e in node.slice.elts]
        else:
            node.slice = self.not_negative(node.slice)
        return node

    def not_negative(self, index: ast.expr) -> ast.expr:
        """The index, or an error where it is below 0."""
        assert self.never_negative is not None
        if _is_never_negative(index, self.never_negative):
            return index
        if isinstance(index, ast.Name):
            bound: ast.expr = index
        else:
            self.count += 1
            bound = ast.Name(f"_index{self.count}", ast.Load())
        first = bound if bound is index else ast.NamedExpr(ast.Name(bound.id, ast.Store()), index)  # type: ignore[attr-defined]
        test = ast.Compare(first, [ast.GtE()], [ast.Constant(0)])
        below = ast.Call(ast.Name("_below", ast.Load()), [bound], [])
        return ast.fix_missing_locations(ast.copy_location(ast.IfExp(test, bound, below), index))


def _place(node: ast.expr) -> dict[str, Any]:
    return {k: getattr(node, k) for k in ("lineno", "col_offset", "end_lineno", "end_col_offset")}


# -- what cannot be negative


def _never_negative(function: ast.FunctionDef) -> frozenset[str]:
    """Local names that hold no negative number, found by taking it of all and dropping those where it does not
    follow."""
    assigned = list(_assignments(function))
    names = frozenset(name for name, _ in assigned) - {a.arg for a in function.args.args}
    while True:
        kept = names - {name for name, holds in assigned if not holds(names)}
        if kept == names:
            return names
        names = kept


def _assignments(function: ast.FunctionDef) -> Iterator[tuple[str, Callable[[frozenset[str]], bool]]]:
    """Each name that is given a value, and whether this is never negative if some names are not."""
    for node in ast.walk(function):
        match node:
            case ast.Assign(targets=targets, value=value):
                for target in targets:
                    for name, part in _assigned(target, value):
                        yield name, functools.partial(_is_never_negative, part)
            case ast.AugAssign(target=ast.Name(id=name), op=op, value=value):
                yield name, functools.partial(_is_never_negative, ast.BinOp(ast.Name(name, ast.Load()), op, value))
            case ast.For(target=ast.Name(id=name), iter=ranged):
                yield name, functools.partial(_counts_from_zero, ranged)


def _assigned(target: ast.expr, value: ast.expr) -> Iterator[tuple[str, ast.expr]]:
    """The names of an assignment; those of a tuple that is not written out may get anything."""
    if isinstance(target, ast.Name):
        yield target.id, value
    elif isinstance(target, ast.Tuple):
        unknown: ast.expr = ast.Constant(None)
        values = value.elts if isinstance(value, ast.Tuple) else [unknown] * len(target.elts)
        for t, v in zip(target.elts, values, strict=True):
            yield from _assigned(t, v)


def _counts_from_zero(ranged: ast.expr, known: frozenset[str]) -> bool:
    if not isinstance(ranged, ast.Call) or dotted(ranged.func) != "range":
        return False
    start: ast.expr
    first: list[ast.expr] = [ast.Constant(0)] if len(ranged.args) == 1 else []
    start, stop, step = [*first, *ranged.args, ast.Constant(1)][:3]
    if _is_never_negative(step, known):
        return _is_never_negative(start, known)
    return ast.unparse(stop) == "-1" or _is_never_negative(stop, known)


def _is_never_negative(node: ast.expr, known: frozenset[str]) -> bool:
    of = lambda n: _is_never_negative(n, known)
    match node:
        case ast.Constant(value=value):
            return isinstance(value, int) and value >= 0
        case ast.Name(id=name):
            return name in known or name in PARAMETERS
        case ast.Attribute():
            return dotted(node) in (*_REGISTERS, "cuda.laneid", "cuda.warpsize")
        case ast.BinOp(left=left, op=ast.Add() | ast.Mult() | ast.FloorDiv() | ast.RShift() | ast.BitOr(), right=right):
            return of(left) and of(right)
        case ast.BinOp(op=ast.Mod(), right=right):
            return of(right)
        case ast.BinOp(left=left, op=ast.BitAnd(), right=right):
            return of(left) or of(right)
        case ast.IfExp(body=body, orelse=orelse):
            return of(body) and of(orelse)
        case ast.Call(func=func, args=args):
            name = dotted(func)
            if name in ("min", "int64", "int32"):
                return all(of(a) for a in args)
            return (name == "max" and any(of(a) for a in args)) or name in ("checked", "cuda.grid", "cuda.gridsize")
    return False


# -- what `cuda` offers beside barriers


def _below(index: Any) -> Any:
    raise IndexError(f"index {index} is below 0")


def _local_array(shape: Any, dtype: Any) -> np.ndarray:
    return poisoned(shape, np.dtype(dtype))


def _atomic(combine: Callable[[Any, Any], Any]) -> Callable[[Any, Any, Any], Any]:
    def operation(array: Any, index: Any, value: Any) -> Any:
        array = getattr(array, "array", array)  # one that is watched: atomics are no races
        old = array[index]
        array[index] = combine(old, old.dtype.type(value))
        return old

    return operation


def _compare_and_swap(array: Any, index: Any, old: Any, value: Any) -> Any:
    array = getattr(array, "array", array)
    found = array[index]
    if found == old:
        array[index] = value
    return found


def _load_vec(array: Any, index: Any, n: int) -> tuple[Any, ...]:
    _vector(array, index, n)
    return tuple(array[index + k] for k in range(n))


def _store_vec(array: Any, index: Any, values: tuple[Any, ...]) -> None:
    _vector(array, index, len(values))
    for k, value in enumerate(values):
        array[index + k] = value


def _vector(array: Any, index: Any, n: int) -> None:
    """An access to neighbours at once needs an index that is a multiple of their number, and memory to match."""
    if index < 0 or index % n:
        raise IndexError(f"{n} elements at once from index {index}")
    if not _aligned(min(16, n * getattr(array, "array", array).itemsize), array):
        raise IndexError(f"{n} elements at once from memory that is not aligned")


def _aligned(n: int, *arrays: Any) -> bool:
    return all(getattr(a, "array", a).__array_interface__["data"][0] % n == 0 for a in arrays)


@functools.cache
def _library() -> ctypes.CDLL:
    library = ctypes.CDLL(ctypes.util.find_library("m"))
    library.fma.restype, library.fma.argtypes = ctypes.c_double, [ctypes.c_double] * 3
    library.fmaf.restype, library.fmaf.argtypes = ctypes.c_float, [ctypes.c_float] * 3
    return library


def _fma(x: Any, y: Any, z: Any) -> Any:
    library = _library()
    if isinstance(x, np.float32):
        return np.float32(library.fmaf(x, y, z))
    return np.float64(library.fma(x, y, z))


def _bits(x: Any) -> str:
    """The bits of an integer, the highest one first."""
    width = 8 * x.dtype.itemsize if isinstance(x, np.generic) else 64
    return format(int(x) % 2**width, f"0{width}b")


OPERATIONS: Mapping[str, Callable[..., Any]] = {
    "_below": _below,
    "_local_array": _local_array,
    "_fma": _fma,
    "load_vec": _load_vec,
    "store_vec": _store_vec,
    "aligned": _aligned,
    "_atomic_add": _atomic(lambda x, y: x + y),
    "_atomic_sub": _atomic(lambda x, y: x - y),
    "_atomic_max": _atomic(lambda x, y: max(x, y)),
    "_atomic_min": _atomic(lambda x, y: min(x, y)),
    "_atomic_and_": _atomic(lambda x, y: x & y),
    "_atomic_or_": _atomic(lambda x, y: x | y),
    "_atomic_xor": _atomic(lambda x, y: x ^ y),
    "_atomic_exch": _atomic(lambda x, y: y),
    "_atomic_cas": _compare_and_swap,
    "_popc": lambda x: _bits(x).count("1"),
    "_clz": lambda x: len(_bits(x)) - len(_bits(x).lstrip("0")),
    "_ffs": lambda x: 0 if x == 0 else len(_bits(x)) - len(_bits(x).rstrip("0")) + 1,
    "_brev": lambda x: type(x)(int(_bits(x)[::-1], 2)),
    "_selp": lambda test, x, y: x if test else y,
}
