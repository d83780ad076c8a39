"""Finding the threshold: run the router, take a quantile of H, run it again with that.

The paper leaves the threshold to the user and advises one that sends 20 to 30 % of the steps to
the large model (section 4). H of a step depends on who wrote the steps before it, so a quantile
of one run is only right for that run's threshold: the second round measures in closed loop.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from threading import Lock

from glimp_integrations._version import __version__
from glimp_integrations.backends.base import Message
from glimp_integrations.calibrated_threshold import Calibration, Conditions
from glimp_integrations.errors import ConfigError
from glimp_integrations.router import GlimpRouter

__all__ = ["Progress", "Prompt", "calibrate", "quantile"]

Prompt = str | Sequence[Message]
"""A question, or a conversation."""

Progress = Callable[[str, int, int], None]
"""Called with the round's name, finished prompts, and all prompts."""


def calibrate(
    router: GlimpRouter,
    prompts: Sequence[Prompt],
    large_share: float = 0.25,
    *,
    held_out: Sequence[Prompt] = (),
    precision: float = 0.05,
    runs: str | Path | None = None,
    concurrency: int = 1,
    progress: Progress | None = None,
) -> Calibration:
    """Find the threshold that sends a wanted share of the steps to the large model.

    Args:
        router: The pair, with the settings it will be used with; its threshold is the first guess.
        prompts: Questions like those that will be asked. No answers are needed.
        large_share: The share of glimpsed steps for the large model, between 0 and 1.
        held_out: Prompts that are not used for the threshold, only to measure its share.
        precision: The largest acceptable half width of the share's 95 % interval.
        runs: A file (JSON lines) that keeps H of every finished prompt. An interrupted calibration
            goes on from there, and one that had too few prompts needs only the new ones.
        concurrency: How many prompts are answered at the same time. GGUF files in this process get
            room for so many, if they are not loaded yet.
        progress: See :data:`Progress`.

    Raises:
        ConfigError: An impossible share or precision; too few boundaries for the precision (the
            message says how many more).
        BackendError: A model failed.
    """
    _check(router, prompts, large_share, precision)
    router.make_room(concurrency)
    rounds = _Rounds(router, concurrency, _RunsFile(None if runs is None else Path(runs)), progress)
    first = rounds.run("first threshold", float(router.settings.threshold), prompts)
    guess, _ = _fit(first, large_share, precision)
    closed = rounds.run("closed loop", guess, prompts)
    threshold, share_interval = _fit(closed, large_share, precision)
    measured = rounds.run("held out", threshold, held_out) if held_out else None
    return Calibration(
        threshold=threshold,
        threshold_interval=_interval(closed, lambda sample: _pooled_quantile(sample, large_share)),
        large_share=large_share,
        share=_share(closed, threshold),
        share_interval=share_interval,
        held_out_share=None if measured is None else _share(measured, threshold),
        held_out_interval=None if measured is None else _share_interval(measured, threshold),
        boundaries=sum(len(one) for one in closed),
        prompts=len(prompts),
        rounds=2,
        conditions=rounds.conditions,
        date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        version=__version__,
    )


def _check(
    router: GlimpRouter, prompts: Sequence[Prompt], large_share: float, precision: float
) -> None:
    """Refuse what cannot be calibrated, before any model is asked."""
    if not 0 < large_share < 1:
        raise ConfigError(
            f"large_share is {large_share:g}: give a share between 0 and 1, such as 0.25"
        )
    if not 0 < precision < 1:
        raise ConfigError(f"precision is {precision:g}: give a share between 0 and 1, such as 0.05")
    if not prompts:
        raise ConfigError("there are no prompts: give at least a few dozen questions")
    settings = router.settings
    if not 0 <= settings.threshold < float("inf") or settings.random_share is not None:
        raise ConfigError(
            f"with threshold {settings.threshold:g} and random_share {settings.random_share} H "
            "decides nothing: calibrate with a threshold of some nats"
        )


def quantile(entropies: Sequence[float], large_share: float) -> float:
    """The threshold with the wanted share of these boundaries above it.

    Args:
        entropies: H of the boundaries, in nats; at least one.
        large_share: 0 to 1.

    Returns:
        Nats: halfway between the last boundary below and the first above.
    """
    ordered = sorted(entropies)
    below = min(max(len(ordered) - round(large_share * len(ordered)), 1), len(ordered))
    if below == len(ordered):
        return ordered[-1]
    return (ordered[below - 1] + ordered[below]) / 2


_MOST = 100.0
"""Nats; H is at most the logarithm of the vocabulary's size, about 12."""


@dataclass(slots=True)
class _RunsFile:
    """H of finished prompts, kept in a file so that no prompt is ever run twice.

    Attributes:
        path: The file; ``None``: they are kept in memory only.
        entropies: H of every boundary of a prompt, in nats, by the prompt's key.
    """

    path: Path | None
    entropies: dict[str, list[float]] = field(default_factory=dict)
    _lock: Lock = field(default_factory=Lock)

    def __post_init__(self) -> None:
        if self.path is None:
            return
        try:
            if not self.path.exists():
                return
            data = self.path.read_bytes()
            if data and not data.endswith(b"\n"):  # killed while writing the last line
                with self.path.open("ab") as file:
                    file.write(b"\n")
        except (OSError, ValueError) as error:  # ValueError: a null character in the path
            raise self._unusable(error) from error
        for line in data.splitlines():
            # A damaged line is left out: its prompt is run again.
            with suppress(ValueError, KeyError, TypeError, RecursionError, OverflowError):
                entry = json.loads(line)
                entropies = [float(h) for h in entry["entropies"]]
                if isinstance(entry["key"], str) and all(-1e-6 <= h <= _MOST for h in entropies):
                    self.entropies[entry["key"]] = entropies

    def _unusable(self, error: Exception) -> ConfigError:
        return ConfigError(
            f"finished prompts cannot be kept in {self.path}: {error}. Name a file that can be "
            "read and written"
        )

    def add(self, key: str, entropies: list[float]) -> None:
        self.entropies[key] = entropies
        if self.path is not None:
            try:
                with self._lock, self.path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps({"key": key, "entropies": entropies}) + "\n")
            except OSError as error:
                raise self._unusable(error) from error


