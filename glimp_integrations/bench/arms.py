"""The arms of a bench: named sets of settings that are compared with each other."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from glimp_integrations.bench.imports import load_policy
from glimp_integrations.bench.options import read_options
from glimp_integrations.errors import ConfigError
from glimp_integrations.settings import RoutingSettings

__all__ = ["Arm", "parse_arms"]

KINDS = ("small", "large", "routed", "random")
_OURS = {"small", "large", "api_key", "prices", "random_share"}
_INSTEAD = ("large_share", "policy")
"""Settings that decide instead of a threshold."""
_OPTION = "policy."
_ALONE: dict[str, dict[str, Any]] = {
    "small": {"threshold": math.inf, "answer_by": "small"},
    "large": {"threshold": -1.0, "answer_by": "large"},
}


@dataclass(frozen=True)
class Arm:
    """One way to answer the questions.

    Attributes:
        name: Used in results, tables and plots: ``small``, ``large``, ``routed@0.8``,
            ``random@0.25``, ``random(routed@0.8)``, each perhaps with ``:KEY=VALUE,...``; where a
            policy or a wanted share decides, ``routed:policy=MODULE:NAME``.
        kind: ``small``, ``large``, ``routed`` or ``random``.
        settings: Routing settings of this arm alone.
        policy: How its policy was named, options included; ``None``: none was.
        like: The name of the routed arm whose share of large steps this random arm will use;
            ``None`` for all other arms.
    """

    name: str
    kind: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    policy: str | None = None
    like: str | None = None

    @property
    def threshold(self) -> float | None:
        """The threshold of a routed arm, in nats; ``None``: no threshold decides."""
        return float(self.settings["threshold"]) if self._has_threshold else None

    @property
    def _has_threshold(self) -> bool:
        return self.kind == "routed" and "threshold" in self.settings

    def with_share(self, share: float) -> Arm:
        """The same random arm with its share of large steps."""
        return replace(self, settings={**self.settings, "random_share": share})

    def control(self) -> Arm:
        """The random arm of a routed one: what decides there is left out, all else is the same."""
        own = {key: value for key, value in self.settings.items() if key not in _INSTEAD}
        return Arm(f"random({self.name})", "random", own, like=self.name)


def parse_arms(text: str, thresholds: Sequence[float] = (1.0,)) -> list[Arm]:
    """The arms of ``small,large,routed,random@0.3,routed@1.0:strategy=fused``.

    ``routed`` becomes one arm for every threshold, and a single one with ``large_share=SHARE`` or
    ``policy=MODULE:NAME`` (with options: ``policy.KEY=VALUE``). ``random`` becomes a random
    baseline for every routed arm, with the share of steps that arm sent to the large model; these
    arms are last, because that share must be known first. No arm is listed twice.

    Args:
        text: Arms, separated by commas. ``KEY=VALUE`` after a comma belongs to the arm before it.
        thresholds: Nats, for ``routed`` without ``@``.

    Raises:
        ConfigError: An arm is unknown, or has an impossible value.
    """
    fixed: dict[str, Arm] = {}
    controls = False
    for spec in _split(text):
        head, _, options = spec.partition(":")
        kind, _, at = head.partition("@")
        settings = _options(spec, options)
        if kind != "routed" and (others := sorted(key for key in settings if _decides(key))):
            raise ConfigError(
                f"arm {spec!r}: {others[0]} decides in routed arms only; write routed:{options}"
            )
        if kind not in KINDS:
            raise ConfigError(
                f"arm {spec!r} is not one of small, large, routed, routed@NATS, random, "
                "random@SHARE, each perhaps followed by :KEY=VALUE,..."
            )
        if kind in _ALONE:
            if at:
                raise ConfigError(f"arm {spec!r}: {kind} takes no '@'; it is always alone")
            made = [Arm(spec, kind, {**settings, **_ALONE[kind]})]
        elif kind == "routed":
            made = _routed(spec, at, options, settings, thresholds)
        elif at:
            made = [Arm(spec, kind, {**settings, "random_share": _share(spec, at)})]
        elif options:
            raise ConfigError(
                f"arm {spec!r}: random takes the settings of its routed arm; "
                "write random@SHARE:... for another one"
            )
        else:
            controls, made = True, []
        for arm in made:
            _check(arm)
            fixed.setdefault(arm.name, arm)
    routed = [arm for arm in fixed.values() if arm.kind == "routed"]
    if controls and not routed:
        raise ConfigError(
            "arm 'random' takes the share of a routed arm, and there is none; add routed, or "
            "write random@SHARE"
        )
    if not fixed:
        raise ConfigError("no arms; for example small,large,routed,random")
    return [*fixed.values(), *([arm.control() for arm in routed] if controls else [])]


def _routed(
    spec: str, at: str, options: str, settings: Mapping[str, Any], thresholds: Sequence[float]
) -> list[Arm]:
    """One arm for every threshold, or one where something else decides."""
    given = sorted(key for key in settings if _decides(key))
    if not given:
        suffix = f":{options}" if options else ""
        levels = [_number(spec, at)] if at else list(thresholds)
        return [
            Arm(f"routed@{h:g}{suffix}", "routed", {**settings, "threshold": _threshold(spec, h)})
            for h in levels
        ]
    if at:
        raise ConfigError(
            f"arm {spec!r}: a threshold of {at} nats and {given[0]}={settings[given[0]]} both "
            f"decide; write routed@{at} or routed:{options}"
        )
    own = {key: value for key, value in settings.items() if not key.startswith(_OPTION)}
    more = {key.removeprefix(_OPTION): settings[key] for key in settings if key not in own}
    if "policy" not in own:
        if more:
            raise ConfigError(f"arm {spec!r}: {given[0]} needs policy=MODULE:NAME")
        return [Arm(spec, "routed", own)]
    named = json.dumps([own["policy"], more], sort_keys=True)
    own["policy"] = load_policy(f"arm {spec!r}", own["policy"], more)
    return [Arm(spec, "routed", own, policy=named)]


def _decides(key: str) -> bool:
    return key in _INSTEAD or key.startswith(_OPTION)


def _split(text: str) -> list[str]:
    parts: list[str] = []
    for part in (piece.strip() for piece in text.split(",")):
        if not part:
            continue
        if re.match(r"[A-Za-z_][\w.]*=", part):
            if not parts:
                raise ConfigError(f"{part!r} is a setting without an arm before it")
            parts[-1] += ("," if ":" in parts[-1] else ":") + part
        else:
            parts.append(part)
    return parts


def _options(spec: str, text: str) -> dict[str, Any]:
    settings = read_options(f"arm {spec!r}", text)
    for key in settings:
        if key in _OURS or key == "threshold":
            raise ConfigError(f"arm {spec!r}: {key} is not set here; see the arms' kinds and '@'")
        if key == "max_cost":
            raise ConfigError(
                f"arm {spec!r}: max_cost needs prices, which arms do not have; limit "
                "max_large_tokens instead"
            )
    return settings


def _number(spec: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ConfigError(f"arm {spec!r}: {text!r} after '@' is not a number") from None


def _threshold(spec: str, value: float) -> float:
    if not (math.isfinite(value) and value >= 0):
        raise ConfigError(
            f"arm {spec!r}: the threshold {value:g} routes nothing; give nats from 0 on, "
            "and name the arms small and large for one model alone"
        )
    return value


def _share(spec: str, text: str) -> float:
    share = _number(spec, text)
    if not 0.0 < share < 1.0:
        raise ConfigError(
            f"arm {spec!r}: the share {share:g} lies outside (0, 1); for one model alone there "
            "are the arms small and large"
        )
    return share


def _check(arm: Arm) -> None:
    try:
        RoutingSettings(**arm.settings)
    except ConfigError as error:
        raise ConfigError(f"arm {arm.name!r}: {error}") from None
