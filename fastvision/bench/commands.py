"""`fastvision bench COMMAND`."""

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console, RenderableType
from rich.progress import Progress

from fastvision.bench.comparing import changes_table, compare_reports, families_table, load_report
from fastvision.bench.conv_cases import Mode
from fastvision.bench.conv_sweep import SWEEP_CASES, kind
from fastvision.bench.families import FAMILIES, Case, Family
from fastvision.bench.machine import Machine
from fastvision.bench.measuring import TaskMakers
from fastvision.bench.peers import Peer, missing_packages
from fastvision.bench.ratios import headline_table
from fastvision.bench.report import results_table
from fastvision.bench.running import Part, Results, Run, available, execute, one_by_one, report_console, settings
from fastvision.bench.serving import SERVING_PEERS, measure_serving, serving_table, steps
from fastvision.bench.sweep import FULL_SWEEP, QUICK_SWEEP, summary_table, sweep, worst_first
from fastvision.bench.timing import FULL, QUICK

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

    @property
    def each(self) -> tuple[Mode, ...]:
        """The modes that it stands for."""
        return ("infer", "train") if self == Modes.both else (self.value,)


def _peers_help(peers: Iterable[Peer]) -> str:
    return f"Names with commas between them, or all: {', '.join(peer.name for peer in peers)}."


def _default_peers(peers: Iterable[Peer]) -> str:
    return ",".join(peer.name for peer in peers if peer.default)


def _peers_option(peers: Sequence[Peer], also: str = "") -> typer.models.OptionInfo:
    return typer.Option(help=_peers_help(peers), show_default=_default_peers(peers) + also)


# Options that commands share.
_Threads = Annotated[int, typer.Option(min=1, help="Threads of every peer.")]
_Quick = Annotated[bool, typer.Option("--quick", help="Fewer rounds: rougher figures in a fraction of the time.")]
_DType = Annotated[DType, typer.Option(help="Of images, weights and results.")]
_MODE_HELP = "Inference, training (forward + backward), or both."
_Mode = Annotated[Modes, typer.Option(help=_MODE_HELP)]
_Case = Annotated[str, typer.Option(help="Only cases whose name contains this, such as 'b1' or 'VGG'.")]
_Capability = Annotated[
    str | None,
    typer.Option(help="fastvision's instruction set: avx512, avx2 or default.", show_default="the one in use"),
]
_Json = Annotated[Path | None, typer.Option("--json", help="Write every figure to this file.")]
_Html = Annotated[Path | None, typer.Option("--html", help="Write a page with tables and figures to this file.")]
_Png = Annotated[Path | None, typer.Option("--png", help="Draw the figures to this file.")]
_ALL_PEERS = tuple({peer.name: peer for family in FAMILIES.values() for peer in family.peers}.values())


@dataclass(frozen=True)
class _Options:
    """What the options of a command say."""

    threads: int
    quick: bool
    dtype: DType
    mode: Modes
    peers: str | None
    case: str
    capability: str | None
    json_file: Path | None


@app.command("all")
def all_families(
    threads: _Threads = 1,
    quick: Annotated[bool, typer.Option("--quick", help="A few cases of each family, fewer rounds.")] = False,
    dtype: _DType = DType.float32,
    mode: _Mode = Modes.both,
    peers: Annotated[str | None, _peers_option(_ALL_PEERS)] = None,
    case: _Case = "",
    capability: _Capability = None,
    json_file: _Json = None,
    html: _Html = None,
    png: _Png = None,
) -> None:
    """Every family, one after the other, and a table that sums them up."""
    options = _Options(threads, quick, dtype, mode, peers, case, capability, json_file)
    _check_pictures(html, png)
    cases = {name: [c for c in family.cases if c.quick or not quick] for name, family in FAMILIES.items()}
    _measure_families("all", cases, available(_ALL_PEERS, peers), options, partial(_draw, html=html, png=png))


