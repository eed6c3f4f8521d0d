"""What `nf.random` draws, as compositions over traced arrays: keys, bits, and distributions without rejection.

Inside, a key is one u64 scalar with its two words packed, and so is a block of two words of random bits. Formulas and
the order of their roundings are those that give the numbers of `jax.random`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as onp

from nufunc.ir import promotion
from nufunc.ir.errors import ArgumentError, ArgumentTypeError, ShapeError
from nufunc.ir.prims.random import WORD
from nufunc.ir.types import INT64, ArrayType, kind_of, real_dtype
from nufunc.tracer.array import Array
from nufunc.tracer.np_core import as_array, broadcast_shapes, builder, fail, normal_axis, static_int, value_of, wrap
from nufunc.tracer.np_namespace import numpy as np

Shape = tuple[int, ...]
_U32 = onp.dtype(onp.uint32)


# -- keys and bits


def packed(key: Any) -> Array:
    """A user's key as one u64 scalar."""
    array = as_array(key)
    if array.shape != (2,) or array.dtype != _U32:
        raise fail(
            ArgumentTypeError,
            f"random: expected a key, uint32[2] as nf.random.key(seed) gives, got {array.dtype}{list(array.shape)}; "
            "to draw from several keys, map over them with nf.vmap",
        )
    words = array.astype(WORD)
    return words[0] << 32 | words[1]


def unpacked(words: Array) -> Array:
    """Packed keys as the user's: uint32[..., 2]."""
    return np.stack([words >> 32, words], axis=-1).astype(_U32)


def block(key: Array, counter: Any) -> Array:
    """The random words of a packed key (a scalar) at u64 counters."""
    b = builder()
    number = b.astype(value_of(counter), WORD)
    spread = b.broadcast(value_of(key), shape=number.shape, dims=())
    return wrap(b.threefry2x32(spread, number), scalar=not number.shape)


def words(key: Array, shape: Shape) -> Array:
    """Two random words per element of a shape: those at its position in C order."""
    b = builder()
    if not shape:
        return block(key, wrap(b.filled(0, ArrayType((), WORD)), scalar=True))
    count = b.iota(shape=(math.prod(shape),), dtype=WORD, axis=0)
    return block(key, wrap(b.reshaped(count, shape)))


def halves(key: Array, count: int) -> list[Array]:
    """`count` packed keys from one."""
    return [block(key, onp.uint64(k)) for k in range(count)]


def random_bits(key: Array, shape: Shape, width: int) -> Array:
    """Random bits as unsigned integers of a width."""
    both = words(key, shape)
    if width == 64:
        return both
    return (both >> 32 ^ both).astype(onp.dtype(f"u{width // 8}"))


def key(seed: Any) -> Array:
    array = as_array(seed)
    if array.shape != () or array.dtype.kind not in "iu":
        raise fail(
            ArgumentTypeError, f"random.key: the seed is an integer scalar, got {array.dtype}{list(array.shape)}"
        )
    return unpacked(array.astype(WORD) if array.itemsize == 8 else array.astype(_U32).astype(WORD))


def split(key: Any, shape: Shape) -> Array:
    return unpacked(words(packed(key), shape))


def fold_in(key: Any, data: Any) -> Array:
    array = as_array(data)
    if array.shape != () or array.dtype.kind not in "iu":
        raise fail(
            ArgumentTypeError, f"random.fold_in: data is an integer scalar, got {array.dtype}{list(array.shape)}"
        )
    return unpacked(block(packed(key), array.astype(_U32).astype(WORD)))


def bits(key: Any, shape: Shape, dtype: onp.dtype) -> Array:
    return random_bits(packed(key), shape, 8 * dtype.itemsize)


# -- uniform numbers


def floats(key: Array, shape: Shape, dtype: onp.dtype) -> Array:
    """Uniform in [0, 1): the upper bits as the fraction of a number in [1, 2), less 1."""
    info = promotion.finfo(dtype)
    unsigned = onp.dtype(f"u{dtype.itemsize}")
    one = int(onp.ones((), dtype).view(unsigned))
    width = 8 if info.nmant < 8 else info.bits  # of bfloat16, as in JAX
    fraction = random_bits(key, shape, width).astype(unsigned) >> (width - info.nmant)
    b = builder()
    number = b.bitcast(value_of(fraction | unsigned.type(one)), dtype=dtype)
    return wrap(number, scalar=not shape) - dtype.type(1)


