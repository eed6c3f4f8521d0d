"""Python's own control flow on traced values: programs in every way they run, and what is refused, with its line."""

import dataclasses
import doctest
import inspect
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from staging_programs import check_staging_program
from staging_samples import SAMPLES

import nufunc as nf
from nufunc.tracer import staging


def lanes(sample: Any) -> list[tuple[np.ndarray, ...]]:
    return list(zip(*sample.lanes, strict=True))


def eager(sample: Any, *args: Any) -> Any:
    """What NumPy gives for one lane."""
    return sample.function(*(np.copy(a)[()] for a in args))


def slope(sample: Any, direction: Any, x: Any, *rest: Any) -> Any:
    """The central difference in the first argument."""
    step = 1e-6 * direction
    return (eager(sample, x + step, *rest) - eager(sample, x - step, *rest)) / 2e-6


SMOOTH = [pytest.param(s, id=s.function.__name__) for s in SAMPLES if s.smooth]
PLAIN = [
    pytest.param(s, id=s.function.__name__)
    for s in SAMPLES
    if not s.smooth or any(word in s.function.__name__ for word in ("write", "alias", "else", "connective"))
]


@pytest.mark.parametrize("sample", PLAIN)
def test_values_alone_and_in_lanes(sample):
    expected = [eager(sample, *lane) for lane in lanes(sample)]
    f = nf.jit(sample.function)
    np.testing.assert_allclose([f(*lane) for lane in lanes(sample)], expected, rtol=1e-12)
    np.testing.assert_allclose(nf.vmap(sample.function)(*sample.lanes), expected, rtol=1e-12)


