"""Converted models in several processes: torchrun with DistributedDataParallel and FSDP2, workers of a DataLoader."""

import os
from pathlib import Path

import pytest
import torch
from distributed_cases import OPTIMIZER, OPTIONS, dataset, run_two_processes
from torch import nn
from torch.testing import assert_close
from torch.utils.data import DataLoader, Dataset

import fastvision

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def trained_by_two(tmp_path_factory):
    """state_dicts of models that two processes trained, by kind and whether the parameters were distributed."""
    path = tmp_path_factory.mktemp("distributed") / "states.pt"
    run_two_processes(ROOT / "tests" / "distributed_program.py", path, folders=(ROOT / "examples",))
    return torch.load(path)


@pytest.mark.slow
@pytest.mark.parametrize("shard", [False, True], ids=["DDP", "FSDP2"])
@pytest.mark.parametrize("kind", ["cnn", "lstm"])
def test_two_processes_train_as_one(trained_by_two, kind, shard, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "examples")
    from train_ddp import build, train

    untrained = build(kind, dataset()).state_dict()
    state = train(build(kind, dataset()), dataset(), OPTIMIZER, **OPTIONS).state_dict()
    assert_close(trained_by_two[kind, shard], state, rtol=1e-5, atol=1e-6)
    assert all((state[name] - untrained[name]).abs().max() > 1e-4 for name in state)


class Encoded(Dataset):
    """Items that a converted model computes in the worker, each with the process that computed it."""

    def __init__(self):
        torch.manual_seed(0)
        self.cnn = fastvision.convert(nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()))
        self.lstm = fastvision.convert(nn.LSTM(36, 3, batch_first=True))

    def __len__(self):
        return 6

    def __getitem__(self, index):
        images = torch.full((1, 1, 8, 8), float(index))
        with torch.no_grad():
            return self.lstm(self.cnn(images)[None])[0].flatten(), os.getpid()


@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_workers_of_a_loader(method):
    encoded = Encoded()
    expected = torch.stack([encoded[index][0] for index in range(len(encoded))])  # the parent has run kernels, too
    loader = DataLoader(encoded, batch_size=2, num_workers=1, multiprocessing_context=method)
    found, processes = zip(*loader, strict=True)
    assert_close(torch.cat(found), expected, rtol=0, atol=0)
    assert os.getpid() not in torch.cat(processes).tolist()
