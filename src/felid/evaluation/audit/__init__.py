"""Leak and sanity checks before every evaluation: what they look for, and what they found (docs/checks.md).

One small function for each check, over plain inputs; `audit` runs them all. Thresholds are in `thresholds`.
"""

from felid.evaluation.audit.finding import Finding, Status, as_rows, check_lines, warn_of_failed
from felid.evaluation.audit.origin import Fit, Origin
from felid.evaluation.audit.provenance import Provenance
from felid.evaluation.audit.run import SearchedTrie, SystemFacts, audit, audit_run

__all__ = [
    "Finding",
    "Fit",
    "Origin",
    "Provenance",
    "SearchedTrie",
    "Status",
    "SystemFacts",
    "as_rows",
    "audit",
    "audit_run",
    "check_lines",
    "warn_of_failed",
]
