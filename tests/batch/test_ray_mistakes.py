"""Clusters that cannot be used; a real one is in ``tests/slow/test_ray_cluster.py``."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from batch.files import Batch, asking, request
from glimp_integrations.batch.requests_file import RequestsFile
from glimp_integrations.errors import ConfigError


def test_without_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "glimp_integrations.batch.ray", raising=False)
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    batch = Batch(tmp_path, request("a"))
    with pytest.raises(ConfigError, match=r"pip install 'glimp-integrations\[ray\]'"):
        batch.run(ray_address="local")
    assert not batch.asked()


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("127.0.0.1:1", "refused"),
        ("ray://127.0.0.1:10001", "neither auto, nor local, nor HOST:PORT"),
        ("head", "neither auto"),
    ],
)
def test_a_cluster_that_is_not_there(tmp_path: Path, address: str, said: str) -> None:
    pytest.importorskip("ray", reason="the extra ray is not part of all")
    batch = Batch(tmp_path, request("a"))
    with pytest.raises(ConfigError, match=f"'{address}' cannot be reached: .*{said}"):
        batch.run(ray_address=address)
    assert not batch.asked()


def test_no_actors(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="ray_actors is 0"):
        Batch(tmp_path, request("a")).run(ray_actors=0)


def test_requests_are_found_where_they_begin(tmp_path: Path) -> None:
    batch = Batch(tmp_path, asking("a", "a?"), "", asking("b", "b?"))
    batch.requests.write_bytes(b"\xef\xbb\xbf" + batch.requests.read_bytes())
    requests = RequestsFile(batch.requests, "glimp", 10**6)
    first, second = requests
    assert list(requests.at([second.start, first.start])) == [second, first]
    with pytest.raises(ConfigError, match=r"was changed .*the line at byte 7"):
        list(requests.at([7]))
