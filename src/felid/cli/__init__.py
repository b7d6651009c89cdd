"""The `felid` command: recipes in, run folders and recommendations out."""

from felid.cli import checking, comparing, making, recording, reporting, transfer, using  # their commands
from felid.cli.shared import app, main

__all__ = ["app", "checking", "comparing", "main", "making", "recording", "reporting", "transfer", "using"]
