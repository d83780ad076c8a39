"""What a user sees while a batch runs, on the error stream."""

from __future__ import annotations

from glimp_integrations.batch.totals import Totals
from glimp_integrations.counting_bars import counting_bars

__all__ = ["Bar", "BatchObserver"]


class BatchObserver:
    """Is called while a batch runs. This one shows nothing; subclasses override what they need."""

    def doing(self, activity: str) -> None:
        """An activity begins; it is described in a few words."""

    def progress(self, totals: Totals) -> None:
        """Results were stored."""

    def say(self, text: str) -> None:
        """The user should know this; one sentence."""


class Bar(BatchObserver):
    """A rich progress bar."""

    def __init__(self) -> None:
        self._progress = counting_bars()
        self._task = self._progress.add_task("", total=None, note="")

    def __enter__(self) -> Bar:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def doing(self, activity: str) -> None:
        self._progress.update(self._task, description=activity)

    def progress(self, totals: Totals) -> None:
        note = f"{totals.large_share:.0%} large" + (
            f", {totals.failed:,} failed" if totals.failed else ""
        )
        self._progress.update(
            self._task, total=totals.requests, completed=totals.done + totals.failed, note=note
        )

    def say(self, text: str) -> None:
        self._progress.console.print(text, style="yellow", markup=False, highlight=False)
