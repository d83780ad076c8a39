"""One case: two servers, some faults, a call, and a second call on the same objects."""

from __future__ import annotations

import asyncio
import random
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from glimp_integrations import Finished, GlimpRouter, RoutedAnswer, io_loop
from glimp_integrations.backends.http.openai import OpenAIBackend

from .kinds import KINDS, Kind
from .proofs import Outcome, Streamed, right, verdict
from .replies import SHAPES, TEMPLATE, Model
from .server import ALWAYS, Fault, Server
from .texts import RightText, draw_text

__all__ = ["ROLES", "STRATEGIES", "WAYS", "Case", "called", "draw_case", "run_case"]

ROLES = ("small", "large")
WAYS = ("run", "arun", "stream", "astream")
STRATEGIES = ("two_request", "fused", "overlap", "auto")
_SMALL_ROUTES = {
    "llama.cpp": ("/v1/models", "/props", "/apply-template", "/tokenize", "/detokenize", "/slots"),
    "vllm": ("/v1/models", "/tokenize", "/detokenize"),
    "generic": ("/v1/models", "/api/version", "/info"),
}
_threads = ThreadPoolExecutor(128, "faults")  # `run` and `stream` wait in threads of their own


@dataclass
class Case:
    """Everything that a seed and an index decide.

    Attributes:
        seed: Seed of the campaign.
        index: Number of the case.
        text: What the models write.
        shapes: Kind of server by role.
        faults: What goes wrong, by role.
        kinds: Names of the kinds of faults.
        harmless: Whether no fault may be noticed.
        late: Roles whose server starts after the first call.
        options: Settings of the router.
        backends: Arguments of the backends, by role.
        way: How the first call is made.
        seconds: The first call has to end within this time.
    """

    seed: int
    index: int
    text: RightText
    shapes: dict[str, str]
    faults: dict[str, list[Fault]]
    kinds: list[str]
    harmless: bool
    late: tuple[str, ...]
    options: dict[str, Any]
    backends: dict[str, dict[str, Any]]
    way: str
    seconds: float
    servers: dict[str, Server] = field(default_factory=dict)

    @property
    def deputy(self) -> str | None:
        """The model that has to go on alone: the other one fails, and it is healthy."""
        deputy: str = self.options["on_backend_error"]
        healthy = deputy != "raise" and not self.faults[deputy] and deputy not in self.late
        return deputy if healthy else None

    @property
    def fired(self) -> list[tuple[str, Fault]]:
        """The faults that fired, with their roles."""
        return [(role, f) for role in ROLES for f in self.faults[role] if f.fired]

    @property
    def repeatable(self) -> bool:
        """Whether one more attempt must have been right, and was allowed."""
        every = [fault for faults in self.faults.values() for fault in faults]
        return (
            len(every) == 1
            and every[0].fired == 1
            and every[0].times <= self.options["max_retries"]
            and every[0].route == "stream"
            and KINDS[every[0].kind].passes
            and not self.late
        )

    @property
    def key(self) -> str:
        """The API key, which nobody may see."""
        return f"sk-secret-{self.seed}-{self.index}-0123456789"

    def __str__(self) -> str:
        faults = "; ".join(f"{role} {fault}" for role in ROLES for fault in self.faults[role])
        late = f"; starts late: {', '.join(self.late)}" if self.late else ""
        settings = {k: v for k, v in self.options.items() if k not in ("think_tags", "temperature")}
        return f"{faults}{late}; {self.way}; {self.shapes}; {settings}"


def draw_case(seed: int, index: int) -> Case:
    """The case with this number; the same ones for ever."""
    draw = random.Random(f"{seed}/{index}")
    kinds = [kind for kind in KINDS.values() for _ in range(kind.share)]
    random.Random(seed).shuffle(kinds)
    shape = draw.choice(SHAPES)
    shapes = dict.fromkeys(ROLES, shape)
    if draw.random() < 0.3:
        shapes["large"] = draw.choice(SHAPES)
    answer_by = "small" if draw.random() < 0.2 else "large"
    faults: dict[str, list[Fault]] = {role: [] for role in ROLES}
    role = draw.choice(ROLES)
    chosen = [kinds[index % len(kinds)]]  # each kind as often as any other
    if draw.random() < 0.2:
        chosen.append(draw.choice(kinds))
    for kind in chosen:
        where = role if draw.random() < 0.7 else draw.choice(ROLES)
        faults[where].append(_draw_fault(draw, kind, shapes[where]))
    late = (role,) if draw.random() < 0.03 else ()
    takes_time = bool(late) or any(kind.takes_time for kind in chosen)
    options: dict[str, Any] = {
        "strategy": draw.choice(STRATEGIES),
        "on_backend_error": draw.choice(("raise", "small", "large")),
        "timeout": 1.0 if takes_time else 5.0,
        "max_retries": draw.choice((0, 1) if takes_time else (0, 1, 2)),
        "answer_by": answer_by,
        "threshold": 1.0,
        "temperature": 0.0,
        "think_tags": ("<think>", "</think>"),
    }
    shared = draw.random() < 0.2 and options["strategy"] != "overlap"
    backends = {role: _draw_backend(draw, role, shapes[role], shared=shared) for role in ROLES}
    return Case(
        seed=seed,
        index=index,
        text=draw_text(draw, f"Conversation {seed}/{index}.", answer_by),
        shapes=shapes,
        faults=faults,
        kinds=[kind.name for kind in chosen] + ["starts late"] * bool(late),
        harmless=not late and all(kind.harmless for kind in chosen),
        late=late,
        options=options,
        backends=backends,
        way=draw.choice(WAYS),
        seconds=_limit(chosen, takes_time=takes_time),
    )


