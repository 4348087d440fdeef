"""LSTM and GRU: whole sequences through all layers, and single steps.

LSTM (Hochreiter and Schmidhuber, "Long Short-Term Memory", 1997, with the forget gate of Gers et al., 2000):

    i = sigmoid(W_i x + b_i + U_i h + d_i)    input gate
    f = sigmoid(W_f x + b_f + U_f h + d_f)    forget gate
    g = tanh(W_g x + b_g + U_g h + d_g)       candidate
    o = sigmoid(W_o x + b_o + U_o h + d_o)    output gate
    c' = f c + i g,  h' = o tanh(c')          h' = P o tanh(c') with a projection (Sak et al., 2014)

GRU (Cho et al., "Learning Phrase Representations using RNN Encoder-Decoder", 2014, in the variant of PyTorch and cuDNN,
whose reset gate acts after the product with U_n):

    r = sigmoid(W_r x + b_r + U_r h + d_r)    reset gate
    z = sigmoid(W_z x + b_z + U_z h + d_z)    update gate
    n = tanh(W_n x + b_n + r (U_n h + d_n))   candidate
    h' = (1 - z) n + z h

The weights hold the gates one below the other in PyTorch's order (torch.nn.LSTM, torch.nn.GRU): w_ih is W_i, W_f, W_g,
W_o or W_r, W_z, W_n; w_hh the U, b_ih the b and b_hh the d likewise.

Two ways to regularise them make a layer with noise, in steps of their own for each element. Zoneout (Krueger et al.,
"Zoneout: Regularizing RNNs by Randomly Preserving Hidden Activations", 2016, arXiv:1606.01305) lets states keep
their values:

    h'' = k h + (1 - k) h'                    k ~ Bernoulli(zoneout) in training, k = zoneout in evaluation
    c'' = k_c c + (1 - k_c) c'                LSTM: likewise, its own mask and rate; h' = o tanh(c') as above

and h'' is both the output and the next step's h. Recurrent dropout without memory loss (Semeniuta et al., "Recurrent
Dropout without Memory Loss", 2016, arXiv:1603.05118) multiplies the candidate:

    c' = f c + i (s g)                        LSTM
    h' = (1 - z) (s n) + z h                  GRU; s ~ Bernoulli(1 - p) / (1 - p) in training, s = 1 in evaluation

`fastvision.nn` has them as options of its modules. torch.ops.fastvision.regularized_rnn is all layers, drawing k and s,
layer by layer, from torch's generator; torch.ops.fastvision.rnn_layer is one layer that takes them as an argument.

Signatures are those of torch.lstm, torch.gru, torch.lstm_cell and torch.gru_cell. float32, bfloat16 and float16 have
kernels (which compute in float32); other dtypes, projections and what else no kernel does run the reference.
"""

from typing import Any

import torch
from torch import Tensor

from fastvision._calls import PreparedCall

_lstm = torch.ops.fastvision.lstm.default
_gru = torch.ops.fastvision.gru.default
_lstm_reference = torch.ops.fastvision.lstm_reference.default
_gru_reference = torch.ops.fastvision.gru_reference.default
_lstm_cell = PreparedCall(torch.ops.fastvision.lstm_cell.default, 7)
_gru_cell = PreparedCall(torch.ops.fastvision.gru_cell.default, 6)

# What the cells compute, in stock PyTorch.
lstm_cell_reference = torch.lstm_cell
gru_cell_reference = torch.gru_cell


