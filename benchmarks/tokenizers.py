"""`python -m benchmarks.tokenizers`: every quantiser on Amazon Beauty: its health, and what a short lynx training makes of it.

Each cell is two commands in processes of their own, `felid tokenize` and `felid train` (3 epochs), in a run folder that
shares data and vectors with the other cells; peak memory is that of the tokenising process. Cells already in the results
file are skipped, so the command may be interrupted, and two processes may share the work (`--share 0/2` and `--share 1/2`,
each with its own `--work`). Only validation is looked at.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.runs import a_share, felid, share_of
from felid.artifacts import read_json, read_run
from felid.embedding import load_embeddings
from felid.quantize import load_quantizer
from felid.quantize.health import neighbour_overlap, reconstruction_error

RECIPE = Path(__file__).with_suffix(".yaml")
EPOCHS = 3
SEEDS = (0, 1, 2)
RQVAE = ("quantizer.kind=rqvae",)
BEHAVIOUR = (*RQVAE, "collaborative.kind=cooccurrence", "quantizer.alignment_weight=0.1")
QUANTIZERS: dict[str, tuple[str, ...]] = {
    "rkmeans": (),
    "rkmeans-balanced": ("quantizer.balanced=true",),
    "rqvae": RQVAE,
    "rqvae-gradient": (*RQVAE, "quantizer.update=gradient"),
    "rqvae-rotation": (*RQVAE, "quantizer.estimator=rotation"),
    "rqvae-sinkhorn": (*RQVAE, "quantizer.sinkhorn_epsilon=0.05"),
    "rqvae-alignment": BEHAVIOUR,
    "rqvae-alignment-0.5": (*BEHAVIOUR, "quantizer.alignment_weight=0.5"),
    "rqvae-alignment-2": (*BEHAVIOUR, "quantizer.alignment_weight=2"),
    "rqvae-letter": (*BEHAVIOUR, "quantizer.update=gradient", "quantizer.diversity_weight=0.01"),
    "pq": ("quantizer.kind=pq",),
    "opq": ("quantizer.kind=pq", "quantizer.rotate=true"),
    "random": ("quantizer.kind=random",),
    "item-number": ("quantizer.kind=item-number",),
}
RESOLVERS = {
    "suffix": (),
    "nearest-free": ("collision.kind=nearest-free",),
    "sinkhorn": ("collision.kind=sinkhorn",),
    "none": ("collision.kind=none", "collision.allow_training=true"),
}
EMBEDDINGS = {"packaged-minilm": (), "lsa": ("embedding.kind=lsa",)}
Cell = tuple[str, str, str, int]
"""Quantiser, resolver, embedding, seed."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the missing cells, and print the table of all."""
    options = _options(arguments)
    console = Console(width=200)
    cells = list(_cells(options))
    for cell in share_of(cells, options.share):
        if cell not in _results(options.out):
            result = _measure(cell, options.work, options.threads)
            with options.out.open("a") as stream:
                stream.write(json.dumps(result) + "\n")
            console.print(json.dumps(result), soft_wrap=True)
    console.print(table(_results(options.out)))


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tokenizers", description=__doc__)
    parser.add_argument("--quantizers", nargs="+", default=list(QUANTIZERS), choices=list(QUANTIZERS))
    parser.add_argument("--resolvers", nargs="+", default=["suffix"], choices=list(RESOLVERS))
    parser.add_argument("--embeddings", nargs="+", default=["packaged-minilm"], choices=list(EMBEDDINGS))
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS)
    parser.add_argument("--out", type=Path, default=Path("reports/tokenizers/cells.jsonl"), help="one JSON line per cell")
    parser.add_argument("--work", type=Path, default=Path("runs/tokenizers"), help="run folder")
    parser.add_argument("--share", type=a_share, default="0/1", help="which part of the cells this process makes, counted from 0")
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args(arguments)


def _cells(options: argparse.Namespace) -> Iterator[Cell]:
    for seed in options.seeds:
        for embedding in options.embeddings:
            for resolver in options.resolvers:
                yield from ((quantizer, resolver, embedding, seed) for quantizer in options.quantizers)


def _results(path: Path) -> dict[Cell, dict[str, Any]]:
    lines = path.read_text().splitlines() if path.is_file() else []
    records = [json.loads(line) for line in lines]
    return {(r["quantizer"], r["resolver"], r["embedding"], r["seed"]): r for r in records}


