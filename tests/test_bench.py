"""The benchmark suite: what it counts, what it refuses to time, and what it reports."""

import json
import math
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

import fastvision
from fastvision.bench import app, commands, running
from fastvision.bench.checking import Accuracy, as_tensors, compare, error_to_stock, judge
from fastvision.bench.conv_cases import CONV_CASES, ConvCase
from fastvision.bench.conv_task import ConvTask
from fastvision.bench.families import FAMILIES
from fastvision.bench.machine import Bandwidth, Machine
from fastvision.bench.measuring import PeerResult, TaskResult, measure, prepare
from fastvision.bench.module_peers import MODULE_PEERS
from fastvision.bench.peers import choose, missing_packages
from fastvision.bench.report import failures, report, results_table
from fastvision.bench.timing import Budget

PEERS = {peer.name: peer for peer in MODULE_PEERS}
ONE_ROUND = Budget(seconds=0.0, block_seconds=0.0, min_rounds=1, max_rounds=1)
MACHINE = Machine({"cpu": "test"}, fma_flops_per_core=1e9, read_bandwidth={"L1": Bandwidth(1024, 1e9)})

SMALL_CASES = [
    ConvCase(2, 4, 5, 11),
    ConvCase(1, 3, 5, 12, kernel_size=5, stride=2, padding=2, pool_kernel_size=3, pool_stride=2, pool_padding=1),
    ConvCase(2, 4, 5, 9, padding=1, pool="avg", pool_kernel_size=3, pool_stride=2, pool_padding=1),
    ConvCase(1, 4, 5, 7, kernel_size=1, pool="none"),
]


class WrongPeer:
    """Computes zeros."""

    name, title, default = "wrong", "Wrong", True

    def missing(self) -> None:
        return None

    def unsupported(self, task: ConvTask) -> None:
        return None

    def prepare(self, task: ConvTask) -> Callable[[], torch.Tensor]:
        return lambda: torch.zeros_like(task.grad_output)

    def version(self) -> str:
        return "0"


