"""The tokenise stage: its settings, and what its quantiser learns from. The pipeline runs it, the report repeats it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from felid.config import Config
from felid.data.histories import LeaveOneOut
from felid.embedding.collaborative import CollaborativeConfig, collaborative_vectors
from felid.errors import SemanticIdError
from felid.quantize import CollisionConfig, NoCollisionConfig, QuantizerConfig, RKMeansConfig, SuffixConfig
from felid.quantize.base import FitContext, load_codebooks, save_codebooks
from felid.quantize.catalogue import ColdConfig, TokenizeConfig, fit_rows
from felid.quantize.rqvae import RQVAE, START_FIELDS, RQVAEConfig
from felid.rows import Rows, Vectors


class TokenizeSettings(Config):
    """The sections of a recipe that decide the semantic IDs, given item vectors and training interactions."""

    quantizer: QuantizerConfig = RKMeansConfig()
    collision: CollisionConfig = SuffixConfig()
    collaborative: CollaborativeConfig | None = None
    tokenize: TokenizeConfig = TokenizeConfig()
    cold: ColdConfig = ColdConfig()

    @property
    def start_settings(self) -> dict[str, Any] | None:
        """What the first codebooks depend on; None for quantisers without a start of their own."""
        if not isinstance(self.quantizer, RQVAEConfig) or self.quantizer.start != "kmeans":
            return None
        sections = self.model_dump(mode="json", include={"tokenize", "cold"})
        return sections | {"quantizer": self.quantizer.model_dump(mode="json", include=set(START_FIELDS))}

    def check_trainable(self) -> None:
        """Refuse training on shared IDs unless it is asked for.

        Raises:
            SemanticIdError: collisions are left as they are.
        """
        if isinstance(self.collision, NoCollisionConfig) and not self.collision.allow_training:
            raise SemanticIdError(
                "collision.kind=none leaves several items with one ID, which is for analysis; resolve collisions (suffix, "
                "nearest-free, sinkhorn), or set collision.allow_training=true: the items of an ID are then ranked in the "
                "order of the catalogue"
            )

    def learnable(self, warm: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """(N,) the items that what is fitted on texts and vectors may see; `warm` marks those with training interactions."""
        return np.ones_like(warm) if self.cold.quantizer_fit == "all" else warm

    def fit_rows(self, warm: NDArray[np.bool_]) -> NDArray[np.int64]:
        """(N',) item_index of the items that the quantiser learns from."""
        return fit_rows(self.learnable(warm), self.tokenize)

    def context(self, split: LeaveOneOut, item_ids: NDArray[np.generic], rows: NDArray[np.int64]) -> FitContext:
        """What the quantiser learns from besides the vectors of `rows`: behaviour in the training part, if that is asked for."""
        if self.collaborative is None:
            return FitContext(items=rows)
        train = split.train()
        vectors = collaborative_vectors(self.collaborative, item_ids, train.items, train.offsets)
        return FitContext(items=rows, collaborative=vectors[rows])

    def save_start(self, vectors: Rows, rows: NDArray[np.int64], folder: Path) -> None:
        """Make the first codebooks and write them into an existing folder, one `codebook_<level>.npy` each."""
        assert isinstance(self.quantizer, RQVAEConfig)
        save_codebooks(folder, RQVAE(self.quantizer).start_codebooks(vectors[rows]))

    def load_start(self, folder: Path) -> tuple[Vectors, ...]:
        """Read what `save_start` wrote."""
        return load_codebooks(folder, self.quantizer.sizes)
