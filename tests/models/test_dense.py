"""Models with item vectors: contexts, catalogue, cold items, losses; and that they find the withheld item."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from felid.config import validate
from felid.errors import DataError, RecipeError, RequestError
from felid.models.base import Catalogue, DenseModel, Histories, TrainingItems
from felid.models.liger import Liger, LigerConfig
from felid.models.lynx import Lynx, LynxConfig
from felid.models.sasrec import SASRec, SASRecConfig
from felid.search import score_items
from felid.semantic_ids import SemanticIds
from felid.testing import ToyWorld, toy_world
from tests.tiny import (
    DENSE_KINDS,
    DenseKind,
    any_model,
    catalogue,
    config_of,
    dense_model,
    histories_of,
    random_histories,
    targets_after,
    tiny_catalogue,
    training_items,
)

IDS = catalogue()
COLD = (0, 7)
CATALOGUE = tiny_catalogue(IDS, COLD)
WARM_HISTORIES = [[1, 2, 3], [4], [9, 8, 6, 5, 4, 3, 2, 1], [10, 12]]
MODELS: list[tuple[DenseKind, dict[str, object]]] = [
    ("lynx", {}),
    ("lynx", {"dense": {"similarity": "cosine"}, "text_hidden": (8,)}),
    ("lynx", {"generative_weight": 0, "text": False, "user_buckets": 0}),
    ("sasrec", {}),
    ("sasrec", {"positions": "relative"}),
    ("sasrec", {"text": True, "own_dropout": 0.3, "dense": {"similarity": "cosine"}}),
    ("liger", {}),
    ("liger", {"add_input_embedding": False, "include_user_id": False, "dense": {}}),
    ("liger", {"sid_loss_weight": 0, "text_hidden": ()}),
]
every_model = pytest.mark.parametrize(("kind", "changes"), MODELS)


@every_model
@torch.no_grad()
def test_padding_and_batch_size_change_nothing(kind: DenseKind, changes: dict[str, object]) -> None:
    model, rows = dense_model(kind, CATALOGUE, **changes), random_histories(IDS, (1, 3, 5, 4))
    together = histories_of(rows)
    found = model.contexts(together)
    assert found.dtype == torch.float32
    garbage = torch.cat((torch.where(together.real, together.items, 19), torch.full((len(rows), 3), 7)), 1)
    torch.testing.assert_close(model.contexts(Histories(garbage, together.lengths)), found, atol=1e-5, rtol=1e-5)
    for place, row in enumerate(rows):
        torch.testing.assert_close(model.contexts(histories_of([row]))[0], found[place], atol=1e-5, rtol=1e-5)


@every_model
@torch.no_grad()
def test_training_losses_are_those_of_every_prefix_over_warm_items(kind: DenseKind, changes: dict[str, object]) -> None:
    """Also: no position sees what comes after it, and the vectors of training are those of evaluation."""
    model, items = dense_model(kind, CATALOGUE, **changes), training_items(CATALOGUE)
    targets, _ = targets_after(model, WARM_HISTORIES, [19, 18, 17, 16])
    losses = model(histories_of(WARM_HISTORIES), targets, items)
    vectors = model.item_vectors()[CATALOGUE.warm]
    place, wanted, target = np.cumsum(CATALOGUE.warm) - 1, 0.0, iter(targets.tolist())
    for row in WARM_HISTORIES:
        for length in range(1 if model.causal else len(row), len(row) + 1):
            logits = model.contexts(histories_of([row[:length]]))[0] @ vectors.T
            wanted -= float(logits.log_softmax(0)[place[next(target)]])
    assert float(losses.parts["dense"]) == pytest.approx(wanted, rel=1e-5)
    if losses.parts.keys() == {"dense"}:
        torch.testing.assert_close(losses.total, losses.parts["dense"])


@every_model
@torch.no_grad()
def test_every_item_of_the_history_and_its_order_count(kind: DenseKind, changes: dict[str, object]) -> None:
    layers = {"encoder_layers": 1} if kind == "liger" else {"layers": 1}
    model = dense_model(kind, CATALOGUE, **layers, **changes)  # only positions tell one layer of order
    contexts = model.contexts(histories_of([[1, 2, 3], [4, 2, 3], [1, 4, 3], [2, 1, 3]]))
    assert all((contexts[0] - other).abs().max() > 1e-3 for other in contexts[1:])


@every_model
@torch.no_grad()
def test_vectors_of_cold_items_come_from_content_alone(kind: DenseKind, changes: dict[str, object]) -> None:
    model = dense_model(kind, CATALOGUE, **changes)
    assert isinstance(model, Lynx | SASRec | Liger)
    before = model.item_vectors()
    assert before.shape == (20, 16)
    assert before.dtype == torch.float32
    if model.items.own is None:  # all items have content alone
        assert torch.isfinite(before).all()
        return
    model.items.own += torch.randn(16)
    after = model.item_vectors()
    cold = torch.from_numpy(~CATALOGUE.warm)
    has_content = kind == "lynx" or "text" in changes
    if has_content:
        assert torch.equal(before[cold], after[cold])
        assert torch.isfinite(before).all()
    else:
        assert before[cold].isnan().all()
        assert torch.isfinite(before[~cold]).all()
        context = model.contexts(histories_of([[0, 3], [7, 3]]))
        assert torch.isfinite(context).all()
        assert torch.equal(context[0], context[1]), "an item without a vector is zero in a history"
    assert ((before != after).any(1) & ~cold).sum() == 18


@torch.no_grad()
def test_cosine_logits_are_cosines_over_the_temperature() -> None:
    model = dense_model("sasrec", CATALOGUE, dense={"similarity": "cosine", "temperature": 0.2}, text=True)
    contexts, vectors = model.contexts(histories_of(random_histories(IDS))), model.item_vectors()
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(20))
    torch.testing.assert_close(contexts.norm(dim=1), torch.full((4,), 5.0))


@pytest.mark.parametrize("kind", DENSE_KINDS)
@torch.no_grad()
def test_settings_of_text_and_similarity_reach_the_model(kind: DenseKind) -> None:
    cosine = {"similarity": "cosine", "temperature": 0.25}
    text = {} if kind == "liger" else {"text": True}
    model = dense_model(kind, CATALOGUE, **text, text_hidden=(7, 5), dense=cosine)
    assert isinstance(model, Lynx | SASRec | Liger) and model.items.text is not None
    assert [layer.out_features for layer in model.items.text if isinstance(layer, nn.Linear)] == [7, 5, 16]
    assert model.unit_vectors
    torch.testing.assert_close(model.item_vectors().norm(dim=1), torch.ones(20))
    torch.testing.assert_close(model.contexts(histories_of(random_histories(IDS))).norm(dim=1), torch.full((4,), 4.0))
    dot = dense_model(kind, CATALOGUE, **text, dense={"similarity": "dot"})
    assert not dot.unit_vectors
    assert dot.item_vectors().norm(dim=1).std() > 0.01


def test_places_are_learnt_or_relative_and_never_both() -> None:
    learned, relative = (dense_model("sasrec", CATALOGUE, positions=name) for name in ("learned", "relative"))
    assert isinstance(learned, SASRec) and isinstance(relative, SASRec)
    assert learned.places is not None and learned.encoder.bias is None
    assert relative.places is None and relative.encoder.bias is not None


@pytest.mark.parametrize("kind", DENSE_KINDS)
@pytest.mark.parametrize("softmax", ["full", "sampled"])
@pytest.mark.parametrize(("history", "target"), [([1, 7], [3, 4]), ([1, 2], [2, 7])])
def test_training_on_cold_items_is_refused(kind: DenseKind, softmax: str, history: list[int], target: list[int]) -> None:
    model = dense_model(kind, CATALOGUE, dense={"softmax": softmax, "negatives": 4})
    target = target if model.causal else target[-1:]
    with pytest.raises(DataError, match="training step holds item 7, which the catalogue marks as cold"):
        model(histories_of([history]), torch.tensor(target), training_items(CATALOGUE))


@pytest.mark.parametrize(
    ("kind", "changes", "remedy"),
    [
        ("lynx", {"dense_weight": 0}, r"model\.dense_weight above 0"),
        ("liger", {"use_output_embedding": False}, r"model\.use_output_embedding=true and model\.embedding_loss_weight above 0"),
        ("liger", {"embedding_loss_weight": 0}, r"model\.use_output_embedding=true and model\.embedding_loss_weight above 0"),
    ],
)
def test_a_model_without_dense_head_says_that_it_has_no_vectors(kind: DenseKind, changes: dict[str, object], remedy: str) -> None:
    model = dense_model(kind, CATALOGUE, **changes)
    for asked in (model.item_vectors, lambda: model.contexts(histories_of([[1]]))):
        with pytest.raises(RequestError, match=rf"no dense head.* train one with {remedy}"):
            asked()


def gradient_of(kind: DenseKind, changes: dict[str, object], items: TrainingItems) -> Tensor:
    """Of what item vectors are made of: own vectors, or the last layer above their text."""
    model = dense_model(kind, CATALOGUE, **changes)
    assert isinstance(model, Lynx | SASRec | Liger)
    targets, _ = targets_after(model, WARM_HISTORIES, [19, 18, 12, 16])
    model(histories_of(WARM_HISTORIES), targets, items).total.backward()
    assert all(parameter.grad is None or torch.isfinite(parameter.grad).all() for parameter in model.parameters())
    made_of = model.items.own if model.items.own is not None else model.items.text[-1].weight
    assert made_of.grad is not None
    return made_of.grad


@pytest.mark.parametrize("kind", DENSE_KINDS)
def test_many_negatives_give_the_gradient_of_the_full_softmax(kind: DenseKind) -> None:
    items = training_items(CATALOGUE)
    alike: dict[str, object] = {"node_vectors": False} if kind == "lynx" else {}  # only a full softmax has these
    full = gradient_of(kind, {**alike, "dense": {"softmax": "full"}}, items)
    sampled = gradient_of(kind, {**alike, "dense": {"softmax": "sampled", "negatives": 40_000}}, items)
    assert float((full - sampled).norm() / full.norm()) < 0.02


@pytest.mark.parametrize("softmax", ["full", "sampled"])
def test_own_vectors_are_left_out_in_inputs_and_outputs_alike(softmax: str) -> None:
    """With a rate near 1 the training loss is that of a model without own vectors."""
    config = config_of("lynx", own_dropout=0.999999, dropout=0.0, dense={"softmax": softmax})
    model = Lynx(validate(LynxConfig, config.model_dump()), CATALOGUE)
    without = Lynx(validate(LynxConfig, {**config.model_dump(), "own_vectors": False}), CATALOGUE)
    without.load_state_dict({name: value for name, value in model.state_dict().items() if name != "items.own"})
    batch = histories_of([[1, 2, 3]]), torch.tensor([2, 3, 4]), training_items(CATALOGUE)

    def loss(model: Lynx) -> Tensor:
        torch.manual_seed(1)
        total: Tensor = model(*batch).total
        return total

    torch.testing.assert_close(loss(model), loss(without))
    assert not torch.equal(loss(model), loss(model.eval()))


@pytest.mark.parametrize(
    ("weights", "modes"),
    [((1, 2), ("fused", "generative", "dense")), ((0.5, 0), ("generative",)), ((0, 1), ("fused", "dense"))],
)
def test_heads_are_weighted_and_absent_without_weight(weights: tuple[float, float], modes: tuple[str, ...]) -> None:
    model = any_model("lynx", CATALOGUE, generative_weight=weights[0], dense_weight=weights[1], level_share=0)
    assert model.modes == modes
    losses = model(histories_of([[1, 2, 3]]), torch.tensor([2, 3, 4]), training_items(CATALOGUE))
    names = [name for name in ("generative", "dense") if name in modes]
    assert list(losses.parts) == names
    wanted = sum(weight * losses.parts[name] for weight, name in zip(weights, ("generative", "dense"), strict=True) if weight)
    torch.testing.assert_close(losses.total, wanted)
    losses.total.backward()
    unused = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert not unused, "an absent head has no parameters"
    assert any(name.startswith("decoder") for name, _ in model.named_parameters()) == ("generative" in modes)


@pytest.mark.parametrize(
    ("changes", "modes"),
    [
        ({}, ("hybrid", "generative", "dense")),
        ({"sid_loss_weight": 0.5, "embedding_loss_weight": 2.0}, ("hybrid", "generative", "dense")),
        ({"add_input_embedding": False}, ("hybrid", "generative", "dense")),
        ({"embedding_loss_weight": 0}, ("generative",)),  # TIGER
        ({"use_output_embedding": False}, ("generative",)),
        ({"use_output_embedding": False, "add_input_embedding": False}, ("generative",)),
        ({"sid_loss_weight": 0}, ("dense",)),
    ],
)
def test_parts_of_liger_are_weighted_and_absent_where_they_are_off(changes: dict[str, object], modes: tuple[str, ...]) -> None:
    """The generative loss is the mean over codes, as published."""
    model = any_model("liger", CATALOGUE, include_user_id=False, **changes)
    assert isinstance(model, Liger)
    assert model.modes == modes
    losses = model(histories_of([[1, 2, 3], [4]]), torch.tensor([4, 19]), training_items(CATALOGUE))
    assert list(losses.parts) == [name for name in ("generative", "dense") if name in modes]
    weights = {"generative": model.config.sid_loss_weight / 3, "dense": model.config.embedding_loss_weight}
    torch.testing.assert_close(losses.total, sum(weights[name] * part for name, part in losses.parts.items()))
    losses.total.backward()
    assert not [name for name, parameter in model.named_parameters() if parameter.grad is None], "absent parts have no parameters"
    names = " ".join(name for name, _ in model.named_parameters())
    assert ("decoder" in names) == ("generative" in modes)
    assert ("dense" in names) == ("dense" in modes)
    assert ("items.text" in names) == ("dense" in modes or model.config.add_input_embedding)


def test_settings_that_leave_nothing_are_refused() -> None:
    with pytest.raises(RecipeError, match="nothing to learn"):
        validate(LynxConfig, {"generative_weight": 0, "dense_weight": 0})
    with pytest.raises(RecipeError, match="own_dropout"):
        validate(SASRecConfig, {"own_dropout": 0.5})
    with pytest.raises(RecipeError, match="own_prior weighs own vectors"):
        validate(LynxConfig, {"own_prior": 1.0, "own_vectors": False})
    for changes in ({"embedding_loss_weight": 0}, {"use_output_embedding": False}):
        with pytest.raises(RecipeError, match="nothing to learn; raise one of sid_loss_weight"):
            validate(LigerConfig, {"sid_loss_weight": 0, **changes})
    for config in (LynxConfig, SASRecConfig):
        with pytest.raises(RecipeError, match=r"text_hidden=\[9\] has no effect while text=false"):
            validate(config, {"text": False, "text_hidden": [9]})
        with pytest.raises(RecipeError, match="no multiple of heads"):
            validate(config, {"width": 10, "heads": 3})


def test_sasrec_needs_no_semantic_ids() -> None:
    model = dense_model("sasrec", replace(CATALOGUE, ids=None))
    losses = model(histories_of([[1, 2]]), torch.tensor([2, 3]), replace(training_items(CATALOGUE), trie=None))
    assert losses.parts.keys() == {"dense"}


def scores(model: DenseModel, mode: str, histories: Histories, items: TrainingItems) -> Tensor:
    """(B, N) log-probabilities of the whole catalogue."""
    parts = []
    if mode in ("dense", "fused"):
        parts.append((model.contexts(histories) @ model.item_vectors().T).log_softmax(1))
    if mode in ("generative", "fused"):
        assert isinstance(model, Lynx) and items.trie is not None
        everything = torch.arange(len(items.counts)).expand(len(histories.items), -1)
        parts.append(score_items(model, histories, everything, items.trie))
    return torch.stack(parts).mean(0)


def fit(model: DenseModel, world: ToyWorld, items: TrainingItems, steps: int) -> None:
    train = world.split.train()
    rows = [train.items[start:end].tolist() for start, end in itertools.pairwise(train.offsets)]
    histories, targets = histories_of([row[:-1] for row in rows]), torch.tensor([item for row in rows for item in row[1:]])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(steps):
        loss = model.train()(histories, targets, items).total / len(targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("lynx", {}),
        ("sasrec", {}),
        ("sasrec", {"positions": "relative", "dense": {"softmax": "sampled", "negatives": 8}}),
        ("sasrec", {"text": True, "own_dropout": 0.1, "dense": {"similarity": "cosine"}}),
    ],
)
def test_the_withheld_item_is_found_by_each_head_and_by_both(kind: DenseKind, changes: dict[str, object]) -> None:
    world = toy_world(60)
    ids = SemanticIds(world.codes, world.sizes, np.arange(world.num_items))
    told = Catalogue(world.vectors, np.ones(world.num_items, bool), ids)
    items = training_items(told)
    model = dense_model(kind, told, spread=0.05, dropout=0.05, **changes)
    fit(model, world, items, 90 if kind == "lynx" else 60)
    test = world.split.evaluation("test")
    rows = [test.histories[row][-8:].tolist() for row in range(len(test.targets))]
    with torch.no_grad():
        for mode in model.eval().modes:
            if mode == "fused" and kind == "sasrec":
                continue  # of the head and what `felid.ranking` counts
            found = scores(model, mode, histories_of(rows), items).argmax(1)
            assert float((found == torch.from_numpy(test.targets)).float().mean()) > 0.9, mode
