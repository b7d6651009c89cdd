"""The stages in order: data, embed, tokenize, train, evaluate. Each reads artifacts and writes one.

Several processes of torchrun train and evaluate together; what comes before, the main one makes while the others wait.

A stage is skipped when its settings and the content of what it reads are unchanged, so changing only the model does not
embed again, and a second run of an unchanged recipe does nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from felid import artifacts
from felid.artifacts import Artifact, read_json, write_json
from felid.config import as_tree, digest
from felid.data.dataset import Dataset
from felid.data.histories import LeaveOneOut
from felid.data.holdout import split_of
from felid.data.sources import fingerprint, load_dataset
from felid.data.split import LAST_TWO
from felid.distributed import on_main
from felid.embedding import ItemTexts, embed, item_texts, load_embeddings, open_embeddings, save_embeddings
from felid.embedding import fingerprint as embedding_fingerprint
from felid.embedding.lsa import LsaConfig
from felid.embedding.precomputed import PrecomputedConfig
from felid.errors import RecipeError
from felid.evaluation import print_metrics
from felid.evaluation.protocol import check_request
from felid.fitting import Fitting
from felid.judging import judge, track
from felid.models.base import Catalogue
from felid.progress import plain_console, progress_bar, stage_line
from felid.quantize import NoCollisionConfig
from felid.ranking import check_cold_share, mode_of
from felid.recipe import Recipe
from felid.recommender import Recommender, best_checkpoint
from felid.semantic_ids import SemanticIds
from felid.tokenizing import Material, TokenizeSettings, TokenizeStage
from felid.tracking import Tracking
from felid.warmup import WarmupConfig

Stage = Literal["data", "embed", "tokenize", "train", "evaluate"]
STAGES: tuple[Stage, ...] = get_args(Stage)
TOGETHER: tuple[Stage, ...] = ("train", "evaluate")
"""What all processes do together."""


class Pipeline:
    """A recipe at work in a run folder.

    Args:
        recipe: all settings.
        root: the run folder; made if need be.
        dataset: use this instead of the recipe's source.
        console: where progress and results go.
        checkpoint: evaluate this one instead of the best. The run folder's own metrics stay those of the best.
    """

    def __init__(
        self,
        recipe: Recipe,
        root: Path,
        *,
        dataset: Dataset | None = None,
        console: Console | None = None,
        checkpoint: str | None = None,
    ) -> None:
        self.recipe, self.root, self.given, self.checkpoint = recipe, root, dataset, checkpoint
        self.console = console or plain_console(quiet=True)
        self.tracking = Tracking(recipe.tracking.model_copy(update={"to": recipe.trackers}), root)
        self.done: dict[Stage, Artifact] = {}
        self.tokenizing = TokenizeSettings.model_validate({name: getattr(recipe, name) for name in TokenizeSettings.model_fields})

    def run(self, until: Stage = "evaluate", *, fresh: Collection[Stage] = ()) -> Path:
        """Make what is missing, up to a stage; the `fresh` stages are made again. Returns the last stage's folder."""
        self.tracking.check()
        if STAGES.index(until) >= STAGES.index("train"):
            self.tokenizing.check_trainable()
            self._check_search()
        with artifacts.lock(self.root):
            for stage in STAGES[: STAGES.index(until) + 1]:
                self._run_stage(stage, fresh=stage in fresh)
                if stage == "data" and STAGES.index(until) >= STAGES.index("train"):
                    check_request(self.recipe.evaluation.ks, len(self.split.evaluated), len(self.dataset.items))
                if stage == "data":
                    on_main(lambda: None if "bundle" in artifacts.read_run(self.root) else self._commit())
            on_main(lambda: self._close(until))
        return self.done[until].path

    def _close(self, until: Stage) -> None:
        """Note that all went well, and show the metrics."""
        self._commit()
        if until == "evaluate":
            metrics = read_json(self.done["evaluate"].path / "metrics.json")
            if self.checkpoint is None:
                write_json(self.root / "metrics.json", metrics)
            print_metrics(metrics, self.console)

    def _check_search(self) -> None:
        """Refuse, before anything is trained, a search that its model or its IDs will not do."""
        mode_of(self.recipe.model.modes, self.recipe.search.mode)
        check_cold_share(self.recipe.search, ids=True, shared=isinstance(self.recipe.collision, NoCollisionConfig))

    def make_start(self) -> Path:
        """Make the codebooks that the quantiser starts from (and what that needs), to be looked at; returns their folder.

        Raises:
            RecipeError: the recipe's quantiser has no such start.
        """
        if self.tokenizing.start_settings is None:
            text = f"quantizer.kind={self.recipe.quantizer.kind} with these settings has no codebooks to start from"
            raise RecipeError(f"{text}; it needs quantizer.kind=rqvae with quantizer.start=kmeans")
        self.run("embed")
        with artifacts.lock(self.root):
            start = self._tokenizer(self._inputs("tokenize")).start
        assert start is not None
        return start.path

    def _commit(self) -> None:
        """Make this recipe that of the run folder: not before it has worked, lest it replace one that does."""
        write_json(self.root / "recipe.json", as_tree(self.recipe))
        places = self._places()
        artifacts.note_run(self.root, given=places["data"] if self.given is not None else None)
        if "train" in places:
            bundle = {stage: places[stage] for stage in STAGES if stage != "evaluate"}
            sections = ("search", "holdout", "split")
            settings = {name: as_tree(getattr(self.recipe, name)) for name in sections}
            artifacts.note_run(self.root, bundle={"stages": bundle, **settings})

    def _places(self) -> dict[str, str]:
        return {stage: str(artifact.path.relative_to(self.root)) for stage, artifact in self.done.items()}

    def _run_stage(self, stage: Stage, *, fresh: bool) -> None:
        work: dict[Stage, Callable[[Path], None]] = {
            "data": self._data,
            "embed": self._embed,
            "tokenize": self._tokenize,
            "train": self._train,
            "evaluate": self._evaluate,
        }

        def make() -> tuple[Artifact, bool]:
            inputs = self._inputs(stage)
            if stage == "tokenize":
                self.tokenizer = self._tokenizer(inputs, fresh)
                inputs |= {"codes": self.tokenizer.codes.digest, **self.tokenizer.made_by}
            return artifacts.build(self.root, stage, self._settings(stage), inputs, work[stage], fresh=fresh)

        self.done[stage], reused = make() if stage in TOGETHER else on_main(make)
        on_main(lambda: self._note(stage, reused=reused))

    def _note(self, stage: Stage, *, reused: bool) -> None:
        """Say that a stage is done, in the run folder and on the console."""
        artifact = self.done[stage]
        known = artifacts.read_run(self.root)
        if stage != "evaluate" or self.checkpoint is None:
            artifacts.note_run(self.root, stages={**known.get("stages", {}), **self._places()})
        if stage == "train":
            former = known.get("bundle", {}).get("stages", {}).get("train")
            if not reused or former != self._places()["train"]:
                (self.root / "metrics.json").unlink(missing_ok=True)  # those of another model
            self._commit()
        seconds = None if reused else artifact.manifest["wall_seconds"]
        self.console.print(stage_line(stage, seconds, artifact.path), soft_wrap=True)

    def _settings(self, stage: Stage) -> dict[str, Any]:
        """The part of the recipe that a stage depends on."""
        tree = as_tree(self.recipe) | {"holdout": as_tree(self.recipe.holdout.effective)}
        sections: dict[Stage, tuple[str, ...]] = {
            "data": ("dataset", "filter") if self.given is None else (),
            "embed": ("embedding",) if isinstance(self.recipe.embedding, PrecomputedConfig) else ("text", "embedding"),
            "tokenize": tuple(TokenizeSettings.model_fields),
            "train": ("model", "training", "seed"),
            "evaluate": ("search", "evaluation", "cold", "holdout"),
        }
        settings = {name: tree[name] for name in sections[stage]}
        if stage == "tokenize":
            settings["collision"] = {key: value for key, value in tree["collision"].items() if key != "allow_training"}
            if self._takes_out:
                settings["holdout"] = tree["holdout"]
            if self.recipe.split != LAST_TWO:
                settings["split"] = tree["split"]
        if stage == "evaluate" and self.checkpoint is not None:
            settings["checkpoint"] = self.checkpoint
        if stage == "embed" and isinstance(self.recipe.embedding, LsaConfig):
            settings["cold"] = tree["cold"]
        return {**settings, "exclude_seen": self.recipe.evaluation.exclude_seen} if stage == "train" else settings

    def _inputs(self, stage: Stage) -> dict[str, str]:
        """Digests of everything that a stage reads."""
        inputs = {name: artifact.digest for name, artifact in self.done.items()} | self._files(stage)
        reads_split = stage in ("tokenize", "train") or (stage == "embed" and isinstance(self.recipe.embedding, LsaConfig))
        warms_up = stage == "tokenize" and isinstance(self.recipe.collaborative, WarmupConfig)
        chooses = stage == "train" or warms_up  # validates, which leaves out targets that are kept for the test
        if chooses or (reads_split and self._takes_out):
            inputs["holdout"] = digest(as_tree(self.recipe.holdout.effective))
        if self.recipe.split != LAST_TWO and (reads_split or stage == "evaluate"):
            inputs["split"] = digest(as_tree(self.recipe.split))
        return inputs

    @property
    def _takes_out(self) -> bool:
        """Whether the training part lacks interactions with items that are held out."""
        return self.recipe.holdout.rule != "natural"

    def _files(self, stage: Stage) -> dict[str, str]:
        """Digests of what a stage reads from outside the run folder."""
        if stage == "data":
            return {"dataset": self.given.digest()} if self.given is not None else fingerprint(self.recipe.dataset)
        if stage == "tokenize" and isinstance(self.recipe.collaborative, PrecomputedConfig):
            return embedding_fingerprint(self.recipe.collaborative)
        return embedding_fingerprint(self.recipe.embedding) if stage == "embed" else {}

    # what the stages read, loaded once

    @cached_property
    def dataset(self) -> Dataset:
        return Dataset.load(self.done["data"].path)

    @cached_property
    def split(self) -> LeaveOneOut:
        return split_of(self.dataset, self.recipe.holdout, self.recipe.split)

    @cached_property
    def warm(self) -> NDArray[np.bool_]:
        return self.split.warm_items(len(self.dataset.items))

    @cached_property
    def embeddings(self) -> NDArray[np.float32]:
        return load_embeddings(self.done["embed"].path, normalized=True)[1]

    @cached_property
    def ids(self) -> SemanticIds:
        return SemanticIds.load(self.done["tokenize"].path)

    def _tokenizer(self, inputs: Mapping[str, str], fresh: bool = False) -> TokenizeStage:
        text = open_embeddings(self.done["embed"].path, normalized=True)
        material = Material(self.tokenizing, text, self.split, self.dataset.item_ids)
        return TokenizeStage(material, self.root, inputs, self.recipe.evaluation.exclude_seen, self.console, fresh, self.tracking)

    # the stages

    def _data(self, folder: Path) -> None:
        dataset = self.given if self.given is not None else load_dataset(self.recipe.dataset, self.recipe.filter)
        dataset.save(folder)
        counts = dataset.statistics()
        self._say(f"{counts['num_users']:,} users, {counts['num_items']:,} items, {counts['num_interactions']:,} interactions")
        self._say(f"order: {dataset.order_rule}", *dataset.notes)

    def _embed(self, folder: Path) -> None:
        texts = [""] * len(self.dataset.items)
        if not isinstance(self.recipe.embedding, PrecomputedConfig):
            columns = {name: self.dataset.items[name].to_list() for name in self.dataset.items.columns if name != "item_id"}
            texts, notes = item_texts(columns, self.recipe.text)
            self._say(*notes)
        with progress_bar(self.console, "embedding", total=len(texts), unit="items") as bar:
            items = ItemTexts(self.dataset.item_ids, texts, self.tokenizing.learnable(self.warm))
            raw = embed(self.recipe.embedding, items, lambda done, total: bar.reach(done))
        save_embeddings(folder, self.dataset.item_ids, raw)

    def _tokenize(self, folder: Path) -> None:
        ids, statistics = self.tokenizer.identify(folder), folder / "statistics.json"
        distinct = read_json(statistics)["num_unique"]
        self._say(f"{ids.num_items:,} items, {distinct:,} distinct codes before collisions were resolved, sizes {ids.sizes}")

    def _train(self, folder: Path) -> None:
        recipe, counts = self.recipe, self.split.item_counts(len(self.warm))
        catalogue = Catalogue(self.embeddings, self.warm, self.ids, counts)
        training = recipe.model, recipe.training, recipe.seed, recipe.evaluation.exclude_seen
        Fitting(*training, catalogue, self.split, self.console, self.dataset.item_ids, self.tracking).fit(folder)

    def _evaluate(self, folder: Path) -> None:
        checkpoint = self.checkpoint or best_checkpoint(self.done["train"].path)
        report = judge(
            Recommender.load(self.root, search=self.recipe.search, checkpoint=checkpoint),
            self.split,
            self.dataset,
            self.recipe.evaluation,
            system=self.recipe.model.kind,
            transductive=self.recipe.cold.quantizer_fit == "all",
            console=self.console,
        )
        report.metrics["policy"] |= {} if self.checkpoint is None else {"checkpoint": f"{checkpoint}, asked for by name"}
        on_main(lambda: report.save(folder))
        track(report, self.tracking, f"{self.recipe.model.kind}-evaluation", self.done["train"].path.name, checkpoint)

    def _say(self, *lines: str) -> None:
        for line in lines:
            self.console.print(f"  {line}", soft_wrap=True)
