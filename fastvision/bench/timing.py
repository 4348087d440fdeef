"""Timing calls that take turns, so that whatever else the machine does disturbs all of them alike."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import comb, inf
from time import perf_counter

from torch.utils.benchmark import Measurement, Timer


@dataclass(frozen=True)
class Budget:
    """How long calls are timed.

    Attributes:
        seconds: rounds go on until these are over.
        block_seconds: in each round every call has one turn, a block of calls that lasts about as long.
        min_rounds: even where they take longer than `seconds`, until `most_seconds` are over.
        max_rounds: even where they take less.
        most_seconds: no round begins after these, unless there are fewer than FEWEST_ROUNDS.
        single_calls: so many of each, timed one by one, where a call is short enough (MOST_SECONDS).
    """

    seconds: float
    block_seconds: float
    min_rounds: int
    max_rounds: int
    single_calls: int = 0
    most_seconds: float = inf


MOST_SECONDS = 0.002  # of a call that is timed alone, of all peers
FEWEST_ROUNDS = 3
_TURNS = 4  # in which single calls are timed

FULL = Budget(seconds=4.0, block_seconds=0.02, min_rounds=7, max_rounds=60, single_calls=400, most_seconds=30.0)
QUICK = Budget(seconds=0.5, block_seconds=0.005, min_rounds=3, max_rounds=20, single_calls=100)


BlockTimer = Callable[[int], Measurement]  # times so many calls in a row


def block_timer(call: Callable[[], object], threads: int, name: str) -> BlockTimer:
    """Timer of blocks of a call, each begun with calls that are not timed (torch.utils.benchmark.Timer makes them).

    Results are freed between calls, as a program that has used them frees them.
    """
    return Timer("call()", globals={"call": call}, num_threads=threads, description=name).timeit


def time_in_turns(
    timers: Mapping[str, BlockTimer], budget: Budget, progress: Callable[[str], None]
) -> dict[str, Measurement]:
    """Seconds per call, one value for each round, by name.

    Every other round goes through the timers backwards, so that nobody always follows the same neighbour. `progress`
    is told which round begins, while no clock runs.
    """
    sizes = {name: _block_size(timer, budget.block_seconds) for name, timer in timers.items()}
    blocks: dict[str, list[Measurement]] = {name: [] for name in timers}
    start = perf_counter()
    for number in range(budget.max_rounds):
        seconds = perf_counter() - start
        enough = number >= budget.min_rounds and seconds > budget.seconds
        if enough or (number >= FEWEST_ROUNDS and seconds > budget.most_seconds):
            break
        progress(f"round {number + 1}")
        for name in reversed(timers) if number % 2 else timers:
            blocks[name].append(timers[name](sizes[name]))
    return {name: Measurement.merge(measured)[0] for name, measured in blocks.items()}


def time_single_calls(timers: Mapping[str, Callable[[int], Sequence[float]]], count: int) -> dict[str, list[float]]:
    """Seconds of so many calls of each, made in a few turns, by name. The timers time that many calls one by one."""
    seconds: dict[str, list[float]] = {name: [] for name in timers}
    for turn in range(_TURNS):
        for name in reversed(timers) if turn % 2 else timers:
            seconds[name] += timers[name](count // _TURNS)
    return seconds


def seconds_of_calls(call: Callable[[], object], count: int) -> list[float]:
    """Of each of the calls, after one that does not count."""
    call()
    seconds = []
    for _ in range(count):
        start = perf_counter()
        call()
        seconds.append(perf_counter() - start)
    return seconds


def median_interval(values: Sequence[float]) -> tuple[float, float]:
    """Where the median of what the values are drawn from lies, with 95 % confidence (order statistics).

    Of fewer than six values it is their range, with less confidence.
    """
    ranked, count = sorted(values), len(values)
    cut, tail = 0, 0.5**count  # so many values left out at each end; the chance that the median is beyond them
    while (more := tail + comb(count, cut + 1) * 0.5**count) <= 0.025:
        cut, tail = cut + 1, more
    return ranked[cut], ranked[-1 - cut]


def _block_size(timer: BlockTimer, seconds: float) -> int:
    """How many calls last about as long."""
    first = timer(1).median
    if first >= seconds:
        return 1
    calls = max(1, round(0.1 * seconds / first))  # one call of microseconds says little
    return max(1, round(seconds / timer(calls).median))
