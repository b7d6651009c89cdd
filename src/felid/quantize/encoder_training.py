"""Training a `SemanticIDEncoder` on feature vectors, in memory or mapped from disk, and how evenly it uses its codes.

在特征向量（内存或磁盘映射）上训练 `SemanticIDEncoder`，并统计码本的使用情况。
"""

from __future__ import annotations

import math
from typing import TypedDict

import torch
from torch import Tensor

from felid.errors import EmbeddingError, SemanticIdError
from felid.progress import plain_console, progress_bar
from felid.quantize.autoencoder import AutoencoderOutput
from felid.quantize.encoder import BATCH, Features, SemanticIDEncoder, feature_batches, feature_count, take_features
from felid.quantize.learning import CodeCounts, EpochSums, candidate_rows, start_rows
from felid.quantize.rkmeans import RKMeans, RKMeansConfig
from felid.rows import blocks

START_ITERATIONS = 10
"""Of the k-means start, per level. k-means 初始化每层的迭代次数。"""
SEEDS = 2**64


class Epoch(TypedDict):
    """Record of one epoch; losses are means over the items. 一个 epoch 的记录；损失为对全部物品的平均。

    Attributes:
        epoch: 1-based. 从 1 开始。
        total_loss: what is minimised. 总损失。
        reconstruction_loss: mean squared error of the features. 重建误差。
        commitment_loss: sum over levels of the mean squared residual. 承诺损失。
        level_losses: mean squared residual after each level. 每层之后的残差均方。
        utilisation: share of each level's codes that were used. 每层码本的使用率。
        perplexity: exp of the entropy of each level's codes. 每层码的困惑度。
        reseeded: unused codes replaced after the epoch, per level. 该 epoch 之后重置的码数。
    """

    epoch: int
    total_loss: float
    reconstruction_loss: float
    commitment_loss: float
    level_losses: list[float]
    utilisation: list[float]
    perplexity: list[float]
    reseeded: list[int]


class LevelUsage(TypedDict):
    """Use of one level's codes. 某一层码本的使用情况。

    Attributes:
        level: 0-based. 从 0 开始。
        size: codes in the codebook. 码本大小。
        used: codes with at least one item. 至少被一个物品使用的码数。
        utilisation: used / size. 使用率。
        perplexity: exp of the entropy in nats, from 1 (one code for all) to size (all equally often). 困惑度。
    """

    level: int
    size: int
    used: int
    utilisation: float
    perplexity: float


def train_codebook(
    encoder: SemanticIDEncoder,
    item_features: Features,
    num_epochs: int = 10,
    *,
    batch_size: int = BATCH,
    learning_rate: float = 1e-3,
    start: bool = True,
    seed: int = 0,
    show_progress: bool = True,
) -> list[Epoch]:
    """Train the encoder in place: k-means start, then AdamW with a cosine decay. 就地训练编码器：k-means 初始化，再用 AdamW。

    Unused codes are re-seeded in the first half of the epochs. 前一半 epoch 之后重置未使用的码；逐批读取，内存占用与物品数无关。

    The result depends on the rows, their order and the seed; torch's global random numbers are not used. Memory does not grow
    with the number of items, of which one batch is read at a time. The encoder is left in evaluation mode.

    Args:
        encoder: the encoder. 编码器。
        item_features: (N, embedding_dim); a million mapped rows will do. 物品特征，可为磁盘映射的百万行。
        num_epochs: passes over the items. 训练轮数。
        batch_size: items per step, at most: an epoch is cut into batches of equal size. 每步的物品数上限。
        learning_rate: of AdamW at the start (no weight decay); it falls to 0. 起始学习率。
        start: make the k-means start; `False` goes on from the present codebooks. 是否做 k-means 初始化。
        seed: of the start, the order and the re-seeding. 随机种子。
        show_progress: draw a bar if the output is a terminal. 是否显示进度条。

    Returns:
        One record per epoch. 每个 epoch 一条记录。

    Raises:
        EmbeddingError: no rows, another width, NaN or infinity. 没有数据、维度不符或含有 NaN／无穷。
        SemanticIdError: num_epochs or batch_size below 1, learning_rate not above 0, seed below 0, (with `start`) fewer distinct
            items than codes in the first level, or a loss that is no longer finite.
            参数越界、物品少于第一层的码数，或损失不再是有限数。
    """
    count = feature_count(encoder, item_features)
    if count == 0:
        raise EmbeddingError("got no item features; expected at least one row")
    if num_epochs < 1 or batch_size < 1:
        raise SemanticIdError(f"got num_epochs {num_epochs} and batch_size {batch_size}; expected at least 1")
    if not 0 < learning_rate < math.inf:
        raise SemanticIdError(f"got learning_rate {learning_rate}; expected a number above 0")
    _check_seed(seed)
    if start:
        start_codebooks(encoder, item_features, seed=seed)
    generator, quantizer = torch.Generator().manual_seed(seed), encoder.rq_vae.quantizer
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=learning_rate, weight_decay=0.0)
    batches, history = -(-count // batch_size), []
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_epochs * batches)
    quantizer.reset_usage()
    bar_of = progress_bar(plain_console(quiet=not show_progress), "train codebook", total=num_epochs * batches, unit="batches")
    encoder.train()
    try:
        with bar_of as bar:
            for epoch in range(1, num_epochs + 1):
                sums, reseeded = EpochSums(encoder.config.codebook_sizes), [0] * encoder.config.num_codebooks
                for rows in torch.randperm(count, generator=generator).tensor_split(batches):
                    _step(encoder, optimizer, take_features(encoder, item_features, rows.sort().values.numpy()), sums)
                    schedule.step()
                    bar.advance()
                _check_finite(sums.means()["total_loss"], epoch, learning_rate)
                if 2 * epoch <= num_epochs:
                    candidates = _latents(encoder, item_features, candidate_rows(encoder.config.codebook_sizes), generator)
                    reseeded = quantizer.reseed(candidates, generator)
                history.append(_record(epoch, sums, reseeded))
    finally:
        encoder.eval()
    return history


