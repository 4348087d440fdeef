"""The CPU kernels in C++ programs, without Python and torch: correctness, 64-bit indices, sanitizers."""

import os
import shutil

import native_programs
import pytest

import fastvision

CPU = [name for name in fastvision.backends.cpu.available_capabilities() if name != "emulated"]
COMPILER = os.environ.get("CXX", "g++").split()[0]
pytestmark = pytest.mark.skipif(shutil.which(COMPILER) is None, reason=f"no C++ compiler: {COMPILER} was not found")


def check(program, sanitizer, capability, *arguments):
    result = native_programs.run(native_programs.build(program, sanitizer, capability), *arguments)
    if result.returncode == native_programs.NO_ADDRESS_SPACE:
        pytest.skip("this system gives a process less than 200 GB of address space")
    assert result.returncode == 0, result.stdout


@pytest.mark.slow
@pytest.mark.parametrize("capability", CPU)
@pytest.mark.parametrize("program", native_programs.PROGRAMS)
def test_kernels_need_no_torch_and_agree_with_plain_loops(program, capability):
    check(program, "plain", capability, 200, 2)


@pytest.mark.slow
def test_tensors_of_more_than_2_to_31_elements():
    check("conv_huge", "plain", CPU[0])


# The instruction set that compiles fastest; all of them and more problems: make sanitize.
@pytest.mark.slow
@pytest.mark.parametrize("sanitizer", ["address", "thread"])
@pytest.mark.parametrize("program", native_programs.PROGRAMS)
def test_sanitizers_find_nothing(program, sanitizer):
    check(program, sanitizer, "default", 40, 3)
