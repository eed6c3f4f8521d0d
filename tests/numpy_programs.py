"""Programs as users of NumPy write them: algorithms with loops, masks, views, objects and standard library. Each takes
arrays that its decorator makes of a generator; test_numpy_programs.py runs them under every transform.
"""

import math
from collections import defaultdict
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import scipy.linalg as sla
import scipy.special as sp
from numpy_program_tools import PROGRAMS, constant, integers, normal, program, spd, uniform

__all__ = ["PROGRAMS"]


@program(normal(10, 10))
def game_of_life_like(g):
    alive = (g > 0).astype(np.uint8)
    n = sum(np.roll(alive, (i, j), (0, 1)) for i in (-1, 0, 1) for j in (-1, 0, 1) if (i, j) != (0, 0))
    nxt = (n == 3) | ((alive == 1) & (n == 2))
    return nxt.astype(float) * g, nxt.sum(), 8 * g[nxt].sum()


@program(normal(20))
def welford(x):
    mean = 0.0
    m2 = 0.0
    n = 0
    for v in x:
        n += 1
        delta = v - mean
        mean += delta / n
        m2 += delta * (v - mean)
    return mean, math.sqrt(m2 / (n - 1))


@program(normal(8), normal(8))
def levinson(r_, b):
    r = r_ * 0.1
    r[0] += 2
    T = sla.toeplitz(r)
    x = np.linalg.solve(T, b)
    return x, np.linalg.cond(T), sla.circulant(r) @ b


@program(uniform(0, 1, 5, 5))
def floyd_warshall(w):
    d = w + np.where(np.eye(5, dtype=bool), -w, 0.1)
    for k in range(len(d)):
        d = np.minimum(d, d[:, k, None] + d[None, k, :])
    return d


@program(uniform(0.1, 1, 4, 6), uniform(0.1, 1, 4), uniform(0.1, 1, 6))
def sinkhorn(cost, a, b):
    a, b = a / a.sum(), b / b.sum()
    K = np.exp(-cost / 0.3)
    u = np.ones_like(a)
    for _ in range(12):
        v = b / (K.T @ u)
        u = a / (K @ v)
    P = u[:, None] * K * v
    return (P * cost).sum(), P.sum(axis=0)


@program(uniform(0.2, 0.8, 3, 3), uniform(0.2, 0.8, 3, 4), uniform(0.2, 0.8, 3), integers(0, 4, 7))
def hmm_forward(A, Bm, pi, obs):
    A = A / A.sum(1, keepdims=True)
    Bm = Bm / Bm.sum(1, keepdims=True)
    pi = pi / pi.sum()
    alpha = pi * Bm[:, obs[0]]
    c = [alpha.sum()]
    alpha /= c[-1]
    for o in obs[1:]:
        alpha = (alpha @ A) * Bm[:, o]
        c.append(alpha.sum())
        alpha /= c[-1]
    return np.log(np.array(c)).sum(), alpha


@program(uniform(0.2, 0.8, 3, 3), uniform(0.2, 0.8, 3, 4), integers(0, 4, 6))
def viterbi(A, Bm, obs):
    logA, logB = np.log(A), np.log(Bm)
    T = len(obs)
    delta = np.zeros((T, 3))
    psi = np.zeros((T, 3), dtype=int)
    delta[0] = logB[:, obs[0]]
    for t in range(1, T):
        s = delta[t - 1][:, None] + logA
        psi[t] = np.argmax(s, axis=0)
        delta[t] = np.max(s, axis=0) + logB[:, obs[t]]
    path = np.zeros(T, dtype=int)
    path[-1] = delta[-1].argmax()
    for t in range(T - 2, -1, -1):
        path[t] = psi[t + 1, path[t + 1]]
    return delta[-1].max(), path


@program(normal(6), uniform(0.5, 1.5))
def runge_kutta_adaptive(y, tol):
    t, h = 0.0, 0.1
    while t < 1.0:
        k1 = -y
        k2 = -(y + h * k1)
        err = np.abs(k2 - k1).max() * h / 2
        y = y + h * (k1 + k2) / 2
        t += h
        h = np.clip(h * np.minimum(1.5, tol / (err + 0.5)), 0.05, 0.3)
    return y


@program(normal(12, 2))
def convex_area(pts):
    c = pts.mean(0)
    ang = np.arctan2(*(pts - c).T[::-1])
    p = pts[np.argsort(ang)]
    x, y = p[:, 0], p[:, 1]
    return 0.5 * np.abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1)))


