"""Ranked items for many users: the one place that turns what a model computes into lists.

Evaluation, validation during training and `felid.recommender.Recommender` all call `ItemRanker`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from felid.data.histories import Sequences
from felid.errors import RequestError
from felid.models.base import Catalogue, DenseModel, Histories, Model
from felid.models.generative import GenerativeModel
from felid.models.torch_trie import TorchTrie
from felid.search.beam import Results
from felid.search.cold import ColdRelatives
from felid.search.config import SearchConfig, check_cold_share, mode_of
from felid.search.dense import VectorScores, most_probable, vectors_of
from felid.search.fused import Candidates, Voices, Weights, proposal
from felid.search.generative import CodeScores
from felid.search.hybrid import HybridScores
from felid.search.neighbours import Neighbours
from felid.search.plan import Plan, carry_out
from felid.search.transitions import TransitionMemory
from felid.semantic_ids import SemanticIds
from felid.trie import Trie

Floats = NDArray[np.float32]
Indices = NDArray[np.int64]
MOST_LOGITS = 2**26
"""Logits of a dense head that are kept at once; users are taken in smaller batches where the catalogue is large."""


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

        def keep(place: int, rows: Indices, found: Indices, values: Floats) -> None:
            items[rows], scores[rows] = found, values

        search_together([(self, exclude_seen)], histories, k, keep, done)
        return items, scores

    def candidates(self, histories: Sequences, k: int, exclude_seen: bool) -> Iterator[tuple[Indices, Candidates]]:
        """Rows of the users of each batch, and what each voice says of their candidates for lists of k items (mode `fused`)."""
        for rows, batch, seen in self.batches(histories, exclude_seen):
            yield rows, carry_out([self._proposal(batch, seen, k)], batch, self.codes)[0]

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
        return found if self.relatives is None or not self.search.cold_share else found | self.relatives.follow(found)

    def plan(self, histories: Histories, seen: Tensor | None, k: int) -> Plan[Results]:
        """The first `k` items of a batch of users, `seen` (B, E) left out, but for `cold_share`."""
        num_beams = self.search.num_beams
        if self.vectors is None:
            assert self.codes is not None
            return self.codes.plan(seen, k, num_beams)
        if self.mode == "hybrid":
            assert self.codes is not None
            hybrid = HybridScores(self.vectors, self.codes, self.pool)
            return hybrid.plan(histories, seen, k, self.search.hybrid_candidates, num_beams)
        if self.mode == "dense":
            scores = self.vectors
            return Plan(None, lambda _: most_probable(scores.log_probs(histories), seen, k))
        return self._proposal(histories, seen, k).then(lambda found: found.best(self.weights, k))

    def searches_like(self, other: ItemRanker) -> bool:
        """Whether the same beam searches serve both: of one model and catalogue, with the same search but for its mode."""
        own = {"mode", "hybrid_candidates"}
        alike = self.search.model_dump(exclude=own) == other.search.model_dump(exclude=own)
        return alike and self.model is other.model and self.catalogue is other.catalogue

    def placed(self, found: Results, seen: Tensor | None, k: int) -> tuple[Indices, Floats]:
        """(B, k) items and scores of what a plan found, with cold items in their places under `cold_share`."""
        items, scores = np.full((len(found.items), k), -1, np.int64), np.full((len(found.items), k), -np.inf, np.float32)
        width = found.items.shape[1]  # smaller than k where the catalogue is
        items[:, :width], scores[:, :width] = found.items.cpu().numpy(), found.scores.cpu().numpy()
        if self.relatives is None or self.search.cold_share is None:
            return items, scores
        return self.relatives.place(items, scores, self.search.cold_share, None if seen is None else seen.cpu().numpy())

    def _proposal(self, histories: Histories, seen: Tensor | None, k: int) -> Plan[Candidates]:
        assert self.voices is not None and self.mode == "fused", "only under fused there are candidates"
        count = max(k, self.search.candidates)
        return proposal(self.voices, histories, seen, count, self.search.num_beams, self.weights.memory)

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

    @property
    def batch_size(self) -> int:
        """Users searched at once."""
        most, size = MOST_LOGITS // len(self.catalogue.warm), self.search.batch_users
        return size if self.mode == "generative" else max(1, min(size, most))

    def batches(self, histories: Sequences, exclude_seen: bool) -> Iterator[tuple[Indices, Histories, Tensor | None]]:
        """Rows, histories and seen items (all of them, padded with -1) of users with histories of similar length.

        Raises:
            RequestError: a user has no history.
        """
        if not histories.lengths.all():
            raise RequestError(f"user {histories.lengths.argmin()} in the list has no history, expected one; leave it out")
        read = self._readable(histories)
        order = np.argsort(np.minimum(read.lengths, self.model.history), kind="stable")  # little padding
        size = self.batch_size
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


def search_together(
    requests: Sequence[tuple[ItemRanker, bool]],
    histories: Sequences,
    k: int,
    keep: Callable[[int, Indices, Indices, Floats], None],
    done: Callable[[int], None] = lambda users: None,
) -> None:
    """What `ItemRanker.search_items` finds for each of some rankers and policies, with one pass through the decoder for all.

    Args:
        requests: rankers, and whether the items of the histories are left out. They must be of one model and catalogue, with the
            same search but for its mode, and for what is `hybrid` about it.
        histories: U users.
        k: items wanted.
        keep: is given, for each request of a batch of B users, its place, the users' rows, (B, k) items and (B, k) scores.
        done: hears how many users each batch finished.
    """
    rankers = [one for one, _ in requests]
    assert all(rankers[0].searches_like(one) for one in rankers), "not of one model, catalogue and search"
    codes = next((one.codes for one in rankers if one.codes is not None), None)
    least = min(rankers, key=lambda one: one.batch_size)
    for rows, batch, seen in least.batches(histories, any(exclude for _, exclude in requests)):
        plans = [one.plan(batch, seen if exclude else None, k) for one, exclude in requests]
        rankings = carry_out(plans, batch, codes)
        for place, ((one, exclude), ranking) in enumerate(zip(requests, rankings, strict=True)):
            keep(place, rows, *one.placed(ranking, seen if exclude else None, k))
        del plans, rankings  # they hold logits of all items, and the next ones are made first
        done(len(rows))


def _weights(model: Model, search: SearchConfig) -> Weights:
    both = "generative" in model.modes
    generative = (0.5 if both else 0.0) if search.fusion_weight is None else search.fusion_weight
    return Weights(generative, search.memory_weight or 0.0)


def trie_of(ids: SemanticIds, items: NDArray[np.bool_]) -> TorchTrie:
    """The trie of some items of a catalogue, `items` (N,) marks them; an item that shares an ID with one of them has its path."""
    rows = np.flatnonzero(items)
    return TorchTrie.of(Trie.from_codes(ids.codes[rows], ids.sizes, rows, shared=ids.shared), ids.codes)
