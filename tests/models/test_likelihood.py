"""The log-likelihood of items: one distribution over the catalogue, the same in training and in search."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from felid.errors import SemanticIdError
from felid.models.base import Histories
from felid.models.generative import Decoded, GenerativeModel, trie_cross_entropy
from felid.models.lynx import Lynx
from felid.models.nodes import node_logits
from felid.models.torch_trie import TorchTrie
from felid.search import score_items
from felid.semantic_ids import SemanticIds
from felid.testing import CodeTable, code_tables
from felid.trie import Trie
from tests.tiny import (
    KINDS,
    NORMALIZATIONS,
    Kind,
    catalogue,
    histories_of,
    random_histories,
    random_model,
    targets_after,
    torch_trie,
    user_tokens,
)

SINGLE_CHILDREN = SemanticIds(
    np.array([[0, 0, 0], [0, 1, 2], [1, 2, 1], [2, 0, 0], [2, 0, 1]], np.int32), (3, 3, 3), np.arange(5)
)


def whole_catalogue(model: GenerativeModel, ids: SemanticIds, rows: list[list[int]]) -> Tensor:
    histories = histories_of(rows, user_tokens(model, len(rows)))
    return score_items(model, histories, torch.arange(ids.num_items).expand(len(rows), -1), torch_trie(ids))


def likelihood(
    model: GenerativeModel, histories: Histories, targets: Tensor, trie: TorchTrie, smoothing: float = 0.0
) -> tuple[Tensor, Tensor]:
    return model.likelihood(model.target_states(histories, targets), targets, trie, smoothing)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sizes", [(20,), (5, 6), (4, 3, 5), (3, 2, 4, 2), (2, 3, 2, 3, 2)])
def test_trie_normalised_probabilities_of_all_items_sum_to_one(kind: Kind, sizes: tuple[int, ...]) -> None:
    ids = catalogue(18, sizes)
    scores = whole_catalogue(random_model(kind, ids, normalize="trie"), ids, random_histories(ids))
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores.exp().sum(1), torch.ones(4), atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_vocabulary_probabilities_of_all_items_sum_to_less_than_one(kind: Kind) -> None:
    ids = catalogue()
    totals = whole_catalogue(random_model(kind, ids, normalize="vocabulary"), ids, random_histories(ids)).exp().sum(1)
    assert (totals < 0.999).all()
    assert (totals > 0).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("normalize", NORMALIZATIONS)
@pytest.mark.parametrize("ids", [catalogue(), catalogue(12, (2, 2, 2, 2, 2)), SINGLE_CHILDREN], ids=["3", "5", "single"])
@torch.no_grad()
def test_teacher_forcing_gives_the_scores_of_search(kind: Kind, normalize: str, ids: SemanticIds) -> None:
    model, rows = random_model(kind, ids, normalize=normalize), random_histories(ids)
    model.level_share = 0.0
    scores = whole_catalogue(model, ids, rows)
    for target in range(ids.num_items):
        targets, last = targets_after(model, rows, [target] * len(rows))
        histories = histories_of(rows, user_tokens(model, len(rows)))
        log_probs, loss = likelihood(model, histories, targets, torch_trie(ids))
        torch.testing.assert_close(log_probs[last], scores[:, target], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(loss, -log_probs.sum())


@torch.no_grad()
def test_every_position_of_a_causal_model_is_a_prefix_of_its_own() -> None:
    ids = catalogue()
    model, trie, row = random_model("lynx", ids), torch_trie(ids), [3, 1, 4, 1, 5, 9]
    log_probs = likelihood(model, histories_of([row[:-1], row[:2]]), torch.tensor([*row[1:], 1, 2]), trie)[0]
    for length in range(1, len(row)):
        alone = score_items(model, histories_of([row[:length]]), torch.tensor([[row[length]]]), trie)
        torch.testing.assert_close(log_probs[length - 1], alone[0, 0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("level_share", [0.0, 0.2])
@torch.no_grad()
def test_smoothing_spreads_over_valid_children_only(kind: Kind, level_share: float) -> None:
    ids, smoothing = SINGLE_CHILDREN, 0.3
    plain = {"node_vectors": False} if kind == "lynx" else {}
    model, rows = random_model(kind, ids, normalize="trie", **plain), random_histories(ids)
    model.level_share = level_share
    targets, _ = targets_after(model, rows, [0, 2, 4, 1])
    histories = histories_of(rows, user_tokens(model, len(rows)))
    hidden = model.target_states(histories, targets).hidden
    wanted = 0.0
    for state, item in zip(hidden, targets.tolist(), strict=True):
        code = ids.codes[item].tolist()
        for level in range(3):
            valid = sorted({other[level] for other in ids.codes.tolist() if other[:level] == code[:level]})
            logits = model.logits(state[level], level)
            log_z = math.log(sum(math.exp(logits[c]) for c in valid))
            share = {c: smoothing / len(valid) + (1 - smoothing) * (c == code[level]) for c in valid}
            wanted -= (1 - level_share) * sum(share[c] * (float(logits[c]) - log_z) for c in valid)
            wanted -= level_share * float(logits.log_softmax(0)[code[level]])
    log_probs, loss = likelihood(model, histories, targets, torch_trie(ids), smoothing)
    assert float(loss) == pytest.approx(wanted, rel=1e-5)
    torch.testing.assert_close(log_probs, likelihood(model, histories, targets, torch_trie(ids))[0])


@pytest.mark.parametrize("similarity", ["dot", "cosine"])
@torch.no_grad()
def test_a_code_gains_the_mean_corrected_logit_of_the_items_below_it(similarity: str) -> None:
    ids = catalogue()
    model, trie = random_model("lynx", ids, dense={"similarity": similarity}), torch_trie(ids)
    assert isinstance(model, Lynx) and model.corrections is not None
    vectors, items = model.node_vectors(trie), torch.tensor([3, 8, 19])
    assert vectors is not None
    histories, hidden = histories_of(random_histories(ids)[:3]), torch.randn(3, 16)
    starts = model.start(histories)[0]
    for level in range(3):
        found = node_logits(model.queries(hidden, starts, level), trie.paths[items, level], trie, vectors, level)
        corrected = (model.contexts(histories) + model.corrections[level](hidden)) @ model.item_vectors().T
        for row, item in enumerate(items.tolist()):
            prefix = ids.codes[item, :level].tolist()
            for code in range(ids.sizes[level]):
                below = [i for i, codes in enumerate(ids.codes.tolist()) if codes[: level + 1] == [*prefix, code]]
                wanted = corrected[row, below].mean() if below else torch.zeros(())
                torch.testing.assert_close(found[row, code], wanted, atol=1e-4, rtol=1e-4)


def level_gradient(level_share: float) -> tuple[Tensor, Tensor, Tensor]:
    """Gradient norms by decoder outputs (5, 3), log-probabilities and loss of every item of `SINGLE_CHILDREN`."""
    model = random_model("lynx", SINGLE_CHILDREN, node_vectors=False)
    model.level_share = level_share
    hidden = torch.randn(5, 3, 16, generator=torch.Generator().manual_seed(0)).requires_grad_()
    log_probs, loss = model.likelihood(Decoded(hidden, hidden[:, 0]), torch.arange(5), torch_trie(SINGLE_CHILDREN))
    return torch.autograd.grad(loss, hidden)[0].norm(dim=2), log_probs.detach(), loss.detach()


def test_single_children_are_learnt_only_with_a_share_over_all_codes() -> None:
    single = torch.tensor([[0, 0, 1], [0, 0, 1], [0, 1, 1], [0, 1, 0], [0, 1, 0]], dtype=torch.bool)
    without, log_probs, _ = level_gradient(0.0)
    assert torch.equal(without == 0, single)
    mixed, still, _ = level_gradient(0.1)
    assert (mixed[single] > 1e-3).all()
    assert torch.equal(log_probs, still), "the likelihood is that of the trie either way"


def test_without_a_share_the_loss_is_the_pure_trie_likelihood_to_the_last_bit() -> None:
    model, trie, targets = random_model("lynx", SINGLE_CHILDREN, node_vectors=False), torch_trie(SINGLE_CHILDREN), torch.arange(5)
    hidden, total = torch.randn(5, 3, 16, generator=torch.Generator().manual_seed(0)), torch.zeros(())
    for level in range(3):
        nodes = trie.paths[targets, level]
        rows = torch.nonzero(trie.num_children(nodes) > 1)[:, 0]
        logits = model.logits(hidden[rows, level], level)
        total = total - trie_cross_entropy(logits, model.codes[targets[rows], level], trie.mask(nodes[rows], level))[0].sum()
    assert torch.equal(level_gradient(0.0)[2], total.detach())


@pytest.mark.parametrize(
    ("kind", "changes", "answer"),
    [
        ("lynx", {}, True),
        ("lynx", {"level_share": 0}, False),
        ("lynx", {"level_share": 0, "normalize": "vocabulary"}, True),
        ("tiger", {}, True),
        ("tiger", {"normalize": "trie"}, False),
    ],
)
def test_which_models_can_search_codes_that_training_never_saw(kind: Kind, changes: dict[str, object], answer: bool) -> None:
    assert random_model(kind, catalogue(), **changes).scores_cold_items is answer


@torch.no_grad()
def test_smoothing_of_the_vocabulary_softmax_is_that_of_torch() -> None:
    ids = catalogue()
    model, rows, targets = random_model("tiger", ids), random_histories(ids), torch.tensor([1, 2, 3, 4])
    logits = model.vocabulary_logits(model.target_states(histories_of(rows), targets).hidden).log_softmax(-1)
    gold = logits.gather(2, model.item_tokens(targets)[..., None]).sum()
    log_probs, loss = likelihood(model, histories_of(rows), targets, torch_trie(ids), 0.2)
    torch.testing.assert_close(loss, -0.8 * gold - 0.2 * logits.mean(-1).sum())
    torch.testing.assert_close(log_probs.sum(), gold)


def test_extreme_logits_of_masked_codes_have_no_influence() -> None:
    logits = torch.tensor([[1e4, 0.5, -1.0], [3e38, -3e38, 2.0]], requires_grad=True)
    mask = torch.tensor([[False, True, True], [False, False, True]])
    gold, mean = trie_cross_entropy(logits, torch.tensor([1, 2]), mask)
    wanted = -math.log1p(math.exp(-1.5))
    assert gold.tolist() == pytest.approx([wanted, 0.0])
    assert mean.tolist() == pytest.approx([wanted - 0.75, 0.0])
    (gold.sum() + mean.sum()).backward()
    assert torch.isfinite(logits.grad).all()
    assert (logits.grad[~mask] == 0).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("normalize", NORMALIZATIONS)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_masked_logits_give_no_nan_in_bf16(kind: Kind, normalize: str, smoothing: float) -> None:
    ids = SINGLE_CHILDREN
    model, rows = random_model(kind, ids, normalize=normalize, spread=6.0).train(), random_histories(ids)
    targets, _ = targets_after(model, rows, [0, 2, 4, 1])
    with torch.autocast("cpu", torch.bfloat16):
        log_probs, loss = likelihood(
            model, histories_of(rows, user_tokens(model, len(rows))), targets, torch_trie(ids), smoothing
        )
    loss.backward()
    assert log_probs.dtype == loss.dtype == torch.float32
    assert torch.isfinite(log_probs).all()
    assert (log_probs <= 0).all()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    assert model.tokens.weight.grad is not None


@torch.no_grad()
def test_scores_of_eight_levels_do_not_underflow() -> None:
    """Raw probabilities multiplied over levels would end at 0 (pitfall: GRID)."""
    ids = catalogue(40, (6,) * 8)
    model = random_model("tiger", ids, spread=60.0, normalize="vocabulary")
    scores = whole_catalogue(model, ids, random_histories(ids))
    assert scores.dtype == torch.float32
    assert torch.isfinite(scores).all()
    assert (scores.min() < -110) & (scores.exp().min() == 0), "the product of probabilities underflows here"
    assert all(len(row.unique()) == ids.num_items for row in scores)


@settings(max_examples=30, deadline=None)
@given(code_tables(max_items=15))
def test_torch_trie_of_a_part_of_the_catalogue(table: CodeTable) -> None:
    codes, sizes = table
    kept = np.arange(0, len(codes), 2)
    trie = Trie.from_codes(codes[kept], sizes, kept)
    torch_trie = TorchTrie.of(trie, codes)
    assert torch_trie.paths.shape == (len(codes), len(sizes) + 1)
    assert (torch_trie.paths[:, 0] == 0).all()
    for item, path in enumerate(torch_trie.paths[:, 1:].tolist()):
        walked = [int(trie.walk(codes[item, : level + 1])) for level in range(len(sizes))]
        assert path == (walked if item in kept else [-1] * len(sizes)), "a path of an item outside the trie leads nowhere"
    for level in range(len(sizes)):
        nodes = np.arange(trie.depth_start[level], trie.depth_start[level + 1])
        assert torch_trie.mask(torch.from_numpy(nodes), level).numpy().tolist() == trie.mask(nodes, level).tolist()


def test_four_levels_against_a_trie_of_three_are_refused() -> None:
    three, four = catalogue(8, (4, 4, 4)), catalogue(8, (4, 4, 4, 4))
    for trie, codes in ((three.trie, four.codes), (four.trie, three.codes)):
        with pytest.raises(SemanticIdError, match="levels but the trie was built for"):
            TorchTrie.of(trie, codes)
