"""Random graphs of any dtype, with every kind of primitive and nested regions.

Pure ones, and traced ones with views and writes that run in the interpreter."""

from collections.abc import Callable, Sequence

import numpy as np

from nufunc.ir import ArrayType, Builder, Graph, Location, Value

DTYPES = [np.dtype(d) for d in ("f8", "f8", "f8", "f4", "i8", "i8", "i1", "u1", "?", "c16")]
I64, BOOL = np.dtype("i8"), np.dtype("?")
SHAPES = [(), (1,), (2,), (3,), (4,), (2, 3), (3, 2), (1, 3), (2, 2), (2, 1, 2), (0,), (0, 2)]
SPECIAL = {
    "f": [0.0, -0.0, 1.0, -1.0, 2.0, 0.5, 3.0, 0.1, float("nan"), float("inf"), float("-inf"), 1e30, 1e-30],
    "i": [0, 1, -1, 2, 100, -128, 127],
    "u": [0, 1, 2, 255],
    "b": [False, True],
    "c": [0j, complex(-0.0, 0.0), 1 + 0j, -1 + 0j, 1j, complex(float("nan"), 1), complex(float("inf"), -0.0)],
}
UNARY = {
    "f": "neg abs sign sqrt exp sin tanh floor rint isnan stop_gradient",
    "i": "neg abs sign bit_not",
    "u": "neg abs sign bit_not",
    "b": "bit_not",
    "c": "neg abs conj real imag exp",
}
BINARY = {
    "f": "add sub mul div maximum minimum fmax lt le eq ne atan2 floor_div mod pow add sub mul",
    "i": "add sub mul floor_div mod maximum bit_and bit_or bit_xor lt eq shift_left shift_right",
    "u": "add sub mul floor_div mod minimum bit_and bit_or bit_xor ge ne",
    "b": "add mul bit_and bit_or bit_xor eq ne maximum",
    "c": "add sub mul div eq",
}
REDUCTIONS = {
    "f": "reduce_sum reduce_prod reduce_max cumsum argmax",
    "i": "reduce_sum reduce_prod reduce_min cumprod argmin",
    "u": "reduce_sum reduce_max",
    "b": "reduce_and reduce_or reduce_sum",
    "c": "reduce_sum reduce_prod cumsum",
}


def random_array(rng: np.random.Generator, type: ArrayType) -> np.ndarray:
    """Elements drawn from small numbers and special values."""
    if rng.random() < 0.5:
        drawn = rng.choice(np.array(SPECIAL[type.dtype.kind], dtype=object), size=type.shape)
        with np.errstate(all="ignore"):
            return np.array(drawn.tolist(), dtype=type.dtype).reshape(type.shape)
    return np.asarray(rng.integers(0, 5, size=type.shape) - 1 * (type.dtype.kind not in "ub")).astype(type.dtype)


