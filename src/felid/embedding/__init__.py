"""From item texts to item vectors: one union of embedder settings, one function that runs any of them."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, assert_never

from pydantic import Field

from felid.artifacts import file_digest
from felid.embedding.lsa import LsaConfig, embed_lsa
from felid.embedding.precomputed import PrecomputedConfig, embed_precomputed
from felid.embedding.sentence_transformers import (
    PACKAGE,
    PackagedMiniLMConfig,
    Progress,
    SentenceTransformersConfig,
    embed_sentences,
)
from felid.embedding.store import check_vectors, load_embeddings, open_embeddings, save_embeddings
from felid.embedding.template import ItemTexts, TextConfig, item_texts
from felid.errors import EmbeddingError
from felid.rows import Rows

EmbeddingConfig = Annotated[
    LsaConfig | SentenceTransformersConfig | PackagedMiniLMConfig | PrecomputedConfig, Field(discriminator="kind")
]

__all__ = [
    "EmbeddingConfig",
    "ItemTexts",
    "LsaConfig",
    "PackagedMiniLMConfig",
    "PrecomputedConfig",
    "Progress",
    "SentenceTransformersConfig",
    "TextConfig",
    "embed",
    "fingerprint",
    "item_texts",
    "load_embeddings",
    "open_embeddings",
    "save_embeddings",
]


def embed(config: EmbeddingConfig, items: ItemTexts, progress: Progress | None = None) -> Rows:
    """Embed all items of a catalogue.

    Args:
        config: one of the embedders' settings.
        items: texts and ids, row = item_index; only `fit_rows` are seen by what is fitted.
        progress: called with (items done, items in all) by the embedders that take long.

    Returns:
        (N, D) float32, finite, row = item_index; a matrix on disk is not loaded.

    Raises:
        EmbeddingError: there are no items, or the embedder cannot do its work; see its function.
    """
    if not items.texts:
        raise EmbeddingError("the catalogue has no items; check the dataset's filters")
    vectors: Rows
    match config:
        case LsaConfig():
            vectors = embed_lsa(config, items)
        case SentenceTransformersConfig() | PackagedMiniLMConfig():
            vectors = embed_sentences(config, items.texts, progress)
        case PrecomputedConfig():
            vectors = embed_precomputed(config, items.item_ids)
        case _:
            assert_never(config)
    check_vectors(items.item_ids, vectors)
    return vectors


def fingerprint(config: EmbeddingConfig) -> dict[str, str]:
    """Name -> content identity of everything that `embed` reads besides the items, for the stage key.

    Files are named by their SHA-256, a packaged model by its version. A name on the hub stands for itself (in the config): what
    the hub serves under it is not known before it is loaded.

    Raises:
        EmbeddingError: a file or package is missing.
    """
    match config:
        case LsaConfig():
            return {}
        case SentenceTransformersConfig():
            folder = Path(config.model)
            return _digests({str(p.relative_to(folder)): p for p in sorted(folder.rglob("*")) if p.is_file()})
        case PackagedMiniLMConfig():
            try:
                return {PACKAGE: version(PACKAGE)}
            except PackageNotFoundError as error:
                raise EmbeddingError(f"{PACKAGE} is not installed; run `pip install --no-deps {PACKAGE}`") from error
        case PrecomputedConfig():
            return _digests(config.files)
        case _:
            assert_never(config)


def _digests(files: dict[str, Path]) -> dict[str, str]:
    for name, path in files.items():
        if not path.is_file():
            raise EmbeddingError(f"file of {name}: {path} does not exist; give an existing file (embedding.* or collaborative.*)")
    return {name: file_digest(path) for name, path in files.items()}
