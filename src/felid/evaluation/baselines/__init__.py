"""What every model must beat: baselines, fitted on the training part alone; all of them rank the whole catalogue.

`felid.standing` puts those that a recipe asks for beside a run.
"""

from felid.evaluation.baselines.counted import Markov, Popularity, counted_baselines
from felid.evaluation.baselines.names import BASELINES, BaselineName, explained

__all__ = ["BASELINES", "BaselineName", "Markov", "Popularity", "counted_baselines", "explained"]
