"""What a training notes of the data that it read, so that an evaluation can check it.

A training learns from the training part and chooses (its best checkpoint, the weights of fused scores) on the validation part. It
leaves a digest of the first and the very events of the second, not words that could be wrong.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from felid.artifacts import read_json, write_json
from felid.data.histories import EvaluationSet, Sequences
from felid.errors import ArtifactError

FILE = "provenance.json"
Events = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Provenance:
    """What a training read.

    Attributes:
        trained_on: SHA-256 of the training sequences (`sequences_digest`).
        num_interactions: how many they hold.
        chosen_on: by choice (`checkpoint`, `weights`), (M, 2) int64 user rows and places of the targets that decided it.
    """

    trained_on: str
    num_interactions: int
    chosen_on: Mapping[str, Events]

    @classmethod
    def of(cls, train: Sequences, choices: Mapping[str, EvaluationSet], sequences: Sequences) -> Self:
        """Note what was trained on, and the targets, out of all users' `sequences`, that choices were made on."""
        chosen = {name: events_of(part, sequences) for name, part in choices.items()}
        return cls(sequences_digest(train), len(train.items), chosen)

    def save(self, folder: Path) -> None:
        """Write `provenance.json` and `chosen_on_<choice>.npy` into an existing folder."""
        for name, events in self.chosen_on.items():
            np.save(folder / _file(name), events)
        meta = {"trained_on": self.trained_on, "num_interactions": self.num_interactions, "choices": list(self.chosen_on)}
        write_json(folder / FILE, meta)

    @classmethod
    def load(cls, folder: Path) -> Self | None:
        """Read what `save` wrote; None where a training left none."""
        if not (folder / FILE).is_file():
            return None
        meta = read_json(folder / FILE, ("trained_on", "num_interactions", "choices"))
        try:
            chosen = {str(name): np.load(folder / _file(name), allow_pickle=False) for name in meta["choices"]}
        except (OSError, ValueError, EOFError) as error:
            raise ArtifactError(f"what choices of {folder} were made on cannot be read ({error}); train again") from error
        return cls(str(meta["trained_on"]), int(meta["num_interactions"]), chosen)


def _file(choice: str) -> str:
    return f"chosen_on_{choice}.npy"


def sequences_digest(train: Sequences) -> str:
    """Hex SHA-256 of who took which items in which order."""
    sha = hashlib.sha256(train.offsets.astype("<i8").tobytes())
    sha.update(train.items.astype("<i8").tobytes())
    return sha.hexdigest()


def events_of(part: EvaluationSet, sequences: Sequences) -> Events:
    """(M, 2) row of each user in `sequences` and place of the target among the user's items."""
    rows = {user: row for row, user in enumerate(sequences.user_ids.tolist())}
    users = np.array([rows[user] for user in part.histories.user_ids.tolist()], np.int64)
    return np.stack([users, part.histories.lengths], axis=1)
