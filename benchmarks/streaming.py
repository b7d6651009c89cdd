"""`python -m benchmarks.streaming`: a million items x 768 from disk through `felid embed` and `felid tokenize`.

The vectors are a random mixture, written block by block into a scratch folder (3 GB, and 6 GB more for the run); each
command runs in a process of its own, whose peak memory the stage's manifest holds.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import polars as pl

from felid.artifacts import read_json, read_run
from felid.rows import blocks, write_rows


def main() -> None:
    """Make the data, run the two stages, print what they took."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.streaming", description=__doc__)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=768)
    parser.add_argument("--scratch", type=Path, help="folder with 10 GB to spare; default: a temporary one")
    parser.add_argument("overrides", nargs="*", help="changes of the recipe, such as quantizer.balanced=true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
        print(json.dumps(measure(Path(folder), options.items, options.dim, options.overrides)))


def measure(folder: Path, num_items: int, dim: int, overrides: list[str]) -> dict[str, object]:
    """Seconds and peak MiB of both stages, beside the size of the matrix."""
    _write_world(folder, num_items, dim)
    recipe = {
        "dataset": {"kind": "files", "interactions": str(folder / "interactions.parquet")},
        "filter": {"min_user_interactions": 1},
        "embedding": {"kind": "precomputed", "vectors": str(folder / "vectors.npy"), "ids": str(folder / "ids.npy")},
    }
    (folder / "recipe.json").write_text(json.dumps(recipe))
    found: dict[str, object] = {"items": num_items, "dim": dim, "matrix_mib": num_items * dim * 4 // 2**20}
    for stage in ("embed", "tokenize"):
        command = [sys.executable, "-m", "felid", stage, str(folder / "run"), *overrides, "--recipe", str(folder / "recipe.json")]
        subprocess.run(command, check=True, env=dict(os.environ), stdout=sys.stderr)
        manifest = read_json(folder / "run" / read_run(folder / "run")["stages"][stage] / "manifest.json")
        found[stage] = {name: manifest[name] for name in ("wall_seconds", "peak_rss_mib")}
    return found


def _write_world(folder: Path, num_items: int, dim: int) -> None:
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(4096, dim)).astype(np.float32)
    shape = (num_items, dim)

    def part(block: slice) -> np.ndarray:
        count = block.stop - block.start
        return centres[rng.integers(len(centres), size=count)] + rng.normal(size=(count, dim)).astype(np.float32)

    write_rows(folder / "vectors.npy", shape, (part(block) for block in blocks(num_items)))
    np.save(folder / "ids.npy", rng.permutation(num_items))
    users = np.repeat(np.arange(num_items // 4 + 1), 4)[:num_items]  # every item once, four to a user: half of them train
    pl.DataFrame({"user_id": users, "item_id": rng.permutation(num_items)}).write_parquet(folder / "interactions.parquet")


if __name__ == "__main__":
    main()
