"""Random programs of Python's own control flow over a few scalars: plain Python says what they compute."""

import linecache
from collections.abc import Callable
from typing import Any

import numpy as np
from random_programs import Chooser, RandomChooser

import nufunc as nf

NUMBERS = ("a", "b", "c")
ARRAYS = ("u", "v", "w")
LANES = 6
# What is refused rather than guessed: which memory a name stands for.
REFUSED = ("may share its memory", "writes in place to the array")


class _Writer:
    """The source of a function `program(a, b, n, u)`: numbers a, b, c, counters of loops, a traced count n, and arrays
    u, v and w, which may come to share memory.
    """

    def __init__(self, choose: Chooser) -> None:
        self.choose = choose
        self.lines = ["def program(a, b, n, u):", "    c = 0", "    v = np.zeros(3)", "    w = u * 0.5"]
        self.counters: list[str] = []
        self.made = 0
        self.budget = 14
        self.block(1, 0, 4)
        self.line(1, "return a + 2 * b + 4 * c + (np.stack([u, v, w]) * np.array([[1.0, 3.0, 5.0], [7.0, 11.0, 13.0],")
        self.line(1, "                                                                  [17.0, 19.0, 23.0]])).sum()")

    def line(self, depth: int, text: str) -> None:
        self.lines.append("    " * depth + text)

    def pick(self, items: Any) -> Any:
        return items[self.choose.integer(0, len(items) - 1)]

    # -- expressions

    def number(self, level: int = 0) -> str:
        kind = self.choose.integer(0, 10 if level < 2 else 3)
        if kind < 3:
            return self.pick(NUMBERS)
        if kind == 3:
            return self.pick(("0.5", "1.25", "-0.75", "2", *self.counters[-2:]))
        if kind < 7:
            left, right = self.number(level + 1), self.number(level + 1)
            return self.pick((f"({left} + {right})", f"({left} - {right})", f"(0.5 * {left} + 0.25 * {right})"))
        if kind == 7:
            return f"({self.number(level + 1)} if {self.condition(level + 1)} else {self.number(level + 1)})"
        if kind == 8:
            return f"helper({self.number(level + 1)})"
        if kind == 9:
            return self.pick((f"{self.pick(ARRAYS)}[{self.index()}]", f"{self.pick(ARRAYS)}.sum()"))
        return f"abs({self.number(level + 1)})"

    def index(self) -> str:
        return self.pick(("0", "1", "2", "-1", *(f"{k} % 3" for k in self.counters[-2:])))

    def array(self) -> str:
        x, y = self.pick(ARRAYS), self.pick(ARRAYS)
        return self.pick((x, x, f"{x}[::-1]", f"{x}.copy()", f"0.5 * {x} + {self.number(2)}", f"{x} - 0.5 * {y}"))

    def condition(self, level: int = 0) -> str:
        kind = self.choose.integer(0, 7 if level < 2 else 2)
        left, right = self.number(2), self.number(2)
        if kind < 3:
            return f"{left} {self.pick(('<', '>', '<=', '>='))} {right}"
        if kind == 3:
            return f"{left} < {right} < {self.number(2)} + 1"
        if kind == 4:
            return f"not ({self.condition(level + 1)})"
        if kind == 5 and self.counters:
            return f"{self.counters[-1]} % 2 == {self.choose.integer(0, 1)}"
        return f"({self.condition(level + 1)} {self.pick(('and', 'or'))} {self.condition(level + 1)})"

    # -- statements

    def block(self, depth: int, loops: int, most: int) -> None:
        for _ in range(self.choose.integer(1, most)):
            self.statement(depth, loops)

    def statement(self, depth: int, loops: int) -> None:
        self.budget -= 1
        kind = self.choose.integer(0, 12) if self.budget > 0 and depth < 6 else self.choose.integer(0, 3)
        name = self.pick(NUMBERS)
        if kind in (1, 12):
            self.line(depth, f"{self.pick(ARRAYS)} = {self.array()}")
        elif kind < 2:
            self.line(depth, f"{name} = {self.number()}")
        elif kind == 2:
            self.line(depth, f"{name} {self.pick(('+=', '-='))} {self.number(1)}")
        elif kind == 3:
            self.in_place(depth)
        elif kind < 7:
            self.branch(depth, loops)
        elif kind < 9 and loops < 3:
            self.loop(depth, loops)
        elif kind < 11 and loops:
            self.line(depth, f"if {self.condition()}:")
            self.line(depth + 1, self.pick(("break", "continue", "break", f"return {name} - 1")))
        else:
            self.line(depth, f"if {self.condition()}:")
            self.line(depth + 1, f"return {self.number()}")

    def in_place(self, depth: int) -> None:
        target = self.pick(ARRAYS)
        if self.choose.integer(0, 2):
            target = f"{target}[{self.pick((self.index(), self.index(), '1:', ':2'))}]"
        operator = "+=" if "[" not in target else self.pick(("=", "+="))
        self.line(depth, f"{target} {operator} {self.number(1)}")

    def branch(self, depth: int, loops: int) -> None:
        self.line(depth, f"if {self.condition()}:")
        self.block(depth + 1, loops, 2)
        if self.choose.integer(0, 2) == 0:
            self.line(depth, f"elif {self.condition()}:")
            self.block(depth + 1, loops, 2)
        if self.choose.integer(0, 1):
            self.line(depth, "else:")
            self.block(depth + 1, loops, 2)

    def loop(self, depth: int, loops: int) -> None:
        self.made += 1
        counter = f"k{self.made}"
        if self.choose.integer(0, 1):
            counted = self.pick(("range(4)", "range(n)", "range(1, n, 2)", "range(3, 0, -1)"))
            arrays = self.pick(ARRAYS), self.pick(ARRAYS)
            head = self.pick((
                f"{counter} in {counted}",
                f"{counter} in {counted}",
                f"{counter}, {self.pick(NUMBERS)} in enumerate({arrays[0]})",
                f"{counter}, (a, c) in enumerate(zip({arrays[0]}, {arrays[1]}))",
            ))
            self.line(depth, f"for {head}:")
        else:
            self.line(depth, f"{counter} = 0")
            self.line(depth, f"while {counter} < {self.choose.integer(2, 5)} and {self.condition()}:")
            self.line(depth + 1, f"{counter} += 1")
        self.counters.append(counter)
        self.block(depth + 1, loops + 1, 3)
        self.counters.pop()
        if self.choose.integer(0, 3) == 0:
            self.line(depth, "else:")
            self.block(depth + 1, loops, 2)


