"""A whole ``glimp bench`` with the bundled models, from the command line to the pictures."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from glimp_integrations import Trace
from glimp_integrations.cli.app import app


def bench(folder: Path, *more: str) -> str:
    arguments = [
        "bench",
        "--n",
        "2",
        "--max-tokens",
        "16",
        "--measure-every",
        "0",
        "--arms",
        "small,large,routed@0.3,random@0.5",
        "--out",
        str(folder),
    ]
    done = CliRunner().invoke(app, [*arguments, *more], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


@pytest.mark.slow  # the other one is a bench from the command line, too
def test_a_short_bench_and_its_resumption(tmp_path: Path) -> None:
    output = bench(tmp_path, "--prices", "1,2,3,4")
    path = tmp_path / "results.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert len({(x["arm"], x["item"]) for x in lines}) == len(lines) == 8
    authors = {
        arm: {s.author for x in lines if x["arm"] == arm for s in _steps(x)}
        for arm in ("small", "large", "routed@0.3", "random@0.5")
    }
    assert authors["small"] == {"small"} and authors["large"] == {"large"}
    # No arm found an earlier one's question: what is cached is the template's beginning.
    arms = []
    for line in lines:
        first = _steps(line)[0]
        assert (first.entropy is not None) == ("@" in line["arm"])
        if first.prefilled_tokens is not None:  # a cancelled stream does not tell
            arms.append(line["arm"])
            assert first.prefilled_tokens > 40, line["arm"]
    assert {"small", "large"} <= set(arms)
    for name in ("report.md", "frontier.png", "entropy.png", "share.png"):
        assert (tmp_path / name).stat().st_size > 500
    assert "routed@0.3" in output and "the large model alone" in output

    whole = path.read_bytes()
    path.write_bytes(whole[: whole.rindex(b"\n", 0, -1) + 40])  # killed within the last line
    again = bench(tmp_path)
    assert "was cut off" in again
    assert path.read_bytes().count(b"\n") == 8
    resumed = [json.loads(line) for line in path.read_text().splitlines()]
    assert [x["reply"] for x in resumed] == [x["reply"] for x in lines]


def _steps(line: dict) -> list:
    return Trace.model_validate(line["trace"]).steps


def test_ctrl_c_stops_and_the_same_command_goes_on(tmp_path: Path) -> None:
    command = [
        str(Path(sys.executable).with_name("glimp")),
        "bench",
        "--task",
        "chain_sum:max_terms=2,max_digits=2",
        "--format",
        "short",
        "--n",
        "2",
        "--max-tokens",
        "12",
        "--arms",
        "small,large",
        "--measure-every",
        "0",
        "--out",
        str(tmp_path),
    ]
    path = tmp_path / "results.jsonl"
    first = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    deadline = time.monotonic() + 300
    while not (path.exists() and path.read_bytes().count(b"\n") >= 1):
        assert first.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    first.send_signal(signal.SIGINT)
    output, _ = first.communicate(timeout=60)
    assert first.returncode == 130, output
    assert "The same command goes on" in output and "Traceback" not in output
    before = path.read_bytes()
    assert 1 <= before.count(b"\n") < 4
    # In this process, which has imported everything: what matters is what was left on the disk.
    again = CliRunner().invoke(app, command[1:], catch_exceptions=False)
    assert again.exit_code == 0, again.output
    assert path.read_bytes().startswith(before), again.output
    assert path.read_bytes().count(b"\n") == 4
