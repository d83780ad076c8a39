"""A file of requests on the bundled models, from the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from glimp_integrations.cli.app import app

SUMS = {"17 * 23": "391", "12 + 30": "42", "9 * 9": "81"}
CITY = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}


def line(custom_id: str, question: str, **body: Any) -> str:
    messages = [{"role": "user", "content": question}]
    body = {"model": "glimp", "temperature": 0, "max_tokens": 200, "messages": messages, **body}
    url = "/v1/chat/completions"
    return json.dumps({"custom_id": custom_id, "method": "POST", "url": url, "body": body}) + "\n"


def test_a_file_is_answered_and_goes_on(tmp_path: Path) -> None:
    schema = {"type": "json_schema", "json_schema": {"name": "city", "schema": CITY}}
    asked = [line(sum_, f"What is {sum_}?") for sum_ in SUMS]
    asked.append(line("city", "What is the capital of France?", response_format=schema))
    requests, results = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    requests.write_text("".join(asked[:2]), encoding="utf-8")
    command = ["batch", str(requests), str(results), "--concurrency", "2", "--route", "always"]
    first = CliRunner().invoke(app, command, catch_exceptions=False)
    assert first.exit_code == 0 and "2 requests: 2 answered" in first.output, first.output
    before = results.read_bytes()
    requests.write_text("".join(asked), encoding="utf-8")
    again = CliRunner().invoke(app, command, catch_exceptions=False)
    assert again.exit_code == 0 and "4 requests: 4 answered" in again.output, again.output
    assert results.read_bytes().startswith(before)
    lines = [json.loads(text) for text in results.read_text(encoding="utf-8").splitlines()]
    replies = {
        found["custom_id"]: found["response"]["body"]["choices"][0]["message"]["content"]
        for found in lines
    }
    assert all(number in replies[sum_] for sum_, number in SUMS.items()), replies
    assert "Paris" in json.loads(replies["city"])["city"]
