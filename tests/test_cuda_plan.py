"""Programs for devices of straight-line graphs: where values stand, what is in place, and the results."""

import numpy as np
import pytest
from cuda_machine import Machine
from cuda_programs import CUDA_PROGRAMS, array
from pass_programs import graph_of

from nufunc.codegen.cuda.kernels import Kernel
from nufunc.codegen.cuda.plan import device_program
from nufunc.codegen.cuda.program import Copy, Launch, Place, launched
from nufunc.codegen.loops import Buffer
from nufunc.ir.errors import BoundsError, LinAlgError
from nufunc.ir.interpret import run
from nufunc.passes.fuse import fuse


def check(graph, *arguments, lent=None, early=(), rtol=1e-12):
    """The program of a graph, and its run, compared with the interpreter."""
    arguments = [np.asarray(a, t.dtype) for a, t in zip(arguments, graph.param_types, strict=True)]
    program = device_program(fuse(graph), graph.name, lent, early)
    for got, want in zip(Machine(program, arguments).run(), run(graph, arguments), strict=True):
        np.testing.assert_allclose(got, want, rtol=rtol)
        assert (got.dtype, got.shape) == (want.dtype, want.shape)
    return program


def kinds(program):
    return [type(s).__name__ for s in program.walk()]


def places(program):
    return [(o.place.space, o.place.number) for o in program.outputs]


@pytest.mark.parametrize("program", CUDA_PROGRAMS, ids=repr)
def test_straight_lines(program):
    single = any(v.dtype in (np.float32, np.complex64) for n in program.graph.nodes for v in (*n.operands, *n.results))
    made = check(program.graph, *program.arguments, rtol=1e-5 if single else 1e-11)
    assert made.replayable


X = np.linspace(-1, 2, 12).reshape(3, 4)
F34, F43 = array("f8", 3, 4), array("f8", 4, 3)


def test_outputs_that_alias():
    graph = graph_of(lambda b, x: (x, b.sin(x), b.reshape(x, shape=(12,)), b.transpose(x, perm=(1, 0)), x), F34)
    program = check(graph, X)
    assert places(program) == [("output", k) for k in range(5)]


def test_one_value_twice_and_constants():
    def function(b, x):
        y = b.exp(x)
        return y, y, b.const(np.arange(3.0)), b.reshape(y, shape=(2, 6))

    program = check(graph_of(function, F34), X)
    assert kinds(program) == ["Launch", "Copy", "Copy", "Copy"]


def test_nothing_to_do():
    empty = array("f8", 0, 4)
    program = check(graph_of(lambda b, x: (b.sin(x), b.reduce_sum(x, axes=(0,))), empty), np.zeros((0, 4)))
    assert kinds(program) == ["Launch"]
    assert check(graph_of(lambda b: ())).steps == ()


def test_memory_is_shared():
    big = array("f8", 100, 100)

    def chain(b, x):
        for _ in range(6):
            x = b.dot(x, x, contract=((1,), (0,)), batch=((), ()))
        return x

    program = check(graph_of(chain, big), np.eye(100) * 1.01)
    scratch = max(s.scratch for s in program.walk())
    assert program.workspace < scratch + 2 * 80_000  # the memory of the output is used as well


def test_updates_in_place():
    def function(b, x, v):
        y = b.mul(x, x)
        return b.update(y, v, start=(1, 0), stop=(2, 4), step=(1, 1))

    program = check(graph_of(function, F34, array("f8", 1, 4)), X, np.ones((1, 4)))
    assert kinds(program) in (["Launch"], ["Launch", "Launch"])


def lent_graph(function, *types):
    graph = graph_of(function, *types)
    return graph.replace(updates=(0,))


def test_an_input_is_written_in_place():
    big = array("f8", 128, 128)
    program = check(lent_graph(lambda b, x: (b.sin(x),), big), np.ones((128, 128)))
    assert places(program) == [("input", 0)]
    assert kinds(program) == ["Launch"]
    assert program.workspace == 0


def test_an_input_that_is_read_later_is_written_at_the_end():
    big = array("f8", 128, 128)
    program = check(lent_graph(lambda b, x: (b.transpose(b.mul(b.sin(x), x), perm=(1, 0)),), big), np.ones((128, 128)))
    assert places(program) == [("input", 0)]
    assert isinstance(program.steps[-1], Copy)


