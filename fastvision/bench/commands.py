"""`fastvision bench FAMILY`."""

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from fastvision import backends
from fastvision.bench.conv_cases import CONV_CASES, Mode
from fastvision.bench.conv_task import ConvTask
from fastvision.bench.machine import measure_machine
from fastvision.bench.measuring import TaskResult, measure
from fastvision.bench.module_peers import MODULE_PEERS
from fastvision.bench.peers import Peer, Task, choose
from fastvision.bench.processes import apart
from fastvision.bench.report import failures, machine_summary, report, results_table
from fastvision.bench.timing import FULL, QUICK, Budget

PLAIN_WIDTH = 180  # columns where the output is not a terminal

app = typer.Typer(
    help="Time operators beside stock PyTorch and its peers, after checking their results.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.callback()
def _families() -> None:
    """Makes the family a word of the command even while there is one."""


class DType(StrEnum):
    """What --dtype takes."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"
    float64 = "float64"


class Modes(StrEnum):
    """What --mode takes."""

    infer = "infer"
    train = "train"
    both = "both"


@app.command()
def conv(
    threads: Annotated[int, typer.Option(min=1, help="Threads of every peer.")] = 1,
    quick: Annotated[
        bool, typer.Option("--quick", help="Fewer rounds: rougher figures in a fraction of the time.")
    ] = False,
    dtype: Annotated[DType, typer.Option(help="Of images, weights and results.")] = DType.float32,
    mode: Annotated[Modes, typer.Option(help="Inference, training (forward + backward), or both.")] = Modes.both,
    peers: Annotated[
        str | None,
        typer.Option(
            help=f"Names with commas between them, or all: {', '.join(peer.name for peer in MODULE_PEERS)}.",
            show_default=",".join(peer.name for peer in MODULE_PEERS if peer.default),
        ),
    ] = None,
    case: Annotated[str, typer.Option(help="Only cases whose name contains this, such as 'b1' or 'VGG'.")] = "",
    capability: Annotated[
        str | None,
        typer.Option(help="fastvision's instruction set: avx512, avx2 or default.", show_default="the one in use"),
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write every figure to this file.")] = None,
) -> None:
    """Convolution + bias + ReLU + pooling: fastvision.nn against the stock layers."""
    modes: tuple[Mode, ...] = ("infer", "train") if mode == Modes.both else (mode.value,)
    cases = [(c, m) for m in modes for c in CONV_CASES if m in c.modes and case in c.name]
    if not cases:
        raise typer.BadParameter(f"no case of mode '{mode}' has '{case}' in its name", param_hint="--case")
    if json_file and not json_file.parent.is_dir():  # else minutes of measuring would be lost
        raise typer.BadParameter(f"no directory {json_file.parent}", param_hint="--json")
    chosen = _available(MODULE_PEERS, peers)
    with _settings(threads, capability):
        tasks = {
            f"{c.name}, {m}": partial(ConvTask.random, c, m, dtype=getattr(torch, dtype), threads=threads)
            for c, m in cases
        }
        _run("conv", tasks, chosen, quick, json_file)


def _run(
    family: str, tasks: Mapping[str, Callable[[], Task]], peers: Sequence[Peer], quick: bool, json_file: Path | None
) -> None:
    """Measures the tasks, each made where it is needed, and reports; exits with 1 if any result was wrong."""
    console = Console(width=None if sys.stdout.isatty() else PLAIN_WIDTH, highlight=False)
    machine = apart(measure_machine)
    console.print(machine_summary(machine))
    results = list(_measure_all(tasks, peers, QUICK if quick else FULL))
    console.print(results_table(results, peers, machine))
    if json_file:
        json_file.write_text(json.dumps(report(family, results, peers, machine, quick=quick), indent=1) + "\n")
    wrong = failures(results)
    for sentence in wrong:
        print(sentence, file=sys.stderr)
    if wrong:
        raise typer.Exit(1)


def _measure_all(
    tasks: Mapping[str, Callable[[], Task]], peers: Sequence[Peer], budget: Budget
) -> Iterator[TaskResult]:
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    # A bar that refreshes itself would run beside what is timed.
    with Progress(*columns, console=Console(stderr=True), transient=True, auto_refresh=False) as progress:
        bar = progress.add_task("", total=len(tasks))
        for name, make in tasks.items():

            def show(step: str, name: str = name) -> None:
                progress.update(bar, description=f"{name}: {step}", refresh=True)

            yield measure(make, peers, budget, show)
            progress.advance(bar)


def _available(peers: Sequence[Peer], wish: str | None) -> list[Peer]:
    try:
        chosen = choose(peers, wish)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--peers") from error
    missing = {peer.name: sentence for peer in chosen if (sentence := peer.missing())}
    for sentence in missing.values():
        print(sentence, file=sys.stderr)
    return [peer for peer in chosen if peer.name not in missing]


@contextmanager
def _settings(threads: int, capability: str | None) -> Iterator[None]:
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
