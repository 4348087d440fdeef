"""How a task is measured: its results first, then time."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import torch
from torch.utils.benchmark import Measurement

from fastvision.bench.checking import Accuracy, compare, error_to_stock, judge
from fastvision.bench.limits import Read
from fastvision.bench.memory import Memory, measure_memory
from fastvision.bench.peers import BASELINE, OURS, Peer, Task
from fastvision.bench.processes import Worker, apart
from fastvision.bench.timing import (
    MOST_SECONDS,
    Budget,
    block_timer,
    median_interval,
    seconds_of_calls,
    time_in_turns,
    time_single_calls,
)


@dataclass(frozen=True)
class PeerResult:
    """What one peer did with one task.

    Attributes:
        skipped: why the peer was not run, or None.
        accuracy: how far its results are from float64, and what is wrong with them.
        error_to_stock: the largest error in multiples of stock's; None where stock is exact.
        timing: seconds per call, one value for each round; None where the results are wrong.
        memory: of a call; None exactly where timing is.
        latencies: seconds of calls timed one by one; None where calls take long (timing.MOST_SECONDS).
    """

    skipped: str | None = None
    accuracy: Accuracy | None = None
    error_to_stock: float | None = None
    timing: Measurement | None = None
    memory: Memory | None = None
    latencies: Sequence[float] | None = None


@dataclass(frozen=True)
class TaskResult:
    """What was found for one task; `peers` has the results by name. The task's tensors are not kept."""

    case: str
    mode: str
    dtype: torch.dtype
    threads: int
    flops: int
    peers: dict[str, PeerResult]
    reads: tuple[Read, ...] = ()

    def median(self, peer: str) -> float | None:
        """Seconds per call; None where the peer was not timed."""
        timing = self.peers[peer].timing if peer in self.peers else None
        return timing.median if timing else None

    def speedup(self, peer: str) -> float | None:
        """How many times as long as fastvision the peer takes."""
        ours, theirs = self.median(OURS), self.median(peer)
        return theirs / ours if ours and theirs else None

    def speedup_interval(self, peer: str) -> tuple[float, float] | None:
        """Where the quotient lies, from its values in each round: neighbours are disturbed alike."""
        speedup = self.speedup(peer)
        if speedup is None:
            return None
        ours, theirs = self.peers[OURS].timing.times, self.peers[peer].timing.times
        low, high = median_interval([their / our for their, our in zip(theirs, ours, strict=True)])
        return min(low, speedup), max(high, speedup)

    def flops_per_second(self, peer: str) -> float | None:
        """The task's operations per second of the peer's median."""
        median = self.median(peer)
        return self.flops / median if median else None

    @property
    def failures(self) -> dict[str, str]:
        """What is wrong with the results, by peer."""
        judged = {name: result.accuracy for name, result in self.peers.items() if result.accuracy}
        return {name: accuracy.failure for name, accuracy in judged.items() if accuracy.failure}


TaskMakers = Mapping[str, Callable[[], Task]]  # by name; a task is made in the process that needs it


def measure(
    tasks: TaskMakers, peers: Sequence[Peer], budget: Budget, progress: Callable[[str], None]
) -> Iterator[TaskResult]:
    """Checks the peers, the baseline among them, on each task, and times those whose results are right.

    Each peer has a process of its own for all of the tasks, and the results are checked in others (processes.py); the
    peers' processes take turns. `progress` is told what comes next, while no clock runs.
    """
    with ExitStack() as stack:
        workers = {peer.name: stack.enter_context(Worker(partial(_make_probes, tasks, peer))) for peer in peers}
        for name, make_task in tasks.items():
            yield _measure_one(name, make_task, peers, workers, budget, progress)


