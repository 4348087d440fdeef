"""Checkpoints: files that are whole or not there, whenever the program or the machine stops."""

import io
import os
import pickle
from pathlib import Path
from typing import Any

import torch

FORMAT = 1


class CheckpointError(ValueError):
    """A checkpoint can't be written, or a file is not one that can be read."""


def save_checkpoint(path: str | Path, content: dict[str, Any]) -> None:
    """Writes `content`, tensors and plain values in dicts and lists, in place of the file at `path`, if there is one.

    Written beside it, flushed to the disk and renamed: `path` is at all times the old checkpoint or the new one.

    Raises:
        CheckpointError: Where it can't be written, for example because the disk is full. The old one stays.
    """
    path = Path(path)
    buffer = io.BytesIO()  # torch.save to a file hides the operating system's error
    torch.save({"format": FORMAT} | content, buffer)
    temporary = path.with_name(f".{path.name}.part")  # one name, so that what a killed process leaves is replaced
    try:
        with temporary.open("wb") as file:
            file.write(buffer.getbuffer())
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_directory(path.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise CheckpointError(f"{path}: can't be written: {error.strerror or error}") from error


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """What :func:`save_checkpoint` wrote, on the CPU. Runs no code that the file may contain.

    Raises:
        CheckpointError: Where the file is missing, broken, or no checkpoint of this version.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise CheckpointError(f"{path}: can't be read: {error.strerror or error}") from error
    except (RuntimeError, EOFError, pickle.UnpicklingError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path}: not a checkpoint, or a broken one") from error
    found = content.get("format") if isinstance(content, dict) else None
    if found != FORMAT:
        raise CheckpointError(f"{path}: expected a checkpoint of format {FORMAT}, got {found}")
    return content


def _sync_directory(directory: Path) -> None:
    """Makes a rename last through a power failure."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
