"""Hold many conversations at once for some minutes, and say whether anything went wrong or grew."""

from __future__ import annotations

import argparse
import os
import sys

from .run import Plan, run

_SAMPLES = 20  # at least so many


def main() -> int:
    """Run and print; 0 if all held."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.endurance", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--at-once", type=int, default=64, help="conversations at the same time")
    parser.add_argument(
        "--faults", type=float, help="share of the requests (default: 0.02; 0.01 with --serve)"
    )
    parser.add_argument("--serve", action="store_true", help="through glimp serve")
    parser.add_argument(
        "--kills", type=float, default=0.01, help="with --serve: share that clients leave"
    )
    parser.add_argument(
        "--pace", type=float, default=0.04, help="with --serve: seconds for a token of the servers"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--timeout", type=float, default=10.0, help="seconds to wait for a token")
    parser.add_argument("--every", type=float, default=10.0, help="seconds between two samples")
    parser.add_argument("--only", default="", help="kinds of faults with this in their names")
    options = parser.parse_args()
    seconds = options.minutes * 60
    plan = Plan(
        seconds=seconds,
        at_once=options.at_once,
        faults=(0.01 if options.serve else 0.02) if options.faults is None else options.faults,
        seed=options.seed,
        timeout=options.timeout,
        every=min(options.every, seconds / _SAMPLES),
        only=options.only,
        serve=options.serve,
        kills=options.kills,
        pace=options.pace,
    )
    report = run(plan, show=lambda line: print(line, flush=True))
    print(report.table())
    sys.stdout.flush()
    if report.lost:
        os._exit(1)  # what does not end cannot be waited for
    return 0 if report.held else 1


if __name__ == "__main__":
    sys.exit(main())
