"""The commands that use a trained model: evaluate, predict, generate."""

import json
from pathlib import Path

import numpy as np
import pytest
from test_training import dark_and_bright

pytest.importorskip("typer", reason='typer (the extra "cli") is not installed')
pytest.importorskip("matplotlib", reason='matplotlib (the extra "vision") is not installed')
pytest.importorskip("PIL", reason='Pillow (the extra "vision") is not installed')
from PIL import Image
from typer.testing import CliRunner

from fastvision.cli import trained_commands
from fastvision.cli.app import app
from fastvision.training.session import Session
from fastvision.training.settings import Settings

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """Directories of a classifier and an autoencoder."""
    root = tmp_path_factory.mktemp("trained")
    for kind, epochs in (("recognition", 5), ("vae", 1)):
        (root / kind).mkdir()
        Session(Settings(kind, batch_size=8), dark_and_bright(), root / kind).run(epochs)
    return root


@pytest.fixture
def run(monkeypatch, tmp_path):
    monkeypatch.setattr(trained_commands, "load", lambda data, **options: (dark_and_bright(), dark_and_bright(40)))
    monkeypatch.chdir(tmp_path)
    return lambda *words: CliRunner().invoke(app, [str(word) for word in words], prog_name="fastvision")


def is_png(path: Path) -> bool:
    return Path(path).read_bytes().startswith(b"\x89PNG")


def test_evaluate_a_classifier(run, trained):
    result = run("evaluate", "--checkpoint", trained / "recognition", "--out", "a/b")
    assert result.exit_code == 0, result.output
    for text in ("40 images of shades", "dark", "bright", "precision", "accuracy 100.00%", "calibration error"):
        assert text in result.stdout
    assert all(is_png(f"a/b/{name}.png") for name in ("confusion", "calibration", "mistakes"))


@pytest.mark.parametrize("options", [[], ["--stock"], ["--precision", "bf16"]])
def test_evaluate_prints_json(run, trained, options):
    result = run("evaluate", "--checkpoint", trained / "recognition", "--json", *options)
    assert result.exit_code == 0, result.output
    facts = json.loads(result.stdout)
    assert facts["accuracy"] == 1
    assert facts["confusion"] == [[20, 0], [0, 20]]
    assert facts["classes"]["dark"] == {"precision": 1.0, "recall": 1.0, "f1": 1.0, "images": 20}
    assert all(map(is_png, facts["pictures"]))


def test_evaluate_an_autoencoder(run, trained):
    result = run("evaluate", "--checkpoint", trained / "vae")
    assert result.exit_code == 0, result.output
    for text in ("negative ELBO", "KL", "cross-entropy", "mean squared error"):
        assert text in result.stdout
    facts = json.loads(run("evaluate", "--checkpoint", trained / "vae", "--json", "--seed", 1).stdout)
    assert facts["cross_entropy"] + facts["kl"] == pytest.approx(facts["negative_elbo"], rel=1e-4)
    assert [Path(picture).name for picture in facts["pictures"]] == ["reconstructions.png", "samples.png"]
    assert all(map(is_png, facts["pictures"]))


@pytest.fixture
def files(tmp_path) -> list[Path]:
    """A dark one, a bright one and one that is no image, of sizes other than the model's."""
    paths = [tmp_path / name for name in ("night.png", "noon.jpg", "broken.png")]
    for path, shade, size in zip(paths, (20, 230), ((30, 20), (9, 9)), strict=False):
        Image.fromarray(np.full((*size, 3), shade, np.uint8)).save(path)
    paths[2].write_text("nonsense")
    return paths


def test_predict(run, trained, files):
    command = ["predict", *files[:2], "--checkpoint", trained / "recognition"]
    result = run(*command)
    assert result.exit_code == 0, result.output
    assert result.stdout.index("dark") < result.stdout.index("bright")
    facts = json.loads(run(*command, "--json", "--top", 1).stdout)
    assert [fact["file"] for fact in facts] == [str(file) for file in files[:2]]
    assert [[one["class"] for one in fact["predictions"]] for fact in facts] == [["dark"], ["bright"]]
    inverted = json.loads(run(*command, "--json", "--top", 9, "--invert", "--stock").stdout)
    assert [fact["predictions"][0]["class"] for fact in inverted] == ["bright", "dark"]
    assert sum(one["probability"] for one in inverted[0]["predictions"]) == pytest.approx(1)


@pytest.mark.parametrize("attribution", ["saliency", "occlusion"])
def test_predict_draws_attributions(run, trained, files, attribution):
    out = "new/attribution.png"
    options = ["--checkpoint", trained / "recognition", "--attribution", attribution, "--out", out]
    result = run("predict", *files[:2], *options)
    assert result.exit_code == 0, result.output
    assert f"{attribution.capitalize()}: {out}" in result.stdout
    assert is_png(out)


def test_predict_names_broken_files(run, trained, files):
    result = run("predict", *files, "missing.png", "--checkpoint", trained / "recognition")
    assert result.exit_code == 1
    assert "noon.jpg" in result.stdout
    first, second = result.stderr.splitlines()
    assert first.startswith(f"fastvision: {files[2]}: can't be read as an image: ")
    assert second == "fastvision: missing.png: can't be read as an image: No such file or directory"


def test_generate(run, trained):
    result = run("generate", "--checkpoint", trained / "vae", "--count", 5, "--out", "a/b", "--steps", 3)
    assert result.exit_code == 0, result.output
    assert is_png("a/b/samples.png")
    assert is_png("a/b/interpolations.png")
    between = Path("a/b/interpolations.png").read_bytes()
    options = ["--checkpoint", trained / "vae", "--count", 5, "--steps", 3, "--json"]
    facts = json.loads(run("generate", *options, "--out", "same").stdout)
    assert facts["pictures"] == ["same/samples.png", "same/interpolations.png"]
    assert Path("same/interpolations.png").read_bytes() == between
    run("generate", *options, "--out", "real", "--data", "images")
    assert Path("real/interpolations.png").read_bytes() != between
    facts = json.loads(run("generate", *options, "--interpolations", 0, "--out", "few").stdout)
    assert facts["pictures"] == ["few/samples.png"]
    result = run("generate", *options, "--interpolations", 21, "--data", "images")
    assert (result.exit_code, result.stderr) == (1, "fastvision: shades: expected 42 images for the ends, got 40\n")


@pytest.mark.parametrize(
    ("command", "checkpoint", "message"),
    [
        (["predict", "a.png"], "vae", "is an autoencoder, which has no classes"),
        (["generate"], "recognition", "is a classifier, which draws nothing"),
        (["evaluate"], "nowhere", "nowhere: can't be read: No such file or directory"),
    ],
)
def test_the_wrong_model(run, trained, command, checkpoint, message):
    result = run(*command, "--checkpoint", trained / checkpoint)
    assert result.exit_code == 1
    assert message in result.stderr


def test_evaluate_refuses_other_images(run, trained, monkeypatch):
    monkeypatch.setattr(trained_commands, "load", lambda data, **options: (None, dark_and_bright(size=10)))
    result = run("evaluate", "--checkpoint", trained / "recognition")
    assert result.exit_code == 1
    assert "with images of shape 1x8x8, got 1x10x10" in result.stderr
