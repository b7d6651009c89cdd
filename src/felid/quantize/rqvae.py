"""RQ-VAE: an autoencoder whose latent vector is quantised level by level (TIGER: Rajput et al., NeurIPS 2023, section 3.1).

The residual quantiser is that of Lee et al. (CVPR 2022, arXiv:2203.01941). torch is loaded with the first `RQVAE`, not with
this module.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from felid.artifacts import read_json, write_json
from felid.config import Config, as_tree, validate
from felid.errors import FelidWarning, SemanticIdError
from felid.quantize.base import NO_CONTEXT, Codes, FitContext, check_codes, check_input
from felid.quantize.kmeans import few_codes
from felid.quantize.rkmeans import Size
from felid.rows import Vectors

if TYPE_CHECKING:
    from felid.quantize.rqvae_training import Autoencoder

LOW_UTILISATION = 0.5
"""Share of a level's codes in use below which `fit` warns."""


class RQVAEConfig(Config):
    """Settings of the RQ-VAE; recipe `beauty-rqvae-paper` has TIGER's."""

    kind: Literal["rqvae"] = "rqvae"
    """Tag of this quantiser."""
    sizes: tuple[Size, ...] = Field((256, 256, 256), min_length=1)
    """Codes per level, first level first; 3 x 256 is TIGER's size."""
    hidden: tuple[Size, ...] = (512, 256, 128)
    """Widths of the encoder's hidden layers, TIGER's; the decoder has them in reverse."""
    latent: int = Field(32, ge=1)
    """Width of the vector that is quantised; TIGER's."""
    commitment_cost: float = Field(0.25, ge=0)
    """Weight of the commitment loss (beta; van den Oord et al. 2017)."""
    update: Literal["gradient", "ema"] = "ema"
    """How codebooks learn: by a loss of their own, as TIGER's, or as moving averages of what they stand for."""
    estimator: Literal["straight-through", "rotation"] = "straight-through"
    """How the gradient passes the quantiser; rotation is Fifty et al. 2024 (arXiv:2410.06424)."""
    ema_decay: float = Field(0.99, ge=0, lt=1)
    """Share of the moving average that a step keeps; `update: ema` only."""
    start: Literal["kmeans", "random"] = "kmeans"
    """First codebooks: residual k-means of the untrained encoder's latent vectors, or random numbers."""
    standardize: bool = True
    """Bring each input dimension to mean 0 and standard deviation 1 over the fit rows."""
    optimizer: Literal["adamw", "adam", "adagrad"] = "adamw"
    """adagrad is TIGER's."""
    learning_rate: float = Field(1e-3, gt=0)
    """Step size; TIGER: .4 with adagrad."""
    weight_decay: float = Field(0.0, ge=0)
    """Weight decay of the matrices; codebooks and biases have none."""
    batch_size: int = Field(256, ge=1)
    """Items per step, at most: an epoch is cut into batches of equal size. TIGER: 1,024."""
    epochs: int = Field(60, ge=1)
    """Passes over the fit rows; TIGER: 20,000."""
    reseed_every: int = Field(2, ge=0)
    """Epochs between two replacements of codes that had no item since the last; 0 = never."""
    reseed_share: float = Field(0.5, ge=0, le=1)
    """First share of all epochs in which codes are replaced; with `reseed_every` only."""
    sinkhorn_epsilon: float = Field(0.0, ge=0)
    """Above 0: balanced (Sinkhorn) assignment in the last level while training; the smaller, the more even, as far as its
    50 iterations suffice (.003 to .05). 0 = nearest code."""
    alignment_weight: float = Field(0.0, ge=0)
    """Weight of the alignment with collaborative vectors (LETTER's alpha); needs the recipe's section `collaborative`."""
    diversity_weight: float = Field(0.0, ge=0)
    """Weight of the code diversity (LETTER's beta); needs `update: gradient`."""
    diversity_clusters: int = Field(10, ge=1)
    """Groups of codes per level for the diversity, LETTER's; with `diversity_weight` only."""
    temperature: float = Field(0.1, gt=0)
    """Divides the cosines in alignment and diversity; with one of their weights only."""
    seed: int = Field(0, ge=0, lt=2**64 - 1)
    """Seed of the first weights, the start and the batch order."""

    @model_validator(mode="after")
    def _diversity_reaches_the_codebooks(self) -> Self:
        if self.diversity_weight and self.update == "ema":
            raise ValueError("diversity_weight has no effect on moving averages; set update to gradient, or the weight to 0")
        return self

    @model_validator(mode="after")
    def _no_setting_is_idle(self) -> Self:
        weights = "alignment_weight or diversity_weight above 0"
        needs = {
            "ema_decay": (self.update == "ema", "update ema"),
            "reseed_share": (self.reseed_every > 0, "reseed_every above 0"),
            "diversity_clusters": (self.diversity_weight > 0, "diversity_weight above 0"),
            "temperature": (self.alignment_weight > 0 or self.diversity_weight > 0, weights),
        }
        for name, (is_met, need) in needs.items():
            if not is_met and getattr(self, name) != type(self).model_fields[name].default:
                warnings.warn(f"quantizer.{name} has no effect without {need}; leave it out", FelidWarning, stacklevel=2)
        return self


START_FIELDS = frozenset({"kind", "sizes", "hidden", "latent", "start", "standardize", "seed"})
"""The fields of the config that the first codebooks depend on."""


