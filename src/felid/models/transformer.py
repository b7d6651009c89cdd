"""The Transformer blocks of T5 (Raffel et al. 2020, arXiv:1910.10683) on `scaled_dot_product_attention`.

Pre-normalised with RMS norm, no biases, relative position buckets shared by all layers of a stack, ReLU feed-forward.
With copied weights the outputs equal those of Hugging Face's T5 (a test holds this). Three things differ in form only:
queries, keys and values come from one matrix, padding takes part in nothing but the attention itself, and `decode_step`
lets all beams of a user read one copy of the memory.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from felid.models.dropout import Dropout
from felid.models.dropout import dropout as drop
from felid.models.packing import Packing


class BlockShape(NamedTuple):
    """Sizes of a block: model width, heads, width of a head, feed-forward width, dropout rate."""

    width: int
    heads: int
    head_width: int
    feed_forward: int
    dropout: float


class RelativePositionBias(nn.Module):
    """Learnt bias per head and bucketed distance: exact for near positions, logarithmic up to `max_distance`."""

    def __init__(self, heads: int, *, bidirectional: bool, buckets: int = 32, max_distance: int = 128) -> None:
        super().__init__()
        self.bidirectional, self.buckets, self.max_distance = bidirectional, buckets, max_distance
        self.weight = nn.Parameter(torch.empty(buckets, heads))

    def bucket(self, distance: Int[Tensor, "Q S"]) -> Int[Tensor, "Q S"]:
        """Bucket of key position - query position."""
        buckets, offset = self.buckets, torch.zeros_like(distance)
        if self.bidirectional:
            buckets //= 2
            offset = (distance > 0).long() * buckets
            distance = distance.abs()
        else:
            distance = (-distance).clamp(min=0)
        exact = buckets // 2
        ratio = torch.log(distance.clamp(min=1).float() / exact) / math.log(self.max_distance / exact)
        far = (exact + (ratio * (buckets - exact)).long()).clamp(max=buckets - 1)
        return offset + torch.where(distance < exact, distance, far)

    def forward(self, queries: int, keys: int, first_query: int = 0) -> Float[Tensor, "H Q S"]:
        """Bias of `queries` positions from `first_query` on against `keys` positions from 0 on."""
        device = self.weight.device
        key, query = torch.arange(keys, device=device), torch.arange(first_query, first_query + queries, device=device)
        return F.embedding(self.bucket(key[None, :] - query[:, None]), self.weight).permute(2, 0, 1)


class SelfAttention(nn.Module):
    """Multi-head self-attention, unscaled as in T5 (the initialisation carries the scale)."""

    def __init__(self, shape: BlockShape) -> None:
        super().__init__()
        self.heads, self.dropout = shape.heads, shape.dropout
        inner = shape.heads * shape.head_width
        self.qkv = nn.Linear(shape.width, 3 * inner, bias=False)
        self.out = nn.Linear(inner, shape.width, bias=False)

    def project(self, x: Float[Tensor, "*B S D"]) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, each (*B, H, S, head_width)."""
        return self._split(self.qkv(x))

    def _split(self, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = (part.transpose(-3, -2) for part in qkv.unflatten(-1, (3, self.heads, -1)).unbind(-3))
        return q, k, v

    def forward(self, x: Tensor, bias: Float[Tensor, "#B H S S"], packing: Packing | None = None) -> Tensor:
        """Mix (B, S, D), or with `packing` its (R, D) real positions."""
        qkv = self.qkv(x) if packing is None else packing.unpack(self.qkv(x))
        mixed = _attend(*self._split(qkv), bias, self.dropout if self.training else 0.0)
        y: Tensor = self.out(mixed if packing is None else packing.pack(mixed))
        return y


class CrossAttention(nn.Module):
    """Attention of decoder positions to the encoder's output."""

    def __init__(self, shape: BlockShape) -> None:
        super().__init__()
        self.heads, self.dropout = shape.heads, shape.dropout
        inner = shape.heads * shape.head_width
        self.q = nn.Linear(shape.width, inner, bias=False)
        self.kv = nn.Linear(shape.width, 2 * inner, bias=False)
        self.out = nn.Linear(inner, shape.width, bias=False)

    def remember(self, memory: Float[Tensor, "B S D"]) -> tuple[Tensor, Tensor]:
        """Keys and values of the memory, each (B, H, S, head_width)."""
        k, v = (part.transpose(-3, -2) for part in self.kv(memory).unflatten(-1, (2, self.heads, -1)).unbind(-3))
        return k, v

    def forward(self, x: Float[Tensor, "B Q D"], keys: Tensor, values: Tensor, bias: Tensor | None) -> Float[Tensor, "B Q D"]:
        query = self.q(x).unflatten(-1, (self.heads, -1)).transpose(-3, -2)
        mixed: Tensor = self.out(_attend(query, keys, values, bias, self.dropout if self.training else 0.0))
        return mixed


def _attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, dropout: float) -> Tensor:
    bias = None if bias is None else bias.to(q.dtype)
    if dropout and q.device.type == "cpu":  # fused attention on a CPU knows no dropout; torch's fallback is slower than this
        logits = q @ k.transpose(-2, -1) if bias is None else q @ k.transpose(-2, -1) + bias
        return (drop(logits.softmax(-1), dropout) @ v).transpose(-3, -2).flatten(-2)
    return F.scaled_dot_product_attention(q, k, v, bias, dropout, scale=1.0).transpose(-3, -2).flatten(-2)


