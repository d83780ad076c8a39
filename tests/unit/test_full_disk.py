"""A bench whose disk is full, read-only, or has links in place of its files."""

from __future__ import annotations

import errno
import io
import json
import os
from pathlib import Path
from typing import Any, NoReturn

import pytest
from test_bench_report import line

from glimp_integrations import ConfigError
from glimp_integrations.bench import Store
from glimp_integrations.calibrated_threshold import CalibratedThreshold

MANIFEST: dict[str, Any] = {"task": "t", "settings": {}}


class FullDisk(io.RawIOBase):
    """A file that takes a number of bytes and no more."""

    def __init__(self, path: Path, room: int) -> None:
        self.real, self.room = path.open("ab", buffering=0), room

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        if self.room == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        taken = bytes(data)[: self.room]
        self.room -= len(taken)
        return self.real.write(taken)

    def fileno(self) -> int:
        return self.real.fileno()

    def close(self) -> None:
        self.real.close()
        super().close()


@pytest.fixture
def answer() -> dict[str, Any]:
    return line("small", 0, right=True, seconds=1.0)


def fill(store: Store, room: int) -> FullDisk:
    """Put a full disk below a store."""
    disk = FullDisk(store.path, room)
    assert store._file is not None
    store._file.close()
    store._file = io.TextIOWrapper(io.BufferedWriter(disk), encoding="utf-8")
    return disk


def add_on_a_full_disk(folder: Path, answer: dict[str, Any]) -> None:
    with Store(folder, MANIFEST) as store:
        fill(store, room=100)
        store.add(answer)


def test_results_before_a_full_disk_are_kept_and_the_next_run_goes_on(
    tmp_path: Path, answer: dict[str, Any]
) -> None:
    with Store(tmp_path, MANIFEST) as store:
        store.add(answer)
    with pytest.raises(ConfigError, match=r"results\.jsonl: a line of .* No space left.*goes on"):
        add_on_a_full_disk(tmp_path, {**answer, "item": "q1"})
    with Store(tmp_path, MANIFEST) as store:  # the lock is free, the cut line dropped
        assert [kept["item"] for kept in store.lines] == ["q0"]
        store.add({**answer, "item": "q1"})
    assert len(Store(tmp_path).lines) == 2


def test_a_line_that_found_room_later_is_whole(tmp_path: Path, answer: dict[str, Any]) -> None:
    with Store(tmp_path, MANIFEST) as store:
        disk = fill(store, room=100)
        with pytest.raises(ConfigError, match="No space left"):
            store.add(answer)
        disk.room = 10**6
        store.add({**answer, "item": "q1"})
    assert [kept["item"] for kept in Store(tmp_path).lines] == ["q0", "q1"]


def test_a_manifest_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*places: Any) -> NoReturn:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(ConfigError, match=r"manifest\.json of .* characters cannot be written: No"):
        Store(tmp_path, MANIFEST)


@pytest.mark.skipif(os.name != "posix", reason="links as POSIX has them")
def test_links_are_not_written_through(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    folder = tmp_path / "bench"
    folder.mkdir()
    with Store(folder, MANIFEST):
        pass
    assert victim.read_text() == "precious"
    assert json.loads((folder / "manifest.json").read_text())["task"] == "t"
    (folder / ".lock").unlink()
    (folder / ".lock").symlink_to(victim)
    with pytest.raises(ConfigError, match="cannot write results to"):
        Store(folder, MANIFEST)
    assert victim.read_text() == "precious"


def test_the_home_of_nobody() -> None:
    with pytest.raises(
        ConfigError, match=r"no calibration can be read from .~nobody-there/c\.json"
    ):
        CalibratedThreshold.read("calibrated:~nobody-there/c.json")