class WatchingPeer(WrongPeer):
    """Writes to a file, from the process that it runs in, with what settings."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def prepare(self, task: ConvTask) -> Callable[[], torch.Tensor]:
        self._file.write_text(f"{torch.get_num_threads()} {fastvision.backends.cpu.capability} {task.dtype}")
        return super().prepare(task)


def ignore(step: str) -> None:
    """Progress that nobody watches."""


def measurement(*seconds: float) -> Measurement:
    return Measurement(number_per_run=1, raw_times=list(seconds), task_spec=TaskSpec("call()", ""))


# Cases


def test_cases_have_distinct_names():
    names = [case.name for case in CONV_CASES]
    assert len(set(names)) == len(names)


def test_name_spells_out_what_is_unusual():
    assert ConvCase(1, 1, 32, 28).name == "b1 1>32 @28"
    stem = ConvCase(8, 3, 64, 224, 7, 2, 3, "max", 3, 2, 1, origin="ResNet stem")
    assert stem.name == "b8 3>64 @224 7x7/2 pad 3 max 3/2 (ResNet stem)"
    assert ConvCase(1, 256, 64, 56, 1, pool="none").name == "b1 256>64 @56 1x1 no pool"


@pytest.mark.parametrize("case", [*CONV_CASES, *SMALL_CASES], ids=lambda case: case.name)
def test_out_size_is_that_of_the_stock_layers(case: ConvCase):
    with torch.device("meta"):
        image = torch.empty(case.batch, case.in_channels, case.size, case.size)
        output = case.stock_module(torch.float32)(image)
    assert output.shape == (case.batch, case.out_channels, case.out_size, case.out_size)


@pytest.mark.parametrize(
    ("case", "used"),
    [
        (ConvCase(1, 4, 5, 11), 8),  # 9 rows of which 4 windows use 8
        (ConvCase(1, 4, 5, 12, padding=1, pool_kernel_size=3, pool_stride=2, pool_padding=1), 12),  # all, overlapping
        (ConvCase(1, 4, 5, 12, pool_kernel_size=1, pool_stride=3), 4),  # 0, 3, 6 and 9
        (ConvCase(1, 4, 5, 11, pool="none"), 9),
    ],
)
def test_flops_count_what_the_pool_uses(case: ConvCase, used: int):
    assert case.flops("infer") == 2 * 5 * used**2 * 4 * 3 * 3


def test_flops_of_training_count_the_gradients():
    features, image = ConvCase(1, 4, 5, 11), ConvCase(1, 3, 5, 11)
    assert features.flops("train") == 3 * features.flops("infer")
    assert image.flops("train") == 2 * image.flops("infer")


# Tasks and peers


def expect_right(name: str, task: ConvTask) -> None:
    calls, results = prepare(task, choose(MODULE_PEERS, name))
    assert results[name].accuracy.failure is None
    assert set(results[name].accuracy.errors) == set(task.results)
    assert name in calls


@pytest.mark.parametrize("mode", ["infer", "train"])
@pytest.mark.parametrize("name", ["fastvision", "stock", "channels_last"])
def test_torch_peers_compute_the_reference(name: str, mode: str):
    for case in SMALL_CASES:
        expect_right(name, ConvTask.random(case, mode))


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_onnx_peers_compute_the_reference(name: str):
    if reason := PEERS[name].missing():
        pytest.skip(reason)
    for case in SMALL_CASES:
        expect_right(name, ConvTask.random(case, "infer"))


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_onnx_peers_say_what_they_do_not_run(name: str):
    assert PEERS[name].unsupported(ConvTask.random(SMALL_CASES[0], "train")) == "runs inference only"
    bfloat16 = ConvTask.random(SMALL_CASES[0], "infer", dtype=torch.bfloat16)
    assert PEERS[name].unsupported(bfloat16) == "is measured in float32 only"


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["infer", "train"])
def test_compile_peer_computes_the_reference(mode: str):
    if reason := PEERS["torch.compile"].missing():
        pytest.skip(reason)
    expect_right("torch.compile", ConvTask.random(SMALL_CASES[0], mode))


def test_channels_last_peer_keeps_its_format():
    call = PEERS["channels_last"].prepare(ConvTask.random(SMALL_CASES[0], "infer"))
    for tensor in (*call.args, call.func[0].weight, call()):
        assert tensor.is_contiguous(memory_format=torch.channels_last)


def test_image_input_needs_no_gradient():
    assert "grad_input" in ConvTask.random(ConvCase(1, 4, 2, 8), "train").results
    assert "grad_input" not in ConvTask.random(ConvCase(1, 3, 2, 8), "train").results


def test_choose_always_has_fastvision_and_stock():
    assert [peer.name for peer in choose(MODULE_PEERS, "onnxruntime")] == ["fastvision", "stock", "onnxruntime"]
    assert {peer.name for peer in choose(MODULE_PEERS, None)} == {peer.name for peer in MODULE_PEERS if peer.default}
    assert choose(MODULE_PEERS, "all") == list(MODULE_PEERS)


def test_choose_names_what_it_does_not_know():
    with pytest.raises(ValueError, match=r"peers: expected some of fastvision, .*, got tensorflow"):
        choose(MODULE_PEERS, "stock,tensorflow")


def test_missing_package_is_named():
    assert missing_packages("It", "torch") is None
    assert (
        missing_packages("It", "torch", "no_such_package") == "It is left out: `pip install no_such_package` adds it."
    )


# Checking


def test_as_tensors_refuses_other_things():
    assert as_tensors([torch.ones(2).numpy()])[0].equal(torch.ones(2))
    with pytest.raises(TypeError, match="results: expected a tensor or a sequence of arrays, got int"):
        as_tensors(3)


def test_error_is_relative_and_in_the_mean_square():
    accuracy = compare([torch.tensor([4.0, 7.0])], [torch.tensor([3.0, 4.0], dtype=torch.float64)], ["output"])
    assert accuracy.errors["output"] == pytest.approx(math.sqrt(10) / 5)


def test_wrong_shape_is_a_failure():
    accuracy = compare([torch.ones(2)], [torch.ones(2, 1)], ["output"])
    assert "expected [(2, 1)], got [(2,)]" in accuracy.failure
    assert judge(accuracy, Accuracy({"output": 1e-7}), torch.float32) is accuracy


@pytest.mark.parametrize(
    ("name", "error", "fails"),
    [
        ("output", 9e-6, False),
        ("output", 2e-5, True),
        ("output", math.nan, True),
        ("grad_input", 9e-3, False),
        ("grad_input", 2e-2, True),
    ],
)
def test_judge_compares_with_stock(name: str, error: float, fails: bool):
    judged = judge(Accuracy({name: error}), Accuracy({name: 1e-6}), torch.float32)
    assert (judged.failure is not None) == fails
    assert not fails or name in judged.failure


def test_judge_allows_rounding_where_stock_is_exact():
    exact = Accuracy({"output": 0.0})
    assert judge(Accuracy({"output": 1e-16}), exact, torch.float64).failure is None
    assert judge(Accuracy({"output": 1e-12}), exact, torch.float64).failure


def test_error_to_stock_is_the_worst_quotient():
    stock = Accuracy({"output": 1.0, "grad_weight": 2.0, "grad_bias": 0.0})
    assert error_to_stock(Accuracy({"output": 3.0, "grad_weight": 2.0, "grad_bias": 0.0}), stock) == 3.0
    assert math.isnan(error_to_stock(Accuracy({"output": 3.0, "grad_weight": math.nan}), stock))
    assert error_to_stock(Accuracy({}, "shapes"), stock) is None


def test_wrong_results_are_not_timed():
    make_task = partial(ConvTask.random, SMALL_CASES[0], "infer")
    peers = [*choose(MODULE_PEERS, "stock"), WrongPeer()]
    [result] = measure({"task": make_task}, peers, ONE_ROUND, ignore)
    assert result.peers["wrong"].timing is None
    assert result.speedup("wrong") is None
    assert result.median("stock") > 0
    assert failures([result])[0].startswith(f"wrong, {SMALL_CASES[0].name}, infer: wrong results, not timed. output: ")


# Report


def task_result() -> TaskResult:
    """Of fastvision 2 ms for 2 MFLOP on two threads, of stock 6 ms."""
    accuracy = Accuracy({"output": 1e-7})
    peers = {
        "fastvision": PeerResult(accuracy=accuracy, error_to_stock=0.5, timing=measurement(0.001, 0.002, 0.003)),
        "stock": PeerResult(accuracy=accuracy, error_to_stock=1.0, timing=measurement(0.006, 0.006, 0.006)),
        "onnxruntime": PeerResult(skipped="runs inference only"),
    }
    return TaskResult("case", "train", torch.float32, 2, 2_000_000, peers)


def test_report_has_medians_ratios_and_per_cent_of_peak():
    peers = choose(MODULE_PEERS, "onnxruntime")
    entry = report("conv", {"conv": [task_result()]}, peers, MACHINE, quick=True)["results"][0]
    ours, stock = entry["peers"]["fastvision"], entry["peers"]["stock"]
    assert ours["median_seconds"] == pytest.approx(0.002)
    assert ours["round_seconds"] == [0.001, 0.002, 0.003]
    assert ours["fma_peak_percent"] == pytest.approx(50)
    assert stock["fastvision_speedup"] == pytest.approx(3)
    assert entry["peers"]["onnxruntime"] == {"skipped": "runs inference only"}


def test_table_shows_them():
    table = results_table([task_result()], choose(MODULE_PEERS, "onnxruntime"), MACHINE)
    cells = [str(next(iter(column.cells))) for column in table.columns]
    assert cells == ["case training", "2.00 ±50%", "6.00 ±0%", "3.00", "-", "-", "50", "0.50"]


def keys_of(value: object) -> set[str]:
    if isinstance(value, dict):
        return set(value) | set().union(*map(keys_of, value.values()))
    return set().union(*map(keys_of, value)) if isinstance(value, list) else set()


# The command


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command on small cases, one round each, without measuring the machine."""
    monkeypatch.setattr(commands, "QUICK", ONE_ROUND)
    cases = (SMALL_CASES[0], replace(SMALL_CASES[1], modes=("infer", "train")))
    monkeypatch.setitem(FAMILIES, "conv", replace(FAMILIES["conv"], cases=cases))
    facts = dict.fromkeys(["cpu", "cores", "threads", "cpu_capability", "stock_cpu_capability"], "?")
    facts |= dict.fromkeys(["torch", "fastvision", "commit"], "?")
    monkeypatch.setattr(running, "measure_machine", partial(replace, MACHINE, facts=facts))


