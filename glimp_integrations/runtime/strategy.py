"""How requests are made. The choice changes time, never decisions or greedy text."""

from __future__ import annotations

from urllib.parse import urlsplit

from glimp_integrations.backends.base import Backend, Capabilities
from glimp_integrations.errors import ConfigError
from glimp_integrations.runtime.speed import PairSpeed
from glimp_integrations.settings import Strategy

__all__ = ["choose"]


def choose(
    wanted: Strategy,
    small: Backend,
    large: Backend,
    small_can: Capabilities,
    large_can: Capabilities,
    speed: PairSpeed | None = None,
) -> tuple[str, str]:
    """Pick a strategy and say why.

    Where the pair was measured: the strategy that adds least to a step. Else ``fused`` wherever
    streams carry log-probabilities: over a network it wins by the requests it saves. But
    ``two_request`` where both models are known to share a device and their servers end steps by
    themselves: a request is cheap there, log-probabilities of every token and closed streams are
    not (``benchmarks/speed.py``). ``overlap`` where the models are known to
    compute on separate devices: what the large model writes while the small one glimpses then
    costs no time.

    Returns:
        ``(strategy, reason)``; both go into the trace.

    Raises:
        ConfigError: ``fused`` or ``overlap`` was asked for and the small model's streams carry no
            log-probabilities, ``overlap`` and both models share a device, or ``in_process`` and
            the small model runs elsewhere.
    """
    if wanted == "in_process" and not small_can.in_process:
        raise ConfigError(
            "strategy 'in_process' needs a small model that transformers runs in this process "
            "(HuggingFaceBackend, or the model string 'hf:...'): use it, or 'auto'"
        )
    streams = small_can.streamed_logprobs or not small_can.top_logprobs
    if wanted in ("fused", "overlap") and not streams:
        raise ConfigError(
            f"strategy {wanted!r} needs log-probabilities in the small model's stream, and this "
            "server sends none: use 'two_request' or 'auto'"
        )
    apart, where = _apart(small, large, small_can, large_can)
    if apart is None and speed is not None:
        apart, where = speed.apart, _found(speed)
    if large_can.in_process:
        apart, where = False, "the large model runs in this process, where its stream pauses"
    if wanted == "overlap" and apart is False:
        raise ConfigError(
            f"strategy 'overlap' is for models on separate devices, and {where}: use "
            "'auto', or name the devices on the backends (device=...)"
        )
    if wanted != "auto":
        return wanted, "asked for"
    if small_can.in_process:
        return "in_process", "the small model runs in this process: its stream pauses at every step"
    if not small_can.streamed_logprobs:
        return "two_request", "the small model's streams lack log-probabilities at some tokens"
    if speed is not None:
        return _cheapest(speed, overlaps=bool(apart))
    if apart:
        return "overlap", f"the small model streams log-probabilities, and {where}"
    if apart is False and small_can.stops and large_can.stops:
        return "two_request", f"{where}, and the servers end steps by themselves"
    return "fused", "the small model streams log-probabilities: one request until it is unsure"


def _apart(
    small: Backend, large: Backend, small_can: Capabilities, large_can: Capabilities
) -> tuple[bool | None, str]:
    """Whether the models compute on separate devices, and how that is known; ``None``: it is not.

    Named devices tell; else two machines are two devices. Servers of one machine may share its
    device.
    """
    devices = small_can.device, large_can.device
    if small_can.shares_device(large_can):
        return False, f"both compute on the device {devices[0]!r}"
    if None not in devices:
        return True, f"the models compute on the devices {devices[0]!r} and {devices[1]!r}"
    hosts = _host(small), _host(large)
    if None not in hosts and hosts[0] != hosts[1]:
        return True, f"the models are served by {hosts[0]} and {hosts[1]}"
    return None, "nothing tells whether they share a device"


def _found(speed: PairSpeed) -> str:
    return (
        f"a token takes {speed.slowdown:.2f} times as long while the other model computes: "
        f"{'separate devices' if speed.apart else 'one device'}"
    )


def _cheapest(speed: PairSpeed, *, overlaps: bool) -> tuple[str, str]:
    names = ["fused", "two_request", *(["overlap"] if overlaps else [])]
    costs = {name: speed.overhead(name) for name in names}
    best = min(costs, key=costs.__getitem__)
    others = ", ".join(f"{name} {1000 * costs[name]:.0f}" for name in names if name != best)
    return best, (
        f"measured: {1000 * costs[best]:.0f} ms a step beyond its tokens ({others}); "
        + _found(speed)
    )


def _host(backend: Backend) -> str | None:
    return urlsplit(backend.url).hostname if backend.url else None
