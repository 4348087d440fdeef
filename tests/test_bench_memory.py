"""What the benchmark suite says of a call's memory."""

from functools import partial

import pytest
import torch

pytest.importorskip("rich", reason="the benchmark suite needs rich: pip install 'fastvision[bench]'")

from fastvision import _resident
from fastvision.bench.conv_cases import ConvCase
from fastvision.bench.conv_task import ConvTask
from fastvision.bench.limits import Read
from fastvision.bench.measuring import measure
from fastvision.bench.memory import Memory, measure_memory
from fastvision.bench.model_cases import ModelCase
from fastvision.bench.model_task import ModelTask
from fastvision.bench.module_peers import MODULE_PEERS
from fastvision.bench.peers import choose
from fastvision.bench.processes import apart
from fastvision.bench.timing import Budget

PAGES = 4096  # of a buffer that the C library asks the system for in every call, 16 MB


def touch_pages() -> None:
    buffer = torch.empty(PAGES * 4096, dtype=torch.uint8)
    buffer[::4096] = 1


def memory_among_calls() -> Memory:
    """Earlier calls, after which the C library keeps what they freed."""
    for _ in range(3):
        touch_pages()
    return measure_memory(touch_pages)


@pytest.mark.skipif(_resident.reset_peak() is None, reason="resident memory's peak is read from Linux's /proc")
def test_memory_of_a_call_is_counted_in_pages_and_bytes():
    touched = apart(memory_among_calls)
    assert PAGES * 4096 * 0.9 < touched.peak_bytes < PAGES * 4096 * 1.2
    fresh = apart(partial(measure_memory, touch_pages))
    assert fresh.page_faults >= PAGES / 512  # where pages are huge, one stands for 512
    # It finds pages at hand, unless the C library's heap has no room to grow where the system has put it.
    assert touched.page_faults <= fresh.page_faults * 1.1
    idle = apart(partial(measure_memory, int))
    assert idle.peak_bytes < PAGES * 4096 / 10
    assert idle.page_faults < fresh.page_faults


def test_what_is_timed_has_its_memory_measured():
    make_task = partial(ConvTask.random, ConvCase(4, 4, 64, 64), "infer")
    budget = Budget(seconds=0.0, block_seconds=0.0, min_rounds=1, max_rounds=1)
    [result] = measure({"task": make_task}, choose(MODULE_PEERS, "onnxruntime"), budget, lambda step: None)
    for peer in result.peers.values():
        assert (peer.memory is None) == (peer.timing is None)
    # stock's convolution has four times as many elements as the pooled result, and ReLU's result as many again
    assert result.peers["stock"].memory.peak_bytes > result.peers["fastvision"].memory.peak_bytes


# What a call has to read and write: the limits of conv and models


def test_convolution_moves_image_weight_and_output():
    case = ConvCase(2, 4, 8, 12)  # to 10x10, pooled to 5x5
    image, weight, output = 2 * 4 * 144 * 4, 8 * 4 * 9 * 4, 2 * 8 * 25 * 4
    once = image + weight + output
    assert ConvTask.random(case, "infer").reads == (Read(once, 1, once),)
    assert ConvTask.random(case, "train").reads == (Read(2 * once, 1, 2 * once), Read(image + weight, 1, 2 * once))


def test_gradient_of_an_image_is_not_moved():
    case = ConvCase(1, 3, 8, 12)
    image, weight, output = 3 * 144 * 2, 8 * 3 * 9 * 2, 8 * 25 * 2
    once = image + 2 * weight + 2 * output
    assert ConvTask.random(case, "train", dtype=torch.bfloat16).reads == (Read(once, 1, once), Read(image, 1, once))


def test_network_moves_its_parameters():
    case = ModelCase("dense", lambda: torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 5)), 2, 3, 4, 5)
    images, parameters = 2 * 48 * 4, (48 * 5 + 5) * 4
    assert ModelTask.random(case, "infer").reads == (Read(images + parameters, 1, images + parameters),)
    once = images + 2 * parameters
    assert ModelTask.random(case, "train").reads == (Read(once, 1, once), Read(parameters, 1, once))
