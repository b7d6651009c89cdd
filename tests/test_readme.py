"""The README's Python example runs as printed, and its commands exist."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from felid.cli import app

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def test_commands_exist() -> None:
    named = set(re.findall(r"felid ([a-z]+) ", README))
    assert {"run", "recommend", "train", "show"} <= named
    listed = CliRunner().invoke(app, ["--help"]).output
    assert named <= set(re.findall(r"[a-z]+", listed))


def test_yaml_example_is_a_recipe(tmp_path: Path) -> None:
    import yaml

    from felid.recipe import resolve

    example = yaml.safe_load(re.findall(r"```yaml\n(.*?)```", README, re.S)[0])
    assert resolve(example).dataset.kind == "files"


def test_relative_links_lead_somewhere() -> None:
    root = Path(__file__).parents[1]
    links = [link for link in re.findall(r"\]\(([^)#]+)", README) if not link.startswith("http")]
    assert links
    assert [link for link in links if not (root / link).exists()] == []


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_python_example_runs(tmp_path: Path) -> None:
    example = re.findall(r"```python\n(.*?)```", README, re.S)[0]
    result = subprocess.run(
        [sys.executable, "-c", example], cwd=tmp_path, capture_output=True, text=True, timeout=800, check=False
    )
    assert result.returncode == 0, result.stderr
    recommended = result.stdout.strip().splitlines()[-5:]
    assert all(re.fullmatch(r"\d+ .+ \(\d+(, \d+)+\) -\d+\.\d+", line) for line in recommended), recommended