@app.command()
def conv(
    threads: _Threads = 1,
    quick: _Quick = False,
    dtype: _DType = DType.float32,
    mode: Annotated[Modes | None, typer.Option(help=_MODE_HELP, show_default="both; infer with --sweep")] = None,
    peers: Annotated[str | None, _peers_option(FAMILIES["conv"].peers, "; fastvision,stock with --sweep")] = None,
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
    options = _Options(threads, quick, dtype, mode or Modes.both, peers, case, capability, json_file)
    if whole_sweep:
        _sweep(replace(options, mode=mode or Modes.infer, peers=peers or ""), png or Path("sweep.png"))
        return
    if png:
        raise typer.BadParameter("is the picture of a sweep: it needs --sweep", param_hint="--png")
    _measure_family("conv", options)


def _add_command(name: str, title: str) -> None:
    """`fastvision bench NAME` of a family that has no options of its own."""

    def command(
        threads: _Threads = 1,
        quick: _Quick = False,
        dtype: _DType = DType.float32,
        mode: _Mode = Modes.both,
        peers: Annotated[str | None, _peers_option(FAMILIES[name].peers)] = None,
        case: _Case = "",
        capability: _Capability = None,
        json_file: _Json = None,
    ) -> None:
        _measure_family(name, _Options(threads, quick, dtype, mode, peers, case, capability, json_file))

    app.command(name, help=title)(command)


_add_command("linear", "Fully connected layers with few rows: fastvision.nn against torch.nn.")
_add_command("pool", "Max-pooling alone: fastvision.nn against torch.nn.")
_add_command("rnn", "LSTM and GRU, cells and sequences: fastvision.nn against torch.nn.")
_add_command("vae", "A variational autoencoder's sample and KL: fastvision.ops against the stock formulas.")
_add_command("augment", "Random affine augmentation: fastvision.ops against stock calls, scipy and kornia.")
_add_command("models", "Whole networks: fastvision.convert against the stock layers.")


@app.command()
def serving(
    calls: Annotated[int, typer.Option(min=10, help="Calls of every peer under each load.")] = 100_000,
    clients: Annotated[int, typer.Option(min=2, help="Threads that call at once, after one alone.")] = 4,
    quick: Annotated[bool, typer.Option("--quick", help="A tenth of the calls.")] = False,
    peers: Annotated[str | None, _peers_option(SERVING_PEERS, ",torch.compile")] = None,
    capability: _Capability = None,
) -> None:
    """Latency of a small CNN at batch 1 from Python: p50, p99 and p99.9, one client and several threads."""
    chosen = list(available(SERVING_PEERS, "all" if peers is None else peers))
    loads = (1, clients)
    with settings(1, capability), Progress(console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("", total=steps(chosen, loads))
        latencies = measure_serving(
            chosen,
            calls // 10 if quick else calls,
            loads,
            lambda text: progress.update(bar, description=text, advance=1),
        )
    report_console().print(serving_table(latencies))


def _fraction(text: str) -> float:
    """'5%' and '0.05' are the same."""
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1:
        raise typer.BadParameter(f"expected a fraction such as 5% or 0.05, got '{text}'", param_hint="--tolerance")
    return value


_Report = Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="What --json wrote.")]


@app.command()
def draw(report: _Report, html: _Html = None, png: _Png = None) -> None:
    """A report of --json as a page and as a picture."""
    _check_pictures(html, png)
    report_console().print(*_draw(_load(report), html, png), sep="\n")


def _check_pictures(html: Path | None, png: Path | None) -> None:
    """Before anything is measured."""
    _check_directory(html, "--html")
    _check_directory(png, "--png")
    if (html or png) and (sentence := missing_packages("The picture", "matplotlib")):
        raise typer.BadParameter(sentence, param_hint="--html" if html else "--png")


def _draw(report: Mapping, html: Path | None, png: Path | None) -> Iterator[str]:
    """Writes the files and names them."""
    if html or png:
        from fastvision.bench.page import write_page, write_picture

        for title, file, write in (("Page", html, write_page), ("Picture", png, write_picture)):
            if file:
                write(file, report)
                yield f"{title}: {file}"


def _load(file: Path) -> Mapping:
    try:
        return load_report(file)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


