"""``glimp serve`` over the laboratory's models, in a process of its own.

    python -m benchmarks.lab.serve_process OPTIONS      # JSON: models, routing, serve, loops

What follows the reading of options is the command's own code. The models are given as arguments of
backends, which may name devices and templates. Nothing else of the benchmarks is imported here, so
that the memory is the server's. It ends with its standard input.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading

from benchmarks.lab.loops import choose

__all__ = ["end_with_input"]


def main() -> None:
    options = json.loads(sys.argv[1])
    choose(options["loops"])
    from glimp_integrations import GlimpRouter
    from glimp_integrations.backends import OpenAIBackend
    from glimp_integrations.serve import ServeConfig, run

    models = {role: OpenAIBackend(**given) for role, given in options["models"].items()}
    router = GlimpRouter(**models, **options["routing"])
    end_with_input()
    run(ServeConfig.load(**options["serve"]), router)


def end_with_input() -> None:
    """Let this process end as at SIGTERM once its standard input does."""

    def wait() -> None:
        sys.stdin.buffer.read()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()


if __name__ == "__main__":
    main()
