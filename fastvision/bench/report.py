"""The report of a run: a table for the terminal, and JSON with every figure (docs/benchmarking.md has its schema)."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict

import numpy as np
from rich.console import Group
from rich.table import Table
from rich.text import Text

from fastvision.bench.limits import Limit, limit
from fastvision.bench.machine import Machine
from fastvision.bench.measuring import PeerResult, TaskResult
from fastvision.bench.peers import OURS, Peer

SCHEMA = 2
PERCENTILES = (50, 90, 99)


def machine_summary(machine: Machine) -> Group:
    """The machine in three lines."""
    facts = machine.facts
    gflops = f"{machine.fma_flops_per_core / 1e9:.0f} GFLOP/s"
    reads = ", ".join(f"{level} {read.bytes_per_second / 1e9:.0f}" for level, read in machine.read_bandwidth.items())
    return Group(
        f"{facts['cpu']}, {facts['cores']} cores, {facts['threads']} used; "
        f"fastvision on {facts['cpu_capability']}, stock on {facts['stock_cpu_capability']}",
        f"torch {facts['torch']}, fastvision {facts['fastvision']}, commit {facts['commit'] or 'unknown'}",
        f"one core: fp32 FMA peak {gflops}; reads {reads} GB/s",
    )


def results_table(results: Sequence[TaskResult], peers: Sequence[Peer], machine: Machine) -> Table:
    """One row per task: medians in milliseconds with their spread, and how many times as long as ours a peer takes."""
    table = Table(title="Milliseconds per call: median ± interquartile range; × = peer's time / fastvision's")
    table.add_column("case")
    for peer in peers:
        table.add_column(peer.title, justify="right", no_wrap=True)
        if peer.name != OURS:
            table.add_column("×", justify="right", style="bold", no_wrap=True)
    table.add_column("% of FMA\npeak", justify="right")
    has_limits = any(result.reads for result in results)
    if has_limits:
        table.add_column("% of limit,\nwhich", justify="right")
    table.add_column("error /\nstock's", justify="right")
    for result in results:
        table.add_row(*_row(result, peers, machine, has_limits))
    return table


def failures(results: Sequence[TaskResult]) -> list[str]:
    """A sentence for each peer whose results were wrong."""
    return [
        f"{peer}, {result.case}, {result.mode}: wrong results, not timed. {failure}."
        for result in results
        for peer, failure in result.failures.items()
    ]


def report(
    command: str, results: Mapping[str, Sequence[TaskResult]], peers: Iterable[Peer], machine: Machine, *, quick: bool
) -> dict[str, object]:
    """Every figure of the results, which are given by family, ready for json.dump."""
    return {
        "schema": SCHEMA,
        "command": command,
        "quick": quick,
        "machine": asdict(machine),
        "peers": {peer.name: {"title": peer.title, "version": peer.version()} for peer in peers},
        "results": [
            {"family": family} | _task_entry(result, machine)
            for family, of_family in results.items()
            for result in of_family
        ],
    }


def _row(result: TaskResult, peers: Sequence[Peer], machine: Machine, has_limits: bool) -> list[Text]:
    training = " training" if result.mode == "train" else ""
    cells = [result.case + training]
    for peer in peers:
        cells.append(_time_cell(result.peers[peer.name]))
        if peer.name != OURS:
            cells.append(_number(result.speedup(peer.name), "{:.2f}"))
    ours = result.peers[OURS]
    cells.append(_number(_peak_percent(result, OURS, machine), "{:.0f}"))
    if has_limits:
        cells.append(_limit_cell(result, machine))
    cells.append(_number(ours.error_to_stock, "{:.2f}"))
    return [Text(cell) for cell in cells]


def _time_cell(result: PeerResult) -> str:
    if result.skipped:
        return "-"
    if result.timing is None:
        return "wrong"
    median = result.timing.median
    return f"{three_digits(1e3 * median)} ±{100 * result.timing.iqr / median:.0f}%"


def _limit_cell(result: TaskResult, machine: Machine) -> str:
    percent = _limit_percent(result, OURS, machine)
    return "-" if percent is None else f"{percent:.0f} {_limit(result, machine).name}"


def three_digits(value: float) -> str:
    """Three significant digits without an exponent: 0.00181, 0.377, 15.2, 590."""
    digits = next((digits for digits in range(6) if abs(value) * 10**digits >= 100), 6)
    return f"{value:.{digits}f}"


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)


def _peak_percent(result: TaskResult, peer: str, machine: Machine) -> float | None:
    rate = result.flops_per_second(peer)
    return 100 * rate / (machine.fma_flops_per_core * result.threads) if rate else None


def _limit(result: TaskResult, machine: Machine) -> Limit | None:
    return limit(result.flops, result.reads, result.threads, machine) if result.reads else None


def _limit_percent(result: TaskResult, peer: str, machine: Machine) -> float | None:
    bound, median = _limit(result, machine), result.median(peer)
    return 100 * bound.seconds / median if bound and median else None


def _task_entry(result: TaskResult, machine: Machine) -> dict[str, object]:
    bound = _limit(result, machine)
    return {
        "case": result.case,
        "mode": result.mode,
        "dtype": str(result.dtype).removeprefix("torch."),
        "threads": result.threads,
        "flops": result.flops,
        "reads": [asdict(read) for read in result.reads],
        "limit": asdict(bound) if bound else None,
        "peers": {name: _peer_entry(result, name, machine) for name in result.peers},
    }


def _peer_entry(result: TaskResult, name: str, machine: Machine) -> dict[str, object]:
    peer = result.peers[name]
    if peer.skipped:
        return {"skipped": peer.skipped}
    entry: dict[str, object] = {
        "relative_rms_errors": peer.accuracy.errors,
        "error_to_stock": peer.error_to_stock,
        "failure": peer.accuracy.failure,
    }
    if peer.timing:
        entry |= {
            "median_seconds": peer.timing.median,
            "iqr_seconds": peer.timing.iqr,
            "round_seconds": peer.timing.times,
            "fma_peak_percent": _peak_percent(result, name, machine),
            "limit_percent": _limit_percent(result, name, machine),
            "fastvision_speedup": result.speedup(name),
            "speedup_interval": result.speedup_interval(name),
        }
    if peer.memory:
        entry |= asdict(peer.memory)
    if peer.latencies:
        found = np.percentile(peer.latencies, PERCENTILES).tolist()
        entry["latency_percentiles"] = {f"p{percent}": value for percent, value in zip(PERCENTILES, found, strict=True)}
    return entry