def _measure_one(
    name: str,
    make_task: Callable[[], Task],
    peers: Sequence[Peer],
    workers: Mapping[str, Worker],
    budget: Budget,
    progress: Callable[[str], None],
) -> TaskResult:
    progress(f"{name}: checking")
    result = apart(partial(_check, make_task, peers))
    right = [peer for peer, found in result.peers.items() if found.accuracy and not found.accuracy.failure]
    timers = {peer: partial(workers[peer], name, "time") for peer in right}
    timings = time_in_turns(timers, budget, lambda step: progress(f"{name}: {step}"))
    latencies: Mapping[str, Sequence[float]] = {}
    if budget.single_calls and max((timing.median for timing in timings.values()), default=0.0) <= MOST_SECONDS:
        progress(f"{name}: single calls")
        latencies = time_single_calls(
            {peer: partial(workers[peer], name, "latencies") for peer in right}, budget.single_calls
        )
    timed = {
        peer: replace(
            result.peers[peer], timing=timing, memory=workers[peer](name, "memory"), latencies=latencies.get(peer)
        )
        for peer, timing in timings.items()
    }
    return replace(result, peers={**result.peers, **timed})


class _Probe:
    """A peer's call of one task, in the process where it is measured."""

    def __init__(self, make_task: Callable[[], Task], peer: Peer) -> None:
        task = make_task()
        self._is_inference = task.mode == "infer"
        self._call = peer.prepare(task)
        self._timer = block_timer(self._call, task.threads, peer.name)

    def time(self, size: int) -> Measurement:
        """A block of so many calls."""
        with torch.inference_mode(self._is_inference):
            return self._timer(size)

    def latencies(self, count: int) -> list[float]:
        """Of so many calls."""
        with torch.inference_mode(self._is_inference):
            return seconds_of_calls(self._call, count)

    def memory(self) -> Memory:
        """Of a call among many: to be asked for after blocks of them."""
        with torch.inference_mode(self._is_inference):
            return measure_memory(self._call)


def _make_probes(tasks: TaskMakers, peer: Peer) -> Callable[..., Measurement | Memory | list[float]]:
    """Measures one thing of a task by its name. Only the last task's tensors are kept."""
    probed, probe = None, None

    def ask(
        name: str, what: Literal["time", "latencies", "memory"], *arguments: int
    ) -> Measurement | Memory | list[float]:
        nonlocal probed, probe
        if name != probed:
            probe = None  # what it holds goes before the next task's tensors come
            probed, probe = name, _Probe(tasks[name], peer)
        return getattr(probe, what)(*arguments)

    return ask


def _check(make_task: Callable[[], Task], peers: Sequence[Peer]) -> TaskResult:
    """What there is to say without a clock: why a peer was skipped, or how accurate it is."""
    task = make_task()
    torch.set_num_threads(task.threads)
    results = prepare(task, peers)[1]
    return TaskResult(task.name, task.mode, task.dtype, task.threads, task.flops, results, task.reads)


def prepare(task: Task, peers: Sequence[Peer]) -> tuple[dict[str, Callable[[], object]], dict[str, PeerResult]]:
    """The calls worth timing, by peer, and each peer's result so far: why it was skipped, or how accurate it is."""
    skipped = {peer.name: peer.unsupported(task) for peer in peers}
    calls = {peer.name: peer.prepare(task) for peer in peers if not skipped[peer.name]}
    with torch.inference_mode(task.mode == "infer"):
        checked = check(task, calls, {peer.name: getattr(peer, "tolerance", 0.0) for peer in peers})
    results = {peer.name: checked.get(peer.name, PeerResult(skipped[peer.name])) for peer in peers}
    return {name: call for name, call in calls.items() if not checked[name].accuracy.failure}, results


def check(task: Task, calls: dict[str, Callable[[], object]], tolerances: Mapping[str, float]) -> dict[str, PeerResult]:
    """Compares what each call computes with the task's reference, and the errors with those of the baseline."""
    reference = task.reference()
    compared = {name: compare(task.as_results(call()), reference, task.results) for name, call in calls.items()}
    stock = compared[BASELINE]
    return {
        name: PeerResult(
            accuracy=judge(accuracy, stock, task.dtype, tolerances[name]),
            error_to_stock=error_to_stock(accuracy, stock),
        )
        for name, accuracy in compared.items()
    }
