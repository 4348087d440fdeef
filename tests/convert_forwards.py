"""Small networks with forwards of their own, in the styles of known ones and of hand-written code."""

import torch
import torch.nn.functional as F
from torch import nn


class BasicBlock(nn.Module):
    """ResNet's: a ReLU used twice, a sum in place."""

    def __init__(self, inputs, outputs, stride=1):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))

    def forward(self, x):
        identity = x
        out = self.conv1(x)
        out = self.bn1(out)
        out = self.relu(out)
        out = self.conv2(out)
        out = self.bn2(out)
        if self.downsample is not None:
            identity = self.downsample(x)
        out += identity
        out = self.relu(out)
        return out


class ResNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.layer1 = nn.Sequential(BasicBlock(8, 8), BasicBlock(8, 8))
        self.layer2 = nn.Sequential(BasicBlock(8, 16, 2))
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(16, 5)

    def _forward_impl(self, x: torch.Tensor) -> torch.Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer2(self.layer1(x))
        x = torch.flatten(self.avgpool(x), 1)
        return self.fc(x)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self._forward_impl(x)


class VGG(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(True), nn.MaxPool2d(2),
            nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(True), nn.MaxPool2d(2),
        )  # fmt: skip
        self.classifier = nn.Sequential(nn.Linear(8 * 64, 5))

    def forward(self, x):
        return self.classifier(torch.flatten(self.features(x), 1))


class Fire(nn.Module):
    """SqueezeNet's: one value with two users, two convolutions concatenated."""

    def __init__(self):
        super().__init__()
        self.squeeze = nn.Conv2d(3, 4, 1)
        self.squeeze_activation = nn.ReLU(inplace=True)
        self.expand1x1 = nn.Conv2d(4, 8, 1)
        self.expand1x1_activation = nn.ReLU(inplace=True)
        self.expand3x3 = nn.Conv2d(4, 8, 3, padding=1)
        self.expand3x3_activation = nn.ReLU(inplace=True)

    def forward(self, x):
        x = self.squeeze_activation(self.squeeze(x))
        return torch.cat(
            [self.expand1x1_activation(self.expand1x1(x)), self.expand3x3_activation(self.expand3x3(x))], 1
        )


class InvertedResidual(nn.Module):
    """MobileNetV2's, with ReLU6."""

    def __init__(self):
        super().__init__()
        self.use_res_connect = True
        self.conv = nn.Sequential(nn.Conv2d(3, 16, 1), nn.BatchNorm2d(16), nn.ReLU6(inplace=True), nn.Conv2d(16, 3, 1))
        self.expand = nn.Conv2d(3, 16, 1)
        self.act = nn.ReLU6()

    def forward(self, x):
        if self.use_res_connect:
            return self.act(self.expand(x + self.conv(x)))
        else:
            return self.conv(x)


class DenseLayer(nn.Module):
    """DenseNet's: a list of earlier features, norm and ReLU before each convolution."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.norms = nn.ModuleList([nn.BatchNorm2d(8), nn.BatchNorm2d(12)])
        self.convs = nn.ModuleList([nn.Conv2d(8, 4, 3, padding=1), nn.Conv2d(12, 4, 3, padding=1)])
        self.last = nn.ModuleDict({"norm": nn.BatchNorm2d(4), "relu": nn.ReLU()})

    def forward(self, x):
        features = [self.stem(x)]
        for norm, conv in zip(self.norms, self.convs):  # noqa: B905
            new = conv(F.relu(norm(torch.cat(features, 1))))
            features.append(new)
        return self.last["relu"](self.last["norm"](new)), features[0]


class UNet(nn.Module):
    """A skip: the value before the pool has two users."""

    def __init__(self):
        super().__init__()
        self.down = nn.Conv2d(3, 8, 3, padding=1)
        self.bottom = nn.Conv2d(8, 8, 3, padding=1)
        self.up = nn.ConvTranspose2d(8, 8, 2, 2)
        self.merge = nn.Conv2d(16, 4, 3, padding=1)
        self.pool = nn.MaxPool2d(2)

    def forward(self, x):
        skip = F.relu(self.down(x))
        y = F.relu(self.bottom(self.pool(skip)))
        y = self.up(y)
        return torch.relu(self.merge(torch.cat((y, skip), dim=1)))


class Inception(nn.Module):
    """GoogLeNet's branches, each a module that applies F.relu in place to conv and norm."""

    class BasicConv2d(nn.Module):
        def __init__(self, inputs, outputs, **options):
            super().__init__()
            self.conv = nn.Conv2d(inputs, outputs, bias=False, **options)
            self.bn = nn.BatchNorm2d(outputs, eps=0.001)

        def forward(self, x):
            x = self.conv(x)
            x = self.bn(x)
            return F.relu(x, inplace=True)

    def __init__(self):
        super().__init__()
        self.branch1 = self.BasicConv2d(3, 4, kernel_size=1)
        self.branch3 = nn.Sequential(
            self.BasicConv2d(3, 4, kernel_size=1), self.BasicConv2d(4, 4, kernel_size=3, padding=1)
        )

    def forward(self, x):
        return torch.cat([self.branch1(x), self.branch3(x), F.max_pool2d(x, 3, 1, 1)], 1)


class HandWritten(nn.Module):
    """Functions and methods, dropout that follows the mode, an optional argument."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 1)
        self.conv2 = nn.Conv2d(8, 16, 3)
        self.conv3 = nn.Conv2d(16, 16, 3, stride=2, padding=1)
        self.fc = nn.Linear(16, 4)

    def forward(self, x, scale=None, bias: bool = True):
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.avg_pool2d(F.dropout2d(self.conv2(x).relu(), 0.3, training=self.training), kernel_size=2)
        x = self.conv3(x).relu_()
        if scale is not None:
            x = x * scale
        if bias:
            x = x + 1
        x = x.mean((2, 3))
        return {"logits": self.fc(x), "size": x.shape[-1]}


class Reused(nn.Module):
    """One convolution applied twice, once with a function of the module's own after it."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)
        self.activation = F.relu

    def forward(self, x):
        return self.activation(self.conv(self.activation(self.conv(x))))


class TwoUsers(nn.Module):
    """Convolutions whose own output is wanted."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 1)
        self.conv2 = nn.Conv2d(4, 4, 1)

    def forward(self, x):
        y = self.conv1(x)
        z = F.relu(y, inplace=True)
        y = self.conv2(y)
        return y, F.relu(y) + 1, z


class InputInPlace(nn.Module):
    """Writes over its argument between a convolution and its ReLU, and in an augmented assignment."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x):
        y = self.conv(x)
        x.mul_(2)
        view = x[:, :1]
        view += 1
        return F.relu(y) + x


# Each with how many calls of the operator a forward makes in eval and in training mode, where BatchNorm2d ends a chain:
# convolutions that are faster alone.
MODELS = {
    "ResNet": (ResNet, 8, 6),
    "VGG": (VGG, 2, 2),
    "Fire": (Fire, 3, 3),
    "InvertedResidual": (InvertedResidual, 2, 1),
    "DenseLayer": (DenseLayer, 3, 3),
    "UNet": (UNet, 3, 3),
    "Inception": (Inception, 3, 1),
    "HandWritten": (HandWritten, 3, 3),
    "Reused": (Reused, 2, 2),
}
