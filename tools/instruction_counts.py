"""Counts the instructions of the CPU kernels under valgrind, and compares them with the table of earlier counts.

Unlike times, counts are the same on a busy machine: a kernel that takes more instructions than the table says, beyond
the tolerance, has become worse, or the table needs --update. Kernels of AVX2, on one thread: valgrind knows no AVX-512.
Counts depend on the compiler, so the table names its own, and another one's counts are only printed.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

import native_programs

TABLE = native_programs.ROOT / "tests" / "native" / "instruction_counts.json"
CAPABILITY = "avx2"
TOLERANCE = 0.02
_COUNTED = "fastvision_counted"  # the function of kernel_counts.cpp


def compiler() -> str:
    """Name and major version, such as 'g++ 12'."""
    command = native_programs.load_setup().compiler()
    version = subprocess.run([command, "-dumpversion"], capture_output=True, text=True, check=True).stdout
    return f"{Path(command).name} {version.partition('.')[0].strip()}"


def count() -> dict[str, int]:
    """Instructions of one call of each kernel, by name."""
    executable = native_programs.build("kernel_counts", "plain", CAPABILITY)
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "counts"
        options = [f"--callgrind-out-file={file}", f"--toggle-collect={_COUNTED}", f"--dump-after={_COUNTED}"]
        command = ["valgrind", "--tool=callgrind", *options, str(executable)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"valgrind failed:\n{done.stdout}{done.stderr}")
        names = done.stdout.split("\n")[:-1]
        return {name: _total(Path(f"{file}.{number}")) for number, name in enumerate(names, start=1)}


def load_table() -> dict:
    """The compiler and the counts that were stored; the table of no kernels where there is none."""
    return json.loads(TABLE.read_text()) if TABLE.exists() else {"compiler": compiler(), "counts": {}}


def _total(dump: Path) -> int:
    return int(re.search(r"^(?:summary|totals): (\d+)", dump.read_text(), re.MULTILINE)[1])


def worse(counts: dict[str, int], stored: dict[str, int], tolerance: float) -> list[str]:
    """Kernels that take more instructions than the table says, and those that only one of the two has."""
    grown = [name for name in counts if name in stored and counts[name] > stored[name] * (1 + tolerance)]
    return grown + sorted(counts.keys() ^ stored.keys())


def _print(counts: dict[str, int], stored: dict[str, int]) -> None:
    for name in counts | stored:
        now, before = counts.get(name), stored.get(name)
        change = f"{now / before - 1:+8.1%}" if now and before else ""
        print(f"{name:24} {before or '-':>12} {now or '-':>12} {change}")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tolerance", type=float, default=TOLERANCE, help="as a fraction (default: %(default)s)")
    parser.add_argument("--update", action="store_true", help="write the table")
    return parser.parse_args()


def main() -> int:
    options = arguments()
    counts, table = count(), load_table()
    _print(counts, table["counts"])
    if options.update:
        TABLE.write_text(json.dumps({"compiler": compiler(), "counts": counts}, indent=1) + "\n")
        return 0
    if table["compiler"] != compiler():
        print(f"Not compared: the table is of {table['compiler']}, this is {compiler()}.")
        return 0
    failed = worse(counts, table["counts"], options.tolerance)
    for name in failed:
        print(f"{name}: more instructions than the table says, or missing in one of the two")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
