"""Fetch weights from the Hugging Face hub, at a pinned revision.

huggingface_hub does the requests. Its downloads of whole files keep nothing when they fail, so the
unfinished file is kept here.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from glimp_integrations.redact import hide, proxy_secrets
from glimp_integrations.weights.catalog import WeightFile
from glimp_integrations.weights.disk import IS_DISK, open_part
from glimp_integrations.weights.progress import Bar

__all__ = ["SourceError", "fetch"]

_REACH_SECONDS = 5.0
"""Where there is another source, it is soon tried."""
_ONLY_SOURCE_SECONDS = 20.0
_LATEST = "main"


class SourceError(Exception):
    """This source does not have the file or cannot be reached; the next one is tried.

    Attributes:
        remedy: What to do about it; empty: see to the network.
    """

    def __init__(self, reason: str, remedy: str = "") -> None:
        super().__init__(reason)
        self.remedy = remedy


def fetch(file: WeightFile, part: Path, bar: Bar) -> None:
    """Append what is missing of the file to ``part``.

    The hub says beforehand which bytes it has. Where the pinned revision is gone, or has no such
    file, the newest one is as good if it has the pinned bytes.

    Raises:
        SourceError: The library is missing, the hub is out of reach, or it does not give that file.
        ConfigError: ``part`` is a link.
        OSError: The disk is full or cannot be written.
    """
    try:
        from huggingface_hub.file_download import http_get
        from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]
    except ImportError as error:
        raise SourceError(
            "huggingface_hub is not installed", "Run pip install 'glimp-integrations[llamacpp]'"
        ) from error
    if file.repo is None:
        raise SourceError("this file is not kept there")
    with open_part(part) as out:
        try:
            url = _url_of(file)
            with bar.paused():  # huggingface_hub draws its own
                while not _append(http_get, url, build_hf_headers(), file, out):
                    pass
        except SourceError:
            raise
        except Exception as error:
            if isinstance(error, OSError) and error.errno in IS_DISK:
                raise  # the other source would write to the same disk
            # Whatever the hub answers, or the network on the way to it, the other source is tried.
            raise _refused(error, file) or SourceError(_first_line(error)) from error


def _append(
    http_get: Callable[..., None],
    url: str,
    headers: dict[str, str],
    file: WeightFile,
    out: BinaryIO,
) -> bool:
    """Append what comes; returns whether that was all. Any error is raised if nothing came."""
    there = os.fstat(out.fileno()).st_size
    if there > file.size:
        there = out.truncate(0)
    try:
        http_get(
            url,
            out,
            resume_size=there,
            headers=headers,
            expected_size=file.size,
            displayed_filename=file.filename,
        )
    except Exception:
        out.flush()
        if os.fstat(out.fileno()).st_size <= there:
            raise
        return False  # not every version of the library goes on where a body is cut
    return True


def _url_of(file: WeightFile) -> str:
    """Where the hub has the pinned bytes.

    Raises:
        SourceError: It has other bytes, or none.
    """
    import huggingface_hub as hf
    from huggingface_hub.errors import EntryNotFoundError, RevisionNotFoundError

    seconds = _ONLY_SOURCE_SECONDS if file.wheels is None else _REACH_SECONDS
    gone = None
    for revision in dict.fromkeys((file.revision, _LATEST)):
        url: str = hf.hf_hub_url(str(file.repo), file.filename, revision=revision)
        try:
            found = hf.get_hf_file_metadata(url, timeout=seconds)
        except (EntryNotFoundError, RevisionNotFoundError) as error:
            gone = error
            continue
        # The hub's tag of a large file is its SHA-256; other tags say nothing.
        tag = found.etag if found.etag is not None and len(found.etag) == 64 else file.sha256
        if found.size in (None, file.size) and tag == file.sha256:
            return url
        raise SourceError(
            f"{file.repo} has other bytes under that name at {revision}: {found.size} bytes with "
            f"SHA-256 {tag}, and {file.size} with {file.sha256} are pinned",
            "Nothing was downloaded. Please report it; meanwhile name other models by small=... "
            "and large=...",
        )
    raise SourceError(
        f"{file.repo} no longer has it, neither at the pinned revision {file.revision} nor at "
        f"{_LATEST}",
        "Please report it; meanwhile name other models by small=... and large=...",
    ) from gone


def _refused(error: Exception, file: WeightFile) -> SourceError | None:
    """Where the hub lets nobody in, or not this user: what it wants. Otherwise ``None``."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status not in (401, 403):
        return None
    from huggingface_hub import constants

    return SourceError(
        f"the hub refuses access to {file.repo} (HTTP {status})",
        f"If {constants.ENDPOINT}/{file.repo} asks for it, accept the licence there, and log in "
        "(`hf auth login`, or the token in HF_TOKEN). If you are logged in, the token may be too "
        "old: make another one, or log out",
    )


def _first_line(error: Exception) -> str:
    # The network's library quotes the proxy, whose address may hold a password.
    text = hide(str(error), proxy_secrets()).strip().splitlines()
    return f"{type(error).__name__}: {text[0][:200]}" if text else type(error).__name__
