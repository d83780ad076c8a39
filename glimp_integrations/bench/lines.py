"""The lines of a results file, checked where they are read.

A file may be damaged: by an editor, a full disk, two programs that write to it, a merge. A line
that has what every later computation needs is taken, every other one is refused with its place, so
that no figure of a report comes from half a line.
"""

from __future__ import annotations

import math
import re
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    StrictStr,
    TypeAdapter,
    ValidationError,
)

from glimp_integrations.errors import ConfigError
from glimp_integrations.strict_json import has_lone_surrogate
from glimp_integrations.trace.files import first_complaint, parse
from glimp_integrations.trace.records import Usage
from glimp_integrations.trace.trace import Trace

__all__ = ["check_line", "check_manifest"]

LONGEST_SECONDS = 1e9
"""Thirty years. No answer takes longer, and sums of such times stay exact and finite."""
REMEDY = "Remove that line, and its item is answered again"
_ARM = re.compile(
    r"(small|large|(routed|random)@(?P<number>[^:()]+))(:.*)?|routed:.+"
    r"|random\(routed(@(?P<like>[^:()]+)(:.*)?|:.+)\)",
    re.DOTALL,
)


def _text(value: str) -> str:
    if has_lone_surrogate(value):
        raise ValueError("the text contains half of a surrogate pair, which is no character")
    return value


def _arm(value: str) -> str:
    match = _ARM.fullmatch(value)
    number = match and (match["number"] or match["like"])
    if match is None or (number and not _is_number(number)):
        raise ValueError("expected the name of an arm, such as small, large or routed@0.8")
    return value


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


Text = Annotated[StrictStr, AfterValidator(_text)]
ArmName = Annotated[Text, AfterValidator(_arm)]
Seconds = Annotated[float, Field(strict=True, ge=0, le=LONGEST_SECONDS, allow_inf_nan=False)]
Share = Annotated[float, Field(strict=True, ge=0, le=1, allow_inf_nan=False)]


class _Line(BaseModel):
    # Further fields are for readers of the file; reports do not use them.
    model_config = ConfigDict(extra="ignore")


class _Work(_Line):
    arm: ArmName
    item: Text
    repeat: int = Field(default=1, strict=True, ge=1, le=1_000_000)
    digest: Text
    settings: Text
    seconds: Seconds


class _Written(_Work):
    concurrency: int = Field(strict=True, ge=1, le=1_000_000)
    reply: StrictStr
    trace: dict[str, Any]
    usage: dict[str, Any]


class _Answer(_Written):
    kind: Literal["answer"]
    right: StrictBool
    score: float = Field(strict=True, allow_inf_nan=False)
    marked: StrictBool


class _Ungraded(_Written):
    kind: Literal["ungraded"]


class _Error(_Work):
    kind: Literal["error"]


class _Share(_Line):
    kind: Literal["share"]
    arm: ArmName
    share: Share


class _ModelSpeed(_Line):
    model_config = ConfigDict(extra="forbid")  # as the dataclass that is made of it

    request: Seconds
    token: Seconds
    prefill: Seconds
    release: Seconds
    growth: Seconds = 0.0
    client: Seconds = 0.0


class _PairSpeed(_Line):
    model_config = ConfigDict(extra="forbid")

    small: _ModelSpeed
    large: _ModelSpeed
    logprobs: Seconds
    slowdown: Seconds
    stops: tuple[StrictBool, StrictBool] = (False, False)


class _Speed(_Line):
    kind: Literal["speed"]
    speed: _PairSpeed


_ANY: TypeAdapter[Any] = TypeAdapter(
    Annotated[_Answer | _Ungraded | _Error | _Share | _Speed, Field(discriminator="kind")]
)


def check_line(line: Any, place: str) -> None:
    """Check that a line has everything that a report, or a bench that goes on, needs of it.

    Args:
        line: The decoded line.
        place: The file and the number of the line, for the error.

    Raises:
        ConfigError: A field is missing or has a value it cannot have; the message names the place,
            the field, its value, and what to do.
    """
    try:
        _ANY.validate_python(line)
    except ValidationError as error:
        # The name of the kind is in the path of every field, and tells the user nothing.
        raise ConfigError(f"{place}: {first_complaint(error, skip=1)}. {REMEDY}") from None
    if line["kind"] in ("answer", "ungraded"):
        try:
            _check_trace(line, place)
        except ConfigError as error:
            raise ConfigError(f"{error}. {REMEDY}") from None


def _check_trace(line: dict[str, Any], place: str) -> None:
    trace = parse(line["trace"], Trace, f"{place}: its trace")
    for number, step in enumerate(trace.steps):
        if step.entropy is not None and not math.isfinite(step.entropy):
            raise ConfigError(
                f"{place}: its trace is not a trace: steps.{number}.entropy is {step.entropy}, "
                "expected nats"
            )
    parse(line["usage"], Usage, f"{place}: its usage")


class _Manifest(_Line):
    model_config = ConfigDict(extra="allow")

    format: int = Field(strict=True, ge=1)


def check_manifest(data: Any, place: str) -> dict[str, Any]:
    """The manifest of a bench folder.

    Args:
        data: The decoded file.
        place: The file, for the error.

    Raises:
        ConfigError: It is something else.
    """
    try:
        _Manifest.model_validate(data)
    except ValidationError as error:
        raise ConfigError(
            f"{place} is not the manifest of a bench: {first_complaint(error)}. Restore it, or "
            "choose another --out"
        ) from None
    manifest: dict[str, Any] = data
    return manifest
