"""The operators as functions."""

from fastvision.ops import vmap  # noqa: F401  (registers rules)
from fastvision.ops.augment import (
    affine_augment,
    affine_matrices,
    affine_resample,
    affine_resample_reference,
)
from fastvision.ops.conv import (
    conv2d_batch_norm_pool2d,
    conv2d_batch_norm_pool2d_reference,
    conv2d_pool2d,
    conv2d_pool2d_reference,
)
from fastvision.ops.linear import linear, linear_quantized, linear_quantized_reference, linear_reference
from fastvision.ops.pool import avg_pool2d, avg_pool2d_reference, max_pool2d, max_pool2d_reference
from fastvision.ops.rnn import (
    gru,
    gru_cell,
    gru_cell_reference,
    gru_reference,
    lstm,
    lstm_cell,
    lstm_cell_reference,
    lstm_reference,
)
from fastvision.ops.vae import (
    elbo_loss,
    elbo_loss_reference,
    reparameterize,
    reparameterize_kl,
    reparameterize_kl_reference,
    reparameterize_reference,
)

__all__ = [
    "affine_augment",
    "affine_matrices",
    "affine_resample",
    "affine_resample_reference",
    "avg_pool2d",
    "avg_pool2d_reference",
    "conv2d_batch_norm_pool2d",
    "conv2d_batch_norm_pool2d_reference",
    "conv2d_pool2d",
    "conv2d_pool2d_reference",
    "elbo_loss",
    "elbo_loss_reference",
    "gru",
    "gru_cell",
    "gru_cell_reference",
    "gru_reference",
    "linear",
    "linear_quantized",
    "linear_quantized_reference",
    "linear_reference",
    "lstm",
    "lstm_cell",
    "lstm_cell_reference",
    "lstm_reference",
    "max_pool2d",
    "max_pool2d_reference",
    "reparameterize",
    "reparameterize_kl",
    "reparameterize_kl_reference",
    "reparameterize_reference",
]
