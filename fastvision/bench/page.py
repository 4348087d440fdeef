"""A report as one page, and as one picture. Needs matplotlib."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from html import escape
from io import StringIO
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fastvision.bench import page_figures as figures
from fastvision.bench.peers import OURS
from fastvision.bench.ratios import LARGE_INTERVAL, SLOWER, Ratio, Summary, grouped, ratios
from fastvision.bench.report import three_digits

_INCHES = 9.0  # width of a figure
_STYLE = """
:root { color-scheme: light }
body { font: 15px/1.45 system-ui, sans-serif; color: #1f2328; background: #fff; max-width: 62rem; margin: 2rem auto;
  padding: 0 1rem }
h1 { font-size: 1.6rem; margin: 0 } h2 { font-size: 1.15rem; margin: 2rem 0 .4rem } p { margin: .3rem 0 }
.note { color: #57606a; font-size: .87rem }
table { border-collapse: collapse; font-size: .82rem; font-variant-numeric: tabular-nums; margin: .5rem 0 }
th, td { padding: .18rem .55rem; text-align: right; border-bottom: 1px solid #d8dee4; white-space: nowrap }
th { vertical-align: bottom; border-bottom-color: #57606a } .text { text-align: left }
.scroll { overflow-x: auto } svg { max-width: 100%; height: auto; display: block }
@page { size: A4; margin: 14mm }
@media print { body { margin: 0; max-width: none; font-size: 9pt } table { font-size: 7pt }
  th, td { padding: .1rem .3rem }
  h2 { break-after: avoid } figure, tr { break-inside: avoid } .scroll { overflow: visible } }
figure { margin: .6rem 0 1.2rem }
"""

Draw = Callable[[Axes], None]


def write_page(path: Path, report: Mapping) -> None:
    """One HTML file that needs no other."""
    facts = report["machine"]["facts"]
    parts = [
        f"<h1>fastvision {escape(str(facts['fastvision']))} beside torch {escape(str(facts['torch']))}</h1>",
        *(f"<p>{escape(sentence)}</p>" for sentence in _machine(report)),
        "<h2>Summary</h2>",
        _summary_table(report),
        f"<p class=\"note\">Ratios are the peer's time / fastvision's: above 1 fastvision is faster, below {SLOWER} "
        f"slower. Noisy: not known to ±{LARGE_INTERVAL:.0%}.</p>",
    ]
    for title, note, height, draw in _figures(report):
        parts += [f"<h2>{title}</h2>", f'<p class="note">{note}</p>', f"<figure>{_svg(height, draw)}</figure>"]
    parts += ["<h2>Every row</h2>", _rows_table(report)]
    head = f'<meta charset="utf-8"><title>fastvision benchmark</title><style>{_STYLE}</style>'
    body = "\n".join(parts)
    path.write_text(f'<!doctype html>\n<html lang="en"><head>{head}</head><body>\n{body}\n</body></html>\n')


def write_picture(path: Path, report: Mapping) -> None:
    """The page's figures on one PNG, one below the other."""
    drawn = _figures(report)
    figure = Figure((1.15 * _INCHES, sum(height for _, _, height, _ in drawn)), layout="constrained")
    axes = figure.subplots(len(drawn), height_ratios=[height for _, _, height, _ in drawn], squeeze=False)[:, 0]
    for place, (_, _, _, draw) in zip(axes, drawn, strict=True):
        draw(place)
    figure.suptitle("\n".join(_machine(report)), fontsize=9, ha="left", x=0.01)
    figure.savefig(path, dpi=130)


def _figures(report: Mapping) -> list[tuple[str, str, float, Draw]]:
    """Title, note, height in inches, and what draws it."""
    found = []
    for family in figures.families(report):
        count = len({(r.case, r.mode) for r in ratios(report) if r.family == family})
        note = "Bars: stock; marks: other peers. Thin lines are the intervals; pale bars are noisy, red ones slower."
        found.append(
            (
                f"Ratios: {family}",
                note,
                figures.height(count),
                partial(figures.draw_ratios, report=report, family=family),
            )
        )
    note = "Lines are what this machine can do at best; Winograd's algorithm multiplies less than what is counted here."
    if any(result["flops"] for result in report["results"]):
        found.append(("Roofline", note, 4.6, partial(figures.draw_roofline, report=report)))
    for title, figure, draw, note in (
        (
            "Latency",
            "latency_percentiles",
            figures.draw_latencies,
            "Of calls timed one by one, where a call takes 2 ms at most.",
        ),
        ("Memory", "peak_bytes", figures.draw_memory, "What a call adds to resident memory; a page at least is drawn."),
    ):
        if rows := figures.rows_with(report, figure):
            found.append((title, note, figures.height(rows), partial(draw, report=report)))
    return found


def _svg(height: float, draw: Draw) -> str:
    """The figure as an element of a page; its letters are text."""
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "fastvision", "font.family": "sans-serif"}):
        figure = Figure((_INCHES, height), layout="constrained")
        draw(figure.subplots())
        text = StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None}, transparent=True)
    return text.getvalue()[text.getvalue().index("<svg") :]


