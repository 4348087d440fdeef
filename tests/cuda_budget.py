"""What nvcc made of the kernels, without running them: registers, spills, shared memory, instructions.

Compares it with the budget in tests/cuda/budget.toml.
"""

import fnmatch
import importlib.util
import os
import re
import shutil
import subprocess
import tomllib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
KERNEL_SOURCES = tuple(sorted((ROOT / "csrc").glob("*/cuda/*.cu")))
LIBRARY_SOURCES = (ROOT / "csrc" / "cuda_library.cu", *KERNEL_SOURCES)
BLOCK_THREADS = {  # of a family's kernels or of one kernel
    "conv_cuda": 128,
    "unpool": 256,
    "rnn_cuda": 256,
    "vae_cuda": 256,
    "augment_cuda": 256,
    "sum_blocks": 1024,
}
GATHERS = ("single", "along_depth", "along_rows")  # enum class Gather
ENUMERATORS = {
    "RnnMode": ("lstm", "gru"),
    "KlResult": ("absent", "total", "elements"),
    "Interpolation": ("nearest", "bilinear"),
    "Reconstruction": ("mse", "bce", "bce_with_logits"),
}
INSTRUCTIONS = {
    "loads_128": re.compile(r"\bLDG\.E\.(?:[A-Z0-9_]+\.)*128"),
    "shared_loads": re.compile(r"\bLDS(?:M)?\b"),
    "fused_multiply_adds": re.compile(r"\bFFMA\b"),
    "tensor_core_products": re.compile(r"\bHMMA\b"),
    "local_memory": re.compile(r"\b(?:LDL|STL)\b"),
}


