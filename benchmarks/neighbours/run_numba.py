"""Loops and derivatives by hand in Numba: a mark of what a compiler could reach on the most telling workloads.

exp, tanh and log1p are emitted by nufunc's vector mathematics, since calls into libm do not vectorise: what is
compared is what surrounds them. The interface is that of serve.py.
"""

import llvmlite.binding as llvm
import numpy as np
import workloads as w
from numba import config, njit, prange
from numba.extending import intrinsic

from nufunc.codegen import vmath

PACKAGES = ("numba", "llvmlite")
PARTS = config.NUMBA_NUM_THREADS
LARGE = 20_000  # elements from which a second thread pays
ALPHA, HEAT_STEPS, STEPS = w.HEAT["alpha"], w.HEAT["steps"], w.LORENZ["steps"]  # Numba reads no dicts
FLAGS = {"contract", "nnan", "ninf", "nsz", "arcp"}
HAS_FMA = bool(llvm.get_host_cpu_features().get("fma"))


def vector_function(name):
    """The function of that name of nufunc's vector mathematics, inlined where it is called."""

    @intrinsic
    def call(typing_context, x):
        def emit(context, builder, signature, args):
            value = vmath.emit(name, builder, args, has_fma=HAS_FMA)
            for function in builder.module.functions:
                if function.name.startswith("nf.") and "noinline" not in function.attributes:
                    function.attributes.add("alwaysinline")
            return value

        return x(x), emit

    return njit(forceinline=True)(lambda x: call(x))


exp, tanh, log1p = map(vector_function, ("exp", "tanh", "log1p"))
inlined = njit(error_model="numpy", fastmath=FLAGS, forceinline=True)


@inlined
def sine(x, quadrant):
    """sin(x + quadrant pi/2) for |x| < 1e6: Taylor's series on a quadrant, without the branch that stops vectors."""
    turns = np.floor(x * (2 / np.pi) + 0.5)
    r = x - turns * 1.57079625129699707031 - turns * 7.54978941586159635335e-8 - turns * 5.39030285815811905e-15
    q = r * r
    odd = even = 1.0
    for k in (17.0, 15.0, 13.0, 11.0, 9.0, 7.0, 5.0, 3.0):
        odd = 1 - odd * q * (1 / (k * (k - 1)))
        even = 1 - even * q * (1 / ((k - 1) * (k - 2)))
    sign_and_kind = int(turns) + quadrant
    value = even if sign_and_kind & 1 else r * odd
    return -value if sign_and_kind & 2 else value


def serial(func):
    return njit(error_model="numpy", fastmath=FLAGS)(func)


def by_size(func):
    """`func` with its prange on one thread or on all, by the size of the array that `size` picks."""
    alone = njit(error_model="numpy", fastmath=True)(func)
    together = njit(error_model="numpy", fastmath=True, parallel=True)(func)
    return lambda size: together if size >= LARGE else alone


# ---- elementwise ----


@serial
def chain_part(x, y):
    for i in range(x.size):
        a = x[i]
        q = a * a
        y[i] = tanh(a) * exp(-q) + sine(a, 0) * log1p(q)


@serial
def chain_gradient_part(x, y):
    for i in range(x.size):
        a = x[i]
        q = a * a
        t, e = tanh(a), exp(-q)
        y[i] = e * (1 - t * t - 2 * a * t) + sine(a, 1) * log1p(q) + 2 * a * sine(a, 0) / (1 + q)


def elementwise(part):
    @by_size
    def run(x):
        y = np.empty_like(x)
        for k in prange(PARTS):
            lo, hi = x.size * k // PARTS, x.size * (k + 1) // PARTS
            part(x[lo:hi], y[lo:hi])
        return y

    return lambda x: run(x.size)(x)


@serial
def small(x):
    y = np.empty_like(x)
    for i in range(x.size):
        y[i] = np.sin(x[i]) + x[i] * np.cos(x[i])
    return y


@serial
def rosenbrock_hessian(x):
    n = x.size
    h = np.zeros((n, n))
    for i in range(n - 1):
        h[i, i] += 1200 * x[i] * x[i] - 400 * x[i + 1] + 2
        h[i + 1, i + 1] += 200
        h[i, i + 1] = h[i + 1, i] = -400 * x[i]
    return h


# ---- logistic regression: one pass over the features, or two products with them in one pass ----


