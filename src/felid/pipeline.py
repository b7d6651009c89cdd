"""The stages in order: data, embed, tokenize, train, evaluate. Each reads artifacts and writes one.

Several processes of torchrun train and evaluate together; what comes before, the main one makes while the others wait.

A stage is skipped when its settings and the content of what it reads are unchanged, so changing only the model does not
embed again, and a second run of an unchanged recipe does nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import cached_property, partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from felid import artifacts
from felid.artifacts import FITTED_ON, Artifact, read_json, write_json
from felid.config import as_tree
from felid.data.dataset import Dataset
from felid.data.histories import LeaveOneOut
from felid.data.holdout import split_of
from felid.data.sources import load_dataset
from felid.distributed import on_main
from felid.embedding import ItemTexts, embed, item_texts, load_embeddings, open_embeddings, save_embeddings
from felid.embedding.lsa import LsaConfig
from felid.embedding.precomputed import PrecomputedConfig
from felid.errors import RecipeError
from felid.evaluation import print_metrics
from felid.evaluation.audit import audit_run
from felid.evaluation.protocol import candidates_of, check_request
from felid.fitting import Fitting
from felid.judging import check_beams, check_candidates, judge, track
from felid.keys import STAGES, Stage, StageKeys
from felid.models import ModelConfig
from felid.models.base import Catalogue
from felid.models.sasrec import SASRecConfig
from felid.progress import plain_console, progress_bar, stage_line
from felid.quantize import NoCollisionConfig
from felid.recipe import Recipe, load_recipe
from felid.recommender import Recommender, best_checkpoint
from felid.search.config import SearchConfig, check_cold_share
from felid.semantic_ids import SemanticIds
from felid.standing import SASRecTraining, Standing, ranks_plainly
from felid.tokenizing import Material, TokenizeSettings, TokenizeStage
from felid.tracking import Tracking
from felid.training import TrainingConfig

__all__ = ["STAGES", "TOGETHER", "Pipeline", "Stage"]
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
        self.keys = StageKeys(recipe, dataset, checkpoint)
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
                    candidates = candidates_of(self.recipe.evaluation, self.split, len(self.dataset.items))
                    check_request(self.recipe.evaluation.ks, len(self.split.evaluated), int(candidates.sum()))
                    check_beams(self.recipe.model.modes, self.recipe.search, self.recipe.evaluation)
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
        check_candidates(self.recipe.model.modes, self.recipe.search, self.recipe.evaluation)
        check_cold_share(self._judged_search, ids=True, shared=isinstance(self.recipe.collision, NoCollisionConfig))

    @property
    def _judged_search(self) -> SearchConfig:
        """That of the recipe; without cold items where they are no candidates."""
        warm = self.recipe.evaluation.candidates == "warm"
        return self.recipe.search.model_copy(update={"cold_share": 0.0} if warm else {})

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
            start = self._tokenizer(self.keys.inputs("tokenize", self.done)).start
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
            inputs = self.keys.inputs(stage, self.done)
            if stage == "tokenize":
                self.tokenizer = self._tokenizer(inputs, fresh)
                inputs |= {"codes": self.tokenizer.codes.digest, **self.tokenizer.made_by}
            if stage == "evaluate":
                self.standing = self._standing(fresh)
                inputs |= self.standing.made_by
            return artifacts.build(self.root, stage, self.keys.settings(stage), inputs, work[stage], fresh=fresh)

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

    def _standing(self, fresh: bool) -> Standing:
        """The baselines; a SASRec for them is trained where this is the first to ask for it."""
        recipe, tuned = self.recipe, load_recipe("sasrec")
        assert isinstance(tuned.model, SASRecConfig)
        own = self.done["train"].path if (recipe.model, recipe.training) == (tuned.model, tuned.training) else None
        settings = SASRecTraining(
            model=tuned.model, training=tuned.training, seed=recipe.seed, exclude_seen=recipe.evaluation.exclude_seen
        )
        inputs = self.keys.inputs("train", {"data": self.done["data"]})
        fitting, cold = partial(self._fitting, tuned.model, tuned.training), not self.warm.all()
        return Standing(recipe.evaluation.baselines, settings, fitting, self.root, inputs, own, cold, self.console, fresh)

    def _fitting(self, model: ModelConfig, training: TrainingConfig, ids: SemanticIds | None = None) -> Fitting:
        recipe = self.recipe
        catalogue = Catalogue(self.embeddings, self.warm, ids, self.split.item_counts(len(self.warm)))
        exclude_seen, item_ids = recipe.evaluation.exclude_seen, self.dataset.item_ids
        return Fitting(model, training, recipe.seed, exclude_seen, catalogue, self.split, self.console, item_ids, self.tracking)

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
        if isinstance(self.recipe.embedding, LsaConfig):
            np.save(folder / FITTED_ON, np.flatnonzero(items.fit_rows))

    def _tokenize(self, folder: Path) -> None:
        ids, statistics = self.tokenizer.identify(folder), folder / "statistics.json"
        distinct = read_json(statistics)["num_unique"]
        self._say(f"{ids.num_items:,} items, {distinct:,} distinct codes before collisions were resolved, sizes {ids.sizes}")

    def _train(self, folder: Path) -> None:
        self._fitting(self.recipe.model, self.recipe.training, self.ids).fit(folder)

    def _evaluate(self, folder: Path) -> None:
        checkpoint = self.checkpoint or best_checkpoint(self.done["train"].path)
        plain = self.checkpoint is None and ranks_plainly(self.recipe.search)
        recommender = Recommender.load(self.root, search=self._judged_search, checkpoint=checkpoint)
        transductive = self.recipe.cold.quantizer_fit == "all"
        made = self.root, recommender, self.split, self.dataset, checkpoint
        checks = on_main(lambda: audit_run(*made, transductive=transductive))
        report = judge(
            recommender,
            self.split,
            self.dataset,
            self.recipe.evaluation,
            system=self.recipe.model.kind,
            transductive=transductive,
            console=self.console,
            baselines=self.standing.rankers(shown=self.standing.own is not None and plain),
        )
        report.metrics["checks"] = checks
        report.metrics["policy"] |= {} if self.checkpoint is None else {"checkpoint": f"{checkpoint}, asked for by name"}
        on_main(lambda: report.save(folder))
        track(report, self.tracking, f"{self.recipe.model.kind}-evaluation", self.done["train"].path.name, checkpoint)

    def _say(self, *lines: str) -> None:
        for line in lines:
            self.console.print(f"  {line}", soft_wrap=True)
