"""Beam search of width 20: felid's against Hugging Face `generate` constrained by a Python trie."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor
from transformers import GenerationConfig, T5ForConditionalGeneration

from benchmarks.hf_t5 import to_hugging_face
from benchmarks.timing import Contestant, fastest, interleave, summary, tune
from benchmarks.world import World, hugging_face_inputs
from felid.models import ModelConfig, build_model
from felid.models.base import Histories, Mode
from felid.models.generative import GenerativeModel
from felid.models.lynx import LynxConfig
from felid.models.tiger import Tiger, TigerConfig
from felid.ranking import ItemRanker
from felid.search import Results, beam_search
from felid.search.config import SearchConfig
from felid.tokens import BEGIN, PAD

BASELINES = {"hugging_face_generate_sdpa": "sdpa", "hugging_face_generate_eager": "eager"}
"""Both attention implementations of T5; the faster one is the baseline."""
NUM_BEAMS = 20
TOLERANCE = 1e-4
Node = dict[int, "Node"]
Batch = Callable[[Histories], object]


class PythonTrie:
    """Nested dictionaries of tokens, the usual way to constrain `generate`."""

    def __init__(self, tokens: NDArray[np.int64]) -> None:
        self.root: Node = {}
        for row in tokens.tolist():
            node = self.root
            for token in row:
                node = node.setdefault(token, {})

    def allowed(self, batch_id: int, sent: Tensor) -> list[int]:
        """Tokens that may follow; for hypotheses that left the trie (never kept) any token."""
        node = self.root
        for token in sent.tolist()[1:]:
            node = node.get(token, {})
        return list(node) or [PAD]


class Generate:
    """`T5ForConditionalGeneration.generate` over the weights of a `Tiger`.

    Scores are sums of log-probabilities over the vocabulary (`length_penalty=0`), as those of `Tiger`; without an end
    token every hypothesis has exactly L tokens.
    """

    def __init__(self, tiger: Tiger, world: World, attention: str) -> None:
        self.tiger, self.world = tiger, world
        self.model: T5ForConditionalGeneration = to_hugging_face(tiger).eval()
        self.model.set_attn_implementation(attention)
        self.trie = PythonTrie(tiger.layout.encode(world.ids.codes))
        self.config = GenerationConfig(
            num_beams=NUM_BEAMS,
            num_return_sequences=NUM_BEAMS,
            max_new_tokens=tiger.layout.num_levels,
            length_penalty=0.0,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=PAD,
            decoder_start_token_id=BEGIN,
            use_cache=True,
            return_dict_in_generate=True,
            output_scores=True,
        )

    @torch.inference_mode()
    def search(self, histories: Histories) -> Results:
        """Ranked items of each user, as `felid.search.beam_search` returns them."""
        inputs = hugging_face_inputs(histories, self.tiger.codes, self.tiger.offsets)
        found = self.model.generate(**inputs, generation_config=self.config, prefix_allowed_tokens_fn=self.trie.allowed)
        tokens = found.sequences[:, 1:].numpy()
        items = self.world.ids.trie.item(self.tiger.layout.decode(tokens))
        shape = (len(histories.items), NUM_BEAMS)
        return Results(torch.from_numpy(items).view(shape), found.sequences_scores.view(shape))


def run(world: World, *, rounds: int, quick: bool, seed: int, console: Console) -> dict[str, object]:
    """Users per second of every contestant, after checking that `Tiger` finds what `generate` finds."""
    tiger, lynx = _model(TigerConfig(), world, seed), _model(LynxConfig(), world, seed)
    assert isinstance(tiger, Tiger)
    generate = {name: Generate(tiger, world, attention) for name, attention in BASELINES.items()}
    users = 64 if quick else 512
    agreement = _compare(next(iter(generate.values())), _histories(tiger, world, users, seed))
    console.print(f"search: ranked items against generate, {users} users: {agreement}", highlight=False, soft_wrap=True)
    contestants = _contestants(generate, tiger, lynx, world, quick=quick)
    console.print("search: looking for each contestant's best batch size (users/s)")
    tune(contestants, 1, console)
    rates = interleave(contestants, rounds, console)
    baseline = fastest(rates, BASELINES)
    rows = summary(contestants, rates, baseline, "users_per_second")
    return {"unit": "users/s", "num_beams": NUM_BEAMS, "agreement": agreement, "baseline": baseline, "rows": rows}


def _model(config: ModelConfig, world: World, seed: int) -> GenerativeModel:
    torch.manual_seed(seed)
    model = build_model(config, world.catalogue).eval()
    assert isinstance(model, GenerativeModel)
    return model


def _contestants(
    generate: dict[str, Generate], tiger: Tiger, lynx: GenerativeModel, world: World, *, quick: bool
) -> list[Contestant]:
    users = 128 if quick else 256
    small, large = ((32,), (64, 256)) if quick else ((16, 32), (32, 64, 256))

    def batched(search: Batch, users: int) -> Callable[[int, int], int]:
        def turn(batch_size: int, seed: int) -> int:
            rows = _users(world, users, seed)
            for part in np.split(rows, range(batch_size, users, batch_size)):
                search(_batch(tiger, world, part))
            return users

        return turn

    def ranked(model: GenerativeModel, mode: Mode, users: int, num_items: int = NUM_BEAMS) -> Callable[[int, int], int]:
        def turn(batch_size: int, seed: int) -> int:
            search = SearchConfig(mode=mode, num_beams=NUM_BEAMS, batch_users=batch_size)
            if (key := (id(model), mode, batch_size)) not in rankers:
                rankers[key] = ItemRanker(model, world.catalogue, search)
            rankers[key].search_items(world.histories.take(_users(world, users, seed)), num_items, exclude_seen=False)
            return users

        return turn

    rankers: dict[tuple[int, Mode, int], ItemRanker] = {}
    same = "same weights, users and batches, padded to the longest of the batch, fp32"
    whole = "ItemRanker.search_items (batches of similar length), fp32"
    fused = f"{whole}, lists of 10 out of {SearchConfig().candidates} candidates of each head"
    result = [
        Contestant(name, batched(one.search, users // 2), small, f"Python-trie prefix_allowed_tokens_fn, fp32, {BASELINES[name]}")
        for name, one in generate.items()
    ]
    return [
        *result,
        Contestant("tiger_beam_search", batched(lambda h: beam_search(tiger, h, world.trie, NUM_BEAMS), users), large, same),
        Contestant("tiger_recommender", ranked(tiger, "generative", 2 * users), large, whole),
        Contestant("lynx_recommender", ranked(lynx, "generative", 8 * users), large, whole),
        Contestant("lynx_dense", ranked(lynx, "dense", 16 * users, 10), large, f"{whole}, lists of 10"),
        Contestant("lynx_fused", ranked(lynx, "fused", 2 * users, 10), large, fused),
    ]


def _users(world: World, count: int, seed: int) -> NDArray[np.int64]:
    return np.random.default_rng(seed).choice(len(world.histories), count, replace=False)


def _batch(model: GenerativeModel, world: World, rows: NDArray[np.int64]) -> Histories:
    """The last items of some users' histories, with their user tokens."""
    histories = [world.histories[int(row)][-model.history :] for row in rows]
    lengths = torch.tensor([len(history) for history in histories])
    items = torch.zeros(len(rows), int(lengths.max()), dtype=torch.long)
    for row, history in enumerate(histories):
        items[row, : len(history)] = torch.from_numpy(history)
    users = [model.layout.user_token(user) for user in world.histories.user_ids[rows].tolist()]
    return Histories(items, lengths, torch.tensor(users))


def _histories(tiger: Tiger, world: World, users: int, seed: int) -> list[Histories]:
    return [_batch(tiger, world, part) for part in np.array_split(_users(world, users, seed), users // 32)]


def _compare(generate: Generate, batches: list[Histories]) -> dict[str, float]:
    """Agreement of the ranked lists; differing places must be ties within `TOLERANCE`, else an AssertionError."""
    users = identical = up_to_ties = 0
    largest = 0.0
    for histories in batches:
        theirs = generate.search(histories)
        ours = beam_search(generate.tiger, histories, generate.world.trie, NUM_BEAMS)
        gaps = (theirs.scores - ours.scores).abs()
        users += len(gaps)
        identical += int((theirs.items == ours.items).all(1).sum())
        up_to_ties += int((gaps.amax(1) <= TOLERANCE).sum())
        largest = max(largest, float(gaps.max()))
    assert up_to_ties == users, f"{users - up_to_ties} of {users} users have other scores than generate (up to {largest:.2g})"
    return {"users": users, "identical_share": identical / users, "up_to_ties_share": up_to_ties / users, "largest_gap": largest}
