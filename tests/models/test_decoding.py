"""Decoding step by step equals running whole sequences; padding and neighbours in a batch change nothing."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from felid.config import validate
from felid.errors import RecipeError
from felid.models.base import Histories
from felid.models.tiger import TigerConfig
from felid.models.transformer import BlockShape, DecoderState, Stack, initialize, padding_bias
from felid.search import score_items
from tests.tiny import KINDS, Kind, catalogue, histories_of, random_histories, random_model, torch_trie, user_tokens

SHAPE = BlockShape(width=16, heads=2, head_width=6, feed_forward=24, dropout=0.3)
LENGTHS = torch.tensor([7, 2, 4])


def decoder(*, cross: bool) -> tuple[Stack, Tensor | None, Tensor | None]:
    """A decoder in evaluation mode, a memory of three users with padding, and its bias."""
    torch.manual_seed(0)
    stack = Stack(2, SHAPE, causal=True, cross=cross)
    initialize(stack, SHAPE)
    stack.bias.weight.data.normal_()
    return stack.eval(), *((torch.randn(3, 7, SHAPE.width), padding_bias(LENGTHS, 7)) if cross else (None, None))


@pytest.mark.parametrize("cross", [True, False])
@torch.no_grad()
def test_decode_step_equals_the_last_position_of_the_whole_sequence(cross: bool) -> None:
    stack, memory, bias = decoder(cross=cross)
    state = stack.remember(memory, bias) if memory is not None else DecoderState()
    inputs = torch.randn(3, 1, 1, SHAPE.width)  # (B, W, S, D): what every beam has read so far
    for step in range(5):
        found, state = stack.decode_step(inputs[:, :, -1], state)
        beams = inputs.shape[1]
        flat = [None if t is None else t.repeat_interleave(beams, 0) for t in (memory, bias)]
        wanted = stack(inputs.flatten(0, 1), None, *flat)[:, -1].view_as(found)
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
        one_memory = stack(inputs.flatten(0, 1), None, memory, bias)[:, -1].view_as(found)
        torch.testing.assert_close(one_memory, wanted, atol=1e-5, rtol=1e-5, msg="rows that share a memory")
        parents = torch.randint(beams, (3, step + 2))  # more beams than parents: some parents continue twice, some not at all
        state = state.choose(parents)
        grown = torch.randn(3, step + 2, 1, SHAPE.width)
        inputs = torch.cat((inputs[torch.arange(3)[:, None], parents], grown), 2)


@torch.no_grad()
def test_beams_of_a_user_never_read_the_memory_of_another() -> None:
    stack, memory, bias = decoder(cross=True)
    assert memory is not None
    x = torch.randn(3, 4, SHAPE.width)
    before = stack.decode_step(x, stack.remember(memory, bias))[0]
    memory[1] += 1
    after = stack.decode_step(x, stack.remember(memory, bias))[0]
    assert torch.equal(before[[0, 2]], after[[0, 2]])
    assert not torch.allclose(before[1], after[1])


@pytest.mark.parametrize("change", [{"history": 0}, {"heads": 0}, {"dropout": 1.0}, {"user_buckets": -1}])
def test_impossible_sizes_are_refused(change: dict[str, float]) -> None:
    with pytest.raises(RecipeError, match=next(iter(change))):
        validate(TigerConfig, change)


def test_padding_bias_is_none_where_nothing_is_padded() -> None:
    assert padding_bias(torch.tensor([3, 3]), 3) is None
    bias = padding_bias(torch.tensor([3, 1]), 3)
    assert bias is not None
    assert bias[:, 0, 0].tolist() == [[0, 0, 0], [0, -torch.inf, -torch.inf]]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("user_buckets", [0, 5])
@torch.no_grad()
def test_padding_and_batch_size_change_nothing(kind: Kind, user_buckets: int) -> None:
    ids = catalogue()
    model, trie = random_model(kind, ids, user_buckets=user_buckets), torch_trie(ids)
    rows, everything = random_histories(ids), torch.arange(ids.num_items)
    users = user_tokens(model, len(rows))
    together = histories_of(rows, users)
    garbage = torch.where(together.real, together.items, ids.num_items - 1)
    wider = torch.cat((garbage, torch.full((len(rows), 3), 7)), 1)
    found = score_items(model, together, everything.expand(len(rows), -1), trie)
    padded = score_items(model, Histories(wider, together.lengths, users), everything.expand(len(rows), -1), trie)
    torch.testing.assert_close(padded, found, atol=1e-5, rtol=1e-5)
    for place, row in enumerate(rows):
        alone = histories_of([row], None if users is None else users[place : place + 1])
        torch.testing.assert_close(score_items(model, alone, everything[None], trie)[0], found[place], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_the_user_token_is_read_where_there_is_one(kind: Kind) -> None:
    ids = catalogue()
    model, trie, rows = random_model(kind, ids, user_buckets=5), torch_trie(ids), [[1, 2], [1, 2], [1, 2]]
    tokens, everything = torch.tensor([0, 1, 0]) + model.layout.user_offset, torch.arange(ids.num_items).expand(3, -1)
    scores = score_items(model, histories_of(rows, tokens), everything, trie)
    torch.testing.assert_close(scores[0], scores[2])  # up to rounding, which depends on the place in the batch
    assert not torch.allclose(scores[0], scores[1], atol=1e-3)
    unknown = score_items(model, histories_of(rows), everything, trie)
    assert torch.isfinite(unknown).all()


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_every_item_of_the_history_and_its_order_count(kind: Kind) -> None:
    ids = catalogue()
    model, trie = random_model(kind, ids), torch_trie(ids)
    variants = histories_of([[1, 2, 3], [4, 2, 3], [1, 4, 3], [2, 1, 3]])
    scores = score_items(model, variants, torch.arange(ids.num_items).expand(4, -1), trie)
    assert all((scores[0] - other).abs().max() > 1e-3 for other in scores[1:])
