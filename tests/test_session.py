"""Training runs in a directory, and the command that starts them."""

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from test_training import dark_and_bright, weights

import fastvision
from fastvision import data
from fastvision.training import CheckpointError, DivergedError, checkpoint, load_checkpoint
from fastvision.training.session import Session
from fastvision.training.settings import Settings

pytestmark = pytest.mark.usefixtures("one_thread")


class Stop(Exception):
    pass


def session(directory, kind="recognition", **settings) -> Session:
    """Of 43 images to train on, in three batches, and 5 to judge each epoch on."""
    directory.mkdir(exist_ok=True)
    return Session(Settings(kind, batch_size=16, **settings), dark_and_bright(), directory)


@pytest.mark.parametrize(("kind", "is_saved"), [("recognition", False), ("sequence", True), ("vae", True)])
def test_goes_on_to_the_same_bits(tmp_path, kind, is_saved):
    whole = session(tmp_path / "whole", kind)
    whole.run(3)
    stopped, steps = session(tmp_path / "stopped", kind), []

    def stop(progress):
        steps.append(progress)
        if len(steps) == 5:
            raise Stop

    with pytest.raises(Stop):
        stopped.run(3, on_batch=stop)
    if is_saved:
        stopped.save()
    resumed = session(tmp_path / "stopped", kind)
    resumed.resume()
    del steps[5 if is_saved else 3 :]
    resumed.run(3, on_batch=steps.append)
    assert resumed.history == whole.history
    assert [(step.epoch, step.images) for step in steps] == [(n, i) for n in range(3) for i in (16, 32, 43)]
    for name in ("last.pt", "best.pt"):
        assert same(*(load_checkpoint(tmp_path / directory / name) for directory in ("whole", "stopped")))


