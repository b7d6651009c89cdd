"""How an RQ-VAE learns, and the trained network as arrays in, arrays out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self, assert_never, cast

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from felid.errors import ArtifactError, SemanticIdError
from felid.quantize.autoencoder import RQVAENetwork, in_blocks
from felid.quantize.base import Codes, FitContext
from felid.quantize.codebook import SemanticIDConfig, VectorQuantizer
from felid.quantize.collaborative import alignment_loss, check_collaborative, cluster_codes, mean_diversity_loss
from felid.quantize.learning import EpochSums, candidate_rows, start_rows
from felid.quantize.rkmeans import RKMeans, RKMeansConfig
from felid.quantize.rqvae import RQVAEConfig
from felid.rows import Vectors, blocks

CLUSTER_EPOCHS = 5
"""Epochs between two groupings of the codes for the diversity loss."""


class Autoencoder:
    """An RQ-VAE network with the scale of its input.

    Args:
        network: the torch module.
        mean: (D,) float32 subtracted from the input.
        scale: (D,) float32 the rest is divided by.
    """

    def __init__(self, network: RQVAENetwork, mean: Vectors, scale: Vectors) -> None:
        self.network, self.mean, self.scale = network, mean, scale

    @property
    def width(self) -> int:
        """D, the width of the input."""
        return len(self.mean)

    def standardized(self, x: Vectors) -> Tensor:
        """(N, D) what the network sees."""
        return torch.from_numpy((x - self.mean) / self.scale)

    def latents(self, x: Vectors) -> Vectors:
        """(N, latent) float32 encoder outputs."""
        latents: Vectors = in_blocks(lambda block: self.network.encoder(self.standardized(block.numpy())), _tensor(x)).numpy()
        return latents

    def encode(self, x: Vectors) -> Codes:
        """(N, L) int32 codes."""
        codes = in_blocks(lambda block: torch.stack(self.network.encode(self.standardized(block.numpy())), 1), _tensor(x))
        return codes.numpy().astype(np.int32)

    def decode(self, latent: Vectors) -> Vectors:
        """(N, D) float32 decoder outputs, in the input's scale."""
        decoded: Vectors = in_blocks(self.network.decoder, _tensor(latent)).numpy()
        return decoded * self.scale + self.mean

    @property
    def levels(self) -> list[VectorQuantizer]:
        """The codebooks as modules."""
        return cast(list[VectorQuantizer], list(self.network.quantizer.levels))

    def codebook(self, level: int) -> Vectors:
        """(K, latent) float32 copy of a level's vectors."""
        return self.levels[level].codebook.detach().numpy().copy()

    def save(self, path: Path) -> None:
        """Write one safetensors file."""
        scale = {"input.mean": torch.from_numpy(self.mean), "input.scale": torch.from_numpy(self.scale)}
        save_file({**{name: tensor.contiguous() for name, tensor in self.network.state_dict().items()}, **scale}, path)

    @classmethod
    def load(cls, path: Path, config: RQVAEConfig) -> Self:
        """Read what `save` wrote; a missing or damaged file, or one of other sizes, is an `ArtifactError`."""
        try:
            state = load_file(path)
            mean, scale = state.pop("input.mean").numpy(), state.pop("input.scale").numpy()
            network = _network(len(mean), config)
            network.load_state_dict(state)
        except (OSError, SafetensorError, KeyError, RuntimeError) as error:
            text = " ".join(str(error).split())[:200]
            raise ArtifactError(f"{path} cannot be read ({text}); run `felid tokenize` again") from error
        return cls(network.eval(), mean, scale)


