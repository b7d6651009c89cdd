"""The training loop: it learns, keeps the best weights, stops, and leaves whole checkpoints."""

from __future__ import annotations

import io
from itertools import count
from pathlib import Path

import pytest
import torch
from accelerate.optimizer import AcceleratedOptimizer
from rich.console import Console
from safetensors.torch import load_file

from felid.config import as_tree
from felid.data.histories import EvaluationSet
from felid.errors import RecipeError
from felid.models.lynx import Lynx
from felid.search import score_items
from felid.training import TrainingConfig, train
from felid.training.checkpoints import load_progress
from tests.tiny import KINDS, Kind, config_of, histories_of
from tests.training.world import SHORT, Setting

LEARN = TrainingConfig(epochs=12, batch_targets=32, learning_rate=5e-3, warmup_share=0.1, patience=0, precision="fp32")


@pytest.mark.parametrize("kind", [pytest.param(kind, marks=pytest.mark.slow if kind == "liger" else ()) for kind in KINDS])
def test_learns_the_toy_world(kind: Kind, tmp_path: Path) -> None:
    changes = {"dense_weight": 0} if kind == "lynx" else {"history": 4, "user_buckets": 0}
    config = config_of(kind, width=32, feed_forward=64, dropout=0.0, **changes)
    setting = Setting.of(kind, config, num_users=120 if kind == "lynx" else 288)
    progress = setting.train(tmp_path, LEARN)
    test = setting.world.split.evaluation("test")
    for mode in setting.model.modes:
        if mode != "hybrid":
            assert setting.metrics(setting.model, test, mode)["recall@1"] >= 0.9, mode
    assert progress.curve[-1]["loss"] < 0.3 * progress.curve[0]["loss"]
    assert_decoder_reads_its_encoder(setting, test)


