"""Fetch weights from the Hugging Face hub, at a pinned revision.

huggingface_hub resumes interrupted downloads by itself.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from glimp_integrations.redact import hide, proxy_secrets
from glimp_integrations.weights.catalog import WeightFile
from glimp_integrations.weights.disk import IS_DISK, refuse_link
from glimp_integrations.weights.progress import Bar

__all__ = ["SourceError", "fetch"]

# Short, because there is another source if the hub cannot be reached.
_REACH_SECONDS = 5.0


class SourceError(Exception):
    """This source does not have the file or cannot be reached; the next one is tried."""


def fetch(file: WeightFile, part: Path, bar: Bar) -> None:
    """Download the file to ``part``.

    Raises:
        SourceError: The library is missing, or the hub is out of reach.
        ConfigError: The folder that it is downloaded into is a link.
        OSError: The disk is full or cannot be written.
    """
    try:
        import huggingface_hub as hf
    except ImportError as error:
        raise SourceError("huggingface_hub is not installed") from error
    if file.repo is None:
        raise SourceError("this file is not kept there")
    url = hf.hf_hub_url(file.repo, file.filename, revision=file.revision)
    staging = part.with_suffix(".staging")
    refuse_link(staging)
    try:
        hf.get_hf_file_metadata(url, timeout=_REACH_SECONDS)
        with bar.paused():  # huggingface_hub draws its own
            path = hf.hf_hub_download(
                file.repo, file.filename, revision=file.revision, local_dir=staging
            )
    except Exception as error:
        if isinstance(error, OSError) and error.errno in IS_DISK:
            raise  # the other source would write to the same disk
        # Whatever the hub answers, or the network on the way to it, the other source is tried.
        raise SourceError(_first_line(error)) from error
    os.replace(path, part)
    shutil.rmtree(staging, ignore_errors=True)


def _first_line(error: Exception) -> str:
    # The network's library quotes the proxy, whose address may hold a password.
    text = hide(str(error), proxy_secrets()).strip().splitlines()
    return f"{type(error).__name__}: {text[0][:200]}" if text else type(error).__name__
