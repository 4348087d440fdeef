"""The variational autoencoder in the benchmark suite: cases, limits, the judgement of random results, the command."""

import json
import pickle
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.testing import assert_close

pytest.importorskip("typer", reason="the benchmark command needs typer: pip install 'fastvision[bench]'")
pytest.importorskip("rich", reason="the benchmark command needs rich: pip install 'fastvision[bench]'")
from typer.testing import CliRunner

from fastvision.bench import app, commands, running
from fastvision.bench.families import FAMILIES
from fastvision.bench.limits import Read
from fastvision.bench.machine import Bandwidth, Machine
from fastvision.bench.measuring import check, prepare
from fastvision.bench.module_peers import VAE_PEERS
from fastvision.bench.peers import choose
from fastvision.bench.timing import Budget
from fastvision.bench.vae_cases import VAE_CASES, VaeCase
from fastvision.bench.vae_task import FastvisionSample, StockSample, VaeTask, noise_moments

FACTS = ("cpu", "cores", "threads", "cpu_capability", "stock_cpu_capability", "torch", "fastvision", "commit")
MACHINE = Machine(dict.fromkeys(FACTS, "?"), fma_flops_per_core=1e6, read_bandwidth={"memory": Bandwidth(1_000, 1e6)})
BOTH = ("infer", "train")
SMALL = VaeCase(128, 100)  # as few as tell one law from another
NORMAL = torch.tensor([0.0, 1.0, 0.0, 3.0], dtype=torch.float64)


@pytest.fixture(autouse=True)
def seeded() -> None:
    """The same noise in every run."""
    torch.manual_seed(0)


def test_cases_have_distinct_names():
    assert [case.name for case in VAE_CASES] == ["256x100", "256x2048", "4096x512", "32x262144"]


def test_peers_run_what_they_are_named_for():
    task = VaeTask.random(SMALL, "infer")
    assert type(task.stock_module()) is StockSample
    assert type(task.fastvision_module()) is FastvisionSample
    assert [peer.name for peer in VAE_PEERS] == ["fastvision", "stock", "torch.compile"]
    assert [peer.default for peer in VAE_PEERS] == [True, True, False]


def test_calls_return_the_sample_with_its_gradients():
    task = VaeTask.random(SMALL, "train")
    for module in (task.stock_module(), task.fastvision_module()):
        z, kl, grad_mu, grad_logvar = task.module_call(module, torch.contiguous_format)()
        assert z.shape == grad_mu.shape == grad_logvar.shape == (128, 100)
        assert kl.shape == ()
        noise = (z - task.mu) / torch.exp(task.logvar / 2)
        assert_close(grad_mu, task.grad_z + 0.5 * task.mu)
        expected = task.grad_z * noise * torch.exp(task.logvar / 2) / 2 + 0.25 * (torch.exp(task.logvar) - 1)
        assert_close(grad_logvar, expected, rtol=1e-4, atol=1e-5)


# Results

ROUNDING = {torch.float64: 1e-12, torch.float32: 1e-6, torch.bfloat16: 1e-2, torch.float16: 2e-3}


@pytest.mark.parametrize("dtype", ROUNDING, ids=str)
@pytest.mark.parametrize("mode", BOTH)
def test_peers_agree_with_the_reference(mode: str, dtype: torch.dtype):
    task = VaeTask.random(SMALL, mode, dtype=dtype)
    calls, results = prepare(task, choose(VAE_PEERS, ""))
    assert set(calls) == {"fastvision", "stock"}
    for name in calls:
        accuracy = results[name].accuracy
        assert accuracy.failure is None
        assert tuple(accuracy.errors) == task.results
        assert accuracy.errors["noise_moments"] == 0
        assert max(accuracy.errors.values()) < ROUNDING[dtype]


@pytest.mark.slow
@pytest.mark.parametrize("mode", BOTH)
def test_compile_peer_agrees_with_the_reference(mode: str):
    peers = choose(VAE_PEERS, "torch.compile")
    if reason := peers[-1].missing():
        pytest.skip(reason)
    accuracy = prepare(VaeTask.random(SMALL, mode), peers)[1]["torch.compile"].accuracy
    assert accuracy.failure is None
    assert max(accuracy.errors.values()) < 1e-6


def with_noise(make_noise, power=0.5):
    """A sample by the formula, from other noise or with another scale."""
    return lambda mu, logvar: (mu + make_noise(mu) * torch.exp(power * logvar), StockSample()(mu, logvar)[1])


def of_latents(change):
    """A sample from changed latents, whose KL is right."""
    return lambda mu, logvar: (StockSample()(*change(mu, logvar))[0], StockSample()(mu, logvar)[1])


def wrong_kl(mu, logvar):
    z, kl = StockSample()(mu, logvar)
    return z, 1.001 * kl