class Point(NamedTuple):
    x: float
    y: float


@dataclass
class Params:
    w: object
    b: object
    act: str = "tanh"


@program(normal(3, 3), normal(3), normal(3))
def with_dataclasses(w, b, x):
    p = Params(w, b)
    f = {"tanh": np.tanh, "relu": lambda v: np.maximum(v, 0)}[p.act]
    h = f(p.w @ x + p.b)
    pt = Point(h[0], h[1])
    d = defaultdict(list)
    for i, v in enumerate(h):
        d["even" if i % 2 == 0 else "odd"].append(v)
    return {"norm": math.hypot(pt.x, pt.y), "even": np.array(d["even"])}["even"], pt.x * pt.y


@program(normal(30))
def fsum_and_generators(x):
    total = sum(v * v for v in x)
    m = max(abs(v) for v in x)
    best = x.min()
    return total / m, np.fromiter((i for i in range(3)), dtype=float).sum() * best, any(x > 5), all(x < 10)


@program(normal(7, 3))
def string_axis_args(x):
    stats = {name: getattr(np, name)(x, axis=0) for name in ("mean", "std", "min", "max", "median")}
    return np.vstack(list(stats.values())), x.__getitem__((slice(None), 1)).cumsum()


@program(normal(4, 4))
def out_and_where(a):
    out = np.zeros_like(a)
    np.multiply(a, 2, out=out, where=a > 0)
    np.add(out, a, out)
    np.exp(out[1], out=out[1])
    np.clip(out, -1, 3, out=out)
    s = np.empty(4)
    np.sum(out, axis=0, out=s)
    np.maximum(s, 0.5, out=s)
    return out, s


@program(normal(5, 4))
def nan_tools(x):
    y = x.copy()
    y[1, 2] = np.nan
    y[3] = np.where(x[3] > 0, np.nan, x[3])
    return (
        np.nansum(y, axis=1),
        np.nanmax(y, axis=0),
        np.nanstd(y),
        np.nan_to_num(y, nan=-1.0).sum(),
        np.nancumsum(y[:, 0]),
        np.isnan(y).sum(0),
    )


@program(normal(16))
def bit_reverse_fft(x):
    n = len(x)
    idx = np.array([int(format(i, "04b")[::-1], 2) for i in range(n)])
    X = x[idx].astype(complex)
    size = 2
    while size <= n:
        half = size // 2
        w = np.exp(-2j * np.pi * np.arange(half) / size)
        for start in range(0, n, size):
            t = w * X[start + half : start + size]
            u = X[start : start + half].copy()
            X[start : start + half] = u + t
            X[start + half : start + size] = u - t
        size *= 2
    return X


@program(normal(6, 6))
def lu_by_hand(A):
    A = A + 6 * np.eye(6)
    n = A.shape[0]
    L = np.eye(n)
    U_ = A.copy()
    for k in range(n - 1):
        L[k + 1 :, k] = U_[k + 1 :, k] / U_[k, k]
        U_[k + 1 :, k:] -= np.outer(L[k + 1 :, k], U_[k, k:])
    return L, U_, np.prod(np.diag(U_)), np.abs(L @ U_ - A).max() < 1e-9


@program(normal(5, 5), normal(5))
def householder_qr(A, b):
    R = A.copy()
    Q = np.eye(5)
    for j in range(4):
        v = R[j:, j].copy()
        v[0] += np.copysign(np.linalg.norm(v), v[0])
        v /= np.linalg.norm(v)
        R[j:, j:] -= 2 * np.outer(v, v @ R[j:, j:])
        Q[:, j:] -= 2 * np.outer(Q[:, j:] @ v, v)
    return np.triu(R), Q.T @ b


@program(normal(20, 2), normal(3))
def ransac_like(p, thresholds):
    best = 0.0
    model = np.zeros(2)
    for i, j in [(0, 1), (2, 5), (7, 11)]:
        d = p[j] - p[i]
        n = np.array([-d[1], d[0]]) / np.hypot(*d)
        dist = np.abs((p - p[i]) @ n)
        inl = np.exp(-dist).sum()
        if inl > best:
            best, model = inl, n
    return best, model, np.ptp(thresholds)


@program(normal(9))
def early_return(x):
    def first_above(v, t):
        for i in range(len(v)):
            if v[i] > t:
                return v[i] * i
        return -1.0

    return first_above(x, 0.5), first_above(x, 50.0)


