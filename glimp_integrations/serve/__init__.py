"""The routed pair behind one address that speaks OpenAI's API (extra ``serve``)."""

from glimp_integrations.serve.app import create_app
from glimp_integrations.serve.config import ServeConfig
from glimp_integrations.serve.server import run

__all__ = ["ServeConfig", "create_app", "run"]
