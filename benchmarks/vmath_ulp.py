"""Measures vector mathematics: errors in ulp against mpmath, compile times, and speed against NumPy.

    python benchmarks/vmath_ulp.py ulp [--write] [NAME...]   largest errors (--write: to results/vmath_ulp.md)
    python benchmarks/vmath_ulp.py speed [NAME...]           compile ms and ns per element

tests/test_vmath.py asserts on `kernel` and `Reference` of this file.
"""

from __future__ import annotations

import ctypes
import functools
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import llvmlite.binding as llvm
import mpmath
import numpy as np
from llvmlite import ir
from scipy import special

from nufunc.codegen import vmath, x86
from nufunc.codegen.elf import undefined_symbols


def _erfcinv(x: np.ndarray) -> np.ndarray:
    """SciPy's, but finite for subnormal numbers and +0 at 1."""
    tiny = (x > 0) & (x < 1e-300)
    values = special.erfcinv(x) + 0.0
    values[tiny] = [float(_inverse_erfc(mpmath.mpf(v))) for v in x[tiny].tolist()]
    return values


def _lgamma(x: np.ndarray) -> np.ndarray:
    """SciPy's, but finite for subnormal numbers, and C's value at -inf."""
    tiny = np.abs(x) < 1e-300
    value = np.where(tiny, -np.log(np.abs(x)), special.gammaln(np.where(tiny, 1.0, x)))
    return np.where(np.isinf(x), np.inf, value)


def _digamma(x: np.ndarray) -> np.ndarray:
    """SciPy's, which loses digits between its poles."""
    value = special.digamma(x)
    between = (x < 0) & (x > -1e9) & (x != np.rint(x))
    value[between] = [float(mpmath.digamma(v)) for v in x[between].tolist()]
    return value


# NumPy's or SciPy's functions, put right where these are wrong at single points.
CORRECTED: dict[str, Callable[..., np.ndarray]] = {
    "erfinv": lambda x: np.copysign(special.erfinv(x), x),
    "erfcinv": _erfcinv,
    "lgamma": _lgamma,
    "digamma": _digamma,
    "i1e": lambda x: np.copysign(special.i1e(x), x),
}
NUMPY: dict[str, Callable[..., np.ndarray]] = {
    name: CORRECTED.get(name) or getattr(np, name, None) or getattr(special, name) for name in vmath.supported()
}

MPMATH: dict[str, Callable[..., mpmath.mpf]] = {
    name: getattr(mpmath, name) for name in NUMPY if hasattr(mpmath, name)
} | {
    "pow": mpmath.power,
    "exp2": lambda x: mpmath.power(2, x),
    "log2": lambda x: mpmath.log(x, 2),
    "expit": lambda x: 1 / (1 + mpmath.exp(-x)),
    "cbrt": lambda x: mpmath.sign(x) * mpmath.cbrt(abs(x)),
    "lgamma": lambda x: mpmath.loggamma(x).real,
    "i0e": lambda x: _bessel(0, x),
    "i1e": lambda x: _bessel(1, x),
    "erfcx": lambda x: _erfcx(x),
    "erfinv": lambda x: _inverse_erf(x),
    "erfcinv": lambda x: _inverse_erfc(x),
}


def _bessel(order: int, x: mpmath.mpf) -> mpmath.mpf:
    """Beyond 10**6 by two terms less than the asymptotic series has at 140 bits: eight."""
    a, sign = abs(x), -1 if order and x < 0 else 1
    if a < 1e6:
        return sign * mpmath.besseli(order, a) * mpmath.exp(-a)
    total, term = mpmath.mpf(1), mpmath.mpf(1)
    for k in range(1, 8):
        term *= -(4 * order - (2 * k - 1) ** 2) / (8 * k * a)
        total += term
    return sign * total / mpmath.sqrt(2 * mpmath.pi * a)


