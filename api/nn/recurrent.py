"""Recurrent cells and layers: RNN, GRU and LSTM."""

from __future__ import annotations

from typing import Any

import numpy as np

from nufunc.control import scan
from nufunc.ir.errors import ArgumentError, ShapeError
from nufunc.nn import init
from nufunc.nn.activation import sigmoid
from nufunc.nn.dropout import dropout
from nufunc.nn.module import Module, Parameter
from nufunc.tracer.usercode import user_location

__nufunc_traceable__ = True

# One step of each kind: the part of the gates that the input gives is computed for all steps at once.


def _rnn_step(gates: Any, h: Any, weight: Any, bias: Any, nonlinearity: str) -> Any:
    total = gates + _affine(h, weight, bias)
    return np.tanh(total) if nonlinearity == "tanh" else np.maximum(total, 0)


def _gru_step(gates: Any, h: Any, weight: Any, bias: Any) -> Any:
    xr, xz, xn = np.split(gates, 3, axis=-1)
    hr, hz, hn = np.split(_affine(h, weight, bias), 3, axis=-1)
    r, z = sigmoid(xr + hr), sigmoid(xz + hz)
    n = np.tanh(xn + r * hn)
    return n + z * (h - n)


def _lstm_step(gates: Any, state: Any, weight: Any, bias: Any) -> Any:
    h, c = state
    i, f, g, o = np.split(gates + _affine(h, weight, bias), 4, axis=-1)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(c), c


def _affine(x: Any, weight: Any, bias: Any) -> Any:
    y = x @ weight.T
    return y if bias is None else y + bias


# -- cells


class _Cell(Module):
    gates = 1

    def __init__(self, input_size: int, hidden_size: int, bias: bool = True, dtype: Any = None) -> None:
        super().__init__()
        self.input_size, self.hidden_size = input_size, hidden_size
        rows = self.gates * hidden_size
        for name, shape in (("weight_ih", (rows, input_size)), ("weight_hh", (rows, hidden_size))):
            self.register_parameter(name, Parameter(init.fan_in_uniform(shape, hidden_size, dtype)))
        for name in ("bias_ih", "bias_hh"):
            made = Parameter(init.fan_in_uniform((rows,), hidden_size, dtype)) if bias else None
            self.register_parameter(name, made)

    def _start(self, x: Any, h: Any) -> Any:
        if np.shape(x)[-1] != self.input_size:
            raise ShapeError(
                f"{type(self).__name__}: expected input of {self.input_size} features, got shape {np.shape(x)}",
                user_location(),
            )
        return np.zeros((*np.shape(x)[:-1], self.hidden_size), x.dtype) if h is None else h

    def extra_repr(self) -> str:
        text = f"{self.input_size}, {self.hidden_size}"
        return text if self.bias_ih is not None else f"{text}, bias=False"


class RNNCell(_Cell):
    """h' = tanh(x @ weight_ih.T + bias_ih + h @ weight_hh.T + bias_hh), or relu of it."""

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, nonlinearity: str = "tanh", dtype: Any = None
    ) -> None:
        super().__init__(input_size, hidden_size, bias, dtype)
        self.nonlinearity = _nonlinearity(nonlinearity)

    def forward(self, x: Any, h: Any = None) -> Any:
        h = self._start(x, h)
        gates = _affine(x, self.weight_ih, self.bias_ih)
        return _rnn_step(gates, h, self.weight_hh, self.bias_hh, self.nonlinearity)

    def extra_repr(self) -> str:
        text = super().extra_repr()
        return text if self.nonlinearity == "tanh" else f"{text}, nonlinearity={self.nonlinearity}"


def _nonlinearity(name: str) -> str:
    if name not in ("tanh", "relu"):
        raise ArgumentError(f"nonlinearity must be 'tanh' or 'relu', got {name!r}", user_location())
    return name


class GRUCell(_Cell):
    """A gated recurrent unit, with the gates in torch's order: reset, update, new."""

    gates = 3

    def forward(self, x: Any, h: Any = None) -> Any:
        h = self._start(x, h)
        gates = _affine(x, self.weight_ih, self.bias_ih)
        return _gru_step(gates, h, self.weight_hh, self.bias_hh)


class LSTMCell(_Cell):
    """A long short-term memory, with the gates in torch's order: input, forget, cell, output; gives (h', c')."""

    gates = 4

    def forward(self, x: Any, state: Any = None) -> Any:
        h, c = (None, None) if state is None else state
        start = self._start(x, h), self._start(x, c)
        gates = _affine(x, self.weight_ih, self.bias_ih)
        return _lstm_step(gates, start, self.weight_hh, self.bias_hh)


# -- layers


