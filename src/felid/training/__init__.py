"""Training: examples and batches, the learning-rate schedule, checkpoints and the one loop."""

from felid.training.batches import Examples
from felid.training.config import TrainingConfig
from felid.training.loop import TrainingData, train

__all__ = ["Examples", "TrainingConfig", "TrainingData", "train"]
