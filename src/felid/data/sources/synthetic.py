"""A made-up shop with planted tastes, whose best reachable Recall@k is known exactly.

The catalogue is a grid: `num_types` product types (jacket, boots, ...) around a ring, times `num_clusters` tastes
(materials), times `items_per_cell` items. A user

1. takes a first item, uniform over the catalogue; its cluster is the user's taste for good;
2. then goes round the ring, one type per step: with probability `successors[s]` the next item is the s-th planted
   successor of the last item (each item has its own, drawn from the next type, any cluster), else an item drawn uniformly from
   the cell (next type, the user's taste).

So the next item depends on the last item and on the first one (whose cluster is the taste), and on nothing else. A walk is
never longer than the ring: no item repeats, and removing seen items from a ranking costs an oracle nothing. Lengths are
uniform over `min_length..max_length`. A title such as "red wool jacket by Norva" names the type exactly and the material of
the cluster; the brand is the cluster's with probability `brand_purity`, else any; the colour tells up to
twelve items of a cell apart and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field, model_validator

from felid.config import Config
from felid.data.dataset import Dataset
from felid.data.filters import FilterConfig
from felid.errors import RecipeError

MAX_INTERACTIONS = 100_000

_TYPES = (
    "jacket",
    "boots",
    "scarf",
    "hat",
    "gloves",
    "shirt",
    "belt",
    "coat",
    "skirt",
    "vest",
    "bag",
    "socks",
    "cap",
    "dress",
    "tie",
    "shoes",
    "sweater",
    "shorts",
    "cape",
    "robe",
)
_MATERIALS = ("wool", "leather", "cotton", "silk", "linen", "denim", "fleece", "canvas", "velvet", "cashmere", "suede", "nylon")
_BRANDS = ("Norva", "Kelto", "Braska", "Ondine", "Tarn", "Mirelle", "Vosk", "Halden", "Quill", "Sorrel", "Pemba", "Ixora")
_COLOURS = ("red", "blue", "green", "black", "white", "grey", "brown", "yellow", "purple", "orange", "pink", "teal")
_FIRST_TIMESTAMP = 1_600_000_000
_DAY_SECONDS = 86_400


class SyntheticConfig(Config):
    """Size and probabilities of the made-up shop; num_users * max_length may not exceed 100,000."""

    kind: Literal["synthetic"] = "synthetic"
    """Source."""
    seed: int = Field(0, ge=0)
    """Seed of the planted world and of the users' walks."""
    num_users: int = Field(2_000, ge=1)
    """Users."""
    num_types: int = Field(12, ge=2, le=len(_TYPES))
    """Product types on the ring."""
    num_clusters: int = Field(6, ge=1, le=len(_MATERIALS))
    """Tastes."""
    items_per_cell: int = Field(12, ge=1)
    """Items of one type and cluster."""
    successors: tuple[float, ...] = (0.4, 0.2, 0.1)
    """Probability of each planted successor; what is left to 1 goes to the user's taste."""
    min_length: int = Field(5, ge=1)
    """Shortest walk, items."""
    max_length: int = Field(12, ge=1)
    """Longest walk, items; at most num_types, so that no item repeats."""
    brand_purity: float = Field(0.8, ge=0, le=1)
    """Probability that an item carries its cluster's brand."""

    @model_validator(mode="after")
    def _consistent(self) -> SyntheticConfig:
        if self.num_users * self.max_length > MAX_INTERACTIONS:
            raise ValueError(
                f"num_users * max_length = {self.num_users * self.max_length}, expected at most {MAX_INTERACTIONS}; lower one"
            )
        if self.num_items > MAX_INTERACTIONS:
            raise ValueError(f"num_types * num_clusters * items_per_cell = {self.num_items}, expected at most {MAX_INTERACTIONS}")
        if not self.min_length <= self.max_length <= self.num_types:
            raise ValueError(f"lengths {self.min_length}..{self.max_length}, expected min <= max <= num_types = {self.num_types}")
        if min(self.successors, default=0.0) < 0 or sum(self.successors) > 1 + 1e-9:
            raise ValueError(f"successors {self.successors}, expected probabilities that add up to at most 1")
        if len(self.successors) > self.num_clusters * self.items_per_cell:
            raise ValueError(
                f"{len(self.successors)} successors, expected at most the {self.num_clusters * self.items_per_cell} of a type"
            )
        return self

    @property
    def num_items(self) -> int:
        """Items in the catalogue."""
        return self.num_types * self.num_clusters * self.items_per_cell

    @property
    def taste_probability(self) -> float:
        """Probability that a step follows the taste instead of a planted successor."""
        return max(0.0, 1.0 - sum(self.successors))

    @property
    def taste_share(self) -> float:
        """Probability of each item of the taste's cell, besides its own as a planted successor."""
        return self.taste_probability / self.items_per_cell


