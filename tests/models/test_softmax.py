"""Softmax losses in slices and from samples against torch's cross-entropy over all logits at once."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from felid.models import softmax
from felid.models.softmax import COUNT_POWER, Negatives, full_softmax_loss, sampled_softmax_loss


def problem(num_contexts: int = 70, num_vectors: int = 90, width: int = 8, scale: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    contexts = (scale * torch.randn(num_contexts, width)).requires_grad_()
    return contexts, torch.randn(num_vectors, width, requires_grad=True), torch.randint(num_vectors, (num_contexts,))


def gradients(loss: Tensor, *inputs: Tensor) -> list[Tensor]:
    return [gradient.clone() for gradient in torch.autograd.grad(loss, inputs)]


@pytest.fixture
def slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slices of 16 contexts, so that several and an incomplete one are needed."""
    monkeypatch.setitem(softmax.CHUNK_ELEMENTS, "cpu", 1)
    monkeypatch.setattr(softmax, "LEAST_ROWS", 16)


@pytest.mark.usefixtures("slices")
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("scale", [1.0, 60.0])
def test_loss_and_gradients_are_those_of_torch(smoothing: float, scale: float) -> None:
    contexts, vectors, targets = problem(scale=scale)
    logits = contexts @ vectors.T
    wanted = F.cross_entropy(logits, targets, reduction="sum", label_smoothing=smoothing)
    loss, nll = full_softmax_loss(contexts, vectors, targets, smoothing)
    torch.testing.assert_close(loss, wanted, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(nll, F.cross_entropy(logits, targets, reduction="sum"), rtol=1e-5, atol=1e-4)
    assert not nll.requires_grad
    for found, gradient in zip(gradients(3 * loss, contexts, vectors), gradients(3 * wanted, contexts, vectors), strict=True):
        torch.testing.assert_close(found, gradient, rtol=1e-5, atol=1e-5 * scale)


@pytest.mark.usefixtures("slices")
def test_products_in_bf16_stay_close() -> None:
    contexts, vectors, targets = problem()
    wanted = full_softmax_loss(contexts, vectors, targets)[0]
    with torch.autocast("cpu", torch.bfloat16):
        loss = full_softmax_loss(contexts, vectors, targets)[0]
    assert loss.dtype == torch.float32
    assert not torch.equal(loss, wanted), "autocast is without effect"
    torch.testing.assert_close(loss, wanted, rtol=3e-3, atol=0)
    for found, gradient in zip(gradients(loss, contexts, vectors), gradients(wanted, contexts, vectors), strict=True):
        assert float((found - gradient).norm() / gradient.norm()) < 0.02


def test_slices_of_a_large_catalogue_are_not_thin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(softmax.CHUNK_ELEMENTS, "cpu", 1)
    contexts, vectors, targets = problem(320, 250)
    assert largest_tensor(lambda: full_softmax_loss(contexts, vectors, targets)[0]) == softmax.LEAST_ROWS * 250


def test_no_confident_context_costs_less_than_nothing_in_bf16() -> None:
    torch.manual_seed(0)
    vectors, targets = torch.randn(50, 8), torch.arange(50)
    contexts = 30 * vectors
    with torch.autocast("cpu", torch.bfloat16):
        nll = full_softmax_loss(contexts, vectors, targets)[1]
        each = [float(full_softmax_loss(contexts[i : i + 1], vectors, targets[i : i + 1])[1]) for i in range(50)]
    assert float(contexts[0] @ vectors[0]) > 100
    assert min(each) >= 0
    assert float(nll) == pytest.approx(sum(each), abs=1e-3)


def test_smoothing_is_float32_under_autocast() -> None:
    contexts, vectors, targets = problem()
    negatives = Negatives.draw(torch.ones(90), 40)

    @torch.no_grad()
    def parts() -> tuple[float, float]:
        full, sampled = (
            tuple(loss(contexts, vectors, targets, *more, s)[0] for s in (0.0, 1.0))
            for loss, more in ((full_softmax_loss, ()), (sampled_softmax_loss, (negatives,)))
        )
        return float(full[1] - full[0]), float(sampled[1] - sampled[0])

    wanted = parts()
    with torch.autocast("cpu", torch.bfloat16):
        assert parts() == pytest.approx(wanted, rel=1e-4)


def test_a_sample_in_bf16_stays_close_and_is_summed_in_float32() -> None:
    contexts, vectors, targets = problem(200, 90)
    negatives = Negatives.draw(torch.ones(90), 64)
    wanted = sampled_softmax_loss(contexts, vectors, targets, negatives)[0]
    with torch.autocast("cpu", torch.bfloat16):
        loss = sampled_softmax_loss(contexts, vectors, targets, negatives)[0]
    assert not torch.equal(loss, wanted), "autocast is without effect"
    gold = (contexts * vectors[targets]).sum(1)
    products = (contexts.bfloat16() @ vectors[negatives.items].bfloat16().T).float() - negatives.log_expected
    products = products.masked_fill(targets[:, None] == negatives.items, -torch.inf)
    by_hand = (torch.cat((gold[:, None], products), 1).logsumexp(1) - gold).sum()
    torch.testing.assert_close(loss, by_hand, rtol=1e-5, atol=1e-3)


class LargestTensor(TorchDispatchMode):
    """Notes the size of the largest result of any operation."""

    numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, tuple | list) else [result]:
            if isinstance(value, Tensor):
                self.numel = max(self.numel, value.numel())
        return result


