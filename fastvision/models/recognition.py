"""The convolutional network that recognises single images."""

import math
from typing import Any

import torch
from torch import Tensor, nn

CHANNELS = (32, 64, 128)
HIDDEN_FEATURES = 128
# RecognitionCNN's width and depth.
PRESETS: dict[str, dict[str, Any]] = {
    "small": {"width": 0.5, "depth": 1},
    "medium": {"width": 1.0, "depth": 1},
    "large": {"width": 2.0, "depth": 2},
}


class RecognitionCNN(nn.Module):
    """Three convolution blocks and two dense layers: an image in, one score (logit) per class out.

    Each block is a 3x3 convolution, ReLU and a 2x2 max-pool, with 32, 64 and 128 output channels. A dense layer of
    128 with ReLU, dropout and the dense layer of the classes follow. ``softmax(model(x), -1)`` gives probabilities.

    With ``padding=0`` a 224x224 image shrinks to 111, 54 and 26 pixels a side. Small images need ``padding=1``, which
    keeps the size across each convolution: 28x28 becomes 14, 7 and 3.

    Args:
        num_classes: Number of scores.
        in_channels: Channels of the images: 3 for colour, 1 for grey.
        input_size: Height and width of the images in pixels; one number for square images.
        padding: Zeros added around each convolution's input, in pixels.
        width: What the channels and the features of the dense layer between are multiplied by.
        depth: Convolutions of a block, each with its ReLU; the pool follows the last.
        dropout: Probability that training zeroes an element between the dense layers.
        device: Of the parameters, as in ``torch.nn``.
        dtype: Of the parameters, as in ``torch.nn``.

    Shape:
        Input ``(N, in_channels, H, W)`` or ``(in_channels, H, W)``; output ``(N, num_classes)`` or ``(num_classes,)``,
        of the parameters' dtype.

    Raises:
        ValueError: Where the blocks would shrink images of ``input_size`` to nothing.
    """

    def __init__(
        self,
        num_classes: int = 10,
        in_channels: int = 3,
        input_size: int | tuple[int, int] = 224,
        *,
        padding: int = 0,
        width: float = 1.0,
        depth: int = 1,
        dropout: float = 0.5,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        input_size = (input_size, input_size) if isinstance(input_size, int) else input_size
        if depth < 1:
            raise ValueError(f"RecognitionCNN: depth: expected at least one convolution in a block, got {depth}")
        features_per_channel = math.prod(_pooled_size(size, padding, depth) for size in input_size)
        factory = {"device": device, "dtype": dtype}
        *channels, hidden_features = (_scaled(features, width) for features in (*CHANNELS, HIDDEN_FEATURES))

        blocks: list[nn.Module] = []
        for block_in, block_out in zip((in_channels, *channels), channels, strict=False):
            for conv_in in (block_in, *[block_out] * (depth - 1)):
                blocks += [nn.Conv2d(conv_in, block_out, 3, padding=padding, **factory), nn.ReLU()]
            blocks.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*blocks)
        self.classifier = nn.Sequential(
            nn.Flatten(-3),  # counted from the end, so that one unbatched image is flattened as well
            nn.Linear(channels[-1] * features_per_channel, hidden_features, **factory),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden_features, num_classes, **factory),
        )

    def forward(self, input: Tensor) -> Tensor:
        return self.classifier(self.features(input))


def _scaled(features: int, width: float) -> int:
    scaled = round(features * width)
    if scaled < 1:
        raise ValueError(f"RecognitionCNN: width: expected a number that leaves {features} channels one, got {width}")
    return scaled


def _pooled_size(size: int, padding: int, depth: int) -> int:
    """Pixels that are left of `size` along one side after the convolution blocks."""
    left = size
    for _ in CHANNELS:
        left = (left + depth * (2 * padding - 2)) // 2
    if left < 1:
        raise ValueError(
            f"RecognitionCNN: input_size: expected images that {len(CHANNELS)} blocks of 3x3 convolution and 2x2 pool "
            f"leave at least one pixel of, got {size} with padding={padding}; smaller images need padding=1"
        )
    return left
