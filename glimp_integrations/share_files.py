"""What a wanted share of large steps has learned, as a file, so that a new process goes on from it.

The file holds numbers only: H in nats of the last steps, by place, and who wrote them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, ValidationError

from glimp_integrations.errors import ConfigError
from glimp_integrations.method.large_share import LargeShare
from glimp_integrations.method.policy import Place, RoutingPolicy
from glimp_integrations.method.rule import name_of
from glimp_integrations.trace.files import complaint_of_file, write

__all__ = ["load_share", "save_share"]

# H is at most the logarithm of the vocabulary's size: about 12 nats for the largest there are.
_Nats = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]


class _Learned(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")

    format: Literal[1] = 1
    share: float = Field(gt=0, lt=1)
    prior: dict[Place, list[_Nats]] = {}
    seen: dict[Place, list[tuple[_Nats, StrictBool]]]


def save_share(policy: RoutingPolicy, path: str | Path) -> None:
    """Write what a wanted share has learned to a file, as JSON.

    A file that exists is replaced in one go, so a reader never finds half of it.

    Args:
        policy: What ``router.policy_of()`` returns where ``large_share`` is set.
        path: The file.

    Raises:
        ConfigError: The policy learns nothing, or the file cannot be written.
    """
    if not isinstance(policy, LargeShare):
        raise ConfigError(
            f"the policy {name_of(policy)!r} learns nothing that could be saved: only the policy "
            "of large_share does"
        )
    state = policy.__getstate__()
    text = json.dumps({"format": 1, **state, "share": float(policy.share)}, allow_nan=False)
    write(path, text + "\n", "what the wanted share has learned")


def load_share(path: str | Path) -> LargeShare:
    """A policy that goes on from a file of :func:`save_share`; give it as ``policy=``.

    Raises:
        ConfigError: There is no such file, or it is something else; the message says where it is
            wrong, and with which value.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:  # ValueError: not UTF-8, a null character in path
        raise ConfigError(
            f"no learned share can be read from {str(path)!r} ({error}): make the file with "
            "save_share(), or begin anew with large_share=0.25"
        ) from error
    try:
        learned = _Learned.model_validate_json(text)
    except ValidationError as error:
        raise ConfigError(
            f"{str(path)!r} is not a file of save_share(): {complaint_of_file(error)}; delete "
            "it and begin anew with large_share=0.25"
        ) from None
    policy = LargeShare(learned.share, learned.prior)
    policy.seen = learned.seen
    return policy
