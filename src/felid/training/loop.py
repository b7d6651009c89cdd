"""The one training loop: explicit, resumable, on accelerate for devices; by one process or by several of torchrun.

Several share out the examples of each batch and add up their gradients, so that a step is that of one process with the whole
batch. What is drawn at random, such as dropout, each draws for its own examples.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from rich.console import Console
from torch.optim.swa_utils import get_ema_multi_avg_fn

from felid.distributed import join, on_main
from felid.errors import RecipeError
from felid.models import load_weights
from felid.models.base import Losses, Model, TrainingItems
from felid.progress import progress_bar
from felid.tracking import Hears, unheard
from felid.training import checkpoints
from felid.training.batches import Examples
from felid.training.checkpoints import Progress
from felid.training.config import TrainingConfig
from felid.training.schedule import learning_rate_factor
from felid.training.together import add_up_step, own_share, random_states, restore_random_state, seed_process, start_alike

Validate = Callable[[Model], dict[str, float]]


@dataclass(frozen=True)
class TrainingData:
    """What the loop trains on.

    Attributes:
        examples: training examples.
        items: what losses are taken over: the items of the training interactions.
        user_tokens: (U,) user token of each row of the training sequences, or None.
    """

    examples: Examples
    items: TrainingItems
    user_tokens: NDArray[np.int64] | None


def native_bf16() -> bool:
    """Whether this machine multiplies bf16 natively."""
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.backends.mkldnn.is_available() and torch.cpu.get_capabilities().get("avx512_bf16", False))


def train(
    model: Model,
    data: TrainingData,
    config: TrainingConfig,
    folder: Path,
    validate: Validate,
    *,
    seed: int,
    console: Console,
    hears: Hears = unheard,
) -> Progress:
    """Train `model` until its epochs are done or it stops getting better; the best weights are in the model afterwards,
    and it is in evaluation mode.

    Starts from the last checkpoint in `folder` where there is one, and then repeats exactly what an uninterrupted
    training would have done (on a CPU, with the same number of threads and of processes).

    Args:
        model: a fresh model; its weights are overwritten when training resumes.
        data: examples and the training catalogue.
        config: settings.
        folder: where checkpoints and the curve go.
        validate: returns metrics of a model in evaluation mode, `ndcg@10` among them.
        seed: of dropout and batch order.
        console: where the progress bar and one line per validation go.
        hears: is told losses and metrics of each validation, and the step.
    """
    return _Run(model, data, config, folder, validate, seed, console, hears).train()


class _Run:
    """One sitting of a training."""

    def __init__(
        self,
        model: Model,
        data: TrainingData,
        config: TrainingConfig,
        folder: Path,
        validate: Validate,
        seed: int,
        console: Console,
        hears: Hears,
    ) -> None:
        self.model, self.data, self.config, self.folder = model, data, config, folder
        self.validate, self.seed, self.console, self.hears = validate, seed, console, hears
        join()
        # autocast is entered in the step itself: accelerate's setting holds for the whole process and would outlive this training
        self.accelerator = Accelerator(mixed_precision="no")
        self.bf16 = config.precision == "bf16" or (config.precision == "auto" and native_bf16())
        self.items = data.items.to(self.accelerator.device)
        self.order: dict[int, list[NDArray[np.int64]]] = {}
        self.progress = checkpoints.load_progress(folder)
        seed_process(seed)
        optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, fused=True)
        # placed, not wrapped: accelerate's DistributedDataParallel wants every parameter used by every process
        self.wrapped = self.accelerator.prepare_model(model, evaluation_mode=True)
        self.optimizer = self.accelerator.prepare(optimizer)
        start_alike(model)
        self.compiled: Callable[..., Losses] | None = torch.compile(self.wrapped, dynamic=True) if config.compile else None
        self.judged = _twin(model) if config.average else model
        self.batches_per_epoch = len(self._batches(0))
        self.epochs = config.epochs_of(self.batches_per_epoch)
        self.total_steps = self.batches_per_epoch * self.epochs
        if self.progress.last_checkpoint and not self.progress.finished:
            self._resume()

    def _resume(self) -> None:
        """Go back to the last checkpoint: its weights are those that are judged, the others are part of its state."""
        load_weights(self.folder / self.progress.last_checkpoint, self.judged)
        state = checkpoints.load_state(self.folder, self.progress)
        self.optimizer.load_state_dict(state["optimizer"])
        if self.config.average:
            self.model.load_state_dict(state["weights"])
        restore_random_state(state, self.seed, self.progress.step)
        self.console.print(f"training resumes at step {self.progress.step:,} of {self.total_steps:,}")

    def _batches(self, epoch: int) -> list[NDArray[np.int64]]:
        if epoch not in self.order:
            self.order = {epoch: self.data.examples.batches(self.config.batch_targets, (self.seed, epoch))}
        return self.order[epoch]

    def train(self) -> Progress:
        progress, num_targets = self.progress, self.data.examples.num_targets
        bar = progress_bar(self.console, "training", total=num_targets * self.epochs, unit="targets")
        with bar:
            bar.advance(progress.targets)
            saved = tick = time.perf_counter()
            while not progress.finished:
                batches = self._batches(progress.epoch)
                trained = self._step(batches[progress.batch])
                progress.batch += 1
                if progress.batch == len(batches):
                    progress.epoch, progress.batch = progress.epoch + 1, 0
                is_due, is_best = self._validation_due(), False
                if is_due:
                    is_best = self._validate()
                now = time.perf_counter()
                progress.seconds, tick = progress.seconds + now - tick, now
                if is_due:
                    progress.curve[-1]["seconds"] = round(progress.seconds, 1)
                if is_due or self._has_waited(now - saved):
                    self._save(is_best=is_best)
                    saved = time.perf_counter()
                bar.advance(trained)
        load_weights(self.folder / progress.best_checkpoint, self.model)
        self.model.eval()
        return progress

    def _step(self, chosen: NDArray[np.int64]) -> int:
        self.wrapped.train()
        (own, counts), num_targets = own_share(chosen), self.data.examples.targets_in(chosen)
        histories, targets = self.data.examples.collate(own, self.data.user_tokens)
        device = self.accelerator.device
        with torch.autocast(device.type, torch.bfloat16, enabled=self.bf16):
            losses = self._losses(histories.to(device), targets.to(device), self.items, self.config.label_smoothing)
        self.accelerator.backward(losses.total / num_targets)
        parts = add_up_step(self.model, losses.parts, counts)
        self.accelerator.clip_grad_norm_(self.model.parameters(), self.config.clip_norm)
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.config.average:
            decay = min(self.config.average, (1 + self.progress.step) / (10 + self.progress.step))
            get_ema_multi_avg_fn(decay)(list(self.judged.parameters()), list(self.model.parameters()), None)
        self.progress.step += 1
        self.progress.targets += num_targets
        for name, part in parts.items():
            self.progress.loss_sums[name] = self.progress.loss_sums.get(name, 0.0) + float(part)
        if not all(map(math.isfinite, self.progress.loss_sums.values())):
            raise RecipeError(
                f"the loss is not finite after step {self.progress.step}; lower training.learning_rate and start --fresh"
            )
        self.progress.loss_targets += num_targets
        return num_targets

    def _losses(self, *inputs: Any) -> Losses:
        if self.compiled is not None:
            rng = torch.get_rng_state()
            try:
                return self.compiled(*inputs)
            except Exception as error:  # compilers fail in many ways; an error of the model itself comes back below
                reason = " ".join(str(error).split())[:120] or type(error).__name__
                self.console.print(f"training goes on without torch.compile ({reason})", soft_wrap=True)
                self.compiled = None
                torch.set_rng_state(rng)
        losses: Losses = self.wrapped(*inputs)
        return losses

    @property
    def learning_rate(self) -> float:
        warmup = self.config.warmup_of(self.total_steps)
        factor = learning_rate_factor(
            self.progress.step, total=self.total_steps, warmup=warmup, schedule=self.config.schedule, shape=self.config.warmup
        )
        return self.config.learning_rate * factor

    def _validation_due(self) -> bool:
        done, every = self.progress.batch or self.batches_per_epoch, self.config.validations_per_epoch
        return done * every // self.batches_per_epoch > (done - 1) * every // self.batches_per_epoch

    def _has_waited(self, seconds: float) -> bool:
        return on_main(lambda: seconds > self.config.checkpoint_seconds)

    def _validate(self) -> bool:
        progress = self.progress
        self.judged.eval()
        metrics = self.validate(self.judged)
        metrics = on_main(lambda: metrics)  # all processes stop, and keep the best, by the same numbers
        losses = {f"loss_{name}": part / max(1, progress.loss_targets) for name, part in progress.loss_sums.items()}
        loss = sum(losses.values())
        progress.loss_sums, progress.loss_targets = {}, 0
        epoch = progress.epoch + progress.batch / self.batches_per_epoch
        entry = {"step": progress.step, "epoch": round(epoch, 3), "targets": progress.targets, "loss": loss, **losses, **metrics}
        progress.curve.append(entry)
        is_best = metrics["ndcg@10"] > progress.best
        progress.best = max(progress.best, metrics["ndcg@10"])
        progress.validations_since_best = 0 if is_best else progress.validations_since_best + 1
        stop = 0 < self.config.patience <= progress.validations_since_best
        progress.finished = stop or progress.epoch >= self.epochs
        self.hears({"loss": loss, **losses, **metrics, "epoch": epoch, "learning_rate": self.learning_rate}, progress.step)
        heads = f" ({', '.join(f'{name[5:]} {part:.4f}' for name, part in losses.items())})" if len(losses) > 1 else ""
        shown = "  ".join(f"{name} {value:.4f}" for name, value in metrics.items())
        marks = ("  *" if is_best else "") + ("  (stops)" if stop else "")
        self.console.print(f"epoch {epoch:g}  loss {loss:.4f}{heads}  {shown}{marks}", soft_wrap=True)
        return is_best

    def _save(self, *, is_best: bool) -> None:
        state: dict[str, Any] = {"optimizer": self.optimizer.state_dict(), **random_states()}
        if self.config.average:
            state["weights"] = self.model.state_dict()
        self.progress.name_checkpoint(is_best=is_best)
        keep_all = self.config.keep_checkpoints
        on_main(lambda: checkpoints.save(self.folder, self.progress, self.judged, state, keep_all=keep_all))


def _twin(model: Model) -> Model:
    """A model of the same weights; what training does not change is not copied."""
    shared = [*model.buffers(), model.catalogue]
    return copy.deepcopy(model, {id(thing): thing for thing in shared})
