"""The least time that a call can take: its operations at the FMA peak, or its reads at the bandwidth of their cache."""

from collections.abc import Sequence
from dataclasses import dataclass

from fastvision.bench.machine import Machine


@dataclass(frozen=True)
class Read:
    """Memory that a call reads or, at the same bandwidth at best, writes.

    Attributes:
        bytes: how many at a time.
        times: how often in one call.
        between: bytes read from one time to the next, these included. They come from the first level of the memory
            hierarchy that holds so many.
    """

    bytes: int
    times: int
    between: int


@dataclass(frozen=True)
class Limit:
    """What a call cannot be faster than.

    Attributes:
        name: 'FMA', or the level of the memory hierarchy that takes the largest part of the reading time.
        seconds: of one call.
    """

    name: str
    seconds: float


def limit(flops: int, reads: Sequence[Read], threads: int, machine: Machine) -> Limit:
    """The larger of the times for operations and reads, which a processor does side by side.

    Threads share both evenly, and each of them is taken to have the peak, the caches and the bandwidth of one alone.
    """
    by_level = dict.fromkeys(machine.read_bandwidth, 0.0)
    for read in reads:
        level = machine.level(read.between / threads)
        share = read.bytes * read.times / threads
        by_level[level] += share / machine.read_bandwidth[level].bytes_per_second
    operations = Limit("FMA", flops / threads / machine.fma_flops_per_core)
    reading = Limit(max(by_level, key=by_level.__getitem__), sum(by_level.values()))
    return max(operations, reading, key=lambda bound: bound.seconds)
