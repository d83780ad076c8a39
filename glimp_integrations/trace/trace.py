"""The trace of an answer as users have it: data that save, load and show themselves."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Self

from pydantic import Field

from glimp_integrations.trace.records import InvalidToolCall, Record, ToolCall, TraceData, Usage

if TYPE_CHECKING:
    from rich.console import Console, Group

__all__ = ["RoutedAnswer", "Trace", "finish_reason"]


class Trace(TraceData):
    """How one answer was written: one record a step, who wrote it, and what it took.

    Costs are in the currency of the given prices; ``None`` without prices. The predicted cost
    of the large model alone assumes that it had written the same text in one request.
    """

    def to_json(self) -> str:
        """The whole trace as JSON; :meth:`from_json` reads it back.

        Half a surrogate pair, which no encoding has, becomes U+FFFD, the replacement character.
        """
        return self.model_dump_json(indent=1)

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Read a trace.

        Raises:
            ConfigError: The text is not JSON, or not a trace, or a trace in a newer format, or a
                field is missing or has a value it cannot have; the message names the field.
        """
        from glimp_integrations.trace.files import decode, parse

        return parse(decode(text), cls)

    def save(self, path: str | Path) -> None:
        """Write the trace to a file as JSON.

        Raises:
            ConfigError: The file cannot be written.
        """
        from glimp_integrations.trace.files import write

        write(path, self.to_json(), "the trace")

    def to_html(self, title: str = "GlimpRouter trace") -> str:
        """One self-contained HTML page: who wrote what, H as bars, totals.

        Args:
            title: Heading of the page, such as the question.
        """
        from glimp_integrations.trace.html import page

        return page(self, title)

    def _repr_html_(self) -> str:
        from glimp_integrations.trace.html import fragment

        return fragment(self)

    def show(self, console: Console | None = None) -> None:
        """Print the trace in colour: who wrote what, and how uncertain the small model was.

        Args:
            console: A rich console; standard output by default.
        """
        from glimp_integrations.trace.terminal import print_trace

        if console is None:
            from rich.console import Console

            console = Console(highlight=False)
        print_trace(self, console)

    def __rich__(self) -> Group:
        from glimp_integrations.trace.terminal import rich_trace

        return rich_trace(self)

    def __str__(self) -> str:
        from glimp_integrations.trace.terminal import plain

        return plain(self)


class RoutedAnswer(Record):
    """The result of a call."""

    reasoning: str = Field(description="The chain of thought, without think tags.")
    answer: str = Field(description="The answer, without its tool calls.")
    trace: Trace = Field(description="How the reply was written.")
    usage: Usage = Field(description="Tokens of all requests, by model.")
    tool_calls: list[ToolCall] = Field(
        default=[], description="Tool calls of the answer, in order."
    )
    invalid_tool_calls: list[InvalidToolCall] = Field(
        default=[], description="Texts that were meant as tool calls, in order."
    )

    def _repr_html_(self) -> str:
        from glimp_integrations.trace.html import answer_fragment

        return answer_fragment(
            self.trace, self.answer, calls=self.tool_calls, invalid_calls=self.invalid_tool_calls
        )

    def __str__(self) -> str:
        return self.answer


def finish_reason(result: RoutedAnswer) -> str:
    """Why a reply ended, in the words of OpenAI's API.

    Returns:
        ``"tool_calls"``, ``"length"`` (a budget or a full context window ended the reply) or
        ``"stop"``.
    """
    trace = result.trace
    if result.tool_calls:
        return "tool_calls"
    reason = trace.answer_stop or trace.stop_reason
    cut = ("budget", "context_full", "max_cost", "deadline")
    return "length" if reason in cut else "stop"
