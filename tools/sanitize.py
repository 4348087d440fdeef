"""Runs the CPU kernels under sanitizers, without Python and torch: `make sanitize`.

AddressSanitizer with UndefinedBehaviorSanitizer, then ThreadSanitizer, for every instruction set of this processor,
on random problems whose results are compared with plain loops.
"""

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

import native_programs

import fastvision


def arguments() -> argparse.Namespace:
    cpu = [name for name in fastvision.backends.cpu.available_capabilities() if name != "emulated"]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sanitizer", nargs="+", default=["address", "thread"], choices=native_programs.SANITIZERS)
    parser.add_argument("--capability", nargs="+", default=cpu, choices=cpu, help="instruction sets")
    parser.add_argument("--problems", type=int, default=300, help="random problems for each (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of the random problems (default: %(default)s)")
    return parser.parse_args()


def passes(program: str, sanitizer: str, capability: str, options: argparse.Namespace) -> bool:
    executable = native_programs.build(program, sanitizer, capability)
    start = time.perf_counter()
    result = native_programs.run(executable, options.problems, options.seed)
    seconds = time.perf_counter() - start
    passed = result.returncode == 0
    verdict = "passed" if passed else "FAILED"
    print(f"{program} {sanitizer} {capability}: {verdict}, {options.problems} problems in {seconds:.0f} s", flush=True)
    if not passed:
        print(result.stdout)
    return passed


def main() -> int:
    options = arguments()
    failed = False
    for sanitizer in options.sanitizer:
        for capability in options.capability:
            for program in native_programs.PROGRAMS:
                failed |= not passes(program, sanitizer, capability, options)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
