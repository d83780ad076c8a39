"""Enough descriptors for many conversations, in this process and in those that it starts."""

from __future__ import annotations

import sys

__all__ = ["enough"]

# Of a conversation in `glimp serve`: its client, and two connections to each model, while one is
# being closed and the next one made. Then there are the files of every process.
_EACH, _BESIDE = 5, 128


def enough(at_once: int) -> None:
    """Raise this process' limit of open descriptors as far as so many conversations need it.

    Raises:
        SystemExit: The machine does not allow so many.
    """
    if sys.platform == "win32":
        return
    import resource

    needed = at_once * _EACH + _BESIDE
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise SystemExit(
            f"{at_once} conversations at once need up to {needed} open descriptors in a process, "
            f"and this machine allows {hard}: raise the limit (ulimit -Hn), or ask for fewer"
        )
    if soft != resource.RLIM_INFINITY and soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
