"""Scores of given items by teacher forcing: what beam search approximates, and what `Recommender.score` returns."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from felid.models.base import Histories
from felid.models.generative import GenerativeModel
from felid.models.torch_trie import TorchTrie
from felid.search.beam import expand


@torch.inference_mode()
def score_items(model: GenerativeModel, histories: Histories, items: Int[Tensor, "B M"], trie: TorchTrie) -> Float[Tensor, "B M"]:
    """Natural log-probability of M items for each of B users, float32; all items must be in the trie.

    With `normalize: trie` the exponentials of all items of the trie sum to 1.
    """
    inputs, state = model.start(histories)
    inputs = inputs[:, None]
    parents = torch.zeros_like(items)
    scores = torch.zeros(items.shape, device=items.device)
    for level in range(len(trie.sizes)):
        hidden, state = model.decoder.decode_step(inputs, state)
        if level == 0:
            hidden, state = hidden.expand(-1, items.shape[1], -1), state.choose(parents)
        nodes, following = trie.paths[items, level], trie.paths[items, level + 1]
        gains = expand(model, hidden, nodes, trie, level)[2]
        scores = scores + gains.gather(2, (following - trie.child_start[nodes])[..., None])[..., 0]
        inputs = model.code_vectors(trie.code[following], level)
    return scores
