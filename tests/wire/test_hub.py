"""Weights from a hub over HTTP: whole, in two goes, other ones, none, and behind a gate."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from glimp_integrations import BackendError
from glimp_integrations.weights import ensure, home, wheels
from glimp_integrations.weights.download import bytes_there
from wire.fake_hub import PINNED, FakeHub, made_up, point_to
from wire.helpers import started_together

TOKEN = "hf_secretsecretsecret"
SMALL, SMALL_DATA = made_up("Little", 3000)
LARGE, LARGE_DATA = made_up("Big", 5000)


@pytest.fixture(autouse=True)
def _cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GLIMP_HOME", str(tmp_path / "home"))
    # What is not in the package index is never looked for there.
    monkeypatch.setattr(wheels, "_download", lambda *_: pytest.fail("pip was asked"))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A hub with both files at the pinned revision, and the library's addresses set to it."""
    with FakeHub() as fake:
        fake.files = {(PINNED, SMALL.filename): SMALL_DATA, (PINNED, LARGE.filename): LARGE_DATA}
        point_to(fake.root, monkeypatch)
        yield fake


def in_models() -> list[str]:
    return sorted(
        path.name
        for path in (home() / "models").glob("*")
        if not path.name.endswith((".lock", ".sha256.json"))
    )


def ranges(hub: FakeHub) -> list[str]:
    return [wanted for method, _, _, wanted in hub.requests if method == "GET"]


def test_a_download_goes_on_where_it_was_cut(hub: FakeHub) -> None:
    hub.cuts = [1000] * 4
    assert ensure(LARGE, quiet=True).read_bytes() == LARGE_DATA
    assert ranges(hub) == ["", *(f"bytes={n}000-" for n in range(1, 5))]


def test_a_download_goes_on_at_the_next_start(hub: FakeHub) -> None:
    hub.cuts = [1000] + [0] * 30
    with pytest.raises(BackendError, match="could not be fetched"):
        ensure(LARGE, quiet=True)
    assert bytes_there(LARGE) == 1000
    hub.cuts = []
    hub.requests.clear()
    assert ensure(LARGE, quiet=True).read_bytes() == LARGE_DATA
    assert ranges(hub) == ["bytes=1000-"]


def test_an_unfinished_download_that_is_too_long_begins_anew(hub: FakeHub) -> None:
    part = home() / "models" / "Little.gguf.hub.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"x" * 3001)
    assert ensure(SMALL, quiet=True).read_bytes() == SMALL_DATA