def start_codebooks(encoder: SemanticIDEncoder, item_features: Features, *, seed: int = 0) -> None:
    """Set the codebooks by residual k-means on the latent vectors of a sample of the items, before a loop of your own.

    用部分物品潜向量的残差 k-means 初始化码本；自行编写训练循环之前调用。

    Raises:
        EmbeddingError: another width, NaN or infinity. 维度不符或含有 NaN／无穷。
        SemanticIdError: fewer distinct items than codes in the first level, or seed below 0.
            物品少于第一层的码数，或随机种子为负。
    """
    _check_seed(seed)
    sizes = encoder.config.codebook_sizes
    latents = _latents(encoder, item_features, start_rows(sizes), torch.Generator().manual_seed(seed))
    config = RKMeansConfig(sizes=sizes, iterations=START_ITERATIONS, restarts=1, seed=seed)
    kmeans = RKMeans(config).fit(latents.cpu().numpy())
    for level in range(len(sizes)):
        encoder.rq_vae.quantizer.level(level).set_codebook(torch.from_numpy(kmeans.codebook(level)))


def compute_codebook_utilization(encoder: SemanticIDEncoder, item_features: Features) -> list[LevelUsage]:
    """How many codes of each level the items use, and how evenly. 统计物品对每层码本的使用数量与均匀程度。

    Args:
        encoder: the encoder; it is not changed. 编码器（不会被改变）。
        item_features: (N, embedding_dim), read batch by batch. 物品特征，逐批读取。

    Raises:
        EmbeddingError: another width, NaN or infinity. 维度不符或含有 NaN／无穷。
    """
    counts = CodeCounts(encoder.config.codebook_sizes)
    with torch.no_grad():
        for batch in feature_batches(encoder, item_features):
            counts.add(encoder.rq_vae.encode(batch))
    return [
        LevelUsage(level=level, size=size, used=one.used, utilisation=one.share, perplexity=one.perplexity)
        for level, (size, one) in enumerate(zip(encoder.config.codebook_sizes, counts.usage(), strict=True))
    ]


def _check_seed(seed: int) -> None:
    if not 0 <= seed < SEEDS:
        raise SemanticIdError(f"got seed {seed}; expected 0 to {SEEDS - 1}")


def _check_finite(loss: float, epoch: int, learning_rate: float) -> None:
    if not math.isfinite(loss):
        raise SemanticIdError(
            f"the total loss is {loss} in epoch {epoch}; lower learning_rate ({learning_rate:g}) or divide the features by their "
            "standard deviation, and begin with a new encoder"
        )


def _latents(encoder: SemanticIDEncoder, features: Features, limit: int, generator: torch.Generator) -> Tensor:
    """Latent vectors of at most `limit` random items, which are read batch by batch."""
    rows = torch.randperm(feature_count(encoder, features), generator=generator)[:limit].sort().values.numpy()
    with torch.no_grad():
        parts = [encoder.rq_vae.encoder(take_features(encoder, features, rows[part])) for part in blocks(len(rows), BATCH)]
    return torch.cat(parts)


def _record(epoch: int, sums: EpochSums, reseeded: list[int]) -> Epoch:
    losses, levels = sums.means(), sums.per_level()
    return Epoch(
        epoch=epoch,
        total_loss=losses["total_loss"],
        reconstruction_loss=losses["reconstruction_loss"],
        commitment_loss=losses["commitment_loss"],
        level_losses=levels["level_losses"],
        utilisation=levels["utilisation"],
        perplexity=levels["perplexity"],
        reseeded=reseeded,
    )


def _step(encoder: SemanticIDEncoder, optimizer: torch.optim.Optimizer, batch: Tensor, sums: EpochSums) -> None:
    out: AutoencoderOutput = encoder.rq_vae(batch)
    optimizer.zero_grad(set_to_none=True)
    out["total_loss"].backward()
    optimizer.step()
    losses = {
        "total_loss": out["total_loss"],
        "reconstruction_loss": out["reconstruction_loss"],
        "commitment_loss": out["commitment_loss"],
    }
    sums.add(losses, out["level_losses"], out["indices"])
