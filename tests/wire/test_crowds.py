"""Many conversations at once, over real HTTP: nothing shared shows, and nothing is left behind."""

from __future__ import annotations

import asyncio
import gc
import itertools
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from functools import partial
from typing import Any

import pytest

from glimp_integrations import BackendError, Finished, io_loop
from wire.crowd import WAYS, Outcome, Pair, easy, make_pair, of_message, various
from wire.fake_server import PLAIN_TEMPLATE, Fault

pytestmark = pytest.mark.usefixtures("whole_bodies", "near_servers")
CROWD, FEW = 16, 8

Make = Callable[..., Pair]


@pytest.fixture
def crowd() -> Iterator[Make]:
    """A pair of servers that know these conversations; ``gate``: how many have to begin at once."""
    with ExitStack() as stack:
        yield partial(make_pair, stack)
    assert _bridge_rests()


def _bridge_rests() -> bool:
    """No work of any conversation is left on the I/O loop."""
    for _ in range(500):
        if not io_loop._tasks:
            return True
        threading.Event().wait(0.01)
    return False


@pytest.fixture(scope="module")
def alone() -> list[Outcome]:
    """What each of the various conversations is when nobody else talks."""
    with ExitStack() as stack:
        return make_pair(stack, various(CROWD)).alone()


class TestEveryWay:
    def test_the_conversations_differ(self, alone: list[Outcome]) -> None:
        """Else nobody would see one in another's place."""
        usages = [str(outcome.usage) for outcome in alone]
        assert all(a != b for a, b in itertools.pairwise(usages))
        assert len(set(usages)) > CROWD // 2
        assert len({tuple(outcome.authors) for outcome in alone}) > 3

    @pytest.mark.parametrize("way", WAYS)
    def test_each_has_its_own(self, crowd: Make, way: str, alone: list[Outcome]) -> None:
        talks = various(CROWD)
        pair = crowd(talks, gate=CROWD)
        outcomes = WAYS[way](pair)
        for talk, outcome in zip(talks, outcomes, strict=True):
            assert f"<think>\n{outcome.reasoning}</think>\n\n{outcome.answer}" == talk.text
            assert (outcome.answer, outcome.authors) == (talk.answer, talk.authors)
        if "overlap" not in way:  # that strategy makes other requests
            assert outcomes == alone
        assert pair.quiet()
        for server, backend in zip(pair.servers, pair.backends, strict=True):
            assert server.strays == []
            assert server.accepted <= CROWD + backend.cancelled

    def test_connections_are_used_again(self, crowd: Make) -> None:
        pair = crowd(easy(FEW), gate=FEW)
        for _ in range(2):
            WAYS["gathered arun"](pair)
        small, large = pair.servers
        # The large model writes its answers to their end: as many connections as conversations.
        assert len(large.completions()) == 2 * FEW
        assert pair.backends[1].cancelled == 0
        assert large.accepted <= FEW
        # The small one is stopped once a conversation, where the answer begins.
        assert pair.backends[0].cancelled == 2 * FEW
        assert small.accepted <= 3 * FEW


@pytest.mark.serial
class TestFairness:
    """Equal conversations, at one pace: nobody is done before the others have begun, or far on."""

    talks = easy(FEW, steps=3, words=10)

    def _check(self, order: list[tuple[int, bool]]) -> None:
        """``order``: events as they arrived, by conversation; whether it was the last."""
        done = next(place for place, (_, last) in enumerate(order) if last)
        whole = order[: done + 1].count((order[done][0], False))
        seen = Counter(number for number, _ in order[:done])
        assert len(seen) == FEW, "a conversation was done before another had begun"
        assert min(seen.values()) > whole / 2, sorted(seen.values())

    def test_coroutines(self, crowd: Make) -> None:
        pair = crowd(self.talks, gate=FEW, delay=0.004)
        order: list[tuple[int, bool]] = []

        async def follow(number: int, question: str) -> None:
            async for event in pair.router().astream(question):
                order.append((number, isinstance(event, Finished)))

        async def gather() -> None:
            await asyncio.gather(*(follow(i, q) for i, q in enumerate(pair.questions)))

        asyncio.run(gather())
        self._check(order)

    def test_threads(self, crowd: Make) -> None:
        pair = crowd(self.talks, gate=FEW, delay=0.004)
        order: list[tuple[int, bool]] = []

        def follow(number: int, question: str) -> None:
            for event in pair.router().stream(question):
                order.append((number, isinstance(event, Finished)))

        with ThreadPoolExecutor(FEW) as pool:
            list(pool.map(follow, range(FEW), pair.questions))
        self._check(order)


