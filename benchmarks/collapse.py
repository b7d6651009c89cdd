"""`python -m benchmarks.collapse RUN`: does an RQ-VAE keep its codes in use? felid's default beside TIGER's setting.

RUN is a run folder with vectors (`felid embed runs/beauty --recipe beauty`). TIGER's setting is Adagrad .4, batch 1024, gradient
codebooks, k-means start and no re-seeding, once on standardised inputs and once on inputs as they are; it is stopped after
`--epochs` of its 20,000.
"""

from __future__ import annotations

import argparse
import time
import warnings
from pathlib import Path

import numpy as np
from rich.console import Console

from felid.artifacts import read_run, write_json
from felid.data.dataset import Dataset
from felid.data.histories import LeaveOneOut
from felid.embedding import load_embeddings
from felid.errors import FelidError, FelidWarning
from felid.quantize import RQVAE, RQVAEConfig, collision_statistics
from felid.quantize.base import FitContext, LogRecord
from felid.quantize.health import reconstruction_error
from felid.recipe import load_recipe


def main() -> None:
    """Fit, print, and write `metrics.json`-like records to --out."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.collapse", description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--epochs", type=int, default=200, help="of TIGER's setting")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--out", type=Path, default=Path("reports/tokenizers/collapse.json"))
    options = parser.parse_args()
    places = read_run(options.run)["stages"]
    x = load_embeddings(options.run / places["embed"], normalized=True)[1]
    dataset = Dataset.load(options.run / places["data"])
    rows = np.flatnonzero(LeaveOneOut(dataset.sequences()).warm_items(len(x)))
    paper = load_recipe("beauty-rqvae-paper").quantizer
    assert isinstance(paper, RQVAEConfig)
    settings = {"felid's default": RQVAEConfig()}
    for name, standardize in (("TIGER's, standardised", True), ("TIGER's, as they are", False)):
        settings[name] = paper.model_copy(update={"epochs": options.epochs, "standardize": standardize})
    found = [
        {"setting": name, "seed": seed, **fit(config.model_copy(update={"seed": seed}), x, rows)}
        for seed in options.seeds
        for name, config in settings.items()
    ]
    for record in found:
        Console(width=200).print({key: value for key, value in record.items() if key != "epochs"})
    write_json(options.out, found)


def fit(config: RQVAEConfig, x: np.ndarray, rows: np.ndarray) -> dict[str, object]:
    """What became of the codebooks, by epoch and at the end."""
    log: list[LogRecord] = []
    start, quantizer = time.perf_counter(), RQVAE(config)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FelidWarning)
            quantizer.fit(x[rows], FitContext(log=log.append))
    except FelidError as error:
        return {"error": str(error), "epochs": log}
    codes = quantizer.encode(x)
    known = collision_statistics(codes, quantizer.sizes)
    return {
        "seconds": round(time.perf_counter() - start, 1),
        "utilisation": [level["utilisation"] for level in known["levels"]],
        "perplexity": [round(level["perplexity"], 1) for level in known["levels"]],
        "num_unique": known["num_unique"],
        "largest_group": known["largest_group"],
        "variance_left": reconstruction_error(x, quantizer.decode(codes)),
        "epochs": [record for record in log if str(record["epoch"]).rstrip("0") in ("1", "2", "5")],
    }


if __name__ == "__main__":
    main()
