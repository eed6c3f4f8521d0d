"""ATen's layers, activations and losses on NumPy arrays, as torch's exported graphs name them: see `aten`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from nufunc.host import stop_gradient
from nufunc.ir.errors import UnsupportedError
from nufunc.nn import activation, attention, conv, loss, norm, pooling, recurrent, shape
from nufunc.nn.dropout import dropout
from nufunc.nn.linear import bilinear, linear
from nufunc.nn.sparse import embedding
from nufunc.tracer.usercode import user_location

__nufunc_traceable__ = True


# -- layers


def linear_default(x: Any, weight: Any, bias: Any = None) -> Any:
    return linear(x, weight, bias)


def bilinear_default(x1: Any, x2: Any, weight: Any, bias: Any = None) -> Any:
    return bilinear(x1, x2, weight, bias)


def matmul_default(x: Any, y: Any) -> Any:
    return x @ y


def mm_default(x: Any, y: Any) -> Any:
    return x @ y


def bmm_default(x: Any, y: Any) -> Any:
    return x @ y


def addmm_default(bias: Any, x: Any, y: Any, beta: Any = 1, alpha: Any = 1) -> Any:
    return beta * bias + alpha * (x @ y)


def baddbmm_default(bias: Any, x: Any, y: Any, beta: Any = 1, alpha: Any = 1) -> Any:
    return beta * bias + alpha * (x @ y)


def einsum_default(equation: str, tensors: Sequence[Any], path: Any = None) -> Any:
    return np.einsum(equation, *tensors)


# ATen's convolutions take what torch's functions do, in their order
conv1d_default = conv1d_padding = conv.conv1d
conv2d_default = conv2d_padding = conv.conv2d
conv3d_default = conv3d_padding = conv.conv3d
conv_transpose1d_default = conv.conv_transpose1d
conv_transpose2d_input = conv.conv_transpose2d
conv_transpose3d_input = conv.conv_transpose3d


def batch_norm_default(
    x: Any, weight: Any, bias: Any, running_mean: Any, running_var: Any, training: bool, momentum: float, eps: float,
    cudnn_enabled: bool = True,
) -> Any:  # fmt: skip
    return norm.batch_norm(x, running_mean, running_var, weight, bias, training, momentum, eps)


def layer_norm_default(
    x: Any, normalized_shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5, cudnn_enable: bool = True
) -> Any:
    return norm.layer_norm(x, normalized_shape, weight, bias, eps)


def rms_norm_default(x: Any, normalized_shape: Any, weight: Any = None, eps: float | None = None) -> Any:
    return norm.rms_norm(x, normalized_shape, weight, eps)


def group_norm_default(
    x: Any, num_groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5, cudnn_enabled: bool = True
) -> Any:
    return norm.group_norm(x, num_groups, weight, bias, eps)


def instance_norm_default(
    x: Any, weight: Any, bias: Any, running_mean: Any, running_var: Any, use_input_stats: bool, momentum: float,
    eps: float, cudnn_enabled: bool = True,
) -> Any:  # fmt: skip
    return norm.instance_norm(x, running_mean, running_var, weight, bias, use_input_stats, momentum, eps)


def embedding_default(
    weight: Any, indices: Any, padding_idx: int = -1, scale_grad_by_freq: bool = False, sparse: bool = False
) -> Any:
    if not 0 <= padding_idx < np.shape(weight)[0]:
        return embedding(indices, weight)
    pads = np.expand_dims(np.asarray(indices) == padding_idx, -1)
    rows = embedding(indices, weight)
    return np.where(pads, stop_gradient(rows), rows)


def dropout_default(x: Any, p: float, train: bool) -> Any:
    return dropout(x, p, train)


def dropout__default(x: Any, p: float, train: bool) -> Any:
    return _stored(x, dropout(x, p, train))


def _pool(function: Callable[..., Any]) -> Callable[..., Any]:
    def pool(x: Any, kernel_size: Any, stride: Any = (), *rest: Any, **named: Any) -> Any:
        return function(x, kernel_size, stride or None, *rest, **named)

    return pool


def _adaptive_max_pool(function: Callable[..., Any]) -> Callable[..., Any]:
    def pool(x: Any, output_size: Any) -> Any:
        return function(x, output_size), None  # where the maxima stand is not known

    return pool


def _resize(mode: str) -> Callable[..., Any]:
    def resize(x: Any, output_size: Any, scale_factors: Any) -> Any:
        return shape.interpolate(x, output_size, scale_factors, mode)

    def resize_aligned(x: Any, output_size: Any, align_corners: bool, scale_factors: Any) -> Any:
        return shape.interpolate(x, output_size, scale_factors, mode, align_corners)

    return resize if mode.startswith("nearest") else resize_aligned


max_pool1d_default, max_pool2d_default, max_pool3d_default = map(
    _pool, (pooling.max_pool1d, pooling.max_pool2d, pooling.max_pool3d)
)
avg_pool1d_default, avg_pool2d_default, avg_pool3d_default = map(
    _pool, (pooling.avg_pool1d, pooling.avg_pool2d, pooling.avg_pool3d)
)
adaptive_avg_pool1d_default = pooling.adaptive_avg_pool1d
adaptive_avg_pool2d_default = pooling.adaptive_avg_pool2d
adaptive_avg_pool3d_default = pooling.adaptive_avg_pool3d
adaptive_max_pool1d_default, adaptive_max_pool2d_default, adaptive_max_pool3d_default = map(
    _adaptive_max_pool, (pooling.adaptive_max_pool1d, pooling.adaptive_max_pool2d, pooling.adaptive_max_pool3d)
)
upsample_nearest1d_vec = upsample_nearest2d_vec = upsample_nearest3d_vec = _resize("nearest")
_upsample_nearest_exact1d_vec = _upsample_nearest_exact2d_vec = _upsample_nearest_exact3d_vec = _resize("nearest-exact")
upsample_linear1d_vec, upsample_bilinear2d_vec = _resize("linear"), _resize("bilinear")
upsample_bicubic2d_vec, upsample_trilinear3d_vec = _resize("bicubic"), _resize("trilinear")


def pixel_shuffle_default(x: Any, upscale_factor: int) -> Any:
    return shape.pixel_shuffle(x, upscale_factor)


def scaled_dot_product_attention_default(
    query: Any, key: Any, value: Any, attn_mask: Any = None, dropout_p: float = 0.0, is_causal: bool = False,
    scale: float | None = None, enable_gqa: bool = False,
) -> Any:  # fmt: skip
    if enable_gqa:
        raise UnsupportedError("the torch module uses scaled_dot_product_attention with enable_gqa", user_location())
    return attention.scaled_dot_product_attention(query, key, value, attn_mask, dropout_p, is_causal, scale)


def lstm_input(
    x: Any, hx: Sequence[Any], params: Sequence[Any], has_biases: bool, num_layers: int, dropout: float, train: bool,
    bidirectional: bool, batch_first: bool,
) -> Any:  # fmt: skip
    y, (h, c) = recurrent.run("lstm", x, hx, params, has_biases, num_layers, dropout, train, bidirectional, batch_first)
    return y, h, c


def gru_input(
    x: Any, hx: Any, params: Sequence[Any], has_biases: bool, num_layers: int, dropout: float, train: bool,
    bidirectional: bool, batch_first: bool,
) -> Any:  # fmt: skip
    return recurrent.run("gru", x, hx, params, has_biases, num_layers, dropout, train, bidirectional, batch_first)


def rnn_tanh_input(
    x: Any, hx: Any, params: Sequence[Any], has_biases: bool, num_layers: int, dropout: float, train: bool,
    bidirectional: bool, batch_first: bool,
) -> Any:  # fmt: skip
    return recurrent.run("tanh", x, hx, params, has_biases, num_layers, dropout, train, bidirectional, batch_first)


def rnn_relu_input(
    x: Any, hx: Any, params: Sequence[Any], has_biases: bool, num_layers: int, dropout: float, train: bool,
    bidirectional: bool, batch_first: bool,
) -> Any:  # fmt: skip
    return recurrent.run("relu", x, hx, params, has_biases, num_layers, dropout, train, bidirectional, batch_first)


# -- activations


def relu_default(x: Any) -> Any:
    return activation.relu(x)


def _stored(x: Any, value: Any) -> Any:
    """An operation in place: other names of x see the value too."""
    x[...] = value
    return x


def relu__default(x: Any) -> Any:
    return _stored(x, activation.relu(x))


def relu6_default(x: Any) -> Any:
    return activation.relu6(x)


def hardtanh_default(x: Any, min_val: float = -1, max_val: float = 1) -> Any:
    return activation.hardtanh(x, min_val, max_val)


def hardtanh__default(x: Any, min_val: float = -1, max_val: float = 1) -> Any:
    return _stored(x, activation.hardtanh(x, min_val, max_val))


def leaky_relu__default(x: Any, negative_slope: float = 0.01) -> Any:
    return _stored(x, activation.leaky_relu(x, negative_slope))


def leaky_relu_default(x: Any, negative_slope: float = 0.01) -> Any:
    return activation.leaky_relu(x, negative_slope)


def elu_default(x: Any, alpha: float = 1, scale: float = 1, input_scale: float = 1) -> Any:
    return activation.elu(x, alpha) * scale


def gelu_default(x: Any, approximate: str = "none") -> Any:
    return activation.gelu(x, approximate)


def silu_default(x: Any) -> Any:
    return activation.silu(x)


def silu__default(x: Any) -> Any:
    return _stored(x, activation.silu(x))


def mish_default(x: Any) -> Any:
    return activation.mish(x)


def sigmoid_default(x: Any) -> Any:
    return activation.sigmoid(x)


def tanh_default(x: Any) -> Any:
    return np.tanh(x)


def softplus_default(x: Any, beta: float = 1, threshold: float = 20) -> Any:
    return activation.softplus(x, beta, threshold)


def hardswish_default(x: Any) -> Any:
    return activation.hardswish(x)


def hardswish__default(x: Any) -> Any:
    return _stored(x, activation.hardswish(x))


def hardsigmoid_default(x: Any) -> Any:
    return activation.hardsigmoid(x)


def glu_default(x: Any, dim: int = -1) -> Any:
    return activation.glu(x, dim)


def prelu_default(x: Any, weight: Any) -> Any:
    return activation.prelu(x, weight)


_REDUCTIONS = ("none", "mean", "sum")


def mse_loss_default(x: Any, target: Any, reduction: int = 1) -> Any:
    return loss.mse_loss(x, target, _REDUCTIONS[reduction])


def cross_entropy_loss_default(
    x: Any, target: Any, weight: Any = None, reduction: int = 1, ignore_index: int = -100, label_smoothing: float = 0.0
) -> Any:
    return loss.cross_entropy(x, target, weight, ignore_index, _REDUCTIONS[reduction], label_smoothing)


def nll_loss_nd_default(
    x: Any, target: Any, weight: Any = None, reduction: int = 1, ignore_index: int = -100
) -> Any:
    return loss.nll_loss(x, target, weight, ignore_index, _REDUCTIONS[reduction])
