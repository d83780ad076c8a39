"""Asks what has no result yet, so many requests at a time, and stores each result."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress

from glimp_integrations.batch.answering import Answering, Outcome
from glimp_integrations.batch.plan import BatchPlan, manifest_of
from glimp_integrations.batch.progress import BatchObserver
from glimp_integrations.batch.requests_file import BatchRequest, RequestsFile
from glimp_integrations.batch.results_file import ResultsFile
from glimp_integrations.batch.tally import Tally
from glimp_integrations.batch.totals import Totals
from glimp_integrations.errors import ConfigError
from glimp_integrations.router import GlimpRouter

__all__ = ["run"]


def run(
    plan: BatchPlan,
    router: GlimpRouter | None = None,
    observer: BatchObserver | None = None,
    totals: Totals | None = None,
) -> Totals:
    """Answer the requests of a file that have no result yet.

    Each result is on the disk before it counts, so nothing that was answered is asked again after
    a crash, and Ctrl-C loses only what is half written.

    Args:
        plan: What is asked, and how.
        router: Answers; ``None``: one is made of the plan's settings, and closed at the end. On a
            cluster every actor makes its own of these settings.
        observer: Is told how it goes.
        totals: Is kept up to date while it runs; also at Ctrl-C it says what there is.

    Returns:
        Sums over all results, earlier runs included.

    Raises:
        ConfigError: The requests have mistakes, or the results are those of another batch; nothing
            was asked.
        ModelError: A model cannot be used at all, or many answers in a row failed.
    """
    observer = observer or BatchObserver()
    totals = Totals(0) if totals is None else totals
    requests = RequestsFile(plan.requests, plan.model_name, plan.max_line_bytes)
    answer_on_cluster = None if plan.ray_address is None else _cluster()
    observer.doing(f"checking {plan.requests.name}")
    digests = requests.check()
    totals.requests = len(digests)
    made = GlimpRouter(settings=plan.settings) if router is None else None
    with made or nullcontext(router) as pair:
        assert pair is not None
        if made is not None and plan.ray_address is None:
            made.make_room(plan.concurrency)
        observer.doing("loading both models")
        pair.pair_info()
        manifest = manifest_of(plan, pair)
        if made is not None and plan.ray_address is not None:
            made.close()  # each actor has its own
        with ResultsFile(plan.results, manifest, observer.say) as results:
            observer.doing(f"reading {plan.results.name}")
            results.read(digests, totals, retry_failed=plan.retry_failed)
            observer.doing("answering")
            observer.progress(totals)
            asked = pending(requests, digests)
            if answer_on_cluster is not None:
                tally = Tally(totals, plan.concurrency * plan.ray_actors)
                answer_on_cluster(plan, requests, asked, results, tally, observer)
            else:
                work = _Work(plan, Answering(pair, plan.model_name), results, totals, observer)
                asyncio.run(work.do(asked))
    return totals


def _cluster() -> Callable[..., None]:
    try:
        from glimp_integrations.batch.ray import answer_on_cluster
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"a cluster needs {error.name}: pip install 'glimp-integrations[ray]'"
        ) from None
    return answer_on_cluster


def pending(requests: RequestsFile, digests: dict[str, int | None]) -> Iterator[BatchRequest]:
    """The requests that have no result yet, in order.

    Args:
        requests: All requests; the file was checked before.
        digests: Of what it held then; ``None``: there is a result.

    Raises:
        ConfigError: The file was changed since.
    """
    for request in requests:
        known = digests.get(request.custom_id, -1)
        if known is None:
            continue
        if known != request.digest:
            requests.refuse_change(f"the request {request.custom_id!a}")
        yield request


class _Work:
    def __init__(
        self,
        plan: BatchPlan,
        answer: Answering,
        results: ResultsFile,
        totals: Totals,
        observer: BatchObserver,
    ) -> None:
        self._at_a_time = plan.concurrency
        self._answer, self._results, self._observer = answer, results, observer
        self._tally = Tally(totals, plan.concurrency)
        self._finished: asyncio.Queue[tuple[Outcome, asyncio.Future[None]] | None] = asyncio.Queue()

    async def do(self, requests: Iterator[BatchRequest]) -> None:
        """Answer them all. Cancelled, it stops what runs, and stores what is finished."""
        _cancel_at_sigterm()
        storing = asyncio.create_task(self._store())
        workers = [asyncio.create_task(self._work(requests)) for _ in range(self._at_a_time)]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
            self._finished.put_nowait(None)
            await storing

    async def _work(self, requests: Iterator[BatchRequest]) -> None:
        for request in requests:
            outcome = await self._answer(request)
            stored: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            # Without waiting: what is answered is stored, whatever happens to this task.
            self._finished.put_nowait((outcome, stored))
            await stored
            self._tally.stop_if_models_are_gone(outcome.message)

    async def _store(self) -> None:
        """Store results as they come, with one wait for the disk for all that came meanwhile."""
        ended = False
        while not ended:
            found = [await self._finished.get()]
            while not self._finished.empty():
                found.append(self._finished.get_nowait())
            ended = None in found
            batch = [item for item in found if item is not None]
            try:
                if batch:
                    lines = [outcome.line for outcome, _ in batch]
                    await asyncio.to_thread(self._results.append, lines)
            except BaseException as error:
                for _, stored in batch:
                    if not stored.done():
                        stored.set_exception(error)
                raise
            for outcome, stored in batch:
                self._tally.add(outcome.line, outcome.status)
                if not stored.done():
                    stored.set_result(None)
            self._observer.progress(self._tally.totals)


def _cancel_at_sigterm() -> None:
    """End as at Ctrl-C, unless the program has its own way."""
    task = asyncio.current_task()
    assert task is not None
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        # Windows has none, and other threads than the main one may not.
        with suppress(NotImplementedError, ValueError, RuntimeError):
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
