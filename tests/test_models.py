"""Models of the application."""

import pytest
import torch
from torch import nn

import fastvision
from fastvision.models import RecognitionCNN


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
    assert fastvision.explain(converted).count("replaced") == 3
    assert list(converted.state_dict()) == list(model.state_dict())
    torch.testing.assert_close(converted(images), model(images), atol=1e-5, rtol=1e-5)
