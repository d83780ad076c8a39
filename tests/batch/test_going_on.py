"""Batches that go on: nothing is asked twice, nothing is lost, nothing is mixed up."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest
from scripts import pair

from batch.files import Batch, asking, request, write
from glimp_integrations.batch.results_file import ResultsFile
from glimp_integrations.errors import BackendError, ConfigError


def three(folder: Path, **options: Any) -> Batch:
    """A batch of three questions."""
    return Batch(folder, *(asking(name, f"{name}?") for name in "abc"), **options)


def cut(path: Path, lines: int, more: bytes = b"") -> None:
    """Leave so many lines, and add something, as a crash might."""
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:lines]) + more)


def test_what_has_a_result_is_not_asked_again(tmp_path: Path) -> None:
    batch = three(tmp_path)
    first = batch.run()
    before = batch.results.read_bytes()
    assert batch.run() == first
    assert len(batch.asked()) == 3 and batch.results.read_bytes() == before
    write(batch.requests, [asking(name, f"{name}?") for name in "dcba"])
    assert batch.run().done == 4, "requests may be added, and stand in another order"
    assert batch.asked()[3:] == ["d?"] and batch.results.read_bytes().startswith(before)


@pytest.mark.parametrize(
    "torn",
    [b'{"id": "batch_req_0', b"\0\0\0", b'{"id": "x"}\n', b"{}", b"\xff\xfe"],
    ids=["half", "zeros", "whole", "object", "bytes"],
)
def test_a_last_line_that_was_cut_off_is_mended(tmp_path: Path, torn: bytes) -> None:
    batch = three(tmp_path)
    batch.run(concurrency=1)
    cut(batch.results, 2, torn)
    kept = batch.results.read_bytes()[: -len(torn)]
    assert batch.run().done == 3
    assert batch.asked() == ["a?", "b?", "c?", "c?"]
    assert batch.results.read_bytes().startswith(kept) and len(batch.read()) == 3
    assert "the last line of out.jsonl was cut off" in batch.said.texts[0]


def test_a_last_line_without_its_end_counts(tmp_path: Path) -> None:
    batch = three(tmp_path)
    batch.run(concurrency=1)
    whole = batch.results.read_bytes()
    batch.results.write_bytes(whole.removesuffix(b"\n"))
    batch.run()
    assert batch.results.read_bytes() == whole and len(batch.asked()) == 3


def test_another_broken_line_is_named(tmp_path: Path) -> None:
    batch = three(tmp_path)
    batch.run(concurrency=1)
    lines = batch.results.read_bytes().splitlines(keepends=True)
    batch.results.write_bytes(lines[0] + lines[1][:40] + b"\n" + lines[2])
    damaged = batch.results.read_bytes()
    with pytest.raises(ConfigError, match="line 2 is broken; remove that line"):
        batch.run()
    assert batch.results.read_bytes() == damaged
    batch.results.write_bytes(lines[0] + lines[2])
    batch.run()
    assert batch.asked() == ["a?", "b?", "c?", "b?"]


def test_results_of_other_requests_are_refused(tmp_path: Path) -> None:
    batch = three(tmp_path)
    batch.run(concurrency=1)
    before = batch.results.read_bytes()
    write(batch.requests, [asking("a", "a?"), asking("z", "z?")])
    with pytest.raises(ConfigError, match=r"line 2 is the result of 'b'.*Choose another file"):
        batch.run()
    write(batch.requests, [asking("a", "another"), asking("b", "b?"), asking("c", "c?")])
    with pytest.raises(ConfigError, match=r"'a' is another one now.*line 1"):
        batch.run(retry_failed=True)
    assert batch.results.read_bytes() == before and len(batch.asked()) == 3


def test_two_results_of_one_request_are_refused(tmp_path: Path) -> None:
    batch = three(tmp_path)
    batch.run()
    line = batch.results.read_bytes().splitlines(keepends=True)[0]
    with batch.results.open("ab") as file:
        file.write(line)
    with pytest.raises(ConfigError, match="line 4 is a second result of"):
        batch.run()


def test_other_settings_and_other_models_are_refused(tmp_path: Path) -> None:
    batch = three(tmp_path)
    batch.run()
    with pytest.raises(ConfigError, match=r'settings is .*"threshold": 0.5.* now.*Choose another'):
        batch.run({"threshold": 0.5})
    models, batch.models = batch.models, {**batch.models, "large": pair("No.")["small"]}
    with pytest.raises(ConfigError, match='large is "big" there and "tiny" now'):
        batch.run()
    batch.models = models
    assert len(batch.asked()) == 3
    assert batch.run({"timeout": 7, "strategy": "two_request"}).done == 3, "these change no text"


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    batch = three(tmp_path)
    batch.results.write_bytes(b"my diary")
    with pytest.raises(ConfigError, match=r"no out.jsonl.run.json beside it.*choose another file"):
        batch.run()
    assert batch.results.read_bytes() == b"my diary"
    (tmp_path / "out.jsonl.run.json").write_text("[")
    with pytest.raises(ConfigError, match=r"run.json is broken"):
        batch.run()
    (tmp_path / "out.jsonl.run.json").write_text("[]")
    with pytest.raises(ConfigError, match=r"run.json is broken"):
        batch.run()


def test_an_empty_file_begins_anew(tmp_path: Path) -> None:
    batch = three(tmp_path)
    batch.run()
    batch.results.write_bytes(b"")
    assert batch.run({"threshold": 0.5}).done == 3


def failing_once(folder: Path) -> Batch:
    """A batch whose second request has failed."""
    batch = three(folder)
    render = batch.models["large"].render

    async def sometimes(messages: Any, tools: Any = ()) -> Any:
        if messages[-1]["content"] == "b?":
            raise BackendError("it fell over", model="big")
        return await render(messages, tools)

    batch.models["large"].render = sometimes
    totals = batch.run(concurrency=1)
    assert (totals.done, totals.failed) == (2, 1)
    assert batch.read()["b"]["response"]["status_code"] == 502
    batch.models["large"].render = render
    return batch


def test_failed_requests_are_asked_again_on_request_only(tmp_path: Path) -> None:
    batch = failing_once(tmp_path)
    before = batch.results.read_bytes().splitlines()
    batch.results.chmod(0o640)
    assert batch.run().failed == 1 and batch.asked() == ["a?", "c?"]
    totals = batch.run(retry_failed=True)
    assert (totals.done, totals.failed) == (3, 0) and batch.asked() == ["a?", "c?", "b?"]
    after = batch.results.read_bytes().splitlines()
    assert after[:2] == [before[0], before[2]] and len(batch.read()) == 3
    assert batch.results.stat().st_mode & 0o777 == 0o640
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        ".out.jsonl.lock",
        "in.jsonl",
        "out.jsonl",
        "out.jsonl.run.json",
    ]


def test_a_failed_request_may_be_repaired(tmp_path: Path) -> None:
    batch = failing_once(tmp_path)
    write(batch.requests, [asking("a", "a?"), asking("b", "better?"), asking("c", "c?")])
    with pytest.raises(ConfigError, match=r"'b' is another one now.*--retry-failed"):
        batch.run()
    assert batch.run(retry_failed=True).done == 3 and batch.asked()[-1] == "better?"


def test_failed_lines_stay_where_they_cannot_be_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = failing_once(tmp_path)
    before = batch.results.read_bytes()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", full)
        with pytest.raises(ConfigError, match="No space left"):
            batch.run(retry_failed=True)
    assert batch.results.read_bytes() == before
    assert not list(tmp_path.glob(".out.jsonl.part"))
    assert batch.run(retry_failed=True).done == 3


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    link = tmp_path / "out.jsonl"
    link.symlink_to(tmp_path / "disk" / "real.jsonl")
    batch = failing_once(tmp_path)
    batch.run(retry_failed=True)
    assert link.is_symlink() and len(batch.read()) == 3
    assert (tmp_path / "disk" / "real.jsonl.run.json").exists()


def test_one_process_at_a_time(tmp_path: Path) -> None:
    batch = three(tmp_path)
    with (
        ResultsFile(batch.results, {}),
        pytest.raises(ConfigError, match="is being written by another glimp batch"),
    ):
        batch.run()
    assert batch.run().done == 3


def test_a_full_disk_leaves_whole_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = three(tmp_path)
    write_some, written = os.write, []

    def filling(descriptor: int, data: Any) -> int:
        if b"custom_id" not in bytes(data[:100]) and not written:
            return write_some(descriptor, data)  # other files of this process
        written.append(data)
        if len(written) == 2:
            return write_some(descriptor, data[:50])
        if len(written) == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write_some(descriptor, data)

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", filling)
        with pytest.raises(ConfigError, match=r"No space left.*the same command goes on"):
            batch.run(concurrency=1)
    assert list(batch.read()) == ["a"]
    assert batch.run().done == 3 and batch.asked() == ["a?", "b?", "b?", "c?"]


def test_requests_that_change_while_they_are_read_are_refused(tmp_path: Path) -> None:
    batch = three(tmp_path)
    render = batch.models["small"].render

    async def rewriting(messages: Any, tools: Any = ()) -> Any:
        write(batch.requests, [asking(name, "changed") for name in "abc"])
        return await render(messages, tools)

    batch.models["small"].render = rewriting
    with pytest.raises(ConfigError, match=r"was changed while it was being read .the request 'a'"):
        batch.run()


def test_every_line_is_on_the_disk_before_it_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    real = os.fsync

    def counting(descriptor: int) -> None:
        real(descriptor)
        synced.append(os.fstat(descriptor).st_size)

    monkeypatch.setattr(os, "fsync", counting)
    batch = three(tmp_path)
    seen: list[tuple[int, int]] = []

    def progress(totals: Any) -> None:
        seen.append((totals.done, synced[-1] if totals.done else 0))

    batch.said.progress = progress  # type: ignore[method-assign]
    batch.run(concurrency=1)
    ends = [0]
    for line in batch.results.read_bytes().splitlines(keepends=True):
        ends.append(ends[-1] + len(line))
    assert seen == list(enumerate(ends)) or seen == [*enumerate(ends), (3, ends[3])]


def test_an_id_stays_the_same_for_the_same_request(tmp_path: Path) -> None:
    first, second = tmp_path / "one", tmp_path / "two"
    first.mkdir()
    second.mkdir()
    reordered = dict(reversed(request("a").items()))
    for folder, line in ((first, request("a")), (second, reordered)):
        Batch(folder, line).run()
    ids = [json.loads((f / "out.jsonl").read_bytes())["id"] for f in (first, second)]
    assert ids[0] == ids[1]
