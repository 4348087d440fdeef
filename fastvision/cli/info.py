"""What ``fastvision info`` reports."""

import os
import platform
from pathlib import Path

import torch

import fastvision


def environment() -> dict[str, str | int | bool | list[str] | None]:
    """What fastvision runs on here: versions, processor, instruction sets, threads and CUDA."""
    return {
        "fastvision": fastvision.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "cpu": cpu_name(),
        "cpu_capability": fastvision.backends.cpu.capability,
        "cpu_capabilities_available": fastvision.backends.cpu.available_capabilities(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "cuda_kernels": fastvision.backends.cuda.is_available(),
        "cuda_state": cuda_state(),
    }


def cpu_name() -> str:
    """The processor's name as the operating system gives it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def cuda_state() -> str:
    """Whether CUDA tensors run fastvision's kernels, and if not, why."""
    if fastvision.backends.cuda.is_available():
        return "in use"
    if torch.version.cuda is None:
        return "not in use: this torch is built without CUDA"
    if not any(Path(fastvision.__file__).parent.glob("_cuda*.so")):
        return "not built: build fastvision where nvcc is found, or with FASTVISION_CUDA=1"
    if not torch.cuda.is_available():
        return "not in use: torch finds no GPU"
    return "not in use: the library could not be opened"
