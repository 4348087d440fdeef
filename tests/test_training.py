"""Training, evaluation, measuring and pictures."""

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import fastvision
from fastvision import training
from fastvision.data import ImageDataset
from fastvision.training import build, comparison, measure


def dark_and_bright(count: int = 48, size: int = 8) -> ImageDataset:
    """Two classes that any classifier can tell apart."""
    labels = torch.arange(count) % 2
    noise = torch.randint(100, (count, 1, size, size), generator=torch.Generator().manual_seed(0))
    return ImageDataset("shades", (labels.view(-1, 1, 1, 1) * 155 + noise).byte(), labels, ("dark", "bright"))


def small_model(dropout: float = 0.5) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Dropout(dropout), nn.Linear(16, 2))


def weights(model: nn.Module) -> torch.Tensor:
    return nn.utils.parameters_to_vector(model.parameters()).detach()


def test_fit_learns():
    model = small_model()
    results = training.fit(model, dark_and_bright(), 20, batch_size=8, learning_rate=0.01)
    assert len(results) == 20
    assert results[-1].loss < results[0].loss
    assert training.evaluate(model, dark_and_bright()).accuracy == 1


def test_training_depends_only_on_its_seed():
    model, same, other = small_model(), small_model(), small_model()
    training.fit(model, dark_and_bright(), 2, seed=3)
    torch.rand(100)
    training.fit(same, dark_and_bright(), 2, seed=3)
    training.fit(other, dark_and_bright(), 2, seed=4)
    assert torch.equal(weights(model), weights(same))
    assert not torch.equal(weights(model), weights(other))


def test_training_leaves_the_global_generator_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    training.fit(small_model(), dark_and_bright(), 1)
    assert torch.equal(torch.rand(3), expected)


def test_epochs_differ_in_order_and_dropout():
    model, seen, dropped = small_model(), [], []
    model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    model[3].register_forward_hook(lambda _, inputs, output: dropped.append((output == 0) & (inputs[0] != 0)))
    training.fit(model.eval(), dark_and_bright(), 2, learning_rate=0)
    assert len(seen) == 2
    assert not torch.equal(seen[0], seen[1])
    assert not torch.equal(dropped[0], dropped[1])


def test_progress_is_the_mean_over_the_epoch():
    """With a learning rate of zero and no dropout each batch is judged by the same model."""
    model, dataset = small_model(dropout=0), dark_and_bright(20)
    steps = []
    results = training.fit(model, dataset, 2, batch_size=8, learning_rate=0, on_batch=steps.append)
    expected = training.evaluate(model, dataset)
    assert [(step.epoch, step.images) for step in steps] == [(0, 8), (0, 16), (0, 20), (1, 8), (1, 16), (1, 20)]
    for epoch, result in enumerate(results):
        last = steps[3 * epoch + 2]
        assert (result.loss, result.accuracy) == (last.loss, last.accuracy)
        assert result.loss == pytest.approx(expected.loss, rel=1e-5)
        assert result.accuracy == expected.accuracy


def test_learning_rate_decays_by_epochs():
    """Where it decays to nothing, the second epoch changes nothing."""
    once, twice, undiminished = small_model(), small_model(), small_model()
    training.fit(once, dark_and_bright(), 1, batch_size=8)
    training.fit(twice, dark_and_bright(), 2, batch_size=8, learning_rate_decay=0)
    training.fit(undiminished, dark_and_bright(), 2, batch_size=8)
    assert torch.equal(weights(once), weights(twice))
    assert not torch.equal(weights(once), weights(undiminished))


class Constant(nn.Module):
    """Says the same of every image."""

    def __init__(self, *scores: float) -> None:
        super().__init__()
        self.scores = nn.Parameter(torch.tensor(scores))

    def forward(self, images):
        return self.scores.expand(len(images), -1)


def test_evaluate():
    dataset = dark_and_bright(300).subset([0, 1, 2])  # dark, bright, dark
    result = training.evaluate(Constant(2.0, 0.0), dataset)
    probability = torch.tensor([2.0, 0.0]).softmax(0)
    assert result.accuracy == pytest.approx(2 / 3)
    assert result.loss == pytest.approx(-(2 * probability[0].log() + probability[1].log()).item() / 3)


def test_predict_keeps_order_over_several_batches():
    dataset = dark_and_bright(600)
    model = small_model().eval()
    with torch.no_grad():
        expected = model(dataset[:][0])
    torch.testing.assert_close(training.predict(model.train(), dataset), expected)


def test_predict_restores_each_modules_mode():
    model = small_model().train()
    model[3].eval()
    before = [module.training for module in model.modules()]
    training.predict(model, dark_and_bright())
    assert [module.training for module in model.modules()] == before


@pytest.mark.parametrize("function", [training.Trainer, training.predict, training.evaluate])
def test_no_images(function):
    with pytest.raises(
        ValueError, match=rf"{function.__name__}: dataset: expected at least one image, got none in 'shades'"
    ):
        function(small_model(), dark_and_bright(0))


