"""Prompts for a calibration: from a file, or made fresh."""

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
    name: str, *, n: int | None, column: str, seed: int = 0, style: str = "boxed"
) -> list[Prompt]:
    """Prompts by name.

    Args:
        name: A ``.jsonl`` file (texts or conversations in ``column``), another file (a prompt a
            line), ``gsm``, or another task of ``glimp bench``.
        n: So many; ``None``: all of a file, 60 of what is made fresh.
        column: Of a ``.jsonl`` file.
        seed: Of what is made fresh.
        style: How a task asks for the answer; see ``bench.formats``.

    Raises:
        ConfigError: There is no such file or task, or a line is no prompt.
    """
    path = Path(name).expanduser()
    looks_like_a_file = bool(path.suffix) or len(path.parts) > 1
    if os.path.isfile(path) or (looks_like_a_file and ":" not in name):
        return _of_file(path, n, column)
    if n is not None and n < 1:
        raise ConfigError(f"n is {n}; give the number of prompts, at least 1")
    task = load_task(_FAMILIES.get(name, name), n=n or _FRESH, seed=seed, format=style)
    return [[dict(message) for message in task.messages(item)] for item in task.items]


def _of_file(path: Path, n: int | None, column: str) -> list[Prompt]:
    if not path.is_file():
        raise ConfigError(f"no prompts file at {path}")
    is_json = path.suffix in (".jsonl", ".ndjson", ".json")
    prompts: list[Prompt] = []
    notes: list[str] = []
    for number, line in filled_lines(path, n, notes):
        if is_json:
            prompts.append(_of_row(row_of(line, path, number), path, number, column))
            continue
        try:
            prompts.append(line.decode("utf-8").strip())
        except UnicodeDecodeError as error:
            raise ConfigError(f"{path}, line {number} is no UTF-8 text: {error}") from None
    for note in notes:
        print(note, file=sys.stderr)
    if not prompts:
        raise ConfigError(f"{path} holds no prompts")
    return prompts


def _of_row(row: dict[str, Any], path: Path, number: int, column: str) -> Prompt:
    said = cell_of(row, column, "--column", path, number)
    if isinstance(said, str) and said.strip():
        return said
    if isinstance(said, list) and said and all(isinstance(m, dict) for m in said):
        return said
    raise ConfigError(
        f"{path}, line {number}: {column!r} is {str(said)[:80]!r}; expected a text or a list of "
        "messages"
    )
