"""Settings of the training loop."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from felid.config import Config
from felid.training.schedule import Schedule, Warmup


class TrainingConfig(Config):
    """Settings of the training loop. Defaults differ by model; see `felid.recipe.default_training`."""

    epochs: int = Field(default=20, ge=1)
    """Passes over all training targets, at most."""
    steps: int | None = Field(default=None, ge=1, exclude_if=lambda value: value is None)
    """Steps instead of epochs, which then mean nothing: as many whole epochs as have at least so many. Where it is null it is
    not written, so that trainings of versions without it are still known; the same of `warmup_steps`."""
    batch_targets: int = Field(default=1024, ge=1)
    """Target items per step (about; examples are not split)."""
    learning_rate: float = Field(default=1e-3, gt=0)
    """Peak learning rate of AdamW."""
    weight_decay: float = Field(default=0.01, ge=0)
    """Weight decay of AdamW."""
    warmup_share: float = Field(default=0.05, ge=0, lt=1)
    """Share of all steps spent on warm-up."""
    warmup_steps: int | None = Field(default=None, ge=0, exclude_if=lambda value: value is None)
    """Steps of warm-up, instead of a share."""
    warmup: Warmup = Field(default="linear", exclude_if=lambda value: value == "linear")
    """Learning rate of these steps: rising to the peak, or the peak from the first step on, as in TIGER's schedule. Where it is
    linear it is not written, so that trainings of versions without it are still known."""
    schedule: Schedule = "cosine"
    """Decay after warm-up."""
    clip_norm: float = Field(default=1.0, gt=0)
    """Largest norm of the gradient."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Share of the target probability spread over all choices: valid codes, warm items."""
    average: float = Field(default=0.0, ge=0, lt=1)
    """Decay per step of a moving average of the weights, which is then what is validated and kept; 0 = no average. Early steps
    weigh less: the decay of step t is at most (1 + t) / (10 + t)."""
    patience: int = Field(default=5, ge=0)
    """Validations without a better NDCG@10 before training stops; 0 = never."""
    validations_per_epoch: int = Field(default=1, ge=1)
    """How often to validate."""
    validation_users: int = Field(default=5000, ge=0)
    """Users of the validation part to validate on, drawn at random; 0 = all."""
    validation_beams: int = Field(default=20, ge=10)
    """Beams of the validation searches."""
    validation_mode: Literal["auto", "generative", "dense", "fused", "hybrid"] = "auto"
    """How validation ranks items; auto = by the dense head where the model has one, which is the quickest; hybrid needs both
    heads and ranks 20 generated and all cold items by inner product."""
    checkpoint_seconds: float = Field(default=60.0, gt=0)
    """Longest time between two checkpoints: what an interruption can lose."""
    keep_checkpoints: bool = Field(default=False, exclude_if=lambda value: value is False)
    """Whether the weights of every validation stay, for `felid evaluate --checkpoint`, and not only of the best and the last.
    Where it is false it is not written, so that trainings of versions without it are still known."""
    keep_state: bool = Field(default=False, exclude_if=lambda value: value is False)
    """Whether the optimiser's state stays beside the last weights when the training is over; it takes twice their room, and only
    others need it, such as readers of layout `liger`. The learning rate follows from the step alone and has no state."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Autocast; auto = bf16 where the hardware multiplies it natively."""
    compile: bool = False
    """Run the forward pass through torch.compile, or on without it where that fails. Worth a try on a GPU; on CPUs it took a
    minute or two and then made steps slower (`reports/benchmarks/profile.md`)."""
    track: Literal["none", "tensorboard"] = "none"
    """Older way to say `tracking.to=[tensorboard]`, which has more trackers."""

    def epochs_of(self, batches: int) -> int:
        """Epochs of so many batches that a training has, at most."""
        return self.epochs if self.steps is None else -(-self.steps // batches)

    def warmup_of(self, total: int) -> int:
        """Steps of warm-up in a training of `total` steps, fewer than these."""
        return int(self.warmup_share * total) if self.warmup_steps is None else min(self.warmup_steps, total - 1)
