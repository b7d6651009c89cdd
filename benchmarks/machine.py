"""What a record says of the machine and of the code that it was made with."""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path


def git(*arguments: str) -> str:
    """What a git command prints; "" where there is no repository."""
    try:
        return subprocess.run(("git", *arguments), capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def cpu() -> str:
    """The name of the processor."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
