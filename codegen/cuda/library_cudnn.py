"""Convolutions as operations of cuDNN: which array is image, filter and response, and how they lie in memory.

Note [Convolutions by cuDNN]
cuDNN relates three arrays: an image with axes N and C, a filter with K and C, a response with N and K, each with an
axis per letter of the window. Along that, element r of the response and f of the filter meet element

    r * stride + f * dilation - pre

of the image. Three operations compute one of the arrays from the two others: fprop the response, dgrad the image, wgrad
the filter. This is the relation of `conv` (Note [Convolution as a trilinear form] in ir/prims/conv.py), which leaves
roles open: the image is an array whose index there has the factor 1, and either of the others is the filter. An array
of one element along a letter has index 0, so that its factor is whatever fits. A negative dilation is a filter that is
read backwards. Letters of image and response alone are N, and so on; those of all three are groups, which cuDNN has as
the outer part of C and K. Where several letters are one axis to cuDNN and memory has them in another order, there is a
copy.

What is computed in float32 by our own kernel is so by cuDNN; what it has no operation for, and what is so small that
several kernels of a library would take longer to launch, is left to our own kernel.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from nufunc.codegen.cuda.library_conv import lower_conv
from nufunc.codegen.cuda.library_products import Line, merged, transposition
from nufunc.codegen.cuda.library_steps import Lowered
from nufunc.codegen.cuda.program import Place
from nufunc.codegen.strided import row_major
from nufunc.ir.graph import Attrs
from nufunc.ir.prims.conv import conv_steps
from nufunc.ir.types import ArrayType

SMALL = 1 << 22  # multiplications that our own kernel has done by the time that those of a library are launched
DTYPES = ("float16", "bfloat16", "float32", "float64")
ARRAYS = ("x", "w", "out")
ROLES = ("image", "filter", "response")
OPERATIONS = {"image": "dgrad", "filter": "wgrad", "response": "fprop"}  # by what is computed
COPIES = 4  # of its arrays that an engine may work on: some have them in NHWC, in single precision, and parts of sums
_SPARE = 64 << 20  # bytes that it may have besides
_LIMIT = 1 << 31  # elements of an array
_MOST_WINDOW = 3


@dataclass(frozen=True)
class Tensor:
    """An array as cuDNN sees it: two axes of channels or items, then the window's, of which there are at least two."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass(frozen=True)
class Convolution:
    """An operation of cuDNN; all that a plan of it depends on. Tuples have a number for each axis of the window."""

    operation: str  # fprop, dgrad or wgrad
    dtype: str
    image: Tensor
    filter: Tensor
    response: Tensor
    pre: tuple[int, ...]
    post: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    backwards: bool  # the filter is read


@dataclass(frozen=True)
class Axis:
    """A letter of the window: extents, and the relation of indices."""

    image: int
    filter: int
    response: int
    stride: int
    dilation: int
    pre: int
    backwards: bool | None  # None: either way

    @property
    def reached(self) -> int:
        """Elements of the image, padding behind it included, that the last element of the response reaches."""
        return (self.response - 1) * self.stride + (self.filter - 1) * self.dilation + 1 - self.pre

    @property
    def post(self) -> int | None:
        """Padding behind the image that gives the response its extent, preferably as in front. None: there is none."""
        least = self.reached - self.image
        if least <= self.pre < least + self.stride:
            return self.pre
        return max(least, 0) if least + self.stride > 0 else None


