"""A sweep as a picture. Needs matplotlib."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from fastvision.bench.machine import Machine
from fastvision.bench.measuring import TaskResult
from fastvision.bench.peers import BASELINE
from fastvision.bench.ratios import SLOWER
from fastvision.bench.style import COLOURS, LIMIT_COLOUR, MARKERS
from fastvision.bench.sweep import LARGE_SPREAD, by_kind, is_unsteady, mean_ratio, worst_first

_WORST = 6  # cases that are named


def draw_sweep(path: str | Path, results: Sequence[TaskResult], kinds: Mapping[str, str], machine: Machine) -> None:
    """Writes a PNG: each case's ratio to the baseline, sorted, on a log axis, coloured by kind of layer.

    Points are hollow where the timings were unsteady.

    Args:
        path: of the PNG.
        results: at least one of them timed.
        kinds: the kind of each case by its name.
        machine: what was measured on; named in the heading.
    """
    ranked = worst_first(results)
    figure = Figure((12, 7), layout="constrained")
    axes = figure.subplots()
    _prepare(axes)
    _draw_points(axes, ranked, kinds)
    _list_worst(axes, ranked)
    _describe(axes, ranked, machine)
    figure.savefig(path, dpi=150)


def _prepare(axes: Axes) -> None:
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.grid(axis="y", color="#e4e4e4", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.axhline(1, color="black", linewidth=1)
    axes.axhline(SLOWER, color=LIMIT_COLOUR, linewidth=1, linestyle="--")
    place = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points", "annotation_clip": False}
    axes.annotate(f"{SLOWER}", (1, SLOWER), (4, -3), va="top", color=LIMIT_COLOUR, **place)
    axes.annotate("1", (1, 1), (4, 3), va="bottom", **place)


def _draw_points(axes: Axes, ranked: Sequence[TaskResult], kinds: Mapping[str, str]) -> None:
    groups = by_kind(ranked, kinds)
    ranks = {id(result): rank for rank, result in enumerate(ranked, start=1)}
    width = max(map(len, groups))
    for kind, colour, marker in zip(sorted(groups), cycle(COLOURS), cycle(MARKERS), strict=False):
        label = f"{kind:{width}} {len(groups[kind]):4} {mean_ratio(groups[kind]):6.2f}"
        axes.plot([], [], marker, color=colour, label=label)
        for unsteady, fill in ((True, "none"), (False, colour)):
            results = [result for result in groups[kind] if is_unsteady(result) == unsteady]
            places = [ranks[id(result)] for result in results], [result.speedup(BASELINE) for result in results]
            axes.plot(*places, marker, color=colour, markerfacecolor=fill, markersize=5.5, alpha=0.85, zorder=3)
    heading = f"{'':{width}} cases  mean"
    axes.legend(
        loc="upper left",
        title=heading,
        prop={"family": "monospace", "size": 9},
        title_fontproperties={"family": "monospace", "size": 9},
        alignment="right",
        framealpha=0.95,
        edgecolor="none",
    )


def _list_worst(axes: Axes, ranked: Sequence[TaskResult]) -> None:
    """In the corner that a rising curve leaves empty."""
    lines = [f"{result.speedup(BASELINE):.2f}  {result.case}" for result in ranked[:_WORST]]
    place = {"xycoords": "axes fraction", "ha": "right", "va": "bottom", "fontsize": 9}
    axes.annotate("\n".join(["worst:", *lines]), (0.99, 0.12), **place)


def _describe(axes: Axes, ranked: Sequence[TaskResult], machine: Machine) -> None:
    facts, first = machine.facts, ranked[0]
    below = sum(result.speedup(BASELINE) < SLOWER for result in ranked)
    unsteady = sum(map(is_unsteady, ranked))
    dtype = str(first.dtype).removeprefix("torch.")
    axes.set_title(
        f"fastvision {facts['fastvision']} ({facts['cpu_capability']}) beside torch {facts['torch']}: {facts['cpu']}, "
        f"threads: {first.threads}, {dtype}\n"
        f"{len(ranked)} layers, geometric mean {mean_ratio(ranked):.2f}, {below} below {SLOWER}; "
        f"hollow: spread above {LARGE_SPREAD:.0%} ({unsteady})"
    )
    axes.set(xlabel="layers, worst first", ylabel=f"{BASELINE}'s time / fastvision's")