def _machine(report: Mapping) -> list[str]:
    facts, machine = report["machine"]["facts"], report["machine"]
    caches = ", ".join(f"{level} {size >> 10} KB" for level, size in (facts.get("caches") or {}).items())
    threads = sorted({result["threads"] for result in report["results"]})
    reads = ", ".join(
        f"{name} {read['bytes_per_second'] / 1e9:.0f}" for name, read in machine["read_bandwidth"].items()
    )
    versions = ", ".join(f"{p['title']} {p['version']}" for name, p in report["peers"].items() if name != OURS)
    return [
        f"{facts['cpu']}, {facts['cores']} cores ({caches or 'caches unknown'}), "
        f"governor {facts.get('governor') or 'unknown'}; "
        f"fastvision on {facts['cpu_capability']}, stock on {facts['stock_cpu_capability']}",
        f"One core: fp32 FMA peak {machine['fma_flops_per_core'] / 1e9:.0f} GFLOP/s; reads {reads} GB/s",
        f"Commit {facts['commit'] or 'unknown'}, Python {facts.get('python')}; {versions}; threads: "
        f"{', '.join(map(str, threads))}{'; quick' if report['quick'] else ''}",
    ]


def _summary_table(report: Mapping) -> str:
    heads = ["family", "mode", "beside", "cases", "geometric mean", "least", "largest", f"below {SLOWER}", "noisy"]
    rows = []
    for (family, mode, peer), group in grouped(ratios(report)).items():
        s = Summary.of(group)
        values = [f"{value:.2f}" for value in (s.mean, s.least, s.largest)]
        rows.append([family, mode, report["peers"][peer]["title"], str(s.count), *values, str(s.slower), str(s.noisy)])
    return _table(heads, rows, texts=3)


def _rows_table(report: Mapping) -> str:
    heads = ["case", "mode", "beside", "ms", "×", "interval", "% of limit", "error", "faults", "MB"]
    by_row = {ratio.row: ratio for ratio in ratios(report)}
    rows = []
    for result in report["results"]:
        key = tuple(result[name] for name in ("family", "case", "mode", "dtype", "threads"))
        for peer, found in result["peers"].items():
            if "median_seconds" not in found:
                continue
            median, ratio = found["median_seconds"], by_row.get((*key, peer))
            spread = f"{three_digits(1e3 * median)} ±{100 * found['iqr_seconds'] / median:.0f}%"
            rows.append(
                [
                    result["case"] if peer == OURS else "",
                    result["mode"] if peer == OURS else "",
                    report["peers"][peer]["title"],
                    spread,
                    _ratio_cell(ratio),
                    f"{ratio.low:.2f}–{ratio.high:.2f}" if ratio else "",
                    _number(found.get("limit_percent"), "{:.0f}"),
                    _number(max(found["relative_rms_errors"].values(), default=None), "{:.1e}"),
                    _number(found.get("page_faults"), "{}"),
                    _number(found.get("peak_bytes") and found["peak_bytes"] / 1e6, "{:.1f}"),
                ]
            )
    return f'<div class="scroll">{_table(heads, rows, texts=3)}</div>'


def _ratio_cell(ratio: Ratio | None) -> str:
    if ratio is None:
        return ""
    return f"{ratio.value:.2f}" + (" noisy" if ratio.is_noisy else "")


def _number(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]], texts: int) -> str:
    """The first columns, as many as `texts`, are words."""

    def line(tag: str, cells: Sequence[str]) -> str:
        kinds = [' class="text"' if place < texts else "" for place in range(len(cells))]
        return (
            "<tr>"
            + "".join(f"<{tag}{kind}>{escape(cell)}</{tag}>" for kind, cell in zip(kinds, cells, strict=True))
            + "</tr>"
        )

    return "<table>" + line("th", heads) + "".join(line("td", row) for row in rows) + "</table>"
