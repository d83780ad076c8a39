"""The catalogue of model pairs that are known by name: their files, and how they are best used.

No SHA-256 of the reasoning pairs was computed by this project: each was read in several unrelated
public repositories, which agreed. Every download is checked against them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from glimp_integrations.errors import ConfigError
from glimp_integrations.weights.catalog import LARGE, SMALL, WeightFile

__all__ = ["BUNDLED", "PAIRS", "WORKING_BYTES", "ModelPair", "PairModel", "find_pair"]

WORKING_BYTES = 512 << 20
"""For each model, besides weights and KV cache: llama.cpp's buffers. With the bundled pair, 0.5 GB
each were measured after a prompt of 3,000 tokens. Up to as much again comes in time, for prompts of
earlier conversations (``prompt_cache_mib``)."""


@dataclass(frozen=True, slots=True)
class PairModel:
    """One of the two models.

    Attributes:
        file: Its weights.
        licence: Its licence's SPDX identifier, as the file's repository states it.
        context: Tokens of a conversation that it was made for.
        cache_bytes: Bytes of KV cache that a token takes at 16 bits: layers x 2 x key-value heads x
            size of a head x 2.
    """

    file: WeightFile
    licence: str
    context: int
    cache_bytes: int


@dataclass(frozen=True, slots=True)
class ModelPair:
    """A small and a large model that belong together.

    Attributes:
        name: What users call it.
        context_window: Tokens of one conversation for which memory is set aside, in each model.
        think_tags: How its thinking is marked; ``None``: it does not think in tags. For the
            catalogue only: the router reads them from the chat template in the file.
        sampling: What the makers advise, by setting. Those that :class:`RoutingSettings` knows
            become the pair's defaults; the user's own settings win.
        advised_in: Where the makers advise it; ``None``: they advise nothing.
    """

    name: str
    small: PairModel
    large: PairModel
    context_window: int = 16_384
    think_tags: tuple[str, str] | None = ("<think>", "</think>")
    sampling: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    advised_in: str | None = None

    @property
    def models(self) -> tuple[PairModel, PairModel]:
        """Both models, the small one first."""
        return self.small, self.large

    @property
    def size(self) -> int:
        """Bytes of both files."""
        return self.small.file.size + self.large.file.size

    @property
    def memory(self) -> int:
        """Bytes of memory that both models take together; see :meth:`memory_of`."""
        return self.memory_of(self.small) + self.memory_of(self.large)

    def memory_of(self, model: PairModel) -> int:
        """Bytes of memory that one of its models takes: weights, KV cache, working memory."""
        return model.file.size + self.context_window * model.cache_bytes + WORKING_BYTES

    @property
    def pull_command(self) -> str:
        """The command that fetches both files."""
        return "glimp pull" if self.name == "bundled" else f"glimp pull {self.name}"

    @property
    def verified(self) -> bool:
        """Whether this project has computed the SHA-256 of both files."""
        return self.small.file.verified and self.large.file.verified


def _qwen3(model: str, quantisation: str, revision: str, size: int, sha256: str) -> WeightFile:
    """A file of the makers' own repository."""
    return WeightFile(
        model=f"Qwen3-{model}",
        repo=f"Qwen/Qwen3-{model}-GGUF",
        filename=f"Qwen3-{model}-{quantisation}.gguf",
        revision=revision,
        size=size,
        sha256=sha256,
        quantisation=quantisation,
    )


def _r1(model: str, revision: str, size: int, sha256: str) -> WeightFile:
    """A file of a repository that conversions of DeepSeek's models are usually taken from."""
    name = f"DeepSeek-R1-Distill-Qwen-{model}"
    return WeightFile(
        model=name,
        repo=f"bartowski/{name}-GGUF",
        filename=f"{name}-Q4_K_M.gguf",
        revision=revision,
        size=size,
        sha256=sha256,
    )


def _bytes_of_cache(layers: int, heads: int, size: int = 128) -> int:
    return layers * 2 * heads * size * 2


