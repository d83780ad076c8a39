"""Saved traces: old ones load, new ones and other files are told apart, by name and place."""

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

# As the first commit's version saved it, and with a field that no version ever had.
FIRST = """{"format": 1, "small_model": "S", "large_model": "L", "strategy": "fused",
 "strategy_reason": "asked for", "mood": "good",
 "steps": [{"index": 0, "kind": "reasoning", "text": "Hm.\\n\\n", "author": "large", "entropy": 2.5,
  "estimator": "topk_renorm@20", "threshold": "inf", "tokens": 2, "discarded_tokens": 1,
  "requests": 2, "prefilled_tokens": null, "cached_tokens": null, "first_token_seconds": 0.5,
  "seconds": 1.5, "end": "delimiter", "colour": "red"}],
 "stop_reason": "eos", "answer_stop": null, "requests": 2, "seconds": 1.6, "prompt_tokens": 9,
 "errors": [], "cost": null, "large_alone_cost": null}"""
BARE = {
    "steps": [
        {"text": "a\n\n", "author": "small", "threshold": 1.0},
        {"text": "b", "author": "large", "threshold": 1.0},
    ]
}


def with_step(**changes: Any) -> dict[str, Any]:
    return {"steps": [BARE["steps"][0], {**BARE["steps"][1], **changes}]}


class TestOldAndNew:
    def test_the_first_format_loads(self):
        trace = Trace.from_json(FIRST)
        assert (trace.small_model, trace.seconds, trace.prompt_tokens) == ("S", 1.6, 9)
        (step,) = trace.steps
        assert (step.entropy, step.threshold, step.discarded_tokens) == (2.5, "inf", 1)

    def test_fields_an_older_version_did_not_write_get_defaults(self):
        trace = Trace.from_json(json.dumps(BARE))
        assert [step.index for step in trace.steps] == [0, 1]
        assert [(s.tokens, s.seconds, s.entropy, s.kind) for s in trace.steps] == [
            (0, 0.0, None, "reasoning")
        ] * 2
        assert (trace.strategy, trace.large_share, trace.cost) == ("unknown", 0.0, None)
        assert "b" in str(trace) and "b" in trace.to_html()

    @pytest.mark.parametrize("field", ["text", "author", "threshold"])
    def test_what_cannot_be_guessed_is_named(self, field):
        data = with_step()
        del data["steps"][1][field]
        with pytest.raises(ConfigError, match=rf"no trace: steps\.1\.{field} is missing"):
            Trace.from_json(json.dumps(data))

    @pytest.mark.parametrize(
        ("change", "told"),
        [
            ({"author": "medium"}, r"steps\.1\.author is 'medium'"),
            ({"tokens": "many"}, r"steps\.1\.tokens is 'many'"),
            ({"threshold": "high"}, r"steps\.1\.threshold is 'high', expected nats"),
            ({"threshold": "nan"}, r"steps\.1\.threshold is 'nan'"),
            ({"text": "x" * 99, "author": ["x" * 99]}, r"steps\.1\.author is \['x{50,55}\.\.\.:"),
        ],
    )
    def test_a_wrong_value_is_named(self, change, told):
        with pytest.raises(ConfigError, match=told):
            Trace.from_json(json.dumps(with_step(**change)))

    def test_a_newer_format_is_told_before_what_it_holds(self):
        newer = json.dumps({"format": 2, "steps": [{"words": "of another kind"}]})
        with pytest.raises(ConfigError, match="format 2, newer than 1: update glimp-integrations"):
            Trace.from_json(newer)

    @pytest.mark.parametrize(
        ("text", "told"),
        [
            ("", "it is no JSON"),
            ("[" * 100_000, "it is no JSON"),
            ("[]", "it is a list"),
            ("null", "it is null"),
            ('"x"', "it is a text"),
            ("7", "it is a number"),
            ('{"steps": 7}', "it is an object without a list of steps"),
            ('{"steps": [7]}', r"steps\.0 is 7"),
        ],
    )
    def test_other_json(self, text, told):
        with pytest.raises(ConfigError, match=f"this is no trace: {told}"):
            Trace.from_json(text)


@pytest.fixture
def trace() -> Trace:
    return router().run("?").trace


class TestFiles:
    def test_everything_that_holds_a_trace(self, trace: Trace, tmp_path: Path):
        data = trace.model_dump(mode="json")
        result = router().run("?").model_dump(mode="json")
        file = tmp_path / "all.json"
        for held in (
            data,
            {"trace": data},
            {"glimprouter": data},
            result,
            [data],
            [{"trace": data}],
        ):
            file.write_text(json.dumps(held), encoding="utf-8")
            found, remarks = load(file)
            assert [sorted(saved.trace) for saved in found] == [sorted(data)]
            assert remarks == []

    @pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
    def test_what_editors_on_windows_make_of_it(self, trace: Trace, tmp_path: Path, encoding: str):
        file = tmp_path / "trace.json"
        file.write_bytes(trace.to_json().replace("\n", "\r\n").encode(encoding))
        assert len(load(file)[0]) == 1

    def test_a_line_that_was_cut_off_and_one_without_a_trace_are_left_out_and_told(
        self, trace: Trace, tmp_path: Path
    ):
        line = json.dumps({"arm": "routed@1", "item": 3, "trace": trace.model_dump(mode="json")})
        file = tmp_path / "runs.jsonl"
        file.write_text(f'{line}\n\n{{"error": "x"}}\n{line}\n{line[:70]}', encoding="utf-8")
        found, remarks = load(file)
        assert [saved.name for saved in found] == ["routed@1 · 3"] * 2
        assert [saved.place for saved in found] == [f"{file}, line {n}" for n in (1, 4)]
        assert len(remarks) == 2
        assert any("line 3 holds no trace" in remark for remark in remarks)
        assert any("line 5 is no trace: it is no JSON" in remark for remark in remarks)

    def test_no_trace_at_all(self, tmp_path: Path):
        file = tmp_path / "notes.txt"
        for content, told in (
            (b"Buy milk.", "holds no trace.*no JSON"),
            (b"", "holds no trace"),
            (b"{}", "holds no trace"),
            (b"\xff\xfa\x00\x80\x99" * 9, "not text"),
        ):
            file.write_bytes(content)
            with pytest.raises(ConfigError, match=told):
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
        ("arguments", "told"),
        [
            (["--number", "3"], "--number is 3, but .* holds 2 traces"),
            (["--number", "0"], "--number is 0"),
            (["--html", "-"], "holds 2 traces: say which one with --number 1 to 2"),
            (["--number", "1", "--html", "/none/such/page.html"], "cannot be written to /none"),
        ],
    )
    def test_mistakes_are_one_line(self, many: Path, arguments, told, monkeypatch, capsys):
        monkeypatch.setattr(sys, "argv", ["glimp", "trace", str(many), *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        error = capsys.readouterr().err
        assert ended.value.code == 1 and error.count("\n") == 1
        assert re.search(told, error)
