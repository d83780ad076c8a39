"""What a user sees while a bench runs: a progress bar for every arm, on the error stream."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from glimp_integrations.counting_bars import counting_bars

__all__ = ["Bars", "ProgressObserver"]


class ProgressObserver:
    """Is called while a bench runs. This one shows nothing; subclasses override what they need."""

    def arms(self, grades: Mapping[str, Sequence[bool | None]]) -> None:
        """Some arms begin.

        Args:
            grades: For every arm and item whether its stored answer is right; ``None``: it has
                none yet.
        """

    def doing(self, activity: str) -> None:
        """An activity begins; it is described in a few words."""

    def answered(self, arm: str, *, right: bool) -> None:
        """An arm has answered an item."""

    def failed(self, arm: str, reason: str) -> None:
        """An arm could not answer an item."""

    def say(self, text: str) -> None:
        """The user should know this; one sentence."""


class Bars(ProgressObserver):
    """A rich progress bar for every arm, with its right answers so far."""

    def __init__(self) -> None:
        self._progress = counting_bars()
        self._tasks: dict[str, Any] = {}
        self._right: dict[str, list[int]] = {}
        self._now = self._progress.add_task("", total=None, note="")

    def __enter__(self) -> Bars:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.update(self._now, visible=False)
        self._progress.stop()

    def arms(self, grades: Mapping[str, Sequence[bool | None]]) -> None:
        for name, items in grades.items():
            done = [right for right in items if right is not None]
            self._right[name] = [sum(done), len(done), 0]
            self._tasks[name] = self._progress.add_task(
                name, total=len(items), completed=len(done), note=self._note(name)
            )

    def doing(self, activity: str) -> None:
        self._progress.update(self._now, description=activity)

    def answered(self, arm: str, *, right: bool) -> None:
        self._right[arm][0] += right
        self._right[arm][1] += 1
        self._progress.update(self._tasks[arm], advance=1, note=self._note(arm))

    def failed(self, arm: str, reason: str) -> None:
        self._right[arm][2] += 1
        self._progress.update(self._tasks[arm], note=self._note(arm))
        self.say(f"{arm}: {reason}")

    def say(self, text: str) -> None:
        self._progress.console.print(text, style="yellow", markup=False, highlight=False)

    def _note(self, arm: str) -> str:
        right, done, failed = self._right[arm]
        return f"{right}/{done} right" + (f", {failed} failed" if failed else "")
