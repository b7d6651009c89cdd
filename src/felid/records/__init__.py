"""Records: what published numbers stand on, as files under `reports/`."""

from felid.records.filing import RECORD, Record, parts_of, record, wall_minutes
from felid.records.page import cell, interval, markdown, page

__all__ = ["RECORD", "Record", "cell", "interval", "markdown", "page", "parts_of", "record", "wall_minutes"]
