"""The text that both models continue: steps, and what stands between them."""

from __future__ import annotations

from dataclasses import dataclass, field

from glimp_integrations.method.steps import Step

__all__ = ["SharedText"]

_THINK_END = "\0think end tag\0"
"""A placeholder, replaced for each model by its own think end tag."""


@dataclass(slots=True)
class SharedText:
    """Everything after the prompt, in order."""

    steps: list[Step] = field(default_factory=list)
    _parts: list[Step | str] = field(default_factory=list)

    def begin(self, step: Step) -> None:
        """A step begins; its text grows here."""
        self.steps.append(step)
        self._parts.append(step)

    def add(self, text: str) -> None:
        """Text that belongs to no step: a marker, a prefix that only the models see."""
        self._parts.append(text)

    def end_thinking(self, *, by_model: bool) -> None:
        """Close the think block.

        Args:
            by_model: A model closed it. Closed for it, the tag gets a line of its own, as chat
                templates write it.
        """
        line_end = "" if by_model or self.read().endswith("\n") else "\n"
        self._parts += [line_end, _THINK_END, "\n\n"]

    def end_chain(self) -> None:
        """End a chain without tags: a blank line stands between it and the answer."""
        text = self.read()
        line_ends = len(text) - len(text.rstrip("\n"))
        self.add("\n" * max(0, 2 - line_ends) if text.strip() else "")

    def read(self, think_end_tag: str = "") -> str:
        """The text as one model reads it.

        Args:
            think_end_tag: That model's own.
        """
        return "".join(
            part.text if isinstance(part, Step) else think_end_tag if part is _THINK_END else part
            for part in self._parts
        )

    def drop_from_end(self, characters: int) -> None:
        """Remove the last characters of the steps, over as many steps as that takes."""
        for step in reversed(self.steps):
            dropped = min(characters, len(step.text))
            step.text = step.text[: len(step.text) - dropped]
            characters -= dropped
            if characters == 0:
                break