def same(a, b) -> bool:
    """Bit by bit, whatever is nested in what."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def test_stops_early_and_keeps_the_best(tmp_path):
    """Where nothing is learned, the first epoch stays the best."""
    run = session(tmp_path, learning_rate=0.0)
    run.run(10, patience=2)
    assert len(run.history) == 3
    assert run.best_epoch == 0
    assert len(load_checkpoint(tmp_path / "best.pt")["history"]) == 1
    run.run(10, patience=2)
    assert len(run.history) == 3


def test_settings_reach_the_trainer(tmp_path):
    run = session(
        tmp_path, learning_rate=0.5, learning_rate_decay=0.25, l1=0.25, l2=0.125, precision="bf16", seed=3, dropout=0.75
    )
    trainer, (weights, biases) = run.trainer, run.trainer.optimizer.param_groups
    assert (trainer.batch_size, trainer.l1, trainer.precision, trainer.seed) == (16, 0.25, "bf16", 3)
    assert (weights["lr"], weights["weight_decay"], biases["weight_decay"]) == (0.5, 0.125, 0)
    assert (run.model.classifier[3].p, trainer.learning_rate_decay) == (0.75, 0.25)


def test_best_weights_are_judged(tmp_path):
    run = session(tmp_path)
    run.run(1)
    expected = weights(run.model).clone()
    with torch.no_grad():
        run.model.classifier[-1].bias += 1
    result = run.evaluate_best(run.validation_set)
    assert torch.equal(weights(run.model), expected)
    assert (result.loss, result.accuracy) == (run.history[0].loss, run.history[0].accuracy)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"learning_rate": 0.5}, "learning_rate 0.001, not 0.5"), ({"seed": 1}, "seed 0, not 1")],
)
def test_resume_refuses_other_settings(tmp_path, settings, message):
    session(tmp_path).save()
    with pytest.raises(CheckpointError, match=rf"last\.pt: was trained with {message}"):
        session(tmp_path, **settings).resume()


def test_resume_refuses_other_images(tmp_path):
    session(tmp_path).save()
    other = Session(Settings("recognition", batch_size=16), dark_and_bright(40), tmp_path)
    with pytest.raises(CheckpointError, match="was trained with images 48, not 40"):
        other.resume()


def test_augmentation_reaches_training_alone_and_goes_on_to_the_same_bits(tmp_path):
    def noisy(images):
        assert images.dtype == torch.uint8
        seen.append(len(images))
        return (images / 255 + torch.rand(1)).clamp(0, 1)

    def augmented(directory) -> Session:
        directory.mkdir(exist_ok=True)
        return Session(Settings("recognition", batch_size=16), dark_and_bright(), directory, augment=noisy)

    def stop(progress):
        if progress.images == 32:
            raise Stop

    seen = []
    whole = augmented(tmp_path / "whole")
    whole.run(2)
    assert seen == [16, 16, 11] * 2  # but not the validation images
    stopped = augmented(tmp_path / "stopped")
    with pytest.raises(Stop):
        stopped.run(2, on_batch=stop)
    stopped.save()
    resumed = augmented(tmp_path / "stopped")
    resumed.resume()
    resumed.run(2)
    plain = session(tmp_path / "plain")
    plain.run(2)
    assert resumed.history == whole.history
    assert plain.history != whole.history


def test_a_validation_loss_that_is_not_finite(tmp_path, monkeypatch):
    run = session(tmp_path)
    run.run(1)
    before = load_checkpoint(tmp_path / "last.pt")
    monkeypatch.setattr(run, "evaluate", lambda dataset: SimpleNamespace(loss=float("nan"), accuracy=0.5))
    with pytest.raises(DivergedError, match="loss on the validation images is nan after epoch 2"):
        run.run(2)
    assert same(load_checkpoint(tmp_path / "last.pt"), before)


@pytest.mark.parametrize(
    ("kind", "variants"),
    [("recognition", "small medium large"), ("sequence", "gru lstm bigru bilstm"), ("vae", "dense conv")],
)
def test_variants(kind, variants):
    models = [Settings(kind, variant=variant).build_model((3, 28, 20), 5) for variant in variants.split()]
    counts = [sum(parameter.numel() for parameter in model.parameters()) for model in models]
    assert len(set(counts)) == len(counts)
    for model in models:
        output = model(torch.rand(2, 3, 28, 20))
        assert output[0].shape == (2, 3, 28, 20) if kind == "vae" else output.shape == (2, 5)
    with pytest.raises(ValueError, match=f"variant: {kind} has .*, got 'huge'"):
        Settings(kind, variant="huge")


@pytest.mark.parametrize("kind", ["recognition", "sequence", "vae"])
def test_stock_has_the_same_weights(kind):
    images = torch.rand(2, 1, 28, 28)
    stock, ours = (Settings(kind, stock=stock, seed=3).build_model((1, 28, 28), 5).eval() for stock in (True, False))
    assert same(stock.state_dict(), ours.state_dict())
    replaced = [type(module).__module__.startswith("fastvision.nn") for module in stock.modules()]
    assert not any(replaced)
    expected, found = ((model.encode(images)[0] if kind == "vae" else model(images)) for model in (stock, ours))
    torch.testing.assert_close(found, expected)


def test_refuses_what_cannot_be(tmp_path):
    with pytest.raises(ValueError, match=r"dropout: the autoencoder has none, got 0\.5"):
        session(tmp_path, "vae", dropout=0.5)
    with pytest.raises(ValueError, match="expected at least ten images, got 4"):
        Session(Settings("vae"), dark_and_bright(4), tmp_path)


@pytest.fixture
def train(tmp_path, monkeypatch):
    """Runs the command on `dark_and_bright`."""
    pytest.importorskip("typer", reason='typer (the extra "cli") is not installed')
    pytest.importorskip("matplotlib", reason='matplotlib (the extra "vision") is not installed')
    from typer.testing import CliRunner

    from fastvision.cli import app as commands

    monkeypatch.setattr(commands, "load", lambda data, **options: (dark_and_bright(), dark_and_bright(40)))
    monkeypatch.chdir(tmp_path)

    def run(*arguments, out="out", epochs=2):
        command = ["train", "recognition", "--batch-size", 16, "--epochs", epochs, "--out", out, *arguments]
        return CliRunner().invoke(commands.app, [str(word) for word in command], prog_name="fastvision")

    return run


def test_train(train, tmp_path):
    before = signal.getsignal(signal.SIGINT)
    result = train()
    assert signal.getsignal(signal.SIGINT) is before
    assert result.exit_code == 0, result.output
    for text in ("epoch 2/2", "epoch 1: validation loss", "Best: epoch ", "on the 40 test images", "accuracy"):
        assert text in result.stdout
    assert (tmp_path / "out" / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert load_checkpoint(tmp_path / "out" / "last.pt")["trainer"]["epochs_done"] == 2
    again = train()
    assert again.exit_code == 1
    assert "out/last.pt exists: --resume goes on from it" in again.stderr
    assert train("--resume", epochs=3).exit_code == 0
    assert load_checkpoint(tmp_path / "out" / "last.pt")["trainer"]["epochs_done"] == 3


def test_train_passes_its_options(train, tmp_path):
    options = {"optimizer": "rmsprop", "l1": 1e-5, "l2": 1e-4, "dropout": 0.25, "precision": "bf16", "seed": 3}
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    result = train("--lr", 0.002, "--lr-decay", 0.5, "--model", "small", "--likelihood", "gaussian", "--stock", *words)
    assert result.exit_code == 0, result.output
    expected = options | {"learning_rate": 0.002, "batch_size": 16, "kind": "recognition", "stock": True}
    expected |= {"variant": "small", "likelihood": "gaussian", "learning_rate_decay": 0.5, "augment": False}
    assert load_checkpoint(tmp_path / "out" / "last.pt")["settings"] == expected


def test_train_augments(train, tmp_path):
    assert train("--augment").exit_code == 0
    assert (tmp_path / "out" / "augmented.png").read_bytes().startswith(b"\x89PNG")
    augmented = load_checkpoint(tmp_path / "out" / "last.pt")
    assert augmented["settings"]["augment"] is True
    assert train(out="plain").exit_code == 0
    plain = load_checkpoint(tmp_path / "plain" / "last.pt")
    assert plain["history"][0]["train_loss"] != augmented["history"][0]["train_loss"]


def test_train_describes_the_data(train):
    said = train(epochs=1).stdout
    assert "shades: 43 images to train, 5 to judge each epoch, 40 to test; 8x8, 1 channel, 2 classes" in said


def test_cross_validation(train, tmp_path):
    result = train("--folds", 3)
    assert result.exit_code == 0, result.output
    for text in ("Fold 3 of 3", "on the 16 test images", "Cross-validation with 3 folds", "mean ± standard deviation"):
        assert text in result.stdout
    summary = json.loads((tmp_path / "out" / "folds.json").read_text())
    accuracy = summary["accuracy"]
    assert len(accuracy["folds"]) == 3
    assert accuracy["mean"] == pytest.approx(sum(accuracy["folds"]) / 3)
    assert summary["loss"]["standard_deviation"] == pytest.approx(torch.tensor(summary["loss"]["folds"]).std().item())
    assert train("--folds", 3).exit_code == 1
    (tmp_path / "out" / "fold-3" / "last.pt").unlink()
    (tmp_path / "out" / "folds.json").unlink()
    assert train("--folds", 3, "--resume").exit_code == 0  # to the same, with the one that is missing trained anew
    assert json.loads((tmp_path / "out" / "folds.json").read_text()) == summary


def test_tensorboard(train, tmp_path, monkeypatch):
    written = []

    class SummaryWriter:
        def __init__(self, directory):
            written.append(directory)

        def add_scalars(self, *arguments):
            written.append(arguments)

        def close(self):
            written.append("closed")

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", SimpleNamespace(SummaryWriter=SummaryWriter))
    assert train("--tensorboard").exit_code == 0
    history = load_checkpoint(tmp_path / "out" / "last.pt")["history"]
    directory, loss, accuracy, _, _, end = written
    assert (directory, end) == (Path("out/tensorboard"), "closed")
    assert loss == ("loss", {"training": history[0]["train_loss"], "validation": history[0]["loss"]}, 1)
    assert accuracy[0] == "accuracy"
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    result = train("--tensorboard", out="other")
    assert result.exit_code == 1
    assert "--tensorboard needs the package: pip install tensorboard" in result.stderr


def test_train_on_image_files(train, tmp_path, monkeypatch):
    """Of different sizes, one of them broken."""
    image = pytest.importorskip("PIL.Image", reason='Pillow (the extra "vision") is not installed')
    from fastvision.cli import app as commands

    monkeypatch.setattr(commands, "load", data.load)
    for number in range(30):
        path = tmp_path / "photos" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.new("RGB", (9 + number, 12), "red" if number % 2 else "blue").save(path)
    path.write_bytes(b"")
    result = train("--data", "photos", "--image-size", "10x12", epochs=1)
    assert result.exit_code == 0, result.output
    assert "10x12, 3 channels, 2 classes" in result.stdout
    assert "photos/b/29.png: can't be read as an image: " in result.stderr
    assert load_checkpoint(tmp_path / "out" / "last.pt")["data"]["sample_shape"] == [3, 10, 12]
    for size in ("big", "10x", "0"):
        result = train("--data", "photos", "--image-size", size, out="other")
        assert result.exit_code == 2
        assert "--image-size" in result.stderr


@pytest.mark.slow
def test_killed_at_any_moment(tmp_path):
    """By a signal that nothing can handle, ten times, in training, in evaluation and while checkpoints are written."""
    program = Path(__file__).with_name("killed_program.py")
    command = [sys.executable, program, tmp_path]
    environment = os.environ | {"PYTHONPATH": str(Path(fastvision.__file__).parent.parent)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    statuses = json.loads(done.stdout)
    assert statuses == [0] + [-signal.SIGKILL] * 10 + [0]
    for name in ("last.pt", "best.pt"):
        assert same(*(load_checkpoint(tmp_path / directory / name) for directory in ("whole", "killed")))
    assert sorted(path.name for path in (tmp_path / "killed").iterdir()) == ["best.pt", "last.pt"]


def test_interrupt_saves(train, tmp_path, monkeypatch):
    from fastvision.cli import train as command

    standing, calls = command.standing, []

    def interrupt(loss, accuracy):
        calls.append(loss)
        if len(calls) == 2:
            signal.raise_signal(signal.SIGINT)
            assert signal.getsignal(signal.SIGINT) is before  # a second Ctrl-C ends at once
        return standing(loss, accuracy)

    before = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patch:
        patch.setattr(command, "standing", interrupt)
        result = train()
    assert result.exit_code == 130
    assert "stopped; --resume goes on from out/last.pt" in result.stderr
    assert load_checkpoint(tmp_path / "out" / "last.pt")["trainer"]["mean"]["images"] == 32
    assert train("--resume").exit_code == train(out="whole").exit_code == 0
    assert same(*(load_checkpoint(tmp_path / directory / "last.pt") for directory in ("out", "whole")))


def test_failures_lose_nothing(train, tmp_path, monkeypatch):
    assert train().exit_code == 0
    before = load_checkpoint(tmp_path / "out" / "last.pt")

    def fail(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.os, "fsync", fail)
        result = train("--resume", epochs=4)
    assert result.exit_code == 1
    assert result.stderr.endswith(".pt: can't be written: No space left on device\n")
    assert same(load_checkpoint(tmp_path / "out" / "last.pt"), before)
    diverged = train("--lr", 1e30, "--optimizer", "sgd", out="diverged")
    assert diverged.exit_code == 1
    assert "the loss is " in diverged.stderr
    assert "a smaller learning rate may help" in diverged.stderr