def _measure(cell: Cell, root: Path, threads: int) -> dict[str, Any]:
    quantizer, resolver, embedding, seed = cell
    overrides = [*QUANTIZERS[quantizer], *RESOLVERS[resolver], *EMBEDDINGS[embedding], f"seed={seed}"]
    if quantizer != "item-number":
        overrides.append(f"quantizer.seed={seed}")
    overrides.append(f"training.epochs={EPOCHS}")
    felid("tokenize", root, RECIPE, overrides, threads=threads)
    places = read_run(root)["stages"]
    result = {"quantizer": quantizer, "resolver": resolver, "embedding": embedding, "seed": seed, "overrides": overrides}
    result |= _fit(root, root / places["tokenize"]) | _health(root / places["tokenize"], root / places["embed"])
    felid("train", root, RECIPE, overrides, threads=threads)
    places = read_run(root)["stages"]
    last = read_json(root / places["train"] / "progress.json")["curve"][-1]
    return result | {name: last[name] for name in ("recall@10", "ndcg@10", "loss", "seconds")}


def _fit(root: Path, tokens: Path) -> dict[str, Any]:
    """Seconds and peak memory of the process that fitted the quantiser and encoded all items."""
    wanted = read_json(tokens / "manifest.json")["inputs"]["codes"]
    manifests = (read_json(path) for path in (root / "quantize").glob("*/manifest.json"))
    made = next(manifest for manifest in manifests if manifest["digest"] == wanted)
    return {"fit_seconds": made["wall_seconds"], "peak_rss_mib": made["peak_rss_mib"]}


def _health(tokens: Path, embed: Path) -> dict[str, Any]:
    known = read_json(tokens / "statistics.json")
    codes = np.load(tokens / "quantizer_codes.npy")
    x = load_embeddings(embed, normalized=True)[1]
    decoded = load_quantizer(tokens / "quantizer").decode(codes)
    neighbours = neighbour_overlap(x, codes, decoded)
    return {
        "num_unique": known["num_unique"],
        "largest_group": known["largest_group"],
        "moved": known["moved"],
        "utilisation": [level["utilisation"] for level in known["levels"]],
        "perplexity": [level["perplexity"] for level in known["levels"]],
        "error": reconstruction_error(x, decoded),
        "overlap": neighbours.decoded,
        "first_code_shared": neighbours.prefixes[0],
    }


def table(results: dict[Cell, dict[str, Any]]) -> Table:
    """One row per quantiser, resolver and embedding: means over the seeds, recall also with its extent."""
    found = Table(title=f"{len(results)} cells; lynx, {EPOCHS} epochs, validation")
    names = (
        "quantiser",
        "resolver",
        "vectors",
        "seeds",
        "fit s",
        "MiB",
        "distinct",
        "largest",
        "used",
        "perplexity",
        "error",
        "recall@10",
    )
    for name in (*names, "least-most"):
        found.add_column(name, no_wrap=True)
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for cell, result in results.items():
        groups.setdefault(cell[:3], []).append(result)
    for group, rows in sorted(groups.items(), key=lambda item: -_mean(item[1], "recall@10")):
        recalls = [row["recall@10"] for row in rows]
        found.add_row(
            *group,
            str(len(rows)),
            f"{_mean(rows, 'fit_seconds'):.1f}",
            f"{max(row['peak_rss_mib'] for row in rows):,}",
            f"{_mean(rows, 'num_unique'):,.0f}",
            str(max(row["largest_group"] for row in rows)),
            "/".join(f"{statistics.mean(level):.2f}" for level in zip(*(row["utilisation"] for row in rows), strict=True)),
            "/".join(f"{statistics.mean(level):.0f}" for level in zip(*(row["perplexity"] for row in rows), strict=True)),
            f"{_mean(rows, 'error'):.3f}",
            f"{_mean(rows, 'recall@10'):.4f}",
            f"{min(recalls):.4f}-{max(recalls):.4f}",
        )
    return found


def _mean(rows: Sequence[dict[str, Any]], name: str) -> float:
    return statistics.mean(row[name] for row in rows)


if __name__ == "__main__":
    main()
