"""Many conversations at once: each has a script of its own, and every way to hold them."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, aclosing
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from glimp_integrations import Finished, GlimpRouter, RoutedAnswer
from glimp_integrations.adapter import RECORD, record
from glimp_integrations.backends.base import Report, Request, Token
from glimp_integrations.backends.http.openai import OpenAIBackend
from langchain_glimp import ChatGlimpRouter
from llamaindex_glimp import GlimpRouterLLM
from wire.fake_server import THINKING_TEMPLATE, FakeServer, Tok
from wire.helpers import GREEDY

_PATIENCE = 10.0  # seconds until a test gives up on a conversation that does not come
_TIMES = ("seconds", "first_token_seconds")


@dataclass(frozen=True)
class Talk:
    """One conversation: what is asked, and what both models write."""

    number: int
    steps: tuple[int, ...]
    """Words of each step."""
    hard: frozenset[int] = frozenset()
    """Steps that are the large model's."""
    tags: bool = True

    @property
    def question(self) -> str:
        return f"This is conversation {self.number}."

    @property
    def script(self) -> list[Tok]:
        tokens: list[Tok] = [(b"<think>", 0.1), (b"\n", 0.1)] if self.tags else []
        for step, words in enumerate(self.steps):
            end = ".\n" if step == len(self.steps) - 1 else ".\n\n"
            texts = [f"c{self.number}s{step}", *(f" w{i}" for i in range(words)), end]
            tokens += [
                (t.encode(), 2.0 if not i and step in self.hard else 0.1)
                for i, t in enumerate(texts)
            ]
        ending = ["</think>", "\n\n"] if self.tags else ["\n"]
        ending += ["Answer", f" {self.number}", "."]
        return tokens + [(text.encode(), 0.1) for text in ending]

    @property
    def text(self) -> str:
        return b"".join(data for data, _ in self.script).decode()

    @property
    def answer(self) -> str:
        return f"Answer {self.number}."

    @property
    def authors(self) -> list[str]:
        return ["large" if step in self.hard else "small" for step in range(len(self.steps))]


def various(count: int) -> list[Talk]:
    """Conversations no two neighbours of which are alike in length, authors or usage."""
    return [
        Talk(
            number,
            steps=tuple(1 + (number + step) % 4 for step in range(1 + number % 3)),
            hard=frozenset(step for step in range(1 + number % 3) if (number + step) % 2),
        )
        for number in range(100, 100 + count)
    ]


def easy(count: int, *, steps: int = 2, words: int = 3, tags: bool = True) -> list[Talk]:
    """Equal conversations: the small model's until the answer, the large one's from there."""
    return [Talk(number, (words,) * steps, tags=tags) for number in range(100, 100 + count)]


@dataclass
class CrowdServer(FakeServer):
    """Follows the script of whichever conversation the prompt holds.

    ``strays`` are prompts that go on otherwise than their conversation's script. Where there is a
    ``gate``, no conversation gets its first token before as many have asked for theirs.
    """

    talks: Sequence[Talk] = ()
    gate: threading.Barrier | None = None
    strays: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._scripts = {talk.number: (talk.script, talk.text) for talk in self.talks}

    def script_for(self, prompt: str) -> Sequence[Tok]:
        numbers = set(re.findall(r"conversation (\d+)\.", prompt))
        if len(numbers) != 1:
            self.strays.append(prompt)
            return ()
        return self._scripts[int(numbers.pop())][0]

    def next_token(self, prompt: str, written: bytes) -> Tok:
        _, marker, behind = prompt.rpartition(self.generation_prompt)
        if marker and self.gate is not None and not written and behind in ("", "<think>\n"):
            try:
                self.gate.wait(_PATIENCE)
            except threading.BrokenBarrierError:
                self.strays.append(f"nobody else came: {prompt}")
        token = super().next_token(prompt, written)
        if marker and not token[0]:
            number = re.findall(r"conversation (\d+)\.", prompt)[-1]
            if self._scripts[int(number)][1] != behind + written.decode():
                self.strays.append(prompt)
        return token


class CountingBackend(OpenAIBackend):
    """Counts the streams that were left before their end; each takes its connection along."""

    cancelled = 0

    async def generate(self, request: Request, report: Report) -> AsyncGenerator[Token, None]:
        try:
            async with aclosing(super().generate(request, report)) as tokens:
                async for token in tokens:
                    yield token
        finally:
            self.cancelled += report.ended is None


