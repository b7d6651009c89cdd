"""`python -m benchmarks.quantizers`: residual k-means against other packages' residual quantisers, in one run.

Peers: faiss ResidualQuantizer (beam 1), faiss Kmeans level by level, and `semantic-id` 0.2.5 where it is given:
`pip install --no-deps --target PEERS semantic-id==0.2.5` and `--peers PEERS` (it needs scikit-learn, torch and tqdm).
They take turns in one process with the same number of threads; CPU seconds stand beside wall seconds, since the former mind
a busy machine less. Part two, `--growth`: seconds from 1e4 to 1e6 items.
"""

from __future__ import annotations

import argparse
import math
import os
import platform
import shlex
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import faiss
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from threadpoolctl import threadpool_limits

from benchmarks.timing import spread
from felid.artifacts import write_json
from felid.quantize import RKMeans, RKMeansConfig

Vectors = NDArray[np.float32]
Decode = Callable[[Vectors, int], Vectors]
"""(rows, levels) -> what their codes on the first levels stand for."""
FIT_ROWS = 262_144
FELID = "felid"


def main(arguments: list[str] | None = None) -> None:
    """Run the benchmark and write `quantizers.json`."""
    options = _options(arguments)
    faiss.omp_set_num_threads(options.threads)
    console, load = Console(), os.getloadavg()[0]
    if load > 0.5:
        console.print(f"the machine is busy (load {load:.1f} before the start); times will be rough", highlight=False)
    with threadpool_limits(options.threads):
        record: dict[str, object] = {"environment": _environment(options, load)}
        if not options.growth_only:
            x, source = _vectors(options)
            console.print(source, highlight=False, soft_wrap=True)
            record |= {"data": source, "sizes": options.sizes, "contestants": compare(x, options, console)}
        if options.growth or options.growth_only:
            record["growth"] = growth(options, console)
    options.out.mkdir(parents=True, exist_ok=True)
    write_json(options.out / "quantizers.json", record)
    console.print(f"{options.out / 'quantizers.json'} written", highlight=False, soft_wrap=True)


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quantizers", description=__doc__)
    parser.add_argument("--vectors", type=Path, help=".npy file (N, D); rows are L2-normalised; default: synthetic vectors")
    parser.add_argument("--peers", type=Path, help="folder with the semantic-id package")
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 256, 256], help="codes per level")
    parser.add_argument("--threads", type=int, default=1, help="threads of BLAS, OpenMP and faiss")
    parser.add_argument("--rounds", type=int, default=3, help="interleaved repetitions, each with its own seed")
    parser.add_argument("--growth", action="store_true", help="also 1e4, 1e5 and 1e6 items")
    parser.add_argument("--growth-only", action="store_true", help="nothing else")
    parser.add_argument("--quick", action="store_true", help="one round, without semantic-id; growth to 1e5: does it run?")
    parser.add_argument("--out", type=Path, default=Path("reports/benchmarks"), help="folder of quantizers.json")
    return parser.parse_args(arguments)


def _environment(options: argparse.Namespace, load: float) -> dict[str, object]:
    packages = ("felid", "numpy", "faiss-cpu", "scikit-learn")
    return {
        "command": shlex.join(["python", "-m", "benchmarks.quantizers", *sys.argv[1:]]),
        "threads": options.threads,
        "cores": os.cpu_count(),
        "load_before": load,
        "versions": {"python": platform.python_version()} | {name: version(name) for name in packages},
    }


def _vectors(options: argparse.Namespace) -> tuple[Vectors, str]:
    if options.vectors:
        x, source = np.load(options.vectors).astype(np.float32), str(options.vectors)
    else:
        x, source = synthetic(12_000, 384), "synthetic: a tree of clusters"
    x /= np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-9)
    variance = float(((x - x.mean(0, dtype=np.float64)) ** 2).sum(1).mean())
    return x, f"{source}: {len(x):,} x {x.shape[1]} normalised vectors, variance {variance:.4f}"


