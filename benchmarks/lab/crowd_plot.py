"""The picture of :mod:`benchmarks.lab.crowd`. Colours after Okabe and Ito, with a mark each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmarks.lab.crowd_cells import Cell

__all__ = ["check", "draw"]

_LOOKS = {
    "abatch": ("LangChain abatch", "#0072B2", "o", "-"),
    "batch": ("LangChain batch (threads)", "#56B4E9", "s", "-"),
    "arun": ("GlimpRouter.arun", "#009E73", "o", "-"),
    "threads": ("GlimpRouter.run in threads", "#009E73", "^", "-"),
    "core": ("GlimpRouter.astream", "#CC79A7", "P", "-"),
    "core-uvloop": ("GlimpRouter.astream, uvloop", "#CC79A7", "P", ":"),
    "serve": ("glimp serve", "#E69F00", "X", "-"),
    "serve-standard": ("glimp serve, uvicorn[standard]", "#E69F00", "X", "-."),
    "serve-uvloop": ("glimp serve, all on uvloop", "#E69F00", "X", ":"),
    "aiohttp-uvloop": ("aiohttp on uvloop, no routing", "#000000", "D", ":"),
    "aiohttp": ("servers' own: aiohttp, no routing", "#000000", "D", "--"),
    "requests": ("the same requests by aiohttp, no routing", "#999999", "<", "--"),
    "own-requests": ("the same by the own client, no routing", "#999999", ">", "--"),
    "forward": ("a server that hands these on, no routing", "#F0E442", "X", "--"),
    "openai": ("openai client, no routing", "#D55E00", "v", "--"),
}


def check() -> None:
    """Say now if nothing can be drawn.

    Raises:
        SystemExit: matplotlib is not installed.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise SystemExit(
            "--png needs matplotlib, which is not installed: pip install matplotlib, or leave "
            "--png out (--json keeps the figures, --read draws them later)"
        ) from None


def draw(figures: dict[str, Any], cells: list[Cell], path: Path) -> None:
    """Throughput, waiting and the client's work over the number of conversations.

    Args:
        figures: What the run was about.
        cells: Its figures.
        path: The PNG.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13.5, 5.0), layout="constrained")
    FigureCanvasAgg(figure)
    rates, waits, work = figure.subplots(1, 3)
    numbers = sorted({cell.at_once for cell in cells})
    arms = list(dict.fromkeys(cell.arm for cell in cells))

    def lines(axes: Any, value: Callable[[Cell], float], *, spread: bool = False) -> None:
        for place, arm in enumerate(arms):
            label, colour, mark, style = _LOOKS[arm]
            own = sorted((c for c in cells if c.arm == arm), key=lambda cell: cell.at_once)
            # Side by side, so that equal figures do not hide one another.
            shift = 1.035 ** (place - (len(arms) - 1) / 2) if spread else 1.0
            x, y = [c.at_once * shift for c in own], [value(c) for c in own]
            axes.plot(x, y, color=colour, marker=mark, linestyle=style, label=label, markersize=6)
            if spread:
                axes.vlines(x, y, [c.p95 for c in own], color=colour, linewidth=1.2)

    lines(rates, lambda cell: cell.rate)
    one = next((c.rate for c in cells if c.arm == "aiohttp" and c.at_once == 1), None)
    if one is not None:
        rates.plot(
            numbers,
            [one * n for n in numbers],
            color="#999999",
            linestyle=":",
            label="one conversation, times their number",
        )
    rates.set_yscale("log", base=10)
    _plain(rates, "y")
    rates.set(title="Throughput", ylabel="tokens per second, all conversations (log)")
    lines(waits, lambda cell: cell.p50, spread=True)
    waits.set(title="A conversation takes", ylabel="seconds: median, line up to 95th percentile")
    waits.set_ylim(0, 1.06 * max(cell.p95 for cell in cells))
    lines(work, lambda cell: cell.cpu_per_1000)
    work.set(title="The client's work", ylabel="CPU seconds per 1,000 tokens")
    work.set_ylim(bottom=0)
    for axes in (rates, waits, work):
        axes.set_xscale("log", base=2)
        axes.set_xticks(numbers, [str(number) for number in numbers])
        axes.minorticks_off()
        axes.set_xlabel("conversations at once")
        axes.grid(visible=True, color="#dddddd", linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
    handles, labels = rates.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    machine = figures["machine"]
    figure.suptitle(
        f"Scripted servers that batch ({figures['setting']}), strategy {figures['strategy']}; "
        f"client and servers on {machine['cores']} CPU cores, {machine['architecture']}",
        fontsize=11,
    )
    figure.savefig(path, dpi=130)


def _plain(axes: Any, which: str) -> None:
    """Numbers in full instead of powers of ten."""
    from matplotlib.ticker import FuncFormatter

    getattr(axes, f"{which}axis").set_major_formatter(FuncFormatter(lambda v, _: f"{v:,.0f}"))