def _tensor(x: Vectors) -> Tensor:
    return torch.from_numpy(x if x.flags.writeable else x.copy())


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Random numbers of torch from `seed`; the caller's go on afterwards as if nothing had been drawn."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def _network(width: int, config: RQVAEConfig) -> RQVAENetwork:
    quantizer = SemanticIDConfig(
        embedding_dim=config.latent,
        num_codebooks=len(config.sizes),
        codebook_sizes=config.sizes,
        commitment_cost=config.commitment_cost,
        ema_decay=config.ema_decay if config.update == "ema" else SemanticIDConfig.ema_decay,
        update=config.update,
        estimator=config.estimator,
        sinkhorn_epsilon=config.sinkhorn_epsilon,
    )
    with _seeded(config.seed):
        network = RQVAENetwork((width, *config.hidden, config.latent), quantizer)
        for module in network.modules():
            if isinstance(module, nn.Linear):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                nn.init.zeros_(module.bias)
    return network


def untrained(x: Vectors, config: RQVAEConfig) -> Autoencoder:
    """A network with seeded random weights, which knows the scale of `x` (N, D); a constant dimension is only centred."""
    mean, scale = np.zeros(x.shape[1], np.float32), np.ones(x.shape[1], np.float32)
    if config.standardize:
        parts, floor = list(blocks(len(x))), 1e-6 * max(float(x.max()), -float(x.min()))
        mean = np.asarray(x.mean(0, dtype=np.float64), np.float32)
        deviation = np.sqrt(sum(np.square(x[part] - mean, dtype=np.float64).sum(0) for part in parts) / len(x))
        scale = np.where(deviation > floor, deviation, 1).astype(np.float32)
    return Autoencoder(_network(x.shape[1], config).eval(), mean, scale)


def start_codebooks(model: Autoencoder, x: Vectors, config: RQVAEConfig) -> tuple[Vectors, ...]:
    """One (K, latent) per level for an untrained model; see `RQVAE.start_codebooks`."""
    if config.start == "random":
        return tuple(model.codebook(level) for level in range(len(config.sizes)))
    rng, most = np.random.default_rng(config.seed), start_rows(config.sizes)
    rows = np.sort(rng.choice(len(x), most, replace=False)) if len(x) > most else slice(None)
    kmeans = RKMeans(RKMeansConfig(sizes=config.sizes, restarts=1, seed=config.seed)).fit(model.latents(x[rows]))
    return tuple(kmeans.codebook(level) for level in range(len(config.sizes)))


def fit(x: Vectors, config: RQVAEConfig, context: FitContext) -> Autoencoder:
    """A network trained on `x` (N, D); see `RQVAE.fit`."""
    if config.alignment_weight and context.collaborative is None:
        raise SemanticIdError(
            "quantizer.alignment_weight asks for collaborative vectors and there are none; give the recipe a section "
            "`collaborative`, or set the weight to 0"
        )
    model = untrained(x, config)
    start = start_codebooks(model, x, config) if context.start is None else context.start
    shapes, expected = [one.shape for one in start], [(size, config.latent) for size in config.sizes]
    if shapes != expected or not all(np.isfinite(one).all() for one in start):
        raise SemanticIdError(f"got start codebooks of shapes {shapes}; expected finite ones of {expected}, make them again")
    for level, codebook in zip(model.levels, start, strict=True):
        level.set_codebook(torch.from_numpy(np.array(codebook, np.float32)))
    _Training(model, x, config, context).run()
    return model


