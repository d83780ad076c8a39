"""Prompts for a calibration: from a file, or freshly generated."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from glimp_integrations.bench.load import load_task
from glimp_integrations.bench.question_files import cell_of, filled_lines, row_of
from glimp_integrations.calibration.fit import Prompt
from glimp_integrations.errors import ConfigError

__all__ = ["read"]

_FRESH = 60
_FAMILIES = {"gsm": "gsm_symbolic"}


def read(
    name: str, *, n: int | None, column: str, seed: int = 0, style: str | None = None
) -> list[Prompt]:
    """Prompts by name.

    Args:
        name: A ``.jsonl`` file (texts or conversations in ``column``), another file (one prompt on
            every line), ``gsm``, or another task of ``glimp bench``.
        n: The number of prompts; ``None``: all of a file, 60 of a task.
        column: The column of a ``.jsonl`` file.
        seed: The seed of a task's generator.
        style: How a task asks for the answer, see ``bench.formats``; ``None``: as it needs it.

    Raises:
        ConfigError: There is no such file or task, or a line is not a prompt.
    """
    path = Path(os.path.expanduser(name))
    looks_like_a_file = bool(path.suffix) or len(path.parts) > 1
    if os.path.isfile(path) or (looks_like_a_file and ":" not in name):
        return _from_file(path, n, column)
    if n is not None and n < 1:
        raise ConfigError(f"n is {n}; give the number of prompts, at least 1")
    task = load_task(_FAMILIES.get(name, name), n=n or _FRESH, seed=seed, format=style)
    return [[dict(message) for message in task.messages(item)] for item in task.items]


def _from_file(path: Path, n: int | None, column: str) -> list[Prompt]:
    if not path.is_file():
        raise ConfigError(f"no prompts file at {path}")
    is_json = path.suffix in (".jsonl", ".ndjson", ".json")
    prompts: list[Prompt] = []
    notes: list[str] = []
    for number, line in filled_lines(path, n, notes):
        if is_json:
            prompts.append(_from_row(row_of(line, path, number), path, number, column))
            continue
        try:
            prompts.append(line.decode("utf-8").strip())
        except UnicodeDecodeError as error:
            raise ConfigError(f"{path}, line {number} is not UTF-8 text: {error}") from None
    for note in notes:
        print(note, file=sys.stderr)
    if not prompts:
        raise ConfigError(f"{path} holds no prompts")
    return prompts


def _from_row(row: dict[str, Any], path: Path, number: int, column: str) -> Prompt:
    prompt = cell_of(row, column, "--column", path, number)
    if isinstance(prompt, str) and prompt.strip():
        return prompt
    if isinstance(prompt, list) and prompt and all(isinstance(m, dict) for m in prompt):
        return prompt
    raise ConfigError(
        f"{path}, line {number}: {column!r} is {str(prompt)[:80]!r}; expected a text or a list of "
        "messages"
    )
