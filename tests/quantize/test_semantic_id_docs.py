"""The pages about the encoder for feature vectors, and its example, run as they stand."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = ("docs/semantic-id.md", "docs/zh/semantic-id.md")


def blocks(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)


def smaller(code: str) -> str:
    """The same with fewer items and codes, for speed."""
    for large, small in (("(5000, 256)", "(600, 256)"), ("(64, 128, 256)", "(8, 16, 16)"), ("num_epochs=2", "num_epochs=1")):
        code = code.replace(large, small)
    return code


@pytest.mark.parametrize("page", PAGES)
def test_the_code_of_the_page_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for code in blocks(page):
        exec(smaller(code), names)
    assert names["approximate"].shape == (600, 256) and names["codebook"].shape == (8, 256)
    assert names["resolution"].codes.shape == (600, 4)
    assert (tmp_path / "my-encoder" / "model.safetensors").is_file()


def test_both_languages_show_the_same_code() -> None:
    english, chinese = ([line.partition("#")[0].rstrip() for code in blocks(page) for line in code.split("\n")] for page in PAGES)
    assert english == chinese and len(english) > 30


def test_the_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["example", "--codebook-sizes", "8", "16", "--epochs", "1", "--out", str(tmp_path / "encoder")]
    monkeypatch.setattr("sys.argv", arguments)
    runpy.run_path(str(ROOT / "examples/semantic_id_encoder.py"), run_name="__main__")
    shown = capsys.readouterr().out
    assert "level 1: 16 of 16 codes" in shown and "loaded, the first item is" in shown
