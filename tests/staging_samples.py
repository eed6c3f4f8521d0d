"""Programs with Python's own control flow on traced values: functions, and their arguments for several lanes."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

XS = np.array([4.9, 0.45, -3.1, 1.55, 2.3])
VECTORS = np.array([[3.0, -1.0, 2.0], [0.5, 0.25, -0.125], [-4.0, 8.0, 1.0]])
COUNTS = np.array([0, 1, 4, 7])


@dataclass(frozen=True)
class Sample:
    function: Callable[..., Any]
    lanes: tuple[np.ndarray, ...]  # one array per argument, stacked over lanes
    smooth: bool = True  # differentiable in the first argument at each lane


SAMPLES: list[Sample] = []


def sample(*lanes: np.ndarray, smooth: bool = True) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        SAMPLES.append(Sample(function, lanes, smooth))
        return function

    return register


# ---- while


@sample(XS)
def halved(x):
    while x > 1:
        x = x / 2
    return x


@sample(XS)
def newton(x):
    guess = 1.0
    for _ in range(50):
        step = (guess * guess - abs(x)) / (2 * guess)
        guess = guess - step
        if abs(step) < 1e-12:
            break
    return guess


@sample(XS)
def collatz_like(x):
    count = 0
    total = 0
    while x > 0.1:
        if x > 2:
            x = x - 1.25
        elif x > 1:
            x = x * 0.5
        else:
            x = x * x * 0.5
        count += 1
        total = total + x * count
    return total


@sample(XS)
def while_else(x):
    steps = 0
    while x > 1:
        x = x * 0.7
        steps += 1
        if steps == 3:
            break
    else:
        x = x + 100.0
    return x + steps


@sample(XS)
def while_true(x):
    k = 0
    while True:
        if x < 1:
            break
        x = x / 3
        k += 1
        if k > 10:
            return x * 1000
    return x + k


@sample(XS)
def nested_while(x):
    total = 0.0
    while x > 1:
        y = x
        while y > 0.5:
            y = y * 0.5
            if y < 0.7:
                continue
            total = total + y
        x = x - 1.0
    return total + x


@sample(XS)
def walrus_in_the_condition(x):
    n = 0
    while (y := x * 0.5) > 0.3:
        x = y
        n += 1
    return x + y + n


@sample(XS)
def carry_of_several(x):
    a, b = 0.0, 1.0
    while b < 10 * abs(x):
        a, b = b, a + b * 1.5
    return a + b * x


# ---- if


@sample(XS)
def early_return(x):
    if x > 2:
        return x * x
    if x < 0:
        return -x
    y = x + 1
    if y > 2:
        return y * 3
    return y


@sample(XS)
def branches_of_different_numbers(x):
    if x > 1:
        scale = 2
    elif x > 0:
        scale = 0.5
    else:
        scale = -1
    return scale * x


@sample(XS)
def assigned_in_one_branch_and_not_read(x):
    if x > 1:
        unused = x * 3  # noqa: F841
        y = x
    else:
        y = -x
    return y


@sample(XS)
def temporaries_of_different_types(x):
    if x > 1:
        t = (x, 2 * x)
        y = t[0] + t[1]
    else:
        t = "none"
        y = x if t == "none" else 0.0
    return y


@sample(XS)
def nested_ifs(x):
    y = 0.0
    if x > 0:
        if x > 1:
            y = x * 2
            if x > 4:
                y += 1
        else:
            y = x * 3
        y = y + 1
    return y * x


@sample(XS)
def tuple_from_branches(x):
    if x > 1:
        pair = (x, {"a": x * 2})
    else:
        pair = (-x, {"a": x * 5})
    first, rest = pair
    return first + rest["a"]


@sample(XS)
def unequal_returns_of_numbers(x):
    if x > 100:
        return 0
    if x > 1:
        return x
    return 1.5


@sample(XS)
def value_of_a_loop_variable_after(x):
    i = -1
    for i in range(6):  # noqa: B007
        x = x * 0.8
        if x < 1:
            break
    return x + i


# ---- operators


@sample(XS)
def ternary(x):
    return (x if x > 0 else -x) * (2 if 1 < x < 3 else 3)


@sample(XS)
def connectives(x):
    a = 1.0 if x > 0 and x < 2 else 0.0
    b = 1.0 if x < 0 or x > 4 else 0.0
    c = 1.0 if not x > 1 else 0.0
    d = 1.0 if not (x > 1 and not (x > 2 or x == 1.55)) else 0.0
    return a + 2 * b + 4 * c + 8 * d + x


@sample(XS)
def values_of_connectives(x):
    y = np.maximum(x, 0.0)
    return (y and 1 / y) + (y or 7.0)


@sample(XS)
def a_chain_evaluates_once(x):
    return x * (0 < x < 1 < x + 1 < 10)


@sample(XS)
def short_circuit_guards_an_index(x):
    table = np.array([1.0, 2.0, 0.5, 4.0])
    i = 0
    while i < 4 and table[i] < x:
        i += 1
    return x * i


@sample(XS)
def lambda_with_a_ternary(x):
    clip = lambda v: v if v < 2 else 2.0 + 0 * v
    return clip(x) + clip(2 * x)


@sample(VECTORS)
def any_and_all(v):
    if (v < 0).any():
        v = v - v.min()
    if (v > 0).all():
        return v.sum()
    return (v * v).sum()


@sample(VECTORS)
def comprehension_with_ternaries(v):
    return sum([x * 2 if x > 0 else -x for x in v])


# ---- for


@sample(COUNTS, XS[:4], smooth=False)
def count_is_traced(n, x):
    total = 0.0
    for i in range(n):
        total += x * i
    return total


@sample(COUNTS, XS[:4], smooth=False)
def range_with_all_bounds(n, x):
    total = 0
    for i in range(1, n + 3, 2):
        total = total + i * x
    for i in range(n, -1, -1):
        total = total - i
    return total


@sample(COUNTS, smooth=False)
def triangular(n):
    total = 0
    for i in range(n):
        for j in range(i):
            if (i + j) % 3 == 0:
                continue
            total += j
    return total


@sample(VECTORS)
def rows_until(v):
    total = 0.0
    for x in v:
        if x < 0:
            break
        total = total + x * x
    return total + v[0]


@sample(VECTORS)
def for_else(v):
    for i, x in enumerate(v):
        if x > 2:
            v = v * (i + 2)
            break
    else:
        v = v + 1
    return v.sum()


@sample(VECTORS)
def return_from_a_loop(v):
    for i in range(3):
        for j in range(3):
            if v[i] + v[j] > 3:
                return v[i] * 10 + v[j] + i
    return v[0]


@sample(XS)
def continue_skips(x):
    total = 0.0
    for i in range(5):
        if i == 2 or x * i > 6:
            continue
        total += x * i
    return total


@sample(XS)
def static_items_with_a_traced_break(x):
    for name, scale in (("a", 2.0), ("b", 0.5), ("c", 3.0)):
        x = x * scale
        if name != "c" and x > 4:
            break
    return x


@sample(VECTORS)
def pairs_until(v):
    total = 0.0
    for i, (x, y) in enumerate(zip(v, v[::-1])):
        total = total + x * y
        if total > 4:
            break
        total = total - i
    for i, x in enumerate(v, 2):
        if x < 0:
            continue
        total += i * x
        if total > 10:
            return total
    for x, k in zip(v, range(5, 0, -2)):
        total += x * k
        if total < -5:
            break
    return total


# ---- arrays in place


@sample(VECTORS)
def writes_in_a_branch(v):
    out = np.zeros(3)
    if v[0] > 0:
        out[1] = v[2]
    else:
        out[0] += v[1]
    return (out * v).sum()


@sample(VECTORS)
def writes_in_a_loop(v):
    out = v.copy()
    i = 0
    while i < 3 and out[i] < 5:
        out[i] = out[i] * 2 + i
        i += 1
    return out.sum()


@sample(VECTORS)
def writes_and_rebinds(v):
    v = v.copy()
    n = 0
    while n < 3:
        v[n] = v[n] + 1
        v = v / (1 + np.abs(v).max())
        n = n + 1 if v[0] < 1 else n + 2
    return v.sum()


@sample(VECTORS)
def in_place_through_an_alias(v):
    w = v * 1.0
    view = w[1:]
    if v[0] > 0:
        view *= 3
    else:
        w += 1
    return (w * v).sum() + view.sum()


@sample(VECTORS)
def alias_chosen_by_a_branch(v):
    a, b = v + 1, v * 2
    if v[0] > 0:
        c = a
    else:
        c = b
    c[0] = 10.0
    a[1] = 20.0
    return (a + 2 * b + 4 * c).sum() + (v * c).sum()


@sample(VECTORS)
def perhaps_a_new_array(v):
    w = v * 1.0
    old = w
    if v[1] > 0:
        w = w * 2
    w[0] = 7.0
    return (old * v).sum() + (w * v).sum()


@sample(VECTORS)
def sorted_by_swaps(v):
    v = v.copy()
    n = 3
    for i in range(n):
        for j in range(n - 1 - i):
            if v[j] > v[j + 1]:
                t = v[j]
                v[j] = v[j + 1]
                v[j + 1] = t
    return v[0] + 2 * v[1] + 4 * v[2]


# ---- functions


def _helper(x):
    if x > 1:
        return _helper2(x) / 2
    return x


def _helper2(x):
    while x > 3:
        x -= 1
    return x


@sample(XS)
def calls_functions(x):
    return _helper(x) + _helper(2 * x)


@sample(XS)
def inner_functions(x):
    scale = 2.0

    def inner(y):
        nonlocal scale
        if y > 1:
            scale = scale * y
            return y
        return -y

    first = inner(x)
    return first + inner(x + 1) * scale


class _Base:
    def step(self, x):
        return x * 2 if x < 3 else x / 2


class _Model(_Base):
    __factor = 3.0

    def __init__(self, bias):
        self.bias = bias

    def step(self, x):
        __private = x
        if x > 0:
            __private = super().step(x) + self.__factor
        return __private + self.bias


@sample(XS)
def methods(x):
    return _Model(0.5).step(x)


@sample(XS)
def with_and_try(x):
    with np.errstate(all="ignore"):
        try:
            if x > 1:
                return x * 2
        finally:
            y = x + 1
    return y


@sample(XS)
def list_made_in_a_branch(x):
    if x > 1:
        items = []
        for i in range(3):
            items.append(x * i)  # noqa: PERF401
        y = sum(items)
    else:
        y = x
    return y


@sample(XS)
def static_conditions_stay_python(x):
    log = []
    for i in range(4):
        if i % 2 == 0:
            log.append(x * i)  # noqa: PERF401
    if len(log) == 2 and x > 1:
        return log[0] + log[1]
    return log[1] - 1


@sample(XS)
def keyword_defaults(x, *, scale=2.0, **rest):
    offset: float = 1.0
    if x > 1:
        offset: float = x
    del rest
    return offset * scale


@sample(XS)
def deep(x):
    total = 0.0
    i = 0
    while i < 3:
        for j in range(3):
            y = x
            while y > 1:
                y = y / 2
                if y < 1.1:
                    if j == 1:
                        break
                    total += y
                else:
                    total -= 0.5 * y
            else:
                total += 1
            if total > 20:
                return total
        i = i + 1 if x > 0 else i + 2
    return total + y