class TestMaxConcurrency:
    """LangChain's own limit is what the servers see."""

    @pytest.mark.parametrize("asynchronous", [True, False])
    def test_of_langchain(self, crowd: Make, asynchronous: bool) -> None:
        # The gate opens for three: with fewer at once no conversation would begin.
        # Without tags the small model writes the answer, too: no stream is cancelled, and so none
        # that is over counts as running.
        talks = easy(9, tags=False)
        pair = crowd(talks, gate=3, template=PLAIN_TEMPLATE, delay=0.001)
        config = {"max_concurrency": 3}
        model = pair.chat()
        if asynchronous:
            messages = asyncio.run(model.abatch(pair.questions, config))
        else:
            messages = model.batch(pair.questions, config)
        assert [message.content for message in messages] == [talk.answer for talk in talks]
        small = pair.servers[0]
        assert pair.backends[0].cancelled == 0
        assert small.strays == []
        assert small.peak == 3
        assert small.accepted <= 3


FAILING = 5
FAULTS = {
    "refused": partial(Fault, "status", status=400, holding=f"conversation {100 + FAILING}."),
    "broken off": partial(Fault, "drop", tokens=2, holding=f"conversation {100 + FAILING}."),
}


class TestFailure:
    @pytest.mark.parametrize(("fault", "asynchronous"), [("refused", False), ("broken off", True)])
    def test_the_others_do_not_notice(
        self, crowd: Make, fault: str, asynchronous: bool, alone: list[Outcome]
    ) -> None:
        talks = various(FEW)
        pair = crowd(talks, gate=FEW)
        pair.servers[1].faults.append(FAULTS[fault]())
        model = pair.chat(max_retries=0)
        config = {"max_concurrency": FEW}
        if asynchronous:
            outcomes = asyncio.run(model.abatch(pair.questions, config, return_exceptions=True))
        else:
            outcomes = model.batch(pair.questions, config, return_exceptions=True)
        failed = outcomes.pop(FAILING)
        assert isinstance(failed, BackendError)
        assert failed.partial is not None
        assert talks[FAILING].text.startswith(f"<think>\n{failed.partial.reasoning}")
        others = [*alone[:FAILING], *alone[FAILING + 1 : FEW]]
        assert [of_message(message) for message in outcomes] == others
        assert pair.quiet()
        assert pair.servers[0].strays == pair.servers[1].strays == []

    def test_raised_it_ends_them_all(self, crowd: Make) -> None:
        pair = crowd(easy(FEW, steps=3, words=100), gate=FEW, delay=0.005)
        pair.servers[0].faults.append(FAULTS["broken off"]())
        with pytest.raises(BackendError, match="small"):
            asyncio.run(pair.chat(max_retries=0).abatch(pair.questions))
        # LangChain leaves the others running; the end of their loop cancels them.
        assert pair.quiet()
        assert pair.servers[0].finished < FEW
        assert pair.servers[1].completions() == []


