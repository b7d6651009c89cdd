"""`python -m benchmarks.steps`: where the time of a training step goes, in Markdown tables."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.backends import mkldnn
from torch.profiler import ProfilerActivity, profile

from benchmarks.training import Felid, Indices
from benchmarks.world import World, make_world
from felid.models import ModelConfig
from felid.models.lynx import LynxConfig
from felid.models.sasrec import SASRecConfig
from felid.recipe import default_training
from felid.training.loop import native_bf16

CONFIGS: dict[str, ModelConfig] = {
    "lynx": LynxConfig(),
    "lynx, generative head alone": LynxConfig(dense_weight=0),
    "lynx, dense head alone": LynxConfig(generative_weight=0),
    "sasrec": SASRecConfig(),
}
PARTS = ("collate", "forward", "backward", "clip", "optimiser")


class Steps:
    """Training steps in the order of an epoch; `seconds` sums the processor time of their parts."""

    def __init__(self, config: ModelConfig, world: World) -> None:
        self.felid = Felid(config, world, seed=0, bf16=native_bf16())
        self.batches = self.felid.examples.batches(default_training(config).batch_targets, (0,))
        self.seconds, self.next = dict.fromkeys(PARTS, 0.0), 0

    def run(self, count: int) -> int:
        """The next steps; returns the number of targets."""
        self.next += count
        return sum(self._step(self.batches[place % len(self.batches)]) for place in range(self.next - count, self.next))

    def _step(self, chosen: Indices) -> int:
        model, optimizer = self.felid.model, self.felid.optimizer
        with self._timed("collate"):
            histories, targets = self.felid.examples.collate(chosen, self.felid.users)
        with self._timed("forward"), torch.autocast("cpu", torch.bfloat16, enabled=self.felid.bf16):
            losses = model(histories, targets, self.felid.items)
        with self._timed("backward"):
            (losses.total / len(targets)).backward()
        with self._timed("clip"):
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        with self._timed("optimiser"):
            optimizer.step()
            optimizer.zero_grad()
        return len(targets)

    @contextmanager
    def _timed(self, part: str) -> Iterator[None]:
        start = time.process_time()
        yield
        self.seconds[part] += time.process_time() - start


def compiled(steps: Steps, count: int) -> tuple[float, float]:
    """Matrix products that oneDNN compiles per step because it does not know their shape (any more), and their milliseconds."""
    sys.stdout.flush()
    stdout = os.dup(1)
    with tempfile.TemporaryFile("w+") as lines:
        os.dup2(lines.fileno(), 1)
        try:
            with mkldnn.verbose(mkldnn.VERBOSE_ON_CREATION):
                steps.run(count)
        finally:
            os.dup2(stdout, 1)
            os.close(stdout)
        lines.seek(0)
        misses = [float(line.rpartition(",")[2]) for line in lines if "create:cache_miss" in line]
    return len(misses) / count, sum(misses) / count


def operators(steps: Steps, count: int, rows: int) -> list[tuple[str, float, float]]:
    """The operators with the most time of their own: name, milliseconds and calls per step."""
    with profile(activities=[ProfilerActivity.CPU]) as found:
        steps.run(count)
    events = sorted(found.key_averages(), key=lambda event: -event.self_cpu_time_total)
    return [(event.key, event.self_cpu_time_total / 1e3 / count, event.count / count) for event in events[:rows]]


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.steps", description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--warmup", type=int, default=130, help="steps before anything is measured")
    parser.add_argument("--steps", type=int, default=120, help="steps that are measured")
    parser.add_argument("--operators", type=int, default=12, help="operators of the first model that are listed")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    world = make_world()
    print(world.source, "\n", f"| model | targets/s | ms/step | {' | '.join(PARTS)} | compiled per step, ms |", sep="\n")
    print("|---" * (4 + len(PARTS)) + "|")
    listed: list[tuple[str, float, float]] = []
    for name, config in CONFIGS.items():
        steps = Steps(config, world)
        steps.run(options.warmup)
        steps.seconds = dict.fromkeys(PARTS, 0.0)
        targets, total = steps.run(options.steps), sum(steps.seconds.values())
        parts = " | ".join(f"{1e3 * steps.seconds[part] / options.steps:.1f}" for part in PARTS)
        misses, spent = compiled(steps, options.steps)
        row = f"| {name} | {targets / total:,.0f} | {1e3 * total / options.steps:.1f} | {parts} | {misses:.1f}, {spent:.1f} |"
        print(row, flush=True)
        listed = listed or operators(steps, options.steps // 4, options.operators)
    print(f"\nOperators of {next(iter(CONFIGS))} (under the profiler):\n\n| operator | ms/step | calls/step |\n|---|---|---|")
    for operator, milliseconds, calls in listed:
        print(f"| `{operator}` | {milliseconds:.1f} | {calls:.1f} |")


if __name__ == "__main__":
    main()
