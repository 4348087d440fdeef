"""setup.py: what it says when something is missing, and what it recompiles."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from native_programs import ROOT, load_setup

COMPILER = os.environ.get("CXX", "g++").split()[0]
needs_compiler = pytest.mark.skipif(shutil.which(COMPILER) is None, reason=f"no C++ compiler: {COMPILER} was not found")


def run_setup(folder, **environment):
    """Builds a copy of setup.py in an empty folder, which ends at the first thing that is missing."""
    shutil.copy(ROOT / "setup.py", folder)
    return subprocess.run(
        [sys.executable, "setup.py", "--quiet", "build_ext", "--inplace"],
        cwd=folder,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=100,
    )


def test_missing_torch(tmp_path):
    broken = tmp_path / "packages" / "torch"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text("raise ImportError('not here')")
    result = run_setup(tmp_path, PYTHONPATH=str(broken.parent))
    assert result.returncode == 1
    assert "PyTorch is not installed in the environment that builds fastvision" in result.stderr
    assert "pip install torch" in result.stderr
    assert "pip install --no-build-isolation ." in result.stderr
    assert "Traceback" not in result.stderr


def test_missing_compiler(tmp_path):
    result = run_setup(tmp_path, CXX="g++-of-nowhere -m64")
    assert result.returncode == 1
    assert "no C++ compiler: 'g++-of-nowhere -m64' was not found" in result.stderr
    assert "apt-get install g++" in result.stderr
    assert "Traceback" not in result.stderr


def test_missing_cuda_toolkit(monkeypatch, tmp_path):
    setup = load_setup()
    monkeypatch.setenv("FASTVISION_CUDA", "1")
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    monkeypatch.setattr(setup.shutil, "which", lambda name: None)
    monkeypatch.setattr(setup.Path, "exists", lambda path: False)
    with pytest.raises(SystemExit, match=r"nvcc was not found\. Install the CUDA toolkit or set CUDA_HOME"):
        setup.cuda_home(torch=None)


def test_architectures_from_the_environment(monkeypatch):
    setup = load_setup()
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "8.0;9.0+PTX")
    assert setup.cuda_architecture_flags() == [
        "-gencode=arch=compute_80,code=sm_80",
        "-gencode=arch=compute_90,code=sm_90",
        "-gencode=arch=compute_90,code=compute_90",
    ]


@pytest.mark.parametrize(("free", "jobs"), [(1e9, 1), (3.1e9, 2), (1e12, 64)])
def test_jobs_follow_free_memory_and_cores(monkeypatch, tmp_path, free, jobs):
    setup = load_setup()
    monkeypatch.delenv("MAX_JOBS", raising=False)
    monkeypatch.setattr(setup.os, "sched_getaffinity", lambda pid: set(range(64)))
    monkeypatch.setattr(setup.Path, "read_text", lambda path: f"MemTotal: 9 kB\nMemAvailable: {free / 1024:.0f} kB\n")
    assert setup.job_count() == jobs


def test_jobs_from_the_environment(monkeypatch):
    monkeypatch.setenv("MAX_JOBS", "3")
    assert load_setup().job_count() == 3


@pytest.fixture
def small_project(tmp_path, monkeypatch):
    """Two libraries of tiny sources, the second linked to the first, built by setup.py's functions."""
    sources = tmp_path / "csrc"
    sources.mkdir()
    (sources / "shared.h").write_text("int one(); int two();\n")
    (sources / "one.cpp").write_text('#include "shared.h"\nint one() { return 1; }\n')
    (sources / "two.cpp").write_text('#include "shared.h"\nint two() { return 2; }\n')
    (sources / "alone.cpp").write_text("int three() { return 3; }\n")
    (sources / "user.cpp").write_text('#include "shared.h"\nint sum() { return one() + two(); }\n')
    setup = load_setup()
    compile, link = [COMPILER, "-fPIC", f"-I{sources}"], [COMPILER, "-shared"]
    base = setup.Library("base.so", [sources / f"{n}.cpp" for n in ("one", "two", "alone")], compile, link)
    user = setup.Library("user.so", [sources / "user.cpp"], compile, link, needs=["base.so"])
    monkeypatch.setattr(setup, "CSRC", sources)
    monkeypatch.setattr(setup, "libraries", lambda: [base, user])
    return sources, lambda: setup.build(tmp_path / "build")


