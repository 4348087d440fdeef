"""Training, evaluating and comparing variational autoencoders, and their pictures."""

import copy

import pytest
import torch
from test_training import dark_and_bright

from fastvision import training
from fastvision.models import VAE
from fastvision.training import measure, vae_comparison


def autoencoder() -> VAE:
    torch.manual_seed(0)
    return VAE((1, 8, 8), hidden_size=16, latent_size=3)


def test_fit_learns():
    model, steps = autoencoder(), []
    before = training.evaluate(model, dark_and_bright(), training.negative_elbo)
    training.fit(
        model, dark_and_bright(), 20, objective=training.negative_elbo, learning_rate=0.01, on_batch=steps.append
    )
    after = training.evaluate(model, dark_and_bright(), training.negative_elbo)
    assert after.loss < before.loss - 1
    assert (before.accuracy, steps[0].accuracy) == (None, None)


def test_evaluation_is_the_mean_over_batches_and_draws_by_its_seed(monkeypatch):
    model, dataset = autoencoder(), dark_and_bright(20)
    first, again, other = (training.evaluate(model, dataset, training.negative_elbo, seed).loss for seed in (0, 0, 1))
    assert first == again != other
    monkeypatch.setattr(training.loop, "EVALUATION_BATCH_SIZE", 16)
    monkeypatch.setattr(model.reparameterize, "forward", lambda mu, logvar: mu)  # batches draw differently
    images, labels = dataset[:]
    expected = training.negative_elbo(model, images, labels).loss.item()
    assert training.evaluate(model, dataset, training.negative_elbo).loss == pytest.approx(expected, rel=1e-5)


@pytest.fixture
def comparison(monkeypatch):
    monkeypatch.setattr(measure, "ROUNDS", 1)
    monkeypatch.setattr(measure, "SECONDS_PER_ROUND", 0.001)

    def compare(**options):
        return training.compare_vae(dark_and_bright(), dark_and_bright(40), 2, **options)

    return compare


def test_compare(comparison):
    steps, stages = [], []
    result = comparison(on_batch=lambda name, progress: steps.append((name, progress.epoch)), on_measure=stages.append)
    assert steps == [("stock", 0), ("fastvision", 0), ("stock", 1), ("fastvision", 1)]
    assert stages == ["negative ELBO and output difference", "latency"]
    found = training.evaluate(result.model, dark_and_bright(40), training.negative_elbo).loss
    assert result.fastvision.negative_elbo == found
    assert result.stock.negative_elbo == pytest.approx(found, rel=0.1)  # the noise differs
    assert result.largest_difference < 1e-5 * result.largest_output
    assert result.loss_difference < 1e-5 * result.stock.negative_elbo
    assert result.epochs == 2
    assert not result.model.training


@pytest.mark.parametrize("wrong", ["reparameterize", "loss"])
def test_compare_shows_a_difference(comparison, monkeypatch, wrong):
    """Where fastvision's layers computed something else, the table would say so."""
    build_vae = vae_comparison.build_vae

    def build_wrongly(dataset, *, fused, **options):
        model = build_vae(dataset, fused=fused, **options)
        if fused:
            right = copy.copy(getattr(model, wrong).forward)
            monkeypatch.setattr(getattr(model, wrong), "forward", lambda *inputs: right(*inputs) + 0.5)
        return model

    monkeypatch.setattr(vae_comparison, "build_vae", build_wrongly)
    result = comparison()
    assert (result.largest_difference > 1e-3) == (wrong == "reparameterize")
    assert result.loss_difference > 1e-3


@pytest.mark.parametrize("fused", [False, True])
def test_loss_step_gives_the_gradients_of_a_training_step(fused):
    model = vae_comparison.build_vae(dark_and_bright(), fused=fused)
    recon, mu, logvar = vae_comparison.loss_step(model, (1, 8, 8))()
    assert recon.shape == (256, 1, 8, 8)
    assert mu.shape == logvar.shape == (256, 100)
    assert all(gradient.abs().sum() > 0 for gradient in (recon, mu, logvar))
    assert mu.std() == pytest.approx(1, rel=0.1)  # that of z's gradient, beside which the KL's is small


def test_picture_shows_every_image_once(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib", reason='matplotlib (the extra "vision") is not installed')
    from PIL import Image

    from fastvision.training import image_rows

    figures = []
    save = image_rows.Figure.savefig
    monkeypatch.setattr(
        image_rows.Figure, "savefig", lambda figure, *args, **kwargs: figures.append(figure) or save(figure, *args)
    )
    shades = torch.linspace(0.1, 0.9, 5).view(5, 1, 1, 1).expand(-1, 1, 4, 4)
    green = torch.tensor([0, 1.0, 0], dtype=torch.bfloat16).view(1, 3, 1, 1).expand(1, 3, 4, 4)
    path = tmp_path / "a.png"
    image_rows.draw_image_rows(path, "title", {"grey": shades, "green": green}, columns=3)
    (figure,) = figures
    assert [text.get_text() for text in figure.texts] == ["title", "grey", "green"]
    places = [axes.get_position() for axes in figure.axes]
    assert len({round(place.y0, 3) for place in places[:3]}) == len({round(place.y0, 3) for place in places[3:5]}) == 1
    assert places[0].y0 > places[3].y0 > places[5].y0
    assert places[0].x0 < places[1].x0 < places[2].x0
    assert all(0 < place.x0 < place.x1 < 1 and 0 < place.y0 < place.y1 < 1 for place in places)
    shown = [float(axes.images[0].get_array().flat[0]) for axes in figure.axes[:5]]
    assert shown == pytest.approx(torch.linspace(0.1, 0.9, 5).tolist())
    assert (0, 255, 0) in Image.open(path).convert("RGB").get_flattened_data()
