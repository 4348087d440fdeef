"""Stock layers as an ONNX model in memory."""

import operator
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from torch import Tensor, nn
from torch.fx import Node

from fastvision.nn.conv import both_axes

# Not the newest, so that runtimes older than the onnx package read the model.
_OPSET, _IR_VERSION = 17, 8

_Arrays = dict[str, np.ndarray]
_Parts = tuple[list[NodeProto], _Arrays, _Arrays]  # nodes of which the last has the outputs, parameters, feeds


def onnx_model(module: nn.Module, inputs: Sequence[Tensor]) -> tuple[ModelProto, _Arrays]:
    """A module in eval mode as a float32 model, and what to feed it.

    A network becomes one node per layer and per function in its forwards, which torch.fx traces. LSTM, GRU and their
    cells become one LSTM or GRU node, a cell that of one step; the outputs are the node's: (steps, directions, batch,
    hidden_size) of sequences, and states of (directions, batch, hidden_size).

    Args:
        module: a network of layers and functions that `_operator` and `_function` know, one such layer, or an LSTM,
            GRU, LSTMCell or GRUCell.
        inputs: floating-point tensors that it is called on, such as (batch, channels, height, width); of a cell with
            its states. An LSTM or GRU may have the int32 lengths (batch) of its padded sequences as second one.

    Raises:
        TypeError: a layer or a function that has no translation here.
    """
    build = _recurrent if isinstance(module, nn.RNNBase | nn.RNNCellBase) else _layers
    nodes, parameters, feeds = build(module, inputs)
    graph = helper.make_graph(
        nodes,
        "network",
        [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
            for name, array in feeds.items()
        ],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in nodes[-1].output if name],
        [numpy_helper.from_array(array, name) for name, array in parameters.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR_VERSION)
    return model, feeds


def _layers(network: nn.Module, inputs: Sequence[Tensor]) -> _Parts:
    traced = torch.fx.symbolic_trace(nn.Sequential(network))
    nodes, parameters, values = [], {}, {}
    for number, node in enumerate(traced.graph.nodes):
        layer = traced.get_submodule(node.target) if node.op == "call_module" else None
        if node.op == "placeholder":
            values[node] = "input"
        elif isinstance(layer, nn.Dropout | nn.Identity):
            values[node] = values[node.args[0]]
        elif node.op != "output":
            name, attributes = _function(node) if layer is None else _operator(layer)
            own = {f"{number}.{parameter}": array for parameter, array in _arrays(layer).items()}
            parameters |= own
            values[node] = f"{number}.{name}"
            sources = [values[source] for source in node.all_input_nodes]
            nodes.append(helper.make_node(name, [*sources, *own], [values[node]], **attributes))
    return nodes, parameters, {"input": _array(inputs[0])}


def _arrays(layer: nn.Module | None) -> _Arrays:
    """What the operator of a layer has as further inputs, in order."""
    if layer is None:
        return {}
    if isinstance(layer, nn.ReLU6):
        return {name: np.array(value, np.float32) for name, value in (("min", 0), ("max", 6))}
    statistics = [(name, buffer) for name, buffer in layer.named_buffers() if buffer.is_floating_point()]
    return {name: _array(tensor) for name, tensor in (*layer.named_parameters(), *statistics)}


def _function(node: Node) -> tuple[str, dict[str, object]]:
    """Name and attributes of the ONNX operator that computes what a call of a function does."""
    if node.target is F.relu:
        return "Relu", {}
    if node.target is operator.add and len(node.all_input_nodes) == 2:
        return "Add", {}
    if node.target is torch.cat and node.args[1:] == (1,):
        return "Concat", {"axis": 1}
    raise _untranslated(node)


def _operator(layer: nn.Module) -> tuple[str, dict[str, object]]:
    """Name and attributes of the ONNX operator that computes what the layer does."""
    match layer:
        case nn.Conv2d():
            return "Conv", _window(layer) | {"group": layer.groups, "dilations": both_axes(layer.dilation)}
        case nn.MaxPool2d():
            return "MaxPool", _window(layer)
        case nn.AvgPool2d():
            return "AveragePool", _window(layer) | {"count_include_pad": int(layer.count_include_pad)}
        case nn.AdaptiveAvgPool2d(output_size=1):
            return "GlobalAveragePool", {}
        case nn.BatchNorm2d():
            return "BatchNormalization", {"epsilon": layer.eps}
        case nn.ReLU6():
            return "Clip", {}
        case nn.ReLU():
            return "Relu", {}
        case nn.Flatten(start_dim=1 | -3, end_dim=-1):  # the same for a batch of images
            return "Flatten", {"axis": 1}
        case nn.Linear():
            return "Gemm", {"transB": 1}
        case nn.Softmax(dim=-1):
            return "Softmax", {"axis": -1}
    raise _untranslated(layer)


def _window(layer: nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d) -> dict[str, object]:
    padding = both_axes(layer.padding)
    ceil_mode = {"ceil_mode": 1} if getattr(layer, "ceil_mode", False) else {}
    return ceil_mode | {
        "kernel_shape": both_axes(layer.kernel_size),
        "strides": both_axes(layer.stride),
        "pads": [*padding, *padding],
    }


def _recurrent(module: nn.Module, inputs: Sequence[Tensor]) -> _Parts:
    is_cell = isinstance(module, nn.RNNCellBase)
    own = list(module.parameters())
    if len(own) != 4 or getattr(module, "batch_first", False):  # layers, directions, projections; no biases
        raise _untranslated(module)
    match module:  # ONNX orders the gates input, output, forget, cell; update, reset, hidden
        case nn.LSTM() | nn.LSTMCell():
            operator, gates, states, attributes = "LSTM", (0, 3, 1, 2), ["hidden", "cell"], {}
        case nn.GRU() | nn.GRUCell():
            operator, gates, states, attributes = "GRU", (1, 0, 2), ["hidden"], {"linear_before_reset": 1}
        case _:
            raise _untranslated(module)
    weight_ih, weight_hh, *biases = (_reordered(parameter, gates) for parameter in own)
    parameters = {"W": weight_ih, "R": weight_hh, "B": torch.cat(biases)}
    if is_cell:
        inputs = [tensor[None] for tensor in inputs]
    names = ["input", "", *states] if is_cell else ["input", "lengths"][: len(inputs)]
    feeds = dict(zip(filter(None, names), map(_array, inputs), strict=True))
    first, *others = names
    outputs = ["" if is_cell else "output", *(f"final_{state}" for state in states)]
    node = helper.make_node(
        operator, [first, *parameters, *others], outputs, hidden_size=module.hidden_size, **attributes
    )
    return [node], {name: _array(tensor[None]) for name, tensor in parameters.items()}, feeds


def _reordered(parameter: Tensor, gates: tuple[int, ...]) -> Tensor:
    rows = parameter.chunk(len(gates))
    return torch.cat([rows[gate] for gate in gates])


def _array(tensor: Tensor) -> np.ndarray:
    tensor = tensor.detach()
    return (tensor.float() if tensor.is_floating_point() else tensor).contiguous().numpy()


def _untranslated(layer: nn.Module | Node) -> TypeError:
    return TypeError(f"module: expected layers that have an ONNX translation here, got {layer}")
