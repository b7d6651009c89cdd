"""`felid report RUN [RUN ...] --out FILE.html`: evaluated runs as one page that needs no network."""

from felid.report.runs.make import report_runs

__all__ = ["report_runs"]
