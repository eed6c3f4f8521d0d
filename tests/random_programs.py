"""Random imperative NumPy programs: views, writes, reductions, broadcasting, Python loops and traced control flow.

A program is the source of a function `program(x, y)`. Its control flow goes through a name `flow`, which is nufunc or
`PlainFlow`, the same functions in plain Python, so that one source runs in NumPy alone and in nufunc.
"""

import functools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from random_writes import LAYOUTS, Chooser, Variable, Writes, laid_out

import nufunc as nf


class RandomChooser:
    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)

    def integer(self, low: int, high: int) -> int:
        return int(self.rng.integers(low, high + 1))


class PlainFlow:
    """nufunc's control flow in plain Python."""

    @staticmethod
    def cond(pred: Any, true_fun: Callable, false_fun: Callable, *operands: Any) -> Any:
        return true_fun(*operands) if pred else false_fun(*operands)

    @staticmethod
    def fori_loop(lower: int, upper: int, body: Callable, init: Any) -> Any:
        for i in range(lower, upper):
            init = body(i, init)
        return init

    @staticmethod
    def while_loop(test: Callable, body: Callable, init: Any) -> Any:
        while test(init):
            init = body(init)
        return init

    @staticmethod
    def scan(body: Callable, init: Any, xs: Any) -> Any:
        out = []
        for x in xs:
            init, y = body(init, x)
            out.append(y)
        return init, np.stack(out)


