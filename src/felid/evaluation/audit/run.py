"""All checks, on a data set with its split and on what is known of the system that is evaluated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from felid.data.dataset import Dataset
from felid.data.histories import EvaluationSet, LeaveOneOut, Part, Sequences
from felid.data.holdout import first_seen
from felid.evaluation.audit.finding import Finding, as_rows, passed, warn_of_failed
from felid.evaluation.audit.leaks import cold_groups, held_out_in_training, targets_in_training, test_users
from felid.evaluation.audit.numbering import item_ids, user_ids
from felid.evaluation.audit.origin import Origin, choices, fitting, training_part
from felid.evaluation.audit.provenance import events_of
from felid.evaluation.audit.repeats import duplicate_events, duplicate_users, ties_at_the_split
from felid.evaluation.audit.trie import TRIE, check_trie, trie_paths
from felid.recommender import Recommender

PARTS: tuple[Part, ...] = ("validation", "test")


@dataclass(frozen=True, eq=False)
class SearchedTrie:
    """The trie that a generative search walks.

    Attributes:
        paths: (M, L) codes of every path.
        leaf_items: (M,) the item at its end.
        codes: (N, L) codes of the catalogue.
        shared: whether several items may have one path.
    """

    paths: NDArray[np.int64]
    leaf_items: NDArray[np.int64]
    codes: NDArray[np.int32]
    shared: bool


@dataclass(frozen=True, eq=False)
class SystemFacts:
    """What is known of a system besides its lists.

    Attributes:
        origin: how it was made.
        known: (N,) items that it knows from behaviour, by what knows them.
        counts: (N,) interactions that it counts; None = it counts none.
        trie: what it searches; None = it generates no codes.
        transductive: whether the evaluation declares that fits saw all items.
    """

    origin: Origin
    known: Mapping[str, NDArray[np.bool_]] = field(default_factory=dict)
    counts: NDArray[np.int64] | None = None
    trie: SearchedTrie | None = None
    transductive: bool = False

    @classmethod
    def of(cls, recommender: Recommender, origin: Origin, *, transductive: bool) -> SystemFacts:
        """Of a recommender as it ranks."""
        catalogue, memory, codes = recommender.ranker.catalogue, recommender.memory, recommender.ranker.codes
        known = {"the model's own vectors": catalogue.warm, **origin.known}
        if memory is not None:
            marks = memory.offsets.diff().cpu().numpy() > 0
            marks[memory.items.cpu().numpy()] = True
            known["the transition memory"] = marks
        trie = None
        if codes is not None:
            of = codes.trie
            paths = trie_paths(of.code.cpu().numpy(), of.child_start.cpu().numpy(), of.depth_start)
            ids = recommender.ids
            trie = SearchedTrie(paths, of.leaf_item.cpu().numpy(), ids.codes, ids.shared)
        return cls(origin, known, catalogue.counts, trie, transductive)


def audit(split: LeaveOneOut, dataset: Dataset, system: SystemFacts | None = None) -> list[Finding]:
    """Run all checks.

    Args:
        split: the users' histories, cut.
        dataset: what they are from.
        system: what is known of the system; None = nothing, as for lists of another program.

    Returns:
        One finding for each check, always the same ones in the same order.
    """
    ids, train = dataset.item_ids, split.train()
    parts = {part: split.evaluation(part) for part in PARTS}
    known, counts = ({}, None) if system is None else (system.known, system.counts)
    origin = Origin({}) if system is None else system.origin
    cold = ~split.warm_items(len(ids))
    return [
        targets_in_training(split.sequences, train, parts),
        training_part(origin.trainings, train),
        choices(origin, split),
        fitting(origin.fits, cold, ids, declared=system is not None and system.transductive),
        held_out_in_training(train, split.held_out, ids, known, counts),
        cold_groups(split.held_out, ids),
        *_of_data(split, dataset, parts),
        _trie(system, ids, ~cold),
    ]


def audit_run(
    root: Path, recommender: Recommender, split: LeaveOneOut, dataset: Dataset, checkpoint: str, *, transductive: bool
) -> list[dict[str, str]]:
    """Run all checks on the recommender of a run folder, warn of those that failed, and return what `metrics.json` gets.

    Args:
        root: the run folder.
        recommender: of that folder.
        split: what it is evaluated on.
        dataset: the data.
        checkpoint: name of the checkpoint that is evaluated.
        transductive: whether the evaluation declares that what is fitted on texts and vectors saw all items.
    """
    facts = SystemFacts.of(recommender, Origin.read(root, checkpoint), transductive=transductive)
    findings = audit(split, dataset, facts)
    warn_of_failed(findings)
    return as_rows(findings)


def _of_data(split: LeaveOneOut, dataset: Dataset, parts: Mapping[Part, EvaluationSet]) -> list[Finding]:
    """What the data and the split alone say."""
    s = split.sequences
    places = np.full((len(s), len(PARTS)), -1, np.int64)
    for column, part in enumerate(PARTS):
        users, place = events_of(parts[part], s).T
        places[users, column] = place
    test, times = places[:, PARTS.index("test")], _times(dataset, s)
    return [
        test_users(s, test >= 0, split.left_out),
        user_ids(parts["test"], dataset.item_ids),
        item_ids(s, parts["test"], len(dataset.items), first_seen(dataset)),
        duplicate_users(s),
        duplicate_events(s, test, times),
        ties_at_the_split(s, places, times, dataset.order_rule),
    ]


def _times(dataset: Dataset, sequences: Sequences) -> NDArray[np.float64] | None:
    """(interactions,) seconds in the order of the sequences; None for data without times."""
    if "timestamp" not in dataset.interactions.columns:
        return None
    times: NDArray[np.float64] = dataset.interactions["timestamp"].to_numpy().astype(np.float64)
    assert len(times) == len(sequences.items), "the split is that of another data set"
    return times


def _trie(system: SystemFacts | None, ids: NDArray[np.generic], warm: NDArray[np.bool_]) -> Finding:
    """The check of the trie, where one is searched."""
    if system is None or system.trie is None:
        return passed(
            TRIE, "no codes are generated, so there is no trie" if system is not None else "lists hold items, not codes"
        )
    found = system.trie
    return check_trie(found.paths, found.leaf_items, found.codes, ids, warm, shared=found.shared)