@dataclass
class Multiprocessor:
    """What the blocks on one multiprocessor share (CUDA C++ Programming Guide, compute capabilities)."""

    warps: int
    blocks: int
    shared_bytes: int
    reserved_bytes: int = 1024  # of shared memory, per block
    registers: int = 65536

    def resident_warps(self, registers: int, shared_bytes: int, threads: int) -> int:
        """Warps of a kernel that fit at once; registers are given out 256 per warp at a time."""
        warps = -(-threads // 32)
        registers_of_block = warps * (-(-max(registers, 1) * 32 // 256) * 256)
        blocks = min(
            self.blocks,
            self.warps // warps,
            self.registers // registers_of_block,
            self.shared_bytes // max(shared_bytes + self.reserved_bytes, 1),
        )
        return blocks * warps


ARCHITECTURES = {
    75: Multiprocessor(32, 16, 64 * 1024, reserved_bytes=0),
    80: Multiprocessor(64, 32, 164 * 1024),
    86: Multiprocessor(48, 16, 100 * 1024),
    90: Multiprocessor(64, 32, 228 * 1024),
    100: Multiprocessor(64, 32, 228 * 1024),
    120: Multiprocessor(48, 24, 100 * 1024),
}


@dataclass
class Kernel:
    """One kernel as compiled for one architecture."""

    name: str
    architecture: int
    family: str = "conv_cuda"
    registers: int = 0
    shared_bytes: int = 0
    stack_bytes: int = 0
    spilled_bytes: int = 0
    instructions: Counter = field(default_factory=Counter)

    @property
    def resident_warps(self) -> int:
        threads = BLOCK_THREADS.get(self.name.split("<")[0], BLOCK_THREADS[self.family])
        return ARCHITECTURES[self.architecture].resident_warps(self.registers, self.shared_bytes, threads)


def find_nvcc() -> Path | None:
    """CUDA_HOME first, then the PATH, then the usual place."""
    home = os.environ.get("CUDA_HOME")
    candidates = [home and f"{home}/bin/nvcc", shutil.which("nvcc"), "/usr/local/cuda/bin/nvcc"]
    return next((Path(c) for c in candidates if c and Path(c).exists()), None)


def find_cuobjdump() -> Path | None:
    """Beside nvcc, on the PATH, or from the packages nvidia-cuda-cuobjdump and nvidia-cuda-nvdisasm."""
    nvcc = find_nvcc()
    candidates = [nvcc and nvcc.with_name("cuobjdump"), shutil.which("cuobjdump")]
    nvidia = importlib.util.find_spec("nvidia")
    for directory in (nvidia.submodule_search_locations or []) if nvidia else []:
        candidates += sorted(Path(directory).glob("cu*/bin/cuobjdump"))
    return next((Path(c) for c in candidates if c and Path(c).exists()), None)


def compile_object(source: Path, architectures: list[int], directory: Path) -> tuple[Path, str]:
    """The object file, and what the assembler says about each kernel in it."""
    family = source.relative_to(ROOT / "csrc").parts[0]
    target = directory / f"{family}-{source.stem}-{'-'.join(map(str, architectures))}.o"
    generate = [f"-gencode=arch=compute_{a},code=sm_{a}" for a in architectures]
    flags = ["-std=c++20", "-O3", f"-I{ROOT / 'csrc'}", "-Xptxas", "-v", "-Xcompiler", "-fPIC,-fvisibility=hidden"]
    command = [str(find_nvcc()), *flags, *generate, "-c", str(source), "-o", str(target)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    return target, done.stdout + done.stderr


def inspect(source: Path, architectures: list[int], directory: Path) -> list[Kernel]:
    """Compiles one source file and describes every kernel in it, for every architecture."""
    target, log = compile_object(source, architectures, directory)
    kernels = _parse_assembler_log(log)
    if kernels:
        _count_instructions(target, kernels)
    return list(kernels.values())


def _readable(symbols: list[str]) -> dict[str, tuple[str, str]]:
    """Symbols to families and names as in the budget: conv_cuda, pixel_gemm<F32, along_depth, 64>."""
    text = subprocess.run(["c++filt"], input="\n".join(symbols), capture_output=True, text=True, check=True).stdout
    names = {}
    for symbol, line in zip(symbols, text.splitlines(), strict=True):
        family = re.search(r"fastvision::(\w+_cuda)::", line)[1]
        name = line.replace(f"fastvision::{family}::", "").replace("(anonymous namespace)::", "")
        name = re.sub(r"\(Gather\)(\d)", lambda m: GATHERS[int(m[1])], name)
        name = re.sub(r"\(fastvision::(\w+)\)(\d)", lambda m: ENUMERATORS[m[1]][int(m[2])], name)
        names[symbol] = family, name.removeprefix("void ").split("(")[0]
    return names


def _parse_assembler_log(log: str) -> dict[tuple[str, int], Kernel]:
    kernels: dict[tuple[str, int], Kernel] = {}
    names = _readable(sorted(set(re.findall(r"entry function '(\w+)'", log))))
    current = None
    for line in log.splitlines():
        if m := re.search(r"entry function '(\w+)' for 'sm_(\d+)'", line):
            family, name = names[m[1]]
            current = Kernel(name, int(m[2]), family)
            kernels[m[1], int(m[2])] = current
        elif current and (
            m := re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill", line)
        ):
            current.stack_bytes, current.spilled_bytes = int(m[1]), int(m[2]) + int(m[3])
        elif current and (m := re.search(r"Used (\d+) registers", line)):
            current.registers = int(m[1])
            shared = re.search(r"(\d+) bytes smem", line)
            current.shared_bytes = int(shared[1]) if shared else 0
    return kernels


def _count_instructions(target: Path, kernels: dict[tuple[str, int], Kernel]) -> None:
    tool = find_cuobjdump()
    environment = os.environ | {"PATH": f"{tool.parent}{os.pathsep}{os.environ.get('PATH', '')}"}
    sass = subprocess.run(
        [str(tool), "-sass", str(target)], env=environment, capture_output=True, text=True, check=True
    ).stdout
    architecture, current = 0, None
    for line in sass.splitlines():
        if m := re.search(r"^arch = sm_(\d+)", line):
            architecture = int(m[1])
        elif m := re.search(r"Function : (\S+)", line):
            current = kernels[m[1], architecture]
        elif current:
            for kind, pattern in INSTRUCTIONS.items():
                current.instructions[kind] += bool(pattern.search(line))


def read_budget() -> dict[str, dict]:
    """Limits by kernel name, which may hold wildcards."""
    return tomllib.loads((ROOT / "tests" / "cuda" / "budget.toml").read_text())


def violations(kernel: Kernel, budget: dict[str, dict]) -> list[str]:
    """What is wrong with a kernel, in words."""
    matching = [name for name in budget if fnmatch.fnmatchcase(kernel.name, name)]
    if len(matching) != 1:
        return [f"{kernel.name}: {len(matching)} entries in the budget, expected 1"]
    limits = budget[matching[0]]
    if kernel.architecture < limits.get("from_architecture", 0):
        return []  # compiled empty
    counts = Counter(kernel.instructions)
    found = []

    def check(fine: bool, text: str) -> None:
        if not fine:
            found.append(f"{kernel.name} for sm_{kernel.architecture}: {text}")

    check(kernel.spilled_bytes == 0, f"{kernel.spilled_bytes} bytes of registers spilled")
    check(kernel.stack_bytes == 0 and counts["local_memory"] == 0, f"{kernel.stack_bytes} bytes of stack")
    check(kernel.registers <= limits["registers"], f"{kernel.registers} registers, at most {limits['registers']}")
    warps = limits["warps"].get(str(kernel.architecture), limits["warps"]["default"])
    check(kernel.resident_warps >= warps, f"{kernel.resident_warps} warps per multiprocessor, at least {warps}")
    for kind in ("loads_128", "tensor_core_products"):
        least = limits.get(kind, 0)
        check(counts[kind] >= least, f"{counts[kind]} {kind}, at least {least}")
    if least := limits.get("fused_multiply_adds_per_shared_load"):
        ratio = counts["fused_multiply_adds"] / max(counts["shared_loads"], 1)
        check(ratio >= least, f"{ratio:.1f} fused multiply-adds per shared load, at least {least}")
    return found


def unused(kernels: list[Kernel], budget: dict[str, dict]) -> list[str]:
    """Entries of the budget that match no kernel."""
    return [name for name in budget if not any(fnmatch.fnmatchcase(k.name, name) for k in kernels)]
