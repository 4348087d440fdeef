"""What is said of trained models: reports, attributions, and checkpoints read back."""

import math

import numpy as np
import pytest
import torch
from test_training import dark_and_bright, small_model
from torch import nn
from torch.nn import functional as F

from fastvision import training
from fastvision.data import ImageDataset
from fastvision.models import VAE, RecognitionCNN
from fastvision.training.attribution import attribute
from fastvision.training.reports import autoencoder_report, classification_report
from fastvision.training.session import Session
from fastvision.training.settings import Settings
from fastvision.training.trained import load_trained

pytestmark = pytest.mark.usefixtures("one_thread")


def labelled(labels: list[int], classes: str) -> ImageDataset:
    return ImageDataset(
        "set", torch.zeros(len(labels), 1, 2, 2, dtype=torch.uint8), torch.tensor(labels, dtype=torch.int64), classes
    )


def test_classification_report_agrees_with_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn, which is the oracle, is not installed")
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(4, (200,), generator=generator).tolist()  # and none of the fifth class
    scores = torch.randn(200, 5, generator=generator) + F.one_hot(torch.tensor(labels), 5)
    scores[:, 3] = -9  # nothing is predicted as the fourth
    report = classification_report(scores, labelled(labels, "abcde"))
    predicted = scores.argmax(-1)
    assert report.confusion == metrics.confusion_matrix(labels, predicted, labels=range(5)).tolist()
    expected = metrics.precision_recall_fscore_support(labels, predicted, labels=range(5), zero_division=0)
    found = [(of.precision, of.recall, of.f1, of.images) for of in report.classes.values()]
    np.testing.assert_allclose(found, np.array(expected).T)
    assert report.accuracy == pytest.approx(metrics.accuracy_score(labels, predicted))
    assert report.loss == pytest.approx(F.cross_entropy(scores, torch.tensor(labels)).item(), rel=1e-5)
    assert list(report.classes) == list("abcde")


def test_calibration():
    """Four images with 90 % on the first class, three of which are of it, and two with 60 %, both of it."""
    scores = torch.tensor([[0.9, 0.1]] * 4 + [[0.6, 0.4]] * 2).log()
    report = classification_report(scores, labelled([0, 0, 0, 1, 0, 0], "ab"))
    bins = [(bin.confidence, bin.accuracy, bin.images) for bin in report.calibration]
    np.testing.assert_allclose(bins, [(0.6, 1.0, 2), (0.9, 0.75, 4)], rtol=1e-6)
    assert report.calibration_error == pytest.approx((0.4 * 2 + 0.15 * 4) / 6, rel=1e-6)


def test_reports_refuse():
    with pytest.raises(ValueError, match=r"scores: expected shape \(2, 3\), got \(2, 2\)"):
        classification_report(torch.zeros(2, 2), labelled([0, 1], "abc"))
    with pytest.raises(ValueError, match="classification_report: dataset: expected at least one image"):
        classification_report(torch.zeros(0, 2), labelled([], "ab"))


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
@pytest.mark.parametrize("fused", [False, True])
def test_autoencoder_report(likelihood, fused):
    dataset, model = dark_and_bright(300), VAE((1, 8, 8), 16, 5, likelihood=likelihood, fused=fused)
    report = autoencoder_report(model, dataset, seed=3)
    assert report == autoencoder_report(model, dataset, seed=3) != autoencoder_report(model, dataset, seed=4)
    assert report.negative_elbo == pytest.approx(
        training.evaluate(model, dataset, training.negative_elbo, seed=3).loss, rel=1e-6
    )
    images, _ = dataset[:]
    with torch.no_grad():
        mu, logvar = model.encode(images)
        kl = torch.distributions.kl_divergence(
            torch.distributions.Normal(mu, (logvar / 2).exp()), torch.distributions.Normal(0, 1)
        )
    assert report.kl == pytest.approx(kl.sum().item() / 300, rel=1e-4)
    if likelihood == "bernoulli":
        assert report.cross_entropy + report.kl == pytest.approx(report.negative_elbo, rel=1e-5)
    elif (recon := model.decode(mu)).min() >= 0 and recon.max() <= 1:
        assert report.mean_squared_error * 64 + report.kl == pytest.approx(report.negative_elbo, rel=1e-5)
    assert 0 < report.mean_squared_error < 1


def test_evaluation_in_bfloat16():
    dataset, model = dark_and_bright(), small_model()
    assert training.predict(model, dataset, "bf16").dtype == torch.float32
    exact, rounded = (training.predict(model, dataset, precision) for precision in ("fp32", "bf16"))
    assert 0 < (exact - rounded).abs().max() < 0.05
    assert training.evaluate(model, dataset, precision="bf16").loss != training.evaluate(model, dataset).loss
    vae = VAE((1, 8, 8), 16, 5)
    assert autoencoder_report(vae, dataset, 0, "bf16") != (exact := autoencoder_report(vae, dataset))
    assert autoencoder_report(vae, dataset, 0, "bf16").negative_elbo == pytest.approx(exact.negative_elbo, rel=0.01)


