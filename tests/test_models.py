"""Models of the application."""

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_sequence

import fastvision
from fastvision.models import PRESETS, RecognitionCNN, SequenceClassifier


def small_cnn(**options) -> RecognitionCNN:
    return RecognitionCNN(in_channels=1, input_size=28, padding=1, **options)


@pytest.mark.parametrize(
    ("options", "image_shape", "features"),
    [
        ({}, (3, 224, 224), 128 * 26 * 26),
        ({"in_channels": 1, "input_size": 28, "padding": 1, "num_classes": 47}, (1, 28, 28), 128 * 3 * 3),
        ({"input_size": (40, 30), "num_classes": 2}, (3, 40, 30), 128 * 3 * 2),
        ({"in_channels": 1, "input_size": 8, "padding": 1}, (1, 8, 8), 128),
    ],
)
def test_recognition_cnn_shapes(options, image_shape, features):
    model = RecognitionCNN(**options).eval()
    classes = options.get("num_classes", 10)
    assert model.classifier[1].in_features == features
    assert model(torch.rand(2, *image_shape)).shape == (2, classes)
    assert model(torch.rand(0, *image_shape)).shape == (0, classes)
    assert model(torch.rand(image_shape)).shape == (classes,)


def test_recognition_cnn_presets():
    counts = {name: sum(p.numel() for p in small_cnn(**preset).parameters()) for name, preset in PRESETS.items()}
    assert counts["medium"] == sum(parameter.numel() for parameter in small_cnn().parameters())
    assert counts["small"] < counts["medium"] / 3 < counts["large"] / 9
    convolutions = [module for module in small_cnn(width=2, depth=2).modules() if isinstance(module, nn.Conv2d)]
    assert [conv.out_channels for conv in convolutions] == [64, 64, 128, 128, 256, 256]
    assert small_cnn(width=0.5)(torch.rand(1, 1, 28, 28)).shape == (1, 10)
    assert RecognitionCNN(input_size=64, depth=2)(torch.rand(1, 3, 64, 64)).shape == (1, 10)
    for options, message in (({"width": 0.001}, "width: expected"), ({"depth": 0}, "depth: expected at least one")):
        with pytest.raises(ValueError, match=message):
            small_cnn(**options)


def test_recognition_cnn_layers():
    convolutions = [module for module in small_cnn().modules() if isinstance(module, nn.Conv2d)]
    assert [(conv.out_channels, conv.kernel_size) for conv in convolutions] == [
        (32, (3, 3)),
        (64, (3, 3)),
        (128, (3, 3)),
    ]
    assert small_cnn().classifier[3].p == 0.5
    assert small_cnn(dropout=0.25).classifier[3].p == 0.25


def test_recognition_cnn_dtype_and_device():
    model = RecognitionCNN(input_size=28, padding=1, dtype=torch.float64, device="meta")
    assert {(parameter.dtype, parameter.device.type) for parameter in model.parameters()} == {(torch.float64, "meta")}


@pytest.mark.parametrize(("size", "padding"), [(7, 1), (21, 0), ((64, 7), 1), ((0, 64), 1)])
def test_recognition_cnn_refuses_images_that_vanish(size, padding):
    smallest = min(size) if isinstance(size, tuple) else size
    with pytest.raises(ValueError, match=rf"RecognitionCNN: input_size: .* got {smallest} with padding={padding}"):
        RecognitionCNN(input_size=size, padding=padding)


def test_recognition_cnn_converts():
    model = small_cnn().eval()
    converted = fastvision.convert(model)
    images = torch.rand(3, 1, 28, 28)
    assert fastvision.explain(converted).count("replaced") == 6
    assert list(converted.state_dict()) == list(model.state_dict())
    torch.testing.assert_close(converted(images), model(images), atol=1e-5, rtol=1e-5)


OPTIONS = ({}, {"num_layers": 2, "bidirectional": True, "dropout": 0.5})
sequence_options = pytest.mark.parametrize(
    "options", [{"cell": cell} | options for cell in ("GRU", "LSTM") for options in OPTIONS], ids=str
)


def sequence_classifier(**options) -> SequenceClassifier:
    """Of 6 features a step, into 3 classes."""
    torch.manual_seed(0)
    return SequenceClassifier(3, 6, 16, **options).eval()


@sequence_options
def test_sequence_classifier_shapes(options):
    model = sequence_classifier(**options)
    assert model(torch.rand(4, 5, 6)).shape == (4, 3)
    assert model(torch.rand(5, 6)).shape == (3,)
    assert model(torch.rand(0, 5, 6)).shape == (0, 3)
    assert model(torch.rand(4, 2, 5, 3)).shape == (4, 3)
    assert model(torch.rand(0, 2, 5, 3)).shape == (0, 3)


def test_sequence_classifier_reads_images_row_by_row():
    model = sequence_classifier()
    image = torch.rand(1, 2, 5, 3)
    rows = torch.stack([torch.cat([channel[row] for channel in image[0]]) for row in range(5)])
    torch.testing.assert_close(model(image)[0], model(rows))


@sequence_options
def test_sequence_classifier_sees_the_last_hidden_state(options):
    model = sequence_classifier(**options)
    sequence = torch.rand(5, 6)
    output, _ = model.rnn(sequence)
    last = output[-1]
    if model.rnn.bidirectional:
        last = torch.cat([output[-1, :16], output[0, 16:]])  # the way back ends at the first step
    torch.testing.assert_close(model(sequence), model.classifier[-1](last))


@sequence_options
def test_sequence_classifier_takes_packed_sequences(options):
    model = sequence_classifier(**options)
    sequences = [torch.rand(length, 6) for length in (2, 5, 3)]
    packed = pack_sequence(sequences, enforce_sorted=False)
    torch.testing.assert_close(model(packed), torch.stack([model(sequence) for sequence in sequences]))


def test_sequence_classifier_layers():
    model = sequence_classifier(cell="GRU", num_layers=3, bidirectional=True, dropout=0.25)
    assert type(model.rnn) is nn.GRU
    assert (model.rnn.num_layers, model.rnn.bidirectional, model.rnn.dropout) == (3, True, 0.25)
    assert (model.classifier[0].p, model.classifier[1].in_features) == (0.25, 32)
    assert type(sequence_classifier().rnn) is nn.LSTM


def test_sequence_classifier_dropout_of_one_layer_does_not_warn(recwarn):
    assert sequence_classifier(dropout=0.25).classifier[0].p == 0.25
    assert not recwarn.list


def test_sequence_classifier_dtype_and_device():
    model = SequenceClassifier(dtype=torch.float64, device="meta")
    assert {(parameter.dtype, parameter.device.type) for parameter in model.parameters()} == {(torch.float64, "meta")}


def test_sequence_classifier_refuses_other_cells():
    with pytest.raises(ValueError, match="SequenceClassifier: cell: expected one of GRU, LSTM, got 'lstm'"):
        SequenceClassifier(cell="lstm")


@sequence_options
def test_sequence_classifier_converts(options):
    model = sequence_classifier(**options)
    converted = fastvision.convert(model)
    (row,) = [row for row in fastvision.explain(converted).rows if row.name == "rnn"]
    assert (row.status, row.reason) == ("replaced", f"calls fastvision.ops.{options['cell'].lower()}")
    assert list(converted.state_dict()) == list(model.state_dict())
    images = torch.rand(3, 2, 5, 3)
    torch.testing.assert_close(converted(images), model(images), atol=1e-5, rtol=1e-5)
