"""Prompts for a calibration: good files, and every kind of bad one."""

from __future__ import annotations

import json

import pytest

from glimp_integrations.calibration.prompts import read
from glimp_integrations.errors import ConfigError


def prompts(path, **options):
    return read(str(path), **{"n": None, "column": "question", **options})


def test_a_text_file_has_a_prompt_a_line(tmp_path, capsys):
    path = tmp_path / "p.txt"
    path.write_text("one\n\n  two \n\n")
    assert prompts(path) == ["one", "two"]
    assert "p.txt: 2 blank lines skipped" in capsys.readouterr().err
    assert prompts(path, n=1) == ["one"]


def test_json_lines_hold_texts_or_conversations(tmp_path):
    path = tmp_path / "p.jsonl"
    talk = [{"role": "user", "content": "two"}]
    path.write_text(json.dumps({"q": "one"}) + "\n\n" + json.dumps({"q": talk}) + "\n")
    assert prompts(path, column="q") == ["one", talk]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.jsonl", '{"prompt": "x"}', r"line 1 has no column 'question' but 'prompt'.*--column"),
        ("p.jsonl", '{"question": "a"}\n{"question": 3}', r"line 2: 'question' is '3'; expected"),
        ("p.jsonl", '{"question": "a"}\nno json', "line 2 is not JSON"),
        ("p.jsonl", "[1]", "line 1 is a JSON list"),
        ("p.jsonl", "", "holds no prompts"),
        ("p.txt", "\n\n", "holds no prompts"),
        ("p.txt", b"\xff\xfe\xfa", "line 1 is not UTF-8 text"),
        ("p.txt", "x" * 10_000_000, "line 1 is longer than 2,000,000 bytes"),
        ("p.jsonl", '{"question": "' + "x" * 10_000_000 + '"}', "line 1 is longer than"),
    ],
)
def test_bad_files(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigError, match=message):
        prompts(path)


def test_no_such_file_or_task(tmp_path):
    with pytest.raises(ConfigError, match=r"no prompts file at .*gone\.jsonl"):
        prompts(tmp_path / "gone.jsonl")
    with pytest.raises(ConfigError, match=r"no task 'gms_symbolic'.*gsm_symbolic"):
        prompts("gms_symbolic")
    with pytest.raises(ConfigError, match="n is 0"):
        prompts("gsm", n=0)


def test_gsm_is_made_fresh_and_another_seed_makes_others():
    one, two = (prompts("gsm", n=3, seed=seed) for seed in (0, 1))
    assert len(one) == 3 and one != two and one == prompts("gsm", n=3, seed=0)
    assert one[0][-1]["role"] == "user"
