"""A run through ``glimp serve``: models at an even pace, the server, clients, and its samples."""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import aiohttp

from .crowd import KEY
from .holding import Holding
from .measures import Sample, grown
from .plan import Plan, watched
from .report import Report
from .served import Served
from .served_crowd import MAX_RETRIES, ServedCrowd
from .servers import Servers
from .serving import shapes_of

__all__ = ["KILLS", "run_served", "uneven"]

KILLS = "cut stream,reset in stream,stream ends early"
"""Faults by which a server kills a stream."""
_REST_SECONDS = 5.0
# Less than the five seconds after which uvicorn closes a connection: a request may cross that.
_KEEPALIVE_SECONDS = 2.0


def run_served(plan: Plan, show: Callable[[str], None]) -> Report:
    """Hold the conversations of a plan through ``glimp serve``."""
    with (
        tempfile.TemporaryDirectory() as folder,
        Servers(plan.seed, plan.faults, plan.only or KILLS, pace=plan.pace) as servers,
        Served(
            urls=servers.urls,
            shapes=shapes_of(plan.seed),
            key=KEY,
            timeout=plan.timeout,
            max_retries=MAX_RETRIES,
            at_once=plan.at_once,
            log=Path(folder, "access.log"),
        ) as served,
    ):
        return asyncio.run(_run(plan, servers, served, Path(folder, "access.log"), show))


async def _run(
    plan: Plan, servers: Servers, served: Served, log: Path, show: Callable[[str], None]
) -> Report:
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEPALIVE_SECONDS)
    no_limit = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(connector=connector, timeout=no_limit) as session:
        crowd = ServedCrowd(
            servers,
            plan.seed,
            plan.timeout,
            session=session,
            url=served.url,
            kills=plan.kills,
            pace=plan.pace,
            show=show,
        )
        # The first one waits for imports, and for what is asked of the models once.
        await crowd.one(0)
        crowd.took.clear()
        crowd.latest = (0.0, -1)
        show(f"servers: {shapes_of(plan.seed)}, glimp serve at {served.url}; {plan}")
        began = time.monotonic()
        samples: list[Sample] = []
        async with watched(plan, crowd, samples, served.sample, began, show):
            lost = await crowd.hold(plan.at_once, plan.seconds, first=1)
        took = time.monotonic() - began
        still = await _still(session, served)
    crowd.listen()
    left = await served.rest()
    state = await asyncio.to_thread(servers.state)
    crowd.listen()
    report = Report(
        at_once=plan.at_once,
        crowd=crowd,
        samples=samples,
        grown=grown(samples, plan.at_once) if samples else [],
        lost=lost,
        tasks=left["tasks"],
        descriptors_left=left["descriptors"],
        state=state,
        took=took,
        warnings=served.warnings(),
    )
    report.rows = {"through": "glimp serve, a process of its own, which is what is measured"}
    if still:
        report.further.append(f"the server says that {still} conversations still run or wait")
    _add_evenness(report, crowd, plan.slowest)
    _add_log(report, log, crowd)
    return report


async def _still(session: aiohttp.ClientSession, served: Served) -> int:
    """How many conversations the server counts when all are over, and had time to go."""
    until = time.monotonic() + _REST_SECONDS
    while True:
        async with session.get(served.url.removesuffix("/v1") + "/status") as reply:
            status = await reply.json()
        still: int = status["running"] + status["waiting"]
        if not still or time.monotonic() > until:
            return still
        await asyncio.sleep(0.05)


def uneven(took: list[float], slowest: float) -> str:
    """What is wrong with the seconds of conversations that nobody disturbed; empty: nothing.

    Args:
        took: Those seconds.
        slowest: The most that one may take, in times of the fastest.
    """
    if not took or max(took) <= slowest * min(took):
        return ""
    return (
        f"the slowest conversation that nobody disturbed took {max(took):.2f} s, more than "
        f"{slowest:g} times the {min(took):.2f} s of the fastest one"
    )


def _add_evenness(report: Report, crowd: ServedCrowd, slowest: float) -> None:
    if not crowd.took:
        report.further.append("no conversation was right and undisturbed")
        return
    took = sorted(crowd.took)
    shares = (0.0, 0.5, 0.95, 0.99, 1.0)
    at = [took[round(share * (len(took) - 1))] for share in shares]
    report.rows["undisturbed ones"] = (
        f"{len(took):,}: fastest {at[0]:.2f} s, median {at[1]:.2f}, 95 % {at[2]:.2f}, "
        f"99 % {at[3]:.2f}, slowest {at[4]:.2f} "
        f"(number {crowd.latest[1]}; {at[4] / at[0]:.2f} times the fastest)"
    )
    if problem := uneven(took, slowest):
        report.further.append(problem)


def _add_log(report: Report, log: Path, crowd: Holding) -> None:
    """Every request has its line in the access log, those that were left included."""
    lines = [json.loads(line) for line in log.read_text("utf-8").splitlines()]
    statuses = [line["status"] for line in lines if line["path"] == "/v1/chat/completions"]
    report.rows["access log"] = f"{len(statuses):,} lines, {statuses.count(499):,} of clients gone"
    if len(statuses) != crowd.started:
        report.further.append(
            f"{crowd.started} requests were sent, and the access log has {len(statuses)} lines"
        )