def between(key: Array, shape: Shape, dtype: onp.dtype, low: Any, high: Any) -> Array:
    """Uniform in [low, high), where these are numbers or arrays of the dtype."""
    drawn = floats(key, shape, dtype)
    if isinstance(low, float) and isinstance(high, float) and (low, high) == (0.0, 1.0):
        return drawn
    low, high = _cast(low, dtype), _cast(high, dtype)
    return fits(np.maximum(low, drawn * (high - low) + low), shape, "uniform")


def _cast(x: Any, dtype: onp.dtype) -> Any:
    return dtype.type(x) if isinstance(x, bool | int | float | onp.generic) else as_array(x).astype(dtype)


def fits(result: Array, shape: Shape, what: str) -> Array:
    if result.shape != shape:
        raise fail(
            ShapeError, f"random.{what}: the parameters' shape {result.shape} does not broadcast to shape {shape}"
        )
    return result


def shape_of(shape: Shape | None, *parameters: Any) -> Shape:
    """The given shape, or that of the parameters."""
    common = broadcast_shapes(*(onp.shape(p) if not isinstance(p, Array) else p.shape for p in parameters))
    if shape is None:
        return common
    if broadcast_shapes(common, shape) != shape:
        raise fail(ShapeError, f"random: the parameters' shape {common} does not broadcast to shape {shape}")
    return shape


def uniform(key: Any, shape: Shape, dtype: onp.dtype, low: Any, high: Any) -> Array:
    return between(packed(key), shape, dtype, low, high)


def bernoulli(key: Any, p: Any, shape: Shape | None) -> Array:
    chance = as_array(p)
    if kind_of(chance.dtype) != "f":
        raise fail(ArgumentTypeError, f"random.bernoulli: p must be a float, got {chance.dtype}")
    return floats(packed(key), shape_of(shape, chance), chance.dtype) < chance


def rademacher(key: Any, shape: Shape, dtype: onp.dtype) -> Array:
    return (2 * bernoulli(key, 0.5, shape).astype(dtype) - 1).astype(dtype)


# -- integers


def _clipped(x: Array, dtype: onp.dtype) -> Array:
    """An integer array in the range of a dtype."""
    own, other = onp.iinfo(x.dtype), onp.iinfo(dtype)
    low, high = x.dtype.type(max(own.min, other.min)), x.dtype.type(min(own.max, other.max))
    return np.minimum(np.maximum(x, low), high).astype(dtype)


def randint(key: Any, shape: Shape, minval: Any, maxval: Any, dtype: onp.dtype) -> Array:
    low, high = as_array(minval), as_array(maxval)
    low = low if low.dtype.kind in "iu" else low.astype(INT64)
    high = high if high.dtype.kind in "iu" else high.astype(INT64)
    shape_of(shape, low, high)
    wide = dtype
    if dtype.itemsize < 4:  # drawn as 32 bits, so that the upper bound may be one past the greatest number
        wide, info = onp.dtype(onp.int32), onp.iinfo(dtype)
        low = np.minimum(np.maximum(low.astype(wide), int(info.min)), int(info.max))
        high = np.minimum(np.maximum(high.astype(wide), int(info.min)), int(info.max) + 1)
    return _integers(packed(key), shape, low, high, wide).astype(dtype)


