"""The sweep of the benchmark suite: its cases, what it measures twice, and what it shows."""

import json
import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch.utils.benchmark import Measurement, TaskSpec

pytest.importorskip("typer", reason="the benchmark command needs typer: pip install 'fastvision[bench]'")
pytest.importorskip("rich", reason="the benchmark command needs rich: pip install 'fastvision[bench]'")
from typer.testing import CliRunner

from fastvision.bench import app, commands, running
from fastvision.bench.checking import Accuracy
from fastvision.bench.conv_cases import ConvCase
from fastvision.bench.conv_sweep import SWEEP_CASES, kind
from fastvision.bench.conv_task import ConvTask
from fastvision.bench.machine import Bandwidth, Machine
from fastvision.bench.measuring import PeerResult, TaskResult, measure, prepare
from fastvision.bench.module_peers import MODULE_PEERS
from fastvision.bench.peers import choose
from fastvision.bench.sweep import (
    SweepBudget,
    needs_another_look,
    summary_table,
    sweep,
    worst_first,
)
from fastvision.bench.timing import Budget, time_in_turns

PEERS = {peer.name: peer for peer in MODULE_PEERS}
FACTS = ("cpu", "cores", "threads", "cpu_capability", "stock_cpu_capability", "torch", "fastvision", "commit")
MACHINE = Machine(dict.fromkeys(FACTS, "?"), fma_flops_per_core=1e9, read_bandwidth={"L1": Bandwidth(1024, 1e9)})
ALL_CASES = [case for cases in SWEEP_CASES for case in cases]

DEPTHWISE = ConvCase(2, 8, 8, 7, padding=1, pool="none", groups=8)
GROUPED = ConvCase(1, 8, 12, 9, groups=2, channels_last=True, modes=("infer", "train"))


def rounds(count: int) -> Budget:
    return Budget(seconds=0.0, block_seconds=0.0, min_rounds=count, max_rounds=count)


def ignore(step: str) -> None:
    """Progress that nobody watches."""


def measurement(*seconds: float) -> Measurement:
    return Measurement(number_per_run=1, raw_times=list(seconds), task_spec=TaskSpec("call()", ""))


def timed(case: str, ours: tuple[float, ...], stock: tuple[float, ...]) -> TaskResult:
    accuracy = Accuracy({"output": 1e-7})
    times = {"fastvision": ours, "stock": stock}
    peers = {name: PeerResult(accuracy=accuracy, timing=measurement(*seconds)) for name, seconds in times.items()}
    return TaskResult(case, "infer", torch.float32, 1, 1000, peers)


def untimed(case: str) -> TaskResult:
    wrong = PeerResult(accuracy=Accuracy({"output": 1.0}, "wrong"))
    return TaskResult(case, "infer", torch.float32, 1, 1000, {"fastvision": wrong, "stock": wrong})


# Groups and memory format of a case


def test_name_tells_groups_and_memory_format():
    assert DEPTHWISE.name == "b2 8>8 @7 depthwise pad 1 no pool"
    assert GROUPED.name == "b1 8>12 @9 groups 2 channels_last"


def test_flops_of_groups():
    assert DEPTHWISE.flops("infer") == 2 * 2 * 8 * 7**2 * 3**2
    assert GROUPED.flops("infer") == 2 * 12 * 6**2 * 4 * 3**2


@pytest.mark.parametrize("case", [DEPTHWISE, GROUPED], ids=lambda case: case.name)
@pytest.mark.parametrize("mode", ["infer", "train"])
def test_peers_compute_the_reference(case: ConvCase, mode: str):
    task = ConvTask.random(case, mode)
    for name, result in prepare(task, [peer for peer in MODULE_PEERS if peer.default and not peer.missing()])[
        1
    ].items():
        assert result.skipped or set(result.accuracy.errors) == set(task.results), name
        assert result.skipped or result.accuracy.failure is None, name


@pytest.mark.parametrize("name", ["fastvision", "stock"])
def test_peers_keep_the_format_of_the_case(name: str):
    call = PEERS[name].prepare(ConvTask.random(GROUPED, "infer"))
    module = call.func if name == "fastvision" else call.func[0]
    for tensor in (*call.args, module.weight, call()):
        assert tensor.is_contiguous(memory_format=torch.channels_last)
        assert not tensor.is_contiguous()