class _Training:
    """The loop: shuffled batches, losses, replacement of unused codes, a record per epoch."""

    def __init__(self, model: Autoencoder, x: Vectors, config: RQVAEConfig, context: FitContext) -> None:
        self.model, self.x, self.config, self.context = model, x, config, context
        self.generator = torch.Generator().manual_seed(config.seed)
        self.head: nn.Linear | None = None
        if config.alignment_weight and context.collaborative is not None:
            self.collaborative = torch.from_numpy(check_collaborative(context.collaborative, len(x)))
            with _seeded(config.seed + 1):
                self.head = nn.Linear(config.latent, self.collaborative.shape[1])
        self.clusters: list[Tensor] = []
        self.optimizer = self._optimizer()

    def run(self) -> None:
        self.model.network.train()
        for epoch in range(1, self.config.epochs + 1):
            if self.config.diversity_weight and (epoch - 1) % CLUSTER_EPOCHS == 0:
                clusters, seed = self.config.diversity_clusters, self.config.seed
                self.clusters = [cluster_codes(level.codebook, clusters, seed) for level in self.model.levels]
            record = self._epoch()
            if not np.isfinite(record["loss"]):
                raise SemanticIdError(
                    f"the RQ-VAE's loss is {record['loss']} in epoch {epoch}; lower quantizer.learning_rate "
                    f"({self.config.learning_rate:g}) or set standardize=true"
                )
            reseeded = self._reseed() if self._is_reseeding(epoch) else [0] * len(self.config.sizes)
            self.context.log({"epoch": epoch, **record, "reseeded": reseeded})
            self.context.progress(epoch, self.config.epochs)
        self.model.network.eval()

    def _epoch(self) -> dict[str, float | list[float]]:
        sums = EpochSums(self.config.sizes)
        order = torch.randperm(len(self.x), generator=self.generator)
        for rows in order.tensor_split(-(-len(order) // self.config.batch_size)):
            sums.add(*self._step(rows))
        return {**sums.means(), **sums.per_level()}

    def _step(self, rows: Tensor) -> tuple[dict[str, Tensor], Tensor, list[Tensor]]:
        """One optimiser step on some rows: the losses, and per level the level's loss and the codes."""
        out = self.model.network(self.model.standardized(self.x[rows.numpy()]))
        losses = {
            "loss": out["total_loss"],
            "reconstruction": out["reconstruction_loss"],
            "commitment": out["commitment_loss"],
            "codebook": out["codebook_loss"],
            "alignment": out["total_loss"].new_zeros(()),
            "diversity": out["total_loss"].new_zeros(()),
        }
        if self.head is not None:
            projected = self.head(out["quantized"])
            losses["alignment"] = alignment_loss(projected, self.collaborative[rows], self.config.temperature)
            losses["loss"] = losses["loss"] + self.config.alignment_weight * losses["alignment"]
        if self.clusters:
            codebooks = [level.codebook for level in self.model.levels]
            losses["diversity"] = mean_diversity_loss(codebooks, self.clusters, out["indices"], self.config.temperature)
            losses["loss"] = losses["loss"] + self.config.diversity_weight * losses["diversity"]
        self.optimizer.zero_grad(set_to_none=True)
        losses["loss"].backward()
        self.optimizer.step()
        return losses, out["level_losses"], out["indices"]

    def _is_reseeding(self, epoch: int) -> bool:
        every = self.config.reseed_every
        return every > 0 and epoch % every == 0 and epoch <= self.config.reseed_share * self.config.epochs

    def _reseed(self) -> list[int]:
        """Replace the codes that had no item since the last time by residuals of random items; how many per level."""
        sample = torch.randperm(len(self.x), generator=self.generator)[: candidate_rows(self.config.sizes)]
        return self.model.network.quantizer.reseed(torch.from_numpy(self.model.latents(self.x[sample.numpy()])), self.generator)

    def _optimizer(self) -> torch.optim.Optimizer:
        modules = [self.model.network, *([self.head] if self.head else [])]
        named = [pair for module in modules for pair in module.named_parameters()]
        matrices = [p for name, p in named if p.ndim == 2 and not name.endswith("codebook")]
        others = [p for name, p in named if p.ndim != 2 or name.endswith("codebook")]
        groups = [{"params": matrices, "weight_decay": self.config.weight_decay}, {"params": others, "weight_decay": 0.0}]
        match self.config.optimizer:
            case "adamw":
                return torch.optim.AdamW(groups, lr=self.config.learning_rate)
            case "adam":
                return torch.optim.Adam(groups, lr=self.config.learning_rate)
            case "adagrad":
                return torch.optim.Adagrad(groups, lr=self.config.learning_rate)
            case _:
                assert_never(self.config.optimizer)
