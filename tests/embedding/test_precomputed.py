from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from felid.embedding import ItemTexts, PrecomputedConfig, embed, fingerprint
from felid.errors import EmbeddingError, FelidWarning

IDS = np.array([10, 11, 12], np.int64)
VECTORS = np.array([[0, 1], [2, 3], [4, 5]], np.float32)
ORDER = [2, 0, 1]


def items(ids: np.ndarray = IDS) -> ItemTexts:
    return ItemTexts(ids, [""] * len(ids), np.ones(len(ids), bool))


def write_ids(path: Path, ids: list[object]) -> Path:
    match path.suffix:
        case ".json":
            path.write_text(json.dumps(ids))
        case ".npy":
            np.save(path, np.asarray(ids))
        case _:
            path.write_text("".join(f"{item}\n" for item in ids))
    return path


def npy(folder: Path, ids: list[object], vectors: np.ndarray, suffix: str = ".json") -> PrecomputedConfig:
    np.save(folder / "v.npy", vectors)
    return PrecomputedConfig(vectors=folder / "v.npy", ids=write_ids(folder / f"ids{suffix}", ids))


@pytest.mark.parametrize("suffix", [".json", ".npy", ".txt"])
@pytest.mark.parametrize("ids", [IDS, np.array(["a7", "b", "c"], object)], ids=["int", "str"])
def test_npy_is_aligned_by_id_never_by_row(tmp_path: Path, suffix: str, ids: np.ndarray):
    config = npy(tmp_path, [ids.tolist()[row] for row in ORDER], VECTORS[ORDER].astype(np.float64), suffix)
    found = embed(config, items(ids))[:]
    np.testing.assert_array_equal(found, VECTORS)
    assert found.dtype == np.float32


@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\u0085", "\f"])
def test_ids_in_text_end_with_their_line_alone(tmp_path: Path, mark: str) -> None:
    ids = np.array([f"a{mark}b", f"c{mark}", "d"], object)
    config = npy(tmp_path, ids[ORDER].tolist(), VECTORS[ORDER], ".txt")
    np.testing.assert_array_equal(embed(config, items(ids))[:], VECTORS)
    assert config.ids is not None
    config.ids.write_text(config.ids.read_text(encoding="utf-8").removesuffix("\n"), encoding="utf-8")
    np.testing.assert_array_equal(embed(config, items(ids))[:], VECTORS)


@pytest.mark.parametrize("form", ["list", "array", "columns"])
def test_parquet_is_aligned_by_id_never_by_row(tmp_path: Path, form: str):
    shuffled = VECTORS[ORDER]
    if form == "columns":
        columns = {"d0": shuffled[:, 0], "d1": shuffled[:, 1]}
    else:
        dtype = pl.List(pl.Float64) if form == "list" else pl.Array(pl.Float32, 2)
        columns = {"vector": pl.Series(shuffled.tolist(), dtype=dtype)}
    pl.DataFrame({"item_id": IDS[ORDER], "title": ["x", "y", "z"], **columns}).write_parquet(tmp_path / "v.parquet")
    np.testing.assert_array_equal(embed(PrecomputedConfig(vectors=tmp_path / "v.parquet"), items()), VECTORS)


def test_missing_items_are_counted_and_named(tmp_path: Path):
    config = npy(tmp_path, [10], VECTORS[:1])
    with pytest.raises(EmbeddingError, match=r"2 of 3 items have no vector \(11, 12\); add their rows"):
        embed(config, items())


def test_extra_ids_are_ignored_with_a_warning(tmp_path: Path):
    config = npy(tmp_path, [99, 10, 11, 12], np.concatenate([np.full((1, 2), np.nan, np.float32), VECTORS]))
    with pytest.warns(FelidWarning, match="1 vectors belong to no item"):
        np.testing.assert_array_equal(embed(config, items())[:], VECTORS)


