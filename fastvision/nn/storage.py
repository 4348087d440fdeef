"""Weights of modules in fewer bits, for inference.

A few rows wait for nothing but the weights: where these do not fit into the core's own cache, half or a quarter of the
bytes are read in less time. The kernels decode the weights as they read them; inputs, states, biases and sums keep
their dtype.

    bfloat16   weight ~ bfloat16(weight)
    int8       weight ~ scale * int8; one float32 scale per row, max |row| / 127, rounding to nearest
"""

from collections.abc import Sequence
from operator import is_
from typing import Any, Self

import torch
from torch import Tensor, nn

_STORED = (torch.bfloat16, torch.int8)
_COMPUTED = (torch.float32, torch.bfloat16, torch.float16)  # what the kernels compute layers of


def quantize(weight: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
    """A matrix as it is stored, and the scales of its rows.

    Args:
        weight: shape (rows, columns), floating point.
        dtype: torch.bfloat16 or torch.int8.

    Returns:
        stored: shape (rows, columns), of that dtype.
        scale: shape (rows), float32; None with bfloat16. That of a row with a NaN or an infinity is one, too, and the
            row stands for NaN throughout.
    """
    if dtype == torch.bfloat16:
        return weight.to(dtype), None
    rows = weight.float()
    scale = rows.abs().amax(1) / 127
    # Rows of zeros, divided by 0, and those without a finite scale become zeros.
    stored = (rows / scale.unsqueeze(1)).nan_to_num(0.0).round().clamp(-127, 127)
    return stored.to(dtype), scale


def check_weight_dtype(dtype: torch.dtype | None) -> None:
    """Raises ValueError unless weights can be stored in this dtype, or it is None."""
    if dtype is not None and dtype not in _STORED:
        raise ValueError(f"weight_dtype: expected torch.bfloat16, torch.int8 or None, got {dtype}")


def dequantize(stored: Tensor, scale: Tensor | None) -> Tensor:
    """The matrix that the kernels compute with, in float32."""
    return stored.float() if scale is None else stored * scale.unsqueeze(1)


class Copies:
    """Matrices in fewer bits, and how to tell whether they are still those of a module."""

    def __init__(self, sources: Sequence[Tensor], dtype: torch.dtype) -> None:
        with torch.no_grad():
            pairs = [quantize(source, dtype) for source in sources]
        self._sources = sources
        self._states = list(map(_state, sources))
        self.source_dtype = sources[0].dtype
        self.weights = [stored for stored, _ in pairs]
        self.scales = [scale for _, scale in pairs if scale is not None]

    def are_of(self, matrices: Sequence[Tensor]) -> bool:
        """Whether they are copies of these as these are now, as far as can be seen."""
        return all(map(is_, self._sources, matrices)) and list(map(_state, matrices)) == self._states

    def error(self) -> float:
        """Root mean square of the errors of all elements, relative to that of the elements."""
        squared_error = squared = 0.0
        scales = self.scales or [None] * len(self.weights)
        for source, stored, scale in zip(self._sources, self.weights, scales, strict=True):
            exact = source.detach().double()
            squared_error += (dequantize(stored, scale) - exact).square().sum().item()
            squared += exact.square().sum().item()
        return (squared_error / squared) ** 0.5 if squared else 0.0


def _state(matrix: Tensor) -> tuple[int, int]:
    """What changes when the values do, unless they change by way of `.data`, or by a fused optimizer."""
    return matrix._version, matrix.data_ptr()


class _Storage:
    """The dtype that a module stores its weights in, and their copies. Copied and pickled, it has the dtype alone."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self._copies: Copies | None = None

    def __reduce__(self) -> tuple:
        return _Storage, (self.dtype,)

    def copies(self, matrices: list[Tensor]) -> Copies | None:
        """Those of the matrices as they are now; None where changes would not be seen or nothing would be gained."""
        copies = self._copies
        if copies is None or not copies.are_of(matrices):
            self._copies = copies = Copies(matrices, self.dtype) if all(map(self._stores, matrices)) else None
        return copies

    def drop(self) -> None:
        """The copies, since the matrices may have changed without a trace."""
        self._copies = None

    def _stores(self, matrix: Tensor) -> bool:
        is_watched = type(matrix) is nn.Parameter and not matrix.is_inference()
        is_computed = matrix.dtype in _COMPUTED and matrix.is_cpu and matrix.numel() > 0
        return is_watched and is_computed and matrix.itemsize > self.dtype.itemsize


class StoredWeights:
    """What layers and cells have besides stock's attributes: weight_dtype. Put before stock's class in the bases."""

    _storage: _Storage | None = None

    @property
    def weight_dtype(self) -> torch.dtype | None:
        """What inference reads the weights in: torch.bfloat16, torch.int8, or None for the parameters themselves.

        Parameters, state_dict and training stay as they are. In eval mode, where no gradient is asked for (under
        torch.no_grad or torch.inference_mode, or if nothing requires one), the module computes with copies of its
        weight matrices in this dtype; int8 has a float32 scale per row. Biases, inputs, states and sums keep theirs.

        The copies are made by the first such call, and again by the first one after a parameter was replaced or
        changed, after train() and eval(), after a call that asked for gradients, and after a change of dtype or device.
        What is not seen is a change by way of a parameter's `.data`, or by an optimizer with fused=True, with none of
        these since. Assign weight_dtype once more after it.

        The parameters themselves are used in torch.compile, torch.export and tracers, on other devices than the CPU,
        with projections, and where parameters are not of float32, bfloat16 or float16, have no more bits than their
        copies, are inference tensors, or are computed by something (weight_norm, pruning).

        Raises:
            ValueError: another dtype is assigned.
        """
        return None if self._storage is None else self._storage.dtype

    @weight_dtype.setter
    def weight_dtype(self, dtype: torch.dtype | None) -> None:
        check_weight_dtype(dtype)
        self.__dict__.pop("_storage", None)
        if dtype is not None:
            self.__dict__["_storage"] = _Storage(dtype)

    def extra_repr(self) -> str:
        """Stock's, and weight_dtype unless it is None."""
        text = super().extra_repr()
        return text if self._storage is None else f"{text}, weight_dtype={self.weight_dtype}"

    def train(self, mode: bool = True) -> Self:
        """As stock's."""
        if self._storage is not None:
            self._storage.drop()  # a fused optimizer leaves no trace in what it changes
        return super().train(mode)

    def _apply(self, *args: Any, **kwargs: Any) -> Self:
        if self._storage is not None:
            self._storage.drop()  # a new dtype comes by way of `.data`
        return super()._apply(*args, **kwargs)

    def weight_error(self) -> float | None:
        """Root mean square of the errors of the stored weights, relative to that of the weights; None if none are."""
        copies = None if self._storage is None else self._current_copies(self._current_weights())
        return None if copies is None else copies.error()

    def _current_weights(self) -> list[Tensor]:
        """The parameters in the operators' order, as they are now."""
        raise NotImplementedError

    def _current_copies(self, weights: list[Tensor]) -> Copies | None:
        """Copies of what is stored of these parameters, as these are now; None where nothing is."""
        raise NotImplementedError

    def _copies_of(self, weights: list[Tensor], *tensors: Tensor) -> Copies | None:
        """The copies that a call on these tensors computes with; None if it uses the weights themselves."""
        if torch.compiler.is_compiling():
            return None
        if self.training:
            return self._storage.drop()
        if torch.is_grad_enabled() and any(t.requires_grad for t in (*tensors, *weights)):
            return self._storage.drop()
        copies = self._current_copies(weights)
        if copies is None or torch.is_autocast_enabled("cpu") or all(t.dtype == copies.source_dtype for t in tensors):
            return copies
        return None
