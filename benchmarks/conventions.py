"""`python -m benchmarks.conventions RUN`: one checkpoint scored under the conventions of others.

Nothing is trained. The first row of a block is what the others are held against: felid's own convention for the lists of the
run's system, and averaged ties for the rows that need every score, which only a dense head gives. `docs/evaluation.md` says who
has which convention. `--out FOLDER` keeps the figures as `conventions.json` and the table as `README.md`.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from benchmarks.tables import markdown
from felid.artifacts import open_artifact, read_json, read_run, write_json
from felid.config import validate
from felid.data.dataset import Dataset
from felid.data.histories import Cuts, LeaveOneOut
from felid.data.holdout import HoldoutConfig, split_of
from felid.data.split import read_split
from felid.evaluation.conventions import Row, list_rows, named_rows, order_rows, score_rows
from felid.recommender import Recommender
from felid.semantic_ids import SemanticIds

METRICS = ("recall", "ndcg")


def main(arguments: Sequence[str] | None = None) -> None:
    """Score, print and keep."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.conventions", description=__doc__)
    parser.add_argument("run", type=Path, help="run folder with a trained recommender")
    parser.add_argument("--ks", type=int, nargs="+", default=[5, 10], help="list lengths")
    parser.add_argument("--seed", type=int, default=0, help="of the order of same-time events and of sampled items")
    parser.add_argument("--users", type=int, help="so many users drawn at random; default: all")
    parser.add_argument("--out", type=Path, help="folder for the figures")
    options = parser.parse_args(arguments)
    start, console = time.perf_counter(), Console(width=200, highlight=False)
    blocks = score(options.run, tuple(options.ks), options.seed, options.users)
    text = "\n\n".join(table(rows, max(options.ks)) for rows in blocks.values())
    console.print(text, markup=False, soft_wrap=True)
    if options.out is not None:
        keep(options.out, options.run, blocks, text, time.perf_counter() - start)


def score(run: Path, ks: tuple[int, ...], seed: int, users: int | None) -> dict[str, list[Row]]:
    """The rows of each block, by the name of the block."""
    recommender, dataset, split = opened(run)
    split = split if users is None else sampled(split, users, seed)
    num_items = len(dataset.items)
    lists = list_rows(recommender.ranker, split, ks, num_items, id_groups(run, recommender.ids))
    blocks = {recommender.ranker.mode: lists + order_rows(recommender.ranker, split, dataset, ks, seed)}
    blocks["as others have it"] = named_rows(lists[0], recommender.ranker, split, ks, num_items)
    if "dense" in recommender.model.modes:
        blocks["dense, all scores"] = score_rows(recommender.in_mode("dense").ranker, split, ks, seed)
    return blocks


def opened(run: Path) -> tuple[Recommender, Dataset, LeaveOneOut]:
    """The recommender that was trained last, its data and its split."""
    recommender, bundle = Recommender.load(run), read_run(run)["bundle"]
    dataset = Dataset.load(open_artifact(run / bundle["stages"]["data"]).path)
    split = split_of(dataset, validate(HoldoutConfig, bundle.get("holdout", {})), read_split(bundle.get("split")))
    return recommender, dataset, split


def sampled(split: LeaveOneOut, users: int, seed: int) -> LeaveOneOut:
    """The same training part, and only so many users with targets, drawn at random."""
    cuts = split.cuts or Cuts.last_two(split.sequences.lengths)
    left = np.random.default_rng(seed).permutation(split.evaluated)[users:]
    validation, test = cuts.validation.copy(), cuts.test.copy()
    validation[left] = test[left] = -1
    return replace(split, cuts=replace(cuts, validation=validation, test=test))


def id_groups(run: Path, ids: SemanticIds) -> NDArray[np.int64] | None:
    """Which items have the same ID, where they share it or a last level of its own tells them apart."""
    if ids.shared:
        return ids.groups.group
    collision = read_json(run / "recipe.json", ("collision",))["collision"]["kind"]
    if collision != "suffix":
        return None
    return np.unique(ids.codes[:, :-1], axis=0, return_inverse=True)[1].reshape(-1).astype(np.int64)


def table(rows: Sequence[Row], k: int) -> str:
    """Figures at k, and how far they are from the first row's."""
    header = ["convention", "users", *(part for name in METRICS for part in (f"{name}@{k}", "against the first")), "remark"]
    lines = []
    for row in rows:
        cells: list[object] = [row.convention, f"{row.users:,}"]
        for name in METRICS:
            value, own = row.values[f"{name}@{k}"], rows[0].values[f"{name}@{k}"]
            cells += [f"{value:.4f}", f"{value / own - 1:+.1%}" if own and row is not rows[0] else ""]
        remarks = [] if row.comparable else ["not comparable with the first row"]
        lines.append([*cells, "; ".join([*remarks, row.note] if row.note else remarks)])
    return markdown(header, lines)


def keep(out: Path, run: Path, blocks: dict[str, list[Row]], text: str, seconds: float) -> None:
    """Figures and table."""
    out.mkdir(parents=True, exist_ok=True)
    content = {name: [asdict(row) for row in rows] for name, rows in blocks.items()}
    write_json(out / "conventions.json", {"run": run.name, "seconds": round(seconds, 1), "blocks": content})
    (out / "README.md").write_text(f"# One checkpoint, several conventions\n\n{text}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