@by_size
def logistic(weights, vector, features, signs, second):
    n, d = features.shape
    sums = np.zeros((PARTS, d))
    for k in prange(PARTS):
        for i in range(n * k // PARTS, n * (k + 1) // PARTS):
            z = v = 0.0
            for j in range(d):
                z += features[i, j] * weights[j]
                v += features[i, j] * vector[j]
            s = 1 / (1 + np.exp(signs[i] * z))
            r = s * (1 - s) * v / n if second else -signs[i] * s / n
            for j in range(d):
                sums[k, j] += r * features[i, j]
    return sums.sum(axis=0) + w.LAM * (vector if second else weights)


def logreg_grad(weights, features, signs):
    return logistic(features.size)(weights, weights, features, signs, False)


def hvp(weights, vector, features, signs):
    return logistic(features.size)(weights, vector, features, signs, True)


# ---- softmax and cross entropy ----


@by_size
def softmax_loss(z, labels):
    rows, classes = z.shape
    gradient, losses = np.empty_like(z), np.empty(rows, z.dtype)
    scale = np.float32(1) / np.float32(rows)
    for i in prange(rows):
        top = z[i, 0]
        for j in range(classes):
            top = max(top, z[i, j])
        total = np.float32(0)
        for j in range(classes):
            e = exp(z[i, j] - top)
            gradient[i, j] = e
            total += e
        for j in range(classes):
            gradient[i, j] *= scale / total
        gradient[i, labels[i]] -= scale
        losses[i] = np.log(total) + top - z[i, labels[i]]
    return losses.mean(), gradient


def softmax_xent(z, labels):
    loss, gradient = softmax_loss(z.size)(z, labels)
    return np.float32(loss), gradient  # Numba hands back Python's float


# ---- bodies ----


@by_size
def gravity(x, m):
    n = m.size
    gradient, potential = np.empty_like(x), np.empty(n)
    p, q, r = x[:, 0].copy(), x[:, 1].copy(), x[:, 2].copy()
    for i in prange(n):
        total = gp = gq = gr = 0.0
        for j in range(n):
            dp, dq, dr = p[i] - p[j], q[i] - q[j], r[i] - r[j]
            square = 1 / (dp * dp + dq * dq + dr * dr + w.NBODY_EPS2)
            term = m[j] * np.sqrt(square)
            total += term
            term *= square
            gp += term * dp
            gq += term * dq
            gr += term * dr
        potential[i] = m[i] * total
        gradient[i, 0], gradient[i, 1], gradient[i, 2] = m[i] * gp, m[i] * gq, m[i] * gr
    return -0.5 * potential.sum(), gradient


# ---- heat: two grids in turn; backwards, edges gather apart from the interior ----


@by_size
def heat(u):
    n = u.shape[0]
    a, b = u.copy(), u.copy()
    for _ in range(HEAT_STEPS):
        for k in prange(PARTS):
            for i in range(1 + (n - 2) * k // PARTS, 1 + (n - 2) * (k + 1) // PARTS):
                for j in range(1, n - 1):
                    flow = a[i + 1, j] + a[i - 1, j] + a[i, j + 1] + a[i, j - 1] - 4 * a[i, j]
                    b[i, j] = a[i, j] + ALPHA * flow
        a, b = b, a
    return a


@by_size
def heat_backwards(cotangent):
    n = cotangent.shape[0]
    out, a, b = cotangent.copy(), np.zeros_like(cotangent), np.zeros_like(cotangent)
    a[1:-1, 1:-1] = cotangent[1:-1, 1:-1]
    for _ in range(HEAT_STEPS):
        for j in range(1, n - 1):
            out[0, j] += ALPHA * a[1, j]
            out[n - 1, j] += ALPHA * a[n - 2, j]
            out[j, 0] += ALPHA * a[j, 1]
            out[j, n - 1] += ALPHA * a[j, n - 2]
        for k in prange(PARTS):
            for i in range(1 + (n - 2) * k // PARTS, 1 + (n - 2) * (k + 1) // PARTS):
                for j in range(1, n - 1):
                    flow = a[i + 1, j] + a[i - 1, j] + a[i, j + 1] + a[i, j - 1] - 4 * a[i, j]
                    b[i, j] = a[i, j] + ALPHA * flow
        a, b = b, a
    out[1:-1, 1:-1] = a[1:-1, 1:-1]
    return out


# ---- Lorenz: all states advance together, forwards with a tape and backwards over it ----

SIGMA, RHO, BETA, DT = (w.LORENZ[name] for name in ("sigma", "rho", "beta", "dt"))


@inlined
def slope(x, y, z):
    return SIGMA * (y - x), x * (RHO - z) - y, x * y - BETA * z


@inlined
def pull_slope(x, y, z, a, b, c):
    """The cotangent (a, b, c) of a slope pulled back to its state."""
    return (RHO - z) * b - SIGMA * a + y * c, SIGMA * a - b + x * c, -x * b - BETA * c


@inlined
def along(h, x, y, z, k):
    return x + h * k[0], y + h * k[1], z + h * k[2]


@serial
def advance(x, y, z, tape):
    for t in range(STEPS):
        for i in range(x.size):
            s = x[i], y[i], z[i]
            if tape.size:
                tape[t, 0, i], tape[t, 1, i], tape[t, 2, i] = s
            k1 = slope(*s)
            k2 = slope(*along(DT / 2, *s, k1))
            k3 = slope(*along(DT / 2, *s, k2))
            k4 = slope(*along(DT, *s, k3))
            x[i] = s[0] + DT / 6 * (k1[0] + 2 * k2[0] + 2 * k3[0] + k4[0])
            y[i] = s[1] + DT / 6 * (k1[1] + 2 * k2[1] + 2 * k3[1] + k4[1])
            z[i] = s[2] + DT / 6 * (k1[2] + 2 * k2[2] + 2 * k3[2] + k4[2])


@serial
def retreat(a, b, c, tape):
    for t in range(STEPS - 1, -1, -1):
        for i in range(a.size):
            s, g = (tape[t, 0, i], tape[t, 1, i], tape[t, 2, i]), (a[i], b[i], c[i])
            s2 = along(DT / 2, *s, slope(*s))
            s3 = along(DT / 2, *s, slope(*s2))
            s4 = along(DT, *s, slope(*s3))
            d4 = pull_slope(*s4, DT / 6 * g[0], DT / 6 * g[1], DT / 6 * g[2])
            d3 = pull_slope(*s3, *along(DT, DT / 3 * g[0], DT / 3 * g[1], DT / 3 * g[2], d4))
            d2 = pull_slope(*s2, *along(DT / 2, DT / 3 * g[0], DT / 3 * g[1], DT / 3 * g[2], d3))
            d1 = pull_slope(*s, *along(DT / 2, DT / 6 * g[0], DT / 6 * g[1], DT / 6 * g[2], d2))
            a[i] = g[0] + d1[0] + d2[0] + d3[0] + d4[0]
            b[i] = g[1] + d1[1] + d2[1] + d3[1] + d4[1]
            c[i] = g[2] + d1[2] + d2[2] + d3[2] + d4[2]


@njit(error_model="numpy", parallel=True)
def runge_kutta(s, gradient):
    n, out = s.shape[0], np.empty_like(s)
    for k in prange(PARTS):
        lo, hi = n * k // PARTS, n * (k + 1) // PARTS
        x, y, z = s[lo:hi, 0].copy(), s[lo:hi, 1].copy(), s[lo:hi, 2].copy()
        tape = np.empty((STEPS if gradient else 0, 3, hi - lo))
        advance(x, y, z, tape)
        if gradient:
            x[:] = y[:] = z[:] = 1.0
            retreat(x, y, z, tape)
        out[lo:hi, 0], out[lo:hi, 1], out[lo:hi, 2] = x, y, z
    return out


# ---- Mandelbrot: sixteen points in step ----

LANES = 16


@by_size
def escape_counts(real, imaginary):
    out = np.empty(real.size, np.int64)
    for block in prange((real.size + LANES - 1) // LANES):
        first = block * LANES
        count = min(LANES, real.size - first)
        a, b = np.full(LANES, 4.0), np.full(LANES, 4.0)
        a[:count], b[:count] = real[first : first + count], imaginary[first : first + count]
        x, y, steps = np.zeros(LANES), np.zeros(LANES), np.zeros(LANES)
        for _ in range(w.MANDEL_ITERS):
            alive = 0.0
            for i in range(LANES):
                xx, yy, xy = x[i] * x[i], y[i] * y[i], x[i] * y[i]
                one = 1.0 if xx + yy < 4 else 0.0
                x[i] = xx - yy + a[i] if one else x[i]
                y[i] = 2 * xy + b[i] if one else y[i]
                steps[i] += one
                alive += one
            if alive == 0:
                break
        for i in range(count):
            out[first + i] = int(steps[i])
    return out


FUNCTIONS = {
    "elementwise_chain": elementwise(chain_part),
    "grad_chain": elementwise(chain_gradient_part),
    "logreg_grad": logreg_grad,
    "hvp": hvp,
    "hessian_rosenbrock": rosenbrock_hessian,
    "rk4_value": lambda s: runge_kutta(s, False),
    "rk4_grad": lambda s: runge_kutta(s, True),
    "heat_value": lambda u: heat(u.size)(u),
    "heat_grad": lambda u: heat_backwards(u.size)(heat(u.size)(u)),
    "mandelbrot": lambda real, imaginary: escape_counts(real.size)(real, imaginary),
    "nbody": lambda x, m: gravity(m.size**2)(x, m),
    "softmax_xent": softmax_xent,
    "small_calls": small,
}
SKIP = {case.kind: "not written by hand" for case in w.CASES.values() if case.kind not in FUNCTIONS}
NOTES: dict[str, str] = {}


def over_numpy(kind, args):
    return FUNCTIONS[kind]


def warm_up():
    njit(lambda x: x + 1)(np.ones(7))
    njit(lambda x: x + 1, parallel=True)(np.ones(7))
