"""Question files that were damaged, or have what no model can be asked."""

from __future__ import annotations

import copy
import errno
import json
import math
import os
import random
from pathlib import Path
from typing import Any, NoReturn

import pytest

from glimp_integrations import ConfigError
from glimp_integrations.bench.formats import named_format
from glimp_integrations.bench.question_files import load_file

NUMBERS = [-1, 0, 10**400, 1e308, -0.5, math.inf, -math.inf, math.nan]
TEXTS = ["", "inf", "1e999", "nan", "\ud83d", "a\0b", "5"]
ODD_VALUES = [None, True, *NUMBERS, *TEXTS, [], {}, [[]], {"a": [1]}, [math.inf, math.nan]]


def mutated(chance: random.Random, value: Any) -> str:
    """JSON text of a value with one odd value in place of another, or with damaged characters."""
    changed = copy.deepcopy(value)
    where = changed
    while True:
        key = chance.choice(list(where) if isinstance(where, dict) else range(len(where)))
        inner = where[key]
        if isinstance(inner, dict | list) and inner and chance.random() < 0.7:
            where = inner
            continue
        if chance.random() < 0.2:
            del where[key]
        else:
            where[key] = chance.choice(ODD_VALUES)
        break
    text = json.dumps(changed)
    for _ in range(chance.choice([0, 0, 1, 3])):
        at = chance.randrange(len(text))
        text = text[:at] + chance.choice(["", "{", '"', "9", "e999", "\\u0000"]) + text[at + 1 :]
    return text


class TestQuestions:
    def load(self, path: Path) -> Any:
        style = named_format("boxed")
        return load_file(path, n=None, style=style, question="question", answer="answer")

    def test_only_errors_of_this_package(self, tmp_path: Path):
        chance = random.Random(21)
        row = {"id": "q", "question": "2 + 2?", "answer": "4", "more": {"a": [1, "x"]}}
        file = tmp_path / "q.jsonl"
        refused = 0
        for _ in range(300):
            file.write_text(mutated(chance, row), encoding="utf-8")
            try:
                (item,) = self.load(file).items
            except ConfigError:
                refused += 1
                continue
            assert f"{item.id}{item.question}{item.answer}".encode()
        assert 100 < refused < 300

    @pytest.mark.parametrize(
        ("line", "message"),
        [
            (r'{"question": "a \ud83d b", "answer": 1}', "line 1 has half of a character"),
            ('{"question": "x", "answer": NaN}', "line 1: 'answer' is nan"),
            ('{"question": "x", "answer": 1e999}', "line 1: 'answer' is inf"),
        ],
    )
    def test_what_no_model_can_be_asked(self, tmp_path: Path, line: str, message: str):
        (tmp_path / "q.jsonl").write_text(line)
        with pytest.raises(ConfigError, match=message):
            self.load(tmp_path / "q.jsonl")

    def test_a_file_that_cannot_be_read(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        def forbidden(self: Path, mode: str) -> NoReturn:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self))

        (tmp_path / "q.jsonl").write_text("{}")
        monkeypatch.setattr(Path, "open", forbidden)
        with pytest.raises(ConfigError, match=r"q\.jsonl cannot be read: Permission denied"):
            self.load(tmp_path / "q.jsonl")
