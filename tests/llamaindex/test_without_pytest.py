"""Users who have no pytest can import the package; who takes the suite is told what to install."""

from __future__ import annotations

import subprocess
import sys

WITHOUT_PYTEST = "import sys; sys.modules['pytest'] = sys.modules['_pytest'] = None\n"


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", WITHOUT_PYTEST + code], capture_output=True, text=True, check=False
    )


def test_both_packages_are_imported_without_it() -> None:
    done = run(
        "from llamaindex_glimp import GlimpRouterLLM, StepPrinter\n"
        "import llamaindex_glimp.testing\n"
        "print(llamaindex_glimp.testing.__all__)"
    )
    assert (done.stdout.strip(), done.stderr) == ("['FunctionCallingLLMTests']", "")


def test_the_suite_names_what_to_install() -> None:
    done = run("from llamaindex_glimp.testing import FunctionCallingLLMTests")
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1] == (
        "ImportError: llamaindex_glimp.testing.FunctionCallingLLMTests is a suite of pytest tests, "
        "and pytest is not installed: pip install pytest"
    )
