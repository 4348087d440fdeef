"""Whole networks in the benchmark suite: what they are, that peers compute the same, and the command."""

import json
import math
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

pytest.importorskip("typer", reason="the benchmark command needs typer: pip install 'fastvision[bench]'")
pytest.importorskip("rich", reason="the benchmark command needs rich: pip install 'fastvision[bench]'")
from typer.testing import CliRunner

from fastvision.bench import app, commands, running
from fastvision.bench.architectures import BasicBlock, DenseLayer, Fire, InvertedResidual
from fastvision.bench.families import FAMILIES
from fastvision.bench.machine import Bandwidth, Machine
from fastvision.bench.measuring import prepare
from fastvision.bench.model_cases import MODEL_CASES, ModelCase
from fastvision.bench.model_task import ModelTask
from fastvision.bench.module_peers import MODULE_PEERS
from fastvision.bench.peers import choose
from fastvision.bench.timing import Budget
from fastvision.convert.converted import stock_class

PEERS = {peer.name: peer for peer in MODULE_PEERS}
CASES = {case.name: case for case in MODEL_CASES}
ONE_ROUND = Budget(seconds=0.0, block_seconds=0.0, min_rounds=1, max_rounds=1)


def tiny_network() -> nn.Sequential:
    """Every kind of layer that the networks have, and an average pool."""
    features = nn.Sequential(
        *(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(8, 8, 3, groups=2), nn.ReLU(), nn.AvgPool2d(2, 1, padding=1)),
    )
    return nn.Sequential(features, nn.Flatten(-3), nn.Linear(8 * 5 * 5, 16), nn.ReLU(), nn.Dropout(), nn.Linear(16, 4))


TINY = ModelCase("tiny", tiny_network, 2, 3, 12, classes=4, modes=("infer", "train"))


def network_with_forwards() -> nn.Sequential:
    """Every layer and function of the published networks that the other one does not have."""
    blocks = (BasicBlock(3, 8, 1), Fire(8, 4, 4), InvertedResidual(8, 8, 1, 2), DenseLayer(8))
    end = (nn.MaxPool2d(3, 2, ceil_mode=True), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(40, 4))
    return nn.Sequential(*blocks, *end)


FORWARDS = ModelCase("forwards", network_with_forwards, 2, 3, 12, classes=4)


# Cases


def test_cases_have_distinct_names():
    assert len(CASES) == len(MODEL_CASES)


@pytest.mark.parametrize("case", MODEL_CASES, ids=lambda case: case.name)
def test_networks_give_a_score_per_class(case: ModelCase):
    with torch.device("meta"):
        assert case.build()(torch.empty(case.input_shape)).shape == (case.batch, case.classes)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        # weights and biases of the blocks 3>32>64>128, then 86528>128 and 128>10
        ("b1 recognition CNN @224", 896 + 18_496 + 73_856 + 86_528 * 128 + 128 + 1290),
        ("b1 VGG-11 @224", 132_863_336),  # as published: 133 millions
        # as torchvision has them
        ("b1 ResNet-18 @224", 11_689_512),
        ("b1 SqueezeNet 1.1 @224", 1_235_496),
        ("b1 MobileNetV2 @224", 3_504_872),
        ("b1 DenseNet-121 @224", 7_978_856),
    ],
)
def test_networks_are_as_large_as_published(name: str, parameters: int):
    with torch.device("meta"):
        network = CASES[name].build()
    assert sum(math.prod(parameter.shape) for parameter in network.parameters()) == parameters


def test_flops_count_convolutions_and_dense_layers():
    first, second, dense = 2 * 8 * 12**2 * 3 * 9, 2 * 8 * 4**2 * 4 * 9, 8 * 25 * 16 + 16 * 4
    assert TINY.flops("infer") == 2 * (first + second + 2 * dense)
    assert TINY.flops("train") == 2 * (2 * first + 3 * (second + 2 * dense))


# Tasks and peers


