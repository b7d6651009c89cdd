"""How a system was made: what its trainings and fits saw, read from the artifacts of a run folder, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from felid.artifacts import FITTED_ON, Artifact, find_artifact, open_artifact, read_run
from felid.config import as_tree, digest, validate
from felid.data.histories import HeldOut, LeaveOneOut, Sequences
from felid.data.holdout import HoldoutConfig
from felid.data.split import LAST_TWO, read_split
from felid.evaluation.audit.finding import Finding, of_items, of_users, passed
from felid.evaluation.audit.provenance import Provenance, events_of, sequences_digest
from felid.recommender import best_checkpoint
from felid.rows import load_array

TRAINED = "training part"
CHOICES = "choices"
FITTING = "fitting"
PRETRAINED = ("sentence-transformers", "packaged-minilm")
"""Embedders that are fitted on nothing of the catalogue."""
TRAIN_AGAIN = "train again with this version of felid, which notes it"


@dataclass(frozen=True, eq=False)
class Fit:
    """Something that was fitted on item texts or vectors.

    Attributes:
        name: of the stage.
        kind: of the component.
        sees: `warm`: items with training interactions; `all`: every item; `nothing` of this catalogue; None = not known.
        same_split: whether it was fitted under the hold-out and the split that are evaluated.
        rows: item_index of what it was fitted on, as its stage noted it; None = it noted nothing, and `sees` is believed.
    """

    name: str
    kind: str
    sees: str | None
    same_split: bool = True
    rows: NDArray[np.int64] | None = None

    def saw(self, cold: NDArray[np.bool_]) -> bool:
        """Whether it was fitted on any of the items that (N,) `cold` marks, or was to be."""
        if self.rows is None or self.sees == "all":
            return self.sees == "all"
        return bool((self.rows >= len(cold)).any() or cold[self.rows].any())


@dataclass(frozen=True, eq=False)
class Origin:
    """How a system was made.

    Attributes:
        trainings: what each training noted, by name; None = it noted nothing.
        fits: what was fitted on items.
        known: (N,) the items that vectors were trained for, by the name of the training.
        checkpoint: what is evaluated.
        best: what validation chose.
    """

    trainings: Mapping[str, Provenance | None]
    fits: tuple[Fit, ...] = ()
    known: Mapping[str, NDArray[np.bool_]] = field(default_factory=dict)
    checkpoint: str = ""
    best: str = ""

    @classmethod
    def read(cls, root: Path, checkpoint: str) -> Self:
        """Of the recommender that was trained last in a run folder.

        Args:
            root: the run folder.
            checkpoint: what is evaluated.

        Raises:
            ArtifactError: an artifact of the run is missing or damaged.
        """
        bundle = read_run(root)["bundle"]
        made = {stage: open_artifact(root / place) for stage, place in bundle["stages"].items()}
        folders = {"the training": made["train"].path}
        warmup = made["tokenize"].manifest.get("inputs", {}).get("warmup")
        if warmup is not None:
            folders["the warm-up of the codes"] = find_artifact(root, "warmup", warmup).path
        marks = {f"item vectors of {name}": folder / "item_vectors" / "known.npy" for name, folder in folders.items()}
        return cls(
            {name: Provenance.load(folder) for name, folder in folders.items()},
            _fits(made, bundle),
            {name: np.load(path, allow_pickle=False) for name, path in marks.items() if path.is_file()},
            checkpoint,
            best_checkpoint(made["train"].path),
        )


def _fits(made: Mapping[str, Artifact], bundle: Mapping[str, Any]) -> tuple[Fit, ...]:
    holdout, split = validate(HoldoutConfig, bundle.get("holdout", {})).effective, read_split(bundle.get("split"))
    wanted = {
        "holdout": digest(as_tree(holdout)) if holdout.rule != "natural" else None,
        "split": digest(as_tree(split)) if split != LAST_TWO else None,
    }

    def same(stage: str) -> bool:
        inputs = made[stage].manifest.get("inputs", {})
        return all(value is None or inputs.get(name) == value for name, value in wanted.items())

    def sees(stage: str) -> str | None:
        found = made[stage].manifest["config"].get("cold", {}).get("quantizer_fit")
        return None if found is None else str(found)

    embedding, codes = made["embed"].manifest["config"]["embedding"], made["tokenize"].manifest["config"]
    kind = str(embedding["kind"])
    vectors = Fit("item vectors from text", kind, "nothing") if kind in PRETRAINED else Fit("item vectors", kind, None)
    if kind == "lsa":
        vectors = Fit("item vectors from text", kind, sees("embed"), same("embed"), _rows(made["embed"]))
    quantizer = str(codes["quantizer"]["kind"]), sees("tokenize"), same("tokenize"), _rows(made["tokenize"])
    fits = [vectors, Fit("the quantiser (and its scaler)", *quantizer)]
    if (codes.get("collaborative") or {}).get("kind") == "precomputed":
        fits.append(Fit("vectors from behaviour", "precomputed", None))
    return tuple(fits)


def _rows(artifact: Artifact) -> NDArray[np.int64] | None:
    path = artifact.path / FITTED_ON
    return load_array(path, (None,)) if path.is_file() else None


def training_part(trainings: Mapping[str, Provenance | None], train: Sequences) -> Finding:
    """Whether what was trained on is the training part of the split that is evaluated."""
    wanted = sequences_digest(train)
    other = {name: one for name, one in trainings.items() if one is not None and one.trained_on != wanted}
    if other:
        told = (
            f"{name} saw {one.num_interactions:,} interactions that are not the {len(train.items):,} of the training part"
            for name, one in other.items()
        )
        return Finding(TRAINED, "failed", "; ".join(told), "train on the data, `split` and `holdout` that are evaluated")
    silent = [name for name, one in trainings.items() if one is None]
    if silent or not trainings:
        text = f"what {' and '.join(silent) or 'the system'} was trained on is not noted"
        return Finding(TRAINED, "doubtful", text, TRAIN_AGAIN if silent else "ask whoever trained it")
    return passed(
        TRAINED, f"{' and '.join(trainings)} saw the {len(train.items):,} interactions of the training part and no other"
    )


def choices(origin: Origin, split: LeaveOneOut) -> Finding:
    """Whether checkpoints and weights were chosen on the validation part, without targets that are kept for the test."""
    parts = {part: events_of(split.evaluation(part), split.sequences) for part in ("validation", "test")}
    told: list[str] = []
    passes: list[str] = []
    for name, one in origin.trainings.items():
        for choice, events in ({} if one is None else one.chosen_on).items():
            what = f"{choice} of {name}"
            fault = _fault(events, parts["validation"], parts["test"], split.held_out, split.sequences)
            told += [f"the {what} was chosen on {fault}"] * bool(fault)
            passes += [f"{what} on {len(events):,} validation targets"] * bool(len(events))
    if told:
        return Finding(
            CHOICES, "failed", "; ".join(told), "choose on the validation part (`LeaveOneOut.selection`) and train again"
        )
    silent = [name for name, one in origin.trainings.items() if one is None or not all(map(len, one.chosen_on.values()))]
    silent += [name for name, one in origin.trainings.items() if one is not None and not one.chosen_on]
    if silent or not origin.trainings:
        text = f"what the checkpoint of {' and '.join(silent) or 'the system'} was chosen on is not noted"
        return Finding(CHOICES, "doubtful", text, TRAIN_AGAIN if silent else "ask whoever trained it")
    if origin.checkpoint != origin.best:
        text = f"{origin.checkpoint} was asked for by name, validation chose {origin.best}"
        text += "; whether test results led to it cannot be seen"
        return Finding(CHOICES, "doubtful", text, "report the checkpoint that validation chose, or say how this one was")
    return passed(CHOICES, f"chosen: {'; '.join(passes)}")


def _fault(
    events: NDArray[np.int64],
    validation: NDArray[np.int64],
    test: NDArray[np.int64],
    held_out: HeldOut | None,
    sequences: Sequences,
) -> str:
    """What is wrong with the targets (user row, place) that a choice was made on; "" for nothing."""
    foreign = ((events < 0) | (events >= np.array([len(sequences), sequences.lengths.max(initial=0)]))).any(axis=1)
    if foreign.any():
        return f"{foreign.sum():,} targets of users or places that these data do not have"
    width = int(sequences.lengths.max(initial=0)) + 1
    keys, good, bad = (one[:, 0] * width + one[:, 1] for one in (events, validation, test))
    on_test, elsewhere = np.isin(keys, bad), ~np.isin(keys, np.concatenate([good, bad]))
    told = []
    if on_test.any():
        told.append(f"{on_test.sum():,} test targets, of {of_users(sequences.user_ids[events[on_test, 0]])}")
    if elsewhere.any():
        told.append(f"{elsewhere.sum():,} targets of no part, of {of_users(sequences.user_ids[events[elsewhere, 0]])}")
    if held_out is not None and not told:
        kept = held_out.test[sequences.items[sequences.offsets[events[:, 0]] + events[:, 1]]]
        if kept.any():
            told.append(f"{kept.sum():,} validation targets whose items are kept for the test")
    return " and ".join(told)


def fitting(fits: tuple[Fit, ...], cold: NDArray[np.bool_], item_ids: NDArray[np.generic], *, declared: bool) -> Finding:
    """Whether what was fitted on texts and vectors saw items without training interactions.

    Args:
        fits: what was fitted; none = nothing is known.
        cold: (N,) items without training interactions.
        item_ids: (N,) ids by item_index.
        declared: whether the evaluation says that it did (`cold.quantizer_fit: all`).
    """
    if not cold.any():
        return passed(FITTING, "every item has training interactions, so nothing could be fitted on others")
    new = f"{of_items(item_ids[cold])} without training interactions"
    wrong = [f"{one.name} ({one.kind})" for one in fits if not one.same_split]
    if wrong:
        text = f"{' and '.join(wrong)} were fitted under another hold-out or split, in which other items than {new} were left out"
        return Finding(
            FITTING, "failed", text, "make the run again with one `holdout` and `split` for all stages (`felid run --fresh`)"
        )
    seen = [f"{one.name} ({one.kind})" for one in fits if one.saw(cold)]
    if seen and not declared:
        text = f"{' and '.join(seen)} were fitted on {new} too, and the evaluation does not say so"
        return Finding(
            FITTING,
            "failed",
            text,
            "set cold.quantizer_fit=warm and make the run again, or declare it with cold.quantizer_fit=all",
        )
    if seen:
        text = f"declared (cold.quantizer_fit=all): {' and '.join(seen)} were fitted on {new} too"
        return Finding(FITTING, "doubtful", text, "compare with transductive results alone, or set cold.quantizer_fit=warm")
    unknown = [f"{one.name} ({one.kind})" for one in fits if one.sees is None]
    if unknown or not fits:
        text = f"what {' and '.join(unknown) or 'the system'} was fitted on cannot be seen; there are {new}"
        return Finding(FITTING, "doubtful", text, "say beside the results what it was fitted on, or let felid fit it")
    told = (
        f"{one.name} ({one.kind}) on {'nothing of this catalogue' if one.sees == 'nothing' else 'the others alone'}"
        for one in fits
    )
    return passed(FITTING, f"there are {new}; fitted: {'; '.join(told)}")
