"""numpy.random in traced code: generators whose draws are made anew at every call, never while tracing.

Note [Draws]: a draw of a generator that the function was given or reaches, or made without a seed, becomes a further
input of the outermost trace. What was asked for (method, static arguments) is recorded; at each call the numbers are
drawn by NumPy itself, from the generator that is there then, in the order in which the function asked, and handed to
the compiled code. So the function sees NumPy's own stream, and the generator ends where NumPy would leave it. A
generator made with a seed gives the same numbers in every call: these are drawn while tracing and are constants.

Under vmap the lanes ask once, while their function is traced; `randomness` says whether that is refused, one draw for
all of them, or one with a leading axis of lanes. Bodies of control flow run more than once, or perhaps not at all:
draws in them are refused.
"""

from __future__ import annotations

import functools
import math
import types
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

import numpy as np

from nufunc.ir.errors import RandomnessError, TraceError, UnsupportedError
from nufunc.ir.types import DTYPE_NAMES, ArrayType
from nufunc.tracer.array import Array
from nufunc.tracer.captures import Path, compile_reader
from nufunc.tracer.np_core import (
    _static_arguments,
    as_array,
    broadcast_shapes,
    fail,
    has_traced,
    normal_axis,
    normal_shape,
)
from nufunc.tracer.np_ufuncs import UFUNCS
from nufunc.tracer.trace import Trace, current, require

# The parameters of each method, in their order. Those of location and scale may be traced, and only they.
_METHODS = {
    name: tuple(rest.split())
    for name, _, rest in (
        line.partition(" ")
        for line in (
            "random size dtype", "standard_normal size dtype", "standard_exponential size dtype method",
            "standard_cauchy size", "normal loc scale size", "uniform low high size", "exponential scale size",
            "gumbel loc scale size", "laplace loc scale size", "logistic loc scale size", "lognormal mean sigma size",
            "rayleigh scale size", "integers low high size dtype endpoint", "standard_gamma shape size dtype",
            "standard_t df size", "beta a b size", "binomial n p size", "chisquare df size", "f dfnum dfden size",
            "gamma shape scale size", "geometric p size", "hypergeometric ngood nbad nsample size", "logseries p size",
            "negative_binomial n p size", "noncentral_chisquare df nonc size",
            "noncentral_f dfnum dfden nonc size", "pareto a size", "poisson lam size", "power a size",
            "triangular left mode right size", "vonmises mu kappa size", "wald mean scale size", "weibull a size",
            "zipf a size", "dirichlet alpha size", "multinomial n pvals size",
            "multivariate_normal mean cov size check_valid tol method",
            "multivariate_hypergeometric colors nsample size method", "choice a size replace p axis shuffle",
            "permutation x axis", "permuted x axis",
        )
    )
}  # fmt: skip
_VECTORS = frozenset(("dirichlet", "multinomial", "multivariate_normal", "multivariate_hypergeometric"))
_SHIFTED = {  # the location, the scale (None: not there), and their defaults
    "normal": ("loc", "scale", 0.0, 1.0), "gumbel": ("loc", "scale", 0.0, 1.0), "laplace": ("loc", "scale", 0.0, 1.0),
    "logistic": ("loc", "scale", 0.0, 1.0), "exponential": (None, "scale", 0.0, 1.0),
    "rayleigh": (None, "scale", 0.0, 1.0), "gamma": (None, "scale", 0.0, 1.0),
}  # fmt: skip


@dataclass(frozen=True)
class Draw:
    """What a generator is asked for: `method(**arguments)`, `repeat` times where that is no part of the arguments."""

    source: int
    method: str
    arguments: dict[str, Any]
    repeat: tuple[int, ...] | None = None

    def __call__(self, generator: Any) -> Any:
        ask = getattr(generator, self.method)
        if self.repeat is None:
            return _number(ask(**self.arguments))
        many = [ask(**self.arguments) for _ in range(math.prod(self.repeat))]
        first = np.asarray(many[0] if many else getattr(_probe(), self.method)(**self.arguments))
        return np.array(many, first.dtype).reshape((*self.repeat, *first.shape))


