"""Forward passes through a transformers model, whatever the signature of its ``forward``."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Sequence
from typing import Any

import torch
from transformers import DynamicCache

from glimp_integrations.backends.hf.request import Stream

__all__ = ["ForwardPass"]

_log = logging.getLogger(__name__)


class ForwardPass:
    """The model as a function from token ids to logits.

    Args:
        model: The transformers model, in evaluation mode.
        name: The model's name, for messages.

    Attributes:
        cache_name: The argument of the model's ``forward`` that takes a KV cache; ``None``: it
            takes none.
        resumes: Whether reading a text in two pieces gives the same as reading it at once.
        computed: How many tokens went through the model so far.
    """

    def __init__(self, model: Any, name: str) -> None:
        self.model = model
        self.name = name
        self.computed = 0
        base = model.get_base_model() if hasattr(model, "get_base_model") else model
        self._parameters = set(inspect.signature(base.forward).parameters)
        # Versions of transformers differ in the name.
        self.cache_name = next(
            (n for n in ("cache", "past_key_values") if n in self._parameters), None
        )
        if self.cache_name is None:
            _log.warning("%s has no cache transformers could keep: every token reads all", name)
        self.resumes = self._measure_resuming()

    def new_cache(self) -> Any:
        """An empty cache for one conversation."""
        return DynamicCache(config=self.model.config)

    def run(
        self,
        ids: torch.Tensor,
        positions: torch.Tensor,
        cache: Any,
        mask: torch.Tensor | None,
        keep: int = 1,
    ) -> torch.Tensor:
        """One pass through the model.

        Args:
            ids: Shape ``(rows, tokens)``.
            positions: The place of every id in its text, shape ``(rows, tokens)``.
            cache: What was read before; the pass adds to it. ``None``: nothing is kept.
            mask: 0 for padding, 1 for text, shape ``(rows, tokens read and new)``.
            keep: For how many of the last places logits are returned.

        Returns:
            Logits of shape ``(rows, keep, vocabulary)``.
        """
        inputs = {
            "attention_mask": mask,
            "position_ids": positions,
            "logits_to_keep": keep,
            "use_cache": cache is not None,
        }
        inputs = {name: value for name, value in inputs.items() if name in self._parameters}
        if self.cache_name is not None:
            inputs[self.cache_name] = cache
        self.computed += ids.numel()
        logits: torch.Tensor = self.model(input_ids=ids, **inputs).logits
        return logits[:, -keep:]

    def read(self, stream: Stream, ids: Sequence[int], keep: int = 1) -> torch.Tensor:
        """Let the model read ``ids`` after what it has read of a stream.

        Args:
            stream: Its cache and its ``read_count`` grow.
            ids: The stream's next ids, perhaps followed by a draft.
            keep: For how many of the last places logits are returned.

        Returns:
            Logits of shape ``(keep, vocabulary)``, float32.
        """
        begin = stream.read_count
        if self.cache_name is None:
            ids, begin = [*stream.ids[:begin], *ids], 0
        device = self.model.device
        positions = torch.arange(begin, begin + len(ids), device=device)[None]
        text = torch.tensor([list(ids)], device=device)
        logits = self.run(text, positions, stream.cache, None, keep)
        stream.read_count = begin + len(ids)
        return logits[0].float()

    def _measure_resuming(self) -> bool:
        """Whether reading a text in two pieces comes to the same as reading it at once.

        Some recurrent models of transformers begin again with every piece of several tokens and
        carry their state over single ones only. No list of such models would stay true, so every
        model with a recurrent layer is tried once, with ten tokens.
        """
        if self.cache_name is None:
            return False
        first = self.new_cache()
        if not any(getattr(first, "is_linear", [False])):
            return True
        # The shorter the second piece, the more of it depends on what came before.
        cut, size = 8, 10
        positions = torch.arange(size, device=self.model.device)[None]
        ids = (positions + 3) % self.model.config.get_text_config().vocab_size
        with torch.inference_mode():
            in_one = self.run(ids, positions, self.new_cache(), None).float()
            self.run(ids[:, :cut], positions[:, :cut], first, None)
            in_two = self.run(ids[:, cut:], positions[:, cut:], first, None).float()
        self.computed = 0
        rounding = 4 * max(torch.finfo(self.model.dtype).eps, 1e-5)
        if (in_two - in_one).norm() <= rounding * in_one.norm():
            return True
        _log.warning(
            "%s carries its recurrent state over single tokens only: a text that grew by several "
            "is read again from its beginning",
            self.name,
        )
        return False
