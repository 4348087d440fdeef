"""The figures of a report (report.py). Needs matplotlib."""

from collections.abc import Mapping, Sequence
from itertools import cycle

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from fastvision.bench.peers import BASELINE, OURS
from fastvision.bench.ratios import SLOWER, Ratio, ratios
from fastvision.bench.style import COLOURS, LIMIT_COLOUR, MARKERS

ROW_INCHES = 0.24  # of a case
MARGIN_INCHES = 1.1  # of title, axis and legend
_GRID = {"color": "#e4e4e4", "linewidth": 0.6}
_SMALLEST_BYTES = 4096  # a page: what is drawn of a call that takes no memory


def families(report: Mapping) -> list[str]:
    """That have a ratio, in the report's order."""
    return list(dict.fromkeys(ratio.family for ratio in ratios(report)))


def height(rows: int) -> float:
    """Inches of a figure with one line per case."""
    return MARGIN_INCHES + ROW_INCHES * max(rows, 2)


def draw_ratios(axes: Axes, report: Mapping, family: str) -> None:
    """A bar for stock's time / fastvision's, a mark for every other peer's; thin lines are the intervals."""
    found = [ratio for ratio in ratios(report) if ratio.family == family]
    rows = _rows([(ratio.case, ratio.mode) for ratio in found])
    values_of_row: dict[int, list[float]] = {}
    for ratio in found:
        values_of_row.setdefault(rows[ratio.case, ratio.mode], []).append(ratio.value)
    for peer, (colour, marker) in _peer_styles(report).items():
        of_peer = [ratio for ratio in found if ratio.peer == peer]
        if of_peer and peer == BASELINE:
            _draw_bars(axes, of_peer, rows, report["peers"][peer]["title"], values_of_row)
        elif of_peer:
            places = [rows[ratio.case, ratio.mode] for ratio in of_peer]
            values = [ratio.value for ratio in of_peer]
            axes.plot(
                values, places, marker, color=colour, markersize=5, label=report["peers"][peer]["title"], zorder=4
            )
    _label_rows(axes, rows)
    _log_axis(axes, [value for ratio in found for value in (ratio.value, ratio.low, ratio.high)])
    axes.axvline(1, color="black", linewidth=1, zorder=2)
    axes.axvline(SLOWER, color=LIMIT_COLOUR, linewidth=0.8, linestyle="--", zorder=2)
    axes.set_title(f"{family}: peer's time / fastvision's", loc="left")
    _legend(axes)


def _draw_bars(
    axes: Axes, found: Sequence[Ratio], rows: Mapping[tuple[str, str], int], title: str, ends: Mapping[int, list[float]]
) -> None:
    """`ends`: what else is drawn in each row, which the figures stand behind."""
    for ratio in found:
        place = rows[ratio.case, ratio.mode]
        colour = LIMIT_COLOUR if ratio.value < SLOWER else COLOURS[4]
        # From 1 on, so that what is slower goes to the other side.
        axes.barh(
            place, ratio.value - 1, left=1, height=0.62, color=colour, alpha=0.3 if ratio.is_noisy else 0.75, zorder=3
        )
        axes.plot([ratio.low, ratio.high], [place, place], color="#333333", linewidth=0.9, zorder=3)
        end = max(1, ratio.high, *ends[place])
        axes.annotate(f"{ratio.value:.2f}", (end, place), (6, 0), textcoords="offset points", va="center", fontsize=7.5)
    axes.plot([], [], "s", color=COLOURS[4], alpha=0.75, label=title)
    if any(ratio.is_noisy for ratio in found):
        axes.plot([], [], "s", color=COLOURS[4], alpha=0.3, label=f"{title}, noisy")


def draw_roofline(axes: Axes, report: Mapping) -> None:
    """Operations per second over operations per byte that has to be moved; lines are what the machine can do."""
    results = [result for result in report["results"] if result["flops"] and result["reads"]]
    machine, threads = report["machine"], max((result["threads"] for result in results), default=1)
    points = [(_intensity(result), result) for result in results]
    peak = threads * machine["fma_flops_per_core"]
    least = min([intensity for intensity, _ in points], default=1) / 2
    most = max([intensity for intensity, _ in points], default=1) * 2
    for level, read in machine["read_bandwidth"].items():
        bandwidth = threads * read["bytes_per_second"]
        if bandwidth * least >= peak:
            continue  # meets the peak left of every point
        ends = [least, min(most, peak / bandwidth)]
        axes.plot(ends, [bandwidth * end / 1e9 for end in ends], color="#777777", linewidth=1, zorder=2)
        place = (ends[0], bandwidth * ends[0] / 1e9)
        axes.annotate(level, place, (2, 3), textcoords="offset points", fontsize=8, color="#555555")
    axes.plot([least, most], [peak / 1e9] * 2, color="black", linewidth=1.2, zorder=2)
    axes.annotate(
        f"fp32 FMA, {threads} thread{'s' if threads > 1 else ''}",
        (most, peak / 1e9),
        (-2, 4),
        ha="right",
        fontsize=8,
        textcoords="offset points",
    )
    names = list(dict.fromkeys(result["family"] for result in results))
    for family, colour, marker in zip(names, COLOURS[4:] + COLOURS[:4], MARKERS, strict=False):
        for peer, fill, size in ((BASELINE, "none", 4.5), (OURS, colour, 6)):
            drawn = [
                (intensity, result["flops"] / result["peers"][peer]["median_seconds"] / 1e9)
                for intensity, result in points
                if result["family"] == family and "median_seconds" in result["peers"].get(peer, {})
            ]
            label = f"{family}, {'fastvision' if peer == OURS else 'stock'}"
            style = {"color": colour, "markerfacecolor": fill, "markersize": size, "alpha": 0.85, "zorder": 3}
            axes.plot(*zip(*drawn, strict=True), marker, label=label, **style) if drawn else None
    axes.set(xscale="log", yscale="log", xlabel="operations per byte that has to be moved", ylabel="GFLOP/s")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.grid(which="major", **_GRID)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title("Roofline", loc="left")
    _legend(axes)


