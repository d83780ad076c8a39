"""How an answer is asked for, and where it is looked for in the reply."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import regex

from glimp_integrations.errors import ConfigError

__all__ = ["FORMATS", "Format", "boxed", "named_format"]

_STEPS = "Think step by step, in short paragraphs separated by blank lines."
# Braces may nest: \boxed{\frac{1}{2}}.
_BOXED = regex.compile(r"\\boxed\s*\{((?:[^{}]|\{(?1)\})*)\}")


@dataclass(frozen=True, slots=True)
class Format:
    """A way to ask.

    Attributes:
        name: As given to ``--format``.
        instruction: Follows the question in the same message; empty: nothing.
        system: A system message, or ``None``.
        find: The marked answer in a reply, or ``None``. A format without marks finds none.
        marks: Whether the format asks for a mark at all.
    """

    name: str
    instruction: str
    system: str | None
    find: Callable[[str], str | None]
    marks: bool = True

    def messages(self, question: str) -> list[dict[str, str]]:
        """The conversation; the question is passed on as it is."""
        text = f"{question}{self.instruction}"
        asked = [{"role": "user", "content": text}]
        return [{"role": "system", "content": self.system}, *asked] if self.system else asked


def boxed(reply: str) -> str | None:
    r"""What stands in the last ``\boxed{...}`` of a reply."""
    found = _BOXED.findall(reply)
    return found[-1].strip() if found else None


def _tagged(reply: str) -> str | None:
    from reasoning_gym.utils import extract_answer

    found: str | None = extract_answer(reply)
    return found


def _nothing(reply: str) -> str | None:
    return None


def _gym() -> Format:
    from reasoning_gym.utils import SYSTEM_PROMPTS

    return Format("gym", "", SYSTEM_PROMPTS["default"], _tagged)


FORMATS: dict[str, Callable[[], Format]] = {
    "boxed": lambda: Format(
        "boxed", f"\n\n{_STEPS} Put the final answer in \\boxed{{}}.", None, boxed
    ),
    "tags": lambda: Format(
        "tags", f"\n\n{_STEPS} End with the final answer in <answer></answer>.", None, _tagged
    ),
    "gym": _gym,
    "steps": lambda: Format("steps", " Think step by step.", None, _nothing, marks=False),
    "short": lambda: Format(
        "short", "\n\nReply with the answer only, nothing else.", None, _nothing, marks=False
    ),
    "plain": lambda: Format("plain", "", None, _nothing, marks=False),
}
"""By name: ``boxed`` and ``tags`` ask for a marked answer, ``gym`` is reasoning-gym's own system
prompt, ``steps`` only asks to think step by step, ``short`` asks for the bare answer, ``plain``
adds nothing."""


def named_format(name: str) -> Format:
    """A format by its name.

    Raises:
        ConfigError: There is no such format, or it needs a package that is missing.
    """
    if name not in FORMATS:
        raise ConfigError(f"format is {name!r}; known formats: {', '.join(FORMATS)}")
    try:
        return FORMATS[name]()
    except ImportError as error:
        raise ConfigError(
            f"format {name!r} needs reasoning-gym: pip install 'glimp-integrations[bench]'"
        ) from error