def run(
    kind: str, x: Any, start: Any, params: Any, biased: bool, num_layers: int, dropped: float, training: bool,
    bidirectional: bool, batch_first: bool,
) -> Any:  # fmt: skip
    """(y, final state) of layers of a kind ("tanh", "relu", "gru", "lstm") over x (L, N, features), (N, L, features)
    with batch_first, or (L, features).

    start : the initial state, (num_layers * directions, N, hidden), zeros where None; two such for "lstm". params :
    for each layer and direction the weights of input and state, then their biases if `biased`. dropped : between
    layers.
    """
    alone = np.ndim(x) == 2
    if alone:
        x = x[:, None]
    elif batch_first:
        x = np.swapaxes(x, 0, 1)
    directions, per, parts = 2 if bidirectional else 1, 4 if biased else 2, 2 if kind == "lstm" else 1
    if start is None:
        shape = (num_layers * directions, np.shape(x)[1], np.shape(params[1])[1])
        states = [np.zeros(shape, x.dtype) for _ in range(parts)]
    else:
        states = list(start) if parts == 2 else [start]
        states = [s[:, None] if alone else s for s in states]
    ends: list[Any] = []
    for layer in range(num_layers):
        outs = []
        for direction in range(directions):
            k = layer * directions + direction
            own = list(params[k * per : (k + 1) * per]) + [None] * (4 - per)
            y, end = _direction(kind, x, [s[k] for s in states], own, bool(direction))
            outs.append(y)
            ends.append(end)
        x = np.concatenate(outs, axis=-1) if directions == 2 else outs[0]
        if dropped and layer + 1 < num_layers:
            x = dropout(x, dropped, training)
    final = [np.stack([end[k] for end in ends]) for k in range(parts)]
    if alone:
        x, final = x[:, 0], [f[:, 0] for f in final]
    elif batch_first:
        x = np.swapaxes(x, 0, 1)
    return x, (tuple(final) if parts == 2 else final[0])


def _direction(kind: str, x: Any, start: list[Any], params: list[Any], reverse: bool) -> Any:
    """One layer in one direction: (the states of all steps, the last state)."""
    inner, weight, inner_bias, bias = params
    gates = _affine(x, inner, inner_bias)
    start = [s.astype(np.result_type(s, gates)) for s in start]

    def step(state: Any, gate: Any) -> Any:
        if kind == "lstm":
            new = _lstm_step(gate, state, weight, bias)
        elif kind == "gru":
            new = (_gru_step(gate, state[0], weight, bias),)
        else:
            new = (_rnn_step(gate, state[0], weight, bias, kind),)
        return new, new[0]

    end, y = scan(step, tuple(start), gates, reverse=reverse)
    return y, end


class _Recurrent(Module):
    """Layers over x (L, N, input_size), (N, L, input_size) with batch_first, or (L, input_size): gives (y, state)."""

    gates = 1

    __constants__ = ("dropout",)

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self.input_size, self.hidden_size, self.num_layers = input_size, hidden_size, num_layers
        self.batch_first, self.dropout, self.bidirectional, self.bias = batch_first, dropout, bidirectional, bias
        rows = self.gates * hidden_size
        directions = 2 if bidirectional else 1
        for layer in range(num_layers):
            width = input_size if layer == 0 else hidden_size * directions
            for suffix in ("", "_reverse")[:directions]:
                shapes: list[tuple[str, tuple[int, ...]]] = [("weight_ih", (rows, width))]
                shapes += [("weight_hh", (rows, hidden_size))]
                shapes += [("bias_ih", (rows,)), ("bias_hh", (rows,))] if bias else []
                for name, shape in shapes:
                    made = Parameter(init.fan_in_uniform(shape, hidden_size, dtype))
                    self.register_parameter(f"{name}_l{layer}{suffix}", made)

    def _run(self, kind: str, x: Any, start: Any) -> Any:
        if np.ndim(x) not in (2, 3) or np.shape(x)[-1] != self.input_size:
            raise ShapeError(
                f"{type(self).__name__}: expected (L, N, {self.input_size}), or without N, got shape {np.shape(x)}",
                user_location(),
            )
        params = [getattr(self, name) for name in self._parameters]
        return run(
            kind, x, start, params, self.bias, self.num_layers, self.dropout, self.training, self.bidirectional,
            self.batch_first,
        )  # fmt: skip

    def extra_repr(self) -> str:
        text = f"{self.input_size}, {self.hidden_size}"
        if self.num_layers != 1:
            text += f", num_layers={self.num_layers}"
        if not self.bias:
            text += ", bias=False"
        if self.batch_first:
            text += ", batch_first=True"
        if self.dropout:
            text += f", dropout={self.dropout}"
        if self.bidirectional:
            text += ", bidirectional=True"
        return text


class RNN(_Recurrent):
    """Layers of `RNNCell`: forward(x, h0=None) gives (y, h_n)."""

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: str = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        dtype: Any = None,
    ) -> None:
        super().__init__(input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, dtype)
        self.nonlinearity = _nonlinearity(nonlinearity)

    def forward(self, x: Any, h0: Any = None) -> Any:
        return self._run(self.nonlinearity, x, h0)


class GRU(_Recurrent):
    """Layers of `GRUCell`: forward(x, h0=None) gives (y, h_n)."""

    gates = 3

    def forward(self, x: Any, h0: Any = None) -> Any:
        return self._run("gru", x, h0)


class LSTM(_Recurrent):
    """Layers of `LSTMCell`: forward(x, (h0, c0)=None) gives (y, (h_n, c_n))."""

    gates = 4

    def forward(self, x: Any, state: Any = None) -> Any:
        return self._run("lstm", x, state)
