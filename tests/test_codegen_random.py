"""Random pure programs: compiled equals interpreted, whatever is fused with what."""

import numpy as np
import pytest

from nufunc.codegen.compile import compile_graph
from nufunc.ir import ArrayType, Builder, interpret
from nufunc.ir.verify import verify
from nufunc.passes.fuse import fuse

F8, I8 = np.dtype(np.float64), np.dtype(np.int64)
EXTENTS = (1, 2, 3, 5, 8, 17)


class Program:
    """Grows a graph node by node from a random generator."""

    def __init__(self, seed, steps):
        self.rng = np.random.default_rng(seed)
        self.b = Builder(f"random{seed}")
        self.arguments = []
        self.values = []
        for _ in range(3):
            shape = tuple(int(n) for n in self.rng.choice(EXTENTS, self.rng.integers(0, 4)))
            self.values.append(self.b.param(ArrayType(shape, F8)))
            self.arguments.append(self.rng.normal(size=shape))
        for _ in range(steps):
            step = getattr(self, self.rng.choice(STEPS))
            made = step(self.pick())
            if made is not None and made.type.size <= 4000:
                self.values.append(made)
        count = int(self.rng.integers(1, 4))
        self.graph = self.b.build([self.pick() for _ in range(count)] + [self.values[-1]])

    def pick(self):
        recent = min(len(self.values), 6)
        return self.values[-1 - int(self.rng.integers(0, recent))]

    def unary(self, x):
        op = self.rng.choice(["neg", "sin", "tanh", "abs", "logistic", "floor", "sign"])
        return self.b.emit(op, (x,))[0]

    def binary(self, x):
        same = [v for v in self.values if v.shape == x.shape]
        y = same[int(self.rng.integers(0, len(same)))]
        op = self.rng.choice(["add", "sub", "mul", "maximum", "minimum"])
        return self.b.emit(op, (x, y))[0]

    def choose(self, x):
        y = self.binary(x)
        return self.b.select(self.b.lt(x, y), self.b.mul(x, y), y)

    def spread(self, x):
        """A broadcast along a new axis, or over an axis of one."""
        at, extent = int(self.rng.integers(0, x.ndim + 1)), int(self.rng.choice(EXTENTS))
        shape = list(x.shape)
        shape.insert(at, extent)
        dims = tuple(k if k < at else k + 1 for k in range(x.ndim))
        return self.b.broadcast(x, shape=tuple(shape), dims=dims) if x.ndim < 4 else None

    def normalised(self, x):
        """x over a sum, or less a maximum, of its rows."""
        if not x.ndim:
            return None
        axis = int(self.rng.integers(0, x.ndim))
        dims = tuple(k for k in range(x.ndim) if k != axis)
        back = lambda s: self.b.broadcast(s, shape=x.shape, dims=dims)
        e = self.b.exp(self.b.sub(x, back(self.b.reduce_max(x, axes=(axis,)))))
        return self.b.div(e, back(self.b.reduce_sum(e, axes=(axis,))))

    def transpose(self, x):
        return self.b.transpose(x, perm=tuple(int(p) for p in self.rng.permutation(x.ndim)))

    def reshape(self, x):
        sizes = [n for n in x.shape if n != 1]
        kind = self.rng.integers(0, 3)
        shape = (x.type.size,) if kind == 0 else (*sizes, 1) if kind == 1 else (1, *sizes)
        if kind == 2 and sizes and sizes[-1] == 8:
            shape = (*sizes[:-1], 2, 4)
        return self.b.reshape(x, shape=shape)

    def slice(self, x):
        start = tuple(int(self.rng.integers(0, n)) for n in x.shape)
        stop = tuple(int(self.rng.integers(s + 1, n + 1)) for s, n in zip(start, x.shape))
        return self.b.slice(
            x, start=start, stop=stop, step=tuple(int(s) for s in self.rng.integers(1, 3, x.ndim))
        )

    def flip(self, x):
        return self.b.flip(x, axes=tuple(k for k in range(x.ndim) if self.rng.integers(0, 2)))

    def pad(self, x):
        low, high, interior = (tuple(int(n) for n in self.rng.integers(0, 3, x.ndim)) for _ in range(3))
        return self.b.pad(x, low=low, high=high, interior=tuple(min(n, 1) for n in interior))

    def concat(self, x):
        if not x.ndim:
            return None
        return self.b.concat(x, self.unary(x), x, axis=int(self.rng.integers(0, x.ndim)))

    def update(self, x):
        start = tuple(int(self.rng.integers(0, n)) for n in x.shape)
        attrs = {"start": start, "stop": x.shape, "step": (2,) * x.ndim}
        return self.b.update(x, self.unary(self.b.slice(x, **attrs)), **attrs)

    def reduce(self, x):
        axes = tuple(k for k in range(x.ndim) if self.rng.integers(0, 2))
        return self.b.emit(self.rng.choice(["reduce_sum", "reduce_max", "reduce_min"]), (x,), {"axes": axes})[
            0
        ]

    def cumulate(self, x):
        if not x.ndim:
            return None
        axis, reverse = int(self.rng.integers(0, x.ndim)), bool(self.rng.integers(0, 2))
        return self.b.emit(self.rng.choice(["cumsum", "cummax"]), (x,), {"axis": axis, "reverse": reverse})[0]

    def gather(self, x):
        if not x.ndim:
            return None
        axis = int(self.rng.integers(0, x.ndim))
        index = self.b.const(self.rng.integers(0, x.shape[axis], self.rng.choice(EXTENTS)))
        return self.b.gather(x, index, axes=(axis,), mode=str(self.rng.choice(["error", "clip"])))

    def largest(self, x):
        if not x.ndim:
            return None
        axis = int(self.rng.integers(0, x.ndim))
        return self.b.convert(self.b.argmax(self.b.floor(x), axis=axis), dtype=F8)

    def dot(self, x):
        if not x.ndim:
            return None
        axis = int(self.rng.integers(0, x.ndim))
        same = [v for v in self.values if x.shape[axis] in v.shape]
        y = same[int(self.rng.integers(0, len(same)))]
        return self.b.dot(x, y, contract=((axis,), (y.shape.index(x.shape[axis]),)), batch=((), ()))


STEPS = [n for n in vars(Program) if not n.startswith("_") and n != "pick"] + ["unary", "binary"] * 3


# 7023: a cheap value read at other indices stood on dear ones of the same group
@pytest.mark.parametrize(("seed", "steps"), [*((s, 6 + s // 4) for s in range(60)), (7023, 33)])
def test_compiled_equals_interpreted(seed, steps):
    program = Program(seed, steps)
    grouped = verify(fuse(verify(program.graph)))
    want = interpret.run(program.graph, program.arguments)
    for x, y in zip(compile_graph(grouped).slow(*program.arguments), want, strict=True):
        assert (x.shape, x.dtype) == (y.shape, y.dtype)
        np.testing.assert_allclose(x, y, rtol=1e-9, atol=1e-9)
