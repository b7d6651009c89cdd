"""Ranked items for many users: the one place that turns what a model computes into lists.

Evaluation, validation during training and `felid.recommender.Recommender` all call `ItemRanker`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from felid.config import Config
from felid.data.histories import Sequences
from felid.errors import RequestError
from felid.models.base import Catalogue, DenseModel, Histories, Mode, Model
from felid.models.generative import GenerativeModel
from felid.models.torch_trie import TorchTrie
from felid.search.beam import Results
from felid.search.cold import ColdRelatives
from felid.search.dense import VectorScores, most_probable, vectors_of
from felid.search.fused import Candidates, Voices, Weights, propose
from felid.search.generative import CodeScores
from felid.search.hybrid import HybridScores
from felid.search.neighbours import Neighbours
from felid.search.transitions import TransitionMemory
from felid.semantic_ids import SemanticIds
from felid.trie import Trie

Floats = NDArray[np.float32]
Indices = NDArray[np.int64]
MOST_LOGITS = 2**26
"""Logits of a dense head that are kept at once; users are taken in smaller batches where the catalogue is large."""


class SearchConfig(Config):
    """How items are ranked.

    Weights that are null were chosen on validation, beside one that is given the best one there, with the defaults of all other
    settings: give them yourself where another, such as `cold_bias`, moves many items.
    """

    mode: Literal["auto", "generative", "dense", "fused", "hybrid"] = "auto"
    """By the likelihood of codes, by inner product, by all heads and counted transitions together, or (LIGER) generated and all
    cold items by inner product; auto = the model's own."""
    num_beams: int = Field(default=50, ge=1)
    """Prefixes kept per level of the generative search; raised to the items wanted of it where these are more."""
    batch_users: int = Field(default=64, ge=1)
    """Users searched at once; a CPU is fastest while their activations fit its caches, a GPU wants more of them."""
    candidates: int = Field(default=50, ge=1)
    """Items that each head proposes under `fused`, whose scores are then put together; raised to k where k is larger."""
    hybrid_candidates: int = Field(default=20, ge=1)
    """Items generated for each user under `hybrid`; a list holds these and cold ones, so it may be shorter than k."""
    fusion_weight: float | None = Field(default=None, ge=0, le=1)
    """Share of the generative score under `fused`; null = the one chosen on validation, 0.5 where none was. Without effect on
    a model with one head."""
    memory_weight: float | None = Field(default=None, ge=0)
    """Factor of the transition memory in scores under `fused`; null = the one chosen on validation, 0 where none was."""
    cold_bias: float = 0.0
    """Added to the scores of cold items, in nats: dense logits, and generative ones under `fused`. `cold_share` 0 lists none."""
    cold_neighbours: int = Field(default=0, ge=0)
    """Warm items, nearest by content, that speak for a cold one: their mean vector stands for its own, or for half of that where
    it has one, and under `fused` it has the mean of their transitions; 0 = none do."""
    cold_share: float | None = Field(default=None, ge=0, le=1)
    """Largest share of cold items in a list and in its first p items. They are then not ranked by the model, but stand after the
    first item that has all their codes but the last, as soon as there is room (the epsilon of TIGER, section 4.3). 0 keeps cold
    items out of all lists; null = they are ranked as the others are."""


