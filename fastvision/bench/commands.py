"""`fastvision bench FAMILY`."""

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console, Group, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from fastvision import backends
from fastvision.bench.conv_cases import CONV_CASES, ConvCase, Mode
from fastvision.bench.conv_sweep import SWEEP_CASES, kind
from fastvision.bench.conv_task import ConvTask
from fastvision.bench.machine import Machine, measure_machine
from fastvision.bench.measuring import TaskMakers, TaskResult, measure
from fastvision.bench.model_cases import MODEL_CASES, ModelCase
from fastvision.bench.model_task import ModelTask
from fastvision.bench.module_peers import MODULE_PEERS, RNN_PEERS, VAE_PEERS
from fastvision.bench.peers import Peer, Task, choose, missing_packages
from fastvision.bench.processes import apart
from fastvision.bench.report import failures, machine_summary, report, results_table
from fastvision.bench.rnn_cases import RNN_CASES, RnnCase
from fastvision.bench.rnn_task import RnnTask
from fastvision.bench.sweep import FULL_SWEEP, QUICK_SWEEP, summary_table, sweep, worst_first
from fastvision.bench.timing import FULL, QUICK
from fastvision.bench.vae_cases import VAE_CASES, VaeCase
from fastvision.bench.vae_task import VaeTask

PLAIN_WIDTH = 180  # columns where the output is not a terminal
WORST_ROWS = 20  # of a sweep that are printed

