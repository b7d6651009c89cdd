"""Semantic IDs from feature vectors alone: train, look at the use of the codes, encode, decode, save.

    python examples/semantic_id_encoder.py                         # 20,000 random items, small codebooks, under a minute
    python examples/semantic_id_encoder.py --features items.npy --codebook-sizes 1024 4096 16384

仅凭特征向量得到语义 ID：训练、查看码本使用率、编码、解码、保存。
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from felid.quantize import SemanticIDConfig, SemanticIDEncoder, compute_codebook_utilization, train_codebook
from felid.rows import RowFile, Rows


def main() -> None:
    """Train an encoder and print what it does."""
    parser = argparse.ArgumentParser(description="semantic IDs from feature vectors")
    parser.add_argument("--features", type=Path, help="(N, D) matrix, .npy; it is read from disk batch by batch")
    parser.add_argument("--codebook-sizes", type=int, nargs="+", default=[64, 128, 256])
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--out", type=Path, help="folder for the trained encoder")
    options = parser.parse_args()
    features: Rows = RowFile(options.features) if options.features else random_items(20_000, 64)

    torch.manual_seed(0)
    encoder = SemanticIDEncoder(
        SemanticIDConfig(
            embedding_dim=features.shape[1],
            num_codebooks=len(options.codebook_sizes),
            codebook_sizes=tuple(options.codebook_sizes),
        )
    )
    for record in train_codebook(encoder, features, options.epochs):
        print(
            f"epoch {record['epoch']}: loss {record['total_loss']:.4f}, utilisation {[f'{u:.0%}' for u in record['utilisation']]}"
        )

    for level in compute_codebook_utilization(encoder, features):
        print(f"level {level['level']}: {level['used']} of {level['size']} codes, perplexity {level['perplexity']:.0f}")

    codes = encoder.encode(features)
    print("first item:", tuple(int(level[0]) for level in codes))
    print("distinct IDs:", len(torch.unique(torch.stack(codes, 1), dim=0)), "of", features.shape[0], "items")
    for levels in range(1, len(codes) + 1):
        decoded = encoder.decode(*(level[:1000] for level in codes[:levels])).numpy()
        first = features[slice(0, 1000)]
        print(f"squared error of {levels} levels: {np.mean((decoded - first) ** 2) / first.var():.3f} of the variance")

    if options.out:
        encoder.save_pretrained(options.out)
        again = SemanticIDEncoder.from_pretrained(options.out)
        print(
            f"saved in {options.out}; loaded, the first item is",
            tuple(int(level[0]) for level in again.encode(features[slice(0, 1)])),
        )


def random_items(count: int, width: int) -> np.ndarray:
    """Items of 50 kinds, each with 20 variants."""
    rng = np.random.default_rng(0)
    kinds, variants = rng.normal(size=(50, width)), 0.5 * rng.normal(size=(50, 20, width))
    kind, variant = rng.integers(50, size=count), rng.integers(20, size=count)
    return (kinds[kind] + variants[kind, variant] + 0.2 * rng.normal(size=(count, width))).astype(np.float32)


if __name__ == "__main__":
    main()