def add_peer(monkeypatch: pytest.MonkeyPatch, peer: WrongPeer) -> None:
    monkeypatch.setitem(FAMILIES, "conv", replace(FAMILIES["conv"], peers=(*MODULE_PEERS, peer)))


def run(*arguments: str):
    return CliRunner().invoke(app, ["conv", "--quick", *arguments])


@pytest.mark.usefixtures("fast")
def test_command_prints_a_table_and_writes_json(tmp_path: Path):
    file = tmp_path / "conv.json"
    done = run("--peers", "channels_last", "--json", str(file))
    assert done.exit_code == 0, done.output
    assert SMALL_CASES[0].name in done.output
    data = json.loads(file.read_text())
    assert [(r["case"], r["mode"]) for r in data["results"]] == [
        (SMALL_CASES[0].name, "infer"),
        (SMALL_CASES[1].name, "infer"),
        (SMALL_CASES[1].name, "train"),
    ]
    assert list(data["peers"]) == ["fastvision", "stock", "channels_last"]


@pytest.mark.usefixtures("fast")
def test_every_key_of_the_json_is_documented(tmp_path: Path):
    documentation = Path(__file__).parent.parent / "docs" / "benchmarking.md"
    file = tmp_path / "conv.json"
    run("--json", str(file))
    data = json.loads(file.read_text())
    names = {*data["peers"], *data["machine"]["read_bandwidth"], *data["machine"]["facts"]}
    undocumented = {key for key in keys_of(data) - names if f"`{key}`" not in documentation.read_text()}
    assert not undocumented


