"""Context windows for many conversations at once in GGUF files of this process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from gguf_headers import GIB, TOKEN, gguf, plenty, room

from glimp_integrations import GlimpRouter
from glimp_integrations.backends import LlamaCppBackend, ScriptedBackend
from glimp_integrations.backends.gguf import cache_bytes
from glimp_integrations.backends.room import make_room
from glimp_integrations.calibration.fit import calibrate
from glimp_integrations.cli import bench as cli_bench
from glimp_integrations.errors import BackendError
from glimp_integrations.weights import memory
from glimp_integrations.weights.pairs import WORKING_BYTES

WINDOW = 8192 * TOKEN

pytestmark = pytest.mark.usefixtures(plenty.__name__)


@pytest.mark.parametrize(
    ("changes", "each"),
    [
        ({}, TOKEN),
        ({"toy__attention__key_length": 192, "toy__attention__value_length": 128}, TOKEN * 5 // 2),
        ({"toy__attention__head_count_kv": None}, TOKEN * 4),
        ({"toy__attention__head_count_kv": [2, 0, 0, 2]}, TOKEN // 2),
        ({"toy__attention__head_count": None}, None),
        ({"toy__attention__head_count": 0}, None),
        ({"toy__block_count": None}, None),
        ({"toy__block_count": "many"}, None),
    ],
    ids=str,
)
def test_what_a_token_takes_is_in_the_header(tmp_path: Path, changes: Any, each: int) -> None:
    assert cache_bytes(gguf(tmp_path / "a.gguf", **changes)) == each


def test_a_damaged_header_tells_nothing(tmp_path: Path) -> None:
    path = gguf(tmp_path / "a.gguf")
    whole = path.read_bytes()
    for length in range(0, whole.index(b"head_count_kv"), 7):
        path.write_bytes(whole[:length])
        assert cache_bytes(path) is None
    for place in range(4, len(whole)):
        path.write_bytes(whole[:place] + b"\xff" * 8 + whole[place + 8 :])
        cache_bytes(path)  # raises nothing, and ends


def test_each_conversation_has_a_window(tmp_path: Path) -> None:
    path = gguf(tmp_path / "a.gguf")
    small, large = LlamaCppBackend(path), LlamaCppBackend(path, context_window=2048)
    make_room([small, large, ScriptedBackend([])], 16)
    assert (room(small), room(large)) == ((16 * 8192, 16), (16 * 2048, 16))
    assert (small.context_window, large.context_window) == (8192, 2048), "of one conversation"
    make_room([small], 2)
    assert room(small) == (16 * 8192, 16), "another router may need it"
    make_room([small], 1000)
    assert room(small) == (1000 * 8192, 256)


def test_no_more_windows_than_memory_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = gguf(tmp_path / "a.gguf")
    fixed = path.stat().st_size + WORKING_BYTES + (512 << 20)
    for windows, slots in ((5, 5), (3, 4), (1, 4), (0, 4)):
        small, large = LlamaCppBackend(path), LlamaCppBackend(path)
        free = 2 * fixed + 2 * 2 * WINDOW * windows  # half of what is left is for others
        monkeypatch.setattr(memory, "free_memory", lambda free=free: free)
        make_room([small, large], 16)
        assert room(small) == room(large) == (max(windows, 1) * 8192, slots)
    unknown = LlamaCppBackend(gguf(tmp_path / "b.gguf", toy__block_count=None))
    monkeypatch.setattr(memory, "free_memory", lambda: 100 * GIB)
    make_room([unknown], 16)
    assert room(unknown) == (8192, 4)
    monkeypatch.setattr(memory, "free_memory", lambda: None)  # that of a GPU
    make_room([unknown], 16)
    assert room(unknown) == (16 * 8192, 16)


def test_what_a_gpu_has_no_room_for_is_loaded_as_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = LlamaCppBackend(gguf(tmp_path / "a.gguf"))
    model.make_room(16, 16)
    tried: list[tuple[int, int]] = []

    def load(_: Path, options: dict[str, Any]) -> str:
        tried.append((options["n_ctx"], options["n_parallel"]))
        if options["n_ctx"] > 8192:
            raise BackendError("no memory", model="a")
        return "server"

    monkeypatch.setattr(model, "_load", load)
    assert model._serve(tmp_path) == "server"
    assert tried == [(16 * 8192, 16), (8192, 4)]


def test_bench_makes_room_the_same_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = gguf(tmp_path / "a.gguf")
    monkeypatch.setattr("glimp_integrations.weights.ensure", lambda *_, **__: path)
    for models in ((f"llamacpp:{path}", f"llamacpp:{path}", None), (None, None, "bundled")):
        *_, opened = cli_bench._models(*models, 7)
        windows = [model.context_window for model in opened]  # type: ignore[attr-defined]
        assert [room(model) for model in opened] == [(7 * window, 7) for window in windows]
        assert len(opened) == 2


def test_a_calibration_makes_room_for_its_concurrency(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    router = GlimpRouter(f"llamacpp:{gguf(tmp_path / 'a.gguf')}", ScriptedBackend([]))

    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(GlimpRouter, "conditions", stop)
    with pytest.raises(KeyboardInterrupt):
        calibrate(router, ["q"], concurrency=3)
    assert room(router.small) == (3 * 8192, 3)


def test_models_given_as_backends_stay_as_they_were_made(tmp_path: Path) -> None:
    mine = LlamaCppBackend(gguf(tmp_path / "a.gguf"))
    router = GlimpRouter(mine, f"llamacpp:{tmp_path / 'a.gguf'}")
    router.make_room(9)
    assert mine._room == {} and room(router.large) == (9 * 8192, 9)
