"""The catalogue and the histories that the benchmarks run on, and the Hugging Face inputs made from them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from felid.data.dataset import Dataset
from felid.data.histories import LeaveOneOut, Sequences
from felid.data.sources import load_dataset
from felid.data.sources.amazon import Amazon2014Config
from felid.data.sources.download import data_home
from felid.data.sources.synthetic import SyntheticConfig
from felid.embedding import ItemTexts, LsaConfig, TextConfig, embed, item_texts
from felid.models.base import Catalogue, Histories, TrainingItems
from felid.models.torch_trie import TorchTrie
from felid.quantize import build_quantizer
from felid.quantize.resolve import SuffixConfig, resolve_collisions
from felid.quantize.rkmeans import RKMeansConfig
from felid.ranking import trie_of
from felid.semantic_ids import SemanticIds
from felid.tokens import PAD, TokenLayout


@dataclass(frozen=True)
class World:
    """What is trained on and searched in.

    Attributes:
        source: a sentence that says where the data comes from, for the record.
        split: all users' sequences.
        train: training sequences of all users.
        histories: test histories (they include the validation item).
        catalogue: semantic IDs, L2-normalised LSA vectors, and which items are warm.
        ids: its semantic IDs.
        trie: the IDs of all items.
    """

    source: str
    split: LeaveOneOut
    train: Sequences
    histories: Sequences
    catalogue: Catalogue
    ids: SemanticIds
    trie: TorchTrie

    @property
    def items(self) -> TrainingItems:
        """What losses are taken over: the items of the training interactions."""
        counts = np.bincount(self.train.items, minlength=self.ids.num_items).astype(np.float32)
        return TrainingItems(torch.from_numpy(counts), trie_of(self.ids, self.catalogue.warm))

    def user_tokens(self, layout: TokenLayout, sequences: Sequences) -> NDArray[np.int64]:
        return np.array([layout.user_token(user) for user in sequences.user_ids.tolist()], np.int64)


def make_world() -> World:
    """Beauty from FELID_DATA_HOME where it lies there, else a synthetic shop; LSA vectors, residual k-means codes."""
    home = data_home() / "amazon-beauty-2014"
    if all((home / name).is_file() for name in ("interactions.parquet", "items.parquet")):
        dataset, source = load_dataset(Amazon2014Config()), "Amazon Beauty 2014"
    else:
        shop = SyntheticConfig(num_users=5000, num_clusters=10, items_per_cell=50, max_length=12)
        dataset, source = load_dataset(shop), "synthetic shop (Beauty is not in FELID_DATA_HOME)"
    split = LeaveOneOut(dataset.sequences())
    warm = split.warm_items(len(dataset.items))
    vectors = _vectors(dataset, warm)
    quantizer = build_quantizer(RKMeansConfig()).fit(vectors)
    unique = resolve_collisions(quantizer.encode(vectors), quantizer.sizes, SuffixConfig())
    ids = SemanticIds(unique.codes, unique.sizes, dataset.item_ids)
    counts = f"{len(split.sequences):,} users, {len(vectors):,} items, {len(split.train().items):,} training interactions"
    source = f"{source}: {counts}; codes: residual k-means on LSA vectors, sizes {'x'.join(map(str, ids.sizes))}"
    catalogue, trie = Catalogue(vectors, warm, ids), TorchTrie.of(ids.trie, ids.codes)
    return World(source, split, split.train(), split.evaluation("test").histories, catalogue, ids, trie)


def _vectors(dataset: Dataset, warm: NDArray[np.bool_]) -> NDArray[np.float32]:
    columns = {name: dataset.items[name].to_list() for name in dataset.items.columns if name != "item_id"}
    raw = embed(LsaConfig(), ItemTexts(dataset.item_ids, item_texts(columns, TextConfig())[0], warm))
    return np.asarray(raw / np.maximum(np.linalg.norm(raw, axis=1, keepdims=True), 1e-9), np.float32)


def hugging_face_inputs(histories: Histories, codes: Tensor, offsets: Tensor, size: int | None = None) -> dict[str, Tensor]:
    """`input_ids` and `attention_mask` of the user token and the codes of each history, padded on the right.

    Args:
        histories: a batch with user tokens.
        codes: (N, L) codes of the catalogue.
        offsets: (L,) first token of each level.
        size: items to pad to; None = the longest history of the batch.
    """
    items = histories.items if size is None else pad_items(histories.items, size)
    tokens = (codes[items] + offsets).flatten(1)
    assert histories.users is not None
    tokens = torch.cat((histories.users[:, None], tokens), 1)
    real = torch.arange(tokens.shape[1])[None, :] < 1 + histories.lengths[:, None] * codes.shape[1]
    return {"input_ids": torch.where(real, tokens, PAD), "attention_mask": real.long()}


def pad_items(items: Tensor, size: int) -> Tensor:
    """(B, size) item_index padded on the right with 0."""
    return torch.nn.functional.pad(items, (0, size - items.shape[1]))