def test_channels_last_peer_leaves_out_what_stock_does():
    peer = PEERS["channels_last"]
    assert peer.unsupported(ConvTask.random(GROUPED, "infer")) == "is stock in this case"
    assert peer.unsupported(ConvTask.random(DEPTHWISE, "infer")) is None


# Cases of the sweep


def test_sweep_has_hundreds_of_different_cases():
    assert len(ALL_CASES) > 300
    assert len({case.name for case in ALL_CASES}) == len(ALL_CASES)
    assert len({replace(case, origin="") for case in ALL_CASES}) == len(ALL_CASES)


def test_every_layer_is_there_in_both_batches_and_formats():
    layers = {replace(case, batch=1, channels_last=False) for case in ALL_CASES}
    variants = [(batch, channels_last) for batch in (1, 8) for channels_last in (False, True)]
    every = {replace(layer, batch=b, channels_last=last) for layer in layers for b, last in variants}
    assert set(ALL_CASES) == {case for case in every if case.batch == 1 or case.flops("infer") <= 8e9}


@pytest.mark.parametrize(
    "layer",
    [
        ConvCase(1, 64, 64, 224, padding=1, origin="VGG"),
        ConvCase(1, 3, 64, 224, 7, 2, 3, "max", 3, 2, 1, origin="ResNet stem"),
        ConvCase(1, 64, 128, 56, stride=2, padding=1, pool="none", origin="ResNet"),
        ConvCase(1, 256, 512, 56, 1, 2, pool="none", origin="ResNet"),
        ConvCase(1, 3, 64, 224, 11, 4, 2, pool_kernel_size=3, origin="AlexNet"),
        ConvCase(1, 64, 192, 27, 5, padding=2, pool_kernel_size=3, origin="AlexNet"),
        ConvCase(1, 16, 64, 55, 3, padding=1, pool="none", origin="SqueezeNet fire"),
        ConvCase(1, 64, 64, 112, stride=2, padding=1, pool="none", groups=64, origin="MobileNet"),
        ConvCase(1, 32, 64, 111, pool="avg", origin="recognition CNN"),
        ConvCase(1, 1, 32, 28, padding=1, origin="recognition CNN"),
    ],
    ids=lambda case: case.name,
)
def test_layers_of_the_networks_are_there(layer: ConvCase):
    assert replace(layer, modes=("infer", "train")) in ALL_CASES


@pytest.mark.parametrize("case", [c for c in ALL_CASES if c.batch == 1 and not c.channels_last], ids=lambda c: c.name)
def test_cases_are_possible(case: ConvCase):
    with torch.device("meta"):
        output = case.stock_module(torch.float32)(torch.empty(1, case.in_channels, case.size, case.size))
    assert output.shape == (1, case.out_channels, case.out_size, case.out_size)


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        (ConvCase(1, 8, 8, 9, pool="avg"), "avg-pool"),
        (DEPTHWISE, "depthwise"),
        (ConvCase(1, 3, 8, 32, 7, 2, 3), "5x5 to 11x11"),
        (ConvCase(1, 8, 8, 9), "3x3 + max-pool"),
        (ConvCase(1, 8, 8, 9, stride=2, pool="none"), "3x3 stride 2"),
        (ConvCase(1, 8, 8, 9, 1, pool="none"), "1x1"),
        (ConvCase(1, 8, 8, 9, pool="none", groups=2), "grouped"),
        (ConvCase(1, 8, 3, 9, pool="none"), "few outputs"),
    ],
)
def test_kind_of_layer(case: ConvCase, expected: str):
    assert kind(case) == expected


# Measuring


class ProcessPeer:
    """Stock PyTorch that tells through a file which process prepares which case."""

    title, default = "Process", True

    def __init__(self, name: str, file: Path) -> None:
        self.name, self._file = name, file

    def missing(self) -> None:
        return None

    def unsupported(self, task: ConvTask) -> None:
        return None

    def version(self) -> str:
        return "0"

    def prepare(self, task: ConvTask) -> Callable[[], object]:
        with self._file.open("a") as file:
            print(self.name, os.getpid(), task.name, file=file)
        return PEERS["stock"].prepare(task)


