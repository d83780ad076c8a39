"""SIGTERM while Ray works; a whole batch that it stops is in ``tests/slow/test_ray_cluster.py``."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("ray", reason="the extra ray is not part of all")

from glimp_integrations.batch.ray import _stopped_by_sigterm


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def rays(*_: Any) -> None:
    raise AssertionError("Ray's handler was left")


def test_it_stops_the_work() -> None:
    signal.signal(signal.SIGTERM, rays)
    with pytest.raises(asyncio.CancelledError), _stopped_by_sigterm(signal.SIG_DFL):
        os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_ctrl_c_is_still_ctrl_c() -> None:
    with pytest.raises(KeyboardInterrupt), _stopped_by_sigterm(signal.SIG_DFL):
        raise KeyboardInterrupt


def test_a_program_with_its_own_way_keeps_it() -> None:
    came: list[int] = []

    def own(number: int, _: Any) -> None:
        came.append(number)

    signal.signal(signal.SIGTERM, rays)
    with _stopped_by_sigterm(own):
        os.kill(os.getpid(), signal.SIGTERM)
    assert came == [signal.SIGTERM] and signal.getsignal(signal.SIGTERM) is own