def _limit(kinds: list[Kind], *, takes_time: bool) -> float:
    """Seconds for the first call. Silence after every token takes its time, if it is for ever."""
    if any(kind.name.startswith("retry after") for kind in kinds):
        return 12.0  # no server may hold a caller up who waits a second
    return 40.0 if takes_time else 30.0


def _draw_fault(draw: random.Random, kind: Kind, shape: str) -> Fault:
    streamed = kind.where == "stream" or (kind.where == "any" and draw.random() < 0.6)
    if streamed:
        route, skip = "stream", draw.choice((0, 1, 1, 2, 2, 3, 4))
    else:
        route, skip = draw.choice(_SMALL_ROUTES[shape]), draw.choice((0, 0, 0, 1))
        if draw.random() < 0.3:
            route, skip = "", draw.randint(0, 4)
    times = draw.choice((1, 1, 2, ALWAYS))
    return Fault(
        kind.name,
        kind.answer,
        route,
        skip=skip,
        times=1 if kind.once else times,
        place=draw.random(),
        value=draw.random(),
    )


def _draw_backend(draw: random.Random, role: str, shape: str, *, shared: bool) -> dict[str, Any]:
    return {
        "model": f"{role}-model" if draw.random() < 0.8 else None,
        "server": "auto" if draw.random() < 0.75 else shape,
        "chat_template": TEMPLATE if shape == "generic" else None,
        "device": "gpu0" if shared else None,
    }


async def run_case(case: Case) -> Outcome:
    """Both calls of a case, and what they prove."""
    async with AsyncExitStack() as stack:
        for role in ROLES:
            model = Model(role, case.shapes[role], case.text)
            server = Server(model, case.faults[role], late=role in case.late)
            case.servers[role] = await stack.enter_async_context(server)
        elsewhere = Server(Model("small", "generic", case.text))
        await stack.enter_async_context(elsewhere)
        for role in ROLES:
            for fault in case.faults[role]:
                fault.note = elsewhere.url if fault.kind.startswith("redirect") else ""
        backends = {
            role: OpenAIBackend(base_url=case.servers[role].url, api_key=case.key, **options)
            for role, options in case.backends.items()
        }
        router = GlimpRouter(**backends, route="always", **case.options)
        try:
            outcome = await _first_call(case, router)
            if elsewhere.accepted:
                outcome.fail("another host was asked", str(elsewhere.requests[:3]))
            if not outcome.hung:
                await _second_call(case, router, outcome)
        finally:
            for backend in backends.values():
                await io_loop.acall(backend.aclose)
        for server in case.servers.values():
            for failure in server.failures:
                outcome.fail("the campaign's own server failed", repr(failure))
    return outcome


async def _first_call(case: Case, router: GlimpRouter) -> Outcome:
    loop = asyncio.get_running_loop()
    streamed = Streamed()
    started = loop.time()
    result: RoutedAnswer | BaseException | None
    limit = asyncio.timeout(case.seconds)
    try:
        async with limit:
            question = case.text.question + " Is <b>this</b> it?"
            result = await called(case, router, question, streamed)
    except Exception as error:
        result = None if limit.expired() else error
    outcome = verdict(case, result, streamed)
    outcome.seconds = loop.time() - started
    if result is None:
        return outcome
    for role, server in case.servers.items():
        until = loop.time() + 3.0
        while server.running and loop.time() < until:
            await asyncio.sleep(0.01)
        if server.running:
            outcome.fail("a stream runs on at the server", f"{role}: {server.running}")
    return outcome


async def _second_call(case: Case, router: GlimpRouter, outcome: Outcome) -> None:
    """With healthy servers: nothing of what went wrong is remembered."""
    for server in case.servers.values():
        server.healthy = True
        server.model.strays.clear()
        await server.listen()
    changes = {"timeout": 30.0, "max_retries": 1, "on_backend_error": "raise"}
    try:
        result = await asyncio.wait_for(router.arun(case.text.question, **changes), 60.0)
    except Exception as error:
        outcome.fail("second call: an error", f"{type(error).__name__}: {error}")
        return
    if problem := right(case, result, changed_hands=False):
        outcome.fail("second call: wrong text", problem)


async def called(
    case: Case, router: GlimpRouter, question: str, streamed: Streamed, **changes: Any
) -> RoutedAnswer:
    """Call a router in the case's way; ``streamed`` takes what it shows.

    Args:
        case: Says the way.
        router: Is called.
        question: What is asked.
        streamed: Gets the events of a stream.
        **changes: Settings for this call only.
    """
    loop = asyncio.get_running_loop()
    if case.way == "arun":
        return await router.arun(question, **changes)
    if case.way == "run":
        return await loop.run_in_executor(_threads, partial(router.run, question, **changes))
    if case.way == "stream":
        read = partial(_read, router, question, streamed, changes)
        return await loop.run_in_executor(_threads, read)
    async with aclosing(router.astream(question, **changes)) as events:
        async for event in events:
            if isinstance(event, Finished):
                return event.result
            streamed.take(event)
    raise AssertionError("a stream without a result")


def _read(
    router: GlimpRouter, question: str, streamed: Streamed, changes: dict[str, Any]
) -> RoutedAnswer:
    for event in router.stream(question, **changes):
        if isinstance(event, Finished):
            return event.result
        streamed.take(event)
    raise AssertionError("a stream without a result")