SMALL = {f"{size}": partial(ConvTask.random, ConvCase(1, 4, 8, size), "infer") for size in (8, 10, 12)}


def test_a_peer_has_one_process_for_all_tasks_of_a_group(tmp_path: Path):
    file = tmp_path / "prepared"
    peers = [ProcessPeer("fastvision", file), ProcessPeer("stock", file)]
    results = list(measure(SMALL, peers, rounds(2), ignore))
    assert [result.case for result in results] == ["b1 4>8 @8", "b1 4>8 @10", "b1 4>8 @12"]
    assert all(len(result.peers[peer.name].timing.times) == 2 for result in results for peer in peers)

    times_by_process: dict[str, list[str]] = {}
    for line in file.read_text().splitlines():
        peer, process, case = line.split(maxsplit=2)
        times_by_process.setdefault(process, []).append(f"{peer} {case}")
    # One process of each peer times every case; every check has a process of its own, with both peers.
    together = sorted(work for work in times_by_process.values() if len(work) == len(SMALL))
    assert together == [[f"{peer} {result.case}" for result in results] for peer in ("fastvision", "stock")]
    checks = [work for work in times_by_process.values() if len(work) == len(peers)]
    assert len(checks) == len(SMALL)


@pytest.mark.parametrize(("seconds", "blocks"), [(1.0, [1, 1, 1]), (0.01, [1, 5, 50, 50])])
def test_calls_that_last_as_long_as_a_block_are_tried_once(seconds: float, blocks: list[int]):
    made: list[int] = []

    def timer(size: int) -> Measurement:
        made.append(size)
        return measurement(seconds)

    time_in_turns({"a": timer}, replace(rounds(2), block_seconds=0.5), ignore)
    assert made == blocks


@pytest.mark.parametrize(
    ("ours", "stock", "again"),
    [
        ((1.0,), (1.0,), False),
        ((1.0,), (0.97,), True),  # slower
        ((1.0,), (0.99,), False),
        ((1.0, 1.0, 1.3, 1.3), (2.0,), True),  # fastvision's spread
        ((1.0,), (2.0, 2.0, 2.5, 2.5), True),  # stock's
    ],
)
def test_what_is_measured_again(ours: tuple[float, ...], stock: tuple[float, ...], again: bool):
    assert needs_another_look(timed("case", ours, stock)) == again


def test_wrong_results_are_not_measured_again():
    assert not needs_another_look(untimed("case"))


@pytest.mark.parametrize(("again", "count"), [(True, 3), (False, 1)])
def test_second_measurement_counts(monkeypatch: pytest.MonkeyPatch, again: bool, count: int):
    monkeypatch.setattr(
        "fastvision.bench.sweep.needs_another_look", lambda result: again and result.case == "b1 4>8 @10"
    )
    budget = SweepBudget(each=rounds(1), again=rounds(3))
    steps: list[str] = []
    results = list(sweep([SMALL], choose(MODULE_PEERS, ""), budget, steps.append))
    counts = {result.case: len(result.peers["stock"].timing.times) for result in results}
    assert counts == {"b1 4>8 @8": 1, "b1 4>8 @10": count, "b1 4>8 @12": 1}
    assert ("again: 10: round 1" in steps) == again


# What is shown


UNSTEADY = (8.0, 8.0, 16.0, 16.0)  # median 12
RESULTS = [timed("a", (1.0,), (2.0,)), timed("b", (1.0,), (0.5,)), untimed("c"), timed("d", (1.5,), UNSTEADY)]
KINDS = {"a": "3x3", "b": "3x3", "c": "3x3", "d": "1x1"}


def test_worst_come_first():
    assert [result.case for result in worst_first(RESULTS)] == ["b", "a", "d"]


def test_summary_has_mean_extremes_and_how_many_are_slower():
    table = summary_table(worst_first(RESULTS), KINDS)
    rows = list(zip(*(column.cells for column in table.columns), strict=True))
    assert rows == [
        ("3x3", "2", "1.00", "0.50", "2.00", "1", "0"),
        ("1x1", "1", "8.00", "8.00", "8.00", "0", "1"),
        ("all", "3", "2.00", "0.50", "8.00", "1", "1"),
    ]


