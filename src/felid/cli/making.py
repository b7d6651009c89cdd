"""Commands that make something in a run folder, a stage each."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
import yaml
from rich.table import Table
from rich.text import Text

from felid.artifacts import open_artifact, read_run
from felid.cli.shared import Checkpoint, Fresh, FromRecipe, Overrides, RecipeArgument, RunArgument, app, console
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


@app.command()
def data(run: RunArgument, overrides: Overrides = None, recipe: FromRecipe = None, fresh: Fresh = False) -> None:
    """Read, check, filter and order the interactions and items."""
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
    run: RunArgument, overrides: Overrides = None, recipe: FromRecipe = None, fresh: Fresh = False, checkpoint: Checkpoint = None
) -> None:
    """Evaluate on validation and test beside the baselines (and make what that needs)."""
    _stage("evaluate", run, overrides, recipe, fresh, checkpoint)


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
