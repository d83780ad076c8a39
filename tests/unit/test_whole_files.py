"""A file that is being written is the old one or the new one, whatever happens in between."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest
from helpers import router
from test_bench_report import line

from glimp_integrations import ConfigError
from glimp_integrations.bench import Store
from glimp_integrations.bench.report import write_report
from glimp_integrations.calibrated_threshold import Calibration
from glimp_integrations.trace.files import write
from glimp_integrations.whole_files import write_whole

posix = pytest.mark.skipif(os.name != "posix", reason="files as POSIX has them")


def full(*_: Any) -> NoReturn:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def stopped(*_: Any) -> NoReturn:
    raise KeyboardInterrupt


def umask() -> int:
    os.umask(mask := os.umask(0))
    return mask


def half(path: Path, _: Any) -> NoReturn:
    """A disk that takes the beginning, where the text goes straight into the file."""
    path.write_bytes(b"{")
    full()


def test_it_writes_new_files_and_replaces_old_ones(tmp_path: Path) -> None:
    path = tmp_path / ("n" * 250 + ".json")
    for content in (b"one", b"two\n\xff", b""):
        write_whole(path, content)
        assert path.read_bytes() == content
        assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize("failure", [full, stopped])
@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_an_interrupted_write_keeps_the_old_file(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
    failure: Callable[..., NoReturn],
) -> None:
    path = tmp_path / "t.json"
    path.write_bytes(b"old")
    monkeypatch.setattr(os, step, failure)
    with pytest.raises((OSError, KeyboardInterrupt)):
        write_whole(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["t.json"]


def test_the_disk_has_the_bytes_before_the_name_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *a, n=name, r=real: (order.append(n), r(*a))[1])
    write_whole(tmp_path / "t.json", b"new")
    assert order == ["fsync", "replace"]


@posix
def test_permissions_are_kept_and_new_files_get_the_usual_ones(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    before = os.umask(0o027)
    try:
        write_whole(path, b"one")
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
        path.chmod(0o604)
        write_whole(path, b"two")
        assert stat.S_IMODE(path.stat().st_mode) == 0o604
    finally:
        os.umask(before)


@posix
def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    for name in ("there.json", "not-yet.json"):
        target, link = tmp_path / "real" / name, tmp_path / name
        if name == "there.json":
            target.write_bytes(b"old")
        link.symlink_to(target)
        write_whole(link, b"new")
        assert link.is_symlink() and target.read_bytes() == b"new"
    assert sorted(os.listdir(tmp_path / "real")) == ["not-yet.json", "there.json"]


@posix
@pytest.mark.parametrize("exists", [True, False])
def test_a_link_is_replaced_where_none_may_be_followed(tmp_path: Path, exists: bool) -> None:
    target, link = tmp_path / "target", tmp_path / "t.json"
    if exists:
        target.write_bytes(b"precious")
        target.chmod(0o600)
    link.symlink_to(target)
    write_whole(link, b"new", follow_links=False)
    assert not link.is_symlink() and link.read_bytes() == b"new"
    assert target.exists() == exists and (not exists or target.read_bytes() == b"precious")
    assert stat.S_IMODE(link.stat().st_mode) == 0o666 & ~umask()
    write_whole(link, b"newer", follow_links=False)
    assert link.read_bytes() == b"newer"


@posix
def test_a_folder_is_no_file_to_replace(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError):
        write_whole(tmp_path / "folder", b"x", follow_links=False)
    assert os.listdir(tmp_path) == ["folder"]


@posix
def test_what_is_no_plain_file_is_written_in_place(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        write_whole(pipe, b"through")
        assert os.read(reader, 100) == b"through"
        assert stat.S_ISFIFO(pipe.stat().st_mode)
    finally:
        os.close(reader)
    with pytest.raises(IsADirectoryError):
        write_whole(tmp_path, b"x")


def test_a_folder_that_takes_no_other_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # root may write everywhere, so the refusal is made here.
    def refuse(*_: Any) -> NoReturn:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    path = tmp_path / "t.json"
    path.write_bytes(b"old")
    real = os.open
    monkeypatch.setattr(
        os, "open", lambda p, *a, **k: refuse() if str(p).endswith(".part") else real(p, *a, **k)
    )
    with pytest.raises(PermissionError):
        write_whole(path, b"half of it", follow_links=False)
    assert path.read_bytes() == b"old"
    write_whole(path, b"new")
    assert path.read_bytes() == b"new"
    with pytest.raises(PermissionError):
        write_whole(tmp_path / "other.json", b"new")


SAVED: dict[str, Callable[[Path], object]] = {
    "trace": lambda path: router().run("?").trace.save(path),
    "page": lambda path: write(path, router().run("?").trace.to_html(), "the page"),
    "calibration": lambda path: Calibration.model_construct(threshold=1.0).save(path),
}


@pytest.mark.parametrize("what", SAVED)
def test_a_full_disk_costs_nothing_that_was_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    path = tmp_path / "t.json"
    SAVED[what](path)
    before = path.read_bytes()
    assert len(before) > 100 or what == "calibration"
    monkeypatch.setattr(os, "fsync", full)
    monkeypatch.setattr(Path, "write_text", half)
    with pytest.raises(ConfigError, match=r"cannot be written to .*: No space left"):
        SAVED[what](path)
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["t.json"]


def test_a_full_disk_costs_no_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    from rich.console import Console

    console = Console(quiet=True)
    with Store(tmp_path, {"task": "t", "settings": {}}) as store:
        store.add(line("small", 0, right=True, seconds=1.0))
        write_report(store, None, console)
        written = ["frontier.png", "report.md"]
        before = [(tmp_path / name).read_bytes() for name in written]
        assert before[0].startswith(b"\x89PNG") and all(before)
        real = os.replace
        for failing in written:

            def refuse(source: str, target: Path, failing: str = failing) -> None:
                full() if target.name == failing else real(source, target)

            with monkeypatch.context() as patch:
                patch.setattr(os, "replace", refuse)
                with pytest.raises(ConfigError, match=r"report cannot be written to .*: No space"):
                    write_report(store, None, console)
            assert [(tmp_path / name).read_bytes() for name in written] == before
            assert not list(tmp_path.glob(".glimp-*"))
