"""The benchmark of proxies, with as many of them as are installed, and very little to do."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.lab.nginx import NGINX
from benchmarks.lab.ray_serve import RAY_SERVE
from tools import litellm_proxy

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
INSTALLED = {
    "nginx": NGINX is not None and shutil.which("openssl") is not None,
    "litellm": litellm_proxy.installed(),
    "ray": RAY_SERVE.exists(),
}


@pytest.mark.parametrize("proxy", INSTALLED)
def test_every_text_comes_through_and_takes_time_of_the_proxy(proxy: str, tmp_path: Path) -> None:
    if not INSTALLED[proxy]:
        pytest.skip(f"{proxy} is not installed")
    options = ["--rounds", "1", "--steps", "8", "--at-once", "8", "--settings", "instant"]
    figures = tmp_path / "figures.json"
    # It checks the texts itself.
    subprocess.run(
        [
            *(sys.executable, "-m", "benchmarks.proxy_cost", "--proxy", proxy),
            *(*options, "--json", str(figures)),
        ],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=True,
    )
    (row,) = json.loads(figures.read_text())
    assert row["proxy"] == proxy and set(row["medians"]) == {"direct", "proxy"}
    assert all(arm["first"] > 0 and arm["token"] > 0 for arm in row["medians"].values())
    assert row["cpu"] > 0 and all(cpu > 0 for cpu in row["replicas_cpu"].values())
    # The proxy has nothing to do while nobody asks it.
    direct, through = (row["turns"][arm][0]["proxy"] for arm in ("direct", "proxy"))
    assert direct < through