@dataclass
class Maker(Writes):
    choose: Chooser
    variables: list[Variable] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    indent: str = "    "
    count: int = 0
    depth: int = 0
    inner: int = 0  # the number of functions around

    # -- choices

    def pick(self, items: list) -> Any:
        return items[self.choose.integer(0, len(items) - 1)]

    def chance(self, percent: int) -> bool:
        return self.choose.integer(1, 100) <= percent

    def new(self, shape: tuple[int, ...], frozen: bool = False) -> Variable:
        self.count += 1
        variable = Variable(f"v{self.count}", shape, frozen)
        self.variables.append(variable)
        return variable

    def line(self, text: str) -> None:
        self.lines.append(self.indent + text)

    # -- expressions

    def operand(self, shape: tuple[int, ...]) -> str:
        """An expression that broadcasts to `shape`."""
        fitting = [v for v in self.variables if _broadcasts(v.shape, shape)]
        if fitting and self.chance(75):
            chosen = self.pick(fitting)
            return chosen.name
        return self.pick(["0.5", "2", "-1.25", "3", "np.pi", "0.0", "1"])

    def expression(self, shape: tuple[int, ...]) -> str:
        """An expression that broadcasts to `shape`, bounded for bounded operands."""
        a, b = self.operand(shape), self.operand(shape)
        forms = [
            "{a} + {b}", "{a} - {b}", "{a} * 0.5 * np.tanh({b})", "np.sin({a})", "np.cos({a}) * {b}",
            "np.exp(-np.abs({a}))", "np.maximum({a}, {b})", "np.minimum({a}, {b})",
            "np.where({a} > {b}, {a}, 0.5 * ({b}))", "np.sqrt(np.abs({a}) + 1)", "{a} / (1 + np.abs({b}))",
            "np.clip({a}, -1, 2)", "-({a})",
            "np.arctan({a})", "({a}) ** 2 * 0.1",
        ]  # fmt: skip
        return self.pick(forms).format(a=f"({a})", b=f"({b})")

    def part(self, v: Variable) -> tuple[str, tuple[int, ...]]:
        """A basic index of an array, and the shape that it shows."""
        terms, shape = [], []
        for n in v.shape:
            kind = self.choose.integer(0, 4) if n else 0
            if kind <= 1:
                terms.append(":")
                shape.append(n)
            elif kind == 2:
                terms.append(str(self.choose.integer(-n, n - 1)))
            else:
                low, high = sorted((self.choose.integer(0, n), self.choose.integer(0, n)))
                step = self.choose.integer(1, 2) if kind == 3 else -1
                text = f"{low}:{high}:{step}" if step > 0 else "::-1"
                terms.append(text)
                shape.append(len(range(n)[low:high:step]) if step > 0 else n)
        return ", ".join(terms), tuple(shape)

    # -- statements

    def step(self) -> None:
        kinds = [
            self.assign, self.assign, self.view, self.view, self.view, self.write, self.write, self.write,
            self.increment,
            self.increment, self.reduce, self.create, self.mask, self.rearrange, self.gather, self.fancy, self.fancy,
            self.function_write, self.function_write, self.out, self.out, self.complex_parts, self.buffer,
            self.filled_list, self.reinterpret,
        ]  # fmt: skip
        if self.depth < 2:
            kinds += [self.python_loop, self.loop, self.cond, self.scan, self.while_loop]
        self.pick(kinds)()

    def shape(self) -> tuple[int, ...]:
        return self.pick(self.variables).shape if self.variables else (3,)

    def assign(self) -> None:
        shape = self.shape()
        text = self.expression(shape)
        v = self.new(shape)
        # adding zeros of the shape keeps the shape known, whatever the operands broadcast to
        self.line(f"{v.name} = np.zeros({shape}) + ({text})" if shape else f"{v.name} = np.sum({text})")
        if not shape:
            self.lines[-1] = f"{self.indent}{v.name} = {text} + 0.0 * np.sum(x)"  # a Python number would be static

    def create(self) -> None:
        shape = self.pick([(2,), (3,), (2, 3), (3, 2), (1, 3)])
        v = self.new(shape)
        self.line(f"{v.name} = {self.pick(['np.zeros', 'np.ones'])}({shape})")

    def reduce(self) -> None:
        arrays = [v for v in self.arrays() if 0 not in v.shape]
        if arrays:
            v = self.pick(arrays)
            kind = self.pick(["sum", "mean", "max", "min", "cumsum", "sort"])
            axis = self.choose.integer(0, len(v.shape) - 1)
            if kind in ("cumsum", "sort"):
                w = self.new(v.shape)
                self.line(f"{w.name} = np.{kind}({v.name}, axis={axis})")
            elif self.chance(50):
                w = self.new(v.shape[:axis] + v.shape[axis + 1 :], frozen=len(v.shape) == 1)
                self.line(f"{w.name} = np.{kind}({v.name}, axis={axis})")
            else:
                w = self.new((), frozen=True)
                self.line(f"{w.name} = {v.name}.{kind}()")

    def rearrange(self) -> None:
        arrays = self.arrays()
        if arrays:
            v = self.pick(arrays)
            axis = self.choose.integer(0, len(v.shape) - 1)
            shape = list(v.shape)
            if self.chance(50):
                shape[axis] *= 2
                w = self.new(tuple(shape))
                self.line(f"{w.name} = np.concatenate([{v.name}, {v.name} * 0.5], axis={axis})")
            else:
                w = self.new(v.shape)
                self.line(f"{w.name} = np.roll({v.name}, 1, axis={axis})")

    def gather(self) -> None:
        arrays = [v for v in self.arrays() if v.shape[0]]
        if arrays:
            v = self.pick(arrays)
            indices = [self.choose.integer(-v.shape[0], v.shape[0] - 1) for _ in range(2)]
            w = self.new((2, *v.shape[1:]))
            self.line(f"{w.name} = {v.name}[{indices}]")

    # -- control flow

    def block(self, head: str, result: tuple[int, ...] | None, params: list[Variable] | None = None) -> None:
        """An indented block of a few statements, the names in it local; `result`: it returns such an array."""
        self.line(head)
        before, indent = list(self.variables), self.indent
        self.indent += "    "
        self.depth += 1
        self.inner += result is not None
        self.variables += params or []
        start = len(self.lines)
        for _ in range(self.choose.integer(0, 3)):
            self.step()
        if result is not None:
            zero = f"np.zeros({result}) + " if result else "0.0 + "
            self.line(f"return {zero}({self.expression(result)})")
        elif len(self.lines) == start:
            self.line("pass")
        self.variables, self.indent = before, indent
        self.depth -= 1
        self.inner -= result is not None

    def python_loop(self) -> None:
        self.block(f"for _ in range({self.choose.integer(0, 3)}):", None)

    def function(self, name: str, result: tuple[int, ...], params: list[Variable]) -> None:
        names = ", ".join(p.name for p in params)
        self.block(f"def {name}({names}):", result, [p for p in params if p.name.startswith("c")])

    def loop(self) -> None:
        shape = self.shape()
        self.count += 1
        name, carry = f"f{self.count}", Variable(f"c{self.count}", shape, frozen=True)
        self.function(name, shape, [Variable("i", ()), carry])
        init = f"np.zeros({shape}) + ({self.operand(shape)})" if shape else f"0.0 + {self.operand(())}"
        v = self.new(shape, frozen=not shape)
        self.line(f"{v.name} = flow.fori_loop(0, {self.choose.integer(0, 4)}, {name}, {init})")

    def cond(self) -> None:
        shape = self.shape()
        self.count += 1
        yes, no = f"t{self.count}", f"e{self.count}"
        self.function(yes, shape, [])
        self.function(no, shape, [])
        tested = self.pick(self.variables).name
        v = self.new(shape, frozen=not shape)
        self.line(f"{v.name} = flow.cond(np.sum({tested}) > {self.pick(['0.25', '-0.6', '2.1'])}, {yes}, {no})")

    def scan(self) -> None:
        arrays = [v for v in self.arrays() if v.shape[0]]
        if not arrays:
            return
        xs, shape = self.pick(arrays), self.shape()
        self.count += 1
        name, carry = f"f{self.count}", Variable(f"c{self.count}", shape, frozen=True)
        item = Variable(f"cx{self.count}", xs.shape[1:], frozen=True)
        self.line(f"def {name}({carry.name}, {item.name}):")
        before = self.lines.pop()
        self.block(before.strip(), shape, [carry, item])
        returned = self.lines.pop().strip().removeprefix("return ")
        self.line(f"    return {returned}, {item.name} * 2")
        init = f"np.zeros({shape}) + ({self.operand(shape)})" if shape else f"0.0 + {self.operand(())}"
        v, w = self.new(shape, frozen=not shape), self.new(xs.shape)
        self.line(f"{v.name}, {w.name} = flow.scan({name}, {init}, {xs.name} * 1.0)")

    def while_loop(self) -> None:
        shape = self.shape()
        self.count += 1
        name, carry = f"f{self.count}", Variable(f"c{self.count}", shape, frozen=True)
        tested = self.pick(self.variables).name
        self.function(f"b{name}", shape, [carry])
        self.line(f"def t{name}(s):")
        self.line(f"    return (s[0] < {self.choose.integer(0, 3)}) & (np.sum({tested}) < {self.pick(['0.9', '3.3'])})")
        init = f"np.zeros({shape}) + ({self.operand(shape)})" if shape else f"0.0 + {self.operand(())}"
        v = self.new(shape, frozen=not shape)
        self.line(f"{v.name} = flow.while_loop(t{name}, lambda s: (s[0] + 1, b{name}(s[1])), (0, {init}))[1]")


