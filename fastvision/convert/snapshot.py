"""What a plan of fused layers was made from, so that a call can tell whether the plan still holds."""

from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any

from torch import nn

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
# What a plan depends on beside the classes of the layers. Parameters and buffers are read at each call.
_OPTIONS: dict[type[nn.Module], tuple[str, ...]] = {
    nn.Conv2d: ("in_channels", "kernel_size", "stride", "padding", "dilation", "groups", "padding_mode"),
    nn.BatchNorm2d: ("training", "eps"),
    nn.ReLU: (),
    nn.Identity: (),
    nn.Dropout: ("training",),
    nn.Dropout2d: ("training",),
    nn.MaxPool2d: ("kernel_size", "stride", "padding", "dilation", "return_indices", "ceil_mode"),
    nn.AvgPool2d: ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override"),
}
_Reader = Callable[[dict[str, Any]], tuple]
_readers: dict[type[nn.Module], _Reader] = {kind: itemgetter(*_HOOKS, *names) for kind, names in _OPTIONS.items()}
_read_hooks: _Reader = itemgetter(*_HOOKS)


class Snapshot:
    """The state of layers, of the containers that they are called through, and of the lists in `parents`."""

    def __init__(
        self, layers: Sequence[nn.Module], containers: Sequence[nn.Module] = (), parents: Sequence[nn.Module] = ()
    ) -> None:
        self._parents = parents
        self._modules = [*parents, *layers]
        self._readers = [(m, _read_hooks) for m in containers]
        self._readers += [(m, _readers[type(m)]) for m in layers if type(m) in _readers]

        self._children = self._read_children()
        self._types = list(map(type, self._modules))
        # Hooks are kept in dictionaries that change in place: compare with a copy.
        self._options = [
            tuple(dict(value) if isinstance(value, dict) else value for value in options)
            for options in self._read_options()
        ]
        self._own_forwards = self._read_own_forwards()

    def is_current(self) -> bool:
        """Whether a snapshot taken now would be the same. List operations, since every call pays for them."""
        return (
            self._read_children() == self._children
            and list(map(type, self._modules)) == self._types
            and self._read_options() == self._options
            and self._read_own_forwards() == self._own_forwards
        )

    def _read_children(self) -> list[list[nn.Module]]:
        return [list(parent._modules.values()) for parent in self._parents]

    def _read_options(self) -> list[tuple]:
        return [read(module.__dict__) for module, read in self._readers]

    def _read_own_forwards(self) -> list[bool]:
        return ["forward" in module.__dict__ for module, _ in self._readers]
