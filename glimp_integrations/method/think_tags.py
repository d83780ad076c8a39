"""The tags that models think in, and whether a prompt has opened one."""

from __future__ import annotations

__all__ = ["KNOWN_TAGS", "find_tags"]

# The first is by far the commonest.
KNOWN_TAGS: tuple[tuple[str, str], ...] = (
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<seed:think>", "</seed:think>"),
    ("[THINK]", "[/THINK]"),
)


def find_tags(prompt: str, template: str | None) -> tuple[tuple[str, str] | None, bool]:
    """Look for think tags at the end of a rendered prompt, then in the chat template's source.

    Args:
        prompt: The conversation as the model reads it, generation prompt included.
        template: Source of the chat template, if it is known.

    Returns:
        ``(open, close)``, or ``None`` for a model that does not think in tags or whose thinking
        is switched off; and whether the prompt has opened the tag already.
    """
    end = prompt.rstrip()
    for tags in KNOWN_TAGS:
        if end.endswith(tags[0]):
            return tags, True
        if end.endswith(tags[1]):
            return None, False  # the template closed an empty block: thinking is switched off
    for tags in KNOWN_TAGS:
        if template is not None and tags[1] in template:
            return tags, False
    return None, False
