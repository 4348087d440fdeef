"""`fastvision bench serving`: latencies of single requests, alone and from several threads."""

import numpy as np
import pytest
import torch

pytest.importorskip("typer", reason="the benchmark command needs typer: pip install 'fastvision[bench]'")
pytest.importorskip("rich", reason="the benchmark command needs rich: pip install 'fastvision[bench]'")
from typer.testing import CliRunner

from fastvision.bench import app
from fastvision.bench.serving import SERVING_PEERS, Latency, small_cnn

CHOSEN = [peer for peer in SERVING_PEERS if peer.name in ("fastvision", "stock")]


def test_the_network():
    assert small_cnn()(torch.zeros(1, 1, 28, 28)).shape == (1, 10)
    assert sum(parameter.numel() for parameter in small_cnn().parameters()) == 320 + 18_496 + 204_928 + 1290


def test_percentiles():
    latency = Latency("stock", 1, np.arange(1001) / 1000, 1.0)
    assert latency.percentiles() == pytest.approx([0.5, 0.99, 0.999])


def test_the_command_measures_every_peer_alone_and_together():
    options = ["serving", "--calls", "40", "--clients", "2", "--peers", ""]
    result = CliRunner().invoke(app, options, env={"COLUMNS": "150"}, catch_exceptions=False)
    rows = [line.split("│")[1:-1] for line in result.output.splitlines() if line.startswith("│")]
    cells = [[cell.strip() for cell in row] for row in rows]
    assert [row[:2] for row in cells] == [[n, peer.title] for n in ("1", "2") for peer in CHOSEN]
    for row in cells:
        p50, p99, p999 = map(float, row[2:5])
        assert 0 < p50 <= p99 <= p999