def lstm_cell(
    input: Tensor,
    hx: tuple[Tensor, Tensor],
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """One step of an LSTM, as torch.lstm_cell.

    Args:
        input: shape (batch, input_size).
        hx: h and c, shape (batch, hidden_size) each; input's dtype and device, as of all that follow.
        w_ih, w_hh: shapes (4 * hidden_size, input_size) and (4 * hidden_size, hidden_size).
        b_ih, b_hh: shape (4 * hidden_size) each, or both None.

    Returns:
        h' and c', shape (batch, hidden_size) each.

    Raises:
        RuntimeError: hx is not a pair, or shapes, dtypes or devices do not fit each other.
    """
    if len(hx) != 2:
        raise RuntimeError(f"hx: expected two states, h and c, got {len(hx)}")
    return _lstm_cell(input, hx[0], hx[1], w_ih, w_hh, b_ih, b_hh)


def gru_cell(
    input: Tensor,
    hx: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
) -> Tensor:
    """One step of a GRU, as torch.gru_cell.

    Args:
        input: shape (batch, input_size).
        hx: h, shape (batch, hidden_size); input's dtype and device, as of all that follow.
        w_ih, w_hh: shapes (3 * hidden_size, input_size) and (3 * hidden_size, hidden_size).
        b_ih, b_hh: shape (3 * hidden_size) each, or both None.

    Returns:
        h', shape (batch, hidden_size).

    Raises:
        RuntimeError: shapes, dtypes or devices do not fit each other.
    """
    return _gru_cell(input, hx, w_ih, w_hh, b_ih, b_hh)


def lstm(*args: Any, **kwargs: Any) -> tuple[Tensor, Tensor, Tensor]:
    """LSTM layers over sequences, with both signatures of torch.lstm.

        lstm(input, hx, params, has_biases, num_layers, dropout, train, bidirectional, batch_first)
        lstm(data, batch_sizes, hx, params, has_biases, num_layers, dropout, train, bidirectional)

    Args:
        input: shape (steps, batch, input_size), or (batch, steps, input_size) with batch_first; any strides.
        data: packed sequences, shape (rows, input_size), as `data` of torch.nn.utils.rnn.PackedSequence.
        batch_sizes: how many sequences reach each step, never growing; shape (steps), int64, on the CPU.
        hx: h and c of all layers and directions before the first step, shapes (num_layers * directions, batch,
            hidden_size), for h proj_size in place of hidden_size where there is a projection.
        params: for each layer, and in it for each direction, w_ih (4 * hidden_size, input_size; in further layers
            directions * hidden_size), w_hh (4 * hidden_size, hidden_size), with has_biases b_ih and b_hh
            (4 * hidden_size), and perhaps a projection w_hr (proj_size, hidden_size). All of input's dtype and device.
        has_biases: whether params has biases.
        num_layers: number of layers.
        dropout: probability of zeroing an element of what a layer hands to the next one. In training only.
        train: whether this is training.
        bidirectional: whether each layer has a second direction, which reads the sequences from their ends.
        batch_first: see input; for the output too.

    Returns:
        output: h' of the last layer at all steps, shaped as input with directions * hidden_size features.
        hy, cy: the states after the last step of each sequence, shaped as hx.

    Raises:
        RuntimeError: shapes, dtypes or devices do not fit each other.
        TypeError: the arguments are those of neither signature.
    """
    return _lstm(*_operator_arguments(*args, **kwargs))


def gru(*args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
    """GRU layers over sequences, with both signatures of torch.gru.

        gru(input, hx, params, has_biases, num_layers, dropout, train, bidirectional, batch_first)
        gru(data, batch_sizes, hx, params, has_biases, num_layers, dropout, train, bidirectional)

    Arguments, results and errors are those of `lstm`, except that hx is one tensor, h, of shape (num_layers *
    directions, batch, hidden_size), that w_ih, w_hh and the biases have 3 * hidden_size rows, and that there is
    neither a projection nor cy.
    """
    return _gru(*_operator_arguments(*args, **kwargs))


def lstm_reference(*args: Any, **kwargs: Any) -> tuple[Tensor, Tensor, Tensor]:
    """What `lstm` computes, by stock PyTorch calls alone: same arguments, any dtype and device."""
    return _lstm_reference(*_operator_arguments(*args, **kwargs))


def gru_reference(*args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
    """What `gru` computes, by stock PyTorch calls alone: same arguments, any dtype and device."""
    return _gru_reference(*_operator_arguments(*args, **kwargs))


def _padded(input, hx, params, has_biases, num_layers, dropout, train, bidirectional, batch_first):
    return input, hx, params, has_biases, num_layers, dropout, train, bidirectional, batch_first


def _packed(data, batch_sizes, hx, params, has_biases, num_layers, dropout, train, bidirectional):
    return data, hx, params, has_biases, num_layers, dropout, train, bidirectional, False, batch_sizes


def _operator_arguments(*args: Any, **kwargs: Any) -> tuple:
    # The fourth argument is a flag in one signature and the list of parameters in the other.
    packed = "batch_sizes" in kwargs or "data" in kwargs or (len(args) > 3 and not isinstance(args[3], bool))
    return _packed(*args, **kwargs) if packed else _padded(*args, **kwargs)
