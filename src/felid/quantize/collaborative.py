"""What behaviour adds to an RQ-VAE: codes that follow collaborative vectors, and codebooks whose codes stay in use.

Both losses are those of LETTER (Wang et al., CIKM 2024, arXiv:2405.07314, section 3.2).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from felid.errors import EmbeddingError
from felid.quantize.rkmeans import RKMeans, RKMeansConfig
from felid.rows import Vectors


def check_collaborative(vectors: Vectors, num_rows: int) -> Vectors:
    """Return collaborative vectors as float32 if there is one for each row, either finite or all NaN (= none).

    Raises:
        EmbeddingError: another number of rows, infinity, a row that is NaN in part, or no row without NaN.
    """
    if vectors.ndim != 2 or len(vectors) != num_rows or not vectors.shape[1]:
        raise EmbeddingError(
            f"got collaborative vectors of shape {vectors.shape}; expected ({num_rows}, D), a row per item to fit"
        )
    missing = np.isnan(vectors).all(1, keepdims=True)
    bad = int((~np.isfinite(vectors) & ~missing).any(1).sum())
    if bad:
        raise EmbeddingError(f"{bad} collaborative vectors hold NaN or infinity; use finite rows, all NaN where there is none")
    if missing.all():
        raise EmbeddingError("no item to fit has a collaborative vector; check their item_id, or set alignment_weight to 0")
    return np.asarray(vectors, np.float32)


def alignment_loss(projected: Float[Tensor, "B D"], collaborative: Float[Tensor, "B D"], temperature: float) -> Float[Tensor, ""]:
    """InfoNCE: each item's projected quantised vector is to find its own collaborative vector among those of the batch.

    Args:
        projected: one row per item.
        collaborative: the items' vectors from behaviour; a row with NaN says that the item has none. Such an item takes no
            part, neither as a query nor as a negative of others.
        temperature: divides the cosine similarities.

    Returns:
        Mean cross-entropy in nats over the items with a vector; 0 where there is none.
    """
    known = ~collaborative.isnan().any(1)
    logits = F.normalize(projected[known]) @ F.normalize(collaborative[known]).T / temperature
    total: Tensor = F.cross_entropy(logits, torch.arange(len(logits), device=logits.device), reduction="sum")
    return total / max(len(logits), 1)


def cluster_codes(codebook: Float[Tensor, "K D"], num_clusters: int, seed: int) -> Int[Tensor, " K"]:
    """Group the codes of a level by k-means (of as many groups as there are distinct codes, at most `num_clusters`)."""
    vectors = codebook.detach().cpu().numpy()
    size = min(num_clusters, len(np.unique(vectors, axis=0)))
    groups = RKMeans(RKMeansConfig(sizes=(size,), restarts=1, seed=seed)).fit(vectors).encode(vectors)
    return torch.from_numpy(groups[:, 0].astype(np.int64)).to(codebook.device)


def diversity_loss(
    codebook: Float[Tensor, "K D"], clusters: Int[Tensor, " K"], codes: Int[Tensor, " B"], temperature: float
) -> Float[Tensor, ""]:
    """Draws the codes in use towards the others of their cluster and away from all other codes.

    LETTER draws one code of the cluster at random as the positive; this is the mean over all of them. Similarities are
    cosines, so that the loss cannot be lowered by longer vectors.

    Args:
        codebook: vectors of a level.
        clusters: cluster of each code.
        codes: the level's code of each item of the batch.
        temperature: divides the cosine similarities.

    Returns:
        Mean cross-entropy in nats over the items; an item whose code is alone in its cluster counts 0.
    """
    used, counts = codes.unique(return_counts=True)
    directions = F.normalize(codebook)
    logits = directions[used] @ directions.T / temperature
    own = used[:, None] == torch.arange(len(codebook), device=codes.device)
    mates = (clusters[used][:, None] == clusters) & ~own
    log_share = logits - logits.masked_fill(own, -torch.inf).logsumexp(1, keepdim=True)
    losses = -log_share.masked_fill(~mates, 0).sum(1) / mates.sum(1).clamp(min=1)
    mean: Tensor = (losses * counts).sum() / len(codes)
    return mean


def mean_diversity_loss(
    codebooks: Sequence[Tensor], clusters: Sequence[Tensor], codes: Sequence[Tensor], temperature: float
) -> Float[Tensor, ""]:
    """Mean of `diversity_loss` over the levels; a level of one code counts 0."""
    levels = zip(codebooks, clusters, codes, strict=True)
    losses = [diversity_loss(*level, temperature) for level in levels if len(level[0]) > 1]
    return torch.stack(losses).sum() / len(codebooks) if losses else codebooks[0].sum() * 0
