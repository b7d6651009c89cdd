"""Which code on which machine: what is kept of how numbers were made."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).resolve().parent


def git(*arguments: str, folder: Path | None = None) -> str:
    """What a git command prints; "" where there is no repository."""
    command = ("git", *(("-C", str(folder)) if folder else ()), *arguments)
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


@cache
def code() -> dict[str, Any]:
    """`commit` of the package as this process found it, and whether it was `changed` since; None where git does not have it."""
    commit = git("rev-parse", "--short", "HEAD", folder=PACKAGE) if git("ls-files", "__init__.py", folder=PACKAGE) else ""
    if not commit:
        return {"commit": None, "changed": None}
    return {"commit": commit, "changed": bool(git("status", "--porcelain", ".", folder=PACKAGE))}


@cache
def cpu() -> str:
    """The name of the processor."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def command() -> str:
    """The command line of this process, without the folder of the program."""
    program = Path(sys.argv[0]).name
    return shlex.join(["felid" if program == "__main__.py" else program, *sys.argv[1:]])


def made_with() -> dict[str, Any]:
    """Time, command, code and machine of this process.

    `threads` are those of torch where it is in use; `load` is what all processes of the machine asked for in the last minute, in
    cores, and says how far times can be trusted.
    """
    torch = sys.modules.get("torch")
    return {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command(),
        **code(),
        "os": platform.platform(),
        "cpu": cpu(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads() if torch is not None else None,
        "load": round(os.getloadavg()[0], 2),
    }
