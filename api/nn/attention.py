"""Attention and the transformer's encoder."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np

from nufunc.ir.errors import ArgumentError
from nufunc.nn import init
from nufunc.nn.activation import gelu, relu, softmax
from nufunc.nn.containers import ModuleList
from nufunc.nn.dropout import Dropout, dropout
from nufunc.nn.linear import Linear
from nufunc.nn.module import Module, Parameter
from nufunc.nn.norm import LayerNorm
from nufunc.tracer.usercode import user_location

__nufunc_traceable__ = True


def scaled_dot_product_attention(
    query: Any, key: Any, value: Any, attn_mask: Any = None, dropout_p: float = 0.0, is_causal: bool = False,
    scale: float | None = None,
) -> Any:  # fmt: skip
    """softmax(query @ key.T * scale + mask) @ value over the last two axes: (..., L, E), (..., S, E), (..., S, V).

    attn_mask : booleans, True where a query may look, or floats that are added. scale : 1 / sqrt(E) unless given.
    """
    weights = _attention_weights(query, key, attn_mask, is_causal, scale)
    return dropout(weights, dropout_p, dropout_p > 0) @ value


def _attention_weights(query: Any, key: Any, mask: Any, is_causal: bool, scale: float | None) -> Any:
    length, source = np.shape(query)[-2], np.shape(key)[-2]
    factor = 1 / math.sqrt(np.shape(query)[-1]) if scale is None else scale
    scores = (query * factor) @ np.swapaxes(key, -1, -2)
    if is_causal:
        scores = np.where(np.arange(source) <= np.arange(length)[:, None], scores, np.full_like(scores, -np.inf))
    if mask is not None:
        mask = np.asarray(mask)
        if mask.dtype == np.bool_:
            scores = np.where(mask, scores, np.full_like(scores, -np.inf))
        else:
            scores = scores + mask
    return softmax(scores, -1)


class NonDynamicallyQuantizableLinear(Linear):
    """A Linear by the name that torch's attention shows."""


