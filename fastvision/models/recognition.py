"""The convolutional network that recognises single images."""

import torch
from torch import Tensor, nn

CHANNELS = (32, 64, 128)
HIDDEN_FEATURES = 128


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
        dropout: float = 0.5,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        height, width = (input_size, input_size) if isinstance(input_size, int) else input_size
        features_per_channel = _pooled_size(height, padding) * _pooled_size(width, padding)
        factory = {"device": device, "dtype": dtype}

        blocks: list[nn.Module] = []
        for block_in, block_out in zip((in_channels, *CHANNELS), CHANNELS, strict=False):
            blocks += [nn.Conv2d(block_in, block_out, 3, padding=padding, **factory), nn.ReLU(), nn.MaxPool2d(2)]
        self.features = nn.Sequential(*blocks)
        self.classifier = nn.Sequential(
            nn.Flatten(-3),  # counted from the end, so that one unbatched image is flattened as well
            nn.Linear(CHANNELS[-1] * features_per_channel, HIDDEN_FEATURES, **factory),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(HIDDEN_FEATURES, num_classes, **factory),
        )

    def forward(self, input: Tensor) -> Tensor:
        return self.classifier(self.features(input))


def _pooled_size(size: int, padding: int) -> int:
    """Pixels that are left of `size` along one side after the convolution blocks."""
    left = size
    for _ in CHANNELS:
        left = (left + 2 * padding - 2) // 2
    if left < 1:
        raise ValueError(
            f"RecognitionCNN: input_size: expected images that {len(CHANNELS)} blocks of 3x3 convolution and 2x2 pool "
            f"leave at least one pixel of, got {size} with padding={padding}; smaller images need padding=1"
        )
    return left