class TestCancelling:
    talks = easy(FEW, steps=2, words=8)

    def _stopped(self, pair: Pair, number: int) -> None:
        """Its streams are off the servers, and it never came to its answer."""
        assert pair.quiet()
        assert pair.backends[0].cancelled == FEW  # one here, and where each answer begins
        prompts_sent = "".join(body["prompt"] for body in pair.servers[1].completions())
        assert f"conversation {100 + number}." not in prompts_sent
        assert f"conversation {100 + number + 1}." in prompts_sent

    def test_a_task(self, crowd: Make) -> None:
        pair = crowd(self.talks, gate=FEW, delay=0.005)
        router = pair.router()

        async def one_leaves() -> list[Any]:
            tasks = [asyncio.ensure_future(router.arun(q)) for q in pair.questions]
            while pair.servers[0].active < FEW:
                await asyncio.sleep(0.005)
            tasks[3].cancel()
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
            assert asyncio.all_tasks() == {asyncio.current_task()}
            return outcomes

        outcomes = asyncio.run(one_leaves())
        assert isinstance(outcomes.pop(3), asyncio.CancelledError)
        assert [result.answer for result in outcomes] == [
            talk.answer for talk in self.talks if talk.number != 103
        ]
        self._stopped(pair, 3)

    def test_a_threads_iterator(self, crowd: Make) -> None:
        pair = crowd(self.talks, gate=FEW, delay=0.005)
        router = pair.router()

        def follow(number: int, question: str) -> str | None:
            with closing(router.stream(question)) as events:
                for place, event in enumerate(events):
                    if number == 3 and place == 3:
                        return None
                    if isinstance(event, Finished):
                        return event.result.answer
            raise AssertionError("no result")

        with ThreadPoolExecutor(FEW) as pool:
            outcomes = list(pool.map(follow, range(FEW), pair.questions))
        assert outcomes.pop(3) is None
        assert outcomes == [talk.answer for talk in self.talks if talk.number != 103]
        self._stopped(pair, 3)

    def test_a_whole_batch(self, crowd: Make) -> None:
        pair = crowd(self.talks, gate=FEW, delay=0.005)

        async def leave() -> None:
            batch = asyncio.ensure_future(pair.chat().abatch(pair.questions))
            while pair.servers[0].active < FEW:
                await asyncio.sleep(0.005)
            batch.cancel()
            with pytest.raises(asyncio.CancelledError):
                await batch
            # What was cancelled waits until its stream is closed, and is gone then.
            while len(asyncio.all_tasks()) > 1:
                await asyncio.sleep(0.005)
            assert not io_loop._tasks

        asyncio.run(leave())
        assert pair.quiet()
        assert pair.backends[0].cancelled == FEW
        assert pair.servers[1].completions() == []


@pytest.mark.serial
class TestLeftovers:
    def test_threads_go_home(self, crowd: Make) -> None:
        pair = crowd(easy(FEW, steps=1))
        pair.router().run("This is conversation 100.", strategy="two_request")  # the loop's thread
        before = _threads()
        for way in ("run in threads", "LangChain abatch"):
            WAYS[way](pair)
        assert _threads() == before

    def test_memory_is_flat(self, crowd: Make) -> None:
        """300 conversations, 20 at a time, leave no object that 100 had not left."""
        # Rendered on this side: one request a conversation.
        pair = crowd(
            easy(20, steps=1, words=1, tags=False),
            engine="generic",
            chat_template=PLAIN_TEMPLATE + "\n",  # Jinja drops one
        )
        small = pair.servers[0]
        model = pair.chat()

        async def rounds(count: int) -> None:
            for _ in range(count):
                await model.abatch(pair.questions)

        asyncio.run(rounds(5))
        first = _objects(pair)
        asyncio.run(rounds(10))
        last = _objects(pair)
        assert len(small.completions()) == 300
        assert sum(first.values()) > 10
        # Not equality: what earlier tests left may go meanwhile.
        assert not last - first
        assert pair.backends[0].cancelled == 0
        assert small.accepted <= 2 * 20


def _threads() -> set[str]:
    """Names of the threads that are not a fake server's."""
    names = {thread.name for thread in threading.enumerate()}
    return {name for name in names if "process_request" not in name}


def _objects(pair: Pair) -> Counter[str]:
    """Objects of this project and of the HTTP parser, by class; no idle connections."""
    for backend in pair.backends:
        backend.close()
    gc.collect()
    ours = {"glimp_integrations", "langchain_glimp", "httptools"}
    names = (f"{type(o).__module__}.{type(o).__qualname__}" for o in gc.get_objects())
    return Counter(name for name in names if name.partition(".")[0] in ours)
