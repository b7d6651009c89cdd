"""What every quantiser must do; a new one is one more entry in QUANTIZERS."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from felid.config import Config, as_tree
from felid.errors import ArtifactError, EmbeddingError, FelidWarning, SemanticIdError
from felid.quantize import (
    EncodedConfig,
    ItemNumberConfig,
    PQConfig,
    Quantizer,
    QuantizerConfig,
    RandomConfig,
    RKMeansConfig,
    RQVAEConfig,
    SuffixConfig,
    Vectors,
    build_quantizer,
    collision_statistics,
    distortion,
    load_quantizer,
    resolve_collisions,
)
from felid.quantize.base import FitContext
from felid.semantic_ids import SemanticIds


@dataclass(frozen=True)
class Case:
    """A quantiser of the suite and what may be asked of it beyond what all do.

    Attributes:
        config: settings for given sizes.
        from_content: codes follow from the vectors (the controls': from item_index).
        nested: one more level never raises the training distortion (training a network promises no such thing).
        own_start: a start that is given has no effect, with a warning.
        close: the distortion that is left after 4 levels of 4 codes on `vectors()`.
        room: whether so many rows can be fitted at all.
    """

    config: Callable[[tuple[int, ...]], QuantizerConfig]
    from_content: bool = True
    nested: bool = True
    own_start: bool = True
    close: float = 0.5
    room: Callable[[tuple[int, ...], int], bool] = lambda sizes, count: True


def case(kind: type[Config], room: Callable[[tuple[int, ...], int], bool] | None = None, **options) -> Case:
    properties = {name: options.pop(name) for name in ("from_content", "nested", "own_start", "close") if name in options}
    return Case(lambda sizes: kind(sizes=sizes, **options), **properties, **({"room": room} if room else {}))


NETWORK = {
    "hidden": (32,),
    "latent": 8,
    "epochs": 30,
    "batch_size": 100,
    "learning_rate": 0.01,
    "nested": False,
    "own_start": False,
}
KMEANS = {"iterations": 10, "restarts": 2}
CONTROL = {"from_content": False, "close": 1.0}
QUANTIZERS = {
    "rkmeans": case(RKMeansConfig, **KMEANS),
    "rkmeans-greedy": case(RKMeansConfig, **KMEANS, refinements=0),
    "rkmeans-balanced": case(RKMeansConfig, iterations=10, balanced=True, nested=False),
    "pq": case(PQConfig, **KMEANS),
    "opq": case(PQConfig, **KMEANS, rotate=True, rotations=3),
    "rqvae": case(RQVAEConfig, **NETWORK),
    "rqvae-gradient": case(RQVAEConfig, **NETWORK, update="gradient", estimator="rotation"),
    "semantic-id-encoder": case(EncodedConfig, epochs=4, batch_size=100, nested=False),
    "random": case(RandomConfig, **CONTROL),
    "item-number": case(ItemNumberConfig, **CONTROL, room=lambda sizes, count: count <= prod(sizes)),
}
contract = pytest.mark.parametrize("make", [pytest.param(value, id=key) for key, value in QUANTIZERS.items()])
SIZES = (8, 5, 8)


def vectors(count: int = 300, dim: int = 12, seed: int = 0, centres: int = 9) -> Vectors:
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(centres, dim))[rng.integers(centres, size=count)] * 3 + rng.normal(size=(count, dim))).astype(
        np.float32
    )


def fitted(make: Case, x: Vectors, sizes: tuple[int, ...] = SIZES, items=None) -> Quantizer:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FelidWarning)
        return build_quantizer(make.config(sizes)).fit(x, FitContext(items=items))


@contract
@settings(max_examples=8, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=4).map(tuple),
    count=st.integers(10, 60),
    seed=st.integers(0, 99),
)
def test_codes_are_in_range_and_ids_unique_after_the_collision_level(make, sizes, count, seed):
    x = vectors(count, 4, seed)
    if not make.room(sizes, count):
        with pytest.raises(SemanticIdError, match=rf"can number {prod(sizes)} items but {count} are to be fitted"):
            fitted(make, x, sizes)
        return
    codes = fitted(make, x, sizes).encode(x)
    assert codes.shape == (count, len(sizes))
    assert codes.dtype == np.int32
    assert (codes >= 0).all()
    assert (codes < np.asarray(sizes)).all()
    full = resolve_collisions(codes, sizes, SuffixConfig())
    ids = SemanticIds(full.codes, full.sizes, np.arange(count))
    assert [ids.item_id(ids.of(item)) for item in range(count)] == list(range(count))


@contract
@settings(max_examples=6, deadline=None)
@given(sizes=st.lists(st.integers(2, 9), min_size=2, max_size=4).map(tuple), seed=st.integers(0, 99))
def test_saved_and_loaded_quantizer_is_the_same(make, sizes, seed):
    x = vectors(min(100, prod(sizes)), seed=seed)
    quantizer = fitted(make, x, sizes)
    with TemporaryDirectory() as folder:
        quantizer.save(Path(folder))
        loaded = load_quantizer(Path(folder))
    assert loaded.sizes == quantizer.sizes == sizes
    codes = quantizer.encode(x)
    np.testing.assert_array_equal(loaded.encode(x), codes)
    np.testing.assert_array_equal(loaded.last_level_costs(x, codes), quantizer.last_level_costs(x, codes))
    np.testing.assert_array_equal(loaded.decode(codes), quantizer.decode(codes))
    for level in range(len(quantizer.sizes)):
        np.testing.assert_array_equal(loaded.codebook(level), quantizer.codebook(level))


@contract
def test_more_levels_leave_less(make):
    x = vectors(250)
    left = distortion(fitted(make, x, (4, 4, 4, 4)), x)
    assert len(left) == 4
    steps = zip((1.0, *left), left, strict=False) if make.nested else [(1.0, left[-1])]
    assert all(after <= before for before, after in steps)
    assert left[-1] < make.close


@contract
def test_distortion_of_equal_rows_is_zero(make):
    x = np.ones((6, 3), np.float32)
    assert distortion(fitted(make, x, (1, 1) if make.from_content else (2, 3)), x)[-1] == 0.0


@contract
def test_pitfall_quantiser_fitted_on_cold_items(make):
    """Codebooks come from the warm rows alone, and cold rows can still be encoded."""
    warm, cold, other = vectors(seed=0), vectors(20, seed=1), vectors(40, seed=2) * 50
    first, second = fitted(make, warm), fitted(make, warm)
    first.encode(cold)
    second.encode(other)
    for level in range(3):
        np.testing.assert_array_equal(first.codebook(level), second.codebook(level))
    together = first.encode(np.concatenate([warm, cold]))
    np.testing.assert_array_equal(together[: len(warm)], first.encode(warm))
    assert (first.encode(cold, np.arange(300, 320)) < np.asarray(first.sizes)).all()


@contract
def test_same_seed_gives_same_codes(make):
    x = vectors()
    np.testing.assert_array_equal(fitted(make, x).encode(x), fitted(make, x).encode(x))


@contract
def test_one_row_gets_the_codes_it_has_among_many(make):
    x = vectors()
    quantizer = fitted(make, x)
    whole = quantizer.encode(x)
    alone = np.concatenate([quantizer.encode(x[row : row + 1], np.array([row])) for row in range(0, 300, 3)])
    np.testing.assert_array_equal(alone, whole[::3])
    rows = np.random.default_rng(0).permutation(300)[:77]
    np.testing.assert_array_equal(quantizer.encode(x[rows], rows), whole[rows])


@contract
def test_codes_follow_the_content_or_the_item_and_nothing_else(make):
    x, rows = vectors(), np.arange(300)[::-1]
    quantizer = fitted(make, x)
    same = np.array_equal(quantizer.encode(x, rows), quantizer.encode(x))
    assert same == make.from_content
    assert np.array_equal(quantizer.encode(x[::-1]), quantizer.encode(x)) != make.from_content


@contract
def test_fit_on_some_items_is_fit_on_these_items(make):
    x, items = vectors(), np.arange(300)[::2]
    some = fitted(make, x[::2], items=items)
    codes = some.encode(x[::2], items)
    assert np.abs(x[::2] - some.decode(codes)).mean() < np.abs(x[::2]).mean()
    np.testing.assert_array_equal(some.encode(x)[::2], codes)


@contract
def test_own_last_code_costs_least(make):
    x = vectors(200)
    quantizer = fitted(make, x)
    codes = quantizer.encode(x)
    costs = quantizer.last_level_costs(x, codes)
    assert (costs.shape, costs.dtype) == ((200, SIZES[-1]), np.float32)
    np.testing.assert_array_equal(costs.argmin(1), codes[:, -1])
    np.testing.assert_allclose(quantizer.last_level_costs(x[7:9], codes[7:9]), costs[7:9], rtol=1e-4, atol=1e-4)


@contract
def test_bad_input_is_refused(make):
    x = vectors()
    with pytest.raises(SemanticIdError, match="call fit"):
        build_quantizer(make.config((4,))).encode(x)
    with pytest.raises(SemanticIdError, match="call fit"):
        build_quantizer(make.config((4,))).codebook(0)
    if make.from_content:
        with pytest.raises(SemanticIdError, match=r"only 3 distinct vectors; lower it to 3"):
            build_quantizer(make.config((4,))).fit(np.repeat(x[:3], 5, axis=0))
    broken = x.copy()
    broken[[1, 5], 2] = np.nan
    with pytest.raises(EmbeddingError, match="2 of 300 item vectors"):
        build_quantizer(make.config((300,))).fit(broken)
    quantizer = fitted(make, x)
    with pytest.raises(EmbeddingError, match="11 dimensions but the quantiser was fitted on 12"):
        quantizer.encode(x[:, :11])
    with pytest.raises(EmbeddingError, match="at least one row"):
        quantizer.encode(x[:0])
    with pytest.raises(SemanticIdError, match="outside level 1, which has 5 codes"):
        quantizer.decode(np.array([[0, 5, 0]], np.int32))
    with pytest.raises(SemanticIdError, match="L at most 3"):
        quantizer.decode(np.zeros((1, 4), np.int32))
    with pytest.raises(SemanticIdError, match="outside level 1, which has 5 codes"):
        quantizer.last_level_costs(x[:1], np.array([[0, -1, 0]], np.int32))


@contract
def test_a_start_is_used_or_warned_of(make):
    x = vectors()
    quantizer = build_quantizer(make.config(SIZES))
    start = tuple(np.ones((size, 8), np.float32) for size in SIZES)
    if make.own_start:
        with pytest.warns(FelidWarning, match=r"start\) have no effect"):
            quantizer.fit(x, FitContext(start=start))
        np.testing.assert_array_equal(quantizer.codebook(0), fitted(make, x).codebook(0))
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FelidWarning)
            quantizer.fit(x, FitContext(start=start))
        assert not np.array_equal(quantizer.codebook(0), fitted(make, x).codebook(0))


@contract
def test_damaged_folder_is_refused(make, tmp_path: Path):
    with pytest.raises(ArtifactError, match=r"quantizer\.json does not exist"):
        load_quantizer(tmp_path)
    fitted(make, vectors()).save(tmp_path)
    arrays = [path for path in tmp_path.iterdir() if path.suffix != ".json"]
    assert arrays
    for path in arrays:
        whole = path.read_bytes()
        path.write_bytes(b"\x93NUMPY")
        with pytest.raises(ArtifactError, match="run `felid tokenize` again"):
            load_quantizer(tmp_path)
        path.unlink()
        with pytest.raises(ArtifactError, match=path.name):
            load_quantizer(tmp_path)
        path.write_bytes(whole)
    (tmp_path / "quantizer.json").write_text('{"kind": "other"}')
    with pytest.raises(ArtifactError, match="'other'"):
        load_quantizer(tmp_path)


@contract
def test_config_survives_json(make):
    config = make.config((3, 2))
    assert type(config).model_validate(as_tree(config)) == config


@contract
def test_statistics_describe_the_codes(make):
    x = vectors()
    codes = fitted(make, x).encode(x)
    found = collision_statistics(codes, SIZES)
    assert found["num_unique"] == len({tuple(row) for row in codes.tolist()})
    assert [level["used"] for level in found["levels"]] == [len(set(column)) for column in codes.T.tolist()]
