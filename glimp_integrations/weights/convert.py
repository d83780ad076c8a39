"""A GGUF file as a folder of transformers, so that loading it later takes seconds.

Dequantising takes transformers most of a minute for half a billion weights, every time.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from filelock import FileLock

__all__ = ["to_folder"]


def to_folder(gguf: Path, folder: Path, dtype: str = "bfloat16") -> Path:
    """Convert once; a folder that is there is left alone.

    Args:
        gguf: The GGUF file.
        folder: Where the model and its tokenizer go.
        dtype: Of the stored weights; ``"float32"`` keeps every dequantised value exactly.

    Returns:
        The folder.
    """
    if folder.is_dir():
        return folder
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if folder.is_dir():
            return folder
        model: Any = AutoModelForCausalLM.from_pretrained(
            gguf.parent, gguf_file=gguf.name, dtype=getattr(torch, dtype)
        )
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        # These weights are plain numbers now; with the marks of their quantiser left on,
        # saving would look for a way to write GGUF.
        for mark in ("quantization_config", "quantization_method"):
            for place in (model.config, model):
                if mark in vars(place):
                    delattr(place, mark)
        model.hf_quantizer, model.is_quantized = None, False
        part = folder.with_name(f"{folder.name}.part")  # only a whole folder gets its name
        shutil.rmtree(part, ignore_errors=True)
        model.save_pretrained(part)
        tokenizer.save_pretrained(part)
        os.replace(part, folder)
    return folder
