"""The optimisers that training can use, by name."""

from functools import partial
from typing import Literal

import torch
from torch import nn

OptimizerName = Literal["sgd", "momentum", "adam", "adamw", "rmsprop"]
# Fused: one pass over each parameter. torch's other implementation of Adam takes five times as long, which was a fifth
# of the autoencoder's epoch. RMSprop has none.
OPTIMIZERS = {
    "sgd": partial(torch.optim.SGD, fused=True),
    "momentum": partial(torch.optim.SGD, momentum=0.9, fused=True),
    "adam": partial(torch.optim.Adam, fused=True),
    "adamw": partial(torch.optim.AdamW, fused=True),
    "rmsprop": torch.optim.RMSprop,
}


def build_optimizer(
    name: OptimizerName, model: nn.Module, learning_rate: float, l2: float = 0.0
) -> torch.optim.Optimizer:
    """An optimiser of the model's parameters.

    Args:
        name: ``"momentum"`` is SGD with a momentum of 0.9; the others are torch's with their defaults.
        model: What it trains.
        learning_rate: Of all parameters.
        l2: torch's weight_decay, of the weights but not the biases: their gradient gets ``l2 * weight`` more, or with
            ``"adamw"`` each step takes ``learning_rate * l2`` of the weight off.

    Raises:
        ValueError: Where `name` is none of these.
    """
    if name not in OPTIMIZERS:
        raise ValueError(f"build_optimizer: name: expected one of {', '.join(OPTIMIZERS)}, got {name!r}")
    weights = matrices(model)
    of_weights = {id(weight) for weight in weights}
    others = [parameter for parameter in model.parameters() if id(parameter) not in of_weights]
    groups = [{"params": weights, "weight_decay": l2}, {"params": others, "weight_decay": 0.0}]
    return OPTIMIZERS[name]([group for group in groups if group["params"]], lr=learning_rate)


def matrices(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that penalties apply to: those with two dimensions or more, which biases have not."""
    return [parameter for parameter in model.parameters() if parameter.dim() > 1]
