"""The text of a reply without its tool calls, while it grows. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["ReplyText"]


@dataclass(slots=True)
class ReplyText:
    """Collects a reply's text, and decides which white space belongs to it.

    White space between text and a call belongs to neither. So it waits until text follows it.

    Attributes:
        last_character: The last character that was added; a line break at a line's start.
    """

    last_character: str = "\n"
    _parts: list[str] = field(default_factory=list)
    _waiting: list[str] = field(default_factory=list)  # white space after the last word

    @property
    def content(self) -> str:
        """The text so far, without waiting white space."""
        return "".join(self._parts)

    def add(self, text: str, *, after_call: bool) -> str:
        """Add text.

        Args:
            text: The next text of the reply.
            after_call: Whether the reply holds a call already. White space between a call at the
                reply's beginning and its first text is dropped.

        Returns:
            What was added to the content now: waiting white space and words.
        """
        if not text:
            return ""
        self.last_character = text[-1]
        words = text.rstrip()
        if not words:
            self._waiting.append(text)
            return ""
        added = "".join(self._waiting) + words
        if after_call and not self._parts:
            added = added.lstrip()
        self._waiting = [text[len(words) :]] if len(words) < len(text) else []
        self._parts.append(added)
        return added

    def add_exactly(self, text: str) -> str:
        """Add text of which nothing has to wait."""
        if text:
            self._parts.append(text)
        return text

    def end_call(self) -> None:
        """A call ended: what follows begins a line, and is separate from the text before it."""
        self.last_character = "\n"
        self._waiting = self._waiting or [" "]

    def end(self, *, after_call: bool) -> str:
        """The reply is over. White space at its end stays if no call is in it."""
        trailing, self._waiting = "".join(self._waiting), []
        return "" if after_call else self.add_exactly(trailing)