@pytest.mark.usefixtures("fast")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--peers", "tensorflow"], "got tensorflow"),
        (["--case", "no such case"], "no case of mode 'both'"),
        (["--mode", "train", "--case", SMALL_CASES[0].name], "no case of mode 'train'"),
        (["--capability", "sse9"], "got 'sse9'"),
        (["--threads", "0"], "--threads"),
        (["--json", "no_such_directory/conv.json"], "no directory no_such_directory"),
    ],
)
def test_command_refuses(arguments: list[str], message: str):
    done = run(*arguments)
    assert done.exit_code == 2
    assert message in " ".join(done.output.replace("│", " ").split())


@pytest.mark.usefixtures("fast")
def test_command_runs_on_the_settings_and_restores_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    before = torch.get_num_threads(), fastvision.backends.cpu.capability
    threads = before[0] + 1
    seen = tmp_path / "seen"
    add_peer(monkeypatch, WatchingPeer(seen))
    settings = ("--threads", str(threads), "--capability", "default", "--dtype", "bfloat16")
    run(*settings, "--peers", "wrong", "--mode", "infer")
    assert seen.read_text() == f"{threads} default torch.bfloat16"
    assert (torch.get_num_threads(), fastvision.backends.cpu.capability) == before


@pytest.mark.usefixtures("fast")
def test_command_fails_where_results_are_wrong(monkeypatch: pytest.MonkeyPatch):
    add_peer(monkeypatch, WrongPeer())
    done = run("--peers", "wrong", "--mode", "infer")
    assert done.exit_code == 1
    assert "wrong results, not timed" in done.output


@pytest.mark.usefixtures("fast")
def test_command_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(WrongPeer, "missing", lambda self: "Wrong is left out: `pip install wrong` adds it.")
    add_peer(monkeypatch, WrongPeer())
    done = run("--peers", "wrong", "--mode", "infer")
    assert done.exit_code == 0
    assert "`pip install wrong` adds it." in done.output
