"""Traces as HTML: all text is text, colours can be read, size and time stay in bounds."""

from __future__ import annotations

import math
import re
import time
from html.parser import HTMLParser
from itertools import product

import pytest
from helpers import model, router, script

from benchmarks.screenshots import made_up
from glimp_integrations import Price, Prices, Trace
from glimp_integrations.backends.scripted import ScriptedBackend
from glimp_integrations.trace.html import _environment, _folded
from glimp_integrations.trace.records import InvalidToolCall, StepRecord, ToolCall
from glimp_integrations.trace.trace import RoutedAnswer

VOID = {"meta", "link", "img", "br", "hr", "rect", "line"}


class Reader(HTMLParser):
    """What a browser would make of it: elements, and text outside of style."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.css = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "style":
            self.css += data
        else:
            self.text += data

    def classes(self, name: str) -> int:
        return sum(name in (attributes.get("class") or "").split() for _, attributes in self.tags)


def read(html: str) -> Reader:
    reader = Reader(html)
    assert reader.open == []
    return reader


def of(text: str, **changes: object) -> Trace:
    """A trace whose one step has this text."""
    trace = router().run("?").trace
    step = trace.steps[0].model_copy(update={"text": text, **changes})
    return trace.model_copy(update={"steps": [step]})


MODEL_STRING_SERVERS = [Trace.to_html, Trace._repr_html_]
NASTY = [
    "<script>alert(1)</script>",
    "</style><script>alert(1)</script>",
    "</div></main></body></html><h1>mine</h1>",
    """"quoted" 'twice' & &lt;b&gt; `back`""",
    "{{ trace }} {% include 'page.html.j2' %} {# no #}",
    '<img src="https://example.com/x.png" onerror="alert(1)">',
    "\u202eoverridden\u202c \u200fmark \u2067isolate",
    "👩‍👩‍👧‍👦 🇦🇹 é مرحبا",
    "a\tb\n\n  indented\n",
    "<!-- comment --> <![CDATA[ x ]]> <?php ?>",
]


class TestText:
    @pytest.mark.parametrize(("form", "text"), list(product(MODEL_STRING_SERVERS, NASTY)))
    def test_whatever_a_step_holds_is_its_text(self, form, text):
        plain, nasty = read(form(of("harmless"))), read(form(of(text)))
        assert text.rstrip("\n") in nasty.text
        assert [tag for tag, _ in nasty.tags] == [tag for tag, _ in plain.tags]

    @pytest.mark.parametrize("form", MODEL_STRING_SERVERS)
    @pytest.mark.parametrize("field", ["small_model", "strategy", "strategy_reason", "stop_reason"])
    def test_names_and_reasons_are_text(self, form, field):
        text = '</style><script>alert("1")</script>'
        page = read(form(of("x").model_copy(update={field: text})))
        assert text in page.text
        assert not any(tag == "script" for tag, _ in page.tags)

    def test_errors_and_titles_are_text(self):
        text = "</title><script>1</script>"
        page = read(of("x").model_copy(update={"errors": [text]}).to_html(text))
        assert page.text.count(text) == 3  # title, heading, error
        assert not any(tag == "script" for tag, _ in page.tags)

    @pytest.mark.parametrize("form", MODEL_STRING_SERVERS)
    def test_control_characters_are_pictures(self, form):
        html = form(of("a\x1b[2J\x00\r\x9bb"))
        assert "a␛[2J␀␍\ufffdb" in html
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", html)

    def test_every_step_keeps_its_reading_direction_to_itself(self):
        page = read(of("\u202eabc").to_html())
        texts = [
            attributes for _, attributes in page.tags if attributes.get("class") == "glimp-text"
        ]
        assert texts and all(attributes["dir"] == "auto" for attributes in texts)
        assert "unicode-bidi: isolate" in page.css

    def test_numbers_alone_get_into_styles(self):
        page = read(made_up().to_html())
        styles = [attributes["style"] for _, attributes in page.tags if "style" in attributes]
        allowed = re.compile(r"(width|left|top|max-width|flex-grow):[\d.]+(%|px)?")
        assert len(styles) > 300 and all(allowed.fullmatch(style or "") for style in styles)

    @pytest.mark.parametrize("form", MODEL_STRING_SERVERS)
    def test_no_scripts_and_nothing_to_fetch(self, form):
        page = read(form(made_up()))
        for tag, attributes in page.tags:
            assert tag not in ("script", "iframe", "object", "embed", "img", "form")
            assert not [name for name in attributes if name.startswith("on") or name == "src"]
            assert (attributes.get("href") or "#").startswith(("#", "data:,"))
        assert "url(" not in page.css and "@import" not in page.css

    def test_a_page_forbids_scripts_and_requests(self):
        assert "default-src 'none'; style-src 'unsafe-inline'" in made_up(2).to_html()


class TestFolding:
    @pytest.mark.parametrize(
        "text",
        [
            "word " * 500,
            "x" * 5000,
            "line\n" * 40,
            "👩‍👩‍👧‍👦" * 700,
            "é" * 3000,
            "\n" * 50 + "z",
            "語" * 2000,
        ],
    )
    def test_a_long_text_is_shown_in_two_parts_without_loss(self, text):
        head, rest = _folded(text)
        assert head + rest == text and rest
        assert 0 < len(head) <= 600 and head.count("\n") < 16

    def test_no_character_is_cut_in_two(self):
        head, rest = _folded("x" + "👩‍👩‍👧‍👦" * 700)
        assert head[1:].replace("👩‍👩‍👧‍👦", "") == "" and rest.replace("👩‍👩‍👧‍👦", "") == ""
        assert _folded("e\u0301" * 3000)[1].startswith("e")

    def test_a_short_text_is_not_folded(self):
        assert _folded("a\n" * 9) == ("a\n" * 9, "")
        assert not any(tag == "details" for tag, _ in read(of("short").to_html()).tags)
        assert any(tag == "details" for tag, _ in read(of("word " * 500).to_html()).tags)


class TestWhatIsShown:
    def test_every_step_and_the_totals(self):
        page = read(router().run("?").trace.to_html())
        text = " ".join(page.text.split())
        for part in (
            "small S 5 tokens in 2 steps",
            "large L 5 tokens in 2 steps",
            "H 0.20 ≤ 1 nats",
            "H 2.00 > 1 nats",
            "50% of 10 tokens",
            "33% of 3 glimpsed steps",
            "4 requests",
            "Let me think",
            "2 + 2 = 4.",
            "The answer is 4.",
            "end of thinking",
            "3 tokens +1 thrown away",
            "step 3",
            "answer large",
            "topk_renorm@20",
        ):
            assert part in text
        assert page.classes("glimp-step") == 4
        assert page.classes("glimp-bar") == 3  # the answer was not glimpsed at
        assert "Cost" not in text

    def test_bars_and_threshold_share_a_scale(self):
        page = router().run("?").trace.to_html()
        widths = [float(w) for w in re.findall(r'<i style="width:([\d.]+)%', page)]
        marks = {float(left) for left in re.findall(r'<b style="left:([\d.]+)%', page)}
        (mark,) = marks
        assert [w / mark for w in widths] == pytest.approx([0.2, 2.0, 0.3], rel=0.01)
        assert max(widths) < 100

    def test_costs_and_what_was_saved(self):
        prices = Prices(small=Price(input=0, output=0), large=Price(input=1, output=1000))
        trace = router(prices=prices).run("?").trace
        saved = 1 - trace.cost / trace.large_alone_cost
        assert 0.4 < saved < 0.6
        assert f"{saved:.0%} saved" in trace.to_html() and f"{trace.cost:.6f}" in trace.to_html()
        dear = trace.model_copy(update={"cost": 3 * trace.large_alone_cost})
        assert "200% more" in dear.to_html() and "200% more" in str(dear)
        free = trace.model_copy(update={"cost": 0.0, "large_alone_cost": 0.0})
        assert "Cost" in free.to_html() and "saved" not in free.to_html()

    def test_failures_are_shown(self):
        result = router(large=model(fail_after=2), on_backend_error="small").run("?")
        page = read(result.trace.to_html())
        assert "large model: the script says: fail here" in page.text
        assert "ended by error" in page.text

    def test_a_chain_without_tags_has_no_answer_of_its_own(self):
        tokens = script(("a", 0.1), "")
        trace = router(ScriptedBackend(tokens), ScriptedBackend(tokens)).run("?").trace
        assert "step 1" in trace.to_html()

    @pytest.mark.parametrize("form", MODEL_STRING_SERVERS)
    def test_an_empty_trace(self, form):
        page = read(form(of("x").model_copy(update={"steps": []})))
        assert "No step was written." in page.text and not page.classes("glimp-chart")

    @pytest.mark.parametrize("form", MODEL_STRING_SERVERS)
    @pytest.mark.parametrize("threshold", [math.inf, -math.inf])
    def test_infinite_thresholds_and_no_entropies(self, form, threshold):
        page = read(form(router(threshold=threshold).run("?").trace))
        assert "The answer is 4." in page.text
        assert not page.classes("glimp-chart") and not page.classes("glimp-bar")

    @pytest.mark.parametrize("threshold", ["inf", "-inf"])
    def test_infinite_thresholds_with_entropies(self, threshold):
        page = read(of("x", threshold=threshold).to_html())
        assert f"H 0.20 {'≤' if threshold == 'inf' else '>'} {threshold} nats" in page.text
        assert page.classes("glimp-bar") == 1 and not page.classes("glimp-line")

    @pytest.mark.parametrize(("entropy", "threshold"), [(0.0, 0.0), (0.5, 0.0), (0.0, -1.0)])
    def test_scales_that_begin_at_nothing(self, entropy, threshold):
        page = read(of("x", entropy=entropy, threshold=threshold).to_html())
        assert page.classes("glimp-bar") == 1 and "nan" not in page.text

    def test_a_step_without_text_says_what_it_was(self):
        assert "(began a tool call)" in of("", end="tool_call").to_html()
        assert "(nothing)" in of("\n\n", end="eos").to_html()


class TestNotebooks:
    def test_the_style_stays_inside(self):
        page = read(made_up(5)._repr_html_())
        css = re.sub(r"@media[^{]*\{", "", page.css)
        selectors = [s for part in re.findall(r"([^{}]+)\{[^{}]*\}", css) for s in part.split(",")]
        assert len(selectors) > 60
        assert all(".glimp-trace" in selector for selector in selectors), selectors
        assert not any("id" in attributes for _, attributes in page.tags)

    def test_an_answer_shows_itself_with_the_way_to_it_folded(self):
        page = read(router().run("?")._repr_html_())
        assert page.text.index("The answer is 4.") < page.text.index("How it was written")
        assert "2 + 2 = 4." in page.text

    def test_an_answers_tool_calls_are_text(self):
        base = router().run("?")
        call = ToolCall(id="1", name="<b>look</b>", arguments={"q": "</code><script>\x1b"})
        broken = InvalidToolCall(index=1, id="2", name=None, text='{"q": <i>', error="no JSON")
        result = RoutedAnswer.model_validate(
            {**dict(base), "answer": "", "tool_calls": [call], "invalid_tool_calls": [broken]}
        )
        page = read(result._repr_html_())
        for text in ("<b>look</b>", "</code><script>", '{"q": <i>', "no JSON", "broken tool call"):
            assert text in page.text
        assert not {"script", "b", "i"} & {
            tag for tag, attributes in page.tags if "style" not in attributes
        }


def luminance(colour: str) -> float:
    """Relative luminance, as WCAG 2.2 defines it."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted([luminance(one), luminance(other)])
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrasts_reach_aa(scheme):
    css = _environment().get_template("trace.css").render()
    block = re.search(rf"color-scheme: {scheme};([^}}]*)", css)
    colours = dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6});", block.group(1)))
    grounds = ["ground", "panel", "small-tint", "large-tint"]
    text = [
        *product(["ink", "dim", "small", "large"], grounds),
        ("warn", "warn-tint"),
        ("on-large", "large"),
    ]
    for ink, ground in text:
        assert contrast(colours[ink], colours[ground]) >= 4.5, (ink, ground)
    for fill, ground in product(["small-fill", "large-fill"], grounds):
        assert contrast(colours[fill], colours[ground]) >= 3, (fill, ground)


@pytest.mark.serial
def test_two_hundred_steps_are_a_page_of_bounded_size_and_time():
    trace = made_up(200)
    trace.to_html()  # templates are compiled once
    started = time.perf_counter()
    page = trace.to_html()
    seconds = time.perf_counter() - started
    text = sum(len(step.text.encode()) for step in trace.steps)
    assert len(page.encode()) < 20_000 + 200 * 1000 + 1.5 * text
    assert seconds < 1
    assert read(page).classes("glimp-step") == 200


@pytest.mark.serial
def test_a_very_long_step_is_no_trouble():
    record: StepRecord = made_up(2).steps[0].model_copy(update={"text": "<" * 1_000_000})
    trace = made_up(2).model_copy(update={"steps": [record]})
    started = time.perf_counter()
    assert trace.to_html().count("&lt;") == 1_000_000
    assert time.perf_counter() - started < 2
