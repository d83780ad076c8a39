"""A damaged bench folder: whatever happened to it, the errors are the package's own."""

from __future__ import annotations

import json
import random
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from test_bench_report import line

from glimp_integrations import ConfigError, GlimpError
from glimp_integrations.bench import Store
from glimp_integrations.bench.report import markdown, write_report
from glimp_integrations.bench.summary import parse_prices, summarise
from glimp_integrations.runtime.speed import ModelSpeed, PairSpeed

MANIFEST: dict[str, Any] = {
    "format": 1,
    "task": "t",
    "small_model": "S",
    "large_model": "L",
    "answer_format": "boxed",
    "settings": {"temperature": 0},
    "concurrency": 1,
}
SPEED = PairSpeed(
    ModelSpeed(0.1, 0.01, 0.001, 0.1), ModelSpeed(0.1, 0.04, 0.004, 0.1), 0.001, 1.5, (True, False)
)
HOSTILE: list[Any] = [
    None,
    True,
    -1,
    10**400,
    1e300,
    float("inf"),
    float("nan"),
    "",
    "\ud800",
    "routed@x",
    "routed@1:a=$\\frac$",
    "inf",
    [],
    [[]],
    {},
    {"a": {}},
]


def whole() -> list[dict[str, Any]]:
    arms = ("small", "large", "routed@1", "random(routed@1)")
    lines = [line(arm, i, right=arm != "small", seconds=1.0) for arm in arms for i in (0, 3)]
    ungraded = {**lines[0], "kind": "ungraded", "item": "q8", "error": "ValueError: no"}
    failed = {k: lines[0][k] for k in ("arm", "digest", "settings", "seconds", "concurrency")}
    return [
        {"kind": "speed", "at": "2026-01-01", "speed": asdict(SPEED)},
        {"kind": "share", "arm": "random(routed@1)", "share": 0.5, "large_steps": 4, "steps": 8},
        *lines,
        ungraded,
        {"kind": "error", **failed, "item": "q9", "error": "BackendError: gone", "partial": None},
    ]


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every value in JSON data."""
    inner = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    return [path, *(found for key, part in inner for found in places(part, (*path, key)))]


def changed(data: Any, chance: random.Random) -> Any:
    """The data with one value removed, or replaced by a hostile one."""
    *path, last = chance.choice(places(data)[1:])
    owner = data
    for key in path:
        owner = owner[key]
    if chance.random() < 0.3:
        del owner[last]
    else:
        owner[last] = chance.choice(HOSTILE)
    return data


def cut(raw: bytes, chance: random.Random) -> bytes:
    """The bytes after damage that knows nothing of JSON."""
    at = chance.randrange(len(raw))
    return chance.choice(
        [
            raw[:at],
            raw[:at] + bytes([chance.randrange(256)]) + raw[at + 1 :],
            raw[:at] + raw[at : at + 40] + raw[at:],
            raw[:at] + b"\n" + raw[at:],
            raw[:at] + b"\0" * 64,
            raw[:at] + b"[" * 3000 + raw[at:],
        ]
    )


def damage(folder: Path, chance: random.Random) -> None:
    """Write a folder with one or two damages."""
    lines, manifest = whole(), dict(MANIFEST)
    kind = chance.choice(["line", "line", "line", "manifest", "bytes", "manifest bytes"])
    if kind == "line":
        for _ in range(chance.choice([1, 1, 2])):
            place = chance.randrange(len(lines))
            lines[place] = changed(lines[place], chance)
    elif kind == "manifest":
        manifest = changed(manifest, chance)
    files = [
        "".join(json.dumps(each) + "\n" for each in lines).encode(),
        json.dumps(manifest).encode(),
    ]
    if "bytes" in kind:
        which = int(kind != "bytes")
        files[which] = cut(files[which], chance)
    (folder / "results.jsonl").write_bytes(files[0])
    (folder / "manifest.json").write_bytes(files[1])


def test_no_damage_of_a_folder_escapes_as_an_error_of_python(tmp_path: Path) -> None:
    taken = refused = 0
    prices = parse_prices("1,2,3,4")
    for seed in range(250):
        damage(tmp_path, random.Random(seed))
        try:
            markdown(summarise(Store(tmp_path), prices)).encode()
            taken += 1
        except GlimpError as error:
            said = str(error)
        except Exception as error:
            raise AssertionError(f"seed {seed}") from error
        else:
            continue
        refused += 1
        assert str(tmp_path) in said and said.encode(), seed
        assert re.search("emove that line|another --out|update glimp", said), said
    # Some damages matter to nothing, such as a changed text of a reply.
    assert taken > 50 and refused > 100


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"seconds": float("inf")}, "line 2: seconds is inf"),
        ({"arm": "routed@x"}, "line 2: arm is 'routed@x'"),
        ({"kind": None}, "line 2: it is"),
        ({"trace": {}}, "line 2: its trace is not a trace"),
        ({"usage": {"small": {"requests": -3}}}, "line 2: its usage .*small.requests is -3"),
    ],
)
def test_the_line_and_the_field_are_named(
    tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    lines = [line("small", i, right=True, seconds=1.0) for i in range(3)]
    lines[1] |= change
    (tmp_path / "manifest.json").write_text(json.dumps(MANIFEST))
    (tmp_path / "results.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    with pytest.raises(ConfigError, match=words) as error:
        Store(tmp_path)
    assert "results.jsonl" in str(error.value) and "Remove that line" in str(error.value)


@pytest.mark.parametrize("end", [b'{"kind": "answ', b'{"kind": "\xe4', b"\0" * 500])
def test_a_line_that_a_power_failure_cut_is_dropped(tmp_path: Path, end: bytes) -> None:
    with Store(tmp_path, MANIFEST) as store:
        store.add(line("small", 0, right=True, seconds=1.0))
    path = tmp_path / "results.jsonl"
    good = path.read_bytes()
    path.write_bytes(good + end)
    said: list[str] = []
    assert len(Store(tmp_path, say=said.append).lines) == 1 and "cut off" in said[0]
    with Store(tmp_path, MANIFEST) as store:
        store.add(line("small", 1, right=True, seconds=1.0))
    assert path.read_bytes().startswith(good) and len(Store(tmp_path).lines) == 2


def test_a_reply_with_half_a_surrogate_pair_is_stored(tmp_path: Path) -> None:
    with Store(tmp_path, {**MANIFEST, "task": "t\ud800"}) as store:
        store.add({**line("small", 0, right=True, seconds=1.0), "reply": "4 \ud83d"})
    store = Store(tmp_path)
    assert store.lines[0]["reply"] == "4 \ufffd" and store.manifest["task"] == "t\ufffd"


def test_names_that_look_like_formulas_and_colours_are_shown_as_they_are(tmp_path: Path) -> None:
    arm = "routed@1:a=$\\frac$"
    with Store(tmp_path, {**MANIFEST, "task": "cost $\\sqrt$ \x1b[31m"}) as store:
        store.add(line(arm, 0, right=True, seconds=1.0))
    console = Console(record=True, width=200)
    write_report(Store(tmp_path), None, console)
    shown = console.export_text()
    assert arm in shown and "\x1b" not in shown
