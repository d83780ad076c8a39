"""A progress bar on the terminal's error stream, so that piped output stays clean."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

__all__ = ["Bar"]


class Bar:
    """The progress of one download, in bytes.

    Args:
        title: The name of the file.
        total: Its size in bytes.
        quiet: Show nothing.
    """

    def __init__(self, title: str, total: int, *, quiet: bool = False) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )

        self._progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            TextColumn("[dim]{task.fields[note]}"),
            console=Console(stderr=True),
            disable=quiet,
        )
        self._task = self._progress.add_task(title, total=total, note="")

    def at(self, done: int) -> None:
        """Show that ``done`` bytes are complete."""
        self._progress.update(self._task, completed=done)

    def note(self, text: str) -> None:
        """Show what happens now."""
        self._progress.update(self._task, note=text)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Hide the bar while something else writes to the terminal."""
        self._progress.stop()
        try:
            yield
        finally:
            self._progress.start()

    def __enter__(self) -> Bar:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()
