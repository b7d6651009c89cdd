"""Vectors of items: a learnt one for every warm item, and one that is projected from its text.

The own vector exists for items with training interactions only. Leaving it out at random in training (`own_dropout`) makes
a model work without it, so that cold and new items, which have their content alone, can be ranked with the others.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from felid.models.base import Catalogue

OWN_STD = 0.05
"""Spread of first own vectors."""
TEXT_STD = 0.1
"""Spread of the first text projections of standardised embeddings."""


class ItemVectors(nn.Module):
    """The sum of an item's own vector and the projection of its text embedding.

    Inside, warm items stand first, so that the vectors of all warm items are computed without a gather. No parameter
    depends on N: cold items may be added to the catalogue of a trained model.

    Args:
        catalogue: embeddings and which items are warm; embeddings are standardised by the mean and the one standard
            deviation of the warm items.
        width: D.
        own: whether warm items have a vector of their own.
        text: whether the text embedding is read.
        text_hidden: widths of the hidden layers between embedding and item vector; () is a linear map.
        own_dropout: probability that an item's own vector is left out, all of it, in a step of training.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        width: int,
        *,
        own: bool = True,
        text: bool = True,
        text_hidden: tuple[int, ...] = (),
        own_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        warm = catalogue.warm
        order = np.concatenate((np.flatnonzero(warm), np.flatnonzero(~warm)))
        self.width, self.num_warm, self.own_dropout = width, int(warm.sum()), own_dropout
        self.register_buffer("order", torch.from_numpy(order), persistent=False)
        self.register_buffer("place", torch.from_numpy(np.argsort(order)), persistent=False)
        self.order: Tensor
        self.place: Tensor
        self.own = nn.Parameter(torch.randn(self.num_warm, width) * OWN_STD) if own else None
        self.text: nn.Sequential | None = None
        if text:
            features = standardise(catalogue.embeddings, warm)[order]
            self.register_buffer("features", torch.from_numpy(features), persistent=False)
            self.features: Tensor
            self.text = _projection(features.shape[1], text_hidden, width)

    @property
    def warm_rows(self) -> Int[Tensor, " W"]:
        """The warm items in the order of `warm`."""
        return self.order[: self.num_warm]

    @property
    def known(self) -> Tensor:
        """(N,) bool: which items have a vector at all; the others are zero."""
        return torch.ones_like(self.place, dtype=torch.bool) if self.text is not None else self._has_own(self.place)

    def forward(self, rows: Int[Tensor, " R"] | None = None) -> Float[Tensor, "R D"]:
        """Vectors of the items `rows`, each item at most once, or of the whole catalogue."""
        places = self.place if rows is None else self.place[rows]
        vectors = self.place.new_zeros(len(places), self.width, dtype=torch.float32)
        if self.text is not None:
            vectors = self.text(self.features[places]).float()
        if self.own is not None and self.num_warm:
            own = F.embedding(places.clamp(max=self.num_warm - 1), self.own)
            vectors = vectors + own * (self._has_own(places) & self._kept(len(places)))[:, None]
        return vectors

    def warm(self) -> Float[Tensor, "W D"]:
        """Vectors of all warm items, in the order of `warm_rows`."""
        vectors = self.place.new_zeros(self.num_warm, self.width, dtype=torch.float32)
        if self.text is not None:
            vectors = self.text(self.features[: self.num_warm]).float()
        if self.own is not None:
            vectors = vectors + (self.own * self._kept(self.num_warm)[:, None] if self._drops else self.own)
        return vectors

    def _has_own(self, places: Tensor) -> Tensor:
        return (places < self.num_warm) & (self.own is not None)

    @property
    def _drops(self) -> bool:
        return self.training and self.own_dropout > 0

    def _kept(self, count: int) -> Tensor:
        """(count,) bool: False where an own vector is left out in this step."""
        if not self._drops:
            return torch.ones(count, dtype=torch.bool, device=self.place.device)
        return torch.rand(count, device=self.place.device) >= self.own_dropout


def sum_of_rows(table: Float[Tensor, "V D"], rows: Int[Tensor, "R L"]) -> Float[Tensor, "R D"]:
    """The sum of L rows of a table for each of R items (an embedding bag with a faster gradient)."""
    apply: Callable[..., Tensor] = _SumOfRows.apply
    return apply(table, rows)


class _SumOfRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, table: Tensor, rows: Tensor) -> Tensor:
        ctx.save_for_backward(rows)
        ctx.size = len(table)
        return F.embedding_bag(rows, table, mode="sum")

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor, None]:
        (rows,) = ctx.saved_tensors
        of_table = outer.new_zeros(ctx.size, outer.shape[1])
        for column in rows.unbind(1):  # six times faster on a CPU than the gradient of embedding_bag
            of_table.index_add_(0, column, outer)
        return of_table, None


def standardise(embeddings: NDArray[np.float32], warm: NDArray[np.bool_]) -> NDArray[np.float32]:
    """(N, E) float32 with mean 0 per column and standard deviation 1 over all values, both of the warm rows only."""
    known = embeddings[warm].astype(np.float64)
    mean = known.mean(0)
    scale = max(float((known - mean).std()), 1e-12)
    return np.asarray((embeddings - mean) / scale, np.float32)


def _projection(inputs: int, hidden: tuple[int, ...], width: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for size in hidden:
        linear = nn.Linear(inputs, size)
        nn.init.kaiming_normal_(linear.weight, nonlinearity="relu")
        nn.init.zeros_(linear.bias)
        layers += [linear, nn.ReLU()]
        inputs = size
    last = nn.Linear(inputs, width, bias=False)
    nn.init.normal_(last.weight, std=TEXT_STD * inputs**-0.5)
    return nn.Sequential(*layers, last)