def _broadcasts(shape: tuple[int, ...], target: tuple[int, ...]) -> bool:
    if len(shape) > len(target):
        return False
    return all(n in (1, m) for n, m in zip(shape[::-1], target[::-1], strict=False))


@functools.lru_cache(maxsize=64)
def _code(source: str) -> Any:
    return compile(source, "<program>", "exec")


@dataclass
class Program:
    """A program of (x, y), whose source may use a captured array `g`; arguments in these layouts."""

    source: str
    shapes: tuple[tuple[int, ...], ...]
    layouts: tuple[str, ...] = ("C", "C", "C")

    def function(self, flow: Any, captured: np.ndarray | None = None) -> Callable:
        """The program over this control flow."""
        namespace = {"np": np, "flow": flow, "g": captured}
        exec(_code(self.source), namespace)
        return namespace["program"]

    def lifted(self, flow: Any) -> Callable:
        """The program with the captured array as its last argument."""
        namespace = {"np": np, "flow": flow}
        exec(_code(self.source.replace("def program(x, y):", "def program(x, y, g):")), namespace)
        return namespace["program"]

    def arguments(self, seed: int, lanes: int | None = None) -> list[np.ndarray]:
        """x, y and g; with `lanes`, so many of each along a first axis."""
        rng = np.random.default_rng(seed)
        if lanes is None:
            return [laid_out(rng.normal(size=s), k) for s, k in zip(self.shapes, self.layouts, strict=True)]
        return [rng.normal(size=(lanes, *shape)) for shape in self.shapes]


def random_program(choose: Chooser, steps: int = 6) -> Program:
    maker = Maker(choose)
    shapes = (
        maker.pick([(3,), (2, 3), (4,), (1,), (3, 3)]), maker.pick([(), (3,), (3, 2), (2, 2), (2, 1, 3)]),
        maker.pick([(2,), (3,), (2, 3)]),
    )  # fmt: skip
    layouts = tuple(maker.pick(LAYOUTS) for _ in shapes)
    maker.variables = [
        Variable("x", shapes[0]),
        Variable("y", shapes[1], frozen=not shapes[1]),
        Variable("g", shapes[2]),
    ]
    maker.lines.append("    c = g[...]")  # an augmented assignment to a captured name would make it a local one
    maker.variables[2].name = "c"
    for _ in range(choose.integer(1, steps)):
        maker.step()
    names = [maker.pick(maker.variables).name for _ in range(choose.integer(1, 3))]
    source = "\n".join(["def program(x, y):", *maker.lines, f"    return {', '.join(names)},"])
    return Program(source + "\n", shapes, layouts)


# -- running a program in every way


