"""Every mistake a person can make at the interface: the class, the words and the reported line of its error.

A case is a function that makes one mistake, in the statement marked `# offends`; the error must name that
line of this file. The decorator lists the built-in class that a person would catch, and words of the message.
"""

import inspect
import re
from pathlib import Path

import numpy as np
import pytest

import nufunc as nf

X, Y = np.array([1.0, -2.0, 3.0]), np.array([0.5, 1.5, 2.5])
M = np.arange(6.0).reshape(2, 3)
INTS = np.array([1, 2, 3])
STATE = {"log": [], "count": 0}
COUNT = 0
FILE = Path(__file__).name
VALUE, TYPE, INDEX = ValueError, TypeError, IndexError
EITHER = (ValueError, TypeError)
CASES = []


def mistake(kind, pattern):
    def register(case):
        CASES.append(pytest.param(case, kind, pattern, id=case.__name__))
        return case

    return register


def square(x):
    return (x * x).sum()


def offending_line(case):
    lines, first = inspect.getsourcelines(case)
    (line,) = [first + i for i, text in enumerate(lines) if "# offends" in text]
    return line


# ---- values of traced arrays in Python ----


@mistake(TYPE, r"'y' has no value where the condition")
def if_statement():
    def f(x):
        if x[0] > 0:
            y = x
        return y  # offends

    nf.jit(f)(X)


@mistake(TYPE, r"list 'steps' is changed in the body of the `while` loop")
def while_statement():
    def f(x):
        steps = []
        while x.sum() < 10:
            x = x * 2
            steps.append(x)  # offends
        return steps

    nf.jit(f)(X)


@mistake(TYPE, r"traced|bool")
def bool_call():
    nf.jit(lambda x: x * bool(x[0]))(X)  # offends


@mistake(TYPE, r"value of this expression is f64.* but None")
def ternary():
    nf.vmap(lambda x: x if x > 0 else None)(X)  # offends


@mistake(TYPE, r"traced|bool")
def in_operator():
    nf.jit(lambda x: x[0] in (1.0, 2.0))(X)  # offends


@mistake(TYPE, r"traced|bool")
def assert_statement():
    def f(x):
        assert x.min() > 0  # offends
        return x.sum()

    nf.grad(f)(X)


@mistake(TYPE, r"traced|float")
def float_call():
    nf.jit(lambda x: x * float(x[0]))(X)  # offends


@mistake(TYPE, r"traced|int")
def int_call():
    nf.jit(lambda x: x * int(x[0]))(X)  # offends


@mistake(TYPE, r"traced|complex")
def complex_call():
    nf.jit(lambda x: x * complex(x[0]))(X)  # offends


@mistake(TYPE, r"item|traced")
def item_method():
    nf.grad(lambda x: x.sum().item() * 2)(X)  # offends


@mistake(TYPE, r"tolist|traced")
def tolist_method():
    nf.jit(lambda x: np.array(x.tolist()))(X)  # offends


@mistake(TYPE, r"__array__|asarray|traced")
def array_protocol():
    nf.jit(lambda x: x.__array__())(X)  # offends


@mistake(TYPE, r"traced|index|int")
def list_index():
    table = ["a", "b", "c", "d"]
    nf.jit(lambda i: table[i] == "a")(INTS[0])  # offends


@mistake(TYPE, r"traced|shape|static")
def shape_from_a_value():
    nf.jit(lambda x, n: np.zeros(n) + x.sum())(X, INTS[0])  # offends


@mistake(TYPE, r"traced|range|int|fori_loop")
def range_of_a_value():
    nf.jit(lambda x, n: sum(x * i for i in range(n)))(X, INTS[0])  # offends


@mistake((TypeError, NotImplementedError), r"traced|mask|shape|where|size")
def ragged_selection():
    nf.jit(lambda x: x[x > 0])(X)  # offends


@mistake((TypeError, NotImplementedError), r"traced|nonzero|shape|size")
def nonzero_of_a_value():
    nf.vmap(lambda x: np.nonzero(x)[0])(M)  # offends


@mistake(TYPE, r"iterat|0-d|scalar")
def iteration_over_a_scalar():
    nf.vmap(lambda x: sum(v for v in x))(X)  # offends


class Carry(Exception):
    """Takes a traced value out of the function that it belongs to."""