class FeedForward(nn.Module):
    """Linear, ReLU, dropout, linear."""

    def __init__(self, shape: BlockShape) -> None:
        super().__init__()
        self.wi = nn.Linear(shape.width, shape.feed_forward, bias=False)
        self.wo = nn.Linear(shape.feed_forward, shape.width, bias=False)
        self.dropout = Dropout(shape.dropout)

    def forward(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        y: Tensor = self.wo(self.dropout(F.relu(self.wi(x))))
        return y


class Block(nn.Module):
    """Self-attention, cross-attention if asked for, feed-forward; each behind an RMS norm and added to its input."""

    def __init__(self, shape: BlockShape, *, cross: bool) -> None:
        super().__init__()
        self.self_norm, self.attention = nn.RMSNorm(shape.width, eps=1e-6), SelfAttention(shape)
        self.cross_norm = nn.RMSNorm(shape.width, eps=1e-6) if cross else None
        self.cross = CrossAttention(shape) if cross else None
        self.ff_norm, self.ff = nn.RMSNorm(shape.width, eps=1e-6), FeedForward(shape)
        self.dropout = Dropout(shape.dropout)

    def forward(
        self,
        x: Tensor,
        bias: Tensor,
        packing: Packing | None = None,
        memory: Tensor | None = None,
        memory_bias: Tensor | None = None,
    ) -> Tensor:
        x = x + self.dropout(self.attention(self.self_norm(x), bias, packing))
        if self.cross is not None and self.cross_norm is not None and memory is not None:
            folded = self.cross_norm(x).reshape(len(memory), -1, x.shape[-1])  # rows that read the same memory stand together
            mixed: Tensor = self.cross(folded, *self.cross.remember(memory), memory_bias)
            x = x + self.dropout(mixed.view_as(x))
        y: Tensor = x + self.dropout(self.ff(self.ff_norm(x)))
        return y


class Stack(nn.Module):
    """Blocks with a final norm and one shared relative position bias, or none (`relative`)."""

    def __init__(self, layers: int, shape: BlockShape, *, causal: bool, cross: bool = False, relative: bool = True) -> None:
        super().__init__()
        self.causal, self.heads = causal, shape.heads
        self.bias = RelativePositionBias(shape.heads, bidirectional=not causal) if relative else None
        self.blocks = nn.ModuleList(Block(shape, cross=cross) for _ in range(layers))
        self.norm, self.dropout = nn.RMSNorm(shape.width, eps=1e-6), Dropout(shape.dropout)

    def forward(
        self,
        x: Float[Tensor, "B S D"],
        padding: Float[Tensor, "B 1 1 S"] | None = None,
        memory: Float[Tensor, "C M D"] | None = None,
        memory_bias: Tensor | None = None,
    ) -> Float[Tensor, "B S D"]:
        """Run all blocks over whole sequences.

        Args:
            x: B rows of S positions.
            padding: 0 at real positions, -inf at the others, where the result is zero; not together with `memory`.
            memory: what cross-attention reads; B is a multiple R of C, and memory c serves the rows c * R to c * R + R - 1.
            memory_bias: added to the cross-attention logits, broadcast to (C, H, R * S, M).
        """
        bias = self._position_bias(x.shape[1], x.shape[1], x.device)[None]
        if self.causal:
            bias = bias + torch.full(bias.shape[-2:], -torch.inf, device=x.device).triu(1)
        packing = None if padding is None else Packing.of(padding)
        if padding is not None and packing is not None:
            bias, x = bias + padding, packing.pack(x)
        x = self.dropout(x)
        for block in self.blocks:
            x = block(x, bias, packing, memory, memory_bias)
        y: Tensor = self.dropout(self.norm(x))
        return y if packing is None else packing.unpack(y)

    def _position_bias(self, queries: int, keys: int, device: torch.device, first_query: int = 0) -> Float[Tensor, "H Q S"]:
        if self.bias is None:
            return torch.zeros(self.heads, queries, keys, device=device)
        bias: Tensor = self.bias(queries, keys, first_query)
        return bias

    def remember(self, memory: Float[Tensor, "B S D"], memory_bias: Tensor | None) -> DecoderState:
        """What step-by-step decoding over a memory starts from."""
        cross = tuple(layer.remember(memory) for layer in self.modules() if isinstance(layer, CrossAttention))
        return DecoderState(cross=cross, memory_bias=memory_bias)

    def decode_step(self, x: Float[Tensor, "B W D"], state: DecoderState) -> tuple[Float[Tensor, "B W D"], DecoderState]:
        """Advance W beams of each of B users by one position; all beams of a user read the same memory.

        Equal to the last position of `forward` in evaluation mode over each beam's inputs so far.
        """
        past = state.past[0][0].shape[3] if state.past else 0
        bias = self._position_bias(1, past + 1, x.device, first_query=past)
        grown = []
        for layer, block in enumerate(self.blocks):
            assert isinstance(block, Block)
            q, k, v = block.attention.project(block.self_norm(x)[:, :, None])
            if state.past:
                k, v = (torch.cat((old, new), 3) for old, new in zip(state.past[layer], (k, v), strict=True))
            grown.append((k, v))
            x = x + block.attention.out(_attend(q, k, v, bias, 0.0))[:, :, 0]
            if block.cross is not None and block.cross_norm is not None:
                x = x + block.cross(block.cross_norm(x), *state.cross[layer], state.memory_bias)
            x = x + block.ff(block.ff_norm(x))
        return self.norm(x), replace(state, past=tuple(grown))


@dataclass(frozen=True)
class DecoderState:
    """Keys and values that decoding step by step needs again.

    Attributes:
        past: per layer, keys and values of each beam, (B, W, H, steps, head_width).
        cross: per layer, keys and values of the memory, (B, H, S, head_width), shared by a user's beams.
        memory_bias: (B, 1, 1, S) 0 or -inf over the memory, or None.
    """

    past: tuple[tuple[Tensor, Tensor], ...] = ()
    cross: tuple[tuple[Tensor, Tensor], ...] = ()
    memory_bias: Tensor | None = None

    def choose(self, parents: Int[Tensor, "B W"]) -> DecoderState:
        """The state of new beams that continue the given old ones."""
        rows = torch.arange(len(parents), device=parents.device)[:, None]
        return replace(self, past=tuple((k[rows, parents], v[rows, parents]) for k, v in self.past))


def padding_bias(lengths: Int[Tensor, " B"], size: int) -> Float[Tensor, "B 1 1 S"] | None:
    """0 for real positions of right-padded sequences and -inf for padding; None when nothing is padded."""
    if bool((lengths == size).all()):
        return None
    padded = torch.arange(size, device=lengths.device)[None, :] >= lengths[:, None]
    return torch.zeros(padded.shape, device=lengths.device).masked_fill_(padded, -torch.inf)[:, None, None, :]


@torch.no_grad()
def initialize(stack: Stack, shape: BlockShape) -> None:
    """T5's initialisation (factor 1): each matrix scaled by its input width, queries also by the head width."""
    width, inner = shape.width, shape.heads * shape.head_width
    if stack.bias is not None:
        nn.init.normal_(stack.bias.weight, std=width**-0.5)
    for block in stack.blocks:
        assert isinstance(block, Block)
        nn.init.normal_(block.attention.qkv.weight, std=width**-0.5)
        block.attention.qkv.weight[:inner].mul_(shape.head_width**-0.5)
        nn.init.normal_(block.attention.out.weight, std=inner**-0.5)
        if block.cross is not None:
            nn.init.normal_(block.cross.q.weight, std=(width * shape.head_width) ** -0.5)
            nn.init.normal_(block.cross.kv.weight, std=width**-0.5)
            nn.init.normal_(block.cross.out.weight, std=inner**-0.5)
        nn.init.normal_(block.ff.wi.weight, std=width**-0.5)
        nn.init.normal_(block.ff.wo.weight, std=shape.feed_forward**-0.5)