# Context lengths, and what the caches are made of, stand in the models' cards and config.json.
_QWEN3_06B = PairModel(
    _qwen3(
        "0.6B",
        "Q8_0",
        "23749fefcc72300e3a2ad315e1317431b06b590a",
        639_446_688,
        "9465e63a22add5354d9bb4b99e90117043c7124007664907259bd16d043bb031",
    ),
    licence="Apache-2.0",
    context=32_768,
    cache_bytes=_bytes_of_cache(28, 8),
)
_QWEN3_17B = PairModel(
    _qwen3(
        "1.7B",
        "Q8_0",
        "90862c4b9d2787eaed51d12237eafdfe7c5f6077",
        1_834_426_016,
        "061b54daade076b5d3362dac252678d17da8c68f07560be70818cace6590cb1a",
    ),
    licence="Apache-2.0",
    context=32_768,
    cache_bytes=_bytes_of_cache(28, 8),
)
_QWEN3_4B = PairModel(
    _qwen3(
        "4B",
        "Q4_K_M",
        "bc640142c66e1fdd12af0bd68f40445458f3869b",
        2_497_280_256,
        "7485fe6f11af29433bc51cab58009521f205840f5b4ae3a32fa7f92e8534fdf5",
    ),
    licence="Apache-2.0",
    context=32_768,
    cache_bytes=_bytes_of_cache(36, 8),
)
_QWEN3_8B = PairModel(
    _qwen3(
        "8B",
        "Q4_K_M",
        "7c41481f57cb95916b40956ab2f0b139b296d974",
        5_027_783_488,
        "d98cdcbd03e17ce47681435b5150e34c1417f50b5c0019dd560e4882c5745785",
    ),
    licence="Apache-2.0",
    context=32_768,
    cache_bytes=_bytes_of_cache(36, 8),
)
_R1_15B = PairModel(
    _r1(
        "1.5B",
        "main",  # no commit is known that holds it; its SHA-256 decides
        1_117_320_800,
        "1741e5b2d062b07acf048bf0d2c514dadf2a48f94e2b4aa0cfe069af3838ee2f",
    ),
    licence="MIT",
    context=131_072,
    cache_bytes=_bytes_of_cache(28, 2),
)
_R1_7B = PairModel(
    _r1(
        "7B",
        "361004151d4f4f6b446dc5e6d46fbf4422a80d5f",
        4_683_073_504,
        "731ece8d06dc7eda6f6572997feb9ee1258db0784827e642909d9b565641937b",
    ),
    licence="MIT",
    context=131_072,
    cache_bytes=_bytes_of_cache(28, 4),
)

# "We recommend setting presence_penalty to 1.5 for quantized models", which these are.
_QWEN3_SAMPLING = MappingProxyType(
    {"temperature": 0.6, "top_p": 0.95, "top_k": 20, "min_p": 0.0, "presence_penalty": 1.5}
)
_R1_SAMPLING = MappingProxyType({"temperature": 0.6, "top_p": 0.95})

BUNDLED = ModelPair(
    "bundled",
    PairModel(SMALL, "Apache-2.0", context=32_768, cache_bytes=_bytes_of_cache(24, 2, 64)),
    PairModel(LARGE, "Apache-2.0", context=32_768, cache_bytes=_bytes_of_cache(28, 2)),
    context_window=8192,
    think_tags=None,
)


def _qwen3_pair(name: str, small: PairModel, large: PairModel) -> ModelPair:
    return ModelPair(
        name,
        small,
        large,
        sampling=_QWEN3_SAMPLING,
        advised_in="https://huggingface.co/Qwen/Qwen3-8B-GGUF#best-practices",
    )


PAIRS: Mapping[str, ModelPair] = MappingProxyType(
    {
        pair.name: pair
        for pair in (
            BUNDLED,
            _qwen3_pair("qwen3-0.6b+4b", _QWEN3_06B, _QWEN3_4B),
            _qwen3_pair("qwen3-0.6b+8b", _QWEN3_06B, _QWEN3_8B),
            _qwen3_pair("qwen3-1.7b+8b", _QWEN3_17B, _QWEN3_8B),
            ModelPair(
                "r1-1.5b+7b",
                _R1_15B,
                _R1_7B,
                sampling=_R1_SAMPLING,
                advised_in="https://github.com/deepseek-ai/DeepSeek-R1#usage-recommendations",
            ),
        )
    }
)
"""All pairs that are known by name."""


def find_pair(name: str, named_by: str = "pair") -> ModelPair:
    """The pair of a name.

    Args:
        name: The name.
        named_by: Where it stands, for the message of an error.

    Raises:
        ConfigError: No pair has that name.
    """
    pair = PAIRS.get(name)
    if pair is None:
        raise ConfigError(
            f"{named_by} is {name!r}, which is no pair; there are {', '.join(PAIRS)} (see "
            "`glimp pull --list`). Other models are named by small=... and large=..."
        )
    return pair
