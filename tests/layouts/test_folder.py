"""Folders and files of layouts: nothing is lost on the way out, and what is read back is what was written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from felid.artifacts import read_json
from felid.errors import ArtifactError, RequestError
from felid.layouts.folder import NOTE, publish, read_json_lines, save_tensors, write_json_lines
from felid.layouts.re_tiger import load_rqvae
from felid.layouts.sasrec_rqvae_tiger import load_sasrec_vectors


def fill(folder: Path) -> None:
    (folder / "logs").mkdir()
    (folder / "logs" / "run.txt").write_text("logged")
    (folder / "codes.npy").write_bytes(b"codes")


@pytest.mark.parametrize("added", ["notes.txt", "logs/mine.txt", "models/big/weights.pt"])
def test_files_that_were_added_to_an_export_are_not_lost(tmp_path: Path, added: str) -> None:
    folder = tmp_path / "out"
    publish(folder, fill, {"layout": "liger"})
    path = folder / added
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("mine")
    with pytest.raises(RequestError, match=rf"holds an export and 1 files that are not of it \(first: {added}\).*; move"):
        publish(folder, fill, {"layout": "re-tiger"})
    assert path.read_text() == "mine" and read_json(folder / NOTE)["layout"] == "liger"
    assert [one.name for one in tmp_path.iterdir()] == ["out"]
    path.rename(tmp_path / "kept")
    publish(folder, fill, {"layout": "re-tiger"})
    assert read_json(folder / NOTE)["layout"] == "re-tiger"


def test_a_link_among_the_files_is_one_that_was_added(tmp_path: Path) -> None:
    publish(tmp_path / "out", fill, {"layout": "liger"})
    (tmp_path / "data").mkdir()
    (tmp_path / "out" / "link").symlink_to(tmp_path / "data", target_is_directory=True)
    with pytest.raises(RequestError, match="first: link"):
        publish(tmp_path / "out", fill, {"layout": "liger"})


@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\u0085", "\v", "\f", "\x1c", "\r\n", "\\n"])
def test_lines_end_where_they_were_ended_and_nowhere_else(tmp_path: Path, mark: str) -> None:
    records = [{"item_id": f"a{mark}b", "text": f"one{mark}"}, {"item_id": "c", "text": f"{mark}two"}]
    write_json_lines(tmp_path / "items.jsonl", records)
    assert read_json_lines(tmp_path / "items.jsonl", ("item_id", "text")) == records


@pytest.mark.parametrize(("content", "count"), [("", 0), ('{"a": 1}', 1), ('{"a": 1}\r\n{"a": 2}\r\n', 2)])
def test_other_ends_of_files_and_lines_are_read(tmp_path: Path, content: str, count: int) -> None:
    (tmp_path / "a.jsonl").write_bytes(content.encode())
    assert len(read_json_lines(tmp_path / "a.jsonl", ("a",))) == count


@pytest.mark.parametrize(("content", "line"), [('{"a": 1}\n\n{"a": 2}\n', 2), ('{"b": 1}\n', 1), ('{"a": 1}\n[1]\n', 2)])
def test_lines_that_hold_something_else_are_counted(tmp_path: Path, content: str, line: int) -> None:
    (tmp_path / "a.jsonl").write_text(content)
    with pytest.raises(ArtifactError, match=rf"line {line} of .*a\.jsonl"):
        read_json_lines(tmp_path / "a.jsonl", ("a",))


@pytest.mark.parametrize("content", [b"", b"abc", b"PK\x03\x04", b"\x80\x02}q\x00."])
@pytest.mark.filterwarnings("ignore:'encoding' argument")
def test_a_damaged_file_of_tensors_is_one_sentence(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "rqvae.pt").write_bytes(content)
    with pytest.raises(ArtifactError, match=r"rqvae\.pt cannot be read as tensors and plain containers") as caught:
        load_rqvae(tmp_path)
    assert "\n" not in str(caught.value)


def test_tensors_under_other_names_are_said(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    path = tmp_path / "checkpoints" / "sasrec_embeddings.pt"
    save_tensors(path, {"vectors": torch.zeros(2)})
    with pytest.raises(
        ArtifactError, match=r"sasrec_embeddings\.pt holds a dict without a tensor embeddings, expected one; export"
    ):
        load_sasrec_vectors(tmp_path)
    torch.save(torch.zeros(2), tmp_path / "rqvae.pt")
    with pytest.raises(ArtifactError, match=r"rqvae\.pt holds a Tensor without model"):
        load_rqvae(tmp_path)
    for content in ({"embeddings": torch.ones(2), "known": torch.ones(2)}, torch.ones(2)):
        torch.save(content, path)
        np.testing.assert_array_equal(load_sasrec_vectors(tmp_path), [1, 1])