class RandomGraph:
    """Builds one graph; `pool` are the values so far, `fixed` those that cannot be written to."""

    def __init__(self, rng: np.random.Generator, stage: str, depth: int, locs: bool = False) -> None:
        self.rng, self.stage, self.depth, self.locs = rng, stage, depth, locs
        self.b = Builder("f", stage)
        self.pool: list[Value] = []
        self.fixed: set[Value] = set()
        self.contiguous: set[Value] = set()

    # -- choices

    def pick(self, items: Sequence):
        return items[int(self.rng.integers(len(items)))]

    def value(self) -> Value:
        """A value of the pool, recent ones more often."""
        return self.pool[-1 - int(self.rng.integers(len(self.pool)) * self.rng.random())]

    def like(self, type: ArrayType) -> Value:
        """A value of this type: of the pool, broadcast, or a constant."""
        same = [v for v in self.pool if v.type == type]
        if same and self.rng.random() < 0.6:
            return self.pick(same)
        scalars = [v for v in self.pool if v.type == ArrayType((), type.dtype)]
        if scalars and type.shape and self.rng.random() < 0.4:
            return self.b.broadcast_to(self.pick(scalars), type.shape)
        if self.rng.random() < 0.2:
            return self.b.const(random_array(self.rng, type))
        return self.b.filled(self.pick(SPECIAL[type.dtype.kind]), type)

    def add(self, *values: Value) -> None:
        self.pool.extend(v for v in values if v.type.size <= 64)

    # -- nodes

    def step(self) -> None:
        makers: list[Callable[[], None]] = [
            self.elementwise, self.elementwise, self.elementwise, self.layout, self.layout, self.reduction,
            self.index, self.convert, self.create,
        ]  # fmt: skip
        if self.depth > 0 and self.rng.random() < 0.4:
            makers += [self.cond, self.scan, self.loop, self.map]
        if self.stage == "traced":
            makers += [self.view, self.view, self.view, self.write, self.write, self.write]
        if self.locs:
            self.b.loc = Location("some file.py", int(self.rng.integers(1, 99)), self.pick(["", "f", 'g"\\']))
        self.pick(makers)()

    def elementwise(self) -> None:
        x = self.value()
        kind = x.dtype.kind
        choice = self.rng.random()
        if choice < 0.3:
            self.add(self.b.emit(self.pick(UNARY[kind].split()), (x,))[0])
        elif choice < 0.35 and kind != "b":
            self.add(self.b.integer_pow(x, y=int(self.rng.integers(0, 4))))
        elif choice < 0.45:
            self.add(self.b.select(self.like(x.type.with_dtype(BOOL)), x, self.like(x.type)))
        elif choice < 0.5 and x.dtype == np.float64:
            self.add(self.b.complex(x, self.like(x.type)))
        else:
            pair = [x, self.like(x.type)]
            if self.rng.random() < 0.5:
                pair.reverse()
            self.add(self.b.emit(self.pick(BINARY[kind].split()), pair)[0])

    def convert(self) -> None:
        x = self.value()
        dtype = self.pick(DTYPES)
        if not (x.dtype.kind in "fc" and dtype.kind in "iu"):  # out of range that is the processor's choice
            self.add(self.b.convert(x, dtype=dtype))

    def create(self) -> None:
        type = ArrayType(self.pick(SHAPES), self.pick(DTYPES))
        if self.rng.random() < 0.3 and type.shape and type.dtype.kind != "b":
            self.add(self.b.iota(shape=type.shape, dtype=type.dtype, axis=0))
        else:
            self.add(self.like(type))

    def slice_attrs(self, x: Value) -> dict:
        start, stop, step = [], [], []
        for n in x.shape:
            a, b = sorted(int(k) for k in self.rng.integers(0, n + 1, size=2))
            whole = self.rng.random() < 0.3
            start.append(0 if whole else a)
            stop.append(n if whole else b)
            step.append(int(self.rng.integers(1, 3)))
        return {"start": tuple(start), "stop": tuple(stop), "step": tuple(step)}

    def unit_reshape(self, x: Value) -> tuple[int, ...]:
        shape = [n for n in x.shape if n != 1 or self.rng.random() < 0.5]
        if self.rng.random() < 0.5:
            shape.insert(int(self.rng.integers(len(shape) + 1)), 1)
        return tuple(shape)

    def broadcast_attrs(self, x: Value) -> dict:
        shape = [int(self.rng.integers(1, 4)) if n == 1 and self.rng.random() < 0.5 else n for n in x.shape]
        place = int(self.rng.integers(len(shape) + 1))
        dims = tuple(d + (d >= place) for d in range(x.ndim))
        return {"shape": (*shape[:place], int(self.rng.integers(1, 4)), *shape[place:]), "dims": dims}

    def map_of(self, x: Value) -> tuple[str, dict]:
        """A map that has a view, and its attributes."""
        name = self.pick(["slice", "slice", "transpose", "reshape", "broadcast", "flip"])
        attrs: dict = {}
        if name == "slice":
            attrs = self.slice_attrs(x)
        elif name == "transpose":
            attrs = {"perm": tuple(int(p) for p in self.rng.permutation(x.ndim))}
        elif name == "reshape":
            flat = x in self.contiguous or self.stage == "pure"
            attrs = {"shape": (x.type.size,) if flat and self.rng.random() < 0.5 else self.unit_reshape(x)}
        elif name == "broadcast":
            attrs = self.broadcast_attrs(x)
        else:
            attrs = {"axes": tuple(a for a in range(x.ndim) if self.rng.random() < 0.5)}
        return name, attrs

    def layout(self) -> None:
        x = self.value()
        choice = self.rng.random()
        if choice < 0.1 and x.ndim:
            axis = int(self.rng.integers(x.ndim))
            self.add(self.b.concat(x, self.like(x.type), *([x] if self.rng.random() < 0.3 else []), axis=axis))
        elif choice < 0.2 and x.ndim:
            low, high, interior = (tuple(int(k) for k in self.rng.integers(0, 2, size=x.ndim)) for _ in range(3))
            self.add(self.b.pad(x, low=low, high=high, interior=interior))
        else:
            name, attrs = self.map_of(x)
            self.add(self.b.emit(name, (x,), attrs)[0])

    def reduction(self) -> None:
        x = self.value()
        name = self.pick(REDUCTIONS[x.dtype.kind].split())
        if name.startswith(("cum", "arg")):
            if not x.ndim or 0 in x.shape:
                return
            attrs = {"axis": int(self.rng.integers(x.ndim))}
            if name.startswith("cum"):
                attrs["reverse"] = bool(self.rng.random() < 0.5)
            self.add(self.b.emit(name, (x,), attrs)[0])
            return
        axes = tuple(a for a in range(x.ndim) if self.rng.random() < 0.6)
        if name in ("reduce_max", "reduce_min") and x.type.size == 0:
            return
        self.add(self.b.emit(name, (x,), {"axes": axes})[0])

    def index(self) -> None:
        x = self.value()
        choice = self.rng.random()
        if choice < 0.5:
            attrs = self.slice_attrs(x)
            part = self.b.slice(x, **attrs)
            self.add(self.b.update(x, part if self.rng.random() < 0.2 else self.like(part.type), **attrs))
        elif choice < 0.75:
            starts = [self.like(ArrayType((), I64)) for _ in x.shape]
            self.add(self.b.dynamic_slice(x, *starts, sizes=tuple(int(self.rng.integers(0, n + 1)) for n in x.shape)))
        elif x.ndim and x.type.size:
            indices = self.like(ArrayType((2,), I64))
            self.add(self.b.gather(x, indices, axes=(0,), mode="clip"))

    # -- views and writes

    def view(self) -> None:
        x = self.value()
        name, attrs = self.map_of(x)
        if self.rng.random() < 0.3:
            name, attrs = self.other_view(x) or (name, attrs)
        (view,) = self.b.emit(f"view_{name}", (x,), attrs)
        if name == "broadcast" or x in self.fixed:
            self.fixed.add(view)
        self.add(view)

    def other_view(self, x: Value) -> tuple[str, dict] | None:
        """A view that is no index map, or the diagonal."""
        if x.dtype.kind == "c":
            return self.pick(["real", "imag"]), {}
        if x.dtype.str[1:] in ("f8", "i8") and self.rng.random() < 0.4:
            return "bitcast", {"dtype": np.dtype("i8" if x.dtype.kind == "f" else "f8")}
        return ("diagonal", {"offset": int(self.rng.integers(-1, 2))}) if x.ndim >= 2 else None

    def write(self) -> None:
        targets = [v for v in self.pool if v not in self.fixed]
        if targets:
            target = self.pick(targets)
            self.b.emit("write", (target, self.like(target.type)))

    # -- control

    def region(self, types: Sequence[ArrayType], fixed: Sequence[int], outputs: Callable, extra: int = 0) -> Graph:
        """A graph over `types`; `outputs(maker)` gives its results; what is `fixed` is not written to."""
        stage = self.stage if self.rng.random() < 0.8 else "pure"
        inner = RandomGraph(self.rng, stage, self.depth - 1, self.locs)
        inner.b.name = self.pick(["body", "a.b", "<lambda>", "odd name"])
        params = [inner.b.param(t) for t in types]
        inner.pool = list(params) or [inner.b.filled(1.0, ArrayType((2,), DTYPES[0]))]
        inner.fixed = {params[k] for k in fixed}
        for _ in range(int(self.rng.integers(0, 6))):
            inner.step()
        return inner.b.build(outputs(inner))

    def captures(self, count: int = 3) -> list[Value]:
        return [self.value() for _ in range(int(self.rng.integers(0, count + 1)))]

    def unwritable(self, operands: Sequence[Value]) -> list[int]:
        return [k for k, v in enumerate(operands) if v in self.fixed]

    def cond(self) -> None:
        operands = self.captures()
        types = [v.type for v in operands]
        results = [self.value().type for _ in range(int(self.rng.integers(1, 3)))]
        boolean = self.rng.random() < 0.5
        index = self.like(ArrayType((), BOOL if boolean else I64))
        count = 2 if boolean else int(self.rng.integers(1, 4))

        def outputs(inner: "RandomGraph") -> list[Value]:
            return [inner.like(t) for t in results]

        regions = [self.region(types, self.unwritable(operands), outputs) for _ in range(count)]
        self.add(*self.b.emit("cond", (index, *operands), {}, regions))

    def items(self, length: int) -> list[Value]:
        """Arrays of this length that no view reaches."""
        found = [v for v in self.pool if v.shape[:1] == (length,)]
        picked = [self.pick(found) for _ in range(int(self.rng.integers(0, 3)))] if found else []
        return [self.b.select(self.b.filled(True, v.type.with_dtype(BOOL)), v, v) for v in picked]

    def scan(self) -> None:
        length = self.pick([0, 1, 2, 3])
        consts, carry, items = self.captures(2), self.captures(2), self.items(length)
        ys = [self.value().type for _ in range(int(self.rng.integers(0, 2)))]
        types = [v.type for v in (*consts, *carry)] + [v.type.with_shape(v.shape[1:]) for v in items]

        def outputs(inner: "RandomGraph") -> list[Value]:
            return [inner.like(t) for t in (*(c.type for c in carry), *ys)]

        body = self.region(types, self.unwritable(consts), outputs)
        attrs = {"length": length, "reverse": bool(self.rng.random() < 0.5)}
        attrs |= {"num_consts": len(consts), "num_carry": len(carry)}
        self.add(*self.b.emit("scan", (*consts, *carry, *items), attrs, (body,)))

    def map(self) -> None:
        length = self.pick([0, 1, 2, 3])
        consts, items = self.captures(2), self.items(length)
        ys = [self.value().type for _ in range(int(self.rng.integers(1, 3)))]
        types = [v.type for v in consts] + [v.type.with_shape(v.shape[1:]) for v in items]
        body = self.region(types, range(len(consts)), lambda inner: [inner.like(t) for t in ys])
        attrs = {"length": length, "num_consts": len(consts)}
        self.add(*self.b.emit("map", (*consts, *items), attrs, (body,)))

    def loop(self) -> None:
        """A while of at most three iterations."""
        tested, consts, carry = self.captures(2), self.captures(2), self.captures(2)
        counter = ArrayType((), I64)
        limit = int(self.rng.integers(0, 4))

        def test(inner: "RandomGraph") -> list[Value]:
            count = inner.b.lt(inner.b.params[len(tested)], inner.b.filled(limit, counter))
            return [inner.b.bit_and(count, inner.like(ArrayType((), BOOL))) if self.rng.random() < 0.5 else count]

        def outputs(inner: "RandomGraph") -> list[Value]:
            stepped = inner.b.add(inner.b.params[len(consts)], inner.b.filled(1, counter))
            return [stepped, *(inner.like(c.type) for c in carry)]

        types = [counter, *(c.type for c in carry)]
        cond_types, body_types = [*(v.type for v in tested), *types], [*(v.type for v in consts), *types]
        cond = self.region(cond_types, range(len(cond_types)), test)
        body = self.region(body_types, [*self.unwritable(consts), len(consts)], outputs)
        attrs = {"num_cond": len(tested), "num_body": len(consts)}
        init = self.b.filled(0, counter)
        self.add(*self.b.emit("while", (*tested, *consts, init, *carry), attrs, (cond, body)))


