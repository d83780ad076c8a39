"""The documentation agrees with the code and with itself: tables, names, links, pages."""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import typer
import yaml

from glimp_integrations import RoutingSettings
from glimp_integrations.backends import Capabilities
from glimp_integrations.bench import parse_arms
from glimp_integrations.bench.known_datasets import KNOWN
from glimp_integrations.cli.app import app
from glimp_integrations.method.steps import StepEnd, StopReason
from langchain_glimp import ChatGlimpRouter
from langchain_glimp import GlimpRouterLLM as TextGlimpRouter
from llamaindex_glimp import GlimpRouterLLM as LlamaIndexGlimpRouter

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
sys.path.insert(0, str(ROOT / "tools"))
import public_names  # noqa: E402
import reference_tables  # noqa: E402
from docstring_markdown import as_markdown  # noqa: E402

PAGES = sorted(DOCS.rglob("*.md"))
MADE_BY_THE_BUILD = {  # from notebooks, by tools/docs_hooks.py
    "getting-started/langchain-notebook.md": "examples/langchain/quickstart.ipynb",
    "getting-started/llamaindex-notebook.md": "examples/llamaindex/quickstart.ipynb",
}
FENCED = re.compile(r"^( *)```.*?^\1```", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def first_cells(page: str, after: str) -> list[str]:
    """The names in the first column of the table that follows a mark."""
    table = text_of(DOCS / "reference" / page).split(after)[1].lstrip("\n").split("\n\n")[0]
    return re.findall(r"^\| `([^`]+)`", table, re.MULTILINE)


class TestTables:
    @pytest.mark.parametrize(
        "path", sorted(reference_tables.PAGES.rglob("*.md")), ids=lambda path: path.stem
    )
    def test_are_what_the_code_says(self, path: Path) -> None:
        page = text_of(path)
        assert page == reference_tables.filled(page), "run: python tools/reference_tables.py"

    def test_have_every_setting(self) -> None:
        assert first_cells("settings.md", "<!-- table: settings -->") == [
            *RoutingSettings.model_fields
        ]

    def test_describe_every_setting(self) -> None:
        assert [n for n, f in RoutingSettings.model_fields.items() if not f.description] == []

    def test_have_every_capability(self) -> None:
        names = list(Capabilities.__dataclass_fields__)
        assert sorted(first_cells("capabilities.md", "<!-- table: capabilities -->")) == sorted(
            names
        )

    def test_have_every_end_of_a_step(self) -> None:
        assert first_cells("stop-reasons.md", "<!-- step ends -->") == [*get_args(StepEnd)]

    def test_have_every_stop_reason(self) -> None:
        assert first_cells("stop-reasons.md", "<!-- stop reasons -->") == [*get_args(StopReason)]

    def test_have_every_command_and_option(self) -> None:
        page = text_of(DOCS / "reference" / "cli.md")
        commands: Any = typer.main.get_command(app)
        for name, command in commands.commands.items():
            part = page.split(f"## glimp {name}\n")[1].split("\n## ")[0]
            options = [o for p in command.params for o in p.opts if o.startswith("--")]
            assert [o for o in options if f"`{o}`" not in part and o != "--help"] == []

    def test_have_every_environment_variable(self) -> None:
        page = text_of(DOCS / "reference" / "environment.md")
        source = "".join(map(text_of, (ROOT / "glimp_integrations").rglob("*.py")))
        variables = set(re.findall(r"\"((?:GLIMP_[A-Z]+|[A-Z]+_API_KEY))\"", source))
        assert {"GLIMP_HOME", "GLIMP_OFFLINE", "DEEPSEEK_API_KEY"} <= variables
        assert {name for name in variables if f"`{name}`" not in page} == set()

    def test_of_the_framework_classes(self) -> None:
        """Fields of the adapters that are neither the framework's nor the routing's."""
        page = text_of(DOCS / "reference" / "settings.md")
        for model in (ChatGlimpRouter, TextGlimpRouter, LlamaIndexGlimpRouter):
            ours = {
                name
                for owner in model.__mro__
                if owner.__module__.startswith(("langchain_glimp", "llamaindex_glimp"))
                for name in vars(owner).get("__annotations__", {})
                if name in model.model_fields
            }
            assert ours - RoutingSettings.model_fields.keys()
            assert {name for name in ours if f"`{name}`" not in page} == set()


class TestPublicNames:
    def test_are_read_from_all_packages(self) -> None:
        names = public_names.public_names()
        assert "glimp_integrations.GlimpRouter" in names
        assert {name.rpartition(".")[0] for name in names} >= set(public_names.PACKAGES)

    def test_have_docstrings(self) -> None:
        assert list(public_names.undocumented()) == []

    def test_are_on_a_reference_page(self) -> None:
        assert set(public_names.public_names()) - public_names.on_reference_pages() == set()

    def test_missing_ones_are_noticed(self, tmp_path: Path, monkeypatch: Any) -> None:
        package = tmp_path / "bare"
        package.mkdir()
        (package / "__init__.py").write_text(
            "from bare.code import A, B\n\n__all__ = ['A', 'B', 'C']\n\nC = 1\n"
        )
        (package / "code.py").write_text(
            'class A:\n    """Documented."""\n    def f(self): ...\n\ndef B(): ...\n'
        )
        monkeypatch.setattr(public_names, "ROOT", tmp_path)
        monkeypatch.setattr(public_names, "PACKAGES", ("bare",))
        monkeypatch.setattr(public_names, "EXTRA", ())
        assert set(public_names.undocumented()) == {"bare.B", "bare.C"}


class TestDocstringsBecomeMarkdown:
    def test_roles_and_blocks(self) -> None:
        text = (
            "See :class:`~a.B`.\n\nUse:\n    .. code-block:: python\n\n        x = 1\n\n    Then."
        )
        assert as_markdown(text) == (
            "See ``a.B``.\n\nUse:\n    ```python\n    x = 1\n    ```\n\n    Then."
        )

    def test_doctests(self) -> None:
        text = "Example:\n    >>> a = 1            # doctest: +SKIP\n    >>> b = 2"
        assert as_markdown(text) == "Example:\n    ```python\n    a = 1\n    b = 2\n    ```"


class TestSite:
    def navigation(self) -> Iterator[str]:
        """Every page in the navigation, in order."""

        def pages(entries: Any) -> Iterator[str]:
            for entry in entries:
                target = next(iter(entry.values())) if isinstance(entry, dict) else entry
                yield from [target] if isinstance(target, str) else pages(target)

        yield from pages(yaml.safe_load(text_of(ROOT / "mkdocs.yml"))["nav"])

    def test_every_page_is_in_the_navigation_once(self) -> None:
        written = [page.relative_to(DOCS).as_posix() for page in PAGES]
        assert sorted(self.navigation()) == sorted([*written, *MADE_BY_THE_BUILD])

    def test_notebooks_of_the_navigation_exist(self) -> None:
        hooks = text_of(ROOT / "tools" / "docs_hooks.py")
        for page, notebook in MADE_BY_THE_BUILD.items():
            assert f'"{page}": "{notebook}"' in hooks
            assert (ROOT / notebook).is_file()

    def test_fetches_nothing_from_other_hosts(self) -> None:
        config = yaml.safe_load(text_of(ROOT / "mkdocs.yml"))
        assert config["theme"]["font"] is False
        assert "analytics" not in config["extra"] and "site_url" not in config
        assert "extra_javascript" not in config


def anchors(page: Path) -> set[str]:
    """The fragments of a page's headings."""
    headings = re.findall(r"^#+ (.*)", FENCED.sub("", text_of(page)), re.MULTILINE)
    plain = (re.sub(r"[^\w\s-]", "", heading.lower()).strip() for heading in headings)
    return {re.sub(r"[\s-]+", "-", heading) for heading in plain}


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", *PAGES], ids=lambda page: str(page.relative_to(ROOT))
)
class TestPages:
    def test_links_lead_somewhere(self, page: Path) -> None:
        for target in LINK.findall(FENCED.sub("", text_of(page))):
            path, _, fragment = target.partition("#")
            if re.match(r"https?://", target):
                continue
            linked = (page.parent / path).resolve() if path else page
            inside = linked.is_relative_to(DOCS) and linked.relative_to(DOCS).as_posix()
            assert linked.is_file() or inside in MADE_BY_THE_BUILD, target
            if page.is_relative_to(DOCS):
                assert linked.is_relative_to(DOCS), f"{target}: the site has only docs/"
            if fragment:
                assert fragment in anchors(linked), target

    def test_begins_with_one_title(self, page: Path) -> None:
        text = FENCED.sub("", text_of(page))
        assert text.startswith("# ")
        assert len(re.findall(r"^# ", text, re.MULTILINE)) == 1

    def test_has_no_gaps_and_no_words_that_were_replaced(self, page: Path) -> None:
        text = text_of(page)
        assert not re.search(r"\b(?:FIGURES|TODO|FIXME|XXX)\b", text)
        replaced = ["embedded pair", "short form", "by lot", "laboratory", "keep_warm", "flavour="]
        assert [word for word in replaced if word in text] == []

    def test_commands_have_the_options_that_they_are_shown_with(self, page: Path) -> None:
        commands = typer.main.get_command(app).commands
        text = re.sub(r"\\\n\s*", " ", text_of(page))
        for name, rest in re.findall(r"^ *(?:\S+/)?glimp ([a-z]+) (.*)$", text, re.MULTILINE):
            known = {option for param in commands[name].params for option in param.opts}
            assert set(re.findall(r"(?<!\S)--[a-z-]+", rest)) <= known, rest

    def test_names_files_that_exist(self, page: Path) -> None:
        folders = (
            "glimp_integrations|langchain_glimp|llamaindex_glimp|"
            "benchmarks|deploy|examples|tests|tools"
        )
        names = re.findall(rf"(?:{folders})/[\w./-]*[\w/]", text_of(page))
        assert [n for n in names if "NAME" not in n and not (ROOT / n).exists()] == []


