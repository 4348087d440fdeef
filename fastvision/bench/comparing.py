"""Two reports beside each other: what became faster or slower, and whether that is more than noise."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import geometric_mean

from rich.table import Table

from fastvision.bench.peers import OURS
from fastvision.bench.ratios import Ratio, ratios
from fastvision.bench.report import SCHEMA

# Facts of the machine that explain other times; what differs otherwise is what the comparison is about.
_FACTS = ("cpu", "cores", "caches", "governor", "cpu_capability", "stock_cpu_capability", "torch", "python")


@dataclass(frozen=True)
class Change:
    """One ratio in both reports."""

    before: Ratio
    after: Ratio

    @property
    def factor(self) -> float:
        """Above 1, fastvision has gained."""
        return self.after.value / self.before.value

    def verdict(self, tolerance: float) -> str:
        """'slower' or 'faster' where the change is beyond the tolerance and the two intervals are apart, else ''."""
        if self.factor < 1 - tolerance and self.after.high < self.before.low:
            return "slower"
        if self.factor > 1 + tolerance and self.after.low > self.before.high:
            return "faster"
        return ""


@dataclass(frozen=True)
class Comparison:
    """What two reports have in common, and what they have not.

    Attributes:
        changes: the ratios of both.
        only_before, only_after: rows that one of them has alone.
        wrong: rows whose results are wrong in the second report.
        warnings: sentences that name other machines, versions and settings.
    """

    changes: Sequence[Change]
    only_before: Sequence[str]
    only_after: Sequence[str]
    wrong: Sequence[str]
    warnings: Sequence[str]

    def regressions(self, tolerance: float) -> list[Change]:
        """The ratios that have become worse, beyond the tolerance and the rows' own spread."""
        return [change for change in self.changes if change.verdict(tolerance) == "slower"]


def load_report(file: Path) -> Mapping:
    """A report that `--json` has written.

    Raises:
        ValueError: it is none, or of another version of the format.
    """
    report = json.loads(file.read_text())
    if not isinstance(report, dict) or report.get("schema") != SCHEMA:
        found = report.get("schema") if isinstance(report, dict) else None
        raise ValueError(f"{file}: expected a report of schema {SCHEMA}, got {found}")
    return report


def compare_reports(before: Mapping, after: Mapping) -> Comparison:
    """The second report beside the first."""
    old, new = ({ratio.row: ratio for ratio in ratios(report)} for report in (before, after))
    return Comparison(
        [Change(old[row], new[row]) for row in old if row in new],
        [_name(ratio) for row, ratio in old.items() if row not in new],
        [_name(ratio) for row, ratio in new.items() if row not in old],
        _wrong(after),
        _warnings(before, after),
    )


def changes_table(comparison: Comparison, tolerance: float) -> Table:
    """One row per ratio, the greatest loss first."""
    table = Table(title=f"Peer's time / fastvision's; what exceeds ±{tolerance:.1%} and both intervals has a name")
    for heading in ("family", "case", "mode", "beside"):
        table.add_column(heading)
    for heading in ("before", "after", "change"):
        table.add_column(heading, justify="right")
    table.add_column("")
    for change in sorted(comparison.changes, key=lambda change: change.factor):
        before, after = change.before, change.after
        values = [_with_interval(before), _with_interval(after), f"{change.factor - 1:+.1%}"]
        noisy = "noisy" if before.is_noisy or after.is_noisy else ""
        table.add_row(before.family, before.case, before.mode, before.peer, *values, change.verdict(tolerance) or noisy)
    return table


def families_table(comparison: Comparison) -> Table:
    """Geometric means of the ratios that both reports have, by family, mode and peer."""
    table = Table(title="Geometric means of what both have")
    for heading in ("family", "mode", "beside"):
        table.add_column(heading)
    for heading in ("cases", "before", "after", "change"):
        table.add_column(heading, justify="right")
    groups: dict[tuple[str, str, str], list[Change]] = {}
    for change in comparison.changes:
        groups.setdefault(change.before.group, []).append(change)
    for group, changes in groups.items():
        before, after = (
            geometric_mean(values) for values in ([c.before.value for c in changes], [c.after.value for c in changes])
        )
        figures = [str(len(changes)), f"{before:.2f}", f"{after:.2f}", f"{after / before - 1:+.1%}"]
        table.add_row(*group, *figures)
    return table


def _with_interval(ratio: Ratio) -> str:
    return f"{ratio.value:.2f} ({ratio.low:.2f} to {ratio.high:.2f})"


def _name(ratio: Ratio) -> str:
    return f"{ratio.family}, {ratio.case}, {ratio.mode}, {ratio.dtype}, threads {ratio.threads}, beside {ratio.peer}"


def _wrong(report: Mapping) -> list[str]:
    return [
        f"{result['family']}, {result['case']}, {result['mode']}, {peer}: {figures['failure']}"
        for result in report["results"]
        for peer, figures in result["peers"].items()
        if peer == OURS and figures.get("failure")
    ]


def _warnings(before: Mapping, after: Mapping) -> list[str]:
    old, new = _settings(before), _settings(after)
    return [f"{name}: {old[name]} before, {new[name]} after" for name in old if name in new and old[name] != new[name]]


def _settings(report: Mapping) -> dict[str, object]:
    """What should be equal in both reports."""
    versions = {name: peer["version"] for name, peer in report["peers"].items() if name != OURS}
    facts = report["machine"]["facts"]
    return {name: facts.get(name) for name in _FACTS} | versions | {"quick": report["quick"]}
