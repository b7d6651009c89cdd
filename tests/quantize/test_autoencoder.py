"""The RQ-VAE's network: losses, gradients, encoding without updates, and state."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from felid.errors import SemanticIdError
from felid.quantize.autoencoder import RQVAENetwork, Skip, in_blocks, mlp
from felid.quantize.codebook import SemanticIDConfig


def rows(count: int = 64, width: int = 10, seed: int = 0) -> Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def network(**settings: Any) -> RQVAENetwork:
    torch.manual_seed(0)
    return RQVAENetwork((10, 12, 6), SemanticIDConfig(6, 2, (8, 16), **settings))


def test_encoder_and_decoder_are_mirrored_with_relu_between() -> None:
    model, x = network(), rows()
    shapes = [tuple(layer.weight.shape) for layer in [*model.encoder, *model.decoder] if isinstance(layer, nn.Linear)]
    assert shapes == [(12, 10), (6, 12), (12, 6), (10, 12)]
    first, last = model.encoder[0], model.encoder[2]
    hidden = np.maximum(x.numpy() @ first.weight.detach().numpy().T + first.bias.detach().numpy(), 0)
    expected = hidden @ last.weight.detach().numpy().T + last.bias.detach().numpy()
    np.testing.assert_allclose(model.encoder(x).detach(), expected, atol=1e-5)
    assert model.encoder(x).min() < 0  # no ReLU after the last


@pytest.mark.parametrize("update", ["ema", "gradient"])
def test_losses_add_up_to_the_total(update: Any) -> None:
    model, x = network(update=update, commitment_cost=0.3).eval(), rows()
    out = model(x)
    np.testing.assert_allclose(out["reconstruction_loss"].detach(), ((out["reconstruction"] - x) ** 2).mean().detach(), rtol=1e-5)
    total = out["reconstruction_loss"] + 0.3 * out["commitment_loss"] + out["codebook_loss"]
    np.testing.assert_allclose(out["total_loss"].detach(), total.detach(), rtol=1e-6)
    assert (out["codebook_loss"] > 0) == (update == "gradient")
    assert out["quantized"].shape == (64, 6) and len(out["indices"]) == 2 and out["level_losses"].shape == (2,)


@pytest.mark.parametrize("update", ["ema", "gradient"])
@pytest.mark.parametrize("estimator", ["straight-through", "rotation"])
def test_pitfall_total_loss_without_a_gradient_path(update: Any, estimator: Any) -> None:
    model = network(update=update, estimator=estimator)
    model(rows())["total_loss"].backward()
    parameters = dict(model.named_parameters())
    assert len(parameters) == (10 if update == "gradient" else 8)
    for name, parameter in parameters.items():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_the_straight_through_gradient_is_that_of_no_quantiser() -> None:
    model, x = network(commitment_cost=0.0), rows()
    latent = model.encoder(x).detach().requires_grad_()
    out = model.quantizer(latent)
    loss = ((model.decoder(out.quantized) - x) ** 2).mean()
    at = out.quantized.detach().requires_grad_()
    (expected,) = torch.autograd.grad(((model.decoder(at) - x) ** 2).mean(), at)
    assert torch.equal(torch.autograd.grad(loss, latent)[0], expected)


@pytest.mark.parametrize("is_training", [True, False])
def test_encoding_never_updates_and_keeps_the_mode(is_training: bool) -> None:
    model, x = network(sinkhorn_epsilon=0.05).train(is_training), rows()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    codes = model.encode(x)
    assert model.training == model.quantizer.level(1).training == is_training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(torch.equal(a, b) for a, b in zip(codes, model.eval()(x)["indices"], strict=True))
    assert [(one.dtype, one.shape) for one in codes] == [(torch.int64, (64,))] * 2


def test_a_rows_codes_do_not_depend_on_the_rows_beside_it() -> None:
    model, x = network(), rows(600)
    latents, codes = in_blocks(model.encoder, x), torch.stack(model.encode(x), 1)
    np.testing.assert_allclose(latents, model.encoder(x).detach(), atol=1e-5)
    for row in (0, 255, 256, 599):
        assert torch.equal(in_blocks(model.encoder, x[row : row + 1])[0], latents[row])
        assert torch.equal(torch.stack(model.encode(x[row : row + 1]), 1)[0], codes[row])
    assert [one.shape for one in model.encode(x[:0])] == [(0,)] * 2


def test_decoding_codes_is_the_forward_pass() -> None:
    model, x = network().eval(), rows()
    np.testing.assert_allclose(model.decode(model.encode(x)).detach(), model(x)["reconstruction"].detach(), atol=1e-6)
    assert model.decode(model.encode(x)[:1]).shape == (64, 10)


@pytest.mark.parametrize("update", ["ema", "gradient"])
def test_the_network_learns_clusters(update: Any) -> None:
    model, centres = network(update=update), 2 * rows(8, seed=1)
    x = centres.repeat(16, 1) + 0.05 * rows(128)
    model.quantizer.level(0).set_codebook(model.encoder(x[:8]).detach())
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(150):
        loss = model(x)["total_loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    error = float((model.decode(model.encode(x)) - x).detach().square().mean() / x.var())
    assert error < 0.1
    ids = torch.stack(model.encode(x), 1).view(16, 8, 2)
    assert len(ids[0].unique(dim=0)) == 8
    assert (ids == ids[:1]).all(2).float().mean() > 0.8


def test_state_round_trip() -> None:
    source, x = network(), rows()
    source(x)
    target = network()
    target.load_state_dict(source.state_dict())
    ours, theirs = source(x), target(x)
    assert torch.equal(ours["reconstruction"], theirs["reconstruction"])
    assert all(torch.equal(value, target.state_dict()[name]) for name, value in source.state_dict().items())


def test_a_skip_network_starts_as_plain_residual_quantisation() -> None:
    model, x = RQVAENetwork((6, 9, 6), SemanticIDConfig(6, 2, (8, 16)), skip=True), rows(width=6)
    assert torch.equal(model.encoder(x), x)
    assert torch.equal(model.decode(model.encode(x)), model.quantizer.decode(*model.quantizer.encode(x)))
    model(x)["total_loss"].backward()
    assert isinstance(model.encoder, Skip)
    assert model.encoder.layers[-1].weight.grad.abs().sum() > 0


@pytest.mark.parametrize("widths", [(), (10, 0, 6), (10, 12, 7)])
def test_other_widths_are_refused(widths: tuple[int, ...]) -> None:
    with pytest.raises(SemanticIdError, match="expected positive ones that end with embedding_dim 6"):
        RQVAENetwork(widths, SemanticIDConfig(6, 2, (8, 16)))


@pytest.mark.parametrize("widths", [(6,), (10, 6)])
def test_a_skip_needs_equal_ends(widths: tuple[int, ...]) -> None:
    with pytest.raises(SemanticIdError, match="skip=False"):
        RQVAENetwork(widths, SemanticIDConfig(6, 2, (8, 16)), skip=True)


def test_of_one_width_the_network_is_the_quantiser() -> None:
    x = rows(width=6)
    assert torch.equal(mlp((6,))(x), x)
    model = RQVAENetwork((6,), SemanticIDConfig(6, 2, (8, 16))).eval()
    np.testing.assert_allclose(model(x)["reconstruction"], model.quantizer.decode(*model.encode(x)), atol=1e-6)