def assert_decoder_reads_its_encoder(setting: Setting, test: EvaluationSet) -> None:
    """A decoder that ignores its encoder gives every history the same scores (pitfall: TIGER reproductions)."""
    users = range(0, len(test.targets), len(test.targets) // 24)
    histories = histories_of([test.histories[row][-4:].tolist() for row in users][:24])
    everything = torch.arange(setting.world.num_items).expand(24, -1)
    model, trie = setting.generative
    scores = score_items(model, histories, everything, trie)
    assert (scores[1:] - scores[0]).abs().amax(1).median() > 1
    assert len(scores.argmax(1).unique()) > 12


def scripted(values: list[float], seen: list[torch.Tensor]) -> object:
    """A validation with given NDCG@10, noting the weights it saw."""
    turn = count()

    def validate(model: Lynx) -> dict[str, float]:
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
    wanted = {"step", "epoch", "targets", "seconds", "loss", "loss_generative", "loss_dense", "recall@1", "ndcg@10"}
    assert wanted == set(progress.curve[0])
    for entry in progress.curve:
        assert entry["loss"] == pytest.approx(entry["loss_generative"] + entry["loss_dense"])


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


@pytest.mark.parametrize(("steps", "epochs"), [(1, 1), (7, 2), (8, 2), (9, 3)])
def test_steps_fill_whole_epochs(steps: int, epochs: int) -> None:
    config = SHORT.model_copy(update={"steps": steps})
    assert config.epochs_of(4) == epochs and SHORT.epochs_of(4) == SHORT.epochs
    assert "steps" not in as_tree(SHORT) and as_tree(config)["steps"] == steps


@pytest.mark.parametrize(("given", "wanted"), [(None, 20), (0, 0), (30, 30), (100, 99)])
def test_the_warm_up_is_a_share_or_a_number_of_steps(given: int | None, wanted: int) -> None:
    assert SHORT.model_copy(update={"warmup_share": 0.2, "warmup_steps": given}).warmup_of(100) == wanted


def test_a_training_may_be_given_in_steps(tmp_path: Path) -> None:
    """Twice as many as an epoch has, and one more, are three epochs."""
    epoch = Setting.of("tiger").train(tmp_path / "a", SHORT.model_copy(update={"epochs": 1})).step
    progress = Setting.of("tiger").train(tmp_path / "b", SHORT.model_copy(update={"steps": 2 * epoch + 1, "patience": 0}))
    assert (progress.step, progress.epoch) == (3 * epoch, 3)


def test_a_constant_warm_up_begins_at_the_peak(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rates, step = [], AcceleratedOptimizer.step

    def spy(self: AcceleratedOptimizer) -> None:
        rates.append(self.param_groups[0]["lr"])
        step(self)

    monkeypatch.setattr(AcceleratedOptimizer, "step", spy)
    schedule = {"schedule": "inverse-sqrt", "warmup": "constant", "warmup_share": 0.4, "learning_rate": 0.01, "epochs": 2}
    total = Setting.of("tiger").train(tmp_path, SHORT.model_copy(update=schedule)).step
    warmup = int(0.4 * total)
    assert warmup > 1
    assert rates == pytest.approx([0.01 * (warmup / max(n, warmup)) ** 0.5 for n in range(total)])


def test_bf16_and_fp32_trainings_follow_each_other_in_one_process(tmp_path: Path) -> None:
    setting, plain = Setting.of("lynx"), Setting.of("lynx")
    setting.train(tmp_path / "bf16", SHORT.model_copy(update={"precision": "bf16", "epochs": 1}))
    plain.train(tmp_path / "fp32", SHORT.model_copy(update={"epochs": 1}))
    assert all(parameter.dtype == torch.float32 for parameter in setting.model.parameters())
    gap = (setting.model.tokens.weight - plain.model.tokens.weight).abs().max()
    assert 0 < gap < 0.05
    histories, target, (model, trie) = histories_of([[1], [2]]), torch.tensor([3, 4]), setting.generative
    log_probs = model.likelihood(model.target_states(histories, target), target, trie)[0]
    wanted = score_items(model, histories, target[:, None], trie)[:, 0]
    torch.testing.assert_close(log_probs, wanted, atol=1e-5, rtol=1e-5, msg="autocast outlived the training")


def test_a_loss_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    setting = Setting.of("lynx")
    setting.model.tokens.weight.data[5] = torch.nan
    with pytest.raises(RecipeError, match=r"not finite.*learning_rate"):
        setting.train(tmp_path)
    assert not list(tmp_path.glob("*checkpoint*"))


def test_losses_of_all_heads_are_shown(tmp_path: Path) -> None:
    setting, lines = Setting.of("lynx"), io.StringIO()
    console = Console(file=lines, width=200)
    one = SHORT.model_copy(update={"epochs": 1, "validations_per_epoch": 1})
    train(setting.model, setting.data, one, tmp_path, lambda model: {"ndcg@10": 0.5}, seed=3, console=console)
    entry = load_progress(tmp_path).curve[0]
    wanted = f"loss {entry['loss']:.4f} (generative {entry['loss_generative']:.4f}, dense {entry['loss_dense']:.4f})"
    assert wanted in lines.getvalue()


def test_averaged_weights_are_those_of_the_formula_and_what_is_judged_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    setting, raw, judged = Setting.of("lynx"), [], []
    raw.append(setting.model.tokens.weight.detach().clone())
    step = AcceleratedOptimizer.step

    def spy(self: AcceleratedOptimizer) -> None:
        step(self)
        raw.append(setting.model.tokens.weight.detach().clone())

    monkeypatch.setattr(AcceleratedOptimizer, "step", spy)
    config = SHORT.model_copy(update={"average": 0.8, "learning_rate": 0.01, "schedule": "constant"})
    progress = setting.train(tmp_path, config, scripted([0.1, 0.2, 0.3, 0.4, 0.5, 0.6], judged))
    average = raw[0]
    for done, weights in enumerate(raw[1:]):
        decay = min(0.8, (1 + done) / (10 + done))
        average = decay * average + (1 - decay) * weights
    torch.testing.assert_close(judged[-1], average)
    assert (judged[-1] - raw[-1]).abs().max() > 1e-3
    assert torch.equal(setting.model.tokens.weight, judged[-1]), "the model that is left is the average"
    assert torch.equal(load_file(tmp_path / progress.best_checkpoint / "model.safetensors")["tokens.weight"], judged[-1])


def test_averaging_leaves_the_training_itself_alone(tmp_path: Path) -> None:
    plain, averaged = Setting.of("lynx"), Setting.of("lynx")
    first = plain.train(tmp_path / "plain", SHORT, lambda model: {"ndcg@10": 0.0})
    second = averaged.train(tmp_path / "average", SHORT.model_copy(update={"average": 0.9}), lambda model: {"ndcg@10": 0.0})
    assert [entry["loss"] for entry in first.curve] == [entry["loss"] for entry in second.curve]


def test_where_compiling_fails_training_goes_on_as_if_it_had_not_been_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, compiled, steps = Setting.of("lynx"), Setting.of("lynx"), []

    def broken(model: Lynx, dynamic: bool) -> object:
        def forward(*inputs: object) -> object:
            steps.append(inputs)
            if len(steps) == 3:
                torch.rand(5)  # gone before it failed
                raise RuntimeError("no compiler here")
            return model(*inputs)

        return forward

    monkeypatch.setattr(torch, "compile", broken)
    first = plain.train(tmp_path / "plain", SHORT)
    second = compiled.train(tmp_path / "compiled", SHORT.model_copy(update={"compile": True}))
    assert len(steps) == 3
    assert [entry["loss"] for entry in first.curve] == [entry["loss"] for entry in second.curve]
    assert torch.equal(plain.model.tokens.weight, compiled.model.tokens.weight)
