"""Latency of single requests: a small network's calls at batch 1, by one client and by several threads at once."""

import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from time import perf_counter

import numpy as np
import torch
from rich.table import Table
from torch import nn

from fastvision.bench.model_cases import ModelCase
from fastvision.bench.model_task import ModelTask
from fastvision.bench.module_peers import MODULE_PEERS
from fastvision.bench.peers import Peer
from fastvision.bench.processes import Worker

PERCENTILES = (50.0, 99.0, 99.9)
SERVING_PEERS = tuple(
    peer for peer in MODULE_PEERS if peer.name in ("fastvision", "stock", "torch.compile", "onnxruntime")
)
_TURNS = 10  # of every peer, so that a busy moment of the machine is nobody's alone


def small_cnn() -> nn.Sequential:
    """Two blocks of 3x3 convolution, ReLU and 2x2 max-pool, and two dense layers, for grey 28x28 images."""
    features = (nn.Conv2d(1, 32, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2))
    return nn.Sequential(*features, nn.Flatten(), nn.Linear(1600, 128), nn.ReLU(), nn.Dropout(), nn.Linear(128, 10))


SMALL_CNN = ModelCase("small CNN", small_cnn, 1, 1, 28)


@dataclass(frozen=True)
class Latency:
    """Of one peer under one load.

    Attributes:
        peer: its title.
        clients: threads that called at the same time.
        seconds: of each call.
        duration: seconds from the first call to the end of the last.
    """

    peer: str
    clients: int
    seconds: np.ndarray
    duration: float

    def percentiles(self) -> list[float]:
        """Seconds, of PERCENTILES."""
        return [float(value) for value in np.percentile(self.seconds, PERCENTILES)]


def measure_serving(
    peers: Sequence[Peer], calls: int, loads: Sequence[int], tell: Callable[[str], None] = lambda text: None
) -> list[Latency]:
    """Latencies of so many calls of each peer, by each number of clients; every peer has a process of its own."""
    found = []
    with ExitStack() as stack:
        workers = {peer: stack.enter_context(Worker(partial(_Server, peer))) for peer in peers}
        for clients in loads:
            turns: dict[Peer, list[tuple[np.ndarray, float]]] = {peer: [] for peer in peers}
            for _ in range(_TURNS):
                for peer, worker in workers.items():
                    tell(f"{peer.title}, {clients} at once")
                    turns[peer].append(worker(max(1, calls // _TURNS // clients), clients))
            for peer, measured in turns.items():
                seconds, durations = zip(*measured, strict=True)
                found.append(Latency(peer.title, clients, np.concatenate(seconds), sum(durations)))
    return found


def steps(peers: Sequence[Peer], loads: Sequence[int]) -> int:
    """How often `measure_serving` tells what comes next."""
    return _TURNS * len(peers) * len(loads)


def serving_table(latencies: Sequence[Latency]) -> Table:
    """One row per peer and load."""
    table = Table(title="Small CNN 28x28 at batch 1, one request after another in each client, one thread each; µs")
    for heading in ("clients", "peer", *(f"p{percentile:g}" for percentile in PERCENTILES), "requests / s"):
        table.add_column(heading, justify="left" if heading == "peer" else "right")
    for latency in latencies:
        rate = len(latency.seconds) / latency.duration
        values = [f"{1e6 * seconds:.1f}" for seconds in latency.percentiles()]
        table.add_row(str(latency.clients), latency.peer, *values, f"{rate:,.0f}")
    return table


class _Server:
    """The network as a peer runs it."""

    def __init__(self, peer: Peer) -> None:
        self._call = peer.prepare(ModelTask.random(SMALL_CNN, "infer"))
        self(100, 1)

    def __call__(self, calls: int, clients: int) -> tuple[np.ndarray, float]:
        """Seconds of so many calls by each of the clients, and of all together."""
        seconds = np.empty((clients, calls))
        threads = [threading.Thread(target=self._serve, args=(of_client,)) for of_client in seconds]
        start = perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return seconds.ravel(), perf_counter() - start

    def _serve(self, seconds: np.ndarray) -> None:
        torch.set_num_threads(1)
        with torch.inference_mode():
            for index in range(len(seconds)):
                start = perf_counter()
                self._call()
                seconds[index] = perf_counter() - start
