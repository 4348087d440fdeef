"""`fastvision bench augment`: cases, the peers' results, limits, the command."""

import json
import pickle
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close
from typer.testing import CliRunner

pytest.importorskip("typer", reason='typer (the extra "cli") is not installed')

from fastvision.bench import app, commands, running
from fastvision.bench.augment_cases import AUGMENT_CASES, AugmentCase
from fastvision.bench.augment_peers import AUGMENT_PEERS
from fastvision.bench.augment_task import AugmentTask, fastvision_call, stock_call
from fastvision.bench.families import FAMILIES
from fastvision.bench.limits import Read
from fastvision.bench.machine import Bandwidth, Machine
from fastvision.bench.measuring import check, prepare
from fastvision.bench.peers import choose
from fastvision.bench.timing import Budget

FACTS = ("cpu", "cores", "threads", "cpu_capability", "stock_cpu_capability", "torch", "fastvision", "commit")
MACHINE = Machine(dict.fromkeys(FACTS, "?"), fma_flops_per_core=1e6, read_bandwidth={"memory": Bandwidth(1_000, 1e6)})
SMALL = AugmentCase(2, 3, 24)
FILLS = ("nearest", "constant", "reflect", "wrap")


def test_cases_have_distinct_names():
    names = [case.name for case in AUGMENT_CASES]
    assert len(set(names)) == len(names)
    assert "b32 3 @224 nearest" in names
    assert [case.name for case in AUGMENT_CASES if case.quick] == ["b1 3 @224 nearest", "b32 3 @224 nearest"]


def test_peers_and_their_titles():
    assert [peer.name for peer in AUGMENT_PEERS] == ["fastvision", "stock", "scipy", "kornia"]
    assert all(peer.default for peer in AUGMENT_PEERS)


def test_images_are_bytes_and_results_float32():
    task = AugmentTask.random(SMALL, "infer", dtype=torch.bfloat16)
    assert (task.images.shape, task.images.dtype, task.dtype) == ((2, 24, 24, 3), torch.uint8, torch.float32)
    for call in (fastvision_call(task), stock_call(task)):
        result = call()
        assert (result.shape, result.dtype) == ((2, 3, 24, 24), torch.float32)
        assert 0 <= result.min() < 0.2 < 0.8 < result.max() <= 1
    same, other = AugmentTask.random(SMALL, "infer"), AugmentTask.random(SMALL, "infer", seed=1)
    assert torch.equal(same.images, task.images)
    assert not torch.equal(other.matrices, task.matrices)


@pytest.mark.parametrize("fill", FILLS)
def test_peers_agree_with_the_reference(fill: str):
    peers = [peer for peer in AUGMENT_PEERS if not peer.missing()]
    task = AugmentTask.random(replace(SMALL, fill_mode=fill), "infer")
    calls, results = prepare(task, peers)
    assert {"fastvision", "stock"} <= set(calls)
    assert ("kornia" in calls) == (fill == "nearest" and "kornia" in {peer.name for peer in peers})
    for name in calls:
        accuracy = results[name].accuracy
        assert accuracy.failure is None
        assert accuracy.errors["images"] < (1e-4 if name in ("fastvision", "stock") else 0.02)


def test_scipy_is_left_out_where_several_threads_run():
    task = AugmentTask.random(SMALL, "infer", threads=2)
    _, results = prepare(task, choose(AUGMENT_PEERS, "scipy"))
    assert results["scipy"].skipped == "runs on one thread"


@pytest.mark.parametrize("change", ["flip", "brightness"])
def test_wrong_results_are_found(change: str):
    task = AugmentTask.random(SMALL, "infer")
    wrong = {"flip": lambda: stock_call(task)().flip(3), "brightness": lambda: stock_call(task)() * 1.05}[change]
    found = check(task, {"stock": stock_call(task), "wrong": wrong}, dict.fromkeys(("stock", "wrong"), 0.0))
    assert found["wrong"].accuracy.failure.startswith("images: relative rms error")
    assert found["stock"].accuracy.failure is None


def test_tasks_travel_between_processes():
    task = AugmentTask.random(SMALL, "infer", threads=2, seed=1)
    copy = pickle.loads(pickle.dumps(task))
    assert (copy.case, copy.mode, copy.threads) == (SMALL, "infer", 2)
    assert_close(copy.reference(), task.reference(), rtol=0, atol=0)


def test_images_are_read_once_and_results_written_once():
    values = 2 * 3 * 24 * 24
    assert AugmentTask.random(SMALL, "infer").reads == (Read(5 * values, 1, 5 * values),)
    assert SMALL.pixels == 2 * 24 * 24


def test_command_reports_every_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(commands, "QUICK", Budget(seconds=0.0, block_seconds=0.0, min_rounds=1, max_rounds=1))
    monkeypatch.setitem(FAMILIES, "augment", replace(FAMILIES["augment"], cases=(SMALL,)))
    monkeypatch.setattr(running, "measure_machine", partial(replace, MACHINE))
    documentation = (Path(__file__).parent.parent / "docs" / "benchmarking.md").read_text()
    file = tmp_path / "augment.json"
    done = CliRunner().invoke(app, ["augment", "--quick", "--peers", "scipy", "--json", str(file)])
    assert done.exit_code == 0, done.output
    assert "b2 3 @24 nearest" in done.output
    data = json.loads(file.read_text())
    assert data["command"] == "augment"
    assert set(data["peers"]) == {"fastvision", "stock", "scipy"}
    (result,) = data["results"]
    assert (result["family"], result["mode"], result["flops"]) == ("augment", "infer", 0)
    assert all(peer["median_seconds"] > 0 for peer in result["peers"].values())
    keys = {*result, *result["limit"], *result["peers"]["stock"], *result["peers"]["stock"]["relative_rms_errors"]}
    assert not {key for key in keys if f"`{key}`" not in documentation}
    done = CliRunner().invoke(app, ["augment", "--mode", "train"])
    assert done.exit_code == 2
