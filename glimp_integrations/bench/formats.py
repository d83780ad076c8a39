"""How an answer is asked for, and where it is looked for in the reply."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import regex

from glimp_integrations.errors import ConfigError

__all__ = ["FORMATS", "Format", "boxed", "named_format"]

_STEPS = "Think step by step, in short paragraphs separated by blank lines."
# The sentence that the model cards of DeepSeek-R1 and Qwen3 ask to be put into the prompt.
_CARD = "Please reason step by step, and put {} within \\boxed{{}}."
# Braces may nest: \boxed{\frac{1}{2}}.
_BOXED = regex.compile(r"\\boxed\s*\{((?:[^{}]|\{(?1)\})*)\}")


@dataclass(frozen=True, slots=True)
class Format:
    """One way to ask for an answer.

    Attributes:
        name: The name for ``--format``.
        instruction: Text after the question in the same message; it may be empty.
        system: A system message, or ``None``.
        find: Returns the marked answer in a reply, or ``None``.
        marks: Whether the format asks for a mark at all. If not, ``find`` returns ``None``.
    """

    name: str
    instruction: str
    system: str | None
    find: Callable[[str], str | None]
    marks: bool = True

    def messages(self, question: str) -> list[dict[str, str]]:
        """The conversation; the question is passed on as it is."""
        text = f"{question}{self.instruction}"
        user = [{"role": "user", "content": text}]
        return [{"role": "system", "content": self.system}, *user] if self.system else user


def boxed(reply: str) -> str | None:
    r"""The content of the last ``\boxed{...}`` of a reply; ``None``: there is none."""
    contents = _BOXED.findall(reply)
    return contents[-1].strip() if contents else None


def _tagged(reply: str) -> str | None:
    from reasoning_gym.utils import extract_answer

    answer: str | None = extract_answer(reply)
    return answer


def _nothing(reply: str) -> str | None:
    return None


def _gym() -> Format:
    from reasoning_gym.utils import SYSTEM_PROMPTS

    return Format("gym", "", SYSTEM_PROMPTS["default"], _tagged)


FORMATS: dict[str, Callable[[], Format]] = {
    "boxed": lambda: Format(
        "boxed", f"\n\n{_STEPS} Put the final answer in \\boxed{{}}.", None, boxed
    ),
    "card": lambda: Format("card", f"\n\n{_CARD.format('your final answer')}", None, boxed),
    "letter": lambda: Format(
        "letter", f"\n\n{_CARD.format('the letter of your choice')}", None, boxed
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
"""By name: ``boxed`` and ``tags`` ask for a marked answer, ``card`` does as the cards of reasoning
models advise, ``letter`` asks for the letter of one of several choices, ``gym`` is reasoning-gym's
own system prompt, ``steps`` only asks to think step by step, ``short`` asks for the bare answer,
``plain`` adds nothing."""


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
