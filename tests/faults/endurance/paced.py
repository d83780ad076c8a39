"""The servers' process of conversations through ``glimp serve``: alike, and at an even pace.

As :mod:`.serving`, but all texts are of one length, with the same authors, and a token comes every
so many seconds: what two conversations take is the same then, unless one of them was held up.
Faults hit only streams of conversations.
"""

from __future__ import annotations

import argparse
import asyncio
from typing import Any

from ..replies import Model, Refused
from ..server import STREAMED, Exchange, Fault, event_bytes
from ..texts import RightText
from .serving import FaultyServer, serve
from .talks import alike

__all__ = ["PacedServer"]


class PacedServer(FaultyServer):
    """Writes a token every so often.

    Args:
        pace: Seconds for a token.
        role: ``"small"`` or ``"large"``.
        seed: Decides the texts and the faults.
        share: Share of the streams that get a fault.
        only: What the names of the faults' kinds have to contain; several with commas.
        elsewhere: Address that redirects point to.
    """

    def __init__(self, pace: float, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._healthy = Fault("paced", self._paced, "stream")
        self._pace = pace

    def text_of(self, number: int) -> RightText:
        return alike(self.seed, number)

    def meet(self, path: str, body: dict[str, Any]) -> tuple[Model, Fault | None]:
        model, fault = super().meet(path, body)
        return model, self._healthy if fault is None and path in STREAMED else fault

    def _fault(self, path: str, number: int | None) -> Fault | None:
        return None if number is None else super()._fault(path, number)

    async def _paced(self, exchange: Exchange, _: Fault) -> None:
        """The healthy stream, each event when it is due."""
        events = exchange.events()
        try:
            event = next(events, None)
        except Refused as refusal:
            return await exchange.refuse(refusal)
        await exchange.begin()
        loop = asyncio.get_running_loop()
        due = loop.time()
        while event is not None:
            due += self._pace
            await asyncio.sleep(due - loop.time())
            await exchange.chunk(event_bytes(event))
            event = next(events, None)
        return await exchange.end(b"data: [DONE]\n\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("seed", type=int)
    parser.add_argument("share", type=float)
    parser.add_argument("only")
    parser.add_argument("pace", type=float)
    options = parser.parse_args()

    def paced(role: str, elsewhere: str) -> FaultyServer:
        given = (options.seed, options.share, options.only, elsewhere)
        return PacedServer(options.pace, role, *given)

    asyncio.run(serve(paced))
