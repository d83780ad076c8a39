"""How requests are made. The choice changes time, never decisions or greedy text."""

from __future__ import annotations

from urllib.parse import urlsplit

from glimp_integrations.backends.base import Backend, Capabilities
from glimp_integrations.errors import ConfigError
from glimp_integrations.runtime.speed import PairSpeed
from glimp_integrations.settings import Strategy

__all__ = ["choose"]


def choose(
    setting: Strategy,
    small: Backend,
    large: Backend,
    small_capabilities: Capabilities,
    large_capabilities: Capabilities,
    speed: PairSpeed | None = None,
) -> tuple[str, str]:
    """Pick a strategy and say why.

    Where the models' speed was measured, it is the strategy that adds least time to a step.
    Otherwise it is ``fused`` wherever streams carry log-probabilities, because over a network the
    requests it saves count most. There are two exceptions. Where both models are known to share a
    device and their servers end steps by themselves, it is ``two_request``: a request is cheap
    there, and log-probabilities of every token and closed streams are not
    (``benchmarks/speed.py``). Where the models are known to compute on separate devices, it is
    ``overlap``: what the large model writes while the small one glimpses then costs no time.

    Returns:
        ``(strategy, reason)``; both go into the trace.

    Raises:
        ConfigError: ``fused`` or ``overlap`` was asked for and the small model's streams carry no
            log-probabilities, ``overlap`` and both models share a device, or ``in_process`` and
            the small model runs elsewhere.
    """
    apart, where = _apart(small, large, small_capabilities, large_capabilities)
    if apart is None and speed is not None:
        apart, where = speed.apart, _in_words(speed)
    if large_capabilities.in_process:
        apart, where = False, "the large model runs in this process, where its stream pauses"
    if setting != "auto":
        _check(setting, small_capabilities, small.label, apart=apart, where=where)
        return setting, "asked for"
    if small_capabilities.in_process:
        return "in_process", "the small model runs in this process: its stream pauses at every step"
    if not small_capabilities.streamed_logprobs:
        return "two_request", "the small model's streams lack log-probabilities at some tokens"
    if speed is not None:
        return _cheapest(speed, overlaps=bool(apart))
    if apart:
        return "overlap", f"the small model streams log-probabilities, and {where}"
    if apart is False and small_capabilities.supports_stop and large_capabilities.supports_stop:
        return "two_request", f"{where}, and the servers end steps by themselves"
    return "fused", "the small model streams log-probabilities: one request until it is unsure"


def _check(
    setting: Strategy, small: Capabilities, label: str, *, apart: bool | None, where: str
) -> None:
    """Refuse a strategy that these models cannot follow."""
    if setting == "in_process" and not small.in_process:
        raise ConfigError(
            "strategy 'in_process' needs a small model that transformers runs in this process "
            "(HuggingFaceBackend, or the model string 'hf:...'): use it, or 'auto'"
        )
    streams = small.streamed_logprobs or not small.top_logprobs
    if setting in ("fused", "overlap") and not streams:
        raise ConfigError(
            f"strategy {setting!r} needs log-probabilities in the small model's stream, and "
            f"{label} sends none: use 'two_request' or 'auto'"
        )
    if setting == "overlap" and apart is False:
        raise ConfigError(
            f"strategy 'overlap' is for models on separate devices, and {where}: use "
            "'auto', or name the devices on the backends (device=...)"
        )


def _apart(
    small: Backend,
    large: Backend,
    small_capabilities: Capabilities,
    large_capabilities: Capabilities,
) -> tuple[bool | None, str]:
    """Whether the models compute on separate devices, and how that is known; ``None``: it is not.

    Named devices tell; else two machines are two devices. Servers of one machine may share its
    device.
    """
    devices = small_capabilities.device, large_capabilities.device
    if small_capabilities.shares_device(large_capabilities):
        return False, f"both compute on the device {devices[0]!r}"
    if None not in devices:
        return True, f"the models compute on the devices {devices[0]!r} and {devices[1]!r}"
    hosts = _host(small), _host(large)
    if None not in hosts and hosts[0] != hosts[1]:
        return True, f"the models are served by {hosts[0]} and {hosts[1]}"
    return None, "nothing tells whether they share a device"


def _in_words(speed: PairSpeed) -> str:
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
        + _in_words(speed)
    )


def _host(backend: Backend) -> str | None:
    return urlsplit(backend.url).hostname if backend.url else None
