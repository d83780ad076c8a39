"""``glimp batch`` as a process: killed, stopped, and started again."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from serve.held import until
from wire.fake_server import THINKING_TEMPLATE, FakeServer, Fault
from wire.helpers import THOUGHT, THOUGHT_ANSWER

from batch.files import asking, request, results, write

KEY = "hush-hush-hush"
PROGRAM = "from glimp_integrations.cli.app import main; main()"
OPTIONS: dict[str, Any] = {"template": THINKING_TEMPLATE, "api_key": KEY}


class Folder:
    """Requests, results and servers of one test."""

    def __init__(self, path: Path, small: FakeServer, large: FakeServer) -> None:
        self.small, self.large = small, large
        self.requests, self.results = path / "in.jsonl", path / "out.jsonl"

    def start(self, *more: str) -> subprocess.Popen[str]:
        models = [f"--small=openai:little@{self.small.url}", f"--large=openai:big@{self.large.url}"]
        files = [str(self.requests), str(self.results)]
        environment = {"GLIMP_API_KEY": KEY, "PATH": os.environ["PATH"], "PYTHONPATH": "."}
        return subprocess.Popen(
            [sys.executable, "-c", PROGRAM, "batch", *files, *models, "--route=always", *more],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )

    def run(self, *more: str) -> tuple[int, str, str]:
        process = self.start(*more)
        out, err = process.communicate(timeout=120)
        assert KEY not in out + err and "Traceback" not in err, err
        return process.returncode, out, err

    def lines(self) -> int:
        return self.results.read_bytes().count(b"\n") if self.results.exists() else 0

    def asked(self) -> set[str]:
        """Questions that the large model was asked, each as often as it began an answer."""
        prompts = [str(body["prompt"]) for body in self.large.completions()]
        return {m[0] for p in prompts for m in re.finditer(r"question \d+", p)}


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Folder]:
    with (
        FakeServer(THOUGHT, model="little", **OPTIONS) as small,
        FakeServer(THOUGHT, model="big", **OPTIONS) as large,
    ):
        made = Folder(tmp_path, small, large)
        write(made.requests, [asking(f"id {n}", f"question {n}") for n in range(40)])
        yield made


def wait_for_lines(folder: Folder, process: subprocess.Popen[str], lines: int) -> None:
    def there() -> bool:
        assert process.poll() is None, process.communicate()
        return folder.lines() >= lines

    until(there, 120)


@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_stopped_batch_goes_on(folder: Folder, stop: signal.Signals) -> None:
    folder.large.delay = folder.small.delay = 0.01
    process = folder.start("--concurrency", "4")
    wait_for_lines(folder, process, 5)
    process.send_signal(stop)
    out, err = process.communicate(timeout=60)
    if stop == signal.SIGKILL:
        assert process.returncode == -stop
    else:
        assert process.returncode == (130 if stop == signal.SIGINT else 143), err
        assert "The same command goes on" in err and "Traceback" not in err, err
        assert re.search(r"40 requests: \d+ answered, 0 failed, \d+ left", out), out
    before = folder.results.read_bytes()
    answered = set(results(folder.results)) if before.endswith(b"\n") else set()
    assert 5 <= len(answered) < 40
    folder.large.requests.clear()
    code, out, err = folder.run()
    assert code == 0 and "40 requests: 40 answered, 0 failed, 0 left" in out, err
    assert folder.results.read_bytes().startswith(before)
    found = results(folder.results)
    assert len(found) == 40
    replies = {f["response"]["body"]["choices"][0]["message"]["content"] for f in found.values()}
    assert replies == {THOUGHT_ANSWER}
    again = {name.replace("id", "question") for name in answered} & folder.asked()
    assert not again, "what was answered is asked again"


def test_the_summary_and_failures(folder: Folder) -> None:
    write(folder.requests, [asking("a", "Good?"), asking("b", "Bad?"), request("c", n=2)])
    fault = Fault("status", status=400, body="no", holding="Bad?")
    folder.large.faults.append(fault)
    code, out, err = folder.run("--prices", "1,2,10,20")
    assert code == 1 and "3 requests: 1 answered, 2 failed, 0 left" in out, err
    assert "2 requests failed; with --retry-failed they are asked again" in err
    small, large = (line.split() for line in out.splitlines() if line.split()[0] in SIZES)
    body = results(folder.results)["a"]["response"]["body"]
    assert int(large[1]) == body["glimp"]["tokens"]["large"]["kept"]
    assert int(small[1]) >= body["glimp"]["tokens"]["small"]["kept"]
    assert re.search(r"the large model wrote [\d.]+% of the kept tokens; cost [\d.e-]+\n", out)
    folder.large.faults.clear()
    write(folder.requests, [asking("a", "Good?"), asking("b", "Bad?"), request("c")])
    code, out, err = folder.run("--retry-failed")
    assert code == 0 and "3 requests: 3 answered, 0 failed, 0 left" in out, err


SIZES = {"small", "large"}


def test_a_mistake_is_one_line(folder: Folder) -> None:
    with folder.requests.open("a") as file:
        file.write(json.dumps(asking("id 7", "again?")) + "\n")
    code, _, err = folder.run()
    assert code == 1
    assert (
        "glimp: nothing was asked." in err and "line 41: custom_id 'id 7' is that of line 8" in err
    )
    assert not folder.large.completions() and not folder.results.exists()


def test_a_model_that_is_down_is_said_before_anything_is_asked(folder: Folder) -> None:
    code, _, err = folder.run("--large", "openai:big@http://127.0.0.1:9/v1")
    assert code == 1 and "glimp: large model: " in err
    assert not folder.results.exists()
