"""What a run folder has to give to a layout, and the refusals where it has it not.

All stages are those of the recommender that was trained last, which `felid recommend` opens too; where none was trained yet,
those that were made last.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from felid.artifacts import Artifact, find_artifact, open_artifact, read_json, read_run
from felid.config import validate
from felid.data.dataset import Dataset
from felid.data.histories import LeaveOneOut
from felid.data.holdout import HoldoutConfig, split_of
from felid.data.split import LastItemsConfig, TimeConfig, read_split
from felid.embedding import TextConfig, item_texts, load_embeddings
from felid.errors import ArtifactError, RequestError
from felid.quantize import Codes, Vectors
from felid.rows import load_array
from felid.semantic_ids import SemanticIds

Record = dict[str, Any]
NOTES = {"data": "data", "embed": "item vectors", "tokenize": "semantic IDs", "train": "trained model"}


@dataclass(frozen=True, eq=False)
class RunSource:
    """A run folder, opened for reading.

    Attributes:
        root: the run folder.
        stages: stage -> its artifact.
        holdout: which items were kept out of training.
        rule: how users' items were split.
    """

    root: Path
    stages: dict[str, Artifact]
    holdout: HoldoutConfig
    rule: LastItemsConfig | TimeConfig

    @classmethod
    def open(cls, root: Path) -> RunSource:
        """Open a run folder.

        Raises:
            ArtifactError: it is none.
        """
        notes = read_run(root)
        if "stages" not in notes:
            raise ArtifactError(f"{root} is no run folder (no stages in run.json); give the folder that `felid run` wrote")
        bundle = notes.get("bundle", {})
        places = dict(bundle.get("stages", notes["stages"]))
        stages = {stage: open_artifact(root / place) for stage, place in places.items() if stage != "evaluate"}
        if "evaluate" in notes["stages"] and "train" in stages:
            found = open_artifact(root / notes["stages"]["evaluate"])
            if found.manifest["inputs"].get("train") == stages["train"].digest:
                stages["evaluate"] = found
        recipe = bundle or (read_json(root / "recipe.json") if (root / "recipe.json").is_file() else {})
        return cls(root, stages, validate(HoldoutConfig, recipe.get("holdout", {})), read_split(recipe.get("split")))

    def folder(self, stage: str, layout: str) -> Path:
        """The folder of a stage.

        Raises:
            ArtifactError: the run does not have it.
        """
        if stage not in self.stages:
            has = ", ".join(self.stages) or "no stage"
            raise ArtifactError(
                f"layout {layout} needs the stage {stage} ({NOTES.get(stage, stage)}), {self.root} has {has}; "
                f"run `felid {stage} {self.root}` first"
            )
        return self.stages[stage].path

    def settings(self, stage: str) -> Record:
        """The sections of the recipe that a stage was made with; none for a stage that is not there."""
        return dict(self.stages[stage].manifest["config"]) if stage in self.stages else {}

    def need(self, layout: str, *stages: str) -> None:
        """Refuse a run without one of the stages."""
        for stage in stages:
            self.folder(stage, layout)

    def need_quantizer(self, layout: str, kind: str, name: str) -> Record:
        """The settings of the quantiser, which must be of a kind and quantise the text vectors.

        Args:
            layout: who asks.
            kind: `quantizer.kind`.
            name: what people call it, with its article.

        Raises:
            RequestError: it is another one, or it quantises vectors from behaviour.
        """
        self.need(layout, "tokenize")
        settings = self.settings("tokenize")
        found, vectors = settings["quantizer"]["kind"], settings["tokenize"]["vectors"]
        if found != kind:
            raise RequestError(
                f"layout {layout} holds {name} (quantizer.kind={kind}), {self.root} has quantizer.kind={found}; "
                f"run `felid run` with quantizer.kind={kind}, or export another layout"
            )
        if vectors != "text":
            raise RequestError(
                f"layout {layout} holds the item vectors from text that were quantised, {self.root} quantised those with "
                f"tokenize.vectors={vectors}; run `felid run` with tokenize.vectors=text, or export another layout"
            )
        return dict(settings["quantizer"])

    @cached_property
    def dataset(self) -> Dataset:
        return Dataset.load(self.stages["data"].path)

    @cached_property
    def split(self) -> LeaveOneOut:
        return split_of(self.dataset, self.holdout, self.rule)

    @property
    def item_ids(self) -> list[int | str]:
        """(N,) ids as the data gives them, row = item_index."""
        ids: list[int | str] = self.dataset.item_ids.tolist()
        return ids

    @property
    def dataset_name(self) -> str:
        """The category for Amazon, such as `Beauty`; else the name of the data."""
        source = self.settings("data").get("dataset", {})
        return str(source.get("name") or self.dataset.name)

    @property
    def encoder_name(self) -> str:
        """What made the item vectors: the last part of a model's name, else the kind of the embedder."""
        embedding = self.settings("embed")["embedding"]
        return Path(str(embedding.get("model", embedding["kind"]))).name

    @property
    def seed(self) -> int:
        """Of the quantiser, which made the codes; where it draws nothing, of the model."""
        drawn = self.settings("tokenize")["quantizer"].get("seed")
        return int(self.settings("train").get("seed", 0) if drawn is None else drawn)

    def texts(self) -> list[str]:
        """(N,) the item texts that were embedded; by the default template where the vectors came from a file."""
        columns = {name: self.dataset.items[name].to_list() for name in self.dataset.items.columns if name != "item_id"}
        config = validate(TextConfig, self.settings("embed").get("text", {}))
        if not any(name in columns for name in config.columns):
            return [""] * len(self.dataset.items)
        return item_texts(columns, config)[0]

    def vectors(self, *, normalized: bool) -> Vectors:
        """(N, E) float32 item vectors, as embedded or at unit length, which is what quantisers read."""
        return load_embeddings(self.stages["embed"].path, normalized)[1]

    @cached_property
    def ids(self) -> SemanticIds:
        return SemanticIds.load(self.stages["tokenize"].path)

    @cached_property
    def quantized(self) -> Codes:
        """(N, Lq) int32 codes of the quantiser, before collisions were resolved."""
        codes: Codes = load_array(self.stages["tokenize"].path / "quantizer_codes.npy", (len(self.dataset.items), None))
        return codes

    @property
    def quantizer_folder(self) -> Path:
        return self.stages["tokenize"].path / "quantizer"

    @property
    def quantizer_log(self) -> list[Record]:
        """One record per epoch of a quantiser that learns in epochs."""
        path = self.stages["tokenize"].path / "log.jsonl"
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []

    def start_codebooks(self, layout: str) -> list[NDArray[np.float32]]:
        """The codebooks that the quantiser started from, one (K, D) per level.

        Raises:
            RequestError: it had no such start.
            ArtifactError: the run folder does not have them any more.
        """
        codes = find_artifact(self.root, "quantize", self.stages["tokenize"].manifest["inputs"]["codes"])
        if "start" not in codes.manifest["inputs"]:
            raise RequestError(
                f"layout {layout} holds the codebooks of a k-means start, the quantiser of {self.root} had none; "
                "run `felid run` with quantizer.start=kmeans"
            )
        folder = find_artifact(self.root, "start", codes.manifest["inputs"]["start"]).path
        return [np.load(path, allow_pickle=False) for path in sorted(folder.glob("codebook_*.npy"), key=_level)]

    def warmup(self, layout: str) -> Path:
        """The folder of the dense training before the codes.

        Raises:
            RequestError: there was none.
        """
        digest = self.stages["tokenize"].manifest["inputs"].get("warmup")
        if digest is None:
            raise RequestError(
                f"layout {layout} holds the vectors of a SASRec that is trained before the codes, {self.root} had none; "
                "run `felid run` with collaborative.kind=warmup and quantizer.alignment_weight above 0"
            )
        return find_artifact(self.root, "warmup", digest).path

    @property
    def metrics(self) -> Record | None:
        """The evaluation of the trained model; None where it was not evaluated."""
        found = self.stages.get("evaluate")
        return None if found is None else dict(read_json(found.path / "metrics.json", ("test", "baselines")))


def progress_of(training: Path) -> Record:
    """What a finished training noted: steps, best_checkpoint, last_checkpoint, curve and others."""
    found: Record = read_json(training / "progress.json", ("best_checkpoint", "last_checkpoint", "curve"))
    return found


def _level(path: Path) -> int:
    return int(path.stem.rpartition("_")[2])
