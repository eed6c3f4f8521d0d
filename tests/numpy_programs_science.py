"""Programs of signal processing, statistics, images, finance, physics and learning, as users of NumPy write them."""

import numpy as np
import scipy.linalg
import scipy.special
from numpy.linalg import norm
from numpy_program_tools import PROGRAMS, integers, normal, program, spd, uniform
from scipy.special import expit, gammaln, logsumexp

__all__ = ["PROGRAMS"]


@program(normal(16), uniform(0.5, 1.5, 3))
def fft_lowpass(signal, gain):
    spec = np.fft.rfft(signal - signal.mean())
    freqs = np.fft.rfftfreq(signal.size, d=0.1)
    spec[~(freqs < 2.0)] = 0
    spec[1:4] *= gain
    return np.fft.irfft(spec, n=signal.size)


@program(normal(20), normal(3), normal(2))
def iir_filter(x, b, a):
    y = np.zeros_like(x)
    for n in range(len(x)):
        for k in range(len(b)):
            if n - k >= 0:
                y[n] += b[k] * x[n - k]
        for k in range(len(a)):
            if n - k - 1 >= 0:
                y[n] -= 0.1 * a[k] * y[n - k - 1]
    return y


@program(normal(32))
def spectrogram(x, size=8, hop=4):
    window = np.hanning(size)
    frames = np.array([x[i : i + size] * window for i in range(0, len(x) - size + 1, hop)])
    return np.log(np.abs(np.fft.rfft(frames, axis=1)) ** 2 + 1e-3).T


@program(normal(15), normal(5))
def moving_statistics(x, w):
    view = np.lib.stride_tricks.sliding_window_view(x, 5)
    w = np.abs(w) / np.abs(w).sum()
    m = view @ w
    spread = np.sqrt(((view - m[:, None]) ** 2) @ w)
    return np.column_stack([m, spread, view.max(axis=-1), np.median(view, axis=-1)])


