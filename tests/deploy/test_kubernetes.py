"""``deploy/kubernetes``: the schemas of Kubernetes, and whether the manifests fit together."""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from deploy.files import (
    DEPLOY,
    PLACEHOLDER,
    Mistake,
    address,
    image_problems,
    read_yaml,
    routes,
    serve_config,
)
from glimp_integrations.errors import ConfigError
from glimp_integrations.serve import readiness
from glimp_integrations.serve.config import ServeConfig
from glimp_integrations.serve.keys import read_keys
from glimp_integrations.serve.server import _ENDING_SECONDS

VERSIONS = ("1.33", "1.37")
NAME = "glimp-serve"
Manifests = dict[str, dict[str, Any]]


@functools.cache
def schema_problems(text: str) -> list[str]:
    """By the schemas of the oldest and the newest Kubernetes; a manifest is looked at once."""
    content = yaml.safe_load(text)
    found = []
    for version in VERSIONS:
        try:
            kubernetes_validate.validate(content, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            place = ".".join(map(str, error.path))
            found.append(f"{content['kind']} ({version}) at {place}: {error.message}")
        except kubernetes_validate.SchemaNotFoundError as error:
            found.append(f"{content['kind']}: {error.message}")
    return found


def kustomization_problems(folder: Path, manifests: Manifests) -> Iterator[str]:
    content = manifests["Kustomization"]
    named = set(content["resources"])
    there = {path.name for path in folder.glob("*.yaml")} - {"kustomization.yaml"}
    if named != there:
        yield f"kustomization.yaml names {named}, and there are {there}"
    for generator in (*content["configMapGenerator"], *content["secretGenerator"]):
        for name in generator["files"]:
            example = folder / name.replace(".toml", ".example.toml")
            if not ((folder / name).exists() or example.exists()):
                yield f"kustomization.yaml: {name} does not exist"


def reference_problems(manifests: Manifests) -> Iterator[str]:
    """What one manifest says of another."""
    deployment = manifests["Deployment"]
    template = deployment["spec"]["template"]
    labels = template["metadata"]["labels"].items()
    selectors = {
        "Deployment": deployment["spec"]["selector"]["matchLabels"],
        "Service": manifests["Service"]["spec"]["selector"],
        "PodDisruptionBudget": manifests["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
        "NetworkPolicy": manifests["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"],
    }
    for kind, selector in selectors.items():
        if not selector.items() <= labels:
            yield f"{kind} selects {selector}, which the pods are not"
    scaler = manifests["HorizontalPodAutoscaler"]["spec"]
    if scaler["scaleTargetRef"]["name"] != deployment["metadata"]["name"]:
        yield f"the autoscaler is of {scaler['scaleTargetRef']['name']}"
    if "replicas" in deployment["spec"]:
        yield "replicas are given beside an autoscaler"
    if manifests["PodDisruptionBudget"]["spec"]["minAvailable"] >= scaler["minReplicas"]:
        yield "the disruption budget lets no node be drained at minReplicas"
    (container,) = template["spec"]["containers"]
    for metric in scaler["metrics"]:
        if metric["resource"]["name"] not in container["resources"]["requests"]:
            yield f"the autoscaler goes by {metric['resource']['name']}, which is not requested"
    ports = {port["name"] for port in container["ports"]}
    for port in manifests["Service"]["spec"]["ports"]:
        if port["targetPort"] not in ports:
            yield f"the Service leads to {port['targetPort']}, and there is {ports}"


def pod_problems(manifests: Manifests, config: ServeConfig) -> Iterator[str]:
    """Whether the pod is what glimp serve needs."""
    template = manifests["Deployment"]["spec"]["template"]
    pod = template["spec"]
    (container,) = pod["containers"]
    yield from image_problems(container["image"])
    (port,) = container["ports"]
    if port["containerPort"] != config.port:
        yield f"the container's port is {port['containerPort']}, and serve.toml says {config.port}"
    known, seen = routes(), template["metadata"]["annotations"]
    asked = {name: container[name]["httpGet"] for name in container if name.endswith("Probe")}
    if sorted(asked) != ["livenessProbe", "readinessProbe", "startupProbe"]:
        yield f"there are the probes {sorted(asked)}"
    for name, get in asked.items():
        wanted = "/ready" if name == "readinessProbe" else "/health"
        if get["path"] != wanted or get["port"] != port["name"]:
            yield f"{name} asks {get['path']} at {get['port']}, not {wanted}"
    if container["readinessProbe"]["timeoutSeconds"] <= readiness._WAIT_SECONDS:
        yield "the readiness probe is over before /ready answers"
    if seen["prometheus.io/path"] not in known or seen["prometheus.io/port"] != str(config.port):
        yield "Prometheus is told a wrong place"
    pause = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    if pod["terminationGracePeriodSeconds"] < pause + config.grace_seconds + _ENDING_SECONDS:
        yield "terminationGracePeriodSeconds is shorter than preStop, grace_seconds and the end"
    safe = container["securityContext"]
    if not (
        pod["securityContext"]["runAsNonRoot"]
        and safe["readOnlyRootFilesystem"]
        and not safe["allowPrivilegeEscalation"]
        and safe["capabilities"] == {"drop": ["ALL"]}
    ):
        yield "the container may do more than it needs"
    dockerfile = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    user = f"{pod['securityContext']['runAsUser']}:{pod['securityContext']['runAsGroup']}"
    if f"USER {user}\n" not in dockerfile:
        yield f"the pod runs as {user}, and the image does not"


def file_problems(manifests: Manifests, keys_file: str) -> Iterator[str]:
    """Whether configuration and keys are where they are looked for."""
    pod = manifests["Deployment"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    (mount,) = container["volumeMounts"]
    generated = {
        generator["name"]: generator["files"]
        for key in ("configMapGenerator", "secretGenerator")
        for generator in manifests["Kustomization"][key]
    }
    (volume,) = pod["volumes"]
    there = []
    for source in volume["projected"]["sources"]:
        (reference,) = source.values()
        if reference["name"] not in generated:
            yield f"{reference['name']} is mounted, and generated by nothing"
        there += [f"{mount['mountPath']}/{f}" for f in generated.get(reference["name"], ())]
    for wanted in (container["args"][1], keys_file):
        if wanted not in there:
            yield f"{wanted} is looked for, and mounted are {there}"
    if container["args"][0] != "--config" or volume["name"] != mount["name"]:
        yield "the configuration is not given"


def network_problems(manifests: Manifests, config: ServeConfig) -> Iterator[str]:
    policy = manifests["NetworkPolicy"]["spec"]
    if {p["port"] for rule in policy["ingress"] for p in rule["ports"]} != {config.port}:
        yield f"the network policy does not let in at port {config.port} alone"
    allowed = {
        (to["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"], port["port"])
        for rule in policy["egress"]
        for to in rule["to"]
        for port in rule["ports"]
    }
    wanted = {("kube-system", 53)}
    for role in ("small", "large"):
        _, host, port = address(config, role)
        wanted.add((host.partition(".")[2], port))
    if allowed != wanted:
        yield f"the network policy lets out to {allowed}, and needed is {wanted}"


def key_problems(folder: Path) -> Iterator[str]:
    """The example can be read, and cannot be used as it stands."""
    example = folder / "keys.example.toml"
    try:
        read_keys(example)
    except ConfigError as error:
        if "could be guessed" not in str(error):
            yield str(error)
    else:
        yield "glimp serve would take the keys of the example"
    if example.read_text(encoding="utf-8").count(PLACEHOLDER) != 1:
        yield f"keys.example.toml does not say {PLACEHOLDER}"


def kubernetes_problems(deploy: Path, tmp_path: Path) -> list[str]:
    """Everything that is wrong with ``deploy/kubernetes``."""
    folder = deploy / "kubernetes"
    try:
        contents = [read_yaml(path) for path in sorted(folder.glob("*.yaml"))]
    except yaml.YAMLError as error:
        return [f"not YAML: {error}"]
    manifests: Manifests = {content["kind"]: content for content in contents}
    found = [
        problem
        for path in sorted(folder.glob("*.yaml"))
        if path.name != "kustomization.yaml"
        for problem in schema_problems(path.read_text(encoding="utf-8"))
    ]
    if found:
        return found
    found += [*kustomization_problems(folder, manifests), *reference_problems(manifests)]
    found += key_problems(folder)
    config, mistakes = serve_config(folder / "serve.toml", tmp_path)
    if config is None:
        return found + mistakes
    told = tomllib.loads((folder / "serve.toml").read_text(encoding="utf-8"))
    found += pod_problems(manifests, config)
    found += file_problems(manifests, told["keys_file"])
    return [*found, *network_problems(manifests, config)]


POD, NETWORK = "kubernetes/deployment.yaml", "kubernetes/network.yaml"
SCALER, KUSTOMIZATION = "kubernetes/autoscaler.yaml", "kubernetes/kustomization.yaml"
SERVE, KEYS = "kubernetes/serve.toml", "kubernetes/keys.example.toml"
MISTAKES = [
    Mistake(POD, "readinessProbe:", "readyProbe:", "readyProbe"),
    Mistake(POD, "terminationGracePeriodSeconds: 90", "terminationGracePeriodSeconds: 90s", "90s"),
    Mistake(
        POD, "terminationGracePeriodSeconds: 90", "terminationGracePeriodSeconds: 79", "shorter"
    ),
    Mistake(POD, "  strategy:", "  replicas: 2\n  strategy:", "beside an autoscaler"),
    Mistake(POD, "glimp-serve:0.1.0", "glimp-serve:latest", "not pinned"),
    Mistake(POD, "containerPort: 8000", "containerPort: 8080", "serve.toml says 8000"),
    Mistake(POD, "/ready\n", "/healthz\n", "not /ready"),
    Mistake(POD, "timeoutSeconds: 6", "timeoutSeconds: 5", "before /ready answers"),
    Mistake(POD, "prometheus.io/path: /metrics", "prometheus.io/path: /stats", "a wrong place"),
    Mistake(POD, "runAsUser: 10001", "runAsUser: 1000", "and the image does not"),
    Mistake(POD, "readOnlyRootFilesystem: true", "readOnlyRootFilesystem: false", "may do more"),
    Mistake(POD, "name: glimp-keys", "name: keys", "generated by nothing"),
    Mistake(POD, "mountPath: /etc/glimp", "mountPath: /config", "is looked for"),
    Mistake(POD, "apiVersion: apps/v1", "apiVersion: apps/v1beta1", "Couldn't find schema"),
    Mistake("kubernetes/service.yaml", "targetPort: http", "targetPort: web", "leads to web"),
    Mistake("kubernetes/disruption.yaml", "minAvailable: 1", "minAvailable: 2", "be drained"),
    Mistake(
        SCALER,
        "    kind: Deployment\n    name: glimp-serve",
        "    kind: Deployment\n    name: x",
        "autoscaler is of x",
    ),
    Mistake(SCALER, "name: cpu", "name: gpu", "not requested"),
    Mistake(KUSTOMIZATION, "  - network.yaml\n", "", "and there are"),
    Mistake(KUSTOMIZATION, "[serve.toml]", "[glimp.toml]", "glimp.toml does not exist"),
    Mistake(NETWORK, "name: models", "name: gpus", "and needed is"),
    Mistake(
        NETWORK,
        "        - namespaceSelector: {}\n      ports:\n        - port: 8000",
        "        - namespaceSelector: {}\n      ports:\n        - port: 80",
        "does not let in",
    ),
    Mistake(SERVE, "vllm-small.models", "vllm-small.other", "and needed is"),
    Mistake(SERVE, "/etc/glimp/keys.toml", "/etc/keys.toml", "is looked for"),
    Mistake(SERVE, "max_running = 32", "max_running = 0", "max_running"),
    Mistake(KEYS, f'"{PLACEHOLDER}"', f'"{PLACEHOLDER}-with-a-key"', "would take the keys"),
    Mistake(KEYS, "requests_per_minute", "requests_a_minute", "requests_a_minute"),
]


def test_kubernetes(tmp_path: Path) -> None:
    assert kubernetes_problems(DEPLOY, tmp_path) == []


@pytest.mark.parametrize("mistake", MISTAKES, ids=str)
def test_a_mistake_is_noticed(mistake: Mistake, tmp_path: Path) -> None:
    assert mistake.told in "\n".join(kubernetes_problems(mistake.made(tmp_path), tmp_path))