@mistake(TYPE, r"escape|outside|after|belongs")
def escaped_value():
    def f(x):
        raise Carry(x * 2)

    with pytest.raises(Carry) as caught:
        nf.jit(f)(X)
    (kept,) = caught.value.args
    np.sin(kept) + 1.0  # offends


@mistake(TYPE, r"escape|outside|after|belongs")
def escaped_value_in_another_trace():
    def f(x):
        raise Carry(x * 2)

    with pytest.raises(Carry) as caught:
        nf.grad(f)(X)
    (kept,) = caught.value.args
    nf.jit(lambda x: x + kept)(X)  # offends


@mistake(TYPE, r"captured|list|chang|append|mutat")
def captured_list_appended():
    log = []

    def f(x):
        log.append(x.sum())  # offends
        return x

    nf.jit(f)(X)


@mistake(TYPE, r"captured|dict|chang|mutat|global")
def captured_dict_assigned():
    def f(x):
        STATE["count"] = x.sum()  # offends
        return x

    nf.jit(f)(X)


@mistake(TYPE, r"global|COUNT")
def global_assigned():
    def f(x):
        global COUNT
        COUNT = x.sum()  # offends
        return x

    nf.jit(f)(X)


@mistake(TYPE, r"nonlocal|total")
def nonlocal_assigned():
    total = 0.0

    def f(x):
        nonlocal total
        total = total + x.sum()  # offends
        return x

    nf.vmap(f)(X)


# ---- vmap ----


@mistake(EITHER, r"in_dims.*int.*tuple")
def in_dims_list():
    nf.vmap(np.add, in_dims=[0, 0])(X, Y)  # offends


@mistake(EITHER, r"in_dims")
def in_dims_text():
    nf.vmap(np.add, in_dims="rows")(X, Y)  # offends


@mistake(EITHER, r"in_dims")
def in_dims_float():
    nf.vmap(np.sin, in_dims=0.5)(X)  # offends


@mistake(EITHER, r"input|argument")
def vmap_without_arguments():
    nf.vmap(lambda: np.ones(3))()  # offends


@mistake(EITHER, r"in_dims.*(structure|compatible|arguments)")
def in_dims_too_long():
    nf.vmap(np.sin, in_dims=(0, 0))(X)  # offends


@mistake(EITHER, r"in_dims.*(structure|compatible|arguments)")
def in_dims_too_short():
    nf.vmap(np.add, in_dims=(0,))(X, Y)  # offends


@mistake(EITHER, r"in_dims.*(structure|compatible)")
def in_dims_other_keys():
    nf.vmap(lambda p: p["a"], in_dims=({"a": 0, "c": 0},))({"a": X, "b": Y})  # offends


@mistake(EITHER, r"in_dims.*(structure|compatible)")
def in_dims_deeper_than_the_argument():
    nf.vmap(np.sin, in_dims=((0, 0),))(X)  # offends


@mistake((ValueError, IndexError), r"in_dim.*2")
def in_dim_beyond_the_array():
    nf.vmap(np.sin, in_dims=2)(X)  # offends


@mistake((ValueError, IndexError), r"in_dim.*-3")
def in_dim_before_the_array():
    nf.vmap(np.sin, in_dims=(-3,))(M)  # offends


@mistake((ValueError, IndexError), r"in_dim.*0")
def in_dim_of_a_scalar():
    nf.vmap(np.add)(X, np.array(1.0))  # offends


@mistake(EITHER, r"in_dim.*(str|type)")
def in_dim_of_text():
    nf.vmap(lambda x, how: x)(X, "sum")  # offends


@mistake(EITHER, r"in_dim")
def in_dim_of_a_number():
    nf.vmap(np.multiply)(X, 2.0)  # offends


@mistake(VALUE, r"size.*(2.*3|3.*2)")
def sizes_that_differ():
    nf.vmap(lambda x, y: x.sum() + y)(M, X)  # offends


@mistake(VALUE, r"size.*(2.*3|3.*2)")
def sizes_that_differ_in_a_tree():
    nf.vmap(lambda p: p["a"].sum() + p["b"])({"a": M, "b": X})  # offends


@mistake(EITHER, r"at least one|in_dims")
def nothing_mapped():
    nf.vmap(np.add, in_dims=None)(X, Y)  # offends


@mistake(EITHER, r"at least one|in_dims")
def nothing_mapped_in_a_tuple():
    nf.vmap(np.add, in_dims=(None, None))(X, Y)  # offends


