"""The folder a stage writes: made whole or not at all, found again by its content.

`<run>/<stage>/<key>/` holds a stage's files and `manifest.json`. The key is a hash of the stage's config and of the content
of everything it read, so a stage with an unchanged key has nothing to do, and outputs of different settings lie side
by side. A folder is filled under a working name and renamed when the manifest stands: what has the final name is whole.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import resource
import shutil
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from felid import machine
from felid.config import digest
from felid.distributed import is_main, on_main
from felid.errors import ArtifactError, FelidWarning

MANIFEST = "manifest.json"
FITTED_ON = "fitted_on.npy"
"""Beside what was fitted on items: (N',) int64 item_index of each item that it saw."""
WORKING = ".working-"
"""Begins the name of a folder that is being filled."""
RUN = "run.json"
"""In a run folder: `stages`, the artifact of each stage that was made or reused last; `bundle`, the artifacts of the
recommender that was trained last and its search settings, which stay until the next one is whole; `given`, the data artifact
of a recipe whose data came from Python."""
VERIFIED_BYTES = 64 * 2**20
"""Files up to this size are compared with their digest before they are reused; of larger ones only the size is checked."""
FORMAT = 2
"""Raised when a stage's files change their meaning, so that artifacts of older versions are made again."""


@dataclass(frozen=True)
class Artifact:
    """A finished stage folder.

    Attributes:
        path: the folder.
        manifest: stage, key, digest (hex SHA-256 over the files), files, inputs, config, versions, wall_seconds, cpu_seconds
            (of the last sitting), peak_rss_mib (of the process so far), made_with (`felid.machine`).
    """

    path: Path
    manifest: Mapping[str, Any]

    @property
    def digest(self) -> str:
        return str(self.manifest["digest"])


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically (a reader sees the old file or the new one, never a part)."""
    part = path.with_name(f".{path.name}.part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)


def write_json(path: Path, value: object) -> None:
    """Write JSON atomically, as `write_text` does."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path, keys: tuple[str, ...] = ()) -> Any:
    """Read JSON; a missing or damaged file, or one that is no mapping with the given keys, is an `ArtifactError`."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ArtifactError(f"{path} does not exist; run the stage that writes it") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ArtifactError(f"{path} is not valid JSON ({error}); delete it and run the stage again") from error
    if keys and not (isinstance(value, dict) and set(keys) <= set(value)):
        raise ArtifactError(f"{path} does not hold {', '.join(keys)}; delete it and run the stage again")
    return value


def file_digest(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def open_artifact(path: Path) -> Artifact:
    """Open a finished stage folder; anything without a manifest is refused."""
    if not (path / MANIFEST).is_file():
        raise ArtifactError(f"{path} is not a finished stage folder (no {MANIFEST}); run the stage again")
    return Artifact(path, read_json(path / MANIFEST, ("digest", "files", "bytes")))


def find_artifact(root: Path, stage: str, digest: str) -> Artifact:
    """The artifact of a stage with a content; an `ArtifactError` where the run folder has none."""
    for manifest in sorted((root / stage).glob(f"*/{MANIFEST}")):
        artifact = open_artifact(manifest.parent)
        if artifact.digest == digest:
            return artifact
    raise ArtifactError(f"{root / stage} has no artifact of digest {digest[:12]}; run the stage {stage} again")


def note_run(root: Path, **changes: object) -> None:
    """Change entries of a run folder's `run.json`."""
    write_json(root / RUN, {**read_run(root), **changes})


def read_run(root: Path) -> dict[str, Any]:
    """The entries of a run folder's `run.json`; empty where there is none."""
    notes = read_json(root / RUN) if (root / RUN).is_file() else {}
    if not isinstance(notes, dict):
        raise ArtifactError(
            f"{root / RUN} holds a {type(notes).__name__}, expected a mapping; delete it and run the recipe again"
        )
    return notes


def stage_key(stage: str, config: object, inputs: Mapping[str, str]) -> str:
    """12 hex digits that name the output of `stage` for this config and these input digests."""
    return digest({"format": FORMAT, "stage": stage, "config": config, "inputs": dict(inputs)})[:12]


def build(
    root: Path, stage: str, config: object, inputs: Mapping[str, str], work: Callable[[Path], None], *, fresh: bool = False
) -> tuple[Artifact, bool]:
    """Return the artifact of a stage, made by `work(folder)` unless it is there already.

    Args:
        root: the run folder.
        stage: name of the stage, also its folder.
        config: JSON-able settings that the output depends on.
        inputs: name -> digest of everything else that it depends on.
        work: fills the folder it is given, in all processes of torchrun; the main one alone prepares and names the folder. After
            an interruption it is called again with what it had left there, so a stage that can resume finds its own checkpoints;
            a stage that cannot must not care.
        fresh: start over; a finished output stays in place until the new one is whole.

    Returns:
        The artifact, and whether it was reused.
    """
    key = stage_key(stage, config, inputs)
    path = root / stage / key
    found = on_main(lambda: _begin(path, fresh=fresh))
    if found is not None:
        return found, True
    start = time.perf_counter(), time.process_time()
    work(_working(path))
    made = {"format": FORMAT, "stage": stage, "key": key, "inputs": dict(inputs), "config": config}
    return on_main(lambda: _finish(path, made, start)), False


def key_of(folder: Path) -> str:
    """The key of a stage's folder, also of the one that `work` is given to fill."""
    return folder.name.removeprefix(WORKING)


def _working(path: Path) -> Path:
    return path.with_name(f"{WORKING}{path.name}")


def _begin(path: Path, *, fresh: bool) -> Artifact | None:
    """The artifact in `path` if it is there and may be reused; else None, and the working folder is ready."""
    working, old = _working(path), path.with_name(f".old-{path.name}")
    if old.exists() and not path.exists():
        os.rename(old, path)  # a process died between the two renames in `_finish`
    if fresh:
        shutil.rmtree(working, ignore_errors=True)
    elif (path / MANIFEST).is_file() and not working.exists():
        artifact = open_artifact(path)
        damaged = _damaged(artifact)
        if not damaged:
            return artifact
        text = f"{path / damaged[0]} is missing or changed; the stage {path.parent.name} is run again"
        warnings.warn(text, FelidWarning, stacklevel=2)
    working.mkdir(parents=True, exist_ok=True)
    for left in (MANIFEST, f".{MANIFEST}.part"):  # by a process that died before the rename; no part of the content
        (working / left).unlink(missing_ok=True)
    return None


def _finish(path: Path, made: Mapping[str, Any], start: tuple[float, float]) -> Artifact:
    """Write the manifest of a filled working folder, `made` and what the files are, and give the folder its name."""
    working, old = _working(path), path.with_name(f".old-{path.name}")
    files = {str(p.relative_to(working)): file_digest(p) for p in sorted(working.rglob("*")) if p.is_file()}
    manifest = {
        **made,
        "digest": digest(files),
        "files": files,
        "bytes": {name: (working / name).stat().st_size for name in files},
        "versions": versions(),
        "wall_seconds": round(time.perf_counter() - start[0], 3),
        "cpu_seconds": round(time.process_time() - start[1], 3),
        "peak_rss_mib": peak_rss_mib(),
        "made_with": machine.made_with(),
    }
    write_json(working / MANIFEST, manifest)
    shutil.rmtree(old, ignore_errors=True)
    if path.exists():
        os.rename(path, old)
    os.rename(working, path)
    shutil.rmtree(old, ignore_errors=True)
    return open_artifact(path)


def _damaged(artifact: Artifact) -> list[str]:
    """Files of an artifact that are missing or, as far as is checked, not what was written."""
    found = []
    for name, expected in artifact.manifest["files"].items():
        path, size = artifact.path / name, artifact.manifest["bytes"][name]
        whole = path.is_file() and path.stat().st_size == size and (size > VERIFIED_BYTES or file_digest(path) == expected)
        if not whole:
            found.append(name)
    return found


def peak_rss_mib() -> int:
    """The most memory that this process has held, in MiB.

    Where there is `/proc`, as the kernel counts it for this program: `getrusage` would begin with what its parent held.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM:")) // 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // (1024**2 if sys.platform == "darwin" else 1024)


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that numbers depend on."""
    found = {"python": platform.python_version()}
    for name in ("felid", "torch", "numpy", "polars", "scikit-learn", "scipy", "implicit", "accelerate", "sentence-transformers"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


@contextmanager
def lock(root: Path) -> Iterator[None]:
    """Hold a run folder for this process; the lock falls by itself when the process ends, however it ends.

    Under torchrun the main process holds it for all.
    """
    if not is_main():
        yield
        return
    root.mkdir(parents=True, exist_ok=True)
    with (root / ".lock").open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ArtifactError(f"another felid process is working in {root}; wait for it or choose another --out") from error
        yield


def recover_folder(folder: Path) -> None:
    """Bring back a folder whose replacement died between the two renames of `replace_folder`."""
    old = folder.with_name(f".{folder.name}.felid-old")
    if old.exists() and not folder.exists():
        os.rename(old, folder)


def replace_folder(folder: Path, write: Callable[[Path], None]) -> None:
    """Fill a folder beside the wanted one and rename it, so that a reader sees the former one or the new one, never a part."""
    recover_folder(folder)
    part, old = folder.with_name(f".{folder.name}.felid-part"), folder.with_name(f".{folder.name}.felid-old")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        write(part)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        os.rename(folder, old)
    os.rename(part, folder)
    shutil.rmtree(old, ignore_errors=True)
