"""The command line."""

import gzip
import json
import math
import signal
import struct
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import fastvision

pytest.importorskip("typer", reason='typer (the extra "cli") is not installed')
pytest.importorskip("matplotlib", reason='matplotlib (the extra "vision") is not installed')
from rich.console import Console
from typer.testing import CliRunner

from fastvision.cli import app as commands
from fastvision.cli import demo, info
from fastvision.data import ImageDataset
from fastvision.models import VAE, ConvVAE
from fastvision.training import (
    Comparison,
    Implementation,
    Timing,
    VAEComparison,
    VAEImplementation,
    comparison,
    measure,
)
from fastvision.training.session import Session
from fastvision.training.settings import Settings


def run(*arguments: str):
    return CliRunner().invoke(commands.app, [str(argument) for argument in arguments], prog_name="fastvision")


def python(program: str, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False)


@pytest.fixture
def idx_directory(tmp_path) -> Path:
    """48 and 16 images of two classes, in MNIST's files."""
    directory = tmp_path / "images"
    directory.mkdir()
    for part, count in (("train", 48), ("t10k", 16)):
        labels = np.arange(count) % 2
        images = labels[:, None, None] * 200 + np.random.default_rng(0).integers(50, size=(count, 8, 8))
        for kind, array in (("images", images), ("labels", labels)):
            header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
            content = gzip.compress(header + array.astype(np.uint8).tobytes())
            (directory / f"{part}-{kind}-idx{array.ndim}-ubyte.gz").write_bytes(content)
    return directory