def _erfcx(x: mpmath.mpf) -> mpmath.mpf:
    if x < -27:
        return mpmath.mpf(2) ** 1100
    if x < 1e4:
        return mpmath.exp(x * x) * mpmath.erfc(x)
    total, term = mpmath.mpf(1), mpmath.mpf(1)
    for k in range(1, 8):
        term *= -(2 * k - 1) / (2 * x * x)
        total += term
    return total / (x * mpmath.sqrt(mpmath.pi))


def _inverse_erf(x: mpmath.mpf) -> mpmath.mpf:
    """Newton's method from SciPy's value; near 1 through erfc."""
    if abs(x) > 0.5:
        return mpmath.sign(x) * _inverse_erfc(1 - abs(x))
    y = mpmath.mpf(special.erfinv(float(x))) if abs(x) > 1e-7 else x * mpmath.sqrt(mpmath.pi) / 2
    for _ in range(3):
        y -= (mpmath.erf(y) - x) * mpmath.sqrt(mpmath.pi) / 2 * mpmath.exp(y * y)
    return y


def _inverse_erfc(x: mpmath.mpf) -> mpmath.mpf:
    """The same on the logarithm of erfc."""
    if x > 0.5:
        return _inverse_erf(1 - x) if x < 1.5 else -_inverse_erfc(2 - x)
    w = mpmath.log(x)
    y = mpmath.mpf(special.erfcinv(float(x))) if x > 1e-300 else mpmath.sqrt(-w) - 0.13
    for _ in range(3 if x > 1e-300 else 6):
        tail = mpmath.erfc(y)
        y += (mpmath.log(tail) - w) * tail * mpmath.sqrt(mpmath.pi) / 2 * mpmath.exp(y * y)
    return y


@dataclass
class Kernel:
    """A compiled loop over contiguous arrays; called like a ufunc of one or two arguments."""

    engine: llvm.ExecutionEngine
    dtype: np.dtype
    width: int
    compile_ms: float
    assembly: str

    def __call__(self, *args: np.ndarray) -> np.ndarray:
        n = args[0].size
        padded = -(-n // self.width) * self.width
        arrays = [np.concatenate([a, np.ones(padded - n, self.dtype)]).astype(self.dtype) for a in args]
        out = np.empty(padded, self.dtype)
        self.bind(arrays, out)()
        return out[:n]

    def bind(self, arrays: list[np.ndarray], out: np.ndarray) -> Callable[[], None]:
        """The loop over these arrays as a call without arguments."""
        function = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 3, ctypes.c_int64)(
            self.engine.get_function_address("loop")
        )
        held = (self, arrays[0], arrays[-1], out)
        pointers = [a.ctypes.data for a in held[1:]]
        return lambda: function(*pointers, held[-1].size)


def loop_module(name: str, dtype: str, width: int, has_fma: bool, features: str = "") -> ir.Module:
    """A module whose function `loop(a, b, out, n)` applies `name`, `width` elements at a time."""
    module = ir.Module(name)
    x86.allow(module, features)
    scalar = ir.DoubleType() if dtype == "f64" else ir.FloatType()
    type_ = ir.VectorType(scalar, width) if width > 1 else scalar
    i64 = ir.IntType(64)
    pointers = [scalar.as_pointer()] * 3
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [*pointers, i64]), "loop")
    entry, body, done = (function.append_basic_block(n) for n in ("entry", "body", "done"))
    b = ir.IRBuilder(entry)
    b.branch(body)
    b.position_at_end(body)
    i = b.phi(i64)

    def address(argument: ir.Value) -> ir.Value:
        return b.bitcast(b.gep(argument, [i]), type_.as_pointer())

    align = scalar.width // 8 if hasattr(scalar, "width") else (8 if dtype == "f64" else 4)
    args = [b.load(address(p), align=align) for p in function.args[: vmath.arity(name)]]
    b.store(vmath.emit(name, b, args, has_fma=has_fma), address(function.args[2]), align=align)
    following = b.add(i, ir.Constant(i64, width))
    i.add_incoming(ir.Constant(i64, 0), entry)
    i.add_incoming(following, b.block)
    b.cbranch(b.icmp_signed("<", following, function.args[3]), body, done)
    b.position_at_end(done)
    b.ret_void()
    return module


