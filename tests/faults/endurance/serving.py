"""The servers' process: both models, and faults at random requests.

It writes a line of JSON for whatever the client has to know, before it happens. A line on its
standard input asks how the servers are; the input's end is its own.
"""

from __future__ import annotations

import argparse
import asyncio
import copy
import random
import sys
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from ..kinds import KINDS, Kind
from ..replies import SHAPES, Model
from ..server import STREAMED, Fault, Server
from ..texts import RightText
from .pipes import tell
from .talks import number_in, talk

__all__ = ["FaultyServer", "kinds_of", "serve", "shapes_of"]

_REST_SECONDS = 5.0
_BEAT = 0.1
_PAUSE = 0.5
_KNOWN = 4096  # conversations whose requests are counted
# Such a reply may cross the next request on its way. Nothing in HTTP/1.1 tells it from the answer.
_UNTOLD = ("unasked: stream",)
_NOBODY = RightText("(no conversation)", (), frozenset(), (), "", "")


def shapes_of(seed: int) -> dict[str, str]:
    """The kinds of the two servers, by role."""
    return {"small": SHAPES[seed % 3], "large": SHAPES[seed // 3 % 3]}


def kinds_of(only: str) -> dict[bool, list[Kind]]:
    """The kinds of faults by whether they are for streams, as often as they are drawn.

    Args:
        only: What their names have to contain; empty for all of them. Several with commas.

    Raises:
        ValueError: There is no such kind.
    """
    kinds = [
        k
        for k in KINDS.values()
        for _ in range(k.share)
        if any(part in k.name for part in only.split(",")) and k.name not in _UNTOLD
    ]
    routes = {
        True: [kind for kind in kinds if kind.where in ("any", "stream")],
        False: [kind for kind in kinds if kind.where in ("any", "small")],
    }
    if not kinds:
        raise ValueError(f"no kind of fault has {only!r} in its name: see tests/faults/kinds.py")
    return routes


class _Told(list[Any]):
    """A list that tells what is put into it, and keeps nothing."""

    def __init__(self, **facts: Any) -> None:
        self.facts = facts

    def append(self, item: Any) -> None:
        if self.facts:
            tell(**self.facts, text=repr(item)[:1000])


class FaultyServer(Server):
    """Serves one model in all conversations, and fails now and then.

    Args:
        role: ``"small"`` or ``"large"``.
        seed: Decides the texts and the faults.
        share: Share of the requests that get a fault.
        only: What the names of the faults' kinds have to contain.
        elsewhere: Address that redirects point to.
    """

    def __init__(self, role: str, seed: int, share: float, only: str, elsewhere: str) -> None:
        super().__init__(Model(role, shapes_of(seed)[role], _NOBODY))
        self.role, self.seed, self.share, self.elsewhere = role, seed, share, elsewhere
        self.asked = 0
        self._kinds = kinds_of(only)
        self.requests = _Told()
        self.failures = _Told(what="failure", role=role)
        self._counts: OrderedDict[int | None, int] = OrderedDict()

    def meet(self, path: str, body: dict[str, Any]) -> tuple[Model, Fault | None]:
        self.asked += 1
        ids = body.get("tokens")
        # Ids say nothing; the text they stand for does.
        known = self.model._ids
        text = "".join(known.get(i, "") for i in ids) if isinstance(ids, list) else repr(body)
        number = number_in(text)
        model = copy.copy(self.model)  # the ids of all texts are shared
        if number is not None:
            model.text = self.text_of(number)
        model.strays = _Told(what="stray", role=self.role, number=number)
        return model, self._fault(path, number)

    def text_of(self, number: int) -> RightText:
        """What is written in a conversation."""
        return talk(self.seed, number)[0]

    def _fault(self, path: str, number: int | None) -> Fault | None:
        count = self._counts.pop(number, 0)
        self._counts[number] = count + 1
        if len(self._counts) > _KNOWN:
            self._counts.popitem(last=False)
        draw = random.Random(f"{self.seed}/{number}/{self.role}/{count}")
        streamed = path in STREAMED
        if draw.random() >= self.share or not self._kinds[streamed]:
            return None
        kind = draw.choice(self._kinds[streamed])
        fault = Fault(
            kind.name,
            kind.answer,
            "stream" if streamed else path,
            place=draw.random(),
            value=draw.random(),
            fired=1,
            note=self.elsewhere if kind.name.startswith("redirect") else "",
        )
        facts = {"place": fault.place, "value": fault.value, "route": fault.route}
        tell(what="fault", role=self.role, number=number, kind=kind.name, **facts)
        return fault


async def _beat() -> None:
    """Tell how long nothing could be served, if that was long."""
    while True:
        before = time.monotonic()
        await asyncio.sleep(_BEAT)
        if (took := time.monotonic() - before) > _PAUSE:
            tell(what="pause", seconds=took)


async def serve(make: Callable[[str, str], FaultyServer]) -> None:
    """Serve both until the input ends.

    Args:
        make: Makes the server of a role; the second argument is where redirects point to.
    """
    async with Server(Model("small", "generic", _NOBODY)) as elsewhere:
        small, large = make("small", elsewhere.url), make("large", elsewhere.url)
        async with small, large:
            servers = {"small": small, "large": large}
            tell(what="urls", **{role: server.url for role, server in servers.items()})
            beat = asyncio.create_task(_beat())
            while await asyncio.to_thread(sys.stdin.readline):
                until = time.monotonic() + _REST_SECONDS
                while any(s.running for s in servers.values()) and time.monotonic() < until:
                    await asyncio.sleep(0.02)
                tell(
                    what="state",
                    running={role: server.running for role, server in servers.items()},
                    requests={role: server.asked for role, server in servers.items()},
                    connections={role: server.accepted for role, server in servers.items()},
                    elsewhere=elsewhere.accepted,
                )
            beat.cancel()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("seed", type=int)
    parser.add_argument("share", type=float)
    parser.add_argument("only")
    options = parser.parse_args()

    def faulty(role: str, elsewhere: str) -> FaultyServer:
        return FaultyServer(role, options.seed, options.share, options.only, elsewhere)

    asyncio.run(serve(faulty))
