"""Which pixels a classifier's prediction depends on."""

from typing import Literal

import torch
from torch import Tensor, nn

from fastvision.training.loop import eval_mode

Attribution = Literal["saliency", "occlusion"]
OCCLUSION_PATCHES = 7  # that cover a side; half a patch lies between two positions


def attribute(model: nn.Module, images: Tensor, classes: Tensor, method: Attribution = "saliency") -> Tensor:
    """How much each pixel matters to each image's score of a class, with the model in eval mode.

    ``"saliency"`` is the magnitude of the score's gradient, the largest of the channels (Simonyan et al., "Deep Inside
    Convolutional Networks", 2013, arXiv:1312.6034). ``"occlusion"`` is by how much the class's probability falls where
    a patch of an image is covered with the image's mean; a pixel has the mean over the patches that cover it (after
    Zeiler and Fergus, "Visualizing and Understanding Convolutional Networks", 2013, arXiv:1311.2901).

    Args:
        model: Takes images and gives scores ``(N, classes)``.
        images: ``(N, C, H, W)``, floating-point.
        classes: ``(N,)``, int64, of each image.
        method: ``"saliency"`` or ``"occlusion"``.

    Returns:
        ``(N, H, W)``, of the images' dtype: not negative for saliency; for occlusion also negative, where covering a
        pixel makes the class more probable.

    Raises:
        ValueError: Where `method` is neither, or there is not one class per image.
    """
    if classes.shape != images.shape[:1]:
        raise ValueError(f"attribute: classes: expected {len(images)} of them, got shape {tuple(classes.shape)}")
    methods = {"saliency": _saliency, "occlusion": _occlusion}
    if method not in methods:
        raise ValueError(f"attribute: method: expected one of {', '.join(methods)}, got {method!r}")
    with eval_mode(model):
        return methods[method](model, images, classes)


def _saliency(model: nn.Module, images: Tensor, classes: Tensor) -> Tensor:
    images = images.detach().clone().requires_grad_()
    with torch.enable_grad():
        chosen = model(images).gather(1, classes[:, None])
        (gradient,) = torch.autograd.grad(chosen.sum(), images)
    return gradient.abs().amax(1)


@torch.no_grad()
def _occlusion(model: nn.Module, images: Tensor, classes: Tensor) -> Tensor:
    def probability(batch: Tensor) -> Tensor:
        return model(batch).softmax(-1).gather(1, classes[:, None]).flatten()

    height, width = images.shape[2:]
    mean = images.mean((2, 3), keepdim=True)
    expected = probability(images)
    falls, covers = images.new_zeros(len(images), height, width), images.new_zeros(height, width)
    for rows in _windows(height):
        for columns in _windows(width):
            covered = images.clone()
            covered[:, :, rows, columns] = mean
            falls[:, rows, columns] += (expected - probability(covered))[:, None, None]
            covers[rows, columns] += 1
    return falls / covers


def _windows(size: int) -> list[slice]:
    """Patches along a side that cover all of it, each beginning half a patch after the one before."""
    patch = max(1, round(size / OCCLUSION_PATCHES))
    step = max(1, patch // 2)
    return [slice(start, start + patch) for start in range(0, max(1, size - patch + step), step)]
