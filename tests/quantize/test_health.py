from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import adjusted_mutual_info_score, normalized_mutual_info_score

from felid.errors import SemanticIdError
from felid.quantize.agreement import agreement
from felid.quantize.health import (
    HealthReport,
    category_agreement,
    code_health,
    neighbour_overlap,
    prefix_groups,
    reconstruction_error,
    stability,
)

labels = st.integers(1, 60).flatmap(
    lambda n: st.tuples(*(st.lists(st.integers(0, 7), min_size=n, max_size=n).map(np.array) for _ in range(2)))
)


def random_codes(num_items: int = 300, sizes: tuple[int, ...] = (6, 7, 8), seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, sizes, (num_items, len(sizes))).astype(np.int32)


@settings(max_examples=50)
@given(labels)
def test_agreement_is_that_of_scikit_learn(both):
    found = agreement(*both)
    assert found.normalized == pytest.approx(normalized_mutual_info_score(*both), abs=1e-9)
    expected = adjusted_mutual_info_score(*both)
    if abs(expected) < 1e3:  # scikit-learn divides by its epsilon where chance explains everything
        assert found.adjusted == pytest.approx(expected, abs=1e-6)


def test_agreement_of_many_groups_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    a = rng.zipf(1.3, 5000).clip(max=900)
    b = np.where(rng.random(5000) < 0.4, a // 3, rng.integers(0, 700, 5000))
    found = agreement(a, b)
    assert found.normalized == pytest.approx(normalized_mutual_info_score(a, b))
    assert found.adjusted == pytest.approx(adjusted_mutual_info_score(a, b), rel=1e-6)


def test_codes_of_two_unrelated_draws_agree_by_chance_only():
    found = stability(random_codes(seed=1), random_codes(seed=2))
    assert found[2].normalized > 0.8  # nearly every item is a group of its own
    assert all(abs(one.adjusted) < 0.05 for one in found)


def test_renamed_codes_are_perfectly_stable():
    codes = random_codes()
    renamed = np.stack([np.random.default_rng(9).permutation(8)[column] for column in codes.T], axis=1).astype(np.int32)
    assert [(one.normalized, one.adjusted) for one in stability(codes, renamed)] == [pytest.approx((1, 1))] * 3
    with pytest.raises(SemanticIdError, match="expected the same items and levels"):
        stability(codes, codes[:, :2])


def test_health_of_a_known_case():
    codes = np.array([[0, 0], [0, 0], [0, 1], [2, 0]], np.int32)
    (first, second), whole = code_health(codes, (4, 2))
    assert (first.size, first.used, first.utilisation) == (4, 2, 0.5)
    assert (first.largest_code, first.largest_share) == (0, 0.75)
    assert first.entropy == pytest.approx(-(0.75 * np.log(0.75) + 0.25 * np.log(0.25)))
    assert first.entropy_share == pytest.approx(first.entropy / np.log(4))
    assert second.perplexity == pytest.approx(np.exp(second.entropy))
    assert (whole.num_ids, whole.rate, whole.largest_group) == (3, 0.5, 2)
    assert code_health(np.zeros((3, 1), np.int32), (1,))[0][0].entropy_share == 1
    with pytest.raises(SemanticIdError, match="got no codes"):
        code_health(np.empty((0, 2), np.int32), (2, 2))


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=40))
def test_items_are_in_one_group_exactly_if_they_share_the_prefix(rows):
    codes = np.array(rows, np.int32)
    for length, group in enumerate(prefix_groups(codes), 1):
        prefixes = [tuple(row[:length]) for row in rows]
        assert group.tolist() == [sorted(set(prefixes)).index(prefix) for prefix in prefixes]


def test_reconstruction_error_is_relative_to_the_variance():
    x = np.random.default_rng(0).standard_normal((50, 4)).astype(np.float32)
    assert reconstruction_error(x, x) == 0
    assert reconstruction_error(x, np.repeat(x.mean(0, keepdims=True), 50, axis=0)) == pytest.approx(1)
    dumb = sum(float(v) ** 2 for v in (x - 0.5 * x).ravel()) / sum(float(v) ** 2 for v in (x - x.mean(0)).ravel())
    assert reconstruction_error(x, 0.5 * x) == pytest.approx(dumb, rel=1e-5)


