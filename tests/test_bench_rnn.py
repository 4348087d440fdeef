"""LSTM and GRU in the benchmark suite: the cases, that both peers compute the same, and the command."""

from dataclasses import replace

import pytest
import torch
from torch import nn

pytest.importorskip("typer", reason="the benchmark command needs typer: pip install 'fastvision[bench]'")
pytest.importorskip("rich", reason="the benchmark command needs rich: pip install 'fastvision[bench]'")
from typer.testing import CliRunner

import fastvision.nn
from fastvision.bench import app, commands
from fastvision.bench.machine import Bandwidth, Machine
from fastvision.bench.measuring import prepare
from fastvision.bench.module_peers import RNN_PEERS
from fastvision.bench.rnn_cases import RNN_CASES, RnnCase
from fastvision.bench.rnn_task import RnnTask
from fastvision.bench.timing import Budget

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
    calls, results = prepare(RnnTask.random(case, mode), RNN_PEERS)
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


def test_training_has_a_gradient_for_every_parameter():
    task = RnnTask.random(SMALL[2], "train")
    weights = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
    assert task.results == ("output", "grad_input", *(f"grad_{name}" for name in weights))
    assert all(gradient.abs().max() > 0 for gradient in task.reference())


def test_peers_run_the_modules_they_are_named_for():
    task = RnnTask.random(SMALL[2], "infer")
    assert type(task.stock_module()) is nn.LSTM
    assert type(task.fastvision_module()) is fastvision.nn.LSTM


def test_command_prints_a_row_per_case(monkeypatch: pytest.MonkeyPatch):
    facts = ("cpu", "cores", "threads", "cpu_capability", "stock_cpu_capability", "torch", "fastvision", "commit")
    machine = Machine(dict.fromkeys(facts, "?"), 1e9, {"L1": Bandwidth(1024, 1e9)})
    monkeypatch.setattr(commands, "QUICK", Budget(seconds=0.0, block_seconds=0.0, min_rounds=1, max_rounds=1))
    monkeypatch.setattr(commands, "RNN_CASES", SMALL[:2])
    monkeypatch.setattr(commands, "measure_machine", lambda: machine)
    done = CliRunner().invoke(app, ["rnn", "--quick"])
    assert done.exit_code == 0, done.output
    for case in SMALL[:2]:
        assert case.name in done.output
        assert f"{case.name} training" in done.output
