"""The baselines by name, the numbers that they are made with, and what each one is in words."""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal, get_args

BaselineName = Literal["popularity", "markov", "item-knn", "text-knn", "sasrec", "sasrec-text-knn"]
BASELINES: tuple[BaselineName, ...] = get_args(BaselineName)
COUNTED: tuple[BaselineName, ...] = ("popularity", "markov")
"""Those that need nothing but counts."""
ITEM_NEIGHBOURS = 100
"""Neighbours of an item that item-kNN keeps: the default of RecBole's ItemKNN."""
RECENT = 1
"""Last items of a history whose texts text-kNN holds against those of all others. On Beauty's validation (4,000 users, seen
removed) ndcg@10 is .039 with the last one, .036 with two, .032 with three, .026 with five."""
COLD_NEIGHBOURS, COLD_BIAS = 3, -1.5
"""`search.cold_neighbours` and `search.cold_bias` of SASRec + text-kNN: of the settings in `reports/cold/choices.json` that cost
all validation users together, on average over the draws, at most .5 % of recall@10 and of ndcg@10, the one with the best ndcg@10
of users with cold targets."""
_LAST = "that of the last item" if RECENT == 1 else f"the mean of those of the last {RECENT} items"
EXPLAINED: dict[BaselineName, str] = {
    "popularity": "training interactions of an item",
    "markov": "how often an item directly followed the last one of the history, then popularity",
    "item-knn": f"summed cosine over users to the items of the history, {ITEM_NEIGHBOURS} neighbours each, then popularity",
    "text-knn": f"cosine of the text vector to {_LAST}",
    "sasrec": "settings of the recipe sasrec, seed of the run, the same training part",
    "sasrec-text-knn": (
        f"that SASRec, cold items by the mean vector of their {COLD_NEIGHBOURS} nearest warm texts, {COLD_BIAS:g} nats"
    ),
}
"""How each one scores items."""


def explained(names: Collection[str]) -> str:
    """What the printed policy says of the baselines among `names`, which may have an addition after a comma."""
    plain = {name.partition(",")[0] for name in names}
    told = "; ".join(f"{name} = {text}" for name, text in EXPLAINED.items() if name in plain)
    return f"all fitted on the training part alone: {told}" if told else "none"