def _integers(key: Array, shape: Shape, low: Array, high: Array, dtype: onp.dtype) -> Array:
    """Two draws modulo the span, put together as the digits of one number of twice the width."""
    width = 8 * dtype.itemsize
    unsigned = onp.dtype(f"u{dtype.itemsize}")
    beyond = high > as_array(_limit(dtype, high.dtype))
    low, high = _clipped(low, dtype), _clipped(high, dtype)
    upper, lower = (random_bits(k, shape, width) for k in halves(key, 2))
    span = np.where(high <= low, unsigned.type(1), (high - low).astype(unsigned))
    span = np.where(beyond & (high > low), span + unsigned.type(1), span)
    factor = np.mod(unsigned.type(2 ** (width // 2)), span)
    factor = np.mod(factor * factor, span)
    offset = np.mod(np.mod(upper, span) * factor + np.mod(lower, span), span)
    return low + offset.astype(dtype)


def _limit(dtype: onp.dtype, of: onp.dtype) -> Any:
    return of.type(min(onp.iinfo(dtype).max, onp.iinfo(of).max))


def _shuffled(key: Array, x: Array, axis: int) -> Array:
    """Sorted by random words, as often as makes equal words unlikely to matter."""
    greatest = onp.iinfo(onp.uint32).max
    rounds = int(onp.ceil(3 * onp.log(max(1, x.size)) / onp.log(greatest)))
    for _ in range(rounds):
        key, part = halves(key, 2)
        order = np.argsort(random_bits(part, x.shape, 32), axis=axis, kind="stable")
        x = np.take_along_axis(x, order, axis)
    return x


def permutation(key: Any, x: Any, axis: int, independent: bool) -> Array:
    if isinstance(x, int | onp.integer):
        normal_axis(axis, 1)
        return _shuffled(packed(key), np.arange(int(x)), 0)
    array = as_array(x)
    if not array.ndim:
        raise fail(ArgumentTypeError, "random.permutation: x must be a Python int or have an axis")
    axis = normal_axis(axis, array.ndim)
    if independent or array.ndim == 1:
        return _shuffled(packed(key), array, axis)
    order = _shuffled(packed(key), np.arange(array.shape[axis]), 0)
    return np.take(array, order, axis=axis)


def choice(key: Any, a: Any, shape: Shape, replace: bool, p: Any, axis: int) -> Array:
    items = None if isinstance(a, int | onp.integer) else as_array(a)
    if items is not None and not items.ndim:
        static_int(a, "random.choice: a")
    axis = 0 if items is None else normal_axis(axis, items.ndim)
    count, draws = int(a) if items is None else items.shape[axis], math.prod(shape)
    if draws and count <= 0:
        raise fail(ArgumentError, "random.choice: there is nothing to choose from")
    if not replace and draws > count:
        raise fail(ArgumentError, f"random.choice: {draws} draws without replacement from {count} items")
    final = shape if items is None else (*items.shape[:axis], *shape, *items.shape[axis + 1 :])
    if not draws:
        return np.zeros(final, INT64 if items is None else items.dtype)
    if p is None and not replace:
        whole = permutation(key, count if items is None else items, axis, False)
        index: tuple[Any, ...] = (slice(None),) * axis + (slice(draws),)
        return whole[index].reshape(final)
    if p is None:
        chosen = randint(key, shape, onp.int64(0), onp.int64(count), INT64)
    else:
        chosen = _weighted(packed(key), as_array(p), count, shape, replace)
    return chosen if items is None else np.take(items, chosen, axis=axis).reshape(final)


def _weighted(key: Array, p: Array, count: int, shape: Shape, replace: bool) -> Array:
    """Indices with probabilities p: by inversion, or the greatest of log(p) plus Gumbel noise."""
    p = p if kind_of(p.dtype) == "f" else p.astype(onp.dtype(onp.float64))
    if p.shape != (count,):
        raise fail(ShapeError, f"random.choice: p has shape {p.shape}, but there are {count} items")
    if replace:
        total = np.cumsum(p)
        level = total[-1] * (1 - floats(key, shape, p.dtype))
        return np.searchsorted(total, level)
    noisy = _gumbel(key, (count,), p.dtype) + np.log(p)
    return np.argsort(-noisy, kind="stable")[: math.prod(shape)].reshape(shape)


# -- logarithms and normal numbers

# The rational approximation of log1p on (-0.29, 0.41) of the Cephes library, which XLA uses on (-0.41, 0.41). There its
# error grows to 1e-14, and with the exact function draws would differ from those of JAX by as much.
_LOG1P = (
    4.5270000862445199635215e-5, 4.9854102823193375972212e-1, 6.5787325942061044846969, 2.9911919328553073277375e1,
    6.0949667980987787057556e1, 5.7112963590585538103336e1, 2.0039553499201281259648e1,
)  # fmt: skip
_LOG1P_BELOW = (
    1.0, 1.5062909083469192043167e1, 8.3047565967967209469434e1, 2.2176239823732856465394e2,
    3.0909872225312059774938e2, 2.1642788614495947685003e2, 6.0118660497603843919306e1,
)  # fmt: skip


def _log1p(x: Array) -> Array:
    """log(1 + x) for a number in [-1, 0], as XLA computes it in double precision."""
    if x.dtype.itemsize == 4:
        return np.log1p(x)
    square = x * x
    ratio = _horner(x, _LOG1P) / _horner(x, _LOG1P_BELOW)
    near = x + (x * (square * ratio) - 0.5 * square)
    return np.where(np.abs(x) < math.sqrt(2) - 1, near, np.log(1 + x))


# Giles' approximations of erfinv(x) / x in w = -log(1 - x**2) ("Approximating the erfinv function", GPU Computing Gems,
# 2010), which XLA uses as well: draws agree with those of JAX in the tails, too, where a more exact erfinv would not
# (w comes from a difference that loses digits near |x| = 1). scipy.special.erfinv in traced code is exact to rounding.
_CENTRE = (
    -3.6444120640178196996e-21, -1.685059138182016589e-19, 1.2858480715256400167e-18, 1.115787767802518096e-17,
    -1.333171662854620906e-16, 2.0972767875968561637e-17, 6.6376381343583238325e-15, -4.0545662729752068639e-14,
    -8.1519341976054721522e-14, 2.6335093153082322977e-12, -1.2975133253453532498e-11, -5.4154120542946279317e-11,
    1.051212273321532285e-09, -4.1126339803469836976e-09, -2.9070369957882005086e-08, 4.2347877827932403518e-07,
    -1.3654692000834678645e-06, -1.3882523362786468719e-05, 0.0001867342080340571352, -0.00074070253416626697512,
    -0.0060336708714301490533, 0.24015818242558961693, 1.6536545626831027356,
)  # fmt: skip
_MIDDLE = (
    2.2137376921775787049e-09, 9.0756561938885390979e-08, -2.7517406297064545428e-07, 1.8239629214389227755e-08,
    1.5027403968909827627e-06, -4.013867526981545969e-06, 2.9234449089955446044e-06, 1.2475304481671778723e-05,
    -4.7318229009055733981e-05, 6.8284851459573175448e-05, 2.4031110387097893999e-05, -0.0003550375203628474796,
    0.00095328937973738049703, -0.0016882755560235047313, 0.0024914420961078508066, -0.0037512085075692412107,
    0.005370914553590063617, 1.0052589676941592334, 3.0838856104922207635,
)  # fmt: skip
_TAIL = (
    0.0, 0.0, -2.7109920616438573243e-11, -2.5556418169965252055e-10, 1.5076572693500548083e-09,
    -3.7894654401267369937e-09, 7.6157012080783393804e-09, -1.4960026627149240478e-08, 2.9147953450901080826e-08,
    -6.7711997758452339498e-08, 2.2900482228026654717e-07, -9.9298272942317002539e-07, 4.5260625972231537039e-06,
    -1.9681778105531670567e-05, 7.5995277030017761139e-05, -0.00021503011930044477347, -0.00013871931833623122026,
    1.0103004648645343977, 4.8499064014085844221,
)  # fmt: skip
_CENTRE32 = (
    2.81022636e-08, 3.43273939e-07, -3.5233877e-06, -4.39150654e-06, 0.00021858087, -0.00125372503, -0.00417768164,
    0.246640727, 1.50140941,
)  # fmt: skip
_TAIL32 = (
    -0.000200214257, 0.000100950558, 0.00134934322, -0.00367342844, 0.00573950773, -0.0076224613, 0.00943887047,
    1.00167406, 2.83297682,
)  # fmt: skip


def _horner(z: Array, coefficients: Sequence[Any]) -> Array:
    total = coefficients[0]
    for coefficient in coefficients[1:]:
        total = total * z + coefficient
    return total


def _erfinv(x: Array) -> Array:
    number = x.dtype.type
    w = -_log1p(-x * x)
    root = np.sqrt(w)
    if x.dtype.itemsize == 4:
        small = w < number(5)
        z = np.where(small, w - number(2.5), root - number(3))
        pairs = zip(_CENTRE32, _TAIL32, strict=True)
        p = _horner(z, [np.where(small, number(c), number(t)) for c, t in pairs])
    else:
        far = w >= number(16)
        centre = _horner(w - number(3.125), [number(c) for c in _CENTRE])
        z = root - np.where(far, number(5), number(3.25))
        pairs = zip(_MIDDLE, _TAIL, strict=True)
        outer = _horner(z, [np.where(far, number(t), number(m)) for m, t in pairs])
        p = np.where(w < number(6.25), centre, outer)
    return np.where(np.abs(x) == number(1), x * number(math.inf), p * x)


def _standard_normal(key: Array, shape: Shape, dtype: onp.dtype) -> Array:
    least = onp.nextafter(dtype.type(-1), dtype.type(0))
    u = between(key, shape, dtype, least, dtype.type(1))
    return dtype.type(math.sqrt(2)) * _erfinv(u)


def normal_of(key: Array, shape: Shape, dtype: onp.dtype) -> Array:
    """Standard normal numbers from a packed key."""
    if dtype.kind != "c":
        return _standard_normal(key, shape, dtype)
    parts = [_standard_normal(k, shape, real_dtype(dtype)) for k in halves(key, 2)]
    return (parts[0].astype(dtype) + dtype.type(1j) * parts[1].astype(dtype)) / dtype.type(math.sqrt(2))


def normal(key: Any, shape: Shape, dtype: onp.dtype) -> Array:
    return normal_of(packed(key), shape, dtype)


def truncated_normal(key: Any, lower: Any, upper: Any, shape: Shape | None, dtype: onp.dtype) -> Array:
    shape = shape_of(shape, lower, upper)
    low, high = as_array(lower).astype(dtype), as_array(upper).astype(dtype)
    root, b = dtype.type(math.sqrt(2)), builder()
    erf = lambda x: wrap(b.erf(value_of(x)), scalar=not x.ndim)
    u = between(packed(key), shape, dtype, erf(low / root), erf(high / root))
    held = lambda x: wrap(b.stop_gradient(value_of(x)), scalar=not x.ndim)
    inside = np.maximum(root * _erfinv(u), np.nextafter(held(low), dtype.type(math.inf)))
    return np.minimum(inside, np.nextafter(held(high), dtype.type(-math.inf)))


# -- by inversion


def exponential_of(key: Array, shape: Shape, dtype: onp.dtype) -> Array:
    """Exponential numbers from a packed key."""
    return -_log1p(-floats(key, shape, dtype))


def exponential(key: Any, shape: Shape, dtype: onp.dtype) -> Array:
    return exponential_of(packed(key), shape, dtype)


def _positive(key: Array, shape: Shape, dtype: onp.dtype) -> Array:
    """Uniform in (0, 1)."""
    return between(key, shape, dtype, onp.finfo(dtype).tiny, dtype.type(1))


def _gumbel(key: Array, shape: Shape, dtype: onp.dtype) -> Array:
    return -np.log(-np.log(_positive(key, shape, dtype)))


def gumbel(key: Any, shape: Shape, dtype: onp.dtype) -> Array:
    return _gumbel(packed(key), shape, dtype)


def laplace(key: Any, shape: Shape, dtype: onp.dtype) -> Array:
    least = dtype.type(-1) + onp.finfo(dtype).epsneg
    u = between(packed(key), shape, dtype, least, dtype.type(1))
    return np.sign(u) * _log1p(-np.abs(u))


def logistic(key: Any, shape: Shape, dtype: onp.dtype) -> Array:
    u = _positive(packed(key), shape, dtype)
    return np.log(u) - _log1p(-u)


def cauchy(key: Any, shape: Shape, dtype: onp.dtype) -> Array:
    u = between(packed(key), shape, dtype, onp.finfo(dtype).eps, dtype.type(1))
    return np.tan(dtype.type(math.pi) * (u - dtype.type(0.5)))


def categorical(key: Any, logits: Any, axis: int, shape: Shape | None, replace: bool) -> Array:
    array = as_array(logits)
    array = array if kind_of(array.dtype) == "f" else array.astype(onp.dtype(onp.float64))
    axis = normal_axis(axis, array.ndim)
    rest = (*array.shape[:axis], *array.shape[axis + 1 :])
    shape = rest if shape is None else shape
    front = shape[: len(shape) - len(rest)]
    if shape[len(front) :] != rest:
        raise fail(
            ShapeError, f"random.categorical: shape {shape} must end with {rest}, that of logits without the axis"
        )
    if not replace:
        return _distinct(packed(key), array, axis, rest, front)
    tail = list(shape[len(front) :])
    tail.insert(axis, array.shape[axis])
    noisy = _gumbel(packed(key), (*front, *tail), array.dtype) + array
    return np.argmax(noisy, axis=axis - array.ndim)


def _distinct(key: Array, logits: Array, axis: int, rest: Shape, front: Shape) -> Array:
    count = math.prod(front)
    if count > logits.shape[axis]:
        raise fail(
            ArgumentError, f"random.categorical: {count} draws without replacement from {logits.shape[axis]} categories"
        )
    noisy = np.moveaxis(logits + _gumbel(key, logits.shape, logits.dtype), axis, -1)
    order = np.argsort(-noisy, axis=-1, kind="stable")[..., :count]
    return np.moveaxis(order, -1, 0).reshape((*front, *rest))
