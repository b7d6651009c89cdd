"""Evaluation: protocol, baselines, statistics and the console tables."""

from felid.evaluation.baselines import Markov, Popularity
from felid.evaluation.comparison import compare_runs
from felid.evaluation.protocol import Evaluation, EvaluationConfig, Ranker, evaluate
from felid.evaluation.report import Report, evaluate_run
from felid.evaluation.statistics import Difference, bootstrap_ci, pooled_difference
from felid.evaluation.tables import print_metrics

__all__ = [
    "Difference",
    "Evaluation",
    "EvaluationConfig",
    "Markov",
    "Popularity",
    "Ranker",
    "Report",
    "bootstrap_ci",
    "compare_runs",
    "evaluate",
    "evaluate_run",
    "pooled_difference",
    "print_metrics",
]
