from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from rich.console import Console

from felid import rows
from felid.quantize import RKMeans, RKMeansConfig, load_quantizer
from felid.quantize.base import NO_CONTEXT, FitContext
from felid.quantize.catalogue import (
    TokenizeConfig,
    encode_catalogue,
    fit_rows,
    identify_catalogue,
    quantize_catalogue,
)
from felid.quantize.resolve import NearestFreeConfig, SuffixConfig, resolve_collisions
from felid.rows import Vectors
from felid.semantic_ids import SemanticIds


def vectors(count: int = 200, dim: int = 6) -> Vectors:
    rng = np.random.default_rng(0)
    return (rng.normal(size=(9, dim))[rng.integers(9, size=count)] * 3 + rng.normal(size=(count, dim))).astype(np.float32)


@dataclass
class Watched:
    """Rows that remember the most that was asked for at once."""

    values: Vectors
    asked: list[int] = field(default_factory=list)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.values.shape

    def __getitem__(self, wanted: slice | np.ndarray) -> Vectors:
        found = self.values[wanted]
        self.asked.append(len(found))
        return found


def test_only_items_that_may_be_learnt_from_are_drawn():
    learn = np.arange(100) % 3 > 0
    assert fit_rows(learn, TokenizeConfig()).tolist() == np.flatnonzero(learn).tolist()
    drawn = fit_rows(learn, TokenizeConfig(max_fit_items=20))
    assert len(drawn) == len(set(drawn.tolist())) == 20
    assert learn[drawn].all()
    assert drawn.tolist() == sorted(drawn.tolist()) == fit_rows(learn, TokenizeConfig(max_fit_items=20)).tolist()
    assert drawn.tolist() != fit_rows(learn, TokenizeConfig(max_fit_items=20, seed=1)).tolist()


def test_a_catalogue_is_read_in_blocks_and_gets_the_codes_of_one_call(monkeypatch: pytest.MonkeyPatch):
    x = vectors()
    quantizer = RKMeans(RKMeansConfig(sizes=(8, 5))).fit(x)
    monkeypatch.setattr(rows.blocks, "__defaults__", (32,))
    watched, counted = Watched(x), list[int]()
    np.testing.assert_array_equal(encode_catalogue(quantizer, watched, counted.append), quantizer.encode(x))
    assert max(watched.asked) == 32
    assert sum(counted) == 200


class Learner(RKMeans):
    """Says that it learns in 60 epochs."""

    heard: ClassVar[list[np.ndarray | None]] = []

    def fit(self, x: Vectors, context: FitContext = NO_CONTEXT) -> Learner:
        self.heard.append(context.items)
        for epoch in range(1, 61):
            context.log({"epoch": epoch, "loss": 1 / epoch, "utilisation": [1.0, 0.25]})
        context.progress(60, 60)
        return super().fit(x, context)


def test_fitted_quantiser_codes_and_log_are_kept(tmp_path: Path):
    x, some = vectors(), np.arange(0, 200, 2)
    console = Console(record=True, width=200)
    codes = quantize_catalogue(Learner(RKMeansConfig(sizes=(8, 5))), x, tmp_path, FitContext(items=some), console)
    assert Learner.heard[-1] is not None
    assert Learner.heard[-1].tolist() == some.tolist()
    quantizer = load_quantizer(tmp_path / "quantizer")
    np.testing.assert_array_equal(quantizer.codebook(0), RKMeans(RKMeansConfig(sizes=(8, 5))).fit(x[some]).codebook(0))
    np.testing.assert_array_equal(codes, quantizer.encode(x))
    np.testing.assert_array_equal(np.load(tmp_path / "quantizer_codes.npy"), codes)
    np.testing.assert_array_equal(np.load(tmp_path / "fitted_on.npy"), some)
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [record["epoch"] for record in log] == list(range(1, 61))
    assert log[0]["utilisation"] == [1.0, 0.25]
    shown = [line.split(",")[0].strip() for line in console.export_text().splitlines()]
    assert shown == [f"epoch {epoch}" for epoch in (1, 2, 5, 10, 20, 50, 60)]


def test_identified_catalogue_holds_all_that_it_came_from(tmp_path: Path):
    x, item_ids = vectors(), np.arange(1000, 1200)
    codes = quantize_catalogue(RKMeans(RKMeansConfig(sizes=(8, 5))), x, _folder(tmp_path / "codes"))
    assert not (tmp_path / "codes" / "log.jsonl").exists()  # k-means has no epochs to speak of
    ids = identify_catalogue(tmp_path / "codes", SuffixConfig(), x, item_ids, np.ones(200, bool), _folder(tmp_path / "ids"))
    np.testing.assert_array_equal(ids.codes[:, :2], codes)
    assert SemanticIds.load(tmp_path / "ids").of(1007) == ids.of(1007)
    statistics = json.loads((tmp_path / "ids" / "statistics.json").read_text())
    assert statistics["num_unique"] == len(np.unique(codes, axis=0))
    assert load_quantizer(tmp_path / "ids" / "quantizer").sizes == (8, 5)
    np.testing.assert_array_equal(np.load(tmp_path / "ids" / "quantizer_codes.npy"), codes)


def test_resolvers_move_items_by_the_quantisers_costs(tmp_path: Path):
    x = vectors()
    codes = quantize_catalogue(RKMeans(RKMeansConfig(sizes=(8, 60))), x, _folder(tmp_path / "codes"))
    quantizer, alone = load_quantizer(tmp_path / "codes" / "quantizer"), np.ones(200, bool)
    ids = identify_catalogue(tmp_path / "codes", NearestFreeConfig(), x, np.arange(200), alone, _folder(tmp_path / "ids"))
    expected = resolve_collisions(codes, (8, 60), NearestFreeConfig(), lambda r: quantizer.last_level_costs(x[r], codes[r]))
    assert expected.moved > 0
    np.testing.assert_array_equal(ids.codes, expected.codes)


def _folder(path: Path) -> Path:
    path.mkdir()
    return path