def test_timing():
    timing = training.Timing.of([4.0, 1.0, 2.0, 3.0, 10.0])
    assert (timing.median, timing.iqr) == (3.0, 2.0)
    assert training.Timing.of([4.0]) == training.Timing(4.0, None)


def test_latencies_take_turns_in_inference_mode(monkeypatch):
    monkeypatch.setattr(measure, "SECONDS_PER_ROUND", 1e-4)
    calls = []

    class Recorder(nn.Module):
        def __init__(self, name):
            super().__init__()
            self.name = name

        def forward(self, images):
            assert torch.is_inference_mode_enabled()
            if not calls or calls[-1] != self.name:
                calls.append(self.name)

    latencies = measure.measure_latencies([Recorder("a"), Recorder("b")], torch.zeros(1))
    assert calls == ["a", "b"] * measure.ROUNDS
    assert len(latencies) == 2


RUN = measure.TrainingRun("recognition", (1, 28, 28), 10, batch_size=64, converted=False, device="cpu", threads=1)


@pytest.mark.slow
@pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="resident memory's peak is read from Linux's /proc"
)
def test_peak_memory_holds_the_activations():
    first_convolution = 64 * 32 * 28 * 28 * 4
    peak = measure.peak_training_memory(RUN)
    assert first_convolution < peak < 20 * first_convolution
    # 56 images fewer: at least the outputs of one convolution for them, whatever a step needs besides.
    assert peak - measure.peak_training_memory(replace(RUN, batch_size=8)) > first_convolution * 56 / 64
    # Of an LSTM: at least the gates and both states of 28 steps, and less than the convolutions need.
    assert 64 * 28 * 6 * 128 * 4 < measure.peak_training_memory(replace(RUN, model="lstm")) < peak


def test_peak_memory_reports_a_failed_process():
    with pytest.raises(RuntimeError, match=r"the measuring process failed:\n[\s\S]*nonsense"):
        measure.peak_training_memory(replace(RUN, device="nonsense"))


@pytest.fixture
def quick_measurements(monkeypatch):
    monkeypatch.setattr(measure, "ROUNDS", 1)
    monkeypatch.setattr(measure, "SECONDS_PER_ROUND", 0.001)
    monkeypatch.setattr(comparison, "peak_training_memory", lambda run: len(run.model) - run.converted)


def layers(model: nn.Module) -> list[type[nn.Module]]:
    return [type(module) for module in model.modules()]


every_model = pytest.mark.parametrize("model", ["recognition", "gru", "lstm"])


@every_model
def test_build_model(model):
    dataset = dark_and_bright()
    stock, same, other = (training.build_model(dataset, model, converted=False, seed=seed) for seed in (0, 0, 1))
    converted = training.build_model(dataset, model, converted=True)
    assert torch.equal(weights(stock), weights(same))
    assert not torch.equal(weights(stock), weights(other))
    assert torch.equal(weights(stock), weights(converted))
    assert not any(kind.__module__.startswith("fastvision.nn") for kind in layers(stock))
    assert layers(converted) == layers(fastvision.convert(stock)) != layers(stock)
    assert {"recognition": nn.Conv2d, "gru": nn.GRU, "lstm": nn.LSTM}[model] in layers(stock)


def test_build_model_refuses_other_models():
    with pytest.raises(ValueError, match="build_model: model: expected one of recognition, gru, lstm, got 'rnn'"):
        training.build_model(dark_and_bright(), "rnn", converted=False)


@every_model
@pytest.mark.usefixtures("quick_measurements")
def test_compare(model):
    steps, stages = [], []
    result = training.compare(
        dark_and_bright(),
        dark_and_bright(40),
        2,
        model=model,
        on_batch=lambda name, progress: steps.append((name, progress)),
        on_measure=stages.append,
    )
    assert [(name, step.epoch) for name, step in steps] == [
        ("stock", 0),
        ("fastvision", 0),
        ("stock", 1),
        ("fastvision", 1),
    ]
    for (_, stock), (_, ours) in zip(steps[::2], steps[1::2], strict=True):
        assert ours.loss == pytest.approx(stock.loss, rel=1e-3)  # the same weights, images and dropout
    assert (result.stock.peak_memory, result.fastvision.peak_memory) == (len(model), len(model) - 1)
    assert result.fastvision.accuracy == training.evaluate(result.model, dark_and_bright(40)).accuracy
    assert result.largest_difference < 1e-4 * result.largest_score
    assert not result.model.training
    assert layers(result.model) == layers(training.build_model(dark_and_bright(), model, converted=True))
    assert stages[-1].startswith("peak memory")


@pytest.mark.usefixtures("quick_measurements")
@pytest.mark.parametrize(("time_limit", "epochs"), [(0, 1), (1000, 3)])
def test_compare_keeps_a_time_limit(time_limit, epochs):
    assert training.compare(dark_and_bright(), dark_and_bright(40), 3, time_limit=time_limit).epochs == epochs


