"""What a model is trained for: functions that judge a model on a batch."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils.rnn import PackedSequence


@dataclass(frozen=True)
class Judgement:
    """What an objective says of a model on a batch.

    Attributes:
        loss: Mean over the batch's images, without dimensions, differentiable.
        recognised: Number of images recognised, without dimensions; None of a model that does not classify.
    """

    loss: Tensor
    recognised: Tensor | None = None


# Of a model, images (N, C, H, W), or packed sequences, and labels (N,).
Objective = Callable[[nn.Module, Tensor, Tensor], Judgement]


def classification(model: nn.Module, images: Tensor | PackedSequence, labels: Tensor) -> Judgement:
    """Cross-entropy in nats of a model whose output is scores ``(N, classes)``."""
    scores = model(images)
    return Judgement(cross_entropy(scores, labels), (scores.detach().argmax(-1) == labels).sum())


def negative_elbo(model: nn.Module, images: Tensor, labels: Tensor) -> Judgement:
    """Negative evidence lower bound in nats of one of fastvision.models' autoencoders, by one sample of each image."""
    recon, mu, logvar = model(images)
    autoencoder = model.module if isinstance(model, DistributedDataParallel) else model
    return Judgement(autoencoder.loss(recon, images, mu, logvar))