@mistake(EITHER, r"out_dims")
def out_dims_text():
    nf.vmap(np.sin, out_dims="rows")(X)  # offends


@mistake(EITHER, r"out_dims.*(structure|compatible)")
def out_dims_too_long():
    nf.vmap(np.sin, out_dims=(0, 0))(X)  # offends


@mistake(EITHER, r"out_dims.*(structure|compatible)")
def out_dims_other_keys():
    nf.vmap(lambda x: {"a": x}, out_dims={"b": 0})(X)  # offends


@mistake((IndexError, ValueError), r"out_dim.*3|range")
def out_dim_beyond_the_result():
    nf.vmap(np.sin, out_dims=3)(M)  # offends


@mistake((IndexError, ValueError), r"out_dim.*-3|range")
def out_dim_before_the_result():
    nf.vmap(np.sin, out_dims=-3)(M)  # offends


@mistake(VALUE, r"out_dim.*None|None.*out_dim")
def out_dim_none_of_a_mapped_result():
    nf.vmap(np.sin, out_dims=None)(X)  # offends


@mistake(EITHER, r"chunk_size")
def chunk_size_zero():
    nf.vmap(np.sin, chunk_size=0)(X)  # offends


@mistake(EITHER, r"chunk_size")
def chunk_size_negative():
    nf.vmap(np.sin, chunk_size=-2)(X)  # offends


@mistake(EITHER, r"chunk_size")
def chunk_size_text():
    nf.vmap(np.sin, chunk_size="half")(X)  # offends


@mistake(VALUE, r"randomness.*error.*different.*same|randomness")
def unknown_randomness():
    nf.vmap(np.sin, randomness="sometimes")(X)  # offends


@mistake(EITHER, r"return|array")
def vmap_of_a_function_returning_text():
    nf.vmap(lambda x: "text")(X)  # offends


@mistake(EITHER, r"return|array")
def vmap_of_a_function_returning_an_object():
    nf.vmap(lambda x: {"a": x, "b": object()})(X)  # offends


# ---- grad ----


@mistake(EITHER, r"argnums.*(int|tuple)")
def argnums_list():
    nf.grad(np.dot, argnums=[0, 1])(X, Y)  # offends


@mistake(EITHER, r"argnum")
def argnums_text():
    nf.grad(np.dot, argnums="x")(X, Y)  # offends


@mistake(EITHER, r"argnum")
def argnums_float():
    nf.grad(np.dot, argnums=0.0)(X, Y)  # offends


@mistake(EITHER, r"argnum")
def argnums_with_text_inside():
    nf.grad(np.dot, argnums=(0, "y"))(X, Y)  # offends


@mistake(VALUE, r"argnums.*empty")
def argnums_empty():
    nf.grad(np.dot, argnums=())(X, Y)  # offends


@mistake(VALUE, r"argnums.*(unique|repeat|twice)")
def argnums_repeated():
    nf.grad(np.dot, argnums=(0, 0))(X, Y)  # offends


@mistake(VALUE, r"argnums.*(unique|repeat|twice)")
def argnums_repeated_from_the_end():
    nf.grad(np.dot, argnums=(0, -2))(X, Y)  # offends


@mistake((ValueError, IndexError), r"argnum.*2.*positional")
def argnum_too_large():
    nf.grad(np.dot, argnums=2)(X, Y)  # offends


@mistake((ValueError, IndexError), r"argnum.*-3.*positional")
def argnum_too_small():
    nf.grad(np.dot, argnums=-3)(X, Y)  # offends


@mistake((ValueError, IndexError), r"argnum.*0.*positional")
def argument_given_by_keyword():
    nf.grad(square)(x=X)  # offends


@mistake(EITHER, r"scalar.*(\(3,\)|1 dim|dim.*1|vjp|jacrev)")
def vector_output_of_grad():
    nf.grad(lambda x: x * x)(X)  # offends


@mistake(EITHER, r"scalar")
def one_element_output_of_grad():
    nf.grad(lambda x: (x * x).sum(keepdims=True))(X)  # offends


@mistake(EITHER, r"(int|floating|real)")
def integer_output_of_grad():
    nf.grad(lambda x: np.argmax(x))(X)  # offends


@mistake(EITHER, r"(bool|floating|real)")
def bool_output_of_grad():
    nf.value_and_grad(lambda x: (x > 0).any())(X)  # offends


@mistake(EITHER, r"complex|real")
def complex_output_of_grad():
    nf.grad(lambda x: (x * 1j).sum())(X)  # offends