def random_graph(seed: int, stage: str = "pure", steps: int = 20, depth: int = 2, locs: bool = False) -> Graph:
    """A graph that the seed determines."""
    rng = np.random.default_rng(seed)
    maker = RandomGraph(rng, stage, depth, locs)
    for _ in range(int(rng.integers(1, 4))):
        maker.pool.append(maker.b.param(ArrayType(maker.pick(SHAPES), maker.pick(DTYPES))))
    maker.contiguous = set(maker.pool)
    for _ in range(steps):
        maker.step()
    return maker.b.build([maker.value() for _ in range(int(rng.integers(1, 5)))])


def random_arguments(graph: Graph, seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [random_array(rng, p.type) for p in graph.params]


def same_bits(x: np.ndarray, y: np.ndarray) -> bool:
    """Equal types and bits; any NaN equals any other."""
    x, y = np.asarray(x), np.asarray(y)
    if x.dtype != y.dtype or x.shape != y.shape:
        return False
    if x.dtype.kind == "c":
        return same_bits(x.real, y.real) and same_bits(x.imag, y.imag)
    if x.dtype.kind != "f":
        return bool((x == y).all())
    both_nan = np.isnan(x) & np.isnan(y)
    return bool((both_nan | ((x == y) & (np.signbit(x) == np.signbit(y)))).all())
