"""The benchmark suite's clock, its processes, and what it measures of the machine."""

import operator
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

pytest.importorskip("rich", reason="the benchmark suite needs rich: pip install 'fastvision[bench]'")

import fastvision
from fastvision._native import _C
from fastvision.bench.machine import buffer_sizes, cache_sizes, governor, measure_machine, source_commit
from fastvision.bench.processes import Worker, apart
from fastvision.bench.timing import (
    BlockTimer,
    Budget,
    block_timer,
    seconds_of_calls,
    time_in_turns,
    time_single_calls,
)

ONE_ROUND = Budget(seconds=0.0, block_seconds=0.0, min_rounds=1, max_rounds=1)


def ignore(step: str) -> None:
    """Progress that nobody watches."""


# Timing


def timers(calls: dict[str, Callable[[], object]], threads: int = 1) -> dict[str, BlockTimer]:
    return {name: block_timer(call, threads, name) for name, call in calls.items()}


def blocks(calls: list[str]) -> list[str]:
    """The names in the order of their turns."""
    return [name for i, name in enumerate(calls) if i == 0 or calls[i - 1] != name]


def test_calls_take_turns_and_the_order_alternates():
    made: list[str] = []
    calls = {name: lambda name=name: made.append(name) for name in "abc"}
    steps: list[str] = []
    budget = replace(ONE_ROUND, min_rounds=3, max_rounds=3)

    def progress(step: str) -> None:
        if not steps:
            made.clear()  # calls before the first round measure how long they last
        steps.append(step)

    timings = time_in_turns(timers(calls), budget, progress)
    assert blocks(made) == ["a", "b", "c", "b", "a", "b", "c"]  # c and a have two turns running where rounds meet
    assert steps == ["round 1", "round 2", "round 3"]
    assert {name: len(timing.times) for name, timing in timings.items()} == {"a": 3, "b": 3, "c": 3}


@pytest.mark.parametrize(("seconds", "rounds"), [(0.0, 2), (60.0, 5)])
def test_rounds_follow_the_budget(seconds: float, rounds: int):
    budget = Budget(seconds=seconds, block_seconds=1e-6, min_rounds=2, max_rounds=5)
    assert len(time_in_turns(timers({"a": lambda: None}), budget, ignore)["a"].times) == rounds


@pytest.mark.parametrize(("least", "rounds"), [(5, 3), (2, 2)])
def test_rounds_of_long_calls_end_early(least: int, rounds: int):
    budget = Budget(seconds=0.0, block_seconds=1e-6, min_rounds=least, max_rounds=9, most_seconds=0.0)
    assert len(time_in_turns(timers({"a": lambda: None}), budget, ignore)["a"].times) == rounds


def test_timing_runs_on_the_threads_asked_for():
    seen = set()
    time_in_turns(timers({"a": lambda: seen.add(torch.get_num_threads())}, threads=2), ONE_ROUND, ignore)
    assert seen == {2}


def test_single_calls_are_timed_in_turns():
    made: list[str] = []

    def timer(name: str, count: int) -> list[float]:
        made.append(name)
        return seconds_of_calls(lambda: time.sleep(1e-3), count)

    seconds = time_single_calls({name: partial(timer, name) for name in "ab"}, 8)
    assert made == ["a", "b", "b", "a", "a", "b", "b", "a"]
    assert [len(values) for values in seconds.values()] == [8, 8]
    assert min(map(min, seconds.values())) >= 1e-3


# Processes


def make_getpid() -> Callable[[], int]:
    return partial(os.getpid)


def settings() -> tuple[int, str]:
    return torch.get_num_threads(), fastvision.backends.cpu.capability


def run_parallel_loop() -> float:
    return torch.ones(1 << 20).sum().item()


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_worker_keeps_what_it_made_in_a_process_of_its_own():
    with Worker(make_getpid) as worker:
        assert worker() == worker() != os.getpid()
    assert apart(os.getpid) != os.getpid()