@mistake(EITHER, r"array|scalar|return")
def no_output_of_grad():
    nf.grad(lambda x: None)(X)  # offends


@mistake(EITHER, r"array|scalar|return")
def text_output_of_grad():
    nf.grad(lambda x: "text")(X)  # offends


@mistake(EITHER, r"tuple|has_aux|scalar|array")
def tuple_output_without_has_aux():
    nf.grad(lambda x: (x.sum(), x))(X)  # offends


@mistake(EITHER, r"aux")
def has_aux_without_a_tuple():
    nf.grad(lambda x: (x * x).sum(), has_aux=True)(X)  # offends


@mistake(EITHER, r"aux")
def has_aux_with_three_outputs():
    nf.grad_and_value(lambda x: (x.sum(), x, x), has_aux=True)(X)  # offends


@mistake(EITHER, r"aux")
def has_aux_with_a_list():
    nf.grad(lambda x: [x.sum(), x], has_aux=True)(X)  # offends


@mistake(EITHER, r"int64|int|float")
def integer_input_of_grad():
    nf.grad(square)(INTS)  # offends


@mistake(EITHER, r"bool|float")
def bool_input_of_grad():
    nf.grad(lambda x: x.sum() * 1.0)(X > 0)  # offends


@mistake(EITHER, r"int|float")
def python_int_input_of_grad():
    nf.grad(lambda x: x * 2.0)(3)  # offends


@mistake(EITHER, r"str|array|float")
def text_input_of_grad():
    nf.grad(lambda x: np.float64(1.0))("text")  # offends


@mistake(EITHER, r"int64|int|float")
def integer_leaf_of_grad():
    nf.grad(lambda p: (p["w"] * p["n"]).sum())({"w": X, "n": INTS})  # offends


# ---- vjp, jvp, linearize ----


@mistake(EITHER, r"cotangent")
def cotangent_of_another_tree():
    _, pull = nf.vjp(lambda x: (x, x), X)
    pull(X)  # offends


@mistake(EITHER, r"cotangent")
def cotangent_of_another_container():
    _, pull = nf.vjp(lambda x: {"a": x}, X)
    pull({"b": X})  # offends


@mistake(VALUE, r"cotangent.*(\(2,\).*\(3,\)|\(3,\).*\(2,\)|shape)")
def cotangent_of_another_shape():
    _, pull = nf.vjp(np.sin, X)
    pull(np.ones(2))  # offends


@mistake(EITHER, r"cotangent.*(complex|dtype)|complex")
def cotangent_of_another_dtype():
    _, pull = nf.vjp(np.sin, X)
    pull(X * 1j)  # offends


@mistake(EITHER, r"int|float")
def integer_output_of_vjp():
    nf.vjp(lambda x: np.argsort(x), X)  # offends


@mistake(EITHER, r"output|return")
def no_output_of_vjp():
    nf.vjp(lambda x: None, X)  # offends


@mistake(EITHER, r"primal|argument")
def vjp_without_primals():
    nf.vjp(lambda: X)  # offends


@mistake(EITHER, r"int|float|primal")
def integer_primal_of_vjp():
    nf.vjp(lambda x: x * 2.0, INTS)  # offends


@mistake(EITHER, r"aux")
def vjp_has_aux_without_a_tuple():
    nf.vjp(np.sin, X, has_aux=True)  # offends


@mistake(EITHER, r"primals.*tuple")
def jvp_primals_not_a_tuple():
    nf.jvp(np.sin, X, (X,))  # offends


@mistake(EITHER, r"tangents.*tuple|tangent")
def jvp_tangents_not_a_tuple():
    nf.jvp(np.sin, (X,), X)  # offends


@mistake(EITHER, r"tangent")
def jvp_of_another_length():
    nf.jvp(np.add, (X, Y), (X,))  # offends


@mistake(EITHER, r"tangent")
def tangent_of_another_tree():
    nf.jvp(lambda p: p["a"], ({"a": X},), ({"b": X},))  # offends


@mistake(VALUE, r"tangent.*(\(2,\).*\(3,\)|\(3,\).*\(2,\)|shape)")
def tangent_of_another_shape():
    nf.jvp(np.sin, (X,), (np.ones(2),))  # offends


@mistake(EITHER, r"tangent.*(float32|dtype)|float32")
def tangent_of_another_dtype():
    nf.jvp(np.sin, (X,), (X.astype(np.float32),))  # offends