@program(uniform(0.5, 3, 6))
def recursion_and_cache(x):
    memo = {}

    def f(n):
        if n in memo:
            return memo[n]
        memo[n] = x[n] if n < 2 else f(n - 1) * 0.5 + f(n - 2) * x[n]
        return memo[n]

    return f(5), math.gamma(x[0]) + math.erf(x[1]) + math.log2(x[2]) + math.pow(x[3], 1.5)


@program(normal(3, 4, 5))
def axes_galore(t):
    a = np.swapaxes(t, 0, 2)[..., ::-1]
    b = np.rollaxis(t, 2).reshape(5, -1)
    c = np.take(t, [0, 2, 2], axis=1).mean((0, 2))
    d = t[:, [0, 1], 1:4:2]
    e = t[1, :, None, [0, 3]]
    f = np.squeeze(t[:1]).T
    g = np.atleast_3d(t[0]).shape[2] * t[0, 0]
    return a, b @ b.T, c, d, e, f, g, np.flip(t, (0, 1)).ravel("F")[:7]


@program(normal(6))
def broadcasting_tricks(x):
    i, j = np.ogrid[:6, :6]
    K = np.exp(-np.abs(i - j)) * x[i] * x[j]
    r, c_ = np.triu_indices(6, 1)
    packed = K[r, c_]
    M = np.zeros((6, 6))
    M[r, c_] = packed
    M += M.T
    blocks = np.block([[M[:2, :2], np.zeros((2, 2))], [np.ones((1, 4))]])
    return M, blocks, np.tril(K, -1).sum(), K[np.ix_([0, 2], [1, 3, 5])]


@program(integers(0, 5, 30), normal(30))
def confusion_counts(labels, scores):
    pred = np.clip(np.rint(scores + labels), 0, 4).astype(int)
    cm = np.zeros((5, 5), dtype=int)
    np.add.at(cm, (labels, pred), 1)
    prec = np.diag(cm) / np.maximum(cm.sum(0), 1)
    return cm, prec.mean(), np.trapezoid(np.sort(scores), dx=0.1), np.cumsum(np.bincount(labels, scores, 5))


@program(normal(15), normal(15))
def roc_auc(score, noise):
    y = noise > 0
    order = np.argsort(-score, kind="stable")
    tp = np.cumsum(y[order])
    fp = np.cumsum(~y[order])
    tpr = tp / tp[-1]
    fpr = fp / fp[-1]
    return np.trapezoid(tpr, fpr), np.interp(0.5, fpr, tpr), (score * y).sum()


@program(normal(5), constant("fro"), constant(None))
def kwargs_and_defaults(x, mode, extra):
    opts = {"axis": -1, "keepdims": True}
    y = np.stack([x, x**2])
    z = y / np.linalg.norm(y, **opts)
    if extra is None:
        extra = {"ddof": 1}
    return z.var(**extra), np.linalg.norm(y, mode), np.average(y, axis=1, weights=np.arange(1, 6))


@program(normal(8))
def complex_mixed(x):
    z = x[:4] + 1j * x[4:]
    z[1:] *= np.exp(0.5j)
    z.imag[0] = 2.0
    w = np.vdot(z, z).real
    poly = np.polyval([1, 2j, z[0]], z)
    return np.abs(poly), w, np.real_if_close(1.0) * z.conj().sum().imag, np.sort(np.abs(np.roots([1.0, x[0], 2.0])))


@program(normal(4, 6), normal(6))
def einsum_family(a, b):
    g = np.einsum("ij,ik->jk", a, a, optimize=True)
    h = np.einsum("ij,j,kj->ik", a, b, a)
    t = np.einsum(a, [0, 1], b, [1], [0])
    return (
        np.linalg.slogdet(g + np.eye(6)),
        np.trace(h),
        np.inner(t, t),
        np.tensordot(a, b, 1),
        np.kron(t, b[:2]),
        np.linalg.multi_dot([a.T, a, b]),
    )


@program(uniform(0.1, 2, 5), uniform(0.1, 2, 5))
def special_more(x, y):
    return (
        sp.betaln(x, y),
        sp.gammaln(x).sum(),
        sp.polygamma(1, x),
        sp.erfinv(np.tanh(x) * 0.9),
        sp.log_ndtr(-x),
        sp.i0e(x) / sp.i1e(x),
        sp.expit(x) - sp.logit(x / 3),
        sp.entr(x).sum(),
        sp.rel_entr(x, y),
        sp.softmax(x),
        sp.logsumexp(np.stack([x, y]), axis=0, b=[[1], [2]]),
        sp.betainc(x, y, 0.3),
    )