@program(normal(10))
def hilbert_envelope(x):
    n = x.size
    h = np.zeros(n)
    h[0] = h[n // 2] = 1
    h[1 : n // 2] = 2
    analytic = np.fft.ifft(np.fft.fft(x) * h)
    return np.abs(analytic), np.unwrap(np.angle(analytic))


@program(normal(30, 3), normal(3))
def least_squares_with_errors(X, beta):
    X = np.c_[np.ones(len(X)), X]
    y = X[:, 1:] @ beta + np.sin(X[:, 1])
    coef, *_ = np.linalg.lstsq(X, y, rcond=None)
    resid = y - X.dot(coef)
    s2 = resid.T.dot(resid) / (X.shape[0] - X.shape[1])
    return coef, np.sqrt(np.diag(s2 * np.linalg.inv(X.T @ X)))


@program(normal(25), integers(0, 25, 8, 25))
def bootstrap(x, idx):
    means = x[idx].mean(axis=1)
    lo, hi = np.percentile(means, [2.5, 97.5])
    return np.array([means.std(ddof=1), lo, hi, np.mean(means > x.mean())])


@program(normal(40), uniform(0.1, 0.9, 3), normal(3), uniform(0.5, 2, 3))
def mixture_step(x, w, mu, sigma):
    w = w / w.sum()
    logp = np.log(w) - 0.5 * ((x[:, None] - mu) / sigma) ** 2 - np.log(sigma)
    resp = np.exp(logp - logsumexp(logp, axis=1, keepdims=True))
    return logsumexp(logp, axis=1).sum(), (resp * x[:, None]).sum(0) / resp.sum(axis=0)


@program(normal(20, 4))
def pca(X):
    Xc = X - X.mean(axis=0)
    vals, vecs = np.linalg.eigh(np.cov(Xc, rowvar=False))
    order = np.argsort(vals)[::-1]
    vals, vecs = vals[order], vecs[:, order]
    vecs = vecs * np.sign(vecs[np.abs(vecs).argmax(axis=0), range(vecs.shape[1])])
    return vals / vals.sum(), Xc @ vecs[:, :2]


@program(uniform(1, 10, 4, 5))
def chi_squared_table(obs):
    expected = np.outer(obs.sum(axis=1), obs.sum(axis=0)) / obs.sum()
    stat = ((obs - expected) ** 2 / expected).sum()
    dof = (obs.shape[0] - 1) * (obs.shape[1] - 1)
    return stat, scipy.special.gammaincc(dof / 2, stat / 2)


@program(uniform(0.5, 5, 10), uniform(0.5, 3), uniform(0.5, 3))
def gamma_likelihood(x, a, b):
    return np.sum(a * np.log(b) - gammaln(a) + (a - 1) * np.log(x) - b * x)


@program(uniform(0, 1, 8, 8))
def histogram_equalisation(img):
    levels = (img * 15).astype(int)
    cdf = np.bincount(levels.ravel(), minlength=16).cumsum()
    cdf = (cdf - cdf.min()) / (cdf.max() - cdf.min())
    return cdf[levels] * img


@program(uniform(0, 1, 10, 10))
def sobel(img):
    kx = np.array([[1, 0, -1], [2, 0, -2], [1, 0, -1]])
    p = np.pad(img, 1, mode="edge")
    gx, gy = np.zeros_like(img), np.zeros_like(img)
    for i in range(3):
        for j in range(3):
            gx += kx[i, j] * p[i : i + img.shape[0], j : j + img.shape[1]]
            gy += kx.T[i, j] * p[i : i + img.shape[0], j : j + img.shape[1]]
    return np.hypot(gx, gy)


@program(uniform(0, 1, 6, 6, 3))
def grey_and_blurred(rgb):
    k = np.exp(-(np.arange(-2, 3) ** 2) / 2.0)
    k /= k.sum()
    blur = np.apply_along_axis(lambda r: np.convolve(r, k, mode="same"), 1, rgb @ [0.2989, 0.587, 0.114])
    return np.apply_along_axis(np.convolve, 0, blur, k, "same")


@program(uniform(0, 1, 8, 8), uniform(0.5, 6.5, 5, 2))
def bilinear_sample(img, pts):
    y, x = pts.T
    y0, x0 = np.floor(y).astype(int), np.floor(x).astype(int)
    wy, wx = y - y0, x - x0
    above = img[y0, x0] * (1 - wx) + img[y0, x0 + 1] * wx
    below = img[y0 + 1, x0] * (1 - wx) + img[y0 + 1, x0 + 1] * wx
    return above * (1 - wy) + below * wy


@program(uniform(0, 1, 6, 6))
def threshold_morphology(img):
    mask = img > 0.4
    padded = np.pad(mask, 1)
    eroded = np.ones_like(mask)
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            eroded &= np.roll(np.roll(padded, dy, 0), dx, 1)[1:-1, 1:-1]
    out = img.copy()
    out[mask & ~eroded] *= 2
    out[~mask] = 0
    return out


@program(uniform(90, 110, 20))
def drawdown(prices):
    r = np.diff(np.log(prices))
    wealth = np.cumprod(1 + r)
    peak = np.maximum.accumulate(wealth)
    return ((wealth - peak) / peak).min(), r.mean() / r.std() * np.sqrt(252), np.prod(1 + r) ** (252 / len(r)) - 1


@program(uniform(90, 110), normal(16, 12), uniform(0.1, 0.4))
def asian_option(S0, Z, sigma):
    dt = 1 / Z.shape[1]
    paths = S0 * np.exp(np.cumsum((0.02 - 0.5 * sigma**2) * dt + sigma * np.sqrt(dt) * Z, axis=1))
    return np.exp(-0.02) * np.maximum(paths.mean(axis=1) - 100.0, 0).mean()


@program(uniform(0.5, 2, 6), uniform(0.02, 0.08))
def bond_yield(cashflows, y):
    t = np.arange(1, len(cashflows) + 1)
    for _ in range(5):
        price = np.sum(cashflows / (1 + y) ** t)
        y = y + (price - 5.0) / np.sum(t * cashflows / (1 + y) ** (t + 1))
    return y


@program(uniform(90, 110), uniform(95, 105))
def american_put(S, K, n=8):
    u = np.exp(0.2 * np.sqrt(1 / n))
    p = (np.exp(0.03 / n) - 1 / u) / (u - 1 / u)
    prices = S * u ** np.arange(n, -n - 1, -2.0)
    v = np.maximum(K - prices, 0)
    for _ in range(n):
        v = np.exp(-0.03 / n) * (p * v[:-1] + (1 - p) * v[1:])
        prices = prices[:-1] / u
        v = np.maximum(v, K - prices)
    return v[0]


@program(normal(5, 3), normal(5, 3), uniform(0.5, 2, 5))
def nbody(pos, vel, mass):
    pos, vel = pos.copy(), vel.copy()
    for _ in range(3):
        d = pos[None, :, :] - pos[:, None, :]
        vel += 0.01 * np.einsum("ijk,ij,j->ik", d, ((d**2).sum(-1) + 0.1) ** -1.5, mass)
        pos += 0.01 * vel
    return pos, 0.5 * (mass * (vel**2).sum(1)).sum()


@program(uniform(0.5, 1.5, 2), uniform(0.5, 2, 4))
def lotka_volterra(y0, p):
    def f(t, y):
        a, b, c, d = p
        return np.array([a * y[0] - b * y[0] * y[1], c * y[0] * y[1] - d * y[1]])

    ts = np.linspace(0, 1, 11)
    ys = np.zeros((len(ts), 2))
    ys[0] = y0
    for i in range(len(ts) - 1):
        h = ts[i + 1] - ts[i]
        k1 = f(ts[i], ys[i])
        k2 = f(ts[i] + h / 2, ys[i] + h * k1 / 2)
        k3 = f(ts[i] + h / 2, ys[i] + h * k2 / 2)
        ys[i + 1] = ys[i] + h / 6 * (k1 + 2 * k2 + 2 * k3 + f(ts[i] + h, ys[i] + h * k3))
    return ys


@program(uniform(0, 1, 12, 12), uniform(0.05, 0.2))
def heat(T, alpha):
    T = T.copy()
    T[0, :], T[-1, :] = 1.0, 0.0
    T[:, [0, -1]] = 0.5
    for _ in range(4):
        T[1:-1, 1:-1] += alpha * (T[2:, 1:-1] + T[:-2, 1:-1] + T[1:-1, 2:] + T[1:-1, :-2] - 4 * T[1:-1, 1:-1])
    return T


@program(normal(3), uniform(0, 6, 1))
def rotation(v, theta):
    c, s = np.cos(theta[0]), np.sin(theta[0])
    R = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    axis = v / norm(v)
    K = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    rodrigues = np.eye(3) + s * K + (1 - c) * K @ K
    return rodrigues @ R @ v, np.cross(v, R @ v), np.trace(rodrigues)


@program(normal(8), uniform(0.5, 2))
def schrodinger(V, mass):
    off = np.diag(-0.5 / mass * np.ones(len(V) - 1), 1)
    E, psi = np.linalg.eigh(np.diag(V + 1 / mass) + off + off.T)
    return E, (psi[:, :3] ** 2).sum(axis=1)


@program(normal(20, 3), integers(0, 2, 20), normal(3), uniform(-1, 1))
def logistic_regression(X, y, w, b):
    p = expit(X @ w + b)
    loss = -np.mean(y * np.log(p + 1e-9) + (1 - y) * np.log(1 - p + 1e-9)) + 0.1 * np.sum(w**2)
    return loss, ((p > 0.5) == y).mean()


@program(normal(12, 2), normal(3, 2))
def kmeans(X, centers):
    centers = centers.copy()
    for _ in range(3):
        labels = np.linalg.norm(X[:, None] - centers[None], axis=2).argmin(axis=1)
        for k in range(len(centers)):
            mask = labels == k
            count = mask.sum()
            centers[k] = np.where(count > 0, (X * mask[:, None]).sum(0) / np.maximum(count, 1), centers[k])
    return centers


@program(normal(10, 4), integers(0, 3, 10), normal(4, 5), normal(5), normal(5, 3), normal(3))
def network_with_its_gradient(X, y, W1, b1, W2, b2):
    h = np.maximum(X @ W1 + b1, 0)
    scores = h @ W2 + b2
    scores -= scores.max(axis=1, keepdims=True)
    probs = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    n = X.shape[0]
    onehot = np.zeros_like(probs)
    onehot[np.arange(n), y] = 1
    return -np.log(probs[np.arange(n), y]).mean(), X.T @ ((probs - onehot) @ W2.T * (h > 0)) / n


@program(normal(8, 4), normal(4, 4), normal(4, 4), normal(4, 4))
def causal_attention(x, Wq, Wk, Wv):
    q, k, v = x @ Wq, x @ Wk, x @ Wv
    scores = q @ k.T / np.sqrt(k.shape[-1])
    scores[np.triu(np.ones((len(x), len(x)), dtype=bool), k=1)] = -np.inf
    return scipy.special.softmax(scores, axis=-1) @ v


@program(normal(4), spd(4), normal(6, 2), uniform(0.1, 0.5))
def kalman(x, P, zs, q):
    F = np.eye(4) + np.eye(4, k=2) * 0.1
    H = np.array([[1.0, 0, 0, 0], [0, 1, 0, 0]])
    out = np.zeros((len(zs), 4))
    for i, z in enumerate(zs):
        x = F @ x
        P = F @ P @ F.T + q * np.eye(4)
        K = P @ H.T @ np.linalg.inv(H @ P @ H.T + 0.5 * np.eye(2))
        x = x + K @ (z - H @ x)
        P = (np.eye(4) - K @ H) @ P
        out[i] = x
    return out, np.linalg.slogdet(P)[1]


@program(normal(7), uniform(0.2, 5.8, 5))
def cubic_spline(y, xq):
    n = len(y)
    A = np.diag(np.full(n, 4.0)) + np.diag(np.ones(n - 1), 1) + np.diag(np.ones(n - 1), -1)
    A[0] = A[-1] = 0
    A[0, 0] = A[-1, -1] = 1
    rhs = np.zeros(n)
    rhs[1:-1] = 6 * (y[2:] - 2 * y[1:-1] + y[:-2])
    M = np.linalg.solve(A, rhs)
    i = np.clip(np.floor(xq).astype(int), 0, n - 2)
    t = xq - i
    bent = (M[i] * (1 - t) ** 3 + M[i + 1] * t**3) / 6
    return bent + (y[i] - M[i] / 6) * (1 - t) + (y[i + 1] - M[i + 1] / 6) * t


@program(normal(10, 2), normal(10), uniform(0.3, 1.5), uniform(0.1, 0.5))
def gaussian_process(X, y, ell, noise):
    K = np.exp(-0.5 * ((X[:, None, :] - X[None, :, :]) ** 2).sum(-1) / ell**2) + noise**2 * np.eye(len(X))
    L = np.linalg.cholesky(K)
    return 0.5 * y @ scipy.linalg.cho_solve((L, True), y) + np.log(np.diag(L)).sum()


@program(normal(8), normal(8))
def time_warping(a, b):
    n, m = len(a), len(b)
    D = np.full((n + 1, m + 1), np.inf)
    D[0, 0] = 0
    for i in range(1, n + 1):
        for j in range(1, m + 1):
            D[i, j] = abs(a[i - 1] - b[j - 1]) + min(D[i - 1, j], D[i, j - 1], D[i - 1, j - 1])
    return D[n, m]


@program(normal(10), integers(0, 6, 10), integers(0, 5, 10), normal(5))
def sparse_product(data, row, col, v):
    y = np.zeros(6)
    np.add.at(y, row, data * v[col])
    best = np.full(6, -np.inf)
    np.maximum.at(best, row, data)
    return y, np.where(np.isinf(best), 0, best), np.bincount(row, weights=data**2, minlength=6)
