"""The client's end of the servers' process."""

from __future__ import annotations

from typing import Any

from .pipes import Piped

__all__ = ["Servers"]

_FAULTY = "tests.faults.endurance.serving"
_PACED = "tests.faults.endurance.paced"


class Servers(Piped):
    """Both servers in a process of their own, so that the client's memory is measured alone.

    Args:
        seed: Decides texts and faults.
        share: Share of the requests that get a fault.
        only: What the names of the faults' kinds have to contain; several with commas.
        pace: Seconds for a token, of texts that are alike; ``None``: any texts, without a pause.
    """

    urls: dict[str, str]

    def __init__(self, seed: int, share: float, only: str = "", pace: float | None = None) -> None:
        given = (str(seed), str(share), only)
        if pace is None:
            super().__init__(_FAULTY, *given)
        else:
            super().__init__(_PACED, *given, str(pace))

    def begun(self) -> None:
        self.urls = self.wait_for("urls")

    def state(self) -> dict[str, Any]:
        """How they are, as soon as no reply is being written any more, or after five seconds."""
        return self.ask("state")