def test_duplicate_ids_are_refused(tmp_path: Path):
    with pytest.raises(EmbeddingError, match=r"1 item ids have several vectors \(11\)"):
        embed(npy(tmp_path, [10, 11, 11], VECTORS), items())


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_embedding_is_refused_with_count_and_example(tmp_path: Path, bad: float):
    vectors = VECTORS.copy()
    vectors[1:, 0] = bad
    with pytest.raises(EmbeddingError, match=r"2 of 3 item vectors hold NaN or infinity \(11, 12\)"):
        embed(npy(tmp_path, IDS.tolist(), vectors), items())


def test_null_in_parquet_is_refused(tmp_path: Path):
    path = tmp_path / "v.parquet"
    pl.DataFrame({"item_id": IDS, "v": [[0.0, 1.0], [None, 3.0], [4.0, 5.0]]}).write_parquet(path)
    with pytest.raises(EmbeddingError, match=r"1 of 3 item vectors hold NaN or infinity \(11\)"):
        embed(PrecomputedConfig(vectors=path), items())
    pl.DataFrame({"item_id": IDS, "v": [[0.0, 1.0], [3.0], [4.0, 5.0]]}).write_parquet(path)
    with pytest.raises(EmbeddingError, match=r"widths \[1, 2\]"):
        embed(PrecomputedConfig(vectors=path), items())


def test_malformed_files_are_refused(tmp_path: Path):
    def refuses(text: str, config: PrecomputedConfig) -> None:
        with pytest.raises(EmbeddingError, match=text) as caught:
            embed(config, items())
        assert "\n" not in str(caught.value)

    refuses("does not exist", PrecomputedConfig(vectors=tmp_path / "none.npy"))
    refuses("one id per row", npy(tmp_path, [10, 11], VECTORS))
    refuses(r"of shape \(3,\); expected numbers", npy(tmp_path, IDS.tolist(), VECTORS[:, 0]))
    refuses("has no item ids", PrecomputedConfig(vectors=tmp_path / "v.npy"))
    refuses("expected a list of item ids", npy(tmp_path, {"10": 0}, VECTORS))
    ids = tmp_path / "ids.json"
    ids.write_text("[1,")
    refuses("not valid JSON", PrecomputedConfig(vectors=tmp_path / "v.npy", ids=ids))
    ids.write_text("[1]")
    (tmp_path / "v.npy").write_bytes(b"nothing")
    refuses("not a readable .npy", PrecomputedConfig(vectors=tmp_path / "v.npy", ids=ids))
    (tmp_path / "v.parquet").write_bytes(b"nothing")
    refuses("not a readable parquet", PrecomputedConfig(vectors=tmp_path / "v.parquet"))
    pl.DataFrame({"id": [1], "x": [0.5]}).write_parquet(tmp_path / "v.parquet")
    refuses("has columns id, x; expected item_id", PrecomputedConfig(vectors=tmp_path / "v.parquet"))
    (tmp_path / "v.csv").write_text("1,2")
    refuses("expected .npy, .parquet or .pkl", PrecomputedConfig(vectors=tmp_path / "v.csv"))


def test_ids_beside_parquet_have_no_effect_and_say_so(tmp_path: Path):
    pl.DataFrame({"item_id": IDS, "v": VECTORS.tolist()}).write_parquet(tmp_path / "v.parquet")
    config = PrecomputedConfig(vectors=tmp_path / "v.parquet", ids=write_ids(tmp_path / "ids.json", [1, 2, 3]))
    with pytest.warns(FelidWarning, match=r"embedding\.ids has no effect"):
        np.testing.assert_array_equal(embed(config, items()), VECTORS)


def test_fingerprint_follows_the_content_of_the_files(tmp_path: Path):
    config = npy(tmp_path, IDS.tolist(), VECTORS)
    before = fingerprint(config)
    assert set(before) == {"vectors", "ids"}
    assert fingerprint(npy(tmp_path, IDS.tolist(), VECTORS)) == before
    after = fingerprint(npy(tmp_path, IDS.tolist(), VECTORS + 1))
    assert after["ids"] == before["ids"]
    assert after["vectors"] != before["vectors"]
    with pytest.raises(EmbeddingError, match="does not exist"):
        fingerprint(PrecomputedConfig(vectors=tmp_path / "none.npy"))
