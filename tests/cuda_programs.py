"""Builds the C++ programs that run CUDA kernels on the emulated GPU, and runs them."""

import hashlib
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build" / "cuda_programs"
FLAGS = [
    "-x",
    "c++",
    "-std=c++20",
    "-O2",
    "-g",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-Wno-unknown-pragmas",
    "-I",
    str(ROOT / "csrc"),
]
SANITIZERS = {
    "plain": [],
    "address": ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"],
    "thread": ["-fsanitize=thread"],
}
SCHEDULES = ("forward", "reverse", "random")


@dataclass(frozen=True)
class Program:
    """A program of tests/cuda: its sources, relative to the root of the repository."""

    name: str
    sources: tuple[str, ...]

    def build(self, sanitizer: str) -> Path:
        """The executable, compiled if its sources or flags have changed since the last time."""
        command = [os.environ.get("CXX", "g++"), *FLAGS, *SANITIZERS[sanitizer]]
        executable = BUILD / f"{self.name}-{sanitizer}-{_fingerprint(command, self.sources)}"
        if not executable.exists():
            BUILD.mkdir(parents=True, exist_ok=True)
            for stale in BUILD.glob(f"{self.name}-{sanitizer}-*"):
                stale.unlink()
            unfinished = executable.with_suffix(f".{os.getpid()}")
            subprocess.run([*command, *(str(ROOT / s) for s in self.sources), "-o", str(unfinished)], check=True)
            unfinished.rename(executable)
        return executable

    def run(
        self, sanitizer: str, schedule: str, *arguments: str, timeout: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """Runs the program with the emulated threads taking turns in the order `schedule`."""
        environment = os.environ | {"FASTVISION_EMULATOR_SCHEDULE": schedule, "TSAN_OPTIONS": "halt_on_error=1"}
        return subprocess.run(
            [str(self.build(sanitizer)), *arguments],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout,
        )


def _fingerprint(command: list[str], sources: tuple[str, ...]) -> str:
    digest = hashlib.sha256(" ".join(command).encode())
    headers = [p for suffix in ("*.h", "*.cuh") for p in (ROOT / "csrc").rglob(suffix)]
    for path in sorted([*headers, *(ROOT / s for s in sources)]):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def compiler_missing() -> str | None:
    """Why the programs cannot be built here, or None."""
    compiler = os.environ.get("CXX", "g++")
    return None if shutil.which(compiler) else f"no C++ compiler: {compiler} is not on the PATH"


def _kernels(family: str) -> tuple[str, ...]:
    return tuple(str(p.relative_to(ROOT)) for p in sorted((ROOT / "csrc" / family / "cuda").glob("*.cu")))


CONV_KERNELS, RNN_KERNELS, VAE_KERNELS, AUGMENT_KERNELS = map(_kernels, ("conv", "rnn", "vae", "augment"))
CONV_DRIVER = Program("conv_driver", ("tests/cuda/conv_driver.cu", *CONV_KERNELS))
RNN_DRIVER = Program("rnn_driver", ("tests/native/rnn_kernels.cpp", "tests/cuda/rnn_library.cu", *RNN_KERNELS))
VAE_DRIVER = Program("vae_driver", ("tests/native/vae_kernels.cpp", "tests/cuda/vae_library.cu", *VAE_KERNELS))
AUGMENT_DRIVER = Program(
    "augment_driver", ("tests/native/augment_kernels.cpp", "tests/cuda/augment_library.cu", *AUGMENT_KERNELS)
)
SEEDED_BUGS = Program("seeded_bugs", ("tests/cuda/seeded_bugs.cu",))
