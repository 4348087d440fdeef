"""A run: the machine's limits, then the tasks one after another, then the report."""

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import typer
from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from fastvision import backends
from fastvision.bench.machine import Machine, measure_machine
from fastvision.bench.measuring import TaskMakers, TaskResult, measure
from fastvision.bench.peers import Peer, choose
from fastvision.bench.processes import apart
from fastvision.bench.report import failures, machine_summary, report
from fastvision.bench.timing import Budget

PLAIN_WIDTH = 180  # columns where the output is not a terminal

Tell = Callable[[str], None]  # what comes next, to whoever watches


@dataclass(frozen=True)
class Part:
    """A family's share of a run: so many tasks, and what measures them."""

    family: str
    peers: Sequence[Peer]
    total: int
    measure: Callable[[Tell], Iterator[TaskResult]]


@dataclass(frozen=True)
class Run:
    """What a command measures, and the file for every figure."""

    command: str
    quick: bool
    parts: Sequence[Part]
    json_file: Path | None

    @property
    def peers(self) -> dict[str, Peer]:
        """Of all parts, by name."""
        return {peer.name: peer for part in self.parts for peer in part.peers}


def one_by_one(groups: Iterable[TaskMakers], peers: Sequence[Peer], budget: Budget, tell: Tell) -> Iterator[TaskResult]:
    """Measures each task as if it were the only one."""
    for group in groups:
        for name, make in group.items():
            yield from measure({name: make}, peers, budget, tell)


def report_console() -> Console:
    """Where tables go."""
    return Console(width=None if sys.stdout.isatty() else PLAIN_WIDTH, highlight=False)


Results = Mapping[str, Sequence[TaskResult]]  # by family


def execute(run: Run, show: Callable[[Results, Machine, Mapping], Iterable[RenderableType]]) -> None:
    """Measures and reports; exits with 1 if any result was wrong. `show` makes what is printed at the end."""
    console = report_console()
    machine = apart(measure_machine)
    console.print(machine_summary(machine))
    results = _measure_all(run.parts)
    figures = report(run.command, results, run.peers.values(), machine, quick=run.quick)
    if run.json_file:
        run.json_file.write_text(json.dumps(figures, indent=1) + "\n")
    console.print(*show(results, machine, figures), sep="\n")
    wrong = failures([result for of_family in results.values() for result in of_family])
    for sentence in wrong:
        print(sentence, file=sys.stderr)
    if wrong:
        raise typer.Exit(1)


def _measure_all(parts: Sequence[Part]) -> dict[str, list[TaskResult]]:
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    results = {}
    # A bar that refreshes itself would run beside what is timed.
    with Progress(*columns, console=Console(stderr=True), transient=True, auto_refresh=False) as progress:
        bar = progress.add_task("", total=sum(part.total for part in parts))

        def tell(family: str, step: str) -> None:
            progress.update(bar, description=f"{family}: {step}", refresh=True)

        for part in parts:
            results[part.family] = []
            for result in part.measure(partial(tell, part.family)):
                progress.advance(bar)
                results[part.family].append(result)
    return results


def available(peers: Sequence[Peer], wish: str | None) -> list[Peer]:
    """The peers wished for (peers.choose) that this machine has; says of the others what to install."""
    try:
        chosen = choose(peers, wish)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--peers") from error
    missing = {peer.name: sentence for peer in chosen if (sentence := peer.missing())}
    for sentence in missing.values():
        print(sentence, file=sys.stderr)
    return [peer for peer in chosen if peer.name not in missing]


@contextmanager
def settings(threads: int, capability: str | None) -> Iterator[None]:
    """Within the context torch has that many threads and fastvision runs on that instruction set."""
    threads_before, capability_before = torch.get_num_threads(), backends.cpu.capability
    if capability is not None:
        try:
            backends.cpu.capability = capability
        except ValueError as error:
            raise typer.BadParameter(str(error), param_hint="--capability") from error
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(threads_before)
        backends.cpu.capability = capability_before
