"""The suite: the tests of all topics in one class."""

from __future__ import annotations

from llamaindex_glimp.testing.chat import ChatTests, CompletionTests, CrowdTests
from llamaindex_glimp.testing.framework import FrameworkTests
from llamaindex_glimp.testing.observing import ObservingTests
from llamaindex_glimp.testing.storing import StoringTests
from llamaindex_glimp.testing.structured import StructuredTests
from llamaindex_glimp.testing.tools import ToolTests

__all__ = ["FunctionCallingLLMTests"]


class FunctionCallingLLMTests(
    StoringTests,
    ChatTests,
    CompletionTests,
    CrowdTests,
    ObservingTests,
    ToolTests,
    StructuredTests,
    FrameworkTests,
):
    """All tests. Subclass it in a test file, and override :meth:`make_llm`."""