def _number(drawn: Any) -> Any:
    """Python's ints as NumPy's: they are run-time inputs."""
    return np.int64(drawn) if type(drawn) is int else drawn


def _probe() -> Any:
    """A generator for asking what a draw's shape and dtype are."""
    return np.random.Generator(np.random.PCG64(0))


@dataclass
class DrawLog:
    """The generators and draws of one outermost trace, and, once it is compiled, what makes them at each call.

    A source is an int (a leaf of the arguments), a Path (what the function captured) or None (fresh entropy).
    `add(value)` makes an input of the outermost trace like a value and gives its Array.
    """

    add: Callable[[Any], Array]
    sources: list[int | Path | None] = field(default_factory=list)
    draws: list[Draw] = field(default_factory=list)

    def generator(self, source: int | Path | None) -> Generator:
        """The stand-in of a generator that is there anew at each call."""
        self.sources.append(source)
        return Generator(len(self.sources) - 1)

    @property
    def positions(self) -> tuple[int, ...]:
        """The leaves of the arguments that are generators which draws are made from."""
        return tuple(s for s in self.sources if isinstance(s, int))

    def plan(self) -> Callable[[Any, Sequence[Any]], tuple[Any, ...]] | None:
        """A function of the called function and the generators among its arguments (see `positions`): the values of
        the inputs. None where nothing is drawn."""
        if not self.draws:
            return None
        names: dict[str, Any] = {"number": _number, "default_rng": np.random.default_rng}
        paths = [s for s in self.sources if isinstance(s, Path)]
        lines = ["def drawn(fn, given):"]
        given = "".join(f"g{k}, " for k, s in enumerate(self.sources) if isinstance(s, int))
        reached = "".join(f"g{k}, " for k, s in enumerate(self.sources) if isinstance(s, Path))
        lines += [f"    {given}= given"] if given else []
        if reached:
            names["read"] = compile_reader(paths)
            lines.append(f"    {reached}= read(fn)")
        lines += [f"    g{k} = default_rng()" for k, s in enumerate(self.sources) if s is None]
        results = []
        for k, draw in enumerate(self.draws):
            if draw.repeat is None:
                names[f"a{k}"] = draw.arguments
                results.append(f"number(g{draw.source}.{draw.method}(**a{k}))")
            else:
                names[f"d{k}"] = draw
                results.append(f"d{k}(g{draw.source})")
        lines.append(f"    return ({', '.join(results)},)")
        exec(compile("\n".join(lines), "<nufunc draws>", "exec"), names)
        return names["drawn"]


@dataclass(eq=False)
class Lanes:
    """What a trace of the lanes of a vmap says of draws. `mapped` are arrays, by id, that hold one draw per lane."""

    randomness: str
    size: int
    label: str = "vmap"
    mapped: set[int] = field(default_factory=set)


def is_generator(x: Any) -> bool:
    """Whether an object is a numpy.random.Generator; does not import numpy.random."""
    kind = type(x)
    return kind.__name__ == "Generator" and kind.__module__ == "numpy.random._generator"


