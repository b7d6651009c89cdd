"""The training loop: it learns, keeps the best weights, stops, and leaves whole checkpoints."""

from __future__ import annotations

import json
from itertools import count
from pathlib import Path

import pytest
import torch
from accelerate.optimizer import AcceleratedOptimizer
from safetensors.torch import load_file

from felid.data.histories import EvaluationSet
from felid.errors import ArtifactError, RecipeError
from felid.models import load_model, load_weights, save_model
from felid.models.generative import GenerativeModel
from felid.search import score_items
from felid.training import TrainingConfig
from felid.training.checkpoints import load_progress
from tests.tiny import KINDS, Kind, catalogue, config_of, histories_of, random_model
from tests.training.world import SHORT, Setting

LEARN = TrainingConfig(epochs=12, batch_targets=32, learning_rate=5e-3, warmup_share=0.1, patience=0, precision="fp32")


@pytest.mark.parametrize("kind", KINDS)
def test_learns_the_toy_world(kind: Kind, tmp_path: Path) -> None:
    changes = {"history": 4, "user_buckets": 0} if kind == "tiger" else {}
    config = config_of(kind, width=32, feed_forward=64, dropout=0.0, **changes)
    setting = Setting.of(kind, config, num_users=288 if kind == "tiger" else 120)
    progress = setting.train(tmp_path, LEARN)
    test = setting.world.split.evaluation("test")
    assert setting.metrics(setting.model, test)["recall@1"] >= 0.9
    assert progress.curve[-1]["loss"] < 0.3 * progress.curve[0]["loss"]
    assert_decoder_reads_its_encoder(setting, test)


