"""Options that several commands have, and how commands fail."""

import re
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import torch
import typer

Device = Annotated[str, typer.Option(help="Where to run: cpu or cuda.")]
Threads = Annotated[int | None, typer.Option(min=1, help="Threads of torch.", show_default="torch's choice")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Stock = Annotated[bool, typer.Option("--stock", help="Run stock PyTorch's layers instead of fastvision's, to compare.")]
Data = Annotated[
    Path | None,
    typer.Option(
        help="Folder with a folder of image files for each class, of IDX files (MNIST's layout), or of .ts files "
        "(sequences); or an .npz file.",
        show_default="real images at hand",
    ),
]
Checkpoint = Annotated[Path, typer.Option(help="Directory that 'fastvision train' wrote, or a checkpoint in it.")]


def check_device(device: str) -> None:
    """Raises BadParameter where torch can't use it here."""
    try:
        kind = torch.empty(0, device=device).device.type
    except (RuntimeError, AssertionError) as error:  # AssertionError: a torch built without CUDA
        reason = str(error).splitlines()[0]
        raise typer.BadParameter(f"'{device}' can't be used here: {reason}", param_hint="--device") from error
    if kind not in ("cpu", "cuda"):
        raise typer.BadParameter(f"expected cpu or cuda, got '{device}'", param_hint="--device")


def prepare(device: str, threads: int | None) -> None:
    """Checks the device and sets torch's threads."""
    check_device(device)
    if threads is not None:
        torch.set_num_threads(threads)


def parse_size(text: str) -> tuple[int, int]:
    """Height and width in pixels, of ``64`` or ``48x64``. Raises BadParameter where it is neither."""
    match = re.fullmatch(r"([1-9]\d*)(?:x([1-9]\d*))?", text)
    if match is None:
        raise typer.BadParameter(f"expected a size such as 64 or 48x64, got '{text}'", param_hint="--image-size")
    height, width = match.groups()
    return int(height), int(width or height)


def warn(error: Exception) -> None:
    """Says what was left out."""
    print(f"fastvision: {error}; left out", file=sys.stderr)


def fail(message: str) -> NoReturn:
    """Says why, and exits with 1."""
    print(f"fastvision: {message}", file=sys.stderr)
    raise typer.Exit(1)


def fail_without_extra(command: str, extra: str, error: ModuleNotFoundError) -> NoReturn:
    """Says what to install; an error in fastvision's own modules is passed on."""
    package = (error.name or "").partition(".")[0]
    if package == "fastvision":
        raise error
    fail(f"'fastvision {command}' needs {package}: pip install 'fastvision[{extra}]'")
