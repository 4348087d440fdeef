"""Builds the native libraries: libfastvision, its Python face _C, and one kernel library per instruction set.

Environment: MAX_JOBS (compilers at once; default: as many as cores and free memory allow), CXX,
FASTVISION_CUDA=auto|1|0 (auto: where torch has CUDA and nvcc is found), CUDA_HOME, TORCH_CUDA_ARCH_LIST,
FASTVISION_EMULATED=1 (also build the CUDA kernels for execution on the CPU, which the tests use).
"""

import os
import shlex
import shutil
import subprocess
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent.resolve()
CSRC = Path("csrc")  # relative, as all paths of a command: a checkout that moves keeps its objects
CUDA_ARCHITECTURES = ["75", "80", "86", "90", "100", "120"]
MEMORY_PER_COMPILER = 1.5e9  # bytes: a source that includes torch's headers

CPU_CAPABILITIES = {
    "default": [],
    "avx2": ["-mavx2", "-mfma", "-mf16c"],
    "avx512": ["-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mfma", "-mf16c", "-mprefer-vector-width=512"],
}


def fail(message: str) -> None:
    sys.exit(f"\nfastvision: {message}\n")


def import_torch():
    try:
        import torch
    except ImportError:
        fail(
            "PyTorch is not installed in the environment that builds fastvision.\n"
            "Install it first, for example with `pip install torch==2.13.0`, then build without isolation:\n"
            "`pip install --no-build-isolation .`"
        )
    return torch


def compiler() -> str:
    cxx = os.environ.get("CXX", "g++")
    if shutil.which(shlex.split(cxx)[0]) is None:
        fail(
            f"no C++ compiler: '{cxx}' was not found. Install g++ 12 or newer (Debian: apt-get install g++) or set CXX."
        )
    return cxx


def cuda_home(torch) -> Path | None:
    """Where nvcc lives, or None where the CUDA library is not wanted."""
    wish = os.environ.get("FASTVISION_CUDA", "auto")
    if wish == "0" or (wish == "auto" and torch.version.cuda is None):
        return None
    nvcc = shutil.which("nvcc")
    candidates = [os.environ.get("CUDA_HOME"), "/usr/local/cuda", nvcc and Path(nvcc).resolve().parent.parent]
    for home in filter(None, candidates):
        if (Path(home) / "bin" / "nvcc").exists():
            return Path(home)
    if wish == "1":
        fail("FASTVISION_CUDA=1, but nvcc was not found. Install the CUDA toolkit or set CUDA_HOME to where it is.")
    print("fastvision: torch has CUDA but nvcc was not found; the CUDA kernels are left out", file=sys.stderr)
    return None


def cuda_architecture_flags() -> list[str]:
    wish = os.environ.get("TORCH_CUDA_ARCH_LIST", "")
    names = [a.split("+")[0].replace(".", "") for a in wish.replace(";", " ").split()] or CUDA_ARCHITECTURES
    flags = [f"-gencode=arch=compute_{a},code=sm_{a}" for a in names]
    return [*flags, f"-gencode=arch=compute_{names[-1]},code=compute_{names[-1]}"]


def sources(pattern: str) -> list[Path]:
    return sorted(path.relative_to(ROOT) for path in (ROOT / CSRC).glob(pattern))


@dataclass
class Library:
    """One shared object: its file name, sources, and how they are compiled and linked."""

    file: str
    sources: list[Path]
    compile: list[str]
    link: list[str] = field(default_factory=list)
    needs: list[str] = field(default_factory=list)  # other libraries of ours that it links to
    headers: list[str] = field(default_factory=list)  # compiled once for all sources: most of their time is torch's


