"""`fastvision bench all`, and the ratios that it sums up."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("typer", reason="the benchmark command needs typer: pip install 'fastvision[bench]'")
pytest.importorskip("rich", reason="the benchmark command needs rich: pip install 'fastvision[bench]'")
from rich.console import Console
from typer.testing import CliRunner

from fastvision.bench import app, commands, running
from fastvision.bench.augment_cases import AugmentCase
from fastvision.bench.conv_cases import ConvCase
from fastvision.bench.families import FAMILIES
from fastvision.bench.linear_cases import LinearCase
from fastvision.bench.machine import Bandwidth, Machine
from fastvision.bench.pool_cases import PoolCase
from fastvision.bench.ratios import Ratio, Summary, headline_table, ratios
from fastvision.bench.rnn_cases import RnnCase
from fastvision.bench.timing import Budget, median_interval
from fastvision.bench.vae_cases import VaeCase

FACTS = ("cpu", "cores", "threads", "cpu_capability", "stock_cpu_capability", "torch", "fastvision", "commit")
MACHINE = Machine(dict.fromkeys(FACTS, "?"), 1e9, {"memory": Bandwidth(1024, 1e9)})
SMALL = {
    "linear": (LinearCase(1, 8, 4, quick=True),),
    "conv": (ConvCase(1, 4, 8, 8, quick=True), ConvCase(1, 4, 8, 9)),
    "pool": (PoolCase(1, 4, 8, 2, 2, quick=True),),
    "rnn": (RnnCase("GRUCell", 1, 1, 8, 8, modes=("infer", "train"), quick=True),),
    "vae": (VaeCase(64, 100, modes=("infer",), quick=True),),
    "augment": (AugmentCase(2, 3, 16, quick=True),),
    "models": (),
}


def report_of(**values: tuple[float, float, float]) -> Mapping:
    """A report of one case per name: fastvision's ratio to stock and its interval."""
    figures = [
        {"fastvision": {}, "stock": {"fastvision_speedup": value, "speedup_interval": interval}}
        for value, *interval in values.values()
    ]
    keys = {"family": "conv", "mode": "infer", "dtype": "float32", "threads": 1}
    results = [{"case": name, "peers": peers} | keys for name, peers in zip(values, figures, strict=True)]
    return {"results": results, "peers": {"stock": {"title": "stock"}}}


@pytest.mark.parametrize(
    ("count", "interval"), [(1, (0, 0)), (5, (0, 4)), (8, (0, 7)), (9, (1, 7)), (20, (5, 14)), (60, (21, 38))]
)
def test_median_interval_is_that_of_the_sign_test(count: int, interval: tuple[int, int]):
    assert median_interval(list(reversed(range(count)))) == interval  # ranks as in tables of the sign test


def test_summary_counts_what_is_slower_and_what_is_noisy():
    found = ratios(report_of(a=(4.0, 3.9, 4.1), b=(1.0, 0.5, 1.5), c=(0.25, 0.24, 0.26), d=(0.98, 0.97, 0.99)))
    summary = Summary.of(found[:3])
    assert summary == Summary(3, pytest.approx(1.0), 0.25, 4.0, slower=1, noisy=1)
    assert Summary.of(found[3:]).slower == 0


def test_peers_that_were_not_timed_have_no_ratio():
    report = report_of(a=(4.0, 3.9, 4.1))
    report["results"][0]["peers"] |= {"skipped": {"skipped": "why"}, "wrong": {"failure": "what"}}
    [ratio] = ratios(report)
    assert ratio == Ratio("conv", "a", "infer", "float32", 1, "stock", 4.0, 3.9, 4.1)


def test_headline_has_a_row_per_family_mode_and_peer():
    report = report_of(a=(4.0, 3.9, 4.1), b=(1.0, 0.5, 1.5))
    report["results"].append(report["results"][0] | {"mode": "train"})
    console = Console(width=120)
    with console.capture() as capture:
        console.print(headline_table(report))
    rows = [line.replace("│", " ").split() for line in capture.get().splitlines() if line.startswith("│")]
    assert rows == [
        ["conv", "infer", "stock", "2", "2.00", "1.00", "4.00", "0", "1"],
        ["conv", "train", "stock", "1", "4.00", "4.00", "4.00", "0", "0"],
    ]


@pytest.mark.parametrize("family", FAMILIES.values(), ids=lambda family: family.name)
def test_few_cases_stand_for_all(family):
    quick = [case for case in family.cases if case.quick]
    assert 2 <= len(quick) < len(family.cases)
    assert {mode for case in quick for mode in case.modes} <= {mode for case in family.cases for mode in case.modes}


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command on small cases, two rounds each, without measuring the machine."""
    monkeypatch.setattr(
        commands, "QUICK", Budget(seconds=0.0, block_seconds=0.0, min_rounds=2, max_rounds=2, single_calls=4)
    )
    for name, cases in SMALL.items():
        monkeypatch.setitem(FAMILIES, name, replace(FAMILIES[name], cases=cases))
    monkeypatch.setattr(running, "measure_machine", lambda: MACHINE)
    monkeypatch.setattr(running, "apart", lambda function: function())


def run(*arguments: str):
    return CliRunner().invoke(app, ["all", "--quick", *arguments])


@pytest.mark.usefixtures("fast")
def test_command_measures_the_few_cases_of_every_family(tmp_path: Path):
    file = tmp_path / "all.json"
    done = run("--peers", "channels_last,int8", "--json", str(file))
    assert done.exit_code == 0, done.output
    assert "geometric mean" in done.output
    data = json.loads(file.read_text())
    measured = [(result["family"], result["mode"], list(result["peers"])) for result in data["results"]]
    assert measured == [
        ("conv", "infer", ["fastvision", "stock", "channels_last"]),
        ("linear", "infer", ["fastvision", "stock", "int8"]),
        ("linear", "train", ["fastvision", "stock", "int8"]),
        ("pool", "infer", ["fastvision", "stock", "channels_last"]),
        ("pool", "train", ["fastvision", "stock", "channels_last"]),
        ("rnn", "infer", ["fastvision", "stock", "int8"]),
        ("rnn", "train", ["fastvision", "stock", "int8"]),
        ("vae", "infer", ["fastvision", "stock"]),
        ("augment", "infer", ["fastvision", "stock"]),
    ]
    assert set(data["peers"]) == {"fastvision", "stock", "channels_last", "int8"}
    assert list(data["results"][0]["peers"]["stock"]["latency_percentiles"]) == ["p50", "p90", "p99"]
    low, high = data["results"][0]["peers"]["stock"]["speedup_interval"]
    assert 0 < low <= data["results"][0]["peers"]["stock"]["fastvision_speedup"] <= high


@pytest.mark.usefixtures("fast")
def test_command_refuses_what_no_family_has():
    for arguments, message in ((["--peers", "tensorflow"], "got tensorflow"), (["--case", "b9"], "no case of mode")):
        done = run(*arguments)
        assert done.exit_code == 2
        assert message in " ".join(done.output.replace("│", " ").split())
