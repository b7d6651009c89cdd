"""Small models over small catalogues, shared by the tests of models, search, training and recommending."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from felid.data.histories import Sequences
from felid.models import ModelConfig, build_model
from felid.models.base import Catalogue, DenseModel, Histories, Model, TrainingItems
from felid.models.generative import GenerativeModel
from felid.models.liger import LigerConfig
from felid.models.lynx import LynxConfig
from felid.models.sasrec import SASRecConfig
from felid.models.tiger import TigerConfig
from felid.models.torch_trie import TorchTrie
from felid.search.transitions import TransitionMemory
from felid.semantic_ids import SemanticIds
from felid.testing import unique_codes
from felid.trie import Trie

Kind = Literal["lynx", "tiger", "liger"]
KINDS: tuple[Kind, ...] = ("lynx", "tiger", "liger")
"""Models that generate codes."""
DenseKind = Literal["lynx", "sasrec", "liger"]
DENSE_KINDS: tuple[DenseKind, ...] = ("lynx", "sasrec", "liger")
"""Models that have item vectors."""
AnyKind = Literal["lynx", "tiger", "sasrec", "liger"]
ALL_KINDS: tuple[AnyKind, ...] = ("lynx", "tiger", "sasrec", "liger")
NORMALIZATIONS = ("trie", "vocabulary")


def config_of(kind: AnyKind, **changes: object) -> ModelConfig:
    """A model of width 16 with two layers; lynx and liger with both heads."""
    small: ModelConfig
    match kind:
        case "lynx":
            small = LynxConfig(width=16, layers=2, decoder_layers=2, heads=2, feed_forward=32, history=8)
        case "sasrec":
            small = SASRecConfig(width=16, layers=2, heads=2, feed_forward=32, history=8)
        case "tiger":
            small = TigerConfig(
                width=16, encoder_layers=2, decoder_layers=2, heads=2, head_width=8, feed_forward=32, history=8, user_buckets=5
            )
        case "liger":
            small = LigerConfig(
                **{"width": 16, "encoder_layers": 2, "decoder_layers": 2, "heads": 2, "head_width": 8, "feed_forward": 32},
                **{"history": 8, "text_hidden": (8,), "include_user_id": True, "user_buckets": 5},
            )
    return type(small).model_validate({**small.model_dump(), **changes})


def catalogue(num_items: int = 20, sizes: tuple[int, ...] = (4, 3, 5), seed: int = 0) -> SemanticIds:
    codes = unique_codes(num_items, sizes, np.random.default_rng(seed))
    return SemanticIds(codes, sizes, np.arange(100, 100 + num_items))


def all_warm(ids: SemanticIds, vectors: NDArray[np.float32]) -> Catalogue:
    """A catalogue without cold items."""
    return Catalogue(vectors, np.ones(ids.num_items, bool), ids)


def tiny_catalogue(ids: SemanticIds, cold: tuple[int, ...] = (), seed: int = 0) -> Catalogue:
    """A catalogue with random unit embeddings and the given cold items."""
    vectors = np.random.default_rng(seed).standard_normal((ids.num_items, 6)).astype(np.float32)
    warm = np.ones(ids.num_items, bool)
    warm[list(cold)] = False
    return Catalogue(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), warm, ids)


def training_items(catalogue: Catalogue, seed: int = 0) -> TrainingItems:
    """Random counts of the warm items, and their trie."""
    counts = np.random.default_rng(seed).integers(1, 9, len(catalogue.warm)) * catalogue.warm
    assert catalogue.ids is not None
    rows = np.flatnonzero(catalogue.warm)
    trie = Trie.from_codes(catalogue.ids.codes[rows], catalogue.ids.sizes, rows)
    return TrainingItems(torch.from_numpy(counts.astype(np.float32)), TorchTrie.of(trie, catalogue.ids.codes))


def any_model(kind: AnyKind, catalogue: Catalogue, seed: int = 0, spread: float = 1.5, **changes: object) -> Model:
    """A random model in evaluation mode whose distributions are far from uniform."""
    torch.manual_seed(seed)
    model = build_model(config_of(kind, **changes), catalogue)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in ("tokens.weight", "items.own"):
                parameter.normal_(std=spread)
            if parameter.ndim == 1:  # norms and biases, all equal at the start
                parameter.add_(0.3 * torch.randn_like(parameter))
    return model.eval()


def random_model(kind: Kind, ids: SemanticIds, seed: int = 0, spread: float = 1.5, **changes: object) -> GenerativeModel:
    """`any_model` that generates codes, over a catalogue without cold items."""
    model = any_model(kind, tiny_catalogue(ids, seed=seed), seed, spread, **changes)
    assert isinstance(model, GenerativeModel)
    return model


def dense_model(kind: DenseKind, catalogue: Catalogue, seed: int = 0, spread: float = 0.5, **changes: object) -> DenseModel:
    """`any_model` that has item vectors."""
    model = any_model(kind, catalogue, seed, spread, **changes)
    assert isinstance(model, DenseModel)
    return model


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


def memory_of(rows: list[list[int]], num_items: int) -> TransitionMemory:
    """The transitions of some training histories."""
    return TransitionMemory.of(Sequences.from_lists(np.arange(len(rows)), [np.array(row, np.int64) for row in rows]), num_items)


def random_memory(num_items: int = 18, seed: int = 5) -> tuple[TransitionMemory, list[list[int]]]:
    """A memory of random histories, in which some items never occur, and these histories."""
    rng = np.random.default_rng(seed)
    rows = [rng.integers(num_items - 2, size=length).tolist() for length in rng.integers(1, 9, 12)]
    return memory_of(rows, num_items), rows


def user_tokens(model: GenerativeModel, num_users: int) -> Tensor | None:
    """Tokens of users 0, 1, ..., None for a model without user buckets."""
    if not model.layout.num_user_buckets:
        return None
    return torch.tensor([model.layout.user_token(user) for user in range(num_users)])


def targets_after(model: Model, rows: list[list[int]], targets: list[int]) -> tuple[Tensor, Tensor]:
    """Targets as `forward` expects them, and which of them follow the whole histories (`targets`, in order)."""
    if not model.causal:
        return torch.tensor(targets), torch.arange(len(rows))
    flat = [item for row, target in zip(rows, targets, strict=True) for item in (*row[1:], target)]
    return torch.tensor(flat), torch.tensor([len(row) for row in rows]).cumsum(0) - 1
