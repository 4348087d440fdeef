"""The cases of a family under pytest-benchmark, which compares runs and commits."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from fastvision.bench.families import FAMILIES
from fastvision.bench.measuring import PeerResult, prepare
from fastvision.bench.peers import Peer, Task, choose

Prepared = tuple[Task, dict[str, Callable[[], object]], dict[str, PeerResult]]


def prepared_tasks(name: str) -> Any:
    """A fixture: the family's tasks one by one, each with the calls of all peers, whose results have been checked."""
    family = FAMILIES[name]
    peers = [peer for peer in choose(family.peers, None) if not peer.missing()]
    cases = [(case, mode) for case in family.cases for mode in case.modes]

    @pytest.fixture(scope="module", params=cases, ids=lambda param: f"{param[0].name} {param[1]}")
    def prepared(request: pytest.FixtureRequest, threads: int) -> Prepared:
        task = family.make(*request.param, threads=threads)
        return task, *prepare(task, peers)

    return prepared


def each_peer(name: str) -> pytest.MarkDecorator:
    """The family's default peers as the parameter `peer`."""
    return pytest.mark.parametrize("peer", choose(FAMILIES[name].peers, None), ids=lambda peer: peer.name)


def run(benchmark: Any, prepared: Prepared, peer: Peer) -> None:
    """One peer's call of one task."""
    task, calls, results = prepared
    if reason := peer.missing() or results[peer.name].skipped:
        pytest.skip(f"{peer.title}: {reason}")
    assert results[peer.name].accuracy.failure is None
    benchmark.group = f"{task.name} {task.mode}"
    benchmark.extra_info |= {"flops": task.flops, "threads": task.threads}
    with torch.inference_mode(task.mode == "infer"):
        benchmark(calls[peer.name])
