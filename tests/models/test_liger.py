"""What LIGER's encoder reads, and what its dense head compares."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from felid.models.liger import Liger
from felid.models.tiger import Tiger
from tests.tiny import any_model, catalogue, histories_of, tiny_catalogue, training_items

IDS = catalogue()
CATALOGUE = tiny_catalogue(IDS, cold=(0, 7))
HISTORIES = histories_of([[1, 2, 3], [4], [5, 5]])


def liger(**changes: object) -> Liger:
    model = any_model("liger", CATALOGUE, **{"include_user_id": False, **changes})
    assert isinstance(model, Liger)
    return model


def memory(model: Liger) -> Tensor:
    return model._encode_histories(HISTORIES).memory


@torch.no_grad()
def test_text_of_the_history_is_read_where_it_is_added() -> None:
    for added in (True, False):
        model = liger(add_input_embedding=added)
        before, vectors = memory(model), model.item_vectors()
        model.items.features[model.items.place[2]] += 1.0
        changed = (memory(model) - before).abs().amax((1, 2)) > 1e-4
        assert changed.tolist() == [added, False, False], "only the first history has item 2"
        assert ((model.item_vectors() - vectors).abs().amax(1) > 1e-4).nonzero().flatten().tolist() == [2]


@pytest.mark.parametrize("part", ["item_places", "code_places"])
@torch.no_grad()
def test_places_of_items_and_of_codes_have_a_say(part: str) -> None:
    model = liger()
    before = memory(model)
    places = getattr(model, part)
    places[1] += torch.randn(16)  # of the second item, of the second code
    changed = (memory(model) - before).abs().amax((1, 2)) > 1e-3
    assert changed.tolist() == [True, part == "code_places", True], "the second history has no second item"


@torch.no_grad()
def test_the_encoder_reads_a_vector_per_code_and_one_for_the_user() -> None:
    assert memory(liger()).shape == (3, 9, 16)
    model = liger(include_user_id=True)
    users = torch.tensor([0, 1, 2]) + model.layout.user_offset
    named = histories_of([[1, 2, 3], [4], [5, 5]], users)
    assert model._encode_histories(named).memory.shape == (3, 10, 16)
    assert model.layout.num_user_buckets == 5
    assert liger().layout.num_user_buckets == 0


@pytest.mark.parametrize("named", [False, True])
@torch.no_grad()
def test_the_context_is_the_encoders_answer_at_the_last_code(named: bool) -> None:
    model = liger(include_user_id=named)
    users = torch.tensor([0, 1, 2]) + model.layout.user_offset if named else None
    histories = histories_of([[1, 2, 3], [4], [5, 5]], users)
    last = model._encode_histories(histories).memory[torch.arange(3), torch.tensor([8, 2, 5]) + named]
    torch.testing.assert_close(model.contexts(histories), model._dense_head().contexts(last))
    torch.testing.assert_close(model.contexts(histories).norm(dim=1), torch.full((3,), 1 / 0.07))


@torch.no_grad()
def test_vectors_of_items_come_from_their_text_whether_they_are_cold_or_not() -> None:
    model = liger()
    assert model.unit_vectors
    assert "items.own" not in dict(model.named_parameters())
    text = model.items.text
    assert text is not None
    projected = text(model.items.features)[model.items.place]
    torch.testing.assert_close(model.item_vectors(), torch.nn.functional.normalize(projected, dim=1))


def test_cold_items_get_no_gradient_from_either_head() -> None:
    """Neither as negatives of the dense head nor as codes of the trie; the text projection is shared."""
    model = liger(normalize="trie", add_input_embedding=False, text_hidden=())
    model.items.features.requires_grad_()
    losses = model(histories_of([[1, 2, 3], [4]]), torch.tensor([4, 19]), training_items(CATALOGUE))
    losses.total.backward()
    gradient = model.items.features.grad
    assert gradient is not None
    moved = gradient[model.items.place].abs().amax(1) > 0
    assert moved.tolist() == CATALOGUE.warm.tolist()


@torch.no_grad()
def test_without_text_places_and_dense_head_it_is_tiger() -> None:
    """With copied weights, but for the norm of the inputs, of which tokens are made that it leaves alone."""
    model = liger(add_input_embedding=False, use_output_embedding=False)
    tiger = any_model("tiger", CATALOGUE, user_buckets=0)
    assert isinstance(tiger, Tiger)
    model.item_places.zero_(), model.code_places.zero_()
    model.input_norm.weight.fill_(1.0), model.input_norm.bias.zero_()
    tokens = torch.nn.functional.layer_norm(torch.randn_like(model.tokens.weight), (16,))
    model.tokens.weight.copy_(tokens)
    missing = tiger.load_state_dict(model.state_dict(), strict=False)
    assert not missing.missing_keys
    targets = torch.tensor([4, 19, 1])
    wanted, found = (one.target_states(HISTORIES, targets).hidden for one in (tiger, model))
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)