def rebuilt(build, capfd):
    """What a build compiles and links."""
    capfd.readouterr()
    build()
    return set(capfd.readouterr().out.split())


def touch(file: Path) -> None:
    """Makes the file newer than everything that was built from it, whatever the file system's clock resolves."""
    newer = time.time() + 2
    os.utime(file, (newer, newer))


@needs_compiler
def test_only_what_changed_is_recompiled(small_project, capfd):
    sources, build = small_project
    assert rebuilt(build, capfd) == {"one.cpp.o", "two.cpp.o", "alone.cpp.o", "user.cpp.o", "base.so", "user.so"}
    assert rebuilt(build, capfd) == set()
    touch(sources / "alone.cpp")
    assert rebuilt(build, capfd) == {"alone.cpp.o", "base.so", "user.so"}


@needs_compiler
def test_a_header_recompiles_those_that_include_it(small_project, capfd):
    sources, build = small_project
    build()
    touch(sources / "shared.h")
    assert rebuilt(build, capfd) == {"one.cpp.o", "two.cpp.o", "user.cpp.o", "base.so", "user.so"}


@needs_compiler
def test_a_compile_error_ends_the_build_with_the_compilers_words(small_project):
    sources, build = small_project
    (sources / "one.cpp").write_text("int one() { return undeclared; }\n")
    with pytest.raises(SystemExit, match="undeclared"):
        build()


def dynamic_section(library):
    command = ["readelf", "--wide", "--dynamic", "--dyn-syms", str(library)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


needs_readelf = pytest.mark.skipif(shutil.which("readelf") is None, reason="readelf (binutils) was not found")


@needs_readelf
def test_libraries_find_each_other_wherever_they_are_installed():
    for library in (ROOT / "fastvision").glob("*.so"):
        section = dynamic_section(library)
        needed = [line for line in section.splitlines() if "(NEEDED)" in line or "PATH)" in line]
        assert not any(str(ROOT) in line for line in needed), library.name


@needs_readelf
def test_libfastvision_has_no_python_symbols():
    assert " Py" not in dynamic_section(ROOT / "fastvision" / "libfastvision.so")


def test_import_without_the_native_library_says_how_to_build_it(tmp_path):
    package = tmp_path / "fastvision"
    shutil.copytree(ROOT / "fastvision", package, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    # An editable installation would find the library where it was built.
    code = "import sys; sys.meta_path = [f for f in sys.meta_path if 'editable' not in repr(f)]; import fastvision"
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=100)
    assert result.returncode == 1
    assert "ImportError: fastvision's native library could not be loaded" in result.stderr
    assert "pip install --no-build-isolation" in result.stderr


def import_built_with(version, tmp_path):
    """What an import says of the package as it is, but for the record of the torch that it was built with."""
    package = tmp_path / "fastvision"
    shutil.copytree(ROOT / "fastvision", package, ignore=shutil.ignore_patterns("__pycache__"))
    (package / "_built_with.py").write_text(f'TORCH_VERSION = "{version}"\n')
    command = [sys.executable, "-c", "import fastvision; print('imported')"]
    return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=100)


def test_import_with_another_torch_names_both(tmp_path):
    result = import_built_with("2.4.1+cu121", tmp_path)
    assert result.returncode == 1
    sentence = f"built with torch 2.4.1+cu121, but torch {torch.__version__} is installed. Install torch==2.4.*, or"
    assert sentence in result.stderr


def test_import_with_a_torch_that_differs_in_the_last_number(tmp_path):
    major, minor, *_ = torch.__version__.split(".")
    assert import_built_with(f"{major}.{minor}.9+cu130", tmp_path).stdout == "imported\n"


def test_the_build_records_its_torch():
    record = ROOT / "fastvision" / "_built_with.py"
    assert record.read_text() == f'TORCH_VERSION = "{torch.__version__}"\n'


def test_requirements_are_the_torch_of_the_build():
    setup = load_setup()
    assert setup.requirements("2.13.0+cpu") == ["torch==2.13.*", "numpy"]
    assert setup.requirements(None) == ["torch>=2.13", "numpy"]