def synthetic(count: int, dim: int) -> Vectors:
    """Items of a shop: 40 departments of 25 kinds, each item its own way off, along directions of falling variance."""
    rng = np.random.default_rng(0)
    scale = np.arange(1, dim + 1) ** -0.5
    departments, kinds = rng.normal(size=(40, dim)), rng.normal(size=(1000, dim))
    kind = (rng.random(count) ** 2 * 1000).astype(int)  # some kinds have many items
    x = rng.normal(size=(count, dim)).astype(np.float32)
    x += kinds[kind] + departments[kind // 25]
    return np.asarray(x * scale, np.float32)


def compare(x: Vectors, options: argparse.Namespace, console: Console) -> dict[str, object]:
    """Fit seconds and mean squared residual of every contestant, and the ratio of its CPU seconds to felid's in each round."""
    contestants = _contestants(options)
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    cpu: dict[str, list[float]] = {name: [] for name in contestants}
    left: dict[str, list[list[float]]] = {name: [] for name in contestants}
    for turn in range(1 if options.quick else options.rounds):
        for name, fit in contestants.items():
            start, start_cpu = time.perf_counter(), time.process_time()
            decode = fit(x, turn)
            seconds[name].append(time.perf_counter() - start)
            cpu[name].append(time.process_time() - start_cpu)
            left[name].append([_error(x, decode, level + 1) for level in range(len(options.sizes))])
            console.print(f"  {turn + 1}: {name} {cpu[name][-1]:.2f} CPU s, {left[name][-1][-1]:.4f}", highlight=False)
    rows: dict[str, object] = {}
    table = Table("contestant", "fit, s", "CPU, s", "CPU / felid's", "mean squared residual per level")
    for name in contestants:
        ratio = spread([own / felid for own, felid in zip(cpu[name], cpu[FELID], strict=True)])
        levels = np.mean(left[name], axis=0).tolist()
        last = spread([each[-1] for each in left[name]])
        times = {"fit_seconds": spread(seconds[name]), "cpu_seconds": spread(cpu[name]), "cpu_ratio": ratio}
        rows[name] = {**times, "residual": last, "residual_per_level": levels}
        shown = "  ".join(f"{value:.4f}" for value in levels)
        wall, used = spread(seconds[name])["median"], spread(cpu[name])["median"]
        table.add_row(name, f"{wall:.2f}", f"{used:.2f}", f"{ratio['median']:.2f}", shown)
    console.print(table)
    return rows


def _error(x: Vectors, decode: Decode, levels: int) -> float:
    return float(((x - decode(x, levels)) ** 2).sum(1).mean(dtype=np.float64))


def _contestants(options: argparse.Namespace) -> dict[str, Callable[[Vectors, int], Decode]]:
    sizes = tuple(options.sizes)

    def felid(**settings: object) -> Callable[[Vectors, int], Decode]:
        def fit(x: Vectors, seed: int) -> Decode:
            quantizer = RKMeans(RKMeansConfig.model_validate({"sizes": sizes, "seed": seed, **settings})).fit(x)
            return lambda rows, levels: quantizer.decode(quantizer.encode(rows)[:, :levels])

        return fit

    found = {
        FELID: felid(),
        "felid, 8 iterations, 2 refinements": felid(iterations=8, refinements=2),
        "felid, no refinements": felid(refinements=0),
        "felid, balanced": felid(balanced=True),
        "faiss Kmeans per level": lambda x, seed: _faiss_kmeans(x, sizes, seed),
    }
    if all(size & (size - 1) == 0 for size in sizes):
        found["faiss ResidualQuantizer, beam 1"] = lambda x, seed: _faiss_residual(x, sizes, seed)
    if options.peers and not options.quick:
        sys.path.append(str(options.peers))
        found["semantic-id 0.2.5"] = lambda x, seed: _semantic_id(x, sizes, seed)
    return found


def _faiss_kmeans(x: Vectors, sizes: tuple[int, ...], seed: int) -> Decode:
    residual, codebooks = x, []
    for level, size in enumerate(sizes):
        kmeans = faiss.Kmeans(x.shape[1], size, niter=25, seed=1 + seed * 100 + level, max_points_per_centroid=len(x))
        kmeans.train(residual)
        codebooks.append(kmeans.centroids)
        residual = residual - codebooks[-1][kmeans.index.search(residual, 1)[1][:, 0]]
    return _greedy(codebooks)


def _faiss_residual(x: Vectors, sizes: tuple[int, ...], seed: int) -> Decode:
    quantizer = faiss.ResidualQuantizer(x.shape[1], _bits([size.bit_length() - 1 for size in sizes]))
    quantizer.max_beam_size = 1
    quantizer.cp.seed = 1 + seed
    quantizer.train(x)
    codebooks, ends = faiss.vector_to_array(quantizer.codebooks).reshape(-1, x.shape[1]), np.cumsum(sizes)[:-1]
    return _greedy(np.split(codebooks, ends))


def _bits(bits: list[int]) -> faiss.UInt64Vector:
    """Bits per level as faiss wants them."""
    vector = faiss.UInt64Vector()
    faiss.copy_array_to_vector(np.asarray(bits, np.uint64), vector)
    return vector


def _semantic_id(x: Vectors, sizes: tuple[int, ...], seed: int) -> Decode:
    from semantic_id import RQKMeans

    quantizer = RQKMeans(n_levels=len(sizes), n_clusters=list(sizes), random_state=seed).fit(x)
    return _greedy([np.asarray(codebook, np.float32) for codebook in quantizer.codebooks_])


def _greedy(codebooks: list[Vectors]) -> Decode:
    """Nearest codes level by level, by faiss, for every peer alike."""

    def decode(x: Vectors, levels: int) -> Vectors:
        total = np.zeros_like(x)
        for codebook in codebooks[:levels]:
            index = faiss.IndexFlatL2(x.shape[1])
            index.add(np.ascontiguousarray(codebook))
            total += codebook[index.search(x - total, 1)[1][:, 0]]
        return total

    return decode


def growth(options: argparse.Namespace, console: Console) -> list[dict[str, float]]:
    """Seconds of fitting (on at most 262,144 rows, drawn at random) and of encoding all items, and how they grow."""
    rows: list[dict[str, float]] = []
    for count in (10_000, 100_000) if options.quick else (10_000, 100_000, 1_000_000):
        x = synthetic(count, 64)
        sample = x[np.sort(np.random.default_rng(0).choice(count, min(count, FIT_ROWS), replace=False))]
        start = time.perf_counter()
        quantizer = RKMeans(RKMeansConfig(sizes=tuple(options.sizes))).fit(sample)
        fitted = time.perf_counter()
        quantizer.encode(x)
        row = {"items": count, "fit_seconds": fitted - start, "encode_seconds": time.perf_counter() - fitted}
        if rows:
            for part in ("fit", "encode"):
                times = row[f"{part}_seconds"] / rows[-1][f"{part}_seconds"]
                row[f"{part}_exponent"] = math.log(times) / math.log(count / rows[-1]["items"])
        rows.append(row)
        console.print("  ".join(f"{key} {value:,.2f}" for key, value in row.items()), highlight=False)
    return rows


if __name__ == "__main__":
    main()
