"""Training: examples and batches, the learning-rate schedule, checkpoints and the one loop."""

from felid.training.batches import Examples
from felid.training.loop import TrainingConfig, TrainingData, train

__all__ = ["Examples", "TrainingConfig", "TrainingData", "train"]