def kernel(name: str, dtype: str, width: int, *, has_fma: bool = True, features: str | None = None) -> Kernel:
    """Compile the loop for this machine, or for a bare x86-64 with the given `features`."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    if features is None:
        cpu, features = llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten()
    else:
        cpu = "x86-64"
    text = str(loop_module(name, dtype, width, has_fma, features))
    start = time.perf_counter()
    target = llvm.Target.from_default_triple()
    machine = target.create_target_machine(cpu=cpu, features=features, opt=3, jit=True)
    module = llvm.parse_assembly(text)
    module.verify()
    options = llvm.create_pipeline_tuning_options(speed_level=3)
    builder = llvm.create_pass_builder(machine, options)
    builder.getModulePassManager().run(module, builder)
    assembly = machine.emit_assembly(module)
    half = time.perf_counter()
    engine = llvm.create_mcjit_compiler(module, machine)
    engine.finalize_object()
    engine.get_function_address("loop")
    compile_ms = 1e3 * (half - start)
    return Kernel(engine, np.dtype({"f64": "f8", "f32": "f4"}[dtype]), width, compile_ms, assembly)


def for_target(text: str, triple: str, cpu: str, features: str) -> tuple[Callable[[], str], list[str]]:
    """What another target makes of LLVM text: how to get the assembly, and the symbols wanted from outside."""
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    machine = llvm.Target.from_triple(triple).create_target_machine(cpu=cpu, features=features, opt=1)
    module = llvm.parse_assembly(text)
    module.triple = triple
    return lambda: machine.emit_assembly(module), undefined_symbols(machine.emit_object(module))


@dataclass
class Reference:
    """Exact values as high + low, times a power of two so that neither 2**emax nor `low` leaves the range."""

    dtype: np.dtype
    high: np.ndarray
    low: np.ndarray
    scale: np.ndarray

    def errors(self, got: np.ndarray) -> np.ndarray:
        """|got - exact| in ulp of the exact value; what is beyond the range counts as 2**emax, NaN as inf."""
        info = np.finfo(self.dtype)
        top = float(info.max) * np.minimum(self.scale, 1.0)
        end = np.ldexp(0.25, info.maxexp)
        wide = got.astype(np.float64)
        scaled = np.where(
            np.isinf(wide), np.copysign(end, wide), np.where(np.isinf(wide), 0.0, wide) * self.scale
        )
        clipped = np.clip(np.abs(self.high), float(info.tiny) * self.scale, top)
        spacing = np.ldexp(1.0, np.frexp(clipped)[1] - 1 - info.nmant)
        difference = np.abs((scaled - np.clip(self.high, -end, end)) - self.low)
        return np.where(np.isnan(got), np.inf, difference / spacing)


def exact(name: str, args: list[np.ndarray]) -> Reference:
    """The reference values of `name` from mpmath with 140 bits (1400 where the argument is huge)."""
    dtype = args[0].dtype
    end = mpmath.ldexp(1, np.finfo(dtype).maxexp)
    high, low, scale = (np.empty(args[0].size) for _ in range(3))
    function = MPMATH[name]
    for i, row in enumerate(zip(*(a.tolist() for a in args), strict=True)):
        with mpmath.workprec(140 if max(map(abs, row)) < 1e9 and min(map(abs, row)) > 1e-9 else 1400):
            value = function(*map(mpmath.mpf, row))
            value = max(min(value, end), -end)
            scale[i] = 0.25 if abs(value) > 1 else 1.0 if abs(value) > 1e-200 else 2.0**200
            value = value * scale[i]
            high[i] = float(value)
            low[i] = float(value - high[i])
    return Reference(dtype, high, low, scale)


def exact_f32(name: str, args: list[np.ndarray]) -> Reference:
    """The same for f32 arguments, from NumPy's or SciPy's f64 functions: quick, and good to 2**-28 ulp."""
    with np.errstate(all="ignore"):
        value = NUMPY[name](*(a.astype(np.float64) for a in args))
    value = np.clip(value, -(2.0**128), 2.0**128)
    scale = np.where(np.abs(value) > 1.0, 0.25, 1.0)
    return Reference(np.dtype(np.float32), value * scale, np.zeros(value.size), scale)


def _log_uniform(rng: np.random.Generator, low: float, high: float, n: int | tuple[int, ...]) -> np.ndarray:
    """Magnitudes spread evenly over the exponents, both signs."""
    return np.exp2(rng.uniform(np.log2(low), np.log2(high), n)) * rng.choice([-1.0, 1.0], n)


def arguments(name: str, dtype: str, n: int, seed: int = 0) -> list[np.ndarray]:
    """About n arguments inside the domain: where the function varies, over all exponents, at its limits."""
    rng = np.random.default_rng(seed)
    wide = dtype == "f64"
    tiny, huge = (5e-324, 1.7e308) if wide else (1.5e-45, 3.3e38)
    kind = np.float64 if wide else np.float32
    if name == "pow":
        x = np.concatenate([np.abs(_log_uniform(rng, tiny, huge, n // 2)), rng.uniform(0.0, 3.0, n - n // 2)])
        x = x.astype(kind)
        x[x == 0] = 1.5
        top, bottom = (709.0, -745.0) if wide else (88.0, -103.0)
        log = np.log(x.astype(np.float64))
        y = rng.uniform(bottom, top, n) / np.where(log == 0.0, 1.0, log)
        y[::7] = rng.integers(-5, 6, y[::7].size)
        return [x, np.clip(y, -huge, huge).astype(kind)]
    if name in ("atan2", "hypot"):
        near, wide_spread = rng.uniform(-2.0, 2.0, (2, n // 2)), _log_uniform(rng, tiny, huge, (2, n // 2))
        return list(np.concatenate([near, wide_spread], axis=1).astype(kind))
    ranges = {
        "exp": (-750.0, 711.0) if wide else (-105.0, 89.5),
        "expm1": (-40.0, 711.0) if wide else (-20.0, 89.5),
        "exp2": (-1080.0, 1025.0) if wide else (-152.0, 129.0),
        "sinh": (-711.0, 711.0) if wide else (-89.5, 89.5),
        "cosh": (-711.0, 711.0) if wide else (-89.5, 89.5),
        "expit": (-750.0, 40.0) if wide else (-105.0, 20.0),
        "tanh": (-22.0, 22.0),
        "erf": (-6.5, 6.5),
        "erfc": (-6.0, 27.5) if wide else (-4.0, 10.5),
        "log": (0.5, 2.0),
        "log2": (0.5, 2.0),
        "log10": (0.5, 2.0),
        "log1p": (-1.0, 3.0),
        "sin": (-10.0, 10.0),
        "cos": (-10.0, 10.0),
        "tan": (-10.0, 10.0),
        "asin": (-1.0, 1.0),
        "acos": (-1.0, 1.0),
        "atanh": (-1.0, 1.0),
        "acosh": (1.0, 4.0),
        "erfcx": (-27.0, 30.0) if wide else (-9.5, 30.0),
        "gamma": (0.0, 172.0) if wide else (0.0, 35.5),
        "lgamma": (0.0, 12.0),
        "digamma": (0.0, 12.0),
        "i0e": (-20.0, 20.0),
        "i1e": (-20.0, 20.0),
        "erfinv": (-1.0, 1.0),
        "erfcinv": (0.0, 2.0),
    }
    low, high = ranges.get(name, (-4.0, 4.0))
    parts = [rng.uniform(low, high, n // 2), rng.uniform(max(low, -2.0), min(high, 2.0), n // 4)]
    if name in ("exp", "exp2", "expm1", "expit", "sinh", "cosh", "gamma"):  # beyond it results are at their limits
        huge = 180.0 if name == "gamma" else 2000.0
    if name == "erfc":  # mpmath refuses to square huge numbers, and the result is 0 or 2 long before
        huge = 1e3
    parts.append(_log_uniform(rng, tiny, huge, n - n // 2 - n // 4))
    if name in ("sin", "cos", "tan"):  # the hardest arguments: next to multiples of pi/2
        near = np.arange(1, n // 8) * (np.pi / 2)
        big = np.floor(_log_uniform(rng, 1e3, 2.0**52, n // 8)) * (np.pi / 2)
        parts += [near, big, [6381956970095103.0 * 2.0**797] if wide else [16367173.0 * 2.0**72]]
    x = np.concatenate(parts).astype(kind)
    if name in ("log", "log2", "log10", "sqrt", "gamma", "lgamma", "digamma"):
        x = np.abs(x)
    if name == "erfcinv":
        x = np.abs(x)
    if name == "erfinv":  # close to 1 too
        x = np.concatenate([x, (1.0 - np.abs(_log_uniform(rng, 1e-16 if wide else 1e-7, 0.5, n // 4))).astype(kind)])
    domain = {
        "log1p": x > -1, "asin": abs(x) <= 1, "acos": abs(x) <= 1, "atanh": abs(x) < 1, "acosh": x >= 1,
        "erfinv": abs(x) < 1, "erfcinv": (x > 0) & (x < 2),
    }  # fmt: skip
    keep = domain.get(name, np.isfinite(x)) & np.isfinite(x)
    if name in ("log", "log2", "log10"):
        keep &= x > 0
    return [x[keep]]


def best_ns(run: Callable[[], object], elements: int) -> float:
    times = []
    for _ in range(7):
        start = time.perf_counter()
        for _ in range(10):
            run()
        times.append((time.perf_counter() - start) / 10)
    return 1e9 * min(times) / elements


def report_ulp(names: Iterable[str]) -> str:
    """A table of the largest errors, over arguments where a function varies and over all exponents."""
    lines = ["| function | type | bound | largest, fma | largest, no fma |", "|---|---|---:|---:|---:|"]
    for name in names:
        for dtype in ("f64", "f32"):
            args = arguments(name, dtype, 8000)
            reference = exact(name, args)
            worst = [reference.errors(kernel(name, dtype, 8, has_fma=fma)(*args)).max() for fma in (True, False)]
            bound = vmath.ULP_BOUND[name, dtype]
            lines.append(f"| {name} | {dtype} | {bound:.1f} | {worst[0]:.2f} | {worst[1]:.2f} |")
            print(lines[-1], flush=True)
    return "\n".join(lines) + "\n"


def report_speed(names: Iterable[str]) -> None:
    print(f"{'function':8} {'type':6} {'compile ms':>10} {'ns':>7} {'numpy ns':>9}")
    n = 8192
    for name in names:
        for dtype, width in (("f64", 4), ("f64", 8), ("f32", 16), ("f64", 1), ("f32", 8)):
            k = kernel(name, dtype, width)
            rng = np.random.default_rng(1)
            low, high = {"acosh": (1.0, 3.0), "atanh": (-0.9, 0.9), "asin": (-1, 1), "acos": (-1, 1)}.get(
                name, (-3.0, 3.0)
            )
            if name.startswith(("log", "sqrt", "pow")):
                low = 0.01
            arrays = [rng.uniform(low, high, n).astype(k.dtype) for _ in range(vmath.arity(name))]
            out = np.empty(n, k.dtype)
            ours = best_ns(k.bind(arrays, out), n)
            theirs = best_ns(functools.partial(NUMPY[name], *arrays, out=out), n)
            print(f"{name:8} {dtype}x{width:<3} {k.compile_ms:9.1f} {ours:7.2f} {theirs:9.2f}", flush=True)


if __name__ == "__main__":
    command, *chosen = [a for a in sys.argv[1:] if a != "--write"] or ["ulp"]
    table = {"ulp": report_ulp, "speed": report_speed}[command](chosen or sorted(vmath.supported()))
    if "--write" in sys.argv:
        head = """# Errors of elementary functions

`python benchmarks/vmath_ulp.py ulp --write`: the largest errors found among some 8,000 arguments of each function, in
units in the last place, against mpmath. Of gamma, lgamma and digamma: positive arguments.

"""
        (Path(__file__).parent / "results" / "vmath_ulp.md").write_text(head + (table or ""))