def assert_decoder_reads_its_encoder(setting: Setting, test: EvaluationSet) -> None:
    """A decoder that ignores its encoder gives every history the same scores (pitfall: TIGER reproductions)."""
    users = range(0, len(test.targets), len(test.targets) // 24)
    histories = histories_of([test.histories[row][-4:].tolist() for row in users][:24])
    everything = torch.arange(setting.world.num_items).expand(24, -1)
    scores = score_items(setting.model, histories, everything, setting.data.trie)
    assert (scores[1:] - scores[0]).abs().amax(1).median() > 1
    assert len(scores.argmax(1).unique()) > 12


def scripted(values: list[float], seen: list[torch.Tensor]) -> object:
    """A validation with given NDCG@10, noting the weights it saw."""
    turn = count()

    def validate(model: GenerativeModel) -> dict[str, float]:
        assert not model.training
        seen.append(model.tokens.weight.detach().clone())
        return {"ndcg@10": values[next(turn)]}

    return validate


def test_the_best_weights_by_validation_ndcg_are_kept(tmp_path: Path) -> None:
    setting, seen = Setting.of("lynx"), []
    progress = setting.train(tmp_path, SHORT, scripted([0.1, 0.3, 0.2, 0.3, 0.25, 0.0], seen))
    assert progress.best == 0.3
    assert progress.best_checkpoint == f"checkpoint-{progress.curve[1]['step']}", "the first of equals"
    assert progress.last_checkpoint == f"checkpoint-{progress.step}"
    assert torch.equal(setting.model.tokens.weight, seen[1])
    assert not setting.model.training
    assert torch.equal(load_file(tmp_path / progress.best_checkpoint / "model.safetensors")["tokens.weight"], seen[1])
    assert torch.equal(load_file(tmp_path / progress.last_checkpoint / "model.safetensors")["tokens.weight"], seen[5])
    assert sorted(path.name for path in tmp_path.glob("*checkpoint*")) == sorted(
        {progress.best_checkpoint, progress.last_checkpoint}
    )
    assert load_progress(tmp_path) == progress


def test_patience_stops(tmp_path: Path) -> None:
    setting = Setting.of("lynx")
    progress = setting.train(tmp_path, SHORT.model_copy(update={"patience": 2}), scripted([0.1, 0.3, 0.2, 0.3], []))
    assert progress.finished
    assert len(progress.curve) == 4
    again = Setting.of("lynx").train(tmp_path, SHORT, scripted([], []))
    assert again == progress, "a finished training has nothing left to do"


def test_a_finished_training_gives_its_best_weights_again(tmp_path: Path) -> None:
    first, second = Setting.of("tiger"), Setting.of("tiger", seed=9)
    first.train(tmp_path)
    second.train(tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(first.model.parameters(), second.model.parameters(), strict=True))


@pytest.mark.parametrize("every", [1, 3, 1000])
def test_validations_per_epoch_and_what_the_curve_says(tmp_path: Path, every: int) -> None:
    setting = Setting.of("lynx")
    steps = len(setting.data.examples.batches(64, (3, 0)))
    progress = setting.train(tmp_path, SHORT.model_copy(update={"validations_per_epoch": every, "epochs": 2}))
    assert len(progress.curve) == 2 * min(every, steps)
    assert [entry["epoch"] for entry in progress.curve][-1] == 2
    assert progress.step == 2 * steps
    assert progress.targets == progress.curve[-1]["targets"] == 2 * setting.data.examples.num_targets
    assert {"step", "epoch", "targets", "seconds", "loss", "recall@1", "ndcg@10"} == set(progress.curve[0])


def test_the_optimizer_follows_the_schedule(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rates, step = [], AcceleratedOptimizer.step

    def spy(self: AcceleratedOptimizer) -> None:
        rates.append(self.param_groups[0]["lr"])
        step(self)

    monkeypatch.setattr(AcceleratedOptimizer, "step", spy)
    config = SHORT.model_copy(update={"warmup_share": 0.4, "schedule": "linear", "learning_rate": 0.01, "epochs": 4})
    total = Setting.of("lynx").train(tmp_path, config).step
    warmup = int(0.4 * total)
    assert len(rates) == total
    assert rates[warmup] == max(rates) == 0.01
    assert rates[: warmup + 1] == pytest.approx([0.01 * (n + 1) / (warmup + 1) for n in range(warmup + 1)])
    assert rates[-1] < 0.01 * (0.01 + 1 / (total - warmup))


def test_bf16_and_fp32_trainings_follow_each_other_in_one_process(tmp_path: Path) -> None:
    setting, plain = Setting.of("lynx"), Setting.of("lynx")
    setting.train(tmp_path / "bf16", SHORT.model_copy(update={"precision": "bf16", "epochs": 1}))
    plain.train(tmp_path / "fp32", SHORT.model_copy(update={"epochs": 1}))
    assert all(parameter.dtype == torch.float32 for parameter in setting.model.parameters())
    gap = (setting.model.tokens.weight - plain.model.tokens.weight).abs().max()
    assert 0 < gap < 0.05
    histories, target = histories_of([[1], [2]]), torch.tensor([3, 4])
    log_probs = setting.model(histories, target, setting.data.trie)[0]
    wanted = score_items(setting.model, histories, target[:, None], setting.data.trie)[:, 0]
    torch.testing.assert_close(log_probs, wanted, atol=1e-5, rtol=1e-5, msg="autocast outlived the training")


def test_a_loss_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    setting = Setting.of("lynx")
    setting.model.tokens.weight.data[5] = torch.nan
    with pytest.raises(RecipeError, match=r"not finite.*learning_rate"):
        setting.train(tmp_path)
    assert not list(tmp_path.glob("*checkpoint*"))


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_model_comes_back_whole(kind: Kind, tmp_path: Path) -> None:
    ids = catalogue()
    model, vectors = random_model(kind, ids), torch.zeros(20, 6).numpy()
    if kind == "lynx":
        vectors = model.embeddings.numpy()
    save_model(tmp_path, model)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
    assert json.loads((tmp_path / "config.json").read_text())["model"]["kind"] == kind
    loaded = load_model(tmp_path, ids, vectors)
    assert not loaded.training
    assert loaded.config == model.config
    assert loaded.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in loaded.state_dict().items())


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_of_another_catalogue_is_refused(kind: Kind, tmp_path: Path) -> None:
    three, four = catalogue(20, (4, 3, 5)), catalogue(20, (4, 3, 5, 2))
    save_model(tmp_path, random_model(kind, four))
    vectors = torch.zeros(20, 6).numpy()
    with pytest.raises(ArtifactError, match=r"\(4, 3, 5, 2\).*\(4, 3, 5\).*train again"):
        load_model(tmp_path, three, vectors)
    with pytest.raises(ArtifactError, match="does not fit this model"):
        load_weights(tmp_path, random_model(kind, three))
    (tmp_path / "model.safetensors").write_bytes(b"half")
    with pytest.raises(ArtifactError, match="train again"):
        load_model(tmp_path, four, vectors)
