"""The client's end of a ``glimp serve`` that is a process of its own."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from .measures import Sample
from .pipes import Piped

__all__ = ["Served"]

_MODULE = "tests.faults.endurance.serve_process"


class Served(Piped):
    """A running ``glimp serve``.

    Args:
        urls: Addresses of the two models.
        shapes: Their servers' kinds.
        key: Their API key.
        timeout: Seconds to wait for a token.
        max_retries: Of the router.
        at_once: Conversations that run at a time.
        log: The file of the access log.

    Attributes:
        url: Where it answers.
    """

    url: str

    def __init__(
        self,
        *,
        urls: dict[str, str],
        shapes: dict[str, str],
        key: str,
        timeout: float,
        max_retries: int,
        at_once: int,
        log: Path,
    ) -> None:
        options = {
            "urls": urls,
            "shapes": shapes,
            "key": key,
            "timeout": timeout,
            "max_retries": max_retries,
            "at_once": at_once,
            "log": str(log),
        }
        super().__init__(_MODULE, json.dumps(options))

    def begun(self) -> None:
        self.url = self.wait_for("url")["url"]

    async def sample(self, seconds: float) -> Sample:
        """What the process holds; ``seconds``: since the conversations began."""
        fact = await asyncio.to_thread(self.ask, "sample")
        return Sample(
            **{name: fact[name] for name in Sample.__dataclass_fields__} | {"seconds": seconds}
        )

    async def rest(self) -> dict[str, Any]:
        """What it holds more than in the beginning, after some seconds: tasks, descriptors."""
        return await asyncio.to_thread(self.ask, "rest")

    def warnings(self) -> list[str]:
        """What it warned of since the last time."""
        return [fact["text"] for fact in self.told() if fact["what"] == "warning"]
