"""Convolutions before code is generated: those that products and loops do better become these, the others normal.

What stays a `conv` is of floats, has stride 1 along axes whose input is spread, and has the letters of the window
last in its result. Else a spread input is taken apart into one convolution per residue of the result's index. A kernel
of one element is a product; without channels to sum over or to choose from (a depthwise convolution), and for other
dtypes, a convolution is a sum over the kernel, or one element of the result after the other where these are fewer.
Two long lines are no such sum, which would have thousands of terms: neighbours in the result become channels, complex
numbers real ones, and ints go through a loop. Halves, which only devices still have here, become float32 where they are
added up by loops.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from nufunc.ir import primitive
from nufunc.ir.builder import Builder
from nufunc.ir.graph import Attrs, Graph, Node, Value
from nufunc.ir.prims.conv import NUMBERS_OF_WINDOW
from nufunc.ir.types import FLOAT32, INT64, ArrayType, is_float, is_half
from nufunc.passes.rewrite import rewritten

THIN = 64  # steps up to which a convolution without channels is written out
_FRAME_BYTES = 256  # of the result that tiles compute side by side where there are no channels
_AT_ONCE = 8  # elements of a kernel of ints that a round of its loop takes


def normal_convolutions(graph: Graph) -> Graph:
    """The graph with its convolutions in normal form or rewritten; regions are left to whoever visits them."""
    if not any(n.prim == "conv" for n in graph.nodes):
        return graph

    fulls = {n.result: n.attrs["value"] for n in graph.nodes if n.prim == "full"}

    def rule(b: Builder, node: Node, operands: Sequence[Value]) -> Sequence[Value] | None:
        if node.prim != "conv":
            return None
        (x, w), sums = operands, fulls.get(node.operands[1]) == 1 and set(node.attrs["w"]) == set(node.attrs["window"])
        return [convolution(b, x, w, node.attrs, sums)]

    return rewritten(graph, rule)


def convolution(b: Builder, x: Value, w: Value, attrs: Attrs, sums: bool = False) -> Value:
    """A convolution as what code is generated for; one that `sums` has a kernel of ones, and no channels."""
    kernel, extent = _kernel(w, attrs), attrs["extent"]
    (result,) = primitive.get("conv").infer((x.type, w.type), attrs, ())
    if 0 in (result.size, x.type.size, w.type.size):
        return b.zeros(result)
    steps = min(math.prod(kernel), math.prod(extent))
    # a product, unless tiles can go through the channels of x, which a product of several axes would copy
    last = [n for n in attrs["out"] if n not in attrs["window"]][-1:]
    once = math.prod(kernel) == 1 or not last or last[0] in attrs["w"] or last[0] not in attrs["x"]
    loops = not is_float(x.dtype) or (steps <= THIN and _is_thin(x, w, attrs))
    spread = [a for a, spread in enumerate(attrs["spread"]) if spread != 1]
    apart = next((a for a in spread if loops or attrs["stride"][a] != 1), None)
    line = steps > THIN and not sums and _is_line(x, w, attrs)
    if steps == 1 and once:
        return by_steps(b, x, w, attrs, sums)
    if is_half(x.dtype) and (loops or line or apart is not None):
        return b.astype(convolution(b, b.astype(x, FLOAT32), b.astype(w, FLOAT32), attrs, sums), x.dtype)
    if apart is not None:
        return _by_residues(b, x, w, attrs, result, apart, sums)
    if line and x.dtype.kind == "c":
        return _by_parts(b, x, w, attrs)
    if line and x.dtype.kind in "iu":
        return _by_loop(b, x, w, attrs)
    if loops:
        return by_steps(b, x, w, attrs, sums)
    return _in_frames(b, x, w, attrs) if line else _last(b, x, w, attrs)


def _kernel(w: Value, attrs: Attrs) -> tuple[int, ...]:
    return tuple(w.shape[attrs["w"].index(letter)] for letter in attrs["window"])


def _is_thin(x: Value, w: Value, attrs: Attrs) -> bool:
    """Whether each step multiplies elements alone: no channels to sum over, or to choose from, within a group."""
    extents = {**dict(zip(attrs["x"], x.shape, strict=True)), **dict(zip(attrs["w"], w.shape, strict=True))}
    kept = attrs["w"] if math.prod(_kernel(w, attrs)) <= math.prod(attrs["extent"]) else attrs["out"]
    groups = {*attrs["x"]} & {*attrs["w"]} & {*attrs["out"]}
    return all(extents[n] == 1 for n in kept if n not in groups)


def _last(b: Builder, x: Value, w: Value, attrs: Attrs) -> Value:
    """With the window last in the result, in the order that it has there."""
    window = "".join(letter for letter in attrs["out"] if letter in attrs["window"])
    order = [attrs["window"].index(letter) for letter in window]
    numbers = {name: tuple(attrs[name][k] for k in order) for name in NUMBERS_OF_WINDOW}
    out = "".join(letter for letter in attrs["out"] if letter not in window) + window
    (made,) = b.emit("conv", (x, w), {"x": attrs["x"], "w": attrs["w"], "out": out, "window": window, **numbers})
    return b.transposed(made, [out.index(letter) for letter in attrs["out"]])


# -- long lines with long kernels


def _is_line(x: Value, w: Value, attrs: Attrs) -> bool:
    """Whether two lines are convolved as numpy.convolve and numpy.correlate do."""
    return x.ndim == w.ndim == 1 and attrs["stride"] == attrs["spread"] == (1,) and abs(attrs["dilation"][0]) == 1


def _forward(b: Builder, w: Value, attrs: Attrs) -> tuple[Value, int]:
    """The kernel in the direction of x, and the offset that goes with it."""
    if attrs["dilation"][0] == 1:
        return w, attrs["offset"][0]
    return b.flip(w, axes=(0,)), attrs["offset"][0] + w.shape[0] - 1


def _in_frames(b: Builder, x: Value, w: Value, attrs: Attrs) -> Value:
    """Lanes for tiles, which are channels: neighbouring elements of the result are channels of one that takes as many
    steps at once, by the kernel at as many places in rows that are longer by these."""
    kernel, offset = _forward(b, w, attrs)
    (n,), frame = attrs["extent"], _FRAME_BYTES // x.dtype.itemsize
    width, frames = kernel.shape[0] + frame - 1, -(-n // frame)
    long = padded(b, kernel, 0, 0, frame)  # each row is one behind the row before, as it is one too long
    rows = b.emit("broadcast", (long,), {"shape": (frame, width + 1), "dims": (1,)})[0]
    rows = b.reshaped(cut(b, b.reshaped(rows, (frame * (width + 1),)), 0, 0, frame * width, 1), (frame, width))
    (made,) = b.emit(
        "conv", (x, rows),
        {"x": "x", "w": "ox", "out": "ox", "window": "x", "stride": (frame,), "dilation": (1,), "spread": (1,),
         "offset": (offset,), "extent": (frames,)},
    )  # fmt: skip
    return cut(b, b.reshaped(b.transposed(made, (1, 0)), (frame * frames,)), 0, 0, n, 1)


def _by_parts(b: Builder, x: Value, w: Value, attrs: Attrs) -> Value:
    """Of complex numbers: by their parts."""
    (a, c), (p, q) = ((b.real(v), b.imag(v)) for v in (x, w))
    each = lambda left, right: convolution(b, left, right, attrs)
    return b.complex(b.sub(each(a, p), each(c, q)), b.add(each(a, q), each(c, p)))


def _by_loop(b: Builder, x: Value, w: Value, attrs: Attrs) -> Value:
    """Of ints: a loop over the kernel, some elements at a time."""
    kernel, offset = _forward(b, w, attrs)
    (n,), rounds = attrs["extent"], -(-kernel.shape[0] // _AT_ONCE)
    whole = rounds * _AT_ONCE
    seen = _line(b, x, 0, -offset, 1, n + whole - 1, 1)
    items = b.reshaped(padded(b, kernel, 0, 0, whole - kernel.shape[0]), (rounds, _AT_ONCE))
    inner = Builder("convolution")
    types = (seen.type, x.type.with_shape((n,)), ArrayType((), INT64), items.type.with_shape((_AT_ONCE,)))
    given, total, turn, item = (inner.param(t) for t in types)
    first = inner.mul(turn, inner.like(turn, _AT_ONCE))
    for k in range(_AT_ONCE):
        part = inner.dynamic_slice(given, inner.add(first, inner.like(first, k)), sizes=(n,))
        weight = inner.reshaped(_one(inner, item, 0, k), ())
        total = inner.add(total, inner.mul(part, inner.emit("broadcast", (weight,), {"shape": (n,), "dims": ()})[0]))
    turns = b.iota(shape=(rounds,), dtype=INT64, axis=0)
    start = b.zeros(x.type.with_shape((n,)))
    how = {"length": rounds, "reverse": False, "num_consts": 1, "num_carry": 1}
    return b.emit("scan", (seen, start, turns, items), how, [inner.build([total])])[0]


# -- one step after the other


def by_steps(b: Builder, x: Value, w: Value, attrs: Attrs, sums: bool = False) -> Value:
    """The sum of products of slices over the elements of the kernel; or each element of the result, and their stack."""
    window, kernel = attrs["window"], _kernel(w, attrs)
    by_kernel = math.prod(kernel) <= math.prod(attrs["extent"])
    fixed, steps = ("w", kernel) if by_kernel else ("out", attrs["extent"])
    names = {n: attrs[n] for n in ("x", "w", "out")}
    names[fixed] = "".join(letter for letter in names[fixed] if letter not in window)
    parts = []
    for place in itertools.product(*(range(n) for n in steps)):
        seen, other = _met(b, x, w, attrs, kernel, place, by_kernel)
        if sums and by_kernel:
            parts.append(b.transposed(seen, [names["x"].index(letter) for letter in names["out"]]))
        else:
            parts.append(_contracted(b, seen, other, names))
    if by_kernel:
        total = parts[0]
        for part in parts[1:]:
            total = b.add(total, part)
        return total
    rest = parts[0].shape
    whole = b.concat(*(b.reshaped(p, (1, *rest)) for p in parts), axis=0) if len(parts) > 1 else parts[0]
    letters = window + names["out"]
    return b.transposed(b.reshaped(whole, (*steps, *rest)), [letters.index(letter) for letter in attrs["out"]])


def _met(
    b: Builder, x: Value, w: Value, attrs: Attrs, kernel: Sequence[int], place: Sequence[int], by_kernel: bool
) -> tuple[Value, Value]:
    """What of x meets one element of the kernel, and that element; or what meets one element of the result, and w."""
    axes, other = attrs["x"], w
    for axis, letter in enumerate(attrs["window"]):
        stride, dilation, spread, offset, extent = (attrs[name][axis] for name in NUMBERS_OF_WINDOW)
        first, step, count = place[axis] * dilation - offset, stride, extent
        if not by_kernel:
            first, step, count = place[axis] * stride - offset, dilation, kernel[axis]
        x = _line(b, x, axes.index(letter), first, step, count, spread)
        if by_kernel:
            other = _one(b, other, attrs["w"].index(letter), place[axis])
    if by_kernel:
        kept = [n for letter, n in zip(attrs["w"], w.shape, strict=True) if letter not in attrs["window"]]
        other = b.reshaped(other, kept)
    return x, other


def _one(b: Builder, x: Value, axis: int, place: int) -> Value:
    return cut(b, x, axis, place, place + 1, 1)


def cut(b: Builder, x: Value, axis: int, start: int, stop: int, step: int) -> Value:
    """A slice along one axis."""
    if (start, stop, step) == (0, x.shape[axis], 1):
        return x
    starts, stops, steps = [0] * x.ndim, [*x.shape], [1] * x.ndim
    starts[axis], stops[axis], steps[axis] = start, stop, step
    return b.slice(x, start=tuple(starts), stop=tuple(stops), step=tuple(steps))


def padded(b: Builder, x: Value, axis: int, low: int, high: int, interior: int = 0) -> Value:
    """With zeros along one axis."""
    if not (low or high or interior):
        return x
    pads = [[0] * x.ndim for _ in range(3)]
    for pad, number in zip(pads, (low, high, interior), strict=True):
        pad[axis] = number
    return b.pad(x, low=tuple(pads[0]), high=tuple(pads[1]), interior=tuple(pads[2]))


def _line(b: Builder, x: Value, axis: int, first: int, step: int, count: int, spread: int) -> Value:
    """The elements of x at first + i * step (in units of 1 / spread) for i < count, zeros where there are none."""
    x = padded(b, x, axis, 0, 0, spread - 1)
    back = step < 0
    if back:
        first, step = first + (count - 1) * step, -step
    last, n = first + (count - 1) * step, x.shape[axis]
    x = padded(b, x, axis, max(-first, 0), max(last - n + 1, 0))
    first += max(-first, 0)
    x = cut(b, x, axis, first, first + (count - 1) * step + 1, step)
    return b.flip(x, axes=(axis,)) if back else x


def _contracted(b: Builder, x: Value, w: Value, names: dict[str, str]) -> Value:
    """The product of x and w, axes by their letters, summed over what the result does not have."""
    of_x, of_w, out = names["x"], names["w"], names["out"]
    batch = [letter for letter in of_x if letter in of_w and letter in out]
    summed = [letter for letter in of_x if letter in of_w and letter not in out]
    free = [letter for letter in of_x if letter not in of_w], [letter for letter in of_w if letter not in of_x]
    extents = {**dict(zip(of_x, x.shape, strict=True)), **dict(zip(of_w, w.shape, strict=True))}
    if all(extents[letter] == 1 for letter in itertools.chain(*free)) or not summed:
        letters = [*out, *summed]
        space = tuple(extents[letter] for letter in letters)
        wide = FLOAT32 if is_half(x.dtype) else x.dtype
        product = b.mul(*(_spread(b, b.astype(v, wide), n, letters, space) for v, n in ((x, of_x), (w, of_w))))
        return b.astype(b.summed(product, range(len(out), len(letters))), x.dtype)
    pairs = [tuple(tuple(n.index(letter) for letter in which) for n in (of_x, of_w)) for which in (summed, batch)]
    made = b.dot(x, w, contract=pairs[0], batch=pairs[1])
    order = [*batch, *free[0], *free[1]]
    return b.transposed(made, [order.index(letter) for letter in out])


def _spread(b: Builder, x: Value, names: str, letters: list[str], space: tuple[int, ...]) -> Value:
    """Broadcast to the axes of `letters`."""
    order = sorted(range(x.ndim), key=lambda k: letters.index(names[k]))
    x = b.transposed(x, order)
    dims = tuple(letters.index(names[k]) for k in order)
    return x if x.shape == space else b.emit("broadcast", (x,), {"shape": space, "dims": dims})[0]


# -- dilation of the input


def _by_residues(
    b: Builder, x: Value, w: Value, attrs: Attrs, result: ArrayType, axis: int, sums: bool
) -> Value:  # fmt: skip
    """One convolution for every index of the result modulo the spread along an axis, each put at its places."""
    stride, dilation, spread, offset, extent = (attrs[name][axis] for name in NUMBERS_OF_WINDOW)
    place, at = attrs["w"].index(attrs["window"][axis]), attrs["out"].index(attrs["window"][axis])
    apart = spread // math.gcd(spread, dilation)  # elements of the kernel that one residue meets
    kernel, total = w.shape[place], None
    for residue in range(min(spread, extent)):
        count = -(-(extent - residue) // spread)
        begin = residue * stride - offset
        first = next((k for k in range(min(apart, kernel)) if (begin + k * dilation) % spread == 0), None)
        if first is None:
            continue
        here = {
            "stride": stride, "dilation": dilation * apart // spread, "spread": 1,
            "offset": -(begin + first * dilation) // spread, "extent": count,
        }  # fmt: skip
        numbers = {name: _with(attrs[name], axis, here[name]) for name in NUMBERS_OF_WINDOW}
        part = convolution(b, x, cut(b, w, place, first, kernel, apart), {**attrs, **numbers}, sums)
        whole = padded(b, part, at, residue, extent - residue - ((count - 1) * spread + 1), spread - 1)
        total = whole if total is None else b.add(total, whole)
    return b.zeros(result) if total is None else total


def _with(numbers: Sequence[int], axis: int, number: int) -> tuple[int, ...]:
    return (*numbers[:axis], number, *numbers[axis + 1 :])