@pytest.fixture
def two_threads():
    """Two torch threads, and as many as before afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_info():
    result = run("info")
    assert result.exit_code == 0
    for text in (fastvision.__version__, torch.__version__, fastvision.backends.cpu.capability, info.cpu_name()):
        assert text in result.stdout


def test_info_json():
    facts = json.loads(run("info", "--json").stdout)
    assert facts == info.environment()
    assert facts["cpu_capability"] in facts["cpu_capabilities_available"]
    assert facts["threads"] == torch.get_num_threads()


def test_info_of_a_kind_of_model():
    small, medium = json.loads(run("info", "recognition", "--json").stdout)[1::-1]
    assert medium["model"] == "medium"
    assert medium["sample_shape"] == [1, 28, 28]
    assert medium["parameters"] == 241_546
    assert medium["bytes"] == 4 * 241_546
    convolutions = 28 * 28 * 9 * 1 * 32 + 14 * 14 * 9 * 32 * 64 + 7 * 7 * 9 * 64 * 128
    assert medium["flops"] == 2 * (convolutions + 128 * 3 * 3 * 128 + 128 * 10)
    assert small["flops"] < medium["flops"]
    table = run("info", "recognition", "--image-size", "48x64", "--channels", 3, "--classes", 7).stdout
    for text in ("3x48x64 images, 7 classes", "small", "medium", "large", "parameters", "MB", "MFLOPs"):
        assert text in table
    lstm = json.loads(run("info", "sequence", "--json").stdout)[1]
    assert lstm["model"] == "lstm"
    assert lstm["flops"] == 2 * (28 * 4 * 128 * (28 + 128) + 128 * 10)


def test_info_of_a_trained_model(tmp_path):
    labels = torch.arange(20) % 2
    dataset = ImageDataset("set", torch.zeros(20, 1, 8, 9, dtype=torch.uint8), labels, ("a", "b"))
    Session(Settings("vae", variant="conv"), dataset, tmp_path).save()
    (facts,) = json.loads(run("info", tmp_path, "--json").stdout)
    assert (facts["sample_shape"], facts["classes"]) == ([1, 8, 9], 2)
    assert facts["parameters"] == sum(p.numel() for p in ConvVAE((1, 8, 9)).parameters())


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["nonsense"], 1, "'nonsense' is no checkpoint and none of recognition, sequence, vae"),
        (["recognition", "--image-size", "4"], 1, "input_size: expected images"),
        (["recognition", "--image-size", "4y"], 2, "--image-size"),
    ],
)
def test_info_refuses(words, status, message):
    result = run("info", *words)
    assert result.exit_code == status
    assert message in result.stderr


def test_cuda_state(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.version, "cuda", None)
    assert "torch is built without CUDA" in info.cuda_state()
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    monkeypatch.setattr(fastvision, "__file__", str(tmp_path / "__init__.py"))
    assert "FASTVISION_CUDA=1" in info.cuda_state()
    (tmp_path / "_cuda.so").touch()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "no GPU" in info.cuda_state()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert "could not be opened" in info.cuda_state()
    monkeypatch.setattr(type(fastvision.backends.cuda), "is_available", lambda self: True)
    assert info.cuda_state() == "in use"


def test_version():
    assert run("--version").stdout == f"fastvision {fastvision.__version__}\n"


@pytest.mark.usefixtures("two_threads")
def test_demo(idx_directory, tmp_path, monkeypatch):
    monkeypatch.setattr(measure, "ROUNDS", 1)
    monkeypatch.setattr(measure, "SECONDS_PER_ROUND", 0.001)
    trained = []
    monkeypatch.setattr(
        comparison, "peak_training_memory", lambda run: trained.append((run.model, run.converted)) or 2_000_000
    )
    monkeypatch.chdir(tmp_path)
    result = run("demo", "--data", idx_directory, "--epochs", 2, "--threads", 1, "--out", "results/new")
    assert result.exit_code == 0, result.output
    for text in (
        "images: 48 images to train, 16 to test, 8x8, 1 channel, 2 classes",
        "epoch 2/2",
        "Stock PyTorch beside fastvision, 1 thread",
        "CNN, 2 epochs",
        "GRU, 2 epochs",
        "LSTM, 2 epochs",
        "VAE, 2 epochs",
        "negative ELBO",
        "2.0",
    ):
        assert text in result.stdout
    assert result.stdout.count("\nMeasuring accuracy and output difference, latency, peak memory\n") == 3
    assert result.stdout.count("\nMeasuring negative ELBO and output difference, latency\n") == 1
    for picture in ("predictions.png", "autoencoder.png"):
        assert (tmp_path / "results" / "new" / picture).read_bytes().startswith(b"\x89PNG")
    assert torch.get_num_threads() == 1
    assert trained == [(model, converted) for model in ("recognition", "gru", "lstm") for converted in (False, True)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "nowhere"], "fastvision: nowhere: no such directory"),
        (["--out", "images/train-labels-idx1-ubyte.gz"], "File exists"),
    ],
)
def test_demo_refuses_files(idx_directory, monkeypatch, arguments, message):
    monkeypatch.chdir(idx_directory.parent)
    result = run("demo", *(arguments if "--data" in arguments else ["--data", idx_directory, *arguments]))
    assert result.exit_code == 1
    assert message in result.stderr


def test_demo_refuses_truncated_file(idx_directory):
    path = idx_directory / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:100])
    result = run("demo", "--data", idx_directory)
    assert result.exit_code == 1
    assert "train-images-idx3-ubyte.gz: can't be read" in result.stderr


@pytest.mark.parametrize(
    ("option", "value"), [("--epochs", "0"), ("--threads", "0"), ("--device", "toaster"), ("--device", "meta")]
)
def test_demo_refuses_options(option, value):
    result = run("demo", option, value)
    assert result.exit_code == 2
    assert option in result.stderr


def test_default_images(monkeypatch):
    labels = torch.arange(40) // 20
    dataset = ImageDataset("sorted", torch.zeros(40, 1, 8, 8, dtype=torch.uint8), labels, "ab")
    assert demo.default_images(dataset) is dataset
    monkeypatch.setattr(demo, "MOST_IMAGES", 20)
    chosen = demo.default_images(dataset)
    assert len(chosen) == 20
    assert 0 < chosen.labels.sum() < 20  # not only those of the first class
    assert torch.equal(chosen.labels, demo.default_images(dataset).labels)


def test_demo_limits_images_unless_epochs_are_given(idx_directory, tmp_path, monkeypatch):
    calls = []

    class Enough(Exception):
        pass

    def compare(train_set, test_set, epochs, **options):
        calls.append((len(train_set), epochs, options["time_limit"]))
        raise Enough

    monkeypatch.setattr(demo.training, "compare", compare)
    monkeypatch.setattr(demo, "MOST_IMAGES", 32)
    for arguments in ([], ["--epochs", 3]):
        result = run("demo", "--data", idx_directory, "--out", tmp_path, *arguments)
        assert isinstance(result.exception, Enough)
        assert ("32 of 48 images to train" in result.stdout) == (not arguments)
    assert calls == [(32, demo.MOST_EPOCHS, demo.SECONDS_TO_TRAIN), (48, 3, math.inf)]


@pytest.mark.parametrize(("images", "epochs"), [(60_000, 1), (20_000, 2), (4_000, 12), (1, 20), (10**7, 1)])
def test_default_epochs(images, epochs):
    assert demo.default_epochs(images) == epochs


def rendered(results: dict[str, Comparison], vae: VAEComparison) -> tuple[list[list[str]], str]:
    """The cells of the table's rows, and all of its text."""
    console = Console(width=120)
    with console.capture() as capture:
        console.print(demo.results_table(results, vae))
    lines = capture.get().splitlines()
    return [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if "│" in line], " ".join(lines)


