"""A benchmark report as a page and as a picture."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

pytest.importorskip("typer", reason="the benchmark command needs typer: pip install 'fastvision[bench]'")
pytest.importorskip("matplotlib", reason="the page needs matplotlib: pip install 'fastvision[bench]'")
from matplotlib.figure import Figure
from typer.testing import CliRunner

from fastvision.bench import app, commands
from fastvision.bench.page_figures import draw_latencies, draw_memory, draw_ratios, draw_roofline
from fastvision.bench.report import SCHEMA

FACTS = ("cpu", "cores", "cpu_capability", "stock_cpu_capability", "torch", "fastvision", "commit", "governor")


def peer(milliseconds: float, megabytes: float, speedup: float, spread: float = 0.01) -> dict:
    seconds = milliseconds / 1e3
    return {
        "median_seconds": seconds,
        "iqr_seconds": 0.1 * seconds,
        "relative_rms_errors": {"output": 1e-7},
        "fastvision_speedup": speedup,
        "speedup_interval": [speedup * (1 - spread), speedup * (1 + spread)],
        "latency_percentiles": {"p50": seconds, "p90": 2 * seconds, "p99": 3 * seconds},
        "limit_percent": 50.0,
        "page_faults": 7,
        "peak_bytes": megabytes * 1e6,
    }


def result(family: str, case: str, peers: dict) -> dict:
    return {
        **{"family": family, "case": case, "mode": "infer", "dtype": "float32", "threads": 2},
        **{"flops": 2_000_000, "reads": [{"bytes": 1000, "times": 2, "between": 1000}], "peers": peers},
    }


def report() -> dict:
    """Two families: a case where fastvision is faster beside two peers, one where it is slower and all is noisy."""
    faster = {"fastvision": peer(1.0, 2.0, 1.0), "stock": peer(4.0, 8.0, 4.0), "other": peer(2.0, 4.0, 2.0)}
    slower = {"fastvision": peer(1.0, 2.0, 1.0), "stock": peer(0.5, 8.0, 0.5, 0.2), "other": {"skipped": "why"}}
    read = {"bytes_per_second": 1e9, "buffer_bytes": 1, "cache_bytes": None}
    return {
        "schema": SCHEMA,
        "quick": True,
        "peers": {name: {"title": name.title() + " <&>", "version": "1"} for name in faster},
        "machine": {
            "facts": dict.fromkeys(FACTS, "fact"),
            "fma_flops_per_core": 2e10,
            "read_bandwidth": {"memory": read},
        },
        "results": [result("conv", "a>b", faster), result("rnn", "c", slower)],
    }


def drawn(draw, *arguments: object):
    axes = Figure().subplots()
    draw(axes, report(), *arguments)
    return axes


def points(axes, label: str) -> list[tuple[float, float]]:
    return [point for line in axes.lines if line.get_label() == label for point in zip(*line.get_data(), strict=True)]


def test_bars_go_from_one_to_the_ratio():
    [bar] = drawn(draw_ratios, "conv").patches
    assert (bar.get_x(), bar.get_x() + bar.get_width()) == (1, 4)
    axes = drawn(draw_ratios, "rnn")
    [slower] = axes.patches
    assert slower.get_x() + slower.get_width() == pytest.approx(0.5)
    assert slower.get_alpha() < bar.get_alpha()  # noisy
    assert slower.get_facecolor()[:3] != bar.get_facecolor()[:3]
    assert points(drawn(draw_ratios, "conv"), "Other <&>") == [(2.0, 0)]


def test_roofline_has_rates_over_intensity_and_the_roofs_of_all_threads():
    axes = drawn(draw_roofline)
    assert points(axes, "conv, fastvision") == [(1000.0, pytest.approx(2.0))]
    assert points(axes, "conv, stock") == [(1000.0, pytest.approx(0.5))]
    roof = max(y for line in axes.lines for y in line.get_ydata())
    assert roof == pytest.approx(40.0)


def test_latencies_and_memory_are_drawn_in_microseconds_and_megabytes():
    ends = [line.get_xdata()[-1] for line in drawn(draw_latencies).lines if len(line.get_xdata()) == 2]
    assert max(ends) == pytest.approx(12_000)
    assert points(drawn(draw_memory), "stock") == [(8.0, 0), (8.0, 1)]
    assert points(drawn(draw_memory), "fastvision") == [(2.0, 0), (2.0, 1)]


class Page(HTMLParser):
    """What a page is made of."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value for name, value in attributes if name in ("src", "href", "xlink:href")]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_command_writes_a_page_that_needs_nothing_else(tmp_path: Path):
    file, html, png = (tmp_path / f"report.{suffix}" for suffix in ("json", "html", "png"))
    file.write_text(json.dumps(report()))
    done = CliRunner().invoke(app, ["draw", str(file), "--html", str(html), "--png", str(png)])
    assert done.exit_code == 0, done.output
    assert png.read_bytes().startswith(b"\x89PNG")
    text = html.read_text()
    assert ">a&gt;b</td>" in text
    page = Page(text)
    assert page.tags.count("svg") == 5  # two families, roofline, latency, memory
    assert all(link.startswith("#") for link in page.links)
    assert not re.search(r"@import|url\((?!#)", text)
    assert {"script", "img", "link"}.isdisjoint(page.tags)
    for found in ("Stock <&>", "a>b", "4.00", "0.50 noisy", "3.96–4.04", "1.0e-07"):
        assert found in page.text


def test_command_says_what_the_page_needs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    file = tmp_path / "report.json"
    file.write_text(json.dumps(report()))
    monkeypatch.setattr(commands, "missing_packages", lambda title, *packages: f"{title} needs {packages}")
    done = CliRunner().invoke(app, ["draw", str(file), "--png", str(tmp_path / "report.png")])
    assert done.exit_code == 2
    assert "The picture needs ('matplotlib',)" in " ".join(done.output.replace("│", " ").split())
    assert not (tmp_path / "report.png").exists()
