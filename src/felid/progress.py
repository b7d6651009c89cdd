"""Progress bars with rate and time left; silent when the output is no terminal."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from felid.distributed import is_main


def plain_console(*, quiet: bool = False) -> Console:
    """A console of the main process that prints text as it is: no markup, no emoji names, no guesses at what to colour."""
    return Console(quiet=quiet or not is_main(), markup=False, emoji=False, highlight=False)


class _Rate(ProgressColumn):
    def __init__(self, unit: str) -> None:
        super().__init__()
        self.unit = unit

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:,.0f} {self.unit}/s" if task.speed else "")


class Bar:
    """A progress bar; use as a context manager and call `advance`."""

    def __init__(self, console: Console, label: str, total: int, unit: str) -> None:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%"),
            _Rate(unit),
            TimeRemainingColumn(),
        )
        self._progress = Progress(
            *columns, console=console, disable=not console.is_terminal, transient=True, speed_estimate_period=60
        )
        self._task = self._progress.add_task(label, total=total)

    def advance(self, amount: int = 1) -> None:
        """Count `amount` more units as done."""
        self._progress.advance(self._task, amount)

    def reach(self, done: int, total: int | None = None) -> None:
        """Set how many units are done, and how many there are if that is known only now."""
        self._progress.update(self._task, completed=done, total=total)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self._progress.stop()


def progress_bar(console: Console, label: str, *, total: int, unit: str) -> Bar:
    """A bar over `total` units of work, shown only on a terminal."""
    return Bar(console, label, total, unit)


def stage_line(stage: str, seconds: float | None, folder: Path) -> Text:
    """What a stage of a run has done: how long it took (None = it was there already), and where its output lies."""
    return Text.assemble((stage, "bold"), f" {'unchanged' if seconds is None else f'{seconds:.1f} s'}  {folder}")