class Generator:
    """A generator in traced code. `source`: a number of the DrawLog, or NumPy's own generator, made with a seed."""

    def __init__(self, bit_generator: Any) -> None:
        if not isinstance(bit_generator, int | np.random.BitGenerator):
            raise TypeError(f"expected a BitGenerator, got {type(bit_generator).__name__}")
        self._source: Any = bit_generator
        if not isinstance(bit_generator, int):
            self._source = np.random.Generator(bit_generator)
        self._made = current()

    def __repr__(self) -> str:
        return "<a random generator in traced code>"

    def __getattr__(self, name: str) -> Any:
        if name in _METHODS:
            return functools.partial(self._ask, name)
        if name.startswith("_"):
            raise AttributeError(name)
        raise fail(UnsupportedError, f"Generator.{name} in a traced function; draw outside and pass the numbers")

    def _ask(self, method: str, *args: Any, **kwargs: Any) -> Any:
        names = _METHODS[method]
        if len(args) > len(names):
            raise TypeError(f"{method}() takes at most {len(names)} arguments, got {len(args)}")
        if kwargs.pop("out", None) is not None:
            raise fail(UnsupportedError, f"Generator.{method} with out= in a traced function; assign the result")
        given = {name: _known(value) for name, value in {**dict(zip(names, args, strict=False)), **kwargs}.items()}
        loose = [name for name, value in given.items() if has_traced(value)]
        if not loose:
            return self._static(method, given)
        if loose == [names[0]] and method in ("permutation", "permuted", "choice"):
            return self._items(method, given)
        if method == "uniform" and "size" not in loose:
            return self._uniform(given)
        if method == "lognormal" and "size" not in loose:
            shift = {"loc": given.pop("mean", 0.0), "scale": given.pop("sigma", 1.0)}
            return UFUNCS["exp"](self._shifted("normal", {**shift, **given}))
        if method in _SHIFTED and set(loose) <= set(_SHIFTED[method][:2]):
            return self._shifted(method, given)
        raise fail(
            TraceError,
            f"Generator.{method}: {loose[0]} is a traced value, but NumPy draws before the compiled function runs; use "
            "nf.random with a key, or draw standard numbers and transform them",
        )

    # -- parameters that are traced

    def _shifted(self, method: str, given: dict[str, Any]) -> Array:
        """loc + scale * (a standard draw), as NumPy computes it."""
        location, scale, low, one = _SHIFTED[method]
        at = given.pop(location, low) if location is not None else None
        by = given.pop(scale, one)
        parameters = [by] if at is None else [at, by]
        self._refuse_lanes(method, parameters)
        drawn = self._static(method, {**given, "size": _size(given, parameters)})
        return by * drawn if at is None else at + by * drawn

    def _uniform(self, given: dict[str, Any]) -> Array:
        low, high = given.get("low", 0.0), given.get("high", 1.0)
        self._refuse_lanes("uniform", [low, high])
        drawn = self._static("random", {"size": _size(given, [low, high])})
        return low + (high - low) * drawn

    @staticmethod
    def _refuse_lanes(method: str, parameters: Sequence[Any]) -> None:
        """One draw for all lanes is not of a distribution that differs between lanes."""
        trace = require()
        if trace.lanes is None or trace.lanes.randomness != "same":
            return
        if any(isinstance(p, Array) and _depends(trace, p) for p in parameters):
            raise fail(
                RandomnessError,
                f"vmap: Vmap does not currently support same randomness with a batched parameter (of {method}); "
                "use randomness='different', or draw standard numbers and transform them",
            )

    def _items(self, method: str, given: dict[str, Any]) -> Array:
        """Traced items in an order that is drawn."""
        first = _METHODS[method][0]
        items, axis = as_array(given.pop(first)), given.pop("axis", 0)
        if not items.ndim:
            raise fail(TraceError, f"Generator.{method}: {first} must be an array, or an int that is no traced value")
        if method == "permuted" and items.ndim > 1:
            raise fail(
                UnsupportedError, "Generator.permuted of a traced array with several axes; use nf.random.permutation"
            )
        axis = normal_axis(0 if axis is None else axis, items.ndim)
        ordered = "choice" if method == "choice" else "permutation"
        order = self._static(ordered, {_METHODS[ordered][0]: items.shape[axis], **given})
        return items[(slice(None),) * axis + (order,)]

    def shuffle(self, x: Any, axis: int = 0) -> None:
        """Put the items of an array into a random order, in place."""
        if not isinstance(x, Array):
            kind = type(x).__name__
            raise fail(UnsupportedError, f"Generator.shuffle of a {kind} in a traced function; use an array")
        x[...] = self._items("permutation", {"x": x, "axis": axis})

    # -- with static arguments

    def _static(self, method: str, given: dict[str, Any]) -> Any:
        trace = require()
        enclosing = list(_enclosing(trace))
        logged = isinstance(self._source, int)
        around = enclosing if logged or self._made not in enclosing else enclosing[: enclosing.index(self._made)]
        _check(around)
        probe = _number(getattr(_probe(), method)(**given))
        dtype, shape = np.asarray(probe).dtype, np.shape(probe)
        if dtype not in DTYPE_NAMES:
            raise fail(UnsupportedError, f"Generator.{method} gives numbers of dtype {dtype}, which cannot be traced")
        lanes = [t for t in enclosing if t.lanes is not None and t.lanes.randomness == "different"]
        leading = tuple(t.lanes.size for t in reversed(lanes) if t.lanes is not None)
        draw = _draw(self._source if logged else -1, method, given, leading, shape)
        if logged:
            log = _log(enclosing[-1])
            log.draws.append(draw)
            drawn = log.add(np.empty((*leading, *shape), dtype) if leading else probe)
        else:
            value = draw(self._source)
            if not leading:
                return trace.constant(value) if isinstance(value, np.ndarray) else value
            outside = lanes[-1].parent
            assert outside is not None
            drawn = outside.constant(value)
        return _entered(trace, drawn, lanes, probe)


