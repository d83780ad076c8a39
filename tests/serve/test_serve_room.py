"""Context windows that ``glimp serve`` and ``glimp batch`` ask of models in this process."""

from __future__ import annotations

from pathlib import Path

import pytest
from batch.files import asking, write
from gguf_headers import gguf, plenty, room

from glimp_integrations import GlimpRouter
from glimp_integrations.batch import BatchPlan
from glimp_integrations.batch import run as run_batch
from glimp_integrations.serve.app import Application
from glimp_integrations.serve.config import ServeConfig
from glimp_integrations.weights.pairs import BUNDLED

pytestmark = pytest.mark.usefixtures(plenty.__name__)


def test_serve_makes_room_for_what_runs_at_once(tmp_path: Path) -> None:
    name = f"llamacpp:{gguf(tmp_path / 'a.gguf')}"
    config = ServeConfig.load(routing={"small": name, "large": name}, max_running=6, access_log="")
    assert room(Application(config).router.small) == (6 * 8192, 6)
    bundled = Application(ServeConfig.load(max_running=3, access_log="")).router
    assert room(bundled.large) == (3 * BUNDLED.context_window, 3)


def test_a_batch_makes_room_for_its_concurrency(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, int]] = []

    def stop(router: GlimpRouter) -> None:
        seen.append(room(router.small))
        raise KeyboardInterrupt

    monkeypatch.setattr(GlimpRouter, "pair_info", stop)
    name = f"llamacpp:{gguf(tmp_path / 'a.gguf')}"
    requests = write(tmp_path / "in.jsonl", [asking("a", "hi")])
    settings = GlimpRouter(name, name).settings
    with pytest.raises(KeyboardInterrupt):
        run_batch(BatchPlan(requests, tmp_path / "out.jsonl", settings, concurrency=5))
    assert seen == [(5 * 8192, 5)]
