"""The peers of families whose tasks are a module and an input: fastvision's module, the stock one, other runtimes."""

import os
import shutil
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from typing import Protocol

import torch
from torch import Tensor, nn

import fastvision
from fastvision.bench.peers import BASELINE, OURS, Peer, Task, missing_packages


class ModuleTask(Task, Protocol):
    """A task that calls a module on tensors."""

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """What the module is called on, contiguous."""

    @property
    def memory_format(self) -> torch.memory_format:
        """In which peers have images and weights unless they have a format of their own."""

    def stock_module(self) -> nn.Module:
        """Layers of torch.nn, with the task's parameters."""

    def fastvision_module(self) -> nn.Module:
        """The same as fastvision runs it."""

    def module_call(self, module: nn.Module, memory_format: torch.memory_format) -> Callable[[], object]:
        """One call of the module: the results of the task, in order. Module and tensors are in memory_format."""


class _TorchPeer:
    default = True

    def missing(self) -> str | None:
        return None

    def unsupported(self, task: ModuleTask) -> str | None:
        return None

    def version(self) -> str:
        return torch.__version__


class Fastvision(_TorchPeer):
    """fastvision, tensors in the task's memory format."""

    name = title = OURS

    def prepare(self, task: ModuleTask) -> Callable[[], object]:
        return task.module_call(task.fastvision_module(), task.memory_format)

    def version(self) -> str:
        return fastvision.__version__


class StoredWeights(Fastvision):
    """fastvision with weight_dtype, whose rounding of the weights is no mistake."""

    default = False

    def __init__(self, dtype: torch.dtype, tolerance: float) -> None:
        self.dtype = dtype
        self.name = str(dtype).removeprefix("torch.")
        self.title = f"{OURS} {self.name}"
        self.tolerance = tolerance

    def unsupported(self, task: ModuleTask) -> str | None:
        if task.mode != "infer":
            return "is for inference"
        return None if self.dtype.itemsize < task.dtype.itemsize else "is no smaller than the weights"

    def prepare(self, task: ModuleTask) -> Callable[[], object]:
        module = task.fastvision_module().eval()
        module.weight_dtype = self.dtype
        return task.module_call(module, task.memory_format)


class Stock(_TorchPeer):
    """Stock PyTorch's layers run eagerly, tensors in the task's memory format."""

    name = title = BASELINE

    def prepare(self, task: ModuleTask) -> Callable[[], object]:
        return task.module_call(task.stock_module(), task.memory_format)


class ChannelsLast(_TorchPeer):
    """Stock PyTorch's layers run eagerly, everything channels_last already."""

    name = title = "channels_last"

    def unsupported(self, task: ModuleTask) -> str | None:
        return "is stock in this case" if task.memory_format == torch.channels_last else None

    def prepare(self, task: ModuleTask) -> Callable[[], object]:
        return task.module_call(task.stock_module(), torch.channels_last)


class Compile(_TorchPeer):
    """Stock PyTorch's layers under torch.compile, tensors in the task's memory format."""

    name = title = "torch.compile"
    default = False

    def missing(self) -> str | None:
        if shutil.which(os.environ.get("CXX", "g++")):
            return None
        return "torch.compile is left out: it needs a C++ compiler (Debian: `apt-get install g++`)."

    def prepare(self, task: ModuleTask) -> Callable[[], object]:
        torch.compiler.reset()  # else earlier cases, which are the same code, use up its limit of recompilations
        return task.module_call(torch.compile(task.stock_module(), fullgraph=True, dynamic=False), task.memory_format)


class CompileCell(Compile):
    """Stock PyTorch's cells under torch.compile, which refuses its sequences."""

    def unsupported(self, task: ModuleTask) -> str | None:
        return None if isinstance(task.stock_module(), nn.RNNCellBase) else "does not compile torch.nn.LSTM and GRU"


class _OnnxPeer:
    """Runs the task as an ONNX model in float32; inputs and outputs are numpy arrays, as its users have them."""

    dtype = torch.float32

    def unsupported(self, task: ModuleTask) -> str | None:
        if task.mode != "infer":
            return "runs inference only"
        if task.dtype != self.dtype:
            return f"is measured in {str(self.dtype).removeprefix('torch.')} only"
        return None


class OnnxRuntime(_OnnxPeer):
    """ONNX Runtime's CPU provider."""

    name, title, default = "onnxruntime", "ONNX Runtime", True

    def missing(self) -> str | None:
        return missing_packages(self.title, "onnx", "onnxruntime")

    def prepare(self, task: ModuleTask) -> Callable[[], object]:
        import onnxruntime

        from fastvision.bench.onnx_model import onnx_model

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = task.threads
        options.inter_op_num_threads = 1
        # Its threads must not spin while others are measured.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        model, feeds = onnx_model(task.stock_module(), task.inputs)
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return partial(session.run, None, feeds)

    def version(self) -> str:
        return version("onnxruntime")


class OpenVino(_OnnxPeer):
    """OpenVINO's CPU plugin, kept at float32."""

    name, title, default = "openvino", "OpenVINO", False
    precision = "f32"

    def missing(self) -> str | None:
        return missing_packages(self.title, "onnx", "openvino")

    def prepare(self, task: ModuleTask) -> Callable[[], object]:
        import openvino

        from fastvision.bench.onnx_model import onnx_model

        core = openvino.Core()
        settings = {"INFERENCE_NUM_THREADS": task.threads, "INFERENCE_PRECISION_HINT": self.precision}
        model, feeds = onnx_model(task.stock_module(), task.inputs)
        network = core.read_model(model.SerializeToString())
        request = core.compile_model(network, "CPU", settings).create_infer_request()
        for name, array in feeds.items():  # once: passing several arrays costs more than a cell
            request.set_tensor(name, openvino.Tensor(array))

        def infer() -> list:
            return list(request.infer().values())

        return infer

    def version(self) -> str:
        return version("openvino")


class OpenVinoBfloat16(OpenVino):
    """OpenVINO's CPU plugin told to compute in bfloat16; its input, output and stored weights stay float32."""

    name, title, default = "openvino-bf16", "OpenVINO bf16", False
    dtype = torch.bfloat16
    precision = "bf16"

    def unsupported(self, task: ModuleTask) -> str | None:
        if reason := super().unsupported(task):
            return reason
        import openvino

        has_it = "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        return None if has_it else "has no bfloat16 on this processor"


MODULE_PEERS: tuple[Peer, ...] = (
    Fastvision(),
    Stock(),
    ChannelsLast(),
    OnnxRuntime(),
    Compile(),
    OpenVino(),
    OpenVinoBfloat16(),
)

POOL_PEERS: tuple[Peer, ...] = (Fastvision(), Stock(), ChannelsLast(), OnnxRuntime(), Compile(), OpenVino())

VAE_PEERS: tuple[Peer, ...] = (Fastvision(), Stock(), Compile())

LINEAR_PEERS: tuple[Peer, ...] = (
    Fastvision(),
    Stock(),
    OnnxRuntime(),
    Compile(),
    OpenVino(),
    StoredWeights(torch.bfloat16, tolerance=0.01),
    StoredWeights(torch.int8, tolerance=0.03),
)

RNN_PEERS: tuple[Peer, ...] = (
    Fastvision(),
    Stock(),
    OnnxRuntime(),
    CompileCell(),
    OpenVino(),
    OpenVinoBfloat16(),
    StoredWeights(torch.bfloat16, tolerance=0.01),
    StoredWeights(torch.int8, tolerance=0.03),
)