def _entered(trace: Trace, drawn: Array, lanes: Sequence[Trace], probe: Any) -> Array:
    """A draw as the lanes of the innermost vmap see it: a fresh array of the current trace."""
    for t in reversed(lanes):
        lane = drawn.shape[1:]
        value = t.builder.param(ArrayType(lane, drawn.dtype))
        t.captured[id(drawn)] = (drawn, value)
        assert t.lanes is not None
        t.lanes.mapped.add(id(drawn))
        last = t is lanes[0]
        number = last and not isinstance(probe, np.ndarray)
        drawn = t.wrap(value, scalar=number, weak=number and isinstance(probe, float) and type(probe) is float)
    if not isinstance(probe, np.ndarray):
        return drawn
    return trace.wrap(trace.b.emit("convert", (trace.lift(drawn),), {"dtype": drawn.dtype})[0])


def _draw(
    source: int, method: str, given: dict[str, Any], leading: tuple[int, ...], shape: tuple[int, ...]
) -> Draw:
    """The draw for all lanes: one of a larger size, or one after the other where there is no size for this."""
    if not leading:
        return Draw(source, method, given)
    if method in ("permutation", "permuted") or (method == "choice" and not given.get("replace", True)):
        return Draw(source, method, given, leading)
    if method in _VECTORS:
        size = given.get("size")
        shape = () if size is None else normal_shape(size)
    elif method == "choice" and np.ndim(given["a"]) > 1:
        return Draw(source, method, given, leading)
    return Draw(source, method, {**given, "size": (*leading, *shape)})


def _size(given: dict[str, Any], parameters: Sequence[Any]) -> tuple[int, ...] | None:
    """The asked size, or what the parameters broadcast to; None for one number."""
    if given.get("size") is not None:
        return normal_shape(given["size"])
    others = [v for k, v in given.items() if k not in ("size", "low", "high") and v is not None]
    shape = broadcast_shapes(*(as_array(p).shape for p in (*parameters, *others)))
    return shape or None


def _known(x: Any) -> Any:
    """An argument with the values of traced constants in their place."""
    found = _static_arguments((x,), {}) if has_traced(x) else None
    return x if found is None else found[0][0]


def _enclosing(trace: Trace) -> Iterator[Trace]:
    """The trace and those around it, the outermost last."""
    around: Trace | None = trace
    while around is not None:
        yield around
        around = around.parent