@app.command()
def compare(
    before: _Report,
    after: _Report,
    tolerance: Annotated[str, typer.Option(help="Changes up to this one do not count.")] = "5%",
) -> None:
    """Two reports of --json: which ratios have changed. Exits with 1 if any is worse beyond noise and tolerance."""
    allowed = _fraction(tolerance)
    comparison = compare_reports(_load(before), _load(after))
    console = report_console()
    for title, sentences in (
        ("Warning: not the same machine, versions or settings", comparison.warnings),
        (f"Only in {before}", comparison.only_before),
        (f"Only in {after}", comparison.only_after),
        ("Wrong results", comparison.wrong),
    ):
        if sentences:
            console.print(f"{title}:", *(f"  {sentence}" for sentence in sentences), sep="\n")
    console.print(changes_table(comparison, allowed), families_table(comparison), sep="\n")
    worse = comparison.regressions(allowed)
    console.print(f"{len(comparison.changes)} ratios, {len(worse)} worse")
    if worse or comparison.wrong:
        raise typer.Exit(1)


def _measure_family(name: str, options: _Options) -> None:
    family = FAMILIES[name]
    _measure_families(name, {name: family.cases}, available(family.peers, options.peers), options)


def _measure_families(
    command: str,
    cases: Mapping[str, Sequence[Case]],
    peers: Iterable[Peer],
    options: _Options,
    draw: Callable[[Mapping], Iterable[RenderableType]] = lambda figures: (),
) -> None:
    """Measures the cases of each family one by one and prints them all; of several families a summary, too."""
    _check_directory(options.json_file, "--json")
    chosen, budget, parts = {peer.name for peer in peers}, QUICK if options.quick else FULL, []
    for name, of_family in cases.items():
        if tasks := _tasks(FAMILIES[name], of_family, options):
            family_peers = [peer for peer in FAMILIES[name].peers if peer.name in chosen]
            parts.append(Part(name, family_peers, len(tasks), partial(one_by_one, [tasks], family_peers, budget)))
    _check_any(parts, options)

    def show(results: Results, machine: Machine, figures: Mapping) -> Iterator[RenderableType]:
        for part in parts:
            yield results_table(results[part.family], part.peers, machine)
        if len(cases) > 1:
            yield headline_table(figures)
        yield from draw(figures)

    with settings(options.threads, options.capability):
        execute(Run(command, options.quick, parts, options.json_file), show)


def _sweep(options: _Options, png: Path) -> None:
    """Measures the layers network by network, prints the worst and a summary, and draws all."""
    _check_directory(options.json_file, "--json")
    _check_directory(png, "--png")
    family = FAMILIES["conv"]
    groups = [tasks for cases in SWEEP_CASES if (tasks := _tasks(family, cases, options))]
    _check_any(groups, options)
    peers = available(family.peers, options.peers)
    budget = QUICK_SWEEP if options.quick else FULL_SWEEP
    no_picture = missing_packages("The picture", "matplotlib")
    if no_picture:
        print(no_picture, file=sys.stderr)
    kinds = {case.name: kind(case) for cases in SWEEP_CASES for case in cases}

    def show(results: Results, machine: Machine, figures: Mapping) -> Iterator[RenderableType]:
        ranked = worst_first(results["conv"])
        yield results_table(ranked[:WORST_ROWS], peers, machine)
        if not ranked:
            return
        yield summary_table(ranked, kinds)
        if not no_picture:
            from fastvision.bench.sweep_picture import draw_sweep

            draw_sweep(png, ranked, kinds, machine)
            yield f"Picture: {png}"

    part = Part("conv", peers, sum(map(len, groups)), partial(sweep, groups, peers, budget))
    with settings(options.threads, options.capability):
        execute(Run("conv", options.quick, [part], options.json_file), show)


def _check_directory(file: Path | None, option: str) -> None:
    """Before minutes of measuring would be lost."""
    if file and not file.parent.is_dir():
        raise typer.BadParameter(f"no directory {file.parent}", param_hint=option)


def _check_any(chosen: Sequence[object], options: _Options) -> None:
    if not chosen:
        message = f"no case of mode '{options.mode}' has '{options.case}' in its name"
        raise typer.BadParameter(message, param_hint="--case")


def _tasks(family: Family, cases: Iterable[Case], options: _Options) -> TaskMakers:
    """The tasks of the cases that options choose."""
    named = [case for case in cases if options.case in case.name]
    return family.tasks(named, options.mode.each, dtype=getattr(torch, options.dtype), threads=options.threads)
