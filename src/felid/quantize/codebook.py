"""A codebook as a torch module: vector quantisation that learns by moving averages or by gradient.

The commitment loss is that of van den Oord et al. (NeurIPS 2017, arXiv:1711.00937), the moving averages of a codebook are those
of Razavi et al. (NeurIPS 2019, arXiv:1906.00446).
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, fields
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from felid.errors import FelidWarning, SemanticIdError
from felid.quantize.nearest import balanced_codes, nearest_codes

Update = Literal["ema", "gradient"]
Estimator = Literal["straight-through", "rotation"]


@dataclass(frozen=True)
class SemanticIDConfig:
    """Settings of a residual quantiser and of what is built on it. 残差量化器的设置。

    Attributes:
        embedding_dim: width of the vectors that are quantised. 被量化向量的维度。
        num_codebooks: number of levels. 层数（码本个数）。
        codebook_sizes: codes per level, first level first. 每层的码数。
        commitment_cost: weight of the commitment loss (beta; van den Oord et al. 2017). 承诺损失的权重。
        ema_decay: share of the moving average that a step keeps, 0 <= decay < 1; update "ema" only.
            滑动平均的衰减率，仅用于 "ema"。
        epsilon: Laplace smoothing of the counts, above 0; update "ema" only. 计数的拉普拉斯平滑，仅用于 "ema"。
        update: "ema" (moving averages) or "gradient" (a loss of their own). 码本的更新方式。
        estimator: how the gradient passes the quantiser: "straight-through", or "rotation" (Fifty et al. 2024,
            arXiv:2410.06424). 梯度如何穿过量化器。
        sinkhorn_epsilon: above 0, codes of the last level are assigned evenly within a training batch: the smaller, the more
            evenly, until the iterations no longer suffice; .003 to .05 go with 50. See `balanced_codes`.
            大于 0 时，训练中最后一层按 Sinkhorn 均衡分配：越小越均匀，直到迭代次数不够为止；迭代 50 次时宜取 0.003 至 0.05。
        sinkhorn_iterations: steps of the Sinkhorn algorithm. Sinkhorn 迭代次数。

    Raises:
        SemanticIdError: a value out of range, or another number of sizes than of codebooks. 取值越界，或尺寸个数与层数不符。

    Warns:
        FelidWarning: a setting of what is not in use. 设置了不起作用的选项。
    """

    embedding_dim: int = 256
    num_codebooks: int = 3
    codebook_sizes: tuple[int, ...] = (1024, 4096, 16384)
    commitment_cost: float = 0.25
    ema_decay: float = 0.99
    epsilon: float = 1e-5
    update: Update = "ema"
    estimator: Estimator = "straight-through"
    sinkhorn_epsilon: float = 0.0
    sinkhorn_iterations: int = 50

    def __post_init__(self) -> None:
        object.__setattr__(self, "codebook_sizes", tuple(self.codebook_sizes))
        if self.num_codebooks != len(self.codebook_sizes) or not self.codebook_sizes:
            raise SemanticIdError(
                f"got num_codebooks {self.num_codebooks} and codebook_sizes {self.codebook_sizes}; expected one size per codebook"
            )
        _expect(self.embedding_dim >= 1, "embedding_dim", self.embedding_dim, "at least 1")
        _expect(min(self.codebook_sizes) >= 1, "codebook_sizes", self.codebook_sizes, "at least 1 code per level")
        _expect(0 <= self.commitment_cost < math.inf, "commitment_cost", self.commitment_cost, "a number of at least 0")
        _expect(self.estimator in ("straight-through", "rotation"), "estimator", self.estimator, "straight-through or rotation")
        _check_codebook(self.ema_decay, self.epsilon, self.update, self.sinkhorn_epsilon, self.sinkhorn_iterations)
        idle = [(name, "update=gradient") for name in ("ema_decay", "epsilon") if self.update == "gradient"]
        idle += [] if self.sinkhorn_epsilon else [("sinkhorn_iterations", "sinkhorn_epsilon=0")]
        defaults = {field.name: field.default for field in fields(self)}
        for name, reason in idle:
            if getattr(self, name) != defaults[name]:
                warnings.warn(f"{name} has no effect with {reason}; leave it out", FelidWarning, stacklevel=3)


def _check_codebook(ema_decay: float, epsilon: float, update: str, sinkhorn_epsilon: float, sinkhorn_iterations: int) -> None:
    _expect(0 <= ema_decay < 1, "ema_decay", ema_decay, "0 <= ema_decay < 1")
    _expect(0 < epsilon < math.inf, "epsilon", epsilon, "a number above 0")
    _expect(update in ("ema", "gradient"), "update", update, "ema or gradient")
    _expect(0 <= sinkhorn_epsilon < math.inf, "sinkhorn_epsilon", sinkhorn_epsilon, "a number of at least 0")
    _expect(sinkhorn_iterations >= 1, "sinkhorn_iterations", sinkhorn_iterations, "at least 1")


def _expect(is_true: bool, name: str, got: object, expected: str) -> None:
    if not is_true:
        raise SemanticIdError(f"got {name} {got!r}; expected {expected}")


class VectorQuantizer(nn.Module):
    """One codebook: each row becomes its nearest code. 单个码本：每一行换成离它最近的码。

    With `update="ema"` the codebook is a buffer that follows the rows of each training batch: of n (`cluster_size`) and m
    (`cluster_sum`) a share `ema_decay` stays and the batch's counts and sums add the rest; a code that the batch has hit becomes
    m / n, with n under Laplace smoothing. A code that it has not hit keeps its value, so that no division by a vanishing count
    throws it away; `reseed` gives it new work. With `update="gradient"` the codebook is a parameter, which the returned loss
    draws to the rows.

    `update="ema"` 时码本是缓冲区，随每个训练批次的滑动平均更新；未被用到的码保持原值，由 `reseed` 重新分配。
    `update="gradient"` 时码本是参数，由返回的损失更新。

    Attributes:
        codebook: (K, D) float32. 码本。
        cluster_size: (K,) moving average of the number of rows per code; "ema" only. 每个码所得行数的滑动平均，仅 "ema"。
        cluster_sum: (K, D) moving average of the sum of these rows; "ema" only. 这些行之和的滑动平均，仅 "ema"。
        usage: (K,) int64 rows per code in training since the last `reset_usage`. 自上次 `reset_usage` 以来训练中每个码的行数。
    """

    codebook: Tensor
    cluster_size: Tensor
    cluster_sum: Tensor
    usage: Tensor

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        ema_decay: float = 0.99,
        *,
        epsilon: float = 1e-5,
        update: Update = "ema",
        sinkhorn_epsilon: float = 0.0,
        sinkhorn_iterations: int = 50,
    ) -> None:
        """Random normal codes of about unit length. 以近似单位长度的随机正态向量初始化。

        Args:
            num_embeddings: K, the number of codes. 码数。
            embedding_dim: D, the width of the vectors. 向量维度。
            ema_decay: as in `SemanticIDConfig`, like what follows. 与 `SemanticIDConfig` 相同，以下亦然。
            epsilon: Laplace smoothing of the counts. 计数的拉普拉斯平滑。
            update: "ema" or "gradient". 码本的更新方式。
            sinkhorn_epsilon: above 0, balanced codes while training. 大于 0 时训练中均衡分配。
            sinkhorn_iterations: steps of the Sinkhorn algorithm. Sinkhorn 迭代次数。

        Raises:
            SemanticIdError: a value out of range, as in `SemanticIDConfig`. 取值越界。
        """
        super().__init__()
        _expect(num_embeddings >= 1, "num_embeddings", num_embeddings, "at least 1 code")
        _expect(embedding_dim >= 1, "embedding_dim", embedding_dim, "at least 1")
        _check_codebook(ema_decay, epsilon, update, sinkhorn_epsilon, sinkhorn_iterations)
        self.ema_decay, self.epsilon, self.update = ema_decay, epsilon, update
        self.sinkhorn_epsilon, self.sinkhorn_iterations = sinkhorn_epsilon, sinkhorn_iterations
        codebook = torch.randn(num_embeddings, embedding_dim) / embedding_dim**0.5
        if update == "gradient":
            self.codebook = nn.Parameter(codebook)
        else:
            self.register_buffer("codebook", codebook)
            self.register_buffer("cluster_size", torch.ones(num_embeddings))
            self.register_buffer("cluster_sum", codebook.clone())
        self.register_buffer("usage", torch.zeros(num_embeddings, dtype=torch.int64))

    def forward(self, x: Float[Tensor, "B D"]) -> tuple[Float[Tensor, "B D"], Int[Tensor, "B"], Float[Tensor, ""]]:
        """Quantise; in training mode the codebook with moving averages then follows the batch. 量化；训练模式下随后更新码本。

        Returns:
            The codes' vectors (the gradient passes to `x` as if there were no quantiser), the codes (int64), and the mean
            squared difference between `x` and the codes' vectors, unweighted, whose gradient goes to `x`. With
            `update="gradient"` the same value is added once more with its gradient to the codebook, which learns by it.
            量化后的向量（直通梯度）、码（int64）、未加权的承诺损失；"gradient" 时另加数值相同、梯度流向码本的一项。

        Raises:
            SemanticIdError: rows of another width. 维度不符。
        """
        vectors, codes = self.assign(x)
        constant = vectors.detach().to(x.dtype)
        loss = F.mse_loss(x, constant)
        if self.update == "gradient":
            loss = loss + F.mse_loss(vectors, x.detach().to(vectors.dtype))
        return x + (constant - x).detach(), codes, loss

    def assign(self, x: Float[Tensor, "B D"]) -> tuple[Float[Tensor, "B D"], Int[Tensor, "B"]]:
        """Codes of each row, and their vectors as they were before any update; these have a gradient in "gradient" mode only.

        In training mode this counts the codes' usage, balances them if asked, and updates moving averages; codes closer to each
        other than float32 rounding may then stand for one another.

        每一行的码及其（更新之前的）向量；仅 "gradient" 时向量带梯度。训练模式下会统计使用次数、按需均衡分配，并更新滑动平均。

        Raises:
            SemanticIdError: rows of another width. 维度不符。
        """
        rows = x.detach()
        codes = self._balanced(rows) if self.training and self.sinkhorn_epsilon else self._nearest(rows, exact=not self.training)
        vectors = F.embedding(codes, self.codebook)
        if self.training:
            counts = torch.bincount(codes, minlength=len(self.codebook))
            self.usage += counts
            if self.update == "ema":
                self._follow(rows.float(), codes, counts)
        return vectors, codes

    def nearest(self, x: Float[Tensor, "B D"]) -> Int[Tensor, "B"]:
        """Nearest code of each row, of equal codes the lowest; never an update. 最近的码；从不更新码本。

        Raises:
            SemanticIdError: rows of another width. 维度不符。
        """
        return self._nearest(x, exact=True)

    def vectors(self, codes: Int[Tensor, "B"]) -> Float[Tensor, "B D"]:
        """(B, D) vectors of codes. 码对应的向量。

        Raises:
            SemanticIdError: a code outside the codebook. 码越界。
        """
        size = len(self.codebook)
        if len(codes) and not 0 <= int(codes.min()) <= int(codes.max()) < size:
            raise SemanticIdError(f"got codes from {int(codes.min())} to {int(codes.max())}; this level has 0 to {size - 1}")
        return F.embedding(codes, self.codebook)

    def _nearest(self, x: Tensor, *, exact: bool) -> Tensor:
        return nearest_codes(self._checked(x), self.codebook.detach(), exact=exact)

    def _balanced(self, x: Tensor) -> Tensor:
        return balanced_codes(self._checked(x), self.codebook.detach(), self.sinkhorn_epsilon, self.sinkhorn_iterations)

    def _checked(self, x: Tensor) -> Tensor:
        if x.ndim != 2 or x.shape[1] != self.codebook.shape[1]:
            raise SemanticIdError(
                f"got vectors of shape {tuple(x.shape)}; expected (B, {self.codebook.shape[1]}) as the codebook has"
            )
        return x.detach().float()

    @torch.no_grad()
    def _follow(self, x: Tensor, codes: Tensor, counts: Tensor) -> None:
        """Move the codes of a batch towards its rows."""
        sums = torch.zeros_like(self.cluster_sum).index_add_(0, codes, x)
        self.cluster_size.lerp_(counts.to(self.cluster_size.dtype), 1 - self.ema_decay)
        self.cluster_sum.lerp_(sums, 1 - self.ema_decay)
        total = self.cluster_size.sum()
        smooth = (self.cluster_size + self.epsilon) * (total / (total + len(counts) * self.epsilon))
        hit = counts.nonzero()[:, 0]
        self.codebook.index_copy_(0, hit, self.cluster_sum[hit] / smooth[hit, None])

    @torch.no_grad()
    def set_codebook(self, codebook: Float[Tensor, "K D"]) -> None:
        """Start from given codes; each weighs as one row against the next batches. 以给定的码本为起点，每个码的权重为一行。

        Args:
            codebook: (K, D), finite. 有限的码本。

        Raises:
            SemanticIdError: another shape, or NaN or infinity. 形状不符，或含有 NaN／无穷。
        """
        if codebook.shape != self.codebook.shape or not bool(torch.isfinite(codebook).all()):
            raise SemanticIdError(
                f"got a codebook of shape {tuple(codebook.shape)}; expected finite numbers of shape {tuple(self.codebook.shape)}"
            )
        self._replace(torch.arange(len(codebook), device=self.codebook.device), codebook.to(self.codebook))

    @torch.no_grad()
    def reseed(self, candidates: Float[Tensor, "M D"], generator: torch.Generator | None = None) -> int:
        """Replace codes without use since the last `reset_usage` by random candidates, each taken once. 重置未使用的码。

        Args:
            candidates: (M, D) rows such as this level quantises; with fewer than unused codes, the lowest of these are replaced.
                候选行；少于未使用的码时，只替换编号最小的那些。
            generator: CPU generator of the choice; torch's global one if not given. CPU 随机数生成器，缺省为 torch 全局的。

        Returns:
            How many codes were replaced. 替换的码数。
        """
        unused = (self.usage == 0).nonzero()[:, 0][: len(candidates)]
        chosen = torch.randperm(len(candidates), generator=generator)[: len(unused)].to(candidates.device)
        self._replace(unused, candidates[chosen].to(self.codebook))
        return len(unused)

    def reset_usage(self) -> None:
        """Count the usage from 0 again. 重新统计使用次数。"""
        self.usage.zero_()

    def _replace(self, codes: Tensor, vectors: Tensor) -> None:
        self.codebook.index_copy_(0, codes, vectors)
        if self.update == "ema":
            self.cluster_size.index_fill_(0, codes, 1)
            self.cluster_sum.index_copy_(0, codes, vectors)
