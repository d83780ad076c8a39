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


def main() -> None:
    options = json.loads(sys.argv[1])
    choose(options["loops"])
    from glimp_integrations import GlimpRouter
    from glimp_integrations.backends import OpenAIBackend
    from glimp_integrations.serve import ServeConfig, run

    models = {role: OpenAIBackend(**given) for role, given in options["models"].items()}
    router = GlimpRouter(**models, **options["routing"])
    threading.Thread(target=_end_with_input, daemon=True).start()
    run(ServeConfig.load(**options["serve"]), router)


def _end_with_input() -> None:
    sys.stdin.buffer.read()
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