def libraries() -> list[Library]:
    torch = import_torch()
    cxx = shlex.split(compiler())
    torch_dir = Path(torch.__file__).parent
    include = [f"-I{CSRC}", *(f"-isystem{torch_dir / d}" for d in ("include", "include/torch/csrc/api/include"))]
    abi = f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}"
    common = [*cxx, "-std=c++20", "-fPIC", "-Wall", "-Wextra", "-Wno-unused-parameter", abi, *include]
    run_path = ["-Wl,-rpath,$ORIGIN", "-Wl,-rpath,$ORIGIN/../torch/lib", f"-L{torch_dir / 'lib'}"]
    link = [*cxx, "-shared", "-Wl,--no-undefined", *run_path]

    import sysconfig

    python_suffix = sysconfig.get_config_var("EXT_SUFFIX")
    result = [
        Library(
            "libfastvision.so",
            [
                CSRC / "library.cpp",
                *sources("*/*.cpp"),
            ],
            # at::parallel_for is a template: without OpenMP here it would silently be a plain loop.
            [*common, "-O2", "-fopenmp", "-fvisibility=hidden", "-fvisibility-inlines-hidden"],
            [*link, "-fopenmp", "-Wl,-soname,libfastvision.so", "-ltorch_cpu", "-lc10", "-ldl"],
            headers=["ATen/core/Tensor.h", "torch/library.h"],
        ),
        Library(
            f"_C{python_suffix}",
            [CSRC / f"{name}.cpp" for name in ("operator_call", "prepared_call", "python", "unchanged")],
            [*common, "-O2", "-fvisibility=hidden", f"-isystem{sysconfig.get_path('include')}"],
            [*cxx, "-shared", *run_path, "-ltorch_python", "-ltorch_cpu", "-lc10"],
            needs=["libfastvision.so"],
        ),
    ]
    kernels = [CSRC / "cpu_library.cpp", *sources("*/cpu/*.cpp")]
    for name, flags in CPU_CAPABILITIES.items():
        macros = [f"-DCPU_CAPABILITY={name.upper()}", f"-DCPU_CAPABILITY_{name.upper()}"]
        # Hidden symbols: an inline function compiled for AVX-512 must never serve another library.
        # (GCC 12's AVX-512 headers warn of themselves.)
        quiet = ["-Wno-maybe-uninitialized", "-Wno-uninitialized"]
        optimise = [
            "-O3",
            "-fno-math-errno",
            "-fno-trapping-math",
            "-fvisibility=hidden",
            "-fvisibility-inlines-hidden",
        ]
        result.append(
            Library(
                f"_cpu_{name}.so",
                kernels,
                [*common, *macros, *flags, *optimise, *quiet],
                [*link, "-Wl,-Bsymbolic", "-ltorch_cpu", "-lc10"],
                headers=["ATen/cpu/vec/vec.h"],
            )
        )

    cuda_sources = [CSRC / "cuda_library.cu", *sources("*/cuda/*.cu")]
    if os.environ.get("FASTVISION_EMULATED") == "1":
        emulated = [*cxx, "-x", "c++", "-std=c++20", "-fPIC", "-O2", "-fvisibility=hidden", f"-I{CSRC}"]
        result.append(Library("_emulated.so", cuda_sources, emulated, [*link, "-lpthread"]))
    if home := cuda_home(torch):
        nvcc = [str(home / "bin" / "nvcc"), "-std=c++20", "-O3", f"-I{CSRC}", *cuda_architecture_flags()]
        hidden = ["-Xcompiler", "-fPIC,-fvisibility=hidden"]
        cuda_link = [*nvcc[:1], "-shared", "-cudart", "shared", "-Xlinker", "--no-undefined"]
        result.append(Library("_cuda.so", cuda_sources, [*nvcc, *hidden], cuda_link))
    return result


def job_count() -> int:
    if jobs := os.environ.get("MAX_JOBS"):
        return max(1, int(jobs))
    free = MEMORY_PER_COMPILER
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            free = int(line.split()[1]) * 1024
    return max(1, min(len(os.sched_getaffinity(0)), int(free / MEMORY_PER_COMPILER)))


def prerequisites(dependency_file: Path) -> list[Path]:
    text = (ROOT / dependency_file).read_text().replace("\\\n", " ")
    return [Path(name) for name in shlex.split(text.split(":", 1)[1])]


def run_if_stale(command: list[str], output: Path, inputs: list[Path]) -> bool:
    """Runs the command unless output is newer than every input and was made by the same command."""
    output = ROOT / output
    record = output.with_name(output.name + ".command")
    line = shlex.join(command)
    if output.exists() and record.exists() and record.read_text() == line:
        made = output.stat().st_mtime
        if all(i.exists() and i.stat().st_mtime <= made for i in (ROOT / i for i in inputs)):
            return False
    output.parent.mkdir(parents=True, exist_ok=True)
    print(f"  {output.name}", flush=True)
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        sys.exit(f"\n{line}\n{done.stdout}{done.stderr}")
    if done.stderr.strip():
        print(done.stderr, file=sys.stderr)
    record.write_text(line)
    return True


