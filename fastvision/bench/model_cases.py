"""Whole networks, of stock layers, that the models family is measured on."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from fastvision.bench.architectures import densenet121, mobilenet_v2, resnet18, squeezenet
from fastvision.bench.conv_cases import Mode
from fastvision.models import RecognitionCNN


@dataclass(frozen=True)
class ModelCase:
    """A network and a batch of square images, size in pixels.

    Attributes:
        title: of the network.
        build: makes its layers, from images to one score (logit) per class.
        classes: how many scores.
        quick: whether it is one of the few of `bench all --quick`.
    """

    title: str
    build: Callable[[], nn.Sequential]
    batch: int
    in_channels: int
    size: int
    classes: int = 10
    modes: tuple[Mode, ...] = ("infer",)
    quick: bool = False

    @property
    def name(self) -> str:
        """For example 'b32 recognition CNN @224'."""
        return f"b{self.batch} {self.title} @{self.size}"

    @property
    def input_shape(self) -> tuple[int, int, int, int]:
        """(batch, channels, height, width)."""
        return (self.batch, self.in_channels, self.size, self.size)

    def flops(self, mode: Mode) -> int:
        """Floating-point operations of convolutions and dense layers, two per multiply-add.

        Training counts as many again for the gradient of the weights, and for that of the input of every layer but the
        first: a dense count, as of the conv family.
        """
        with torch.device("meta"):
            network, images = self.build(), torch.empty(self.input_shape)
        per_layer = []

        def count(layer: nn.Conv2d | nn.Linear, arguments: tuple, output: torch.Tensor) -> None:
            per_layer.append(2 * output.numel() * layer.weight[0].numel())

        for layer in network.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                layer.register_forward_hook(count)
        network(images)
        return sum(per_layer) if mode == "infer" else 3 * sum(per_layer) - per_layer[0]


def recognition(in_channels: int, size: int, padding: int) -> nn.Sequential:
    """The application's RecognitionCNN for 10 classes, as one Sequential."""
    model = RecognitionCNN(10, in_channels, size, padding=padding)
    return nn.Sequential(model.features, model.classifier)


def vgg11() -> nn.Sequential:
    """VGG-11 for 224x224 colour images and 1000 classes (Simonyan and Zisserman, 2014, configuration A)."""
    layers: list[nn.Module] = []
    in_channels = 3
    for width, pooled in ((64, True), (128, True), (256, False), (256, True), *[(512, False), (512, True)] * 2):
        layers += [nn.Conv2d(in_channels, width, 3, padding=1), nn.ReLU()]
        layers += [nn.MaxPool2d(2)] if pooled else []
        in_channels = width
    layers.append(nn.Flatten())
    for in_features in (512 * 7 * 7, 4096):
        layers += [nn.Linear(in_features, 4096), nn.ReLU(), nn.Dropout()]
    return nn.Sequential(*layers, nn.Linear(4096, 1000))


def _recognition_224() -> nn.Sequential:
    return recognition(3, 224, padding=0)


def _recognition_28() -> nn.Sequential:
    return recognition(1, 28, padding=1)


MODEL_CASES = (
    ModelCase("recognition CNN", _recognition_28, 1, 1, 28, quick=True),
    ModelCase("recognition CNN", _recognition_224, 1, 3, 224, quick=True),
    ModelCase("recognition CNN", _recognition_224, 32, 3, 224, modes=("infer", "train")),
    ModelCase("VGG-11", vgg11, 1, 3, 224, classes=1000),
    *(
        ModelCase(title, build, 1, 3, 224, classes=1000, modes=modes)
        for title, build, modes in (
            ("ResNet-18", resnet18, ("infer", "train")),
            ("SqueezeNet 1.1", squeezenet, ("infer", "train")),
            ("MobileNetV2", mobilenet_v2, ("infer", "train")),
            # Gradients through its many norms of one image differ by 1 % whoever computes them.
            ("DenseNet-121", densenet121, ("infer",)),
        )
    ),
)
