"""Chat templates as models ship them, and models that read a conversation through one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from glimp_integrations.backends import ScriptedBackend, chat_templates
from glimp_integrations.backends.base import Message, Rendered, Report, Request, Token

FOLDER = Path(__file__).parent / "templates"


def source(name: str) -> str:
    """The Jinja source of ``templates/NAME.jinja``."""
    return (FOLDER / f"{name}.jinja").read_text(encoding="utf-8")


class Templated(ScriptedBackend):
    """A scripted model whose conversations are rendered by a real template.

    Args:
        script: As for ``ScriptedBackend``.
        template: Its source.
        shown: Whether it says what its template is; vLLM and TGI do not.
        template_kwargs: Passed to the template.
        **options: Of ``ScriptedBackend``.
    """

    def __init__(
        self,
        script: Any = (),
        *,
        template: str,
        shown: bool = True,
        template_kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(script, template=template if shown else None, **options)
        self._source = template
        self._kwargs = {**chat_templates.THINKING, **(template_kwargs or {})}
        self.prompts: list[str] = []
        """Everything that was rendered."""

    async def render(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()
    ) -> Rendered:
        text = chat_templates.render(self._source, messages, self._kwargs, tools)
        self.prompts.append(text)
        return Rendered(text, tokens=len(text))


class TemplatedTurns(Templated):
    """Replies by how many tool results the conversation holds.

    Args:
        *replies: One script for each number of results.
        mark: What stands in the prompt once for each result.
        **options: Of :class:`Templated`.
    """

    def __init__(self, *replies: Any, mark: str, **options: Any) -> None:
        super().__init__([], **options)
        self._turns = [ScriptedBackend(reply)._next for reply in replies]
        self._mark = mark

    def generate(self, request: Request, report: Report) -> AsyncIterator[Token]:
        self._next = self._turns[request.prompt.count(self._mark)]
        return super().generate(request, report)