def failing(b, x, i):
    y = b.exp(x)
    return b.gather(y, i, axes=(0,), mode="error"), b.mul(y, y)


def test_an_input_stays_where_a_check_fails():
    graph = graph_of(failing, array("f8", 5), array("i8", 2)).replace(updates=(0,))
    program = check(graph, np.arange(5.0), [1, 4])
    assert [o.place.space for o in program.outputs] == ["output", "input"]
    assert isinstance(program.steps[-1], Launch)
    machine = Machine(program, [np.arange(5.0), np.array([1, 5])])
    with pytest.raises(BoundsError, match="axis of size 5"):
        machine.run()
    np.testing.assert_array_equal(machine.memory["input", 0].view(float), np.arange(5.0))


def test_donated_arguments():
    big = array("f8", 128, 128)
    graph = graph_of(lambda b, x, y: (b.add(x, y), b.sub(x, y)), big, big)
    program = check(graph, np.ones((128, 128)), np.ones((128, 128)), lent={0: 0, 1: 1}, early=(0, 1))
    assert len(program.kernels) == 1
    turned = graph_of(lambda b, x: b.transpose(b.mul(b.sin(x), x), perm=(1, 0)), big)
    assert places(check(turned, np.ones((128, 128)), lent={0: 0}, early=(0,))) == [("output", 0)]


def dot(b, x, y, inner, batch=((), ())):
    return b.dot(x, y, contract=inner, batch=batch)


def test_transposed_operands_of_products():
    def function(b, x, y):
        turned = b.transpose(x, perm=(1, 0))
        return dot(b, turned, y, ((1,), (0,))), b.transpose(dot(b, x, y, ((0,), (0,))), perm=(1, 0))

    wide = array("f8", 40, 30), array("f8", 40, 20)
    rng = np.random.default_rng(0)
    program = check(graph_of(function, *wide), rng.normal(size=(40, 30)), rng.normal(size=(40, 20)))
    assert set(kinds(program)) == {"Call"}
    assert all(s.operands[0].place.space == "input" for s in program.steps)


def test_strided_operands_of_products():
    def function(b, x, y):
        part = b.slice(x, start=(1, 0), stop=(33, 30), step=(2, 1))
        product = dot(b, part, y, ((1,), (0,)))
        return b.exp(product), b.reduce_sum(product, axes=(0,))

    rng = np.random.default_rng(0)
    graph = graph_of(function, array("f8", 40, 30), array("f8", 30, 20))
    program = check(graph, rng.normal(size=(40, 30)), rng.normal(size=(30, 20)))
    assert "Call" in kinds(program)


def test_failing_routines():
    program = check(graph_of(lambda b, x: b.cholesky(x), array("f8", 30, 30)), np.eye(30) * 2)
    with pytest.raises(LinAlgError, match="positive definite"):
        Machine(program, [-np.eye(30)]).run()


def test_equal_nests_are_one_kernel():
    def function(b, x, y):
        for _ in range(3):
            x = b.sin(dot(b, x, y, ((1,), (0,))))
        return x

    big = array("f8", 50, 50)
    program = check(graph_of(function, big, big), np.eye(50), np.eye(50))
    assert len(program.kernels) == 1
    assert kinds(program).count("Launch") == 3


def test_text():
    graph = graph_of(lambda b, x: (b.sin(x), x), array("f8", 4))
    text = str(device_program(fuse(graph), "f"))
    assert text == (
        "program f(f64[4]) -> (output0: f64[4], output1: f64[4]), workspace 0\n"
        "  loop_0<1, 256>(input0, output0)\n"
        "  copy 32 bytes from input0 to output1"
    )


def test_what_shares_memory_with_what_is_written_is_no_constant():
    size, x = 64, np.dtype(np.float64)
    kernel = Kernel("k", "", (Buffer("x", x, 8), Buffer("y", x, 8, written=True)), 0, 1, 32)
    here, behind = Place("workspace"), Place("workspace", 0, size)
    for source, target, alike in (
        (here, here, True), (here, behind, False), (here, Place("workspace", 0, 32), True),
        (Place("input"), here, False), (Place("input"), Place("input", 1), False),
        (here.along(0, size), behind.along(0, size), False),
        (here.along(0, size), behind, True),
    ):  # fmt: skip
        made = launched(kernel, (source, target))
        assert made.places == (source, target)
        assert [b.written for b in made.kernel.buffers] == [alike, True]
        assert (made.kernel == kernel) is not alike