class ItemRanker:
    """A model with the items it ranks, under one of the ways that the model is trained for.

    - `generative`: an ID that items share stands for all of them: they are listed one after the other, in order of
      item_index, with the same score. Cold items take part where the model learnt to score them, otherwise only IDs of warm
      ones can be recommended.
    - `dense`: every item that has a vector; ties by item_index.
    - `hybrid`: the candidates are `hybrid_candidates` items that the generative head finds and all cold items; they are ranked
      by their dense scores, ties by item_index.
    - `fused`: every item that all heads score, (1 - weight) * dense + weight * generative + memory_weight * evidence of
      transitions; ties by item_index. Each head proposes its best `candidates`, the dense one with that evidence, which makes
      the list exact only among these. A model without a generative head has dense scores and evidence.

    Items that the model has no vector of are left out of a history, so that new ones cost nothing where others are left to read.

    Scores are natural log-probabilities over all items that can be recommended, also over those that are left out because
    they are seen; under `fused` they are the weighted sum of these and of the evidence, which is no probability. Their
    exponentials sum to less than 1 where the model's softmax runs over the vocabulary, and to more where items share an ID, of
    which each has the probability, or stand in a list by `cold_share`, with the score of the item before them.

    Args:
        model: put into evaluation mode. Vectors of items and of codes are those that it has now: after further training, make a
            new ranker.
        catalogue: what the model was told of the items.
        search: settings of the search.
        memory: transitions of the training part, for `fused`; None = they have no say.
        pool: (N,) items that are candidates under `hybrid` without being generated; None = all cold ones.

    Raises:
        RequestError: a mode that the model is not trained for, or `cold_share` where items have no IDs or share them.
    """

    def __init__(
        self,
        model: Model,
        catalogue: Catalogue,
        search: SearchConfig | None = None,
        memory: TransitionMemory | None = None,
        pool: NDArray[np.bool_] | None = None,
    ) -> None:
        self.model, self.catalogue, self.search = model.eval(), catalogue, search or SearchConfig()
        self.mode = mode_of(model.modes, self.search.mode)
        self.weights = _weights(model, self.search)
        self.device = next(model.parameters()).device
        self.memory = None if memory is None or self.mode != "fused" else memory.to(self.device)
        self.pool = torch.from_numpy((~catalogue.warm if pool is None else pool) & (self.mode == "hybrid")).to(self.device)
        ids = catalogue.ids
        check_cold_share(self.search, ids=ids is not None, shared=ids is not None and ids.shared)
        self.relatives = None if ids is None or self.search.cold_share is None else ColdRelatives.of(ids, catalogue.warm)
        self.neighbours = self._neighbours()
        reads = "dense" in model.modes and (self.mode != "generative" or self.neighbours is not None)
        vectors = self._item_vectors() if reads else None
        self.codes = self._code_scores(vectors) if self.mode != "dense" and "generative" in model.modes else None
        self.vectors = None if self.mode == "generative" or vectors is None else self._vector_scores(vectors)
        self.voices = None if self.vectors is None else Voices(self.vectors, self.codes, self.memory, self.neighbours)

    def rank(self, histories: Sequences, k: int, exclude_seen: bool) -> Indices:
        """(U, k) item_index, best first, -1 where fewer than k are eligible (the protocol of felid.evaluation)."""
        return self.search_items(histories, k, exclude_seen)[0]

    def search_items(
        self, histories: Sequences, k: int, exclude_seen: bool, done: Callable[[int], None] = lambda users: None
    ) -> tuple[Indices, Floats]:
        """Items (U, k) and scores (U, k) for many users; `done` hears how many users each batch finished."""
        items = np.full((len(histories), k), -1, np.int64)
        scores = np.full((len(histories), k), -np.inf, np.float32)
        for rows, batch, seen in self.batches(histories, exclude_seen):
            found = self._search(batch, seen, k)
            width = found.items.shape[1]  # smaller than k where the catalogue is
            items[rows, :width], scores[rows, :width] = found.items.cpu().numpy(), found.scores.cpu().numpy()
            if self.relatives is not None and self.search.cold_share is not None:
                known = None if seen is None else seen.cpu().numpy()
                items[rows], scores[rows] = self.relatives.place(items[rows], scores[rows], self.search.cold_share, known)
            done(len(rows))
        return items, scores

    def candidates(self, histories: Sequences, k: int, exclude_seen: bool) -> Iterator[tuple[Indices, Candidates]]:
        """Rows of the users of each batch, and what each voice says of their candidates for lists of k items (mode `fused`)."""
        for rows, batch, seen in self.batches(histories, exclude_seen):
            yield rows, self._propose(batch, seen, k)

    def score_items(self, histories: Sequences, items: Indices) -> Floats:
        """(M,) scores of M items for the one user of `histories`; -inf for items that cannot be recommended.

        Cold items that stand in lists by `cold_share` alone have no score of their own.
        """
        wanted = torch.from_numpy(items).to(self.device)
        batch = self._batch(self._readable(histories), np.zeros(1, np.int64))
        dense = None if self.vectors is None else self.vectors.log_probs(batch)[0, wanted]
        generative = dense
        if self.codes is not None and self.mode != "hybrid":
            generative = torch.cat([self.codes.score(batch, part[None])[0] for part in wanted.split(4096)])
        assert generative is not None
        if self.mode != "fused" or self.voices is None or dense is None:
            return generative.cpu().numpy()
        evidence = self.voices.evidence(batch)[0, wanted]
        generative = generative if self.codes is None else generative + self.voices.vectors.bias[wanted]
        return self.weights.fuse(dense, generative, evidence).cpu().numpy()

    def recommendable(self) -> NDArray[np.bool_]:
        """(N,) True for items that can stand in a list."""
        able = torch.ones(len(self.catalogue.warm), dtype=torch.bool, device=self.device)
        if self.vectors is not None:
            able &= torch.isfinite(self.vectors.bias)
        if self.codes is not None:
            able &= self._proposed(self.codes)
        found: NDArray[np.bool_] = able.cpu().numpy()
        return found if self.relatives is None else found | self.relatives.follow(found)

    def _search(self, histories: Histories, seen: Tensor | None, k: int) -> Results:
        if self.vectors is None:
            assert self.codes is not None
            return self.codes.search(histories, seen, k, self.search.num_beams)
        if self.mode == "hybrid":
            assert self.codes is not None
            hybrid = HybridScores(self.vectors, self.codes, self.pool)
            return hybrid.search(histories, seen, k, self.search.hybrid_candidates, self.search.num_beams)
        if self.mode == "dense":
            return most_probable(self.vectors.log_probs(histories), seen, k)
        return self._propose(histories, seen, k).best(self.weights, k)

    def _propose(self, histories: Histories, seen: Tensor | None, k: int) -> Candidates:
        assert self.voices is not None and self.mode == "fused", "only under fused there are candidates"
        count = max(k, self.search.candidates)
        return propose(self.voices, histories, seen, count, self.search.num_beams, self.weights.memory)

    def _neighbours(self) -> Neighbours | None:
        count, catalogue = self.search.cold_neighbours, self.catalogue
        if not count or self.relatives is not None:
            return None
        return Neighbours.of(catalogue.embeddings, catalogue.warm, count).to(self.device)

    @torch.inference_mode()
    def _item_vectors(self) -> Tensor:
        assert isinstance(self.model, DenseModel)
        vectors = vectors_of(self.model)
        return vectors if self.neighbours is None else self.neighbours.fill(vectors, unit=self.model.unit_vectors)

    def _code_scores(self, vectors: Tensor | None) -> CodeScores:
        model, ids = self.model, self.catalogue.ids
        assert isinstance(model, GenerativeModel) and ids is not None
        all_items = model.scores_cold_items and self.relatives is None
        trie = trie_of(ids, np.ones_like(self.catalogue.warm) if all_items else self.catalogue.warm).to(self.device)
        return CodeScores.of(model, trie, ids.groups if ids.shared else None, None if self.neighbours is None else vectors)

    def _proposed(self, codes: CodeScores) -> Tensor:
        """(N,) bool: the items that can be generated, or need not be."""
        return (codes.trie.paths[:, -1] >= 0) | self.pool

    def _vector_scores(self, vectors: Tensor) -> VectorScores:
        assert isinstance(self.model, DenseModel)
        warm = torch.from_numpy(self.catalogue.warm).to(self.device)
        bias = torch.where(warm, 0.0, -torch.inf if self.relatives is not None else self.search.cold_bias)
        if self.codes is not None:
            bias = bias.masked_fill(~self._proposed(self.codes), -torch.inf)
        return VectorScores.of(self.model, vectors, bias)

    def batches(self, histories: Sequences, exclude_seen: bool) -> Iterator[tuple[Indices, Histories, Tensor | None]]:
        """Rows, histories and seen items (all of them, padded with -1) of users with histories of similar length.

        Raises:
            RequestError: a user has no history.
        """
        if not histories.lengths.all():
            raise RequestError(f"user {histories.lengths.argmin()} in the list has no history, expected one; leave it out")
        read = self._readable(histories)
        order = np.argsort(np.minimum(read.lengths, self.model.history), kind="stable")  # little padding
        size = self.search.batch_users
        if self.mode != "generative":
            size = max(1, min(size, MOST_LOGITS // len(self.catalogue.warm)))
        for rows in np.split(order, range(size, len(order), size)):
            seen = torch.from_numpy(histories.padded(rows, None, -1)).to(self.device) if exclude_seen else None
            yield rows, self._batch(read, rows), seen

    def _readable(self, histories: Sequences) -> Sequences:
        """The histories without what the model cannot read; one with nothing else stays as it is."""
        known = self.model.readable[histories.items]
        users = np.repeat(np.arange(len(histories)), histories.lengths)
        return histories.where(known | (np.bincount(users, known, len(histories)) == 0)[users])

    def _batch(self, histories: Sequences, rows: Indices) -> Histories:
        lengths = torch.from_numpy(np.minimum(histories.lengths[rows], self.model.history))
        items = torch.from_numpy(histories.padded(rows, self.model.history, 0))
        users, known = None, histories.user_ids[0] is not None
        if known and isinstance(self.model, GenerativeModel) and self.model.layout.num_user_buckets:
            users = torch.tensor([self.model.layout.user_token(user) for user in histories.user_ids[rows].tolist()])
        return Histories(items, lengths, users).to(self.device)


def _weights(model: Model, search: SearchConfig) -> Weights:
    both = "generative" in model.modes
    generative = (0.5 if both else 0.0) if search.fusion_weight is None else search.fusion_weight
    return Weights(generative, search.memory_weight or 0.0)


def mode_of(modes: tuple[Mode, ...], wanted: Mode | Literal["auto"]) -> Mode:
    """How a model of such `modes` ranks when one is asked for; any with both heads can rank under `hybrid`.

    Raises:
        RequestError: the model is not trained for it.
    """
    if wanted == "auto":
        return modes[0]
    if wanted == "hybrid" and {"generative", "dense"} <= set(modes):
        return wanted
    if wanted not in modes:
        raise RequestError(f"this model ranks under {' and '.join(modes)}, not {wanted}; set search.mode to one of these or auto")
    return wanted


def check_cold_share(search: SearchConfig, *, ids: bool, shared: bool) -> None:
    """Refuse a share of cold items where items have no semantic IDs, or share them.

    Raises:
        RequestError: `search.cold_share` is set there.
    """
    if search.cold_share is not None and (shared or not ids):
        found = "semantic IDs that several items share" if shared else "no semantic IDs"
        raise RequestError(
            f"search.cold_share needs an ID of its own for every item, and the catalogue has {found}; set it to null"
        )


def trie_of(ids: SemanticIds, items: NDArray[np.bool_]) -> TorchTrie:
    """The trie of some items of a catalogue, `items` (N,) marks them; an item that shares an ID with one of them has its path."""
    rows = np.flatnonzero(items)
    return TorchTrie.of(Trie.from_codes(ids.codes[rows], ids.sizes, rows, shared=ids.shared), ids.codes)
