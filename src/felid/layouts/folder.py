"""Folders that appear whole or not at all, and the kinds of files that layouts are made of."""

from __future__ import annotations

import io
import json
import pickle
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

from felid.artifacts import file_digest, read_json, recover_folder, replace_folder, versions, write_json
from felid.errors import ArtifactError, RequestError

NOTE = "felid-export.json"
"""In an exported folder: layout, run, digests of what was exported and of each file."""
Write = Callable[[Path], None]
T = TypeVar("T", dict[str, Any], list[Any])


def publish(folder: Path, write: Write, note: Mapping[str, Any]) -> None:
    """Fill a folder beside the wanted one and rename it; an earlier export stays in place until the new one is whole.

    Args:
        folder: must not exist, be empty, or hold an earlier export and nothing else.
        write: fills the folder it is given.
        note: what `NOTE` says besides files and versions.

    Raises:
        RequestError: the folder holds something else.
    """
    folder = folder.resolve()
    recover_folder(folder)
    if folder.exists() and not (folder / NOTE).is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise RequestError(f"--out {folder} exists and holds no export of felid; choose another folder")
    _check_nothing_added(folder)

    def fill(part: Path) -> None:
        write(part)
        files = {str(path.relative_to(part)): file_digest(path) for path in sorted(part.rglob("*")) if path.is_file()}
        write_json(part / NOTE, {**note, "files": files, "versions": versions()})

    replace_folder(folder, fill)


def _check_nothing_added(folder: Path) -> None:
    """Refuse an earlier export beside whose files there are others: they would be lost."""
    if not (folder / NOTE).is_file():
        return
    known = {NOTE, *read_json(folder / NOTE, ("files",))["files"]}
    files = [path for path in sorted(folder.rglob("*")) if path.is_symlink() or not path.is_dir()]
    added = [name for name in (str(path.relative_to(folder)) for path in files) if name not in known]
    if added:
        raise RequestError(
            f"--out {folder} holds an export and {len(added)} files that are not of it (first: {added[0]}), which would be lost; "
            "move them away or choose another folder"
        )


def check_whole(folder: Path, layout: str) -> None:
    """Refuse a folder that is no whole export of a layout; one that another program wrote says nothing and is let through.

    Raises:
        ArtifactError: no such folder, another layout, or a file is missing or changed.
    """
    if not folder.is_dir():
        raise ArtifactError(f"{folder} is no folder; give one in the layout {layout}")
    if not (folder / NOTE).is_file():
        return
    note = read_json(folder / NOTE, ("layout", "files"))
    if note["layout"] != layout:
        raise ArtifactError(f"{folder} is in the layout {note['layout']}, expected {layout}; give --layout {note['layout']}")
    for name, digest in note["files"].items():
        if not (folder / name).is_file() or file_digest(folder / name) != digest:
            raise ArtifactError(f"{folder / name} is missing or changed, so the export is not whole; export or copy it again")


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write a text file, one line each."""
    with path.open("w", encoding="utf-8") as stream:
        stream.writelines(f"{line}\n" for line in lines)


def write_json_lines(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Write one JSON object per line."""
    write_lines(path, (json.dumps(record, ensure_ascii=False) for record in records))


def read_json_lines(path: Path, keys: tuple[str, ...]) -> list[dict[str, Any]]:
    """Read one JSON object per line; each must hold the keys.

    Raises:
        ArtifactError: the file is missing, or a line is something else.
    """
    found = []
    for number, line in enumerate(io.StringIO(read_text(path)), 1):  # str.splitlines() would cut at U+2028 and the like too
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise ArtifactError(f"line {number} of {path} is not valid JSON ({error}); write the file again") from error
        if not isinstance(record, dict) or not set(keys) <= set(record):
            raise ArtifactError(f"line {number} of {path} does not hold {', '.join(keys)}; write the file again")
        found.append(record)
    return found


def read_json_as(path: Path, kind: type[T]) -> T:
    """A JSON file whose content is a dict, or a list.

    Raises:
        ArtifactError: the file is missing or damaged, or holds something else.
    """
    found = read_json(path)
    if not isinstance(found, kind):
        raise ArtifactError(f"{path} holds a {type(found).__name__}, expected a {kind.__name__}; write the file again")
    return found


def read_text(path: Path) -> str:
    """The content of a text file; a missing one is an `ArtifactError`."""
    if not path.is_file():
        raise ArtifactError(f"{path} does not exist; give a whole folder of this layout")
    return path.read_text(encoding="utf-8")


def save_tensors(path: Path, content: Mapping[str, Any]) -> None:
    """`torch.save` of a plain dict, which `torch.load(weights_only=True)` reads."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(dict(content), path)


def load_tensors(path: Path, keys: tuple[str, ...] = ()) -> Any:
    """Read a `.pt` file of tensors and plain containers; anything else in it is refused.

    Raises:
        ArtifactError: it is missing, damaged, holds more than that, or is no dict with the given keys.
    """
    try:
        content = torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:  # a damaged file may raise anything
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise ArtifactError(f"{path} cannot be read as tensors and plain containers ({reason}); save it again") from error
    if keys and not (isinstance(content, dict) and set(keys) <= set(content)):
        raise ArtifactError(
            f"{path} holds a {type(content).__name__} without {', '.join(keys)}, expected a dict; export it again"
        )
    return content


def load_tensor(path: Path, key: str) -> torch.Tensor:
    """The tensor of a `.pt` file that holds it alone or under a key.

    Raises:
        ArtifactError: the file is missing, damaged, or holds something else.
    """
    content = load_tensors(path)
    found = content.get(key) if isinstance(content, dict) else content
    if not isinstance(found, torch.Tensor):
        raise ArtifactError(f"{path} holds a {type(content).__name__} without a tensor {key}, expected one; export it again")
    return found


def weights_of(checkpoint: Path) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint folder, by felid's names."""
    return dict(load_file(checkpoint / "model.safetensors"))


def save_pickle(path: Path, value: NDArray[Any]) -> None:
    """Pickle an array; `felid.embedding.pickles` and any pickle module read it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(value, protocol=4))
