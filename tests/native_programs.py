"""Builds the C++ programs of tests/native, which run the CPU kernels without Python and torch, and runs them.

The kernels are compiled by the commands of setup.py, with a sanitizer's flags added.
"""

import importlib.util
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from unittest import mock

ROOT = Path(__file__).resolve().parent.parent
PROGRAMS = tuple(f"{family}_kernels" for family in ("conv", "rnn", "vae", "augment", "linear", "pool"))
SANITIZERS = {
    "plain": [],
    # A null pointer that is used ends the program anyway. Optimised, this takes two to three times as long to compile.
    "address": [
        *("-O0", "-g", "-DFASTVISION_INLINE="),  # core/inline.h
        *("-fsanitize=address,undefined", "-fno-sanitize=null", "-fno-sanitize-recover=all"),
    ],
    "thread": ["-O1", "-g", "-DFASTVISION_INLINE=", "-fsanitize=thread"],
}
NO_ADDRESS_SPACE = 77  # exit status of conv_huge


def load_setup() -> ModuleType:
    """setup.py as a module: its functions, without its call of setuptools.setup."""
    spec = importlib.util.spec_from_file_location("fastvision_setup", ROOT / "setup.py")
    module = importlib.util.module_from_spec(spec)
    with mock.patch("setuptools.setup"):
        spec.loader.exec_module(module)
    return module


def build(program: str, sanitizer: str, capability: str) -> Path:
    """The executable of tests/native/<program>.cpp with the kernels of one instruction set; up to date."""
    setup = load_setup()
    # The plain kernels are those of the package, object for object.
    directory = Path("build") / ("native" if sanitizer == "plain" else f"native-{sanitizer}")
    (kernels,) = (library for library in setup.libraries() if library.file == f"_cpu_{capability}.so")
    kernels = replace(kernels, compile=[*kernels.compile, *SANITIZERS[sanitizer]])
    with ThreadPoolExecutor(setup.job_count()) as pool:
        objects = [job.result() for job in setup.compile_objects(kernels, directory, pool)]
    source = Path("tests/native") / f"{program}.cpp"
    headers = [*(ROOT / "csrc").rglob("*.h"), *(ROOT / "tests").rglob("*.h")]
    executable = directory / f"{program}-{capability}"
    flags = ["-std=c++20", "-O2", "-Wall", "-Wextra", "-Werror", "-pthread", *SANITIZERS[sanitizer]]
    include = [f"-I{folder}" for folder in ("csrc", "tests", "tests/native")]
    command = [setup.compiler(), *flags, *include, str(source), *map(str, objects), "-o", str(executable)]
    setup.run_if_stale(command, executable, [source, *headers, *objects])
    return ROOT / executable


def run(executable: Path, *arguments: object, timeout: float = 600) -> subprocess.CompletedProcess[str]:
    """The first error that a sanitizer finds ends the program."""
    return subprocess.run(
        [str(executable), *map(str, arguments)],
        env=os.environ | {"TSAN_OPTIONS": "halt_on_error=1", "UBSAN_OPTIONS": "print_stacktrace=1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout,
    )
