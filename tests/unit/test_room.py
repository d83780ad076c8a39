"""Context windows for many conversations at once in GGUF files of this process."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from glimp_integrations import GlimpRouter
from glimp_integrations.backends import LlamaCppBackend, ScriptedBackend, model_strings
from glimp_integrations.backends.gguf import cache_bytes
from glimp_integrations.backends.room import make_room
from glimp_integrations.batch import BatchPlan
from glimp_integrations.batch import run as run_batch
from glimp_integrations.cli import bench as cli_bench
from glimp_integrations.errors import BackendError
from glimp_integrations.serve.app import Application
from glimp_integrations.serve.config import ServeConfig
from glimp_integrations.weights import memory
from glimp_integrations.weights.pairs import BUNDLED, WORKING_BYTES

GIB = 1 << 30
LAYERS, HEADS, LENGTH = 4, 2, 64
TOKEN = LAYERS * HEADS * (LENGTH + LENGTH) * 2
WINDOW = 8192 * TOKEN


def gguf(path: Path, **changes: Any) -> Path:
    """A file that has a header and nothing else; lists are of whole numbers."""
    fields = {
        "general.architecture": "toy",
        "general.tags": ["a", "b"],
        "toy.rope.freq_base": 10000.0,
        "toy.block_count": LAYERS,
        "toy.embedding_length": 8 * LENGTH,
        "toy.attention.head_count": 8,
        "toy.attention.head_count_kv": HEADS,
        **{name.replace("__", "."): value for name, value in changes.items()},
        "tokenizer.ggml.tokens": ["never read"],
    }
    fields = {name: value for name, value in fields.items() if value is not None}
    data = struct.pack("<4sIQQ", b"GGUF", 3, 0, len(fields))
    for name, value in fields.items():
        data += text(name) + valued(value)
    path.write_bytes(data)
    return path


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def valued(value: Any) -> bytes:
    if isinstance(value, str):
        return struct.pack("<I", 8) + text(value)
    if isinstance(value, float):
        return struct.pack("<If", 6, value)
    if isinstance(value, int):
        return struct.pack("<II", 4, value)
    kind = 8 if isinstance(value[0], str) else 4
    items = [text(item) if kind == 8 else struct.pack("<I", item) for item in value]
    return struct.pack("<IIQ", 9, kind, len(items)) + b"".join(items)


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(model_strings, "_backends", {})
    monkeypatch.setattr(memory, "free_memory", lambda: 1000 * GIB)
    model_strings.catalogue_models.cache_clear()
    yield
    model_strings.catalogue_models.cache_clear()


def room(model: Any) -> tuple[int, int]:
    return model._room["n_ctx"], model._room["n_parallel"]


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


def test_serve_and_batch_make_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"llamacpp:{gguf(tmp_path / 'a.gguf')}"
    config = ServeConfig.load(routing={"small": name, "large": name}, max_running=6, access_log="")
    assert room(Application(config).router.small) == (6 * 8192, 6)
    bundled = Application(ServeConfig.load(max_running=3, access_log="")).router
    assert room(bundled.large) == (3 * BUNDLED.context_window, 3)

    seen: list[tuple[int, int]] = []

    def stop(router: GlimpRouter) -> None:
        seen.append(room(router.small))
        raise KeyboardInterrupt

    monkeypatch.setattr(GlimpRouter, "pair_info", stop)
    monkeypatch.setattr(model_strings, "_backends", {})
    requests = tmp_path / "in.jsonl"
    body = '{"model": "glimp", "messages": [{"role": "user", "content": "hi"}]}'
    requests.write_text(
        '{"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": ' + body + "}"
    )
    settings = GlimpRouter(name, name).settings
    with pytest.raises(KeyboardInterrupt):
        run_batch(BatchPlan(requests, tmp_path / "out.jsonl", settings, concurrency=5))
    assert seen == [(5 * 8192, 5)]


def test_bench_makes_room_the_same_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = gguf(tmp_path / "a.gguf")
    monkeypatch.setattr("glimp_integrations.weights.ensure", lambda *_, **__: path)
    for models in ((f"llamacpp:{path}", f"llamacpp:{path}", None), (None, None, "bundled")):
        *_, opened = cli_bench._models(*models, 7)
        windows = [model.context_window for model in opened]  # type: ignore[attr-defined]
        assert [room(model) for model in opened] == [(7 * window, 7) for window in windows]
        assert len(opened) == 2


def test_models_given_as_backends_stay_as_they_were_made(tmp_path: Path) -> None:
    mine = LlamaCppBackend(gguf(tmp_path / "a.gguf"))
    router = GlimpRouter(mine, f"llamacpp:{tmp_path / 'a.gguf'}")
    router.make_room(9)
    assert mine._room == {} and room(router.large) == (9 * 8192, 9)