WRONG = {
    "no noise": (with_noise(torch.zeros_like), "noise_moments"),
    "uniform noise": (with_noise(lambda mu: 12**0.5 * (torch.rand_like(mu) - 0.5)), "noise_moments"),
    "noise off by a tenth": (with_noise(lambda mu: 1.1 * torch.randn_like(mu)), "noise_moments"),
    "noise with a mean": (with_noise(lambda mu: torch.randn_like(mu) + 0.1), "noise_moments"),
    "skewed noise": (with_noise(lambda mu: torch.empty_like(mu).exponential_() - 1), "noise_moments"),
    "variance for deviation": (with_noise(torch.randn_like, power=1.0), "noise_moments"),
    "another mean": (of_latents(lambda mu, logvar: (-mu, logvar)), "noise_moments"),
    "another kl": (wrong_kl, "kl"),
    "no gradient of mu": (of_latents(lambda mu, logvar: (mu.detach(), logvar)), "grad_mu"),
    "no gradient of logvar": (of_latents(lambda mu, logvar: (mu, logvar.detach())), "grad_logvar"),
}


@pytest.mark.parametrize(("wrong", "result"), WRONG.values(), ids=WRONG)
def test_wrong_results_are_found(wrong, result: str):
    mode = "train" if result.startswith("grad_") else "infer"
    task = VaeTask.random(SMALL, mode)
    modules = {"stock": StockSample(), "wrong": wrong}
    calls = {name: task.module_call(module, torch.contiguous_format) for name, module in modules.items()}
    found = check(task, calls, dict.fromkeys(modules, 0.0))
    assert found["wrong"].accuracy.failure.startswith(f"{result}: relative rms error")
    assert found["stock"].accuracy.failure is None


class OtherNoise(nn.Module):
    """Backward with other noise than forward's."""

    def forward(self, mu, logvar):
        z, kl = StockSample()(mu, logvar)
        again = StockSample()(mu, logvar)[0]
        return again + (z - again).detach(), kl


def test_backward_with_other_noise_is_found():
    task = VaeTask.random(SMALL, "train")
    modules = {"stock": StockSample(), "wrong": OtherNoise()}
    calls = {name: task.module_call(module, torch.contiguous_format) for name, module in modules.items()}
    found = check(task, calls, dict.fromkeys(modules, 0.0))["wrong"].accuracy
    assert found.failure.startswith("grad_logvar: relative rms error")
    assert found.errors["grad_mu"] < 1e-6


def test_moments_of_normal_noise_are_exact_and_others_are_not():
    noise = torch.randn(40_000, dtype=torch.float64)
    assert torch.equal(noise_moments(noise), NORMAL)
    moments = noise_moments(noise + 0.05)
    assert_close(moments[0], (noise + 0.05).mean(), rtol=0, atol=0)
    assert moments[1] == 1  # the second moment, 1.0025, is within chance
    assert noise_moments(torch.full((40_000,), torch.nan, dtype=torch.float64)).isnan().all()


def test_tasks_travel_between_processes():
    task = VaeTask.random(SMALL, "train", threads=2, seed=1)
    copy = pickle.loads(pickle.dumps(task))
    assert (copy.case, copy.mode, copy.threads) == (SMALL, "train", 2)
    assert_close(copy.reference(), task.reference(), rtol=0, atol=0)


# Limits


def test_inference_moves_three_tensors():
    task = VaeTask.random(SMALL, "infer")
    assert task.reads == (Read(12 * 12_800, 1, 12 * 12_800),)
    assert VaeTask.random(SMALL, "infer", dtype=torch.bfloat16).reads == (Read(6 * 12_800, 1, 6 * 12_800),)
    assert task.flops == 0


def test_training_moves_six_tensors_and_two_of_them_again():
    reads = SMALL.reads("train", 4)
    assert sum(read.bytes * read.times for read in reads) == 32 * 12_800
    assert {read.between for read in reads} == {24 * 12_800}


# The command


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command on one case, one round, without measuring the machine."""
    monkeypatch.setattr(commands, "QUICK", Budget(seconds=0.0, block_seconds=0.0, min_rounds=1, max_rounds=1))
    monkeypatch.setitem(FAMILIES, "vae", replace(FAMILIES["vae"], cases=(SMALL,)))
    monkeypatch.setattr(running, "measure_machine", partial(replace, MACHINE))


@pytest.mark.usefixtures("fast")
def test_command_reports_every_figure(tmp_path: Path):
    documentation = (Path(__file__).parent.parent / "docs" / "benchmarking.md").read_text()
    file = tmp_path / "vae.json"
    done = CliRunner().invoke(app, ["vae", "--quick", "--threads", "2", "--json", str(file)])
    assert done.exit_code == 0, done.output
    assert "128x100 training" in done.output
    data = json.loads(file.read_text())
    assert data["command"] == "vae"
    assert set(data["peers"]) == {"fastvision", "stock"}
    infer, train = data["results"]
    assert (infer["mode"], train["mode"]) == BOTH
    assert infer["limit"] == {"name": "memory", "seconds": pytest.approx(12 * 12_800 / 2 / 1e6)}
    for result in (infer, train):
        assert result["threads"] == 2
        assert all(peer["median_seconds"] > 0 for peer in result["peers"].values())
    keys = {*infer, *infer["limit"], *infer["peers"]["fastvision"], *train["peers"]["stock"]["relative_rms_errors"]}
    assert not {key for key in keys if f"`{key}`" not in documentation}


@pytest.mark.usefixtures("fast")
def test_command_chooses_cases_and_modes():
    done = CliRunner().invoke(app, ["vae", "--quick", "--mode", "infer"])
    assert done.exit_code == 0, done.output
    assert "training" not in done.output
    done = CliRunner().invoke(app, ["vae", "--case", "b1"])
    assert done.exit_code == 2
