"""A sweep: hundreds of tasks, a little time for each, more for those whose figures need it."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import geometric_mean

from rich.table import Table

from fastvision.bench.measuring import TaskMakers, TaskResult, measure
from fastvision.bench.peers import BASELINE, Peer
from fastvision.bench.timing import FULL, QUICK, Budget

SLOWER = 0.98  # below this ratio to the baseline fastvision counts as slower, above it the two as equal at least
_LARGE_SPREAD = 0.1  # interquartile range / median


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
    timings = [peer.timing for peer in result.peers.values() if peer.timing]
    ratio = result.speedup(BASELINE)
    is_slower = ratio is not None and ratio < SLOWER
    return is_slower or any(timing.iqr > _LARGE_SPREAD * timing.median for timing in timings)


def worst_first(results: Iterable[TaskResult]) -> list[TaskResult]:
    """Those with a ratio to the baseline, the least first."""
    return sorted((r for r in results if r.speedup(BASELINE)), key=lambda result: result.speedup(BASELINE))


def ratios_by_kind(results: Iterable[TaskResult], kinds: Mapping[str, str]) -> dict[str, list[float]]:
    """Baseline's time / fastvision's of the timed results, for each kind of case; `kinds` has the cases' names."""
    ratios: dict[str, list[float]] = {}
    for result in worst_first(results):
        ratios.setdefault(kinds[result.case], []).append(result.speedup(BASELINE))
    return ratios


def summary_table(ratios: Mapping[str, Sequence[float]]) -> Table:
    """One row per kind and one for all: how many, and the ratio's geometric mean and extremes."""
    table = Table(title=f"{BASELINE}'s time / fastvision's")
    table.add_column("kind of layer")
    for heading in ("cases", "geometric mean", "least", "largest", f"below {SLOWER}"):
        table.add_column(heading, justify="right")
    for kind, values in sorted(ratios.items(), key=lambda item: geometric_mean(item[1])):
        table.add_row(*_summary_row(kind, values))
    table.add_section()
    table.add_row(*_summary_row("all", [value for values in ratios.values() for value in values]), style="bold")
    return table


def _summary_row(kind: str, ratios: Sequence[float]) -> list[str]:
    figures = [f"{value:.2f}" for value in (geometric_mean(ratios), min(ratios), max(ratios))]
    return [kind, str(len(ratios)), *figures, str(sum(ratio < SLOWER for ratio in ratios))]
