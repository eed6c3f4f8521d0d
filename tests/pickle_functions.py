"""Functions that tests of pickling find by name, in this process and in others."""

import numpy as np

import nufunc as nf


@nf.jit
def decorated(x):
    return np.sin(x) * 2


def plain(x):
    return np.sum(x**3)


@nf.vmap
@nf.grad
def stacked(x):
    return np.sum(np.exp(x))


@nf.jit
def in_main_too(x, scale=3.0):
    return x * scale


def reversed_rows(x):
    return x[..., ::-1]


def calls_back(x):
    return nf.pure_callback(reversed_rows, nf.spec(4), x) * 2


def calls_back_once(x):
    return nf.pure_callback(reversed_rows, nf.spec(4), x, vectorized=True) * 2


@nf.custom_jvp
def with_jvp(x):
    return np.sin(x)


@with_jvp.defjvp
def _(primals, tangents):
    return np.sin(primals[0]), 7.0 * tangents[0]


@nf.custom_vjp
def with_vjp(x):
    return np.sin(x)


with_vjp.defvjp(lambda x: (np.sin(x), np.cos(x)), lambda residual, cotangent: (5.0 * residual * cotangent,))


class Model:
    """A class with transformed methods."""

    def __init__(self, w):
        self.w = w

    @nf.jit
    def forward(self, x):
        return x * self.w

    def loss(self, x):
        return np.sum(x * self.w) ** 2

    @nf.grad
    def slope(self, x):
        return np.sum(x**2 * self.w)
