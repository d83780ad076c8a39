"""What a person sees while a bench runs: a bar for every arm, on the error stream."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["Bars", "Watcher"]


class Watcher:
    """Told what happens; this one says nothing."""

    def arms(self, known: Mapping[str, Sequence[bool | None]]) -> None:
        """These arms begin; for each item whether it is right already, ``None``: not done."""

    def doing(self, what: str) -> None:
        """This begins now."""

    def answered(self, arm: str, *, right: bool) -> None:
        """An arm has answered an item."""

    def failed(self, arm: str, why: str) -> None:
        """An arm has failed at an item."""

    def say(self, text: str) -> None:
        """Something was noticed."""


class Bars(Watcher):
    """A rich progress bar for every arm, with its right answers so far."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self._tasks: dict[str, Any] = {}
        self._right: dict[str, list[int]] = {}
        self._now = self._progress.add_task("", total=None, note="")

    def __enter__(self) -> Bars:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.update(self._now, visible=False)
        self._progress.stop()

    def arms(self, known: Mapping[str, Sequence[bool | None]]) -> None:
        for name, items in known.items():
            done = [right for right in items if right is not None]
            self._right[name] = [sum(done), len(done), 0]
            self._tasks[name] = self._progress.add_task(
                name, total=len(items), completed=len(done), note=self._note(name)
            )

    def doing(self, what: str) -> None:
        self._progress.update(self._now, description=what)

    def answered(self, arm: str, *, right: bool) -> None:
        self._right[arm][0] += right
        self._right[arm][1] += 1
        self._progress.update(self._tasks[arm], advance=1, note=self._note(arm))

    def failed(self, arm: str, why: str) -> None:
        self._right[arm][2] += 1
        self._progress.update(self._tasks[arm], note=self._note(arm))
        self.say(f"{arm}: {why}")

    def say(self, text: str) -> None:
        self._progress.console.print(text, style="yellow", markup=False, highlight=False)

    def _note(self, arm: str) -> str:
        right, done, failed = self._right[arm]
        return f"{right}/{done} right" + (f", {failed} failed" if failed else "")
