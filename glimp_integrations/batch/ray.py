"""A batch on a Ray cluster: Ray Data hands requests to actors that hold routers (extra ``ray``).

The file of requests is read, and the file of results written, on the machine where the command
runs, as without a cluster. Each request is a block of its own, so its result comes back, and is on
the disk, as soon as it is there.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import threading
from array import array
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, DataContext, Datasource
from ray.data.block import BlockMetadata
from ray.data.datasource import ReadTask

from glimp_integrations import io_loop
from glimp_integrations.batch.answering import Answering
from glimp_integrations.batch.plan import BatchPlan
from glimp_integrations.batch.progress import BatchObserver
from glimp_integrations.batch.requests_file import BatchRequest, RequestsFile
from glimp_integrations.batch.results_file import ResultsFile
from glimp_integrations.batch.tally import Tally
from glimp_integrations.errors import ConfigError
from glimp_integrations.router import GlimpRouter
from glimp_integrations.settings import RoutingSettings

__all__ = ["answer_on_cluster"]

_READ_AT_ONCE = 1000
_CONNECT_SECONDS = 10.0


def answer_on_cluster(
    plan: BatchPlan,
    requests: RequestsFile,
    pending: Iterable[BatchRequest],
    results: ResultsFile,
    tally: Tally,
    observer: BatchObserver,
) -> None:
    """Answer requests on a cluster, and store each result.

    Args:
        plan: Which cluster, and how.
        requests: The file.
        pending: Those that are asked.
        results: Where results go.
        tally: Counts them.
        observer: Is told how it goes.

    Raises:
        CancelledError: SIGTERM came.
        ConfigError: The cluster cannot be reached.
        ModelError: Many answers in a row failed.
    """
    starts = array("Q", (request.start for request in pending))
    if not starts:
        return
    at_sigterm = signal.getsignal(signal.SIGTERM)  # Ray puts a handler of its own in its place
    with _connected(plan.ray_address), _stopped_by_sigterm(at_sigterm):
        for line, status, message in _answers(plan, _Pending(requests, starts)):
            results.append([line])
            tally.add(line, status)
            observer.progress(tally.totals)
            tally.stop_if_models_are_gone(message)


@contextmanager
def _connected(address: str | None) -> Iterator[None]:
    """A connection to a cluster; one that the program has already is used, and left open."""
    if ray.is_initialized():
        yield
        return
    # Ray would send statistics to its makers.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        _look_for(address)
        ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False)
    except (OSError, ValueError, RuntimeError) as error:
        raise ConfigError(
            f"the Ray cluster {address!r} cannot be reached: {error}. Run this on a machine of the "
            "cluster with --ray auto, or give HOST:PORT of its head"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def _stopped_by_sigterm(own: Any) -> Iterator[None]:
    """Let SIGTERM stop the work as Ctrl-C does, unless the program has its own way.

    Args:
        own: What the program does at SIGTERM.

    Raises:
        CancelledError: SIGTERM came.
    """
    if threading.current_thread() is not threading.main_thread() or own is None:
        yield
        return
    stopped = False

    def stop(*_: object) -> None:
        nonlocal stopped
        if not stopped:
            stopped = True
            raise KeyboardInterrupt  # in the midst of its calls Ray lets no other exception pass

    signal.signal(signal.SIGTERM, stop if own is signal.SIG_DFL else own)
    try:
        yield
    except KeyboardInterrupt:
        if stopped:
            raise asyncio.CancelledError from None
        raise
    finally:
        signal.signal(signal.SIGTERM, own)


def _look_for(address: str | None) -> None:
    """Connect once: where nobody listens, Ray itself ends the whole process.

    Raises:
        OSError: Nobody listens there.
        ValueError: It is no address of a cluster that can be used.
    """
    if address in ("auto", "local"):
        return
    host, colon, port = (address or "").rpartition(":")
    if not colon or not port.isdecimal() or "/" in host:
        raise ValueError("that is neither auto, nor local, nor HOST:PORT")
    socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_SECONDS).close()


def _answers(plan: BatchPlan, source: Datasource) -> Iterator[tuple[bytes, int, str]]:
    context = DataContext.get_current()
    # No block holds more than one row: what is finished does not wait for others.
    context.target_max_block_size = 1
    context.enable_progress_bars = False
    answered = ray.data.read_datasource(source, concurrency=1).map_batches(
        _Answers,
        batch_size=1,
        batch_format="pyarrow",
        fn_constructor_args=(plan.settings, plan.model_name, plan.concurrency),
        compute=ActorPoolStrategy(
            size=plan.ray_actors,
            max_tasks_in_flight_per_actor=plan.concurrency,
            max_concurrent_calls_per_actor=plan.concurrency,
            enable_true_multi_threading=True,
        ),
        num_cpus=1,
    )
    # Without a look ahead, which would hold a result back until the next one is there.
    tables = answered.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)
    for table in tables:
        for row in table.to_pylist():
            yield row["line"], row["status"], row["message"]


class _Answers:
    """Lives in an actor, and answers from as many threads as requests run at a time."""

    def __init__(self, settings: RoutingSettings, model_name: str, concurrency: int) -> None:
        router = GlimpRouter(settings=settings)
        router.make_room(concurrency)
        self._answer = Answering(router, model_name)

    def __call__(self, rows: pa.Table) -> pa.Table:
        (row,) = rows.to_pylist()
        request = BatchRequest(row["custom_id"], int(row["digest"], 16), row["body"])
        outcome = io_loop.call(lambda: self._answer(request))
        found = {"line": [outcome.line], "status": [outcome.status], "message": [outcome.message]}
        return pa.table(found)


class _Pending(Datasource):
    """Requests at these places of a file, read on the machine of the driver."""

    def __init__(self, requests: RequestsFile, starts: array[int]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._requests, self._starts = requests, starts

    @property
    def supports_distributed_reads(self) -> bool:
        return False

    def estimate_inmemory_data_size(self) -> int | None:
        return None

    def get_read_tasks(self, parallelism: int, *_: object, **__: object) -> list[ReadTask]:
        tasks = []
        for first in range(0, len(self._starts), _READ_AT_ONCE):
            starts = self._starts[first : first + _READ_AT_ONCE]
            metadata = BlockMetadata(
                num_rows=len(starts), size_bytes=None, input_files=None, exec_stats=None
            )
            tasks.append(ReadTask(partial(_read, self._requests, starts), metadata))
        return tasks


def _read(requests: RequestsFile, starts: array[int]) -> Iterator[pa.Table]:
    for request in requests.at(starts):
        row = {"custom_id": request.custom_id, "digest": f"{request.digest:x}"}
        yield pa.table({name: [value] for name, value in {**row, "body": request.body}.items()})
