"""Each environment of `make test` has the versions it is there for."""

from __future__ import annotations

import importlib.util
import os
import re
import tomllib
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
# What users install; torch's floor is not tested.
EXTRAS = ("langchain", "llamaindex", "hf", "llamacpp", "bench", "otel", "prices")
DECLARED = [
    Requirement(text)
    for text in [
        *PROJECT["dependencies"],
        *(text for extra in EXTRAS for text in PROJECT["optional-dependencies"][extra]),
    ]
]
# What another package forces up in that environment, and not where users do without that package.
FORCED = {"certifi": "langchain-core"}
ENDS = os.environ.get("GLIMP_TEST_VERSIONS")


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("versions", ROOT / "tools" / "versions.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def floor(requirement: Requirement) -> Version:
    (lowest,) = (s.version for s in requirement.specifier if s.operator == ">=")
    return Version(lowest)


@pytest.mark.skipif(ENDS != "lowest", reason="this is not the environment of the lowest versions")
@pytest.mark.parametrize("declared", DECLARED, ids=str)
def test_the_lowest_versions_are_those_declared(declared: Requirement) -> None:
    if declared.name == "torch":
        with pytest.raises(PackageNotFoundError):
            version("torch")
        return
    have, wanted = Version(version(declared.name)), floor(declared)
    if declared.name in FORCED:
        theirs = map(Requirement, requires(FORCED[declared.name]) or ())
        forced = next(floor(one) for one in theirs if one.name == declared.name)
        assert wanted < forced <= have, "nothing forces it any more: take it out of FORCED"
        return
    assert have.release[: len(wanted.release)] == wanted.release, "say in pyproject what is true"


def test_pip_s_settings_reach_uv(tool: ModuleType) -> None:
    listed = (
        "global.index-url='https://a/simple'\nglobal.extra-index-url='https://b https://c'\n"
        "install.index-url='https://d/simple'\nglobal.timeout='9'\n"
        ":env:.find-links='/x /y'\n:env:.cert='/z.pem'\n"
    )
    assert tool.settings_of_pip(listed) == {
        "UV_DEFAULT_INDEX": "https://d/simple",
        "UV_INDEX": "https://b https://c",
        "UV_FIND_LINKS": "/x,/y",
        "SSL_CERT_FILE": "/z.pem",
    }
    assert tool.settings_of_pip("") == {}


def test_a_version_that_is_held_back_is_found(tool: ModuleType) -> None:
    users = tool.versions("openai==3.57.0\nmath-verify[antlr4-13-2]==0.8\n# via x\n")
    assert users == {"openai": "3.57.0", "math-verify": "0.8"}
    assert tool.held_back(users, users | {"pytest": "9"}) == {}
    late = users | {"openai": "2.54.0"}
    assert tool.held_back(users, late) == {"openai": ("3.57.0", "2.54.0")}


def test_the_lock_allows_what_pyproject_does_and_names_no_host() -> None:
    text = (ROOT / "requirements-dev.lock").read_text("utf-8")
    assert "://" not in text and "--" not in text
    pinned = dict(re.findall(r"^([\w.-]+)(?:\[.*?\])?==(\S+)$", text, re.M))
    extras = PROJECT["optional-dependencies"]
    texts = [t for name in (*EXTRAS, "examples", "test", "docs", "dev") for t in extras[name]]
    for wanted in map(Requirement, [*PROJECT["dependencies"], *texts]):
        if wanted.name != PROJECT["name"]:
            version_pinned = pinned[wanted.name.lower().replace("_", "-")]
            assert wanted.specifier.contains(version_pinned), f"{wanted}: run make lock"
