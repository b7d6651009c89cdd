"""Our Transformer and Tiger against Hugging Face's T5 on copied weights."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from transformers import T5Config
from transformers.models.t5.modeling_t5 import T5Attention, T5Stack

from benchmarks.hf_t5 import stack_weights, to_hugging_face
from felid.models.base import TrainingItems
from felid.models.tiger import Tiger
from felid.models.transformer import BlockShape, RelativePositionBias, Stack, initialize, padding_bias
from felid.tokens import BEGIN
from tests.tiny import catalogue, histories_of, random_histories, random_model, torch_trie, user_tokens

SHAPE = BlockShape(width=24, heads=3, head_width=10, feed_forward=40, dropout=0.1)
TOLERANCE = {"atol": 1e-4, "rtol": 1e-4}


def stacks(layers: int, *, decoder: bool) -> tuple[Stack, T5Stack]:
    torch.manual_seed(layers)
    ours = Stack(layers, SHAPE, causal=decoder, cross=decoder)
    initialize(ours, SHAPE)
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    config = T5Config(
        vocab_size=4,
        d_model=SHAPE.width,
        d_kv=SHAPE.head_width,
        d_ff=SHAPE.feed_forward,
        num_layers=layers,
        num_heads=SHAPE.heads,
        is_decoder=decoder,
        is_encoder_decoder=False,
        use_cache=False,
    )
    theirs = T5Stack(config)
    missing, unexpected = theirs.load_state_dict(stack_weights(ours), strict=False)
    assert (missing, unexpected) == (["embed_tokens.weight"], [])
    return ours.eval(), theirs.eval()


@pytest.mark.parametrize("layers", [2, 4])
@pytest.mark.parametrize("lengths", [[140, 140], [140, 9], [1, 33]])
@torch.no_grad()
def test_encoder_equals_hugging_face_t5(layers: int, lengths: list[int]) -> None:
    ours, theirs = stacks(layers, decoder=False)
    real = torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]
    x = torch.randn(*real.shape, SHAPE.width)
    wanted = theirs(inputs_embeds=x, attention_mask=real.long()).last_hidden_state
    found = ours(x, padding_bias(torch.tensor(lengths), max(lengths)))
    torch.testing.assert_close(found[real], wanted[real], **TOLERANCE)


@pytest.mark.parametrize("layers", [2, 3])
@torch.no_grad()
def test_decoder_equals_hugging_face_t5(layers: int) -> None:
    ours, theirs = stacks(layers, decoder=True)
    x, memory, lengths = torch.randn(3, 40, SHAPE.width), torch.randn(3, 11, SHAPE.width), torch.tensor([11, 4, 1])
    real = torch.arange(11)[None] < lengths[:, None]
    wanted = theirs(inputs_embeds=x, encoder_hidden_states=memory, encoder_attention_mask=real.long()).last_hidden_state
    torch.testing.assert_close(ours(x, None, memory, padding_bias(lengths, 11)), wanted, **TOLERANCE)


@pytest.mark.parametrize("bidirectional", [True, False])
def test_every_distance_falls_into_the_bucket_of_hugging_face_t5(bidirectional: bool) -> None:
    distance = torch.arange(-300, 301)[None]
    wanted = T5Attention._relative_position_bucket(distance, bidirectional=bidirectional, num_buckets=32, max_distance=128)
    assert torch.equal(RelativePositionBias(2, bidirectional=bidirectional).bucket(distance), wanted)


@pytest.mark.parametrize("user_buckets", [0, 7])
@torch.no_grad()
def test_tiger_equals_hugging_face_t5_under_teacher_forcing(user_buckets: int) -> None:
    ids = catalogue()
    model = random_model("tiger", ids, spread=1.0, user_buckets=user_buckets, encoder_layers=4, decoder_layers=3)
    assert isinstance(model, Tiger)
    rows, targets = random_histories(ids), torch.tensor([3, 0, 19, 7])
    users = user_tokens(model, len(rows))
    found = model.vocabulary_logits(model.target_states(histories_of(rows, users), targets).hidden)
    tokens, mask = reference_inputs(model, rows, users)
    labels = model.item_tokens(targets)
    start = torch.full((len(rows), 1), BEGIN)
    reference = to_hugging_face(model)
    wanted = reference(input_ids=tokens, attention_mask=mask, decoder_input_ids=torch.cat((start, labels[:, :-1]), 1)).logits
    torch.testing.assert_close(found, wanted, **TOLERANCE)
    assert found.std() > 0.5, "the comparison says nothing about constant logits"
    by_labels = reference(input_ids=tokens, attention_mask=mask, labels=labels).loss
    items = TrainingItems(torch.ones(ids.num_items), torch_trie(ids))
    torch.testing.assert_close(model.forward(histories_of(rows, users), targets, items).total / labels.numel(), by_labels)


def reference_inputs(model: Tiger, rows: list[list[int]], users: Tensor | None) -> tuple[Tensor, Tensor]:
    """(B, S) tokens, built one by one, and the attention mask."""
    sequences = []
    for place, row in enumerate(rows):
        user = [] if users is None else [int(users[place])]
        sequences.append(user + [token for item in row for token in model.item_tokens(torch.tensor(item)).tolist()])
    longest = max(map(len, sequences))
    tokens = torch.tensor([s + [0] * (longest - len(s)) for s in sequences])
    mask = torch.tensor([[1] * len(s) + [0] * (longest - len(s)) for s in sequences])
    return tokens, mask