def test_the_token_is_not_sent_to_where_the_hub_keeps_its_bytes(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with FakeHub() as storage:
        storage.files = hub.files
        hub.storage = storage.root.replace("127.0.0.1", "localhost")
        assert ensure(LARGE, quiet=True).read_bytes() == LARGE_DATA
    assert hub.seen_tokens == {f"Bearer {TOKEN}"}
    assert storage.seen_tokens == {""} and storage.downloads() == [LARGE.filename]


def test_other_bytes_are_refused_before_they_are_fetched(hub: FakeHub) -> None:
    hub.files[PINNED, SMALL.filename] = other = SMALL_DATA[::-1]
    with pytest.raises(BackendError) as caught:
        ensure(SMALL, quiet=True, command="glimp pull little+big")
    for part in (hashlib.sha256(other).hexdigest(), SMALL.sha256, "made/Little", "other bytes"):
        assert part in str(caught.value)
    assert hub.downloads() == []


def test_another_size_is_refused_before_it_is_fetched(hub: FakeHub) -> None:
    hub.files[PINNED, SMALL.filename] = SMALL_DATA + b"more"
    hub.tags[SMALL.filename] = SMALL.sha256
    with pytest.raises(BackendError, match="3004 bytes"):
        ensure(SMALL, quiet=True)
    assert hub.downloads() == []


def test_bytes_that_are_not_what_the_hub_said_are_thrown_away(hub: FakeHub) -> None:
    hub.files[PINNED, SMALL.filename] = SMALL_DATA[::-1]
    hub.tags[SMALL.filename] = SMALL.sha256
    with pytest.raises(BackendError) as caught:
        ensure(SMALL, quiet=True)
    found = hashlib.sha256(SMALL_DATA[::-1]).hexdigest()
    for part in (found, SMALL.sha256, "thrown away", "not computed by this project"):
        assert part in str(caught.value)
    assert in_models() == []


@pytest.mark.parametrize("gone", ["revision", "file"])
def test_where_the_pinned_revision_is_gone_the_same_bytes_serve(hub: FakeHub, gone: str) -> None:
    hub.files = {("main", SMALL.filename): SMALL_DATA}
    if gone == "file":
        hub.files[PINNED, "README.md"] = b"moved"
    assert ensure(SMALL, quiet=True).read_bytes() == SMALL_DATA
    assert [revision for _, revision, _, _ in hub.requests] == [PINNED, "main", "main"]


def test_where_the_pinned_revision_is_gone_other_bytes_do_not_serve(hub: FakeHub) -> None:
    hub.files = {("main", SMALL.filename): SMALL_DATA[::-1]}
    with pytest.raises(BackendError, match="other bytes under that name at main"):
        ensure(SMALL, quiet=True)
    assert hub.downloads() == []


def test_a_file_that_is_nowhere_is_said_to_be_gone(hub: FakeHub) -> None:
    hub.files = {("main", "README.md"): b"moved"}
    with pytest.raises(BackendError) as caught:
        ensure(SMALL, quiet=True)
    for part in ("Little.gguf", "made/Little no longer has it", PINNED, "small=... and large=..."):
        assert part in str(caught.value)


def test_a_file_without_a_known_commit_is_pinned_by_its_bytes(hub: FakeHub) -> None:
    file, data = made_up("Branch", 700, revision="main")
    hub.files = {("main", file.filename): data}
    assert ensure(file, quiet=True).read_bytes() == data
    hub.files = {("main", "else.gguf"): data}
    ensure(file).unlink()
    hub.requests.clear()
    with pytest.raises(BackendError, match="no longer has it"):
        ensure(file, quiet=True)
    assert len(hub.requests) == 1


@pytest.mark.parametrize(
    ("status", "error"), [(401, "GatedRepo"), (403, "GatedRepo"), (401, "RepoNotFound"), (403, "")]
)
def test_where_nobody_is_let_in_the_licence_and_the_token_are_named(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch, status: int, error: str
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    hub.refusal = (status, error)
    with pytest.raises(BackendError) as caught:
        ensure(SMALL, quiet=True)
    for part in (f"HTTP {status}", f"{hub.root}/made/Little", "licence", "HF_TOKEN"):
        assert part in str(caught.value)
    assert hub.seen_tokens == {f"Bearer {TOKEN}"}, "the user's token is sent"
    assert TOKEN not in str(caught.value)


@pytest.mark.parametrize("status", [500, 503])
def test_a_hub_that_fails_is_named(hub: FakeHub, status: int) -> None:
    hub.refusal = (status, "")
    with pytest.raises(BackendError) as caught:
        ensure(SMALL, quiet=True, command="glimp pull little+big")
    for part in ("the Hugging Face hub", str(status), "run `glimp pull little+big` again"):
        assert part in str(caught.value)


def test_a_hub_that_is_down_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeHub() as gone:
        root = gone.root
    point_to(root, monkeypatch)
    with pytest.raises(BackendError) as caught:
        ensure(SMALL, quiet=True)
    for part in ("the Hugging Face hub", "Check the network", str(home() / "models")):
        assert part in str(caught.value)


_PROCESS = """
import sys, time
from pathlib import Path
sys.path.insert(0, {tests!r})
from glimp_integrations.weights import ensure
from wire.test_hub import LARGE
Path(sys.argv[1]).touch()
while not Path({go!r}).exists():
    time.sleep(0.005)
print(ensure(LARGE, quiet=True).stat().st_size)
"""


def test_two_processes_at_once_fetch_once(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", hub.root)
    go, ready = tmp_path / "go", [tmp_path / f"ready{number}" for number in range(2)]
    script = _PROCESS.format(tests=str(Path(__file__).parents[1]), go=str(go))
    results = started_together(script, ready, go)
    assert [out.strip() for out, _ in results] == ["5000"] * 2, results
    assert hub.downloads() == [LARGE.filename]
    assert in_models() == [LARGE.filename]
