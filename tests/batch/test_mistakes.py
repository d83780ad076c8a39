"""Files of requests with mistakes: nothing is asked, and the line is named."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from batch.files import Batch, request
from glimp_integrations.batch.lines import read_lines
from glimp_integrations.batch.requests_file import RequestsFile
from glimp_integrations.errors import ConfigError

WRONG: list[tuple[Any, str]] = [
    ('{"custom_id": "a", ', r"line 2: it is not JSON \("),
    ("[" * 100_000, r"line 2: it is not JSON \("),
    ('{"custom_id": NaN}', "line 2: it is not JSON .JSON has no NaN"),
    ('{"custom_id": %s}' % ("9" * 5000), "line 2: it is not JSON"),
    (b'{"custom_id": "\xff"}', r"line 2: it is not UTF-8 \(byte 16: "),
    ("[1]", r"line 2: it is \[1\]; expected an object"),
    ({**request("x"), "custom_id": 7}, "line 2: custom_id is 7; expected a text"),
    ({**request("x"), "custom_id": ""}, "line 2: custom_id is ''"),
    ({**request("x"), "custom_id": "x" * 600}, "line 2: custom_id is .*at most 512 characters"),
    ({**request("x"), "custom_id": "\ud83d"}, r"line 2: custom_id is '\\ud83d'; .*Unicode"),
    ({**request("x"), "method": "GET"}, "line 2: method is 'GET'; expected 'POST'"),
    ({**request("x"), "url": "/v1/embeddings"}, "line 2: url is '/v1/embeddings'; expected"),
    ({**request("x"), "body": None}, "line 2: body is missing; expected an object"),
    (request("x", model="gpt-4o"), "line 2: body.model is 'gpt-4o'.*--model-name"),
    (request("first"), "line 2: custom_id 'first' is that of line 1 already"),
    (request("x", user="u" * 3000), "line 2: it is longer than 2,000 bytes.*--max-line-bytes"),
]


@pytest.mark.parametrize(("line", "said"), WRONG, ids=range(len(WRONG)))
def test_a_mistake_is_named_with_its_line_and_nothing_is_asked(
    tmp_path: Path, line: Any, said: str
) -> None:
    batch = Batch(tmp_path, request("first"), line, request("last"))
    most = 2000 if "longer" in said else 10**6
    with pytest.raises(ConfigError, match=said) as raised:
        batch.run(max_line_bytes=most)
    assert "nothing was asked" in str(raised.value) and len(str(raised.value)) < 1000
    assert not batch.asked() and not batch.results.exists()


def test_several_mistakes_are_named_at_once(tmp_path: Path) -> None:
    batch = Batch(tmp_path, *["no"] * 3, request("a"), *["no"] * 9)
    with pytest.raises(ConfigError) as raised:
        batch.run()
    named = [n for n in range(1, 14) if f"line {n}:" in str(raised.value)]
    assert named == [1, 2, 3, 5, 6] and "more below" in str(raised.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "in.jsonl cannot be read: No such file"), (b"", "no requests"), (b"\n\n", "no req")],
)
def test_no_requests(tmp_path: Path, content: bytes | None, said: str) -> None:
    batch = Batch(tmp_path)
    batch.requests.unlink()
    if content is not None:
        batch.requests.write_bytes(content)
    with pytest.raises(ConfigError, match=said):
        batch.run()


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    batch = Batch(tmp_path, request("a"))
    batch.results.mkdir()
    with pytest.raises(ConfigError, match="is not a file"):
        batch.run()
    batch.requests = tmp_path
    with pytest.raises(ConfigError, match="is not a file"):
        batch.run()


def test_requests_and_results_are_two_files(tmp_path: Path) -> None:
    batch = Batch(tmp_path, request("a"))
    batch.results.symlink_to(batch.requests)
    with pytest.raises(ConfigError, match="choose another one"):
        batch.run()


def test_what_is_no_mistake(tmp_path: Path) -> None:
    batch = Batch(tmp_path, "", request("a"), "  ", {**request("b"), "note": 1})
    text = batch.requests.read_bytes()
    batch.requests.write_bytes(b"\xef\xbb\xbf" + text.replace(b"\n", b"\r\n").rstrip())
    assert batch.run().done == 2


def test_another_model_name(tmp_path: Path) -> None:
    batch = Batch(tmp_path, request("a", model="gpt-4o"))
    batch.run(model_name="gpt-4o")
    assert batch.read()["a"]["response"]["body"]["model"] == "gpt-4o"


def test_lines_have_numbers_places_and_a_limit(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    path.write_bytes(b"ab\n\n" + b"x" * 3_000_000 + b"\nabcd\ne")
    with path.open("rb") as file:
        found = [(r.number, r.start, r.data, r.whole) for r in read_lines(file, 4)]
    assert found == [
        (1, 0, b"ab", True),
        (2, 3, b"", True),
        (3, 4, None, True),
        (4, 3_000_005, b"abcd", True),
        (5, 3_000_010, b"e", False),
    ]


@pytest.mark.serial
def test_memory_holds_ids_only(tmp_path: Path) -> None:
    # mark.serial: it measures memory.
    path = tmp_path / "in.jsonl"
    count = 20_000
    with path.open("w") as file:
        for number in range(count):
            file.write(json.dumps(request(f"request-{number:012}", user="u" * 1000)) + "\n")
    requests = RequestsFile(path, "glimp", 10**6)
    tracemalloc.start()
    try:
        digests = requests.check()
        kept, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(digests) == count
    assert kept / count < 250 and peak - kept < 3_000_000, (kept / count, peak - kept)
