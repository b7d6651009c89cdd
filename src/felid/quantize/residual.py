"""Residual vector quantisation: codebooks in a row (Lee et al., CVPR 2022, arXiv:2203.01941)."""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from felid.errors import SemanticIdError
from felid.quantize.codebook import SemanticIDConfig, VectorQuantizer


class RVQOutput(NamedTuple):
    """What a residual quantiser says about a batch. 残差量化器对一个批次的输出。

    Attributes:
        quantized: (B, D) sum of the codes' vectors, with a gradient to the input. 各层码向量之和，对输入有梯度。
        indices: L times (B,) int64 codes. 每层的码。
        commitment_loss: sum over the levels of the mean squared residual; its gradient goes to the input only.
            承诺损失：各层残差均方之和，梯度只流向输入。
        codebook_loss: the same value with its gradient to the codebooks in "gradient" mode, else 0.
            码本损失：数值相同，"gradient" 时梯度流向码本；否则为 0。
        level_losses: (L,) mean squared residual that each level leaves, without a gradient. 每层之后的残差均方，无梯度。
    """

    quantized: Tensor
    indices: list[Tensor]
    commitment_loss: Tensor
    codebook_loss: Tensor
    level_losses: Tensor


class ResidualVectorQuantizer(nn.Module):
    """Codebooks in a row: each quantises what the ones before it left over. 残差向量量化：每层量化前面各层的残差。

    Attributes:
        config: the settings. 设置。
        levels: one `VectorQuantizer` per level. 每层一个 `VectorQuantizer`。
    """

    def __init__(self, config: SemanticIDConfig) -> None:
        """Random codebooks of the config's sizes. 按设置建立随机码本。"""
        super().__init__()
        self.config = config
        last = config.num_codebooks - 1
        self.levels = nn.ModuleList(
            VectorQuantizer(
                size,
                config.embedding_dim,
                config.ema_decay,
                epsilon=config.epsilon,
                update=config.update,
                sinkhorn_epsilon=config.sinkhorn_epsilon if level == last else 0.0,
                sinkhorn_iterations=config.sinkhorn_iterations,
            )
            for level, size in enumerate(config.codebook_sizes)
        )

    def forward(self, x: Float[Tensor, "B D"]) -> RVQOutput:
        """Quantise with a gradient to `x`; in training mode the levels learn. 带梯度的量化；训练模式下各层随之学习。

        Raises:
            SemanticIdError: rows of another width. 维度不符。
        """
        total = torch.zeros_like(x, dtype=torch.float32)
        codes, losses, codebook_losses = [], [], []
        for level in self._levels():
            residual = x.detach() - total
            vectors, code = level.assign(residual)
            total = total + vectors.detach()
            codes.append(code)
            losses.append(F.mse_loss(x, total))
            if self.config.update == "gradient":
                codebook_losses.append(F.mse_loss(vectors, residual))
        codebook_loss = torch.stack(codebook_losses).sum() if codebook_losses else total.new_zeros(())
        each = torch.stack(losses)
        return RVQOutput(self._pass_gradient(x, total), codes, each.sum(), codebook_loss, each.detach())

    def encode(self, x: Float[Tensor, "B D"]) -> tuple[Int[Tensor, "B"], ...]:
        """Codes per level, each (B,) int64, in whatever mode; never an update. 逐层编码，从不更新码本。

        Raises:
            SemanticIdError: rows of another width. 维度不符。
        """
        residual, codes = x.detach().float(), []
        for level in self._levels():
            codes.append(level.nearest(residual))
            residual = residual - F.embedding(codes[-1], level.codebook.detach())
        return tuple(codes)

    def decode(self, *indices: Int[Tensor, "B"]) -> Float[Tensor, "B D"]:
        """Sum of the codes' vectors over the given levels, which may be the first few. 由（前几层的）码重建向量。

        Raises:
            SemanticIdError: no or too many levels, levels of different lengths, or a code outside its codebook.
                层数不符、各层长度不同，或码越界。
        """
        levels = self._levels()
        if not 0 < len(indices) <= len(levels):
            raise SemanticIdError(f"got codes of {len(indices)} levels; expected 1 to {len(levels)}")
        lengths = [len(codes) for codes in indices]
        if len(set(lengths)) > 1:
            raise SemanticIdError(f"got levels of {lengths} codes; expected one code per level for each row")
        return sum((level.vectors(codes) for level, codes in zip(levels, indices, strict=False)), start=torch.zeros(()))

    @property
    def device(self) -> torch.device:
        """Where the codebooks lie. 码本所在的设备。"""
        return self.level(0).codebook.device

    def level(self, level: int) -> VectorQuantizer:
        """The codebook of a level, 0-based. 第 level 层的码本，从 0 开始。"""
        return cast(VectorQuantizer, self.levels[level])

    @torch.no_grad()
    def reseed(self, candidates: Float[Tensor, "M D"], generator: torch.Generator | None = None) -> list[int]:
        """Replace the codes of every level that training has not used since the last time by what random rows leave over there.

        重置各层自上次以来训练中未使用的码。

        Args:
            candidates: (M, D) rows such as those that are quantised, at least as many as codes are to be replaced.
                与被量化的向量同类的行，不少于要替换的码数。
            generator: CPU generator of the choice; torch's global one if not given. CPU 随机数生成器，缺省为 torch 全局的。

        Returns:
            How many codes were replaced, per level. 每层替换的码数。
        """
        residual, replaced = candidates.float(), []
        for level in self._levels():
            replaced.append(level.reseed(residual, generator))
            residual = residual - F.embedding(level.nearest(residual), level.codebook)
        self.reset_usage()
        return replaced

    def reset_usage(self) -> None:
        """Count the usage of all levels from 0 again. 重新统计各层的使用次数。"""
        for level in self._levels():
            level.reset_usage()

    def _levels(self) -> list[VectorQuantizer]:
        return cast(list[VectorQuantizer], list(self.levels))

    def _pass_gradient(self, x: Tensor, quantized: Tensor) -> Tensor:
        target = quantized.to(x.dtype)
        passed = rotated(x, target) if self.config.estimator == "rotation" else x
        return passed + (target - passed).detach()


def rotated(x: Float[Tensor, "B D"], target: Float[Tensor, "B D"]) -> Float[Tensor, "B D"]:
    """Each row of `x` turned and stretched to its target; the turn is a constant to the gradient.

    Fifty et al. 2024, arXiv:2410.06424. Where a row or its target has no length, the row itself.
    """
    with torch.no_grad():
        tiny = 1e-6
        length, target_length = x.norm(dim=1, keepdim=True), target.norm(dim=1, keepdim=True)
        stretch = target_length / length.clamp(min=tiny)
        a, b = x / length.clamp(min=tiny), target / target_length.clamp(min=tiny)
        half_way = F.normalize(a + b, dim=1, eps=tiny)
        turns = (length > tiny) & (target_length > tiny)
    turned = x - 2 * (x * half_way).sum(1, keepdim=True) * half_way + 2 * (x * a).sum(1, keepdim=True) * b
    return torch.where(turns, stretch * turned, x)
