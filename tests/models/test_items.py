"""Item vectors: the own part for warm items, the text part for all, and nothing learnt from cold rows."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from felid.errors import DataError
from felid.models.base import Catalogue
from felid.models.items import ItemVectors, standardise, sum_of_rows

WARM = np.array([True, False, True, True, False, True, True])
COLD = torch.tensor([1, 4])


def catalogue(extra: int = 0) -> Catalogue:
    embeddings = np.random.default_rng(0).standard_normal((7, 5)).astype(np.float32)
    more = np.ones((extra, 5), np.float32)
    return Catalogue(np.concatenate((embeddings, more)), np.concatenate((WARM, np.zeros(extra, bool))))


def vectors(**changes: object) -> ItemVectors:
    torch.manual_seed(0)
    return ItemVectors(catalogue(), 3, **changes).eval()


@pytest.mark.parametrize("text_hidden", [(), (6, 4)])
@torch.no_grad()
def test_a_vector_is_the_own_part_and_the_text_part(text_hidden: tuple[int, ...]) -> None:
    items, embeddings = vectors(text_hidden=text_hidden), catalogue().embeddings
    warm = embeddings[WARM]
    x = torch.from_numpy((embeddings - warm.mean(0)) / (warm - warm.mean(0)).std())
    linear = [layer for layer in items.text if isinstance(layer, nn.Linear)]
    assert [layer.out_features for layer in linear] == [*text_hidden, 3]
    for place, layer in enumerate(linear):
        x = layer(x if place == 0 else F.relu(x))
    wanted = x
    wanted[torch.from_numpy(WARM)] += items.own
    torch.testing.assert_close(items(), wanted)
    rows = torch.tensor([4, 0, 6])
    torch.testing.assert_close(items(rows), wanted[rows])
    torch.testing.assert_close(items.warm(), wanted[items.warm_rows])
    assert items.warm_rows.tolist() == np.flatnonzero(WARM).tolist()
    assert torch.equal(items.order[items.place], torch.arange(7))


@pytest.mark.parametrize(("own", "text"), [(True, False), (False, True), (False, False)])
@torch.no_grad()
def test_parts_can_be_left_out(own: bool, text: bool) -> None:
    items = vectors(own=own, text=text)
    has_vector = items().any(1)
    assert torch.equal(has_vector, items.known)
    assert has_vector.tolist() == (np.ones(7, bool) if text else WARM & own).tolist()
    torch.testing.assert_close(items.warm(), items(items.warm_rows))
    assert (len(list(items.parameters())) == 0) == (not own and not text)


def test_cold_items_depend_on_no_own_parameter() -> None:
    items = vectors().train()
    gradients = torch.autograd.grad(items(COLD).sum(), items.parameters(), allow_unused=True)
    by_name = dict(zip(dict(items.named_parameters()), gradients, strict=True))
    assert (by_name["own"] == 0).all()
    assert (by_name["text.0.weight"] != 0).all()
    before = items()
    with torch.no_grad():
        items.own += 1
    changed = (items() != before).any(1)
    assert changed.tolist() == WARM.tolist()


def counted(prior: float) -> ItemVectors:
    """Item 2 with one interaction, the others with more; vectors of a spread that shows."""
    counts = np.array([9, 0, 1, 2, 0, 30, 4])
    torch.manual_seed(0)
    items = ItemVectors(replace(catalogue(), counts=counts), 3, own_prior=prior).eval()
    nn.init.normal_(items.own)
    return items


@torch.no_grad()
def test_own_vectors_of_rare_items_are_shrunk() -> None:
    items, plain = counted(4.0), counted(0.0)
    plain.load_state_dict(items.state_dict())
    by_text = items.text(items.features[items.place])
    found, whole = items() - by_text, plain() - by_text
    shares = torch.tensor([9 / 13, 0, 1 / 5, 2 / 6, 0, 30 / 34, 4 / 8])
    torch.testing.assert_close(found, whole * shares[:, None])
    assert (found[COLD] == 0).all() and (found[2].norm() / whole[2].norm()).item() == pytest.approx(1 / 5)
    torch.testing.assert_close(items(torch.tensor([4, 2, 6])), items()[[4, 2, 6]])
    torch.testing.assert_close(items.warm(), items()[items.warm_rows])


def test_own_vectors_of_rare_items_are_shrunk_in_training_too() -> None:
    for rows in (None, torch.arange(7)):
        items = counted(4.0).train()
        (items.warm() if rows is None else items(rows)).sum().backward()
        torch.testing.assert_close(items.own.grad[:, 0], torch.tensor([9 / 13, 1 / 5, 2 / 6, 30 / 34, 4 / 8]))


def test_shrinking_needs_counts() -> None:
    with pytest.raises(DataError, match=r"own_prior is 4, and the catalogue does not say .* give Catalogue\(counts=\.\.\.\)"):
        vectors(own_prior=4.0)
    assert vectors(own_prior=4.0, own=False).own_shares is None


def test_embeddings_are_standardised_block_by_block(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = standardise(catalogue().embeddings, WARM)
    monkeypatch.setattr("felid.models.items.STANDARDISE_ROWS", 2)
    np.testing.assert_allclose(standardise(catalogue().embeddings, WARM), whole, atol=1e-6)
    many = np.random.default_rng(0).standard_normal((4000, 50)).astype(np.float32)
    monkeypatch.setattr("felid.models.items.STANDARDISE_ROWS", 50)
    tracemalloc.start()
    standardise(many, np.ones(4000, bool))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.5 * many.nbytes


def test_cold_rows_have_no_part_in_the_statistics() -> None:
    embeddings = catalogue().embeddings
    spoilt = embeddings.copy()
    spoilt[~WARM] = 1e6
    found = standardise(embeddings, WARM)
    assert found.dtype == np.float32
    assert np.array_equal(found[WARM], standardise(spoilt, WARM)[WARM])
    assert np.allclose(found[WARM].mean(0), 0, atol=1e-6)
    assert found[WARM].std() == pytest.approx(1)


@torch.no_grad()
def test_cold_items_can_be_appended_to_the_catalogue_of_trained_vectors() -> None:
    items, longer = vectors(), ItemVectors(catalogue(extra=3), 3).eval()
    longer.load_state_dict(items.state_dict())
    torch.testing.assert_close(longer()[:7], items())
    assert longer().shape == (10, 3)


@pytest.mark.parametrize("rows", [None, torch.arange(0, 2000, 2)])
def test_own_vectors_are_left_out_at_the_rate_and_whole(rows: torch.Tensor | None) -> None:
    num = 2000
    torch.manual_seed(0)
    items = ItemVectors(Catalogue(np.ones((num, 2), np.float32), np.ones(num, bool)), 3, text=False, own_dropout=0.3)
    found, own = (items.warm(), items.own) if rows is None else (items(rows), items.own[rows])
    dropped = (found == 0).all(1)
    assert torch.equal(found[~dropped], own[~dropped]), "what is kept is not scaled"
    assert float(dropped.float().mean()) == pytest.approx(0.3, abs=0.04)
    assert not torch.equal(dropped, ((items.warm() if rows is None else items(rows)) == 0).all(1)), "another step, other items"
    assert (items.eval()() != 0).all()


def test_sums_of_rows_and_their_gradient_are_those_of_an_embedding_bag() -> None:
    torch.manual_seed(0)
    table, rows, outer = torch.randn(9, 4, requires_grad=True), torch.randint(9, (11, 3)), torch.randn(11, 4)
    rows[0] = 5  # the same row three times
    found, wanted = sum_of_rows(table, rows), F.embedding(rows, table).sum(1)
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(torch.autograd.grad(found, table, outer), torch.autograd.grad(wanted, table, outer))
