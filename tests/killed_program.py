"""What test_session.py runs: training that is killed ten times and goes on, and the same in one piece.

In argv a directory, which gets the directories ``whole`` and ``killed``. Prints the exit statuses of all processes.
"""

import json
import os
import random
import signal
import sys
import traceback
from pathlib import Path
from types import FrameType

import torch

torch.set_num_threads(1)  # before the first operator: no threads that a fork would lose

import torch._dynamo  # noqa: E402  # the optimisers import it in their first step: here once for all processes
from test_training import dark_and_bright  # noqa: E402

from fastvision.training.session import LAST, Session  # noqa: E402
from fastvision.training.settings import Settings  # noqa: E402

EPOCHS = 10
KILLS = 10
MOST_CHECKPOINTS = 3  # at the end of an epoch there are one or two
MOST_EPOCHS = 1.6  # until a kill: on average less than is left of the training


def train(directory: Path, kill_at: int, writing: bool) -> int:
    """Trains in this process until the call of a function with the number `kill_at`; returns how many there were.

    With `writing` only those calls count that are about to fill the file of a checkpoint.
    """
    calls = 0

    def count(frame: FrameType, event: str, argument: object) -> None:
        nonlocal calls
        fills = frame.f_code.co_filename.endswith("checkpoint.py") and getattr(argument, "__name__", "") == "write"
        calls += (fills and event == "c_call") or not writing
        if calls == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    session = Session(
        Settings("recognition", batch_size=16, variant="small", dropout=0.5), dark_and_bright(), directory
    )
    if (directory / LAST).exists():
        session.resume()
    sys.setprofile(count)
    session.run(EPOCHS)
    sys.setprofile(None)
    return calls


def forked(directory: Path, kill_at: int = 0, writing: bool = False) -> int:
    """`train` in a process of its own; its exit status, negative where a signal ended it."""
    child = os.fork()
    if child == 0:
        try:
            calls = train(directory, kill_at, writing)
            (directory.parent / "calls").write_text(str(calls))
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main(directory: Path) -> None:
    whole, killed = directory / "whole", directory / "killed"
    for path in (whole, killed):
        path.mkdir()
    Session(Settings("recognition"), dark_and_bright(), directory)  # imports what it needs
    statuses = [forked(whole)]
    calls_per_epoch = int((directory / "calls").read_text()) / EPOCHS
    moments = random.Random(0)
    for _ in range(KILLS // 2):
        statuses.append(forked(killed, moments.randrange(1, int(MOST_EPOCHS * calls_per_epoch))))
        statuses.append(forked(killed, moments.randint(1, MOST_CHECKPOINTS), writing=True))
    statuses.append(forked(killed))
    print(json.dumps(statuses))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
