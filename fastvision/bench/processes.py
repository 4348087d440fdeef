"""Functions that run in a process of their own.

The C library's allocator adapts to what a process has freed so far: after one large block, the intermediate tensors
of stock layers cost no page faults any more, which changes their time by a factor of two. What is measured must
depend neither on the cases before nor on the peers beside it.
"""

import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any

_FORK = multiprocessing.get_context("fork")  # what is called need not be picklable, only its arguments and results


class Worker:
    """A function in a forked process, called like one here. `make` makes the function, there.

    Raises:
        RuntimeError: at the call, if make or the function raised, with what it raised as a text.
    """

    def __init__(self, make: Callable[[], Callable[..., Any]]) -> None:
        self._connection, theirs = _FORK.Pipe()
        self._process = _FORK.Process(target=_serve, args=(make, theirs), daemon=True)
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
    """The result of the function, called in a process of its own."""
    with Worker(lambda: function) as worker:
        return worker()


def _serve(make: Callable[[], Callable[..., Any]], connection: Connection) -> None:
    function = None
    while True:
        arguments = connection.recv()
        try:
            function = function or make()
            answer = (None, function(*arguments))
        except Exception as error:
            answer = (f"{type(error).__name__}: {error}", None)
        connection.send(answer)
