"""What all commands share: the application, arguments, and errors as one line."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from felid.distributed import begin, main_stderr, who_speaks
from felid.errors import FelidError
from felid.progress import plain_console

app = typer.Typer(
    help="Generative retrieval recommenders: from interactions to recommendations.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
console = plain_console()

INTERRUPTED = 130
TOGETHER = {"run", "data", "embed", "tokenize", "train", "evaluate"}
"""Commands that the processes of torchrun run together; any other is left to the main one."""
ALONE = ["data", "check"]
"""Beside a stage that they make together there is a command that they do not."""
GOES_ON = "interrupted; the same command without --fresh goes on from the last checkpoint"

RecipeArgument = Annotated[str, typer.Argument(help="A name from `felid recipes`, or a YAML or JSON file.", metavar="RECIPE")]
Overrides = Annotated[list[str] | None, typer.Argument(help="Changes, such as training.epochs=5.", metavar="[KEY=VALUE]...")]
Fresh = Annotated[bool, typer.Option("--fresh", help="Throw away earlier results and start over.")]
RunArgument = Annotated[Path, typer.Argument(help="A run folder.", metavar="RUN")]
LayoutOption = Annotated[str, typer.Option(help="re-tiger, sasrec-rqvae-tiger, liger, semantic-id-encoder or rqkmeans-tiger.")]
Checkpoint = Annotated[str | None, typer.Option(help="Evaluate this one, such as checkpoint-600, not the best.", metavar="NAME")]
FromRecipe = Annotated[str | None, typer.Option("--recipe", help="Begin the run folder with this recipe.", metavar="RECIPE")]


STAGE = "RUN"
"""How the stage is called among the commands of its group."""


class StageGroup(TyperGroup):
    """A stage command that has others beside it: what does not begin with the name of one of these is for the stage."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        others = {*self.commands, "--help"} - {STAGE}
        return super().parse_args(ctx, args if not args or args[0] in others else [STAGE, *args])


def main() -> None:
    """Entry point: what a user can mend becomes one line and exit code 2."""
    warnings.showwarning = lambda message, *_, **__: print("warning:", *str(message).split(), file=main_stderr())
    try:
        begin(together=sys.argv[1:3] != ALONE and bool(TOGETHER & {*sys.argv[1:2]}) and "--help" not in sys.argv)
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
