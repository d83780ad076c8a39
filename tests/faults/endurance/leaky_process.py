"""A ``glimp serve`` that leaves something behind at every request, for the test that it is seen."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
import warnings
from typing import Any

from glimp_integrations.serve.completions import Completions

from .serve_process import main

_left: list[Any] = []
_answer = Completions.__call__


async def _leave(self: Completions, request: Any) -> Any:
    _left.append(asyncio.create_task(asyncio.Event().wait()))
    _left.append(socket.socket())
    warnings.warn("left open", ResourceWarning, stacklevel=1)
    return await _answer(self, request)


if __name__ == "__main__":
    Completions.__call__ = _leave  # type: ignore[method-assign]
    main(json.loads(sys.argv[1]))
