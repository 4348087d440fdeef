"""docs/adding-a-family.md, followed to the letter in a copy of the sources."""

import os
import re
import shutil
import subprocess
import sys

import pytest
from native_programs import ROOT
from test_build import needs_compiler

PAGE = (ROOT / "docs" / "adding-a-family.md").read_text()
STEP = re.compile(
    r"^(?:New file `(?P<new>[^`]+)`|"
    r"In `(?P<old>[^`]+)`, (?P<where>before|after|instead of) the line `(?P<line>[^\n]+)`):\n\n"
    r"```(?:cpp|py|text)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
RAISE_VERSION = "Raise `kInterfaceVersion` in `csrc/core/kernel_library.h` by one"


def follow(folder):
    """Does every step of the page."""
    steps = list(STEP.finditer(PAGE))
    assert len(steps) == len(re.findall(r"^```(?:cpp|py|text)$", PAGE, re.MULTILINE)), "a block that no step names"
    for step in steps:
        text = step["text"]
        if step["new"]:
            file = folder / step["new"]
            assert not file.exists()
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
            continue
        file = folder / step["old"]
        lines = file.read_text().splitlines(keepends=True)
        (place,) = (number for number, line in enumerate(lines) if line.strip() == step["line"])
        lines[place] = {"before": text + lines[place], "after": lines[place] + text, "instead of": text}[step["where"]]
        file.write_text("".join(lines))
    assert RAISE_VERSION in PAGE
    header = folder / "csrc" / "core" / "kernel_library.h"
    version = re.compile(r"kInterfaceVersion = (\d+)")
    header.write_text(version.sub(lambda found: f"kInterfaceVersion = {int(found[1]) + 1}", header.read_text()))


def copy_sources(folder):
    """The checkout with what has been compiled of it; compiled headers, which are large, by reference."""
    for name in ("csrc", "fastvision"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "_cuda.so"))
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy2(ROOT / name, folder)
    (folder / "tests").mkdir()
    shutil.copy2(ROOT / "tests" / "conftest.py", folder / "tests")
    for directory in (ROOT / "build" / "native").iterdir():
        if directory.is_file() and directory.suffix in (".so", ".command"):
            (folder / "build" / "native").mkdir(parents=True, exist_ok=True)
            shutil.copy2(directory, folder / "build" / "native")
        for file in directory.iterdir() if directory.is_dir() else ():
            copy = folder / "build" / "native" / directory.name / file.name
            copy.parent.mkdir(parents=True, exist_ok=True)
            if file.suffix == ".gch":
                copy.symlink_to(file)
            else:
                shutil.copy2(file, copy)


@pytest.mark.slow
@needs_compiler
@pytest.mark.skipif(
    not (ROOT / "build" / "native" / "libfastvision.so").exists(), reason="nothing is compiled in this checkout"
)
def test_a_family_is_added(tmp_path):
    copy_sources(tmp_path)
    header = tmp_path / "csrc" / "core" / "kernel_library.h"
    before = header.stat()
    follow(tmp_path)
    # The new member is the last one, so what other families are compiled to stays right; all but the file that reads
    # the version. Compiling them again would take minutes.
    os.utime(header, ns=(before.st_atime_ns, before.st_mtime_ns))
    (tmp_path / "csrc" / "core" / "libraries.cpp").touch()
    environment = os.environ | {"PYTHONPATH": str(tmp_path), "FASTVISION_CUDA": "0"}
    environment["FASTVISION_EMULATED"] = str(int((ROOT / "build" / "native" / "_emulated.so").exists()))
    for arguments in (
        ["setup.py", "--quiet", "build_ext", "--inplace"],
        ["-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_scale.py"],
    ):
        done = subprocess.run(
            [sys.executable, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600
        )
        assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"\b\d+ passed\b", done.stdout)
    assert "skipped" not in done.stdout
