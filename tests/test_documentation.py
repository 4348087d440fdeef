"""The code blocks of README.md and docs/*.md: Python is executed, commands exist with the options that they are given.

Blocks of one file share a namespace, in their order, as if a reader typed them. GIVEN is what they take for granted.
"""

import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import torch._inductor
from torch import nn

pytest.importorskip("typer", reason='typer (the extra "cli") is not installed')
pytest.importorskip("matplotlib", reason='matplotlib (the extra "vision") is not installed')
import typer

import fastvision
from fastvision.bench import app as bench
from fastvision.cli.app import app as cli
from fastvision.data import ImageDataset
from fastvision.training import comparison, measure

ROOT = Path(__file__).parent.parent
FILES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TESTED_ELSEWHERE = {"adding-a-family.md": ("cpp", "py", "text")}  # by test_adding_a_family.py
OUTPUT = re.compile(r"\A>>> |━|^-{5}", re.MULTILINE)  # what was printed, not what to type


def blocks(file: Path, language: str) -> list[str]:
    """Of a file, in order."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", file.read_text(), re.MULTILINE | re.DOTALL)
    known = {"", "python", *TESTED_ELSEWHERE.get(file.name, ())}
    assert {name for name, _ in found} <= known, f"{file.name}: a language that no test runs"
    return [text for name, text in found if name == language]


def commands() -> Iterator[list[str]]:
    """The words of every line of every block that names no language and is not output."""
    for file in FILES:
        for block in blocks(file, ""):
            if not OUTPUT.search(block):
                yield from filter(None, (shlex.split(line, comments=True) for line in block.splitlines()))


@pytest.fixture
def few_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training on images that takes a second: a few images of random pixels, and short measurements."""
    images, labels = torch.randint(256, (24, 1, 8, 8), dtype=torch.uint8), torch.arange(24) % 2
    dataset = ImageDataset("random", images, labels, ["a", "b"])
    monkeypatch.setattr(fastvision.data, "load", lambda: (dataset, dataset))
    monkeypatch.setattr(measure, "ROUNDS", 1)
    monkeypatch.setattr(measure, "SECONDS_PER_ROUND", 0.001)
    monkeypatch.setattr(comparison, "peak_training_memory", lambda run: None)


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exports that save the program as it is recorded. To compile it takes half a minute (test_export.py)."""

    def save(program: torch.export.ExportedProgram, package_path: str, inductor_configs: dict) -> None:
        torch.export.save(program, package_path)

    monkeypatch.setattr(torch._inductor, "aoti_compile_and_package", save)
    monkeypatch.setattr(torch._inductor, "aoti_load_package", lambda path: torch.export.load(path).module())


@pytest.mark.usefixtures("few_images", "no_compiler")
@pytest.mark.parametrize("file", [file for file in FILES if blocks(file, "python")], ids=lambda file: file.name)
def test_python_runs(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    layers = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.MaxPool2d(2))
    given = {"torch": torch, "model": nn.ModuleDict({"layers": layers, "lstm": nn.LSTM(8, 8)}).eval()}
    namespace = given | {"mu": torch.zeros(2, 3), "logvar": torch.zeros(2, 3)}
    for number, block in enumerate(blocks(file, "python"), start=1):
        exec(compile(block, f"{file.name}, Python block {number}", "exec"), namespace)


def check_fastvision(*words: str) -> None:
    suite = words[0] == "bench"
    command = typer.main.get_command(bench if suite else cli)
    words = words[1:] if suite else words
    if not words[0].startswith("-"):
        command, words = command.commands[words[0]], words[1:]
    options = {name for parameter in command.params for name in parameter.opts} | {"--help"}
    assert {word.partition("=")[0] for word in words if word.startswith("-")} <= options


def check_pytest(*words: str) -> None:
    command = [sys.executable, "-m", "pytest", "--help", "--noconftest", "-c", os.devnull]
    known = subprocess.run(command, capture_output=True, text=True).stdout
    for word in words:
        assert word in known if word.startswith("-") else (ROOT / word).exists()


def check_make(target: str) -> None:
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


def check_pip(action: str, *words: str) -> None:
    assert action == "install"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for word in words:
        package, _, extra = word.partition("[")
        assert package in (".", "fastvision", "--no-build-isolation")
        assert not extra or extra.removesuffix("]") in project["optional-dependencies"]


CHECKS: dict[str, Callable[..., None]] = {
    "fastvision": check_fastvision,
    "pytest": check_pytest,
    "make": check_make,
    "pip": check_pip,
}


@pytest.mark.parametrize("words", list(commands()), ids=" ".join)
def test_command_exists(words: list[str]):
    CHECKS[words[0]](*words[1:])
