"""Where source files lie, and how public ones get there: resumed, checked, and renamed only when whole."""

from __future__ import annotations

import gzip
import hashlib
import os
import shutil
import urllib.error
import urllib.request
import zlib
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import cast

from felid.artifacts import file_digest
from felid.errors import DataError

_TIMEOUT_SECONDS = 30.0
_CHUNK_BYTES = 1 << 20


def data_home() -> Path:
    """`FELID_DATA_HOME`, else `~/.cache/felid`."""
    return Path(os.environ.get("FELID_DATA_HOME") or "~/.cache/felid").expanduser()


def fetch(url: str, path: Path, *, md5: str | None = None) -> Path:
    """Return `path`, downloaded from `url` if it is not there.

    A broken transfer leaves `<path>.part`, which the next call continues (HTTP Range). A finished file is verified by
    `md5` where one is published, a gzip file also by its own checksum; its SHA-256 is recorded in `<path>.sha256` and
    compared on every later call. A file that was put there by hand has no record and is taken as it is.

    Raises:
        DataError: no connection, an incomplete transfer, or a checksum that does not match.
    """
    record = path.with_name(f"{path.name}.sha256")
    if path.is_file():
        _verify_present(path, record, md5)
        return path
    part = path.with_name(f"{path.name}.part")
    try:
        _transfer(url, part)
    except (OSError, HTTPException) as error:
        raise DataError(
            f"{url} could not be downloaded ({error}); run again to resume, or put the file at {path} by hand "
            "(FELID_DATA_HOME chooses the folder)"
        ) from error
    _verify_download(part, md5, is_gzip=path.suffix == ".gz")
    record.write_text(file_digest(part) + "\n", encoding="ascii")
    os.replace(part, path)
    return path


def _transfer(url: str, part: Path) -> None:
    """Append to `part` what is missing of `url`; a server without Range support starts over."""
    have = part.stat().st_size if part.is_file() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        answer = cast(HTTPResponse, urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS))
    except urllib.error.HTTPError as error:
        if error.code == 416 and error.headers.get("Content-Range") == f"bytes */{have}":
            return
        raise
    part.parent.mkdir(parents=True, exist_ok=True)  # not before there is something to put there
    with answer, part.open("ab" if answer.status == 206 else "wb") as stream:
        expected = int(answer.headers.get("Content-Length") or -1)
        start = stream.tell()
        shutil.copyfileobj(answer, stream, _CHUNK_BYTES)
        got = stream.tell() - start
    if expected >= 0 and got != expected:
        raise OSError(f"transfer ended after {got} of {expected} bytes")


def _md5(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "md5").hexdigest()


def _verify_present(path: Path, record: Path, md5: str | None) -> None:
    if md5 is not None and _md5(path) != md5:
        raise DataError(f"{path} has md5 {_md5(path)}, expected {md5}; delete it to download it again")
    if record.is_file() and file_digest(path) != record.read_text(encoding="ascii").strip():
        raise DataError(f"{path} no longer has the SHA-256 recorded at its download ({record}); delete both to download it again")


def _verify_download(part: Path, md5: str | None, *, is_gzip: bool) -> None:
    """Delete a finished download whose content is not what was published."""
    fault = f"its md5 is {_md5(part)}, expected {md5}" if md5 is not None and _md5(part) != md5 else ""
    if is_gzip:
        try:
            with gzip.open(part) as packed:
                while packed.read(_CHUNK_BYTES):
                    pass
        except (OSError, EOFError, zlib.error) as error:
            fault = f"it is not a whole gzip file ({error})"
    if fault:
        part.unlink()
        raise DataError(f"the download of {part.stem} is damaged: {fault}; it was deleted, run again")
