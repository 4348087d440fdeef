"""The benchmarks under pytest-benchmark: the cases of the benchmark suite, and no others."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("rich", reason="the benchmarks need rich: pip install 'fastvision[bench]'")
pytest.importorskip("pytest_benchmark", reason="the benchmarks need it: pip install 'fastvision[bench]'")

from fastvision.bench.families import FAMILIES
from fastvision.bench.peers import choose

ROOT = Path(__file__).parent.parent
MEASURED = ("conv", "linear", "pool", "rnn", "vae", "augment")


def pytest_on_benchmarks(*arguments: str) -> str:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_benchmarks_are_the_cases_of_the_families():
    found = re.findall(
        r"^benchmarks/bench_(\w+)\.py::test_\w+\[(.+)\]$", pytest_on_benchmarks("benchmarks", "--collect-only"), re.M
    )
    expected = {
        (name, f"{case.name} {mode}-{peer.name}")
        for name in MEASURED
        for case in FAMILIES[name].cases
        for mode in case.modes
        for peer in choose(FAMILIES[name].peers, None)
    }
    assert set(found) == expected
    assert len(found) == len(expected)


@pytest.mark.slow
def test_benchmarks_run():
    smallest = {
        "conv": "b1 1>32 @28",
        "linear": "b1 1152>128",
        "pool": "b1 64 @55 3/2",
        "rnn": "GRUCell b1 128>128",
        "vae": "256x100",
        "augment": "b1 3 @224 nearest",
    }
    tests = [f"benchmarks/bench_{name}.py::test_{name}[{case} infer-stock]" for name, case in smallest.items()]
    assert "6 passed" in pytest_on_benchmarks(*tests, "--benchmark-disable")
