"""Convert a GGUF file into a folder of transformers, which loads within seconds.

Dequantising half a billion weights takes transformers most of a minute, each time it loads them.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from glimp_integrations.weights.disk import locked, refuse_link
from glimp_integrations.weights.gguf_tokenizer import split_as_named

__all__ = ["to_folder"]


def to_folder(gguf: Path, folder: Path, dtype: str = "bfloat16") -> Path:
    """Convert a file once; a folder that exists is left unchanged.

    Args:
        gguf: The GGUF file.
        folder: The folder for the model and its tokenizer.
        dtype: The type of the stored weights; ``"float32"`` keeps every dequantised value exactly.

    Returns:
        The folder.

    Raises:
        ConfigError: The lock, or the unfinished folder, is a link.
    """
    if folder.is_dir():
        return folder
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder.parent.mkdir(parents=True, exist_ok=True)
    with locked(folder.with_name(f"{folder.name}.lock")):
        if folder.is_dir():
            return folder
        model: Any = AutoModelForCausalLM.from_pretrained(
            gguf.parent, gguf_file=gguf.name, dtype=getattr(torch, dtype)
        )
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        split_as_named(tokenizer, gguf)
        # The weights are plain numbers now. With these attributes left, saving would look for a
        # way to write GGUF.
        for attribute in ("quantization_config", "quantization_method"):
            for owner in (model.config, model):
                if attribute in vars(owner):
                    delattr(owner, attribute)
        model.hf_quantizer, model.is_quantized = None, False
        part = folder.with_name(f"{folder.name}.part")  # only a complete folder gets its name
        refuse_link(part)
        shutil.rmtree(part, ignore_errors=True)
        model.save_pretrained(part)
        tokenizer.save_pretrained(part)
        os.replace(part, folder)
    return folder