def close(found: Any, expected: Any, what: str, source: str) -> None:
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.shape == expected.shape, f"{what}: shape {found.shape}, not {expected.shape}\n{source}"
    assert found.dtype == expected.dtype, f"{what}: dtype {found.dtype}, not {expected.dtype}\n{source}"
    fits = np.allclose(found, expected, rtol=1e-9, atol=1e-9, equal_nan=True)
    assert fits, f"{what}: {found}, not {expected}\n{source}"


def fresh(given: list[np.ndarray]) -> list[np.ndarray]:
    """Copies of the arguments in the same layouts that share memory where these do."""
    spaces: dict[int, np.ndarray] = {}
    out = []
    for x in given:
        base = x if x.base is None else x.base
        if id(base) not in spaces:
            spaces[id(base)] = base.copy(order="K") if base.size else base.copy()
        space = spaces[id(base)]
        if x is base:
            out.append(space)
            continue
        offset = x.__array_interface__["data"][0] - base.__array_interface__["data"][0]
        start = space.__array_interface__["data"][0] - _first(space)
        out.append(np.ndarray(x.shape, x.dtype, _memory(space), offset + start, x.strides))
    return out


def _first(x: np.ndarray) -> int:
    return np.lib.array_utils.byte_bounds(x)[0]


def _memory(x: np.ndarray) -> np.ndarray:
    return x.T if x.flags.f_contiguous and not x.flags.c_contiguous else x


def check_same(
    run: Callable, given: list[np.ndarray], outputs: Any, final: list[np.ndarray], what: str, source: str
) -> None:
    """What a run returns, and what it leaves in its arguments."""
    own = fresh(given)
    found = run(*own)
    assert len(found) == len(outputs)
    for k, (a, b) in enumerate(zip(found, outputs, strict=True)):
        close(a, b, f"{what}, result {k}", source)
    for k, (a, b) in enumerate(zip(own, final, strict=True)):
        close(a, b, f"{what}, argument {k} afterwards", source)


def eager(plain: Callable, given: list[np.ndarray]) -> tuple[Any, list[np.ndarray]]:
    """NumPy's own results, copied since they may be views, and the arguments after the call."""
    own = fresh(given)
    with np.errstate(all="ignore"):
        outputs = [np.array(o) for o in plain(*own)]
    return outputs, own


def runs_in_numpy(program: Program, given: list[np.ndarray]) -> bool:
    """Few programs store a shape where it does not fit, or into what NumPy holds for read-only."""
    try:
        eager(program.lifted(PlainFlow), given)
    except ValueError:
        return False
    return True


WAYS = ("interpreter", "jit", "captured", "aliased", "vmap", "grad", "functionalize")
COMPILED = WAYS[1:]  # ways that end in machine code, or with NUFUNC_NOJIT=graph in NumPy's functions


