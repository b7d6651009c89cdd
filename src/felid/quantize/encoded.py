"""The large-codebook encoder as a quantiser: `SemanticIDEncoder` behind recipes, stages and resolvers.

Training begins with residual k-means of the vectors, all codes in use, and departs from it as far as that lowers the loss (see
`felid.quantize.encoder`). torch is loaded with the first `EncodedCodes`, not with this module.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from felid.artifacts import read_json, write_json
from felid.config import Config, as_tree, validate
from felid.errors import ArtifactError, SemanticIdError
from felid.quantize.base import NO_CONTEXT, Codes, FitContext, LogRecord, check_codes, check_input, warn_of_start
from felid.quantize.kmeans import few_codes
from felid.quantize.rkmeans import Size
from felid.rows import Vectors

if TYPE_CHECKING:
    from felid.quantize.encoder import SemanticIDEncoder


class EncodedConfig(Config):
    """Settings of `SemanticIDEncoder` and of its training; the defaults are those of the encoder."""

    kind: Literal["semantic-id-encoder"] = "semantic-id-encoder"
    """Tag of this quantiser."""
    sizes: tuple[Size, ...] = Field((1024, 4096, 16384), min_length=1)
    """Codes per level, first level first."""
    hidden: tuple[Size, ...] | None = None
    """Widths between vectors and latent vectors; null = one layer of twice the vectors' width."""
    commitment_cost: float = Field(0.25, ge=0)
    """Weight of the commitment loss."""
    ema_decay: float = Field(0.99, ge=0, lt=1)
    """Share of the moving average of the codebooks that a step keeps."""
    epochs: int = Field(10, ge=1)
    """Passes over the fit rows."""
    batch_size: int = Field(4096, ge=1)
    """Items per step, at most."""
    learning_rate: float = Field(1e-3, gt=0)
    """Of AdamW at the start; it falls to 0 by a cosine."""
    seed: int = Field(0, ge=0, lt=2**64 - 1)
    """Seed of the first weights, the start, the batch order and the re-seeding of unused codes."""


class EncodedCodes:
    """A `SemanticIDEncoder` as a `Quantizer`; its codebooks lie in latent space, `decode` returns vectors like the input."""

    def __init__(self, config: EncodedConfig) -> None:
        self.config = config
        self._fitted: SemanticIDEncoder | None = None

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of codes per level."""
        return self.config.sizes

    @property
    def encoder(self) -> SemanticIDEncoder:
        """The trained encoder, in evaluation mode.

        Raises:
            SemanticIdError: it is not trained yet.
        """
        if self._fitted is None:
            raise SemanticIdError("the quantiser has no codebooks yet; call fit, or load a fitted one")
        return self._fitted

    def fit(self, x: Vectors, context: FitContext = NO_CONTEXT) -> Self:
        """Train an encoder of the rows' width; `context.log` hears of all epochs once they are over.

        Raises:
            SemanticIdError: fewer distinct rows than codes in the first level, or a loss that is no longer finite.
            EmbeddingError: `x` is not a finite (N, D) matrix.

        Warns:
            FelidWarning: `context.start`, which has no effect.
        """
        from felid.quantize.encoder_training import train_codebook

        warn_of_start(context)
        x, config = check_input(x), self.config
        few_codes(x, self.sizes[0], 0)  # refuses fewer distinct rows than codes
        encoder = _untrained(config, x.shape[1])
        history = train_codebook(
            encoder,
            x,
            config.epochs,
            batch_size=config.batch_size,
            learning_rate=config.learning_rate,
            seed=config.seed,
            show_progress=False,
        )
        for record in history:
            context.log(cast(LogRecord, record))
        context.progress(1, 1)
        self._fitted = encoder
        return self

    def encode(self, x: Vectors, items: NDArray[np.int64] | None = None) -> Codes:
        """(N, L) int32 nearest codes of the latent vectors, level by level; ties go to the lowest code."""
        encoder = self.encoder
        levels = encoder.encode(check_input(x, encoder.config.embedding_dim))
        return np.stack([codes.numpy() for codes in levels], 1).astype(np.int32)

    def last_level_costs(self, x: Vectors, codes: Codes) -> Vectors:
        """(N, K) float32 squared distance, in latent space, of each row's last residual to each code of the last level."""
        import torch

        from felid.quantize.autoencoder import in_blocks

        encoder, last = self.encoder, len(self.sizes) - 1
        x = check_input(x, encoder.config.embedding_dim)
        check_codes(codes, self.sizes)
        residual = in_blocks(encoder.rq_vae.encoder, torch.from_numpy(x)).numpy().astype(np.float64)
        for level in range(last):
            residual -= self.codebook(level)[codes[:, level]]
        codebook = self.codebook(last).astype(np.float64)
        costs = (residual**2).sum(1)[:, None] - 2 * residual @ codebook.T + (codebook**2).sum(1)
        return np.asarray(np.maximum(costs, 0), np.float32)

    def decode(self, codes: Codes) -> Vectors:
        """(N, D) float32 what the decoder makes of the sum of the codes' vectors over the given levels, one or more."""
        import torch

        check_codes(codes, self.sizes)
        levels = torch.from_numpy(np.ascontiguousarray(codes.T, np.int64))
        decoded: Vectors = self.encoder.decode(*levels).numpy()
        return decoded

    def codebook(self, level: int) -> Vectors:
        """(K, D) float32 vectors of a level."""
        vectors: Vectors = self.encoder.get_codebook_embeddings(level).numpy()
        return vectors

    def save(self, folder: Path) -> None:
        """Write `quantizer.json` and what `SemanticIDEncoder.save_pretrained` writes."""
        self.encoder.save_pretrained(folder)
        write_json(folder / "quantizer.json", as_tree(self.config))

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote; a missing or damaged file is an `ArtifactError`."""
        from felid.quantize.encoder import WEIGHTS, SemanticIDEncoder

        quantizer = cls(validate(EncodedConfig, read_json(folder / "quantizer.json")))
        try:
            quantizer._fitted = SemanticIDEncoder.from_pretrained(folder)
        except ArtifactError as error:
            raise ArtifactError(f"{folder / WEIGHTS}: {error}; run `felid tokenize` again") from error
        return quantizer


def _untrained(config: EncodedConfig, width: int) -> SemanticIDEncoder:
    """An encoder with seeded random weights; torch's own random numbers go on as if nothing had been drawn."""
    import torch

    from felid.quantize.codebook import SemanticIDConfig
    from felid.quantize.encoder import SemanticIDEncoder

    settings = SemanticIDConfig(
        embedding_dim=width,
        num_codebooks=len(config.sizes),
        codebook_sizes=config.sizes,
        commitment_cost=config.commitment_cost,
        ema_decay=config.ema_decay,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return SemanticIDEncoder(settings, config.hidden)
