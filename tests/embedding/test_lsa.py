from __future__ import annotations

import numpy as np
import pytest

from felid.embedding import ItemTexts, LsaConfig, embed
from felid.errors import EmbeddingError, FelidWarning

WORDS = ["red", "blue", "green", "nail", "polish", "cream", "face", "soap", "hair", "brush", "salt", "oil"]


def catalogue(count: int = 80, seed: int = 0) -> list[str]:
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, 5)) for _ in range(count)]


def items(texts: list[str], fit: int | None = None) -> ItemTexts:
    rows = np.arange(len(texts)) < (len(texts) if fit is None else fit)
    return ItemTexts(np.arange(len(texts)), texts, rows)


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def test_like_texts_get_like_vectors():
    texts = ["red nail polish", "blue nail polish", "face cream soap", "face cream oil"] * 3
    x = embed(LsaConfig(dim=3, min_df=1), items(texts))
    assert x.shape == (12, 3)
    assert x.dtype == np.float32
    assert cosine(x[0], x[1]) > 0.5 > cosine(x[0], x[2])


def test_full_rank_keeps_the_cosines_of_tf_idf():
    from sklearn.feature_extraction.text import TfidfVectorizer

    texts = catalogue()
    x = embed(LsaConfig(dim=len(WORDS)), items(texts))
    expected = TfidfVectorizer(sublinear_tf=True, min_df=2).fit_transform(texts)
    np.testing.assert_allclose(x @ x.T, (expected @ expected.T).toarray(), atol=1e-5)


def test_pitfall_pca_fitted_on_cold_items():
    """Texts of cold items move no vector of a warm item, and words that only they have are unknown."""
    warm = catalogue()
    first = embed(LsaConfig(dim=6), items([*warm, "unheard of words", "unheard of salt"], fit=80))
    second = embed(LsaConfig(dim=6), items([*warm, "red " * 30, "salt"], fit=80))
    np.testing.assert_array_equal(first[:80], second[:80])
    np.testing.assert_array_equal(first[80], np.zeros(6))
    assert cosine(first[81], second[81]) == pytest.approx(1, abs=1e-6)


def test_same_input_gives_the_same_vectors():
    texts = catalogue()
    np.testing.assert_array_equal(embed(LsaConfig(dim=6), items(texts)), embed(LsaConfig(dim=6), items(texts)))


def test_row_order_changes_nothing_but_the_order():
    texts, order = catalogue(), np.random.default_rng(1).permutation(80)
    x = embed(LsaConfig(dim=6, iterations=30), items(texts))
    shuffled = embed(LsaConfig(dim=6, iterations=30), items([texts[row] for row in order]))
    np.testing.assert_allclose(shuffled, x[order], atol=1e-3)


def test_width_is_capped_to_what_the_texts_carry():
    with pytest.warns(FelidWarning, match=r"embedding\.dim is 384, but 80 training items with 12 terms carry only 12"):
        assert embed(LsaConfig(), items(catalogue())).shape == (80, 12)
    with pytest.warns(FelidWarning, match="carry only 2"):
        assert embed(LsaConfig(dim=4), items(["red nail", "face cream"] * 5)).shape == (10, 2)


def test_no_vocabulary_is_an_error():
    with pytest.raises(
        EmbeddingError,
        match=r"no word occurs in 2 or more of the 2 training items' texts; check text\.columns or set embedding\.min_df=1",
    ):
        embed(LsaConfig(), items(["red", "blue", "red"], fit=2))
    with pytest.raises(EmbeddingError, match="of the 0 training items"):
        embed(LsaConfig(), items(["red", "red"], fit=0))
    with pytest.raises(EmbeddingError, match="no items"):
        embed(LsaConfig(), items([]))
