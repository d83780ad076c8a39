"""Datasets from a hub, by the real library over real HTTP. The hub is a fake one on loopback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from wire.fake_datasets import SHA, FakeDatasets

pytest.importorskip("datasets")

# The library reads the hub's address where it is imported, so it is used in another process.
CHILD = """
import json, sys
from glimp_integrations.bench import load_task
from glimp_integrations.errors import ConfigError
for name, options in json.loads(sys.argv[1]):
    try:
        print(json.dumps([item.answer for item in load_task(name, **options).items]))
    except ConfigError as error:
        print(json.dumps(str(error)))
"""


def loaded(tasks: list[tuple[str, dict[str, str]]], env: Mapping[str, str]) -> list[str]:
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "GLIMP_OFF"))}
    done = subprocess.run(
        [sys.executable, "-c", CHILD, json.dumps(tasks)],
        env={**inherited, "HF_HUB_DISABLE_TELEMETRY": "1", **env},
        capture_output=True,
        text=True,
        check=True,
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_dataset_of_the_hub_and_what_can_be_wrong_with_one(tmp_path: Path) -> None:
    rows = b'{"id": "0", "problem": "1 + 1?", "answer": "2"}\n'
    held = {
        "math-ai/aime25": {"test.jsonl": rows, "README.md": b"# AIME"},
        "o/program": {"program.py": b"raise SystemExit('was run')", "README.md": b"# Program"},
    }
    with FakeDatasets(held, gated=("Idavidrein/gpqa",)) as hub:
        env = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path), "HF_TOKEN": "hf_secret"}
        tasks = [
            ("gpqa-diamond", {}),
            ("hf:o/nothing", {}),
            ("hf:o/program", {}),
            ("aime25", {"revision": "cd" * 20}),
            ("aime25", {"revision": SHA}),
            ("hf:math-ai/aime25", {"revision": "main"}),
        ]
        gated, missing, program, revision, *found = loaded(tasks, env)
        asked = list(hub.asked)
    assert "Idavidrein/gpqa is gated. Accept its terms at https://" in gated and "HF_TOKEN" in gated
    assert "'o/nothing' doesn't exist on the Hub" in missing and "Check the name" in missing
    assert "glimp runs none" in program and "--revision refs/convert/parquet" in program
    assert "doesn't exist" in revision and "another --revision" in revision
    assert found == [["2"], ["2"]]
    assert any(f"/resolve/{SHA}/test.jsonl" in line for line in asked)
    assert not any("hf_secret" in text for text in (gated, missing, program, revision))

    # Without a network, what was loaded is still there, and nothing else goes by its name.
    tasks = [("aime25", {"revision": SHA}), ("aime25", {}), ("aime24", {})]
    same, pinned, other = loaded(tasks, {**env, "GLIMP_OFFLINE": "1"})
    assert same == ["2"]
    assert f"has commit {SHA} of math-ai/aime25, not 563bb8404243" in pinned
    assert "GLIMP_OFFLINE is set, and HuggingFaceH4/aime_2024 is not in the cache" in other
