"""Training that stops and goes on, and the files that it goes on from."""

import errno
import os

import pytest
import torch
from test_training import dark_and_bright, small_model, weights

from fastvision import training
from fastvision.training.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from fastvision.training.optimizers import build_optimizer

pytestmark = pytest.mark.usefixtures("one_thread")


class Stop(Exception):
    pass


@pytest.mark.parametrize(
    ("optimizer", "batches"), [("sgd", 2), ("momentum", 3), ("adam", 4), ("adamw", 2), ("rmsprop", 3)]
)
def test_training_goes_on_to_the_same_bits(tmp_path, optimizer, batches):
    """After a stop in an epoch, at its last batch, and in the next: weights, progress and dropout."""

    def trainer():
        options = {"optimizer": optimizer, "learning_rate": 0.01, "learning_rate_decay": 0.5, "l1": 0.01, "l2": 0.01}
        return training.Trainer(small_model(), dark_and_bright(40), batch_size=16, **options)

    def stop(progress):
        steps.append(progress)
        if len(steps) == batches:
            raise Stop

    steps, expected = [], []
    whole = trainer()
    for _ in range(3):
        whole.run_epoch(expected.append)
    stopped = trainer()
    if batches > 3:
        stopped.run_epoch(stop)
    with pytest.raises(Stop):
        stopped.run_epoch(stop)
    save_checkpoint(tmp_path / "a.pt", {"trainer": stopped.state_dict()})
    torch.rand(10)
    resumed = trainer()
    resumed.load_state_dict(load_checkpoint(tmp_path / "a.pt")["trainer"])
    while resumed.epochs_done < 3:
        resumed.run_epoch(steps.append)
    assert torch.equal(weights(resumed.model), weights(whole.model))
    assert steps == expected


def test_divergence_leaves_the_model_as_it_was():
    dataset = dark_and_bright()
    trainer = training.Trainer(small_model(), dataset, batch_size=16)
    before = weights(trainer.model).clone()
    trainer.objective = lambda model, images, labels: training.Judgement(model(images).sum() * float("nan"))
    with pytest.raises(training.DivergedError, match="the loss is nan in epoch 1 after 0 images"):
        trainer.run_epoch()
    assert torch.equal(weights(trainer.model), before)


def test_penalties_shrink_weights_but_not_biases():
    """Where the loss has no gradient, l1 takes the same off each weight, l2 a share."""

    def change(**options):
        model = small_model(dropout=0)
        before = [parameter.detach().clone() for parameter in model.parameters()]
        trainer = training.Trainer(model, dark_and_bright(), optimizer="sgd", learning_rate=0.1, **options)
        trainer.objective = lambda model, images, labels: training.Judgement(model(images).sum() * 0)
        trainer.run_epoch()
        return zip(before, model.parameters(), strict=True)

    for before, after in change(l1=1e-3):
        torch.testing.assert_close(after, before - (1e-4 * before.sign() if before.dim() > 1 else 0))
    for before, after in change(l2=0.5):
        torch.testing.assert_close(after, before * (0.95 if before.dim() > 1 else 1))


def test_precision_is_autocast():
    seen = []
    model = small_model()
    model.register_forward_hook(lambda module, inputs, output: seen.append((inputs[0].dtype, output.dtype)))
    training.fit(model, dark_and_bright(), 1, precision="bf16")
    training.fit(model, dark_and_bright(), 1)
    assert seen == [(torch.float32, torch.bfloat16), (torch.float32, torch.float32)]


def test_an_epochs_dropout_depends_only_on_the_seed_and_its_number():
    """Not on what was drawn in the epochs before."""

    def dropped(seed, epochs):
        found, model = [], small_model()
        model[3].register_forward_hook(lambda _, inputs, output: found.append((output == 0) & (inputs[0] != 0)))
        training.fit(model, dark_and_bright(), epochs, learning_rate=0, seed=seed)
        return found[-1]

    # The two see the same images in the same order.
    assert torch.equal(dropped(seed=0, epochs=2), dropped(seed=1, epochs=1))


@pytest.mark.parametrize(
    ("name", "kind", "momentum"),
    [("sgd", torch.optim.SGD, 0), ("momentum", torch.optim.SGD, 0.9), ("adamw", torch.optim.AdamW, None)],
)
def test_optimizers(name, kind, momentum):
    optimizer = build_optimizer(name, small_model(), 0.5)
    assert type(optimizer) is kind
    assert [group.get("momentum") for group in optimizer.param_groups] == [momentum] * 2
    assert [(group["lr"], group["weight_decay"]) for group in optimizer.param_groups] == [(0.5, 0)] * 2


def test_refuses_other_optimizers():
    with pytest.raises(ValueError, match="name: expected one of sgd, momentum, adam, adamw, rmsprop, got 'lbfgs'"):
        training.Trainer(small_model(), dark_and_bright(), optimizer="lbfgs")


@pytest.mark.parametrize("function", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_checkpoint(tmp_path, monkeypatch, function):
    path = tmp_path / "a.pt"
    save_checkpoint(path, {"value": 1})

    def fail(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, function, fail)
        with pytest.raises(CheckpointError, match=r"a\.pt: can't be written: No space left on device"):
            save_checkpoint(path, {"value": 2})
    assert load_checkpoint(path)["value"] == 1
    assert list(tmp_path.iterdir()) == [path]


def test_a_checkpoint_is_replaced_and_readable_by_others(tmp_path):
    path = tmp_path / "a.pt"
    for value in (1, 2):
        save_checkpoint(path, {"value": value})
    other = tmp_path / "other"
    other.touch()
    assert load_checkpoint(path)["value"] == 2
    assert path.stat().st_mode == other.stat().st_mode


@pytest.mark.parametrize("content", [b"", b"nonsense", None], ids=["empty", "nonsense", "truncated"])
def test_broken_checkpoints(tmp_path, content):
    path = tmp_path / "a.pt"
    save_checkpoint(path, {"value": torch.zeros(1000)})
    path.write_bytes(path.read_bytes()[:2000] if content is None else content)
    with pytest.raises(CheckpointError, match=r"a\.pt: not a checkpoint, or a broken one"):
        load_checkpoint(path)


def test_other_files_are_no_checkpoints(tmp_path):
    torch.save({"value": 1}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="expected a checkpoint of format 1, got None"):
        load_checkpoint(tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="can't be read: No such file"):
        load_checkpoint(tmp_path / "missing.pt")
