"""`fastvision bench compare`: changes of ratios between two reports."""

import copy
import json
from pathlib import Path

import pytest

pytest.importorskip("typer", reason="the benchmark command needs typer: pip install 'fastvision[bench]'")
pytest.importorskip("rich", reason="the benchmark command needs rich: pip install 'fastvision[bench]'")
from typer.testing import CliRunner

from fastvision.bench import app
from fastvision.bench.comparing import Change, compare_reports
from fastvision.bench.ratios import Ratio
from fastvision.bench.report import SCHEMA


def ratio(value: float, spread: float = 0.01) -> Ratio:
    return Ratio("conv", "a", "infer", "float32", 1, "stock", value, value * (1 - spread), value * (1 + spread))


def report(**ratios: Ratio) -> dict:
    """Of one case per name."""
    facts = {"cpu": "this one", "torch": "2.13", "caches": {"L1": 1}}
    results = [
        {"family": r.family, "case": case, "mode": r.mode, "dtype": r.dtype, "threads": r.threads}
        | {"peers": {"fastvision": {}, r.peer: {"fastvision_speedup": r.value, "speedup_interval": [r.low, r.high]}}}
        for case, r in ratios.items()
    ]
    peers = {"fastvision": {"title": "fastvision", "version": "1"}, "stock": {"title": "stock", "version": "2.13"}}
    return {"schema": SCHEMA, "quick": False, "machine": {"facts": facts}, "peers": peers, "results": results}


@pytest.mark.parametrize(
    ("before", "after", "verdict"),
    [
        (ratio(2.0), ratio(1.8), "slower"),
        (ratio(2.0), ratio(2.2), "faster"),
        (ratio(2.0), ratio(1.92), ""),  # within the tolerance
        (ratio(2.0), ratio(2.08), ""),
        (ratio(2.0, spread=0.2), ratio(1.8), ""),  # within the spread of the one
        (ratio(2.0), ratio(1.8, spread=0.2), ""),  # or of the other
        (ratio(2.0), ratio(2.2, spread=0.2), ""),
    ],
)
def test_change_counts_beyond_tolerance_and_spread(before: Ratio, after: Ratio, verdict: str):
    assert Change(before, after).verdict(tolerance=0.05) == verdict


def test_rows_of_one_report_alone_are_named():
    comparison = compare_reports(report(a=ratio(1.0), b=ratio(1.0)), report(b=ratio(1.0), c=ratio(1.0)))
    assert [change.before.case for change in comparison.changes] == ["b"]
    assert comparison.only_before == ["conv, a, infer, float32, threads 1, beside stock"]
    assert comparison.only_after == ["conv, c, infer, float32, threads 1, beside stock"]


def test_other_machines_versions_and_settings_are_named():
    before = report(a=ratio(1.0))
    assert not compare_reports(before, copy.deepcopy(before)).warnings
    after = copy.deepcopy(before) | {"quick": True}
    after["machine"]["facts"] |= {"cpu": "another", "caches": {"L1": 2}}
    after["peers"]["stock"]["version"] = "2.14"
    after["peers"]["fastvision"]["version"] = "2"  # is what the comparison is about
    assert compare_reports(before, after).warnings == [
        "cpu: this one before, another after",
        "caches: {'L1': 1} before, {'L1': 2} after",
        "stock: 2.13 before, 2.14 after",
        "quick: False before, True after",
    ]


def run(directory: Path, before: dict, after: dict, *options: str):
    files = [directory / "before.json", directory / "after.json"]
    for file, content in zip(files, (before, after), strict=True):
        file.write_text(json.dumps(content))
    return CliRunner().invoke(app, ["compare", *map(str, files), *options])


def test_command_fails_on_a_regression_only(tmp_path: Path):
    worse = report(a=ratio(2.0), b=ratio(1.5)), report(a=ratio(1.8), b=ratio(1.5))
    done = run(tmp_path, *worse)
    assert done.exit_code == 1
    for text in ("slower", "-10.0%", "1.73", "1.64", "2 ratios, 1 worse"):
        assert text in done.output
    assert run(tmp_path, *worse, "--tolerance", "11%").exit_code == 0
    assert run(tmp_path, *reversed(worse)).exit_code == 0


def test_command_fails_where_results_became_wrong(tmp_path: Path):
    after = report(a=ratio(2.0))
    after["results"][0]["peers"]["fastvision"] = {"failure": "output: relative rms error"}
    done = run(tmp_path, report(a=ratio(2.0)), after)
    assert done.exit_code == 1
    assert "conv, a, infer, fastvision: output: relative rms error" in done.output


@pytest.mark.parametrize(("schema", "tolerance"), [(SCHEMA - 1, "5%"), (SCHEMA, "much"), (SCHEMA, "200%")])
def test_command_refuses(tmp_path: Path, schema: int, tolerance: str):
    done = run(tmp_path, report() | {"schema": schema}, report(), "--tolerance", tolerance)
    assert done.exit_code == 2
    assert "expected a" in done.output