@mistake(EITHER, r"int|float|primal")
def integer_primal_of_jvp():
    nf.jvp(lambda x: x * 2.0, (INTS,), (INTS,))  # offends


@mistake(EITHER, r"primal|argument|at least one")
def jvp_without_primals():
    nf.jvp(lambda: X, (), ())  # offends


@mistake(EITHER, r"strict|independent|depend")
def strict_jvp_of_a_constant():
    nf.jvp(lambda x: np.ones(3), (X,), (X,), strict=True)  # offends


@mistake(VALUE, r"tangent.*shape|shape|\(2,\)")
def linearized_with_another_shape():
    _, push = nf.linearize(np.sin, X)
    push(np.ones(2))  # offends


@mistake(EITHER, r"tangent|argument")
def linearized_with_too_many_tangents():
    _, push = nf.linearize(np.sin, X)
    push(X, X)  # offends


@mistake(EITHER, r"dtype|complex|tangent")
def linearized_with_another_dtype():
    _, push = nf.linearize(np.sin, X)
    push(X * 1j)  # offends


# ---- jacobians, functionalize, jit, transform ----


@mistake(EITHER, r"chunk_size")
def chunk_size_of_jacrev():
    nf.jacrev(np.sin, chunk_size=0)(X)  # offends


@mistake(EITHER, r"int|float")
def integer_input_of_jacfwd():
    nf.jacfwd(lambda x: x * 2.0)(INTS)  # offends


@mistake(EITHER, r"int|float")
def integer_output_of_jacrev():
    nf.jacrev(lambda x: np.argsort(x))(X)  # offends


@mistake((ValueError, IndexError), r"argnum.*1.*positional")
def argnum_of_jacrev():
    nf.jacrev(np.sin, argnums=1)(X)  # offends


@mistake(VALUE, r"argnums.*(unique|repeat|twice)")
def argnums_of_hessian():
    nf.hessian(square, argnums=(0, 0))(X)  # offends


@mistake(EITHER, r"complex|holomorphic")
def complex_input_of_jacrev():
    nf.jacrev(lambda z: z * 2)(X * 1j)  # offends


@mistake(EITHER, r"remove.*mutations")
def functionalize_of_something_else():
    nf.functionalize(square, remove="everything")(X)  # offends


@mistake(EITHER, r"static|hash")
def static_argument_that_cannot_be_hashed():
    nf.jit(lambda x, n: x, static_argnums=1)(X, np.ones(2))  # offends


@mistake((ValueError, TypeError, IndexError), r"static_argnums")
def static_argnums_text():
    nf.jit(lambda x: x, static_argnums="x")(X)  # offends


@mistake(EITHER, r"target.*(cpu|cuda)")
def unknown_target():
    nf.jit(square, target="abacus")(X)  # offends


@mistake(EITHER, r"transform")
def transform_of_text():
    nf.transform("vmap")(square)(X)  # offends


@mistake(TYPE, r"call|function")
def grad_of_a_number():
    nf.grad(3.0)(X)  # offends


@mistake(TYPE, r"call|function")
def vmap_of_an_array():
    nf.vmap(X)(X)  # offends


# ---- inside the user's function ----


@mistake(VALUE, r"\(2,\).*\(3,\)|\(3,\).*\(2,\)|broadcast")
def shapes_that_do_not_broadcast():
    def f(x, y):
        z = x * 2
        return z + y[:2]  # offends

    nf.jit(f)(X, Y)


@mistake(VALUE, r"\(3,\).*\(2, 3\)|\(2, 3\).*\(3,\)|matmul")
def matmul_of_other_sizes():
    def f(x):
        return (x @ M).sum()  # offends

    nf.grad(f)(X)


@mistake(VALUE, r"reshape.*\(3,\)|\(3,\).*\(2, 2\)|reshape")
def reshape_to_another_size():
    nf.vmap(lambda x: x.reshape(2, 2))(M)  # offends


@mistake((IndexError, ValueError), r"5|bounds|range")
def index_out_of_bounds():
    nf.jit(lambda x: x[5])(X)  # offends


@mistake((IndexError, ValueError), r"ind|dimension")
def too_many_indices():
    nf.vmap(lambda x: x[0, 0])(M)  # offends


@mistake((ValueError, IndexError), r"axis.*1|1.*axis")
def axis_out_of_bounds():
    nf.vmap(lambda x: x.sum(axis=1))(M)  # offends


