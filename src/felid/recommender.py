"""The one door to a trained model: histories in, ranked items out. Evaluation, command line and service all call it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

import numpy as np
import torch

from felid.artifacts import open_artifact, read_json, read_run
from felid.config import validate
from felid.data.dataset import Dataset
from felid.data.histories import Sequences
from felid.data.holdout import HoldoutConfig, split_of
from felid.data.split import read_split
from felid.embedding.store import load_embeddings
from felid.errors import ArtifactError, FelidWarning, RequestError
from felid.fusion import FusionChoice
from felid.models import load_model
from felid.models.base import Catalogue, Mode, Model
from felid.ranking import Floats, Indices, ItemRanker
from felid.search.config import SearchConfig
from felid.search.transitions import TransitionMemory
from felid.semantic_ids import SemanticId, SemanticIds

ItemId = int | str
History = Sequence[int] | list[str] | list[ItemId] | tuple[str, ...]
Users = Sequence[ItemId] | None


@dataclass(frozen=True)
class Recommendation:
    """One recommended item.

    Attributes:
        item_id: as the data gives it.
        score: natural log-probability of the item, or under `fused` a weighted sum (`ItemRanker` says of what).
        semantic_id: its codes.
        title: the catalogue's `title`, or "" where there is none.
    """

    item_id: ItemId
    score: float
    semantic_id: SemanticId
    title: str


class Recommender:
    """A model with its catalogue.

    Args:
        model: in evaluation mode.
        catalogue: what the model was told of the items; `embeddings` at unit length, for `similar`.
        known: the users of the data, for `history_of`.
        titles: (N,) title of each item; None = there are none.
        search: settings of the search.
        memory: transitions of the training part, for mode `fused`.
    """

    def __init__(
        self,
        model: Model,
        catalogue: Catalogue,
        known: Sequences,
        titles: Sequence[str] | None = None,
        search: SearchConfig | None = None,
        memory: TransitionMemory | None = None,
    ) -> None:
        assert catalogue.ids is not None
        self.ranker, self.memory = ItemRanker(model, catalogue, search, memory), memory
        self.ids, self.embeddings = catalogue.ids, catalogue.embeddings
        self.model, self.known, self.titles = model, known, titles or [""] * self.ids.num_items
        self._rows = {item: row for row, item in enumerate(self.ids.item_ids.tolist())}

    @classmethod
    def load(
        cls, run: str | Path, device: str | None = None, search: SearchConfig | None = None, checkpoint: str | None = None
    ) -> Recommender:
        """Open the recommender that was trained last in a run folder.

        Args:
            run: the run folder.
            device: of torch; None = a GPU where there is one.
            search: settings of the search; None = those of the run. Weights that are null are those that
                were chosen on validation.
            checkpoint: name of one of its checkpoints, such as checkpoint-600; None = the best by validation.

        Raises:
            ArtifactError: nothing was trained yet, or there is no such checkpoint.
        """
        root = Path(run)
        if "bundle" not in read_run(root):
            raise ArtifactError(f"{root} holds no trained recommender; run `felid train {root}` first")
        bundle = read_run(root)["bundle"]
        folders = {stage: open_artifact(root / place).path for stage, place in bundle["stages"].items()}
        dataset, ids = Dataset.load(folders["data"]), SemanticIds.load(folders["tokenize"])
        embeddings = load_embeddings(folders["embed"], normalized=True)[1]
        checkpoint = checkpoint or best_checkpoint(folders["train"])
        if not (folders["train"] / checkpoint / "config.json").is_file():
            kept = sorted(path.name for path in folders["train"].glob("checkpoint-*"))
            raise ArtifactError(f"{folders['train']} has no {checkpoint}; it keeps {', '.join(kept)}")
        split = split_of(dataset, validate(HoldoutConfig, bundle.get("holdout", {})), read_split(bundle.get("split")))
        catalogue = Catalogue(embeddings, split.warm_items(ids.num_items), ids, split.item_counts(ids.num_items))
        model = load_model(folders["train"] / checkpoint, catalogue)
        model.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        settings, choice = search or validate(SearchConfig, bundle["search"]), FusionChoice.load(folders["train"])
        if choice is not None:
            settings = choice.complete(settings)
        memory = TransitionMemory.of(split.train(), ids.num_items)
        return cls(model, catalogue, split.sequences, titles_of(dataset), settings, memory)

    def in_mode(self, mode: Mode) -> Recommender:
        """The same model, catalogue and memory, ranking by `generative`, `dense`, `fused` or `hybrid` scores.

        Raises:
            RequestError: the model is not trained for it.
        """
        search = self.ranker.search.model_copy(update={"mode": mode})
        return Recommender(self.model, self.ranker.catalogue, self.known, self.titles, search, self.memory)

    @overload
    def recommend(
        self, histories: History, k: int = 10, exclude_seen: bool = True, users: Users = None
    ) -> list[Recommendation]: ...

    @overload
    def recommend(
        self, histories: Sequence[History], k: int = 10, exclude_seen: bool = True, users: Users = None
    ) -> list[list[Recommendation]]: ...

    def recommend(
        self, histories: History | Sequence[History], k: int = 10, exclude_seen: bool = True, users: Users = None
    ) -> list[Recommendation] | list[list[Recommendation]]:
        """The k items a user most probably takes next.

        Args:
            histories: item ids of one user, oldest first, or a sequence of such histories. Unknown items are reported
                with a `FelidWarning` and skipped.
            k: at most the number of items in the catalogue.
            exclude_seen: leave out the items of the history.
            users: id of each history's user, for models that read a user token; None = not known.

        Returns:
            For one history a list, best first, for several a list of lists; shorter than k only where fewer than k items
            are eligible.

        Raises:
            RequestError: k out of range, or a history without any known item.
        """
        many = [history for history in histories if not isinstance(history, int | str | np.integer)]
        one: list[ItemId] = [item for item in histories if isinstance(item, int | str | np.integer)]
        if many and one:
            raise RequestError(f"got item {one[0]!r} beside a history; give the items of one user, or a list of histories")
        self._check_k(k)
        found = self.ranker.search_items(self._sequences(many or [one], users), k, exclude_seen)
        lists = [self._recommendations(items, scores) for items, scores in zip(*found, strict=True)]
        return lists if many else lists[0]

    def score(self, history: Sequence[ItemId], items: Sequence[ItemId], user: ItemId | None = None) -> Floats:
        """(len(items),) float32 score of each item as the next one, as `recommend` gives it; -inf for items that it never gives.

        Cold items that stand in lists by `search.cold_share` alone have no score of their own: -inf too.

        Raises:
            RequestError: an item is not in the catalogue, or no item of the history is.
        """
        missing = [item for item in items if item not in self._rows]
        if missing:
            raise RequestError(f"{len(missing)} of {len(items)} items are not in the catalogue (first: {missing[0]!r})")
        rows = np.array([self._rows[item] for item in items], np.int64)
        return self.ranker.score_items(self._sequences([history], None if user is None else [user]), rows)

    def similar(self, item: ItemId, k: int = 10) -> list[tuple[ItemId, float]]:
        """The k other items nearest in content: item id and cosine of the embeddings, nearest first, ties by item_index."""
        if item not in self._rows:
            raise RequestError(f"item {item!r} is not in the catalogue of {self.ids.num_items} items")
        self._check_k(k)
        row = self._rows[item]
        cosines = self.embeddings @ self.embeddings[row]
        cosines[row] = -np.inf
        best = np.argsort(-cosines, kind="stable")[: min(k, len(cosines) - 1)]
        return [(self.ids.item_ids[i : i + 1].tolist()[0], float(cosines[i])) for i in best]

    def history_of(self, user_id: ItemId) -> list[ItemId]:
        """All items of a user of the data set, oldest first."""
        row = np.flatnonzero(self.known.user_ids == user_id)
        if not len(row):
            raise RequestError(f"user {user_id!r} is not in the data of this run; give a history instead")
        history: list[ItemId] = self.ids.item_ids[self.known[int(row[0])]].tolist()
        return history

    def title_of(self, item: ItemId) -> str:
        """The title of an item, "" where it has none or is not in the catalogue."""
        return self.titles[self._rows[item]] if item in self._rows else ""

    def rank(self, histories: Sequences, k: int, exclude_seen: bool) -> Indices:
        """(U, k) item_index, best first, -1 where fewer than k are eligible (the protocol of felid.evaluation)."""
        return self.search_items(histories, k, exclude_seen)[0]

    def search_items(
        self, histories: Sequences, k: int, exclude_seen: bool, done: Callable[[int], None] = lambda users: None
    ) -> tuple[Indices, Floats]:
        """Items (U, k) and scores (U, k) for many users; `done` hears how many users each batch finished."""
        self._check_k(k)
        return self.ranker.search_items(histories, k, exclude_seen, done)

    def _sequences(self, histories: Sequence[Sequence[ItemId]], users: Users = None) -> Sequences:
        """Known items of the given histories; user ids are None where they are not given."""
        if users is not None and len(users) != len(histories):
            raise RequestError(f"got {len(users)} users for {len(histories)} histories; give one each")
        rows = [np.array([self._rows[i] for i in history if i in self._rows], np.int64) for history in histories]
        unknown = [i for history in histories for i in history if i not in self._rows]
        if unknown:
            text = f"{len(unknown)} history items are not in the catalogue and were skipped (first: {unknown[0]!r})"
            warnings.warn(text, FelidWarning, stacklevel=3)
        empty = [place for place, row in enumerate(rows) if not len(row)]
        if empty:
            raise RequestError(f"history {empty[0]} has no item of the catalogue; give at least one known item id")
        return Sequences.from_lists(np.array(users if users is not None else [None] * len(rows), object), rows)

    def _recommendations(self, items: Indices, scores: Floats) -> list[Recommendation]:
        return [
            Recommendation(self.ids.item_ids[i : i + 1].tolist()[0], float(s), tuple(self.ids.codes[i].tolist()), self.titles[i])
            for i, s in zip(items.tolist(), scores.tolist(), strict=True)
            if i >= 0
        ]

    def _check_k(self, k: int) -> None:
        if not 1 <= k <= self.ids.num_items:
            raise RequestError(f"k is {k}, expected 1 to {self.ids.num_items} (the number of items in the catalogue)")


def best_checkpoint(folder: Path) -> str:
    """Name of the checkpoint of a training that was best on validation."""
    return str(read_json(folder / "progress.json", ("best_checkpoint",))["best_checkpoint"])


def titles_of(dataset: Dataset) -> list[str]:
    """The title of each item of a catalogue, "" where there is none."""
    if "title" not in dataset.items.columns:
        return [""] * len(dataset.items)
    return ["" if title is None else str(title) for title in dataset.items["title"].to_list()]
