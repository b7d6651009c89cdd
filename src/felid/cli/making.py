"""Commands that make something in a run folder, a stage each."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
import yaml
from rich.table import Table
from rich.text import Text

from felid.artifacts import open_artifact, read_run
from felid.cli.shared import (
    STAGE,
    Checkpoint,
    Fresh,
    FromRecipe,
    Overrides,
    RecipeArgument,
    RunArgument,
    StageGroup,
    app,
    console,
)
from felid.config import as_tree, load_tree
from felid.distributed import on_main
from felid.errors import RecipeError, RequestError

if TYPE_CHECKING:  # the commands import what they need: `felid --help` must not wait for torch
    from felid.pipeline import Pipeline, Stage


@app.command()
def run(
    recipe: RecipeArgument,
    overrides: Overrides = None,
    out: Annotated[Path | None, typer.Option(help="Run folder; default: runs/<recipe>.")] = None,
    fresh: Fresh = False,
) -> None:
    """Run all stages of a recipe and print its metrics; what is unchanged is not done again."""
    from felid.pipeline import STAGES, Pipeline
    from felid.recipe import load_recipe

    root = out or Path("runs") / Path(recipe).stem
    Pipeline(load_recipe(recipe, overrides or []), root, console=console).run(fresh=STAGES if fresh else ())
    console.print(f"run folder: {root}", soft_wrap=True)


@app.command()
def recipes() -> None:
    """List the recipes that ship with felid."""
    from felid.recipe import load_recipe, names

    table = Table(box=None, show_header=False)
    for name in names():
        table.add_row(Text(name, "bold"), load_recipe(name).description)
    console.print(table)


@app.command()
def show(recipe: RecipeArgument, overrides: Overrides = None) -> None:
    """Print a recipe with every key resolved, as YAML."""
    from felid.recipe import load_recipe

    print(yaml.safe_dump(as_tree(load_recipe(recipe, overrides or [])), sort_keys=False, allow_unicode=True), end="")


data_app = typer.Typer(cls=StageGroup, no_args_is_help=True)
app.add_typer(data_app, name="data", help="The stage data of a run folder (felid data RUN), or a check of your own files.")


@data_app.command(name=STAGE, short_help="Read, check, filter and order the interactions and items: felid data RUN.")
def data(run: RunArgument, overrides: Overrides = None, recipe: FromRecipe = None, fresh: Fresh = False) -> None:
    """Read, check, filter and order the interactions and items: felid data RUN [KEY=VALUE]... (./check: a run of that name)."""
    _stage("data", run, overrides, recipe, fresh)


@app.command()
def embed(run: RunArgument, overrides: Overrides = None, recipe: FromRecipe = None, fresh: Fresh = False) -> None:
    """Turn item texts into vectors (and make what that needs)."""
    _stage("embed", run, overrides, recipe, fresh)


@app.command()
def tokenize(
    run: RunArgument,
    overrides: Overrides = None,
    recipe: FromRecipe = None,
    fresh: Fresh = False,
    report: Annotated[bool, typer.Option("--report", help="Print the health of the IDs, write RUN/tokenizer.html.")] = False,
    category: Annotated[
        str | None, typer.Option(help="Column to compare prefixes with; default: one of categories.", metavar="COLUMN")
    ] = None,
    no_stability: Annotated[bool, typer.Option("--no-stability", help="Do not fit once more with another seed.")] = False,
    ids: Annotated[Path | None, typer.Option(help="Report on these IDs instead (JSON: item_id to codes).")] = None,
) -> None:
    """Turn vectors into unique semantic IDs (and make what that needs), or report on how healthy IDs are."""
    if not report and ids is None and (category is not None or no_stability):
        raise RequestError("--category and --no-stability belong to --report; add it")
    if ids is not None and (overrides or recipe is not None or fresh):
        raise RequestError("--ids reports on a file and makes nothing; leave out --recipe, --fresh and KEY=VALUE")
    if ids is None:
        _stage("tokenize", run, overrides, recipe, fresh)
    if report or ids is not None:
        from felid.report.tokenizer import report_tokenizer

        on_main(lambda: report_tokenizer(run, console, category=category, with_stability=not no_stability, file=ids))


@app.command()
def codebooks(run: RunArgument, overrides: Overrides = None, recipe: FromRecipe = None) -> None:
    """Make the codebooks that an RQ-VAE starts from, as an artifact of their own."""
    import numpy as np

    folder = _pipeline(run, overrides, recipe).make_start()
    for level, codebook in enumerate(np.load(path) for path in sorted(folder.glob("codebook_*.npy"))):
        (size, width), norms = codebook.shape, np.linalg.norm(codebook, axis=1)
        console.print(f"level {level}: {size} codes of width {width}, norms {norms.min():.3g} to {norms.max():.3g}")
    console.print(f"start codebooks: {folder}", soft_wrap=True)


@app.command()
def train(run: RunArgument, overrides: Overrides = None, recipe: FromRecipe = None, fresh: Fresh = False) -> None:
    """Train the model, from its last checkpoint on (and make what that needs)."""
    _stage("train", run, overrides, recipe, fresh)


@app.command()
def evaluate(
    run: RunArgument,
    overrides: Overrides = None,
    recipe: FromRecipe = None,
    fresh: Fresh = False,
    checkpoint: Checkpoint = None,
    recommendations: Annotated[
        Path | None, typer.Option(help="Judge these lists of another system: user_id, item_id and rank or score.", metavar="FILE")
    ] = None,
    name: Annotated[str | None, typer.Option(help="What tables call that system; default: the name of the file.")] = None,
) -> None:
    """Evaluate on validation and test beside the baselines (and make what that needs), or judge the lists of another system."""
    if recommendations is None and name is not None:
        raise RequestError("--name is that of the system of --recommendations; add it")
    if recommendations is None:
        _stage("evaluate", run, overrides, recipe, fresh, checkpoint)
        return
    if fresh or checkpoint is not None:
        raise RequestError("--recommendations judges a file, not a model; leave out --fresh and --checkpoint")
    _evaluate_lists(_pipeline(run, overrides, recipe), recommendations, name)


def _evaluate_lists(pipeline: Pipeline, file: Path, name: str | None) -> None:
    """Of the run the data alone is needed."""
    from felid.artifacts import read_json
    from felid.evaluation import print_metrics
    from felid.evaluation.external import judge_lists

    pipeline.run("data")
    judged = (pipeline.root, file, name, pipeline.dataset, pipeline.split, pipeline.recipe.evaluation)
    folder = on_main(lambda: judge_lists(*judged))
    print_metrics(read_json(folder / "metrics.json"), console)
    console.print(f"evaluation of {file}: {folder}", soft_wrap=True)


def _stage(stage: Stage, root: Path, overrides: Overrides, recipe: FromRecipe, fresh: bool, named: Checkpoint = None) -> None:
    _pipeline(root, overrides, recipe, named).run(stage, fresh=(stage,) if fresh else ())


def _pipeline(root: Path, overrides: list[str] | None, recipe: str | None, checkpoint: str | None = None) -> Pipeline:
    from felid.data.dataset import Dataset
    from felid.pipeline import Pipeline
    from felid.recipe import load_recipe, resolve

    dataset, notes = None, read_run(root)
    if recipe is not None:
        resolved = load_recipe(recipe, overrides or [])
    elif (root / "recipe.json").is_file():
        resolved = resolve(load_tree(root / "recipe.json"), overrides or [])
        if notes.get("given"):  # by felid.fit: the recipe does not know where the data came from, the run folder has them
            if any(override.startswith(("dataset.", "filter.")) for override in overrides or []):
                raise RecipeError(f"the data in {root} were given by felid.fit; dataset and filter have no effect there")
            dataset = Dataset.load(open_artifact(root / notes["given"]).path)
    else:
        raise RecipeError(f"{root} is no run folder yet (no recipe.json); add --recipe RECIPE to begin one")
    return Pipeline(resolved, root, dataset=dataset, console=console, checkpoint=checkpoint)
