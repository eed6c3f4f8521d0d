"""Random differentiable programs of nested control flow, and their derivatives against differences of plain Python.

A program is the source of `program(flow, x)`, from three numbers to three numbers. What a run branches on is
recorded, so that differences are only taken where all points of a stencil take the same path.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from control_samples import Plain
from random_programs import Chooser, RandomChooser

import nufunc as nf

LONG = np.longdouble


class Recorded(Plain):
    """Plain control flow that keeps what was branched on."""

    def __init__(self) -> None:
        self.path: list[bool] = []

    def cond(self, pred: Any, true_fun: Callable, false_fun: Callable, *operands: Any) -> Any:  # type: ignore[override]
        self.path.append(bool(pred))
        return true_fun(*operands) if pred else false_fun(*operands)

    def fori_loop(self, lower: Any, upper: Any, body: Callable, init: Any) -> Any:  # type: ignore[override]
        self.path.append(bool(upper > lower))
        return Plain.fori_loop(int(lower), int(upper), body, init)

    def while_loop(self, test: Callable, body: Callable, init: Any) -> Any:  # type: ignore[override]
        while True:
            self.path.append(bool(test(init)))
            if not self.path[-1]:
                return init
            init = body(init)


@dataclass
class Maker:
    choose: Chooser
    lines: list[str] = field(default_factory=list)
    indent: int = 1
    count: int = 0

    def pick(self, items: list) -> Any:
        return items[self.choose.integer(0, len(items) - 1)]

    def line(self, text: str) -> None:
        self.lines.append("    " * self.indent + text)

    def name(self, letter: str) -> str:
        self.count += 1
        return f"{letter}{self.count}"

    def expression(self, names: list[str]) -> str:
        a, b = self.pick(names), self.pick(names)
        return self.pick([
            "np.sin({a} + {b})", "0.5 * {a} * {b}", "np.tanh({a}) + 0.3 * x", "{a} * 0.7 - 0.2 * {b}",
            "np.cos({a}) * {b}", "0.6 * ({a} + np.sum({b}) / 3)", "{a} / (1.5 + np.cos({b}))",
            "np.exp(-{a} * {a}) * {b}",
            "{a}[::-1] * 0.8", "MATRIX @ {a}", "np.where({a} > 0.2, np.tanh(({a} - 0.2) ** 3), 0.0 * {b})",
        ]).format(a=a, b=b)  # fmt: skip

    def block(self, names: list[str], depth: int) -> str:
        """Statements over arrays of these names; gives the name of the last one."""
        names = list(names)
        for _ in range(self.choose.integer(1, 3)):
            kinds = [self.assign, self.assign]
            if depth:
                kinds += [self.while_loop, self.while_loop, self.dynamic, self.fori, self.scan, self.cond]
                kinds += [self.checkpoint, self.map]
            names.append(self.pick(kinds)(names, depth))
        return names[-1]

    def function(self, head: str, names: list[str], depth: int, result: str) -> None:
        self.line(head)
        self.indent += 1
        last = self.block(names, depth - 1)
        self.line(f"return {result.format(last)}")
        self.indent -= 1

    def assign(self, names: list[str], depth: int) -> str:
        v = self.name("v")
        self.line(f"{v} = {self.expression(names)}")
        return v

    def while_loop(self, names: list[str], depth: int) -> str:
        """Stops at a bound or when the data says so; integers and several arrays are carried."""
        v, f, c, d = (self.name(letter) for letter in "vfcd")
        self.function(f"def {f}(i, {c}, {d}):", [*names, c, d], depth, f"i + 1, {{}} * 0.9, 0.5 * {d} + {c}")
        tested, limit = self.pick([c, d, self.pick(names)]), self.choose.integer(0, 4)
        start, other = self.pick(names), self.pick(names)
        test = f"(i < {limit}) & (np.sum({tested}) < {self.pick(['0.31', '1.7', '9.9'])})"
        self.line(f"{f}t = lambda i, {c}, {d}: {test}")
        self.line(f"{v} = flow.while_loop(lambda s: {f}t(*s), lambda s: {f}(*s), (0, {start}, {other}))")
        self.line(f"{v} = {v}[1] + 0.5 * {v}[2]")
        return v

    def dynamic(self, names: list[str], depth: int) -> str:
        v, f, c = (self.name(letter) for letter in "vfc")
        self.function(f"def {f}(i, {c}):", [*names, c], depth, "{} * 0.8 + 0.05 * i")
        low, high = self.choose.integer(0, 1), self.choose.integer(0, 4)
        bound = f"(np.sum(x) > 0.4) * {high}"
        self.line(f"{v} = flow.fori_loop({low}, {bound}, {f}, {self.pick(names)})")
        return v

    def fori(self, names: list[str], depth: int) -> str:
        v, f, c = (self.name(letter) for letter in "vfc")
        self.function(f"def {f}(i, {c}):", [*names, c], depth, "{} * 0.8 + 0.05 * i")
        self.line(f"{v} = flow.fori_loop(0, {self.choose.integer(0, 5)}, {f}, {self.pick(names)})")
        return v

    def scan(self, names: list[str], depth: int) -> str:
        v, f, c, z, y = (self.name(letter) for letter in "vfczy")
        self.function(f"def {f}({c}, {z}):", [*names, c], depth, f"({{}} * {z}, np.sum({c}))")
        reverse = self.pick([True, False])
        self.line(f"{v}, {y} = flow.scan({f}, {self.pick(names)}, {self.pick(names)}, reverse={reverse})")
        self.line(f"{v} = {v} + 0.2 * {y}")
        return v

    def map(self, names: list[str], depth: int) -> str:
        v, f, z = (self.name(letter) for letter in "vfz")
        self.function(f"def {f}({z}):", names, depth, f"np.sum({{}}) * 0.3 + {z}")
        self.line(f"{v} = flow.map({f}, {self.pick(names)})")
        return v

    def cond(self, names: list[str], depth: int) -> str:
        v, f, g = (self.name(letter) for letter in "vfg")
        self.function(f"def {f}():", names, depth, "{}")
        self.function(f"def {g}():", names, depth, "{} * 0.4")
        self.line(f"{v} = flow.cond(np.sum({self.pick(names)}) > {self.pick(['0.21', '1.3'])}, {f}, {g})")
        return v

    def checkpoint(self, names: list[str], depth: int) -> str:
        v, f, c = (self.name(letter) for letter in "vfc")
        self.function(f"def {f}({c}):", [*names, c], depth, "{}")
        policy = self.pick(["None", "'sqrt'", "('a',)"])
        self.line(f"{v} = flow.checkpoint({f}, {policy})(flow.checkpoint_name({self.pick(names)}, 'a'))")
        return v


def random_source(choose: Chooser, depth: int = 3) -> str:
    maker = Maker(choose)
    last = maker.block(["x"], depth)
    return "\n".join(["def program(flow, x):", *maker.lines, f"    return {last}", ""])


def program_of(source: str) -> Callable:
    from control_samples import MATRIX

    namespace = {"np": np, "MATRIX": MATRIX}
    exec(compile(source, "<program>", "exec"), namespace)
    return namespace["program"]  # type: ignore[return-value]


def _weighted(y: Any) -> Any:
    return np.sum(y * np.array([1.0, -0.5, 2.0]))


def differences(f: Callable, x: np.ndarray, direction: np.ndarray, step: Any) -> tuple[np.ndarray, Any]:
    """The gradient, and the second derivative in a direction, by differences of the sixth order."""
    odd = lambda e, k: f(x + k * step * e) - f(x - k * step * e)
    even = lambda k: f(x + k * step * direction) + f(x - k * step * direction)
    gradient = [(45 * odd(e, 1) - 9 * odd(e, 2) + odd(e, 3)) / (60 * step) for e in np.eye(3)]
    return np.array(gradient), (2 * even(3) - 27 * even(2) + 270 * even(1) - 490 * f(x)) / (180 * step**2)


def _agree(a: Any, b: Any) -> bool:
    return bool(np.all(np.abs(a - b) <= 1e-6 * (1 + np.max(np.abs(b)))))


def check_derivatives(source: str, seed: int) -> bool:
    """Value, gradient, lanes, and the second derivative in a direction; False where the path is not stable."""
    program, rng = program_of(source), np.random.default_rng(seed)
    lanes, direction = rng.normal(size=(2, 3)), rng.normal(size=3)
    paths: set[tuple[bool, ...]] = set()

    def plain(x: np.ndarray) -> Any:
        flow = Recorded()
        with np.errstate(all="ignore"):
            value = _weighted(program(flow, x.astype(LONG)))
        paths.add(tuple(flow.path))
        return value

    ours = lambda x: _weighted(program(nf, x))
    gradients = []
    for x in lanes:
        estimates = [differences(plain, x, direction, LONG(step)) for step in (1e-3, 5e-4)]
        if len(paths) > 1 or not all(_agree(a, b) for a, b in zip(*estimates, strict=True)):
            return False
        paths.clear()
        expected, bend = estimates[1]
        gradients.append(expected)
        value, gradient = nf.value_and_grad(ours)(x)
        _near(value, plain(x), "value", source)
        _near(gradient, expected, "gradient", source)
        slope = lambda x: nf.jvp(ours, (x,), (direction,))[1]
        _near(nf.jvp(nf.grad(ours), (x,), (direction,))[1] @ direction, bend, "jvp of grad", source)
        _near(nf.grad(slope)(x) @ direction, bend, "grad of jvp", source)
        _near(nf.grad(lambda x: nf.grad(ours)(x) @ direction)(x) @ direction, bend, "grad of grad", source)
        paths.clear()
    _near(nf.vmap(nf.grad(ours))(lanes), np.stack(gradients), "vmap of grad", source)
    _near(nf.grad(lambda v: np.sum(nf.vmap(ours)(v)))(lanes), np.stack(gradients), "grad of vmap", source)
    return True


def _near(found: Any, expected: Any, what: str, source: str) -> None:
    found, expected = np.asarray(found), np.asarray(expected, float)
    scale = 1 + float(np.abs(expected).max(initial=0))
    assert np.allclose(found, expected, rtol=1e-5, atol=1e-5 * scale), f"{what}: {found}, not {expected}\n{source}"


def fuzz_loops(seed: int) -> None:
    """One program with its derivatives."""
    check_derivatives(random_source(RandomChooser(seed)), seed)
