"""The peers of the conv family."""

import os
import shutil
from collections.abc import Callable
from functools import partial
from importlib.metadata import version

import torch

import fastvision
from fastvision.bench.conv_task import ConvTask
from fastvision.bench.peers import BASELINE, OURS, Peer, missing_packages


class _TorchPeer:
    default = True

    def missing(self) -> str | None:
        return None

    def unsupported(self, task: ConvTask) -> str | None:
        return None

    def version(self) -> str:
        return torch.__version__


class Fastvision(_TorchPeer):
    """One fastvision module, contiguous tensors."""

    name = title = OURS

    def prepare(self, task: ConvTask) -> Callable[[], object]:
        return task.module_call(task.case.fastvision_module(task.dtype))

    def version(self) -> str:
        return fastvision.__version__


class Stock(_TorchPeer):
    """Stock PyTorch's layers run eagerly, contiguous tensors."""

    name = title = BASELINE

    def prepare(self, task: ConvTask) -> Callable[[], object]:
        return task.module_call(task.case.stock_module(task.dtype))


class ChannelsLast(_TorchPeer):
    """Stock PyTorch's layers run eagerly, everything channels_last already."""

    name = title = "channels_last"

    def prepare(self, task: ConvTask) -> Callable[[], object]:
        return task.module_call(task.case.stock_module(task.dtype), torch.channels_last)


class Compile(_TorchPeer):
    """Stock PyTorch's layers under torch.compile, contiguous tensors."""

    name = title = "torch.compile"
    default = False

    def missing(self) -> str | None:
        if shutil.which(os.environ.get("CXX", "g++")):
            return None
        return "torch.compile is left out: it needs a C++ compiler (Debian: `apt-get install g++`)."

    def prepare(self, task: ConvTask) -> Callable[[], object]:
        torch.compiler.reset()  # else earlier cases, which are the same code, use up its limit of recompilations
        module = torch.compile(task.case.stock_module(task.dtype), fullgraph=True, dynamic=False)
        return task.module_call(module)


class _OnnxPeer:
    """Runs the case as an ONNX model; input and output are numpy arrays, as its users have them."""

    def unsupported(self, task: ConvTask) -> str | None:
        if task.mode != "infer":
            return "runs inference only"
        if task.dtype != torch.float32:
            return "is measured in float32 only"
        return None


class OnnxRuntime(_OnnxPeer):
    """ONNX Runtime's CPU provider."""

    name, title, default = "onnxruntime", "ONNX Runtime", True

    def missing(self) -> str | None:
        return missing_packages(self.title, "onnx", "onnxruntime")

    def prepare(self, task: ConvTask) -> Callable[[], object]:
        import onnxruntime

        from fastvision.bench.onnx_model import INPUT, conv_model

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = task.threads
        options.inter_op_num_threads = 1
        # Its threads must not spin while others are measured.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        model = conv_model(task).SerializeToString()
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        return partial(session.run, None, {INPUT: task.input.numpy()})

    def version(self) -> str:
        return version("onnxruntime")


class OpenVino(_OnnxPeer):
    """OpenVINO's CPU plugin, kept at float32."""

    name, title, default = "openvino", "OpenVINO", False

    def missing(self) -> str | None:
        return missing_packages(self.title, "onnx", "openvino")

    def prepare(self, task: ConvTask) -> Callable[[], object]:
        import openvino

        from fastvision.bench.onnx_model import conv_model

        core = openvino.Core()
        settings = {"INFERENCE_NUM_THREADS": task.threads, "INFERENCE_PRECISION_HINT": "f32"}
        model = core.compile_model(core.read_model(conv_model(task).SerializeToString()), "CPU", settings)
        request, images = model.create_infer_request(), task.input.numpy()

        def infer() -> list:
            return [request.infer(images, share_inputs=True)[0]]

        return infer

    def version(self) -> str:
        return version("openvino")


CONV_PEERS: tuple[Peer, ...] = (Fastvision(), Stock(), ChannelsLast(), OnnxRuntime(), Compile(), OpenVino())
