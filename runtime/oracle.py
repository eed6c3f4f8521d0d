"""The oracle: tests the result of each pass while a function is compiled, and the machine code in the end.

Note [What passes promise]
A pass that rewrites must give a graph with the same results. A derivative must be the limit of differences, a
transposed graph the transpose of the linear one (w . A v = (A' w) . v), a vmapped graph the stack of what the lanes
give, and so on: each is one function below, named beside its pass in `runtime/pipeline.py`. Graphs are run by the
NumPy interpreter, the whole program on the arguments of the call, what is inside transforms on random numbers of the
right types, since its arguments exist only in the middle of another graph.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import numpy as np

from nufunc.ir import promotion
from nufunc.ir.builder import Builder
from nufunc.ir.errors import Location, NufuncError, VerifyError
from nufunc.ir.graph import Graph, Node
from nufunc.ir.interpret import run, watching
from nufunc.ir.prims.host import calls_host
from nufunc.ir.types import ArrayType, TapeType, is_half, is_inexact

if TYPE_CHECKING:
    from nufunc.runtime.function import Transformed

P = ParamSpec("P")
R = TypeVar("R")
Arrays = list[np.ndarray]

_STEP = 1e-6  # of differences, relative to the size of the arguments
_LOOSE = 1e-4  # what differences may be off, relative to the sizes of values and derivatives
_DOUBLE = ("float64", "complex128")


class _Skip(Exception):
    """Nothing can be said about a graph, for the reason given."""


@dataclass
class Oracle:
    """What has been tested so far, as (pass, graph, outcome). `values` are the inputs of the whole program."""

    values: Sequence[np.ndarray] = ()
    rows: list[tuple[str, str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.random = np.random.default_rng(0)

    def test(self, name: str, graph: Graph, relation: Callable[[], None]) -> None:
        """Note the outcome of a relation; one that does not hold is a VerifyError that names the pass."""
        try:
            if any(map(calls_host, graph.walk())):
                raise _Skip("it calls Python functions")
            relation()
        except _Skip as reason:
            self.rows.append((name, graph.name, f"not tested: {reason}"))
        except VerifyError as error:
            raise VerifyError(f"{name} is wrong for @{graph.name}: {error}") from None
        except (NufuncError, np.linalg.LinAlgError) as error:  # a domain that random numbers do not meet
            said = f"{type(error).__name__} of the interpreter, {str(error).splitlines()[0]}"
            self.rows.append((name, graph.name, f"not tested: {said}"))
        else:
            self.rows.append((name, graph.name, "right"))

    def arguments(self, graph: Graph) -> Arrays:
        """The inputs of the whole program where they fit, else random numbers."""
        given = [np.asarray(v) for v in self.values]
        if any(p.dtype == _BITS for p in graph.params):  # the halves of a graph for processors
            given = [v.view(_BITS) if is_half(v.dtype) else v for v in given]
        if [(p.shape, p.dtype) for p in graph.params] == [(v.shape, v.dtype) for v in given]:
            return given
        return [self.draw(p.type) for p in graph.params]

    def draw(self, type: ArrayType) -> np.ndarray:
        """Numbers between 0.1 and 0.9, where most functions are defined; integers are 0 or 1."""
        if isinstance(type, TapeType):
            raise _Skip("it takes tapes")
        if type.dtype.kind in "iub":
            return self.random.integers(0, 2, type.shape).astype(type.dtype)
        real = self.random.uniform(0.1, 0.9, type.shape)
        imaginary = self.random.uniform(0.1, 0.9, type.shape) * 1j if type.dtype.kind == "c" else 0.0
        return np.asarray(real + imaginary).astype(type.dtype)


_BITS = np.dtype(np.uint16)


class _Asked(threading.local):
    oracle: Oracle | None = None


_ASKED = _Asked()


@contextmanager
def asking(oracle: Oracle) -> Iterator[Oracle]:
    """Passes that run inside, in this thread, are tested."""
    before, _ASKED.oracle = _ASKED.oracle, oracle
    try:
        yield oracle
    finally:
        _ASKED.oracle = before


def tested(apply: Callable[P, R], relation: Callable[..., None]) -> Callable[P, R]:
    """A pass whose results are tested where somebody asks: by `relation(oracle, result, *arguments of the pass)`."""

    @functools.wraps(apply)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        result = apply(*args, **kwargs)
        oracle = _ASKED.oracle
        if oracle is not None:
            graph = args[0]
            assert isinstance(graph, Graph)
            oracle.test(apply.__name__, graph, lambda: relation(oracle, result, *args, **kwargs))
        return result

    return call


# -- the promises


def same(oracle: Oracle, result: Graph, before: Graph, *_: Any, **options: Any) -> None:
    """The two graphs compute the same."""
    arrays = oracle.arguments(before)
    _equal(run(result, arrays), run(before, arrays))


def functionalized(oracle: Oracle, result: Graph, traced: Graph, *_: Any) -> None:
    """The outputs of the traced graph, then what its updates leave in the arguments."""
    own = [a.copy() for a in oracle.arguments(traced)]
    found = run(result, own)
    expected = run(traced, own)
    _equal(found, [*expected, *(own[k] for k in result.updates)])


def tangents(oracle: Oracle, result: Graph, graph: Graph, which: Sequence[bool]) -> None:
    """The outputs, and their derivatives in a direction."""
    arrays = oracle.arguments(graph)
    direction = _direction(oracle, arrays, which)
    found = run(result, [*arrays, *(d for d, w in zip(direction, which, strict=True) if w)])
    count = len(graph.outputs)
    _equal(found[:count], run(graph, arrays))
    _is_derivative(graph, arrays, direction, found[count:])


def linearized(oracle: Oracle, result: Any, graph: Graph, which: Sequence[bool]) -> None:
    """The primal graph gives the outputs and residuals, with which the linear graph gives derivatives."""
    arrays = oracle.arguments(graph)
    direction = _direction(oracle, arrays, which)
    outputs = run(result.primal, arrays)
    count = len(graph.outputs)
    _equal(outputs[:count], run(graph, arrays))
    chosen = [d for d, w in zip(direction, which, strict=True) if w]
    _is_derivative(graph, arrays, direction, run(result.linear, [*outputs[count:], *chosen]))


def transposed(oracle: Oracle, result: Graph, linear: Graph, num_residuals: int) -> None:
    """w . A v = (A' w) . v, without conjugation."""
    arrays = [oracle.draw(p.type) for p in linear.params]
    forward = run(linear, arrays)
    weights = [oracle.draw(o.type) for o in linear.outputs]
    backward = run(result, [*arrays[:num_residuals], *weights])
    sides = [
        sum([complex(np.sum(a.astype(complex) * b)) for a, b in zip(one, other, strict=True)], 0j)
        for one, other in ((weights, forward), (backward, arrays[num_residuals:]))
    ]
    inexact = [a.dtype for a in arrays if is_inexact(a.dtype)]
    close = 5e-2 if any(map(is_half, inexact)) else 1e-9 if all(d.name in _DOUBLE for d in inexact) else 1e-3
    size = 1 + sum(float(np.sum(np.abs(a))) for a in forward)
    if not all(map(np.isfinite, sides)):
        raise _Skip("its values are not finite")
    if abs(sides[0] - sides[1]) > close * size:
        raise VerifyError(f"w . A v is {sides[0]:.6g}, but (A' w) . v is {sides[1]:.6g}")


def vmapped(
    oracle: Oracle, result: Graph, graph: Graph, size: int, in_dims: Sequence[int | None],
    out_dims: Sequence[int | None],
) -> None:  # fmt: skip
    """Each lane by itself."""
    lanes = min(size, 3)
    arrays = [oracle.draw(p.type) for p in result.params]
    found = run(result, arrays)
    for lane in range(lanes):
        own = [a if d is None else np.take(a, lane, d) for a, d in zip(arrays, in_dims, strict=True)]
        _equal([f if d is None else np.take(f, lane, d) for f, d in zip(found, out_dims, strict=True)], run(graph, own))


def jacobians(oracle: Oracle, result: Graph, linear: Graph, num_residuals: int, last: bool) -> None:
    """Contracted with tangents they give what the linear graph gives."""
    arrays = [oracle.draw(p.type) for p in linear.params]
    residuals, dots = arrays[:num_residuals], arrays[num_residuals:]
    found = iter(run(result, residuals))
    made = []
    for _ in linear.outputs:
        parts = []
        for d in dots:
            axes = range(-d.ndim, 0) if last else range(d.ndim)
            parts.append(np.tensordot(next(found), d, (axes, range(d.ndim))))
        made.append(np.sum(parts, axis=0))
    _equal(made, run(linear, arrays))


# -- how they are tested


def _equal(found: Sequence[np.ndarray], expected: Sequence[np.ndarray]) -> None:
    if len(found) != len(expected):
        raise VerifyError(f"it has {len(found)} outputs, but {len(expected)} before")
    for k, (x, y) in enumerate(zip(found, expected, strict=True)):
        if x.dtype.kind == "O":
            continue  # tapes
        if x.shape != y.shape or x.dtype != y.dtype:
            raise VerifyError(f"output {k} is {x.dtype}{x.shape}, but {y.dtype}{y.shape} before")
        if not is_inexact(x.dtype):
            if not np.array_equal(x, y):
                raise VerifyError(f"output {k} changes")
            continue
        tolerance = (8 if is_half(y.dtype) else 1e4) * float(promotion.finfo(y.dtype).eps)
        if is_half(y.dtype):
            x, y = x.astype(np.float64), y.astype(np.float64)
        with np.errstate(all="ignore"):
            finite = y[np.isfinite(y)]
            size = float(np.max(np.abs(finite), initial=0.0)) + 1e-300
            if not np.allclose(x, y, rtol=tolerance, atol=tolerance * size, equal_nan=True):
                worst = np.nanmax(np.abs(x - y), initial=0.0)
                raise VerifyError(f"output {k} changes by {worst:.3g}, where it is of the size {size:.3g}")


def _direction(oracle: Oracle, arrays: Arrays, which: Sequence[bool]) -> Arrays:
    """A direction to differentiate in; zero for parameters that are not selected."""
    sized = [np.maximum(np.abs(a), 1.0) if is_inexact(a.dtype) else a for a in arrays]
    return [
        (oracle.random.uniform(-1, 1, a.shape) * s).astype(a.dtype) if w else np.zeros_like(a)
        for a, s, w in zip(arrays, sized, which, strict=True)
    ]


def _is_derivative(graph: Graph, arrays: Arrays, direction: Arrays, found: Sequence[np.ndarray]) -> None:
    """Compare with differences. Where it is not, the first primitive that is wrong is named."""
    custom = [n for n in graph.walk() if n.prim == "custom"]
    if custom:
        raise _Skip(f"its rule @{custom[0].attrs['rule'].name} is believed")
    wrong = _off(graph, arrays, direction, found)
    if wrong is not None:
        where = _wrong_primitive(graph, arrays)
        raise VerifyError(f"{wrong}{where}")


def _off(graph: Graph, arrays: Arrays, direction: Arrays, found: Sequence[np.ndarray]) -> str | None:
    """What is wrong with the derivatives of the inexact outputs, or None."""
    if not all(a.dtype.name in _DOUBLE for a in arrays if is_inexact(a.dtype)):
        raise _Skip("differences say little in single precision")
    kept = [k for k, o in enumerate(graph.outputs) if is_inexact(o.dtype)]
    centre = run(graph, arrays)
    with np.errstate(all="ignore"):
        slopes = []
        for step in (_STEP, _STEP / 4):
            sides = [run(graph, [a + s * step * d for a, d in zip(arrays, direction, strict=True)]) for s in (1, -1)]
            slopes.append([(sides[0][k] - sides[1][k]) / (2 * step) for k in kept])
        for k, coarse, fine, derivative in zip(kept, *slopes, found, strict=True):
            size = 1 + max(float(np.max(np.abs(a), initial=0.0)) for a in (fine, centre[k]))
            if not np.isfinite(size):
                raise _Skip("its values are not finite")
            rough = np.abs(coarse - fine) > _LOOSE * size  # a kink, or noise
            bad = ~(np.abs(derivative - fine) <= 10 * _LOOSE * size) & ~rough
            if np.any(bad):
                at = tuple(int(i) for i in np.argwhere(bad)[0])
                place = f"[{', '.join(map(str, at))}]" if at else ""
                return (
                    f"the derivative of output {k}{place} is {derivative[at]:.6g}, differences give {fine[at]:.6g}"
                )
    return None


def _wrong_primitive(graph: Graph, arrays: Arrays) -> str:
    """The first node of a graph whose own derivative is wrong at the values that it gets."""
    from nufunc.passes.jvp import jvp

    seen: list[tuple[Node, Arrays]] = []
    with watching(lambda node, operands, _: seen.append((node, [np.array(o) for o in operands]))):
        run(graph, arrays)
    random = np.random.default_rng(1)
    for node, operands in seen:
        which = [is_inexact(o.dtype) for o in operands]
        if not any(which) or not any(is_inexact(r.dtype) for r in node.results):
            continue
        b = Builder("node")
        alone = b.build(b.copy_node(node, [b.param(o.type) for o in node.operands]))
        direction = [
            random.uniform(-1, 1, o.shape).astype(o.dtype) if w else np.zeros_like(o)
            for o, w in zip(operands, which, strict=True)
        ]
        chosen = [d for d, w in zip(direction, which, strict=True) if w]
        try:
            found = run(jvp(alone, which), [*operands, *chosen])[len(alone.outputs) :]
            wrong = _off(alone, operands, direction, found)
        except (NufuncError, _Skip):
            continue
        if wrong is not None:
            return f"; the first primitive that is wrong is {node.prim}{_shown(node.loc)}"
    return ""


def _shown(location: Location | None) -> str:
    return f" of\n  {location}" if location is not None else ""


def compiled(oracle: Oracle, grouped: Graph, results: Sequence[np.ndarray]) -> None:
    """The machine code's results are the interpreter's; else the first kernel that is wrong by itself is named."""
    arrays = oracle.arguments(grouped)
    seen: list[tuple[Node, Arrays, Arrays]] = []
    with watching(lambda node, given, made: seen.append((node, [*map(np.array, given)], [*map(np.array, made)]))):
        expected = run(grouped, arrays)
    given = [np.asarray(r) for r in results]
    expected = [e.view(g.dtype) if is_half(g.dtype) else e for e, g in zip(expected, given)]
    try:
        _equal(given, expected)
    except VerifyError as error:
        for node, operands, made in seen:
            if node not in grouped.nodes or any(o.dtype.kind == "O" for o in operands):
                continue
            from nufunc.codegen.compile import compile_graph

            b = Builder("kernel", grouped.stage)
            alone = b.build(b.copy_node(node, [b.param(o.type) for o in node.operands]))
            try:
                _equal([np.asarray(r) for r in compile_graph(alone).slow(*operands)], made)
            except VerifyError:
                names = "+".join(n.prim for n in node.regions[0].nodes) if node.prim == "fused" else node.prim
                inside = [n for region in node.regions for n in region.walk()]
                location = next((n.loc for n in reversed([node, *inside]) if n.loc is not None), None)
                raise VerifyError(f"{error}; the first kernel that is wrong is {names}{_shown(location)}") from None
        raise


# -- a whole function


def verify(function: Transformed, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Oracle:
    """Compile a function for these arguments with every step tested; an Oracle that tells what was."""
    from nufunc.runtime.compilation import compile_program, lower_program

    _, values = function.program_of(args, kwargs)
    with asking(Oracle([np.asarray(v) for v in values])) as oracle:
        program, _ = function.program_of(args, kwargs)
        lowered = lower_program(program)
    results = compile_program(program, lowered).entry.slow(*values)
    oracle.test("machine code", lowered.grouped, lambda: compiled(oracle, lowered.grouped, results))
    return oracle
