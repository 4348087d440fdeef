"""The cases of `fastvision bench conv` under pytest-benchmark, which compares runs and commits.

pytest benchmarks/bench_conv.py --benchmark-group-by=group --benchmark-columns=median,iqr,rounds
"""

from collections.abc import Callable

import pytest
import torch

from fastvision.bench.conv_cases import CONV_CASES, ConvCase, Mode
from fastvision.bench.conv_task import ConvTask
from fastvision.bench.measuring import PeerResult, prepare
from fastvision.bench.module_peers import MODULE_PEERS
from fastvision.bench.peers import Peer, choose

PEERS = choose(MODULE_PEERS, None)
CASES = [(case, mode) for case in CONV_CASES for mode in case.modes]

Prepared = tuple[ConvTask, dict[str, Callable[[], object]], dict[str, PeerResult]]


@pytest.fixture(scope="module", params=CASES, ids=lambda param: f"{param[0].name} {param[1]}")
def prepared(request: pytest.FixtureRequest, threads: int) -> Prepared:
    """A task with the calls of all peers, whose results have been checked."""
    case: ConvCase
    mode: Mode
    case, mode = request.param
    task = ConvTask.random(case, mode, threads=threads)
    return task, *prepare(task, [peer for peer in PEERS if not peer.missing()])


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)
def test_conv(benchmark, prepared: Prepared, peer: Peer):
    task, calls, results = prepared
    if reason := peer.missing() or results[peer.name].skipped:
        pytest.skip(f"{peer.title}: {reason}")
    assert results[peer.name].accuracy.failure is None
    benchmark.group = f"{task.name} {task.mode}"
    benchmark.extra_info |= {"flops": task.flops, "threads": task.threads}
    with torch.inference_mode(task.mode == "infer"):
        benchmark(calls[peer.name])