@pytest.mark.parametrize("mode", ["infer", "train"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_torch_peers_compute_the_reference(mode: str, dtype: torch.dtype):
    task = ModelTask.random(TINY, mode, dtype=dtype)
    results = prepare(task, choose(MODULE_PEERS, "channels_last"))[1]
    assert {name: result.accuracy.failure for name, result in results.items()} == dict.fromkeys(results)
    assert all(set(result.accuracy.errors) == set(task.results) for result in results.values())
    # What is judged in multiples of stock's error is right only where stock is.
    assert results["stock"].accuracy.errors["output"] < 10 * torch.finfo(dtype).eps


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_onnx_peers_compute_the_reference(name: str):
    if reason := PEERS[name].missing():
        pytest.skip(reason)
    for case in (TINY, FORWARDS, CASES["b1 recognition CNN @28"]):
        result = prepare(ModelTask.random(case, "infer"), choose(MODULE_PEERS, name))[1][name]
        assert result.accuracy.failure is None
        assert result.accuracy.errors["output"] < 1e-5


def test_openvino_in_bfloat16_runs_what_is_in_bfloat16():
    peer = PEERS["openvino-bf16"]
    if reason := peer.missing():
        pytest.skip(reason)
    assert peer.unsupported(ModelTask.random(TINY, "infer")) == "is measured in bfloat16 only"
    result = prepare(ModelTask.random(TINY, "infer", dtype=torch.bfloat16), choose(MODULE_PEERS, peer.name))[1][
        peer.name
    ]
    if result.skipped:
        assert result.skipped == "has no bfloat16 on this processor"
    else:
        assert result.accuracy.failure is None


def test_onnx_model_refuses_what_it_does_not_translate():
    pytest.importorskip("onnx")
    from fastvision.bench.onnx_model import onnx_model

    with pytest.raises(TypeError, match=r"module: expected layers that have an ONNX translation here, got Tanh\(\)"):
        onnx_model(nn.Sequential(nn.ReLU(), nn.Tanh()), [torch.ones(1, 3, 4, 4)])


def test_inference_is_in_eval_mode_and_ends_in_probabilities():
    task = ModelTask.random(TINY, "infer")
    call = PEERS["fastvision"].prepare(task)
    assert not any(module.training for module in call.func.modules())
    assert call().sum(-1).allclose(torch.ones(2))


def test_fastvision_runs_the_network_converted():
    fast, stock = (PEERS[name].prepare(ModelTask.random(TINY, "infer")).func for name in ("fastvision", "stock"))
    assert stock_class(fast) is nn.Sequential
    assert stock_class(stock) is None


def test_training_has_a_gradient_for_every_parameter():
    task = ModelTask.random(TINY, "train")
    names = [name for name, _ in tiny_network().named_parameters()]
    assert task.results == ("output", *(f"grad_{name}" for name in names))
    assert all(gradient.abs().max() > 0 for gradient in task.reference())


def test_same_seed_makes_the_same_task():
    first, second, other = (ModelTask.random(TINY, "infer", seed=seed) for seed in (0, 0, 1))
    assert first.reference()[0].equal(second.reference()[0])
    assert not first.reference()[0].equal(other.reference()[0])


def test_signals_do_not_fade_in_deep_networks():
    def deep() -> nn.Sequential:
        blocks = [layer for _ in range(12) for layer in (nn.Conv2d(16, 16, 3, padding=1), nn.ReLU())]
        return nn.Sequential(*blocks, nn.Flatten(), nn.Linear(16 * 64, 4))

    task = ModelTask.random(ModelCase("deep", deep, 1, 16, 8, classes=4), "infer")
    blank = replace(task, input=torch.zeros_like(task.input))
    assert (task.reference()[0] - blank.reference()[0]).abs().max() > 1e-2


# The command


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command on a tiny network, one round, without measuring the machine."""
    facts = ("cpu", "cores", "threads", "cpu_capability", "stock_cpu_capability", "torch", "fastvision", "commit")
    machine = Machine(dict.fromkeys(facts, "?"), 1e9, {"L1": Bandwidth(1024, 1e9)})
    monkeypatch.setattr(commands, "QUICK", ONE_ROUND)
    monkeypatch.setitem(FAMILIES, "models", replace(FAMILIES["models"], cases=(TINY,)))
    monkeypatch.setattr(running, "measure_machine", partial(replace, machine))


def run(*arguments: str):
    return CliRunner().invoke(app, ["models", "--quick", *arguments])


@pytest.mark.usefixtures("fast")
def test_command_prints_a_table_and_writes_json(tmp_path: Path):
    file = tmp_path / "models.json"
    done = run("--peers", "channels_last", "--json", str(file))
    assert done.exit_code == 0, done.output
    assert f"{TINY.name} training" in done.output
    data = json.loads(file.read_text())
    assert data["command"] == "models"
    assert [(r["case"], r["mode"]) for r in data["results"]] == [(TINY.name, "infer"), (TINY.name, "train")]
    for result in data["results"]:
        assert list(result["peers"]) == ["fastvision", "stock", "channels_last"]
        assert all(peer["median_seconds"] > 0 for peer in result["peers"].values())


@pytest.mark.usefixtures("fast")
def test_command_measures_in_the_dtype_asked_for(tmp_path: Path):
    file = tmp_path / "models.json"
    done = run("--peers", "stock", "--dtype", "bfloat16", "--mode", "infer", "--json", str(file))
    assert done.exit_code == 0, done.output
    [result] = json.loads(file.read_text())["results"]
    assert result["dtype"] == "bfloat16"
    assert result["peers"]["stock"]["relative_rms_errors"]["output"] > 1e-4


@pytest.mark.usefixtures("fast")
def test_command_refuses_a_case_that_is_not_there():
    done = run("--case", "b7")
    assert done.exit_code == 2
    assert "no case of mode 'both' has 'b7'" in " ".join(done.output.replace("│", " ").split())