class RQVAE:
    """An RQ-VAE; a `Quantizer` whose codebooks lie in latent space, while `decode` returns vectors like the input.

    On one machine and with one number of threads, the result depends on the rows and their order, the config and the
    collaborative vectors; the state of torch's random numbers is neither used nor changed.
    """

    def __init__(self, config: RQVAEConfig) -> None:
        self.config = config
        self._fitted: Autoencoder | None = None

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of codes per level."""
        return self.config.sizes

    def start_codebooks(self, x: Vectors) -> tuple[Vectors, ...]:
        """The codebooks that `fit` would start from: one (K, latent) float32 per level.

        Residual k-means of the untrained encoder's latent vectors, of at most 65,536 rows (4 per code, if more), drawn at random.
        With `start: random`, the network's own random codebooks. Pass them as `FitContext.start` to give the same fit.

        Raises:
            SemanticIdError: fewer distinct rows than codes in the first level.
            EmbeddingError: `x` is not a finite (N, D) matrix.
        """
        from felid.quantize import rqvae_training

        x = self._check_rows(x)
        return rqvae_training.start_codebooks(rqvae_training.untrained(x, self.config), x, self.config)

    def fit(self, x: Vectors, context: FitContext = NO_CONTEXT) -> Self:
        """Train network and codebooks for `config.epochs`; the last weights are kept.

        `context.log` hears per epoch: epoch (1-based), seconds, and means over the items of loss, reconstruction (mean squared
        error per standardised number), commitment, codebook, alignment and diversity; per level level_losses (squared
        distance to what the level leaves over), utilisation (share of the codes with an item in this epoch) and perplexity;
        reseeded, the codes replaced after this epoch. `context.progress` counts epochs.

        Raises:
            SemanticIdError: fewer distinct rows than codes in the first level; `context.start` does not fit the config; or
                alignment is asked for and `context.collaborative` is missing; or the loss is no longer finite.
            EmbeddingError: `x` is not a finite (N, D) matrix, or the collaborative vectors do not fit it.

        Warns:
            FelidWarning: at the end less than half of the codes of a level are in use.
        """
        from felid.quantize import rqvae_training

        x = self._check_rows(x)
        self._fitted = rqvae_training.fit(x, self.config, context)
        self._warn_of_unused(self.encode(x))
        return self

    def encode(self, x: Vectors, items: NDArray[np.int64] | None = None) -> Codes:
        """(N, L) int32 nearest codes of the latent vectors, level by level; ties go to the lowest code."""
        model = self._model()
        return model.encode(check_input(x, model.width))

    def last_level_costs(self, x: Vectors, codes: Codes) -> Vectors:
        """(N, K) float32 squared distance, in latent space, of each row's last residual to each code of the last level.

        Raises:
            SemanticIdError: not one row of codes per vector on all levels but the last, or a code outside its level.
        """
        model = self._model()
        x, last = check_input(x, model.width), len(self.sizes) - 1
        check_codes(codes, self.sizes)
        if len(codes) != len(x) or codes.shape[1] < last:
            raise SemanticIdError(f"got codes of shape {codes.shape} for {len(x)} vectors; expected ({len(x)}, {last} or more)")
        residual = model.latents(x).astype(np.float64)
        for level in range(last):
            residual -= self.codebook(level)[codes[:, level]]
        codebook = self.codebook(last).astype(np.float64)
        costs = (residual**2).sum(1)[:, None] - 2 * residual @ codebook.T + (codebook**2).sum(1)
        return np.asarray(np.maximum(costs, 0), np.float32)

    def decode(self, codes: Codes) -> Vectors:
        """(N, D) float32 what the decoder makes of the sum of the codes' vectors over the given levels.

        The decoder has learnt from all levels; with fewer the approximation is not always the better the more there are.
        """
        check_codes(codes, self.sizes)
        model = self._model()
        latent = np.zeros((len(codes), self.config.latent), np.float32)
        for level in range(codes.shape[1]):
            latent += self.codebook(level)[codes[:, level]]
        return model.decode(latent)

    def codebook(self, level: int) -> Vectors:
        """(K, latent) float32 vectors of a level."""
        return self._model().codebook(level)

    def save(self, folder: Path) -> None:
        """Write `quantizer.json` and `network.safetensors` into an existing folder."""
        self._model().save(folder / "network.safetensors")
        write_json(folder / "quantizer.json", as_tree(self.config))

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote; a missing or damaged file is an `ArtifactError`."""
        from felid.quantize.rqvae_training import Autoencoder

        quantizer = cls(validate(RQVAEConfig, read_json(folder / "quantizer.json")))
        quantizer._fitted = Autoencoder.load(folder / "network.safetensors", quantizer.config)
        return quantizer

    def _model(self) -> Autoencoder:
        if self._fitted is None:
            raise SemanticIdError("the quantiser has no codebooks yet; call fit, or load a fitted one")
        return self._fitted

    def _warn_of_unused(self, codes: Codes) -> None:
        used = [len(np.unique(column)) / size for column, size in zip(codes.T, self.sizes, strict=True)]
        low = min(range(len(used)), key=used.__getitem__)
        if used[low] < LOW_UTILISATION:
            warnings.warn(
                f"level {low} of the RQ-VAE uses {used[low]:.0%} of its {self.sizes[low]} codes; set quantizer.reseed_every=2, "
                "update=ema, start=kmeans and standardize=true, or lower quantizer.sizes or the learning rate",
                FelidWarning,
                stacklevel=3,
            )

    def _check_rows(self, x: Vectors) -> Vectors:
        x = check_input(x)
        few_codes(x, self.sizes[0], 0)  # refuses fewer distinct rows than codes
        return x
