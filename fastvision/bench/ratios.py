"""The ratios of a report (report.py), one by one and summed up: how many times as long as fastvision a peer takes."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import geometric_mean

from rich.table import Table

from fastvision.bench.peers import OURS

SLOWER = 0.98  # below this ratio fastvision counts as slower, above it the two as equal at least
LARGE_INTERVAL = 0.05  # half of the interval / the ratio


@dataclass(frozen=True)
class Ratio:
    """A peer's time divided by fastvision's, with the interval in which it lies (TaskResult.speedup_interval)."""

    family: str
    case: str
    mode: str
    dtype: str
    threads: int
    peer: str
    value: float
    low: float
    high: float

    @property
    def row(self) -> tuple[str, str, str, str, int, str]:
        """What was measured: the same in every report."""
        return (self.family, self.case, self.mode, self.dtype, self.threads, self.peer)

    @property
    def group(self) -> tuple[str, str, str]:
        """Family, mode and peer: what ratios are summed up by."""
        return (self.family, self.mode, self.peer)

    @property
    def is_noisy(self) -> bool:
        """Whether the interval is not tight."""
        return self.high - self.low > 2 * LARGE_INTERVAL * self.value


@dataclass(frozen=True)
class Summary:
    """Of some ratios: how many, their geometric mean and range, how many are below SLOWER, how many are noisy."""

    count: int
    mean: float
    least: float
    largest: float
    slower: int
    noisy: int

    @classmethod
    def of(cls, ratios: Sequence[Ratio]) -> "Summary":
        """Of at least one ratio."""
        values = [ratio.value for ratio in ratios]
        return cls(
            len(values),
            geometric_mean(values),
            min(values),
            max(values),
            sum(value < SLOWER for value in values),
            sum(ratio.is_noisy for ratio in ratios),
        )


def ratios(report: Mapping) -> list[Ratio]:
    """Of all peers that were timed, in the report's order."""
    return [
        Ratio(
            *(result[key] for key in ("family", "case", "mode", "dtype", "threads")),
            peer,
            figures["fastvision_speedup"],
            *figures["speedup_interval"],
        )
        for result in report["results"]
        for peer, figures in result["peers"].items()
        if peer != OURS and figures.get("fastvision_speedup")
    ]


def grouped(found: Iterable[Ratio]) -> dict[tuple[str, str, str], list[Ratio]]:
    """Ratios by family, mode and peer."""
    groups: dict[tuple[str, str, str], list[Ratio]] = {}
    for ratio in found:
        groups.setdefault(ratio.group, []).append(ratio)
    return groups


def headline_table(report: Mapping) -> Table:
    """One row for each family, mode and peer."""
    table = Table(
        title=f"Peer's time / fastvision's; noisy: the ratio is not known to ±{LARGE_INTERVAL:.0%}",
    )
    for heading in ("family", "mode", "beside"):
        table.add_column(heading)
    for heading in ("cases", "geometric mean", "least", "largest", f"below {SLOWER}", "noisy"):
        table.add_column(heading, justify="right")
    family = None
    for (name, mode, peer), group in grouped(ratios(report)).items():
        if family not in (None, name):
            table.add_section()
        family = name
        summary = Summary.of(group)
        figures = [f"{value:.2f}" for value in (summary.mean, summary.least, summary.largest)]
        counts = [str(summary.slower), str(summary.noisy)]
        table.add_row(name, mode, report["peers"][peer]["title"], str(summary.count), *figures, *counts)
    return table
