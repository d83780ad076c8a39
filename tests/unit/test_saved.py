"""Traces in files: which files and texts hold traces, and what is wrong with the others."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers import router
from typer.testing import CliRunner

from glimp_integrations import ConfigError, Trace
from glimp_integrations.cli.app import app, main
from glimp_integrations.trace.files import load

TRACE: dict[str, Any] = {
    "format": 1,
    "small_model": "S",
    "large_model": "L",
    "strategy": "fused",
    "strategy_reason": "the default",
    "steps": [
        {
            "index": 0,
            "kind": "reasoning",
            "text": "Hm.\n\n",
            "author": "large",
            "entropy": 2.5,
            "estimator": "topk_renorm@20",
            "threshold": "inf",
            "tokens": 2,
            "discarded_tokens": 1,
            "requests": 2,
            "prefilled_tokens": None,
            "cached_tokens": None,
            "first_token_seconds": 0.5,
            "seconds": 1.5,
            "end": "delimiter",
        }
    ],
}
REQUIRED = [name for name in TRACE if name not in ("format", "steps")]


def with_step(**changes: Any) -> dict[str, Any]:
    """The trace with another step."""
    return {**TRACE, "steps": [{**TRACE["steps"][0], **changes}]}


class TestText:
    def test_a_trace_loads(self):
        trace = Trace.from_json(json.dumps({**TRACE, "mood": "good"}))  # a field we do not know
        assert (trace.small_model, trace.strategy, trace.cost) == ("S", "fused", None)
        (step,) = trace.steps
        assert (step.entropy, step.threshold, step.discarded_tokens) == (2.5, "inf", 1)

    @pytest.mark.parametrize("name", REQUIRED)
    def test_a_missing_field_is_named(self, name: str):
        data = {key: value for key, value in TRACE.items() if key != name}
        with pytest.raises(ConfigError, match=f"this is not a trace: {name} is missing"):
            Trace.from_json(json.dumps(data))

    @pytest.mark.parametrize("name", TRACE["steps"][0])
    def test_a_missing_field_of_a_step_is_named(self, name: str):
        data = with_step()
        del data["steps"][0][name]
        with pytest.raises(ConfigError, match=rf"not a trace: steps\.0\.{name} is missing"):
            Trace.from_json(json.dumps(data))

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"author": "medium"}, r"steps\.0\.author is 'medium'"),
            ({"tokens": "many"}, r"steps\.0\.tokens is 'many'"),
            ({"threshold": "high"}, r"steps\.0\.threshold is 'high', expected nats"),
            ({"threshold": "nan"}, r"steps\.0\.threshold is 'nan'"),
            ({"text": "x" * 99, "author": ["x" * 99]}, r"steps\.0\.author is \['x{50,55}\.\.\.:"),
        ],
    )
    def test_a_wrong_value_is_named(self, change: dict[str, Any], message: str):
        with pytest.raises(ConfigError, match=message):
            Trace.from_json(json.dumps(with_step(**change)))

    def test_a_newer_format_is_refused_before_its_fields_are_looked_at(self):
        newer = json.dumps({"format": 2, "steps": [{"words": "of another kind"}]})
        with pytest.raises(ConfigError, match="format 2, newer than 1: update glimp-integrations"):
            Trace.from_json(newer)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", "invalid JSON"),
            ("[" * 100_000, "invalid JSON"),
            ("[]", "it is a list"),
            ("null", "it is null"),
            ('"x"', "it is a text"),
            ("7", "it is a number"),
            ("true", "it is true or false"),
            ('{"steps": 7}', "it is an object without a list of steps"),
            ('{"steps": [7]}', "small_model is missing"),
            (json.dumps({**TRACE, "steps": [7]}), r"steps\.0 is 7"),
        ],
    )
    def test_other_texts(self, text: str, message: str):
        with pytest.raises(ConfigError, match=f"this is not a trace: {message}"):
            Trace.from_json(text)


@pytest.fixture
def trace() -> Trace:
    return router().run("?").trace


class TestFiles:
    def test_everything_that_holds_a_trace(self, trace: Trace, tmp_path: Path):
        data = trace.model_dump(mode="json")
        result = router().run("?").model_dump(mode="json")
        file = tmp_path / "all.json"
        for content in (
            data,
            {"trace": data},
            {"glimprouter": data},
            result,
            [data],
            [{"trace": data}],
        ):
            file.write_text(json.dumps(content), encoding="utf-8")
            traces, remarks = load(file)
            assert [sorted(saved.trace) for saved in traces] == [sorted(data)]
            assert remarks == []

    @pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
    def test_what_editors_on_windows_make_of_it(self, trace: Trace, tmp_path: Path, encoding: str):
        file = tmp_path / "trace.json"
        file.write_bytes(trace.to_json().replace("\n", "\r\n").encode(encoding))
        assert len(load(file)[0]) == 1

    def test_a_line_that_was_cut_off_and_one_without_a_trace_are_left_out_with_a_remark(
        self, trace: Trace, tmp_path: Path
    ):
        line = json.dumps({"arm": "routed@1", "item": 3, "trace": trace.model_dump(mode="json")})
        file = tmp_path / "runs.jsonl"
        file.write_text(f'{line}\n\n{{"error": "x"}}\n{line}\n{line[:70]}', encoding="utf-8")
        traces, remarks = load(file)
        assert [saved.name for saved in traces] == ["routed@1 · 3"] * 2
        assert [saved.place for saved in traces] == [f"{file}, line {n}" for n in (1, 4)]
        assert len(remarks) == 2
        assert any("line 3 contains no trace" in remark for remark in remarks)
        assert any("line 5 is not a trace: invalid JSON" in remark for remark in remarks)

    def test_no_trace_at_all(self, tmp_path: Path):
        file = tmp_path / "notes.txt"
        for content, message in (
            (b"Buy milk.", r"contains no trace.*notes\.txt is not a trace: invalid JSON"),
            (b"", "contains no trace"),
            (b"{}", "contains no trace"),
            (b"\xff\xfa\x00\x80\x99" * 9, "is not a trace file: not text"),
        ):
            file.write_bytes(content)
            with pytest.raises(ConfigError, match=message):
                load(file)
        with pytest.raises(ConfigError, match=r"missing\.json cannot be read: No such file"):
            load(tmp_path / "missing.json")
        with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
            load(tmp_path)


class TestCommand:
    def run(self, *arguments: object) -> Any:
        return CliRunner().invoke(app, ["trace", *map(str, arguments)], catch_exceptions=False)

    @pytest.fixture
    def one(self, trace: Trace, tmp_path: Path) -> Path:
        trace.save(tmp_path / "one.json")
        return tmp_path / "one.json"

    @pytest.fixture
    def many(self, trace: Trace, tmp_path: Path) -> Path:
        records = [
            {"question": f"Question\n{number}?", "trace": trace.model_dump(mode="json")}
            for number in (1, 2)
        ]
        file = tmp_path / "many.jsonl"
        file.write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
        return file

    def test_it_shows_every_step_with_tokens_and_seconds(self, one: Path):
        shown = self.run(one).stdout
        for text in (
            "step 2  large model  H 2.00",
            "> 1 nats  3 tokens · ",
            "2 + 2 = 4.",
            "large share 50%",
        ):
            assert text in shown

    def test_brief_is_one_line_a_step(self, one: Path):
        lines = self.run(one, "--brief").stdout.splitlines()
        assert [line.split()[:3] for line in lines[1:5]] == [
            ["1", "small", "0.20"],
            ["2", "large", "2.00"],
            ["3", "small", "0.30"],
            ["answer", "large", "2"],
        ]

    def test_html_goes_to_a_file_or_to_standard_output(self, one: Path, tmp_path: Path):
        page = tmp_path / "page.html"
        assert self.run(one, "--html", page, "--title", "Is 2 < 3?").stdout == ""
        written = page.read_text(encoding="utf-8")
        assert "<title>Is 2 &lt; 3?</title>" in written and "2 + 2 = 4." in written
        streamed = self.run(one, "--html", "-").stdout
        assert streamed.startswith("<!DOCTYPE html>") and streamed.rstrip().endswith("</html>")
        assert "<title>one</title>" in streamed

    def test_many_traces_are_listed_and_one_is_picked(self, many: Path, tmp_path: Path):
        shown = " ".join(self.run(many).stdout.split())  # where lines break depends on the path
        assert "Question 1?" in shown and "Question 2?" in shown and "--number N" in shown
        assert "2 + 2 = 4." in self.run(many, "--number", 2).stdout
        page = tmp_path / "page.html"
        self.run(many, "--number", 2, "--html", page)
        assert "<title>Question 2?</title>" in page.read_text(encoding="utf-8")

    def test_a_broken_trace_hides_none_of_the_others(self, many: Path):
        line = json.dumps({"id": "bad", "trace": with_step(author="medium")})
        many.write_text(f"{line}\n{many.read_text(encoding='utf-8')}", encoding="utf-8")
        shown = CliRunner(env={"COLUMNS": "200"}).invoke(app, ["trace", str(many)]).stdout
        assert "'medium'" in shown and "Question 2?" in shown

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--number", "3"], "--number is 3, but .* holds 2 traces"),
            (["--number", "0"], "--number is 0"),
            (["--html", "-"], "holds 2 traces: say which one with --number 1 to 2"),
            (["--number", "1", "--html", "/none/such/page.html"], "cannot be written to /none"),
        ],
    )
    def test_mistakes_are_one_line(self, many: Path, arguments, message, monkeypatch, capsys):
        monkeypatch.setattr(sys, "argv", ["glimp", "trace", str(many), *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        error = capsys.readouterr().err
        assert ended.value.code == 1 and error.count("\n") == 1
        assert re.search(message, error)
