"""A batch on a real Ray cluster of this machine."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from batch.files import asking, request, results, write
from serve.held import until
from wire.fake_server import THINKING_TEMPLATE, FakeServer
from wire.helpers import THOUGHT, THOUGHT_ANSWER

pytestmark = pytest.mark.slow  # a cluster takes half a minute; tests/batch runs the same without

KEY = "hush-hush-hush"
PROGRAM = "from glimp_integrations.cli.app import main; main()"
# The cluster is a process of its own, as any is that stands before a batch comes.
CLUSTER = """
import sys
from ray.cluster_utils import Cluster
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 4})
print(cluster.address, flush=True)
sys.stdin.read()
cluster.shutdown()
"""
OPTIONS: dict[str, Any] = {"template": THINKING_TEMPLATE, "api_key": KEY}


def environment() -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "PYTHONPATH") if name in os.environ}
    return {**kept, "GLIMP_API_KEY": KEY, "RAY_USAGE_STATS_ENABLED": "0", "GLIMP_OFFLINE": "1"}


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", CLUSTER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    assert process.stdout is not None
    assert process.stdin is not None
    try:
        address = process.stdout.readline().strip()
        assert re.fullmatch(r"[\w.]+:\d+", address), address
        yield address
    finally:
        process.stdin.close()
        process.wait(60)
        process.stdout.close()


@contextmanager
def running(folder: Path) -> Iterator[tuple[Callable[..., subprocess.Popen[str]], FakeServer]]:
    """Starts a batch of 61 requests, as often as it is called; and its large model."""
    asked, out = folder / "in.jsonl", folder / "out.jsonl"
    lines = [asking(f"id {n}", f"question {n}") for n in range(60)]
    write(asked, [*lines, request("bad", n=2)])
    with (
        FakeServer(THOUGHT, model="little", delay=0.005, **OPTIONS) as small,
        FakeServer(THOUGHT, model="big", delay=0.005, **OPTIONS) as large,
    ):
        models = [f"--small=openai:little@{small.url}", f"--large=openai:big@{large.url}"]
        command = [sys.executable, "-c", PROGRAM, "batch", str(asked), str(out), *models]

        def start(*more: str) -> subprocess.Popen[str]:
            return subprocess.Popen(
                [*command, "--route=always", *more],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env=environment(),
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
            )

        yield start, large


def more_lines(process: subprocess.Popen[str], out: Path, before: bytes) -> bool:
    """Whether five results came since."""
    assert process.poll() is None, process.communicate()
    return out.exists() and out.read_bytes().count(b"\n") >= before.count(b"\n") + 5


def test_the_same_work_on_a_cluster(cluster: str, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    with running(tmp_path) as (start, large):
        on_cluster = ["--ray", cluster, "--ray-actors", "2", "--concurrency", "3"]
        for stop, status in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
            written = out.read_bytes() if out.exists() else b""
            process = start(*on_cluster)
            until(partial(more_lines, process, out, written), 240)
            process.send_signal(stop)
            _, err = process.communicate(timeout=120)
            assert process.returncode == status, err
            assert "The same command goes on" in err and "Traceback" not in err, err
            assert out.read_bytes().startswith(written)
        before = out.read_bytes()
        answered = results(out)
        assert 10 <= len(answered) < 61
        large.requests.clear()
        second = start(*on_cluster)
        said, err = second.communicate(timeout=240)
        assert second.returncode == 1 and "61 requests: 60 answered, 1 failed, 0 left" in said, err
        assert KEY not in said + err
        assert out.read_bytes().startswith(before)
        found = results(out)
        assert found["bad"]["response"]["status_code"] == 400
        good = [line for name, line in found.items() if name != "bad"]
        replies = {f["response"]["body"]["choices"][0]["message"]["content"] for f in good}
        assert replies == {THOUGHT_ANSWER}
        prompts = json.dumps(large.completions())
        questions = {f"id {number}" for number in re.findall(r"question (\d+)", prompts)}
        assert not questions & set(answered), "what was answered is asked again"
        # What a cluster began is gone on with here, and the other way round.
        last = start("--retry-failed")
        said, err = last.communicate(timeout=240)
        assert last.returncode == 1 and "60 answered, 1 failed" in said, err
