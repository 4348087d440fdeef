"""Resident memory of this process, as Linux's /proc tells it."""

import re
from pathlib import Path


def reset_peak() -> int | None:
    """Bytes resident now, which become the peak as well; None where /proc is missing or closed."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
        return _status("VmRSS")
    except OSError:
        return None


def peak() -> int:
    """The most bytes that have been resident at a time, since reset_peak if that returned any."""
    return _status("VmHWM")


def _status(field: str) -> int:
    status = Path("/proc/self/status").read_text()
    return int(re.search(rf"^{field}:\s+(\d+) kB", status, re.MULTILINE)[1]) * 1024
