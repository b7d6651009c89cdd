"""The `felid` command: recipes in, run folders and recommendations out."""

from felid.cli import making, transfer, using  # their commands
from felid.cli.shared import app, main

__all__ = ["app", "main", "making", "transfer", "using"]