@dataclass(frozen=True)
class Roles:
    """Which array is what, and the axes of the window in the order of the image's."""

    image: str
    filter: str
    response: str
    window: str
    axes: tuple[Axis, ...]

    @property
    def size(self) -> int:
        """Elements of the filter along the window."""
        return math.prod(axis.filter for axis in self.axes)

    @property
    def larger(self) -> int:
        """Elements of the response along the window, of which an operation should have more."""
        return math.prod(axis.response for axis in self.axes)

    @property
    def backwards(self) -> bool | None:
        """None: along some axes only, which cuDNN does not do."""
        known = {axis.backwards for axis in self.axes} - {None}
        return None if len(known) > 1 else known == {True}

    def groups(self, attrs: Attrs) -> dict[str, list[str]]:
        """The letters that are the first two axes of each array."""
        names = {role: [n for n in attrs[getattr(self, role)] if n not in attrs["window"]] for role in ROLES}
        image, filter, response = (names[role] for role in ROLES)
        items = "".join(n for n in image if n in response and n not in filter)
        inner = "".join(n for n in image if n in filter and n not in response)
        outer = "".join(n for n in filter if n in response and n not in image)
        group = "".join(n for n in image if n in filter and n in response)
        return {"image": [items, group + inner], "filter": [group + outer, inner], "response": [items, group + outer]}


def lower_cudnn(made: Lowered) -> None:
    """As a call of cuDNN. The runtime asks cuDNN whether it can do it, before the first run."""
    found = None if _is_small(made) else roles(made)
    if found is None:
        lower_conv(made)
        return
    types = _types(made)
    out = types["out"]
    places: dict[str, Place] = {}
    tensors: dict[str, Tensor] = {}
    copied: list[int] | None = None
    for role in ROLES:
        name = getattr(found, role)
        places[role] = made.result(0) if name == "out" else made.operand(ARRAYS.index(name))
        tensor, perm = _tensor(made, found, role)
        tensors[role] = tensor
        if perm is not None:
            source, places[role] = places[role], made.area(types[name].nbytes)
            if name == "out":
                copied = perm
            else:
                made.glue(transposition(types[name], perm), source, places[role])
    computed = next(role for role in ROLES if getattr(found, role) == "out")
    limit = COPIES * sum(t.nbytes for t in types.values()) + _SPARE
    convolution = _convolution(OPERATIONS[computed], out.dtype.name, tensors, found)
    made.routine("conv", out.dtype, places, convolution=convolution, limit=limit)
    if copied is not None:
        ordered = out.with_shape(tuple(out.shape[a] for a in copied))
        made.glue(transposition(ordered, [copied.index(a) for a in range(out.ndim)]), places[computed], made.result(0))


def _convolution(operation: str, dtype: str, tensors: Mapping[str, Tensor], found: Roles) -> Convolution:
    """With an axis of one element in front of a window of one letter."""
    axes = found.axes if len(found.axes) > 1 else (Axis(1, 1, 1, 1, 1, 0, None), *found.axes)
    return Convolution(
        operation, dtype, tensors["image"], tensors["filter"], tensors["response"], tuple(a.pre for a in axes),
        tuple(a.post or 0 for a in axes), tuple(a.stride for a in axes), tuple(a.dilation for a in axes),
        bool(found.backwards),
    )  # fmt: skip


def _types(made: Lowered) -> dict[str, ArrayType]:
    return dict(zip(ARRAYS, (*made.operands, made.results[0]), strict=True))


def _work(made: Lowered) -> int:
    return conv_steps(made.operands, made.attrs) * made.results[0].size


def _is_small(made: Lowered) -> bool:
    return _work(made) < SMALL


def roles(made: Lowered) -> Roles | None:
    """The roles of the arrays; None where cuDNN has no operation. Those are best that read nothing backwards, and then
    those that have the axes of arrays in the order that cuDNN prefers, and the smaller filter."""
    types, window = _types(made), made.attrs["window"]
    fits = 1 <= len(window) <= _MOST_WINDOW and all(0 < t.size < _LIMIT for t in types.values())
    if not fits or types["out"].dtype.name not in DTYPES:
        return None
    found = [r for r in _candidates(made.attrs, types) if r.backwards is False or (r.backwards and r.size <= r.larger)]

    def key(r: Roles) -> tuple[bool | None, int, int, int]:
        return r.backwards, _disorder(r, made.attrs), r.size, ARRAYS.index(r.image)

    return min(found, key=key, default=None)