def dumb_overlap(x: np.ndarray, y: np.ndarray, k: int) -> float:
    """Share of each row's k nearest by cosine in `x` that are so in `y`; no ties."""
    kept = 0
    for row in range(len(x)):
        nearest = []
        for side in (x, y):
            cosine = [side[row] @ other / np.linalg.norm(side[row]) / np.linalg.norm(other) for other in side]
            order = sorted((other for other in range(len(x)) if other != row), key=lambda other: -cosine[other])
            nearest.append(set(order[:k]))
        kept += len(nearest[0] & nearest[1])
    return kept / len(x) / k


def test_neighbour_overlap_equals_a_double_loop():
    rng = np.random.default_rng(3)
    x = rng.standard_normal((60, 5)).astype(np.float32)
    y = (x + 0.8 * rng.standard_normal(x.shape)).astype(np.float32)
    codes = np.arange(60, dtype=np.int32)[:, None]
    found = neighbour_overlap(x, codes, y, k=7, sample=60)
    assert found.decoded == pytest.approx(dumb_overlap(x, y, 7))
    assert 0.1 < found.decoded < 0.9
    assert found.prefixes == (0.0,)


def test_neighbours_with_the_same_prefix_are_counted_by_a_loop():
    x = np.random.default_rng(4).standard_normal((40, 3)).astype(np.float32)
    codes = random_codes(40, (3, 2))
    found = neighbour_overlap(x, codes, k=5, sample=40)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    for length in (1, 2):
        same = total = 0
        for row in range(40):
            near = [other for other in np.argsort(-(unit @ unit[row])).tolist() if other != row][:5]
            same += sum((codes[other, :length] == codes[row, :length]).all() for other in near)
            total += sum((codes[other, :length] == codes[row, :length]).all() for other in range(40) if other != row)
        assert found.prefixes[length - 1] == pytest.approx(same / 200)
        assert found.chance[length - 1] == pytest.approx(total / (40 * 39))
    assert found.decoded is None


def test_tied_decodings_count_by_chance_in_any_order_of_rows():
    """Two clusters of 20 that decode to one point each: the 5 nearest are 5 of the 19 others, any of them."""
    rng = np.random.default_rng(5)
    code = np.arange(40) % 2
    centres = np.eye(3, dtype=np.float32)[:2]
    x = (centres[code] + 0.1 * rng.standard_normal((40, 3))).astype(np.float32)
    for order in (np.arange(40), rng.permutation(40)):
        found = neighbour_overlap(x[order], code[order, None].astype(np.int32), centres[code[order]], k=5, sample=40)
        assert found.decoded == pytest.approx(5 / 19)
        assert found.prefixes == (1.0,)


def test_small_catalogues_have_fewer_neighbours():
    x = np.random.default_rng(0).standard_normal((4, 2)).astype(np.float32)
    assert neighbour_overlap(x, random_codes(4), x).k == 3
    with pytest.raises(SemanticIdError, match="expected the same number, at least 2"):
        neighbour_overlap(x[:1], random_codes(1))


def test_categories_of_a_known_case():
    codes = np.array([[0, 0], [0, 1], [0, 1], [1, 0], [1, 1]], np.int32)
    found = category_agreement(codes, ["a", "b", "b", "a", None])
    assert [one.purity for one in found] == [0.75, 1.0]
    assert found[0].normalized == pytest.approx(normalized_mutual_info_score([0, 0, 0, 1], [0, 1, 1, 0]))
    assert found[0].adjusted == pytest.approx(adjusted_mutual_info_score([0, 0, 0, 1], [0, 1, 1, 0]))
    with pytest.raises(SemanticIdError, match="0 of them not empty"):
        category_agreement(codes, [None, "", None, "", None])


def test_the_report_is_json_able():
    levels, collisions = code_health(random_codes(), (6, 7, 8))
    report = HealthReport(
        "rkmeans", 300, levels, levels, None, collisions, stability=stability(random_codes(), random_codes(seed=1))
    )
    content = json.loads(json.dumps(report.as_dict()))
    assert content["levels"][1]["size"] == 7
    assert content["stability"][0]["adjusted"] == report.stability[0].adjusted
    assert content["before"] is None