_HELPER = """

def helper(x):
    k = 0
    while abs(x) > 2:
        x = x * 0.5
        k += 1
        if k > 3:
            return -x
    return x
"""


def staging_program(seed: int) -> tuple[str, Callable[..., Any]]:
    """The source of a random program, and the function."""
    source = "\n".join(_Writer(RandomChooser(seed)).lines) + _HELPER
    filename = f"<staging program {seed}>"
    linecache.cache[filename] = (len(source), None, source.splitlines(True), filename)
    namespace: dict[str, Any] = {"np": np, "__name__": "staging_program"}
    exec(compile(source, filename, "exec"), namespace)
    return source, namespace["program"]


def check_staging_program(seed: int) -> bool:
    """Plain Python, the compiled function and vmap agree on every lane, also on what becomes of the given array.

    False if the program is refused since a name may stand for one memory or another.
    """
    source, program = staging_program(seed)
    rng = np.random.default_rng(seed)
    a, b = rng.normal(0, 2, (2, LANES)).round(3)
    n, u = rng.integers(0, 5, LANES), rng.normal(0, 1, (LANES, 3)).round(3)
    pythons, ours = u.copy(), u.copy()
    expected = np.array([float(program(*lane)) for lane in zip(a, b, n, pythons, strict=True)])
    try:
        compiled = nf.jit(program)
        found = np.array([float(compiled(*lane)) for lane in zip(a, b, n, ours, strict=True)])
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9, err_msg="jit")
        np.testing.assert_allclose(ours, pythons, rtol=1e-9, atol=1e-9, err_msg="the argument")
        lanes = nf.vmap(lambda a, b, n, u: program(a, b, n, u.copy()) + 0 * a)(a, b, n, u)  # an array in any case
        np.testing.assert_allclose(lanes, expected, rtol=1e-9, atol=1e-9, err_msg="vmap")
    except nf.TraceError as error:
        if any(words in str(error) for words in REFUSED):
            return False
        print(source)
        raise
    except Exception:
        print(source)
        raise
    return True
