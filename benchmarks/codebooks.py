"""`python -m benchmarks.codebooks`: a training step of the residual quantiser as a ratio, and a million items at large sizes.

The peer is `vector-quantize-pytorch` (ResidualVQ, moving averages), which is no dependency of felid:

    pip install --no-deps --target PEERS vector-quantize-pytorch einops einx frozendict loguru torch-einops-utils
    PYTHONPATH=PEERS python -m benchmarks.codebooks

Both take the same start (residual k-means), the same batches and the straight-through estimator (the peer's default is the
rotation trick); one step is forward, commitment loss, backward and the update of the codebooks. Before anything is timed their
codes on the same codebooks are compared. `--million` needs no peer.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor, nn

from benchmarks.timing import Contestant, interleave, summary
from felid.artifacts import peak_rss_mib, write_json
from felid.quantize.codebook import SemanticIDConfig
from felid.quantize.encoder import SemanticIDEncoder
from felid.quantize.encoder_training import compute_codebook_utilization, start_codebooks, train_codebook
from felid.quantize.residual import ResidualVectorQuantizer
from felid.quantize.rkmeans import RKMeans, RKMeansConfig
from felid.rows import RowFile, blocks, write_rows

SHAPES = ((256, 32, 1024), (1024, 256, 4096))
"""Codes per level, width, batch."""
LEVELS = 3
PEER = "vector_quantize_pytorch"
PACKAGES = ("felid", "numpy", "torch", "vector-quantize-pytorch")


def main(arguments: list[str] | None = None) -> None:
    """Print the record and write `codebooks.json` or, of the million, `codebooks-million.json`."""
    options = _options(arguments)
    torch.set_num_threads(options.threads)
    console, load = Console(), os.getloadavg()[0]
    if load > 0.5:
        console.print(f"the machine is busy (load {load:.1f} before the start); times will be rough", highlight=False)
    record: dict[str, object] = {"environment": _environment(options, load)}
    if options.million:
        with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
            record["million"] = million(Path(folder), options.items, options.steps)
    else:
        shapes, rounds = (SHAPES[:1], 1) if options.quick else (SHAPES, options.rounds)
        record["steps"] = [steps(*shape, rounds, console) for shape in shapes]
    console.print_json(json.dumps(record))
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / ("codebooks-million.json" if options.million else "codebooks.json")
    write_json(path, record)
    console.print(f"{path} written", highlight=False, soft_wrap=True)


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.codebooks", description=__doc__.partition("\n")[0])
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="threads of torch; default: all cores")
    parser.add_argument("--rounds", type=int, default=7, help="interleaved repetitions")
    parser.add_argument("--quick", action="store_true", help="one round of the smaller shape: does it run?")
    parser.add_argument("--million", action="store_true", help="the part with a million items instead of the ratios")
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--steps", type=int, default=50, help="training steps over the million")
    parser.add_argument("--scratch", type=Path, help="folder with 1.1 GB to spare; default: a temporary one")
    parser.add_argument("--out", type=Path, default=Path("reports/benchmarks"), help="folder of the record")
    return parser.parse_args(arguments)


def _environment(options: argparse.Namespace, load: float) -> dict[str, object]:
    return {
        "command": shlex.join(["python", "-m", "benchmarks.codebooks", *sys.argv[1:]]),
        "quick": options.quick,
        "threads": options.threads,
        "cores": os.cpu_count(),
        "load_before": load,
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in PACKAGES},
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def steps(size: int, width: int, batch: int, rounds: int, console: Console) -> dict[str, object]:
    """Rows per second of both, after comparing their codes."""
    rng = np.random.default_rng(0)
    x = next(mixture(rng, 16 * batch, width, 16 * batch))
    kmeans = RKMeans(RKMeansConfig(sizes=(size,) * LEVELS, iterations=5, restarts=1)).fit(x)
    books = [torch.from_numpy(kmeans.codebook(level)) for level in range(LEVELS)]
    ours = ResidualVectorQuantizer(SemanticIDConfig(width, LEVELS, (size,) * LEVELS))
    for level, book in enumerate(books):
        ours.level(level).set_codebook(book)
    rows = torch.from_numpy(x)

    def our_loss(part: Tensor) -> Tensor:
        out = ours(part)
        return out.quantized.mean() + 0.25 * out.commitment_loss

    contestants = [
        Contestant("felid", _turn(our_loss, rows), (batch,), "ResidualVectorQuantizer, moving averages, straight-through")
    ]
    theirs, agreement = _peer(books, width, size), None
    if theirs is None:
        console.print(f"{PEER} is not installed (see the module's docstring): no ratio", soft_wrap=True)
    else:
        codes = torch.stack(ours.encode(rows[:batch]), 1)
        agreement = float((codes == theirs.eval()(rows[:batch])[1]).all(1).float().mean())
        theirs.train()

        def their_loss(part: Tensor) -> Tensor:
            quantized, _, losses = theirs(part)
            return quantized.mean() + losses.sum()

        contestants.append(
            Contestant(PEER, _turn(their_loss, rows), (batch,), "ResidualVQ, moving averages, Euclidean, straight-through")
        )
    rates = interleave(contestants, rounds + 1, console)
    rates = {name: values[1:] for name, values in rates.items()}  # the first is a warm-up
    rows_of = summary(contestants, rates, contestants[-1].name, "rows_per_second")
    return {"levels": LEVELS, "size": size, "dim": width, "equal_codes": agreement, "rows": rows_of}


def _turn(loss: Callable[[Tensor], Tensor], rows: Tensor) -> Callable[[int, int], int]:
    def turn(batch: int, seed: int) -> int:
        parts = rows.split(batch)[:8]
        for part in parts:
            loss(part.clone().requires_grad_()).backward()
        return sum(map(len, parts))

    return turn


def _peer(books: list[Tensor], width: int, size: int) -> nn.Module | None:
    """Theirs with our start, or None where it is not installed."""
    try:
        from vector_quantize_pytorch import ResidualVQ
    except ImportError:
        return None
    theirs: nn.Module = ResidualVQ(
        dim=width,
        num_quantizers=LEVELS,
        codebook_size=size,
        decay=0.99,
        commitment_weight=0.25,
        threshold_ema_dead_code=0,
        rotation_trick=False,
    )
    for layer, book in zip(theirs.layers, books, strict=True):
        layer._codebook.embed.data.copy_(book[None])
        layer._codebook.embed_avg.data.copy_(book[None])
        layer._codebook.cluster_size.data.fill_(1)
    return theirs


def million(folder: Path, items: int, num_steps: int) -> dict[str, object]:
    """Seconds of each part and the peak memory of the process, default sizes, batch 4096."""
    config, rng, seconds = SemanticIDConfig(), np.random.default_rng(0), {}
    write_rows(folder / "features.npy", (items, config.embedding_dim), mixture(rng, items, config.embedding_dim))
    features = RowFile(folder / "features.npy")
    few = RowFile(folder / "features.npy", np.sort(rng.choice(items, min(items, num_steps * 4096), replace=False)))
    torch.manual_seed(0)
    encoder = SemanticIDEncoder(config)
    parts: dict[str, Callable[[], object]] = {
        "k_means_start": lambda: start_codebooks(encoder, features),
        "training": lambda: train_codebook(encoder, few, 1, start=False),
        "encode_all": lambda: encoder.encode(features),
    }
    for name, part in parts.items():
        begin = time.perf_counter()
        part()
        seconds[name] = round(time.perf_counter() - begin, 1)
    sample = RowFile(folder / "features.npy", np.arange(0, items, 16))
    return {
        "items": items,
        "dim": config.embedding_dim,
        "sizes": config.codebook_sizes,
        "training_steps": num_steps,
        "threads": torch.get_num_threads(),
        "seconds": seconds,
        "peak_rss_mib": peak_rss_mib(),
        "utilisation_of_a_sixteenth": [round(level["utilisation"], 3) for level in compute_codebook_utilization(encoder, sample)],
    }


def mixture(rng: np.random.Generator, items: int, width: int, size: int = 16_384) -> Iterator[NDArray[np.float32]]:
    """Blocks of a random mixture: each row is one of 4096 centres plus one of 4096 smaller ones plus noise."""
    coarse, fine = (rng.normal(size=(4096, width)).astype(np.float32) for _ in range(2))
    for block in blocks(items, size):
        count = block.stop - block.start
        near, nearer = rng.integers(4096, size=(2, count))
        yield coarse[near] + 0.5 * fine[nearer] + 0.3 * rng.normal(size=(count, width)).astype(np.float32)


if __name__ == "__main__":
    main()