@mistake(VALUE, r"concatenate|shape|\(2, 3\)|dimension")
def concatenate_of_other_shapes():
    nf.jit(lambda x, m: np.concatenate([x, m]))(X, M)  # offends


@mistake(VALUE, r"square|\(2, 3\)")
def inverse_of_an_oblong_matrix():
    nf.jit(lambda m: np.linalg.inv(m))(M)  # offends


@mistake(VALUE, r"\(2,\)|\(3,\)|broadcast|shape")
def write_of_another_shape():
    def f(x):
        y = np.zeros(3)
        y[:] = x[:2]  # offends
        return y

    nf.jit(f)(X)


@mistake(VALUE, r"\(2,\).*\(3,\)|\(3,\).*\(2,\)|broadcast")
def shapes_inside_nested_transforms():
    def loss(w, x):
        return ((w * x)[:2] - x).sum()  # offends

    nf.vmap(nf.grad(loss), in_dims=(None, 0))(X, M)


# ---- arrays that are not numbers ----


@mistake(EITHER, r"object|dtype")
def object_array():
    nf.jit(lambda x: x)(np.array([1, None, "a"], dtype=object))  # offends


@mistake(EITHER, r"str|dtype|<U")
def text_array():
    nf.vmap(lambda x: x)(np.array(["a", "b"]))  # offends


@mistake(EITHER, r"datetime|dtype")
def datetime_array():
    nf.jit(lambda x: x)(np.array(["2020-01-01"], dtype="datetime64[D]"))  # offends


@mistake(EITHER, r"[Mm]asked")
def masked_array():
    nf.grad(square)(np.ma.masked_array(X, mask=[0, 1, 0]))  # offends


@mistake(EITHER, r"matrix")
def matrix_argument():
    nf.jit(lambda x: x * x)(np.ones((2, 2)).view(np.matrix))  # offends


@mistake(EITHER, r"[Mm]asked")
def captured_masked_array():
    captured = np.ma.masked_array(X, mask=[0, 1, 0])
    nf.jit(lambda x: x + captured)(X)  # offends


@mistake(EITHER, r"void|struct|record|dtype")
def record_array():
    nf.jit(lambda x: x)(np.zeros(2, dtype=[("a", "f8")]))  # offends


@pytest.mark.parametrize(("case", "kind", "pattern"), CASES)
def test_mistake(case, kind, pattern):
    with pytest.raises(nf.NufuncError) as caught:
        case()
    error, message = caught.value, str(caught.value)
    assert isinstance(error, kind), f"{type(error).__mro__}: {message}"
    assert re.search(pattern, message, re.DOTALL), message
    line = offending_line(case)
    assert re.search(rf"{re.escape(FILE)}[\"']?(:|, line ){line}\b", message), f"not line {line}: {message}"


VALUES_IN_PYTHON = (
    if_statement, while_statement, bool_call, float_call, int_call, item_method, array_protocol,
)
ESCAPES = (escaped_value, escaped_value_in_another_trace)


def name_of(case):
    return case.__name__


@pytest.mark.parametrize("case", VALUES_IN_PYTHON, ids=name_of)
def test_a_value_asked_for_while_tracing_is_a_trace_error(case):
    with pytest.raises(nf.TraceError):
        case()


@pytest.mark.parametrize("case", ESCAPES, ids=name_of)
def test_an_escaped_value_has_its_own_class(case):
    with pytest.raises(nf.EscapedTracerError):
        case()


def test_nothing_is_changed_by_a_refused_write():
    for case in (captured_dict_assigned, global_assigned):
        with pytest.raises(nf.TraceError):
            case()
    assert STATE["count"] == 0
    assert COUNT == 0


def test_integers_go_through_jit_and_vmap():
    """What grad refuses, the others take."""
    np.testing.assert_array_equal(nf.jit(lambda x: x * 2)(INTS), INTS * 2)
    np.testing.assert_array_equal(nf.vmap(lambda x: x * 2)(INTS), INTS * 2)


def test_a_singular_matrix_is_numpys_error():
    singular = np.ones((2, 2))
    with pytest.raises(np.linalg.LinAlgError):
        nf.jit(lambda m: np.linalg.solve(m, np.ones(2)))(singular)
    with pytest.raises(np.linalg.LinAlgError):
        nf.jit(lambda m: np.linalg.inv(m))(singular)
