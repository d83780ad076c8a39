"""Import time of ChatGlimpRouter beside ChatOpenAI, in turn, each in a fresh interpreter.

python benchmarks/import_time.py --n 10        (needs langchain-openai)
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys

ARMS = {
    "langchain_glimp": "from langchain_glimp import ChatGlimpRouter",
    "langchain_openai": "from langchain_openai import ChatOpenAI",
    "langchain_core (both need it)": "from langchain_core.language_models import BaseChatModel",
}
WATCHED = ["torch", "transformers", "numpy", "openai"]
CODE = """
import json, sys, time
started = time.perf_counter()
{line}
seconds = time.perf_counter() - started
print(json.dumps([seconds, [m for m in {watched!r} if m in sys.modules]]))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=10)
    options = parser.parse_args()
    seconds: dict[str, list[float]] = {name: [] for name in ARMS}
    loaded: dict[str, list[str]] = {}
    for turn in range(options.n + 1):
        for name, line in ARMS.items():
            code = CODE.format(line=line, watched=WATCHED)
            done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
            took, loaded[name] = json.loads(done.stdout)
            if turn:  # the first turn fills the file cache
                seconds[name].append(took)
    for name in ARMS:
        print(
            f"{name}: median {statistics.median(seconds[name]):.3f} s, "
            f"min {min(seconds[name]):.3f} s, loads {loaded[name] or 'none of the watched'}"
        )


if __name__ == "__main__":
    main()