def draw_latencies(axes: Axes, report: Mapping) -> None:
    """Of single calls: a thick line from the median to the 90th percentile, a thin one on to the 99th."""
    measured = [result for result in report["results"] if _of_peer(result, OURS, "latency_percentiles")]
    rows = _rows([_name(result) for result in measured])
    peers = {OURS: (COLOURS[4], "o"), **_peer_styles(report)}
    peers = {
        peer: style for peer, style in peers.items() if any(_of_peer(r, peer, "latency_percentiles") for r in measured)
    }
    for number, (peer, (colour, marker)) in enumerate(peers.items()):
        offset = 0.7 * ((number + 0.5) / len(peers) - 0.5)
        for result in measured:
            if found := _of_peer(result, peer, "latency_percentiles"):
                place = rows[_name(result)] + offset
                median, ninety, most = (1e6 * found[name] for name in ("p50", "p90", "p99"))
                axes.plot([median, ninety], [place, place], color=colour, linewidth=2.4, solid_capstyle="butt")
                axes.plot([ninety, most], [place, place], color=colour, linewidth=0.8)
                axes.plot(median, place, marker, color=colour, markersize=3.5)
        axes.plot([], [], marker, color=colour, markersize=4, label=report["peers"][peer]["title"])
    _label_rows(axes, rows)
    _log_axis(axes, [])
    axes.set_xlabel("µs")
    axes.set_title("Single calls: median, 90th and 99th percentile", loc="left")
    _legend(axes)


def draw_memory(axes: Axes, report: Mapping) -> None:
    """What a call adds to resident memory at its peak: fastvision beside stock."""
    measured = [result for result in report["results"] if _of_peer(result, OURS, "peak_bytes") is not None]
    rows = _rows([_name(result) for result in measured])
    for result in measured:
        found = {peer: _of_peer(result, peer, "peak_bytes") for peer in (OURS, BASELINE)}
        drawn = [max(value, _SMALLEST_BYTES) / 1e6 for value in found.values() if value is not None]
        axes.plot(drawn, [rows[_name(result)]] * len(drawn), color="#bbbbbb", linewidth=1.5, zorder=2)
    for peer, colour, marker in ((BASELINE, COLOURS[0], "s"), (OURS, COLOURS[4], "o")):
        drawn = [
            (max(value, _SMALLEST_BYTES) / 1e6, rows[_name(result)])
            for result in measured
            if (value := _of_peer(result, peer, "peak_bytes")) is not None
        ]
        axes.plot(*zip(*drawn, strict=True), marker, color=colour, markersize=5, label=peer) if drawn else None
    _label_rows(axes, rows)
    _log_axis(axes, [])
    axes.xaxis.set_major_locator(LogLocator())  # from KB to hundreds of MB: powers of ten are enough
    axes.set_xlabel("MB")
    axes.set_title("Peak memory of a call", loc="left")
    _legend(axes)


def rows_with(report: Mapping, figure: str) -> int:
    """How many results have a figure of fastvision's."""
    return sum(_of_peer(result, OURS, figure) is not None for result in report["results"])


def _of_peer(result: Mapping, peer: str, figure: str) -> object:
    return result["peers"].get(peer, {}).get(figure)


def _name(result: Mapping) -> tuple[str, str]:
    return result["case"], result["mode"]


def _intensity(result: Mapping) -> float:
    return result["flops"] / sum(read["bytes"] * read["times"] for read in result["reads"])


def _rows(names: Sequence[tuple[str, str]]) -> dict[tuple[str, str], int]:
    """The place of each case and mode, counted from the top."""
    return {name: place for place, name in enumerate(dict.fromkeys(names))}


def _peer_styles(report: Mapping) -> dict[str, tuple[str, str]]:
    """Colour and marker of every peer but fastvision, by name."""
    others = [peer for peer in report["peers"] if peer != OURS]
    colours = [colour for colour in COLOURS if colour != COLOURS[4]]
    return dict(zip(others, zip(cycle(colours), cycle("sDv^PXp"), strict=False), strict=False))


def _label_rows(axes: Axes, rows: Mapping[tuple[str, str], int]) -> None:
    labels = [case + (" training" if mode == "train" else "") for case, mode in rows]
    axes.set_yticks(list(rows.values()), labels, fontsize=8)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)


def _log_axis(axes: Axes, values: Sequence[float]) -> None:
    axes.set_xscale("log")
    if values:
        axes.set_xlim(min(*values, 0.9) / 1.05, max(*values, 1.1) * 1.3)  # room for the figures at the bars' ends
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid(axis="x", **_GRID)
    axes.set_axisbelow(True)


def _legend(axes: Axes) -> None:
    """Beside the axes, where it hides nothing."""
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1), fontsize=8, frameon=False, borderaxespad=0)