def drawn_ways(seed: int, count: int = len(COMPILED)) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Ways for a program, in turn, and which one is compiled: that costs what all others cost without code."""
    ways = tuple(COMPILED[(seed + k) % len(COMPILED)] for k in range(count))
    return ways, ways[:1]


@contextmanager
def _without_code(wanted: bool) -> Iterator[None]:
    """Graphs made inside are run by the interpreter of the IR."""
    before = os.environ.get("NUFUNC_NOJIT")
    if wanted:
        os.environ["NUFUNC_NOJIT"] = "graph"
    try:
        yield
    finally:
        os.environ.pop("NUFUNC_NOJIT", None)
        if before is not None:
            os.environ["NUFUNC_NOJIT"] = before


def check_program(
    program: Program, seed: int, ways: tuple[str, ...] = WAYS, compiled: tuple[str, ...] = COMPILED
) -> None:
    """NumPy eager, the interpreter of the traced graph, the compiled function, lanes under vmap, gradients against
    differences and functionalize agree. Of the `ways`, those in `compiled` run as machine code.
    """
    plain = program.lifted(PlainFlow)
    function = program.lifted(nf)
    given = program.arguments(seed)
    try:
        expected = eager(plain, given)
    except ValueError:  # few programs store a shape where it does not fit, or into what NumPy holds for read-only
        return
    for way in ways:
        with _without_code(way not in compiled):
            if way in RUNS:
                check_same(RUNS[way](program, function, given), given, *expected, way, program.source)
            else:
                CHECKS[way](program, function, plain, seed)
    nf.clear_cache()


def _arrays_of(function: Callable) -> Callable:
    """The function with arrays for results that are numbers, whatever its arguments are."""
    return lambda *values: tuple(np.asarray(o) for o in function(*values))


def _check_traced(program: Program, function: Callable, plain: Callable, seed: int) -> None:
    """The graph with its views and writes, as text, by the interpreter. Its arrays are all in C order: where the
    program's are not, a view may be none there, which the interpreter refuses.
    """
    from nufunc.ir.errors import VerifyError
    from nufunc.ir.interpret import run
    from nufunc.ir.text import parse_graph

    given = program.arguments(seed)
    graph = parse_graph(nf.dump(_arrays_of(function), *given, stage="whole"))
    expected = eager(plain, given)
    try:
        check_same(lambda *a: run(graph, a), [a.copy() for a in given], *expected, "interpreter", program.source)
    except VerifyError as error:
        assert "has no such view" in str(error)  # noqa: PT017


RUNS: dict[str, Callable[..., Callable]] = {
    "jit": lambda program, function, given: nf.jit(function),
    "captured": lambda program, function, given: lambda x, y, g: nf.jit(program.function(nf, g))(x, y),
    "functionalize": lambda program, function, given: nf.functionalize(function),
}


def _check_aliased(program: Program, function: Callable, plain: Callable, seed: int) -> None:
    given = aliases(program, seed)
    try:
        expected = eager(plain, given)
    except ValueError:
        return
    check_same(nf.jit(function), given, *expected, "aliased", program.source)


def _check_lanes(program: Program, function: Callable, plain: Callable, seed: int) -> None:
    lanes = program.arguments(seed + 1, lanes=3)
    runs = [eager(plain, [a[k].copy() for a in lanes]) for k in range(3)]
    outputs = [np.stack(o) for o in zip(*(r[0] for r in runs), strict=True)]
    final = [np.stack(a) for a in zip(*(r[1] for r in runs), strict=True)]
    check_same(nf.vmap(_arrays_of(function)), lanes, outputs, final, "vmap", program.source)


def aliases(program: Program, seed: int) -> list[np.ndarray]:
    """Arguments of the program's shapes that are windows of one piece of memory."""
    rng = np.random.default_rng(seed + 7)
    space = rng.normal(size=24)
    out = []
    for shape in program.shapes:
        size = int(np.prod(shape))
        step = int(rng.integers(1, 3)) if size <= 9 else 1
        start = int(rng.integers(0, 24 - step * (size - 1)))
        window = space[start : start + step * (size - 1) + 1 : step]
        window = window[::-1] if rng.random() < 0.2 else window
        out.append(np.lib.stride_tricks.as_strided(window, shape, _c_strides(shape, window.strides[0])))
    return [
        np.ndarray(x.shape, x.dtype, space, x.__array_interface__["data"][0] - space.ctypes.data, x.strides)
        for x in out
    ]


def _c_strides(shape: tuple[int, ...], step: int) -> tuple[int, ...]:
    return tuple(int(np.prod(shape[k + 1 :])) * step for k in range(len(shape)))


def check_gradient(program: Program, function: Callable, plain: Callable, seed: int) -> None:
    """The gradient of a smooth number of all results and arguments along a direction, where differences from both sides
    agree, that is where the program is smooth.
    """

    def loss_of(f: Callable) -> Callable:
        def loss(x, y, g):
            own = [x.copy(), y + 0.0, g.copy()]
            return sum(np.sum(np.sin(o)) * (1.0 + 0.3 * k) for k, o in enumerate([*f(*own), *own]))

        return loss

    given = program.arguments(seed + 2)
    loss = loss_of(plain)
    rng = np.random.default_rng(seed)
    # in the order of memory of the arguments, which the sum then has as well
    direction = [laid_out(rng.normal(size=x.shape), k) for x, k in zip(given, program.layouts, strict=True)]
    h = 1e-6

    def at(t: float) -> float:
        with np.errstate(all="ignore"):
            return float(loss(*(x + t * d for x, d in zip(given, direction, strict=True))))

    middle, above, below = at(0.0), at(h), at(-h)
    if not np.isfinite([middle, above, below]).all():
        return
    right, left = (above - middle) / h, (middle - below) / h
    scale = 1.0 + abs(right)
    if abs(right - left) > 1e-3 * scale:
        return
    gradients = nf.grad(loss_of(function), argnums=(0, 1, 2))(*given)
    found = sum(float(np.sum(g * d)) for g, d in zip(gradients, direction, strict=True))
    expected = (above - below) / (2 * h)
    assert abs(found - expected) <= 1e-3 * scale, f"gradient: {found}, not {expected}\n{program.source}"


CHECKS: dict[str, Callable[..., None]] = {
    "interpreter": _check_traced, "aliased": _check_aliased, "vmap": _check_lanes, "grad": check_gradient,
}  # fmt: skip
