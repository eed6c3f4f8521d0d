"""Every primitive: the compiled kernel against the interpreter, on all rows of the table of samples."""

import itertools

import numpy as np
import op_samples
import pytest
from op_samples_linalg import settled

from nufunc.codegen.compile import compile_graph
from nufunc.ir import Builder, interpret, primitive
from nufunc.ir.verify import verify
from nufunc.passes.composites import opened
from nufunc.passes.fuse import fuse

# what transforms make: test_tapes.py; what holds the user's code: test_custom.py
SKIPPED_KINDS = ("view", "write", "fused", "derived", "custom", "host")
BY_PRIMITIVE = {
    name: list(rows)
    for name, rows in itertools.groupby(
        sorted(op_samples.SAMPLES, key=lambda s: s.prim), key=lambda s: s.prim
    )
    if primitive.get(name).kind not in SKIPPED_KINDS
}


def assert_close(got, want, what):
    assert got.dtype == want.dtype, what
    assert got.shape == want.shape, what
    single = got.dtype in (np.float32, np.complex64)
    with np.errstate(all="ignore"):
        np.testing.assert_allclose(
            got, want, rtol=5e-6 if single else 2e-12, atol=1e-6 if single else 1e-13, err_msg=what
        )


def test_every_primitive_has_a_row():
    names = {n for n, p in primitive.all_primitives().items() if p.kind not in SKIPPED_KINDS}
    assert names == set(BY_PRIMITIVE)


@pytest.mark.parametrize("name", sorted(BY_PRIMITIVE))
def test_kernel_equals_interpreter(name):
    """All rows of a primitive in one graph, so that one compilation serves and neighbours may share
    kernels."""
    rows = BY_PRIMITIVE[name]
    b = Builder(name)
    arguments, outputs, counts = [], [], []
    for row in rows:
        params = [b.param(t) for t in row.types]
        results = b.inline(row.graph(), params)
        outputs += results
        counts.append(len(results))
        arguments += row.operands()
    grouped = verify(fuse(opened(b.build(outputs))))
    entry = compile_graph(grouped, name=name)
    got = iter(entry.slow(*arguments))
    at = 0
    for row, count in zip(rows, counts):
        operands = arguments[at : at + len(row.types)]
        at += len(row.types)
        pairs = ([next(got) for _ in range(count)], interpret.run(row.graph(), operands)[:count])
        for g, want in zip(*(settled(row.prim, list(results)) for results in pairs), strict=True):
            assert_close(g, want, row.id)
