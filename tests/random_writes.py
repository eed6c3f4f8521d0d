"""Statements of random programs that view and write arrays in every way that NumPy has."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np


class Chooser(Protocol):
    """Where the choices come from: hypothesis, which can shrink them, or a random generator, which is fast."""

    def integer(self, low: int, high: int) -> int: ...


@dataclass
class Variable:
    """A name with its shape; `frozen` if NumPy would refuse a write, or if it is a number."""

    name: str
    shape: tuple[int, ...]
    frozen: bool = False


class Writes:
    """What `Maker` adds to a program besides expressions and control flow. Elements are float64."""

    choose: Chooser
    variables: list[Variable]
    lines: list[str]
    indent: str
    count: int
    inner: int

    # what Maker gives

    def pick(self, items: Any) -> Any:
        raise NotImplementedError

    def chance(self, percent: int) -> bool:
        raise NotImplementedError

    def new(self, shape: tuple[int, ...], frozen: bool = False) -> Variable:
        raise NotImplementedError

    def line(self, text: str) -> None:
        raise NotImplementedError

    def expression(self, shape: tuple[int, ...]) -> str:
        raise NotImplementedError

    def operand(self, shape: tuple[int, ...]) -> str:
        raise NotImplementedError

    def part(self, v: Variable) -> tuple[str, tuple[int, ...]]:
        raise NotImplementedError

    def arrays(self, writable: bool = False) -> list[Variable]:
        return [v for v in self.variables if v.shape and not (writable and v.frozen)]

    def target(self) -> Variable | None:
        """An array to write to, with elements."""
        found = [v for v in self.arrays(writable=True) if 0 not in v.shape]
        return self.pick(found) if found else None

    # -- views

    def view(self) -> None:
        """A view, or where memory lies otherwise a copy, of an array."""
        arrays = self.arrays()
        if not arrays:
            return
        v = self.pick(arrays)
        n, ndim, size = v.name, len(v.shape), math.prod(v.shape)
        axis = self.choose.integer(0, ndim - 1)
        kind = self.choose.integer(0, 16)
        shape, frozen = v.shape, v.frozen
        if kind <= 3:
            index, shape = self.part(v)
            text, frozen = f"{n}[{index}]", frozen or not shape
        elif kind == 4:
            text, shape = self.pick([f"{n}.T", f"np.transpose({n})", f"{n}.swapaxes(0, -1)"]), v.shape[::-1]
            if "swap" in text and ndim > 2:
                shape = (v.shape[-1], *v.shape[1:-1], v.shape[0])
        elif kind == 5:
            text, shape = self.pick([f"{n}.reshape(-1)", f"{n}.ravel()", f"{n}.reshape({size})"]), (size,)
            frozen = frozen and "ravel" not in text
            if not size:
                return
        elif kind == 6:
            order = self.pick("FAK") if self.chance(60) else "C"
            text, shape = f"{n}.ravel(order={order!r})", (size,)
        elif kind == 7:
            text, shape = self.pick([f"np.expand_dims({n}, {axis})", f"{n}[{':, ' * axis}None]"]), (
                *v.shape[:axis], 1, *v.shape[axis:],
            )  # fmt: skip
        elif kind == 8:
            text, shape = f"np.squeeze({n})", tuple(m for m in v.shape if m != 1)
            frozen = frozen or not shape
        elif kind == 9:
            text = self.pick(
                [f"np.flip({n}, {axis})", f"{n}[::-1]", f"{n}.view()", f"{n}[...]", f"np.asarray({n})", f"{n}.real"]
            )
        elif kind == 10:
            text, shape = f"np.moveaxis({n}, {axis}, 0)", (v.shape[axis], *v.shape[:axis], *v.shape[axis + 1 :])
        elif kind == 11 and v.shape[axis] > 1:
            cut = self.choose.integer(1, v.shape[axis] - 1)
            text = f"np.split({n}, [{cut}], axis={axis})[1]"
            shape = (*v.shape[:axis], v.shape[axis] - cut, *v.shape[axis + 1 :])
        elif kind == 12 and ndim >= 2:
            offset = self.choose.integer(-1, 1)
            length = max(min(v.shape[0] + min(offset, 0), v.shape[1] - max(offset, 0)), 0)
            text, shape, frozen = f"np.diagonal({n}, {offset})", (*v.shape[2:], length), True
            if ndim == 2 and v.shape[0] == v.shape[1] and self.chance(50):
                text, shape, frozen = f"np.einsum('ii->i', {n})", (v.shape[0],), v.frozen
        elif kind == 13 and size % 2 == 0 and size:
            text, shape = f"{n}.reshape(2, -1)", (2, size // 2)
        elif kind == 14 and size:
            text, shape = f"{n}.reshape(-1, order='F')", (size,)
        elif kind == 15:
            text, frozen = (
                self.pick([f"{n}.copy()", f"{n}.copy('F')", f"np.array({n}, order='F')", f"np.array({n})"]),
                False,
            )
        else:
            text, shape, frozen = f"np.broadcast_to({n}, {(2, *v.shape)})", (2, *v.shape), True
        if len(shape) > 4 or math.prod(shape) > 200:
            return
        w = self.new(shape, frozen=frozen)
        self.line(f"{w.name} = {text}")

    def complex_parts(self) -> None:
        """Two writable views of one complex array, which changes under them."""
        shape = self.pick([(2,), (3,), (2, 3)])
        self.count += 1
        z = f"z{self.count}"
        re, im = self.new(shape), self.new(shape)
        self.line(f"{z} = np.zeros({shape}, complex)")
        self.line(f"{re.name}, {im.name} = {z}.real, {z}.imag")
        self.line(f"{z}.imag[...] = {self.expression(shape)}")
        if self.chance(60):
            self.line(f"{z} += {self.operand(shape)} + 0.5j")
        self.line(f"{re.name}[...] = {self.expression(shape)}")
        if self.chance(60):
            self.line(f"{z} *= 0.5j")

    def reinterpret(self) -> None:
        """An array whose shape is assigned to, and whose numbers are written as complex ones or as bytes."""
        arrays = [v for v in self.arrays() if 0 not in v.shape]
        if not arrays:
            return
        v = self.pick(arrays)
        size = math.prod(v.shape)
        w = self.new((size,))
        self.line(f"{w.name} = {v.name}.copy()")
        if v.shape[-1] % 2 == 0:
            deed = self.pick(["[...] *= 0.5j", "[..., 0].real = 0.25", "[::-1] += 1j", ".imag += 0.5"])
            self.line(f"{w.name}.view(complex){deed}")
        self.line(f"{w.name}.shape = {self.pick([size, (size,), -1])}")
        if self.chance(40):
            self.line(f"{w.name}.view(np.uint8)[{8 * self.choose.integer(0, size - 1)} :: 8] ^= 0")

    # -- writes

    def write(self) -> None:
        arrays = self.arrays(writable=True)
        if arrays:
            v = self.pick(arrays)
            index, shape = self.part(v)
            self.line(f"{v.name}[{index}] = {self.expression(shape)}")

    def increment(self) -> None:
        arrays = self.arrays(writable=True)
        if arrays:
            v = self.pick(arrays)
            operator = self.pick(["+=", "-=", "*="])
            if self.chance(50):
                # in an inner function, a bare name on the left would be a local one
                target = v.name if not self.inner else f"{v.name}[...]"
                self.line(f"{target} {operator} {self.expression(v.shape)}")
            else:
                index, shape = self.part(v)
                self.line(f"{v.name}[{index}] {operator} {self.expression(shape)}")

    def mask(self) -> None:
        v = self.target()
        if v is None:
            return
        n, limit = v.name, self.pick(["0.3", "0.0", "-0.7"])
        other = self.pick([w.name for w in self.variables if w.shape == v.shape])
        row = f"{n}[{', '.join([':'] + ['0'] * (len(v.shape) - 1))}]"
        forms = [
            f"{n}[{n} > {limit}] = {self.pick(['0.1', '-0.2'])}", f"{n}[{other} > {limit}] *= 0.5",
            f"{n}[{n} > {limit}] = -{n}[{n} > {limit}]", f"{n}[{row} > {limit}] = {self.expression(v.shape[1:])}",
            f"{n}[{row} > {limit}] += 0.25", f"{n}[{other} < {limit}] = {other}[{other} < {limit}] * 0.5",
            f"{n}[..., {n}.reshape(-1)[:{v.shape[-1]}] > {limit}] = 0.75",
            f"np.place({n}, {n} > {limit}, [0.5, -0.25, 1.5])",
            f"np.putmask({n}, {n} > {limit}, {self.operand(v.shape)})",
            f"np.copyto({n}, {self.expression(v.shape)}, where={other} > {limit})",
            f"np.add({n}, {self.operand(v.shape)}, out={n}, where={other} > {limit})",
            f"np.sin({n}, out={n}, where={row} > {limit})" if len(v.shape) == 1 else f"np.sin({n}, out={n})",
            f"{n}[np.arange({v.shape[0]}) % 2 == 0] = {self.expression(v.shape[1:])}",
        ]  # fmt: skip
        self.line(self.pick(forms))

    def fancy(self) -> None:
        """Index arrays on the left."""
        v = self.target()
        if v is None:
            return
        n, first = v.name, v.shape[0]
        rows = [self.choose.integer(-first, first - 1) for _ in range(2)]
        last = [self.choose.integer(0, v.shape[-1] - 1) for _ in range(2)]
        forms = [
            f"{n}[{rows}] = {self.expression((2, *v.shape[1:]))}", f"{n}[{rows}] += {self.expression(v.shape[1:])}",
            f"{n}[..., {last}] = {self.expression((*v.shape[:-1], 2))}", f"{n}[{rows[0]}] = {n}[{rows[1]}] * 0.5",
            f"{n}[np.array({rows})] *= 0.5", f"np.add.at({n}, {rows}, {self.expression(v.shape[1:])})",
            f"np.subtract.at({n}, (..., {last}), 0.5)", f"np.multiply.at({n}, {rows}, {self.expression(v.shape[1:])})",
            f"np.maximum.at({n}, {rows}, 0.25)",
            f"{n}[np.ix_({rows[:1]}, {last})] = 0.5" if len(v.shape) == 2 else f"{n}[0] = 0.5",
            f"{n}[{rows}, {last}] = [0.5, -0.5]" if len(v.shape) == 2 else f"{n}[-1] *= 2",
            f"{n}[{rows}] = {n}[{rows[::-1]}]",
            f"k = np.argmax({n}.reshape(-1)) % {first}; {n}[k] = {self.expression(v.shape[1:])}",
            f"k = np.argmin({n}.reshape(-1)) % {first}; {n}[k] += 0.5",
        ]  # fmt: skip
        self.line(self.pick(forms))

    def function_write(self) -> None:
        """Functions and methods that write."""
        v = self.target()
        if v is None:
            return
        n, size, axis = v.name, math.prod(v.shape), self.choose.integer(0, len(v.shape) - 1)
        places = [self.choose.integer(-size, size - 1) for _ in range(3)]
        forms = [
            f"{n}.fill({self.operand(())})", f"{n}.sort(axis={axis})", f"np.put({n}, {places}, [0.5, -1.0])",
            f"np.copyto({n}, {self.expression(v.shape)})", f"{n}.flat[{places[0]}] = {self.expression(())}",
            f"{n}.flat[::2] = [1.5, 0.5]",
            f"np.put_along_axis({n}, np.argmax({n}, axis={axis}, keepdims=True), 0.5, axis={axis})",
            f"{n}[...] = {n}[::-1]", f"{n}.flat = {self.expression(v.shape[-1:])}", f"{n}.put({places[:2]}, 0.25)",
            f"{n}.partition({v.shape[-1] - 1}, axis=-1); {n}.sort(axis=-1)",
            f"{n}[0], {n}[-1] = {n}[-1].copy(), {n}[0].copy()", f"{n}.real = {self.expression(v.shape)}",
        ]  # fmt: skip
        if len(v.shape) == 2:
            forms += [f"np.fill_diagonal({n}, {self.operand(())})", f"np.fill_diagonal({n}, [0.5, 0.25])"]
        self.line(self.pick(forms))

    def out(self) -> None:
        """out= of ufuncs and functions, often onto what is read."""
        v = self.target()
        if v is None:
            return
        n, shape = v.name, v.shape
        a, b = f"({self.operand(shape)})", f"({self.operand(shape)})"
        forms = [
            f"np.add({a}, {b}, out={n})", f"np.sin({a}, out={n})", f"np.multiply({n}, {a}, out={n})",
            f"np.subtract({a}, {n}, {n})", f"np.clip({n}, -1, 1, out={n})", f"np.cumsum({n}, axis=0, out={n})",
            f"np.maximum({a}, {n}, out={n})", f"np.tanh({n}[::-1], out={n})", f"np.add({n}, {n}[::-1], out={n})",
            f"np.add({n}[1:], {n}[:-1], out={n}[1:])", f"np.negative({n}[:-1], out={n}[1:])",
            f"np.mean({n}, axis=0, out={n}[0])" if len(shape) > 1 else f"np.square({n}, out={n})",
            f"np.concatenate([{n}[1:] * 1.0, {n}[:1] * 1.0], axis=0, out={n})", f"np.divide({n}, 2.0, out={n})",
        ]  # fmt: skip
        self.line(self.pick(forms))

    def buffer(self) -> None:
        """A buffer that a Python loop fills, as people write it."""
        arrays = [v for v in self.arrays() if 0 not in v.shape]
        if not arrays:
            return
        v = self.pick(arrays)
        made = self.pick([
            f"np.zeros_like({v.name})", f"np.empty({v.shape})", f"np.zeros({v.shape}, order='F')",
            f"np.full({v.shape}, 0.5)",
            f"np.ones_like({v.name}, order='F')",
        ])  # fmt: skip
        row = self.expression(v.shape[1:])
        w = self.new(v.shape)
        self.line(f"{w.name} = {made}")
        self.line(f"for i in range({v.shape[0]}):")
        self.line(f"    {w.name}[i] = {v.name}[i] * 0.5 + ({row})")
        if self.chance(40):
            self.line(f"    {w.name}[i - 1] += {w.name}[i] * 0.25")

    def filled_list(self) -> None:
        arrays = [v for v in self.arrays() if 0 not in v.shape and len(v.shape) < 3]
        if not arrays:
            return
        v = self.pick(arrays)
        w = self.new(v.shape)
        join = self.pick(["np.array", "np.stack"])
        self.line(f"{w.name} = {join}([{v.name}[i] * {self.pick(['0.5', '1.0'])} for i in range({v.shape[0]})])")


LAYOUTS = ("C", "C", "C", "F", "strided", "reversed", "swapped")


def laid_out(values: np.ndarray, layout: str) -> np.ndarray:
    """These values in an array of this layout of memory."""
    if not values.ndim or layout == "C":
        return values.copy()
    if layout == "F":
        return np.asfortranarray(values)
    if layout == "strided":
        space = np.zeros((*values.shape[:-1], 2 * values.shape[-1]))
        space[..., ::2] = values
        return space[..., ::2]
    if layout == "reversed":
        return values[::-1].copy()[::-1]
    return values.swapaxes(0, -1).copy().swapaxes(0, -1)
