"""Small models over small catalogues, shared by the tests of models, search, training and recommending."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from felid.models import ModelConfig, build_model
from felid.models.base import Catalogue, Histories
from felid.models.generative import GenerativeModel
from felid.models.lynx import LynxConfig
from felid.models.tiger import TigerConfig
from felid.models.torch_trie import TorchTrie
from felid.semantic_ids import SemanticIds
from felid.testing import unique_codes

Kind = Literal["lynx", "tiger"]
KINDS: tuple[Kind, ...] = ("lynx", "tiger")
NORMALIZATIONS = ("trie", "vocabulary")


def config_of(kind: Kind, **changes: object) -> ModelConfig:
    """A model of width 16 with two layers."""
    if kind == "lynx":
        small = LynxConfig(width=16, layers=2, decoder_layers=2, heads=2, feed_forward=32, history=8)
    else:
        small = TigerConfig(
            width=16, encoder_layers=2, decoder_layers=2, heads=2, head_width=8, feed_forward=32, history=8, user_buckets=5
        )
    return type(small).model_validate({**small.model_dump(), **changes})


def catalogue(num_items: int = 20, sizes: tuple[int, ...] = (4, 3, 5), seed: int = 0) -> SemanticIds:
    codes = unique_codes(num_items, sizes, np.random.default_rng(seed))
    return SemanticIds(codes, sizes, np.arange(100, 100 + num_items))


def all_warm(ids: SemanticIds, vectors: NDArray[np.float32]) -> Catalogue:
    """A catalogue without cold items."""
    return Catalogue(vectors, np.ones(ids.num_items, bool), ids)


def random_model(kind: Kind, ids: SemanticIds, seed: int = 0, spread: float = 1.5, **changes: object) -> GenerativeModel:
    """A random model in evaluation mode whose distributions are far from uniform."""
    torch.manual_seed(seed)
    vectors = np.random.default_rng(seed).standard_normal((ids.num_items, 6)).astype(np.float32)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    model = build_model(config_of(kind, **changes), all_warm(ids, unit))
    assert isinstance(model, GenerativeModel)
    with torch.no_grad():
        model.tokens.weight.normal_(std=spread)
        for parameter in model.parameters():
            if parameter.ndim == 1:  # norms and biases, all equal at the start
                parameter.add_(0.3 * torch.randn_like(parameter))
    return model.eval()


def torch_trie(ids: SemanticIds) -> TorchTrie:
    return TorchTrie.of(ids.trie, ids.codes)


def histories_of(rows: list[list[int]], users: Tensor | None = None) -> Histories:
    """A batch padded on the right with 0."""
    lengths = torch.tensor([len(row) for row in rows])
    items = torch.zeros(len(rows), int(lengths.max()), dtype=torch.long)
    for place, row in enumerate(rows):
        items[place, : len(row)] = torch.tensor(row)
    return Histories(items, lengths, users)


def random_histories(ids: SemanticIds, lengths: tuple[int, ...] = (1, 3, 8, 5), seed: int = 0) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [rng.integers(ids.num_items, size=length).tolist() for length in lengths]


def user_tokens(model: GenerativeModel, num_users: int) -> Tensor | None:
    """Tokens of users 0, 1, ..., None for a model without user buckets."""
    if not model.layout.num_user_buckets:
        return None
    return torch.tensor([model.layout.user_token(user) for user in range(num_users)])


def targets_after(model: GenerativeModel, rows: list[list[int]], targets: list[int]) -> tuple[Tensor, Tensor]:
    """Targets as `forward` expects them, and which of them follow the whole histories (`targets`, in order)."""
    if not model.causal:
        return torch.tensor(targets), torch.arange(len(rows))
    flat = [item for row, target in zip(rows, targets, strict=True) for item in (*row[1:], target)]
    return torch.tensor(flat), torch.tensor([len(row) for row in rows]).cumsum(0) - 1
