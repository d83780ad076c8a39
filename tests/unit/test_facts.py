"""What frameworks are told of a pair: asked of the models once, and shared by copies."""

from __future__ import annotations

import asyncio
import copy
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest
from helpers import OPENED, model, router

from glimp_integrations import BackendError, ConfigError, io_loop
from glimp_integrations.backends.base import Rendered
from glimp_integrations.backends.scripted import ScriptedBackend
from glimp_integrations.conversation.prompt import shows_tools
from glimp_integrations.runtime.pair_info import PairInfo

TOOLS = "{% if tools %}<tool_call>{% endif %}"


class Asked(ScriptedBackend):
    """Counts what it is asked; ``takes`` tools, leaves them out, or refuses them."""

    takes: bool | None = True

    def __init__(self, **options):
        super().__init__([], **options)
        self.capable = 0
        self.rendered = 0

    async def capabilities(self):
        self.capable += 1
        return await super().capabilities()

    async def render(self, messages, tools=()):
        self.rendered += 1
        if tools and self.takes is None:
            raise ConfigError("the chat template refuses tools")
        return await super().render(messages, tools if self.takes else ())


def asked(takes: bool | None, **options) -> Asked:
    backend = Asked(**options)
    backend.takes = takes
    return backend


class TestPairFacts:
    @pytest.mark.parametrize(
        ("small", "large", "wanted"), [(7, 9, 7), (9, 7, 7), (None, 9, 9), (7, None, 7)]
    )
    def test_the_smaller_window_counts(self, small, large, wanted):
        pair = router(model(context_window=small), model(context_window=large))
        assert pair.pair_info().context_window == wanted

    def test_nobody_knows_a_window(self):
        assert router().pair_info().context_window is None

    @pytest.mark.parametrize(
        ("small", "large", "wanted"),
        [
            ({}, {}, False),
            ({"template": "<think></think>"}, {}, True),
            ({}, {"template": "[THINK][/THINK]"}, True),
            ({"generation_prompt": OPENED}, {}, True),
            ({"template": "<think></think>", "generation_prompt": "<think></think>\n"}, {}, False),
        ],
    )
    def test_one_model_that_thinks_in_tags_is_enough(self, small, large, wanted):
        pair = router(ScriptedBackend([], **small), ScriptedBackend([], **large))
        assert pair.pair_info().thinks_in_tags is wanted

    @pytest.mark.parametrize("small", [TOOLS, "plain"])
    @pytest.mark.parametrize("large", [TOOLS, "plain"])
    def test_who_shows_tools(self, small, large):
        pair = router(model(template=small), model(template=large))
        wanted = {role for role, text in (("small", small), ("large", large)) if text == TOOLS}
        assert pair.pair_info().shows_tools == wanted

    def test_the_window_needs_no_room_for_the_question(self):
        assert router(model(context_window=1), model()).pair_info().context_window == 1

    def test_models_are_asked_once(self):
        small, large = asked(True), asked(True)
        pair = router(small, large)
        assert pair.known_info is None
        facts = pair.pair_info()
        counts = [(b.capable, b.rendered) for b in (small, large)]
        assert pair.pair_info() is facts is pair.known_info
        assert [(b.capable, b.rendered) for b in (small, large)] == counts
        assert isinstance(facts, PairInfo) and counts[0][0] > 0

    def test_models_are_asked_once_by_many_threads(self):
        class Slow(Asked):
            async def capabilities(self):
                await asyncio.sleep(0.02)
                return await super().capabilities()

        alone, small = Slow(template=TOOLS), Slow(template=TOOLS)
        router(alone, model()).pair_info()
        pair = router(small, model())
        with ThreadPoolExecutor(8) as pool:
            facts = [*pool.map(lambda _: pair.pair_info(), range(8))]
        assert len({id(fact) for fact in facts}) == 1
        assert small.capable == alone.capable

    def test_a_failure_is_not_kept(self):
        class Down(Asked):
            down = True

            async def capabilities(self):
                if self.down:
                    raise BackendError("cannot be reached", model=self.name)
                return await super().capabilities()

        large = Down(name="L", context_window=5)
        pair = router(model(context_window=9), large)
        for _ in range(2):
            with pytest.raises(BackendError, match="cannot be reached"):
                pair.pair_info()
        large.down = False
        assert pair.pair_info().context_window == 5

    async def test_inside_a_running_loop(self):
        assert router(model(context_window=5), model()).pair_info().context_window == 5

    def test_from_inside_a_backend_it_is_refused(self):
        class Nested(ScriptedBackend):
            async def render(self, messages):
                router().pair_info()
                return Rendered("")

        with pytest.raises(BackendError) as caught:
            router(Nested([])).run("?")
        assert "await its async twin" in str(caught.value.__cause__)


class TestShowsTools:
    @pytest.mark.parametrize(("takes", "wanted"), [(True, True), (False, False), (None, False)])
    def test_without_a_template_two_renderings_tell_once(self, takes, wanted):
        backend = asked(takes)
        assert [io_loop.call(lambda: shows_tools(backend)) for _ in range(3)] == [wanted] * 3
        assert backend.rendered == 2

    def test_a_template_is_read_instead(self):
        for template, wanted in ((TOOLS, True), ("plain", False)):
            backend = asked(True, template=template)
            assert io_loop.call(lambda b=backend: shows_tools(b)) is wanted
            assert backend.rendered == 0

    def test_backends_are_told_apart(self):
        one, two = asked(True), asked(False)
        assert [io_loop.call(lambda b=b: shows_tools(b)) for b in (one, two)] == [True, False]

    def test_a_backend_may_be_a_dataclass(self):
        @dataclass
        class Plain(ScriptedBackend):
            name: str = "plain"

            def __post_init__(self):
                super().__init__([], name=self.name)

        assert io_loop.call(lambda: shows_tools(Plain())) is True


class TestCopies:
    @pytest.mark.parametrize(
        "duplicate", [copy.deepcopy, lambda backend: copy.deepcopy({"a": [backend]})["a"][0]]
    )
    def test_a_deep_copy_shares_the_model(self, duplicate):
        backend = model()
        assert duplicate(backend) is backend

    def test_a_deep_copy_of_a_router_answers(self):
        original = router()
        wanted = original.run("?").answer
        again = copy.deepcopy(original)
        assert again.small is original.small
        assert again.settings is not original.settings
        assert again.run("?").answer == wanted
