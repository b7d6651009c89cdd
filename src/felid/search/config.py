"""Settings of the search, and which of them a model and a catalogue allow."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from felid.config import Config
from felid.errors import RequestError
from felid.models.base import Mode


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
            "search.cold_share (0 under evaluation.candidates=warm) needs an ID of its own for every item, and the catalogue "
            f"has {found}; set it to null, and evaluation.candidates to all"
        )