def legend_of(axes) -> tuple[list, list[str]]:
    """Texts and colours."""
    legend = axes.get_legend()
    return legend.get_texts(), [line.get_color() for line in legend.get_lines()]


def test_picture_has_each_ratio_in_the_colour_of_its_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("matplotlib")
    from matplotlib.figure import Figure

    from fastvision.bench.sweep_picture import draw_sweep

    saved: list[Figure] = []
    save = Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda self, *args, **options: saved.append(self) or save(self, *args, **options)
    )
    file = tmp_path / "sweep.png"
    draw_sweep(file, RESULTS, KINDS, MACHINE)
    assert file.read_bytes().startswith(b"\x89PNG")
    [axes] = saved[0].axes
    drawn = [(line, list(zip(*line.get_data(), strict=True))) for line in axes.lines]
    points = {point: line for line, line_points in drawn if line.get_marker() != "None" for point in line_points}
    assert sorted(points) == [(1, 0.5), (2, 2.0), (3, 8.0)]
    legend = {text.get_text().split()[0]: handle for text, handle in zip(*legend_of(axes), strict=True)}
    assert [points[place].get_color() for place in sorted(points)] == [legend[kind] for kind in ("3x3", "3x3", "1x1")]
    assert legend["3x3"] != legend["1x1"]
    assert [points[place].get_markerfacecolor() == "none" for place in sorted(points)] == [False, False, True]
    assert {points[0][1] for line, points in drawn if line.get_marker() == "None"} == {1, 0.98}
    assert axes.get_yscale() == "log"


# The command


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The command on two small groups in an empty directory, one round each, without measuring the machine."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(commands, "QUICK_SWEEP", SweepBudget(rounds(1), rounds(1)))
    monkeypatch.setattr(commands, "SWEEP_CASES", ((DEPTHWISE,), (GROUPED,)))
    monkeypatch.setattr(running, "measure_machine", partial(replace, MACHINE))


def run(*arguments: str):
    return CliRunner().invoke(app, ["conv", "--quick", *arguments])


@pytest.mark.usefixtures("fast")
def test_sweep_command_prints_writes_and_draws(tmp_path: Path):
    pytest.importorskip("matplotlib")
    done = run("--sweep", "--json", "sweep.json", "--mode", "both")
    assert done.exit_code == 0, done.output
    for text in (DEPTHWISE.name, GROUPED.name, "depthwise", "3x3 + max-pool", "below 0.98", "Picture: sweep.png"):
        assert text in done.output
    assert (tmp_path / "sweep.png").exists()
    data = json.loads((tmp_path / "sweep.json").read_text())
    assert [(r["case"], r["mode"]) for r in data["results"]] == [
        (DEPTHWISE.name, "infer"),
        (GROUPED.name, "infer"),
        (GROUPED.name, "train"),
    ]
    assert list(data["peers"]) == ["fastvision", "stock"]


@pytest.mark.usefixtures("fast")
def test_sweep_is_of_inference_and_the_file_can_be_named(tmp_path: Path):
    pytest.importorskip("matplotlib")
    done = run("--sweep", "--json", "sweep.json", "--case", "groups", "--png", "other.png")
    assert done.exit_code == 0, done.output
    data = json.loads((tmp_path / "sweep.json").read_text())
    assert [(r["case"], r["mode"]) for r in data["results"]] == [(GROUPED.name, "infer")]
    assert [file.name for file in tmp_path.glob("*.png")] == ["other.png"]


@pytest.mark.usefixtures("fast")
def test_sweep_without_matplotlib_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(commands, "missing_packages", lambda title, *packages: f"{title} is left out: {packages}")
    done = run("--sweep")
    assert done.exit_code == 0, done.output
    assert "The picture is left out: ('matplotlib',)" in done.output
    assert not list(tmp_path.glob("*.png"))


@pytest.mark.usefixtures("fast")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--png", "sweep.png"], "it needs --sweep"),
        (["--sweep", "--png", "no_such_directory/sweep.png"], "no directory no_such_directory"),
        (["--sweep", "--case", "no such case"], "no case of mode 'infer'"),
    ],
)
def test_command_refuses(arguments: list[str], message: str):
    done = run(*arguments)
    assert done.exit_code == 2
    assert message in " ".join(done.output.replace("│", " ").split())