app = typer.Typer(
    help="Time operators beside stock PyTorch and its peers, after checking their results.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


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


# Options that families share.
_Threads = Annotated[int, typer.Option(min=1, help="Threads of every peer.")]
_Quick = Annotated[bool, typer.Option("--quick", help="Fewer rounds: rougher figures in a fraction of the time.")]
_DType = Annotated[DType, typer.Option(help="Of images, weights and results.")]
_MODE_HELP = "Inference, training (forward + backward), or both."


def _peers_help(peers: Sequence[Peer]) -> str:
    return f"Names with commas between them, or all: {', '.join(peer.name for peer in peers)}."


def _default_peers(peers: Sequence[Peer]) -> str:
    return ",".join(peer.name for peer in peers if peer.default)


_Case = Annotated[str, typer.Option(help="Only cases whose name contains this, such as 'b1' or 'VGG'.")]
_Capability = Annotated[
    str | None,
    typer.Option(help="fastvision's instruction set: avx512, avx2 or default.", show_default="the one in use"),
]
_Json = Annotated[Path | None, typer.Option("--json", help="Write every figure to this file.")]


@dataclass(frozen=True)
class _Run:
    """A run of one family, as its options say."""

    family: str
    threads: int
    quick: bool
    dtype: torch.dtype
    peers: list[Peer]
    json_file: Path | None


_Progress = Callable[[str], None]
_MeasureAll = Callable[[_Progress], Iterator[TaskResult]]
_Show = Callable[[list[TaskResult], Machine], RenderableType]


@app.command()
def conv(
    threads: _Threads = 1,
    quick: _Quick = False,
    dtype: _DType = DType.float32,
    mode: Annotated[Modes | None, typer.Option(help=_MODE_HELP, show_default="both; infer with --sweep")] = None,
    peers: Annotated[
        str | None,
        typer.Option(
            help=_peers_help(MODULE_PEERS),
            show_default=f"{_default_peers(MODULE_PEERS)}; fastvision,stock with --sweep",
        ),
    ] = None,
    case: _Case = "",
    capability: _Capability = None,
    json_file: _Json = None,
    whole_sweep: Annotated[
        bool, typer.Option("--sweep", help="Hundreds of layers of well-known networks, a little time for each.")
    ] = False,
    png: Annotated[
        Path | None, typer.Option(help="Draw the sweep to this file.", show_default="sweep.png with --sweep")
    ] = None,
) -> None:
    """Convolution + bias + ReLU + pooling: fastvision.nn against the stock layers."""
    if png and not whole_sweep:
        raise typer.BadParameter("is the picture of a sweep: it needs --sweep", param_hint="--png")
    if whole_sweep:
        mode, peers, png = mode or Modes.infer, peers or "", png or Path("sweep.png")
        _check_directory(png, "--png")
    run = _run_of("conv", threads, quick, dtype, peers, json_file, MODULE_PEERS)
    groups = _task_groups(run, SWEEP_CASES if whole_sweep else [CONV_CASES], ConvTask.random, mode or Modes.both, case)
    with _settings(threads, capability):
        if whole_sweep:
            _sweep(run, groups, {c.name: kind(c) for cases in SWEEP_CASES for c in cases}, png)
        else:
            _compare(run, groups)


@app.command()
def models(
    threads: _Threads = 1,
    quick: _Quick = False,
    dtype: _DType = DType.float32,
    mode: Annotated[Modes, typer.Option(help=_MODE_HELP)] = Modes.both,
    peers: Annotated[
        str | None, typer.Option(help=_peers_help(MODULE_PEERS), show_default=_default_peers(MODULE_PEERS))
    ] = None,
    case: _Case = "",
    capability: _Capability = None,
    json_file: _Json = None,
) -> None:
    """Whole networks: fastvision.convert against the stock layers."""
    run = _run_of("models", threads, quick, dtype, peers, json_file, MODULE_PEERS)
    groups = _task_groups(run, [MODEL_CASES], ModelTask.random, mode, case)
    with _settings(threads, capability):
        _compare(run, groups)


@app.command()
def rnn(
    threads: _Threads = 1,
    quick: _Quick = False,
    dtype: _DType = DType.float32,
    mode: Annotated[Modes, typer.Option(help=_MODE_HELP)] = Modes.both,
    peers: Annotated[
        str | None, typer.Option(help=_peers_help(RNN_PEERS), show_default=_default_peers(RNN_PEERS))
    ] = None,
    case: _Case = "",
    capability: _Capability = None,
    json_file: _Json = None,
) -> None:
    """LSTM and GRU, cells and sequences: fastvision.nn against torch.nn."""
    run = _run_of("rnn", threads, quick, dtype, peers, json_file, RNN_PEERS)
    groups = _task_groups(run, [RNN_CASES], RnnTask.random, mode, case)
    with _settings(threads, capability):
        _compare(run, groups)


@app.command()
def vae(
    threads: _Threads = 1,
    quick: _Quick = False,
    dtype: _DType = DType.float32,
    mode: Annotated[Modes, typer.Option(help=_MODE_HELP)] = Modes.both,
    peers: Annotated[
        str | None, typer.Option(help=_peers_help(VAE_PEERS), show_default=_default_peers(VAE_PEERS))
    ] = None,
    case: _Case = "",
    capability: _Capability = None,
    json_file: _Json = None,
) -> None:
    """A variational autoencoder's sample and KL: fastvision.ops against the stock formulas."""
    run = _run_of("vae", threads, quick, dtype, peers, json_file, VAE_PEERS)
    groups = _task_groups(run, [VAE_CASES], VaeTask.random, mode, case)
    with _settings(threads, capability):
        _compare(run, groups)


def _run_of(
    family: str,
    threads: int,
    quick: bool,
    dtype: DType,
    peers: str | None,
    json_file: Path | None,
    known_peers: Sequence[Peer],
) -> _Run:
    _check_directory(json_file, "--json")
    return _Run(family, threads, quick, getattr(torch, dtype), _available(known_peers, peers), json_file)


def _check_directory(file: Path | None, option: str) -> None:
    """Before minutes of measuring would be lost."""
    if file and not file.parent.is_dir():
        raise typer.BadParameter(f"no directory {file.parent}", param_hint=option)


def _task_groups(
    run: _Run,
    groups: Iterable[Sequence[ConvCase | ModelCase | RnnCase | VaeCase]],
    make: Callable[..., Task],
    mode: Modes,
    name_part: str,
) -> list[TaskMakers]:
    """The tasks of the cases that options choose, in the cases' groups."""
    modes: tuple[Mode, ...] = ("infer", "train") if mode == Modes.both else (mode.value,)
    chosen = [
        {
            f"{c.name}, {m}": partial(make, c, m, dtype=run.dtype, threads=run.threads)
            for m in modes
            for c in cases
            if m in c.modes and name_part in c.name
        }
        for cases in groups
    ]
    if not any(chosen):
        raise typer.BadParameter(f"no case of mode '{mode}' has '{name_part}' in its name", param_hint="--case")
    return [group for group in chosen if group]


def _compare(run: _Run, groups: Sequence[TaskMakers]) -> None:
    """Measures the tasks one by one and prints them all."""
    alone = [{name: make} for group in groups for name, make in group.items()]
    budget = QUICK if run.quick else FULL

    def measure_all(progress: _Progress) -> Iterator[TaskResult]:
        for tasks in alone:
            yield from measure(tasks, run.peers, budget, progress)

    _measure_and_report(
        run, len(alone), measure_all, lambda results, machine: results_table(results, run.peers, machine)
    )


def _sweep(run: _Run, groups: Sequence[TaskMakers], kinds: Mapping[str, str], png: Path) -> None:
    """Measures the tasks group by group, prints the worst and a summary, and draws all."""
    budget = QUICK_SWEEP if run.quick else FULL_SWEEP
    no_picture = missing_packages("The picture", "matplotlib")
    if no_picture:
        print(no_picture, file=sys.stderr)

    def show(results: list[TaskResult], machine: Machine) -> RenderableType:
        ranked = worst_first(results)
        parts = [results_table(ranked[:WORST_ROWS], run.peers, machine)]
        if ranked:
            parts.append(summary_table(ranked, kinds))
        if ranked and not no_picture:
            from fastvision.bench.sweep_picture import draw_sweep

            draw_sweep(png, ranked, kinds, machine)
            parts.append(f"Picture: {png}")
        return Group(*parts)

    _measure_and_report(run, sum(map(len, groups)), partial(sweep, groups, run.peers, budget), show)


def _measure_and_report(run: _Run, total: int, measure_all: _MeasureAll, show: _Show) -> None:
    """Measures so many tasks and reports; exits with 1 if any result was wrong."""
    console = Console(width=None if sys.stdout.isatty() else PLAIN_WIDTH, highlight=False)
    machine = apart(measure_machine)
    console.print(machine_summary(machine))
    results = list(_with_bar(total, measure_all))
    if run.json_file:
        figures = report(run.family, results, run.peers, machine, quick=run.quick)
        run.json_file.write_text(json.dumps(figures, indent=1) + "\n")
    console.print(show(results, machine))
    wrong = failures(results)
    for sentence in wrong:
        print(sentence, file=sys.stderr)
    if wrong:
        raise typer.Exit(1)


def _with_bar(total: int, measure_all: _MeasureAll) -> Iterator[TaskResult]:
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    # A bar that refreshes itself would run beside what is timed.
    with Progress(*columns, console=Console(stderr=True), transient=True, auto_refresh=False) as progress:
        bar = progress.add_task("", total=total)
        for result in measure_all(lambda step: progress.update(bar, description=step, refresh=True)):
            progress.advance(bar)
            yield result


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
