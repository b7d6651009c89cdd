"""Resumed and checksummed downloads, against a server on this machine."""

from __future__ import annotations

import gzip
import hashlib
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from felid.data.sources.download import data_home, fetch
from felid.errors import DataError

CONTENT = gzip.compress(b"".join(b"line %d\n" % number for number in range(20_000)), mtime=0)


class Server(ThreadingHTTPServer):
    """Serves CONTENT at every path; may ignore ranges, or break off after some bytes."""

    content = CONTENT
    ranges = True
    break_after: int | None = None

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[str | None] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/data.gz"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.server.asked.append(asked)
        start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1]) if asked and self.server.ranges else 0
        size = len(self.server.content)
        if start >= size:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{size}")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(size - start))
        self.end_headers()
        self.wfile.write(self.server.content[start:][: self.server.break_after])

    def log_message(self, format: str, *args: object) -> None:
        """Keep the test output clean."""


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "data.gz"


def test_download_leaves_the_file_and_its_record(server: Server, target: Path) -> None:
    assert fetch(server.url, target) == target
    assert target.read_bytes() == CONTENT
    assert (target.parent / "data.gz.sha256").read_text() == hashlib.sha256(CONTENT).hexdigest() + "\n"
    assert sorted(path.name for path in target.parent.iterdir()) == ["data.gz", "data.gz.sha256"]
    fetch(server.url, target)
    assert server.asked == [None]


def test_broken_transfer_is_resumed_where_it_stopped(server: Server, target: Path) -> None:
    server.break_after = 10_000
    with pytest.raises(DataError, match=r"transfer ended after 10000 of \d+ bytes\); run again to resume"):
        fetch(server.url, target)
    assert not target.exists()
    server.break_after = None
    fetch(server.url, target)
    assert target.read_bytes() == CONTENT
    assert server.asked == [None, "bytes=10000-"]


def test_server_without_ranges_starts_over(server: Server, target: Path) -> None:
    target.parent.mkdir()
    (target.parent / "data.gz.part").write_bytes(b"something else")
    server.ranges = False
    fetch(server.url, target)
    assert target.read_bytes() == CONTENT


def test_part_that_was_already_whole_is_used(server: Server, target: Path) -> None:
    target.parent.mkdir()
    (target.parent / "data.gz.part").write_bytes(CONTENT)
    fetch(server.url, target)
    assert target.read_bytes() == CONTENT
    assert server.asked == [f"bytes={len(CONTENT)}-"]


def test_part_of_another_file_is_found_by_the_gzip_checksum(server: Server, target: Path) -> None:
    target.parent.mkdir()
    (target.parent / "data.gz.part").write_bytes(b"x" + CONTENT[1:5_000])
    with pytest.raises(DataError, match=r"not a whole gzip file .* deleted, run again"):
        fetch(server.url, target)
    assert list(target.parent.iterdir()) == []
    fetch(server.url, target)
    assert target.read_bytes() == CONTENT


def test_md5_is_verified_when_it_is_published(server: Server, target: Path) -> None:
    with pytest.raises(DataError, match=r"its md5 is \w+, expected 0000"):
        fetch(server.url, target, md5="0000")
    assert not target.exists()
    right = hashlib.md5(CONTENT).hexdigest()
    fetch(server.url, target, md5=right)
    with pytest.raises(DataError, match="expected 0000; delete it"):
        fetch(server.url, target, md5="0000")


def test_file_changed_after_its_download_is_refused(server: Server, target: Path) -> None:
    fetch(server.url, target)
    target.write_bytes(CONTENT + b"more")
    with pytest.raises(DataError, match="no longer has the SHA-256 recorded"):
        fetch(server.url, target)


def test_file_put_by_hand_is_taken_without_a_record(server: Server, target: Path) -> None:
    target.parent.mkdir()
    target.write_bytes(b"mine")
    assert fetch(server.url, target).read_bytes() == b"mine"
    assert server.asked == []


def test_no_connection_is_one_sentence(target: Path) -> None:
    with pytest.raises(DataError, match=r"could not be downloaded .* put the file at .* by hand") as caught:
        fetch("http://127.0.0.1:9/data.gz", target)
    assert "\n" not in str(caught.value)
    assert not target.parent.exists(), "what cannot be reached leaves no folder"


def test_data_home_is_the_variable_or_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FELID_DATA_HOME", "/somewhere")
    assert data_home() == Path("/somewhere")
    monkeypatch.delenv("FELID_DATA_HOME")
    assert data_home() == Path.home() / ".cache" / "felid"
