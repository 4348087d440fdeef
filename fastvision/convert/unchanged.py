"""What a plan of fused layers was made from, so that a call can tell whether the plan still holds."""

from collections.abc import Callable, Collection, Iterable

from torch import nn

from fastvision._native import _C
from fastvision.nn import AvgPool2d, Conv2d, Linear, MaxPool2d

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
# What an instance may have of its own: a forward, or weights in fewer bits.
_OWN = ("forward", "_storage")
# What a plan depends on beside the classes of the layers. Parameters and buffers are read at each call.
_MAX_POOL = ("kernel_size", "stride", "padding", "dilation", "return_indices", "ceil_mode")
_AVG_POOL = ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override")
_CONVOLUTION = ("in_channels", "kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")
_OPTIONS: dict[type[nn.Module], tuple[str, ...]] = {
    nn.Conv2d: _CONVOLUTION,
    Conv2d: _CONVOLUTION,
    nn.BatchNorm2d: ("training", "eps"),
    nn.ReLU: ("inplace",),
    nn.ReLU6: ("min_val", "max_val"),
    nn.SiLU: (),
    nn.Hardswish: (),
    nn.Flatten: ("start_dim", "end_dim"),
    Linear: (),
    nn.Identity: (),
    nn.Dropout: ("training",),
    nn.Dropout2d: ("training",),
    nn.MaxPool2d: _MAX_POOL,
    MaxPool2d: _MAX_POOL,
    nn.AvgPool2d: _AVG_POOL,
    AvgPool2d: _AVG_POOL,
}


def unchanged(
    layers: Collection[nn.Module], containers: Iterable[nn.Module] = (), parents: Iterable[nn.Module] = ()
) -> Callable[[], bool]:
    """A function that tells whether all is as it is now: layers, the containers that they are called through, and the
    children of `parents`.
    """
    parents, modules = tuple(parents), (*parents, *layers)
    states = [_state(module, _HOOKS) for module in containers]
    states += [_state(layer, (*_HOOKS, *_OPTIONS[type(layer)])) for layer in layers if type(layer) in _OPTIONS]
    children = ((parent, tuple(parent._modules.values())) for parent in parents)
    return _C.unchanged(modules, tuple(map(type, modules)), tuple(states), tuple(children))


def _state(module: nn.Module, names: tuple[str, ...]) -> tuple:
    attributes = module.__dict__
    absent = tuple(name for name in _OWN if name not in attributes)
    names = (*names, *(name for name in _OWN if name in attributes))
    # Hooks are kept in dictionaries that change in place: compare with a copy.
    copies = tuple(dict(value) if isinstance(value, dict) else value for value in map(attributes.get, names))
    return module, names, copies, absent
