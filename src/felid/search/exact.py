"""Scores of given items by teacher forcing: what beam search approximates, and what `Recommender.score` returns."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from felid.models.base import Histories
from felid.models.generative import GenerativeModel
from felid.models.torch_trie import TorchTrie
from felid.search.beam import expand
from felid.trie import ROOT


@torch.inference_mode()
def score_items(model: GenerativeModel, histories: Histories, items: Int[Tensor, "B M"], trie: TorchTrie) -> Float[Tensor, "B M"]:
    """Natural log-probability of M items for each of B users, float32; all items must be in the trie.

    With `normalize: trie` the exponentials of all items of the trie sum to 1.
    """
    inputs, state = model.start(histories)
    inputs, nodes = inputs[:, None], torch.full((len(items), 1), ROOT, device=items.device)  # the first code has no beams yet
    scores = torch.zeros(items.shape, device=items.device)
    for level in range(len(trie.sizes)):
        hidden, state = model.decoder.decode_step(inputs, state)
        gains = expand(model, hidden, nodes, trie, level)[2].expand(-1, items.shape[1], -1)
        following = trie.paths[items, level + 1]
        scores = scores + gains.gather(2, (following - trie.child_start[nodes])[..., None])[..., 0]
        if level == 0:
            state = state.choose(torch.zeros_like(items))
        inputs, nodes = model.code_vectors(trie.code[following], level), following
    return scores
