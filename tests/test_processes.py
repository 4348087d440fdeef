"""Sequences in training, and training in several processes."""

import numpy as np
import pytest
import torch
import torch.distributed as dist
from distributed_cases import run_two_processes
from test_training import dark_and_bright
from torch.nn.parallel import DistributedDataParallel
from torch.testing import assert_close

from fastvision import data
from fastvision.data import SequenceDataset
from fastvision.training import Session, Settings, load_checkpoint, load_trained, negative_elbo, predict
from fastvision.training.processes import ALONE, Processes

pytestmark = pytest.mark.usefixtures("one_thread")


def long_and_short(count: int = 40) -> SequenceDataset:
    """Sequences whose class is which of the two features is larger."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % 2
    sequences = [torch.rand(2 + n % 5, 2, generator=generator) + torch.eye(2)[labels[n]] for n in range(count)]
    return SequenceDataset("pairs", sequences, labels, ["first", "second"])


@pytest.mark.parametrize("stock", [False, True], ids=["fastvision", "stock"])
def test_sequences_train(tmp_path, stock):
    dataset = long_and_short()
    session = Session(Settings("sequence", learning_rate=0.02, batch_size=8, stock=stock), dataset, tmp_path)
    session.run(4)
    assert session.evaluate_best(dataset).accuracy == 1
    trained = load_trained(tmp_path)
    assert (trained.sample_shape, trained.reads_images) == ((2,), False)
    assert_close(predict(trained.model, dataset), predict(session.model, dataset), rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="with sequences of shape 2, got 1x8x8"):
        trained.check_fits(dark_and_bright())


@pytest.mark.parametrize(
    ("settings", "message"),
    [(Settings("recognition"), "recognition needs images"), (Settings("sequence", augment=True), "augmentation needs")],
)
def test_what_needs_images(tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        Session(settings, long_and_short(), tmp_path)


def test_shares_are_every_image_once():
    dataset = dark_and_bright(11)
    parts = [list(data.batches(dataset, 4, 0, part=(rank, 2))) for rank in range(2)]
    whole = list(data.batches(dataset, 4, 0))
    for (images, _), *shares in zip(whole, *parts, strict=True):
        assert torch.equal(shares[0][0], images[0::2])
        assert torch.equal(shares[1][0], images[1::2])
    alone = list(data.batches(dark_and_bright(5), 4, 0, part=(1, 2)))[-1]
    assert len(alone[0]) == 1  # the first image, which counts as none:
    assert [Processes(rank, 2).share_of(1) for rank in range(2)] == [1, 0]
    assert (ALONE.seed(3), ALONE.share_of(7), ALONE.gather("x"), ALONE.any(True)) == (3, 7, ["x"], True)


def test_an_autoencoder_that_is_wrapped_is_judged_by_its_own_loss(tmp_path):
    model = Settings("vae").build_model((1, 8, 8), 2)
    images, labels = dark_and_bright(4)[:]
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'rendezvous'}", rank=0, world_size=1)
    try:
        torch.manual_seed(0)
        found = negative_elbo(DistributedDataParallel(model), images, labels)
    finally:
        dist.destroy_process_group()
    torch.manual_seed(0)
    assert torch.equal(found.loss, negative_elbo(model, images, labels).loss)


@pytest.mark.slow
def test_nothing_of_the_group_outlives_it(tmp_path):
    """A thread of the group that is alive while the interpreter ends may abort the process."""
    script = tmp_path / "train.py"
    script.write_text("""
from pathlib import Path
import torch
from fastvision.training.processes import torchrun_processes

def threads():
    names = {(task / "comm").read_text().strip() for task in Path("/proc/self/task").iterdir()}
    return sum("gloo" in name for name in names)

def train(processes):
    model = processes.parallel(torch.nn.Linear(2, 2))
    model.itself = [model]  # only the collector ends it
    model(torch.ones(1, 2)).sum().backward()
    processes.sum(torch.ones(1))
    return threads()

with torchrun_processes("cpu") as (processes, _):
    during = train(processes)
print(f"{during} kinds, then {threads()}\\n", end="")
""")
    assert run_two_processes(script).splitlines() == ["2 kinds, then 0"] * 2


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path):
    """41 images in batches of 8: the last one has an image for one process alone."""
    train_set, test_set = dark_and_bright(46), dark_and_bright(10)
    arrays = {"x_train": train_set.images, "y_train": train_set.labels, "x_test": test_set.images}
    np.savez(tmp_path / "shades.npz", **arrays, y_test=test_set.labels)
    command = ["-m", "fastvision", "train", "recognition", "--data", "shades.npz", "--batch-size", "8", "--epochs", "2"]
    command += ["--optimizer", "momentum", "--lr", "0.01", "--out", "two"]
    printed = run_two_processes(*command, cwd=tmp_path)
    assert printed.count("Best: epoch") == printed.count("epoch 2: validation") == 1
    (tmp_path / "one").mkdir()
    settings = Settings("recognition", batch_size=8, optimizer="momentum", learning_rate=0.01)
    Session(settings, data.load(tmp_path / "shades.npz")[0], tmp_path / "one").run(2)
    one, two = (load_checkpoint(tmp_path / name / "last.pt") for name in ("one", "two"))
    assert len(two["history"]) == 2
    assert_close(two["trainer"]["model"], one["trainer"]["model"], rtol=1e-4, atol=1e-5)
    for before, after in zip(one["history"], two["history"], strict=True):
        assert after == pytest.approx(before, rel=1e-4)
