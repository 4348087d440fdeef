"""fastvision.backends: which kernels run, and the switches."""

import os
import subprocess
import sys

import pytest
import torch

from fastvision import backends
from fastvision.ops import conv2d_pool2d, conv2d_pool2d_reference

AVAILABLE = backends.cpu.available_capabilities()
# Rounding tells whether a kernel ran: sums of this length come out otherwise than stock's.
TENSORS = torch.randn(1, 64, 12, 12), torch.randn(32, 64, 3, 3), torch.randn(32)


def in_new_process(code, **environment):
    return subprocess.run(
        [sys.executable, "-c", f"import fastvision\n{code}"],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=100,
    )


def test_default_capability_is_the_widest():
    code = "print(fastvision.backends.cpu.capability)"
    assert in_new_process(code, FASTVISION_CPU_CAPABILITY="").stdout.strip() == AVAILABLE[0]
    assert [name for name in ("avx512", "avx2", "default", "emulated") if name in AVAILABLE] == AVAILABLE
    assert "default" in AVAILABLE


def test_capability_switches(capability):
    assert backends.cpu.capability == capability
    assert torch.allclose(conv2d_pool2d(*TENSORS), conv2d_pool2d_reference(*TENSORS), atol=1e-4)


def test_unknown_capability_is_refused_and_changes_nothing():
    before = backends.cpu.capability
    with pytest.raises(ValueError, match=rf"CPU capability: expected one of {', '.join(AVAILABLE)}, got 'sse9'"):
        backends.cpu.capability = "sse9"
    assert backends.cpu.capability == before


def test_environment_chooses_the_capability():
    result = in_new_process("print(fastvision.backends.cpu.capability)", FASTVISION_CPU_CAPABILITY="default")
    assert result.stdout.strip() == "default"


def test_environment_with_an_unknown_capability():
    result = in_new_process("print(fastvision.backends.cpu.capability)", FASTVISION_CPU_CAPABILITY="sse9")
    assert result.returncode == 1
    assert f"CPU capability: expected one of {', '.join(AVAILABLE)}, got 'sse9'" in result.stderr


def runs_the_kernel():
    return not torch.equal(conv2d_pool2d(*TENSORS), conv2d_pool2d_reference(*TENSORS))


def fail_with_kernels_disabled():
    with backends.enabled(False):
        raise KeyError


def test_enabled_switches_and_restores():
    assert runs_the_kernel()
    with backends.enabled(False):
        assert not runs_the_kernel()
        with backends.enabled(True):
            assert runs_the_kernel()
        assert not runs_the_kernel()
    assert runs_the_kernel()
    with pytest.raises(KeyError):
        fail_with_kernels_disabled()
    assert runs_the_kernel()


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about machines without a GPU")
def test_without_a_gpu_there_are_no_cuda_kernels():
    assert not backends.cuda.is_available()
