"""Draw a saved trace as the terminal shows it.

glimp ask "..." --trace trace.json
python tools/trace_picture.py trace.json docs/images/routed-answer.svg
"""

import os
import sys
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import MONOKAI

from glimp_integrations import Trace
from glimp_integrations.trace.terminal import rich_trace

# rich's own frame loads a web font; this one uses what the reader has.
FRAME = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" class="t">
<style>
.t text {{ font-family: "DejaVu Sans Mono", Menlo, Consolas, monospace; font-size: {char_height}px;
  line-height: {line_height}px; }}
{styles}
</style>
<defs><clipPath id="{unique_id}-clip-terminal">
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}"/></clipPath>{lines}</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}<g class="{unique_id}-matrix">{matrix}</g></g>
</svg>
"""


def main() -> None:
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    trace = Trace.from_json(Path(sys.argv[1]).read_bytes())
    with open(os.devnull, "w") as nowhere:
        console = Console(record=True, width=92, file=nowhere, force_terminal=True)
        console.print(rich_trace(trace))
    svg = console.export_svg(title="glimp ask", theme=MONOKAI, code_format=FRAME)
    Path(sys.argv[2]).write_text(svg, encoding="utf-8")


if __name__ == "__main__":
    main()
