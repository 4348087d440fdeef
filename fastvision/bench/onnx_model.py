"""A conv task as an ONNX model in memory."""

from onnx import ModelProto, TensorProto, helper, numpy_helper

from fastvision.bench.conv_task import ConvTask

INPUT = "input"
_OUTPUT = "output"
# Not the newest, so that runtimes older than the onnx package read the model.
_OPSET, _IR_VERSION = 17, 8


def conv_model(task: ConvTask) -> ModelProto:
    """Conv, Relu and MaxPool or AveragePool, with the task's weight and bias; float32."""
    case = task.case
    window = {"kernel_shape": [case.kernel_size] * 2, "strides": [case.stride] * 2, "pads": [case.padding] * 4}
    pool = {
        "kernel_shape": [case.pool_kernel_size] * 2,
        "strides": [case.pool_stride] * 2,
        "pads": [case.pool_padding] * 4,
    }
    activated = _OUTPUT if case.pool == "none" else "activated"
    nodes = [
        helper.make_node("Conv", [INPUT, "weight", "bias"], ["convolved"], **window),
        helper.make_node("Relu", ["convolved"], [activated]),
    ]
    if case.pool == "max":
        nodes.append(helper.make_node("MaxPool", [activated], [_OUTPUT], **pool))
    elif case.pool == "avg":
        nodes.append(helper.make_node("AveragePool", [activated], [_OUTPUT], count_include_pad=1, **pool))

    def tensor(name: str, shape: tuple[int, ...]):
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    parameters = [
        numpy_helper.from_array(task.weight.numpy(), "weight"),
        numpy_helper.from_array(task.bias.numpy(), "bias"),
    ]
    graph = helper.make_graph(
        nodes,
        "conv",
        [tensor(INPUT, tuple(task.input.shape))],
        [tensor(_OUTPUT, tuple(task.grad_output.shape))],
        parameters,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR_VERSION)
