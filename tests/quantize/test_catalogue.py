from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from felid import rows
from felid.quantize import RKMeans, RKMeansConfig, load_quantizer
from felid.quantize.base import NO_CONTEXT, FitContext
from felid.quantize.catalogue import TokenizeConfig, encode_catalogue, fit_rows, tokenize_catalogue
from felid.quantize.resolve import SuffixConfig
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


def test_everything_of_a_tokenised_catalogue_is_kept(tmp_path: Path):
    x, some = vectors(), np.arange(0, 200, 2)
    heard: list[np.ndarray | None] = []

    class Learner(RKMeans):
        def fit(self, x: Vectors, context: FitContext = NO_CONTEXT) -> Learner:
            heard.append(context.items)
            context.log({"epoch": 1, "loss": 0.5, "utilisation": [1.0, 0.25]})
            context.progress(1, 1)
            return super().fit(x, context)

    ids = tokenize_catalogue(
        Learner(RKMeansConfig(sizes=(8, 5))), SuffixConfig(), x, np.arange(1000, 1200), tmp_path, FitContext(items=some)
    )
    assert heard[0] is not None
    assert heard[0].tolist() == some.tolist()
    quantizer = load_quantizer(tmp_path / "quantizer")
    np.testing.assert_array_equal(quantizer.codebook(0), RKMeans(RKMeansConfig(sizes=(8, 5))).fit(x[some]).codebook(0))
    codes = np.load(tmp_path / "quantizer_codes.npy")
    np.testing.assert_array_equal(codes, quantizer.encode(x))
    np.testing.assert_array_equal(ids.codes[:, :2], codes)
    assert SemanticIds.load(tmp_path).of(1007) == ids.of(1007)
    statistics = json.loads((tmp_path / "statistics.json").read_text())
    assert statistics["num_unique"] == len(np.unique(codes, axis=0))
    assert json.loads((tmp_path / "log.jsonl").read_text()) == {"epoch": 1, "loss": 0.5, "utilisation": [1.0, 0.25]}
