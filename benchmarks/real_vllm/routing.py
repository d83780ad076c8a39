"""Proofs about routing: H against transformers, and what both strategies decide and write."""

from __future__ import annotations

import re
import statistics
from typing import Any

from benchmarks.real_vllm.bench import THRESHOLD, Bench, Result, look, questions
from glimp_integrations import RoutedAnswer

__all__ = ["MEDIAN_TOLERANCE", "PROOFS", "TOLERANCE", "places"]

PLACES = 50
QUESTIONS = 3
TOKENS = 110  # of each answer
# Nats. In float32 both compute the same up to rounding. bfloat16 keeps 8 bits of every number,
# so two correct programs differ: by 0.04 and 0.003 as measured, and this leaves some room.
TOLERANCE = {"float32": 0.002, "bfloat16": 0.15}
MEDIAN_TOLERANCE = {"float32": 0.0002, "bfloat16": 0.02}


def entropies(bench: Bench) -> Result:
    """H at 50 places of a routed text is that of transformers on the same weights."""
    prompt, answer = bench.routed
    prefixes = [prompt + part for part in places(answer)]
    served = [look(bench.small, text) for text in prefixes]
    figures: dict[str, Any] = {"served": served}
    sentences = []
    dtype = bench.server.dtype
    for other in dict.fromkeys((dtype, "float32")):
        local = bench.transformers(other)
        notes: dict[str, Any] = {}
        try:
            mine = [look(local, text, notes) for text in prefixes]
        finally:
            local.close()
        gaps = sorted(abs(a - b) for a, b in zip(served, mine, strict=True))
        flips = sum((a > 1.0) != (b > 1.0) for a, b in zip(served, mine, strict=True))
        figures[other] = {
            "local": mine,
            "median": statistics.median(gaps),
            "p90": gaps[int(0.9 * len(gaps))],
            "max": gaps[-1],
            "r": statistics.correlation(served, mine),
            "other_side_of_1_nat": flips,
        }
        sentences.append(
            f"transformers {other}: |dH| median {statistics.median(gaps):.4f}, 9 in 10 below "
            f"{gaps[int(0.9 * len(gaps))]:.4f}, max {gaps[-1]:.4f} nats, r "
            f"{figures[other]['r']:.4f}, {flips} on the other side of 1 nat"
        )
    same = figures[dtype]
    return Result(
        f"H of {len(prefixes)} places, vLLM {dtype}",
        len(prefixes) == PLACES
        and max(served) > 1.0  # places of every kind: sure and unsure
        and same["max"] <= TOLERANCE[dtype]
        and same["median"] <= MEDIAN_TOLERANCE[dtype],
        "; ".join(sentences),
        figures,
    )


def places(answer: RoutedAnswer) -> list[str]:
    """Beginnings of a routed text: where its steps begin, and words end, evenly."""
    text = answer.reasoning + answer.answer
    offsets, at = {0}, 0
    for step in answer.trace.steps:
        offsets.add(at)
        at += len(step.text)
    words = [m.end() for m in re.finditer(r"\S+", text) if m.end() not in offsets]
    extra = max(0, PLACES - len(offsets))
    stride = len(words) / extra if extra else 1.0
    chosen = {words[int(i * stride)] for i in range(min(extra, len(words)))}
    return [text[:end] for end in sorted(offsets | chosen)][:PLACES]


def strategies(bench: Bench) -> Result:
    """``two_request`` and ``fused`` decide and write alike, in fewer requests."""
    gaps: list[float] = []
    partings: list[dict[str, Any]] = []
    boundaries = hand_overs = 0
    requests = {"two_request": 0, "fused": 0}
    for number, question in enumerate(questions(QUESTIONS)):
        two, fused = (bench.router(s, max_tokens=TOKENS).run(question) for s in requests)
        requests["two_request"] += two.trace.requests
        requests["fused"] += fused.trace.requests
        boundaries += len(two.trace.steps)
        hand_overs += sum(step.author == "large" for step in two.trace.steps)
        here, parting = compare(two, fused)
        gaps += here
        if parting is not None:
            partings.append({"question": number, **parting})
    # Rounding may decide otherwise only where H is that near to the threshold.
    edge = TOLERANCE[bench.server.dtype]
    worst = max(gaps, default=0.0)
    decided = all(p["same_author"] or p["edge"] <= edge for p in partings)
    # In float32 the texts are equal, too; bfloat16 may turn a near tie of two tokens.
    written = not partings or bench.server.dtype != "float32"
    return Result(
        f"strategies, vLLM {bench.server.dtype}, large on {bench.large_on}",
        decided
        and written
        and worst <= edge
        and hand_overs > 0
        and len(gaps) >= 2
        and requests["fused"] < requests["two_request"],
        f"{boundaries} boundaries, {hand_overs} to the large model; |dH| of both strategies "
        f"at {len(gaps)} equal places {worst:.4f} nats at most; partings: {partings or 'none'}; "
        f"{requests['two_request']} and {requests['fused']} requests",
        {
            "boundaries": boundaries,
            "hand_overs": hand_overs,
            "gaps": gaps,
            "partings": partings,
            "requests": requests,
            "threshold": THRESHOLD,
        },
    )


def compare(two: RoutedAnswer, fused: RoutedAnswer) -> tuple[list[float], dict[str, Any] | None]:
    """|dH| at the beginnings of steps with equal text before them, and where texts part."""
    gaps: list[float] = []
    for a, b in zip(two.trace.steps, fused.trace.steps, strict=False):
        if a.entropy is None or b.entropy is None:
            continue
        gaps.append(abs(a.entropy - b.entropy))
        if (a.author, a.text) != (b.author, b.text):
            edge = min(abs(h - float(a.threshold)) for h in (a.entropy, b.entropy))
            return gaps, {"step": a.index, "same_author": a.author == b.author, "edge": edge}
    return gaps, None


PROOFS = (entropies, strategies)
