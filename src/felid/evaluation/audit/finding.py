"""What a check found, and how findings are printed."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from felid.errors import FelidWarning
from felid.evaluation.audit.thresholds import EXAMPLES

Status = Literal["passed", "doubtful", "failed"]


@dataclass(frozen=True)
class Finding:
    """Outcome of one check.

    Attributes:
        name: of the check.
        status: `passed`; `doubtful`, where readers of the results should know of it; `failed`, where the results mean something
            else than they say.
        finding: what was seen, with numbers and examples.
        remedy: what to do; "" where there is nothing to do.
    """

    name: str
    status: Status
    finding: str
    remedy: str = ""


def passed(name: str, finding: str) -> Finding:
    """A check that found nothing to speak up for."""
    return Finding(name, "passed", finding)


def as_rows(findings: Iterable[Finding]) -> list[dict[str, str]]:
    """Findings as they stand in `metrics.json` under `checks`."""
    return [asdict(finding) for finding in findings]


def examples(ids: NDArray[np.generic] | Sequence[object]) -> str:
    """The first few ids, as text such as "'a', 'b', 'c', ..."."""
    values = ids.tolist() if isinstance(ids, np.ndarray) else list(ids)
    return ", ".join([repr(value) for value in values[:EXAMPLES]] + ["..."] * (len(values) > EXAMPLES))


def of_users(ids: NDArray[np.generic]) -> str:
    """How many users and the first of them: "2 users ('a', 'b')"."""
    return f"{len(ids):,} user{'s' * (len(ids) != 1)} ({examples(ids)})"


def of_items(ids: NDArray[np.generic]) -> str:
    """The same of items."""
    return f"{len(ids):,} item{'s' * (len(ids) != 1)} ({examples(ids)})"


def check_lines(metrics: Mapping[str, Any]) -> list[str]:
    """What a `metrics.json` says of its checks, in one line; nothing for evaluations that made none."""
    rows = metrics.get("checks")
    if not rows:
        return []
    parts = [f"{sum(row['status'] == 'passed' for row in rows)} passed"]
    for status in ("doubtful", "failed"):
        found = [row for row in rows if row["status"] == status]
        if found:
            told = (f"{row['name']} ({row['finding']})" if status == "failed" else row["name"] for row in found)
            parts.append(f"{len(found)} {status.upper() if status == 'failed' else status}: {', '.join(told)}")
    return [f"checks: {', '.join(parts)}"]


def warn_of_failed(findings: Iterable[Finding]) -> None:
    """Warn of every failed check, with its remedy."""
    for finding in findings:
        if finding.status == "failed":
            text = f"the check of {finding.name} failed: {finding.finding}; {finding.remedy}"
            warnings.warn(text, FelidWarning, stacklevel=2)
