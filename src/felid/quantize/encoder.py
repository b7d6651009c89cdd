"""Semantic IDs for people who bring feature vectors only: one encoder object, without data sets, stages or recipes.

适用于只有特征向量的用户：一个编码器对象即可得到语义 ID，无需数据集、流水线或配方。

See `docs/semantic-id.md`; 中文说明见 `docs/zh/semantic-id.md`.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Self

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from felid.artifacts import read_json, write_json
from felid.errors import ArtifactError, EmbeddingError, SemanticIdError
from felid.quantize.autoencoder import RQVAENetwork
from felid.quantize.codebook import SemanticIDConfig
from felid.rows import Rows, blocks

Features = Tensor | Rows
"""(N, D) feature vectors: a tensor, a NumPy array (in memory or mapped), or a `felid.rows.RowFile`. 特征向量。"""
BATCH = 4096
"""Rows read and encoded at once. 每次读取并编码的行数。"""
CONFIG, WEIGHTS = "config.json", "model.safetensors"


class SemanticIDEncoderInterface(ABC):
    """What turns feature vectors into semantic IDs and back. 特征向量与语义 ID 互相转换的接口。"""

    @abstractmethod
    def encode(self, features: Features) -> tuple[Int[Tensor, "B"], ...]:
        """Codes of each row, one (B,) int64 tensor per level; never an update of a codebook.

        返回每一层的码，每层一个形状为 (B,) 的 int64 张量；绝不更新码本。
        """

    @abstractmethod
    def decode(self, *indices: Int[Tensor, "B"]) -> Float[Tensor, "B D"]:
        """(B, D) approximate features from the codes of all levels, or of the first few.

        由全部层（或前几层）的码近似重建特征，形状 (B, D)。
        """

    @abstractmethod
    def get_codebook_embeddings(self, level: int) -> Float[Tensor, "K D"]:
        """(K, D) vectors of a level, 0-based. 第 level 层（从 0 开始）的码本向量。"""


class SemanticIDEncoder(nn.Module, SemanticIDEncoderInterface):
    """Feature vectors to semantic IDs with an RQ-VAE. 用 RQ-VAE 把特征向量编码为语义 ID。

    A feature encoder network (an MLP) maps (B, embedding_dim) features to latent vectors of the same width, the residual
    quantiser maps these to codes, and a mirrored decoder maps the codes' vectors back. Two ways to train: `train_codebook`, or a
    loop of your own over `encoder.rq_vae(batch)["total_loss"]`.

    特征编码网络（MLP）把 (B, embedding_dim) 的特征映射为同维潜向量，残差量化器得到各层的码，镜像解码器再还原为特征。
    训练方式有两种：调用 `train_codebook`，或自行编写训练循环，对 `encoder.rq_vae(batch)["total_loss"]` 求梯度。

    Attributes:
        config: the settings. 设置。
        rq_vae: the `RQVAENetwork`; its forward returns a dict (`AutoencoderOutput`). RQ-VAE 网络，forward 返回字典。
    """

    def __init__(self, config: SemanticIDConfig | None = None, hidden: Sequence[int] | None = None) -> None:
        """Build an untrained encoder. 创建未训练的编码器。

        Args:
            config: settings; defaults if not given. 设置；默认 `SemanticIDConfig()`。
            hidden: widths between features and latent vectors; one layer of twice the features' width if not given.
                中间层宽度；默认一层，宽度为特征维度的两倍。

        Raises:
            SemanticIdError: a width below 1. 宽度小于 1。
        """
        super().__init__()
        self.config = config if config is not None else SemanticIDConfig()
        width = self.config.embedding_dim
        self.hidden = (2 * width,) if hidden is None else tuple(hidden)
        self.rq_vae = RQVAENetwork((width, *self.hidden, width), self.config, skip=True)

    @torch.no_grad()
    def encode(self, features: Features) -> tuple[Int[Tensor, "B"], ...]:
        """Codes of each row, one (B,) int64 tensor per level, in training and evaluation mode alike.

        No codebook is updated, and any number of rows is encoded in batches of `BATCH`.
        训练与评估模式下结果相同；不更新任何码本；任意多行会自动分批编码。

        Args:
            features: (B, embedding_dim), finite. 有限的特征向量。

        Raises:
            EmbeddingError: another width, or NaN or infinity. 维度不符，或含有 NaN／无穷。
        """
        parts = [self.rq_vae.encode(batch) for batch in feature_batches(self, features)]
        return tuple(torch.cat(level) for level in zip(*parts, strict=True))

    @torch.no_grad()
    def decode(self, *indices: Int[Tensor, "B"]) -> Float[Tensor, "B D"]:
        """(B, embedding_dim) features from codes: `encoder.decode(l1, l2, l3)`, or only the first levels.

        由码重建特征：`encoder.decode(l1, l2, l3)`，也可以只给前几层。

        Raises:
            SemanticIdError: no or too many levels, or a code outside its codebook. 层数不符或码越界。
        """
        device = self.rq_vae.quantizer.device
        return self.rq_vae.decode([torch.as_tensor(codes, device=device).long() for codes in indices])

    def get_codebook_embeddings(self, level: int) -> Float[Tensor, "K D"]:
        """(K, embedding_dim) copy of a level's vectors; level 0 is the first. 第 level 层码本向量的副本，从 0 开始。

        Raises:
            SemanticIdError: no such level. 没有这一层。
        """
        if not 0 <= level < self.config.num_codebooks:
            raise SemanticIdError(f"got level {level}; expected 0 to {self.config.num_codebooks - 1}")
        return self.rq_vae.quantizer.level(level).codebook.detach().clone()

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write `config.json` and `model.safetensors` into a folder, made if missing. 保存设置与权重到文件夹。"""
        path = Path(folder)
        path.mkdir(parents=True, exist_ok=True)
        part = path / f".{WEIGHTS}.part"
        save_file({name: value.contiguous() for name, value in self.state_dict().items()}, part)
        os.replace(part, path / WEIGHTS)
        write_json(path / CONFIG, {**asdict(self.config), "hidden": self.hidden})

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str]) -> Self:
        """Read what `save_pretrained` wrote, in evaluation mode. 读取 `save_pretrained` 保存的编码器（评估模式）。

        Raises:
            ArtifactError: a missing or damaged file, or weights of other sizes. 文件缺失、损坏，或尺寸不符。
        """
        path = Path(folder)
        meta = read_json(path / CONFIG, ("codebook_sizes", "hidden"))
        try:
            sizes, hidden = tuple(meta.pop("codebook_sizes")), tuple(meta.pop("hidden"))
            encoder = cls(SemanticIDConfig(codebook_sizes=sizes, **meta), hidden)
            encoder.load_state_dict(load_file(path / WEIGHTS))
        except (OSError, RuntimeError, SafetensorError, SemanticIdError, TypeError) as error:
            reason = str(error).splitlines()[0]
            raise ArtifactError(f"{path} does not hold a semantic-ID encoder ({reason}); save it again") from error
        return encoder.eval()


