"""What the proofs share: the models, a routed text, and how one place of a text is looked at."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, cast

import reasoning_gym
from openai import OpenAI

from benchmarks.real_vllm import models
from benchmarks.real_vllm.server import Server
from glimp_integrations import GlimpRouter, RoutedAnswer, io_loop
from glimp_integrations.backends import (
    Backend,
    HuggingFaceBackend,
    LlamaCppBackend,
    OpenAIBackend,
    Report,
    Request,
    Token,
)
from glimp_integrations.conversation.messages import check_messages
from glimp_integrations.conversation.prompt import build
from glimp_integrations.method.entropy import estimate
from glimp_integrations.weights import LARGE, ensure

__all__ = ["Bench", "Proof", "Result", "look", "questions", "read", "rendered", "timed"]

K = 20
THRESHOLD = 0.8  # nats; low, so that short texts have steps of both models
# One token at a time: reading is then the same computation as writing, bit by bit.
_STEADY = {"n_ubatch": 1, "n_batch": 32, "no_extra_bufts": True}


@dataclass
class Result:
    """The outcome of one proof.

    Attributes:
        name: The proof.
        ok: Whether it holds.
        summary: The outcome in words.
        figures: The same in numbers.
        seconds: How long it took.
    """

    name: str
    ok: bool
    summary: str
    figures: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


Proof = Callable[["Bench"], Result]


class Bench:
    """The small model on vLLM, and what is compared with it; everything is loaded on first use.

    Args:
        server: vLLM with the small model.
        large_server: vLLM with the large model; ``None``: llama.cpp serves it in this process.
    """

    def __init__(self, server: Server, large_server: Server | None = None) -> None:
        self.server = server
        self._large_server = large_server
        self._opened: list[Backend] = []

    @cached_property
    def small(self) -> OpenAIBackend:
        """The small model as users reach it."""
        return self.opened(OpenAIBackend(base_url=self.server.url))

    @cached_property
    def large(self) -> Backend:
        """The large model."""
        if self._large_server is not None:
            return self.opened(OpenAIBackend(base_url=self._large_server.url))
        return self.opened(LlamaCppBackend(ensure(LARGE), parallel=1, server_options=_STEADY))

    @property
    def large_on(self) -> str:
        """What serves the large model."""
        return "vLLM" if self._large_server is not None else "llama.cpp"

    @cached_property
    def plain(self) -> OpenAIBackend:
        """The small model without a chat template: it just goes on."""
        template = "{{ messages[0]['content'] }}"
        return self.opened(OpenAIBackend(base_url=self.server.url, chat_template=template))

    @cached_property
    def client(self) -> OpenAI:
        """The server without this package."""
        return OpenAI(base_url=self.server.url, api_key="EMPTY", max_retries=0, timeout=300)

    def complete(self, prompt: str, *, max_tokens: int = 1, **fields: Any) -> Any:
        """One whole completion, as the server tells it."""
        body = {"temperature": 0, "add_special_tokens": False, **fields}
        answer = self.client.completions.create(
            model=self.server.model, prompt=prompt, max_tokens=max_tokens, extra_body=body
        )
        return answer.choices[0]

    @cached_property
    def routed(self) -> tuple[str, RoutedAnswer]:
        """A rendered prompt of the small model, and what the pair went on with."""
        question = questions(1)[0]
        answer = self.router("fused", max_tokens=160).run(question)
        return rendered(self.small, question), answer

    def router(self, strategy: str, **settings: Any) -> GlimpRouter:
        """The pair, greedy."""
        return GlimpRouter(
            self.small,
            self.large,
            strategy=cast("Any", strategy),
            temperature=0,
            threshold=THRESHOLD,
            route="always",
            **settings,
        )

    def transformers(self, dtype: str) -> HuggingFaceBackend:
        """The same folder in this process."""
        return HuggingFaceBackend(str(models.folder("small")), dtype=dtype)

    def opened(self, backend: Any) -> Any:
        """Close it with the bench."""
        self._opened.append(backend)
        return backend

    def close(self) -> None:
        """Release what was loaded; the servers are somebody else's."""
        while self._opened:
            self._opened.pop().close()
        if "client" in vars(self):
            self.client.close()


def timed(proof: Proof, bench: Bench) -> Result:
    """Run a proof."""
    started = time.perf_counter()
    result = proof(bench)
    result.seconds = time.perf_counter() - started
    return result


def questions(n: int) -> list[str]:
    """Grade-school problems."""
    problems = reasoning_gym.create_dataset("gsm_symbolic", size=n, seed=7)
    return [f"{item['question']} Think step by step." for item in problems]


def rendered(backend: Backend, question: str) -> str:
    """A question as the model reads it."""
    return io_loop.call(lambda: build(backend, check_messages(question))).text


def read(
    backend: Backend, prompt: str, max_tokens: int, **fields: Any
) -> tuple[list[Token], Report]:
    """All tokens of one request, and what it cost."""
    report = Report()

    async def collect() -> list[Token]:
        tokens: Any = backend.generate(Request(prompt, max_tokens, **fields), report)
        async with aclosing(tokens):
            return [token async for token in tokens]

    return io_loop.call(collect), report


def look(backend: Backend, prompt: str, notes: dict[str, Any] | None = None) -> float:
    """H after a text, in nats, ``topk_renorm`` of 20."""

    async def first() -> float:
        request = Request(prompt, 1, logprobs=K, distribution_only=True, notes=notes or {})
        tokens: Any = backend.generate(request, Report())
        async with aclosing(tokens):
            async for token in tokens:
                if token.entropy_fn is not None:
                    return float(await token.entropy_fn("topk_renorm", K))
                return estimate(token.logprobs or (), "topk_renorm")
        raise AssertionError("no token")

    return io_loop.call(first)
