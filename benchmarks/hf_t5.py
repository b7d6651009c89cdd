"""A felid Tiger as a Hugging Face T5: the reference of tests and the baseline of benchmarks."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import T5Config, T5ForConditionalGeneration

from felid.models.tiger import Tiger
from felid.models.transformer import Block, Stack
from felid.tokens import BEGIN, PAD

Weights = dict[str, Tensor]


def to_hugging_face(model: Tiger) -> T5ForConditionalGeneration:
    """The same network with copied weights, in evaluation mode.

    Inputs are felid's tokens; the decoder starts with `BEGIN`; there is no end token (an ID has a fixed length).
    """
    config = model.config
    reference = T5ForConditionalGeneration(
        T5Config(
            vocab_size=model.layout.vocabulary_size,
            d_model=config.width,
            d_kv=config.head_width,
            d_ff=config.feed_forward,
            num_layers=config.encoder_layers,
            num_decoder_layers=config.decoder_layers,
            num_heads=config.heads,
            dropout_rate=config.dropout,
            feed_forward_proj="relu",
            pad_token_id=PAD,
            eos_token_id=None,
            decoder_start_token_id=BEGIN,
        )
    )
    weights: Weights = dict.fromkeys(("shared.weight", "lm_head.weight"), model.tokens.weight)
    for name, stack in (("encoder", model.encoder), ("decoder", model.decoder)):
        weights |= {f"{name}.{key}": tensor for key, tensor in stack_weights(stack).items()}
        weights[f"{name}.embed_tokens.weight"] = model.tokens.weight
    reference.load_state_dict({name: tensor.detach().clone() for name, tensor in weights.items()})
    return reference.eval()


@torch.no_grad()
def stack_weights(stack: Stack) -> Weights:
    """A stack's weights under the names of Hugging Face's `T5Stack` (without `embed_tokens`)."""
    weights = {
        "block.0.layer.0.SelfAttention.relative_attention_bias.weight": stack.bias.weight,
        "final_layer_norm.weight": stack.norm.weight,
    }
    for number, block in enumerate(stack.blocks):
        assert isinstance(block, Block)
        weights |= {f"block.{number}.{key}": tensor for key, tensor in _block_weights(block).items()}
    return weights


def _block_weights(block: Block) -> Weights:
    query, key, value = block.attention.qkv.weight.chunk(3)
    attention = {"q": query, "k": key, "v": value, "o": block.attention.out.weight}
    weights = {f"layer.0.SelfAttention.{name}.weight": tensor for name, tensor in attention.items()}
    norms: list[nn.RMSNorm] = [block.self_norm]
    if block.cross is not None and block.cross_norm is not None:
        key, value = block.cross.kv.weight.chunk(2)
        attention = {"q": block.cross.q.weight, "k": key, "v": value, "o": block.cross.out.weight}
        weights |= {f"layer.1.EncDecAttention.{name}.weight": tensor for name, tensor in attention.items()}
        norms.append(block.cross_norm)
    norms.append(block.ff_norm)
    last = len(norms) - 1
    weights[f"layer.{last}.DenseReluDense.wi.weight"] = block.ff.wi.weight
    weights[f"layer.{last}.DenseReluDense.wo.weight"] = block.ff.wo.weight
    return weights | {f"layer.{place}.layer_norm.weight": norm.weight for place, norm in enumerate(norms)}
