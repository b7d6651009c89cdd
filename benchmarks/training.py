"""Training steps: felid's models against Hugging Face T5 trained one prefix per example."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor, nn

from benchmarks.hf_t5 import to_hugging_face
from benchmarks.timing import Contestant, fastest, interleave, summary, tune
from benchmarks.world import World, hugging_face_inputs, pad_items
from felid.models import ModelConfig, build_model
from felid.models.base import Histories
from felid.models.generative import GenerativeModel
from felid.models.lynx import LynxConfig
from felid.models.tiger import Tiger, TigerConfig
from felid.recipe import default_training
from felid.training import Examples
from felid.training.loop import native_bf16

Indices = NDArray[np.int64]
Step = Callable[[Indices], int]
BASELINES = {"hugging_face_t5_sdpa": "sdpa", "hugging_face_t5_eager": "eager"}
"""Both attention implementations of T5 on their own; the faster one is the baseline."""


class Felid:
    """A felid model in training: full steps as in `felid.training.loop`."""

    def __init__(self, config: ModelConfig, world: World, *, seed: int, bf16: bool, padded: bool = False) -> None:
        torch.manual_seed(seed)
        self.bf16, self.padded = bf16, padded
        self.model, self.items = build_model(config, world.catalogue).train(), world.items
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3, fused=True)
        self.examples = Examples.of(world.train, self.model.history, causal=self.model.causal)
        layout = self.model.layout if isinstance(self.model, GenerativeModel) else None
        self.users = world.user_tokens(layout, world.train) if layout and layout.num_user_buckets else None
        self.groups: dict[int, list[Indices]] = {}

    def step(self, chosen: Indices) -> int:
        """Collate, forward, backward, clip, optimise; returns the number of targets."""
        histories, targets = self.examples.collate(chosen, self.users)
        if self.padded:
            histories = Histories(pad_items(histories.items, self.model.history), histories.lengths, histories.users)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
            loss = self.model(histories, targets, self.items).total / len(targets)
        finish(self.model, self.optimizer, loss)
        return len(targets)

    def bucketed(self, batch_size: int, turn: int, targets: int) -> list[Indices]:
        """Batches of felid.training (equal lengths together), spread evenly over the lengths of a whole epoch."""
        if batch_size not in self.groups:
            batches = self.examples.batches(batch_size, (0,))
            self.groups[batch_size] = sorted(batches, key=lambda rows: float(self.examples.lengths[rows].mean()))
        groups = self.groups[batch_size]
        count = max(1, round(targets / batch_size))
        phase = np.random.default_rng(turn).random()
        return [groups[int((i + phase) * len(groups) / count)] for i in range(count)]


class HuggingFace:
    """T5ForConditionalGeneration with the weights of a felid model, trained as its documentation shows."""

    def __init__(self, felid: Felid, attention: str, *, bf16: bool = False, longest: bool = False) -> None:
        assert isinstance(felid.model, Tiger)
        self.felid, self.bf16, self.longest = felid, bf16, longest
        self.model = to_hugging_face(felid.model).train()
        self.model.set_attn_implementation(attention)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3, fused=True)

    def step(self, chosen: Indices) -> int:
        """Forward, backward, clip, optimise; returns the number of targets."""
        felid = self.felid.model
        assert isinstance(felid, Tiger)
        histories, targets = self.felid.examples.collate(chosen, self.felid.users)
        size = None if self.longest else felid.history
        inputs = hugging_face_inputs(histories, felid.codes, felid.offsets, size)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
            loss = self.model(**inputs, labels=felid.item_tokens(targets)).loss
        finish(self.model, self.optimizer, loss)
        return len(targets)


def finish(model: nn.Module, optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    """Backward, clip, optimiser step."""
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()


def run(world: World, *, rounds: int, quick: bool, seed: int, console: Console) -> dict[str, object]:
    """Targets per second of every contestant."""
    contestants = _contestants(world, quick=quick, seed=seed)
    console.print("training: looking for each contestant's best batch size (targets/s)")
    tune(contestants, 1, console)
    rates = interleave(contestants, rounds, console)
    baseline = fastest(rates, BASELINES)
    return {"unit": "targets/s", "baseline": baseline, "rows": summary(contestants, rates, baseline, "targets_per_second")}


def _contestants(world: World, *, quick: bool, seed: int) -> list[Contestant]:
    sizes = (64,) if quick else (32, 64, 128)
    work = 256 if quick else 384
    bf16 = native_bf16()

    def tiger(*, bf16: bool = False, padded: bool = False) -> Felid:
        return Felid(TigerConfig(), world, seed=seed, bf16=bf16, padded=padded)

    def lynx(config: LynxConfig, *, bf16: bool) -> Felid:
        return Felid(config, world, seed=seed, bf16=bf16)

    felid = tiger(padded=True)

    def plain(name: str, step: Step, note: str) -> Contestant:
        return _plain(name, step, felid.examples, work, sizes, note)

    result = [
        plain(name, HuggingFace(felid, attention).step, f"fp32, padded to 20 items (81 tokens), {attention} attention")
        for name, attention in BASELINES.items()
    ]
    result.append(plain("hugging_face_t5_longest", HuggingFace(felid, "eager", longest=True).step, _LONGEST))
    if bf16:
        hugging_face = HuggingFace(felid, "eager", bf16=True, longest=True)
        result.append(plain("hugging_face_t5_longest_bf16", hugging_face.step, _LONGEST_BF16))
    result.append(plain("tiger_fp32_padded", felid.step, "the same examples at the same padding, fp32"))
    result.append(_bucketed("tiger_fp32", tiger(), 4 * work, sizes, "batches of equal length, fp32"))
    if bf16:
        result.append(_bucketed("tiger_bf16", tiger(bf16=True), 8 * work, sizes, "batches of equal length, bf16 autocast"))
    default = (default_training(LynxConfig()).batch_targets,)
    generative = "the generative head alone, batch size of the default recipe"
    joint = "the default: generative and dense head together, batch size of the default recipe"
    for name, config, note in (("lynx_generative", LynxConfig(dense_weight=0), generative), ("lynx", LynxConfig(), joint)):
        result.append(_bucketed(f"{name}_fp32", lynx(config, bf16=False), 64 * work, default, f"{note}, fp32"))
        if bf16:
            result.append(_bucketed(f"{name}_bf16", lynx(config, bf16=True), 64 * work, default, f"{note}, bf16 autocast"))
    return result


_LONGEST = "the same examples padded to the longest of each batch, fp32, eager attention"
_LONGEST_BF16 = "the same examples padded to the longest of each batch, bf16 autocast, eager attention"


def _plain(name: str, step: Step, examples: Examples, targets: int, sizes: tuple[int, ...], note: str) -> Contestant:
    """Batches of examples drawn at random; contestants draw the same ones in the same round."""

    def turn(batch_size: int, seed: int) -> int:
        rows = np.random.default_rng(seed).choice(len(examples), targets, replace=False)
        return _all(step, np.split(rows, range(batch_size, targets, batch_size)))

    return Contestant(name, turn, sizes, note)


def _bucketed(name: str, felid: Felid, targets: int, sizes: tuple[int, ...], note: str) -> Contestant:
    return Contestant(name, lambda size, seed: _all(felid.step, felid.bucketed(size, seed, targets)), sizes, note)


def _all(step: Step, batches: Iterable[Indices]) -> int:
    return sum(step(chosen) for chosen in batches)