@dataclass
class Pair:
    """Two servers and the backends that talk to them."""

    talks: Sequence[Talk]
    servers: tuple[CrowdServer, CrowdServer]
    backends: tuple[CountingBackend, CountingBackend]

    def router(self, **options: Any) -> GlimpRouter:
        return GlimpRouter(*self.backends, **{**GREEDY, **options})

    def chat(self, **options: Any) -> ChatGlimpRouter:
        small, large = self.backends
        return ChatGlimpRouter(small=small, large=large, **{**GREEDY, **options})

    def llm(self, **options: Any) -> GlimpRouterLLM:
        small, large = self.backends
        return GlimpRouterLLM(small=small, large=large, **{**GREEDY, **options})

    @property
    def questions(self) -> list[str]:
        return [talk.question for talk in self.talks]

    def quiet(self) -> bool:
        """No stream is left on the servers; those may take a moment to notice."""
        return all(s.wait_for(lambda s=s: s.active == 0) for s in self.servers)

    def alone(self) -> list[Outcome]:
        """What each conversation is when nobody else talks."""
        router = self.router()
        return [outcome(router.run(question)) for question in self.questions]


def make_pair(
    stack: ExitStack,
    talks: Sequence[Talk],
    *,
    gate: int | None = None,
    chat_template: str | None = None,
    **options: Any,
) -> Pair:
    """Start both servers.

    Args:
        stack: Ends them.
        talks: Their conversations.
        gate: How many have to ask before one of them gets its first token.
        chat_template: Conversations are rendered on this side.
        **options: Those of the fake servers.
    """
    gates = (threading.Barrier(gate) if gate else None, None)
    options = {"template": THINKING_TEMPLATE, **options}
    small, large = (
        stack.enter_context(CrowdServer(talks=talks, gate=gate, **options)) for gate in gates
    )
    backends = [
        CountingBackend(base_url=server.url, chat_template=chat_template)
        for server in (small, large)
    ]
    for backend in backends:
        stack.callback(backend.close)
    return Pair(talks, (small, large), (backends[0], backends[1]))


@dataclass(frozen=True)
class Outcome:
    """What came of a conversation, times left out."""

    reasoning: str
    answer: str
    record: Any

    @property
    def authors(self) -> list[str]:
        return [s["author"] for s in self.record["steps"] if s["kind"] == "reasoning"]

    @property
    def usage(self) -> Any:
        return self.record["usage"]


def outcome(result: RoutedAnswer) -> Outcome:
    return Outcome(result.reasoning, result.answer, _timeless(record(result)))


def of_message(message: Any) -> Outcome:
    """From LangChain's message."""
    return Outcome(
        message.additional_kwargs["reasoning_content"],
        message.content,
        _timeless(message.response_metadata[RECORD]),
    )


def _of_response(response: Any) -> Outcome:
    """From LlamaIndex's."""
    thinking, text = response.message.blocks
    return Outcome(thinking.content, text.text, _timeless(response.raw[RECORD]))


def _timeless(data: Any) -> Any:
    if isinstance(data, dict):
        return {key: _timeless(value) for key, value in data.items() if key not in _TIMES}
    return [_timeless(item) for item in data] if isinstance(data, list) else data


def _abatch(pair: Pair) -> list[Outcome]:
    return [of_message(m) for m in asyncio.run(pair.chat().abatch(pair.questions))]


def _batch(pair: Pair) -> list[Outcome]:
    width = {"max_concurrency": len(pair.talks)}
    return [of_message(m) for m in pair.chat().batch(pair.questions, width)]


def _threads(pair: Pair) -> list[Outcome]:
    with ThreadPoolExecutor(len(pair.talks)) as pool:
        return [outcome(result) for result in pool.map(pair.router().run, pair.questions)]


def _arun(pair: Pair, **options: Any) -> list[Outcome]:
    router = pair.router(**options)

    async def gather() -> list[RoutedAnswer]:
        return await asyncio.gather(*(router.arun(question) for question in pair.questions))

    return [outcome(result) for result in asyncio.run(gather())]


def _astream(pair: Pair) -> list[Outcome]:
    router = pair.router()

    async def follow(question: str) -> RoutedAnswer:
        last = [event async for event in router.astream(question)][-1]
        assert isinstance(last, Finished)
        return last.result

    async def gather() -> list[RoutedAnswer]:
        return await asyncio.gather(*map(follow, pair.questions))

    return [outcome(result) for result in asyncio.run(gather())]


def _achat(pair: Pair) -> list[Outcome]:
    from llama_index.core.llms import ChatMessage

    llm = pair.llm()

    async def gather() -> list[Any]:
        return await asyncio.gather(
            *(llm.achat([ChatMessage(content=question)]) for question in pair.questions)
        )

    return [_of_response(response) for response in asyncio.run(gather())]


WAYS: dict[str, Callable[[Pair], list[Outcome]]] = {
    "LangChain abatch": _abatch,
    "LangChain batch, threads": _batch,
    "run in threads": _threads,
    "gathered arun": _arun,
    "gathered arun, overlap": partial(_arun, strategy="overlap"),
    "gathered astream": _astream,
    "LlamaIndex achat, gathered": _achat,
}