def object_directory(library: Library, directory: Path) -> Path:
    return directory / library.file.split(".")[0]


def precompile_headers(library: Library, directory: Path) -> Path | None:
    """The header to put before every source of the library; the compiler finds its compiled form beside it."""
    if not library.headers:
        return None
    header = object_directory(library, directory) / "headers.h"
    text = "".join(f"#include <{name}>\n" for name in library.headers)
    if not (ROOT / header).exists() or (ROOT / header).read_text() != text:
        (ROOT / header).parent.mkdir(parents=True, exist_ok=True)
        (ROOT / header).write_text(text)
    compiled = header.with_name("headers.h.gch")
    run_if_stale([*library.compile, "-x", "c++-header", str(header), "-o", str(compiled)], compiled, [header])
    return header


def compile_object(library: Library, source: Path, directory: Path, header: Path | None = None) -> Path:
    name = str(source.relative_to(CSRC)).replace("/", "_") + ".o"
    output = object_directory(library, directory) / name
    dependencies = output.with_suffix(".d")
    inputs = prerequisites(dependencies) if (ROOT / dependencies).exists() else [source]
    first = ["-include", str(header)] if header else []
    command = [*library.compile, *first, "-MMD", "-MF", str(dependencies), "-c", str(source), "-o", str(output)]
    run_if_stale(command, output, inputs)
    return output


def compile_objects(library: Library, directory: Path, pool: ThreadPoolExecutor) -> list[Future]:
    header = pool.submit(precompile_headers, library, directory)
    return [
        pool.submit(lambda source=source: compile_object(library, source, directory, header.result()))
        for source in library.sources
    ]


def build(directory: Path) -> list[Path]:
    """Compiles what is out of date in the directory, a path from ROOT; returns the shared objects."""
    wanted = libraries()
    built: dict[str, Path] = {library.file: directory / library.file for library in wanted}
    with ThreadPoolExecutor(job_count()) as pool:
        objects = {library.file: compile_objects(library, directory, pool) for library in wanted}
        for library in wanted:
            inputs = [job.result() for job in objects[library.file]] + [built[name] for name in library.needs]
            command = [*library.link[:1], *map(str, inputs), *library.link[1:], "-o", str(built[library.file])]
            run_if_stale(command, built[library.file], inputs)
    return [ROOT / file for file in built.values()]


class BuildNative(build_ext):
    """build_ext over our own graph: setuptools knows extension modules, not libraries that share kernels."""

    def run(self) -> None:
        target = ROOT / "fastvision" if self.inplace else Path(self.build_lib) / "fastvision"
        target.mkdir(parents=True, exist_ok=True)
        print("fastvision: building the native libraries", flush=True)
        self.built = []
        for file in build(Path("build/native")):
            copy = target / file.name
            if not copy.exists() or copy.stat().st_mtime < file.stat().st_mtime:
                copy.unlink(missing_ok=True)  # a process may have the old file mapped
                shutil.copy2(file, copy)
            self.built.append(str(copy))
        record = target / "_built_with.py"
        text = f'TORCH_VERSION = "{import_torch().__version__}"\n'
        if not record.exists() or record.read_text() != text:
            record.write_text(text)
        self.built.append(str(record))

    def get_outputs(self) -> list[str]:
        return getattr(self, "built", [])


def requirements(torch_version: str | None) -> list[str]:
    """Native code fits the torch that it was built with; sources alone fit any that is new enough."""
    if torch_version is None:
        return ["torch>=2.13", "numpy"]
    return [f"torch=={'.'.join(torch_version.split('.')[:2])}.*", "numpy"]


torch_version = None
# At the start, not after minutes: everything but a source archive needs both.
if not {"sdist", "egg_info"} & set(sys.argv):
    torch_version = import_torch().__version__
    compiler()

setup(
    cmdclass={"build_ext": BuildNative},
    ext_modules=[Extension("fastvision._C", ["csrc/python.cpp"])],
    install_requires=requirements(torch_version),
)