@pytest.mark.parametrize("method", ["saliency", "occlusion"])
def test_attribution_finds_what_the_score_depends_on(method):
    """A model that sees only the bottom right quarter."""

    class Quarter(nn.Module):
        def forward(self, images):
            mean = images[:, :, 8:, 6:].mean((1, 2, 3))
            return torch.stack([mean, -mean], 1) * 5

    images = torch.zeros(3, 2, 16, 12)
    images[:, :, 8:, 6:] = 1
    found = attribute(Quarter(), images, torch.tensor([0, 0, 1]), method)
    assert found.shape == (3, 16, 12)
    inside = found[:, 10:, 8:]
    assert (inside[:2] > 0).all()
    assert (inside[2] < 0).all() if method == "occlusion" else (inside[2] > 0).all()
    assert (found[:, :4, :3].abs() < 1e-6).all()


def test_saliency_is_the_gradient():
    model = nn.Sequential(nn.Flatten(), nn.Linear(2 * 4 * 3, 5))
    found = attribute(model, torch.rand(2, 2, 4, 3), torch.tensor([1, 4]))
    torch.testing.assert_close(found, model[1].weight[[1, 4]].abs().view(2, 2, 4, 3).amax(1))


def test_attribution_is_in_eval_mode_and_refuses():
    model, images = small_model().train(), torch.rand(2, 1, 8, 8)
    first, second = (attribute(model, images, torch.zeros(2).long(), "occlusion") for _ in range(2))
    assert torch.equal(first, second)
    assert model.training
    with pytest.raises(ValueError, match="method: expected one of saliency, occlusion, got 'x'"):
        attribute(model, images, torch.zeros(2).long(), "x")
    with pytest.raises(ValueError, match="classes: expected 2 of them"):
        attribute(model, images, torch.zeros(3).long())


@pytest.mark.parametrize(("kind", "variant"), [("recognition", "small"), ("sequence", "bilstm"), ("vae", "conv")])
def test_trained_models_are_read_back(tmp_path, kind, variant):
    session = Session(Settings(kind, batch_size=16, variant=variant), dark_and_bright(), tmp_path)
    session.run(2)
    expected = session.evaluate_best(dark_and_bright(40))
    for stock in (False, True):
        trained = load_trained(tmp_path, stock=stock)
        assert (trained.sample_shape, trained.classes, trained.data_name) == ((1, 8, 8), ("dark", "bright"), "shades")
        assert (trained.settings, trained.stock) == (session.settings, stock)
        assert list(trained.history) == session.history[: session.best_epoch + 1]
        assert not trained.model.training
        found = training.evaluate(trained.model, dark_and_bright(40), session.objective)
        assert found.loss == pytest.approx(expected.loss, rel=0.02 if kind == "vae" else 1e-4)
    assert load_trained(tmp_path / "last.pt").history == tuple(session.history)
    assert load_trained(tmp_path / "best.pt").settings == session.settings
    if kind != "vae":
        images, _ = dark_and_bright(40)[:]
        probabilities = trained.probabilities(images)
        torch.testing.assert_close(probabilities.sum(1), torch.ones(40))
        torch.testing.assert_close(probabilities, training.predict(trained.model, dark_and_bright(40)).softmax(-1))
        with pytest.raises(ValueError, match=r"images: expected shape \(N, 1, 8, 8\), got \(2, 1, 8, 9\)"):
            trained.probabilities(torch.zeros(2, 1, 8, 9))
    with pytest.raises(ValueError, match="trained on 'shades' with images of shape 1x8x8, got 1x10x10"):
        trained.check_fits(dark_and_bright(size=10))


def test_other_classes_do_not_fit(tmp_path):
    Session(Settings("recognition"), dark_and_bright(), tmp_path).save()
    other = dark_and_bright()
    other.classes = ("night", "day")
    with pytest.raises(ValueError, match="with classes dark, bright, got night, day"):
        load_trained(tmp_path).check_fits(other)


def test_what_is_no_trained_model(tmp_path):
    with pytest.raises(training.CheckpointError, match=r"best\.pt: can't be read: No such file"):
        load_trained(tmp_path)
    training.save_checkpoint(tmp_path / "a.pt", {"model": RecognitionCNN().state_dict()})
    with pytest.raises(training.CheckpointError, match=r"a\.pt: not a checkpoint of 'fastvision train'"):
        load_trained(tmp_path / "a.pt")


def test_confidence_one_is_in_the_last_bin():
    report = classification_report(torch.tensor([[math.inf, 0.0]]).clamp(max=1e4), labelled([0], "ab"))
    assert [(bin.confidence, bin.images) for bin in report.calibration] == [(1.0, 1)]
    assert report.calibration_error == 0
