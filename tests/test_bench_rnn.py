"""LSTM and GRU in the benchmark suite: the cases, that peers compute the same, the limits, and the command."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.benchmark import Measurement, TaskSpec

pytest.importorskip("typer", reason="the benchmark command needs typer: pip install 'fastvision[bench]'")
pytest.importorskip("rich", reason="the benchmark command needs rich: pip install 'fastvision[bench]'")
from typer.testing import CliRunner

import fastvision.nn
from fastvision.bench import app, commands, running
from fastvision.bench.checking import Accuracy
from fastvision.bench.families import FAMILIES
from fastvision.bench.limits import Read, limit
from fastvision.bench.machine import Bandwidth, Machine
from fastvision.bench.measuring import PeerResult, TaskResult, prepare
from fastvision.bench.module_peers import RNN_PEERS
from fastvision.bench.peers import choose
from fastvision.bench.report import report, results_table
from fastvision.bench.rnn_cases import RNN_CASES, RnnCase
from fastvision.bench.rnn_task import RnnTask
from fastvision.bench.timing import Budget

PEERS = {peer.name: peer for peer in RNN_PEERS}
# Caches of 2 and 20 kB that give 1000 and 100 bytes per second, memory that gives 10.
LEVELS = {"L1": Bandwidth(1_000, 1e3, 2_000), "L2": Bandwidth(8_000, 1e2, 20_000), "memory": Bandwidth(1_000_000, 1e1)}
FACTS = ("cpu", "cores", "threads", "cpu_capability", "stock_cpu_capability", "torch", "fastvision", "commit")
MACHINE = Machine(dict.fromkeys(FACTS, "?"), fma_flops_per_core=1e6, read_bandwidth=LEVELS)
BOTH = ("infer", "train")
SMALL = (
    RnnCase("LSTMCell", 3, 1, 5, 7, modes=BOTH),
    RnnCase("GRUCell", 3, 1, 5, 7, modes=BOTH),
    RnnCase("LSTM", 3, 4, 5, 7, modes=BOTH),
    RnnCase("GRU", 3, 4, 5, 7, modes=BOTH),
    RnnCase("LSTM", 3, 4, 5, 7, shortest=1, modes=BOTH),
    RnnCase("GRU", 3, 4, 5, 7, shortest=1, modes=BOTH),
)


def test_cases_have_distinct_names():
    assert len({case.name for case in RNN_CASES}) == len(RNN_CASES)


def test_names_tell_the_sizes():
    assert RnnCase("GRU", 32, 100, 128, 256).name == "GRU b32 t100 128>256"
    assert RnnCase("LSTMCell", 1, 1, 128, 64).name == "LSTMCell b1 128>64"
    assert RnnCase("LSTM", 16, 60, 40, 96, shortest=20).name == "LSTM b16 t20-60 packed 40>96"


def test_lengths_of_packed_sequences_fall_from_the_longest_to_the_shortest():
    assert RnnCase("LSTM", 3, 60, 40, 96, shortest=20).lengths == [60, 40, 20]
    assert RnnCase("LSTM", 1, 60, 40, 96, shortest=20).lengths == [60]


def test_flops_count_the_products_of_every_living_row():
    case = RnnCase("GRU", 3, 60, 40, 96, shortest=20)
    assert case.flops("infer") == 2 * 120 * 3 * 96 * (40 + 96)
    assert case.flops("train") == 3 * case.flops("infer")
    assert replace(case, module="LSTM").flops("infer") == case.flops("infer") / 3 * 4


@pytest.mark.parametrize("mode", BOTH)
@pytest.mark.parametrize("case", SMALL, ids=lambda case: case.name)
def test_peers_agree_with_the_reference(case: RnnCase, mode: str):
    calls, results = prepare(RnnTask.random(case, mode), choose(RNN_PEERS, "stock,bfloat16,int8"))
    stored = {"bfloat16", "int8"}
    assert set(calls) == {"fastvision", "stock"} | (stored if mode == "infer" else set())
    for name in calls:
        assert results[name].accuracy.failure is None
        error = max(results[name].accuracy.errors.values())
        assert 1e-4 < error < 1e-2 if name in stored else error < 1e-5


def test_peers_that_store_weights_say_what_they_do_not_run():
    peers = {peer.name: peer for peer in RNN_PEERS}
    task = RnnTask.random(SMALL[0], "infer", dtype=torch.bfloat16)
    assert peers["bfloat16"].unsupported(task) == "is no smaller than the weights"
    assert peers["int8"].unsupported(task) is None
    assert peers["int8"].unsupported(RnnTask.random(SMALL[0], "train")) == "is for inference"


@pytest.mark.parametrize("case", SMALL, ids=lambda case: case.name)
@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_onnx_peers_agree_with_the_reference(name: str, case: RnnCase):
    if reason := PEERS[name].missing():
        pytest.skip(reason)
    task = RnnTask.random(case, "infer")
    result = prepare(task, choose(RNN_PEERS, name))[1][name]
    assert result.accuracy.failure is None
    assert set(result.accuracy.errors) == set(task.results)
    assert max(result.accuracy.errors.values()) < 1e-5


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_onnx_peers_own_what_they_are_called_on(name: str):
    if reason := PEERS[name].missing():
        pytest.skip(reason)
    task = RnnTask.random(SMALL[4], "infer")
    call = PEERS[name].prepare(task)
    torch.full((1000, 8), 7, dtype=torch.int32)  # where freed lengths were
    assert task.as_results(call())[0].allclose(task.reference()[0].float(), atol=1e-5)


def test_peers_say_what_they_do_not_run():
    for name in ("onnxruntime", "openvino", "openvino-bf16"):
        assert PEERS[name].unsupported(RnnTask.random(SMALL[0], "train")) == "runs inference only"
    assert PEERS["torch.compile"].unsupported(RnnTask.random(SMALL[0], "train")) is None
    refusal = PEERS["torch.compile"].unsupported(RnnTask.random(SMALL[2], "infer"))
    assert refusal == "does not compile torch.nn.LSTM and GRU"


@pytest.mark.slow
def test_compile_peer_agrees_with_the_reference():
    if reason := PEERS["torch.compile"].missing():
        pytest.skip(reason)
    for mode in BOTH:
        result = prepare(RnnTask.random(SMALL[0], mode), choose(RNN_PEERS, "torch.compile"))[1]["torch.compile"]
        assert result.accuracy.failure is None


@pytest.mark.parametrize(
    "module",
    [
        nn.LSTM(3, 4, num_layers=2),
        nn.GRU(3, 4, bidirectional=True),
        nn.LSTM(3, 4, proj_size=2),
        nn.GRU(3, 4, bias=False),
        nn.LSTM(3, 4, batch_first=True),
        nn.RNN(3, 4),
    ],
    ids=repr,
)
def test_onnx_model_refuses_what_it_does_not_translate(module: nn.Module):
    pytest.importorskip("onnx")
    from fastvision.bench.onnx_model import onnx_model

    with pytest.raises(
        TypeError, match=r"module: expected layers that have an ONNX translation here, got (LSTM|GRU|RNN)"
    ):
        onnx_model(module, [torch.ones(2, 1, 3)])


def test_training_has_a_gradient_for_every_parameter():
    task = RnnTask.random(SMALL[2], "train")
    weights = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
    assert task.results == ("output", "grad_input", *(f"grad_{name}" for name in weights))
    assert all(gradient.abs().max() > 0 for gradient in task.reference())


def test_peers_run_the_modules_they_are_named_for():
    task = RnnTask.random(SMALL[2], "infer")
    assert type(task.stock_module()) is nn.LSTM
    assert type(task.fastvision_module()) is fastvision.nn.LSTM


# Limits


def test_sequences_read_the_hidden_weights_in_every_step():
    case = RnnCase("GRU", 1, 10, 5, 7)
    hidden, input = 3 * 7 * 7 * 4, 3 * 7 * 5 * 4
    assert case.reads("infer", 4) == (Read(hidden, 10, hidden), Read(input, 1, hidden + input))
    assert case.reads("train", 4) == (Read(hidden, 20, hidden), Read(input, 2, hidden + input))
    assert RnnTask.random(case, "infer", dtype=torch.bfloat16).reads[0].bytes == hidden / 2


def test_cells_read_all_weights_once():
    hidden, input = 4 * 7 * 7 * 4, 4 * 7 * 5 * 4
    assert RnnCase("LSTMCell", 3, 1, 5, 7).reads("infer", 4) == (
        Read(hidden, 1, hidden + input),
        Read(input, 1, hidden + input),
    )


@pytest.mark.parametrize(
    ("flops", "reads", "threads", "name", "seconds"),
    [
        (3_000_000, (Read(500, 2, 500),), 1, "FMA", 3),
        (3_000_000, (Read(2_000, 2, 2_000),), 1, "L1", 4),
        (3_000_000, (Read(2_000, 2, 2_001),), 1, "L2", 40),  # other reads between send these out of the cache
        (3_000_000, (Read(2_000, 2, 2_001),), 2, "L1", 2),  # each thread has a cache for its half
        (3_000_000, (Read(2_000, 2, 2_001),), 4, "L1", 1),
        (3_000_000, (Read(2_000, 1, 2_000), Read(400, 1, 2_400)), 1, "L2", 6),  # the sum of 2 and 4 s
        (0, (Read(9_999_999, 1, 9_999_999),), 1, "memory", 999_999.9),  # larger than any buffer
    ],
)
def test_limit_is_the_slower_of_operations_and_reads(
    flops: int, reads: tuple[Read, ...], threads: int, name: str, seconds: float
):
    found = limit(flops, reads, threads, MACHINE)
    assert (found.name, found.seconds) == (name, pytest.approx(seconds))


def test_report_has_per_cent_of_the_limit():
    timing = Measurement(number_per_run=1, raw_times=[0.8], task_spec=TaskSpec("call()", ""))
    ours = PeerResult(accuracy=Accuracy({"output": 1e-7}), error_to_stock=0.5, timing=timing)
    peers = {"fastvision": ours, "stock": replace(ours, timing=None)}
    read = TaskResult("reads", "infer", torch.float32, 1, 100_000, peers, (Read(100, 2, 100),))
    other = replace(read, case="does not", reads=())
    peers = choose(RNN_PEERS, "stock")
    table = results_table([read, other], peers, MACHINE)
    assert [str(cell) for cell in list(table.columns)[-2].cells] == ["25 L1", "-"]
    entries = report("rnn", {"rnn": [read, other]}, peers, MACHINE, quick=True)["results"]
    assert entries[0]["limit"] == {"name": "L1", "seconds": pytest.approx(0.2)}
    assert entries[0]["peers"]["fastvision"]["limit_percent"] == pytest.approx(25)
    assert entries[1]["limit"] is entries[1]["peers"]["fastvision"]["limit_percent"] is None


# The command


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command on two cells, one round, without measuring the machine."""
    monkeypatch.setattr(commands, "QUICK", Budget(seconds=0.0, block_seconds=0.0, min_rounds=1, max_rounds=1))
    monkeypatch.setitem(FAMILIES, "rnn", replace(FAMILIES["rnn"], cases=SMALL[:2]))
    monkeypatch.setattr(running, "measure_machine", partial(replace, MACHINE))


