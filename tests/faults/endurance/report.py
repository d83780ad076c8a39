"""What a run is told as: lines while it runs, and a table at its end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from .holding import Holding
from .measures import LONG_ENOUGH, MIB, Sample, line_through, settled

__all__ = ["Report", "progress"]

_MOST_PAUSED = 0.01  # of all conversations


def progress(crowd: Holding, samples: Sequence[Sample]) -> str:
    """A line about now."""
    now = samples[-1]
    minutes, seconds = divmod(round(now.seconds), 60)
    bad = crowd.failures.total()
    return (
        f"{minutes:3}:{seconds:02}  {crowd.ended:8,} conversations ({crowd.ended / now.seconds:.0f}"
        f"/s)  {crowd.kinds.total():6,} faults  {crowd.errors.total():6,} errors  rss "
        f"{now.rss / MIB:6.1f} MiB  descriptors {now.descriptors:4}  tasks {now.tasks:4}  threads "
        f"{now.threads:3}  blocks {now.blocks / 1000:.0f}k  " + (f"FAILED {bad}" if bad else "ok")
    )


@dataclass
class Report:
    """What came of a run.

    Attributes:
        at_once: Conversations at once.
        crowd: The conversations.
        samples: In the order of time.
        grown: What grew.
        lost: Numbers of conversations of which nothing was heard any more.
        tasks: Tasks that ran on after the last conversation.
        descriptors_left: Descriptors open after the backends were closed.
        state: What the servers told in the end.
        took: Seconds, the last conversation's end included.
        warnings: Of asyncio, and of what nobody closed.
        further: What else was not as it must be.
        rows: Further rows of the table.
    """

    at_once: int
    crowd: Holding
    samples: list[Sample]
    grown: list[str]
    lost: list[int]
    tasks: list[str]
    descriptors_left: int
    state: dict[str, Any]
    took: float
    warnings: list[str] = field(default_factory=list)
    further: list[str] = field(default_factory=list)
    rows: dict[str, str] = field(default_factory=dict)

    def problems(self) -> list[str]:
        """All that was not as it must be; empty if the run held."""
        crowd, found = self.crowd, [f"{n} times: {what}" for what, n in self.crowd.failures.items()]
        if self.lost:
            found.append(f"{len(self.lost)} conversations lost: {self.lost[:12]}")
        elif crowd.started != crowd.ended:
            found.append(f"{crowd.started} conversations began and {crowd.ended} ended")
        if crowd.in_pauses > _MOST_PAUSED * crowd.started:
            found.append(f"pauses of the machine broke {crowd.in_pauses} conversations off")
        if self.tasks:
            found.append(f"{len(self.tasks)} tasks ran on: {self.tasks[0][:300]}")
        if self.descriptors_left:
            found.append(f"{self.descriptors_left} descriptors left open")
        if self.warnings:
            found.append(f"{len(self.warnings)} warnings: {self.warnings[0][:300]}")
        if any(running := self.state["running"].values()):
            found.append(f"{sum(running)} streams run on at the servers")
        if self.state["elsewhere"]:
            found.append(f"another host was asked: {self.state['elsewhere']} connections")
        return found + self.further + self.grown

    @property
    def held(self) -> bool:
        """Whether nothing went wrong and nothing grew."""
        return not self.problems()

    def table(self) -> str:
        """All figures, for a reader."""
        crowd, ends = self.crowd, self.crowd.ends
        raw = sum(n for what, n in crowd.failures.items() if what.startswith("raw "))
        wrong = crowd.failures.total() - raw - crowd.failures["no end"]
        requests = sum(self.state["requests"].values())
        errors = ", ".join(f"{name} {n:,}" for name, n in crowd.errors.most_common()) or "none"
        rows = {
            "conversations": f"{crowd.ended:,} in {self.took:.0f} s, {self.at_once} at once",
            "ended": ", ".join(f"{kind} {n:,}" for kind, n in ends.most_common()),
            "requests": f"{requests:,} on {sum(self.state['connections'].values()):,} connections",
            "faults fired": f"{crowd.kinds.total():,} of {len(crowd.kinds)} kinds",
            "errors by kind": errors,
            "by another's fault": f"{crowd.by_others:,} (a shared request, or a connection)",
            "in a pause": f"{crowd.in_pauses} (the machine stood still)",
            "raw exceptions": f"{raw}",
            "wrong": f"{wrong}",
            "lost": f"{len(self.lost) or crowd.started - crowd.ended}",
            "hung": f"{ends['hung']}",
            "fastest right one": f"{crowd.fastest:.3f} s",
            "slowest one": f"{crowd.slowest[0]:.1f} s (number {crowd.slowest[1]})",
            "left in the end": f"{len(self.tasks)} tasks, {self.descriptors_left} descriptors",
            "warnings": f"{len(self.warnings)}",
            **self.rows,
        }
        lines = [f"{name:19} {value}" for name, value in rows.items()]
        lines += self._measured()
        lines += [f"  {line}" for line in crowd.shown]
        verdict = "held" if self.held else "FAILED: " + "; ".join(self.problems())
        return "\n".join([*lines, verdict])

    def _measured(self) -> list[str]:
        if len(self.samples) < 5:
            return []
        end = self.samples[-1].seconds
        shares = (0.1, 0.5, 1.0)
        at = [min(self.samples, key=lambda s: abs(s.seconds - share * end)) for share in shares]
        head = "".join(f"{f'at {share:.0%}':>10}" for share in shares)
        lines = [f"{'':19}{head}{'slope per hour':>17}"]
        later = settled(self.samples)
        for name, title, size in (
            ("rss", "rss, MiB", MIB),
            ("descriptors", "descriptors", 1.0),
            ("tasks", "tasks", 1.0),
            ("threads", "threads", 1.0),
            ("blocks", "blocks, thousands", 1000.0),
        ):
            values = "".join(f"{getattr(s, name) / size:10.1f}" for s in at)
            line = line_through([s.seconds for s in later], [getattr(s, name) for s in later])
            lines.append(f"{title:19}{values}{line.slope / size:17.1f}")
        if end < LONG_ENOUGH:
            lines.append(f"(shorter than {LONG_ENOUGH:.0f} s: growth is not judged)")
        return lines
