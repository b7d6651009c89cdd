"""`python -m benchmarks.leaderboard`: README's table and reports/leaderboard.md, made of the records and of nothing else.

Records are the `record.json` under reports/ (`felid record`, `python -m benchmarks.records`); figures of others stand in
reports/published.yaml. With `--check` nothing is written, and the command fails where a page is not what the records say.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from felid.artifacts import read_json, write_text
from felid.records import RECORD, Record, cell, interval, markdown

BEGIN, END = "<!-- leaderboard: made by `make leaderboard`, do not edit -->", "<!-- end of leaderboard -->"
METRICS = ("recall@5", "ndcg@5", "recall@10", "ndcg@10")
INTERVALS = METRICS[2:]
POLICIES = {"seen_removed": "seen items removed", "seen_kept": "seen items kept"}
GROUPS = {
    "all": "all users",
    "warm": "users whose target has training interactions",
    "cold": "users whose target is a held-out item",
}
HEADER = ("system", *METRICS, *(f"{name}, 95 % CI" for name in INTERVALS), "runs", "training, min", "record or convention")
SHORT_DATA, SHORT_ROWS = "amazon-2014-Beauty", 15
"""What README shows: this data, and at most so many rows of ours, of each system that with the most runs."""
PUBLISHED = "published.yaml"


@dataclass(frozen=True)
class Row:
    """A system of a record under one convention.

    Attributes:
        system: its name.
        values: metric -> mean, low, high, runs.
        runs: how many trainings.
        minutes: of one training with its warm-up; None = not known, or it is a baseline of the record.
        link: path of the record's folder below reports/.
        note: what its record says a reader should know; "" = nothing.
    """

    system: str
    values: Mapping[str, Any]
    runs: int
    minutes: float | None
    link: str
    note: str = ""

    @property
    def order(self) -> float:
        return -float(self.values["recall@10"]["mean"])

    def cells(self, root: str, *, brief: bool = False) -> list[str]:
        """What stands in a table; `brief` leaves out the extent over runs."""
        means = {name: self.values[name] for name in METRICS if name in self.values}
        if brief:
            means = {name: {"mean": value["mean"]} for name, value in means.items()}
        shown = [cell(means[name]) if name in means else "" for name in METRICS]
        ends = [interval(self.values[name]) for name in INTERVALS]
        minutes = "" if self.minutes is None else f"{self.minutes:.1f}"
        link = f"[{self.link}]({root}{self.link}/{RECORD}){f'; {self.note}' if self.note else ''}"
        return [self.system, *shown, *ends, str(self.runs), minutes, link]


Board = dict[str, list[Row]]
"""Rows by convention; the first word of a convention is the policy, the second the group."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Write both pages, or compare them."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.leaderboard", description=__doc__)
    parser.add_argument("--root", type=Path, default=Path(), help="the repository")
    parser.add_argument("--check", action="store_true", help="write nothing; fail where a page differs from the records")
    options = parser.parse_args(arguments)
    pages = made_pages(options.root)
    wrong = [path for path, text in pages.items() if not path.is_file() or path.read_text(encoding="utf-8") != text]
    if options.check and wrong:
        sys.exit(f"{', '.join(map(str, wrong))}: not what the records say; run `make leaderboard`")
    for path in [] if options.check else wrong:
        write_text(path, pages[path])
        print(path)


def made_pages(root: Path) -> dict[Path, str]:
    """Path -> what it should hold."""
    reports, readme = root / "reports", root / "README.md"
    records = {path.parent.relative_to(reports).as_posix(): read_json(path) for path in sorted(reports.rglob(RECORD))}
    others = yaml.safe_load((reports / PUBLISHED).read_text(encoding="utf-8"))
    text = readme.read_text(encoding="utf-8")
    return {readme: between(text, short_board(records, others)), reports / "leaderboard.md": long_page(records, others)}


def between(text: str, board: str) -> str:
    """A page with the board between its marks."""
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(END) < text.index(BEGIN):
        sys.exit(f"README.md needs the two lines {BEGIN!r} and {END!r}, once and in this order, for the board to stand between")
    return f"{text[: text.index(BEGIN)]}{BEGIN}\n{board}\n{text[text.index(END) :]}"


def boards(records: Mapping[str, Record]) -> dict[str, Board]:
    """Data set and split -> convention -> rows, best recall@10 first."""
    found: dict[str, Board] = {}
    for link, record in records.items():
        for system, figures in record["figures"].items():
            for group, of_group in figures["test"].items():
                for policy in POLICIES:
                    if policy in of_group and "recall@10" in of_group[policy]:
                        rows = found.setdefault(data_of(record), {}).setdefault(f"{policy} {group}", [])
                        _add(rows, _row(link, record, system, of_group[policy]))
    for board in found.values():
        for rows in board.values():
            rows.sort(key=lambda row: row.order)
    return found