def _candidates(attrs: Attrs, types: Mapping[str, ArrayType]) -> Iterator[Roles]:
    for image, filter, response in itertools.permutations(ARRAYS):
        window = "".join(n for n in attrs[image] if n in attrs["window"])
        axes = []
        for letter in window:
            k = attrs["window"].index(letter)
            extents = {name: types[name].shape[attrs[name].index(letter)] for name in ARRAYS}
            factors = {"x": attrs["spread"][k], "out": -attrs["stride"][k], "w": -attrs["dilation"][k]}
            axes.append(_axis(factors, attrs["offset"][k], extents, (image, filter, response)))
        known = tuple(axis for axis in axes if axis is not None)
        if len(known) == len(axes):
            yield Roles(image, filter, response, window, known)


def _axis(
    factors: Mapping[str, int], offset: int, extents: Mapping[str, int], names: tuple[str, str, str]
) -> Axis | None:
    """The axis of a letter, where the sum of indices times their factors and the offset is 0."""
    image, filter, response = names
    signs = (1, -1) if extents[image] == 1 else (factors[image],)
    for sign in signs:
        if abs(sign) != 1:
            continue
        stride = 1 if extents[response] == 1 else -sign * factors[response]
        dilation = 1 if extents[filter] == 1 else -sign * factors[filter]
        pre, backwards = sign * offset, None if extents[filter] == 1 else dilation < 0
        if dilation < 0:
            dilation = -dilation
            pre += dilation * (extents[filter] - 1)
        axis = Axis(extents[image], extents[filter], extents[response], stride, dilation, pre, backwards)
        if stride > 0 and axis.post is None and image != "out" and axis.reached > 0:
            axis = replace(axis, image=axis.reached)  # what is behind that is not read
        if stride > 0 and pre >= 0 and axis.post is not None:
            return axis
    return None


def _disorder(found: Roles, attrs: Attrs) -> int:
    """How many arrays have what cuDNN takes as their second axis in front of the first one."""
    count = 0
    for role, (first, second) in found.groups(attrs).items():
        letters = attrs[getattr(found, role)]
        at = [min(map(letters.index, group), default=None) for group in (first, second)]
        count += None not in at and at[0] > at[1]  # type: ignore[operator]
    return count


def _tensor(made: Lowered, found: Roles, role: str) -> tuple[Tensor, list[int] | None]:
    """An array as cuDNN sees it, and how its axes are to be permuted first, if they are."""
    name = getattr(found, role)
    letters, type_ = made.attrs[name], _types(made)[name]
    order = [*found.groups(made.attrs)[role], *found.window]
    perm = None
    lines = _lines(letters, type_, order)
    if lines is None:
        perm = [letters.index(n) for n in "".join(order)]
        lines = _lines("".join(order), type_.with_shape(tuple(type_.shape[a] for a in perm)), order)
    assert lines is not None
    window = [Line(getattr(axis, role), line.stride) for axis, line in zip(found.axes, lines[2:], strict=True)]
    return _strided([*lines[:2], *([Line(1, 1)] if len(window) == 1 else []), *window]), perm


def _lines(letters: str, type_: ArrayType, order: Sequence[str]) -> list[Line] | None:
    """The axes that cuDNN sees; None where letters that are one to it do not lie so in memory."""
    strides = row_major(type_.shape)
    lines = [merged(type_.shape, strides, [letters.index(n) for n in group]) for group in order]
    return None if None in lines else [line for line in lines if line is not None]


def _strided(lines: Sequence[Line]) -> Tensor:
    """Axes of one element have the stride of one that is outside of those behind it, which tells layouts apart."""
    strides: list[int] = []
    inner = 1
    for line in reversed(lines):
        strides.insert(0, inner if line.extent == 1 else line.stride)
        inner = max(inner, strides[0] * line.extent)
    return Tensor(tuple(line.extent for line in lines), tuple(strides))
