"""Prometheus and Grafana in ``deploy/compose``: every expression is of metrics that there are."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml

from deploy.files import DEPLOY, ROOT, Mistake, read_yaml, seconds

Exported = Mapping[str, Mapping[str, set[str]]]

# Prometheus adds these to all samples.
OF_TARGETS = {"job", "instance"}
# One reply has all of their values.
CLOSED = {"author", "kind", "model"}
SERVE_PAGE = (ROOT / "docs" / "how-to" / "serve.md").read_text(encoding="utf-8")
UNITS = {"reqps", "percentunit", "s", "short"}


def expression_problems(text: str, exported: Exported, jobs: set[str]) -> Iterator[str]:
    """What is wrong with a PromQL expression."""
    try:
        parsed = promql_parser.parse(text.replace("$__rate_interval", "5m"))
    except ValueError as error:
        yield f"{text!r} is not PromQL: {error}"
        return
    selectors: list[Any] = []
    grouped: set[str] = set()

    def visit(node: Any) -> None:
        if isinstance(node, promql_parser.VectorSelector):
            selectors.append(node)
        elif isinstance(node, promql_parser.MatrixSelector):
            selectors.append(node.vector_selector)
        elif isinstance(node, promql_parser.AggregateExpr) and node.modifier is not None:
            grouped.update(node.modifier.labels)

    promql_parser.walk(parsed, visit)
    if not selectors:
        yield f"{text!r} names no metric"
    known = set(OF_TARGETS)
    for selector in selectors:
        labels: Mapping[str, set[str]] = exported.get(selector.name, {})
        if selector.name != "up" and selector.name not in exported:
            yield f"{selector.name} is no metric of glimp serve"
            continue
        known.update(labels)
        for matcher in selector.matchers.matchers:
            if matcher.name == "job":
                if matcher.value not in jobs:
                    yield f"{text!r}: there is no job {matcher.value!r}"
            elif matcher.name not in labels:
                yield f"{selector.name} has no label {matcher.name!r}"
            elif matcher.name in CLOSED and matcher.value not in labels[matcher.name]:
                yield f"{selector.name} has no {matcher.name}={matcher.value!r}"
            elif matcher.name == "code" and f"`{matcher.value}`" not in SERVE_PAGE:
                yield f"{selector.name} has no code={matcher.value!r}"
    if missing := grouped - known:
        yield f"{text!r} is grouped by {missing}, which its metrics do not have"


def listening(deploy: Path) -> set[str]:
    """``host:port`` of every service of the compose file that Prometheus may ask."""
    found = set()
    for name, service in read_yaml(deploy / "compose" / "compose.yaml")["services"].items():
        for text in (*service.get("command", ()), *service.get("ports", ())):
            if text.startswith("--port="):
                found.add(f"{name}:{text.removeprefix('--port=')}")
            elif text.startswith("127.0.0.1:"):
                found.add(f"{name}:{text.split(':')[-1]}")
    return found


def prometheus_problems(deploy: Path, exported: Exported) -> list[str]:
    """What is wrong with Prometheus' configuration and its alerts."""
    folder, found = deploy / "compose", []
    try:
        config = read_yaml(folder / "prometheus.yml")
        rules = read_yaml(folder / "alerts.yml")
    except yaml.YAMLError as error:
        return [f"not YAML: {error}"]
    jobs = {job["job_name"] for job in config["scrape_configs"]}
    servers = listening(deploy)
    for job in config["scrape_configs"]:
        for targets in job["static_configs"]:
            found += [
                f"target {t}: nothing listens there" for t in targets["targets"] if t not in servers
            ]
    mounted = str(read_yaml(folder / "compose.yaml")["services"]["prometheus"]["volumes"])
    for name in config["rule_files"]:
        if f"./{name}:/etc/prometheus/{name}" not in mounted:
            found.append(f"rule file {name} is not mounted")
    names = []
    for group in rules["groups"]:
        for rule in group["rules"]:
            names.append(rule["alert"])
            if unknown := set(rule) - {"alert", "expr", "for", "labels", "annotations"}:
                found.append(f"{rule['alert']} has {unknown}")
            if not rule["annotations"].get("summary"):
                found.append(f"{rule['alert']} does not say what it means")
            seconds(rule.get("for", "0s"))
            found += expression_problems(rule["expr"], exported, jobs)
    if len(names) != len(set(names)):
        found.append(f"two alerts have one name: {names}")
    return found


def panel_problems(panel: Any, exported: Exported, source: str, jobs: set[str]) -> Iterator[str]:
    title = panel["title"]
    if not panel["description"].endswith("."):
        yield f"panel {title!r} does not say what it shows"
    if panel["fieldConfig"]["defaults"]["unit"] not in UNITS:
        yield f"panel {title!r} has an unknown unit"
    if len({target["refId"] for target in panel["targets"]}) != len(panel["targets"]):
        yield f"panel {title!r} has two targets of one name"
    for place in (panel, *panel["targets"]):
        if place["datasource"] != {"type": "prometheus", "uid": source}:
            yield f"panel {title!r} asks {place['datasource']}, and there is {source!r}"
    for target in panel["targets"]:
        yield from expression_problems(target["expr"], exported, jobs)
        for label in ("status", "code", "kind", "model"):
            shown, grouped = f"{{{{{label}}}}}" in target["legendFormat"], target["expr"]
            if shown and label not in grouped.partition(" by (")[2].partition(")")[0]:
                yield f"panel {title!r} shows {label!r}, and is not grouped by it"