def _row(link: str, record: Record, system: str, values: Mapping[str, Any]) -> Row:
    trained = [run["wall_minutes"] for run in record["runs"] if "train" in run.get("wall_minutes", {})]
    times = [minutes["train"] + minutes.get("warmup", 0.0) for minutes in trained]
    known = system not in record["baselines"] and len(times) == len(record["runs"])
    minutes = sum(times) / len(times) if known else None
    return Row(system, values, len(record["runs"]), minutes, link, record.get("note", ""))


def _add(rows: list[Row], row: Row) -> None:
    """Add a row; a baseline that several records have with the same figures stands there once."""
    same = [one for one in rows if one.system == row.system and one.minutes is row.minutes is None]
    if not any(_means(one) == _means(row) for one in same):
        rows.append(row)


def _means(row: Row) -> list[float]:
    return [row.values[name]["mean"] for name in METRICS if name in row.values]


def data_of(record: Record) -> str:
    """Data set, size and split, in words."""
    recipe = record["recipe"]
    parts = [f"{record['data']['name']}: {record['num_users']:,} users, {record['num_items']:,} items"]
    split = recipe.get("split", {"kind": "leave-one-out"})
    parts.append(split["kind"] + (", the last but one trains" if split.get("train_target") == "n-2" else ""))
    holdout = recipe.get("holdout", {"rule": "natural"})
    if holdout["rule"] != "natural":
        parts.append(f"{holdout['share']:.0%} of the items held out ({holdout['rule']})")
    if recipe.get("evaluation", {}).get("candidates", "all") != "all":
        parts.append("candidates: items with training interactions")
    return "; ".join(parts)


def short_board(records: Mapping[str, Record], others: Sequence[Mapping[str, Any]]) -> str:
    """README's table: the whole of one data set, the usual split, seen items removed; what others published under it."""
    usual = {link: record for link, record in records.items() if "note" not in record and is_usual(record)}
    found = boards(usual)
    data = max(found, key=lambda name: len(found[name]["seen_removed all"]))
    ours = found[data]["seen_removed all"]
    most = {row.system: row for row in sorted(ours, key=lambda row: row.runs)}
    rows = [row.cells("reports/", brief=True) for row in ours if row is most[row.system]][:SHORT_ROWS]
    rows += [published_cells(one) for one in others if one.get("short") and one["data"] == SHORT_DATA]
    title = (
        f"{data}; test, {POLICIES['seen_removed']}, all items are candidates. Rows without runs are what others published, by "
    )
    title += "conventions of their own. Training: wall minutes of one run, several side by side on one machine."
    more = "Other conventions, data sets and published figures: [reports/leaderboard.md](reports/leaderboard.md)."
    return "\n".join([title, "", *markdown(HEADER, rows), "", more])


def is_usual(record: Record) -> bool:
    """Whether a record is of README's data without held-out items."""
    return bool(record["data"]["name"] == SHORT_DATA and record["recipe"].get("holdout", {}).get("rule", "natural") == "natural")


def published_cells(one: Mapping[str, Any]) -> list[str]:
    figures = [f"{one['figures'][name]:.4f}" if name in one["figures"] else "" for name in METRICS]
    note = f"; {one['note']}" if "note" in one else ""
    return [one["system"], *figures, *("" for _ in INTERVALS), "", "", f"{one['convention']} ({one['source']}){note}"]


def long_page(records: Mapping[str, Record], others: Sequence[Mapping[str, Any]]) -> str:
    """All boards."""
    lines = ["# Leaderboard", "", "Made by `make leaderboard` from the `record.json` beside this page; do not edit.", ""]
    lines += ["Means over runs (seeds, or draws of held-out items), in brackets their extent. Intervals: bootstrap over users,"]
    lines += ["where they were kept. A row is comparable with another one of its own table alone. Published figures stand below"]
    lines += ["the data set that they are of, whatever their convention: the last column says it."]
    for data, board in sorted(boards(records).items(), key=lambda item: ("held out" in item[0], item[0])):
        lines += ["", f"## {data}"]
        for policy, seen in POLICIES.items():
            for group, users in GROUPS.items():
                rows = board.get(f"{policy} {group}")
                if rows and (group == "all" or "held out" in data):
                    lines += ["", f"### Test, {users}, {seen}", "", *markdown(HEADER, [row.cells("") for row in rows])]
    for data in dict.fromkeys(one["data"] for one in others):
        rows_of_others = [published_cells(one) for one in others if one["data"] == data]
        lines += ["", f"## Published for {data}", "", *markdown(HEADER, rows_of_others)]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