def largest_tensor(loss: Any) -> int:
    with LargestTensor() as mode:
        loss().backward()
    return mode.numel


def test_no_matrix_of_all_logits_is_ever_held(slices: None) -> None:
    contexts, vectors, targets = problem(320, 250)
    whole = largest_tensor(lambda: F.cross_entropy(contexts @ vectors.T, targets))
    assert whole == 320 * 250, "the watch sees what it is meant to see"
    for autocast in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            assert largest_tensor(lambda: full_softmax_loss(contexts, vectors, targets)[0]) == 16 * 250


def test_candidates_left_out_have_no_part_in_the_loss() -> None:
    contexts, vectors, targets = problem()
    kept = torch.arange(0, 90, 2)
    mask = torch.full((90,), -torch.inf).index_fill(0, kept, 0.0)
    places = targets % len(kept)
    wanted = F.cross_entropy(contexts @ vectors.T + mask, kept[places], reduction="sum")
    loss = full_softmax_loss(contexts, vectors[kept], places)[0]
    torch.testing.assert_close(loss, wanted)
    gradient = gradients(loss, vectors)[0]
    assert (gradient[1::2] == 0).all()
    assert (gradient[kept] != 0).all()


def mean_gradient(counts: Tensor, num: int, *, corrected: bool) -> Tensor:
    """Gradient by the contexts of sampled losses, over many draws."""
    contexts, vectors, targets = problem(5, len(counts))
    total = torch.zeros_like(contexts)
    for _ in range(400):
        negatives = Negatives.draw(counts, num)
        if not corrected:
            negatives = Negatives(negatives.items, torch.zeros(num))
        total += gradients(sampled_softmax_loss(contexts, vectors, targets, negatives)[0], contexts)[0]
    return total / 400


def test_the_gradient_of_samples_is_on_average_that_of_all_candidates() -> None:
    counts = torch.arange(1, 31).float() ** 2
    contexts, vectors, targets = problem(5, 30)
    whole = gradients(full_softmax_loss(contexts, vectors, targets)[0], contexts)[0]
    error = (mean_gradient(counts, 200, corrected=True) - whole).norm() / whole.norm()
    uncorrected = (mean_gradient(counts, 200, corrected=False) - whole).norm() / whole.norm()
    assert error < 0.03
    assert uncorrected > 5 * error


def test_the_loss_of_a_sample_by_hand() -> None:
    contexts, vectors, targets = problem(4, 12)
    negatives = Negatives(torch.tensor([3, 3, 7, int(targets[0])]), torch.tensor([0.5, 0.5, -1.0, 0.2]))
    logits, wanted = (contexts @ vectors.T).detach(), 0.0
    for row, target in enumerate(targets.tolist()):
        pairs = zip(negatives.items.tolist(), negatives.log_expected.tolist(), strict=True)
        others = sum(float((logits[row, item] - log).exp()) for item, log in pairs if item != target)
        wanted -= float(torch.log(logits[row, target].exp() / (logits[row, target].exp() + others)))
    loss, nll = sampled_softmax_loss(contexts, vectors, targets, negatives)
    assert torch.equal(loss, nll)
    assert float(nll) == pytest.approx(wanted, rel=1e-5)


def test_a_sample_of_nothing_but_the_target_costs_nothing() -> None:
    contexts, vectors, _ = problem(3, 6)
    targets = torch.full((3,), 4)
    loss = sampled_softmax_loss(contexts, vectors, targets, Negatives(torch.full((5,), 4), torch.zeros(5)))[0]
    assert loss.item() == 0
    assert all(torch.isfinite(gradient).all() for gradient in gradients(loss, contexts, vectors))


def test_smoothing_of_a_large_sample_is_that_of_all_candidates() -> None:
    contexts, vectors, targets = problem(6, 20)
    negatives = Negatives.draw(torch.arange(1, 21).float(), 60_000)
    found = sampled_softmax_loss(contexts, vectors, targets, negatives, 0.5)[0]
    wanted = full_softmax_loss(contexts, vectors, targets, 0.5)[0]
    torch.testing.assert_close(found, wanted, rtol=5e-3, atol=0)


def test_negatives_are_drawn_in_proportion_to_counts_and_by_the_seed() -> None:
    counts = torch.tensor([0.0, 1, 16, 0, 81])
    torch.manual_seed(1)
    negatives = Negatives.draw(counts, 100_000)
    found = torch.bincount(negatives.items, minlength=5)
    wanted = 100_000 * counts**COUNT_POWER / (1 + 8 + 27)
    assert found[[0, 3]].tolist() == [0, 0], "an item without interactions is never drawn"
    torch.testing.assert_close(found.float(), wanted, rtol=0.05, atol=0)
    torch.testing.assert_close(negatives.log_expected.exp(), wanted[negatives.items])
    torch.manual_seed(1)
    assert torch.equal(Negatives.draw(counts, 100_000).items, negatives.items)
