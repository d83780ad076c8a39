"""``deploy/ray``: Ray Serve's own schema, and the application builder without a cluster.

tests/slow/test_ray_serve.py runs it on a local Ray.
"""

from __future__ import annotations

import importlib
from pathlib import Path

import pydantic
import pytest

from deploy.files import DEPLOY, Mistake, read_yaml, serve_config
from glimp_integrations.errors import ConfigError
from glimp_integrations.serve.config import ServeConfig

pytest.importorskip("ray.serve", reason="Ray is not installed (extra ray)")
from ray.serve.config import AutoscalingConfig
from ray.serve.schema import ServeDeploySchema

from glimp_integrations.serve import ray as on_ray

FILE, CONFIG = "ray/serve.yaml", "ray/serve.toml"


def ray_problems(deploy: Path, folder: Path) -> list[str]:
    """Everything that is wrong with ``deploy/ray``."""
    try:
        schema = ServeDeploySchema.model_validate(read_yaml(deploy / FILE))
    except pydantic.ValidationError as error:
        return [str(error)]
    config, found = serve_config(deploy / CONFIG, folder, host="0.0.0.0")
    if config is None:
        return found
    (application,) = schema.applications
    module, _, name = application.import_path.partition(":")
    try:
        getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        found.append(f"import_path: {error}")
    try:
        on_ray.Arguments.model_validate(application.args)
    except pydantic.ValidationError as error:
        found.append(str(error))
    (deployment,) = application.deployments
    if deployment.name != "Glimp":
        found.append(f"there is no deployment {deployment.name}")
    try:
        scaling = AutoscalingConfig.model_validate(deployment.autoscaling_config)
    except pydantic.ValidationError as error:
        return [*found, str(error)]
    if not 0 < (scaling.target_ongoing_requests or 0) < config.max_running:
        found.append("replicas are added when conversations wait already")
    return found


MISTAKES = [
    Mistake(FILE, "proxy_location: EveryNode", "proxy_location: Everywhere", "proxy_location"),
    Mistake(FILE, "min_replicas: 2", "min_replicas: 9", "max_replicas"),
    Mistake(FILE, "serve.ray:app", "serve.ray:application", "import_path"),
    Mistake(FILE, "      config:", "      file:", "file"),
    Mistake(FILE, "- name: Glimp", "- name: Router", "no deployment Router"),
    Mistake(FILE, "requests: 24", "requests: 48", "wait already"),
    Mistake(CONFIG, "max_waiting", "max_queue", "unknown setting 'max_queue'"),
]


def test_ray(tmp_path: Path) -> None:
    assert ray_problems(DEPLOY, tmp_path) == []


@pytest.mark.parametrize("mistake", MISTAKES, ids=str)
def test_a_mistake_is_noticed(mistake: Mistake, tmp_path: Path) -> None:
    assert mistake.told in "\n".join(ray_problems(mistake.made(tmp_path), tmp_path))


class TestBuilding:
    @pytest.fixture
    def file(self, tmp_path: Path) -> Path:
        path = tmp_path / "serve.toml"
        path.write_text(
            "max_running = 8\nmax_waiting = 2\ngrace_seconds = 7\n"
            '[[api_keys]]\nname = "a"\nkey = "hush-hush-hush-hush"\n'
        )
        return path

    def test_the_queue_is_the_applications_own(self, file: Path) -> None:
        built = on_ray.app({"config": str(file)})._bound_deployment
        assert built.name == "Glimp"
        assert built.max_ongoing_requests >= 8 + 2
        assert built._deployment_config.graceful_shutdown_timeout_s == 7

    def test_no_key_travels_through_the_cluster(self, file: Path) -> None:
        from ray import cloudpickle

        built = on_ray.app({"config": str(file)})._bound_deployment
        assert b"hush" not in cloudpickle.dumps(built)

    def test_everything_may_come_from_the_environment(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("GLIMP_SERVE_API_KEYS", "k" * 40)
        monkeypatch.setenv("GLIMP_SERVE_MAX_RUNNING", "3")
        built = on_ray.app({})._bound_deployment
        assert built.max_ongoing_requests == 3 + ServeConfig.load().max_waiting + on_ray._BESIDE

    @pytest.mark.parametrize(
        ("arguments", "told"),
        [
            ({}, "there are no API keys"),
            ({"config": "missing.toml"}, "cannot be read"),
            ({"file": "serve.toml"}, "'file'"),
        ],
    )
    def test_mistakes_are_told_when_it_is_built(self, arguments: dict[str, str], told: str) -> None:
        with pytest.raises(ConfigError, match=told):
            on_ray.app(arguments)
