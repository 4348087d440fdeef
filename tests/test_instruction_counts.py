"""The number of instructions that the CPU kernels take: a regression that no noisy machine hides."""

import importlib.util
import os
import shutil
from types import ModuleType

import native_programs
import pytest

import fastvision


def load_tool() -> ModuleType:
    """tools/instruction_counts.py as a module."""
    path = native_programs.ROOT / "tools" / "instruction_counts.py"
    spec = importlib.util.spec_from_file_location("instruction_counts", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


tool = load_tool()


def test_more_instructions_than_tolerated_are_found():
    stored = {"a": 100, "b": 100, "gone": 100}
    assert tool.worse({"a": 102, "b": 50, "gone": 100}, stored, tolerance=0.02) == []
    assert tool.worse({"a": 103, "b": 100, "new": 1}, stored, tolerance=0.02) == ["a", "gone", "new"]


@pytest.mark.slow
def test_kernels_take_as_many_instructions_as_before():
    for program in ("valgrind", os.environ.get("CXX", "g++").split()[0]):
        if shutil.which(program) is None:
            pytest.skip(f"{program} was not found")
    if tool.CAPABILITY not in fastvision.backends.cpu.available_capabilities():
        pytest.skip(f"this processor has no {tool.CAPABILITY}")
    table = tool.load_table()
    if table["compiler"] != tool.compiler():
        pytest.skip(f"the counts are of {table['compiler']}, this is {tool.compiler()}")
    counts = tool.count()
    assert tool.worse(counts, table["counts"], tool.TOLERANCE) == []
