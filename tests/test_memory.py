"""The memory that freed results leave for the next ones."""

import os
import subprocess
import sys
import textwrap
import threading

import pytest
import torch

import fastvision
from fastvision import backends
from fastvision.ops import conv2d_pool2d, reparameterize

cpu = backends.cpu
MIB = 1 << 20


@pytest.fixture(autouse=True)
def empty_cache():
    limit, threads = cpu.max_cached_bytes, torch.get_num_threads()
    cpu.empty_cache()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    cpu.max_cached_bytes = limit
    cpu.empty_cache()


def result(mebibytes: float) -> torch.Tensor:
    """A result of this size, whose operator takes no other memory of the kind."""
    mu = torch.zeros(int(mebibytes * MIB) // 4)
    return reparameterize(mu, mu)


def test_a_freed_result_is_kept_for_the_next():
    first = result(1)
    address = first.data_ptr()
    assert cpu.cached_bytes == 0
    del first
    assert cpu.cached_bytes == MIB
    smaller = result(0.85)  # a block may be a quarter larger than what is asked for
    assert smaller.data_ptr() == address
    assert cpu.cached_bytes == 0
    other = result(1)
    assert other.data_ptr() != address


@pytest.mark.parametrize("mebibytes", [0.75, 1.125])
def test_a_block_serves_its_own_size(mebibytes):
    result(1)
    result(mebibytes)
    assert cpu.cached_bytes == (1 + mebibytes) * MIB


def test_small_results_are_the_c_librarys():
    result(0.1)
    assert cpu.cached_bytes == 0


@pytest.mark.parametrize("mebibytes", [1, 9])
def test_results_are_aligned(mebibytes):
    assert result(mebibytes).data_ptr() % 64 == 0


def test_empty_cache():
    result(1)
    cpu.empty_cache()
    assert cpu.cached_bytes == 0


def test_the_limit_holds_and_the_oldest_goes_first():
    cpu.max_cached_bytes = 5 * MIB
    blocks = [result(size) for size in (1, 2, 3)]
    while blocks:
        del blocks[0]
    assert cpu.cached_bytes == 5 * MIB
    cpu.max_cached_bytes = 4 * MIB
    assert cpu.cached_bytes == 3 * MIB
    cpu.max_cached_bytes = 0
    result(1)
    assert cpu.cached_bytes == 0


def test_a_negative_limit_is_refused():
    with pytest.raises(ValueError, match="max_cached_bytes: expected 0 or more, got -1"):
        cpu.max_cached_bytes = -1


def test_what_nobody_asks_for_is_given_back():
    result(4)
    images, weight = torch.randn(1, 8, 32, 64), torch.randn(16, 8, 3, 3)
    for _ in range(1100):
        conv2d_pool2d(images, weight, padding=1, pool="none")
    assert 0 < cpu.cached_bytes < MIB


def test_a_result_can_grow_and_outlive_the_cache():
    images, weight = torch.randn(1, 16, 64, 64), torch.randn(32, 16, 3, 3)
    expected = conv2d_pool2d(images, weight, padding=1, activation="none", pool="none")
    grown = conv2d_pool2d(images, weight, padding=1, activation="none", pool="none")
    cpu.empty_cache()
    assert torch.equal(grown, expected)
    grown.resize_(2, 32, 64, 64)
    assert torch.equal(grown[0], expected[0])


def test_a_result_shared_with_another_process():
    assert torch.equal(result(1).fill_(2).share_memory_(), torch.full((MIB // 4,), 2.0))


def test_the_second_call_finds_its_pages():
    program = """
        import resource, torch, fastvision
        images, weight = torch.randn(1, 16, 128, 128), torch.randn(32, 16, 3, 3)
        def faults():
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            fastvision.ops.conv2d_pool2d(images, weight, padding=1, activation="none", pool="none")
            return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
        kept = min(faults() for _ in range(3))
        fastvision.backends.cpu.max_cached_bytes = 0
        print(kept, min(faults() for _ in range(3)))
    """
    # The C library maps every block of this size anew.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}
    output = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], env=environment, capture_output=True, text=True, check=True
    ).stdout
    kept, without = map(int, output.split())
    pages = 32 * 128 * 128 * 4 // 4096
    assert without - kept > 0.9 * pages


def test_gradients_of_a_big_layer_are_kept():
    layer = fastvision.nn.Linear(512, 600, bias=False)
    images = torch.randn(12, 512, requires_grad=True)
    layer(images).sum().backward()
    expected = torch.autograd.grad(torch.nn.functional.linear(images, layer.weight).sum(), (layer.weight, images))
    torch.testing.assert_close((layer.weight.grad, images.grad), expected)
    size = layer.weight.nbytes
    cpu.empty_cache()
    layer.weight.grad = None
    assert cpu.cached_bytes == size


def test_threads_share_the_cache():
    wrong = []

    def work(value):
        for _ in range(200):
            block = result(0.5).fill_(value)
            if not torch.equal(block, torch.full_like(block, value)):
                wrong.append(value)

    threads = [threading.Thread(target=work, args=(float(i),)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert 0 < cpu.cached_bytes <= 4 * MIB  # each thread's next one is made before its last is freed


def test_the_profiler_sees_the_memory():
    mu = torch.zeros(MIB // 2)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        kept = reparameterize(mu, mu)
    assert any(event.self_cpu_memory_usage >= kept.nbytes for event in profile.events())