def test_the_paper_is_repeated_with_tasks_and_arms_that_there_are() -> None:
    page = text_of(DOCS / "how-to" / "repeat-the-paper.md")
    for name, source in KNOWN.items():
        row = next(line for line in page.splitlines() if line.startswith(f"| `{name}` | "))
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        named = [source.path, source.config, source.split]
        assert re.findall(r"`([^`]+)`", cells[1]) == [part for part in named if part]
        assert cells[2:4] == [str(source.rows), f"`{source.format}`"]
    (loop,) = re.findall("for task in (.*); do", page)
    assert set(loop.split()) <= set(KNOWN)
    (arms,) = re.findall(r"--arms (\S+)", page)
    kinds = [arm.kind for arm in parse_arms(arms)]
    assert kinds == ["small", "large", "routed", "routed", "random", "random"]


def test_architecture_names_the_rooms_as_they_are() -> None:
    page = text_of(DOCS / "explanation" / "architecture.md")
    rows = re.findall(r"^\| `([\w/]+/)` \| (.*) \|$", page, re.MULTILINE)
    core = ROOT / "glimp_integrations"
    for room, text in rows:
        home = ROOT / room if (ROOT / room).is_dir() else core / room
        assert home.is_dir(), room
        for name in re.findall(r"`([\w/]+(?:\.py|/))`", text):
            assert (home / name).exists() or (core / name).exists(), f"{room}{name}"
    rooms = {p.name for p in core.iterdir() if p.is_dir() and (p / "__init__.py").exists()}
    assert rooms <= {room.rstrip("/") for room, _ in rows}


def test_architecture_draws_the_floors_that_make_check_looks_at() -> None:
    contracts = tomllib.loads(text_of(ROOT / "pyproject.toml"))["tool"]["importlinter"]["contracts"]
    (layers,) = (c["layers"] for c in contracts if c["name"] == "Imports run downwards")
    drawing = (
        text_of(DOCS / "explanation" / "architecture.md").split("```text\n")[1].split("```")[0]
    )
    lines = drawing.splitlines()
    floors = []
    for layer in layers:
        rooms = [name.strip().rpartition(".")[2] for name in re.split(r"[|:]", layer)]
        for room in rooms:
            place = [n for n, line in enumerate(lines) if re.search(rf" {room}(?:/|\.py)", line)]
            assert len(place) == 1, room
            floors.append(place[0])
    assert floors == sorted(floors)