def _check(traces: Sequence[Trace]) -> None:
    """Raise where draws of a generator from outside are refused: between it and here something runs repeatedly."""
    for trace in traces:
        if not trace.once:
            raise fail(
                TraceError,
                "a draw from a np.random.Generator in a body of control flow (cond, while_loop, scan, map, an if or a "
                "loop on traced values): it would be made once, not each time that the body runs; use nf.random "
                "with keys, or draw an array before the loop",
            )
        if trace.lanes is not None and trace.lanes.randomness == "different" and trace.lanes.size < 0:
            raise fail(
                UnsupportedError,
                f"{trace.lanes.label}: randomness='different' would give each column of the Jacobian a draw of its "
                "own; use 'same', or jacrev",
            )
        if trace.lanes is not None and trace.lanes.randomness == "error":
            raise fail(
                RandomnessError,
                f"{trace.lanes.label}: called random operation while in randomness error mode. Please either use the "
                "'same' or 'different' randomness flags on vmap or perform the randomness operation out of vmap",
            )


def _log(root: Trace) -> DrawLog:
    if root.draws is None:
        raise fail(TraceError, "a draw from a np.random.Generator outside of a compiled call")
    return root.draws


def _depends(trace: Trace, x: Array) -> bool:
    """Whether an array of a trace of lanes is computed from what differs between them."""
    if x.owner is not trace:
        return False
    shared = {id(v) for a, v in trace.captured.values() if trace.lanes is None or id(a) not in trace.lanes.mapped}
    varying = {id(p) for p in trace.builder.params if id(p) not in shared}
    for node in trace.builder.nodes:
        if any(id(o) in varying for o in node.operands):
            varying.update(id(r) for r in node.results)
            if node.prim == "write":
                varying.add(id(node.operands[0]))
    return id(trace.lift(x)) in varying


# -- the module


def default_rng(seed: Any = None) -> Any:
    """numpy.random.default_rng: with a seed NumPy's numbers, drawn while tracing; without one fresh entropy at every
    call."""
    trace = current()
    if trace is None:
        return np.random.default_rng(seed)
    if isinstance(seed, Generator):
        return seed
    seed = _known(seed)
    if has_traced(seed):
        raise fail(
            TraceError,
            "np.random.default_rng: the seed is a traced value; use nf.random.key(seed), or pass the seed as a Python "
            "int",
        )
    if seed is None:
        return _log(list(_enclosing(trace))[-1]).generator(None)
    return Generator(seed if isinstance(seed, np.random.BitGenerator) else np.random.PCG64(seed))


class RandomModule(types.ModuleType):
    """numpy.random as traced code sees it (see Note [Draws])."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(np.random, name) if current() is None else self.stand_in(name)

    @staticmethod
    def stand_in(name: str) -> Any:
        """What traced code gets for a name of numpy.random."""
        value = getattr(np.random, name)
        if name in ("default_rng", "Generator"):
            return default_rng if name == "default_rng" else Generator
        return _checked(name, value) if callable(value) else value


_SEEDED = ("SeedSequence", "PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64")
CLASSES = ("Generator", "RandomState", *_SEEDED)


@functools.cache
def _checked(name: str, value: Callable[..., Any]) -> Callable[..., Any]:
    """A function or class of numpy.random that raises while tracing, unless it is made with a seed."""

    @functools.wraps(value, updated=())
    def call(*args: Any, **kwargs: Any) -> Any:
        if current() is None:
            return value(*args, **kwargs)
        if name in _SEEDED:
            given = _known([*args, *kwargs.values()])
            if given and given[0] is not None and not has_traced(given):
                return value(*_known(args), **{k: _known(v) for k, v in kwargs.items()})
            _refuse(f"np.random.{name} without a static seed in a traced function would be seeded once, while tracing")
        if name == "RandomState":
            _refuse("np.random.RandomState in a traced function would draw once, while tracing")
        _refuse(
            f"np.random.{name} in a traced function draws from NumPy's hidden global state, once, while tracing, and "
            "would repeat the same numbers at every call"
        )

    return call


def _refuse(what: str) -> NoReturn:
    raise fail(
        TraceError,
        f"{what}; use rng = np.random.default_rng(...), nf.random with a key, or draw outside and pass the numbers as "
        "an argument",
    )
