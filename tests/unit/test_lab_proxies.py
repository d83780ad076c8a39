"""Parts of the benchmark of proxies; tests/slow/test_proxy_cost.py runs it with real ones."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import jinja2
import psutil
import pytest
import yaml
from aiohttp.test_utils import TestClient, TestServer

from benchmarks.lab.litellm import RECIPE, over_replicas
from benchmarks.lab.proxies import Proxy, wait_until_ready
from benchmarks.lab.run import TEMPLATE
from benchmarks.lab.server import Costs, LabServer

MESSAGES = [{"role": "system", "content": "Bréf."}, {"role": "user", "content": "chain 1"}]


async def test_the_servers_render_as_the_template_that_backends_are_given() -> None:
    app = LabServer("small", [], Costs(decode=0)).app()
    async with TestClient(TestServer(app)) as client:
        tokens = await (await client.post("/tokenize", json={"messages": MESSAGES})).json()
        text = await (await client.post("/detokenize", json=tokens)).json()
    template = jinja2.Environment(keep_trailing_newline=True).from_string(TEMPLATE)
    assert text["prompt"] == template.render(messages=MESSAGES)


def test_litellm_spreads_over_all_replicas_and_keeps_the_rest_of_the_recipe(tmp_path: Path) -> None:
    urls = ["http://127.0.0.1:1/v1", "http://127.0.0.1:2/v1"]
    made, recipe = (yaml.safe_load(p.read_text()) for p in (over_replicas(tmp_path, urls), RECIPE))
    *replicas, large = made.pop("model_list")
    one, other = recipe.pop("model_list")
    assert [replica["litellm_params"].pop("api_base") for replica in replicas] == urls
    del one["litellm_params"]["api_base"]
    assert replicas == [one, one] and large == other and made == recipe


def test_time_of_children_counts() -> None:
    work = "import time\nwhile time.process_time() < 0.3: pass\nprint(flush=True)\ninput()"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {work!r}])"
    with subprocess.Popen(
        [sys.executable, "-c", parent], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None and process.stdin is not None
        process.stdout.readline()
        proxy = Proxy("", psutil.Process(process.pid))
        assert len(proxy.processes()) == 2 and proxy.cpu() >= 0.29
        process.stdin.write(b"\n")


def test_a_proxy_that_ends_at_once_says_why(tmp_path: Path) -> None:
    log = tmp_path / "log"
    command = [sys.executable, "-c", "raise SystemExit('no such file')"]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stderr=output)
    with pytest.raises(RuntimeError, match=r"ended with 1: no such file"):
        wait_until_ready("http://127.0.0.1:1/", process, log, 30)
