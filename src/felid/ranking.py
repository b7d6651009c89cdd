"""Ranked items for many users: the one place that turns what a model computes into lists.

Evaluation, validation during training and `felid.recommender.Recommender` all call `ItemRanker`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from felid.config import Config
from felid.data.histories import Sequences
from felid.models.base import Catalogue, Histories, Model
from felid.models.generative import GenerativeModel
from felid.models.torch_trie import TorchTrie
from felid.search import beam_search, score_items
from felid.semantic_ids import SemanticIds
from felid.trie import Trie

Floats = NDArray[np.float32]
Indices = NDArray[np.int64]


class SearchConfig(Config):
    """Settings of the search."""

    num_beams: int = Field(default=50, ge=1)
    """Prefixes kept per level; raised to k where k is larger."""
    batch_users: int = Field(default=256, ge=1)
    """Users searched at once."""


class ItemRanker:
    """A model with the items it ranks.

    Args:
        model: put into evaluation mode.
        catalogue: what the model was told of the items. An ID that items share stands for all of them: they are listed one
            after the other, in order of item_index, with the same score. With `normalize: trie` only IDs of warm items can
            be recommended: a softmax says nothing about IDs that it was never taken over.
        search: settings of the search.
    """

    def __init__(self, model: Model, catalogue: Catalogue, search: SearchConfig | None = None) -> None:
        assert isinstance(model, GenerativeModel) and catalogue.ids is not None
        self.model, self.search = model.eval(), search or SearchConfig()
        self.device = next(model.parameters()).device
        trained = catalogue.warm if model.normalize == "trie" else np.ones_like(catalogue.warm)
        self.trie = trie_of(catalogue.ids, trained).to(self.device)
        self.groups = catalogue.ids.groups if catalogue.ids.shared else None

    def rank(self, histories: Sequences, k: int, exclude_seen: bool) -> Indices:
        """(U, k) item_index, best first, -1 where fewer than k are eligible (the protocol of felid.evaluation)."""
        return self.search_items(histories, k, exclude_seen)[0]

    def search_items(
        self, histories: Sequences, k: int, exclude_seen: bool, done: Callable[[int], None] = lambda users: None
    ) -> tuple[Indices, Floats]:
        """Items (U, k) and scores (U, k) for many users; `done` hears how many users each batch finished."""
        items = np.full((len(histories), k), -1, np.int64)
        scores = np.full((len(histories), k), -np.inf, np.float32)
        order = np.argsort(np.minimum(histories.lengths, self.model.history), kind="stable")  # little padding
        for rows in np.split(order, range(self.search.batch_users, len(order), self.search.batch_users)):
            seen = _padded(histories, rows, None, -1) if exclude_seen else None
            found = self._search(self._batch(histories, rows), seen, max(k, self.search.num_beams))
            if self.groups is not None:
                found = self.groups.expand(*found, k, seen)
            width = min(k, found[0].shape[1])
            items[rows, :width], scores[rows, :width] = found[0][:, :width], found[1][:, :width]
            done(len(rows))
        return items, scores

    def score_items(self, histories: Sequences, items: Indices) -> Floats:
        """(M,) scores of M items for the one user of `histories`; -inf for items that cannot be recommended."""
        rows = torch.from_numpy(items).to(self.device)
        scores = torch.full((len(rows),), -torch.inf, device=self.device)
        batch = self._batch(histories, np.zeros(1, np.int64))
        for part in torch.nonzero(self.trie.paths[rows, -1] >= 0)[:, 0].split(4096):
            scores[part] = score_items(self.model, batch, rows[part][None], self.trie)[0]
        return scores.cpu().numpy()

    def _search(self, histories: Histories, seen: Indices | None, beams: int) -> tuple[Indices, Floats]:
        """Items and scores (B, beams), one item for each ID; an ID is left out when all its items are `seen` (B, T)."""
        if seen is not None and self.groups is not None:
            seen = self.groups.used_up(seen)
        excluded = None if seen is None else torch.from_numpy(seen).to(self.device)
        results = beam_search(self.model, histories, self.trie, beams, excluded)
        return results.items.cpu().numpy(), results.scores.cpu().numpy()

    def _batch(self, histories: Sequences, rows: Indices) -> Histories:
        limit, layout = self.model.history, self.model.layout
        lengths = torch.from_numpy(np.minimum(histories.lengths[rows], limit))
        items = torch.from_numpy(_padded(histories, rows, limit, 0))
        users = None
        if layout.num_user_buckets and histories.user_ids[0] is not None:
            users = torch.tensor([layout.user_token(user) for user in histories.user_ids[rows].tolist()])
        return Histories(items, lengths, users).to(self.device)


def trie_of(ids: SemanticIds, items: NDArray[np.bool_]) -> TorchTrie:
    """The trie of some items of a catalogue, `items` (N,) marks them; an item that shares an ID with one of them has its path."""
    rows = np.flatnonzero(items)
    return TorchTrie.of(Trie.from_codes(ids.codes[rows], ids.sizes, rows, shared=ids.shared), ids.codes)


def _padded(histories: Sequences, rows: Indices, limit: int | None, filler: int) -> Indices:
    """(len(rows), T) the last `limit` items of each history (all of them for None), left-aligned."""
    lengths = histories.lengths[rows] if limit is None else np.minimum(histories.lengths[rows], limit)
    step = np.arange(lengths.max())
    places = (histories.offsets[rows + 1] - lengths)[:, None] + step
    real = step < lengths[:, None]
    return np.where(real, histories.items[np.where(real, places, 0)], filler)