@pytest.mark.usefixtures("quick_measurements")
def test_compare_trains_by_the_recipe(monkeypatch):
    rates = {"learning_rate": 0.01, "learning_rate_decay": 0.1}
    monkeypatch.setitem(build.RECIPES, "gru", replace(build.RECIPES["gru"], **rates))
    expected = training.build_model(dark_and_bright(), "gru", converted=True)
    training.fit(expected, dark_and_bright(), 2, **rates)
    trained = training.compare(dark_and_bright(), dark_and_bright(40), 2, model="gru").model
    assert torch.equal(weights(trained), weights(expected))


@every_model
@pytest.mark.usefixtures("quick_measurements")
def test_compare_shows_a_difference(monkeypatch, model):
    """Where fastvision's layers computed something else, the table would say so."""

    def convert_wrongly(model):
        wrong = copy.deepcopy(model)
        with torch.no_grad():
            wrong.classifier[-1].bias[1] += 0.5
        return wrong

    monkeypatch.setattr(comparison.fastvision, "convert", convert_wrongly)
    result = training.compare(dark_and_bright(), dark_and_bright(40), 1, model=model)
    assert result.largest_difference == pytest.approx(0.5, rel=1e-4)


def picture_pixels(path: Path, dataset: ImageDataset, predicted: torch.Tensor) -> np.ndarray:
    pytest.importorskip("matplotlib", reason='matplotlib (the extra "vision") is not installed')
    from PIL import Image

    from fastvision.training.pictures import draw_predictions

    draw_predictions(path, dataset, {"all": 5 * nn.functional.one_hot(predicted, 2).float()})
    return np.asarray(Image.open(path).convert("RGB"))


@pytest.mark.parametrize("mistakes", [0, 1, 20])
def test_picture_marks_mistakes(tmp_path, mistakes):
    dataset = dark_and_bright(40)
    predicted = dataset.labels.clone()
    predicted[:mistakes] = 1 - predicted[:mistakes]
    pixels = picture_pixels(tmp_path / "a.png", dataset, predicted)
    assert (pixels == (0xCF, 0x22, 0x2E)).all(-1).any() == (mistakes > 0)


def test_picture_tells_classifiers_apart(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib", reason='matplotlib (the extra "vision") is not installed')
    from fastvision.training import pictures

    figures = []
    monkeypatch.setattr(pictures.Figure, "savefig", lambda figure, *_, **__: figures.append(figure))
    dataset = dark_and_bright(10)  # even indices are dark
    right = nn.functional.one_hot(dataset.labels, 2).float()
    wrong = right.clone()
    wrong[2], wrong[4] = torch.tensor([[0.0, 2.0], [0.0, 3.0]])
    pictures.draw_predictions(tmp_path / "a.png", dataset, {"good": right, "bad": wrong})
    (figure,) = figures
    assert [text.get_text() for text in figure.texts[1:]] == [
        "bad: 80.0% recognised, the 2 most confident of 2 mistakes",
        "10 of the 10 test images, at random",
    ]

    def red(text):
        return text, pictures.WRONG_COLOUR

    def grey(text):
        return text, pictures.RIGHT_COLOUR

    # The lines above each image, from bottom to top.
    captions = [[(line.get_text(), line.get_color()) for line in axes.texts] for axes in figure.axes]
    assert captions[:2] == [[red("true: dark"), red("bright (95%)")], [red("true: dark"), red("bright (88%)")]]
    expected = [
        *[[grey("bad: dark (73%)"), grey("good: dark (73%)")]] * 3,
        *[[grey("bad: bright (73%)"), grey("good: bright (73%)")]] * 5,
        [red("true: dark"), red("bad: bright (88%)"), grey("good: dark (73%)")],
        [red("true: dark"), red("bad: bright (95%)"), grey("good: dark (73%)")],
    ]
    assert sorted(captions[2:]) == sorted(expected)


def test_picture_shows_colours(tmp_path):
    green = torch.tensor([0, 200, 0], dtype=torch.uint8).view(1, 3, 1, 1).expand(4, -1, 8, 8)
    labels = torch.tensor([0, 1, 0, 1])
    pixels = picture_pixels(tmp_path / "a.png", ImageDataset("green", green, labels, "ab"), labels)
    assert (pixels == (0, 200, 0)).all(-1).any()


def test_picture_checks_scores(tmp_path):
    pytest.importorskip("matplotlib", reason='matplotlib (the extra "vision") is not installed')
    from fastvision.training.pictures import draw_predictions

    with pytest.raises(ValueError, match=r"scores: expected shape \(48, 2\), got \(47, 2\) for 'one less'"):
        draw_predictions(
            tmp_path / "a.png", dark_and_bright(), {"all": torch.zeros(48, 2), "one less": torch.zeros(47, 2)}
        )
