"""Functions that run in a process of their own.

The C library's allocator adapts to what a process has freed so far: after one large block, the intermediate tensors
of stock layers cost no page faults any more, which changes their time by a factor of two. What is measured must
depend neither on the cases before nor on the peers beside it.

A fork of this process would have OpenMP's threads on record without having them, and would wait for them at its first
parallel loop. The processes are forked from a server that never ran one.
"""

import multiprocessing
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any

import torch

from fastvision import backends

_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(["fastvision.bench.measuring"])  # so that not every process imports torch


class Worker:
    """A function in a process of its own, called like one here. `make`, which must be picklable, makes it there.

    The process has this one's number of torch threads and instruction set.

    Raises:
        RuntimeError: at the call, if make or the function raised, with what it raised as a text.
    """

    def __init__(self, make: Callable[[], Callable[..., Any]]) -> None:
        self._connection, theirs = _SERVER.Pipe()
        settings = (torch.get_num_threads(), backends.cpu.capability)
        self._process = _SERVER.Process(target=_serve, args=(make, theirs, *settings), daemon=True)
        self._process.start()
        theirs.close()

    def __call__(self, *arguments: Any) -> Any:
        self._connection.send(arguments)
        try:
            failure, result = self._connection.recv()
        except EOFError:
            self._process.join()
            raise RuntimeError(f"the measuring process ended with exit code {self._process.exitcode}") from None
        if failure:
            raise RuntimeError(failure)
        return result

    def __enter__(self) -> "Worker":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._process.join()
        self._connection.close()


def apart(function: Callable[[], Any]) -> Any:
    """The result of the function, which must be picklable, called in a process of its own."""
    with Worker(partial(_same, function)) as worker:
        return worker()


def _same(function: Callable[[], Any]) -> Callable[[], Any]:
    return function


def _serve(make: Callable[[], Callable[..., Any]], connection: Connection, threads: int, capability: str) -> None:
    torch.set_num_threads(threads)
    backends.cpu.capability = capability
    function = None
    while True:
        arguments = connection.recv()
        try:
            function = function or make()
            answer = (None, function(*arguments))
        except Exception as error:
            answer = (f"{type(error).__name__}: {error}", None)
        connection.send(answer)