@pytest.mark.parametrize("sample", SMOOTH)
def test_values_and_forward_derivatives(sample):
    for x, *rest in lanes(sample):
        direction = np.linspace(1.0, 0.25, np.size(x)).reshape(np.shape(x))[()]
        value, tangent = nf.jvp(lambda x, rest=rest: sample.function(x, *rest), (x,), (direction,))
        np.testing.assert_allclose(value, eager(sample, x, *rest), rtol=1e-12)
        np.testing.assert_allclose(tangent, slope(sample, direction, x, *rest), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("sample", SMOOTH)
def test_reverse_derivatives_where_each_lane_goes_its_own_way(sample):
    values, gradients = nf.vmap(nf.value_and_grad(sample.function))(*sample.lanes)
    for value, gradient, (x, *rest) in zip(values, gradients, lanes(sample), strict=True):
        np.testing.assert_allclose(value, eager(sample, x, *rest), rtol=1e-12)
        for k, unit in enumerate(np.eye(np.size(x))):
            expected = slope(sample, unit.reshape(np.shape(x)), x, *rest)
            np.testing.assert_allclose(np.ravel(gradient)[k], expected, rtol=1e-5, atol=1e-6)


# ---- what is refused: the line marked `# offends`, and words of the reason

X = np.array([1.0, -2.0, 3.0])
REFUSED: list[Any] = []


def refused(pattern: str) -> Any:
    def register(case: Any) -> Any:
        REFUSED.append(pytest.param(case, pattern, id=case.__name__))
        return case

    return register


@refused("list 'out' is changed in a branch")
def append_in_a_branch():
    def f(x):
        out = []
        if x[0] > 0:
            out.append(x)  # offends
        return sum(out)

    nf.jit(f)(X)


@refused("list 'out' is changed in the body of the `while` loop")
def a_list_that_grows():
    def f(x):
        out = []
        while x[0] < 10:
            out.append(x[0])  # offends
            x = x * 2
        return out

    nf.jit(f)(X)


@refused("dict 'table' is changed in a branch")
def an_item_of_a_dict():
    def f(x):
        table = {"a": 1.0}
        if x[0] > 0:
            x = x + 1
            table["a"] = x[0]  # offends
        return table["a"]

    nf.jit(f)(X)


class Counter:
    def __init__(self):
        self.n = 0

    def bump(self):
        self.n += 1  # offends


@refused("attribute of 'counter'")
def an_attribute_in_a_method():
    def f(x):
        counter = Counter()
        y = x * 2
        if x[0] > 0:
            counter.bump()
        return y * counter.n

    nf.jit(f)(X)


@refused("attribute of 'self'")
def an_attribute_of_self():
    class Model:
        def __init__(self):
            self.last = None

        def __call__(self, x):
            if x[0] > 0:
                self.last = x  # offends
            return x

    nf.jit(lambda x: Model()(x))(X)


@refused("nonlocal variable 'count'")
def a_nonlocal_changed_by_a_call():
    def f(x):
        count = 0

        def bump():
            nonlocal count
            count += 1  # offends

        if x[0] > 0:
            bump()
        return x * count

    nf.jit(f)(X)


@refused("list 'stack' is changed in a")
def an_operand_with_an_effect():
    def f(x):
        stack = [5.0, 4.0]
        if 0 < x[0] < stack.pop():  # offends
            x = x + 1
        return x * len(stack)

    nf.jit(f)(X)


@refused("an iterator")
def an_iterator_moves():
    def f(x):
        scales = iter([1.0, 2.0])
        if x[0] > 0:
            x = x * next(scales)  # offends
        return x * next(scales)

    nf.jit(f)(X)


@refused("variable 'y' has no value where the condition .* is false")
def assigned_on_one_path():
    def f(x):
        if x[0] > 0:
            y = x
        return y  # offends

    nf.jit(f)(X)


@refused("variable 'y' is assigned only in the `while` loop .* may run no iteration")
def assigned_in_a_loop():
    def f(x):
        while x[0] < 10:
            y = x[0] * 2
            x = x + y
        return y  # offends

    nf.jit(f)(X)


@refused(r"variable 'y' is f64\[2\] where the condition .* f64\[3\] where")
def shapes_that_differ():
    def f(x):
        y = x if x[0] > 5 else x * 2
        if x[0] > 0:
            y = y[:2]
        return y * 2  # offends

    nf.jit(f)(X)


@refused("variable 'mode' is 'down' where .* 'up' where")
def texts_that_differ():
    def f(x):
        mode = "up" if x.shape == (3,) else "none"
        if x[0] < 0:
            mode = "down"
        return x if mode == "up" else -x  # offends

    nf.jit(f)(X)


@refused("value of this expression is f64.* None")
def a_ternary_of_none():
    nf.jit(lambda x: x if x[0] > 0 else None)(X)  # offends


@refused(r"function's result is .* where the condition")
def a_result_on_one_path_only():
    def f(x):
        if x[0] > 0:
            return x
        # offends below: the end of the function
        x = x + 1  # offends

    nf.jit(f)(X)


@refused("variable 'total' is .* before the `while` loop .* after an iteration")
def a_carry_that_changes_its_shape():
    def f(x):
        total = np.zeros(1)
        while x[0] < 10:
            x = x * 2
            total = np.concatenate([total, x[:1]])  # offends
        return total

    nf.jit(f)(X)


@refused("raised ValueError: negative")
def raise_in_a_branch():
    def f(x):
        if x[0] < 0:
            raise ValueError("negative")  # offends
        return x

    nf.jit(f)(X)


@refused("never ends")
def an_endless_loop():
    def f(x):
        y = x
        go = x[0] > 0
        while go:  # offends
            y = y + 1
            go = True
        return y

    nf.jit(f)(X)


@refused("comprehension")
def a_filtered_comprehension():
    nf.jit(lambda x: [v for v in x if v > 0])(X)  # offends


@refused("assert")
def an_assertion():
    def f(x):
        assert x[0] > 0  # offends
        return x

    nf.jit(f)(X)


@refused("match")
def a_match_statement():
    def f(x):
        match x[0]:
            case 0:  # offends
                return x
        return -x

    nf.jit(f)(X)


@refused("generator")
def a_generator():
    def rows(x):
        for row in x:
            if row > 0:  # offends
                yield row

    nf.jit(lambda x: sum(rows(x)))(X)


@refused("a list is changed after a traced condition decided whether 'q' is that list or another")
def a_list_or_another_is_changed():
    def f(x):
        p = [x, x]
        q = [x, 2 * x]
        if x[0] > 0:  # offends
            q = p
        q[0] = 5.0
        return p[0] + q[0]

    nf.jit(f)(X)


@refused("may share its memory")
def written_where_memory_is_unknown():
    def f(x):
        a, b = x * 1, x * 2
        i = 0
        while i < x[0]:
            a, b = b, a
            i += 1
        a[0] = 5.0  # offends
        return a + b

    nf.jit(f)(X)


@pytest.mark.parametrize(("case", "pattern"), REFUSED)
def test_refused(case, pattern):
    with pytest.raises(nf.TraceError) as caught:
        case()
    message = str(caught.value)
    assert re.search(pattern, message, re.DOTALL), message
    lines, first = inspect.getsourcelines(Counter.bump if case is an_attribute_in_a_method else case)
    offending = [first + i for i, text in enumerate(lines) if text.rstrip().endswith("# offends")]
    found = re.search(rf'File ".*{re.escape(Path(__file__).name)}", line (\d+)', message.rpartition("\n")[2])
    assert found, message
    assert int(found.group(1)) in offending, message


def test_bare_excepts_do_not_hide_what_asks():
    def f(x):
        try:
            y = x if x > 0 else -x
        except:  # noqa: E722
            y = 0.0
        return y

    assert nf.jit(f)(-2.0) == 2.0


def test_doctests_have_sources():
    text = """
    >>> import numpy as np, nufunc as nf
    >>> @nf.jit
    ... def f(x):
    ...     while x > 1:
    ...         x = x / 2
    ...     return x
    >>> print(f(5.0))
    0.625
    """
    test = doctest.DocTestParser().get_doctest(text, {}, "staging", "staging", 0)
    assert doctest.DocTestRunner().run(test).failed == 0


def test_no_source_is_said():
    namespace = {}
    exec("def f(x):\n    if x > 0:\n        return x\n    return -x", namespace)
    with pytest.raises(nf.TraceError, match=r"source \(<string>\) is not available"):
        nf.jit(namespace["f"])(1.0)


def test_the_switch(monkeypatch):
    def f(x):
        return x if x > 0 else -x

    monkeypatch.setenv("NUFUNC_STAGING", "0")
    with pytest.raises(nf.TraceError, match="switched off by NUFUNC_STAGING"):
        nf.jit(f)(1.0)
    monkeypatch.delenv("NUFUNC_STAGING")
    assert nf.jit(f)(-2.0) == 2.0


def test_lambdas_of_one_line_are_told_apart():
    pair = (lambda x: x if x > 0 else -x), (lambda x: x if x > 1 else -x)
    assert [float(nf.jit(f)(0.5)) for f in pair] == [0.5, -0.5]


@pytest.mark.parametrize("seed", range(6))
def test_random_programs(seed):
    check_staging_program(seed)


@pytest.mark.slow
@pytest.mark.parametrize("first", range(1000, 1400, 50))
def test_more_random_programs(first):
    for seed in range(first, first + 50):
        check_staging_program(seed)


def test_printing_on_a_path_is_noted():
    def f(x):
        if x > 0:
            print("positive")
        return x

    with pytest.warns(UserWarning, match=r"nf\.debug\.print") as caught:
        nf.jit(f)(1.0)
    assert Path(caught[0].filename).name == Path(__file__).name


def test_effects_happen_on_the_path_that_is_taken(capsys):
    @nf.jit
    def f(x):
        if x > 0:
            nf.debug.print("{}", x)
        for i in range(3):
            if x > i:
                nf.debug.print("more than {}", i)
        return x

    f(-1.0)
    assert capsys.readouterr().out == ""
    f(1.5)
    assert capsys.readouterr().out == "1.5\nmore than 0\nmore than 1\n"


def test_a_recursion_that_a_traced_value_would_end():
    def factorial(n):
        return 1 if n < 2 else n * factorial(n - 1)

    with pytest.raises(nf.TraceError, match="write a loop"):
        nf.jit(factorial)(5.0)


def test_static_conditions_run_one_branch_with_its_effects():
    seen = []

    def f(x, flag):
        log = []
        if flag:
            log.append(1)
        else:
            seen.append(0)
        while len(log) < 3:
            log.append(len(log))
        if x > 0:
            x = x * len(log)
        return x

    assert nf.jit(f)(2.0, True) == 6.0
    assert seen == []


def test_arguments_are_written_where_python_writes_them():
    def scaled(x):
        while x[0] > 1:
            x = x / 2
        x[1] = 9.0
        return x

    def chosen(x):
        y = x if x[0] > 0 else x * 2
        y[1] = 9.0
        return y

    for f in (scaled, chosen):
        for start in (4.0, -1.0):
            ours, pythons = np.array([start, 2.0, 3.0]), np.array([start, 2.0, 3.0])
            np.testing.assert_array_equal(nf.jit(f)(ours), f(pythons))
            np.testing.assert_array_equal(ours, pythons)


def test_methods_and_classes():
    class Shape:
        factor = 2.0

        def area(self, x):
            return Shape.factor * x if x > 0 else -x

        @staticmethod
        def sign(x):
            if x > 0:
                return Shape.factor
            return Shape.factor * x

        @classmethod
        def twice(cls, x):
            return cls.factor * x if x > 0 else x

        @property
        def size(self):
            return self.x if self.x > 0 else -self.x

    def through_a_property(x):
        shape = Shape()
        shape.x = x
        return shape.size

    found = [nf.jit(f)(v) for f in (Shape().area, Shape.sign, Shape.twice, through_a_property) for v in (3.0, -3.0)]
    assert found == [6.0, 3.0, 2.0, -6.0, 6.0, -3.0, 3.0, 3.0]


def test_types_are_pythons():
    def total(x):
        s = 0
        while s < 3:
            s = s + x
        return s

    assert nf.jit(total)(np.float32(1)).dtype == np.float32
    assert nf.jit(total)(1.5).dtype == np.float64


def test_trees_of_parameters_are_replaced():
    def f(x):
        params = {"w": x, "b": [x, 1.0]}
        best = params
        for i in range(3):
            params = {"w": params["w"] * 0.5, "b": [params["b"][0] + 1, 2.0]}
            if params["w"] + i < 2:
                best = params
        return best

    for x in (3.0, 0.5, 30.0):
        assert nf.jit(f)(x) == f(x)


class Layer:
    """An object with a method that branches."""

    scale = 2.0

    def __init__(self, w):
        self.w = w

    def __call__(self, x):
        y = self.w @ x
        if y.sum() > 0:
            return np.tanh(y) * self.scale
        return y


def test_methods_of_captured_objects():
    layer = Layer(np.array([[1.0, 2.0], [0.5, -1.0]]))
    for x in (np.array([1.0, 0.5]), np.array([-1.0, 0.5])):
        np.testing.assert_allclose(nf.jit(lambda x: layer(x))(x), layer(x))


@dataclasses.dataclass
class Model:
    """An argument that is a tree, with methods."""

    w: np.ndarray

    def __call__(self, x):
        y = self.w @ x
        if y.sum() > 0:
            return np.tanh(y)
        return y

    def scaled(self, x):
        if x > 0:
            return Model(self.w * x)
        return self


def test_methods_of_arguments():
    model, x = Model(np.eye(2)), np.array([1.0, 2.0])
    gradient = nf.grad(lambda m, x: m(x).sum())(model, x)
    np.testing.assert_allclose(gradient.w, np.outer(1 - np.tanh(x) ** 2, x))
    for factor in (2.0, -1.0):
        np.testing.assert_allclose(nf.jit(lambda m, f: m.scaled(f))(model, factor).w, model.scaled(factor).w)


def test_who_never_asks_is_left_alone():
    def static(x, n):
        total = x
        for i in range(n):
            if i % 2 and not (i % 3):
                total = total * i if i < 4 else total + x
        return total

    def asks(x):
        return x if x > 0 else -x

    before = staging.requests()
    nf.jit(static)(2.0, 5)
    assert staging.requests() == before
    f = nf.jit(asks)
    assert [f(-2.0), f(np.float32(-2)), nf.grad(asks)(-2.0)] == [2.0, 2.0, -1.0]
    assert staging.requests() == before + 1


def test_many_operands_are_traced_a_few_times_each():
    def f(x):
        return x if x > 0 and x > 1 and x > 2 and x > 3 and x > 4 and x > 5 and x > 6 and np.exp(x) > 1100 else -x

    staged = nf.jit(f)
    assert [float(staged(v)) for v in (7.5, 6.5, -1.0)] == [7.5, -6.5, 1.0]
    assert len(nf.dump(f, 1.0, stage="simplified").splitlines()) < 60


def test_classes_in_inner_functions():
    def outer(scale):
        def f(x):
            class Local:
                def times(self, y):
                    return y * scale if y > 0 else y

            return Local().times(x), Local.__qualname__

        return f

    f = nf.jit(outer(3.0))
    assert [f(v)[0] for v in (2.0, -2.0)] == [6.0, -2.0]
    assert f(2.0)[1] == outer(3.0)(2.0)[1]
