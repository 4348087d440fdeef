"""What runs, as torch's profiler sees it."""

from collections.abc import Callable

import torch


def operators_of(call: Callable[[], object]) -> set[str]:
    """The names of stock's and fastvision's operators that a call runs."""
    with torch.profiler.profile() as profile:
        call()
    return {event.name for event in profile.events() if event.name.startswith(("aten::", "fastvision::"))}
