"""The public encoder for feature vectors: shapes, training, memory, files."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from felid.errors import ArtifactError, EmbeddingError, SemanticIdError
from felid.quantize import encoder as encoder_module
from felid.quantize import encoder_training
from felid.quantize.codebook import SemanticIDConfig
from felid.quantize.encoder import SemanticIDEncoder, SemanticIDEncoderInterface
from felid.quantize.encoder_training import compute_codebook_utilization, start_codebooks, train_codebook
from felid.rows import RowFile, Vectors

WIDTH = 8


def features(count: int = 300, seed: int = 0) -> Vectors:
    rng = np.random.default_rng(seed)
    centres = 2 * rng.normal(size=(20, WIDTH))
    return (centres[rng.integers(20, size=count)] + rng.normal(size=(count, WIDTH))).astype(np.float32)


def surface(count: int) -> Vectors:
    """Points of a curved surface of two dimensions, which codes around a decoder can follow better than codes alone."""
    rng = np.random.default_rng(0)
    return np.sin(2 * rng.uniform(-1, 1, (count, 2)) @ rng.normal(size=(2, WIDTH))).astype(np.float32)


def small(**settings: Any) -> SemanticIDEncoder:
    torch.manual_seed(0)
    return SemanticIDEncoder(SemanticIDConfig(WIDTH, 3, (8, 12, 16), **settings))


def state(encoder: SemanticIDEncoder) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in encoder.state_dict().items()}


def assert_equal(one: tuple[Tensor, ...], other: tuple[Tensor, ...]) -> None:
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_the_documented_names_and_shapes() -> None:
    encoder, batch = small(), torch.from_numpy(features(20))
    assert isinstance(encoder, SemanticIDEncoderInterface)
    l1, l2, l3 = encoder.encode(batch)
    for codes, size in zip((l1, l2, l3), (8, 12, 16), strict=True):
        assert codes.shape == (20,) and codes.dtype == torch.int64 and 0 <= codes.min() <= codes.max() < size
    assert encoder.decode(l1, l2, l3).shape == encoder.decode(l1).shape == (20, WIDTH)
    assert not encoder.decode(l1, l2, l3).requires_grad
    assert [tuple(encoder.get_codebook_embeddings(level).shape) for level in range(3)] == [(8, WIDTH), (12, WIDTH), (16, WIDTH)]
    out = encoder.rq_vae(batch)
    assert {"quantized", "indices", "reconstruction_loss", "commitment_loss", "total_loss"} <= set(out)
    assert isinstance(out["indices"], list) and out["quantized"].shape == (20, WIDTH) and out["total_loss"].ndim == 0


def test_the_interface_cannot_be_made() -> None:
    with pytest.raises(TypeError, match="abstract"):
        SemanticIDEncoderInterface()  # type: ignore[abstract]


def test_the_given_codebook_is_a_copy() -> None:
    encoder = small(update="gradient")
    before = encoder.get_codebook_embeddings(0)
    before.zero_()
    assert encoder.get_codebook_embeddings(0).abs().sum() > 0
    with pytest.raises(SemanticIdError, match="got level 3; expected 0 to 2"):
        encoder.get_codebook_embeddings(3)


@pytest.mark.parametrize("update", ["ema", "gradient"])
def test_a_loop_of_ones_own_lowers_the_total_loss(update: Any) -> None:
    encoder, batch = small(update=update), torch.from_numpy(features())
    optimizer = torch.optim.Adam(encoder.parameters(), lr=1e-2)
    losses = []
    for _ in range(60):
        loss = encoder.rq_vae(batch)["total_loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
    assert np.mean(np.diff(losses) < 0) > 0.7


@pytest.mark.parametrize("is_training", [True, False])
def test_encode_never_updates(is_training: bool) -> None:
    encoder = small(sinkhorn_epsilon=0.05).train(is_training)
    before = state(encoder)
    encoder.encode(features())
    assert encoder.training == encoder.rq_vae.training == is_training
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())
    encoder.rq_vae(torch.from_numpy(features()))
    assert is_training != torch.equal(encoder.rq_vae.quantizer.level(0).codebook, before["rq_vae.quantizer.levels.0.codebook"])


def test_tensors_arrays_and_files_give_the_same_codes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, x = small(), features()
    np.save(tmp_path / "x.npy", x)
    whole = encoder.encode(torch.from_numpy(x))
    assert_equal(encoder.encode(x), whole)
    monkeypatch.setattr(encoder_module, "BATCH", 70)
    assert_equal(encoder.encode(np.load(tmp_path / "x.npy", mmap_mode="r")), whole)
    assert_equal(encoder.encode(RowFile(tmp_path / "x.npy")), whole)
    assert_equal(encoder.encode(x.astype(np.float64)), whole)
    assert_equal(encoder.encode(x[:0]), tuple(torch.zeros(0, dtype=torch.int64) for _ in range(3)))


def test_codes_do_not_depend_on_the_rows_beside_them() -> None:
    """Sixteen levels of ever smaller codes: latents that differ in the last bits show."""
    torch.manual_seed(0)
    encoder = SemanticIDEncoder(SemanticIDConfig(WIDTH, 16, (256,) * 16))
    for parameter in encoder.rq_vae.encoder.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    for level in range(16):
        encoder.rq_vae.quantizer.level(level).set_codebook(encoder.get_codebook_embeddings(level) / 2**level)
    x = features(700)
    whole = torch.stack(encoder.encode(x), 1)
    assert len(whole.unique(dim=0)) > 600
    for rows in (slice(0, 1), slice(3, 260), slice(699, 700), slice(5, 600, 7)):
        assert torch.equal(torch.stack(encoder.encode(x[rows]), 1), whole[rows])


def error(encoder: SemanticIDEncoder, x: Vectors) -> float:
    return float(((encoder.decode(*encoder.encode(x)).numpy() - x) ** 2).mean() / x.var())


def test_training_starts_from_k_means_lowers_the_loss_and_keeps_the_codes_in_use() -> None:
    encoder, x, random, kmeans = small(), surface(2000), small(), small()
    history = train_codebook(encoder, x, 8, batch_size=200)
    assert [record["epoch"] for record in history] == list(range(1, 9))
    assert history[-1]["total_loss"] < 0.95 * history[0]["total_loss"]
    start_codebooks(kmeans, x)
    train_codebook(random, x, 8, batch_size=200, start=False)
    assert error(kmeans, x) < 0.04
    assert error(encoder, x) < 0.04 < error(random, x)
    assert all(level["utilisation"] == 1 for level in compute_codebook_utilization(encoder, x))
    assert not encoder.training


def test_a_record_says_what_happened() -> None:
    encoder, x = small(), features()
    first, last = train_codebook(encoder, x, 2, batch_size=1000, learning_rate=1e-9, start=False)
    fresh = small()
    out = fresh.train().rq_vae(torch.from_numpy(x))
    np.testing.assert_allclose(first["total_loss"], out["total_loss"].item(), rtol=1e-4)
    np.testing.assert_allclose(first["reconstruction_loss"], out["reconstruction_loss"].item(), rtol=1e-4)
    np.testing.assert_allclose(first["level_losses"], out["level_losses"], rtol=1e-4)
    used = [len(np.unique(codes)) for codes in out["indices"]]
    np.testing.assert_allclose(first["utilisation"], np.array(used) / (8, 12, 16))
    assert first["reseeded"] == [size - one for size, one in zip((8, 12, 16), used, strict=True)]
    assert last["reseeded"] == [0, 0, 0]  # only in the first half


def test_training_depends_on_its_seed_and_on_nothing_else() -> None:
    x, states = features(), []
    for seed, noise in ((0, 1), (0, 2), (1, 1)):
        encoder = small()
        torch.manual_seed(noise)
        before = torch.get_rng_state()
        train_codebook(encoder, x, 2, batch_size=64, seed=seed)
        assert torch.equal(torch.get_rng_state(), before)
        states.append(state(encoder))
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    assert any(not torch.equal(value, states[2][name]) for name, value in states[0].items())


def test_features_are_read_a_batch_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    class Rows:
        largest = 0

        def __init__(self, x: Vectors) -> None:
            self.x, self.shape = x, x.shape

        def __getitem__(self, rows: slice | NDArray[np.int64]) -> Vectors:
            part = self.x[rows]
            self.largest = max(self.largest, len(part))
            return part

    monkeypatch.setattr(encoder_module, "BATCH", 50)
    monkeypatch.setattr(encoder_training, "BATCH", 50)
    source, encoder = Rows(features(400)), small()
    train_codebook(encoder, source, 2, batch_size=50)
    compute_codebook_utilization(encoder, source)
    encoder.encode(source)
    assert source.largest == 50


def test_utilisation_is_that_of_the_codes() -> None:
    encoder, x = small(), features()
    levels = compute_codebook_utilization(encoder, x)
    for level, codes in enumerate(encoder.encode(x)):
        counts = np.bincount(codes, minlength=(8, 12, 16)[level])
        share = counts[counts > 0] / counts.sum()
        assert levels[level]["level"] == level and levels[level]["size"] == len(counts)
        assert levels[level]["used"] == len(share) and levels[level]["utilisation"] == len(share) / len(counts)
        np.testing.assert_allclose(levels[level]["perplexity"], np.exp(-(share * np.log(share)).sum()))
    assert [level["used"] for level in compute_codebook_utilization(encoder, x[:0])] == [0, 0, 0]


def test_bad_features_and_settings_are_refused() -> None:
    encoder, x = small(), features()
    with pytest.raises(EmbeddingError, match=r"got features of shape \(300, 7\); expected \(B, 8\)"):
        encoder.encode(x[:, :7])
    with pytest.raises(EmbeddingError, match=r"shape \(8,\)"):
        encoder.encode(x[0])
    x[[3, 5], 2] = np.nan
    with pytest.raises(EmbeddingError, match="2 of 300 feature vectors in a batch hold NaN"):
        encoder.encode(x)
    with pytest.raises(EmbeddingError, match="got no item features"):
        train_codebook(encoder, x[:0])
    with pytest.raises(SemanticIdError, match="num_epochs 0 and batch_size 4096; expected at least 1"):
        train_codebook(encoder, features(), 0)
    with pytest.raises(SemanticIdError, match="got learning_rate 0"):
        train_codebook(encoder, features(), learning_rate=0)
    for start in (True, False):
        with pytest.raises(SemanticIdError, match="got seed -1; expected 0 to"):
            train_codebook(encoder, features(), seed=-1, start=start)
    with pytest.raises(SemanticIdError, match="got seed -1"):
        start_codebooks(encoder, features(), seed=-1)
    with pytest.raises(SemanticIdError, match="size of the first level is 8 but the 5 items"):
        train_codebook(encoder, features(5))
    with pytest.raises(SemanticIdError, match="expected positive ones"):
        SemanticIDEncoder(SemanticIDConfig(WIDTH, 1, (4,)), hidden=(0,))


def test_training_that_diverges_stops_with_a_remedy_and_leaves_training_mode() -> None:
    encoder = small()
    with pytest.raises(SemanticIdError, match=r"the total loss is (nan|inf) in epoch \d; lower learning_rate \(1e\+20\)"):
        train_codebook(encoder, features(), 3, batch_size=64, learning_rate=1e20)
    assert not encoder.training


@pytest.mark.parametrize("update", ["ema", "gradient"])
def test_saved_is_loaded(tmp_path: Path, update: Any) -> None:
    torch.manual_seed(0)
    encoder, x = SemanticIDEncoder(SemanticIDConfig(WIDTH, 2, (8, 12), update=update), hidden=(5, 6)), features()
    train_codebook(encoder, x, 1)
    encoder.save_pretrained(tmp_path / "new" / "folder")
    loaded = SemanticIDEncoder.from_pretrained(tmp_path / "new" / "folder")
    assert loaded.config == encoder.config and loaded.hidden == (5, 6) and not loaded.training
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in encoder.state_dict().items())
    assert_equal(loaded.encode(x), encoder.encode(x))
    assert sorted(path.name for path in (tmp_path / "new" / "folder").iterdir()) == ["config.json", "model.safetensors"]


@pytest.mark.parametrize("damage", ["no config", "no weights", "cut", "other sizes", "unknown field", "impossible"])
def test_damaged_files_are_refused(tmp_path: Path, damage: str) -> None:
    small().save_pretrained(tmp_path)
    config, weights = tmp_path / "config.json", tmp_path / "model.safetensors"
    match damage:
        case "no config":
            config.unlink()
        case "no weights":
            weights.unlink()
        case "cut":
            weights.write_bytes(weights.read_bytes()[:-100])
        case _:
            change = {"other sizes": {"embedding_dim": 9}, "unknown field": {"colour": 1}, "impossible": {"ema_decay": 2}}[damage]
            config.write_text(json.dumps(json.loads(config.read_text()) | change))
    with pytest.raises(ArtifactError):
        SemanticIDEncoder.from_pretrained(tmp_path)


STEP = """
import torch
from felid.artifacts import peak_rss_mib
from felid.quantize.codebook import SemanticIDConfig
from felid.quantize.encoder import SemanticIDEncoder
encoder, batch = SemanticIDEncoder(SemanticIDConfig()), torch.randn(4096, 256)
encoder.rq_vae(batch)["total_loss"].backward()
encoder.encode(batch)
print(peak_rss_mib())
"""


@pytest.mark.slow
def test_a_step_of_the_default_sizes_stays_small() -> None:
    done = subprocess.run([sys.executable, "-c", STEP], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 1024  # MiB; scores of all rows and codes of the last level alone would take 256 more
