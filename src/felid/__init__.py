"""felid: generative retrieval recommenders. Everything public is here; each name is loaded when it is first used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from felid.api import fit, load_dataset
    from felid.data.dataset import Dataset
    from felid.errors import FelidError, FelidWarning
    from felid.recipe import Recipe, load_recipe
    from felid.recommender import Recommendation, Recommender
    from felid.semantic_ids import SemanticIds
    from felid.trie import Trie

__version__ = "0.1.0"

_HOMES = {
    "Dataset": "felid.data.dataset",
    "FelidError": "felid.errors",
    "FelidWarning": "felid.errors",
    "Recipe": "felid.recipe",
    "Recommendation": "felid.recommender",
    "Recommender": "felid.recommender",
    "SemanticIds": "felid.semantic_ids",
    "Trie": "felid.trie",
    "fit": "felid.api",
    "load_dataset": "felid.api",
    "load_recipe": "felid.recipe",
}

__all__ = [
    "Dataset",
    "FelidError",
    "FelidWarning",
    "Recipe",
    "Recommendation",
    "Recommender",
    "SemanticIds",
    "Trie",
    "fit",
    "load_dataset",
    "load_recipe",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'felid' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
