"""The network of an RQ-VAE: an encoder, a residual quantiser, and a decoder (TIGER: Rajput et al., NeurIPS 2023, section 3.1)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TypedDict

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from felid.errors import SemanticIdError
from felid.quantize.codebook import SemanticIDConfig
from felid.quantize.residual import ResidualVectorQuantizer

BLOCK = 256
"""Rows per matrix product outside training. 训练之外每次矩阵乘法的行数。"""


class AutoencoderOutput(TypedDict):
    """What the network says about a batch; losses are scalars. 网络对一个批次的输出；各损失均为标量。

    Attributes:
        quantized: (B, latent) sum of the codes' vectors, with a gradient to the encoder. 量化后的潜向量。
        indices: L times (B,) int64 codes. 每层的码。
        reconstruction: (B, D) decoded vectors. 重建的向量。
        reconstruction_loss: squared error, mean over all numbers. 重建误差（均方）。
        commitment_loss: sum over levels of the mean squared residual, unweighted. 承诺损失（未加权）。
        codebook_loss: the same towards the codebooks, with update "gradient"; else 0. 码本损失。
        level_losses: (L,) mean squared residual after each level, without a gradient. 每层之后的残差均方。
        total_loss: reconstruction_loss + commitment_cost * commitment_loss + codebook_loss. 总损失。
    """

    quantized: Tensor
    indices: list[Tensor]
    reconstruction: Tensor
    reconstruction_loss: Tensor
    commitment_loss: Tensor
    codebook_loss: Tensor
    level_losses: Tensor
    total_loss: Tensor


class RQVAENetwork(nn.Module):
    """MLP encoder of any widths, residual quantiser, and the mirrored decoder; ReLU between layers, none after the last.

    任意层宽的 MLP 编码网络、残差量化器与镜像的解码网络；层间用 ReLU，最后一层之后没有。

    Attributes:
        config: of the quantiser. 量化器的设置。
        encoder: (B, widths[0]) -> (B, widths[-1]). 编码网络。
        quantizer: the `ResidualVectorQuantizer`. 残差量化器。
        decoder: (B, widths[-1]) -> (B, widths[0]). 解码网络。
    """

    def __init__(self, widths: Sequence[int], config: SemanticIDConfig, *, skip: bool = False) -> None:
        """Build from the widths of the layers, first the input's, last `config.embedding_dim`. 按各层宽度建立网络。

        Args:
            widths: of the encoder's layers; the decoder has them in reverse. 编码网络的层宽；解码网络相反。
            config: of the quantiser. 量化器的设置。
            skip: encoder and decoder add to their input and add nothing at first, so that training begins with plain residual
                quantisation of the input; first and last width must agree.
                编码、解码网络为“输入加修正量”，修正量初始为零；首尾宽度必须相同。

        Raises:
            SemanticIdError: no width, one below 1, or another last width (with `skip` also another first). 层宽不符。
        """
        super().__init__()
        if not widths or min(widths) < 1 or widths[-1] != config.embedding_dim:
            raise SemanticIdError(
                f"got layer widths {tuple(widths)}; expected positive ones that end with embedding_dim {config.embedding_dim}"
            )
        if skip and (len(widths) < 2 or widths[0] != widths[-1]):
            raise SemanticIdError(f"got layer widths {tuple(widths)}; expected the first again as the last, or skip=False")
        self.config = config
        self.encoder: nn.Module = Skip(mlp(widths)) if skip else mlp(widths)
        self.quantizer = ResidualVectorQuantizer(config)
        self.decoder: nn.Module = Skip(mlp(widths[::-1])) if skip else mlp(widths[::-1])

    def forward(self, x: Float[Tensor, "B D"]) -> AutoencoderOutput:
        """Encode, quantise and decode; in training mode codebooks with moving averages are updated. 编码、量化、解码。"""
        out = self.quantizer(self.encoder(x))
        reconstruction = self.decoder(out.quantized)
        reconstruction_loss = F.mse_loss(reconstruction, x)
        return AutoencoderOutput(
            quantized=out.quantized,
            indices=out.indices,
            reconstruction=reconstruction,
            reconstruction_loss=reconstruction_loss,
            commitment_loss=out.commitment_loss,
            codebook_loss=out.codebook_loss,
            level_losses=out.level_losses,
            total_loss=reconstruction_loss + self.config.commitment_cost * out.commitment_loss + out.codebook_loss,
        )

    @torch.no_grad()
    def encode(self, x: Float[Tensor, "B D"]) -> tuple[Int[Tensor, "B"], ...]:
        """Codes per level, each (B,) int64; the same in training and evaluation mode, never an update. 编码，从不更新码本。

        A row's codes do not depend on the rows beside it. 每一行的码与同批的其他行无关。
        """
        return self.quantizer.encode(in_blocks(self.encoder, x))

    def decode(self, indices: Sequence[Int[Tensor, "B"]]) -> Float[Tensor, "B D"]:
        """Vectors like the input from codes of all levels, or of the first few. 由各层（或前几层）的码重建输入。"""
        decoded: Tensor = self.decoder(self.quantizer.decode(*indices))
        return decoded


@torch.no_grad()
def in_blocks(function: Callable[[Tensor], Tensor], x: Float[Tensor, "B D"]) -> Tensor:
    """`function` of all rows, `BLOCK` at a time, the last ones filled up with rows of 0; without a gradient.

    Rounding in a matrix product depends on its number of rows. With always as many, a row's result does not depend on how many
    others there are. 每次行数固定，不足时补零，因此每一行的结果与其他行无关。
    """
    results = []
    for block in x.split(BLOCK):
        padded = x.new_zeros((BLOCK, x.shape[1]))
        padded[: len(block)] = block
        results.append(function(padded)[: len(block)])
    return torch.cat(results)


class Skip(nn.Module):
    """Layers that add to their input; the last linear one starts at zero, and with it the whole addition."""

    def __init__(self, layers: nn.Sequential) -> None:
        super().__init__()
        self.layers = layers
        for parameter in layers[-1].parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Float[Tensor, "B D"]) -> Float[Tensor, "B D"]:
        added: Tensor = self.layers(x)
        return x + added


def mlp(widths: Sequence[int]) -> nn.Sequential:
    """Linear layers through the widths with ReLU between them; of one width, the identity."""
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])