def grafana_problems(deploy: Path, exported: Exported) -> list[str]:
    """What is wrong with Grafana's board and how it is provisioned."""
    folder = deploy / "compose" / "grafana"
    try:
        board = json.loads((folder / "dashboards" / "glimp.json").read_text(encoding="utf-8"))
    except ValueError as error:
        return [f"the board is not JSON: {error}"]
    provisioning = folder / "provisioning"
    (source,) = read_yaml(provisioning / "datasources" / "prometheus.yaml")["datasources"]
    (provider,) = read_yaml(provisioning / "dashboards" / "glimp.yaml")["providers"]
    config = read_yaml(deploy / "compose" / "prometheus.yml")
    jobs = {job["job_name"] for job in config["scrape_configs"]}
    mounted = read_yaml(deploy / "compose" / "compose.yaml")["services"]["grafana"]["volumes"]
    found = []
    if source["url"].removeprefix("http://") not in listening(deploy):
        found.append(f"data source {source['url']}: nothing listens there")
    if f"./grafana/dashboards:{provider['options']['path']}:ro" not in mounted:
        found.append(f"boards are looked for in {provider['options']['path']}, not mounted")
    cells: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        place = panel["gridPos"]
        own = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        if own & cells or max(x for x, _ in own) >= 24:
            found.append(f"panel {panel['title']!r} lies on another, or outside of the board")
        cells |= own
        found += panel_problems(panel, exported, source["uid"], jobs)
    if len({panel["id"] for panel in board["panels"]}) != len(board["panels"]):
        found.append("two panels have one id")
    used = " ".join(str(target["expr"]) for p in board["panels"] for target in p["targets"])
    families = {name.removesuffix("_bucket") for name in exported if name.endswith("_bucket")}
    families |= {name for name in exported if name.endswith("_total")}
    found += [f"the board does not show {name}" for name in sorted(families) if name not in used]
    return found


ALERTS, CONFIG = "compose/alerts.yml", "compose/prometheus.yml"
BOARD = "compose/grafana/dashboards/glimp.json"
SOURCE = "compose/grafana/provisioning/datasources/prometheus.yaml"
PROVIDER = "compose/grafana/provisioning/dashboards/glimp.yaml"
WAITING = '"expr": "sum(glimp_waiting)"'
MISTAKES = [
    Mistake(ALERTS, "glimp_queue_seconds_bucket", "glimp_wait_seconds_bucket", "no metric"),
    Mistake(ALERTS, '{status=~"5.."}', '{http_status=~"5.."}', "no label 'http_status'"),
    Mistake(ALERTS, '{author="large"}', '{author="big"}', "no author='big'"),
    Mistake(ALERTS, '"too_many_conversations"', '"too_many_calls"', "no code='too_many_calls'"),
    Mistake(ALERTS, 'up{job="glimp"}', 'up{job="serve"}', "no job 'serve'"),
    Mistake(ALERTS, "[5m]))) > 10", "[5m])) > 10", "is not PromQL"),
    Mistake(ALERTS, "alert: GlimpDown", "alert: GlimpQueueLong", "one name"),
    Mistake(ALERTS, "for: 2m", "since: 2m", "'since'"),
    Mistake(CONFIG, "vllm-small:8000", "vllm-small:8001", "nothing listens there"),
    Mistake(CONFIG, "- alerts.yml", "- rules.yml", "is not mounted"),
    Mistake(CONFIG, "global:", "global: [", "not YAML"),
    Mistake(BOARD, WAITING, '"expr": "sum(glimp_queue)"', "glimp_queue is no metric"),
    Mistake(BOARD, WAITING, '"expr": "sum by (pod) (glimp_waiting)"', "grouped by {'pod'}"),
    Mistake(BOARD, WAITING, '"expr": "sum(glimp_waiting"', "is not PromQL"),
    Mistake(BOARD, WAITING, '"expr": "1"', "names no metric"),
    Mistake(BOARD, "sum by (status)", "sum by (le)", "grouped by {'le'}"),
    Mistake(BOARD, "sum(rate(glimp_cost_total[", "sum(rate(glimp_requests_total[", "does not show"),
    Mistake(BOARD, '"uid": "glimp-serve",', '"uid": "glimp-serve"', "not JSON"),
    Mistake(SOURCE, "uid: prometheus", "uid: metrics", "and there is 'metrics'"),
    Mistake(SOURCE, "prometheus:9090", "prometheus:9091", "nothing listens there"),
    Mistake(PROVIDER, "grafana/dashboards", "grafana/boards", "not mounted"),
]


def test_prometheus(exported: Exported) -> None:
    assert prometheus_problems(DEPLOY, exported) == []


def test_grafana(exported: Exported) -> None:
    assert grafana_problems(DEPLOY, exported) == []


@pytest.mark.parametrize("mistake", MISTAKES, ids=str)
def test_a_mistake_is_noticed(mistake: Mistake, tmp_path: Path, exported: Exported) -> None:
    copy = mistake.made(tmp_path)
    found = prometheus_problems(copy, exported)
    if mistake.told != "not YAML":
        found += grafana_problems(copy, exported)
    assert mistake.told in "\n".join(found)


def test_promtool_agrees() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed; Debian has it in the package prometheus")
    command = [promtool, "check", "config", str(DEPLOY / "compose" / "prometheus.yml")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
