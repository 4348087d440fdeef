"""Published networks for 224x224 colour images and 1000 classes, of stock layers, with forwards of their own."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CLASSES = 1000


def conv_norm(inputs: int, outputs: int, kernel_size: int = 3, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    """A convolution that keeps the size, but for the stride, and batch normalisation."""
    convolution = nn.Conv2d(inputs, outputs, kernel_size, stride, kernel_size // 2, groups=groups, bias=False)
    return [convolution, nn.BatchNorm2d(outputs)]


def stem() -> list[nn.Module]:
    """How ResNet and DenseNet begin: 64 channels of 56x56 pixels."""
    return [*conv_norm(3, 64, 7, stride=2), nn.ReLU(inplace=True), nn.MaxPool2d(3, stride=2, padding=1)]


def head(features: int) -> list[nn.Module]:
    """The mean over all pixels, and a score per class."""
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(features, CLASSES)]


class BasicBlock(nn.Module):
    """ResNet's: two convolutions, and the input added."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Sequential(*conv_norm(inputs, outputs, stride=stride), nn.ReLU(inplace=True))
        self.second = nn.Sequential(*conv_norm(outputs, outputs))
        self.shortcut = nn.Identity()
        if stride > 1 or inputs != outputs:
            self.shortcut = nn.Sequential(*conv_norm(inputs, outputs, 1, stride))

    def forward(self, images: Tensor) -> Tensor:
        """(batch, inputs, height, width) to (batch, outputs, height / stride, width / stride)."""
        return F.relu(self.second(self.first(images)) + self.shortcut(images))


def resnet18() -> nn.Sequential:
    """He et al., "Deep Residual Learning for Image Recognition", 2015, arXiv:1512.03385."""
    widths = (64, 64, 128, 256, 512)
    blocks = []
    for inputs, outputs in pairwise(widths):
        blocks += [BasicBlock(inputs, outputs, 1 if inputs == outputs else 2), BasicBlock(outputs, outputs, 1)]
    return nn.Sequential(*stem(), *blocks, *head(512))


class Fire(nn.Module):
    """SqueezeNet's: few channels, from which two convolutions make many."""

    def __init__(self, inputs: int, squeezed: int, expanded: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(inputs, squeezed, 1)
        self.expand1x1 = nn.Conv2d(squeezed, expanded, 1)
        self.expand3x3 = nn.Conv2d(squeezed, expanded, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        """(batch, inputs, height, width) to (batch, 2 expanded, height, width)."""
        images = F.relu(self.squeeze(images))
        return torch.cat([F.relu(self.expand1x1(images)), F.relu(self.expand3x3(images))], 1)


def squeezenet() -> nn.Sequential:
    """Version 1.1 of Iandola et al., "SqueezeNet", 2016, arXiv:1602.07360."""
    return nn.Sequential(
        *(nn.Conv2d(3, 64, 3, stride=2), nn.ReLU(inplace=True), nn.MaxPool2d(3, stride=2, ceil_mode=True)),
        *(Fire(64, 16, 64), Fire(128, 16, 64), nn.MaxPool2d(3, stride=2, ceil_mode=True)),
        *(Fire(128, 32, 128), Fire(256, 32, 128), nn.MaxPool2d(3, stride=2, ceil_mode=True)),
        *(Fire(256, 48, 192), Fire(384, 48, 192), Fire(384, 64, 256), Fire(512, 64, 256)),
        *(nn.Dropout(), nn.Conv2d(512, CLASSES, 1), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    )


class InvertedResidual(nn.Module):
    """MobileNetV2's: many channels between few, convolved one by one."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        width = inputs * expansion
        expand = [*conv_norm(inputs, width, 1), nn.ReLU6(inplace=True)] if expansion > 1 else []
        depthwise = [*conv_norm(width, width, stride=stride, groups=width), nn.ReLU6(inplace=True)]
        self.layers = nn.Sequential(*expand, *depthwise, *conv_norm(width, outputs, 1))
        self.is_residual = stride == 1 and inputs == outputs

    def forward(self, images: Tensor) -> Tensor:
        """(batch, inputs, height, width) to (batch, outputs, height / stride, width / stride)."""
        return images + self.layers(images) if self.is_residual else self.layers(images)


def mobilenet_v2() -> nn.Sequential:
    """Sandler et al., "MobileNetV2", 2018, arXiv:1801.04381."""
    # expansion, channels, blocks, stride of the first one
    stages = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
    layers: list[nn.Module] = [*conv_norm(3, 32, stride=2), nn.ReLU6(inplace=True)]
    inputs = 32
    for expansion, outputs, blocks, stride in stages:
        for block in range(blocks):
            layers.append(InvertedResidual(inputs, outputs, 1 if block else stride, expansion))
            inputs = outputs
    return nn.Sequential(*layers, *conv_norm(inputs, 1280, 1), nn.ReLU6(inplace=True), *head(1280))


class DenseLayer(nn.Module):
    """DenseNet's: 32 channels more, norm and ReLU before each convolution."""

    growth = 32

    def __init__(self, inputs: int) -> None:
        super().__init__()
        width = 4 * self.growth
        self.norm1, self.conv1 = nn.BatchNorm2d(inputs), nn.Conv2d(inputs, width, 1, bias=False)
        self.norm2, self.conv2 = nn.BatchNorm2d(width), nn.Conv2d(width, self.growth, 3, padding=1, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        """(batch, inputs, height, width) to (batch, inputs + 32, height, width)."""
        new = self.conv1(F.relu(self.norm1(images)))
        new = self.conv2(F.relu(self.norm2(new)))
        return torch.cat([images, new], 1)


def densenet121() -> nn.Sequential:
    """Huang et al., "Densely Connected Convolutional Networks", 2016, arXiv:1608.06993."""
    layers, channels = stem(), 64
    for number, depth in enumerate((6, 12, 24, 16)):
        if number:
            half = nn.Conv2d(channels, channels // 2, 1, bias=False)
            layers += [nn.BatchNorm2d(channels), nn.ReLU(inplace=True), half, nn.AvgPool2d(2)]
            channels //= 2
        for _ in range(depth):
            layers.append(DenseLayer(channels))
            channels += DenseLayer.growth
    return nn.Sequential(*layers, nn.BatchNorm2d(channels), nn.ReLU(inplace=True), *head(channels))
