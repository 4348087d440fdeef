"""Checks the CUDA side without a GPU: `make cuda-check`.

Compiles every kernel for every architecture, holds it against the budget in tests/cuda/budget.toml, links
the library as setup.py does, and executes the kernels on the CPU under the sanitizers, in every schedule.
Needs nvcc 13, g++, and cuobjdump (pip install nvidia-cuda-cuobjdump nvidia-cuda-nvdisasm).
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

import cuda_budget  # noqa: E402
from cuda_budget import ARCHITECTURES, LIBRARY_SOURCES, Kernel  # noqa: E402
from cuda_programs import AUGMENT_DRIVER, CONV_DRIVER, RNN_DRIVER, SANITIZERS, SCHEDULES, SEEDED_BUGS, VAE_DRIVER  # noqa: E402

DRIVERS = (CONV_DRIVER, RNN_DRIVER, VAE_DRIVER, AUGMENT_DRIVER)

CASES = {"plain": 1000, "address": 300, "thread": 60}


def fail(message: str) -> None:
    sys.exit(f"cuda-check: {message}")


def report(title: str, start: float) -> None:
    print(f"{title} ({time.monotonic() - start:.0f} s)", flush=True)


def check_tools() -> None:
    """Stops with a sentence that says what to install."""
    if cuda_budget.find_nvcc() is None:
        fail("nvcc was not found. Install the CUDA toolkit 13 or set CUDA_HOME to where it is.")
    if cuda_budget.find_cuobjdump() is None:
        fail("cuobjdump was not found. pip install nvidia-cuda-cuobjdump nvidia-cuda-nvdisasm")


def compile_all(directory: Path, jobs: int) -> list[Kernel]:
    """Every kernel for every architecture; prints the table of registers and occupancy."""
    with ThreadPoolExecutor(jobs) as pool:
        jobs_done = pool.map(
            lambda source: cuda_budget.inspect(source, list(ARCHITECTURES), directory), LIBRARY_SOURCES
        )
        kernels = [kernel for found in jobs_done for kernel in found]
    print(f"{'registers / resident warps':36s}" + "".join(f"{f'sm_{a}':>11s}" for a in ARCHITECTURES))
    for name in sorted({kernel.name for kernel in kernels}):
        cells = {k.architecture: f"{k.registers} / {k.resident_warps}" for k in kernels if k.name == name}
        print(f"{name:36s}" + "".join(f"{cells[a]:>11s}" for a in ARCHITECTURES))
    return kernels


def check_budget(kernels: list[Kernel]) -> list[str]:
    """All violations, entries that no kernel needs included."""
    budget = cuda_budget.read_budget()
    found = [violation for kernel in kernels for violation in cuda_budget.violations(kernel, budget)]
    return found + [
        f"{name}: in the budget, but there is no such kernel" for name in cuda_budget.unused(kernels, budget)
    ]


def link(directory: Path) -> None:
    """Links the library against the CUDA runtime and nothing else; every symbol must be found."""
    objects = [str(path) for path in sorted(directory.glob("*.o"))]
    library = directory / "_cuda.so"
    command = [str(cuda_budget.find_nvcc()), "-shared", "-cudart", "shared", "-Xlinker", "--no-undefined"]
    done = subprocess.run([*command, *objects, "-o", str(library)], capture_output=True, text=True)
    if done.returncode:
        fail(f"linking failed\n{done.stdout}{done.stderr}")
    symbols = subprocess.run(["nm", "-D", "--defined-only", str(library)], capture_output=True, text=True, check=True)
    if "fastvision_kernel_library" not in symbols.stdout:
        fail("the library does not export fastvision_kernel_library")


def execute(jobs: int) -> list[str]:
    """Runs the emulated kernels; returns the output of runs that failed."""
    with ThreadPoolExecutor(jobs) as pool:
        list(
            pool.map(
                lambda job: job[0].build(job[1]),
                [
                    (p, s)
                    for p in (CONV_DRIVER, RNN_DRIVER, VAE_DRIVER, AUGMENT_DRIVER, SEEDED_BUGS)
                    for s in SANITIZERS
                ],
            )
        )
        runs = [(SEEDED_BUGS, s, o, ["clean"]) for s in SANITIZERS for o in SCHEDULES]
        for number, schedule in enumerate(SCHEDULES):
            for sanitizer, cases in CASES.items():
                runs.append((CONV_DRIVER, sanitizer, schedule, [str(cases), str(1000 * (number + 1)), "1"]))
                for driver in DRIVERS[1:]:
                    runs.append((driver, sanitizer, schedule, [str(cases // 4), str(1000 * (number + 1))]))
        runs.append((CONV_DRIVER, "thread", "forward", ["15", "9000", "4"]))
        runs.append((CONV_DRIVER, "plain", "forward", ["200", "9100", "1", "far"]))
        results = list(pool.map(lambda run: run[0].run(run[1], run[2], *run[3], timeout=600), runs))
    return [
        f"{program.name} {' '.join(arguments)} ({sanitizer}, {schedule}):\n{result.stdout}"
        for (program, sanitizer, schedule, arguments), result in zip(runs, results, strict=True)
        if result.returncode
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), help="compilers and programs at once")
    jobs = parser.parse_args().jobs
    check_tools()
    problems = []
    with tempfile.TemporaryDirectory() as name:
        start = time.monotonic()
        kernels = compile_all(Path(name), jobs)
        problems += check_budget(kernels)
        report(f"{len(kernels)} kernels compiled for {len(ARCHITECTURES)} architectures", start)
        start = time.monotonic()
        link(Path(name))
        report("linked without undefined symbols", start)
    start = time.monotonic()
    problems += execute(jobs)
    report(f"executed on the CPU: {', '.join(SANITIZERS)} builds, {', '.join(SCHEDULES)} schedules", start)
    if problems:
        fail("\n".join(["failed", *problems]))
    print("cuda-check: all right")


if __name__ == "__main__":
    main()