class MultiheadAttention(Module):
    """Attention in num_heads parts of embed_dim features, as torch's: forward(query, key, value) gives (y, weights).

    Arrays are (L, N, E), (N, L, E) with batch_first, or (L, E). attn_mask : (L, S) or (N * num_heads, L, S), True or
    -inf where a query must not look (as torch's module, and unlike its function); key_padding_mask : (N, S), True for
    keys that are left out. in_proj_weight : (3 * embed_dim, embed_dim) where keys and values have embed_dim features,
    else q_proj_weight, k_proj_weight and v_proj_weight. add_bias_kv : one more key and value, which are parameters;
    add_zero_attn : one more, of zeros.
    """

    __constants__ = ("dropout",)

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        bias: bool = True,
        add_bias_kv: bool = False,
        add_zero_attn: bool = False,
        kdim: int | None = None,
        vdim: int | None = None,
        batch_first: bool = False,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        if embed_dim % num_heads:
            raise ArgumentError(
                f"MultiheadAttention: embed_dim {embed_dim} must be divisible by num_heads {num_heads}", user_location()
            )
        self.embed_dim, self.num_heads, self.dropout, self.batch_first = embed_dim, num_heads, dropout, batch_first
        self.kdim, self.vdim = kdim or embed_dim, vdim or embed_dim
        self.same = self.kdim == embed_dim and self.vdim == embed_dim
        shapes = {"q_proj_weight": embed_dim, "k_proj_weight": self.kdim, "v_proj_weight": self.vdim}
        for name, width in shapes.items():
            made = None if self.same else Parameter(init.xavier_uniform((embed_dim, width), dtype=dtype))
            self.register_parameter(name, made)
        whole = Parameter(init.xavier_uniform((3 * embed_dim, embed_dim), dtype=dtype)) if self.same else None
        self.register_parameter("in_proj_weight", whole)
        self.register_parameter("in_proj_bias", Parameter(init.zeros((3 * embed_dim,), dtype)) if bias else None)
        self.out_proj = NonDynamicallyQuantizableLinear(embed_dim, embed_dim, bias, dtype)
        if bias:
            self.out_proj.bias = init.zeros((embed_dim,), dtype)
        for name in ("bias_k", "bias_v"):
            made = Parameter(init.xavier_normal((1, 1, embed_dim), dtype=dtype)) if add_bias_kv else None
            self.register_parameter(name, made)
        self.add_zero_attn = add_zero_attn

    def forward(
        self,
        query: Any,
        key: Any,
        value: Any,
        key_padding_mask: Any = None,
        need_weights: bool = True,
        attn_mask: Any = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> Any:
        alone = np.ndim(query) == 2
        if alone:
            query, key, value = query[None], key[None], value[None]
        elif not self.batch_first:
            query, key, value = (np.swapaxes(x, 0, 1) for x in (query, key, value))
        n, length, e = np.shape(query)
        source = np.shape(key)[1]
        query, key, value = self._projected(query, key, value)
        if self.bias_k is not None:
            key, value = (
                np.concatenate([y, np.broadcast_to(more, (n, 1, e))], axis=1)
                for y, more in ((key, self.bias_k), (value, self.bias_v))
            )
        q, k, v = (self._heads(y) for y in (query, key, value))
        if self.add_zero_attn:
            k, v = (np.concatenate([y, np.zeros_like(y[:, :, :1])], axis=2) for y in (k, v))
        mask = self._mask(attn_mask, key_padding_mask, n, length, source, q.dtype)
        more = np.shape(k)[2] - source
        if more and mask is not None:
            mask = np.pad(mask, [(0, 0)] * (np.ndim(mask) - 1) + [(0, more)])
        weights = _attention_weights(q, k, mask, is_causal and attn_mask is None, None)
        dropped = dropout(weights, self.dropout, self.training)
        y = self.out_proj(np.reshape(np.swapaxes(dropped @ v, 1, 2), (n, length, e)))
        shown: Any = None
        if need_weights:
            shown = np.mean(weights, axis=1) if average_attn_weights else weights
        if alone:
            return y[0], None if shown is None else shown[0]
        return (y if self.batch_first else np.swapaxes(y, 0, 1)), shown

    def _projected(self, query: Any, key: Any, value: Any) -> list[Any]:
        e = self.embed_dim
        if self.same:
            weights = [self.in_proj_weight[k * e : (k + 1) * e] for k in range(3)]
        else:
            weights = [self.q_proj_weight, self.k_proj_weight, self.v_proj_weight]
        made = [x @ w.T for x, w in zip((query, key, value), weights, strict=True)]
        if self.in_proj_bias is None:
            return made
        return [y + self.in_proj_bias[k * e : (k + 1) * e] for k, y in enumerate(made)]

    def _heads(self, x: Any) -> Any:
        n, length, e = np.shape(x)
        return np.swapaxes(np.reshape(x, (n, length, self.num_heads, e // self.num_heads)), 1, 2)

    def _mask(self, attn_mask: Any, padding: Any, n: int, length: int, source: int, dtype: Any) -> Any:
        """The two masks as one array that is added to the scores."""
        total: Any = None
        if attn_mask is not None:
            total = _added(attn_mask, dtype)
            if np.ndim(total) == 3:
                total = np.reshape(total, (n, self.num_heads, length, source))
        if padding is not None:
            hidden = np.reshape(_added(padding, dtype), (n, 1, 1, source))
            total = hidden if total is None else total + hidden
        return total


def _added(mask: Any, dtype: Any) -> Any:
    """A mask as what is added to scores: -inf where a boolean one is True."""
    mask = np.asarray(mask)
    if mask.dtype != np.bool_:
        return mask.astype(dtype)
    return np.where(mask, np.full(np.shape(mask), -np.inf, dtype), np.zeros(np.shape(mask), dtype))


class TransformerEncoderLayer(Module):
    """Self-attention and a network of two linear layers, each added to its input, with layer norm after (or before,
    with norm_first) as in torch.
    """

    def __init__(
        self,
        d_model: int,
        nhead: int,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: str = "relu",
        layer_norm_eps: float = 1e-5,
        batch_first: bool = False,
        norm_first: bool = False,
        bias: bool = True,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        if activation not in ("relu", "gelu"):
            raise ArgumentError(
                f"TransformerEncoderLayer: activation must be 'relu' or 'gelu', got {activation!r}", user_location()
            )
        self.self_attn = MultiheadAttention(d_model, nhead, dropout, bias, batch_first=batch_first, dtype=dtype)
        self.linear1 = Linear(d_model, dim_feedforward, bias, dtype)
        self.dropout = Dropout(dropout)
        self.linear2 = Linear(dim_feedforward, d_model, bias, dtype)
        self.norm_first, self.activation = norm_first, activation
        self.norm1 = LayerNorm(d_model, layer_norm_eps, bias=bias, dtype=dtype)
        self.norm2 = LayerNorm(d_model, layer_norm_eps, bias=bias, dtype=dtype)
        self.dropout1, self.dropout2 = Dropout(dropout), Dropout(dropout)

    def forward(
        self, src: Any, src_mask: Any = None, src_key_padding_mask: Any = None, is_causal: bool = False
    ) -> Any:
        x = src
        if self.norm_first:
            x = x + self._attend(self.norm1(x), src_mask, src_key_padding_mask, is_causal)
            return x + self._feed(self.norm2(x))
        x = self.norm1(x + self._attend(x, src_mask, src_key_padding_mask, is_causal))
        return self.norm2(x + self._feed(x))

    def _attend(self, x: Any, mask: Any, padding: Any, is_causal: bool) -> Any:
        y, _ = self.self_attn(x, x, x, padding, False, mask, is_causal=is_causal)
        return self.dropout1(y)

    def _feed(self, x: Any) -> Any:
        hidden = self.linear1(x)
        active = relu(hidden) if self.activation == "relu" else gelu(hidden)
        return self.dropout2(self.linear2(self.dropout(active)))


class TransformerEncoder(Module):
    """num_layers copies of an encoder layer, one after the other, and a norm at the end if one is given."""

    def __init__(self, encoder_layer: Module, num_layers: int, norm: Module | None = None) -> None:
        super().__init__()
        self.layers = ModuleList([copy.deepcopy(encoder_layer) for _ in range(num_layers)])
        self.num_layers = num_layers
        self.norm = norm

    def forward(
        self, src: Any, mask: Any = None, src_key_padding_mask: Any = None, is_causal: bool = False
    ) -> Any:
        x = src
        for layer in self.layers:
            x = layer(x, mask, src_key_padding_mask, is_causal)
        return x if self.norm is None else self.norm(x)