def test_worker_reports_what_went_wrong():
    with pytest.raises(RuntimeError, match="ZeroDivisionError: division by zero"):
        apart(partial(operator.truediv, 1, 0))
    with pytest.raises(RuntimeError, match="the measuring process ended with exit code 3"):
        apart(partial(os._exit, 3))


@pytest.mark.usefixtures("two_threads")
def test_worker_runs_parallel_loops_after_this_process_has():
    assert run_parallel_loop() == apart(run_parallel_loop) == 1 << 20


@pytest.mark.usefixtures("two_threads")
def test_worker_has_the_settings_of_this_process():
    before = fastvision.backends.cpu.capability
    try:
        fastvision.backends.cpu.capability = "default"
        assert apart(settings) == (2, "default")
    finally:
        fastvision.backends.cpu.capability = before


# Machine


def test_machine_is_measured():
    machine = measure_machine()
    assert machine.fma_flops_per_core > 0
    assert list(machine.read_bandwidth)[-1] == "memory"
    assert all(read.bytes_per_second > 0 for read in machine.read_bandwidth.values())
    assert machine.facts["cpu_capability"] == fastvision.backends.cpu.capability
    assert list(machine.facts["caches"]) == list(machine.read_bandwidth)[:-1]


@pytest.mark.parametrize("capability", ["avx512", "avx2", "default"])
@pytest.mark.parametrize("size", [-1, 0, 1, 4097])
def test_bandwidth_of_buffers_of_any_size(capability: str, size: int):
    before = fastvision.backends.cpu.capability
    if capability not in fastvision.backends.cpu.available_capabilities():
        pytest.skip(f"this processor has no {capability}")
    try:
        fastvision.backends.cpu.capability = capability
        assert _C.measure_read_bandwidth(size, 0.0) > 0
        assert _C.measure_fma_peak(-1.0) > 0
    finally:
        fastvision.backends.cpu.capability = before


def test_cache_sizes_are_read_from_sys(tmp_path: Path):
    for number, (kind, level, size) in enumerate(
        [("Data", 1, "48K"), ("Instruction", 1, "32K"), ("Unified", 2, "1024K")]
    ):
        index = tmp_path / f"index{number}"
        index.mkdir()
        for name, value in (("type", kind), ("level", level), ("size", size)):
            (index / name).write_text(f"{value}\n")
    assert cache_sizes(tmp_path) == {"L1": 48 << 10, "L2": 1 << 20}
    assert cache_sizes(tmp_path / "elsewhere") == {}


def test_governor_is_read_from_sys(tmp_path: Path):
    assert governor(tmp_path) is None
    (tmp_path / "scaling_governor").write_text("performance\n")
    assert governor(tmp_path) == "performance"


def test_buffers_lie_in_one_cache():
    sizes = buffer_sizes({"L1": 32 << 10, "L2": 512 << 10, "L3": 32 << 20})
    assert sizes == {"L1": 16 << 10, "L2": 128 << 10, "L3": 2 << 20, "memory": 256 << 20}
    assert buffer_sizes({"L1": 48 << 10, "L2": 64 << 10})["L2"] == 32 << 10
    assert buffer_sizes({}) == {"memory": 256 << 20}


def test_source_commit_is_that_of_the_tracking_checkout(tmp_path: Path):
    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=n", "-c", "user.email=e", "-c", "commit.gpgsign=false"]
        command = ["git", "-C", str(tmp_path), *identity, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    tracked, untracked = tmp_path / "tracked.py", tmp_path / "untracked.py"
    tracked.write_text("")
    untracked.write_text("")
    assert source_commit(tracked) is None
    git("init")
    git("add", "tracked.py")
    git("commit", "-m", "first")
    commit = git("rev-parse", "HEAD")
    assert commit.startswith(source_commit(tracked))
    assert source_commit(untracked) is None
    tracked.write_text("changed")
    assert source_commit(tracked).endswith("-dirty")
