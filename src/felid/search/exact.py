"""Scores of given items by teacher forcing: what beam search approximates, and what `Recommender.score` returns."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from felid.models.base import Histories
from felid.models.generative import GenerativeModel
from felid.models.torch_trie import NodeVectors, TorchTrie
from felid.search.steps import Steps


@torch.inference_mode()
def score_items(
    model: GenerativeModel,
    histories: Histories,
    items: Int[Tensor, "B M"],
    trie: TorchTrie,
    vectors: NodeVectors | None = None,
) -> Float[Tensor, "B M"]:
    """Natural log-probability of M items for each of B users, float32; all items must be in the trie.

    With `normalize: trie` the exponentials of all items of the trie sum to 1. `vectors` are what the model's `node_vectors` gives
    for the trie, where they are at hand.
    """
    if not items.shape[1]:
        return torch.zeros(items.shape, device=items.device)
    steps = Steps(model, histories, trie, vectors)
    paths, scores = trie.paths[items], torch.zeros(items.shape, device=items.device)
    parents = torch.zeros_like(items)
    for level in range(len(trie.sizes)):
        scores = scores + steps.gains(paths[:, :, level], parents).along(paths, level)
        parents = torch.arange(items.shape[1], device=items.device).expand(items.shape)
    return scores