def test_results_table():
    stock = Implementation(0.975, Timing(2.0, 0.1), Timing(40e-6, 6e-6), Timing(3e-3, None), peak_memory=30_000_000)
    ours = Implementation(0.975, Timing(0.5, 0.1), Timing(10e-6, 1e-6), Timing(1e-3, 1e-3), peak_memory=None)
    vae = VAEComparison(
        VAEImplementation(130.25, Timing(1.0, 0.1), Timing(900e-6, 90e-6)),
        VAEImplementation(130.5, Timing(0.5, 0.1), Timing(300e-6, None)),
        largest_difference=2e-6,
        largest_output=15.0,
        loss_difference=3e-5,
        epochs=4,
        model=VAE((1, 8, 8), 16, 5),
    )
    rows, text = rendered(
        {
            "CNN": Comparison(stock, ours, 1.5e-6, 20.0, 1, torch.nn.Identity()),
            "GRU": Comparison(stock, replace(ours, peak_memory=12_000_000), 0.0, 7.5, 3, torch.nn.Identity()),
        },
        vae,
    )
    assert rows[:7] == [
        ["CNN, 1 epoch", "", "", ""],
        ["test accuracy", "97.50%", "97.50%", ""],
        ["training, s per epoch", "2.00 ±5%", "0.50 ±20%", "4.00"],
        ["latency of 1 image, µs", "40 ±15%", "10 ±10%", "4.00"],
        ["latency of 32 images, µs", "3000", "1000 ±100%", "3.00"],
        ["peak training memory, MB", "not known", "not known", ""],
        ["largest output difference", "", "1.5e-06", ""],
    ]
    assert rows[7] == ["GRU, 3 epochs", "", "", ""]
    assert rows[12] == ["peak training memory, MB", "30.0", "12.0", "2.50"]
    assert rows[14:] == [
        ["VAE, 4 epochs", "", "", ""],
        ["negative ELBO, nats", "130.25", "130.50", ""],
        ["training, s per epoch", "1.00 ±10%", "0.50 ±20%", "2.00"],
        ["sample and loss step, µs", "900 ±10%", "300", "3.00"],
        ["largest output difference", "", "2.0e-06", ""],
        ["difference of the ELBO", "", "3.0e-05", ""],
    ]
    assert "CNN 20.0, GRU 7.5, VAE 15.0" in text
    assert "256 images with 5 latents" in text


def test_bench_gets_its_arguments(monkeypatch):
    calls = []
    monkeypatch.setitem(sys.modules, "fastvision.bench", SimpleNamespace(app=lambda **call: calls.append(call)))
    assert run("bench", "conv", "--threads", "2", "--help").exit_code == 0
    assert calls == [{"args": ["conv", "--threads", "2", "--help"], "prog_name": "fastvision bench"}]


def test_bench_names_the_missing_extra(monkeypatch):
    class WithoutOnnx:
        def find_spec(name, path, target=None):
            if name == "fastvision.bench":
                raise ModuleNotFoundError(name="onnx.helper")

    monkeypatch.delitem(sys.modules, "fastvision.bench", raising=False)
    monkeypatch.setattr(sys, "meta_path", [WithoutOnnx, *sys.meta_path])
    result = run("bench", "conv")
    assert result.exit_code == 1
    assert "'fastvision bench' needs onnx: pip install 'fastvision[bench]'" in result.stderr


def test_demo_names_the_missing_extra(monkeypatch):
    monkeypatch.delitem(sys.modules, "fastvision.cli.demo")
    monkeypatch.delitem(sys.modules, "fastvision.training.pictures")
    monkeypatch.setitem(sys.modules, "matplotlib.axes", None)
    result = run("demo")
    assert result.exit_code == 1
    assert "'fastvision demo' needs matplotlib: pip install 'fastvision[vision]'" in result.stderr


@pytest.mark.parametrize("package", ["typer", "rich"])
def test_command_names_the_missing_extra(package):
    program = f"import sys; sys.modules['{package}'] = None; from fastvision.cli import main; main()"
    result = python(program, "info")
    assert result.returncode == 1
    assert result.stderr == "fastvision: the command line needs typer and rich: pip install 'fastvision[cli]'\n"


def test_import_needs_no_extras():
    extras = {"typer", "rich", "matplotlib", "PIL", "onnx"}
    program = f"import sys, fastvision, fastvision.data, fastvision.training; print({extras!r} & set(sys.modules))"
    assert python(program).stdout == "set()\n"


@pytest.mark.slow
def test_interrupt_is_silent(idx_directory, tmp_path):
    command = [
        sys.executable,
        "-m",
        "fastvision",
        "demo",
        "--data",
        idx_directory,
        "--epochs",
        "100000",
        "--out",
        tmp_path,
    ]
    # A shell starts what runs in the background, such as a test run, with SIGINT ignored.
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )
    try:
        while "to train" not in process.stdout.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "Traceback" not in errors
