"""What can be said about a set of codes: how well they are used, what they keep of the vectors, what their prefixes mean.

Works for the codes of any quantiser and for imported ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from felid.errors import SemanticIdError
from felid.quantize.agreement import Agreement, Groups, agreement
from felid.quantize.base import Codes, energy, mean_row
from felid.quantize.resolve import collision_statistics
from felid.rows import Vectors

QUERY_BLOCK = 256


@dataclass(frozen=True)
class LevelHealth:
    """How one level is used.

    Attributes:
        size: codes that the level has.
        used: codes that occur.
        utilisation: used / size.
        entropy: of the code of a random item, in nats.
        entropy_share: entropy / log(size), 1 for evenly used codes; 1 where size is 1.
        perplexity: exp(entropy), the number of evenly used codes with the same entropy.
        largest_code: the code of most items, of several the lowest.
        largest_share: share of the items that have it.
    """

    size: int
    used: int
    utilisation: float
    entropy: float
    entropy_share: float
    perplexity: float
    largest_code: int
    largest_share: float


@dataclass(frozen=True)
class Collisions:
    """How well whole IDs tell items apart: num_ids distinct IDs, rate = share of items that share theirs, largest_group items."""

    num_ids: int
    rate: float
    largest_group: int


@dataclass(frozen=True)
class PrefixAgreement:
    """Groups of equal prefixes against categories: purity = share of the items in the commonest category of their group."""

    purity: float
    normalized: float
    adjusted: float


@dataclass(frozen=True)
class Neighbours:
    """What codes keep of the neighbourhoods in the vectors.

    Attributes:
        k: neighbours per item.
        num_sampled: items whose neighbours were looked up.
        num_searched: items among which they were looked up.
        decoded: share of an item's k nearest by cosine that are among its k nearest by decoded vectors; None without these.
        prefixes: per prefix length, share of an item's k nearest that have the same prefix.
        chance: per prefix length, share of all pairs that do.
    """

    k: int
    num_sampled: int
    num_searched: int
    decoded: float | None
    prefixes: tuple[float, ...]
    chance: tuple[float, ...]


@dataclass(frozen=True)
class HealthReport:
    """Everything that is known about a set of IDs; what was not measured is None.

    Attributes:
        source: the quantiser's kind, or the file of imported IDs.
        num_items: N.
        levels: of the quantiser's codes; of imported IDs these.
        final: of the final IDs; those beyond `levels` tell collided items apart.
        before: collisions of the quantiser's codes.
        after: collisions of the final IDs.
        reconstruction_error: per number of levels, see `reconstruction_error`.
        neighbours: see `neighbour_overlap`.
        category: name of the column that `categories` is about.
        categories: per prefix length of the learnt levels.
        largest_category: share of the commonest category, the purity of one group.
        stability: per prefix length, agreement with the codes of another seed.
        transductive: the quantiser was fitted on all items, those without training interactions among them.
        notes: what was sampled or left out, in words.
    """

    source: str
    num_items: int
    levels: tuple[LevelHealth, ...]
    final: tuple[LevelHealth, ...]
    before: Collisions | None
    after: Collisions
    reconstruction_error: tuple[float, ...] | None = None
    neighbours: Neighbours | None = None
    category: str = ""
    categories: tuple[PrefixAgreement, ...] | None = None
    largest_category: float | None = None
    stability: tuple[Agreement, ...] | None = None
    transductive: bool = False
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The source, and whether it is transductive."""
        return self.source + (", transductive" if self.transductive else "")

    @property
    def changed(self) -> tuple[int, ...]:
        """Learnt levels that are used in another way once collisions are resolved."""
        return tuple(level for level, health in enumerate(self.levels) if health != self.final[level])

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON-able mappings and numbers."""
        return asdict(self)


def code_health(codes: Codes, sizes: tuple[int, ...]) -> tuple[tuple[LevelHealth, ...], Collisions]:
    """Use of each level, and collisions of the whole codes.

    Args:
        codes: (N, L) int32, N at least 1.
        sizes: codes per level.

    Raises:
        SemanticIdError: no rows, or codes that do not fit `sizes`.
    """
    if not len(codes):
        raise SemanticIdError("got no codes; expected at least one item")
    found = collision_statistics(codes, sizes)
    levels = tuple(_level(codes[:, level], entry) for level, entry in enumerate(found["levels"]))
    return levels, Collisions(found["num_unique"], found["collision_rate"], found["largest_group"])


def _level(column: NDArray[np.int32], entry: dict[str, Any]) -> LevelHealth:
    counts = np.bincount(column, minlength=entry["size"])
    entropy = float(np.log(entry["perplexity"]))
    return LevelHealth(
        size=entry["size"],
        used=entry["used"],
        utilisation=entry["utilisation"],
        entropy=entropy,
        entropy_share=entropy / float(np.log(entry["size"])) if entry["size"] > 1 else 1.0,
        perplexity=entry["perplexity"],
        largest_code=int(counts.argmax()),
        largest_share=float(counts.max() / len(column)),
    )


def reconstruction_error(x: Vectors, decoded: Vectors) -> float:
    """Mean squared distance of vectors (N, D) to their decodings, relative to their variance.

    0 is perfect, above 1 is worse than one vector for all. If all rows are equal the divisor is the smallest float32.
    """
    variance = max(energy(x - mean_row(x)) / len(x), float(np.finfo(np.float32).tiny))
    return energy(x - decoded) / len(x) / variance


def prefix_groups(codes: Codes) -> tuple[Groups, ...]:
    """Per prefix length 1..L, the group of each item: equal groups, equal prefixes; groups in the order of the prefixes."""
    group, found = np.zeros(len(codes), np.int64), []
    for column in codes.T:
        keys = group * (int(column.max(initial=0)) + 1) + column
        group = np.unique(keys, return_inverse=True)[1].reshape(-1).astype(np.int64)
        found.append(group)
    return tuple(found)


def neighbour_overlap(
    x: Vectors, codes: Codes, decoded: Vectors | None = None, *, k: int = 10, sample: int = 2000, seed: int = 0
) -> Neighbours:
    """How much of each sampled item's neighbourhood the codes keep.

    Items with the same codes have the same decoded vector; where they tie for the last places, each counts in part, so that the
    result does not depend on the order of the rows.

    Args:
        x: (N, D) vectors, N at least 2; nearness is cosine similarity, the item itself left out.
        codes: (N, L) codes of the same rows.
        decoded: (N, D) decoded vectors; rows of equal codes are equal.
        k: neighbours per item, at most N - 1 of them.
        sample: how many items are looked at, at random.
        seed: of the sample.

    Raises:
        SemanticIdError: fewer than two rows, or another number of codes.
    """
    if len(x) < 2 or len(x) != len(codes):
        raise SemanticIdError(f"got {len(x)} vectors and {len(codes)} rows of codes; expected the same number, at least 2")
    k = min(k, len(x) - 1)
    rows = np.sort(np.random.default_rng(seed).permutation(len(x))[:sample])
    groups, unit = prefix_groups(codes), _unit(x)
    distinct = None if decoded is None else _unit(decoded[np.unique(groups[-1], return_index=True)[1]])
    kept, same = 0.0, np.zeros(len(groups))
    for start in range(0, len(rows), QUERY_BLOCK):
        block = rows[start : start + QUERY_BLOCK]
        similarity = unit[block] @ unit.T
        similarity[np.arange(len(block)), block] = -np.inf
        near = np.argpartition(-similarity, k - 1, axis=1)[:, :k]
        same += [float((group[near] == group[block][:, None]).sum()) for group in groups]
        if distinct is not None:
            kept += _kept(distinct[groups[-1][block]] @ distinct.T, groups[-1], block, near)
    total = len(rows) * k
    chance = tuple(_chance(group) for group in groups)
    return Neighbours(k, len(rows), len(x), None if distinct is None else kept / total, tuple((same / total).tolist()), chance)


def _kept(similarity: Vectors, group: Groups, block: Groups, near: Groups) -> float:
    """How many of the items `near` (B, k) are among the k nearest by decoded vectors.

    Args:
        similarity: (B, G) of the block's items to each group.
        group: (N,) group of each item.
        block: (B,) items that ask.
        near: (B, k) their nearest items by the vectors themselves.
    """
    k = near.shape[1]
    each = similarity[:, group]
    each[np.arange(len(block)), block] = -np.inf
    last = -np.partition(-each, k - 1, axis=1)[:, k - 1 : k]
    above, ties = (each > last).sum(1), (each == last).sum(1)
    found = np.take_along_axis(each, near, axis=1)
    weight = (k - above) / ties
    return float(((found > last).sum(1) + (found == last).sum(1) * weight).sum())


def _unit(x: Vectors) -> Vectors:
    norms = np.linalg.norm(x, axis=1, keepdims=True)
    return np.asarray(x / np.where(norms > 0, norms, 1), np.float32)


def _chance(group: Groups) -> float:
    """Probability that two different random items are in the same group."""
    counts = np.bincount(group).astype(np.float64)
    return float((counts * (counts - 1)).sum() / (len(group) * (len(group) - 1)))


def category_agreement(codes: Codes, labels: Sequence[str | None]) -> tuple[PrefixAgreement, ...]:
    """How well prefixes of each length agree with a category per item; items without one (None or "") are left out.

    Raises:
        SemanticIdError: not one label per row, or none at all.
    """
    known = np.array([bool(label) for label in labels], bool)
    if len(labels) != len(codes) or not known.any():
        raise SemanticIdError(
            f"got {len(labels)} categories, {int(known.sum())} of them not empty, for {len(codes)} items; choose another column"
        )
    truth = np.unique([label for label in labels if label], return_inverse=True)[1].reshape(-1)
    found = []
    for group in prefix_groups(codes[known]):
        pairs, counts = np.unique(group * (int(truth.max()) + 1) + truth, return_counts=True)
        best = np.zeros(int(group.max()) + 1, np.int64)
        np.maximum.at(best, pairs // (int(truth.max()) + 1), counts)
        both = agreement(group, truth)
        found.append(PrefixAgreement(float(best.sum() / len(truth)), both.normalized, both.adjusted))
    return tuple(found)


def stability(codes_a: Codes, codes_b: Codes) -> tuple[Agreement, ...]:
    """Agreement of two sets of codes of the same items per prefix length; the names of the codes do not matter.

    Raises:
        SemanticIdError: different shapes.
    """
    if codes_a.shape != codes_b.shape:
        raise SemanticIdError(f"got codes of shapes {codes_a.shape} and {codes_b.shape}; expected the same items and levels")
    return tuple(agreement(a, b) for a, b in zip(prefix_groups(codes_a), prefix_groups(codes_b), strict=True))
