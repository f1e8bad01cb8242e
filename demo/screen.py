"""What the demo writes: steps, facts, tables, and training while it goes on; a bar on a terminal, lines elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

LINE_EVERY = 5
"""Epochs from one line to the next where there is no terminal."""


class Bar(Protocol):
    """Shows how far the training is."""

    def __call__(self, attempt: int, epoch: int, figures: str) -> None:
        """Show an epoch that has ended."""
        ...


class Screen:
    """Standard output."""

    def __init__(self, console: Console | None = None) -> None:
        """Take the console; a pipe gets lines that are never cut."""
        self._console = console or Console(highlight=False, markup=False, emoji=False, soft_wrap=True)

    def step(self, number: int, title: str) -> None:
        """Begin a step."""
        self._console.print()
        self._console.print(Text(f"{number}. {title}", style="bold"))

    def say(self, text: str) -> None:
        """Write a line of a step."""
        self._console.print(Text(f"   {text}".rstrip()))

    def held(self, text: str) -> None:
        """Write what was checked and is so."""
        self._console.print(Text.assemble("   ", ("ok", "green"), f" {text}"))

    def broken(self, text: str) -> None:
        """Write what is not as it must be."""
        self._console.print(Text(text, style="bold red"))

    def quote(self, text: str) -> None:
        """Write what somebody else said, indented."""
        for line in text.rstrip("\n").splitlines():
            self._console.print(Text(f"   | {line}", style="cyan"))

    def table(self, titles: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[int] = ()) -> None:
        """Write a table, never cut; columns of the numbers in `right` stand to the right, no titles give no heading."""
        lines = [titles, *rows] if any(titles) else rows
        widths = [max(len(line[nth]) for line in lines) for nth in range(len(titles))]
        for nth, line in enumerate(lines):
            cells = [
                cell.rjust(width) if column in right else cell.ljust(width)
                for column, (cell, width) in enumerate(zip(line, widths, strict=True))
            ]
            style = "bold" if nth == 0 and lines is not rows else ""
            self._console.print(Text(f"     {'   '.join(cells)}".rstrip(), style=style))

    @contextmanager
    def training(self, epochs: int) -> Iterator[Bar]:
        """Show a training of so many epochs while it goes on."""
        if self._console.is_terminal:
            columns = (TextColumn("   attempt {task.fields[attempt]}"), BarColumn(), TextColumn("{task.fields[told]}"),
                       TimeElapsedColumn())  # fmt: skip
            with Progress(*columns, console=self._console) as progress:
                task = progress.add_task("", total=epochs, attempt=1, told="waits for its first epoch")

                def move(attempt: int, epoch: int, figures: str) -> None:
                    told = f"epoch {epoch}/{epochs}  {figures}"
                    progress.update(task, completed=epoch, attempt=attempt, told=told)

                yield move
        else:
            attempts: set[int] = set()

            def write(attempt: int, epoch: int, figures: str) -> None:
                if attempt not in attempts or epoch % LINE_EVERY == 0 or epoch == epochs:
                    attempts.add(attempt)
                    self.say(f"attempt {attempt}  epoch {epoch}/{epochs}  {figures}")

            yield write
