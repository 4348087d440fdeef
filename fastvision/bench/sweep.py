"""A sweep: hundreds of tasks, a little time for each, more for those whose figures need it."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import geometric_mean

from rich.table import Table

from fastvision.bench.measuring import TaskMakers, TaskResult, measure
from fastvision.bench.peers import BASELINE, Peer
from fastvision.bench.ratios import SLOWER
from fastvision.bench.timing import FULL, QUICK, Budget

LARGE_SPREAD = 0.1  # interquartile range / median


@dataclass(frozen=True)
class SweepBudget:
    """How long each task is timed, and how long one is whose figures need another look."""

    each: Budget
    again: Budget


FULL_SWEEP = SweepBudget(Budget(seconds=1.0, block_seconds=0.01, min_rounds=5, max_rounds=30), FULL)
QUICK_SWEEP = SweepBudget(Budget(seconds=0.15, block_seconds=0.003, min_rounds=3, max_rounds=15), QUICK)


def sweep(
    groups: Iterable[TaskMakers], peers: Sequence[Peer], budget: SweepBudget, progress: Callable[[str], None]
) -> Iterator[TaskResult]:
    """Measures all tasks, each peer in one process per group.

    Where fastvision seems slower than the baseline or a spread is large, the task is measured again as if it were the
    only one, in fresh processes and for longer, and the second result is the one that counts.
    """
    for group in groups:
        for (name, make), result in zip(group.items(), measure(group, peers, budget.each, progress), strict=True):
            if needs_another_look(result):
                yield from measure({name: make}, peers, budget.again, lambda step: progress(f"again: {step}"))
            else:
                yield result


def needs_another_look(result: TaskResult) -> bool:
    """Whether the timings are too uncertain, or too bad, to be reported after a short look."""
    ratio = result.speedup(BASELINE)
    return (ratio is not None and ratio < SLOWER) or is_unsteady(result)


def is_unsteady(result: TaskResult) -> bool:
    """Whether some peer's rounds differ so much that the machine must have been doing something else."""
    timings = [peer.timing for peer in result.peers.values() if peer.timing]
    return any(timing.iqr > LARGE_SPREAD * timing.median for timing in timings)


def worst_first(results: Iterable[TaskResult]) -> list[TaskResult]:
    """Those with a ratio to the baseline, the least first."""
    return sorted((r for r in results if r.speedup(BASELINE)), key=lambda result: result.speedup(BASELINE))


def by_kind(results: Iterable[TaskResult], kinds: Mapping[str, str]) -> dict[str, list[TaskResult]]:
    """The results of each kind of case, in the order given; `kinds` has that of each case by its name."""
    groups: dict[str, list[TaskResult]] = {}
    for result in results:
        groups.setdefault(kinds[result.case], []).append(result)
    return groups


def mean_ratio(results: Iterable[TaskResult]) -> float:
    """Geometric mean of the baseline's time / fastvision's."""
    return geometric_mean(result.speedup(BASELINE) for result in results)


def summary_table(ranked: Sequence[TaskResult], kinds: Mapping[str, str]) -> Table:
    """One row per kind and one for all: how many, the ratio's geometric mean and extremes. `ranked`: worst_first."""
    table = Table(title=f"{BASELINE}'s time / fastvision's; unsteady: spread above {LARGE_SPREAD:.0%}")
    table.add_column("kind of layer")
    for heading in ("cases", "geometric mean", "least", "largest", f"below {SLOWER}", "unsteady"):
        table.add_column(heading, justify="right")
    for kind, results in sorted(by_kind(ranked, kinds).items(), key=lambda item: mean_ratio(item[1])):
        table.add_row(*_summary_row(kind, results))
    table.add_section()
    table.add_row(*_summary_row("all", ranked), style="bold")
    return table


def _summary_row(kind: str, ranked: Sequence[TaskResult]) -> list[str]:
    ratios = [result.speedup(BASELINE) for result in ranked]
    figures = [f"{value:.2f}" for value in (mean_ratio(ranked), ratios[0], ratios[-1])]
    counts = [sum(ratio < SLOWER for ratio in ratios), sum(map(is_unsteady, ranked))]
    return [kind, str(len(ratios)), *figures, *map(str, counts)]
