"""Embeddings and one-hot vectors."""

from __future__ import annotations

from typing import Any

import numpy as np

from nufunc.ir.errors import ArgumentError
from nufunc.nn import init
from nufunc.nn.module import Module, Parameter
from nufunc.tracer.usercode import user_location

__nufunc_traceable__ = True


def embedding(input: Any, weight: Any) -> Any:
    """The rows of weight (number, size) that the integers in input name: (*input.shape, size)."""
    return np.take(weight, input, axis=0)


def one_hot(input: Any, num_classes: int) -> Any:
    """1 at the class that each integer names, 0 elsewhere: (*input.shape, num_classes), int64."""
    return (np.expand_dims(np.asarray(input), -1) == np.arange(num_classes)).astype(np.int64)


class Embedding(Module):
    """See `functional.embedding`; weight : (num_embeddings, embedding_dim), normal, with zeros at padding_idx.

    The row of padding_idx gets no gradient.
    """

    def __init__(
        self, num_embeddings: int, embedding_dim: int, padding_idx: int | None = None, dtype: Any = None
    ) -> None:
        super().__init__()
        if padding_idx is not None:
            if not -num_embeddings <= padding_idx < num_embeddings:
                raise ArgumentError(
                    f"Embedding: padding_idx {padding_idx} is outside the {num_embeddings} rows", user_location()
                )
            padding_idx %= num_embeddings
        self.num_embeddings, self.embedding_dim, self.padding_idx = num_embeddings, embedding_dim, padding_idx
        values = init.normal((num_embeddings, embedding_dim), dtype=dtype)
        if padding_idx is not None:
            values[padding_idx] = 0
        self.weight = Parameter(values)

    def forward(self, input: Any) -> Any:
        rows = embedding(input, self.weight)
        if self.padding_idx is None:
            return rows
        from nufunc import stop_gradient

        pads = np.expand_dims(np.asarray(input) == self.padding_idx, -1)
        return np.where(pads, stop_gradient(rows), rows)

    def extra_repr(self) -> str:
        text = f"{self.num_embeddings}, {self.embedding_dim}"
        return text if self.padding_idx is None else f"{text}, padding_idx={self.padding_idx}"