@dataclass(frozen=True)
class World:
    """The planted structure; items are numbered type by type, within a type cluster by cluster.

    Attributes:
        config: what it was made from.
        successors: (N, S) int64 item_index of each item's planted successors, distinct within a row.
    """

    config: SyntheticConfig
    successors: NDArray[np.int64]

    @classmethod
    def build(cls, config: SyntheticConfig) -> World:
        """Draw the successors of every item from the next type."""
        rng = np.random.default_rng([config.seed, 0])
        size = config.num_clusters * config.items_per_cell
        within = np.empty((config.num_items, 0), np.int64)
        for rank in range(len(config.successors)):
            drawn = rng.integers(size - rank, size=config.num_items)
            for taken in np.sort(within, axis=1).T:
                drawn += drawn >= taken
            within = np.column_stack((within, drawn))
        next_type = (np.arange(config.num_items) // size + 1) % config.num_types
        return cls(config, next_type[:, None] * size + within)

    def taste_of(self, items: NDArray[np.int64]) -> NDArray[np.int64]:
        """Cluster of each item."""
        return items // self.config.items_per_cell % self.config.num_clusters

    def taste_start(self, last: NDArray[np.int64], tastes: NDArray[np.int64]) -> NDArray[np.int64]:
        """First item of the cell (type after `last`, taste); the cell's items follow it."""
        config = self.config
        size = config.num_clusters * config.items_per_cell
        return (last // size + 1) % config.num_types * size + tastes * config.items_per_cell

    def walk(self, rng: np.random.Generator, num_users: int) -> NDArray[np.int64]:
        """(num_users, max_length) walks of the planted process."""
        config = self.config
        items = np.empty((num_users, config.max_length), np.int64)
        items[:, 0] = rng.integers(config.num_items, size=num_users)
        tastes = self.taste_of(items[:, 0])
        bounds = np.cumsum(config.successors)
        for step in range(1, config.max_length):
            last = items[:, step - 1]
            choice = np.searchsorted(bounds, rng.random(num_users), side="right")
            items[:, step] = self.taste_start(last, tastes) + rng.integers(config.items_per_cell, size=num_users)
            planted = choice < len(bounds)
            items[planted, step] = self.successors[last[planted], choice[planted]]
        return items

    def next_probabilities(self, last: NDArray[np.int64], tastes: NDArray[np.int64]) -> NDArray[np.float64]:
        """(B, N) probability of every item after `last`, for users of these tastes: what an oracle ranks by."""
        config, rows = self.config, np.arange(len(last))[:, None]
        result = np.zeros((len(last), config.num_items))
        cell = self.taste_start(last, tastes)[:, None] + np.arange(config.items_per_cell)
        result[rows, cell] = config.taste_share
        result[rows, self.successors[last]] += np.asarray(config.successors)
        return result

    def last_item_distributions(self, num_steps: int) -> list[NDArray[np.float64]]:
        """(C, N) joint probabilities of taste and item after 0, 1, ..., `num_steps` steps from the first item."""
        config, items = self.config, np.arange(self.config.num_items)
        grid = (config.num_clusters, config.num_types, config.num_clusters, config.items_per_cell)
        tastes = np.arange(config.num_clusters)
        state = np.zeros((config.num_clusters, config.num_items))
        state[self.taste_of(items), items] = 1 / config.num_items
        states = [state]
        for _ in range(num_steps):
            following = np.zeros_like(state)
            for rank, probability in enumerate(config.successors):
                np.add.at(following.T, self.successors[:, rank], probability * state.T)
            per_type = np.roll(state.reshape(grid).sum(axis=(2, 3)), 1, axis=1)
            following.reshape(grid)[tastes, :, tastes] += config.taste_share * per_type[:, :, None]
            states.append(state := following)
        return states

    def top_mass(self, k: int) -> NDArray[np.float64]:
        """(C, N) summed probability of the k likeliest next items, for each taste and last item."""
        config = self.config
        result = np.empty((config.num_clusters, config.num_items))
        for taste in range(config.num_clusters):
            in_cell = self.taste_of(self.successors) == taste
            planted = np.asarray(config.successors) + config.taste_share * in_cell
            num_others = config.items_per_cell - in_cell.sum(axis=1, keepdims=True)
            others = config.taste_share * (np.arange(min(k, config.items_per_cell)) < num_others)
            result[taste] = np.sort(np.hstack((planted, others)), axis=1)[:, -k:].sum(axis=1)
        return result


def oracle_recall_at_k(config: SyntheticConfig, k: int, part: Literal["validation", "test"] = "test") -> float:
    """Expected Recall@k of a ranker that knows the process: no ranker can expect more.

    The sum over lengths, tastes and last items of their exact probability times the k largest next-item probabilities; the
    seed enters only through the planted successors. A finite draw of users scatters around it by sqrt(r(1 - r) / users).
    Needs min_length >= 3, so that every user is evaluated.
    """
    if config.min_length < 3:
        raise RecipeError(f"min_length is {config.min_length}, expected at least 3 so that every user has both targets")
    world = World.build(config)
    hits, back = world.top_mass(k), 2 if part == "test" else 3
    states = world.last_item_distributions(config.max_length - back)
    return float(np.mean([(state * hits).sum() for state in states[config.min_length - back :]]))


def load(config: SyntheticConfig, filters: FilterConfig) -> Dataset:
    """Draw the users' walks and the items' attributes; ids are integers from 0, items have title, brand, categories, price."""
    world, rng = World.build(config), np.random.default_rng([config.seed, 1])
    walks = world.walk(rng, config.num_users)
    lengths = rng.integers(config.min_length, config.max_length + 1, size=config.num_users)
    users, steps = np.nonzero(np.arange(config.max_length) < lengths[:, None])
    starts = _FIRST_TIMESTAMP + rng.integers(365 * _DAY_SECONDS, size=config.num_users)
    times = starts[users] + steps * _DAY_SECONDS
    interactions = pl.DataFrame({"user_id": users, "item_id": walks[users, steps], "timestamp": times})
    notes: tuple[str, ...] = ()
    if config.min_length >= 3:
        best = {k: oracle_recall_at_k(config, k) for k in (1, 5, 10)}
        notes = ("best reachable test recall: " + ", ".join(f"@{k} {value:.4f}" for k, value in best.items()),)
    return Dataset.from_frames("synthetic", interactions, _items(world), notes=notes, filters=filters)


def _items(world: World) -> pl.DataFrame:
    config, rng = world.config, np.random.default_rng([world.config.seed, 2])
    items = np.arange(config.num_items)
    clusters = world.taste_of(items)
    types = items // (config.num_clusters * config.items_per_cell)
    strays = rng.integers(config.num_clusters, size=config.num_items)
    brands = np.where(rng.random(config.num_items) < config.brand_purity, clusters, strays)
    shifts = rng.integers(len(_COLOURS), size=config.num_items // config.items_per_cell)
    colours = (items + np.repeat(shifts, config.items_per_cell)) % len(_COLOURS)
    return pl.DataFrame(
        {
            "item_id": items,
            "title": [
                f"{_COLOURS[colour]} {_MATERIALS[cluster]} {_TYPES[kind]} by {_BRANDS[brand]}"
                for colour, cluster, kind, brand in zip(colours, clusters, types, brands, strict=True)
            ],
            "price": np.round(rng.uniform(5, 200, size=config.num_items), 2),
            "brand": [_BRANDS[brand] for brand in brands],
            "categories": [f"Clothing > {_MATERIALS[c]} > {_TYPES[t]}" for c, t in zip(clusters, types, strict=True)],
        }
    )
