"""The `felid` command: recipes in, run folders and recommendations out."""

from __future__ import annotations

import csv
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NoReturn

import typer
import yaml
from rich.table import Table
from rich.text import Text

from felid.artifacts import open_artifact, read_run
from felid.config import as_tree, load_tree
from felid.distributed import begin, main_stderr, on_main, who_speaks
from felid.errors import FelidError, RecipeError, RequestError
from felid.progress import plain_console

if TYPE_CHECKING:  # the commands import what they need: `felid --help` must not wait for torch
    import numpy as np
    from numpy.typing import NDArray

    from felid.pipeline import Pipeline, Stage
    from felid.recommender import ItemId, Recommendation, Recommender

app = typer.Typer(
    help="Generative retrieval recommenders: from interactions to recommendations.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
console = plain_console()

INTERRUPTED = 130
TOGETHER = {"run", "data", "embed", "tokenize", "train", "evaluate"}
"""Commands that the processes of torchrun run together; any other is left to the main one."""
GOES_ON = "interrupted; the same command without --fresh goes on from the last checkpoint"

RecipeArgument = Annotated[str, typer.Argument(help="A name from `felid recipes`, or a YAML or JSON file.", metavar="RECIPE")]
Overrides = Annotated[list[str] | None, typer.Argument(help="Changes, such as training.epochs=5.", metavar="[KEY=VALUE]...")]
Fresh = Annotated[bool, typer.Option("--fresh", help="Throw away earlier results and start over.")]
RunArgument = Annotated[Path, typer.Argument(help="A run folder.", metavar="RUN")]
LayoutOption = Annotated[str, typer.Option(help="re-tiger, sasrec-rqvae-tiger, liger, semantic-id-encoder or rqkmeans-tiger.")]
Checkpoint = Annotated[str | None, typer.Option(help="Evaluate this one, such as checkpoint-600, not the best.", metavar="NAME")]
FromRecipe = Annotated[str | None, typer.Option("--recipe", help="Begin the run folder with this recipe.", metavar="RECIPE")]


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


@app.command()
def recommend(
    run: RunArgument,
    history: Annotated[
        str | None, typer.Option(help='Item ids, oldest first, as a CSV line: 7,"a,b".', metavar="ID,ID,...")
    ] = None,
    user: Annotated[str | None, typer.Option(help="A user of the data.", metavar="ID")] = None,
    all_users: Annotated[bool, typer.Option("--all-users", help="Every user of the data; needs --out.")] = False,
    k: Annotated[int, typer.Option("-k", help="How many items.")] = 10,
    keep_seen: Annotated[bool, typer.Option("--keep-seen", help="Items of the history may come again.")] = False,
    mode: Annotated[
        Literal["generative", "dense", "fused", "hybrid"] | None,
        typer.Option(
            help="Rank by codes, by inner product, by both and counted transitions, or hybrid; default: that of the run."
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Parquet file for --all-users.")] = None,
) -> None:
    """Recommend the next items for a history, a user or all users."""
    if (history is not None) + (user is not None) + all_users != 1:
        raise RequestError("give exactly one of --history, --user and --all-users")
    if all_users == (out is None):
        raise RequestError("--all-users and --out FILE.parquet go together")
    from felid.recommender import Recommender

    recommender = Recommender.load(run)
    if mode is not None:
        recommender = recommender.in_mode(mode)
    if out is not None:
        from felid.batch import recommend_all

        recommend_all(recommender, k, not keep_seen, out, console)
        return
    items: list[ItemId]
    users: list[ItemId] | None = None
    if user is not None:
        users = [_as_id(user, recommender.known.user_ids)]
        items = recommender.history_of(users[0])
    else:
        items = [_as_id(item, recommender.ids.item_ids) for item in _split(history or "")]
    _print_recommendations(recommender, items, recommender.recommend([items], k, not keep_seen, users)[0])


@app.command()
def export(
    run: RunArgument,
    layout: LayoutOption,
    out: Annotated[Path, typer.Option(help="Folder for the files; replaces an earlier export, refuses other files.")],
    compare: Annotated[
        list[Path] | None, typer.Option(help="Another run whose metrics stand in comparison.md; may be repeated.", metavar="RUN")
    ] = None,
) -> None:
    """Write the files of another system, under their names, from a run (`docs/systems/` describes them)."""
    from felid.layouts import export_run

    export_run(run, layout, out, compare or [])
    console.print(f"layout {layout}: {out}", soft_wrap=True)


@app.command(name="import")
def import_files(
    folder: Annotated[Path, typer.Argument(help="A folder in that layout.", metavar="FOLDER")],
    layout: LayoutOption,
    out: Annotated[Path, typer.Option(help="Folder for tables, vectors, IDs and a recipe that reads them.")],
) -> None:
    """Read the files of another system, or an export, into felid's own forms."""
    from felid.layouts import import_layout

    found = import_layout(folder, layout, out)
    console.print(
        f"{len(found.item_ids):,} items with vectors of width {found.vectors.shape[1]} and IDs in {out}", soft_wrap=True
    )
    if found.dataset is not None:
        console.print(f"felid run {out / 'recipe.yaml'} --out RUN begins from their data and vectors", soft_wrap=True)


def main() -> None:
    """Entry point: what a user can mend becomes one line and exit code 2."""
    warnings.showwarning = lambda message, *_, **__: print("warning:", *str(message).split(), file=main_stderr())
    try:
        begin(together=bool(TOGETHER & {*sys.argv[1:2]}) and "--help" not in sys.argv)
        app()
    except FelidError as error:
        _stop(f"error: {error}", 2)
    except OSError as error:
        _stop(f"error: {error.filename or 'a file'}: {error.strerror or error}; give another path or mend this one", 2)
    except SystemExit as stopped:
        if stopped.code == INTERRUPTED:
            _stop(GOES_ON, INTERRUPTED)
        raise
    except KeyboardInterrupt:
        _stop(GOES_ON, INTERRUPTED)


def _stop(line: str, status: int) -> NoReturn:
    print(who_speaks() + " ".join(line.split()), file=sys.stderr)
    sys.exit(status)


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


def _split(line: str) -> list[str]:
    """The fields of a CSV line; empty ones are skipped."""
    try:
        return [field for field in next(csv.reader([line], skipinitialspace=True), []) if field.strip()]
    except csv.Error as error:
        raise RequestError(
            f"--history {line!r} is no CSV line ({error}); separate ids by commas, quote an id that holds one"
        ) from error


def _as_id(text: str, known: NDArray[np.generic]) -> ItemId:
    """An id as the data has it: a number where the data's ids are numbers."""
    if known.dtype.kind != "i":
        return text.strip()
    try:
        return int(text)
    except ValueError as error:
        raise RequestError(f"id {text!r} is not a number, but the ids of this data are") from error


def _print_recommendations(recommender: Recommender, history: list[ItemId], found: list[Recommendation]) -> None:
    shown = "; ".join(f"{item} {recommender.title_of(item)}".strip() for item in history[-10:])
    console.print(f"the last {min(10, len(history))} of {len(history)} history items: {shown}")
    table = Table("rank", "item_id", "title", "semantic ID", "score")
    for rank, item in enumerate(found, 1):
        codes = "-".join(str(code) for code in item.semantic_id)
        table.add_row(str(rank), Text(str(item.item_id)), Text(item.title), codes, f"{item.score:.3f}")
    console.print(table)