def feature_batches(encoder: SemanticIDEncoder, features: Features) -> Iterator[Float[Tensor, "B D"]]:
    """Checked float32 batches of all rows, in order, on the encoder's device. 按顺序给出检查过的批次。

    Raises:
        EmbeddingError: another width, or NaN or infinity. 维度不符，或含有 NaN／无穷。
    """
    count = feature_count(encoder, features)
    return (take_features(encoder, features, rows) for rows in (blocks(count, BATCH) if count else [slice(0, 0)]))


def feature_count(encoder: SemanticIDEncoder, features: Features) -> int:
    """Number of rows, after checking their width. 行数（并检查维度）。

    Raises:
        EmbeddingError: another width. 维度不符。
    """
    shape, width = tuple(features.shape), encoder.config.embedding_dim
    if len(shape) != 2 or shape[1] != width:
        raise EmbeddingError(f"got features of shape {shape}; expected (B, {width}), the embedding_dim of the config")
    return int(shape[0])


def take_features(encoder: SemanticIDEncoder, features: Features, rows: slice | NDArray[np.int64]) -> Float[Tensor, "B D"]:
    """Some rows as a checked float32 tensor on the encoder's device. 取出若干行，转为 float32 张量并检查。

    Raises:
        EmbeddingError: NaN or infinity. 含有 NaN／无穷。
    """
    if isinstance(features, Tensor):
        part = features.detach()[rows if isinstance(rows, slice) else torch.from_numpy(rows)]
    else:
        part = torch.from_numpy(np.array(features[rows], np.float32))
    part = part.to(encoder.rq_vae.quantizer.device, torch.float32)
    if not bool(torch.isfinite(part).all()):
        bad = int((~torch.isfinite(part).all(1)).sum())
        raise EmbeddingError(f"{bad} of {len(part)} feature vectors in a batch hold NaN or infinity; compute these again")
    return part