_FIXED = {"threshold", "large_share", "policy", "route"}
"""Settings that a calibration sets itself: it is always the threshold that decides."""


@dataclass(slots=True)
class _Rounds:
    """Runs every prompt once at a threshold."""

    router: GlimpRouter
    concurrency: int
    file: _RunsFile
    progress: Progress | None

    @property
    def conditions(self) -> Conditions:
        """The models and settings that H is measured with."""
        return self.router.conditions()

    def run(self, name: str, threshold: float, prompts: Sequence[Prompt]) -> list[list[float]]:
        """H of the boundaries of every prompt, in nats."""
        settings = self.router.settings.model_dump(
            mode="json", exclude={"small", "large", "api_key", "prices", *_FIXED}
        )
        common = [self.conditions.model_dump_json(), settings, repr(threshold)]

        def one(prompt: Prompt) -> list[float]:
            text = prompt if isinstance(prompt, str) else [dict(m) for m in prompt]
            key = sha256(json.dumps([*common, text], default=str).encode()).hexdigest()[:24]
            if key not in self.file.entropies:
                trace = self.router.run(prompt, threshold=threshold, route="always").trace
                self.file.add(key, [s.entropy for s in trace.steps if s.entropy is not None])
            return self.file.entropies[key]

        done: list[list[float]] = []
        for entropies in self._in_order(one, prompts):
            done.append(entropies)
            if self.progress is not None:
                self.progress(name, len(done), len(prompts))
        return done

    def _in_order(
        self, one: Callable[[Prompt], list[float]], prompts: Sequence[Prompt]
    ) -> Iterator[list[float]]:
        if self.concurrency <= 1:
            yield from map(one, prompts)
            return
        with ThreadPoolExecutor(self.concurrency) as threads:
            yield from threads.map(one, prompts)


def _share(boundaries: Sequence[Sequence[float]], threshold: float) -> float:
    total = sum(len(one) for one in boundaries)
    return sum(h > threshold for one in boundaries for h in one) / total if total else 0.0


def _interval(
    boundaries: Sequence[Sequence[float]],
    statistic: Callable[[Sequence[Sequence[float]]], float],
) -> tuple[float, float]:
    """A 95 % interval by the bootstrap over prompts.

    Prompts are resampled and not boundaries, because boundaries of one prompt are not independent.
    """
    try:
        import numpy as np
        from scipy.stats import bootstrap
    except ImportError as error:
        raise ConfigError(
            "calibrating needs scipy: pip install 'glimp-integrations[bench]'"
        ) from error
    sample = [one for one in boundaries if one]
    if len(sample) < 2:
        return statistic(sample), statistic(sample)
    interval = bootstrap(
        (np.arange(len(sample)),),
        lambda indices: statistic([sample[int(i)] for i in indices]),
        vectorized=False,
        method="percentile",
        n_resamples=1000,
        rng=np.random.default_rng(0),
    ).confidence_interval
    return float(interval.low), float(interval.high)


def _share_interval(boundaries: Sequence[Sequence[float]], threshold: float) -> tuple[float, float]:
    return _interval(boundaries, lambda sample: _share(sample, threshold))


def _pooled_quantile(boundaries: Sequence[Sequence[float]], large_share: float) -> float:
    return quantile([h for one in boundaries for h in one], large_share)


def _fit(
    boundaries: Sequence[Sequence[float]], large_share: float, precision: float
) -> tuple[float, tuple[float, float]]:
    """The threshold of a round, and the interval of its share.

    Raises:
        ConfigError: The interval is wider than the wanted precision.
    """
    total = sum(len(one) for one in boundaries)
    if total < 2:
        raise ConfigError(
            f"{len(boundaries)} prompts had {total} glimpsed steps, too few for a share: "
            "does the small model separate its steps by the step delimiter?"
        )
    threshold = _pooled_quantile(boundaries, large_share)
    low, high = _share_interval(boundaries, threshold)
    # The bootstrap of a sample without any large step has an interval of width 0. The interval can
    # never be narrower than the one of as many independent boundaries.
    independent = 1.96 * (large_share * (1 - large_share) / total) ** 0.5
    half = max((high - low) / 2, independent)
    if half <= precision:
        return threshold, (low, high)
    more = (half / precision) ** 2 - 1
    raise ConfigError(
        f"{total} boundaries of {len(boundaries)} prompts fix a share of {large_share:g} to "
        f"±{half:.3f}, and ±{precision:g} is wanted: give about {more * total:.0f} more boundaries "
        f"({more * len(boundaries):.0f} more prompts), or precision={half + 0.005:.2f}"
    )