@program(spd(4), normal(4, 4))
def scipy_linalg(S, A):
    c, low = sla.cho_factor(S)
    x = sla.cho_solve((c, low), A)
    lu, piv = sla.lu_factor(A)
    return (
        x,
        sla.lu_solve((lu, piv), S[0]),
        sla.expm(A * 0.1),
        sla.sqrtm(S),
        sla.solve_triangular(np.tril(S), A[:, 0], lower=True),
        sla.block_diag(A[:2, :2], 1.0),
        sla.det(A),
        sla.norm(A),
    )


@program(normal(10))
def stateful_object(x):
    class Accumulator:
        total = 0.0

        def __init__(self):
            self.items = []

        def __call__(self, v):
            self.total += v
            self.items.append(v)
            return self

        def __len__(self):
            return len(self.items)

        @property
        def mean(self):
            return self.total / len(self)

    acc = Accumulator()
    for v in x[::2]:
        acc(v)
    acc.items.reverse()
    return acc.mean, np.array(acc.items), np.asarray([acc.total, *acc.items[:2]])


@program(normal(5, 5))
def mask_updates(a):
    a = a.copy()
    a[a < 0] *= -1
    a[a > 1.5] = 1.5
    m = a > a.mean()
    a[~m] += 0.1 * a[~m] ** 2
    a[m] = np.sqrt(a[m])
    a[np.arange(5), np.arange(5)[::-1]] = 0
    a[1:3][:, [0, 4]] = 7
    np.putmask(a, a == 7, [1.0, 2.0])
    return a, a[m].mean(), np.count_nonzero(m), a[:, a.sum(0) > 0].sum()


@program(normal(12))
def walrus_fstring_ternary(x):
    if (n := len(x)) > 10:
        name = f"n={n}"
    y = x if name.startswith("n") else -x
    z = np.where(y > 0, y, 0.1 * y) if y.ndim == 1 else None
    assert z is not None
    try:
        q = z.reshape(3, 4)
    except ValueError:
        q = z
    a, *rest, b = q[0]
    return a + b, q[1:] @ np.array(rest + rest), [*range(2)][-1] * z


@program(uniform(-1, 1, 6))
def quantize_ste(x):
    q = np.round(x * 4) / 4
    lv = np.floor((x + 1) * 2).astype(np.int32)
    oh = (lv[:, None] == np.arange(4)).astype(np.float32)
    bits = np.bitwise_and(lv, 1) ^ (lv >> 1)
    return q + x, oh.sum(0), bits, np.unpackbits(lv.astype(np.uint8)[:2])


@program(normal(5, 3), normal(5))
def lstsq_ridge_weights(X, y):
    w = np.exp(-np.abs(y))
    W = np.diag(w)
    beta = np.linalg.inv(X.T @ W @ X + 0.1 * np.identity(3)).dot(X.T).dot(W).dot(y)
    H = X @ np.linalg.pinv(X)
    lev = H.diagonal()
    r = y - X @ beta
    return beta, lev, (r / np.sqrt(1 - lev * 0.9)).std(), np.corrcoef(X, rowvar=False)[0]


@program(normal(3), normal(3), uniform(0.1, 0.5))
def leapfrog_while(q, p, eps):
    def grad_u(q):
        return q + 0.1 * q**3

    i = 0
    p = p - eps / 2 * grad_u(q)
    while True:
        q = q + eps * p
        i += 1
        if i == 5:
            break
        p = p - eps * grad_u(q)
    p = -(p - eps / 2 * grad_u(q))
    return q, p, 0.5 * (p @ p)


@program(normal(4, 3), constant((2, 6)))
def shape_arith(x, shape):
    r, c = shape
    y = x.reshape(*shape) if r * c == x.size else x
    pad = [(0, max(0, 8 - s)) for s in y.shape]
    z = np.pad(y, pad, mode="constant", constant_values=x.mean())
    return (
        z.shape[0] * z[0],
        np.array_split(y, 4, axis=1)[1],
        np.tile(x[0], (2, 2)),
        np.resize(x, 5),
        z.size // 2 + x.min(),
    )


@program(normal(8), normal(8))
def sorting_network(a, b):
    k = np.lexsort((b, np.round(a)))
    top = np.sort(a)[-3:][::-1]
    idx = np.argpartition(a, -3)[-3:]
    rank = np.searchsorted(np.sort(a), a)
    return b[k], top.sum() - a[idx].sum(), rank, np.partition(b, 3)[3], a[np.argmax(b)]
