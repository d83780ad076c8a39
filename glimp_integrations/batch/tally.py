"""Counts what comes of requests, and says when to stop."""

from __future__ import annotations

from glimp_integrations.batch.totals import Result, Totals
from glimp_integrations.errors import ModelError

__all__ = ["Tally"]

FAILURES_IN_A_ROW = 16
"""After so many failures of the models, or twice as many as run at a time, a batch stops."""


class Tally:
    """Counts what comes of requests, and stops a batch whose models are gone.

    Args:
        totals: Sums.
        at_a_time: How many requests run at a time.
    """

    def __init__(self, totals: Totals, at_a_time: int) -> None:
        self.totals = totals
        self._most = max(FAILURES_IN_A_ROW, 2 * at_a_time)
        self._in_a_row = 0

    def add(self, line: bytes, status: int) -> None:
        """Count a result that is stored."""
        self.totals.add(Result.model_validate_json(line))
        if status == 200:
            self._in_a_row = 0
        elif status >= 500:  # what was wrong with a request says nothing about the models
            self._in_a_row += 1

    def stop_if_models_are_gone(self, message: str) -> None:
        """Stop after many failures without an answer between them.

        Raises:
            ModelError: There were many.
        """
        if self._in_a_row >= self._most:
            raise ModelError(
                f"stopped, as {self._in_a_row} requests in a row failed; the last: {message}. What "
                "was answered is kept. When the models are well again, the same command with "
                "--retry-failed goes on"
            )
