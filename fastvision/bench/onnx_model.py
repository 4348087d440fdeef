"""Stock layers as an ONNX model in memory."""

from onnx import ModelProto, TensorProto, helper, numpy_helper
from torch import nn

from fastvision.convert.sequential import flatten
from fastvision.nn.conv import both_axes

INPUT = "input"
# Not the newest, so that runtimes older than the onnx package read the model.
_OPSET, _IR_VERSION = 17, 8


def onnx_model(network: nn.Sequential, input_shape: tuple[int, ...]) -> ModelProto:
    """The layers of a network in eval mode, Sequentials in it included, one ONNX node each; float32.

    Args:
        network: of layers that `_operator` knows, with float32 parameters.
        input_shape: of the images, (batch, channels, height, width).

    Raises:
        TypeError: a layer that has no translation here.
    """
    nodes, parameters, last = [], [], INPUT
    for number, layer in enumerate(flatten(network)[1]):
        if isinstance(layer, nn.Dropout):
            continue
        operator, attributes = _operator(layer)
        own = {f"{number}.{name}": parameter for name, parameter in layer.named_parameters()}
        parameters += [numpy_helper.from_array(tensor.detach().numpy(), name) for name, tensor in own.items()]
        output = f"{number}.{operator}"
        nodes.append(helper.make_node(operator, [last, *own], [output], **attributes))
        last = output
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, input_shape)],
        [helper.make_tensor_value_info(last, TensorProto.FLOAT, None)],
        parameters,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR_VERSION)


def _operator(layer: nn.Module) -> tuple[str, dict[str, object]]:
    """Name and attributes of the ONNX operator that computes what the layer does."""
    match layer:
        case nn.Conv2d():
            return "Conv", _window(layer) | {"group": layer.groups, "dilations": both_axes(layer.dilation)}
        case nn.MaxPool2d():
            return "MaxPool", _window(layer)
        case nn.AvgPool2d():
            return "AveragePool", _window(layer) | {"count_include_pad": int(layer.count_include_pad)}
        case nn.ReLU():
            return "Relu", {}
        case nn.Flatten(start_dim=1 | -3, end_dim=-1):  # the same for a batch of images
            return "Flatten", {"axis": 1}
        case nn.Linear():
            return "Gemm", {"transB": 1}
        case nn.Softmax(dim=-1):
            return "Softmax", {"axis": -1}
    raise TypeError(f"network: expected layers that have an ONNX translation here, got {layer}")


def _window(layer: nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d) -> dict[str, object]:
    padding = both_axes(layer.padding)
    return {
        "kernel_shape": both_axes(layer.kernel_size),
        "strides": both_axes(layer.stride),
        "pads": [*padding, *padding],
    }
