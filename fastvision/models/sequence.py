"""The recurrent network that classifies sequences, or images that it reads row by row."""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

CELLS = {"GRU": nn.GRU, "LSTM": nn.LSTM}


class SequenceClassifier(nn.Module):
    """GRU or LSTM layers and a dense layer: a sequence in, one score (logit) per class out.

    The dense layer sees the last layer's hidden state after the sequence's last step; of a bidirectional layer, that of
    both directions, each after the last step that it reads. ``softmax(model(x), -1)`` gives probabilities.

    An image is the sequence of its rows from top to bottom: H steps of C*W features, channel after channel. Sequences
    of different lengths come as a PackedSequence, whose padding changes nothing.

    Args:
        num_classes: Number of scores.
        input_size: Features of a step; for images, channels times width.
        hidden_size: Features of the hidden state of each layer and direction.
        num_layers: Recurrent layers, each reading the hidden states of the one before.
        cell: Kind of the recurrent layers, ``"GRU"`` or ``"LSTM"``.
        bidirectional: Whether each layer reads the sequence backwards as well.
        dropout: Probability that training zeroes an element between the recurrent layers and before the dense layer.
        device: Of the parameters, as in ``torch.nn``.
        dtype: Of the parameters, as in ``torch.nn``.

    Shape:
        Input, of the parameters' dtype: images ``(N, C, H, W)``, sequences ``(N, steps, input_size)``, one sequence
        ``(steps, input_size)``, or a PackedSequence of N sequences in any order. Output ``(N, num_classes)``, or
        ``(num_classes,)`` for one sequence, of the parameters' dtype.

    Raises:
        ValueError: Where ``cell`` is neither of the two, and as ``torch.nn.GRU`` and ``torch.nn.LSTM``.
    """

    def __init__(
        self,
        num_classes: int = 10,
        input_size: int = 28,
        hidden_size: int = 128,
        num_layers: int = 1,
        *,
        cell: Literal["GRU", "LSTM"] = "LSTM",
        bidirectional: bool = False,
        dropout: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if cell not in CELLS:
            raise ValueError(f"SequenceClassifier: cell: expected one of {', '.join(CELLS)}, got {cell!r}")
        factory = {"device": device, "dtype": dtype}
        self.rnn = CELLS[cell](
            input_size,
            hidden_size,
            num_layers,
            batch_first=True,
            dropout=dropout if num_layers > 1 else 0.0,  # torch warns of dropout that has no place between layers
            bidirectional=bidirectional,
            **factory,
        )
        directions = 2 if bidirectional else 1
        self.classifier = nn.Sequential(
            nn.Dropout(dropout), nn.Linear(directions * hidden_size, num_classes, **factory)
        )

    def forward(self, input: Tensor | PackedSequence) -> Tensor:
        if isinstance(input, Tensor) and input.dim() == 4:
            input = input.transpose(1, 2).flatten(2)
        _, hidden = self.rnn(input)
        if isinstance(hidden, tuple):  # of LSTM: the hidden state and the cell state
            hidden, _ = hidden
        directions = 2 if self.rnn.bidirectional else 1
        last_layer = hidden[-directions:]  # (directions, N, hidden_size), without N for one sequence
        return self.classifier(last_layer.movedim(0, -2).flatten(-2))