def run(*arguments: str):
    return CliRunner().invoke(app, ["rnn", "--quick", *arguments])


@pytest.mark.usefixtures("fast")
def test_command_prints_a_row_per_case():
    done = run("--peers", "stock")
    assert done.exit_code == 0, done.output
    for case in SMALL[:2]:
        assert case.name in done.output
        assert f"{case.name} training" in done.output


@pytest.mark.usefixtures("fast")
def test_command_measures_the_default_peers_on_two_threads(tmp_path: Path):
    file = tmp_path / "rnn.json"
    done = run("--threads", "2", "--case", "GRUCell", "--json", str(file))
    assert done.exit_code == 0, done.output
    data = json.loads(file.read_text())
    installed = {peer.name for peer in RNN_PEERS if peer.default and not peer.missing()}
    assert set(data["peers"]) == installed
    infer, train = data["results"]
    assert infer["threads"] == train["threads"] == 2
    assert all(infer["peers"][name]["median_seconds"] > 0 for name in installed)
    for name in installed - {"fastvision", "stock"}:
        assert train["peers"][name] == {"skipped": "runs inference only"}


@pytest.mark.usefixtures("fast")
def test_keys_of_the_limits_are_documented(tmp_path: Path):
    documentation = (Path(__file__).parent.parent / "docs" / "benchmarking.md").read_text()
    file = tmp_path / "rnn.json"
    run("--peers", "stock", "--mode", "infer", "--json", str(file))
    result = json.loads(file.read_text())["results"][0]
    keys = {*result, *result["reads"][0], *result["limit"], *result["peers"]["fastvision"]}
    assert not {key for key in keys if f"`{key}`" not in documentation}
