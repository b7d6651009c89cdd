"""Vectors of items: a learnt one for every warm item, and one that is projected from its text.

The own vector exists for items with training interactions only. Leaving it out at random in training (`own_dropout`) makes
a model work without it, so that cold and new items, which have their content alone, can be ranked with the others.

An optimiser that normalises gradients moves the own vector of an item that it saw once as far as that of any other, nearly
all of it noise. `own_prior` shrinks the vectors of rare items towards nothing, so that their text decides.
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

from felid.errors import DataError
from felid.models.base import Catalogue
from felid.rows import blocks

OWN_STD = 0.05
"""Spread of first own vectors."""
TEXT_STD = 0.1
"""Spread of the first text projections of standardised embeddings."""
STANDARDISE_ROWS = 8192
"""Embeddings standardised at once."""


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
        own_prior: k; the own vector of an item with n training interactions enters as n / (n + k) of itself, in training
            and afterwards.

    Raises:
        DataError: `own_prior` is above 0, and the catalogue does not say how many interactions its items have.
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
        own_prior: float = 0.0,
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
        shares = _own_shares(catalogue, own_prior) if own and own_prior else None
        self.register_buffer("own_shares", shares, persistent=False)
        self.own_shares: Tensor | None
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
            clamped = places.clamp(max=self.num_warm - 1)
            share = (self._has_own(places) & self._kept(len(places))).float()
            if self.own_shares is not None:
                share = share * self.own_shares[clamped]
            vectors = vectors + F.embedding(clamped, self.own) * share[:, None]
        return vectors

    def warm(self) -> Float[Tensor, "W D"]:
        """Vectors of all warm items, in the order of `warm_rows`."""
        vectors = self.place.new_zeros(self.num_warm, self.width, dtype=torch.float32)
        if self.text is not None:
            vectors = self.text(self.features[: self.num_warm]).float()
        if self.own is not None:
            own = self.own if self.own_shares is None else self.own * self.own_shares[:, None]
            vectors = vectors + (own * self._kept(self.num_warm)[:, None] if self._drops else own)
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


def _own_shares(catalogue: Catalogue, prior: float) -> Float[Tensor, " W"]:
    """N / (n + prior) of each warm item."""
    if catalogue.counts is None:
        raise DataError(
            f"own_prior is {prior:g}, and the catalogue does not say how many training interactions its items have; "
            "give Catalogue(counts=...), or set own_prior to 0"
        )
    assert len(catalogue.counts) == len(catalogue.warm)
    counts = catalogue.counts[catalogue.warm].astype(np.float64)
    return torch.from_numpy((counts / (counts + prior)).astype(np.float32))


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
    rows, width = np.flatnonzero(warm), embeddings.shape[1]
    parts = [rows[block] for block in blocks(len(rows), STANDARDISE_ROWS)]  # float64 copies of the whole would not fit
    mean = sum((embeddings[part].sum(0, dtype=np.float64) for part in parts), np.zeros(width)) / max(len(rows), 1)
    square = sum(float(np.square(embeddings[part] - mean).sum()) for part in parts)
    scale = max((square / max(len(rows) * width, 1)) ** 0.5, 1e-12)
    result = np.empty(embeddings.shape, np.float32)
    for block in blocks(len(embeddings), STANDARDISE_ROWS):
        result[block] = (embeddings[block] - mean) / scale
    return result


def check_text_hidden(text: bool, text_hidden: tuple[int, ...]) -> None:
    """Refuse, while a config is read, hidden layers between item vectors and a text that is not read.

    Raises:
        ValueError: there are some.
    """
    if text_hidden and not text:
        widths = list(text_hidden)
        raise ValueError(f"text_hidden={widths} has no effect while text=false; set text=true, or text_hidden=[]")


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
